//! The command line, and the options shared by all measurements.

use std::time::Duration;

use crate::Result;
use crate::kind::{Kind, Manner, Role};
use crate::load::Closer;
use crate::timing::Scenario;

pub(crate) const HELP: &str = "\
Servers side by side, under a load that checks every byte.

  cargo bench -p couplet-core --bench side_by_side -- [OPTIONS]

Each server runs in a process of its own on one processor, and the load on another. In a round the
servers take short turns, A B C C B A, until each has had its time; a ratio is the median of the
ratios within a round, to the first server and to each `raw`, a hand-written epoll loop. Read the
ratios first: they hold on other machines.

  --quick             short rounds: two minutes in all
  --rounds N          rounds of each timed scenario (5; 3 with --quick)
  --time MS           milliseconds that each server is timed in a round (1000; 150 with --quick)
  --kind A,B,..       only these servers: raw, tokio, mio, couplet, twisted, couplet-lines,
                      couplet-layer, couplet-stream, couplet-uring, couplet-inspected;
                      raw-64k is raw with a read buffer of 64 KiB (16 without a size),
                      and so are tokio-64k, mio-256k and so on; the first is what the others
                      are set against
  --scenario A,B,..   only these scenarios, or those whose names begin so
  --python PATH       the Python that has Twisted (or the variable TWISTED_PYTHON; python3)
  --html FILE         draw the results on a page that needs no other file: a bar for each
                      server with its ratio to the first and the spread over the rounds, all
                      figures, machine, kernel, command line and date; a FILE without a folder
                      is put where cargo runs a bench, in crates/couplet
  --guard             count one server (couplet, or --kind) and print `name=value` lines
  --assert FILE       with --guard: exit with 1 if a limit in FILE is broken;
                      its lines are `name <= value`, # begins a comment
  --help              this text

couplet is the program's own server, `couplet echo`, and in the scenarios that want no echo one on
the library; couplet-lines echoes lines through a framer, couplet-layer over a layer that
changes nothing, couplet-stream in async style, couplet-uring is couplet over io_uring;
couplet-inspected is `couplet echo` with an inspector without readers. The echoes have a producer, a write cap
and an idle timeout, as servers on the open net have; the fan-out and couplet-stream have the last
two. mio, couplet-lines, couplet-layer and couplet-inspected only echo, couplet-stream relays too. Every table and chart names
the read buffer: one a loop with raw, mio and couplet, one a connection (in a relay, one each way)
with tokio, and Twisted's own. All servers have a backlog of 1024 connections.

Timed scenarios:
  ping-1 ping-50 ping-500   64 bytes there and back, on so many connections at once
  bulk                      8 connections stream, each as fast as it can
  relay                     the same through the server to another one, half of them from there
  slow-readers              ping-50 beside 4 connections that send what they can and read 4 KiB
                            for each round of the 50
  fan-out                   one of 100 connections says 64 bytes, and all hear them
  short-client-first        connect, one exchange, close; 8 at a time, the client closes first
  short-server-first        the same, but the server closes once it has echoed
Counted scenarios:
  syscalls                  system calls of the server, by strace
  instructions              user instructions of the server, by valgrind

CPU is the server's processor time by the scheduler's own count. Its split into user and system is
sampled by the clock tick: good to a few percent, and left out where the run was short. busy is the
share of the time for which the server had its processor: well under 100%, the load set the rate.
MiB is the most memory that the server has had. Nothing here fails because it is slow: only counts
have limits.

  -- --quick                                                  all of it, roughly
  -- --kind raw,couplet --scenario ping-50                    one question, precisely
  -- --kind raw-256k,couplet --scenario bulk --rounds 15      the same for bulk
  -- --guard --assert limits.txt                              counts only, against limits
";

/// The parsed command line.
#[derive(Debug)]
pub(crate) enum Request {
    Help,
    Serve(Kind, Role),
    /// Run this command until stdin closes.
    Watch(Manner, Vec<String>),
    Guard(Kind, Option<String>, Bench),
    /// Compares servers in these scenarios; the file is for the page.
    Compare(Vec<Selected>, Option<String>, Bench),
}

/// A timed or a counted scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Selected {
    Timed(Scenario),
    SystemCalls,
    Instructions,
}

const SCENARIOS: [(&str, Selected); 11] = [
    ("ping-1", Selected::Timed(Scenario::Ping(1))),
    ("ping-50", Selected::Timed(Scenario::Ping(50))),
    ("ping-500", Selected::Timed(Scenario::Ping(500))),
    ("bulk", Selected::Timed(Scenario::Bulk)),
    ("relay", Selected::Timed(Scenario::Relay)),
    ("slow-readers", Selected::Timed(Scenario::SlowReaders)),
    ("fan-out", Selected::Timed(Scenario::FanOut)),
    ("short-client-first", Selected::Timed(Scenario::Short(Closer::Client))),
    ("short-server-first", Selected::Timed(Scenario::Short(Closer::Server))),
    ("syscalls", Selected::SystemCalls),
    ("instructions", Selected::Instructions),
];

