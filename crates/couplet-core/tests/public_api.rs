//! Law 8, enforced by the compiler: the ready-made protocols and services are compiled here, outside
//! the library, where only the public API is in scope.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "this is not a library"
)]

#[macro_use]
extern crate couplet_testkit;

// Logging is not part of the public API.
#[macro_use(log_error, log_warn)]
extern crate couplet_defer;

// The library's root, so that `crate::Transport` means the same here and in the library.
use couplet::*;

#[path = "../src/protocols/mod.rs"]
mod protocols;
#[path = "../src/services/mod.rs"]
mod services;

#[test]
fn protocols_use_only_the_public_api() {
    let mut out = Vec::new();
    protocols::encode_netstring(b"built here", &mut out);
    assert_eq!(out, b"10:built here,");
}
