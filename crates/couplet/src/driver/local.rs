//! Our end of a connection, and the socket, which is asked on demand: a system call for each connection
//! would show, and few programs ask.

use std::net::SocketAddr;
use std::rc::Rc;

use super::mio::{Handle, address};
use super::{Commands, Key, SockRef};
use crate::address::Address;

/// Our end of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LocalEnd {
    /// Its address, which a port's connections share.
    Known(Rc<Address>),
    /// Its address, and the socket.
    Socket(Rc<Address>, LocalSocket),
    /// The port listens on all addresses of its host. The one that a connection came to costs a system
    /// call, made on demand, before [`Commands::close`].
    Ask(LocalSocket),
}

impl LocalEnd {
    /// Of this address, and of the socket that this connection has in the driver, if it has one.
    pub(crate) fn of(host: impl Into<Rc<Address>>, io: &dyn Commands, key: Key) -> LocalEnd {
        match io.socket(key) {
            Some(socket) => LocalEnd::Socket(host.into(), socket),
            None => LocalEnd::Known(host.into()),
        }
    }

    /// Its address, if it is known or the socket is still open.
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

/// The socket of a connection. Its driver owns it, and it answers until the driver closes it.
#[derive(Clone, Debug)]
pub struct LocalSocket(pub(super) Handle);

impl LocalSocket {
    /// Calls `question` with the socket; `None` once it is closed.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(SockRef<'_>) -> T) -> Option<T> {
        #[cfg(unix)]
        return self.0.ask(|descriptor| question(SockRef::from(&descriptor)));
        #[cfg(not(unix))]
        return self.0.upgrade().map(|socket| question(SockRef::from(&*socket)));
    }

    /// Its local address (getsockname).
    pub(crate) fn address(&self) -> Option<Address> {
        self.ask(|socket| socket.local_addr().ok()).flatten().map(|found| address(&found))
    }

    /// The number of its descriptor.
    #[cfg(unix)]
    pub(crate) fn number(&self) -> Option<std::os::fd::RawFd> {
        self.ask(|socket| std::os::fd::AsRawFd::as_raw_fd(&*socket))
    }
}
