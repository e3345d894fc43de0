//! The body of an answer. A thread reads the parts of a file, one piece at a time as the client
//! takes them; all pieces are of the same version of the file.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use couplet::http::Allowance;
use couplet::{Deferred, Reactor};
use http_body::{Frame, SizeHint};
use rustix::buffer::spare_capacity;
use rustix::io::{pread, retry_on_intr};

/// Largest read, in bytes.
pub(super) const PIECE: usize = 64 * 1024;

/// A body made of bytes in memory and parts of a file.
#[derive(Default)]
pub(super) struct Content {
    // Bound: two for each of MOST_RANGES (32) ranges, and one. A listing has three.
    segments: VecDeque<Segment>,
}

enum Segment {
    Bytes(Bytes),
    /// Never empty.
    Part(Arc<Version>, Range<u64>),
}

/// A file in the version that was opened.
pub(super) struct Version {
    file: File,
    metadata: Metadata,
}

impl Version {
    pub(super) fn new(file: File, metadata: Metadata) -> Version {
        Version { file, metadata }
    }

    /// Reads a range of at most one piece into a buffer with [room](room_for) for it. The loop's thread
    /// allocates the buffers of long files, because glibc retains memory for each reading thread.
    ///
    /// # Errors
    ///
    /// System errors, and an error if the file has changed since it was opened, because the client
    /// may have received bytes that were replaced.
    fn read(&self, range: &Range<u64>, mut buffer: Vec<u8>) -> io::Result<Bytes> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let read = self.fill(&mut buffer, range.start, length);
        let now = self.file.metadata()?;
        let version = |it: &Metadata| (it.size(), it.mtime(), it.mtime_nsec());
        if version(&now) != version(&self.metadata) {
            return Err(io::Error::other("the file changed while it was read"));
        }
        read?;
        buffer.truncate(length);
        Ok(buffer.into())
    }

    fn fill(&self, buffer: &mut Vec<u8>, start: u64, length: usize) -> io::Result<()> {
        while buffer.len() < length {
            let at = start + buffer.len() as u64;
            if retry_on_intr(|| pread(&self.file, spare_capacity(buffer), at))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn room_for(range: &Range<u64>) -> Vec<u8> {
    Vec::with_capacity((range.end - range.start) as usize)
}

impl Content {
    pub(super) fn push_bytes(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.segments.push_back(Segment::Bytes(bytes));
        }
    }

    pub(super) fn push_part(&mut self, version: &Arc<Version>, range: Range<u64>) {
        if !range.is_empty() {
            self.segments.push_back(Segment::Part(version.clone(), range));
        }
    }

    pub(super) fn length(&self) -> u64 {
        let lengths = self.segments.iter().map(|segment| match segment {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::Part(_, range) => range.end - range.start,
        });
        lengths.sum()
    }

    /// Reads the next part of a file ahead if it has at most `most` bytes. Blocks.
    pub(super) fn read_ahead(&mut self, most: usize) -> io::Result<()> {
        if let Some(Segment::Part(_, range)) = self.segments.front()
            && range.end - range.start <= most as u64
            && let Some((version, range)) = self.next_part(most)
        {
            self.segments.push_front(Segment::Bytes(version.read(&range, room_for(&range))?));
        }
        Ok(())
    }

    /// The number of bytes in memory.
    pub(super) fn in_memory(&self) -> usize {
        let lengths = self.segments.iter().map(|segment| match segment {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Part(..) => 0,
        });
        lengths.sum()
    }

    /// Takes the next bytes, if they are in memory.
    fn next_bytes(&mut self) -> Option<Bytes> {
        let Some(Segment::Bytes(bytes)) = self.segments.front_mut() else { return None };
        let bytes = std::mem::take(bytes);
        self.segments.pop_front();
        Some(bytes)
    }

    /// Takes the next piece of at most `most` bytes, if it is in a file.
    fn next_part(&mut self, most: usize) -> Option<(Arc<Version>, Range<u64>)> {
        let Some(Segment::Part(version, left)) = self.segments.front_mut() else { return None };
        let end = left.end.min(left.start.saturating_add(most as u64));
        let (version, piece) = (version.clone(), left.start..end);
        left.start = end;
        if left.is_empty() {
            self.segments.pop_front();
        }
        Some((version, piece))
    }
}

/// A body that is being sent.
pub(super) struct ContentBody {
    content: Content,
    /// Bytes not sent yet.
    left: u64,
    /// The read in progress.
    reading: Option<Deferred<Bytes>>,
    allowance: Allowance,
    reactor: Reactor,
}

impl ContentBody {
    pub(super) fn new(content: Content, allowance: Allowance, reactor: &Reactor) -> ContentBody {
        let left = content.length();
        ContentBody { content, left, reading: None, allowance, reactor: reactor.clone() }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.reading.is_none() {
            if let Some(bytes) = self.content.next_bytes() {
                return Poll::Ready(Ok(Some(bytes)));
            }
            if self.left == 0 {
                return Poll::Ready(Ok(None));
            }
            let most = self.allowance.reserve(PIECE);
            let Some((version, piece)) = self.content.next_part(most) else {
                return Poll::Ready(Ok(None));
            };
            let buffer = room_for(&piece);
            let read = move || Ok(version.read(&piece, buffer)?);
            self.reading = Some(self.reactor.defer_to_thread(read));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(Ok(None)) };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(read.map(Some).map_err(|failure| io::Error::other(failure.to_string())))
    }
}

impl http_body::Body for ContentBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = ready!(self.poll_bytes(cx)).inspect_err(|error| {
            tracing::warn!(%error, "a response was cut off");
            self.content = Content::default();
        });
        let frame = polled.map(|bytes| {
            let bytes = bytes?;
            self.left = self.left.saturating_sub(bytes.len() as u64);
            Some(Frame::data(bytes))
        });
        Poll::Ready(frame.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
