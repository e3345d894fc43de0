//! Flow control: RFC 9113, 5.2 and 6.9.
//!
//! Contract: 175c.

/// The largest window.
pub const MAX_WINDOW: i64 = i32::MAX as i64;

/// The window of a stream or a connection before any setting or update.
pub const INITIAL_WINDOW: i64 = 65_535;

/// The number of bytes that we may send.
#[derive(Clone, Copy, Debug)]
pub struct SendWindow(i64);

/// A window that grew beyond 2³¹-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl SendWindow {
    pub fn new(size: i64) -> SendWindow {
        SendWindow(size)
    }

    /// The number of bytes, 0 for a negative window.
    pub fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Changes the window, as WINDOW_UPDATE or a new initial size demands. Returns whether it was
    /// opened.
    pub fn change(&mut self, by: i64) -> Result<bool, Overflow> {
        let was_closed = self.0 <= 0;
        self.0 += by;
        if self.0 > MAX_WINDOW { Err(Overflow) } else { Ok(was_closed && self.0 > 0) }
    }

    pub fn spend(&mut self, count: usize) {
        self.0 -= count as i64;
    }
}

/// The number of bytes that the peer may send.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveWindow {
    /// The bytes that the peer may send before any is returned: those that are left, consumed, and
    /// held.
    size: i64,
    left: i64,
    /// Bytes that were consumed, but not yet returned to the peer.
    consumed: i64,
}

impl ReceiveWindow {
    pub fn new(size: i64) -> ReceiveWindow {
        ReceiveWindow { size, left: size, consumed: 0 }
    }

    pub fn size(self) -> i64 {
        self.size
    }

    /// The number of bytes that were received and not consumed.
    pub fn held(self) -> i64 {
        self.size - self.left - self.consumed
    }

    /// Changes the window without an update, because the peer learns of it by a setting.
    pub fn change(&mut self, by: i64) {
        self.size += by;
        self.left += by;
    }

    /// Counts received bytes; fails if the peer was not allowed to send them. An empty frame needs no
    /// window.
    pub fn spend(&mut self, count: usize) -> Result<(), Overflow> {
        self.left -= count as i64;
        if count > 0 && self.left < 0 { Err(Overflow) } else { Ok(()) }
    }

    /// Counts consumed bytes. Returns whether half of the window has been consumed, so that it
    /// should be [returned](Self::update).
    pub fn consume(&mut self, count: usize) -> bool {
        self.consumed += count as i64;
        self.consumed > 0 && self.consumed >= self.left
    }

    /// Returns consumed bytes to the peer, and gives the window this size. Returns the increment of
    /// a WINDOW_UPDATE; a window that shrinks may need to consume more first.
    pub fn update(&mut self, size: i64) -> Option<u32> {
        let increment =
            u32::try_from(self.consumed + size - self.size).ok().filter(|it| *it > 0)?;
        *self = ReceiveWindow { size, left: self.left + i64::from(increment), consumed: 0 };
        Some(increment)
    }
}

/// How the streams of a connection share its receive window. The first windows of unread streams
/// fit into half of it, and streams that are read share the other half. So uploads that are not
/// read, or no longer, leave room for others.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    first: u32,
    most: u32,
    shared: u32,
}

/// Least first window of a stream, in bytes, for servers that permit thousands of streams.
const MIN_FIRST_WINDOW: u32 = 1024;

impl Shares {
    /// Shares a connection's window among this number of streams. `most` is the largest window of one.
    pub fn new(connection: u32, streams: u32, most: u32) -> Shares {
        let shared = connection / 2;
        let first = (shared / streams.max(1)).max(MIN_FIRST_WINDOW).min(most);
        Shares { first, most, shared }
    }

    /// Each stream has a window of this size, however large the connection's is.
    pub fn fixed(size: u32) -> Shares {
        Shares { first: size, most: size, shared: 0 }
    }

    /// The window of a stream that was not read, once the peer has acknowledged it:
    /// SETTINGS_INITIAL_WINDOW_SIZE.
    pub fn first(self) -> u32 {
        self.first
    }

    /// The window of a stream that is read: beyond the first window, half of the shared bytes that
    /// others leave. So streams that are read get equal shares in the end, whatever unread streams
    /// keep, and there is always a share for one more.
    ///
    /// `first` is the first window that the peer knows of. `claims` are the bytes that each other
    /// stream may take: the peer may still send them, or they are unread.
    pub fn wider(self, first: i64, claims: impl Iterator<Item = i64>) -> i64 {
        let shares: i64 = claims.map(|claim| (claim - first).max(0)).sum();
        let left = (i64::from(self.shared) - shares).max(0);
        first + (left / 2).min((self.most - self.first).into())
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
