//! An inspector that a program serves, and how to ask it.

use std::sync::Arc;
use std::time::Duration;

use couplet::endpoints::{ClientEndpoint, TcpClient, UnixClient};
use couplet::http::parse_url;
use couplet::{Failure, LoopOptions, Reactor, UnixAddress};

use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

/// How long the inspector may take; it answers even if the program hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer or message, in bytes.
pub(super) const MOST: usize = 256 * 1024 * 1024;

/// The inspector of a program that runs.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) endpoint: Arc<dyn ClientEndpoint>,
    pub(super) host: String,
    /// The token, as a query.
    pub(super) query: String,
}

impl Source {
    /// The inspector at a URL, or at `unix:PATH`.
    ///
    /// # Errors
    ///
    /// If the text is neither: the expected forms.
    pub(super) fn parse(text: &str) -> Result<Source, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Source::unix(path));
        }
        let wrong = || {
            "expected the URL of an inspector, unix:PATH, the ID of a process, or the path of a \
             recording (FILE.rec)"
                .to_owned()
        };
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri = parse_url(&whole).ok_or_else(wrong)?;
        let is_http = uri.scheme_str() == Some("http");
        let host = uri.host().filter(|host| is_http && !host.is_empty()).ok_or_else(wrong)?;
        let endpoint = TcpClient::new(host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        Ok(Source { endpoint: Arc::new(endpoint), host: host.to_owned(), query })
    }

    /// The inspector at a UNIX socket, which needs no token.
    pub(super) fn unix(path: impl Into<UnixAddress>) -> Source {
        let endpoint = Arc::new(UnixClient::new(path));
        Source { endpoint, host: "localhost".to_owned(), query: String::new() }
    }

    /// Asks the inspector for a path.
    ///
    /// # Errors
    ///
    /// If it does not answer within 10 s, or refuses; and if a signal comes.
    pub(super) fn ask(&self, path: &'static str) -> Result<Vec<u8>, Exit> {
        let source = self.clone();
        let answer = run_until(PATIENCE, async move |reactor| source.fetch(&reactor, path).await)?;
        answer.map_err(|failure| Exit::failed(format!("the inspector does not answer: {failure}")))
    }

    /// Fetches a path.
    pub(super) async fn fetch(self, reactor: &Reactor, path: &str) -> couplet::Result<Vec<u8>> {
        self.request(reactor, "GET", path, "").await
    }

    /// Carries out an action of the inspector.
    #[cfg(feature = "screen")]
    pub(super) async fn act(
        self,
        reactor: &Reactor,
        path: &str,
        text: &str,
    ) -> couplet::Result<()> {
        self.request(reactor, "POST", path, text).await.map(drop)
    }

    /// Sends a request; returns the body of its answer. The server ends the connection after it, which
    /// HTTP/1.0 asks for.
    async fn request(
        self,
        reactor: &Reactor,
        method: &str,
        path: &str,
        text: &str,
    ) -> couplet::Result<Vec<u8>> {
        let Source { endpoint, host, query } = self;
        let mut stream = reactor.connect_stream(endpoint).await?;
        let length = text.len();
        let head = format!("{method} /{path}{query} HTTP/1.0\r\nhost: {host}\r\n");
        stream.write_all(format!("{head}content-length: {length}\r\n\r\n{text}")).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer, MOST).await?;
        let end = head_length(&answer);
        let body = answer.split_off(end);
        let head = String::from_utf8_lossy(&answer);
        let status = head.lines().next().unwrap_or("no answer");
        match status.split(' ').nth(1) {
            Some("200") => Ok(body),
            // The body is a sentence of the inspector's.
            Some(code) if code == "403" || method == "POST" => {
                Err(Failure::msg(String::from_utf8_lossy(&body).trim().to_owned()))
            }
            _ => Err(Failure::msg(format!("its answer begins with {status:?}"))),
        }
    }
}

/// Runs a task in a new loop, for at most this time. The outer error is a signal.
pub(super) fn run_until<T: 'static>(
    most: Duration,
    task: impl AsyncFnOnce(Reactor) -> couplet::Result<T> + 'static,
) -> Result<couplet::Result<T>, Exit> {
    let l = signalled_loop(LoopOptions::default(), output::print_to_stderr)?;
    let reactor = l.reactor();
    let asking = l.reactor().spawn(async move { task(reactor).await });
    let asking = asking.add_timeout(&l.reactor(), most);
    let ran = l.run_until(asking);
    match l.stopped_by() {
        Some(signal) => Err(Exit::interrupted(signal)),
        None => Ok(ran),
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
    fn a_source_is_a_url_or_a_unix_socket() {
        let parts =
            |text| Source::parse(text).map(|it| (it.endpoint.to_string(), it.host, it.query));
        let url = parts("http://127.0.0.1:8099/?token=abc").expect("a URL");
        assert_eq!(url.0, "tcp:127.0.0.1:8099");
        assert_eq!((&*url.1, &*url.2), ("127.0.0.1", "?token=abc"));
        assert_eq!(parts("localhost:80").expect("a URL").2, "");
        assert_eq!(parts("http://[::1]:8099/?token=a").expect("IPv6").1, "[::1]");
        assert_eq!(parts("unix:/run/a.sock").expect("a path").0, "unix:/run/a.sock");
        for wrong in ["", "https://127.0.0.1:1/", "http://", "http://:80"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
