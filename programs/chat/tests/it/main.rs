//! The program as users run it: each test starts the real binary.
#![expect(clippy::disallowed_methods, reason = "tests of a program run in real time")]

#[macro_use]
extern crate couplet_testkit;

#[cfg(feature = "bus")]
mod bus;
mod members;
mod usage;
#[cfg(feature = "web")]
mod web;

use couplet_testkit::program as kit;
#[cfg(feature = "bus")]
use couplet_testkit::servers;
#[cfg(feature = "web")]
use couplet_testkit_loops::browser;
#[cfg(feature = "bus")]
use couplet_testkit_loops::link;
