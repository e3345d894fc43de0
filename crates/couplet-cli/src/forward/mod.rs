//! `couplet forward`: joins each accepted connection to an outgoing one with a [`Relay`].
//!
//! Law 9: nothing is read from a client before its server is connected; from then on the relay's
//! back-pressure bounds the bytes in memory.

mod attempts;
mod checks;
mod session;
#[cfg(test)]
mod tests;
mod totals;
mod upstreams;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use couplet::defer::Canceller;
use couplet::endpoints::ServerEndpoint;
use couplet::process::Process;
use couplet::protocols::Relay;
use couplet::{
    Address, Answers, Factory, Failure, Newcomer, Protocol, Reactor, Reason, Seat, Transport,
};

use crate::datagrams::{self, Local, Remote};
use crate::endpoint::{Peer, is_local_failure};
use crate::exit::Exit;
use crate::output;
use crate::server::{self, Drain, Listen, Server, SessionPermit, Threads, listening};
use crate::values::{seconds, seconds_or_none};
use attempts::Attempts;
use checks::Checks;
use session::{Session, Side};
use totals::Totals;
use upstreams::{Balance, Balancer, Candidates, Recovery};

/// How long the remaining side of a session may take, once everything is sent, until its peer's end
/// of stream.
const DRAIN: Duration = Duration::from_secs(5);

/// State shared by all sessions.
struct Forwarder {
    // Bound: one for each CONNECT argument.
    servers: Vec<Peer>,
    balancer: RefCell<Balancer>,
    check_interval: Option<Duration>,
    connect_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
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

    /// A connect to this server failed, perhaps for a reason of our own.
    fn mark_down(&self, server: usize, failure: &Failure, now: Instant) {
        if is_local_failure(failure) {
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
    fn connection_made(&mut self, transport: &Transport) {
        let forward = self.session.forward();
        // While it flushes, a slow reader gets as much time as an idle one.
        transport.set_close_deadline(forward.idle_timeout);
        // If the program is killed, no peer takes a truncated stream for a complete one.
        transport.set_reset_unless_closed(true);
        self.relay.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.session.received(self.side, data.len(), transport.reactor().now());
        self.relay.data_received(transport, data);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.session.note_lost(self.side, reason, transport.reactor().now());
        if let Some(other) = self.relay.other() {
            limit_drain(other);
        }
        self.relay.connection_lost(transport, reason);
    }
}

/// Once one side is closed, the other one only flushes. Bounds the wait for a peer that has been
/// sent everything and our FIN.
fn limit_drain(transport: Transport) {
    let limited = transport.clone();
    let limit = move |flushed: couplet::Result<()>| {
        if flushed.is_ok() {
            limited.set_close_deadline(Some(DRAIN));
        }
        Ok(())
    };
    transport.flushed().add_both(limit).detach();
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

const EXAMPLE: &str = listening!(
    "  couplet forward :8080 localhost:80             a port, from elsewhere
  couplet forward unix:/run/app.sock 10.0.0.7:80   a UNIX socket, to a port
  couplet forward 8080 unix:/run/app.sock -v       a line for each connection
  couplet forward 7000 'process:/bin/cat -n'       a program for each connection
  couplet forward :80 10.0.0.7:80 10.0.0.8:80      two servers in turn

With several servers, a client whose server can't be reached gets the next one; it is reset when
none can. A server that failed is tried last for a while (--down-for), or until a check reaches it
(--check). by-peer sends a client to the same server each time, and moves it only while that
server is down; clients on UNIX sockets take turns. Each thread chooses and checks for itself.

A program ends with its connection, and its connection with it. When the connection is lost, the
program's input is closed. Its process group gets SIGTERM, after a clean close 5 seconds later, and
SIGKILL another 5 seconds later (kill=SECONDS). It counts as a connection until it has exited.
keep=yes leaves it alone.
haproxy: sends the client's address to the server.

With udp:PORT or udp:HOST:PORT for both, datagrams are forwarded, and the answers; a client that is
silent for the idle timeout, a minute unless set, is forgotten.

Each connection to LISTEN is joined to a new one to CONNECT. What one side sends
reaches the other, and so does its end: a closed sending side leaves the other
direction open, a reset becomes a reset. A slow reader is read for slowly, so
nothing piles up. Nothing is read from a client before CONNECT has answered; if
that fails the client is reset, and a line on stderr says why. Ctrl-C prints the
totals, with several servers also those of each.

CONNECT is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  tls:example.com:443             with TLS; ca=FILE trusts another authority
  process:/bin/cat                a program; also kill=, keep=, stderr=, directory=
  haproxy:…, throttle:…, log:…    before any of these: a PROXY header, a limit, a log"
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Forward {
    /// The endpoint to listen on: an ENDPOINT, as below
    #[arg(value_name = "LISTEN", value_parser = datagrams::local, allow_negative_numbers = true)]
    listen: Local,
    /// The endpoint to connect to for each client; with several, one of them
    #[arg(
        value_name = "CONNECT",
        value_parser = datagrams::remote,
        required = true,
        num_args = 1..,
        allow_negative_numbers = true
    )]
    // Bound: the arguments on the command line.
    connect: Vec<Remote>,
    /// How to distribute clients among several servers: in turn, to the server with the fewest
    /// connections, or by the client's IP address
    #[arg(long, value_name = "POLICY", default_value = "round-robin", value_parser = balance())]
    balance: Balance,
    /// Try a server last for this many seconds after a connect to it failed; 0 keeps its turn
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    down_for: Duration,
    /// Connect to each server at this interval; one that can't be reached is tried last until it
    /// can. A program (process:) can't be checked
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    check: Option<Duration>,
    /// Give up connecting after this many seconds; the timeout= of CONNECT, 30 by default, applies
    /// too
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    connect_timeout: Option<Duration>,
    /// Reset both connections when no bytes have moved in either direction for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    idle_timeout: Option<Duration>,
    /// Serve at most this many clients at a time, and turn others away [default: half the limit on
    /// descriptors]
    #[arg(long, value_name = "N", value_parser = clients, allow_negative_numbers = true)]
    max_connections: Option<usize>,
    #[command(flatten)]
    drain: Drain,
    #[command(flatten)]
    threads: Threads,
}

fn clients(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a number of connections, 1 or more, is expected here".to_owned())
}

fn balance() -> impl TypedValueParser<Value = Balance> {
    PossibleValuesParser::new(["round-robin", "least-connections", "by-peer"]).map(|word| {
        match &word[..] {
            "least-connections" => Balance::LeastConnections,
            "by-peer" => Balance::ByPeer,
            _ => Balance::RoundRobin,
        }
    })
}

pub(crate) fn run(options: Forward) -> Result<(), Exit> {
    if let (Local::Udp(listen), [Remote::Udp(connect)], None) =
        (&options.listen, &options.connect[..], options.check)
    {
        let (idle, most) = (options.idle_timeout, options.max_connections);
        return datagrams::forward((*listen, connect), idle, most, options.threads);
    }
    let (server, totals) = counting_server(options)?;
    server.run()?;
    output::print_to_stderr(&totals.to_string());
    Ok(())
}

/// The server for connections.
pub(crate) fn server(options: Forward) -> Result<Server, Exit> {
    counting_server(options).map(|(server, _)| server)
}

fn counting_server(options: Forward) -> Result<(Server, Arc<Totals>), Exit> {
    let (listen, servers) = streams(options.listen, options.connect, options.check)?;
    let totals = Arc::new(Totals::new(servers.iter().map(|server| server.name.clone())));
    let most = server::max_sessions(options.max_connections, 2);
    let answers = Answers::default();
    let listen = Listen { endpoints: vec![listen], drain: options.drain, answers };
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
            most,
            totals: counting.clone(),
        });
        move |reactor: &Reactor, endpoint| {
            let (forward, reactor) = (forward.clone(), reactor.clone());
            let checks = Checks::default();
            reactor.clone().listen(endpoint, ForwardFactory { forward, reactor, checks })
        }
    });
    Ok((server, totals))
}

