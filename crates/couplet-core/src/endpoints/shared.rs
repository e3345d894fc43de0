//! Endpoints shared by several loops: [`SharedPort`], and how: [`Sharing`].
//!
//! Contract: 103a, 103g, 103k.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{IntoEndpoint, ServerEndpoint};
use crate::address::Address;
use crate::defer::{Failure, Result};
use crate::driver::{ListenOptions, ListeningSocket};
use crate::error::ListenError;
use crate::factory::{ErasedFactory, IntoFactory};
use crate::panics::{Contained, contain, lock};
use crate::reactor::{Cluster, Port, Reactor, SharedSocket};
use crate::switches::Switch;

/// A port bound once, for several loops: [`Cluster::bind`]. Cheap to clone.
///
/// TCP on Linux: each loop has its own socket, and the system distributes connections by a hash of
/// their addresses (`SO_REUSEPORT`), unless the loops are to share [one](Sharing::on_one_socket).
///
/// UNIX sockets, inherited sockets, and TCP elsewhere: the loops share one socket. One loop
/// accepts, and hands each connection to the loop that has the fewest connections of this port. At
/// most [backlog](ListenOptions::backlog) connections are in transit to a loop; beyond that the
/// accepting loop keeps them. If that loop stops listening or pauses, another one accepts. If a
/// loop is dropped, connections in transit to it go to the others. Once all loops have stopped
/// listening, the socket is closed, and a UNIX socket's file is removed.
///
/// A `SharedPort` is also an endpoint, which listens in the loop of the reactor it is passed to.
#[derive(Clone)]
pub struct SharedPort {
    host: Address,
    over: Arc<dyn ServerEndpoint>,
    /// `None` if each loop has its own.
    socket: Option<Arc<SharedSocket>>,
}

/// How several loops share a port, for [`ServerEndpoint::share`].
#[derive(Clone)]
pub struct Sharing {
    loops: usize,
    socket: Option<Arc<ChooseSocket>>,
    trial: Option<Arc<Examine>>,
}

/// Something that an endpoint would open; see [`Sharing::trial`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Claim<'a> {
    /// The endpoint would listen on this address.
    #[non_exhaustive]
    Address {
        /// The address.
        address: &'a Address,
        /// Whether no other port may have it: false with `SO_REUSEPORT`.
        is_exclusive: bool,
        /// Whether an address of IPv6 receives from IPv4 too.
        is_dual: bool,
    },
    /// The endpoint would append to this file, or create it.
    File(&'a Path),
}

