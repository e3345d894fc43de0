//! The default driver: readiness, through mio (epoll, kqueue, IOCP).
//!
//! mio is edge-triggered, so readiness is remembered here until it is used up: a stream is readable
//! until a short read, and blocked until it is writable again (`driver::readiness`). A short read
//! means drained, unless the end of the stream or an error was announced with it: then the end
//! comes right after the bytes. Each TCP connection is registered once, for both directions: it
//! needs no `epoll_ctl` while it lives, and closing the descriptor removes it. A watched descriptor
//! is level-triggered on Linux, so it needs none either; elsewhere it is registered again after
//! each event.
//!
//! The system reports each socket error once, to the first call that encounters it. A `write` error
//! is kept, and ends the stream after all bytes that can still be read. On pipes, and on UNIX sockets
//! whose peer has stopped reading, it ends only our direction.
//!
//! Contract: 15c, 17a, 56, 64, 97, 106a, 175d.

mod accepting;
mod datagrams;
#[cfg(target_os = "linux")]
mod epoll;
#[cfg(unix)]
mod lock;
mod options;
#[cfg(unix)]
mod pipe;
mod probes;
mod readiness;
#[cfg(target_os = "linux")]
mod sendfile;
mod signals;
mod slots;
mod socket;
mod spin;
mod stream;
mod system;
#[cfg_attr(not(unix), path = "no_unix.rs")]
mod unix;
#[cfg(all(target_os = "linux", feature = "uring"))]
mod uring;

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use couplet_os::read_buffer::ReadBuffer;
use mio::{Interest, Token};
use socket2::SockRef;

use accepting::{AcceptLimit, BACK_OFF, PortSlot, Reserve};
pub(super) use datagrams::bind_udp;
use datagrams::{Datagrams, ReceivedBatch};
#[cfg(target_os = "linux")]
use epoll::{Event as Polled, EventExt as _};
#[cfg(not(target_os = "linux"))]
use mio::event::Event as Polled;
pub(super) use probes::PortProbes;
use signals::SignalSource;
use slots::{ConnectingSlot, Dial, HeldMessage, Kind, Registered};
use socket::Stream;
pub(super) use socket::{Handle, address};
use spin::Spin;
use stream::{READ, StreamSlot, is_bytes};
#[cfg(target_os = "linux")]
use system::Forks;
use system::{Listening, System, is_queue_full};
pub(super) use system::{bind, listen};
pub(super) use unix::{SocketFile, bind as bind_unix};
#[cfg(all(target_os = "linux", feature = "uring"))]
pub use uring::Uring;

use super::names::{Names, names};
use super::pool::{IDLE, Pool, PoolSpec};
use super::{
    Adopted, Bound, CloseMode, Commands, ConnectOptions, ConnectedSocket, Datagram, DatagramQueue,
    DatagramSocket, DatagramsSent, Driver, Event, Group, Job, Key, LocalSocket, Membership, Outbox,
    PeerCredentials, Ready, Released, SocketCall, SocketKind, SocketOption, Ticket, WatchId, World,
    WriteOutcome,
};

use crate::address::Address;
use crate::bounded::Bounded;
use crate::counters::PortCounters;
#[cfg(unix)]
use crate::driver::ListeningSocket;
use crate::driver::readiness::Readiness;
use crate::slots::Slots;
use crate::sorted::SortedMap;

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
/// Set in the tokens of watched foreign descriptors and in no slot number, because the low half of
/// each token is first looked up among the slots.
const WATCH: u64 = 1 << 31;

/// The token of a watch: its id's bits, around [`WATCH`].
#[cfg(unix)]
fn token_of(WatchId(id): WatchId) -> Token {
    let id = id as u64;
    let (high, low) = (id / WATCH * 2 * WATCH, id % WATCH);
    Token((high | WATCH | low) as usize)
}

/// The watch with this token, if it is the token of a watch.
fn watch_of(Token(token): Token) -> Option<WatchId> {
    let token = token as u64;
    let id = token / WATCH / 2 * WATCH + token % WATCH;
    let is_watch = token & WATCH != 0 && token < SIGNALS.0 as u64;
    is_watch.then_some(WatchId(id as usize))
}

/// Threads for blocking jobs, as many as in Twisted's pool.
const JOB_THREADS: usize = 10;
/// Maximum bytes sent to one connection by one call, so that a fast reader with a large backlog
/// does not starve the others.
const SEND_LIMIT: usize = 512 * 1024;

