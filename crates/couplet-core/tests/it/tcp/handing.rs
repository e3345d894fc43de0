//! Row 51d: connections that move to another process: here to another loop.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use couplet::layers::ProxyHeader;
use couplet::protocols::{
    IntReceiver, LimitMessages, LineOnlyReceiver, LineProtocol, LineReceiver, LineTransport,
    NetstringReceiver, Relay, StringProtocol, StringTransport,
};
use couplet::reactor::HandedOver;
use couplet::testing::{Manner, failure_of, success_of};
use couplet::transport::Timeout;
use couplet::{
    Address, ConnectionLost, HandOver, ListenOptions, PeerCredentials, Port, Protocol,
    ProtocolExtension, Reason, SocketOption, Transport, UnixAddress,
};

use super::{TCP, hand_over, served};
use crate::logged::logged;
use crate::needed::Folder;
use crate::suite::kit::{Kit, Rig};

/// The calls of a protocol, and its transport.
#[derive(Clone, Default)]
struct Seen {
    calls: Rc<RefCell<Vec<String>>>,
    transport: Rc<RefCell<Option<Transport>>>,
    is_dropped: Rc<Cell<bool>>,
}

impl Seen {
    fn note(&self, call: impl Into<String>) {
        self.calls.borrow_mut().push(call.into());
    }

    fn take(&self) -> Vec<String> {
        self.calls.take()
    }

    fn transport(&self) -> Transport {
        self.transport.borrow().clone().expect("a connection")
    }

    fn mover(&self, says: Says, count: u8) -> Mover {
        Mover { seen: self.clone(), says, count }
    }

    /// Makes movers that say yes.
    fn movers(&self) -> impl Fn() -> Mover + 'static {
        let seen = self.clone();
        move || seen.mover(Says::Yes, 0)
    }

    /// Waits until its connection is made.
    fn connected(&self, rig: &mut Rig) {
        rig.until("a connection", || self.transport.borrow().is_some());
    }
}

/// A protocol's answer to `hand_over`.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Yes,
    No,
    Panics,
    /// Yes, but the protocol closes.
    Closes,
    /// Yes, with unread bytes.
    Holds,
}

/// Echoes, and moves with the number of received bytes.
struct Mover {
    seen: Seen,
    says: Says,
    count: u8,
}

