//! `couplet bench`: servers side by side, under a load that checks every byte. See
//! `couplet bench --help`.
//!
//! The program starts itself again as each built-in server (`@serve`), so that the server's
//! processor time is separate from the load's, and as the watch that ends a server (`@watch`).

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "the load and the peers stand outside of any loop")]

#[cfg(not(target_os = "linux"))]
compile_error!("couplet-bench reads /proc and drives epoll: it needs Linux");

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod counting;
mod folder;
mod guard;
mod html;
mod interrupt;
mod kind;
mod load;
mod markdown;
mod options;
mod outputs;
mod peers;
mod results;
mod scenario;
mod server;
mod text;
mod timing;

use std::error::Error;
use std::io;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use rustix::thread::nanosleep;
use rustix::time::Timespec;

use counting::Tool;
use kind::{Manner, Role};
use options::{Bench, Options, Request};
use outputs::Outputs;
use results::{Missing, Outcome, Results};
use scenario::Selected;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Prefixes an error with its context.
fn in_context<E: Into<Box<dyn Error>>>(context: String) -> impl FnOnce(E) -> Box<dyn Error> {
    move |error| format!("{context}: {}", error.into()).into()
}

/// Waits between two looks at another process; a signal ends the wait.
fn pause(time: Duration) {
    let tv_nsec = i64::from(time.subsec_nanos());
    // Whether it was interrupted does not matter.
    let _ = nanosleep(&Timespec { tv_sec: time.as_secs() as i64, tv_nsec });
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.split_first() {
        Some((first, rest)) if first == server::WATCH => watch(rest),
        Some((first, rest)) if first == peers::SERVE => serve(rest),
        _ => match options::parse() {
            Ok(options) => interrupt::catch().map_err(Into::into).and_then(|()| answer(options)),
            Err(code) => return code,
        },
    };
    match (outcome, interrupt::signal()) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(_), Some(signal)) => ExitCode::from(128 + signal),
        (Err(error), None) => {
            eprintln!("couplet bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(words: &[String]) -> Result<()> {
    let [cpu, meek, port, command @ ..] = words else {
        return Err("a watch needs a processor, a priority, a port and a command".into());
    };
    let manner = Manner { cpu: cpu.parse().ok(), meek: meek == "meek", ..Manner::default() };
    manner.apply()?;
    Ok(server::watch(port.parse().ok(), command)?)
}

fn serve(words: &[String]) -> Result<()> {
    let [kind, role, folder] = words else {
        return Err("a server needs a kind, a role and a folder".into());
    };
    peers::serve(kind.parse()?, role.parse()?, folder.as_ref())
}

fn answer(options: Options) -> Result<()> {
    match options.request()? {
        Request::List => print(&options::list()),
        Request::Guard(kind, limits) => {
            let limits = limits.as_deref().map(guard::read_limits).transpose()?;
            let mut bench = Bench::new(&options)?;
            if let Some(missing) = bench.programs.missing(kind, &[Role::Echo], &bench.folder)? {
                return Err(format!("cannot measure {kind}: {missing}").into());
            }
            guard::run(&bench, kind, &limits.unwrap_or_default())
        }
        Request::Compare(selected) => {
            // Before the measurements, so that a mistake is reported immediately.
            let outputs = Outputs::open(&options)?;
            compare(&mut Bench::new(&options)?, &selected, &outputs)?;
            outputs.report();
            Ok(())
        }
    }
}

/// Measures; prints and writes each table when its scenario is finished, so that an interrupted run
/// keeps the finished ones.
fn compare(bench: &mut Bench, selected: &[Selected], outputs: &Outputs) -> Result<()> {
    let mut results = Results::new(bench.load_cpu.is_some());
    for missing in bench.find_servers(selected)? {
        eprintln!("skipped: {}: {}", missing.server, missing.reason);
        results.missing.push(missing);
    }
    for (at, &what) in selected.iter().enumerate() {
        if selected.len() > 1 {
            eprintln!("scenario {} of {}: {}", at + 1, selected.len(), what.name());
        }
        match measure(bench, what)? {
            Ok((outcome, failed)) => {
                results.missing.extend(failed);
                print(&text::table(&outcome))?;
                results.outcomes.push(outcome);
            }
            Err(reason) => {
                eprintln!("skipped: {}: {reason}", what.name());
                let server = format!("scenario {}", what.name());
                results.missing.push(Missing { server, reason: reason.into() });
            }
        }
        outputs.write(&results)?;
    }
    Ok(())
}

/// The results of a scenario, and the servers that failed; or the missing requirement.
type Measured = Result<(Outcome, Vec<Missing>), &'static str>;

fn measure(bench: &Bench, what: Selected) -> Result<Measured> {
    let kinds = bench.kinds(what);
    let counted = |outcome| Ok((outcome, Vec::new()));
    Ok(match what {
        _ if kinds.is_empty() => Err("none of the servers does that"),
        Selected::Timed(scenario) => Ok(timing::run(bench, what, scenario, kinds)?),
        Selected::SystemCalls if !Tool::Strace.is_installed() => Err("strace is not installed"),
        Selected::SystemCalls => counted(counting::system_calls(bench, &kinds)?),
        Selected::Instructions if !Tool::Valgrind.is_installed() => {
            Err("valgrind is not installed")
        }
        Selected::Instructions => counted(counting::instructions(bench, &kinds)?),
    })
}

/// Prints to stdout; a reader that leaves early ends the run.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    printed.map_err(in_context("cannot write to stdout".into()))
}
