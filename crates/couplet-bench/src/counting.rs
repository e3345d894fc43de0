//! The counted scenarios: system calls by strace, user instructions by valgrind.
//!
//! A count is a slope: the server runs twice, with loads of two lengths, so that start-up, opening
//! connections and the end cancel out. The load runs in lock-step. It shares a processor with the
//! server and proceeds only while the server sleeps; the server is meek, so it finds all messages
//! of a round at the same time. So counts do not depend on speed. A freely loaded server wakes more
//! often for fewer messages, and makes at least as many system calls.

use std::fs;
use std::path::Path;

use crate::kind::{Kind, Manner, Role};
use crate::load::bytes::{Closer, Load, PARALLEL};
use crate::load::http1::Http1;
use crate::load::http2::Http2;
use crate::load::{Clients, HELLO, lock_step};
use crate::options::Bench;
use crate::peers::succeeds;
use crate::processors::pin;
use crate::results::{Outcome, Row};
use crate::scenario::Selected;
use crate::server;
use crate::{Result, in_context};

/// The unit of a count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Count {
    /// Per round trip, with this number of connections in lock-step.
    Trip(usize),
    /// Per line, with this number of connections in lock-step.
    Line(usize),
    /// Per short connection.
    Short(Closer),
    /// Per request of HTTP/1.1, with this number of connections in lock-step.
    Http1(usize),
    /// Per request of HTTP/2, with this number of connections and of streams on each, in lock-step.
    Http2(usize, usize),
}

impl Count {
    fn role(self) -> Role {
        match self {
            Count::Trip(_) | Count::Short(Closer::Client) => Role::Echo,
            Count::Short(Closer::Server) => Role::EchoOne,
            Count::Line(_) => Role::Lines,
            Count::Http1(_) => Role::Hello1,
            Count::Http2(..) => Role::Hello2,
        }
    }

    /// Units in a round.
    fn at_once(self) -> usize {
        match self {
            Count::Trip(connections) | Count::Line(connections) | Count::Http1(connections) => {
                connections
            }
            Count::Http2(connections, streams) => connections * streams,
            Count::Short(_) => PARALLEL,
        }
    }
}

/// A counting program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tool {
    Strace,
    Valgrind,
}

/// The numbers of rounds of the two runs.
const ROUNDS: [u64; 2] = [20, 120];

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::Strace => "strace",
            Tool::Valgrind => "valgrind",
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        succeeds(self.name(), &["--version"])
    }

    fn words(self, output: &Path) -> Vec<String> {
        let output = output.display();
        let words = match self {
            Tool::Strace => format!("strace -f -I 2 -qq -c -o {output}"),
            Tool::Valgrind => format!("valgrind -q --tool=callgrind --callgrind-out-file={output}"),
        };
        words.split(' ').map(String::from).collect()
    }

    /// Parses the tool's output: the whole count, and its `epoll_ctl` calls.
    fn read(self, output: &str) -> Option<[f64; 2]> {
        if self == Tool::Valgrind {
            let totals = output.lines().find_map(|line| line.strip_prefix("totals: "))?;
            return Some([totals.trim().parse().ok()?, 0.0]);
        }
        let mut counted = [0.0; 2];
        // % time, seconds, usecs/call, calls, errors (may be missing), name
        for line in output.lines().skip(2).take_while(|line| !line.starts_with("--")) {
            let mut fields = line.split_whitespace();
            let calls: f64 = fields.nth(3)?.parse().ok()?;
            counted[0] += calls;
            counted[1] += if fields.last() == Some("epoll_ctl") { calls } else { 0.0 };
        }
        Some(counted)
    }
}

/// Counts per trip or per connection: the total, and its `epoll_ctl` calls.
pub(crate) fn count(bench: &Bench, kind: Kind, tool: Tool, what: Count) -> Result<[f64; 2]> {
    eprintln!("{kind}: {what:?} under {}", tool.name());
    let once = |rounds| {
        count_once(bench, kind, tool, what, rounds)
            .map_err(in_context(format!("{kind} under {}", tool.name())))
    };
    let [few, many] = [once(ROUNDS[0])?, once(ROUNDS[1])?];
    let between = (ROUNDS[1] - ROUNDS[0]) as f64 * what.at_once() as f64;
    Ok([0, 1].map(|which| (many[which] - few[which]) / between))
}

