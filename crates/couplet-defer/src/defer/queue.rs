//! [`DeferredQueue`]: hands items from producers to consumers. Twisted's class of the same name.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use super::waiters::Waiters;
use super::{Deferred, Failure};

/// A queue of items, or of `get`s waiting for one. FIFO on both sides.
///
/// Clones share the queue. When the last handle is dropped, pending `get`s fail with
/// [`ResolverDropped`](super::ResolverDropped).
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::defer::{DeferredQueue, QueueOverflow};
/// use couplet::testing::success_of;
///
/// let queue = DeferredQueue::new().size(1);
/// let first = queue.get();
/// queue.put("one")?; // goes to the pending `get`
/// queue.put("two")?; // is queued
/// assert_eq!(queue.put("three"), Err(QueueOverflow("three")));
/// assert_eq!(success_of(first), "one");
/// assert_eq!(success_of(queue.get()), "two");
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct DeferredQueue<T> {
    queue: Rc<Queue<T>>,
}

/// INVARIANT: `items` or `waiters` is empty, or both.
struct Queue<T> {
    size: Cell<usize>,
    backlog: Cell<usize>,
    // Bound: `DeferredQueue::size`, unlimited by default.
    items: RefCell<VecDeque<T>>,
    waiters: Waiters<T>,
}

/// [`DeferredQueue::put`] on a full queue; contains the item. Twisted's exception of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct QueueOverflow<T>(
    /// The item that was not queued.
    pub T,
);

/// [`DeferredQueue::get`] on an empty queue with a full backlog of waiters. Twisted's exception of
/// the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueUnderflow;

impl<T: 'static> DeferredQueue<T> {
    /// An empty queue without bounds.
    pub fn new() -> Self {
        let queue = Queue {
            size: Cell::new(usize::MAX),
            backlog: Cell::new(usize::MAX),
            items: RefCell::default(),
            waiters: Waiters::default(),
        };
        Self { queue: Rc::new(queue) }
    }

    /// Limits the queued items. With 0, `put` succeeds only if a `get` is pending.
    #[must_use]
    pub fn size(self, items: usize) -> Self {
        self.queue.size.set(items);
        self
    }

    /// Limits the pending `get`s. With 0, `get` succeeds only if an item is queued.
    #[must_use]
    pub fn backlog(self, getters: usize) -> Self {
        self.queue.backlog.set(getters);
        self
    }

    /// Fires the first pending `get` with the item, running its callbacks before this returns;
    /// without a pending `get`, queues the item.
    ///
    /// # Errors
    ///
    /// [`QueueOverflow`] with the item, if no `get` is pending and the queue is full.
    pub fn put(&self, item: T) -> Result<(), QueueOverflow<T>> {
        if let Some(resolver) = self.queue.waiters.pop() {
            resolver.callback(item);
            return Ok(());
        }
        let mut items = self.queue.items.borrow_mut();
        if items.len() >= self.queue.size.get() {
            return Err(QueueOverflow(item));
        }
        items.push_back(item);
        Ok(())
    }

    /// Fires with the first item: immediately if the queue has one, otherwise when an item is put.
    /// Fails immediately with [`QueueUnderflow`] if the queue is empty and the backlog is full.
    ///
    /// Cancelling leaves the queue and loses no item. Dropping the Deferred without cancelling it
    /// takes an item and discards it.
    #[track_caller]
    pub fn get(&self) -> Deferred<T> {
        let created_at = Location::caller();
        if let Some(item) = self.try_get() {
            return Deferred::fired(Ok(item), created_at);
        }
        if self.waiting() >= self.queue.backlog.get() {
            return Deferred::fired(Err(Failure::at(QueueUnderflow, created_at)), created_at);
        }
        self.queue.waiters.wait(created_at)
    }

    /// Takes the first item, if the queue has one.
    pub fn try_get(&self) -> Option<T> {
        self.queue.items.borrow_mut().pop_front()
    }
}

impl<T> DeferredQueue<T> {
    /// The number of queued items.
    pub fn len(&self) -> usize {
        self.queue.items.borrow().len()
    }

    /// Whether no item is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of pending `get`s.
    pub fn waiting(&self) -> usize {
        self.queue.waiters.len()
    }
}

impl<T: 'static> Default for DeferredQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for DeferredQueue<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<T> fmt::Debug for DeferredQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredQueue")
            .field("len", &self.len())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for QueueOverflow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QueueOverflow").finish_non_exhaustive()
    }
}

impl<T> fmt::Display for QueueOverflow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is full and no get is pending")
    }
}

impl<T> Error for QueueOverflow<T> {}

impl fmt::Display for QueueUnderflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is empty and the backlog of pending gets is full")
    }
}

impl Error for QueueUnderflow {}
