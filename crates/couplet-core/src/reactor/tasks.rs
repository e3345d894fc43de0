//! Futures as tasks of the loop: an executor without `unsafe`, over [`std::task::Wake`].
//!
//! The futures, and the resolvers of their Deferreds, stay in the loop's table. A waker holds only
//! a task id and a queue, so it is harmless in another thread, or after the loop is dropped. A task
//! that wakes itself runs again in the next turn, after I/O.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;

use super::inbox::Inbox;
use super::remote::RemoteCall;
use super::stalls::monitor_task;
use super::turn::Core;
use super::{Reactor, pending};
use crate::defer::{Cancelled, Deferred, Panicked, Resolver, Result};
use crate::panics::{Contained, panic_text};
use crate::slots::{Key, Slots};

/// Identifies a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId(Key);

/// The tasks of a loop.
pub(super) struct Tasks {
    // Unbounded: one for each of the user's running tasks.
    entries: Slots<TaskEntry>,
    /// The number of turns in which tasks ran.
    turn: u64,
    queue: Arc<WakeQueue>,
    /// Tasks to run in the next turn: spawned in this one, or woken after their poll in it.
    // Unbounded: one per `spawn` call since the last turn.
    fresh: Vec<TaskId>,
    /// Tasks to run in this turn: spawned before it began, then woken.
    // Bound: each task once (`TaskWaker::queued`).
    ready: Vec<TaskId>,
    // Bound: one for each task cancelled since the last turn.
    cancelled: Vec<TaskId>,
}

struct TaskEntry {
    waker: Arc<TaskWaker>,
    /// The turn of its last poll.
    polled_in: u64,
    name: Option<Box<str>>,
    task: Option<TaskRef>,
}

/// A task in the table; callers that poll it often may keep the reference. A finished task holds no
/// user objects.
pub(crate) type TaskRef = Rc<TaskCell<dyn Task>>;

pub(crate) struct TaskCell<T: ?Sized> {
    id: TaskId,
    /// Passed to each poll.
    waker: Waker,
    /// Dropped in step 5.
    is_cancelled: Cell<bool>,
    task: T,
}

impl<T: ?Sized> TaskCell<T> {
    #[inline]
    pub(crate) fn id(&self) -> TaskId {
        self.id
    }
}

/// The queue of woken tasks and calls from any thread, and the waker of the loop.
pub(super) struct WakeQueue {
    pub(super) inbox: Inbox<TaskId, RemoteCall>,
    driver: Waker,
    thread: ThreadId,
    /// The loop is in a turn: it checks the queue before it sleeps, so its own thread need not wake
    /// it. Only that thread writes the flag.
    in_turn: AtomicBool,
}

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    queue: Arc<WakeQueue>,
}

impl WakeQueue {
    pub(super) fn is_own_thread(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// Makes the loop check the queue; called after the first item was put in.
    pub(super) fn wake_loop(&self) {
        if !(self.is_in_turn() && self.is_own_thread()) {
            self.wake_driver();
        }
    }

    pub(super) fn wake_driver(&self) {
        self.driver.wake_by_ref();
    }

    /// Whether a turn is in progress. Called only by the loop's thread.
    #[inline]
    pub(super) fn is_in_turn(&self) -> bool {
        self.in_turn.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn begin_turn(&self) {
        self.in_turn.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn end_turn(&self) {
        self.in_turn.store(false, Ordering::Relaxed);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.queue.inbox.wake(self.id) {
            self.queue.wake_loop();
        }
    }
}

/// A future and the resolver of its Deferred.
pub(crate) trait Task {
    /// Polls once. Pending during a nested poll, and once the task has finished.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()>;
    /// Called on a finished task that has left the table: drops the future, then resolves the
    /// Deferred.
    fn finish(&self);
    /// Drops the future and fails the Deferred.
    fn cancel(&self);
}

struct FutureTask<F, T> {
    /// Taken out during a poll.
    future: Cell<Contained<Pin<Box<F>>>>,
    result: Cell<Option<Result<T>>>,
    resolver: Cell<Option<Resolver<T>>>,
}

impl<T: 'static, F: Future<Output = Result<T>> + 'static> Task for FutureTask<F, T> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut taken = self.future.replace(Contained::empty());
        let Some(future) = taken.get_mut() else { return Poll::Pending };
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        // The replaced value is empty: dropping it would cost more than putting the future back.
        std::mem::forget(self.future.replace(taken));
        self.result.set(Some(match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result,
            Err(payload) => Err(Panicked(panic_text(payload)).into()),
        }));
        Poll::Ready(())
    }

