//! Part 7: asynchronous callbacks can still block: while one runs, the loop doesn't turn. Code that
//! must block does so in a thread, and returns a Deferred.
//!
//! `cargo run --example deferreds -- blocking`

use std::sync::mpsc;
use std::time::Duration;

use couplet::{Deferred, Reactor};

/// A busy callback: the timed call that is due must wait until it returns.
fn at_work(reactor: &Reactor) -> Deferred<()> {
    reactor.call_soon(|| println!("  the timed call"));
    Deferred::succeed(()).map(|()| {
        println!("  the callback begins");
        let sum: u64 = (1..=100_000).sum();
        println!("  the callback has its sum, {sum}");
    })
}

/// Waits for something that only the loop can provide: in a callback it would wait forever.
fn in_a_thread(reactor: &Reactor) -> Deferred<()> {
    let (sender, receiver) = mpsc::channel();
    let waiting = reactor.defer_to_thread(move || Ok(receiver.recv()?));
    reactor.call_soon(move || {
        println!("  the loop turns while the thread waits");
        // The receiver exists: the job keeps it until it has received.
        let _ = sender.send("a word");
    });
    waiting.map(|word| println!("  the thread received {word}"))
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
