//! The [`Reactor`], a handle that records requests, and the [`Loop`], which owns the connections
//! and carries the requests out in its turn.
//!
//! A reactor is a value: a process may have several, each can run again after it was stopped, and
//! none is global. Twisted's `IReactorCore`, `IReactorTime`, `IReactorTCP`.

mod adopting;
mod connector;
mod datagrams;
mod delayed;
mod dependents;
mod drain;
mod inbox;
mod jobs;
mod leaks;
mod names;
mod options;
mod port;
mod remote;
mod requests;
mod sharing;
mod snapshot;
mod spawning;
mod stage;
mod stalls;
mod tasks;
pub(crate) mod timers;
mod turn;
#[cfg(unix)]
mod watch;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::address::{Address, UnixAddress};
use crate::datagrams::DatagramCell;
use crate::defer::{Deferred, Failure, Resolver, Result};
use crate::driver::{
    Adopted, ConnectOptions, ConnectedSocket, Key, ListenOptions, ListeningSocket, Spares, Stalls,
    UserCall, World,
};
#[cfg(unix)]
use crate::driver::{Command, Pipe, Spawned};
use crate::error::ListenError;
use crate::factory::{ErasedFactory, Factory, IntoFactory};
use crate::panics::Contained;
use crate::slots::Slots;
use crate::transport::cell::{ConnectionCell, Phase};
#[cfg(feature = "testing")]
use crate::transport::connection::LayerReport;
use crate::transport::{Connection, Tell};

use adopting::{AdoptionCell, AdoptionSource};
pub use connector::{Connector, ConnectorState, NotDisconnected};
use connector::{ConnectorCell, Target};
pub use delayed::DelayedCall;
use dependents::DependentGuard;
pub(crate) use dependents::{Dependent, DependentId};
use drain::DrainCell;
pub use drain::Drained;
#[cfg(feature = "testing")]
pub(crate) use leaks::{Leak, numbered};
pub(crate) use leaks::{Source, TimerPurpose};
pub use options::{Answers, Drain, LoopOptions};
pub use port::Port;
use port::PortCell;
pub use remote::{LoopGone, Remote, WouldWaitForItself};
use sharing::HandedConnection;
pub(crate) use sharing::SharedSocket;
pub use snapshot::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, PortSnapshot, Snapshot,
};
pub use stage::Shutdown;
use stage::Stage;
pub(crate) use tasks::{TaskId, TaskRef};
use tasks::{Tasks, WakeQueue};
use timers::Timers;
pub use turn::{Cluster, Loop, Members, NoSuchLoop, Stopped, cluster, react, run, run_until};
#[cfg(unix)]
pub use watch::{NotWatching, Watch};

/// The primitives that [`inbox`] uses; its test substitutes others.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};
    pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
}

/// A handle to a loop: listens, connects, calls later, spawns. Cheap to clone and to keep.
///
/// The handle records requests and the loop's turn carries them out; only binding a port happens
/// immediately, so that it can return the error. Dropping a handle changes nothing.
///
/// ```
/// use couplet::{Protocol, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// couplet::run(|reactor| {
///     let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo)?;
///     println!("listening on {}", port.host());
/// #   reactor.stop();
///     Ok(())
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone)]
pub struct Reactor {
    records: Rc<Records>,
}

