//! Seeded randomness: each source has its own PRNG [`RandomStream`], so that draws from one never affect
//! another.

use std::time::Duration;

/// A splitmix64 PRNG stream, determined by its key.
#[derive(Clone, Debug)]
pub(super) struct RandomStream(u64);

/// splitmix64's finalizer: every input bit affects every output bit.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Adds a word to a hash.
pub(super) fn fold(hash: u64, word: u64) -> u64 {
    mix(hash.rotate_left(5) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Adds bytes to a hash.
pub(super) fn fold_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    for word in words {
        hash = fold(hash, u64::from_le_bytes(word.try_into().unwrap_or_default()));
    }
    fold(fold(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

/// The purpose of a stream; the first part of its key.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// One direction of a connection.
    Flow = 1,
    /// Random numbers for a host's program.
    World,
    /// The durations of lookups and jobs.
    Work,
    /// The list of faults.
    Weather,
    /// The initial state of a host.
    Birth,
    /// The connections hit by a [`Fault::Reset`](super::Fault::Reset).
    Victims,
    /// Datagrams between two hosts.
    Datagrams,
    /// The order of simultaneous timed calls and woken tasks.
    Order,
    /// The replacement for the system's entropy.
    Entropy,
}

impl RandomStream {
    pub(super) fn new(seed: u64, purpose: Purpose, key: &[u64]) -> RandomStream {
        let start = fold(fold(0x636f_7570_6c65_7421, seed), purpose as u64);
        RandomStream(key.iter().fold(start, |hash, word| fold(hash, *word)))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`, or 0 if `n` is 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        // Multiply-shift: the high half of the product is close to uniform.
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `least` to `most`, inclusive.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least).saturating_add(1))
    }

    /// True `n` times out of a thousand.
    pub(super) fn per_mille(&mut self, n: u16) -> bool {
        n > 0 && self.below(1000) < u64::from(n)
    }
}

/// The latency of a link. All arithmetic is in whole nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Latency {
    /// Always this latency.
    Constant(Duration),
    /// Uniformly distributed between the two.
    Uniform(Duration, Duration),
    /// Half are at most `usual`; a quarter exceed twice `usual`, an eighth four times, and so on up
    /// to `most`.
    LongTail {
        /// The median.
        usual: Duration,
        /// The maximum.
        most: Duration,
    },
}

impl Latency {
    pub(super) fn draw(self, stream: &mut RandomStream) -> u64 {
        match self {
            Latency::Constant(time) => nanos(time),
            Latency::Uniform(least, most) => stream.between(nanos(least), nanos(most)),
            Latency::LongTail { usual, most } => {
                let doublings = stream.next().trailing_zeros().min(32);
                let reach = nanos(usual).saturating_mul(1 << doublings);
                stream.between(reach / 2, reach).min(nanos(most))
            }
        }
    }
}

/// Whole nanoseconds; 64 bits hold about 580 years.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_only_on_its_key() {
        let draws = |seed, key: &[u64]| {
            let mut stream = RandomStream::new(seed, Purpose::Flow, key);
            [stream.next(), stream.next(), stream.next()]
        };
        assert_eq!(draws(1, &[2, 3]), draws(1, &[2, 3]));
        assert_ne!(draws(1, &[2, 3]), draws(1, &[3, 2]));
        assert_ne!(draws(1, &[2, 3]), draws(2, &[2, 3]));
    }

    #[test]
    fn half_of_a_long_tail_is_within_usual_and_none_exceeds_most() {
        let mut stream = RandomStream::new(7, Purpose::Flow, &[]);
        let (usual, most) = (Duration::from_millis(10), Duration::from_secs(1));
        let tail = Latency::LongTail { usual, most };
        let drawn: Vec<u64> = (0..10_000).map(|_| tail.draw(&mut stream)).collect();
        let longer = drawn.iter().filter(|n| **n > nanos(usual)).count();
        assert!((4_500..5_500).contains(&longer), "{longer} of 10 000 exceed `usual`");
        assert!(drawn.iter().all(|n| *n <= nanos(most)));
        assert!(drawn.iter().any(|n| *n > nanos(usual) * 20));
    }

    #[test]
    fn a_hash_of_bytes_covers_each_byte_and_the_length() {
        let hash = |bytes: &[u8]| fold_bytes(0, bytes);
        assert_ne!(hash(b""), hash(b"\0"));
        assert_ne!(hash(b"12345678"), hash(b"12345678\0"));
        assert_ne!(hash(b"abcdefgh-ijkl"), hash(b"abcdefgh-ijkm"));
    }
}
