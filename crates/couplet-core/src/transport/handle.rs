//! [`Connection`]: calls back into a protocol's `&mut self`. The turn runs the recorded calls, so
//! borrows can't conflict.
//!
//! Contract: 20a, 50a, 50b, 129b.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use super::cell::{ConnectionCell, ConnectionPhase};
use super::{ConnectionId, Transport};
use crate::defer::{Deferred, Resolver, Result};
use crate::error::{ConnectionLost, Reason};
use crate::panics::Contained;
use crate::protocol::Protocol;
use crate::recorder::DelayedCall;

/// A queued call into the protocol of one connection.
pub(crate) trait Tell {
    fn run(self: Box<Self>, protocol: &mut dyn Protocol, transport: &Transport);
    /// Called instead of `run` when the connection was lost first.
    fn lost(self: Box<Self>, _reason: &Reason) {}
}

/// A connection together with its protocol's type; cheap to clone and to keep.
///
/// Closures passed to it are recorded and run in the turn with the protocol's `&mut self`, so slow
/// poetry, timeouts and late answers need no `Rc<RefCell<…>>`.
///
/// Created by [`Transport::connection`], or by a successful
/// [`Reactor::connect`](crate::Reactor::connect). The closures get a `T`, the transport that the
/// connection was created from: a plain [`Transport`], or a framer's. So the connection of a
/// [`LineTransport`](crate::protocols::LineTransport) can send lines:
///
/// ```
/// use std::time::Duration;
/// use couplet::protocols::{LineProtocol, LineTransport};
///
/// struct Clock;
/// impl LineProtocol for Clock {
///     fn line_received(&mut self, transport: &LineTransport, _: &[u8]) {
///         let soon = Duration::from_secs(1);
///         transport.connection::<Self>().call_later(soon, |_, transport| transport.send_line("tick"));
///     }
/// }
/// # use couplet::{protocols::LineReceiver, testing::hold};
/// # let mut held = hold(LineReceiver::new(Clock));
/// # held.push(b"\r\n");
/// # held.advance(Duration::from_secs(1));
/// # assert_eq!(held.wire.take(), b"tick\r\n");
/// ```
pub struct Connection<P, T = Transport> {
    transport: T,
    protocol: PhantomData<fn(&mut P)>,
}

impl<P: 'static, T: AsRef<Transport> + Clone + 'static> Connection<P, T> {
    /// The connection of `transport`, whose protocol is `P` or wraps a `P`. Calls into the protocol
    /// get a clone of this transport.
    ///
    /// For the transports of framers; [`Transport::connection`] is the usual way.
    pub fn new(transport: T) -> Connection<P, T> {
        Connection { transport, protocol: PhantomData }
    }

    /// Runs `f` on the protocol in the turn. Drops `f` and returns false if
    /// [`connection_lost`](Protocol::connection_lost) was already called. `f` is also dropped if,
    /// before it runs, the connection is lost or [upgraded](Transport::upgrade) to another
    /// protocol.
    ///
    /// # Panics
    ///
    /// In the turn and in debug builds, when the protocol is not a `P` and the connection was not
    /// upgraded; the message names the caller's line. Release builds log this instead.
    #[track_caller]
    pub fn tell(&self, f: impl FnOnce(&mut P, &T) + 'static) -> bool {
        let tell = self.boxed(f);
        let is_live = !self.is_lost();
        if is_live {
            self.cell().reactor.tell(self.cell(), tell);
        }
        is_live
    }

