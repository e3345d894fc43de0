//! [`Running`]: work in progress, with an outcome for the supervisor and an end for the stop.
//!
//! Contract: 139k.

use crate::defer::{Canceller, Deferred};

/// The work of a service that was started, for `take_end` and `stop`.
pub(super) struct Running {
    work: Canceller,
    /// The outcome, until it is taken.
    end: Option<Deferred<()>>,
    /// Fires when the work is over.
    over: Deferred<()>,
}

impl Running {
    pub(super) fn new(work: Deferred<()>) -> Self {
        let (canceller, cancelled) = (work.canceller(), work.canceller());
        let (end, ended) = Deferred::new();
        let (over, is_over) = Deferred::with_canceller(move |_| cancelled.cancel());
        let work = work.add_both(move |outcome| {
            ended.resolve(outcome);
            is_over.callback(());
            Ok(())
        });
        work.detach();
        Running { work: canceller, end: Some(end), over }
    }

    pub(super) fn cancel(&self) {
        self.work.cancel();
    }

    pub(super) fn take_end(&mut self) -> Option<Deferred<()>> {
        self.end.take()
    }

    /// Fires when the work is over, with any outcome. Cancelled, it cancels the work.
    pub(super) fn over(self) -> Deferred<()> {
        if let Some(end) = self.end {
            // Not awaited, so that its failure is expected.
            end.add_errback(|_| Ok(())).detach();
        }
        self.over
    }
}
