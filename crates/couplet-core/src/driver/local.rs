//! The local end of a connection and its socket. The socket is queried on demand: a system call per
//! connection would be measurable, and few programs need the result.
//!
//! Contract: 64b.

use std::net::SocketAddr;
use std::rc::Rc;

use super::mio::{Handle, address};
use super::{Commands, Key, SockRef, SocketOption, SocketOptionKind};
use crate::address::Address;

/// The local end of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LocalEnd {
    /// The address, shared by all connections of a port.
    Known(Rc<Address>),
    /// The address and the socket.
    Socket(Rc<Address>, LocalSocket),
    /// The port listens on all addresses of its host. Finding the address of this connection costs
    /// a system call, made on demand, before [`Commands::close`].
    Ask(LocalSocket),
}

impl LocalEnd {
    /// The local end at address `host`, with the connection's socket if the driver has one.
    pub(crate) fn for_connection(
        host: impl Into<Rc<Address>>,
        io: &dyn Commands,
        key: Key,
    ) -> LocalEnd {
        match io.socket(key) {
            Some(socket) => LocalEnd::Socket(host.into(), socket),
            None => LocalEnd::Known(host.into()),
        }
    }

    /// The address, if it is known or the socket is still open.
    pub(crate) fn address(&self) -> Option<Address> {
        match self {
            LocalEnd::Known(host) | LocalEnd::Socket(host, _) => Some(Address::clone(host)),
            LocalEnd::Ask(socket) => socket.address(),
        }
    }
}

impl From<SocketAddr> for LocalEnd {
    fn from(address: SocketAddr) -> LocalEnd {
        LocalEnd::Known(Rc::new(address.into()))
    }
}

/// The socket of a connection. The driver owns it; queries succeed until the driver closes it.
#[derive(Clone, Debug)]
pub struct LocalSocket(pub(super) Handle);

impl LocalSocket {
    /// Calls `question` with the socket; `None` once the socket is closed.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(SockRef<'_>) -> T) -> Option<T> {
        #[cfg(unix)]
        return self.0.ask(|descriptor| question(SockRef::from(&descriptor)));
        #[cfg(not(unix))]
        return self.0.upgrade().map(|socket| question(SockRef::from(&*socket)));
    }

    /// An option: the value requested last, of those that the turn has yet to set, otherwise the
    /// system's. `None` once the socket is closed, and for an option that it does not have.
    pub(crate) fn option(
        &self,
        kind: SocketOptionKind,
        requested: impl IntoIterator<Item = SocketOption, IntoIter: DoubleEndedIterator>,
    ) -> Option<SocketOption> {
        let system = self.ask(|socket| kind.read(&socket))?.ok()?;
        Some(requested.into_iter().rfind(|option| option.kind() == Some(kind)).unwrap_or(system))
    }

    /// The local address (getsockname).
    pub(crate) fn address(&self) -> Option<Address> {
        self.ask(|socket| socket.local_addr().ok()).flatten().map(|found| address(&found))
    }

    /// The descriptor number.
    #[cfg(unix)]
    pub(crate) fn number(&self) -> Option<std::os::fd::RawFd> {
        self.ask(|socket| std::os::fd::AsRawFd::as_raw_fd(&*socket))
    }
}
