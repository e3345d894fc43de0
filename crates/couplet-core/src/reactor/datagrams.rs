//! Datagram ports: [`Reactor::listen_udp`] and related methods, and the turn's work for them.

use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::rc::Rc;

use super::records::Start;
use crate::address::{Address, UnixAddress};
use crate::datagrams::{DatagramCell, DatagramPort, DatagramProtocol, DatagramTransport};
use crate::driver::{Bound, DatagramOptions, DatagramSocket};
use crate::error::ListenError;
use crate::panics::Contained;
use crate::recorder::Reactor;

impl Reactor {
    /// Opens a UDP port, and passes its datagrams to `protocol`: a [`DatagramProtocol`], or a
    /// closure. Port 0 picks a free port; [`DatagramTransport::host`] returns its number.
    ///
    /// The system queues datagrams from now on; the turn delivers them. Twisted's `listenUDP`.
    ///
    /// ```
    /// use couplet::{Datagram, DatagramTransport};
    ///
    /// couplet::run(|reactor| {
    ///     let echo = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
    ///         transport.answer(datagram, datagram.data).ok();
    ///     };
    ///     let port = reactor.listen_udp("127.0.0.1:0".parse()?, echo)?;
    ///     println!("listening on {}", port.host());
    /// #   reactor.stop();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub fn listen_udp<P: DatagramProtocol>(
        &self,
        address: SocketAddr,
        protocol: P,
    ) -> Result<DatagramPort<P>, ListenError> {
        self.listen_udp_with(address, DatagramOptions::default(), protocol)
    }

    /// [`listen_udp`](Self::listen_udp) with options.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub fn listen_udp_with<P: DatagramProtocol>(
        &self,
        address: SocketAddr,
        options: DatagramOptions,
        protocol: P,
    ) -> Result<DatagramPort<P>, ListenError> {
        self.open_datagrams(Address::udp(address), options, protocol)
    }

    /// Opens a UDP port that exchanges datagrams only with `peer`, on an address chosen by the
    /// system. Refusals are reported by
    /// [`connection_refused`](DatagramProtocol::connection_refused). Twisted's `transport.connect`.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the peer's address and the system's error, for example when no route
    /// exists.
    #[track_caller]
    pub fn connect_udp<P: DatagramProtocol>(
        &self,
        peer: SocketAddr,
        protocol: P,
    ) -> Result<DatagramPort<P>, ListenError> {
        let any: SocketAddr = match peer {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let options = DatagramOptions::default().peer(Address::udp(peer));
        self.open_datagrams(Address::udp(any), options, protocol)
    }

    /// Opens a UNIX datagram socket. A path becomes a socket file, which is removed when the port
    /// closes; a name that begins with a NUL is abstract; for an empty name the system chooses an
    /// abstract one. With [`DatagramOptions::lock_file`] the file of a crashed process is replaced.
    /// On Linux. Twisted's `listenUNIXDatagram`.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub fn listen_unix_datagrams<P: DatagramProtocol>(
        &self,
        path: impl Into<UnixAddress>,
        options: DatagramOptions,
        protocol: P,
    ) -> Result<DatagramPort<P>, ListenError> {
        self.open_datagrams(path.into().into(), options, protocol)
    }

    /// Takes over a UDP socket: a [duplicate](DatagramTransport::duplicate) from another process, or a
    /// [`std::net::UdpSocket`]. The peer, the families and the kernel's coalescing stay; the options
    /// that apply before a socket is bound are ignored, and `broadcast` is set. Joining a group that
    /// already contains the socket is no error. Twisted's `adoptDatagramPort`.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets.
    ///
    /// ```
    /// use couplet::{Datagram, DatagramOptions, DatagramTransport};
    ///
    /// couplet::run(|reactor| {
    ///     let echo = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
    ///         transport.answer(datagram, datagram.data).ok();
    ///     };
    ///     let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    ///     let port = reactor.adopt_datagrams(socket, DatagramOptions::default(), echo)?;
    ///     println!("listening on {}", port.host());
    /// #   reactor.stop();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn adopt_datagrams<P: DatagramProtocol>(
        &self,
        socket: impl Into<DatagramSocket>,
        options: DatagramOptions,
        protocol: P,
    ) -> io::Result<DatagramPort<P>> {
        let (socket, protocol) = (socket.into(), Contained::new(Box::new(protocol) as Box<_>));
        let options = socket.complete(options);
        let bound = self.world().adopt_datagrams(socket, &options)?;
        Ok(self.serve_datagrams(bound, options, protocol))
    }

    #[track_caller]
    fn open_datagrams<P: DatagramProtocol>(
        &self,
        address: Address,
        options: DatagramOptions,
        protocol: P,
    ) -> Result<DatagramPort<P>, ListenError> {
        let protocol = Contained::new(Box::new(protocol) as Box<_>);
        let bound = self.world().bind_datagrams(&address, &options);
        let bound = bound.map_err(|error| ListenError::new(address, error))?;
        Ok(self.serve_datagrams(bound, options, protocol))
    }

    /// Has the turn serve a port.
    #[track_caller]
    fn serve_datagrams<P: DatagramProtocol>(
        &self,
        bound: Bound,
        options: DatagramOptions,
        protocol: Contained<Box<dyn DatagramProtocol>>,
    ) -> DatagramPort<P> {
        let cell = DatagramCell::new(self, bound, options, Location::caller(), protocol);
        let cell = Rc::new(cell);
        self.records().start(Start::Datagrams(cell.clone()));
        DatagramTransport { cell }.port()
    }
}
