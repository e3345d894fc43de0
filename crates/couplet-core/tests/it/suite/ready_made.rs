//! Rows 71a, 169a and 169b: relays, custom framers and message limits, on each driver.

use std::time::Duration;

use couplet::protocols::{
    FrameBuffer, Framer, LimitMessages, LineProtocol, LineReceiver, LineTransport, Relay,
};
use couplet::transport::Upgrade;
use couplet::{Address, Protocol, Reactor, Transport};

use super::kit::{Kit, Rig};
use super::peer::{B, Saw};
use super::recorder::{Log, On, Script};

/// Maximum bytes that a relay holds in one direction: the high watermark and one read.
const HELD: usize = 64 * 1024 + 256 * 1024;

fn connect(reactor: &Reactor, to: &Address, far: Relay) {
    let mut far = Some(far);
    reactor.connect(to, move |_: &Address| far.take()).detach();
}

/// Two peers, joined by a relay of a fresh loop.
fn relayed(kit: Kit) -> (Rig, B, B) {
    let mut rig = kit.rig();
    let server = rig.peer_port();
    let (near, far) = Relay::pair();
    let mut near = Some(near);
    let port = rig.listen_with(move |_: &Address| near.take());
    let client = rig.peer(&port);
    connect(&rig.reactor, &server.address(), far);
    let server = rig.accepted(&server);
    (rig, client, server)
}

fn is_over(rig: &mut Rig) {
    for _ in 0..2000 {
        if rig.l.snapshot().connections.is_empty() {
            return;
        }
        rig.turn();
    }
    panic!("a connection is left: {:?}", rig.l.snapshot().connections);
}

pub(crate) fn c71a_a_relay_passes_bytes_and_each_end_of_stream_on(kit: Kit) {
    for by_client in [true, false] {
        let (mut rig, client, server) = relayed(kit);
        let (asks, answers) = if by_client { (client, server) } else { (server, client) };
        asks.send(b"a question");
        asks.fin();
        rig.gets(&answers, b"a question");
        assert_eq!(rig.take_to_the_end(&answers), Saw::Fin);
        answers.send(b"an answer");
        rig.gets(&asks, b"an answer");
        rig.tick();
        assert_eq!(asks.saw(), Saw::Open, "the other direction is open");
        answers.fin();
        assert_eq!(rig.take_to_the_end(&asks), Saw::Fin);
    }
    let (mut rig, client, server) = relayed(kit);
    client.fin();
    server.fin();
    is_over(&mut rig);
}

pub(crate) fn c71a_a_close_by_a_drain_ends_the_other_side_too(kit: Kit) {
    let (mut rig, client, server) = relayed(kit);
    client.send(b"ping");
    rig.gets(&server, b"ping");
    rig.reactor.drain(Duration::ZERO).detach();
    assert_eq!(rig.take_to_the_end(&client), Saw::Fin);
    rig.turns(3);
    assert_eq!(server.saw(), Saw::Open, "the other one has not ended");
    client.fin();
    assert_ne!(rig.take_to_the_end(&server), Saw::Open);
    is_over(&mut rig);
}

pub(crate) fn c71a_a_relay_passes_a_reset_on(kit: Kit) {
    for by_client in [true, false] {
        let (mut rig, client, server) = relayed(kit);
        client.send(b"ping");
        rig.gets(&server, b"ping");
        let (resets, sees) = if by_client { (client, server) } else { (server, client) };
        resets.reset();
        assert_eq!(rig.take_to_the_end(&sees), Saw::Reset);
        is_over(&mut rig);
    }
}

pub(crate) fn c71a_a_relay_holds_no_more_than_the_mark_and_one_read(kit: Kit) {
    let (mut rig, client, server) = relayed(kit);
    let big = kit.big();
    let (mut sent, mut still) = (0, 0);
    while sent < big.len() && still < 300 {
        let taken = client.try_send(&big[sent..]);
        sent += taken;
        still = if taken > 0 { 0 } else { still + 1 };
        rig.turn();
        let held: usize = rig.l.snapshot().connections.iter().map(|c| c.buffered).sum();
        assert!(held <= HELD, "{held} bytes");
    }
    assert!(sent < big.len(), "a peer that does not read holds the other one back");
    rig.until("all of it", || {
        sent += client.try_send(&big[sent..]);
        server.take_all();
        server.got_len() == big.len()
    });
    assert!(server.got() == big);
}

