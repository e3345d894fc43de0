//! An in-memory client that reads once an hour, for the tests of servers.

use std::time::Duration;

use couplet::Protocol;
use couplet::testing::Held;

/// Reads to the FIN and counts the bytes; panics if the client is cut off.
pub(crate) fn read_late<P: Protocol>(held: &mut Held<P>) -> usize {
    let mut got = 0;
    while !held.wire.saw_fin() {
        held.advance(Duration::from_secs(3600));
        assert!(!held.wire.saw_reset(), "cut off after {got} bytes");
        got += held.wire.take().len();
    }
    got
}