/// Maximum events per wait, unless set otherwise.
const EVENTS: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not zero");

/// The events of a wait, none so far; epoll fills at most the capacity.
fn empty_batch(most: NonZeroUsize) -> Bounded<Vec<Polled>> {
    let mut batch: Bounded<Vec<Polled>> = Bounded::new(most.get());
    batch.edit().reserve_exact(most.get());
    batch
}

/// The driver over mio. One per loop; dropping it closes everything that it opened.
pub struct Mio {
    poll: mio::Poll,
    #[cfg(not(target_os = "linux"))]
    events: mio::Events,
    /// The events of the last poll, copied out so that slots can change during the walk.
    batch: Bounded<Vec<Polled>>,
    cursor: usize,
    slots: Slots<Registered>,
    /// Maximum slots in use since the table was last shrunk.
    high_water: usize,
    /// Slots closed since the last wait. Events of this batch may still refer to them, so they are
    /// not reused before the next wait.
    retired: Vec<u32>,
    /// Slots that may have more events in this turn, without a new edge.
    // Each slot at most twice: once from the last turn, once from this one; empty before the next
    // wait.
    again: VecDeque<u32>,
    /// Slots to serve in the next turn, without a new edge.
    // Each slot once: `Registered::queued`.
    later: VecDeque<u32>,
    /// Counts the rounds; each lasts from one wait to the next.
    round: u64,
    /// Backed-off slots and the time to retry them: ports without descriptors or memory, connects
    /// to a full queue, datagram senders with a full receiver.
    retry: Option<(Instant, Vec<u32>)>,
    reserve: Reserve,
    /// Connections turned away since the last log line about them.
    turned_away: u64,
    full_logged_at: Option<Instant>,
    /// By slot: descriptors and bytes received on UNIX sockets and not reported yet.
    // A socket is read again only after the report.
    held: SortedMap<u32, HeldMessage>,
    buffer: ReadBuffer,
    /// The part of the buffer that the first read of an idle stream may fill.
    first_read: usize,
    /// The number of lent bytes in the buffer.
    lent: usize,
    waker: Arc<PollWaker>,
    names: Names,
    jobs: Pool<Job, ()>,
    /// The batch of datagrams being reported.
    arrived: ReceivedBatch,
    /// Empty before the next wait.
    watched: Bounded<VecDeque<(WatchId, Ready)>>,
    /// There may be an event without a slot: a resolved name, a finished job, a watched descriptor.
    has_internal_events: bool,
    signals: SignalSource,
    spin: Option<Spin>,
    world: Rc<System>,
}

impl std::fmt::Debug for Mio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mio").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

struct PollWaker(mio::Waker);

impl Wake for PollWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Err(error) = self.0.wake() {
            log_error!(%error, "cannot wake the loop");
        }
    }
}

