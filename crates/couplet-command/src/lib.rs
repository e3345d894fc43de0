//! The parts that the command lines of our programs share: values and endpoints as users type them,
//! servers, signals, the log, exit codes, and the run of a program. On the library's public API only.
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

pub mod endpoint;
pub mod exit;
#[cfg(feature = "testing")]
pub mod held;
#[cfg(feature = "inspect")]
pub mod inspecting;
pub mod known;
pub mod logging;
pub mod marks;
pub mod output;
pub mod program;
pub mod server;
pub mod signals;
pub mod values;

#[cfg(feature = "color")]
use clap::builder::{Styles, styling::AnsiColor};

/// The colours of help.
#[cfg(feature = "color")]
pub const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());
