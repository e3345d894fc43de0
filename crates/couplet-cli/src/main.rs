//! The couplet program.
fn main() {}
