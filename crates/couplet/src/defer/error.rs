//! The errors that this room makes by itself.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Failure;

/// Somebody asked for the end. Never reported as unhandled. Twisted's `CancelledError`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cancelled {
    what: Option<Box<str>>,
}

impl Cancelled {
    /// A cancel of something that has no name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names what was cancelled, as in `Cancelled::of("tcp:example.com:80")`.
    pub fn of(what: impl Into<Box<str>>) -> Self {
        Self { what: Some(what.into()) }
    }

    /// What was cancelled, if it was named.
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

/// The time given to `add_timeout` went by. Twisted's `defer.TimeoutError`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut {
    /// The time that was given.
    pub after: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed out after {:?}", self.after)
    }
}

impl Error for TimedOut {}

/// The resolver was dropped and had fired nothing: the answer will never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolverDropped;

impl fmt::Display for ResolverDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the resolver was dropped before it gave a result")
    }
}

impl Error for ResolverDropped {}

/// A callback panicked, with this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

impl Error for Panicked {}

impl Panicked {
    fn from_payload(payload: Box<dyn Any + Send>) -> Self {
        if let Some(text) = payload.downcast_ref::<&'static str>() {
            return Self((*text).to_owned());
        }
        let payload = match payload.downcast::<String>() {
            Ok(text) => return Self(*text),
            Err(payload) => payload,
        };
        // What was thrown may panic once more when it is dropped; what that throws is leaked.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        Self("with a value that is not a text".to_owned())
    }
}

/// Runs what users wrote; a panic in it ends here.
///
/// Unwind safety: whoever calls has taken out of its cells all that `run` touches.
pub(super) fn contain<R>(run: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(Panicked::from_payload)
}

/// Drops what users made; a panic in that ends here too.
pub(super) fn discard<T>(thing: T) {
    let _ = contain(|| drop(thing));
}

/// A member of a `gather` failed, the first that did. Twisted's `FirstError`.
#[derive(Debug, Clone)]
pub struct FirstError {
    /// Which member, counted from 0 in the order in which they were given.
    pub index: usize,
    /// Its failure.
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

/// Every member of a `race` failed: their failures, in the order of the members.
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

/// A race of nobody: it can have no winner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty;

impl fmt::Display for Empty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a race without members has no winner")
    }
}

impl Error for Empty {}