pub(crate) fn c71a_a_protocol_may_be_upgraded_to_a_relay(kit: Kit) {
    let mut rig = kit.rig();
    let target = rig.peer_port();
    let a = rig.end();
    let address = target.address();
    let script = Script::new().once(On::Data, move |transport| {
        let (near, far) = Relay::pair();
        connect(transport.reactor(), &address, far);
        transport.upgrade(Upgrade::with_unread(near, b"behind the handshake"));
    });
    let client = rig.peer_of(&a, script);
    client.send(b"CONNECT");
    let server = rig.accepted(&target);
    client.send(b", and more");
    client.fin();
    rig.gets(&server, b"behind the handshake, and more");
    server.send(b"answer");
    server.fin();
    rig.gets(&client, b"answer");
    is_over(&mut rig);
    assert_eq!(a.log.entries(), ["made", "data(7)"]);
}

/// Frames words of three bytes and logs them; the word `III` pauses.
struct Threes {
    buffer: FrameBuffer,
    log: Log,
}

impl Framer for Threes {
    type Transport = Transport;

    fn step(&mut self, transport: &Transport, bytes: &[u8]) -> Option<usize> {
        if bytes[0] == b'!' {
            return None;
        }
        let word = bytes.get(..3)?;
        self.log.note(String::from_utf8_lossy(word));
        if word == b"III" {
            transport.pause_producing();
        }
        Some(3)
    }

    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }

    fn limit(&self) -> usize {
        5
    }
}

impl Protocol for Threes {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.frame(transport, data);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.frame_held(transport);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &couplet::Reason) {
        self.log.note(format!("lost({})", super::recorder::text(reason)));
    }

    fn connection_made(&mut self, transport: &Transport) {
        for second in 1..=2 {
            let resuming = transport.clone();
            let resume = move || resuming.resume_producing();
            transport.reactor().call_later(Duration::from_secs(second), resume);
        }
    }
}

fn frames(kit: Kit) -> (Rig, B, Log) {
    let (rig, log) = (kit.rig(), Log::default());
    let mut framer = Some(Threes { buffer: FrameBuffer::default(), log: log.clone() });
    let port = rig.listen_with(move |_: &Address| framer.take());
    let b = rig.peer(&port);
    (rig, b, log)
}

pub(crate) fn c169a_a_custom_framer_finds_the_same_messages_however_they_are_cut(kit: Kit) {
    let stream = b"onetwosixten";
    for size in [1, 2, 4, 5, 12] {
        let (mut rig, b, log) = frames(kit);
        for (n, piece) in stream.chunks(size).enumerate() {
            b.send(piece);
            let whole = ((n + 1) * size).min(stream.len()) / 3;
            rig.until("the words so far", || log.len() == whole);
        }
        b.fin();
        rig.until("the end", || log.has("lost"));
        assert_eq!(log.entries(), ["one", "two", "six", "ten", "lost(Done(Peer))"]);
    }
}

pub(crate) fn c169a_a_custom_framer_stops_at_a_pause_and_refuses_long_messages(kit: Kit) {
    let (mut rig, b, log) = frames(kit);
    b.send(b"oneIIItwoIIIsi");
    rig.until("a pause", || log.has("III"));
    b.send(b"x!!!!!");
    for held in [&["one", "III"][..], &["one", "III", "two", "III"]] {
        rig.tick();
        assert_eq!(log.entries(), held);
        rig.pass(Duration::from_secs(1));
        rig.turns(3);
    }
    b.fin();
    rig.until("the end", || log.has("lost"));
    let lost = "lost(Failed(the peer sent a message of more than 5 bytes))";
    assert_eq!(log.entries()[4..], ["six", lost]);
}

pub(crate) fn c169b_messages_past_the_rate_wait_and_none_is_lost(kit: Kit) {
    struct Notes(Log);
    impl LineProtocol for Notes {
        fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
            self.0.note(String::from_utf8_lossy(line));
        }
    }
    let (mut rig, log) = (kit.rig(), Log::default());
    let limited = LimitMessages::new(Notes(log.clone())).with_rate(2, Duration::from_secs(1));
    let mut limited = Some(LineReceiver::new(limited));
    let port = rig.listen_with(move |_: &Address| limited.take());
    let b = rig.peer(&port);
    b.send(b"a\r\nb\r\nc\r\nd\r\ne\r\n");
    rig.until("the burst", || log.len() == 2);
    b.send(b"f\r\n");
    for count in 2..6 {
        rig.tick();
        assert_eq!(log.len(), count);
        rig.pass(Duration::from_millis(499));
        rig.tick();
        assert_eq!(log.len(), count, "the time of a token has not passed");
        rig.pass(Duration::from_millis(1));
        rig.until("the next one", || log.len() == count + 1);
    }
    assert_eq!(log.entries(), ["a", "b", "c", "d", "e", "f"]);
}

scripted! {
    $ ready_made:

    // The longest counts, and no resume ends it; its end ends no pause.
    fn c169b_a_timed_pause_is_independent_of_other_pauses() needs slices
        "once data: pause_for 1, pause_for 1ms, resume; b send one; a gets one; b send two; pass 999ms; tick
        a received one; a pause; pass 1ms; tick; a received one; a resume; a gets onetwo";
}
