//! The clients against nats-server and redis-server, over sockets of the loopback interface. Without
//! a server its tests are skipped, and fail in CI.
#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

mod live;
mod logs;
mod redis;
mod server;
mod shared;
mod trouble;

use couplet_testkit::{needed, servers as process};
