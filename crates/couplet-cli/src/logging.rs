//! Logging to stderr, and the report of a panic.

use std::io::IsTerminal;

use clap::{ArgAction, Args};
use couplet_runner::log_levels;
use tracing_subscriber::filter::{LevelFilter, Targets};
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
    let filter = logging.log.clone().unwrap_or_else(|| {
        Targets::new().with_default(match logging.verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            2 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    });
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(is_colourful())
        .with_target(false);
    tracing_subscriber::registry().with(layer).with(filter).init();
    std::panic::set_hook(Box::new(|panic| {
        // A panic in a callback loses only its connection; one line reports where it happened.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(%place, "panic: {text}");
    }));
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
