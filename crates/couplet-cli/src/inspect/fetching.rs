//! `couplet inspect`: fetches the state of a program from its inspector.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use couplet::endpoints::{ClientEndpoint, TcpClient, UnixClient};
use couplet::http::Uri;
use couplet::{Failure, LoopOptions, Reactor};
use serde_json::Value;

use super::text;
use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

const EXAMPLE: &str = "\
Example:
  couplet echo --inspect 8099 --listen 7000
  couplet inspect 'http://127.0.0.1:8099/?token=…'
  couplet inspect unix:/run/app/inspect.sock --json | jq '.flags'

The URL is the one that the program prints or logs. Exit codes: 0 success, 1 the program does not answer,
2 usage error, 3 with --check: a red flag is up.";

/// How long the inspector may take. It answers even if the program hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer, in bytes.
const MOST: usize = 256 * 1024 * 1024;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Inspect {
    /// The URL of the page, or unix:PATH
    #[arg(value_name = "URL", value_parser = target)]
    target: Target,
    /// Print the state as JSON, as the inspector sends it
    #[arg(long)]
    json: bool,
    /// Print only the red flags, and exit with 3 if there are any
    #[arg(long, conflicts_with = "json")]
    check: bool,
    /// Print at most this many rows of each view
    #[arg(long, value_name = "N", default_value = "50")]
    rows: usize,
}

/// An inspector.
#[derive(Clone, Debug)]
struct Target {
    endpoint: Arc<dyn ClientEndpoint>,
    host: String,
    /// The token, as a query.
    query: String,
}

fn target(text: &str) -> Result<Target, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let endpoint = Arc::new(UnixClient::new(path));
        return Ok(Target { endpoint, host: "localhost".to_owned(), query: String::new() });
    }
    let wrong = || "expected the URL of an inspector, or unix:PATH".to_owned();
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri = whole.parse::<Uri>().map_err(|_| wrong())?;
    let is_http = uri.scheme_str() == Some("http");
    let host = uri.host().filter(|host| is_http && !host.is_empty()).ok_or_else(wrong)?;
    let endpoint = TcpClient::new(host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    Ok(Target { endpoint: Arc::new(endpoint), host: host.to_owned(), query })
}

pub(crate) fn run(options: &Inspect) -> Result<(), Exit> {
    let l = signalled_loop(LoopOptions::default(), output::print_to_stderr)?;
    let reactor = l.reactor();
    let target = options.target.clone();
    let asking = reactor.clone().spawn(async move { fetch(&reactor, target).await });
    let asking = asking.add_timeout(&l.reactor(), PATIENCE);
    let ran = l.run_until(asking);
    let json = match (ran, l.stopped_by()) {
        (_, Some(signal)) => return Err(Exit::interrupted(signal)),
        (outcome, None) => outcome
            .map_err(|failure| Exit::failed(format!("the inspector does not answer: {failure}")))?,
    };
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

/// Fetches the state, as JSON. The server ends the connection after its answer, which HTTP/1.0 asks
/// for.
async fn fetch(reactor: &Reactor, target: Target) -> couplet::Result<String> {
    let Target { endpoint, host, query } = target;
    let mut stream = reactor.connect_stream(endpoint).await?;
    let request = format!("GET /state.json{query} HTTP/1.0\r\nhost: {host}\r\n\r\n");
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer, MOST).await?;
    let answer = String::from_utf8(answer).map_err(Failure::msg)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or("no answer");
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some("403") => Err(Failure::msg(body.trim().to_owned())),
        _ => Err(Failure::msg(format!("its answer begins with {status:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_url_or_a_unix_socket() {
        let parts = |text| target(text).map(|it| (it.endpoint.to_string(), it.host, it.query));
        let url = parts("http://127.0.0.1:8099/?token=abc").expect("a URL");
        assert_eq!(url.0, "tcp:127.0.0.1:8099");
        assert_eq!((&*url.1, &*url.2), ("127.0.0.1", "?token=abc"));
        assert_eq!(parts("localhost:80").expect("a URL").2, "");
        assert_eq!(parts("http://[::1]:8099/?token=a").expect("IPv6").1, "[::1]");
        assert_eq!(parts("unix:/run/a.sock").expect("a path").0, "unix:/run/a.sock");
        for wrong in ["", "https://127.0.0.1:1/", "http://", "http://:80"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
