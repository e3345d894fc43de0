//! Part 11: the simplest server writes the poem immediately, and `lose_connection` flushes it
//! before closing.
//!
//! `cargo run --example servers -- fast tcp:10000 poem.txt`

use couplet::{Bytes, Protocol, Transport};

struct FastPoetry {
    poem: Bytes,
}

impl Protocol for FastPoetry {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write_bytes(self.poem.clone());
        transport.lose_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

pub(crate) fn main(endpoint: &str, poem: Bytes) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let port = reactor.listen(endpoint, move || FastPoetry { poem: poem.clone() })?;
        println!("fast poetry on {}", port.host());
        Ok(())
    })
}
