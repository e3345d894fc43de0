//! Interoperability over loopback with other implementations: OpenSSL, curl, Python's `ssl`,
//! HAProxy and socat. Twisted has its own tests, in `tests/twisted`.
//!
//! A program that is not installed is a visible skip, and a failure in CI.
#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

mod bad;
mod curl;
mod haproxy;
mod key_log;
mod kit;
mod names;
mod openssl_client;
mod openssl_server;
mod python;
mod socat;

use couplet_testkit::{apart, logged, needed};
