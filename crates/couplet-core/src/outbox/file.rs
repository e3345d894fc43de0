//! Parts of files in an outbox. A driver sends a part from the file itself, or has the outbox read
//! it piece by piece.
//!
//! A part comes from one version of its file: each piece leaves only if the file still has the bytes that
//! it was opened with. Bytes are read into memory, and the file is compared after the read: these bytes
//! can't change any more. Without a copy they could, in the system's buffers, until the peer has
//! acknowledged them; so a driver sends only from a file that is declared immutable.
//!
//! Bytes may follow the opened version, as in a log. To the system, a file that was appended to looks like
//! one that was overwritten by a longer one, and a renamed file like one that was overwritten and got its
//! old time back: in these cases the first and the last bytes of the opened version are compared.
//!
//! Contract: 74a, 74b, 74d.

use std::cmp::Ordering;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// Most bytes of a file that are read together.
pub(super) const READ: usize = 64 * 1024;

/// Bytes at each end of a version that are remembered.
const END: u64 = 1024;

/// How often a file with a later time and the same length is looked at again: it may be about to grow.
const LOOKS: usize = 100;

/// An open file, in the version that it had when it was opened: its length, its times and its bytes.
/// Clones share the descriptor.
///
/// The system's clock for files has steps of a few milliseconds: a file that changes twice within
/// a step, and keeps its length, has one version. Bytes may be appended to the version; its file may be
/// renamed or removed.
#[derive(Clone)]
pub struct SharedFile(Arc<OpenFile>);

#[derive(Debug)]
struct OpenFile {
    file: File,
    metadata: Metadata,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    /// Never overwritten, by the word of the program.
    Immutable,
    Mutable(Ends),
}

/// The first and the last bytes of a version.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    /// The length of the file when they were read.
    len: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Ends {
    /// Reads the ends of the first `len` bytes.
    fn read(file: &File, len: u64) -> io::Result<Ends> {
        let read = |offset| {
            let mut buffer = vec![0; len.min(END) as usize];
            let count = read_fully(file, &mut buffer, offset)?;
            buffer.truncate(count);
            Ok::<_, io::Error>(buffer)
        };
        Ok(Ends { len, first: read(0)?, last: read(len.saturating_sub(END))? })
    }
}

/// A file is not the version that is being sent: it was overwritten or became shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file changed while it was sent")]
pub struct FileChanged;

impl From<FileChanged> for io::Error {
    fn from(changed: FileChanged) -> io::Error {
        io::Error::other(changed)
    }
}

impl SharedFile {
    /// The present version of an open file.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new(file: File) -> io::Result<SharedFile> {
        // The ends are read first: if the file is overwritten at this moment, they differ from it.
        let len = file.metadata()?.len();
        let ends = Ends::read(&file, len)?;
        SharedFile::open(file, Contents::Mutable(ends))
    }

    /// The present version of a file that is never overwritten or cut short, but at most replaced by
    /// another one under its name. Writes may send the bytes without a copy (`sendfile`): if the file is
    /// changed nevertheless, the peer may get a mixture.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn immutable(file: File) -> io::Result<SharedFile> {
        SharedFile::open(file, Contents::Immutable)
    }

    fn open(file: File, contents: Contents) -> io::Result<SharedFile> {
        let metadata = file.metadata()?;
        Ok(SharedFile(Arc::new(OpenFile { file, metadata, contents })))
    }

    /// The metadata of this version.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// Checks that the file still has the bytes of this version. Bytes may follow them.
    ///
    /// A file with the same length and another time of modification has changed. If it is longer, or
    /// only the time of its last change of any kind differs (as after a rename), its first and last KiB
    /// of this version are compared.
    ///
    /// # Errors
    ///
    /// [`FileChanged`], or the system's error.
    pub fn check(&self) -> io::Result<()> {
        let opened = &self.0.metadata;
        let mut now = self.0.file.metadata()?;
        // The system sets the time of a write before the length.
        for _ in 0..LOOKS {
            if now.len() != opened.len() || now.modified().ok() <= opened.modified().ok() {
                break;
            }
            std::thread::yield_now();
            now = self.0.file.metadata()?;
        }
        let is_same_time = now.modified().ok() == opened.modified().ok();
        let order = times(&now).cmp(&times(opened));
        let is_intact = match now.len().cmp(&opened.len()) {
            Ordering::Less => false,
            Ordering::Equal if order == Ordering::Equal => true,
            Ordering::Equal => is_same_time && self.has_ends()?,
            // Appending sets the time of modification: if only the other time has moved, the former
            // was put back.
            Ordering::Greater => (order == Ordering::Equal || !is_same_time) && self.has_ends()?,
        };
        if is_intact { Ok(()) } else { Err(FileChanged.into()) }
    }

    /// Whether the ends have not changed since the file was opened.
    #[cold]
    fn has_ends(&self) -> io::Result<bool> {
        match &self.0.contents {
            Contents::Immutable => Ok(true),
            Contents::Mutable(ends) => Ok(*ends == Ends::read(&self.0.file, ends.len)?),
        }
    }

    /// Reads into the whole buffer from an offset. Blocks if the bytes are not in memory.
    ///
    /// # Errors
    ///
    /// [`FileChanged`] if the file is not this version after the read (as for [`check`](Self::check)), or
    /// the system's error.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if read_fully(&self.0.file, buffer, offset)? < buffer.len() {
            return Err(FileChanged.into());
        }
        self.check()
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// A handle that does not keep the file open.
    pub fn downgrade(&self) -> WeakFile {
        WeakFile(Arc::downgrade(&self.0))
    }
}

