//! `couplet inspect`: shows the state of a program, from its inspector or from a recording.

use std::fs::File;
#[cfg(not(feature = "screen"))]
use std::io::IsTerminal;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use couplet::inspect::Recording;
use serde_json::Value;

#[cfg(target_os = "linux")]
use super::process::{self, Offer};
#[cfg(feature = "screen")]
use super::screen;
use super::source::Source;
use super::{opening, text};
#[cfg(target_os = "linux")]
use crate::ctl::carry_out;
use crate::exit::Exit;
use crate::output;

const EXAMPLE: &str = "\
Example:
  couplet echo --inspect 8099 --listen 7000
  couplet inspect 'http://127.0.0.1:8099/?token=…'
  couplet inspect $(pidof couplet)
  couplet inspect unix:/run/app/inspect.sock --json | jq '.flags'
  couplet inspect 'http://127.0.0.1:8099/?token=…' --record slow.rec
  couplet inspect slow.rec --trace > slow.json
  couplet inspect slow.rec --jsonl | jq 'select(.took > 0.01)'
  couplet inspect slow.rec --open
  couplet echo --listen 7000 --inspect 8099 --inspect-contents 1024
  couplet inspect slow.rec --pcap slow.pcapng && wireshark slow.pcapng

On a terminal, a running program is shown in a view that updates itself; ? lists its keys. The URL
is the one that the program prints or logs. The ID of a process of yours (Linux) leads to its
inspector: at a UNIX socket, or as its control socket says. Without one, the status of the control
socket is shown, or else the snapshot that the program prints on SIGUSR1, if it catches that signal.

Exit codes: 0 success; 1 the program does not answer; 2 usage error; 3 with --check: a red flag is
up.";

/// Rows of each view in the text, unless `--rows` says otherwise.
const ROWS: usize = 50;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Inspect {
    /// The URL of the page, unix:PATH, the ID of a process, or the file of a recording
    #[arg(value_name = "URL|PID|FILE", value_parser = target)]
    target: Target,
    #[command(flatten)]
    output: OutputChoice,
    /// Print at most this many rows of each view
    #[arg(long, value_name = "N", default_value_t = ROWS)]
    rows: usize,
}

/// The options that choose the output.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct OutputChoice {
    /// Print the state as JSON, as the inspector sends it
    #[arg(long)]
    json: bool,
    /// Save the last events of all loops, and the state, to this file: a recording
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print a recording in Chrome's trace format, which https://ui.perfetto.dev opens
    #[arg(long)]
    trace: bool,
    /// Print the events of a recording as JSON lines, each in words and in fields
    #[arg(long)]
    jsonl: bool,
    /// Write the chunks of a recording as packets to this file, in the format pcapng, for Wireshark. The
    /// program needs --inspect-contents
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Serve the page with a recording on a free port of 127.0.0.1, and print its URL
    #[arg(long)]
    open: bool,
    /// Print only the red flags, and exit with 3 if there are any
    #[arg(long)]
    check: bool,
    /// Print the state once as text, even on a terminal
    #[arg(long)]
    once: bool,
}

/// The output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted<'a> {
    /// A view that changes, on a terminal; else text.
    View,
    Text,
    Json,
    Check,
    Trace,
    Lines,
    /// A page with a recording.
    Page,
    /// A recording, in this file.
    Record(&'a Path),
    /// Packets, in this file.
    Packets(&'a Path),
}

impl OutputChoice {
    fn wanted(&self) -> Wanted<'_> {
        match self {
            OutputChoice { json: true, .. } => Wanted::Json,
            OutputChoice { check: true, .. } => Wanted::Check,
            OutputChoice { trace: true, .. } => Wanted::Trace,
            OutputChoice { jsonl: true, .. } => Wanted::Lines,
            OutputChoice { open: true, .. } => Wanted::Page,
            OutputChoice { record: Some(file), .. } => Wanted::Record(file),
            OutputChoice { pcap: Some(file), .. } => Wanted::Packets(file),
            OutputChoice { once: true, .. } => Wanted::Text,
            OutputChoice { record: None, .. } => Wanted::View,
        }
    }
}

/// The argument of the command.
#[derive(Clone, Debug)]
enum Target {
    Program(Source),
    /// The ID of a process.
    Process(u32),
    /// A recording.
    File(PathBuf),
}

fn target(text: &str) -> Result<Target, String> {
    if text.ends_with(".rec") || text.starts_with(['/', '.']) {
        return Ok(Target::File(text.into()));
    }
    match text.parse() {
        Ok(pid) => Ok(Target::Process(pid)),
        Err(_) => Source::parse(text).map(Target::Program),
    }
}

pub(crate) fn run(options: &Inspect) -> Result<(), Exit> {
    let wanted = options.output.wanted();
    match &options.target {
        Target::File(path) => show_recording(path, wanted, options.rows),
        Target::Program(source) => show_program(source, wanted, options.rows),
        Target::Process(pid) => show_process(*pid, wanted, options.rows),
    }
}

/// Shows the inspector of a process, its status, or a snapshot.
#[cfg(target_os = "linux")]
fn show_process(pid: u32, wanted: Wanted<'_>, rows: usize) -> Result<(), Exit> {
    let offer = process::find(pid)?;
    if let Offer::Inspector(source) = &offer {
        return show_program(source, wanted, rows);
    }
    let text = match (offer, wanted) {
        (Offer::Control(path), Wanted::Json) => carry_out(&path, "status json".to_owned())?,
        (Offer::Control(path), Wanted::View | Wanted::Text) => {
            let note = "it has no inspector: --inspect, or LoopOptions::inspect, gives it one";
            output::print_to_stderr(&format!("process {pid}: {note}"));
            carry_out(&path, "status".to_owned())?
        }
        (Offer::Snapshot(process), Wanted::View | Wanted::Text) => process.snapshot()?.into_bytes(),
        _ => {
            let text = "it has no inspector, which this option needs";
            return Err(Exit::failed(format!("cannot inspect process {pid}: {text}")));
        }
    };
    output::print(&text)
}

