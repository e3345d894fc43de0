//! Checks the laws of ARCHITECTURE.md that the compiler can't enforce, by reading the sources:
//! `cargo test -p couplet-laws` builds none of the crates that it checks.

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

#[cfg(test)]
mod tidy;
