//! The building blocks of the suite's tests: a [`Kit`] names a driver, a [`Rig`] is a loop over it
//! with the [`Tap`] in between.
//!
//! Only [`Rig::pass`] moves time. A test turns the loop [`until`](Rig::until) a condition holds;
//! [`tick`](Rig::tick) lets everything in flight arrive, to show that nothing more happens.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use couplet::layers::{PassThrough, Side, SingleBytes};
use couplet::testing::{Cut, Manner, Memory, Network};
use couplet::{
    Address, Answers, ConnectOptions, Connector, DatagramOptions, DatagramPort, DatagramProtocol,
    IntoFactory, ListenOptions, Loop, LoopOptions, Port, Reactor, SocketOption, SocketOptionKind,
    Transport, UnixAddress, hooks,
};
#[cfg(all(target_os = "linux", feature = "uring"))]
use couplet_core::driver::{Driver, Uring};
use couplet_core::driver::{Key, Mio};

#[cfg(unix)]
use super::outer::Outer;
use super::peer::{B, Ground, PeerPort, Saw, World};
use super::recorder::{A, Echo, Script};
use super::sealed::{Seals, tls};
use super::tap::{Counts, Tap, Tapped};
use crate::PATIENCE;

/// A's role in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

pub const BOTH_ROLES: [Role; 2] = [Role::Server, Role::Client];

/// A driver, and its settings.
#[derive(Clone, Copy, Debug)]
pub struct Kit {
    driver: DriverKind,
    is_unix: bool,
    /// A's connections are pairs of pipes.
    is_pipes: bool,
    /// A's connections are terminals.
    is_terminal: bool,
    buffer: Option<usize>,
    events: Option<NonZeroUsize>,
    options: fn() -> LoopOptions,
    layers: Under,
    /// Turned by an outer loop, and only when the loop asks for a turn.
    is_embedded: bool,
    /// Over io_uring, connections begin in the ring.
    #[cfg(all(target_os = "linux", feature = "uring"))]
    is_in_ring: bool,
}

/// The layers under every connection of a kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    Nothing,
    PassThrough,
    SingleBytes,
    /// TLS, with B's TLS at the other end.
    Tls,
}

/// Answers leave together.
pub fn together() -> LoopOptions {
    LoopOptions::default().tune(|it| it.answers(Answers::Together))
}

/// The stall detector watches the loop, with a limit that no test reaches.
pub fn watched() -> LoopOptions {
    LoopOptions::default().stall_after(Duration::from_secs(3600))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DriverKind {
    Mio,
    #[cfg(all(target_os = "linux", feature = "uring"))]
    Uring,
    Memory(Manner),
    Sim,
}

static BIG: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..4 * 1024 * 1024u32).flat_map(u32::to_le_bytes).collect());

/// Memory whose next turn always delivers all pending bytes.
pub const READINESS: Kit = Kit::memory(Manner::Readiness);

/// Memory whose operations stay in flight for several turns.
pub const COMPLETION: Kit = Kit::memory(Manner::Completion);

impl Kit {
    pub const fn mio() -> Kit {
        Kit::of(DriverKind::Mio)
    }

    #[cfg(all(target_os = "linux", feature = "uring"))]
    pub const fn uring() -> Kit {
        Kit::of(DriverKind::Uring)
    }

    /// With connections that begin in the ring.
    #[cfg(all(target_os = "linux", feature = "uring"))]
    pub const fn in_ring(mut self) -> Kit {
        self.is_in_ring = true;
        self
    }

    pub const fn sim() -> Kit {
        Kit::of(DriverKind::Sim)
    }

    pub const fn memory(manner: Manner) -> Kit {
        Kit::of(DriverKind::Memory(manner))
    }

    const fn of(driver: DriverKind) -> Kit {
        let layers = Under::Nothing;
        Kit {
            driver,
            is_unix: false,
            is_pipes: false,
            is_terminal: false,
            buffer: None,
            events: None,
            options: LoopOptions::default,
            layers,
            is_embedded: false,
            #[cfg(all(target_os = "linux", feature = "uring"))]
            is_in_ring: false,
        }
    }

