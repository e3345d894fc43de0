//! The PROXY protocol's part of the grammar: `haproxy:` before another endpoint. A port reads the
//! header, a client writes it.
//!
//! Contract: 145e.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::defer::{Deferred, Result};
use crate::endpoints::grammar::{Part, Parts, Seconds, print_over};
use crate::endpoints::{
    ClientEndpoint, EndpointError, Reload, ServerEndpoint, SharedPort, Sharing,
};
use crate::factory::{ErasedFactory, NewConnection, Purpose};
use crate::layers::{Layer, ProxyHeader, ProxyReader, ProxyVersion, ProxyWriter};
use crate::reactor::{Port, Reactor};
use crate::transport::Transport;

/// `haproxy:`, for listening: `haproxy:ENDPOINT[:trusted=IP[/LENGTH],…][:header-timeout=SECONDS]`.
/// Each connection begins with a PROXY header, which gives the client's address.
///
/// With `trusted=`, which may be repeated, only peers with these addresses may connect; others are
/// rejected. Without it, any peer that can connect can claim any address. Peers on UNIX sockets are
/// trusted. Twisted's `proxyEndpoint`.
#[derive(Clone, Debug)]
pub struct ProxyServer {
    over: Arc<dyn ServerEndpoint>,
    trusted: Vec<IpNetwork>,
    header_timeout: Option<Duration>,
}

/// `haproxy:`, for connecting: `haproxy:ENDPOINT[:version=1|2]`. Writes a PROXY header, by default
/// of version 1, which is text.
///
/// The header contains the addresses of the client on whose behalf the connection is made, by
/// [`ErasedFactory::on_behalf_of`](crate::factory::ErasedFactory::on_behalf_of), or else the
/// addresses of the connection itself. For a client without IP addresses, such as one on a UNIX
/// socket, and for a [check](crate::factory::ErasedFactory::for_check), which has no client, the
/// header marks them as unknown (`UNKNOWN`, or `LOCAL` in version 2).
#[derive(Clone, Debug)]
pub struct ProxyClient {
    over: Arc<dyn ClientEndpoint>,
    version: ProxyVersion,
}

/// The addresses that share the first `bits` bits of `ip`.
#[derive(Clone, Copy, Debug)]
struct IpNetwork {
    ip: IpAddr,
    bits: u8,
}

impl IpNetwork {
    fn read(text: &str) -> Option<IpNetwork> {
        let (ip, bits) = text.split_once('/').unwrap_or((text, ""));
        let ip: IpAddr = ip.trim_matches(['[', ']']).parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            "" if !text.contains('/') => most,
            bits => bits.parse().ok().filter(|given| *given <= most)?,
        };
        Some(IpNetwork { ip, bits })
    }

    /// The address as IPv6 bits; an IPv4 address is mapped.
    fn ipv6_bits(ip: IpAddr) -> u128 {
        match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        }
        .to_bits()
    }

    fn contains(self, ip: IpAddr) -> bool {
        let bits = if self.ip.is_ipv4() { 96 + self.bits } else { self.bits };
        let mask = Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0));
        (IpNetwork::ipv6_bits(self.ip) ^ IpNetwork::ipv6_bits(ip)) & mask.to_bits() == 0
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}/{}", self.bits),
            IpAddr::V6(ip) => write!(f, "[{ip}/{}]", self.bits),
        }
    }
}

impl ProxyServer {
    /// Wraps this endpoint, and accepts headers from any peer.
    #[must_use]
    pub fn new(over: impl ServerEndpoint) -> ProxyServer {
        ProxyServer { over: Arc::new(over), trusted: Vec::new(), header_timeout: None }
    }

    /// Trusts peers whose address begins with the first `bits` of `ip`. After the first call, all
    /// others are rejected.
    #[must_use]
    pub fn trust(mut self, ip: IpAddr, bits: u8) -> ProxyServer {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        self.trusted.push(IpNetwork { ip, bits: bits.min(most) });
        self
    }

    /// Sets the time limit for the header; 10 s by default. Zero prints as a nanosecond, the shortest
    /// time that an endpoint string can give.
    #[must_use]
    pub fn header_timeout(mut self, timeout: Duration) -> ProxyServer {
        self.header_timeout = Some(timeout);
        self
    }
}

fn reader(
    new: &NewConnection<'_>,
    trusted: &[IpNetwork],
    timeout: Option<Duration>,
) -> Option<Box<dyn Layer>> {
    let peer = new.peer().ip();
    let is_trusted = |ip| trusted.is_empty() || trusted.iter().any(|network| network.contains(ip));
    if !peer.is_none_or(is_trusted) {
        log_warn!(peer = %new.peer(), "rejected: not a trusted proxy");
        return None;
    }
    let now = new.reactor().now();
    let reader = ProxyReader::new(now);
    Some(Box::new(match timeout {
        Some(timeout) => reader.deadline_at(now.checked_add(timeout)),
        None => reader,
    }))
}

impl ServerEndpoint for ProxyServer {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        let (trusted, timeout) = (self.trusted.clone(), self.header_timeout);
        let factory = factory.layered("haproxy", move |new| reader(new, &trusted, timeout));
        self.over.listen(reactor, factory)
    }

    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        Ok(self.over.share(sharing)?.wrapped(|over| ProxyServer { over, ..self.clone() }))
    }

    fn reload(&self) -> Result<Reload> {
        self.over.reload()
    }
}

