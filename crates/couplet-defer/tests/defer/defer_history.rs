//! Row 119a: histories of Deferreds, for debugging.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use couplet_defer::defer::{
    Deferred, Failure, Resolver, gather, keep_histories, list, set_reporter,
};

use couplet_testkit::defer_witness::given;

/// Enables histories until it is dropped.
struct Kept(usize);

impl Kept {
    fn of(most: usize) -> Kept {
        Kept(keep_histories(most))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        keep_histories(self.0);
    }
}

/// The lines of a history, without module paths, and with `here` for places in this file.
fn lines<T: 'static>(deferred: &Deferred<T>) -> Vec<String> {
    short(&deferred.history().expect("histories are kept").to_string())
}

fn short(text: &str) -> Vec<String> {
    let file = Location::caller().file();
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut line = line.replace("defer::defer_history::", "");
        while let Some(at) = line.find(file) {
            let rest = &line[at + file.len()..];
            let end = rest.find(|c: char| c != ':' && !c.is_ascii_digit()).unwrap_or(rest.len());
            // The place ends before its trailing colon.
            let end = end - usize::from(rest[..end].ends_with(':'));
            line = format!("{}here{}", &line[..at], &rest[end..]);
        }
        lines.push(line);
    }
    lines
}

fn parse(text: &str) -> couplet_defer::Result<u16> {
    Ok(text.parse()?)
}

fn double(n: u16) -> u16 {
    2 * n
}

fn zero(_: Failure) -> couplet_defer::Result<u16> {
    Ok(0)
}

#[test]
fn c119a_histories_are_nested_to_a_limit() {
    let _kept = Kept::of(100);
    let (mut whole, _resolver) = Deferred::<u16>::new();
    for _ in 0..20 {
        let inner = whole;
        whole = Deferred::succeed(1).then(move |_| inner);
    }
    // A line for the Deferred, and one for each of eight levels.
    assert_eq!(lines(&whole).len(), 9, "{:#?}", lines(&whole));
}

#[test]
fn c119a_no_history_is_kept_by_default() {
    let (text, resolver) = Deferred::new();
    let number = text.add_callback(parse);
    assert!(number.history().is_none());
    resolver.callback("1");
    assert!(number.history().is_none() && Deferred::succeed(1).history().is_none());
    let _kept = Kept::of(8);
    assert!(number.map(double).history().is_none(), "it was made before");
}

#[test]
fn c119a_a_history_shows_the_next_callback_and_those_that_ran() {
    let _kept = Kept::of(8);
    let (text, resolver) = Deferred::new();
    let number = text.add_callback(parse).map(double).add_errback(zero);
    assert_eq!(
        lines(&number),
        [
            "a Deferred created at here: has not fired",
            "1. add_callback(parse) at here: is next",
            "2. map(double) at here: follows",
            "3. add_errback(zero) at here: follows",
        ]
    );
    resolver.callback("x");
    let number = number.map(double);
    assert_eq!(
        lines(&number),
        [
            "a Deferred created at here: got a value",
            "1. add_callback(parse) at here: failed: invalid digit found in string",
            "2. map(double) at here: was skipped",
            "3. add_errback(zero) at here: returned a value",
            "4. map(double) at here: returned a value",
        ]
    );
    assert_eq!(given(number).take().unwrap(), 0);
}

#[test]
fn c119a_a_deferred_that_fired_before_it_had_callbacks_has_a_history() {
    let _kept = Kept::of(8);
    let number = Deferred::<&str>::fail(Failure::msg("no text")).add_callback(parse);
    assert_eq!(
        lines(&number),
        [
            "a Deferred created at here: failed: no text",
            "1. add_callback(parse) at here: was skipped"
        ]
    );
    number.add_errback(zero).detach();
    let number = Deferred::succeed("7").add_callback(parse);
    assert_eq!(
        lines(&number),
        [
            "a Deferred created at here: got a value",
            "1. add_callback(parse) at here: returned a value"
        ]
    );
}

#[test]
fn c119a_a_history_shows_panics_and_cancels() {
    let _kept = Kept::of(8);
    let (pending, _resolver) = Deferred::<u16>::new();
    let caught = pending.add_both(|_| -> couplet_defer::Result<u16> { panic!("oh") });
    caught.cancel();
    let told = lines(&caught);
    assert_eq!(told[0], "a Deferred created at here: failed: cancelled");
    assert!(told[1].starts_with("1. add_both(") && told[1].ends_with(": failed: panicked: oh"));
    caught.add_errback(zero).detach();
}

