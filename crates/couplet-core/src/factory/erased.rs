//! [`ErasedFactory`]: a type-erased factory, which can be passed through endpoints that are trait
//! objects.
//!
//! Contract: 22d, 145e, 178a.

use std::any::Any;
use std::fmt;
use std::panic::Location;

use super::{AnyFactory, Ends, Factory, IntoFactory, Newcomer, Seat};
use crate::address::Address;
use crate::connector::Connector;
use crate::driver::ListeningSocket;
use crate::error::Reason;
use crate::layers::Layer;
use crate::panics::{Contained, contain};
use crate::protocol::Protocol;
use crate::recorder::{Reactor, Source};
use crate::transport::Transport;

/// A factory of any type, in the form that endpoints get: [`ServerEndpoint::listen`] and
/// [`ClientEndpoint::connect`] pass it to another endpoint, or to a method of the [`Reactor`] such
/// as [`listen`](Reactor::listen), [`adopt_port`](Reactor::adopt_port) or
/// [`connect`](Reactor::connect). An endpoint that wraps another first adds its
/// [layer](Self::layered).
///
/// [`ServerEndpoint::listen`]: crate::endpoints::ServerEndpoint::listen
/// [`ClientEndpoint::connect`]: crate::endpoints::ClientEndpoint::connect
pub struct ErasedFactory {
    /// Contained, because an endpoint may fail without using it.
    pub(crate) factory: Contained<Box<dyn AnyFactory>>,
    /// The location of the user's listen or connect.
    pub(crate) place: Source,
    /// The names of its layers, as in an endpoint string: `haproxy:tls:`.
    pub(crate) prefix: String,
    /// The application protocols that TLS offers if its endpoint names none.
    #[cfg_attr(
        not(any(feature = "tls", feature = "ring")),
        allow(dead_code, reason = "only TLS offers them")
    )]
    protocols: &'static [&'static str],
    /// Whether the latest connection was rejected when its layers were made.
    rejected: bool,
    purpose: Purpose,
    /// Chooses a socket to listen on, instead of binding one.
    socket: Option<Contained<ChooseSocket>>,
}

/// The reason why a connection is made, which a PROXY header announces.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    /// The program's own use.
    Own,
    /// On behalf of the peer of another connection: its address, and the host's.
    Client(Address, Address),
    /// To see whether the server can be reached.
    Check,
}

/// Chooses a socket for an address that would be bound, or for an endpoint without one.
type ChooseSocket = Box<dyn FnOnce(Option<&Address>) -> Option<ListeningSocket>>;

impl ErasedFactory {
    /// Erases a factory. One that is erased already does not change.
    #[track_caller]
    pub fn new<K>(factory: impl IntoFactory<K>) -> ErasedFactory {
        let mut slot = Some(factory.into_factory());
        if let Some(erased) = (&mut slot as &mut dyn Any).downcast_mut::<Option<ErasedFactory>>() {
            return erased.take().expect("put there above");
        }
        let factory: Box<dyn AnyFactory> = Box::new(slot.expect("not taken out"));
        let factory = Contained::new(factory);
        let (place, prefix) = (Location::caller(), String::new());
        ErasedFactory {
            factory,
            place,
            prefix,
            protocols: &[],
            rejected: false,
            purpose: Purpose::Own,
            socket: None,
        }
    }

    /// Has the port listen on the socket that `choose` returns, which another process, or another port,
    /// has bound for the same endpoint, instead of binding a new one. `choose` gets the address to bind,
    /// or `None` for an inherited socket. With this, [`ServerEndpoint::listen`] moves a port between
    /// processes, under all the layers of its endpoint.
    ///
    /// The port keeps its endpoint's address and options; stopped and started again, it binds its address
    /// anew.
    ///
    /// [`ServerEndpoint::listen`]: crate::endpoints::ServerEndpoint::listen
    #[must_use]
    pub fn on_socket(
        mut self,
        choose: impl FnOnce(Option<&Address>) -> Option<ListeningSocket> + 'static,
    ) -> ErasedFactory {
        let choose: ChooseSocket = Box::new(choose);
        self.socket = Some(Contained::new(choose));
        self
    }

    /// Chooses the socket to listen on.
    pub(crate) fn choose_socket(&mut self, address: Option<&Address>) -> Option<ListeningSocket> {
        let choose = self.socket.take()?.take();
        let mut chosen = None;
        contain("the choice of a socket", || chosen = choose(address));
        chosen
    }

    /// For a connect on behalf of the peer of another connection, as a proxy makes it: endpoints that
    /// announce the client's address, such as `haproxy:`, announce that peer's.
    ///
    /// ```
    /// use couplet::factory::ErasedFactory;
    /// use couplet::protocols::Relay;
    /// use couplet::{Address, Protocol, Transport};
    ///
    /// /// Joins each client to a server, which gets the client's address.
    /// struct Proxy;
    /// impl Protocol for Proxy {
    ///     fn connection_made(&mut self, client: &Transport) {
    ///         let (near, far) = Relay::pair();
    ///         let mut far = Some(far);
    ///         let factory = ErasedFactory::new(move |_: &Address| far.take()).on_behalf_of(client);
    ///         client.reactor().connect("haproxy:localhost:8000", factory).detach();
    ///         client.upgrade(near);
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    /// ```
    #[must_use]
    pub fn on_behalf_of(mut self, client: &Transport) -> ErasedFactory {
        self.purpose = Purpose::Client(client.peer().clone(), client.host().clone());
        self
    }

