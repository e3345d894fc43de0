//! Sockets that the user opens or configures: the arguments of
//! [`Reactor::adopt`](crate::Reactor::adopt) and similar methods, and calls that get access to a socket of the loop.
//!
//! Contract: 22d, 64a, 160g.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::SockRef;

use super::{DatagramOptions, ListenOptions, mio};
use crate::address::{Address, UnixAddress};
use crate::panics::contain;

/// A connected TCP or UNIX stream socket, to be [adopted](crate::Reactor::adopt). Convert it from a
/// [`std::net::TcpStream`] or a `socket2::Socket`, and on Unix from a `UnixStream` or an `OwnedFd`.
#[derive(Debug)]
pub struct ConnectedSocket(pub(super) socket2::Socket);

/// A listening TCP or UNIX stream socket, to be [adopted](crate::Reactor::adopt_port). Convert it
/// from a [`std::net::TcpListener`] or a `socket2::Socket`, and on Unix from a `UnixListener` or an
/// `OwnedFd`, such as one opened by an init system.
#[derive(Debug)]
pub struct ListeningSocket {
    /// The file of a UNIX socket that we created; removed with the socket, before it is closed.
    pub(super) file: Option<mio::SocketFile>,
    pub(super) socket: socket2::Socket,
    pub(super) probes: mio::PortProbes,
}

/// A bound UDP socket, to be [adopted](crate::Reactor::listen_datagrams): a
/// [duplicate](crate::DatagramTransport::duplicate) of a port's socket, a [`std::net::UdpSocket`], or
/// on Unix an `OwnedFd`. On Unix it becomes an `OwnedFd`, which can be sent to another process.
#[derive(Debug)]
pub struct DatagramSocket(pub(super) socket2::Socket);

/// A connection that a world has adopted and its driver does not serve yet.
#[non_exhaustive]
pub struct Adopted {
    /// The other end.
    pub peer: Address,
    /// Our end.
    pub host: Address,
    /// Driver-specific socket handle.
    pub socket: Box<dyn Any>,
}

/// A connection that has left its loop, for another one.
#[derive(Debug)]
pub enum Released {
    /// A system's socket, for a loop of any thread or process.
    Socket(ConnectedSocket),
    /// For a loop of the same world.
    InWorld(Adopted),
}

impl Released {
    /// The address of the peer, while it is connected.
    pub(crate) fn peer(&self) -> Option<Address> {
        match self {
            Released::Socket(socket) => socket.peer(),
            Released::InWorld(adopted) => Some(adopted.peer.clone()),
        }
    }

    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) if it has none.
    pub(crate) fn into_socket(self) -> io::Result<ConnectedSocket> {
        match self {
            Released::Socket(socket) => Ok(socket),
            Released::InWorld(_) => Err(unsupported()),
        }
    }
}

