//! The scenarios: the role of the server, and the load.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::kind::{COMPARED, COMPARED_IN_BULK, Kind, Role};
use crate::load::bytes::{Closer, Load};
use crate::load::chat::Chat;
use crate::load::http1::Http1;
use crate::load::http2::Http2;
use crate::load::tls::Tls;
use crate::load::{Clients, HELLO, closed_loop};

/// A timed or a counted scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Selected {
    Timed(Scenario),
    SystemCalls,
    Instructions,
}

/// A timed scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scenario {
    pub(crate) load: Shape,
    pub(crate) pace: Pace,
}

/// When requests are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// The next one when an answer arrives.
    Closed,
    /// At this share of the server's best rate, in percent.
    Share(u32),
}

/// The clients of a scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Ping(usize),
    Lines(usize),
    Tls(usize),
    Bulk,
    Relay,
    SlowReaders,
    FanOut,
    /// The number of members; each of them sends lines.
    Chat(usize),
    Short(Closer),
    /// Connections, and requests in flight on each.
    Http1(usize, usize),
    Http2(usize, usize),
    /// Connections, and KiB of the file.
    Files(usize, usize),
}

/// Streaming connections in bulk: enough that the server nearly always finds one readable.
const STREAMS: usize = 8;
/// Number of pinging connections, and of the slow readers that run with them.
const BESIDE_SLOW: usize = 50;
const SLOW: usize = 4;
/// Connections that receive each message of a fan-out.
const AUDIENCE: usize = 100;
const MEGABYTE: f64 = 1e6;

const fn closed(load: Shape) -> Selected {
    Selected::Timed(Scenario { load, pace: Pace::Closed })
}

const fn at(percent: u32, load: Shape) -> Selected {
    Selected::Timed(Scenario { load, pace: Pace::Share(percent) })
}

/// All scenarios with their names and meanings.
pub(crate) const SCENARIOS: [(&str, Selected, &str); 31] = [
    ("ping-1", closed(Shape::Ping(1)), "64 bytes there and back, 1 connection"),
    ("ping-50", closed(Shape::Ping(50)), "64 bytes there and back, 50 connections"),
    ("ping-500", closed(Shape::Ping(500)), "64 bytes there and back, 500 connections"),
    ("lines", closed(Shape::Lines(50)), "lines of 64 bytes, framed and echoed, 50 connections"),
    ("tls", closed(Shape::Tls(50)), "64 bytes there and back over TLS 1.3, 50 connections"),
    ("bulk", closed(Shape::Bulk), "an echo of 8 streams, each as fast as it can; MB of 10^6 bytes"),
    ("relay", closed(Shape::Relay), "8 streams through the server to another one, 4 each way"),
    ("slow-readers", closed(Shape::SlowReaders), "ping-50 beside 4 slow readers of a stream"),
    ("fan-out", closed(Shape::FanOut), "each message of 64 bytes goes to 100 connections"),
    ("chat-40", closed(Shape::Chat(40)), "lines of 64 bytes of 40 members, each to all of them"),
    (
        "chat-1000",
        closed(Shape::Chat(1000)),
        "lines of 64 bytes of 1000 members, each to all of them",
    ),
    (
        "short-client-first",
        closed(Shape::Short(Closer::Client)),
        "connect, one exchange, close by the client; 8 at a time",
    ),
    (
        "short-server-first",
        closed(Shape::Short(Closer::Server)),
        "connect, one exchange, close by the server; 8 at a time",
    ),
    ("http-50", closed(Shape::Http1(50, 1)), "HTTP/1.1, a short answer, 50 connections that stay"),
    ("http-pipelined", closed(Shape::Http1(50, 16)), "the same with 16 requests in flight on each"),
    (
        "http2-10x100",
        closed(Shape::Http2(10, 100)),
        "HTTP/2, a short answer, 10 connections of 100 streams",
    ),
    (
        "http2-50x1",
        closed(Shape::Http2(50, 1)),
        "HTTP/2, a short answer, 50 connections of 1 stream",
    ),
    ("files-1k", closed(Shape::Files(50, 1)), "a file of 1 KiB over HTTP/1.1, 50 connections"),
    (
        "files-100k",
        closed(Shape::Files(50, 100)),
        "a file of 100 KiB over HTTP/1.1, 50 connections",
    ),
    (
        "files-10m",
        closed(Shape::Files(4, 10 << 10)),
        "a file of 10 MiB over HTTP/1.1, 4 connections",
    ),
    (
        "latency-chat-40-at-25",
        at(25, Shape::Chat(40)),
        "latency of chat-40 at a quarter of the server's best rate",
    ),
    (
        "latency-chat-40",
        at(50, Shape::Chat(40)),
        "latency of chat-40 at half of the server's best rate",
    ),
    (
        "latency-chat-40-at-90",
        at(90, Shape::Chat(40)),
        "latency of chat-40 at 90 % of the server's best rate",
    ),
    (
        "latency-chat-1000-at-25",
        at(25, Shape::Chat(1000)),
        "latency of chat-1000 at a quarter of the server's best rate",
    ),
    (
        "latency-chat-1000",
        at(50, Shape::Chat(1000)),
        "latency of chat-1000 at half of the server's best rate",
    ),
    (
        "latency-chat-1000-at-90",
        at(90, Shape::Chat(1000)),
        "latency of chat-1000 at 90 % of the server's best rate",
    ),
    (
        "latency-ping",
        at(50, Shape::Ping(50)),
        "latency of ping-50 at half of the server's best rate",
    ),
    (
        "latency-http",
        at(50, Shape::Http1(50, 1)),
        "latency of http-50 at half of the server's best rate",
    ),
    (
        "latency-http2",
        at(50, Shape::Http2(50, 1)),
        "latency of http2-50x1 at half of the server's best rate",
    ),
    ("syscalls", Selected::SystemCalls, "system calls of the server, by strace"),
    ("instructions", Selected::Instructions, "user instructions of the server, by valgrind"),
];

