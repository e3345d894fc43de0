//! The working folder of a program, by its path: a link in the path may lead to another folder at the
//! next start, reload or restart, as where releases change.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{env, io};

use nix::unistd::fchdir;

use crate::exit::{Exit, plain};

/// The option `directory`.
#[derive(Clone)]
pub(crate) struct Directory {
    path: PathBuf,
    /// The folder to which relative paths of the command line belong.
    start_in: PathBuf,
}

/// A folder at the end of the path, which stays the same when a link moves.
pub(crate) struct Folder(File);

impl Directory {
    /// Enters the folder. A program that was started in it finds itself and its configuration there at
    /// the next start, too; others find them where they were started.
    pub(crate) fn enter(path: &Path) -> Result<(Directory, Folder), Exit> {
        if !path.is_absolute() {
            let path = path.display();
            return Err(Exit::bad_usage(format!(
                "directory has to be an absolute path, not {path}"
            )));
        }
        let cannot = |error: io::Error| {
            Exit::failed(format!("cannot enter the folder {}: {}", path.display(), plain(&error)))
        };
        let here = Folder(File::open(".").map_err(cannot)?);
        let folder = Folder(File::open(path).map_err(cannot)?);
        let start_in = match here.is_same(&folder) {
            true => path.to_owned(),
            false => env::current_dir().map_err(cannot)?,
        };
        folder.enter().map_err(cannot)?;
        Ok((Directory { path: path.to_owned(), start_in }, folder))
    }

    /// Opens the folder that the path leads to now.
    pub(crate) fn open(&self) -> io::Result<Folder> {
        File::open(&self.path).map(Folder)
    }

    /// The folder in which the next process of the program starts.
    pub(crate) fn start_in(&self) -> &Path {
        &self.start_in
    }
}

impl Folder {
    /// Makes this the working folder.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(fchdir(&self.0)?)
    }

    pub(crate) fn is_same(&self, other: &Folder) -> bool {
        let id = |folder: &Folder| folder.0.metadata().map(|found| (found.dev(), found.ino())).ok();
        id(self) == id(other)
    }
}
