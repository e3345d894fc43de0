//! The command line of `chat`. Exit codes: 0 success, 1 failure, 2 usage error.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
#[cfg(feature = "inspect")]
use couplet_command::inspecting::{self, Inspecting};

use crate::exit::Exit;
use crate::logging::{self, Logging};
use crate::serve::{self, Chat};
use crate::{known, server};

/// The name in messages.
const PROGRAM: &str = "chat";

const ENDS: &str = "\
Exit codes: 0 success, 1 failure, 2 usage error.
SIGUSR1 makes it print what is open and waiting.";

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
    logging: Logging,
    #[cfg(feature = "inspect")]
    #[command(flatten)]
    inspecting: Inspecting,
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
    #[cfg(feature = "completions")]
    if let Some(Command::Completions { shell }) = cli.command {
        return couplet_command::output::print(&known::completions(shell, &mut Cli::command()));
    }
    #[cfg(feature = "inspect")]
    cli.inspecting.check(false)?;
    let _events = logging::start(&cli.logging, false);
    #[cfg(feature = "inspect")]
    let program = (PROGRAM, env!("CARGO_PKG_VERSION"));
    #[cfg(feature = "inspect")]
    inspecting::start(program, cli.inspecting, None, Some(_events));
    let outcome = serve::server(cli.chat).and_then(server::Server::run);
    #[cfg(feature = "inspect")]
    inspecting::end();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        known::assert_consistent(Cli::command());
    }
}
