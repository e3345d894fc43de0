//! HTTP servers keep little memory for an idle connection, and nothing for a closed one. A separate
//! binary, because it installs a counting allocator.

#[macro_use]
extern crate couplet_testkit;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use couplet::http::{Body, HttpExt, HttpOptions, Request, Response};
use couplet::testing::{Manner, Memory, Network, Wire};
use couplet::{Address, Bytes, Loop, LoopOptions, Reactor};
use couplet_testkit::counting;
use http_body_util::{BodyExt, Full};
use hyper::rt::{Read, ReadBuf, Write};
use tower::{Service, service_fn};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";

const CONNECTIONS: usize = 500;
/// Connections open at the same time.
const WAVE: usize = 100;

async fn answer(request: Request<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
    let whole = request.into_body().collect().await.map(|body| body.to_bytes());
    Ok(Response::new(Full::from(whole.unwrap_or_default())))
}

/// Heap bytes per connection of a server 20 s after the last request, including the network's part.
/// Each request gets an answer.
fn kept(l: &mut Loop, network: &Network, to: &Address, requests: &[&[u8]]) -> isize {
    let before = counting::live();
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let client = network.connect(to.clone()).expect("it listens");
        l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        for request in requests {
            client.push(request);
            l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
            assert!(!client.take().is_empty(), "no answer to {}", request.escape_ascii());
        }
        clients.push(client);
    }
    let waiting = l.reactor().sleep(Duration::from_secs(20));
    l.run_until(waiting).expect("the time passes");
    let kept = counting::live() - before;
    clients.iter().for_each(Wire::close);
    l.run_until(l.reactor().sleep(Duration::from_secs(1))).expect("the time passes");
    kept / CONNECTIONS as isize
}

/// Heap bytes of an idle connection after each of these sequences of requests.
fn idle<S>(service: S, options: HttpOptions, sequences: &[&[&[u8]]]) -> Vec<isize>
where
    S: Service<Request<Body>, Response = Response<Full<Bytes>>, Error = Infallible>,
    S: Clone + 'static,
{
    let (driver, network) = Memory::new(Manner::Readiness, 5);
    let mut l = Loop::with_driver(driver, LoopOptions::default());
    let reactor = l.reactor();
    let at = format!("tcp:0:interface=127.0.0.1:backlog={CONNECTIONS}");
    let http = reactor.serve_http_with(&*at, service, options).expect("a free port").host();
    let nobody = network.listen(SocketAddr::from(([127, 0, 0, 1], 1)), CONNECTIONS as u32);
    let nobody = nobody.expect("a free port");
    let link = kept(&mut l, &network, &nobody, &[]);
    let mut measure = |requests: &&[&[u8]]| {
        // The network's part: it keeps the buffer of the longest request, too.
        let buffer = requests.iter().map(|request| request.len()).max().unwrap_or_default();
        let kept = kept(&mut l, &network, &http, requests) - link - buffer as isize;
        println!("{kept} bytes after {}", requests.concat().escape_ascii());
        kept
    };
    // The first round grows tables, whose memory later rounds reuse.
    for requests in sequences {
        measure(requests);
    }
    sequences.iter().map(measure).collect()
}

#[test]
#[ignore = "measures; run it alone"]
fn an_idle_connection_of_http1_costs_at_most_1536_bytes() {
    let sequences: [&[&[u8]]; 3] = [&[], &[GET.as_bytes()], &[POST.as_bytes()]];
    let kept = idle(service_fn(answer), HttpOptions::default(), &sequences);
    assert!(kept.iter().all(|&bytes| bytes <= 1536), "{kept:?}");
}

#[test]
#[ignore = "measures; run it alone"]
fn a_connection_keeps_its_buffers_for_as_long_as_the_server_asks() {
    let options = HttpOptions::default().free_idle_after(Duration::from_secs(30));
    let kept = idle(service_fn(answer), options, &[&[GET.as_bytes()]]);
    assert!(kept.iter().all(|&bytes| bytes > 2000), "{kept:?}");
}

