//! The readiness of a socket, remembered between events.
//!
//! Contract: 55a.

/// The readiness of a socket: of one event, or remembered until it is used up. A bit set, so that
/// one comparison identifies an idle stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readiness(pub(super) u16);

impl Readiness {
    pub(crate) const NONE: Readiness = Readiness(0);
    /// Bytes, an end or an error can be read.
    pub(crate) const READABLE: u16 = 1;
    /// In an event: writable. Remembered: writable again after it was full.
    pub(crate) const ROOM: u16 = 2;
    /// The peer's FIN, a hang-up or an error was announced: a short read does not mean drained.
    pub(crate) const CLOSING: u16 = 4;
    pub(crate) const ERROR: u16 = 8;
    /// The end of the stream was reported.
    pub(crate) const ENDED: u16 = 16;
    /// The socket was full.
    pub(crate) const BLOCKED: u16 = 32;
    /// The loop has paused reading.
    pub(crate) const PAUSED: u16 = 64;
    /// The last read filled its buffer, or returned `READ` bytes: a bulk stream.
    pub(crate) const BULK: u16 = 128;
    /// A UNIX socket, permanently: descriptors may come with its bytes, so it is read by another
    /// call, off the fast path.
    pub(crate) const LOCAL: u16 = 256;
    /// The announcement of the peer's FIN was reported.
    pub(crate) const END_REPORTED: u16 = 512;
    /// A UNIX socket that has been full, permanently: its writable events are requested.
    pub(crate) const WRITABLE_REQUESTED: u16 = 1024;
    /// A pipe that ends once the bytes that have already arrived are read, permanently.
    pub(crate) const ENDS_WHEN_READ: u16 = 2048;
    /// A ring moves its bytes, and epoll does not know it.
    pub(crate) const IN_RING: u16 = 4096;

    /// Of a socket that has reported nothing yet.
    pub(super) fn new(is_local: bool) -> Readiness {
        if is_local { Readiness(Readiness::LOCAL) } else { Readiness::NONE }
    }

    /// Whether any of these bits is set.
    #[inline]
    pub(crate) fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, bits: u16, on: bool) {
        self.0 = if on { self.0 | bits } else { self.0 & !bits };
    }

    /// Adds these bits of an event.
    pub(super) fn add(&mut self, event: Readiness, bits: u16) {
        self.0 |= event.0 & bits;
    }

    /// Clears one bit, and returns whether it was set.
    pub(super) fn take(&mut self, bit: u16) -> bool {
        let had = self.has(bit);
        self.set(bit, false);
        had
    }

    /// Whether the arrival of the peer's FIN, if it has arrived, is still to be reported during a
    /// pause.
    pub(super) fn has_unreported_end(self, has_arrived: bool) -> bool {
        has_arrived && !self.has(Readiness::ENDED | Readiness::END_REPORTED)
    }

    /// The same, and marks it as reported.
    pub(crate) fn take_unreported_end(&mut self, has_arrived: bool) -> bool {
        let is_unreported = self.has_unreported_end(has_arrived);
        if is_unreported {
            self.set(Readiness::END_REPORTED, true);
        }
        is_unreported
    }
}
