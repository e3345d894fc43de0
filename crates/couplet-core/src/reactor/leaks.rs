//! Leaks of a run, with the source locations of the requests; for
//! [`testing::run`](crate::testing::run) and the simulator.
//!
//! The source locations of timers, tasks, jobs and accepted connections are kept in a separate table,
//! which exists only in a loop under test or with an inspector; the few ports and connectors keep
//! their own.

use std::fmt;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::tasks::{ReaderOf, TaskId};
use crate::driver::{Key, Ticket};
use crate::recorder::{Source, TimerPurpose};
use crate::timers::TimerKey;
use crate::transport::ConnectionId;

/// An object that a run left open, active or pending.
pub(crate) struct Leak {
    /// A description of the object.
    pub(crate) what: String,
    /// The origin of the object.
    pub(crate) from: String,
    /// How to clean it up.
    pub(crate) cleanup: &'static str,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leak { what, from, cleanup } = self;
        write!(f, "{what}\n   {from}\n   to clean up: {cleanup}")
    }
}

/// Formats the leaks as a numbered list, with at least one line each.
#[cfg(feature = "testing")]
pub(crate) fn numbered(all: &[Leak]) -> String {
    (1..).zip(all).fold(String::new(), |mut text, (number, left)| {
        // Writing to a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("\n{number}. {left}"));
        text
    })
}

impl TimerPurpose {
    pub(super) fn kind(self) -> &'static str {
        match self {
            TimerPurpose::Call | TimerPurpose::Connection(_) => "timed call",
            TimerPurpose::Sleep => "sleep",
            TimerPurpose::Timeout => "timeout",
            TimerPurpose::LoopingCall => "looping call",
            TimerPurpose::Cooperator => "cooperator",
            TimerPurpose::Interval => "interval",
        }
    }

    pub(super) fn description(self) -> (&'static str, &'static str) {
        match self {
            TimerPurpose::Call | TimerPurpose::Connection(_) => {
                ("a timed call", "keep its `DelayedCall`, and `cancel()` it")
            }
            TimerPurpose::Sleep => ("a sleep", "wait for it, or cancel its Deferred"),
            TimerPurpose::Timeout => {
                ("a timeout", "let the Deferred that it guards fire, or cancel it")
            }
            TimerPurpose::LoopingCall => ("a looping call", "`stop()` it"),
            TimerPurpose::Cooperator => {
                ("a cooperator with work to do", "`stop()` it or its tasks")
            }
            TimerPurpose::Interval => ("an interval", "drop it, or cancel the task that awaits it"),
        }
    }
}

/// Source locations of requests, in the order of the requests.
#[derive(Default)]
pub(super) struct Places {
    timers: PlaceLog<((TimerKey, TimerPurpose), Origin)>,
    tasks: PlaceLog<(TaskId, Origin)>,
    /// Each with whether a thread has begun it.
    jobs: PlaceLog<((Ticket, Arc<AtomicBool>), Origin)>,
    accepted: PlaceLog<(Key, Origin)>,
    readers: PlaceLog<Weak<dyn ReaderOf>>,
    /// Leaks that the last shutdown cut off, unless a signal caused it.
    pub(super) cut_off: Vec<Leak>,
}

impl Places {
    pub(super) fn add_timer(
        &mut self,
        timer: TimerKey,
        purpose: TimerPurpose,
        from: Origin,
        is_left: impl Fn(TimerKey) -> bool,
    ) {
        self.timers.add(((timer, purpose), from), |((timer, _), _)| is_left(*timer));
    }

    pub(super) fn add_task(
        &mut self,
        task: TaskId,
        from: Origin,
        is_left: impl Fn(TaskId) -> bool,
    ) {
        self.tasks.add((task, from), |(task, _)| is_left(*task));
    }

    /// The flag is for the thread that begins the job.
    pub(super) fn add_job(
        &mut self,
        job: Ticket,
        from: Origin,
        is_left: impl Fn(Ticket) -> bool,
    ) -> Arc<AtomicBool> {
        let has_begun = Arc::new(AtomicBool::new(false));
        self.jobs.add(((job, has_begun.clone()), from), |((job, _), _)| is_left(*job));
        has_begun
    }

    pub(super) fn add_accepted(&mut self, key: Key, from: Origin, is_left: impl Fn(&Key) -> bool) {
        self.accepted.add((key, from), |(key, _)| is_left(key));
    }

    pub(super) fn add_reader(&mut self, of: Weak<dyn ReaderOf>) {
        self.readers.add(of, |of| of.strong_count() > 0);
    }

    /// The connections whose bytes tasks wait for.
    pub(super) fn readers(&self) -> impl Iterator<Item = (TaskId, ConnectionId)> {
        self.readers.list.iter().filter_map(|of| of.upgrade()?.reading_task())
    }

    /// Where the port was opened that accepted a connection.
    pub(super) fn accepted_by(&self, key: Key) -> Option<Source> {
        let mut all = self.accepted.list.iter().rev();
        all.find(|(accepted, _)| *accepted == key).map(|(_, port)| port.place)
    }

    pub(super) fn timers(&self) -> &[((TimerKey, TimerPurpose), Origin)] {
        &self.timers.list
    }

    pub(super) fn tasks(&self) -> &[(TaskId, Origin)] {
        &self.tasks.list
    }

    pub(super) fn jobs(&self) -> &[((Ticket, Arc<AtomicBool>), Origin)] {
        &self.jobs.list
    }
}

/// The place and the time of a request.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) place: Source,
    pub(super) since: Instant,
}

/// A list of live entries, and of finished ones that have not been dropped yet.
struct PlaceLog<K> {
    // Dead entries are dropped at twice the number of live ones plus 64.
    list: Vec<K>,
    /// The length at which finished entries are pruned: at most twice the live ones plus 64.
    /// (Law 9.)
    limit: usize,
}

impl<K> Default for PlaceLog<K> {
    fn default() -> Self {
        PlaceLog { list: Vec::new(), limit: 64 }
    }
}

impl<K> PlaceLog<K> {
    fn add(&mut self, what: K, is_left: impl Fn(&K) -> bool) {
        if self.list.len() >= self.limit {
            self.list.retain(is_left);
            self.limit = 2 * self.list.len() + 64;
        }
        self.list.push(what);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_log_of_places_is_pruned_at_twice_its_live_entries_plus_64() {
        let mut logged = PlaceLog::default();
        let from = Origin { place: Location::caller(), since: Instant::now() };
        let mut add = |n: u32, least: u32| {
            logged.add((n, from), |(n, _)| *n >= least);
            logged.list.len()
        };
        // Each entry is finished when the next one is added.
        assert_eq!((0..65).map(|n| add(n, n)).max(), Some(64));
        assert_eq!(add(65, 0), 2);
        assert_eq!((66..129).map(|n| add(n, 0)).last(), Some(65), "all are left");
        // The list is pruned again at twice its live entries plus 64.
        assert_eq!((129..256).map(|n| add(n, n)).max(), Some(192));
        assert_eq!(add(256, 256), 1);
    }
}