/// Requests recorded by handles and not yet applied by the turn.
pub(crate) struct Records {
    /// The loop's number in this process.
    serial: u32,
    world: Rc<dyn World>,
    spares: Rc<Spares>,
    /// The time of this turn, or of the last one.
    time: Cell<Instant>,
    /// Calls and woken tasks from other threads, and the way to wake the loop.
    queue: Arc<WakeQueue>,
    /// The lists below that hold work for the turn; bits of [`pending`].
    pending: Cell<u8>,
    /// [`Turns::Many`](turn::Turns) must return after this turn.
    must_return: Cell<bool>,
    /// The dirty list: connections with requests or output.
    // Bound: each connection twice: `ConnectionCell::dirty` lets it in once, and once more after
    // bytes.
    dirty: RefCell<Vec<Key>>,
    /// Calls into user code, first in, first out.
    // Unbounded: one per `tell`, `ask` and `call_soon` call, and one for each connection with calls
    // due; a round runs those present when it begins.
    calls: RefCell<VecDeque<Call>>,
    /// Ports, connectors, drains and layers with a request.
    // Unbounded: one for each call of a port or connector handle since the last round.
    requests: RefCell<VecDeque<LoopRequest>>,
    /// Listens and connects for step 6.
    // Unbounded: one per `listen` and `connect` call since the last turn.
    starts: RefCell<VecDeque<Start>>,
    timers: RefCell<Timers<TimerAction>>,
    tasks: RefCell<Tasks>,
    /// The task being polled, and the address of its waker.
    polled: Cell<Option<(TaskId, *const ())>>,
    jobs: jobs::Jobs,
    names: RefCell<requests::DriverRequests<names::Lookup>>,
    #[cfg(unix)]
    watches: RefCell<watch::Watches>,
    dependents: RefCell<dependents::Dependents>,
    // Unbounded: one per `snapshot` call since the last round.
    snapshots: RefCell<Vec<Resolver<Snapshot>>>,
    /// Called when the loop is dropped, to release the threads in [`Remote::block_on_reactor`].
    // Bound: one for each thread that waits in `Remote::block_on_reactor`.
    blocked: RefCell<Slots<Box<dyn FnOnce()>>>,
    /// Resolvers of pending snapshots of all loops of a cluster.
    // Unbounded: one per `Members::snapshot` call that has no answer yet.
    cluster_snapshots: RefCell<Slots<Resolver<Snapshot>>>,
    /// The ports that listen on sockets shared with other loops.
    // Bound: one for each port that the user made.
    shared_ports: RefCell<Slots<Rc<PortCell>>>,
    run: stage::Run,
    /// Source locations of requests; only in a loop under test.
    places: RefCell<Option<Box<leaks::Places>>>,
    /// Records calls for the stall detector, if it is on.
    stalls: OnceCell<Stalls>,
    /// Observes the bytes between layers and protocols, in a simulated loop.
    #[cfg(feature = "testing")]
    layer_observer: OnceCell<LayerObserver>,
}

/// Observes the bytes between layers and protocols.
#[cfg(feature = "testing")]
type LayerObserver = Box<dyn Fn(Key, LayerReport<'_>)>;

/// Pending work for the turn; a set of bits. While one is set, the loop does not sleep.
mod pending {
    /// Connections have requests or output.
    pub(super) const DIRTY: u8 = 1;
    /// Ports, connectors, drains, layers or snapshots have requests.
    pub(super) const REQUESTS: u8 = 2;
    /// Calls are queued.
    pub(super) const CALLS: u8 = 4;
    /// A round has work to do.
    pub(super) const ROUND: u8 = DIRTY | REQUESTS | CALLS;
    /// Tasks were spawned or cancelled.
    pub(super) const TASKS: u8 = 8;
    /// Listens, connects, adoptions, jobs or lookups must start.
    pub(super) const STARTS: u8 = 16;
    /// The run must end.
    pub(super) const STOP: u8 = 32;
}

impl Records {
    /// Records work for the turn. Outside a turn, also wakes the loop, which may be asleep in a
    /// foreign loop's wait.
    #[inline]
    fn add_pending(&self, what: u8) {
        let pending = self.pending.get();
        self.pending.set(pending | what);
        if pending == 0 && !self.queue.is_in_turn() {
            self.queue.wake_driver();
        }
    }

    /// True when any of these bits is set.
    #[inline]
    fn is_pending(&self, what: u8) -> bool {
        self.pending.get() & what != 0
    }

    /// Clears these bits; true when any of them was set.
    #[inline]
    fn take_pending(&self, what: u8) -> bool {
        let pending = self.pending.get();
        self.pending.set(pending & !what);
        pending & what != 0
    }

    /// The loop's clock: inside a turn, the time at which the turn began.
    #[inline]
    fn now(&self) -> Instant {
        if self.queue.is_in_turn() { self.time.get() } else { self.fresh_time() }
    }

    /// The clock's time, kept monotonic.
    fn fresh_time(&self) -> Instant {
        self.time.get().max(self.world.now())
    }

    /// Step 2 of a turn: its time.
    #[inline]
    fn begin_turn(&self) {
        self.time.set(self.fresh_time());
        self.queue.begin_turn();
    }

    /// Changes the timers. Outside a turn, wakes a sleeping loop if its next deadline becomes
    /// sooner.
    fn with_timers<R>(&self, f: impl FnOnce(&mut Timers<TimerAction>) -> R) -> R {
        let mut timers = self.timers.borrow_mut();
        if self.queue.is_in_turn() {
            return f(&mut timers);
        }
        let before = timers.next_deadline();
        let result = f(&mut timers);
        let after = timers.next_deadline();
        drop(timers);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.queue.wake_driver();
        }
        result
    }
}

