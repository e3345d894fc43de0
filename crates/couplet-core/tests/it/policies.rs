//! Policies in front of a factory: admission, counts and closes, on the memory driver's network and
//! clock.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::endpoints::{ClientEndpoint, TcpClient};
use couplet::factory::{ErasedFactory, Layered};
use couplet::layers::{Layer, Opened, Outbox, SingleBytes, Up};
use couplet::protocols::{
    Admission, LimitConnectionRate, LimitConnections, LimitConnectionsByPeer, LimitLifetime, Policy,
};
use couplet::services::ClientService;
use couplet::stream::Stream;
use couplet::testing::Wire;
use couplet::{
    Address, Connector, Deferred, Factory, Port, Protocol, Reactor, Reason, Shared, Transport,
};
use couplet_testkit_loops::doubles::on_data;

use crate::defer_witness::Log;
use crate::pace::{TestLoop, ms};

const S: Duration = Duration::from_secs(1);

/// Logs its callbacks.
#[derive(Clone, Default)]
struct Notes {
    log: Log,
    greeting: usize,
}

impl Protocol for Notes {
    fn connection_made(&mut self, transport: &Transport) {
        self.log.say("made");
        transport.write(vec![b'x'; self.greeting]);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.log.say(String::from_utf8_lossy(data));
        match data {
            b"panic" => panic!("on request"),
            b"pause" => {
                transport.pause_producing();
                // The handle finds this protocol through every wrapper.
                transport.connection::<Notes>().call_later(S, |notes, transport| {
                    notes.log.say("delayed call");
                    transport.resume_producing();
                });
            }
            b"half" => transport.lose_write_connection(),
            _ => {}
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.log.say(format!("lost: {reason}"));
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.log.say("read_closed");
        transport.lose_connection();
    }

    fn write_closed(&mut self, _: &Transport) {
        self.log.say("write_closed");
    }

    fn reading_resumed(&mut self, _: &Transport) {
        self.log.say("resumed");
    }
}

impl TestLoop {
    fn notes(&self) -> Notes {
        Notes { log: self.log.clone(), greeting: 0 }
    }

