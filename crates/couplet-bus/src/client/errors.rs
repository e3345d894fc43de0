//! The errors that a server reports: a server may repeat one without end, and each event may become a
//! line of a log.
//!
//! Contract: 206a.

use std::time::{Duration, Instant};

/// Time in which at most `MOST` errors are reported.
const PERIOD: Duration = Duration::from_secs(10);
/// Most errors that are reported in a period.
const MOST: u32 = 10;

/// Decides which errors are reported.
#[derive(Default)]
pub(super) struct ServerErrors {
    /// The beginning of the period.
    since: Option<Instant>,
    /// The errors that were reported in it.
    reported: u32,
    /// The errors since the last one that was reported.
    left_out: u64,
}

impl ServerErrors {
    /// Returns the text to report, if this error is reported.
    pub(super) fn add(&mut self, text: &str, now: Instant) -> Option<String> {
        let is_over = self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD);
        if is_over {
            (self.since, self.reported) = (Some(now), 0);
        }
        if self.reported >= MOST {
            self.left_out += 1;
            return None;
        }
        self.reported += 1;
        Some(match std::mem::take(&mut self.left_out) {
            0 => text.to_owned(),
            more => format!("{text} ({more} errors before it were not reported)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c206a_of_a_flood_of_errors_ten_in_ten_seconds_are_reported() {
        let mut errors = ServerErrors::default();
        let mut now = couplet_core::Loop::new().expect("a loop").reactor().now();
        for before in [0, 990, 990] {
            let reported: Vec<String> = (0..1000).filter_map(|_| errors.add("no", now)).collect();
            assert_eq!(reported.len(), 10);
            let first = match before {
                0 => "no".to_owned(),
                more => format!("no ({more} errors before it were not reported)"),
            };
            assert_eq!((&reported[0], &*reported[9]), (&first, "no"));
            now += PERIOD;
        }
    }

    #[test]
    fn c206a_a_period_begins_with_its_first_error_and_not_with_each() {
        let mut errors = ServerErrors::default();
        let begun = couplet_core::Loop::new().expect("a loop").reactor().now();
        // Two a second.
        let reported = (0..40)
            .filter(|half| errors.add("no", begun + Duration::from_secs(half / 2)).is_some());
        assert_eq!(reported.collect::<Vec<_>>(), (0..10).chain(20..30).collect::<Vec<_>>());
    }
}
