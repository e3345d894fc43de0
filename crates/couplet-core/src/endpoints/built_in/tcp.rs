//! The TCP part of the grammar: `tcp:` endpoints, and the short forms without `tcp:`.
//!
//! Parsing and formatting are inverse: a formatted endpoint parses back with every option.
//!
//! Contract: 33, 145, 145g.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::address::{NotAnIp, host_of, scoped_ip, split_scope};
use crate::defer::{Deferred, Result};
use crate::driver::{ConnectOptions, ListenOptions};
use crate::endpoints::grammar::{Part, Parts, Seconds, print_limits, print_switches, quote};
use crate::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint, SharedPort, Sharing};
use crate::factory::ErasedFactory;
use crate::reactor::{Port, Reactor};
use crate::switches::Switch;
use crate::transport::Transport;

/// The keywords of a port's switches.
const SERVER_SWITCHES: [(&str, Switch); 4] = [
    ("reuse_port", Switch::ReusePort),
    ("reuse_addr", Switch::ReuseAddr),
    ("dual_stack", Switch::DualStack),
    ("no_delay", Switch::NoDelay),
];

/// The keywords of a connection's switches.
const CLIENT_SWITCHES: [(&str, Switch); 1] = [("no_delay", Switch::NoDelay)];

/// `tcp:`, for listening: `[tcp:][HOST:]PORT[:interface=IP][:backlog=N][:connections=N][:buffered=N][:buffered_by_peer=N]`, plus `reuse_port=`,
/// `reuse_addr=`, `dual_stack=` and `no_delay=`, each followed by `yes` or `no`. HOST is an IP
/// address, `localhost` for 127.0.0.1, or empty for all addresses. `tcp6:` is IPv6 only.
///
/// Twisted's `TCP4ServerEndpoint` and `TCP6ServerEndpoint`.
#[derive(Clone, Debug)]
pub struct TcpServer {
    /// The address to bind; `[::]` accepts IPv4 too, unless `dual_stack` is off.
    pub address: SocketAddr,
    /// The port's options.
    pub options: ListenOptions,
}

impl TcpServer {
    /// Listens on this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> TcpServer {
        TcpServer { address, options: ListenOptions::default() }
    }

    /// Sets the port's options.
    #[must_use]
    pub fn options(mut self, options: ListenOptions) -> TcpServer {
        self.options = options;
        self
    }
}

/// `tcp:`, for connecting: `[tcp:]HOST:PORT[:timeout=SECONDS][:bindAddress=IP][:bindPort=N]
/// [:no_delay=yes|no]`, or just a port, on this machine.
///
/// Twisted's `HostnameEndpoint`, `TCP4ClientEndpoint` and `TCP6ClientEndpoint`.
#[derive(Clone, Debug)]
pub struct TcpClient {
    /// A name or an IP address, without brackets. The scope of an IPv6 address follows a `%`.
    pub host: String,
    /// The port number.
    pub port: u16,
    /// The connection's options.
    pub options: ConnectOptions,
    /// The flow of an IPv6 address, which has no place in its text.
    flow: u32,
}

impl From<SocketAddr> for TcpClient {
    fn from(address: SocketAddr) -> TcpClient {
        let flow = match address {
            SocketAddr::V6(address) => address.flowinfo(),
            SocketAddr::V4(_) => 0,
        };
        TcpClient { flow, ..TcpClient::new(host_of(&address), address.port()) }
    }
}

impl TcpClient {
    /// Connects to this port of a host. An IPv6 address may be in brackets, as in a URL.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> TcpClient {
        let host = host.into();
        let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let ip = inside.filter(|ip| scoped_ip(ip, port).is_ok_and(|it| it.is_ipv6()));
        let host = ip.map(str::to_owned).unwrap_or(host);
        TcpClient { host, port, options: ConnectOptions::default(), flow: 0 }
    }

    /// The address with its flow, if it has one.
    fn address_with_flow(&self) -> Option<SocketAddr> {
        match scoped_ip(reachable(&self.host), self.port) {
            Ok(SocketAddr::V6(mut address)) if self.flow != 0 => {
                address.set_flowinfo(self.flow);
                Some(SocketAddr::V6(address))
            }
            _ => None,
        }
    }

    /// Sets the connection's options.
    #[must_use]
    pub fn options(mut self, options: ConnectOptions) -> TcpClient {
        self.options = options;
        self
    }
}

impl ServerEndpoint for TcpServer {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        Ok(reactor.listen_at(self.address, self.options.clone(), factory)?)
    }

    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        SharedPort::tcp(self.address, &self.options, sharing, self.to_string())
    }
}

impl ClientEndpoint for TcpClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let options = self.options.clone();
        let connecting = match self.address_with_flow() {
            Some(address) => reactor.connect_to_deferred(address, options, factory),
            None => {
                let target = (reachable(&self.host), self.port);
                reactor.connect_to_deferred(target, options, factory)
            }
        };
        connecting.map(|connection| connection.transport())
    }

    /// The scope of an IPv6 address is not part of a certificate.
    fn host(&self) -> Option<&str> {
        self.host.split('%').next()
    }
}

