//! The seam between the loop and the world.
//!
//! A [`Driver`] moves bytes and waits. A [`World`] provides the services that handles may use
//! immediately: the clock, randomness, binding a port. The interface is completion-based, because
//! readiness can be presented as completion for free, while the reverse costs a copy. Law 3: time,
//! waiting, names and randomness come only from here.
//!
//! The interface has two halves. A driver carries out [`Commands`]: write, close, connect. The
//! loop's turn drives it: [`wait`](Driver::wait), then [`next`](Driver::next) until it returns
//! `None`. The turn keeps the second half to itself and passes the first to the code it calls, so
//! turning a driver from within its own turn does not compile. There is one turn, and no driver has
//! its own (law 4): the turn is compiled for each driver, with the driver's primitives inlined.
//!
//! Every driver guarantees:
//!
//! - **Lent bytes.** [`lent`](Driver::lent) holds the bytes of [`Event::Received`] until the next
//!   call of [`next`](Driver::next) or [`wait`](Driver::wait).
//! - **Keys carry a generation.** [`close`](Commands::close) takes effect on its key immediately:
//!   no event follows for the key, even if operations were in flight. Slot, descriptor and buffers
//!   live until the last operation has completed.
//! - **Pausing.** After [`receive(key, false)`](Commands::receive) the driver reports neither
//!   `Received` nor the end of the stream for that key; it still reports errors, and
//!   [`Event::PeerEnded`] if it learns of the end. Operations in flight are kept and delivered
//!   first on resume.
//! - **Errors.** A write error that ends both directions is reported as [`Event::Failed`], after all
//!   bytes that can still be read. A stream on which such an error was seen is never reported as
//!   [`Event::Ended`]. A write error that ends only the sending direction, as on a pipe without
//!   readers, is reported as [`Event::WriteFailed`]; the end of the readable stream follows.
//! - **Death.** A connection with [`SocketOption::ResetUnlessClosed`] is reset when its driver is
//!   dropped or its process ends. [`shut_write`](Commands::shut_write) and
//!   [`close`](Commands::close) clear the option first.
//! - **Datagrams.** [`datagram`](Driver::datagram) holds the datagram of [`Event::Datagram`] until
//!   the next call of [`next`](Driver::next) or [`wait`](Driver::wait). An error never closes a
//!   datagram port.
//! - **Fairness.** Between two calls of [`wait`](Driver::wait) a connection delivers at most one
//!   buffer's worth of bytes, a datagram port at most 64 datagrams, and `next` eventually returns
//!   `None`.
//!
//! **Unstable:** this module follows the needs of the loop and may change in any release. The
//! options and addresses in it that the crate's front page names too are stable.
//!
//! Contract: 51a.

pub(crate) mod affinity;
mod around;
pub(crate) mod connection_log;
pub(crate) mod contents;
mod datagrams;
#[cfg(feature = "testing")]
pub(crate) mod file_locks;
mod local;
#[cfg(feature = "testing")]
pub mod memory;
mod mio;
mod names;
mod options;
#[cfg(unix)]
mod pipe;
mod pool;
#[cfg(unix)]
pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod recorded;
pub(crate) mod ring;
#[cfg(unix)]
mod serial;
mod socket;
mod socket_option;
pub(crate) mod stalls;

use std::any::Any;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
#[cfg(unix)]
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use crate::address::Address;
use crate::counters::PortCounters;
pub use crate::outbox::{FileChanged, FilePart, Outbox, Piece, SharedFile, Spares, WeakFile};
pub use crate::slots::Key;

