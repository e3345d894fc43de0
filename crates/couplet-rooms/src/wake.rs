//! Finds the rooms of a thread's loops for calls from other threads, which cannot carry them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// The rooms of a loop, as a call from another thread sees them.
pub(crate) trait Deliver {
    /// Delivers the queued items.
    fn deliver(self: Rc<Self>);
}

thread_local! {
    /// The rooms of the loops of this thread.
    static LOOPS: RefCell<Registry> = const { RefCell::new(Registry { last: 0, loops: BTreeMap::new() }) };
}

struct Registry {
    /// The newest number.
    last: u64,
    loops: BTreeMap<u64, Weak<dyn Deliver>>,
}

/// A number for the rooms of a loop, unique in this thread.
pub(crate) fn register(rooms: Weak<dyn Deliver>) -> u64 {
    LOOPS.with_borrow_mut(|registry| {
        registry.last += 1;
        registry.loops.insert(registry.last, rooms);
        registry.last
    })
}

pub(crate) fn unregister(number: u64) {
    // The thread may be ending.
    let _ = LOOPS.try_with(|registry| registry.borrow_mut().loops.remove(&number));
}

/// Delivers the queued items of the loop with this number, unless it was dropped.
pub(crate) fn deliver(number: u64) {
    let rooms = LOOPS.with_borrow(|registry| registry.loops.get(&number).cloned());
    if let Some(rooms) = rooms.and_then(|rooms| rooms.upgrade()) {
        rooms.deliver();
    }
}
