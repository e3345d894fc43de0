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
    Address, Bytes, ConnectOptions, Connector, Datagram, DatagramOptions, DatagramProtocol,
    DatagramTransport, Deferred, Factory, Failure, HandOver, Interest, ListenOptions, Loop,
    LoopOptions, LoopingCall, Port, Producer, ProducerKind, Protocol, Reactor, Shared, Shutdown,
    Stream, Transport, UnixAddress,
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
}

impl Scene {
    fn new() -> Scene {
        let (driver, network) = Memory::new(Manner::Readiness, 3);
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let reactor = l.reactor();
        let port = reactor.listen_tcp(any(), || Carrier(())).expect("a free port");
        l.begin(|_| Ok(())).expect("the setup does not fail");
        Scene { l, reactor, network, port, bombs: Rc::default() }
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

    /// Listens, and makes the turns that open the port.
    fn listens<E: fmt::Debug>(&mut self, listen: impl FnOnce(&Scene) -> Result<Port, E>) -> Port {
        let port = listen(self).expect("it is free");
        self.turns();
        port
    }

    fn stops(&mut self, port: &Port) {
        port.stop_listening().expect("it listens").detach();
        self.turns();
    }

    /// A client of this port.
    fn client(&mut self, port: &Port) -> Wire {
        let wire = self.network.connect(port.host()).expect("it listens");
        self.turns();
        wire
    }

    /// Makes an attempt to connect, and the turns that start it.
    fn tries<R>(&mut self, connect: impl FnOnce(&Scene) -> R) -> R {
        self.network.set_silent(UnixAddress::from("/silent"));
        self.network.set_silent(std::net::SocketAddr::from(([127, 0, 0, 1], SILENT)));
        let attempt = connect(self);
        self.turns();
        attempt
    }

    fn stops_connecting(&mut self, connect: impl FnOnce(&Scene) -> Connector) {
        self.tries(connect).stop_connecting();
        self.turns();
    }

    fn cancels<T: 'static>(&mut self, connect: impl FnOnce(&Scene) -> Deferred<T>) {
        let connecting = self.tries(connect);
        connecting.cancel();
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
        for _ in 0..6 {
            self.l.turn(Some(Duration::ZERO)).expect("memory does not fail");
        }
    }

    fn pass(&mut self, time: Duration) {
        self.network.advance(time);
        self.turns();
    }

    /// Serves one connection, then stops the port.
    fn serve_once(
        &mut self,
        handle: impl AsyncFn(Stream) -> couplet::Result<()> + 'static,
    ) -> Wire {
        let serving = self.reactor.serve("tcp:0:interface=127.0.0.1", handle);
        let port = serving.expect("a free port");
        let wire = self.client(&port);
        self.stops(&port);
        wire
    }

    /// An outgoing connection that echoes, and its peer.
    fn open(&mut self) -> (Transport, Wire) {
        let made: Rc<RefCell<Option<Transport>>> = Rc::default();
        let slot = made.clone();
        let connecting = self.reactor.connect_to_deferred(
            ("127.0.0.1", self.peer().port()),
            ConnectOptions::default(),
            || Carrier(()),
        );
        connecting
            .map(move |connection| *slot.borrow_mut() = Some(connection.transport()))
            .detach();
        self.turns();
        let wire = self.network.accept(self.peer_address()).expect("it connects");
        let transport = made.take().expect("it is connected");
        (transport, wire)
    }

    fn peer_address(&self) -> std::net::SocketAddr {
        "127.0.0.1:4000".parse().expect("an address")
    }

    /// The peer's listening address.
    fn peer(&self) -> std::net::SocketAddr {
        let _ = self.network.listen(self.peer_address(), 50); // it may already be listening
        self.peer_address()
    }

    /// The endpoint of the peer's listening address.
    fn peer_endpoint(&self) -> String {
        format!("tcp:{}", self.peer())
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

fn any() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
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
    s.turns();
}

/// Makes a closure own its bomb.
fn holds(_: &Bomb) {}

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
    transport.with_socket(move |_| {
        holds(&bomb);
        Ok(())
    });
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

const HOUR: Duration = Duration::from_secs(3600);

/// The port of a TCP address that answers no connect; nothing listens at port 9.
const SILENT: u16 = 10;

type Act = fn(&mut Scene);

thread_local! {
    static BOMB: RefCell<Option<Bomb>> = const { RefCell::new(None) };
}

/// An endpoint whose layers own a bomb, and which rejects all connections.
#[derive(Debug)]
struct Bombed;

impl fmt::Display for Bombed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bombed:")
    }
}

impl ServerEndpoint for Bombed {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let bomb = BOMB.take();
        let factory = factory.layered("bombed", move |_| {
            bomb.iter().for_each(holds);
            None
        });
        Ok(reactor.listen_tcp(any(), factory)?)
    }
}

/// Chooses no socket, by a closure that owns a value; or fails without listening.
#[derive(Debug)]
struct Chooses {
    fails: bool,
}

