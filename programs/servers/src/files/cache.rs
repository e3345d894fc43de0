//! Open files, and the contents of those that are not large, for a second without a look at the file
//! system.
//!
//! A file is kept only if it has not changed for some time: a file that changes twice within a step of
//! the system's clock has the same version.
//!
//! The contents of a small file are bytes in memory, sent together with the head of an answer. A
//! larger file is copied into a sealed memory file when it is requested again; sendfile sends it
//! without another copy. Sealed contents never change; an open file may. A copy that has left the
//! cache counts until its last reader is done.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::str;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use couplet::http::HeaderValue;
use couplet::transport::{SharedFile, WeakFile};

use super::conditions::{Validators, Version};

/// The type of a file with an unknown extension.
pub(super) const UNKNOWN: &str = "application/octet-stream";

/// Longest contents that are kept as bytes.
pub(super) const SMALL: u64 = 64 * 1024;

/// A file whose contents are longer than this part of the cache's bytes is not copied into a sealed file.
const SHARE: usize = 4;

/// Bytes that are copied into a sealed file together.
const PIECE: usize = 64 * 1024;

/// Memory of an entry besides its contents and its path, in bytes.
const OVERHEAD: usize = 512;

/// The limits of a cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) files: usize,
    pub(super) bytes: usize,
    /// Longest contents that are copied into a sealed file.
    pub(super) sealed: u64,
    /// For how long an entry counts without a look at the file system.
    pub(super) trust: Duration,
}

impl Limits {
    /// The longest contents that are sealed in a cache of `bytes` bytes.
    pub(super) fn sealed_of(bytes: usize) -> u64 {
        (bytes / SHARE) as u64
    }
}

/// The source of a file's bytes for an answer.
pub(super) enum Contents<'a> {
    Bytes(&'a Bytes),
    /// A copy in memory, which the system protects from changes.
    Sealed(SharedFile),
    /// Only the file has them.
    OnDisk,
}

/// A file as the answers to its requests need it.
pub(super) struct Entry {
    file: SharedFile,
    /// The contents of a small file.
    contents: Option<Bytes>,
    /// The copy of a larger file's contents, once it was made.
    sealed: Mutex<Option<SharedFile>>,
    pub(super) kind: HeaderValue,
    pub(super) etag: Option<HeaderValue>,
    pub(super) modified: Option<HeaderValue>,
    pub(super) validators: Validators,
    version: Version,
    /// When the file was last looked at, in milliseconds since 1970.
    checked: AtomicU64,
    is_used: AtomicBool,
    /// A request has found it.
    is_found: AtomicBool,
}

impl Entry {
    /// Reads the file if it is small. Blocks.
    ///
    /// # Errors
    ///
    /// The system's error, or an error if the file changes during the read.
    pub(super) fn new(file: SharedFile, kind: &str, now: Duration) -> io::Result<Entry> {
        let (version, size) = (Version::new(file.metadata()), file.metadata().len());
        let validators = Validators::new(&version, now);
        let mut contents: Option<Bytes> = None;
        if size <= SMALL {
            let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
            file.read(&mut bytes, 0)?;
            contents = Some(bytes.into());
        }
        let kind = match (&contents, is_text(kind)) {
            (_, false) => header_value(kind),
            (Some(bytes), true) => text_kind(kind, bytes),
            (None, true) => {
                let mut beginning = vec![0; SMALL as usize];
                file.read(&mut beginning, 0)?;
                text_kind(kind, &beginning)
            }
        };
        let checked = AtomicU64::new(millis(now));
        let (is_used, is_found) = (AtomicBool::new(true), AtomicBool::new(false));
        let (etag, modified) = (validators.etag(), validators.last_modified());
        let sealed = Mutex::default();
        Ok(Entry {
            file,
            contents,
            sealed,
            kind,
            etag,
            modified,
            validators,
            version,
            checked,
            is_used,
            is_found,
        })
    }

    pub(super) fn contents(&self) -> Contents<'_> {
        match &self.contents {
            Some(bytes) => Contents::Bytes(bytes),
            None => self.sealed().clone().map_or(Contents::OnDisk, Contents::Sealed),
        }
    }

    fn sealed(&self) -> MutexGuard<'_, Option<SharedFile>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self) -> &SharedFile {
        &self.file
    }

    pub(super) fn size(&self) -> u64 {
        self.file.metadata().len()
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        self.version == Version::new(metadata)
    }

    /// Whether the open file has not changed in any way.
    fn is_unchanged(&self) -> bool {
        self.file.file().metadata().is_ok_and(|metadata| self.is_of(&metadata))
    }
}