impl Selected {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        self.entry().0
    }

    pub(crate) fn title(self) -> &'static str {
        self.entry().2
    }

    fn entry(self) -> (&'static str, Selected, &'static str) {
        let found = SCENARIOS.into_iter().find(|(_, it, _)| *it == self);
        found.expect("every scenario is in the table")
    }

    /// The servers that are compared by default.
    pub(crate) fn usual(self) -> &'static [Kind] {
        match self {
            Selected::Timed(Scenario { load: Shape::Bulk | Shape::Relay, .. }) => COMPARED_IN_BULK,
            _ => COMPARED,
        }
    }

    /// The role that a server must play.
    pub(crate) fn role(self) -> Role {
        match self {
            Selected::Timed(scenario) => scenario.load.role(None),
            Selected::SystemCalls => Role::EchoOne,
            Selected::Instructions => Role::Echo,
        }
    }
}

/// The clients of one server.
pub(crate) enum Playing {
    Bytes(Box<Load>),
    Requests(Box<dyn Clients>),
}

impl Shape {
    /// The server's role; a relay's address to relay to is `behind`.
    pub(crate) fn role(self, behind: Option<SocketAddr>) -> Role {
        match self {
            Shape::Ping(_) | Shape::Bulk | Shape::SlowReaders => Role::Echo,
            Shape::Lines(_) => Role::Lines,
            Shape::Tls(_) => Role::Tls,
            Shape::Relay => Role::Relay(behind.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))),
            Shape::FanOut | Shape::Chat(_) => Role::FanOut,
            Shape::Short(Closer::Client) => Role::Echo,
            Shape::Short(Closer::Server) => Role::EchoOne,
            Shape::Http1(..) => Role::Hello1,
            Shape::Http2(..) => Role::Hello2,
            Shape::Files(..) => Role::Files,
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Shape::Ping(_) | Shape::Lines(_) | Shape::Tls(_) | Shape::SlowReaders => "trip",
            Shape::Bulk | Shape::Relay => "MB",
            Shape::FanOut => "message",
            Shape::Chat(_) => "delivery",
            Shape::Short(_) => "connection",
            Shape::Http1(..) | Shape::Http2(..) | Shape::Files(..) => "request",
        }
    }

    /// The listener behind a relay.
    pub(crate) fn behind(self) -> io::Result<Option<TcpListener>> {
        let is_relay = self == Shape::Relay;
        is_relay.then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).transpose()
    }

    /// Opens the connections. A relay leads to `behind`; files are in `folder`.
    pub(crate) fn connect(
        self,
        server: SocketAddr,
        spin: bool,
        behind: Option<TcpListener>,
        folder: &Path,
    ) -> io::Result<Playing> {
        let load = || Load::new(server, spin, matches!(self, Shape::Lines(_))).map(Box::new);
        let requests = |clients| Ok(Playing::Requests(clients));
        let mut load = match self {
            Shape::Tls(count) => {
                return requests(Box::new(Tls::connect(server, spin, count, folder)?));
            }
            Shape::Chat(count) => {
                return requests(Box::new(Chat::connect(server, spin, count)?));
            }
            Shape::Http1(count, depth) => {
                let hello = HELLO.to_vec();
                let clients = Http1::connect(server, spin, (count, depth), "/", hello)?;
                return requests(Box::new(clients));
            }
            Shape::Http2(count, _) => {
                return requests(Box::new(Http2::connect(server, spin, count, HELLO)?));
            }
            Shape::Files(count, size) => {
                let name = file_name(size);
                let body = fs::read(folder.join("site").join(&name))?;
                let path = format!("/{name}");
                let clients = Http1::connect(server, spin, (count, 1), &path, body)?;
                return requests(Box::new(clients));
            }
            _ => load()?,
        };
        if let Some(behind) = behind {
            load.behind(behind)?;
        }
        match self {
            Shape::Ping(count) | Shape::Lines(count) => load.connect(count)?,
            Shape::Bulk | Shape::Relay => load.connect(STREAMS)?,
            Shape::SlowReaders => {
                load.connect(BESIDE_SLOW + SLOW)?;
                load.slow_down(SLOW)?;
            }
            Shape::FanOut => load.gather(AUDIENCE)?,
            _ => {}
        }
        Ok(Playing::Bytes(load))
    }

    /// Requests in flight on a connection.
    pub(crate) fn depth(self) -> usize {
        match self {
            Shape::Http1(_, depth) | Shape::Http2(_, depth) => depth,
            _ => 1,
        }
    }

    /// The work that an answer stands for: a member hears its own line as all others do.
    pub(crate) fn work(self) -> f64 {
        match self {
            Shape::Chat(count) => count as f64,
            _ => 1.0,
        }
    }

    /// Loads a server for that time, or until `most` short connections; returns the work done.
    pub(crate) fn run(self, clients: &mut Playing, time: Duration, most: u64) -> io::Result<f64> {
        let deadline = Instant::now() + time;
        let load = match clients {
            Playing::Bytes(load) => load,
            Playing::Requests(clients) => {
                let answers = closed_loop(&mut **clients, self.depth(), deadline)?;
                return Ok(answers as f64 * self.work());
            }
        };
        Ok(match self {
            Shape::Bulk | Shape::Relay => load.bulk(deadline)? as f64 / MEGABYTE,
            Shape::FanOut => load.fan_out(deadline)? as f64,
            Shape::Short(closer) => {
                let enough = |begun| begun >= most || Instant::now() >= deadline;
                load.short(closer, enough)? as f64
            }
            _ => closed_loop(&mut **load, 1, deadline)? as f64,
        })
    }

    /// True if the work is counted in short connections; each leaves a port in TIME_WAIT.
    pub(crate) fn is_short(self) -> bool {
        matches!(self, Shape::Short(_))
    }
}

