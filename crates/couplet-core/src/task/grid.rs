//! [`Grid`]: the points in time of a looping call or an interval.
//!
//! Contract: 130, 130a, 132.

use std::time::{Duration, Instant};

/// A start, and every whole interval after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    start: Instant,
    interval: Duration,
    /// The first point that was not counted; the start is point 0.
    next: u128,
}

impl Grid {
    /// A grid that counts its start as a point.
    pub(super) fn with_start(start: Instant, interval: Duration) -> Grid {
        Grid { start, interval, next: 0 }
    }

    /// A grid whose first point is one interval after its start.
    pub(super) fn after_start(start: Instant, interval: Duration) -> Grid {
        Grid { start, interval, next: 1 }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns the number of points up to now since the last count: always 1 with an interval of
    /// zero.
    pub(super) fn count(&mut self, now: Instant) -> u64 {
        let Some(point) = self.nanoseconds_since_start(now).checked_div(self.interval.as_nanos())
        else {
            return 1;
        };
        // A Duration's nanoseconds fit: there are fewer than 2^94.
        let points = (point + 1).saturating_sub(self.next);
        self.next += points;
        u64::try_from(points).unwrap_or(u64::MAX)
    }

    /// The time from now to the next point, in whole nanoseconds.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        match self.nanoseconds_since_start(now).checked_rem(self.interval.as_nanos()) {
            Some(over) => self.interval - from_nanos(over),
            None => Duration::ZERO,
        }
    }

    /// The time since the start, in nanoseconds.
    fn nanoseconds_since_start(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.start).as_nanos()
    }
}

fn from_nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    Duration::new((nanos / SECOND) as u64, (nanos % SECOND) as u32)
}
