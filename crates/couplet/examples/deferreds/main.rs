//! The small programs of parts 6 to 14 of the tutorial, about Deferreds only.
//!
//! `cargo run --example deferreds -- callback`, or another of the names below.

mod blocking;
mod both;
mod callback;
mod failure;
mod fired_before;
mod once;
mod returning;
mod simulator;
mod unhandled;

fn main() -> couplet::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("callback") => callback::main(),
        Some("failure") => failure::main(),
        Some("once") => once::main(),
        Some("both") => both::main(),
        Some("blocking") => blocking::main(),
        Some("unhandled") => unhandled::main(),
        Some("returning") => returning::main(),
        Some("fired_before") => fired_before::main(),
        Some("simulator") => simulator::main(arguments.collect()),
        _ => Err(couplet::Failure::msg(
            "which one? callback, failure, once, both, blocking, unhandled, returning, \
             fired_before or simulator",
        )),
    }
}
