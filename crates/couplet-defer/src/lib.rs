//! The Deferreds of [couplet](https://docs.rs/couplet), the containment of panics, the warnings and
//! errors of the library, and output that never blocks. Depends on no other crate of Couplet.
//!
//! Programs depend on `couplet`, which re-exports [`defer`] and [`testing`] under the same paths.
//! The hidden modules and macros are for the other crates of Couplet, and unstable.
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

// First, as its macros are textual.
#[doc(hidden)]
#[macro_use]
pub mod events;

pub mod backlog;
#[doc(hidden)]
pub mod bounded;
pub mod defer;
#[doc(hidden)]
pub mod internals;
#[doc(hidden)]
pub mod panics;
#[doc(hidden)]
pub mod sorted;
pub mod testing;

pub use defer::{Deferred, Failure, Resolver, Result};
