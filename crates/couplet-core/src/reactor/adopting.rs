//! Connections that the user made by other means, and passes to the loop. Twisted's
//! `adoptStreamConnection`.

use std::cell::RefCell;
use std::rc::Rc;

use super::dependents::DependentGuard;
use super::{Reactor, Source, Start, loop_ended};
use crate::defer::{Cancelled, Deferred, Failure};
use crate::driver::Adopted;
use crate::factory::{ErasedFactory, FactorySlot};
use crate::protocol::Protocol;
use crate::transport::{Connection, Transport};

pub(super) type Done = Box<dyn FnOnce(Result<Transport, Failure>)>;

/// A socket for the turn to serve.
pub(super) struct AdoptionCell {
    /// `Some` until the turn takes it or the Deferred is cancelled.
    pub(super) pending: RefCell<Option<PendingAdoption>>,
    pub(super) place: Source,
}

/// An adopted socket or pipe, and the program at its other end if the two end together.
pub(super) struct AdoptionSource {
    pub(super) adopted: Adopted,
    pub(super) attached: Option<DependentGuard>,
}

impl From<Adopted> for AdoptionSource {
    fn from(adopted: Adopted) -> AdoptionSource {
        AdoptionSource { adopted, attached: None }
    }
}

pub(super) struct PendingAdoption {
    pub(super) source: AdoptionSource,
    pub(super) factory: FactorySlot,
    pub(super) done: Done,
}

impl AdoptionCell {
    pub(super) fn start<P: Protocol>(
        reactor: &Reactor,
        source: AdoptionSource,
        factory: ErasedFactory,
    ) -> Deferred<Connection<P>> {
        let cell = Rc::new(AdoptionCell { pending: RefCell::new(None), place: factory.place });
        let cancelled = cell.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |resolver| {
            if let Some(pending) = cancelled.pending.take() {
                resolver
                    .errback(Cancelled::of(format!("adopting {}", pending.source.adopted.peer)));
            }
        });
        let done: Done = Box::new(move |outcome| {
            resolver.resolve(outcome.map(|transport| transport.connection()));
        });
        let factory = FactorySlot::new(factory.factory.take());
        *cell.pending.borrow_mut() = Some(PendingAdoption { source, factory, done });
        reactor.start(Start::Adoption(cell));
        deferred
    }

    /// The loop is dropped, or its run is over.
    pub(super) fn abandon(&self) {
        if let Some(PendingAdoption { done, .. }) = self.pending.take() {
            done(Err(loop_ended()));
        }
    }
}

/// An adoption whose socket is served, and whose protocol is not built yet.
pub(super) struct OpeningAdoption {
    pub(super) factory: FactorySlot,
    pub(super) done: Done,
    /// `Some` until the connection has it.
    pub(super) attached: Option<DependentGuard>,
}
