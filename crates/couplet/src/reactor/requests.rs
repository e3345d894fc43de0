//! What is asked of the driver with a ticket, and may be cancelled: jobs, and lookups of names.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Reactor, Records, loop_ended, pending};
use crate::defer::{Deferred, Resolver};
use crate::driver::Ticket;

/// What was asked since the last turn.
pub(super) struct Requests<T> {
    last: u64,
    fresh: Vec<(Ticket, T)>,
    cancelled: Vec<Ticket>,
}

impl<T> Default for Requests<T> {
    fn default() -> Requests<T> {
        Requests { last: 0, fresh: Vec::new(), cancelled: Vec::new() }
    }
}

impl<T> Requests<T> {
    pub(super) fn ticket(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// The number of requests that have not begun.
    pub(super) fn len(&self) -> usize {
        self.fresh.len()
    }

    /// Takes those that have not begun, cancelled or not: the run ends.
    pub(super) fn take_all(of: &RefCell<Requests<T>>) -> Vec<(Ticket, T)> {
        std::mem::take(&mut of.borrow_mut().fresh)
    }

    /// Takes those to begin, and the tickets of what was cancelled, begun or not.
    pub(super) fn take(of: &RefCell<Requests<T>>) -> (Vec<(Ticket, T)>, Vec<Ticket>) {
        let cancelled = std::mem::take(&mut of.borrow_mut().cancelled);
        let mut fresh = Requests::take_all(of);
        // Nothing is borrowed: what drops may ask for more.
        fresh.retain(|(ticket, _)| !cancelled.contains(ticket));
        (fresh, cancelled)
    }
}

impl Reactor {
    /// Asks for what `ask` makes of a ticket and of who waits for it, in the turn. Cancelling the Deferred
    /// is noted; once the loop is gone it fails.
    #[track_caller]
    pub(super) fn request<T: 'static, R: 'static>(
        &self,
        of: fn(&Records) -> &RefCell<Requests<T>>,
        ask: impl FnOnce(Ticket, Resolver<R>) -> T,
    ) -> Deferred<R> {
        if self.is_gone() {
            return Deferred::fail(loop_ended());
        }
        let ticket = of(&self.records).borrow_mut().ticket();
        let weak = Rc::downgrade(&self.records);
        let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
            if let Some(records) = weak.upgrade() {
                of(&records).borrow_mut().cancelled.push(ticket);
                records.note(pending::STARTS);
            }
        });
        let asked = ask(ticket, resolver);
        of(&self.records).borrow_mut().fresh.push((ticket, asked));
        self.records.note(pending::STARTS);
        deferred
    }
}