    /// Inside an outer loop.
    #[cfg(unix)]
    pub const fn embedded(mut self) -> Kit {
        self.is_embedded = true;
        self
    }

    /// Puts layers that change nothing under every connection.
    pub const fn over(mut self, layers: Under) -> Kit {
        self.layers = layers;
        self
    }

    /// Whether its connections are encrypted.
    pub fn is_sealed(self) -> bool {
        self.layers == Under::Tls
    }

    /// Whether a slice may be shorter than the read. The few facts about whole slices do not hold
    /// then.
    pub fn cuts_slices(self) -> bool {
        matches!(self.layers, Under::SingleBytes | Under::Tls)
    }

    /// With UNIX sockets instead of TCP.
    pub const fn unix(mut self) -> Kit {
        self.is_unix = true;
        self
    }

    /// With adopted pipes, in place of a server's connection.
    #[cfg(unix)]
    pub const fn pipes(mut self) -> Kit {
        self.is_pipes = true;
        self
    }

    /// With adopted terminals in raw mode.
    #[cfg(unix)]
    pub const fn terminal(mut self) -> Kit {
        self.is_terminal = true;
        self
    }

    /// Whether its connections are terminals.
    pub fn is_terminal(self) -> bool {
        self.is_terminal
    }

    /// Whether its connections are UNIX sockets, which are reset only by a close with unread input;
    /// such a reset destroys no bytes.
    pub fn is_unix(self) -> bool {
        self.is_unix
    }

    /// With a loop of these options.
    pub const fn options(mut self, options: fn() -> LoopOptions) -> Kit {
        self.options = options;
        self
    }

    /// Limits one wait of a mio driver to this many events.
    pub fn events_per_wait(mut self, events: usize) -> Kit {
        self.events = NonZeroUsize::new(events);
        self
    }

    /// Limits one read to this many bytes.
    pub fn read_buffer(mut self, bytes: usize) -> Kit {
        self.buffer = Some(bytes);
        self
    }

    /// Whether a system with its own buffers lies between the ends.
    pub fn has_a_system(self) -> bool {
        !matches!(self.driver, DriverKind::Memory(_))
    }

    /// Whether the connections are sockets of the real system.
    pub fn has_sockets(self) -> bool {
        !matches!(self.driver, DriverKind::Memory(_) | DriverKind::Sim)
    }

    /// Whether the driver is that over io_uring.
    pub fn is_uring(self) -> bool {
        #[cfg(all(target_os = "linux", feature = "uring"))]
        return self.driver == DriverKind::Uring;
        #[cfg(not(all(target_os = "linux", feature = "uring")))]
        return false;
    }

    /// Whether operations stay in flight for several turns, so that ready data may arrive later.
    pub fn in_flight(self) -> bool {
        self.driver == DriverKind::Memory(Manner::Completion)
    }

    /// Whether the next turn always delivers all pending bytes.
    pub fn is_readiness_in_memory(self) -> bool {
        self.driver == DriverKind::Memory(Manner::Readiness)
    }

