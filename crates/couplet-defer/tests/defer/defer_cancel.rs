//! Cancellation: contract 115-118.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet_defer::defer::{Cancelled, Canceller, Deferred, Failure, Resolver};

use couplet_testkit::defer_witness::{Log, given, unhandled_in};

#[test]
fn c115_without_a_canceller_a_cancel_fails_it_and_a_late_result_is_thrown_away() {
    let lates: [fn(Resolver<u8>); 3] =
        [|r| r.callback(1), |r| r.errback(Failure::msg("late")), drop];
    let reports = unhandled_in(|| {
        for late in lates {
            let (deferred, resolver) = Deferred::<u8>::new();
            deferred.cancel();
            assert!(resolver.is_cancelled());
            late(resolver);
            assert!(given(deferred).take().unwrap_err().is::<Cancelled>());
        }
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn c115_a_canceller_that_fires_nothing_means_cancelled() {
    let called = Rc::new(Cell::new(0));
    let count = called.clone();
    let (deferred, _resolver) = Deferred::<u8>::with_canceller(move |_| count.set(count.get() + 1));
    deferred.cancel();
    deferred.cancel();
    assert_eq!(called.get(), 1);
    assert_eq!(given(deferred).text(), "cancelled");
}

#[test]
fn c115_a_canceller_may_fire_with_a_result() {
    let (deferred, resolver) = Deferred::<u8>::with_canceller(|resolver| resolver.callback(9));
    deferred.cancel();
    assert!(resolver.is_cancelled());
    assert_eq!(given(deferred).take().unwrap(), 9);
    let (deferred, _resolver) = Deferred::<u8>::with_canceller(|resolver| {
        resolver.errback(Cancelled::of("tcp:example.com:80"));
    });
    deferred.cancel();
    let failure = given(deferred).take().unwrap_err();
    let cancelled = failure.downcast_ref::<Cancelled>().unwrap();
    assert_eq!(cancelled.what(), Some("tcp:example.com:80"));
}

#[test]
fn c115_a_canceller_may_cause_the_first_resolver_to_fire_or_drop_it() {
    for fires in [true, false] {
        let table: Rc<RefCell<Option<Resolver<u8>>>> = Rc::default();
        let entry = table.clone();
        let (deferred, resolver) = Deferred::<u8>::with_canceller(move |_| {
            let resolver = entry.borrow_mut().take().unwrap();
            if fires {
                resolver.callback(3);
            }
        });
        *table.borrow_mut() = Some(resolver);
        deferred.cancel();
        let given = given(deferred);
        match fires {
            true => assert_eq!(given.take().unwrap(), 3),
            false => assert_eq!(given.text(), "cancelled"),
        }
    }
}

#[test]
fn c115_a_resolver_that_a_canceller_keeps_is_late() {
    let kept: Rc<RefCell<Option<Resolver<u8>>>> = Rc::default();
    let keep = kept.clone();
    let (deferred, _resolver) =
        Deferred::<u8>::with_canceller(move |resolver| *keep.borrow_mut() = Some(resolver));
    deferred.cancel();
    let resolver = kept.borrow_mut().take().unwrap();
    resolver.callback(1);
    assert_eq!(given(deferred).text(), "cancelled");
}

#[test]
fn c116_a_cancel_goes_through_links_to_the_origin() {
    let (deferred, resolver) = Deferred::<u8>::new();
    let log = Log::default();
    let errback = log.clone();
    let end = deferred.map(|n| n + 1).add_errback(move |failure| {
        errback.say(failure.to_string());
        Ok(0)
    });
    end.map(|n| n + 1).cancel();
    assert!(resolver.is_cancelled());
    assert_eq!(log.lines(), ["cancelled"]);
}

#[test]
fn c116_cancelling_a_fired_deferred_does_nothing() {
    let log = Log::default();
    let called = log.clone();
    let (deferred, resolver) = Deferred::<u8>::with_canceller(move |_| called.say("called"));
    let canceller = deferred.canceller();
    resolver.callback(1);
    deferred.cancel();
    canceller.cancel();
    let end = deferred.map(|n| n + 1);
    end.cancel();
    canceller.cancel();
    assert_eq!(given(end).take().unwrap(), 2);
    assert!(log.lines().is_empty(), "it had fired");
}

#[test]
fn c116_a_canceller_cancels_inner_deferreds_of_links_added_later() {
    let (outer, fire_outer) = Deferred::<()>::new();
    let (second, fire_second) = Deferred::<()>::new();
    let (third, fire_third) = Deferred::<()>::new();
    let canceller = outer.canceller();
    let also = canceller.clone();
    let end = outer.then(|()| second).add_errback(|_| Ok(())).then(|()| third);
    fire_outer.callback(());
    canceller.cancel();
    assert!(fire_second.is_cancelled() && !fire_third.is_cancelled());
    also.cancel();
    assert!(fire_third.is_cancelled());
    assert_eq!(given(end).text(), "cancelled");
}

#[test]
fn c116_a_canceller_made_of_a_fired_deferred_reaches_a_later_wait() {
    let (inner, resolver) = Deferred::<u8>::new();
    let start = Deferred::succeed(());
    let canceller = start.canceller();
    start.then(|()| inner).detach();
    canceller.cancel();
    assert!(resolver.is_cancelled());
}

#[test]
fn c116_a_canceller_of_an_inner_deferred_does_not_reach_beyond_it() {
    let (inner, fire_inner) = Deferred::<()>::new();
    let (next, fire_next) = Deferred::<()>::new();
    let canceller = inner.canceller();
    let end = Deferred::succeed(()).then(|()| inner).then(|()| next);
    fire_inner.callback(());
    canceller.cancel();
    assert!(!fire_next.is_cancelled());
    end.detach();
    fire_next.callback(());
}

#[test]
fn c116_a_canceller_of_an_inner_round_still_works_in_a_loop() {
    let (first, fire_first) = Deferred::<()>::new();
    let (second, fire_second) = Deferred::<()>::new();
    let canceller: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let keep = canceller.clone();
    let end = Deferred::succeed(()).then(move |()| {
        let round = first.then(|()| second);
        *keep.borrow_mut() = Some(round.canceller());
        round
    });
    fire_first.callback(());
    canceller.borrow().as_ref().unwrap().cancel();
    assert!(fire_second.is_cancelled());
    assert_eq!(given(end).text(), "cancelled");
}

#[test]
fn c116_a_cancel_reaches_the_last_round_of_a_loop_by_recursion() {
    fn rounds(mut left: Vec<Deferred<()>>) -> Deferred<()> {
        match left.pop() {
            Some(wait) => wait.then(move |()| rounds(left)),
            None => Deferred::succeed(()),
        }
    }
    let (waits, mut fire): (Vec<_>, Vec<_>) = (0..5).map(|_| Deferred::<()>::new()).unzip();
    let end = rounds(waits).map(|()| ());
    for resolver in fire.drain(2..).rev() {
        resolver.callback(());
    }
    end.cancel();
    assert!(fire[1].is_cancelled());
    assert_eq!(given(end).text(), "cancelled");
}

#[test]
fn c116_a_cancel_inside_a_callback_of_the_same_deferred_does_nothing() {
    let (deferred, resolver) = Deferred::<u8>::new();
    let canceller: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let own = canceller.clone();
    let end = deferred
        .map(move |n| {
            own.borrow().as_ref().unwrap().cancel();
            n + 1
        })
        .map(|n| n + 1);
    *canceller.borrow_mut() = Some(end.canceller());
    resolver.callback(1);
    assert_eq!(given(end).take().unwrap(), 3);
}

#[test]
fn a_deferred_cancelled_inside_its_canceller_is_cancelled_once() {
    let canceller: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let own = canceller.clone();
    let (deferred, _resolver) = Deferred::<u8>::with_canceller(move |resolver| {
        own.borrow().as_ref().unwrap().cancel();
        resolver.callback(1);
    });
    *canceller.borrow_mut() = Some(deferred.canceller());
    deferred.cancel();
    assert_eq!(given(deferred).take().unwrap(), 1);
}

#[test]
fn c118_the_canceller_is_dropped_before_the_callbacks_run() {
    let held = Rc::new(());
    let in_canceller = held.clone();
    let (deferred, resolver) = Deferred::<()>::with_canceller(move |_| drop(in_canceller));
    let count = held.clone();
    let given = given(deferred.map(move |()| Rc::strong_count(&count)));
    resolver.callback(());
    assert_eq!(given.take().unwrap(), 2, "held by the test and the callback only");
}

#[test]
fn c118_a_canceller_that_holds_its_own_resolver_leaves_no_cycle() {
    let held = Rc::new(());
    let own: Rc<RefCell<Option<Resolver<()>>>> = Rc::default();
    let (in_canceller, in_chain) = (own.clone(), held.clone());
    let (deferred, resolver) =
        Deferred::<()>::with_canceller(move |_| drop(in_canceller.borrow_mut().take()));
    *own.borrow_mut() = Some(resolver);
    deferred.map(move |()| drop(in_chain)).cancel();
    assert_eq!((Rc::strong_count(&held), Rc::strong_count(&own)), (1, 1));
}

#[test]
fn a_canceller_keeps_nothing_alive_and_outlives_its_chain() {
    let held = Rc::new(());
    let in_chain = held.clone();
    let (deferred, resolver) = Deferred::<()>::new();
    let deferred = deferred.map(move |()| drop(in_chain));
    let canceller = deferred.canceller();
    deferred.detach();
    resolver.callback(());
    assert_eq!(Rc::strong_count(&held), 1);
    canceller.cancel();
}
