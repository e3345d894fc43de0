//! `couplet poetry proxy`: fetches a poem once, caches it, and serves it to all clients. It sends
//! nothing until the poem is complete, so no client receives a truncated poem that looks whole.

mod cache;
mod shelf;
#[cfg(test)]
mod tests;
pub(crate) mod upstreams;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet::defer::Canceller;
use couplet::protocols::{LimitConnections, Policy};
use couplet::reactor::Members;
use couplet::{Deferred, LoopOptions, Protocol, Reactor, Reason, Shared, Transport};

use crate::cli;
use crate::exit::Exit;
use crate::server;
use cache::{Cache, Edition};
use shelf::Shelf;
use upstreams::Upstreams;

/// A client that reads nothing of its poem for this long is disconnected.
const STALL: Duration = Duration::from_secs(60);
/// How long a client that has the whole poem may stay connected.
const LEAVE: Duration = Duration::from_secs(30);
/// A client that has shut down its write side may still be waiting, or its machine may be down.
/// Keepalive probes, at this interval, detect the latter.
const PROBE: Duration = Duration::from_secs(15);
/// Number of longest poems kept for slow readers, besides the cached one.
const KEPT: u64 = 4;

/// State shared by all connections.
pub(crate) struct Proxy {
    cache: Cache,
    shelf: Shelf,
}

impl Proxy {
    /// `fetch` delivers poems of at most `max_bytes`; they are cached for `ttl`.
    pub(crate) fn new(
        fetch: impl Fn(&Reactor) -> Deferred<Bytes> + 'static,
        ttl: Option<Duration>,
        max_bytes: u64,
    ) -> Rc<Proxy> {
        let shelf = Shelf::new(max_bytes.saturating_mul(KEPT));
        Rc::new(Proxy { cache: Cache::new(ttl, fetch), shelf })
    }
}

/// Sends the poem to one client as soon as it is available.
pub(crate) struct ProxyServer {
    proxy: Rc<Proxy>,
    state: ServeStage,
}

enum ServeStage {
    /// Not connected yet, or closing because the fetch failed.
    Idle,
    Waiting(Canceller),
    /// This edition is being sent.
    Giving(u64),
}

impl ProxyServer {
    pub(crate) fn new(proxy: &Rc<Proxy>) -> ProxyServer {
        ProxyServer { proxy: proxy.clone(), state: ServeStage::Idle }
    }

    fn arrived(&mut self, transport: &Transport, poem: couplet::Result<Edition>) {
        self.state = ServeStage::Idle;
        let Ok(poem) = poem else {
            return transport.lose_connection();
        };
        tracing::info!(peer = %transport.peer(), bytes = poem.text.len(), "serving the poem");
        self.proxy.shelf.take(&poem, transport);
        self.state = ServeStage::Giving(poem.number);
        // Without a copy: all clients share the unread bytes.
        transport.write_bytes(poem.text);
        transport.lose_write_connection();
    }
}

impl Protocol for ProxyServer {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_close_deadline(Some(STALL));
        transport.set_tcp_keep_alive(Some(PROBE));
        // If the proxy is killed, no client takes a truncated poem for a whole one.
        transport.set_reset_unless_closed(true);
        let me = transport.connection::<Self>();
        let poem = self.proxy.cache.get(transport.reactor());
        self.state = ServeStage::Waiting(poem.canceller());
        let given = poem.add_both(move |poem| {
            me.tell(move |me, transport| me.arrived(transport, poem));
            Ok(())
        });
        given.detach();
    }

    /// Received bytes are ignored: poets do not listen.
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    /// A client that has shut down its write side may still read.
    fn read_closed(&mut self, _: &Transport) {}

    /// Called when the poem has been sent; bounds how long the client may stay.
    fn write_closed(&mut self, transport: &Transport) {
        transport.set_close_deadline(Some(LEAVE));
        transport.lose_connection();
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        match std::mem::replace(&mut self.state, ServeStage::Idle) {
            ServeStage::Idle => {}
            ServeStage::Waiting(poem) => poem.cancel(),
            ServeStage::Giving(number) => self.proxy.shelf.give_back(number, transport.id()),
        }
    }
}

pub(crate) fn run(options: cli::Proxy) -> Result<(), Exit> {
    let cli::Proxy { upstream, listen, threads, ttl, timeout, limit } = options;
    // Each loop has its own cache and a share of the descriptors.
    let prepare = |others: Option<&Members>| {
        let upstreams = Upstreams::new(upstream.clone(), timeout, limit.max_bytes);
        let fetch = move |reactor: &Reactor| upstreams.clone().fetch(reactor);
        let proxy = Proxy::new(fetch, ttl, limit.max_bytes);
        // If clients took all descriptors, the poem could not be fetched.
        let most = (server::max_descriptors() / others.map_or(1, Members::count)).max(1);
        let told = Cell::new(false);
        let clients = LimitConnections::new(most).on_turned_away(move |peer| {
            if !told.replace(true) {
                tracing::warn!(%peer, most, "too few descriptors for all clients; turning some away");
            }
        });
        let factory = Shared::new(clients.wrap(move || ProxyServer::new(&proxy)));
        move |reactor: &Reactor, endpoint| reactor.listen(endpoint, factory.clone())
    };
    server::run_with(LoopOptions::default(), listen, threads, prepare)
}
