//! The life of one connection, without a driver: protocol, wire, close states, marks, producer,
//! deadlines. Everything that affects the state of a connection lives in this file.
//!
//! Whoever holds a [`Life`] (the loop) tells it what came ([`feed`](Life::feed),
//! [`ended`](Life::ended), [`sent`](Life::sent)), lets it take over what the handles recorded
//! ([`take_over`](Life::take_over)), carries out its [`Orders`], and runs the calls into user code
//! that are due ([`run_due`](Life::run_due)). Law 5: `connection_lost` comes exactly once, and
//! nothing after it.
//!
//! ```text
//! Open{reading: On | Paused{since} | Ended, writing: Open | Finishing{since} | Shut}
//!     → Flushing{why, since, peer_fin, fin_sent, finishing} → Draining{why, since, left} → Closed
//! ```
//!
//! | input | Open | Flushing | Draining |
//! | --- | --- | --- | --- |
//! | bytes | On: deliver; else the driver holds them | thrown away | counted; at 1 MiB the end |
//! | FIN | On: read_closed; Paused: the driver holds it; if Shut: the end, Done | noted | the end (why) |
//! | error | the end, Lost | the end: Lost if why is Done, else why | the end (why) |
//! | lose, fail, stop | Flushing, receive off, a paused producer resumed | fail replaces why unless Failed or Panicked | the same |
//! | lose_write | Finishing → flush → FIN, write_closed (the end if reading has ended) | – | – |
//! | abort | the end, Aborted, RST | the end, RST | the same |
//! | panic | outbox dropped → Flushing | outbox dropped | – |
//! | all has left, no producer | Finishing → Shut | FIN seen: the end; else our FIN → Draining | – |
//! | deadline | idle: the end, Timeout, RST; Finishing: as Flushing | the end, CloseTimedOut, RST | the end (why), plain close |

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::panics::{contain, log_panic, panic_text, witness};
use super::wire::{Phase, Wire, asked};
use super::{Producer, Tell, Transport};
use crate::driver::{How, Sent};
use crate::error::{By, ConnectionLost, Reason};
use crate::protocol::Protocol;
use crate::reactor::ConnectionSnapshot;

/// Bytes that are read and thrown away after our FIN, at most.
const DRAIN: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    On,
    Paused { since: Instant },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// To be shut when all has left; nothing has since then.
    Finishing {
        since: Instant,
    },
    Shut,
}

#[derive(Debug)]
enum State {
    Open {
        reading: Reading,
        writing: Writing,
    },
    /// Nothing has left since then.
    Flushing {
        why: Reason,
        since: Instant,
        peer_fin: bool,
        fin_sent: bool,
        finishing: bool,
    },
    /// Our FIN went out at `since`.
    Draining {
        why: Reason,
        since: Instant,
        left: usize,
    },
    Closed {
        why: Reason,
        how: How,
    },
}

/// What the holder is to do with the driver, in this order of fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Orders {
    pub(crate) receive: Option<bool>,
    pub(crate) shut_write: bool,
    /// Tell [`Life::measured`] how much the system has not sent yet.
    pub(crate) measure: bool,
    /// Tell [`Life::peer_was_first`] if the peer's FIN has come.
    pub(crate) look_for_fin: bool,
    pub(crate) deadline: bool,
    pub(crate) options: bool,
}

/// Calls into user code that wait for their turn; a set of bits.
mod due {
    pub(super) const WRITE_CLOSED: u16 = 1;
    pub(super) const RESUMED: u16 = 2;
    pub(super) const PRODUCER_PAUSE: u16 = 4;
    pub(super) const PRODUCER_RESUME: u16 = 8;
    pub(super) const DRAINED: u16 = 16;
    pub(super) const LOST: u16 = 32;
}

pub(crate) struct Life {
    wire: Rc<Wire>,
    transport: Transport,
    protocol: Box<dyn Protocol>,
    state: State,
    orders: Orders,
    has_orders: bool,
    due: u16,
    /// After a panic only `connection_lost` comes.
    panicked: bool,
    /// What the system had not sent at the last look, while flushing.
    unsent: Option<usize>,
}

