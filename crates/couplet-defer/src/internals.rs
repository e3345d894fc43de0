//! Parts of Deferreds and failures that the other crates of Couplet need and users don't. Unstable,
//! and not re-exported by `couplet`.

use std::error::Error;
use std::panic::Location;

pub use crate::defer::chain::{Chain, ChainResult, ChainState, ChainStep};
pub use crate::defer::waits::{
    Ended, FiredBy, HeldLock, Holder, Observer, Waiter, Waiting, held_locks, observe, waiting,
};
use crate::defer::{self, Deferred, Failure, History, Reporter, Resolver};

/// [`Deferred::new`], for a failure that is also delivered elsewhere: an unhandled one is not
/// reported.
#[track_caller]
pub fn new_quiet<T: 'static>() -> (Deferred<T>, Resolver<T>) {
    Deferred::new_quiet()
}

/// The location where the Deferred's last link was added, or where it was created if it has no
/// links. `None` once its result was taken.
pub fn place_of<T>(deferred: &Deferred<T>) -> Option<&'static Location<'static>> {
    deferred.place()
}

/// A failure whose place is `place`.
pub fn failure_at(
    error: impl Error + Send + Sync + 'static,
    place: &'static Location<'static>,
) -> Failure {
    Failure::at(error, place)
}

/// Marks a failure whose error other code has handled: unhandled, it is not reported.
pub fn mark_handled(failure: &Failure) {
    failure.mark_handled();
}

/// A failure with its causes and its origin.
pub fn describe_failure(failure: &Failure) -> String {
    format!("{failure:#} (began at {})", failure.place())
}

/// A history in fields, for the picture of an inspector.
pub fn chain(history: &History) -> Chain<'_> {
    history.chain()
}

/// Whether this is a custom reporter, not the default.
pub fn is_chosen(reporter: &Reporter) -> bool {
    reporter.is_chosen()
}

/// How many failures of this thread no errback has handled.
pub fn unhandled_failures() -> u64 {
    defer::unhandled_failures()
}

/// The number of live nodes of Deferreds in this thread, for the simulator's leak check.
pub fn live_nodes() -> usize {
    defer::live_nodes()
}

/// Names the object that will fire a Deferred, for a thread that is [observed](observe).
pub fn fired_by<T>(deferred: &Deferred<T>, by: FiredBy) {
    defer::waits::set_fired_by(deferred, by);
}
