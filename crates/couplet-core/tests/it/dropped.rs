//! Law 10: a user's value that panics when dropped does no further harm. A table lists every
//! function that keeps such a value, and each way the value can end; the last test finds functions
//! that are missing from the table.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::Pipe;
use couplet::endpoints::{ServerEndpoint, Sharing};
use couplet::factory::ErasedFactory;
use couplet::process::{Command, WhenLost};
use couplet::protocols::{LimitConnections, Policy, ReconnectingClientFactory};
use couplet::reactor::HandedOver;
use couplet::services::{
    Child, ClientService, DatagramService, FunctionService, Health, Service, StreamServerService,
    Supervisor,
};
use couplet::task::{CooperativeTask, Cooperator};
use couplet::testing::{Manner, Memory, Network, Wire, success_of};
use couplet::{
    Address, Bytes, ConnectOptions, Connection, Connector, Datagram, DatagramOptions, DatagramPort,
    DatagramProtocol, DatagramTransport, Deferred, Factory, Failure, HandOver, Interest,
    ListenOptions, Loop, LoopOptions, LoopingCall, Port, Producer, ProducerKind, Protocol, Reactor,
    Shared, Shutdown, Stream, Transport, UnixAddress,
};

use crate::pace::real_loop;
use crate::tcp::adopting::{listening, sockets};

/// Panics when dropped, and counts its drops.
struct Bomb(Rc<Cell<u32>>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        // No message on stderr.
        std::panic::resume_unwind(Box::new("a drop that panics"));
    }
}

/// A bomb that is `Send` and an error.
struct Shell(u32);

impl Drop for Shell {
    fn drop(&mut self) {
        SHELLS.set(SHELLS.get() + 1);
        std::panic::resume_unwind(Box::new("a drop that panics"));
    }
}

thread_local! {
    static SHELLS: Cell<u32> = const { Cell::new(0) };
}

/// The bytes of a shell: too many for a copy.
const BYTES: [u8; 513] = [b'b'; 513];

impl AsRef<[u8]> for Shell {
    fn as_ref(&self) -> &[u8] {
        &BYTES
    }
}

impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shell {}", self.0)
    }
}

impl fmt::Display for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shell {}", self.0)
    }
}

impl std::error::Error for Shell {}

/// An echo that owns a value.
struct Carrier<T>(T);

impl<T: 'static> Protocol for Carrier<T> {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Lends its socket to a closure that owns a value.
struct Carries(Bomb);

impl Protocol for Carries {
    fn connection_made(&mut self, transport: &Transport) {
        lend(transport, Bomb(self.0.0.clone()));
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Asks for more when its connection is lost, and leaves no handle to it.
struct Asks(Bomb);

impl Protocol for Asks {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, _: &couplet::Reason) {
        let bomb = || Bomb(self.0.0.clone());
        lend(transport, bomb());
        transport.upgrade(Carrier(bomb()));
        transport.fail(Shell(5));
        let fired = bomb();
        transport.flushed().map(move |()| holds(&fired)).detach();
    }
}

/// A protocol of datagrams that owns a value.
struct Receives(#[expect(dead_code, reason = "it is dropped")] Bomb);

impl DatagramProtocol for Receives {
    fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}
}

#[cfg(unix)]
/// A connection that another loop has handed over, and its peer.
fn handed() -> (HandedOver, std::net::TcpStream) {
    struct Mover;
    impl Protocol for Mover {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}

        fn hand_over(&mut self) -> Option<HandOver> {
            HandOver::new("mover", [])
        }
    }
    let mut l = real_loop();
    let (ours, theirs) = sockets();
    let made = l.reactor().adopt(ours, || Mover).expect("a connected socket");
    turns(&mut l, 3);
    let handed = l.reactor().hand_over(success_of(made).transport().id());
    turns(&mut l, 2);
    (success_of(handed).expect("it may move"), theirs)
}

