//! Cancellable driver requests: blocking jobs and name lookups.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Reactor, Records, loop_ended, pending};
use crate::defer::{Deferred, Resolver};
use crate::driver::Ticket;

/// Requests and cancellations since the last turn.
pub(super) struct DriverRequests<T> {
    last: u64,
    // Unbounded: one per call of `defer_to_thread` or `resolve` since the last turn.
    fresh: Vec<(Ticket, T)>,
    // Bound: one for each job or lookup cancelled since the last turn.
    cancelled: Vec<Ticket>,
}

impl<T> Default for DriverRequests<T> {
    fn default() -> DriverRequests<T> {
        DriverRequests { last: 0, fresh: Vec::new(), cancelled: Vec::new() }
    }
}

impl<T> DriverRequests<T> {
    pub(super) fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// The number of requests that have not begun.
    pub(super) fn len(&self) -> usize {
        self.fresh.len()
    }

    /// Takes all requests that have not begun, cancelled or not; called at the end of a run.
    pub(super) fn take_all(requests: &RefCell<DriverRequests<T>>) -> Vec<(Ticket, T)> {
        std::mem::take(&mut requests.borrow_mut().fresh)
    }

    /// Drains new requests and cancelled tickets.
    pub(super) fn take(requests: &RefCell<DriverRequests<T>>) -> (Vec<(Ticket, T)>, Vec<Ticket>) {
        let cancelled = std::mem::take(&mut requests.borrow_mut().cancelled);
        let mut fresh = DriverRequests::take_all(requests);
        // Nothing is borrowed here: a drop may request more.
        fresh.retain(|(ticket, _)| !cancelled.contains(ticket));
        (fresh, cancelled)
    }
}

impl Reactor {
    /// Queues the request that `build` makes from a ticket and a resolver, for the turn. Cancelling
    /// the Deferred records its ticket. Returns a failed Deferred if the loop was dropped.
    #[track_caller]
    pub(super) fn request<T: 'static, R: 'static>(
        &self,
        select: fn(&Records) -> &RefCell<DriverRequests<T>>,
        build: impl FnOnce(Ticket, Resolver<R>) -> T,
    ) -> Deferred<R> {
        if self.is_dropped() {
            return Deferred::fail(loop_ended());
        }
        let ticket = select(&self.records).borrow_mut().ticket();
        let weak = Rc::downgrade(&self.records);
        let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
            if let Some(records) = weak.upgrade() {
                select(&records).borrow_mut().cancelled.push(ticket);
                records.add_pending(pending::STARTS);
            }
        });
        let request = build(ticket, resolver);
        select(&self.records).borrow_mut().fresh.push((ticket, request));
        self.records.add_pending(pending::STARTS);
        deferred
    }
}
