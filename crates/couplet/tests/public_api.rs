//! Law 8, kept by the compiler: the ready-made protocols are compiled here, outside of the library,
//! where they can name nothing but what a user can name.

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, reason = "this is no library")]

// What the library's root offers: `crate::Transport` means the same here and there.
use couplet::*;

#[path = "../src/protocols/mod.rs"]
mod protocols;

#[test]
fn protocols_know_the_public_api_only() {
    let mut out = Vec::new();
    protocols::encode_netstring(b"built here", &mut out);
    assert_eq!(out, b"10:built here,");
}
