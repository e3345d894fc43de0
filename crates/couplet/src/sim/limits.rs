//! How much a world may take before it is given up: events, and real time. A world that goes in a
//! circle fails with its seed, instead of falling silent.

use std::time::{Duration, Instant};

/// Events between two looks at the real clock.
const LOOK: u64 = 256;

pub(super) struct Limits {
    pub(super) events: Option<u64>,
    pub(super) real_time: Option<Duration>,
    /// Real time that the world has taken, but for what runs now.
    spent: Duration,
    began: Option<Instant>,
    /// One of them was reached.
    pub(super) reached: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            events: Some(100_000_000),
            real_time: Some(Duration::from_secs(300)),
            spent: Duration::ZERO,
            began: None,
            reached: false,
        }
    }
}

impl Limits {
    /// The world goes on: real time counts from now on.
    pub(super) fn begin(&mut self) {
        self.began = self.real_time.map(|_| real_now());
    }

    /// The world rests, and its test has the processor.
    pub(super) fn end(&mut self) {
        self.spent = self.taken();
        self.began = None;
    }

    fn taken(&self) -> Duration {
        let now = self.began.map(|began| real_now().saturating_duration_since(began));
        self.spent.saturating_add(now.unwrap_or_default())
    }

    /// Which of them is reached, where one is, and what sets it.
    pub(super) fn look(&mut self, events: u64) -> Option<String> {
        let text = match (self.events, self.real_time) {
            (Some(most), _) if events >= most => {
                format!("{most} events (`Sim::set_event_limit` sets this bound)")
            }
            (_, Some(most)) if events.is_multiple_of(LOOK) && self.taken() >= most => {
                format!("{most:?} of real time (`Sim::set_real_time_limit` sets this bound)")
            }
            _ => return None,
        };
        self.reached = true;
        Some(text)
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a world takes in the end is real")]
fn real_now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_may_take_100_million_events_and_5_minutes_unless_told_otherwise() {
        let mut limits = Limits::default();
        assert_eq!(limits.look(100_000_000 - 1), None);
        assert!(limits.look(100_000_000).is_some_and(|text| text.starts_with("100000000 events")));
        let mut limits = Limits { spent: Duration::from_secs(299), ..Limits::default() };
        assert_eq!((limits.look(LOOK), limits.reached), (None, false));
        limits.spent = Duration::from_secs(300);
        assert_eq!(limits.look(LOOK + 1), None, "the clock costs, too");
        assert!(limits.look(LOOK).is_some_and(|text| text.starts_with("300s of real time")));
        assert!(limits.reached);
    }
}
