//! [`Clock`]: time in the test's hand, for code that takes a [`Reactor`].

use std::fmt;
use std::time::Duration;

use super::Manner;
use super::memory_loop::MemoryLoop;
use crate::reactor::Reactor;

/// A reactor whose time passes when the test says so. Twisted's `Clock`.
///
/// It is a whole loop: timed calls, looping calls, tasks and timeouts run as in any other. Its
/// network is empty; for code that listens or connects there is
/// [`MemoryReactor`](super::MemoryReactor), which has a clock too.
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
    /// A clock that stands at zero.
    pub fn new() -> Clock {
        Clock { memory: MemoryLoop::new(Manner::Readiness, 0) }
    }

    /// The reactor, for the code under test.
    pub fn reactor(&self) -> Reactor {
        self.memory.l.reactor()
    }

    /// Lets time pass. The clock stops at each deadline on the way, and what is due then runs, in
    /// the order of the deadlines; calls that it asks for run too if they fall within the advance.
    /// Twisted's `Clock.advance`.
    ///
    /// # Panics
    ///
    /// After that, when a callback has panicked, or whatever else the loop calls.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) {
        self.memory.advance(by);
    }

    /// Advances by each of these in turn. Twisted's `Clock.pump`.
    ///
    /// # Panics
    ///
    /// As [`advance`](Self::advance).
    #[track_caller]
    pub fn pump(&mut self, steps: impl IntoIterator<Item = Duration>) {
        for step in steps {
            self.memory.advance(step);
        }
    }

    /// Turns until nothing more happens by itself; time stands still. Tasks run, and calls with a
    /// delay of zero.
    ///
    /// # Panics
    ///
    /// After that, when a callback has panicked, or whatever else the loop calls.
    #[track_caller]
    pub fn settle(&mut self) {
        self.memory.settle();
    }

    /// The panics that the loop has contained since this was asked last. A test that asks expects
    /// them: from its first call on they do not fail it.
    pub fn take_panics(&mut self) -> Vec<String> {
        self.memory.take_panics()
    }

    /// The time that has passed since it was made. Twisted's `Clock.seconds`.
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
