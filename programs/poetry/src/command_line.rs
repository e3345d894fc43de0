//! The command line of `poetry`. Each command's module has its arguments and the end of its help.
//! Exit codes: 0 success, 1 failure, 2 usage error, 130 and 143 when a client command is
//! interrupted.

use std::process::ExitCode;

#[cfg(any(test, feature = "completions"))]
use clap::CommandFactory;
use clap::{Parser, Subcommand};
use couplet_command::program::{self, Observed};

use crate::exit::Exit;
#[cfg(any(test, feature = "completions"))]
use crate::known;
use crate::logging::Logging;
use crate::{demo, get, list, proxy, serve, transform};

/// The name in messages.
const PROGRAM: &str = "poetry";

const EXAMPLE: &str = "\
Example:
  poetry demo

or in two terminals:
  poetry serve --listen 10000
  poetry get 10000

Exit codes: 0 success, 1 failure, 2 usage error, 130 or 143 interrupted.
SIGUSR1 makes a running command print a snapshot of open and pending objects.";

#[cfg(feature = "completions")]
const COMPLETIONS_EXAMPLE: &str = "\
Example:
  poetry completions bash > ~/.local/share/bash-completion/completions/poetry";

#[derive(Parser, Debug)]
#[command(
    name = PROGRAM,
    version,
    propagate_version = true,
    about = "Poetry servers and clients",
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLE
)]
#[cfg_attr(feature = "color", command(styles = couplet_command::STYLES))]
struct Cli {
    #[command(flatten)]
    observed: Observed,
    #[command(subcommand)]
    command: Poetry,
}

#[derive(Subcommand, Debug)]
enum Poetry {
    /// Fetch poems from three slow servers at the same time
    #[command(after_help = demo::EXAMPLE)]
    Demo,
    /// Send a poem to each client, slowly, then close
    Serve(serve::Serve),
    /// Fetch poems from many servers at once
    Get(get::Get),
    /// Print the titles of a server that runs with --by-name
    List(list::List),
    /// Transform poems that clients send, as netstrings NAME.POEM
    Transform(transform::Transform),
    /// Fetch a poem once, cache it, and serve it to all clients
    Proxy(proxy::Proxy),
    /// Print a completion script for a shell
    #[cfg(feature = "completions")]
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions {
        /// The shell
        shell: known::Shell,
    },
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    program::main(PROGRAM, run)
}

fn run(cli: Cli) -> Result<(), Exit> {
    let Cli { observed, command } = cli;
    observed.run((PROGRAM, env!("CARGO_PKG_VERSION")), |logging| run_command(command, logging))
}

fn run_command(command: Poetry, logging: &Logging) -> Result<(), Exit> {
    match command {
        Poetry::Demo => demo::run(logging),
        Poetry::Serve(options) => serve::run(options),
        Poetry::Get(options) => get::run(options, logging),
        Poetry::List(options) => list::run(options),
        Poetry::Transform(options) => transform::run(options),
        Poetry::Proxy(options) => proxy::run(options),
        #[cfg(feature = "completions")]
        Poetry::Completions { shell } => {
            crate::output::print(&known::completions(shell, &mut Cli::command()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        known::assert_consistent(Cli::command());
    }
}
