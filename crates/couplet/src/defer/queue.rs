//! [`DeferredQueue`]: from those who have something to those who wait for it. Twisted's class of
//! the same name.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use super::{Deferred, Failure, Resolver};

/// A queue of items, or of those who wait for one. First come, first served, on both sides.
///
/// Clones are the same queue. When its last handle is dropped, whoever still waits fails with
/// [`ResolverDropped`](super::ResolverDropped).
///
/// ```
/// use couplet::defer::{DeferredQueue, QueueOverflow};
/// use couplet::testing::success_of;
///
/// let queue = DeferredQueue::new().size(1);
/// let first = queue.get();
/// queue.put("one")?; // goes to the first who asked
/// queue.put("two")?; // waits for somebody
/// assert_eq!(queue.put("three"), Err(QueueOverflow("three")));
/// assert_eq!(success_of(first), "one");
/// assert_eq!(success_of(queue.get()), "two");
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct DeferredQueue<T> {
    shelf: Rc<Shelf<T>>,
}

/// INVARIANT: items lie here, or somebody waits, or neither.
struct Shelf<T> {
    size: Cell<usize>,
    backlog: Cell<usize>,
    /// Law 9: bounded by `size`, which its user may leave open.
    items: RefCell<VecDeque<T>>,
    /// In the order of asking. Law 9: bounded by `backlog`, which its user may leave open.
    waiting: RefCell<BTreeMap<u64, Resolver<T>>>,
    next: Cell<u64>,
}

/// [`DeferredQueue::put`] into a queue that holds as many items as it may: here is the item back.
/// Twisted's exception of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct QueueOverflow<T>(
    /// What was to be put.
    pub T,
);

/// [`DeferredQueue::get`] from an empty queue for which as many wait as may. Twisted's exception
/// of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueUnderflow;

impl<T: 'static> DeferredQueue<T> {
    /// An empty queue without bounds.
    pub fn new() -> Self {
        let shelf = Shelf {
            size: Cell::new(usize::MAX),
            backlog: Cell::new(usize::MAX),
            items: RefCell::default(),
            waiting: RefCell::default(),
            next: Cell::new(0),
        };
        Self { shelf: Rc::new(shelf) }
    }

    /// Holds at most so many items. With 0 an item must find somebody who waits.
    #[must_use]
    pub fn size(self, items: usize) -> Self {
        self.shelf.size.set(items);
        self
    }

    /// Lets at most so many wait. With 0 whoever asks must find an item.
    #[must_use]
    pub fn backlog(self, getters: usize) -> Self {
        self.shelf.backlog.set(getters);
        self
    }

    /// Gives the item to the first who waits, whose callbacks run before this returns, or keeps
    /// it.
    ///
    /// # Errors
    ///
    /// [`QueueOverflow`] with the item, when nobody waits and the queue is full.
    pub fn put(&self, item: T) -> Result<(), QueueOverflow<T>> {
        // Out of the cell before user code runs.
        let first = self.shelf.waiting.borrow_mut().pop_first();
        if let Some((_, resolver)) = first {
            resolver.callback(item);
            return Ok(());
        }
        let mut items = self.shelf.items.borrow_mut();
        if items.len() >= self.shelf.size.get() {
            return Err(QueueOverflow(item));
        }
        items.push_back(item);
        Ok(())
    }

    /// Gives the first item: at once if there is one, else when it is put. Fails at once with
    /// [`QueueUnderflow`] when there is none and too many wait for one.
    ///
    /// Cancelling leaves the line, and no item is lost by that. To let the Deferred go without a
    /// cancel is to take an item and throw it away.
    #[track_caller]
    pub fn get(&self) -> Deferred<T> {
        let place = Location::caller();
        if let Some(item) = self.try_get() {
            return Deferred::fired(Ok(item), place);
        }
        if self.waiting() >= self.shelf.backlog.get() {
            return Deferred::fired(Err(Failure::at(QueueUnderflow, place)), place);
        }
        let ticket = self.shelf.next.get();
        self.shelf.next.set(ticket + 1);
        let shelf = Rc::downgrade(&self.shelf);
        let (deferred, resolver) = Deferred::with_canceller(move |_| {
            let left = shelf.upgrade().and_then(|shelf| shelf.waiting.borrow_mut().remove(&ticket));
            drop(left);
        });
        self.shelf.waiting.borrow_mut().insert(ticket, resolver);
        deferred
    }

    /// The first item, if there is one.
    pub fn try_get(&self) -> Option<T> {
        self.shelf.items.borrow_mut().pop_front()
    }
}

impl<T> DeferredQueue<T> {
    /// The items that it holds.
    pub fn len(&self) -> usize {
        self.shelf.items.borrow().len()
    }

    /// Whether it holds no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait for an item.
    pub fn waiting(&self) -> usize {
        self.shelf.waiting.borrow().len()
    }
}

impl<T: 'static> Default for DeferredQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for DeferredQueue<T> {
    fn clone(&self) -> Self {
        Self { shelf: self.shelf.clone() }
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
        f.write_str("the queue is full, and nobody waits for an item")
    }
}

impl<T> Error for QueueOverflow<T> {}

impl fmt::Display for QueueUnderflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is empty, and no more may wait for an item")
    }
}

impl Error for QueueUnderflow {}
