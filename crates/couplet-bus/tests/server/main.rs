//! The NATS client against nats-server, over sockets of the loopback interface. Without the server
//! the tests are skipped, and fail in CI.
#![cfg(unix)]

#[macro_use]
extern crate couplet_watched;

mod live;
mod logs;
#[path = "../../../couplet-core/tests/needed/mod.rs"]
mod needed;
mod process;
mod server;
mod trouble;