struct Hears(#[expect(dead_code, reason = "it is dropped")] Bomb);

#[cfg(unix)]
impl couplet::process::ProcessProtocol for Hears {}

struct MakesEchoes(#[expect(dead_code, reason = "it is dropped")] Bomb);

impl Factory for MakesEchoes {
    type Protocol = Carrier<()>;

    fn build_protocol(&mut self, _: &Address) -> Option<Carrier<()>> {
        Some(Carrier(()))
    }
}

struct Produces {
    transport: Transport,
    /// Called by `resume_producing`.
    resume: fn(&Transport, Bomb),
    bomb: Option<Bomb>,
}

impl Producer for Produces {
    fn resume_producing(&mut self) {
        let (transport, resume) = (self.transport.clone(), self.resume);
        if let Some(bomb) = &self.bomb {
            resume(&transport, Bomb(bomb.0.clone()));
        }
    }
}

struct Scene {
    l: Loop,
    reactor: Reactor,
    network: Network,
    port: Port,
    bombs: Rc<Cell<u32>>,
    kept: Vec<Kept>,
    wire: Option<Wire>,
}

/// A handle that a row leaves to its steps: how to stop or to cancel it, and its address.
struct Kept(Box<dyn FnOnce()>, Option<Address>);

impl<E: fmt::Debug> From<Result<Port, E>> for Kept {
    fn from(port: Result<Port, E>) -> Kept {
        let port = port.expect("it is free");
        let host = port.host();
        Kept(Box::new(move || port.stop_listening().expect("it listens").detach()), Some(host))
    }
}

impl<P: DatagramProtocol, E: fmt::Debug> From<Result<DatagramPort<P>, E>> for Kept {
    fn from(port: Result<DatagramPort<P>, E>) -> Kept {
        let port = port.expect("it is free");
        Kept(Box::new(move || drop(port.stop_listening())), None)
    }
}

impl From<Connector> for Kept {
    fn from(connector: Connector) -> Kept {
        Kept(Box::new(move || _ = connector.stop_connecting()), None)
    }
}

impl<T: 'static> From<Deferred<T>> for Kept {
    fn from(deferred: Deferred<T>) -> Kept {
        let canceller = deferred.canceller();
        deferred.discard();
        Kept(Box::new(move || canceller.cancel()), None)
    }
}

impl Scene {
    fn new() -> Scene {
        let (driver, network) = Memory::new(Manner::Readiness, 3);
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let reactor = l.reactor();
        let port = reactor.listen_tcp(any(), || Carrier(())).expect("a free port");
        l.begin(|_| Ok(())).expect("the setup does not fail");
        network.set_silent(UnixAddress::from("/silent"));
        network.set_silent(std::net::SocketAddr::from(SILENT));
        let _ = network.listen(PEER, 50).expect("a free port");
        Scene { l, reactor, network, port, bombs: Rc::default(), kept: Vec::new(), wire: None }
    }

    fn bomb(&self) -> Bomb {
        Bomb(self.bombs.clone())
    }

    fn factory(&self) -> MakesEchoes {
        MakesEchoes(self.bomb())
    }

    /// A factory whose protocols own bombs, made with them.
    fn armed<P: 'static>(&self, arm: fn(Bomb) -> P) -> impl Fn() -> P + 'static {
        let bombs = self.bombs.clone();
        move || arm(Bomb(bombs.clone()))
    }

    fn keep(&mut self, kept: impl Into<Kept>) {
        self.kept.push(kept.into());
    }

    /// A step of a row.
    fn step(&mut self, step: &str) {
        match step {
            "turned" => {}
            "stopped" | "cancelled" => self.kept.drain(..).for_each(|Kept(end, _)| end()),
            // A client of the port, and its ends.
            "a client" => {
                let host = self.kept[0].1.clone().expect("it is a port");
                self.wire = Some(self.network.connect(host).expect("it listens"));
            }
            // The peer accepts a connection.
            "accepted" => self.wire = Some(self.network.accept(PEER).expect("it connects")),
            "closed" => self.wire.take().expect("a connection").close(),
            "rejected" => assert!(self.wire.take().expect("a connection").is_closed()),
            "reset" => self.wire.take().expect("a connection").reset(),
            "dropped once" => assert_eq!(self.bombs.get(), 1, "with its connection"),
            "seconds" => self.network.advance(Duration::from_secs(2)),
            _ => panic!("`{step}` is no step"),
        }
        self.turns();
    }

    /// Registers a producer that owns a bomb.
    fn registers(
        &self,
        transport: &Transport,
        kind: ProducerKind,
        resume: fn(&Transport, Bomb),
    ) -> bool {
        let bomb = Some(self.bomb());
        let producer = Produces { transport: transport.clone(), resume, bomb };
        transport.register_producer(producer, kind).is_ok()
    }

    fn turns(&mut self) {
        turns(&mut self.l, 6);
    }

    /// Serves one connection, then stops the port.
    fn serve_once(&mut self, handle: impl AsyncFn(Stream) -> couplet::Result<()> + 'static) {
        self.keep(self.reactor.serve("tcp:0:interface=127.0.0.1", handle));
        ["a client", "stopped"].iter().for_each(|step| self.step(step));
    }

    /// An outgoing connection that echoes.
    fn open(&mut self) -> Transport {
        let made: Rc<RefCell<Option<Transport>>> = Rc::default();
        let slot = made.clone();
        let options = ConnectOptions::default();
        let connecting = self.reactor.connect_to_deferred(PEER, options, || Carrier(()));
        connecting
            .map(move |connection| *slot.borrow_mut() = Some(connection.transport()))
            .detach();
        self.turns();
        self.step("accepted");
        made.take().expect("it is connected")
    }

    fn open_connection(&mut self) -> Connection<Carrier<()>> {
        self.open().connection()
    }

    /// Asserts that a new connection works.
    fn check_alive(&mut self) {
        let wire = self.network.connect(self.port.host()).expect("it listens");
        wire.push(b"alive?");
        self.turns();
        assert_eq!(wire.take(), b"alive?");
        wire.close();
        self.turns();
    }
}

const fn local(port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

fn any() -> std::net::SocketAddr {
    local(0)
}

/// The address of the peer's port.
const PEER: std::net::SocketAddr = local(4000);

/// The TCP address that answers no connect; nothing listens at port 9.
const SILENT: ([u8; 4], u16) = ([127, 0, 0, 1], 10);

fn silent_tcp() -> (&'static str, u16) {
    ("127.0.0.1", SILENT.1)
}

fn silent_path() -> UnixAddress {
    UnixAddress::from("/silent")
}

fn turns(l: &mut Loop, count: usize) {
    for _ in 0..count {
        l.turn(Some(Duration::ZERO)).expect("the loop turns");
    }
}

/// Starts a service below a supervisor, which then ends it so, and is dropped in the loop.
fn supervise(s: &mut Scene, service: impl Service + 'static, end: fn(&mut Supervisor)) {
    let mut supervisor = Supervisor::new("top");
    supervisor.add(Child::new(service)).discard();
    supervisor.start(&s.reactor).discard();
    s.turns();
    end(&mut supervisor);
    s.turns();
    s.reactor.call_soon(drops(supervisor));
}

fn removes(supervisor: &mut Supervisor) {
    supervisor.remove("it").discard();
}

/// A service that only starts.
fn starts() -> FunctionService {
    FunctionService::new("it", |_| Deferred::succeed(()))
}

/// Makes a closure own its bomb.
fn holds(_: &Bomb) {}

/// [`holds`], with a result.
fn with<T>(_: &Bomb, result: T) -> T {
    result
}

/// A closure that owns its bomb, and does nothing when it is called.
fn owns(bomb: Bomb) -> impl Fn() + 'static {
    move || holds(&bomb)
}

/// A closure that drops its bomb when it is called.
fn drops(bomb: impl Sized + 'static) -> impl FnOnce() + 'static {
    move || drop(bomb)
}

/// [`drops`], for a connection.
fn told<P>(bomb: Bomb) -> impl FnOnce(&mut P, &Transport) + 'static {
    move |_, _| drop(bomb)
}

/// Lends the socket to a closure that owns this bomb.
fn lend(transport: &Transport, bomb: Bomb) {
    transport.with_socket(move |_| with(&bomb, Ok(())));
}

/// A task that owns its bomb, and never ends.
async fn forever(_bomb: Bomb) -> couplet::Result<()> {
    std::future::pending().await
}

/// Cooperative work that owns its bomb, and never ends.
fn endless(bomb: Bomb) -> impl Iterator<Item = ()> + 'static {
    std::iter::repeat(()).inspect(move |()| holds(&bomb))
}