impl Mio {
    /// A driver with a shared read buffer of `read_buffer` bytes (256 KiB is the loop's default).
    ///
    /// # Errors
    ///
    /// If the system refuses a poll descriptor.
    pub fn new(read_buffer: usize) -> io::Result<Mio> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(PollWaker(mio::Waker::new(poll.registry(), WAKER)?));
        let world = Rc::new(System::new(poll.registry().try_clone()?));
        let names = names(waker.clone().into());
        let jobs = PoolSpec {
            name: "couplet-job",
            threads: JOB_THREADS,
            idle: IDLE,
            queue: usize::MAX, // Law 9: unbounded; the user chooses how many jobs to queue
            run: |job: Job| job(),
            refuse: |error| log_error!(%error, "cannot start a thread for a job"),
        };
        let jobs = Pool::new(jobs, waker.clone().into());
        Ok(Mio {
            poll,
            #[cfg(not(target_os = "linux"))]
            events: mio::Events::with_capacity(EVENTS.get()),
            batch: empty_batch(EVENTS),
            cursor: 0,
            slots: Slots::new(),
            high_water: 0,
            retired: Vec::new(),
            again: VecDeque::new(),
            later: VecDeque::new(),
            round: 0,
            retry: None,
            reserve: Reserve::new(),
            turned_away: 0,
            full_logged_at: None,
            held: SortedMap::new(),
            buffer: ReadBuffer::new(read_buffer.max(1)),
            first_read: read_buffer.clamp(1, READ),
            lent: 0,
            waker,
            names,
            jobs,
            arrived: ReceivedBatch::default(),
            watched: Bounded::new(EVENTS.get()),
            has_internal_events: false,
            signals: SignalSource::default(),
            spin: None,
            world,
        })
    }

    /// Polls for up to this long before each sleep, as long as that pays:
    /// [`Tuning::spin`](crate::reactor::Tuning::spin).
    #[must_use]
    pub fn spin(mut self, most: Duration) -> Mio {
        self.spin = Spin::new(most);
        self
    }

    /// Sets how many events a wait reports at most: 1024 by default. The others are reported by the
    /// next one.
    #[must_use]
    pub fn events_per_wait(mut self, most: NonZeroUsize) -> Mio {
        #[cfg(not(target_os = "linux"))]
        (self.events = mio::Events::with_capacity(most.get()));
        (self.batch, self.watched) = (empty_batch(most), Bounded::new(most.get()));
        self
    }

    /// Registers a stream of a connection, and returns its initial readiness.
    fn register_connection(&self, stream: &mut Stream, is_local: bool) -> io::Result<Readiness> {
        self.register(stream, socket::interest(is_local))?;
        Ok(Readiness::new(is_local))
    }

    /// Registers a stream, whose token is known before it is inserted: it gets the next slot.
    fn register(&self, stream: &mut Stream, interest: Interest) -> io::Result<()> {
        let token = Token(self.slots.next_key().slot as usize);
        self.world.registry.register(stream, token, interest)
    }

    /// Serves a slot again after a back-off. All backed-off slots share the earliest deadline.
    fn try_again(&mut self, slot: u32, back_off: Duration) {
        let until = self.world.now() + back_off;
        let (at, slots) = self.retry.get_or_insert_with(|| (until, Vec::new()));
        *at = until.min(*at);
        if !slots.contains(&slot) {
            slots.push(slot);
        }
    }

    /// Serves the backed-off slots once their deadline has passed.
    #[cold]
    fn retry(&mut self) {
        if self.retry.as_ref().is_some_and(|(until, _)| *until <= self.world.now()) {
            self.reserve.fill();
            for slot in self.retry.take().map(|(_, slots)| slots).unwrap_or_default() {
                self.queue(slot);
            }
        }
    }

    /// Continues after a first write that was short, failed, or was not checked yet.
    #[cold]
    fn continue_write(
        &mut self,
        key: Key,
        out: &mut Outbox,
        first: (usize, io::Result<usize>),
    ) -> WriteOutcome {
        let Some(Registered { kind: Kind::Stream(stream), .. }) = self.slots.get_mut(key) else {
            return WriteOutcome::Blocked;
        };
        let failed = match stream.continue_write(out, first) {
            Ok(true) => return WriteOutcome::All,
            Ok(false) if stream.needs_writable_events() => {
                stream.readiness.set(Readiness::WRITABLE_REQUESTED, true);
                let (registry, token) = (&self.world.registry, Token(key.slot as usize));
                stream.stream.request_writable_events(registry, token).err()
            }
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if failed.is_some() {
            // Received bytes can still be read; then the stream ends with this error.
            stream.error = failed;
            stream.readiness.set(Readiness::READABLE, true);
        }
        stream.readiness.set(Readiness::BLOCKED, true);
        if stream.readiness.has(Readiness::ROOM) || stream.error.is_some() {
            self.queue(key.slot);
        }
        WriteOutcome::Blocked
    }

    /// After a fork, waits on the registry's new epoll.
    #[cfg(target_os = "linux")]
    #[cold]
    fn share_renewed_epoll(&mut self) -> io::Result<()> {
        use std::os::fd::AsFd;
        couplet_os::epoll::share(self.poll.registry().as_fd(), self.world.registry.as_fd())?;
        self.world.forks.set(Forks::Forked);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    #[inline(always)]
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        epoll::wait(&self.poll, &mut self.batch.edit(), timeout)
    }

    #[cfg(not(target_os = "linux"))]
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)?;
        self.batch.edit().extend(self.events.iter().cloned());
        Ok(())
    }

    /// After an interrupted wait.
    #[cold]
    fn poll_at_once(&mut self) -> io::Result<()> {
        loop {
            match self.poll(Some(Duration::ZERO)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                polled => return polled,
            }
        }
    }

    #[cold]
    fn poll_before_sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let Some(mut spin) = self.spin.take() else { return self.poll(timeout) };
        let world = self.world.clone();
        let waited = spin.wait(
            timeout,
            || world.now(),
            |timeout| {
                self.poll(timeout)?;
                Ok(!self.batch.is_empty())
            },
        );
        self.spin = Some(spin);
        waited
    }

    /// Prepares a wait until this time, and returns how long it may take.
    #[inline(always)]
    fn begin_wait(&mut self, until: Option<Instant>) -> io::Result<Option<Duration>> {
        if !self.retired.is_empty() {
            self.reuse_retired_slots();
        }
        #[cfg(target_os = "linux")]
        if self.world.forks.get() == Forks::Renewed {
            self.share_renewed_epoll()?;
        }
        let timeout = if self.later.is_empty() {
            let retry = self.retry.as_ref().map(|(retry, _)| *retry);
            let until = until.into_iter().chain(retry).min();
            until.map(|until| self.world.time_until(until))
        } else {
            Some(Duration::ZERO)
        };
        self.batch.edit().clear();
        self.cursor = 0;
        Ok(timeout)
    }

    /// Begins the round that follows a wait.
    #[inline(always)]
    fn begin_round(&mut self) {
        if self.retry.is_some() {
            self.retry();
        }
        if !self.later.is_empty() {
            self.take_queued_slots();
        }
        self.round += 1;
    }

    /// Whether nothing is left to report before the next wait.
    #[inline]
    fn is_done(&self) -> bool {
        self.cursor == self.batch.len()
            && self.again.is_empty()
            && !self.has_internal_events
            && !self.signals.is_readable()
    }
}

