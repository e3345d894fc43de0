//! Protocols held in memory, for tests.

use std::time::Duration;

use couplet::testing::Held;
use couplet::{Protocol, Transport};

/// Held for its loop only, with its clock and its network.
pub(crate) struct Nobody;

impl Protocol for Nobody {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// As a client, reads once an hour to the FIN and counts the bytes; panics if the client is cut off.
pub(crate) fn read_late<P: Protocol>(held: &mut Held<P>) -> usize {
    let mut got = 0;
    while !held.wire.saw_fin() {
        held.advance(Duration::from_secs(3600));
        assert!(!held.wire.saw_reset(), "cut off after {got} bytes");
        got += held.wire.take().len();
    }
    got
}
