//! Part 19, cases 5 to 8: the creator of a Deferred may give it a canceller, which stops the work
//! and may choose the result.
//!
//! `cargo run --example cancelling -- cancellers`

use couplet::{Deferred, Failure, Resolver};

type Word = &'static str;

/// Prints the result.
fn printed(deferred: Deferred<Word>) -> Deferred<()> {
    deferred.add_both(|result| {
        match result {
            Ok(value) => println!("  the callback got: {value}"),
            Err(failure) => println!("  the errback got: {failure}"),
        }
        Ok(())
    })
}

fn cancelled_with(canceller: impl FnOnce(Resolver<Word>) + 'static) {
    let (deferred, _resolver) = Deferred::with_canceller(|resolver| {
        println!("  the canceller stops the work");
        canceller(resolver);
    });
    printed(deferred).cancel();
}

pub(crate) fn main() -> couplet::Result<()> {
    println!("5: a canceller that fires nothing");
    cancelled_with(drop);

    println!("6: one that has another result");
    cancelled_with(|resolver| resolver.callback("half of the result"));

    println!("7: one that fails in its own way");
    cancelled_with(|resolver| resolver.errback(Failure::msg("interrupted at line 7")));

    println!("8: fired first, so the canceller is not called");
    let (deferred, resolver) = Deferred::with_canceller(|_| println!("  never said"));
    let deferred = printed(deferred);
    resolver.callback("the result");
    deferred.cancel();
    Ok(())
}
