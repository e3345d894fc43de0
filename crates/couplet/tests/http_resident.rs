//! The memory of idle connections as the system counts it: the resident pages of a server with thousands of
//! them, in a process of its own, after each has done some work.

#![cfg(target_os = "linux")]

mod apart;

use std::convert::Infallible;
use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use apart::{Running, raise_descriptor_limit, told};
use couplet::Loop;
use couplet::http::{Body, Request, Response};
use tower::service_fn;

#[expect(clippy::disallowed_types, reason = "a client that belongs to no loop")]
type Client = std::net::TcpStream;

const CONNECTIONS: usize = 2000;
/// They are parked after five seconds, and the heap is trimmed after five more.
const PATIENCE: Duration = Duration::from_secs(40);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[cfg(feature = "websocket")]
const HELLO: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

async fn answer(request: Request<Body>) -> Result<Response<String>, Infallible> {
    #[cfg(feature = "websocket")]
    let request = {
        use couplet::http::websocket::{WebSocket, WebSocketOptions, upgrade};
        let mut request = request;
        if request.headers().contains_key("upgrade") {
            return Ok(upgrade(&mut request, WebSocketOptions::default(), echo));
        }
        async fn echo(mut socket: WebSocket) -> couplet::Result<()> {
            while let Some(message) = socket.recv().await {
                socket.send(message?).await?;
            }
            Ok(())
        }
        request
    };
    Ok(Response::new(format!("hello, {}", request.uri().path())))
}

fn serve() {
    raise_descriptor_limit();
    let ran = couplet::run(|reactor| {
        let port = reactor.serve_http("tcp:0:interface=127.0.0.1", service_fn(answer))?;
        let number = port.host().port().expect("a TCP port");
        println!("serving {number} {}", std::process::id());
        Ok(())
    });
    ran.expect("it serves");
}

/// Resident bytes of a process.
fn resident(process: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has pages");
    let number = line.trim().split(' ').next().and_then(|number| number.parse::<usize>().ok());
    number.expect("a number of KiB") * 1024
}

/// Connects so many, each of which does its work.
fn connected(port: u16, count: usize, work: &dyn Fn(&mut Client)) -> Vec<Client> {
    let connect = |_| {
        let mut client = Client::connect(("127.0.0.1", port)).expect("it listens");
        work(&mut client);
        client
    };
    (0..count).map(connect).collect()
}

/// Bytes of a connection after its work and some rest: at most so many.
fn idle(test: &str, most: usize, work: impl Fn(&mut Client)) {
    if told().is_some() {
        return serve();
    }
    raise_descriptor_limit();
    let mut server = Running::start(test, "serve");
    let told = server.says("serving ");
    let (port, process) = told.split_once(' ').expect("two words");
    let port = port.parse().expect("a port");
    // The first ones let tables grow.
    drop(connected(port, 100, &work));
    let before = resident(process);
    let clients = connected(port, CONNECTIONS, &work);
    let mut waits = Loop::new().expect("a loop");
    let reactor = waits.reactor();
    let begun = reactor.now();
    let kept = loop {
        let kept = resident(process).saturating_sub(before) / CONNECTIONS;
        if kept <= most || reactor.now() - begun > PATIENCE {
            break kept;
        }
        waits.run_until(reactor.sleep(Duration::from_millis(200))).expect("the time passes");
    };
    println!("{kept} bytes");
    assert!(kept <= most, "{kept} bytes of a connection stay");
    drop(clients);
}

fn exchange(client: &mut Client, sent: &[u8], ends: &[u8]) {
    client.write_all(sent).expect("it reads");
    let (mut got, mut piece) = (Vec::new(), [0; 1024]);
    while !got.windows(ends.len()).any(|part| part == ends) {
        let n = client.read(&mut piece).expect("it answers");
        assert_ne!(n, 0, "{}", got.escape_ascii());
        got.extend(&piece[..n]);
    }
}

#[test]
fn c175b_an_idle_connection_of_http1_is_small() {
    idle("c175b_an_idle_connection_of_http1_is_small", 8 * 1024, |client| {
        exchange(client, GET, b"hello, /");
        exchange(client, GET, b"hello, /");
    });
}

#[cfg(feature = "websocket")]
#[test]
fn c175b_an_idle_websocket_is_small() {
    idle("c175b_an_idle_websocket_is_small", 10 * 1024, |client| {
        exchange(client, HELLO, b"\r\n\r\n");
        exchange(client, b"\x82\x85\0\0\0\0hello", b"hello");
    });
}
