//! Load, measured in counts, bytes and order: many connections, concurrent and successive, slow
//! readers, and a firehose. A separate binary, because it installs a counting
//! allocator and starts itself again as the peers, so that each side has its own descriptor limit.

#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::MutexGuard;
use std::time::Duration;

use couplet::{
    Datagram, DatagramTransport, IntoFactory, ListenOptions, Loop, Producer, ProducerKind,
    Protocol, Reason, Transport,
};
use couplet_testkit::apart::{Running, descriptors};
use couplet_testkit::{apart, counting};
use couplet_testkit_loops::doubles::{on_data, on_made};
use couplet_testkit_loops::turn_while;
use socket2::SockRef;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

type Client = std::net::TcpStream;
type Datagrams = std::net::UdpSocket;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Begins a test, which has the process to itself while it holds the guard. Also returns the
/// server's address, in the second process.
fn begin() -> (MutexGuard<'static, ()>, Option<SocketAddr>) {
    let alone = apart::one_at_a_time();
    apart::raise_descriptor_limit();
    (alone, apart::told().map(|server| server.parse().expect("an address")))
}

#[derive(Default)]
struct Counts {
    open: Cell<usize>,
    made: Cell<usize>,
    most: Cell<usize>,
    bytes: Cell<usize>,
    /// The number in the last datagram.
    last: Cell<usize>,
}

struct Echo(Rc<Counts>);

