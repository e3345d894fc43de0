//! `couplet get`: fetches a URL and prints the answer.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::{ArgAction, Args};
use couplet::http::{
    Body, BodyError, Client, ClientOptions, HeaderMap, Method, Request, Response, Uri, header,
    parse_url,
};
use couplet::layers::tls::{ClientTlsOptions, Roots};
use couplet::{Deferred, Failure, LoopOptions, Reactor};

use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;
use crate::values::{flag, seconds};

/// Bytes buffered while the output is slow.
const MAX_GATHERED: usize = 256 * 1024;

/// Turns of the loop without a piece after which the gathered pieces are written: of several pieces
/// that have arrived, hyper may deliver the next after two turns.
const MAX_QUIET_POLLS: u32 = 2;

/// Destination of the answer.
type Sink = Arc<Mutex<dyn Write + Send>>;

const EXAMPLE: &str = "\
Example:
  couplet get https://example.com/
  couplet get -o poem.txt http://localhost:8000/poem.txt

Redirections are followed. Exit codes: 0 success; 1 there is no answer, or its status is 400 or more
(then its body is printed nevertheless); 2 usage error; 130 or 143 interrupted.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct HttpGet {
    /// An http: or https: URL; http:// may be omitted
    #[arg(value_name = "URL", value_parser = url)]
    url: Uri,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also print the head of the response
    #[arg(short, long)]
    include: bool,
    /// Request only the head of the response
    #[arg(
        short = 'I',
        long = "head",
        action = ArgAction::SetTrue,
        value_parser = flag(Method::GET, Method::HEAD)
    )]
    method: Method,
    /// Request a compressed response (zstd, br, gzip or deflate) and decode it, to at most 256 MiB;
    /// a response that cannot be decoded is an error. Without this option the bytes are printed as
    /// the server sends them
    #[arg(long)]
    compressed: bool,
    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Connect through this proxy
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    proxy: Option<(String, u16)>,
    /// Give up if no response has begun after this many seconds [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,
}

/// Parses an absolute http: or https: URL.
fn url(text: &str) -> Result<Uri, String> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let expected = || "expected a URL, as in https://example.com/".to_owned();
    let url = parse_url(&whole).ok_or_else(expected)?;
    match url.scheme_str() {
        Some("http" | "https") if url.host().is_some_and(|host| !host.is_empty()) => Ok(url),
        Some("http" | "https") | None => Err(expected()),
        Some(scheme) => {
            Err(format!("{scheme}: is not supported: only http: and https: URLs can be fetched"))
        }
    }
}

/// Parses a host and a port, such as `proxy.test:3128`.
fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match split.filter(|(host, _)| !host.is_empty()) {
        Some((host, port)) => Ok((host.trim_matches(['[', ']']).to_owned(), port)),
        None => Err("expected a host and a port, as in proxy.test:3128".to_owned()),
    }
}

pub(crate) fn run(options: HttpGet) -> Result<(), Exit> {
    // A blocked write to stdout must not delay Ctrl-C.
    let l = signalled_loop(
        LoopOptions::default().tune(|it| it.job_grace(Duration::ZERO)),
        output::print_to_stderr,
    )?;
    let client = client_options(&options)?;
    let reactor = l.reactor();
    let fetching = reactor.clone().spawn(async move {
        let client = Client::with_options(&reactor, client);
        Ok::<_, Failure>(fetch(&reactor, &client, &options).await)
    });
    let ran = l.run_until(fetching);
    match (ran, l.stopped_by()) {
        (_, Some(signal)) => Err(Exit::interrupted(signal)),
        (Ok(fetched), None) => fetched,
        (Err(failure), None) => Err(failure.into()),
    }
}

fn client_options(options: &HttpGet) -> Result<ClientOptions, Exit> {
    let mut client = ClientOptions::default().proxy(options.proxy.clone());
    // By default the bytes are printed unchanged: an archive stays compressed.
    #[cfg(feature = "decompression")]
    {
        client = client.decompress(options.compressed);
    }
    #[cfg(not(feature = "decompression"))]
    if options.compressed {
        return Err(Exit::without_feature("--compressed", "decompression"));
    }
    if let Some(limit) = options.timeout {
        client = client.timeout(Some(limit));
    }
    if let Some(file) = &options.ca {
        let cannot = |error| Exit::failed(format!("cannot trust {}: {error}", file.display()));
        let roots = Roots::from_pem_file(file).map_err(cannot)?;
        client = client.tls(ClientTlsOptions::default().roots(roots));
    }
    Ok(client)
}

async fn fetch(reactor: &Reactor, client: &Client, options: &HttpGet) -> Result<(), Exit> {
    let is_head = options.method == Method::HEAD;
    let request = Request::builder().method(options.method.clone()).uri(options.url.clone());
    let agent = concat!("couplet/", env!("CARGO_PKG_VERSION"));
    let request = request.header("user-agent", agent).header("accept", "*/*").body(Bytes::new());
    let said = |error: &dyn std::fmt::Display| Exit::failed(format!("{}: {error}", options.url));
    let request = request.map_err(|error| said(&error))?;
    let answer = client.send(request).await.map_err(|error| said(&error))?;
    let packed = packed(answer.headers()).filter(|_| options.compressed && !is_head);
    if let Some(coding) = packed {
        let problem = format!(
            "the body is encoded as {coding}, which cannot be decoded (without --compressed it is \
             printed as the server sends it)"
        );
        return Err(said(&problem));
    }
    let mut output = ResponseOutput::new(reactor, options)?;
    let status = answer.status();
    if options.include || is_head {
        output.gathered.extend_from_slice(&head_of(&answer));
    }
    let mut body = answer.into_body();
    let end = poll_fn(|cx| output.poll_print(cx, &mut body)).await?;
    end.map_err(|error| said(&error))?;
    if status.is_client_error() || status.is_server_error() {
        return Err(said(&status));
    }
    Ok(())
}

