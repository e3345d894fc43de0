//! The seam between the loop and the world.
//!
//! A [`Driver`] moves bytes and waits; a [`World`] is what handles may use at once: the clock,
//! randomness, opening a port. The seam is shaped by completion, because readiness can be made to
//! look like completion for free and the reverse costs a copy. Law 3: time, waiting, names and
//! randomness come from here alone.
//!
//! It has two halves. A driver carries out [`Commands`]: to write, to close, to connect. And it is
//! turned: [`wait`](Driver::wait), then [`next`](Driver::next) until nothing is left. The turn of
//! the loop holds the second half to itself and hands the first to whatever it calls, so turning a
//! driver from inside of its own turn does not compile. There is one turn, and no driver has a
//! walk of its own (law 4): the loop's is compiled for each driver, with the driver's primitives
//! inlined.
//!
//! What every driver promises:
//!
//! - **Lent bytes.** The bytes of [`Event::Received`] lie in [`lent`](Driver::lent) until the next
//!   call of [`next`](Driver::next) or [`wait`](Driver::wait).
//! - **Keys carry a generation.** [`close`](Commands::close) is final for its key at once: no event
//!   comes for it, whatever was in flight. Slot, descriptor and buffers live until the last
//!   operation has come home.
//! - **Pausing.** After [`receive(key, false)`](Commands::receive) no `Received` and no end of
//!   stream comes for that key; an error does. The driver keeps what was in flight and gives it
//!   first on resume.
//! - **Errors.** An error of writing comes as [`Event::Ended`], after what can still be read. A
//!   stream on which an error was seen never ends with `Ended(key, None)`.
//! - **Death.** A connection with [`SocketOption::ResetUnlessClosed`] is reset where its driver is
//!   dropped or its process ends. [`shut_write`](Commands::shut_write) and
//!   [`close`](Commands::close) take that back first.
//! - **Fairness.** Between two calls of [`wait`](Driver::wait) a connection gives at most one
//!   buffer's worth of bytes, and `next` comes to an end.

pub mod memory;
mod mio;
mod names;
mod pool;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use crate::address::Address;
pub use crate::slots::Key;
pub use crate::transport::outbox::{Outbox, Piece, Spares};

pub use mio::Mio;

/// Names a question to the driver ([`resolve`](Commands::resolve)); chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What [`Driver::next`] reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A port accepted a connection. It gives bytes from now on.
    Accepted {
        /// The port.
        port: Key,
        /// The new connection.
        key: Key,
        /// The other end.
        peer: Address,
        /// Our end.
        host: Address,
    },
    /// A connect succeeded. The connection gives bytes from now on.
    Connected {
        /// The connection, as [`Commands::connect`] named it.
        key: Key,
        /// Our end.
        host: Address,
    },
    /// Bytes arrived: [`Driver::lent`] has them until the next call of `next`.
    Received(Key),
    /// `n` taken bytes have left; with `n` = 0: there is room again after
    /// [`WriteOutcome::Blocked`].
    Sent(Key, usize),
    /// With `None` the peer's end of stream, and the connection lives on; with an error the end of
    /// the connection (of the attempt, where it was not connected), and its key must be closed.
    Ended(Key, Option<io::Error>),
    /// The answer to [`Commands::resolve`].
    Resolved(Ticket, io::Result<Vec<IpAddr>>),
    /// A descriptor of [`World::watch`] is ready. Reported once, until [`World::rewatch`].
    Ready(WatchId, Ready),
    /// A job of [`Commands::run_blocking`] has run, or was dropped because no thread could be had.
    JobDone(Ticket),
    /// A signal that was asked for by [`Commands::watch_signals`].
    Signal(Signal),
}

/// Names a watched descriptor; chosen by who asks, and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub usize);

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// That something can be read.
    Readable,
    /// That something can be written.
    Writable,
    /// Either.
    Both,
}

/// What a watched descriptor is ready for. An end of stream, a hang-up or an error is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ready {
    /// Reading does not block.
    pub readable: bool,
    /// Writing does not block.
    pub writable: bool,
}

/// The signals that a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGUSR1: print a snapshot.
    User1,
}

impl Signal {
    /// The signal's number on this system: an interrupted program's exit code is 128 more.
    pub fn number(self) -> i32 {
        match self {
            Signal::Interrupt => 2,
            Signal::Terminate => 15,
            Signal::User1 => couplet_os::signals::USER1,
        }
    }
}

/// What [`Commands::run_blocking`] runs. It does not panic, neither run nor dropped unrun.
pub type Job = Box<dyn FnOnce() + Send>;