impl Driver for Mio {
    #[inline(always)]
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let timeout = self.begin_wait(until)?;
        let waited = match &self.spin {
            None => self.poll(timeout),
            Some(_) => self.poll_before_sleep(timeout),
        };
        match waited {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.poll_at_once()?,
            Err(error) => return Err(error),
        }
        self.begin_round();
        Ok(())
    }

    /// The fast path, taken by nearly every message: bytes arrived on a connection without other
    /// pending readiness. INVARIANT: inlined into the turn, together with its system call.
    #[inline(always)]
    fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.batch.get(self.cursor)
            && let Token(slot) = event.token()
            && let Some(Registered { kind: Kind::Stream(stream), .. }) = self.slots.at(slot as u32)
            && stream.is_idle()
            && is_bytes(event)
        {
            let key = self.slots.key_at(slot as u32);
            let read = stream.read_once(&mut self.buffer[..self.first_read]);
            self.cursor += 1;
            // A short read uses up the edge. One comparison: 0 wraps around.
            if let Ok(n) = read
                && n.wrapping_sub(1) < self.first_read.wrapping_sub(1)
                && !cfg!(windows)
            {
                self.lent = n;
                return Some(Event::Received(key));
            }
            return self.next_after(key.slot, read);
        }
        if self.is_done() { None } else { self.next_slow() }
    }

    #[inline(always)]
    fn has_more(&self) -> bool {
        self.cursor < self.batch.len()
    }

    fn full_batch(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.batch.len()).filter(|_| self.batch.is_full())
    }

    #[inline(always)]
    fn lent(&self, _: Key) -> &[u8] {
        &self.buffer[..self.lent]
    }

    fn datagram(&self) -> Datagram<'_> {
        self.arrived.last()
    }

    fn due(&self) -> Option<Instant> {
        // An edge-triggered poller of the descriptor may not notice that a level remains.
        let has_level = self.batch.iter().any(|event| watch_of(event.token()).is_some());
        let is_drained = self.full_batch().is_none() && !has_level;
        if self.later.is_empty() && self.is_done() && is_drained {
            self.retry.as_ref().map(|(retry, _)| *retry)
        } else {
            Some(self.world.now())
        }
    }

    #[cfg(unix)]
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(self.poll.registry()))
    }
}

impl Commands for Mio {
    fn world(&self) -> Rc<dyn World> {
        self.world.clone()
    }

