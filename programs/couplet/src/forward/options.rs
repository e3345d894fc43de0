//! The arguments of `couplet forward`, and the combinations of endpoints that it accepts.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use couplet::endpoints::{ServerEndpoint, UdpClient};

use super::checks;
use super::upstreams::Balance;
use crate::datagrams::{self, ForwardSettings, ListenUdp, Local, Remote};
use crate::endpoint::Peer;
use crate::exit::Exit;
use crate::server::{Drain, DriverOption, Threads, listening};
use crate::values::{seconds, seconds_or_none};

const EXAMPLE: &str = listening!(
    "  couplet forward :8080 localhost:80               a port, from elsewhere
  couplet forward unix:/run/app.sock 10.0.0.7:80   a UNIX socket, to a port
  couplet forward 8080 unix:/run/app.sock -v       a line for each connection
  couplet forward 7000 'process:/bin/cat -n'       a program for each connection
  couplet forward :80 10.0.0.7:80 10.0.0.8:80      two servers in turn

Each connection to LISTEN is joined to a new one to CONNECT. Bytes of one side reach the other, and
so does its end: a closed sending side leaves the other direction open, as long as something
moves within a minute (--half-close-timeout), since most clients leave like that; a reset becomes a
reset. A slow reader slows its sender down, so nothing piles up. Nothing is read from a client
before CONNECT has answered; if that fails the client is reset, and a line on stderr says why.
haproxy: sends the client's address to the server. Ctrl-C prints the totals, with several servers
also for each server.

With several servers, a client whose server can't be reached gets the next one; it is reset when
none can. A server that failed is tried last for a while (--down-for), or until a check reaches it
(--check). by-peer sends a client to the same server each time, and moves it only while that
server is down; clients on UNIX sockets take turns. Each thread chooses and checks for itself.

A program ends with its connection, and its connection with it. The end of the client closes the
program's input; a program that then writes nothing for 10 seconds (--half-close-timeout) ends. When
the connection is lost, its process group gets SIGTERM, after a clean close 5 seconds later, and
SIGKILL another 5 seconds later (kill=SECONDS); keep=yes spares it. A program counts as a
connection until it has exited.

With udp:PORT or udp:HOST:PORT for both, datagrams are forwarded, and the answers; a client that is
silent for the idle timeout, a minute unless set, is forgotten.

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
    pub(super) listen: Local,
    /// The endpoint to connect to for each client; with several, one of them
    #[arg(
        value_name = "CONNECT",
        value_parser = datagrams::remote,
        required = true,
        allow_negative_numbers = true
    )]
    pub(super) connect: Vec<Remote>,
    /// How to distribute clients among several servers: in turn, to the server with the fewest
    /// connections, or by the client's IP address
    #[arg(long, value_name = "POLICY", default_value = "round-robin", value_parser = balance())]
    pub(super) balance: Balance,
    /// Try a server last for this many seconds after a connect to it failed; 0 keeps its turn
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(super) down_for: Duration,
    /// Connect to each server at this interval; one that can't be reached is tried last until it
    /// can. A program (process:) can't be checked
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(super) check: Option<Duration>,
    /// Give up connecting after this many seconds; the timeout= of CONNECT, 30 by default, applies
    /// too
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(super) connect_timeout: Option<Duration>,
    /// Look the name of a UDP server up at this interval; a new address gets all clients. Other
    /// endpoints look names up for each connect
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = seconds,
        allow_negative_numbers = true
    )]
    pub(super) lookup: Duration,
    /// Reset both connections when no bytes have moved in either direction for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(super) idle_timeout: Option<Duration>,
    /// Reset both connections when one side has ended its sending, or left, and no bytes have moved
    /// for this many seconds since; 0 waits forever [default: 60; 10 for a program]
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(super) half_close_timeout: Option<Duration>,
    /// Serve at most this many clients at a time, and turn others away [default: half the limit on
    /// descriptors, or a quarter for a program]
    #[arg(long, value_name = "N", value_parser = clients, allow_negative_numbers = true)]
    pub(super) max_connections: Option<usize>,
    #[command(flatten)]
    pub(super) drain: Drain,
    #[command(flatten)]
    pub(super) threads: Threads,
    #[command(flatten)]
    pub(super) driver: DriverOption,
}

impl Forward {
    /// The options that apply to datagrams.
    pub(super) fn for_udp(&self) -> ForwardSettings {
        let (idle, most, lookup) = (self.idle_timeout, self.max_connections, self.lookup);
        ForwardSettings { idle, most, lookup }
    }

    /// The ends of a forwarder for datagrams.
    pub(super) fn udp(&self) -> Option<(&ListenUdp, &UdpClient)> {
        match (&self.listen, &self.connect[..], self.check) {
            (Local::Udp(listen), [Remote::Udp(connect)], None) => Some((listen, connect)),
            _ => None,
        }
    }
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

/// The endpoints of a forwarder for connections, if they are all for connections, and can be checked
/// if they should be.
pub(super) fn streams(
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
        Local::Udp(_) if servers.is_empty() && count == 1 => {
            return Err(Exit::bad_usage("cannot check a UDP server: leave out --check"));
        }
        Local::Udp(_) if servers.is_empty() => {
            return Err(Exit::bad_usage("cannot forward UDP to several servers: give one CONNECT"));
        }
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
