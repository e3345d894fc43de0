//! [`Connection`]: the way back to a protocol's `&mut self`. Recorded, and run by the turn, so a
//! borrow can't clash.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use super::wire::{Phase, Wire};
use super::{ConnectionId, Transport};
use crate::defer::{Deferred, Resolver, Result};
use crate::error::{ConnectionLost, Reason};
use crate::panics::Contained;
use crate::protocol::Protocol;
use crate::reactor::DelayedCall;

/// A call into the protocol of one connection that stands in line.
pub(crate) trait Tell {
    fn run(self: Box<Self>, protocol: &mut dyn Protocol, transport: &Transport);
    /// The connection was lost before.
    fn lost(self: Box<Self>, _reason: &Reason) {}
}

/// A connection and the type of the protocol that speaks on it; cheap to clone and to keep.
///
/// What you tell it is recorded and runs in the turn with the protocol's `&mut self`, so slow
/// poetry, timeouts and answers that come later need no `Rc<RefCell<…>>`.
///
/// Made by [`Transport::connection`], or by a successful [`Reactor::connect`](crate::Reactor::connect).
pub struct Connection<P> {
    pub(crate) wire: Rc<Wire>,
    pub(crate) protocol: PhantomData<fn(&mut P)>,
}

impl<P: 'static> Connection<P> {
    /// Runs `f` on the protocol in the turn. False, and `f` is dropped, when
    /// [`connection_lost`](Protocol::connection_lost) was called already. It is dropped too when
    /// the connection is lost before its turn comes.
    pub fn tell(&self, f: impl FnOnce(&mut P, &Transport) + 'static) -> bool {
        let told = Told::new(f);
        let is_there = !self.is_lost();
        if is_there {
            self.wire.reactor.tell(&self.wire, Box::new(told));
        }
        is_there
    }

    /// Runs `f` on the protocol in the turn, and gives what it returns; fails with
    /// [`ConnectionLost`] when the connection is lost before.
    #[track_caller]
    pub fn ask<T: 'static>(
        &self,
        f: impl FnOnce(&mut P, &Transport) -> T + 'static,
    ) -> Deferred<T> {
        self.ask_result(move |protocol, transport| Ok(f(protocol, transport)))
    }

    /// [`ask`](Self::ask) with a closure that may fail.
    #[track_caller]
    pub fn ask_result<T: 'static>(
        &self,
        f: impl FnOnce(&mut P, &Transport) -> Result<T> + 'static,
    ) -> Deferred<T> {
        let f = Contained::new(f);
        if let Some(reason) = self.wire.reason() {
            return Deferred::fail(ConnectionLost(reason));
        }
        let (deferred, resolver) = Deferred::new();
        let asked = Box::new(Asked { f, resolver, protocol: PhantomData });
        self.wire.reactor.tell(&self.wire, asked);
        deferred
    }

    /// Runs `f` on the protocol after `delay`; dropped with the connection.
    #[track_caller]
    pub fn call_later(
        &self,
        delay: Duration,
        f: impl FnOnce(&mut P, &Transport) + 'static,
    ) -> DelayedCall {
        self.wire.reactor.tell_later(&self.wire, delay, Box::new(Told::new(f)))
    }

    /// The transport of this connection.
    pub fn transport(&self) -> Transport {
        Transport { wire: self.wire.clone() }
    }

    /// Names this connection; `Copy` and `Send`.
    pub fn id(&self) -> ConnectionId {
        self.wire.id
    }

    /// True once `connection_lost` was called.
    pub fn is_lost(&self) -> bool {
        self.wire.phase() == Phase::Lost
    }
}

impl<P> Clone for Connection<P> {
    fn clone(&self) -> Self {
        Connection { wire: self.wire.clone(), protocol: PhantomData }
    }
}

impl<P> fmt::Debug for Connection<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("id", &self.wire.id).finish_non_exhaustive()
    }
}

pub(crate) struct Told<P, F> {
    f: Contained<F>,
    protocol: PhantomData<fn(&mut P)>,
}

impl<P, F> Told<P, F> {
    pub(crate) fn new(f: F) -> Told<P, F> {
        Told { f: Contained::new(f), protocol: PhantomData }
    }
}

impl<P: 'static, F: FnOnce(&mut P, &Transport)> Tell for Told<P, F> {
    fn run(self: Box<Self>, protocol: &mut dyn Protocol, transport: &Transport) {
        match find::<P>(protocol) {
            Some(found) => self.f.take()(found, transport),
            None => no_such_protocol::<P>(transport),
        }
    }
}

struct Asked<P, T, F> {
    f: Contained<F>,
    resolver: Resolver<T>,
    protocol: PhantomData<fn(&mut P)>,
}

impl<P: 'static, T: 'static, F: FnOnce(&mut P, &Transport) -> Result<T>> Tell for Asked<P, T, F> {
    fn run(self: Box<Self>, protocol: &mut dyn Protocol, transport: &Transport) {
        let Asked { f, resolver, .. } = *self;
        match find::<P>(protocol) {
            Some(found) => {
                // Resolved before the callbacks of others run; a panic of `f` drops the resolver.
                let answer = f.take()(found, transport);
                resolver.resolve(answer);
            }
            None => no_such_protocol::<P>(transport),
        }
    }

    fn lost(self: Box<Self>, reason: &Reason) {
        self.resolver.errback(ConnectionLost(reason.clone()));
    }
}

/// The `P` that `protocol` is, or wraps.
fn find<P: 'static>(protocol: &mut dyn Protocol) -> Option<&mut P> {
    // Two looks, because a borrow that is returned from one arm is held in the other.
    if (protocol as &dyn std::any::Any).is::<P>() {
        (protocol as &mut dyn std::any::Any).downcast_mut()
    } else {
        protocol.find(TypeId::of::<P>())?.downcast_mut()
    }
}

fn no_such_protocol<P>(transport: &Transport) {
    let wanted = std::any::type_name::<P>();
    tracing::error!(connection = %transport.id(), wanted, "this connection speaks no such protocol");
    debug_assert!(false, "this connection does not speak {wanted}");
}
