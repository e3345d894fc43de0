//! The default driver: readiness, through mio (epoll, kqueue, IOCP).
//!
//! mio is edge-triggered, so what an edge said is kept here until it is used up: `readable` stays
//! until a read came back short, `blocked` until there is room again. A short read means drained,
//! except where the end of the stream or an error was announced with it: then the end stands right
//! behind the bytes. Each connection is registered once, for both directions, and never again:
//! no `epoll_ctl` while it lives, and closing the descriptor takes it out.
//!
//! Each socket error is told once by the system, to the call that meets it. The one that `write`
//! meets is kept, and ends the stream after what can still be read.

#![expect(clippy::disallowed_types, reason = "sockets live here")]

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::accepting::{Answer, Share, answer};
use super::names::Names;
use super::{
    Bound, ConnectOptions, Driver, Event, How, Key, ListenOptions, Outbox, Sent, Signal,
    SocketOption, Ticket, World,
};
use crate::address::Address;

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
/// Connections turned away at once.
const TURNED_AWAY: u32 = 100;
/// How long a port rests when the system has no descriptors or memory for another connection.
const REST: Duration = Duration::from_millis(100);
/// A system that stays at its limit is told of no more often than this.
const TOLD_FULL: Duration = Duration::from_secs(10);
/// Bytes sent to one connection by one call: so that one reader of a large backlog does not hold
/// up the others.
const SEND_LIMIT: usize = 512 * 1024;

/// The driver over mio. One per loop; what it opens closes with it.
pub struct Mio {
    poll: mio::Poll,
    events: mio::Events,
    /// What the last poll told, in a form that can be walked while slots change.
    batch: Vec<mio::event::Event>,
    cursor: usize,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots closed since the last wait: an event of this batch may still name them, so they are
    /// not used again before the next.
    resting: Vec<u32>,
    /// Slots that have something to give without a new edge; the first `due` of them in this turn.
    ready: VecDeque<u32>,
    due: usize,
    /// The slot that `next` is busy with.
    current: Option<u32>,
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
    names_answered: bool,
    signals: SignalSource,
    world: Rc<System>,
}

impl std::fmt::Debug for Mio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mio").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

/// What an event told of a stream, or what is noted of it until it is used up; a set of bits. So
/// one compare tells that nothing is up.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Signs(u8);

impl Signs {
    const NONE: Signs = Signs(0);
    /// Bytes, an end or an error can be read.
    const READABLE: u8 = 1;
    /// In an event: writable. Noted: writable again after it was full.
    const ROOM: u8 = 2;
    /// The peer's end of stream, a hang-up or an error was announced: a short read is not the last.
    const CLOSING: u8 = 4;
    const ERROR: u8 = 8;
    /// The end of the stream was told.
    const ENDED: u8 = 16;
    /// The socket was full.
    const BLOCKED: u8 = 32;
    /// The loop wants no bytes.
    const PAUSED: u8 = 64;

    fn of(event: &mio::event::Event) -> Signs {
        let bits = |is: bool, bits| if is { bits } else { 0 };
        Signs(
            bits(event.is_readable(), Signs::READABLE)
                | bits(event.is_writable(), Signs::ROOM)
                | bits(event.is_read_closed(), Signs::READABLE | Signs::CLOSING)
                | bits(event.is_error(), Signs::READABLE | Signs::CLOSING | Signs::ERROR),
        )
    }

    #[inline]
    fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    #[inline]
    fn set(&mut self, bits: u8, on: bool) {
        self.0 = if on { self.0 | bits } else { self.0 & !bits };
    }

    /// Takes one sign away, and tells whether it was there.
    fn take(&mut self, bit: u8) -> bool {
        let had = self.has(bit);
        self.set(bit, false);
        had
    }
}

/// Bytes came, and nothing worse.
#[inline(always)]
fn is_bytes(event: &mio::event::Event) -> bool {
    event.is_readable() && !event.is_error() && !event.is_read_closed()
}

struct Slot {
    generation: u32,
    queued: bool,
    kind: Kind,
}

enum Kind {
    Free,
    Port(PortSlot),
    Connecting(ConnectingSlot),
    Stream(StreamSlot),
}

