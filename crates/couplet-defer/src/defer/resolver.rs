//! The producer's end of a Deferred, and the node at the top of each chain.
//!
//! Contract: 108, 115, 117–119.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use super::arrived::Arrived;
use super::cancel::Upstream;
use super::drops::{self, DropWork};
use super::error::{Cancelled, ResolverDropped, discard, run_contained};
use super::history::Number;
use super::node::{CreatedAt, Node, Produce, ResultSlot, fire};
use super::{Failure, Result};

/// Fires a [`Deferred`](super::Deferred), once: every method that fires it consumes the resolver.
///
/// The callbacks of the chain run before the call returns, and their panics don't reach the caller.
/// Dropping a resolver that hasn't fired fails the Deferred with [`ResolverDropped`]; that failure
/// is queued while another drop is being processed.
///
/// A result that arrives after a cancel is dropped silently.
///
/// ```compile_fail,E0382
/// # use couplet_defer as couplet;
/// let (_deferred, resolver) = couplet::defer::Deferred::<u8>::new();
/// resolver.callback(1);
/// resolver.callback(2);
/// ```
#[must_use = "a resolver that is dropped fails its Deferred"]
pub struct Resolver<T> {
    /// `None` only once it has fired.
    origin: Option<Rc<dyn Settle<T>>>,
}

impl<T> Resolver<T> {
    /// Fires with a value.
    pub fn callback(self, value: T) {
        self.resolve(Ok(value));
    }

    /// Fires with a failure.
    #[track_caller]
    pub fn errback(self, failure: impl Into<Failure>) {
        self.resolve(Err(failure.into()));
    }

    /// Fires with a result.
    pub fn resolve(mut self, result: Result<T>) {
        self.settle(Arrived::Here(result));
    }

    /// Fires with a result, or with the claim to a value.
    pub(super) fn arrive(mut self, result: Arrived<T>) {
        self.settle(result);
    }

    fn settle(&mut self, result: Arrived<T>) {
        if let Some(origin) = self.origin.take() {
            origin.settle(result);
        }
    }

    /// The place and the history of the Deferred.
    pub(super) fn origin(&self) -> Option<(CreatedAt, Number)> {
        let slot = self.origin.as_ref()?.slot();
        Some((slot.created_at, slot.trace.number()))
    }

    /// Whether the Deferred was cancelled, so the work for it can stop.
    pub fn is_cancelled(&self) -> bool {
        let phase = self.origin.as_ref().map(|origin| origin.phase());
        matches!(phase, Some(OriginPhase::Cancelling | OriginPhase::Cancelled))
    }
}

impl<T> Drop for Resolver<T> {
    fn drop(&mut self) {
        if let Some(origin) = self.origin.take()
            && origin.phase() == OriginPhase::Unfired
        {
            drops::fire(DropWork::Orphaned(origin));
        }
    }
}

impl<T> fmt::Debug for Resolver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OriginPhase {
    Unfired,
    /// The canceller is running and hasn't fired.
    Cancelling,
    Fired,
    /// Fired by a cancel; later results are dropped.
    Cancelled,
}

trait Settle<T>: Produce<T> {
    fn settle(self: Rc<Self>, result: Arrived<T>);
    fn phase(&self) -> OriginPhase;
}

struct Origin<T, C> {
    phase: Cell<OriginPhase>,
    canceller: Cell<Option<C>>,
    slot: ResultSlot<T>,
}

/// A new chain: its only node, and the resolver that owns it.
pub(super) fn origin<T, C>(
    canceller: Option<C>,
    created_at: CreatedAt,
    trace: Number,
) -> (Rc<dyn Produce<T>>, Resolver<T>)
where
    T: 'static,
    C: FnOnce(Resolver<T>) + 'static,
{
    let origin = Rc::new(Origin {
        phase: Cell::new(OriginPhase::Unfired),
        canceller: Cell::new(canceller),
        slot: ResultSlot::new(created_at, trace),
    });
    (origin.clone(), Resolver { origin: Some(origin) })
}

impl<T: 'static, C: FnOnce(Resolver<T>) + 'static> Settle<T> for Origin<T, C> {
    fn settle(self: Rc<Self>, result: Arrived<T>) {
        self.phase.set(match self.phase.get() {
            OriginPhase::Unfired => OriginPhase::Fired,
            OriginPhase::Cancelling => OriginPhase::Cancelled,
            OriginPhase::Fired | OriginPhase::Cancelled => return discard(result),
        });
        // The canceller may hold references that lead back here, so it is dropped before the
        // callbacks run.
        discard(self.canceller.take());
        if let (Some(_), Some(failure)) = (self.slot.trace.number(), result.failure()) {
            failure.pass(self.slot.created_at);
        }
        fire(self, result);
    }

    fn phase(&self) -> OriginPhase {
        self.phase.get()
    }
}

impl<T: 'static, C: FnOnce(Resolver<T>) + 'static> Node for Origin<T, C> {
    fn cancel(self: Rc<Self>) -> Upstream {
        if self.phase.get() != OriginPhase::Unfired {
            return Upstream::Nothing;
        }
        self.phase.set(OriginPhase::Cancelling);
        if let Some(canceller) = self.canceller.take() {
            let resolver = Resolver { origin: Some(self.clone()) };
            let _ = run_contained(|| canceller(resolver));
        }
        if self.phase.get() == OriginPhase::Cancelling {
            let failure = Failure::at(Cancelled::new(), self.slot.created_at);
            self.settle(Arrived::Here(Err(failure)));
        }
        Upstream::Nothing
    }

    fn step(self: Rc<Self>) -> Option<Rc<dyn Node>> {
        self.slot.pass()
    }

    fn orphaned(self: Rc<Self>) {
        // If a cancel came while this was queued, the failure is late and dropped.
        let failure = Failure::at(ResolverDropped, self.slot.created_at);
        self.settle(Arrived::Here(Err(failure)));
    }
}

impl<T: 'static, C: FnOnce(Resolver<T>) + 'static> Produce<T> for Origin<T, C> {
    fn slot(&self) -> &ResultSlot<T> {
        &self.slot
    }

    /// Both ends were dropped unused: `ResolverDropped` is not reported, since it has no consumer.
    fn abandon(&self, result: Arrived<T>) {
        result.abandon(&|failure| match failure.is::<ResolverDropped>() {
            true => discard(failure),
            false => self.slot.report(failure),
        });
    }
}
