//! [`Io`]: adapts a stream to hyper's I/O traits. `Io` is `Send`, so that the user of an upgraded
//! connection may keep it.
//!
//! Contract: 51d, 172.

use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::body::is_file;
use super::monitor::Monitor;
use couplet_core::hooks::GuestStream;
use couplet_core::hooks::LoopOwned;
use couplet_core::{HandOver, Stream};

/// Maximum length of the empty lines before a request, in bytes. hyper scans all of them with each
/// read, so further ones are replaced by a NUL, which hyper refuses.
const MAX_BLANK: usize = 1024;

pub(super) struct Io(LoopOwned<Inner>);

pub(super) struct Inner {
    stream: Stream,
    monitor: Rc<Monitor>,
    /// The length of the part of a file that the transport is sending.
    sending: Option<NonZeroUsize>,
    /// Bytes that were put back, to be read first.
    unread: Bytes,
    /// Length of the empty lines received most recently in place of a request, in bytes.
    blank: usize,
}

impl Io {
    pub(super) fn new(stream: Stream, monitor: &Rc<Monitor>) -> Io {
        let reactor = stream.transport().reactor().clone();
        Io(LoopOwned::new(
            &reactor,
            Inner {
                stream,
                monitor: monitor.clone(),
                sending: None,
                unread: Bytes::new(),
                blank: 0,
            },
        ))
    }

    fn inner(&mut self) -> io::Result<&mut Inner> {
        self.0.get_mut().ok_or_else(|| io::Error::other("used outside the thread of its loop"))
    }

    /// Returns the stream and the bytes that were put back.
    pub(super) fn into_parts(self) -> Option<(Stream, Bytes)> {
        self.0.into_inner().map(|inner| (inner.stream, inner.unread))
    }

    /// Puts bytes back, to be read before new ones.
    pub(super) fn put_back(&mut self, unread: Bytes) {
        // An empty `Bytes` may still own a buffer.
        if let Ok(inner) = self.inner()
            && !unread.is_empty()
        {
            debug_assert!(inner.unread.is_empty());
            inner.unread = unread;
        }
    }

    /// Leaves the connection to another process.
    pub(super) fn leave(self, handed: Option<HandOver>) {
        if let (Some((stream, unread)), Some(handed)) = (self.into_parts(), handed) {
            stream.leave(handed.with_unread(unread));
        }
    }

    /// Ready with true when bytes are available, or with false at the end of the stream. Consumes
    /// nothing.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let inner = self.inner()?;
        if inner.unread.is_empty() { inner.stream.poll_readable(cx) } else { Poll::Ready(Ok(true)) }
    }

    /// Reads at most `most` bytes from the stream, ignoring bytes that were put back.
    pub(super) fn poll_read_new(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<Vec<u8>>> {
        let mut more = vec![0; most];
        let inner = self.inner()?;
        let n = ready!(inner.stream.poll_read_slice(cx, &mut more))?;
        if n > 0 {
            inner.monitor.received();
        }
        more.truncate(n);
        Poll::Ready(Ok(more))
    }
}

impl Inner {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = if is_file(data) { self.poll_send_file(cx) } else { self.poll_send(cx, data) };
        self.monitor.set_blocked(polled.is_pending());
        polled
    }

    /// Sends the next part of a file, and is ready once nearly all of it has left: until then its
    /// request is in flight.
    fn poll_send_file(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = match self.sending {
            Some(count) => count.get(),
            None => {
                ready!(self.stream.poll_room(cx))?;
                let Some(part) = self.monitor.take_file() else {
                    return Poll::Ready(Err(io::Error::other("a part of a file is missing")));
                };
                self.stream.transport().send_file_range(part.file(), part.range());
                self.sending = NonZeroUsize::new(part.len());
                part.len()
            }
        };
        ready!(self.stream.poll_room(cx))?;
        self.sending = None;
        self.monitor.end_file();
        Poll::Ready(Ok(count))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.monitor.find_lent(data) {
            Some(piece) => self.stream.poll_write_bytes(cx, piece),
            None => self.stream.poll_write_slice(cx, data),
        }
    }
}