/// A queued call into user code.
enum Call {
    Tell(Rc<ConnectionCell>, Box<dyn Tell>),
    /// The due calls of a connection.
    Due(Key),
    Run(Box<dyn FnOnce()>),
}

/// A request to an object that has started.
enum LoopRequest {
    Port(Rc<PortCell>),
    Connector(Rc<ConnectorCell>),
    Drain(Rc<DrainCell>),
    Datagrams(Rc<DatagramCell>),
    /// A waker of the connection's layers was woken.
    Layers(Key),
}

/// An object to be started in step 6.
enum Start {
    Port(Rc<PortCell>),
    Datagrams(Rc<DatagramCell>),
    Connector(Rc<ConnectorCell>),
    Adoption(Rc<AdoptionCell>),
    /// A connection that another loop has accepted.
    HandedConnection(Box<HandedConnection>),
}

/// The action of a timer.
enum TimerAction {
    Call(Box<dyn FnOnce()>),
    Tell(Rc<ConnectionCell>, Box<dyn Tell>),
    Deadline(Key),
    Connector(Rc<ConnectorCell>),
    Drain(Rc<DrainCell>),
}

impl Reactor {
    fn new(world: Rc<dyn World>, tasks: Tasks, options: &LoopOptions) -> Reactor {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let now = world.now();
        let timers = Timers::new(now);
        let serial = world.serial().unwrap_or_else(|| SERIAL.fetch_add(1, Ordering::Relaxed));
        Reactor {
            records: Rc::new(Records {
                serial,
                world,
                spares: Rc::default(),
                time: Cell::new(now),
                queue: tasks.queue(),
                pending: Cell::new(0),
                must_return: Cell::new(false),
                dirty: RefCell::default(),
                calls: RefCell::default(),
                requests: RefCell::default(),
                starts: RefCell::default(),
                timers: RefCell::new(timers),
                tasks: RefCell::new(tasks),
                polled: Cell::new(None),
                jobs: jobs::Jobs::default(),
                names: RefCell::default(),
                #[cfg(unix)]
                watches: RefCell::default(),
                dependents: RefCell::default(),
                snapshots: RefCell::default(),
                blocked: RefCell::new(Slots::new()),
                cluster_snapshots: RefCell::new(Slots::new()),
                shared_ports: RefCell::new(Slots::new()),
                run: stage::Run::new(options),
                places: RefCell::default(),
                stalls: OnceCell::new(),
                #[cfg(feature = "testing")]
                layer_observer: OnceCell::new(),
            }),
        }
    }

    /// A handle whose requests are never applied, for tests of the modules below the loop.
    #[cfg(test)]
    pub(crate) fn without_a_loop() -> Reactor {
        use crate::driver::Commands;
        use crate::driver::memory::{Manner, Memory};
        let (driver, _) = Memory::new(Manner::Readiness, 0);
        Reactor::new(driver.world(), Tasks::new(driver.waker()), &LoopOptions::default())
    }

