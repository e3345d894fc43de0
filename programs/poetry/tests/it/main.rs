//! The program as users run it: each test starts the real binary.
#![expect(clippy::disallowed_methods, reason = "tests of a program run in real time")]

#[macro_use]
extern crate couplet_watched;

mod addresses;
mod bad_clients;
mod by_name;
mod by_name_clients;
mod crowds;
mod demo;
mod get;
mod get_output;
mod get_transform;
#[path = "../../../couplet/tests/it/kit/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the tool use more")]
mod kit;
mod needed;
mod peers;
mod proxy;
#[cfg(feature = "cache")]
mod proxy_cache;
mod serve;
#[cfg(feature = "cache")]
#[path = "../../../../crates/couplet-bus/tests/server/process.rs"]
mod servers;
mod signals;
mod slow_readers;
mod terminal;
mod threads;
mod transform;
mod usage;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_poetry");
