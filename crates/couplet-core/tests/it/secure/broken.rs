//! Layers that panic: each ends only its own connection.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use couplet::layers::{Layer, LayerWaker, Outbox, PassThrough, SingleBytes, Up};
use couplet::{Address, Producer, ProducerKind, Reason};

use super::{End, Rig};

/// Panics in the named call, each time.
struct Panics(&'static str, PassThrough, Option<Instant>);

impl Panics {
    fn at(&self, call: &str) {
        assert!(self.0 != call, "broken in {call}");
    }
}

impl Layer for Panics {
    fn attach(&mut self, _: &dyn Fn() -> LayerWaker) {
        self.at("attach");
    }

    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        self.at(if below.is_empty() { "up without bytes" } else { "up" });
        self.1.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        if !above.is_empty() {
            self.at("down");
        }
        self.1.down(above, below, now);
    }

    fn ended(&mut self) {
        self.at("ended");
        self.1.ended();
    }

    fn close(&mut self, _: &mut Outbox) {
        self.at("close");
    }

    fn is_open(&self) -> bool {
        self.at("is_open");
        true
    }

    fn held(&self) -> usize {
        self.at("held");
        0
    }

    fn deadline(&self) -> Option<Instant> {
        self.at("deadline");
        self.2
    }

    fn timed_out(&mut self, _: Instant) {
        self.at("timed_out");
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.at("drop");
        }
    }
}

#[test]
fn c44_a_panic_in_a_layer_ends_its_own_connection_alone() {
    for call in ["up", "down", "ended", "close", "drop"] {
        for mut rig in Rig::both() {
            let ended = Rc::new(Cell::new(0));
            let (count, first) = (ended.clone(), Cell::new(true));
            let server = End::default()
                .on("data", |transport| transport.write("answer"))
                .on("lost", move |_| count.set(count.get() + 1));
            let port = rig.listen_over(&server, move |_, _| {
                Panics(if first.replace(false) { call } else { "" }, PassThrough::default(), None)
            });
            let broken = rig.network.connect(port.clone()).expect("the port listens");
            broken.push(b"question");
            broken.fin();
            rig.turn();
            broken.take();
            rig.turn();
            assert_eq!(ended.get(), 1, "{call}");
            let panicked = matches!(server.reason(), Reason::Panicked(_));
            assert_eq!(panicked, call != "drop", "{call}: {}", server.reason());
            let other = rig.network.connect(port).expect("the port still listens");
            other.push(b"question");
            rig.turn();
            assert_eq!(other.take(), b"answer", "{call}");
        }
    }
}

#[test]
fn a_layer_that_panics_as_it_is_attached_ends_its_own_connection_alone() {
    for mut rig in Rig::both() {
        let (server, first) = (End::default(), Cell::new(true));
        let port = rig.listen_over(&server, move |_, _| {
            Panics(if first.replace(false) { "attach" } else { "" }, PassThrough::default(), None)
        });
        let broken = rig.network.connect(port.clone()).expect("the port listens");
        rig.turn();
        broken.fin();
        rig.turn();
        assert!(!server.is_made());
        let snapshot = rig.l.snapshot();
        assert_eq!((snapshot.ports[0].not_opened, snapshot.connections.len()), (1, 0));
        let live = End::default().on("made", |transport| {
            transport
                .start_layer(Panics("attach", PassThrough::default(), None))
                .expect("it may still write");
        });
        rig.join_in_clear(&live, &End::default());
        rig.turn();
        assert!(matches!(live.reason(), Reason::Panicked(_)), "{}", live.reason());
        rig.network.connect(port).expect("the port still listens");
        rig.turn();
        assert!(server.is_made());
    }
}

#[test]
fn after_a_panic_of_a_producer_that_a_broken_layer_stops_the_next_call_is_connection_lost() {
    struct Stubborn;

    impl Producer for Stubborn {
        fn resume_producing(&mut self) {}

        fn stop_producing(&mut self) {
            panic!("in stop");
        }
    }

    for mut rig in Rig::both() {
        let server = End::default().on("made", |transport| {
            transport.register_producer(Stubborn, ProducerKind::Push).expect("the first");
            transport.lose_write_connection();
        });
        let port = rig.listen_over(&server, |_, _| Panics("up", PassThrough::default(), None));
        let broken = rig.network.connect(port).expect("the port listens");
        rig.turn();
        broken.push(b"question");
        broken.fin();
        rig.turn();
        broken.take();
        rig.turn();
        assert!(matches!(server.reason(), Reason::Panicked(_)), "{}", server.reason());
        assert_eq!(server.log(), ["made", "lost"]);
    }
}