pub use around::Around;
pub(crate) use datagrams::MOST_QUEUED;
pub use datagrams::{
    Datagram, DatagramQueue, DatagramsSent, Group, Interface, Membership, Outgoing,
};
pub use local::{LocalEnd, LocalSocket};
pub use mio::Mio;
#[cfg(all(target_os = "linux", feature = "uring"))]
pub use mio::Uring;
pub use options::{ConnectOptions, DatagramOptions, ListenOptions};
#[cfg(unix)]
pub use pipe::Pipe;
#[cfg(unix)]
pub use process::{ChildInput, ChildProcess, Command, Spawned};
#[cfg(unix)]
pub use serial::{FlowControl, Parity, SerialOptions};
pub use socket::{Adopted, ConnectedSocket, DatagramSocket, ListeningSocket, Released, SocketCall};
pub use socket_option::{SocketKind, SocketOption, SocketOptionKind};
pub use socket2::SockRef;

pub(crate) use stalls::{LoopThread, StallGuard, Stalls, UserCall};

/// Identifies a request to the driver, such as a [`resolve`](Commands::resolve). The caller chooses
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// An event that [`Driver::next`] reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A port accepted a connection, which is reading from now on.
    Accepted {
        /// The port.
        port: Key,
        /// The new connection.
        key: Key,
        /// The other end.
        peer: Address,
        /// Our end.
        host: LocalEnd,
    },
    /// A connect succeeded. The connection is reading from now on.
    Connected {
        /// The connection, as [`Commands::connect`] named it.
        key: Key,
        /// Our end.
        host: Address,
    },
    /// Bytes arrived: [`Driver::lent`] holds them until the next call of `next`.
    Received(Key),
    /// A descriptor arrived on a UNIX socket, ahead of the bytes sent with it. Paused together with
    /// the bytes.
    #[cfg(unix)]
    Descriptor(Key, OwnedFd),
    /// This many [taken](WriteOutcome::Taken) bytes were sent.
    Sent(Key, usize),
    /// The system accepts bytes again after [`WriteOutcome::Blocked`].
    Room(Key),
    /// The peer's end of stream: the connection stays open.
    Ended(Key),
    /// An error ended the connection or the connect attempt: its key must be closed.
    Failed(Key, io::Error),
    /// An error ended only the sending direction of a connection: no byte can be written any more,
    /// and reading continues to the end of the peer's stream. Also reported while reading is paused.
    WriteFailed(Key, io::Error),
    /// The peer's end of stream has arrived on a connection whose reading is paused; unread bytes
    /// may precede it. Reported once, before the `Ended` of this key.
    PeerEnded(Key),
    /// The answer to [`Commands::resolve`].
    Resolved(Ticket, io::Result<Vec<IpAddr>>),
    /// A datagram arrived: [`Driver::datagram`] holds it until the next call of `next`.
    Datagram {
        /// The port.
        key: Key,
        /// More datagrams of this port arrived in the same batch, and are reported before the next
        /// wait.
        more: bool,
    },
    /// An error on a datagram port, which stays open: `ConnectionRefused` if the port has a peer.
    DatagramError(Key, io::Error),
    /// A descriptor passed to [`World::watch`] is ready. Reported again by the next wait, if it is
    /// still ready and [`World::rearm`] or [`World::rewatch`] was called before.
    Ready(WatchId, Ready),
    /// A job of [`Commands::run_blocking`] has run, or was dropped because no thread could be
    /// started.
    JobDone(Ticket),
    /// A signal arrived that [`Commands::watch_signals`] enabled.
    Signal(Signal),
}

impl Event {
    /// The event after the last readable byte: the end of the peer's stream, unless an error was seen.
    pub(crate) fn end_of(key: Key, error: Option<io::Error>) -> Event {
        error.map_or(Event::Ended(key), |error| Event::Failed(key, error))
    }
}

/// Identifies a watched descriptor. Chosen by the caller, and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(pub usize);

/// The readiness that a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// Ready to read.
    Readable,
    /// Ready to write.
    Writable,
    /// Either.
    Both,
}

/// The readiness of a watched descriptor. An end of stream, a hang-up or an error counts as both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Reading does not block.
    Readable,
    /// Writing does not block.
    Writable,
    /// Neither blocks.
    Both,
}

