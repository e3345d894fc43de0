//! The default driver: readiness, through mio (epoll, kqueue, IOCP).
//!
//! mio is edge-triggered, so what an edge said is kept here until it is used up: that there is
//! something to read until a read came back short, that the socket is full until there is room
//! again (`stream::Signs`). A short read means drained,
//! except where the end of the stream or an error was announced with it: then the end stands right
//! behind the bytes. Each connection is registered once, for both directions, and never again:
//! no `epoll_ctl` while it lives, and closing the descriptor takes it out.
//!
//! Each socket error is told once by the system, to the call that meets it. The one that `write`
//! meets is kept, and ends the stream after what can still be read.

#![expect(clippy::disallowed_types, reason = "sockets live here")]

mod accepting;
#[cfg(target_os = "linux")]
mod epoll;
mod looking;
mod signals;
mod slots;
mod stream;
mod system;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use socket2::{SockRef, TcpKeepalive};

use accepting::{PortSlot, Share, reserve};
#[cfg(target_os = "linux")]
use epoll::{Event as Told, Says as _};
#[cfg(not(target_os = "linux"))]
use mio::event::Event as Told;
use signals::SignalSource;
use slots::{ConnectingSlot, Kind, Slot};
use stream::{Signs, StreamSlot, is_bytes};
use system::{System, connect_from};

use super::names::{Names, names};
use super::pool::{Pool, Work};
use super::{
    Answer, Bound, ConnectOptions, Driver, Event, How, Job, Key, Outbox, Ready, Receiver, Sent,
    SocketOption, Ticket, WatchId, World,
};
use crate::address::Address;

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
/// Tokens from here on are watched descriptors of somebody else's.
const WATCHES: usize = usize::MAX / 2;
/// Threads for jobs that block, as many as Twisted has.
const JOB_THREADS: usize = 10;
/// Bytes sent to one connection by one call: so that one reader of a large backlog does not hold
/// up the others.
const SEND_LIMIT: usize = 512 * 1024;
/// The most events of one wait.
const EVENTS: usize = 1024;

/// The driver over mio. One per loop; what it opens closes with it.
pub struct Mio {
    poll: mio::Poll,
    #[cfg(not(target_os = "linux"))]
    events: mio::Events,
    /// What the last poll told, in a form that can be walked while slots change.
    batch: Vec<Told>,
    cursor: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots that were in use at once since it was last looked what can be given back.
    most: usize,
    /// Counts the keys that were given: each is one of its own, whatever slot it names.
    generation: u32,
    /// Slots closed since the last wait: an event of this batch may still name them, so they are
    /// not used again before the next.
    resting: Vec<u32>,
    /// Slots that have something to give without a new edge; the first `due` of them in this turn.
    ready: VecDeque<u32>,
    due: usize,
    /// The slot that `next` is busy with.
    current: Option<u32>,
    /// What `serve` read from it, where that was not just some bytes.
    read: Option<io::Result<usize>>,
    /// Counts the waits; what happens between two of them is a round.
    round: u64,
    /// Ports that rest for want of descriptors, until then.
    retry: Option<(Instant, Vec<u32>)>,
    reserve: Option<std::fs::File>,
    /// Connections that were turned away and not told of yet.
    turned_away: u64,
    told_full_at: Option<Instant>,
    buffer: Box<[u8]>,
    waker: Arc<PollWaker>,
    names: Names,
    jobs: Pool<Job, ()>,
    watched: VecDeque<(WatchId, Ready)>,
    /// There may be something to tell that is no slot's: a name, a job, a watched descriptor.
    own: bool,
    signals: SignalSource,
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
            tracing::error!(%error, "cannot wake the loop");
        }
    }
}

