//! Endpoint strings: where to listen and where to connect, in one grammar.
//!
//! `tcp:8000` listens on all interfaces (dual-stack), `tcp:8000:interface=127.0.0.1` on one;
//! `tcp:example.com:80` and `tcp:[::1]:80` connect. `:` separates, the first `=` of a part splits
//! key and value, a backslash escapes, and what stands in brackets is one piece. Twisted's
//! `serverFromString` and `clientFromString`.

mod grammar;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::defer::{Deferred, Failure, Result};
use crate::driver::{ConnectOptions, ListenOptions};
use crate::factory::{Factory, IntoFactory};
use crate::reactor::{Port, Reactor};
use crate::transport::Connection;
pub use grammar::{EndpointError, quote};
use grammar::{Part, Parts};

/// Where to listen.
///
/// ```
/// use couplet::endpoints::ServerEndpoint;
///
/// let endpoint: ServerEndpoint = "tcp:8000:interface=127.0.0.1".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp:8000:interface=127.0.0.1");
/// let error = "tcp:80000".parse::<ServerEndpoint>().unwrap_err();
/// assert!(error.to_string().contains("from 0 to 65535"));
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ServerEndpoint {
    /// `tcp:PORT[:interface=IP][:backlog=N][:reuse_port=yes|no]`
    Tcp {
        /// The address to bind; `[::]` takes IPv4 too.
        address: SocketAddr,
        /// How to open it.
        options: ListenOptions,
    },
}

/// Where to connect.
///
/// ```
/// use couplet::endpoints::ClientEndpoint;
///
/// let endpoint: ClientEndpoint = "tcp:[::1]:8000:timeout=5".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp:[::1]:8000");
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientEndpoint {
    /// `tcp:HOST:PORT[:timeout=SECONDS][:bindAddress=IP]`
    Tcp {
        /// A name or an IP address, without brackets.
        host: String,
        /// The port number.
        port: u16,
        /// How to connect.
        options: ConnectOptions,
    },
}

/// What [`Reactor::listen`] and [`Reactor::connect`] take: an endpoint, or a string that is one.
pub trait IntoEndpoint<E> {
    /// The endpoint.
    ///
    /// # Errors
    ///
    /// When a string is none.
    fn into_endpoint(self) -> Result<E, EndpointError>;
}

impl<E: FromStr<Err = EndpointError>> IntoEndpoint<E> for &str {
    fn into_endpoint(self) -> Result<E, EndpointError> {
        self.parse()
    }
}

impl<E: FromStr<Err = EndpointError>> IntoEndpoint<E> for &String {
    fn into_endpoint(self) -> Result<E, EndpointError> {
        self.parse()
    }
}

impl<E: FromStr<Err = EndpointError>> IntoEndpoint<E> for String {
    fn into_endpoint(self) -> Result<E, EndpointError> {
        self.parse()
    }
}

impl IntoEndpoint<ServerEndpoint> for ServerEndpoint {
    fn into_endpoint(self) -> Result<ServerEndpoint, EndpointError> {
        Ok(self)
    }
}

impl IntoEndpoint<ClientEndpoint> for ClientEndpoint {
    fn into_endpoint(self) -> Result<ClientEndpoint, EndpointError> {
        Ok(self)
    }
}

impl Reactor {
    /// Listens on an endpoint and builds a protocol for each connection.
    ///
    /// The factory is a type that implements [`Factory`], `|| MyProtocol`, or
    /// `|peer: &Address| Some(MyProtocol)`.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] for a string that is no endpoint, [`ListenError`](crate::ListenError) when
    /// the port can't be opened.
    #[track_caller]
    pub fn listen<K>(
        &self,
        endpoint: impl IntoEndpoint<ServerEndpoint>,
        factory: impl IntoFactory<K>,
    ) -> Result<Port> {
        let ServerEndpoint::Tcp { address, options } = endpoint.into_endpoint()?;
        Ok(self.listen_tcp_with(address, options, factory)?)
    }

