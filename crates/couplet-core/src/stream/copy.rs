//! [`copy_bidirectional`]: joins two streams.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Stream;
use super::shared::lost_error;
use crate::protocols::Relay;
use crate::{Protocol, Reason, Transport};

/// Joins two streams: the bytes of each are sent to the other, with half-closes, resets and
/// back-pressure. Completes when both connections have ended, with the number of bytes received
/// from the first and from the second.
///
/// A [`Relay`] takes over both connections and does the work, so no task is polled for the bytes
/// that pass.
///
/// Not cancel-safe: dropping the future closes both connections.
///
/// ```
/// use couplet::stream::copy_bidirectional;
///
/// couplet::run(|reactor| {
///     let connecting = reactor.clone();
///     reactor.serve("tcp:0:interface=127.0.0.1", async move |near| {
///         let far = connecting.connect_stream("tcp:localhost:8000").await?;
///         let (sent, received) = copy_bidirectional(near, far).await?;
///         println!("{sent} bytes sent, {received} received");
///         Ok(())
///     })?;
/// #   reactor.stop();
///     Ok(())
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
///
/// # Errors
///
/// If a connection did not end cleanly; the other was then reset.
pub async fn copy_bidirectional(one: Stream, other: Stream) -> io::Result<(u64, u64)> {
    let copying = Rc::<CopyState>::default();
    let _closing = [&one, &other].map(|stream| CloseGuard(stream.transport().clone()));
    let (near, far) = Relay::pair();
    one.upgrade(CopyEnd { relay: near, side: 0, copying: copying.clone() });
    other.upgrade(CopyEnd { relay: far, side: 1, copying: copying.clone() });
    poll_fn(|cx| copying.poll(cx)).await
}

/// State shared by both ends.
#[derive(Default)]
struct CopyState {
    bytes: [Cell<u64>; 2],
    ended: Cell<usize>,
    /// The reason of the first unclean end, which causes the second.
    broken: RefCell<Option<Reason>>,
    waiting: RefCell<Option<Waker>>,
}

impl CopyState {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<(u64, u64)>> {
        if self.ended.get() < 2 {
            let before = self.waiting.replace(Some(cx.waker().clone()));
            drop(before);
            return Poll::Pending;
        }
        Poll::Ready(match &*self.broken.borrow() {
            Some(reason) => Err(lost_error(reason)),
            None => Ok((self.bytes[0].get(), self.bytes[1].get())),
        })
    }
}

/// The protocol of one end.
struct CopyEnd {
    relay: Relay,
    side: usize,
    copying: Rc<CopyState>,
}

impl Protocol for CopyEnd {
    fn connection_made(&mut self, transport: &Transport) {
        self.relay.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let bytes = &self.copying.bytes[self.side];
        bytes.set(bytes.get() + data.len() as u64);
        self.relay.data_received(transport, data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.relay.read_closed(transport);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        if !reason.is_clean() {
            self.copying.broken.borrow_mut().get_or_insert_with(|| reason.clone());
        }
        self.relay.connection_lost(transport, reason);
    }
}

impl Drop for CopyEnd {
    /// The connection has ended, perhaps before this protocol took it over.
    fn drop(&mut self) {
        self.copying.ended.set(self.copying.ended.get() + 1);
        let waiting = self.copying.waiting.take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// Closes a connection that is still open.
struct CloseGuard(Transport);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        self.0.lose_connection();
    }
}
