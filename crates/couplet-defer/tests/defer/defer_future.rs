//! A Deferred as a Future: contract 125, 125a, 126.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use couplet_defer::defer::{Cancelled, Deferred, Failure};

use couplet_testkit::defer_witness::{Bell, Log, given, unhandled_in};

fn poll<F: Future + Unpin>(future: &mut F, bell: &Arc<Bell>) -> Poll<F::Output> {
    let waker = Waker::from(bell.clone());
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

#[test]
fn awaiting_yields_the_result_and_wakes_once() {
    let bell = Arc::new(Bell::default());
    let (mut deferred, resolver) = Deferred::<u8>::new();
    assert!(poll(&mut deferred, &bell).is_pending());
    assert!(poll(&mut deferred, &bell).is_pending());
    resolver.callback(4);
    assert_eq!(bell.rung(), 1);
    assert!(matches!(poll(&mut deferred, &bell), Poll::Ready(Ok(4))));
}

#[test]
fn only_the_last_waker_is_woken() {
    let (first, second) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let (mut deferred, resolver) = Deferred::<u8>::new();
    assert!(poll(&mut deferred, &first).is_pending());
    assert!(poll(&mut deferred, &second).is_pending());
    resolver.callback(4);
    assert_eq!((first.rung(), second.rung()), (0, 1));
}

#[test]
fn callbacks_can_be_added_after_a_poll() {
    let bell = Arc::new(Bell::default());
    let (mut deferred, resolver) = Deferred::<u8>::new();
    assert!(poll(&mut deferred, &bell).is_pending());
    let given = given(deferred.map(|n| n + 1));
    resolver.callback(1);
    assert_eq!(given.take().unwrap(), 2);
    assert_eq!(bell.rung(), 0);
}

#[test]
fn c125_a_cancel_is_an_error_at_the_await_and_may_be_swallowed() {
    let bell = Arc::new(Bell::default());
    let (first, _never) = Deferred::<u8>::new();
    let (second, fire_second) = Deferred::<u8>::new();
    let canceller = first.canceller();
    let mut task = Box::pin(async move {
        match first.await {
            Err(failure) if failure.is::<Cancelled>() => second.await,
            other => other,
        }
    });
    assert!(poll(&mut task, &bell).is_pending());
    canceller.cancel();
    assert_eq!(bell.rung(), 1);
    assert!(poll(&mut task, &bell).is_pending());
    fire_second.callback(8);
    assert!(matches!(poll(&mut task, &bell), Poll::Ready(Ok(8))));
}

#[test]
fn c125a_a_polled_deferred_that_is_dropped_unfired_is_cancelled() {
    let bell = Arc::new(Bell::default());
    let log = Log::default();
    let in_canceller = log.clone();
    let (deferred, resolver) =
        Deferred::<u8>::with_canceller(move |_| in_canceller.say("cancelled"));
    let mut deferred = deferred.map(|n| n + 1);
    assert!(poll(&mut deferred, &bell).is_pending());
    drop(deferred);
    assert_eq!(log.lines(), ["cancelled"]);
    assert!(resolver.is_cancelled());
}

#[test]
fn c125a_dropping_a_task_cancels_the_deferred_that_it_awaits() {
    let bell = Arc::new(Bell::default());
    let (deferred, resolver) = Deferred::<u8>::new();
    let (later, fire_later) = Deferred::<u8>::new();
    let mut task = Box::pin(async move { (deferred.await, later.await) });
    assert!(poll(&mut task, &bell).is_pending());
    drop(task);
    assert!(resolver.is_cancelled());
    assert!(!fire_later.is_cancelled(), "it was never polled, so it is only detached");
    fire_later.callback(1);
}

#[test]
fn c125a_c125b_a_deferred_never_polled_is_only_detached() {
    let log = Log::default();
    let in_link = log.clone();
    let (deferred, resolver) = Deferred::<u8>::with_canceller(|_| panic!("nothing cancels it"));
    drop(deferred.map(move |n| in_link.say(n.to_string())));
    assert!(!resolver.is_cancelled());
    resolver.callback(1);
    assert_eq!(log.lines(), ["1"]);
}

#[test]
fn c125a_a_polled_deferred_that_is_detached_or_has_fired_is_not_cancelled() {
    let bell = Arc::new(Bell::default());
    let (mut deferred, resolver) = Deferred::<u8>::new();
    assert!(poll(&mut deferred, &bell).is_pending());
    deferred.detach();
    assert!(!resolver.is_cancelled());
    resolver.callback(1);
    let log = Log::default();
    let called = log.clone();
    let (mut deferred, resolver) = Deferred::<u8>::with_canceller(move |_| called.say("called"));
    assert!(poll(&mut deferred, &bell).is_pending());
    resolver.callback(1);
    drop(deferred);
    assert!(log.lines().is_empty(), "it had fired");
}

#[test]
fn c125a_a_polled_deferred_that_is_given_to_a_callback_is_waited_for() {
    let bell = Arc::new(Bell::default());
    let (mut inner, fire_inner) = Deferred::<u8>::new();
    assert!(poll(&mut inner, &bell).is_pending());
    let given = given(Deferred::succeed(()).then(|()| inner));
    assert!(!fire_inner.is_cancelled());
    fire_inner.callback(1);
    assert_eq!(given.take().unwrap(), 1);
}

#[test]
fn c125a_a_future_dropped_reports_nothing_unless_the_canceller_fails_or_it_had_failed() {
    let bell = Arc::new(Bell::default());
    let polled = |mut deferred: Deferred<u8>| {
        assert!(poll(&mut deferred, &bell).is_pending());
        deferred
    };
    let reports = unhandled_in(|| {
        let (deferred, _resolver) = Deferred::<u8>::new();
        drop(polled(deferred));
    });
    assert_eq!(reports, [""; 0]);
    let reports = unhandled_in(|| {
        let (deferred, _resolver) =
            Deferred::<u8>::with_canceller(|resolver| resolver.errback(Failure::msg("stuck")));
        drop(polled(deferred));
    });
    assert_eq!(reports, ["stuck"]);
    let reports = unhandled_in(|| {
        let (deferred, resolver) = Deferred::<u8>::new();
        let deferred = polled(deferred);
        resolver.errback(Failure::msg("unread"));
        drop(deferred);
    });
    assert_eq!(reports, ["unread"]);
}

#[test]
fn c126_awaiting_any_number_of_fired_deferreds_in_a_row_does_not_recurse() {
    let mut task = pin!(async {
        let mut sum = 0_u64;
        for n in 0..1_000_000 {
            sum += Deferred::succeed(n).await.unwrap();
        }
        sum
    });
    let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(499_999_500_000));
}