/// The endpoints of a forwarder for connections, if they are all for connections, and can be checked
/// if they should be.
fn streams(
    listen: Local,
    connect: Vec<Remote>,
    check: Option<Duration>,
) -> Result<(Arc<dyn ServerEndpoint>, Vec<Peer>), Exit> {
    let count = connect.len();
    let servers: Vec<Peer> = connect
        .into_iter()
        .filter_map(|remote| match remote {
            Remote::Streams(peer) => Some(peer),
            Remote::Udp(_) => None,
        })
        .collect();
    let listen = match listen {
        Local::Streams(listen) if servers.len() == count => listen,
        Local::Udp(_) if servers.is_empty() => return Err(no_streams(count, check)),
        _ => return Err(Exit::bad_usage(MIXTURE)),
    };
    let unchecked = servers.iter().find(|peer| check.is_some() && !checks::can_check(&peer.name));
    match unchecked {
        Some(peer) => Err(Exit::bad_usage(format_args!(
            "cannot check {}, which is not a server: leave out --check",
            peer.name
        ))),
        None => Ok((listen, servers)),
    }
}

const MIXTURE: &str =
    "cannot forward between UDP and a stream: give udp: on both sides or on neither";

/// The error for UDP endpoints.
fn no_streams(servers: usize, check: Option<Duration>) -> Exit {
    Exit::bad_usage(match (servers, check) {
        (1, None) => datagrams::NOT_HERE,
        (1, Some(_)) => "cannot check a UDP server: leave out --check",
        _ => "cannot forward UDP to several servers: give one CONNECT",
    })
}
