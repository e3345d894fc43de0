//! Interoperability with real Twisted over loopback: framing, half-close, abort, slow readers, TLS
//! from the start and on a live connection, descriptors over a UNIX socket, datagrams and
//! multicast, and programs that one side starts for the other. Each fact is tested in both
//! directions: Couplet listens and Twisted connects, and vice versa.
//!
//! The peer, `peer.py`, runs on the Python that `TWISTED_PYTHON` names, or on one that the test
//! kit's `venv.sh` creates in the target folder. Without either, the tests print that they are
//! skipped; in CI they fail.
#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

mod certificates;
mod datagrams;
mod framing;
mod half_close;
mod meeting;
mod peer;
mod reset;
mod slow;
mod spawned;
mod tls;
mod unix;

use couplet_testkit::needed;
