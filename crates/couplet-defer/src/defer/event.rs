//! [`DeferredEvent`]: a flag, and the Deferreds that wait for it to be set. In Twisted a list of
//! Deferreds, kept by hand; `Event` in trio and asyncio.
//!
//! Contract: 129.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use super::Deferred;
use super::waiters::Waiters;

/// An event, which has happened or not; any number of Deferreds can wait for it.
///
/// Clones are the same event. When the last of them is dropped, pending waits fail with
/// [`ResolverDropped`](super::ResolverDropped).
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::defer::DeferredEvent;
///
/// let ready = DeferredEvent::new();
/// let (first, second) = (ready.wait(), ready.wait());
/// assert!(!first.has_fired());
/// ready.set();
/// assert!(first.has_fired() && second.has_fired());
/// assert!(ready.wait().has_fired());
/// ```
#[derive(Clone, Default)]
pub struct DeferredEvent {
    event: Rc<Event>,
}

#[derive(Default)]
struct Event {
    is_set: Cell<bool>,
    waiters: Waiters<()>,
}

impl DeferredEvent {
    /// An event that has not happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the event and fires the pending waits in the order of the calls. Their callbacks run
    /// before this returns, and all of these waits fire, even if a callback clears the event.
    pub fn set(&self) {
        self.event.is_set.set(true);
        let waiters = &self.event.waiters;
        let mark = waiters.mark();
        while let Some(resolver) = waiters.pop_before(mark) {
            resolver.callback(());
        }
    }

    /// Resets the event: later waits are pending until the next [`set`](Self::set).
    pub fn clear(&self) {
        self.event.is_set.set(false);
    }

    /// Whether the event is set.
    pub fn is_set(&self) -> bool {
        self.event.is_set.get()
    }

    /// Fires when the event is set: immediately, if it already is. Cancelling ends this wait only.
    #[track_caller]
    pub fn wait(&self) -> Deferred<()> {
        let created_at = Location::caller();
        if self.is_set() {
            return Deferred::fired(Ok(()), created_at);
        }
        self.event.waiters.wait(created_at)
    }

    /// The number of pending waits.
    pub fn waiting(&self) -> usize {
        self.event.waiters.len()
    }
}

impl fmt::Debug for DeferredEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredEvent")
            .field("set", &self.is_set())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}