    /// Listens on a TCP address and builds a protocol for each connection. Port 0 picks a free
    /// port; [`Port::host`] returns its number.
    ///
    /// The system queues connections from now on; the turn accepts them.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub fn listen_tcp<K>(
        &self,
        address: SocketAddr,
        factory: impl IntoFactory<K>,
    ) -> Result<Port, ListenError> {
        self.listen_tcp_with(address, ListenOptions::default(), factory)
    }

    /// [`listen_tcp`](Self::listen_tcp) with options.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub fn listen_tcp_with<K>(
        &self,
        address: SocketAddr,
        options: ListenOptions,
        factory: impl IntoFactory<K>,
    ) -> Result<Port, ListenError> {
        self.listen_at(address.into(), options, factory.into_factory())
    }

    /// Listens on a UNIX socket and builds a protocol for each connection. A path becomes a socket
    /// file, which is removed when the port closes; a name that begins with a NUL is abstract.
    ///
    /// With [`ListenOptions::lock_file`], which is on by default, the file of a crashed process is
    /// replaced, and the file of a live process is kept: a lock file beside it, `PATH.lock`,
    /// distinguishes the two.
    ///
    /// The system queues connections from now on; the turn accepts them. Twisted's `listenUNIX`.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub fn listen_unix<K>(
        &self,
        path: impl Into<UnixAddress>,
        factory: impl IntoFactory<K>,
    ) -> Result<Port, ListenError> {
        self.listen_unix_with(path, ListenOptions::default(), factory)
    }

    /// [`listen_unix`](Self::listen_unix) with options.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub fn listen_unix_with<K>(
        &self,
        path: impl Into<UnixAddress>,
        options: ListenOptions,
        factory: impl IntoFactory<K>,
    ) -> Result<Port, ListenError> {
        self.listen_at(path.into().into(), options, factory.into_factory())
    }

    #[track_caller]
    fn listen_at(
        &self,
        address: Address,
        options: ListenOptions,
        factory: impl Factory + 'static,
    ) -> Result<Port, ListenError> {
        let bound = self.records.world.bind(&address, &options);
        let bound = bound.map_err(|error| ListenError::new(address.clone(), error))?;
        Ok(Port::new(self, address, options, bound, self.attach_factory(factory)))
    }

    /// Prepares a factory for use: `attach` is the first call that it gets.
    #[track_caller]
    fn attach_factory(&self, factory: impl Factory + 'static) -> ErasedFactory {
        let mut erased = ErasedFactory::new(factory);
        erased.factory.attach(self);
        self.monitor_factory(erased)
    }

    /// Takes over a connected socket and builds a protocol for it, in the turn. The Deferred fires
    /// with the connection after `connection_made`; cancelling it earlier closes the socket.
    ///
    /// The factory's `do_start`, `build_protocol` and `do_stop` are called. The socket becomes
    /// non-blocking; its other options stay as they are. Twisted's `adoptStreamConnection`.
    ///
    /// # Errors
    ///
    /// The system's error, for example if the socket is not connected;
    /// [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets.
    ///
    /// ```no_run
    /// use couplet::{Protocol, Transport};
    ///
    /// # struct Echo;
    /// # impl Protocol for Echo {
    /// #     fn data_received(&mut self, transport: &Transport, data: &[u8]) { transport.write(data); }
    /// # }
    /// couplet::run(|reactor| {
    ///     // By whatever means: through a proxy, or given by the parent process.
    ///     let socket = std::net::TcpStream::connect("127.0.0.1:8000")?;
    ///     reactor.adopt(socket, || Echo)?.detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn adopt<K, F: IntoFactory<K>>(
        &self,
        socket: impl Into<ConnectedSocket>,
        factory: F,
    ) -> io::Result<Deferred<Connection<<F::Factory as Factory>::Protocol>>> {
        Ok(self.adopt_prepared(self.records.world.adopt(socket.into())?, factory.into_factory()))
    }

    /// Takes over non-socket descriptors as one connection: pipes, FIFOs, terminals, files.
    /// Protocol, flow control and close work as on any connection, except that a close does not
    /// wait for the peer: a pipe keeps the bytes written to it.
    ///
    /// The descriptors become non-blocking for every process that shares them, until the connection
    /// is closed. A file is always ready, and each read or write of it waits for its disk. The loop
    /// leaves SIGPIPE alone: Rust's runtime ignores that signal. Only on Unix. Twisted's
    /// `StandardIO`.
    ///
    /// ```
    /// use std::io::Write;
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Print;
    /// impl Protocol for Print {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         assert_eq!(data, b"Rose is a rose");
    /// #       transport.reactor().stop();
    ///     }
    /// }
    ///
    /// couplet::run(|reactor| {
    ///     let (reader, mut writer) = std::io::pipe()?;
    ///     writer.write_all(b"Rose is a rose")?;
    ///     reactor.adopt_pipe(reader, || Print)?.detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without
    /// descriptors.
    #[cfg(unix)]
    #[track_caller]
    pub fn adopt_pipe<K, F: IntoFactory<K>>(
        &self,
        pipe: impl Into<Pipe>,
        factory: F,
    ) -> io::Result<Deferred<Connection<<F::Factory as Factory>::Protocol>>> {
        Ok(self.adopt_prepared(self.records.world.adopt_pipe(pipe.into())?, factory.into_factory()))
    }

    /// Starts a program in the reactor's world.
    #[cfg(unix)]
    pub(crate) fn start_program(&self, command: &Command) -> io::Result<Spawned> {
        self.records.world.spawn(command)
    }

    /// A descriptor that this program inherited, in a world that simulates inheritance.
    #[cfg(unix)]
    pub(crate) fn inherited(&self, number: i32) -> Option<io::Result<Adopted>> {
        self.records.world.inherited(number)
    }

    /// Serves a connection that the world has already adopted.
    #[track_caller]
    pub(crate) fn adopt_prepared<F: Factory + 'static>(
        &self,
        adopted: Adopted,
        factory: F,
    ) -> Deferred<Connection<F::Protocol>> {
        AdoptionCell::start(self, AdoptionSource::from(adopted), self.attach_factory(factory))
    }

    /// [`adopt_prepared`](Self::adopt_prepared) for a connection to this program.
    #[cfg(unix)]
    #[track_caller]
    pub(crate) fn adopt_dependent<F: Factory + 'static>(
        &self,
        adopted: Adopted,
        dependent: Rc<dyn Dependent>,
        factory: F,
    ) -> Deferred<Connection<F::Protocol>> {
        let attached = Some(DependentGuard(dependent));
        AdoptionCell::start(
            self,
            AdoptionSource { adopted, attached },
            self.attach_factory(factory),
        )
    }

    /// Takes over a listening socket, for example one that an init system or a privileged parent
    /// opened. The result is a [`Port`] like any other; stopped and started again, it binds its
    /// address anew. Twisted's `adoptStreamPort`.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets.
    ///
    /// ```
    /// # struct Echo;
    /// # impl couplet::Protocol for Echo {
    /// #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
    /// # }
    /// # couplet::run(|reactor| {
    /// let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let port = reactor.adopt_port(socket, || Echo)?;
    /// println!("listening on {}", port.host());
    /// # reactor.stop();
    /// # Ok(()) })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn adopt_port<K>(
        &self,
        socket: impl Into<ListeningSocket>,
        factory: impl IntoFactory<K>,
    ) -> io::Result<Port> {
        let bound = self.records.world.adopt_port(socket.into())?;
        let (address, options) = (bound.host.clone(), ListenOptions::default());
        Ok(Port::new(self, address, options, bound, self.attach_factory(factory.into_factory())))
    }

    /// Listens on a socket already bound to `at` with `options`.
    pub(crate) fn listen_on(
        &self,
        at: SocketAddr,
        options: ListenOptions,
        socket: ListeningSocket,
        factory: ErasedFactory,
    ) -> io::Result<Port> {
        let bound = self.records.world.adopt_port(socket)?;
        Ok(Port::new(self, at.into(), options, bound, self.attach_factory(factory)))
    }

    /// Connects to `host`, an IP address or a name, and builds a protocol when the connection is
    /// made. The driver looks names up; the addresses are tried as in RFC 8305.
    ///
    /// Success, failure and loss are reported to the factory;
    /// [`connect_tcp_with`](Self::connect_tcp_with) sets options.
    #[track_caller]
    pub fn connect_tcp<K>(&self, host: &str, port: u16, factory: impl IntoFactory<K>) -> Connector {
        self.connect_tcp_with(host, port, ConnectOptions::default(), factory)
    }

    /// [`connect_tcp`](Self::connect_tcp) with options.
    #[track_caller]
    pub fn connect_tcp_with<K>(
        &self,
        host: &str,
        port: u16,
        options: ConnectOptions,
        factory: impl IntoFactory<K>,
    ) -> Connector {
        let target = Target::tcp(host, port);
        Connector::new(self, target, options, self.attach_factory(factory.into_factory()), None)
    }

    /// Connects like [`connect_tcp_with`](Self::connect_tcp_with). The Deferred fires with the
    /// connection once `connection_made` was called, or fails with
    /// [`ConnectError`](crate::ConnectError). Cancelling it stops the attempt.
    #[track_caller]
    pub fn connect_tcp_deferred<K, F: IntoFactory<K>>(
        &self,
        host: &str,
        port: u16,
        options: ConnectOptions,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        let target = Target::tcp(host, port);
        Connector::start_deferred(
            self,
            target,
            options,
            self.attach_factory(factory.into_factory()),
        )
    }

    /// Connects to an address, such as a [`Port::host`], without a lookup: a TCP address, including
    /// the scope and flow of an IPv6 one, or a UNIX socket. Builds a protocol when the connection
    /// is made.
    ///
    /// Success, failure and loss are reported to the factory.
    ///
    /// ```
    /// # struct Echo;
    /// # impl couplet::Protocol for Echo {
    /// #     fn connection_made(&mut self, transport: &couplet::Transport) {
    /// #         transport.reactor().stop();
    /// #     }
    /// #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
    /// # }
    /// # use couplet::ConnectOptions;
    /// # couplet::run(|reactor| {
    /// let port = reactor.listen_tcp("127.0.0.1:0".parse()?, || Echo)?;
    /// reactor.connect_to(port.host(), ConnectOptions::default(), || Echo);
    /// # Ok(()) })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn connect_to<K>(
        &self,
        address: impl Into<Address>,
        options: ConnectOptions,
        factory: impl IntoFactory<K>,
    ) -> Connector {
        let target = Target::at(address.into());
        Connector::new(self, target, options, self.attach_factory(factory.into_factory()), None)
    }

    /// Connects like [`connect_to`](Self::connect_to). The Deferred fires with the connection once
    /// `connection_made` was called, or fails with [`ConnectError`](crate::ConnectError). Cancelling it
    /// stops the attempt.
    #[track_caller]
    pub fn connect_to_deferred<K, F: IntoFactory<K>>(
        &self,
        address: impl Into<Address>,
        options: ConnectOptions,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        let target = Target::at(address.into());
        Connector::start_deferred(
            self,
            target,
            options,
            self.attach_factory(factory.into_factory()),
        )
    }

    /// Connects to a UNIX socket and builds a protocol when the connection is made. A name that
    /// begins with a NUL is abstract.
    ///
    /// Success, failure and loss are reported to the factory. Twisted's `connectUNIX`.
    #[track_caller]
    pub fn connect_unix<K>(
        &self,
        path: impl Into<UnixAddress>,
        factory: impl IntoFactory<K>,
    ) -> Connector {
        self.connect_unix_with(path, ConnectOptions::default(), factory)
    }

    /// [`connect_unix`](Self::connect_unix) with options.
    #[track_caller]
    pub fn connect_unix_with<K>(
        &self,
        path: impl Into<UnixAddress>,
        options: ConnectOptions,
        factory: impl IntoFactory<K>,
    ) -> Connector {
        let target = Target::Unix(path.into());
        Connector::new(self, target, options, self.attach_factory(factory.into_factory()), None)
    }

    /// Connects like [`connect_unix_with`](Self::connect_unix_with). The Deferred fires with the
    /// connection once `connection_made` was called, or fails with
    /// [`ConnectError`](crate::ConnectError). Cancelling it stops the attempt.
    #[track_caller]
    pub fn connect_unix_deferred<K, F: IntoFactory<K>>(
        &self,
        path: impl Into<UnixAddress>,
        options: ConnectOptions,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        let target = Target::Unix(path.into());
        Connector::start_deferred(
            self,
            target,
            options,
            self.attach_factory(factory.into_factory()),
        )
    }

    /// The open, active and pending objects of the loop, as of the next turn. Printable.
    pub fn snapshot(&self) -> Deferred<Snapshot> {
        let (deferred, resolver) = Deferred::new();
        self.records.snapshots.borrow_mut().push(resolver);
        self.records.add_pending(pending::REQUESTS);
        deferred
    }

    /// Registers a call for when the reactor stops; see [`Shutdown`]. Twisted's
    /// `addSystemEventTrigger`.
    #[track_caller]
    pub fn on(&self, when: Shutdown, f: impl FnOnce() -> Deferred<()> + 'static) {
        let (f, place) = (Contained::new(f), Location::caller());
        self.records.run.add_trigger(when, place, Box::new(move || f.take()()));
    }

    /// Ends the run: at the end of this turn the ports close, and connections flush written bytes
    /// (for at most [`LoopOptions::shutdown_grace`]) and are lost with
    /// [`Reason::Shutdown`](crate::Reason::Shutdown). Does nothing outside a run or when called
    /// again.
    pub fn stop(&self) {
        if self.records.run.stage() == Stage::Running {
            self.records.add_pending(pending::STOP);
        }
    }

    /// True from when ports and connections begin to close until the end of the run; still false
    /// during [`Shutdown::Before`].
    pub fn is_stopping(&self) -> bool {
        self.records.run.is_stopping()
    }

    fn is_dropped(&self) -> bool {
        self.records.run.stage() == Stage::Dropped
    }

    /// Whether `other` is a handle to the same loop.
    pub(crate) fn is(&self, other: &Reactor) -> bool {
        Rc::ptr_eq(&self.records, &other.records)
    }

    /// Makes [`Loop::turn_until`](crate::Loop::turn_until) return at the end of this turn, or
    /// outside a turn, of the next one, which does not wait. Does not end a run.
    pub fn interrupt(&self) {
        self.records.must_return.set(true);
    }

    /// Adapts the loop to a fork of the process. Call it in both processes right after the fork,
    /// with `is_child` true in the child; a callback may call it. Both processes have the
    /// connections, and both loops continue.
    ///
    /// Only programs that fork without executing another program need it, such as runtimes of other
    /// languages. The loop's threads, for jobs and name lookups, stay in the parent.
    ///
    /// # Errors
    ///
    /// In the child: the system's error, or [`Unsupported`](io::ErrorKind::Unsupported) unless the
    /// system is Linux. The child must not run the loop then.
    pub fn forked(&self, is_child: bool) -> io::Result<()> {
        self.records.world.forked(is_child)
    }

    /// The loop's clock: inside a turn, the time at which the turn began.
    pub fn now(&self) -> Instant {
        self.records.now()
    }

    pub(crate) fn world(&self) -> &Rc<dyn World> {
        &self.records.world
    }

    /// The time of day, as the time since 1970. Virtual in a simulation.
    pub fn unix_time(&self) -> Duration {
        self.records.world.unix_time()
    }

    /// The current time of the clock, even inside a turn.
    pub(crate) fn fresh_time(&self) -> Instant {
        self.records.fresh_time()
    }

    /// Locks a file: see [`World::lock_file`].
    pub(crate) fn lock_file(&self, path: &Path) -> io::Result<Option<Box<dyn Any>>> {
        self.records.world.lock_file(path)
    }

    /// A random number from the loop's world; reproducible in a simulation.
    pub fn random(&self) -> u64 {
        self.records.world.random()
    }

    // Requests from other modules.

    pub(crate) fn serial(&self) -> u32 {
        self.records.serial
    }

    pub(crate) fn spares(&self) -> &Rc<Spares> {
        &self.records.spares
    }

    #[cfg(feature = "testing")]
    pub(crate) fn set_layer_observer(&self, observe: impl Fn(Key, LayerReport<'_>) + 'static) {
        let first = self.records.layer_observer.set(Box::new(observe)).is_ok();
        debug_assert!(first, "one observer");
    }

    #[cfg(feature = "testing")]
    pub(crate) fn observes_layers(&self) -> bool {
        self.records.layer_observer.get().is_some()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn report_layers(&self, key: Key, above: LayerReport<'_>) {
        if let Some(observe) = self.records.layer_observer.get() {
            observe(key, above);
        }
    }

    pub(crate) fn mark_dirty(&self, key: Key) {
        self.records.dirty.borrow_mut().push(key);
        self.records.add_pending(pending::DIRTY);
    }

    pub(crate) fn queue_call(
        &self,
        kind: &'static str,
        type_name: &'static str,
        call: impl FnOnce() + 'static,
    ) {
        self.enqueue(Call::Run(self.records.monitor_call(|| UserCall::by(kind, type_name), call)));
    }

    fn enqueue(&self, call: Call) {
        self.records.calls.borrow_mut().push_back(call);
        self.records.add_pending(pending::CALLS);
    }

    #[track_caller]
    pub(crate) fn tell(&self, cell: &Rc<ConnectionCell>, tell: Box<dyn Tell>) {
        let tell = self.records.monitor_tell(Location::caller(), tell);
        self.enqueue(Call::Tell(cell.clone(), tell));
    }

    #[track_caller]
    pub(crate) fn tell_later(
        &self,
        cell: &Rc<ConnectionCell>,
        delay: Duration,
        tell: Box<dyn Tell>,
    ) -> DelayedCall {
        if cell.phase() == Phase::Lost {
            return DelayedCall::never();
        }
        let tell = self.records.monitor_tell(Location::caller(), tell);
        let call = DelayedCall::new(self, delay, TimerAction::Tell(cell.clone(), tell));
        if let Some(timer) = call.timer() {
            cell.add_timer(timer, &self.records.timers.borrow());
            let purpose = TimerPurpose::Connection(cell.key());
            self.records.note_timer(timer, purpose, Location::caller());
        }
        call
    }

    /// Makes the turn call the layers of a connection, in this turn or the next.
    pub(crate) fn wake_layers(&self, key: Key) {
        self.record_request(LoopRequest::Layers(key));
    }

    fn record_request(&self, request: LoopRequest) {
        if self.is_dropped() {
            return;
        }
        self.records.requests.borrow_mut().push_back(request);
        self.records.add_pending(pending::REQUESTS);
    }

    fn start(&self, start: Start) {
        self.records.starts.borrow_mut().push_back(start);
        self.records.add_pending(pending::STARTS);
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("serial", &self.records.serial).finish_non_exhaustive()
    }
}

/// The failure of an operation cut off by the end of its loop.
fn loop_ended() -> Failure {
    crate::defer::Cancelled::of("the loop has ended").into()
}
