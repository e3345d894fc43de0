//! Panics in user code are contained where it is called: contract 109, 117; law 10.

use std::cell::Cell;
use std::rc::Rc;

use couplet_defer::defer::{
    Canceller, Deferred, Failure, Panicked, ResolverDropped, gather, race, set_reporter,
};

use couplet_testkit::defer_witness::{Log, given};

/// Panics without printing a message to stderr.
fn panic_with(payload: impl std::any::Any + Send) -> ! {
    std::panic::resume_unwind(Box::new(payload))
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic_with("dropped");
    }
}

#[test]
fn c109_a_panic_in_a_callback_is_a_failure_with_its_text() {
    let run = |callback: fn(u8) -> couplet_defer::Result<u8>| {
        let (deferred, resolver) = Deferred::<u8>::new();
        let late = given(Deferred::succeed(1).add_callback(callback));
        let given = given(deferred.add_callback(callback));
        resolver.callback(1);
        let failure = given.take().unwrap_err();
        assert_eq!(late.text(), failure.to_string());
        failure.downcast_ref::<Panicked>().unwrap().0.clone()
    };
    assert_eq!(run(|_| panic_with("a text")), "a text");
    assert_eq!(run(|_| panic_with("a string".to_owned())), "a string");
    assert_eq!(run(|_| panic_with(17)), "(no message)");
    assert_eq!(run(|_| panic_with(PanicsInDrop)), "(no message)");
    assert_eq!(run(|n| Ok(200 / n.saturating_sub(n))), "attempt to divide by zero");
}

#[test]
fn c109_a_panic_in_any_kind_of_callback_is_contained() {
    let text = |deferred: Deferred<u8>| given(deferred).text();
    let ok = || Deferred::succeed(1);
    let bad = || Deferred::<u8>::fail(Failure::msg("bad"));
    assert_eq!(text(ok().map(|_| panic_with("map"))), "panicked: map");
    assert_eq!(text(ok().then(|_| panic_with("then"))), "panicked: then");
    assert_eq!(text(bad().add_errback(|_| panic_with("errback"))), "panicked: errback");
    assert_eq!(text(bad().recover(|_| panic_with("recover"))), "panicked: recover");
    assert_eq!(text(bad().add_both(|_| panic_with("both"))), "panicked: both");
}

#[test]
fn c109_callbacks_after_a_panic_still_run() {
    let (deferred, resolver) = Deferred::<u8>::new();
    let deferred = deferred.map(|_| panic_with("thrown"));
    let given = given(deferred.add_errback(|failure: Failure| Ok(failure.is::<Panicked>())));
    resolver.callback(1);
    assert!(given.take().unwrap());
}

#[test]
fn c117_a_panic_in_a_canceller_is_contained_and_means_cancelled() {
    let (deferred, resolver) = Deferred::<u8>::with_canceller(|_| panic_with("canceller"));
    deferred.cancel();
    assert!(resolver.is_cancelled());
    assert_eq!(given(deferred).text(), "cancelled");
    let (deferred, _resolver) = Deferred::<u8>::with_canceller(|resolver| {
        resolver.callback(1);
        panic_with("after the result");
    });
    deferred.cancel();
    assert_eq!(given(deferred).take().unwrap(), 1);
}

#[test]
fn c119_a_panic_in_the_reporter_is_contained_and_the_next_report_still_comes() {
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    let before = set_reporter(move |_| {
        count.set(count.get() + 1);
        panic_with("reporter");
    });
    drop(Deferred::<u8>::fail(Failure::msg("one")));
    drop(Deferred::<u8>::fail(Failure::msg("two")));
    before.set();
    assert_eq!(calls.get(), 2);
}

#[test]
fn a_resolver_dropped_by_a_panic_fires_and_its_callbacks_may_panic_too() {
    let log = Log::default();
    let (in_errback, in_last) = (log.clone(), log.clone());
    let (second, fire_second) = Deferred::<u8>::new();
    second
        .add_errback(move |failure| {
            assert!(failure.is::<ResolverDropped>());
            in_errback.say("errback");
            panic_with("a panic while a panic unwinds");
        })
        .add_errback(move |failure| {
            in_last.say(failure.to_string());
            Ok(0)
        })
        .detach();
    let (first, fire_first) = Deferred::<u8>::new();
    let given = given(first.map(move |_| {
        let _kept = fire_second;
        panic_with("first")
    }));
    fire_first.callback(1);
    assert_eq!(given.text(), "panicked: first");
    assert_eq!(log.lines(), ["errback", "panicked: a panic while a panic unwinds"]);
}

#[test]
fn a_panic_in_the_drop_of_a_callback_or_a_canceller_is_contained() {
    let (skipped, kept) = (PanicsInDrop, PanicsInDrop);
    let (deferred, resolver) = Deferred::<u8>::with_canceller(move |_| drop(kept));
    let given = given(deferred.map(move |_| drop(skipped)));
    resolver.errback(Failure::msg("first"));
    assert_eq!(given.text(), "panicked: dropped");
}

#[test]
fn a_panic_in_the_drop_of_an_unused_result_is_contained() {
    let (deferred, resolver) = Deferred::<PanicsInDrop>::new();
    deferred.detach();
    resolver.callback(PanicsInDrop);
    let (deferred, resolver) = Deferred::<PanicsInDrop>::new();
    deferred.cancel();
    resolver.callback(PanicsInDrop);
}

#[test]
fn a_panic_in_the_drop_of_a_members_value_does_not_stall_its_group() {
    let (last, fire_last) = Deferred::<PanicsInDrop>::new();
    let whole = given(gather([Deferred::succeed(PanicsInDrop), last]));
    fire_last.errback(Failure::msg("last"));
    assert_eq!(whole.text(), "member 1 failed: last");

    let (loser, _never) = Deferred::with_canceller(|resolver| resolver.callback(PanicsInDrop));
    let (winner, fire) = Deferred::new();
    let index = given(race([loser, winner]).map(|(index, value)| {
        std::mem::forget(value);
        index
    }));
    fire.callback(PanicsInDrop);
    assert_eq!(index.take().unwrap(), 1);
}

#[test]
fn a_cancel_from_the_drop_of_a_members_value_comes_after_its_group_fired() {
    struct CancelsInDrop(Rc<Cell<Option<Canceller>>>);
    impl Drop for CancelsInDrop {
        fn drop(&mut self) {
            if let Some(canceller) = self.0.take() {
                canceller.cancel();
            }
        }
    }
    let own = Rc::new(Cell::new(None));
    let (failing, fire) = Deferred::new();
    let (running, resolver) = Deferred::new();
    let whole = gather([Deferred::succeed(CancelsInDrop(own.clone())), failing, running]);
    own.set(Some(whole.canceller()));
    fire.errback(Failure::msg("one"));
    assert!(own.take().is_none(), "the value was dropped");
    assert!(!resolver.is_cancelled());
    assert_eq!(given(whole).text(), "member 1 failed: one");
}
