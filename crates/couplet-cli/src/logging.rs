//! Logging to stderr, by a thread that waits for its reader, and the report of a panic.

use std::io::IsTerminal;

use clap::{ArgAction, Args};
use couplet::backlog::{Backlog, lost_lines};
use couplet_runner::{levels_of, log_levels, log_panics};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

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

/// The events that this process logs.
pub(crate) struct Events(
    // Bound: one filter, as long as the command line or an action.
    reload::Handle<Targets, Registry>,
);

impl Events {
    /// Sets the events to log, or returns a problem in words.
    pub(crate) fn set(&self, text: &str) -> Result<(), String> {
        self.0.reload(log_levels(text)?).map_err(|error| error.to_string())
    }
}

/// Starts logging. The warnings of a `simulated` world are its weather, and shown with `-v`.
pub(crate) fn start(logging: &Logging, simulated: bool) -> Events {
    let filter = logging.log.clone().unwrap_or_else(|| match (simulated, logging.verbose) {
        (true, 0) => Targets::new().with_default(LevelFilter::ERROR),
        (_, verbose) => levels_of(verbose),
    });
    let (filter, events) = reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(Backlog::stderr)
        .with_ansi(is_colourful())
        .with_target(false);
    Backlog::stderr().set_notice(|lost| Some(warning(&lost_lines(lost))));
    tracing_subscriber::registry().with(filter).with(layer).init();
    log_panics();
    Events(events)
}

/// The line of a warning without fields.
fn warning(text: &str) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    format!("{time}  WARN {text}\n")
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