struct ConnectingSlot {
    stream: TcpStream,
    /// The end of the stream, or an error, was announced together with the connection.
    closing: bool,
}

struct PortSlot {
    listener: TcpListener,
    host: Address,
    readable: bool,
    accepting: bool,
    share: Share,
    /// It has had its share of that round.
    rests_in: u64,
}

struct StreamSlot {
    stream: TcpStream,
    signs: Signs,
    /// What `write` met, until it is told. INVARIANT: while there is one, `BLOCKED` is noted.
    error: Option<io::Error>,
}

impl StreamSlot {
    fn new(stream: TcpStream) -> StreamSlot {
        StreamSlot { stream, signs: Signs::NONE, error: None }
    }
}

/// What a look at one slot found. Made before bytes are lent, so that lending ends the look.
enum Found {
    Nothing,
    Bytes(usize),
    End(Option<io::Error>),
    Room,
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

/// The system's clock, randomness and sockets.
#[derive(Debug)]
struct System {
    hasher: std::hash::RandomState,
    count: std::cell::Cell<u64>,
    /// The time as it was asked for last: the time of the turn.
    last: std::cell::Cell<Instant>,
}

impl System {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn new() -> System {
        System {
            hasher: std::hash::RandomState::new(),
            count: std::cell::Cell::new(0),
            last: std::cell::Cell::new(Instant::now()),
        }
    }