/// Replaces the unspecified address, which a port on all interfaces displays, by loopback: not
/// every system can connect to the former.
fn reachable(host: &str) -> &str {
    match host.parse() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => "127.0.0.1",
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => "::1",
        _ => host,
    }
}

/// The beginning of the string of an address, which decides the host of a bare port number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// With `tcp:`, `tcp6:` or `udp:`: all interfaces.
    WithKind,
    /// Without, also after wrappers: this machine.
    Bare,
}

pub(super) fn server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let (address, _) = read_address(parts, Spelling::WithKind)?;
    read_server(parts, address, parts.options.clone())
}

/// An endpoint without a kind.
pub(super) fn bare_server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let (address, _) = read_address(parts, Spelling::Bare)?;
    read_server(parts, address, parts.options.clone())
}

/// `tcp6:`, which is IPv6 only unless `dual_stack=yes`.
pub(super) fn server6(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let (address, host) = read_address(parts, Spelling::WithKind)?;
    if let Some(host) = host.filter(|_| address.is_ipv4()) {
        return Err(host.error("tcp6: listens on an IPv6 address, such as [::1]"));
    }
    read_server(parts, address, parts.options.clone().dual_stack(false))
}

/// The address to listen on, and the part that gives it.
fn read_address(
    parts: &mut Parts,
    spelling: Spelling,
) -> Result<(SocketAddr, Option<Part>), EndpointError> {
    let form = parts.form("PORT or HOST:PORT");
    let (host, port) = parts.host_and_port(&form)?;
    parts.address_to_listen(host, &port, &form, spelling)
}

fn read_server(
    parts: &mut Parts,
    address: SocketAddr,
    mut options: ListenOptions,
) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    options = parts.read_limits(options)?;
    parts.read_switches(&SERVER_SWITCHES, &mut options.switches)?;
    Ok(Arc::new(TcpServer { address, options }))
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    read_client(parts, Spelling::WithKind)
}

/// An endpoint without a kind.
pub(super) fn bare_client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    read_client(parts, Spelling::Bare)
}

fn read_client(
    parts: &mut Parts,
    spelling: Spelling,
) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let form = parts.form("HOST:PORT");
    let (host, port) = parts.host_and_port(&form)?;
    let (host, port) = match host {
        Some(host) => (host.host()?, port.port(1)?),
        None if port.is_named() => return Err(parts.missing("host", &form)),
        None if spelling == Spelling::WithKind => return Err(parts.missing("port", &form)),
        None => (Ipv4Addr::LOCALHOST.to_string(), port.port_alone(parts, &form, 1)?),
    };
    let mut options = ConnectOptions::default();
    if let Some(timeout) = parts.keyword("timeout") {
        options = options.timeout(timeout.seconds()?);
    }
    let bind = parts.keyword("bindAddress");
    let from = parts.keyword("bindPort").map(|port| port.port(0)).transpose()?;
    match bind {
        Some(bind) => options = options.bind(bind.interface(from.unwrap_or(0))?),
        None if from.is_some() => return Err(parts.missing("bindAddress", "bindAddress=IP")),
        None => {}
    }
    parts.read_switches(&CLIENT_SWITCHES, &mut options.switches)?;
    Ok(Arc::new(TcpClient { host, port, options, flow: 0 }))
}

impl Parts {
    /// The address to listen on, and the part that gives it: `host`, or `interface=`. Without either,
    /// the spelling decides.
    pub(super) fn address_to_listen(
        &mut self,
        host: Option<Part>,
        port: &Part,
        form: &str,
        spelling: Spelling,
    ) -> Result<(SocketAddr, Option<Part>), EndpointError> {
        // After a host, `interface=` is redundant; it is left over, and reported.
        let interface = if host.is_none() { self.keyword("interface") } else { None };
        self.record_keyword("interface", true);
        let host = host.or(interface);
        let address = match &host {
            Some(host) => host.interface(port.port_to_listen(host)?)?,
            None if spelling == Spelling::WithKind => {
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.port(0)?)
            }
            None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.port_alone(self, form, 0)?),
        };
        Ok((address, host))
    }
}

impl Part {
    pub(super) fn port(&self, least: u64) -> Result<u16, EndpointError> {
        Ok(self.number("a port number", least, 65_535)? as u16)
    }

    /// Parses a port to listen on. If `host` is a name, the error also says that names cannot be
    /// bound.
    fn port_to_listen(&self, host: &Part) -> Result<u16, EndpointError> {
        self.port(0).map_err(|error| match host.is_host_name() {
            true => self.error(format!(
                "{}, and an IP address or localhost in place of {:?}: a port cannot listen on a name",
                error.problem(),
                host.text
            )),
            false => error,
        })
    }

    /// Whether the part is a name other than `localhost`.
    fn is_host_name(&self) -> bool {
        let text = self.text.as_str();
        let is_address = !matches!(scoped_ip(text, 0), Err(NotAnIp::NoAddress));
        !self.bracketed && !text.is_empty() && text != "localhost" && !is_address
    }

