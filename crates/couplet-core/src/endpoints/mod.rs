//! Endpoints: addresses to listen on or connect to, as strings in one grammar or as objects.
//!
//! | string | listens | connects |
//! | --- | --- | --- |
//! | `8000` | on 127.0.0.1 only | to 127.0.0.1 |
//! | `localhost:8000`, `127.0.0.1:8000`, `[::1]:8000` | on that address | to that host |
//! | `[fe80::1%eth0]:8000`, `[fe80::1%2]:8000` | on that address of the interface | through that interface |
//! | `:8000`, `tcp:8000` | on all interfaces, IPv6 and IPv4 | |
//! | `tcp:8000:interface=127.0.0.1`, `tcp:127.0.0.1:8000` | on that address | the second only: to that host |
//! | `tcp6:8000` | on all interfaces, IPv6 only | |
//! | `example.com:8000`, `tcp:example.com:8000` | | to that host, trying all its addresses |
//! | `unix:/run/app.sock`, `unix:app.sock` | on that UNIX socket | to it |
//! | `unix:@app` | on that abstract name, on Linux | to it |
//! | `systemd:web`, `systemd:0` | on that socket of the init system, by name or index | |
//! | `fd:3` | on the inherited socket with this number | to that socket, pipe, terminal or file |
//! | `process:/bin/cat`, `process:/bin/sh -c 'sleep 1'` | | to the program's standard input and output |
//! | `stdio:` | | to our own |
//! | `serial:/dev/ttyUSB0:speed=115200` | | to the device on that serial line |
//! | `tls::443:cert=site.pem:key=site.key` | with TLS on all interfaces | |
//! | `tls:example.com:443` | | with TLS to that host, whose certificate is verified |
//! | `tls:unix:app.sock:…` | with TLS on that UNIX socket | with TLS to it, given `servername=` |
//! | `tls:8443:cert=site.pem:key=site.key` | with TLS on 127.0.0.1 only | |
//! | `haproxy:tcp:8080`, `haproxy:unix:app.sock` | reads a PROXY header first | writes one |
//! | `throttle:8000:read=64k`, `throttle:example.com:80:write=1M` | limits bytes per second | the same |
//! | `log:8000`, `log:example.com:80:file=traffic.pcap` | logs the traffic | the same |
//!
//! `:` separates parts, the first `=` in a part separates key and value, a backslash escapes, and
//! brackets enclose an IPv6 address. Options follow as keywords: `:8000:backlog=500`,
//! `example.com:8000:timeout=5`. Endpoints display with their kind and options, as a string that means
//! the same; only the string of an endpoint that can't work, such as a `TlsServer` without a
//! certificate, is refused. An [`Address`], such as a port's, displays as an endpoint for either
//! purpose.
//!
//! `tcp:` may be omitted, except before a host with the name of another kind, such as `unix` or
//! `udp`: `tcp:udp:80`.
//!
//! # Wrappers
//!
//! `tls:`, `haproxy:`, `throttle:` and `log:` wrap another endpoint, in any order, and change no
//! address: a port without a host is on 127.0.0.1 behind a wrapper, too. The last wrapper
//! is next to the socket: `tls:haproxy:443:…` reads the PROXY header in the clear, before TLS, and
//! `log:tls:443:…` logs plaintext. The keywords of all kinds follow in any order; each belongs to
//! the outermost kind that knows it. A kind can appear twice if the inner one is in a separate
//! string: `log:endpoint=tls\:log\:443\:cert=site.pem:file=plain.txt`.
//!
//! # Custom endpoints
//!
//! Implement [`ServerEndpoint`] or [`ClientEndpoint`], and register a prefix with
//! [`register_server`] or [`register_client`]. The chapter [Endpoints] has examples.
//!
//! [Endpoints]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/endpoints.md
//!
//! Twisted's `serverFromString` and `clientFromString`, whose strings are accepted, and
//! `IStreamServerEndpoint` and `IStreamClientEndpoint`.
//!
//!
//! Contract: 103g.

mod built_in;
mod error;
mod grammar;
mod kinds;
mod shared;

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

#[cfg(unix)]
pub use crate::driver::{FlowControl, Parity, SerialOptions};
pub use built_in::*;
pub use error::EndpointError;
pub use grammar::{Part, Parts, quote};
pub use kinds::{RegisterError, register_client, register_server};
pub use shared::{Claim, SharedPort, Sharing};

