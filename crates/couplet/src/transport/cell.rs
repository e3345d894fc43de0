//! The other end of a [`Transport`](super::Transport): where the handles record, and what the
//! holder of the connection applies in the turn.
//!
//! INVARIANT (law 2): no field of a connection cell is borrowed while user code runs, and user objects
//! (producers, closures, foreign buffers) are dropped with no cell borrowed.

use std::cell::{Cell, RefCell, RefMut};
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::{ConnectionId, Producer, ProducerKind};
use crate::address::Address;
use crate::defer::{Failure, Resolver};
use crate::driver::{Key, SocketOption};
use crate::error::Reason;
use crate::panics::{discard, discard_all};
use crate::reactor::Reactor;
use crate::reactor::timers::{TimerKey, Timers};

/// What was recorded and not applied yet; a set of bits.
pub(super) mod asked {
    pub(crate) const LOSE: u16 = 1;
    pub(crate) const LOSE_WRITE: u16 = 2;
    pub(crate) const ABORT: u16 = 4;
    pub(crate) const FLOW: u16 = 8;
    pub(crate) const PRODUCER: u16 = 16;
    pub(crate) const OVERFLOW: u16 = 32;
    pub(crate) const DEADLINES: u16 = 64;
    pub(crate) const OPTIONS: u16 = 128;
}

/// Who holds the reading back; a set of bits.
pub(super) mod paused {
    /// `pause_producing`, until `resume_producing`.
    pub(crate) const BY_USER: u8 = 1;
    /// `throttle`, until its time has passed.
    pub(crate) const BY_THROTTLE: u8 = 2;
}

/// How far a connection is, as its handles see it: it holds from the call on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// `lose_write_connection` was called.
    Finishing,
    /// `lose_connection` or `fail` was called, or a callback panicked.
    Closing,
    /// Aborted, broken or closed; `connection_lost` has not been called yet.
    Ended,
    /// `connection_lost` was called.
    Lost,
}

/// A registered producer: the object is out while it is called.
pub(super) struct Registered {
    pub(super) kind: ProducerKind,
    pub(super) paused: bool,
    /// A close has begun: it is resumed once, so that it can finish.
    pub(super) to_finish: bool,
    /// How much had left when a pull producer was last asked.
    pub(super) asked_at: Option<u64>,
    pub(super) object: Option<Box<dyn Producer>>,
}

/// How far the buffer must be down for a Deferred to fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// `drained`: at the low mark or below it.
    LowMark,
    /// `flushed`.
    Nothing,
}

/// When the write side is full, and when it is drained. Bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermarks {
    pub(super) low: usize,
    pub(super) high: usize,
}

pub(crate) const LOW_MARK: usize = 16 * 1024;
pub(crate) const HIGH_MARK: usize = 64 * 1024;
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(30);

/// What is touched for every message stands first and together, so that it lies in few lines of
/// the processor's cache: with many connections that counts for more than instructions do.
#[repr(C)]
pub(crate) struct ConnectionCell {
    asked: Cell<u16>,
    /// The loop is going to look at this cell: it stands in the list of dirty ones, or the loop is
    /// calling its protocol.
    dirty: Cell<bool>,
    phase: Cell<Phase>,
    paused: Cell<u8>,
    /// A producer, a `drained` or a `flushed` waits for bytes to leave. Follows from `producer` and `rare`, and
    /// is kept here because every write asks: see [`update_awaits_room`](Self::update_awaits_room).
    awaits_room: Cell<bool>,
    /// Past this many buffered bytes the connection ends.
    pub(super) cap: Cell<usize>,
    /// Bytes that the driver took and that have not left.
    in_flight: Cell<usize>,
    outbox: RefCell<Outbox>,
    pub(crate) received_at: Cell<Instant>,
    pub(crate) bytes_in: Cell<u64>,
    /// Bytes that were written and not thrown away since.
    bytes_taken: Cell<u64>,
    // From here on nothing is touched for every message.
    pub(super) id: ConnectionId,
    pub(super) reactor: Reactor,
    pub(crate) peer: Address,
    pub(crate) host: Address,
    watermarks: Cell<Watermarks>,
    why: RefCell<Option<Failure>>,
    producer: RefCell<Option<Registered>>,
    pub(super) idle_timeout: Cell<Option<Duration>>,
    pub(super) close_deadline: Cell<Option<Duration>>,
    throttled_until: Cell<Option<Instant>>,
    pub(crate) made_at: Instant,
    dropped: Cell<u64>,
    /// An end that the protocol did not ask for is a reset.
    reset_unless_closed: Cell<bool>,
    /// What few connections use.
    rare: RefCell<Rare>,
}

