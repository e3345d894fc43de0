//! Rows 17 to 20: `abort_connection`, and unrequested ends that become resets.

use std::time::Duration;

use couplet::driver::CloseMode;
use couplet::{ProducerKind, Transport};

use crate::logged::logged;

use super::closing::{closed_by_another_gets_nothing, returns_first_in_every_place};
use super::endings::write_big;
use super::kit::{BOTH_ROLES, Kit, Rig, Role};
use super::peer::{B, Saw};
use super::recorder::{A, Broken, Call, On, Script};

/// A state of A, the end that the peer sees of an abort in it, A's script, and how to reach the
/// state.
type State = (&'static str, Saw, fn(Script) -> Script, fn(&mut Rig, &A, &B));

const PLAIN: fn(Script) -> Script = |script| script;

const STATES: &[State] = &[
    ("open", Saw::Reset, PLAIN, |_, _, _| {}),
    ("BIG buffered", Saw::Reset, PLAIN, |rig, a, _| write_big(rig, a)),
    ("flushing", Saw::Reset, PLAIN, |rig, a, _| {
        write_big(rig, a);
        a.transport().lose_connection();
        rig.tick();
    }),
    ("draining", Saw::Fin, PLAIN, |rig, a, b| {
        a.transport().lose_connection();
        rig.take_to_the_end(b);
    }),
    ("half closed", Saw::Fin, PLAIN, |rig, a, b| {
        a.transport().lose_write_connection();
        rig.take_to_the_end(b);
        rig.until("write_closed", || a.log.has("write_closed"));
    }),
    ("half closed by the peer", Saw::Reset, Script::aware, |rig, a, b| {
        rig.fin(a, b);
    }),
];

pub(crate) fn c17_abort_connection_drops_unsent_bytes_and_resets(kit: Kit) {
    for (state, sees, script, reach) in STATES {
        for role in BOTH_ROLES {
            let (mut rig, a, b) = kit.pair(role, script(Script::new()));
            reach(&mut rig, &a, &b);
            let shut = rig.counts(&a).shut_writes;
            a.transport().abort_connection();
            rig.turn();
            assert!(a.is_lost(), "{state}: in that turn");
            assert_eq!(rig.lost(&a), "Aborted", "{state}");
            let counts = rig.counts(&a);
            assert_eq!(
                (counts.closes, counts.shut_writes),
                (vec![CloseMode::Reset], shut),
                "{state}"
            );
            assert_eq!(rig.take_to_the_end(&b), *sees, "{state}");
            assert!(*sees == Saw::Reset || b.is_broken(), "{state}");
            assert!(kit.big().starts_with(&b.got()) && b.got_len() < kit.big().len());
        }
    }
    for on in [On::Made, On::ReadClosed] {
        let script = Script::new().aware().on(on, Transport::abort_connection);
        let (mut rig, a, b) = kit.accept(script);
        b.fin();
        assert_eq!(rig.lost(&a), "Aborted", "{on:?}");
        assert_eq!(rig.counts(&a).closes, [CloseMode::Reset], "{on:?}");
        assert_eq!(rig.take_to_the_end(&b), Saw::Reset, "{on:?}");
    }
}

pub(crate) fn c17_abort_connection_returns_before_connection_lost(kit: Kit) {
    returns_first_in_every_place(kit, Transport::abort_connection);
}

pub(crate) fn c18_a_second_abort_or_a_close_after_it_is_harmless(kit: Kit) {
    let afterwards: [fn(&Transport); 5] = [
        Transport::abort_connection,
        Transport::lose_connection,
        Transport::lose_write_connection,
        |transport| transport.write("late"),
        |transport| {
            transport.pause_producing();
            transport.resume_producing();
        },
    ];
    for then in afterwards {
        for at_once in [true, false] {
            let (mut rig, a, _b) = kit.accept(Script::new());
            a.tell(move |transport| {
                transport.abort_connection();
                if at_once {
                    then(transport);
                }
            });
            rig.turn();
            then(&a.transport());
            assert_eq!(rig.lost(&a), "Aborted");
            assert_eq!(a.log.entries(), ["made", "lost(Aborted)"]);
            assert_eq!(rig.counts(&a).closes, [CloseMode::Reset]);
        }
    }
}

pub(crate) fn c19_a_panic_or_fail_after_abort_is_the_reason(kit: Kit) {
    type Act = (fn(&Transport), &'static str, usize);
    let acts: [Act; 2] = [
        (|_| panic!("p"), "Panicked(p)", 1),
        (|transport| transport.fail(Broken("e")), "Failed(e)", 0),
    ];
    for (act, reason, errors) in acts {
        let both = move |transport: &Transport| {
            transport.abort_connection();
            act(transport);
        };
        for place in ["data_received", "resume_producing", "a tell"] {
            let ((), lines) = logged(|| {
                let (mut rig, a, b) = kit.accept(match place {
                    "data_received" => Script::new().on(On::Data, both),
                    _ => Script::new(),
                });
                match place {
                    "data_received" => b.send(b"x"),
                    "a tell" => assert!(a.tell(both)),
                    _ => a.produces(ProducerKind::Pull, move |call, transport| {
                        if call == Call::Resume {
                            both(transport);
                        }
                    }),
                }
                assert_eq!(rig.lost(&a), reason, "{place}");
                assert_eq!(rig.take_to_the_end(&b), Saw::Reset, "{place}");
            });
            assert_eq!(lines.len(), errors, "{place}: {lines:?}");
        }
    }
}

pub(crate) fn c20_nothing_is_delivered_after_abort_connection(kit: Kit) {
    for with_big in [false, true] {
        let big = if with_big { kit.big() } else { &[] };
        let script = Script::new().on(On::Data, move |transport| {
            transport.write(big);
            transport.abort_connection();
        });
        let (mut rig, a, b) = kit.read_buffer(4096).arriving(script);
        b.send(&[7; 64 * 1024]);
        b.fin();
        assert_eq!(rig.lost(&a), "Aborted");
        assert_eq!((a.log.len(), a.log.count("data")), (3, 1), "{:?}", a.log.entries());
    }
    // From outside, while paused and with unread input.
    for paused in [true, false] {
        let (mut rig, a, b) = kit.accept(Script::new());
        if paused {
            a.transport().pause_producing();
            rig.turn();
        }
        b.send(b"0123456789");
        if paused {
            rig.tick();
        }
        a.transport().abort_connection();
        a.transport().resume_producing();
        assert_eq!(rig.lost(&a), "Aborted");
        assert_eq!(a.log.entries(), ["made", "lost(Aborted)"]);
    }
}

pub(crate) fn c20_a_connection_aborted_by_another_in_the_same_turn_gets_nothing(kit: Kit) {
    closed_by_another_gets_nothing(kit, Transport::abort_connection);
    let (mut rig, victim, _b) = kit.accept(Script::new());
    let other = victim.clone();
    let abort = move |_: &Transport| other.transport().abort_connection();
    let (a, b) = rig.accept(Script::new().on(On::Data, abort));
    b.send(b"x");
    while !a.log.has("data") {
        assert!(!victim.is_lost());
        rig.turn();
    }
    assert!(victim.is_lost(), "in the same turn");
    assert_eq!(rig.lost(&victim), "Aborted");
}

/// A is open, has written a part, and has asked for a reset in place of any end it does not
/// request.
fn unfinished(kit: Kit, role: Role) -> (Rig, A, B) {
    let script = Script::new().once(On::Made, |transport| {
        transport.set_reset_unless_closed(true);
        transport.write("a part");
    });
    let (mut rig, a, b) = kit.pair(role, script);
    rig.until("the part", || b.take_all() + b.got_len() >= 6);
    (rig, a, b)
}

pub(crate) fn c17a_an_unrequested_end_is_a_reset(kit: Kit) {
    type End = (&'static str, &'static str, fn(&mut Rig, &A));
    let ends: [End; 5] = [
        ("a panic", "Panicked(on purpose)", |_, a| {
            a.tell(|_| panic!("on purpose"));
        }),
        // The unsent rest is dropped, so a FIN would end an incomplete stream.
        ("a panic after a half-close", "Panicked(on purpose)", |_, a| {
            a.tell(|transport| {
                transport.write("the rest");
                transport.lose_write_connection();
                panic!("on purpose");
            });
        }),
        ("a stop", "Shutdown", |rig, _| rig.stop(Duration::ZERO)),
        ("a stop while paused", "Shutdown", |rig, a| {
            a.transport().pause_producing();
            rig.turn();
            rig.stop(Duration::ZERO);
        }),
        // The close waits for a producer that never finishes.
        ("a stop while closing", "Shutdown", |rig, a| {
            a.transport().register_producer(a.transport(), ProducerKind::Push).unwrap();
            a.transport().lose_connection();
            rig.turns(2);
            rig.stop(Duration::from_millis(100));
        }),
    ];
    for (name, reason, end) in ends {
        for role in BOTH_ROLES {
            let (mut rig, a, b) = unfinished(kit, role);
            end(&mut rig, &a);
            assert_eq!(rig.lost(&a), reason, "{name}");
            let counts = rig.counts(&a);
            assert_eq!((counts.shut_writes, counts.closes), (0, vec![CloseMode::Reset]), "{name}");
            assert_eq!(rig.take_to_the_end(&b), Saw::Reset, "{name}");
        }
    }
}

pub(crate) fn c17a_a_requested_end_is_not_a_reset(kit: Kit) {
    type Close = (fn(&A, &B), &'static str);
    let closes: [Close; 4] = [
        (|a, _| a.transport().lose_connection(), "Done(Us)"),
        (|a, _| a.transport().lose_write_connection(), "Done(Peer)"),
        (|a, _| a.transport().fail(Broken("broken")), "Failed(broken)"),
        // It closes in `read_closed`, with no FIN before the close.
        (|_, b| b.fin(), "Done(Peer)"),
    ];
    for (close, reason) in closes {
        for role in BOTH_ROLES {
            let (mut rig, a, b) = unfinished(kit, role);
            write_big(&rig, &a);
            close(&a, &b);
            assert_eq!(rig.take_to_the_end(&b), Saw::Fin, "{reason}");
            assert!(b.got() == [b"a part", kit.big()].concat(), "{reason}");
            if !a.is_lost() {
                b.fin();
            }
            assert_eq!(rig.lost(&a), reason);
            rig.tick();
            assert!(!b.is_broken(), "{reason}: no reset after the FIN");
        }
    }
}

pub(crate) fn c17a_a_fin_cancels_the_reset_and_it_can_be_switched_off(kit: Kit) {
    // A shutdown after the FIN is a plain close, even if the reset is requested after it.
    let (mut rig, a, b) = unfinished(kit, Role::Server);
    a.transport().lose_write_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    a.transport().set_reset_unless_closed(true);
    rig.turns(2);
    rig.stop(Duration::ZERO);
    assert_eq!(rig.counts(&a).closes, [CloseMode::Normal]);
    assert!(!b.is_broken());
    // Switched off again, it ends like any connection.
    let (mut rig, a, b) = unfinished(kit, Role::Server);
    a.transport().set_reset_unless_closed(false);
    rig.turn();
    rig.stop(Duration::ZERO);
    assert_eq!(a.log.count("lost(Shutdown)"), 1);
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
}
