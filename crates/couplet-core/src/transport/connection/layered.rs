//! The life of a connection whose bytes pass through [`Layers`].
//!
//! Up: [`Life::feed_layers`] feeds received bytes to the layers and delivers their output. Down:
//! [`Life::encode_output`] moves output into the layers; the driver sends from the bottom. Bytes in
//! between count as in flight, so marks, cap, `writable` and a close mean the same with layers and
//! without.
//!
//! Two streams mean two ends of stream: the end of the decoded one (a close_notify) and the socket's
//! FIN. Nothing may follow either (RFC 8446, 6.1), so the connection ends when our own end was sent
//! and the first of the two has arrived.
//!
//! While feeding, [`ProtocolSink`] borrows the protocol, separately from the layers. The state stays
//! readable and cannot change: [`SinkEvents`] collects events, which [`Life::apply_sink_events`]
//! applies afterwards.
//!
//! Contract: 6a, 15b, 51d, 55a, 63, 72, 73, 74a, 76, 78–81, 84, 84a.

use std::any::Any;
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::guarded::GuardedLayers;
use super::{Effects, Life, LifeState, Reading, call, order_receive};
use crate::defer::Failure;
use crate::driver::{CloseMode, Outbox};
use crate::error::Reason;
use crate::layers::{Layer, Layers, Opened, PlaintextAfterUpgrade, Sink, Up};
use crate::panics::{discard, discard_all, record_panic};
use crate::protocol::Protocol;
use crate::transport::Transport;
use crate::transport::cell::{ConnectionCell, ConnectionPhase, StartingLayer, mode};
#[cfg(feature = "testing")]
use crate::transport::report::LayerReport;

pub(super) struct Layered {
    layers: GuardedLayers,
    /// Written by the protocol, not yet accepted by the top layer.
    above: Outbox,
    /// Bytes that the driver took from the bottom and has not yet sent.
    taken: usize,
    stage: LayeredStage,
    /// A layer is full, so reading is off.
    full: bool,
}

/// How far the layers of a connection are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LayeredStage {
    /// The protocol does not exist yet: it is built when every layer is open. `until` is the last
    /// deadline of the layers that have still to open.
    Opening { until: Option<Instant> },
    /// The layers have opened and done their work: they are dropped before the protocol is built.
    Finished,
    /// The protocol exists.
    Open,
}

impl Layered {
    /// Moves the protocol's output into the layers, as far as they accept it. The error is the text
    /// of a panic.
    #[inline(always)]
    fn encode_written(&mut self, cell: &ConnectionCell, now: Instant) -> Result<(), String> {
        if !self.layers.has_failed() {
            take_written(&mut self.above, cell);
        }
        let above = &mut self.above;
        self.layers.call(|layers| layers.down(above, now))
    }

    /// Counts the bytes in the layers as in flight, and orders a new deadline if it moved. Returns
    /// true when the layers have output and all of it is at the bottom.
    #[inline(always)]
    fn settle(&mut self, cell: &ConnectionCell, pending: &mut u32) -> bool {
        let bottom = self.layers.bottom().len();
        let above_bottom = self.taken + self.layers.above_bottom() + self.above.len();
        cell.set_in_flight(bottom + above_bottom);
        if self.layers.take_moved() {
            *pending |= Effects::DEADLINE.0;
        }
        bottom > 0 && above_bottom == 0
    }

    /// The number of bytes that the driver has not taken.
    fn waiting(&mut self) -> usize {
        self.layers.bottom().len() + self.layers.above_bottom() + self.above.len()
    }

    /// Whether input waits for the protocol to read, rather than for a full layer.
    pub(super) fn is_behind(&self) -> bool {
        self.layers.is_behind() && !self.full
    }

    /// Whether foreign buffers must be dropped.
    #[inline]
    fn has_spent(&self) -> bool {
        self.above.has_spent() || self.layers.has_spent()
    }
}

/// Appends the protocol's output to the outbox above the layers.
#[inline(always)]
fn take_written(above: &mut Outbox, cell: &ConnectionCell) {
    let mut written = cell.outbox();
    if written.has_files() {
        return take_some(above, cell, &mut written);
    }
    cell.report_written(&written);
    above.append(&mut written);
}

