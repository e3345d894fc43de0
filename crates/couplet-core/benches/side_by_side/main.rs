//! Compares servers in one run: the library, a hand-written epoll loop as the yardstick, mio, tokio
//! and Twisted. They echo, relay and fan out. See
//! `cargo bench -p couplet-core --bench side_by_side -- --help`.
//!
//! The program runs itself again as each server (`--serve KIND`), so that the server's processor
//! time can be read separately from the load's.

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "the load and the peers stand outside of any loop")]

mod counting;
#[path = "../../tests/needed/files.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod files;
mod guard;
mod kind;
mod load;
mod options;
mod ours;
mod peer_mio;
mod peer_raw;
mod peer_tokio;
#[path = "../rows/program.rs"]
mod program;
mod report;
mod server;
#[path = "../rows/spread.rs"]
mod spread;
mod table;
mod timing;

use std::error::Error;
use std::process::ExitCode;

use counting::{Tool, succeeds};
use kind::Kind;
use options::{Bench, Request, Selected};
use report::{Chart, Report};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Prefixes an error with its context.
fn in_context<E: Into<Box<dyn Error>>>(context: String) -> impl FnOnce(E) -> Box<dyn Error> {
    move |error| format!("{context}: {}", error.into()).into()
}

fn main() -> ExitCode {
    match options::parse(std::env::args().skip(1)).and_then(answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(request: Request) -> Result<()> {
    match request {
        Request::Help => print!("{}", options::HELP),
        Request::Serve(kind, role) => kind::serve(kind, role)?,
        Request::Watch(manner, words) => {
            manner.apply()?;
            server::watch(&words)?;
        }
        Request::Guard(kind, limits, mut bench) => {
            share_processors(&mut bench)?;
            program::build()?;
            guard::run(&bench, kind, limits.as_deref())?;
        }
        Request::Compare(selected, html, mut bench) => {
            let mut report = Report::new(html.as_deref())?;
            share_processors(&mut bench)?;
            find_twisted(&mut bench);
            program::build()?;
            for what in selected {
                match measure(&bench, what)? {
                    Ok(chart) => report.add(chart),
                    Err(missing) => println!("\nskipped: {what:?}, as {missing}"),
                }
            }
            report.finish()?;
        }
    }
    Ok(())
}

/// Measures; returns the results, or the missing requirement.
fn measure(bench: &Bench, what: Selected) -> Result<Result<Chart, &'static str>> {
    Ok(match what {
        Selected::Timed(scenario) if scenario.kinds(bench).is_empty() => {
            Err("none of the servers does that")
        }
        Selected::Timed(scenario) => Ok(timing::run(bench, scenario)?),
        Selected::SystemCalls if !Tool::Strace.is_installed() => Err("strace is not installed"),
        Selected::SystemCalls => Ok(counting::system_calls(bench)?),
        Selected::Instructions if !Tool::Valgrind.is_installed() => {
            Err("valgrind is not installed")
        }
        Selected::Instructions => Ok(counting::instructions(bench)?),
    })
}

/// The first processor runs the servers, the second the load.
fn share_processors(bench: &mut Bench) -> Result<()> {
    (bench.server_cpu, bench.load_cpu) = program::processors()?;
    if bench.load_cpu.is_none() {
        println!("# one processor only: load and servers share it, and the rates mean little");
    }
    Ok(())
}

fn find_twisted(bench: &mut Bench) {
    if bench.chosen.is_empty() || bench.chosen.contains(&Kind::Twisted) {
        bench.twisted = succeeds(&bench.python, &["-c", "import twisted.internet"]);
        if !bench.twisted {
            println!("skipped: twisted, as {} does not have it (see --python)", bench.python);
        }
    }
}
