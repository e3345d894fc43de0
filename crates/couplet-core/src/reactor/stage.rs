//! The stage of a run, stored only here. Handles ask [`Run`]; the turn advances the stage.
//!
//! ```text
//! Idle → Running → Before → Closing → Joining → Ending → Idle … → Dropped
//! ```
//!
//! A failed `setup`, an early end and an impatient signal lead from each stage straight to `Ending`;
//! a script that is done leads from `Running` back to `Idle`.
//!
//! Contract: 100, 103, 105, 105c.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::options::{Drain, LoopOptions};
use crate::defer::Deferred;
use crate::driver::Signal;
use crate::timers::after;

/// When a trigger of [`Reactor::on`](super::Reactor::on) is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// First, while everything still runs; turns continue, and the shutdown waits for the Deferred.
    Before,
    /// When the ports and connections are closed. The Deferred is not awaited.
    During,
    /// Last. The Deferred is not awaited.
    After,
}

/// The stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunStage {
    /// Not in a run; turns are still possible.
    Idle,
    Running,
    /// Waiting for the Deferreds of the `Before` triggers.
    Before,
    /// Connections flush until this deadline.
    Closing(Instant),
    /// Jobs in threads finish until this deadline; dependent programs exit, or are killed by their
    /// own timers.
    Joining(Instant),
    /// Everything that remains is closed and dropped.
    Ending,
    /// The loop was dropped: requests have no effect.
    Dropped,
}

impl RunStage {
    #[cfg(debug_assertions)]
    fn leads_to(self, next: RunStage) -> bool {
        match next {
            RunStage::Idle => matches!(self, RunStage::Running | RunStage::Ending),
            RunStage::Running => self == RunStage::Idle,
            RunStage::Before => self == RunStage::Running,
            RunStage::Closing(_) => self == RunStage::Before,
            RunStage::Joining(_) => matches!(self, RunStage::Closing(_)),
            RunStage::Ending | RunStage::Dropped => self != RunStage::Dropped,
        }
    }
}

/// How urgently signals ask the run to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Each stage takes its time.
    None,
    /// One of the `Before` triggers is a drain that SIGTERM began.
    Draining,
    /// The drain was ended: the run continues without the triggers that have not fired.
    SkipBefore,
    /// Nothing is waited for.
    Now,
}

pub(super) type Trigger = Box<dyn FnOnce() -> Deferred<()>>;

/// A trigger, and the source location of the request.
type Placed = (&'static Location<'static>, Trigger);

#[derive(Default)]
struct Triggers {
    before: Vec<Placed>,
    during: Vec<Placed>,
    after: Vec<Placed>,
}

impl Triggers {
    fn list_mut(&mut self, when: Shutdown) -> &mut Vec<Placed> {
        match when {
            Shutdown::Before => &mut self.before,
            Shutdown::During => &mut self.during,
            Shutdown::After => &mut self.after,
        }
    }
}

/// The run of a loop: its stage, the signal that stopped it, and the shutdown triggers.
pub(super) struct Run {
    stage: Cell<RunStage>,
    urgency: Cell<Urgency>,
    /// The signal that stopped this run, or the last one.
    stopped_by: Cell<Option<Signal>>,
    triggers: RefCell<Triggers>,
    /// The number of this run's `Before` triggers whose Deferred has not fired.
    unfired: RefCell<Rc<Cell<usize>>>,
    shutdown_grace: Duration,
    job_grace: Duration,
    /// The drain that precedes the end of a run by SIGTERM.
    drain: Option<Drain>,
}

impl Run {
    pub(super) fn new(options: &LoopOptions) -> Run {
        Run {
            stage: Cell::new(RunStage::Idle),
            urgency: Cell::new(Urgency::None),
            stopped_by: Cell::new(None),
            triggers: RefCell::default(),
            unfired: RefCell::default(),
            shutdown_grace: options.shutdown_grace,
            job_grace: options.tuning.job_grace,
            drain: options.drain,
        }
    }

    #[inline]
    pub(super) fn stage(&self) -> RunStage {
        self.stage.get()
    }