impl Drop for ConnectionCell {
    /// A loop that was dropped leaves output in the wires that handles keep.
    fn drop(&mut self) {
        self.clear_outbox();
    }
}

#[derive(Default)]
struct Rare {
    waiting: Vec<(Level, Resolver<()>)>,
    options: Vec<SocketOption>,
    timers: Vec<TimerKey>,
    /// With so many it is time to forget those that are over.
    timers_enough: usize,
    /// Once `connection_lost` was called.
    reason: Option<Reason>,
}

impl ConnectionCell {
    pub(crate) fn new(
        id: ConnectionId,
        reactor: Reactor,
        peer: Address,
        host: Address,
    ) -> ConnectionCell {
        let now = reactor.now();
        ConnectionCell {
            id,
            peer,
            host,
            asked: Cell::new(0),
            dirty: Cell::new(false),
            phase: Cell::new(Phase::Open),
            paused: Cell::new(0),
            outbox: RefCell::new(Outbox::new(reactor.spares().clone())),
            in_flight: Cell::new(0),
            watermarks: Cell::new(Watermarks { low: LOW_MARK, high: HIGH_MARK }),
            cap: Cell::new(usize::MAX),
            why: RefCell::new(None),
            producer: RefCell::new(None),
            idle_timeout: Cell::new(None),
            close_deadline: Cell::new(Some(CLOSE_DEADLINE)),
            throttled_until: Cell::new(None),
            made_at: now,
            received_at: Cell::new(now),
            bytes_in: Cell::new(0),
            bytes_taken: Cell::new(0),
            dropped: Cell::new(0),
            reset_unless_closed: Cell::new(false),
            awaits_room: Cell::new(false),
            rare: RefCell::new(Rare::default()),
            reactor,
        }
    }

    // What handles do.

    #[inline]
    pub(super) fn write(&self, data: &[u8]) {
        let mut outbox = self.outbox.borrow_mut();
        let room = self.cap.get().saturating_sub(outbox.len() + self.in_flight.get());
        if self.phase.get() != Phase::Open || data.len() > room || data.is_empty() {
            drop(outbox);
            return self.write_late(data);
        }
        outbox.extend(data);
        drop(outbox);
        self.has_taken(data.len());
    }

    /// [`write`](Self::write) on a connection that is closing, past its hard cap, or of nothing.
    #[cold]
    fn write_late(&self, data: &[u8]) {
        if self.takes(data.len()) {
            self.outbox.borrow_mut().extend(data);
            self.has_taken(data.len());
        }
    }

    pub(super) fn write_bytes(&self, bytes: bytes::Bytes) {
        let len = bytes.len();
        if self.takes(len) {
            self.outbox.borrow_mut().push(bytes);
            self.has_taken(len);
        } else {
            discard("drop of a buffer", bytes);
        }
    }

    /// Whether `len` more bytes are taken, if there are any; notes a write past the hard cap.
    #[inline]
    fn takes(&self, len: usize) -> bool {
        let room = self.cap.get().saturating_sub(self.buffered());
        len > 0 && ((self.phase.get() == Phase::Open && len <= room) || self.takes_late(len, room))
    }

