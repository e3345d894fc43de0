//! Part 7: `add_both` runs code after either success or failure. Here it ends the program.
//!
//! `cargo run --example deferreds -- both`

use couplet::{Deferred, Failure};

fn read(poem: couplet::Result<&'static str>) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let (deferred, resolver) = Deferred::new();
        let stopping = reactor.clone();
        deferred
            .map(|poem: &str| println!("{poem}"))
            .add_errback(|failure| {
                println!("sorry: {failure}");
                Ok(())
            })
            .add_both(move |result| {
                println!("closing the book");
                stopping.stop();
                result
            })
            .detach();
        reactor.call_soon(move || resolver.resolve(poem));
        Ok(())
    })
}

pub(crate) fn main() -> couplet::Result<()> {
    read(Ok("snow on the roof,\nthe cat on the stove"))?;
    read(Err(Failure::msg("the page is torn out")))
}