impl Playing {
    pub(crate) fn clients(&mut self) -> &mut dyn Clients {
        match self {
            Playing::Bytes(load) => &mut **load,
            Playing::Requests(clients) => &mut **clients,
        }
    }
}

/// The name of a file of `size` KiB.
pub(crate) fn file_name(size: usize) -> String {
    format!("{size}k.bin")
}

/// The sizes of the files, in KiB.
pub(crate) const FILES: [usize; 3] = [1, 100, 10 << 10];

/// Chooses scenarios by their names or the beginnings of names, separated by commas.
pub(crate) fn select(names: &str) -> Result<Vec<Selected>, String> {
    let mut selected: Vec<Selected> = Vec::new();
    for name in names.split(',') {
        // `ping-50` is the beginning of `ping-500` too, but also a whole name.
        let whole = SCENARIOS.iter().any(|(full, ..)| *full == name);
        let meant = |full: &str| if whole { full == name } else { full.starts_with(name) };
        let found = SCENARIOS.iter().filter(|(full, ..)| !name.is_empty() && meant(full));
        let found: Vec<Selected> = found.map(|(_, it, _)| *it).collect();
        if found.is_empty() {
            return Err(format!("no scenario {name:?}; see --list"));
        }
        selected.extend(found.into_iter().filter(|it| !selected.contains(it)).collect::<Vec<_>>());
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Vec<&'static str> {
        select(words).expect("valid").into_iter().map(Selected::name).collect()
    }

    #[test]
    fn a_whole_name_means_itself_and_a_beginning_all_that_begin_so() {
        assert_eq!(names("ping-50"), ["ping-50"]);
        assert_eq!(names("ping"), ["ping-1", "ping-50", "ping-500"]);
        assert_eq!(names("bulk,ping-5,bulk"), ["bulk", "ping-50", "ping-500"]);
    }

    #[test]
    fn an_unknown_scenario_is_an_error() {
        for words in ["pong", "", "bulk,", "bulk,pong"] {
            assert!(select(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn names_and_scenarios_are_unique() {
        for (at, (name, it, _)) in SCENARIOS.iter().enumerate() {
            assert_eq!(SCENARIOS.iter().position(|(other, ..)| other == name), Some(at));
            assert_eq!(SCENARIOS.iter().position(|(_, other, _)| other == it), Some(at));
        }
    }
}