    #[inline]
    fn has_taken(&self, len: usize) {
        self.bytes_taken.set(self.bytes_taken.get() + len as u64);
        self.mark();
    }

    /// Whether bytes are taken on a connection that is closing, or past its hard cap.
    #[cold]
    fn takes_late(&self, len: usize, room: usize) -> bool {
        let open = match self.phase.get() {
            Phase::Open => true,
            Phase::Finishing | Phase::Closing => self.producer.borrow().is_some(),
            Phase::Ended | Phase::Lost => false,
        };
        if !open {
            self.dropped.set(self.dropped.get() + len as u64);
        } else if len > room {
            self.end_phase(Phase::Ended);
            self.ask(asked::OVERFLOW);
        }
        open && len <= room
    }

    #[inline]
    pub(super) fn ask(&self, what: u16) {
        self.asked.set(self.asked.get() | what);
        self.mark();
    }

    #[inline]
    fn mark(&self) {
        if !self.dirty.replace(true) {
            self.reactor.mark(self.id.key);
        }
    }

    /// Moves on to a later phase; never back.
    #[inline]
    pub(super) fn end_phase(&self, phase: Phase) {
        self.phase.set(self.phase.get().max(phase));
    }

    pub(super) fn set_paused(&self, by: u8, paused: bool) {
        let before = self.paused.get();
        let after = if paused { before | by } else { before & !by };
        if self.phase.get() < Phase::Closing {
            self.paused.set(after);
            if (before == 0) != (after == 0) {
                self.ask(asked::FLOW);
            }
        }
    }

    /// Holds the reading back until then, or until a later time that was set before.
    pub(super) fn throttle(&self, until: Instant) {
        self.throttled_until.set(self.throttled_until.get().max(Some(until)));
        self.set_paused(paused::BY_THROTTLE, true);
    }

    /// A throttle may be over.
    pub(super) fn end_throttle(&self) {
        if self.throttled_until.get().is_none_or(|until| until <= self.reactor.now()) {
            self.set_paused(paused::BY_THROTTLE, false);
        }
    }

    /// Past the hard cap an abort still counts, for it goes before `Overflow`.
    pub(super) fn abort(&self) {
        if self.phase.get() < Phase::Ended || self.asked.get() & asked::OVERFLOW != 0 {
            self.end_phase(Phase::Ended);
            self.ask(asked::ABORT);
        }
    }

    pub(super) fn fail(&self, failure: Failure) {
        let counts = self.phase.get() < Phase::Ended
            || self.asked.get() & (asked::ABORT | asked::OVERFLOW) != 0;
        // The first failure counts; a later one is dropped with the cell free.
        if counts && self.why.borrow().is_none() {
            self.why.replace(Some(failure));
        }
    }

    pub(super) fn register(&self, producer: Registered) {
        *self.producer.borrow_mut() = Some(producer);
        self.update_awaits_room();
        self.ask(asked::PRODUCER);
    }

    pub(super) fn unregister(&self) {
        let producer = self.producer.borrow_mut().take();
        self.update_awaits_room();
        if producer.is_some() {
            self.ask(asked::PRODUCER);
        }
    }

    /// Whether no more than that is buffered.
    pub(super) fn is_down_to(&self, level: Level) -> bool {
        let most = match level {
            Level::LowMark => self.watermarks().low,
            Level::Nothing => 0,
        };
        self.buffered() <= most
    }

    pub(super) fn add_waiting(&self, level: Level, resolver: Resolver<()>) {
        self.rare.borrow_mut().waiting.push((level, resolver));
        self.awaits_room.set(true);
        self.mark();
    }

    pub(super) fn add_option(&self, option: SocketOption) {
        if self.phase.get() >= Phase::Ended {
            return;
        }
        if let SocketOption::ResetUnlessClosed(on) = option {
            if self.phase.get() >= Phase::Finishing {
                return;
            }
            self.reset_unless_closed.set(on);
        }
        self.rare.borrow_mut().options.push(option);
        self.ask(asked::OPTIONS);
    }

