//! Blocking work on the driver's threads: [`Reactor::defer_to_thread`].

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::turn::Core;
use super::{Reactor, loop_ended, pending};
use crate::defer::{Deferred, Failure, Panicked, Result};
use crate::driver::{Commands, Job, Ticket};
use crate::panics::{Contained, lock, panic_text};

/// The loop's jobs.
#[derive(Default)]
pub(super) struct Jobs {
    next: u64,
    fresh: VecDeque<(Ticket, Job)>,
    /// Called in the loop's thread when a job has run (`true`) or is given up (`false`). In the
    /// order of the requests.
    waiting: BTreeMap<Ticket, Finish>,
    cancelled: Vec<Ticket>,
}

type Finish = Box<dyn FnOnce(bool)>;

impl Jobs {
    /// The number of jobs whose Deferred is pending.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Reactor {
    /// Runs `f`, which may block, in a thread of the loop's pool; the Deferred fires with its
    /// result. Twisted's `deferToThread`.
    ///
    /// The pool has at most ten threads, started on demand; jobs start in the order of the calls. A
    /// panic in `f` becomes the failure [`Panicked`]. Cancelling the Deferred fails it immediately:
    /// a job that has not started never does, a running one finishes and its result is dropped.
    /// When the reactor stops, it waits for jobs for at most
    /// [`LoopOptions::job_grace`](super::LoopOptions::job_grace); the Deferreds of the unfinished
    /// ones fail with [`Cancelled`](crate::defer::Cancelled).
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
        if self.is_gone() {
            return Deferred::fail(loop_ended());
        }
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
            let outcome = lock(&result).take();
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

/// The result of a job. Dropped by its last holder: the loop, or a thread.
type Answer<T> = Arc<Mutex<Option<Contained<Result<T>>>>>;

/// The job that runs `f`. It panics neither when run nor when dropped.
fn job<T: Send + 'static>(
    f: impl FnOnce() -> Result<T> + Send + 'static,
    answer: Answer<T>,
) -> Job {
    let f = Contained::new(f);
    Box::new(move || {
        let outcome = catch_unwind(AssertUnwindSafe(f.take()))
            .unwrap_or_else(|payload| Err(Panicked(panic_text(payload)).into()));
        let outcome = Contained::new(outcome);
        *lock(&answer) = Some(outcome);
    })
}

impl Core {
    /// Step 6: starts the requested jobs, and forgets the cancelled ones.
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
    #[inline(never)]
    pub(super) fn job_done(&mut self, ticket: Ticket) {
        let _hold = self.reactor.records.hold("result of a job");
        let finish = self.reactor.records.jobs.borrow_mut().waiting.remove(&ticket);
        if let Some(finish) = finish {
            finish(true);
        }
    }

    /// The run ends: fails the Deferreds of all unfinished jobs.
    pub(super) fn give_up_jobs(&mut self, io: &mut dyn Commands) {
        let (fresh, given_up) = {
            let mut jobs = self.reactor.records.jobs.borrow_mut();
            (std::mem::take(&mut jobs.fresh), std::mem::take(&mut jobs.waiting))
        };
        drop(fresh);
        // Without a grace nobody was to wait for them.
        if !given_up.is_empty() && !self.job_grace.is_zero() {
            tracing::warn!(jobs = given_up.len(), "the run ends with unfinished jobs");
        }
        for (ticket, finish) in given_up {
            io.forget_job(ticket);
            finish(false);
        }
    }
}
