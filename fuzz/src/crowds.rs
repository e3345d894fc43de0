//! Connections over real sockets, driven by bytes: the model of `testkit/loops/src/crowd.rs` checks that none
//! loses a byte, and that each ends once, over epoll and over io_uring.
//!
//! An input is a byte that chooses the driver and its read buffer, then the rolls of the dice.

use std::sync::Once;

use couplet_core::driver::{Mio, Uring};

use couplet_testkit_loops::crowd::live;
use couplet_testkit_loops::life::Dice;

const READ_BUFFERS: [usize; 2] = [1000, 64 * 1024];

/// Tries one input. Where the system forbids io_uring, its inputs are skipped, which is reported
/// once.
///
/// # Panics
///
/// If a check fails, or the system has no descriptors left.
pub fn crowds(data: &[u8]) {
    static SKIPPED: Once = Once::new();
    let Some((choice, rolls)) = data.split_first() else { return };
    let (choice, dice) = (usize::from(*choice), Dice::bytes(rolls));
    let read_buffer = READ_BUFFERS[choice / 8 % 2];
    let calm = (choice % 8) as u8;
    if calm == 7 {
        return live(Mio::new(read_buffer).expect("a poll descriptor"), dice);
    }
    match Uring::new(read_buffer) {
        Ok(uring) => live(uring.calm(calm), dice),
        Err(error) => {
            SKIPPED.call_once(|| eprintln!("skipped: there is no io_uring here: {error}"))
        }
    }
}