use crate::address::{Address, UnixAddress};
use crate::defer::{Deferred, Failure, Result};
use crate::driver::{ConnectOptions, ListenOptions};
use crate::factory::{ErasedFactory, Factory, IntoFactory};
use crate::protocol::Protocol;
use crate::reactor::{Port, Reactor};
use crate::transport::{Connection, Transport};

/// An endpoint to listen on. Twisted's `IStreamServerEndpoint`.
///
/// Displays as a string that [`server_from_string`] parses.
///
/// ```
/// use couplet::endpoints::{ServerEndpoint, TcpServer};
/// use couplet::factory::ErasedFactory;
/// use couplet::{Port, Reactor};
///
/// /// Listens on one of these ports: the first that is free.
/// #[derive(Debug)]
/// struct FirstFree(std::ops::Range<u16>);
///
/// impl ServerEndpoint for FirstFree {
///     fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
///         let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
///         let port = self.0.clone().find(is_free).unwrap_or(0);
///         TcpServer::new(([127, 0, 0, 1], port).into()).listen(reactor, factory)
///     }
/// }
///
/// impl std::fmt::Display for FirstFree {
///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
///         write!(f, "first-free:{}:{}", self.0.start, self.0.end)
///     }
/// }
/// # struct Echo;
/// # impl couplet::Protocol for Echo {
/// #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
/// # }
/// # fn main() -> couplet::Result<()> {
/// # let reactor_loop = couplet::Loop::new()?;
/// # let reactor = reactor_loop.reactor();
/// reactor.listen(FirstFree(40_000..60_000), || Echo)?;
/// # Ok(())
/// # }
/// ```
pub trait ServerEndpoint: Any + fmt::Debug + fmt::Display + Send + Sync {
    /// Listens, and builds a protocol for each connection with the factory. Called by
    /// [`Reactor::listen`], possibly several times.
    ///
    /// An endpoint passes the factory to another endpoint or to a method of the reactor. A wrapper
    /// first adds its layer: [`ErasedFactory::layered`].
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port>;

    /// Binds the endpoint once, for several loops. Called by
    /// [`Cluster::bind`](crate::Cluster::bind).
    ///
    /// A wrapper shares its inner endpoint, and wraps the result again: [`SharedPort::wrapped`].
    ///
    /// # Errors
    ///
    /// If it cannot be bound. The default implementation always fails, with an [`io::Error`](std::io::Error) of the
    /// kind [`Unsupported`](std::io::ErrorKind::Unsupported): the endpoint cannot be shared.
    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        let _ = sharing;
        Err(shared::cannot_be_shared(self))
    }

    /// Reads the endpoint's files again, such as certificates. The ports that it has opened use them for
    /// new connections once the result is [put to use](Reload::apply). The default has no files.
    ///
    /// A wrapper forwards the call.
    ///
    /// ```no_run
    /// use couplet::endpoints::server_from_string;
    ///
    /// let endpoint = server_from_string("tls::443:cert=site.pem:key=site.key")?;
    /// // … it listens, and the files change:
    /// endpoint.reload()?.apply();
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a file can't be used; the ports then keep the contents of the present files.
    fn reload(&self) -> Result<Reload> {
        Ok(Reload::default())
    }
}

/// The files of an endpoint, read again: see [`ServerEndpoint::reload`]. Dropping it changes nothing.
#[derive(Default)]
#[must_use = "the endpoint uses its old files until this is applied"]
pub struct Reload(Option<Box<dyn FnOnce() + Send>>);

impl Reload {
    /// Files that are put to use by this closure, perhaps read in another thread than the loop's.
    pub fn new(apply: impl FnOnce() + Send + 'static) -> Reload {
        Reload(Some(Box::new(apply)))
    }

    /// Puts the files to use.
    pub fn apply(self) {
        if let Reload(Some(apply)) = self {
            apply();
        }
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reload").field(&self.0.is_some()).finish()
    }
}

/// An endpoint to connect to. Twisted's `IStreamClientEndpoint`.
///
/// Displays as a string that [`client_from_string`] parses.
pub trait ClientEndpoint: Any + fmt::Debug + fmt::Display + Send + Sync {
    /// Connects, and builds the protocol with the factory. Called by [`Reactor::connect`], possibly
    /// several times. The Deferred fires with the connection's transport once `connection_made` has
    /// been called; cancelling it stops the attempt.
    ///
    /// An endpoint passes the factory on, as in [`ServerEndpoint::listen`], perhaps later, for
    /// example after a lookup.
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport>;

    /// The host name or IP address that a certificate must match if `tls:` wraps this endpoint.
    /// `None` by default: `tls:` then needs `servername=`.
    fn host(&self) -> Option<&str> {
        None
    }
}

