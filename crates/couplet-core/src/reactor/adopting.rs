//! Connections that the user made by other means, and passes to the loop. Twisted's
//! `adoptStreamConnection`.

use std::cell::RefCell;
use std::rc::Rc;

use super::dependents::Attached;
use super::opening::Opening;
use super::turn::Core;
use super::{Reactor, Source, Start, loop_ended};
use crate::defer::{Cancelled, Deferred, Failure};
use crate::driver::{Adopted, Commands, LocalEnd};
use crate::factory::{ErasedFactory, FactorySlot};
use crate::protocol::Protocol;
use crate::transport::{Connection, Transport};

pub(super) type Done = Box<dyn FnOnce(Result<Transport, Failure>)>;

/// A socket for the turn to serve.
pub(super) struct AdoptionCell {
    /// `Some` until the turn takes it or the Deferred is cancelled.
    pending: RefCell<Option<Pending>>,
    place: Source,
}

/// An adopted socket or pipe, and the program at its other end if the two end together.
pub(super) struct Given {
    pub(super) adopted: Adopted,
    pub(super) attached: Option<Attached>,
}

impl From<Adopted> for Given {
    fn from(adopted: Adopted) -> Given {
        Given { adopted, attached: None }
    }
}

struct Pending {
    given: Given,
    factory: FactorySlot,
    done: Done,
}

impl AdoptionCell {
    pub(super) fn start<P: Protocol>(
        reactor: &Reactor,
        given: Given,
        factory: ErasedFactory,
    ) -> Deferred<Connection<P>> {
        let cell = Rc::new(AdoptionCell { pending: RefCell::new(None), place: factory.place });
        let cancelled = cell.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |resolver| {
            if let Some(pending) = cancelled.pending.take() {
                resolver.errback(Cancelled::of(format!("adopting {}", pending.given.adopted.peer)));
            }
        });
        let done: Done = Box::new(move |outcome| {
            resolver.resolve(outcome.map(|transport| transport.connection()));
        });
        let factory = FactorySlot::new(factory.factory.take());
        *cell.pending.borrow_mut() = Some(Pending { given, factory, done });
        reactor.start(Start::Adoption(cell));
        deferred
    }

    /// The loop is dropped, or its run is over.
    pub(super) fn abandon(&self) {
        if let Some(Pending { done, .. }) = self.pending.take() {
            done(Err(loop_ended()));
        }
    }
}

/// An adoption whose socket is served, and whose protocol is not built yet.
pub(super) struct Adopting {
    pub(super) factory: FactorySlot,
    pub(super) done: Done,
    /// `Some` until the connection has it.
    pub(super) attached: Option<Attached>,
}

impl Core {
    /// Step 6: serves the socket. The factory is in use until it has built the protocol.
    pub(super) fn start_adoption(&mut self, io: &mut dyn Commands, cell: &AdoptionCell) {
        if self.reactor.is_stopping() {
            return cell.abandon();
        }
        let Some(Pending { given, factory, done }) = cell.pending.take() else { return };
        let Given { adopted, attached } = given;
        let (peer, host) = (adopted.peer.clone(), adopted.host.clone());
        let key = match io.adopt(adopted) {
            Ok(key) => key,
            Err(error) => return done(Err(error.into())),
        };
        factory.call("do_start", |factory| factory.do_start());
        self.note_accepted(key, cell.place);
        let ends = (peer, LocalEnd::of(host, io, key));
        self.establish(io, key, ends, Opening::Adoption(Adopting { factory, done, attached }));
    }
}
