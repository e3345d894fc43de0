//! The command line of `poetry`. The arguments of a command, and the end of its help, are beside the
//! command. Exit codes: 0 success, 1 failure, 2 usage error, 130 and 143 when a client command is
//! interrupted.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
#[cfg(feature = "inspect")]
use couplet_command::inspecting::{self, Inspecting};

use crate::exit::Exit;
use crate::logging::{self, Logging};
use crate::{demo, get, known, list, proxy, serve, transform};

/// The name in messages.
const PROGRAM: &str = "poetry";

const EXAMPLE: &str = "\
Example:
  poetry demo

or in two terminals:
  poetry serve --listen 10000
  poetry get 10000

Exit codes: 0 success, 1 failure, 2 usage error, 130 or 143 interrupted.
SIGUSR1 makes a running command print what is open and waiting.";

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
    logging: Logging,
    #[cfg(feature = "inspect")]
    #[command(flatten)]
    inspecting: Inspecting,
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
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(cli).map(|()| ExitCode::SUCCESS),
        Err(said) => known::explain(said, &Cli::command()),
    };
    let code = outcome.unwrap_or_else(|exit| exit.report(PROGRAM).code());
    // The threads that write end with the process.
    couplet::backlog::settle_all();
    code
}

fn run(cli: Cli) -> Result<(), Exit> {
    #[cfg(feature = "inspect")]
    cli.inspecting.check(false)?;
    let _events = logging::start(&cli.logging, false);
    #[cfg(feature = "inspect")]
    let program = (PROGRAM, env!("CARGO_PKG_VERSION"));
    #[cfg(feature = "inspect")]
    inspecting::start(program, cli.inspecting, None, Some(_events));
    let outcome = run_command(cli.command, &cli.logging);
    #[cfg(feature = "inspect")]
    inspecting::end();
    outcome
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
