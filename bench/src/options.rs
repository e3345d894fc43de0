//! The command line, and the context shared by all measurements.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::{Styles, styling::AnsiColor};

use crate::folder::Folder;
use crate::kind::{Kind, Role};
use crate::load::HELLO;
use crate::peers::{Programs, succeeds};
use crate::results::Missing;
use crate::scenario::{self, FILES, SCENARIOS, Selected};
use crate::{Result, in_context};
use couplet_testkit::bench::processors::processors;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const ABOUT: &str = "Servers side by side, under a load that checks every byte";

const EXAMPLES: &str = "\
Examples:
  couplet bench --quick                                        all of it, roughly
  couplet bench --scenarios ping-50 --servers couplet,raw,tokio    one question, precisely
  couplet bench --scenarios bulk --servers couplet,raw-256k --rounds 15
  couplet bench --scenarios http --html http.html
  couplet bench --quick --write docs/performance.md            the project's tables

Each server runs in its own process on one processor, and the load on another. In a round the
servers take short turns, A B C C B A, until each has had its time. The first column is the server's
processor time for a unit of work, by the scheduler's own count: it says how much one processor can
serve, and depends little on other work of the machine. A ratio is the median of the ratios to the
first server within a round, with the least and the most. Read the ratios first: they hold on other
machines.

In the scenarios latency-… requests are due at fixed times, at half of the server's own best rate or
at the share in the name, and a latency counts from the time at which its request was due: a server
that stalls is charged for all requests that had to wait.

busy % is the share of the time for which the server had its processor: well below 100 the load, or
the latency of the system, set the rate. user % is the share of user code, sampled by the clock tick
and left out where the run was short. MiB is the most memory that the server has had.

The servers on the library have a producer, a write cap and an idle timeout, as servers on the open
net have; couplet-layer echoes over a layer that changes nothing, couplet-stream in async style,
couplet-inspected with an inspector without readers, couplet-rooms sends a fan-out by a room, and
couplet-twisted is Twisted on this library's loop. couplet-sendfile is `couplet serve --sendfile`
and nginx has `sendfile on`: files leave without a copy. couplet and nginx-copies have the defaults,
which copy. raw is a hand-written epoll loop, and raw-uring a hand-written loop of io_uring in C. raw,
mio and tokio have a read buffer of 16 KiB, or another one: raw-64k. raw-after sends a fan-out once all
events of a poll are handled; tokio has one channel for it, and tokio-channels one for each
connection. Servers of others are measured where they are installed, each with one thread and without
a log; those in C and Go are compiled by cc and go. hyper serves files by tower-http.

Progress and skipped servers are on stderr. Each table is printed and written when its scenario is
finished, so an interrupted run keeps the finished ones. Exit codes: 0 success, 1 failure or a broken
limit, 2 usage error, 130 or 143 interrupted; no server outlives the command.";

#[derive(Parser, Debug)]
#[command(
    name = "couplet bench",
    bin_name = "couplet bench",
    version,
    about = ABOUT,
    styles = STYLES,
    after_help = EXAMPLES
)]
pub(crate) struct Options {
    /// Short rounds: all scenarios in some minutes
    #[arg(long)]
    quick: bool,
    /// Rounds of each timed scenario [default: 5; 3 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Time of each server in a round [default: 1000; 150 with --quick]
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u32).range(10..=600_000))]
    time: Option<u32>,
    /// Only these servers, separated by commas; the first is the base of the ratios
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    servers: Vec<Kind>,
    /// Only these scenarios, or those whose names begin so, separated by commas
    #[arg(long, value_name = "NAMES")]
    scenarios: Option<Names>,
    /// List the scenarios and their servers
    #[arg(long, conflicts_with_all = ["guard", "json", "html", "write"])]
    list: bool,
    /// The Python that has Twisted and uvloop
    #[arg(long, value_name = "PATH", env = "TWISTED_PYTHON", default_value = "python3")]
    python: String,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the results as a page that needs no other file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the results as tables into a Markdown file, between its lines
    /// `<!-- bench: begin -->` and `<!-- bench: end -->`; the other text is kept
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Count system calls and instructions of one server (couplet, or --servers), and print
    /// `name=value` lines
    #[arg(long, conflicts_with_all = ["quick", "rounds", "time", "scenarios", "json", "html", "write"])]
    guard: bool,
    /// With --guard: fail if a limit in FILE is broken; its lines are `name <= value`, # begins a
    /// comment
    #[arg(long, value_name = "FILE", requires = "guard")]
    assert: Option<PathBuf>,
}

/// The selected scenarios.
#[derive(Clone, Debug)]
struct Names(Vec<Selected>);

impl std::str::FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Names, String> {
        scenario::select(text).map(Names)
    }
}

/// The work to do.
#[derive(Debug)]
pub(crate) enum Request {
    List,
    /// Count one server, against the limits of a file.
    Guard(Kind, Option<PathBuf>),
    /// Compare servers in these scenarios.
    Compare(Vec<Selected>),
}

/// Parses the command line; prints help and errors.
pub(crate) fn parse() -> Result<Options, ExitCode> {
    Options::try_parse().map_err(|said| {
        // Nothing is left to report a failure to.
        let _ = said.print();
        ExitCode::from(said.exit_code() as u8)
    })
}

impl Options {
    pub(crate) fn request(&self) -> Result<Request> {
        let all = || SCENARIOS.map(|(_, it, _)| it).to_vec();
        Ok(match (self.list, self.guard, &self.servers[..]) {
            (true, ..) => Request::List,
            (_, true, []) => Request::Guard(Kind::Couplet, self.assert.clone()),
            (_, true, [kind]) => Request::Guard(*kind, self.assert.clone()),
            (_, true, _) => return Err("--guard counts one server; give one in --servers".into()),
            _ => Request::Compare(self.scenarios.as_ref().map_or_else(all, |it| it.0.clone())),
        })
    }
}

