//! State shared by a connection's [`Transport`](super::Transport) handles, which record requests in
//! it, and its holder, which applies them in the turn.
//!
//! INVARIANT (law 2): no field of a connection cell is borrowed while user code runs, and user
//! objects (producers, closures, foreign buffers) are dropped with no cell borrowed.
//!
//! Contract: 6–8, 10, 12, 15, 15b, 15d, 15e, 17a–19, 46, 50, 50a, 51a, 51e, 52, 55b, 60a, 64b, 65,
//! 66, 70, 71, 74c, 84a, 162, 169b.

use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, OnceCell, Ref, RefCell, RefMut};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Upgrade;
use super::connection::stall::StallCheck;
#[cfg(feature = "testing")]
use super::report::LayerReport;
use super::{ConnectionId, Producer, ProducerKind};
use crate::address::Address;
use crate::defer::{Failure, Resolver};
use crate::driver::{
    Key, LocalEnd, LocalSocket, PeerCredentials, SockRef, SocketCall, SocketOption,
    SocketOptionKind,
};
use crate::error::{ConnectionLost, Reason};
use crate::layers::{Layer, LayerWaker, Opened, StartLayerError};
use crate::outbox::{FilePart, Outbox};
use crate::panics::{Contained, discard, discard_all};
use crate::protocol::HandOver;
use crate::recorder::Reactor;
use crate::timers::{TimerKey, Timers};
use crate::why::short_type;
use couplet_os::tcp::Positions;

/// Bytes of at most this length are copied, although they could be queued without a copy.
const COPIED: usize = 512;

/// Requests recorded but not yet applied; a set of bits.
pub(super) mod request {
    pub(crate) const LOSE: u16 = 1;
    pub(crate) const LOSE_WRITE: u16 = 2;
    pub(crate) const ABORT: u16 = 4;
    pub(crate) const FLOW: u16 = 8;
    pub(crate) const PRODUCER: u16 = 16;
    pub(crate) const OVERFLOW: u16 = 32;
    pub(crate) const DEADLINES: u16 = 64;
    pub(crate) const OPTIONS: u16 = 128;
    pub(crate) const LAYER: u16 = 256;
    pub(crate) const KEEP: u16 = 512;
}

/// Why reading is paused; a set of bits.
pub(super) mod paused {
    /// `pause_producing`, until `resume_producing`.
    pub(crate) const BY_USER: u8 = 1;
    /// `pause_for`, until its time has passed.
    pub(crate) const BY_TIMER: u8 = 2;
    /// `upgrade`, until the next protocol is in place.
    pub(crate) const BY_UPGRADE: u8 = 4;
    /// `start_layer`, until the layer is open: the protocol gets no bytes, but the socket is read.
    pub(crate) const BY_LAYER: u8 = 8;
    /// A person at the inspector, until they resume it.
    pub(crate) const BY_INSPECTOR: u8 = 16;
}

/// Settings and facts about a connection that are off the path of a message; a set of bits.
pub(crate) mod mode {
    /// Reset the connection if it ends without the protocol's request.
    pub(crate) const RESETS_UNLESS_CLOSED: u8 = 1;
    /// A close does not wait for the peer's FIN.
    pub(crate) const CLOSES_AT_ONCE: u8 = 2;
    /// The protocol has been replaced since the connection began.
    pub(crate) const UPGRADED: u8 = 4;
    /// The loop counts its output, which waits for the driver.
    pub(crate) const WAITS: u8 = 8;
    /// A keeper has a duplicate of the socket, so a close would not send a FIN without a shutdown.
    pub(crate) const SHARED: u8 = 16;
    /// The protocol has received only a part of a message.
    pub(crate) const IN_MESSAGE: u8 = 32;
    /// The peer's end of stream has arrived; bytes before it may be unread.
    pub(crate) const PEER_ENDED: u8 = 64;
    /// Output is accepted after a requested close. Cleared once our end of stream has been written.
    pub(crate) const WRITES_UNTIL_END: u8 = 128;
    /// The modes that a protocol sets.
    pub(crate) const SETTINGS: u8 = RESETS_UNLESS_CLOSED | CLOSES_AT_ONCE | WRITES_UNTIL_END;
}

/// The phase of a connection as its handles see it, which changes in the call itself, not in the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConnectionPhase {
    Open,
    /// `lose_write_connection` was called, or a write failed.
    Finishing,
    /// `lose_connection` or `fail` was called, or a callback panicked.
    Closing,
    /// Aborted, broken or closed; `connection_lost` has not been called yet.
    Ended,
    /// `connection_lost` was called.
    Lost,
}

/// A registered producer. The object is taken out while it is called.
pub(super) struct RegisteredProducer {
    pace: Pace,
    object: Option<Box<dyn Producer>>,
}

impl RegisteredProducer {
    pub(super) fn new(kind: ProducerKind, object: Box<dyn Producer>) -> RegisteredProducer {
        let pace = match kind {
            ProducerKind::Push => Pace::Running,
            ProducerKind::Pull => Pace::Pull { asked_at: None },
        };
        RegisteredProducer { pace, object: Some(object) }
    }
}

/// The pace of a producer: whether it writes, or the event that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// A push producer that writes.
    Running,
    /// A push producer that was paused above the high mark, until the buffer has drained.
    Paused,
    /// A push producer that was paused when a close began: it is resumed once so that it can
    /// finish.
    Finishing,
    /// A pull producer, which is asked for each piece; `progress` when it was last asked.
    Pull { asked_at: Option<u64> },
}

/// How far the buffer must drain before a Deferred fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// `writable`: at or below the low mark.
    LowMark,
    /// `flushed`: nothing is buffered.
    Nothing,
}

/// Bytes that a socket received and sent.
type WireBytes = [u64; 2];

/// Socket byte counts, kept only where they differ from the protocol's.
#[derive(Clone, Copy, Debug)]
enum Wire {
    /// There are layers.
    Counted(WireBytes),
    /// Layers that were dropped took this many bytes, which the protocol did not see.
    Beside(WireBytes),
}

/// The buffer sizes, in bytes, at which the write side counts as full and as drained. Marks above
/// 4 GiB count as 4 GiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermarks {
    low: u32,
    high: u32,
}

impl Watermarks {
    pub(super) fn new(low: usize, high: usize) -> Watermarks {
        let mark = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        Watermarks { low: mark(low.min(high)), high: mark(high) }
    }

    #[inline]
    pub(super) fn low(self) -> usize {
        self.low as usize
    }

    #[inline]
    pub(super) fn high(self) -> usize {
        self.high as usize
    }
}

/// A limit of time, or none, in eight bytes: nanoseconds. Limits above 584 years count as none.
#[derive(Clone, Copy)]
struct TimeLimit(u64);

impl TimeLimit {
    const NONE: TimeLimit = TimeLimit(u64::MAX);

    fn new(limit: Option<Duration>) -> TimeLimit {
        let nanos = limit.and_then(|limit| u64::try_from(limit.as_nanos()).ok());
        nanos.map_or(TimeLimit::NONE, TimeLimit)
    }

    fn get(self) -> Option<Duration> {
        (self.0 != TimeLimit::NONE.0).then(|| Duration::from_nanos(self.0))
    }
}

