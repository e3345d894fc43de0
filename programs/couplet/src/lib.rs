//! The `couplet` program: an echo server, a client for any server, a forwarder between any two
//! endpoints, certificates for tests, and simulations.
//!
//! The program uses only the library's public API. Exit codes: 0 success, 1 failure, 2 usage error,
//! 130 and 143 when a client command is interrupted.
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod bench;
mod cert;
mod cli;
mod connect;
mod ctl;
mod datagrams;
mod echo;
mod forward;
mod http;
mod inspect;
mod run;
#[cfg(feature = "sim")]
mod sim;

use std::process::ExitCode;

#[cfg(test)]
use couplet_command::held;
use couplet_command::{endpoint, exit, known, logging, output, server, signals, values};

use cli::Command;
use exit::Exit;

/// The name in messages.
const PROGRAM: &str = "couplet";

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let code = run_command();
    // The threads that write end with the process.
    couplet::backlog::settle_all();
    code
}

fn run_command() -> ExitCode {
    let report = |exit: Exit| exit.report(PROGRAM).code();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(mut said) => {
            cli::name_what_is_elsewhere(&mut said);
            return known::explain(said, &cli::command()).unwrap_or_else(report);
        }
    };
    let has = |option: &str| cli.command.has_inspector_option(option);
    if let Err(exit) = cli.inspecting.check_options(has) {
        return report(exit);
    }
    #[cfg(feature = "sim")]
    let contents = cli.inspecting.contents();
    if let Err(exit) = cli.inspecting.check(cli.command.records()) {
        return report(exit);
    }
    // The services of a configuration log as that says.
    let is_run = matches!(cli.command, Command::Run(_));
    let is_simulated = cli.command.is_simulated();
    let events = (!is_run).then(|| logging::start(&cli.logging, is_simulated));
    let program = (PROGRAM, env!("CARGO_PKG_VERSION"));
    inspect::start(program, cli.inspecting, cli.command.recording_at_end(), events);
    let outcome = match cli.command {
        Command::Connect(options) => connect::run(options),
        Command::Echo(options) => echo::run(options),
        Command::Forward(options) => forward::run(options),
        Command::Serve(options) => http::files::run(options),
        Command::Get(options) => http::get::run(options),
        Command::Run(options) => {
            let code = run::run(options, &cli.logging).unwrap_or_else(report);
            inspect::end();
            return code;
        }
        Command::Ctl(options) => ctl::run(options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Bench(options) => bench::run(options),
        Command::Cert(options) => cert::run(&options),
        #[cfg(feature = "sim")]
        Command::Sim(options) => sim::run(options, contents, &cli.logging),
        #[cfg(feature = "completions")]
        Command::Completions { shell } => {
            output::print(&known::completions(shell, &mut cli::command()))
        }
    };
    inspect::end();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => report(exit),
    }
}