/// Appends the output before a part of a file. If the layers have taken everything before, it also
/// reads the next bytes of the part: so at most one piece of it is in memory.
#[cold]
fn take_some(above: &mut Outbox, cell: &ConnectionCell, written: &mut Outbox) {
    if !above.is_empty() || written.load() {
        cell.report_written(written);
        above.append_loaded(written);
    }
}

/// Reads the parts of files that pass below one layer and above another. Returns the error that
/// leaves the rest unread.
// Unlimited: parts of files that were written before a further layer was started.
fn read_files(clear: &mut Outbox) -> Option<io::Error> {
    if !clear.has_files() {
        return None;
    }
    let mut read = Outbox::new(clear.spares().clone());
    while !clear.is_empty() && clear.load() {
        read.append_loaded(clear);
    }
    let error = clear.take_failure();
    clear.clear();
    read.append(clear);
    std::mem::swap(&mut read, clear);
    discard_all("drop of a buffer", read.take_spent());
    error
}

/// Events, other than bytes, that occur while bytes rise; handled when nothing is borrowed.
#[derive(Default)]
struct SinkEvents {
    /// The layers are open: all of a new connection's, or one that a live connection started.
    opened: bool,
    closed: bool,
    failed: Option<Reason>,
    /// The protocol panicked.
    panicked: Option<Box<dyn Any + Send>>,
}

/// The parts of a connection borrowed along with its layers while bytes rise.
struct ProtocolSink<'l> {
    protocol: &'l mut dyn Protocol,
    transport: &'l Transport,
    state: &'l LifeState,
    pending: &'l mut u32,
    above: &'l mut Outbox,
    now: Instant,
    stage: &'l LayeredStage,
    events: Option<Box<SinkEvents>>,
}

/// How far bytes rose through the layers.
enum Risen {
    /// The common case: the protocol replied, and nothing else happened.
    Answered,
    /// To the protocol.
    All,
    /// Some wait in the layers.
    Some,
}

impl ProtocolSink<'_> {
    /// Feeds the layers, and moves a reply down under the same panic guard.
    #[inline(always)]
    fn feed(&mut self, layers: &mut Layers, bytes: &[u8], full: bool) -> Risen {
        let flow = layers.feed_into(bytes, self.now, self);
        let cell = &self.transport.cell;
        if flow.is_break() {
            return Risen::Some;
        }
        let is_usual = self.events.is_none() && !full;
        // Neither the handles nor the connection request anything but output.
        if is_usual && cell.has_output() && *self.pending == 0 && !cell.has_requests() {
            take_written(self.above, cell);
            layers.down(self.above, self.now);
            return Risen::Answered;
        }
        Risen::All
    }

    /// Whether the next bytes may be delivered. A resumed protocol gets them after
    /// `reading_resumed`.
    #[inline]
    fn flow(&self) -> ControlFlow<()> {
        let takes_more = self.transport.wants_data() && !self.state.is_paused();
        if takes_more && !self.has_panicked() { Continue(()) } else { Break(()) }
    }

    #[inline]
    fn has_panicked(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.panicked.is_some())
    }

    #[inline(always)]
    fn note_panic(&mut self, outcome: Result<(), Box<dyn Any + Send>>) {
        if let Err(payload) = outcome {
            self.events.get_or_insert_default().panicked = Some(payload);
        }
    }

    #[cold]
    fn handshake_completed(&mut self) {
        self.transport.cell.set_starting(false);
        if let LifeState::Open { reading, .. } = self.state {
            if matches!(reading, Reading::Paused { .. }) {
                order_receive(self.pending, false);
            }
            let completed = call(self.protocol, self.transport, |protocol, transport| {
                protocol.handshake_completed(transport);
            });
            self.note_panic(completed);
        }
    }
}