/// A limit of time, or none, in four bytes: milliseconds, rounded up. Limits above 49 days count as none.
#[derive(Clone, Copy)]
struct CoarseLimit(u32);

impl CoarseLimit {
    const NONE: CoarseLimit = CoarseLimit(u32::MAX);

    fn new(limit: Option<Duration>) -> CoarseLimit {
        let millis = limit.map(|limit| limit.as_nanos().div_ceil(1_000_000));
        let millis = millis.and_then(|millis| u32::try_from(millis).ok());
        millis.map_or(CoarseLimit::NONE, CoarseLimit)
    }

    fn get(self) -> Option<Duration> {
        (self.0 != CoarseLimit::NONE.0).then(|| Duration::from_millis(self.0.into()))
    }
}

pub(crate) const LOW_MARK: u32 = 16 * 1024;
pub(crate) const HIGH_MARK: u32 = 64 * 1024;
/// How long output may make no progress while a connection closes.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a closed connection waits for the peer's FIN.
const FIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may move after the peer's end of stream.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long output may wait for a peer that takes none of it: more than any pause of a person or a
/// machine.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

/// The shared state. The fields that every message touches come first, so that they share few cache
/// lines: with many connections that matters more than instruction counts.
#[repr(C)]
pub(crate) struct ConnectionCell {
    requests: Cell<u16>,
    /// The loop will check this cell anyway: the cell is on the dirty list, or its protocol is
    /// being called.
    dirty: Cell<bool>,
    phase: Cell<ConnectionPhase>,
    paused: Cell<u8>,
    /// Whether a producer, a `writable` or a `flushed` waits for bytes to be sent. Derived from
    /// `producer` and `rare`, and cached because every write checks it: see
    /// [`update_awaits_room`](Self::update_awaits_room).
    awaits_room: Cell<bool>,
    /// Bits of [`mode`].
    modes: Cell<u8>,
    /// The hard cap on buffered bytes: a write past it ends the connection.
    pub(super) cap: Cell<usize>,
    /// Bytes that the driver took and has not sent.
    in_flight: Cell<usize>,
    outbox: RefCell<Outbox>,
    pub(crate) received_at: Cell<Instant>,
    pub(crate) bytes_in: Cell<u64>,
    /// Bytes written and not discarded since.
    bytes_accepted: Cell<u64>,
    // The fields below are off the per-message path.
    key: Key,
    /// The socket, if the driver has sockets; for queries until it is closed.
    socket: Option<LocalSocket>,
    /// Bytes for the peer that a guest such as hyper holds, at most 4 GiB; for snapshots.
    #[cfg(feature = "hyper")]
    held_by_guest: Cell<u32>,
    close_deadline: Cell<CoarseLimit>,
    half_close_timeout: Cell<CoarseLimit>,
    write_timeout: Cell<CoarseLimit>,
    /// Set in a drain, to its patience in milliseconds.
    draining: Cell<Option<NonZeroU32>>,
    pub(super) reactor: Reactor,
    pub(crate) peer: Address,
    host: OnceCell<Rc<Address>>,
    watermarks: Cell<Watermarks>,
    /// Allocated for the first producer.
    producer: OnceCell<Box<RefCell<Option<RegisteredProducer>>>>,
    idle_timeout: Cell<TimeLimit>,
    pub(crate) made_at: Cell<Instant>,
    /// The reason of the end: the one expected so far, until `connection_lost` was called.
    reason: Cell<Reason>,
    /// Set once there are layers.
    below: OnceCell<Box<LayeredState>>,
    /// State that few connections use.
    rare: OnceCell<Box<RefCell<RareState>>>,
}

impl Drop for ConnectionCell {
    /// Handles may keep a cell with unsent output after its loop is dropped.
    fn drop(&mut self) {
        self.clear_outbox();
    }
}

/// A requested socket option.
pub(crate) enum SocketRequest {
    Set(SocketOption),
    Call(Contained<SocketCall>),
}

/// A layer requested on a live connection.
pub(super) struct StartingLayer {
    pub(super) layer: Contained<Box<dyn Layer>>,
    /// Written before the request, so it passes below the layer.
    pub(super) clear: Outbox,
}

/// State of a connection that has or had layers.
struct LayeredState {
    wire: Cell<Wire>,
    opened: RefCell<Option<Rc<Opened>>>,
}

impl Default for LayeredState {
    fn default() -> LayeredState {
        LayeredState { wire: Cell::new(Wire::Beside([0, 0])), opened: RefCell::default() }
    }
}

#[derive(Default)]
struct RareState {
    /// The failure passed to `fail`.
    why: Option<Failure>,
    paused_until: Option<Instant>,
    /// The limit on the wait for the peer's FIN, if it was set.
    fin_timeout: Option<CoarseLimit>,
    /// A connection whose progress counts for this one.
    companion: Weak<ConnectionCell>,
    stall: Option<StallCheck>,
    /// When the driver stopped accepting bytes, and how many it had sent then.
    blocked: Option<(Instant, u64)>,
    /// Written bytes that were dropped.
    dropped: u64,
    /// The error that ended our direction before the connection.
    write_error: Option<Arc<io::Error>>,
    waiting: Vec<(Level, Resolver<()>)>,
    peer_end: Vec<Resolver<()>>,
    lost: Vec<Resolver<Reason>>,
    options: Vec<SocketRequest>,
    starting: Vec<StartingLayer>,
    // Finished ones are dropped at twice the number of pending timers plus 16.
    timers: Vec<TimerKey>,
    /// The number of timers at which finished ones are removed.
    timers_limit: usize,
    upgrade: Option<Upgrade>,
    /// Bytes left over by an upgrade or by layers that were dropped, which the protocol gets before any
    /// new byte.
    // The bytes that the old protocol's framer held, and the bytes of `Upgrade::with_unread`; one chunk
    // for each layer that was dropped.
    unread: Vec<u8>,
    credentials: Option<Box<PeerCredentials>>,
    program: Option<Rc<dyn Any>>,
    kept: Option<Box<Kept>>,
}

/// The state with which another process can continue the connection.
pub(crate) struct Kept {
    pub(crate) state: HandOver,
    /// The kernel's positions minus ours, once the keeper has the connection.
    pub(crate) offset: Option<Positions>,
}

