//! Endpoints that several loops listen on: [`SharedPort`].

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::{IntoEndpoint, ServerEndpoint};
use crate::address::Address;
use crate::defer::{Failure, Result};
use crate::driver::{ListenOptions, ListeningSocket};
use crate::error::ListenError;
use crate::factory::{ErasedFactory, IntoFactory};
use crate::panics::lock;
use crate::reactor::{Cluster, Port, Reactor, SharedSocket};

/// A port that is bound once, for several loops: [`Cluster::bind`]. Cheap to clone.
///
/// TCP on Linux: each loop has a socket of its own, and the system distributes the connections by a hash
/// of their addresses (`SO_REUSEPORT`).
///
/// UNIX sockets, inherited sockets, and TCP elsewhere: the loops have one socket. One of them accepts,
/// and hands each connection to the loop that has the fewest of this port. At most as many as the
/// [backlog](ListenOptions::backlog) are on their way to a loop; beyond that whoever accepts keeps them.
/// When that loop stops listening, or pauses, another one accepts; when a loop is gone, what was on its
/// way to it goes to the others. Once all have stopped listening the socket is closed, and the file of
/// a UNIX socket removed.
///
/// It is an endpoint too, which listens in whichever loop it is given to.
#[derive(Clone)]
pub struct SharedPort {
    host: Address,
    over: Arc<dyn ServerEndpoint>,
}

impl Cluster {
    /// Binds a port for all loops, in the calling thread: where a program still has the right to, and
    /// where port 0 becomes a number. Certificates are read there too. Clients wait from then on; each
    /// loop that is to serve them calls [`SharedPort::listen`].
    ///
    /// ```
    /// # use couplet::{Cluster, Protocol, Transport};
    /// # struct Echo;
    /// # impl Protocol for Echo { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
    /// let cluster = Cluster::new(2);
    /// let port = cluster.bind("throttle:localhost:0:read=1M")?;
    /// cluster.run(|reactor| {
    ///     port.listen(reactor, || Echo)?;
    /// #   reactor.stop();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Reactor::listen`], and when the endpoint [cannot be shared](ServerEndpoint::share).
    pub fn bind(&self, endpoint: impl IntoEndpoint<dyn ServerEndpoint>) -> Result<SharedPort> {
        endpoint.into_endpoint()?.share(self.members().count())
    }
}

impl SharedPort {
    /// The address, with the number that port 0 became.
    pub fn host(&self) -> &Address {
        &self.host
    }

    /// Serves a part of the connections in this loop. The port is one like any other.
    ///
    /// # Errors
    ///
    /// As [`Reactor::listen`].
    #[track_caller]
    pub fn listen<K>(&self, reactor: &Reactor, factory: impl IntoFactory<K>) -> Result<Port> {
        self.over.listen(reactor, ErasedFactory::new(factory.into_factory()))
    }

    /// Puts an endpoint around it, which listens on what it is given: for [`ServerEndpoint::share`].
    #[must_use]
    pub fn wrapped<E: ServerEndpoint>(
        self,
        wrap: impl FnOnce(Arc<dyn ServerEndpoint>) -> E,
    ) -> SharedPort {
        SharedPort { host: self.host, over: Arc::new(wrap(self.over)) }
    }

    /// A TCP port for so many loops, which displays as `text`.
    pub(super) fn tcp(
        at: SocketAddr,
        options: &ListenOptions,
        loops: usize,
        text: String,
    ) -> Result<SharedPort> {
        let refused = |error| ListenError::new(at.into(), error);
        if DISTRIBUTES && loops > 1 {
            let sockets = Distributed::bind(at, options, loops, text).map_err(refused)?;
            return Ok(SharedPort { host: sockets.at.into(), over: Arc::new(sockets) });
        }
        let bind = {
            let options = options.clone();
            move |at| ListeningSocket::bound(at, &options)?.listening(&options)
        };
        let first = bind(at).map_err(refused)?;
        let at = first.tcp_address().map_err(refused)?;
        Ok(SharedPort::divided(first, options, text, move || bind(at)).map_err(refused)?)
    }

