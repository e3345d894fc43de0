//! The peers of a port for datagrams: their addresses, for Python and for the system, and its
//! [`Socket`], which sends to them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};

#[cfg(target_os = "linux")]
use couplet_os::datagrams::Name;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

#[cfg(not(target_os = "linux"))]
use crate::batch::Name;

/// Most peers whose addresses a port keeps.
const MOST: usize = 1000;

/// Python's addresses of peers, by their names.
#[derive(Default)]
#[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
pub(crate) struct Peers {
    known: std::collections::HashMap<Name, Py<PyAny>>,
}

impl Peers {
    pub(crate) fn get(&self, py: Python<'_>, name: &Name) -> Option<Py<PyAny>> {
        self.known.get(name).map(|peer| peer.clone_ref(py))
    }

    pub(crate) fn insert(&mut self, name: Name, peer: Py<PyAny>) {
        if self.known.len() == MOST {
            self.known.clear();
        }
        self.known.insert(name, peer);
    }
}

/// The address of a peer, in the format of Twisted's ports: host and port; a path; an abstract
/// name; `None` for a UNIX socket without a name.
pub(crate) fn address(py: Python<'_>, name: &Name) -> PyResult<Py<PyAny>> {
    Ok(match name {
        Name::Inet(inet) => (host(py, *inet)?, inet.port()).into_pyobject(py)?.into_any().unbind(),
        Name::Unix(name) => match name.first() {
            None => py.None(),
            Some(0) => PyBytes::new(py, name).into_any().unbind(),
            Some(_) => OsStr::from_bytes(name).into_pyobject(py)?.into_any().unbind(),
        },
    })
}

/// A host as Python's sockets name it: with its scope, if it has one.
fn host(py: Python<'_>, address: SocketAddr) -> PyResult<String> {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            let socket = py.import(intern!(py, "socket"))?;
            let name = (v6.ip().to_string(), v6.port(), v6.flowinfo(), v6.scope_id());
            let flags =
                socket.getattr("NI_NUMERICHOST")?.bitor(socket.getattr("NI_NUMERICSERV")?)?;
            socket.call_method1("getnameinfo", (name, flags))?.get_item(0)?.extract()
        }
        _ => Ok(address.ip().to_string()),
    }
}

/// The destination of a datagram.
pub(crate) enum Target {
    Inet(SocketAddr),
    Unix(UnixAddr),
}

impl Target {
    /// The destination that Python names by a tuple with a numeric host without a scope, or by the
    /// name of a UNIX socket. `None` for any other, which needs Python's checks.
    pub(crate) fn new(address: &Bound<'_, PyAny>) -> Option<Target> {
        if let Ok(name) = address.cast_exact::<PyString>() {
            return unix(name.extract::<OsString>().ok()?.into_vec()).map(Target::Unix);
        }
        if let Ok(name) = address.cast_exact::<PyBytes>() {
            return unix(name.as_bytes().to_vec()).map(Target::Unix);
        }
        let address = address.cast_exact::<PyTuple>().ok().filter(|address| address.len() == 2)?;
        let host = address.get_item(0).ok()?;
        let host: IpAddr = host.cast::<PyString>().ok()?.to_str().ok()?.parse().ok()?;
        Some(Target::Inet(SocketAddr::new(host, address.get_item(1).ok()?.extract().ok()?)))
    }
}

/// The address of a UNIX socket with this path or abstract name.
fn unix(name: Vec<u8>) -> Option<UnixAddr> {
    match name.split_first()? {
        #[cfg(target_os = "linux")]
        (0, name) => {
            <UnixAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name).ok()
        }
        #[cfg(not(target_os = "linux"))]
        (0, _) => None,
        _ => UnixAddr::from_pathname(OsStr::from_bytes(&name)).ok(),
    }
}

/// The socket of a port.
pub(crate) enum Socket {
    Udp { socket: UdpSocket, is_v6: bool },
    Unix(UnixDatagram),
}

impl Socket {
    /// # Errors
    ///
    /// The system's error: it is no such socket.
    pub(crate) fn new(socket: OwnedFd, is_unix: bool) -> io::Result<Socket> {
        if is_unix {
            return Ok(Socket::Unix(socket.into()));
        }
        let socket = UdpSocket::from(socket);
        Ok(Socket::Udp { is_v6: socket.local_addr()?.is_ipv6(), socket })
    }

    /// The peer, if answers to it may wait for others. A UNIX socket's may not: a protocol learns
    /// from an error of its call that the peer has ended, or is busy.
    pub(crate) fn held_for(&self, name: &Name) -> Option<SocketAddr> {
        match (self, name) {
            (Socket::Udp { is_v6, .. }, Name::Inet(to)) if to.is_ipv6() == *is_v6 => Some(*to),
            _ => None,
        }
    }

    /// Sends a datagram from a connected socket.
    pub(crate) fn send(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Udp { socket, .. } => socket.send(data),
            Socket::Unix(socket) => socket.send(data),
        }
    }

    /// Sends a datagram to an address of the socket's family; `None` for any other.
    pub(crate) fn send_to(&self, data: &[u8], to: &Target) -> Option<io::Result<usize>> {
        match (self, to) {
            (Socket::Udp { socket, is_v6 }, Target::Inet(to)) if to.is_ipv6() == *is_v6 => {
                Some(socket.send_to(data, to))
            }
            (Socket::Unix(socket), Target::Unix(to)) => Some(socket.send_to_addr(data, to)),
            _ => None,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Udp { socket, .. } => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}
