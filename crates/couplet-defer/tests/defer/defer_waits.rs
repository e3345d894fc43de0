//! Row 119b: who waits for whom, in a thread that is observed, and the histories of Deferreds that
//! have ended; and the levels of a failure.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use couplet_defer::defer::{
    Deferred, DeferredLock, DeferredSemaphore, Failure, Level, gather, keep_histories,
};
use couplet_defer::internals::{
    ChainResult, ChainState, Ended, FiredBy, Observer, Waiter, Waiting, chain, fired_by,
    held_locks, observe, unhandled_failures, waiting,
};

/// A loop that polls a task.
struct Polling {
    now: Cell<Instant>,
    task: Cell<Option<u64>>,
    ended: RefCell<Vec<Ended>>,
}

impl Observer for Polling {
    fn now(&self) -> Option<Instant> {
        Some(self.now.get())
    }

    fn task(&self) -> Option<u64> {
        self.task.get()
    }

    fn ended(&self, deferred: Ended) {
        self.ended.borrow_mut().push(deferred);
    }
}

/// Observes this thread until it is dropped.
struct Observed {
    polling: Rc<Polling>,
    histories: usize,
}

impl Observed {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn new() -> Observed {
        let (now, task, ended) = (Cell::new(Instant::now()), Cell::default(), RefCell::default());
        let polling = Rc::new(Polling { now, task, ended });
        assert!(observe(Some(polling.clone())).is_none());
        Observed { polling, histories: keep_histories(4) }
    }

    fn pass(&self, seconds: u64) {
        self.polling.now.set(self.polling.now.get() + Duration::from_secs(seconds));
    }

    fn ago(&self, then: Option<Instant>) -> u64 {
        (self.polling.now.get() - then.expect("a time")).as_secs()
    }

    /// Polls a future in a task.
    fn poll<T>(&self, task: u64, future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
        self.polling.task.set(Some(task));
        let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
        self.polling.task.set(None);
        polled
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        keep_histories(self.histories);
        observe(None);
    }
}

fn only() -> Waiting {
    let mut all = waiting(usize::MAX);
    let only = all.pop().expect("one waits");
    assert_eq!(all.len(), 0, "{all:?}");
    only
}

#[test]
fn c119b_c180a_a_deferred_has_a_consumer() {
    let observed = Observed::new();
    let (mut deferred, resolver) = Deferred::<u8>::new();
    observed.pass(3);
    let it = only();
    assert_eq!((it.waiter, it.fired_by, it.callbacks), (Waiter::Nothing, FiredBy::default(), 0));
    assert_eq!((observed.ago(it.since), it.fired, it.place.file()), (3, None, file!()));
    fired_by(&deferred, FiredBy { kind: "job", id: Some(7) });
    assert_eq!(only().fired_by, FiredBy { kind: "job", id: Some(7) });
    assert!(observed.poll(5, &mut deferred).is_pending());
    assert_eq!(only().waiter, Waiter::Polled(Some(5)));
    assert!(observed.poll(6, &mut deferred).is_pending());
    assert_eq!(only().waiter, Waiter::Polled(Some(6)), "another task has it now");
    resolver.callback(1);
    observed.pass(2);
    assert_eq!(observed.ago(only().fired), 2, "its result has not been taken");
    assert!(observed.poll(5, &mut deferred).is_ready());
    assert_eq!(waiting(usize::MAX).len(), 0);
}

#[test]
fn c119b_c180a_the_oldest_waits_come_first() {
    let observed = Observed::new();
    let waits: Vec<_> = (0..4)
        .map(|_| {
            observed.pass(1);
            Deferred::<u8>::new()
        })
        .collect();
    let ages =
        |most| waiting(most).into_iter().map(|it| observed.ago(it.since)).collect::<Vec<_>>();
    assert_eq!([ages(0), ages(1), ages(3)], [vec![], vec![3], vec![3, 2, 1]]);
    assert_eq!(ages(9), [3, 2, 1, 0]);
    drop(waits);
    assert_eq!(ages(9), []);
}

