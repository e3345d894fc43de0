//! [`Io`]: a stream as hyper wants one, `Send`, so that a guest may keep it after an upgrade.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::watch::Watch;
use crate::Stream;
use crate::stream::homing::Homing;

/// The most empty lines before a request, as bytes. hyper looks at all of them with each read, so more
/// are spoilt with a NUL, which it refuses.
const MOST_BLANK: usize = 1024;

pub(super) struct Io(Homing<Inner>);

pub(super) struct Inner {
    stream: Stream,
    watch: Rc<Watch>,
    /// What was read and given back.
    unread: Bytes,
    /// Bytes of empty lines that came last, in place of a request.
    blank: usize,
}

impl Io {
    pub(super) fn new(stream: Stream, watch: &Rc<Watch>) -> Io {
        let reactor = stream.transport().reactor().clone();
        Io(Homing::new(
            &reactor,
            Inner { stream, watch: watch.clone(), unread: Bytes::new(), blank: 0 },
        ))
    }

    fn inner(&mut self) -> io::Result<&mut Inner> {
        self.0.get_mut().ok_or_else(|| io::Error::other("used outside the thread of its loop"))
    }

    /// The stream, and what was read from it and given back.
    #[cfg(feature = "websocket")]
    pub(super) fn into_parts(self) -> Option<(Stream, Bytes)> {
        self.0.into_inner().map(|inner| (inner.stream, inner.unread))
    }

    /// Puts bytes back, to be read first.
    pub(super) fn put_back(&mut self, unread: Bytes) {
        // An empty one may hold a buffer.
        if let Ok(inner) = self.inner()
            && !unread.is_empty()
        {
            inner.unread = unread;
        }
    }

    /// Ready when the connection is to finish. Else the task is woken then, unless it shuts down first.
    pub(super) fn poll_draining(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        Ok(self.inner()?.stream.poll_draining(cx))
    }

    /// Ready when bytes have come, with true, or the end of them; they stay where they are.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let inner = self.inner()?;
        if inner.unread.is_empty() { inner.stream.poll_readable(cx) } else { Poll::Ready(Ok(true)) }
    }

    /// Reads at most as many bytes as `most`, after what was put back.
    pub(super) fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<Vec<u8>>> {
        let mut more = vec![0; most];
        let inner = self.inner()?;
        let n = ready!(inner.stream.poll_read_slice(cx, &mut more))?;
        if n > 0 {
            inner.watch.received();
        }
        more.truncate(n);
        Poll::Ready(Ok(more))
    }
}

impl Inner {
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match self.watch.lent(data) {
            Some(piece) => self.stream.poll_write_bytes(cx, piece),
            None => self.stream.poll_write_slice(cx, data),
        };
        self.watch.set_blocked(polled.is_pending());
        polled
    }
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// How many empty lines have come in place of a request, as bytes.
#[cold]
fn blank_after(before: usize, data: &[u8], watch: &Watch) -> usize {
    let is_in_place = watch.awaits_head() && data.iter().all(is_blank);
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
            inner.watch.received();
            return Poll::Ready(Ok(()));
        }
        let Inner { stream, watch, blank, .. } = inner;
        stream.poll_read_with(cx, buffer.remaining(), |data| {
            let Some(first) = data.first() else { return };
            watch.received();
            *blank = if is_blank(first) { blank_after(*blank, data, watch) } else { 0 };
            buffer.put_slice(if *blank > MOST_BLANK { b"\0" } else { data });
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
        let mut written = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            match inner.poll_write(cx, piece) {
                Poll::Ready(Ok(n)) => {
                    written += n;
                    if n < piece.len() {
                        break;
                    }
                }
                // What is pending, or failed, is so again the next time.
                _ if written > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written leaves with the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(Pin::new(&mut self.inner()?.stream), cx)
    }
}