    /// How many of `tries` new connections are admitted.
    fn admitted(&mut self, to: &Port, tries: usize) -> usize {
        (0..tries).filter(|_| !self.client(to.host()).is_closed()).count()
    }
}

fn address(text: &str) -> Address {
    text.parse::<SocketAddr>().expect("an address").into()
}

#[test]
fn the_total_limit_turns_away_and_admits_again_after_a_close() {
    let mut rig = TestLoop::new(0);
    let away = Rc::new(RefCell::new(Vec::new()));
    let seen = away.clone();
    let limit = LimitConnections::new(2)
        .on_turned_away(move |peer: &Address| seen.borrow_mut().push(peer.clone()));
    let notes = rig.notes();
    let port = rig.listen(limit.clone().wrap(move || notes.clone()));
    let (first, second) = (rig.client(port.host()), rig.client(port.host()));
    let third = rig.client(port.host());
    assert!(
        third.is_closed() && third.saw_fin() && !third.saw_reset(),
        "a clean close, immediately"
    );
    assert_eq!(*away.borrow(), [third.address()]);
    assert_eq!((limit.connections(), limit.turned_away()), (2, 1));
    assert_eq!(rig.log.lines(), ["made", "made"], "the inner factory never sees the third");
    rig.after(|| first.fin());
    assert_eq!(limit.connections(), 1);
    assert_eq!(rig.admitted(&port, 2), 1);
    rig.after(|| second.fin());
    // Lowering the limit keeps the connections already admitted.
    limit.set_limit(0);
    assert_eq!((limit.connections(), rig.admitted(&port, 3)), (1, 0));
    limit.set_limit(3);
    assert_eq!(rig.admitted(&port, 3), 2);
}

#[test]
fn there_is_no_total_limit_by_default_and_zero_turns_every_peer_away() {
    for (limit, expected) in [(LimitConnections::default(), 40), (LimitConnections::new(0), 0)] {
        let mut rig = TestLoop::new(0);
        let port = rig.listen(limit.clone().wrap(Notes::default));
        assert_eq!(rig.admitted(&port, 40), expected);
        assert_eq!((limit.connections(), limit.turned_away()), (expected, 40 - expected as u64));
    }
}

#[test]
fn a_hook_may_replace_itself() {
    let mut rig = TestLoop::new(0);
    let (limit, log) = (LimitConnections::new(0), rig.log.clone());
    let (again, next) = (limit.clone(), log.clone());
    let limit = limit.on_turned_away(move |_| {
        let next = next.clone();
        drop(again.clone().on_turned_away(move |_| next.say("the next")));
        log.say("the first");
    });
    let port = rig.listen(limit.wrap(Notes::default));
    assert_eq!(rig.admitted(&port, 3), 0);
    assert_eq!(rig.log.lines(), ["the first", "the next", "the next"]);
}

#[test]
fn the_limit_by_peer_counts_addresses_not_ports() {
    let limit = LimitConnectionsByPeer::default();
    let mut factory = limit.clone().wrap(Notes::default);
    let a: Vec<_> =
        (1..=6).map(|port| factory.build_protocol(&address(&format!("10.0.0.1:{port}")))).collect();
    assert_eq!(a.iter().flatten().count(), 5, "the default is 5");
    assert!(
        factory.build_protocol(&address("10.0.0.2:1")).is_some(),
        "the protocol is dropped immediately"
    );
    let b = factory.build_protocol(&address("[2001:db8::1]:1"));
    // An IPv4-mapped peer of a dual-stack port is the same peer.
    assert!(factory.build_protocol(&address("[::ffff:10.0.0.1]:9")).is_none());
    let ip = |text: &str| address(text).ip().expect("an IP address");
    assert_eq!(limit.connections(ip("10.0.0.1:0")), 5);
    assert_eq!((limit.peers(), limit.turned_away()), (2, 2));
    drop(a);
    assert_eq!((limit.connections(ip("10.0.0.1:0")), limit.peers()), (0, 1));
    drop(b);
    assert_eq!(limit.peers(), 0, "a peer without open connections is forgotten");
    limit.set_limit(0);
    assert!(factory.build_protocol(&address("10.0.0.3:1")).is_none());
}

#[test]
fn the_counts_stay_right_after_panics_and_refusals() {
    let mut rig = TestLoop::new(0);
    let (limit, peers) = (LimitConnections::new(2), LimitConnectionsByPeer::new(2));
    let calls = Cell::new(0);
    let notes = rig.notes();
    let inner = move |_: &Address| match calls.replace(calls.get() + 1) {
        0..3 => panic!("in build_protocol"),
        3..6 => None,
        _ => Some(notes.clone()),
    };
    let port = rig.listen(limit.clone().wrap(peers.clone().wrap(inner)));
    assert_eq!(rig.admitted(&port, 6), 0);
    assert_eq!((limit.connections(), peers.peers(), limit.turned_away()), (0, 0, 0));
    let (first, second) = (rig.client(port.host()), rig.client(port.host()));
    rig.after(|| first.push(b"panic"));
    rig.after(|| first.fin());
    assert_eq!(limit.connections(), 1, "a panic in a callback has ended its connection");
    rig.after(|| second.reset());
    assert_eq!((limit.connections(), peers.peers()), (0, 0));
    // A panic in the hook only affects the connection being turned away.
    let limit = LimitConnections::new(0).on_turned_away(|_| panic!("in the hook"));
    let port = rig.listen(limit.clone().wrap(Notes::default));
    assert_eq!((rig.admitted(&port, 2), limit.turned_away()), (0, 2));
    // Dropping the loop frees the protocols without a callback.
    let limit = LimitConnections::new(9);
    let port = rig.listen(limit.clone().wrap(Notes::default));
    assert_eq!((rig.admitted(&port, 3), limit.connections()), (3, 3));
    drop(rig);
    assert_eq!(limit.connections(), 0);
}

#[test]
fn the_rate_is_a_token_bucket_exact_to_the_nanosecond() {
    const NANOSECOND: Duration = Duration::from_nanos(1);
    let mut rig = TestLoop::new(0);
    let turned_away = Rc::new(Cell::new(0));
    let count = turned_away.clone();
    let limit = LimitConnectionRate::new(3, S).on_turned_away(move |_| count.set(count.get() + 1));
    let port = rig.listen(limit.clone().wrap(Notes::default));
    let mut away = 0;
    for (pause, tries, admitted, what) in [
        (Duration::ZERO, 5, 3, "a burst"),
        (ms(333), 2, 0, "a token takes a third of a second"),
        (ms(1), 2, 1, "the first token"),
        (S * 3600, 9, 3, "the bucket never holds more than a burst"),
        (S - NANOSECOND, 3, 2, "the third token lacks a nanosecond"),
        (NANOSECOND, 3, 1, "the third token"),
    ] {
        rig.pass(pause);
        assert_eq!(rig.admitted(&port, tries), admitted, "{what}");
        away += (tries - admitted) as u64;
        assert_eq!((limit.turned_away(), turned_away.get()), (away, away), "{what}");
    }
}

#[test]
fn a_zero_rate_turns_every_peer_away_and_a_zero_period_admits_all() {
    let far = Duration::MAX;
    for (most, per, expected) in [
        (0, S, 0),
        (0, Duration::ZERO, 0),
        (1, Duration::ZERO, 20),
        (u32::MAX, far, 20),
        (2, far, 2),
    ] {
        let mut rig = TestLoop::new(0);
        let port = rig.listen(LimitConnectionRate::new(most, per).wrap(Notes::default));
        rig.pass(S * 100);
        assert_eq!(rig.admitted(&port, 20), expected, "{most} in {per:?}");
    }
}

#[test]
fn an_expired_connection_is_closed_after_a_flush() {
    let mut rig = TestLoop::new(0);
    let notes = Notes { greeting: 5, ..rig.notes() };
    let port = rig.listen(LimitLifetime::new(S * 10).wrap(move || notes.clone()));
    let wire = rig.client(port.host());
    rig.pass(ms(9_999));
    rig.after(|| wire.push(b"busy"));
    assert!(!wire.saw_fin());
    rig.pass(ms(1));
    assert_eq!(wire.take(), b"xxxxx");
    assert!(wire.saw_fin() && !wire.is_closed());
    rig.after(|| wire.fin());
    assert_eq!(rig.log.lines(), ["made", "busy", "lost: connection closed by us"]);
    rig.settle();
    assert_eq!(rig.l.snapshot().pending_calls, 0, "its timers were cancelled");
}

#[test]
fn an_expired_connection_that_does_not_close_is_aborted_after_the_grace() {
    for grace in [None, Some(S * 2), Some(Duration::ZERO)] {
        let mut rig = TestLoop::new(0);
        rig.network.set_capacity(100);
        let notes = Notes { greeting: 100_000, ..rig.notes() };
        let mut policy = LimitLifetime::new(S);
        if let Some(grace) = grace {
            policy = policy.grace(grace);
        }
        let port = rig.listen(policy.wrap(move || notes.clone()));
        let wire = rig.client(port.host());
        rig.pass(S);
        // The peer reads a little each second. This progress keeps the close deadline from firing.
        let mut passed = Duration::ZERO;
        while !wire.saw_reset() && passed < S * 100 {
            wire.take_most(50);
            rig.pass(S);
            passed += S;
        }
        assert_eq!(passed, grace.unwrap_or(S * 30), "{grace:?}");
        assert_eq!(rig.log.lines().last().unwrap(), "lost: connection aborted by us");
    }
}

#[test]
fn lifetime_timers_are_cancelled_when_the_connection_ends_earlier() {
    let mut rig = TestLoop::new(0);
    let port = rig.listen(LimitLifetime::new(S * 10).wrap(Notes::default));
    let wire = rig.client(port.host());
    assert!(rig.l.snapshot().pending_calls >= 2);
    rig.after(|| wire.reset());
    assert_eq!(rig.l.snapshot().pending_calls, 0);
    // A lifetime of zero closes it right after connection_made.
    let port = rig.listen(LimitLifetime::new(Duration::ZERO).wrap(Notes::default));
    assert!(rig.client(port.host()).saw_fin());
    // A lifetime too long to represent is no limit.
    let port = rig.listen(LimitLifetime::new(Duration::MAX).wrap(Notes::default));
    let wire = rig.client(port.host());
    rig.pass(S * 3600 * 24 * 365);
    assert!(!wire.saw_fin());
}

#[test]
fn an_upgrade_does_not_lengthen_a_lifetime() {
    let mut rig = TestLoop::new(0);
    let changes = || on_data(|transport, _| transport.upgrade(Notes::default()));
    let port = rig.listen(LimitLifetime::new(S * 10).wrap(changes));
    let wire = rig.client(port.host());
    let before = rig.l.snapshot().pending_calls;
    rig.pass(S * 6);
    rig.after(|| wire.push(b"x"));
    assert_eq!(rig.l.snapshot().pending_calls, before);
    rig.pass(S * 4);
    assert!(wire.saw_fin());
}

/// Is upgraded to itself by all that it receives.
struct Changes;

impl Protocol for Changes {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        transport.upgrade(Changes);
    }
}