impl Protocol for Echo {
    fn connection_made(&mut self, _: &Transport) {
        let counts = &*self.0;
        counts.made.set(counts.made.get() + 1);
        counts.open.set(counts.open.get() + 1);
        counts.most.set(counts.most.get().max(counts.open.get()));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.bytes.set(self.0.bytes.get() + data.len());
        transport.write(data);
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Creates a loop that serves; returns it with its address, and its statistics.
fn serving<P: Protocol>(protocol: fn(Rc<Counts>) -> P) -> (Loop, SocketAddr, Rc<Counts>) {
    let counts = Rc::new(Counts::default());
    let served = counts.clone();
    let options = ListenOptions::default().backlog(1024);
    let (l, server) = serving_with(options, move || protocol(served.clone()));
    (l, server, counts)
}

fn serving_with<F: IntoFactory<M>, M>(options: ListenOptions, factory: F) -> (Loop, SocketAddr) {
    let mut l = Loop::new().expect("a loop");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = l.reactor().listen((any, options), factory).expect("a free port");
    let server = port.host().socket_addr().expect("a TCP port");
    l.turn(Some(Duration::ZERO)).expect("a turn");
    (l, server)
}

fn turn_until(l: &mut Loop, done: impl Fn() -> bool) {
    while !done() {
        l.turn(Some(Duration::from_millis(10))).expect("the driver waits");
    }
}

// Peers in the second process.

/// A client's action once its answer is complete.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Stay,
    Close,
    Reset,
    CloseUnread,
}

/// Clients that come in waves: each sends its number and expects it back. Then waits for the end of
/// stdin.
fn crowd(server: SocketAddr, total: usize, at_once: usize, then: fn(usize) -> Then) -> ! {
    let mut kept = Vec::new();
    for first in (0..total).step_by(at_once) {
        let ask = |number| {
            let mut client = Client::connect(server).expect("the server listens");
            write!(client, "{number:032}").expect("it reads");
            if then(number) == Then::CloseUnread {
                client.shutdown(Shutdown::Write).expect("it is connected");
            }
            (number, client)
        };
        let wave: Vec<_> = (first..total.min(first + at_once)).map(ask).collect();
        for (number, mut client) in wave {
            let mut answer = String::new();
            (&client).take(32).read_to_string(&mut answer).expect("it answers");
            assert_eq!(answer, format!("{number:032}"), "another's answer");
            match then(number) {
                Then::Stay => kept.push(client),
                Then::Close => {}
                Then::Reset => {
                    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("open")
                }
                Then::CloseUnread => assert_eq!(client.read(&mut [0]).expect("a clean end"), 0),
            }
        }
    }
    apart::ready();
    std::process::exit(0); // the connections of the remaining clients end without an event
}

#[test]
#[ignore = "measures; run it alone"]
fn nineteen_thousand_connections_at_once_each_get_their_own_answer() {
    const TOTAL: usize = 19_000;
    let (_alone, server) = begin();
    if let Some(server) = server {
        crowd(server, TOTAL, 500, |_| Then::Stay);
    }
    let (mut l, server, counts) = serving(Echo);
    let before = descriptors();
    let test = "nineteen_thousand_connections_at_once_each_get_their_own_answer";
    let peers = turn_while(&mut l, || Running::peers(test, server));
    assert_eq!((counts.made.get(), counts.open.get()), (TOTAL, TOTAL));
    assert_eq!((counts.most.get(), counts.bytes.get()), (TOTAL, TOTAL * 32));
    assert_eq!(l.snapshot().connections.len(), TOTAL);
    // One more client is served like the first.
    let one_more = turn_while(&mut l, || {
        let mut client = Client::connect(server).expect("the server listens");
        client.write_all(b"and one").expect("it reads");
        let mut answer = [0; 7];
        client.read_exact(&mut answer).expect("it answers");
        answer
    });
    assert_eq!(&one_more, b"and one");
    // All of them end at the same time.
    turn_while(&mut l, || peers.end());
    turn_until(&mut l, || counts.open.get() == 0);
    assert_eq!(counts.made.get(), TOTAL + 1);
    assert!(descriptors() <= before, "{} descriptors, and {before} before", descriptors());
}

#[test]
#[ignore = "measures; run it alone"]
fn a_storm_of_connections_that_come_and_go_leaves_nothing_behind() {
    const TOTAL: usize = 12_000;
    let (_alone, server) = begin();
    if let Some(server) = server {
        let then = |number| [Then::Close, Then::Reset, Then::CloseUnread][number % 3];
        crowd(server, TOTAL, 200, then);
    }
    let (mut l, server, counts) = serving(Echo);
    let before = (descriptors(), counting::live());
    let test = "a_storm_of_connections_that_come_and_go_leaves_nothing_behind";
    let peers = turn_while(&mut l, || Running::peers(test, server));
    turn_until(&mut l, || counts.made.get() == TOTAL && counts.open.get() == 0);
    // Clients that closed without waiting for the answer had sent their requests.
    assert_eq!(counts.bytes.get(), TOTAL * 32);
    assert!(counts.most.get() <= 400, "{} were open at once", counts.most.get());
    peers.end();
    assert_eq!((l.snapshot().connections.len(), descriptors()), (0, before.0));
    let grown = counting::live() - before.1;
    assert!(grown < MIB as isize, "{grown} bytes are left of {TOTAL} connections");
}

/// Sends a pattern as fast as its reader takes it.
struct Poem {
    transport: Transport,
    at: usize,
}

const POEM: usize = 256 * KIB;
const PIECE: usize = 8 * KIB;

fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

impl Producer for Poem {
    fn resume_producing(&mut self) {
        let piece: Vec<u8> = (self.at..self.at + PIECE).map(pattern).collect();
        self.at += PIECE;
        self.transport.write(&piece);
        if self.at == POEM {
            self.transport.unregister_producer();
            self.transport.lose_connection();
        }
    }
}

fn recite(transport: &Transport) {
    let poem = Poem { transport: transport.clone(), at: 0 };
    transport.register_producer(poem, ProducerKind::Pull).expect("it has none");
}

/// The second process: readers that take little at a time, once all are connected.
fn read_slowly(server: SocketAddr, readers: usize) {
    let mut clients: Vec<Client> =
        (0..readers).map(|_| Client::connect(server).expect("the server listens")).collect();
    apart::ready();
    let mut piece = vec![0; 4 * KIB];
    let mut at = 0;
    while at < POEM {
        for client in &mut clients {
            client.read_exact(&mut piece).expect("the server goes on");
            let wrong = piece.iter().enumerate().find(|(n, byte)| **byte != pattern(at + n));
            assert_eq!(wrong, None, "at {at}");
        }
        at += piece.len();
    }
    for client in &mut clients {
        assert_eq!(client.read(&mut piece).expect("a clean end"), 0);
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn a_thousand_slow_readers_cost_bounded_memory_and_miss_nothing() {
    const READERS: usize = 1000;
    let (_alone, server) = begin();
    if let Some(server) = server {
        return read_slowly(server, READERS);
    }
    // The sockets hold little, so most bytes stay with the loop.
    let options = ListenOptions::default().backlog(1024);
    let options = options.prepare(|socket| socket.set_send_buffer_size(16 * KIB));
    let (mut l, server) = serving_with(options, || on_made(recite));
    let before = counting::live();
    let test = "a_thousand_slow_readers_cost_bounded_memory_and_miss_nothing";
    let peers = turn_while(&mut l, || Running::peers(test, server));
    while l.snapshot().connections.len() < READERS {
        l.turn(Some(Duration::from_millis(10))).expect("the driver waits");
    }
    // No peer reads yet, so each connection stalls.
    while l.snapshot().connections.iter().any(|connection| connection.buffered == 0) {
        l.turn(Some(Duration::from_millis(10))).expect("the driver waits");
    }
    counting::reset_peak();
    turn_while(&mut l, || peers.end());
    while !l.snapshot().connections.is_empty() {
        l.turn(Some(Duration::from_millis(10))).expect("the driver waits");
    }
    // The unsent part of a piece and the connection itself; then the loop's spare buffers.
    let most = READERS * (2 * PIECE + 2 * KIB) + 5 * MIB;
    let peak = usize::try_from(counting::peak() - before).unwrap_or(0);
    assert!(peak <= most, "{peak} bytes at the most, more than {most}");
}

/// Echoes greetings, and discards the bytes of a firehose.
fn fair(counts: Rc<Counts>) -> impl Protocol {
    on_data(move |transport, data| match data {
        b"hello" => transport.write(data),
        water => counts.bytes.set(counts.bytes.get() + water.len()),
    })
}

/// All clients ask concurrently and get their answers within few turns, under any other load of the
/// loop; `each_turn` is called after each turn.
fn all_are_answered(l: &mut Loop, clients: &[Client], mut each_turn: impl FnMut()) {
    for mut client in clients {
        client.write_all(b"hello").expect("the server reads");
        client.set_nonblocking(true).expect("a socket");
    }
    let mut waiting: Vec<&Client> = clients.iter().collect();
    // A single turn suffices if the system delivers immediately.
    for _ in 0..10_000 {
        l.turn(Some(Duration::ZERO)).expect("a turn");
        each_turn();
        waiting.retain(|client| {
            let mut client = *client;
            client.read(&mut [0; 5]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        });
        if waiting.is_empty() {
            break;
        }
    }
    assert_eq!(waiting.len(), 0, "starved");
    for client in clients {
        client.set_nonblocking(false).expect("a socket");
    }
}

/// Shut down on drop, which ends its writer.
struct Hose(Client);

impl Drop for Hose {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn a_firehose_does_not_starve_five_hundred_others() {
    const OTHERS: usize = 500;
    let _alone = begin();
    let (mut l, server, counts) = serving(fair);
    let (clients, mut hose) = turn_while(&mut l, || {
        let connect = || Client::connect(server).expect("the server listens");
        ((0..OTHERS).map(|_| connect()).collect::<Vec<_>>(), connect())
    });
    let closing = Hose(hose.try_clone().expect("a descriptor is free"));
    std::thread::scope(|scope| {
        let _closing = closing;
        let water = vec![7; 256 * KIB];
        scope.spawn(move || while hose.write_all(&water).is_ok() {});
        for _ in 0..50 {
            let mut before = counts.bytes.get();
            all_are_answered(&mut l, &clients, || {
                let water = counts.bytes.get() - before;
                assert!(water <= MIB, "{water} bytes in one turn");
                before += water;
            });
        }
        // The firehose is not starved either.
        turn_until(&mut l, || counts.bytes.get() >= 64 * MIB);
    });
}

#[test]
#[ignore = "measures; run it alone"]
fn a_flood_of_a_million_datagrams_starves_no_connection() {
    const FLOOD: u64 = 1_000_000;
    let _alone = begin();
    let flood = Rc::new(Counts::default());
    let (mut l, server, _) = serving(fair);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let counts = flood.clone();
    let flooded = move |_: &DatagramTransport, datagram: &Datagram<'_>| {
        let number = u64::from_le_bytes(datagram.data.try_into().expect("eight bytes")) as usize;
        assert!(number >= counts.last.replace(number), "out of order");
        counts.made.set(counts.made.get() + 1);
    };
    let port = l.reactor().listen_datagrams(any, flooded).expect("a free port");
    let to = port.host().socket_addr().expect("a UDP port");
    let clients = turn_while(&mut l, || {
        (0..100).map(|_| Client::connect(server).expect("it listens")).collect::<Vec<_>>()
    });
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let socket = Datagrams::bind(any).expect("a free port");
            socket.connect(to).expect("an address");
            (0..FLOOD).filter(|n| socket.send(&n.to_le_bytes()).is_ok()).count()
        });
        let mut rounds = 0;
        while !sending.is_finished() {
            let mut before = flood.made.get();
            all_are_answered(&mut l, &clients, || {
                let came = flood.made.get() - before;
                assert!(came <= 64, "{came} datagrams in one turn");
                before += came;
            });
            rounds += 1;
        }
        assert_eq!(sending.join().expect("it sends"), FLOOD as usize);
        assert!(rounds > 10 && flood.made.get() > 64, "{rounds} rounds, {}", flood.made.get());
    });
}