    pub(crate) fn reset_unless_closed(&self) -> bool {
        self.reset_unless_closed.get()
    }

    /// Notes a timer, to be dropped with the connection. Those that were fired or cancelled are
    /// forgotten when they may be half of all.
    pub(crate) fn add_timer<T>(&self, timer: TimerKey, left: &Timers<T>) {
        let rare = &mut *self.rare.borrow_mut();
        if rare.timers.len() >= rare.timers_enough {
            rare.timers.retain(|timer| left.contains(*timer));
            rare.timers_enough = 2 * rare.timers.len() + 16;
        }
        rare.timers.push(timer);
    }

    // What both see.

    #[inline]
    pub(crate) fn key(&self) -> Key {
        self.id.key
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// The reason, once `connection_lost` was called.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.rare.borrow().reason.clone()
    }

    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    #[inline]
    pub(super) fn paused(&self) -> bool {
        self.paused.get() != 0
    }

    #[inline]
    pub(crate) fn buffered(&self) -> usize {
        self.outbox.borrow().len() + self.in_flight.get()
    }

    #[inline]
    pub(super) fn watermarks(&self) -> Watermarks {
        self.watermarks.get()
    }

    pub(super) fn set_watermarks(&self, marks: Watermarks) {
        self.watermarks.set(marks);
        self.ask(asked::PRODUCER);
    }

    pub(super) fn has_producer(&self) -> bool {
        self.producer.borrow().is_some()
    }

    /// A push producer that writes, and should not.
    pub(super) fn producer_must_pause(&self) -> bool {
        let over = self.buffered() > self.watermarks().high;
        over && matches!(
            &*self.producer.borrow(),
            Some(Registered { kind: ProducerKind::Push, paused: false, .. })
        )
    }

    /// A push producer that is paused while the buffer has drained, or when a close has begun; a
    /// pull producer that was never asked, or whose buffer has emptied since.
    pub(super) fn producer_must_resume(&self) -> bool {
        match &*self.producer.borrow() {
            None => false,
            Some(registered) => match registered.kind {
                ProducerKind::Push => {
                    let drained = self.buffered() <= self.watermarks().low;
                    registered.paused && (drained || registered.to_finish)
                }
                ProducerKind::Pull => registered
                    .asked_at
                    .is_none_or(|at| self.buffered() == 0 && self.bytes_out() > at),
            },
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    // What the holder does, in the turn.

    /// Whether the loop is going to look at this cell without being asked; and whether it was.
    #[inline]
    pub(crate) fn set_dirty(&self, dirty: bool) -> bool {
        self.dirty.replace(dirty)
    }

    #[inline]
    pub(super) fn take_asked(&self) -> u16 {
        self.asked.replace(0)
    }

    #[inline]
    pub(crate) fn has_asked(&self) -> bool {
        self.asked.get() != 0
    }

    #[inline]
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    pub(super) fn outbox_settles_down(&self) {
        self.outbox.borrow_mut().settle_down();
    }

    /// Bytes that wait in the outbox.
    pub(super) fn waiting(&self) -> usize {
        self.outbox.borrow().len()
    }

    /// What waits to be sent.
    #[inline(always)]
    pub(crate) fn outbox(&self) -> RefMut<'_, Outbox> {
        self.outbox.borrow_mut()
    }

    /// Drops the foreign buffers that have left: with nothing borrowed, for user code may run.
    #[cold]
    pub(crate) fn drop_spent(&self) {
        let spent = self.outbox.borrow_mut().take_spent();
        discard_all("drop of a buffer", spent);
    }

    pub(super) fn add_in_flight(&self, taken: usize) {
        self.in_flight.set(self.in_flight.get() + taken);
    }

    /// Bytes that have left.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_taken.get() - self.buffered() as u64
    }

