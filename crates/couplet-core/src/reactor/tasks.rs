//! Futures as tasks of the loop: an executor without `unsafe`, over [`std::task::Wake`].
//!
//! The futures, and the resolvers of their Deferreds, stay in the loop's table. A waker holds only
//! a task id and a queue, so it is harmless in another thread, or after the loop is dropped. A task
//! that wakes itself runs again in the next turn, after I/O.
//!
//! Contract: 125a.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;

use super::inbox::Inbox;
use crate::defer::{Cancelled, Panicked, Resolver, Result};
use crate::driver::Signal;
use crate::panics::{Contained, panic_text};
use crate::recorder::{Reactor, Source};
use crate::slots::{Key, Slots};
use crate::transport::{ConnectionId, Tell};
use crate::why::Why;

/// Identifies a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId(Key);

impl TaskId {
    pub(super) fn number(self) -> u64 {
        self.0.number()
    }
}

/// The tasks of a loop.
pub(super) struct Tasks {
    entries: Slots<TaskEntry>,
    /// The number of turns in which tasks ran.
    turn: u64,
    queue: Arc<WakeQueue>,
    /// Tasks to run in the next turn: spawned in this one, or woken after their poll in it.
    fresh: Vec<TaskId>,
    /// Tasks to run in this turn: spawned before it began, then woken.
    // Each task once: `TaskWaker::queued`.
    ready: Vec<TaskId>,
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
pub(crate) type TaskRef = Rc<TaskCell>;

pub(crate) struct TaskCell {
    id: TaskId,
    /// Passed to each poll.
    waker: Waker,
    /// Dropped in step 5.
    is_cancelled: Cell<bool>,
    /// Boxed separately: the offset of an unsized field costs each poll ten instructions.
    pub(super) task: Box<dyn Task>,
}

impl TaskCell {
    pub(super) fn new(id: TaskId, waker: Waker, task: impl Task + 'static) -> TaskCell {
        TaskCell { id, waker, is_cancelled: Cell::new(false), task: Box::new(task) }
    }

    #[inline]
    pub(crate) fn id(&self) -> TaskId {
        self.id
    }

    #[inline]
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    #[inline]
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.get()
    }
}

/// A call from another thread.
pub(super) enum RemoteCall {
    Run(Source, Box<dyn FnOnce(&Reactor) + Send>),
    Tell(Source, ConnectionId, Box<dyn Tell + Send>),
    /// A signal that another loop of the process received.
    Signal(Signal),
}

/// The queue of woken tasks and calls from any thread, and the waker of the loop.
pub(super) struct WakeQueue {
    pub(super) inbox: Inbox<TaskId, RemoteCall>,
    driver: Waker,
    thread: ThreadId,
    /// The loop is in a turn: it checks the queue before it sleeps, so its own thread need not wake
    /// it. Only that thread writes the flag.
    in_turn: AtomicBool,
    /// Between turns, something may sleep without checking the queue: another loop, which has the
    /// descriptor, a function around the wait, or the caller of the turns of a loop over another
    /// driver. Only the loop's thread writes the flag.
    may_sleep: AtomicBool,
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
        if self.must_be_woken() || !self.is_own_thread() {
            self.wake_driver();
        }
    }

    /// Whether the loop's own thread must wake it after recording work.
    #[inline]
    pub(super) fn must_be_woken(&self) -> bool {
        !self.is_in_turn() && self.may_sleep.load(Ordering::Relaxed)
    }

    /// Sets whether something may sleep between turns without checking for work; returns the
    /// previous value.
    pub(super) fn set_may_sleep(&self, is: bool) -> bool {
        self.may_sleep.swap(is, Ordering::Relaxed)
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

/// A connection whose bytes a task reads.
pub(crate) trait ReaderOf {
    /// The task that waits for its bytes.
    fn reading_task(&self) -> Option<(TaskId, ConnectionId)>;
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

pub(super) struct FutureTask<F, T> {
    /// Taken out during a poll.
    future: Cell<Contained<Pin<Box<F>>>>,
    result: Cell<Option<Result<T>>>,
    resolver: Cell<Option<Resolver<T>>>,
}

impl<F, T> FutureTask<F, T> {
    pub(super) fn new(future: F, resolver: Resolver<T>) -> FutureTask<F, T> {
        let future = Cell::new(Contained::new(Box::pin(future)));
        FutureTask { future, result: Cell::new(None), resolver: Cell::new(Some(resolver)) }
    }
}

impl<T: 'static, F: Future<Output = Result<T>> + 'static> Task for FutureTask<F, T> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut taken = self.future.replace(Contained::empty());
        let Some(future) = taken.get_mut() else { return Poll::Pending };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(cx).map(|result| self.result.set(Some(result)))
        }));
        // The replaced value is empty: dropping it would cost more than putting the future back.
        std::mem::forget(self.future.replace(taken));
        polled.unwrap_or_else(|payload| {
            self.result.set(Some(Err(Panicked(panic_text(payload)).into())));
            Poll::Ready(())
        })
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

