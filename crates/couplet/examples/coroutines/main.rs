//! The programs of part 17 of the tutorial: coroutines, first driven by hand, then by the reactor.
//! Twisted builds them from generators and `inlineCallbacks`; Rust has `async`.
//!
//! `cargo run --example coroutines -- steps`, or another of the names below.

mod awaiting;
mod sent;
mod stack;
mod steps;
mod turns;
mod two;

fn main() -> couplet::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("steps") => steps::main(),
        Some("turns") => turns::main(),
        Some("sent") => sent::main(),
        Some("awaiting") => awaiting::main(),
        Some("two") => two::main(),
        Some("stack") => stack::main(),
        _ => Err(couplet::Failure::msg("which one? steps, turns, sent, awaiting, two or stack")),
    }
}
