//! How often and how soon a supervisor restarts its children.
//!
//! Contract: 139e, 139f.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Reactor;
use crate::hooks;

/// Restarts within a period: more of them than `most` mean that a restart does not help.
#[derive(Debug)]
pub(super) struct Intensity {
    most: u32,
    period: Duration,
    recent: VecDeque<Instant>,
}

impl Intensity {
    /// Erlang's default is one restart in five seconds.
    pub(super) fn new(most: u32, period: Duration) -> Self {
        Intensity { most, period, recent: VecDeque::new() }
    }

    /// Counts a restart. Returns false if there are too many.
    pub(super) fn allows_another(&mut self, now: Instant) -> bool {
        let period = self.period;
        self.recent.retain(|at| now.saturating_duration_since(*at) <= period);
        self.recent.push_back(now);
        self.recent.len() <= self.most as usize
    }

    pub(super) fn forget(&mut self) {
        self.recent.clear();
    }

    pub(super) fn limit(&self) -> (u32, Duration) {
        (self.most, self.period)
    }
}

/// The delay before a restart.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    pub(super) first: Duration,
    pub(super) most: Duration,
}

impl BackOff {
    /// The delay before the n-th restart in succession, from 0: twice as long each time, less a
    /// random part of up to half, so that services that failed together do not restart together.
    pub(super) fn delay(self, streak: u32, reactor: &Reactor) -> Duration {
        let factor = 1_u32.checked_shl(streak).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.most);
        let share = (hooks::random(reactor) >> 32) as u32;
        let nanos = u64::try_from(full.as_nanos()).unwrap_or(u64::MAX);
        let less = (u128::from(nanos / 2) * u128::from(share)) >> 32;
        full - Duration::from_nanos(less as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_delay_stays_however_many_restarts_follow() {
        let l = crate::Loop::new().expect("a loop");
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(10));
        for streak in [7, 8, 31, 32, 33, 64, u32::MAX] {
            let delay = BackOff { first, most }.delay(streak, &l.reactor());
            assert!(most / 2 <= delay && delay <= most, "{streak}: {delay:?}");
        }
    }
}
