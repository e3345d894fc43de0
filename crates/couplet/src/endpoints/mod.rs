//! Endpoint strings: where to listen and where to connect, in one grammar.
//!
//! | string | listens | connects |
//! | --- | --- | --- |
//! | `8000` | on 127.0.0.1 only | to 127.0.0.1 |
//! | `localhost:8000`, `127.0.0.1:8000`, `[::1]:8000` | on that address | to that host |
//! | `[fe80::1%eth0]:8000`, `[fe80::1%2]:8000` | on that address of the interface | through that interface |
//! | `:8000`, `tcp:8000` | on all interfaces, IPv6 and IPv4 | |
//! | `tcp:8000:interface=127.0.0.1`, `tcp:127.0.0.1:8000` | on that address | the second only: to that host |
//! | `example.com:8000`, `tcp:example.com:8000` | | to that host, trying all its addresses |
//! | `unix:/run/app.sock`, `unix:app.sock` | on that UNIX socket | to it |
//! | `unix:@app` | on that abstract name, on Linux | to it |
//! | `tls:443:cert=site.pem:key=site.key` | with TLS on all interfaces | |
//! | `tls:example.com:443` | | with TLS to that host, whose certificate is verified |
//! | `tls:unix:app.sock:…` | with TLS on that UNIX socket | with TLS to it, given `servername=` |
//!
//! `:` separates parts, the first `=` in a part separates key and value, a backslash escapes, and
//! brackets enclose an IPv6 address. Options follow as keywords: `:8000:backlog=500`,
//! `example.com:8000:timeout=5`. An endpoint formats with its kind and its options; an
//! [`Address`], such as that of a port, formats as an endpoint for either purpose.
//!
//! `tcp:` may be omitted; a first part such as `unix` or `udp` is that of another kind, so a
//! host of that name needs it: `tcp:udp:80`. Twisted's `serverFromString` and `clientFromString`.

mod grammar;
mod tcp;
#[cfg(any(feature = "tls", feature = "ring"))]
mod tls;
mod unix;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::address::{Address, UnixAddress};
use crate::defer::{Deferred, Failure, Result};
use crate::driver::{ConnectOptions, ListenOptions};
#[cfg(any(feature = "tls", feature = "ring"))]
use crate::factory::Layered;
use crate::factory::{Factory, IntoFactory};
use crate::protocol::Protocol;
use crate::reactor::{Port, Reactor};
use crate::transport::Connection;
pub use grammar::{EndpointError, quote};
use grammar::{Kind, Parts};
#[cfg(any(feature = "tls", feature = "ring"))]
pub use tls::{TlsConnect, TlsListen};

/// Where to listen.
///
/// ```
/// use couplet::endpoints::ServerEndpoint;
///
/// let endpoint: ServerEndpoint = "tcp:8000:interface=127.0.0.1".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp:8000:interface=127.0.0.1");
/// let endpoint: ServerEndpoint = "localhost:8000".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp:8000:interface=127.0.0.1");
/// let error = "tcp:80000".parse::<ServerEndpoint>().unwrap_err();
/// assert!(error.to_string().contains("from 0 to 65535"));
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ServerEndpoint {
    /// `[tcp:][HOST:]PORT[:interface=IP][:backlog=N]`, plus `reuse_port=`, `reuse_addr=`,
    /// `dual_stack=` and `no_delay=`, each followed by `yes` or `no`. HOST is an IP address,
    /// `localhost` for 127.0.0.1, or empty for all addresses.
    Tcp {
        /// The address to bind; `[::]` accepts IPv4 too.
        address: SocketAddr,
        /// The port's options.
        options: ListenOptions,
    },
    /// `unix:PATH[:mode=OCTAL][:owner=UID][:group=GID][:lockfile=yes|no][:backlog=N]`. PATH may be
    /// `@NAME`, an abstract name.
    Unix {
        /// The path or the abstract name.
        path: UnixAddress,
        /// The port's options.
        options: ListenOptions,
    },
    /// `tls:ENDPOINT:cert=FILE:key=FILE[:sni=DIR][:client-ca=FILE][:alpn=NAME,NAME]`, where `tcp:`
    /// may be omitted from ENDPOINT. With `client-ca=` a client must have a certificate of an issuer
    /// in that file. Also `ssl:`, with Twisted's `certKey=` and `privateKey=`.
    #[cfg(any(feature = "tls", feature = "ring"))]
    Tls {
        /// What carries the TLS connections.
        over: Box<ServerEndpoint>,
        /// The settings, whose files are read when it listens.
        tls: Box<TlsListen>,
    },
}