    /// BIG: more than the buffers of the system and B hold together, in a known pattern; 16 MiB
    /// over sockets.
    pub fn big(self) -> &'static [u8] {
        let len = if self.has_sockets() { BIG.len() } else { 1024 * 1024 };
        &BIG[..len]
    }

    /// A connection of a fresh loop, as by [`Rig::pair`].
    pub fn pair(self, role: Role, script: Script) -> (Rig, A, B) {
        let mut rig = self.rig();
        let (a, b) = rig.pair(role, script);
        (rig, a, b)
    }

    /// [`pair`](Self::pair) with A as the server.
    pub fn accept(self, script: Script) -> (Rig, A, B) {
        self.pair(Role::Server, script)
    }

    /// As [`accept`](Self::accept), but a port accepts the connection in the next turns.
    pub fn arriving(self, script: Script) -> (Rig, A, B) {
        let rig = self.rig();
        let a = rig.end();
        let b = rig.peer_of(&a, script);
        (rig, a, b)
    }

    /// A fresh loop.
    pub fn rig(self) -> Rig {
        let buffer = self.buffer.unwrap_or(256 * 1024);
        let (tap, tapped, ground) = match self.driver {
            DriverKind::Mio => {
                let mio = Mio::new(buffer).expect("a poll descriptor");
                let mio = match self.events {
                    Some(most) => mio.events_per_wait(most),
                    None => mio,
                };
                let (tap, tapped) = Tap::new(Box::new(mio));
                (tap, tapped, Ground::Sockets)
            }
            #[cfg(all(target_os = "linux", feature = "uring"))]
            DriverKind::Uring => {
                let driver: Box<dyn Driver> = match uring(buffer) {
                    Some(uring) if self.is_in_ring => Box::new(uring.calm(0)),
                    Some(uring) => Box::new(uring),
                    None => Box::new(Mio::new(buffer).expect("a poll descriptor")),
                };
                let (tap, tapped) = Tap::new(driver);
                (tap, tapped, Ground::Sockets)
            }
            DriverKind::Sim => {
                let (world, driver) = World::new(buffer);
                let (tap, tapped) = Tap::new(driver);
                (tap, tapped, Ground::Sim(world))
            }
            DriverKind::Memory(manner) => {
                let (memory, network) = Memory::new(manner, 1);
                if let Some(most) = self.buffer {
                    network.set_cut(Cut::Most(most));
                }
                let (tap, tapped) = Tap::new(Box::new(memory));
                (tap, tapped, Ground::Memory(network))
            }
        };
        let mut l = Loop::with_driver(tap, (self.options)());
        match self.layers {
            Under::Nothing => {}
            Under::PassThrough => l.layer_connections(|_| vec![Box::new(PassThrough::default())]),
            Under::SingleBytes => l.layer_connections(|_| vec![Box::new(SingleBytes::default())]),
            Under::Tls => {
                let reactor = l.reactor();
                l.layer_connections(move |side| {
                    vec![Box::new(tls(side == Side::Accepted, reactor.now()))]
                });
            }
        }
        Rig {
            kit: self,
            reactor: l.reactor(),
            l,
            tapped,
            network: match &ground {
                Ground::Memory(network) => Some(network.clone()),
                _ => None,
            },
            ground,
            seals: Seals::default(),
            #[cfg(unix)]
            outer: Outer::default(),
            turned: 0,
            ticking: None,
            ends: RefCell::default(),
            #[cfg(unix)]
            folder: self.has_sockets().then(couplet_testkit::needed::Folder::new),
            paths: Cell::new(0),
        }
    }
}

/// A driver over io_uring; `None`, after a visible skip, where the system forbids it.
#[cfg(all(target_os = "linux", feature = "uring"))]
pub fn uring(read_buffer: usize) -> Option<Uring> {
    let uring = Uring::new(read_buffer);
    if let Err(error) = &uring {
        couplet_testkit::needed::missing(format_args!("io_uring ({error})"));
    }
    uring.ok()
}

/// A loop over a tapped driver.
pub struct Rig {
    pub kit: Kit,
    pub reactor: Reactor,
    pub l: Loop,
    pub tapped: Rc<Tapped>,
    /// Set on the memory driver.
    pub network: Option<Network>,
    pub ground: Ground,
    seals: Seals,
    #[cfg(unix)]
    outer: Outer,
    turned: u32,
    ticking: Option<B>,
    ends: RefCell<Vec<A>>,
    /// For the files of UNIX sockets.
    #[cfg(unix)]
    folder: Option<couplet_testkit::needed::Folder>,
    /// The number of paths used so far.
    paths: Cell<u32>,
}

pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// More turns than any test makes: a test that waits for an event in vain fails before its logs
/// fill the memory.
const MOST_TURNS: u32 = 100_000;

pub const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A loopback address that no other test listens on, so that a released port number stays free.
pub fn own_address(row: u8, number: u16) -> SocketAddr {
    let last = if cfg!(target_os = "linux") { row } else { 1 };
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, last)), number)
}

impl Rig {
    // Connections.

    /// A connection: A plays the script, the test controls B.
    pub fn pair(&mut self, role: Role, script: Script) -> (A, B) {
        let a = self.end();
        let b = self.pair_as(&a, role, script);
        (a, b)
    }

