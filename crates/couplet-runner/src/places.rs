//! The sockets of a program's ports, for connections or for datagrams, by their places in its
//! configuration. A new process of the program, or a service whose configuration has changed, serves
//! the sockets that are open.
//!
//! Contract: 160h.

mod kinds;
mod opening;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use couplet::endpoints::{Reload, ServerEndpoint, SharedPort, Sharing, UdpServer};
use couplet::factory::ErasedFactory;
use couplet::{Address, DatagramOptions, DatagramPort, DatagramProtocol, Failure, Port, Reactor};
use serde::{Deserialize, Serialize};

use kinds::PlacedPort;
pub(crate) use kinds::PlacedSocket;
use opening::Endpoint;
pub(crate) use opening::{Endpoints, collecting};

/// The place of a socket in a configuration. A service may have several sockets at one place, if it
/// listens twice on the same text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The table of the service; of the runner's own sockets, their option.
    service: String,
    /// The text of the endpoint.
    endpoint: String,
}

impl Place {
    /// The service, at the beginning of a message. Nothing if it has no name.
    fn of_service(&self) -> String {
        if self.service.is_empty() { String::new() } else { format!("service {}: ", self.service) }
    }

    /// Whether another program has opened the socket, and has the file of a UNIX socket: a socket of
    /// the init system, or an inherited one, under any layers.
    fn is_inherited(&self) -> bool {
        self.endpoint.split(':').any(|word| matches!(word, "systemd" | "fd"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.endpoint, self.service)
    }
}

thread_local! {
    /// The service whose configuration is being read.
    static READING: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    /// Whether the service that is read or built runs in all loops.
    static IN_ALL_LOOPS: Cell<bool> = const { Cell::new(false) };
    /// The sockets of this loop.
    static SOCKETS: Sockets = Sockets::default();
}

/// Reads the configuration of a service, whose endpoints get its name.
pub(crate) fn read_for<T>(service: &str, read: impl FnOnce() -> T) -> T {
    let before = READING.replace(Some(service.into()));
    let value = read();
    READING.set(before);
    value
}

/// Reads or builds a service that runs in all loops, which share the sockets of its endpoints.
pub(crate) fn in_all_loops<T>(make: impl FnOnce() -> T) -> T {
    let before = IN_ALL_LOOPS.replace(true);
    let value = make();
    IN_ALL_LOOPS.set(before);
    value
}

/// The service whose configuration is being read.
pub(crate) fn service_being_read() -> Option<Arc<str>> {
    READING.with_borrow(Clone::clone)
}

/// An endpoint of the service with this name, for a configuration that does not read it as a
/// [`Listen`](crate::Listen): its socket stays open while the program is restarted, or the service's
/// configuration changes. For a service that runs in all loops, placed while it is
/// [built](crate::Runner::service_in_loops), not in each loop.
pub fn placed(service: &str, endpoint: Arc<dyn ServerEndpoint>) -> Arc<dyn ServerEndpoint> {
    Arc::new(Placed::new(endpoint, service))
}

/// An endpoint with its place.
#[derive(Debug)]
pub(crate) struct Placed {
    endpoint: Arc<dyn ServerEndpoint>,
    service: Arc<str>,
    /// The port of a service in all loops, once one of them has listened.
    shared: Option<Mutex<Option<SharedPort>>>,
}

impl Placed {
    pub(crate) fn new(endpoint: Arc<dyn ServerEndpoint>, service: impl Into<Arc<str>>) -> Placed {
        let shared = IN_ALL_LOOPS.get().then(Mutex::default);
        let placed = Placed { endpoint, service: service.into(), shared };
        opening::collect(placed.place(), Endpoint::Streams(placed.endpoint.clone()));
        placed
    }

    fn place(&self) -> Place {
        Place { service: self.service.to_string(), endpoint: self.endpoint.to_string() }
    }

