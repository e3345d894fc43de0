//! Row 20a: the calls that still come between a close and `connection_lost`. None comes after it.

use std::rc::Rc;
use std::time::Duration;

use couplet::driver::CloseMode;
use couplet::{ProducerKind, Transport};

use super::endings::write_big;
use super::flushing::write_in_pieces;
use super::kit::{Kit, key_of, s};
use super::peer::Saw;
use super::recorder::{A, Broken, On, Recorder, Script};

pub(crate) fn c20a_after_lose_connection_no_reading_callback_comes(kit: Kit) {
    for aware in [true, false] {
        for paused in [true, false] {
            let mut rig = kit.rig();
            let script = Script::new();
            let (a, b) = rig.accept(if aware { script.aware() } else { script });
            write_big(&rig, &a);
            if paused {
                a.transport().pause_producing();
                rig.turn();
                b.send(b"0123456789");
                b.fin();
                rig.tick();
            }
            a.transport().lose_connection();
            a.transport().resume_producing();
            rig.turn();
            if !paused {
                b.send(b"0123456789");
                b.fin();
                rig.tick();
            }
            assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
            let reason = if paused { "Done(Peer)" } else { "Done(Us)" };
            assert_eq!(rig.lost(&a), reason);
            assert_eq!(a.log.len(), 2, "{:?}", a.log.entries());
        }
    }
}

pub(crate) fn c20a_after_lose_connection_tell_ask_timers_and_write_closed_still_run(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    write_big(&rig, &a);
    a.transport().lose_write_connection();
    a.transport().lose_connection();
    rig.turn();
    let (told, timed) = (a.log.clone(), a.log.clone());
    assert!(a.tell(move |_| told.note("told")));
    a.log.watch("asked", a.ask(|_| 7));
    a.call_later(s(1), move |_| timed.note("timed"));
    rig.turns(2);
    rig.pass(s(1));
    rig.turns(2);
    assert_eq!(a.log.entries(), ["made", "told", "asked: ok", "timed"]);
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    rig.until("write_closed", || a.log.has("write_closed"));
    b.fin();
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(a.log.entries()[4..], ["write_closed", "lost(Done(Us))"]);
}

pub(crate) fn c20a_after_a_panic_only_connection_lost_comes(kit: Kit) {
    let captured = Rc::new(());
    let capture = captured.clone();
    let script = Script::new().on_a(On::Data, move |a, transport| {
        for delay in [None, Some(s(0)), Some(s(1))] {
            let (log, capture) = (a.log.clone(), capture.clone());
            let call = move |_: &mut Recorder, _: &Transport| {
                drop(capture);
                log.note("called");
            };
            match delay {
                None => assert!(a.connection().tell(call)),
                Some(delay) => drop(a.connection().call_later(delay, call)),
            }
        }
        a.produces(ProducerKind::Pull, |_, _| {});
        transport.lose_write_connection();
        panic!("no more");
    });
    let (mut rig, a, b) = kit.read_buffer(4096).arriving(script);
    b.send(&[7; 3 * 4096]);
    b.fin();
    assert_eq!(rig.lost(&a), "Panicked(no more)");
    rig.pass(s(1));
    rig.turns(2);
    assert_eq!(a.log.entries(), ["made", "data(4096)", "stop", "lost(Panicked(no more))"]);
    // The script, which the protocol owns, was dropped too.
    assert_eq!(Rc::strong_count(&captured), 1);
}

pub(crate) fn c20a_a_panic_drops_unsent_bytes_and_the_peer_sees_a_fin(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    a.tell(|transport| {
        transport.write("x");
        panic!("no more");
    });
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(b.got(), b"");
    // With BIG partly sent.
    let (mut rig, a, b) = kit.accept(Script::new());
    write_in_pieces(&a.transport(), kit.big());
    rig.turns(2);
    a.tell(|_| panic!("no more"));
    rig.ends(&a, &b, "Panicked(no more)");
    assert!(kit.big().starts_with(&b.got()));
    assert!(0 < b.got_len() && b.got_len() < kit.big().len());
    assert_eq!(rig.counts(&a).closes, [CloseMode::Normal]);
}