impl Sink for ProtocolSink<'_> {
    #[inline(always)]
    fn data(&mut self, data: &[u8]) -> ControlFlow<()> {
        // Bytes after a close are dropped.
        if !self.state.is_reading() {
            return Continue(());
        }
        let cell = &self.transport.cell;
        cell.bytes_in.set(cell.bytes_in.get() + data.len() as u64);
        cell.received_at.set(self.now);
        let taken = Life::hand_data(self.protocol, self.transport, data);
        self.note_panic(taken);
        self.flow()
    }

    #[cold]
    fn handle_event(&mut self, up: Up<'_>) -> ControlFlow<()> {
        let events = self.events.get_or_insert_default();
        match up {
            Up::Nothing | Up::Data(_) | Up::Last(_) => {}
            Up::Open(_) if *self.stage != LayeredStage::Open => {
                events.opened = true;
                return Break(());
            }
            Up::Open(opened) => {
                events.opened = true;
                if let Some(opened) = opened {
                    self.transport.cell.set_opened(opened.into());
                }
                self.handshake_completed();
            }
            Up::Closed => events.closed = true,
            Up::Failed(reason) => events.failed = Some(reason),
        }
        self.flow()
    }
}

impl Life {
    /// Puts layers under a new connection. Returns true when all of them are open and the protocol
    /// can be built; otherwise [`Effects::OPENED`] follows once they are.
    pub(crate) fn put_layers(&mut self, layers: Vec<Box<dyn Layer>>, now: Instant) -> bool {
        let mut begun = self.set_layers(layers, None);
        let open = begun.is_ok() && self.layers_are_open();
        if let Some(layered) = self.layered.as_mut().filter(|_| !open) {
            let until = layered.layers.call(|layers| layers.opening_deadline());
            layered.stage = LayeredStage::Opening { until: until.as_ref().ok().copied().flatten() };
            begun = begun.and(until.map(drop));
        }
        if let Err(text) = begun {
            self.layer_panicked(&text, now);
        }
        open
    }

    /// Sets the first layers. On a live connection, `written` is the output that passes below them,
    /// and the number of bytes written above them. The error is the text of a panic.
    fn set_layers(
        &mut self,
        layers: Vec<Box<dyn Layer>>,
        written: Option<(Outbox, usize)>,
    ) -> Result<(), String> {
        let cell = &self.transport.cell;
        let spares = cell.reactor.spares();
        let (mut clear, later) = written.unwrap_or_else(|| (Outbox::new(spares.clone()), 0));
        cell.sub_in_flight(clear.len());
        let taken = cell.in_flight() - later;
        let (mut layers, begun) = GuardedLayers::new(layers, spares, &|| cell.layer_waker());
        let unsent = clear.len();
        layers.bottom().append(&mut clear);
        let above = Outbox::new(spares.clone());
        let layered = Layered { layers, above, taken, stage: LayeredStage::Open, full: false };
        self.layered = Some(Box::new(layered));
        self.transport.cell.set_layered(unsent);
        self.report_kinds();
        if let LifeState::Open { reading: reading @ Reading::On, .. } = &mut self.state {
            *reading = Reading::Layered;
        }
        self.settle_layers();
        begun
    }

    /// Reports the current layers to the simulator.
    fn report_kinds(&self) {
        #[cfg(feature = "testing")]
        if let Some(layered) = &self.layered
            && self.transport.cell.reactor.observes_layers()
            && let Some(kinds) = layered.layers.kinds()
        {
            let cell = &self.transport.cell;
            let in_clear = [cell.bytes_in.get(), cell.bytes_before_layers()];
            cell.report_layers(LayerReport::Layers { kinds, in_clear });
        }
    }

    /// The protocol was built. [`resume_layers`](Self::resume_layers) delivers the bytes that the
    /// layers hold, after `connection_made`.
    pub(super) fn begin_above_layers(&mut self) {
        if let Some(layered) = &mut self.layered {
            layered.stage = LayeredStage::Open;
        }
    }

