//! Tasks of the loop: [`Reactor::spawn`].
//!
//! Contract: 125, 125b.

use std::future::Future;
use std::panic::Location;
use std::rc::Rc;

use super::monitor::monitor_task;
use super::records::{Records, pending};
use super::tasks::{Executor, FutureTask, ReaderOf, TaskCell, TaskId, TaskRef};
use crate::defer::{Deferred, Result};
use crate::internals::{FiredBy, fired_by};
use crate::recorder::{Reactor, Source, loop_ended};

impl Reactor {
    /// Runs a future as a task of this loop; the Deferred fires with its output. Cancelling the
    /// Deferred drops the future, in the turn. If the future panics, the Deferred fails with
    /// [`Panicked`](crate::defer::Panicked). If the run ends or the loop is dropped first, it fails
    /// with [`Cancelled`](crate::defer::Cancelled).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> couplet::Result<()> {
    /// let sum = couplet::run_until(|reactor| {
    ///     let inner = reactor.clone();
    ///     reactor.spawn(async move {
    ///         inner.sleep(Duration::from_millis(1)).await?;
    ///         Ok(20 + 22)
    ///     })
    /// })?;
    /// assert_eq!(sum, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<T: 'static>(
        &self,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Deferred<T> {
        self.spawn_task(None, Location::caller(), future)
    }

    /// [`spawn`](Self::spawn) with a name for the task, shown in reports about leaks and stalls.
    #[track_caller]
    pub fn spawn_named<T: 'static>(
        &self,
        name: impl Into<Box<str>>,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Deferred<T> {
        self.spawn_task(Some(name.into()), Location::caller(), future)
    }

    /// [`spawn`](Self::spawn) for a task that is shown with another place than the caller's.
    #[track_caller]
    pub(crate) fn spawn_at<T: 'static>(
        &self,
        place: Source,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Deferred<T> {
        self.spawn_task(None, place, future)
    }

    #[track_caller]
    fn spawn_task<T: 'static>(
        &self,
        name: Option<Box<str>>,
        place: Source,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Deferred<T> {
        let records = self.records();
        if records.is_dropped() {
            return Deferred::fail(loop_ended());
        }
        let (task, deferred) = new_task(self, name, place, future);
        records.tasks.borrow_mut().add(task);
        records.add_pending(pending::TASKS);
        deferred
    }

    /// Shows the task that reads a connection as waiting for it, where places are kept.
    pub(crate) fn note_reader<R: ReaderOf + 'static>(&self, of: &Rc<R>) {
        if let Some(places) = &mut *self.records().places.borrow_mut() {
            let of: Rc<dyn ReaderOf> = of.clone();
            places.add_reader(Rc::downgrade(&of));
        }
    }

    /// The loop's tasks, for the streams whose readers are tasks.
    pub(crate) fn executor(&self) -> Rc<Executor> {
        self.records().tasks.clone()
    }
}

impl Records {
    pub(super) fn note_task(&self, task: TaskId, place: Source) {
        if let Some(places) = &mut *self.places.borrow_mut() {
            let tasks = self.tasks.borrow();
            places.add_task(task, self.origin(place), |task| tasks.contains(task));
        }
    }
}

/// Creates a task and reserves its entry in the table.
#[track_caller]
pub(super) fn new_task<T: 'static>(
    reactor: &Reactor,
    name: Option<Box<str>>,
    place: Source,
    future: impl Future<Output = Result<T>> + 'static,
) -> (TaskRef, Deferred<T>) {
    let records = reactor.records();
    let monitored_name = records.monitor.get().and(name.clone());
    let (id, waker) = records.tasks.borrow_mut().reserve(name);
    records.note_task(id, place);
    let weak = reactor.downgrade();
    let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
        if let Some(reactor) = weak.upgrade() {
            let records = reactor.records();
            records.tasks.borrow_mut().cancel(id);
            records.add_pending(pending::TASKS);
        }
    });
    fired_by(&deferred, FiredBy { kind: "task", id: Some(id.number()) });
    let task = FutureTask::new(future, resolver);
    let task: TaskRef = match records.monitor.get() {
        None => Rc::new(TaskCell::new(id, waker, task)),
        Some(monitor) => {
            let task = monitor_task(monitor, monitored_name, place, task);
            Rc::new(TaskCell::new(id, waker, task))
        }
    };
    (task, deferred)
}
