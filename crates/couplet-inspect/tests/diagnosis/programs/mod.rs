//! Small programs as a user would write them, each in two versions: with a fault, and mended.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod answers;
pub(crate) mod children;
pub(crate) mod deaf;
pub(crate) mod futurelock;
pub(crate) mod half_closed;
pub(crate) mod handshakes;
pub(crate) mod jobs;
pub(crate) mod leak;
pub(crate) mod locked;
pub(crate) mod paused;
pub(crate) mod restarts;
pub(crate) mod slow;
pub(crate) mod storm;

use std::net::SocketAddr;

use couplet::Port;

/// A free port of the loopback interface.
const FREE: &str = "tcp:0:interface=127.0.0.1";

/// The version of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Faulty,
    Mended,
}

/// The address of a TCP port.
fn address(port: &Port) -> SocketAddr {
    port.host().socket_addr().expect("it is TCP")
}
