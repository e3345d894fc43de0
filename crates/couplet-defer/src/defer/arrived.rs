//! [`Arrived`]: a result on its way down a chain, from the resolver to the code that takes it.
//!
//! The value of a queue travels as a [`Claim`] and stays in its queue until user code takes it: a
//! callback, a poll, or the code below a group. If the Deferred is dropped first, its claim is
//! dropped with it, and the value goes to the next waiter or keeps its place in the queue. A
//! [`Permit`](super::Permit) needs no claim, because the value itself returns when it is dropped.
//!
//! Contract: 129.

use super::error::discard;
use super::{Failure, Result};

/// A result that has arrived at a node.
pub(super) enum Arrived<T> {
    /// The result itself.
    Here(Result<T>),
    /// A value that its source keeps until it is taken.
    Claimed(Claim<T>),
}

/// A claim to a value. Dropping it leaves the value at its source.
///
/// One pointer wide, so that claims do not enlarge other results.
pub(super) struct Claim<T>(Box<Box<dyn Redeem<T>>>);

/// The holder of the value of a [`Claim`]; its drop gives up the claim.
pub(super) trait Redeem<T> {
    /// Takes the value.
    fn redeem(self: Box<Self>) -> Result<T>;

    /// The failures inside of the value, which are reported if the claim is dropped.
    fn failures(&self) -> Vec<Failure> {
        vec![]
    }
}

impl<T> Arrived<T> {
    pub(super) fn claim(value: impl Redeem<T> + 'static) -> Arrived<T> {
        Arrived::Claimed(Claim(Box::new(Box::new(value))))
    }

    /// Takes the value, for user code.
    #[inline]
    pub(super) fn take(self) -> Result<T> {
        match self {
            Arrived::Here(result) => result,
            Arrived::Claimed(claim) => claim.take(),
        }
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Arrived::Here(result) => result.as_ref().err(),
            Arrived::Claimed(_) => None,
        }
    }

    /// Drops a value, or gives up the claim to it; `report` gets a failure.
    pub(super) fn abandon(self, report: &dyn Fn(Failure)) {
        match self {
            Arrived::Here(Ok(value)) => discard(value),
            Arrived::Here(Err(failure)) => report(failure),
            Arrived::Claimed(claim) => {
                for failure in claim.0.failures() {
                    report(failure);
                }
                discard(claim);
            }
        }
    }
}

impl<T: 'static> Arrived<T> {
    /// Converts the result once it is taken. `convert` only puts it into another shape.
    pub(super) fn reshape<U: 'static>(
        self,
        convert: impl FnOnce(Result<T>) -> Result<U> + 'static,
    ) -> Arrived<U> {
        match self {
            Arrived::Here(result) => Arrived::Here(convert(result)),
            Arrived::Claimed(claim) => Arrived::claim(Reshaped { claim, convert }),
        }
    }

    /// Several results as one, in their order.
    pub(super) fn all(parts: Vec<Arrived<T>>) -> Arrived<Vec<Result<T>>> {
        if parts.iter().all(|part| matches!(part, Arrived::Here(_))) {
            return Arrived::Here(Ok(parts.into_iter().map(Arrived::take).collect()));
        }
        Arrived::claim(All(parts))
    }
}

impl<T> Claim<T> {
    #[cold]
    #[inline(never)]
    fn take(self) -> Result<T> {
        self.0.redeem()
    }
}

struct Reshaped<T, F> {
    claim: Claim<T>,
    convert: F,
}

impl<T, U, F: FnOnce(Result<T>) -> Result<U>> Redeem<U> for Reshaped<T, F> {
    fn redeem(self: Box<Self>) -> Result<U> {
        let Reshaped { claim, convert } = *self;
        convert(claim.take())
    }

    fn failures(&self) -> Vec<Failure> {
        self.claim.0.failures()
    }
}

struct All<T>(Vec<Arrived<T>>);

impl<T> Redeem<Vec<Result<T>>> for All<T> {
    fn redeem(self: Box<Self>) -> Result<Vec<Result<T>>> {
        Ok(self.0.into_iter().map(Arrived::take).collect())
    }

    fn failures(&self) -> Vec<Failure> {
        self.0.iter().filter_map(|part| part.failure().cloned()).collect()
    }
}
