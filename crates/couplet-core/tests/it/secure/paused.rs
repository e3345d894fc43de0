//! A protocol that pauses while its layers have work: no byte is lost.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::Transport;
use couplet::layers::{Bandwidth, Layer, LayerWaker, Outbox, SingleBytes, Throttle, Up};

use super::{End, Rig};

/// Passes single bytes, and can be woken from outside.
#[derive(Default)]
struct Woken(SingleBytes, Rc<RefCell<Option<LayerWaker>>>);

impl Layer for Woken {
    fn attach(&mut self, waker: &dyn Fn() -> LayerWaker) {
        *self.1.borrow_mut() = Some(waker());
    }

    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        self.0.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        self.0.down(above, below, now);
    }

    fn ended(&mut self) {
        self.0.ended();
    }
}

fn pauses() -> End {
    let first = std::cell::Cell::new(true);
    End::default().on("data", move |transport| {
        if first.replace(false) {
            transport.pause_producing();
        }
    })
}

#[test]
fn c52_a_throttle_whose_time_comes_in_a_pause_keeps_its_bytes() {
    for mut rig in Rig::both() {
        let server = End::default();
        let throttle = |_: &_, _: &_| Throttle::new(Some(Bandwidth::new(100)), None);
        let wire = rig.wire_over(&server, throttle);
        wire.push(b"0123456789abcdef");
        rig.fin(&wire);
        let before = server.received();
        assert_eq!(before, b"0123456789", "the rest waits for its time");
        server.transport().pause_producing();
        (0..3).for_each(|_| rig.advance(Duration::from_secs(1)));
        assert_eq!(server.received(), before, "nothing comes in a pause");
        server.transport().resume_producing();
        (0..3).for_each(|_| rig.advance(Duration::from_secs(1)));
        assert_eq!(server.received(), b"0123456789abcdef");
        assert!(server.reason().is_clean(), "{}", server.reason());
    }
}

#[test]
fn c52_a_layer_that_is_woken_in_a_pause_keeps_its_bytes() {
    for mut rig in Rig::both() {
        let (server, waker) = (pauses(), Rc::new(RefCell::new(None::<LayerWaker>)));
        let kept = waker.clone();
        let wire = rig.wire_over(&server, move |_, _| Woken(SingleBytes::default(), kept.clone()));
        rig.push(&wire, b"abc");
        waker.borrow().as_ref().expect("it was attached").wake();
        rig.turn();
        assert_eq!(server.received(), b"a");
        server.transport().resume_producing();
        rig.turn();
        assert_eq!(server.received(), b"abc");
    }
}

#[test]
fn c52_c81_a_resume_in_handshake_completed_delivers_the_bytes_that_came_with_the_handshake() {
    for mut rig in Rig::both() {
        let server = rig.starting_server().on("made", Transport::pause_producing);
        let server = server.on("secure", Transport::resume_producing);
        let client = rig.starting_client();
        let client = client.on("made", |transport| transport.write("with the last flight"));
        rig.join_in_clear(&server, &client);
        assert_eq!(server.log(), ["made", "secure", "data"]);
        assert_eq!(server.received(), b"with the last flight");
        assert_eq!(client.log(), ["made", "secure"]);
    }
}
