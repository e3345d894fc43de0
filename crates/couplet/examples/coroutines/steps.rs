//! Part 17, cases 1 and 2: a function that stops halfway and later continues from there. Only a
//! poll runs it: by a `for` over its steps, or by our own loop.
//!
//! `cargo run --example coroutines -- steps`

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Yields a number and suspends until the next poll.
async fn give(out: &Cell<u32>, number: u32) {
    out.set(number);
    let mut stopped = false;
    poll_fn(
        |_| if std::mem::replace(&mut stopped, true) { Poll::Ready(()) } else { Poll::Pending },
    )
    .await;
}

async fn worker(out: &Cell<u32>) {
    println!("  getting up");
    give(out, 1).await;
    println!("  at work");
    give(out, 2).await;
    println!("  done");
}

pub(crate) fn main() -> couplet::Result<()> {
    let mut context = Context::from_waker(Waker::noop());
    let out = Cell::new(0);

    println!("1: with a for");
    let mut first = pin!(worker(&out));
    let steps =
        std::iter::from_fn(|| first.as_mut().poll(&mut context).is_pending().then(|| out.get()));
    for number in steps {
        println!("got {number}");
    }

    println!("2: step by step");
    let mut second = pin!(worker(&out));
    println!("made, and nothing has run");
    while second.as_mut().poll(&mut context).is_pending() {
        println!("got {}", out.get());
    }
    Ok(())
}
