//! Limits warnings and errors that repeat: of each place in the code, the first ones within ten seconds
//! are logged, and the others are counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use couplet::hooks::SortedMap;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// The period of a limit.
pub(crate) const PERIOD: Duration = Duration::from_secs(10);

/// A place in the code: a file and a line.
type Place = (&'static str, u32);

/// A filter that passes a limited number of warnings or errors of each place within a period.
#[derive(Clone)]
pub(crate) struct Repeats {
    most: Option<u32>,
    /// How many events came from each place in this period.
    seen: Arc<Mutex<SortedMap<Place, u32>>>,
}

impl Repeats {
    /// A filter with this limit; 0 stands for none.
    pub(crate) fn new(most: u32) -> Repeats {
        Repeats { most: Some(most).filter(|most| *most > 0), seen: Arc::default() }
    }

    /// Counts an event, and returns whether it is logged.
    fn admit(&self, metadata: &Metadata<'static>) -> bool {
        let (Some(most), Some(place)) = (self.most, metadata.file().zip(metadata.line())) else {
            return true;
        };
        // The lines of `end_period` have one place, and each is about another.
        let is_own = metadata.module_path() == Some(module_path!());
        if *metadata.level() > Level::WARN || is_own {
            return true;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.get_or_insert_with(place, || 0);
        *count = count.saturating_add(1);
        *count <= most
    }

    /// Ends a period, and logs how many events were left out.
    pub(crate) fn end_period(&self) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        for ((file, line), count) in seen {
            let left_out = count.saturating_sub(self.most.unwrap_or(u32::MAX));
            if left_out > 0 {
                tracing::warn!(left_out, "repeated events of {file}:{line} were left out");
            }
        }
    }
}

impl<S> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admit(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tracing_subscriber::prelude::*;

    use super::*;

    /// A log in memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Logs five errors from one place and one from another, twice with a period between.
    fn log(most: u32, level: Level) -> Vec<String> {
        logged(most, |repeats| {
            for _ in 0..2 {
                for number in 0..5 {
                    match level {
                        Level::INFO => tracing::info!("note {number}"),
                        Level::WARN => tracing::warn!("warning {number}"),
                        _ => tracing::error!("error {number}"),
                    }
                }
                tracing::warn!("another");
                repeats.end_period();
            }
        })
    }

    /// The lines that are logged within this limit.
    fn logged(most: u32, work: impl FnOnce(&Repeats)) -> Vec<String> {
        let (lines, repeats) = (Lines::default(), Repeats::new(most));
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .with_filter(repeats.clone());
        let registry = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(registry, || work(&repeats));
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn errors_that_repeat_are_counted_instead() {
        let once = ["ERROR error 0", "ERROR error 1", "WARN another"];
        let lines = log(2, Level::ERROR);
        for half in lines.chunks(4) {
            assert_eq!(half[..3], once, "{lines:?}");
            assert!(half[3].starts_with("WARN repeated events of "), "{lines:?}");
            assert!(half[3].ends_with(" were left out left_out=3"), "{lines:?}");
        }
        assert_eq!(lines.len(), 8, "{lines:?}");
    }

    #[test]
    fn warnings_are_limited_too_and_the_least_limit_is_1() {
        for (most, level) in [(1, Level::WARN), (1, Level::ERROR), (4, Level::WARN)] {
            let lines = log(most, level);
            let (most, left_out) = (usize::try_from(most).unwrap(), 5 - most);
            for half in lines.chunks(most + 2) {
                assert!(half[most].ends_with("another"), "{lines:?}");
                assert!(half[most + 1].ends_with(&format!("left_out={left_out}")), "{lines:?}");
            }
            assert_eq!(lines.len(), 2 * (most + 2), "{lines:?}");
        }
    }

    #[test]
    fn each_place_has_its_own_limit_and_count() {
        let lines = logged(1, |repeats| {
            for _ in 0..2 {
                (0..3).for_each(|_| tracing::error!("one"));
                (0..5).for_each(|_| tracing::warn!("other"));
                repeats.end_period();
            }
        });
        for half in lines.chunks(4) {
            assert_eq!(half[..2], ["ERROR one", "WARN other"], "{lines:?}");
            assert!(
                half[2].ends_with("left_out=2") && half[3].ends_with("left_out=4"),
                "{lines:?}"
            );
        }
        assert_eq!(lines.len(), 8, "{lines:?}");
    }

    #[test]
    fn notes_and_a_limit_of_0_leave_nothing_out() {
        assert_eq!(log(2, Level::INFO).len(), 12);
        assert_eq!(log(0, Level::ERROR).len(), 12);
        assert_eq!(log(5, Level::ERROR).len(), 12);
    }
}
