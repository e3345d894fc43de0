//! Opens files below a folder. Neither a link nor a rename can lead out of it, unless all links are
//! followed: the kernel resolves the whole path beneath the folder's descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::{ResolveFlags, openat2};
use rustix::io::{Errno, retry_on_intr};

use super::listing::FolderId;
use super::path::Kind;

/// Opens a name only to examine its kind: a real open of a FIFO or a device may change its state.
#[cfg(any(target_os = "linux", target_os = "android"))]
const INSPECT_FLAGS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const INSPECT_FLAGS: OFlags = READ_FLAGS;

/// Opens a file for reading. Does not block if a FIFO has taken the file's place.
const READ_FLAGS: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Which symbolic links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Relative links that stay below the folder.
    Inside,
    /// All links.
    Anywhere,
}

/// The served folder, opened for each request because another folder may replace it at any time.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    links: Links,
}

/// The opened folder.
pub(super) struct Root {
    descriptor: OwnedFd,
    links: Links,
}

/// The kind of a name below the folder.
pub(super) enum Found {
    Folder,
    File(File),
    /// A FIFO, a socket or a device.
    Other,
}

/// A file or a folder inside a folder.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
}

impl Folder {
    /// # Errors
    ///
    /// If the path is not a folder, or can't be read.
    pub(super) fn new(path: &Path, links: Links) -> io::Result<Folder> {
        let folder = Folder { path: std::path::absolute(path)?, links };
        folder.open()?.entries(Path::new("."))?;
        Ok(folder)
    }

    pub(super) fn open(&self) -> io::Result<Root> {
        let flags = INSPECT_FLAGS | OFlags::DIRECTORY;
        let descriptor = retry_on_intr(|| openat(CWD, &self.path, flags, Mode::empty()))?;
        Ok(Root { descriptor, links: self.links })
    }
}

impl Root {
    /// Opens the file at this path; for anything else returns its kind.
    pub(super) fn find(&self, path: &Path) -> io::Result<Found> {
        let kind = File::from(self.open(path, INSPECT_FLAGS)?).metadata()?.file_type();
        if kind.is_dir() {
            return Ok(Found::Folder);
        }
        if !kind.is_file() {
            return Ok(Found::Other);
        }
        regular_file(self.open(path, READ_FLAGS)?)
    }

    /// The served files and folders in the folder at this path, sorted, and the folder's identity.
    pub(super) fn entries(&self, path: &Path) -> io::Result<(FolderId, Vec<Entry>)> {
        let folder = File::from(self.open(path, READ_FLAGS | OFlags::DIRECTORY)?);
        let metadata = folder.metadata()?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Directory => Kind::Folder,
                FileType::RegularFile => Kind::File,
                FileType::Symlink | FileType::Unknown => {
                    match self.kind(&path.join(OsStr::from_bytes(name))) {
                        Some(found) if found.is_dir() => Kind::Folder,
                        Some(found) if found.is_file() => Kind::File,
                        _ => continue,
                    }
                }
                _ => continue,
            };
            entries.push(Entry { name: name.to_owned(), kind });
        }
        entries.sort_unstable();
        Ok(((metadata.dev(), metadata.ino()), entries))
    }

    fn kind(&self, path: &Path) -> Option<std::fs::FileType> {
        let metadata = File::from(self.open(path, INSPECT_FLAGS).ok()?).metadata();
        metadata.ok().map(|metadata| metadata.file_type())
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let folder = self.descriptor.as_fd();
        let opened = retry_on_intr(|| match self.links {
            Links::Inside => open_beneath(folder, path, flags),
            Links::Anywhere => openat(folder, path, flags, Mode::empty()),
        });
        Ok(opened?)
    }
}