impl Protocol for Mover {
    fn connection_made(&mut self, transport: &Transport) {
        self.seen.note("made");
        *self.seen.transport.borrow_mut() = Some(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.seen.note(String::from_utf8_lossy(data));
        self.count += data.len() as u8;
        transport.write(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.seen.note(format!("lost: {reason}"));
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Mover {
    fn hand_over(&mut self) -> Option<HandOver> {
        match self.says {
            Says::Yes | Says::Holds => {}
            Says::No => return None,
            Says::Panics => panic!("a protocol that panics"),
            Says::Closes => self.seen.transport().lose_connection(),
        }
        let held = if self.says == Says::Holds { "held" } else { "" };
        HandOver::new("mover", [self.count]).map(|said| said.with_unread(held))
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.seen.is_dropped.set(true);
    }
}

/// A loop with a mover, and its client.
struct Old {
    rig: Rig,
    seen: Seen,
    client: TcpStream,
}

impl Old {
    fn new(says: Says) -> Old {
        Old::over(TCP, says)
    }

    fn over(endpoint: &str, says: Says) -> Old {
        Old::connected(endpoint, says, b"")
    }

    /// The client is a proxy, and sends this header.
    fn behind_proxy(endpoint: &str, header: &[u8]) -> Old {
        Old::connected(endpoint, Says::Yes, header)
    }

    fn connected(endpoint: &str, says: Says, header: &[u8]) -> Old {
        let (mut rig, seen) = (Kit::mio().rig(), Seen::default());
        let its = seen.clone();
        let mut client = served(&rig, endpoint, move || its.mover(says, 0));
        client.write_all(header).expect("room");
        seen.connected(&mut rig);
        Old { rig, seen, client }
    }

    /// Sends bytes, and waits for their echo.
    fn echo(&mut self, bytes: &str) {
        self.client.write_all(bytes.as_bytes()).expect("room");
        let mut echo = vec![0; bytes.len()];
        self.client.set_nonblocking(true).expect("an option");
        let client = &mut self.client;
        self.rig.until("an echo", || client.read_exact(&mut echo).is_ok());
        client.set_nonblocking(false).expect("an option");
        assert_eq!(echo, bytes.as_bytes());
    }

    /// Writes more than the socket takes.
    fn fill(&mut self, bytes: &[u8]) {
        let transport = self.seen.transport();
        transport.set_option(SocketOption::SendBuffer(4096));
        self.rig.turns(2);
        transport.write(bytes);
        self.rig.turns(3);
    }

    fn hand_over(&mut self) -> Option<HandedOver> {
        hand_over(&mut self.rig, self.seen.transport().id())
    }

    /// Moves the connection to another loop.
    fn leave(mut self) -> (Rig, HandedOver, TcpStream) {
        let handed = self.hand_over().expect("it may move");
        let (socket, record) = handed.into_parts().expect("a descriptor");
        (self.rig, HandedOver::from_parts(socket, &record).expect("a record"), self.client)
    }
}

/// Continues a connection in a new loop.
fn take_over(handed: HandedOver) -> (Rig, Seen) {
    let (mut rig, seen) = (Kit::mio().rig(), Seen::default());
    assert_eq!(handed.kind(), "mover");
    let mover = seen.mover(Says::Yes, handed.state()[0]);
    let taken = rig.reactor.take_over(handed, mover).expect("a socket");
    seen.connected(&mut rig);
    success_of(taken);
    (rig, seen)
}

/// The bytes received and sent, of the only connection.
fn counters(rig: &mut Rig) -> (u64, u64) {
    let shown = &rig.l.snapshot().connections[0];
    (shown.bytes_in, shown.bytes_out)
}

fn reads(rig: &mut Rig, client: &mut TcpStream, wanted: &[u8]) {
    client.set_nonblocking(true).expect("an option");
    let mut got = Vec::new();
    rig.until("bytes", || {
        let mut bytes = [0; 65536];
        if let Ok(count) = client.read(&mut bytes) {
            got.extend_from_slice(&bytes[..count]);
        }
        got.len() >= wanted.len()
    });
    client.set_nonblocking(false).expect("an option");
    assert!(got == wanted, "{} of {} bytes", got.len(), wanted.len());
}

#[test]
fn c51d_a_connection_moves_between_two_callbacks_and_its_peer_notices_nothing() {
    let mut old = Old::new(Says::Yes);
    old.echo("abc");
    let (seen, transport) = (old.seen.clone(), old.seen.transport());
    old.seen.take();
    let (mut first, handed, mut client) = old.leave();
    assert_eq!(handed.peer(), Some(client.local_addr().expect("an address").into()));
    // Only `hand_over` was called, the protocol was dropped, and its handles do nothing.
    assert!(seen.take().is_empty() && seen.is_dropped.get());
    transport.write("lost");
    transport.abort_connection();
    first.turns(2);
    let lost = failure_of(transport.flushed()).to_string();
    assert!(lost.contains("handed over to another process"), "{lost}");
    drop(first);
    // Bytes that arrive during the move are for the other process.
    client.write_all(b"def").expect("room");
    let (mut second, seen) = take_over(handed);
    reads(&mut second, &mut client, b"def");
    assert_eq!(seen.take(), ["made", "def"]);
    let moved = seen.transport();
    assert_eq!(counters(&mut second), (6, 6));
    // The connection can move on.
    let handed = hand_over(&mut second, moved.id()).expect("it may move again");
    assert_eq!(handed.state(), [6]);
    let (mut third, seen) = take_over(handed);
    client.shutdown(Shutdown::Write).expect("it is open");
    third.until("its end", || seen.calls.borrow().len() == 2);
    assert_eq!(seen.take(), ["made", "lost: connection closed by the peer"]);
    assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
}

#[test]
fn c51d_unsent_output_leaves_before_later_writes() {
    let mut old = Old::new(Says::Yes);
    let most = 1024 * 1024;
    let wanted: Vec<u8> = (0..most).map(|n| (n % 251) as u8).collect();
    old.fill(&wanted);
    let left = old.seen.transport().buffered();
    assert!(left > 0 && left < most, "the socket took {}", most - left);
    let (_first, handed, mut client) = old.leave();
    let (mut second, seen) = take_over(handed);
    seen.transport().write("!");
    reads(&mut second, &mut client, &[&wanted[..], b"!"].concat());
    assert_eq!(counters(&mut second), (0, most as u64 + 1));
}

#[test]
fn c51d_a_paused_connection_stays_paused() {
    let mut old = Old::new(Says::Yes);
    old.seen.transport().pause_producing();
    old.rig.turns(2);
    let (_first, handed, mut client) = old.leave();
    client.write_all(b"later").expect("room");
    let (mut second, seen) = take_over(handed);
    second.turns(5);
    assert_eq!(seen.take(), ["made"]);
    seen.transport().resume_producing();
    reads(&mut second, &mut client, b"later");
}

#[test]
fn c51d_the_times_and_limits_of_a_connection_move_with_it() {
    let mut old = Old::new(Says::Yes);
    old.echo("abc");
    let transport = old.seen.transport();
    transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(9)));
    transport.set_write_cap(Some(1000));
    transport.pause_for(Duration::from_secs(3));
    old.rig.pass(Duration::from_secs(2));
    old.rig.tick();
    let (_first, handed, mut client) = old.leave();
    client.write_all(b"def").expect("room");
    let (mut second, seen) = take_over(handed);
    let (now, shown) = (second.reactor.now(), &second.l.snapshot().connections[0]);
    let passed = |since| now.saturating_duration_since(since);
    assert_eq!([shown.received_at, shown.made_at].map(passed), [Duration::from_secs(2); 2]);
    // The rest of the timed pause, and then the idle time: without a pause it ends at the seventh second.
    second.turns(3);
    assert_eq!(seen.take(), ["made"]);
    second.pass(Duration::from_secs(1));
    second.until("bytes", || !seen.calls.borrow().is_empty());
    assert_eq!(seen.take(), ["def"]);
    second.pass(Duration::from_secs(10));
    second.until("its end", || !seen.calls.borrow().is_empty());
    assert_eq!(
        seen.take(),
        ["lost: timeout: the peer was silent, or took no output, for too long"]
    );
    // The cap.
    let old = Old::new(Says::Yes);
    old.seen.transport().set_write_cap(Some(1000));
    let (_first, handed, _client) = old.leave();
    let (mut second, seen) = take_over(handed);
    seen.transport().write(vec![0; 1001]);
    second.until("its end", || seen.calls.borrow().len() == 2);
    assert!(seen.take()[1].starts_with("lost: the peer reads too slowly"));
}

/// Says each line back; a line "hold" pauses reading.
#[derive(Clone, Default)]
struct Lines(Rc<RefCell<Option<LineTransport>>>);

impl Lines {
    fn transport(&self) -> LineTransport {
        self.0.borrow().clone().expect("a connection")
    }
}

impl LineProtocol for Lines {
    fn connection_made(&mut self, transport: &LineTransport) {
        *self.0.borrow_mut() = Some(transport.clone());
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        transport.send_line(line);
        if line == b"hold" {
            transport.pause_producing();
        }
    }

    /// Skips the line.
    fn line_length_exceeded(&mut self, _: &LineTransport, _: &[u8]) {}

    fn hand_over(&mut self) -> Option<HandOver> {
        HandOver::new("lines", [])
    }
}

#[test]
fn c51d_connections_that_continue_together_begin_before_any_of_them_gets_bytes() {
    let (mut rig, seen) = (Kit::mio().rig(), Seen::default());
    let left = [(); 2].map(|()| Old::new(Says::Holds).leave());
    let mut clients = Vec::new();
    for (_, handed, client) in left {
        clients.push(client);
        rig.reactor.take_over(handed, seen.mover(Says::Yes, 0)).expect("a socket").detach();
    }
    rig.until("their bytes", || seen.calls.borrow().len() >= 4);
    assert_eq!(seen.take(), ["made", "made", "held", "held"]);
}

#[test]
fn c51d_a_framer_hands_over_its_held_bytes() {
    let (mut rig, lines) = (Kit::mio().rig(), Lines::default());
    let its = lines.clone();
    let mut client = served(&rig, TCP, move || LineReceiver::new(its.clone()));
    // Whole lines and a part that the framer holds while reading is paused.
    client.write_all(b"one\r\nhold\r\ntwo\r\nthr").expect("room");
    reads(&mut rig, &mut client, b"one\r\nhold\r\n");
    let handed = hand_over(&mut rig, lines.transport().id()).expect("it may move");
    client.write_all(b"ee\r\n").expect("room");
    let (mut second, lines) = (Kit::mio().rig(), Lines::default());
    let receiver = LineReceiver::new(lines.clone());
    second.reactor.take_over(handed, receiver).expect("a socket").detach();
    second.until("the connection", || lines.0.borrow().is_some());
    lines.transport().resume_producing();
    reads(&mut second, &mut client, b"two\r\nthree\r\n");
}

/// Sends each string back.
struct Strings;

impl StringProtocol for Strings {
    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        transport.send_string(string).expect("it was received within the limit");
    }

    fn hand_over(&mut self) -> Option<HandOver> {
        HandOver::new("strings", [])
    }
}

/// Moves an echo between any two bytes of its second message.
fn moves_within_a_message<P: Protocol>(build: fn() -> P, message: &[u8]) {
    for cut in 1..message.len() {
        let mut rig = Kit::mio().rig();
        let mut client = served(&rig, TCP, build);
        client.write_all(&[message, &message[..cut]].concat()).expect("room");
        reads(&mut rig, &mut client, message);
        let id = rig.l.snapshot().connections[0].id;
        while counters(&mut rig).0 < (message.len() + cut) as u64 {
            rig.turn();
        }
        let handed = hand_over(&mut rig, id).expect("it may move");
        client.write_all(&message[cut..]).expect("room");
        let mut second = Kit::mio().rig();
        second.reactor.take_over(handed, build()).expect("a socket").detach();
        reads(&mut second, &mut client, message);
    }
}

#[test]
fn c51d_each_framer_hands_over_a_partial_message() {
    moves_within_a_message(|| NetstringReceiver::new(Strings), b"12:one is three,");
    moves_within_a_message(|| IntReceiver::<u8, _>::new(Strings), b"\x05three");
    moves_within_a_message(|| IntReceiver::<u16, _>::new(Strings), b"\x00\x05three");
    moves_within_a_message(|| IntReceiver::<u32, _>::new(Strings), b"\x00\x00\x00\x05three");
    moves_within_a_message(|| LineOnlyReceiver::new(Lines::default()), b"three\r\n");
    moves_within_a_message(|| NetstringReceiver::new(LimitMessages::new(Strings)), b"5:three,");
}

#[test]
fn c51d_a_framer_refuses_inside_a_line_that_is_too_long() {
    refuses_in_a_long_line(|lines| LineReceiver::new(lines).with_max_length(5));
    refuses_in_a_long_line(|lines| LineOnlyReceiver::new(lines).with_max_length(5));
}

fn refuses_in_a_long_line<P: Protocol>(build: fn(Lines) -> P) {
    let (mut rig, lines) = (Kit::mio().rig(), Lines::default());
    let its = lines.clone();
    let mut client = served(&rig, TCP, move || build(its.clone()));
    client.write_all(b"one\r\n").expect("room");
    reads(&mut rig, &mut client, b"one\r\n");
    // The default for a line that is too long closes; this one skips it.
    for (bytes, may_move) in [(&b"much too long"[..], false), (b" still\r\n", true)] {
        let before = counters(&mut rig).0;
        client.write_all(bytes).expect("room");
        while counters(&mut rig).0 < before + bytes.len() as u64 {
            rig.turn();
        }
        let handed = hand_over(&mut rig, lines.transport().id());
        assert_eq!(handed.is_some(), may_move, "after {bytes:?}");
    }
}

#[test]
fn c51d_a_line_receiver_refuses_in_raw_mode_and_moves_after_it() {
    let (mut rig, lines) = (Kit::mio().rig(), Lines::default());
    let its = lines.clone();
    let mut client = served(&rig, TCP, move || LineReceiver::new(its.clone()));
    client.write_all(b"one\r\n").expect("room");
    reads(&mut rig, &mut client, b"one\r\n");
    let transport = lines.transport();
    for (switch, may_move) in [
        (LineTransport::set_raw_mode as fn(&LineTransport), false),
        (|it| it.set_line_mode(b""), true),
    ] {
        switch(&transport);
        rig.turns(2);
        assert_eq!(hand_over(&mut rig, transport.id()).is_some(), may_move);
    }
}

#[test]
fn c51d_a_unix_connection_moves_too() {
    let (mut rig, seen, folder) = (Kit::mio().rig(), Seen::default(), Folder::new());
    let path = folder.join("port");
    let _port = rig
        .reactor
        .listen((UnixAddress::from(&*path), ListenOptions::default()), seen.movers())
        .expect("a free path");
    let mut client = UnixStream::connect(&path).expect("it listens");
    seen.connected(&mut rig);
    let handed = hand_over(&mut rig, seen.transport().id());
    let (mut second, seen) = take_over(handed.expect("it may move"));
    client.write_all(b"hello").expect("room");
    second.until("bytes", || seen.calls.borrow().len() == 2);
    assert_eq!(seen.take(), ["made", "hello"]);
    assert!(seen.transport().info::<PeerCredentials>().is_some());
}

/// A header of a proxy, and the addresses in it.
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1001 1002\r\n";
const TOLD: [&str; 2] = ["192.0.2.1:1001", "192.0.2.2:1002"];

fn ends(transport: &Transport) -> [Address; 2] {
    [transport.peer().clone(), transport.host().clone()]
}

#[test]
fn c51d_a_connection_behind_a_proxy_moves_with_the_addresses_of_its_header() {
    let told = TOLD.map(|text| Address::from(text.parse::<SocketAddr>().expect("an address")));
    let mut old = Old::behind_proxy("haproxy:tcp:0:interface=127.0.0.1", HEADER);
    assert_eq!(ends(&old.seen.transport()), told);
    old.echo("abc");
    let (_first, handed, mut client) = old.leave();
    assert_eq!(handed.peer().as_ref(), Some(&told[0]));
    let (mut second, seen) = take_over(handed);
    let moved = seen.transport();
    assert_eq!(ends(&moved), told);
    client.write_all(b"def").expect("room");
    reads(&mut second, &mut client, b"def");
    assert_eq!(counters(&mut second), (6, 6));
    // The connection moves again, with unsent output, and belongs to the port on its socket's address.
    moved.set_option(SocketOption::SendBuffer(4096));
    second.turns(2);
    moved.write(vec![b'x'; 1_000_000]);
    second.turns(3);
    assert!(moved.buffered() > 0);
    let at = client.peer_addr().expect("an address");
    let handed = hand_over(&mut second, moved.id()).expect("it may move again");
    let (mut third, seen) = (Kit::mio().rig(), Seen::default());
    drop((_first, second));
    let endpoint = format!("haproxy:tcp:{}:interface=127.0.0.1:connections=1", at.port());
    let _port = third.reactor.listen(&*endpoint, || Relay::pair().0).expect("a free port");
    third.reactor.take_over(handed, seen.mover(Says::Yes, 0)).expect("a socket").detach();
    reads(&mut third, &mut client, &vec![b'x'; 1_000_000]);
    assert!(third.l.snapshot().ports[0].paused, "the port is full");
    let header = seen.transport().info::<ProxyHeader>().expect("the header");
    assert_eq!([header.peer.clone(), header.host.clone()], told.map(Some));
}

#[test]
fn c51d_a_connection_behind_two_proxies_stays() {
    let endpoint = r"haproxy:endpoint=haproxy\:tcp\:0\:interface=127.0.0.1";
    let mut old = Old::behind_proxy(endpoint, &[HEADER, HEADER].concat());
    assert!(old.hand_over().is_none());
    old.echo("abc");
}

#[test]
fn c51d_a_protocol_may_refuse_and_continue() {
    let mut old = Old::new(Says::No);
    assert!(old.hand_over().is_none());
    old.echo("still here");
    assert!(!old.seen.is_dropped.get());
    for (says, wanted) in [
        (Says::Panics, "lost: a callback panicked: a protocol that panics"),
        (Says::Closes, "lost: connection closed by us"),
    ] {
        let mut old = Old::new(says);
        assert!(old.hand_over().is_none());
        drop(old.client);
        old.rig.until("its end", || old.seen.calls.borrow().len() == 2);
        assert_eq!(old.seen.take(), ["made", wanted]);
    }
}

#[test]
fn c51d_a_connection_that_is_not_whole_stays() {
    let refuses = |mut old: Old, what: &str| {
        assert!(old.hand_over().is_none(), "{what}");
        assert!(!old.seen.is_dropped.get(), "{what}");
    };
    let closing = Old::new(Says::Yes);
    closing.seen.transport().lose_connection();
    refuses(closing, "closing");
    let finishing = Old::new(Says::Yes);
    finishing.seen.transport().lose_write_connection();
    refuses(finishing, "half closed");
    let mut upgrading = Old::new(Says::Yes);
    upgrading.seen.transport().upgrade(Relay::pair().0);
    assert!(upgrading.hand_over().is_none(), "to be upgraded");
    refuses(Old::over("throttle:tcp:0:interface=127.0.0.1:read=1M", Says::Yes), "layered");
    let full = Old::new(Says::Yes);
    full.seen.transport().write(vec![0; 6 * 1024 * 1024]);
    refuses(full, "with more than 1 MiB");
    // The connection of a client, and one of another loop.
    let mut old = Old::new(Says::Yes);
    let seen = Seen::default();
    let host = old.client.peer_addr().expect("an address");
    old.rig.reactor.connect_protocol(&*format!("tcp:{host}"), seen.mover(Says::Yes, 0)).detach();
    seen.connected(&mut old.rig);
    let id = seen.transport().id();
    let (foreign, without_sockets) = (Kit::mio().rig(), Kit::memory(Manner::Readiness).rig());
    for mut rig in [old.rig, foreign, without_sockets] {
        assert!(hand_over(&mut rig, id).is_none());
    }
}

#[test]
fn c51d_a_flush_of_the_old_connection_fails_and_its_port_has_room() {
    let endpoint = "tcp:0:interface=127.0.0.1:connections=1";
    let mut old = Old::over(endpoint, Says::Yes);
    let transport = old.seen.transport();
    old.fill(&vec![0; 1024 * 1024]);
    let flushed = transport.flushed();
    let mut waiting = TcpStream::connect(old.client.peer_addr().unwrap()).expect("a queue");
    let handed = old.hand_over().expect("it may move");
    let lost = failure_of(flushed);
    let lost = lost.downcast_ref::<ConnectionLost>().expect("it is lost");
    assert!(matches!(lost.0, Reason::HandedOver), "{lost}");
    // The next client takes the place.
    waiting.write_all(b"x").expect("room");
    reads(&mut old.rig, &mut waiting, b"x");
    drop(handed);
}

#[test]
fn c51d_a_moved_connection_belongs_to_the_port_on_its_address() {
    let path = Folder::new();
    let unix = format!("unix:{}", path.join("port").display());
    let (mut first, seen) = (Kit::mio().rig(), Seen::default());
    let old = first.reactor.listen(&*unix, seen.movers()).expect("a free path");
    let mut client = UnixStream::connect(path.join("port")).expect("it listens");
    seen.connected(&mut first);
    old.stop_listening().expect("it listens").detach();
    let handed = hand_over(&mut first, seen.transport().id()).expect("it may move");
    let mut second = Kit::mio().rig();
    let limited = format!("{unix}:connections=1");
    let port = second.reactor.listen(&*limited, Seen::default().movers()).expect("a free path");
    second.turns(2);
    let seen = Seen::default();
    second.reactor.take_over(handed, seen.mover(Says::Yes, 0)).expect("a socket").detach();
    seen.connected(&mut second);
    // The moved connection counts for the limit, and drains with the port.
    let _waits = UnixStream::connect(path.join("port")).expect("a queue");
    second.turns(4);
    assert_eq!(second.l.snapshot().connections.len(), 1);
    port.drain(Duration::ZERO).detach();
    client.set_nonblocking(true).expect("an option");
    second.until("its close", || matches!(client.read(&mut [0]), Ok(0)));
    drop(client);
    second.until("its end", || seen.calls.borrow().len() == 2);
    assert_eq!(seen.take()[1], "lost: connection closed by the reactor");
}

#[test]
fn c51d_a_record_of_another_version_is_refused() {
    let (_rig, handed, _client) = Old::new(Says::Yes).leave();
    let (socket, mut record) = handed.into_parts().expect("a descriptor");
    record[0] += 1;
    let refused = HandedOver::from_parts(socket, &record).expect_err("another version");
    assert_eq!(refused.kind(), ErrorKind::InvalidData);
    assert!(HandOver::new("kind", vec![0; HandOver::MOST]).is_some());
    assert!(HandOver::new("kind", vec![0; HandOver::MOST + 1]).is_none());
    assert!(HandOver::new("k".repeat(HandOver::MOST_KIND + 1), []).is_none());
}

#[test]
fn c51d_a_moved_connection_belongs_to_the_port_on_all_addresses_with_its_number() {
    let (mut rig, seen) = (Kit::mio().rig(), Seen::default());
    let listen = |rig: &Rig, seen: &Seen| {
        let port = rig.reactor.listen("tcp:0:interface=0.0.0.0:connections=1", seen.movers());
        port.expect("a free port")
    };
    let ports = [Seen::default(), seen.clone()].map(|seen| listen(&rig, &seen));
    rig.turns(2);
    let held = |rig: &mut Rig| -> Vec<bool> {
        let snapshot = rig.l.snapshot();
        let is_held = |port: &Port| {
            snapshot.ports.iter().any(|shown| shown.host == port.host() && shown.paused)
        };
        ports.iter().map(is_held).collect()
    };
    let number = ports[1].host().port().expect("a TCP port");
    let _client = TcpStream::connect(("127.0.0.1", number)).expect("it listens");
    seen.connected(&mut rig);
    rig.turns(2);
    assert_eq!(held(&mut rig), [false, true]);
    let handed = hand_over(&mut rig, seen.transport().id()).expect("it may move");
    assert_eq!(held(&mut rig), [false; 2]);
    let again = Seen::default();
    rig.reactor.take_over(handed, again.mover(Says::Yes, 0)).expect("a socket").detach();
    again.connected(&mut rig);
    rig.turns(2);
    assert_eq!(held(&mut rig), [false, true]);
    again.transport().abort_connection();
    rig.turns(3);
    assert_eq!(held(&mut rig), [false; 2]);
}

#[test]
fn c51d_a_connection_that_cannot_leave_after_all_ends() {
    let mut old = Old::over("tcp:0:interface=127.0.0.1:connections=1", Says::Yes);
    old.rig.tapped.keeps_sockets.set(true);
    let (handed, lines) = logged(|| old.hand_over());
    assert!(handed.is_none() && old.seen.is_dropped.get());
    assert!(lines.iter().any(|line| line.contains("cannot hand a connection over")), "{lines:?}");
    old.client.set_nonblocking(true).expect("an option");
    old.rig.until("its end", || matches!(old.client.read(&mut [0]), Ok(0)));
    assert!(old.rig.l.snapshot().connections.is_empty());
    // The next client takes the place, and may move.
    old.rig.tapped.keeps_sockets.set(false);
    let mut next = TcpStream::connect(old.client.peer_addr().unwrap()).expect("a queue");
    next.write_all(b"x").expect("room");
    reads(&mut old.rig, &mut next, b"x");
    assert!(old.hand_over().is_some());
}

/// Each loop has a ring, which receives from the connection until it moves.
#[cfg(all(target_os = "linux", feature = "uring"))]
#[test]
fn c51d_a_connection_in_a_ring_moves_each_time_with_all_its_bytes() {
    let ring = || Kit::uring().in_ring().rig();
    let (mut rig, mut seen) = (ring(), Seen::default());
    let its = seen.clone();
    let mut client = served(&rig, TCP, move || its.mover(Says::Yes, 0));
    seen.connected(&mut rig);
    let mut count = 0;
    for round in 0..4 {
        let text = format!("round {round}");
        for _ in 0..2 {
            client.write_all(text.as_bytes()).expect("room");
            reads(&mut rig, &mut client, text.as_bytes());
            count += text.len() as u8;
        }
        seen.transport().write("held");
        let handed = hand_over(&mut rig, seen.transport().id()).expect("it may move");
        assert_eq!(handed.state(), [count], "round {round}");
        // They wait in the socket, and the loop that the connection has left takes none.
        client.write_all(b"between").expect("room");
        rig.turns(3);
        assert!(rig.l.snapshot().connections.is_empty());
        let (mut next, its) = (ring(), Seen::default());
        let mover = its.mover(Says::Yes, count);
        let taken = next.reactor.take_over(handed, mover).expect("a socket");
        its.connected(&mut next);
        success_of(taken);
        reads(&mut next, &mut client, b"heldbetween");
        count += 7;
        (rig, seen) = (next, its);
    }
}
