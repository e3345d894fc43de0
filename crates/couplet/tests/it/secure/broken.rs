//! Layers that break: each ends its own connection, and nothing else.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use couplet::Reason;
use couplet::layers::{Layer, Outbox, PassThrough, Up};

use super::{End, Rig};

/// Panics in the named call.
struct Panics(&'static str, PassThrough);

impl Panics {
    fn at(&self, call: &str) {
        assert!(self.0 != call, "broken in {call}");
    }
}

impl Layer for Panics {
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
    for call in ["up", "down", "close", "drop"] {
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
