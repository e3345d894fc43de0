//! Flow control: RFC 9113, 5.2 and 6.9.

/// The largest window.
pub(super) const MAX_WINDOW: i64 = i32::MAX as i64;

/// The window of a stream or a connection before any setting or update.
pub(super) const INITIAL_WINDOW: i64 = 65_535;

/// The number of bytes that we may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendWindow(i64);

/// A window that grew beyond 2³¹-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl SendWindow {
    pub(super) fn new(size: i64) -> SendWindow {
        SendWindow(size)
    }

    /// The number of bytes, 0 for a negative window.
    pub(super) fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Changes the window, as WINDOW_UPDATE or a new initial size demands. Returns whether it was
    /// opened.
    pub(super) fn change(&mut self, by: i64) -> Result<bool, Overflow> {
        let was_closed = self.0 <= 0;
        self.0 += by;
        if self.0 > MAX_WINDOW { Err(Overflow) } else { Ok(was_closed && self.0 > 0) }
    }

    pub(super) fn spend(&mut self, count: usize) {
        self.0 -= count as i64;
    }
}

/// The number of bytes that the peer may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceiveWindow {
    left: i64,
    /// Bytes that were consumed, but not yet returned to the peer.
    consumed: i64,
}

impl ReceiveWindow {
    pub(super) fn new(size: i64) -> ReceiveWindow {
        ReceiveWindow { left: size, consumed: 0 }
    }

    /// Changes the window without an update, because the peer learns of it by a setting.
    pub(super) fn change(&mut self, by: i64) {
        self.left += by;
    }

    /// Counts received bytes; fails if the peer was not allowed to send them.
    pub(super) fn spend(&mut self, count: usize) -> Result<(), Overflow> {
        self.left -= count as i64;
        if self.left < 0 { Err(Overflow) } else { Ok(()) }
    }

    /// Counts consumed bytes. Returns the increment of a WINDOW_UPDATE once half of the window has
    /// been consumed.
    pub(super) fn consume(&mut self, count: usize) -> Option<u32> {
        self.consumed += count as i64;
        if self.consumed == 0 || self.consumed < self.left {
            return None;
        }
        let increment = std::mem::take(&mut self.consumed);
        self.left += increment;
        Some(u32::try_from(increment).expect("no more was received than a window holds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_be_negative_and_opens_above_zero() {
        let mut window = SendWindow::new(1000);
        window.spend(1000);
        assert_eq!((window.change(-600), window.room()), (Ok(false), 0));
        assert_eq!((window.change(600), window.room()), (Ok(false), 0));
        assert_eq!((window.change(1), window.room()), (Ok(true), 1));
        assert_eq!(window.change(MAX_WINDOW), Err(Overflow));
    }

    #[test]
    fn half_of_a_window_is_returned_at_a_time() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.spend(60), Ok(()));
        assert_eq!(window.consume(30), None);
        assert_eq!(window.consume(10), Some(40));
        assert_eq!(window.spend(81), Err(Overflow));
        assert_eq!(ReceiveWindow::new(0).consume(0), None);
    }
}
