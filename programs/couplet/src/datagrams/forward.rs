//! `couplet forward` over UDP: each client gets its own port towards the server, so that answers
//! can be routed back. The port closes after an idle period: UDP has no end of stream to forward.
//!
//! Contract: 160i.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use couplet::endpoints::UdpClient;
use couplet::{
    Address, Datagram, DatagramEndpoint, DatagramPort, DatagramProtocol, DatagramTransport,
    Deferred,
};

use super::{ListenUdp, Loops, Part};
use crate::exit::Exit;
use crate::output;
use crate::server::{self, SessionPermit};

/// Default of `--idle-timeout`.
const IDLE: Duration = Duration::from_secs(60);
/// Longest pause between two lookups of a server whose name could not be found.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which a port that stops looks for answers.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// Datagrams forwarded in all threads.
#[derive(Default)]
struct Totals {
    clients: AtomicU64,
    /// Open sessions.
    open: Arc<AtomicUsize>,
    turned_away: AtomicU64,
    there: AtomicU64,
    back: AtomicU64,
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// The protocol of the port that faces the clients.
struct ClientPort {
    server: Upstream,
    lookup: Duration,
    idle: Duration,
    /// Most concurrent clients.
    most: usize,
    sessions: BTreeMap<Address, Session>,
    totals: Arc<Totals>,
}

/// The options of a forwarder.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Ends a session without datagrams for this long.
    pub(crate) idle: Option<Duration>,
    /// Most concurrent clients.
    pub(crate) most: Option<usize>,
    /// The interval at which the server's name is looked up.
    pub(crate) lookup: Duration,
}

/// The server.
#[derive(Clone)]
struct Upstream {
    /// The known addresses, in the order in which they are tried.
    addresses: Vec<SocketAddr>,
    /// The place of the address in use.
    at: usize,
    /// The name, if it is looked up.
    name: Option<UdpClient>,
}

impl Upstream {
    fn new(server: UdpClient) -> Upstream {
        let addresses: Vec<_> = server.address().into_iter().collect();
        let name = Some(server).filter(|_| addresses.is_empty());
        Upstream { addresses, at: 0, name }
    }

    /// The address in use.
    fn address(&self) -> Option<SocketAddr> {
        self.addresses.get(self.at).copied()
    }

    /// Uses the next address, if this one is in use and there is another.
    fn leave(&mut self, address: SocketAddr, why: &dyn fmt::Display) {
        if self.address() != Some(address) || self.addresses.len() < 2 {
            return;
        }
        self.at = (self.at + 1) % self.addresses.len();
        let next = self.addresses[self.at];
        tracing::warn!(%address, %next, "the server's next address is used: {why}");
    }
}

struct Session {
    port: DatagramPort<ReplyForwarder>,
    exchange: Rc<Exchange>,
    _place: SessionPermit,
}

/// The datagrams of a client, and their answers.
struct Exchange {
    /// The local address to which the client sent last.
    known: Cell<Option<IpAddr>>,
    /// Time of the last datagram in either direction.
    last_activity: Cell<Instant>,
    /// The client's last datagram, until it has an answer.
    unanswered: RefCell<Option<Unanswered>>,
}

/// A datagram without an answer.
struct Unanswered {
    /// The bytes, for the next address of a server with several.
    data: Option<Vec<u8>>,
    /// The addresses that have refused it.
    refusals: usize,
}

/// The protocol of one client's port towards the server.
struct ReplyForwarder {
    clients: DatagramTransport,
    client: Address,
    exchange: Rc<Exchange>,
    totals: Arc<Totals>,
}

impl DatagramProtocol for ReplyForwarder {
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self.exchange.last_activity.set(transport.reactor().now());
        self.exchange.unanswered.take();
        let mut asked = Datagram::new(&[], &self.client);
        asked.to = self.exchange.known.get();
        if self.clients.answer(&asked, datagram.data).is_ok() {
            count(&self.totals.back);
        }
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) {
        let Some(server) = transport.peer().and_then(|peer| peer.socket_addr()) else { return };
        tracing::info!(client = %self.client, %server, "the server's port is closed");
        let client = self.client.clone();
        self.clients.port::<ClientPort>().tell(move |clients, transport| {
            clients.refused(transport, &client, server);
        });
    }
}

