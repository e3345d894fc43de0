//! The state machine of one connection, without a loop and without a driver: protocol, cell, close
//! states, watermarks, producer, deadlines. Everything that affects the state of a connection lives
//! in this file.
//!
//! The holder of a [`Life`] (the loop, or a test) passes in events ([`feed`](Life::feed),
//! [`ended`](Life::ended), [`sent`](Life::sent)), applies the requests that handles recorded
//! ([`apply`](Life::apply)), and runs the due calls into user code ([`run_due`](Life::run_due)).
//! Each of these takes the time of the turn and returns [`Effects`], the holder's next steps.
//! Law 5: `connection_lost` is called exactly once, and nothing after it.
//!
//! ```text
//! Open{reading: On | Paused{since, fin} | Ended, writing: Open | Finishing{since} | Shut | Failed}
//!     → Flushing{since, our_fin} → Lingering{since} → Closed
//! ```
//!
//! | input | Open | Flushing | Lingering |
//! | --- | --- | --- | --- |
//! | bytes | On: deliver; else the driver holds them | discarded | discarded |
//! | FIN, or the end of the stream that the layers decode | On: read_closed; Paused: the driver holds it; if Shut: end, Done; if Failed: end, Lost | noted | end (why) |
//! | error | end, Lost | end: Lost if why is Done, else why | end (why) |
//! | write error | Failed, output dropped, write_closed (end, Lost if reading has ended) | as error | – |
//! | lose, fail, stop | Flushing, receive off, paused producer resumed; if Failed: end | fail replaces why unless Failed or Panicked | same |
//! | lose_write | Finishing → flush → FIN, write_closed (end if reading has ended) | – | – |
//! | abort | end, Aborted, RST | end, RST | same |
//! | panic | outbox dropped → Flushing | outbox dropped | – |
//! | all sent, no producer | Finishing → Shut | peer's end seen: end; else our FIN → Lingering | – |
//! | deadline | idle or stall: end, Timeout, RST; Finishing: as Flushing | close deadline: end, CloseTimedOut, RST | FIN timeout: end (why), plain close |
//!
//! An upgrade pauses reading until the next protocol is in place.
//!
//! With [`reset_unless_closed`](crate::SocketOption::ResetUnlessClosed), a stop and a panic before our
//! FIN end the connection with RST.
//!
//! Contract: 1, 3–5b, 11–15b, 17, 17a, 19–20b, 23–27, 29–31, 44, 45, 50, 50a, 51d–54, 55a–56, 58,
//! 60–62, 65, 66, 69, 70, 71b, 74b, 79, 80, 84, 105a, 162, 165.

use std::any::Any;
use std::io;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layered::Layered;

use super::Upgrade;
use super::cell::{ConnectionCell, ConnectionPhase, Level, mode, request};
use super::{Producer, Tell, Transport};
use crate::defer::Failure;
use crate::driver::{CloseMode, Outbox, WriteOutcome};
use crate::error::{By, Reason};
use crate::layers::PlaintextAfterUpgrade;
use crate::panics::{contain, discard, log_panic, panic_text, record_panic};
use crate::protocol::{HandOver, Protocol};
use crate::timers::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    On,
    /// Like `On`, but through layers.
    Layered,
    /// `fin`: the driver has already reported the peer's end of stream.
    Paused {
        since: Moment,
        fin: bool,
    },
    Ended,
}

impl Reading {
    /// Whether the end of the peer's stream has been reported.
    fn has_ended(self) -> bool {
        matches!(self, Reading::Ended | Reading::Paused { fin: true, .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// Shut down once everything is sent. No progress since `since`.
    Finishing {
        since: Moment,
    },
    Shut,
    /// A write error ended our direction; it is the reason expected so far.
    Failed,
}

impl Writing {
    /// Whether our direction has ended.
    fn has_ended(self) -> bool {
        matches!(self, Writing::Shut | Writing::Failed)
    }
}

/// The end of our stream, when a close begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OurFin {
    /// Not requested apart from the close.
    Pending,
    /// Requested: `write_closed` is due once everything is sent.
    Requested,
    Sent,
}

/// The reason of a close is in the cell.
#[derive(Debug)]
enum LifeState {
    Open {
        reading: Reading,
        writing: Writing,
    },
    /// Sending the remaining output before the close. No progress since `since`.
    Flushing {
        since: Instant,
        our_fin: OurFin,
    },
    /// Our FIN was sent at `since`; the peer's is awaited.
    Lingering {
        since: Instant,
    },
    Closed {
        mode: CloseMode,
    },
}

/// The holder's next steps for a [`Life`]; a set of bits. Orders to the driver are carried out in
/// the order of the constants. The bits between the orders and `RECORDED` are [`due`] calls into
/// user code.
#[must_use = "the connection stalls when this is not done"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effects(u32);

impl Effects {
    pub(crate) const NOTHING: Effects = Effects(0);
    /// Resume or pause reading in the driver.
    pub(crate) const RECEIVE: Effects = Effects(1);
    pub(crate) const STOP_RECEIVING: Effects = Effects(2);
    /// Send a FIN.
    pub(crate) const SHUT_WRITE: Effects = Effects(4);
    /// If the peer's FIN has arrived, call [`Life::peer_closed_first`] and fire the Deferreds that
    /// wait for it.
    pub(crate) const CHECK_FIN: Effects = Effects(8);
    /// Call [`Life::set_unsent`] with the system's count of unsent bytes.
    pub(crate) const MEASURE: Effects = Effects(16);
    /// Set the recorded socket options.
    pub(crate) const OPTIONS: Effects = Effects(32);
    /// Arm a timer for [`Life::deadline`].
    pub(crate) const DEADLINE: Effects = Effects(64);
    /// Calls into user code are due: [`Life::run_due`], or [`Life::lost`] on a closed connection.
    pub(crate) const CALLS: Effects = Effects(due::ANY);
    /// Handles recorded something: [`Life::apply`].
    pub(crate) const RECORDED: Effects = Effects(1 << 15);
    /// The outbox has bytes to send.
    pub(crate) const OUTPUT: Effects = Effects(1 << 16);

    /// Every layer is open: build the protocol.
    pub(crate) const OPENED: Effects = Effects(1 << 17);
    /// The output passes through layers first.
    pub(crate) const LAYERED: Effects = Effects(1 << 18);

    /// Only output follows, already encoded by every layer.
    pub(crate) const BELOW: Effects = Effects(1 << 19);

    /// The connection is kept for another process: at the end of the turn its record is due.
    pub(crate) const KEPT: Effects = Effects(1 << 20);

    /// The bits that remain until a call, or [`Life::end_keeping`], removes them.
    const LASTING: u32 = due::ANY | Effects::KEPT.0;

    const ORDERS: u32 = 127 | Effects::OPENED.0;

    /// Only the orders, which are returned once, without the bits that describe a lasting state.
    pub(crate) fn orders(self) -> Effects {
        Effects(self.0 & Effects::ORDERS)
    }

    /// The union of the two sets.
    pub(crate) fn and(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }

    /// True when all effects are among `what`.
    #[inline]
    pub(crate) fn is_at_most(self, what: Effects) -> bool {
        self.0 & !what.0 == 0
    }

    #[inline]
    pub(crate) fn has(self, what: Effects) -> bool {
        self.0 & what.0 != 0
    }

    /// Whether the driver has anything to do besides sending.
    #[inline]
    pub(crate) fn has_orders(self) -> bool {
        self.0 & Effects::ORDERS != 0
    }
}

/// Outcome of a driver's write for one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) outcome: WriteOutcome,
    /// The number of bytes queued before the write.
    pub(crate) before: usize,
    /// Foreign buffers were sent and must be dropped.
    pub(crate) spent: bool,
}

/// Pending calls into user code; a set of bits within the range that [`Effects`] reserves for them.
mod due {
    pub(super) const WRITE_CLOSED: u32 = 1 << 7;
    pub(super) const RESUMED: u32 = 1 << 8;
    pub(super) const PRODUCER_PAUSE: u32 = 1 << 9;
    pub(super) const PRODUCER_RESUME: u32 = 1 << 10;
    pub(super) const DRAINED: u32 = 1 << 11;
    pub(super) const FLUSHED: u32 = 1 << 12;
    pub(super) const DRAINING: u32 = 1 << 13;
    pub(super) const LOST: u32 = 1 << 14;
    pub(super) const ANY: u32 = LOST | (LOST - WRITE_CLOSED);
    /// Calls about output that is not sent yet.
    pub(super) const OF_OUTPUT: u32 = PRODUCER_PAUSE | PRODUCER_RESUME | DRAINED | FLUSHED;
    /// Calls that a move to another process makes needless: it reads on there, without the producer.
    pub(super) const OF_THE_MOVED: u32 = RESUMED | PRODUCER_PAUSE | PRODUCER_RESUME;
}

/// The Deferreds that fire when the buffer has drained to a level.
const FIRES: [(Level, u32); 2] = [(Level::LowMark, due::DRAINED), (Level::Nothing, due::FLUSHED)];

pub(crate) struct Life {
    transport: Transport,
    protocol: Box<dyn Protocol>,
    state: LifeState,
    /// Orders not yet returned to the holder, and due calls into user code not yet made.
    pending: u32,
    /// After a panic only `connection_lost` is called.
    panicked: bool,
    /// The reactor is stopping: a close does not wait for the peer.
    stopping: bool,
    /// The peer's FIN was reported. The stream that layers decode may end before or after it.
    peer_fin: bool,
    /// While flushing: the system's unsent bytes when last measured.
    unsent: Option<u32>,
    layered: Option<Box<Layered>>,
}

impl Life {
    /// A connection without a protocol, until [`begin`](Self::begin).
    pub(crate) fn new(cell: Rc<ConnectionCell>) -> Life {
        Life {
            transport: Transport { cell },
            protocol: Box::new(PlaceholderProtocol),
            state: LifeState::Open { reading: Reading::On, writing: Writing::Open },
            pending: 0,
            panicked: false,
            stopping: false,
            peer_fin: false,
            unsent: None,
            layered: None,
        }
    }

