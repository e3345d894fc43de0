//! [`FileBody`]: a response body of bytes and parts of files, which the server sends from the files.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body::Content;
use couplet_core::transport::{FilePart, SharedFile};

/// Most bytes in a frame, for a reader other than the server.
const FRAME: usize = 64 * 1024;

/// A response body made of bytes and ranges of files.
///
/// The server sends the ranges by [`send_file_range`](couplet_core::Transport::send_file_range): they
/// are read as the client takes them, and the connection is reset if a file changes before that. A
/// wrapper, such as a tower layer that compresses, gets frames of at most 64 KiB, and an error if a
/// file changes. Either way the loop waits for a disk if the bytes are not in memory.
///
/// ```
/// # fn page() -> std::io::Result<()> {
/// use couplet::transport::SharedFile;
/// use couplet::http::{FileBody, Response};
///
/// let file = SharedFile::new(std::fs::File::open("page.html")?)?;
/// let mut body = FileBody::default();
/// body.push_file(&file, 0..file.metadata().len());
/// let response = Response::new(body);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct FileBody {
    pieces: VecDeque<Content>,
}

impl FileBody {
    /// Appends bytes.
    pub fn push_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.push(Content::Bytes(bytes.into()));
    }

    /// Appends a range of a file.
    pub fn push_file(&mut self, file: &SharedFile, range: Range<u64>) {
        self.push(Content::File(FilePart::new(file, range)));
    }

    fn push(&mut self, piece: Content) {
        if piece.len() > 0 {
            self.pieces.push_back(piece);
        }
    }

    /// The number of bytes that are left.
    pub fn length(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Takes the next piece.
    pub(super) fn next_piece(&mut self) -> Option<Content> {
        self.pieces.pop_front()
    }

    fn push_front(&mut self, part: FilePart) {
        if !part.is_empty() {
            self.pieces.push_front(Content::File(part));
        }
    }

    /// Takes the next bytes, and reads them if they are in a file.
    fn next_bytes(&mut self) -> Option<io::Result<Bytes>> {
        let mut part = match self.pieces.pop_front()? {
            Content::Bytes(bytes) => return Some(Ok(bytes)),
            Content::File(part) => part,
        };
        let mut bytes = Vec::new();
        let read = part.take(FRAME, &mut bytes);
        match read {
            Ok(()) => self.push_front(part),
            Err(_) => self.pieces.clear(),
        }
        Some(read.map(|()| bytes.into()))
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.next_bytes().map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length())
    }
}
