//! Lock files: of UNIX sockets, and for [`FilesystemLock`](crate::task::FilesystemLock).
//!
//! The lock is that of flock(2), which ends with the process, however it ends. Whoever unlocks
//! removes the file, so a file without a lock was left by a process that died.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Other processes that lock the same file at the same time, and win, before we give up.
const TRIES: usize = 100;

/// A held lock file. Dropping it removes the file and unlocks it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
    /// The file was there before: whoever made it did not remove it.
    pub(super) was_left: bool,
}

impl Lock {
    /// Locks the file at `path`, an absolute one, and makes it if there is none. `None` when
    /// another process, or another lock of this one, holds it.
    pub(super) fn of(path: &Path) -> io::Result<Option<Lock>> {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        for _ in 0..TRIES {
            let (file, was_left) = match options.clone().create_new(true).open(path) {
                Ok(file) => (file, false),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    match options.open(path) {
                        Ok(file) => (file, true),
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
            // Its holder removes it before it unlocks it; then the lock is worth nothing.
            let ours = file.metadata()?;
            if std::fs::symlink_metadata(path).is_ok_and(|now| id(&ours) == id(&now)) {
                if !ours.is_file() || ours.len() > 0 {
                    // It would be removed with what it holds.
                    return Err(no_lock_file("it is no lock file"));
                }
                return Ok(Some(Lock { path: path.to_owned(), file, was_left }));
            }
        }
        match path.is_symlink() {
            true => Err(no_lock_file("it is a symbolic link")),
            false => Ok(None),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
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

/// Removes a file of ours.
pub(super) fn remove(path: &Path, ours: (u64, u64)) {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(file) if id(&file) == ours => std::fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::debug!(path = %path.display(), %error, "cannot remove a file of ours");
    }
}
