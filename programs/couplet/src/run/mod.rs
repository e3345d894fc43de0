//! `couplet run`: the program's servers as services of one process, from a configuration.

mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use couplet::http::Continued;
use couplet::{Failure, LoopOptions};
use couplet_runner::{Arguments, Options, Runner, placed, this_loop};

use crate::exit::Exit;
use crate::inspect::inspected;
use crate::logging::Logging;
use crate::output;
use crate::server::{MakeChild, Server};
use crate::{echo, forward, http};
use table::Table;

const EXAMPLE: &str = "\
Example:
  couplet run --example > couplet.toml
  couplet run couplet.toml --check
  couplet run couplet.toml
  couplet ctl status

FILE has a table for each service, [services.NAME], with a kind: echo, forward, serve, poetry,
transform, proxy or, if this program was built with its feature chat, chat. The first three are the
commands of these names, the next three are the commands serve, transform and proxy of the program
poetry, and chat is the program of that name. The other keys are the long options of that command;
LISTEN, CONNECT, DIR and FILES are listen, connect, folder and files. echo and forward serve udp:
endpoints too, and echo both kinds in one table.

With --threads, or threads in [runner], all kinds but chat serve in that many threads; udp:
endpoints are served by one.

SIGHUP opens the log file again, and applies the changes of FILE. If FILE is wrong, nothing
changes. SIGUSR2 starts the program's file, as it now is, as a new process, which takes over all
ports, TCP, UNIX and UDP, and many connections. SIGTERM ends the services; a second one ends the
process immediately.

Exit codes: 0 after a signal, 1 if a service can't start or fails too often, 2 for a wrong FILE.";

/// The configuration that `--example` prints.
const CONFIGURATION: &str = include_str!("example.toml");

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Run {
    /// The configuration, in TOML
    #[arg(value_name = "FILE", required_unless_present = "example")]
    file: Option<PathBuf>,
    /// Print an example of a configuration and exit
    #[arg(long)]
    example: bool,
    /// Write the last events of all loops to this file at the end: a recording for couplet inspect
    #[arg(long, value_name = "FILE", help_heading = "Inspector")]
    record: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

impl Run {
    /// The file of the recording at the end.
    pub(crate) fn recording_at_end(&self) -> Option<&Path> {
        self.record.as_deref().filter(|_| !self.example)
    }
}

/// Runs the services. The runner logs, in the form that the configuration sets.
pub(crate) fn run(options: Run, logging: &Logging) -> Result<ExitCode, Exit> {
    let file = match options.file {
        Some(file) if !options.example => file,
        _ => {
            return output::print(CONFIGURATION.as_bytes()).map(|()| ExitCode::SUCCESS);
        }
    };
    let mut arguments = Arguments::new(file, options.options).verbose(logging.verbosity());
    if let Some(levels) = logging.levels() {
        arguments = arguments.log_level(levels.clone());
    }
    Ok(runner().run(arguments))
}

/// A runner that knows the kinds of services.
fn runner() -> Runner {
    let runner = Runner::new("couplet");
    // The members of a chat are in one room.
    #[cfg(feature = "chat")]
    let runner = runner.takes_over(chat::MOVES_AS, |state, _| chat::continued(state)).kind(
        "chat",
        |name, table: Table<chat::serve::Chat>, reactor| {
            child(name, chat::serve::server(table.0))?(reactor)
        },
    );
    runner
        .loop_options(inspected(LoopOptions::default()))
        .version(env!("CARGO_PKG_VERSION"))
        .takes_over_in_loops(couplet_servers::echo::MOVES_AS, |_, _| {
            Ok(couplet_servers::echo::continued())
        })
        .takes_over_in_loops(Continued::KIND, |state, _| Continued::new(state))
        .kind_in_loops("echo", |name, table: Table<echo::Echo>, _| {
            child(name, Ok(echo::server(table.0)))
        })
        .kind_in_loops("forward", |name, table: Table<forward::Forward>, _| {
            child(name, forward::server(table.0))
        })
        .kind_in_loops("serve", |name, table: Table<http::files::HttpServe>, _| {
            child(name, http::files::server(table.0, Some(name)))
        })
        .kind_in_loops("poetry", |name, table: Table<poetry::serve::Serve>, _| {
            child(name, poetry::serve::server(table.0))
        })
        .kind_in_loops("transform", |name, table: Table<poetry::transform::Transform>, _| {
            child(name, Ok(poetry::transform::server(table.0)))
        })
        .kind_in_loops("proxy", |name, table: Table<poetry::proxy::Proxy>, _| {
            child(name, poetry::proxy::server(table.0))
        })
}

/// Makes the child of a service in a loop.
fn child(name: &str, server: Result<Server, Exit>) -> couplet::Result<MakeChild> {
    match server {
        Ok(server) => Ok(server.into_child(
            name,
            |endpoint| placed(name, endpoint),
            || (this_loop().number, this_loop().of),
        )),
        Err(exit) => Err(Failure::msg(exit.message().unwrap_or_default().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_example_and_in_the_help() {
        let shown = format!("{:?}", runner());
        assert!(shown.contains("couplet"), "{shown}");
        for kind in ["echo", "forward", "serve", "chat", "poetry", "transform", "proxy"] {
            assert!(CONFIGURATION.contains(&format!("kind = \"{kind}\"")), "{kind}");
            assert!(EXAMPLE.contains(kind), "{kind}");
        }
    }
}
