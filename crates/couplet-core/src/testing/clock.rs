//! [`Clock`]: time under the test's control, for code that takes a [`Reactor`].
//!
//! Contract: 95.

use std::fmt;
use std::time::Duration;

use super::Manner;
use super::memory_loop::MemoryLoop;
use crate::recorder::Reactor;

/// A reactor whose time passes only when the test advances it. Twisted's `Clock`.
///
/// A complete loop with an empty network: timed calls, looping calls, tasks and timeouts run as usual.
/// For code that listens or connects use [`MemoryReactor`](super::MemoryReactor), which has a clock
/// too.
///
/// ```
/// use couplet::testing::Clock;
/// use std::time::Duration;
///
/// let mut clock = Clock::new();
/// let tea = clock.reactor().sleep(Duration::from_secs(240));
/// clock.advance(Duration::from_secs(239));
/// assert!(!tea.has_fired());
/// clock.advance(Duration::from_secs(1));
/// assert!(tea.has_fired());
/// ```
pub struct Clock {
    memory: MemoryLoop,
}

impl Clock {
    /// A clock at time zero.
    pub fn new() -> Clock {
        Clock { memory: MemoryLoop::new(Manner::Readiness, 0) }
    }

    /// The reactor, for the code under test.
    pub fn reactor(&self) -> Reactor {
        self.memory.l.reactor()
    }

    /// Advances the clock, and stops at each deadline on the way to run the calls that are due, in
    /// order of deadline. Calls that those schedule run too if they fall due within the advance.
    /// Twisted's `Clock.advance`.
    ///
    /// # Panics
    ///
    /// Afterwards, if a callback or other code called by the loop panicked.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) {
        self.memory.advance(by);
    }

    /// Advances by each of these durations in order. Twisted's `Clock.pump`.
    ///
    /// # Panics
    ///
    /// Like [`advance`](Self::advance).
    #[track_caller]
    pub fn pump(&mut self, steps: impl IntoIterator<Item = Duration>) {
        for step in steps {
            self.memory.advance(step);
        }
    }

    /// Turns the loop until it is idle, without advancing the clock. Runs tasks and calls with zero
    /// delay.
    ///
    /// # Panics
    ///
    /// Afterwards, if a callback or other code called by the loop panicked.
    #[track_caller]
    pub fn settle(&mut self) {
        self.memory.settle();
    }

    /// Takes the panics that the loop has contained since the last call. A test that calls this
    /// expects panics: after the first call, they no longer fail the test.
    pub fn take_panics(&mut self) -> Vec<String> {
        self.memory.take_panics()
    }

    /// Virtual time since the clock was created. Twisted's `Clock.seconds`.
    pub fn elapsed(&self) -> Duration {
        self.memory.network.elapsed()
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}
