//! The two kinds of ports with places: for connections, and for datagrams.
//!
//! Contract: 160h.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use couplet::endpoints::ServerEndpoint;
use couplet::{Address, DatagramSocket, DatagramTransport, Deferred, ListeningSocket, Port};

/// A socket without a port of this loop.
pub(crate) enum PlacedSocket {
    Streams(ListeningSocket),
    Datagrams(DatagramSocket),
}

/// A port of this loop.
#[derive(Clone)]
pub(super) enum PlacedPort {
    Streams(Port, Arc<dyn ServerEndpoint>),
    Datagrams(DatagramTransport),
}

impl PlacedSocket {
    /// The socket with these descriptors of another process.
    pub(crate) fn from_descriptors(descriptors: Vec<OwnedFd>) -> io::Result<PlacedSocket> {
        let first = descriptors.first().ok_or(io::ErrorKind::InvalidInput)?;
        match DatagramSocket::try_from(first.as_fd().try_clone_to_owned()?) {
            Ok(socket) => Ok(PlacedSocket::Datagrams(socket)),
            Err(_) => ListeningSocket::from_descriptors(descriptors).map(PlacedSocket::Streams),
        }
    }

    /// The descriptors of the socket, for another process.
    pub(crate) fn into_descriptors(self) -> io::Result<Vec<OwnedFd>> {
        match self {
            PlacedSocket::Streams(socket) => socket.into_descriptors(),
            PlacedSocket::Datagrams(socket) => Ok(vec![socket.into()]),
        }
    }

    pub(super) fn address(&self) -> io::Result<Address> {
        match self {
            PlacedSocket::Streams(socket) => socket.address(),
            PlacedSocket::Datagrams(socket) => socket.address(),
        }
    }

    /// Whether no port can be opened at this address while this socket is open.
    pub(super) fn may_overlap(&self, address: &Address) -> bool {
        self.address().is_ok_and(|own| may_overlap(&own, address))
    }

    pub(super) fn into_streams(self) -> Option<ListeningSocket> {
        match self {
            PlacedSocket::Streams(socket) => Some(socket),
            PlacedSocket::Datagrams(_) => None,
        }
    }

    pub(super) fn into_datagrams(self) -> Option<DatagramSocket> {
        match self {
            PlacedSocket::Streams(_) => None,
            PlacedSocket::Datagrams(socket) => Some(socket),
        }
    }

    /// Sets whether the file of a UNIX socket stays when the socket is closed.
    pub(super) fn keep_socket_file(&mut self, is_kept: bool) {
        match self {
            PlacedSocket::Streams(socket) => socket.keep_socket_file(is_kept),
            PlacedSocket::Datagrams(_) => {}
        }
    }
}

/// Whether a port at one of these addresses may be in the way of one at the other.
pub(super) fn may_overlap(own: &Address, other: &Address) -> bool {
    std::mem::discriminant(own) == std::mem::discriminant(other)
        && (own.port(), own.unix()) == (other.port(), other.unix())
}

/// An address that an endpoint would bind.
pub(super) struct Wanted {
    pub(super) address: Address,
    pub(super) is_exclusive: bool,
    pub(super) is_dual: bool,
}

impl Wanted {
    /// Whether the system refuses to bind the second of the two.
    pub(super) fn excludes(&self, other: &Wanted) -> bool {
        let is_shared = !self.is_exclusive && !other.is_exclusive;
        if is_shared || !may_overlap(&self.address, &other.address) {
            return false;
        }
        match (self.address.socket_addr(), other.address.socket_addr()) {
            // The system chooses a free port.
            (Some(own), _) if own.port() == 0 => false,
            (Some(own), Some(their)) => {
                own.ip() == their.ip()
                    || self.receives(own.ip(), their.ip())
                    || other.receives(their.ip(), own.ip())
            }
            _ => true,
        }
    }

    /// Whether a socket on all interfaces receives for this address too.
    fn receives(&self, own: IpAddr, other: IpAddr) -> bool {
        own.is_unspecified() && (own.is_ipv4() == other.is_ipv4() || own.is_ipv6() && self.is_dual)
    }
}

impl PlacedPort {
    pub(super) fn is_listening(&self) -> bool {
        match self {
            PlacedPort::Streams(port, _) => port.is_listening(),
            PlacedPort::Datagrams(port) => port.is_listening(),
        }
    }

    /// The endpoint of a port for connections.
    pub(super) fn endpoint(&self) -> Option<&Arc<dyn ServerEndpoint>> {
        match self {
            PlacedPort::Streams(_, endpoint) => Some(endpoint),
            PlacedPort::Datagrams(_) => None,
        }
    }

    pub(super) fn duplicate(&self) -> Deferred<PlacedSocket> {
        match self {
            PlacedPort::Streams(port, _) => port.duplicate().map(PlacedSocket::Streams),
            PlacedPort::Datagrams(port) => port.duplicate().map(PlacedSocket::Datagrams),
        }
    }

    /// Sets whether this process accepts connections, or reads datagrams; otherwise another one does.
    pub(super) fn serve(&self, on: bool) {
        match self {
            PlacedPort::Streams(port, _) if on => port.resume_producing(),
            PlacedPort::Streams(port, _) => port.pause_producing(),
            PlacedPort::Datagrams(port) => port.set_reading(on),
        }
    }

    /// Sets whether the file of a UNIX socket stays when the port is closed.
    pub(super) fn keep_socket_file(&self, is_kept: bool) {
        match self {
            PlacedPort::Streams(port, _) => port.keep_socket_file(is_kept),
            PlacedPort::Datagrams(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let address = match word.parse::<std::net::SocketAddr>() {
            Ok(address) if rest.contains("udp") => Address::udp(address),
            Ok(address) => address.into(),
            Err(_) => Address::Unix(couplet::UnixAddress::Path(std::path::Path::new(word).into())),
        };
        let (is_exclusive, is_dual) = (!rest.contains("shared"), !rest.contains("only"));
        Wanted { address, is_exclusive, is_dual }
    }

    #[test]
    fn addresses_exclude_each_other_in_both_orders() {
        for (one, other, excluded) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:80 udp", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80 only", "0.0.0.0:80", false),
            ("[::]:80 only", "[::1]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::1]:80", "127.0.0.1:80", false),
            ("127.0.0.1:80 shared", "127.0.0.1:80 shared", false),
            ("127.0.0.1:80 shared", "127.0.0.1:80", true),
            ("/run/a", "/run/a", true),
            ("/run/a", "/run/b", false),
            ("/run/a", "127.0.0.1:80", false),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                assert_eq!(wanted(one).excludes(&wanted(other)), excluded, "{one}, {other}");
            }
        }
    }
}