/// The content coding that the client did not decode.
fn packed(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let all = values.join(", ");
    let is_coding = |name: &str| !name.is_empty() && !name.eq_ignore_ascii_case("identity");
    let is_packed = all.split(',').map(str::trim).any(is_coding);
    is_packed.then_some(all)
}

/// Writes in another thread, because the output may block. Pieces are gathered while a write is in
/// progress, and leave together.
struct ResponseOutput {
    reactor: Reactor,
    sink: Sink,
    name: String,
    gathered: BytesMut,
    /// Turns since the last piece.
    quiet: u32,
    writing: Option<Deferred<io::Result<()>>>,
    /// The outcome of the body.
    end: Option<Result<(), BodyError>>,
}

impl ResponseOutput {
    fn new(reactor: &Reactor, options: &HttpGet) -> Result<ResponseOutput, Exit> {
        let ((sink, name), gathered) = (sink(options)?, BytesMut::new());
        let reactor = reactor.clone();
        Ok(ResponseOutput { reactor, sink, name, gathered, quiet: 0, writing: None, end: None })
    }

    /// Prints a body; ready with the body's outcome once everything is written.
    fn poll_print(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body,
    ) -> Poll<Result<Result<(), BodyError>, Exit>> {
        while self.end.is_none() && self.gathered.len() < MAX_GATHERED {
            match pin!(body.next()).poll(cx) {
                Poll::Ready(Ok(Some(piece))) => {
                    self.gathered.extend_from_slice(&piece);
                    self.quiet = 0;
                }
                Poll::Ready(Ok(None)) => self.end = Some(Ok(())),
                Poll::Ready(Err(error)) => self.end = Some(Err(error)),
                Poll::Pending => break,
            }
        }
        loop {
            if let Some(writing) = &mut self.writing {
                let written = ready!(Pin::new(writing).poll(cx))?;
                written.map_err(|error| output::cannot_write(&self.name, &error))?;
                self.writing = None;
            }
            if self.gathered.is_empty() {
                return self.end.take().map_or(Poll::Pending, |end| Poll::Ready(Ok(end)));
            }
            if self.end.is_none()
                && self.gathered.len() < MAX_GATHERED
                && self.quiet < MAX_QUIET_POLLS
            {
                self.quiet += 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.write();
        }
    }

    /// Starts writing the gathered pieces.
    fn write(&mut self) {
        let (sink, pieces) = (self.sink.clone(), self.gathered.split().freeze());
        self.writing = Some(self.reactor.defer_to_thread(move || {
            let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(sink.write_all(&pieces).and_then(|()| sink.flush()))
        }));
    }
}

fn sink(options: &HttpGet) -> Result<(Sink, String), Exit> {
    let Some(path) = &options.output else {
        return Ok((Arc::new(Mutex::new(io::stdout())), "stdout".to_owned()));
    };
    let name = path.display().to_string();
    let file = File::create(path).map_err(|error| output::cannot_write(&name, &error))?;
    Ok((Arc::new(Mutex::new(file)), name))
}

/// The head of an answer in the form of HTTP/1.1.
fn head_of<B>(answer: &Response<B>) -> Vec<u8> {
    let mut head = format!("{:?} {}\r\n", answer.version(), answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_of_http_or_https_and_has_a_host() {
        for (typed, meant) in [
            ("localhost", "http://localhost/"),
            ("localhost:8000/a?b", "http://localhost:8000/a?b"),
            ("[::1]:80/a", "http://[::1]:80/a"),
            ("http://a/", "http://a/"),
            ("HTTPS://a", "https://a/"),
            ("a/ä b?ö#x", "http://a/%c3%a4%20b?%c3%b6"),
            ("bücher.test:8000/", "http://xn--bcher-kva.test:8000/"),
        ] {
            assert_eq!(url(typed).map(|url| url.to_string()), Ok(meant.to_owned()), "{typed}");
        }
        for bad in ["", "/a", "://a", "ftp://a/", "http://", "http://:80/", "a b"] {
            assert!(url(bad).is_err(), "{bad}");
        }
        for (bad, scheme) in [("ftp://a/", "ftp:"), ("ws://a", "ws:"), ("file://a/b", "file:")] {
            let error = url(bad).unwrap_err();
            assert!(error.starts_with(&format!("{scheme} is not supported")), "{error}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port() {
        for (typed, host, port) in
            [("proxy.test:3128", "proxy.test", 3128), ("[::1]:80", "::1", 80), ("a:0", "a", 0)]
        {
            assert_eq!(host_and_port(typed), Ok((host.to_owned(), port)));
        }
        for bad in ["", "a", ":80", "a:", "a:b", "a:65536"] {
            assert!(host_and_port(bad).unwrap_err().contains("a host and a port"), "{bad}");
        }
    }

    #[test]
    fn every_coding_but_identity_packs() {
        for (values, expected) in [
            (&[][..], None),
            (&["identity"], None),
            (&["Identity", ""], None),
            (&["gzip"], Some("gzip")),
            (&["identity, br"], Some("identity, br")),
            (&["identity", "gzip"], Some("identity, gzip")),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
            }
            assert_eq!(packed(&headers).as_deref(), expected, "{values:?}");
        }
    }
}