#[cfg(not(target_os = "linux"))]
fn show_process(pid: u32, _: Wanted<'_>, _: usize) -> Result<(), Exit> {
    let text = "this system does not show its sockets: give the URL of its inspector";
    Err(Exit::failed(format!("cannot inspect process {pid}: {text}")))
}

/// Shows the state of a program that runs.
fn show_program(source: &Source, wanted: Wanted<'_>, rows: usize) -> Result<(), Exit> {
    match wanted {
        Wanted::Record(file) => save(&source.ask("recording")?, file),
        Wanted::Trace | Wanted::Lines => print_events(&parse(&source.ask("recording")?)?, wanted),
        Wanted::Packets(file) => save_packets(&parse(&source.ask("recording")?)?, file),
        Wanted::Page => Err(Exit::bad_usage("--open needs the file of a recording")),
        #[cfg(feature = "screen")]
        Wanted::View if screen::is_possible() => screen::run(source),
        Wanted::View | Wanted::Text | Wanted::Json | Wanted::Check => {
            #[cfg(not(feature = "screen"))]
            if wanted == Wanted::View && io::stdout().is_terminal() {
                let note = "once only: this program was built without its feature screen";
                output::print_to_stderr(note);
            }
            let json = String::from_utf8(source.ask("state.json")?).map_err(Exit::failed)?;
            show_state(&json, wanted, rows)
        }
    }
}

/// Shows a recording.
fn show_recording(path: &Path, wanted: Wanted<'_>, rows: usize) -> Result<(), Exit> {
    if let Wanted::Record(_) = wanted {
        let path = path.display();
        return Err(Exit::bad_usage(format!(
            "cannot record {path}: it is a recording already; --record needs a program that runs"
        )));
    }
    if wanted == Wanted::Page {
        return opening::open(read(path)?);
    }
    let recording = parse(&read(path)?)?;
    match wanted {
        Wanted::Trace | Wanted::Lines => print_events(&recording, wanted),
        Wanted::Packets(file) => save_packets(&recording, file),
        Wanted::Json => output::print(recording.state().as_bytes()),
        _ => {
            output::print(about(&recording).as_bytes())?;
            show_state(&recording.state(), wanted, rows)
        }
    }
}

/// Prints a state: all of it, or its flags.
fn show_state(json: &str, wanted: Wanted<'_>, rows: usize) -> Result<(), Exit> {
    if wanted == Wanted::Json {
        return output::print(json.as_bytes());
    }
    let state: Value = serde_json::from_str(json).map_err(|error| {
        Exit::failed(format!("the answer is no state of an inspector: {error}"))
    })?;
    if wanted == Wanted::Check {
        output::print(text::flags(&state).as_bytes())?;
        let flags = state["flags"].as_array().map_or(0, Vec::len);
        return if flags == 0 { Ok(()) } else { Err(Exit::found()) };
    }
    output::print(text::state(&state, rows).as_bytes())
}

/// Saves a recording, with the permissions of the caller.
pub(crate) fn save(bytes: &[u8], file: &Path) -> Result<(), Exit> {
    let recording = parse(bytes)?;
    let to = file.display();
    std::fs::write(file, bytes)
        .map_err(|error| Exit::failed(format!("cannot write {to}: {}", output::plain(&error))))?;
    output::print_to_stderr(&format!("{to}: {}", about(&recording).trim_end()));
    Ok(())
}

/// Saves the chunks of a recording as packets.
fn save_packets(recording: &Recording, file: &Path) -> Result<(), Exit> {
    let to = file.display();
    if !recording.has_contents() {
        return Err(Exit::failed(format!(
            "cannot write {to}: the recording has no contents: start the program with \
             --inspect-contents BYTES, or with Inspector::contents"
        )));
    }
    let written = File::create(file).and_then(|file| {
        let mut out = BufWriter::new(file);
        recording.write_pcap(&mut out)?;
        out.flush()
    });
    written.map_err(|error| Exit::failed(format!("cannot write {to}: {}", output::plain(&error))))
}

/// The bytes of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Exit> {
    let from = path.display();
    std::fs::read(path)
        .map_err(|error| Exit::failed(format!("cannot read {from}: {}", output::plain(&error))))
}

fn parse(bytes: &[u8]) -> Result<Recording, Exit> {
    Recording::parse(bytes).map_err(Exit::failed)
}

/// The size of a recording, as a line.
fn about(recording: &Recording) -> String {
    format!("a recording of {} events in {:.3} s\n", recording.events(), recording.seconds())
}

/// Prints the events of a recording, as lines or as a trace.
fn print_events(recording: &Recording, wanted: Wanted<'_>) -> Result<(), Exit> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match wanted {
        Wanted::Lines => recording.write_lines(&mut out),
        _ => recording.write_trace(&mut out),
    };
    let written = written.and_then(|()| out.flush());
    written.map_err(|error| output::cannot_print(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_inspector_or_a_recording() {
        assert!(matches!(target("http://127.0.0.1:8099/?token=abc"), Ok(Target::Program(_))));
        assert!(matches!(target("8099"), Ok(Target::Process(8099))));
        assert!(matches!(target("localhost:8099"), Ok(Target::Program(_))));
        for file in ["slow.rec", "./slow", "/tmp/slow"] {
            assert!(matches!(target(file), Ok(Target::File(_))), "{file}");
        }
        for wrong in ["", "https://127.0.0.1:1/"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
