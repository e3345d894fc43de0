//! Long work in short steps between the loop's other work: [`Cooperator`]. Twisted's class of the
//! same name, `coiterate` and `cooperate`.
//!
//! Contract: 133.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::LoopResult;
use crate::defer::{
    Cancelled, Canceller, Deferred, DeferredEvent, Failure, Panicked, Resolver, Result,
};
use crate::panics::{Contained, catch_panic};
use crate::recorder::{CallAtEnd, Reactor, Source, TimerPurpose, loop_ended};
use crate::sorted::SortedMap;

/// The default duration of a slice.
const SLICE: Duration = Duration::from_millis(10);

/// The default step limit of a slice.
const STEPS: usize = 1000;

/// Runs long computations in steps, one `next()` of an iterator each, in slices between the loop's
/// other work, so that a computation that never waits does not hold up the loop.
///
/// A slice takes steps of the tasks, round-robin, until 10 ms have passed (see
/// [`slice`](Self::slice)) or 1000 steps were taken (see [`steps`](Self::steps)); the next slice
/// runs in the next turn. A step is never interrupted. An item may be `()`, a `Result<()>`, or a
/// `Deferred<()>`: until the Deferred fires, the task is idle and costs nothing.
///
/// Cheap to clone; clones share the slices. Dropping it stops nothing.
///
/// ```
/// use couplet::task::Cooperator;
/// use std::{cell::Cell, rc::Rc};
///
/// let sum = Rc::new(Cell::new(0_u64));
/// let adding = sum.clone();
/// couplet::run_until(|reactor| {
///     let numbers = 1..=100_000_u64;
///     Cooperator::new(reactor).coiterate(numbers.map(move |n| adding.set(adding.get() + n)))
/// })?;
/// assert_eq!(sum.get(), 5_000_050_000);
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone)]
pub struct Cooperator {
    scheduler: Rc<Scheduler>,
}

/// A task of a [`Cooperator`]. Cheap to clone; dropping it stops nothing. Twisted's
/// `CooperativeTask`.
#[derive(Clone)]
pub struct CooperativeTask {
    task: Rc<IteratorTask>,
}

/// [`CooperativeTask::stop`] was called. Twisted's exception of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task was stopped")]
pub struct TaskStopped;

/// [`Cooperator::stop`] was called. Twisted's exception of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cooperator was stopped")]
pub struct SchedulerStopped;

struct Scheduler {
    reactor: Reactor,
    /// The location where it was created.
    place: Source,
    slice: Cell<Duration>,
    steps: Cell<usize>,
    /// The tasks with a step to take, each once (`Progress::Queued`).
    // Each task once: `Progress::Queued`.
    ready: RefCell<VecDeque<Rc<IteratorTask>>>,
    /// All unfinished tasks; `None` once the cooperator was stopped.
    tasks: RefCell<Option<SortedMap<u64, Weak<IteratorTask>>>>,
    next: Cell<u64>,
    /// Whether a slice is scheduled or in progress.
    scheduled: Cell<bool>,
    /// The call that fails the tasks when the run ends, while there are unfinished tasks.
    at_end: Cell<Option<CallAtEnd>>,
}

type Steps = Contained<Box<dyn Iterator<Item = Deferred<()>>>>;

struct IteratorTask {
    scheduler: Rc<Scheduler>,
    id: u64,
    /// `None` during a step, and once the task has ended.
    steps: RefCell<Option<Steps>>,
    /// The number of `pause` calls without a matching `resume`.
    paused: Cell<usize>,
    progress: RefCell<Progress>,
    outcome: Rc<OnceCell<Result<()>>>,
    /// For the first `when_done`. If it is never called, dropping this reports the failure.
    first: RefCell<Option<Deferred<()>>>,
    resolver: RefCell<Option<Resolver<()>>>,
    /// For the other calls of `when_done`.
    finished: DeferredEvent,
}

