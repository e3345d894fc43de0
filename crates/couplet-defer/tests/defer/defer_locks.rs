//! Row 129: DeferredLock, DeferredSemaphore, DeferredQueue and DeferredEvent.

use std::cell::{Cell, RefCell};
use std::panic::catch_unwind;
use std::rc::Rc;

use couplet_defer::defer::{
    Canceller, Deferred, DeferredEvent, DeferredLock, DeferredQueue, DeferredSemaphore, Failure,
    Panicked, Permit, QueueOverflow, QueueUnderflow, ResolverDropped,
};

use couplet_testkit::defer_witness::{Given, Log, given, unhandled_in};

/// Waits for a permit; once it has the permit, logs `name` and puts the permit into the slot.
fn waiter(
    log: &Log,
    name: &'static str,
    permit: Deferred<Permit>,
) -> (Deferred<()>, Rc<RefCell<Option<Permit>>>) {
    let slot = Rc::new(RefCell::new(None));
    let (log, place) = (log.clone(), slot.clone());
    let having = permit.map(move |permit| {
        *place.borrow_mut() = Some(permit);
        log.say(name);
    });
    (having, slot)
}

#[test]
fn c129_a_lock_is_granted_in_the_order_of_the_acquires() {
    let (lock, log) = (DeferredLock::new(), Log::default());
    let mut held = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let (having, slot) = waiter(&log, name, lock.acquire());
        having.detach();
        held.push(slot);
    }
    assert!(lock.is_locked());
    assert_eq!((log.lines(), lock.waiting()), (vec!["a".to_owned()], 3));
    for (slot, so_far) in held.iter().zip([2, 3, 4, 4]) {
        drop(slot.take());
        assert_eq!(log.lines().len(), so_far, "one at a time");
    }
    assert_eq!(log.lines(), ["a", "b", "c", "d"]);
    assert!(!lock.is_locked());
}

#[test]
fn c129_an_acquire_queues_behind_earlier_waiters() {
    let (lock, log) = (DeferredLock::new(), Log::default());
    let first = lock.try_acquire().unwrap();
    let (asking, inside) = (lock.clone(), log.clone());
    // The holder releases the lock and immediately acquires it again: the next waiter goes first.
    let again = lock.acquire().then(move |permit| {
        drop(permit);
        asking.acquire().map(move |permit| {
            inside.say("again");
            drop(permit);
        })
    });
    let (having, slot) = waiter(&log, "behind", lock.acquire());
    having.detach();
    assert!(lock.try_acquire().is_none());
    drop(first);
    assert!(lock.try_acquire().is_none());
    drop(slot.take());
    given(again).take().unwrap();
    assert_eq!(log.lines(), ["behind", "again"]);
    assert!(lock.try_acquire().is_some());
}

#[test]
fn c129_a_cancelled_waiter_leaves_the_queue() {
    let (lock, log) = (DeferredLock::new(), Log::default());
    let first = lock.try_acquire();
    let (second, _) = waiter(&log, "second", lock.acquire());
    let (third, kept) = waiter(&log, "third", lock.acquire());
    second.cancel();
    assert_eq!(lock.waiting(), 1);
    assert!(given(second).take().unwrap_err().is_cancelled());
    drop(first);
    assert_eq!(log.lines(), ["third"]);
    // Once it holds the lock, a cancel has no effect.
    third.cancel();
    assert!(lock.is_locked() && kept.borrow().is_some());
    given(third).take().unwrap();
}

#[test]
fn c129_waiters_dropped_without_a_cancel_pass_the_lock_on() {
    let (lock, log) = (DeferredLock::new(), Log::default());
    let first = lock.try_acquire();
    lock.acquire().detach();
    drop(lock.acquire());
    let (having, _slot) = waiter(&log, "last", lock.acquire());
    drop(first);
    assert!(having.has_fired());
    assert_eq!((log.lines(), lock.waiting()), (vec!["last".to_owned()], 0));
}

#[test]
fn c129_run_holds_the_lock_until_its_work_has_succeeded_or_failed() {
    let lock = DeferredLock::new();
    for fails in [false, true] {
        let (work, resolver) = Deferred::<u8>::new();
        let inside = lock.clone();
        let running = lock.run(move || {
            assert!(inside.is_locked());
            work
        });
        let seen = lock.clone();
        let ended = given(running.add_both(move |result| {
            assert!(!seen.is_locked(), "it is free before the result is passed on");
            result
        }));
        assert!(lock.is_locked() && ended.is_none());
        if fails {
            resolver.errback(Failure::msg("no"))
        } else {
            resolver.callback(7)
        }
        assert!(!lock.is_locked());
        assert_eq!(ended.take().ok(), (!fails).then_some(7));
    }
}