#[cfg(feature = "websocket")]
#[test]
#[ignore = "measures; run it alone"]
fn an_idle_websocket_costs_at_most_1960_bytes() {
    use couplet::http::websocket::{WebSocket, WebSocketOptions, upgrade};

    async fn echo(mut socket: WebSocket) -> couplet::Result<()> {
        while let Some(message) = socket.recv().await {
            socket.send(message?).await?;
        }
        Ok(())
    }
    async fn echoing(mut request: Request<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(upgrade(&mut request, WebSocketOptions::default(), echo))
    }
    const HELLO: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";
    const MESSAGE: &[u8] = b"\x82\x85\0\0\0\0hello";
    let sequences: [&[&[u8]]; 2] = [&[HELLO], &[HELLO, MESSAGE]];
    let kept = idle(service_fn(echoing), HttpOptions::default(), &sequences);
    assert!(kept.iter().all(|&bytes| bytes <= 1960), "{kept:?}");
}

/// A service that also upgrades: it then echoes one piece, and ends.
async fn upgrading(
    reactor: Reactor,
    mut request: Request<Body>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !request.headers().contains_key("upgrade") {
        return answer(request).await;
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let echoing = reactor.spawn(async move {
        let mut upgraded = upgrading.await?;
        let mut piece = [0; 16];
        let mut buffer = ReadBuf::new(&mut piece);
        poll_fn(|cx| Pin::new(&mut upgraded).poll_read(cx, buffer.unfilled())).await?;
        poll_fn(|cx| Pin::new(&mut upgraded).poll_write(cx, buffer.filled())).await?;
        Ok(())
    });
    echoing.detach();
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert("upgrade", hyper::header::HeaderValue::from_static("echo"));
    Ok(answer)
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
const BROKEN: &str = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabc";

/// Opens a wave of connections, sends `times` requests on each, and checks that each is answered.
fn wave(l: &mut Loop, network: &Network, to: &Address, request: &str, times: usize) {
    let clients: Vec<Wire> =
        (0..WAVE).map(|_| network.connect(to.clone()).expect("it listens")).collect();
    for _ in 0..times {
        clients.iter().for_each(|client| assert_ne!(client.push(request.as_bytes()), 0));
        for _ in 0..4 {
            l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        }
        for client in &clients {
            let answer = client.take();
            assert!(answer.starts_with(b"HTTP/1.1 "), "{}", answer.escape_ascii());
            if request == UPGRADE {
                assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", answer.escape_ascii());
                client.push(b"ping");
            }
        }
    }
    l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
    if request == UPGRADE {
        assert!(clients.iter().all(|client| client.take() == b"ping" && client.saw_fin()));
    }
    clients.iter().for_each(Wire::close);
    for _ in 0..4 {
        l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn requests_upgrades_and_broken_ones_leave_nothing() {
    let (driver, network) = Memory::new(Manner::Readiness, 5);
    let mut l = Loop::with_driver(driver, LoopOptions::default());
    let reactor = l.reactor();
    let at = format!("tcp:0:interface=127.0.0.1:backlog={WAVE}");
    let serving = reactor.clone();
    let service = service_fn(move |request| upgrading(serving.clone(), request));
    let http = reactor.serve_http(&*at, service).expect("a free port").host();
    for (request, times, waves) in [(GET, 100, 10), (UPGRADE, 1, 100), (BROKEN, 1, 100)] {
        let mut before = None;
        for n in 0..waves {
            wave(&mut l, &network, &http, request, times);
            let snapshot = l.snapshot();
            let left = (snapshot.tasks, snapshot.connections.len(), snapshot.pending_calls);
            drop(snapshot);
            let left = (counting::live(), left, network.slots_in_use());
            // By then, memory kept for later connections is allocated.
            if n == 2 {
                before = Some(left);
            }
            assert!(n < 3 || before == Some(left), "{request:?}, {n}: {before:?}, then {left:?}");
        }
    }
}
