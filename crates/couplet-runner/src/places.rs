//! The sockets of a program's ports, for connections or for datagrams, by their places in its
//! configuration. A new process of the program, or a service whose configuration has changed, serves
//! the sockets that are open.

mod kinds;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use couplet::endpoints::{Reload, ServerEndpoint, SharedPort, Sharing, UdpServer};
use couplet::factory::ErasedFactory;
use couplet::{Address, DatagramOptions, DatagramPort, DatagramProtocol, Failure, Port, Reactor};
use serde::{Deserialize, Serialize};

use kinds::PlacedPort;
pub(crate) use kinds::PlacedSocket;

/// The place of a socket in a configuration. A service may have several sockets at one place, if it
/// listens twice on the same text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The table of the service; of the runner's own sockets, their option.
    service: String,
    /// The text of the endpoint.
    endpoint: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.endpoint, self.service)
    }
}

thread_local! {
    /// The service whose configuration is being read.
    static READING: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    /// The sockets of the program. Its services run in one loop.
    // Bound: one for each port of the loop, and for each socket of the process before.
    static SOCKETS: Sockets = Sockets::default();
}

/// Reads the configuration of a service, whose endpoints get its name.
pub(crate) fn read_for<T>(service: &str, read: impl FnOnce() -> T) -> T {
    let before = READING.replace(Some(service.into()));
    let value = read();
    READING.set(before);
    value
}

/// The service whose configuration is being read.
pub(crate) fn service_being_read() -> Option<Arc<str>> {
    READING.with_borrow(Clone::clone)
}

/// An endpoint of the service with this name, for a configuration that does not read it as a
/// [`Listen`](crate::Listen): its socket stays open while the program is restarted, or the service's
/// configuration changes.
pub fn placed(service: &str, endpoint: Arc<dyn ServerEndpoint>) -> Arc<dyn ServerEndpoint> {
    Arc::new(Placed::new(endpoint, service))
}

/// An endpoint with its place.
#[derive(Debug)]
pub(crate) struct Placed {
    endpoint: Arc<dyn ServerEndpoint>,
    service: Arc<str>,
}

impl Placed {
    pub(crate) fn new(endpoint: Arc<dyn ServerEndpoint>, service: impl Into<Arc<str>>) -> Placed {
        Placed { endpoint, service: service.into() }
    }
}

