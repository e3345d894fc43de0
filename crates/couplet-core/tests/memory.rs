//! The memory used by idle connections, and its release afterwards. A separate binary, because it
//! installs a counting allocator.

#[macro_use]
extern crate couplet_testkit;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{Loop, ProducerKind, Protocol, Reason, Transport};
use couplet_testkit::apart::Running;
use couplet_testkit::{apart, counting};
use couplet_testkit_loops::turn_while;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

type Client = std::net::TcpStream;

/// Upper bound of the buffer that was drained last, whose size depends on the reader's speed.
const LAST: usize = 512 * 1024;
/// Upper bound of the drained buffers that a loop keeps: 4 MiB, and the last one.
const SPARES: usize = 4 * 1024 * 1024 + LAST;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const MESSAGE: usize = 256 * KIB;

fn live_since(before: isize) -> usize {
    usize::try_from(counting::live() - before).unwrap_or(0)
}

const CONNECTIONS: usize = 10_000;

/// The second process: it holds the peers, so that each side has its own descriptor limit.
fn hold_peers(mut peer: impl FnMut() -> Client) {
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| peer()).collect();
    apart::ready();
    drop(clients);
}

fn message() -> Vec<u8> {
    (0..MESSAGE).map(|at| (at % 251) as u8).collect()
}

/// Connections open at the server.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A realistic echo server for the open internet, idle timeout included.
struct Echo {
    echoed: usize,
}

impl Protocol for Echo {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(180)));
        OPEN.fetch_add(1, Ordering::AcqRel);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.echoed += data.len();
        transport.write(data);
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        assert_eq!(self.echoed, MESSAGE);
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Connects, with a read timeout so that a missing answer fails instead of hanging.
fn connect(server: SocketAddr) -> Client {
    let client = Client::connect(server).expect("the server listens");
    client.set_read_timeout(Some(Duration::from_secs(300))).expect("a nonzero timeout");
    client
}

/// Connects, and reads the greeting.
fn greeted(server: SocketAddr) -> Client {
    let mut client = connect(server);
    let mut greeting = [0; GREETING.len()];
    client.read_exact(&mut greeting).expect("the server greets");
    assert_eq!(greeting, GREETING);
    client
}

/// Connects, sends a message and checks its echo.
fn echoed(server: SocketAddr, message: &[u8], answer: &mut [u8]) -> Client {
    let mut client = connect(server);
    client.write_all(message).expect("the server reads");
    client.read_exact(answer).expect("the server answers");
    assert!(answer == message, "the echo differs");
    client
}

/// Greets its peer, which connects no faster than the server accepts, and then does nothing.
struct Empty;

const GREETING: &[u8] = b"hello";

