//! A client in memory that looks once an hour, for the tests of servers.

use std::time::Duration;

use couplet::Protocol;
use couplet::testing::Held;

/// How many bytes come before the end; it fails where the client is cut.
pub(crate) fn read_late<P: Protocol>(held: &mut Held<P>) -> usize {
    let mut got = 0;
    while !held.wire.saw_fin() {
        held.advance(Duration::from_secs(3600));
        assert!(!held.wire.saw_reset(), "cut after {got} bytes");
        got += held.wire.take().len();
    }
    got
}
