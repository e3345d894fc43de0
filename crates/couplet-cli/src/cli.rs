//! The command line as a whole: the commands and the options that all of them have. The arguments
//! of a command, and the end of its help, are beside the command.

use std::path::Path;

use clap::builder::{Styles, styling::AnsiColor};
use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::bench::Bench;
use crate::cert::Cert;
use crate::chat::Chat;
use crate::connect::Connect;
use crate::ctl::Ctl;
use crate::demo;
use crate::echo::Echo;
use crate::forward::Forward;
use crate::http::files::HttpServe;
use crate::http::get::HttpGet;
use crate::inspect::{Inspect, Inspecting};
use crate::logging::Logging;
use crate::poetry::Poetry;
use crate::run::Run;
use crate::sim::Sim;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const ABOUT: &str = "Servers and clients for the network: slow poems, an echo, a forwarder, a chat, \
                     files over HTTP";

const EXAMPLE: &str = "\
Example:
  couplet demo

or in two terminals:
  couplet poetry serve --listen 10000
  couplet poetry get 10000

A program for each connection, from elsewhere too:
  couplet forward :7000 process:/bin/cat

Exit codes: 0 success, 1 failure, 2 usage error, 130 or 143 interrupted.
SIGUSR1 makes a running command print what is open and waiting.";

const COMPLETIONS_EXAMPLE: &str = "\
Example:
  couplet completions bash > ~/.local/share/bash-completion/completions/couplet";

#[derive(Parser, Debug)]
#[command(
    name = "couplet",
    version,
    propagate_version = true,
    about = ABOUT,
    styles = STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLE
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(flatten)]
    pub(crate) inspecting: Inspecting,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Fetch poems from three slow servers at the same time
    #[command(after_help = demo::EXAMPLE)]
    Demo,
    /// Poetry servers and clients
    #[command(subcommand)]
    Poetry(Poetry),
    /// Send stdin to a server, a program or a serial line, and print the answer
    Connect(Connect),
    /// Send back everything received, over TCP, TLS, UNIX sockets or UDP
    Echo(Echo),
    /// Join each connection to a new one elsewhere, or to a program; or forward UDP
    Forward(Forward),
    /// Serve the files of a folder over HTTP
    Serve(HttpServe),
    /// Fetch a URL and print it
    Get(HttpGet),
    /// Serve a chat to people at terminals and, with --web, in browsers
    Chat(Chat),
    /// Run several of these servers as the services of one process, from a configuration
    Run(Run),
    /// Ask a running process for its status, or to reload, restart or end
    Ctl(Ctl),
    /// Show the connections of a running process that has an inspector, and why they wait
    Inspect(Inspect),
    /// Make certificates for tests of TLS, and an authority that issues them
    Cert(Cert),
    /// Measure these servers beside others, under a load that checks every byte
    Bench(Bench),
    /// Test protocols on simulated networks that fail: hours of bad weather in seconds
    Sim(Sim),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Command {
    /// Whether the command makes a recording.
    pub(crate) fn records(&self) -> bool {
        match self {
            Command::Sim(sim) => sim.records(),
            _ => self.recording_at_end().is_some(),
        }
    }

    /// The file of the recording that the command writes at its end.
    pub(crate) fn recording_at_end(&self) -> Option<&Path> {
        match self {
            Command::Run(run) => run.recording_at_end(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_line_of_help_is_wrapped() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let long = help.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{}", command.get_name());
        }
    }
}