/// The command of a program that does not exist, and of one that runs until its end of input.
fn missing_and_cat() -> [Command; 2] {
    ["/nowhere", "/bin/cat"].map(Command::new)
}

/// Bytes that panic when they are dropped.
fn bytes(number: u32) -> Bytes {
    Bytes::from_owner(Shell(number))
}

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

type Act = fn(&mut Scene);

thread_local! {
    static BOMB: RefCell<Option<Bomb>> = const { RefCell::new(None) };
}

/// An endpoint whose layers own a bomb, and which rejects all connections; one that chooses no socket,
/// by a closure that owns a bomb; and one that fails instead of listening.
#[derive(Debug, PartialEq)]
enum Bombed {
    Layers,
    Choice,
    Failure,
}

impl fmt::Display for Bombed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bombed:")
    }
}

impl ServerEndpoint for Bombed {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let bomb = BOMB.take();
        let factory = match self {
            Bombed::Layers => factory.layered("bombed", move |_| {
                bomb.iter().for_each(holds);
                None
            }),
            Bombed::Choice | Bombed::Failure => factory.on_socket(move |_| {
                bomb.iter().for_each(holds);
                None
            }),
        };
        match self {
            Bombed::Failure => Err(Failure::msg("it fails")),
            _ => Ok(reactor.listen_tcp(any(), factory)?),
        }
    }
}

impl Scene {
    fn listen_bombed(&mut self, endpoint: Bombed) {
        BOMB.set(Some(self.bomb()));
        self.keep(self.reactor.listen(endpoint, self.factory()));
    }
}