    /// [`pair`](Self::pair) with an end that another refers to.
    pub fn pair_as(&mut self, a: &A, role: Role, script: Script) -> B {
        let b = match role {
            #[cfg(unix)]
            _ if self.kit.is_pipes => self.adopt_pipe(a, script, B::piped()),
            #[cfg(unix)]
            _ if self.kit.is_terminal => self.adopt_pipe(a, script, B::at_terminal()),
            Role::Server => self.peer_of(a, script),
            Role::Client => {
                let peer = self.peer_port();
                self.connect(&peer, a, script);
                self.accepted(&peer)
            }
        };
        self.until("connection_made", || a.is_made());
        self.settle(a);
        b
    }

    /// Adopts non-socket descriptors as A; B has their other ends.
    #[cfg(unix)]
    fn adopt_pipe(&self, a: &A, script: Script, ends: (B, couplet::transport::Pipe)) -> B {
        let (b, pipe) = ends;
        let adopted = self.reactor.adopt_pipe(pipe, a.once(script));
        adopted.expect("pipes can be adopted").add_both(|_| Ok(())).detach();
        b
    }

    /// Sends the session tickets that follow a handshake, unless A has written more than fits.
    pub fn settle(&mut self, a: &A) {
        let still = if self.kit.is_sealed() { 20 } else { 0 };
        for _ in 0..still {
            if a.is_lost() || a.transport().buffered() == 0 {
                break;
            }
            self.turn();
        }
    }

    /// [`pair`](Self::pair) with A as the server.
    pub fn accept(&mut self, script: Script) -> (A, B) {
        self.pair(Role::Server, script)
    }

    /// Two ends under test, joined: the accepted one and the client.
    pub fn couple(&mut self, server: Script, client: Script) -> (A, A) {
        let (a, b) = (self.end(), self.end());
        let port = self.listen(&a, server);
        let to = port.host();
        self.connect_with(to, b.once(client));
        self.until("connection_made", || a.is_made() && b.is_made());
        (a, b)
    }

    /// An end under test, not connected yet.
    pub fn end(&self) -> A {
        let a = A::default();
        if self.kit.cuts_slices() {
            a.join_data();
        }
        self.ends.borrow_mut().push(a.clone());
        a
    }

    /// The peer of A, which a port accepts in the next turns.
    pub fn peer_of(&self, a: &A, script: Script) -> B {
        self.peer(&self.listen(a, script))
    }

    /// A port whose first connection is A.
    pub fn listen(&self, a: &A, script: Script) -> Port {
        self.listen_with(a.once(script))
    }

    pub fn listen_with<K>(&self, factory: impl IntoFactory<K>) -> Port {
        self.listen_at(ListenOptions::default(), factory)
    }

    pub fn listen_at<K>(&self, options: ListenOptions, factory: impl IntoFactory<K>) -> Port {
        let port = self.reactor.listen((self.any(), options), factory);
        port.expect("a free port can be opened")
    }

    /// An unused address to listen on.
    fn any(&self) -> Address {
        if !self.kit.is_unix {
            return LOOPBACK.into();
        }
        self.paths.set(self.paths.get() + 1);
        let name = format!("{}.sock", self.paths.get());
        #[cfg(unix)]
        if let Some(folder) = &self.folder {
            return UnixAddress::from(folder.join(&name)).into();
        }
        UnixAddress::from(name).into()
    }

    /// A datagram port at an unused address.
    pub fn datagrams<P: DatagramProtocol>(
        &self,
        options: DatagramOptions,
        protocol: P,
    ) -> DatagramPort<P> {
        let port = match self.any() {
            Address::Unix(path) => self.reactor.listen_datagrams((path, options), protocol),
            _ => self.reactor.listen_datagrams((LOOPBACK, options), protocol),
        };
        port.expect("a free port can be opened")
    }

    /// Connects A to a port of the test.
    pub fn connect(&self, to: &PeerPort, a: &A, script: Script) -> Connector {
        self.connect_with(to.address(), a.once(script))
    }

    pub fn connect_with<K>(&self, to: Address, factory: impl IntoFactory<K>) -> Connector {
        hooks::connector(&self.reactor, &to, ConnectOptions::default(), factory)
    }

    /// Connects to a port of the loop, even before the loop's first turn.
    pub fn peer(&self, port: &Port) -> B {
        self.try_peer(port.host()).expect("a listening port accepts a connection")
    }

