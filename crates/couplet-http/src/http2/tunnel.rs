//! [`Tunnel`]: the stream of a CONNECT as a byte stream, RFC 9113, 8.5, and RFC 8441.
//!
//! Users get it by hyper's [`OnUpgrade`], which only hyper can create. So a connection of hyper's
//! HTTP/1.1 receives a request to upgrade, on I/O that is the tunnel; its OnUpgrade serves the
//! request of HTTP/2.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;

use super::bell::Bell;
use super::inbox::Receiver;
use super::streams::Key;

/// The request to upgrade.
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2\r\n\r\n";

/// Output of a tunnel, from its user on any thread to the connection.
pub(super) struct Outlet {
    state: Mutex<OutletState>,
    bell: Arc<Bell>,
    key: Key,
}

#[derive(Default)]
struct OutletState {
    phase: OutletPhase,
    /// The bytes that the connection asked for.
    output: Bytes,
    /// Number of bytes that the connection would take.
    wanted: usize,
    writer: Option<Waker>,
    /// Waits for the end of the stream.
    #[cfg(feature = "websocket")]
    watcher: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OutletPhase {
    /// hyper reads the request and writes its response.
    #[default]
    Upgrading,
    Open,
    /// The user has shut it down.
    Shut,
    /// The user dropped it before that.
    Dropped,
    /// The stream has ended.
    Gone,
}

/// Output that a tunnel passes to its connection.
pub(super) enum TunnelOutput {
    Data(Bytes),
    /// None until the connection is woken.
    Wait,
    End,
    /// The stream is to be reset.
    Cancel,
}

impl Outlet {
    fn state(&self) -> MutexGuard<'_, OutletState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut OutletState) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        changed
    }

    /// Takes at most `room` bytes of output, or asks for them.
    pub(super) fn take(&self, room: usize) -> TunnelOutput {
        self.change(|state| match state.phase {
            _ if !state.output.is_empty() && room == 0 => TunnelOutput::Wait,
            _ if !state.output.is_empty() => {
                let count = room.min(state.output.len());
                TunnelOutput::Data(state.output.split_to(count))
            }
            OutletPhase::Shut => TunnelOutput::End,
            OutletPhase::Dropped | OutletPhase::Gone => TunnelOutput::Cancel,
            OutletPhase::Upgrading | OutletPhase::Open => {
                state.wanted = room;
                TunnelOutput::Wait
            }
        })
    }

    /// Ends the tunnel with its stream.
    pub(super) fn end(&self) {
        self.change(|state| state.phase = OutletPhase::Gone);
        #[cfg(feature = "websocket")]
        {
            let watcher = self.state().watcher.take();
            if let Some(watcher) = watcher {
                watcher.wake();
            }
        }
    }
}

/// Observes the end of a tunnel's stream, for one task.
#[cfg(feature = "websocket")]
pub(crate) struct StreamEnd(Arc<Outlet>);

#[cfg(feature = "websocket")]
impl StreamEnd {
    /// Ready when the stream has ended: reset by the client, or with its connection.
    pub(crate) fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.phase == OutletPhase::Gone {
            return Poll::Ready(());
        }
        let before = state.watcher.replace(cx.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }
}

#[cfg(feature = "websocket")]
impl TunnelIo {
    pub(crate) fn stream_end(&self) -> StreamEnd {
        StreamEnd(self.outlet.clone())
    }
}

/// The user's side of a tunnel.
pub(crate) struct TunnelIo {
    outlet: Arc<Outlet>,
    receiver: Receiver,
    /// Bytes of the stream that were not read.
    unread: Bytes,
    /// The rest of the request to upgrade.
    upgrade: &'static [u8],
}

impl Read for TunnelIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buffer.remaining();
        if !this.upgrade.is_empty() {
            let (now, later) = this.upgrade.split_at(room.min(this.upgrade.len()));
            buffer.put_slice(now);
            this.upgrade = later;
            return Poll::Ready(Ok(()));
        }
        if this.outlet.state().phase == OutletPhase::Upgrading {
            return Poll::Pending;
        }
        let piece = ready!(Pin::new(&mut this.receiver).poll_read(cx, &mut this.unread, room))?;
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl Write for TunnelIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outlet = &self.outlet;
        let mut state = outlet.state();
        match state.phase {
            // The response of HTTP/1.1.
            OutletPhase::Upgrading => return Poll::Ready(Ok(data.len())),
            OutletPhase::Open => {}
            _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
        let n = if state.output.is_empty() { data.len().min(state.wanted) } else { 0 };
        if n == 0 && !data.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.output = Bytes::copy_from_slice(&data[..n]);
        state.wanted = 0;
        drop(state);
        outlet.bell.work(outlet.key);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.outlet.state();
        if state.phase == OutletPhase::Open {
            state.phase = OutletPhase::Shut;
            drop(state);
            self.outlet.bell.work(self.outlet.key);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelIo {
    fn drop(&mut self) {
        let mut state = self.outlet.state();
        if state.phase == OutletPhase::Open {
            state.phase = OutletPhase::Dropped;
            drop(state);
            self.outlet.bell.work(self.outlet.key);
        }
    }
}

/// A tunnel whose request has not been accepted.
pub(super) struct Offer {
    outlet: Arc<Outlet>,
    is_accepted: Rc<RefCell<bool>>,
    /// hyper's connection.
    upgrading: Pin<Box<dyn Future<Output = ()>>>,
}

impl Offer {
    /// Creates a tunnel over a stream, whose bytes come from `receiver`.
    pub(super) fn new(
        bell: &Arc<Bell>,
        key: Key,
        receiver: Receiver,
    ) -> (Offer, Option<OnUpgrade>) {
        let outlet = Arc::new(Outlet { state: Mutex::default(), bell: bell.clone(), key });
        let io =
            TunnelIo { outlet: outlet.clone(), receiver, unread: Bytes::new(), upgrade: UPGRADE };
        let is_accepted = Rc::<RefCell<bool>>::default();
        let on_upgrade = Rc::<RefCell<Option<OnUpgrade>>>::default();
        let (accepted, found) = (is_accepted.clone(), on_upgrade.clone());
        let answer = service_fn(move |mut request: Request<Incoming>| {
            found.replace(request.extensions_mut().remove::<OnUpgrade>());
            let accepted = accepted.clone();
            std::future::poll_fn(move |_| {
                let is_accepted = *accepted.borrow();
                if is_accepted {
                    Poll::Ready(Ok::<_, Infallible>(switching()))
                } else {
                    Poll::Pending
                }
            })
        });
        let mut builder = http1::Builder::new();
        let serving = builder.auto_date_header(false).serve_connection(io, answer).with_upgrades();
        let mut offer =
            Offer { outlet, is_accepted, upgrading: Box::pin(async move { drop(serving.await) }) };
        offer.poll();
        (offer, on_upgrade.take())
    }

    fn poll(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.upgrading.as_mut().poll(&mut cx);
    }

    /// Opens the tunnel.
    pub(super) fn accept(mut self) -> Arc<Outlet> {
        self.is_accepted.replace(true);
        self.poll();
        self.outlet.change(|state| {
            if state.phase == OutletPhase::Upgrading {
                state.phase = OutletPhase::Open;
            }
        });
        self.outlet
    }
}

fn switching() -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
}
