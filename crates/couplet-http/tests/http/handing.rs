//! Connections of HTTP/1.1 that move to another process: here to another loop.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::defer::DeferredEvent;
use couplet::http::websocket::{self, WebSocketOptions};
use couplet::http::{Allowance, Body, Continued, HttpExt, HttpOptions, Request, Response};
use couplet::reactor::HandedOver;
use couplet::{Address, HandOver, Loop};
use couplet_testkit::PATIENCE;
use http_body_util::BodyExt;
use tower::service_fn;

use crate::http2;
use crate::kit::{HANDSHAKE, any, get};
use crate::websocket::kit::echo;

const AT: &str = "tcp:0:interface=127.0.0.1";

/// The next request of a client, which says that it is the last.
const LAST: &str = "POST /last HTTP/1.1\r\nHost: couplet.test\r\nConnection: close\r\n\
    Content-Length: 3\r\n\r\nend";

/// A loop with a server, whose answers have its name and the path; `/slow` waits for the event.
struct Side {
    l: Loop,
    port: u16,
    goes_on: Rc<DeferredEvent>,
}

impl Side {
    fn new(name: &'static str, options: HttpOptions) -> Side {
        let l = Loop::new().expect("a loop");
        let goes_on = Rc::<DeferredEvent>::default();
        let event = goes_on.clone();
        let service = service_fn(move |mut request: Request<Body>| {
            let event = event.clone();
            async move {
                if request.uri().path() == "/echo" {
                    let options = WebSocketOptions::default();
                    return Ok(websocket::upgrade(&mut request, options, echo));
                }
                let path = request.uri().path().to_owned();
                let allowance = request.extensions().get::<Allowance>().cloned();
                let body = request.into_body().collect().await;
                if path == "/slow" {
                    // Bytes that are held for the client.
                    allowance.expect("the option is set").reserve(1000);
                    let _ = event.wait().await;
                }
                let long = if path == "/slow" { 300_000 } else { 0 };
                let body =
                    body.map_or_else(|error| error.to_string().into(), |body| body.to_bytes());
                let (body, long) = (String::from_utf8_lossy(&body), "x".repeat(long));
                Ok::<_, Infallible>(Response::new(format!("{name} {path} {body}{long}.")))
            }
        });
        let port = l.reactor().serve_http_with(AT, any(service), options);
        let port = port.expect("a free port").host().port().expect("a TCP port");
        Side { l, port, goes_on }
    }

    /// Two loops, whose servers have the same name.
    fn pair() -> [Side; 2] {
        Side::pair_with(HttpOptions::default())
    }

    fn pair_with(options: HttpOptions) -> [Side; 2] {
        let options = options.allowance(true).hand_over_as("site");
        ["old", "new"].map(|name| Side::new(name, options.clone()))
    }

    fn connect(&mut self) -> TcpStream {
        let client = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        client.set_nonblocking(true).expect("an option");
        let before = self.l.snapshot().connections.len();
        self.until("a connection", |side| side.l.snapshot().connections.len() > before);
        // The connection's task begins in the next turn.
        self.turn();
        client
    }

    fn now(&self) -> Instant {
        self.l.reactor().now()
    }

