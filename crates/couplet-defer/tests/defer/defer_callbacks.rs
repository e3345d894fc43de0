//! Callbacks, errbacks and inner Deferreds: contract 108-114, 128.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::rc::Rc;

use couplet_defer::defer::{Deferred, Failure, Resolver, ResolverDropped};

use couplet_testkit::defer_witness::{Log, given, unhandled_in};

#[derive(Debug)]
struct Cause;

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disk is full")
    }
}

impl Error for Cause {}

#[derive(Debug)]
struct Outer(Cause);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot save the poem")
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn c109_callbacks_run_at_once_and_in_order_each_seeing_the_result_before_it() {
    let (deferred, resolver) = Deferred::<u32>::new();
    let log = Log::default();
    let (first, second) = (log.clone(), log.clone());
    deferred
        .add_callback(move |n| {
            first.say(format!("first {n}"));
            Ok(n + 1)
        })
        .map(move |n| second.say(format!("second {n}")))
        .detach();
    resolver.callback(1);
    assert_eq!(log.lines(), ["first 1", "second 2"]);
}

#[test]
fn c109_an_errback_handles_an_error_and_its_value_continues_the_chain() {
    let (deferred, resolver) = Deferred::<&str>::new();
    let log = Log::default();
    let (skipped, errback, after) = (log.clone(), log.clone(), log.clone());
    deferred
        .add_callback(|text| Ok(text.parse::<u8>()?))
        .map(move |n| {
            skipped.say("skipped");
            n
        })
        .add_errback(move |failure| {
            assert!(failure.is::<std::num::ParseIntError>());
            errback.say("errback");
            Ok(7)
        })
        .add_errback(|_| panic!("the failure was handled"))
        .map(move |n| after.say(format!("after {n}")))
        .detach();
    resolver.callback("seven");
    assert_eq!(log.lines(), ["errback", "after 7"]);
}

#[test]
fn c109_an_errback_can_fail_again() {
    let deferred = Deferred::<()>::fail(Failure::msg("one"));
    let given = given(deferred.add_errback(|failure| Err(Failure::msg(format!("{failure}, two")))));
    assert_eq!(given.text(), "one, two");
}

#[test]
fn c109_add_both_sees_value_and_failure() {
    let both = |deferred: Deferred<u8>| given(deferred.add_both(|result| Ok(result.is_ok())));
    assert!(both(Deferred::succeed(1)).take().unwrap());
    assert!(!both(Deferred::fail(Failure::msg("no"))).take().unwrap());
}

#[test]
fn c110_a_callback_added_to_a_fired_deferred_runs_at_once() {
    let (deferred, resolver) = Deferred::<u8>::new();
    resolver.callback(1);
    assert!(deferred.has_fired());
    let given = given(deferred.map(|n| n + 1));
    assert_eq!(given.take().unwrap(), 2);
}

#[test]
fn c110_a_callback_added_inside_a_callback_runs_after_it() {
    let (deferred, resolver) = Deferred::<u8>::new();
    let log = Log::default();
    let end: Rc<RefCell<Option<Deferred<()>>>> = Rc::default();
    let (inside, own_end) = (log.clone(), end.clone());
    let deferred = deferred.map(move |_| {
        let late = inside.clone();
        let own_end = own_end.borrow_mut().take().unwrap();
        own_end.map(move |()| late.say("added inside")).detach();
        inside.say("first ends");
    });
    *end.borrow_mut() = Some(deferred);
    resolver.callback(1);
    assert_eq!(log.lines(), ["first ends", "added inside"]);
}

#[test]
fn c111_an_inner_deferred_suspends_the_outer_one() {
    let (outer, fire_outer) = Deferred::<u8>::new();
    let (inner, fire_inner) = Deferred::<String>::new();
    let outer = outer.then(|_| inner);
    fire_outer.callback(1);
    assert!(!outer.has_fired());
    let given = given(outer);
    assert!(given.is_none());
    fire_inner.callback("inner".to_owned());
    assert_eq!(given.take().unwrap(), "inner");
}

#[test]
fn c111_an_inner_deferred_that_has_fired_suspends_nothing() {
    let (fired, resolver) = Deferred::<u8>::new();
    resolver.callback(2);
    assert_eq!(given(Deferred::succeed(1).then(|_| fired)).take().unwrap(), 2);
    let (outer, resolver) = Deferred::<u8>::new();
    let given = given(outer.then(|n| Deferred::succeed(n + 1)));
    resolver.callback(2);
    assert_eq!(given.take().unwrap(), 3);
}