impl ClientPort {
    /// The client's session, created if necessary; `None` if there are too many, or no address of
    /// the server can be used.
    fn session(
        &mut self,
        transport: &DatagramTransport,
        client: &Address,
        to: Option<IpAddr>,
    ) -> Option<&Session> {
        if !self.sessions.contains_key(client) {
            self.server.address()?;
            let Some(place) = SessionPermit::acquire(&self.totals.open, self.most) else {
                count(&self.totals.turned_away);
                return None;
            };
            let exchange = Rc::new(Exchange {
                known: Cell::new(to),
                last_activity: Cell::new(transport.reactor().now()),
                unanswered: RefCell::new(None),
            });
            let Some(port) = self.open(transport, client, &exchange) else {
                count(&self.totals.turned_away);
                return None;
            };
            count(&self.totals.clients);
            tracing::info!(%client, "a new client");
            let session = Session { port, exchange, _place: place };
            self.sessions.insert(client.clone(), session);
        }
        self.sessions.get(client)
    }

    /// A client's port towards the address in use, or towards the next one that can be used.
    fn open(
        &mut self,
        transport: &DatagramTransport,
        client: &Address,
        exchange: &Rc<Exchange>,
    ) -> Option<DatagramPort<ReplyForwarder>> {
        for _ in 0..self.server.addresses.len() {
            let server = self.server.address()?;
            let answers = ReplyForwarder {
                clients: transport.clone(),
                client: client.clone(),
                exchange: exchange.clone(),
                totals: self.totals.clone(),
            };
            match transport.reactor().listen_datagrams(DatagramEndpoint::to(server), answers) {
                Ok(port) => return Some(port),
                Err(error) => {
                    tracing::warn!(%client, %error, "cannot open a port towards the server");
                    self.server.leave(server, &error);
                }
            }
        }
        None
    }

    /// An address of the server has refused a client's datagram: the client moves to the next address,
    /// with that datagram, until each address has refused it.
    fn refused(&mut self, transport: &DatagramTransport, client: &Address, by: SocketAddr) {
        self.server.leave(by, &"it refused a datagram");
        let Some(session) = self.sessions.get(client) else { return };
        let peer = session.port.peer().and_then(|peer| peer.socket_addr());
        if peer != Some(by) || self.server.address() == Some(by) {
            return;
        }
        let exchange = session.exchange.clone();
        let unanswered = exchange.unanswered.take();
        let Some(port) = self.open(transport, client, &exchange) else { return };
        let Some(session) = self.sessions.get_mut(client) else { return };
        drop(std::mem::replace(&mut session.port, port).stop_listening());
        let Some(Unanswered { data: Some(data), refusals }) = unanswered else { return };
        if refusals + 1 < self.server.addresses.len() {
            self.send(client, &data, refusals + 1);
        }
    }

    /// Sends a client's datagram to the server, and keeps a copy if there is another address to
    /// try.
    fn send(&self, client: &Address, data: &[u8], refusals: usize) {
        let Some(Session { port, exchange, .. }) = self.sessions.get(client) else { return };
        if port.send(data).is_ok() {
            let kept = (self.server.addresses.len() > 1).then(|| data.to_vec());
            exchange.unanswered.replace(Some(Unanswered { data: kept, refusals }));
            count(&self.totals.there);
        }
    }

    /// Closes idle sessions and schedules the next sweep.
    fn sweep(&mut self, transport: &DatagramTransport) {
        let (now, idle) = (transport.reactor().now(), self.idle);
        self.sessions.retain(|client, session| {
            let last_activity = session.exchange.last_activity.get();
            let is_live = now.saturating_duration_since(last_activity) < idle;
            if !is_live {
                tracing::info!(%client, "an idle client");
                drop(session.port.stop_listening());
            }
            is_live
        });
        transport.port::<Self>().call_later(idle / 4, Self::sweep);
    }

