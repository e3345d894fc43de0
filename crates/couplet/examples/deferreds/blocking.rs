//! Part 7: callbacks are asynchronous, and still can block: while one runs, the loop doesn't turn.
//! What has to wait by itself waits in a thread, and gives back a Deferred.
//!
//! `cargo run --example deferreds -- blocking`

use std::sync::mpsc;
use std::time::Duration;

use couplet::{Deferred, Reactor};

/// A callback at work: the timed call that is due has to wait for its end.
fn at_work(reactor: &Reactor) -> Deferred<()> {
    reactor.call_soon(|| println!("  the timed call"));
    Deferred::succeed(()).map(|()| {
        println!("  the callback begins");
        let sum: u64 = (1..=100_000).sum();
        println!("  the callback has its sum, {sum}");
    })
}

/// A wait for what only the loop can give: in a callback it would last for ever.
fn in_a_thread(reactor: &Reactor) -> Deferred<()> {
    let (sender, receiver) = mpsc::channel();
    let waiting = reactor.defer_to_thread(move || Ok(receiver.recv()?));
    reactor.call_soon(move || {
        println!("  the loop turns while the thread waits");
        // It is there: the job keeps it until it has received.
        let _ = sender.send("a word");
    });
    waiting.map(|word| println!("  the thread was given {word}"))
}

async fn both(reactor: Reactor) -> couplet::Result<()> {
    println!("in the loop:");
    at_work(&reactor).await?;
    reactor.sleep(Duration::ZERO).await?;
    println!("in a thread:");
    in_a_thread(&reactor).await
}

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run_until(|reactor| reactor.spawn(both(reactor.clone())))
}
