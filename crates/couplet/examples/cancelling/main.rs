//! The twelve programs of part 19 of the tutorial, about cancelling.
//!
//! `cargo run --example cancelling -- plain`, or another of the names below.

mod cancellers;
mod delayed;
mod nested;
mod plain;

fn main() -> couplet::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("plain") => plain::main(),
        Some("cancellers") => cancellers::main(),
        Some("delayed") => delayed::main(),
        Some("nested") => nested::main(),
        _ => Err(couplet::Failure::msg("which one? plain, cancellers, delayed or nested")),
    }
}
