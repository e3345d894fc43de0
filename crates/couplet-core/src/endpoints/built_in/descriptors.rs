//! The part of the grammar for existing descriptors: `stdio:`, and `fd:N` for connecting.
//!
//! Contract: 145b.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::defer::{Deferred, Result};
use crate::driver::{ConnectedSocket, Pipe};
use crate::endpoints::grammar::{Part, Parts};
use crate::endpoints::{ClientEndpoint, EndpointError};
use crate::error::Plain;
use crate::factory::ErasedFactory;
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use crate::transport::{Connection, Transport};

/// `stdio:`: standard input and output, as one connection. Twisted's `StandardIOEndpoint`.
///
/// Anything that the program itself prints goes to the same output.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdioClient;

/// `fd:N`, for connecting: the inherited descriptor N, which is a connected stream socket, a pipe,
/// a terminal or a file. The descriptor itself stays open.
#[derive(Clone, Debug)]
pub struct FdClient {
    number: i32,
    place: Part,
}

impl FdClient {
    /// The descriptor with this number.
    #[must_use]
    pub fn new(number: i32) -> FdClient {
        FdClient { number, place: Part::standalone(number.to_string()) }
    }
}

impl ClientEndpoint for StdioClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let adopted = match reactor.inherited(0) {
            Some(stdio) => stdio.map(|stdio| reactor.adopt_prepared(stdio, factory)),
            None => Pipe::stdio().and_then(|stdio| reactor.adopt_pipe(stdio, factory)),
        };
        match adopted {
            Ok(connecting) => connecting.map(|connection| connection.transport()),
            Err(error) => Deferred::fail(error),
        }
    }
}

impl ClientEndpoint for FdClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let number = self.number;
        match adopt(number, reactor, factory) {
            Ok(connecting) => connecting.map(|connection| connection.transport()),
            Err(error) => {
                let error = format!("cannot use descriptor {number}: {}", Plain(&error));
                Deferred::fail(self.place.error(error))
            }
        }
    }
}

fn adopt(
    number: i32,
    reactor: &Reactor,
    factory: ErasedFactory,
) -> io::Result<Deferred<Connection<Box<dyn Protocol>>>> {
    if let Some(inherited) = reactor.inherited(number) {
        return inherited.map(|inherited| reactor.adopt_prepared(inherited, factory));
    }
    match ConnectedSocket::inherited(number)? {
        Some(socket) => reactor.adopt(socket, factory),
        None => reactor.adopt_pipe(Pipe::inherited(number)?, factory),
    }
}

pub(super) fn stdio(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    // `stdio:` has an empty part after the colon.
    if let Some(part) = parts.positional().filter(|part| !part.text().is_empty()) {
        return Err(part.error("expected nothing after stdio:"));
    }
    Ok(Arc::new(StdioClient))
}

pub(super) fn fd(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let form = parts.form("N, the number of an open descriptor");
    let place = parts.positional().ok_or_else(|| parts.missing("number", &form))?;
    let number = place.number("the number of a descriptor", 0, i32::MAX as u64 - 1)? as i32;
    Ok(Arc::new(FdClient { number, place: place.with_value(number) }))
}

impl fmt::Display for StdioClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stdio:")
    }
}

impl fmt::Display for FdClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd:{}", self.number)
    }
}
