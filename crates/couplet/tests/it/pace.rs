//! Turns and time of a loop in memory, for tests that keep the loop and its network themselves.

use std::time::Duration;

use couplet::Loop;
use couplet::testing::Network;

/// Some turns with the clock stopped.
pub(crate) fn settle(l: &mut Loop) {
    for _ in 0..8 {
        l.turn(Some(Duration::ZERO)).expect("memory does not fail");
    }
}

/// Advances the clock, stopping at each deadline.
pub(crate) fn pass(l: &mut Loop, network: &Network, by: Duration) {
    settle(l);
    let until = network.elapsed() + by;
    while network.elapsed() < until {
        let left = until - network.elapsed();
        l.turn(Some(left)).expect("memory does not fail");
        settle(l);
    }
}