    /// Runs `f` on the protocol in the turn; the Deferred fires with its result. Fails with
    /// [`ConnectionLost`] if the connection is lost first, and with [`WrongProtocol`] if the
    /// protocol is not a `P`, or no longer is one since an [upgrade](Transport::upgrade). Cancelling
    /// it before the call runs drops `f`, so that `f` takes nothing from the protocol in vain.
    #[track_caller]
    pub fn ask<R: 'static>(&self, f: impl FnOnce(&mut P, &T) -> R + 'static) -> Deferred<R> {
        self.ask_result(move |protocol, transport| Ok(f(protocol, transport)))
    }

    /// [`ask`](Self::ask) with a closure that may fail.
    #[track_caller]
    pub fn ask_result<R: 'static>(
        &self,
        f: impl FnOnce(&mut P, &T) -> Result<R> + 'static,
    ) -> Deferred<R> {
        let f = Contained::new(self.with_transport(f));
        if let Some(reason) = self.cell().reason() {
            return Deferred::fail(ConnectionLost(reason));
        }
        let (deferred, resolver) = Deferred::new();
        let (place, protocol) = (Location::caller(), PhantomData);
        let call = Box::new(AskCall { f, resolver, place, protocol });
        self.cell().reactor.tell(self.cell(), call);
        deferred
    }

    /// Runs `f` on the protocol after `delay`; `f` is dropped if the connection is lost or an
    /// upgrade replaces the protocol first.
    #[track_caller]
    pub fn call_later(&self, delay: Duration, f: impl FnOnce(&mut P, &T) + 'static) -> DelayedCall {
        self.cell().reactor.tell_later(self.cell(), delay, self.boxed(f))
    }

    /// The transport of this connection.
    pub fn transport(&self) -> T {
        self.transport.clone()
    }

    /// Identifies this connection; `Copy` and `Send`.
    pub fn id(&self) -> ConnectionId {
        self.cell().id()
    }

    /// True once `connection_lost` was called.
    pub fn is_lost(&self) -> bool {
        self.cell().phase() == ConnectionPhase::Lost
    }

    fn cell(&self) -> &Rc<ConnectionCell> {
        &self.transport.as_ref().cell
    }

    #[track_caller]
    fn boxed(&self, f: impl FnOnce(&mut P, &T) + 'static) -> Box<dyn Tell> {
        Box::new(TellFn::new(self.with_transport(f)))
    }

    /// Passes this connection's transport to `f` in place of the turn's plain one.
    fn with_transport<R>(
        &self,
        f: impl FnOnce(&mut P, &T) -> R + 'static,
    ) -> impl FnOnce(&mut P, &Transport) -> R + 'static {
        let transport = self.transport.clone();
        move |protocol, _| f(protocol, &transport)
    }
}

impl<P, T: Clone> Clone for Connection<P, T> {
    fn clone(&self) -> Self {
        Connection { transport: self.transport.clone(), protocol: PhantomData }
    }
}

impl<P, T: AsRef<Transport>> fmt::Debug for Connection<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.transport.as_ref().id();
        f.debug_struct("Connection").field("id", &id).finish_non_exhaustive()
    }
}

pub(crate) struct TellFn<P, F> {
    f: Contained<F>,
    place: &'static Location<'static>,
    protocol: PhantomData<fn(&mut P)>,
}

impl<P, F> TellFn<P, F> {
    #[track_caller]
    pub(crate) fn new(f: F) -> TellFn<P, F> {
        TellFn { f: Contained::new(f), place: Location::caller(), protocol: PhantomData }
    }
}

impl<P: 'static, F: FnOnce(&mut P, &Transport)> Tell for TellFn<P, F> {
    fn run(self: Box<Self>, protocol: &mut dyn Protocol, transport: &Transport) {
        match find::<P>(protocol) {
            Some(found) => self.f.take()(found, transport),
            None if transport.cell.was_upgraded() => {}
            None => {
                let error = WrongProtocol::new::<P>(protocol, self.place);
                log_error!(connection = %transport.id(), %error, "cannot call a protocol");
                debug_assert!(false, "{error}");
            }
        }
    }
}

struct AskCall<P, T, F> {
    f: Contained<F>,
    resolver: Resolver<T>,
    place: &'static Location<'static>,
    protocol: PhantomData<fn(&mut P)>,
}

impl<P: 'static, T: 'static, F: FnOnce(&mut P, &Transport) -> Result<T>> Tell for AskCall<P, T, F> {
    fn run(self: Box<Self>, protocol: &mut dyn Protocol, transport: &Transport) {
        let AskCall { f, resolver, place, .. } = *self;
        if resolver.is_cancelled() {
            return;
        }
        match find::<P>(protocol) {
            Some(found) => {
                // Resolved before other callbacks run; a panic in `f` drops the resolver.
                let answer = f.take()(found, transport);
                resolver.resolve(answer);
            }
            None => resolver.errback(WrongProtocol::new::<P>(protocol, place)),
        }
    }

    fn lost(self: Box<Self>, reason: &Reason) {
        self.resolver.errback(ConnectionLost(reason.clone()));
    }
}

/// `protocol` as a `P`, or the `P` that it wraps.
fn find<P: 'static>(protocol: &mut dyn Protocol) -> Option<&mut P> {
    protocol.find_or_self(TypeId::of::<P>())?.downcast_mut()
}

/// A call through a [`Connection`] whose protocol is of another type.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{place}: this connection's protocol is a {found}, not a {wanted}")]
#[non_exhaustive]
pub struct WrongProtocol {
    /// The requested type: the `P` of the `Connection<P>`.
    pub wanted: &'static str,
    /// The type of the connection's protocol.
    pub found: &'static str,
    /// The source location of the call.
    pub place: &'static Location<'static>,
}

impl WrongProtocol {
    fn new<P>(protocol: &mut dyn Protocol, place: &'static Location<'static>) -> WrongProtocol {
        let (wanted, found) = (std::any::type_name::<P>(), protocol.type_name());
        WrongProtocol { wanted, found, place }
    }
}