    /// Connects to an endpoint; the Deferred gives the connection once `connection_made` was
    /// called. It fails with [`EndpointError`] for a string that is no endpoint, else with
    /// [`ConnectError`](crate::ConnectError). Cancelling it stops the attempt. While the factory
    /// tries again, it waits on.
    #[track_caller]
    pub fn connect<K, F: IntoFactory<K>>(
        &self,
        endpoint: impl IntoEndpoint<ClientEndpoint>,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        match endpoint.into_endpoint() {
            Ok(ClientEndpoint::Tcp { host, port, options }) => {
                self.connect_tcp_deferred(&host, port, options, factory)
            }
            Err(error) => Deferred::fail(Failure::from(error)),
        }
    }
}

impl FromStr for ServerEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<ServerEndpoint, EndpointError> {
        let mut parts = Parts::new(text)?;
        parts.expect_kind("listen")?;
        let port = port(&parts.take("port", "tcp:PORT")?)?;
        let ip = match parts.keyword("interface") {
            Some(interface) => ip(&interface)?,
            None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut options = ListenOptions::default();
        if let Some(backlog) = parts.keyword("backlog") {
            options.backlog = backlog.number("a number of connections", 1, 1 << 16)? as u32;
        }
        if let Some(reuse) = parts.keyword("reuse_port") {
            options.reuse_port = reuse.yes_or_no()?;
        }
        parts.expect_end("interface=, backlog= and reuse_port=")?;
        Ok(ServerEndpoint::Tcp { address: SocketAddr::new(ip, port), options })
    }
}

impl FromStr for ClientEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<ClientEndpoint, EndpointError> {
        let mut parts = Parts::new(text)?;
        parts.expect_kind("connect")?;
        let host = parts.take("host", "tcp:HOST:PORT")?;
        if host.text.is_empty() {
            return Err(host.error("a host name or an IP address is missing here"));
        }
        if !host.bracketed && host.text.contains(['[', ']', '/', ' ']) {
            return Err(host.error("this is no host name and no IP address"));
        }
        if host.bracketed && host.text.parse::<Ipv6Addr>().is_err() {
            return Err(host.error("what stands in brackets is an IPv6 address"));
        }
        let port = port(&parts.take("port", "tcp:HOST:PORT")?)?;
        let mut options = ConnectOptions::default();
        if let Some(timeout) = parts.keyword("timeout") {
            options.timeout = timeout.seconds()?;
        }
        if let Some(bind) = parts.keyword("bindAddress") {
            options.bind = Some(SocketAddr::new(ip(&bind)?, 0));
        }
        parts.expect_end("timeout= and bindAddress=")?;
        Ok(ClientEndpoint::Tcp { host: host.text, port, options })
    }
}

fn port(part: &Part) -> Result<u16, EndpointError> {
    Ok(part.number("a port, a number", 0, 65_535)? as u16)
}

fn ip(part: &Part) -> Result<IpAddr, EndpointError> {
    match part.text.as_str() {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        text => text.parse().map_err(|_| {
            part.error("an interface is an IP address, such as 127.0.0.1, [::1] or 0.0.0.0")
        }),
    }
}

impl Part {
    fn seconds(&self) -> Result<Duration, EndpointError> {
        self.text
            .parse::<f64>()
            .ok()
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| self.error("a time is a number of seconds, above 0"))
    }
}

impl fmt::Display for ServerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerEndpoint::Tcp { address, .. } = self;
        match address.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => write!(f, "tcp:{}", address.port()),
            IpAddr::V6(ip) => write!(f, "tcp:{}:interface=[{ip}]", address.port()),
            IpAddr::V4(ip) => write!(f, "tcp:{}:interface={ip}", address.port()),
        }
    }
}

impl fmt::Display for ClientEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClientEndpoint::Tcp { host, port, .. } = self;
        if host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "tcp:[{host}]:{port}")
        } else {
            // A `=` would make a keyword of what stands before it.
            write!(f, "tcp:{}:{port}", quote(host).replace('=', r"\="))
        }
    }
}
