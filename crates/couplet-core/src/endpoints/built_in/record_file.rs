//! Files of whole records, such as lines or captured packets: [`RecordFile`].
//!
//! Each file is open once in this process, however many loops and connections write to it, and is
//! written by a thread, so that a stuck disk blocks no loop. Each record is a single `write`, so
//! records of other programs never split it. A record cut by a full disk or by the death of a program
//! is removed before anything is appended.
//!
//! Contract: 119c, 145d.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, dispatcher};

use crate::backlog::{Backlog, lost_lines};
use crate::layers::Pcap;
use crate::panics::lock;

/// Records that are queued for a slow disk, in bytes: enough for a burst.
const QUEUE: usize = 16 * 1024 * 1024;

/// Maximum size of a captured packet, in bytes: far more than we or other programs write.
const LONGEST_PACKET: u32 = 256 * 1024;

/// The format of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordFormat {
    Lines,
    Packets,
}

/// A user of an open file of records. Once the last one is dropped, the queued records are written and
/// the file is closed.
#[derive(Debug)]
pub(super) struct RecordFile {
    file: Arc<SharedFile>,
    records: Backlog,
}

/// A file of records and its users.
#[derive(Debug)]
struct SharedFile {
    path: PathBuf,
    records: RecordFormat,
    state: Mutex<Option<OpenFile>>,
}

/// The open file; closed at its limit or after a failed write.
#[derive(Debug)]
struct OpenFile {
    file: File,
    id: FileId,
    /// Current size, and its limit, in bytes.
    length: u64,
    limit: u64,
}

/// The device and inode of a regular file.
type FileId = Option<(u64, u64)>;

/// The open files, with the number of their users. A file is opened and closed while this is
/// locked: the file's lock excludes other programs, but not another loop of this one. Law 9: one
/// for each file that an endpoint names.
static OPEN: Mutex<Vec<OpenRecords>> = Mutex::new(Vec::new());

/// An open file, its queue, and the number of its users.
#[derive(Debug)]
struct OpenRecords {
    file: Arc<SharedFile>,
    records: Backlog,
    users: usize,
    /// Queued closes: only the last one has all records before it.
    closes: usize,
}

impl RecordFile {
    /// Opens a file, or finds it among the open ones. The lowest of several limits applies.
    ///
    /// Only regular files and character devices: a stalled reader of anything else would block the
    /// loop.
    pub(super) fn open(path: &str, records: RecordFormat, limit: u64) -> io::Result<RecordFile> {
        let mut others = lock(&OPEN);
        let mut file = open(Path::new(path), records)?;
        let found = file.metadata()?;
        check_type(found.file_type())?;
        let id = id(&found);
        let same = |other: &SharedFile| id.is_some() && other.id() == Some(id);
        if let Some(other) = others.iter_mut().find(|other| same(&other.file)) {
            other.file.share_with(records, limit)?;
            other.users += 1;
            return Ok(RecordFile { file: other.file.clone(), records: other.records.clone() });
        }
        let length = match found.is_file() {
            true => resume(&mut file, records, path)?,
            false => begin(&mut file, records)?,
        };
        let state = Mutex::new(Some(OpenFile { file, id, length, limit }));
        let file = Arc::new(SharedFile { path: path.into(), records, state });
        let records = backlog(&file);
        others.push(OpenRecords {
            file: file.clone(),
            records: records.clone(),
            users: 1,
            closes: 0,
        });
        Ok(RecordFile { file, records })
    }

    /// Queues a record, which is written unless an earlier one could not be.
    pub(super) fn append(&self, record: &[u8]) {
        self.records.push(record);
    }
}

/// The queue in front of a file. Lost lines are counted in the file; a capture has no place for that.
fn backlog(file: &Arc<SharedFile>) -> Backlog {
    // The warnings of its thread go where the loop's do.
    let subscriber = dispatcher::get_default(Clone::clone);
    let subscriber = Some(subscriber).filter(|it| !it.is::<NoSubscriber>());
    let appending = Appending { file: file.clone(), subscriber };
    let records = Backlog::new(file.path.display().to_string(), appending);
    records.set_capacity(QUEUE);
    let file = file.clone();
    records.set_notice(move |lost| match file.records {
        RecordFormat::Lines => Some(format!("{}\n", lost_lines(lost))),
        RecordFormat::Packets => {
            log_warn!(file = %file.path.display(), lost, "packets are missing in a capture: the disk is too slow");
            None
        }
    });
    records
}

/// Appends each piece that is written as a record.
struct Appending {
    file: Arc<SharedFile>,
    subscriber: Option<Dispatch>,
}

impl Write for Appending {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let append = || self.file.append(record);
        match &self.subscriber {
            Some(subscriber) => dispatcher::with_default(subscriber, append),
            None => append(),
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        let mut files = lock(&OPEN);
        let open = files.iter_mut().find(|open| Arc::ptr_eq(&open.file, &self.file));
        let Some(open) = open else { return };
        open.users -= 1;
        if open.users == 0 {
            let file = self.file.clone();
            open.closes += usize::from(open.records.run(move || file.close()));
        }
    }
}

impl SharedFile {
    /// Appends a record, unless an earlier one could not be written.
    fn append(&self, record: &[u8]) {
        let mut state = lock(&self.state);
        let Some(open) = state.as_mut() else { return };
        let path = self.path.display();
        if open.length.saturating_add(record.len() as u64) > open.limit {
            tracing::info!(file = %path, limit = open.limit, "the traffic log ends here: it has reached its limit");
            *state = None;
        } else if let Err(error) = open.write(record) {
            log_warn!(file = %path, %error, "the traffic log ends here");
            *state = None;
        }
    }

