//! Bytes that pass through layers while user code runs in between.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet::factory::Layered;
use couplet::layers::{Layer, Outbox, PassThrough, PlaintextAfterUpgrade, SingleBytes, Up};
use couplet::{Bytes, Producer, ProducerKind, Transport};

use super::{End, Rig};

/// Copies output, as a layer that encrypts does.
#[derive(Default)]
struct Copies(PassThrough);

impl Layer for Copies {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        self.0.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
        while !above.is_empty() {
            below.extend(above.first());
            above.advance(above.first().len());
        }
    }

    fn ended(&mut self) {
        self.0.ended();
    }
}

/// A user's buffer.
struct Answer {
    _kept: Arc<()>,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        b"answer"
    }
}

#[test]
fn a_buffer_that_a_lower_layer_copied_is_dropped_when_it_has_left() {
    for mut rig in Rig::both() {
        let flag = Arc::new(());
        let kept = flag.clone();
        let server = End::default().on("data", move |transport| {
            transport.write_bytes(Bytes::from_owner(Answer { _kept: kept.clone() }));
        });
        let end = server.clone();
        let below = Layered::new(move || end.clone(), |_: &_, _: &_| PassThrough::default());
        let factory = Layered::new(below, |_: &_, _: &_| Copies::default());
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let port = rig.reactor.listen_tcp(any, factory).expect("a free port").host();
        let wire = rig.network.connect(port).expect("the port listens");
        rig.turn();
        wire.push(b"question");
        rig.turn();
        assert_eq!(wire.take(), b"answer");
        assert_eq!(Arc::strong_count(&flag), 2, "nothing holds the buffer any more");
    }
}

/// Runs an act in its next `down` that has output.
struct Acts(PassThrough, Act);

type Act = Rc<RefCell<Option<Box<dyn FnOnce()>>>>;

impl Layer for Acts {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        self.0.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        if !above.is_empty()
            && let Some(act) = self.1.take()
        {
            act();
        }
        self.0.down(above, below, now);
    }

    fn ended(&mut self) {
        self.0.ended();
    }
}

#[test]
fn what_a_layer_asks_while_an_answer_passes_is_done() {
    for mut rig in Rig::both() {
        for closes in [false, true] {
            let act = Act::default();
            let server = End::default().on("data", |transport| transport.write("answer"));
            let given = act.clone();
            let port =
                rig.listen_over(&server, move |_, _| Acts(PassThrough::default(), given.clone()));
            let wire = rig.network.connect(port).expect("the port listens");
            rig.turn();
            let transport = server.transport();
            *act.borrow_mut() = Some(Box::new(move || match closes {
                true => transport.lose_connection(),
                false => transport.write(", and more"),
            }));
            wire.push(b"question");
            rig.turn();
            match closes {
                true => assert_eq!((&wire.take()[..], wire.saw_fin()), (&b"answer"[..], true)),
                false => assert_eq!(wire.take(), b"answer, and more"),
            }
        }
    }
}

/// Fails at its deadline.
struct Limited(PassThrough, Option<Instant>, Rc<Cell<usize>>, bool);

impl Layer for Limited {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        if self.3 {
            return Up::Failed(couplet::Reason::Timeout);
        }
        self.0.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        self.0.down(above, below, now);
    }

    fn deadline(&self) -> Option<Instant> {
        self.1
    }

    fn timed_out(&mut self, _: Instant) {
        self.2.set(self.2.get() + 1);
        self.3 = true;
    }

    fn ended(&mut self) {
        self.0.ended();
    }
}

#[test]
fn a_deadline_that_comes_in_a_pause_comes_once() {
    for mut rig in Rig::both() {
        let server = End::default().on("made", Transport::pause_producing);
        let count = Rc::new(Cell::new(0));
        let noted = count.clone();
        let port = rig.listen_over(&server, move |reactor, _| {
            let at = reactor.now() + Duration::from_secs(1);
            Limited(PassThrough::default(), Some(at), noted.clone(), false)
        });
        let wire = rig.network.connect(port).expect("the port listens");
        rig.turn();
        rig.advance(Duration::from_secs(2));
        assert_eq!(count.get(), 1, "the loop may sleep");
        server.transport().resume_producing();
        rig.turn();
        assert!(wire.saw_fin(), "the layer has failed");
        wire.fin();
        rig.turn();
        assert!(matches!(server.reason(), couplet::Reason::Timeout));
    }
}

#[test]
fn two_layers_asked_for_at_once_with_bytes_in_between() {
    for mut rig in Rig::both() {
        let server = End::default().on("data", |transport| {
            transport.write("a");
            transport.start_layer(PassThrough::default()).expect("it may still write");
            transport.write("b");
            transport.start_layer(PassThrough::default()).expect("it may still write");
            transport.write("c");
            transport.lose_connection();
        });
        let port = rig.listen_in_clear(&server);
        let wire = rig.network.connect(port).expect("the port listens");
        wire.push(b"question");
        rig.turn();
        assert_eq!(wire.take(), b"abc");
        assert_eq!(server.transport().buffered(), 0);
        assert!(wire.saw_fin());
    }
}

