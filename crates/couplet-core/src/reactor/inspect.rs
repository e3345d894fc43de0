//! The inspector of a loop: it gets the loop when that is created.
//!
//! Contract: 180a.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::control::SNAPSHOT;
use super::frames::{Frames, TableLimits};
use super::options::LoopOptions;
use super::remote::{LoopGone, Remote};
use crate::defer::keep_histories;
use crate::driver::LoopThread;
use crate::driver::ring::Ring;
use crate::internals::{Ended, Observer, Waiting, observe};
use crate::recorder::{Reactor, WeakReactor};
use crate::transport::ConnectionId;

/// Gets the loops that are created with its options.
pub trait Inspector: Send + Sync {
    /// The size of each loop's [`Ring`], in bytes.
    fn ring_size(&self) -> usize;

    /// How many callbacks of each Deferred are [kept](crate::defer::keep_histories) in the threads of
    /// the loops, unless they keep some already. With 0, Deferreds and locks are not observed.
    fn histories(&self) -> usize;

    /// The number of connections of each loop whose addresses are kept.
    fn logged_connections(&self) -> usize;

    /// How many bytes of each received and written chunk are kept, and the memory for them in
    /// addition to each ring, in bytes. With 0, none are kept.
    fn contents(&self) -> (usize, usize);

    /// The limits of the tables of each loop.
    fn tables(&self) -> TableLimits;

    /// A loop was created, in this thread. The returned value is dropped with the loop.
    ///
    /// # Errors
    ///
    /// An error prevents the loop from being created.
    fn attach(self: Arc<Self>, inspected: InspectedLoop) -> io::Result<Box<dyn Any>>;

    /// The address of the inspector, while a loop is inspected.
    fn url(&self) -> Option<String>;

    /// The last events of all loops and their state, as a file. Waits for the inspector's thread.
    ///
    /// # Errors
    ///
    /// When no loop is inspected.
    fn recording(&self) -> io::Result<Vec<u8>>;
}

/// A loop, as its inspector sees it. May outlive the loop.
#[derive(Debug)]
pub struct InspectedLoop {
    /// The loop.
    pub remote: Remote,
    /// The number of the loop in this process, with which the IDs of its connections begin.
    pub serial: u32,
    pub(super) thread: LoopThread,
    /// The last events.
    pub ring: Arc<Ring>,
    /// The tables as of earlier times.
    pub frames: Arc<Frames>,
}

impl InspectedLoop {
    /// Pauses or resumes reading from a connection, independently of the program's own pauses. A
    /// connection that is lost is left alone.
    ///
    /// # Errors
    ///
    /// [`LoopGone`].
    pub fn pause(&self, connection: ConnectionId, on: bool) -> Result<(), LoopGone> {
        self.remote.pause_for_inspector(connection, on)
    }

    /// The name of the loop's thread, or else the thread's number.
    pub fn thread(&self) -> &str {
        self.thread.name()
    }

    /// The backtrace of the loop's thread, one line for each frame, innermost first. `None` if the
    /// thread does not answer within 100 ms, and in builds without backtraces.
    pub fn backtrace(&self) -> Option<String> {
        self.thread.backtrace().map(|trace| trace.to_string())
    }
}

/// Observes a loop, and the Deferreds and locks of its thread, until it is dropped.
pub struct Observing {
    before: Option<Rc<dyn Observer>>,
    histories: usize,
}

impl Observing {
    /// Has a loop keep the places of requests, and this many callbacks of each Deferred. With 0,
    /// Deferreds and locks are not observed.
    pub fn begin(reactor: &Reactor, most: usize) -> Option<Observing> {
        reactor.records().record_places();
        if most == 0 {
            return None;
        }
        Some(Observing::observe(reactor, most, 0))
    }

    /// Observes the Deferreds and locks of a group, whose time is the loop's.
    fn observe(reactor: &Reactor, most: usize, group: u32) -> Observing {
        let histories = keep_histories(most);
        if histories > 0 {
            keep_histories(histories);
        }
        let observer = LoopObserver(reactor.downgrade(), group);
        let before = observe(Some(Rc::new(observer)));
        Observing { before, histories }
    }

    /// Observes the Deferreds and locks of a simulated loop while it has the thread.
    #[cfg(feature = "testing")]
    pub(crate) fn of_host(reactor: &Reactor, most: usize) -> Observing {
        Observing::observe(reactor, most, reactor.serial())
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        keep_histories(self.histories);
        observe(self.before.take());
    }
}

impl fmt::Debug for Observing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observing").finish_non_exhaustive()
    }
}

struct LoopObserver(WeakReactor, u32);

impl Observer for LoopObserver {
    fn now(&self) -> Option<Instant> {
        Some(self.0.upgrade()?.now())
    }

    fn task(&self) -> Option<u64> {
        self.0.upgrade()?.records().tasks.polled()
    }

    fn ended(&self, deferred: Ended) {
        // The Deferreds of the inspector's own snapshots are no part of the program.
        if deferred.fired_by().kind != SNAPSHOT
            && let Some(reactor) = self.0.upgrade()
        {
            reactor.records().ended_deferreds.add(deferred);
        }
    }

    fn group(&self) -> u32 {
        self.1
    }
}

/// The last Deferreds of an inspected loop that have ended; none of another loop.
#[derive(Default)]
pub(super) struct EndedDeferreds {
    most: Cell<usize>,
    last: RefCell<VecDeque<Ended>>,
}

impl EndedDeferreds {
    /// Keeps `most` Deferreds from now on.
    pub(super) fn keep(&self, most: usize) {
        self.most.set(most);
    }

    fn add(&self, deferred: Ended) {
        let mut last = self.last.borrow_mut();
        last.push_back(deferred);
        let surplus = if last.len() > self.most.get() { last.pop_front() } else { None };
        // The failure is a user's object, dropped while nothing is borrowed.
        drop(last);
        drop(surplus);
    }

    /// The Deferreds, oldest first, with the times of their ends.
    pub(super) fn list(&self) -> Vec<(Option<Instant>, Waiting)> {
        self.last.borrow().iter().map(|it| (it.at(), it.deferred())).collect()
    }
}

impl LoopOptions {
    /// Has the loops with these options inspected, which makes them keep the places of timed calls,
    /// tasks and jobs.
    pub(crate) fn inspected_by(mut self, inspector: Arc<dyn Inspector>) -> LoopOptions {
        self.inspector = Some(ByInspector(inspector));
        self
    }

    /// The URL of the inspector of loops with these options, with its token, or the endpoint of its
    /// UNIX socket. `None` without an inspector, and while no loop is inspected.
    pub fn inspector_url(&self) -> Option<String> {
        self.inspector.as_ref().and_then(|ByInspector(inspector)| inspector.url())
    }

    /// The last events of all loops with the inspector of these options, and their state: the bytes of
    /// a recording. `None` without an inspector. Waits for the inspector's thread, which asks the
    /// loops, so call it in a thread without a loop.
    ///
    /// # Errors
    ///
    /// When no loop is inspected.
    pub fn inspector_recording(&self) -> Option<io::Result<Vec<u8>>> {
        self.inspector.as_ref().map(|ByInspector(inspector)| inspector.recording())
    }
}

/// The inspector of a loop, among its options.
#[derive(Clone)]
pub(super) struct ByInspector(pub(super) Arc<dyn Inspector>);

impl fmt::Debug for ByInspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByInspector").finish_non_exhaustive()
    }
}