    /// For a connect that checks whether a server can be reached, as a proxy does from time to time:
    /// endpoints that announce the client's address, such as `haproxy:`, announce none, so the server
    /// knows a check from a client.
    #[must_use]
    pub fn for_check(self) -> ErasedFactory {
        ErasedFactory { purpose: Purpose::Check, ..self }
    }

    pub(crate) fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The client on whose behalf [`on_behalf_of`](Self::on_behalf_of) makes a connection: its
    /// address, and the address that it connected to.
    pub fn client(&self) -> Option<(&Address, &Address)> {
        match &self.purpose {
            Purpose::Client(peer, host) => Some((peer, host)),
            Purpose::Own | Purpose::Check => None,
        }
    }

    /// Has the adjacent TLS layer offer these application protocols, in order of preference, unless
    /// its endpoint names others.
    pub(crate) fn offering(mut self, protocols: &'static [&'static str]) -> ErasedFactory {
        self.protocols = protocols;
        self
    }

    /// Takes the application protocols for the adjacent TLS layer; a TLS layer below it gets none.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(crate) fn take_protocols(&mut self) -> &'static [&'static str] {
        std::mem::take(&mut self.protocols)
    }

    /// Puts a wrapper around the factory.
    pub(crate) fn wrap_with(
        self,
        wrap: impl FnOnce(Box<dyn AnyFactory>) -> Box<dyn AnyFactory>,
    ) -> ErasedFactory {
        ErasedFactory { factory: Contained::new(wrap(self.factory.take())), ..self }
    }

    /// Puts a layer under each connection. The factory's existing layers lie above it, so the
    /// endpoint next to the socket, which adds its layer last, has the lowest one.
    ///
    /// `make` is called for each new connection; `None` rejects the connection. `name` is the name
    /// of the endpoint, such as `tls`, for the [`Port`](crate::Port)'s string.
    #[must_use]
    pub fn layered(
        self,
        name: &str,
        make: impl FnMut(&NewConnection<'_>) -> Option<Box<dyn Layer>> + 'static,
    ) -> ErasedFactory {
        let prefix = format!("{}{name}:", self.prefix);
        let make: Make = Box::new(make);
        let inner = self.factory.take();
        let over: Box<dyn AnyFactory> =
            Box::new(OverLayer { make: Contained::new(make), inner, reactor: None });
        ErasedFactory { factory: Contained::new(over), prefix, rejected: false, ..self }
    }
}

/// For factories that wrap an `ErasedFactory`. The reactor's methods unwrap it instead, so a
/// connection holds the protocol of the erased factory without another box.
impl Factory for ErasedFactory {
    type Protocol = Box<dyn Protocol>;

    fn do_start(&mut self) {
        self.factory.do_start();
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.factory.started_connecting(connector);
    }

    fn layers(&mut self, peer: &Address) -> Vec<Box<dyn Layer>> {
        let mut layers = Vec::new();
        self.rejected = !self.factory.layers(&Ends { peer, host: &|| None }, &mut layers);
        if self.rejected { Vec::new() } else { layers }
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.factory.opening(newcomer)
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<Box<dyn Protocol>> {
        if std::mem::take(&mut self.rejected) { None } else { self.factory.build(peer) }
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.factory.client_connection_failed(connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.factory.client_connection_lost(connector, reason);
    }

    fn do_stop(&mut self) {
        self.factory.do_stop();
    }

    fn attach(&mut self, reactor: &Reactor) {
        self.factory.attach(reactor);
    }
}

impl fmt::Debug for ErasedFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedFactory").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A connection that is getting its layers.
pub struct NewConnection<'a> {
    reactor: &'a Reactor,
    ends: &'a Ends<'a>,
}

impl NewConnection<'_> {
    /// The reactor of the connection.
    pub fn reactor(&self) -> &Reactor {
        self.reactor
    }

    /// The address of the other end of the socket.
    pub fn peer(&self) -> &Address {
        self.ends.peer
    }

    /// The address of our end of the socket. `None` if a user's factory wraps the
    /// [`ErasedFactory`].
    pub fn host(&self) -> Option<Address> {
        (self.ends.host)()
    }
}

impl fmt::Debug for NewConnection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewConnection").field("peer", self.peer()).finish_non_exhaustive()
    }
}

type Make = Box<dyn FnMut(&NewConnection<'_>) -> Option<Box<dyn Layer>>>;

/// A factory with one more layer, below the layers of `inner`.
struct OverLayer {
    make: Contained<Make>,
    inner: Box<dyn AnyFactory>,
    reactor: Option<Reactor>,
}

impl AnyFactory for OverLayer {
    fn attach(&mut self, reactor: &Reactor) {
        self.reactor = Some(reactor.clone());
        self.inner.attach(reactor);
    }

    fn do_start(&mut self) {
        self.inner.do_start();
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.inner.started_connecting(connector);
    }

    fn layers(&mut self, ends: &Ends<'_>, layers: &mut Vec<Box<dyn Layer>>) -> bool {
        let reactor = self.reactor.as_ref().expect("a factory in use was attached to its reactor");
        let Some(layer) = (self.make)(&NewConnection { reactor, ends }) else { return false };
        layers.push(layer);
        self.inner.layers(ends, layers)
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.inner.opening(newcomer)
    }

    fn build(&mut self, peer: &Address) -> Option<Box<dyn Protocol>> {
        self.inner.build(peer)
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.inner.client_connection_failed(connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.inner.client_connection_lost(connector, reason);
    }

    fn do_stop(&mut self) {
        self.inner.do_stop();
    }
}
