//! The waiters of a lock, a queue or an event, in FIFO order.
//!
//! Contract: 129.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;

use super::{Deferred, Resolver};
use crate::sorted::SortedMap;

/// Resolvers in the order in which their Deferreds were created, without the cancelled ones.
///
/// When this is dropped, pending Deferreds fail with [`ResolverDropped`](super::ResolverDropped).
pub(super) struct Waiters<T>(Rc<WaiterList<T>>);

struct WaiterList<T> {
    waiting: RefCell<SortedMap<u64, Resolver<T>>>,
    next: Cell<u64>,
}

impl<T: 'static> Waiters<T> {
    /// A Deferred that waits behind all others. Cancelling it removes its entry.
    pub(super) fn wait(&self, created_at: &'static Location<'static>) -> Deferred<T> {
        let id = self.0.next.get();
        self.0.next.set(id + 1);
        let line = Rc::downgrade(&self.0);
        let leave = move |_| {
            let left = line.upgrade().and_then(|line| line.waiting.borrow_mut().remove(&id));
            drop(left);
        };
        let (deferred, resolver) = Deferred::with_origin(Some(leave), created_at);
        self.0.waiting.borrow_mut().insert(id, resolver);
        deferred
    }
}

impl<T> Waiters<T> {
    /// Removes the first waiter, so that no cell is borrowed when it is served.
    pub(super) fn pop(&self) -> Option<Resolver<T>> {
        self.pop_before(u64::MAX)
    }

    /// Removes the first waiter, if it was added before the [`mark`](Self::mark).
    pub(super) fn pop_before(&self, mark: u64) -> Option<Resolver<T>> {
        let mut waiting = self.0.waiting.borrow_mut();
        let first = waiting.keys().next().copied().filter(|first| *first < mark)?;
        waiting.remove(&first)
    }

    /// The number of the next waiter, which separates present waiters from later ones.
    pub(super) fn mark(&self) -> u64 {
        self.0.next.get()
    }

    pub(super) fn len(&self) -> usize {
        self.0.waiting.borrow().len()
    }
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Waiters(Rc::new(WaiterList { waiting: RefCell::default(), next: Cell::new(0) }))
    }
}