    /// Parses a port given without a host and without `tcp:`.
    fn port_alone(&self, parts: &Parts, form: &str, least: u64) -> Result<u16, EndpointError> {
        let text = self.text.as_str();
        if text == "localhost" || scoped_ip(text, 0).is_ok() {
            return Err(parts.missing("port", form));
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) || text.is_empty() {
            return Err(self.error("expected a port or HOST:PORT"));
        }
        self.port(least)
    }

    /// Parses an address to bind. An empty host means all addresses.
    fn interface(&self, port: u16) -> Result<SocketAddr, EndpointError> {
        match self.text.as_str() {
            "" if !self.bracketed && !self.is_named() => {
                Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
            }
            "localhost" => Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
            text => scoped_ip(text, port).map_err(|why| match why {
                NotAnIp::NoInterface(name) => self.no_interface(name),
                NotAnIp::NoAddress => self.error(
                    "an interface is an IP address, such as 127.0.0.1, [::1] or 0.0.0.0, or \
                     localhost",
                ),
            }),
        }
    }

    /// Parses a host to connect to: a name or an IP address.
    pub(super) fn host(self) -> Result<String, EndpointError> {
        if self.text.is_empty() {
            return Err(self.error("missing host name or IP address"));
        }
        if !self.bracketed && self.text.contains(['[', ']', '/', ' ']) {
            return Err(self.error("neither a host name nor an IP address"));
        }
        match scoped_ip(&self.text, 0) {
            Err(NotAnIp::NoInterface(name)) => Err(self.no_interface(name)),
            Ok(SocketAddr::V6(_)) => Ok(self.text),
            _ if self.bracketed => Err(self.error("brackets may only enclose an IPv6 address")),
            _ => Ok(self.text),
        }
    }

    fn no_interface(&self, name: &str) -> EndpointError {
        let name = name.replace(char::is_control, "?");
        self.error(format!("no interface {name:?} on this machine"))
    }
}

impl fmt::Display for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TcpServer { address, options } = self;
        let default = ListenOptions::default();
        write!(f, "tcp:")?;
        print_address(f, address)?;
        print_limits(f, options)?;
        print_switches(f, &SERVER_SWITCHES, options.switches, default.switches)
    }
}

impl fmt::Display for TcpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TcpClient { host, port, options, flow: _ } = self;
        let default = ConnectOptions::default();
        write!(f, "tcp:")?;
        print_peer(f, host, *port)?;
        if options.timeout != default.timeout {
            write!(f, ":timeout={}", Seconds(options.timeout))?;
        }
        if let Some(bind) = &options.bind {
            print_ip(f, "bindAddress", bind)?;
            if bind.port() != 0 {
                write!(f, ":bindPort={}", bind.port())?;
            }
        }
        print_switches(f, &CLIENT_SWITCHES, options.switches, default.switches)
    }
}

/// Writes an address to listen on, after the kind.
pub(super) fn print_address(f: &mut fmt::Formatter<'_>, address: &SocketAddr) -> fmt::Result {
    write!(f, "{}", address.port())?;
    match address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && scope(address) == 0 {
        true => Ok(()),
        false => print_ip(f, "interface", address),
    }
}

/// Writes a host and a port to connect to, after the kind.
pub(super) fn print_peer(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.parse::<Ipv6Addr>().is_ok() || split_scope(host).is_some() {
        return write!(f, "[{}]:{port}", host.replace('\\', r"\\").replace(']', r"\]"));
    }
    // An unescaped `=` would turn the text before it into a keyword.
    write!(f, "{}:{port}", quote(host).replace('=', r"\="))
}

fn print_ip(f: &mut fmt::Formatter<'_>, key: &str, address: &SocketAddr) -> fmt::Result {
    match (address.ip(), scope(address)) {
        (IpAddr::V4(ip), _) => write!(f, ":{key}={ip}"),
        (IpAddr::V6(ip), 0) => write!(f, ":{key}=[{ip}]"),
        (IpAddr::V6(ip), scope) => write!(f, ":{key}=[{ip}%{scope}]"),
    }
}

fn scope(address: &SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::client_from_string;

    #[test]
    fn a_certificate_names_an_address_without_its_scope() {
        let client = client_from_string("tcp:[fe80::1%2]:443").expect("an endpoint");
        assert_eq!(client.host(), Some("fe80::1"));
    }

    #[test]
    fn an_address_keeps_its_scope_and_its_flow_and_follows_the_fields() {
        let mut address = std::net::SocketAddrV6::new("fe80::1".parse().expect("an IP"), 80, 7, 2);
        let mut client = TcpClient::from(SocketAddr::V6(address));
        assert_eq!(client.address_with_flow(), Some(SocketAddr::V6(address)));
        client.port = 81;
        address.set_port(81);
        assert_eq!(client.address_with_flow(), Some(SocketAddr::V6(address)));
    }
}