    /// Delivers the bytes that arrived before the protocol was built.
    pub(crate) fn feed_early_input(&mut self, now: Instant) -> Effects {
        if self.layered.is_some() {
            if self.state.is_reading() {
                self.feed_layers(&[], now);
            }
        } else if matches!(self.state, LifeState::Open { reading: Reading::On, .. })
            && self.transport.wants_data()
        {
            self.transport.cell.received_at.set(now);
            self.deliver_unread(now);
        }
        self.take_effects()
    }

    /// Whether bytes may have arrived before the protocol was built.
    pub(crate) fn has_early_input(&self) -> bool {
        self.layered.is_some() || self.transport.cell.has_unread()
    }

    /// The layers are open and the protocol is about to be built: stores their infos in the cell.
    pub(crate) fn note_opened(&mut self) {
        let Some(layered) = &self.layered else { return };
        let opened = layered.layers.opened();
        self.drop_finished();
        self.set_opened(opened);
    }

    /// Sets the addresses and infos that layers reported, before the protocol is built.
    pub(crate) fn set_opened(&mut self, opened: Rc<Opened>) {
        if let Some(cell) = self.cell_mut() {
            cell.set_addresses(&opened);
        }
        self.transport.cell.set_opened(opened);
    }

    /// Drops layers that have done their work. Their unread bytes are the connection's.
    fn drop_finished(&mut self) {
        let is_whole = !self.peer_fin;
        let is_finished = |layered: &mut Box<Layered>| {
            is_whole && layered.stage == LayeredStage::Finished && layered.taken == 0
        };
        let Some(mut layered) = self.layered.take_if(is_finished) else { return };
        let unread = layered.layers.take_unread();
        drop(layered);
        let cell = &self.transport.cell;
        cell.end_layers(unread.len());
        cell.set_unread(unread);
        #[cfg(feature = "testing")]
        if cell.reactor.observes_layers() {
            cell.report_layers(LayerReport::Finished);
        }
        if let LifeState::Open { reading: reading @ Reading::Layered, .. } = &mut self.state {
            *reading = Reading::On;
        }
        self.order(Effects::DEADLINE);
    }

    /// True until the protocol is built.
    pub(crate) fn is_opening(&self) -> bool {
        self.layered.as_ref().is_some_and(|layered| layered.stage != LayeredStage::Open)
    }

    /// The deadline of the layers that have to open before the protocol is built.
    pub(super) fn opening_deadline(&self) -> Option<Instant> {
        match self.layered.as_ref()?.stage {
            LayeredStage::Opening { until } => until,
            LayeredStage::Finished | LayeredStage::Open => None,
        }
    }

    /// Whether every layer is open. Until then the driver keeps reading while the protocol pauses
    /// or closes, because a handshake must proceed.
    pub(super) fn layers_are_open(&self) -> bool {
        self.layered.as_ref().is_none_or(|layered| layered.layers.is_open())
    }

    // Up.

    /// Feeds bytes of the socket to the layers, or an empty slice to continue with bytes that they
    /// hold. While the protocol is paused the bytes wait in the layers, unless a layer is still
    /// opening.
    ///
    /// Returns true in the common case: the protocol replied, and the whole reply is at the
    /// bottom.
    #[inline(never)]
    pub(super) fn feed_layers(&mut self, bytes: &[u8], now: Instant) -> bool {
        let Life { transport, protocol, state, pending, layered, .. } = self;
        let Some(layered) = layered else { return false };
        let cell = &transport.cell;
        cell.add_wire_bytes(bytes.len(), 0);
        if state.is_paused() && layered.layers.is_open() {
            layered.layers.keep(bytes);
            return false;
        }
        let full = layered.full;
        let mut sink = ProtocolSink {
            protocol: &mut **protocol,
            transport,
            state,
            pending,
            above: &mut layered.above,
            now,
            stage: &layered.stage,
            events: None,
        };
        let risen = layered.layers.call(|layers| sink.feed(layers, bytes, full));
        let answered = match (risen, sink.events) {
            (Ok(Risen::Answered), None) => true,
            (Ok(Risen::All), None) if !full => false,
            (risen, events) => {
                self.apply_sink_events(risen, *events.unwrap_or_default(), now);
                return false;
            }
        };
        let has_spent = layered.above.has_spent() || layered.layers.has_spent_above_bottom();
        let is_through = layered.settle(cell, pending) && !has_spent;
        // A layer, or code that it calls, may have used a handle.
        answered && is_through && *pending == 0 && !cell.has_requests() && !cell.has_output()
    }