/// Options shared by all measurements.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    /// The Python interpreter that has Twisted.
    pub(crate) python: String,
    /// The servers' processor; `None` leaves them to the scheduler.
    pub(crate) server_cpu: Option<usize>,
    /// The load's processor, if it has its own.
    pub(crate) load_cpu: Option<usize>,
    /// The servers requested; if empty, the usual ones.
    pub(crate) chosen: Vec<Kind>,
    /// Whether Twisted is available.
    pub(crate) twisted: bool,
}

/// The servers that are compared by default.
pub(crate) const USUAL: &[Kind] =
    &[Kind::Raw(16), Kind::Tokio(16), Kind::Mio(16), Kind::Couplet, Kind::Twisted];
/// The default where large buffers matter.
pub(crate) const LARGE: &[Kind] = &[
    Kind::Raw(16),
    Kind::Raw(64),
    Kind::Raw(256),
    Kind::Tokio(16),
    Kind::Tokio(256),
    Kind::Mio(16),
    Kind::Mio(256),
    Kind::Couplet,
    Kind::Twisted,
];

impl Bench {
    /// The requested servers, or else the `usual` ones, that can play this role.
    pub(crate) fn kinds(&self, usual: &[Kind], role: Role) -> Vec<Kind> {
        let mut kinds = if self.chosen.is_empty() { usual.to_vec() } else { self.chosen.clone() };
        kinds.retain(|&kind| kind.plays(role) && (kind != Kind::Twisted || self.twisted));
        kinds
    }
}

/// Parses the command line.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request> {
    let (mut quick, mut guard, mut asked) = (false, false, false);
    let (mut rounds, mut time, mut limits, mut html, mut serve) = (None, None, None, None, None);
    let mut python = std::env::var("TWISTED_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut chosen = Vec::new();
    let mut manner = Manner::default();
    let mut selected = SCENARIOS.map(|(_, it)| it).to_vec();
    while let Some(option) = arguments.next() {
        asked = true;
        let mut value =
            || arguments.next().ok_or_else(|| format!("{option} needs a value; see --help"));
        match option.as_str() {
            // `cargo bench` adds this to the user's arguments.
            "--bench" => {}
            "--help" | "-h" => return Ok(Request::Help),
            "--quick" => quick = true,
            "--guard" => guard = true,
            "--rounds" => rounds = Some(number(&option, &value()?)?),
            "--time" => time = Some(number(&option, &value()?)?),
            "--python" => python = value()?,
            "--assert" => limits = Some(value()?),
            "--html" => html = Some(value()?),
            "--kind" => chosen = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--scenario" => selected = select(&value()?)?,
            "--serve" => serve = Some(value()?.parse()?),
            "--watch" => return Ok(Request::Watch(manner, arguments.collect())),
            "--role" => manner.role = value()?.parse()?,
            "--cpu" => manner.cpu = Some(number(&option, &value()?)?),
            "--meek" => manner.meek = true,
            _ => return Err(format!("no option {option}; see --help").into()),
        }
    }
    let (usual_rounds, usual_time) = if quick { (3, 150) } else { (5, 1000) };
    let bench = Bench {
        rounds: rounds.unwrap_or(usual_rounds).max(1),
        time: Duration::from_millis(time.unwrap_or(usual_time).max(1) as u64),
        python,
        server_cpu: None,
        load_cpu: None,
        chosen,
        twisted: false,
    };
    Ok(match serve {
        Some(kind) => Request::Serve(kind, manner.role),
        None if guard => {
            let kind = bench.chosen.first().copied().unwrap_or(Kind::Couplet);
            if html.is_some() {
                return Err("--html draws a comparison, not --guard; see --help".into());
            }
            Request::Guard(kind, limits, bench)
        }
        None if limits.is_some() => return Err("--assert goes with --guard; see --help".into()),
        // `cargo test --benches` runs the program like this; it must not measure then.
        None if !asked => Request::Help,
        None => Request::Compare(selected, html, bench),
    })
}

fn number(option: &str, value: &str) -> Result<usize> {
    value.parse().map_err(|_| format!("{option} needs a number, not {value:?}").into())
}

fn select(names: &str) -> Result<Vec<Selected>> {
    let mut selected = Vec::new();
    for name in names.split(',') {
        let before = selected.len();
        // `ping-50` is a prefix of `ping-500` too, but also a whole name.
        let whole = SCENARIOS.iter().any(|(full, _)| *full == name);
        let meant = |full: &str| {
            if whole { full == name } else { full.starts_with(name) }
        };
        selected.extend(SCENARIOS.iter().filter(|(full, _)| meant(full)).map(|(_, it)| *it));
        if selected.len() == before {
            let known = SCENARIOS.map(|(name, _)| name).join(", ");
            return Err(format!("no scenario {name:?}; there are {known}").into());
        }
    }
    Ok(selected)
}