impl Protocol for Empty {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(GREETING);
        OPEN.fetch_add(1, Ordering::AcqRel);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

fn turn_until_open(l: &mut Loop, connections: usize) {
    while OPEN.load(Ordering::Acquire) != connections {
        l.turn(None).expect("the driver waits");
    }
}

/// Checks that each of many connections costs at most `most` bytes once `peer` has worked on it, and
/// that they free their memory when they end.
fn idle<P: Protocol>(
    test: &str,
    most: usize,
    factory: fn() -> P,
    mut peer: impl FnMut(SocketAddr) -> Client + Send,
) {
    apart::raise_descriptor_limit();
    if let Some(server) = apart::told() {
        let server = server.parse().expect("an address");
        return hold_peers(|| peer(server));
    }
    let _alone = apart::one_at_a_time();
    let mut l = Loop::new().expect("a loop");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = l.reactor().listen(any, factory).expect("a free port");
    let server = port.host().socket_addr().expect("a TCP port");

    // The first connection finds no spare buffer in the loop, and leaves one behind.
    let first = turn_while(&mut l, || peer(server));
    drop(first);
    turn_until_open(&mut l, 0);
    let before = counting::live();

    let clients = turn_while(&mut l, || Running::peers(test, server));
    turn_until_open(&mut l, CONNECTIONS);
    let grown = live_since(before);
    println!("{} bytes for each of {CONNECTIONS} idle connections", grown / CONNECTIONS);
    assert!(grown <= most * CONNECTIONS, "{grown} bytes for {CONNECTIONS} idle connections");

    turn_while(&mut l, || clients.end());
    turn_until_open(&mut l, 0);
    // The loop keeps drained buffers for the next writer, up to a bound, and almost nothing of its
    // tables.
    let left = live_since(before);
    println!("{left} bytes in total after all disconnected");
    let most = SPARES + 64 * CONNECTIONS;
    assert!(left <= most, "{left} bytes are left of {CONNECTIONS} connections, more than {most}");
}

#[test]
#[ignore = "measures; run it alone"]
fn an_idle_connection_of_an_empty_protocol_costs_at_most_500_bytes() {
    let test = "an_idle_connection_of_an_empty_protocol_costs_at_most_500_bytes";
    idle(test, 500, || Empty, greeted);
}

#[test]
#[ignore = "measures; run it alone"]
fn an_idle_connection_of_an_echo_costs_at_most_600_bytes() {
    let test = "an_idle_connection_of_an_echo_costs_at_most_600_bytes";
    let (message, mut answer) = (message(), vec![0; MESSAGE]);
    let factory = || Echo { echoed: 0 };
    idle(test, 600, factory, move |server| echoed(server, &message, &mut answer));
}

/// Writes far more than the peer reads.
struct Flood {
    transport: Rc<RefCell<Option<Transport>>>,
}

const FLOOD: usize = 100 * MIB;

impl Protocol for Flood {
    fn connection_made(&mut self, transport: &Transport) {
        let piece = vec![7; 64 * KIB];
        for _ in 0..FLOOD / piece.len() {
            transport.write(&piece);
        }
        *self.transport.borrow_mut() = Some(transport.clone());
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[test]
#[ignore = "measures; run it alone"]
fn an_outbox_of_100_megabytes_shrinks_after_it_is_sent() {
    let mut l = Loop::new().expect("a loop");
    let made = Rc::new(RefCell::new(None));
    let transport = made.clone();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let factory = move || Flood { transport: transport.clone() };
    let port = l.reactor().listen(any, factory).expect("a free port");
    let server = port.host().socket_addr().expect("a TCP port");
    let before = counting::live();

    let mut client = turn_while(&mut l, || connect(server));
    let transport = loop {
        if let Some(transport) = made.take() {
            break transport;
        }
        l.turn(None).expect("the driver waits");
    };
    let full = live_since(before);
    assert!(full > FLOOD / 2, "{full} bytes while {} are buffered", transport.buffered());

    turn_while(&mut l, || {
        let mut piece = vec![0; MIB];
        for _ in 0..FLOOD / piece.len() {
            client.read_exact(&mut piece).expect("the server sends");
        }
    });
    assert_eq!(transport.buffered(), 0);
    // The remainder is the loop's spare buffers for the next writer: at most 4 MiB, and the last
    // one.
    let left = live_since(before);
    println!("{left} bytes of {full} after all is sent");
    assert!(left <= 5 * MIB, "{left} bytes of {full} after all is sent");
}

/// An echo with backpressure: it reads no faster than its output drains.
struct PacedEcho;

impl Protocol for PacedEcho {
    fn connection_made(&mut self, transport: &Transport) {
        let producer = transport.clone();
        transport.register_producer(producer, ProducerKind::Push).expect("it has none");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Connects, and sends without reading until no socket accepts further bytes.
fn never_reading(l: &mut Loop, at: SocketAddr, count: usize) -> Vec<Client> {
    let mut peers: Vec<Client> = Vec::new();
    for _ in 0..count {
        peers.push(connect(at));
        l.turn(Some(Duration::from_millis(1))).expect("a turn");
    }
    let piece = message();
    let mut idle = 0;
    while idle < 50 {
        idle += 1;
        for mut peer in &peers {
            peer.set_nonblocking(true).expect("a socket");
            while let Ok(n) = peer.write(&piece) {
                idle = if n > 0 { 0 } else { idle };
            }
        }
        l.turn(Some(Duration::from_millis(1))).expect("a turn");
    }
    peers
}

#[test]
#[ignore = "measures; run it alone"]
fn a_peer_that_never_reads_costs_at_most_96_kib() {
    const PEERS: usize = 64;
    let mut l = Loop::new().expect("a loop");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let port = l.reactor().listen(any, || PacedEcho).expect("a free port");
    let couplet::Address::Tcp(at) = port.host() else { panic!("a TCP port") };
    let before = counting::live();
    let peers = never_reading(&mut l, at, PEERS);
    let snapshot = l.snapshot();
    assert_eq!(snapshot.connections.len(), peers.len());
    assert!(snapshot.connections.iter().all(|c| c.buffered > 0), "{snapshot}");
    let grown = live_since(before);
    assert!(grown <= SPARES + PEERS * 96 * KIB, "{grown} bytes for {PEERS}: {snapshot}");
}
