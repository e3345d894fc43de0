//! Returns freed memory to the system after connections have paused.
//!
//! Buffers of long requests and answers come and go between blocks that stay, such as the beginning
//! of the next request. The allocator keeps the holes, and a later buffer of the same length does
//! not fit into one, which can add a quarter to the memory of the clients that read nothing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::Reactor;

/// Delay before a trim, so that connections that pause together share one.
const DELAY: Duration = Duration::from_millis(500);

/// Delay for each paused connection. A trim takes 5 to 7 µs for each hole, which is about 1 % of this
/// time.
const DELAY_EACH: Duration = Duration::from_micros(500);

/// Trims the heap for the paused connections of a loop.
#[derive(Debug, Default)]
pub(crate) struct HeapTrim {
    /// Number of connections that are paused.
    paused: Cell<u32>,
    is_due: Cell<bool>,
}

impl HeapTrim {
    /// Counts a connection that pauses with its request answered, and trims the heap soon.
    pub(crate) fn pause(self: &Rc<HeapTrim>, reactor: &Reactor) {
        self.paused.set(self.paused.get() + 1);
        if !self.is_due.replace(true) {
            let heap = self.clone();
            reactor.call_later(self.delay(), move || heap.trim());
        }
    }

    /// Ends a [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.paused.set(self.paused.get() - 1);
    }

    /// Number of connections that are paused.
    #[cfg(test)]
    pub(crate) fn paused(&self) -> u32 {
        self.paused.get()
    }

    fn delay(&self) -> Duration {
        DELAY.max(DELAY_EACH.saturating_mul(self.paused.get()))
    }

    fn trim(&self) {
        self.is_due.set(false);
        couplet_os::heap::trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses `count` connections, and returns whether a trim is due a little before and after `delay`.
    fn due_around(delay: Duration, count: u32) -> (bool, bool) {
        let due = couplet::testing::run(move |reactor| {
            let heap = Rc::new(HeapTrim::default());
            heap.pause(reactor);
            (1..count).for_each(|_| heap.pause(reactor));
            let inner = reactor.clone();
            reactor.spawn(async move {
                let little = Duration::from_millis(1);
                inner.sleep(delay - little).await?;
                let before = heap.is_due.get();
                inner.sleep(2 * little).await?;
                let after = heap.is_due.get();
                (0..count).for_each(|_| heap.resume());
                assert_eq!((heap.paused.get(), heap.delay()), (0, DELAY));
                Ok((before, after))
            })
        });
        due.expect("it ends")
    }

    #[test]
    fn connections_that_pause_together_share_one_trim() {
        assert_eq!(due_around(DELAY, 1), (true, false));
        assert_eq!(due_around(DELAY, 5000), (true, false));
    }

    #[test]
    fn with_many_paused_connections_a_trim_is_rare() {
        let heap = HeapTrim::default();
        for (paused, delay) in [(1, DELAY), (1000, DELAY), (10_000, 10 * DELAY)] {
            heap.paused.set(paused);
            assert_eq!(heap.delay(), delay, "{paused}");
        }
    }
}