    /// Looks the server's name up repeatedly. Datagrams wait until the name has an address.
    fn look_up(&mut self, transport: &DatagramTransport) {
        let Some(server) = &self.server.name else { return };
        if self.server.address().is_none() {
            transport.pause_producing();
        }
        let (port, (name, number)) = (transport.port::<Self>(), (server.host.clone(), server.port));
        let found = transport.reactor().resolve(&*name).add_both(move |found| {
            port.clone().tell(move |clients, transport| {
                let again = match found {
                    Ok(found) => {
                        clients.move_to(&found, number);
                        transport.resume_producing();
                        clients.lookup
                    }
                    Err(failure) => {
                        tracing::warn!("cannot find the server {name}: {failure}");
                        clients.lookup.min(SEARCH_INTERVAL)
                    }
                };
                transport.port::<Self>().call_later(again, Self::look_up);
            });
            Ok(())
        });
        found.detach();
    }

    /// The server's name has these addresses. If the one in use is not among them, the clients get
    /// new sessions.
    fn move_to(&mut self, found: &[IpAddr], number: u16) {
        let before = self.server.address();
        self.server.addresses = found.iter().map(|ip| SocketAddr::new(*ip, number)).collect();
        let same = self.server.addresses.iter().position(|address| Some(*address) == before);
        self.server.at = same.unwrap_or(0);
        if same.is_some() {
            return;
        }
        if let Some(address) = self.server.address() {
            tracing::info!(%address, "the server's address");
        }
        for session in std::mem::take(&mut self.sessions).into_values() {
            drop(session.port.stop_listening());
        }
    }

    fn awaits_answers(&self) -> bool {
        self.sessions.values().any(|session| session.exchange.unanswered.borrow().is_some())
    }
}

/// Waits until each client has an answer to its last datagram, at most for this time.
fn finish(port: &DatagramTransport, within: Duration) -> Deferred<()> {
    let (port, reactor) = (port.port::<ClientPort>(), port.reactor().clone());
    let began = reactor.now();
    reactor.clone().spawn(async move {
        while reactor.now() - began < within
            && port.ask(|clients, _| clients.awaits_answers()).await?
        {
            reactor.sleep(ANSWER_INTERVAL).await?;
        }
        Ok(())
    })
}

impl DatagramProtocol for ClientPort {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        self.sweep(transport);
        self.look_up(transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let client = &datagram.from;
        let Some(session) = self.session(transport, client, datagram.to) else { return };
        session.exchange.known.set(datagram.to);
        session.exchange.last_activity.set(transport.reactor().now());
        self.send(client, datagram.data, 0);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let [clients, there, back] = [&self.clients, &self.there, &self.back].map(number);
        write!(f, "{clients} clients, {there} datagrams to the server, {back} back")?;
        match number(&self.turned_away) {
            0 => Ok(()),
            n => write!(f, ", {n} turned away"),
        }
    }
}

pub(crate) fn run(
    (listen, server): (SocketAddr, &UdpClient),
    settings: Settings,
    loops: Loops,
) -> Result<(), Exit> {
    let server = Upstream::new(server.clone());
    let most = server::max_sessions(settings.most, 1);
    let totals = Arc::<Totals>::default();
    let counted = totals.clone();
    super::run(&[listen], loops, move || {
        ClientPort::new(server.clone(), settings, most, counted.clone())
    })?;
    output::print_to_stderr(&totals.to_string());
    Ok(())
}

/// A UDP port of a service. When it stops, clients may wait for their answers for the time `drain`.
pub(crate) fn part(
    (listen, server): (ListenUdp, UdpClient),
    settings: Settings,
    drain: Duration,
) -> Part {
    let (server, most) = (Upstream::new(server), server::max_sessions(settings.most, 1));
    let totals = Arc::<Totals>::default();
    let protocol = move || ClientPort::new(server.clone(), settings, most, totals.clone());
    super::part(listen, protocol, move |service| service.finish(move |port| finish(port, drain)))
}

impl ClientPort {
    fn new(server: Upstream, settings: Settings, most: usize, totals: Arc<Totals>) -> ClientPort {
        let Settings { idle, lookup, .. } = settings;
        let idle = idle.unwrap_or(IDLE);
        ClientPort { server, lookup, idle, most, sessions: BTreeMap::new(), totals }
    }
}