/// Where to connect.
///
/// ```
/// use couplet::endpoints::ClientEndpoint;
///
/// let endpoint: ClientEndpoint = "tcp:[::1]:8000:timeout=5".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp:[::1]:8000:timeout=5");
/// let endpoint: ClientEndpoint = "example.com:80".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp:example.com:80");
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientEndpoint {
    /// `[tcp:]HOST:PORT[:timeout=SECONDS][:bindAddress=IP][:bindPort=N][:no_delay=yes|no]`, or just
    /// a port, on this machine.
    Tcp {
        /// A name or an IP address, without brackets. The scope of an IPv6 address follows a `%`.
        host: String,
        /// The port number.
        port: u16,
        /// The connection's options.
        options: ConnectOptions,
    },
    /// `unix:PATH[:timeout=SECONDS]`. PATH may be `@NAME`, an abstract name.
    Unix {
        /// The path or the abstract name.
        path: UnixAddress,
        /// The connection's options.
        options: ConnectOptions,
    },
    /// `tls:ENDPOINT[:ca=FILE][:servername=NAME][:cert=FILE:key=FILE][:alpn=NAME,NAME]`, where
    /// `tcp:` may be omitted from ENDPOINT. Without `ca=` it trusts what the system trusts, and
    /// without `servername=` the certificate must be for the host. Also `ssl:`, with Twisted's
    /// `certificate=`, `certKey=` and `privateKey=`.
    #[cfg(any(feature = "tls", feature = "ring"))]
    Tls {
        /// What carries the TLS connection.
        over: Box<ClientEndpoint>,
        /// The settings, whose files are read when it connects.
        tls: Box<TlsConnect>,
    },
}

/// What [`Reactor::listen`] and [`Reactor::connect`] accept: an endpoint, or an endpoint string.
pub trait IntoEndpoint<E> {
    /// Converts it into an endpoint.
    ///
    /// # Errors
    ///
    /// If a string is not a valid endpoint.
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
    /// [`EndpointError`] if the string is not a valid endpoint, [`ListenError`](crate::ListenError)
    /// if the port can't be opened.
    #[track_caller]
    pub fn listen<K>(
        &self,
        endpoint: impl IntoEndpoint<ServerEndpoint>,
        factory: impl IntoFactory<K>,
    ) -> Result<Port> {
        match endpoint.into_endpoint()? {
            #[cfg(any(feature = "tls", feature = "ring"))]
            ServerEndpoint::Tls { over, tls } => {
                let tls = tls.load()?;
                let layer = move |reactor: &Reactor, _: &Address| tls.layer(reactor.now());
                self.listen_plain(*over, Layered::new(factory, layer))
            }
            plain => self.listen_plain(plain, factory),
        }
    }

    #[track_caller]
    fn listen_plain<K>(
        &self,
        endpoint: ServerEndpoint,
        factory: impl IntoFactory<K>,
    ) -> Result<Port> {
        Ok(match endpoint {
            ServerEndpoint::Tcp { address, options } => {
                self.listen_tcp_with(address, options, factory)?
            }
            ServerEndpoint::Unix { path, options } => {
                self.listen_unix_with(path, options, factory)?
            }
            #[cfg(any(feature = "tls", feature = "ring"))]
            ServerEndpoint::Tls { tls, .. } => Err(tls.nested())?,
        })
    }

    /// Connects to an endpoint; the Deferred fires with the connection once `connection_made` has
    /// been called. It fails with [`EndpointError`] if the string is not a valid endpoint,
    /// otherwise with [`ConnectError`](crate::ConnectError). Cancelling it stops the attempt. While
    /// the factory retries, it stays pending.
    #[track_caller]
    pub fn connect<K, F: IntoFactory<K>>(
        &self,
        endpoint: impl IntoEndpoint<ClientEndpoint>,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        match endpoint.into_endpoint() {
            #[cfg(any(feature = "tls", feature = "ring"))]
            Ok(ClientEndpoint::Tls { over, tls }) => match tls.load(&over, self.now()) {
                Ok(mut layer) => {
                    let layer = move |reactor: &Reactor, _: &Address| layer(reactor.now());
                    self.connect_plain(*over, Layered::new(factory, layer))
                }
                Err(error) => Deferred::fail(Failure::from(error)),
            },
            Ok(plain) => self.connect_plain(plain, factory),
            Err(error) => Deferred::fail(Failure::from(error)),
        }
    }

    #[track_caller]
    fn connect_plain<K, F: IntoFactory<K>>(
        &self,
        endpoint: ClientEndpoint,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        match endpoint {
            ClientEndpoint::Tcp { host, port, options } => {
                self.connect_tcp_deferred(reachable(&host), port, options, factory)
            }
            ClientEndpoint::Unix { path, options } => {
                self.connect_unix_deferred(path, options, factory)
            }
            #[cfg(any(feature = "tls", feature = "ring"))]
            ClientEndpoint::Tls { tls, .. } => Deferred::fail(Failure::from(tls.nested())),
        }
    }

