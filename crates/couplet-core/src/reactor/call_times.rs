//! [`CallTimes`]: how long calls into user code take.

use std::time::Duration;

/// Number of limits; the last bucket has the calls above them all.
const LIMITS: usize = 12;

/// How long a loop's calls into user code took: a histogram of the calls since the loop was created.
/// See [`Tuning::time_calls`](super::Tuning::time_calls).
///
/// Callbacks of Deferreds are part of the call that fires them.
///
/// ```
/// use std::time::Duration;
///
/// let options = couplet::LoopOptions::default().tune(|it| it.time_calls(true));
/// let mut l = couplet::Loop::with_options(options)?;
/// l.reactor().call_soon(|| println!("a call"));
/// l.turn(Some(Duration::ZERO))?;
/// assert_eq!(l.snapshot().calls.count(), 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTimes {
    buckets: [u64; LIMITS + 1],
    total: Duration,
}

impl CallTimes {
    /// How many calls have ended.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of their times.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// A limit, and how many calls took at most this long, but longer than the limit before. The
    /// limits are 1 µs, 4 µs, 16 µs and so on up to 4.2 s, and then [`Duration::MAX`].
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        (0..).zip(self.buckets).map(|(number, count)| (limit(number), count))
    }

    /// Counts a call.
    pub fn add(&mut self, took: Duration) {
        self.buckets[bucket(took)] += 1;
        self.total = self.total.saturating_add(took);
    }

    /// Adds other calls, such as another loop's.
    pub fn extend(&mut self, other: CallTimes) {
        for (ours, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *ours += theirs;
        }
        self.total = self.total.saturating_add(other.total);
    }
}

/// The limit of a bucket.
fn limit(number: usize) -> Duration {
    if number < LIMITS { Duration::from_micros(1 << (2 * number)) } else { Duration::MAX }
}

/// The first bucket whose limit is not exceeded.
fn bucket(took: Duration) -> usize {
    let micros = took.as_nanos().div_ceil(1000);
    let bits = u128::BITS - micros.saturating_sub(1).leading_zeros();
    (bits.div_ceil(2) as usize).min(LIMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_limit_it_does_not_exceed() {
        assert_eq!((limit(0), limit(1)), (Duration::from_micros(1), Duration::from_micros(4)));
        assert_eq!(limit(LIMITS - 1), Duration::from_micros(4_194_304));
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::MAX)), (0, LIMITS));
        for number in 0..LIMITS {
            assert_eq!(bucket(limit(number)), number);
            assert_eq!(bucket(limit(number) + Duration::from_nanos(1)), number + 1);
        }
    }

    #[test]
    fn times_of_several_loops_are_added() {
        let mut both = CallTimes::default();
        for took in [1, 2, 3, 5_000_000] {
            let mut times = CallTimes::default();
            times.add(Duration::from_micros(took));
            both.extend(times);
        }
        assert_eq!((both.count(), both.total()), (4, Duration::from_micros(5_000_006)));
        let counts: Vec<_> = both.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(limit(0), 1), (limit(1), 2), (Duration::MAX, 1)]);
    }
}
