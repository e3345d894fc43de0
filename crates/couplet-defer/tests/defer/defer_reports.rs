//! Unhandled failures are reported, each exactly once: contract 119.

use std::cell::RefCell;
use std::rc::Rc;

use couplet_defer::defer::{
    Cancelled, Deferred, Failure, Reporter, ResolverDropped, gather, list, race, set_reporter,
};

use crate::defer_witness::{given, unhandled_in};

fn failed(text: &'static str) -> Deferred<u8> {
    Deferred::fail(Failure::msg(text))
}

#[test]
fn c119_a_failed_deferred_that_is_dropped_is_reported_once() {
    assert_eq!(unhandled_in(|| drop(failed("lost"))), ["lost"]);
    assert_eq!(unhandled_in(|| failed("let go").detach()), ["let go"]);
}

#[test]
fn c119_the_handle_dropped_first() {
    let reports = unhandled_in(|| {
        let (deferred, resolver) = Deferred::<u8>::new();
        drop(deferred.map(|n| n + 1));
        resolver.errback(Failure::msg("handle first"));
    });
    assert_eq!(reports, ["handle first"]);
}

#[test]
fn c119_the_resolver_gone_first() {
    let reports = unhandled_in(|| {
        let (deferred, resolver) = Deferred::<u8>::new();
        let deferred = deferred.map(|n| n + 1);
        resolver.errback(Failure::msg("resolver first"));
        drop(deferred);
    });
    assert_eq!(reports, ["resolver first"]);
}

#[test]
fn c119_both_ends_dropped_unused_are_not_worth_a_report_in_either_order() {
    for handle_first in [true, false] {
        let reports = unhandled_in(|| {
            let (deferred, resolver) = Deferred::<u8>::new();
            if handle_first {
                drop(deferred);
                drop(resolver);
            } else {
                drop(resolver);
                drop(deferred);
            }
        });
        assert_eq!(reports, [""; 0]);
    }
}

#[test]
fn c119_a_resolver_dropped_unfired_is_reported_by_what_was_made_of_its_deferred() {
    let reports = unhandled_in(|| {
        let (deferred, resolver) = Deferred::<u8>::new();
        deferred.map(|n| n + 1).detach();
        drop(resolver);
    });
    assert_eq!(reports, [ResolverDropped.to_string()]);
}

