//! Datagram ports: [`Reactor::listen_datagrams`], and its endpoints.

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

/// The place of a datagram port, for [`Reactor::listen_datagrams`]. Made from
///
/// - a UDP address; port 0 picks a free port, and [`DatagramTransport::host`] returns its number;
/// - a [`UdpServer`](crate::endpoints::UdpServer), such as `"udp:9000".parse()?`;
/// - a [`UnixAddress`], on Linux. A path becomes a socket file, which is removed when the port closes; a
///   name that begins with a NUL is abstract; for an empty name the system chooses an abstract one. With
///   [`DatagramOptions::lock_file`] the file of a crashed process is replaced;
/// - a socket: a [duplicate](DatagramTransport::duplicate) from another process, or one of the standard
///   library, as a [`DatagramSocket`]. The peer, the families and the kernel's coalescing stay; the options that
///   apply before a socket is bound are ignored, and `broadcast` is set. Joining a group that already
///   contains the socket is no error;
/// - any of these with options: `(address, DatagramOptions::default().size(1400))`;
/// - a peer: [`DatagramEndpoint::to`].
#[derive(Debug)]
pub struct DatagramEndpoint {
    place: DatagramPlace,
    options: DatagramOptions,
}

#[derive(Debug)]
enum DatagramPlace {
    Address(Address),
    Socket(DatagramSocket),
}

impl DatagramEndpoint {
    /// A UDP port that exchanges datagrams only with `peer`, on an address chosen by the system.
    /// Refusals are reported by [`connection_refused`](DatagramProtocol::connection_refused). Twisted's
    /// `transport.connect`.
    pub fn to(peer: SocketAddr) -> DatagramEndpoint {
        let any: SocketAddr = match peer {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        DatagramEndpoint::from((any, DatagramOptions::default().peer(Address::udp(peer))))
    }
}

impl From<SocketAddr> for DatagramEndpoint {
    fn from(address: SocketAddr) -> DatagramEndpoint {
        DatagramEndpoint::from(Address::udp(address))
    }
}

impl From<UnixAddress> for DatagramEndpoint {
    fn from(name: UnixAddress) -> DatagramEndpoint {
        DatagramEndpoint::from(Address::Unix(name))
    }
}

/// A TCP address is used as a UDP address.
impl From<Address> for DatagramEndpoint {
    fn from(address: Address) -> DatagramEndpoint {
        let address = address.socket_addr().map_or(address, Address::udp);
        let place = DatagramPlace::Address(address);
        DatagramEndpoint { place, options: DatagramOptions::default() }
    }
}

impl From<DatagramSocket> for DatagramEndpoint {
    fn from(socket: DatagramSocket) -> DatagramEndpoint {
        let place = DatagramPlace::Socket(socket);
        DatagramEndpoint { place, options: DatagramOptions::default() }
    }
}

impl<E: Into<DatagramEndpoint>> From<(E, DatagramOptions)> for DatagramEndpoint {
    fn from((endpoint, options): (E, DatagramOptions)) -> DatagramEndpoint {
        DatagramEndpoint { options, ..endpoint.into() }
    }
}

impl Reactor {
    /// Opens a datagram port, and passes its datagrams to `protocol`: a [`DatagramProtocol`], or a
    /// closure. The [endpoint](DatagramEndpoint) is an address, also with options, a socket, or a peer.
    ///
    /// The system queues datagrams from now on; the turn delivers them. Twisted's `listenUDP`,
    /// `listenUNIXDatagram` and `adoptDatagramPort`.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use couplet::{Datagram, DatagramTransport};
    ///
    /// couplet::run(|reactor| {
    ///     let echo = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
    ///         transport.answer(datagram, datagram.data).ok();
    ///     };
    ///     let port = reactor.listen_datagrams(SocketAddr::from(([127, 0, 0, 1], 0)), echo)?;
    ///     println!("listening on {}", port.host());
    /// #   reactor.stop();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error, for example when no route to the peer
    /// exists; [`Unsupported`](std::io::ErrorKind::Unsupported) for a socket on a driver without
    /// sockets.
    #[track_caller]
    pub fn listen_datagrams<P: DatagramProtocol>(
        &self,
        endpoint: impl Into<DatagramEndpoint>,
        protocol: P,
    ) -> Result<DatagramPort<P>, ListenError> {
        let DatagramEndpoint { place, options } = endpoint.into();
        let protocol = Contained::new(Box::new(protocol) as Box<_>);
        let (bound, address, options) = match place {
            DatagramPlace::Address(address) => {
                (self.world().bind_datagrams(&address, &options), address, options)
            }
            DatagramPlace::Socket(socket) => {
                let options = socket.complete(options);
                let address = socket.address().unwrap_or_else(|_| UnixAddress::Unnamed.into());
                (self.world().adopt_datagrams(socket, &options), address, options)
            }
        };
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
