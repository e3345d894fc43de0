//! Name lookups: [`Reactor::resolve`]. Connectors also take the tickets of their lookups from here.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::requests::DriverRequests;
use super::turn::Core;
use super::{Reactor, loop_ended};
use crate::defer::{Deferred, Resolver};
use crate::driver::{Commands, Ticket};
use crate::error::ConnectError;

/// A name, and the resolver that gets its addresses.
pub(super) struct Lookup {
    name: String,
    // Bound: the addresses of one name, from the resolver.
    resolver: Resolver<Vec<IpAddr>>,
}

/// The addresses of a name from the driver's answer: at least one.
pub(super) fn named(
    name: &str,
    answer: io::Result<Vec<IpAddr>>,
) -> Result<Vec<IpAddr>, ConnectError> {
    let answer = answer.and_then(|found| match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(found),
    });
    answer.map_err(|error| ConnectError::NameLookup {
        name: name.to_owned(),
        source: Arc::new(error),
    })
}

impl Reactor {
    /// Looks up the addresses of a name, in the system's order; the list is never empty. An IP
    /// address resolves to itself. Twisted's `reactor.resolve`, for all addresses of both families.
    ///
    /// Connecting looks names up automatically; this method is for datagrams and other uses of
    /// addresses. The system's lookups run in separate threads, with the system's timeouts; use
    /// [`Deferred::add_timeout`] for a shorter one. Cancelling takes effect immediately.
    ///
    /// ```
    /// # fn main() -> couplet::Result<()> {
    /// let addresses = couplet::run_until(|reactor| reactor.resolve("127.0.0.1"))?;
    /// assert_eq!(addresses, ["127.0.0.1".parse::<std::net::IpAddr>()?]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The Deferred fails with [`ConnectError::NameLookup`] if the name does not exist or has no
    /// address, or if no name server can be asked; and with [`Cancelled`](crate::defer::Cancelled)
    /// if the run ends first.
    #[track_caller]
    pub fn resolve(&self, name: impl Into<String>) -> Deferred<Vec<IpAddr>> {
        let name = name.into();
        if let Ok(address) = name.parse() {
            return Deferred::succeed(vec![address]);
        }
        self.request(|records| &records.names, |_, resolver| Lookup { name, resolver })
    }
}

impl Core {
    /// Step 6: begins the requested lookups, and forgets cancelled ones.
    pub(super) fn start_lookups(&mut self, io: &mut dyn Commands) {
        let (fresh, cancelled) = DriverRequests::take(&self.reactor.records.names);
        for (ticket, lookup) in fresh {
            io.resolve(ticket, &lookup.name);
            self.lookups.insert(ticket, lookup);
        }
        for ticket in cancelled {
            if let Some(lookup) = self.lookups.remove(&ticket) {
                io.forget(ticket);
                drop(lookup);
            }
        }
    }

    #[inline(never)]
    pub(super) fn name_resolved(
        &mut self,
        io: &mut dyn Commands,
        ticket: Ticket,
        answer: io::Result<Vec<IpAddr>>,
    ) {
        let _hold = self.reactor.records.hold("name lookup");
        match self.lookups.remove(&ticket) {
            Some(Lookup { name, resolver }) => {
                resolver.resolve(named(&name, answer).map_err(Into::into));
            }
            None => self.connecting.name_resolved(io, ticket, answer),
        }
    }

    /// Ends a run: fails the Deferreds of all unfinished lookups.
    pub(super) fn give_up_lookups(&mut self, io: &mut dyn Commands) {
        let fresh = DriverRequests::take_all(&self.reactor.records.names);
        let begun = std::mem::take(&mut self.lookups);
        for ticket in begun.keys() {
            io.forget(*ticket);
        }
        for (_, lookup) in begun.into_iter().chain(fresh) {
            lookup.resolver.errback(loop_ended());
        }
    }
}