    fn turn(&mut self) {
        self.l.turn(Some(Duration::from_millis(1))).expect("a turn");
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Side) -> bool) {
        let begun = self.now();
        while !done(self) {
            assert!(self.now() - begun < PATIENCE, "no {what}");
            self.turn();
        }
    }

    fn pass(&mut self, time: Duration) {
        let begun = self.now();
        self.until("end of a wait", |side| side.now() - begun >= time);
    }

    /// Sends bytes, until the server has received them.
    fn send(&mut self, client: &mut TcpStream, bytes: &[u8]) {
        let before = self.received();
        client.write_all(bytes).expect("room");
        self.until("bytes", |side| side.received() == before + bytes.len() as u64);
    }

    fn received(&mut self) -> u64 {
        self.l.snapshot().connections.last().expect("a connection").bytes_in
    }

    /// Reads to the end of the connection, or of the first answer.
    fn read(&mut self, client: &mut TcpStream, to_the_end: bool) -> String {
        let mut got = Vec::new();
        self.until("answer", |_| {
            let mut bytes = [0; 65536];
            match client.read(&mut bytes) {
                Ok(0) => {
                    assert!(to_the_end, "it ends early");
                    return true;
                }
                Ok(count) => got.extend_from_slice(&bytes[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            !to_the_end && got.ends_with(b".")
        });
        String::from_utf8_lossy(&got).into_owned()
    }

    fn ask(&mut self, client: &mut TcpStream, path: &str) {
        client.write_all(get(path).as_bytes()).expect("room");
        let answer = self.read(client, false);
        assert!(answer.contains(path) && !answer.contains("close"), "{answer}");
    }

    /// Tasks, timed calls and connections.
    fn load(&mut self) -> [usize; 3] {
        let shown = self.l.snapshot();
        [shown.tasks, shown.pending_calls, shown.connections.len()]
    }

    fn hand_over(&mut self) -> Option<HandedOver> {
        let id = self.l.snapshot().connections.last().expect("a connection").id;
        let handed = self.l.reactor().hand_over(id);
        self.l.run_until(handed).expect("an answer")
    }

    /// Moves the only connection to another loop.
    fn give_to(&mut self, other: &mut Side) {
        let handed = self.hand_over().expect("it may move");
        let (socket, record) = handed.into_parts().expect("a descriptor");
        let handed = HandedOver::from_parts(socket, &record).expect("a record");
        assert_eq!((handed.kind(), handed.state()), (Continued::KIND, &b"site"[..]));
        let protocol = Continued::new(handed.state()).expect("a name");
        let taken = other.l.reactor().take_over(handed, protocol).expect("a socket");
        other.l.run_until(taken).expect("a connection");
    }
}

#[test]
fn c51d_a_kept_connection_moves_before_and_between_requests() {
    let [mut old, mut new] = Side::pair();
    let empty = [old.load(), new.load()];
    // An unused connection, one with hyper's state, and one without.
    for (requests, wait) in [(0, 0), (1, 0), (3, 0), (1, 250), (0, 250)] {
        let mut client = old.connect();
        let host = client.local_addr().expect("an address");
        for _ in 0..requests {
            old.ask(&mut client, "/first");
        }
        old.pass(Duration::from_millis(wait));
        old.give_to(&mut new);
        old.turn();
        let [tasks, calls, connections] = old.load();
        assert_eq!([tasks, connections], [0, 0]);
        assert!(calls <= empty[0][1], "{calls} timed calls are left");
        assert_eq!(new.l.snapshot().connections[0].peer, Address::Tcp(host));
        for path in ["/second", "/third"] {
            client.write_all(get(path).as_bytes()).expect("room");
            let answer = new.read(&mut client, false);
            assert!(answer.ends_with(&format!("new {path} .")), "{answer}");
        }
        // The connection can move back.
        new.give_to(&mut old);
        client.write_all(LAST.as_bytes()).expect("room");
        let answer = old.read(&mut client, true);
        assert!(answer.ends_with("old /last end."), "{answer}");
        drop(client);
        old.until("the end", |side| side.load()[2] == 0);
    }
    old.pass(Duration::from_millis(100));
    new.pass(Duration::from_millis(100));
    assert_eq!([old.load(), new.load()], empty);
    assert_eq!(
        old.l.snapshot().counters.unhandled_failures + new.l.snapshot().counters.unhandled_failures,
        0
    );
}

#[test]
fn c51d_a_part_of_a_request_s_head_moves_with_the_connection() {
    let [mut old, mut new] = Side::pair();
    let first = get("/first");
    let head = LAST.len() - "Content-Length: 3\r\n\r\nend".len();
    let next = LAST.as_bytes();
    for cut in 0..head {
        // After the answer, in one piece with the request before, and unread in the socket.
        for way in 0..3 {
            let mut client = old.connect();
            let early = if way == 1 { &next[..cut] } else { b"" };
            old.send(&mut client, &[first.as_bytes(), early].concat());
            let answer = old.read(&mut client, false);
            assert!(answer.ends_with("old /first ."), "{answer}");
            match way {
                0 => old.send(&mut client, &next[..cut]),
                1 => {}
                _ => client.write_all(&next[..cut]).expect("room"),
            }
            old.give_to(&mut new);
            client.write_all(&next[cut..]).expect("room");
            let answer = new.read(&mut client, true);
            assert!(answer.ends_with("new /last end."), "{cut} {way}: {answer}");
        }
    }
    new.until("the ends", |side| side.load()[2] == 0);
    assert_eq!(old.load()[2], 0);
}

#[test]
fn c51d_a_connection_with_a_request_stays_and_says_that_it_closes() {
    let [mut old, _] = Side::pair();
    // Before its answer, and before the end of its body.
    for path in ["/slow", "/quick"] {
        let mut client = old.connect();
        let request = LAST.replace("/last", path).replace("Connection: close\r\n", "");
        let (start, rest) = request.split_at(request.len() - 1);
        old.send(&mut client, start.as_bytes());
        if path == "/slow" {
            old.send(&mut client, rest.as_bytes());
        }
        assert!(old.hand_over().is_none(), "{path}");
        if path == "/slow" {
            old.goes_on.set();
        } else {
            old.send(&mut client, rest.as_bytes());
        }
        let answer = old.read(&mut client, true);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("connection: close"), "{head}");
        let long = if path == "/slow" { 300_000 } else { 0 };
        assert!(body == format!("old {path} end{}.", "x".repeat(long)), "{} bytes", body.len());
        drop(client);
        old.until("the end", |side| side.load()[2] == 0);
    }
}

#[test]
fn c51d_other_connections_stay_as_they_are() {
    // A server without a name.
    let mut old = Side::new("old", HttpOptions::default());
    let mut client = old.connect();
    for _ in 0..2 {
        assert!(old.hand_over().is_none());
        old.ask(&mut client, "/first");
    }
    // A name that is too long.
    let name = "n".repeat(HandOver::MOST + 1);
    let mut old = Side::new("old", HttpOptions::default().hand_over_as(name));
    let mut client = old.connect();
    assert!(old.hand_over().is_none());
    old.ask(&mut client, "/first");
    // A WebSocket.
    let [mut old, _] = Side::pair();
    let mut client = old.connect();
    old.send(&mut client, HANDSHAKE.replacen('/', "/echo", 1).as_bytes());
    for _ in 0..2 {
        client.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'.']).expect("room");
        old.read(&mut client, false);
        assert!(old.hand_over().is_none());
    }
    // HTTP/2, and the first bytes of either version.
    let mut client = old.connect();
    old.send(&mut client, &http2::hello());
    assert!(old.hand_over().is_none());
    let mut client = old.connect();
    old.send(&mut client, b"P");
    assert!(old.hand_over().is_none());
    client.write_all(&LAST.as_bytes()[1..]).expect("room");
    assert!(old.read(&mut client, true).ends_with("old /last end."));
}