impl Ready {
    /// Whether reading does not block.
    pub fn is_readable(self) -> bool {
        self != Ready::Writable
    }

    /// Whether writing does not block.
    pub fn is_writable(self) -> bool {
        self != Ready::Readable
    }
}

/// The signals that a run handles.
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
    /// The signal's number on this system. A program ended by it exits with 128 plus this number.
    pub fn number(self) -> i32 {
        match self {
            Signal::Interrupt => 2,
            Signal::Terminate => 15,
            Signal::User1 => couplet_os::signals::USER1,
        }
    }
}

/// A job for [`Commands::run_blocking`], which panics neither when run nor when dropped without
/// running.
pub type Job = Box<dyn FnOnce() + Send>;

/// The outcome of a [`Commands::write`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteOutcome {
    /// The system has accepted everything; the outbox is empty.
    All,
    /// The system accepts nothing further for now; an [`Event::Room`] (or `Failed`) follows. The
    /// bytes that the driver could send are no longer in the outbox.
    Blocked,
    /// The driver took this many bytes out of the outbox. Taken bytes count as buffered until
    /// [`Event::Sent`] reports them sent.
    Taken(usize),
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseMode {
    /// As `close(2)` does: with a FIN if everything was read, otherwise with a reset.
    Normal,
    /// With a reset; unsent bytes are discarded. UNIX sockets have no such reset: the peer sees an
    /// end of stream, or a reset if it had sent bytes that were not read.
    Reset,
}

/// A port that is bound and queues connections, but is not served yet.
#[non_exhaustive]
pub struct Bound {
    /// The address, with the real port number if 0 was requested.
    pub host: Address,
    /// Driver-specific socket handle.
    pub socket: Box<dyn Any>,
    /// The socket, for queries, if it has one; open until the port is closed.
    pub query: Option<LocalSocket>,
}

impl Bound {
    /// A bound port with a driver-specific socket handle.
    pub fn new(host: Address, socket: impl Any) -> Bound {
        Bound { host, socket: Box::new(socket), query: None }
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("host", &self.host).finish_non_exhaustive()
    }
}

/// The process at the other end of a UNIX socket, as the kernel recorded it when that process
/// connected or listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process ID.
    pub pid: u32,
    /// The user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
}

/// The half of a driver that carries out the loop's requests, at any time in a turn. See the
/// [module](self) for the guarantees of every driver.
pub trait Commands {
    /// The clock, randomness and ports that handles may use immediately.
    fn world(&self) -> Rc<dyn World>;

    /// Writes as much of `out` as the system accepts. A part of a file is sent from the file, or
    /// [loaded](Outbox::load): if that fails, the outcome is [`Blocked`](WriteOutcome::Blocked), and
    /// the loop ends the connection.
    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome;

    /// Serves a bound port, for connections or datagrams.
    ///
    /// # Errors
    ///
    /// If the system refuses to watch it.
    fn listen(&mut self, bound: Bound) -> io::Result<Key>;

    /// Sends as many datagrams as the system accepts, and removes them from the queue.
    fn send_datagrams(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        let _ = (key, out);
        DatagramsSent::Failed(datagrams::unsupported())
    }

    /// Joins or leaves a multicast group with a datagram port.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without groups.
    fn set_membership(&mut self, key: Key, group: &Group, change: Membership) -> io::Result<()> {
        let _ = (key, group, change);
        Err(datagrams::unsupported())
    }

    /// Serves an adopted connection, which starts receiving.
    ///
    /// # Errors
    ///
    /// If the system refuses to watch it; always in a world without sockets.
    fn adopt(&mut self, adopted: Adopted) -> io::Result<Key> {
        let _ = adopted;
        Err(socket::unsupported())
    }

    /// Whether [`release`](Self::release) returns a connection: the driver holds none of its bytes.
    fn can_release(&self, key: Key) -> bool {
        let _ = key;
        false
    }

