//! The [`Factory`]: builds a protocol for each connection. Closures are factories too, and
//! [`Shared`] lets many ports and connects use one factory.
//!
//! Twisted's `IProtocolFactory`, `Factory` and `ClientFactory` in one trait.
//!
//! Contract: 41, 44, 81a.

mod erased;
mod layered;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

pub(crate) use erased::Purpose;
pub use erased::{ErasedFactory, NewConnection};
pub use layered::Layered;

use crate::address::Address;
use crate::connector::Connector;
use crate::error::Reason;
use crate::layers::Layer;
use crate::panics::{Contained, contain, discard};
use crate::protocol::Protocol;
use crate::recorder::Reactor;

/// Builds a protocol for each connection, and is notified of events around it.
///
/// On a port, only [`do_start`](Self::do_start), [`build_protocol`](Self::build_protocol) and
/// [`do_stop`](Self::do_stop) are called. With a connector, the order is `do_start`,
/// `started_connecting`, then `build_protocol` or `client_connection_failed`; at the end
/// `client_connection_lost` (after the protocol's `connection_lost`), and `do_stop` unless
/// [`connector.connect()`](Connector::connect) was called in the meantime.
///
/// `|| P` and `|peer: &Address| -> Option<P>` are factories too.
pub trait Factory {
    /// The protocol that it builds.
    type Protocol: Protocol;

    /// A port or connector starts using this factory. With [`Shared`], called only for the first
    /// user.
    fn do_start(&mut self) {}

    /// An attempt to connect begins.
    fn started_connecting(&mut self, _connector: &Connector) {}

    /// The layers of a new connection, from the socket up; by default none. With layers,
    /// [`build_protocol`](Self::build_protocol) is called once all of them are open.
    ///
    /// [`Layered`] puts layers under any factory. A factory that wraps another forwards this call.
    fn layers(&mut self, _peer: &Address) -> Vec<Box<dyn Layer>> {
        Vec::new()
    }

    /// A connection was made whose [`layers`](Self::layers) have to open before it gets a protocol.
    /// Until then the connection holds the [`Seat`], which it drops right before
    /// [`build_protocol`](Self::build_protocol) or when it ends. `None` rejects the connection.
    ///
    /// A factory that limits its connections can thus count unfinished handshakes. A factory that
    /// wraps another forwards this call.
    fn opening(&mut self, _newcomer: &Newcomer<'_>) -> Option<Seat> {
        Some(Seat::default())
    }

    /// A connection with `peer` was established. `None` rejects it: the connection is closed
    /// without a protocol.
    fn build_protocol(&mut self, peer: &Address) -> Option<Self::Protocol>;

    /// The attempt failed; no protocol was built. The reason is [`Reason::Failed`] with a
    /// [`ConnectError`](crate::ConnectError). By default, the failure of the connect's Deferred is
    /// reported if no callback handles that either.
    fn client_connection_failed(&mut self, connector: &Connector, _reason: &Reason) {
        connector.ignore_failure();
    }

    /// The connection that the attempt established was lost.
    fn client_connection_lost(&mut self, _connector: &Connector, _reason: &Reason) {}

    /// A port or connector stops using this factory. With [`Shared`], called only for the last
    /// user.
    fn do_stop(&mut self) {}

    /// Called with the reactor that will use this factory, before any other call. A factory that
    /// needs the time keeps the reactor; a wrapper forwards the call.
    fn attach(&mut self, _reactor: &Reactor) {}
}

/// A closure without arguments, as a factory.
#[derive(Clone, Debug)]
pub struct FromClosure<F>(F);

impl<P: Protocol, F: FnMut() -> P> Factory for FromClosure<F> {
    type Protocol = P;

    fn build_protocol(&mut self, _peer: &Address) -> Option<P> {
        Some((self.0)())
    }
}

/// A closure that takes the peer's address, as a factory.
#[derive(Clone, Debug)]
pub struct FromPeerClosure<F>(F);

