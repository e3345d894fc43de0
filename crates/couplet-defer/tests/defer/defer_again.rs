//! Members, waiters and items next to others that have ended, and each cycle twice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet_defer::defer::{
    Deferred, DeferredEvent, DeferredQueue, DeferredSemaphore, gather_consuming, list,
};

type Group = fn(Vec<Deferred<u8>>) -> Deferred<()>;

const GROUPS: [(&str, Group); 2] = [
    ("list", |members| list(members).map(drop)),
    ("gather", |members| gather_consuming(members).map(drop)),
];

/// Members that fired before, or while the group waits, keep no other from its cancel.
#[test]
fn c123_a_cancel_reaches_all_members_except_those_that_have_ended() {
    const MEMBERS: usize = 4;
    for (name, group) in GROUPS {
        for fired in 0..1 << MEMBERS {
            for fires_before in [false, true] {
                let cancelled = Rc::new(RefCell::new(Vec::new()));
                let (members, resolvers): (Vec<_>, Vec<_>) = (0..MEMBERS)
                    .map(|n| {
                        let cancelled = cancelled.clone();
                        Deferred::with_canceller(move |_| cancelled.borrow_mut().push(n))
                    })
                    .unzip();
                let mut resolvers: Vec<_> = resolvers.into_iter().map(Some).collect();
                let mut fire = || {
                    for n in (0..MEMBERS).filter(|n| fired & 1 << n != 0) {
                        resolvers[n].take().expect("it fires once").callback(n as u8);
                    }
                };
                if fires_before {
                    fire();
                }
                let together = group(members);
                if !fires_before {
                    fire();
                }
                together.cancel();
                drop(together.add_errback(|_| Ok(())));
                let expected: Vec<_> = (0..MEMBERS).filter(|n| fired & 1 << n == 0).collect();
                assert_eq!(*cancelled.borrow(), expected, "{name}, {fired:04b}, {fires_before}");
            }
        }
    }
}

/// An event that is set and cleared several times fires the waits of each cycle.
#[test]
fn c129_each_set_fires_the_waits_from_before_it() {
    let event = DeferredEvent::new();
    let fired = Rc::new(Cell::new(0));
    for cycle in 1..=3 {
        let waits = (0..2).map(|n| {
            let (event, fired, again) = (event.clone(), fired.clone(), event.clone());
            event.wait().map(move |()| {
                fired.set(fired.get() + 1);
                if n == 0 {
                    // A wait of the next cycle.
                    again.clear();
                    let fired = fired.clone();
                    again.wait().map(move |()| fired.set(fired.get() + 100)).detach();
                }
            })
        });
        waits.for_each(Deferred::detach);
        let before = fired.get();
        event.set();
        let later = if cycle > 1 { 100 } else { 0 };
        assert_eq!(fired.get() - before, 2 + later, "{cycle}");
        assert_eq!((event.is_set(), event.waiting()), (false, 1), "{cycle}");
    }
    event.set();
    assert_eq!((fired.get(), event.waiting()), (3 * 102, 0));
}

/// Permits that return in any order let in as many waiters, and no more.
#[test]
fn c129_a_semaphore_recovers_permits_returned_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let semaphore = DeferredSemaphore::new(3);
        for cycle in 0..2 {
            let mut held: Vec<_> = (0..3).map(|_| semaphore.try_acquire()).collect();
            assert!(held.iter().all(Option::is_some), "{cycle}");
            assert!(semaphore.try_acquire().is_none());
            let waiters: Vec<_> = (0..2).map(|_| semaphore.acquire()).collect();
            for (returned, at) in order.into_iter().enumerate() {
                let fired = waiters.iter().filter(|waiter| waiter.has_fired()).count();
                assert_eq!(fired, returned.min(2), "{order:?}, {cycle}");
                drop(held[at].take());
            }
            assert_eq!((semaphore.available(), semaphore.waiting()), (1, 0), "{order:?}");
            drop(waiters);
            assert_eq!(semaphore.available(), 3, "{order:?}, {cycle}");
        }
    }
}

/// Items that dropped gets return weigh as much as before, each time.
#[test]
fn c129_an_item_weighs_the_same_each_time_that_it_returns() {
    let queue = DeferredQueue::new().weight(10, |item: &u8| usize::from(*item));
    for cycle in 0..3 {
        queue.put(4).expect("it fits");
        queue.put(3).expect("it fits");
        for gets in [1, 2, 1] {
            // Fired gets, which are dropped.
            drop((0..gets).map(|_| queue.get()).collect::<Vec<_>>());
            assert_eq!(queue.len(), 2, "{cycle}");
            assert!(queue.put(4).is_err(), "{cycle}: 7 and 4 are more than 10");
        }
        queue.put(3).expect("7 and 3 are 10");
        let items: Vec<_> = std::iter::from_fn(|| queue.try_get()).collect();
        assert_eq!(items, [4, 3, 3], "{cycle}");
        queue.put(10).expect("it is empty");
        assert_eq!(queue.try_get(), Some(10));
    }
}

/// A fired get that moves up to another item frees the weight of the item that is left.
#[test]
fn c129_a_dropped_get_frees_the_item_that_no_other_get_has() {
    let queue = DeferredQueue::new().weight(10, |item: &u8| usize::from(*item));
    for _ in 0..3 {
        queue.put(4).expect("it fits");
        queue.put(3).expect("it fits");
        let (first, second) = (queue.get(), queue.get());
        queue.put(10).expect("both items belong to gets");
        assert_eq!(queue.try_get(), Some(10));
        // The second get has the 4 now, and the 3 is free.
        drop(first);
        assert_eq!((queue.len(), queue.put(8).is_err()), (1, true));
        queue.put(7).expect("3 and 7 are 10");
        let got = Rc::new(Cell::new(0));
        let slot = got.clone();
        second.map(move |item| slot.set(item)).detach();
        assert_eq!((got.get(), queue.try_get(), queue.try_get()), (4, Some(3), Some(7)));
        assert!(queue.is_empty());
    }
}

/// The bounds of a queue hold together, in whatever order they were set.
#[test]
fn c129_every_bound_of_a_queue_holds_in_any_order_of_the_calls() {
    type Queue = DeferredQueue<u8>;
    let size: fn(Queue) -> Queue = |queue| queue.size(2);
    let weight: fn(Queue) -> Queue = |queue| queue.weight(5, |item| usize::from(*item));
    let backlog: fn(Queue) -> Queue = |queue| queue.backlog(1);
    for order in [[size, weight, backlog], [backlog, weight, size], [weight, backlog, size]] {
        let queue = order.into_iter().fold(DeferredQueue::new(), |queue, bound| bound(queue));
        for cycle in 0..2 {
            queue.put(3).expect("it is empty");
            assert!(queue.put(3).is_err(), "{cycle}: 6 is more than 5");
            queue.put(1).expect("4 is less than 5");
            assert!(queue.put(1).is_err(), "{cycle}: two are queued");
            assert_eq!((queue.try_get(), queue.try_get()), (Some(3), Some(1)));
            let (waiting, refused) = (queue.get(), queue.get());
            assert!(!waiting.has_fired() && refused.has_fired(), "{cycle}: one may wait");
            waiting.cancel();
            drop(waiting.add_errback(|_| Ok(0)));
            drop(refused.add_errback(|_| Ok(0)));
        }
    }
}
