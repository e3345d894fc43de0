//! Part 18, cases 5 to 7: a failing member doesn't fail the list; the results hold each member's
//! value or failure, and the code that takes them handles the failures too. Twisted needs
//! `consumeErrors` for that; here a failure is either taken or reported, never both.
//!
//! `cargo run --example lists -- failures`

use couplet::defer::{list, set_reporter};
use couplet::{Deferred, Failure, Resolver, Result};

type Word = &'static str;

fn show(results: Vec<Result<Word>>) {
    for result in results {
        match result {
            Ok(value) => println!("  a value: {value}"),
            Err(failure) => println!("  a failure: {failure}"),
        }
    }
}

fn fire(first: Resolver<Word>, second: Resolver<Word>) {
    println!("  firing one with a value, the other with a failure");
    first.callback("a");
    second.errback(Failure::msg("b failed"));
}

pub(crate) fn main() -> Result<()> {
    set_reporter(|unhandled| println!("  reported: {}", unhandled.failure()));

    println!("5: the results are taken, including the failure");
    let ((a, first), (b, second)) = (Deferred::new(), Deferred::new());
    list([a, b]).map(show).detach();
    fire(first, second);

    println!("6: nobody takes the results, so the failure is reported");
    let ((a, first), (b, second)) = (Deferred::new(), Deferred::new());
    list([a, b]).detach();
    fire(first, second);

    println!("7: an errback before the list; the list sees its result");
    let ((a, first), (b, second)) = (Deferred::new(), Deferred::new());
    let b = b.add_errback(|failure| {
        println!("  the errback got: {failure}");
        Ok("b after all")
    });
    list([a, b]).map(show).detach();
    fire(first, second);
    Ok(())
}
