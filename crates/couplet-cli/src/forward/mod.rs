//! `couplet forward`: joins each accepted connection to an outgoing one with a [`Relay`].
//!
//! Law 9: nothing is read from a client before its server is connected; from then on the relay's
//! back-pressure bounds the bytes in memory.

mod session;
pub(crate) mod totals;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use couplet::defer::Canceller;
use couplet::process::Process;
use couplet::protocols::Relay;
use couplet::{Address, Answers, Factory, Newcomer, Protocol, Reason, Seat, Transport};

use crate::datagrams::{self, Local, Remote};
use crate::endpoint::Peer;
use crate::exit::Exit;
use crate::output;
use crate::server::{self, Drain, Listen, Server, SessionPermit, Threads, listening};
use crate::values::seconds;
use session::{Session, Side};
use totals::Totals;

/// How long the remaining side of a session may take, once everything is sent, until its peer's end
/// of stream.
const DRAIN: Duration = Duration::from_secs(5);

/// State shared by all sessions.
struct Forwarder {
    to: Peer,
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

/// The factory for clients; a client counts from its handshake on.
#[derive(Clone)]
struct ForwardFactory(Rc<Forwarder>);

impl Factory for ForwardFactory {
    type Protocol = ClientSide;

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.0.place(newcomer.peer).map(Seat::new)
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<ClientSide> {
        let place = self.0.place(peer)?;
        Some(self.0.accept(peer, place))
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

    /// Connects to the server for this client.
    fn connect(&self, client: &Transport, far: RelayEnd) -> Canceller {
        let reactor = client.reactor();
        let (session, stopping) = (far.session.clone(), reactor.clone());
        let mut made = Some(ServerSide { far });
        let factory = move |_: &Address| made.take();
        let mut connecting = reactor.connect_for(client, self.to.endpoint.clone(), factory);
        if let Some(timeout) = self.connect_timeout {
            connecting = connecting.add_timeout(reactor, timeout);
        }
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
            let forward = self.near.session.forward().clone();
            self.connecting = Some(forward.connect(transport, far));
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
totals.

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
    /// The endpoint to connect to for each client
    #[arg(value_name = "CONNECT", value_parser = datagrams::remote, allow_negative_numbers = true)]
    connect: Remote,
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

pub(crate) fn run(options: Forward) -> Result<(), Exit> {
    if let (Local::Udp(listen), Remote::Udp(connect)) = (&options.listen, &options.connect) {
        let (idle, most) = (options.idle_timeout, options.max_connections);
        return datagrams::forward((*listen, connect), idle, most, options.threads);
    }
    let totals = Arc::<Totals>::default();
    server(options, totals.clone())?.run()?;
    output::print_to_stderr(&totals.to_string());
    Ok(())
}

/// The server for connections, which adds to `totals`.
pub(crate) fn server(options: Forward, totals: Arc<Totals>) -> Result<Server, Exit> {
    let (listen, connect) = match (options.listen, options.connect) {
        (Local::Streams(listen), Remote::Streams(connect)) => (listen, connect),
        (Local::Udp(_), Remote::Udp(_)) => return Err(Exit::bad_usage(datagrams::NOT_HERE)),
        _ => {
            let text =
                "cannot forward between UDP and a stream: give udp: on both sides or on neither";
            return Err(Exit::bad_usage(text));
        }
    };
    let most = server::max_sessions(options.max_connections, 2);
    let answers = Answers::default();
    let listen = Listen { endpoints: vec![listen], drain: options.drain, answers };
    Ok(Server::of_factory(listen, options.threads, move || {
        ForwardFactory(Rc::new(Forwarder {
            to: connect.clone(),
            connect_timeout: options.connect_timeout,
            idle_timeout: options.idle_timeout,
            most,
            totals: totals.clone(),
        }))
    }))
}
