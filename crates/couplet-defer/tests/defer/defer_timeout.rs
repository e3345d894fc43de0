//! `add_timeout`: contract 120.

use std::cell::RefCell;
use std::time::Duration;

use couplet_defer::defer::{Alarm, Cancelled, Deferred, Failure, TimedOut, gather};

use couplet_testkit::defer_witness::{Clock, given};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn c120_a_deferred_that_times_out_is_cancelled_and_fails_with_timed_out() {
    let clock = Clock::default();
    let (deferred, resolver) = Deferred::<u8>::new();
    let given = given(deferred.map(|n| n + 1).add_timeout(&clock, SECOND));
    clock.advance_to(SECOND / 2);
    assert!(given.is_none());
    clock.advance_to(SECOND);
    assert!(resolver.is_cancelled());
    let failure = given.take().unwrap_err();
    assert_eq!(failure.downcast_ref(), Some(&TimedOut { after: SECOND }));
    assert_eq!(failure.to_string(), "timed out after 1s");
}

#[test]
fn c120_a_result_in_time_stops_the_alarm() {
    let clock = Clock::default();
    let (deferred, resolver) = Deferred::<u8>::new();
    let given = given(deferred.add_timeout(&clock, SECOND));
    assert_eq!(clock.running(), 1);
    resolver.callback(1);
    assert_eq!(clock.running(), 0);
    assert_eq!(given.take().unwrap(), 1);
}

#[test]
fn c120_a_timeout_covers_only_the_callbacks_added_before_it() {
    let clock = Clock::default();
    let (first, fire_first) = Deferred::<u8>::new();
    let (covered, fire_covered) = Deferred::<u8>::new();
    let (beyond, fire_beyond) = Deferred::<u8>::new();
    let given = given(first.then(|_| covered).add_timeout(&clock, SECOND).then(|_| beyond));
    fire_first.callback(1);
    assert_eq!(clock.running(), 1, "the inner Deferred is covered");
    fire_covered.callback(2);
    assert_eq!(clock.running(), 0);
    clock.advance_to(2 * SECOND);
    assert!(!fire_beyond.is_cancelled());
    fire_beyond.callback(3);
    assert_eq!(given.take().unwrap(), 3);
}

#[test]
fn c120_a_timeout_cancels_the_inner_deferred_that_the_chain_waits_for() {
    let clock = Clock::default();
    let (inner, fire_inner) = Deferred::<u8>::new();
    let given = given(Deferred::succeed(()).then(|()| inner).add_timeout(&clock, SECOND));
    clock.advance_to(SECOND);
    assert!(fire_inner.is_cancelled());
    assert!(given.take().unwrap_err().is::<TimedOut>());
}

#[test]
fn c120_an_explicit_cancel_is_not_reported_as_a_timeout() {
    let clock = Clock::default();
    let (deferred, _resolver) = Deferred::<u8>::new();
    let deferred = deferred.add_timeout(&clock, SECOND);
    deferred.cancel();
    assert!(given(deferred).take().unwrap_err().is::<Cancelled>());
    assert_eq!(clock.running(), 0);
}

#[test]
fn c120_a_canceller_with_a_result_or_another_failure_suppresses_timed_out() {
    let clock = Clock::default();
    let (deferred, _resolver) = Deferred::<u8>::with_canceller(|resolver| resolver.callback(5));
    let value = given(deferred.add_timeout(&clock, SECOND));
    let (deferred, _resolver) =
        Deferred::<u8>::with_canceller(|resolver| resolver.errback(Failure::msg("reset")));
    let failure = given(deferred.add_timeout(&clock, SECOND));
    clock.advance_to(SECOND);
    assert_eq!(value.take().unwrap(), 5);
    assert_eq!(failure.text(), "reset");
}

#[test]
fn c120_of_two_timeouts_the_one_that_rings_names_itself() {
    for (inner, outer) in [(1, 2), (2, 1)] {
        let clock = Clock::default();
        let (deferred, _resolver) = Deferred::<u8>::new();
        let deferred = deferred.add_timeout(&clock, inner * SECOND);
        let given = given(deferred.add_timeout(&clock, outer * SECOND));
        clock.advance_to(SECOND);
        assert_eq!(given.text(), "timed out after 1s");
        assert_eq!(clock.running(), 0);
    }
}

#[test]
fn c120_a_fired_deferred_sets_no_alarm() {
    let clock = Clock::default();
    assert_eq!(given(Deferred::succeed(1).add_timeout(&clock, SECOND)).take().unwrap(), 1);
    assert_eq!(clock.running(), 0);
}

#[test]
fn c120_a_timeout_over_a_gather_is_a_timeout() {
    let clock = Clock::default();
    let (members, fire): (Vec<_>, Vec<_>) = (0..2).map(|_| Deferred::<u8>::new()).unzip();
    let given = given(gather(members).add_timeout(&clock, SECOND));
    clock.advance_to(SECOND);
    assert!(fire.iter().all(|resolver| resolver.is_cancelled()));
    assert!(given.take().unwrap_err().is::<TimedOut>());
}

#[test]
fn c120_an_alarm_that_rings_at_once_or_too_late_is_harmless() {
    struct AtOnce;
    impl Alarm for AtOnce {
        fn set(&self, _: Duration, ring: Box<dyn FnOnce()>) -> Box<dyn FnOnce()> {
            ring();
            Box::new(|| ())
        }
    }
    let (deferred, _resolver) = Deferred::<u8>::new();
    assert!(given(deferred.add_timeout(&AtOnce, SECOND)).take().unwrap_err().is::<TimedOut>());

    #[derive(Default)]
    struct Deaf(RefCell<Option<Box<dyn FnOnce()>>>);
    impl Alarm for Deaf {
        fn set(&self, _: Duration, ring: Box<dyn FnOnce()>) -> Box<dyn FnOnce()> {
            *self.0.borrow_mut() = Some(ring);
            Box::new(|| ())
        }
    }
    let deaf = Deaf::default();
    let (deferred, resolver) = Deferred::<u8>::new();
    let (next, fire_next) = Deferred::<u8>::new();
    let given = given(deferred.add_timeout(&deaf, SECOND).then(|_| next));
    resolver.callback(1);
    deaf.0.borrow_mut().take().unwrap()();
    assert!(!fire_next.is_cancelled());
    fire_next.callback(2);
    assert_eq!(given.take().unwrap(), 2);
}