impl<P: Protocol, F: FnMut(&Address) -> Option<P>> Factory for FromPeerClosure<F> {
    type Protocol = P;

    fn build_protocol(&mut self, peer: &Address) -> Option<P> {
        (self.0)(peer)
    }
}

/// A value that can be used as a [`Factory`]: a factory, `|| protocol`,
/// `|peer: &Address| -> Option<protocol>`, or an async closure that takes a
/// [`Stream`](crate::stream::Stream). The marker `Kind` distinguishes them and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a protocol factory",
    label = "not a factory",
    note = "a factory is a type that implements `Factory`, a closure `|| MyProtocol`, or a closure `|peer: &Address| Some(MyProtocol)`, with `&Address` written out; the built type implements `Protocol`",
    note = "a `LineProtocol` needs a framer around it, as in `|| LineReceiver::new(MyProtocol)`; a `StringProtocol` needs `NetstringReceiver::new` or `IntReceiver::new`"
)]
pub trait IntoFactory<Kind> {
    /// The resulting factory.
    type Factory: Factory + 'static;

    /// Converts it into a factory.
    fn into_factory(self) -> Self::Factory;
}

/// Marks a type that implements [`Factory`].
#[derive(Debug)]
pub struct IsFactory;
/// Marks `|| protocol`.
#[derive(Debug)]
pub struct IsClosure;
/// Marks `|peer: &Address| -> Option<protocol>`.
#[derive(Debug)]
pub struct IsPeerClosure;

impl<F: Factory + 'static> IntoFactory<IsFactory> for F {
    type Factory = F;

    fn into_factory(self) -> F {
        self
    }
}

impl<P: Protocol, F: FnMut() -> P + 'static> IntoFactory<IsClosure> for F {
    type Factory = FromClosure<F>;

    fn into_factory(self) -> FromClosure<F> {
        FromClosure(self)
    }
}

impl<P: Protocol, F: FnMut(&Address) -> Option<P> + 'static> IntoFactory<IsPeerClosure> for F {
    type Factory = FromPeerClosure<F>;

    fn into_factory(self) -> FromPeerClosure<F> {
        FromPeerClosure(self)
    }
}

/// One factory for many ports and connects; cheap to clone.
///
/// `do_start` is called at its first use and `do_stop` at the end of its last. [`Self::tell`] calls
/// a closure with the factory, in the turn, and may be used anywhere. A panic in a callback is
/// logged, and the factory stays in use.
///
/// ```
/// use couplet::{Address, Factory, Protocol, Shared, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// #[derive(Default)]
/// struct Counting {
///     connections: u64,
/// }
/// impl Factory for Counting {
///     type Protocol = Echo;
///     fn build_protocol(&mut self, _: &Address) -> Option<Echo> {
///         self.connections += 1;
///         Some(Echo)
///     }
/// }
///
/// # fn main() -> couplet::Result<()> {
/// # let mut reactor_loop = couplet::Loop::new()?;
/// # let reactor = reactor_loop.reactor();
/// let counting = Shared::new(Counting::default());
/// reactor.listen("tcp:0:interface=127.0.0.1", counting.clone())?;
/// reactor.listen("tcp:0:interface=127.0.0.1", counting.clone())?;
/// counting.tell(|counting| println!("{} connections so far", counting.connections));
/// # Ok(())
/// # }
/// ```
pub struct Shared<F> {
    cell: Rc<SharedCell<F>>,
}

type FactoryCall<F> = Box<dyn FnOnce(&mut F)>;

struct SharedCell<F> {
    factory: RefCell<Option<Contained<F>>>,
    uses: Cell<usize>,
    reactor: RefCell<Option<Reactor>>,
    /// Calls made before the first use, when the reactor is not known.
    early: RefCell<Vec<FactoryCall<F>>>,
}