    /// Reading continues after a pause, and is on in the driver; a layer that is still full turns
    /// it off again.
    pub(super) fn continue_reading_layers(&mut self, now: Instant) {
        if let Some(layered) = &mut self.layered {
            layered.full = false;
            self.feed_layers(&[], now);
        }
    }

    /// Whether the next bytes may be delivered.
    fn takes_more(&self) -> bool {
        !self.panicked && self.transport.wants_data() && !self.state.is_paused()
    }

    #[cold]
    fn apply_sink_events(
        &mut self,
        risen: Result<Risen, String>,
        events: SinkEvents,
        now: Instant,
    ) {
        if let Some(payload) = events.panicked {
            self.panicked(now, payload);
        }
        let waits = match risen {
            Ok(risen) => matches!(risen, Risen::Some),
            Err(text) => return self.layer_panicked(&text, now),
        };
        let opens = events.opened && self.is_opening();
        let full = waits && self.takes_more() && !opens;
        if let Some(layered) = &mut self.layered
            && std::mem::replace(&mut layered.full, full) != full
            && self.state.is_reading()
        {
            self.order_receive(!full);
        }
        if opens && let Some(layered) = &mut self.layered {
            match layered.layers.are_finished() {
                Ok(true) => layered.stage = LayeredStage::Finished,
                Ok(false) => {}
                Err(text) => return self.layer_panicked(&text, now),
            }
            self.order(Effects::OPENED);
        }
        if events.closed {
            self.resolve_peer_ended();
            self.fin(now);
        }
        if let Some(reason) = events.failed {
            self.layer_failed(reason, now);
        }
        // Pending output is about to be poured, which settles the layers.
        if !self.transport.cell.has_output() {
            self.settle_layers();
        }
        if events.opened && !opens {
            // A close may have waited for the handshake.
            self.check_flushed(now);
        }
    }

    /// Sends the last output of a failed layer (an alert), then ends the connection.
    #[cold]
    pub(super) fn layer_failed(&mut self, reason: Reason, now: Instant) {
        let cell = &self.transport.cell;
        cell.clear_outbox();
        cell.advance_phase(ConnectionPhase::Closing);
        let producer = cell.remove_producer();
        if let Some(layered) = &mut self.layered {
            layered.layers.fail();
            layered.above.clear();
            cell.report_cut();
        }
        self.drop_layers_spent();
        self.settle_layers();
        match &mut self.state {
            LifeState::Open { .. } => self.lose(reason, now),
            LifeState::Flushing { .. } => self.improve_reason(reason),
            _ => discard("drop of a reason", reason),
        }
        self.encode_written(now);
        self.check_flushed(now);
        self.stop_producer(now, producer);
    }

    #[cold]
    fn layer_panicked(&mut self, text: &str, now: Instant) {
        log_error!(connection = %self.transport.cell.id(), peer = %self.transport.cell.peer, text, "a layer panicked");
        record_panic("a layer", text);
        self.fail_after_panic(text, now);
    }

    /// The socket's stream has ended.
    #[cold]
    pub(super) fn socket_ended(&mut self, now: Instant) {
        self.peer_fin = true;
        let is_opening = !self.layers_are_open();
        let Some(layered) = &mut self.layered else { return };
        match &self.state {
            LifeState::Flushing { .. } if !is_opening => {
                // As without layers: the input is discarded, so a truncated one does no harm.
            }
            LifeState::Open { .. } | LifeState::Flushing { .. } => {
                layered.layers.end();
                self.feed_layers(&[], now);
            }
            LifeState::Lingering { .. } => return self.end_as_planned(CloseMode::Normal),
            LifeState::Closed { .. } => return,
        }
        if let LifeState::Open { reading: Reading::Ended, writing } = &self.state
            && writing.has_ended()
        {
            self.both_ended();
        }
        self.check_flushed(now);
    }

