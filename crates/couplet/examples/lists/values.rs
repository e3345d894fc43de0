//! Part 18, cases 1 to 4: a list waits for all its members, and fires with their results in member
//! order.
//!
//! `cargo run --example lists -- values`

use couplet::defer::list;
use couplet::{Deferred, Resolver};

type Word = &'static str;

/// Creates a list of `count` members that prints when it fires; returns the members' resolvers.
fn printed_list(count: usize) -> Vec<Resolver<Word>> {
    let (members, resolvers): (Vec<Deferred<Word>>, Vec<_>) =
        (0..count).map(|_| Deferred::new()).unzip();
    list(members)
        .map(|results| {
            let values: Vec<Word> = results.into_iter().flatten().collect();
            println!("  the list fires with {values:?}");
        })
        .detach();
    println!("  the callback is added");
    resolvers
}

fn fire(name: Word, resolver: Resolver<Word>) {
    println!("  firing {name}");
    resolver.callback(name);
}

pub(crate) fn main() -> couplet::Result<()> {
    println!("1: no members; it fires immediately");
    printed_list(0);

    println!("2: one member");
    for resolver in printed_list(1) {
        fire("a", resolver);
    }

    println!("3: two, fired in their order");
    for (name, resolver) in ["a", "b"].into_iter().zip(printed_list(2)) {
        fire(name, resolver);
    }

    println!("4: two, fired the other way round");
    for (name, resolver) in ["a", "b"].into_iter().zip(printed_list(2)).rev() {
        fire(name, resolver);
    }
    Ok(())
}