/// The loop's tasks, and the one that is being polled.
pub(crate) struct Executor {
    tasks: RefCell<Tasks>,
    /// The task being polled.
    polled: Cell<Option<TaskId>>,
}

impl Executor {
    pub(super) fn new(tasks: Tasks) -> Rc<Executor> {
        Rc::new(Executor { tasks: RefCell::new(tasks), polled: Cell::new(None) })
    }

    pub(super) fn borrow(&self) -> Ref<'_, Tasks> {
        self.tasks.borrow()
    }

    pub(super) fn borrow_mut(&self) -> RefMut<'_, Tasks> {
        self.tasks.borrow_mut()
    }

    /// The task being polled with this waker, if it belongs to this loop.
    pub(crate) fn polled_task(&self, waker: &Waker) -> Option<TaskId> {
        let id = self.polled.get()?;
        let is_its_own = self.tasks.borrow().is_waker_of(id, waker);
        is_its_own.then_some(id)
    }

    /// The number of the task being polled.
    pub(super) fn polled(&self) -> Option<u64> {
        self.polled.get().map(TaskId::number)
    }

    /// Wakes a task, to be polled in step 5.
    pub(crate) fn wake_task(&self, id: TaskId) {
        let waker = self.tasks.borrow().waker(id);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// An unfinished task.
    pub(crate) fn task(&self, id: TaskId) -> Option<TaskRef> {
        self.tasks.borrow().get(id)
    }

    /// Polls a task from inside a callback of the loop, instead of in step 5: the event that it
    /// awaits has just occurred, and its reply is sent together with the callback's own.
    #[inline]
    pub(crate) fn poll_here(&self, task: &TaskRef) {
        if !task.is_cancelled() {
            self.poll(task);
        }
    }

    #[inline(always)]
    pub(super) fn poll(&self, task: &TaskRef) {
        let before = self.polled.replace(Some(task.id()));
        let polled = task.task.poll(&mut Context::from_waker(task.waker()));
        self.polled.set(before);
        if polled.is_ready() {
            self.tasks.borrow_mut().remove(task.id());
            task.task.finish();
        }
    }
}

impl Tasks {
    pub(super) fn new(driver: Waker) -> Tasks {
        let queue = Arc::new(WakeQueue {
            inbox: Inbox::new(),
            driver,
            thread: std::thread::current().id(),
            in_turn: AtomicBool::new(false),
            may_sleep: AtomicBool::new(false),
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

    pub(super) fn reserve(&mut self, name: Option<Box<str>>) -> (TaskId, Waker) {
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

    pub(super) fn waker(&self, id: TaskId) -> Option<Waker> {
        Some(self.entries.get(id.0)?.waker.clone().into())
    }

    /// Whether this wakes the task.
    fn is_waker_of(&self, id: TaskId, waker: &Waker) -> bool {
        let entry = self.entries.get(id.0);
        entry.is_some_and(|entry| std::ptr::eq(Arc::as_ptr(&entry.waker).cast(), waker.data()))
    }

    /// An unfinished task.
    pub(super) fn get(&self, id: TaskId) -> Option<TaskRef> {
        self.entries.get(id.0)?.task.clone()
    }

    fn entry(&mut self, id: TaskId) -> Option<&mut TaskEntry> {
        self.entries.get_mut(id.0)
    }

    pub(super) fn cancel(&mut self, id: TaskId) {
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

    /// The event that a task waits for, in words.
    pub(super) fn why(&self, id: TaskId) -> Why {
        let mut why = Why::default();
        let queued = |entry: &TaskEntry| entry.waker.queued.load(Ordering::Relaxed);
        why.text(match self.entries.get(id.0).is_some_and(queued) {
            true => "woken, and is polled next",
            false => "waits to be woken",
        });
        why
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<TaskRef> {
        self.entries.remove(id.0)?.task
    }

    /// Begins step 5 of a turn, in which each task is polled once.
    pub(super) fn begin_polls(&mut self) {
        self.turn += 1;
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = TaskId> + use<> {
        self.entries.keys().into_iter().map(TaskId)
    }

    /// Forgets wake-ups and cancellations once no task is left.
    pub(super) fn forget_if_empty(&mut self) {
        if self.entries.is_empty() {
            self.fresh.clear();
            self.cancelled.clear();
            self.take_ready();
        }
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
    pub(super) fn recycle(&mut self, mut list: Vec<TaskId>) {
        if self.ready.is_empty() {
            list.clear();
            self.ready = list;
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.fresh.is_empty() || !self.cancelled.is_empty()
    }

    /// The task to poll. If this turn has already polled it, returns `None` and leaves it to the
    /// next turn.
    pub(super) fn task_to_poll(&mut self, id: TaskId) -> Option<TaskRef> {
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

    pub(super) fn take_cancelled(&mut self) -> Vec<TaskId> {
        std::mem::take(&mut self.cancelled)
    }

    pub(super) fn take_ready(&mut self) -> Vec<TaskId> {
        let mut ready = std::mem::take(&mut self.ready);
        if self.queue.inbox.has_items() {
            self.queue.inbox.take_woken(&mut ready);
        }
        ready
    }
}
