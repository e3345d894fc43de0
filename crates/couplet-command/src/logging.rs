//! Logging to stderr, by a thread that waits for its reader, and the report of a panic.
//!
//! Contract: 119c.

use std::io::IsTerminal;

use clap::{ArgAction, Args};
use couplet::backlog::{self, Backlog, lost_lines};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
#[expect(missing_docs, reason = "it would become the help of the commands")]
pub struct Logging {
    /// Log more on stderr: -v for important events, -vv for each connection
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Events to log, as in `warn` or `couplet=debug,info`
    #[arg(long, value_name = "FILTER", global = true, value_parser = log_levels)]
    log: Option<Targets>,
}

/// The events that this process logs.
#[derive(Debug)]
pub struct Events(reload::Handle<Targets, Registry>);

impl Events {
    /// Sets the events to log, or returns a problem in words.
    pub fn set(&self, text: &str) -> Result<(), String> {
        self.0.reload(log_levels(text)?).map_err(|error| error.to_string())
    }
}

/// Starts logging. The warnings of a `simulated` world are its weather, and shown with `-v`.
pub fn start(logging: &Logging, simulated: bool) -> Events {
    let filter = logging.log.clone().unwrap_or_else(|| match (simulated, logging.verbose) {
        (true, 0) => Targets::new().with_default(LevelFilter::ERROR),
        (_, verbose) => levels_of(verbose),
    });
    let (filter, events) = reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(Backlog::stderr)
        .with_ansi(is_colourful())
        .with_target(false);
    Backlog::stderr().set_notice(|lost| Some(line(Level::WARN, &lost_lines(lost))));
    tracing_subscriber::registry().with(filter).with(layer).init();
    log_panics();
    Events(events)
}

/// The line of an event without fields.
pub fn line(level: Level, text: &str) -> String {
    format!("{} {level:>5} {text}\n", timestamp())
}

/// The present time, as in the lines of the log.
pub fn timestamp() -> String {
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    timestamp
}

/// True if stderr is a terminal with colours and the user has not disabled them (`NO_COLOR`).
fn is_colourful() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !refused && !is_dumb()
}

/// True if `TERM` is unset or `dumb`: the terminal can't move its cursor.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

impl Logging {
    /// How often `-v` stands on the command line.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// The events of `--log`.
    pub fn levels(&self) -> Option<&Targets> {
        self.log.as_ref()
    }

    /// True if log lines would collide with progress bars.
    pub fn is_talkative(&self) -> bool {
        self.verbose > 0 || self.log.is_some()
    }
}

/// Crates whose events repeat ours: the errors of handshakes, which connections report.
const REPEATING: &str = "rustls";

/// The events to log for a number of `-v`: warnings and errors for none, then important events, each
/// connection, and everything. Events of rustls belong to everything: connections report its errors.
pub fn levels_of(verbose: u8) -> Targets {
    let ours = |level| Targets::new().with_default(level).with_target(REPEATING, LevelFilter::OFF);
    match verbose {
        0 => ours(LevelFilter::WARN),
        1 => ours(LevelFilter::INFO),
        2 => ours(LevelFilter::DEBUG),
        _ => Targets::new().with_default(LevelFilter::TRACE),
    }
}

/// Logs each panic from now on, as one line with its place, instead of printing it. A panic in a
/// callback loses only its connection.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(%place, "panic: {text}");
        if cfg!(panic = "abort") {
            backlog::settle_all();
        }
    }));
}

/// Reads which events to log: a level, or levels of targets, as in `warn` and `couplet=debug,info`.
/// `warn,couplet::access=debug` adds access lines.
///
/// # Errors
///
/// Words for a user, with an example.
pub fn log_levels(text: &str) -> Result<Targets, String> {
    const EXAMPLES: &str = "examples are warn, or couplet=debug,info";
    let known = |c: char| c.is_ascii_alphanumeric() || "_:=,-".contains(c);
    if let Some(odd) = text.chars().find(|c| !known(*c)) {
        // The character would become part of a target that matches nothing.
        return Err(format!("{odd:?} is not allowed in a filter; {EXAMPLES}"));
    }
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("", _)) => return Err(format!("{part:?} has no target; {EXAMPLES}")),
            // Without one, all events of the target would be logged.
            Some((_, level)) if !is_level(level) => {
                return Err(format!("{level:?} is not a level, in {part:?}; {EXAMPLES}"));
            }
            // The word would be a target, and silence all others.
            None if !is_level(part) => {
                return Err(format!("{part:?} is not a level; {EXAMPLES}"));
            }
            _ => {}
        }
    }
    let levels = text.parse::<Targets>().map_err(|error| format!("{error}; {EXAMPLES}"))?;
    // Connections report the errors of rustls.
    Ok(match text.contains(REPEATING) {
        true => levels,
        false => levels.with_target(REPEATING, LevelFilter::OFF),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_rustls_are_logged_only_if_asked_for() {
        let of = |text| log_levels(text).expect("levels");
        for (levels, is_logged) in [
            (levels_of(0), false),
            (levels_of(1), false),
            (levels_of(2), false),
            (levels_of(3), true),
            (of("warn"), false),
            (of("couplet=debug,info"), false),
            (of("warn,rustls=error"), true),
        ] {
            for target in ["rustls::conn", "rustls_platform_verifier::verification::others"] {
                let is_enabled = levels.would_enable(target, &Level::ERROR);
                assert_eq!(is_enabled, is_logged, "{levels}: {target}");
            }
            assert!(levels.would_enable("couplet", &Level::WARN), "{levels}");
        }
    }

    #[test]
    fn filters_are_levels_and_targets_with_levels() {
        for (filter, is_good) in [
            ("warn", true),
            ("couplet=debug,info", true),
            ("warn,couplet::access=debug", true),
            ("couplet::reactor=trace", true),
            ("OFF", true),
            ("", false),
            ("=", false),
            ("=,=,=", false),
            ("=debug", false),
            ("couplet=", false),
            ("warn,couplet=", false),
            ("a=b", false),
            (",", false),
        ] {
            let read = log_levels(filter);
            assert_eq!(read.is_ok(), is_good, "{filter}: {read:?}");
        }
    }
}