#[test]
fn any_number_of_upgrades_keeps_the_place_and_the_lifetime_of_a_connection() {
    let mut rig = TestLoop::new(0);
    let (total, by_peer) = (LimitConnections::new(2), LimitConnectionsByPeer::new(2));
    let inner = LimitLifetime::new(S * 10).wrap(|| Changes);
    let port = rig.listen(total.clone().wrap(by_peer.clone().wrap(inner)));
    let wires = [rig.client(port.host()), rig.client(port.host())];
    let ip = wires[0].address().ip().expect("a TCP address");
    let timers = rig.l.snapshot().pending_calls;
    for _ in 0..3 {
        for wire in &wires {
            rig.after(|| wire.push(b"x"));
        }
        assert_eq!((total.connections(), by_peer.connections(ip)), (2, 2));
        assert_eq!((rig.admitted(&port, 1), rig.l.snapshot().pending_calls), (0, timers));
        rig.pass(S);
    }
    rig.after(|| wires[0].reset());
    assert_eq!((total.connections(), by_peer.connections(ip)), (1, 1));
    rig.pass(S * 7);
    assert!(wires[1].saw_fin(), "ten seconds are over");
    rig.after(|| wires[1].fin());
    assert_eq!((total.connections(), by_peer.peers(), rig.l.snapshot().pending_calls), (0, 0, 0));
    assert_eq!((total.turned_away(), by_peer.turned_away()), (3, 0));
}