/// The ways to put a layer under a connection.
const WAYS: [&str; 4] = ["by the factory", "live", "live below another", "live on top of another"];

const CALLS: [&str; 8] =
    ["attach", "is_open", "up", "up without bytes", "down", "held", "deadline", "timed_out"];

/// A server with a layer that panics in `call` under its first connection.
fn listen_over_broken(rig: &Rig, server: &End, way: &str, call: &'static str) -> Address {
    let now = rig.reactor.now();
    let panics = move |call| Panics(call, PassThrough::default(), Some(now));
    let way = WAYS.iter().position(|each| *each == way).expect("a way");
    let first = Cell::new(true);
    if way == 0 {
        let call = move || if first.replace(false) { call } else { "" };
        return rig.listen_over(server, move |_, _| panics(call()));
    }
    let server = server.clone().on("made", move |transport| {
        let calls = match (way, first.replace(false)) {
            (_, false) => vec![],
            (1, true) => vec![call],
            (2, true) => vec![call, ""],
            (_, true) => vec!["", call],
        };
        calls
            .into_iter()
            .for_each(|call| transport.start_layer(panics(call)).expect("it may still write"));
    });
    rig.listen_in_clear(&server)
}

#[test]
fn c44_a_layer_may_panic_in_every_call_however_it_was_started() {
    for (way, call) in WAYS.iter().flat_map(|way| CALLS.map(|call| (way, call))) {
        for mut rig in Rig::both() {
            let server = End::default().on("data", |transport| transport.write("answer"));
            let port = listen_over_broken(&rig, &server, way, call);
            let broken = rig.network.connect(port.clone()).expect("the port listens");
            rig.turn();
            broken.push(b"question");
            rig.advance(std::time::Duration::from_secs(1));
            broken.fin();
            rig.turn();
            let lost = server.log().iter().filter(|call| *call == "lost").count();
            if lost == 0 {
                // Never opened: there was no protocol.
                let never = *way == "by the factory" && ["attach", "is_open"].contains(&call);
                let early = ["held", "deadline", "up without bytes"].contains(&call);
                assert!(never || *way == "by the factory" && early, "{way}, {call}");
                assert_eq!(rig.l.snapshot().ports[0].not_opened, 1, "{way}, {call}");
            } else {
                assert_eq!(lost, 1, "{way}, {call}");
                let panicked = matches!(server.reason(), Reason::Panicked(_));
                assert!(panicked, "{way}, {call}: {}", server.reason());
            }
            let other = rig.network.connect(port).expect("the port still listens");
            other.push(b"question");
            rig.turn();
            assert_eq!(other.take(), b"answer", "{way}, {call}");
        }
    }
}

#[test]
fn c44_a_refused_layer_may_panic_in_its_drop() {
    for mut rig in Rig::both() {
        // The first layer still holds the second byte, so the second layer is refused.
        let server = End::default().on("data", |transport| {
            transport
                .start_layer(Panics("drop", PassThrough::default(), None))
                .expect("it may still write");
        });
        let port = rig.listen_over(&server, |_, _| SingleBytes::default());
        let peer = rig.network.connect(port).expect("the port listens");
        peer.push(b"ab");
        rig.turn();
        peer.fin();
        rig.turn();
        let reason = server.reason();
        assert!(reason.to_string().contains("plaintext after STARTTLS"), "{reason}");
        assert_eq!(server.log(), ["made", "data", "lost"]);
    }
}

/// Holds all bytes until the stream below ends.
#[derive(Default)]
struct Holds {
    held: Vec<u8>,
    given: bool,
    ended: bool,
}

impl Layer for Holds {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        self.held.extend_from_slice(std::mem::take(below));
        match (self.ended, std::mem::replace(&mut self.given, self.ended)) {
            (false, _) => Up::Nothing,
            (true, false) if !self.held.is_empty() => Up::Data(&self.held),
            (true, _) => Up::Closed,
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
        below.append(above);
    }

    fn ended(&mut self) {
        self.ended = true;
    }
}

#[test]
fn c20a_a_panic_on_bytes_that_a_layer_held_back_until_the_fin_ends_the_connection_at_once() {
    for mut rig in Rig::both() {
        let server = End::default().on("data", |_| panic!("on the held bytes"));
        let port = rig.listen_over(&server, |_, _| Holds::default());
        let peer = rig.network.connect(port).expect("the port listens");
        peer.push(b"question");
        rig.turn();
        assert_eq!(server.log(), ["made"]);
        peer.fin();
        rig.turn();
        assert!(matches!(server.reason(), Reason::Panicked(_)), "{}", server.reason());
        assert_eq!(server.log(), ["made", "data", "lost"]);
    }
}
