//! [`Layered`]: a factory that adds a layer to its connections.

use super::{Factory, IntoFactory, Newcomer, Seat};
use crate::address::Address;
use crate::connector::Connector;
use crate::error::Reason;
use crate::layers::Layer;
use crate::recorder::Reactor;

/// Puts a layer under each connection of a factory, on ports and on connects.
///
/// ```
/// use couplet::factory::Layered;
/// use couplet::layers::SingleBytes;
/// use couplet::{Protocol, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         assert_eq!(data.len(), 1);
///         transport.write(data);
///     }
/// }
///
/// # fn main() -> couplet::Result<()> {
/// # let reactor_loop = couplet::Loop::new()?;
/// # let reactor = reactor_loop.reactor();
/// reactor.listen("tcp:0:interface=127.0.0.1", Layered::new(|| Echo, |_, _| SingleBytes::default()))?;
/// # Ok(())
/// # }
/// ```
///
/// The layer is below the layers of the inner factory. Twisted's `WrappingFactory`.
#[derive(Clone, Debug)]
pub struct Layered<F, M> {
    inner: F,
    make: M,
    reactor: Option<Reactor>,
}

impl<F: Factory, M> Layered<F, M> {
    /// `make` builds the layer of each new connection from the reactor and the peer's address.
    pub fn new<K, L: Layer + 'static>(inner: impl IntoFactory<K, Factory = F>, make: M) -> Self
    where
        M: FnMut(&Reactor, &Address) -> L,
    {
        Layered { inner: inner.into_factory(), make, reactor: None }
    }
}

impl<F: Factory, L: Layer + 'static, M: FnMut(&Reactor, &Address) -> L> Factory for Layered<F, M> {
    type Protocol = F::Protocol;

    fn do_start(&mut self) {
        self.inner.do_start();
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.inner.started_connecting(connector);
    }

    fn layers(&mut self, peer: &Address) -> Vec<Box<dyn Layer>> {
        let reactor = self.reactor.as_ref().expect("a factory in use was attached to its reactor");
        let mut layers: Vec<Box<dyn Layer>> = vec![Box::new((self.make)(reactor, peer))];
        layers.extend(self.inner.layers(peer));
        layers
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.inner.opening(newcomer)
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<F::Protocol> {
        self.inner.build_protocol(peer)
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

    fn attach(&mut self, reactor: &Reactor) {
        self.reactor = Some(reactor.clone());
        self.inner.attach(reactor);
    }
}