    /// Whether the peer's end is among the bytes that the layers hold from before our close.
    pub(super) fn end_is_held(&mut self, now: Instant) -> bool {
        let Some(layered) = &mut self.layered else { return false };
        layered.full = false;
        layered.layers.is_behind() && self.drains_to_end(&[], now)
    }

    /// Discards bytes after our end, and ends the connection if the peer's is among them.
    #[cold]
    pub(super) fn linger_in_layers(&mut self, bytes: &[u8], now: Instant) {
        if self.drains_to_end(bytes, now) {
            self.end_as_planned(CloseMode::Normal);
        }
    }

    /// Feeds bytes to the layers, discards their output, and returns whether the stream that they
    /// decode has ended. A failed layer finds no end.
    fn drains_to_end(&mut self, bytes: &[u8], now: Instant) -> bool {
        let Some(layered) = &mut self.layered else { return false };
        self.transport.cell.add_wire_bytes(bytes.len(), 0);
        let fed = layered.layers.call(|layers| {
            let flow = layers.feed(bytes, now, |_| Continue(()));
            (layers.has_ended(), flow.is_break())
        });
        let moved = layered.layers.take_moved();
        match fed {
            Ok((true, _)) => {
                self.resolve_peer_ended();
                return true;
            }
            Ok((false, full)) => {
                if std::mem::replace(&mut layered.full, full) != full {
                    self.order_receive(!full);
                }
            }
            Err(text) => self.layer_panicked(&text, now),
        }
        if moved {
            self.order(Effects::DEADLINE);
        }
        false
    }

    /// Whether the socket's stream has ended, or the one that the layers decode.
    pub(crate) fn peer_has_ended(&self) -> bool {
        self.peer_fin || self.layered.as_ref().is_some_and(|layered| layered.layers.has_ended())
    }

    // Down.

    /// Moves written bytes into the layers, as far as they accept them.
    pub(crate) fn encode_output(&mut self, now: Instant) -> Effects {
        self.encode_written(now);
        let effects = self.take_effects_after_send();
        // Last, because user code may run and write.
        if self.layered.as_deref().is_some_and(Layered::has_spent) {
            self.drop_layers_spent();
        }
        effects
    }

    fn encode_written(&mut self, now: Instant) {
        let Some(layered) = &mut self.layered else { return };
        match layered.encode_written(&self.transport.cell, now) {
            Ok(()) => self.settle_layers(),
            Err(text) => self.layer_panicked(&text, now),
        }
        // Only a part of a file stays above the layers.
        if self.transport.cell.has_output() {
            self.check_files();
        }
    }

    pub(crate) fn is_layered(&self) -> bool {
        self.layered.is_some()
    }

    /// The outbox that the driver sends from, unless it is the connection's own.
    #[inline]
    pub(crate) fn bottom(&mut self) -> Option<&mut Outbox> {
        Some(self.layered.as_mut()?.layers.bottom())
    }

    /// Whether the connection may have output, queued or in its layers.
    pub(crate) fn has_layered_output(&mut self) -> bool {
        let sends = matches!(self.state, LifeState::Open { .. } | LifeState::Flushing { .. });
        let below = |layered: &mut Box<Layered>| layered.waiting() > 0;
        self.transport.cell.has_output() || sends && self.layered.as_mut().is_some_and(below)
    }

    /// The number of bytes that the driver could still take.
    pub(super) fn waiting(&mut self) -> usize {
        match &mut self.layered {
            Some(layered) => layered.layers.bottom().len(),
            None => self.transport.cell.waiting(),
        }
    }

    pub(super) fn trim(&mut self) {
        match &mut self.layered {
            Some(layered) => layered.layers.bottom().trim(),
            None => self.transport.cell.trim_outbox(),
        }
    }

    pub(super) fn add_in_flight(&mut self, taken: usize) {
        match &mut self.layered {
            Some(layered) => layered.taken += taken,
            None => self.transport.cell.add_in_flight(taken),
        }
    }

