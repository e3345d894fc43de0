//! Part 3, client 1.0 broken: the same, but somebody forgot to make the sockets non-blocking. The
//! first poet who pauses holds up everybody: `read` waits inside the callback, no turn is made, and
//! no other task gets on. What gives it away: the pieces come one task after the
//! other, however they were sent.
//!
//! `cargo run --example clients -- v1_0_broken 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    super::v1_0::get_poems(servers, true)
}
