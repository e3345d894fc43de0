//! Blocking jobs and name lookups, in the turn.
//!
//! Contract: 97, 142a, 144a.

use std::io;
use std::net::IpAddr;

use super::core::Core;
use crate::address::ascii_host;
use crate::defer::Failure;
use crate::driver::{Commands, Ticket};
use crate::reactor::names::named;
use crate::reactor::requests::{DriverRequests, Lookup};
use crate::recorder::loop_ended;
use crate::sorted::SortedMap;

/// The lookups for callers that the driver has begun.
#[derive(Default)]
pub(super) struct Lookups {
    begun: SortedMap<Ticket, Lookup>,
}

impl Lookups {
    fn begin(&mut self, io: &mut dyn Commands, ticket: Ticket, lookup: Lookup) {
        // The system refuses a name that can't be converted.
        let name = ascii_host(&lookup.name).unwrap_or(lookup.name.as_str().into());
        io.resolve(ticket, &name);
        let before = self.begun.insert(ticket, lookup);
        debug_assert!(before.is_none(), "a ticket names one lookup");
    }

    fn end(&mut self, ticket: Ticket) -> Option<Lookup> {
        self.begun.remove(&ticket)
    }

    fn end_all(&mut self) -> SortedMap<Ticket, Lookup> {
        std::mem::take(&mut self.begun)
    }
}

impl Core {
    /// Step 6: starts the requested jobs, and forgets cancelled ones.
    pub(super) fn start_jobs(&mut self, io: &mut dyn Commands) {
        let jobs = &self.records.jobs;
        let (fresh, cancelled) = DriverRequests::take(&jobs.requested);
        for (ticket, job) in fresh {
            io.run_blocking(ticket, job);
        }
        for ticket in cancelled {
            io.forget_job(ticket);
            drop(jobs.finished(ticket));
        }
    }

    /// Finishes a job that has run.
    #[inline(never)]
    pub(super) fn job_done(&mut self, ticket: Ticket) {
        let _hold = self.records.hold("job result");
        if let Some(finish) = self.records.jobs.finished(ticket) {
            finish(|| Failure::msg("cannot start a thread"));
        }
    }

    /// The run ends: fails the Deferreds of all unfinished jobs.
    pub(super) fn give_up_jobs(&mut self, io: &mut dyn Commands) {
        let jobs = &self.records.jobs;
        drop(DriverRequests::take_all(&jobs.requested));
        let given_up = jobs.waiting.take();
        // Without a grace period, unfinished jobs are expected.
        if !given_up.is_empty() && self.records.run.waits_for_jobs() {
            log_warn!(jobs = given_up.len(), "the run ends with unfinished jobs");
        }
        for (ticket, finish) in given_up {
            io.forget_job(ticket);
            finish(loop_ended);
        }
    }

    /// Step 6: begins the requested lookups, and forgets cancelled ones.
    pub(super) fn start_lookups(&mut self, io: &mut dyn Commands) {
        let (fresh, cancelled) = DriverRequests::take(&self.records.names);
        for (ticket, lookup) in fresh {
            self.lookups.begin(io, ticket, lookup);
        }
        for ticket in cancelled {
            if let Some(lookup) = self.lookups.end(ticket) {
                io.forget(ticket);
                drop(lookup);
            }
        }
    }

    #[inline(never)]
    pub(super) fn name_resolved(
        &mut self,
        io: &mut dyn Commands,
        ticket: Ticket,
        answer: io::Result<Vec<IpAddr>>,
    ) {
        let _hold = self.records.hold("name lookup");
        match self.lookups.end(ticket) {
            Some(Lookup { name, resolver }) => {
                resolver.resolve(named(&name, answer).map_err(Into::into));
            }
            None => self.connecting.name_resolved(io, ticket, answer),
        }
    }

    /// Ends a run: fails the Deferreds of all unfinished lookups.
    pub(super) fn give_up_lookups(&mut self, io: &mut dyn Commands) {
        let fresh = DriverRequests::take_all(&self.records.names);
        let begun = self.lookups.end_all();
        for ticket in begun.keys() {
            io.forget(*ticket);
        }
        for (_, lookup) in begun.into_iter().chain(fresh) {
            lookup.resolver.errback(loop_ended());
        }
    }
}
