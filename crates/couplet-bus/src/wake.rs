//! Finds the buses of a thread for calls from other threads, which cannot carry them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Weak;

use crate::core::Core;

thread_local! {
    /// The buses of the loops of this thread.
    static BUSES: RefCell<Registry> = const { RefCell::new(Registry { last: 0, buses: BTreeMap::new() }) };
}

struct Registry {
    /// The newest number.
    last: u64,
    buses: BTreeMap<u64, Weak<Core>>,
}

/// A number for a bus, unique in this thread.
pub(crate) fn register(bus: Weak<Core>) -> u64 {
    BUSES.with_borrow_mut(|registry| {
        registry.last += 1;
        registry.buses.insert(registry.last, bus);
        registry.last
    })
}

pub(crate) fn unregister(number: u64) {
    // The thread may be ending.
    let _ = BUSES.try_with(|registry| registry.borrow_mut().buses.remove(&number));
}

/// Has a bus collect its messages, unless it was closed.
pub(crate) fn wake(number: u64) {
    let bus = BUSES.with_borrow(|registry| registry.buses.get(&number).cloned());
    if let Some(bus) = bus.and_then(|bus| bus.upgrade()) {
        bus.collect();
    }
}