    /// The port of all loops. The first loop that listens binds it.
    fn share_once(
        &self,
        shared: &Mutex<Option<SharedPort>>,
        common: &Arc<Common>,
        place: &Place,
    ) -> couplet::Result<SharedPort> {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = &*shared {
            return Ok(shared.clone());
        }
        let (wanted, sockets) = (place.clone(), common.clone());
        let sharing = Sharing::new(common.loops)
            .on_one_socket(move |address| sockets.take(&wanted, address)?.into_streams());
        Ok(shared.insert(self.endpoint.share(&sharing)?).clone())
    }
}

impl ServerEndpoint for Placed {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let (place, common) = (self.place(), SOCKETS.with(Sockets::common));
        let port = if let Some(shared) = self.shared.as_ref().filter(|_| common.loops > 1) {
            let shared = self.share_once(shared, &common, &place)?;
            let port = ServerEndpoint::listen(&shared, reactor, factory)?;
            if common.is_starting.load(Ordering::Acquire) {
                port.pause_producing();
            }
            port
        } else {
            let wanted = place.clone();
            let factory =
                factory.on_socket(move |address| common.take(&wanted, address)?.into_streams());
            self.endpoint.listen(reactor, factory)?
        };
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

/// The service whose configuration with this UDP port is being read.
pub(crate) fn service_of_udp(endpoint: &UdpServer) -> Option<Arc<str>> {
    let service = service_being_read()?;
    opening::collect(place_of_udp(&service, endpoint), Endpoint::Datagrams(endpoint.address));
    Some(service)
}

fn place_of_udp(service: &str, endpoint: &UdpServer) -> Place {
    Place { service: service.to_owned(), endpoint: endpoint.to_string() }
}

/// Opens the UDP port of a service at its place.
pub(crate) fn listen_udp<P: DatagramProtocol>(
    reactor: &Reactor,
    (service, endpoint): (&str, &UdpServer),
    options: DatagramOptions,
    protocol: P,
) -> couplet::Result<DatagramPort<P>> {
    let place = place_of_udp(service, endpoint);
    let address = Address::udp(endpoint.address);
    let socket = SOCKETS.with(Sockets::common).take(&place, Some(&address));
    let port = match socket.and_then(PlacedSocket::into_datagrams) {
        Some(socket) => reactor
            .listen_datagrams((socket, options), protocol)
            .map_err(|error| Failure::msg(format!("cannot listen on {endpoint}: {error}")))?,
        None => reactor.listen_datagrams((endpoint.address, options), protocol)?,
    };
    let placed = PlacedPort::Datagrams(port.transport().clone());
    SOCKETS.with(|sockets| sockets.add(place, placed));
    Ok(port)
}

#[derive(Default)]
struct Sockets {
    common: RefCell<Arc<Common>>,
    ports: RefCell<Vec<(Place, PlacedPort)>>,
}

/// State of the sockets that the program's loops share.
pub(crate) struct Common {
    loops: usize,
    /// Sockets that wait for their ports.
    waiting: Mutex<Vec<(Place, PlacedSocket)>>,
    /// Whether another process accepts connections, and has the files of UNIX sockets.
    is_guest: AtomicBool,
    /// Whether services in several loops wait for the others to start, and for the process to change
    /// its user, before they accept.
    is_starting: AtomicBool,
}

impl Default for Common {
    fn default() -> Common {
        let [is_guest, is_starting] = [false, true].map(AtomicBool::new);
        Common { loops: 1, waiting: Mutex::default(), is_guest, is_starting }
    }
}

impl Common {
    /// The state for a program with this number of loops.
    pub(crate) fn new(loops: usize) -> Arc<Common> {
        Arc::new(Common { loops, ..Common::default() })
    }

    /// Uses this in the loop of the present thread.
    pub(crate) fn enter(self: &Arc<Self>) {
        drop(SOCKETS.with(|sockets| sockets.common.replace(self.clone())));
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Place, PlacedSocket)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_guest(&self) -> bool {
        self.is_guest.load(Ordering::Acquire)
    }

    /// Returns whether the process was a guest before.
    fn set_guest(&self, is_guest: bool) -> bool {
        self.is_guest.swap(is_guest, Ordering::AcqRel)
    }

    /// The socket for this place, or else one on the address to bind: the endpoint's options, or the
    /// name of its table, have changed.
    fn take(&self, place: &Place, address: Option<&Address>) -> Option<PlacedSocket> {
        let mut waiting = self.waiting();
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
}

impl Sockets {
    fn common(&self) -> Arc<Common> {
        self.common.borrow().clone()
    }