    fn drop_protocol(&mut self) {
        let protocol = std::mem::replace(&mut self.protocol, Box::new(PlaceholderProtocol));
        discard("drop of a protocol", protocol);
    }

    /// Drops the user's objects of a closed connection: protocol and layers.
    pub(crate) fn retire(&mut self) {
        self.drop_protocol();
        self.layered = None;
        if let Some(cell) = self.cell_mut() {
            cell.retire();
        }
    }

    /// The cell, unless handles to it exist.
    pub(crate) fn cell_mut(&mut self) -> Option<&mut ConnectionCell> {
        Rc::get_mut(&mut self.transport.cell)
    }

    pub(crate) fn cell(&self) -> &Rc<ConnectionCell> {
        &self.transport.cell
    }

    // Events.

    /// The protocol was built; `connection_made` is its first call.
    pub(crate) fn begin(&mut self, protocol: Box<dyn Protocol>) {
        self.protocol = protocol;
        self.begin_above_layers();
        self.queue_draining();
    }

    /// Calls `connection_made`.
    pub(crate) fn call_connection_made(&mut self, now: Instant) -> Effects {
        self.call(now, |protocol, transport| protocol.connection_made(transport));
        self.take_effects()
    }

    /// Delivers bytes from the driver. Law 4: the only way in.
    #[inline(always)]
    pub(crate) fn feed(&mut self, data: &[u8], now: Instant) -> Effects {
        let LifeState::Open { reading: Reading::On, .. } = &self.state else {
            return self.feed_slow(data, now);
        };
        let cell = &self.transport.cell;
        cell.bytes_in.set(cell.bytes_in.get() + data.len() as u64);
        cell.received_at.set(now);
        self.deliver(data, now);
        self.take_effects_unlayered()
    }

    /// The slow path of [`feed`](Self::feed): through layers, or after reading ended.
    #[inline(never)]
    fn feed_slow(&mut self, data: &[u8], now: Instant) -> Effects {
        match (&self.state, &self.layered) {
            (LifeState::Open { .. } | LifeState::Flushing { .. }, Some(_)) => {
                if self.feed_layers(data, now) {
                    return Effects::BELOW;
                }
            }
            (LifeState::Lingering { .. }, Some(_)) => self.linger_in_layers(data, now),
            _ => {
                let cell = &self.transport.cell;
                cell.bytes_in.set(cell.bytes_in.get() + data.len() as u64);
            }
        }
        self.take_effects()
    }

    /// A descriptor arrived, ahead of the bytes it came with.
    #[cfg(unix)]
    pub(crate) fn descriptor(&mut self, descriptor: OwnedFd, now: Instant) -> Effects {
        if let LifeState::Open { reading: Reading::On, .. } = &self.state {
            self.call(now, |protocol, transport| {
                protocol.descriptor_received(transport, descriptor);
            });
        }
        self.take_effects()
    }

    #[inline(always)]
    fn deliver(&mut self, data: &[u8], now: Instant) {
        if let Err(payload) = Life::hand_data(&mut *self.protocol, &self.transport, data) {
            self.panicked(now, payload);
        }
    }

    /// Law 4: the only caller of [`Protocol::data_received`]. The error is a panic payload.
    #[inline(always)]
    fn hand_data(
        protocol: &mut dyn Protocol,
        transport: &Transport,
        data: &[u8],
    ) -> Result<(), Box<dyn Any + Send>> {
        call(protocol, transport, |protocol, transport| protocol.data_received(transport, data))
    }

    /// The peer's end of stream.
    pub(crate) fn ended(&mut self, now: Instant) -> Effects {
        self.peer_fin = true;
        if self.layered.is_some() {
            self.resolve_peer_ended();
            self.socket_ended(now);
            self.watch_stall(now);
        } else {
            self.fin(now);
        }
        self.take_effects()
    }

    /// An error ended the connection.
    pub(crate) fn failed(&mut self, error: io::Error) -> Effects {
        match &self.state {
            LifeState::Lingering { .. } => self.end_as_planned(CloseMode::Normal),
            _ => self.end(Reason::Lost(Arc::new(error)), CloseMode::Normal),
        }
        self.take_effects()
    }