    /// Returns a connection, for another loop to adopt, and frees its key. Called if
    /// nothing was read or written yet, or if it [can](Self::can_release) be released.
    ///
    /// # Errors
    ///
    /// If the connection does not exist; always in a world without sockets. An error leaves the
    /// connection open.
    fn release(&mut self, key: Key) -> io::Result<Released> {
        let _ = key;
        Err(socket::unsupported())
    }

    /// Duplicates a port's socket, for another process. The file of a UNIX socket stays when the
    /// duplicate is closed.
    ///
    /// # Errors
    ///
    /// The system's error; always in a world without sockets, and for a port that another loop
    /// feeds.
    fn duplicate_port(&mut self, port: Key) -> io::Result<ListeningSocket> {
        let _ = port;
        Err(socket::unsupported())
    }

    /// Sets whether the file of a port's UNIX socket stays when the port is closed.
    fn keep_socket_file(&mut self, port: Key, is_kept: bool) {
        let _ = (port, is_kept);
    }

    /// Duplicates the socket of a UDP port, for another process.
    ///
    /// # Errors
    ///
    /// The system's error; always in a world without sockets, and for a UNIX socket.
    fn duplicate_datagrams(&mut self, port: Key) -> io::Result<DatagramSocket> {
        let _ = port;
        Err(socket::unsupported())
    }

    /// Sets whether a datagram port reads datagrams from the system, which queues them for another
    /// process otherwise. Datagrams that were read are reported in either case. A driver that reads
    /// none before it reports them pauses the port.
    fn read_datagrams(&mut self, port: Key, on: bool) {
        self.receive(port, on);
    }

    /// Begins to connect. `Connected` or `Ended` follows.
    ///
    /// # Errors
    ///
    /// If the system refuses immediately. An unavailable local address is an [`io::Error`] that
    /// holds a [`ConnectError::LocalBind`](crate::ConnectError::LocalBind).
    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key>;

    /// Pauses or resumes reading from a connection or datagram port, or accepting on a port.
    fn receive(&mut self, key: Key, on: bool);

    /// Sends a FIN. Called only when the driver holds no unsent bytes.
    fn shut_write(&mut self, key: Key);

    /// Closes a connection, a connect attempt or a port.
    fn close(&mut self, key: Key, mode: CloseMode);

    /// Whether the peer's end of stream has arrived, reported or not: unread bytes may precede it,
    /// or reading may be paused. False if the driver does not know.
    fn peer_has_ended(&self, key: Key) -> bool;

    /// Bytes that the system has accepted but not yet sent, if known.
    fn unsent(&self, key: Key) -> Option<usize>;

    /// The counters of a port that the driver increases.
    fn port_counters(&self, port: Key) -> PortCounters {
        let _ = port;
        PortCounters::default()
    }

    /// Sets whether the port's connections may use descriptors that the driver holds back for them.
    /// A driver without a limit on descriptors has none.
    fn set_reserved(&mut self, port: Key, on: bool) {
        let _ = (port, on);
    }

    /// The process at the other end of a UNIX socket, if the system reports it. Called when the
    /// connection is made.
    fn peer_credentials(&self, key: Key) -> Option<PeerCredentials> {
        let _ = key;
        None
    }

    /// The socket of a connection, made or adopted, if it has one. Called when the connection
    /// begins.
    fn socket(&self, key: Key) -> Option<LocalSocket> {
        let _ = key;
        None
    }

    /// Sets an option of a connection or a port. An option that does not apply to it is ignored.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()>;

    /// Calls `call` with the socket of a connection, and returns its result. Without a socket,
    /// drops `call` and returns `None`.
    fn with_socket(&mut self, key: Key, call: SocketCall) -> Option<io::Result<()>> {
        let _ = (key, call);
        None
    }

    /// Looks up the addresses of a name. [`Event::Resolved`] follows, unless
    /// [`forget`](Self::forget) is called.
    fn resolve(&mut self, ticket: Ticket, name: &str);

