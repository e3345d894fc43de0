//! A server in memory, and clients that write raw bytes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::{Body, BodyError, FileBody, HttpOptions, Request, Response};
use couplet::{Bytes, Deferred, Failure, Port, Reactor, Result, Stream};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceExt, service_fn};

pub(crate) const AT: &str = "tcp:8000:interface=127.0.0.1";
pub(crate) const TO: &str = "tcp:127.0.0.1:8000";

pub(crate) type Answer = Result<Response<Full<Bytes>>, Infallible>;

type AnyBody = Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = Failure>>>;
type Answering = Pin<Box<dyn Future<Output = Result<Response<AnyBody>>>>>;

/// A service of any type. The server is compiled anew for each type of service, which takes seconds.
#[derive(Clone)]
pub(crate) struct AnyService(Rc<dyn Fn(Request<Body>) -> Answering>);

impl Service<Request<Body>> for AnyService {
    type Response = Response<AnyBody>;
    type Error = Failure;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        (self.0)(request)
    }
}

pub(crate) fn any<S, B>(service: S) -> AnyService
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>> + Clone + 'static,
    B: hyper::body::Body<Data = Bytes, Error: Into<Failure>> + 'static,
{
    AnyService(Rc::new(move |request| {
        let service = service.clone();
        Box::pin(async move {
            let answer = service.oneshot(request).await.map_err(Into::into)?;
            Ok(answer.map(|body| Box::pin(body.map_err(Into::into)) as AnyBody))
        })
    }))
}

/// The bytes that a client received, and whether the server has closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_closed: bool,
}

impl Got {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The status of the first answer.
    pub(crate) fn status(&self) -> Option<u16> {
        let text = self.text();
        text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }
}

/// Answers each request with its method, path and body as text. `/slow` takes a second, `/panic`
/// panics, `/deaf` does not read the body.
async fn answer(reactor: Reactor, request: Request<Body>) -> Answer {
    let line = format!("{} {} ", request.method(), request.uri().path());
    match request.uri().path() {
        "/panic" => panic!("as it was asked to"),
        "/slow" => drop(reactor.sleep(Duration::from_secs(1)).await),
        "/deaf" => return Ok(Response::new(Full::from("not read"))),
        _ => {}
    }
    Ok(match request.into_body().collect().await {
        Ok(body) => Response::new(Full::from([line.as_bytes(), &body.to_bytes()].concat())),
        Err(error) => {
            let mut answer = Response::new(Full::from(error.to_string()));
            *answer.status_mut() = match error {
                BodyError::TimedOut => hyper::StatusCode::REQUEST_TIMEOUT,
                _ => hyper::StatusCode::BAD_REQUEST,
            };
            answer
        }
    })
}

/// Runs a program in memory and virtual time, to its success.
pub(crate) fn run<T: 'static>(program: impl AsyncFnOnce(Reactor) -> Result<T> + 'static) -> T {
    let ran = couplet::testing::run(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move { program(inner).await })
    });
    ran.expect("the program succeeds")
}

/// Runs a program over sockets, to its success.
pub(crate) fn run_live<T: 'static>(program: impl AsyncFnOnce(Reactor) -> Result<T> + 'static) -> T {
    let ran = couplet::run_until(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move {
            let ran = program(inner.clone()).await;
            inner.stop();
            ran
        })
    });
    ran.expect("the program succeeds")
}

/// Stops a port after a program, and returns the program's result.
pub(crate) async fn ended<T>(port: Port, result: T) -> Result<T> {
    port.stop_listening().unwrap_or_else(|| Deferred::succeed(())).await?;
    Ok(result)
}

/// A handle, and another one.
pub(crate) fn twice<T: Clone>(handle: T) -> (T, T) {
    (handle.clone(), handle)
}

/// A count from 0, with a second handle.
pub(crate) fn counter() -> (Rc<Cell<usize>>, Rc<Cell<usize>>) {
    twice(Rc::default())
}

/// The handshake of a WebSocket.
pub(crate) const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// Runs a program with a server.
pub(crate) fn beside<T: 'static>(
    options: HttpOptions,
    program: impl AsyncFnOnce(Reactor) -> Result<T> + 'static,
) -> T {
    beside_service(options, answer, program)
}

/// Runs a program with a server of this service.
pub(crate) fn beside_service<B, T: 'static>(
    options: HttpOptions,
    answer: impl AsyncFn(Reactor, Request<Body>) -> Result<Response<B>, Infallible> + Clone + 'static,
    program: impl AsyncFnOnce(Reactor) -> Result<T> + 'static,
) -> T
where
    B: hyper::body::Body<Data = Bytes> + 'static,
    B::Error: Into<Failure>,
{
    run(async move |reactor| {
        let port = reactor.serve_http_with(AT, any(service(&reactor, answer)), options)?;
        ended(port, program(reactor).await?).await
    })
}

