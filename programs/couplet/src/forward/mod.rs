//! `couplet forward`: joins each accepted connection to an outgoing one with a [`Relay`].
//!
//! Law 9: nothing is read from a client before its server is connected; from then on the relay's
//! back-pressure bounds the bytes in memory.
//!
//! Contract: 71d.

mod attempts;
mod checks;
mod options;
mod session;
#[cfg(test)]
mod tests;
mod totals;
mod upstreams;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet::defer::Canceller;
use couplet::process::Process;
use couplet::protocols::Relay;
use couplet::transport::Timeout;
use couplet::{
    Address, Answers, Factory, Failure, Newcomer, Protocol, Reactor, Reason, Seat, SocketOption,
    Transport,
};

use crate::datagrams;
use crate::endpoint::Peer;
use crate::exit::Exit;
use crate::output;
use crate::server::{self, Listen, Server, SessionPermit};
use crate::values::or_never;
use attempts::Attempts;
use checks::Checks;
pub(crate) use options::Forward;
use options::streams;
use session::{Session, Side};
use totals::Totals;
use upstreams::{Balancer, Candidates, Recovery};

/// How long the remaining side of a session may take, once everything is sent, until its peer's end
/// of stream.
const FIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nothing may move once one side has ended, unless set otherwise.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a program whose client has ended its sending may move no byte, unless set otherwise.
/// Shorter, because a program costs more than a connection to a server.
const PROGRAM_HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long nothing may move once one side has ended; `None` waits forever.
#[derive(Clone, Copy)]
struct HalfCloseTimeout(Option<Duration>);

/// State shared by all sessions.
struct Forwarder {
    servers: Vec<Peer>,
    balancer: RefCell<Balancer>,
    check_interval: Option<Duration>,
    connect_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    /// Unless it depends on the server.
    half_close_timeout: Option<HalfCloseTimeout>,
    /// Most concurrent sessions.
    most: usize,
    /// Counts over all loops.
    totals: Arc<Totals>,
}

/// One side of a session.
struct RelayEnd {
    relay: Relay,
    side: Side,
    session: Rc<Session>,
}

/// The client's side; it connects the server's side.
struct ClientSide {
    near: RelayEnd,
    far: Option<RelayEnd>,
    /// Cancels the connect; does nothing afterwards.
    connecting: Option<Canceller>,
}

/// The server's side; it ends the session when that is idle.
struct ServerSide {
    far: RelayEnd,
}

/// The factory for the clients of one port; a client counts from its handshake on. The servers are
/// checked while the port listens.
struct ForwardFactory {
    forward: Rc<Forwarder>,
    reactor: Reactor,
    checks: Checks,
}

impl Factory for ForwardFactory {
    type Protocol = ClientSide;

    fn do_start(&mut self) {
        if let Some(interval) = self.forward.check_interval {
            self.checks = Checks::start(&self.forward, &self.reactor, interval);
        }
    }

    fn do_stop(&mut self) {
        self.checks.stop();
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.forward.place(newcomer.peer).map(Seat::new)
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<ClientSide> {
        let place = self.forward.place(peer)?;
        Some(self.forward.accept(peer, place))
    }
}

impl Forwarder {
    /// Reserves a place for this client; `None` if there are too many.
    fn place(&self, peer: &Address) -> Option<SessionPermit> {
        let place = self.totals.place(self.most);
        if place.is_none() && self.totals.turn_away() {
            tracing::warn!(%peer, most = self.most, "too many connections; turning some away");
        }
        place
    }

    /// Creates the protocol for a new client.
    fn accept(self: &Rc<Self>, peer: &Address, place: SessionPermit) -> ClientSide {
        let session = Rc::new(Session::new(self.clone(), peer.clone(), place));
        let (near, far) = Relay::pair();
        let joined = |relay, side| RelayEnd { relay, side, session: session.clone() };
        let (near, far) = (joined(near, Side::Client), joined(far, Side::Server));
        ClientSide { near, far: Some(far), connecting: None }
    }