    /// True unless the run is ending, or the loop was dropped.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.stage(), RunStage::Idle | RunStage::Running)
    }

    /// True once ports and connections close.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.stage(), RunStage::Closing(_) | RunStage::Joining(_) | RunStage::Ending)
    }

    /// Whether the stage ends at a deadline.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        matches!(self.stage(), RunStage::Closing(_) | RunStage::Joining(_))
    }

    /// When the stage ends at the latest. Once the grace for jobs is over only programs remain,
    /// which have timers.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.stage() {
            RunStage::Closing(until) => Some(until),
            RunStage::Joining(until) if now < until => Some(until),
            _ => None,
        }
    }

    pub(super) fn stopped_by(&self) -> Option<Signal> {
        self.stopped_by.get()
    }

    /// Whether unfinished jobs get time to finish.
    pub(super) fn waits_for_jobs(&self) -> bool {
        !self.job_grace.is_zero()
    }

    /// Whether the run must end in this turn, in any stage.
    pub(super) fn must_end_now(&self) -> bool {
        self.urgency.get() == Urgency::Now
    }

    /// Whether the stage `Before` is over.
    pub(super) fn before_is_over(&self) -> bool {
        self.unfired.borrow().get() == 0 || self.urgency.get() == Urgency::SkipBefore
    }

    // The stages, in order.

    /// Begins a run, unless one is in progress.
    pub(super) fn begin(&self) {
        self.stopped_by.set(None);
        if self.stage() == RunStage::Idle {
            debug_assert_eq!(self.urgency.get(), Urgency::None, "the last run has ended");
            self.enter(RunStage::Running);
        }
    }

    /// Leaves the run without an end: ports and connections stay open.
    pub(super) fn suspend(&self) {
        if self.stage() == RunStage::Running {
            self.enter(RunStage::Idle);
        }
    }

    /// Begins the shutdown. Returns the count of the `Before` triggers, to be called with it.
    pub(super) fn begin_before(&self) -> Rc<Cell<usize>> {
        self.enter(RunStage::Before);
        let unfired: Rc<Cell<usize>> = Rc::default();
        self.unfired.replace(unfired.clone());
        unfired
    }

    pub(super) fn begin_closing(&self, now: Instant) {
        self.enter(RunStage::Closing(after(now, self.shutdown_grace)));
    }

    pub(super) fn begin_joining(&self, now: Instant) {
        self.enter(RunStage::Joining(after(now, self.job_grace)));
    }

    pub(super) fn begin_ending(&self) {
        self.enter(RunStage::Ending);
    }

    pub(super) fn end(&self) {
        self.urgency.set(Urgency::None);
        self.enter(RunStage::Idle);
    }

    pub(super) fn drop_loop(&self) {
        self.enter(RunStage::Dropped);
    }

    fn enter(&self, next: RunStage) {
        let before = self.stage.replace(next);
        #[cfg(debug_assertions)]
        assert!(before.leads_to(next), "a run went from {before:?} to {next:?}");
        #[cfg(not(debug_assertions))]
        let _ = before;
    }

    // Signals.

    /// Notes a signal that stops the run. Returns the drain for which the stop must wait, as another
    /// `Before` trigger.
    pub(super) fn stopped_by_signal(&self, signal: Signal) -> Option<Drain> {
        let is_second = self.stopped_by.replace(Some(signal)).is_some();
        let can_wait = matches!(self.stage(), RunStage::Running | RunStage::Before);
        let drain = self.drain.filter(|_| signal == Signal::Terminate && can_wait && !is_second);
        let urgency = match self.urgency.get() {
            Urgency::None if drain.is_some() => Urgency::Draining,
            // A second signal ends the drain, but still leaves the short flush.
            Urgency::Draining => Urgency::SkipBefore,
            _ if is_second && self.stage() != RunStage::Idle => Urgency::Now,
            same => same,
        };
        debug_assert!(urgency >= self.urgency.get(), "signals only hasten the end");
        self.urgency.set(urgency);
        drain
    }

    // Triggers.

    pub(super) fn add_trigger(
        &self,
        when: Shutdown,
        place: &'static Location<'static>,
        trigger: Trigger,
    ) {
        self.triggers.borrow_mut().list_mut(when).push((place, trigger));
    }

    /// Takes the triggers, to be called or dropped.
    pub(super) fn take_triggers(&self, when: Shutdown) -> Vec<Placed> {
        std::mem::take(self.triggers.borrow_mut().list_mut(when))
    }

    /// Counts one more `Before` trigger of this run.
    pub(super) fn unfired(&self) -> Rc<Cell<usize>> {
        self.unfired.borrow().clone()
    }
}