#[test]
fn c119b_c180a_chains_groups_and_detached_deferreds() {
    let _observed = Observed::new();
    let (outer, begin) = Deferred::<u8>::new();
    let (inner, end) = Deferred::<u8>::new();
    outer.then(|_| inner).map(drop).detach();
    begin.callback(1);
    let all = waiting(usize::MAX);
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].waiter, all[0].callbacks), (Waiter::Detached, 2));
    assert_eq!(all[1].waiter, Waiter::Deferred(all[0].id));
    end.callback(2);
    assert_eq!(waiting(usize::MAX).len(), 0);
    let (members, resolvers): (Vec<_>, Vec<_>) = (0..2).map(|_| Deferred::<u8>::new()).unzip();
    let group = gather(members);
    let all = waiting(usize::MAX);
    let of = |waiter| all.iter().filter(|it| it.waiter == waiter).count();
    assert_eq!((all.len(), of(Waiter::Nothing), of(Waiter::Deferred(all[2].id))), (3, 1, 2));
    resolvers.into_iter().for_each(|resolver| resolver.callback(1));
    assert!(group.has_fired());
}

#[test]
fn c119b_c180a_a_lock_has_holders() {
    let observed = Observed::new();
    let lock = DeferredLock::new();
    assert_eq!(held_locks().len(), 0, "it is free");
    let mut first = lock.acquire();
    let mut second = lock.acquire();
    let line = line!() - 1;
    let Poll::Ready(Ok(permit)) = observed.poll(1, &mut first) else { panic!("it is free") };
    assert!(observed.poll(2, &mut second).is_pending());
    observed.pass(4);
    let [held] = &held_locks()[..] else { panic!("one lock") };
    let id = held.id;
    assert_eq!((held.tokens, held.waiting, held.place.file()), (1, 1, file!()));
    assert_eq!(held.holders[0].place.line(), line - 1);
    let [holder] = &held.holders[..] else { panic!("one holder") };
    assert_eq!((holder.waiter, holder.untaken), (Waiter::Polled(Some(1)), None));
    assert_eq!(observed.ago(holder.since), 4);
    assert_eq!(only().fired_by, FiredBy { kind: "lock", id: Some(held.id) });
    // The second one has it now, and is not polled.
    drop(permit);
    observed.pass(9);
    let [held] = &held_locks()[..] else { panic!("one lock") };
    assert_eq!((held.holders[0].waiter, held.waiting), (Waiter::Polled(Some(2)), 0));
    assert_eq!(observed.ago(held.holders[0].untaken), 9);
    assert_eq!(observed.ago(held.holders[0].since), 9, "since it was granted");
    assert_eq!(held.holders[0].place.line(), line);
    let Poll::Ready(Ok(permit)) = observed.poll(2, &mut second) else { panic!("it was granted") };
    assert_eq!(held_locks()[0].holders[0].untaken, None);
    drop(permit);
    assert_eq!(held_locks().len(), 0);
    // Held again, it is the same lock.
    for _ in 0..2 {
        let permit = lock.try_acquire();
        observed.pass(1);
        let [held] = &held_locks()[..] else { panic!("one lock") };
        assert_eq!((held.id, held.waiting, held.holders.len()), (id, 0, 1));
        assert_eq!((observed.ago(held.holders[0].since), permit.is_some()), (1, true));
    }
}