macro_rules! ways {
    ($($(#[$when:meta])* $function:literal, $steps:literal: |$s:tt $(, $bomb:ident)?| $act:expr;)*) => {
        &[$($(#[$when])* ($function, $steps, |$s: &mut Scene| {
            $(let $bomb = $s.bomb();)?
            $act;
        })),*]
    };
}

/// The function under test, the steps that follow, and the test, of a scene and perhaps a bomb. Each test passes bombs to the loop,
/// which drops them when it is dropped itself, if not earlier.
const WAYS: &[(&str, &str, Act)] = ways! {
    "Reactor::listen_udp", "turned, stopped": |s| s.keep(s.reactor.listen_udp(any(), Receives(s.bomb())));
    "Reactor::listen_udp_with", "turned": |s| {
        let options = DatagramOptions::default();
        s.keep(s.reactor.listen_udp_with(any(), options, Receives(s.bomb())));
    };
    "Reactor::connect_udp", "stopped": |s| s.keep(s.reactor.connect_udp(PEER, Receives(s.bomb())));
    // There are no sockets in memory.
    "Reactor::adopt_datagrams", "": |s| {
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let adopt = |reactor: &Reactor, bomb| {
            reactor.adopt_datagrams(socket(), DatagramOptions::default(), Receives(bomb))
        };
        adopt(&s.reactor, s.bomb()).expect_err("it is in memory");
        adopt(&real_loop().reactor(), s.bomb()).expect("a UDP socket");
    };
    "Reactor::listen_unix_datagrams", "": |s| {
        let listen = || {
            s.reactor.listen_unix_datagrams("a", DatagramOptions::default(), Receives(s.bomb()))
        };
        let first = listen().expect("a free name");
        assert!(listen().is_err(), "the name is taken");
        drop(first);
    };
    // The port stops before.
    "DatagramPort::tell", "": |s, bomb| {
        let port = s.reactor.listen_udp(any(), Receives(s.bomb())).expect("a port");
        s.turns();
        drop(port.stop_listening());
        port.tell(move |_, _| holds(&bomb));
    };
    "DatagramPort::call_later", "": |s, bomb| {
        let port = s.reactor.listen_udp(any(), Receives(s.bomb())).expect("a port");
        s.turns();
        port.call_later(SECOND, move |_, _| holds(&bomb));
        drop(port.stop_listening());
    };
    "DatagramPort::ask", "": |s, bomb| {
        let port = s.reactor.listen_udp(any(), Receives(s.bomb())).expect("a port");
        port.ask(move |_, _| holds(&bomb)).discard();
    };
    "listen_tcp", "turned, stopped": |s| s.keep(s.reactor.listen_tcp(any(), s.factory()));
    // The loop ends before it starts listening.
    "listen_tcp", "": |s| s.keep(s.reactor.listen_tcp(any(), s.factory()));
    "listen_at", "turned": |s| s.keep(s.reactor.listen_at(any(), ListenOptions::default(), s.factory()));
    "listen_at", "": |s| {
        let path = UnixAddress::from("/port");
        s.keep(s.reactor.listen_at(path, ListenOptions::default(), s.factory()));
    };
    "listen_unix", "turned, stopped": |s| s.keep(s.reactor.listen_unix("/port", s.factory()));
    "connect_unix", "turned": |s| s.keep(s.reactor.connect_unix("/nobody", s.factory()));
    "connect_to", "turned, stopped": |s| {
        s.keep(s.reactor.connect_to(silent_path(), ConnectOptions::default(), s.factory()));
    };
    "connect_to", "turned, stopped": |s| {
        s.keep(s.reactor.connect_to(silent_tcp(), ConnectOptions::default(), s.factory()));
    };
    "connect_to", "turned": |s| s.keep(s.reactor.connect_to(local(9), ConnectOptions::default(), s.factory()));
    "connect_to_deferred", "turned, cancelled": |s| {
        s.keep(s.reactor.connect_to_deferred(silent_path(), ConnectOptions::default(), s.factory()));
    };
    "connect_to_deferred", "turned, cancelled": |s| {
        s.keep(s.reactor.connect_to_deferred(silent_tcp(), ConnectOptions::default(), s.factory()));
    };
    "layered", "turned, stopped": |s| s.listen_bombed(Bombed::Layers);
    "layered", "turned, a client, rejected": |s| s.listen_bombed(Bombed::Layers);
    "on_socket", "turned, stopped": |s| s.listen_bombed(Bombed::Choice);
    "on_socket", "": |s| {
        BOMB.set(Some(s.bomb()));
        s.reactor.listen(Bombed::Failure, s.factory()).expect_err("it fails");
    };
    // Dropped with its last clone.
    "Sharing::on_one_socket", "": |_| {
        let (before, shell) = (SHELLS.get(), Shell(1));
        let sharing = Sharing::new(2).on_one_socket(move |_| {
            let _ = &shell;
            None
        });
        drop(sharing.clone());
        drop(sharing);
        assert_eq!(SHELLS.get(), before + 1);
    };
    // Another one replaces it, and the supervisor is dropped.
    "Supervisor::drain_by", "": |s| {
        let drains = |bomb: Bomb| move |_: &Reactor| with(&bomb, Deferred::succeed(()));
        let supervisor = Supervisor::new("it").drain_by(drains(s.bomb()));
        drop(supervisor.drain_by(drains(s.bomb())));
    };
    "listen", "turned, a client, closed, dropped once": |s| {
        s.keep(s.reactor.listen("tcp:0:interface=127.0.0.1", s.armed(Carrier)));
    };
    "listen", "turned, a client": |s| s.keep(s.reactor.listen("tcp:0:interface=127.0.0.1", s.armed(Carrier)));
    "connect_tcp", "turned": |s| s.keep(s.reactor.connect_tcp("127.0.0.1", 9, s.factory()));
    // It is no endpoint.
    "listen", "": |s| {
        s.reactor.listen("no endpoint", s.factory()).map(drop).expect_err("a space");
        s.reactor.listen("log:tcp:0:file=/", s.factory()).map(drop).expect_err("a folder");
    };
    "connect", "": |s| s.keep(s.reactor.connect("no endpoint", s.factory()));
    "connect", "": |s| s.keep(s.reactor.connect("log:127.0.0.1:9:file=/", s.factory()));
    "connect", "turned, accepted, closed": |s| {
        let connecting = s.reactor.connect(format!("tcp:{PEER}"), s.factory());
        s.keep(connecting.map(|connection| connection.transport().lose_connection()));
    };
    "connect_to_check", "": |s| s.keep(s.reactor.connect_to_check("no endpoint", s.factory()));
    "connect_to_check", "turned, accepted, closed": |s| {
        let connecting = s.reactor.connect_to_check(format!("tcp:{PEER}"), s.factory());
        s.keep(connecting.map(|connection| connection.transport().lose_connection()));
    };
    "connect_for", "turned": |s| {
        let client = s.open();
        s.keep(s.reactor.connect_for(&client, "tcp:127.0.0.1:9", s.factory()));
        s.keep(s.reactor.connect_for(&client, "no endpoint", s.factory()));
    };
    "connect_protocol", "turned, dropped once": |s| {
        s.keep(s.reactor.connect_protocol("tcp:127.0.0.1:9", s.armed(Carrier)()));
    };
    "connect_protocol", "turned, cancelled, dropped once": |s| {
        s.keep(s.reactor.connect_protocol("tcp:127.0.0.1:10", s.armed(Carrier)()));
    };
    "connect_protocol", "turned, accepted, closed, dropped once": |s| {
        s.keep(s.reactor.connect_protocol(format!("tcp:{PEER}"), s.armed(Carrier)()));
    };
    // The attempt is stopped while the protocol is being built, which is unused.
    "connect", "turned, dropped once": |s| {
        let connector: Rc<RefCell<Option<Connector>>> = Rc::default();
        let (slot, carrier) = (connector.clone(), s.armed(Carrier));
        let made = s.reactor.connect_tcp("127.0.0.1", PEER.port(), move || {
            slot.take().expect("it is set").stop_connecting();
            carrier()
        });
        *connector.borrow_mut() = Some(made);
    };
    "Shared::new", "turned, stopped": |s| s.keep(s.reactor.listen_tcp(any(), Shared::new(s.factory())));
    // Called too late.
    "Shared::tell", "": |s| {
        let shared = Shared::new(s.factory());
        s.reactor.listen_tcp(any(), shared.clone()).expect("a free port");
        s.turns();
        let (one, two) = (s.bomb(), s.bomb());
        shared.tell(move |_| drop(one));
        shared.tell(move |_| std::mem::forget(two));
    };
    // Stopped while it waits.
    "ReconnectingClientFactory::new", "turned, stopped": |s| {
        s.keep(s.reactor.connect_tcp("127.0.0.1", 9, ReconnectingClientFactory::new(s.factory())));
    };
    "ReconnectingClientFactory::with", "turned": |s| {
        let factory = ReconnectingClientFactory::with(|_| s.factory());
        s.keep(s.reactor.connect_tcp("127.0.0.1", 9, factory));
    };
    "ClientService::new", "turned": |s| {
        ClientService::new(&s.reactor, "tcp:192.0.2.1:1", s.factory()).expect("good").start();
    };
    // Called, and dropped when the service has stopped.
    "ClientService::prepare", "": |s| {
        let (bomb, port) = (s.bomb(), s.port.host().to_string());
        let service = ClientService::new(&s.reactor, &port, || Carrier(())).expect("good");
        let service = service.prepare(move |_| with(&bomb, Deferred::succeed(())));
        service.start();
        s.turns();
        service.stop().detach();
        s.reactor.call_soon(drops(service));
    };
    "ClientService::retry_policy", "": |s, bomb| {
        let service = ClientService::new(&s.reactor, "tcp:127.0.0.1:1", || Carrier(()));
        let policy = move |_: u32, _: &Reactor| with(&bomb, SECOND);
        service.expect("good").retry_policy(policy).start();
    };
    "on_turned_away", "turned, a client": |s, bomb| {
        let limit = LimitConnections::new(0).on_turned_away(move |_| holds(&bomb));
        s.keep(s.reactor.listen_tcp(any(), limit.wrap(|| Carrier(()))));
    };
    "call_later", "": |s| drop(s.reactor.call_later(HOUR, drops(s.bomb())));
    "call_later", "": |s| assert!(s.reactor.call_later(HOUR, drops(s.bomb())).cancel());
    "call_soon", "turned": |s| drop(s.reactor.call_soon(drops(s.bomb())));
    "defer_later", "cancelled": |s, bomb| s.keep(s.reactor.defer_later(HOUR, move || { drop(bomb); Ok(()) }));
    "timeout", "turned, seconds": |s| {
        let (never, reactor) = (forever(s.bomb()), s.reactor.clone());
        s.keep(s.reactor.spawn(async move { reactor.timeout(SECOND, never).await }));
    };
    // The port is stopped, and a handler waits until the run ends.
    "serve", "": |s| {
        let (bomb, another) = (s.bomb(), Rc::new(RefCell::new(Some(s.bomb()))));
        s.serve_once(async move |mut stream| {
            let (_one, _two) = (&bomb, another.take());
            stream.read_line().await?;
            Ok(())
        });
    };
    // The handler ends after its port.
    "serve", "": |s, bomb| {
        s.serve_once(async move |mut stream| {
            let _one = &bomb;
            stream.read_line().await?;
            Ok(())
        });
        s.wire.as_ref().expect("a client").push(b"a line\n");
    };
    // Its task is cancelled by the end of the run.
    "framed", "turned": |s, bomb| {
        let transport = s.open();
        let mut messages = Stream::new(&transport).framed(|_| Carrier(bomb));
        s.turns();
        s.keep(s.reactor.spawn(async move { Ok(messages.next().await?) }));
    };
    "spawn", "turned, cancelled": |s| s.keep(s.reactor.spawn(forever(s.bomb())));
    "spawn", "turned": |s| s.keep(s.reactor.spawn(forever(s.bomb())));
    "spawn", "turned": |s| {
        let result = s.bomb();
        s.reactor.spawn(async move { Ok(result) }).detach();
    };
    "spawn_named", "turned": |s, bomb| s.reactor.spawn_named("a bomb", async move { Ok(bomb) }).detach();
    // Its arguments are dropped with the task.
    "spawn_cancellable", "": |s| {
        let (one, two) = (s.bomb(), s.bomb());
        let task = s.reactor.spawn_cancellable(async move |cancelling| {
            let _one = one;
            cancelling.or(std::future::pending::<couplet::Result<()>>()).await
        });
        s.turns();
        task.cancel();
        s.turns();
        drop(task);
        let task = s.reactor.spawn_cancellable(async move |_| {
            let _two = &two;
            std::future::pending::<couplet::Result<()>>().await
        });
        s.turns();
        task.cancel();
        task.cancel();
        s.turns();
    };
    // Called when the run ends.
    "on", "": |s| {
        for when in [Shutdown::Before, Shutdown::During, Shutdown::After] {
            let bomb = s.bomb();
            s.reactor.on(when, move || {
                drop(bomb);
                Deferred::succeed(())
            });
        }
    };
    "on_snapshot", "": |s| {
        let (one, two) = (s.bomb(), s.bomb());
        s.l.on_snapshot(move |_| holds(&one));
        s.l.on_snapshot(move |_| holds(&two));
    };
    "note_rows", "": |s| {
        let rows = s.bomb();
        drop(s.reactor.note_rows(move || with(&rows, Vec::new())));
    };
    // The note outlives the loop.
    "note_rows", "turned": |s| {
        let rows = s.bomb();
        std::mem::forget(s.reactor.note_rows(move || with(&rows, Vec::new())));
    };
    "around_wait", "": |s| {
        for bomb in [s.bomb(), s.bomb()] {
            s.l.around_wait(move |wait| {
                holds(&bomb);
                wait();
            });
        }
    };
    "defer_to_thread", "turned": |s| {
        let shell = Shell(1);
        s.keep(s.reactor.defer_to_thread(move || Ok(shell)));
    };
    "defer_to_thread", "cancelled": |s| {
        let shell = Shell(1);
        s.keep(s.reactor.defer_to_thread(move || Ok(shell)));
    };
    // Made, and never made.
    "Remote::call", "": |s| {
        let remote = s.reactor.remote();
        let call = |shell| remote.call(move |_| drop::<Shell>(shell)).expect("the loop exists");
        call(Shell(1));
        s.turns();
        call(Shell(2));
    };
    // After the loop was dropped.
    "Remote::call", "": |s| {
        let (remote, shell) = (s.reactor.remote(), Shell(1));
        *s = Scene { bombs: s.bombs.clone(), ..Scene::new() };
        assert!(remote.call(move |_| drop(shell)).is_err());
    };
    // To a connection that was lost.
    "Remote::tell", "turned": |s| {
        let (id, shell) = (s.open().id(), Shell(1));
        s.step("reset");
        let sent = s.reactor.remote().tell(id, move |_: &mut Carrier<()>, _| drop(shell));
        sent.expect("the loop exists");
    };
    // No loop runs.
    "broadcast", "": |_| {
        let (shell, members) = (Shell(1), couplet::Cluster::new(2).members());
        assert_eq!(members.broadcast(move |_| assert_eq!(shell.as_ref().len(), 15)), 0);
    };
    // In the loop's own thread.
    "block_on_reactor", "": |s| {
        let shell = Shell(1);
        let blocked = s.reactor.remote().block_on_reactor(move |_| {
            drop(shell);
            Deferred::succeed(())
        });
        assert!(blocked.is_err());
    };
    // Made, and dropped with the connection.
    "Connection::tell", "": |s| {
        let connection = s.open_connection();
        connection.tell(told(s.bomb()));
        connection.tell(told(s.bomb()));
        s.step("reset");
        assert!(!connection.tell(told(s.bomb())));
    };
    "ask", "": |s| {
        let connection = s.open_connection();
        s.step("reset");
        connection.ask(told(s.bomb())).discard();
    };
    "ask_result", "": |s| {
        let (connection, late) = (s.open_connection(), s.bomb());
        connection.ask_result(move |_, _| Ok(late)).discard();
    };
    "Connection::call_later", "": |s| {
        let connection = s.open_connection();
        connection.call_later(HOUR, told(s.bomb()));
        s.step("reset");
        connection.call_later(HOUR, told(s.bomb()));
    };
    // Sent, cut off, and too late.
    "write_bytes", "": |s| {
        let transport = s.open();
        transport.write_bytes(bytes(1));
        transport.write_bytes(bytes(2));
        s.turns();
        assert_eq!(s.wire.as_ref().expect("a peer").take(), [BYTES, BYTES].concat());
        s.network.set_capacity(4);
        transport.write_bytes(bytes(3));
        transport.write_bytes(bytes(4));
        s.turns();
        transport.abort_connection();
        s.turns();
        transport.write_bytes(bytes(5));
        s.network.set_capacity(1 << 16);
    };
    // Unsent when the loop is dropped.
    "write_bytes", "": |s| {
        let transport = s.open();
        transport.write_bytes(bytes(1));
        transport.write_bytes(bytes(2));
    };
    // Stopped, ready, and dropped with the loop. The memory driver has no descriptors.
    #[cfg(unix)]
    "watch", "": |s| {
        let mut l = real_loop();
        for (turned, stops) in [(1, true), (1, false), (0, false)] {
            let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
            let bomb = s.bomb();
            let watch = l.reactor().watch(ours, Interest::Writable, move |_, _| holds(&bomb));
            let watch = watch.expect("a socket");
            turns(&mut l, turned);
            if stops {
                watch.stop().discard();
            }
        }
    };
    // Once, again, and too late.
    "fail", "": |s| {
        let transport = s.open();
        transport.fail(Shell(1));
        transport.fail(Shell(2));
        s.turns();
        transport.fail(Shell(3));
        s.step("closed");
        transport.fail(Shell(4));
    };
    // Replaced, lost, and lost with the loop.
    "upgrade", "": |s| {
        let transport = s.open();
        transport.upgrade(Carrier(s.bomb()));
        transport.upgrade(Carrier(s.bomb()));
        s.turns();
        transport.upgrade(Carrier(s.bomb()));
        s.turns();
        transport.upgrade(Carrier(s.bomb()));
        s.step("reset");
        transport.upgrade(Carrier(s.bomb()));
        s.open().upgrade(Carrier(s.bomb()));
    };
    // Its connection is lost before it is called.
    "Tls::choosing", "turned, reset": |s, bomb| {
        let transport = s.open();
        let options = couplet::layers::tls::ServerTlsOptions::chosen_later();
        let tls = couplet::layers::tls::ServerTls::new(&options).expect("a configuration");
        let never = Failure::msg("it is never asked");
        let tls = tls.layer(transport.reactor().now());
        let layer = tls.choosing(move |_| with(&bomb, Deferred::fail(never)));
        transport.start_layer(layer).expect("it may still write");
    };
    "upgrade_with", "": |s| {
        let transport = s.open();
        transport.upgrade_with(Carrier(s.bomb()), "unread");
        transport.abort_connection();
    };
    // Memory has no sockets, and the connection is lost.
    "with_socket", "": |s| {
        let transport = s.open();
        lend(&transport, s.bomb());
        s.turns();
        lend(&transport, s.bomb());
        s.step("reset");
        lend(&transport, s.bomb());
    };
    // A lost connection without handles asks for it.
    "with_socket", "turned, a client, reset": |s| s.keep(s.reactor.listen_tcp(any(), s.armed(Asks)));
    "with_socket", "": |s| {
        let (mut l, (ours, _theirs)) = (real_loop(), sockets());
        l.reactor().adopt(ours, s.armed(Carries)).expect("a connected socket").discard();
        turns(&mut l, 3);
    };
    // Its connection ends, it is cancelled, and its loop is dropped.
    "adopt", "": |s| {
        let mut l = real_loop();
        let adopt = |l: &Loop, socket| l.reactor().adopt(socket, s.factory()).expect("a socket");
        let [(one, end), (two, _end), (three, _end_too)] = [sockets(), sockets(), sockets()];
        adopt(&l, one).discard();
        let cancelled = adopt(&l, two);
        cancelled.cancel();
        cancelled.discard();
        drop(end);
        turns(&mut l, 3);
        adopt(&l, three).discard();
    };
    "take_over", "": |s| {
        let (mut l, carrier) = (real_loop(), s.armed(Carrier));
        let take = |l: &Loop, moving| l.reactor().take_over(moving, carrier()).expect("a socket");
        let [(one, end), (two, _end), (three, _end_too)] = [handed(), handed(), handed()];
        take(&l, one).discard();
        let cancelled = take(&l, two);
        cancelled.cancel();
        cancelled.discard();
        drop(end);
        turns(&mut l, 4);
        take(&l, three).discard();
        drop(l);
        assert_eq!(s.bombs.get(), 3, "each is dropped with its connection");
    };
    // It ends, it is not there, and its loop is dropped.
    #[cfg(unix)]
    "spawn_process", "": |s| {
        let mut l = real_loop();
        let spawn = |l: &Loop, path: &str| l.reactor().spawn_process(Command::new(path), Hears(s.bomb()));
        let ended = spawn(&l, "/bin/true").expect("it starts").ended();
        l.run_until(ended).expect("it ends");
        spawn(&l, "/nonexistent").expect_err("there is none");
        spawn(&l, "/bin/cat").expect("it starts");
        turns(&mut l, 1);
        spawn(&l, "/bin/cat").expect("it starts");
    };
    "adopt_port", "": |s| {
        let mut l = real_loop();
        l.reactor().adopt_port(listening(), s.factory()).expect("a listening socket");
        turns(&mut l, 1);
    };
    // Its connection ends, and its loop is dropped.
    "adopt_pipe", "": |s| {
        let mut l = real_loop();
        let [(one, end), (two, _end)] = [(); 2].map(|()| std::io::pipe().expect("a pipe"));
        let adopt = |l: &Loop, pipe| l.reactor().adopt_pipe(Pipe::reader(pipe), s.factory());
        adopt(&l, one).expect("a pipe").discard();
        drop(end);
        turns(&mut l, 3);
        adopt(&l, two).expect("a pipe").discard();
    };
    // Its program can't be started, and its loop is dropped.
    "connect_process", "": |s| {
        let mut l = real_loop();
        for command in missing_and_cat() {
            l.reactor().connect_process(command, s.factory()).discard();
        }
        turns(&mut l, 1);
    };
    "connect_process_with", "": |s| {
        let mut l = real_loop();
        for command in missing_and_cat() {
            let lost = WhenLost::default();
            l.reactor().connect_process_with(command, lost, s.factory()).discard();
        }
        turns(&mut l, 1);
    };
    // Lost with its connection.
    "register_producer", "": |s| {
        let transport = s.open();
        assert!(s.registers(&transport, ProducerKind::Push, |_, _| {}), "it has none");
        s.turns();
        assert!(!s.registers(&transport, ProducerKind::Push, |_, _| {}), "it has one");
        s.step("reset");
        assert!(s.registers(&transport, ProducerKind::Push, |_, _| {}), "stopped immediately");
    };
    "register_producer", "": |s| {
        let transport = s.open();
        assert!(s.registers(&transport, ProducerKind::Push, |_, _| {}));
        transport.unregister_producer();
    };
    // Unregisters itself when it is called.
    "register_producer", "turned": |s| {
        let transport = s.open();
        let resume = |transport: &Transport, bomb: Bomb| {
            std::mem::forget(bomb);
            transport.unregister_producer();
        };
        assert!(s.registers(&transport, ProducerKind::Pull, resume));
    };
    // Replaces itself when it is called.
    "register_producer", "turned": |s| {
        let transport = s.open();
        let resume = |transport: &Transport, bomb: Bomb| {
            transport.unregister_producer();
            let (resume, bomb) = ((|_, b| std::mem::forget(b)) as fn(&Transport, Bomb), Some(bomb));
            let next = Produces { transport: transport.clone(), resume, bomb };
            transport.register_producer(next, ProducerKind::Pull).expect("it has none");
        };
        assert!(s.registers(&transport, ProducerKind::Pull, resume));
    };
    "FunctionService::on_stop", "": |s, bomb| {
        let service = starts().on_stop(move || with(&bomb, Deferred::succeed(())));
        supervise(s, service, removes);
    };
    "FunctionService::on_health", "": |s, bomb| {
        let service = starts().on_health(move || with(&bomb, Health::Ready));
        supervise(s, service, |supervisor| supervisor.stop().discard());
    };
    // A child that cannot start is removed.
    "StreamServerService::opening", "": |s, bomb| {
        let fails = move |_: &Reactor| with(&bomb, Err(Failure::msg("no port")));
        supervise(s, StreamServerService::opening("it", fails), removes);
    };
    // A child is removed while it runs.
    "StreamServerService::on_listening", "": |s, bomb| {
        let service = StreamServerService::new("it", "localhost:0", || Carrier(())).expect("good");
        supervise(s, service.on_listening(move |_| holds(&bomb)), removes);
    };
    "DatagramService::opening", "": |s, bomb| {
        let fails = move |_: &Reactor| with(&bomb, Err(Failure::msg("no port")));
        supervise(s, DatagramService::opening::<Receives>("it", fails), removes);
    };
    "DatagramService::finish", "": |s, bomb| {
        let nothing = |_: &DatagramTransport, _: &Datagram<'_>| {};
        let service = DatagramService::opening("it", move |reactor| Ok(reactor.listen_udp(any(), nothing)?));
        supervise(s, service.finish(move |_| with(&bomb, Deferred::succeed(()))), removes);
    };
    "LoopingCall::new", "": |s| {
        let call = LoopingCall::new(&s.reactor, owns(s.bomb()));
        call.start(SECOND).discard();
        s.turns();
        call.stop();
    };
    "LoopingCall::with_count", "turned": |s, bomb| {
        LoopingCall::with_count(&s.reactor, move |_| holds(&bomb)).start(SECOND).discard();
    };
    // At its end, panicked, stopped, also by itself, and lost with the run.
    "Cooperator::cooperate", "": |s| {
        let cooperator = Cooperator::new(&s.reactor).steps(1);
        let _ended = cooperator.cooperate(endless(s.bomb()).take(1));
        let panics = endless(s.bomb()).inspect(|()| std::panic::resume_unwind(Box::new("a panic")));
        let panicked = cooperator.cooperate(panics);
        panicked.when_done().discard();
        let stopped = cooperator.cooperate(endless(s.bomb()));
        let own = Rc::new(RefCell::new(None::<CooperativeTask>));
        let task = own.clone();
        let stops_itself = move |()| _ = task.take().expect("it is there").stop();
        *own.borrow_mut() = Some(cooperator.cooperate(endless(s.bomb()).map(stops_itself)));
        s.turns();
        stopped.stop();
        s.turns();
        cooperator.cooperate(endless(s.bomb())).pause();
        cooperator.cooperate(endless(s.bomb()));
    };
    // Cancelled, and stopped with its cooperator.
    "Cooperator::coiterate", "": |s| {
        let cooperator = Cooperator::new(&s.reactor);
        let cancelled = cooperator.coiterate(endless(s.bomb()));
        s.turns();
        cancelled.cancel();
        cancelled.discard();
        cooperator.coiterate(endless(s.bomb())).discard();
        s.turns();
        cooperator.stop();
    };
};

/// Ends a chain, discarding its result.
trait Discard {
    fn discard(self);
}

impl<T: 'static> Discard for Deferred<T> {
    fn discard(self) {
        self.add_both(|_| Ok(())).detach();
    }
}