impl ConnectionCell {
    pub(crate) fn new(key: Key, reactor: Reactor, peer: Address, host: LocalEnd) -> ConnectionCell {
        let now = reactor.now();
        let (host, socket) = match host {
            LocalEnd::Known(host) => (OnceCell::from(host), None),
            LocalEnd::Socket(host, socket) => (OnceCell::from(host), Some(socket)),
            LocalEnd::Ask(socket) => (OnceCell::new(), Some(socket)),
        };
        ConnectionCell {
            key,
            peer,
            host,
            socket,
            requests: Cell::new(0),
            dirty: Cell::new(false),
            phase: Cell::new(ConnectionPhase::Open),
            paused: Cell::new(0),
            outbox: RefCell::new(Outbox::new(reactor.spares().clone())),
            in_flight: Cell::new(0),
            watermarks: Cell::new(Watermarks { low: LOW_MARK, high: HIGH_MARK }),
            cap: Cell::new(usize::MAX),
            producer: OnceCell::new(),
            idle_timeout: Cell::new(TimeLimit::NONE),
            close_deadline: Cell::new(CoarseLimit::new(Some(CLOSE_DEADLINE))),
            half_close_timeout: Cell::new(CoarseLimit::new(Some(HALF_CLOSE_TIMEOUT))),
            write_timeout: Cell::new(CoarseLimit::new(Some(WRITE_TIMEOUT))),
            made_at: Cell::new(now),
            received_at: Cell::new(now),
            bytes_in: Cell::new(0),
            bytes_accepted: Cell::new(0),
            modes: Cell::new(0),
            #[cfg(feature = "hyper")]
            held_by_guest: Cell::new(0),
            draining: Cell::new(None),
            awaits_room: Cell::new(false),
            reason: Cell::new(Reason::Shutdown),
            below: OnceCell::new(),
            rare: OnceCell::new(),
            reactor,
        }
    }

    pub(crate) fn set_credentials(&self, credentials: Option<PeerCredentials>) {
        self.rare_mut().credentials = credentials.map(Box::new);
    }

    pub(super) fn credentials(&self) -> Option<PeerCredentials> {
        self.rare()?.credentials.as_deref().copied()
    }

    /// Sets the program at the other end.
    pub(crate) fn set_program(&self, program: Rc<dyn Any>) {
        self.rare_mut().program = Some(program);
    }