/// A fired chain that waits for an inner Deferred, and the resolver of the inner one.
fn waiting() -> (Deferred<u16>, Resolver<&'static str>) {
    let (outer, fire) = Deferred::<()>::new();
    let (inner, resolver) = Deferred::new();
    let inner = inner.add_callback(parse);
    let whole = outer.then(|()| inner).map(double);
    fire.callback(());
    (whole, resolver)
}

fn without_closures(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| line.replace("then(waiting::{{closure}})", "then(_)")).collect()
}

#[test]
fn c119a_a_deferred_that_is_waited_for_is_shown_below() {
    let _kept = Kept::of(8);
    let (whole, resolver) = waiting();
    assert_eq!(
        without_closures(lines(&whole)),
        [
            "a Deferred created at here: got a value",
            "1. then(_) at here: waits for a Deferred created at here: has not fired",
            "   1. add_callback(parse) at here: is next",
            "2. map(double) at here: is next",
        ]
    );
    resolver.callback("21");
    assert_eq!(
        without_closures(lines(&whole)),
        [
            "a Deferred created at here: got a value",
            "1. then(_) at here: waited for a Deferred created at here, which returned a value",
            "2. map(double) at here: returned a value",
        ]
    );
    assert_eq!(given(whole).take().unwrap(), 42);
}

#[test]
fn c119a_a_failed_inner_deferred_stays_in_the_history() {
    let _kept = Kept::of(8);
    let (whole, resolver) = waiting();
    resolver.callback("x");
    assert_eq!(
        without_closures(lines(&whole)),
        [
            "a Deferred created at here: got a value",
            "1. then(_) at here: waited for a Deferred created at here: got a value",
            "   1. add_callback(parse) at here: failed: invalid digit found in string",
            "2. map(double) at here: was skipped",
        ]
    );
    whole.add_errback(zero).detach();
}

#[test]
fn c119a_each_of_several_waits_of_a_chain_has_its_own_outcome() {
    let _kept = Kept::of(8);
    let (first, fire_first) = Deferred::<u16>::new();
    let (second, fire_second) = Deferred::<u16>::new();
    let whole = Deferred::succeed(()).then(|()| first).then(|_| second).map(double);
    let outcomes = || -> Vec<String> {
        let outcome = |line: &String| line.split_once(" at here: ").expect("a place").1.to_owned();
        lines(&whole).iter().map(outcome).collect()
    };
    let waits = "waits for a Deferred created at here: has not fired";
    assert_eq!(outcomes(), ["got a value", waits, "is next", "follows"]);
    fire_first.callback(1);
    let waited = "waited for a Deferred created at here, which returned a value";
    assert_eq!(outcomes(), ["got a value", waited, waits, "is next"]);
    fire_second.errback(Failure::msg("no"));
    let failed = "waited for a Deferred created at here: failed: no";
    assert_eq!(outcomes(), ["got a value", waited, failed, "was skipped"]);
    whole.add_errback(zero).detach();
}

/// The histories of the failures that `run` leaves unhandled.
fn reported(run: impl FnOnce()) -> Vec<Vec<String>> {
    let seen: Rc<RefCell<Vec<Vec<String>>>> = Rc::default();
    let noted = seen.clone();
    let before = set_reporter(move |unhandled| {
        assert_eq!(unhandled.to_string().lines().count() > 1, unhandled.history().is_some());
        let history = unhandled.history().map(ToString::to_string).unwrap_or_default();
        noted.borrow_mut().push(without_closures(short(&history)));
    });
    run();
    before.set();
    seen.take()
}