#[test]
fn c119b_c180a_a_semaphore_has_the_holders_that_have_not_released_it() {
    let observed = Observed::new();
    // The order in which three holders release it.
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let semaphore = DeferredSemaphore::new(3);
        let mut permits = Vec::new();
        for waiter in 0..3 {
            let mut acquiring = semaphore.acquire();
            let Poll::Ready(Ok(permit)) = observed.poll(waiter, &mut acquiring) else {
                panic!("it is free")
            };
            permits.push(Some(permit));
        }
        let mut left = vec![0, 1, 2];
        for gone in order {
            permits[gone as usize] = None;
            left.retain(|waiter| *waiter != gone);
            let held = held_locks();
            let holders = held.iter().flat_map(|held| &held.holders);
            let mut waiters: Vec<_> = holders.map(|holder| holder.waiter).collect();
            waiters.sort_by_key(|waiter| {
                left.iter().position(|n| *waiter == Waiter::Polled(Some(*n)))
            });
            let wanted: Vec<_> = left.iter().map(|n| Waiter::Polled(Some(*n))).collect();
            assert_eq!(waiters, wanted, "{order:?}, {gone} is gone");
        }
    }
}

#[test]
fn c119b_many_locks_are_forgotten_with_their_owners() {
    let _observed = Observed::new();
    for _ in 0..1000 {
        drop(DeferredLock::new().try_acquire());
    }
    let kept: Vec<_> = (0..3).map(|_| DeferredLock::new().try_acquire()).collect();
    assert_eq!(held_locks().len(), 3);
    drop(kept);
}

/// How many seconds ago a result arrived, and whether it is a value.
fn result(observed: &Observed, result: Option<&ChainResult<'_>>) -> Option<(u64, bool)> {
    result.map(|result| (observed.ago(result.at), result.failure.is_none()))
}

#[test]
fn c119b_each_callback_has_the_times_of_its_call_and_of_its_result() {
    let observed = Observed::new();
    let (text, begin) = Deferred::<u8>::new();
    let (inner, end) = Deferred::<u8>::new();
    let whole = text.map(|n| n + 1).add_errback(|_| Ok(0)).then(|_| inner).map(|n| n);
    observed.pass(1);
    begin.callback(1);
    observed.pass(2);
    let all = waiting(usize::MAX);
    let outer = chain(&all[0].history);
    assert_eq!(
        (observed.ago(outer.made), result(&observed, outer.result.as_ref())),
        (3, Some((2, true)))
    );
    let steps: Vec<_> = outer.first.iter().chain(&outer.last).collect();
    assert_eq!(
        steps.iter().map(|step| step.handles).collect::<Vec<_>>(),
        ["values", "failures", "values", "values"]
    );
    let called: Vec<_> = steps[..3].iter().map(|step| observed.ago(step.called)).collect();
    assert_eq!((called, steps[3].called), (vec![2, 2, 2], None));
    assert!(matches!(&steps[0].state, ChainState::Returned(it) if observed.ago(it.at) == 2));
    assert!(matches!(steps[1].state, ChainState::Skipped));
    let ChainState::Waits { inner: Some(inner), result: None, .. } = &steps[2].state else {
        panic!("it waits: {steps:?}")
    };
    assert_eq!((observed.ago(inner.made), inner.result.is_none()), (3, true));
    assert!(matches!(steps[3].state, ChainState::Next));
    end.errback(Failure::msg("no poem"));
    observed.pass(4);
    let it = only();
    let failed = chain(&it.history);
    let ChainState::Waits { inner: Some(inner), result: gave, .. } = &failed.last[0].state else {
        panic!("it waited: {failed:?}")
    };
    assert_eq!(result(&observed, gave.as_ref()), Some((4, false)));
    assert_eq!(result(&observed, inner.result.as_ref()), Some((4, false)));
    let failure = inner.result.as_ref().and_then(|result| result.failure).expect("it failed");
    assert_eq!((failure.to_string(), failure.levels().len()), ("no poem".to_owned(), 3));
    whole.add_errback(|_| Ok(0)).detach();
}