    /// Connects to a server for this client.
    fn connect(client: &Transport, far: RelayEnd) -> Canceller {
        let (session, stopping) = (far.session.clone(), client.reactor().clone());
        let connecting = Attempts::start(client, far);
        let canceller = connecting.canceller();
        let connected = connecting.add_both(move |connected| {
            if let Err(failure) = connected {
                session.not_connected(failure, stopping.is_stopping());
            }
            Ok(())
        });
        connected.detach();
        canceller
    }

    fn candidates(&self, peer: &Address) -> Candidates {
        self.balancer.borrow().candidates(peer)
    }

    fn choose(&self, candidates: &mut Candidates, now: Instant) -> Option<usize> {
        self.balancer.borrow_mut().choose(candidates, now)
    }

    fn release(&self, server: usize) {
        self.balancer.borrow_mut().release(server);
    }

    /// A connect to this server succeeded.
    fn mark_up(&self, server: usize) {
        if self.balancer.borrow_mut().mark_up(server) && self.reports_health() {
            tracing::info!(server = %self.servers[server].name, "server is up again");
        }
    }

    /// A connect to this server failed, perhaps for a local reason.
    fn mark_down(&self, server: usize, failure: &Failure, now: Instant) {
        if server::is_local_failure(failure) {
            return;
        }
        if self.balancer.borrow_mut().mark_down(server, now) && self.reports_health() {
            tracing::warn!(server = %self.servers[server].name, "server is down: {failure}");
        }
    }

    /// A single server that is not checked is reported by each client's failure.
    fn reports_health(&self) -> bool {
        self.servers.len() > 1 || self.check_interval.is_some()
    }
}

impl RelayEnd {
    /// How long nothing may move once one side has ended, `transport` being one of the two.
    fn half_close_timeout(&self, transport: &Transport) -> Option<Duration> {
        let default = match Process::of(transport) {
            Some(_) => PROGRAM_HALF_CLOSE_TIMEOUT,
            None => HALF_CLOSE_TIMEOUT,
        };
        let set = self.session.forward().half_close_timeout;
        set.map_or(Some(default), |HalfCloseTimeout(timeout)| timeout)
    }