    /// Cancels a name lookup.
    fn forget(&mut self, ticket: Ticket);

    /// Runs a blocking job on a pool thread. [`Event::JobDone`] follows, unless
    /// [`forget_job`](Self::forget_job) is called. Jobs start in the order of the calls.
    fn run_blocking(&mut self, ticket: Ticket, job: Job);

    /// Cancels a job, and drops it if it has not started.
    fn forget_job(&mut self, ticket: Ticket);

    /// A waker for [`wait`](Driver::wait), usable from any thread, and without effect once the driver
    /// is dropped.
    fn waker(&self) -> Waker;

    /// Delivers SIGINT, SIGTERM and SIGUSR1 as events, or restores the previous handlers.
    ///
    /// # Errors
    ///
    /// If the system refuses, or if another loop of this process handles them.
    fn watch_signals(&mut self, on: bool) -> io::Result<()>;
}

/// The half of a driver that only the loop's turn holds: it waits and reports events. See the
/// [module](self) for the guarantees of every driver.
pub trait Driver: Commands {
    /// The only wait: returns at an event, a wake-up, or `until`; with `None` there is no deadline.
    /// A time in the past polls without waiting. A wait that a signal interrupts polls before it
    /// returns: the process may have been stopped, and input may have arrived.
    ///
    /// # Errors
    ///
    /// If the system's wait fails, or if no event can ever occur in a world with virtual time.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()>;

    /// The next event; `None` when it is time for the next `wait`.
    fn next(&mut self) -> Option<Event>;

    /// Whether the last wait returned more events, so that the loop may hold back the answer to the
    /// current one. False if the driver does not know.
    fn has_more(&self) -> bool {
        false
    }

    /// The number of events of the last wait, if it reached its maximum, so that others may be at
    /// hand: the loop then waits again before it makes timed calls. `None` if all were reported.
    fn full_batch(&self) -> Option<NonZeroUsize> {
        None
    }

    /// The bytes of the last event, an [`Event::Received`] of this connection.
    fn lent(&self, key: Key) -> &[u8];

    /// The datagram of the last event, an [`Event::Datagram`].
    fn datagram(&self) -> Datagram<'_>;

    /// When the next `wait` would return without an outside event: a time in the past if events are
    /// pending, `None` if nothing is scheduled. For a loop embedded in another one. Drivers without
    /// a [`descriptor`](Self::descriptor) always return `None`: turn their loops until they idle.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// The descriptor, if any, that becomes readable when an outside event would end `wait`. For a
    /// loop embedded in another one.
    #[cfg(unix)]
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Around for Box<dyn Driver> {
    type Inner = dyn Driver;

    fn inner(&self) -> &(dyn Driver + 'static) {
        &**self
    }

    fn inner_mut(&mut self) -> &mut (dyn Driver + 'static) {
        &mut **self
    }
}

/// Chooses one of `n` alternatives (`n` ≥ 1) by returning its index; see [`World::order`].
pub type Order = Box<dyn FnMut(usize) -> usize>;

/// Services that handles may use immediately. None of them calls user code.
pub trait World {
    /// The only clock. The loop reads it once a turn.
    fn now(&self) -> Instant;

    /// The time of day.
    fn wall_clock(&self) -> SystemTime;

