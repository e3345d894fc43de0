//! Giving out a poem in parts, no faster than the client takes them.

use std::time::Duration;

use bytes::Bytes;
use couplet::Transport;

/// Bytes written at once, at most.
const PIECE: usize = 64 * 1024;

/// How a poem is given out.
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

/// A text that is being given out.
#[derive(Debug)]
pub(crate) struct Recital {
    rest: Bytes,
    pace: Pace,
    /// Bytes of this part that are still to be written.
    part: usize,
}

/// How a recital goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// When what was written has left: wait for `drained`.
    Drained,
    /// With the next part, after this delay: then [`Recital::begin_part`].
    Later(Duration),
    /// All is written.
    Over,
}

impl Recital {
    pub(crate) fn new(text: Bytes, pace: Pace) -> Recital {
        Recital { rest: text, pace, part: pace.part() }
    }

    pub(crate) fn begin_part(&mut self) {
        self.part = self.pace.part();
    }

    /// Writes what is left of the part, as far as the client takes it.
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