/// What became of a [`Commands::write`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The outbox is empty, and all of it has gone to the system.
    All,
    /// Nothing more is taken now; an [`Event::Sent`] (or `Ended`) follows. What the driver could
    /// send has left the outbox.
    Blocked,
    /// The driver took this many bytes into its keeping: they have left the outbox but still count
    /// as buffered, until [`Event::Sent`] tells that they have left.
    Taken(usize),
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// As `close(2)` does: a FIN where everything was read, else a reset.
    Normal,
    /// With a reset; what was not sent is dropped.
    Reset,
}

/// A port that is bound and queues connections, but is not served yet.
pub struct Bound {
    /// The address, with the real port number where 0 was asked for.
    pub host: Address,
    /// What the driver of the same world knows it by.
    pub socket: Box<dyn std::any::Any>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("host", &self.host).finish_non_exhaustive()
    }
}

/// How a port is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Connections that the system queues before they are accepted: 50 unless set.
    pub backlog: u32,
    /// `SO_REUSEADDR`: a port in TIME_WAIT can be opened again. On unless set (not on Windows,
    /// where it means something else).
    pub reuse_addr: bool,
    /// `SO_REUSEPORT`: several loops serve one port, and the system shares out the connections.
    pub reuse_port: bool,
    /// For an IPv6 wildcard: take IPv4 connections too. On unless set.
    pub dual_stack: bool,
    /// `TCP_NODELAY` of the accepted connections. On unless set.
    pub no_delay: bool,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 50,
            reuse_addr: cfg!(unix),
            reuse_port: false,
            dual_stack: true,
            no_delay: true,
        }
    }
}

impl ListenOptions {
    /// Sets the backlog.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Sets `SO_REUSEADDR`.
    #[must_use]
    pub fn reuse_addr(mut self, on: bool) -> Self {
        self.reuse_addr = on;
        self
    }

    /// Sets `SO_REUSEPORT`.
    #[must_use]
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Sets whether an IPv6 wildcard takes IPv4 too.
    #[must_use]
    pub fn dual_stack(mut self, on: bool) -> Self {
        self.dual_stack = on;
        self
    }

    /// Sets `TCP_NODELAY` for accepted connections.
    #[must_use]
    pub fn no_delay(mut self, on: bool) -> Self {
        self.no_delay = on;
        self
    }
}

/// How a connection is begun.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Give up after this time: 30 s unless set.
    pub timeout: Duration,
    /// The local address to come from.
    pub bind: Option<SocketAddr>,
    /// `TCP_NODELAY`. On unless set.
    pub no_delay: bool,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions { timeout: Duration::from_secs(30), bind: None, no_delay: true }
    }
}

impl ConnectOptions {
    /// Sets the connect timeout.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the local address.
    #[must_use]
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// Sets `TCP_NODELAY`.
    #[must_use]
    pub fn no_delay(mut self, on: bool) -> Self {
        self.no_delay = on;
        self
    }
}

/// An option of a live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketOption {
    /// `TCP_NODELAY`.
    NoDelay(bool),
    /// `SO_KEEPALIVE`, with the idle time after which the system probes; `None` turns it off.
    KeepAlive(Option<Duration>),
    /// `SO_RCVBUF`, bytes.
    ReceiveBuffer(usize),
    /// `SO_SNDBUF`, bytes.
    SendBuffer(usize),
    /// See [`Transport::set_reset_unless_closed`](crate::Transport::set_reset_unless_closed).
    /// `SO_LINGER` with a time of 0 until [`Commands::shut_write`] or [`Commands::close`].
    ResetUnlessClosed(bool),
}

/// The half of a driver that acts on what the loop asks for, at any time in a turn. See the
/// [module](self) for what every driver promises.
pub trait Commands {
    /// What handles may use at once.
    fn world(&self) -> Rc<dyn World>;

    /// Writes as much of `out` as the system accepts.
    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome;

    /// Serves a bound port.
    ///
    /// # Errors
    ///
    /// When the system refuses to watch it.
    fn listen(&mut self, bound: Bound) -> io::Result<Key>;

    /// Begins to connect. `Connected` or `Ended` follows.
    ///
    /// # Errors
    ///
    /// When the system refuses at once.
    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key>;

    /// Lets a connection give bytes, or a port give connections, or not.
    fn receive(&mut self, key: Key, on: bool);

    /// Sends a FIN. Only called when the driver holds no more written bytes.
    fn shut_write(&mut self, key: Key);

    /// Ends a connection, an attempt or a port.
    fn close(&mut self, key: Key, mode: CloseMode);

    /// The peer's end of stream has come, reported or not: it may stand behind bytes, or reading
    /// may be paused. False where that is not known.
    fn peer_has_ended(&self, key: Key) -> bool;

    /// Bytes that were sent but have not left the system, where that is known.
    fn unsent(&self, key: Key) -> Option<usize>;

    /// Sets an option of a connection.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()>;

    /// Asks for the addresses of a name. [`Event::Resolved`] follows, unless
    /// [`forget`](Self::forget) is called.
    fn resolve(&mut self, ticket: Ticket, name: &str);