/// Entries by the path of their URL.
pub(super) struct Cache {
    limits: Limits,
    kept: Mutex<Kept>,
    /// Held by the thread that copies contents: at most one copy at a time is not kept yet.
    copying: Mutex<()>,
    /// A sweep is scheduled.
    is_swept: AtomicBool,
}

#[derive(Default)]
struct Kept {
    // Within `Limits::files`, and `Limits::bytes` for their paths and contents.
    entries: BTreeMap<Box<str>, Arc<Entry>>,
    /// The paths of the entries, the next to leave first.
    order: VecDeque<Box<str>>,
    /// The size of the entries, and of the copies that have left.
    bytes: usize,
    /// Sealed copies of earlier entries that are still sent, each with its size.
    leaving: Vec<(WeakFile, usize)>,
}

impl Cache {
    pub(super) fn new(limits: Limits) -> Cache {
        let (kept, copying) = (Mutex::default(), Mutex::default());
        Cache { limits, kept, copying, is_swept: AtomicBool::new(false) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a path, unless the file system must be looked at.
    pub(super) fn find(&self, path: &str, now: Duration) -> Option<Arc<Entry>> {
        let entry = self.kept().entries.get(path)?.clone();
        let checked = Duration::from_millis(entry.checked.load(Ordering::Relaxed));
        let is_trusted = now.checked_sub(checked).is_some_and(|age| age < self.limits.trust);
        // A change of the open file is noticed immediately; a replacement, after the time.
        if !is_trusted || !entry.is_unchanged() {
            return None;
        }
        entry.is_used.store(true, Ordering::Relaxed);
        // The second request for a file goes to a thread, which may copy the contents.
        let seals = self.may_seal(&entry) && !entry.is_found.swap(true, Ordering::Relaxed);
        (!seals).then_some(entry)
    }

    /// The entry of a path, if this is its present version.
    pub(super) fn confirm(
        &self,
        path: &str,
        metadata: &Metadata,
        now: Duration,
    ) -> Option<Arc<Entry>> {
        let entry = self.kept().entries.get(path)?.clone();
        if !entry.is_of(metadata) {
            return None;
        }
        entry.checked.store(millis(now), Ordering::Relaxed);
        Some(entry)
    }

    /// Keeps an entry, unless its file has changed too recently or copies that are still sent leave no
    /// room. Older entries leave, first those that no request has found since they were last considered.
    pub(super) fn keep(&self, path: &str, entry: &Arc<Entry>) {
        let size = size(path, entry);
        let Limits { files, bytes, .. } = self.limits;
        let mut dropped = Vec::new();
        let mut kept = self.kept();
        dropped.extend(kept.remove(path));
        let leaving = kept.count_leaving();
        let may_fit = leaving + size <= bytes && files > 0;
        let fits = |kept: &Kept| kept.entries.len() < files && kept.bytes + size <= bytes;
        if entry.validators.are_strong() && may_fit {
            while !fits(&kept)
                && let Some(oldest) = kept.remove_oldest()
            {
                dropped.push(oldest);
            }
        }
        if entry.validators.are_strong() && fits(&kept) {
            kept.bytes += size;
            kept.entries.insert(path.into(), entry.clone());
            kept.order.push_back(path.into());
        }
        drop(kept);
        // Files are closed while nothing is locked.
        drop(dropped);
    }

    fn may_seal(&self, entry: &Entry) -> bool {
        matches!(entry.contents(), Contents::OnDisk) && entry.size() <= self.limits.sealed
    }

    /// Seals a copy of the contents of a kept entry, if there is room without dropping others, and
    /// if no other thread copies at the moment. Without sealed files or descriptors, or if the file
    /// changes during the copy, the entry stays unchanged. Blocks.
    pub(super) fn seal(&self, path: &str, entry: &Arc<Entry>) {
        let has_room = |kept: &Kept| {
            let is_kept = kept.entries.get(path).is_some_and(|it| Arc::ptr_eq(it, entry));
            let room = self.limits.bytes.saturating_sub(kept.bytes) as u64;
            is_kept && entry.size() <= room
        };
        let copying = if self.may_seal(entry) { self.copying.try_lock().ok() } else { None };
        if copying.is_none() {
            return;
        }
        let mut kept = self.kept();
        kept.count_leaving();
        if !has_room(&kept) {
            return;
        }
        drop(kept);
        let Ok(copy) = sealed_copy(&entry.file) else { return };
        let mut kept = self.kept();
        if has_room(&kept) {
            // As `size` counts it.
            kept.bytes += entry.size() as usize;
            *entry.sealed() = Some(copy);
        }
    }

    /// Forgets a path that is not a file.
    pub(super) fn forget(&self, path: &str) {
        let dropped = self.kept().remove(path);
        drop(dropped);
    }

    /// Whether to schedule a [sweep](Self::sweep): there are entries, and none is scheduled.
    pub(super) fn starts_sweeping(&self) -> bool {
        !self.kept().entries.is_empty() && !self.is_swept.swap(true, Ordering::Relaxed)
    }

    /// Forgets the entries that no request has found since the last sweep, and closes their files.
    pub(super) fn sweep(&self) {
        let mut dropped = Vec::new();
        let mut kept = self.kept();
        let is_idle = |entry: &Entry| !entry.is_used.swap(false, Ordering::Relaxed);
        let idle = kept.entries.iter().filter(|(_, entry)| is_idle(entry));
        let idle: Vec<_> = idle.map(|(path, _)| path.clone()).collect();
        dropped.extend(idle.iter().filter_map(|path| kept.remove(path)));
        kept.count_leaving();
        drop(kept);
        self.is_swept.store(false, Ordering::Relaxed);
        drop(dropped);
    }
}

impl Kept {
    fn remove(&mut self, path: &str) -> Option<Arc<Entry>> {
        let entry = self.entries.remove(path)?;
        self.bytes -= size(path, &entry);
        self.order.retain(|other| &**other != path);
        if let Some(copy) = entry.sealed().as_ref() {
            let (weak, size) = (copy.downgrade(), sealed_size(copy));
            // The caller drops an entry, and a copy, that have no other users.
            if Arc::strong_count(&entry) > 1 || weak.users() > 1 {
                self.bytes += size;
                self.leaving.push((weak, size));
            }
        }
        Some(entry)
    }

    /// Forgets the copies that have no readers left. Returns the size of the others.
    fn count_leaving(&mut self) -> usize {
        let gone = self.leaving.extract_if(.., |(copy, _)| copy.users() == 0);
        self.bytes -= gone.map(|(_, size)| size).sum::<usize>();
        self.leaving.iter().map(|(_, size)| size).sum()
    }

    /// Removes the first entry that was not used since it was last considered.
    fn remove_oldest(&mut self) -> Option<Arc<Entry>> {
        loop {
            let path = self.order.front()?.clone();
            let is_used = |entry: &Arc<Entry>| entry.is_used.swap(false, Ordering::Relaxed);
            if !self.entries.get(&path).is_some_and(is_used) {
                return self.remove(&path);
            }
            self.order.rotate_left(1);
        }
    }
}

fn size(path: &str, entry: &Entry) -> usize {
    let contents = match entry.contents() {
        Contents::Bytes(bytes) => bytes.len(),
        Contents::Sealed(copy) => sealed_size(&copy),
        Contents::OnDisk => 0,
    };
    OVERHEAD + 2 * path.len() + contents
}

/// The length of a copy, which is not above `Limits::sealed`.
fn sealed_size(copy: &SharedFile) -> usize {
    copy.metadata().len() as usize
}

/// Copies the contents of a file into memory that can't change any more.
fn sealed_copy(file: &SharedFile) -> io::Result<SharedFile> {
    let mut copy = new_memory_file()?;
    let (mut offset, size) = (0, file.metadata().len());
    let mut piece = vec![0; PIECE];
    while offset < size {
        let count = (size - offset).min(PIECE as u64);
        let piece = &mut piece[..count as usize];
        // Fails if the file has changed.
        file.read(piece, offset)?;
        copy.write_all(piece)?;
        offset += count;
    }
    // Optional: huge pages only make sending cheaper.
    #[cfg(target_os = "linux")]
    let _ = couplet_os::huge::collapse(&copy, size as usize);
    seal(&copy)?;
    SharedFile::immutable(copy)
}

#[cfg(target_os = "linux")]
fn new_memory_file() -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create("couplet-contents", flags)?.into())
}

#[cfg(target_os = "linux")]
fn seal(file: &File) -> io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, seals)?)
}

/// Only Linux sends files without a copy.
#[cfg(not(target_os = "linux"))]
fn new_memory_file() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn seal(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether files of this type are text for browsers, which would otherwise guess the characters.
fn is_text(kind: &str) -> bool {
    let is_other = |kind| {
        matches!(kind, "application/javascript" | "application/x-javascript" | "application/json")
    };
    kind.starts_with("text/") || is_other(kind) || kind.ends_with("+json")
}

/// The type of text with its characters, if they are UTF-8. Of a long file, the beginning decides: its
/// last character may be incomplete.
fn text_kind(kind: &str, beginning: &[u8]) -> HeaderValue {
    let is_utf8 = match str::from_utf8(beginning) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && beginning.len() == SMALL as usize,
    };
    match is_utf8 {
        true => header_value(&format!("{kind}; charset=utf-8")),
        false => header_value(kind),
    }
}

/// The type of a file, unless HTTP does not allow it.
fn header_value(kind: &str) -> HeaderValue {
    HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static(UNKNOWN))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