    #[inline(always)]
    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let Some(stream) = self.stream(key) else {
            #[cfg(unix)]
            return self.write_to_pipe(key, out);
            #[cfg(not(unix))]
            return WriteOutcome::Blocked;
        };
        if stream.readiness.has(Readiness::BLOCKED) {
            return WriteOutcome::Blocked;
        }
        // Usually the output is one piece, and the socket accepts all of it.
        let first = if out.is_plain() {
            match stream.write_once(out.plain()) {
                Ok(n) if n == out.len() => {
                    out.clear_plain();
                    return WriteOutcome::All;
                }
                result => (out.len(), result),
            }
        } else {
            stream.write_pieces(out)
        };
        self.continue_write(key, out, first)
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        let listening = match bound.socket.downcast::<Listening>() {
            Ok(listening) => listening,
            Err(other) => {
                let port = other.downcast::<Datagrams>().map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "cannot serve a port of another driver's world",
                    )
                })?;
                return self.serve_datagrams(*port);
            }
        };
        let Listening { mut listener, file, probes } = *listening;
        let token = Token(self.slots.next_key().slot as usize);
        listener.register(&self.world.registry, token)?;
        let port = PortSlot {
            listener,
            file,
            probes,
            host: bound.host.into(),
            readiness: Readiness::NONE,
            share: AcceptLimit::new(),
            spent_in: 0,
            counters: PortCounters::default(),
            has_reserve: false,
        };
        Ok(self.insert(Kind::Port(Box::new(port))))
    }

    fn send_datagrams(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        self.send_queued(key, out)
    }

    fn set_membership(&mut self, key: Key, group: &Group, change: Membership) -> io::Result<()> {
        self.set_port_membership(key, group, change)
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        let mut stream = match system::connect(to, options) {
            Err(error) if is_queue_full(to, &error) => {
                let dial = Box::new(Dial { to: to.clone(), options: options.clone() });
                let key = self.insert(Kind::Dialling(dial));
                self.try_again(key.slot, BACK_OFF);
                return Ok(key);
            }
            stream => stream?,
        };
        self.register(&mut stream, socket::BOTH)?;
        let readiness = Readiness::new(to.unix().is_some());
        Ok(self.insert(Kind::Connecting(ConnectingSlot { stream, readiness })))
    }

    fn adopt(&mut self, adopted: Adopted) -> io::Result<Key> {
        #[cfg(unix)]
        let adopted = match adopted.socket.downcast::<pipe::PipeSlot>() {
            Ok(pipe) => return self.adopt_pipe(pipe),
            Err(socket) => Adopted { socket, ..adopted },
        };
        let stream = adopted.socket.downcast::<socket2::Socket>().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot adopt a connection of another driver's world",
            )
        })?;
        let mut stream = Stream::from(*stream);
        let is_local = adopted.host.unix().is_some();
        let readiness = self.register_connection(&mut stream, is_local)?;
        let slot = StreamSlot { is_adopted: true, ..StreamSlot::new(stream, readiness) };
        Ok(self.insert(Kind::Stream(slot)))
    }

    fn can_release(&self, key: Key) -> bool {
        let is_stream =
            matches!(self.slots.get(key), Some(Registered { kind: Kind::Stream(_), .. }));
        is_stream && !self.held.contains_key(&key.slot)
    }

    fn release(&mut self, key: Key) -> io::Result<Released> {
        let socket = self.release_stream(key)?.try_into()?;
        Ok(Released::Socket(ConnectedSocket(socket)))
    }

    #[cfg(unix)]
    fn duplicate_port(&mut self, key: Key) -> io::Result<ListeningSocket> {
        match self.kind(key) {
            Some(Kind::Port(port)) => port.duplicate(),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    #[cfg(unix)]
    fn keep_socket_file(&mut self, port: Key, is_kept: bool) {
        if let Some(Kind::Port(port)) = self.kind(port)
            && let Some(file) = &mut port.file
        {
            file.keep(is_kept);
        }
    }

    fn duplicate_datagrams(&mut self, key: Key) -> io::Result<DatagramSocket> {
        self.duplicate_datagram_socket(key)
    }

    fn read_datagrams(&mut self, key: Key, on: bool) {
        self.set_reading(key, on);
    }

    fn receive(&mut self, key: Key, on: bool) {
        let Some(kind) = self.kind(key) else { return };
        let wake = match kind {
            Kind::Stream(stream) => {
                stream.readiness.set(Readiness::PAUSED, !on);
                on && stream.readiness.has(Readiness::READABLE)
            }
            Kind::Port(port) => {
                port.readiness.set(Readiness::PAUSED, !on);
                port.can_accept()
            }
            Kind::Datagrams(_) => return self.receive_datagrams(key, on),
            #[cfg(unix)]
            Kind::Pipe(pipe) => {
                pipe.readiness.set(Readiness::PAUSED, !on);
                on && pipe.readiness.has(Readiness::READABLE)
            }
            Kind::Connecting(_) | Kind::Dialling(_) => false,
        };
        if wake {
            self.queue(key.slot);
        }
    }

    fn shut_write(&mut self, key: Key) {
        let Some(stream) = self.stream(key) else {
            #[cfg(unix)]
            self.shut_pipe(key);
            return;
        };
        // Cleared before the FIN: a process that dies in between has still sent everything.
        stream.set_normal_close();
        if let Err(error) = stream.stream.shutdown(std::net::Shutdown::Write) {
            tracing::debug!(%error, "the connection was lost before our FIN");
        }
    }

    fn close(&mut self, key: Key, mode: CloseMode) {
        if let Some(stream) = self.stream(key) {
            match mode {
                CloseMode::Normal => stream.set_normal_close(),
                CloseMode::Reset => {
                    if let Err(error) = stream.set_close_mode(CloseMode::Reset) {
                        tracing::debug!(%error, "cannot reset; closing instead");
                    }
                }
            }
        } else if let Some(Registered { kind: Kind::Connecting(connecting), .. }) =
            self.slots.get_mut(key)
        {
            connecting.set_close_mode(mode);
        } else {
            #[cfg(unix)]
            self.discard(key, mode);
        }
        self.retire(key);
    }

    fn peer_has_ended(&self, key: Key) -> bool {
        match self.slots.get(key) {
            Some(Registered { kind: Kind::Stream(stream), .. }) => {
                stream.readiness.has(Readiness::CLOSING)
            }
            #[cfg(unix)]
            Some(Registered { kind: Kind::Pipe(pipe), .. }) => {
                pipe.readiness.has(Readiness::CLOSING)
            }
            _ => false,
        }
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        match self.slots.get(key)? {
            Registered { kind: Kind::Stream(stream), .. } => {
                couplet_os::unsent::unsent(&stream.stream)
            }
            #[cfg(unix)]
            Registered { kind: Kind::Pipe(pipe), .. } => pipe.unsent(),
            _ => None,
        }
    }

    fn set_reserved(&mut self, port: Key, on: bool) {
        if let Some(Registered { kind: Kind::Port(port), .. }) = self.slots.get_mut(port) {
            port.has_reserve = on;
            if on {
                self.reserve.extend();
            }
        }
    }

    fn port_counters(&self, port: Key) -> PortCounters {
        match self.slots.get(port).map(|slot| &slot.kind) {
            Some(Kind::Port(port)) => port.counters,
            _ => PortCounters::default(),
        }
    }

    fn peer_credentials(&self, key: Key) -> Option<PeerCredentials> {
        match &self.slots.get(key)?.kind {
            Kind::Stream(stream) => unix::peer_credentials(&stream.stream),
            _ => None,
        }
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        #[cfg(unix)]
        if option == SocketOption::EndsWhenRead {
            self.end_when_read(key);
            return Ok(());
        }
        match self.kind(key) {
            Some(Kind::Stream(stream)) => match option {
                SocketOption::ResetUnlessClosed(true) => stream.set_close_mode(CloseMode::Reset),
                SocketOption::ResetUnlessClosed(false) => stream.set_close_mode(CloseMode::Normal),
                option => {
                    // Set while bytes are transferred, so without a query.
                    let kind = if stream.is_local() { SocketKind::Unix } else { SocketKind::Tcp };
                    options::set(&SockRef::from(&stream.stream), kind, option)
                }
            },
            Some(Kind::Port(port)) => {
                let Some(socket) = port.listener.socket() else { return Ok(()) };
                match (SocketKind::of(&socket)?, option) {
                    (SocketKind::Tcp, SocketOption::KeepAlive(silence)) => {
                        port.probes.set(&socket, silence)
                    }
                    (kind, option) => options::set(&socket, kind, option),
                }
            }
            Some(Kind::Datagrams(port)) => {
                let socket = port.socket();
                options::set(&socket, SocketKind::of(&socket)?, option)
            }
            _ => Ok(()),
        }
    }

    fn socket(&self, key: Key) -> Option<LocalSocket> {
        match &self.slots.get(key)?.kind {
            Kind::Stream(slot) => Some(slot.stream.query_handle()),
            _ => None,
        }
    }

    fn with_socket(&mut self, key: Key, call: SocketCall) -> Option<io::Result<()>> {
        match self.kind(key)? {
            Kind::Stream(stream) => Some(call(SockRef::from(&stream.stream))),
            Kind::Datagrams(port) => Some(call(port.socket())),
            _ => None,
        }
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        self.names.submit(ticket, name.to_owned());
    }

    fn forget(&mut self, ticket: Ticket) {
        self.names.forget(ticket);
    }

    fn run_blocking(&mut self, ticket: Ticket, job: Job) {
        self.jobs.submit(ticket, job);
    }

    fn forget_job(&mut self, ticket: Ticket) {
        self.jobs.forget(ticket);
    }

    fn waker(&self) -> Waker {
        self.waker.clone().into()
    }

    fn watch_signals(&mut self, on: bool) -> io::Result<()> {
        let registry = &self.world.registry;
        if on { self.signals.take(registry) } else { self.signals.restore(registry) }
    }
}

#[cfg(all(test, unix, target_pointer_width = "64"))]
mod tests {
    use super::*;
    use crate::driver::ListenOptions;

    #[test]
    fn tokens_distinguish_watches_from_slots() {
        for id in [0, 1, 7, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, 1 << 32, (1 << 40) + 5] {
            let token = token_of(WatchId(id));
            assert_eq!(watch_of(token), Some(WatchId(id)));
            assert!(token.0 as u32 >= 1 << 31, "{id}: the number of a slot");
        }
        assert_eq!(watch_of(Token(12_345)), None);
    }

    #[test]
    fn every_slot_that_backs_off_is_served_again_at_the_earliest_deadline() {
        let mut driver = Mio::new(1).expect("a driver");
        let mut deadline = |slot, seconds| {
            driver.try_again(slot, Duration::from_secs(seconds));
            driver.retry.as_ref().map(|(until, _)| *until).expect("a slot waits")
        };
        let first = deadline(1, 10);
        assert_eq!(deadline(2, 20), first, "a later one postpones nothing");
        assert!(deadline(3, 1) < first);
        assert_eq!(driver.retry.map(|(_, slots)| slots), Some(vec![1, 2, 3]));
    }

    /// Also for the loop around an embedded one.
    #[test]
    fn a_slot_that_backs_off_ends_each_wait_in_time_and_is_due_then() {
        let mut driver = Mio::new(1).expect("a driver");
        let hour = Duration::from_secs(3600);
        for _ in 0..2 {
            assert_eq!(driver.due(), None, "nothing is to be done");
            assert_eq!(driver.begin_wait(None).expect("no error"), None);
            driver.try_again(7, hour);
            let (until, now) = (driver.due().expect("a slot waits"), driver.world.now());
            assert!(until > now && until <= now + hour);
            // Before the loop's own time, or after it.
            for own in [None, Some(now + 2 * hour), Some(now + hour / 2)] {
                let timeout = driver.begin_wait(own).expect("no error").expect("a timeout");
                let most = if own == Some(now + hour / 2) { hour / 2 } else { hour };
                assert!(timeout <= most && timeout > most - hour / 4, "{timeout:?}");
            }
            driver.begin_round();
            assert_eq!(driver.due(), Some(until), "it waits still");
            driver.retry = Some((driver.world.now(), vec![7]));
            driver.begin_round();
            assert!(driver.retry.is_none(), "once");
        }
    }

    #[test]
    fn random_numbers_of_one_world_and_of_two_differ() {
        let drivers = [(); 2].map(|()| Mio::new(1).expect("a driver"));
        let numbers = drivers.iter().flat_map(|driver| {
            let world = driver.world();
            (0..100).map(move |_| world.random())
        });
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 200);
    }

    #[test]
    fn c64b_a_socket_answers_until_its_driver_closes_it_and_no_file_of_its_number_after_that() {
        let mut driver = Mio::new(1).expect("a driver");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
        let bound = driver.world().bind(&any, &ListenOptions::default()).expect("a free port");
        let key = driver.connect(&bound.host, &ConnectOptions::default()).expect("it begins");
        let host = loop {
            match driver.next() {
                Some(Event::Connected { host, .. }) => break host,
                Some(_) => {}
                None => driver.wait(None).expect("a wait"),
            }
        };
        let socket = driver.socket(key).expect("it is connected");
        assert_eq!((socket.address(), socket.number().is_some()), (Some(host), true));
        driver.close(key, CloseMode::Normal);
        // Another socket may have got the same number.
        let _other = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert_eq!((socket.address(), socket.number(), socket.ask(|_| ())), (None, None, None));
    }
}