#[test]
fn c51d_a_connection_without_a_server_of_its_name_is_closed() {
    let [mut old, _] = Side::pair();
    let mut new = Side::new("new", HttpOptions::default().hand_over_as("other"));
    let mut client = old.connect();
    old.ask(&mut client, "/first");
    old.give_to(&mut new);
    assert_eq!(new.read(&mut client, true), "");
    // A name ends with its port.
    let options = HttpOptions::default().hand_over_as("site");
    let service =
        service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(String::new())));
    let port = new.l.reactor().serve_http_with(AT, any(service), options).expect("a port");
    new.turn();
    new.l.run_until(port.stop_listening().expect("it listens")).expect("it stops");
    drop(port);
    let mut client = old.connect();
    old.give_to(&mut new);
    assert_eq!(new.read(&mut client, true), "");
    assert!(Continued::new(&[0xff]).is_err());
}

#[test]
fn c51d_the_time_of_an_idle_connection_starts_again() {
    let time = Duration::from_millis(300);
    let [mut old, mut new] = Side::pair_with(HttpOptions::default().keep_alive(time));
    let mut client = old.connect();
    old.ask(&mut client, "/first");
    old.pass(time / 2);
    new.turn();
    let moved = new.now();
    old.give_to(&mut new);
    assert_eq!(new.read(&mut client, true), "");
    assert!(new.now() - moved >= time, "{:?}", new.now() - moved);
}

#[test]
fn c105f_a_connection_that_has_moved_is_not_new_to_a_drain() {
    let [mut old, mut new] = Side::pair_with(HttpOptions::default().keep_alive(2 * PATIENCE));
    let mut client = old.connect();
    old.ask(&mut client, "/first");
    old.give_to(&mut new);
    new.turn();
    let draining = new.l.reactor().drain(PATIENCE / 5);
    assert_eq!(new.read(&mut client, true), "", "it ends at once");
    drop(client);
    let drained = new.l.run_until(draining).expect("it drains");
    assert_eq!((drained.finished, drained.closed + drained.aborted), (1, 0));
}
