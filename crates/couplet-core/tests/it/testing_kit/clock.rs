//! `Clock`: time under the test's control. Contract 95.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{failing, s};
use couplet::testing::{Clock, no_result_yet, success_of};
use couplet::{LoopingCall, Reactor};

/// Names, each with the second at which it was logged.
#[derive(Clone)]
struct Log {
    start: Instant,
    entries: Rc<RefCell<Vec<(&'static str, u64)>>>,
}

impl Log {
    fn new(clock: &Clock) -> Log {
        Log { start: clock.reactor().now(), entries: Rc::default() }
    }

    /// Logs the name after `delay`.
    fn later(&self, reactor: &Reactor, delay: Duration, name: &'static str) {
        let (log, reactor_then) = (self.clone(), reactor.clone());
        reactor.call_later(delay, move || {
            let at = (reactor_then.now() - log.start).as_secs();
            log.entries.borrow_mut().push((name, at));
        });
    }

    fn take(&self) -> Vec<(&'static str, u64)> {
        self.entries.take()
    }
}

#[test]
fn c95_calls_made_by_calls_run_if_they_fall_within_the_advance() {
    let mut clock = Clock::new();
    let log = Log::new(&clock);
    let (reactor, inner) = (clock.reactor(), log.clone());
    clock.reactor().call_later(s(1), move || {
        inner.later(&reactor, Duration::ZERO, "immediate");
        inner.later(&reactor, s(2), "within");
        inner.later(&reactor, s(9), "beyond");
    });
    log.later(&clock.reactor(), s(2), "between");
    clock.advance(s(4));
    assert_eq!(log.take(), [("immediate", 1), ("between", 2), ("within", 3)]);
    clock.advance(s(6));
    assert_eq!(log.take(), [("beyond", 10)]);
    // At the very end of the advance too, for any chain of calls without delay.
    let (reactor, inner) = (clock.reactor(), log.clone());
    clock.reactor().call_later(s(1), move || {
        let next = reactor.clone();
        reactor.call_soon(move || inner.later(&next, Duration::ZERO, "at the end"));
    });
    clock.advance(s(1));
    assert_eq!(log.take(), [("at the end", 11)]);
}

#[test]
fn c95_a_panicking_call_fails_the_advance_when_it_is_over() {
    let mut clock = Clock::new();
    let log = Log::new(&clock);
    clock.reactor().call_later(s(1), || panic!("no poem"));
    log.later(&clock.reactor(), s(2), "after it");
    let text = failing(|| clock.advance(s(3)));
    assert_eq!(text, "a panic in timed call: no poem");
    assert_eq!((log.take(), clock.elapsed()), (vec![("after it", 2)], s(3)));
    clock.advance(s(1));
}

#[test]
fn a_clock_is_pumped_step_by_step() {
    let mut clock = Clock::new();
    let ticks = Rc::new(Cell::new(0));
    let counted = ticks.clone();
    let looping =
        LoopingCall::with_count(&clock.reactor(), move |n| counted.set(counted.get() + n));
    looping.start(s(1)).detach();
    clock.pump([s(0), s(1), s(1)]);
    assert_eq!((ticks.get(), clock.elapsed()), (3, s(2)));
    looping.stop();
    clock.advance(s(60));
    assert_eq!(ticks.get(), 3);
}

#[test]
fn a_clock_runs_tasks_and_their_sleeps() {
    let mut clock = Clock::default();
    let reactor = clock.reactor();
    let poem = clock.reactor().spawn(async move {
        reactor.sleep(s(60)).await?;
        reactor.sleep(s(60)).await?;
        Ok("two minutes later")
    });
    clock.settle();
    no_result_yet(&poem);
    clock.advance(s(119));
    no_result_yet(&poem);
    clock.advance(s(1));
    assert_eq!(success_of(poem), "two minutes later");
}

#[test]
fn settle_fails_the_test_when_a_call_reschedules_itself_every_turn() {
    fn again(reactor: &Reactor, left: Rc<Cell<bool>>) {
        let next = reactor.clone();
        if left.get() {
            reactor.call_soon(move || again(&next.clone(), left));
        }
    }
    let mut clock = Clock::new();
    let left = Rc::new(Cell::new(true));
    again(&clock.reactor(), left.clone());
    let text = failing(|| clock.settle());
    assert!(text.starts_with("the loop never becomes idle"), "{text}");
    left.set(false);
    clock.settle();
}
