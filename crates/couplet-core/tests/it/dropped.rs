//! Laws 2 and 10: a user's value may use every handle when it is dropped, and does no further harm if it
//! panics then. A table lists every function that keeps such a value, and each way the value can end;
//! the last test finds functions that are missing from the table.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use couplet::endpoints::{ProcessClient, ServerEndpoint, Sharing};
use couplet::factory::ErasedFactory;
use couplet::process::{Command, WhenLost};
use couplet::protocols::{LimitConnections, Policy, ReconnectingClientFactory};
use couplet::services::{
    Child, ClientService, DatagramService, FunctionService, Health, Service, StreamServerService,
    Supervisor,
};
use couplet::task::{CooperativeTask, Cooperator};
use couplet::testing::{Network, Wire, success_of};
use couplet::transport::Pipe;
use couplet::transport::Upgrade;
use couplet::{
    Address, Bytes, ConnectOptions, Connection, Connector, Datagram, DatagramEndpoint,
    DatagramOptions, DatagramPort, DatagramProtocol, DatagramSocket, DatagramTransport, Deferred,
    Factory, Failure, HandOver, Interest, ListenOptions, Loop, LoopingCall, Port, Producer,
    ProducerKind, Protocol, ProtocolExtension, Reactor, Shared, Shutdown, Stream, Transport,
    UnixAddress, hooks,
};
use couplet_testkit_loops::doubles::{Echo, on_made};

use crate::pace::{TestLoop, real_loop, s as seconds};
use crate::suite::dropping::{use_every_handle, use_reactor};
use crate::suite::kit::LOOPBACK;
use crate::tcp::adopting::{listening, sockets};

thread_local! {
    static DROPPED: Cell<u32> = const { Cell::new(0) };
    static LOOKED: Cell<u32> = const { Cell::new(0) };
    static LOOK: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
}

/// A value for every function: bytes, an error, a protocol of each kind, a factory. Uses every handle
/// when dropped, and panics; the drops of each thread are counted.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
        let look = LOOK.with_borrow(Clone::clone);
        look.iter().for_each(|look| look());
        LOOKED.set(LOOKED.get() + 1);
        // No message on stderr.
        std::panic::resume_unwind(Box::new("a drop that panics"));
    }
}

/// The bytes of a bomb: too many for a copy.
const BYTES: [u8; 513] = [b'b'; 513];

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &BYTES
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

impl Protocol for Bomb {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

impl DatagramProtocol for Bomb {
    fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}
}

#[cfg(unix)]
impl couplet::process::ProcessProtocol for Bomb {}

impl Factory for Bomb {
    type Protocol = Echo;

    fn build_protocol(&mut self, _: &Address) -> Option<Echo> {
        Some(Echo)
    }
}

/// Asks for more when its connection is lost, and leaves no handle to it.
struct Asks;

impl Protocol for Asks {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, _: &couplet::Reason) {
        lend(transport);
        transport.upgrade(Bomb);
        transport.fail(Bomb);
        let fired = Bomb;
        transport.flushed().map(move |()| holds(&fired)).detach();
    }
}

/// Takes over a connection that another loop has handed over; also returns the peer.
#[cfg(unix)]
fn take_over(l: &Loop) -> (Deferred<Transport>, TcpStream) {
    struct Mover;
    impl Protocol for Mover {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}

        fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
            Some(self)
        }
    }

    impl ProtocolExtension for Mover {
        fn hand_over(&mut self) -> Option<HandOver> {
            HandOver::new("mover", [])
        }
    }
    let mut other = real_loop();
    let (ours, theirs) = sockets();
    let made = other.reactor().adopt(ours, || Mover).expect("a connected socket");
    turns(&mut other, 3);
    let handed = other.reactor().hand_over(success_of(made).transport().id());
    turns(&mut other, 2);
    let handed = success_of(handed).expect("it may move");
    (l.reactor().take_over(handed, Bomb).expect("a socket"), theirs)
}

/// Takes a connection that ends, one that is cancelled, and one whose loop is dropped.
fn take_three<T: 'static>(take: fn(&Loop) -> (Deferred<T>, TcpStream)) {
    let mut l = real_loop();
    let [(one, end), (cancelled, _end)] = [take(&l), take(&l)];
    one.discard();
    cancelled.cancel();
    cancelled.discard();
    drop(end);
    turns(&mut l, 4);
    let (three, _end_too) = take(&l);
    three.discard();
}

/// Owns a bomb, and calls the function in `resume_producing`.
struct Produces(Transport, fn(&Transport), Bomb);

impl Producer for Produces {
    fn resume_producing(&mut self) {
        self.1(&self.0);
    }
}

