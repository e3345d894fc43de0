//! The capacity of a loop for connections: [`LoadLimits`](super::LoadLimits), where loops hand connections
//! to each other.
//!
//! Contract: 22e, 103l.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The connections that a loop has or is about to get from other loops, and their limit.
#[derive(Debug)]
pub(super) struct Capacity {
    most: AtomicUsize,
    taken: AtomicUsize,
}

/// A place for a connection in transit to a loop.
pub(super) struct Reserved(Arc<Capacity>);

impl Capacity {
    pub(super) fn new(most: Option<NonZeroUsize>) -> Arc<Capacity> {
        let capacity = Capacity { most: AtomicUsize::new(usize::MAX), taken: AtomicUsize::new(0) };
        capacity.set_most(most);
        Arc::new(capacity)
    }

    pub(super) fn set_most(&self, most: Option<NonZeroUsize>) {
        self.most.store(most.map_or(usize::MAX, NonZeroUsize::get), Ordering::Relaxed);
    }

    /// Whether the loop has as many connections as it may.
    pub(super) fn is_full(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.most.load(Ordering::Relaxed)
    }

    /// Whether the loop has no place for connections that other loops have accepted. The last place is
    /// reserved for its own ports, which accept without asking.
    pub(super) fn is_full_for_others(&self) -> bool {
        self.taken.load(Ordering::Relaxed) + 1 >= self.most.load(Ordering::Relaxed)
    }

    /// Reserves a place for a connection that another loop has accepted, if one is left.
    pub(super) fn reserve(self: &Arc<Self>) -> Option<Reserved> {
        let most = self.most.load(Ordering::Relaxed);
        let more = |taken: usize| (taken + 1 < most).then_some(taken + 1);
        let reserved = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        reserved.ok().map(|_| Reserved(self.clone()))
    }

    /// Reserves a place even if the loop is full.
    pub(super) fn force(self: &Arc<Self>) -> Reserved {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Reserved(self.clone())
    }

    /// The number of the loop's own connections has changed.
    pub(super) fn recount(&self, before: usize, now: usize) {
        if now > before {
            self.taken.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.taken.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}

impl Reserved {
    /// The connection is in the loop, which counts it from now on.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c103l_places_are_taken_up_to_the_limit_and_returned() {
        let capacity = Capacity::new(NonZeroUsize::new(3));
        capacity.recount(0, 1);
        let second = capacity.reserve().expect("a place");
        assert!(
            capacity.is_full_for_others() && capacity.reserve().is_none() && !capacity.is_full()
        );
        drop(second);
        capacity.reserve().expect("a place").keep();
        capacity.recount(1, 2);
        assert!(capacity.is_full());
        capacity.recount(3, 0);
        let forced = [capacity.force(), capacity.force(), capacity.force()];
        assert!(capacity.is_full());
        drop(forced);
        assert!(!capacity.is_full());
        capacity.set_most(NonZeroUsize::new(1));
        assert!(
            capacity.reserve().is_none() && !capacity.is_full(),
            "its only place is for its own ports"
        );
        capacity.set_most(None);
        assert!(capacity.reserve().is_some());
    }
}