#[test]
fn c119b_the_last_callback_of_a_chain_has_returned_once_its_result_is_there() {
    let observed = Observed::new();
    let (text, begin) = Deferred::<u8>::new();
    let number = text.map(|n| n + 1);
    begin.callback(1);
    observed.pass(5);
    let it = only();
    assert!(
        matches!(&chain(&it.history).first[0].state, ChainState::Returned(it) if observed.ago(it.at) == 5)
    );
    drop(number);
    let plain = Deferred::succeed(1);
    observed.pass(6);
    let it = only();
    assert_eq!(result(&observed, chain(&it.history).result.as_ref()), Some((6, true)));
    drop(plain);
}

/// The Deferreds that have ended since the last call: the number of callbacks, and the outcome.
fn ended(observed: &Observed) -> Vec<(usize, String)> {
    let ended = observed.polling.ended.take();
    let shown = ended.iter().map(|it| {
        let deferred = it.deferred();
        let outcome = match chain(&deferred.history).outcome() {
            None => "none".to_owned(),
            Some(ChainResult { failure: None, .. }) => "value".to_owned(),
            Some(ChainResult { failure: Some(failure), .. }) => failure.to_string(),
        };
        (deferred.callbacks, outcome)
    });
    shown.collect()
}

#[test]
fn c119b_a_deferred_that_has_ended_has_its_history() {
    let observed = Observed::new();
    let value = |callbacks| (callbacks, "value".to_owned());
    let failed = |callbacks, why: &str| (callbacks, why.to_owned());
    // A result that is polled.
    let (mut polled, resolver) = Deferred::<u8>::new();
    resolver.callback(1);
    assert_eq!(ended(&observed), []);
    assert!(observed.poll(1, &mut polled).is_ready());
    assert_eq!(ended(&observed), [value(0)]);
    // A value of a detached chain, whose failure was handled.
    let before = unhandled_failures();
    let (begin, resolver) = Deferred::<u8>::new();
    begin.add_errback(|_| Ok(7)).map(drop).detach();
    resolver.errback(Failure::msg("no poem"));
    assert_eq!(observed.polling.ended.borrow()[0].at(), Some(observed.polling.now.get()));
    assert_eq!(ended(&observed), [value(2)]);
    // A failure that nothing handles.
    Deferred::<u8>::fail(Failure::msg("expected")).map(drop).detach();
    assert_eq!(ended(&observed), [failed(1, "expected")]);
    assert_eq!(unhandled_failures() - before, 1);
    // A resolver that is dropped.
    let (begin, resolver) = Deferred::<u8>::new();
    let begin = begin.add_errback(|_| Ok(7));
    drop(resolver);
    drop(begin);
    assert_eq!(ended(&observed), [value(1)]);
    // The history keeps the failure of a Deferred that has ended.
    let (begin, resolver) = Deferred::<u8>::new();
    begin.add_errback(|_| Ok(7)).detach();
    resolver.errback(Failure::msg("kept"));
    let kept = observed.polling.ended.take().pop().expect("it has ended").deferred();
    let text = kept.history.to_string();
    assert!(text.contains("failed: kept") && text.contains("returned a value"), "{text}");
}

#[test]
fn c119b_results_that_pass_to_other_deferreds_end_each_of_them() {
    let observed = Observed::new();
    let both = |outcome: &str| vec![(0, outcome.to_owned()), (1, outcome.to_owned())];
    for is_detached in [true, false] {
        for outcome in ["value", "no poem"] {
            let (outer, begin) = Deferred::<u8>::new();
            let (inner, end) = Deferred::<u8>::new();
            let outer = outer.then(|_| inner);
            let held = if is_detached {
                outer.detach();
                None
            } else {
                Some(outer)
            };
            begin.callback(1);
            assert_eq!(ended(&observed), [], "both wait");
            match outcome {
                "value" => end.callback(1),
                _ => end.errback(Failure::msg("no poem")),
            }
            drop(held);
            let mut all = ended(&observed);
            all.sort();
            assert_eq!(all, both(outcome), "{is_detached}");
        }
    }
    // The members of a group, and the group.
    let (members, resolvers): (Vec<_>, Vec<_>) = (0..2).map(|_| Deferred::<u8>::new()).unzip();
    let group = gather(members.into_iter().map(|member| member.map(|n| n + 1)));
    for resolver in resolvers {
        resolver.callback(1);
    }
    drop(group);
    let mut all = ended(&observed);
    all.sort();
    assert_eq!(all.iter().map(|(callbacks, _)| *callbacks).collect::<Vec<_>>(), [0, 1, 1]);
    assert!(all.iter().all(|(_, outcome)| outcome == "value"), "{all:?}");
}

