//! The pid file: a lock that names its owner. A stale or an empty file doesn't prevent a start.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::exit::{Exit, plain};

/// A locked pid file, which is emptied when the program ends. The lock ends with the process.
pub(crate) struct PidFile {
    file: Arc<File>,
    path: PathBuf,
    /// Whether our number is in it.
    is_ours: bool,
}

impl PidFile {
    /// Locks the file and writes our number into it. Fails if a process that lives has locked it.
    pub(crate) fn lock(path: &Path) -> Result<PidFile, Exit> {
        let cannot = |error: std::io::Error| cannot_write(path, &error);
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(running(path, &mut file)),
            Err(std::fs::TryLockError::Error(error)) => return Err(cannot(error)),
        }
        let mut file = PidFile { file: Arc::new(file), path: path.to_owned(), is_ours: true };
        file.claim().write()?;
        Ok(file)
    }

    /// The file that another process has locked, and whose number stays in it until
    /// [`claim`](Self::claim). If it isn't the one at the path, that one is locked.
    pub(crate) fn inherited(path: &Path, file: OwnedFd) -> Result<PidFile, Exit> {
        let file = File::from(file);
        let id = |file: std::fs::Metadata| (file.dev(), file.ino());
        let (ours, there) = (file.metadata().map(id), std::fs::metadata(path).map(id));
        match (ours, there) {
            (Ok(ours), Ok(there)) if ours == there => {
                Ok(PidFile { file: Arc::new(file), path: path.to_owned(), is_ours: false })
            }
            _ => PidFile::lock(path),
        }
    }

    /// The file is ours from now on; the returned claim writes our number.
    pub(crate) fn claim(&mut self) -> Claim {
        self.is_ours = true;
        Claim { file: self.file.clone(), path: self.path.clone() }
    }

    /// A duplicate of the descriptor, which holds the lock too.
    pub(crate) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Leaves the file to another process, which holds the lock too.
    pub(crate) fn leave(mut self) {
        self.is_ours = false;
    }
}

/// Our number, to be written into the file by any thread.
pub(crate) struct Claim {
    file: Arc<File>,
    path: PathBuf,
}

impl Claim {
    pub(crate) fn write(&self) -> Result<(), Exit> {
        let written = write(&self.file, &format!("{}\n", std::process::id()));
        written.map_err(|error| cannot_write(&self.path, &error))
    }
}

fn write(mut file: &File, text: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

impl Drop for PidFile {
    /// Empties the file, but keeps it: another process may be about to lock it.
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = write(&self.file, "")
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot empty the pid file");
        }
    }
}

pub(crate) fn cannot_write(path: &Path, error: &std::io::Error) -> Exit {
    Exit::failed(format!("cannot write the pid file {}: {}", path.display(), plain(error)))
}

fn running(path: &Path, file: &mut File) -> Exit {
    let mut owner = String::new();
    let read = file.take(20).read_to_string(&mut owner);
    let owner = match (read, owner.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    Exit::failed(format!("{owner} is running: it has locked the pid file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_number_until_the_next_process_claims_it() {
        let folder = couplet_testkit::needed::Folder::new();
        let path = folder.join("pid");
        let read = || std::fs::read_to_string(&path).expect("a file");
        let ours = format!("{}\n", std::process::id());
        let first = PidFile::lock(&path).unwrap_or_else(|_| panic!("it is free"));
        for _ in 0..2 {
            let file = first.descriptor().expect("a duplicate");
            drop(PidFile::inherited(&path, file).unwrap_or_else(|_| panic!("it is the same")));
            assert_eq!(read(), ours, "the next process has failed");
        }
        let file = first.descriptor().expect("a duplicate");
        let mut next = PidFile::inherited(&path, file).unwrap_or_else(|_| panic!("it is the same"));
        first.leave();
        assert_eq!(read(), ours);
        assert!(next.claim().write().is_ok());
        assert_eq!(read(), ours);
        drop(next);
        assert_eq!(read(), "");
    }
}
