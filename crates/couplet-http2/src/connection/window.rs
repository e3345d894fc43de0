//! Flow control: RFC 9113, 5.2 and 6.9.

/// The window of a stream or a connection before any setting or update.
pub(crate) const INITIAL: u32 = 65_535;

/// The largest window.
pub(crate) const MAX: i64 = i32::MAX as i64;

/// The number of bytes that we may send; below zero after a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> SendWindow {
        SendWindow(size.into())
    }

    /// The number of bytes, 0 for a negative window.
    pub(crate) fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Changes the window. Returns whether it is within the maximum.
    pub(crate) fn change(&mut self, by: i64) -> bool {
        self.0 += by;
        self.0 <= MAX
    }

    pub(crate) fn spend(&mut self, count: usize) {
        self.0 -= count as i64;
    }
}

/// The bytes that the client may send, and those that it sent and did not get back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindow {
    size: u32,
    left: i64,
    /// Bytes that the user has.
    held: usize,
    /// Bytes that the user released, and that the client doesn't know of.
    released: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> ReceiveWindow {
        ReceiveWindow { size, left: size.into(), held: 0, released: 0 }
    }

    /// Changes the size, which the client learned by a setting.
    pub(crate) fn resize(&mut self, size: u32) {
        self.left += i64::from(size) - i64::from(self.size);
        self.size = size;
    }

    /// Counts received bytes. Returns whether the client was allowed to send them.
    pub(crate) fn spend(&mut self, count: usize) -> bool {
        self.left -= count as i64;
        self.left >= 0
    }

    /// Counts bytes that are given to the user, of `received` ones; the others are released.
    pub(crate) fn hold(&mut self, count: usize, received: usize) {
        self.held += count;
        self.released += (received - count) as u32;
    }

    /// Counts bytes that the user has used, at most those that it has.
    pub(crate) fn release(&mut self, count: usize) {
        let count = count.min(self.held);
        self.held -= count;
        self.released += count as u32;
    }

    /// Returns the increment of a WINDOW_UPDATE once half of the window was released.
    pub(crate) fn update(&mut self) -> Option<u32> {
        if self.released == 0 || self.released < self.size / 2 {
            return None;
        }
        let increment = std::mem::take(&mut self.released);
        self.left += i64::from(increment);
        Some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_may_be_negative_and_has_a_maximum() {
        let mut window = SendWindow::new(1000);
        window.spend(1000);
        assert!(window.change(-600));
        assert_eq!(window.room(), 0);
        assert!(window.change(601));
        assert_eq!(window.room(), 1);
        assert!(!window.change(MAX));
    }

    #[test]
    fn half_of_a_receive_window_is_returned_at_a_time() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.spend(60));
        window.hold(50, 60);
        assert_eq!(window.update(), None);
        window.release(39);
        assert_eq!(window.update(), None);
        window.release(1000);
        assert_eq!(window.update(), Some(60));
        assert!(window.spend(100));
        assert!(!window.spend(1));
    }
}