    /// A write error ended only our direction: unsent output is dropped, and reading continues to the
    /// end of the peer's stream.
    pub(crate) fn write_failed(&mut self, error: io::Error, now: Instant) -> Effects {
        let opens = !self.layers_are_open();
        let LifeState::Open { writing, .. } = &mut self.state else { return self.failed(error) };
        if opens {
            // A handshake needs both directions.
            return self.failed(error);
        }
        *writing = Writing::Failed;
        let error = Arc::new(error);
        let cell = &self.transport.cell;
        cell.fail_output(&error);
        cell.set_expected_reason(Reason::Lost(error));
        let producer = cell.remove_producer();
        self.clear_layers();
        self.pending &= !due::OF_OUTPUT;
        self.pending |= due::WRITE_CLOSED;
        self.order(Effects::DEADLINE);
        let reason = self.reason();
        self.transport.cell.fail_waiting_for_output(&reason);
        self.stop_producer(now, producer);
        self.take_effects()
    }

    /// The peer's end of stream has arrived; bytes before it may be unread.
    pub(crate) fn peer_ended(&mut self, now: Instant) -> Effects {
        self.resolve_peer_ended();
        self.watch_stall(now);
        self.take_effects()
    }

    /// The peer's end of stream was found behind bytes that a pause or a close left unread.
    pub(crate) fn found_peer_end(&mut self, now: Instant) {
        self.peer_closed_first();
        self.note_peer_end();
        self.watch_stall(now);
    }

    fn resolve_peer_ended(&mut self) {
        self.note_peer_end();
        for resolver in self.transport.cell.take_waiting_for_peer() {
            resolver.callback(());
        }
    }

    fn note_peer_end(&mut self) {
        let cell = &self.transport.cell;
        if !cell.has_mode(mode::PEER_ENDED) {
            cell.set_mode(mode::PEER_ENDED, true);
            cell.set_stall(None);
        }
    }

    fn fin(&mut self, now: Instant) {
        // Layers may decode the end before the socket's.
        self.resolve_peer_ended();
        match &mut self.state {
            LifeState::Open { reading, writing } => match reading {
                Reading::On | Reading::Layered => {
                    *reading = Reading::Ended;
                    let both = writing.has_ended();
                    self.call(now, |protocol, transport| protocol.read_closed(transport));
                    if both && matches!(self.state, LifeState::Open { .. }) {
                        self.both_ended();
                    }
                }
                // A driver does not report the end while reading is off.
                Reading::Paused { .. } | Reading::Ended => {}
            },
            LifeState::Lingering { .. } => self.end_as_planned(CloseMode::Normal),
            LifeState::Flushing { .. } | LifeState::Closed { .. } => {}
        }
        self.watch_stall(now);
    }

    // Requests of the handles.

    /// Applies the requests that handles recorded: states change now, calls into user code become
    /// due.
    pub(crate) fn apply(&mut self, now: Instant) -> Effects {
        self.apply_recorded(now);
        self.take_effects()
    }

    fn apply_recorded(&mut self, now: Instant) {
        let requests = self.transport.cell.take_requests();
        if requests & request::LAYER != 0 {
            self.start_layers(now);
        }
        if requests & request::DEADLINES != 0 {
            let cell = self.cell();
            // Output of this turn has not been tried yet.
            if cell.has_mode(mode::PEER_ENDED) || cell.blocked_since().is_some() {
                self.watch_stall(now);
            }
            self.order(Effects::DEADLINE);
        }
        if requests & request::OPTIONS != 0 {
            self.order(Effects::OPTIONS);
        }
        if requests & request::KEEP != 0 {
            self.order(Effects::KEPT);
        }
        if requests & request::FLOW != 0 {
            self.flow_changed(now);
        }
        if requests & request::PRODUCER != 0 {
            self.pending &= !(due::PRODUCER_PAUSE | due::PRODUCER_RESUME);
        }
        if requests & request::LOSE_WRITE != 0
            && let LifeState::Open { writing, .. } = &mut self.state
            && *writing == Writing::Open
        {
            *writing = Writing::Finishing { since: self.transport.cell.reactor.moment(now) };
            self.order(Effects::DEADLINE);
            self.transport.cell.let_producer_finish();
        }
        if requests & (request::LOSE | request::ABORT | request::OVERFLOW) != 0
            && let Some(failure) = self.transport.cell.take_failure()
        {
            self.lose(Reason::Failed(failure), now);
        } else if requests & request::LOSE != 0 {
            self.lose(Reason::Done(By::Us), now);
        }
        if requests & request::OVERFLOW != 0 {
            self.end(Reason::Overflow, CloseMode::Reset);
        }
        if requests & request::ABORT != 0 {
            self.end(Reason::Aborted, CloseMode::Reset);
        }
        if requests != 0 {
            self.check_flushed(now);
        }
        self.check_room();
    }

    /// The reactor is stopping.
    pub(crate) fn stop(&mut self, now: Instant) -> Effects {
        self.stopping = true;
        self.apply_recorded(now);
        match &self.state {
            LifeState::Open { .. } => self.shut_down(now),
            LifeState::Lingering { .. } => self.end_as_planned(CloseMode::Normal),
            LifeState::Flushing { .. } => self.check_flushed(now),
            LifeState::Closed { .. } => {}
        }
        self.take_effects()
    }

    /// Asks the protocol to finish, once. `patience` is a silent peer's time for its part.
    pub(crate) fn drain(&mut self, patience: Duration) -> Effects {
        if !self.transport.cell.is_draining() {
            self.transport.cell.set_draining(patience);
            self.queue_draining();
        }
        self.take_effects()
    }

    /// Makes `draining` due, unless the connection has no protocol yet or is already closing.
    fn queue_draining(&mut self) {
        if self.transport.cell.is_draining() && self.is_open() && !self.is_opening() {
            self.pending |= due::DRAINING;
        }
    }

    /// The protocol's time to finish is over: closes an open connection as a stop does, but waits
    /// for the peer as any other close does.
    pub(crate) fn end_drain(&mut self, now: Instant) -> Effects {
        self.apply_recorded(now);
        if self.is_open() {
            self.shut_down(now);
        }
        self.take_effects()
    }

    /// Whether shutting down resets the connection: the protocol asked for that, and has not
    /// requested the end of its stream.
    pub(crate) fn shuts_down_by_reset(&self) -> bool {
        matches!(self.state, LifeState::Open { writing: Writing::Open, .. })
            && self.transport.cell.reset_unless_closed()
    }

    /// Since when the connection has waited only for the peer's end of stream.
    pub(crate) fn awaits_peer_since(&self) -> Option<Instant> {
        match &self.state {
            LifeState::Lingering { since } => Some(*since),
            _ => None,
        }
    }

    /// Whether a cut resets the connection, so that the peer notices it.
    pub(crate) fn is_cut_by_reset(&self) -> bool {
        self.transport.cell.buffered() > 0 || self.must_reset()
    }

    /// Closes an open connection on behalf of the reactor.
    fn shut_down(&mut self, now: Instant) {
        if self.shuts_down_by_reset() {
            return self.end(Reason::Shutdown, CloseMode::Reset);
        }
        self.lose(Reason::Shutdown, now);
        self.check_flushed(now);
    }