    /// The driver removed bytes from the bottom, and `sent` of them were sent.
    pub(super) fn note_sent_from_layers(&mut self, sent: usize) {
        if self.layered.is_some() {
            self.transport.cell.add_wire_bytes(0, sent);
            self.transport.cell.sub_in_flight(sent);
        }
    }

    pub(super) fn sub_in_flight(&mut self, sent: usize) {
        match &mut self.layered {
            Some(layered) => {
                debug_assert!(sent <= layered.taken, "the driver sent more than it took");
                layered.taken = layered.taken.saturating_sub(sent);
                self.transport.cell.add_wire_bytes(0, sent);
                self.settle_layers();
            }
            None => self.transport.cell.sub_in_flight(sent),
        }
    }

    /// Runs [`Layered::settle`]; called after each call into the layers.
    pub(super) fn settle_layers(&mut self) {
        let Life { transport, state, pending, layered, .. } = self;
        let Some(layered) = layered else { return };
        let mut ordered = 0;
        layered.settle(&transport.cell, &mut ordered);
        if !matches!(state, LifeState::Closed { .. }) {
            *pending |= ordered;
        }
    }

    /// Ends the output: asks the layers for their farewell once all written bytes have passed through them. Returns
    /// true when the FIN may follow, with no output left before it.
    pub(super) fn close_layers(&mut self, now: Instant) -> bool {
        let layers = self.layered.as_deref().map(|layered| &layered.layers);
        let works = layers.is_some_and(|layers| !layers.has_failed());
        if works && layers.is_some_and(|layers| !layers.is_open()) {
            return false;
        }
        self.transport.cell.set_mode(mode::WRITES_UNTIL_END, false);
        let Some(layered) = self.layered.as_mut().filter(|_| works) else { return true };
        let above = &mut layered.above;
        match layered.layers.call(|layers| layers.close(above, now)) {
            Ok(done) => {
                self.settle_layers();
                done && self.transport.cell.buffered() == 0
            }
            Err(text) => {
                self.layer_panicked(&text, now);
                false
            }
        }
    }

    /// Whether a close finds a handshake in progress and no bytes written, so it need not wait.
    pub(super) fn closes_in_handshake(&self) -> bool {
        self.layered.as_ref().is_some_and(|layered| {
            let nothing = layered.above.is_empty() && !self.transport.cell.has_output();
            nothing && !layered.layers.has_failed() && !layered.layers.is_open()
        })
    }

    /// Drops the bytes in the layers of a connection that is cut or has panicked.
    pub(super) fn clear_layers(&mut self) {
        let Some(layered) = &mut self.layered else { return };
        if layered.waiting() > 0 {
            self.transport.cell.report_cut();
        }
        layered.above.clear();
        layered.layers.clear();
        self.drop_layers_spent();
        self.settle_layers();
    }

    /// Drops foreign buffers that have been sent.
    pub(super) fn drop_spent(&mut self) {
        match self.layered {
            None => self.transport.cell.drop_spent(),
            Some(_) => self.drop_layers_spent(),
        }
    }

    fn drop_layers_spent(&mut self) {
        if let Some(layered) = &mut self.layered {
            let mut spent = layered.layers.take_spent();
            spent.append(&mut layered.above.take_spent());
            discard_all("drop of a buffer", spent);
        }
    }

    // For people.