    fn finish(&self) {
        drop(self.future.replace(Contained::empty()));
        let result = self.result.take().unwrap_or_else(|| Err(Cancelled::of("a task").into()));
        if let Some(resolver) = self.resolver.take() {
            resolver.resolve(result);
        }
    }

    fn cancel(&self) {
        drop(self.result.take());
        self.finish();
    }
}

/// Creates a task and reserves its entry in the table.
#[track_caller]
pub(super) fn new_task<T: 'static>(
    reactor: &Reactor,
    name: Option<Box<str>>,
    future: impl Future<Output = Result<T>> + 'static,
) -> (TaskRef, Deferred<T>) {
    let place = Location::caller();
    let monitored_name = reactor.records.stalls.get().and(name.clone());
    let (id, waker) = reactor.records.tasks.borrow_mut().reserve(name);
    reactor.records.note_task(id, place);
    let weak = Rc::downgrade(&reactor.records);
    let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
        if let Some(records) = weak.upgrade() {
            records.tasks.borrow_mut().cancel(id);
            records.add_pending(pending::TASKS);
        }
    });
    let future = Cell::new(Contained::new(Box::pin(future)));
    let resolver = Cell::new(Some(resolver));
    let task = FutureTask { future, result: Cell::new(None), resolver };
    let is_cancelled = Cell::new(false);
    let task: TaskRef = match reactor.records.stalls.get() {
        None => Rc::new(TaskCell { id, waker, is_cancelled, task }),
        Some(stalls) => {
            let task = monitor_task(stalls, monitored_name, place, task);
            Rc::new(TaskCell { id, waker, is_cancelled, task })
        }
    };
    (task, deferred)
}

impl Tasks {
    pub(super) fn new(driver: Waker) -> Tasks {
        let queue = Arc::new(WakeQueue {
            inbox: Inbox::new(),
            driver,
            thread: std::thread::current().id(),
            in_turn: AtomicBool::new(false),
        });
        Tasks {
            entries: Slots::new(),
            turn: 0,
            queue,
            fresh: Vec::new(),
            ready: Vec::new(),
            cancelled: Vec::new(),
        }
    }

    fn reserve(&mut self, name: Option<Box<str>>) -> (TaskId, Waker) {
        let id = TaskId(self.entries.next_key());
        let queue = self.queue.clone();
        let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(true), queue });
        self.fresh.push(id);
        self.entries.insert(TaskEntry { waker: waker.clone(), polled_in: 0, name, task: None });
        (id, waker.into())
    }

    pub(super) fn add(&mut self, task: TaskRef) {
        if let Some(entry) = self.entry(task.id) {
            entry.task = Some(task);
        }
    }

    fn entry(&mut self, id: TaskId) -> Option<&mut TaskEntry> {
        self.entries.get_mut(id.0)
    }

    fn cancel(&mut self, id: TaskId) {
        if let Some(task) = self.entry(id).and_then(|entry| entry.task.as_ref()) {
            task.is_cancelled.set(true);
            self.cancelled.push(id);
        }
    }

    pub(super) fn contains(&self, id: TaskId) -> bool {
        self.entries.get(id.0).is_some()
    }

    pub(super) fn name(&self, id: TaskId) -> Option<&str> {
        self.entries.get(id.0)?.name.as_deref()
    }

    fn remove(&mut self, id: TaskId) -> Option<TaskRef> {
        self.entries.remove(id.0)?.task
    }

    /// Begins a turn: tasks spawned before it may run in it.
    pub(super) fn begin_turn(&mut self) {
        self.ready.append(&mut self.fresh);
    }

    /// The queue that wakers add their tasks to.
    pub(super) fn queue(&self) -> Arc<WakeQueue> {
        self.queue.clone()
    }

    /// Keeps the list's capacity for the next turn.
    fn recycle(&mut self, mut list: Vec<TaskId>) {
        if self.ready.is_empty() {
            list.clear();
            self.ready = list;
        }
    }

    fn has_pending(&self) -> bool {
        !self.fresh.is_empty() || !self.cancelled.is_empty()
    }

    /// The task to poll. If this turn has already polled it, returns `None` and leaves it to the
    /// next turn.
    fn task_to_poll(&mut self, id: TaskId) -> Option<TaskRef> {
        let turn = self.turn;
        let entry = self.entry(id)?;
        if std::mem::replace(&mut entry.polled_in, turn) == turn {
            self.fresh.push(id);
            return None;
        }
        entry.waker.queued.store(false, Ordering::Release);
        entry.task.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn take_cancelled(&mut self) -> Vec<TaskId> {
        std::mem::take(&mut self.cancelled)
    }

    fn take_ready(&mut self) -> Vec<TaskId> {
        let mut ready = std::mem::take(&mut self.ready);
        if self.queue.inbox.has_items() {
            self.queue.inbox.take_woken(&mut ready);
        }
        ready
    }
}