    /// The time until `until`. For one that is far away the time of the turn is near enough, and
    /// spares a look at the clock in each turn of a busy loop.
    fn time_until(&self, until: Instant) -> Duration {
        match until.checked_duration_since(self.last.get()) {
            None => Duration::ZERO,
            Some(about) if about.as_secs() > 0 => about,
            Some(_) => until.saturating_duration_since(self.now()),
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
        let names = Names::new(waker.clone().into());
        Ok(Mio {
            poll,
            events: mio::Events::with_capacity(1024),
            batch: Vec::with_capacity(64),
            cursor: 0,
            slots: Vec::new(),
            free: Vec::new(),
            resting: Vec::new(),
            ready: VecDeque::new(),
            due: 0,
            current: None,
            round: 0,
            retry: None,
            reserve: reserve(),
            turned_away: 0,
            told_full_at: None,
            buffer: vec![0; read_buffer.max(1)].into_boxed_slice(),
            waker,
            names,
            names_answered: false,
            signals: SignalSource::default(),
            world: Rc::new(System::new()),
        })
    }

    fn insert(&mut self, kind: Kind) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, queued: false, kind: Kind::Free });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.kind = kind;
        Key { slot, generation: entry.generation }
    }

    #[inline]
    fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        match self.slots.get_mut(key.slot as usize) {
            Some(slot) if slot.generation == key.generation => Some(slot),
            _ => None,
        }
    }

    #[inline]
    fn stream(&mut self, key: Key) -> Option<&mut StreamSlot> {
        match &mut self.slot(key)?.kind {
            Kind::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    fn free_slot(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.kind = Kind::Free;
        entry.generation = entry.generation.wrapping_add(1);
        self.resting.push(slot);
    }

    /// Has the slot looked at again in the next turn.
    fn queue(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        if !entry.queued {
            entry.queued = true;
            self.ready.push_back(slot);
        }
    }

    /// The next slot that may have something to tell, with what its event told noted.
    fn next_slot(&mut self) -> Option<u32> {
        while let Some(event) = self.batch.get(self.cursor) {
            self.cursor += 1;
            match event.token() {
                WAKER => self.names_answered = true,
                SIGNALS => self.signals.readable = true,
                Token(slot) => {
                    let signs = Signs::of(event);
                    self.note(slot, signs);
                    return Some(slot as u32);
                }
            }
        }
        if self.due == 0 {
            return None;
        }
        self.due -= 1;
        let slot = self.ready.pop_front()?;
        self.slots[slot as usize].queued = false;
        Some(slot)
    }

    fn note(&mut self, slot: usize, mut signs: Signs) {
        match &mut self.slots[slot].kind {
            Kind::Port(port) => port.readable = true,
            Kind::Stream(stream) => {
                if !stream.signs.has(Signs::BLOCKED) || stream.error.is_some() {
                    signs.set(Signs::ROOM, false);
                }
                stream.signs.set(signs.0, true);
            }
            Kind::Connecting(connecting) => {
                connecting.closing |= signs.has(Signs::CLOSING);
            }
            Kind::Free => {}
        }
    }

    /// A connection that waits at a port, within its share of this round.
    fn look_at_port(&mut self, slot: u32) -> Option<(TcpStream, SocketAddr, Address)> {
        let round = self.round;
        let Kind::Port(port) = &mut self.slots[slot as usize].kind else {
            return None;
        };
        while port.accepting && port.readable && port.rests_in != round {
            let accepted = port.listener.accept();
            let answer = accepted.as_ref().err().map(answer);
            let ends = match answer {
                None | Some(Answer::Next) => !port.share.take(),
                Some(Answer::Again) => false,
                Some(_) => true,
            };
            if ends {
                port.share.end_round();
                port.rests_in = round;
            }
            match (accepted, answer) {
                (Ok((stream, peer)), _) => return Some((stream, peer, port.host.clone())),
                (Err(_), Some(Answer::Done)) => port.readable = false,
                (Err(error), Some(Answer::TurnAway | Answer::Rest)) => {
                    let host = port.host.clone();
                    self.rest(slot, &host, &error);
                    return None;
                }
                (Err(error), _) => {
                    tracing::debug!(host = %port.host, %error, "a connection was not taken");
                }
            }
        }
        if port.accepting && port.readable {
            self.queue(slot);
        }
        None
    }

    /// No descriptors or no memory: turn away who waits, with the descriptor held in reserve, or
    /// where there is none try again later.
    fn rest(&mut self, slot: u32, host: &Address, error: &io::Error) {
        if answer(error) == Answer::TurnAway
            && self.reserve.take().is_some()
            && self.turn_away(slot)
        {
            self.reserve = reserve();
            if self.turned_away == 0 {
                // Linux tells of the limit also where nobody waits.
                return;
            }
        } else {
            let until = self.world.now() + REST;
            self.retry.get_or_insert_with(|| (until, Vec::new())).1.push(slot);
        }
        // Another thread may have taken the descriptor meanwhile; then the next rest has it back.
        self.reserve = self.reserve.take().or_else(reserve);
        let now = self.world.now();
        if self.told_full_at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_FULL) {
            self.told_full_at = Some(now);
            let turned_away = std::mem::take(&mut self.turned_away);
            tracing::error!(%host, %error, turned_away, "cannot accept connections");
        }
    }

    /// Accepts and closes; true when nobody waits any more.
    fn turn_away(&mut self, slot: u32) -> bool {
        let Kind::Port(port) = &mut self.slots[slot as usize].kind else {
            return false;
        };
        for _ in 0..TURNED_AWAY {
            match port.listener.accept().map_err(|error| answer(&error)) {
                Ok(_) => self.turned_away += 1,
                Err(Answer::Again | Answer::Next | Answer::EndRound) => {}
                Err(answer) => {
                    port.readable = answer != Answer::Done;
                    break;
                }
            }
        }
        !port.readable
    }

    fn look_at_connecting(&mut self, slot: u32) -> Option<io::Result<Address>> {
        let Kind::Connecting(ConnectingSlot { stream, .. }) = &self.slots[slot as usize].kind
        else {
            return None;
        };
        let outcome = match stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) => match (stream.peer_addr(), stream.local_addr()) {
                // A connect to a free port of our own range can meet itself.
                (Ok(peer), Ok(host)) if peer == host => {
                    Err(io::Error::from(io::ErrorKind::ConnectionRefused))
                }
                (Ok(_), Ok(host)) => Ok(Address::from(host)),
                (Err(error), _) if error.kind() == io::ErrorKind::NotConnected => return None,
                (Err(error), _) | (_, Err(error)) => Err(error),
            },
        };
        if outcome.is_ok() {
            let entry = &mut self.slots[slot as usize];
            if let Kind::Connecting(connecting) = std::mem::replace(&mut entry.kind, Kind::Free) {
                let mut stream = StreamSlot::new(connecting.stream);
                // The edge that told of the connect may have told of bytes and of their end.
                stream.signs.set(Signs::READABLE, true);
                stream.signs.set(Signs::CLOSING, connecting.closing);
                entry.kind = Kind::Stream(stream);
            }
            self.queue(slot);
        }
        Some(outcome)
    }

    fn look_at_stream(&mut self, slot: u32) -> Found {
        let Kind::Stream(stream) = &mut self.slots[slot as usize].kind else {
            return Found::Nothing;
        };
        if stream.signs.has(Signs::ROOM) {
            stream.signs.set(Signs::ROOM | Signs::BLOCKED, false);
            return Found::Room;
        }
        if stream.signs.has(Signs::ENDED | Signs::PAUSED) {
            return stream.pending_error().map_or(Found::Nothing, |e| Found::End(Some(e)));
        }
        if !stream.signs.has(Signs::READABLE) {
            return Found::Nothing;
        }
        let found = stream.read(&mut self.buffer, None);
        if matches!(found, Found::Bytes(n) if n == self.buffer.len()) {
            self.current = None;
            self.queue(slot);
        } else if !self.slots[slot as usize].is_readable_stream() {
            self.current = None;
        }
        found
    }

    /// What a first read found, on a stream where nothing else is up; else the next event.
    #[cold]
    fn read_on(&mut self, key: Key, result: io::Result<usize>) -> Option<Event<'_>> {
        let Kind::Stream(stream) = &mut self.slots[key.slot as usize].kind else {
            return None;
        };
        let found = stream.read(&mut self.buffer, Some(result));
        if stream.signs.has(Signs::READABLE) {
            self.queue(key.slot);
        }
        match found {
            Found::Bytes(n) => Some(Event::Received(key, &self.buffer[..n])),
            Found::End(error) => Some(Event::Ended(key, error)),
            Found::Room | Found::Nothing => self.next_of_all(),
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

    /// Nothing is left to be looked at.
    #[inline]
    fn is_done(&self) -> bool {
        self.cursor == self.batch.len()
            && self.current.is_none()
            && self.due == 0
            && !self.names_answered
            && !self.signals.readable
    }

    /// The next event, whatever it is.
    #[inline(never)]
    fn next_of_all(&mut self) -> Option<Event<'_>> {
        loop {
            let Some(slot) = self.current.take().or_else(|| self.next_slot()) else {
                return self.own_event();
            };
            self.current = Some(slot);
            let key = Key { slot, generation: self.slots[slot as usize].generation };
            match &self.slots[slot as usize].kind {
                Kind::Stream(_) => match self.look_at_stream(slot) {
                    Found::Nothing => self.current = None,
                    Found::Bytes(n) => return Some(Event::Received(key, &self.buffer[..n])),
                    Found::End(error) => return Some(Event::Ended(key, error)),
                    Found::Room => return Some(Event::Sent(key, 0)),
                },
                Kind::Port(_) => match self.look_at_port(slot) {
                    None => self.current = None,
                    Some((mut stream, peer, host)) => {
                        let host = if host.is_wildcard() {
                            stream.local_addr().map_or(host, Address::from)
                        } else {
                            host
                        };
                        // Its slot is the next one, so the token is known before it has one.
                        let next = self.free.last().map_or(self.slots.len(), |s| *s as usize);
                        let both = Interest::READABLE | Interest::WRITABLE;
                        let registry = self.poll.registry();
                        if let Err(error) = registry.register(&mut stream, Token(next), both) {
                            tracing::error!(%error, "cannot watch a new connection");
                            continue;
                        }
                        let accepted = self.insert(Kind::Stream(StreamSlot::new(stream)));
                        let peer = Address::from(peer);
                        return Some(Event::Accepted { port: key, key: accepted, peer, host });
                    }
                },
                Kind::Connecting(_) => {
                    self.current = None;
                    match self.look_at_connecting(slot) {
                        Some(Ok(host)) => return Some(Event::Connected { key, host }),
                        Some(Err(error)) => return Some(Event::Ended(key, Some(error))),
                        None => {}
                    }
                }
                Kind::Free => self.current = None,
            }
        }
    }

    fn own_event(&mut self) -> Option<Event<'static>> {
        if let Some(signal) = self.signals.next() {
            return Some(Event::Signal(signal));
        }
        if self.names_answered {
            match self.names.next() {
                Some((ticket, answer)) => return Some(Event::Resolved(ticket, answer)),
                None => self.names_answered = false,
            }
        }
        None
    }
}