#[test]
fn policies_nest_forward_every_callback_and_find_the_inner_protocol() {
    let mut rig = TestLoop::new(0);
    let notes = rig.notes();
    let inner = LimitLifetime::new(S * 100)
        .wrap(LimitConnectionRate::new(9, S).wrap(move || notes.clone()));
    let all = LimitConnections::new(9).wrap(LimitConnectionsByPeer::new(9).wrap(inner));
    let port = rig.listen(all);
    let wire = rig.client(port.host());
    wire.push(b"pause");
    rig.pass(S);
    rig.after(|| wire.push(b"half"));
    rig.after(|| wire.fin());
    let expected = [
        "made",
        "pause",
        "delayed call",
        "resumed",
        "half",
        "write_closed",
        "read_closed",
        "lost: connection closed by the peer",
    ];
    assert_eq!(rig.log.lines(), expected);
}

/// Logs every callback of a factory.
struct Logging(Log);

impl Factory for Logging {
    type Protocol = Notes;

    fn attach(&mut self, _: &Reactor) {
        self.0.say("attach");
    }
    fn do_start(&mut self) {
        self.0.say("do_start");
    }
    fn started_connecting(&mut self, _: &Connector) {
        self.0.say("started");
    }
    fn layers(&mut self, _: &Address) -> Vec<Box<dyn Layer>> {
        self.0.say("layers");
        Vec::new()
    }
    fn build_protocol(&mut self, _: &Address) -> Option<Notes> {
        self.0.say("build");
        Some(Notes::default())
    }
    fn client_connection_failed(&mut self, connector: &Connector, _: &Reason) {
        self.0.say("failed");
        connector.connect_after(S).expect("it is disconnected");
    }
    fn client_connection_lost(&mut self, _: &Connector, _: &Reason) {
        self.0.say("lost");
    }
    fn do_stop(&mut self) {
        self.0.say("do_stop");
    }
}

fn connect_tcp<F: Factory + 'static>(reactor: &Reactor, factory: F) {
    reactor.connect(("127.0.0.1", 8000), factory).detach();
}

/// Connects with a layer below the factory's layers, or with a factory around the given one.
#[derive(Debug)]
struct Wrapping {
    by_layer: bool,
}

