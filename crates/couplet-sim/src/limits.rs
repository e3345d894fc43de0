//! Limits on events and real time, after which a world is given up: a livelock fails with its seed
//! instead of hanging.

use std::time::{Duration, Instant};

use super::trapped::{self, Source};

/// Events between two readings of the real clock.
const CLOCK_INTERVAL: u64 = 256;

pub(super) struct Limits {
    pub(super) events: Option<u64>,
    pub(super) real_time: Option<Duration>,
    /// Real time used by earlier runs, without the current one.
    spent: Duration,
    began: Option<Instant>,
    /// A limit was reached.
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
    /// Begins a run, and starts counting real time.
    pub(super) fn begin(&mut self) {
        self.began = self.real_time.map(|_| real_now());
    }

    /// Ends the run: time spent in the test itself does not count.
    pub(super) fn end(&mut self) {
        self.spent = self.taken();
        self.began = None;
    }

    fn taken(&self) -> Duration {
        let now = self.began.map(|began| real_now().saturating_duration_since(began));
        self.spent.saturating_add(now.unwrap_or_default())
    }

    /// Describes the limit that was reached, if any, and names the method that sets it.
    pub(super) fn check(&mut self, events: u64) -> Option<String> {
        let text = match (self.events, self.real_time) {
            (Some(most), _) if events >= most => {
                format!("{most} events (`Sim::set_event_limit` sets this bound)")
            }
            (_, Some(most)) if events.is_multiple_of(CLOCK_INTERVAL) && self.taken() >= most => {
                format!("{most:?} of real time (`Sim::set_real_time_limit` sets this bound)")
            }
            _ => return None,
        };
        self.reached = true;
        Some(text)
    }
}

#[expect(clippy::disallowed_methods, reason = "the limit is on real time")]
fn real_now() -> Instant {
    let _here = trapped::enter(Source::System);
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limits_are_100_million_events_and_5_minutes() {
        let mut limits = Limits::default();
        assert_eq!(limits.check(100_000_000 - 1), None);
        assert!(limits.check(100_000_000).is_some_and(|text| text.starts_with("100000000 events")));
        let mut limits = Limits { spent: Duration::from_secs(299), ..Limits::default() };
        assert_eq!((limits.check(CLOCK_INTERVAL), limits.reached), (None, false));
        limits.spent = Duration::from_secs(300);
        assert_eq!(limits.check(CLOCK_INTERVAL + 1), None, "the clock is read rarely");
        let text = limits.check(CLOCK_INTERVAL);
        assert!(text.is_some_and(|text| text.starts_with("300s of real time")));
        assert!(limits.reached);
    }

    #[test]
    fn the_real_time_of_all_runs_counts_and_none_between_them() {
        let mut limits = Limits::default();
        for run in 1..=3 {
            limits.begin();
            let began = limits.began.and_then(|began| began.checked_sub(Duration::from_secs(110)));
            assert!(began.is_some());
            limits.began = began;
            assert_eq!(limits.check(CLOCK_INTERVAL).is_some(), run == 3, "run {run}");
            limits.end();
            let spent = limits.spent;
            assert!(limits.taken() == spent && spent >= Duration::from_secs(110 * run));
        }
    }
}
