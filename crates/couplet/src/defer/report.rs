//! What becomes of a [`Failure`] that nobody handled: the thread's reporter is told of it, once.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::Write;
use std::panic::Location;
use std::rc::Rc;

use super::Failure;
use super::error::{contain, discard};

/// A failure that was left as the last result of a Deferred when its last end was dropped.
/// Twisted's "Unhandled error in Deferred".
#[derive(Debug)]
pub struct Unhandled {
    failure: Failure,
    place: &'static Location<'static>,
}

impl Unhandled {
    /// The failure; its own [`place`](Failure::place) says where it began.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Where the last link of the chain was added, or the Deferred was made if it has no links:
    /// the place at which an `add_errback` is missing.
    pub fn place(&self) -> &'static Location<'static> {
        self.place
    }
}

impl fmt::Display for Unhandled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unhandled failure: {:#} ", self.failure)?;
        write!(f, "(began at {}, left by the Deferred of {})", self.failure.place(), self.place)
    }
}

/// Whom this thread tells of unhandled failures. The default writes a line to stderr.
#[derive(Clone, Default)]
pub struct Reporter(Option<Rc<Report>>);

type Report = dyn Fn(&Unhandled);

impl Reporter {
    /// A reporter that calls `report`.
    ///
    /// It is called while something is being dropped. If it panics, the panic ends there.
    /// A failure that goes unhandled while it runs is written to stderr.
    pub fn new(report: impl Fn(&Unhandled) + 'static) -> Self {
        Self(Some(Rc::new(report)))
    }

    /// True when it is not the default.
    pub(crate) fn is_chosen(&self) -> bool {
        self.0.is_some()
    }

    /// Makes this the reporter of the calling thread and gives back the one before it.
    pub fn set(self) -> Self {
        REPORTER.with(|current| current.replace(self))
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reporter(custom)" } else { "Reporter(stderr)" })
    }
}

thread_local! {
    static REPORTER: RefCell<Reporter> = const { RefCell::new(Reporter(None)) };
    static REPORTING: Cell<bool> = const { Cell::new(false) };
}

/// Tells `report` of each unhandled failure of this thread from now on. Gives back the reporter
/// before it, which [`Reporter::set`] puts in place again.
///
/// ```
/// use couplet::defer::{Deferred, Failure, set_reporter};
/// use std::{cell::RefCell, rc::Rc};
///
/// let seen = Rc::new(RefCell::new(Vec::new()));
/// let notes = seen.clone();
/// let before = set_reporter(move |unhandled| {
///     notes.borrow_mut().push(unhandled.failure().to_string());
/// });
/// drop(Deferred::<()>::fail(Failure::msg("no poem")));
/// assert_eq!(*seen.borrow(), ["no poem"]);
/// before.set();
/// ```
pub fn set_reporter(report: impl Fn(&Unhandled) + 'static) -> Reporter {
    Reporter::new(report).set()
}

/// Tells of `failure`, unless somebody asked for it by a cancel.
pub(super) fn report(failure: Failure, place: &'static Location<'static>) {
    if failure.is_cancelled() {
        return;
    }
    let unhandled = Unhandled { failure, place };
    // Both are out of reach while a thread ends; stderr is not.
    let reporter = REPORTER.try_with(|current| current.borrow().0.clone()).ok().flatten();
    match reporter {
        Some(reporter) if !REPORTING.replace(true) => {
            let _ = contain(|| reporter(&unhandled));
            // It may be the last to hold the reporter, whose drop is a user's code as well.
            discard(reporter);
            REPORTING.set(false);
        }
        _ => {
            // A closed stderr is no reason to panic inside a drop.
            let _ = writeln!(std::io::stderr(), "{unhandled}");
        }
    }
}
