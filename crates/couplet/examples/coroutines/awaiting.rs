//! Part 17, case 5: the reactor drives the coroutine. An available result returns immediately, an
//! unfired Deferred suspends it, and a failure is an `Err` where it is awaited.
//!
//! `cargo run --example coroutines -- awaiting`

use std::time::Duration;

use couplet::{Deferred, Failure, Reactor};

const SHORT: Duration = Duration::from_millis(10);

async fn steps(reactor: Reactor) -> couplet::Result<()> {
    println!("the first step");
    let at_once = Deferred::succeed(1).await?;
    println!("the second got {at_once}");
    let later = reactor.sleep(SHORT).add_callback(|()| Ok(2)).await?;
    println!("the third got {later}");
    let failing = reactor.sleep(SHORT).add_callback(|()| Err::<u32, _>(Failure::msg("no three")));
    match failing.await {
        Ok(number) => println!("never said: {number}"),
        Err(failure) => println!("the fourth got a failure: {failure}"),
    }
    Ok(())
}

pub(crate) fn main() -> couplet::Result<()> {
    couplet::run_until(|reactor| {
        let task = reactor.spawn(steps(reactor.clone()));
        println!("spawned, and nothing has run");
        task
    })
}
