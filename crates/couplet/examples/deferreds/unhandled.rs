//! Part 9: a failure that reaches the end of its chain is not lost. It is told once, when the last
//! end of the Deferred is dropped: to stderr, or to whom `set_reporter` names.
//!
//! `cargo run --example deferreds -- unhandled`

use couplet::defer::set_reporter;
use couplet::{Deferred, Failure};

fn leave_it() {
    let (poem, resolver) = Deferred::<&str>::new();
    poem.add_callback(|_| Err::<(), _>(Failure::msg("I can't read this"))).detach();
    resolver.callback("~~~~~");
}

pub(crate) fn main() -> couplet::Result<()> {
    leave_it();
    println!("stderr was told");
    set_reporter(|unhandled| println!("we are told: {}", unhandled.failure()));
    leave_it();
    println!("and a cancel is what somebody wanted: nobody is told");
    let (poem, _resolver) = Deferred::<&str>::new();
    poem.cancel();
    Ok(())
}
