//! The hooks of a stream for a guest, such as hyper, that drives its connection.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::Stream;
pub use super::shared::Departure;
use super::shared::{Decision, SharedStream};
use crate::{HandOver, Reason};

/// Observes the end of a stream's connection, for the task that serves it.
pub struct ConnectionEnd(Rc<SharedStream>);

impl ConnectionEnd {
    /// Ready when the connection is lost, with an error unless it ended cleanly. A pending poll
    /// wakes the task at that point, and also when the connection is asked to finish.
    ///
    /// # Errors
    ///
    /// The reason of the loss, unless it was clean.
    pub fn poll_lost(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_lost(cx)
    }

    /// Ready when the peer's stream has ended and was read, with the reason if the connection is
    /// lost. One task may wait for it, besides the one of [`poll_lost`](Self::poll_lost).
    pub fn poll_peer_end(&self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        self.0.poll_peer_end(cx)
    }

    /// The reason of the loss.
    pub fn reason(&self) -> Option<Reason> {
        self.0.loss()
    }

    /// Whether the connection may leave for another process. [`Now`](Departure::Now) lasts for one
    /// poll, of a task that waits for bytes.
    pub fn departure(&self) -> Departure {
        self.0.departure.get()
    }
}

impl std::fmt::Debug for ConnectionEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionEnd").finish_non_exhaustive()
    }
}

/// A stream's operations for a guest, which writes body chunks without copying them. Errors come from
/// the connection.
pub trait GuestStream: Sealed {
    /// Observes the end of its connection.
    fn ending(&self) -> ConnectionEnd;

    /// Ready with true when bytes have arrived, which stay unread, or with false at the end of the
    /// stream.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>>;

    /// Leaves the connection to another process, with the bytes that were not read. Only while its
    /// [`departure`](ConnectionEnd::departure) is [`Now`](Departure::Now).
    fn leave(self, handed: HandOver);

    /// Ready when the connection is asked to finish or is lost. One task may wait for it.
    fn poll_draining(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Reads into `buffer`; ready with the number of bytes, 0 at the end of the stream.
    fn poll_read_slice(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Passes at most `room` bytes to `put`.
    fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        put: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<()>>;

    /// Writes some of `data`; ready with the number of bytes.
    fn poll_write_slice(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>>;

    /// Ready when the buffer has room to write.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Writes all of `bytes`, without a copy, once the buffer has room.
    fn poll_write_bytes(&self, cx: &mut Context<'_>, bytes: Bytes) -> Poll<io::Result<usize>>;
}

pub trait Sealed {}
impl Sealed for Stream {}

impl GuestStream for Stream {
    fn ending(&self) -> ConnectionEnd {
        ConnectionEnd(self.owner.0.clone())
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.shared().poll_decision(cx, |arrived, ended| {
            let is_over = !arrived.is_empty() || ended;
            Ok(if is_over { Decision::Taken(0, !arrived.is_empty()) } else { Decision::More })
        })
    }

    fn leave(self, handed: HandOver) {
        debug_assert_eq!(self.shared().departure.get(), Departure::Now);
        self.shared().leave(handed);
    }

    fn poll_draining(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared().poll_draining(cx)
    }

    fn poll_read_slice(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.shared().poll_read(cx, buffer)
    }

    fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        put: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<()>> {
        self.shared().poll_read_into(cx, room, put).map_ok(drop)
    }

    fn poll_write_slice(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.shared().poll_write(cx, data)
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared().poll_room(cx)
    }

    fn poll_write_bytes(&self, cx: &mut Context<'_>, bytes: Bytes) -> Poll<io::Result<usize>> {
        ready!(self.shared().poll_room(cx))?;
        let n = bytes.len();
        self.transport().write_bytes(bytes);
        Poll::Ready(Ok(n))
    }
}
