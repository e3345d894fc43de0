//! The connect for one client: servers are tried in the balancer's order until one answers. The
//! client is not read in the meantime, and reset once all have failed.
//!
//! Contract: 145e.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use couplet::factory::ErasedFactory;
use couplet::{Address, ConnectError, Deferred, Failure, Transport};

use super::session::Session;
use super::upstreams::Candidates;
use super::{Forwarder, RelayEnd, ServerSide};

/// The remaining attempts for one client.
pub(super) struct Attempts {
    client: Transport,
    session: Rc<Session>,
    candidates: Candidates,
    /// Empty once a connection has been made. Dropping it resets the client.
    far: Rc<RefCell<Option<ServerSide>>>,
}

impl Attempts {
    /// Connects to a server for this client, whose other side is `far`. Fails with the failure of
    /// the last server.
    pub(super) fn start(client: &Transport, far: RelayEnd) -> Deferred<()> {
        let session = far.session.clone();
        let candidates = session.forward().candidates(session.peer());
        let far = Rc::new(RefCell::new(Some(ServerSide { far })));
        let mut attempts = Attempts { client: client.clone(), session, candidates, far };
        match attempts.choose() {
            Some(first) => attempts.connect(first),
            None => Deferred::fail(Failure::msg("there is no server to connect to")),
        }
    }

    fn forward(&self) -> &Rc<Forwarder> {
        self.session.forward()
    }

    fn choose(&mut self) -> Option<usize> {
        let forward = self.session.forward();
        forward.choose(&mut self.candidates, self.client.reactor().now())
    }

    fn connect(self, server: usize) -> Deferred<()> {
        self.session.attempt(server);
        let (reactor, far) = (self.client.reactor(), self.far.clone());
        let endpoint = self.forward().servers[server].endpoint.clone();
        let factory = move |_: &Address| far.take();
        let mut connecting =
            reactor.connect(endpoint, ErasedFactory::new(factory).on_behalf_of(&self.client));
        if let Some(timeout) = self.forward().connect_timeout {
            connecting = connecting.add_timeout(reactor, timeout);
        }
        let forward = self.forward().clone();
        let connected = connecting.map(move |_| forward.reached(server));
        connected.recover(move |failure| self.connect_next(server, failure))
    }

    /// Continues after a failed attempt, unless the client or the loop has ended it.
    fn connect_next(mut self, server: usize, failure: Failure) -> Deferred<()> {
        self.session.release();
        let reactor = self.client.reactor();
        if was_stopped(&failure) || reactor.is_stopping() {
            return Deferred::fail(failure);
        }
        self.forward().failed(server, &failure, reactor.now());
        if self.far.borrow().is_none() {
            return Deferred::fail(failure);
        }
        match self.choose() {
            Some(next) => self.connect(next),
            None => Deferred::fail(failure),
        }
    }
}

fn was_stopped(failure: &Failure) -> bool {
    failure.is_cancelled()
        || matches!(failure.downcast_ref(), Some(ConnectError::Stopped | ConnectError::Shutdown))
}

impl Forwarder {
    /// A client was connected to this server.
    fn reached(&self, server: usize) {
        self.totals.reached(server);
        self.mark_up(server);
    }

    /// A client's connect to this server failed.
    fn failed(&self, server: usize, failure: &Failure, now: Instant) {
        self.totals.failed(server);
        self.mark_down(server, failure, now);
    }
}
