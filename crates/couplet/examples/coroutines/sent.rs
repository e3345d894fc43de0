//! Part 17, case 4: sending values and failures into a coroutine that awaits a Deferred: firing
//! the Deferred with a value is Python's `send`, with a failure `throw`.
//!
//! `cargo run --example coroutines -- sent`

use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use couplet::{Deferred, Failure, Resolver, Result};

#[derive(Debug, thiserror::Error)]
#[error("out of order")]
struct Malfunction;

type Door = Cell<Option<Resolver<u32>>>;

/// Waits for the next input.
async fn receive(door: &Door) -> Result<u32> {
    let (deferred, resolver) = Deferred::new();
    door.set(Some(resolver));
    deferred.await
}

async fn machine(door: &Door) -> Result<()> {
    println!("ready");
    println!("received {}", receive(door).await?);
    println!("received {}", receive(door).await?);
    match receive(door).await {
        Err(failure) if failure.is::<Malfunction>() => println!("handled: {failure}"),
        other => println!("not expected: {other:?}"),
    }
    println!("received {}", receive(door).await?);
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    let door = Door::default();
    let mut machine = pin!(machine(&door));
    let send: [Result<u32>; 4] =
        [Ok(10), Ok(20), Err(Malfunction.into()), Err(Failure::msg("the plug was pulled"))];
    let mut inputs = send.into_iter();
    loop {
        match machine.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => {}
            Poll::Ready(result) => {
                println!("ended with {result:?}");
                return Ok(());
            }
        }
        let (Some(resolver), Some(input)) = (door.take(), inputs.next()) else { return Ok(()) };
        resolver.resolve(input);
    }
}