/// The file, unless something else, such as a FIFO, took its place after it was examined.
fn regular_file(opened: OwnedFd) -> io::Result<Found> {
    let file = File::from(opened);
    Ok(if file.metadata()?.is_file() { Found::File(file) } else { Found::Other })
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_beneath(folder: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(folder, path, flags, Mode::empty(), resolve) {
        // Old kernels and some containers lack the call.
        Err(Errno::NOSYS | Errno::PERM) => walk_components(folder, path, flags),
        opened => opened,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
use walk_components as open_beneath;

/// Opens name after name and follows no link, for systems that can't resolve a path beneath a
/// folder.
fn walk_components(
    folder: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut opened: Option<OwnedFd> = None;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let flags = if names.peek().is_some() { INSPECT_FLAGS | OFlags::DIRECTORY } else { flags };
        let parent = opened.as_ref().map_or(folder, AsFd::as_fd);
        let next = openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        opened = Some(next);
    }
    opened.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet_testkit::needed;
    use rustix::fs::{mkfifoat, symlinkat};

    /// A folder with a file, a FIFO and links, next to a secret.
    fn site() -> (needed::Folder, PathBuf) {
        let temporary = needed::Folder::new();
        let site = temporary.join("site");
        temporary.write("secret", "secret");
        temporary.write("site/sub/file", "file");
        mkfifoat(CWD, site.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        for (from, to) in [
            ("inside", "sub/file"),
            ("sub/up", "../sub/file"),
            ("folder", "sub"),
            ("out", "../secret"),
            ("away", "/etc"),
            ("sub/out", "../../secret"),
            ("round", "round"),
            ("nowhere", "nothing"),
            ("pipe", "fifo"),
        ] {
            symlinkat(to, CWD, site.join(from)).unwrap();
        }
        (temporary, site)
    }

    fn kinds(root: &Root, path: &str) -> String {
        match root.find(Path::new(path)) {
            Ok(Found::Folder) => "folder".into(),
            Ok(Found::File(_)) => "file".into(),
            Ok(Found::Other) => "other".into(),
            Err(error) => Errno::from_io_error(&error).map_or("?".into(), |errno| match errno {
                Errno::XDEV => "out".into(),
                Errno::LOOP => "loop".into(),
                Errno::NOENT => "nothing".into(),
                Errno::NOTDIR => "no folder".into(),
                other => other.to_string(),
            }),
        }
    }

    #[test]
    fn links_are_followed_inside_and_out_of_the_folder_only_if_asked_for() {
        let (_temporary, site) = site();
        let inside = Folder::new(&site, Links::Inside).unwrap().open().unwrap();
        let anywhere = Folder::new(&site, Links::Anywhere).unwrap().open().unwrap();
        for (path, below, followed) in [
            (".", "folder", "folder"),
            ("sub", "folder", "folder"),
            ("sub/file", "file", "file"),
            ("inside", "file", "file"),
            ("sub/up", "file", "file"),
            ("folder/file", "file", "file"),
            ("out", "out", "file"),
            ("sub/out", "out", "file"),
            ("away", "out", "folder"),
            ("away/passwd", "out", "file"),
            ("round", "loop", "loop"),
            ("nowhere", "nothing", "nothing"),
            ("sub/file/x", "no folder", "no folder"),
            ("fifo", "other", "other"),
            ("pipe", "other", "other"),
        ] {
            assert_eq!(kinds(&inside, path), below, "{path}");
            assert_eq!(kinds(&anywhere, path), followed, "{path}, followed");
        }
    }

    #[test]
    fn lists_have_exactly_the_served_entries() {
        let (_temporary, site) = site();
        let names = |links| {
            let root = Folder::new(&site, links).unwrap().open().unwrap();
            let (_, entries) = root.entries(Path::new(".")).unwrap();
            let names = entries
                .into_iter()
                .map(|entry| String::from_utf8(entry.name).unwrap() + entry.kind.suffix());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(Links::Inside), "folder/ inside sub/");
        assert_eq!(names(Links::Anywhere), "away/ folder/ inside out sub/");
    }

    #[test]
    fn without_the_systems_help_no_link_is_followed_at_all() {
        let (_temporary, site) = site();
        let root = Folder::new(&site, Links::Inside).unwrap().open().unwrap();
        let opens = |path: &str| {
            let opened =
                walk_components(root.descriptor.as_fd(), Path::new(path), INSPECT_FLAGS).ok()?;
            let kind = File::from(opened).metadata().unwrap().file_type();
            (kind.is_file() || kind.is_dir()).then_some(())
        };
        for path in [".", "sub", "sub/file"] {
            assert!(opens(path).is_some(), "{path}");
        }
        for path in ["inside", "folder/file", "out", "away/passwd", "round", "sub/out", "fifo", ""]
        {
            assert!(opens(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_fifo_that_takes_the_place_of_a_file_is_neither_waited_for_nor_read() {
        let (_temporary, site) = site();
        let root = Folder::new(&site, Links::Inside).unwrap().open().unwrap();
        // Simulates a FIFO that replaced a file after the file was examined.
        let opened = root.open(Path::new("fifo"), READ_FLAGS).unwrap();
        assert!(matches!(regular_file(opened), Ok(Found::Other)));
    }
}
