//! `poetry proxy`: fetches a poem once, caches it, and serves it to all clients. Nothing is sent
//! until the poem is complete, so no client receives a truncated poem that looks whole.

mod cache;
#[cfg(feature = "cache")]
mod shared;
mod shelf;
#[cfg(test)]
mod tests;
#[cfg(not(feature = "cache"))]
mod unshared;
pub(crate) mod upstreams;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use couplet::defer::Canceller;
use couplet::protocols::{LimitConnections, Policy};
use couplet::transport::Timeout;
use couplet::{Deferred, Protocol, Reactor, Reason, Shared, SocketOption, Transport, hooks};
use rustix::net::sockopt;

use crate::client::Limit;
use crate::endpoint::{Peer, to_connect};
use crate::exit::Exit;
use crate::server::{self, Listen, Server, Threads, listening};
use crate::values::{Secret, seconds, seconds_or_none};
use cache::{Cache, Edition, Fetched};
use shared::{Settings, SharedCache};
use shelf::Shelf;
#[cfg(not(feature = "cache"))]
use unshared as shared;
use upstreams::Upstreams;

/// A client that reads nothing of its poem for this long is disconnected.
const STALL: Duration = Duration::from_secs(60);
/// How long a client that has the whole poem may stay connected.
const LEAVE: Duration = Duration::from_secs(30);
/// A client that has shut down its write side may still be waiting, or its machine may be down.
/// Keepalive probes, at this interval, detect the latter.
const PROBE: Duration = Duration::from_secs(15);
/// Number of unanswered probes after which a client counts as lost.
const PROBES: u32 = 5;
/// Number of longest poems kept for slow readers, besides the cached one.
const KEPT: u64 = 4;

/// The cached poem, and those in transit to clients; shared by all connections.
pub(crate) struct PoemStore {
    cache: Cache,
    shelf: Shelf,
}

impl PoemStore {
    /// `fetch` delivers poems of at most `max_bytes`; they are cached for `ttl`.
    pub(crate) fn new<F: Into<Fetched> + 'static>(
        fetch: impl Fn(&Reactor) -> Deferred<F> + 'static,
        ttl: Option<Duration>,
        max_bytes: u64,
    ) -> Rc<PoemStore> {
        let shelf = Shelf::new(max_bytes.saturating_mul(KEPT));
        Rc::new(PoemStore { cache: Cache::new(ttl, fetch), shelf })
    }
}

/// Sends the poem to one client when it has been fetched.
pub(crate) struct ProxyServer {
    store: Rc<PoemStore>,
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
    pub(crate) fn new(store: &Rc<PoemStore>) -> ProxyServer {
        ProxyServer { store: store.clone(), state: ServeStage::Idle }
    }

    fn arrived(&mut self, transport: &Transport, poem: couplet::Result<Edition>) {
        self.state = ServeStage::Idle;
        let Ok(poem) = poem else {
            return transport.lose_connection();
        };
        tracing::info!(peer = %transport.peer(), bytes = poem.text.len(), "serving the poem");
        self.store.shelf.take(&poem, transport);
        self.state = ServeStage::Giving(poem.number);
        // Without a copy: all clients share the unread bytes.
        transport.write_bytes(poem.text);
        transport.lose_write_connection();
    }
}

/// Sets the interval and the number of probes. The system's own would take minutes more: on Linux
/// nine probes, one every 75 seconds.
fn limit_probes(transport: &Transport) {
    // A network in memory has no descriptors and no probes.
    if hooks::descriptor(transport).is_some() {
        transport.with_socket(|socket| {
            if socket.local_addr()?.is_unix() {
                return Ok(());
            }
            sockopt::set_tcp_keepintvl(&*socket, PROBE)?;
            Ok(sockopt::set_tcp_keepcnt(&*socket, PROBES)?)
        });
    }
}

impl Protocol for ProxyServer {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Close, Some(STALL));
        transport.set_option(SocketOption::KeepAlive(Some(PROBE)));
        limit_probes(transport);
        // If the proxy is killed, no client takes a truncated poem for a whole one.
        transport.set_option(SocketOption::ResetUnlessClosed(true));
        let me = transport.connection::<Self>();
        let poem = self.store.cache.get(transport.reactor());
        self.state = ServeStage::Waiting(poem.canceller());
        let given = poem.add_both(move |poem| {
            me.tell(move |me, transport| me.arrived(transport, poem));
            Ok(())
        });
        given.detach();
    }

    /// Ignores received bytes: the poem needs no request.
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    /// A client that has shut down its write side may still read.
    fn read_closed(&mut self, _: &Transport) {}

    /// Called when the poem has been sent; bounds how long the client may stay.
    fn write_closed(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Fin, Some(LEAVE));
        transport.lose_connection();
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        match std::mem::replace(&mut self.state, ServeStage::Idle) {
            ServeStage::Idle => {}
            ServeStage::Waiting(poem) => poem.cancel(),
            ServeStage::Giving(number) => self.store.shelf.give_back(number, transport.id()),
        }
    }
}