#[test]
fn c119_what_an_errback_handled_is_not_reported() {
    let reports = unhandled_in(|| {
        failed("handled").add_errback(|_| Ok(0)).detach();
        given(failed("taken")).text();
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn c119_a_failure_of_an_errback_is_reported_and_not_the_one_before() {
    let reports = unhandled_in(|| {
        failed("first").add_errback(|_| Err(Failure::msg("second"))).detach();
    });
    assert_eq!(reports, ["second"]);
}

#[test]
fn c119_a_failure_of_an_inner_deferred_is_reported_once() {
    let reports = unhandled_in(|| {
        let (outer, fire_outer) = Deferred::<()>::new();
        let (inner, fire_inner) = Deferred::<()>::new();
        outer.then(|()| inner).detach();
        fire_outer.callback(());
        fire_inner.errback(Failure::msg("inner"));
    });
    assert_eq!(reports, ["inner"]);
}

#[test]
fn c119_a_cancel_is_not_reported() {
    let reports = unhandled_in(|| {
        let (deferred, resolver) = Deferred::<u8>::new();
        deferred.cancel();
        drop((deferred, resolver));
        drop(Deferred::<u8>::fail(Cancelled::of("tcp:1")));
        gather([Deferred::<u8>::fail(Cancelled::new())]).detach();
        race([Deferred::<u8>::fail(Cancelled::new())]).detach();
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn c119_the_failures_in_a_list_that_nobody_takes_are_reported_once_each() {
    let pending_list = |dropped_first: bool| {
        unhandled_in(|| {
            let (pending, resolver) = Deferred::<u8>::new();
            let whole = list([failed("zero"), pending]);
            if dropped_first {
                drop(whole);
                resolver.errback(Failure::msg("one"));
            } else {
                resolver.errback(Failure::msg("one"));
                drop(whole);
            }
        })
    };
    assert_eq!(pending_list(true), ["zero", "one"]);
    assert_eq!(pending_list(false), ["zero", "one"]);
    let reports = unhandled_in(|| list([failed("zero")]).map(drop).detach());
    assert_eq!(reports, [""; 0], "a callback that takes the list handles its failures");
}

#[test]
fn c119_the_failure_of_a_gather_is_reported_once() {
    let reports = unhandled_in(|| gather([Deferred::succeed(0), failed("one")]).detach());
    assert_eq!(reports, ["member 1 failed: one"]);
}

#[test]
fn c119_the_failure_of_a_race_is_reported_once_and_losers_never() {
    let reports = unhandled_in(|| race([failed("zero"), failed("one")]).detach());
    assert_eq!(reports, ["all 2 failed: zero; one"]);
    let reports = unhandled_in(|| {
        let (loser, _never) =
            Deferred::<u8>::with_canceller(|resolver| resolver.errback(Failure::msg("two")));
        race([failed("zero"), Deferred::succeed(1), failed("late"), loser]).detach();
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn c119_a_failure_after_the_cut_of_a_detached_loop_is_reported_once() {
    let reports = unhandled_in(|| {
        let (first, fire_first) = Deferred::<()>::new();
        let (second, fire_second) = Deferred::<()>::new();
        first.then(|()| second).detach();
        fire_first.callback(());
        fire_second.errback(Failure::msg("second"));
    });
    assert_eq!(reports, ["second"]);
}

#[test]
fn c119_the_report_says_where_the_failure_began_and_where_the_chain_ends() {
    let seen = Rc::new(RefCell::new(None));
    let place = seen.clone();
    let before = set_reporter(move |unhandled| {
        let began = unhandled.failure().place().line();
        *place.borrow_mut() = Some((began, unhandled.place().line(), unhandled.to_string()));
    });
    let (deferred, resolver) = Deferred::<u8>::new();
    deferred.map(|n| n + 1).detach();
    let line = line!();
    resolver.errback(Failure::msg("lost"));
    before.set();
    let (began, ends, text) = seen.borrow_mut().take().unwrap();
    assert_eq!((began, ends), (line + 1, line - 1));
    assert!(text.starts_with("unhandled failure: lost (began at "), "{text}");
    assert!(text.contains(file!()), "{text}");
}

#[test]
fn c119_a_dropped_resolver_names_the_place_of_its_deferred() {
    let line = line!() + 1;
    let (deferred, resolver) = Deferred::<u8>::new();
    drop(resolver);
    let failure = given(deferred).take().unwrap_err();
    assert_eq!((failure.place().file(), failure.place().line()), (file!(), line));
}

#[test]
fn set_reporter_returns_the_previous_one() {
    let outer = unhandled_in(|| {
        let inner = unhandled_in(|| drop(failed("inner")));
        assert_eq!(inner, ["inner"]);
        drop(failed("outer"));
        let current = Reporter::default().set();
        current.set();
        drop(failed("again"));
    });
    assert_eq!(outer, ["outer", "again"]);
}

#[test]
fn an_unhandled_failure_inside_the_reporter_is_not_reported_to_it() {
    let calls = Rc::new(RefCell::new(0));
    let count = calls.clone();
    let before = set_reporter(move |_| {
        *count.borrow_mut() += 1;
        drop(failed("inside the reporter"));
    });
    drop(failed("first"));
    drop(failed("second"));
    before.set();
    assert_eq!(*calls.borrow(), 2);
}

#[test]
fn the_reporter_may_replace_itself() {
    let before = set_reporter(|_| {
        Reporter::default().set();
    });
    drop(failed("once"));
    let default = before.set();
    assert_eq!(format!("{default:?}"), "Reporter(stderr)");
}

#[test]
fn reporters_are_per_thread() {
    let reports = unhandled_in(|| {
        let other = std::thread::spawn(|| unhandled_in(|| drop(failed("there"))));
        assert_eq!(other.join().unwrap(), ["there"]);
        drop(failed("here"));
    });
    assert_eq!(reports, ["here"]);
}

#[test]
fn a_resolver_dropped_at_thread_exit_is_harmless() {
    thread_local! {
        static KEPT: RefCell<Vec<couplet_defer::defer::Resolver<u8>>> = const { RefCell::new(vec![]) };
    }
    let thread = std::thread::spawn(|| {
        KEPT.with_borrow_mut(|kept| {
            let (outer, fire_outer) = Deferred::<u8>::new();
            let (inner, fire_inner) = Deferred::<u8>::new();
            inner.add_errback(|_| Ok(0)).detach();
            outer.add_errback(|_| Ok(0)).map(|_| drop(fire_inner)).detach();
            kept.push(fire_outer);
        });
    });
    thread.join().unwrap();
}
