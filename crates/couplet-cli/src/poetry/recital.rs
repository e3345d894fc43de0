//! Sends a poem in parts, no faster than the client reads them.

use std::time::Duration;

use bytes::Bytes;
use couplet::Transport;

/// The most bytes in one write.
const PIECE: usize = 64 * 1024;

/// How fast a poem is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) num_bytes: usize,
    pub(crate) delay: Duration,
}

impl Pace {
    /// As fast as the client reads.
    pub(crate) const FULL_SPEED: Pace = Pace { num_bytes: usize::MAX, delay: Duration::ZERO };

    fn part(self) -> usize {
        if self.delay.is_zero() { usize::MAX } else { self.num_bytes }
    }
}

/// A text that is being sent.
#[derive(Debug)]
pub(crate) struct Recital {
    rest: Bytes,
    pace: Pace,
    /// Unwritten bytes of this part.
    part: usize,
}

/// How a recital continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// When the output has drained: wait for `drained`.
    Drained,
    /// With the next part, after this delay: then call [`Recital::begin_part`].
    Later(Duration),
    /// Not at all: everything is written.
    Over,
}

impl Recital {
    pub(crate) fn new(text: Bytes, pace: Pace) -> Recital {
        Recital { rest: text, pace, part: pace.part() }
    }

    pub(crate) fn begin_part(&mut self) {
        self.part = self.pace.part();
    }

    /// Writes the rest of the part, until the write side is full.
    pub(crate) fn go_on(&mut self, transport: &Transport) -> Next {
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