    /// [`peer`](Self::peer), but the connect may be refused.
    pub fn try_peer(&self, to: Address) -> std::io::Result<B> {
        B::connect(to, &self.ground).map(|b| self.seal(b, false))
    }

    fn seal(&self, b: B, is_server: bool) -> B {
        match self.kit.layers {
            Under::Tls => b.sealed(&self.seals, is_server, self.reactor.now()),
            _ => b,
        }
    }

    /// A port of the test, outside the loop.
    pub fn peer_port(&self) -> PeerPort {
        PeerPort::new(&self.ground, &self.any())
    }

    /// A port of the test that refuses connections until it listens.
    pub fn refusing_port(&self) -> PeerPort {
        PeerPort::refusing(&self.ground, &self.any())
    }

    /// A port that never answers a connect.
    pub fn silent_port(&self) -> PeerPort {
        PeerPort::silent(&self.ground, &self.any())
    }

    /// Accepts the next connection to a port of the test.
    pub fn accepted(&mut self, port: &PeerPort) -> B {
        let mut taken = None;
        self.until("a connection", || {
            taken = port.accept();
            taken.is_some()
        });
        self.seal(taken.expect("`until` saw it"), true)
    }

    // Turns and time.

    /// One turn without waiting.
    pub fn turn(&mut self) {
        self.turned += 1;
        assert!(self.turned < MOST_TURNS, "the test has no end in sight");
        self.tapped.waits_in_run.set(0);
        self.turn_or_sleep();
        self.seals.pump();
    }

    /// One turn, unless an outer loop sleeps instead; false when the run has ended.
    fn turn_or_sleep(&mut self) -> bool {
        #[cfg(unix)]
        if self.kit.is_embedded {
            if self.outer.is_told(&self.l, &self.tapped) {
                return self.outer.turn(&mut self.l, &self.tapped);
            }
            self.tapped.call_on_wait();
            return true;
        }
        self.l.turn(None).expect("the driver does not fail")
    }

