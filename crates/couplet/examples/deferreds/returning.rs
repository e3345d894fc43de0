//! Part 13: a callback that needs time returns a Deferred, and the rest of the chain waits for it.
//! Add such a callback with `then`, and one that returns a value immediately with `map`.
//!
//! `cargo run --example deferreds -- returning`

use std::time::Duration;

use couplet::{Deferred, Reactor};

fn step(name: &'static str, gives: u32) -> impl FnOnce(u32) -> u32 {
    move |got| {
        println!("  {name} got {got}");
        gives
    }
}

fn slowly(reactor: &Reactor, gives: u32) -> impl FnOnce(u32) -> Deferred<u32> + use<> {
    let reactor = reactor.clone();
    move |got| {
        println!("  two got {got}, and takes its time");
        reactor.sleep(Duration::from_millis(10)).map(move |()| gives)
    }
}

pub(crate) fn main() -> couplet::Result<()> {
    println!("three callbacks that return values immediately:");
    let (chain, resolver) = Deferred::new();
    chain.map(step("one", 1)).map(step("two", 2)).map(step("three", 3)).detach();
    resolver.callback(0);
    println!("  and the call returns");

    println!("the second one returns a Deferred:");
    couplet::run_until(|reactor| {
        let (chain, resolver) = Deferred::new();
        let chain = chain.map(step("one", 1)).then(slowly(reactor, 2)).map(step("three", 3));
        resolver.callback(0);
        println!("  and the call returns");
        chain.map(|_| ())
    })
}