/// Each round waits for the next.
fn rounds(left: u32) -> Deferred<u8> {
    let (round, resolver) = Deferred::<u8>::new();
    let round = if left == 0 { round } else { round.then(move |_| rounds(left - 1)) };
    resolver.callback(1);
    round
}

#[test]
fn c119b_each_round_of_a_recursion_ends_once() {
    let observed = Observed::new();
    rounds(50).detach();
    assert_eq!(ended(&observed).len(), 51);
    assert_eq!(waiting(usize::MAX).len(), 0);
}

#[test]
fn c119b_nothing_is_kept_without_an_observer() {
    let (deferred, _resolver) = Deferred::<u8>::new();
    let permit = DeferredLock::new().try_acquire();
    assert_eq!((waiting(usize::MAX).len(), held_locks().len()), (0, 0));
    drop((deferred, permit));
}

fn fails() -> couplet_defer::Result<u8> {
    Err(Failure::msg("no poem"))
}

fn lines_from(begin: u32, levels: &[Level]) -> Vec<u32> {
    levels.iter().map(|level| level.place.line() - begin).collect()
}

#[test]
fn c119a_a_failure_keeps_the_levels_that_it_passed() {
    let before = keep_histories(8);
    let begin = line!();
    let (deferred, resolver) = Deferred::<()>::new(); // 1: fires with a value
    let failed = deferred
        .add_callback(|()| fails()) // 3: fails
        .map(|n| n + 1) // 4: is skipped
        .add_errback(Err) // 5: fails again
        .map(|n| n + 1); // 6: is skipped
    let (outer, begun) = Deferred::<()>::new(); // 7
    let outer = outer.then(|()| failed).map(drop); // 8: waits for it; and is skipped
    begun.callback(());
    resolver.callback(());
    let failure = outer.add_both(|result| Ok(result.expect_err("a failure"))); // 11
    let failure = couplet_defer::testing::success_of(failure);
    assert_eq!(lines_from(begin, &failure.levels()), [4, 5, 6, 8, 8, 11]);
    keep_histories(before);
}

#[test]
fn c119a_no_level_of_a_failure_is_lost_and_repeated_ones_are_counted() {
    let before = keep_histories(2);
    let begin = line!();
    let mut failed = Deferred::<u8>::fail(Failure::msg("no poem"));
    for n in 0..1000 {
        failed = match n % 2 {
            0 => failed.map(|n| n), // 4
            _ => failed.map(|n| n), // 5
        };
    }
    let failed = failed.map(|n| n); // 8
    let failure = couplet_defer::testing::failure_of(failed);
    let mut levels = failure.levels();
    levels.retain(|level| level.place.file() == file!());
    assert_eq!(lines_from(begin, &levels), [1, 4, 5, 8]);
    assert_eq!(levels.iter().map(|level| level.count).collect::<Vec<_>>(), [1, 500, 500, 1]);
    assert_eq!(levels[1].to_string(), format!("{} (500 times)", levels[1].place));
    assert_eq!(levels[3].to_string(), levels[3].place.to_string());
    keep_histories(before);
    let failure = couplet_defer::testing::failure_of(Deferred::<u8>::fail(Failure::msg("none")));
    assert_eq!(failure.levels().len(), 0, "no histories are kept");
}