    /// Connects one protocol object to an endpoint: [`connect`](Self::connect) without a factory.
    /// The protocol may own things that a closure could hand out only once, such as a
    /// [`Resolver`](crate::Resolver). If the attempt fails, the protocol is dropped.
    ///
    /// Twisted's `connectProtocol`.
    ///
    /// ```
    /// use couplet::{Deferred, Protocol, Reactor, Reason, Resolver, Transport};
    ///
    /// struct Download {
    ///     text: Vec<u8>,
    ///     whole: Option<Resolver<Vec<u8>>>,
    /// }
    /// impl Protocol for Download {
    ///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
    ///         self.text.extend_from_slice(data);
    ///     }
    ///     fn connection_lost(&mut self, _: &Transport, _: &Reason) {
    ///         if let Some(whole) = self.whole.take() {
    ///             whole.callback(std::mem::take(&mut self.text));
    ///         }
    ///     }
    /// }
    ///
    /// fn download(reactor: &Reactor, endpoint: &str) -> Deferred<Vec<u8>> {
    ///     let (text, whole) = Deferred::new();
    ///     let download = Download { text: Vec::new(), whole: Some(whole) };
    ///     reactor.connect_protocol(endpoint, download).then(|_| text)
    /// }
    /// # struct Hello;
    /// # impl Protocol for Hello {
    /// #     fn connection_made(&mut self, transport: &Transport) {
    /// #         transport.write("hello");
    /// #         transport.lose_connection();
    /// #     }
    /// #     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// # }
    /// # fn main() -> couplet::Result<()> {
    /// # let text = couplet::run_until(|reactor| {
    /// #     let port = reactor.listen("tcp:0:interface=127.0.0.1", || Hello).expect("a free port");
    /// #     let number = port.host().port().expect("a TCP port");
    /// #     download(reactor, &format!("tcp:127.0.0.1:{number}"))
    /// # })?;
    /// # assert_eq!(text, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn connect_protocol<P: Protocol>(
        &self,
        endpoint: impl IntoEndpoint<ClientEndpoint>,
        protocol: P,
    ) -> Deferred<Connection<P>> {
        self.connect(endpoint, OneProtocol(Some(protocol)))
    }
}

/// The factory for [`connect_protocol`](Reactor::connect_protocol), which already has its protocol.
struct OneProtocol<P>(Option<P>);

impl<P: Protocol> Factory for OneProtocol<P> {
    type Protocol = P;

    fn build_protocol(&mut self, _: &Address) -> Option<P> {
        self.0.take()
    }
}

/// Replaces the unspecified address, which a port on all interfaces formats as, by loopback: not
/// every system can connect to it.
fn reachable(host: &str) -> &str {
    match host.parse() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => "127.0.0.1",
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => "::1",
        _ => host,
    }
}

impl fmt::Display for ServerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerEndpoint::Tcp { address, options } => Self::print_tcp(f, address, options),
            ServerEndpoint::Unix { path, options } => Self::print_unix(f, path, options),
            #[cfg(any(feature = "tls", feature = "ring"))]
            ServerEndpoint::Tls { over, tls } => tls.print(f, &over.to_string()),
        }
    }
}

impl fmt::Display for ClientEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientEndpoint::Tcp { host, port, options } => Self::print_tcp(f, host, *port, options),
            ClientEndpoint::Unix { path, options } => Self::print_unix(f, path, options),
            #[cfg(any(feature = "tls", feature = "ring"))]
            ClientEndpoint::Tls { over, tls } => tls.print(f, &over.to_string()),
        }
    }
}

impl FromStr for ServerEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<ServerEndpoint, EndpointError> {
        let read = |text: &str| {
            let mut parts = Parts::new(text)?;
            match parts.take_kind("listen")? {
                Kind::Unix => ServerEndpoint::read_unix(parts),
                #[cfg(any(feature = "tls", feature = "ring"))]
                Kind::Tls => ServerEndpoint::read_tls(parts),
                kind @ (Kind::Tcp | Kind::Short) => ServerEndpoint::read_tcp(kind, parts),
            }
        };
        read(text).map_err(|error| error.with_hint(text, |text| read(text).is_ok()))
    }
}

impl FromStr for ClientEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<ClientEndpoint, EndpointError> {
        let read = |text: &str| {
            let mut parts = Parts::new(text)?;
            match parts.take_kind("connect")? {
                Kind::Unix => ClientEndpoint::read_unix(parts),
                #[cfg(any(feature = "tls", feature = "ring"))]
                Kind::Tls => ClientEndpoint::read_tls(parts),
                kind @ (Kind::Tcp | Kind::Short) => ClientEndpoint::read_tcp(kind, parts),
            }
        };
        read(text).map_err(|error| error.with_hint(text, |text| read(text).is_ok()))
    }
}
