//! The drain of a server: over TLS, idle connections end immediately in either version, silent ones
//! within a second, and new clients have the time of the drain.

use std::convert::Infallible;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::websocket::{self, WebSocketOptions};
use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::reactor::Drain;
use couplet::services::{Child, Service, StreamServerService, Supervisor};
use couplet::{Reactor, Result, Stream};
use tower::service_fn;

use crate::http2::{self, Frame, PING};
use crate::kit::{HANDSHAKE, any, get, run};
use crate::needed::{Folder, SelfSigned};
use crate::websocket::kit::echo;

const SECOND: Duration = Duration::from_secs(1);

/// The server's port, and the certificate that its clients trust.
struct To {
    port: u16,
    ca: String,
}

impl To {
    async fn connect(&self, reactor: &Reactor, alpn: &str) -> Result<Stream> {
        let To { port, ca } = self;
        let to = format!("tls:127.0.0.1:{port}:ca={ca}:servername=localhost:alpn={alpn}");
        reactor.connect_stream(to).await
    }
}

/// Runs a program with a server over TLS that answers with "hello".
fn beside_tls(program: impl AsyncFnOnce(Reactor, To) -> Result<()> + 'static) {
    let folder = Folder::new();
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    let hello = async |_: Request<Body>| Ok::<_, Infallible>(Response::new("hello".to_owned()));
    run(async move |reactor| {
        let at = format!("tls:0:interface=127.0.0.1:cert={file}");
        let port = reactor.serve_http_with(&*at, any(service_fn(hello)), HttpOptions::default())?;
        let port = port.host().port().expect("a TCP port");
        program(reactor, To { port, ca: file }).await
    });
}

/// Sends a request, and reads the beginning of the answer.
async fn ask(stream: &mut Stream, alpn: &str) -> Result<()> {
    match alpn {
        "h2" => stream.write_all([http2::hello(), http2::get(1, "/")].concat()).await?,
        _ => stream.write_all(get("/")).await?,
    }
    let (mut got, mut buffer) = (Vec::<u8>::new(), [0; 4096]);
    while !got.windows(5).any(|word| word == b"hello") {
        let n = stream.read(&mut buffer).await?;
        assert!(n > 0, "it ends early");
        got.extend(&buffer[..n]);
    }
    Ok(())
}

/// Reads to a clean end. A client of HTTP/2 answers the ping that confirms the first GOAWAY.
async fn end_of(mut stream: Stream) -> Result<()> {
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(stream.close().await?);
        }
        got.extend(&buffer[..n]);
        let is_ping = |frame: &Frame| frame.kind == PING && frame.flags == 0;
        if let Some(ping) = http2::frames(&got).into_iter().find(is_ping) {
            stream.write_all(http2::frame(PING, 1, 0, &ping.payload)).await?;
            got.clear();
        }
    }
}

#[test]
fn c105b_idle_connections_over_tls_end_at_once() {
    for alpn in ["http/1.1", "h2"] {
        beside_tls(async move |reactor, to| {
            let mut parked = to.connect(&reactor, alpn).await?;
            ask(&mut parked, alpn).await?;
            // Long enough to free the buffers of a request.
            reactor.sleep(10 * SECOND).await?;
            let mut served = to.connect(&reactor, alpn).await?;
            ask(&mut served, alpn).await?;
            reactor.sleep(SECOND).await?;
            let ends = [parked, served].map(|stream| reactor.spawn(end_of(stream)));
            let begun = reactor.now();
            let drained = reactor.drain(100 * SECOND).await?;
            assert_eq!((drained.finished, drained.closed + drained.aborted), (2, 0), "{alpn}");
            assert_eq!(reactor.now(), begun, "{alpn}");
            for end in ends {
                end.await?;
            }
            Ok(())
        });
    }
}

#[test]
fn c105b_silent_clients_over_tls_hold_a_drain_for_its_patience() {
    let drain = Drain::within(100 * SECOND);
    for (alpn, drain, held) in
        [("http/1.1", drain, 1), ("h2", drain, 1), ("h2", drain.patience(3 * SECOND), 3)]
    {
        beside_tls(async move |reactor, to| {
            // This client reads nothing, and answers neither the end of the stream nor a GOAWAY.
            let mut idle = to.connect(&reactor, alpn).await?;
            ask(&mut idle, alpn).await?;
            reactor.sleep(SECOND).await?;
            let begins = reactor.now();
            let drained = reactor.drain(drain).await?;
            assert_eq!(reactor.now() - begins, held * SECOND, "{alpn}");
            assert_eq!((drained.finished, drained.closed, drained.aborted), (1, 0, 0), "{alpn}");
            drop(idle);
            Ok(())
        });
    }
}

/// Answers with "hello", or with a WebSocket.
async fn hello_or_socket(mut request: Request<Body>) -> Result<Response<String>, Infallible> {
    if !request.headers().contains_key("upgrade") {
        return Ok(Response::new("hello".to_owned()));
    }
    Ok(websocket::upgrade(&mut request, WebSocketOptions::default(), echo))
}