impl fmt::Display for Wrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrapping")
    }
}

impl ClientEndpoint for Wrapping {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let tcp = TcpClient::new("127.0.0.1", 8000);
        if self.by_layer {
            let factory = factory.layered("bytes", |_| Some(Box::new(SingleBytes::default())));
            return tcp.connect(reactor, factory);
        }
        let factory = LimitConnections::new(1).wrap(factory);
        reactor.connect(tcp, factory).map(|connection| connection.transport().clone())
    }
}

#[test]
fn a_factory_gets_every_callback_whatever_wraps_it() {
    type Connect = fn(&Reactor, Logging);
    let behind: [(&str, Connect); 6] = [
        ("a policy", |at, factory| connect_tcp(at, LimitConnections::new(1).wrap(factory))),
        ("a layer", |at, factory| {
            connect_tcp(at, Layered::new(factory, |_, _| SingleBytes::default()));
        }),
        ("a shared factory", |at, factory| connect_tcp(at, Shared::new(factory))),
        ("a client service", |at, factory| {
            let service = ClientService::new(at, "tcp:127.0.0.1:8000", factory).unwrap();
            service.start();
            at.call_later(S * 2, move || drop(service));
        }),
        ("an endpoint with a layer", |at, factory| {
            at.connect(Wrapping { by_layer: true }, factory).detach();
        }),
        ("an endpoint with a factory", |at, factory| {
            at.connect(Wrapping { by_layer: false }, factory).detach();
        }),
    ];
    // The connect fails, is retried and succeeds.
    let expected = [
        "attach", "do_start", "started", "failed", "started", "layers", "build", "lost", "do_stop",
    ];
    for (wrapper, connect) in behind {
        let mut rig = TestLoop::new(0);
        connect(&rig.reactor, Logging(rig.log.clone()));
        rig.settle();
        let server = rig.network.listen(SocketAddr::from(([127, 0, 0, 1], 8000)), 1).unwrap();
        rig.pass(S);
        rig.network.accept(server).expect("it has connected").close();
        rig.settle();
        assert_eq!(rig.log.lines(), expected, "behind {wrapper}");
    }
}

/// A user-defined policy: admits loopback peers only, and logs their arrival and departure.
struct Friends(Log);
struct Friend(Log);

impl Admission for Friend {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.say(format!("welcome, {}", transport.peer().ip().expect("a TCP address")));
    }
}

impl Drop for Friend {
    fn drop(&mut self) {
        self.0.say("farewell");
    }
}

impl Policy for Friends {
    type Admission = Friend;

    fn admit(&self, peer: &Address) -> Option<Friend> {
        peer.ip()?.is_loopback().then(|| Friend(self.0.clone()))
    }
}

#[test]
fn users_can_write_policies() {
    let mut rig = TestLoop::new(0);
    let notes = rig.notes();
    let port = rig.listen(Friends(rig.log.clone()).wrap(move || notes.clone()));
    rig.client(port.host()).reset();
    rig.settle();
    let lines = rig.log.lines();
    assert_eq!(lines[..3], ["welcome, 127.0.0.1", "made", "farewell"]);
    assert!(lines[3].starts_with("lost: connection lost"));
    let mut factory = Friends(rig.log.clone()).wrap(Notes::default);
    assert!(factory.build_protocol(&address("10.0.0.1:1")).is_none());
}

/// Opens with the first byte, which a relay takes as the last byte of the peer's address.
struct Opens {
    is_relay: bool,
    is_open: bool,
}

impl Layer for Opens {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: std::time::Instant) -> Up<'a> {
        match std::mem::take(below) {
            [] => Up::Nothing,
            [first, rest @ ..] if !self.is_open => {
                self.is_open = true;
                *below = rest;
                let peer = SocketAddr::from(([10, 0, 0, *first], 80)).into();
                let opened = Opened { peer: Some(peer), ..Opened::default() };
                Up::Open(self.is_relay.then(|| Box::new(opened)))
            }
            data => Up::Data(data),
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: std::time::Instant) {
        below.append(above);
    }

    fn ended(&mut self) {}

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn relays(&self) -> bool {
        self.is_relay
    }
}