/// Runs one row of the table in a fresh scene.
fn try_one(steps: &str, act: Act) {
    SHELLS.set(0);
    let mut scene = Scene::new();
    act(&mut scene);
    steps.split(", ").filter(|step| !step.is_empty()).for_each(|step| scene.step(step));
    scene.turns();
    scene.check_alive();
    let bombs = scene.bombs.clone();
    scene.l.end().expect("a run ends");
    scene.turns();
    drop(scene);
    assert!(bombs.get() + SHELLS.get() > 0, "nothing was dropped");
}

#[test]
fn short_bytes_are_copied_and_dropped_at_once_even_if_that_panics() {
    struct Short(Shell);
    impl AsRef<[u8]> for Short {
        fn as_ref(&self) -> &[u8] {
            &self.0.as_ref()[..512]
        }
    }
    let mut scene = Scene::new();
    let transport = scene.open();
    let before = SHELLS.get();
    transport.write_bytes(Bytes::from_owner(Short(Shell(1))));
    assert_eq!(SHELLS.get() - before, 1);
    scene.turns();
    assert_eq!(scene.wire.take().expect("a peer").take(), BYTES[..512]);
}

#[test]
fn unsent_bytes_may_panic_when_the_last_handle_is_dropped_after_the_loop() {
    let mut scene = Scene::new();
    let transport = scene.open();
    transport.write_bytes(bytes(1));
    transport.write_bytes(bytes(2));
    let before = SHELLS.get();
    drop(scene);
    drop(transport);
    assert_eq!(SHELLS.get() - before, 2);
}

