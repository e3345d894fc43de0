//! Protocols held in memory, for tests.

use std::time::Duration;

use couplet::testing::Held;
use couplet::{Protocol, Transport};

/// A protocol that does nothing: tests use the loop, clock and network around it.
#[derive(Debug)]
pub struct Nobody;

impl Protocol for Nobody {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Plays a client that reads once an hour until the FIN; returns the number of bytes, and panics if
/// the client is disconnected before.
pub fn read_late<P: Protocol>(held: &mut Held<P>) -> usize {
    let mut got = 0;
    while !held.wire.saw_fin() {
        held.advance(Duration::from_secs(3600));
        assert!(!held.wire.saw_reset(), "cut off after {got} bytes");
        got += held.wire.take().len();
    }
    got
}
