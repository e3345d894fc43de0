//! Rate limit for one member: the excess is delayed, not lost.
//!
//! Contract: 228.

use std::time::{Duration, Instant};

/// Bytes per second that one member may cause to be sent to each other member.
const RATE: u64 = 256 * 1024;
/// Bytes per second of all members together, when many send concurrently.
const RATE_OF_ALL: u64 = 1024 * 1024;
/// The burst of all members together, in bytes. Far below the write cap, so a burst of lines from
/// many members disconnects no reader.
pub(crate) const BURST_OF_ALL: u64 = 128 * 1024;

/// A member's rate state: the time up to which its bytes are paid for (the generic cell rate
/// algorithm).
#[derive(Default)]
pub(crate) struct RateLimit {
    paid_until: Option<Instant>,
}

impl RateLimit {
    /// Charges one of `members` for `bytes`; returns the delay before more is read from it.
    pub(crate) fn spend(&mut self, now: Instant, bytes: usize, members: usize) -> Option<Duration> {
        let members = members.max(1) as u64;
        let rate = RATE.min(RATE_OF_ALL / members).max(1);
        let burst = transfer_time(BURST_OF_ALL / members.max(4), rate);
        let begin = self.paid_until.map_or(now, |until| until.max(now));
        let paid_until = begin + transfer_time(bytes as u64, rate);
        self.paid_until = Some(paid_until);
        let ahead = paid_until.saturating_duration_since(now);
        ahead.checked_sub(burst).filter(|wait| !wait.is_zero())
    }
}

/// The cost of an answer: it is sent to one member, so the others do not make it dearer.
pub(crate) fn share(answered: usize, members: usize) -> usize {
    const ALONE: usize = (RATE_OF_ALL / RATE) as usize;
    answered.saturating_mul(ALONE) / members.max(ALONE)
}

fn transfer_time(bytes: u64, rate: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::Nobody;
    use couplet::testing::hold;

    /// Bytes that pass in a minute of continuous sending, in lines of 500, after a line and this
    /// many seconds of silence.
    fn heard_in_a_minute_after(silence: u64, members: usize) -> u64 {
        let mut rate_limit = RateLimit::default();
        let before = hold(Nobody).reactor().now();
        let _ = rate_limit.spend(before, 500, members);
        let began = before + Duration::from_secs(silence);
        let (mut now, mut bytes) = (began, 0);
        while now < began + Duration::from_secs(60) {
            bytes += 500;
            now += rate_limit.spend(now, 500, members).unwrap_or_default();
        }
        bytes
    }

    #[test]
    fn continuous_talk_passes_at_the_rate() {
        // Silence saves up no more than the burst.
        for silence in [1, 60, 86_400] {
            let heard = heard_in_a_minute_after(silence, 2);
            assert!((60 * RATE..61 * RATE).contains(&heard), "{silence} s: {heard}");
        }
    }

    #[test]
    fn many_share_a_rate() {
        let heard = heard_in_a_minute_after(86_400, 1000);
        let share = 60 * RATE_OF_ALL / 1000;
        assert!((share..share + 2000).contains(&heard), "{heard}");
    }

    #[test]
    fn an_answer_takes_the_same_time_among_many() {
        let answer = 100 * RATE as usize;
        for members in [1, 4, 100, 6000] {
            let mut rate_limit = RateLimit::default();
            let now = hold(Nobody).reactor().now();
            let wait = rate_limit.spend(now, share(answer, members), members).unwrap_or_default();
            assert!((99..=100).contains(&wait.as_secs()), "{members}: {wait:?}");
        }
    }

    #[test]
    fn talk_at_a_human_pace_never_waits() {
        let mut now = hold(Nobody).reactor().now();
        let mut rate_limit = RateLimit::default();
        for _ in 0..1000 {
            assert_eq!(rate_limit.spend(now, 500, 100), None);
            now += Duration::from_secs(1);
        }
        assert_eq!(rate_limit.spend(now, 20_000, 4), None, "a page at once");
    }
}
