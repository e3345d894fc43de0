//! Part 8, client 4.0: `get_poem` returns a Deferred instead of taking a callback and an errback.
//! The factory keeps the resolver, and fires it once.
//!
//! `cargo run --example clients -- v4_0 127.0.0.1:10000 127.0.0.1:10001`

use std::mem::take;
use std::net::SocketAddr;

use couplet::defer::list;
use couplet::{
    Address, ConnectionLost, Connector, Deferred, Factory, Protocol, Reactor, Reason, Resolver,
    Transport,
};

struct PoetryProtocol {
    poem: Vec<u8>,
    resolver: Option<Resolver<String>>,
}

impl Protocol for PoetryProtocol {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(resolver) = self.resolver.take() else { return };
        if reason.is_clean() {
            resolver.resolve(String::from_utf8(take(&mut self.poem)).map_err(Into::into));
        } else {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }
}

struct PoetryFactory {
    /// `Some` until a protocol is built or the connect fails.
    resolver: Option<Resolver<String>>,
}

impl Factory for PoetryFactory {
    type Protocol = PoetryProtocol;

    fn build_protocol(&mut self, _: &Address) -> Option<PoetryProtocol> {
        Some(PoetryProtocol { poem: Vec::new(), resolver: self.resolver.take() })
    }

    fn client_connection_failed(&mut self, _: &Connector, reason: &Reason) {
        if let Some(resolver) = self.resolver.take() {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }
}

/// Gets the poem of `server`, or fails with the reason.
pub(crate) fn get_poem(reactor: &Reactor, server: SocketAddr) -> Deferred<String> {
    let (poem, resolver) = Deferred::new();
    let factory = PoetryFactory { resolver: Some(resolver) };
    reactor.connect(server, factory).detach();
    poem
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    couplet::run_until(|reactor| {
        let all = servers.into_iter().map(|server| {
            get_poem(reactor, server).map(|poem| print!("{poem}")).add_errback(move |failure| {
                eprintln!("no poem from {server}: {failure}");
                Ok(())
            })
        });
        list(all).map(|_| ())
    })
}
