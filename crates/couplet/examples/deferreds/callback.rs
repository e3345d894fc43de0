//! Part 7: a chain with a callback and an errback, fired with a poem, then with a failure. The
//! producer keeps the resolver, the consumer the Deferred.
//!
//! `cargo run --example deferreds -- callback`

use couplet::{Deferred, Failure, Resolver};

fn reader() -> Resolver<&'static str> {
    let (poem, resolver) = Deferred::new();
    poem.map(|poem| println!("your poem, well done: {poem}"))
        .add_errback(|failure| {
            println!("no poem today: {failure}");
            Ok(())
        })
        .detach();
    resolver
}

pub(crate) fn main() -> couplet::Result<()> {
    reader().callback("a line is enough");
    reader().errback(Failure::msg("the poet sleeps"));
    println!("both have fired");
    Ok(())
}
