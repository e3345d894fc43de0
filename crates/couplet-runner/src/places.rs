//! The listening sockets of a program by their places in its configuration. A new process of the
//! program, or a service whose configuration has changed, listens on the sockets that are open.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use couplet::endpoints::{ServerEndpoint, SharedPort};
use couplet::factory::ErasedFactory;
use couplet::{Failure, ListeningSocket, Port, Reactor};
use serde::{Deserialize, Serialize};

/// The place of a listening socket in a configuration. A service may have several sockets at one
/// place, if it listens twice on the same text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The table of the service; of the runner's own sockets, their option.
    service: String,
    /// The text of the endpoint.
    endpoint: String,
    /// Whether the text asks for any free port.
    is_any: bool,
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
        let (service, endpoint) = (self.service.to_string(), self.endpoint.to_string());
        let factory = match SOCKETS.with(|sockets| sockets.take(&service, &endpoint)) {
            Some(socket) => factory.on_socket(socket),
            None => factory,
        };
        let port = self.endpoint.listen(reactor, factory)?;
        let number = port.host().port();
        let is_any = number.is_some_and(|number| !endpoint.contains(&number.to_string()));
        let place = Place { service, endpoint, is_any };
        SOCKETS.with(|sockets| sockets.add(place, port.clone()));
        Ok(port)
    }

    fn share(&self, loops: usize) -> couplet::Result<SharedPort> {
        self.endpoint.share(loops)
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

#[derive(Default)]
struct Sockets {
    /// Sockets that wait for their ports.
    // Bound: one for each port of the process before, or of the services that a reload changes.
    waiting: RefCell<Vec<(Place, ListeningSocket)>>,
    // Bound: one for each port of the loop.
    ports: RefCell<Vec<(Place, Port)>>,
    /// Whether the files of UNIX sockets belong to another process.
    is_guest: Cell<bool>,
}

impl Sockets {
    /// The socket for this place, or else that of another service on the same address, whose table may
    /// have another name now.
    fn take(&self, service: &str, endpoint: &str) -> Option<ListeningSocket> {
        let mut waiting = self.waiting.borrow_mut();
        let alike = waiting.iter().enumerate().filter(|(_, (it, _))| it.endpoint == endpoint);
        let fitting = alike.filter(|(_, (it, _))| it.service == service || !it.is_any);
        let (index, _) = fitting.min_by_key(|(_, (it, _))| it.service != service)?;
        Some(waiting.remove(index).1)
    }

    fn add(&self, place: Place, port: Port) {
        let mut ports = self.ports.borrow_mut();
        ports.retain(|(_, port)| port.is_listening());
        port.keep_socket_file(self.is_guest.get());
        ports.push((place, port));
    }

    fn open(&self) -> Vec<(Place, Port)> {
        let ports = self.ports.borrow();
        ports.iter().filter(|(_, port)| port.is_listening()).cloned().collect()
    }
}

/// Has ports at these places listen on these sockets of another process, which still has the files of
/// UNIX sockets.
pub(crate) fn inherit(sockets: Vec<(Place, ListeningSocket)>) {
    SOCKETS.with(|it| {
        it.is_guest.set(true);
        it.waiting.borrow_mut().extend(sockets);
    });
}

/// Duplicates of all sockets, for another process.
pub(crate) async fn duplicates() -> couplet::Result<Vec<(Place, ListeningSocket)>> {
    duplicates_of(|_| true).await
}

async fn duplicates_of(
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

/// Keeps the sockets of these services open until [`settle`], while their ports are closed and opened
/// again.
pub(crate) async fn hold(services: &[&str]) -> couplet::Result<()> {
    let held = duplicates_of(|service| services.contains(&service)).await?;
    SOCKETS.with(|it| {
        for (place, port) in it.open() {
            if services.contains(&&*place.service) {
                port.keep_socket_file(true);
            }
        }
        it.waiting.borrow_mut().extend(held);
    });
    Ok(())
}

/// Closes the sockets that no port listens on. The files of UNIX sockets belong to this process.
pub(crate) fn settle() {
    SOCKETS.with(|it| {
        it.is_guest.set(false);
        for (_, socket) in it.waiting.borrow_mut().iter_mut() {
            socket.keep_socket_file(false);
        }
        let unused = it.waiting.take();
        for (_, port) in it.open() {
            port.keep_socket_file(false);
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
    });
}
