//! The `couplet` program: poetry, served slowly and fetched in parallel, an echo server, a chat, a
//! client for any server, a forwarder between any two endpoints, and certificates for tests.
//!
//! It uses only the library's public API. Exit codes: 0 success, 1 failure, 2 usage error, 130 and
//! 143 when a client command is interrupted.
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_watched;

mod bench;
mod cert;
mod chat;
mod cli;
mod connect;
mod ctl;
mod datagrams;
mod demo;
mod echo;
mod endpoint;
mod exit;
mod forward;
#[cfg(test)]
mod held;
mod http;
mod inspect;
mod known;
mod logging;
mod marks;
mod output;
mod poems;
mod poetry;
mod printer;
mod progress;
mod run;
mod server;
mod signals;
mod sim;
mod values;

use std::io::Write;
use std::process::ExitCode;

use cli::Command;
use exit::Exit;

fn main() -> ExitCode {
    let code = run_command();
    // The threads that write end with the process.
    couplet::backlog::settle_all();
    code
}

fn run_command() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(mut said) => {
            known::suggest_commands(&mut said, &cli::command());
            known::drop_poor_tip(&mut said);
            return say(&said).map_or_else(
                |exit| exit.report().code(),
                |()| ExitCode::from(said.exit_code() as u8),
            );
        }
    };
    let has = |option: &str| cli.command.has_inspector_option(option);
    if let Err(exit) = cli.inspecting.check_options(has) {
        return exit.report().code();
    }
    let contents = cli.inspecting.contents();
    if let Err(exit) = cli.inspecting.check(cli.command.records()) {
        return exit.report().code();
    }
    // The services of a configuration log as that says.
    let is_run = matches!(cli.command, Command::Run(_));
    let simulated = matches!(cli.command, Command::Sim(_));
    let events = (!is_run).then(|| logging::start(&cli.logging, simulated));
    inspect::start(cli.inspecting, cli.command.recording_at_end(), events);
    let outcome = match cli.command {
        Command::Demo => demo::run(&cli.logging),
        Command::Connect(options) => connect::run(options),
        Command::Echo(options) => echo::run(options),
        Command::Forward(options) => forward::run(options),
        Command::Serve(options) => http::files::run(options),
        Command::Get(options) => http::get::run(options),
        Command::Chat(options) => chat::run(options),
        Command::Run(options) => {
            let code = run::run(options, &cli.logging).unwrap_or_else(|exit| exit.report().code());
            inspect::end();
            return code;
        }
        Command::Ctl(options) => ctl::run(options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Bench(options) => bench::run(options),
        Command::Cert(options) => cert::run(&options),
        Command::Sim(options) => sim::run(options, contents, &cli.logging),
        Command::Poetry(command) => poetry::run(command, &cli.logging),
        Command::Completions { shell } => {
            output::print(&known::completions(shell, &mut cli::command()))
        }
    };
    inspect::end();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report().code(),
    }
}

/// Prints help, the version, or a usage error.
fn say(said: &clap::Error) -> Result<(), Exit> {
    let printed = said.print().and_then(|()| std::io::stdout().flush());
    match printed {
        Err(error) if !said.use_stderr() => Err(output::cannot_print(&error)),
        _ => Ok(()),
    }
}
