//! The counted scenarios: system calls by strace, user instructions by valgrind.
//!
//! A count is a slope: the server runs twice, with loads of two lengths, so that start-up, opening
//! connections and the end cancel out. The load runs in lock-step: on the server's processor, and
//! only while the server sleeps. The server is meek, so it finds all messages of a round at the
//! same time, and counts do not depend on speed. A freely loaded server wakes more often for fewer
//! messages, and makes at least as many system calls.

use std::fs;
use std::path::Path;

use crate::kind::{Kind, Manner};
use crate::load::bytes::Closer;
use crate::load::lock_step;
use crate::options::Bench;
use crate::peers::succeeds;
use crate::results::{Outcome, Row};
use crate::scenario::{Playing, Selected, Shape};
use crate::server;
use crate::{Result, in_context};
use couplet_testkit::bench::processors::pin;

/// A counting program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tool {
    Strace,
    Valgrind,
}

/// The numbers of rounds of the two runs.
const ROUNDS: [u64; 2] = [20, 120];

/// Factor for the rounds of one connection, each a single trip. A wait that ends early, which depends on
/// the system's load, then costs little of the average of 1000 trips.
const OF_ONE: u64 = 10;

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

/// Counts for a unit of work: the total, and its `epoll_ctl` calls.
pub(crate) fn count(bench: &Bench, kind: Kind, tool: Tool, load: Shape) -> Result<[f64; 2]> {
    eprintln!("{kind}: {load:?} under {}", tool.name());
    let once = |rounds| {
        count_once(bench, kind, tool, load, rounds)
            .map_err(in_context(format!("{kind} under {}", tool.name())))
    };
    let times = if matches!(load, Shape::Ping(1) | Shape::Lines(1)) { OF_ONE } else { 1 };
    let [(few, least), (many, most)] = [once(times * ROUNDS[0])?, once(times * ROUNDS[1])?];
    Ok([0, 1].map(|which| (many[which] - few[which]) / (most - least) as f64))
}

/// The counts of a run, and its units of work.
fn count_once(
    bench: &Bench,
    kind: Kind,
    tool: Tool,
    load: Shape,
    rounds: u64,
) -> Result<([f64; 2], u64)> {
    if let Some(cpu) = bench.server_cpu {
        pin(cpu)?;
    }
    let folder = bench.folder.path();
    let output = folder.join("counts");
    let manner = Manner { role: load.role(None), cpu: bench.server_cpu, meek: true };
    let server = server::start(bench, kind, manner, &tool.words(&output))?;
    let settle = || server.settle();
    let done = match (load, &mut load.connect(server.address, false, None, folder)?) {
        (Shape::Short(closer), Playing::Bytes(load)) => {
            load.short_in_lock_step(rounds, closer, settle)?
        }
        (_, clients) => lock_step(clients.clients(), load.depth(), rounds, settle)?,
    };
    // The tool writes its output when the server has ended.
    drop(server);
    let written = fs::read_to_string(&output)?;
    let counts = tool.read(&written).ok_or("the tool's output is not understood")?;
    Ok((counts, done))
}

/// System calls of these servers.
pub(crate) fn system_calls(bench: &Bench, kinds: &[Kind]) -> Result<Outcome> {
    let columns = ["of it epoll_ctl", "/short connection", "/server closes first"];
    let mut counts = Vec::new();
    for &kind in kinds {
        let [trip, epoll_ctl] = count(bench, kind, Tool::Strace, Shape::Ping(50))?;
        let [client, _] = count(bench, kind, Tool::Strace, Shape::Short(Closer::Client))?;
        let [server, _] = count(bench, kind, Tool::Strace, Shape::Short(Closer::Server))?;
        counts.push((kind, trip, vec![epoll_ctl, client, server]));
    }
    Ok(outcome(Selected::SystemCalls, "calls/trip", &columns, &counts))
}

/// User instructions of these servers, without interpreters, which start too slowly under the tool,
/// without Go, and without the server in C: the tool does not run io_uring.
pub(crate) fn instructions(bench: &Bench, kinds: &[Kind]) -> Result<Outcome> {
    use Kind::{Go, Node, RawUring, Twisted, Uvloop};
    let is_omitted = |kind| matches!(kind, Twisted | Uvloop | Node | Go | RawUring);
    let mut counts = Vec::new();
    for &kind in kinds.iter().filter(|&&kind| !is_omitted(kind)) {
        let [fifty, _] = count(bench, kind, Tool::Valgrind, Shape::Ping(50))?;
        let [one, _] = count(bench, kind, Tool::Valgrind, Shape::Ping(1))?;
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
