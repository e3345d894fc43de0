//! Unhandled failures are reported, each exactly once: contract 119.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet_defer::defer::{
    Cancelled, Deferred, Failure, Reporter, gather, list, race, set_reporter,
};
use couplet_defer::internals::unhandled_failures;

use couplet_testkit::defer_witness::{Clock, given, unhandled_in};

fn failed(text: &'static str) -> Deferred<u8> {
    Deferred::fail(Failure::msg(text))
}

/// A case: how a failure ends, the texts that are reported, and the code.
type Row = (&'static str, &'static [&'static str], fn());

const ROWS: &[Row] = &[
    ("a failed Deferred is dropped", &["lost"], || drop(failed("lost"))),
    ("a failed Deferred is detached", &["let go"], || failed("let go").detach()),
    ("the handle is dropped first", &["handle first"], || {
        let (deferred, resolver) = Deferred::<u8>::new();
        drop(deferred.map(|n| n + 1));
        resolver.errback(Failure::msg("handle first"));
    }),
    ("the resolver is used first", &["resolver first"], || {
        let (deferred, resolver) = Deferred::<u8>::new();
        let deferred = deferred.map(|n| n + 1);
        resolver.errback(Failure::msg("resolver first"));
        drop(deferred);
    }),
    ("both ends are dropped unused, the handle first", &[], || {
        let (deferred, resolver) = Deferred::<u8>::new();
        drop(deferred);
        drop(resolver);
    }),
    ("both ends are dropped unused, the resolver first", &[], || {
        let (deferred, resolver) = Deferred::<u8>::new();
        drop(resolver);
        drop(deferred);
    }),
    (
        "a resolver is dropped unfired, and something was made of its Deferred",
        &["the resolver was dropped before it fired"],
        || {
            let (deferred, resolver) = Deferred::<u8>::new();
            deferred.map(|n| n + 1).detach();
            drop(resolver);
        },
    ),
    ("an errback handles it", &[], || failed("handled").add_errback(|_| Ok(0)).detach()),
    ("its result is taken", &[], || drop(given(failed("taken")).text())),
    ("an errback fails: not the failure before it", &["second"], || {
        failed("first").add_errback(|_| Err(Failure::msg("second"))).detach();
    }),
    ("an inner Deferred fails", &["inner"], || {
        let (outer, fire_outer) = Deferred::<()>::new();
        let (inner, fire_inner) = Deferred::<()>::new();
        outer.then(|()| inner).detach();
        fire_outer.callback(());
        fire_inner.errback(Failure::msg("inner"));
    }),
    ("a panic", &["panicked: thrown"], || {
        let (deferred, resolver) = Deferred::<u8>::new();
        let thrown = |_| std::panic::resume_unwind(Box::new("thrown"));
        deferred.map(thrown).map(|()| ()).detach();
        resolver.callback(1);
    }),
    ("a timeout", &["timed out after 1s"], || {
        let (clock, second) = (Clock::default(), Duration::from_secs(1));
        let (deferred, _resolver) = Deferred::<u8>::new();
        deferred.add_timeout(&clock, second).detach();
        clock.advance_to(second);
    }),
    ("a cancel", &[], || {
        let (deferred, resolver) = Deferred::<u8>::new();
        deferred.cancel();
        drop((deferred, resolver));
        drop(Deferred::<u8>::fail(Cancelled::of("tcp:1")));
        gather([Deferred::<u8>::fail(Cancelled::new())]).detach();
        race([Deferred::<u8>::fail(Cancelled::new())]).detach();
    }),
    ("failures in a list that is dropped before the last one", &["zero", "one"], || {
        let (pending, resolver) = Deferred::<u8>::new();
        drop(list([failed("zero"), pending]));
        resolver.errback(Failure::msg("one"));
    }),
    ("failures in a list that is dropped after the last one", &["zero", "one"], || {
        let (pending, resolver) = Deferred::<u8>::new();
        let whole = list([failed("zero"), pending]);
        resolver.errback(Failure::msg("one"));
        drop(whole);
    }),
    ("a callback takes the list, and so handles its failures", &[], || {
        list([failed("zero")]).map(drop).detach();
    }),
    ("a gather fails", &["member 1 failed: one"], || {
        gather([Deferred::succeed(0), failed("one")]).detach();
    }),
    ("all members of a race fail", &["all 2 failed: zero; one"], || {
        race([failed("zero"), failed("one")]).detach();
    }),
    ("the losers of a race fail", &[], || {
        let (loser, _never) =
            Deferred::<u8>::with_canceller(|resolver| resolver.errback(Failure::msg("two")));
        race([failed("zero"), Deferred::succeed(1), failed("late"), loser]).detach();
    }),
];

#[test]
fn c119_each_unhandled_failure_is_reported_once_and_nothing_else_is() {
    for (case, reports, run) in ROWS {
        let before = unhandled_failures();
        assert_eq!(unhandled_in(run), *reports, "{case}");
        assert_eq!(unhandled_failures() - before, reports.len() as u64, "{case}");
    }
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