/// Examines a claim, and refuses it with an error.
type Examine = dyn Fn(Claim<'_>) -> io::Result<()> + Send + Sync;

/// Chooses a socket for an address that would be bound, or for an endpoint without one.
type ChooseSocket = dyn Fn(Option<&Address>) -> Option<ListeningSocket> + Send + Sync;

impl Sharing {
    /// For this number of loops.
    #[must_use]
    pub fn new(loops: usize) -> Sharing {
        Sharing { loops, socket: None, trial: None }
    }

    /// Has all loops share one socket, also where the system could distribute connections among
    /// several. `choose` returns it, or `None` for one that the endpoint binds; it gets the address to
    /// bind, or `None` for an inherited socket, and is called again when a loop listens after all have
    /// stopped.
    ///
    /// With [`Port::duplicate`] the socket moves to another process, under all the layers of its
    /// endpoint: see [`ErasedFactory::on_socket`], which does so for one loop.
    ///
    /// ```
    /// # struct Echo;
    /// # impl couplet::Protocol for Echo {
    /// #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
    /// # }
    /// use std::sync::Mutex;
    ///
    /// use couplet::ListeningSocket;
    /// use couplet::endpoints::{ServerEndpoint, Sharing, server_from_string};
    ///
    /// let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = socket.local_addr()?;
    /// let socket = Mutex::new(Some(ListeningSocket::from(socket)));
    /// let sharing = Sharing::new(2).on_one_socket(move |_address| socket.lock().ok()?.take());
    /// let port = server_from_string("throttle:8000:read=1M")?.share(&sharing)?;
    /// assert_eq!(*port.host(), address.into());
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[must_use]
    pub fn on_one_socket(
        mut self,
        choose: impl Fn(Option<&Address>) -> Option<ListeningSocket> + Send + Sync + 'static,
    ) -> Sharing {
        let choose = Contained::new(choose);
        self.socket = Some(Arc::new(move |address: Option<&Address>| choose(address)));
        self
    }

    /// Has [`share`](ServerEndpoint::share) read and build everything, such as certificates, but bind
    /// no address and open no file for writing: each is a [`Claim`] that `examine` may refuse. Nothing
    /// can listen on the resulting port. For checks of a configuration.
    ///
    /// ```
    /// use couplet::endpoints::{Claim, ServerEndpoint, Sharing, server_from_string};
    ///
    /// let sharing = Sharing::new(1).trial(|claim| match claim {
    ///     Claim::Address { address, .. } if address.port() == Some(80) => {
    ///         Err(std::io::ErrorKind::PermissionDenied.into())
    ///     }
    ///     _ => Ok(()),
    /// });
    /// assert!(server_from_string("tcp:80")?.share(&sharing).is_err());
    /// assert!(server_from_string("tcp:8000")?.share(&sharing).is_ok());
    /// let missing = server_from_string("tls:8443:cert=missing.pem")?.share(&sharing);
    /// assert!(missing.is_err());
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[must_use]
    pub fn trial(
        mut self,
        examine: impl Fn(Claim<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Sharing {
        self.trial = Some(Arc::new(examine));
        self
    }

    /// In a trial: examines a file, and returns true.
    pub(super) fn try_file(&self, file: &Path) -> io::Result<bool> {
        match &self.trial {
            Some(examine) => examine(Claim::File(file)).map(|()| true),
            None => Ok(false),
        }
    }

    /// In a trial: examines an address, and returns a port that can't listen.
    pub(super) fn try_address(
        &self,
        address: &Address,
        options: &ListenOptions,
        text: impl FnOnce() -> String,
    ) -> io::Result<Option<SharedPort>> {
        let Some(examine) = &self.trial else { return Ok(None) };
        let is_exclusive = !options.switches.has(Switch::ReusePort);
        let is_dual = options.switches.has(Switch::DualStack);
        examine(Claim::Address { address, is_exclusive, is_dual })?;
        let over = Arc::new(Tried(text()));
        Ok(Some(SharedPort { host: address.clone(), over, socket: None }))
    }

    /// The number of loops.
    pub fn loops(&self) -> usize {
        self.loops
    }

    /// Chooses the socket to listen on.
    pub(super) fn choose_socket(&self, address: Option<&Address>) -> Option<ListeningSocket> {
        let choose = self.socket.as_ref()?;
        let mut chosen = None;
        contain("the choice of a socket", || chosen = choose(address));
        chosen
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing").field("loops", &self.loops).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Binds a port for all loops, in the calling thread, while the program still has the
    /// privileges to do so; a port number of 0 is resolved and certificates are read here too.
    /// Clients are queued from then on. Each loop that serves them calls [`SharedPort::listen`].
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
    /// As for [`Reactor::listen`], and if the endpoint [cannot be shared](ServerEndpoint::share).
    pub fn bind(&self, endpoint: impl IntoEndpoint<dyn ServerEndpoint>) -> Result<SharedPort> {
        endpoint.into_endpoint()?.share(&Sharing::new(self.members().count()))
    }
}

impl SharedPort {
    /// The bound address, with the actual port number.
    pub fn host(&self) -> &Address {
        &self.host
    }

    /// Serves a share of the connections in this loop. Otherwise the port is like any other.
    ///
    /// # Errors
    ///
    /// As for [`Reactor::listen`].
    #[track_caller]
    pub fn listen<K>(&self, reactor: &Reactor, factory: impl IntoFactory<K>) -> Result<Port> {
        self.over.listen(reactor, ErasedFactory::new(factory))
    }

    /// Wraps the shared endpoint in another one, for [`ServerEndpoint::share`].
    #[must_use]
    pub fn wrapped<E: ServerEndpoint>(
        self,
        wrap: impl FnOnce(Arc<dyn ServerEndpoint>) -> E,
    ) -> SharedPort {
        let SharedPort { host, over, socket } = self;
        SharedPort { host, over: Arc::new(wrap(over)), socket }
    }

    /// The socket, for a port elsewhere, such as one in the [loop](ErasedFactory::on_socket) that is to
    /// listen with the endpoint. `None` if each loop has its own socket, or a loop has listened.
    pub fn into_socket(self) -> Option<ListeningSocket> {
        self.socket?.take_unused()
    }

    /// A TCP port, displayed as `text`.
    pub(super) fn tcp(
        at: SocketAddr,
        options: &ListenOptions,
        sharing: &Sharing,
        text: String,
    ) -> Result<SharedPort> {
        let refused = |error| ListenError::new(at.into(), error);
        let tried = sharing.try_address(&at.into(), options, || text.clone());
        if let Some(tried) = tried.map_err(refused)? {
            return Ok(tried);
        }
        let (loops, options) = (sharing.loops, &options.divided(sharing.loops));
        if DISTRIBUTES && loops > 1 && sharing.socket.is_none() {
            let sockets = PerLoopPort::bind(at, options, loops, text).map_err(refused)?;
            let (host, over) = (sockets.at.into(), Arc::new(sockets));
            return Ok(SharedPort { host, over, socket: None });
        }
        let open = {
            let (options, sharing) = (options.clone(), sharing.clone());
            move |at: SocketAddr| match sharing.choose_socket(Some(&at.into())) {
                Some(socket) => socket.listening(&options),
                None => ListeningSocket::bound(at, &options)?.listening(&options),
            }
        };
        let first = open(at).map_err(refused)?;
        let at = first.tcp_address().map_err(refused)?;
        Ok(SharedPort::from_one_socket(first, options, text, move || open(at)).map_err(refused)?)
    }

    /// A socket whose connections one loop distributes among all. `again` reopens it.
    pub(super) fn from_one_socket(
        socket: ListeningSocket,
        options: &ListenOptions,
        text: String,
        again: impl Fn() -> io::Result<ListeningSocket> + Send + Sync + 'static,
    ) -> io::Result<SharedPort> {
        let socket = SharedSocket::new(socket, options.clone(), again)?;
        Ok(SharedPort {
            host: socket.host().clone(),
            socket: Some(socket.clone()),
            over: Arc::new(SharedSocketPort { socket, text }),
        })
    }
}

impl ServerEndpoint for SharedPort {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        self.over.listen(reactor, factory)
    }

    fn share(&self, _: &Sharing) -> Result<SharedPort> {
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

/// An endpoint in a [trial](Sharing::trial).
#[derive(Debug)]
struct Tried(String);

impl ServerEndpoint for Tried {
    fn listen(&self, _: &Reactor, _: ErasedFactory) -> Result<Port> {
        Err(Failure::msg(format!("cannot listen on {self}: it was only tried")))
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error of an endpoint that several loops cannot listen on.
pub(super) fn cannot_be_shared(endpoint: &(impl fmt::Display + ?Sized)) -> Failure {
    let text = format!("cannot share {endpoint} among several loops");
    io::Error::new(io::ErrorKind::Unsupported, text).into()
}

/// Whether the system distributes connections among the sockets of one port.
const DISTRIBUTES: bool = cfg!(target_os = "linux");

/// A TCP port with one socket for each loop.
#[derive(Debug)]
struct PerLoopPort {
    at: SocketAddr,
    options: ListenOptions,
    text: String,
    sockets: Mutex<Sockets>,
}

/// The sockets not yet taken by a loop.
#[derive(Debug)]
struct Sockets {
    /// The first socket listens, so that no client is refused before the loops run.
    listening: Option<ListeningSocket>,
    /// The others do not listen yet: the system would give them connections that no loop accepts.
    bound: VecDeque<ListeningSocket>,
}

impl PerLoopPort {
    fn bind(
        at: SocketAddr,
        options: &ListenOptions,
        loops: usize,
        text: String,
    ) -> io::Result<PerLoopPort> {
        if !options.switches.has(Switch::ReusePort) && at.port() != 0 {
            // Fails if the port is in use. With only `SO_REUSEPORT`, a second program would get
            // half of the connections.
            ListeningSocket::bound(at, options)?;
        }
        let options = options.clone().reuse_port(true);
        let first = ListeningSocket::bound(at, &options)?.listening(&options)?;
        let at = first.tcp_address()?;
        let bound = (1..loops).map(|_| ListeningSocket::bound(at, &options));
        let bound = bound.collect::<io::Result<_>>()?;
        let sockets = Mutex::new(Sockets { listening: Some(first), bound });
        Ok(PerLoopPort { at, options, text, sockets })
    }

    /// A socket for one loop. A restarted loop finds none left, and binds a new one.
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

impl ServerEndpoint for PerLoopPort {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        let listen = |socket| reactor.listen_on(self.at, self.options.clone(), socket, factory);
        let listening = self.take().and_then(listen);
        Ok(listening.map_err(|error| ListenError::new(self.at.into(), error))?)
    }
}

impl fmt::Display for PerLoopPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A port whose connections one loop distributes among all.
#[derive(Debug)]
struct SharedSocketPort {
    socket: Arc<SharedSocket>,
    text: String,
}

impl ServerEndpoint for SharedSocketPort {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        let listening = reactor.listen_with_others(&self.socket, factory);
        let host = || self.socket.host().clone();
        Ok(listening.map_err(|error| ListenError::new(host(), error))?)
    }
}

impl fmt::Display for SharedSocketPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