pub(crate) fn c20a_fail_flushes_what_was_written(kit: Kit) {
    for lost_first in [false, true] {
        let (mut rig, a, b) = kit.accept(Script::new());
        write_big(&rig, &a);
        if lost_first {
            a.transport().lose_connection();
            rig.turn();
        }
        a.tell(|transport| {
            transport.fail(Broken("e"));
            transport.write("late");
        });
        rig.ends(&a, &b, "Failed(e)");
        assert!(b.got() == kit.big());
        assert_eq!(a.reason().downcast_ref::<Broken>(), Some(&Broken("e")));
    }
}

/// Calls `tell` on the connection in its drop.
struct TellsInDrop(A);

impl Drop for TellsInDrop {
    fn drop(&mut self) {
        let accepted = self.0.tell(|_| panic!("a late tell was called"));
        self.0.log.note(format!("a capture is dropped, tell accepted: {accepted}"));
    }
}

pub(crate) fn c20a_from_connection_lost_on_tell_ask_and_call_later_are_refused(kit: Kit) {
    let refused = |a: &A| {
        let capture = Rc::new(());
        for _ in 0..2 {
            let held = capture.clone();
            assert!(!a.tell(move |_| drop(held)));
            let held = capture.clone();
            let call = a.call_later(Duration::ZERO, move |_| drop(held));
            assert!(!call.active());
            assert_eq!(Rc::strong_count(&capture), 1, "dropped immediately");
        }
        a.log.watch_loss("a late ask", a.ask(|_| ()));
    };
    let (mut rig, a, _b) = kit.accept(Script::new().on_a(On::Lost, move |a, _| refused(a)));
    let (other, _b2) = rig.accept(Script::new());
    // Calls queued behind the loss, and a timed call still pending.
    let (log, last) = (a.log.clone(), TellsInDrop(a.clone()));
    a.call_later(s(1), move |_| drop(last));
    a.tell(Transport::abort_connection);
    let end = a.clone();
    other.tell(move |_| {
        assert!(end.tell(move |_| log.note("told")));
        end.log.watch_loss("a queued ask", end.ask(|_| ()));
    });
    rig.until("lost", || a.is_lost());
    rig.turns(5);
    refused(&a);
    rig.pass(s(1));
    rig.turns(2);
    let mut seen = a.log.entries();
    assert_eq!(seen[..3], ["made", "lost(Aborted)", "a late ask: Aborted"]);
    seen[3..].sort();
    let rest = [
        "a capture is dropped, tell accepted: false",
        "a late ask: Aborted",
        "a queued ask: Aborted",
    ];
    assert_eq!(seen[3..], rest);
}

pub(crate) fn c20a_calls_queued_for_a_lost_connection_never_reach_its_successor(kit: Kit) {
    let mut rig = kit.rig();
    let next = rig.end();
    let port = rig.listen(&next, Script::new());
    let (a, _b) = rig.accept(Script::new());
    // The turn ends with a call queued behind the loss.
    let end = a.clone();
    rig.reactor.call_soon(move || {
        let again = end.clone();
        end.tell(move |_| {
            let log = again.log.clone();
            assert!(again.tell(move |_| log.note("told")));
        });
        end.transport().abort_connection();
    });
    rig.until("lost", || a.is_lost());
    let _b2 = rig.peer(&port);
    rig.until("made", || next.is_made());
    rig.turns(2);
    let (before, now) = (key_of(&a.transport()), key_of(&next.transport()));
    // An operation in flight keeps its slot for some more turns.
    assert!(before.slot == now.slot || kit.in_flight(), "the driver reuses the slot");
    assert_ne!(before, now);
    assert_eq!(a.log.entries(), ["made", "lost(Aborted)"]);
}
