//! Part 3, client 1.0 broken: the same, but the sockets were left in blocking mode. The first poet
//! to pause stalls everything: `read` blocks inside the callback, the loop doesn't turn, and no
//! other task makes progress. The symptom: the pieces arrive one task after another, however they
//! were sent.
//!
//! `cargo run --example clients -- v1_0_broken 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    super::v1_0::get_poems(servers, true)
}