const EXAMPLE: &str = listening!(
    "  poetry serve --listen 10000
  poetry proxy --upstream 10000 --listen 10100
  poetry get 10100

Clients that connect during a fetch share it; nothing is sent before the poem is
complete. If no upstream has a poem, waiting clients are closed without data,
and the next client makes the proxy try again. An upstream that failed is
skipped for 30 seconds, unless all did. An empty poem counts as a failure.
With --threads, each thread fetches the poem for itself.

Proxies with the same --cache fetch a poem once for all of them and their
threads, and keep it there for --ttl, or for a day. A proxy that cannot use the
cache fetches the poem for itself.

A client may close its sending side and keep waiting; a lost client is noticed
immediately if it resets, else within a minute and a half."
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
#[expect(missing_docs, reason = "it would become the help of the command")]
pub struct Proxy {
    /// A server to fetch the poem from, as in `poetry get`; given several times, each fetch uses
    /// the next one
    #[arg(
        short,
        long,
        value_name = "ADDRESS",
        value_parser = to_connect,
        required = true,
        allow_negative_numbers = true
    )]
    upstream: Vec<Peer>,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    threads: Threads,
    /// Fetch the poem again after this many seconds; 0 caches nothing [default: never]
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    ttl: Option<Duration>,
    /// Share the poem with the other proxies that have the same upstreams, --ttl and cache, a Redis
    /// server: redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    cache: Option<Secret>,
    /// Give up on a fetch that is incomplete after this many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "300",
        value_parser = seconds,
        allow_negative_numbers = true
    )]
    timeout: Duration,
    #[command(flatten)]
    limit: Limit,
}

pub(crate) fn run(options: Proxy) -> Result<(), Exit> {
    server(options)?.run()
}

/// The proxy with these options.
///
/// # Errors
///
/// If the options contradict one another.
pub fn server(options: Proxy) -> Result<Server, Exit> {
    let Proxy { upstream, listen, threads, ttl, cache, timeout, limit } = options;
    let max_bytes = limit.max_bytes;
    let names: Vec<&str> = upstream.iter().map(|peer| &*peer.name).collect();
    let names = names.join(",");
    let settings = cache.map(|cache| Settings::new(&cache, &names, ttl, timeout, max_bytes));
    let settings = settings.transpose()?;
    if settings.is_some() && ttl == Some(Duration::ZERO) {
        return Err(Exit::bad_usage("--cache keeps nothing with --ttl 0"));
    }
    let link = settings.as_ref().map(Settings::service);
    // Each loop has its own cache and a share of the descriptors.
    let prepare = move |loops: usize| {
        let upstreams = Upstreams::new(upstream.clone(), timeout, max_bytes);
        let shared = settings.clone();
        let shared = shared.map(|it| SharedCache::new(it, upstreams.clone()));
        let connecting = shared.clone();
        let fetch = move |reactor: &Reactor| match &shared {
            Some(shared) => shared.clone().fetch(reactor),
            None => upstreams.clone().fetch(reactor).map(Fetched::from),
        };
        let store = PoemStore::new(fetch, ttl, max_bytes);
        // If clients took all descriptors, the poem could not be fetched.
        let most = (server::max_descriptors() / loops).max(1);
        let told = Cell::new(false);
        let clients = LimitConnections::new(most).on_turned_away(move |peer| {
            if !told.replace(true) {
                tracing::warn!(%peer, most, "too few descriptors for all clients; turning some away");
            }
        });
        let factory = Shared::new(clients.wrap(move || ProxyServer::new(&store)));
        move |reactor: &Reactor, endpoint| {
            connecting.iter().for_each(|shared| shared.connect(reactor));
            reactor.listen(endpoint, factory.clone())
        }
    };
    let server = Server::new(listen, threads, prepare);
    Ok(match link {
        Some(link) => server.with_link(link),
        None => server,
    })
}
