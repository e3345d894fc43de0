//! Bytes that pass through layers while user code runs in between.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::layers::{PassThrough, PlaintextAfterUpgrade, SingleBytes};
use couplet::transport::Upgrade;
use couplet::{ProducerKind, Transport};

use super::{End, Hooked, Rig};
use crate::suite::recorder::{A, Call};

#[test]
fn requests_of_a_layer_while_an_answer_passes_are_carried_out() {
    for (closes, mut rig) in Rig::each([false, true]) {
        let server = End::default().on("data", |transport| transport.write("answer"));
        let (asks, acts) = (server.clone(), Rc::new(Cell::new(true)));
        let wire = rig.wire_over(&server, move |_, _| {
            let (asks, acts) = (asks.clone(), acts.clone());
            Hooked::new(move |call| {
                match closes {
                    _ if call != "down" || !acts.replace(false) => {}
                    true => asks.transport().lose_connection(),
                    false => asks.transport().write(", and more"),
                }
                None
            })
        });
        rig.push(&wire, b"question");
        match closes {
            true => assert_eq!((&wire.take()[..], wire.saw_fin()), (&b"answer"[..], true)),
            false => assert_eq!(wire.take(), b"answer, and more"),
        }
    }
}

#[test]
fn a_deadline_that_comes_in_a_pause_comes_once() {
    for mut rig in Rig::both() {
        let server = End::default().on("made", Transport::pause_producing);
        let count = Rc::new(Cell::new(0));
        let noted = count.clone();
        let wire = rig.wire_over(&server, move |reactor, _| {
            let noted = noted.clone();
            // Fails at its deadline.
            let fails = move |call: &str| {
                noted.set(noted.get() + usize::from(call == "timed_out"));
                (call.starts_with("up") && noted.get() > 0).then_some(couplet::Reason::Timeout)
            };
            Hooked::new(fails).with_deadline(reactor.now() + Duration::from_secs(1))
        });
        rig.advance(Duration::from_secs(2));
        assert_eq!(count.get(), 1, "the loop may sleep");
        server.transport().resume_producing();
        rig.turn();
        assert!(wire.saw_fin(), "the layer has failed");
        rig.fin(&wire);
        assert!(matches!(server.reason(), couplet::Reason::Timeout));
    }
}

#[test]
fn bytes_written_between_two_layers_started_in_one_callback_arrive_in_order() {
    for mut rig in Rig::both() {
        let server = End::default().on("data", |transport| {
            transport.write("a");
            transport.start_layer(PassThrough::default()).expect("it may still write");
            transport.write("b");
            transport.start_layer(PassThrough::default()).expect("it may still write");
            transport.write("c");
            transport.lose_connection();
        });
        let wire = rig.wire(&server);
        rig.push(&wire, b"question");
        assert_eq!(wire.take(), b"abc");
        assert_eq!(server.transport().buffered(), 0);
        assert!(wire.saw_fin());
    }
}

/// A paused connection over a layer of single bytes, with `abc` as its input. The answer to `a`
/// leaves in the turn in which another connection resumes this one.
fn resumed_as_its_answer_leaves(rig: &mut Rig, server: &End) -> couplet::testing::Wire {
    rig.network.set_capacity(4);
    let wire = rig.wire_over(server, |_, _| SingleBytes::default());
    let resumed = server.transport();
    let other = End::default().on("data", move |_| resumed.resume_producing());
    let second = rig.wire(&other);
    rig.push(&wire, b"abc");
    assert_eq!(server.received(), b"a");
    wire.take();
    rig.push(&second, b"now");
    assert_eq!(other.received(), b"now");
    wire
}

#[test]
fn flushed_waits_for_bytes_written_in_earlier_calls_of_the_round() {
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

#[test]
fn a_pause_and_a_resume_in_one_round_of_calls_deliver_the_layers_held_bytes() {
    for mut rig in Rig::both() {
        let server = End::default().on("data", |transport| {
            transport.pause_producing();
            let producer = A::default().source(transport, |call, its| {
                if call == Call::Resume {
                    its.resume_producing();
                }
            });
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
fn bytes_in_clear_that_a_protocol_has_not_seen_when_it_starts_a_layer_cut_the_connection() {
    // (whether the next protocol pauses first, whether it starts the layer in a later turn)
    let orders = [(false, false), (true, false), (true, true)];
    let cases = orders.iter().flat_map(|order| [false, true].map(|layered| (*order, layered)));
    for (((pauses, later), layered), mut rig) in Rig::each(cases) {
        let tls = rig.server.clone();
        let start = move |transport: &Transport| {
            transport.start_tls(&tls).expect("it may still write");
        };
        let starting = start.clone();
        let next = End::default().on("made", move |transport| {
            if pauses {
                transport.pause_producing();
            }
            if !later {
                starting(transport);
            }
        });
        let given = next.clone();
        let server = End::default().on("data", move |transport| {
            transport.upgrade(Upgrade::with_unread(given.clone(), b"in clear"));
        });
        let wire = match layered {
            true => rig.wire_over(&server, |_, _| PassThrough::default()),
            false => rig.wire(&server),
        };
        rig.push(&wire, b"x");
        if later {
            start(&next.transport());
            rig.turn();
        }
        rig.fin(&wire);
        assert_eq!(next.received(), b"", "{pauses} {later}: they are no bytes of the layer");
        let reason = next.reason();
        assert!(reason.downcast_ref::<PlaintextAfterUpgrade>().is_some(), "{reason}");
    }
}

#[test]
fn bytes_in_clear_that_an_upgrade_leaves_behind_a_new_layer_cut_the_connection() {
    for (upgrade_first, mut rig) in Rig::each([false, true]) {
        let (next, tls) = (End::default(), rig.server.clone());
        let given = next.clone();
        let server = End::default().on("data", move |transport| {
            if upgrade_first {
                transport.upgrade(Upgrade::with_unread(given.clone(), b"in clear"));
            }
            transport.start_tls(&tls).expect("it may still write");
            if !upgrade_first {
                transport.upgrade(Upgrade::with_unread(given.clone(), b"in clear"));
            }
        });
        let wire = rig.wire(&server);
        rig.push(&wire, b"STARTTLS");
        rig.fin(&wire);
        assert_eq!(next.received(), b"", "they are no bytes of the encrypted stream");
        let reason = if next.is_lost() { next.reason() } else { server.reason() };
        assert!(reason.downcast_ref::<PlaintextAfterUpgrade>().is_some(), "{reason}");
    }
}
