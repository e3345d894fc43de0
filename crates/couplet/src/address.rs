//! Addresses of connections and ports. Depends on no other room.
//!
//! Twisted's `IPv4Address`, `IPv6Address` and `UNIXAddress` as one enum.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use couplet_os::interfaces::interface_number;

/// The address of one end of a connection, or of a listening port.
///
/// It formats as an endpoint string: `tcp:127.0.0.1:8000`, `tcp:[::1]:8000`.
///
/// ```
/// use couplet::Address;
///
/// let address: Address = "127.0.0.1:8000".parse::<std::net::SocketAddr>().unwrap().into();
/// assert_eq!(address.to_string(), "tcp:127.0.0.1:8000");
/// assert_eq!(address.port(), Some(8000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address. An IPv4 peer of a dual-stack port appears as IPv4.
    Tcp(SocketAddr),
}

impl Address {
    /// The socket address, including the scope of a link-local IPv6 address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(addr) => Some(*addr),
        }
    }

    /// The IP address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|addr| addr.ip())
    }

    /// The port number.
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|addr| addr.port())
    }

    /// True for the wildcard address, as of a port that listens on all interfaces.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

/// Parses an IP address with an optional scope, an interface number or name: `fe80::1%2`,
/// `fe80::1%eth0`. Only IPv6 addresses have scopes.
pub(crate) fn scoped_ip(text: &str, port: u16) -> Result<SocketAddr, NotAnIp<'_>> {
    let Some((ip, scope)) = split_scope(text) else {
        let ip: IpAddr = text.parse().map_err(|_| NotAnIp::NoAddress)?;
        return Ok(SocketAddr::new(ip, port));
    };
    let number = match scope.parse() {
        Ok(number) => number,
        Err(_) => interface_number(scope).ok_or(NotAnIp::NoInterface(scope))?,
    };
    Ok(SocketAddrV6::new(ip, port, 0, number).into())
}

/// Splits an IPv6 address from its scope.
pub(crate) fn split_scope(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (ip, scope) = text.split_once('%')?;
    Some((ip.parse().ok()?, scope))
}

/// Why [`scoped_ip`] rejected its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAnIp<'a> {
    NoAddress,
    /// No interface has this name.
    NoInterface(&'a str),
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Address {
        match addr {
            SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => Address::Tcp((v4, v6.port()).into()),
                None => Address::Tcp(addr),
            },
            SocketAddr::V4(_) => Address::Tcp(addr),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "tcp:{addr}"),
        }
    }
}