    /// The names of the layers, from the socket up.
    pub(crate) fn layer_names(&self) -> Vec<&'static str> {
        self.layered.as_ref().map(|layered| layered.layers.names().0).unwrap_or_default()
    }

    /// The name of the first layer that has still to open.
    pub(super) fn opening_layer(&self) -> Option<&'static str> {
        self.layered.as_ref()?.layers.names().1
    }

    /// Whether nothing is read because a layer is full.
    pub(super) fn is_full_below(&self) -> bool {
        self.layered.as_ref().is_some_and(|layered| layered.full)
    }

    // Deadlines.

    pub(super) fn layers_deadline(&self) -> Option<Instant> {
        match &self.state {
            LifeState::Open { .. } | LifeState::Flushing { .. } => {
                self.layered.as_ref()?.layers.deadline()
            }
            // Only the end of the input that a layer holds back matters.
            LifeState::Lingering { .. } if self.is_full_below() => {
                self.layered.as_ref()?.layers.deadline()
            }
            LifeState::Lingering { .. } | LifeState::Closed { .. } => None,
        }
    }

    pub(super) fn layers_timed_out(&mut self, now: Instant) {
        if self.layers_deadline().is_some_and(|deadline| deadline <= now)
            && let Some(layered) = &mut self.layered
        {
            if let Err(text) = layered.layers.call(|layers| layers.timed_out(now)) {
                return self.layer_panicked(&text, now);
            }
            self.call_layers(now);
        }
    }

    /// A layer's waker was woken: calls the layers.
    pub(crate) fn layers_woken(&mut self, now: Instant) -> Effects {
        self.call_layers(now);
        self.take_effects()
    }

    /// Calls the layers in both directions, without new bytes.
    fn call_layers(&mut self, now: Instant) {
        match &self.state {
            LifeState::Open { .. } | LifeState::Flushing { .. } => {
                self.feed_layers(&[], now);
                self.encode_written(now);
            }
            LifeState::Lingering { .. } => self.linger_in_layers(&[], now),
            LifeState::Closed { .. } => {}
        }
    }

    // A layer on a live connection.

    /// Adds the layers that handles requested.
    #[cold]
    pub(super) fn start_layers(&mut self, now: Instant) {
        let mut starting = self.transport.cell.take_starting().into_iter();
        let mut started = true;
        while started
            && self.closed().is_none()
            && !self.panicked
            && let Some(next) = starting.next()
        {
            let later = starting.as_slice().iter().map(|later| later.clear.len()).sum();
            started = self.start_one(next, later, now);
        }
        for StartingLayer { layer, mut clear } in starting {
            drop(layer);
            if self.layered.is_none() {
                self.transport.cell.discard_in_flight(clear.len());
            }
            clear.clear();
            discard_all("drop of a buffer", clear.take_spent());
        }
        if !started {
            return;
        }
        let open = self.layers_are_open();
        self.transport.cell.set_starting(!open);
        if !open && matches!(self.state, LifeState::Open { reading: Reading::Paused { .. }, .. }) {
            self.order_receive(true);
        }
        self.encode_written(now);
        if matches!(&self.state, LifeState::Open { reading, .. } if reading.has_ended()) {
            // Report the end of stream, which the protocol has already seen, to the layers.
            self.socket_ended(now);
        }
    }

    /// Adds one layer, above which `later` bytes were written. Returns false if the connection
    /// fails.
    fn start_one(
        &mut self,
        StartingLayer { layer, mut clear }: StartingLayer,
        later: usize,
        now: Instant,
    ) -> bool {
        self.transport.cell.report_written(&clear);
        let started = match &mut self.layered {
            None => self.set_layers(vec![layer.take()], Some((clear, later))).map(Ok),
            Some(layered) => {
                let cell = &self.transport.cell;
                let unread = read_files(&mut clear);
                layered.above.append(&mut clear);
                let waker = || cell.layer_waker();
                let pushed = layered.layers.push(layer, &waker, &mut layered.above, now);
                self.report_kinds();
                unread.map_or(pushed, |error| Ok(Err(Reason::Lost(Arc::new(error)))))
            }
        };
        self.settle_layers();
        match started {
            Ok(Ok(())) if !self.transport.cell.has_unread() => return true,
            Ok(Ok(())) => {
                let reason = Reason::Failed(Failure::from(PlaintextAfterUpgrade));
                self.layer_failed(reason, now);
            }
            Ok(Err(reason)) => self.layer_failed(reason, now),
            Err(text) => self.layer_panicked(&text, now),
        }
        false
    }
}

impl LifeState {
    /// Whether bytes are delivered.
    fn is_reading(&self) -> bool {
        matches!(self, LifeState::Open { reading: Reading::Layered, .. })
    }

    fn is_paused(&self) -> bool {
        matches!(self, LifeState::Open { reading: Reading::Paused { .. }, .. })
    }
}
