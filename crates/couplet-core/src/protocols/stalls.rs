//! [`StallWatch`]: notices that connections make no progress, for limits of half-closed connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::{DelayedCall, Reactor, Transport};

/// Checks of the progress within the limit: a stall is noticed at the limit, or up to a quarter later.
const CHECKS: u32 = 4;

/// Bytes that connections have received and sent, and bytes that their peers have not acknowledged.
type Progress = [u64; 3];

fn progress_of<'t>(transports: impl IntoIterator<Item = &'t Transport>) -> Progress {
    let mut sum = Progress::default();
    for transport in transports {
        let unacknowledged = transport.unacknowledged().unwrap_or_default() as u64;
        let moved = [transport.bytes_received(), transport.bytes_sent(), unacknowledged];
        sum.iter_mut().zip(moved).for_each(|(sum, moved)| *sum += moved);
    }
    sum
}

/// Watches connections from [`begin`](Self::begin) on; dropping it ends that.
pub(crate) struct StallWatch {
    limit: Cell<Option<Duration>>,
    next: RefCell<Option<DelayedCall>>,
}

impl StallWatch {
    /// With this limit; `None` never notices a stall.
    pub(crate) fn new(limit: Option<Duration>) -> StallWatch {
        StallWatch { limit: Cell::new(limit), next: RefCell::default() }
    }

    /// Changes the limit, before the watch begins.
    pub(crate) fn set_limit(&self, limit: Option<Duration>) {
        self.limit.set(limit);
    }

    /// Begins to watch, unless it has begun: `stalled` is called with the connections of `watched`
    /// once none of them has moved a byte for the limit. The watch ends when `watched` returns none,
    /// or `of` has dropped it.
    pub(crate) fn begin<T: 'static>(
        of: &Rc<T>,
        watch: fn(&T) -> &StallWatch,
        reactor: &Reactor,
        watched: fn(&T) -> Vec<Transport>,
        stalled: fn(&T, Vec<Transport>),
    ) {
        let Some(limit) = watch(of).limit.get() else { return };
        if watch(of).next.borrow().is_none() {
            let check = Check { limit, watch, watched, stalled };
            check.schedule(of, reactor, progress_of(&watched(of)), 0);
        }
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        if let Some(next) = self.next.take() {
            next.cancel();
        }
    }
}

impl fmt::Debug for StallWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StallWatch").field("limit", &self.limit.get()).finish_non_exhaustive()
    }
}

/// The functions of one watch.
struct Check<T> {
    limit: Duration,
    watch: fn(&T) -> &StallWatch,
    watched: fn(&T) -> Vec<Transport>,
    stalled: fn(&T, Vec<Transport>),
}

impl<T: 'static> Check<T> {
    /// Compares the progress after a part of the limit; nothing has moved for `still` parts.
    fn schedule(self, of: &Rc<T>, reactor: &Reactor, before: Progress, still: u32) {
        let (weak, again, watch) = (Rc::downgrade(of), reactor.clone(), self.watch);
        let next = reactor.call_later(self.limit / CHECKS, move || {
            let Some(of) = weak.upgrade() else { return };
            let transports = (self.watched)(&of);
            let now = progress_of(&transports);
            let still = if now == before { still + 1 } else { 0 };
            match still {
                _ if transports.is_empty() => {}
                CHECKS => (self.stalled)(&of, transports),
                _ => self.schedule(&of, &again, now, still),
            }
        });
        watch(of).next.replace(Some(next));
    }
}