impl fmt::Display for Chooses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chooses:")
    }
}

impl ServerEndpoint for Chooses {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let bomb = BOMB.take();
        let factory = factory.on_socket(move |_| {
            bomb.iter().for_each(holds);
            None
        });
        match self.fails {
            true => Err(Failure::msg("it fails")),
            false => Ok(reactor.listen_tcp(any(), factory)?),
        }
    }
}

/// The function under test, how the value ends, and the test. Each test passes bombs to the loop,
/// which drops them when it is dropped itself, if not earlier.
const WAYS: &[(&str, &str, Act)] = &[
    ("Reactor::listen_udp", "the port stops", |s| {
        let port = s.reactor.listen_udp(any(), Receives(s.bomb())).expect("a free port");
        s.turns();
        drop(port.stop_listening());
        s.turns();
    }),
    ("Reactor::listen_udp_with", "the loop is dropped", |s| {
        let receives = Receives(s.bomb());
        let port = s.reactor.listen_udp_with(any(), DatagramOptions::default(), receives);
        drop(port.expect("a free port"));
        s.turns();
    }),
    ("Reactor::connect_udp", "it never starts", |s| {
        let port = s.reactor.connect_udp(s.peer_address(), Receives(s.bomb()));
        drop(port.expect("a free port").stop_listening());
    }),
    ("Reactor::adopt_datagrams", "there are no sockets, and its loop is dropped", |s| {
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let adopt = |reactor: &Reactor, bomb| {
            reactor.adopt_datagrams(socket(), DatagramOptions::default(), Receives(bomb))
        };
        adopt(&s.reactor, s.bomb()).expect_err("it is in memory");
        let l = real_loop();
        adopt(&l.reactor(), s.bomb()).expect("a UDP socket");
    }),
    ("Reactor::listen_unix_datagrams", "the name is taken", |s| {
        let options = DatagramOptions::default();
        let (one, two) = (Receives(s.bomb()), Receives(s.bomb()));
        let first = s.reactor.listen_unix_datagrams("a", options.clone(), one);
        drop(first.expect("a free name"));
        let second = s.reactor.listen_unix_datagrams("a", options, two);
        assert!(second.is_err(), "the name is taken");
    }),
    ("DatagramPort::tell", "the port stops first", |s| {
        let bomb = s.bomb();
        let port = s.reactor.listen_udp(any(), Receives(s.bomb())).expect("a free port");
        s.turns();
        drop(port.stop_listening());
        port.tell(move |_, _| holds(&bomb));
        s.turns();
    }),
    ("DatagramPort::call_later", "the port stops first", |s| {
        let bomb = s.bomb();
        let port = s.reactor.listen_udp(any(), Receives(s.bomb())).expect("a free port");
        s.turns();
        port.call_later(Duration::from_secs(1), move |_, _| holds(&bomb));
        drop(port.stop_listening());
        s.turns();
    }),
    ("DatagramPort::ask", "it runs", |s| {
        let bomb = s.bomb();
        let port = s.reactor.listen_udp(any(), Receives(s.bomb())).expect("a free port");
        port.ask(move |_, _| holds(&bomb)).discard();
        s.turns();
    }),
    ("listen_tcp", "the port is stopped", |s| {
        let port = s.listens(|s| s.reactor.listen_tcp(any(), s.factory()));
        s.stops(&port);
    }),
    ("listen_at", "the port is open when the run ends", |s| {
        s.listens(|s| s.reactor.listen_at(any(), ListenOptions::default(), s.factory()));
    }),
    ("listen_tcp", "the loop ends before it starts listening", |s| {
        s.reactor.listen_tcp(any(), s.factory()).expect("a free port");
    }),
    ("listen_unix", "the port is stopped", |s| {
        let port = s.listens(|s| s.reactor.listen_unix("/port", s.factory()));
        s.stops(&port);
    }),
    ("listen_at", "the loop ends before it starts listening", |s| {
        let (options, factory) = (ListenOptions::default(), s.factory());
        s.reactor.listen_at(UnixAddress::from("/port"), options, factory).expect("a free path");
    }),
    ("connect_unix", "refused", |s| {
        s.tries(|s| s.reactor.connect_unix("/nobody", s.factory()));
    }),
    ("connect_to", "stopped", |s| {
        s.stops_connecting(|s| {
            s.reactor.connect_to(
                UnixAddress::from("/silent"),
                ConnectOptions::default(),
                s.factory(),
            )
        });
    }),
    ("connect_to_deferred", "cancelled", |s| {
        s.cancels(|s| {
            s.reactor.connect_to_deferred(
                UnixAddress::from("/silent"),
                ConnectOptions::default(),
                s.factory(),
            )
        });
    }),
    ("layered", "the port is stopped", |s| {
        BOMB.set(Some(s.bomb()));
        let port = s.listens(|s| s.reactor.listen(Bombed, s.factory()));
        s.stops(&port);
    }),
    ("layered", "the connection is rejected", |s| {
        BOMB.set(Some(s.bomb()));
        let port = s.listens(|s| s.reactor.listen(Bombed, s.factory()));
        assert!(s.client(&port).is_closed());
    }),
    ("on_socket", "the port listens, and the endpoint fails", |s| {
        BOMB.set(Some(s.bomb()));
        let port = s.listens(|s| s.reactor.listen(Chooses { fails: false }, s.factory()));
        s.stops(&port);
        BOMB.set(Some(s.bomb()));
        s.reactor.listen(Chooses { fails: true }, s.factory()).expect_err("it fails");
    }),
    ("Sharing::on_one_socket", "dropped with its last clone", |_| {
        let before = SHELLS.get();
        let shell = Shell(1);
        let sharing = Sharing::new(2).on_one_socket(move |_| {
            let _ = &shell;
            None
        });
        drop(sharing.clone());
        drop(sharing);
        assert_eq!(SHELLS.get(), before + 1);
    }),
    ("Supervisor::drain_by", "another one replaces it, and the supervisor is dropped", |s| {
        let drains = |bomb: Bomb| {
            move |_: &Reactor| {
                holds(&bomb);
                Deferred::succeed(())
            }
        };
        let supervisor = Supervisor::new("it").drain_by(drains(s.bomb()));
        drop(supervisor.drain_by(drains(s.bomb())));
    }),
    ("listen", "its protocols are dropped", |s| {
        let port = s.listens(|s| s.reactor.listen("tcp:0:interface=127.0.0.1", s.armed(Carrier)));
        s.client(&port).close();
        s.turns();
        assert_eq!(s.bombs.get(), 1, "a protocol is dropped with its connection");
    }),
    ("listen", "its protocols are alive when the loop is dropped", |s| {
        let port = s.listens(|s| s.reactor.listen("tcp:0:interface=127.0.0.1", s.armed(Carrier)));
        std::mem::forget(s.client(&port));
    }),
    ("connect_tcp", "refused", |s| {
        s.tries(|s| s.reactor.connect_tcp("127.0.0.1", 9, s.factory()));
    }),
    ("connect_to", "stopped", |s| {
        s.stops_connecting(|s| {
            s.reactor.connect_to(("127.0.0.1", SILENT), ConnectOptions::default(), s.factory())
        });
    }),
    ("connect_to_deferred", "cancelled", |s| {
        s.cancels(|s| {
            s.reactor.connect_to_deferred(
                ("127.0.0.1", SILENT),
                ConnectOptions::default(),
                s.factory(),
            )
        });
    }),
    ("connect_to", "refused", |s| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        s.tries(|s| s.reactor.connect_to(address, ConnectOptions::default(), s.factory()));
    }),
    ("connect_to_deferred", "cancelled", |s| {
        let to = UnixAddress::from("/silent");
        s.cancels(|s| s.reactor.connect_to_deferred(to, ConnectOptions::default(), s.factory()));
    }),
    ("listen", "its endpoint is none", |s| {
        s.reactor.listen("no endpoint", s.factory()).map(drop).expect_err("a space");
        s.reactor.listen("log:tcp:0:file=/", s.factory()).map(drop).expect_err("a folder");
    }),
    ("connect", "its endpoint is none", |s| {
        s.reactor.connect("no endpoint", s.factory()).discard();
        s.reactor.connect("log:127.0.0.1:9:file=/", s.factory()).discard();
    }),
    ("connect", "closed", |s| {
        let connecting = s.reactor.connect(s.peer_endpoint(), s.factory());
        connecting.map(|connection| connection.transport().lose_connection()).detach();
        s.turns();
        s.network.accept(s.peer_address()).expect("it connects").close();
        s.turns();
    }),
    ("connect_to_check", "its endpoint is none, and closed", |s| {
        s.reactor.connect_to_check("no endpoint", s.factory()).discard();
        let connecting = s.reactor.connect_to_check(s.peer_endpoint(), s.factory());
        connecting.map(|connection| connection.transport().lose_connection()).detach();
        s.turns();
        s.network.accept(s.peer_address()).expect("it connects").close();
        s.turns();
    }),
    ("connect_for", "refused, and lost with its connection", |s| {
        let (client, _wire) = s.open();
        s.reactor.connect_for(&client, "tcp:127.0.0.1:9", s.factory()).discard();
        s.reactor.connect_for(&client, "no endpoint", s.factory()).discard();
        s.turns();
    }),
    ("connect_protocol", "refused, cancelled, and lost", |s| {
        let carrier = s.armed(Carrier);
        s.reactor.connect_protocol("tcp:127.0.0.1:9", carrier()).discard();
        s.turns();
        s.network.set_silent(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
        let connecting = s.reactor.connect_protocol("tcp:127.0.0.1:9", carrier());
        s.turns();
        connecting.cancel();
        s.reactor.connect_protocol(s.peer_endpoint(), carrier()).detach();
        s.turns();
        s.network.accept(s.peer_address()).expect("it connects").close();
        s.turns();
        assert_eq!(s.bombs.get(), 3, "each is dropped with its attempt or its connection");
    }),
    ("connect", "its protocol comes too late", |s| {
        // The attempt is stopped while the protocol is being built.
        let connector: Rc<RefCell<Option<Connector>>> = Rc::default();
        let (slot, carrier, port) = (connector.clone(), s.armed(Carrier), s.peer().port());
        let made = s.reactor.connect_tcp("127.0.0.1", port, move || {
            slot.borrow().as_ref().expect("it is set").stop_connecting();
            carrier()
        });
        *connector.borrow_mut() = Some(made);
        s.turns();
        connector.take();
        assert_eq!(s.bombs.get(), 1, "that protocol is unused");
    }),
    ("Shared::new", "its port is stopped", |s| {
        let shared = Shared::new(s.factory());
        let port = s.reactor.listen_tcp(any(), shared.clone()).expect("a free port");
        drop(shared);
        s.turns();
        port.stop_listening().expect("it listens").detach();
        drop(port);
        s.turns();
    }),
    ("Shared::tell", "called too late", |s| {
        let shared = Shared::new(s.factory());
        s.reactor.listen_tcp(any(), shared.clone()).expect("a free port");
        s.turns();
        let bomb = s.bomb();
        shared.tell(move |_| drop(bomb));
        let bomb = s.bomb();
        shared.tell(move |_| std::mem::forget(bomb));
    }),
    ("ReconnectingClientFactory::new", "stopped while it waits", |s| {
        s.stops_connecting(|s| {
            s.reactor.connect_tcp("127.0.0.1", 9, ReconnectingClientFactory::new(s.factory()))
        });
    }),
    ("ReconnectingClientFactory::with", "dropped with the loop", |s| {
        let factory = ReconnectingClientFactory::with(|_| s.factory());
        s.reactor.connect_tcp("127.0.0.1", 9, factory);
        s.turns();
    }),
    ("ClientService::new", "dropped with the loop", |s| {
        s.tries(|s| {
            ClientService::new(&s.reactor, "tcp:192.0.2.1:1", s.factory()).expect("good").start();
        });
    }),
    ("ClientService::prepare", "called, and dropped when the service has stopped", |s| {
        let (bomb, port) = (s.bomb(), s.port.host().to_string());
        let service = ClientService::new(&s.reactor, &port, || Carrier(())).expect("good");
        let service = service.prepare(move |_| {
            holds(&bomb);
            Deferred::succeed(())
        });
        service.start();
        s.turns();
        service.stop().detach();
        s.reactor.call_soon(drops(service));
        s.turns();
    }),
    ("ClientService::retry_policy", "called, and dropped with the loop", |s| {
        let bomb = s.bomb();
        let service = ClientService::new(&s.reactor, "tcp:127.0.0.1:1", || Carrier(()));
        let policy = move |_: u32, _: &Reactor| {
            holds(&bomb);
            Duration::from_secs(1)
        };
        service.expect("good").retry_policy(policy).start();
        s.turns();
    }),
    ("on_turned_away", "called, and dropped with its port", |s| {
        let bomb = s.bomb();
        let limit = LimitConnections::new(0).on_turned_away(move |_| holds(&bomb));
        let port = s.listens(|s| s.reactor.listen_tcp(any(), limit.wrap(|| Carrier(()))));
        s.client(&port);
    }),
    ("call_later", "dropped with the run", |s| {
        s.reactor.call_later(HOUR, drops(s.bomb()));
    }),
    ("call_later", "cancelled", |s| {
        assert!(s.reactor.call_later(HOUR, drops(s.bomb())).cancel());
    }),
    ("call_soon", "made", |s| {
        s.reactor.call_soon(drops(s.bomb()));
        s.turns();
    }),
    ("defer_later", "cancelled", |s| {
        let bomb = s.bomb();
        let late = move || {
            drop(bomb);
            Ok(())
        };
        s.reactor.defer_later(HOUR, late).cancel();
    }),
    ("timeout", "timed out", |s| {
        let (never, reactor) = (forever(s.bomb()), s.reactor.clone());
        let limited = async move { reactor.timeout(Duration::from_secs(1), never).await };
        s.reactor.spawn(limited).discard();
        s.turns();
        s.pass(Duration::from_secs(2));
    }),
    ("serve", "the port is stopped, and a handler waits until the run ends", |s| {
        let (bomb, another) = (s.bomb(), Rc::new(RefCell::new(Some(s.bomb()))));
        s.serve_once(async move |mut stream| {
            let (_one, _two) = (&bomb, another.take());
            stream.read_line().await?;
            Ok(())
        });
    }),
    ("serve", "the handler ends after its port", |s| {
        let bomb = s.bomb();
        let wire = s.serve_once(async move |mut stream| {
            let _one = &bomb;
            stream.read_line().await?;
            Ok(())
        });
        wire.push(b"a line\n");
        s.turns();
    }),
    ("framed", "its task is cancelled by the end of the run", |s| {
        let (transport, _wire) = s.open();
        let bomb = s.bomb();
        let mut messages = Stream::new(&transport).framed(|_| Carrier(bomb));
        s.turns();
        s.reactor.spawn(async move { Ok(messages.next().await?) }).discard();
        s.turns();
    }),
    ("spawn", "cancelled, ended, and dropped with the run", |s| {
        let task = s.reactor.spawn(forever(s.bomb()));
        s.turns();
        task.cancel();
        let result = s.bomb();
        s.reactor.spawn(async move { Ok(result) }).detach();
        s.reactor.spawn(forever(s.bomb())).detach();
        s.turns();
    }),
    ("spawn_named", "what the task owns", |s| {
        let bomb = s.bomb();
        s.reactor.spawn_named("a bomb", async move { Ok(bomb) }).detach();
        s.turns();
    }),
    ("spawn_cancellable", "what it was given is dropped with the task", |s| {
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
    }),
    ("on", "called when the run ends", |s| {
        for when in [Shutdown::Before, Shutdown::During, Shutdown::After] {
            let bomb = s.bomb();
            s.reactor.on(when, move || {
                drop(bomb);
                Deferred::succeed(())
            });
        }
    }),
    ("on_snapshot", "replaced and dropped", |s| {
        let (one, two) = (s.bomb(), s.bomb());
        s.l.on_snapshot(move |_| holds(&one));
        s.l.on_snapshot(move |_| holds(&two));
    }),
    ("note_rows", "the note is dropped", |s| {
        let rows = s.bomb();
        drop(s.reactor.note_rows(move || {
            holds(&rows);
            Vec::new()
        }));
    }),
    ("note_rows", "the loop is dropped first", |s| {
        let rows = s.bomb();
        let note = s.reactor.note_rows(move || {
            holds(&rows);
            Vec::new()
        });
        s.turns();
        // It outlives the loop.
        std::mem::forget(note);
    }),
    ("around_wait", "replaced and dropped", |s| {
        let (one, two) = (s.bomb(), s.bomb());
        s.l.around_wait(move |wait| {
            holds(&one);
            wait();
        });
        s.l.around_wait(move |wait| {
            holds(&two);
            wait();
        });
    }),
    ("defer_to_thread", "run, and cancelled before", |s| {
        let job = |shell| s.reactor.defer_to_thread(move || Ok(shell));
        job(Shell(1)).discard();
        job(Shell(2)).cancel();
        s.turns();
    }),
    ("Remote::call", "made, and never made", |s| {
        let remote = s.reactor.remote();
        let shell = Shell(1);
        remote.call(move |_| drop(shell)).expect("the loop exists");
        s.turns();
        let shell = Shell(2);
        remote.call(move |_| drop(shell)).expect("the loop exists");
    }),
    ("Remote::call", "after the loop was dropped", |s| {
        let remote = s.reactor.remote();
        *s = Scene { bombs: s.bombs.clone(), ..Scene::new() };
        let shell = Shell(1);
        assert!(remote.call(move |_| drop(shell)).is_err());
    }),
    ("Remote::tell", "to a connection that was lost", |s| {
        let (transport, wire) = s.open();
        wire.reset();
        s.turns();
        let shell = Shell(1);
        let sent =
            s.reactor.remote().tell(transport.id(), move |_: &mut Carrier<()>, _| drop(shell));
        sent.expect("the loop exists");
        s.turns();
    }),
    ("broadcast", "where no loop runs", |_| {
        let shell = Shell(1);
        let members = couplet::Cluster::new(2).members();
        assert_eq!(members.broadcast(move |_| assert_eq!(shell.as_ref().len(), 15)), 0);
    }),
    ("block_on_reactor", "in the loop's own thread", |s| {
        let shell = Shell(1);
        let blocked = s.reactor.remote().block_on_reactor(move |_| {
            drop(shell);
            Deferred::succeed(())
        });
        assert!(blocked.is_err());
    }),
    ("Connection::tell", "made, and dropped with the connection", |s| {
        let (transport, wire) = s.open();
        let connection = transport.connection::<Carrier<()>>();
        connection.tell(told(s.bomb()));
        connection.tell(told(s.bomb()));
        wire.reset();
        s.turns();
        assert!(!connection.tell(told(s.bomb())));
    }),
    ("ask", "dropped with the connection", |s| {
        let (transport, wire) = s.open();
        let connection = transport.connection::<Carrier<()>>();
        wire.reset();
        s.turns();
        connection.ask(told(s.bomb())).discard();
    }),
    ("ask_result", "dropped with the loop", |s| {
        let (transport, _wire) = s.open();
        let connection = transport.connection::<Carrier<()>>();
        let late = s.bomb();
        connection.ask_result(move |_, _| Ok(late)).discard();
    }),
    ("Connection::call_later", "dropped with the connection", |s| {
        let (transport, wire) = s.open();
        let connection = transport.connection::<Carrier<()>>();
        connection.call_later(HOUR, told(s.bomb()));
        wire.reset();
        s.turns();
        connection.call_later(HOUR, told(s.bomb()));
    }),
    ("write_bytes", "sent, cut off, and too late", |s| {
        let (transport, wire) = s.open();
        transport.write_bytes(Bytes::from_owner(Shell(1)));
        transport.write_bytes(Bytes::from_owner(Shell(2)));
        s.turns();
        assert_eq!(wire.take(), [BYTES, BYTES].concat());
        s.network.set_capacity(4);
        transport.write_bytes(Bytes::from_owner(Shell(3)));
        transport.write_bytes(Bytes::from_owner(Shell(4)));
        s.turns();
        transport.abort_connection();
        s.turns();
        transport.write_bytes(Bytes::from_owner(Shell(5)));
        s.network.set_capacity(1 << 16);
    }),
    #[cfg(unix)]
    ("watch", "stopped, ready, and dropped with the loop", |s| {
        // The memory driver has no descriptors.
        let mut l = real_loop();
        let pair = || std::os::unix::net::UnixStream::pair().expect("a pair");
        for stops in [true, false] {
            let ((ours, _theirs), bomb) = (pair(), s.bomb());
            let watch = l.reactor().watch(ours, Interest::Writable, move |_, _| holds(&bomb));
            turns(&mut l, 1);
            if stops {
                watch.expect("a socket").stop().discard();
            }
        }
        let ((ours, _theirs), bomb) = (pair(), s.bomb());
        let watched = l.reactor().watch(ours, Interest::Writable, move |_, _| holds(&bomb));
        watched.expect("a socket");
    }),
    ("write_bytes", "unsent when the loop is dropped", |s| {
        let (transport, _wire) = s.open();
        transport.write_bytes(Bytes::from_owner(Shell(1)));
        transport.write_bytes(Bytes::from_owner(Shell(2)));
    }),
    ("fail", "once, again, and too late", |s| {
        let (transport, wire) = s.open();
        transport.fail(Shell(1));
        transport.fail(Shell(2));
        s.turns();
        transport.fail(Shell(3));
        wire.close();
        s.turns();
        transport.fail(Shell(4));
    }),
    ("upgrade", "replaced, lost, and lost with the loop", |s| {
        let (transport, wire) = s.open();
        transport.upgrade(Carrier(s.bomb()));
        transport.upgrade(Carrier(s.bomb()));
        s.turns();
        transport.upgrade(Carrier(s.bomb()));
        s.turns();
        transport.upgrade(Carrier(s.bomb()));
        wire.reset();
        s.turns();
        transport.upgrade(Carrier(s.bomb()));
        let (transport, _wire) = s.open();
        transport.upgrade(Carrier(s.bomb()));
    }),
    ("Tls::choosing", "its connection is lost before it is called", |s| {
        let (transport, wire) = s.open();
        let options = couplet::layers::tls::ServerTlsOptions::chosen_later();
        let tls = couplet::layers::tls::ServerTls::new(&options).expect("a configuration");
        let bomb = s.bomb();
        let never = Failure::msg("it is never asked");
        transport
            .start_layer(tls.layer(transport.reactor().now()).choosing(move |_| {
                holds(&bomb);
                Deferred::fail(never)
            }))
            .expect("it may still write");
        s.turns();
        wire.reset();
        s.turns();
    }),
    ("upgrade_with", "lost before its turn", |s| {
        let (transport, _wire) = s.open();
        transport.upgrade_with(Carrier(s.bomb()), "unread");
        transport.abort_connection();
        s.turns();
    }),
    ("with_socket", "there is none, and the connection is lost", |s| {
        let (transport, wire) = s.open();
        lend(&transport, s.bomb());
        s.turns();
        lend(&transport, s.bomb());
        wire.reset();
        s.turns();
        lend(&transport, s.bomb());
    }),
    ("with_socket", "it is asked for by a lost connection without handles", |s| {
        let port = s.listens(|s| s.reactor.listen_tcp(any(), s.armed(Asks)));
        s.client(&port).reset();
        s.turns();
    }),
    ("with_socket", "it is called", |s| {
        let mut l = real_loop();
        let (ours, _theirs) = sockets();
        let adopted = l.reactor().adopt(ours, s.armed(Carries));
        adopted.expect("a connected socket").discard();
        turns(&mut l, 3);
    }),
    ("adopt", "its connection ends, it is cancelled, and its loop is dropped", |s| {
        let mut l = real_loop();
        let reactor = l.reactor();
        let (ours, theirs) = sockets();
        reactor.adopt(ours, s.factory()).expect("a connected socket").discard();
        let (ours, _theirs) = sockets();
        let cancelled = reactor.adopt(ours, s.factory()).expect("a connected socket");
        cancelled.cancel();
        cancelled.discard();
        drop(theirs);
        turns(&mut l, 3);
        let (ours, _theirs) = sockets();
        reactor.adopt(ours, s.factory()).expect("a connected socket").discard();
    }),
    ("take_over", "its connection ends, it is cancelled, and its loop is dropped", |s| {
        let mut l = real_loop();
        let (reactor, carrier) = (l.reactor(), s.armed(Carrier));
        let (moving, theirs) = handed();
        reactor.take_over(moving, carrier()).expect("a socket").discard();
        let (moving, _theirs) = handed();
        let cancelled = reactor.take_over(moving, carrier()).expect("a socket");
        cancelled.cancel();
        cancelled.discard();
        drop(theirs);
        turns(&mut l, 4);
        let (moving, _theirs) = handed();
        reactor.take_over(moving, carrier()).expect("a socket").discard();
        drop(l);
        assert_eq!(s.bombs.get(), 3, "each is dropped with its connection");
    }),
    #[cfg(unix)]
    ("spawn_process", "it ends, it is not there, and its loop is dropped", |s| {
        let mut l = real_loop();
        let hears = Hears(s.bomb());
        let process = l.reactor().spawn_process(Command::new("/bin/true"), hears);
        let ended = process.expect("it starts").ended();
        l.run_until(ended).expect("it ends");
        let missing = l.reactor().spawn_process(Command::new("/nonexistent"), Hears(s.bomb()));
        missing.expect_err("there is none");
        for is_turned in [true, false] {
            let cat = l.reactor().spawn_process(Command::new("/bin/cat"), Hears(s.bomb()));
            cat.expect("it starts");
            if is_turned {
                turns(&mut l, 1);
            }
        }
    }),
    ("adopt_port", "its loop is dropped", |s| {
        let mut l = real_loop();
        let port = l.reactor().adopt_port(listening(), s.factory());
        port.expect("a listening socket");
        turns(&mut l, 1);
    }),
    ("adopt_pipe", "its connection ends, and its loop is dropped", |s| {
        let mut l = real_loop();
        let reactor = l.reactor();
        let (ours, theirs) = std::io::pipe().expect("a pipe");
        let adopted = reactor.adopt_pipe(Pipe::reader(ours), s.factory());
        adopted.expect("a pipe").discard();
        drop(theirs);
        turns(&mut l, 3);
        let (ours, _theirs) = std::io::pipe().expect("a pipe");
        let adopted = reactor.adopt_pipe(Pipe::reader(ours), s.factory());
        adopted.expect("a pipe").discard();
    }),
    ("connect_process", "its program can't be started, and its loop is dropped", |s| {
        let mut l = real_loop();
        let reactor = l.reactor();
        for command in missing_and_cat() {
            reactor.connect_process(command, s.factory()).discard();
        }
        turns(&mut l, 1);
    }),
    ("connect_process_with", "its program can't be started, and its loop is dropped", |s| {
        let mut l = real_loop();
        let reactor = l.reactor();
        for command in missing_and_cat() {
            let lost = WhenLost::default();
            reactor.connect_process_with(command, lost, s.factory()).discard();
        }
        turns(&mut l, 1);
    }),
    ("register_producer", "lost with its connection", |s| {
        let (transport, wire) = s.open();
        assert!(s.registers(&transport, ProducerKind::Push, |_, _| {}), "it has none");
        s.turns();
        assert!(!s.registers(&transport, ProducerKind::Push, |_, _| {}), "it has one");
        wire.reset();
        s.turns();
        assert!(s.registers(&transport, ProducerKind::Push, |_, _| {}), "stopped immediately");
    }),
    ("register_producer", "unregistered", |s| {
        let (transport, _wire) = s.open();
        assert!(s.registers(&transport, ProducerKind::Push, |_, _| {}));
        transport.unregister_producer();
    }),
    ("register_producer", "unregisters itself when it is called", |s| {
        let (transport, _wire) = s.open();
        let resume = |transport: &Transport, bomb: Bomb| {
            std::mem::forget(bomb);
            transport.unregister_producer();
        };
        assert!(s.registers(&transport, ProducerKind::Pull, resume));
        s.turns();
    }),
    ("register_producer", "replaces itself when it is called", |s| {
        let (transport, _wire) = s.open();
        let resume = |transport: &Transport, bomb: Bomb| {
            transport.unregister_producer();
            let bomb = Some(bomb);
            let next =
                Produces { transport: transport.clone(), resume: |_, b| std::mem::forget(b), bomb };
            transport.register_producer(next, ProducerKind::Pull).expect("it has none");
        };
        assert!(s.registers(&transport, ProducerKind::Pull, resume));
        s.turns();
    }),
    ("FunctionService::on_stop", "a stopped child is removed", |s| {
        let stop = owns(s.bomb());
        let service = FunctionService::new("it", |_| Deferred::succeed(()));
        let service = service.on_stop(move || {
            stop();
            Deferred::succeed(())
        });
        supervise(s, service, |supervisor| supervisor.remove("it").discard());
    }),
    ("FunctionService::on_health", "a child is dropped with its supervisor", |s| {
        let bomb = s.bomb();
        let service = FunctionService::new("it", |_| Deferred::succeed(()));
        let service = service.on_health(move || {
            holds(&bomb);
            Health::Ready
        });
        supervise(s, service, |supervisor| supervisor.stop().discard());
    }),
    ("StreamServerService::opening", "a child that cannot start is removed", |s| {
        let bomb = s.bomb();
        let service = StreamServerService::opening("it", move |_| {
            holds(&bomb);
            Err(Failure::msg("no port"))
        });
        supervise(s, service, |supervisor| supervisor.remove("it").discard());
    }),
    ("StreamServerService::on_listening", "a child is removed while it runs", |s| {
        let bomb = s.bomb();
        let service = StreamServerService::new("it", "localhost:0", || Carrier(()));
        let service = service.expect("good").on_listening(move |_| holds(&bomb));
        supervise(s, service, |supervisor| supervisor.remove("it").discard());
    }),
    ("DatagramService::opening", "a child that cannot start is removed", |s| {
        let bomb = s.bomb();
        let service = DatagramService::opening::<Receives>("it", move |_| {
            holds(&bomb);
            Err(Failure::msg("no port"))
        });
        supervise(s, service, |supervisor| supervisor.remove("it").discard());
    }),
    ("DatagramService::finish", "a child is removed while it runs", |s| {
        let bomb = s.bomb();
        let nothing = |_: &DatagramTransport, _: &Datagram<'_>| {};
        let service =
            DatagramService::opening("it", move |reactor| Ok(reactor.listen_udp(any(), nothing)?));
        let service = service.finish(move |_| {
            holds(&bomb);
            Deferred::succeed(())
        });
        supervise(s, service, |supervisor| supervisor.remove("it").discard());
    }),
    ("LoopingCall::new", "stopped and dropped", |s| {
        let call = LoopingCall::new(&s.reactor, owns(s.bomb()));
        call.start(Duration::from_secs(1)).discard();
        s.turns();
        call.stop();
    }),
    ("LoopingCall::with_count", "dropped with the run", |s| {
        let bomb = s.bomb();
        let call = LoopingCall::with_count(&s.reactor, move |_| holds(&bomb));
        call.start(Duration::from_secs(1)).discard();
        s.turns();
    }),
    (
        "Cooperator::cooperate",
        "at its end, panicked, stopped, by itself too, and lost with the run",
        |s| {
            let cooperator = Cooperator::new(&s.reactor).steps(1);
            let _ended = cooperator.cooperate(endless(s.bomb()).take(1));
            let panics = endless(s.bomb()).inspect(|()| {
                std::panic::resume_unwind(Box::new("a step that panics"));
            });
            let panicked = cooperator.cooperate(panics);
            panicked.when_done().discard();
            let stopped = cooperator.cooperate(endless(s.bomb()));
            let own = Rc::new(RefCell::new(None::<CooperativeTask>));
            let task = own.clone();
            let stops_itself = endless(s.bomb()).inspect(move |()| {
                task.take().expect("it is there").stop();
            });
            *own.borrow_mut() = Some(cooperator.cooperate(stops_itself));
            s.turns();
            stopped.stop();
            s.turns();
            let left = cooperator.cooperate(endless(s.bomb()));
            left.pause();
            cooperator.cooperate(endless(s.bomb()));
        },
    ),
    ("Cooperator::coiterate", "cancelled, and stopped with its cooperator", |s| {
        let cooperator = Cooperator::new(&s.reactor);
        let cancelled = cooperator.coiterate(endless(s.bomb()));
        s.turns();
        cancelled.cancel();
        cancelled.discard();
        cooperator.coiterate(endless(s.bomb())).discard();
        s.turns();
        cooperator.stop();
    }),
];

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
fn try_one(act: Act) {
    SHELLS.set(0);
    let mut scene = Scene::new();
    act(&mut scene);
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
    let (transport, wire) = scene.open();
    let before = SHELLS.get();
    transport.write_bytes(Bytes::from_owner(Short(Shell(1))));
    assert_eq!(SHELLS.get() - before, 1);
    scene.turns();
    assert_eq!(wire.take(), BYTES[..512]);
}

#[test]
fn unsent_bytes_may_panic_when_the_last_handle_is_dropped_after_the_loop() {
    let mut scene = Scene::new();
    let (transport, _wire) = scene.open();
    transport.write_bytes(Bytes::from_owner(Shell(1)));
    transport.write_bytes(Bytes::from_owner(Shell(2)));
    let before = SHELLS.get();
    drop(scene);
    drop(transport);
    assert_eq!(SHELLS.get() - before, 2);
}

#[test]
fn c44_what_a_user_hands_in_may_panic_when_it_is_dropped() {
    let panicked: Vec<_> = WAYS
        .iter()
        .filter(|(.., act)| std::panic::catch_unwind(|| try_one(*act)).is_err())
        .map(|(name, end, _)| format!("{name}: {end}"))
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
