//! The command line of `chat`. Exit codes: 0 success, 1 failure, 2 usage error.

use std::process::ExitCode;

#[cfg(any(test, feature = "completions"))]
use clap::CommandFactory;
use clap::Parser;
#[cfg(any(test, feature = "completions"))]
use couplet_command::known;
use couplet_command::program::{self, Observed};

use crate::exit::Exit;
use crate::serve::{self, Chat};
use crate::server;

/// The name in messages.
const PROGRAM: &str = "chat";

const ENDS: &str = "\
Exit codes: 0 success, 1 failure, 2 usage error.
SIGUSR1 prints a snapshot of open and pending objects.";

#[cfg(feature = "completions")]
const COMPLETIONS_EXAMPLE: &str = "\
Example:
  chat completions bash > ~/.local/share/bash-completion/completions/chat";

#[derive(Parser, Debug)]
#[command(
    name = PROGRAM,
    version,
    propagate_version = true,
    about = "A chat for people at terminals and, with --web, in browsers",
    args_conflicts_with_subcommands = true,
    after_help = format!("{}\n\n{ENDS}", serve::EXAMPLE)
)]
#[cfg_attr(feature = "color", command(styles = couplet_command::STYLES))]
struct Cli {
    #[command(flatten)]
    chat: Chat,
    #[command(flatten)]
    observed: Observed,
    #[cfg(feature = "completions")]
    #[command(subcommand)]
    command: Option<Command>,
}

#[cfg(feature = "completions")]
#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print a completion script for a shell
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
    #[cfg(feature = "completions")]
    if let Some(Command::Completions { shell }) = cli.command {
        return couplet_command::output::print(&known::completions(shell, &mut Cli::command()));
    }
    let serve = |_: &_| serve::server(cli.chat).and_then(server::Server::run);
    cli.observed.run((PROGRAM, env!("CARGO_PKG_VERSION")), serve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        known::assert_consistent(Cli::command());
    }
}