impl Slot {
    fn is_readable_stream(&self) -> bool {
        matches!(&self.kind, Kind::Stream(stream) if stream.signs.has(Signs::READABLE))
    }
}

impl StreamSlot {
    /// Reads, unless that was done `already`, and notes what it means.
    fn read(&mut self, buffer: &mut [u8], mut already: Option<io::Result<usize>>) -> Found {
        loop {
            match already.take().unwrap_or_else(|| (&self.stream).read(buffer)) {
                Ok(0) => {
                    self.signs.set(Signs::READABLE, false);
                    self.signs.set(Signs::ENDED, true);
                    return Found::End(self.pending_error());
                }
                Ok(n) => {
                    // On Windows only WouldBlock uses the edge up.
                    let more = cfg!(windows) || n == buffer.len();
                    self.signs.set(Signs::READABLE, more || self.signs.has(Signs::CLOSING));
                    return Found::Bytes(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.signs.set(Signs::READABLE, false);
                    return match self.error.take() {
                        Some(error) => Found::End(Some(error)),
                        None => Found::Nothing,
                    };
                }
                Err(error) => {
                    self.signs.set(Signs::READABLE | Signs::ERROR, false);
                    self.signs.set(Signs::ENDED, true);
                    return Found::End(Some(self.error.take().unwrap_or(error)));
                }
            }
        }
    }

    /// Open and read from, with nothing noted for later.
    #[inline]
    fn is_calm(&self) -> bool {
        self.signs == Signs::NONE
    }

    /// A reset is noticed while reading is paused, and also after the peer's end of stream.
    fn pending_error(&mut self) -> Option<io::Error> {
        if let Some(error) = self.error.take() {
            return Some(error);
        }
        if self.signs.take(Signs::ERROR) {
            return match self.stream.take_error() {
                Ok(Some(error)) | Err(error) => Some(error),
                Ok(None) => None,
            };
        }
        None
    }

    /// One write of the first pieces: the bytes that it was given, and what it said.
    fn write_pieces(&self, out: &Outbox) -> (usize, io::Result<usize>) {
        let mut slices = [IoSlice::new(&[]); 32];
        let count = out.chunks(&mut slices);
        let slices = &slices[..count];
        (slices.iter().map(|slice| slice.len()).sum(), (&self.stream).write_vectored(slices))
    }

    /// Goes on after a first write. True when the outbox is empty.
    fn write_on(
        &mut self,
        out: &mut Outbox,
        mut result: (usize, io::Result<usize>),
    ) -> io::Result<bool> {
        let mut budget = SEND_LIMIT;
        loop {
            match result {
                (asked, Ok(n)) => {
                    out.advance(n);
                    budget = budget.saturating_sub(n);
                    if out.is_empty() {
                        return Ok(true);
                    }
                    // Less than asked: the socket is full, and says so when there is room.
                    if n < asked && !cfg!(windows) {
                        return Ok(false);
                    }
                    if budget == 0 {
                        self.signs.set(Signs::ROOM, true);
                        return Ok(false);
                    }
                }
                (_, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                (_, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                (_, Err(error)) => return Err(error),
            }
            result = self.write_pieces(out);
        }
    }
}

impl Driver for Mio {
    fn world(&self) -> Rc<dyn World> {
        self.world.clone()
    }

    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        if !self.resting.is_empty() {
            self.free.append(&mut self.resting);
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
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => return Err(error),
        }
        self.batch.extend(self.events.iter().cloned());
        if self.retry.as_ref().is_some_and(|(until, _)| *until <= self.world.now()) {
            self.reserve = self.reserve.take().or_else(reserve);
            for slot in self.retry.take().map(|(_, slots)| slots).unwrap_or_default() {
                self.queue(slot);
            }
        }
        self.due = self.ready.len();
        self.round += 1;
        Ok(())
    }

    fn next(&mut self) -> Option<Event<'_>> {
        // The way of nearly every event: bytes that came, on a connection where nothing else is up.
        if self.current.is_none()
            && let Some(event) = self.batch.get(self.cursor)
            && let Token(slot) = event.token()
            && let Some(Slot { generation, kind: Kind::Stream(stream), .. }) = self.slots.get(slot)
            && stream.is_calm()
            && is_bytes(event)
        {
            self.cursor += 1;
            let key = Key { slot: slot as u32, generation: *generation };
            return match (&stream.stream).read(&mut self.buffer) {
                // A short read has used the edge up.
                Ok(n) if 0 < n && n < self.buffer.len() && !cfg!(windows) => {
                    Some(Event::Received(key, &self.buffer[..n]))
                }
                result => self.read_on(key, result),
            };
        }
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
            match (&stream.stream).write(out.first()) {
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
        let key = self.insert(Kind::Port(port));
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
        self.names.resolve(ticket, name);
    }

    fn forget(&mut self, ticket: Ticket) {
        self.names.forget(ticket);
    }

    fn waker(&self) -> Waker {
        self.waker.clone().into()
    }

    fn watch_signals(&mut self, on: bool) -> io::Result<()> {
        if on { self.signals.take(self.poll.registry()) } else { self.signals.give_back() }
    }
}

impl World for System {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Instant {
        let now = Instant::now();
        self.last.set(now);
        now
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(self.count.replace(self.count.get().wrapping_add(1)));
        hasher.finish()
    }

    fn bind(&self, address: SocketAddr, options: &ListenOptions) -> io::Result<Bound> {
        let socket = match bind(address, options) {
            // A kernel without IPv6: what was to be dual-stack is IPv4 alone.
            Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
                bind(SocketAddr::from(([0, 0, 0, 0], address.port())), options)?
            }
            other => other?,
        };
        let listener = std::net::TcpListener::from(socket);
        let host = listener.local_addr()?.into();
        Ok(Bound { host, socket: Box::new(listener) })
    }
}

fn bind(address: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!(options.dual_stack && address.ip().is_unspecified()))?;
    }
    socket.set_reuse_address(options.reuse_addr)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuse_port(options.reuse_port)?;
    // Accepted connections inherit it, which spares a system call for each.
    socket.set_tcp_nodelay(options.no_delay)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog.min(i32::MAX as u32) as i32)?;
    Ok(socket)
}

