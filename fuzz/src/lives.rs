//! The life of one connection, driven by bytes: the protocol, its producer, the peer and the clock
//! follow the input, and the model of `testkit/loops/src/life` checks every outcome.
//!
//! With `COUPLET_STORY=1` each life prints its story, even if every check passes. An input is a
//! byte that chooses the driver's mode, then the rolls of the dice.

use couplet::testing::Manner;

use couplet_testkit_loops::life::{Dice, Life};

/// Tries one input.
///
/// # Panics
///
/// If a check fails; the message has the life's story.
pub fn lives(data: &[u8]) {
    let Some((manner, rolls)) = data.split_first() else { return };
    let manner = [Manner::Readiness, Manner::Completion][usize::from(manner % 2)];
    let story = Life::new(Dice::bytes(rolls)).live(manner);
    if std::env::var_os("COUPLET_STORY").is_some() {
        eprintln!("{story}");
    }
}