    /// Closes the file, unless it has a new user.
    fn close(self: &Arc<Self>) {
        let mut files = lock(&OPEN);
        let Some(index) = files.iter().position(|open| Arc::ptr_eq(&open.file, self)) else {
            return;
        };
        files[index].closes -= 1;
        if files[index].users == 0 && files[index].closes == 0 {
            // A backlog that is dropped ends its thread, which is the present one.
            files.swap_remove(index);
            *lock(&self.state) = None;
        }
    }

    /// The file's id; `None` once writing has stopped.
    fn id(&self) -> Option<FileId> {
        lock(&self.state).as_ref().map(|open| open.id)
    }

    /// Applies the format and the limit of another user.
    fn share_with(&self, records: RecordFormat, limit: u64) -> io::Result<()> {
        if self.records != records {
            return Err(io::Error::other("another log writes to it in another form"));
        }
        if let Some(open) = lock(&self.state).as_mut() {
            open.limit = open.limit.min(limit);
        }
        Ok(())
    }
}

impl Drop for OpenFile {
    /// Unlocks explicitly: a child process that is being started may briefly hold the file, and
    /// with it the lock.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "cannot unlock a log");
        }
    }
}

impl OpenFile {
    /// Writes a whole record, or nothing.
    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let mut rest = record;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => {
                    return self.cut(record.len() - rest.len(), io::ErrorKind::WriteZero.into());
                }
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.cut(record.len() - rest.len(), error),
            }
        }
        self.length += record.len() as u64;
        Ok(())
    }

    /// Removes the beginning of a partly written record, if it is still at the end of the file.
    fn cut(&mut self, written: usize, error: io::Error) -> io::Result<()> {
        if written > 0 {
            let end = self.file.stream_position()?;
            if self.file.metadata()?.len() == end {
                self.file.set_len(end - written as u64)?;
            }
        }
        Err(error)
    }
}

/// Adapts a file for a capture, which writes one record per call.
pub(super) struct RecordWriter(pub(super) Arc<RecordFile>);

impl Write for RecordWriter {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.append(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens without blocking: opening a FIFO would otherwise wait until another program opens it too.
fn open(path: &Path, records: RecordFormat) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(records == RecordFormat::Packets);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits() as i32);
    }
    options.open(path).map_err(|error| {
        let found = fs::metadata(path).and_then(|found| check_type(found.file_type()));
        found.err().filter(|_| fs::metadata(path).is_ok()).unwrap_or(error)
    })
}

/// Locks a capture: only one program may write it, because opening it cuts a partial packet that
/// another may still be writing.
fn lock_capture(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(io::Error::other("another program writes to it")),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(unix)]
fn check_type(found: FileType) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let kind = match () {
        () if found.is_file() || found.is_char_device() => return Ok(()),
        () if found.is_fifo() => "a pipe, whose reader may block the log",
        () if found.is_socket() => "a socket, whose reader may block the log",
        () if found.is_dir() => "a folder",
        () => "a disk",
    };
    let text = format!("it is {kind}: use a file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(not(unix))]
fn check_type(_: FileType) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn id(found: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt;
    found.is_file().then(|| (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn id(_: &Metadata) -> FileId {
    None
}

/// Begins a file; returns its length.
fn begin(file: &mut File, records: RecordFormat) -> io::Result<u64> {
    match records {
        RecordFormat::Lines => Ok(0),
        RecordFormat::Packets => {
            file.write_all(&Pcap::HEADER)?;
            Ok(Pcap::HEADER.len() as u64)
        }
    }
}

/// Prepares an existing regular file for appending; returns its length.
fn resume(file: &mut File, records: RecordFormat, path: &str) -> io::Result<u64> {
    let length = file.metadata()?.len();
    match records {
        // Partial lines of other programs must not be removed.
        RecordFormat::Lines => {
            if length > 0 && !ends_a_line(path)? {
                file.write_all(b"\n")?;
            }
            file.metadata().map(|found| found.len())
        }
        RecordFormat::Packets => {
            lock_capture(file)?;
            let whole = whole_packets(file, length)?;
            if whole < length {
                log_warn!(
                    file = path,
                    bytes = length - whole,
                    "removed an incomplete packet from the end of a capture"
                );
                file.set_len(whole)?;
            }
            if whole == 0 { begin(file, records) } else { Ok(whole) }
        }
    }
}

/// Whether a file ends with a newline. True if the file cannot be read.
fn ends_a_line(path: &str) -> io::Result<bool> {
    let Ok(mut file) = File::open(path) else { return Ok(true) };
    let mut last = [b'\n'];
    file.seek(io::SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The length of a capture up to its last whole packet; 0 if the file header is incomplete.
fn whole_packets(file: &File, length: u64) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    reader.rewind()?;
    let mut header = Vec::new();
    reader.by_ref().take(Pcap::HEADER.len() as u64).read_to_end(&mut header)?;
    if !Pcap::HEADER.starts_with(&header) {
        return Err(io::Error::other("it exists, and is not a capture file of this format"));
    }
    if header.len() < Pcap::HEADER.len() {
        return Ok(0);
    }
    let mut whole = header.len() as u64;
    let mut packet = [0; 16];
    while whole + 16 <= length {
        reader.read_exact(&mut packet)?;
        let [.., a, b, c, d, _, _, _, _] = packet;
        let size = u32::from_le_bytes([a, b, c, d]);
        let end = whole + 16 + u64::from(size);
        if size > LONGEST_PACKET || end > length {
            break;
        }
        reader.seek_relative(i64::from(size))?;
        whole = end;
    }
    Ok(whole)
}
