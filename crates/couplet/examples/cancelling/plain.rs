//! Part 19, cases 1 to 4: cancelling a Deferred that has no way to stop its work. The Deferred
//! fails immediately, and a late result is dropped.
//!
//! `cargo run --example cancelling -- plain`

use couplet::Deferred;

/// Prints the result.
fn printed(deferred: Deferred<&'static str>) -> Deferred<()> {
    deferred.add_both(|result| {
        match result {
            Ok(value) => println!("  the callback got: {value}"),
            Err(failure) => println!("  the errback got: {failure}"),
        }
        Ok(())
    })
}

pub(crate) fn main() -> couplet::Result<()> {
    println!("1: only a callback; it is not called, and nothing is reported");
    let (deferred, _resolver) = Deferred::new();
    deferred.map(|value: &str| println!("  the callback got: {value}")).cancel();

    println!("2: an errback gets the cancellation");
    let (deferred, _resolver) = Deferred::new();
    printed(deferred).cancel();

    println!("3: fired first, so there is nothing to cancel");
    let (deferred, resolver) = Deferred::new();
    let deferred = printed(deferred);
    resolver.callback("the result");
    deferred.cancel();

    println!("4: cancelled first, so the result is late");
    let (deferred, resolver) = Deferred::new();
    printed(deferred).cancel();
    println!("  the resolver knows: {}", resolver.is_cancelled());
    resolver.callback("the result");
    Ok(())
}