#[cfg(test)]
mod tests {
    use couplet::sim::{Datagrams, Sim};

    use super::*;

    const IDLE: u64 = 60;
    const LOOKUP: u64 = 30;

    /// A forwarder, its server, and two clients.
    struct Scene {
        sim: Sim,
        clients: [Datagrams; 2],
        server: Datagrams,
        forwarder: SocketAddr,
        totals: Arc<Totals>,
    }

    impl Scene {
        /// With the server's address.
        fn new(most: usize) -> Scene {
            Scene::with(most, |address| Upstream { addresses: vec![address], at: 0, name: None })
        }

        fn with(most: usize, upstream: impl Fn(SocketAddr) -> Upstream + 'static) -> Scene {
            let mut sim = Sim::new(1);
            let (near, far) = (sim.bare_host("client"), sim.bare_host("server"));
            let clients = [5000, 5001].map(|port| sim.datagrams(near, port).expect("a free port"));
            let server = sim.datagrams(far, 53).expect("a free port");
            let (to, totals) = (server.address(), Arc::<Totals>::default());
            let counted = totals.clone();
            let between = sim.host("forward", move |reactor| {
                let (idle, lookup) = (Some(Duration::from_secs(IDLE)), Duration::from_secs(LOOKUP));
                let settings = Settings { idle, most: None, lookup };
                let port = ClientPort::new(upstream(to), settings, most, counted.clone());
                reactor.listen_datagrams(SocketAddr::from(([0, 0, 0, 0], 9000)), port)?;
                Ok(())
            });
            let forwarder = sim.at(between, 9000);
            let mut scene = Scene { sim, clients, server, forwarder, totals };
            scene.pass(1);
            scene
        }

        fn pass(&mut self, seconds: u64) {
            self.sim.run_for(Duration::from_secs(seconds)).expect("the world holds");
        }

        /// The port from which the server gets this client's question, if it gets it.
        fn ask(&mut self, client: usize) -> Option<SocketAddr> {
            self.clients[client].send_to(self.forwarder, b"tell me").expect("it is open");
            self.pass(1);
            let (from, bytes) = self.server.take()?;
            assert_eq!(bytes, b"tell me");
            Some(from)
        }

        fn answer(&mut self, to: SocketAddr, bytes: &[u8]) {
            self.server.send_to(to, bytes).expect("it is open");
            self.pass(1);
        }

        fn got(&self, client: usize) -> Option<Vec<u8>> {
            self.clients[client].take().map(|(_, bytes)| bytes)
        }
    }

    #[test]
    fn a_client_that_only_listens_or_only_sends_is_not_idle() {
        let mut scene = Scene::new(10);
        let [listens, sends] = [0, 1].map(|client| scene.ask(client).expect("it was forwarded"));
        assert_ne!(listens, sends);
        for _ in 0..10 {
            scene.answer(listens, b"news");
            assert_eq!(scene.got(0).as_deref(), Some(&b"news"[..]));
            assert_eq!(scene.ask(1), Some(sends));
            scene.pass(IDLE - 3);
        }
        assert_eq!(scene.totals.to_string(), "2 clients, 12 datagrams to the server, 10 back");
        // An idle client is noticed within a quarter of that time.
        scene.pass(IDLE / 4 + 4);
        assert_eq!(scene.totals.open.load(Ordering::Relaxed), 0);
        [listens, sends].iter().for_each(|port| scene.answer(*port, b"news"));
        assert_eq!((scene.got(0), scene.got(1)), (None, None), "the sessions have ended");
        assert!(scene.ask(1).is_some_and(|port| ![listens, sends].contains(&port)));
    }

    #[test]
    fn a_client_above_the_limit_is_turned_away_until_another_is_idle() {
        let mut scene = Scene::new(1);
        let first = scene.ask(0).expect("it was forwarded");
        for _ in 0..3 {
            assert_eq!(scene.ask(1), None);
        }
        assert_eq!(scene.ask(0), Some(first));
        let told = "1 clients, 2 datagrams to the server, 0 back, 3 turned away";
        assert_eq!(scene.totals.to_string(), told);
        scene.pass(IDLE * 5 / 4);
        let second = scene.ask(1).expect("there is room");
        scene.answer(second, b"news");
        assert_eq!((scene.got(0), scene.got(1)), (None, Some(b"news".to_vec())));
    }

