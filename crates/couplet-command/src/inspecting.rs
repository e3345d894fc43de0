//! The inspector of a process: the options `--inspect` and its like, and the loops that have it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::Args;
use couplet::LoopOptions;
use couplet::inspect::{Inspect as _, Inspector};

use crate::exit::Exit;
use crate::logging::Events;
use crate::output;
use crate::values::one_or_more;

#[derive(Args, Debug)]
#[command(next_help_heading = "Inspector")]
#[expect(missing_docs, reason = "it would become the help of the commands")]
pub struct Inspecting {
    /// Show the connections, and why they wait, on a page at this port of 127.0.0.1 (0: any), or at
    /// another ENDPOINT such as unix:inspect.sock; the page's URL is printed on stderr
    #[arg(long, value_name = "ENDPOINT", global = true)]
    inspect: Option<String>,
    /// Let the page and `couplet inspect` close, reset and pause connections, and set the events to log
    #[arg(long, global = true, requires = "inspect")]
    inspect_actions: bool,
    /// When a red flag is raised, write a recording of the last minute to this folder, at most one a
    /// minute; the last 10 are kept
    #[arg(long, value_name = "DIR", global = true)]
    inspect_record: Option<PathBuf>,
    /// Keep the first BYTES of each chunk that a connection receives or writes, for recordings: needs
    /// --inspect, --inspect-record or --record. Under TLS they are ciphertext; secrets in plain text
    /// are kept too. The newest 16 MiB of each loop are kept
    #[arg(long, value_name = "BYTES", global = true, value_parser = one_or_more)]
    inspect_contents: Option<u64>,
}

impl Inspecting {
    /// The first bytes of each chunk that are kept; 0 for none.
    pub fn contents(&self) -> usize {
        let bytes = self.inspect_contents.unwrap_or_default();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Refuses the options of the inspector for a command without one. `has` returns whether the
    /// command has the option with this name.
    pub fn check_options(&self, has: impl Fn(&str) -> bool) -> Result<(), Exit> {
        let Inspecting { inspect, inspect_actions, inspect_record, inspect_contents } = self;
        let given = [
            (inspect.is_some(), "inspect"),
            (*inspect_actions, "inspect_actions"),
            (inspect_record.is_some(), "inspect_record"),
            (inspect_contents.is_some(), "inspect_contents"),
        ];
        match given.into_iter().find(|(is_given, name)| *is_given && !has(name)) {
            Some((_, name)) => Err(Exit::bad_usage(format_args!(
                "this command has no inspector: leave out --{}",
                name.replace('_', "-")
            ))),
            None => Ok(()),
        }
    }

    /// Refuses contents for a command that is neither inspected nor recorded.
    pub fn check(&self, records: bool) -> Result<(), Exit> {
        let Inspecting { inspect, inspect_record, inspect_contents, .. } = self;
        let is_kept = records || inspect.is_some() || inspect_record.is_some();
        match inspect_contents {
            Some(_) if !is_kept => Err(Exit::bad_usage(
                "--inspect-contents needs --inspect, --inspect-record or --record",
            )),
            _ => Ok(()),
        }
    }
}

/// The inspector of this process.
static INSPECTOR: OnceLock<Inspector> = OnceLock::new();

/// Starts the inspector of this process, a `program` of this `version`, if the command line asks for it
/// or for a recording at the end. Actions of the inspector may set the logged `events`.
pub fn start(
    (program, version): (&str, &str),
    inspecting: Inspecting,
    at_end: Option<&Path>,
    events: Option<Events>,
) {
    let contents = inspecting.contents();
    let Inspecting { inspect, inspect_actions, inspect_record, .. } = inspecting;
    if inspect.is_none() && inspect_record.is_none() && at_end.is_none() {
        return;
    }
    let mut inspector = inspect.map_or_else(Inspector::without_page, Inspector::at);
    if let Some(folder) = inspect_record {
        inspector = inspector.record_flags(folder);
    }
    if let Some(file) = at_end {
        inspector = inspector.record_at_end(file);
    }
    if let Some(events) = events {
        inspector = inspector.set_log(move |text| events.set(text));
    }
    let inspector = inspector
        .program(program, version)
        .actions(inspect_actions)
        .contents(contents)
        .announce(|url| output::print_to_stderr(&format!("inspector: {url}")));
    INSPECTOR.get_or_init(|| inspector);
}

/// Closes the inspector of this process, whose loops may never be dropped.
pub fn end() {
    if let Some(inspector) = INSPECTOR.get() {
        inspector.close();
    }
}

/// Adds the inspector of this process to the options of a loop.
pub fn inspected(options: LoopOptions) -> LoopOptions {
    match INSPECTOR.get() {
        Some(inspector) => options.inspect(inspector),
        None => options,
    }
}