impl<F: 'static> Shared<F> {
    /// Shares a factory.
    pub fn new(factory: F) -> Shared<F> {
        Shared {
            cell: Rc::new(SharedCell {
                factory: RefCell::new(Some(Contained::new(factory))),
                uses: Cell::new(0),
                reactor: RefCell::new(None),
                early: RefCell::new(Vec::new()),
            }),
        }
    }

    /// Calls `f` with the factory in the turn; if the factory is not in use yet, in the turn after
    /// its first use is requested.
    pub fn tell(&self, f: impl FnOnce(&mut F) + 'static) {
        let f = Contained::new(f);
        let f: FactoryCall<F> = Box::new(move |factory| f.take()(factory));
        let reactor = self.cell.reactor.borrow().clone();
        match reactor {
            Some(reactor) => self.enqueue(&reactor, f),
            None => self.cell.early.borrow_mut().push(f),
        }
    }

    fn enqueue(&self, reactor: &Reactor, f: FactoryCall<F>) {
        let shared = self.clone();
        let type_name = std::any::type_name::<F>();
        reactor.queue_call("call into a factory", type_name, move || shared.with((), f));
    }

    /// Takes the factory out, calls `f`, and puts it back. A panic is logged, and `otherwise`
    /// returned.
    fn with<R>(&self, otherwise: R, f: impl FnOnce(&mut F) -> R) -> R {
        let taken = self.cell.factory.borrow_mut().take();
        let Some(mut factory) = taken else {
            // Reached only if the factory drives another loop from inside a callback.
            log_error!("a shared factory was used from inside one of its callbacks");
            return otherwise;
        };
        let mut result = otherwise;
        contain("factory", || result = f(&mut factory));
        *self.cell.factory.borrow_mut() = Some(factory);
        result
    }
}

impl<F> Clone for Shared<F> {
    fn clone(&self) -> Self {
        Shared { cell: self.cell.clone() }
    }
}

impl<F> fmt::Debug for Shared<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("uses", &self.cell.uses.get()).finish_non_exhaustive()
    }
}

impl<F: Factory + 'static> Factory for Shared<F> {
    type Protocol = F::Protocol;

    fn do_start(&mut self) {
        self.cell.uses.set(self.cell.uses.get() + 1);
        if self.cell.uses.get() == 1 {
            self.with((), F::do_start);
        }
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.with((), |factory| factory.started_connecting(connector));
    }

    fn layers(&mut self, peer: &Address) -> Vec<Box<dyn Layer>> {
        self.with(Vec::new(), |factory| factory.layers(peer))
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.with(None, |factory| factory.opening(newcomer))
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<F::Protocol> {
        self.with(None, |factory| factory.build_protocol(peer))
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.with((), |factory| factory.client_connection_failed(connector, reason));
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.with((), |factory| factory.client_connection_lost(connector, reason));
    }

    fn do_stop(&mut self) {
        self.cell.uses.set(self.cell.uses.get().saturating_sub(1));
        if self.cell.uses.get() == 0 {
            self.with((), F::do_stop);
        }
    }

    fn attach(&mut self, reactor: &Reactor) {
        // The call may come from inside one of the factory's own callbacks.
        if self.cell.reactor.borrow().as_ref().is_some_and(|known| known.is(reactor)) {
            return;
        }
        self.with((), |factory| factory.attach(reactor));
        *self.cell.reactor.borrow_mut() = Some(reactor.clone());
        for f in self.cell.early.take() {
            self.enqueue(reactor, f);
        }
    }
}

/// A connection whose layers have to open before it gets a protocol.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Newcomer<'a> {
    /// The address of the other end of the socket.
    pub peer: &'a Address,
    /// Whether a layer may report another address for the peer: the address of a proxy's client.
    pub is_relayed: bool,
}

/// The claims of a connection on its factory's limits while its layers open; dropping it releases
/// them. See [`Factory::opening`].
#[derive(Default)]
pub struct Seat {
    places: Vec<Box<dyn Any>>,
}