/// A handle to a [`SharedFile`] that does not keep it open: it counts its users, such as connections
/// that send it.
#[derive(Clone, Debug)]
pub struct WeakFile(Weak<OpenFile>);

impl WeakFile {
    /// The number of clones of the `SharedFile`; the file is closed at 0.
    ///
    /// ```
    /// # let path = std::env::current_exe()?;
    /// let file = couplet::transport::SharedFile::new(std::fs::File::open(path)?)?;
    /// let weak = file.downgrade();
    /// assert_eq!(weak.users(), 1);
    /// drop(file);
    /// assert_eq!(weak.users(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn users(&self) -> usize {
        self.0.strong_count()
    }
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFile").field("length", &self.0.metadata.len()).finish_non_exhaustive()
    }
}

/// The times of modification and of the last change of any kind, which no program can set.
#[cfg(unix)]
fn times(metadata: &Metadata) -> [(i64, i64); 2] {
    use std::os::unix::fs::MetadataExt;
    [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())]
}

#[cfg(windows)]
fn times(metadata: &Metadata) -> u64 {
    std::os::windows::fs::MetadataExt::last_write_time(metadata)
}

/// Reads up to the end of the buffer or of the file. Returns the number of bytes.
fn read_fully(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match read_at(file, &mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(n) => count += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// A part of a file that is to be sent.
#[derive(Clone, Debug)]
pub struct FilePart {
    file: SharedFile,
    offset: u64,
    len: usize,
}

impl FilePart {
    /// The bytes of this range. On systems of 32 bits a longer part is cut to the largest count.
    pub fn new(file: &SharedFile, range: Range<u64>) -> FilePart {
        let len = range.end.saturating_sub(range.start);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        FilePart { file: file.clone(), offset: range.start, len }
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The offset of the first byte in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The position in the file.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len as u64)
    }

    /// The file.
    pub fn file(&self) -> &SharedFile {
        &self.file
    }

    /// Checks that the file is still its version, and has all of the part.
    ///
    /// # Errors
    ///
    /// As for [`SharedFile::check`].
    pub fn check(&self) -> io::Result<()> {
        let end = self.offset.checked_add(self.len as u64);
        if end.is_none_or(|end| end > self.file.metadata().len()) {
            return Err(FileChanged.into());
        }
        self.file.check()
    }

    /// Whether a driver should send the part from the file: it may, and a short one costs less to read.
    pub fn is_sent_from_file(&self) -> bool {
        matches!(self.file.0.contents, Contents::Immutable) && self.len > READ
    }

    /// Removes bytes from the front.
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len);
        self.offset += count as u64;
        self.len -= count;
    }

    /// Removes bytes from the front, at most `count`, and returns them as a part.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> FilePart {
        let front = FilePart { len: count.min(self.len), ..self.clone() };
        self.advance(front.len);
        front
    }

    /// Reads and removes the first bytes, at most `most`. Blocks if they are not in memory.
    ///
    /// # Errors
    ///
    /// As for [`SharedFile::read`]; then the part is as before.
    pub fn take(&mut self, most: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let count = self.len.min(most);
        buffer.resize(count, 0);
        self.file.read(buffer, self.offset)?;
        self.advance(count);
        Ok(())
    }
}
