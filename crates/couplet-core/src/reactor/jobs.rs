//! Blocking work on the driver's threads: [`Reactor::defer_to_thread`].
//!
//! Contract: 97.

use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::records::Records;
use super::remote::ForThread;
use crate::defer::{Deferred, Failure, Panicked, Result};
use crate::driver::{Job, Ticket};
use crate::panics::{Contained, lock, panic_text};
use crate::recorder::{Reactor, Source};

impl Reactor {
    /// Runs `f`, which may block, in a thread of the loop's pool; the Deferred fires with its
    /// result. Twisted's `deferToThread`.
    ///
    /// The pool has at most ten threads, started on demand; jobs start in call order. If `f`
    /// panics, the Deferred fails with [`Panicked`]. Cancelling the Deferred fails it immediately:
    /// a queued job never starts, a running one finishes and its result is dropped. When the
    /// reactor stops, it waits for jobs for at most
    /// [`Tuning::job_grace`](super::Tuning::job_grace); the Deferreds of unfinished jobs
    /// fail with [`Cancelled`](crate::defer::Cancelled).
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
    pub fn defer_to_thread<T: ForThread + 'static>(
        &self,
        f: impl FnOnce() -> Result<T> + ForThread + 'static,
    ) -> Deferred<T> {
        let place = Location::caller();
        self.request(
            "job",
            |records| &records.jobs.requested,
            |ticket, resolver| {
                let result: Answer<T> = Arc::default();
                let job = job(f, result.clone());
                let finish = Box::new(move |failure: fn() -> Failure| {
                    let outcome = lock(&result).take();
                    let outcome = outcome.map(Contained::take);
                    resolver.resolve(outcome.unwrap_or_else(|| Err(failure())));
                });
                let records = self.records();
                records.jobs.wait_for(ticket, finish);
                records.note_job(ticket, place, job)
            },
        )
    }
}

impl Records {
    /// Keeps the place of a job, where places are kept.
    fn note_job(&self, ticket: Ticket, place: Source, job: Job) -> Job {
        let mut places = self.places.borrow_mut();
        let Some(places) = &mut *places else { return job };
        let is_left = |job| self.jobs.is_waiting(job);
        let has_begun = places.add_job(ticket, self.origin(place), is_left);
        Box::new(move || {
            has_begun.store(true, Ordering::Relaxed);
            job();
        })
    }
}

/// The result of a job. Dropped by its last holder: the loop, or a thread.
type Answer<T> = Arc<Mutex<Option<Contained<Result<T>>>>>;

/// The job that runs `f`, and panics neither when run nor when dropped.
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
