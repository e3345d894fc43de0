//! When answers leave: at once, or with those to the other events of a batch.

use std::time::{Duration, Instant};

use super::turn::Core;
use crate::driver::{Commands, Key};
use crate::transport::connection::Follows;

/// When the answers to a batch of events leave: what a protocol writes while one driver's wait has
/// brought bytes for other connections, too.
///
/// An answer that leaves at once wakes a client that sleeps, and while the next one is made, that
/// client falls asleep again: on one machine a wake-up can cost more than the answer. Answers that leave
/// together wake it once. What is written at any other time, and everything larger than 16 KiB, is not
/// held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answers {
    /// Each before the next event is delivered.
    AtOnce,
    /// Together: at the end of the batch, or when there are 32.
    Together,
    /// As the loop's measurements of the time that answers take say: each at once where that is short,
    /// for a client that is awake needs no waking, and where it is long; else together, as many as are
    /// made in 500 µs.
    #[default]
    Measured,
}

/// Most answers that leave together.
const MOST: usize = 32;
/// How long an answer may be held back, by the mean of those before.
const HELD: Duration = Duration::from_micros(500);
/// Answers that take less leave at once, and those that take more.
const SHORT: Duration = Duration::from_micros(2);
const LONG: Duration = Duration::from_micros(100);
/// One answer of so many is timed, where they leave together.
const SAMPLE: u32 = 16;
/// In one turn of so many the answers are timed, where they leave at once.
const PROBE: u32 = 32;

/// How many answers leave together.
pub(super) struct Batching {
    policy: Answers,
    /// Answers are held back while more events are at hand.
    holds: bool,
    until_probe: u32,
    /// The time of the turn, and when the answer was held back from which the next one is timed.
    from: Option<(Instant, Instant)>,
    until_sample: u32,
    /// What an answer takes.
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

    /// At the end of each turn.
    #[inline(always)]
    pub(super) fn turned(&mut self) {
        self.until_probe -= 1;
        if self.until_probe == 0 {
            self.probe();
        }
    }

    /// Has the next two answers of a turn timed.
    #[cold]
    fn probe(&mut self) {
        self.until_probe = PROBE;
        if self.policy == Answers::Measured && !self.holds {
            (self.holds, self.until_sample) = (true, 0);
        }
    }

    /// Notes an answer that may be held back, made in the turn of this time; `clock` reads the present
    /// one. Returns how many may leave together.
    fn noted(&mut self, turn: Instant, clock: impl FnOnce() -> Instant) -> usize {
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

impl Core {
    /// An answer, with more events at hand: holds it back, or sends it.
    #[inline(never)]
    pub(super) fn answer(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(entry) = self.table.connection(key) else {
            return self.send_datagrams(io, key);
        };
        if !entry.to_write && !entry.life.has_layered_output() {
            return;
        }
        let now = self.reactor.records.time.get();
        let most = self.batching.noted(now, || self.reactor.fresh_time());
        if most < 2 {
            return self.send(io, key);
        }
        self.follow(io, key, Follows::OUTPUT);
        if self.to_write.len() >= most {
            self.write_all(io);
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

    /// How many leave together once answers have taken this long for a while, ten a turn.
    fn together(policy: Answers, took: Duration) -> usize {
        let mut batching = Batching::new(policy);
        let mut now = any_time();
        let mut most = 0;
        for _ in 0..40 * PROBE {
            let turn = now;
            for _ in 0..10 {
                now += took;
                most = if batching.holds() { batching.noted(turn, || now) } else { 0 };
            }
            batching.turned();
            now += 1000 * MICRO;
        }
        // The last turn may have been one for a measurement.
        if batching.until_sample == 0 { 0 } else { most }
    }

    #[test]
    fn as_many_leave_together_as_are_made_in_the_time() {
        assert_eq!(together(Answers::Measured, Duration::ZERO), 0);
        assert_eq!(together(Answers::Measured, MICRO), 0);
        assert_eq!(together(Answers::Measured, 5 * MICRO), 32);
        assert_eq!(together(Answers::Measured, 20 * MICRO), 25);
        assert_eq!(together(Answers::Measured, 50 * MICRO), 10);
        assert_eq!(together(Answers::Measured, 5000 * MICRO), 0);
        assert_eq!(together(Answers::AtOnce, 10 * MICRO), 0);
    }

    #[test]
    fn what_was_slow_and_is_short_now_is_noticed() {
        let mut batching = Batching::new(Answers::Measured);
        let mut now = any_time();
        let mut held = Vec::new();
        for took in [MICRO, 20 * MICRO, 10_000 * MICRO, 20 * MICRO, MICRO] {
            for _ in 0..40 * PROBE {
                let turn = now;
                for _ in 0..10 {
                    now += took;
                    if batching.holds() {
                        batching.noted(turn, || now);
                    }
                }
                batching.turned();
            }
            held.push((SHORT..=LONG).contains(&batching.mean));
        }
        assert_eq!(held, [false, true, false, true, false]);
    }

    #[test]
    fn the_time_between_two_turns_is_nobodys() {
        let mut batching = Batching::new(Answers::Measured);
        let mut now = any_time();
        for _ in 0..40 * PROBE {
            batching.turned();
            now += Duration::from_secs(1);
            batching.noted(now, || now);
        }
        assert_eq!(batching.mean, Duration::ZERO);
    }
}