/// The next event of a task that has not ended.
#[derive(Default)]
enum Progress {
    /// A step is being taken, or the task is paused.
    #[default]
    Idle,
    /// In the cooperator's queue of tasks with a step to take.
    Queued,
    /// Waits for the Deferred that this cancels.
    Waiting(Canceller),
}

impl Cooperator {
    /// A cooperator without tasks.
    #[track_caller]
    pub fn new(reactor: &Reactor) -> Self {
        let scheduler = Scheduler {
            reactor: reactor.clone(),
            place: Location::caller(),
            slice: Cell::new(SLICE),
            steps: Cell::new(STEPS),
            ready: RefCell::default(),
            tasks: RefCell::new(Some(SortedMap::new())),
            next: Cell::new(0),
            scheduled: Cell::new(false),
            at_end: Cell::new(None),
        };
        Self { scheduler: Rc::new(scheduler) }
    }

    /// Sets the duration of a slice, which ends with the step that exceeds it. Default: 10 ms.
    #[must_use]
    pub fn slice(self, time: Duration) -> Self {
        self.scheduler.slice.set(time);
        self
    }

    /// Sets the maximum number of steps in a slice. Default: 1000; 0 counts as 1. If time passes
    /// only between turns, as in [`testing`](crate::testing) and in the simulator, only this limit
    /// ends a slice.
    #[must_use]
    pub fn steps(self, most: usize) -> Self {
        self.scheduler.steps.set(most);
        self
    }

    /// Runs `work` as a task, starting in the next turn, and returns a handle to it.
    ///
    /// The task ends when the iterator ends or an item fails, with [`Panicked`] after a panic, and
    /// with [`Cancelled`] when the run ends or the loop is dropped, even if the task is paused or
    /// waits for a Deferred.
    #[track_caller]
    pub fn cooperate<S: LoopResult + 'static>(
        &self,
        work: impl IntoIterator<Item = S, IntoIter: 'static>,
    ) -> CooperativeTask {
        let steps = work.into_iter().map(LoopResult::into_deferred);
        let scheduler = self.scheduler.clone();
        let id = scheduler.next.replace(scheduler.next.get() + 1);
        let (first, resolver) = Deferred::new();
        let task = Rc::new(IteratorTask {
            scheduler,
            id,
            steps: RefCell::new(Some(Contained::new(Box::new(steps)))),
            paused: Cell::new(0),
            progress: RefCell::default(),
            outcome: Rc::default(),
            first: RefCell::new(Some(first)),
            resolver: RefCell::new(Some(resolver)),
            finished: DeferredEvent::new(),
        });
        if self.scheduler.add(&task) {
            task.enqueue();
        } else {
            task.stop(SchedulerStopped);
        }
        CooperativeTask { task }
    }

    /// Runs `work` and fires when it has ended. Cancelling the Deferred, or dropping it while it is
    /// awaited, stops the work. Otherwise like [`cooperate`](Self::cooperate).
    #[track_caller]
    pub fn coiterate<S: LoopResult + 'static>(
        &self,
        work: impl IntoIterator<Item = S, IntoIter: 'static>,
    ) -> Deferred<()> {
        let task = self.cooperate(work);
        let stopping = task.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |resolver: Resolver<()>| {
            resolver.errback(Cancelled::new());
            stopping.stop();
        });
        let pass_on = move |result| {
            resolver.resolve(result);
            Ok(())
        };
        task.when_done().add_both(pass_on).detach();
        deferred
    }

    /// Stops all tasks, which fail with [`SchedulerStopped`]; later tasks fail immediately.
    pub fn stop(&self) {
        let unfinished = self.scheduler.unfinished_tasks();
        self.scheduler.tasks.replace(None);
        self.scheduler.cancel_call_at_end();
        for task in unfinished {
            task.stop(SchedulerStopped);
        }
    }
}

impl CooperativeTask {
    /// Pauses the task until [`resume`](Self::resume) is called once for each pause. Returns false,
    /// and does nothing, if the task has ended.
    pub fn pause(&self) -> bool {
        let active = self.is_active();
        if active {
            self.task.paused.set(self.task.paused.get() + 1);
        }
        active
    }

