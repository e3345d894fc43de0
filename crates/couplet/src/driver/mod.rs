//! The seam between the loop and the world.
//!
//! A [`Driver`] moves bytes and waits; a [`World`] is what handles may use at once: the clock,
//! randomness, opening a port. The seam is shaped by completion, because readiness can be made to
//! look like completion for free and the reverse costs a copy. Law 3: time, waiting, names and
//! randomness come from here alone.
//!
//! What every driver promises:
//!
//! - **Lent bytes.** The bytes of [`Event::Received`] belong to the driver until the next call of
//!   [`next`](Driver::next).
//! - **Keys carry a generation.** [`close`](Driver::close) is final for its key at once: no event
//!   comes for it, whatever was in flight. Slot, descriptor and buffers live until the last
//!   operation has come home.
//! - **Pausing.** After [`receive(key, false)`](Driver::receive) no `Received` and no end of stream
//!   comes for that key; an error does. What was in flight is kept by the driver and comes first
//!   on resume.
//! - **Errors.** An error of writing comes as [`Event::Ended`], after what can still be read. A
//!   stream on which an error was seen never ends with `Ended(key, None)`.
//! - **Fairness.** Between two calls of [`wait`](Driver::wait) a connection gives at most one
//!   buffer's worth of bytes, and `next` comes to an end.

pub mod memory;
mod mio;
mod names;
mod pool;

use std::cell::RefMut;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use crate::address::Address;
pub use crate::transport::outbox::{Outbox, Piece, Spares};

pub use mio::Mio;

/// Names a connection or a port to its driver: a slot and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The place in the driver's table; dense, and used again after a close.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// Names a question to the driver ([`resolve`](Driver::resolve)); chosen by who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What [`Driver::next`] tells.
#[derive(Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum Event<'a> {
    /// A port took a connection. It gives bytes from now on.
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
    /// A connect came through. The connection gives bytes from now on.
    Connected {
        /// The connection, as [`Driver::connect`] named it.
        key: Key,
        /// Our end.
        host: Address,
    },
    /// Bytes arrived. They are lent until the next call of `next`.
    Received(Key, &'a [u8]),
    /// `n` taken bytes have left; with `n` = 0: there is room again after [`Sent::Blocked`].
    Sent(Key, usize),
    /// With `None` the peer's end of stream, and the connection lives on; with an error the end of
    /// the connection (of the connect, where it was not connected), and its key is to be closed.
    Ended(Key, Option<io::Error>),
    /// The answer to [`Driver::resolve`].
    Resolved(Ticket, io::Result<Vec<IpAddr>>),
    /// A descriptor of [`World::watch`] is ready. It is told once, until [`World::rewatch`].
    Ready(WatchId, Ready),
    /// A job of [`Driver::run_blocking`] has run, or was dropped because no thread could be had.
    JobDone(Ticket),
    /// A signal that was asked for by [`Driver::watch_signals`].
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

/// What [`Driver::run_blocking`] runs. It does not panic, neither run nor dropped unrun.
pub type Job = Box<dyn FnOnce() + Send>;

/// What became of a [`Driver::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
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
pub enum How {
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
}

/// What [`Receiver::received`] makes of bytes.
#[derive(Debug)]
pub enum Answer<'a> {
    /// Nothing is to be sent.
    Nothing,
    /// This is to be sent now; all of it was written by reference. [`Receiver::blocked`] is to be called where
    /// not all of it left.
    Send(RefMut<'a, Outbox>),
    /// There is more to do first: nothing more is to be given now.
    Stop,
}

/// Who takes bytes from [`Driver::serve`].
pub trait Receiver {
    /// A turn begins: the wait is over. False: nothing is to be given yet.
    fn woken(&mut self) -> bool;

    /// All was given. Where that was all of the turn, until when to wait for the next one.
    fn again(&mut self) -> Option<Option<Instant>>;

    /// Bytes came. They are lent for the call.
    fn received(&mut self, key: Key, data: &[u8]) -> Answer<'_>;

    /// Only `n` bytes of the answer have left its outbox. True: give more.
    fn blocked(&mut self, key: Key, sent: Sent, n: usize) -> bool;
}

/// Moves bytes and waits. See the [module](self) for what every driver promises.
pub trait Driver {
    /// What handles may use at once.
    fn world(&self) -> Rc<dyn World>;

    /// The only wait: until there is an event, a wake-up, or `until` has come; for ever with
    /// `None`. A time that has passed means: look, and do not wait.
    ///
    /// # Errors
    ///
    /// When the system's wait fails, or when nothing can ever happen in a world whose time is
    /// virtual.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()>;

    /// Gives `receiver` the bytes that came next, and sends what it answers, as long as the next
    /// thing that happened is that bytes came. Whatever else there is comes by
    /// [`next`](Self::next), and so do the bytes of a driver that leaves this out. False when there
    /// is nothing: it is time for the next `wait`.
    ///
    /// It is there for drivers that make a system call for each read and write. One function that
    /// makes them all, and does not return in between, is up to a quarter faster than two that are
    /// called in turns: a return over a system call is mispredicted, and on processors whose
    /// kernels guard their returns the kernel's own code pays for it, all the way.
    fn serve(&mut self, receiver: &mut dyn Receiver) -> bool {
        let _ = receiver;
        true
    }

    /// A [`wait`](Self::wait), then a [`serve`](Self::serve) unless the receiver is against it, and
    /// so on as long as it wants that: what the last `serve` said, if there was one.
    ///
    /// It is there so that a busy loop is one function too: even one return over the wait, once a
    /// turn, costs 5 % where turns are short.
    ///
    /// # Errors
    ///
    /// Those of the wait.
    fn wait_and_serve(
        &mut self,
        mut until: Option<Instant>,
        receiver: &mut dyn Receiver,
    ) -> io::Result<Option<bool>> {
        loop {
            self.wait(until)?;
            if !receiver.woken() {
                return Ok(None);
            }
            if self.serve(receiver) {
                return Ok(Some(true));
            }
            match receiver.again() {
                Some(next) => until = next,
                None => return Ok(Some(false)),
            }
        }
    }

    /// The next thing that happened; `None` when it is time for the next `wait`.
    fn next(&mut self) -> Option<Event<'_>>;

    /// Sends what it can of `out`.
    fn write(&mut self, key: Key, out: &mut Outbox) -> Sent;

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

    /// Sends a FIN. Only called when nothing written is left with the driver.
    fn shut_write(&mut self, key: Key);

    /// Ends a connection, an attempt or a port.
    fn close(&mut self, key: Key, how: How);

    /// The peer's end of stream has come, whether or not it was told: it may stand behind bytes, or
    /// reading may be paused. False where that is not known.
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

    /// Nobody waits for this answer any more.
    fn forget(&mut self, ticket: Ticket);

    /// Runs a job that may block in a thread of a pool. [`Event::JobDone`] follows, unless
    /// [`forget_job`](Self::forget_job) is called. Jobs begin in the order of asking.
    fn run_blocking(&mut self, ticket: Ticket, job: Job);

    /// Nobody waits for this job any more. It is dropped if it has not begun.
    fn forget_job(&mut self, ticket: Ticket);

    /// Wakes [`wait`](Self::wait) from any thread; harmless after the driver has gone.
    fn waker(&self) -> Waker;

    /// Takes SIGINT, SIGTERM and SIGUSR1 as events, or puts the previous handlers back.
    ///
    /// # Errors
    ///
    /// When the system refuses, or when another loop of this process has them.
    fn watch_signals(&mut self, on: bool) -> io::Result<()>;
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