impl Seat {
    /// A seat that holds `place` until it is dropped.
    pub fn new(place: impl Any) -> Seat {
        Seat { places: vec![Box::new(place)] }
    }

    /// Combines two seats, for a factory that wraps another.
    #[must_use]
    pub fn and(mut self, other: Seat) -> Seat {
        self.places.extend(other.places);
        self
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("places", &self.places.len()).finish()
    }
}

/// The addresses of a new connection.
pub(crate) struct Ends<'a> {
    pub(crate) peer: &'a Address,
    /// The address of our end, if it is known. Asking may cost a system call.
    pub(crate) host: &'a dyn Fn() -> Option<Address>,
}

/// A type-erased factory, for ports and connectors.
pub(crate) trait AnyFactory {
    /// The name of the factory's type.
    fn type_name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }
    fn attach(&mut self, reactor: &Reactor);
    fn do_start(&mut self);
    fn started_connecting(&mut self, connector: &Connector);
    /// Adds the layers of a new connection above those in `layers`. False rejects the connection.
    fn layers(&mut self, ends: &Ends<'_>, layers: &mut Vec<Box<dyn Layer>>) -> bool;
    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat>;
    fn build(&mut self, peer: &Address) -> Option<Box<dyn Protocol>>;
    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason);
    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason);
    fn do_stop(&mut self);
}

impl<F: Factory> AnyFactory for F {
    fn attach(&mut self, reactor: &Reactor) {
        Factory::attach(self, reactor);
    }

    fn do_start(&mut self) {
        Factory::do_start(self);
    }

    fn started_connecting(&mut self, connector: &Connector) {
        Factory::started_connecting(self, connector);
    }

    fn layers(&mut self, ends: &Ends<'_>, layers: &mut Vec<Box<dyn Layer>>) -> bool {
        layers.append(&mut Factory::layers(self, ends.peer));
        true
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        Factory::opening(self, newcomer)
    }

    fn build(&mut self, peer: &Address) -> Option<Box<dyn Protocol>> {
        Some(Box::new(self.build_protocol(peer)?))
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        Factory::client_connection_failed(self, connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        Factory::client_connection_lost(self, connector, reason);
    }

    fn do_stop(&mut self) {
        Factory::do_stop(self);
    }
}

/// Holds the factory of a port, connector or adoption; empty while the factory is being called.
pub(crate) struct FactorySlot {
    factory: RefCell<Option<Box<dyn AnyFactory>>>,
    /// `do_start` was called, but not yet `do_stop`.
    started: Cell<bool>,
}

impl FactorySlot {
    pub(crate) fn new(factory: Box<dyn AnyFactory>) -> FactorySlot {
        FactorySlot { factory: RefCell::new(Some(factory)), started: Cell::new(false) }
    }

    /// Calls `do_start`, unless the factory is in use. Returns true if it did.
    pub(crate) fn start(&self) -> bool {
        let starts = !self.started.replace(true);
        if starts {
            self.call("do_start", |factory| factory.do_start());
        }
        starts
    }

    /// Calls `do_stop` if the factory is in use.
    pub(crate) fn stop(&self) {
        if self.started.replace(false) {
            self.call("do_stop", |factory| factory.do_stop());
        }
    }

    /// Calls the factory. A panic is logged and returns `None`.
    pub(crate) fn call<R>(
        &self,
        what: &'static str,
        f: impl FnOnce(&mut dyn AnyFactory) -> R,
    ) -> Option<R> {
        let mut factory = self.factory.borrow_mut().take()?;
        let mut result = None;
        contain(what, || result = Some(f(&mut *factory)));
        *self.factory.borrow_mut() = Some(factory);
        result
    }

    /// Drops the factory once it is no longer needed, even if handles remain.
    pub(crate) fn clear(&self) {
        let factory = self.factory.borrow_mut().take();
        discard("drop of a factory", factory);
    }
}

impl Drop for FactorySlot {
    fn drop(&mut self) {
        self.clear();
    }
}
