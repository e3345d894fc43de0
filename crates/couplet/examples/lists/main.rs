//! The seven programs of part 18 of the tutorial, about lists of Deferreds.
//!
//! `cargo run --example lists -- values`, or `-- failures`.

mod failures;
mod values;

fn main() -> couplet::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("values") => values::main(),
        Some("failures") => failures::main(),
        _ => Err(couplet::Failure::msg("which one? values or failures")),
    }
}
