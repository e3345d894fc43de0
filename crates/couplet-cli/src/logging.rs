//! What is logged to stderr, and what a panic looks like to a user.

use std::str::FromStr;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::Logging;

/// Starts logging.
pub(crate) fn start(logging: &Logging) -> Result<(), String> {
    let filter = match (&logging.log, logging.verbose) {
        (Some(filter), _) => Targets::from_str(filter).map_err(|error| {
            format!("bad filter {filter:?}: {error}; an example is couplet=debug,info")
        })?,
        (None, 0) => Targets::from_str("warn").unwrap_or_default(),
        (None, 1) => Targets::from_str("info").unwrap_or_default(),
        (None, 2) => Targets::from_str("debug").unwrap_or_default(),
        (None, _) => Targets::from_str("trace").unwrap_or_default(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    tracing_subscriber::registry().with(layer).with(filter).init();
    std::panic::set_hook(Box::new(|panic| {
        // A panicking callback loses its connection alone; one line says where it was.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(%place, "panic: {text}");
    }));
    Ok(())
}

impl Logging {
    /// Whether log lines and progress bars would get into each other's way.
    pub(crate) fn is_talkative(&self) -> bool {
        self.verbose > 0 || self.log.is_some()
    }
}
