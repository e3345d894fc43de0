//! Turns and time for tests that own a loop in memory and its network.

use std::time::Duration;

use couplet::Loop;
use couplet::testing::Network;

/// Makes a few turns without advancing the clock.
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
