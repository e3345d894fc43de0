//! The errors produced by Deferreds and their combinators.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::Failure;
use crate::panics::catch_panic;

/// The Deferred was cancelled. Never reported as unhandled. Twisted's `CancelledError`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cancelled {
    what: Option<Box<str>>,
}

impl Cancelled {
    /// A cancellation without a name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the cancelled operation, as in `Cancelled::of("tcp:example.com:80")`.
    pub fn of(what: impl Into<Box<str>>) -> Self {
        Self { what: Some(what.into()) }
    }

    /// The name of the cancelled operation, if it has one.
    pub fn what(&self) -> Option<&str> {
        self.what.as_deref()
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Some(what) => write!(f, "{what} was cancelled"),
            None => f.write_str("cancelled"),
        }
    }
}

impl Error for Cancelled {}

/// The timeout given to `add_timeout` expired. Twisted's `defer.TimeoutError`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut {
    /// The timeout.
    pub after: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed out after {:?}", self.after)
    }
}

impl Error for TimedOut {}

/// The resolver was dropped before it fired, so no result can arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolverDropped;

impl fmt::Display for ResolverDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the resolver was dropped before it fired")
    }
}

impl Error for ResolverDropped {}

/// A callback panicked, with this message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

impl Error for Panicked {}

/// Runs user code and turns a panic into an error, which is not logged, because the chain carries
/// it.
///
/// Unwind safety: the caller has taken everything that `run` touches out of its cells.
pub(super) fn run_contained<R>(run: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_panic(run).map_err(Panicked)
}

/// Drops a user's object; a panic in its destructor is swallowed.
pub(super) fn discard<T>(thing: T) {
    let _ = run_contained(|| drop(thing));
}

/// The first failure of a `gather`. Twisted's `FirstError`.
#[derive(Debug, Clone)]
pub struct FirstError {
    /// The index of the member, from 0, in the order in which members were passed.
    pub index: usize,
    /// The failure of the member.
    pub failure: Failure,
}

impl fmt::Display for FirstError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} failed", self.index)
    }
}

impl Error for FirstError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.failure.error())
    }
}

/// Every member of a `race` failed: their failures, in member order.
/// Twisted's `FailureGroup`.
#[derive(Debug, Clone)]
pub struct AllFailed(pub Vec<Failure>);

impl fmt::Display for AllFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} failed", self.0.len())?;
        for (index, failure) in self.0.iter().enumerate() {
            write!(f, "{} {failure:#}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl Error for AllFailed {}

/// A `race` or `first_of` without members, which can have no winner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty;

impl fmt::Display for Empty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a race without members has no winner")
    }
}

impl Error for Empty {}