/// The answer to a client that sends `before` 1 s before a drain, and `after` in it, `pause` later.
fn drained(
    folder: &Folder,
    (is_tls, alpn): (bool, &'static str),
    (before, pause, after): (Vec<u8>, Duration, Vec<u8>),
) -> (Vec<u8>, Duration) {
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    run(async move |reactor| {
        let at = "0:interface=127.0.0.1";
        let at = if is_tls { format!("tls:{at}:cert={file}") } else { format!("tcp:{at}") };
        let server = reactor.serve_http(&*at, any(service_fn(hello_or_socket)))?;
        let port = server.host().port().expect("a TCP port");
        let mut stream = match is_tls {
            true => To { port, ca: file }.connect(&reactor, alpn).await?,
            false => reactor.connect_stream(format!("tcp:127.0.0.1:{port}")).await?,
        };
        stream.write_all(before).await?;
        reactor.sleep(SECOND).await?;
        let begun = reactor.now();
        let draining = reactor.drain(100 * SECOND);
        if pause > Duration::ZERO {
            reactor.sleep(pause).await?;
        }
        stream.write_all(after).await?;
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while let n @ 1.. = stream.read(&mut buffer).await? {
            got.extend(&buffer[..n]);
        }
        stream.close().await?;
        let drained = draining.await?;
        assert_eq!((drained.finished, drained.closed + drained.aborted), (1, 0));
        Ok((got, reactor.now() - begun))
    })
}

#[test]
fn c105f_the_first_request_of_a_new_client_is_answered_in_a_drain() {
    let folder = Folder::new();
    let get = get("/").into_bytes();
    let h2 = [http2::hello(), http2::get(1, "/")].concat();
    let preface = http2::hello().len();
    let socket = HANDSHAKE.as_bytes();
    let cases: [(&str, &'static str, &[u8], &str); 3] = [
        ("HTTP/1.1", "http/1.1", &get, "hello"),
        ("HTTP/2", "h2", &h2, "hello"),
        ("WebSocket", "http/1.1", socket, "HTTP/1.1 101"),
    ];
    for (name, alpn, request, wanted) in cases {
        for is_tls in [false, true] {
            for cut in [0, 1, 10, preface, request.len() - 1] {
                for pause in [Duration::ZERO, SECOND / 10, 20 * SECOND] {
                    let (before, after) = request.split_at(cut);
                    let sent = (before.to_vec(), pause, after.to_vec());
                    let (got, took) = drained(&folder, (is_tls, alpn), sent);
                    let text = String::from_utf8_lossy(&got);
                    let what = format!("{name}, TLS: {is_tls}, {cut}, {pause:?}: {text}");
                    assert!(text.contains(wanted), "{what}");
                    assert!(took <= pause + 12 * SECOND, "{what}: {took:?}");
                    let is_going_away = got.ends_with(b"\x88\x0c\x03\xe9going away");
                    assert_eq!(is_going_away, name == "WebSocket", "{what}");
                }
            }
        }
    }
}

#[test]
fn c105f_a_part_of_a_later_request_is_no_idle_connection() {
    let folder = Folder::new();
    let (first, next) = (get("/a"), get("/b"));
    for is_tls in [false, true] {
        for cut in [0, 1, 10, next.len() - 1] {
            // Together with the first request, or after it.
            for pause in [Duration::ZERO, SECOND] {
                if cut == 0 && pause > Duration::ZERO {
                    continue;
                }
                let before = format!("{first}{}", &next[..cut]).into_bytes();
                let sent = (before, pause, next.as_bytes()[cut..].to_vec());
                let (got, _) = drained(&folder, (is_tls, "http/1.1"), sent);
                let text = String::from_utf8_lossy(&got).to_lowercase();
                assert_eq!(text.matches("hello").count(), 2, "{cut}, {pause:?}: {text}");
                let says_close = usize::from(pause > Duration::ZERO);
                assert_eq!(text.matches("connection: close").count(), says_close, "{text}");
            }
        }
    }
}

#[test]
fn c105f_a_new_client_that_stays_silent_is_closed_at_the_end_of_a_drain() {
    for alpn in ["http/1.1", "h2"] {
        beside_tls(async move |reactor, to| {
            let silent = to.connect(&reactor, alpn).await?;
            let begun = reactor.now();
            let drained = reactor.drain(5 * SECOND).await?;
            assert_eq!((drained.finished, drained.closed + drained.aborted), (0, 1), "{alpn}");
            assert!((5 * SECOND..6 * SECOND).contains(&(reactor.now() - begun)), "{alpn}");
            drop(silent);
            Ok(())
        });
    }
}

#[test]
fn c139k_a_service_over_http_ends_its_connections_when_it_stops_and_starts_again() {
    let (tell, heard) = std::sync::mpsc::channel();
    run(async move |reactor| {
        let hello = async |_: Request<Body>| Ok::<_, Infallible>(Response::new("hello".to_owned()));
        let web =
            move |reactor: &Reactor| reactor.serve_http("localhost:0", any(service_fn(hello)));
        let web = StreamServerService::opening("web", web)
            .on_listening(move |port| tell.send(port.host().to_string()).expect("a test"));
        let mut supervisor = Supervisor::new("program");
        supervisor.add(Child::new(web)).await?;
        for _ in 0..2 {
            supervisor.start(&reactor).await?;
            let server = heard.recv().expect("a port");
            let mut stream = reactor.connect_stream(&*server).await?;
            ask(&mut stream, "http/1.1").await?;
            supervisor.stop().await?;
            assert_eq!(stream.read(&mut [0; 64]).await?, 0);
        }
        Ok(())
    });
}