#[test]
fn c44_what_a_user_hands_in_may_panic_when_it_is_dropped() {
    let panicked: Vec<_> = WAYS
        .iter()
        .enumerate()
        .filter(|(_, (_, steps, act))| std::panic::catch_unwind(|| try_one(steps, *act)).is_err())
        .map(|(n, (name, steps, _))| format!("row {n}, {name}: {steps}"))
        .collect();
    assert!(panicked.is_empty(), "the panic of a drop did further harm here: {panicked:#?}");
}

/// Called immediately in the caller's frame, where their captures are dropped.
const CALLED_AT_ONCE: [&str; 15] = [
    "attach",
    "run",
    "run_until",
    "begin",
    "feed",
    "fill",
    "layer_connections",
    // Kept by a value that belongs to the caller.
    "trial",
    // Of values of the library.
    "worst",
    "protocols",
    "wrap",
    "wrap_protocols",
    "wrapped",
    "write",
    "write_sequence",
];

/// The library's sources, without the rooms that have their own tests or only serve tests.
fn sources(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_file() {
            texts.push(fs::read_to_string(&path).expect("a text"));
        } else if !["defer", "driver", "sim", "testing"].contains(&name) {
            texts.extend(sources(&path));
        }
    }
    texts
}

/// The public functions that keep a user's value: a closure, a future, a foreign type.
fn ways_in() -> BTreeSet<String> {
    const THEIRS: [&str; 12] = [
        "FnOnce(",
        "FnMut(",
        "Fn(",
        "IntoFactory<",
        "protocol: P,",
        "impl Producer",
        "impl Protocol",
        "impl ProcessProtocol",
        "Future<",
        "IntoIterator<",
        "Into<Failure>",
        "Into<Bytes>",
    ];
    let mut names = BTreeSet::new();
    for text in sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        for function in text.split("\n    pub fn ").skip(1) {
            let signature = function.split('{').next().unwrap_or_default();
            let name = signature.split(['(', '<']).next().unwrap_or_default();
            // Ignores the return type.
            let taken = signature.rsplit_once(") ->").map_or(signature, |(taken, _)| taken);
            if THEIRS.iter().any(|theirs| taken.contains(theirs)) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_function_that_keeps_user_values_is_in_the_table() {
    let tried: BTreeSet<&str> =
        WAYS.iter().map(|(name, ..)| name.rsplit("::").next().unwrap_or(name)).collect();
    let found = ways_in();
    assert!(found.len() > 20, "{found:?}; has the form of the sources changed?");
    let missing: Vec<_> = found
        .iter()
        .filter(|name| !tried.contains(name.as_str()))
        .filter(|name| !CALLED_AT_ONCE.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "the table above has no row for {missing:?}");
}