impl Reactor {
    /// The task being polled with this waker, if it belongs to this loop.
    #[inline]
    pub(crate) fn polled_task(&self, waker: &Waker) -> Option<TaskId> {
        let (id, polled_with) = self.records.polled.get()?;
        std::ptr::eq(polled_with, waker.data()).then_some(id)
    }

    /// Wakes a task, to be polled in step 5.
    pub(crate) fn wake_task(&self, id: TaskId) {
        let waker = self.records.tasks.borrow_mut().entry(id).map(|entry| entry.waker.clone());
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// An unfinished task.
    pub(crate) fn task(&self, id: TaskId) -> Option<TaskRef> {
        self.records.tasks.borrow_mut().entry(id)?.task.clone()
    }

    /// Polls a task from inside a callback of the loop, instead of in step 5: the event that it
    /// awaits has just occurred, and its reply is sent together with the callback's own.
    #[inline]
    pub(crate) fn poll_here(&self, task: &TaskRef) {
        if !task.is_cancelled.get() {
            self.poll_task(task);
        }
    }

    #[inline(always)]
    fn poll_task(&self, task: &TaskRef) {
        let before = self.records.polled.replace(Some((task.id, task.waker.data())));
        let polled = task.task.poll(&mut Context::from_waker(&task.waker));
        self.records.polled.set(before);
        if polled.is_ready() {
            self.records.tasks.borrow_mut().remove(task.id);
            task.task.finish();
        }
    }
}

impl Core {
    /// Step 5: polls the woken tasks, including tasks woken by these polls, each once.
    pub(super) fn run_tasks(&mut self) {
        if !self.reactor.records.take_pending(pending::TASKS)
            && !self.reactor.records.queue.inbox.has_items()
        {
            return;
        }
        self.reactor.records.tasks.borrow_mut().turn += 1;
        self.drop_cancelled_tasks();
        loop {
            let mut ready = self.reactor.records.tasks.borrow_mut().take_ready();
            if ready.is_empty() {
                break;
            }
            if let Some(pick) = &mut self.order {
                for left in (2..=ready.len()).rev() {
                    ready.swap(left - 1, pick(left));
                }
            }
            for id in ready.drain(..) {
                self.run_task(id);
            }
            self.reactor.records.tasks.borrow_mut().recycle(ready);
            self.drop_cancelled_tasks();
        }
        if self.reactor.records.tasks.borrow().has_pending() {
            self.reactor.records.add_pending(pending::TASKS);
        }
    }

    fn run_task(&mut self, id: TaskId) {
        let task = self.reactor.records.tasks.borrow_mut().task_to_poll(id);
        if let Some(task) = task {
            self.reactor.poll_task(&task);
        }
    }

    pub(super) fn drop_cancelled_tasks(&mut self) {
        let tasks = &self.reactor.records.tasks;
        let cancelled = tasks.borrow_mut().take_cancelled();
        for id in cancelled {
            let task = tasks.borrow_mut().remove(id);
            if let Some(task) = task {
                task.task.cancel();
            }
        }
    }

    /// Ends a run: cancels the present tasks, but not tasks that they spawn meanwhile.
    pub(super) fn drop_all_tasks(&mut self) {
        let tasks = &self.reactor.records.tasks;
        let ids = tasks.borrow().entries.keys();
        for id in ids {
            // One at a time: a drop may cancel or spawn other tasks.
            let task = tasks.borrow_mut().remove(TaskId(id));
            if let Some(task) = task {
                task.task.cancel();
            }
        }
        let mut tasks = tasks.borrow_mut();
        if tasks.entries.is_empty() {
            tasks.fresh.clear();
            tasks.cancelled.clear();
            tasks.take_ready();
        }
    }
}
