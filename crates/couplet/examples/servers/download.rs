//! Shared by the three proxies: gets a poem from another server. Cancelling the Deferred ends the
//! connection or the connect.

use std::cell::OnceCell;
use std::mem::take;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{
    Address, Bytes, ConnectionLost, Connector, Deferred, Factory, Protocol, Reactor, Reason,
    Resolver, Transport,
};

struct PoetryClient {
    poem: Vec<u8>,
    resolver: Option<Resolver<Bytes>>,
}

impl Protocol for PoetryClient {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(resolver) = self.resolver.take() else { return };
        if reason.is_clean() {
            resolver.callback(take(&mut self.poem).into());
        } else {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }
}

struct PoetryFactory {
    resolver: Option<Resolver<Bytes>>,
    connector: Rc<OnceCell<Connector>>,
}

impl Factory for PoetryFactory {
    type Protocol = PoetryClient;

    fn started_connecting(&mut self, connector: &Connector) {
        self.connector.get_or_init(|| connector.clone());
    }

    fn build_protocol(&mut self, _: &Address) -> Option<PoetryClient> {
        Some(PoetryClient { poem: Vec::new(), resolver: self.resolver.take() })
    }

    fn client_connection_failed(&mut self, _: &Connector, reason: &Reason) {
        if let Some(resolver) = self.resolver.take() {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }
}

/// Gets the poem of `server`, or fails with the reason.
pub(crate) fn get_poem(reactor: &Reactor, server: SocketAddr) -> Deferred<Bytes> {
    let connector: Rc<OnceCell<Connector>> = Rc::default();
    let cancelled = connector.clone();
    let (poem, resolver) = Deferred::with_canceller(move |_resolver| {
        println!("the download is cancelled");
        if let Some(connector) = cancelled.get() {
            match connector.transport() {
                Some(transport) => transport.abort_connection(),
                None => connector.disconnect(),
            }
        }
    });
    reactor.connect(server, PoetryFactory { resolver: Some(resolver), connector }).detach();
    poem
}