#[test]
fn c119a_an_unhandled_failure_is_reported_with_its_history() {
    let plain = reported(|| {
        let (text, resolver) = Deferred::new();
        text.add_callback(parse).detach();
        resolver.callback("x");
    });
    assert_eq!(plain, [[""; 0]]);
    let _kept = Kept::of(8);
    let failed = [
        "a Deferred created at here: got a value",
        "1. add_callback(parse) at here: failed: invalid digit found in string",
    ];
    for detached_first in [true, false] {
        let told = reported(|| {
            let (text, resolver) = Deferred::new();
            let number = text.add_callback(parse);
            let held = if detached_first {
                number.detach();
                None
            } else {
                Some(number)
            };
            resolver.callback("x");
            drop(held);
        });
        assert_eq!(told, [failed]);
    }
    let told = reported(|| drop(Deferred::<()>::fail(Failure::msg("no"))));
    assert_eq!(told, [["a Deferred created at here: failed: no"]]);
    let told = reported(|| drop(list([Deferred::<()>::fail(Failure::msg("no"))])));
    assert_eq!(told, [["a Deferred created at here: failed: no"]]);
    let told = reported(|| {
        let (late, resolver) = Deferred::new();
        let all = gather([Deferred::fail(Failure::msg("first")), late.add_callback(parse)]);
        all.add_errback(|_| Ok(vec![])).detach();
        resolver.callback("x");
    });
    assert_eq!(told, [failed]);
}

#[test]
fn c119a_the_history_of_a_detached_chain_includes_links_that_were_cut_out() {
    let _kept = Kept::of(8);
    let told = reported(|| {
        let (outer, fire) = Deferred::<()>::new();
        let (inner, resolver) = Deferred::new();
        let inner = inner.add_callback(parse);
        outer.then(|()| inner).detach();
        fire.callback(());
        resolver.callback("x");
    });
    let [told] = told.try_into().expect("one report");
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], "a Deferred created at here: got a value");
    assert!(told[1].starts_with("1. then("), "{told:?}");
    assert!(told[1].ends_with("waited for a Deferred created at here: got a value"), "{told:?}");
    assert!(told[2].ends_with("failed: invalid digit found in string"), "{told:?}");
}

#[test]
fn c119a_a_long_chain_keeps_its_first_and_its_last_callbacks() {
    let numbers = |most: usize| {
        let _kept = Kept::of(most);
        let mut number = Deferred::succeed(0_u16);
        for _ in 0..100 {
            number = number.map(double);
        }
        let told = lines(&number);
        let number = |line: &String| line.split(['.', ' ']).next().unwrap().to_owned();
        let kept: Vec<_> = told[1..].iter().map(number).collect();
        (kept.join(" "), told.iter().any(|line| line.ends_with(" left out")))
    };
    assert_eq!(numbers(5), ("1 2 3 … 99 100".to_owned(), true));
    assert_eq!(numbers(2), ("1 … 100".to_owned(), true));
    assert_eq!(numbers(1), ("1 …".to_owned(), true));
    assert!(!numbers(100).1);
}

/// Each round waits, then returns the next round from its callback.
fn rounds(left: Rc<RefCell<Vec<Deferred<()>>>>) -> Deferred<()> {
    let next = left.borrow_mut().pop();
    match next {
        Some(wait) => wait.then(move |()| rounds(left)),
        None => Deferred::fail(Failure::msg("the end")),
    }
}

#[test]
fn c119a_rounds_by_recursion_are_shown_to_a_depth() {
    let _kept = Kept::of(8);
    let (waits, fire): (Vec<_>, Vec<_>) = (0..100).map(|_| Deferred::<()>::new()).unzip();
    let whole = rounds(Rc::new(RefCell::new(waits)));
    let mut fire = fire.into_iter();
    let last = fire.next().expect("one of a hundred");
    for resolver in fire.rev() {
        resolver.callback(());
    }
    let told = lines(&whole);
    assert_eq!(told.len(), 9, "while they wait: {told:#?}");
    last.callback(());
    let told = lines(&whole);
    assert_eq!(told.len(), 9, "{told:#?}");
    assert!(told[8].contains("which failed: the end"), "{told:#?}");
    given(whole).take().unwrap_err();
}

/// An error whose drop creates a Deferred; counts those that have a history.
#[derive(Debug)]
struct Nosy(Arc<AtomicUsize>);

impl Error for Nosy {}

impl fmt::Display for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nosy")
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let number = Deferred::succeed("1").add_callback(parse);
        if number.history().is_some() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        number.detach();
    }
}

#[test]
fn c119a_errors_may_make_deferreds_while_a_history_drops_them() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let _kept = Kept::of(2);
    let mut number = Deferred::succeed(0_u16);
    for _ in 0..3 {
        let dropped = dropped.clone();
        number = number.add_callback(move |_| Err(Nosy(dropped).into())).add_errback(zero);
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 2, "the first callback is kept");
    number.detach();
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
}
