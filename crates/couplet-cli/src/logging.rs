//! What is logged to stderr, and what a panic looks like to a user.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::cli::Logging;

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
        // A panicking callback loses its connection alone; one line says where it was.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(%place, "panic: {text}");
    }));
}

/// Colours are for terminals that have them, and for people who have not refused.
fn is_colourful() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !refused && !is_dumb()
}

/// The terminal, if stderr is one, cannot move its cursor.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

impl Logging {
    /// Whether log lines and progress bars would get into each other's way.
    pub(crate) fn is_talkative(&self) -> bool {
        self.verbose > 0 || self.log.is_some()
    }
}