fn registers(transport: &Transport, kind: ProducerKind, resume: fn(&Transport)) -> bool {
    transport.register_producer(Produces(transport.clone(), resume, Bomb), kind).is_ok()
}

struct Scene {
    l: Loop,
    reactor: Reactor,
    network: Network,
    port: Port,
    kept: Vec<Kept>,
    wire: Option<Wire>,
    opened: Rc<RefCell<Vec<Transport>>>,
}

/// Stops or cancels the handle that a row leaves to its steps.
struct Kept(Box<dyn FnOnce()>);

impl<E: fmt::Debug> From<Result<Port, E>> for Kept {
    fn from(port: Result<Port, E>) -> Kept {
        let port = port.expect("it is free");
        Kept(Box::new(move || port.stop_listening().expect("it listens").detach()))
    }
}

impl<P: DatagramProtocol, E: fmt::Debug> From<Result<DatagramPort<P>, E>> for Kept {
    fn from(port: Result<DatagramPort<P>, E>) -> Kept {
        let port = port.expect("it is free");
        Kept(Box::new(move || drop(port.stop_listening())))
    }
}

impl From<Connector> for Kept {
    fn from(connector: Connector) -> Kept {
        Kept(Box::new(move || _ = connector.stop_connecting()))
    }
}

impl<T: 'static> From<Deferred<T>> for Kept {
    fn from(deferred: Deferred<T>) -> Kept {
        let canceller = deferred.canceller();
        deferred.discard();
        Kept(Box::new(move || canceller.cancel()))
    }
}

impl Scene {
    fn new() -> Scene {
        let TestLoop { mut l, reactor, network, .. } = TestLoop::new(3);
        let port = reactor.listen(LOOPBACK, || Echo).expect("a free port");
        l.begin(|_| Ok(())).expect("the setup does not fail");
        network.set_silent(silent_path());
        network.set_silent(local(SILENT.1));
        let _ = network.listen(PEER, 50).expect("a free port");
        Scene { l, reactor, network, port, kept: Vec::new(), wire: None, opened: Rc::default() }
    }

    fn keep(&mut self, kept: impl Into<Kept>) {
        self.kept.push(kept.into());
    }

    fn step(&mut self, step: &str) {
        match step {
            "turned" => {}
            "stopped" | "cancelled" => self.kept.drain(..).for_each(|Kept(end)| end()),
            // A client of the port, and its ends.
            "a client" => {
                let port = self.l.snapshot().ports.pop().expect("it is a port");
                self.wire = Some(self.network.connect(port.host).expect("it listens"));
            }
            // The peer accepts a connection.
            "accepted" => self.wire = Some(self.network.accept(PEER).expect("it connects")),
            "closed" => self.wire.take().expect("a connection").close(),
            "rejected" => assert!(self.wire.take().expect("a connection").is_closed()),
            "reset" => self.wire.take().expect("a connection").reset(),
            "dropped once" => assert_eq!(DROPPED.get(), 1, "with its owner"),
            "seconds" => self.network.advance(seconds(2)),
            _ => panic!("`{step}` is no step"),
        }
        self.turns();
    }

    fn turns(&mut self) {
        turns(&mut self.l, 6);
    }

    fn serve_once(&mut self, handle: impl AsyncFn(Stream) -> couplet::Result<()> + 'static) {
        self.keep(self.reactor.serve("tcp:0:interface=127.0.0.1", handle));
        ["a client", "stopped"].iter().for_each(|step| self.step(step));
    }

    /// An outgoing connection that echoes.
    fn open(&mut self) -> Connection<Echo> {
        let options = ConnectOptions::default();
        let connecting = self.reactor.connect((PEER, options), || Echo);
        self.turns();
        self.step("accepted");
        let connection = success_of(connecting);
        self.opened.borrow_mut().push(connection.transport());
        connection
    }

    fn transport(&mut self) -> Transport {
        self.open().transport()
    }

    fn check_alive(&mut self) {
        let wire = self.network.connect(self.port.host()).expect("it listens");
        wire.push(b"alive?");
        self.turns();
        assert_eq!(wire.take(), b"alive?");
        wire.close();
        self.turns();
    }
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(LOOPBACK.ip(), port)
}

const PEER: SocketAddr = local(4000);

/// The TCP address that answers no connect; nothing listens at port 9.
const SILENT: (&str, u16) = ("127.0.0.1", 10);

fn silent_path() -> UnixAddress {
    UnixAddress::from("/silent")
}

fn turns(l: &mut Loop, count: usize) {
    for _ in 0..count {
        l.turn(Some(Duration::ZERO)).expect("the loop turns");
    }
}