fn connect_from(to: SocketAddr, from: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if in_progress(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

fn in_progress(error: &io::Error) -> bool {
    const EINPROGRESS: i32 =
        if cfg!(any(target_os = "linux", target_os = "android")) { 115 } else { 36 };
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(EINPROGRESS)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(97) // EAFNOSUPPORT on Linux has no kind of its own
}

/// A descriptor that is given up when there is no other, to turn a connection away with.
fn reserve() -> Option<std::fs::File> {
    std::fs::File::open(if cfg!(windows) { "NUL" } else { "/dev/null" }).ok()
}

#[derive(Default)]
struct SignalSource {
    #[cfg(unix)]
    taken: Option<couplet_os::signals::Signals>,
    readable: bool,
}

#[cfg(unix)]
impl SignalSource {
    fn take(&mut self, registry: &mio::Registry) -> io::Result<()> {
        use couplet_os::signals::{INTERRUPT, Signals, TERMINATE, USER1};
        use std::os::fd::{AsFd, AsRawFd};
        let taken = Signals::take(&[INTERRUPT, TERMINATE, USER1])?;
        let fd = taken.as_fd().as_raw_fd();
        registry.register(&mut mio::unix::SourceFd(&fd), SIGNALS, Interest::READABLE)?;
        self.taken = Some(taken);
        Ok(())
    }

    fn give_back(&mut self) -> io::Result<()> {
        self.taken = None;
        Ok(())
    }

    fn next(&mut self) -> Option<Signal> {
        use couplet_os::signals::{INTERRUPT, TERMINATE, USER1};
        if !self.readable {
            return None;
        }
        loop {
            return match self.taken.as_mut().and_then(couplet_os::signals::Signals::read) {
                Some(INTERRUPT) => Some(Signal::Interrupt),
                Some(TERMINATE) => Some(Signal::Terminate),
                Some(USER1) => Some(Signal::User1),
                Some(_) => continue,
                None => {
                    self.readable = false;
                    None
                }
            };
        }
    }
}

#[cfg(not(unix))]
impl SignalSource {
    fn take(&mut self, _registry: &mio::Registry) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn give_back(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn next(&mut self) -> Option<Signal> {
        self.readable = false;
        None
    }
}
