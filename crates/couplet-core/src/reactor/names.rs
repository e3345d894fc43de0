//! Name lookups: [`Reactor::resolve`]. Connectors also take the tickets of their lookups from here.
//!
//! Contract: 32, 141, 142a.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use super::requests::Lookup;
use crate::defer::Deferred;
use crate::error::ConnectError;
use crate::recorder::Reactor;

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
        self.request("lookup", |records| &records.names, |_, resolver| Lookup { name, resolver })
    }
}