impl ProxyClient {
    /// Wraps this endpoint, and writes headers of version 1.
    #[must_use]
    pub fn new(over: impl ClientEndpoint) -> ProxyClient {
        ProxyClient { over: Arc::new(over), version: ProxyVersion::V1 }
    }

    /// Sets the version of the header.
    #[must_use]
    pub fn version(mut self, version: ProxyVersion) -> ProxyClient {
        self.version = version;
        self
    }
}

/// The header for a client at the first address, connected to the second. Only IP addresses can be
/// expressed.
fn header((client, server): (Address, Address)) -> ProxyHeader {
    let has_place = |address: &Address| address.socket_addr().is_some();
    match has_place(&client) && has_place(&server) {
        true => ProxyHeader::new(client, server),
        false => ProxyHeader::default(),
    }
}

fn writer(header: &ProxyHeader, peer: &Address, version: ProxyVersion) -> Option<Box<dyn Layer>> {
    match ProxyWriter::new(header, version) {
        Ok(writer) => Some(Box::new(writer)),
        Err(error) => {
            log_error!(%peer, %error, "cannot write a PROXY header");
            None
        }
    }
}

impl ClientEndpoint for ProxyClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let version = self.version;
        let purpose = factory.purpose().clone();
        let factory = factory.layered("haproxy", move |new| {
            let ends = match &purpose {
                Purpose::Client(peer, host) => Some((peer.clone(), host.clone())),
                Purpose::Own => new.host().map(|ours| (ours, new.peer().clone())),
                Purpose::Check => None,
            };
            writer(&ends.map(header).unwrap_or_default(), new.peer(), version)
        });
        self.over.connect(reactor, factory)
    }

    fn host(&self) -> Option<&str> {
        self.over.host()
    }
}

pub(super) fn server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let mut trusted = Vec::new();
    while let Some(part) = parts.keyword("trusted") {
        for one in part.text().split(',') {
            trusted.push(IpNetwork::read(one).ok_or_else(|| not_a_network(&part))?);
        }
    }
    let header_timeout = parts.keyword("header-timeout").map(|part| part.seconds()).transpose()?;
    let over = parts.server()?;
    Ok(Arc::new(ProxyServer { over, trusted, header_timeout }))
}

fn not_a_network(part: &Part) -> EndpointError {
    part.error(
        "expected IP addresses, optionally with a prefix length, such as 10.0.0.0/8,192.0.2.1 or [::1]",
    )
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let version = match parts.keyword("version") {
        None => ProxyVersion::V1,
        Some(part) => match part.text() {
            "1" => ProxyVersion::V1,
            "2" => ProxyVersion::V2,
            _ => return Err(part.error("expected 1 or 2")),
        },
    };
    let over = parts.client()?;
    Ok(Arc::new(ProxyClient { over, version }))
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_over(f, "haproxy", &self.over.to_string())?;
        self.trusted.iter().try_for_each(|network| write!(f, ":trusted={network}"))?;
        let timeout = self.header_timeout;
        timeout.iter().try_for_each(|time| write!(f, ":header-timeout={}", Seconds(*time)))
    }
}

impl fmt::Display for ProxyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_over(f, "haproxy", &self.over.to_string())?;
        match self.version {
            ProxyVersion::V1 => Ok(()),
            ProxyVersion::V2 => write!(f, ":version=2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::TcpServer;

    #[test]
    fn the_loops_that_share_a_port_trust_the_same_peers() {
        let server = ProxyServer::new(TcpServer::new(([127, 0, 0, 1], 0).into()));
        let text = format!(
            "{:?}",
            server.trust([10, 1, 2, 3].into(), 8).share(&Sharing::new(2)).expect("a port")
        );
        assert!(text.contains("10.1.2.3"), "{text}");
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_with_its_bits_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", ["10.0.0.1", "10.255.0.1", "::ffff:10.0.0.1"], ["11.0.0.1", "a00::"]),
            ("10.1.2.2/31", ["10.1.2.2", "10.1.2.3", "::ffff:10.1.2.3"], ["10.1.2.4", "::"]),
            ("10.1.2.3", ["10.1.2.3", "10.1.2.3", "::ffff:10.1.2.3"], ["10.1.2.2", "::1"]),
            ("0.0.0.0/0", ["0.0.0.0", "255.0.0.1", "::ffff:1.2.3.4"], ["::1", "fd00::1"]),
            ("fd00::/7", ["fc00::", "fd00::1", "fdff::"], ["fe00::", "10.0.0.1"]),
            ("2001:db8::/32", ["2001:db8::", "2001:db8::1", "2001:db8:f::"], ["2001:db9::", "::1"]),
            (
                "2001:db8::2/127",
                ["2001:db8::2", "2001:db8::3", "2001:db8::3"],
                ["2001:db8::4", "::2"],
            ),
        ] {
            let network = IpNetwork::read(network).expect("a network");
            let contains = |ip: &str| network.contains(ip.parse().expect("an address"));
            assert_eq!(inside.map(contains), [true; 3], "{network}");
            assert_eq!(outside.map(contains), [false; 2], "{network}");
        }
    }

    #[test]
    fn all_bits_of_an_address_may_be_trusted() {
        let trust = |ip: &str| {
            let server = ProxyServer::new(TcpServer::new(([127, 0, 0, 1], 0).into()));
            server.trust(ip.parse().expect("an address"), 255).trusted
        };
        let [one] = trust("2001:db8::1")[..] else { panic!("one network") };
        let [ours, other] = ["2001:db8::1", "2001:db8::"].map(|ip| ip.parse().expect("an address"));
        assert!(one.contains(ours) && !one.contains(other));
    }
}
