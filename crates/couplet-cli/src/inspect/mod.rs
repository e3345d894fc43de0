//! `--inspect`, the inspector of a command's loops, and `couplet inspect`, which shows that of a
//! running program.

mod fetching;
mod text;

use std::sync::OnceLock;

use clap::Args;
use couplet::LoopOptions;
use couplet::inspect::{Inspect as _, Inspector};

use crate::output;
pub(crate) use fetching::{Inspect, run};

#[derive(Args, Debug)]
#[command(next_help_heading = "Inspector")]
pub(crate) struct Inspecting {
    /// Show the connections, and why they wait, on a page at this port of 127.0.0.1 (0: any), or at
    /// another ENDPOINT such as unix:inspect.sock. Its URL is printed on stderr
    #[arg(long, value_name = "ENDPOINT", global = true)]
    inspect: Option<String>,
    /// Let the page close, reset and pause connections
    #[arg(long, global = true, requires = "inspect")]
    inspect_actions: bool,
}

/// The inspector of this process.
static INSPECTOR: OnceLock<Inspector> = OnceLock::new();

/// Has the loops of this process inspected, if the command line asks for that.
pub(crate) fn start(inspecting: Inspecting) {
    if let Some(endpoint) = inspecting.inspect {
        let inspector = Inspector::at(endpoint)
            .program("couplet", env!("CARGO_PKG_VERSION"))
            .actions(inspecting.inspect_actions)
            .announce(|url| output::print_to_stderr(&format!("inspector: {url}")));
        INSPECTOR.get_or_init(|| inspector);
    }
}

/// Closes the inspector of this process, whose loops may never be dropped.
pub(crate) fn end() {
    if let Some(inspector) = INSPECTOR.get() {
        inspector.close();
    }
}

/// Adds the inspector of this process to the options of a loop.
pub(crate) fn inspected(options: LoopOptions) -> LoopOptions {
    match INSPECTOR.get() {
        Some(inspector) => options.inspect(inspector),
        None => options,
    }
}
