//! The program as users run it: each test starts the real binary.
#![expect(clippy::disallowed_methods, reason = "tests of a program run in real time")]

#[macro_use]
extern crate couplet_testkit;

mod addresses;
mod bad_clients;
mod by_name;
mod by_name_clients;
mod crowds;
mod demo;
mod get;
mod get_output;
mod get_transform;
mod peers;
mod proxy;
#[cfg(feature = "cache")]
mod proxy_cache;
mod serve;
mod signals;
mod slow_readers;
mod terminal;
mod threads;
mod transform;
mod usage;

#[cfg(feature = "cache")]
use couplet_testkit::servers;
use couplet_testkit::{needed, program as kit};
