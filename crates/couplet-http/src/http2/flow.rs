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
    /// The bytes that the peer may send before any is returned: those that are left, consumed, and
    /// held.
    size: i64,
    left: i64,
    /// Bytes that were consumed, but not yet returned to the peer.
    consumed: i64,
}

impl ReceiveWindow {
    pub(super) fn new(size: i64) -> ReceiveWindow {
        ReceiveWindow { size, left: size, consumed: 0 }
    }

    pub(super) fn size(self) -> i64 {
        self.size
    }

    /// The number of bytes that were received and not consumed.
    pub(super) fn held(self) -> i64 {
        self.size - self.left - self.consumed
    }

    /// Changes the window without an update, because the peer learns of it by a setting.
    pub(super) fn change(&mut self, by: i64) {
        self.size += by;
        self.left += by;
    }

    /// Counts received bytes; fails if the peer was not allowed to send them. An empty frame needs no
    /// window.
    pub(super) fn spend(&mut self, count: usize) -> Result<(), Overflow> {
        self.left -= count as i64;
        if count > 0 && self.left < 0 { Err(Overflow) } else { Ok(()) }
    }

    /// Counts consumed bytes. Returns whether half of the window has been consumed, so that it
    /// should be [returned](Self::update).
    pub(super) fn consume(&mut self, count: usize) -> bool {
        self.consumed += count as i64;
        self.consumed > 0 && self.consumed >= self.left
    }

    /// Returns consumed bytes to the peer, and gives the window this size. Returns the increment of
    /// a WINDOW_UPDATE; a window that shrinks may need to consume more first.
    pub(super) fn update(&mut self, size: i64) -> Option<u32> {
        let increment =
            u32::try_from(self.consumed + size - self.size).ok().filter(|it| *it > 0)?;
        *self = ReceiveWindow { size, left: self.left + i64::from(increment), consumed: 0 };
        Some(increment)
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
        assert!(!window.consume(30));
        assert!(window.consume(10));
        assert_eq!((window.held(), window.update(100)), (20, Some(40)));
        assert_eq!((window.spend(80), window.held()), (Ok(()), 100));
        assert_eq!((window.spend(0), window.spend(1)), (Ok(()), Err(Overflow)));
        assert!(!ReceiveWindow::new(0).consume(0));
    }

    #[test]
    fn a_window_grows_and_shrinks_with_its_updates() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!((window.spend(60), window.consume(60)), (Ok(()), true));
        assert_eq!(window.update(1000), Some(960));
        assert_eq!((window.spend(1000), window.consume(500)), (Ok(()), true));
        assert_eq!((window.update(300), window.consume(200)), (None, true));
        assert_eq!((window.update(300), window.consume(300)), (None, true));
        assert_eq!((window.update(300), window.held(), window.size()), (Some(300), 0, 300));
        // An empty frame needs no window.
        window.change(-400);
        assert_eq!((window.spend(0), window.spend(1)), (Ok(()), Err(Overflow)));
    }
}