#[test]
fn c111_the_failure_of_an_inner_deferred_is_the_outer_ones_and_handled_there() {
    let reports = unhandled_in(|| {
        let (inner, fire_inner) = Deferred::<u8>::new();
        let outer = given(Deferred::succeed(()).then(|()| inner));
        fire_inner.errback(Failure::msg("inner"));
        assert_eq!(outer.text(), "inner");
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn c111_recover_waits_for_the_deferred_made_of_a_failure() {
    let (second, fire_second) = Deferred::<&str>::new();
    let given = given(Deferred::fail(Failure::msg("first")).recover(|_| second));
    assert!(given.is_none());
    fire_second.callback("second");
    assert_eq!(given.take().unwrap(), "second");
}

#[test]
fn c111_a_deferred_given_back_to_itself_fails_and_a_cancel_in_the_circle_ends() {
    for links in 0..9 {
        let reports = unhandled_in(|| {
            let (deferred, resolver) = Deferred::<()>::new();
            let end: Rc<RefCell<Option<Deferred<()>>>> = Rc::default();
            let own_end = end.clone();
            let deferred = deferred.then(move |()| own_end.borrow_mut().take().unwrap());
            let deferred = (0..links).fold(deferred, |deferred, _| deferred.map(|()| ()));
            let canceller = deferred.canceller();
            *end.borrow_mut() = Some(deferred);
            resolver.callback(());
            canceller.cancel();
        });
        if links == 0 {
            assert_eq!(reports, ["a callback returned the Deferred that waits for it"]);
        }
    }
}

#[test]
fn c108_firing_takes_the_resolver_and_dropping_it_unfired_fails_the_deferred() {
    let (deferred, resolver) = Deferred::<u8>::new();
    drop(resolver);
    assert!(given(deferred).take().unwrap_err().is::<ResolverDropped>());
}

#[test]
fn c128_a_value_an_error_a_panic_and_a_deferred_become_one_deferred() {
    fn value() -> couplet_defer::Result<u8> {
        Ok(1)
    }
    fn failure() -> couplet_defer::Result<u8> {
        Ok("x".parse::<u8>()?)
    }
    fn panic() -> couplet_defer::Result<u8> {
        std::panic::resume_unwind(Box::new("thrown"))
    }
    let maybe = |f: fn() -> couplet_defer::Result<u8>| {
        given(Deferred::succeed(()).add_callback(move |()| f()))
    };
    assert_eq!(maybe(value).take().unwrap(), 1);
    assert_eq!(maybe(failure).text(), "invalid digit found in string");
    assert_eq!(maybe(panic).text(), "panicked: thrown");
    assert_eq!(given(Deferred::succeed(()).then(|()| Deferred::succeed(4))).take().unwrap(), 4);
    assert_eq!(given(Deferred::from_result(Ok(5))).take().unwrap(), 5);
}

#[test]
fn a_callback_may_fire_another_deferred_which_runs_immediately() {
    let log = Log::default();
    let (second, fire_second) = Deferred::<()>::new();
    let in_second = log.clone();
    second.map(move |()| in_second.say("second")).detach();
    let in_first = log.clone();
    let (first, fire_first) = Deferred::<()>::new();
    first
        .map(move |()| {
            fire_second.callback(());
            in_first.say("first ends");
        })
        .detach();
    fire_first.callback(());
    assert_eq!(log.lines(), ["second", "first ends"]);
}

#[test]
fn a_chain_may_own_the_resolver_that_fires_it() {
    let (deferred, resolver) = Deferred::<()>::new();
    let own: Rc<RefCell<Option<Resolver<()>>>> = Rc::new(RefCell::new(Some(resolver)));
    let kept = own.clone();
    let given = given(deferred.map(move |()| drop(kept)));
    let resolver = own.borrow_mut().take().unwrap();
    resolver.callback(());
    given.take().unwrap();
    assert_eq!(Rc::strong_count(&own), 1);
}

#[test]
fn a_failure_carries_its_type_its_causes_and_its_place() {
    let line = line!() + 1;
    let failure: Failure = Outer(Cause).into();
    assert_eq!((failure.place().file(), failure.place().line()), (file!(), line));
    assert!(failure.is::<Outer>() && !failure.is::<Cause>());
    assert!(failure.downcast_ref::<Outer>().is_some());
    assert_eq!(failure.source().unwrap().to_string(), "the disk is full");
    assert_eq!(failure.chain().count(), 2);
    assert_eq!(format!("{failure}"), "cannot save the poem");
    assert_eq!(format!("{failure:#}"), "cannot save the poem: the disk is full");
    assert_eq!(format!("{failure:?}"), "cannot save the poem\n  caused by: the disk is full");
    let boxed = failure.clone().boxed();
    assert_eq!(boxed.to_string(), failure.to_string());
    assert!(boxed.source().is_some());
}

#[test]
fn texts_and_boxed_errors_become_failures() {
    fn digit(text: &str) -> couplet_defer::Result<u32> {
        let first = text.chars().next().ok_or("nothing to read")?;
        Ok(first.to_digit(10).ok_or_else(|| format!("{first} is no digit"))?)
    }
    assert_eq!(digit("7").unwrap(), 7);
    assert_eq!(digit("").unwrap_err().to_string(), "nothing to read");
    assert_eq!(digit("x").unwrap_err().to_string(), "x is no digit");
    let boxed: Box<dyn Error + Send + Sync> = Box::new(Outer(Cause));
    let line = line!() + 1;
    let failure: Failure = boxed.into();
    assert_eq!((failure.place().file(), failure.place().line()), (file!(), line));
    assert!(failure.is::<Outer>());
    assert_eq!(failure.source().unwrap().to_string(), "the disk is full");
}

#[test]
fn a_failures_place_is_its_question_mark_or_errback() {
    let mut line = 0;
    let mut parse = || -> couplet_defer::Result<u8> {
        line = line!() + 1;
        Ok("x".parse::<u8>()?)
    };
    let failure = parse().unwrap_err();
    assert_eq!((failure.place().file(), failure.place().line()), (file!(), line));
    let (deferred, resolver) = Deferred::<()>::new();
    let line = line!() + 1;
    resolver.errback(Cause);
    let failure = given(deferred).take().unwrap_err();
    assert_eq!((failure.place().file(), failure.place().line()), (file!(), line));
}

#[test]
fn a_failure_is_send_sync_and_clone() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<Failure>();
}