impl<E: ServerEndpoint + ?Sized> ServerEndpoint for Arc<E> {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        (**self).listen(reactor, factory)
    }

    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        (**self).share(sharing)
    }

    fn reload(&self) -> Result<Reload> {
        (**self).reload()
    }
}

impl<E: ClientEndpoint + ?Sized> ClientEndpoint for Arc<E> {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        (**self).connect(reactor, factory)
    }

    fn host(&self) -> Option<&str> {
        (**self).host()
    }
}

/// Parses a string into an endpoint to listen on. Twisted's `serverFromString`.
///
/// ```
/// use couplet::endpoints::server_from_string;
///
/// let endpoint = server_from_string("tcp:8000:interface=127.0.0.1")?;
/// assert_eq!(endpoint.to_string(), "tcp:8000:interface=127.0.0.1");
/// let endpoint = server_from_string("localhost:8000")?;
/// assert_eq!(endpoint.to_string(), "tcp:8000:interface=127.0.0.1");
/// let error = server_from_string("tcp:80000").unwrap_err();
/// assert!(error.to_string().contains("from 0 to 65535"));
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
///
/// # Errors
///
/// If `text` is not a valid endpoint.
pub fn server_from_string(text: &str) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    kinds::parse(text, &ListenOptions::default())
}

/// Parses a string into an endpoint to connect to. Twisted's `clientFromString`.
///
/// ```
/// use couplet::endpoints::client_from_string;
///
/// let endpoint = client_from_string("tcp:[::1]:8000:timeout=5")?;
/// assert_eq!(endpoint.to_string(), "tcp:[::1]:8000:timeout=5");
/// let endpoint = client_from_string("example.com:80")?;
/// assert_eq!(endpoint.to_string(), "tcp:example.com:80");
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
///
/// # Errors
///
/// If `text` is not a valid endpoint.
pub fn client_from_string(text: &str) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    kinds::parse(text, &ListenOptions::default())
}

/// An endpoint in any form, as accepted by [`Reactor::listen`], with `E = dyn ServerEndpoint`, and by
/// [`Reactor::connect`], with `E = dyn ClientEndpoint`: an endpoint string, an endpoint, an address, an
/// address with [`ListenOptions`] or [`ConnectOptions`], or a host and a port to connect to.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an endpoint",
    label = "neither an endpoint string nor an endpoint",
    note = "an endpoint is a string such as `\"tcp:8000\"`, an address, or a type that implements `ServerEndpoint` to listen or `ClientEndpoint` to connect"
)]
pub trait IntoEndpoint<E: ?Sized> {
    /// Converts the value into an endpoint.
    ///
    /// # Errors
    ///
    /// If a string is not a valid endpoint.
    fn into_endpoint(self) -> Result<Arc<E>, EndpointError>;
}

macro_rules! strings_are_endpoints {
    ($($text:ty),*) => {$(
        impl IntoEndpoint<dyn ServerEndpoint> for $text {
            fn into_endpoint(self) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
                server_from_string(self.as_ref())
            }
        }

        impl IntoEndpoint<dyn ClientEndpoint> for $text {
            fn into_endpoint(self) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
                client_from_string(self.as_ref())
            }
        }
    )*};
}

strings_are_endpoints!(&str, &String, String);

/// A string that overrides these options.
///
/// ```
/// use couplet::ListenOptions;
/// use couplet::endpoints::{IntoEndpoint, ServerEndpoint};
/// use std::sync::Arc;
///
/// let crowds = ListenOptions::default().backlog(1024);
/// let endpoint: Arc<dyn ServerEndpoint> =
///     ("throttle:unix:app.sock:read=1M", &crowds).into_endpoint()?;
/// assert_eq!(endpoint.to_string(), "throttle:unix:app.sock:backlog=1024:read=1000000");
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
impl IntoEndpoint<dyn ServerEndpoint> for (&str, &ListenOptions) {
    fn into_endpoint(self) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
        kinds::parse(self.0, self.1)
    }
}

impl<E: ServerEndpoint> IntoEndpoint<dyn ServerEndpoint> for E {
    fn into_endpoint(self) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
        Ok(Arc::new(self))
    }
}

impl<E: ClientEndpoint> IntoEndpoint<dyn ClientEndpoint> for E {
    fn into_endpoint(self) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
        Ok(Arc::new(self))
    }
}

