//! The clients against nats-server and redis-server, over sockets of the loopback interface. Without
//! a server its tests are skipped, and fail in CI.
#![cfg(unix)]

#[macro_use]
extern crate couplet_watched;

mod live;
mod logs;
#[path = "../../../couplet-core/tests/needed/mod.rs"]
mod needed;
mod process;
mod redis;
mod server;
mod shared;
mod trouble;