    /// Undoes one [`pause`](Self::pause). Returns false, and does nothing, if the task isn't paused
    /// or has ended.
    pub fn resume(&self) -> bool {
        let paused = self.task.paused.get();
        if paused == 0 || !self.is_active() {
            return false;
        }
        self.task.paused.set(paused - 1);
        self.task.enqueue();
        true
    }

    /// Ends the task: it takes no further step, the Deferred that it waits for is cancelled, its
    /// iterator is dropped, and waiters fail with [`TaskStopped`]. Returns false if the task has
    /// already ended.
    pub fn stop(&self) -> bool {
        let active = self.is_active();
        self.task.stop(TaskStopped);
        active
    }

    /// Fires when the task has ended: with its failure, if it failed. Cancelling ends only this
    /// wait. A failure without waiters is reported, unless the task was stopped.
    pub fn when_done(&self) -> Deferred<()> {
        let first = self.task.first.borrow_mut().take();
        if let Some(first) = first {
            return first;
        }
        let outcome = self.task.outcome.clone();
        let result = move |()| outcome.get().cloned().expect("it is set before the event");
        self.task.finished.wait().add_callback(result)
    }

    /// Whether the task has not ended; it may be paused or waiting.
    pub fn is_active(&self) -> bool {
        self.task.is_active()
    }
}

impl Scheduler {
    fn unfinished_tasks(&self) -> Vec<Rc<IteratorTask>> {
        self.tasks.borrow().iter().flat_map(SortedMap::values).filter_map(Weak::upgrade).collect()
    }

    /// Adds a task; returns false if the cooperator was stopped.
    fn add(self: &Rc<Self>, task: &Rc<IteratorTask>) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        let Some(tasks) = &mut *tasks else { return false };
        tasks.insert(task.id, Rc::downgrade(task));
        if self.at_end.get().is_none() {
            // The tasks may all be idle when the run ends: no slice is scheduled then.
            let scheduler = Rc::downgrade(self);
            self.at_end.set(Some(self.reactor.call_at_end(move || {
                if let Some(scheduler) = scheduler.upgrade() {
                    scheduler.at_end.set(None);
                    scheduler.fail_tasks(&loop_ended());
                }
            })));
        }
        true
    }

    fn remove(&self, id: u64) {
        let is_last = self.tasks.borrow_mut().as_mut().is_some_and(|tasks| {
            tasks.remove(&id);
            tasks.is_empty()
        });
        if is_last {
            self.cancel_call_at_end();
        }
    }

    fn cancel_call_at_end(&self) {
        if let Some(call) = self.at_end.take() {
            self.reactor.cancel_call_at_end(call);
        }
    }

    /// The loop has ended.
    fn fail_tasks(&self, ended: &Failure) {
        for task in self.unfinished_tasks() {
            task.finish(Err(ended.clone()));
        }
    }

    /// Schedules a slice for the next turn.
    fn schedule(self: &Rc<Self>) {
        if self.scheduled.replace(true) {
            return;
        }
        let scheduler = self.clone();
        let waiter = (TimerPurpose::Cooperator, self.place);
        let slice = self.reactor.sleep_for(waiter, Duration::ZERO).add_both(move |due| {
            match due {
                Ok(()) => scheduler.run_slice(),
                Err(ended) => {
                    scheduler.scheduled.set(false);
                    scheduler.fail_tasks(&ended);
                }
            }
            Ok(())
        });
        slice.detach();
    }

    fn run_slice(self: &Rc<Self>) {
        // The loop's clock doesn't advance during a turn.
        let began = self.reactor.fresh_time();
        for _ in 0..self.steps.get().max(1) {
            let Some(task) = self.pop() else { break };
            task.step();
            if self.reactor.fresh_time().saturating_duration_since(began) >= self.slice.get() {
                break;
            }
        }
        self.scheduled.set(false);
        if !self.ready.borrow().is_empty() {
            self.schedule();
        }
    }

    fn pop(&self) -> Option<Rc<IteratorTask>> {
        let task = self.ready.borrow_mut().pop_front()?;
        task.progress.take();
        Some(task)
    }
}