    /// The reactor has stopped: ends a remaining connection now.
    pub(crate) fn cut(&mut self, now: Instant) -> Effects {
        self.apply_recorded(now);
        let mode = if self.is_cut_by_reset() { CloseMode::Reset } else { CloseMode::Normal };
        match &self.state {
            LifeState::Open { .. } | LifeState::Flushing { .. } => self.end(Reason::Shutdown, mode),
            _ => self.end_as_planned(mode),
        }
        self.take_effects()
    }

    /// Whether the connection must end with a reset: the protocol has not ended its stream, and the
    /// peer would mistake a FIN for the end of a message.
    fn must_reset(&self) -> bool {
        let fin_sent = match &self.state {
            LifeState::Open { writing, .. } => writing.has_ended(),
            LifeState::Flushing { our_fin, .. } => *our_fin == OurFin::Sent,
            LifeState::Lingering { .. } | LifeState::Closed { .. } => true,
        };
        !fin_sent && self.transport.cell.reset_unless_closed()
    }

    fn lose(&mut self, reason: Reason, now: Instant) {
        match &mut self.state {
            // Nothing can be sent.
            LifeState::Open { writing: Writing::Failed, .. } => self.end(reason, CloseMode::Normal),
            LifeState::Open { reading, writing } => {
                let ended = reading.has_ended();
                let receiving = matches!(reading, Reading::On | Reading::Layered);
                let our_fin = match writing {
                    Writing::Open => OurFin::Pending,
                    Writing::Finishing { .. } => OurFin::Requested,
                    Writing::Shut | Writing::Failed => OurFin::Sent,
                };
                let why = match reason {
                    Reason::Done(_) if ended => Reason::Done(By::Peer),
                    other => other,
                };
                if (receiving || ended && !self.peer_fin) && self.layers_are_open() {
                    self.order_receive(false);
                }
                self.transport.cell.set_expected_reason(why);
                self.state = LifeState::Flushing { since: now, our_fin };
                self.transport.cell.advance_phase(ConnectionPhase::Closing);
                self.pending &= !(due::RESUMED | due::DRAINING);
                self.order(Effects::DEADLINE);
                if !self.peer_fin {
                    self.order(Effects::CHECK_FIN);
                }
                self.transport.cell.let_producer_finish();
                self.check_room();
            }
            _ if reason.rank() == 0 => self.improve_reason(reason),
            // The reason may hold a user's error, whose drop is user code.
            _ => discard("drop of a reason", reason),
        }
    }

    /// Replaces the reason of a close by one of a lower rank.
    fn improve_reason(&mut self, reason: Reason) {
        if reason.rank() < self.transport.cell.with_reason(Reason::rank) {
            self.transport.cell.set_expected_reason(reason);
        } else {
            discard("drop of a reason", reason);
        }
    }

    fn instant(&self, moment: Moment) -> Instant {
        self.transport.cell.reactor.instant(moment)
    }

    /// The peer's FIN had arrived when our close took effect, but was not reported, because unread
    /// bytes preceded it. Those are now discarded.
    fn peer_closed_first(&mut self) {
        if matches!(self.state, LifeState::Flushing { .. } | LifeState::Lingering { .. })
            && self.transport.cell.with_reason(Reason::is_clean)
        {
            self.transport.cell.set_expected_reason(Reason::Done(By::Peer));
        }
    }

    /// The deadline of output that has made no progress since `since`.
    fn close_deadline(&self, since: Instant) -> Option<Instant> {
        self.end_limit(since, ConnectionCell::close_deadline)
    }

    /// The deadline of the peer's FIN after ours was sent at `since`.
    fn fin_deadline(&self, since: Instant) -> Option<Instant> {
        self.end_limit(since, ConnectionCell::fin_timeout)
    }

    /// When a wait of the end that began at `since` is over. A protocol sets its limit; without one,
    /// the deadline of the layers that did not open limits both: an alert has time to leave, and the
    /// peer to close.
    fn end_limit(
        &self,
        since: Instant,
        set: impl FnOnce(&ConnectionCell) -> Option<Duration>,
    ) -> Option<Instant> {
        // Past the end of the clock: no deadline.
        let limit = || set(self.cell()).and_then(|limit| since.checked_add(limit));
        self.opening_deadline().or_else(limit)
    }

    fn flow_changed(&mut self, now: Instant) {
        let LifeState::Open { reading, .. } = &mut self.state else {
            return;
        };
        let since = || self.transport.cell.reactor.moment(now);
        match (*reading, self.transport.cell.paused()) {
            (Reading::On | Reading::Layered, true) => {
                *reading = Reading::Paused { since: since(), fin: false };
                if self.layers_are_open() {
                    self.order_receive(false);
                }
            }
            (Reading::Paused { .. }, false) => self.pending |= due::RESUMED,
            // Paused and resumed before the pause was applied; bytes had to wait in between.
            (Reading::On | Reading::Layered, false)
                if self.transport.cell.has_unread()
                    || self.layered.as_deref().is_some_and(Layered::is_behind) =>
            {
                *reading = Reading::Paused { since: since(), fin: false };
                self.pending |= due::RESUMED;
            }
            _ => {}
        }
        if self.transport.cell.awaits_upgrade() {
            self.pending |= due::RESUMED;
        }
        let cell = &self.transport.cell;
        let may_end = cell.paused() && !cell.has_mode(mode::PEER_ENDED);
        if cell.awaits_peer_end() || may_end && cell.half_close_timeout().is_some() {
            // The FIN may already be queued behind unread bytes, which a pause holds back.
            self.order(Effects::CHECK_FIN);
        }
    }

    // Leaving.

    /// Asks the protocol to hand the connection over to another process. If it does, nothing is
    /// recorded any more, and [`leave`](Self::leave) follows.
    pub(crate) fn hand_over(&mut self, now: Instant, most: usize) -> (Option<HandOver>, Effects) {
        self.apply_recorded(now);
        if !self.can_leave(most) {
            return (None, self.take_effects());
        }
        let mut said = None;
        self.call(now, |protocol, _| said = protocol.hand_over());
        match said {
            // After a panic or a close it stays.
            Some(mut said) if self.transport.cell.phase() < ConnectionPhase::Finishing => {
                said.append_unread(&mut self.transport.cell.take_unread());
                (Some(said), Effects::NOTHING)
            }
            _ => (None, self.take_effects()),
        }
    }

    /// Whether the connection is as its protocol sees it: without layers, open in both directions,
    /// with no call due that another process would miss, and with at most this much output.
    fn can_leave(&self, most: usize) -> bool {
        let cell = &self.transport.cell;
        self.is_whole()
            && self.pending & due::ANY & !due::OF_THE_MOVED == 0
            && !(cell.is_starting() || cell.awaits_upgrade())
            && cell.in_flight() == 0
            && cell.buffered() <= most
            && cell.has_bytes_alone()
            && cell.to_proxy_header().is_some()
    }

    /// Whether the connection has no layers and is open in both directions.
    fn is_whole(&self) -> bool {
        let is_open = match &self.state {
            LifeState::Open { reading, writing } => {
                !reading.has_ended() && *writing == Writing::Open
            }
            _ => false,
        };
        is_open && !self.peer_fin && !self.panicked && self.layered.is_none()
    }

    /// Another process has the connection. The protocol is dropped.
    pub(crate) fn leave(&mut self) {
        self.drop_protocol();
        self.transport.cell.set_expected_reason(Reason::HandedOver);
        self.close(CloseMode::Normal);
    }

