//! Work that blocks, done by the driver's threads: [`Reactor::defer_to_thread`].

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use super::turn::Core;
use super::{Reactor, loop_ended, pending};
use crate::defer::{Deferred, Failure, Panicked, Result};
use crate::driver::{Commands, Job, Ticket};
use crate::panics::{Contained, panic_text};

/// Jobs that were asked for.
#[derive(Default)]
pub(super) struct Jobs {
    next: u64,
    fresh: VecDeque<(Ticket, Job)>,
    /// What to do in the loop's thread when a job has run, or is given up (`false`). In the order
    /// of asking.
    waiting: BTreeMap<Ticket, Finish>,
    cancelled: Vec<Ticket>,
}

type Finish = Box<dyn FnOnce(bool)>;

impl Jobs {
    /// Jobs whose Deferred waits.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Reactor {
    /// Runs `f`, which may block, in a thread of the loop's pool, and gives what it returns.
    /// Twisted's `deferToThread`.
    ///
    /// The pool has at most ten threads, started when there is work; jobs begin in the order of
    /// asking. A panic in `f` is the failure [`Panicked`]. Cancelling the Deferred fails it at
    /// once: a job that has not begun never does, one that has goes on alone and its result is
    /// dropped. When the reactor stops, jobs that have begun are waited for, for at most
    /// [`LoopOptions::job_grace`](super::LoopOptions::job_grace); the Deferreds of those that did
    /// not come to an end fail with [`Cancelled`](crate::defer::Cancelled).
    ///
    /// ```
    /// # fn main() -> couplet::Result<()> {
    /// let sum = couplet::run_until(|reactor| {
    ///     reactor.defer_to_thread(|| Ok((1..=1_000_u64).sum::<u64>()))
    /// })?;
    /// assert_eq!(sum, 500_500);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn defer_to_thread<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Deferred<T> {
        let result: Answer<T> = Arc::default();
        let job = job(f, result.clone());
        let ticket = {
            let mut jobs = self.records.jobs.borrow_mut();
            jobs.next += 1;
            Ticket(jobs.next)
        };
        let weak = Rc::downgrade(&self.records);
        let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
            if let Some(records) = weak.upgrade() {
                records.jobs.borrow_mut().cancelled.push(ticket);
                records.note(pending::STARTS);
            }
        });
        let finish = Box::new(move |has_run: bool| {
            let outcome = result.lock().unwrap_or_else(PoisonError::into_inner).take();
            let outcome = outcome.map(Contained::take);
            resolver.resolve(outcome.unwrap_or_else(|| {
                Err(if has_run { Failure::msg("no thread could be started") } else { loop_ended() })
            }));
        });
        {
            let mut jobs = self.records.jobs.borrow_mut();
            jobs.fresh.push_back((ticket, job));
            jobs.waiting.insert(ticket, finish);
        }
        self.records.note(pending::STARTS);
        deferred
    }
}

/// What a job has given. Whoever is the last to know of it drops it: the loop, or a thread.
type Answer<T> = Arc<Mutex<Option<Contained<Result<T>>>>>;

/// The job of `f`. It does not panic, be it run or dropped.
fn job<T: Send + 'static>(
    f: impl FnOnce() -> Result<T> + Send + 'static,
    answer: Answer<T>,
) -> Job {
    let f = Contained::new(f);
    Box::new(move || {
        let outcome = catch_unwind(AssertUnwindSafe(f.take()))
            .unwrap_or_else(|payload| Err(Panicked(panic_text(payload)).into()));
        let outcome = Contained::new(outcome);
        *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    })
}

impl Core {
    /// Step 6: jobs that were asked for, and those that were cancelled.
    pub(super) fn start_jobs(&mut self, io: &mut dyn Commands) {
        let (fresh, cancelled) = {
            let mut jobs = self.reactor.records.jobs.borrow_mut();
            (std::mem::take(&mut jobs.fresh), std::mem::take(&mut jobs.cancelled))
        };
        for (ticket, job) in fresh {
            if !cancelled.contains(&ticket) {
                io.run_blocking(ticket, job);
            }
        }
        for ticket in cancelled {
            io.forget_job(ticket);
            let finish = self.reactor.records.jobs.borrow_mut().waiting.remove(&ticket);
            drop(finish);
        }
    }

    /// A job has run.
    pub(super) fn job_done(&mut self, ticket: Ticket) {
        let finish = self.reactor.records.jobs.borrow_mut().waiting.remove(&ticket);
        if let Some(finish) = finish {
            finish(true);
        }
    }

    /// The run ends: nobody waits for the jobs any more.
    pub(super) fn give_up_jobs(&mut self, io: &mut dyn Commands) {
        let (fresh, given_up) = {
            let mut jobs = self.reactor.records.jobs.borrow_mut();
            (std::mem::take(&mut jobs.fresh), std::mem::take(&mut jobs.waiting))
        };
        drop(fresh);
        if !given_up.is_empty() {
            tracing::warn!(jobs = given_up.len(), "the run ends while jobs have not ended");
        }
        for (ticket, finish) in given_up {
            io.forget_job(ticket);
            finish(false);
        }
    }
}
