//! Cancellable driver requests: blocking jobs and name lookups.

use std::cell::RefCell;
use std::net::IpAddr;

use crate::defer::{Failure, Resolver};
use crate::driver::{Job, Ticket};
use crate::sorted::SortedMap;

/// Requests and cancellations since the last turn.
pub(super) struct DriverRequests<T> {
    last: u64,
    fresh: Vec<(Ticket, T)>,
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

    pub(super) fn add(&mut self, ticket: Ticket, request: T) {
        self.fresh.push((ticket, request));
    }

    pub(super) fn cancel(&mut self, ticket: Ticket) {
        self.cancelled.push(ticket);
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

/// The loop's jobs.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) requested: RefCell<DriverRequests<Job>>,
    /// Called in the loop's thread when a job has run or is given up, in the order of the requests.
    pub(super) waiting: RefCell<SortedMap<Ticket, Finish>>,
}

/// Fires the job's Deferred: with the job's result, or else with this failure.
type Finish = Box<dyn FnOnce(fn() -> Failure)>;

impl Jobs {
    /// The number of jobs whose Deferred is pending.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether the job's Deferred is pending.
    pub(super) fn is_waiting(&self, ticket: Ticket) -> bool {
        self.waiting.borrow().contains_key(&ticket)
    }

    pub(super) fn wait_for(&self, ticket: Ticket, finish: Finish) {
        self.waiting.borrow_mut().insert(ticket, finish);
    }

    pub(super) fn finished(&self, ticket: Ticket) -> Option<Finish> {
        self.waiting.borrow_mut().remove(&ticket)
    }
}

/// A name, and the resolver that gets its addresses.
pub(super) struct Lookup {
    pub(super) name: String,
    pub(super) resolver: Resolver<Vec<IpAddr>>,
}
