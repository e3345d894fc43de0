//! Shuffled orders: timed calls with the same deadline, and tasks woken in the same turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use couplet::Reactor;
use couplet::defer::DeferredEvent;
use couplet::sim::Sim;

use super::kit::s;

type Log = Rc<RefCell<Vec<u32>>>;

/// Runs a program in a world of this seed, perhaps shuffled by another seed; returns its log.
fn logged(seed: u64, shuffle: Option<u64>, program: fn(&Reactor, &Log)) -> Vec<u32> {
    let (mut sim, log) = (Sim::new(seed), Log::default());
    if let Some(shuffle) = shuffle {
        sim.shuffle(shuffle);
    }
    let inner = log.clone();
    sim.host("alone", move |reactor| {
        program(reactor, &inner);
        Ok(())
    });
    sim.run_for(s(10)).expect("nothing breaks");
    log.take()
}

fn timed_calls(reactor: &Reactor, log: &Log) {
    for n in 0..5 {
        let (inner, reactor) = (log.clone(), reactor.clone());
        reactor.clone().call_later(s(1), move || {
            inner.borrow_mut().push(n);
            // Requested now, so it runs in a later turn under any shuffle.
            reactor.call_soon(move || inner.borrow_mut().push(10 + n));
        });
    }
    let inner = log.clone();
    reactor.call_later(s(2), move || inner.borrow_mut().push(20));
}

fn tasks(reactor: &Reactor, log: &Log) {
    let go = DeferredEvent::new();
    for n in 0..5 {
        let (waiting, log) = (go.wait(), log.clone());
        let task = reactor.spawn(async move {
            waiting.await?;
            log.borrow_mut().push(n);
            Ok(())
        });
        task.detach();
    }
    reactor.call_later(s(1), move || go.set());
}

#[test]
fn c88_a_shuffled_world_tries_orders_and_a_plain_one_keeps_the_order_of_the_requests() {
    for (program, plain) in [
        (timed_calls as fn(&Reactor, &Log), vec![0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20]),
        (tasks, vec![0, 1, 2, 3, 4]),
    ] {
        assert_eq!(logged(1, None, program), plain);
        assert_eq!(logged(2, None, program), plain);
        let orders: Vec<_> = (0..60).map(|seed| logged(1, Some(seed), program)).collect();
        let seen: BTreeSet<_> = orders.iter().cloned().collect();
        assert!(seen.len() > 20, "{} orders", seen.len());
        for (seed, order) in (0..).zip(&orders) {
            assert_eq!(logged(1, Some(seed), program), *order, "the same seed, the same order");
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, plain, "each once");
            assert!(order[..5].iter().all(|n| *n < 5), "turn by turn: {order:?}");
        }
        assert!((0..20).any(|seed| logged(2, Some(seed), program) != orders[seed as usize]));
    }
}

#[test]
fn a_shuffled_call_may_still_cancel_or_move_another_that_is_due() {
    for shuffle in 0..50 {
        let mut sim = Sim::new(3);
        sim.shuffle(shuffle);
        let ran: Rc<[Cell<u32>; 3]> = Rc::default();
        let counts = ran.clone();
        sim.host("alone", move |reactor| {
            let calls: [_; 3] = std::array::from_fn(|n| {
                let counts = counts.clone();
                reactor.call_later(s(1), move || counts[n].set(counts[n].get() + 1))
            });
            let counts = counts.clone();
            reactor.call_later(s(1), move || {
                // A call that has run can be neither cancelled nor moved.
                assert_eq!(calls[0].cancel(), counts[0].get() == 0);
                assert_eq!(calls[1].reset(s(5)), counts[1].get() == 0);
                counts[0].set(1);
            });
            Ok(())
        });
        sim.run_for(s(10)).expect("nothing breaks");
        assert_eq!(ran.each_ref().map(Cell::get), [1, 1, 1], "shuffled by {shuffle}");
    }
}