#[test]
fn c129_run_gives_the_lock_back_when_its_work_panics() {
    let lock = DeferredLock::new();
    let waiting = lock.try_acquire();
    let panicking = given(lock.run(|| -> Deferred<()> { panic!("in the work") }));
    let behind = given(lock.run(|| Deferred::succeed("behind")));
    drop(waiting);
    assert!(panicking.take().unwrap_err().is::<Panicked>());
    assert_eq!(behind.take().unwrap(), "behind");
    assert!(!lock.is_locked());
}

#[test]
fn c129_cancelling_run_leaves_the_queue_or_cancels_the_work() {
    let lock = DeferredLock::new();
    let (work, resolver) = Deferred::<()>::new();
    let working = lock.run(|| work);
    let called = Rc::new(Cell::new(false));
    let mark = called.clone();
    let waiting = lock.run(move || {
        mark.set(true);
        Deferred::succeed(())
    });
    waiting.cancel();
    assert!(given(waiting).take().unwrap_err().is_cancelled());
    assert!(lock.is_locked() && lock.waiting() == 0);
    working.cancel();
    assert!(resolver.is_cancelled() && !lock.is_locked() && !called.get());
    assert!(given(working).take().unwrap_err().is_cancelled());
}

#[test]
fn c129_a_semaphore_lets_in_as_many_as_it_has_tokens() {
    let semaphore = DeferredSemaphore::new(3);
    let now = Rc::new(Cell::new(0));
    let mut ends = Vec::new();
    let mut results: Vec<Given<()>> = Vec::new();
    for _ in 0..10 {
        let (work, resolver) = Deferred::<()>::new();
        ends.push(resolver);
        let (coming, going) = (now.clone(), now.clone());
        results.push(given(semaphore.run(move || {
            coming.set(coming.get() + 1);
            work.map(move |()| going.set(going.get() - 1))
        })));
    }
    assert_eq!((now.get(), semaphore.waiting(), semaphore.available()), (3, 7, 0));
    for (resolver, left) in ends.into_iter().zip((0..10).rev()) {
        resolver.callback(());
        assert_eq!(now.get(), left.min(3));
    }
    assert_eq!((semaphore.available(), semaphore.tokens()), (3, 3));
    for result in results {
        result.take().unwrap();
    }
}

#[test]
fn c129_a_semaphore_without_tokens_is_refused() {
    let refused = catch_unwind(|| DeferredSemaphore::new(0)).unwrap_err();
    let text = refused.downcast_ref::<&str>().copied();
    assert_eq!(text, Some("a semaphore needs at least one token"));
}

#[test]
fn c129_any_number_of_hand_overs_runs_in_constant_stack() {
    let (lock, count) = (DeferredLock::new(), Rc::new(Cell::new(0)));
    let first = lock.try_acquire();
    for _ in 0..200_000 {
        let count = count.clone();
        lock.run(move || {
            count.set(count.get() + 1);
            Deferred::succeed(())
        })
        .detach();
        lock.acquire().detach();
    }
    drop(first);
    assert_eq!(count.get(), 200_000);
    assert!(!lock.is_locked());
}

#[test]
fn c129_an_unbounded_queue_takes_everything_and_a_full_one_refuses_at_once() {
    let open = DeferredQueue::new();
    for n in 0..10_000 {
        open.put(n).unwrap();
    }
    let open = DeferredQueue::<u8>::new();
    let gets: Vec<_> = (0..10_000).map(|_| open.get()).collect();
    assert!(gets.iter().all(|get| !get.has_fired()));
    gets.iter().for_each(Deferred::cancel);
    assert_eq!(open.waiting(), 0);

    let queue = DeferredQueue::new().size(2).backlog(1);
    queue.put("a").unwrap();
    queue.put("b").unwrap();
    assert_eq!(queue.put("c"), Err(QueueOverflow("c")), "the error returns the item");
    assert_eq!((queue.try_get(), queue.try_get(), queue.len()), (Some("a"), Some("b"), 0));
    let waiting = queue.get();
    let second = queue.get();
    assert!(second.has_fired());
    assert!(given(second).take().unwrap_err().is::<QueueUnderflow>());
    queue.put("d").unwrap();
    assert_eq!(given(waiting).take().unwrap(), "d");
}

#[test]
fn c129_a_queue_of_size_or_backlog_zero_only_hands_over() {
    let queue = DeferredQueue::new().size(0);
    assert!(queue.put(1).is_err());
    let waiting = queue.get();
    queue.put(2).unwrap();
    assert_eq!(given(waiting).take().unwrap(), 2);

    let queue = DeferredQueue::new().backlog(0);
    assert!(given(queue.get()).take().unwrap_err().is::<QueueUnderflow>());
    queue.put(3).unwrap();
    assert_eq!(given(queue.get()).take().unwrap(), 3);
}