impl Life {
    pub(crate) fn new(wire: Rc<Wire>, protocol: Box<dyn Protocol>) -> Life {
        Life {
            transport: Transport { wire: wire.clone() },
            wire,
            protocol,
            state: State::Open { reading: Reading::On, writing: Writing::Open },
            orders: Orders::default(),
            has_orders: false,
            due: 0,
            panicked: false,
            unsent: None,
        }
    }

    pub(crate) fn wire(&self) -> &Rc<Wire> {
        &self.wire
    }

    // What came.

    /// The connection was made.
    pub(crate) fn made(&mut self) {
        self.call(|protocol, transport| protocol.connection_made(transport));
    }

    /// Bytes came.
    #[inline]
    pub(crate) fn feed(&mut self, data: &[u8], now: Instant) {
        self.wire.bytes_in.set(self.wire.bytes_in.get() + data.len() as u64);
        if let State::Open { reading: Reading::On, .. } = &self.state {
            self.wire.received_at.set(now);
            self.call(|protocol, transport| protocol.data_received(transport, data));
        } else {
            self.throw_away(data.len());
        }
    }

    /// Bytes came that no one wants any more.
    #[cold]
    fn throw_away(&mut self, bytes: usize) {
        if let State::Draining { left, .. } = &mut self.state {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.end_as_planned(How::Normal);
            }
        }
    }

    /// The peer's end of stream (`None`), or the end of the connection by an error.
    pub(crate) fn ended(&mut self, error: Option<io::Error>) {
        match error {
            None => self.fin(),
            Some(error) => {
                let lost = Reason::Lost(Arc::new(error));
                match &self.state {
                    State::Draining { .. } => self.end_as_planned(How::Normal),
                    _ => self.end(lost, How::Normal),
                }
            }
        }
    }

    fn fin(&mut self) {
        match &mut self.state {
            State::Open { reading, writing } => match reading {
                Reading::On => {
                    *reading = Reading::Ended;
                    let both = *writing == Writing::Shut;
                    self.call(|protocol, transport| protocol.read_closed(transport));
                    if both && matches!(self.state, State::Open { .. }) {
                        self.end(Reason::Done(By::Peer), How::Normal);
                    }
                }
                // While reading is off a driver tells of no end.
                Reading::Paused { .. } | Reading::Ended => {}
            },
            State::Flushing { peer_fin, .. } => *peer_fin = true,
            State::Draining { .. } => self.end_as_planned(How::Normal),
            State::Closed { .. } => {}
        }
    }

    // What the handles asked.

    /// Takes over what was asked: states at once, calls into user code become due.
    pub(crate) fn take_over(&mut self, now: Instant) {
        let asked = self.wire.take_asked();
        if asked & asked::DEADLINES != 0 {
            self.order().deadline = true;
        }
        if asked & asked::OPTIONS != 0 {
            self.orders.options = true;
            self.has_orders = true;
        }
        if asked & asked::FLOW != 0 {
            self.flow_changed(now);
        }
        if asked & asked::PRODUCER != 0 {
            self.due &= !(due::PRODUCER_PAUSE | due::PRODUCER_RESUME);
        }
        if asked & asked::LOSE_WRITE != 0
            && let State::Open { writing, .. } = &mut self.state
            && *writing == Writing::Open
        {
            *writing = Writing::Finishing { since: now };
            self.order().deadline = true;
            self.wire.let_producer_finish();
        }
        if asked & (asked::LOSE | asked::ABORT | asked::OVERFLOW) != 0
            && let Some(failure) = self.wire.take_why()
        {
            self.lose(Reason::Failed(failure), now);
        } else if asked & asked::LOSE != 0 {
            self.lose(Reason::Done(By::Us), now);
        }
        if asked & asked::OVERFLOW != 0 {
            self.end(Reason::Overflow, How::Reset);
        }
        if asked & asked::ABORT != 0 {
            self.end(Reason::Aborted, How::Reset);
        }
        if asked != 0 {
            self.check_flushed(now);
        }
        if self.wire.is_watched() {
            self.check_marks();
        }
    }

    /// The reactor stops.
    pub(crate) fn stop(&mut self, now: Instant) {
        match &self.state {
            State::Open { .. } => {
                self.lose(Reason::Shutdown, now);
                self.check_flushed(now);
            }
            State::Draining { .. } => self.end_as_planned(How::Normal),
            State::Flushing { .. } => self.check_flushed(now),
            State::Closed { .. } => {}
        }
    }

    /// The reactor has stopped: whatever is left ends now.
    pub(crate) fn cut(&mut self) {
        let how = if self.wire.buffered() > 0 { How::Reset } else { How::Normal };
        match &self.state {
            State::Open { .. } | State::Flushing { .. } => self.end(Reason::Shutdown, how),
            _ => self.end_as_planned(how),
        }
    }

    fn lose(&mut self, reason: Reason, now: Instant) {
        match &mut self.state {
            State::Open { reading, writing } => {
                let peer_fin = *reading == Reading::Ended;
                let fin_sent = *writing == Writing::Shut;
                let finishing = matches!(writing, Writing::Finishing { .. });
                let why = match reason {
                    Reason::Done(_) if peer_fin => Reason::Done(By::Peer),
                    other => other,
                };
                if *reading == Reading::On {
                    self.order().receive = Some(false);
                }
                self.state = State::Flushing { why, since: now, peer_fin, fin_sent, finishing };
                self.wire.end_phase(Phase::Closing);
                self.due &= !due::RESUMED;
                let orders = self.order();
                orders.deadline = true;
                orders.look_for_fin = !peer_fin;
                self.wire.let_producer_finish();
                self.check_marks();
            }
            State::Flushing { why, .. }
            | State::Draining { why, .. }
            | State::Closed { why, .. }
                if reason.rank() < why.rank() && reason.rank() == 0 =>
            {
                *why = reason;
            }
            // It may hold an error of the user's, whose drop is their code.
            _ => drop(contain("drop of a reason", move || drop(reason))),
        }
    }

    /// The peer's FIN had come when our close took effect, though it was not told: it stood behind
    /// bytes that are thrown away.
    pub(crate) fn peer_was_first(&mut self) {
        if let State::Flushing { why, .. } | State::Draining { why, .. } = &mut self.state
            && let Reason::Done(by) = why
        {
            *by = By::Peer;
        }
    }

    /// When a close has to end that has made no progress since then.
    fn close_deadline(&self, since: Instant) -> Option<Instant> {
        // A deadline past the end of time is none.
        self.wire.close_deadline.get().and_then(|d| since.checked_add(d))
    }

    fn flow_changed(&mut self, now: Instant) {
        let State::Open { reading, .. } = &mut self.state else {
            return;
        };
        match (*reading, self.wire.paused()) {
            (Reading::On, true) => {
                *reading = Reading::Paused { since: now };
                self.order().receive = Some(false);
            }
            (Reading::Paused { .. }, false) => self.due |= due::RESUMED,
            _ => {}
        }
    }

    // Writing.

    /// The driver said `sent` to what was written, and took `n` bytes out of the outbox.
    pub(crate) fn wrote(&mut self, sent: Sent, n: usize, now: Instant) {
        let left = self.wire.sent(sent, n);
        if sent == Sent::All && matches!(self.state, State::Open { writing: Writing::Open, .. }) {
            if self.wire.is_watched() {
                self.check_marks();
                self.check_full();
            }
        } else {
            self.after_progress(left > 0 || self.unsent.is_none(), now);
        }
    }

    /// Taken bytes have left, or there is room again (`n` = 0).
    pub(crate) fn sent(&mut self, n: usize, now: Instant) {
        self.wire.sub_in_flight(n);
        self.after_progress(n > 0, now);
    }

    fn after_progress(&mut self, progress: bool, now: Instant) {
        if progress && self.progressed(now) {
            self.order().measure = true;
        }
        if self.wire.is_watched() {
            self.check_marks();
            self.check_full();
        }
        self.check_flushed(now);
    }

    /// Something has left; true when a close waits for that.
    fn progressed(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Open { writing: Writing::Finishing { since }, .. }
            | State::Flushing { since, .. } => {
                *since = now;
                true
            }
            _ => false,
        }
    }

    /// Resumes the producer by the marks, and tells who waits for `drained`.
    fn check_marks(&mut self) {
        self.wire.update_watched();
        if self.wire.producer_is_to_resume() {
            self.due |= due::PRODUCER_RESUME;
        }
        if self.wire.buffered() <= self.wire.marks().low && self.wire.awaits_drained() {
            self.due |= due::DRAINED;
        }
    }

    /// True when a producer is to be paused unless what was written leaves at once.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.wire.is_watched() && self.wire.producer_is_to_pause()
    }

    /// Pauses the producer by the marks. The driver has had its chance to send.
    pub(crate) fn check_full(&mut self) {
        if self.is_full() {
            self.due |= due::PRODUCER_PAUSE;
        }
    }

    /// Goes on with a close when all that was written has left and no producer will write more.
    fn check_flushed(&mut self, now: Instant) {
        let waits = match &self.state {
            State::Open { writing, .. } => !matches!(writing, Writing::Finishing { .. }),
            State::Flushing { .. } => false,
            State::Draining { .. } | State::Closed { .. } => true,
        };
        if waits || self.wire.buffered() > 0 || self.wire.has_producer() {
            return;
        }
        match &mut self.state {
            State::Open { writing, .. } => {
                *writing = Writing::Shut;
                self.order().shut_write = true;
                self.due |= due::WRITE_CLOSED;
            }
            State::Flushing { why, peer_fin, fin_sent, finishing, .. } => {
                if *finishing {
                    self.due |= due::WRITE_CLOSED;
                }
                if *peer_fin || self.wire.reactor.is_stopping() {
                    return self.end_as_planned(How::Normal);
                }
                let shut = !*fin_sent;
                self.state = State::Draining { why: why.clone(), since: now, left: DRAIN };
                let orders = self.order();
                orders.shut_write |= shut;
                orders.receive = Some(true);
                orders.deadline = true;
                orders.measure = false;
            }
            State::Draining { .. } | State::Closed { .. } => {}
        }
    }

    // Deadlines.

    /// When [`timed_out`](Self::timed_out) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Open { writing: Writing::Finishing { since }, .. } => {
                let closing = self.close_deadline(*since);
                self.idle_deadline().into_iter().chain(closing).min()
            }
            State::Open { .. } => self.idle_deadline(),
            State::Flushing { since, .. } | State::Draining { since, .. } => {
                self.close_deadline(*since)
            }
            State::Closed { .. } => None,
        }
    }

    /// When an open connection has heard nothing for too long; never while reading is paused.
    fn idle_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Open { reading: Reading::On | Reading::Ended, .. } => {
                let timeout = self.wire.idle_timeout.get()?;
                self.wire.received_at.get().checked_add(timeout)
            }
            _ => None,
        }
    }

    /// The deadline may have come; `unsent` is what the system has not sent yet. If it has moved
    /// meanwhile nothing happens, and [`deadline`](Self::deadline) tells the new one.
    pub(crate) fn timed_out(&mut self, now: Instant, unsent: Option<usize>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &self.state {
            State::Open { .. } if self.idle_deadline().is_some_and(|deadline| deadline <= now) => {
                self.end(Reason::Timeout, How::Reset);
            }
            State::Open { .. } | State::Flushing { .. } => self.flush_timed_out(now, unsent),
            State::Draining { .. } => self.end_as_planned(How::Normal),
            State::Closed { .. } => {}
        }
    }

    /// Nothing has left our buffer for too long. What has left the system's is progress too.
    fn flush_timed_out(&mut self, now: Instant, unsent: Option<usize>) {
        if matches!((unsent, self.unsent), (Some(n), Some(before)) if n < before) {
            self.progressed(now);
            self.unsent = unsent;
        } else if self.wire.reactor.is_stopping() {
            self.end(Reason::Shutdown, How::Reset);
        } else {
            self.end(Reason::CloseTimedOut, How::Reset);
        }
    }

    /// What the system has not sent yet, as the measure of the next deadline.
    pub(crate) fn measured(&mut self, unsent: Option<usize>) {
        self.unsent = unsent;
    }

    // The end.

    fn end_as_planned(&mut self, how: How) {
        match &self.state {
            State::Flushing { why, .. } | State::Draining { why, .. } => {
                let why = why.clone();
                self.end(why, how);
            }
            State::Open { .. } | State::Closed { .. } => {}
        }
    }

    /// The end, with the more important of `reason` and what was planned.
    fn end(&mut self, reason: Reason, how: How) {
        let planned = match &mut self.state {
            State::Closed { why, .. } => {
                if reason.rank() < why.rank() {
                    *why = reason;
                }
                return;
            }
            State::Flushing { why, .. } | State::Draining { why, .. } => Some(why.clone()),
            State::Open { .. } => None,
        };
        let why = planned.filter(|planned| planned.rank() <= reason.rank()).unwrap_or(reason);
        self.state = State::Closed { why, how };
        self.wire.end_phase(Phase::Ended);
        self.wire.clear_outbox();
        self.orders = Orders::default();
        self.has_orders = false;
        // A flushed half is told before the end; nothing else comes but the loss.
        self.due &= if how == How::Normal { due::WRITE_CLOSED } else { 0 };
        self.due |= due::LOST;
    }

    /// How the driver is to close, once the connection has ended: before the due calls run.
    pub(crate) fn closed(&self) -> Option<How> {
        match &self.state {
            State::Closed { how, .. } => Some(*how),
            _ => None,
        }
    }

    // Calls into user code.

    #[inline]
    fn call(&mut self, f: impl FnOnce(&mut dyn Protocol, &Transport)) {
        let (protocol, transport) = (&mut *self.protocol, &self.transport);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| f(protocol, transport))) {
            self.panicked(payload);
        }
    }

    /// A callback panicked: this connection is lost, and only this one.
    #[cold]
    fn panicked(&mut self, payload: Box<dyn Any + Send>) {
        let text = panic_text(payload);
        tracing::error!(connection = %self.wire.id, peer = %self.wire.peer, %text, "a callback panicked");
        witness("a callback of a protocol", &text);
        self.panicked = true;
        self.wire.clear_outbox();
        self.wire.end_phase(Phase::Closing);
        let producer = self.wire.remove_producer();
        let now = self.wire.reactor.now();
        // What was asked before the panic still counts (an abort stays an abort), but a failure
        // that was recorded before it came first.
        self.take_over(now);
        self.lose(Reason::Panicked(text.into()), now);
        self.check_flushed(now);
        stop(producer);
        // A call that stood in line may be all that happened: the loop is to look at what follows.
        self.wire.ask(0);
    }

    /// A call that stood in line.
    pub(crate) fn tell(&mut self, tell: Box<dyn Tell>) {
        if self.panicked {
            let reason = self.reason();
            contain("drop of a call", move || tell.lost(&reason));
            return;
        }
        self.call(|protocol, transport| tell.run(protocol, transport));
    }

    /// True when calls into user code wait.
    #[inline]
    pub(crate) fn has_due(&self) -> bool {
        self.due != 0
    }

    /// True when nothing is to be done after all that was written has left at once.
    #[inline]
    pub(crate) fn writes_plainly(&self) -> bool {
        matches!(self.state, State::Open { writing: Writing::Open, .. }) && !self.wire.is_watched()
    }

    /// True when the loop has more to do for this connection than to send what was written.
    #[inline]
    pub(crate) fn leaves_more(&self) -> bool {
        self.due != 0 || self.has_orders || self.wire.has_asked()
    }

    /// Runs the calls that are due, of a connection that has not ended.
    pub(crate) fn run_due(&mut self, now: Instant) {
        let due = std::mem::take(&mut self.due);
        if self.panicked {
            return;
        }
        if due & due::WRITE_CLOSED != 0 {
            self.write_closed();
        }
        if due & due::RESUMED != 0 {
            self.resumed(now);
        }
        if due & due::PRODUCER_PAUSE != 0 {
            self.pause_producer();
        }
        if due & due::PRODUCER_RESUME != 0 {
            self.resume_producer();
        }
        // Bytes that are thrown away have not left: who waits for them hears of the loss.
        if due & due::DRAINED != 0 && !self.panicked && self.wire.phase() < Phase::Ended {
            for resolver in self.wire.take_drained() {
                resolver.callback(());
            }
        }
    }

    fn write_closed(&mut self) {
        self.call(|protocol, transport| protocol.write_closed(transport));
        if let State::Open { reading: Reading::Ended, .. } = &self.state {
            self.end(Reason::Done(By::Peer), How::Normal);
        }
    }

    fn resumed(&mut self, now: Instant) {
        // The call before this one may have closed, and it holds from there on.
        if !self.is_open() || self.wire.paused() || self.wire.phase() >= Phase::Closing {
            return;
        }
        self.call(|protocol, transport| protocol.reading_resumed(transport));
        // It may have paused again, or closed.
        if self.wire.paused() || self.wire.phase() >= Phase::Closing {
            return;
        }
        if let State::Open { reading, .. } = &mut self.state
            && let Reading::Paused { since } = *reading
        {
            *reading = Reading::On;
            let paused = now.saturating_duration_since(since);
            let received = self.wire.received_at.get();
            self.wire.received_at.set(received.checked_add(paused).unwrap_or(now));
            let orders = self.order();
            orders.receive = Some(true);
            orders.deadline = true;
        }
    }

    fn pause_producer(&mut self) {
        if !self.wire.producer_is_to_pause() || self.wire.phase() >= Phase::Ended {
            return;
        }
        self.wire.set_producer_paused(true);
        self.call_producer(|producer| producer.pause_producing());
    }

    fn resume_producer(&mut self) {
        if !self.wire.producer_is_to_resume() || self.wire.phase() >= Phase::Ended {
            return;
        }
        self.wire.set_producer_paused(false);
        self.call_producer(|producer| producer.resume_producing());
    }

    fn call_producer(&mut self, f: impl FnOnce(&mut dyn Producer)) {
        let Some(mut producer) = self.wire.producer_out() else {
            return;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut *producer)));
        self.wire.producer_back(producer);
        if let Err(payload) = outcome {
            self.panicked(payload);
        }
    }

    /// The last calls of a connection that has ended.
    pub(crate) fn lost(&mut self) {
        if self.due & due::WRITE_CLOSED != 0 && !self.panicked {
            self.write_closed();
        }
        let reason = self.reason();
        tracing::debug!(connection = %self.wire.id, peer = %self.wire.peer, %reason, "connection lost");
        stop(self.wire.remove_producer());
        self.wire.set_lost(reason.clone());
        let (protocol, transport) = (&mut *self.protocol, &self.transport);
        // Called from here and not through `contain`: a stack trace stays short.
        let outcome =
            catch_unwind(AssertUnwindSafe(|| protocol.connection_lost(transport, &reason)));
        if let Err(payload) = outcome {
            log_panic("connection_lost", payload);
        }
        for resolver in self.wire.take_drained() {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }

    /// The loop goes, and says no word to the protocol; who waits for something is told.
    pub(crate) fn abandon(self) {
        self.wire.set_lost(Reason::Shutdown);
        for resolver in self.wire.take_drained() {
            resolver.errback(ConnectionLost(Reason::Shutdown));
        }
        stop(self.wire.remove_producer());
    }

    /// The reason that the end has, or will have as far as is known.
    pub(crate) fn reason(&self) -> Reason {
        match &self.state {
            State::Flushing { why, .. }
            | State::Draining { why, .. }
            | State::Closed { why, .. } => why.clone(),
            State::Open { .. } => Reason::Shutdown,
        }
    }

    // What the holder asks.

    fn order(&mut self) -> &mut Orders {
        self.has_orders = true;
        &mut self.orders
    }

    /// True when the driver has something to do.
    #[inline]
    pub(crate) fn has_orders(&self) -> bool {
        self.has_orders
    }

    pub(crate) fn take_orders(&mut self) -> Orders {
        self.has_orders = false;
        std::mem::take(&mut self.orders)
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// What a snapshot tells of it.
    pub(crate) fn snapshot(&self, now: Instant) -> ConnectionSnapshot {
        let wire = &self.wire;
        ConnectionSnapshot {
            id: wire.id,
            peer: wire.peer.clone(),
            host: wire.host.clone(),
            state: self.state_name(),
            bytes_in: wire.bytes_in.get(),
            bytes_out: wire.bytes_out(),
            buffered: wire.buffered(),
            idle: now.saturating_duration_since(wire.received_at.get()),
            age: now.saturating_duration_since(wire.made_at),
        }
    }

    /// The state in a word, for people.
    pub(crate) fn state_name(&self) -> &'static str {
        match &self.state {
            State::Open { reading: Reading::Paused { .. }, .. } => "paused",
            State::Open { writing: Writing::Open, reading: Reading::On } => "open",
            State::Open { .. } => "half-closed",
            State::Flushing { .. } => "flushing",
            State::Draining { .. } => "draining",
            State::Closed { .. } => "closed",
        }
    }
}

/// Tells a producer that its consumer has gone.
fn stop(producer: Option<Box<dyn Producer>>) {
    if let Some(mut producer) = producer {
        contain("stop_producing", move || producer.stop_producing());
    }
}
