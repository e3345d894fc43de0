//! The TCP part of the grammar: `tcp:` endpoints, and the short forms without `tcp:`.
//!
//! Parsing and formatting are inverse: a formatted endpoint parses back with every option.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::grammar::{Kind, Part, Parts, Seconds, quote};
use super::{ClientEndpoint, EndpointError, ServerEndpoint};
use crate::address::{NotAnIp, scoped_ip, split_scope};
use crate::defer::Result;
use crate::driver::{ConnectOptions, ListenOptions};

impl ServerEndpoint {
    pub(super) fn read_tcp(kind: Kind, mut parts: Parts) -> Result<Self, EndpointError> {
        let form = kind.form("PORT or HOST:PORT");
        let (host, port) = parts.host_and_port(&form)?;
        let address = match host.or_else(|| parts.keyword("interface")) {
            Some(host) => host.interface(port.port_to_listen(&host)?)?,
            None if kind != Kind::Short => {
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.port(0)?)
            }
            // A port alone is local.
            None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.port_alone(&parts, &form, 0)?),
        };
        let mut options = ListenOptions::default();
        if let Some(backlog) = parts.keyword("backlog") {
            options.backlog = backlog.backlog()?;
        }
        parts.set("reuse_port", &mut options.reuse_port)?;
        parts.set("reuse_addr", &mut options.reuse_addr)?;
        parts.set("dual_stack", &mut options.dual_stack)?;
        parts.set("no_delay", &mut options.no_delay)?;
        parts.expect_end(
            "interface=, backlog=, reuse_port=, reuse_addr=, dual_stack= and no_delay=",
        )?;
        Ok(ServerEndpoint::Tcp { address, options })
    }
}

impl ClientEndpoint {
    pub(super) fn read_tcp(kind: Kind, mut parts: Parts) -> Result<Self, EndpointError> {
        let form = kind.form("HOST:PORT");
        let (host, port) = parts.host_and_port(&form)?;
        let (host, port) = match host {
            Some(host) => (host.host()?, port.port(1)?),
            None if port.is_named() => return Err(parts.missing("host", &form)),
            None if kind != Kind::Short => return Err(parts.missing("port", &form)),
            None => (Ipv4Addr::LOCALHOST.to_string(), port.port_alone(&parts, &form, 1)?),
        };
        let mut options = ConnectOptions::default();
        if let Some(timeout) = parts.keyword("timeout") {
            options.timeout = timeout.seconds()?;
        }
        let from = parts.keyword("bindPort").map(|port| port.port(0)).transpose()?;
        match parts.keyword("bindAddress") {
            Some(bind) => options.bind = Some(bind.interface(from.unwrap_or(0))?),
            None if from.is_some() => return Err(parts.missing("bindAddress", "bindAddress=IP")),
            None => {}
        }
        parts.set("no_delay", &mut options.no_delay)?;
        parts.expect_end("timeout=, bindAddress=, bindPort= and no_delay=")?;
        Ok(ClientEndpoint::Tcp { host, port, options })
    }
}

impl Part {
    fn port(&self, least: u64) -> Result<u16, EndpointError> {
        Ok(self.number("a port number", least, 65_535)? as u16)
    }

    /// A port to listen on. If `host` is a name, the error also says that names cannot be bound.
    fn port_to_listen(&self, host: &Part) -> Result<u16, EndpointError> {
        self.port(0).map_err(|error| match host.is_host_name() {
            true => self.error(format!(
                "{}, and an IP address or localhost in place of {:?}: names cannot be listened on",
                error.problem(),
                host.text
            )),
            false => error,
        })
    }

    /// True for a name other than `localhost`.
    fn is_host_name(&self) -> bool {
        let text = self.text.as_str();
        let is_address = !matches!(scoped_ip(text, 0), Err(NotAnIp::NoAddress));
        !self.bracketed && !text.is_empty() && text != "localhost" && !is_address
    }

    /// A port without a host and without `tcp:`.
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

    /// An address to bind. An empty host means all addresses.
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

    /// A host to connect to: a name or an IP address.
    fn host(self) -> Result<String, EndpointError> {
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

/// Writes `:key=yes|no` for each option that differs from the default.
macro_rules! print_changed {
    ($f:ident, $options:ident, $default:ident, $($key:ident),*) => {
        $(if $options.$key != $default.$key {
            write!($f, ":{}={}", stringify!($key), if $options.$key { "yes" } else { "no" })?;
        })*
    };
}

impl ServerEndpoint {
    pub(super) fn print_tcp(
        f: &mut fmt::Formatter<'_>,
        address: &SocketAddr,
        options: &ListenOptions,
    ) -> fmt::Result {
        let default = ListenOptions::default();
        write!(f, "tcp:{}", address.port())?;
        if address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) || scope(address) != 0 {
            print_ip(f, "interface", address)?;
        }
        if options.backlog != default.backlog {
            write!(f, ":backlog={}", options.backlog)?;
        }
        print_changed!(f, options, default, reuse_port, reuse_addr, dual_stack, no_delay);
        Ok(())
    }
}

impl ClientEndpoint {
    pub(super) fn print_tcp(
        f: &mut fmt::Formatter<'_>,
        host: &str,
        port: u16,
        options: &ConnectOptions,
    ) -> fmt::Result {
        let default = ConnectOptions::default();
        if host.parse::<Ipv6Addr>().is_ok() || split_scope(host).is_some() {
            write!(f, "tcp:[{}]:{port}", host.replace('\\', r"\\").replace(']', r"\]"))?;
        } else {
            // An unescaped `=` would turn what precedes it into a keyword.
            write!(f, "tcp:{}:{port}", quote(host).replace('=', r"\="))?;
        }
        if options.timeout != default.timeout {
            write!(f, ":timeout={}", Seconds(options.timeout))?;
        }
        if let Some(bind) = &options.bind {
            print_ip(f, "bindAddress", bind)?;
            if bind.port() != 0 {
                write!(f, ":bindPort={}", bind.port())?;
            }
        }
        print_changed!(f, options, default, no_delay);
        Ok(())
    }
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