#[test]
fn c129_a_cancelled_getter_loses_no_item_and_frees_its_place() {
    let queue = DeferredQueue::new().backlog(2);
    let (first, second) = (queue.get(), queue.get());
    first.cancel();
    assert_eq!(queue.waiting(), 1);
    let third = queue.get();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    assert!(given(first).take().unwrap_err().is_cancelled());
    assert_eq!((given(second).take().unwrap(), given(third).take().unwrap()), (1, 2));
    // Once it has its item, a cancel has no effect.
    queue.put(3).unwrap();
    let had = queue.get();
    had.cancel();
    assert_eq!(given(had).take().unwrap(), 3);
}

#[test]
fn c129_cancelling_a_get_of_a_dropped_queue_is_harmless() {
    let canceller = {
        let queue = DeferredQueue::<u8>::new();
        let waiting = queue.get();
        waiting.add_errback(|_| Ok(0)).canceller()
    };
    canceller.cancel();
}

#[test]
fn c129_a_callback_may_use_its_own_queue_and_lock() {
    let (queue, log) = (DeferredQueue::new(), Log::default());
    let (inner, inside) = (queue.clone(), log.clone());
    queue
        .get()
        .then(move |n: u8| {
            inner.put(n + 1).unwrap();
            inner.get()
        })
        .map(move |n| inside.say(n.to_string()))
        .detach();
    queue.put(1).unwrap();
    assert_eq!(log.lines(), ["2"]);
    let lock = DeferredLock::default();
    let inner = lock.clone();
    let nested = lock.run(move || {
        inner.run(|| Deferred::succeed("inner")).detach();
        assert_eq!(inner.waiting(), 1, "not reentrant: the permit holds the lock, not its owner");
        Deferred::succeed("outer")
    });
    assert_eq!(given(nested).take().unwrap(), "outer");
    assert!(!lock.is_locked());
}

#[test]
fn c129_an_unhandled_failure_of_run_is_reported_once() {
    let reports = unhandled_in(|| {
        let lock = DeferredLock::new();
        lock.run(|| Deferred::<()>::fail(Failure::msg("no"))).detach();
    });
    assert_eq!(reports, ["no"]);
}

#[test]
fn c129_an_event_fires_its_waiters_in_order_and_later_ones_at_once() {
    let (event, log) = (DeferredEvent::new(), Log::default());
    for name in ["first", "second"] {
        let log = log.clone();
        event.wait().map(move |()| log.say(name)).detach();
    }
    assert_eq!((event.is_set(), event.waiting(), log.lines().len()), (false, 2, 0));
    event.set();
    assert_eq!((event.is_set(), event.waiting()), (true, 0));
    assert_eq!(log.lines(), ["first", "second"]);
    assert!(event.wait().has_fired());
    event.set();
    event.clear();
    let again = event.wait();
    assert!(!event.is_set() && !again.has_fired());
    event.set();
    assert!(again.has_fired());
}

#[test]
fn c129_cancelling_a_wait_for_an_event_ends_no_other_wait() {
    let event = DeferredEvent::new();
    let (first, second) = (event.wait(), event.wait());
    first.cancel();
    assert_eq!(event.waiting(), 1);
    event.set();
    assert!(given(first).take().unwrap_err().is_cancelled());
    given(second).take().unwrap();
}

#[test]
fn c129_a_set_fires_all_waiters_even_if_one_clears_the_event_and_waits_again() {
    let (event, log) = (DeferredEvent::new(), Log::default());
    for name in ["first", "second"] {
        let (inner, log) = (event.clone(), log.clone());
        let waited = event.wait().then(move |()| {
            log.say(name);
            inner.clear();
            inner.wait()
        });
        waited.detach();
    }
    event.set();
    assert_eq!(log.lines(), ["first", "second"]);
    assert_eq!(event.waiting(), 2);
}

#[test]
fn c129_a_callback_may_cancel_the_next_wait_for_its_event() {
    let event = DeferredEvent::new();
    let next: Rc<RefCell<Option<Canceller>>> = Rc::default();
    let cancels = next.clone();
    event.wait().map(move |()| cancels.take().expect("it is there").cancel()).detach();
    let second = event.wait();
    *next.borrow_mut() = Some(second.canceller());
    event.set();
    assert!(given(second).take().unwrap_err().is_cancelled());
}

#[test]
fn c129_a_wait_for_a_dropped_event_fails() {
    let event = DeferredEvent::new();
    let waiting = event.wait();
    drop(event);
    assert!(given(waiting).take().unwrap_err().is::<ResolverDropped>());
}
