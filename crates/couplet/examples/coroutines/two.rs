//! Part 17, case 6: two tasks wait concurrently, and continue in the order they started waiting.
//! Spawning each returns a Deferred: one fires with its coroutine's value, the other with its
//! failure.
//!
//! `cargo run --example coroutines -- two`

use std::time::Duration;

use couplet::defer::list;
use couplet::{Failure, Reactor};

async fn twice(reactor: Reactor, name: &str) -> couplet::Result<()> {
    for step in ["first", "second"] {
        println!("{name}: the {step} step");
        reactor.sleep(Duration::from_millis(20)).await?;
    }
    println!("{name}: the last step");
    Ok(())
}

async fn good(reactor: Reactor) -> couplet::Result<u32> {
    twice(reactor, "good").await?;
    Ok(1)
}

async fn bad(reactor: Reactor) -> couplet::Result<u32> {
    twice(reactor, "bad").await?;
    Err(Failure::msg("oh no"))
}

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run_until(|reactor| {
        let tasks = [reactor.spawn(good(reactor.clone())), reactor.spawn(bad(reactor.clone()))];
        let printed = tasks.map(|task| {
            task.add_both(|result| {
                match result {
                    Ok(value) => println!("a result: {value}"),
                    Err(failure) => println!("a failure: {failure}"),
                }
                Ok(())
            })
        });
        list(printed).map(|_| println!("both are done"))
    })
}