    fn connection_made(&mut self, transport: &Transport) {
        let forward = self.session.forward();
        let half_close_timeout = self.half_close_timeout(transport);
        for transport in [Some(transport.clone()), self.relay.other()].into_iter().flatten() {
            transport.set_timeout(Timeout::HalfClose, half_close_timeout);
            // While it flushes, a slow reader gets as much time as an idle one.
            transport.set_timeout(Timeout::Close, forward.idle_timeout.or(half_close_timeout));
        }
        transport.set_timeout(Timeout::Fin, Some(FIN_TIMEOUT));
        // If the program is killed, no peer takes a truncated stream for a complete one.
        transport.set_option(SocketOption::ResetUnlessClosed(true));
        self.relay.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.session.received(self.side, data.len(), transport.reactor().now());
        self.relay.data_received(transport, data);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        if matches!(reason, Reason::Timeout) {
            self.session.note_half_closed();
        }
        self.session.note_lost(self.side, reason, transport.reactor().now());
        self.relay.connection_lost(transport, reason);
    }
}

impl Protocol for ClientSide {
    fn connection_made(&mut self, transport: &Transport) {
        self.near.session.begin(transport.reactor().now());
        self.near.connection_made(transport);
        if let Some(far) = self.far.take() {
            self.connecting = Some(Forwarder::connect(transport, far));
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.near.data_received(transport, data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.near.relay.read_closed(transport);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.near.connection_lost(transport, reason);
        if let Some(connecting) = self.connecting.take() {
            connecting.cancel();
        }
    }
}

impl ServerSide {
    /// Checks after `time` whether the session is idle.
    fn schedule_idle_check(transport: &Transport, time: Duration) {
        let check_idle = |me: &mut Self, transport: &Transport| me.check_idle(transport);
        transport.connection::<Self>().call_later(time, check_idle);
    }

    /// A slow reader is not idle: as it drains, data arrives.
    fn check_idle(&mut self, transport: &Transport) {
        let session = &self.far.session;
        let Some(limit) = session.forward().idle_timeout else { return };
        let idle = session.idle_for(transport.reactor().now());
        if idle >= limit {
            session.note_idle();
            return transport.abort_connection();
        }
        Self::schedule_idle_check(transport, limit - idle);
    }
}

impl Protocol for ServerSide {
    fn connection_made(&mut self, transport: &Transport) {
        self.far.session.touch(transport.reactor().now());
        self.far.connection_made(transport);
        if let Some(program) = Process::of(transport) {
            // The session counts until the program has exited.
            let session = self.far.session.clone();
            let exited = move |_| {
                drop(session);
                Ok(())
            };
            program.ended().add_both(exited).detach();
        }
        if let Some(limit) = self.far.session.forward().idle_timeout {
            Self::schedule_idle_check(transport, limit);
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.far.data_received(transport, data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.far.relay.read_closed(transport);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.far.connection_lost(transport, reason);
    }
}

/// The descriptors of a connection to this server: a program has two pipes, and one is for its end.
fn descriptors(server: &Peer) -> usize {
    if server.name.contains("process:") { 3 } else { 1 }
}

pub(crate) fn run(options: Forward) -> Result<(), Exit> {
    if let Some((listen, connect)) = options.udp() {
        let settings = options.for_udp();
        let loops = (options.threads, options.driver);
        return datagrams::forward((listen.address(), connect), settings, loops);
    }
    let (server, totals) = counting_server(options)?;
    server.run()?;
    output::print_to_stderr(&totals.to_string());
    Ok(())
}

/// The server for connections or, in a configuration, for datagrams.
pub(crate) fn server(options: Forward) -> Result<Server, Exit> {
    if let Some((listen, connect)) = options.udp() {
        let ends = (listen.clone(), connect.clone());
        let part = datagrams::forward_part(ends, options.for_udp(), options.drain.time);
        return Ok(Server::of_datagrams(options.drain, vec![part]));
    }
    counting_server(options).map(|(server, _)| server)
}

fn counting_server(options: Forward) -> Result<(Server, Arc<Totals>), Exit> {
    let (listen, servers) = streams(options.listen, options.connect, options.check)?;
    let totals = Arc::new(Totals::new(servers.iter().map(|server| server.name.clone())));
    let each = 1 + servers.iter().map(descriptors).max().unwrap_or_default();
    let most = server::max_sessions(options.max_connections, each);
    let (answers, driver) = (Answers::default(), options.driver);
    let listen = Listen { endpoints: vec![listen], drain: options.drain, answers, driver };
    let recovery = options.check.map_or(Recovery::After(options.down_for), |_| Recovery::Reached);
    let counting = totals.clone();
    let server = Server::new(listen, options.threads, move |_| {
        let names = servers.iter().map(|server| &server.name[..]);
        let forward = Rc::new(Forwarder {
            balancer: RefCell::new(Balancer::new(names, options.balance, recovery)),
            servers: servers.clone(),
            check_interval: options.check,
            connect_timeout: options.connect_timeout,
            idle_timeout: options.idle_timeout,
            half_close_timeout: options.half_close_timeout.map(or_never).map(HalfCloseTimeout),
            most,
            totals: counting.clone(),
        });
        move |reactor: &Reactor, endpoint| {
            let (forward, reactor) = (forward.clone(), reactor.clone());
            let checks = Checks::default();
            let port =
                reactor.clone().listen(endpoint, ForwardFactory { forward, reactor, checks })?;
            port.count_descriptors(each as u32);
            Ok(port)
        }
    });
    Ok((server, totals))
}
