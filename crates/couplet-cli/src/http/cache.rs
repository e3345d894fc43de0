//! Open files, and the contents of small ones, for a second without a look at the file system.
//!
//! A file is kept only if it has not changed for some time: a file that changes twice within a step of
//! the system's clock has the same version.

use std::collections::{BTreeMap, VecDeque};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use couplet::driver::SharedFile;
use couplet::http::HeaderValue;

use super::conditions::Validators;

/// Contents of at most so many bytes are kept. A longer file costs less to send than to copy.
pub(super) const SMALL: u64 = 64 * 1024;

/// Memory of an entry beside its contents and its path, in bytes.
const OVERHEAD: usize = 512;

/// The limits of a cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) files: usize,
    pub(super) bytes: usize,
    /// For how long an entry counts without a look at the file system.
    pub(super) trust: Duration,
}

/// A file as the answers to its requests need it.
pub(super) struct Entry {
    file: SharedFile,
    /// Those of a small file.
    // Bound: SMALL (64 KiB).
    pub(super) contents: Option<Bytes>,
    pub(super) kind: HeaderValue,
    pub(super) etag: Option<HeaderValue>,
    pub(super) modified: Option<HeaderValue>,
    pub(super) validators: Validators,
    /// When the file was last looked at, in milliseconds since 1970.
    checked: AtomicU64,
    is_used: AtomicBool,
}

impl Entry {
    /// Reads the file if it is small. Blocks.
    ///
    /// # Errors
    ///
    /// The system's error, or an error if the file changes meanwhile.
    pub(super) fn new(file: SharedFile, kind: HeaderValue, now: Duration) -> io::Result<Entry> {
        let (validators, size) =
            (Validators::from_metadata(file.metadata(), now), file.metadata().len());
        let mut contents = None;
        if size <= SMALL {
            let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
            file.read(&mut bytes, 0)?;
            contents = Some(bytes.into());
        }
        let checked = AtomicU64::new(millis(now));
        let is_used = AtomicBool::new(true);
        let (etag, modified) = (validators.etag(), validators.last_modified());
        Ok(Entry { file, contents, kind, etag, modified, validators, checked, is_used })
    }

    pub(super) fn file(&self) -> &SharedFile {
        &self.file
    }

    pub(super) fn size(&self) -> u64 {
        self.file.metadata().len()
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        let version = |it: &Metadata| (it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec());
        version(self.file.metadata()) == version(metadata)
    }
}

/// Entries by the path of their URL.
pub(super) struct Cache {
    limits: Limits,
    kept: Mutex<Kept>,
    /// A sweep is scheduled.
    is_swept: AtomicBool,
}

#[derive(Default)]
struct Kept {
    // Bound: `Limits::files`, and `Limits::bytes` for their paths and contents.
    entries: BTreeMap<Box<str>, Arc<Entry>>,
    /// The paths of the entries, the next to leave first.
    // Bound: one for each entry.
    order: VecDeque<Box<str>>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(limits: Limits) -> Cache {
        Cache { limits, kept: Mutex::default(), is_swept: AtomicBool::new(false) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a path, unless the file system must be looked at.
    pub(super) fn find(&self, path: &str, now: Duration) -> Option<Arc<Entry>> {
        let entry = self.kept().entries.get(path)?.clone();
        let checked = Duration::from_millis(entry.checked.load(Ordering::Relaxed));
        let is_trusted = now.checked_sub(checked).is_some_and(|age| age < self.limits.trust);
        // A change of the open file is noticed at once, and another file in its place after the time.
        if !is_trusted || entry.file.check().is_err() {
            return None;
        }
        entry.is_used.store(true, Ordering::Relaxed);
        Some(entry)
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

    /// Keeps an entry, unless its file has changed too recently. Older entries leave, first those that no
    /// request has found since they were last considered.
    pub(super) fn keep(&self, path: &str, entry: &Arc<Entry>) {
        let size = size(path, entry);
        let mut dropped = Vec::new();
        let mut kept = self.kept();
        dropped.extend(kept.remove(path));
        if entry.validators.are_strong() && size <= self.limits.bytes && self.limits.files > 0 {
            while kept.entries.len() >= self.limits.files || kept.bytes + size > self.limits.bytes {
                dropped.extend(kept.remove_oldest());
            }
            kept.bytes += size;
            kept.entries.insert(path.into(), entry.clone());
            kept.order.push_back(path.into());
        }
        drop(kept);
        // Files are closed while nothing is locked.
        drop(dropped);
    }

    /// Forgets a path that is no file.
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
        Some(entry)
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
    let contents = entry.contents.as_ref().map_or(0, Bytes::len);
    OVERHEAD + 2 * path.len() + contents
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
