//! [`Spin`]: polling for a while before a loop sleeps, as long as that pays.
//!
//! Waking a sleeping thread takes the kernel tens of microseconds. A loop that polls instead of sleeping
//! notices the next event sooner, and burns its core. Polling pays only if the event comes in time, so
//! vain attempts become rare.
//!
//! Contract: 97b.

use std::io;
use std::time::{Duration, Instant};

/// The most sleeps in a row that begin without polling.
const LONGEST_REST: u32 = 1023;

/// How long to poll before a sleep, and how often that was in vain.
#[derive(Debug)]
pub(super) struct Spin {
    most: Duration,
    /// The sleeps between two attempts: about twice as many after a vain one, half as many after one that
    /// has paid.
    rest: u32,
    /// The sleeps until the next attempt.
    left: u32,
    /// The attempts so far.
    attempts: u32,
}

impl Spin {
    /// Polls at most for this long; `None` if that is no time.
    pub(super) fn new(most: Duration) -> Option<Spin> {
        (!most.is_zero()).then_some(Spin { most, rest: 0, left: 0, attempts: 0 })
    }

    /// Waits for an event, at most for `timeout`. `poll` waits for the given time, and returns whether
    /// there is an event.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        now: impl Fn() -> Instant,
        mut poll: impl FnMut(Option<Duration>) -> io::Result<bool>,
    ) -> io::Result<()> {
        if self.left > 0 {
            self.left -= 1;
            return poll(timeout).map(drop);
        }
        self.attempts = self.attempts.wrapping_add(1);
        let begun = now();
        let mut passed = Duration::ZERO;
        while passed < self.most {
            if poll(Some(Duration::ZERO))? {
                self.rest /= 2;
                return Ok(());
            }
            if timeout.is_some_and(|timeout| timeout <= passed) {
                // A timer was sooner: this was no attempt.
                return Ok(());
            }
            passed = now().saturating_duration_since(begun);
        }
        self.rest = (2 * self.rest + 1).min(LONGEST_REST);
        // Every other distance is even, and does not always meet the same step of a conversation.
        self.left = self.rest + self.attempts % 2;
        poll(timeout.map(|timeout| timeout.saturating_sub(passed))).map(drop)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
mod tests {
    use std::cell::Cell;

    use super::*;

    const POLL: Duration = Duration::from_micros(1);

    /// A loop whose clock advances with each poll.
    struct Bench {
        spin: Spin,
        first: Instant,
        passed: Cell<Duration>,
    }

    impl Bench {
        fn new() -> Bench {
            let spin = Spin::new(50 * POLL).expect("some time");
            Bench { spin, first: Instant::now(), passed: Cell::default() }
        }

        /// Waits for an event that comes after `event`; returns the polls, and the time of the sleep.
        fn wait(&mut self, timeout: Option<Duration>, event: Duration) -> (u32, Option<Duration>) {
            let (mut polls, mut slept) = (0, None);
            let (first, passed) = (self.first, &self.passed);
            let at = passed.get() + event;
            let poll = |most: Option<Duration>| {
                polls += 1;
                passed.set(passed.get() + POLL);
                if most != Some(Duration::ZERO) {
                    let left = at.saturating_sub(passed.get());
                    let sleep = most.map_or(left, |most| most.min(left));
                    slept = Some(sleep);
                    passed.set(passed.get() + sleep);
                }
                Ok(passed.get() >= at)
            };
            self.spin.wait(timeout, || first + passed.get(), poll).expect("no error");
            (polls, slept)
        }
    }

    #[test]
    fn an_event_that_comes_soon_is_noticed_without_a_sleep() {
        let mut bench = Bench::new();
        for _ in 0..100 {
            assert_eq!(bench.wait(None, 20 * POLL), (20, None));
        }
    }

    #[test]
    fn a_loop_sleeps_once_it_has_polled_for_long_enough() {
        let mut bench = Bench::new();
        assert_eq!(bench.wait(None, 1000 * POLL), (51, Some(949 * POLL)));
    }

    #[test]
    fn c97b_polling_that_does_not_pay_stops_and_resumes_when_it_pays() {
        let mut bench = Bench::new();
        let vain = (0..10_000).filter(|_| bench.wait(None, 1000 * POLL).0 > 1).count();
        assert!(
            (10..30).contains(&vain),
            "attempts double their distance up to 1024 waits: {vain}"
        );
        let paid = (0..10_000).filter(|_| bench.wait(None, 20 * POLL).1.is_none()).count();
        assert!(paid > 7000, "{paid}");
    }

    #[test]
    fn polling_continues_when_half_of_the_attempts_pay() {
        let mut bench = Bench::new();
        let events = [20, 1000];
        let paid = (0..1000).filter(|n| bench.wait(None, events[n % 2] * POLL).1.is_none()).count();
        assert!(paid > 100, "{paid}");
    }

    #[test]
    fn a_timer_is_not_late_and_counts_as_no_attempt() {
        let mut bench = Bench::new();
        for _ in 0..100 {
            let (polls, slept) = bench.wait(Some(10 * POLL), 1000 * POLL);
            assert_eq!(slept, None);
            assert!(polls <= 11, "{polls}");
        }
        assert_eq!(bench.wait(Some(100 * POLL), 1000 * POLL), (51, Some(50 * POLL)));
    }

    #[test]
    fn a_wait_that_must_not_block_polls_once() {
        let mut bench = Bench::new();
        assert_eq!(bench.wait(Some(Duration::ZERO), 1000 * POLL), (1, None));
    }

    #[test]
    fn a_duration_of_zero_disables_polling() {
        assert!(Spin::new(Duration::ZERO).is_none());
    }
}
