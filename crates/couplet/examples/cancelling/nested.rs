//! Part 19, case 12: a chain that has fired waits for a Deferred that a callback returned.
//! Cancelling the chain cancels that inner Deferred.
//!
//! `cargo run --example cancelling -- nested`

use couplet::{Deferred, Resolver};

fn named(name: &'static str) -> (Deferred<&'static str>, Resolver<&'static str>) {
    Deferred::with_canceller(move |_| println!("the canceller of the {name} one"))
}

pub(crate) fn main() -> couplet::Result<()> {
    println!("12: the outer one has fired, the inner one has not");
    let (outer, fires_outer) = named("outer");
    let (inner, _fires_inner) = named("inner");
    let chain = outer
        .then(|result| {
            println!("the first callback got {result}, and returns the inner one");
            inner
        })
        .add_both(|result| {
            match result {
                Ok(value) => println!("the second callback got {value}"),
                Err(failure) => println!("the errback got: {failure}"),
            }
            Ok(())
        });
    fires_outer.callback("a result");
    println!("cancelling the outer chain");
    chain.cancel();
    println!("done");
    Ok(())
}