impl Mio {
    /// A driver with a shared read buffer of `read_buffer` bytes (256 KiB is the loop's default).
    ///
    /// # Errors
    ///
    /// When the system gives no poll descriptor.
    pub fn new(read_buffer: usize) -> io::Result<Mio> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(PollWaker(mio::Waker::new(poll.registry(), WAKER)?));
        let world = Rc::new(System::new(poll.registry().try_clone()?));
        let names = names(waker.clone().into());
        let jobs = Work {
            name: "couplet-job",
            threads: JOB_THREADS,
            queue: usize::MAX, // Law 9: who asks for jobs knows how many
            run: |job: Job| job(),
            refuse: |error| tracing::error!(%error, "no thread can be had for a job"),
        };
        let jobs = Pool::new(jobs, waker.clone().into());
        Ok(Mio {
            poll,
            #[cfg(not(target_os = "linux"))]
            events: mio::Events::with_capacity(EVENTS),
            batch: Vec::with_capacity(EVENTS),
            cursor: 0,
            slots: Vec::new(),
            free: Vec::new(),
            most: 0,
            generation: 0,
            resting: Vec::new(),
            ready: VecDeque::new(),
            due: 0,
            current: None,
            read: None,
            round: 0,
            retry: None,
            reserve: reserve(),
            turned_away: 0,
            told_full_at: None,
            buffer: vec![0; read_buffer.max(1)].into_boxed_slice(),
            waker,
            names,
            jobs,
            watched: VecDeque::new(),
            own: false,
            signals: SignalSource::default(),
            world,
        })
    }

    #[cold]
    fn end_rest_of_ports(&mut self) {
        if self.retry.as_ref().is_some_and(|(until, _)| *until <= self.world.now()) {
            self.reserve = self.reserve.take().or_else(reserve);
            for slot in self.retry.take().map(|(_, slots)| slots).unwrap_or_default() {
                self.queue(slot);
            }
        }
    }

    /// Goes on after a first write in which not all has left, as far as is known.
    #[cold]
    fn write_on(&mut self, key: Key, out: &mut Outbox, first: (usize, io::Result<usize>)) -> Sent {
        let Some(stream) = self.stream(key) else {
            return Sent::Blocked;
        };
        match stream.write_on(out, first) {
            Ok(true) => return Sent::All,
            Ok(false) => {}
            Err(error) => {
                // What has come can still be read; then the stream ends with this error.
                stream.error = Some(error);
                stream.signs.set(Signs::READABLE, true);
            }
        }
        stream.signs.set(Signs::BLOCKED, true);
        if stream.signs.has(Signs::ROOM) || stream.error.is_some() {
            self.queue(key.slot);
        }
        Sent::Blocked
    }

    #[cfg(target_os = "linux")]
    #[inline(always)]
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        epoll::wait(&self.poll, &mut self.batch, timeout)
    }

    #[cfg(not(target_os = "linux"))]
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout)?;
        self.batch.extend(self.events.iter().cloned());
        Ok(())
    }

    /// Nothing is left to be looked at.
    #[inline]
    fn is_done(&self) -> bool {
        self.cursor == self.batch.len()
            && self.current.is_none()
            && self.due == 0
            && !self.own
            && !self.signals.readable
    }
}

impl Driver for Mio {
    fn world(&self) -> Rc<dyn World> {
        self.world.clone()
    }

    #[inline(always)]
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        if !self.resting.is_empty() {
            self.end_rest_of_slots();
        }
        let rest = self.retry.as_ref().map(|(until, _)| *until);
        let until = match rest {
            Some(rest) => Some(until.map_or(rest, |until| until.min(rest))),
            None => until,
        };
        let timeout = if self.ready.is_empty() {
            until.map(|until| self.world.time_until(until))
        } else {
            Some(Duration::ZERO)
        };
        self.batch.clear();
        self.cursor = 0;
        match self.poll(timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if self.retry.is_some() {
            self.end_rest_of_ports();
        }
        self.due = self.ready.len();
        self.round += 1;
        Ok(())
    }

    /// The way of nearly every message: bytes came on a connection where nothing else is up, and
    /// the socket takes the answer whole. INVARIANT: no system call of this loop lies in a function
    /// that is called.
    #[inline(always)]
    fn serve(&mut self, receiver: &mut dyn Receiver) -> bool {
        if self.current.is_some() {
            return true;
        }
        while let Some(event) = self.batch.get(self.cursor)
            && let Token(slot) = event.token()
            && let Some(Slot { generation, kind: Kind::Stream(stream), .. }) = self.slots.get(slot)
            && stream.is_calm()
            && is_bytes(event)
        {
            let key = Key { slot: slot as u32, generation: *generation };
            let read = stream.read_once(&mut self.buffer);
            self.cursor += 1;
            let data = match read {
                // A short read has used the edge up.
                Ok(n) if 0 < n && n < self.buffer.len() && !cfg!(windows) => &self.buffer[..n],
                read => {
                    self.current = Some(key.slot);
                    self.read = Some(read);
                    return true;
                }
            };
            let mut out = match receiver.received(key, data) {
                Answer::Nothing => continue,
                Answer::Stop => return true,
                Answer::Send(out) => out,
            };
            let all = out.len();
            match stream.write_once(out.plain()) {
                Ok(n) if n == all => out.clear_plain(),
                result => {
                    let sent = self.write_on(key, &mut out, (all, result));
                    let left = all - out.len();
                    drop(out);
                    if !receiver.blocked(key, sent, left) {
                        return true;
                    }
                }
            }
        }
        !self.is_done()
    }