/// The closure of [`Transport::with_socket`](crate::Transport::with_socket).
pub type SocketCall = Box<dyn FnOnce(SockRef<'_>) -> io::Result<()>>;

type Prepare = dyn Fn(SockRef<'_>) -> io::Result<()> + Send + Sync;

/// The user's closure, if any, that sets up a new socket before it is bound or connects.
#[derive(Clone, Default)]
pub(super) struct Preparation(Option<Arc<Prepare>>);

impl Preparation {
    pub(super) fn new(f: impl Fn(SockRef<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Preparation(Some(Arc::new(f)))
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Calls the closure. A panic is logged and returned as an error.
    pub(super) fn prepare(&self, socket: &socket2::Socket) -> io::Result<()> {
        let Some(prepare) = &self.0 else { return Ok(()) };
        let mut result = Err(io::Error::other("the preparation of a socket panicked"));
        contain("the preparation of a socket", || result = prepare(SockRef::from(socket)));
        result
    }
}

/// Closures are equal only to their clones.
impl PartialEq for Preparation {
    fn eq(&self, other: &Preparation) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Preparation {}

/// The error of a world without sockets.
pub(super) fn unsupported() -> io::Error {
    let text = "this loop's driver has no system sockets";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

impl From<TcpStream> for ConnectedSocket {
    fn from(socket: TcpStream) -> ConnectedSocket {
        ConnectedSocket(socket.into())
    }
}

impl From<socket2::Socket> for ConnectedSocket {
    fn from(socket: socket2::Socket) -> ConnectedSocket {
        ConnectedSocket(socket)
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixStream> for ConnectedSocket {
    fn from(socket: std::os::unix::net::UnixStream) -> ConnectedSocket {
        ConnectedSocket(socket.into())
    }
}

#[cfg(unix)]
impl From<OwnedFd> for ConnectedSocket {
    fn from(socket: OwnedFd) -> ConnectedSocket {
        ConnectedSocket(socket.into())
    }
}

impl ConnectedSocket {
    /// The address of the peer, while it is connected.
    pub(crate) fn peer(&self) -> Option<Address> {
        self.0.peer_addr().ok().map(|address| mio::address(&address))
    }
}

#[cfg(unix)]
impl ConnectedSocket {
    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.0.into()
    }

    /// Duplicates the descriptor with this number; `None` if it is not a stream socket.
    ///
    /// # Errors
    ///
    /// If the descriptor is not open.
    pub(crate) fn inherited(descriptor: i32) -> io::Result<Option<ConnectedSocket>> {
        use rustix::net::{SocketType, sockopt};
        let socket = couplet_os::descriptor::inherited(descriptor)?;
        let is_stream = sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
        Ok(is_stream.then(|| socket.into()))
    }
}

#[cfg(unix)]
impl ListeningSocket {
    /// Duplicates the inherited descriptor with this number. The original stays open, so this can
    /// be called again.
    ///
    /// # Errors
    ///
    /// If the descriptor is not open, or not a listening stream socket. Apple's systems do not
    /// report whether a socket listens; there the first accept fails.
    pub fn inherited(descriptor: i32) -> io::Result<ListeningSocket> {
        ListeningSocket::checked(couplet_os::descriptor::inherited(descriptor)?)
    }

    /// The socket of a port, from the descriptors of [`into_descriptors`](Self::into_descriptors) in
    /// the same order, usually in another process.
    ///
    /// A port on it removes the file of a UNIX socket only after
    /// [`keep_socket_file(false)`](crate::Port::keep_socket_file).
    ///
    /// # Errors
    ///
    /// If the first is not a listening stream socket.
    pub fn from_descriptors(
        descriptors: impl IntoIterator<Item = OwnedFd>,
    ) -> io::Result<ListeningSocket> {
        let mut descriptors = descriptors.into_iter();
        let first = descriptors.next().ok_or(io::ErrorKind::InvalidInput)?;
        let mut socket = ListeningSocket::checked(first)?;
        if let Address::Unix(UnixAddress::Path(path)) = socket.address()? {
            socket.file = mio::SocketFile::shared(&path, descriptors.next().map(Into::into))?;
        }
        Ok(socket)
    }

    /// Sets whether the file of a UNIX socket stays when the socket is closed, because it belongs to
    /// another process: of a port too that listens on this socket.
    pub fn keep_socket_file(&mut self, is_kept: bool) {
        if let Some(file) = &mut self.file {
            file.keep(is_kept);
        }
    }

    /// The descriptors of the socket, to be sent to another process: of the socket, and of the lock of
    /// its file if it has one. From [`Port::duplicate`](crate::Port::duplicate).
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn into_descriptors(self) -> io::Result<Vec<OwnedFd>> {
        let ListeningSocket { file, socket, .. } = self;
        let lock = file.as_ref().map(mio::SocketFile::lock_file).transpose()?.flatten();
        Ok(std::iter::once(socket.into()).chain(lock.map(Into::into)).collect())
    }

    fn checked(socket: OwnedFd) -> io::Result<ListeningSocket> {
        use rustix::net::{SocketType, sockopt};
        let is_stream = sockopt::socket_type(&socket)? == SocketType::STREAM;
        #[cfg(target_vendor = "apple")]
        let listens = true;
        #[cfg(not(target_vendor = "apple"))]
        let listens = sockopt::socket_acceptconn(&socket)?;
        if !is_stream || !listens {
            let text = "it is not a listening stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(socket.into())
    }

    /// The name of the address family: `INET`, `INET6` or `UNIX`.
    pub(crate) fn family(&self) -> Option<&'static str> {
        use rustix::net::{AddressFamily, getsockname};
        match getsockname(&self.socket).ok()?.address_family() {
            AddressFamily::INET => Some("INET"),
            AddressFamily::INET6 => Some("INET6"),
            AddressFamily::UNIX => Some("UNIX"),
            _ => None,
        }
    }
}

impl ListeningSocket {
    /// A bound TCP socket that does not listen yet.
    pub(crate) fn bound(at: SocketAddr, options: &ListenOptions) -> io::Result<ListeningSocket> {
        mio::bind(at, options)
    }

    /// Starts listening.
    pub(crate) fn listening(self, options: &ListenOptions) -> io::Result<ListeningSocket> {
        mio::listen(&self.socket, options)?;
        Ok(self)
    }

    /// A listening UNIX socket.
    pub(crate) fn unix(name: &UnixAddress, options: &ListenOptions) -> io::Result<ListeningSocket> {
        let (socket, file) = mio::bind_unix(name, options)?;
        Ok(ListeningSocket { file, ..socket.into() })
    }

    /// The address of a TCP socket.
    pub(crate) fn tcp_address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?.as_socket();
        address.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }

    /// The address of the socket.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn address(&self) -> io::Result<Address> {
        self.socket.local_addr().map(|address| mio::address(&address))
    }

    /// A duplicate. The file of a UNIX socket stays when it is closed.
    pub(crate) fn duplicate(&self) -> io::Result<ListeningSocket> {
        #[cfg(unix)]
        let file = self.file.as_ref().map(mio::SocketFile::try_clone).transpose()?;
        #[cfg(not(unix))]
        let file = None;
        Ok(ListeningSocket { file, ..self.try_clone()? })
    }

    /// A duplicate without the socket file, which stays with the original.
    pub(crate) fn try_clone(&self) -> io::Result<ListeningSocket> {
        Ok(ListeningSocket { file: None, socket: self.socket.try_clone()?, probes: self.probes })
    }
}

impl From<TcpListener> for ListeningSocket {
    fn from(socket: TcpListener) -> ListeningSocket {
        socket2::Socket::from(socket).into()
    }
}

impl From<socket2::Socket> for ListeningSocket {
    fn from(socket: socket2::Socket) -> ListeningSocket {
        ListeningSocket { file: None, socket, probes: mio::PortProbes::default() }
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixListener> for ListeningSocket {
    fn from(socket: std::os::unix::net::UnixListener) -> ListeningSocket {
        socket2::Socket::from(socket).into()
    }
}

#[cfg(unix)]
impl From<OwnedFd> for ListeningSocket {
    fn from(socket: OwnedFd) -> ListeningSocket {
        socket2::Socket::from(socket).into()
    }
}

impl From<UdpSocket> for DatagramSocket {
    fn from(socket: UdpSocket) -> DatagramSocket {
        DatagramSocket(socket.into())
    }
}

#[cfg(unix)]
impl From<DatagramSocket> for OwnedFd {
    fn from(socket: DatagramSocket) -> OwnedFd {
        socket.0.into()
    }
}

/// Fails with [`InvalidInput`](io::ErrorKind::InvalidInput) for any other descriptor, such as a UNIX
/// datagram socket, or a UDP socket that is not bound.
#[cfg(unix)]
impl TryFrom<OwnedFd> for DatagramSocket {
    type Error = io::Error;

    fn try_from(descriptor: OwnedFd) -> io::Result<DatagramSocket> {
        let socket = DatagramSocket(descriptor.into());
        let address = socket.0.local_addr()?.as_socket();
        let is_bound = address.is_some_and(|address| address.port() != 0);
        if !is_bound || socket.0.r#type()? != socket2::Type::DGRAM {
            let text = "it is not a bound UDP socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(socket)
    }
}

impl DatagramSocket {
    /// A UDP socket at this address, for a port that is to be opened later. Port number 0 lets the system
    /// choose one.
    ///
    /// ```
    /// use couplet::{DatagramOptions, DatagramSocket};
    ///
    /// let socket = DatagramSocket::bind(([127, 0, 0, 1], 0).into(), &DatagramOptions::default())?;
    /// assert_ne!(socket.address()?.port(), Some(0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The system's error, such as that the address is in use.
    pub fn bind(address: SocketAddr, options: &DatagramOptions) -> io::Result<DatagramSocket> {
        mio::bind_udp(address, options).map(DatagramSocket)
    }

    /// The address of the socket.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn address(&self) -> io::Result<Address> {
        let address = self.0.local_addr()?.as_socket();
        address.map(Address::udp).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }

    /// The options of a port on this socket: its peer and its families are the socket's.
    pub(crate) fn complete(&self, mut options: DatagramOptions) -> DatagramOptions {
        let peer = self.0.peer_addr().ok().and_then(|peer| peer.as_socket());
        if let (None, Some(peer)) = (&options.peer, peer) {
            options = options.peer(Address::udp(unmapped(peer)));
        }
        match self.0.only_v6() {
            Ok(is_v6) => options.dual_stack(!is_v6),
            // A socket of IPv4.
            Err(_) => options,
        }
    }
}

/// Converts an IPv4-mapped IPv6 address to IPv4; any other address is unchanged.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

impl Adopted {
    /// A connection with a driver-specific socket handle.
    pub fn new(peer: Address, host: Address, socket: impl Any) -> Adopted {
        Adopted { peer, host, socket: Box::new(socket) }
    }
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Adopted { peer, host, .. } = self;
        f.debug_struct("Adopted").field("peer", peer).field("host", host).finish_non_exhaustive()
    }
}

impl fmt::Debug for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preparation").finish_non_exhaustive()
    }
}
