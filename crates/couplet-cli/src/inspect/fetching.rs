//! `couplet inspect`: fetches the state of a program from its inspector.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use couplet::endpoints::{ClientEndpoint, TcpClient, UnixClient};
use couplet::http::Uri;
use couplet::inspect::Recording;
use couplet::{Failure, LoopOptions, Reactor};
use serde_json::Value;

use super::{opening, text};
use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

const EXAMPLE: &str = "\
Example:
  couplet echo --inspect 8099 --listen 7000
  couplet inspect 'http://127.0.0.1:8099/?token=…'
  couplet inspect unix:/run/app/inspect.sock --json | jq '.flags'
  couplet inspect 'http://127.0.0.1:8099/?token=…' --record slow.rec
  couplet inspect slow.rec --trace > slow.json
  couplet inspect slow.rec --jsonl | jq 'select(.took > 0.01)'
  couplet inspect slow.rec --open

The URL is the one that the program prints or logs. Exit codes: 0 success; 1 the program does not
answer; 2 usage error; 3 with --check: a red flag is up.";

/// How long the inspector may take. It answers even if the program hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer, in bytes.
const MOST: usize = 256 * 1024 * 1024;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Inspect {
    /// The URL of the page, unix:PATH, or the file of a recording
    #[arg(value_name = "URL|FILE", value_parser = target)]
    target: Target,
    /// Print the state as JSON, as the inspector sends it
    #[arg(long)]
    json: bool,
    /// Save the last events of all loops, and the state, to this file: a recording
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "check"])]
    // Bound: an argument on the command line.
    record: Option<PathBuf>,
    /// Print a recording in Chrome's trace format, which https://ui.perfetto.dev opens
    #[arg(long, conflicts_with_all = ["json", "check", "record"])]
    trace: bool,
    /// Print the events of a recording as JSON lines, each in words and in fields
    #[arg(long, conflicts_with_all = ["json", "check", "record", "trace"])]
    jsonl: bool,
    /// Serve the page with a recording on a free port of 127.0.0.1, and print its URL
    #[arg(long, conflicts_with_all = ["json", "check", "record", "trace", "jsonl"])]
    open: bool,
    /// Print only the red flags, and exit with 3 if there are any
    #[arg(long, conflicts_with = "json")]
    check: bool,
    /// Print at most this many rows of each view
    #[arg(long, value_name = "N", default_value = "50")]
    rows: usize,
}

/// An inspector, or a recording.
#[derive(Clone, Debug)]
enum Target {
    Live(Live),
    // Bound: an argument on the command line.
    File(PathBuf),
}

#[derive(Clone, Debug)]
struct Live {
    endpoint: Arc<dyn ClientEndpoint>,
    host: String,
    /// The token, as a query.
    query: String,
}

fn target(text: &str) -> Result<Target, String> {
    if text.ends_with(".rec") || text.starts_with(['/', '.']) {
        return Ok(Target::File(text.into()));
    }
    live(text).map(Target::Live)
}