fn over<F: Factory + 'static>(factory: F, is_relay: bool) -> impl Factory<Protocol = F::Protocol> {
    Layered::new(factory, move |_: &Reactor, _: &Address| Opens { is_relay, is_open: false })
}

#[test]
fn a_policy_of_the_users_admits_connections_whose_layers_open() {
    let mut rig = TestLoop::new(0);
    let notes = rig.notes();
    let port = rig.listen(over(Friends(rig.log.clone()).wrap(move || notes.clone()), false));
    let wire = rig.client(port.host());
    assert_eq!(rig.log.lines(), [""; 0], "not before they are open");
    rig.after(|| wire.push(b"!"));
    assert_eq!(rig.log.lines()[..2], ["welcome, 127.0.0.1", "made"]);
}

#[test]
fn c81a_a_connection_counts_while_its_layers_open() {
    let mut rig = TestLoop::new(0);
    let (total, by_peer) = (LimitConnections::new(3), LimitConnectionsByPeer::new(2));
    let (notes, limits) = (rig.notes(), total.clone().wrap(by_peer.clone().wrap(Notes::default)));
    let plain = rig.listen(total.clone().wrap(move || notes.clone()));
    let port = rig.listen(over(limits, false));
    let mut wires: Vec<Wire> = (0..3).map(|_| rig.client(port.host())).collect();
    assert_eq!((total.connections(), by_peer.peers()), (2, 1));
    assert!(wires[2].is_closed() && by_peer.turned_away() == 1, "three of one peer");
    let other = rig.client(plain.host());
    assert_eq!(total.connections(), 3);
    assert!(rig.client(plain.host()).is_closed(), "two that open, and one that is open");
    // One opens and keeps its place; another is reset.
    wires[0].push(b"1");
    rig.settle();
    assert_eq!((total.connections(), by_peer.peers()), (3, 1));
    wires.remove(1).reset();
    rig.settle();
    assert_eq!(total.connections(), 2);
    wires[0].reset();
    rig.after(|| other.reset());
    assert_eq!((total.connections(), by_peer.peers()), (0, 0));
    assert_eq!(rig.admitted(&port, 3), 2);
}

#[test]
fn c81a_a_relayed_connection_counts_for_its_peer_once_that_is_known() {
    let mut rig = TestLoop::new(0);
    let (total, by_peer) = (LimitConnections::new(4), LimitConnectionsByPeer::new(1));
    let limits = total.clone().wrap(by_peer.clone().wrap(Notes::default));
    let port = rig.listen(over(limits, true));
    let wires: Vec<Wire> = (0..5).map(|_| rig.client(port.host())).collect();
    assert_eq!((total.connections(), by_peer.peers()), (4, 0));
    assert!(wires[4].is_closed(), "more than there may be");
    for (wire, peer) in wires.iter().zip([b"1", b"1", b"2"]) {
        rig.after(|| wire.push(peer));
    }
    assert_eq!((total.connections(), by_peer.peers(), by_peer.turned_away()), (3, 2, 1));
    assert!(wires[1].is_closed() && !wires[2].is_closed());
}

#[test]
fn policies_admit_count_and_end_the_handlers_of_streams() {
    let mut rig = TestLoop::new(0);
    let (limit, log) = (LimitConnections::new(1), rig.log.clone());
    let handler = async move |mut stream: Stream| {
        log.say("begins");
        let line = stream.read_line().await?;
        log.say(format!("ends: {:?}", line.map(String::from_utf8)));
        Ok(())
    };
    let port = rig.listen(limit.clone().wrap(LimitLifetime::new(S * 10).wrap(handler)));
    for (sends, expected) in [("bye\n", "ends: Some(Ok(\"bye\"))"), ("", "ends: None")] {
        let wire = rig.client(port.host());
        assert!(rig.client(port.host()).is_closed(), "there is one already");
        assert_eq!(limit.connections(), 1);
        rig.after(|| wire.push(sends.as_bytes()));
        // The handler returns, or its connection expires.
        rig.pass(if sends.is_empty() { S * 10 } else { Duration::ZERO });
        assert!(wire.saw_fin());
        rig.after(|| wire.fin());
        assert_eq!(rig.log.take(), ["begins", expected]);
        assert_eq!((limit.connections(), rig.l.snapshot().pending_calls), (0, 0));
    }
    assert_eq!(limit.turned_away(), 2);
}
