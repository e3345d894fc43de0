//! Layers that break: each ends its own connection, and nothing else.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use couplet::layers::{Layer, LayerWaker, Outbox, PassThrough, Up};
use couplet::{Producer, ProducerKind, Reason};

use super::{End, Rig};

/// Panics in the named call.
struct Panics(&'static str, PassThrough);

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
        if !below.is_empty() {
            self.at("up");
        }
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
                Panics(if first.replace(false) { call } else { "" }, PassThrough::default())
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
            Panics(if first.replace(false) { "attach" } else { "" }, PassThrough::default())
        });
        let broken = rig.network.connect(port.clone()).expect("the port listens");
        rig.turn();
        broken.fin();
        rig.turn();
        assert!(!server.is_made());
        let snapshot = rig.l.snapshot();
        assert_eq!((snapshot.ports[0].not_opened, snapshot.connections.len()), (1, 0));
        let live = End::default().on("made", |transport| {
            transport.start_layer(Panics("attach", PassThrough::default()))
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
        let port = rig.listen_over(&server, |_, _| Panics("up", PassThrough::default()));
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