/// Starts a service below a supervisor, ends it by `end`, and drops the supervisor in the loop.
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

fn holds(_: &Bomb) {}

/// [`holds`], with a result.
fn with<T>(_: &Bomb, result: T) -> T {
    result
}

/// A closure that drops this when it is called.
fn drops(bomb: impl Sized + 'static) -> impl FnOnce() + 'static {
    move || drop(bomb)
}

fn done(bomb: Bomb) -> Deferred<()> {
    drop(bomb);
    Deferred::succeed(())
}

/// [`drops`], for a connection.
fn told<P>() -> impl FnOnce(&mut P, &Transport) + 'static {
    let bomb = Bomb;
    move |_, _| drop(bomb)
}

/// Lends the socket to a closure that owns a bomb.
fn lend(transport: &Transport) {
    let bomb = Bomb;
    transport.with_socket(move |_| with(&bomb, Ok(())));
}

/// A task that owns its bomb, and never ends.
async fn forever(_bomb: Bomb) -> couplet::Result<()> {
    std::future::pending().await
}

/// Cooperative work that owns a bomb, and never ends.
fn endless() -> impl Iterator<Item = ()> + 'static {
    let bomb = Bomb;
    std::iter::repeat(()).inspect(move |()| holds(&bomb))
}

/// A program that does not exist, and one that runs until its end of input.
const MISSING_AND_CAT: [&str; 2] = ["/nowhere", "/bin/cat"];

const HOUR: Duration = seconds(3600);
const SECOND: Duration = seconds(1);

/// An endpoint whose layers own a bomb, and which rejects all connections; one that chooses no
/// socket, by a closure that owns a bomb; and one that fails instead of listening.
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
        let bomb = Bomb;
        let factory = match self {
            Bombed::Layers => factory.layered("bombed", move |_| with(&bomb, None)),
            _ => factory.on_socket(move |_| with(&bomb, None)),
        };
        match self {
            Bombed::Failure => Err(Failure::msg("it fails")),
            _ => reactor.listen(LOOPBACK, factory),
        }
    }
}

type Act = fn(&mut Scene);