    fn next(&mut self) -> Option<Event<'_>> {
        if self.is_done() { None } else { self.next_of_all() }
    }

    fn write(&mut self, key: Key, out: &mut Outbox) -> Sent {
        let Some(stream) = self.stream(key) else {
            return Sent::Blocked;
        };
        if stream.signs.has(Signs::BLOCKED) {
            return Sent::Blocked;
        }
        // Mostly there is one piece, and the socket takes it whole.
        let first = if out.is_one_chunk() {
            match stream.write_once(out.first()) {
                Ok(n) if n == out.len() => {
                    out.advance(n);
                    return Sent::All;
                }
                result => (out.len(), result),
            }
        } else {
            stream.write_pieces(out)
        };
        self.write_on(key, out, first)
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        let listener = bound.socket.downcast::<std::net::TcpListener>().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "a port of another driver's world")
        })?;
        let listener = TcpListener::from_std(*listener);
        let port = PortSlot {
            listener,
            host: bound.host,
            readable: false,
            accepting: true,
            share: Share::new(),
            rests_in: 0,
        };
        let key = self.insert(Kind::Port(Box::new(port)));
        let Kind::Port(port) = &mut self.slots[key.slot as usize].kind else { unreachable!() };
        let token = Token(key.slot as usize);
        let registered =
            self.poll.registry().register(&mut port.listener, token, Interest::READABLE);
        if let Err(error) = registered {
            self.free_slot(key.slot);
            return Err(error);
        }
        Ok(key)
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        let Address::Tcp(to) = to;
        let mut stream = match options.bind {
            None => TcpStream::connect(*to)?,
            Some(bind) => connect_from(*to, bind)?,
        };
        if options.no_delay {
            stream.set_nodelay(true)?;
        }
        let next = self.free.last().map_or(self.slots.len(), |slot| *slot as usize);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(next), both)?;
        Ok(self.insert(Kind::Connecting(ConnectingSlot { stream, closing: false })))
    }

    fn receive(&mut self, key: Key, on: bool) {
        let Some(slot) = self.slot(key) else { return };
        let wake = match &mut slot.kind {
            Kind::Stream(stream) => {
                stream.signs.set(Signs::PAUSED, !on);
                on && stream.signs.has(Signs::READABLE)
            }
            Kind::Port(port) => {
                port.accepting = on;
                port.readable && on
            }
            Kind::Connecting(_) | Kind::Free => false,
        };
        if wake {
            self.queue(key.slot);
        }
    }

    fn shut_write(&mut self, key: Key) {
        if let Some(stream) = self.stream(key)
            && let Err(error) = stream.stream.shutdown(std::net::Shutdown::Write)
        {
            tracing::debug!(%error, "the connection was gone before our end of stream");
        }
    }

    fn close(&mut self, key: Key, how: How) {
        let Some(slot) = self.slot(key) else { return };
        if how == How::Reset
            && let Kind::Stream(StreamSlot { stream, .. }) = &slot.kind
            && let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "cannot reset; closing instead");
        }
        if self.current == Some(key.slot) {
            self.current = None;
        }
        self.free_slot(key.slot);
    }

    fn peer_has_ended(&self, key: Key) -> bool {
        self.slots.get(key.slot as usize).is_some_and(|slot| match &slot.kind {
            Kind::Stream(stream) => {
                slot.generation == key.generation && stream.signs.has(Signs::CLOSING)
            }
            _ => false,
        })
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        match self.slots.get(key.slot as usize) {
            Some(Slot { generation, kind: Kind::Stream(stream), .. })
                if *generation == key.generation =>
            {
                couplet_os::unsent::unsent(&stream.stream)
            }
            _ => None,
        }
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        let Some(stream) = self.stream(key) else {
            return Ok(());
        };
        let socket = SockRef::from(&stream.stream);
        match option {
            SocketOption::NoDelay(on) => socket.set_tcp_nodelay(on),
            SocketOption::KeepAlive(None) => socket.set_keepalive(false),
            SocketOption::KeepAlive(Some(idle)) => {
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
            }
            SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(bytes),
            SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(bytes),
        }
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        self.names.ask(ticket, name.to_owned());
    }

    fn forget(&mut self, ticket: Ticket) {
        self.names.forget(ticket);
    }

    fn run_blocking(&mut self, ticket: Ticket, job: Job) {
        self.jobs.ask(ticket, job);
    }

    fn forget_job(&mut self, ticket: Ticket) {
        self.jobs.forget(ticket);
    }

    fn waker(&self) -> Waker {
        self.waker.clone().into()
    }

    fn watch_signals(&mut self, on: bool) -> io::Result<()> {
        let registry = self.poll.registry();
        if on { self.signals.take(registry) } else { self.signals.give_back(registry) }
    }
}
