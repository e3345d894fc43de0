//! Lock files, for UNIX sockets and for [`FilesystemLock`](crate::task::FilesystemLock).
//!
//! The lock is a flock(2), which ends with the process, however it ends. Unlocking removes the
//! file, so a file without a lock was left behind by a dead process.
//!
//! Contract: 22d, 129a, 161.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Maximum lost races with other processes for the same file before giving up.
const TRIES: usize = 100;

/// A held lock file. Dropping it removes the file and unlocks it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
    pub(super) origin: Origin,
    /// Whether the file stays when the lock is dropped: it belongs to another process.
    is_kept: bool,
}

/// How a lock file came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This lock created it.
    Created,
    /// Left over from a creator that did not remove it.
    LeftBehind,
}

impl Lock {
    /// Locks the file at the absolute path `path`, creating it if necessary. `None` if another
    /// process, or another lock of this one, holds it.
    pub(super) fn acquire(path: &Path) -> io::Result<Option<Lock>> {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        for _ in 0..TRIES {
            let (file, origin) = match options.clone().create_new(true).open(path) {
                Ok(file) => (file, Origin::Created),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    match options.open(path) {
                        Ok(file) => (file, Origin::LeftBehind),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The holder removes the file before unlocking it; a lock on a removed file is
            // worthless.
            let ours = file.metadata()?;
            if std::fs::symlink_metadata(path).is_ok_and(|now| id(&ours) == id(&now)) {
                if !ours.is_file() || ours.len() > 0 {
                    // Unlocking would remove the file along with its contents.
                    return Err(no_lock_file("it is not a lock file"));
                }
                return Ok(Some(Lock { path: path.to_owned(), file, origin, is_kept: false }));
            }
        }
        match path.is_symlink() {
            true => Err(no_lock_file("it is a symbolic link")),
            false => Ok(None),
        }
    }

    /// The lock that another process holds through this file, at the absolute path `path`. The file
    /// stays when it is dropped.
    pub(super) fn shared(path: &Path, file: File) -> Lock {
        Lock { path: path.to_owned(), file, origin: Origin::LeftBehind, is_kept: true }
    }

    /// A duplicate of the file, which holds the lock too.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Sets whether the file stays when the lock is dropped.
    pub(super) fn keep(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        match self.file.metadata() {
            Ok(file) => remove(&self.path, id(&file)),
            Err(error) => tracing::debug!(%error, "a lock file was closed elsewhere"),
        }
    }
}

fn no_lock_file(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, why)
}

/// The device and inode of a file.
pub(super) fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Removes the file at `path` if it is still ours.
pub(super) fn remove(path: &Path, ours: (u64, u64)) {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(file) if id(&file) == ours => std::fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::debug!(path = %path.display(), %error, "cannot remove a lock file or a socket file");
    }
}