/// The scenarios with their servers, as lines.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for (name, it, meaning) in SCENARIOS {
        let kinds = it.usual().iter().filter(|kind| kind.plays(it.role()));
        let kinds: Vec<String> = kinds.map(Kind::to_string).collect();
        text += &format!("{name}\n  {meaning}\n  {}\n", kinds.join(" "));
    }
    text
}

/// The context of all measurements.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) programs: Programs,
    /// The run's files.
    pub(crate) folder: Folder,
    /// The servers' processor; `None` leaves them to the scheduler.
    pub(crate) server_cpu: Option<usize>,
    /// The load's processor, if it has its own.
    pub(crate) load_cpu: Option<usize>,
    /// The servers requested; if empty, the usual ones.
    chosen: Vec<Kind>,
    missing: Vec<Kind>,
}

impl Bench {
    /// The first processor runs the servers, the second the load.
    pub(crate) fn new(options: &Options) -> Result<Bench> {
        let (server_cpu, load_cpu) = processors()?;
        if load_cpu.is_none() {
            eprintln!("one processor only: load and servers share it, and the rates mean little");
        }
        let (rounds, time) = if options.quick { (3, 150) } else { (5, 1000) };
        Ok(Bench {
            rounds: options.rounds.unwrap_or(rounds).into(),
            time: Duration::from_millis(options.time.unwrap_or(time).into()),
            programs: Programs::find(options.python.clone())?,
            folder: Folder::new().map_err(in_context("cannot make a temporary folder".into()))?,
            server_cpu,
            load_cpu,
            chosen: options.servers.clone(),
            missing: Vec::new(),
        })
    }

    /// Finds the installed servers for these scenarios, and makes their files; returns the missing
    /// ones with the reasons.
    pub(crate) fn find_servers(&mut self, selected: &[Selected]) -> Result<Vec<Missing>> {
        let mut wanted: Vec<Kind> = Vec::new();
        for &what in selected {
            for kind in self.kinds(what) {
                if !wanted.contains(&kind) {
                    wanted.push(kind);
                }
            }
        }
        let roles: Vec<Role> = selected.iter().map(|what| what.role()).collect();
        let mut missing = Vec::new();
        for kind in wanted {
            if let Some(reason) = self.programs.missing(kind, &roles, &self.folder)? {
                missing.push(Missing { server: kind.to_string(), reason });
                self.missing.push(kind);
            }
        }
        if roles.iter().any(|role| matches!(role, Role::Files | Role::Hello1 | Role::Hello2)) {
            self.make_site()?;
        }
        if roles.contains(&Role::Tls) {
            let made = succeeds(
                self.programs.couplet(),
                &["cert", &self.folder.path().display().to_string(), "localhost"],
            );
            if !made {
                return Err("cannot make a certificate by `couplet cert`".into());
            }
        }
        Ok(missing)
    }

    /// The files that servers of HTTP serve.
    fn make_site(&self) -> Result<()> {
        let site = self.folder.path().join("site");
        std::fs::create_dir(&site)?;
        std::fs::write(site.join("index.html"), HELLO)?;
        for size in FILES {
            let bytes: Vec<u8> = (0..size << 10).map(|at| ((at * 7919) >> 7) as u8).collect();
            std::fs::write(site.join(scenario::file_name(size)), bytes)?;
        }
        Ok(())
    }

    /// The servers of a scenario.
    pub(crate) fn kinds(&self, what: Selected) -> Vec<Kind> {
        let chosen = if self.chosen.is_empty() { what.usual() } else { &self.chosen };
        let role = what.role();
        let fit = |kind: &&Kind| kind.plays(role) && !self.missing.contains(kind);
        chosen.iter().filter(fit).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn each_wrong_argument_is_named_in_the_first_line() {
        for (words, said) in [
            ("--rounds 0", "invalid value '0' for '--rounds <N>'"),
            ("--rounds x", "invalid value 'x' for '--rounds <N>'"),
            ("--time 1", "invalid value '1' for '--time <MILLISECONDS>'"),
            ("--servers raw-0k", "invalid value 'raw-0k' for '--servers <NAMES>': no such server"),
            ("--servers apache", "invalid value 'apache' for '--servers <NAMES>': no such server"),
            ("--scenarios pong", "invalid value 'pong' for '--scenarios <NAMES>': no scenario"),
            ("--assert f", "the following required arguments were not provided"),
            ("--guard --html f", "the argument '--guard' cannot be used with '--html <FILE>'"),
            ("--list --json f", "the argument '--list' cannot be used with '--json <FILE>'"),
            ("--fast", "unexpected argument '--fast' found"),
            ("more", "unexpected argument 'more' found"),
            ("--json", "a value is required for '--json <FILE>'"),
        ] {
            let words = std::iter::once("couplet bench").chain(words.split(' '));
            let error = Options::try_parse_from(words).expect_err(said);
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with(&format!("error: {said}")), "{first}");
        }
    }

    #[test]
    fn a_guard_counts_one_server() {
        let options = Options::parse_from(["couplet bench", "--guard", "--servers", "raw,mio"]);
        assert!(options.request().is_err());
        let options = Options::parse_from(["couplet bench", "--guard", "--servers", "raw"]);
        assert!(matches!(options.request(), Ok(Request::Guard(Kind::Raw(16), None))));
    }

    #[test]
    fn every_scenario_is_listed_with_its_servers() {
        let list = list();
        for (name, ..) in SCENARIOS {
            assert!(list.contains(&format!("{name}\n")), "{name}");
        }
        assert!(list.contains("couplet couplet-uring hyper nginx haproxy h2o"), "{list}");
    }
}