fn live(text: &str) -> Result<Live, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let endpoint = Arc::new(UnixClient::new(path));
        return Ok(Live { endpoint, host: "localhost".to_owned(), query: String::new() });
    }
    let wrong = || {
        "expected the URL of an inspector, unix:PATH, or the path of a recording (FILE.rec)"
            .to_owned()
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri = whole.parse::<Uri>().map_err(|_| wrong())?;
    let is_http = uri.scheme_str() == Some("http");
    let host = uri.host().filter(|host| is_http && !host.is_empty()).ok_or_else(wrong)?;
    let endpoint = TcpClient::new(host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    Ok(Live { endpoint: Arc::new(endpoint), host: host.to_owned(), query })
}

pub(crate) fn run(options: &Inspect) -> Result<(), Exit> {
    let (json, recording) = match &options.target {
        Target::File(path) if options.open => return opening::open(path),
        Target::Live(_) if options.open => {
            return Err(Exit::bad_usage("--open needs the file of a recording"));
        }
        Target::File(path) => {
            let recording = read(path)?;
            (recording.state(), Some(recording))
        }
        Target::Live(live) => match &options.record {
            Some(file) => return save(live, file),
            None if options.trace || options.jsonl => {
                (String::new(), Some(parse(&ask(live, "recording")?)?))
            }
            None => (text(ask(live, "state.json")?)?, None),
        },
    };
    match recording {
        Some(recording) if options.trace => {
            return print_long(|out| recording.write_trace(out));
        }
        Some(recording) if options.jsonl => {
            return print_long(|out| recording.write_lines(out));
        }
        Some(recording) => output::print(about(&recording).as_bytes())?,
        None => {}
    }
    if options.json {
        return output::print(json.as_bytes());
    }
    let state: Value = serde_json::from_str(&json).map_err(|error| {
        Exit::failed(format!("the answer is no state of an inspector: {error}"))
    })?;
    if options.check {
        output::print(text::flags(&state).as_bytes())?;
        let flags = state["flags"].as_array().map_or(0, Vec::len);
        return if flags == 0 { Ok(()) } else { Err(Exit::found()) };
    }
    output::print(text::state(&state, options.rows).as_bytes())
}

/// Saves a recording.
fn save(live: &Live, file: &Path) -> Result<(), Exit> {
    let bytes = ask(live, "recording")?;
    let recording = parse(&bytes)?;
    let to = file.display();
    std::fs::write(file, &bytes)
        .map_err(|error| Exit::failed(format!("cannot write {to}: {}", output::plain(&error))))?;
    output::print_to_stderr(&format!("{to}: {}", about(&recording).trim_end()));
    Ok(())
}

fn read(path: &Path) -> Result<Recording, Exit> {
    let from = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| Exit::failed(format!("cannot read {from}: {}", output::plain(&error))))?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Recording, Exit> {
    Recording::parse(bytes).map_err(Exit::failed)
}

/// The size of a recording, as a line.
pub(crate) fn about(recording: &Recording) -> String {
    format!("a recording of {} events in {:.3} s\n", recording.events(), recording.seconds())
}

/// Prints a long text piece by piece.
fn print_long(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Exit> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = write(&mut out).and_then(|()| out.flush());
    written.map_err(|error| output::cannot_print(&error))
}

fn text(bytes: Vec<u8>) -> Result<String, Exit> {
    String::from_utf8(bytes).map_err(Exit::failed)
}

/// Asks the inspector for a path.
fn ask(live: &Live, path: &'static str) -> Result<Vec<u8>, Exit> {
    let l = signalled_loop(LoopOptions::default(), output::print_to_stderr)?;
    let (reactor, live) = (l.reactor(), live.clone());
    let asking = reactor.clone().spawn(async move { fetch(&reactor, live, path).await });
    let asking = asking.add_timeout(&l.reactor(), PATIENCE);
    let ran = l.run_until(asking);
    match (ran, l.stopped_by()) {
        (_, Some(signal)) => Err(Exit::interrupted(signal)),
        (outcome, None) => outcome
            .map_err(|failure| Exit::failed(format!("the inspector does not answer: {failure}"))),
    }
}

/// Fetches a path. The server ends the connection after its answer, which HTTP/1.0 asks for.
async fn fetch(reactor: &Reactor, live: Live, path: &str) -> couplet::Result<Vec<u8>> {
    let Live { endpoint, host, query } = live;
    let mut stream = reactor.connect_stream(endpoint).await?;
    let request = format!("GET /{path}{query} HTTP/1.0\r\nhost: {host}\r\n\r\n");
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer, MOST).await?;
    let end = head_length(&answer);
    let body = answer.split_off(end);
    let head = String::from_utf8_lossy(&answer);
    let status = head.lines().next().unwrap_or("no answer");
    match status.split(' ').nth(1) {
        Some("200") => Ok(body),
        Some("403") => Err(Failure::msg(String::from_utf8_lossy(&body).trim().to_owned())),
        _ => Err(Failure::msg(format!("its answer begins with {status:?}"))),
    }
}

/// The length of the head of an answer, with the empty line after it.
fn head_length(answer: &[u8]) -> usize {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(answer.len(), |end| end + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_url_or_a_unix_socket() {
        let parts = |text| live(text).map(|it| (it.endpoint.to_string(), it.host, it.query));
        let url = parts("http://127.0.0.1:8099/?token=abc").expect("a URL");
        assert_eq!(url.0, "tcp:127.0.0.1:8099");
        assert_eq!((&*url.1, &*url.2), ("127.0.0.1", "?token=abc"));
        assert_eq!(parts("localhost:80").expect("a URL").2, "");
        assert_eq!(parts("http://[::1]:8099/?token=a").expect("IPv6").1, "[::1]");
        assert_eq!(parts("unix:/run/a.sock").expect("a path").0, "unix:/run/a.sock");
        for wrong in ["", "https://127.0.0.1:1/", "http://", "http://:80"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        for file in ["slow.rec", "./slow", "/tmp/slow"] {
            assert!(matches!(target(file), Ok(Target::File(_))), "{file}");
        }
    }
}
