//! The counted scenarios: system calls by strace, user instructions by valgrind.
//!
//! A count is a slope: the server runs twice, with loads of two lengths, so that start-up, opening
//! connections and the end cancel out. The load runs in lock-step. It shares a processor with the
//! server and proceeds only while the server sleeps; the server is meek, so it finds all messages
//! of a round at the same time. So counts do not depend on speed. A freely loaded server wakes more
//! often for fewer messages, and makes at least as many system calls.

use std::fs;
use std::process::{Command, Stdio};

use crate::files::Folder;
use crate::kind::{Kind, Manner, Role};
use crate::load::{Closer, Load, PARALLEL};
use crate::options::{Bench, USUAL};
use crate::program::pin;
use crate::report::Chart;
use crate::server;
use crate::spread::Spread;
use crate::table::Table;
use crate::{Result, in_context};

/// The unit of a count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Count {
    /// Per round trip, with this number of connections in lock-step.
    Trip(usize),
    /// Per short connection.
    Short(Closer),
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

    fn words(self, output: &str) -> Vec<String> {
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

/// True if the command runs and succeeds.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Counts per trip or per connection: the total, and its `epoll_ctl` calls.
pub(crate) fn count(bench: &Bench, kind: Kind, tool: Tool, what: Count) -> Result<[f64; 2]> {
    eprintln!("{kind}: {what:?} under {}", tool.name());
    let once = |rounds| {
        count_once(bench, kind, tool, what, rounds)
            .map_err(in_context(format!("{kind} under {}", tool.name())))
    };
    let [few, many] = [once(ROUNDS[0])?, once(ROUNDS[1])?];
    let at_once = match what {
        Count::Trip(connections) => connections,
        Count::Short(_) => PARALLEL,
    };
    let between = (ROUNDS[1] - ROUNDS[0]) as f64 * at_once as f64;
    Ok([0, 1].map(|which| (many[which] - few[which]) / between))
}

fn count_once(bench: &Bench, kind: Kind, tool: Tool, what: Count, rounds: u64) -> Result<[f64; 2]> {
    if let Some(cpu) = bench.server_cpu {
        pin(cpu)?;
    }
    let folder = Folder::new();
    let output = folder.path("counts");
    let role = match what {
        Count::Short(Closer::Server) => Role::EchoOne,
        _ => Role::Echo,
    };
    let manner = Manner { role, cpu: bench.server_cpu, meek: true };
    let words = tool.words(&output);
    let server = server::start(kind, manner, &words, &bench.python)?;
    let mut load = Load::new(server.address, false, kind == Kind::CoupletLines)?;
    match what {
        Count::Trip(connections) => {
            load.connect(connections)?;
            load.lock_step(rounds, || server.settle())?;
        }
        Count::Short(closer) => load.short_in_lock_step(rounds, closer, || server.settle())?,
    }
    // The tool writes its output when the server has ended.
    drop(server);
    let written = fs::read_to_string(&output)?;
    tool.read(&written).ok_or_else(|| "the tool's output is not understood".into())
}

/// System calls of all servers.
pub(crate) fn system_calls(bench: &Bench) -> Result<Chart> {
    let heads = ["server", "per trip at 50", "of it epoll_ctl", "per short conn", "server first"];
    let mut table = Table::new(&heads);
    let mut trips = Vec::new();
    for kind in bench.kinds(USUAL, Role::EchoOne) {
        let [trip, epoll_ctl] = count(bench, kind, Tool::Strace, Count::Trip(50))?;
        let [client, _] = count(bench, kind, Tool::Strace, Count::Short(Closer::Client))?;
        let [server, _] = count(bench, kind, Tool::Strace, Count::Short(Closer::Server))?;
        let figures = [trip, epoll_ctl, client, server].map(|it| format!("{it:.2}"));
        table.row(&kind.label(), figures);
        trips.push(trip);
    }
    Ok(chart("System calls, in lock-step", table, &trips))
}

/// User instructions of all servers but Python's, whose start alone takes too long.
pub(crate) fn instructions(bench: &Bench) -> Result<Chart> {
    let mut table = Table::new(&["server", "per trip at 1", "per trip at 50"]);
    let mut trips = Vec::new();
    let kinds = bench.kinds(USUAL, Role::Echo);
    for kind in kinds.into_iter().filter(|&kind| kind != Kind::Twisted) {
        let [one, _] = count(bench, kind, Tool::Valgrind, Count::Trip(1))?;
        let [fifty, _] = count(bench, kind, Tool::Valgrind, Count::Trip(50))?;
        table.row(&kind.label(), [one, fifty].map(|it| format!("{it:.0}")));
        trips.push(fifty);
    }
    Ok(chart("User instructions, in lock-step", table, &trips))
}

/// Counts have no spread.
fn chart(title: &str, table: Table, trips: &[f64]) -> Chart {
    let ratios = trips.iter().map(|trip| Spread::of(std::iter::once(trip / trips[0])));
    Chart {
        title: title.into(),
        bars: "per trip at 50".into(),
        table,
        ratios: ratios.collect(),
        note: None,
    }
}