    // Keeping.

    /// Whether another process could continue the connection from the kept state.
    pub(crate) fn can_be_kept(&self) -> bool {
        let cell = &self.transport.cell;
        self.is_whole() && cell.phase() == ConnectionPhase::Open && !cell.is_starting()
    }

    /// Whether the kept state describes the connection after all bytes that were received.
    pub(crate) fn is_kept_up(&self) -> bool {
        let cell = &self.transport.cell;
        !cell.has_unread() && !cell.awaits_upgrade() && !cell.has_mode(mode::IN_MESSAGE)
    }

    /// Nothing is kept any more. Returns true if a keeper may have the connection.
    pub(crate) fn end_keeping(&mut self) -> bool {
        if self.pending & Effects::KEPT.0 == 0 {
            return false;
        }
        self.pending &= !Effects::KEPT.0;
        self.transport.cell.end_keeping();
        self.transport.cell.has_mode(mode::SHARED)
    }

    // Writing.

    /// The driver wrote from the outbox; `written` is the outcome.
    #[inline(always)]
    pub(crate) fn wrote(&mut self, written: Written, now: Instant) -> Effects {
        if self.is_simple(written) { Effects::NOTHING } else { self.wrote_slow(written, now) }
    }

    /// [`wrote`](Self::wrote) from the bottom of the layers, which held everything in flight.
    #[inline(always)]
    pub(crate) fn wrote_below(&mut self, written: Written, now: Instant) -> Effects {
        if !self.is_simple(written) {
            return self.wrote_slow(written, now);
        }
        self.transport.cell.add_wire_bytes(0, written.before);
        self.transport.cell.set_in_flight(0);
        Effects::NOTHING
    }

    /// Whether a write has no consequences: no bytes remain, and nothing waited for progress.
    #[inline(always)]
    fn is_simple(&self, written: Written) -> bool {
        written.outcome == WriteOutcome::All
            && matches!(self.state, LifeState::Open { writing: Writing::Open, .. })
            && !self.transport.cell.awaits_room()
            && !written.spent
    }

    /// The slow path of [`wrote`](Self::wrote): bytes remain, a caller waits for progress, or the
    /// connection has layers.
    #[cold]
    pub(crate) fn wrote_slow(&mut self, written: Written, now: Instant) -> Effects {
        let Written { outcome, before, spent } = written;
        let n = before - self.waiting();
        debug_assert!(
            outcome != WriteOutcome::All || n == before,
            "All means that nothing remains"
        );
        let left = match outcome {
            WriteOutcome::Taken(taken) => {
                self.note_waiting(now);
                self.add_in_flight(taken);
                n - taken
            }
            WriteOutcome::Blocked => {
                self.note_waiting(now);
                self.check_files();
                if n > 0 {
                    self.trim();
                }
                n
            }
            WriteOutcome::All => n,
        };
        self.note_sent_from_layers(left);
        // With layers, `All` may cover only a part of the output.
        if self.pending == 0 && self.is_simple(written) && !self.is_full() {
            return Effects::NOTHING;
        }
        self.after_progress(left > 0 || self.unsent.is_none(), now);
        let effects = self.take_effects_after_send();
        if spent {
            // Last, because user code may run and write.
            self.drop_spent();
        }
        effects
    }

    /// Ends the connection if a part of a file can't be sent, so that nothing follows in its place.
    #[cold]
    pub(super) fn check_files(&mut self) {
        let below = self.bottom().and_then(Outbox::take_failure);
        if let Some(error) = below.or_else(|| self.transport.cell.take_file_error()) {
            self.end(Reason::Lost(Arc::new(error)), CloseMode::Reset);
        }
    }

    /// Has the loop count the output, if it limits the output of connections.
    fn note_waiting(&mut self, now: Instant) {
        self.watch_stall(now);
        let cell = &self.transport.cell;
        cell.note_blocked(now);
        if !cell.has_mode(mode::WAITS) && cell.reactor.note_waiting(cell.key()) {
            cell.set_mode(mode::WAITS, true);
        }
    }

    /// The loop holds too much output: pauses the producer before the buffer is full.
    pub(crate) fn hold_back(&mut self, now: Instant) -> Effects {
        let cell = &self.transport.cell;
        if cell.producer_can_wait() && cell.phase() < ConnectionPhase::Ended && !self.panicked {
            cell.set_producer_paused();
            self.call_producer(now, |producer| producer.pause_producing());
        }
        self.take_effects()
    }

    /// The loop holds too much output, most of it this connection's.
    pub(crate) fn shed(&mut self, _: Instant) -> Effects {
        self.end(Reason::Overflow, CloseMode::Reset);
        self.take_effects()
    }

    /// The driver has sent `n` taken bytes.
    pub(crate) fn sent(&mut self, n: usize, now: Instant) -> Effects {
        self.sub_in_flight(n);
        self.after_progress(true, now);
        self.take_effects()
    }

    /// The system accepts bytes again.
    pub(crate) fn has_room(&mut self, now: Instant) -> Effects {
        self.after_progress(false, now);
        self.take_effects()
    }

    fn after_progress(&mut self, progress: bool, now: Instant) {
        if progress && self.note_progress(now) {
            self.order(Effects::MEASURE);
        }
        self.check_room();
        self.check_full();
        self.check_flushed(now);
    }

    /// Bytes were sent; returns true when a close waits for that.
    fn note_progress(&mut self, now: Instant) -> bool {
        match &mut self.state {
            LifeState::Open { writing: Writing::Finishing { since }, .. } => {
                *since = self.transport.cell.reactor.moment(now);
                true
            }
            LifeState::Flushing { since, .. } => {
                *since = now;
                true
            }
            _ => false,
        }
    }

    /// Queues a producer's resume and the firing of `writable` and `flushed` once the buffer has
    /// drained far enough.
    fn check_room(&mut self) {
        if !self.transport.cell.awaits_room() || self.closed().is_some() {
            return;
        }
        if self.transport.cell.producer_must_resume() {
            self.pending |= due::PRODUCER_RESUME;
        }
        for (level, due) in FIRES {
            if self.transport.cell.is_drained_to(level) && self.transport.cell.awaits(level) {
                self.pending |= due;
            }
        }
    }

    /// Whether a producer must pause unless the driver can send enough right now.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.transport.cell.producer_must_pause()
    }

    /// Queues a producer's pause if the buffer is still above the high mark after a send.
    fn check_full(&mut self) {
        if self.is_full() && self.closed().is_none() {
            self.pending |= due::PRODUCER_PAUSE;
        }
    }

