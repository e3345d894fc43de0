//! Part 14: a Deferred may have fired already: then a new callback runs immediately. So a function
//! may have its answer now or later, and its caller need not care.
//!
//! Twisted can `pause` a Deferred; here a callback waits by returning another (see `returning`).
//!
//! `cargo run --example deferreds -- fired_before`

use couplet::Deferred;

pub(crate) fn main() -> couplet::Result<()> {
    let (deferred, resolver) = Deferred::new();
    println!("fired without a callback");
    resolver.callback(0);
    println!("adding the first");
    let deferred = deferred.map(|got| {
        println!("one got {got}");
        1
    });
    println!("adding the second");
    deferred.map(|got| println!("two got {got}")).detach();

    println!("created with its value");
    Deferred::succeed("at once").map(|word| println!("and read {word}")).detach();

    println!("created first, fired before it is returned");
    let (inner, resolver) = Deferred::new();
    resolver.callback("early");
    Deferred::succeed(())
        .then(|()| inner)
        .map(|word| println!("the outer one got {word}"))
        .detach();
    Ok(())
}