/// A TCP address or a UNIX socket, with options.
impl<A: Into<Address>> IntoEndpoint<dyn ServerEndpoint> for (A, ListenOptions) {
    fn into_endpoint(self) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
        Ok(match self.0.into().into_socket() {
            Ok(address) => Arc::new(TcpServer::new(address).options(self.1)),
            Err(path) => Arc::new(UnixServer::new(path).options(self.1)),
        })
    }
}

/// A TCP address or a UNIX socket, with options.
impl<A: Into<Address>> IntoEndpoint<dyn ClientEndpoint> for (A, ConnectOptions) {
    fn into_endpoint(self) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
        Ok(match self.0.into().into_socket() {
            Ok(address) => Arc::new(TcpClient::from(address).options(self.1)),
            Err(path) => Arc::new(UnixClient::new(path).options(self.1)),
        })
    }
}

macro_rules! addresses_are_endpoints {
    ($($address:ty),*) => {$(
        impl IntoEndpoint<dyn ServerEndpoint> for $address {
            fn into_endpoint(self) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
                (self, ListenOptions::default()).into_endpoint()
            }
        }

        impl IntoEndpoint<dyn ClientEndpoint> for $address {
            fn into_endpoint(self) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
                (self, ConnectOptions::default()).into_endpoint()
            }
        }
    )*};
}

addresses_are_endpoints!(Address, &Address, SocketAddr, UnixAddress);

/// A host, by name or address, and a port.
impl IntoEndpoint<dyn ClientEndpoint> for (&str, u16) {
    fn into_endpoint(self) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
        Ok(Arc::new(TcpClient::new(self.0, self.1)))
    }
}

impl IntoEndpoint<dyn ServerEndpoint> for &Arc<dyn ServerEndpoint> {
    fn into_endpoint(self) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
        Ok(self.clone())
    }
}

impl IntoEndpoint<dyn ClientEndpoint> for &Arc<dyn ClientEndpoint> {
    fn into_endpoint(self) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
        Ok(self.clone())
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
    /// [`EndpointError`] if the string is not a valid endpoint, or names something unusable, such
    /// as an unreadable certificate; [`ListenError`](crate::ListenError) if the port can't be
    /// opened; otherwise the error of the endpoint.
    #[track_caller]
    pub fn listen<K>(
        &self,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        // The compiler shows the next line when a closure moves its protocol out.
        factory: impl IntoFactory<K>, // makes a new protocol for each connection: `|| Echo::new()`
    ) -> Result<Port> {
        // Erased first, which contains its drop if the string is not an endpoint.
        let factory = ErasedFactory::new(factory);
        endpoint.into_endpoint()?.listen(self, factory)
    }

    /// Like [`listen`](Self::listen). TLS offers these application protocols unless the endpoint
    /// names its own.
    #[track_caller]
    pub(crate) fn listen_offering<K>(
        &self,
        protocols: &'static [&'static str],
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        factory: impl IntoFactory<K>,
    ) -> Result<Port> {
        self.listen(endpoint, ErasedFactory::new(factory).offering(protocols))
    }

    /// Connects to an endpoint. The Deferred fires with the connection once `connection_made` has
    /// been called, and stays pending while the factory retries, which gets a
    /// [`Connector`](crate::Connector) for it. The failure is an [`EndpointError`]
    /// if the string is not a valid endpoint or names something unusable, otherwise a
    /// [`ConnectError`](crate::ConnectError) or the error of the endpoint. Cancelling the Deferred
    /// stops the attempt.
    #[track_caller]
    pub fn connect<K, F: IntoFactory<K>>(
        &self,
        endpoint: impl IntoEndpoint<dyn ClientEndpoint>,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        let factory = ErasedFactory::new(factory);
        match endpoint.into_endpoint() {
            Ok(endpoint) => endpoint.connect(self, factory).map(|transport| transport.connection()),
            Err(error) => Deferred::fail(Failure::from(error)),
        }
    }

    /// Connects one protocol object to an endpoint: [`connect`](Self::connect) without a factory.
    /// The protocol may own values that a closure could hand out only once, such as a
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
        endpoint: impl IntoEndpoint<dyn ClientEndpoint>,
        protocol: P,
    ) -> Deferred<Connection<P>> {
        self.connect(endpoint, OneProtocol(Some(protocol)))
    }
}

/// The factory for [`connect_protocol`](Reactor::connect_protocol), which holds the one protocol.
struct OneProtocol<P>(Option<P>);

impl<P: Protocol> Factory for OneProtocol<P> {
    type Protocol = P;

    fn build_protocol(&mut self, _: &Address) -> Option<P> {
        self.0.take()
    }
}