    pub(super) fn program<T: 'static>(&self) -> Option<Rc<T>> {
        self.rare()?.program.clone()?.downcast().ok()
    }

    /// The address of our end.
    pub(crate) fn host(&self) -> &Address {
        self.host.get_or_init(|| {
            let unknown = || SocketAddr::from(([0, 0, 0, 0], 0)).into();
            Rc::new(self.socket.as_ref().and_then(LocalSocket::address).unwrap_or_else(unknown))
        })
    }

    /// The socket's descriptor number, while the socket is open.
    #[cfg(unix)]
    pub(crate) fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        self.socket.as_ref().filter(|_| self.phase.get() != ConnectionPhase::Lost)?.number()
    }

    /// See [`Transport::option`](super::Transport::option).
    pub(super) fn option(&self, kind: SocketOptionKind) -> Option<SocketOption> {
        let is_open = self.phase.get() != ConnectionPhase::Lost;
        let socket = self.socket.as_ref().filter(|_| is_open)?;
        let rare = self.rare();
        let requested = rare.iter().flat_map(|rare| &rare.options);
        socket.option(
            kind,
            requested.filter_map(|request| match request {
                SocketRequest::Set(option) => Some(*option),
                SocketRequest::Call(_) => None,
            }),
        )
    }

    /// Sets the addresses that layers reported, before the protocol is built.
    pub(crate) fn set_addresses(&mut self, opened: &Opened) {
        if let Some(peer) = &opened.peer {
            self.peer = peer.clone();
        }
        if let Some(host) = &opened.host {
            self.host = OnceCell::from(Rc::new(host.clone()));
        }
    }

    /// Stores the infos that the layers reported when they opened.
    pub(super) fn set_opened(&self, opened: Rc<Opened>) {
        let before = self.below.get_or_init(Box::default).opened.replace(Some(opened));
        discard("drop of a layer's info", before);
    }

    pub(super) fn layer_info<T: 'static>(&self) -> Option<Rc<T>> {
        self.below.get()?.opened.borrow().as_ref()?.find()
    }

    /// The layers' information about the connection, as [`Opened::to_proxy_header`] encodes it.
    pub(crate) fn to_proxy_header(&self) -> Option<Vec<u8>> {
        let opened = self.below.get().map(|below| below.opened.borrow());
        let opened = opened.as_ref().and_then(|opened| opened.as_ref());
        opened.map_or(Some(Vec::new()), |opened| opened.to_proxy_header())
    }

    /// Drops the rarely used state, whose user objects contain panics of their drops, and the infos of
    /// layers, which do not.
    pub(super) fn retire(&mut self) {
        drop(self.rare.take());
        if let Some(below) = self.below.take() {
            discard("drop of a layer's info", below);
        }
    }

    /// Called before the socket is closed: remaining handles can still query its address.
    pub(super) fn keep_host(self: &Rc<Self>) {
        if Rc::strong_count(self) > 1 {
            self.host();
        }
    }

    // Called by handles.

    #[inline]
    pub(super) fn write(&self, data: &[u8]) {
        if !self.try_write(usize::MAX, data) {
            self.write_slow(data);
        }
    }

    /// Writes if at most the high mark is buffered; returns false if the slow path is needed.
    #[inline]
    pub(crate) fn write_with_room(&self, data: &[u8]) -> bool {
        self.try_write(self.watermarks().high(), data)
    }

    /// Writes if the connection is open and at most `most` bytes are buffered; otherwise returns
    /// false.
    #[inline(always)]
    fn try_write(&self, most: usize, data: &[u8]) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let buffered = outbox.len() + self.in_flight.get();
        let room = self.cap.get().saturating_sub(buffered);
        let is_open = self.phase.get() == ConnectionPhase::Open;
        if !is_open || buffered > most || data.len() > room || data.is_empty() {
            return false;
        }
        outbox.extend(data);
        drop(outbox);
        self.count_written(data.len());
        true
    }

    /// The slow path of [`write`](Self::write): the connection is closing, or `data` exceeds its
    /// hard cap or is empty.
    #[cold]
    fn write_slow(&self, data: &[u8]) {
        if self.accepts(data.len()) {
            self.outbox.borrow_mut().extend(data);
            self.count_written(data.len());
        }
    }

    pub(super) fn write_bytes(&self, bytes: bytes::Bytes) {
        let len = bytes.len();
        if len <= COPIED {
            self.write(&bytes);
            discard("drop of a buffer", bytes);
        } else if self.accepts(len) {
            self.outbox.borrow_mut().push(bytes);
            self.count_written(len);
        } else {
            discard("drop of a buffer", bytes);
        }
    }

    pub(super) fn send_file_part(&self, part: FilePart) {
        let len = part.len();
        if self.accepts(len) {
            self.outbox.borrow_mut().push_file(part);
            self.count_written(len);
        }
    }

    /// The error of a part of a file that can't be sent.
    #[cold]
    pub(super) fn take_file_error(&self) -> Option<io::Error> {
        self.outbox.borrow_mut().take_failure()
    }

    /// Queues a descriptor, or returns it.
    #[cfg(unix)]
    pub(super) fn attach(&self, descriptor: OwnedFd) -> Result<(), OwnedFd> {
        if self.is_layered() || self.peer.unix().is_none() || !self.is_open_to_output() {
            return Err(descriptor);
        }
        self.outbox.borrow_mut().attach(descriptor)
    }

    /// Whether to accept `len` more bytes (never 0); records a write past the hard cap.
    #[inline]
    fn accepts(&self, len: usize) -> bool {
        let room = self.cap.get().saturating_sub(self.buffered());
        len > 0
            && ((self.phase.get() == ConnectionPhase::Open && len <= room)
                || self.accepts_slow(len, room))
    }

    /// Whether bytes, a descriptor or a producer are accepted.
    pub(super) fn is_open_to_output(&self) -> bool {
        match self.phase.get() {
            ConnectionPhase::Open => true,
            ConnectionPhase::Finishing | ConnectionPhase::Closing => {
                self.has_producer() || self.has_mode(mode::WRITES_UNTIL_END)
            }
            ConnectionPhase::Ended | ConnectionPhase::Lost => false,
        }
    }

    #[inline]
    fn count_written(&self, len: usize) {
        self.bytes_accepted.set(self.bytes_accepted.get() + len as u64);
        self.mark_dirty();
    }

    /// Whether to accept bytes on a connection that is closing, or past its hard cap.
    #[cold]
    fn accepts_slow(&self, len: usize, room: usize) -> bool {
        let open = self.is_open_to_output();
        if !open {
            self.rare_mut().dropped += len as u64;
        } else if len > room {
            self.advance_phase(ConnectionPhase::Ended);
            self.record(request::OVERFLOW);
        }
        open && len <= room
    }

    #[inline]
    pub(super) fn record(&self, what: u16) {
        self.requests.set(self.requests.get() | what);
        self.mark_dirty();
    }

    #[inline]
    fn mark_dirty(&self) {
        if !self.dirty.replace(true) {
            self.reactor.mark_dirty(self.key);
        }
    }

    /// A waker for the connection's layers. Holds no handle to this cell, which would prevent its
    /// addresses from being set.
    pub(super) fn layer_waker(&self) -> LayerWaker {
        let (reactor, key) = (self.reactor.clone(), self.key);
        LayerWaker::new(move || reactor.wake_layers(key))
    }

    /// Runs `f`, in which a framer parses bytes that arrived before the connection was lost, as if
    /// it were not lost yet. Requests of `f` are dropped.
    #[cold]
    pub(crate) fn parse_before_loss(&self, f: impl FnOnce()) {
        struct Restored<'a>(&'a ConnectionCell, ConnectionPhase, u8, u16, bool);
        impl Drop for Restored<'_> {
            fn drop(&mut self) {
                let Restored(cell, phase, paused, requests, dirty) = *self;
                cell.phase.set(phase);
                cell.paused.set(paused);
                cell.requests.set(requests);
                cell.dirty.set(dirty);
            }
        }
        let phase = self.phase.replace(ConnectionPhase::Finishing);
        let (paused, requests) = (self.paused.replace(0), self.requests.get());
        // A dirty cell is not put on the list of the loop, which has no such connection any more.
        let _restored = Restored(self, phase, paused, requests, self.dirty.replace(true));
        f();
    }

    /// Advances to a later phase, never back.
    #[inline]
    pub(super) fn advance_phase(&self, phase: ConnectionPhase) {
        self.phase.set(self.phase.get().max(phase));
    }

    pub(super) fn set_paused(&self, by: u8, paused: bool) {
        let before = self.paused.get();
        let after = if paused { before | by } else { before & !by };
        if self.phase.get() < ConnectionPhase::Closing {
            self.paused.set(after);
            let holds = |bits: u8| bits & !paused::BY_LAYER != 0;
            if holds(before) != holds(after) {
                self.record(request::FLOW);
            }
        }
    }

    /// Pauses reading until `until`, or until a later time that was already set.
    pub(super) fn pause_until(&self, until: Instant) {
        let later = self.paused_until().max(Some(until));
        self.rare_mut().paused_until = later;
        self.set_paused(paused::BY_TIMER, true);
    }

    /// The rest of the timed pause.
    pub(super) fn timed_pause_left(&self, now: Instant) -> Option<Duration> {
        let until = self.paused_until()?;
        (self.paused.get() & paused::BY_TIMER != 0).then(|| until.saturating_duration_since(now))
    }

    fn paused_until(&self) -> Option<Instant> {
        self.rare()?.paused_until
    }

    /// Ends the timed pause, unless a later one was set.
    pub(super) fn end_timed_pause(&self) {
        if self.paused_until().is_none_or(|until| until <= self.reactor.now()) {
            self.set_paused(paused::BY_TIMER, false);
        }
    }

    /// Requests another protocol. Of several requests the last counts; the unread bytes of all are
    /// kept.
    pub(super) fn upgrade(&self, mut upgrade: Upgrade) {
        if self.phase.get() >= ConnectionPhase::Closing {
            return;
        }
        let mut earlier = self.rare_mut().upgrade.take();
        if let Some(earlier) = &mut earlier {
            earlier.unread.append(&mut upgrade.unread);
            std::mem::swap(&mut earlier.unread, &mut upgrade.unread);
        }
        self.rare_mut().upgrade = Some(upgrade);
        self.paused.set(self.paused.get() | paused::BY_UPGRADE);
        self.record(request::FLOW);
        drop(earlier);
    }

    /// Requests a layer: bytes written so far pass below it.
    pub(super) fn start_layer(&self, layer: Box<dyn Layer>) -> Result<(), StartLayerError> {
        let layer = Contained::new(layer);
        match self.phase.get() {
            ConnectionPhase::Open => {}
            ConnectionPhase::Finishing => return Err(StartLayerError::WriteClosed),
            ConnectionPhase::Closing | ConnectionPhase::Ended | ConnectionPhase::Lost => {
                return Ok(());
            }
        }
        let mut clear = Outbox::new(self.reactor.spares().clone());
        clear.append(&mut self.outbox.borrow_mut());
        self.add_in_flight(clear.len());
        self.rare_mut().starting.push(StartingLayer { layer, clear });
        self.set_starting(true);
        self.record(request::LAYER);
        Ok(())
    }

    pub(super) fn take_starting(&self) -> Vec<StartingLayer> {
        std::mem::take(&mut self.rare_mut().starting)
    }

    /// Sets whether a requested layer is not open yet.
    pub(super) fn set_starting(&self, starting: bool) {
        let others = self.paused.get() & !paused::BY_LAYER;
        self.paused.set(if starting { others | paused::BY_LAYER } else { others });
    }

    /// After a write past the hard cap, an abort still counts: it outranks `Overflow`.
    pub(super) fn abort(&self) {
        if self.phase.get() < ConnectionPhase::Ended || self.requests.get() & request::OVERFLOW != 0
        {
            self.advance_phase(ConnectionPhase::Ended);
            self.record(request::ABORT);
        }
    }

    pub(super) fn fail(&self, failure: Failure) {
        let counts = self.phase.get() < ConnectionPhase::Ended
            || self.requests.get() & (request::ABORT | request::OVERFLOW) != 0;
        // Only the first failure counts; a later one is dropped with no cell borrowed.
        if counts && !self.has_failed() {
            self.rare_mut().why = Some(failure);
        }
    }

    /// Whether `fail` was called since requests were last applied.
    pub(super) fn has_failed(&self) -> bool {
        self.rare().is_some_and(|rare| rare.why.is_some())
    }

    /// Replaces the state that is kept, or requests that nothing is kept.
    pub(crate) fn keep(&self, state: Option<HandOver>) {
        if self.phase.get() != ConnectionPhase::Open || !self.reactor.keeps_connections() {
            return;
        }
        let kept = &mut self.rare_mut().kept;
        match (state, &mut *kept) {
            (Some(state), Some(kept)) => kept.state = state,
            (Some(state), None) => *kept = Some(Box::new(Kept { state, offset: None })),
            (None, _) => *kept = None,
        }
        self.record(request::KEEP);
    }

    /// The state that is kept.
    pub(crate) fn kept(&self) -> Option<RefMut<'_, Kept>> {
        RefMut::filter_map(self.rare_if_used()?, |rare| rare.kept.as_deref_mut()).ok()
    }

    /// Nothing is kept any more.
    pub(crate) fn end_keeping(&self) {
        let kept = self.rare_if_used().and_then(|mut rare| rare.kept.take());
        drop(kept);
    }

    /// Calls `question` with the socket; `None` on drivers without sockets, and once it is closed.
    pub(crate) fn with_socket<T>(&self, question: impl FnOnce(SockRef<'_>) -> T) -> Option<T> {
        self.socket.as_ref()?.ask(question)
    }

    /// The number of bytes in the system's send queue.
    pub(crate) fn unacknowledged(&self) -> Option<usize> {
        self.socket.as_ref()?.ask(|socket| couplet_os::unsent::unsent(&*socket))?
    }

    pub(super) fn register(&self, producer: RegisteredProducer) {
        *self.producer.get_or_init(Box::default).borrow_mut() = Some(producer);
        self.update_awaits_room();
        self.record(request::PRODUCER);
    }

    pub(super) fn unregister(&self) {
        let producer = self.producer.get().and_then(|producer| producer.take());
        self.update_awaits_room();
        if producer.is_some() {
            self.record(request::PRODUCER);
        }
    }

    /// Whether the buffer has drained to `level`.
    pub(super) fn is_drained_to(&self, level: Level) -> bool {
        let most = match level {
            Level::LowMark => self.watermarks().low(),
            Level::Nothing => 0,
        };
        self.buffered() <= most
    }

    pub(super) fn add_waiting(&self, level: Level, resolver: Resolver<()>) {
        self.rare_mut().waiting.push((level, resolver));
        self.awaits_room.set(true);
        self.mark_dirty();
    }

    pub(super) fn add_waiting_for_peer(&self, resolver: Resolver<()>) {
        self.rare_mut().peer_end.push(resolver);
        self.record(request::FLOW);
    }

    pub(super) fn add_waiting_for_loss(&self, resolver: Resolver<Reason>) {
        self.rare_mut().lost.push(resolver);
    }

    /// Whether a Deferred waits for the peer's end of stream.
    pub(super) fn awaits_peer_end(&self) -> bool {
        self.rare().is_some_and(|rare| !rare.peer_end.is_empty())
    }

    /// Takes out the Deferreds that wait for the peer's end of stream.
    pub(crate) fn take_waiting_for_peer(&self) -> Vec<Resolver<()>> {
        self.rare_if_used().map(|mut rare| std::mem::take(&mut rare.peer_end)).unwrap_or_default()
    }

    pub(super) fn add_option(&self, option: SocketOption) {
        if self.phase.get() >= ConnectionPhase::Ended {
            return;
        }
        if let SocketOption::ResetUnlessClosed(on) = option {
            if self.phase.get() >= ConnectionPhase::Finishing {
                return;
            }
            self.set_mode(mode::RESETS_UNLESS_CLOSED, on);
        }
        self.rare_mut().options.push(SocketRequest::Set(option));
        self.record(request::OPTIONS);
    }

    pub(super) fn add_socket_call(&self, call: SocketCall) {
        let call = Contained::new(call);
        if self.phase.get() < ConnectionPhase::Ended {
            self.rare_mut().options.push(SocketRequest::Call(call));
            self.record(request::OPTIONS);
        }
    }

    /// The settings among the modes.
    pub(super) fn modes(&self) -> u8 {
        self.modes.get() & mode::SETTINGS
    }

    pub(super) fn restore_modes(&self, modes: u8) {
        self.modes.set(self.modes.get() & !mode::SETTINGS | modes & mode::SETTINGS);
    }

    pub(crate) fn bytes_accepted(&self) -> u64 {
        self.bytes_accepted.get()
    }

    pub(super) fn set_bytes_accepted(&self, count: u64) {
        self.bytes_accepted.set(count);
    }

    pub(crate) fn has_mode(&self, which: u8) -> bool {
        self.modes.get() & which != 0
    }

    /// See [`hooks::set_in_message`](crate::hooks::set_in_message).
    pub(crate) fn set_in_message(&self, is_inside: bool) {
        self.set_mode(mode::IN_MESSAGE, is_inside);
    }

    /// See [`hooks::set_write_until_end`](crate::hooks::set_write_until_end).
    pub(crate) fn set_write_until_end(&self, on: bool) {
        if self.phase() == ConnectionPhase::Open {
            self.set_mode(mode::WRITES_UNTIL_END, on);
        }
    }

    pub(crate) fn set_mode(&self, which: u8, on: bool) {
        let others = self.modes.get() & !which;
        self.modes.set(if on { others | which } else { others });
    }

    pub(crate) fn reset_unless_closed(&self) -> bool {
        self.has_mode(mode::RESETS_UNLESS_CLOSED)
    }

    /// Records a timer, to be removed with the connection. Fired and cancelled timers are pruned
    /// when they may be half of all.
    pub(crate) fn add_timer<T>(&self, timer: TimerKey, left: &Timers<T>) {
        let rare = &mut *self.rare_mut();
        if rare.timers.len() >= rare.timers_limit {
            rare.timers.retain(|timer| left.contains(*timer));
            rare.timers_limit = 2 * rare.timers.len() + 16;
        }
        rare.timers.push(timer);
    }

    /// The limit on the peer's silence.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout.get().get()
    }

    pub(super) fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.idle_timeout.set(TimeLimit::new(timeout));
    }

    /// The limit on output without progress, while a connection closes.
    pub(super) fn close_deadline(&self) -> Option<Duration> {
        self.close_deadline.get().get()
    }

    pub(super) fn set_close_deadline(&self, deadline: Option<Duration>) {
        self.close_deadline.set(CoarseLimit::new(deadline));
    }

    /// The limit on the wait for the peer's FIN after ours.
    pub(super) fn fin_timeout(&self) -> Option<Duration> {
        match self.rare().and_then(|rare| rare.fin_timeout) {
            Some(set) => set.get(),
            None => Some(FIN_TIMEOUT),
        }
    }

    pub(super) fn set_fin_timeout(&self, timeout: Option<Duration>) {
        if timeout != self.fin_timeout() {
            self.rare_mut().fin_timeout = Some(CoarseLimit::new(timeout));
        }
    }

    /// The limit on a stall after the peer's end of stream.
    pub(super) fn half_close_timeout(&self) -> Option<Duration> {
        self.half_close_timeout.get().get()
    }

    pub(super) fn set_half_close_timeout(&self, timeout: Option<Duration>) {
        self.half_close_timeout.set(CoarseLimit::new(timeout));
    }

    /// The limit on a stall of waiting output.
    pub(super) fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout.get().get()
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.write_timeout.set(CoarseLimit::new(timeout));
    }

    pub(super) fn stall(&self) -> Option<StallCheck> {
        self.rare()?.stall
    }

    pub(super) fn set_stall(&self, check: Option<StallCheck>) {
        if check.is_some() || self.stall().is_some() {
            self.rare_mut().stall = check;
        }
    }

    /// Bytes that move on `other` are progress of this connection.
    pub(crate) fn set_companion(&self, other: &Rc<ConnectionCell>) {
        self.rare_mut().companion = Rc::downgrade(other);
    }

    /// A number that grows with each byte that is received, sent or acknowledged, here or on the
    /// companion.
    pub(super) fn shared_progress(&self) -> u64 {
        let companion = self.rare().and_then(|rare| rare.companion.upgrade());
        let moved =
            |cell: &ConnectionCell| cell.output_progress().wrapping_add(cell.bytes_in.get());
        moved(self).wrapping_add(companion.map_or(0, |companion| moved(&companion)))
    }

    /// A number that grows with each byte that is sent or acknowledged.
    pub(super) fn output_progress(&self) -> u64 {
        let unacknowledged = self.unacknowledged().unwrap_or_default();
        (2 * self.progress()).wrapping_sub(unacknowledged as u64)
    }

    // Read by both.

    #[inline]
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    pub(crate) fn id(&self) -> ConnectionId {
        ConnectionId { reactor: self.reactor.serial(), key: self.key }
    }

    /// The reason, once `connection_lost` was called.
    pub(crate) fn reason(&self) -> Option<Reason> {
        (self.phase.get() == ConnectionPhase::Lost).then(|| self.expected_reason())
    }

    /// The final reason, or the one expected so far.
    pub(crate) fn expected_reason(&self) -> Reason {
        self.with_reason(Reason::clone)
    }

    /// Calls `f`, which must not run user code, with the final reason or the one expected so far.
    pub(super) fn with_reason<T>(&self, f: impl FnOnce(&Reason) -> T) -> T {
        let reason = self.reason.replace(Reason::Shutdown);
        let result = f(&reason);
        self.reason.set(reason);
        result
    }

    /// Sets the reason expected so far.
    pub(super) fn set_expected_reason(&self, reason: Reason) {
        // The reason may hold a user's error, whose drop is user code.
        discard("drop of a reason", self.reason.replace(reason));
    }

    #[inline]
    pub(crate) fn phase(&self) -> ConnectionPhase {
        self.phase.get()
    }

    /// Whether reading is paused.
    #[inline]
    pub(super) fn paused(&self) -> bool {
        self.paused.get() & !paused::BY_LAYER != 0
    }

    /// Whether the protocol accepts more bytes.
    #[inline]
    pub(super) fn wants_data(&self) -> bool {
        self.paused.get() == 0 && self.phase.get() < ConnectionPhase::Closing
    }

    pub(super) fn is_paused_by_user(&self) -> bool {
        self.paused.get() & paused::BY_USER != 0
    }

    pub(crate) fn is_starting(&self) -> bool {
        self.paused.get() & paused::BY_LAYER != 0
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    pub(super) fn set_in_flight(&self, bytes: usize) {
        self.in_flight.set(bytes);
    }

    /// Starts counting the bytes below the layers, where `unsent` already written bytes remain.
    pub(super) fn set_layered(&self, unsent: usize) {
        let [received, sent] = self.wire_bytes();
        let wire = Wire::Counted([received, sent - unsent as u64]);
        self.below.get_or_init(Box::default).wire.set(wire);
    }

    /// Whether there are layers.
    fn is_layered(&self) -> bool {
        self.below.get().is_some_and(|below| matches!(below.wire.get(), Wire::Counted(_)))
    }

    /// The layers were dropped, before the protocol has received or written a byte; `unread` bytes, which
    /// the layers had received, are about to be delivered.
    pub(super) fn end_layers(&self, unread: usize) {
        let [received, sent] = self.wire_bytes();
        self.bytes_in.set(unread as u64);
        if let Some(below) = self.below.get() {
            below.wire.set(Wire::Beside([received.saturating_sub(unread as u64), sent]));
        }
    }

    /// The number of bytes that the protocol wrote, up to those about to enter its first layer.
    #[cfg(feature = "testing")]
    pub(super) fn bytes_before_layers(&self) -> u64 {
        self.bytes_accepted.get() - self.outbox.borrow().len() as u64
    }

    #[cfg(feature = "testing")]
    pub(super) fn report_layers(&self, above: LayerReport<'_>) {
        self.reactor.report_layers(self.key, above);
    }

    /// For the simulator: reports bytes that enter the layers.
    #[inline(always)]
    pub(super) fn report_written(&self, written: &Outbox) {
        #[cfg(feature = "testing")]
        if self.reactor.observes_layers() {
            self.report_slices(written);
        }
        #[cfg(not(feature = "testing"))]
        let _ = written;
    }

    #[cfg(feature = "testing")]
    #[cold]
    fn report_slices(&self, written: &Outbox) {
        written.slices().for_each(|slice| self.report_layers(LayerReport::Written(slice)));
    }

    /// For the simulator: reports that written bytes were discarded.
    pub(super) fn report_cut(&self) {
        #[cfg(feature = "testing")]
        self.report_layers(LayerReport::Cut);
    }

    /// The numbers of bytes that the socket received and sent.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        let [received, sent] = match self.below.get().map(|below| below.wire.get()) {
            Some(Wire::Counted(bytes)) => return bytes,
            Some(Wire::Beside(bytes)) => bytes,
            None => [0, 0],
        };
        [received + self.bytes_in.get(), sent + self.bytes_out()]
    }

    /// Counts bytes below the layers.
    pub(super) fn add_wire_bytes(&self, received: usize, sent: usize) {
        if let Some(below) = self.below.get()
            && let Wire::Counted([before, sent_before]) = below.wire.get()
        {
            let bytes = [before + received as u64, sent_before + sent as u64];
            below.wire.set(Wire::Counted(bytes));
        }
    }

    /// A counter that grows with each byte sent.
    fn progress(&self) -> u64 {
        self.wire_bytes()[1]
    }

    /// The driver accepts no bytes for now.
    pub(super) fn note_blocked(&self, now: Instant) {
        let progress = self.progress();
        let blocked = &mut self.rare_mut().blocked;
        if blocked.is_none_or(|(_, sent)| sent != progress) {
            *blocked = Some((now, progress));
        }
    }

    /// Since when the peer has taken nothing, if output waits for it.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        let (since, sent) = self.rare()?.blocked?;
        (sent == self.progress()).then_some(since)
    }

    /// The most bytes that may be buffered, if they are limited.
    pub(super) fn cap(&self) -> Option<usize> {
        Some(self.cap.get()).filter(|cap| *cap < usize::MAX)
    }

    /// Whether a push producer waits for room.
    pub(super) fn producer_is_paused(&self) -> bool {
        self.producer().is_some_and(|it| it.pace == Pace::Paused)
    }

    /// The pause of reading and its originator, in words.
    pub(super) fn pauser(&self, protocol: &str) -> Cow<'static, str> {
        match self.paused.get() {
            by if by & paused::BY_INSPECTOR != 0 => "reading paused by the inspector".into(),
            by if by & paused::BY_USER != 0 => {
                format!("reading paused by {}", short_type(protocol)).into()
            }
            by if by & paused::BY_TIMER != 0 => "reading paused by a timer".into(),
            by if by & paused::BY_UPGRADE != 0 => "reading paused until its next protocol".into(),
            by if by & paused::BY_LAYER != 0 => "reading paused until a new layer opens".into(),
            _ => "reading paused".into(),
        }
    }

    /// The end of a timed pause, if nothing else pauses reading.
    pub(super) fn timed_pause_end(&self) -> Option<Instant> {
        self.paused_until().filter(|_| self.paused.get() == paused::BY_TIMER)
    }

    #[inline]
    pub(crate) fn buffered(&self) -> usize {
        self.outbox.borrow().len() + self.in_flight.get()
    }

    /// The number of bytes for the peer, buffered here or held by a guest.
    pub(crate) fn unsent(&self) -> usize {
        #[cfg(feature = "hyper")]
        let held = self.held_by_guest();
        #[cfg(not(feature = "hyper"))]
        let held = 0;
        self.buffered() + held
    }

    /// The number of bytes for the peer that are in memory.
    pub(crate) fn held(&self) -> usize {
        self.unsent() - self.outbox.borrow().len_in_files()
    }

    #[cfg(feature = "hyper")]
    #[inline]
    pub(crate) fn held_by_guest(&self) -> usize {
        self.held_by_guest.get() as usize
    }

    #[cfg(feature = "hyper")]
    #[inline]
    pub(crate) fn set_held_by_guest(&self, count: usize) {
        self.held_by_guest.set(u32::try_from(count).unwrap_or(u32::MAX));
    }

    #[inline]
    pub(super) fn watermarks(&self) -> Watermarks {
        self.watermarks.get()
    }

    pub(super) fn set_watermarks(&self, marks: Watermarks) {
        self.watermarks.set(marks);
        self.record(request::PRODUCER);
    }

    #[inline]
    fn producer(&self) -> Option<Ref<'_, RegisteredProducer>> {
        Ref::filter_map(self.producer.get()?.borrow(), Option::as_ref).ok()
    }

    #[inline]
    fn producer_mut(&self) -> Option<RefMut<'_, RegisteredProducer>> {
        RefMut::filter_map(self.producer.get()?.borrow_mut(), Option::as_mut).ok()
    }

    pub(super) fn has_producer(&self) -> bool {
        self.producer().is_some()
    }

    /// Whether a push producer is running above the high mark.
    pub(super) fn producer_must_pause(&self) -> bool {
        let over = self.buffered() > self.watermarks().high();
        over && self.producer().is_some_and(|it| it.pace == Pace::Running)
    }

    /// Whether a running push producer can be paused before the buffer is full.
    pub(super) fn producer_can_wait(&self) -> bool {
        let runs = self.producer().is_some_and(|it| it.pace == Pace::Running);
        runs && self.buffered() > self.watermarks().low()
    }

    /// Whether a push producer is paused although the buffer has drained or a close has begun, or a
    /// pull producer is due for a request: it was never asked, or its last piece is sent.
    pub(super) fn producer_must_resume(&self) -> bool {
        match self.producer() {
            None => false,
            Some(registered) => match registered.pace {
                Pace::Running => false,
                Pace::Paused => self.buffered() <= self.watermarks().low(),
                Pace::Finishing => true,
                Pace::Pull { asked_at } => {
                    asked_at.is_none_or(|at| self.buffered() == 0 && self.progress() > at)
                }
            },
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.rare().map_or(0, |rare| rare.dropped)
    }

    pub(super) fn awaits_upgrade(&self) -> bool {
        self.paused.get() & paused::BY_UPGRADE != 0
    }

    pub(super) fn was_upgraded(&self) -> bool {
        self.has_mode(mode::UPGRADED)
    }

    #[inline]
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// How long a silent peer may hold the drain that the connection is in.
    pub(crate) fn drain_patience(&self) -> Option<Duration> {
        self.draining.get().map(|millis| Duration::from_millis(millis.get().into()))
    }

    // Called by the holder, in the turn.

    pub(super) fn set_draining(&self, patience: Duration) {
        let millis = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        self.draining.set(Some(NonZeroU32::new(millis).unwrap_or(NonZeroU32::MIN)));
    }

    /// Takes out the next protocol; from then on queued calls reach it.
    pub(super) fn take_upgrade(&self) -> Option<Upgrade> {
        let upgrade = self.rare_if_used()?.upgrade.take()?;
        self.paused.set(self.paused.get() & !paused::BY_UPGRADE);
        self.set_mode(mode::UPGRADED, true);
        Some(upgrade)
    }

    /// Sets whether the loop will check this cell anyway, and returns the previous value.
    #[inline]
    pub(crate) fn set_dirty(&self, dirty: bool) -> bool {
        self.dirty.replace(dirty)
    }

    #[inline]
    pub(super) fn take_requests(&self) -> u16 {
        self.requests.replace(0)
    }

    #[inline]
    pub(crate) fn has_requests(&self) -> bool {
        self.requests.get() != 0
    }

    #[inline]
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    pub(super) fn trim_outbox(&self) {
        self.outbox.borrow_mut().trim();
    }

    /// A copy of all unsent bytes, for another process.
    #[cold]
    pub(crate) fn copy_of_output(&self) -> Vec<u8> {
        self.outbox.borrow().slices().flatten().copied().collect()
    }

    /// Whether the output is only bytes: neither descriptors nor parts of files are queued.
    pub(super) fn has_bytes_alone(&self) -> bool {
        let outbox = self.outbox.borrow();
        !outbox.has_attached() && !outbox.has_files()
    }

    /// The number of bytes in the outbox.
    pub(super) fn waiting(&self) -> usize {
        self.outbox.borrow().len()
    }

    #[inline(always)]
    pub(crate) fn outbox(&self) -> RefMut<'_, Outbox> {
        self.outbox.borrow_mut()
    }

    /// Drops foreign buffers that have been sent; nothing may be borrowed, because user code may
    /// run.
    #[cold]
    pub(crate) fn drop_spent(&self) {
        let spent = self.outbox.borrow_mut().take_spent();
        discard_all("drop of a buffer", spent);
    }

    pub(super) fn add_in_flight(&self, taken: usize) {
        self.in_flight.set(self.in_flight.get() + taken);
    }

    /// Discards bytes that were to pass below a layer, which is not started.
    pub(super) fn discard_in_flight(&self, count: usize) {
        self.sub_in_flight(count);
        self.bytes_accepted.set(self.bytes_accepted.get() - count as u64);
    }

    /// The number of bytes sent; with layers, the number of bytes that they accepted.
    pub(crate) fn bytes_out(&self) -> u64 {
        let left = if self.is_layered() { self.waiting() } else { self.buffered() };
        self.bytes_accepted.get() - left as u64
    }

    /// Discards unsent bytes.
    pub(super) fn clear_outbox(&self) {
        let spent = {
            let mut outbox = self.outbox.borrow_mut();
            // The common case at the end of a connection.
            if outbox.is_empty() && outbox.is_plain() {
                return;
            }
            self.bytes_accepted.set(self.bytes_accepted.get() - outbox.len() as u64);
            outbox.clear();
            outbox.take_spent()
        };
        discard_all("drop of a buffer", spent);
    }

    /// A write error ended our direction: drops the output, and counts it.
    #[cold]
    pub(super) fn fail_output(&self, error: &Arc<io::Error>) {
        let unsent = self.buffered() as u64;
        {
            let mut rare = self.rare_mut();
            rare.dropped += unsent;
            rare.write_error = Some(error.clone());
        }
        self.advance_phase(ConnectionPhase::Finishing);
        self.set_mode(mode::WRITES_UNTIL_END, false);
        self.clear_outbox();
    }

    /// The error that ended our direction before the connection.
    pub(super) fn write_error(&self) -> Option<Arc<io::Error>> {
        if self.phase() == ConnectionPhase::Open {
            return None;
        }
        self.rare()?.write_error.clone()
    }

    /// Fails the Deferreds that wait for bytes to be sent.
    #[cold]
    pub(super) fn fail_waiting_for_output(&self, reason: &Reason) {
        let waiting = std::mem::take(&mut self.rare_mut().waiting);
        self.update_awaits_room();
        for (_, resolver) in waiting {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }

    pub(super) fn sub_in_flight(&self, sent: usize) {
        debug_assert!(sent <= self.in_flight.get(), "the driver sent more than it took");
        self.in_flight.set(self.in_flight.get().saturating_sub(sent));
    }

    pub(super) fn take_failure(&self) -> Option<Failure> {
        self.rare_if_used()?.why.take()
    }

    /// A close has begun: a paused producer must be resumed regardless of the buffer.
    pub(super) fn let_producer_finish(&self) {
        if let Some(mut registered) = self.producer_mut()
            && registered.pace == Pace::Paused
        {
            registered.pace = Pace::Finishing;
        }
        self.update_awaits_room();
    }

    /// Takes the producer's object out to call it; `None` without a producer, or if the object is
    /// already out.
    pub(super) fn take_producer(&self) -> Option<Box<dyn Producer>> {
        self.producer_mut()?.object.take()
    }

    /// Puts the object back, unless the producer has been unregistered since.
    pub(super) fn restore_producer(&self, object: Box<dyn Producer>) {
        let unregistered = match self.producer_mut() {
            Some(mut registered) if registered.object.is_none() => {
                registered.object = Some(object);
                None
            }
            _ => Some(object),
        };
        drop(unregistered);
    }

    /// A push producer is about to be paused.
    pub(super) fn set_producer_paused(&self) {
        if let Some(mut registered) = self.producer_mut() {
            debug_assert_eq!(registered.pace, Pace::Running, "only a running producer is paused");
            registered.pace = Pace::Paused;
        }
        self.update_awaits_room();
    }

    /// A producer is about to be resumed, or asked for the next piece.
    pub(super) fn set_producer_resumed(&self) {
        if let Some(mut registered) = self.producer_mut() {
            registered.pace = match registered.pace {
                Pace::Running | Pace::Paused | Pace::Finishing => Pace::Running,
                Pace::Pull { .. } => Pace::Pull { asked_at: Some(self.progress()) },
            };
        }
        self.update_awaits_room();
    }

    pub(super) fn remove_producer(&self) -> Option<Box<dyn Producer>> {
        let registered = self.producer.get().and_then(|producer| producer.take());
        self.update_awaits_room();
        registered?.object
    }

    /// The reason is final: the last call, `connection_lost`, follows.
    pub(super) fn set_lost(&self) -> Reason {
        self.phase.set(ConnectionPhase::Lost);
        let unused = self.rare_if_used().and_then(|mut rare| rare.upgrade.take());
        drop(unused);
        self.expected_reason()
    }

    #[inline]
    pub(crate) fn awaits_room(&self) -> bool {
        self.awaits_room.get()
    }

    /// Recomputes `awaits_room`. An unpaused push producer does not wait.
    fn update_awaits_room(&self) {
        let produces = self.producer().is_some_and(|producer| producer.pace != Pace::Running);
        self.awaits_room.set(produces || self.rare().is_some_and(|rare| !rare.waiting.is_empty()));
    }

    /// Whether a Deferred waits for `level`.
    pub(super) fn awaits(&self, level: Level) -> bool {
        self.rare().is_some_and(|rare| rare.waiting.iter().any(|(awaited, _)| *awaited == level))
    }

    /// Takes out the Deferreds that wait for `level`, in call order.
    pub(super) fn take_waiting(&self, level: Level) -> Vec<Resolver<()>> {
        let taken = |(awaited, _): &mut (Level, _)| *awaited == level;
        let taken = self.rare_mut().waiting.extract_if(.., taken).collect::<Vec<_>>();
        self.update_awaits_room();
        taken.into_iter().map(|(_, resolver)| resolver).collect()
    }

    /// Fires all Deferreds that wait for the loss, and fails those that wait for bytes to be sent or
    /// for the peer.
    pub(super) fn resolve_waiting(&self, reason: &Reason) {
        let (waiting, for_peer, for_loss) = match self.rare_if_used() {
            None => return,
            Some(mut rare) => (
                std::mem::take(&mut rare.waiting),
                std::mem::take(&mut rare.peer_end),
                std::mem::take(&mut rare.lost),
            ),
        };
        self.update_awaits_room();
        for resolver in waiting.into_iter().map(|(_, resolver)| resolver).chain(for_peer) {
            resolver.errback(ConnectionLost(reason.clone()));
        }
        for resolver in for_loss {
            resolver.callback(reason.clone());
        }
    }

    pub(crate) fn take_options(&self) -> Vec<SocketRequest> {
        std::mem::take(&mut self.rare_mut().options)
    }

    pub(crate) fn take_timers(&self) -> Vec<TimerKey> {
        self.rare_if_used().map(|mut rare| std::mem::take(&mut rare.timers)).unwrap_or_default()
    }

    /// Whether bytes left over by an upgrade or by layers wait for the protocol.
    pub(super) fn has_unread(&self) -> bool {
        self.rare().is_some_and(|rare| !rare.unread.is_empty())
    }

    pub(super) fn take_unread(&self) -> Vec<u8> {
        self.rare_if_used().map(|mut rare| std::mem::take(&mut rare.unread)).unwrap_or_default()
    }

    pub(super) fn set_unread(&self, unread: Vec<u8>) {
        if !unread.is_empty() {
            self.rare_mut().unread = unread;
        }
    }

    /// The rarely used state, if it was used.
    #[inline]
    fn rare(&self) -> Option<Ref<'_, RareState>> {
        Some(self.rare.get()?.borrow())
    }

    #[inline]
    fn rare_if_used(&self) -> Option<RefMut<'_, RareState>> {
        Some(self.rare.get()?.borrow_mut())
    }

    /// The rarely used state, created on first use.
    fn rare_mut(&self) -> RefMut<'_, RareState> {
        self.rare.get_or_init(Box::default).borrow_mut()
    }
}
