//! Shared by the tests and benchmarks of Couplet's packages: a `#[test]` that fails when it hangs,
//! programs and folders that tests need, processes, servers, clients and terminals.
//!
//! `#[macro_use] extern crate couplet_testkit;` in the root of a test binary replaces its `#[test]`.
//! A package enables the features that its tests need. Parts that need the library are in
//! `couplet-testkit-loops`.
#![allow(missing_docs, missing_debug_implementations, reason = "private: it has no other users")]
#![allow(clippy::len_without_is_empty, clippy::new_without_default, reason = "nobody needs them")]

pub mod apart;
pub mod bench;
pub mod checker;
pub mod counting;
#[cfg(feature = "defer")]
pub mod defer_witness;
#[cfg(feature = "logs")]
pub mod logged;
pub mod needed;
#[cfg(all(unix, feature = "system"))]
pub mod postgres;
pub mod processes;
#[cfg(all(unix, feature = "system"))]
pub mod program;
#[cfg(all(unix, feature = "system"))]
pub mod servers;
#[cfg(all(unix, feature = "system"))]
pub mod terminal;
mod watched;

pub use watched::{run, test};

/// A longer wait for another thread, a process or the system counts as a hang.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);
