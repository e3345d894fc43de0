//! [`Failure`]: any error, cloneable, that travels down a chain of callbacks and can be downcast.
//!
//! Contract: 119a.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::error::{AllFailed, Cancelled, FirstError};
use crate::panics::{discard, lock};

/// The result of a callback: a value, or a [`Failure`].
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Any error, with the source location where it became a failure. Twisted's `Failure`.
///
/// `?` and `into()` convert any `Error + Send + Sync` into a failure, also boxed ones and texts.
/// Failures are cheap to clone, and can be sent to another thread. `Failure` doesn't implement `Error`,
/// because then `?` could not convert every error: [`boxed`](Failure::boxed) makes one of it.
///
/// `{}` prints the error, `{:#}` the error and its causes on one line, `{:?}` the error and
/// its causes on a line each.
///
/// ```
/// # use couplet_defer as couplet;
/// use couplet::defer::Failure;
///
/// fn port(text: &str) -> couplet::Result<u16> {
///     Ok(text.parse::<u16>()?)
/// }
/// let failure: Failure = port("http").unwrap_err();
/// assert!(failure.is::<std::num::ParseIntError>());
///
/// fn host(endpoint: &str) -> couplet::Result<&str> {
///     Ok(endpoint.split_once(':').ok_or("the port is missing")?.0)
/// }
/// assert_eq!(host("localhost").unwrap_err().to_string(), "the port is missing");
/// ```
#[derive(Clone)]
pub struct Failure(Option<Arc<Inner>>); // `None` only while dropping

struct Inner {
    place: &'static Location<'static>,
    levels: Mutex<Levels>,
    /// Whether other code has handled the same error: this failure needs no report.
    handled: AtomicBool,
    error: Box<dyn Error + Send + Sync>,
}

/// The places that a failure has passed, where histories are kept.
#[derive(Default)]
struct Levels {
    /// In the order of the failure's first arrival.
    passed: Vec<Level>,
    /// The index of the place that the failure passed last.
    last: usize,
}

/// A place that a failure has passed: see [`Failure::levels`]. Prints the place, and the count if there
/// is more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Level {
    /// A Deferred, or a callback.
    pub place: &'static Location<'static>,
    /// How often the failure came there from another place.
    pub count: u64,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        match self.count {
            1 => Ok(()),
            count => write!(f, " ({count} times)"),
        }
    }
}

impl Failure {
    /// A failure with only a message.
    #[track_caller]
    pub fn msg(text: impl fmt::Display) -> Self {
        Self::at(text.to_string(), Location::caller())
    }

    pub(crate) fn at(
        error: impl Into<Box<dyn Error + Send + Sync>>,
        place: &'static Location<'static>,
    ) -> Self {
        let (levels, handled) = (Mutex::default(), AtomicBool::new(false));
        Self(Some(Arc::new(Inner { place, levels, handled, error: error.into() })))
    }

    pub(crate) fn mark_handled(&self) {
        self.inner().handled.store(true, Ordering::Relaxed);
    }

    /// Whether the failure is reported unless an errback handles it.
    pub(super) fn needs_report(&self) -> bool {
        !self.is_cancelled() && !self.inner().handled.load(Ordering::Relaxed)
    }

    fn inner(&self) -> &Inner {
        self.0.as_ref().expect("only `drop` takes it")
    }

    /// The error, if it is an `E`. Replaces Twisted's `trap`.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.error().downcast_ref()
    }

    /// Whether the error is an `E`.
    pub fn is<E: Error + 'static>(&self) -> bool {
        self.error().is::<E>()
    }

    /// Whether this is a cancellation: [`Cancelled`], or a [`FirstError`] or [`AllFailed`] that
    /// contains nothing else. Such a failure is never reported as unhandled.
    pub fn is_cancelled(&self) -> bool {
        // Groups can nest arbitrarily deep, hence a work list instead of recursion.
        let mut left = vec![self];
        while let Some(failure) = left.pop() {
            if let Some(first) = failure.downcast_ref::<FirstError>() {
                left.push(&first.failure);
            } else if let Some(all) = failure.downcast_ref::<AllFailed>()
                && !all.0.is_empty()
            {
                left.extend(&all.0);
            } else if !failure.is::<Cancelled>() {
                return false;
            }
        }
        true
    }

    /// The error itself.
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.inner().error
    }

    /// As an error, for functions and traits that ask for one, such as `io::Error::other`.
    pub fn boxed(self) -> Box<dyn Error + Send + Sync> {
        Box::new(Boxed(self))
    }

    /// The error's cause, if it has one.
    pub fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error().source()
    }

    /// The error, its cause, the cause's cause, and so on.
    pub fn chain(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        let first: &(dyn Error + 'static) = self.error();
        std::iter::successors(Some(first), |error| (*error).source())
    }

    /// The location where the error became a failure: the `?`, the `into()`, or the call of
    /// `errback`. For the library's own failures, the location where the Deferred concerned was
    /// created.
    pub fn place(&self) -> &'static Location<'static> {
        self.inner().place
    }

    /// The places that the failure has passed since, in the order of its first arrival, while
    /// [histories were kept](super::keep_histories): the Deferreds that failed with it, and the
    /// callbacks that were skipped or called for it. All places are listed; one that was passed
    /// repeatedly, in a loop or a recursion, has a count.
    pub fn levels(&self) -> Vec<Level> {
        lock(&self.inner().levels).passed.clone()
    }

    /// Records that the failure passes a callback or a Deferred.
    pub(super) fn pass(&self, place: &'static Location<'static>) {
        let mut levels = lock(&self.inner().levels);
        let Levels { passed, last } = &mut *levels;
        match passed.iter().position(|level| level.place == place) {
            // One passage may be reported twice.
            Some(at) if *last == at => {}
            Some(at) => {
                passed[at].count += 1;
                *last = at;
            }
            None => {
                *last = passed.len();
                passed.push(Level { place, count: 1 });
            }
        }
    }
}

impl Drop for Failure {
    /// The error is a user's object, and the last clone may be dropped anywhere.
    fn drop(&mut self) {
        discard("drop of an error", self.0.take());
    }
}

/// From an error, a boxed one, or a text.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        Self::at(error, Location::caller())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error())?;
        if f.alternate() {
            for cause in self.chain().skip(1) {
                write!(f, ": {cause}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error())?;
        for cause in self.chain().skip(1) {
            write!(f, "\n  caused by: {cause}")?;
        }
        Ok(())
    }
}

/// For functions that return `Box<dyn Error>`.
impl From<Failure> for Box<dyn Error> {
    fn from(failure: Failure) -> Self {
        failure.boxed()
    }
}

struct Boxed(Failure);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Boxed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
