//! Row 129: the item of a fired `get` stays in its queue until it is taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use couplet_defer::defer::{
    AbortOnDrop, Cancelled, Deferred, DeferredQueue, DeferredSemaphore, Failure, QueueOverflow,
    ResolverDropped, first_of, gather, gather_consuming, keep_histories, list, race,
};
use proptest::prelude::*;

use couplet_testkit::defer_witness::{Bell, Clock, given, unhandled_in};

fn poll<F: Future + Unpin>(future: &mut F) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn rest(queue: &DeferredQueue<u8>) -> Vec<u8> {
    std::iter::from_fn(|| queue.try_get()).collect()
}

/// Everything that a Deferred of an item can be made into without a callback that gets the item.
type Shape = (&'static str, fn(&DeferredQueue<u8>) -> Box<dyn std::any::Any>);

fn never() -> Deferred<u8> {
    let (never, resolver) = Deferred::new();
    std::mem::forget(resolver);
    never
}

const SHAPES: [Shape; 14] = [
    ("get", |queue| Box::new(queue.get())),
    ("add_timeout", |queue| {
        Box::new(queue.get().add_timeout(&Clock::default(), Duration::from_secs(1)))
    }),
    ("add_errback", |queue| Box::new(queue.get().add_errback(|_| Ok(0)))),
    ("recover", |queue| Box::new(queue.get().recover(Deferred::fail))),
    ("canceller", |queue| {
        let get = queue.get();
        Box::new((get.canceller(), get))
    }),
    ("abort_on_drop", |queue| Box::new(queue.get().abort_on_drop())),
    ("inner of then", |queue| {
        let inner = queue.clone();
        Box::new(Deferred::succeed(()).then(move |()| inner.get()))
    }),
    ("inner of a pending then", |queue| {
        let (begin, begun) = Deferred::new();
        let inner = queue.clone();
        let end = begin.then(move |()| inner.get()).add_errback(Err);
        begun.callback(());
        Box::new(end)
    }),
    ("race", |queue| Box::new(race([never(), queue.get()]))),
    ("first_of", |queue| Box::new(first_of([never(), queue.get()]))),
    ("list", |queue| Box::new(list([Deferred::succeed(9), queue.get()]))),
    ("gather", |queue| Box::new(gather([queue.get(), Deferred::succeed(9)]))),
    ("gather of a race", |queue| Box::new(gather([race([queue.get()])]))),
    ("detached", |queue| {
        queue.get().detach();
        Box::new(())
    }),
];

#[test]
fn c129_the_item_of_a_dropped_get_stays_first_in_its_queue() {
    for histories in [0, 8] {
        let before = keep_histories(histories);
        for (name, make) in SHAPES {
            // The get fires by a put.
            let queue = DeferredQueue::new();
            let shape = make(&queue);
            queue.put(1).unwrap();
            queue.put(2).unwrap();
            drop(shape);
            assert_eq!(rest(&queue), [1, 2], "{name}");

            // The queue has the item already.
            queue.put(3).unwrap();
            queue.put(4).unwrap();
            drop(make(&queue));
            assert_eq!(rest(&queue), [3, 4], "{name}");

            // The item goes to the next get, before its drop returns.
            let shape = make(&queue);
            let next = given(queue.get());
            queue.put(5).unwrap();
            drop(shape);
            assert_eq!((next.take().unwrap(), rest(&queue)), (5, vec![]), "{name}");
        }
        keep_histories(before);
    }
}

#[test]
fn c129_items_that_are_taken_leave_their_queue() {
    let queue = DeferredQueue::new();
    for n in 1..=5 {
        queue.put(n).unwrap();
    }
    let taken = [
        given(queue.get().add_errback(|_| Ok(0))).take().unwrap(),
        given(race([never(), queue.get()])).take().unwrap().1,
        given(first_of([never(), queue.get()])).take().unwrap().1.unwrap(),
        given(list([queue.get()])).take().unwrap().remove(0).unwrap(),
        given(gather([queue.get()])).take().unwrap()[0],
    ];
    assert_eq!((taken, rest(&queue)), ([1, 2, 3, 4, 5], vec![]));
}

#[test]
fn c129_a_member_that_comes_too_late_for_its_group_keeps_its_item_in_the_queue() {
    let (first, second) = (DeferredQueue::new(), DeferredQueue::new());
    first.put(1).unwrap();
    second.put(2).unwrap();
    assert_eq!(given(race([first.get(), second.get()])).take().unwrap(), (0, 1));
    let won = given(first_of([second.get(), first.get()])).take().unwrap();
    assert_eq!((won.0, won.1.unwrap()), (0, 2));
    second.put(3).unwrap();
    let failed = gather_consuming([second.get(), Deferred::fail(Failure::msg("no"))]);
    assert!(given(failed).take().is_err());
    assert_eq!((rest(&first), rest(&second)), (vec![], vec![3]));
}

#[test]
fn c129_a_list_dropped_with_an_item_reports_its_failures() {
    let queue = DeferredQueue::<u8>::new();
    queue.put(1).unwrap();
    let reports = unhandled_in(|| drop(list([queue.get(), Deferred::fail(Failure::msg("no"))])));
    assert_eq!((reports, rest(&queue)), (vec!["no".to_owned()], vec![1]));
}

#[test]
fn c129_gets_that_have_fired_move_up_when_an_earlier_one_is_dropped() {
    let queue = DeferredQueue::new();
    let gets: Vec<_> = (0..3).map(|_| queue.get()).collect();
    (1..=4).for_each(|n| queue.put(n).unwrap());
    let [first, second, third] = gets.try_into().unwrap();
    drop(second);
    assert_eq!(given(third).take().unwrap(), 2);
    assert_eq!(given(first).take().unwrap(), 1);
    assert_eq!(rest(&queue), [3, 4]);
}

#[test]
fn c129_a_returned_item_may_exceed_the_bounds_and_a_put_may_not() {
    let queue = DeferredQueue::new().size(1).weight(5, |item: &u8| usize::from(*item));
    let waiting = queue.get();
    queue.put(9).unwrap();
    queue.put(4).unwrap();
    assert_eq!(queue.put(1), Err(QueueOverflow(1)));
    drop(waiting);
    assert_eq!((queue.len(), queue.put(1)), (2, Err(QueueOverflow(1))));
    assert_eq!(queue.try_get(), Some(9));
    assert_eq!(queue.put(1), Err(QueueOverflow(1)), "one is queued");
    assert_eq!(queue.try_get(), Some(4));
    assert_eq!(queue.put(6), Err(QueueOverflow(6)), "it weighs too much");
    queue.put(5).unwrap();
    assert_eq!(rest(&queue), [5]);

    let queue = DeferredQueue::new().size(0);
    let waiting = queue.get();
    queue.put(1).unwrap();
    assert_eq!(queue.put(2), Err(QueueOverflow(2)));
    drop(waiting);
    assert_eq!(rest(&queue), [1]);
}

#[test]
fn c129_a_fired_get_outlives_its_queue_and_pending_ones_fail() {
    let queue = DeferredQueue::new();
    let (fired, pending) = (queue.get(), queue.get());
    queue.put(1).unwrap();
    drop(queue);
    assert!(given(pending).take().unwrap_err().is::<ResolverDropped>());
    assert_eq!(given(fired).take().unwrap(), 1);
}

#[test]
fn c129_a_dropped_get_wakes_the_task_that_waits_behind_it() {
    let queue = DeferredQueue::new();
    let (mut first, mut second) = (queue.get(), queue.get());
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    assert!(!poll(&mut first));
    assert!(Pin::new(&mut second).poll(&mut Context::from_waker(&waker)).is_pending());
    queue.put(1).unwrap();
    assert_eq!(bell.rung(), 0);
    drop(first);
    assert_eq!(bell.rung(), 1);
    assert!(poll(&mut second) && queue.is_empty());
}

#[test]
fn c129_a_hundred_thousand_detached_gets_pass_an_item_on() {
    let queue = DeferredQueue::new();
    let gets: Vec<_> = (0..100_000).map(|_| queue.get()).collect();
    let last = given(queue.get());
    gets.into_iter().for_each(Deferred::detach);
    queue.put(1).unwrap();
    assert_eq!(last.take().unwrap(), 1);
}

#[test]
fn c129_a_permit_in_a_dropped_deferred_passes_to_the_next() {
    type Shape = fn(&DeferredSemaphore) -> Box<dyn std::any::Any>;
    let shapes: [Shape; 4] = [
        |one| Box::new(one.acquire()),
        |one| Box::new(one.acquire().add_timeout(&Clock::default(), Duration::from_secs(1))),
        |one| Box::new(first_of([one.acquire()])),
        |one| Box::new(gather([one.acquire()]).map(|permits| permits.len())),
    ];
    for make in shapes {
        let one = DeferredSemaphore::new(1);
        let held = one.try_acquire();
        let shape = make(&one);
        let next = one.acquire();
        drop(held);
        drop(shape);
        assert!(next.has_fired());
        drop(next);
        assert_eq!((one.available(), one.waiting()), (1, 0));
    }
}

/// A way to wait for an item.
#[derive(Debug, Clone, Copy)]
enum Way {
    Get,
    Timeout,
    Inner,
    First,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Put,
    TryGet,
    Wait(Way),
    Poll(usize),
    Cancel(usize),
    Drop(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let way = prop_oneof![Just(Way::Get), Just(Way::Timeout), Just(Way::Inner), Just(Way::First)];
    prop_oneof![
        3 => Just(Event::Put),
        1 => Just(Event::TryGet),
        3 => way.prop_map(Event::Wait),
        3 => (0..8_usize).prop_map(Event::Poll),
        2 => (0..8_usize).prop_map(Event::Cancel),
        2 => (0..8_usize).prop_map(Event::Drop),
    ]
}

enum Waiting {
    Get(AbortOnDrop<u64>),
    First(AbortOnDrop<(usize, couplet_defer::Result<u64>)>),
}

impl Waiting {
    fn new(queue: &DeferredQueue<u64>, way: Way) -> Waiting {
        let clock = Clock::default();
        let inner = queue.clone();
        match way {
            Way::Get => Waiting::Get(queue.get().abort_on_drop()),
            Way::Timeout => Waiting::Get(
                queue.get().add_timeout(&clock, Duration::from_secs(1)).abort_on_drop(),
            ),
            Way::Inner => {
                let inner = Deferred::succeed(()).then(move |()| inner.get());
                Waiting::Get(inner.abort_on_drop())
            }
            Way::First => Waiting::First(first_of([queue.get()]).abort_on_drop()),
        }
    }

    /// The item, if it has one.
    fn take(&mut self) -> Option<u64> {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = match self {
            Waiting::Get(get) => Pin::new(get).poll(&mut cx),
            Waiting::First(first) => Pin::new(first).poll(&mut cx).map(|first| first?.1),
        };
        match polled {
            std::task::Poll::Ready(item) => Some(item.expect("it was not cancelled")),
            std::task::Poll::Pending => None,
        }
    }
}

proptest! {
    /// The model: the items that were not taken, in their order, and the waits in theirs. The wait
    /// at a place gets the item at the same place, if there is one.
    #[test]
    fn c129_no_order_of_puts_takes_and_cancels_loses_doubles_or_reorders_an_item(
        events in proptest::collection::vec(event(), 0..200),
    ) {
        let queue = DeferredQueue::new();
        let (mut items, mut waits) = (VecDeque::new(), Vec::new());
        let mut put = 0;
        for event in events {
            match event {
                Event::Put => {
                    put += 1;
                    prop_assert!(queue.put(put).is_ok());
                    items.push_back(put);
                }
                Event::TryGet => {
                    let expected = items.remove(waits.len());
                    prop_assert_eq!(queue.try_get(), expected);
                }
                Event::Wait(way) => waits.push(Waiting::new(&queue, way)),
                Event::Poll(place) if place < waits.len() => {
                    let taken = waits[place].take();
                    prop_assert_eq!(taken, items.get(place).copied());
                    if taken.is_some() {
                        items.remove(place);
                        drop(waits.remove(place));
                    }
                }
                Event::Cancel(place) | Event::Drop(place) if place < waits.len() => {
                    let wait = waits.remove(place);
                    if let (Event::Cancel(_), Waiting::Get(get)) = (event, wait) {
                        let deferred = get.into_inner();
                        deferred.cancel();
                        drop(deferred.add_errback(|failure| {
                            assert!(failure.is::<Cancelled>());
                            Err(failure)
                        }));
                    }
                }
                Event::Poll(_) | Event::Cancel(_) | Event::Drop(_) => {}
            }
            prop_assert_eq!(queue.len(), items.len().saturating_sub(waits.len()));
            prop_assert_eq!(queue.waiting(), waits.len().saturating_sub(items.len()));
        }
        waits.clear();
        let left: Vec<u64> = std::iter::from_fn(|| queue.try_get()).collect();
        prop_assert_eq!(left, Vec::from(items));
    }
}