    /// Gives up a lookup.
    fn forget(&mut self, ticket: Ticket);

    /// Runs a job that may block in a thread of a pool. [`Event::JobDone`] follows, unless
    /// [`forget_job`](Self::forget_job) is called. Jobs begin in the order of asking.
    fn run_blocking(&mut self, ticket: Ticket, job: Job);

    /// Gives up a job. It is dropped if it has not begun.
    fn forget_job(&mut self, ticket: Ticket);

    /// Wakes [`wait`](Driver::wait) from any thread; harmless after the driver was dropped.
    fn waker(&self) -> Waker;

    /// Takes SIGINT, SIGTERM and SIGUSR1 as events, or puts the previous handlers back.
    ///
    /// # Errors
    ///
    /// When the system refuses, or when another loop of this process has them.
    fn watch_signals(&mut self, on: bool) -> io::Result<()>;
}

/// The half of a driver that the turn of the loop alone holds: it waits, and reports what happened.
/// See the [module](self) for what every driver promises.
pub trait Driver: Commands {
    /// The only wait: until there is an event, a wake-up, or `until` has come; for ever with
    /// `None`. A time that has passed means: look, and do not wait.
    ///
    /// # Errors
    ///
    /// When the system's wait fails, or when nothing can ever happen in a world whose time is
    /// virtual.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()>;

    /// The next event; `None` when it is time for the next `wait`.
    fn next(&mut self) -> Option<Event>;

    /// The bytes of the last event, which was [`Event::Received`].
    fn lent(&self) -> &[u8];

    /// When the next `wait` would return by itself: a time that has passed where the driver still
    /// holds something to report. For a loop that is turned by another one.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// The descriptor that is readable when `wait` would return for something outside, where there
    /// is one. For a loop that is turned by another one.
    #[cfg(unix)]
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Commands for Box<dyn Driver> {
    fn world(&self) -> Rc<dyn World> {
        (**self).world()
    }

    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        (**self).write(key, out)
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        (**self).listen(bound)
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        (**self).connect(to, options)
    }

    fn receive(&mut self, key: Key, on: bool) {
        (**self).receive(key, on);
    }

    fn shut_write(&mut self, key: Key) {
        (**self).shut_write(key);
    }

    fn close(&mut self, key: Key, mode: CloseMode) {
        (**self).close(key, mode);
    }

    fn peer_has_ended(&self, key: Key) -> bool {
        (**self).peer_has_ended(key)
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        (**self).unsent(key)
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        (**self).set_option(key, option)
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        (**self).resolve(ticket, name);
    }

    fn forget(&mut self, ticket: Ticket) {
        (**self).forget(ticket);
    }

    fn run_blocking(&mut self, ticket: Ticket, job: Job) {
        (**self).run_blocking(ticket, job);
    }

    fn forget_job(&mut self, ticket: Ticket) {
        (**self).forget_job(ticket);
    }

    fn waker(&self) -> Waker {
        (**self).waker()
    }

    fn watch_signals(&mut self, on: bool) -> io::Result<()> {
        (**self).watch_signals(on)
    }
}

impl Driver for Box<dyn Driver> {
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        (**self).wait(until)
    }

    fn next(&mut self) -> Option<Event> {
        (**self).next()
    }

    fn lent(&self) -> &[u8] {
        (**self).lent()
    }

    fn due(&self) -> Option<Instant> {
        (**self).due()
    }

    #[cfg(unix)]
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (**self).descriptor()
    }
}

/// What handles may use at once. It never calls user code.
pub trait World {
    /// The only clock. The loop asks once a turn.
    fn now(&self) -> Instant;

    /// The time of day.
    fn wall_clock(&self) -> SystemTime;

    /// A random number.
    fn random(&self) -> u64;

    /// The number of the loop in the ids of its connections, in a world where that is to be the
    /// same each time. With `None` it is the next one of the process.
    fn serial(&self) -> Option<u32> {
        None
    }

    /// Opens, binds and listens.
    ///
    /// # Errors
    ///
    /// What the system says: address in use, permission denied, …
    fn bind(&self, address: SocketAddr, options: &ListenOptions) -> io::Result<Bound>;

    /// Watches a descriptor of somebody else's: [`Event::Ready`] follows when it is ready, once.
    ///
    /// # Errors
    ///
    /// When the system can't watch it; always in a world without descriptors.
    #[cfg(unix)]
    fn watch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        let _ = (id, source, interest);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Looks at it anew: what is ready, still or again, is told.
    ///
    /// # Errors
    ///
    /// What the system says.
    #[cfg(unix)]
    fn rewatch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.watch(id, source, interest)
    }

    /// Watches it no more.
    #[cfg(unix)]
    fn unwatch(&self, source: BorrowedFd<'_>) {
        let _ = source;
    }
}