    /// Continues a close once everything written is sent and no producer will write more.
    fn check_flushed(&mut self, now: Instant) {
        let waits = match &self.state {
            LifeState::Open { writing, .. } => !matches!(writing, Writing::Finishing { .. }),
            LifeState::Flushing { .. } => false,
            LifeState::Lingering { .. } | LifeState::Closed { .. } => true,
        };
        if waits || self.transport.cell.has_producer() {
            return;
        }
        if self.closes_in_handshake() && matches!(self.state, LifeState::Flushing { .. }) {
            return self.end_as_planned(CloseMode::Reset);
        }
        if self.transport.cell.buffered() > 0 || !self.close_layers(now) {
            return;
        }
        match &mut self.state {
            LifeState::Open { writing, .. } => {
                *writing = Writing::Shut;
                self.order(Effects::SHUT_WRITE);
                self.pending |= due::WRITE_CLOSED;
            }
            LifeState::Flushing { our_fin, .. } => {
                if *our_fin == OurFin::Requested {
                    self.pending |= due::WRITE_CLOSED;
                }
                let shut = *our_fin != OurFin::Sent;
                let at_once = self.transport.cell.has_mode(mode::CLOSES_AT_ONCE);
                if at_once && shut {
                    // Other processes may share the socket, so a close without a shutdown would not
                    // send a FIN.
                    self.order(Effects::SHUT_WRITE);
                    return self.end_as_planned(CloseMode::Normal);
                }
                if self.peer_has_ended() || self.stopping || at_once {
                    return self.end_as_planned(CloseMode::Normal);
                }
                if shut {
                    self.order(Effects::SHUT_WRITE);
                }
                self.await_peer(now);
            }
            LifeState::Lingering { .. } | LifeState::Closed { .. } => {}
        }
    }

    /// Both streams of the protocol have ended.
    fn both_ended(&mut self) {
        self.end(Reason::Done(By::Peer), CloseMode::Normal);
    }

    /// Our end was sent, and the peer's has not been seen.
    fn await_peer(&mut self, now: Instant) {
        self.state = LifeState::Lingering { since: now };
        self.pending &= !Effects::MEASURE.0;
        self.order_receive(true);
        self.order(Effects::DEADLINE);
        if self.end_is_held(now) {
            self.peer_closed_first();
            self.end_as_planned(CloseMode::Normal);
        }
    }

    // Deadlines.

