//! Row 57a: when the answers to a batch of events leave.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::{Answers, LoopOptions};

use super::kit::{Kit, key_of, together};
use super::recorder::{A, On, Script};

/// Sends a byte to each of `count` connections before a turn, and lets them answer. Returns, for
/// each call of `data_received`, the number of answers sent before it.
fn seen_by_a_crowd(kit: Kit, options: fn() -> LoopOptions, count: usize) -> Vec<usize> {
    let mut rig = kit.options(options).rig();
    let crowd: Rc<RefCell<Vec<(A, usize)>>> = Rc::default();
    let seen: Rc<RefCell<Vec<usize>>> = Rc::default();
    let mut peers = Vec::new();
    for _ in 0..count {
        let (crowd, seen, tapped) = (crowd.clone(), seen.clone(), rig.tapped.clone());
        let answer = Script::new().on(On::Data, move |transport| {
            let written = |a: &A| tapped.counts(key_of(&a.transport())).written;
            let is_sent = |(a, before): &&(A, usize)| written(a) > *before;
            seen.borrow_mut().push(crowd.borrow().iter().filter(is_sent).count());
            transport.write([7]);
        });
        peers.push(rig.accept(answer));
    }
    rig.turns(3);
    for (a, _) in &peers {
        crowd.borrow_mut().push((a.clone(), rig.counts(a).written));
    }
    for (_, b) in &peers {
        b.send(&[1]);
    }
    for (_, b) in &peers {
        rig.until("an answer", || {
            b.take_all();
            b.got() == [7]
        });
    }
    // No held answer is forgotten.
    assert!(peers.iter().all(|(a, _)| a.transport().buffered() == 0));
    seen.take()
}

/// Whether the next turn delivers all pending bytes of this many connections.
fn has_batches(kit: Kit, count: usize) -> bool {
    if kit.is_uring() && count > 16 {
        // The kernel completes about 20 operations in a call.
        return false;
    }
    // Bytes written to a terminal arrive a moment later.
    (kit.has_sockets() && !kit.is_terminal()) || kit.is_readiness_in_memory()
}

pub(crate) fn c57a_answers_leave_at_once_where_that_is_asked_for(kit: Kit) {
    let seen =
        seen_by_a_crowd(kit, || LoopOptions::default().tune(|it| it.answers(Answers::AtOnce)), 6);
    if has_batches(kit, 6) {
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    }
    assert_eq!(seen.len(), 6);
}

pub(crate) fn c57a_answers_leave_together_32_at_most(kit: Kit) {
    let seen = seen_by_a_crowd(kit, together, 40);
    if has_batches(kit, 40) {
        assert_eq!(seen[..32], [0; 32]);
        assert_eq!(seen[32..], [32; 8]);
    }
    assert_eq!(seen.len(), 40);
}

pub(crate) fn c57a_answers_that_are_made_in_no_time_leave_at_once(kit: Kit) {
    // The loop's clock stands still. The first answer waits for the second, which is timed.
    let seen = seen_by_a_crowd(kit, LoopOptions::default, 6);
    if has_batches(kit, 6) {
        assert_eq!(seen, [0, 0, 1, 2, 3, 4]);
    }
    assert_eq!(seen.len(), 6);
}