    /// Throws away what was written and has not left.
    pub(super) fn clear_outbox(&self) {
        let spent = {
            let mut outbox = self.outbox.borrow_mut();
            self.bytes_taken.set(self.bytes_taken.get() - outbox.len() as u64);
            outbox.clear();
            outbox.take_spent()
        };
        discard_all("drop of a buffer", spent);
    }

    pub(super) fn sub_in_flight(&self, left: usize) {
        debug_assert!(left <= self.in_flight.get(), "more left than was taken");
        self.in_flight.set(self.in_flight.get().saturating_sub(left));
    }

    pub(super) fn take_why(&self) -> Option<Failure> {
        self.why.borrow_mut().take()
    }

    /// A close has begun: a paused producer is to be resumed, whatever is buffered.
    pub(super) fn let_producer_finish(&self) {
        if let Some(registered) = self.producer.borrow_mut().as_mut() {
            registered.to_finish = true;
        }
        self.update_awaits_room();
    }

    /// Takes the producer's object out to call it; `None` when there is none or it is out.
    pub(super) fn producer_out(&self) -> Option<Box<dyn Producer>> {
        self.producer.borrow_mut().as_mut()?.object.take()
    }

    /// Puts the object back, unless it was unregistered while it was out.
    pub(super) fn producer_back(&self, object: Box<dyn Producer>) {
        let left = match self.producer.borrow_mut().as_mut() {
            Some(registered) if registered.object.is_none() => {
                registered.object = Some(object);
                None
            }
            _ => Some(object),
        };
        drop(left);
    }

    pub(super) fn set_producer_paused(&self, paused: bool) {
        if let Some(registered) = self.producer.borrow_mut().as_mut() {
            registered.paused = paused;
            registered.to_finish = false;
            registered.asked_at = Some(self.bytes_out());
        }
        self.update_awaits_room();
    }

    pub(super) fn remove_producer(&self) -> Option<Box<dyn Producer>> {
        let registered = self.producer.borrow_mut().take();
        self.update_awaits_room();
        registered?.object
    }

    pub(super) fn set_lost(&self, reason: Reason) {
        self.phase.set(Phase::Lost);
        self.rare.borrow_mut().reason = Some(reason);
    }

    #[inline]
    pub(super) fn awaits_room(&self) -> bool {
        self.awaits_room.get()
    }

    /// A push producer that is not paused waits for nothing.
    fn update_awaits_room(&self) {
        let produces = match &*self.producer.borrow() {
            None => false,
            Some(producer) => producer.paused || producer.kind == ProducerKind::Pull,
        };
        self.awaits_room.set(produces || !self.rare.borrow().waiting.is_empty());
    }

    /// Whether a Deferred waits for that.
    pub(super) fn awaits(&self, level: Level) -> bool {
        self.rare.borrow().waiting.iter().any(|(awaited, _)| *awaited == level)
    }

    /// Takes out what waits for that, in the order of asking.
    pub(super) fn take_waiting(&self, level: Level) -> Vec<Resolver<()>> {
        let taken = |(awaited, _): &mut (Level, _)| *awaited == level;
        let taken = self.rare.borrow_mut().waiting.extract_if(.., taken).collect::<Vec<_>>();
        self.update_awaits_room();
        taken.into_iter().map(|(_, resolver)| resolver).collect()
    }

    /// Takes out whatever waits for bytes to leave.
    pub(super) fn take_all_waiting(&self) -> Vec<Resolver<()>> {
        let taken = std::mem::take(&mut self.rare.borrow_mut().waiting);
        self.update_awaits_room();
        taken.into_iter().map(|(_, resolver)| resolver).collect()
    }

    pub(crate) fn take_options(&self) -> Vec<SocketOption> {
        std::mem::take(&mut self.rare.borrow_mut().options)
    }

    pub(crate) fn take_timers(&self) -> Vec<TimerKey> {
        std::mem::take(&mut self.rare.borrow_mut().timers)
    }
}
