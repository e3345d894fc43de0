//! Files and folders that a start would open, looked at without creating or changing anything.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{AccessFlags, faccessat};

/// Reads from a file, which takes as long as its mount does. Errors show when the file is used.
pub(crate) fn touch(path: &Path) {
    let _ = File::open(path).and_then(|mut file| file.read(&mut [0]));
}

/// Whether a file can be appended to, or made.
///
/// # Errors
///
/// The error that opening it would have.
pub(crate) fn can_append(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        // Opening it would wait for a reader.
        Ok(found) if found.file_type().is_fifo() => Ok(()),
        Ok(_) => {
            let mut options = File::options();
            options.append(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
            options.open(path).map(drop)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_create_beside(path),
        Err(error) => Err(error),
    }
}

/// Whether a new file can be made in the folder of this one.
///
/// # Errors
///
/// The error that making it would have.
pub(crate) fn can_create_beside(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Err(io::ErrorKind::IsADirectory.into()),
    };
    if !fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let flags = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(AT_FDCWD, folder, flags, AtFlags::AT_EACCESS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_at_and_not_made() {
        let folder = couplet_testkit::needed::Folder::new();
        let (old, new) = (folder.join("old"), folder.join("new"));
        fs::write(&old, "a line\n").unwrap();
        for (path, error) in [
            (old.clone(), None),
            (new.clone(), None),
            (folder.join("none/new"), Some(io::ErrorKind::NotFound)),
            (old.join("new"), Some(io::ErrorKind::NotADirectory)),
            (folder.to_owned(), Some(io::ErrorKind::IsADirectory)),
        ] {
            let found = can_append(&path).err().map(|error| error.kind());
            assert_eq!(found, error, "{}", path.display());
        }
        assert!(!new.exists());
        assert_eq!(fs::read(&old).unwrap(), b"a line\n");
    }
}