    /// The time of day, as the time since 1970.
    fn unix_time(&self) -> Duration {
        self.wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// A random number.
    fn random(&self) -> u64;

    /// The loop's number in the IDs of its connections, in a world where it must be reproducible.
    /// `None` takes the next number of the process.
    fn serial(&self) -> Option<u32> {
        None
    }

    /// Whether the clock is the system's, so that a long call really blocks a thread and
    /// [stalls](crate::LoopOptions::stall_after) can be detected.
    fn is_real_time(&self) -> bool {
        false
    }

    /// Chooses the order where any order is valid: timed calls with equal deadlines, and tasks
    /// woken in the same turn. `None` keeps the order of the requests; a simulator tries others.
    /// Called once, by a new loop.
    fn order(&self) -> Option<Order> {
        None
    }

    /// Opens, binds and listens.
    ///
    /// # Errors
    ///
    /// The system's error: address in use, permission denied, …
    fn bind(&self, address: &Address, options: &ListenOptions) -> io::Result<Bound>;

    /// Opens and binds a datagram port, and connects it to its peer, if it has one. Datagrams are
    /// queued from then on.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without datagrams.
    fn bind_datagrams(&self, address: &Address, options: &DatagramOptions) -> io::Result<Bound> {
        let _ = (address, options);
        Err(datagrams::unsupported())
    }

    /// Takes over a UDP socket. Options that apply before a socket is bound are ignored.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without sockets.
    fn adopt_datagrams(
        &self,
        socket: DatagramSocket,
        options: &DatagramOptions,
    ) -> io::Result<Bound> {
        let _ = (socket, options);
        Err(socket::unsupported())
    }

    /// Takes over a connected socket.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without sockets.
    fn adopt(&self, socket: ConnectedSocket) -> io::Result<Adopted> {
        let _ = socket;
        Err(socket::unsupported())
    }

    /// Takes over descriptors that are not sockets.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without descriptors.
    #[cfg(unix)]
    fn adopt_pipe(&self, pipe: Pipe) -> io::Result<Adopted> {
        let _ = pipe;
        Err(socket::unsupported())
    }

    /// Starts a program as a child.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without processes.
    #[cfg(unix)]
    fn spawn(&self, command: &Command) -> io::Result<Spawned> {
        let _ = command;
        Err(socket::unsupported())
    }

    /// The inherited descriptor with this number, in a world that replaces the system's
    /// descriptors. 0 and 1 are one connection: the program's standard input and output.
    #[cfg(unix)]
    fn inherited(&self, number: i32) -> Option<io::Result<Adopted>> {
        let _ = number;
        None
    }

    /// Takes over a listening socket.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without sockets.
    fn adopt_port(&self, socket: ListeningSocket) -> io::Result<Bound> {
        let _ = socket;
        Err(socket::unsupported())
    }

    /// A port without a socket: another loop accepts, and hands over connections that this loop
    /// [adopts](Self::adopt).
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a world without sockets.
    fn fed_port(&self, host: &Address) -> io::Result<Bound> {
        let _ = host;
        Err(socket::unsupported())
    }

    /// Locks a file, creating it if necessary. `None` if it is already locked, by this or another
    /// process. Dropping the value unlocks the file; so does the end of the process.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without files.
    fn lock_file(&self, path: &Path) -> io::Result<Option<Box<dyn Any>>> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Watches a foreign descriptor: [`Event::Ready`] follows when it is ready.
    ///
    /// # Errors
    ///
    /// If the system can't watch it; always in a world without descriptors.
    #[cfg(unix)]
    fn watch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        let _ = (id, source, interest);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Changes the interest in a descriptor: readiness, remaining or new, is reported.
    ///
    /// # Errors
    ///
    /// The system's error.
    #[cfg(unix)]
    fn rewatch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.watch(id, source, interest)
    }

    /// Watches a descriptor further, after its event, with the same interest.
    ///
    /// # Errors
    ///
    /// The system's error.
    #[cfg(unix)]
    fn rearm(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.rewatch(id, source, interest)
    }

    /// Called after the process has forked. In the child the world gets new descriptors, with the
    /// same registrations as the descriptors it shares with the parent.
    ///
    /// # Errors
    ///
    /// The system's error; in the child, [`Unsupported`](io::ErrorKind::Unsupported) if the world
    /// can't be forked.
    fn forked(&self, is_child: bool) -> io::Result<()> {
        if is_child { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    /// Stops watching a descriptor.
    #[cfg(unix)]
    fn unwatch(&self, source: BorrowedFd<'_>) {
        let _ = source;
    }
}
