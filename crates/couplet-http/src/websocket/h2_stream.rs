//! [`H2Stream`]: an HTTP/2 stream below a WebSocket, RFC 8441.
//!
//! Contract: 175a.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, Write};

use crate::http2::{StreamEnd, TunnelIo};
use crate::monitor::{Exchange, Monitor};
use couplet_core::{Reactor, Transport};

/// Number of unsent bytes from which `send` waits.
const HIGH: usize = 64 * 1024;

/// Maximum number of bytes passed to the tunnel at a time.
const PIECE: usize = 16 * 1024;

pub(super) struct H2Stream {
    io: TunnelIo,
    monitor: Rc<Monitor>,
    /// Keeps the connection active, and accounts for the bytes it holds for this stream.
    exchange: Exchange,
    /// Resolves when the connection begins to finish; `None` afterwards.
    draining: Option<Pin<Box<dyn Future<Output = ()>>>>,
    // At most HIGH, one message of the user, and MAX_CONTROL_BUFFER of pongs.
    unsent: Vec<u8>,
    /// Number of these bytes that the tunnel has taken.
    sent: usize,
}

impl H2Stream {
    pub(super) fn new(io: TunnelIo, monitor: &Rc<Monitor>) -> H2Stream {
        let exchange = monitor.begin(None);
        let (monitor, draining) = (monitor.clone(), Some(Box::pin(monitor.finishing()) as _));
        H2Stream { io, monitor, exchange, draining, unsent: Vec::new(), sent: 0 }
    }

    pub(super) fn stream_end(&self) -> StreamEnd {
        self.io.stream_end()
    }

    pub(super) fn transport(&self) -> &Transport {
        self.monitor.transport()
    }

    /// Ready when the connection begins to finish.
    pub(super) fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(draining) = &mut self.draining {
            ready!(draining.as_mut().poll(cx));
            self.draining = None;
        }
        Poll::Ready(())
    }

    pub(super) fn buffered(&self) -> usize {
        self.unsent.len() - self.sent
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut room = [const { MaybeUninit::uninit() }; 4096];
        let room_len = buffer.len().min(room.len());
        let mut read = ReadBuf::uninit(&mut room[..room_len]);
        ready!(Pin::new(&mut self.io).poll_read(cx, read.unfilled()))?;
        let filled = read.filled();
        buffer[..filled.len()].copy_from_slice(filled);
        Poll::Ready(Ok(filled.len()))
    }

    /// Queues bytes; [`poll_flush`](Self::poll_flush) must follow.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.exchange.hold(bytes.len());
        self.unsent.extend_from_slice(bytes);
    }

    /// Ready when the tunnel has taken all bytes.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            let end = self.unsent.len().min(self.sent + PIECE);
            let piece = &self.unsent[self.sent..end];
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, piece))?;
            self.exchange.note_copied(count);
            self.sent += count;
        }
        self.unsent.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Ready when less than the high mark is buffered and the connection's share has room.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_flush(cx) {
            Poll::Pending if self.buffered() < HIGH => {}
            polled => ready!(polled)?,
        }
        ready!(self.exchange.poll_turn(cx));
        self.exchange.end_turn();
        Poll::Ready(Ok(()))
    }

    /// Flushes and ends the stream, within a time limit.
    pub(super) fn end(mut self, reactor: &Reactor, within: Duration) {
        let timer = reactor.clone();
        let ending = async move {
            let flushing = std::future::poll_fn(|cx| {
                ready!(self.poll_flush(cx))?;
                Pin::new(&mut self.io).poll_shutdown(cx)
            });
            timer.timeout(within, async { Ok(flushing.await?) }).await
        };
        reactor.spawn(ending).add_errback(|_| Ok(())).detach();
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        self.exchange.release(self.buffered());
    }
}
