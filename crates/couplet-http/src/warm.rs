//! Buffers of connections, which are freed soon after the last response, so that the memory of idle
//! connections is contiguous. The heap is trimmed after many buffers, or many requests of
//! HTTP/2, were in use.
//!
//! Contract: 175b.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::monitor::Monitor;
use couplet_core::{DelayedCall, Reactor};

/// If this many buffers were in use at the same time, trim the heap once half of them have
/// freed theirs: the allocator keeps free memory between the parts still in use.
const TRIM_THRESHOLD: usize = 64;

/// Delay before trimming, so that more connections can free their buffers first.
const TRIM_DELAY: Duration = Duration::from_secs(5);

/// Connections with buffers, and those that are to free them.
pub(super) struct WarmConnections {
    reactor: Reactor,
    /// A connection without a request keeps its buffers, and hyper's state, for one to two times
    /// this long.
    interval: Duration,
    idle: RefCell<Vec<Rc<Monitor>>>,
    /// Number of connections with buffers, and of requests of HTTP/2.
    count: Cell<usize>,
    /// Maximum of `count` since the heap was last trimmed.
    peak: Cell<usize>,
    sweep: Cell<Option<DelayedCall>>,
    /// The pending trim.
    trim: Cell<Option<DelayedCall>>,
}

impl WarmConnections {
    pub(super) fn new(reactor: &Reactor, interval: Duration) -> Rc<WarmConnections> {
        Rc::new(WarmConnections {
            reactor: reactor.clone(),
            interval,
            idle: RefCell::default(),
            count: Cell::default(),
            peak: Cell::default(),
            sweep: Cell::default(),
            trim: Cell::default(),
        })
    }

    fn call_later(
        self: &Rc<WarmConnections>,
        delay: Duration,
        call: fn(&Rc<WarmConnections>),
    ) -> Option<DelayedCall> {
        let weak = Rc::downgrade(self);
        Some(self.reactor.call_later(delay, move || {
            if let Some(warm) = weak.upgrade() {
                call(&warm);
            }
        }))
    }

    fn begin(&self) {
        self.count.set(self.count.get() + 1);
        self.peak.set(self.peak.get().max(self.count.get()));
    }

    /// Trims the heap later, if many buffers have become free.
    fn end(self: &Rc<WarmConnections>) {
        let WarmConnections { count, peak, trim, .. } = &**self;
        count.set(count.get() - 1);
        if peak.get() >= TRIM_THRESHOLD && count.get() <= peak.get() / 2 {
            let start = || self.call_later(TRIM_DELAY, WarmConnections::trim);
            trim.set(trim.take().or_else(start));
        }
    }

    /// Asks a connection to free its buffers once it has had no request for a while.
    #[inline]
    pub(super) fn watch(self: &Rc<WarmConnections>, monitor: &Rc<Monitor>) {
        if monitor.idle_index().is_none() {
            self.add(monitor);
        }
    }

    #[cold]
    fn add(self: &Rc<WarmConnections>, monitor: &Rc<Monitor>) {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            self.sweep.set(self.call_later(self.interval, WarmConnections::sweep));
        }
        monitor.set_idle_index(Some(idle.len()));
        idle.push(monitor.clone());
    }

    /// Ends a watch, if there is one.
    pub(super) fn unwatch(&self, monitor: &Monitor) {
        let Some(at) = monitor.idle_index() else { return };
        let mut idle = self.idle.borrow_mut();
        let monitor = idle.swap_remove(at);
        if let Some(moved) = idle.get(at) {
            moved.set_idle_index(Some(at));
        }
        if idle.is_empty() {
            cancel(&self.sweep);
        }
        drop(idle);
        monitor.set_idle_index(None);
    }

    /// Asks the connections without a request to free their buffers.
    fn sweep(self: &Rc<WarmConnections>) {
        self.idle.borrow().iter().for_each(|monitor| monitor.park_if_idle(self.interval));
        self.sweep.set(self.call_later(self.interval, WarmConnections::sweep));
    }

    fn trim(self: &Rc<WarmConnections>) {
        self.trim.set(None);
        self.peak.set(self.count.get());
        couplet_os::heap::trim();
    }
}

/// Counts a request of HTTP/2.
pub(super) struct RequestGuard(Rc<WarmConnections>);

impl RequestGuard {
    pub(super) fn new(warm: &Rc<WarmConnections>) -> RequestGuard {
        warm.begin();
        RequestGuard(warm.clone())
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn cancel(call: &Cell<Option<DelayedCall>>) {
    if let Some(call) = call.take() {
        call.cancel();
    }
}

impl Drop for WarmConnections {
    fn drop(&mut self) {
        cancel(&self.sweep);
        cancel(&self.trim);
    }
}

/// Counts a connection that holds hyper's state and buffers.
pub(super) struct BufferGuard<'a> {
    warm: &'a Rc<WarmConnections>,
    monitor: &'a Rc<Monitor>,
}

impl<'a> BufferGuard<'a> {
    pub(super) fn new(warm: &'a Rc<WarmConnections>, monitor: &'a Rc<Monitor>) -> BufferGuard<'a> {
        warm.begin();
        BufferGuard { warm, monitor }
    }

    /// Frees the buffers unless a request arrives soon.
    #[inline]
    pub(super) fn note_idle(&self) {
        self.warm.watch(self.monitor);
    }
}

impl Drop for BufferGuard<'_> {
    fn drop(&mut self) {
        self.warm.unwatch(self.monitor);
        self.warm.end();
    }
}
