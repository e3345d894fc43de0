//! The servers that poems are fetched from, in rotation; after a failure a server is skipped for a
//! while.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use couplet::{Deferred, Failure, Reactor};

use crate::client::get_poem;
use crate::endpoint::Peer;
use crate::get;
use crate::server;

/// How long a failed server is skipped while another one works.
pub(crate) const SKIP_TIME: Duration = Duration::from_secs(30);

/// The servers, and the index of the next.
pub(crate) struct Upstreams {
    servers: Vec<Upstream>,
    next: Cell<usize>,
    timeout: Duration,
    max_bytes: u64,
}

struct Upstream {
    peer: Peer,
    dead_until: Cell<Option<Instant>>,
}

impl Upstreams {
    /// Each fetch may take `timeout` and deliver `max_bytes`.
    pub(crate) fn new(peers: Vec<Peer>, timeout: Duration, max_bytes: u64) -> Rc<Upstreams> {
        let servers = peers.into_iter();
        let servers = servers.map(|peer| Upstream { peer, dead_until: Cell::new(None) }).collect();
        Rc::new(Upstreams { servers, next: Cell::new(0), timeout, max_bytes })
    }

    /// Fetches a whole poem from the first server that has one; fails with the last server's
    /// failure.
    pub(crate) fn fetch(self: Rc<Self>, reactor: &Reactor) -> Deferred<Bytes> {
        let mut order = self.order(reactor.now()).into_iter();
        match order.next() {
            Some(first) => self.fetch_from(first, order, reactor),
            None => Deferred::fail(Failure::msg("there is no server to fetch from")),
        }
    }

    /// The live servers in rotation order, or all servers if none are live.
    fn order(&self, now: Instant) -> Vec<usize> {
        let count = self.servers.len();
        let all = (0..count).map(|n| (self.next.get() + n) % count);
        let lives = |n: &usize| self.servers[*n].dead_until.get().is_none_or(|until| now >= until);
        let living: Vec<usize> = all.clone().filter(lives).collect();
        if living.is_empty() { all.collect() } else { living }
    }

    fn fetch_from(
        self: Rc<Self>,
        server: usize,
        mut others: std::vec::IntoIter<usize>,
        reactor: &Reactor,
    ) -> Deferred<Bytes> {
        self.next.set((server + 1) % self.servers.len());
        let peer = &self.servers[server].peer;
        tracing::info!(upstream = %peer.name, "fetching a poem");
        let poem = get_poem(reactor, peer.endpoint.clone(), self.max_bytes, None)
            .add_timeout(reactor, self.timeout);
        let (me, reactor) = (self.clone(), reactor.clone());
        let poem = poem.map(move |poem| {
            me.servers[server].dead_until.set(None);
            Bytes::from(poem)
        });
        poem.recover(move |failure| {
            if failure.is_cancelled() || reactor.is_stopping() {
                return Deferred::fail(failure);
            }
            self.failed(server, &failure, reactor.now());
            match others.next() {
                Some(next) => self.fetch_from(next, others, &reactor),
                None => Deferred::fail(failure),
            }
        })
    }

    fn failed(&self, server: usize, failure: &Failure, now: Instant) {
        let Upstream { peer, dead_until } = &self.servers[server];
        if !server::is_local_failure(failure) {
            dead_until.set(now.checked_add(SKIP_TIME));
        }
        tracing::warn!(upstream = %peer.name, "no poem: {}", get::why(failure));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use couplet::ConnectError;
    use couplet::testing::hold;
    use rustix::io::Errno;

    use super::*;
    use crate::endpoint::to_connect;
    use crate::held::Nobody;

    #[test]
    fn a_lack_of_our_own_descriptors_is_no_fault_of_a_server() {
        let now = hold(Nobody).reactor().now();
        let system = |errno: Errno| ConnectError::System(Arc::new(errno.into()));
        let refused = ConnectError::Refused(Arc::new(io::ErrorKind::ConnectionRefused.into()));
        for (error, is_skipped) in [
            (system(Errno::MFILE), false),
            (system(Errno::NFILE), false),
            (system(Errno::NETDOWN), true),
            (refused, true),
        ] {
            let peers = ["1", "2", "3"].map(|port| to_connect(port).unwrap());
            let upstreams = Upstreams::new(peers.to_vec(), SKIP_TIME, 1);
            upstreams.failed(1, &error.clone().into(), now);
            let order = if is_skipped { vec![0, 2] } else { vec![0, 1, 2] };
            assert_eq!(upstreams.order(now), order, "{error}");
            assert_eq!(upstreams.order(now + SKIP_TIME), [0, 1, 2]);
        }
    }
}
