//! Sends a poem in parts, no faster than the client reads them.

use std::time::Duration;

use bytes::Bytes;
use couplet::Transport;

/// Largest write, in bytes.
const PIECE: usize = 64 * 1024;

/// How fast a poem is sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Most bytes of a part.
    pub num_bytes: usize,
    /// The time between two parts; 0 for none.
    pub delay: Duration,
}

impl Pace {
    /// As fast as the client reads.
    pub const FULL_SPEED: Pace = Pace { num_bytes: usize::MAX, delay: Duration::ZERO };

    fn part(self) -> usize {
        if self.delay.is_zero() { usize::MAX } else { self.num_bytes }
    }
}

/// A text in transit.
#[derive(Debug)]
pub(crate) struct Recital {
    rest: Bytes,
    pace: Pace,
    /// Unwritten bytes of the current part.
    part: usize,
}

/// When a recital continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Once the output has drained: wait for `writable`.
    Drained,
    /// After this delay, with the next part: call [`Recital::begin_part`].
    Later(Duration),
    /// Never: everything is written.
    Over,
}

impl Recital {
    pub(crate) fn new(text: Bytes, pace: Pace) -> Recital {
        Recital { rest: text, pace, part: pace.part() }
    }

    pub(crate) fn begin_part(&mut self) {
        self.part = self.pace.part();
    }

    /// Writes the current part, until it ends or the write side is full.
    pub(crate) fn send_more(&mut self, transport: &Transport) -> Next {
        loop {
            if transport.is_full() {
                return Next::Drained;
            } else if self.rest.is_empty() {
                return Next::Over;
            } else if self.part == 0 {
                return Next::Later(self.pace.delay);
            }
            let piece = self.rest.split_to(self.rest.len().min(self.part).min(PIECE));
            self.part -= piece.len();
            transport.write_bytes(piece);
        }
    }
}