/// [`beside_service`], with a server for this type of body, which sends files from the files.
pub(crate) fn beside_files<T: 'static>(
    options: HttpOptions,
    answer: impl AsyncFn(Reactor, Request<Body>) -> Result<Response<FileBody>, Infallible>
    + Clone
    + 'static,
    program: impl AsyncFnOnce(Reactor) -> Result<T> + 'static,
) -> T {
    run(async move |reactor| {
        let port = reactor.serve_http_with(AT, service(&reactor, answer), options)?;
        ended(port, program(reactor).await?).await
    })
}

fn service<B>(
    reactor: &Reactor,
    answer: impl AsyncFn(Reactor, Request<Body>) -> Result<Response<B>, Infallible> + Clone + 'static,
) -> impl Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + 'static {
    let reactor = reactor.clone();
    service_fn(move |request| {
        let (answer, reactor) = (answer.clone(), reactor.clone());
        async move { answer(reactor, request).await }
    })
}

/// Reads until the server closes, or sends nothing for `quiet`.
pub(crate) async fn heard(stream: &mut Stream, reactor: &Reactor, quiet: Duration) -> Result<Got> {
    let mut got = Got { bytes: Vec::new(), is_closed: false };
    let mut buffer = [0; 4096];
    while !got.is_closed {
        let reading = async { Ok(stream.read(&mut buffer).await) };
        match reactor.timeout(quiet, reading).await {
            Ok(Ok(0) | Err(_)) => got.is_closed = true,
            Ok(Ok(n)) => got.bytes.extend(&buffer[..n]),
            Err(_) => break,
        }
    }
    check_windows(&got.bytes, couplet_core::hooks::bytes_sent(stream.transport()));
    Ok(got)
}

/// Checks the answers of an HTTP/2 server from their first byte on: no window gets back more bytes
/// than the client sent, except the window of a stream that grows to `stream_window`.
#[track_caller]
fn check_windows(mut answers: &[u8], sent: u64) {
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    const MAX_STREAM: u64 = 256 * 1024;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let mut returned = BTreeMap::new();
    let mut frames = 0;
    while let Some((head, rest)) = answers.split_first_chunk::<9>() {
        let kind = head[3];
        if frames == 0 && kind != SETTINGS {
            return;
        }
        let Some((payload, rest)) = rest.split_at_checked(number(&head[..3]) as usize) else {
            break;
        };
        // The second frame may widen the connection's window.
        if kind == WINDOW_UPDATE && frames > 1 {
            *returned.entry(number(&head[5..])).or_insert(0) += number(payload);
        }
        frames = 2.min(frames + 1);
        answers = rest;
    }
    let most = |stream| if stream == 0 { sent } else { sent + MAX_STREAM };
    let is_right = returned.iter().all(|(stream, returned)| *returned <= most(*stream));
    assert!(is_right, "{returned:?} for {sent} bytes");
}

#[test]
#[should_panic(expected = "{0: 11} for 10 bytes")]
fn a_window_that_gets_back_more_than_was_sent_fails_its_test() {
    let update = |stream, by| [0, 0, 4, 8, 0, 0, 0, 0, stream, 0, 0, 0, by];
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    check_windows(&[&settings[..], &update(0, 100), &update(0, 5), &update(0, 6)].concat(), 10);
}

/// A client that has written these bytes.
pub(crate) async fn opened(reactor: &Reactor, bytes: impl AsRef<[u8]>) -> Result<Stream> {
    let mut stream = reactor.connect_stream(TO).await?;
    stream.write_all(bytes).await?;
    Ok(stream)
}

/// Writes these bytes, and returns the server's answer; gives up after ten quiet seconds.
pub(crate) async fn said(reactor: &Reactor, bytes: impl AsRef<[u8]>) -> Result<Got> {
    heard(&mut opened(reactor, bytes).await?, reactor, Duration::from_secs(10)).await
}

/// The bytes that the server's end buffers for this client, according to a snapshot.
pub(crate) async fn waiting(reactor: &Reactor, client: &Stream) -> Result<usize> {
    let here = client.host().to_string();
    let connections = reactor.snapshot().await?.connections;
    let server = connections.iter().find(|one| one.peer.to_string() == here);
    Ok(server.map_or(0, |one| one.buffered))
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: couplet.test\r\n\r\n")
}

/// Runs a program with a server that runs `server` on each connection.
pub(crate) fn scripted<T: 'static>(
    server: impl AsyncFn(Stream) -> Result<()> + 'static,
    program: impl AsyncFnOnce(Reactor) -> Result<T> + 'static,
) -> T {
    run(async move |reactor| {
        // On all addresses, because a redirection may lead to another one.
        let port = reactor.serve("tcp:8000", server)?;
        ended(port, program(reactor).await?).await
    })
}
