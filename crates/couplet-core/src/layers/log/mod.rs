//! [`TrafficLog`]: logs a connection's bytes as lines of text or hex dumps, or as a capture file
//! for Wireshark. Twisted's `TrafficLoggingProtocol`.
//!
//! Above TLS it logs plaintext, below TLS ciphertext.

mod lines;
mod pcap;
pub(crate) mod segment;

use std::fmt;
use std::time::Instant;

pub use lines::{Lines, LogForm};
pub use pcap::{Pcap, PcapTap};

use super::{Layer, Outbox, PassThrough, Up};

/// The direction of logged bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer to us.
    In,
    /// From us to the peer.
    Out,
}

/// Receives the bytes seen by a [`TrafficLog`].
///
/// The methods are called within the connection's turn, so they must not block for long.
pub trait Tap {
    /// Called with bytes that pass.
    fn passed(&mut self, direction: Direction, bytes: &[u8], now: Instant);

    /// Called when the stream in this direction has ended.
    fn ended(&mut self, direction: Direction, now: Instant) {
        let _ = (direction, now);
    }
}

/// Passes all bytes on unchanged, and shows them to a [`Tap`].
///
/// ```
/// use couplet::layers::{Lines, LogForm, TrafficLog};
///
/// let log = TrafficLog::new(Lines::new(LogForm::Text, |line: &str| println!("{line}")));
/// ```
pub struct TrafficLog<T> {
    tap: T,
    pass: PassThrough,
    end: EndReport,
}

/// Whether the end of the incoming stream has arrived and was logged.
#[derive(Debug, PartialEq)]
enum EndReport {
    None,
    Due,
    Logged,
}

impl<T: Tap> TrafficLog<T> {
    /// Logs to this tap.
    pub fn new(tap: T) -> TrafficLog<T> {
        TrafficLog { tap, pass: PassThrough::default(), end: EndReport::None }
    }
}

impl<T: Tap + 'static> Layer for TrafficLog<T> {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        if !below.is_empty() {
            self.tap.passed(Direction::In, below, now);
        } else if self.end == EndReport::Due {
            self.end = EndReport::Logged;
            self.tap.ended(Direction::In, now);
        }
        self.pass.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        for slice in above.slices() {
            self.tap.passed(Direction::Out, slice, now);
        }
        self.pass.down(above, below, now);
    }

    fn is_transparent(&self) -> bool {
        true
    }

    fn ended(&mut self) {
        self.end = EndReport::Due;
        self.pass.ended();
    }
}

impl<T> fmt::Debug for TrafficLog<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficLog").field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
