//! [`DeferredQueue`]: hands items from producers to consumers. Twisted's class of the same name.
//!
//! Contract: 129, 129b.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};

use super::arrived::{Arrived, Redeem};
use super::drops::{self, DropWork, Serve};
use super::waiters::Waiters;
use super::{Deferred, Failure, Result};

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

/// INVARIANT: no item is free while a `get` is pending, except until queued drop work has run.
struct Queue<T> {
    backlog: Cell<usize>,
    shelf: Rc<Shelf<T>>,
    waiters: Waiters<T>,
}

/// The items, which outlive the queue's handles for Deferreds that have fired.
struct Shelf<T> {
    /// The most free items, and the most of their weight.
    most: Cell<(usize, usize)>,
    weigh: Cell<fn(&T) -> usize>,
    stock: RefCell<Stock<T>>,
}

/// INVARIANT: the first items belong to the tickets, in the same order. The others are free.
struct Stock<T> {
    /// Each item with its weight.
    items: VecDeque<(T, usize)>,
    tickets: VecDeque<u64>,
    /// The number of the next ticket.
    next: u64,
    /// The weight of the free items.
    weight: usize,
}

/// A fired `get` whose item was not taken. Dropping it frees an item, so that later tickets move up
/// and the order of the items is kept.
struct Ticket<T: 'static> {
    number: u64,
    shelf: Rc<Shelf<T>>,
    queue: Weak<Queue<T>>,
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
        let stock = Stock { items: VecDeque::new(), tickets: VecDeque::new(), next: 0, weight: 0 };
        let shelf = Shelf {
            most: Cell::new((usize::MAX, usize::MAX)),
            weigh: Cell::new(|_| 0),
            stock: RefCell::new(stock),
        };
        let queue = Queue {
            backlog: Cell::new(usize::MAX),
            shelf: Rc::new(shelf),
            waiters: Waiters::default(),
        };
        Self { queue: Rc::new(queue) }
    }

    /// Limits the queued items. With 0, `put` succeeds only if a `get` is pending. Items that return
    /// from dropped `get`s may exceed it.
    #[must_use]
    pub fn size(self, items: usize) -> Self {
        let most = &self.queue.shelf.most;
        most.set((items, most.get().1));
        self
    }

    /// Limits the sum of the weights of the queued items, which `weigh` returns, for example their
    /// bytes. Set it before the first `put`; unlimited by default.
    ///
    /// ```
    /// # use couplet_defer as couplet;
    /// use couplet::defer::DeferredQueue;
    ///
    /// let lines = DeferredQueue::<String>::new().weight(10, String::len);
    /// assert!(lines.put("Tyger".to_owned()).is_ok());
    /// assert!(lines.put("burning bright".to_owned()).is_err());
    /// ```
    #[must_use]
    pub fn weight(self, most: usize, weigh: fn(&T) -> usize) -> Self {
        let Shelf { most: limits, weigh: weighing, .. } = &*self.queue.shelf;
        limits.set((limits.get().0, most));
        weighing.set(weigh);
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
        let Queue { shelf, waiters, .. } = &*self.queue;
        shelf.add(item, waiters.len()).map_err(QueueOverflow)?;
        self.queue.clone().serve();
        Ok(())
    }

    /// Fires with the first item: immediately if the queue has one, otherwise when an item is put.
    /// Fails immediately with [`QueueUnderflow`] if the queue is empty and the backlog is full.
    ///
    /// The item leaves the queue when it is taken: by a callback, or by the task that awaits the
    /// Deferred. Until then neither a cancel nor a drop of the Deferred, nor of a timeout or a group
    /// made of it, loses the item: it goes to the next `get`, before all items that were put later.
    #[track_caller]
    pub fn get(&self) -> Deferred<T> {
        let created_at = Location::caller();
        if self.waiting() == 0
            && let Some(ticket) = Ticket::new(&self.queue)
        {
            return Deferred::arrived(Arrived::claim(ticket), created_at);
        }
        if self.waiting() >= self.queue.backlog.get() {
            return Deferred::fired(Err(Failure::at(QueueUnderflow, created_at)), created_at);
        }
        self.queue.waiters.wait(created_at)
    }

    /// Takes the first item, if the queue has one.
    pub fn try_get(&self) -> Option<T> {
        let ticket = if self.waiting() == 0 { Ticket::new(&self.queue) } else { None };
        ticket.map(|ticket| ticket.take())
    }
}

impl<T> DeferredQueue<T> {
    /// The number of queued items that belong to no fired `get`.
    pub fn len(&self) -> usize {
        self.queue.shelf.stock.borrow().free()
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

impl<T: 'static> Serve for Queue<T> {
    fn serve(self: Rc<Self>) {
        while self.waiters.len() > 0 {
            let Some(ticket) = Ticket::new(&self) else { return };
            if let Some(resolver) = self.waiters.pop() {
                resolver.arrive(Arrived::claim(ticket));
            }
        }
    }
}

impl<T> Shelf<T> {
    /// Adds an item, which needs no room if one of the `waiting` gets it.
    fn add(&self, item: T, waiting: usize) -> Result<(), T> {
        let weight = (self.weigh.get())(&item);
        let mut stock = self.stock.borrow_mut();
        let (items, most) = self.most.get();
        let has_room = stock.free() < items && stock.weight.saturating_add(weight) <= most;
        if !has_room && stock.free() >= waiting {
            return Err(item);
        }
        stock.weight = stock.weight.saturating_add(weight);
        stock.items.push_back((item, weight));
        Ok(())
    }
}

impl<T> Stock<T> {
    fn free(&self) -> usize {
        self.items.len() - self.tickets.len()
    }

    /// The weight of the first free item.
    fn next_weight(&self) -> usize {
        self.items.get(self.tickets.len()).map_or(0, |(_, weight)| *weight)
    }

    /// Removes a ticket. Returns its place, which is also its item's.
    fn remove(&mut self, ticket: u64) -> Option<usize> {
        let place = self.tickets.binary_search(&ticket).ok()?;
        self.tickets.remove(place);
        Some(place)
    }
}

impl<T> Ticket<T> {
    /// A ticket for the first free item, if there is one.
    fn new(queue: &Rc<Queue<T>>) -> Option<Ticket<T>> {
        let shelf = queue.shelf.clone();
        let mut stock = shelf.stock.borrow_mut();
        if stock.free() == 0 {
            return None;
        }
        stock.weight = stock.weight.saturating_sub(stock.next_weight());
        let number = stock.next;
        stock.next += 1;
        stock.tickets.push_back(number);
        drop(stock);
        Some(Ticket { number, shelf, queue: Rc::downgrade(queue) })
    }

    fn take(&self) -> T {
        let mut stock = self.shelf.stock.borrow_mut();
        let place = stock.remove(self.number);
        let item = place.and_then(|place| stock.items.remove(place));
        item.expect("each ticket has its item").0
    }
}

impl<T> Redeem<T> for Ticket<T> {
    fn redeem(self: Box<Self>) -> Result<T> {
        Ok(self.take())
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        let mut stock = self.shelf.stock.borrow_mut();
        if stock.remove(self.number).is_none() {
            return; // It was taken.
        }
        stock.weight = stock.weight.saturating_add(stock.next_weight());
        drop(stock);
        let queue = self.queue.upgrade();
        if let Some(queue) = queue.filter(|queue| queue.waiters.len() > 0) {
            drops::fire(DropWork::Freed(queue));
        }
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
