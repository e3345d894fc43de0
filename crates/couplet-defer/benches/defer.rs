//! The cost of a Deferred, compared with the `oneshot` channels of tokio and of futures, which also
//! deliver a value later, once. Their ends may be in different threads; a Deferred stays in one. A
//! Deferred calls back without a task; a oneshot needs a future for that, here a boxed one that is
//! polled by hand.
//!
//! `cargo bench -p couplet-defer --bench defer`, or with `-- cancel` for the rows that contain `cancel`.

use std::cell::Cell;
use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use couplet_defer::{Deferred, Resolver};
use couplet_testkit::bench::rows::{row, timed};
use tokio::sync::oneshot as tokio_oneshot;

const TIMES: u32 = 500_000;

/// The two ends of a one-time value.
trait Once {
    type Sender;
    type Receiver: Future<Output = Result<u32, Self::Error>> + Unpin + 'static;
    type Error: std::fmt::Debug;
    fn new() -> (Self::Receiver, Self::Sender);
    fn fire(sender: Self::Sender, value: u32);
    fn is_cancelled(sender: &Self::Sender) -> bool;
}

struct Ours;
struct Tokio;
struct Futures;

impl Once for Ours {
    type Sender = Resolver<u32>;
    type Receiver = Deferred<u32>;
    type Error = couplet_defer::Failure;
    fn new() -> (Deferred<u32>, Resolver<u32>) {
        Deferred::new()
    }
    fn fire(sender: Resolver<u32>, value: u32) {
        sender.callback(value);
    }
    fn is_cancelled(sender: &Self::Sender) -> bool {
        sender.is_cancelled()
    }
}

impl Once for Tokio {
    type Sender = tokio_oneshot::Sender<u32>;
    type Receiver = tokio_oneshot::Receiver<u32>;
    type Error = tokio_oneshot::error::RecvError;
    fn new() -> (Self::Receiver, Self::Sender) {
        let (sender, receiver) = tokio_oneshot::channel();
        (receiver, sender)
    }
    fn fire(sender: Self::Sender, value: u32) {
        sender.send(value).expect("it is awaited");
    }
    fn is_cancelled(sender: &Self::Sender) -> bool {
        sender.is_closed()
    }
}

impl Once for Futures {
    type Sender = futures_channel::oneshot::Sender<u32>;
    type Receiver = futures_channel::oneshot::Receiver<u32>;
    type Error = futures_channel::oneshot::Canceled;
    fn new() -> (Self::Receiver, Self::Sender) {
        let (sender, receiver) = futures_channel::oneshot::channel();
        (receiver, sender)
    }
    fn fire(sender: Self::Sender, value: u32) {
        sender.send(value).expect("it is awaited");
    }
    fn is_cancelled(sender: &Self::Sender) -> bool {
        sender.is_canceled()
    }
}

/// Times `step` for every number, and checks that each number has arrived once.
fn arriving(step: impl Fn(u32, &Rc<Cell<u64>>)) -> Duration {
    let sum = Rc::new(Cell::new(0));
    let took = timed(|| (0..TIMES).for_each(|n| step(black_box(n), &sum)));
    assert_eq!(sum.get(), (0..u64::from(TIMES)).sum());
    took
}

fn add(sum: &Cell<u64>, value: u32) {
    sum.set(sum.get() + u64::from(value));
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn take<O: Once>() -> Duration {
    arriving(|n, sum| {
        let (mut receiver, sender) = O::new();
        O::fire(sender, n);
        add(sum, poll(Pin::new(&mut receiver)).expect("it has fired").expect("with a value"));
    })
}

fn wait<O: Once>() -> Duration {
    arriving(|n, sum| {
        let (mut receiver, sender) = O::new();
        assert!(poll(Pin::new(&mut receiver)).is_none());
        O::fire(sender, n);
        add(sum, poll(Pin::new(&mut receiver)).expect("it has fired").expect("with a value"));
    })
}

/// Replaces callbacks by a boxed future, for types without callbacks.
fn boxed<O: Once, F>(steps: fn(O::Receiver) -> F) -> Duration
where
    F: Future<Output = Result<u32, O::Error>> + 'static,
{
    arriving(move |n, sum| {
        let (receiver, sender) = O::new();
        let sum = sum.clone();
        let mut task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            if let Ok(value) = steps(receiver).await {
                add(&sum, value);
            }
        });
        assert!(poll(task.as_mut()).is_none());
        O::fire(sender, n);
        poll(task.as_mut()).expect("it has fired");
    })
}