/// A paused connection over a layer of single bytes, with `abc` as its input. Its answer to `a`
/// leaves in the turn in which another connection resumes it.
fn resumed_as_its_answer_leaves(rig: &mut Rig, server: &End) -> couplet::testing::Wire {
    rig.network.set_capacity(4);
    let port = rig.listen_over(server, |_, _| SingleBytes::default());
    let wire = rig.network.connect(port).expect("the port listens");
    rig.turn();
    let resumed = server.transport();
    let other = End::default().on("data", move |_| resumed.resume_producing());
    let port = rig.listen_in_clear(&other);
    let second = rig.network.connect(port).expect("the port listens");
    rig.turn();
    wire.push(b"abc");
    rig.turn();
    assert_eq!(server.received(), b"a");
    wire.take();
    second.push(b"now");
    rig.turn();
    assert_eq!(other.received(), b"now");
    wire
}

#[test]
fn flushed_does_not_fire_for_what_was_written_in_the_calls_before_it() {
    for mut rig in Rig::both() {
        let flushed = Rc::new(RefCell::new(Vec::new()));
        let noted = flushed.clone();
        let server = End::default().on("data", move |transport| {
            transport.pause_producing();
            transport.write("answer");
            let (noted, asked) = (noted.clone(), transport.clone());
            let fired = move |()| noted.borrow_mut().push(asked.buffered());
            transport.flushed().map(fired).detach();
        });
        let wire = resumed_as_its_answer_leaves(&mut rig, &server);
        assert_eq!(server.received(), b"ab");
        for _ in 0..10 {
            wire.take();
            rig.turn();
        }
        assert_eq!(*flushed.borrow(), [0, 0], "each fires once all has left");
    }
}

struct Resumes(Transport);

impl Producer for Resumes {
    fn pause_producing(&mut self) {}

    fn resume_producing(&mut self) {
        self.0.resume_producing();
    }

    fn stop_producing(&mut self) {}
}

#[test]
fn who_pauses_and_resumes_in_one_round_of_calls_gets_what_the_layers_hold() {
    for mut rig in Rig::both() {
        let server = End::default().on("data", |transport| {
            transport.pause_producing();
            let producer = Resumes(transport.clone());
            if transport.register_producer(producer, ProducerKind::Push).is_ok() {
                // 4 bytes leave immediately, so the producer pauses; after 4 more it resumes.
                transport.set_write_marks(12, 15);
                transport.write([1; 20]);
            }
        });
        let wire = resumed_as_its_answer_leaves(&mut rig, &server);
        for _ in 0..10 {
            wire.take();
            rig.turn();
        }
        assert_eq!(server.received(), b"abc");
    }
}

#[test]
fn a_fin_and_a_reset_in_a_pause() {
    for reset in [false, true] {
        for mut rig in Rig::both() {
            let server = End::default().on("made", Transport::pause_producing);
            let port = rig.listen_over(&server, |_, _| SingleBytes::default());
            let wire = rig.network.connect(port).expect("the port listens");
            rig.turn();
            wire.push(b"abc");
            match reset {
                true => wire.reset(),
                false => wire.fin(),
            }
            rig.turn();
            server.transport().resume_producing();
            rig.turn();
            if !reset {
                assert_eq!(server.received(), b"abc");
            }
            assert_eq!(server.reason().is_clean(), !reset);
        }
    }
}

#[test]
fn bytes_in_clear_that_an_upgrade_leaves_behind_a_new_layer_cut_the_connection() {
    for upgrade_first in [false, true] {
        for mut rig in Rig::both() {
            let (next, tls) = (End::default(), rig.server.clone());
            let given = next.clone();
            let server = End::default().on("data", move |transport| {
                if upgrade_first {
                    transport.upgrade_with(given.clone(), b"in clear");
                }
                transport.start_tls(&tls).expect("it may still write");
                if !upgrade_first {
                    transport.upgrade_with(given.clone(), b"in clear");
                }
            });
            let port = rig.listen_in_clear(&server);
            let wire = rig.network.connect(port).expect("the port listens");
            wire.push(b"STARTTLS");
            rig.turn();
            wire.fin();
            rig.turn();
            assert_eq!(next.received(), b"", "they are no bytes of the encrypted stream");
            let reason = if next.is_lost() { next.reason() } else { server.reason() };
            assert!(reason.downcast_ref::<PlaintextAfterUpgrade>().is_some(), "{reason}");
        }
    }
}
