//! Logging to stderr, and the report of a panic.

use std::io::IsTerminal;

use clap::{ArgAction, Args};
use couplet_runner::{levels_of, log_levels, log_panics};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Log more on stderr: -v for important events, -vv for each connection
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Events to log, as in `warn` or `couplet=debug,info`
    #[arg(long, value_name = "FILTER", global = true, value_parser = log_levels)]
    log: Option<Targets>,
}

/// Starts logging.
pub(crate) fn start(logging: &Logging) {
    let filter = logging.log.clone().unwrap_or_else(|| levels_of(logging.verbose));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(is_colourful())
        .with_target(false);
    tracing_subscriber::registry().with(layer).with(filter).init();
    log_panics();
}

/// True if stderr is a terminal with colours and the user has not disabled them (`NO_COLOR`).
fn is_colourful() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !refused && !is_dumb()
}

/// True if `TERM` is unset or `dumb`: the terminal can't move its cursor.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

impl Logging {
    /// How often `-v` stands on the command line.
    pub(crate) fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// The events of `--log`.
    pub(crate) fn levels(&self) -> Option<&Targets> {
        self.log.as_ref()
    }

    /// True if log lines would collide with progress bars.
    pub(crate) fn is_talkative(&self) -> bool {
        self.verbose > 0 || self.log.is_some()
    }
}
