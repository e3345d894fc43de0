//! What a Deferred costs beside the `oneshot` channels of tokio and of futures, which do the same:
//! a value that comes later, once. Those may cross threads, and a Deferred may not; a Deferred calls
//! back by itself, and with a oneshot that takes a future, here a boxed one that is polled by hand.
//!
//! `cargo bench -p couplet --bench defer`, or with `-- cancel` for the rows that contain `cancel`.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod rows;

use std::cell::Cell;
use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use couplet::{Deferred, Resolver};
use rows::{row, timed};
use tokio::sync::oneshot as tokio_oneshot;

const TIMES: u32 = 500_000;

/// The two ends of a value that comes once.
trait Once {
    type Sender;
    type Receiver: Future<Output = Result<u32, Self::Error>> + Unpin + 'static;
    type Error: std::fmt::Debug;
    fn new() -> (Self::Receiver, Self::Sender);
    fn fire(sender: Self::Sender, value: u32);
}

struct Ours;
struct Tokio;
struct Futures;

impl Once for Ours {
    type Sender = Resolver<u32>;
    type Receiver = Deferred<u32>;
    type Error = couplet::Failure;
    fn new() -> (Deferred<u32>, Resolver<u32>) {
        Deferred::new()
    }
    fn fire(sender: Resolver<u32>, value: u32) {
        sender.callback(value);
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
}

/// Times `step` for every number, and checks that each has arrived once.
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

/// What stands in for callbacks where there are none.
fn boxed<O: Once>(steps: impl Fn(u32) -> Result<u32, O::Error> + Copy + 'static) -> Duration {
    arriving(move |n, sum| {
        let (receiver, sender) = O::new();
        let sum = sum.clone();
        let mut task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            if let Ok(value) = receiver.await.and_then(steps) {
                add(&sum, value);
            }
        });
        assert!(poll(task.as_mut()).is_none());
        O::fire(sender, n);
        poll(task.as_mut()).expect("it has fired");
    })
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

/// The work is told that its result is wanted no more.
fn cancel_ours() -> Duration {
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

fn cancel<O: Once>(is_cancelled: fn(&O::Sender) -> bool) -> Duration {
    arriving(|n, sum| {
        let (receiver, sender) = O::new();
        drop(receiver);
        if is_cancelled(&sender) {
            add(sum, n);
        }
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
            ("Deferred, a boxed future", &mut || boxed::<Ours>(Ok)),
            ("tokio's oneshot, a boxed future", &mut || boxed::<Tokio>(Ok)),
            ("futures' oneshot, a boxed future", &mut || boxed::<Futures>(Ok)),
        ],
    );
    row(
        "make, fire, run a chain: a value, an error's handler, a step that waits, the end",
        times,
        &mut [
            ("Deferred, four callbacks", &mut chain),
            ("tokio's oneshot, a boxed future", &mut || boxed::<Tokio>(|n| Ok(black_box(n)))),
            ("futures' oneshot, a boxed future", &mut || boxed::<Futures>(|n| Ok(black_box(n)))),
        ],
    );
    row(
        "make, cancel",
        times,
        &mut [
            ("Deferred, with a canceller and a handler", &mut cancel_ours),
            (tokio, &mut || cancel::<Tokio>(tokio_oneshot::Sender::is_closed)),
            (futures, &mut || cancel::<Futures>(futures_channel::oneshot::Sender::is_canceled)),
        ],
    );
    row("a value that is there, and a callback", times, &mut [(deferred, &mut ready)]);
}
