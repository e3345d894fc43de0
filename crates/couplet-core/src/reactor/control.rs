//! Requests about the run: a stop, shutdown triggers, snapshots and interrupts.
//!
//! Contract: 99, 103.

use std::panic::Location;

use super::records::pending;
use super::snapshot::Snapshot;
use super::stage::{RunStage, Shutdown};
use crate::defer::{Deferred, Result};
use crate::internals::{FiredBy, fired_by};
use crate::panics::Contained;
use crate::recorder::Reactor;

/// The Deferred of a snapshot, which snapshots leave out.
pub(super) const SNAPSHOT: &str = "a snapshot";

/// The return type of a function that [`Reactor::on`] or a [`LoopingCall`](crate::LoopingCall) calls,
/// and the item type of a [`Cooperator`](crate::task::Cooperator)'s iterator: `()`, a `Result<()>`, or
/// a `Deferred<()>` to wait for.
pub trait LoopResult {
    /// Converts it into a Deferred to wait for.
    fn into_deferred(self) -> Deferred<()>;
}

impl LoopResult for () {
    fn into_deferred(self) -> Deferred<()> {
        Deferred::succeed(())
    }
}

impl LoopResult for Result<()> {
    fn into_deferred(self) -> Deferred<()> {
        Deferred::from_result(self)
    }
}

impl LoopResult for Deferred<()> {
    fn into_deferred(self) -> Deferred<()> {
        self
    }
}

impl Reactor {
    /// The open, active and pending objects of the loop, as of the next turn. Printable.
    pub fn snapshot(&self) -> Deferred<Snapshot> {
        let (deferred, resolver) = Deferred::new();
        fired_by(&deferred, FiredBy { kind: SNAPSHOT, id: None });
        self.records().request_snapshot(resolver);
        deferred
    }

    /// Registers a call for when the reactor stops; see [`Shutdown`]. The stop waits for a Deferred
    /// that it returns, and logs a failure. Twisted's `addSystemEventTrigger`.
    ///
    /// ```
    /// use couplet::{Loop, Shutdown};
    ///
    /// let mut l = Loop::new()?;
    /// l.run(|reactor| {
    ///     let stopping = reactor.clone();
    ///     reactor.on(Shutdown::Before, || println!("stopping"));
    ///     reactor.call_later(std::time::Duration::ZERO, move || stopping.stop());
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn on<R: LoopResult + 'static>(&self, when: Shutdown, f: impl FnOnce() -> R + 'static) {
        let (f, place) = (Contained::new(f), Location::caller());
        let trigger = move || f.take()().into_deferred();
        self.records().run.add_trigger(when, place, Box::new(trigger));
    }

    /// Ends the run: at the end of this turn the ports close, and connections flush written bytes
    /// (for at most [`LoopOptions::shutdown_grace`](crate::LoopOptions::shutdown_grace)) and are lost
    /// with [`Reason::Shutdown`](crate::Reason::Shutdown). Does nothing outside a run or when called
    /// again.
    pub fn stop(&self) {
        if self.records().run.stage() == RunStage::Running {
            self.records().add_pending(pending::STOP);
        }
    }

    /// True from when ports and connections begin to close until the end of the run; still false
    /// during [`Shutdown::Before`].
    pub fn is_stopping(&self) -> bool {
        self.records().run.is_stopping()
    }

    /// See [`hooks::interrupt`](crate::hooks::interrupt).
    pub(crate) fn interrupt(&self) {
        self.records().interrupt();
    }

    /// See [`hooks::suspend_turn`](crate::hooks::suspend_turn).
    pub(crate) fn suspend_turn(&self) {
        self.records().add_pending(pending::SUSPEND);
    }
}