    fn add(&self, place: Place, port: PlacedPort) {
        let mut ports = self.ports.borrow_mut();
        ports.retain(|(_, port)| port.is_listening());
        if self.common().is_guest() {
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

/// All open endpoints, whose files, such as certificates, are read again. The services in `except`
/// are left out: a reload builds them anew.
pub(crate) fn kept_endpoints(except: &[&str]) -> Vec<Arc<dyn ServerEndpoint>> {
    let open = SOCKETS.with(Sockets::open);
    let kept = open.iter().filter(|(place, _)| !except.contains(&&*place.service));
    kept.filter_map(|(_, port)| port.endpoint()).cloned().collect()
}

/// Has ports at these places use these sockets of another process, which still serves them, and has
/// the files of UNIX sockets.
pub(crate) fn inherit(sockets: Vec<(Place, PlacedSocket)>) {
    let common = SOCKETS.with(Sockets::common);
    common.set_guest(true);
    common.waiting().extend(sockets);
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

/// Has ports at these places use these sockets until [`settle`], which have been
/// [opened](Endpoints::open) for them.
pub(crate) fn offer(opened: Vec<(Place, PlacedSocket)>) {
    SOCKETS.with(Sockets::common).waiting().extend(opened);
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
        it.common().waiting().extend(held);
    });
    Ok(())
}

/// Closes the sockets that have no port. This process serves the others, and has the files of UNIX
/// sockets.
pub(crate) fn settle() {
    SOCKETS.with(|it| {
        let common = it.common();
        let was_guest = common.set_guest(false);
        let open = it.open();
        let mut unused = std::mem::take(&mut *common.waiting());
        for (place, socket) in &mut unused {
            // The file of a port that is open is the port's.
            let has_port = open.iter().any(|(other, _)| other == place);
            socket.keep_socket_file(has_port || place.is_inherited());
        }
        for (place, port) in open {
            port.keep_socket_file(place.is_inherited());
            if was_guest {
                port.serve(true);
            }
        }
    });
}

/// Another process serves all sockets now. The files of UNIX sockets belong to it.
pub(crate) fn give_away() {
    SOCKETS.with(|it| {
        let common = it.common();
        common.set_guest(true);
        for (_, port) in it.open() {
            port.serve(false);
            port.keep_socket_file(true);
        }
        let _held = std::mem::take(&mut *common.waiting());
    });
}

/// The services have started: ports in this loop and later ports in any loop may accept, unless
/// another process does. Returns whether the other loops must [`resume`] too.
pub(crate) fn begin(reactor: &Reactor) -> bool {
    let common = SOCKETS.with(Sockets::common);
    common.is_starting.store(false, Ordering::Release);
    let accepts = common.loops > 1 && !common.is_guest();
    if accepts {
        resume(reactor);
    }
    accepts
}

/// Has this loop accept no more, in a process that gives its sockets away.
pub(crate) fn pause(_: &Reactor) {
    SOCKETS.with(Sockets::open).iter().for_each(|(_, port)| port.serve(false));
}

/// Has this loop accept again, or from now on.
pub(crate) fn resume(_: &Reactor) {
    SOCKETS.with(Sockets::open).iter().for_each(|(_, port)| port.serve(true));
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};

    use couplet::endpoints::server_from_string;
    use couplet::services::{Service, StreamServerService};
    use couplet::{Loop, Protocol, Transport};

    use super::*;

    struct Idle;

    impl Protocol for Idle {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    fn listen(l: &mut Loop, name: &str) -> StreamServerService {
        let endpoint = placed(name, server_from_string("127.0.0.1:0").unwrap());
        let mut service = StreamServerService::new(name, endpoint, || Idle).unwrap();
        let started = service.start(&l.reactor());
        l.run_until(started).unwrap();
        service
    }

    /// For each port, whether it is paused.
    fn paused(l: &mut Loop) -> Vec<bool> {
        let snapshot = l.reactor().snapshot();
        l.run_until(snapshot).unwrap().ports.iter().map(|port| port.paused).collect()
    }

    #[test]
    fn one_process_accepts_while_two_have_the_sockets() {
        let common = Common::new(1);
        common.enter();
        common.set_guest(true);
        let mut l = Loop::new().unwrap();
        let _first = listen(&mut l, "a");
        assert_eq!(paused(&mut l), [true], "the process before accepts");
        settle();
        assert_eq!(paused(&mut l), [false]);
        give_away();
        let _second = listen(&mut l, "b");
        assert_eq!(paused(&mut l), [true; 2], "the next process accepts");
        settle();
        assert_eq!(paused(&mut l), [false; 2]);
    }

    #[test]
    fn endpoints_are_of_the_service_that_is_read_and_shared_if_it_runs_in_all_loops() {
        let is_shared = || {
            let endpoint = server_from_string("127.0.0.1:0").unwrap();
            Placed::new(endpoint, "a").shared.is_some()
        };
        assert_eq!((service_being_read(), is_shared()), (None, false));
        read_for("a", || {
            read_for("b", || assert_eq!(service_being_read().as_deref(), Some("b")));
            assert_eq!(service_being_read().as_deref(), Some("a"));
        });
        in_all_loops(|| {
            in_all_loops(|| assert!(is_shared()));
            assert!(is_shared());
        });
        assert_eq!((service_being_read(), is_shared()), (None, false));
    }

    #[test]
    fn a_loop_without_a_program_shares_no_port() {
        let mut l = Loop::new().unwrap();
        let _service = in_all_loops(|| listen(&mut l, "a"));
        assert_eq!(paused(&mut l), [false]);
    }

    #[test]
    fn a_pause_lasts_until_the_loop_resumes() {
        let mut l = Loop::new().unwrap();
        let _service = listen(&mut l, "a");
        let reactor = l.reactor();
        pause(&reactor);
        assert_eq!(paused(&mut l), [true]);
        resume(&reactor);
        assert_eq!(paused(&mut l), [false]);
    }

    #[test]
    fn several_loops_accept_once_they_have_begun_unless_another_process_does() {
        for (loops, is_guest, begins) in [
            (1, false, false),
            (1, true, false),
            (2, true, false),
            (2, false, true),
            (3, false, true),
        ] {
            let common = Common::new(loops);
            common.enter();
            common.set_guest(is_guest);
            assert_eq!(begin(&Loop::new().unwrap().reactor()), begins, "{loops} {is_guest}");
        }
    }

    fn placed_socket(
        service: &str,
        socket: impl Into<std::os::fd::OwnedFd>,
    ) -> (Place, PlacedSocket) {
        let socket = PlacedSocket::from_descriptors(vec![socket.into()]).unwrap();
        let endpoint = socket.address().unwrap().to_string();
        (Place { service: service.to_owned(), endpoint }, socket)
    }

    #[test]
    fn a_socket_is_taken_by_its_place_or_its_address_and_makes_way_for_one_of_its_service() {
        let tcp = |service| placed_socket(service, TcpListener::bind("127.0.0.1:0").unwrap());
        let common = Common::new(1);
        // Datagrams may have a port of the same number, unless another program has it.
        let pairs = std::iter::repeat_with(|| {
            let first = tcp("a");
            let port = first.1.address().unwrap().port().unwrap();
            Some((first, UdpSocket::bind(("127.0.0.1", port)).ok()?))
        });
        let (first, udp) = pairs.flatten().next().unwrap();
        let sockets = [first, tcp("a"), tcp("b"), placed_socket("a", udp)];
        let addresses = sockets.each_ref().map(|(_, socket)| socket.address().unwrap());
        let places = sockets.each_ref().map(|(place, _)| place.clone());
        common.waiting().extend(sockets);
        let waiting = || common.waiting().iter().map(|(it, _)| it.clone()).collect::<Vec<_>>();
        let other = |service: &str| Place { service: service.to_owned(), endpoint: "x".to_owned() };
        let any = |index: usize| {
            let port = addresses[index].port().unwrap();
            Address::from(SocketAddr::from(([0, 0, 0, 0], port)))
        };
        // The address of another service.
        assert!(common.take(&other("a"), Some(&any(2))).is_none());
        assert!(common.take(&other("a"), None).is_none());
        assert_eq!(waiting(), places);
        // One that overlaps its own.
        assert!(common.take(&other("a"), Some(&any(0))).is_none());
        assert_eq!(waiting(), places[1..]);
        let taken = common.take(&places[1], Some(&addresses[2])).unwrap();
        assert_eq!(taken.address().unwrap(), addresses[1]);
        let taken = common.take(&other("c"), Some(&addresses[2])).unwrap();
        assert_eq!(taken.address().unwrap(), addresses[2]);
        assert_eq!(waiting(), places[3..]);
    }

    #[test]
    fn sockets_of_one_place_are_taken_one_after_another() {
        let common = Common::new(1);
        let place = Place { service: "a".to_owned(), endpoint: "x".to_owned() };
        let sockets =
            [(); 3].map(|()| placed_socket("a", TcpListener::bind("127.0.0.1:0").unwrap()).1);
        let addresses = sockets.each_ref().map(|socket| socket.address().unwrap());
        common.waiting().extend(sockets.map(|socket| (place.clone(), socket)));
        let taken = [(); 3].map(|()| common.take(&place, None).map(|it| it.address().unwrap()));
        assert_eq!(taken, addresses.map(Some));
        assert!(common.take(&place, None).is_none());
    }

    #[test]
    fn the_file_of_a_held_socket_is_the_port_s() {
        let folder = couplet_testkit::needed::Folder::new();
        let file = folder.join("a");
        let unused = folder.join("b");
        let mut l = Loop::new().unwrap();
        let endpoint = server_from_string(&format!("unix:{}", file.display())).unwrap();
        let mut service = StreamServerService::new("a", placed("a", endpoint), || Idle).unwrap();
        let started = service.start(&l.reactor());
        l.run_until(started).unwrap();
        let held = l.reactor().spawn(hold(|service| service == "a"));
        l.run_until(held).unwrap();
        let common = SOCKETS.with(Sockets::common);
        let (place, socket) = placed_socket("b", UnixListener::bind(&unused).unwrap());
        common.waiting().push((place, socket));
        settle();
        assert!(common.waiting().is_empty());
        UnixStream::connect(&file).unwrap();
        assert!(!unused.exists(), "it has no port");
        let stopped = service.stop();
        l.run_until(stopped).unwrap();
        assert!(!file.exists());
    }
}