    /// When to call [`timed_out`](Self::timed_out).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let own = self.own_deadline().into_iter();
        own.chain(self.stall_deadline()).chain(self.layers_deadline()).min()
    }

    fn own_deadline(&self) -> Option<Instant> {
        match &self.state {
            LifeState::Open { writing: Writing::Finishing { since }, .. } => {
                let closing = self.close_deadline(self.instant(*since));
                self.idle_deadline().into_iter().chain(closing).min()
            }
            LifeState::Open { .. } => self.idle_deadline(),
            LifeState::Flushing { since, .. } => self.close_deadline(*since),
            LifeState::Lingering { since } => self.fin_deadline(*since),
            LifeState::Closed { .. } => None,
        }
    }

    /// The idle deadline of an open connection; `None` while reading is paused.
    fn idle_deadline(&self) -> Option<Instant> {
        match &self.state {
            LifeState::Open {
                reading: Reading::On | Reading::Layered | Reading::Ended, ..
            } if !self.is_opening() => {
                let timeout = self.transport.cell.idle_timeout()?;
                self.transport.cell.received_at.get().checked_add(timeout)
            }
            _ => None,
        }
    }

    /// The deadline may have passed; `unsent` is the system's count of unsent bytes. If the
    /// deadline has moved since, only rearms the timer.
    pub(crate) fn timed_out(&mut self, now: Instant, unsent: Option<usize>) -> Effects {
        self.layers_timed_out(now);
        self.order(Effects::DEADLINE);
        self.check_stall(now);
        if self.own_deadline().is_none_or(|deadline| now < deadline) {
            return self.take_effects();
        }
        match &self.state {
            LifeState::Open { .. }
                if self.idle_deadline().is_some_and(|deadline| deadline <= now) =>
            {
                self.end(Reason::Timeout, CloseMode::Reset);
            }
            LifeState::Open { .. } | LifeState::Flushing { .. } => {
                self.flush_timed_out(now, unsent)
            }
            LifeState::Lingering { .. } => self.end_as_planned(CloseMode::Normal),
            LifeState::Closed { .. } => {}
        }
        self.take_effects()
    }

    /// Our buffer made no progress before the deadline. Progress in the system's buffer counts too.
    fn flush_timed_out(&mut self, now: Instant, unsent: Option<usize>) {
        let unsent = unsent.map(saturated);
        if matches!((unsent, self.unsent), (Some(n), Some(before)) if n < before) {
            self.note_progress(now);
            self.unsent = unsent;
        } else if self.stopping {
            self.end(Reason::Shutdown, CloseMode::Reset);
        } else {
            self.end(Reason::CloseTimedOut, CloseMode::Reset);
        }
    }

    /// Records the system's count of unsent bytes, for comparison at the next deadline.
    pub(crate) fn set_unsent(&mut self, unsent: Option<usize>) {
        self.unsent = unsent.map(saturated);
    }

    // The end.

    fn end_as_planned(&mut self, mode: CloseMode) {
        if matches!(self.state, LifeState::Flushing { .. } | LifeState::Lingering { .. }) {
            self.close(mode);
        }
    }

    /// Ends the connection with `reason` or the planned reason, by rank.
    fn end(&mut self, reason: Reason, mode: CloseMode) {
        match self.state {
            LifeState::Open { writing: Writing::Failed, .. } => self.improve_reason(reason),
            LifeState::Open { .. } => self.transport.cell.set_expected_reason(reason),
            _ => self.improve_reason(reason),
        }
        if self.closed().is_none() {
            self.close(mode);
        }
    }

    fn close(&mut self, mode: CloseMode) {
        self.state = LifeState::Closed { mode };
        self.transport.cell.advance_phase(ConnectionPhase::Ended);
        // All output may have left in this turn, before the close.
        let sent = self.transport.cell.buffered() == 0;
        self.transport.cell.clear_outbox();
        self.clear_layers();
        // A normal close keeps a due `write_closed`, called before `connection_lost`, and a pending
        // FIN; everything else is dropped, but for the keeper.
        let left = due::WRITE_CLOSED | Effects::SHUT_WRITE.0;
        let left = if mode == CloseMode::Normal { left } else { 0 };
        let fires = if sent { due::DRAINED | due::FLUSHED } else { 0 };
        self.pending &= left | fires | Effects::KEPT.0;
        self.pending |= due::LOST;
    }

    /// How the driver must close the connection once it has ended, known before the due calls run.
    pub(crate) fn closed(&self) -> Option<CloseMode> {
        match &self.state {
            LifeState::Closed { mode } => Some(*mode),
            _ => None,
        }
    }

    // Calls into user code.

    #[inline(always)]
    fn call(&mut self, now: Instant, f: impl FnOnce(&mut dyn Protocol, &Transport)) {
        if let Err(payload) = call(&mut *self.protocol, &self.transport, f) {
            self.panicked(now, payload);
        }
    }

    /// A callback panicked: only this connection is lost.
    #[cold]
    fn panicked(&mut self, now: Instant, payload: Box<dyn Any + Send>) {
        let text = panic_text(payload);
        log_error!(connection = %self.transport.cell.id(), peer = %self.transport.cell.peer, %text, "a callback panicked");
        record_panic("a callback of a protocol", &text);
        self.fail_after_panic(&text, now);
    }

    /// The protocol or a layer panicked: from now on only `connection_lost` is called.
    #[cold]
    fn fail_after_panic(&mut self, text: &str, now: Instant) {
        // Decided before a recorded close applies: the output is dropped here, so a FIN would end a
        // truncated message.
        let must_reset = self.must_reset();
        self.panicked = true;
        self.transport.cell.clear_outbox();
        self.clear_layers();
        self.transport.cell.advance_phase(ConnectionPhase::Closing);
        let producer = self.transport.cell.remove_producer();
        // Requests recorded before the panic still count: an abort stays an abort, and an earlier
        // failure takes precedence.
        self.apply_recorded(now);
        self.lose(Reason::Panicked(text.into()), now);
        if must_reset {
            self.end_as_planned(CloseMode::Reset);
        }
        self.check_flushed(now);
        stop(producer);
    }

    /// Runs a queued call.
    pub(crate) fn tell(&mut self, tell: Box<dyn Tell>, now: Instant) -> Effects {
        if self.panicked {
            let reason = self.reason();
            contain("drop of a call", move || tell.lost(&reason));
        } else {
            self.call(now, |protocol, transport| tell.run(protocol, transport));
        }
        self.take_effects()
    }

    /// Runs the due calls of a connection that is still alive.
    pub(crate) fn run_due(&mut self, now: Instant) -> Effects {
        let due = self.pending & due::ANY;
        self.pending &= !due::ANY;
        if self.panicked {
            return self.take_effects();
        }
        if due & due::WRITE_CLOSED != 0 {
            self.write_closed(now);
        }
        if due & due::RESUMED != 0 {
            self.resumed(now);
        }
        // An upgrade in this call may have queued `draining` for the next protocol, which is asked
        // once.
        let is_draining = (due | self.pending) & due::DRAINING != 0;
        self.pending &= !due::DRAINING;
        if is_draining && self.transport.cell.phase() < ConnectionPhase::Closing {
            self.call(now, |protocol, transport| protocol.draining(transport));
        }
        if due & due::PRODUCER_PAUSE != 0 {
            self.pause_producer(now);
        }
        if due & due::PRODUCER_RESUME != 0 {
            self.resume_producer(now);
        }
        if self.transport.cell.phase() < ConnectionPhase::Ended {
            self.fire_drained(due);
        }
        self.take_effects()
    }

    /// Fires the due Deferreds that wait for bytes to be sent. Discarded bytes were not sent:
    /// Deferreds that wait for them fail when the connection is lost.
    fn fire_drained(&mut self, due: u32) {
        for (level, fires) in FIRES {
            // Calls before this one may have written.
            let fires = due & fires != 0 && self.transport.cell.is_drained_to(level);
            if fires && !self.panicked {
                for resolver in self.transport.cell.take_waiting(level) {
                    resolver.callback(());
                }
            }
        }
    }

    fn write_closed(&mut self, now: Instant) {
        self.call(now, |protocol, transport| protocol.write_closed(transport));
        if let LifeState::Open { reading: Reading::Ended, .. } = &self.state {
            self.both_ended();
        }
    }

    fn resumed(&mut self, now: Instant) {
        // The call before this one may have paused or closed, which takes effect immediately.
        if !self.is_open() || self.transport.cell.phase() >= ConnectionPhase::Closing {
            return;
        }
        if let Some(upgrade) = self.transport.cell.take_upgrade() {
            self.upgrade(upgrade, now);
        } else if self.wants_to_read() {
            self.call(now, |protocol, transport| protocol.reading_resumed(transport));
        }
        // Bytes left over by an upgrade precede new ones. A layer that the protocol has started
        // fails because of them.
        let starts = self.transport.cell.is_starting();
        if self.wants_to_read() && !starts {
            self.deliver_unread(now);
        }
        if self.wants_to_read() {
            self.continue_reading(now);
        }
    }

    fn deliver_unread(&mut self, now: Instant) {
        let unread = self.transport.cell.take_unread();
        if !unread.is_empty() {
            self.deliver(&unread, now);
        }
    }

    /// Whether reading was paused and may continue: neither a new pause nor a close has been
    /// requested.
    fn wants_to_read(&self) -> bool {
        let held = matches!(self.state, LifeState::Open { reading: Reading::Paused { .. }, .. });
        held && !self.transport.cell.paused()
            && self.transport.cell.phase() < ConnectionPhase::Closing
    }

    fn continue_reading(&mut self, now: Instant) {
        let LifeState::Open { reading, .. } = &mut self.state else { return };
        let Reading::Paused { since, fin } = *reading else { return };
        *reading = if self.layered.is_some() { Reading::Layered } else { Reading::On };
        let paused = now.saturating_duration_since(self.instant(since));
        let received = self.transport.cell.received_at.get();
        self.transport.cell.received_at.set(received.checked_add(paused).unwrap_or(now));
        self.order(Effects::DEADLINE);
        if fin {
            return self.fin(now);
        }
        // Bytes held by the layers precede new ones.
        self.order_receive(true);
        self.continue_reading_layers(now);
    }

    /// Replaces the protocol with the next one; the old protocol is dropped without a further call.
    fn upgrade(&mut self, upgrade: Upgrade, now: Instant) {
        let Upgrade { next, mut unread } = upgrade;
        let mut placed = None;
        self.call(now, |protocol, _| placed = Some(protocol.upgraded(next.take(), &mut unread)));
        let Some(next) = placed else { return };
        tracing::debug!(connection = %self.transport.cell.id(), unread = unread.len(), "protocol upgraded");
        unread.append(&mut self.transport.cell.take_unread());
        if !unread.is_empty() && self.transport.cell.is_starting() {
            // Plaintext that arrived after the request to encrypt.
            discard("drop of a protocol", next);
            return self.layer_failed(Reason::Failed(Failure::from(PlaintextAfterUpgrade)), now);
        }
        self.transport.cell.set_unread(unread);
        self.transport.cell.keep(None);
        self.transport.cell.set_mode(mode::IN_MESSAGE, false);
        let before = std::mem::replace(&mut self.protocol, next);
        discard("drop of a protocol", before);
        if let LifeState::Open { reading: reading @ Reading::Ended, .. } = &mut self.state {
            // The next protocol has not seen the end of the stream.
            let since = self.transport.cell.reactor.moment(now);
            *reading = Reading::Paused { since, fin: true };
        }
        if matches!(&self.state, LifeState::Open { writing, .. } if writing.has_ended()) {
            self.pending |= due::WRITE_CLOSED;
        }
        self.queue_draining();
        self.call(now, |protocol, transport| protocol.connection_made(transport));
    }

    fn pause_producer(&mut self, now: Instant) {
        if !self.transport.cell.producer_must_pause()
            || self.transport.cell.phase() >= ConnectionPhase::Ended
        {
            return;
        }
        self.transport.cell.set_producer_paused();
        self.call_producer(now, |producer| producer.pause_producing());
    }

    fn resume_producer(&mut self, now: Instant) {
        if !self.transport.cell.producer_must_resume()
            || self.transport.cell.phase() >= ConnectionPhase::Ended
        {
            return;
        }
        self.transport.cell.set_producer_resumed();
        self.call_producer(now, |producer| producer.resume_producing());
    }

    fn call_producer(&mut self, now: Instant, f: impl FnOnce(&mut dyn Producer)) {
        let Some(mut producer) = self.transport.cell.take_producer() else {
            return;
        };
        let had_failed = self.transport.cell.has_failed();
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *producer)));
        self.transport.cell.restore_producer(producer);
        match outcome {
            Err(payload) => self.panicked(now, payload),
            // The close need not wait for the failed producer. Written bytes are still sent, unless
            // it panics now.
            Ok(()) if !had_failed && self.transport.cell.has_failed() => {
                let producer = self.transport.cell.remove_producer();
                self.stop_producer(now, producer);
            }
            Ok(()) => {}
        }
    }

    /// Stops a producer before other calls of this connection.
    fn stop_producer(&mut self, now: Instant, producer: Option<Box<dyn Producer>>) {
        let Some(mut producer) = producer else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| producer.stop_producing()));
        discard("drop of a producer", producer);
        if let Err(payload) = outcome {
            self.panicked(now, payload);
        }
    }

    /// Makes the last calls of a closed connection.
    pub(crate) fn lost(&mut self, now: Instant) {
        if self.pending & due::WRITE_CLOSED != 0 && !self.panicked {
            self.write_closed(now);
        }
        self.fire_drained(self.pending);
        stop(self.transport.cell.remove_producer());
        let (protocol, transport) = (&mut *self.protocol, &self.transport);
        let cell = &transport.cell;
        let reason = cell.set_lost();
        tracing::debug!(connection = %cell.id(), peer = %cell.peer, %reason, "connection lost");
        // Called directly and not through `contain`, to keep stack traces short.
        let outcome =
            catch_unwind(AssertUnwindSafe(|| protocol.connection_lost(transport, &reason)));
        if let Err(payload) = outcome {
            log_panic("connection_lost", payload);
        }
        cell.resolve_waiting(&reason);
        cell.keep_host();
    }

    /// The loop is dropped: pending Deferreds fail, and the protocol is not called again.
    pub(crate) fn abandon(self) {
        let cell = &self.transport.cell;
        cell.set_expected_reason(Reason::Shutdown);
        cell.resolve_waiting(&cell.set_lost());
        stop(cell.remove_producer());
        cell.keep_host();
    }

    /// The final reason, or the one expected so far.
    pub(crate) fn reason(&self) -> Reason {
        self.transport.cell.expected_reason()
    }

    /// The [variant](Reason::variant) of the reason.
    pub(crate) fn reason_variant(&self) -> usize {
        self.transport.cell.with_reason(Reason::variant)
    }

    // Follow-up.

    /// Adds an order to the driver. A closed connection ignores it.
    fn order(&mut self, order: Effects) {
        if self.closed().is_none() {
            self.pending |= order.0;
        }
    }

    fn order_receive(&mut self, on: bool) {
        order_receive(&mut self.pending, on);
    }

    #[inline(never)]
    fn take_effects(&mut self) -> Effects {
        let effects = self.take_effects_unlayered();
        match (self.is_layered(), self.has_layered_output()) {
            (false, _) => effects,
            (true, true) => effects.and(Effects::OUTPUT).and(Effects::LAYERED),
            (true, false) => effects.and(Effects::LAYERED),
        }
    }

    /// [`take_effects`](Self::take_effects) after a send: the rest waits until the driver reports
    /// room.
    fn take_effects_after_send(&mut self) -> Effects {
        Effects(self.take_effects_unlayered().0 & !Effects::OUTPUT.0)
    }

    /// [`take_effects`](Self::take_effects) without layers.
    #[inline(always)]
    fn take_effects_unlayered(&mut self) -> Effects {
        #[cfg(debug_assertions)]
        self.check();
        let bit = |is: bool, bit: Effects| if is { bit.0 } else { 0 };
        let pending = self.pending;
        self.pending = pending & Effects::LASTING;
        Effects(
            pending
                | bit(self.transport.cell.has_requests(), Effects::RECORDED)
                | bit(self.transport.cell.has_output(), Effects::OUTPUT),
        )
    }

    /// Asserts the invariants between two inputs.
    #[cfg(debug_assertions)]
    fn check(&self) {
        let (cell, due) = (self.cell(), self.pending & due::ANY);
        match &self.state {
            LifeState::Open { writing, .. } => {
                assert!(!self.panicked, "a panic closes the connection");
                assert!(due & due::LOST == 0, "an open connection is not lost");
                let shut = *writing == Writing::Shut;
                assert!(!shut || cell.buffered() == 0, "a FIN follows everything that was written");
            }
            LifeState::Flushing { .. } => {
                assert!(
                    cell.phase() >= ConnectionPhase::Closing,
                    "handles see a close immediately"
                );
                assert!(
                    due & (due::LOST | due::RESUMED | due::DRAINING) == 0,
                    "reading ends with a close"
                );
            }
            LifeState::Lingering { .. } => {
                assert!(cell.buffered() == 0, "lingering follows flushing");
            }
            LifeState::Closed { .. } => {
                let orders = self.pending & !due & !Effects::KEPT.0;
                assert!(
                    cell.phase() >= ConnectionPhase::Ended && orders & !Effects::SHUT_WRITE.0 == 0,
                    "no orders after the end but a last FIN"
                );
                assert!(!cell.has_output(), "an ended connection sends nothing");
                let last = due::LOST | due::WRITE_CLOSED | due::DRAINED | due::FLUSHED;
                assert!(due & !last == 0, "only the loss and the calls before it may be due");
            }
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, LifeState::Open { .. })
    }

    /// True once the connection is closing or lost.
    pub(crate) fn is_closing(&self) -> bool {
        !self.is_open()
    }

    /// The name of the protocol's type; none while the layers are opening.
    pub(crate) fn protocol_name(&mut self) -> &'static str {
        if self.is_opening() { "" } else { self.protocol.type_name() }
    }

    /// The state in one word, for display.
    pub(crate) fn state_name(&self) -> &'static str {
        match &self.state {
            LifeState::Open { reading: Reading::Paused { .. }, .. } => "paused",
            LifeState::Open { .. } if self.is_opening() => "opening",
            LifeState::Open { writing: Writing::Open, reading: Reading::On | Reading::Layered } => {
                "open"
            }
            LifeState::Open { .. } => "half-closed",
            LifeState::Flushing { .. } => "flushing",
            LifeState::Lingering { .. } => "lingering",
            LifeState::Closed { .. } => "closed",
        }
    }
}

/// Calls a protocol. The error is a panic payload.
#[inline(always)]
fn call(
    protocol: &mut dyn Protocol,
    transport: &Transport,
    f: impl FnOnce(&mut dyn Protocol, &Transport),
) -> Result<(), Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(|| f(protocol, transport)))
}

/// Queues an order to start or stop reading; the latest order wins.
fn order_receive(pending: &mut u32, on: bool) {
    let (order, other) = match on {
        true => (Effects::RECEIVE, Effects::STOP_RECEIVING),
        false => (Effects::STOP_RECEIVING, Effects::RECEIVE),
    };
    *pending = *pending & !other.0 | order.0;
}

/// Placeholder protocol of a connection that is opening or retired.
struct PlaceholderProtocol;

impl Protocol for PlaceholderProtocol {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn saturated(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Stops a producer when only `connection_lost` remains to be called.
fn stop(producer: Option<Box<dyn Producer>>) {
    if let Some(mut producer) = producer {
        contain("stop_producing", move || producer.stop_producing());
    }
}

mod guarded;
mod layered;
pub(super) mod stall;
#[cfg(test)]
mod tests;
mod why;