impl IteratorTask {
    /// Queues the next step, unless the task is paused, waits, is in a step or has ended.
    fn enqueue(self: &Rc<Self>) {
        let mut progress = self.progress.borrow_mut();
        if self.paused.get() == 0
            && matches!(*progress, Progress::Idle)
            && self.steps.borrow().is_some()
        {
            *progress = Progress::Queued;
            drop(progress);
            self.scheduler.ready.borrow_mut().push_back(self.clone());
            self.scheduler.schedule();
        }
    }

    fn step(self: &Rc<Self>) {
        if self.paused.get() > 0 {
            return;
        }
        let Some(mut steps) = self.steps.borrow_mut().take() else { return };
        let stepped = catch_panic(|| steps.next());
        if self.is_active() && matches!(stepped, Ok(Some(_))) {
            *self.steps.borrow_mut() = Some(steps);
        } else {
            drop(steps);
        }
        // The step may have stopped its own task.
        match (stepped, self.is_active()) {
            (Ok(Some(step)), true) => self.wait_for(step),
            (Ok(None), true) => self.finish(Ok(())),
            (Err(text), true) => self.finish(Err(Panicked(text).into())),
            (Ok(step), false) => step.iter().for_each(Deferred::cancel),
            (Err(text), false) => drop(Deferred::<()>::fail(Panicked(text))),
        }
    }

    fn is_active(&self) -> bool {
        self.outcome.get().is_none()
    }

    fn wait_for(self: &Rc<Self>, mut step: Deferred<()>) {
        if step.has_fired() {
            let polled = Pin::new(&mut step).poll(&mut Context::from_waker(Waker::noop()));
            return match polled {
                Poll::Ready(Err(failure)) => self.finish(Err(failure)),
                _ => self.enqueue(),
            };
        }
        let task = self.clone();
        let step = step.add_both(move |result| {
            drop(task.progress.take());
            if !task.is_active() {
                return result;
            }
            match result {
                Ok(()) => task.enqueue(),
                failed => task.finish(failed),
            }
            Ok(())
        });
        *self.progress.borrow_mut() = Progress::Waiting(step.canceller());
        step.detach();
    }

    /// Cancels the Deferred that the task waits for.
    fn cancel_wait(&self) {
        if let Progress::Waiting(awaited) = self.progress.take() {
            awaited.cancel();
        }
    }

    fn stop(&self, why: impl Into<Failure>) {
        if self.is_active() {
            self.suppress_report();
            self.finish(Err(why.into()));
        }
    }

    /// Suppresses the report: a stop or a dropped task is intended, so only waiters are notified.
    fn suppress_report(&self) {
        let first = self.first.borrow_mut().take();
        if let Some(first) = first {
            first.add_errback(|_| Ok(())).detach();
        }
    }

    fn finish(&self, result: Result<()>) {
        if self.outcome.set(result.clone()).is_err() {
            return;
        }
        self.scheduler.remove(self.id);
        self.cancel_wait();
        let steps = self.steps.borrow_mut().take();
        drop(steps);
        let resolver = self.resolver.borrow_mut().take();
        if let Some(resolver) = resolver {
            resolver.resolve(result);
        }
        self.finished.set();
    }
}

impl Drop for IteratorTask {
    fn drop(&mut self) {
        self.scheduler.remove(self.id);
        if self.is_active() {
            self.suppress_report();
        }
    }
}

impl fmt::Debug for Cooperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cooperator")
            .field("ready", &self.scheduler.ready.borrow().len())
            .field("tasks", &self.scheduler.tasks.borrow().as_ref().map_or(0, SortedMap::len))
            .field("stopped", &self.scheduler.tasks.borrow().is_none())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CooperativeTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CooperativeTask")
            .field("active", &self.is_active())
            .field("paused", &self.task.paused.get())
            .finish_non_exhaustive()
    }
}