impl ServerEndpoint for Placed {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let place =
            Place { service: self.service.to_string(), endpoint: self.endpoint.to_string() };
        let wanted = place.clone();
        let factory = factory.on_socket(move |address| {
            SOCKETS.with(|sockets| sockets.take(&wanted, address))?.into_streams()
        });
        let port = self.endpoint.listen(reactor, factory)?;
        let placed = PlacedPort::Streams(port.clone(), self.endpoint.clone());
        SOCKETS.with(|sockets| sockets.add(place, placed));
        Ok(port)
    }

    fn share(&self, sharing: &Sharing) -> couplet::Result<SharedPort> {
        self.endpoint.share(sharing)
    }

    fn reload(&self) -> couplet::Result<Reload> {
        self.endpoint.reload()
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// Opens the UDP port of a service at its place.
pub(crate) fn listen_udp<P: DatagramProtocol>(
    reactor: &Reactor,
    (service, endpoint): (&str, &UdpServer),
    options: DatagramOptions,
    protocol: P,
) -> couplet::Result<DatagramPort<P>> {
    let place = Place { service: service.to_owned(), endpoint: endpoint.to_string() };
    let address = Address::udp(endpoint.address);
    let socket = SOCKETS.with(|sockets| sockets.take(&place, Some(&address)));
    let port = match socket.and_then(PlacedSocket::into_datagrams) {
        Some(socket) => reactor
            .adopt_datagrams(socket, options, protocol)
            .map_err(|error| Failure::msg(format!("cannot listen on {endpoint}: {error}")))?,
        None => reactor.listen_udp_with(endpoint.address, options, protocol)?,
    };
    let placed = PlacedPort::Datagrams(port.transport().clone());
    SOCKETS.with(|sockets| sockets.add(place, placed));
    Ok(port)
}

#[derive(Default)]
struct Sockets {
    /// Sockets that wait for their ports.
    // Bound: one for each port of the process before, or of the services that a reload changes.
    waiting: RefCell<Vec<(Place, PlacedSocket)>>,
    // Bound: one for each port of the loop.
    ports: RefCell<Vec<(Place, PlacedPort)>>,
    /// Whether another process serves the sockets, and has the files of UNIX sockets.
    is_guest: Cell<bool>,
}

impl Sockets {
    /// The socket for this place, or else one on the address to bind: the endpoint's options, or the
    /// name of its table, have changed.
    fn take(&self, place: &Place, address: Option<&Address>) -> Option<PlacedSocket> {
        let mut waiting = self.waiting.borrow_mut();
        // Port 0 is any free port, which another service may have by chance.
        let address = address.filter(|address| address.port() != Some(0));
        // Addresses of TCP and UDP differ.
        let at =
            |socket: &PlacedSocket| address.is_some() && socket.address().ok().as_ref() == address;
        let found = waiting.iter().position(|(it, _)| it == place);
        let found = found.or_else(|| waiting.iter().position(|(_, socket)| at(socket)));
        if let (None, Some(address)) = (found, address) {
            // An address of the same service, which it has left.
            waiting
                .retain(|(it, socket)| it.service != place.service || !socket.may_overlap(address));
        }
        found.map(|index| waiting.remove(index).1)
    }

    fn add(&self, place: Place, port: PlacedPort) {
        let mut ports = self.ports.borrow_mut();
        ports.retain(|(_, port)| port.is_listening());
        if self.is_guest.get() {
            port.keep_socket_file(true);
            port.serve(false);
        }
        ports.push((place, port));
    }

    fn open(&self) -> Vec<(Place, PlacedPort)> {
        let ports = self.ports.borrow();
        ports.iter().filter(|(_, port)| port.is_listening()).cloned().collect()
    }
}

/// Reads the files of all open endpoints again, such as certificates, except for those of these
/// services, which are built anew.
pub(crate) fn reload_files(except: &[&str]) -> couplet::Result<Vec<Reload>> {
    let open = SOCKETS.with(Sockets::open);
    let kept = open.iter().filter(|(place, _)| !except.contains(&&*place.service));
    kept.filter_map(|(_, port)| port.endpoint()).map(ServerEndpoint::reload).collect()
}

/// Has ports at these places use these sockets of another process, which still serves them, and has
/// the files of UNIX sockets.
pub(crate) fn inherit(sockets: Vec<(Place, PlacedSocket)>) {
    SOCKETS.with(|it| {
        it.is_guest.set(true);
        it.waiting.borrow_mut().extend(sockets);
    });
}

/// Duplicates of the sockets of these services.
pub(crate) async fn duplicates(
    is_wanted: impl Fn(&str) -> bool,
) -> couplet::Result<Vec<(Place, PlacedSocket)>> {
    let mut sockets = Vec::new();
    for (place, port) in SOCKETS.with(Sockets::open) {
        if is_wanted(&place.service) {
            let socket = port.duplicate().await;
            let socket = socket.map_err(|failure| {
                Failure::msg(format!("cannot duplicate the socket {place}: {failure}"))
            })?;
            sockets.push((place, socket));
        }
    }
    Ok(sockets)
}

/// Keeps the sockets of these services open until [`settle`] or [`give_away`], while their ports are
/// closed and opened again.
pub(crate) async fn hold(is_wanted: impl Fn(&str) -> bool) -> couplet::Result<()> {
    let held = duplicates(&is_wanted).await?;
    SOCKETS.with(|it| {
        for (place, port) in it.open() {
            if is_wanted(&place.service) {
                port.keep_socket_file(true);
            }
        }
        it.waiting.borrow_mut().extend(held);
    });
    Ok(())
}

/// Closes the sockets that have no port. This process serves the others, and has the files of UNIX
/// sockets.
pub(crate) fn settle() {
    SOCKETS.with(|it| {
        let was_guest = it.is_guest.replace(false);
        let open = it.open();
        for (place, socket) in it.waiting.borrow_mut().iter_mut() {
            // The file of a port that is open is the port's.
            socket.keep_socket_file(open.iter().any(|(other, _)| other == place));
        }
        let unused = it.waiting.take();
        for (_, port) in open {
            port.keep_socket_file(false);
            if was_guest {
                port.serve(true);
            }
        }
        drop(unused);
    });
}

/// Another process serves all sockets now. The files of UNIX sockets belong to it.
pub(crate) fn give_away() {
    SOCKETS.with(|it| {
        it.is_guest.set(true);
        for (_, port) in it.open() {
            port.serve(false);
            port.keep_socket_file(true);
        }
        let held = it.waiting.take();
        drop(held);
    });
}
