//! The part of the grammar for datagrams: `udp:`. Without streams, `udp:` cannot be combined with
//! other kinds: [`UdpServer`] and [`UdpClient`] are parsed from strings. A server is an endpoint for
//! [`Reactor::listen_datagrams`](crate::Reactor::listen_datagrams).
//!
//! Contract: 145f.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::tcp::{Spelling, print_address, print_peer};
use crate::address::scoped_ip;
use crate::defer::Result;
use crate::endpoints::EndpointError;
use crate::endpoints::grammar::Parts;
use crate::endpoints::kinds::parse_datagrams;
use crate::reactor::DatagramEndpoint;

/// `udp:`, for receiving: `udp:PORT[:interface=HOST]` or `udp:HOST:PORT`. HOST is an IP address or
/// `localhost`; without it, the port receives on all interfaces.
///
/// ```
/// use couplet::endpoints::UdpServer;
///
/// let local: UdpServer = "udp:9000:interface=localhost".parse()?;
/// assert_eq!(local.address.to_string(), "127.0.0.1:9000");
/// assert_eq!(local.to_string(), "udp:9000:interface=127.0.0.1");
/// let error = "udp:9000:inteface=localhost".parse::<UdpServer>().unwrap_err();
/// assert_eq!((error.at(), error.hint()), (9, Some("udp:9000:interface=localhost")));
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpServer {
    /// The address to bind; `[::]` receives from IPv4 too.
    pub address: SocketAddr,
}

/// `udp:`, for sending: `udp:HOST:PORT`, or `udp:PORT` on this machine.
///
/// ```
/// use couplet::endpoints::UdpClient;
///
/// let peer: UdpClient = "udp:[::1]:9000".parse()?;
/// assert_eq!((&*peer.host, peer.port), ("::1", 9000));
/// assert_eq!(peer.address().map(|address| address.to_string()), Some("[::1]:9000".to_owned()));
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpClient {
    /// A name or an IP address, without brackets. The scope of an IPv6 address follows a `%`.
    pub host: String,
    /// The port number.
    pub port: u16,
}

impl From<&UdpServer> for DatagramEndpoint {
    fn from(server: &UdpServer) -> DatagramEndpoint {
        DatagramEndpoint::from(server.address)
    }
}

impl UdpClient {
    /// The peer's address, unless the host is a name.
    pub fn address(&self) -> Option<SocketAddr> {
        scoped_ip(&self.host, self.port).ok()
    }
}

impl FromStr for UdpServer {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<UdpServer, EndpointError> {
        parse_datagrams(text, |parts: &mut Parts| {
            let form = parts.form("PORT or HOST:PORT");
            let (host, port) = parts.host_and_port(&form)?;
            let (address, _) = parts.address_to_listen(host, &port, &form, Spelling::WithKind)?;
            Ok(UdpServer { address })
        })
    }
}

impl FromStr for UdpClient {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<UdpClient, EndpointError> {
        parse_datagrams(text, |parts: &mut Parts| {
            let form = parts.form("PORT or HOST:PORT");
            let (host, port) = parts.host_and_port(&form)?;
            let host = host.map(|host| host.host()).transpose()?;
            let host = host.unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
            Ok(UdpClient { host, port: port.port(1)? })
        })
    }
}

impl fmt::Display for UdpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp:")?;
        print_address(f, &self.address)
    }
}

impl fmt::Display for UdpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp:")?;
        print_peer(f, &self.host, self.port)
    }
}