async fn one_step<O: Once>(receiver: O::Receiver) -> Result<u32, O::Error> {
    receiver.await
}

async fn three_steps<O: Once>(receiver: O::Receiver) -> Result<u32, O::Error> {
    let first = receiver.await.map(black_box);
    let second = first.or_else(|error| black_box(Err(error)))?;
    std::future::ready(Ok(second)).await
}

fn callback() -> Duration {
    arriving(|n, sum| {
        let (deferred, resolver) = Deferred::new();
        let sum = sum.clone();
        deferred.map(move |value| add(&sum, value)).detach();
        resolver.callback(n);
    })
}

fn chain() -> Duration {
    arriving(|n, sum| {
        let (deferred, resolver) = Deferred::new();
        let sum = sum.clone();
        let deferred = deferred.add_callback(|value| Ok(black_box(value))).add_errback(Err);
        deferred.then(Deferred::succeed).map(move |value| add(&sum, value)).detach();
        resolver.callback(n);
    })
}

fn ready() -> Duration {
    arriving(|n, sum| {
        let sum = sum.clone();
        Deferred::succeed(n).map(move |value| add(&sum, value)).detach();
    })
}

/// The sender can see that its value is no longer wanted.
fn cancel<O: Once>() -> Duration {
    arriving(|n, sum| {
        let (mut receiver, sender) = O::new();
        assert!(poll(Pin::new(&mut receiver)).is_none());
        drop(receiver);
        if O::is_cancelled(&sender) {
            add(sum, n);
        }
    })
}

/// A cancel reaches both the work and the waiter.
fn canceller() -> Duration {
    arriving(|n, sum| {
        let sum = sum.clone();
        let (deferred, resolver) = Deferred::<u32>::with_canceller(move |_| add(&sum, n));
        let deferred = deferred.add_errback(|failure| {
            assert!(failure.is_cancelled());
            Ok(0)
        });
        deferred.cancel();
        drop((deferred, resolver));
    })
}

fn main() {
    let times = TIMES as usize;
    let (deferred, tokio, futures) = ("Deferred", "tokio's oneshot", "futures' oneshot");
    row(
        "make, fire, take",
        times,
        &mut [
            (deferred, &mut take::<Ours>),
            (tokio, &mut take::<Tokio>),
            (futures, &mut take::<Futures>),
        ],
    );
    row(
        "make, await, fire, take",
        times,
        &mut [
            (deferred, &mut wait::<Ours>),
            (tokio, &mut wait::<Tokio>),
            (futures, &mut wait::<Futures>),
        ],
    );
    row(
        "make, fire, run what is to follow",
        times,
        &mut [
            ("Deferred, a callback", &mut callback),
            ("Deferred, a boxed future", &mut || boxed::<Ours, _>(one_step::<Ours>)),
            ("tokio's oneshot, a boxed future", &mut || boxed::<Tokio, _>(one_step::<Tokio>)),
            ("futures' oneshot, a boxed future", &mut || boxed::<Futures, _>(one_step::<Futures>)),
        ],
    );
    row(
        "make, fire, run three steps: for a value, for an error, and one that waits",
        times,
        &mut [
            ("Deferred, callbacks", &mut chain),
            ("Deferred, a boxed future", &mut || boxed::<Ours, _>(three_steps::<Ours>)),
            ("tokio's oneshot, a boxed future", &mut || boxed::<Tokio, _>(three_steps::<Tokio>)),
            ("futures' oneshot, a boxed future", &mut || {
                boxed::<Futures, _>(three_steps::<Futures>)
            }),
        ],
    );
    row(
        "make, await, cancel",
        times,
        &mut [
            (deferred, &mut cancel::<Ours>),
            ("Deferred, cancel() with a canceller and a handler", &mut canceller),
            (tokio, &mut cancel::<Tokio>),
            (futures, &mut cancel::<Futures>),
        ],
    );
    row("a value that is there, and a callback", times, &mut [(deferred, &mut ready)]);
}
