//! Part 1: a slow poetry server, so that its clients have something to wait for. The tutorial's
//! version blocks and serves one client at a time. Here each connection has its own timed call,
//! which ends with it, and all are served concurrently.
//!
//! `cargo run --example servers -- slow tcp:10000 poem.txt`: 10 bytes every 100 ms; other numbers
//! may follow, as in `… poem.txt 1 20`.

use std::time::Duration;

use couplet::{Bytes, Failure, Protocol, Transport};

struct SlowPoetry {
    /// The unsent part of the poem.
    poem: Bytes,
    bytes: usize,
    pause: Duration,
}

impl SlowPoetry {
    fn send_some(&mut self, transport: &Transport) {
        let some = self.poem.split_to(self.bytes.min(self.poem.len()));
        transport.write_bytes(some);
        if self.poem.is_empty() {
            transport.lose_connection();
        } else {
            transport.connection::<Self>().call_later(self.pause, Self::send_some);
        }
    }
}

impl Protocol for SlowPoetry {
    fn connection_made(&mut self, transport: &Transport) {
        self.send_some(transport);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

pub(crate) fn main(
    endpoint: &str,
    poem: Bytes,
    bytes: usize,
    milliseconds: u64,
) -> couplet::Result<()> {
    if bytes == 0 {
        return Err(Failure::msg("with 0 bytes at a time the poem never ends"));
    }
    let pause = Duration::from_millis(milliseconds);
    couplet::run(|reactor| {
        let factory = move || SlowPoetry { poem: poem.clone(), bytes, pause };
        println!("slow poetry on {}", reactor.listen(endpoint, factory)?.host());
        Ok(())
    })
}
