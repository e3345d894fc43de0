//! Row 20a: the calls that still come between a close and `connection_lost`. None comes after it.

use std::rc::Rc;
use std::time::Duration;

use couplet::{ProducerKind, Transport};

use super::kit::{Kit, key_of, s};
use super::recorder::{A, On, Recorder, Script};

scripted! {
    $ aftermath:

    fn c20a_after_lose_connection_no_reading_callback_comes() needs half_close
        "{aware|plain}; a bytes BIG; {1:a pause; turn; b send 0123456789; b fin; tick|plain}
        a lose, resume; turn; {1:plain|b send 0123456789; b fin; tick}
        b sees Fin; a lost {1:Done(Peer)|Done(Us)}; a entries 2";

    fn c20a_after_lose_connection_tell_ask_timers_and_write_closed_still_run()
        "a bytes BIG, half, lose; turn; a tells note told; a ask asked; a in 1 note timed; turns 2; pass 1; turns 2
        a log made, told, asked: ok, timed; b sees Fin; a until write_closed; b fin; a lost Done(Us)
        a log made, told, asked: ok, timed, write_closed, lost(Done(Us))";

    fn c20a_a_panic_drops_unsent_bytes_and_the_peer_sees_a_fin()
        "a tells write x, panic no more; b sees Fin; b got ",
        // Nor do bytes wait that were to pass below a layer.
        "a tells write x, start-layer, write y, panic no more; b sees Fin; b got ; a buffers 0; time 0",
        "a pieces; turns 2; a tells panic no more; b ends Panicked(no more); b got-part; b got-some; a closes Normal";

    fn c20a_fail_flushes_written_bytes()
        "a bytes BIG; {a lose; turn|plain}; a tells fail e, write late; b ends Failed(e); b got BIG; a broke e";
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