    /// A socket whose connections one loop divides among all, and how to open it again.
    pub(super) fn divided(
        socket: ListeningSocket,
        options: &ListenOptions,
        text: String,
        again: impl Fn() -> io::Result<ListeningSocket> + Send + Sync + 'static,
    ) -> io::Result<SharedPort> {
        let socket = SharedSocket::new(socket, options.clone(), again)?;
        Ok(SharedPort { host: socket.host().clone(), over: Arc::new(Divided { socket, text }) })
    }
}

impl ServerEndpoint for SharedPort {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        self.over.listen(reactor, factory)
    }

    fn share(&self, _: usize) -> Result<SharedPort> {
        Ok(self.clone())
    }
}

impl fmt::Display for SharedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.over.fmt(f)
    }
}

impl fmt::Debug for SharedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPort")
            .field("host", &self.host)
            .field("over", &self.to_string())
            .finish()
    }
}

/// The error of an endpoint that several loops cannot listen on.
pub(super) fn cannot_be_shared(endpoint: &(impl fmt::Display + ?Sized)) -> Failure {
    Failure::msg(format_args!("{endpoint} cannot be shared by several loops"))
}

/// Whether the system distributes connections among sockets of one port.
const DISTRIBUTES: bool = cfg!(target_os = "linux");

/// A TCP port of which each loop has a socket.
#[derive(Debug)]
struct Distributed {
    at: SocketAddr,
    options: ListenOptions,
    text: String,
    sockets: Mutex<Sockets>,
}

/// The sockets that no loop has taken yet.
#[derive(Debug)]
struct Sockets {
    /// It listens, so that nobody is refused before the loops run.
    listening: Option<ListeningSocket>,
    /// They do not: they would be given connections that nobody accepts.
    bound: VecDeque<ListeningSocket>,
}

impl Distributed {
    fn bind(
        at: SocketAddr,
        options: &ListenOptions,
        loops: usize,
        text: String,
    ) -> io::Result<Distributed> {
        if !options.reuse_port && at.port() != 0 {
            // Without a port of its own a second program would take half of the connections.
            ListeningSocket::bound(at, options)?;
        }
        let options = options.clone().reuse_port(true);
        let first = ListeningSocket::bound(at, &options)?.listening(&options)?;
        let at = first.tcp_address()?;
        let bound = (1..loops).map(|_| ListeningSocket::bound(at, &options));
        let bound = bound.collect::<io::Result<_>>()?;
        let sockets = Mutex::new(Sockets { listening: Some(first), bound });
        Ok(Distributed { at, options, text, sockets })
    }

    /// A socket for one loop. One that was made again finds none left.
    fn take(&self) -> io::Result<ListeningSocket> {
        let mut sockets = lock(&self.sockets);
        if let Some(listening) = sockets.listening.take() {
            return Ok(listening);
        }
        let bound = sockets.bound.pop_front();
        drop(sockets);
        let bound = bound.map_or_else(|| ListeningSocket::bound(self.at, &self.options), Ok)?;
        bound.listening(&self.options)
    }
}

impl ServerEndpoint for Distributed {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        let listen = |socket| reactor.listen_on(self.at, self.options.clone(), socket, factory);
        let listening = self.take().and_then(listen);
        Ok(listening.map_err(|error| ListenError::new(self.at.into(), error))?)
    }
}

impl fmt::Display for Distributed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A port whose connections one loop divides among all.
#[derive(Debug)]
struct Divided {
    socket: Arc<SharedSocket>,
    text: String,
}

impl ServerEndpoint for Divided {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        let listening = reactor.listen_with_others(&self.socket, factory);
        let host = || self.socket.host().clone();
        Ok(listening.map_err(|error| ListenError::new(host(), error))?)
    }
}

impl fmt::Display for Divided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
