//! The program as users run it: each test starts the real binary.
#![expect(clippy::disallowed_methods, reason = "tests of a program run in real time")]

#[macro_use]
extern crate couplet_watched;

#[cfg(feature = "web")]
#[path = "../../../../crates/couplet-inspect/tests/browser/driver.rs"]
#[allow(dead_code, reason = "the inspector's tests use more")]
mod browser;
#[cfg(feature = "bus")]
mod bus;
#[path = "../../../couplet/tests/it/kit/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the tool use more")]
mod kit;
#[cfg(feature = "bus")]
#[path = "../../../../crates/couplet-bus/tests/storms/link.rs"]
mod link;
mod members;
#[path = "../../../poetry/tests/it/needed.rs"]
#[allow(unused_imports, reason = "the tests of the bus use more")]
mod needed;
#[cfg(feature = "bus")]
#[path = "../../../../crates/couplet-bus/tests/server/process.rs"]
mod servers;
mod usage;
#[cfg(feature = "web")]
mod web;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_chat");
