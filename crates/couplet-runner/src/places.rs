//! The listening sockets of a program by their places in its configuration. A new process of the
//! program, or a service whose configuration has changed, listens on the sockets that are open.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use couplet::endpoints::{Reload, ServerEndpoint, SharedPort};
use couplet::factory::ErasedFactory;
use couplet::{Address, Failure, ListeningSocket, Port, Reactor};
use serde::{Deserialize, Serialize};

/// The place of a listening socket in a configuration. A service may have several sockets at one
/// place, if it listens twice on the same text.
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
        let factory = factory
            .on_socket(move |address| SOCKETS.with(|sockets| sockets.take(&wanted, address)));
        let port = self.endpoint.listen(reactor, factory)?;
        SOCKETS.with(|sockets| sockets.add(place, port.clone(), self.endpoint.clone()));
        Ok(port)
    }

    fn share(&self, loops: usize) -> couplet::Result<SharedPort> {
        self.endpoint.share(loops)
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

/// A port with its place and its endpoint.
struct OpenPort {
    place: Place,
    port: Port,
    endpoint: Arc<dyn ServerEndpoint>,
}

#[derive(Default)]
struct Sockets {
    /// Sockets that wait for their ports.
    // Bound: one for each port of the process before, or of the services that a reload changes.
    waiting: RefCell<Vec<(Place, ListeningSocket)>>,
    // Bound: one for each port of the loop.
    ports: RefCell<Vec<OpenPort>>,
    /// Whether another process accepts connections, and has the files of UNIX sockets.
    is_guest: Cell<bool>,
}

impl Sockets {
    /// The socket for this place, or else one on the address to bind: the endpoint's options, or the
    /// name of its table, have changed.
    fn take(&self, place: &Place, address: Option<&Address>) -> Option<ListeningSocket> {
        let mut waiting = self.waiting.borrow_mut();
        // Port 0 is any free port, which another service may have by chance.
        let address = address.filter(|address| address.port() != Some(0));
        let at = |socket: &ListeningSocket| {
            address.is_some() && socket.address().ok().as_ref() == address
        };
        let found = waiting.iter().position(|(it, _)| it == place);
        let found = found.or_else(|| waiting.iter().position(|(_, socket)| at(socket)));
        if found.is_none() {
            // An address of the same service, which it has left, may overlap this one.
            waiting.retain(|(it, _)| it.service != place.service);
        }
        found.map(|index| waiting.remove(index).1)
    }

    fn add(&self, place: Place, port: Port, endpoint: Arc<dyn ServerEndpoint>) {
        let mut ports = self.ports.borrow_mut();
        ports.retain(|open| open.port.is_listening());
        if self.is_guest.get() {
            port.keep_socket_file(true);
            port.pause_producing();
        }
        ports.push(OpenPort { place, port, endpoint });
    }

    fn open(&self) -> Vec<(Place, Port)> {
        let ports = self.ports.borrow();
        let open = ports.iter().filter(|open| open.port.is_listening());
        open.map(|open| (open.place.clone(), open.port.clone())).collect()
    }
}

/// Reads the files of all open endpoints again, such as certificates, except for those of these
/// services, which are built anew.
pub(crate) fn reload_files(except: &[&str]) -> couplet::Result<Vec<Reload>> {
    let endpoints: Vec<_> = SOCKETS.with(|it| {
        let ports = it.ports.borrow();
        let kept = ports
            .iter()
            .filter(|open| open.port.is_listening() && !except.contains(&&*open.place.service));
        kept.map(|open| open.endpoint.clone()).collect()
    });
    endpoints.iter().map(ServerEndpoint::reload).collect()
}

/// Has ports at these places listen on these sockets of another process, which still accepts, and has
/// the files of UNIX sockets.
pub(crate) fn inherit(sockets: Vec<(Place, ListeningSocket)>) {
    SOCKETS.with(|it| {
        it.is_guest.set(true);
        it.waiting.borrow_mut().extend(sockets);
    });
}

/// Duplicates of the sockets of these services.
pub(crate) async fn duplicates(
    is_wanted: impl Fn(&str) -> bool,
) -> couplet::Result<Vec<(Place, ListeningSocket)>> {
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

/// Closes the sockets that no port listens on. This process accepts connections, and has the files of
/// UNIX sockets.
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
                port.resume_producing();
            }
        }
        drop(unused);
    });
}

/// Another process accepts connections now, on all sockets. The files of UNIX sockets belong to it.
pub(crate) fn give_away() {
    SOCKETS.with(|it| {
        it.is_guest.set(true);
        for (_, port) in it.open() {
            port.pause_producing();
            port.keep_socket_file(true);
        }
        let held = it.waiting.take();
        drop(held);
    });
}