/// Writes the pieces in order, until one is not taken whole. One that stands for a part of a file counts
/// as long as the part.
fn write_pieces(
    pieces: &[IoSlice<'_>],
    mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let mut written = 0;
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        match write(piece) {
            Poll::Ready(Ok(n)) => {
                written += n;
                if n < piece.len() {
                    break;
                }
            }
            // The next call repeats the outcome.
            _ if written > 0 => break,
            other => return other,
        }
    }
    Poll::Ready(Ok(written))
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Returns the new length of the empty lines in place of a request, in bytes.
#[cold]
fn blank_after(before: usize, data: &[u8], monitor: &Monitor) -> usize {
    let is_in_place = monitor.awaits_head() && data.iter().all(is_blank);
    if is_in_place { before + data.len() } else { 0 }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = self.inner()?;
        if !inner.unread.is_empty() {
            let n = inner.unread.len().min(buffer.remaining());
            buffer.put_slice(&inner.unread.split_to(n));
            if inner.unread.is_empty() {
                inner.unread = Bytes::new();
            }
            inner.monitor.received();
            return Poll::Ready(Ok(()));
        }
        let Inner { stream, monitor, blank, .. } = inner;
        stream.poll_read_with(cx, buffer.remaining(), |data| {
            let Some(first) = data.first() else { return };
            monitor.received();
            *blank = if is_blank(first) { blank_after(*blank, data, monitor) } else { 0 };
            buffer.put_slice(if *blank > MAX_BLANK { b"\0" } else { data });
        })
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = self.inner()?;
        write_pieces(pieces, |piece| inner.poll_write(cx, piece))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Written bytes leave with the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = self.inner()?;
        inner.monitor.note_shutdown();
        Write::poll_shutdown(Pin::new(&mut inner.stream), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes to a transport that takes these byte counts in turn; a zero means pending.
    fn taken(pieces: &[&[u8]], counts: &[usize]) -> (Vec<u8>, usize) {
        let whole: Vec<u8> = pieces.concat();
        let (mut got, mut turns, mut stops) = (Vec::new(), counts.iter().cycle(), 0);
        while got.len() < whole.len() {
            let mut before = got.len();
            let rest: Vec<IoSlice<'_>> = pieces
                .iter()
                .map(|piece| {
                    let cut = before.min(piece.len());
                    before -= cut;
                    IoSlice::new(&piece[cut..])
                })
                .collect();
            let begun = got.len();
            let polled = write_pieces(&rest, |piece| {
                let count = piece.len().min(*turns.next().expect("it repeats"));
                got.extend(&piece[..count]);
                if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
            });
            match polled {
                Poll::Ready(written) => assert_eq!(written.ok(), Some(got.len() - begun)),
                Poll::Pending => {
                    assert_eq!(got.len(), begun);
                    stops += 1;
                }
            }
        }
        assert_eq!(got, whole, "{counts:?}");
        (got, stops)
    }

    #[test]
    fn partly_taken_pieces_continue_at_the_cut() {
        let long: Vec<u8> = (0..=255).collect();
        let pieces: [&[u8]; 5] = [b"HTTP/1.1 200 OK", b"", &long, b"x", b"the end"];
        for counts in [&[1][..], &[3], &[7, 1], &[1000], &[15, 0], &[16, 0, 255, 0], &[0, 5, 0, 0]]
        {
            let (_, stops) = taken(&pieces, counts);
            assert_eq!(stops > 0, counts.contains(&0), "{counts:?}");
        }
    }

    #[test]
    fn an_error_behind_written_pieces_fails_the_next_call() {
        let pieces = [IoSlice::new(b"ab"), IoSlice::new(b"cd")];
        let broken = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        let first = write_pieces(&pieces, |piece| match piece {
            b"ab" => Poll::Ready(Ok(2)),
            _ => broken(),
        });
        assert!(matches!(first, Poll::Ready(Ok(2))), "{first:?}");
        let next = write_pieces(&pieces[1..], |_| broken());
        assert!(matches!(next, Poll::Ready(Err(_))), "{next:?}");
    }
}
