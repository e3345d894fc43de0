//! When answers (the replies to received bytes) are sent: immediately, or together with the answers
//! to other events of a batch.
//!
//! Contract: 57a.

use std::time::{Duration, Instant};

use crate::reactor::options::Answers;

/// Maximum number of replies sent together.
const MOST: usize = 32;
/// How long a reply may be held back, estimated by the mean time per reply.
const HELD: Duration = Duration::from_micros(500);
/// Replies that take less time are sent immediately.
const SHORT: Duration = Duration::from_micros(2);
/// Replies that take more time are sent immediately: fewer than two fit into `HELD`.
const LONG: Duration = Duration::from_micros(HELD.as_micros() as u64 / 2);
/// While replies are sent together, one in this many is timed.
const SAMPLE: u32 = 16;
/// While replies are sent immediately, replies are timed in one turn of this many.
const PROBE: u32 = 32;

/// Decides how many replies are sent together.
pub(super) struct Batching {
    policy: Answers,
    /// Replies are held back while more events are at hand.
    holds: bool,
    until_probe: u32,
    /// The time of the turn, and the time of its last reply, from which the next one is timed.
    from: Option<(Instant, Instant)>,
    until_sample: u32,
    /// The mean time per reply.
    mean: Duration,
}

impl Batching {
    pub(super) fn new(policy: Answers) -> Batching {
        let holds = policy == Answers::Together;
        Batching {
            policy,
            holds,
            until_probe: 1,
            from: None,
            until_sample: 0,
            mean: Duration::ZERO,
        }
    }

    #[inline(always)]
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// Called at the end of each turn.
    #[inline(always)]
    pub(super) fn turn_ended(&mut self) {
        self.until_probe -= 1;
        if self.until_probe == 0 {
            self.probe();
        }
    }

    /// Arranges for the next two replies of a turn to be timed.
    #[cold]
    fn probe(&mut self) {
        self.until_probe = PROBE;
        if self.policy == Answers::Measured && !self.holds {
            (self.holds, self.until_sample) = (true, 0);
        }
    }

    /// Records a reply that may be held back, in the turn of time `turn`; `clock` reads the present
    /// time. Returns how many replies may be sent together.
    pub(super) fn record_reply(&mut self, turn: Instant, clock: impl FnOnce() -> Instant) -> usize {
        if self.policy == Answers::Together {
            return MOST;
        }
        match self.from.take() {
            Some((of, from)) if of == turn => {
                let took = clock().saturating_duration_since(from);
                self.mean = (3 * self.mean + took) / 4;
                self.until_sample = SAMPLE;
                self.holds = SHORT <= self.mean && self.mean <= LONG;
            }
            _ if self.until_sample == 0 => self.from = Some((turn, clock())),
            _ => self.until_sample -= 1,
        }
        match self.mean.as_nanos() {
            _ if !self.holds => 0,
            0 => MOST,
            mean => ((HELD.as_nanos() / mean) as usize).min(MOST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn any_time() -> Instant {
        Instant::now()
    }

    const MICRO: Duration = Duration::from_micros(1);

    /// The number of replies sent together after a while of replies that take `took`, ten per turn.
    fn together(policy: Answers, took: Duration) -> usize {
        let mut batching = Batching::new(policy);
        let mut now = any_time();
        let mut most = 0;
        for _ in 0..40 * PROBE {
            let turn = now;
            for _ in 0..10 {
                now += took;
                most = if batching.holds() { batching.record_reply(turn, || now) } else { 0 };
            }
            batching.turn_ended();
            now += 1000 * MICRO;
        }
        // The last turn may have been a probe.
        if batching.until_sample == 0 { 0 } else { most }
    }

    #[test]
    fn c57a_replies_made_within_the_window_leave_together() {
        assert_eq!(together(Answers::Measured, Duration::ZERO), 0);
        assert_eq!(together(Answers::Measured, MICRO), 0);
        assert_eq!(together(Answers::Measured, 5 * MICRO), 32);
        assert_eq!(together(Answers::Measured, 20 * MICRO), 25);
        assert_eq!(together(Answers::Measured, 50 * MICRO), 10);
        assert_eq!(together(Answers::Measured, 200 * MICRO), 2);
        assert_eq!(together(Answers::Measured, 300 * MICRO), 0);
        assert_eq!(together(Answers::Measured, 5000 * MICRO), 0);
        assert_eq!(together(Answers::AtOnce, 10 * MICRO), 0);
    }

    #[test]
    fn c57a_batching_follows_replies_that_become_slower_or_faster() {
        let mut batching = Batching::new(Answers::Measured);
        let mut now = any_time();
        let mut held = Vec::new();
        for took in [MICRO, 20 * MICRO, 10_000 * MICRO, 20 * MICRO, MICRO] {
            for _ in 0..40 * PROBE {
                let turn = now;
                for _ in 0..10 {
                    now += took;
                    if batching.holds() {
                        batching.record_reply(turn, || now);
                    }
                }
                batching.turn_ended();
            }
            held.push((SHORT..=LONG).contains(&batching.mean));
        }
        assert_eq!(held, [false, true, false, true, false]);
    }

    #[test]
    fn c57a_the_time_between_turns_counts_for_no_reply() {
        let mut batching = Batching::new(Answers::Measured);
        let mut now = any_time();
        for _ in 0..40 * PROBE {
            batching.turn_ended();
            now += Duration::from_secs(1);
            batching.record_reply(now, || now);
        }
        assert_eq!(batching.mean, Duration::ZERO);
    }
}