    pub fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.turn();
        }
    }

    /// Turns until `done` returns true; `what` names the condition in the failure message.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        // On sockets the kernel may need CPU time: after 200 turns each one may sleep for 1 ms.
        let most = if self.kit.has_sockets() { PATIENCE.as_millis() } else { 10_000 };
        for round in 0..most {
            if done() {
                self.tapped.nap.set(Duration::ZERO);
                return;
            }
            if round == 200 && self.kit.has_sockets() {
                self.tapped.nap.set(Duration::from_millis(1));
            }
            self.turn();
        }
        if self.kit.is_embedded {
            for _ in 0..200 {
                self.l.turn(Some(Duration::ZERO)).expect("the driver does not fail");
            }
            assert!(!done(), "{what}: work that neither descriptor nor due time told");
        }
        let logs: Vec<_> = self.ends.borrow().iter().map(|a| a.log.entries()).collect();
        panic!("{what}: never happened; logs: {logs:#?}");
    }

    /// Two round trips on another connection: everything sent before has been received and handled.
    pub fn tick(&mut self) {
        let b = match self.ticking.take() {
            Some(b) => b,
            None => {
                let port = self.listen_with(|| Echo);
                self.peer(&port)
            }
        };
        for _ in 0..2 {
            let before = b.got().len();
            b.send(b"?");
            self.until("an echo", || {
                b.take_all();
                b.got().len() > before
            });
        }
        self.ticking = Some(b);
        // In the completion manner an operation may take some turns more than the echo. Layers
        // produce their output piece by piece, until the system's buffers are full.
        match self.kit.is_sealed() {
            true => self.turns(50),
            false if self.kit.in_flight() => self.turns(8),
            false => {}
        }
    }

    /// Advances the clock without a turn.
    pub fn pass(&self, by: Duration) {
        self.tapped.pass(by);
        if let Some(network) = &self.network {
            network.advance(by);
        }
    }

    /// The time passed since the start.
    pub fn passed(&self) -> Duration {
        self.tapped.passed()
    }

    /// Runs the loop and stops it immediately; each wait of the shutdown advances the clock by
    /// `each_wait`.
    pub fn stop(&mut self, each_wait: Duration) {
        let (tapped, network) = (self.tapped.clone(), self.network.clone());
        *self.tapped.on_wait.borrow_mut() = Some(Box::new(move || {
            tapped.pass(each_wait);
            if let Some(network) = &network {
                network.advance(each_wait);
            }
        }));
        self.run(|reactor| {
            reactor.stop();
            Ok(())
        });
        self.tapped.on_wait.take();
    }

    /// Runs the loop to the end of its run.
    pub fn run(&mut self, setup: impl FnOnce(&Reactor) -> couplet::Result<()>) {
        if !self.kit.is_embedded {
            return self.l.run(setup).expect("a stopped run succeeds");
        }
        self.l.begin(setup).expect("it begins");
        let mut rounds = 0;
        while self.turn_or_sleep() {
            rounds += 1;
            assert!(rounds < 100_000, "the run does not end");
        }
        self.l.end().expect("nothing is left to end");
    }

    // Results.

    /// The calls that the loop has made for A's key.
    pub fn counts(&self, a: &A) -> Counts {
        self.tapped.counts(key_of(&a.transport()))
    }

    /// Turns until A is lost and a few times more, and asserts that `connection_lost` came once and
    /// last. Returns the reason.
    #[track_caller]
    pub fn lost(&mut self, a: &A) -> String {
        self.until("connection_lost", || a.is_lost());
        self.turns(5);
        let entries = a.log.entries();
        assert_eq!(a.log.count("lost"), 1, "{entries:?}");
        assert!(entries.last().is_some_and(|e| e.starts_with("lost")), "{entries:?}");
        super::recorder::text(&a.reason())
    }

    /// Turns while B reads everything, until it sees a FIN or a reset.
    #[track_caller]
    pub fn take_to_the_end(&mut self, b: &B) -> Saw {
        self.until("an end at B", || {
            b.take_all();
            b.saw() != Saw::Open
        });
        b.saw()
    }

    /// B sends `data`, and A gets some.
    #[track_caller]
    pub fn sends(&mut self, a: &A, b: &B, data: &[u8]) {
        let before = a.received_len();
        b.send(data);
        self.until("data", || a.received_len() > before);
    }

    /// B ends its stream, and A gets `read_closed`.
    #[track_caller]
    pub fn fin(&mut self, a: &A, b: &B) {
        b.fin();
        self.until("read_closed", || a.log.has("read_closed"));
    }

    /// Turns until B has received `wanted`, and nothing else.
    #[track_caller]
    pub fn gets(&mut self, b: &B, wanted: &[u8]) {
        self.until("bytes at B", || {
            b.take_all();
            b.got_len() >= wanted.len()
        });
        assert!(b.got() == wanted, "{} bytes of {}", b.got_len(), wanted.len());
    }

    /// B reads to our FIN and answers with its own, and A is lost for this reason.
    #[track_caller]
    pub fn ends(&mut self, a: &A, b: &B, reason: &str) {
        assert_eq!(self.take_to_the_end(b), Saw::Fin, "before {reason}");
        b.fin();
        assert_eq!(self.lost(a), reason);
    }

    /// Asserts that the loop still works: a new connection echoes.
    pub fn still_echoes(&mut self) {
        self.ticking = None;
        self.tick();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for a in self.ends.borrow().iter() {
                assert!(!a.was_nested(), "nested callbacks: {:?}", a.log.entries());
            }
        }
    }
}

/// The driver's key of a connection.
pub fn key_of(transport: &Transport) -> Key {
    let id = transport.id().to_string();
    let parts: Vec<u32> = id.split('.').map(|n| n.parse().expect("a number")).collect();
    Key { slot: parts[1], generation: std::num::NonZero::new(parts[2]).expect("not 0") }
}

/// Whether `TCP_NODELAY` and `SO_KEEPALIVE` are on.
pub fn tcp_options(transport: &Transport) -> (Option<bool>, Option<bool>) {
    let is_on = |kind| {
        let option = transport.option(kind)?;
        Some(!matches!(option, SocketOption::NoDelay(false) | SocketOption::KeepAlive(None)))
    };
    (is_on(SocketOptionKind::NoDelay), is_on(SocketOptionKind::KeepAlive))
}
