//! Reports each unhandled [`Failure`], once, to the thread's reporter.
//!
//! Contract: 119, 119a.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

use super::error::{discard, run_contained};
use super::{Failure, History};
use crate::backlog::Backlog;

/// A failure that was still the result of a Deferred when its last end was dropped.
/// Twisted's "Unhandled error in Deferred".
#[derive(Debug)]
pub struct Unhandled {
    failure: Failure,
    place: &'static Location<'static>,
    history: Option<History>,
}

impl Unhandled {
    /// The failure; its [`place`](Failure::place) is where it arose.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// The location where the last link of the chain was added, or where the Deferred was created
    /// if it has no links: the place where an `add_errback` is missing.
    pub fn place(&self) -> &'static Location<'static> {
        self.place
    }

    /// The history of the Deferred, if it was created while
    /// [histories are kept](super::keep_histories).
    pub fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }
}

impl fmt::Display for Unhandled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unhandled failure: {:#} ", self.failure)?;
        write!(
            f,
            "(began at {}, unhandled by the Deferred created at {})",
            self.failure.place(),
            self.place
        )?;
        for place in self.failure.levels() {
            write!(f, "\npassed {place}")?;
        }
        self.history.as_ref().map_or(Ok(()), |history| write!(f, "\n{history}"))
    }
}

/// Receives this thread's unhandled failures. The default writes a line to stderr.
#[derive(Clone, Default)]
pub struct Reporter(Option<Rc<Report>>);

type Report = dyn Fn(&Unhandled);

impl Reporter {
    /// A reporter that calls `report`.
    ///
    /// `report` is called while an object is being dropped. A panic in it is contained. A failure
    /// that becomes unhandled while it runs is written to stderr.
    pub fn new(report: impl Fn(&Unhandled) + 'static) -> Self {
        Self(Some(Rc::new(report)))
    }

    /// Whether this is a custom reporter, not the default.
    pub(crate) fn is_chosen(&self) -> bool {
        self.0.is_some()
    }

    /// Makes this the calling thread's reporter and returns the previous one.
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
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Calls `report` for each later unhandled failure of this thread. Returns the previous reporter;
/// [`Reporter::set`] restores it.
///
/// ```
/// # use couplet_defer as couplet;
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

/// How many failures of this thread no errback has handled.
pub(crate) fn unhandled_failures() -> u64 {
    COUNT.get()
}

/// Reports `failure`, if it [needs](Failure::needs_report) that.
pub(super) fn report(
    failure: Failure,
    place: &'static Location<'static>,
    history: Option<History>,
) {
    if !failure.needs_report() {
        return;
    }
    // Thread-locals are unavailable while the thread ends.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
    let unhandled = Unhandled { failure, place, history };
    // Without a reporter, stderr is still available.
    let reporter = REPORTER.try_with(|current| current.borrow().0.clone()).ok().flatten();
    match reporter {
        Some(reporter) if !REPORTING.replace(true) => {
            let _ = run_contained(|| reporter(&unhandled));
            // This may be the last reference to the reporter, and its destructor is user code too.
            discard(reporter);
            REPORTING.set(false);
        }
        _ => {
            Backlog::stderr().push(format!("{unhandled}\n"));
        }
    }
}
