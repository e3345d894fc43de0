//! Part 9: a failure that reaches the end of its chain is not lost, but reported once, when the
//! last end of the Deferred is dropped: on stderr, or to the function given to `set_reporter`.
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
    println!("that was reported on stderr");
    set_reporter(|unhandled| println!("reported to us: {}", unhandled.failure()));
    leave_it();
    println!("and a cancellation is never reported");
    let (poem, _resolver) = Deferred::<&str>::new();
    poem.cancel();
    Ok(())
}