fn count_once(bench: &Bench, kind: Kind, tool: Tool, what: Count, rounds: u64) -> Result<[f64; 2]> {
    if let Some(cpu) = bench.server_cpu {
        pin(cpu)?;
    }
    let output = bench.folder.path().join("counts");
    let manner = Manner { role: what.role(), cpu: bench.server_cpu, meek: true };
    let server = server::start(bench, kind, manner, &tool.words(&output))?;
    let address = server.address;
    let step =
        |clients: &mut dyn Clients, depth| lock_step(clients, depth, rounds, || server.settle());
    match what {
        Count::Trip(connections) | Count::Line(connections) => {
            let mut load = Load::new(address, false, matches!(what, Count::Line(_)))?;
            load.connect(connections)?;
            step(&mut load, 1)?;
        }
        Count::Short(closer) => {
            let mut load = Load::new(address, false, false)?;
            load.short_in_lock_step(rounds, closer, || server.settle())?;
        }
        Count::Http1(connections) => {
            let hello = HELLO.to_vec();
            step(&mut Http1::connect(address, false, (connections, 1), "/", hello)?, 1)?;
        }
        Count::Http2(connections, streams) => {
            step(&mut Http2::connect(address, false, connections, HELLO)?, streams)?;
        }
    }
    // The tool writes its output when the server has ended.
    drop(server);
    let written = fs::read_to_string(&output)?;
    tool.read(&written).ok_or_else(|| "the tool's output is not understood".into())
}

/// System calls of these servers.
pub(crate) fn system_calls(bench: &Bench, kinds: &[Kind]) -> Result<Outcome> {
    let columns = ["of it epoll_ctl", "/short connection", "/server closes first"];
    let mut counts = Vec::new();
    for &kind in kinds {
        let [trip, epoll_ctl] = count(bench, kind, Tool::Strace, Count::Trip(50))?;
        let [client, _] = count(bench, kind, Tool::Strace, Count::Short(Closer::Client))?;
        let [server, _] = count(bench, kind, Tool::Strace, Count::Short(Closer::Server))?;
        counts.push((kind, trip, vec![epoll_ctl, client, server]));
    }
    Ok(outcome(Selected::SystemCalls, "calls/trip", &columns, &counts))
}

/// User instructions of these servers, but those of an interpreter, whose start alone takes too long
/// under the tool.
pub(crate) fn instructions(bench: &Bench, kinds: &[Kind]) -> Result<Outcome> {
    let is_slow = |kind| matches!(kind, Kind::Twisted | Kind::Uvloop | Kind::Node | Kind::Go);
    let mut counts = Vec::new();
    for &kind in kinds.iter().filter(|&&kind| !is_slow(kind)) {
        let [fifty, _] = count(bench, kind, Tool::Valgrind, Count::Trip(50))?;
        let [one, _] = count(bench, kind, Tool::Valgrind, Count::Trip(1))?;
        counts.push((kind, fifty, vec![one]));
    }
    Ok(outcome(Selected::Instructions, "instructions/trip", &["with 1 connection"], &counts))
}

/// Counts have no spread.
fn outcome(
    what: Selected,
    lead: &str,
    columns: &[&str],
    counts: &[(Kind, f64, Vec<f64>)],
) -> Outcome {
    let row = |(kind, lead, rest): &(Kind, f64, Vec<f64>)| {
        let cells = rest.iter().map(|&value| Some(value)).collect();
        Row::new(kind.to_string(), &[*lead], &[counts[0].1], cells)
    };
    Outcome {
        name: what.name().into(),
        title: format!("{}, 50 connections in lock-step", what.title()),
        lead: lead.into(),
        columns: columns.iter().map(|&name| name.to_owned()).collect(),
        rows: counts.iter().map(row).collect(),
        note: None,
    }
}