macro_rules! ways {
    ($($(#[$when:meta])* $function:literal, $steps:literal: |$s:tt $(, $bomb:ident)?| $act:expr;)*) => {
        &[$($(#[$when])* ($function, $steps, |$s: &mut Scene| {
            $(let $bomb = Bomb;)?
            $act;
        })),*]
    };
}

/// The function under test, the steps that follow, and the test, of a scene and perhaps a bomb. Each
/// test passes bombs to the loop, which drops them when it is dropped itself, if not earlier.
const WAYS: &[(&str, &str, Act)] = ways! {
    "Reactor::listen_datagrams", "turned, stopped": |s| s.keep(s.reactor.listen_datagrams(LOOPBACK, Bomb));
    "Reactor::listen_datagrams", "turned": |s|
        s.keep(s.reactor.listen_datagrams((LOOPBACK, DatagramOptions::default()), Bomb));
    "Reactor::listen_datagrams", "stopped": |s| s.keep(s.reactor.listen_datagrams(DatagramEndpoint::to(PEER), Bomb));
    // There are no sockets in memory.
    "Reactor::listen_datagrams", "": |s| {
        let adopt = |reactor: &Reactor| {
            let socket = std::net::UdpSocket::bind(LOOPBACK).expect("a free port");
            reactor.listen_datagrams((DatagramSocket::from(socket), DatagramOptions::default()), Bomb)
        };
        adopt(&s.reactor).expect_err("it is in memory");
        adopt(&real_loop().reactor()).expect("a UDP socket");
    };
    "Reactor::listen_datagrams", "": |s| {
        let listen = || s.reactor.listen_datagrams((UnixAddress::from("a"), DatagramOptions::default()), Bomb);
        let first = listen().expect("a free name");
        assert!(listen().is_err(), "the name is taken");
        drop(first);
    };
    // The port stops before.
    "DatagramPort::tell", "": |s, bomb| {
        let port = s.reactor.listen_datagrams(LOOPBACK, Bomb).expect("a port");
        s.turns();
        drop(port.stop_listening());
        port.tell(move |_, _| holds(&bomb));
    };
    "DatagramPort::call_later", "": |s, bomb| {
        let port = s.reactor.listen_datagrams(LOOPBACK, Bomb).expect("a port");
        s.turns();
        port.call_later(SECOND, move |_, _| holds(&bomb));
        drop(port.stop_listening());
    };
    "DatagramPort::ask", "": |s, bomb| {
        let port = s.reactor.listen_datagrams(LOOPBACK, Bomb).expect("a port");
        port.ask(move |_, _| holds(&bomb)).discard();
    };
    "listen", "turned, stopped": |s| s.keep(s.reactor.listen(LOOPBACK, Bomb));
    // The loop ends before it starts listening.
    "listen", "": |s| s.keep(s.reactor.listen(LOOPBACK, Bomb));
    "listen", "turned": |s| s.keep(s.reactor.listen((LOOPBACK, ListenOptions::default()), Bomb));
    "listen", "": |s| {
        let path = UnixAddress::from("/port");
        s.keep(s.reactor.listen((path, ListenOptions::default()), Bomb));
    };
    "connector", "turned, stopped": |s| {
        s.keep(hooks::connector(&s.reactor, silent_path(), ConnectOptions::default(), Bomb));
        s.keep(hooks::connector(&s.reactor, SILENT, ConnectOptions::default(), Bomb));
        s.keep(hooks::connector(&s.reactor, local(9), ConnectOptions::default(), Bomb));
    };
    "connect", "turned, cancelled": |s| {
        s.keep(s.reactor.connect((silent_path(), ConnectOptions::default()), Bomb));
        s.keep(s.reactor.connect(SILENT, Bomb));
    };
    "layered", "turned, stopped": |s| s.keep(s.reactor.listen(Bombed::Layers, Bomb));
    "layered", "turned, a client, rejected": |s| s.keep(s.reactor.listen(Bombed::Layers, Bomb));
    "on_socket", "turned, stopped": |s| s.keep(s.reactor.listen(Bombed::Choice, Bomb));
    "on_socket", "": |s| _ = s.reactor.listen(Bombed::Failure, Bomb).expect_err("it fails");
    // Dropped with its last clone.
    "Sharing::on_one_socket", "dropped once": |_, bomb| {
        let sharing = Sharing::new(2).on_one_socket(move |_| with(&bomb, None));
        drop(sharing.clone());
        drop(sharing);
    };
    // Another one replaces it, and the supervisor is dropped.
    "Supervisor::drain_by", "": |_| {
        let drains = |bomb: Bomb| move |_: &Reactor| with(&bomb, Deferred::succeed(()));
        drop(Supervisor::new("it").drain_by(drains(Bomb)).drain_by(drains(Bomb)));
    };
    "listen", "turned, a client, closed, dropped once": |s|
        s.keep(s.reactor.listen("tcp:0:interface=127.0.0.1", || Bomb));
    "listen", "turned, a client": |s|
        s.keep(s.reactor.listen("tcp:0:interface=127.0.0.1", || Bomb));
    // The endpoint is invalid.
    "listen", "": |s| {
        s.reactor.listen("no endpoint", Bomb).map(drop).expect_err("a space");
        s.reactor.listen("log:tcp:0:file=/", Bomb).map(drop).expect_err("a folder");
    };
    "connector", "turned": |s| s.keep(hooks::connector(&s.reactor, ("127.0.0.1", 9), ConnectOptions::default(), Bomb));
    "connect", "": |s| s.keep(s.reactor.connect("no endpoint", Bomb));
    "connect", "": |s| s.keep(s.reactor.connect("log:127.0.0.1:9:file=/", Bomb));
    "connect", "turned, accepted, closed": |s| {
        let connecting = s.reactor.connect(format!("tcp:{PEER}"), Bomb);
        s.keep(connecting.map(|connection| connection.transport().lose_connection()));
    };
    "for_check", "": |s| s.keep(s.reactor.connect("no endpoint", ErasedFactory::new(Bomb).for_check()));
    "for_check", "turned, accepted, closed": |s| {
        let connecting = s.reactor.connect(format!("tcp:{PEER}"), ErasedFactory::new(Bomb).for_check());
        s.keep(connecting.map(|connection| connection.transport().lose_connection()));
    };
    "on_behalf_of", "turned": |s| {
        let client = s.transport();
        s.keep(s.reactor.connect("tcp:127.0.0.1:9", ErasedFactory::new(Bomb).on_behalf_of(&client)));
        s.keep(s.reactor.connect("no endpoint", ErasedFactory::new(Bomb).on_behalf_of(&client)));
    };
    "connect_protocol", "dropped once": |s| s.keep(s.reactor.connect_protocol("no endpoint", Bomb));
    "connect_protocol", "turned, dropped once": |s|
        s.keep(s.reactor.connect_protocol("tcp:127.0.0.1:9", Bomb));
    "connect_protocol", "turned, cancelled, dropped once": |s|
        s.keep(s.reactor.connect_protocol("tcp:127.0.0.1:10", Bomb));
    "connect_protocol", "turned, accepted, closed, dropped once": |s|
        s.keep(s.reactor.connect_protocol(format!("tcp:{PEER}"), Bomb));
    // The attempt is stopped while the protocol is being built, so the protocol is unused.
    "connect", "turned, dropped once": |s| {
        let connector: Rc<RefCell<Option<Connector>>> = Rc::default();
        let slot = connector.clone();
        let made = hooks::connector(&s.reactor, ("127.0.0.1", PEER.port()), ConnectOptions::default(), move || {
            slot.take().expect("it is set").stop_connecting();
            Bomb
        });
        *connector.borrow_mut() = Some(made);
    };
    "Shared::new", "turned, stopped": |s| s.keep(s.reactor.listen(LOOPBACK, Shared::new(Bomb)));
    // Called too late.
    "Shared::tell", "": |s| {
        let (shared, one, two) = (Shared::new(Bomb), Bomb, Bomb);
        s.reactor.listen(LOOPBACK, shared.clone()).expect("a free port");
        s.turns();
        shared.tell(move |_| drop(one));
        shared.tell(move |_| std::mem::forget(two));
    };
    // Stopped while it waits.
    "ReconnectingClientFactory::new", "turned, stopped": |s|
        s.keep(hooks::connector(&s.reactor, ("127.0.0.1", 9), ConnectOptions::default(), ReconnectingClientFactory::new(Bomb)));
    "ReconnectingClientFactory::with", "turned": |s|
        s.keep(hooks::connector(&s.reactor, ("127.0.0.1", 9), ConnectOptions::default(), ReconnectingClientFactory::with(|_| Bomb)));
    "ClientService::new", "turned": |s| {
        ClientService::new(&s.reactor, "tcp:192.0.2.1:1", Bomb).expect("good").start();
    };
    // Called, and dropped when the service has stopped.
    "ClientService::prepare", "": |s, bomb| {
        let service = ClientService::new(&s.reactor, &s.port.host().to_string(), || Echo);
        let prepares = move |_: &_| with(&bomb, Deferred::succeed(()));
        let service = service.expect("good").prepare(prepares);
        service.start();
        s.turns();
        service.stop().detach();
        s.reactor.call_soon(drops(service));
    };
    "ClientService::retry_policy", "": |s, bomb| {
        let service = ClientService::new(&s.reactor, "tcp:127.0.0.1:1", || Echo).expect("good");
        service.retry_policy(move |_: u32, _: &Reactor| with(&bomb, SECOND)).start();
    };
    "on_turned_away", "turned, a client": |s, bomb| {
        let limit = LimitConnections::new(0).on_turned_away(move |_| holds(&bomb));
        s.keep(s.reactor.listen(LOOPBACK, limit.wrap(|| Echo)));
    };
    "call_later", "": |s| drop(s.reactor.call_later(HOUR, drops(Bomb)));
    "call_later", "": |s| assert!(s.reactor.call_later(HOUR, drops(Bomb)).cancel());
    "call_soon", "turned": |s| drop(s.reactor.call_soon(drops(Bomb)));
    "timeout", "turned, seconds": |s| {
        let (never, reactor) = (forever(Bomb), s.reactor.clone());
        s.keep(s.reactor.spawn(async move { reactor.timeout(SECOND, never).await }));
    };
    // The port is stopped, and a handler waits until the run ends.
    "serve", "": |s, bomb| {
        let another = RefCell::new(Some(Bomb));
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
    // The end of the run cancels the task.
    "framed", "turned": |s, bomb| {
        let mut messages = Stream::new(&s.transport()).framed(|_| bomb);
        s.turns();
        s.keep(s.reactor.spawn(async move { Ok(messages.next().await?) }));
    };
    "spawn", "turned, cancelled": |s| s.keep(s.reactor.spawn(forever(Bomb)));
    "spawn", "turned": |s| s.keep(s.reactor.spawn(forever(Bomb)));
    "spawn", "turned": |s, bomb| s.reactor.spawn(async move { Ok(bomb) }).detach();
    "spawn_named", "turned": |s, bomb| s.reactor.spawn_named("a bomb", async move { Ok(bomb) }).detach();
    // The closure's captures are dropped with the task.
    "spawn_cancellable", "": |s| {
        let (one, two) = (Bomb, Bomb);
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
    "on", "": |s| for when in [Shutdown::Before, Shutdown::During, Shutdown::After] {
        let bomb = Bomb;
        s.reactor.on(when, move || done(bomb));
    };
    "on_snapshot", "": |s| for bomb in [Bomb, Bomb] {
        s.l.on_snapshot(move |_| holds(&bomb));
    };
    "note_rows", "": |s, bomb| drop(hooks::note_rows(&s.reactor, move || with(&bomb, Vec::new())));
    // The note outlives the loop.
    "note_rows", "turned": |s, bomb|
        std::mem::forget(hooks::note_rows(&s.reactor, move || with(&bomb, Vec::new())));
    "around_wait", "": |s| for bomb in [Bomb, Bomb] {
        s.l.around_wait(move |wait| with(&bomb, wait)());
    };
    "defer_to_thread", "turned": |s, bomb| s.keep(s.reactor.defer_to_thread(move || Ok(bomb)));
    "defer_to_thread", "cancelled": |s, bomb| s.keep(s.reactor.defer_to_thread(move || Ok(bomb)));
    // Made, and never made.
    "Remote::call", "": |s| {
        let remote = s.reactor.remote();
        let call = |bomb| remote.call(move |_| drop::<Bomb>(bomb)).expect("the loop exists");
        call(Bomb);
        s.turns();
        call(Bomb);
    };
    // After the loop was dropped.
    "Remote::call", "": |s, bomb| {
        let remote = s.reactor.remote();
        *s = Scene::new();
        assert!(remote.call(move |_| drop(bomb)).is_err());
    };
    // To a connection that was lost.
    "Remote::tell", "turned": |s, bomb| {
        let id = s.open().id();
        s.step("reset");
        let sent = s.reactor.remote().tell(id, move |_: &mut Echo, _| drop(bomb));
        sent.expect("the loop exists");
    };
    // No loop runs.
    "broadcast", "": |_, bomb| {
        let members = couplet::Cluster::new(2).members();
        assert_eq!(members.broadcast(move |_| assert_eq!(bomb.as_ref().len(), 15)), 0);
    };
    // In the loop's own thread.
    "block_on_reactor", "": |s, bomb|
        assert!(s.reactor.remote().block_on_reactor(move |_| done(bomb)).is_err());
    // Made, and dropped with the connection.
    "Connection::tell", "": |s| {
        let connection = s.open();
        connection.tell(told());
        connection.tell(told());
        s.step("reset");
        assert!(!connection.tell(told()));
    };
    "ask", "": |s| {
        let connection = s.open();
        s.step("reset");
        connection.ask(told()).discard();
    };
    "ask_result", "": |s, bomb| s.open().ask_result(move |_, _| Ok(bomb)).discard();
    "Connection::call_later", "": |s| {
        let connection = s.open();
        connection.call_later(HOUR, told());
        s.step("reset");
        connection.call_later(HOUR, told());
    };
    // Sent, cut off, and too late.
    "write_bytes", "": |s| {
        let transport = s.transport();
        let write = |count| (0..count).for_each(|_| transport.write_bytes(Bytes::from_owner(Bomb)));
        write(2);
        s.turns();
        assert!(s.wire.as_ref().expect("a peer").take().starts_with(&[BYTES, BYTES].concat()));
        s.network.set_capacity(4);
        write(2);
        s.turns();
        transport.abort_connection();
        s.turns();
        write(1);
        s.network.set_capacity(1 << 16);
    };
    // Unsent when the loop is dropped.
    "write_bytes", "": |s| {
        let transport = s.transport();
        transport.write_bytes(Bytes::from_owner(Bomb));
        transport.write_bytes(Bytes::from_owner(Bomb));
    };
    // Stopped, ready, and dropped with the loop. The memory driver has no descriptors.
    #[cfg(unix)]
    "watch", "": |_| {
        let mut l = real_loop();
        for (turned, stops) in [(1, true), (1, false), (0, false)] {
            let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
            let bomb = Bomb;
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
        let transport = s.transport();
        transport.fail(Bomb);
        transport.fail(Bomb);
        s.turns();
        transport.fail(Bomb);
        s.step("closed");
        transport.fail(Bomb);
    };
    // Replaced, lost, and lost with the loop.
    "upgrade", "": |s| {
        let transport = s.transport();
        transport.upgrade(Bomb);
        transport.upgrade(Bomb);
        s.turns();
        transport.upgrade(Bomb);
        s.turns();
        transport.upgrade(Bomb);
        s.step("reset");
        transport.upgrade(Bomb);
        s.transport().upgrade(Bomb);
    };
    // The connection is lost before the closure is called.
    "Tls::choosing", "turned, reset": |s, bomb| {
        let transport = s.transport();
        let options = couplet::layers::tls::ServerTlsOptions::chosen_later();
        let tls = couplet::layers::tls::ServerTls::new(&options).expect("a configuration");
        let never = Failure::msg("it is never asked");
        let tls = tls.layer(transport.reactor().now());
        let layer = tls.choosing(move |_| with(&bomb, Deferred::fail(never)));
        transport.start_layer(layer).expect("it may still write");
    };
    "with_unread", "": |s| {
        let transport = s.transport();
        transport.upgrade(Upgrade::with_unread(Bomb, "unread"));
        transport.abort_connection();
    };
    // Memory has no sockets, and the connection is lost.
    "with_socket", "": |s| {
        let transport = s.transport();
        lend(&transport);
        s.turns();
        lend(&transport);
        s.step("reset");
        lend(&transport);
    };
    // A lost connection without handles asks for the socket.
    "with_socket", "turned, a client, reset": |s| s.keep(s.reactor.listen(LOOPBACK, || Asks));
    "with_socket", "": |_| {
        let (mut l, (ours, _theirs)) = (real_loop(), sockets());
        l.reactor().adopt(ours, || on_made(lend)).expect("a connected socket").discard();
        turns(&mut l, 3);
    };
    "adopt", "": |_| take_three(|l| {
        let (ours, theirs) = sockets();
        (l.reactor().adopt(ours, Bomb).expect("a socket"), theirs)
    });
    #[cfg(unix)]
    "take_over", "": |_| {
        take_three(take_over);
        assert_eq!(DROPPED.get(), 3, "each is dropped with its connection");
    };
    // The program ends, does not exist, or outlives its loop.
    #[cfg(unix)]
    "spawn_process", "": |_| {
        let mut l = real_loop();
        let spawn = |l: &Loop, path: &str| l.reactor().spawn_process(Command::new(path), Bomb);
        let ended = spawn(&l, "/bin/true").expect("it starts").ended();
        l.run_until(ended).expect("it ends");
        spawn(&l, "/nonexistent").expect_err("there is none");
        spawn(&l, "/bin/cat").expect("it starts");
        turns(&mut l, 1);
        spawn(&l, "/bin/cat").expect("it starts");
    };
    "adopt_port", "": |_| {
        let mut l = real_loop();
        l.reactor().adopt_port(listening(), Bomb).expect("a listening socket");
        turns(&mut l, 1);
    };
    // The connection ends, and the loop is dropped.
    "adopt_pipe", "": |_| {
        let mut l = real_loop();
        let [(one, end), (two, _end)] = [(); 2].map(|()| std::io::pipe().expect("a pipe"));
        let adopt = |l: &Loop, pipe| l.reactor().adopt_pipe(Pipe::reader(pipe), Bomb);
        adopt(&l, one).expect("a pipe").discard();
        drop(end);
        turns(&mut l, 3);
        adopt(&l, two).expect("a pipe").discard();
    };
    // The program can't be started, and the loop is dropped.
    "connect", "": |_| {
        let mut l = real_loop();
        for program in MISSING_AND_CAT {
            l.reactor().connect(ProcessClient::new(Command::new(program)), Bomb).discard();
        }
        turns(&mut l, 1);
    };
    "connect", "": |_| {
        let mut l = real_loop();
        for program in MISSING_AND_CAT {
            let (command, lost) = (Command::new(program), WhenLost::default());
            l.reactor().connect(ProcessClient::new(command).when_lost(lost), Bomb).discard();
        }
        turns(&mut l, 1);
    };
    // Lost with its connection.
    "register_producer", "": |s| {
        let transport = s.transport();
        assert!(registers(&transport, ProducerKind::Push, |_| {}), "it has none");
        s.turns();
        assert!(!registers(&transport, ProducerKind::Push, |_| {}), "it has one");
        s.step("reset");
        assert!(registers(&transport, ProducerKind::Push, |_| {}), "stopped immediately");
    };
    "register_producer", "": |s| {
        let transport = s.transport();
        assert!(registers(&transport, ProducerKind::Push, |_| {}));
        transport.unregister_producer();
    };
    // Unregisters itself when it is called, and replaces itself.
    "register_producer", "turned": |s| {
        assert!(registers(&s.transport(), ProducerKind::Pull, Transport::unregister_producer));
        assert!(registers(&s.transport(), ProducerKind::Pull, |transport| {
            transport.unregister_producer();
            assert!(registers(transport, ProducerKind::Pull, |_| {}), "it has none");
        }));
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
        let service = StreamServerService::new("it", "localhost:0", || Echo).expect("good");
        supervise(s, service.on_listening(move |_| holds(&bomb)), removes);
    };
    "DatagramService::opening", "": |s, bomb| {
        let fails = move |_: &Reactor| with(&bomb, Err(Failure::msg("no port")));
        supervise(s, DatagramService::opening::<Bomb>("it", fails), removes);
    };
    "DatagramService::finish", "": |s, bomb| {
        let nothing = |_: &DatagramTransport, _: &Datagram<'_>| {};
        let service = DatagramService::opening("it", move |reactor| Ok(reactor.listen_datagrams(LOOPBACK, nothing)?));
        supervise(s, service.finish(move |_| with(&bomb, Deferred::succeed(()))), removes);
    };
    "LoopingCall::new", "": |s, bomb| {
        let call = LoopingCall::new(&s.reactor, move || holds(&bomb));
        call.start(SECOND).discard();
        s.turns();
        call.stop();
    };
    "LoopingCall::with_count", "turned": |s, bomb|
        LoopingCall::with_count(&s.reactor, move |_| holds(&bomb)).start(SECOND).discard();
    // The task ends, panics, is stopped, stops itself, and is lost with the run.
    "Cooperator::cooperate", "": |s| {
        let cooperator = Cooperator::new(&s.reactor).steps(1);
        let _ended = cooperator.cooperate(endless().take(1));
        let panics = endless().inspect(|()| std::panic::resume_unwind(Box::new("a panic")));
        cooperator.cooperate(panics).when_done().discard();
        let stopped = cooperator.cooperate(endless());
        let own = Rc::new(RefCell::new(None::<CooperativeTask>));
        let task = own.clone();
        let stops_itself = move |()| _ = task.take().expect("it is there").stop();
        *own.borrow_mut() = Some(cooperator.cooperate(endless().map(stops_itself)));
        s.turns();
        stopped.stop();
        s.turns();
        cooperator.cooperate(endless()).pause();
        cooperator.cooperate(endless());
    };
    // Cancelled, and stopped with its cooperator.
    "Cooperator::coiterate", "": |s| {
        let cooperator = Cooperator::new(&s.reactor);
        let cancelled = cooperator.coiterate(endless());
        s.turns();
        cancelled.cancel();
        cancelled.discard();
        cooperator.coiterate(endless()).discard();
        s.turns();
        cooperator.stop();
    };
};

trait Discard {
    fn discard(self);
}

impl<T: 'static> Discard for Deferred<T> {
    fn discard(self) {
        self.add_both(|_| Ok(())).detach();
    }
}

fn try_one(steps: &str, act: Act) {
    DROPPED.set(0);
    LOOKED.set(0);
    let mut scene = Scene::new();
    let (reactor, opened) = (scene.reactor.clone(), scene.opened.clone());
    LOOK.set(Some(Rc::new(move || {
        use_reactor(&reactor);
        opened.borrow().iter().for_each(use_every_handle);
    })));
    act(&mut scene);
    steps.split(", ").filter(|step| !step.is_empty()).for_each(|step| scene.step(step));
    scene.turns();
    scene.check_alive();
    scene.l.end().expect("a run ends");
    scene.turns();
    LOOK.set(None);
    drop(scene);
    assert_eq!(LOOKED.get(), DROPPED.get(), "a drop could not use a handle");
    assert!(DROPPED.get() > 0, "nothing was dropped");
}

#[test]
fn short_bytes_are_copied_and_dropped_at_once_even_if_that_panics() {
    struct Short(Bomb);
    impl AsRef<[u8]> for Short {
        fn as_ref(&self) -> &[u8] {
            &self.0.as_ref()[..512]
        }
    }
    let mut scene = Scene::new();
    scene.transport().write_bytes(Bytes::from_owner(Short(Bomb)));
    assert_eq!(DROPPED.get(), 1);
    scene.turns();
    assert_eq!(scene.wire.take().expect("a peer").take(), BYTES[..512]);
}

#[test]
fn unsent_bytes_may_panic_when_the_last_handle_is_dropped_after_the_loop() {
    let mut scene = Scene::new();
    let transport = scene.transport();
    transport.write_bytes(Bytes::from_owner(Bomb));
    transport.write_bytes(Bytes::from_owner(Bomb));
    drop(scene);
    assert_eq!(DROPPED.get(), 0);
    drop(transport);
    assert_eq!(DROPPED.get(), 2);
}

#[test]
fn c44_a_users_value_may_panic_when_it_is_dropped() {
    let panicked: Vec<_> = WAYS
        .iter()
        .enumerate()
        .filter(|(_, (_, steps, act))| std::panic::catch_unwind(|| try_one(steps, *act)).is_err())
        .map(|(n, (name, steps, _))| format!("row {n}, {name}: {steps}"))
        .collect();
    assert!(panicked.is_empty(), "the panic of a drop did further harm here: {panicked:#?}");
}

/// Called immediately in the caller's frame, where their captures are dropped.
const CALLED_AT_ONCE: [&str; 10] = [
    "attach",
    "run",
    "begin",
    "feed",
    "fill",
    "layer_connections",
    "tune",
    // Kept by a value that belongs to the caller.
    "trial",
    // Of values of the library.
    "worst",
    "wrapped",
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