    #[test]
    fn the_server_s_name_is_looked_up_again_and_clients_move_to_its_new_address() {
        let mut scene = Scene::with(10, |address| {
            let name = format!("udp:named:{}", address.port()).parse().expect("a name");
            Upstream::new(name)
        });
        let spare = scene.sim.bare_host("spare");
        let other = scene.sim.datagrams(spare, 53).expect("a free port");
        let [first, second] = [scene.server.address().ip(), other.address().ip()];
        // Until the name is known, datagrams wait.
        assert_eq!(scene.ask(0), None);
        scene.sim.set_name("named", &[first]);
        scene.pass(SEARCH_INTERVAL.as_secs());
        let old = scene.server.take().expect("it was forwarded").0;
        // In another order, or while no server is known, the clients stay.
        for names in [&[second, first][..], &[]] {
            scene.sim.set_name("named", names);
            scene.pass(LOOKUP + 1);
            assert_eq!(scene.ask(0), Some(old), "{names:?}");
        }
        scene.sim.set_name("named", &[second]);
        scene.pass(LOOKUP + 1);
        assert_eq!(scene.ask(0), None);
        let (new, bytes) = other.take().expect("it was forwarded");
        assert_eq!(bytes, b"tell me");
        other.send_to(new, b"news").expect("it is open");
        scene.pass(1);
        assert_eq!(scene.got(0).as_deref(), Some(&b"news"[..]));
        assert_eq!(scene.totals.open.load(Ordering::Relaxed), 1);
    }

    /// A server behind two addresses that refuse datagrams, with its own address as the third of its name.
    fn behind_refusing_addresses() -> (Scene, [IpAddr; 2], IpAddr) {
        let mut scene = Scene::with(10, |address| {
            let name = format!("udp:named:{}", address.port()).parse().expect("a name");
            Upstream::new(name)
        });
        // Nothing listens on the hosts other than the server's.
        let closed = ["first", "second"].map(|name| scene.sim.bare_host(name));
        let closed =
            closed.map(|host| scene.sim.datagrams(host, 9).expect("a port").address().ip());
        let server = scene.server.address().ip();
        scene.sim.set_name("named", &[closed[0], closed[1], server]);
        scene.pass(SEARCH_INTERVAL.as_secs() + 1);
        (scene, closed, server)
    }

    #[test]
    fn c160i_a_refused_datagram_goes_to_the_server_s_next_address_and_so_do_later_ones() {
        let (mut scene, closed, server) = behind_refusing_addresses();
        for client in [0, 1, 0] {
            let from = scene.ask(client).expect("its only datagram arrives");
            scene.answer(from, b"news");
            assert_eq!(scene.got(client).as_deref(), Some(&b"news"[..]));
            assert_eq!(scene.server.take(), None, "it arrives once");
        }
        assert_eq!(scene.totals.clients.load(Ordering::Relaxed), 2);
        // The addresses may all refuse: each is tried once for each datagram.
        scene.sim.set_name("named", &closed);
        scene.pass(LOOKUP + 1);
        for _ in 0..2 {
            assert_eq!(scene.ask(0), None);
        }
        scene.sim.set_name("named", &[closed[0], server]);
        scene.pass(LOOKUP + 1);
        assert!(scene.ask(0).is_some());
    }

    #[test]
    fn c160i_clients_that_are_refused_together_move_together() {
        let (mut scene, ..) = behind_refusing_addresses();
        // The first datagrams are refused by two addresses, and no later ones are.
        for round in 0..2 {
            for client in &scene.clients {
                client.send_to(scene.forwarder, b"tell me").expect("it is open");
            }
            scene.pass(1);
            let arrived: Vec<_> = std::iter::from_fn(|| scene.server.take()).collect();
            assert_eq!(arrived.len(), 2, "{round}: {arrived:?}");
            arrived.iter().for_each(|(from, _)| scene.answer(*from, b"news"));
            assert!((0..2).all(|client| scene.got(client).as_deref() == Some(&b"news"[..])));
        }
    }
}
