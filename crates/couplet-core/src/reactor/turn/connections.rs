//! The loop's side of one connection: creates it, calls into it, carries out the consequences,
//! sends its output, and removes it.
//!
//! Contract: 2a, 51b, 55a, 57a, 64, 64a, 65.

use std::rc::Rc;
use std::time::Instant;

use super::core::Core;
use super::table::{Origin, Resource};
use crate::address::Address;
use crate::defer::Failure;
use crate::driver::{Commands, Driver, Key, LocalEnd, Outbox, WriteOutcome};
use crate::error::{ConnectionLost, Reason};
use crate::panics::contain;
use crate::protocol::Protocol;
use crate::reactor::records::{Call, TimerAction, pending};
use crate::transport::Transport;
use crate::transport::cell::{ConnectionCell, SocketRequest, mode};
use crate::transport::connection::{Effects, Life, Written};

/// Maximum number of times that the layers of one connection are asked for more output, 64 KiB
/// each, before other connections are served.
const MAX_ENCODES: usize = 8;
/// Output of this size is sent immediately, although no caller waits for it: by the end of the turn
/// it might have left the caches, and further writes would hardly save a system call.
const LARGE: usize = 16 * 1024;

impl Core {
    /// Adds a connection that has no protocol yet.
    pub(super) fn new_connection(
        &mut self,
        io: &dyn Commands,
        key: Key,
        (peer, host): (Address, LocalEnd),
        origin: Origin,
    ) {
        let cell = ConnectionCell::new(key, self.reactor.clone(), peer, host);
        if cell.peer.unix().is_some() {
            cell.set_credentials(io.peer_credentials(key));
        }
        if matches!(cell.peer, Address::Pipe(_)) {
            // The system keeps the contents of a pipe, so an immediate close loses nothing.
            cell.set_mode(mode::CLOSES_AT_ONCE, true);
        }
        if let Origin::Adopted(Some(attached)) = &origin {
            cell.set_program(attached.0.clone());
        }
        let mut entry = self.table.new_entry(cell);
        entry.origin = origin;
        self.table.put(key, Resource::Connection(entry));
    }

    /// Applies the wrapper for new protocols, if one is set.
    pub(super) fn wrap_protocol(&self, key: Key, protocol: Box<dyn Protocol>) -> Box<dyn Protocol> {
        self.hooks.wrap(key, protocol)
    }

    /// Calls into one connection, carries out the consequences, and queues its output for sending.
    pub(super) fn with_life(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        f: impl FnOnce(&mut Life, Instant) -> Effects,
    ) {
        let now = self.now();
        let Some(entry) = self.table.connection(key) else { return };
        // Requests that the connection records on itself in this call are applied below, without an
        // entry in the dirty list.
        let was_dirty = entry.life.cell().set_dirty(true);
        let effects = f(&mut entry.life, now);
        entry.life.cell().set_dirty(was_dirty);
        if effects != Effects::NOTHING {
            self.apply_all_effects(io, key, effects);
        }
    }

    /// Carries out the consequences of a call into a connection, and of requests recorded in it.
    #[inline(never)]
    pub(super) fn apply_all_effects(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        mut effects: Effects,
    ) {
        let now = self.now();
        let Some(entry) = self.table.connection(key) else { return };
        if effects.has(Effects::RECORDED) {
            effects = effects.and(entry.life.apply(now));
        }
        self.apply_effects(io, key, effects);
    }

    /// Passes a connection's orders to the driver, queues its calls, and queues or sends its
    /// output.
    #[inline(never)]
    pub(super) fn apply_effects(&mut self, io: &mut dyn Commands, key: Key, effects: Effects) {
        if effects.has_orders() {
            self.apply_orders(io, key, effects);
        }
        let Some(entry) = self.table.connection(key) else { return };
        if effects.has(Effects::CALLS) && !std::mem::replace(&mut entry.queued, true) {
            self.records.enqueue(Call::Due(key));
        }
        if effects.has(Effects::KEPT) && !std::mem::replace(&mut entry.to_keep, true) {
            self.keeping.add(key);
        }
        if effects.has(Effects::OUTPUT) {
            if entry.life.is_full() || entry.life.cell().buffered() >= LARGE {
                // Also when full: a producer is paused only for bytes that the driver refuses.
                self.send(io, key);
            } else if !std::mem::replace(&mut entry.to_write, true) {
                self.table.queue_write(key);
            }
        }
    }

    /// Sends a connection's output, and carries out the consequences.
    #[inline(never)]
    pub(super) fn send(&mut self, io: &mut dyn Commands, key: Key) {
        let now = self.now();
        let Some(entry) = self.table.connection(key) else {
            return self.send_datagrams(io, key);
        };
        if entry.life.is_layered() {
            if entry.life.has_layered_output() {
                self.send_through_layers(io, key);
            }
            return;
        }
        if entry.life.cell().has_output() {
            let written = transmit(io, key, &mut entry.life.cell().outbox());
            let effects = entry.life.wrote(written, now);
            if effects != Effects::NOTHING {
                self.apply_effects(io, key, effects);
            }
        }
    }

    /// Sends a reply that has passed through the layers. Returns true if work of step 3 remains.
    #[inline(never)]
    pub(super) fn send_below<D: Driver>(&mut self, driver: &mut D, key: Key) -> bool {
        if self.records.is_pending(pending::EVENT) {
            return true;
        }
        let now = self.now();
        if let Some(entry) = self.table.connection(key)
            && let Some(bottom) = entry.life.bottom()
        {
            let written = transmit(driver, key, bottom);
            let effects = entry.life.wrote_below(written, now);
            if effects != Effects::NOTHING {
                self.apply_effects(driver, key, effects);
            }
        }
        false
    }

    /// [`send`](Self::send) for layers, which pass on one part at a time.
    pub(super) fn send_through_layers(&mut self, io: &mut dyn Commands, key: Key) {
        let now = self.now();
        for _ in 0..MAX_ENCODES {
            let Some(entry) = self.table.connection(key) else { return };
            let encoded = entry.life.encode_output(now);
            let Some(bottom) = entry.life.bottom().filter(|bottom| !bottom.is_empty()) else {
                return self.apply_effects(io, key, encoded);
            };
            let written = transmit(io, key, bottom);
            let wrote = entry.life.wrote_slow(written, now);
            let more = written.outcome == WriteOutcome::All && entry.life.has_layered_output();
            // Orders of a layer, such as a timer, are reported only once.
            let effects = wrote.and(encoded.orders());
            if effects != Effects::NOTHING {
                self.apply_effects(io, key, effects);
            }
            if !more {
                return;
            }
        }
        self.records.mark_dirty(key);
    }

    /// Outcome of a connect, right after `connection_made` was called.
    pub(super) fn connect_outcome(
        &mut self,
        cell: Rc<ConnectionCell>,
    ) -> Result<Transport, Failure> {
        match self.table.connection(cell.key()).map(|entry| entry.life.reason()) {
            // `connection_made` failed or panicked.
            Some(reason @ (Reason::Failed(_) | Reason::Panicked(_))) => {
                Err(ConnectionLost(reason).into())
            }
            _ => Ok(Transport { cell }),
        }
    }

    /// After `connection_lost`: removes the connection and everything that belongs to it.
    pub(super) fn remove_connection(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(Resource::Connection(mut entry)) = self.table.take(key) else {
            return;
        };
        let cell = entry.life.cell();
        self.ended.add(entry.life.reason_variant(), cell.bytes_in.get(), cell.bytes_out());
        let timers = cell.take_timers();
        let id = cell.id();
        if entry.life.end_keeping() {
            self.keeping.forget(id);
        }
        for timer in timers.into_iter().chain(entry.timer) {
            let timed = self.records.timers.borrow_mut().remove(timer);
            drop(timed);
        }
        let lost = match std::mem::replace(&mut entry.origin, Origin::Connecting) {
            Origin::Connector(connector) => Some((connector, entry.life.reason())),
            Origin::Adopted(Some(attached)) => {
                let reason = entry.life.reason();
                contain("the loss of a program's connection", || {
                    attached.0.clone().lost(Some(&reason))
                });
                None
            }
            Origin::Port(port) => {
                port.uncount();
                None
            }
            Origin::Shared(shared) => {
                shared.0.uncount();
                None
            }
            _ => None,
        };
        if let Some(seated) = entry.opening.take() {
            let (cell, reason) = (entry.life.cell().clone(), entry.life.reason());
            self.opening_failed(io, seated.opening, &cell, reason);
        }
        let drain_outcome = entry.drain_outcome;
        self.table.retire(entry);
        if let Some((connector, reason)) = lost {
            self.connecting.lost(&connector, &reason);
        }
        if !self.drains.is_empty() {
            self.count_in_drains(key, drain_outcome);
        }
        if self.table.connections() == 0 {
            self.table.shrink();
        }
        self.count_load(io);
    }

    /// Carries out a connection's orders to the driver.
    #[cold]
    fn apply_orders(&mut self, io: &mut dyn Commands, key: Key, effects: Effects) {
        let Some(entry) = self.table.connection(key) else { return };
        if effects.has(Effects::RECEIVE) {
            io.receive(key, true);
        }
        if effects.has(Effects::STOP_RECEIVING) {
            io.receive(key, false);
        }
        if effects.has(Effects::SHUT_WRITE) {
            io.shut_write(key);
        }
        let has_ended = || io.peer_has_ended(key) || entry.life.peer_has_ended();
        let found_end = effects.has(Effects::CHECK_FIN) && has_ended();
        if found_end {
            entry.life.found_peer_end(self.records.turn_time());
            for resolver in entry.life.cell().take_waiting_for_peer() {
                self.records.enqueue(Call::Run(Box::new(move || resolver.callback(()))));
            }
        }
        if effects.has(Effects::MEASURE) {
            entry.life.set_unsent(io.unsent(key));
        }
        if effects.has(Effects::OPTIONS) {
            for option in entry.life.cell().take_options() {
                set_option(io, entry.life.cell(), option);
            }
        }
        if found_end || effects.has(Effects::DEADLINE) {
            self.arm(key);
        }
        if effects.has(Effects::OPENED) {
            self.layers_opened(io, key);
        }
    }

    /// Makes sure that a timer fires no later than the connection's deadline. A timer that fires
    /// too early is rearmed then.
    fn arm(&mut self, key: Key) {
        let Some(entry) = self.table.connection(key) else { return };
        let mut timers = self.records.timers.borrow_mut();
        match (entry.life.deadline(), entry.timer) {
            (Some(deadline), None) => {
                entry.timer = Some(timers.insert(deadline, TimerAction::Deadline(key)));
            }
            (Some(deadline), Some(timer)) => {
                if timers.deadline(timer).is_some_and(|armed| deadline < armed) {
                    timers.reset(timer, deadline);
                }
            }
            (None, Some(timer)) => {
                timers.remove(timer);
                entry.timer = None;
            }
            (None, None) => {}
        }
    }

    pub(super) fn deadline_passed(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(entry) = self.table.connection(key) else { return };
        entry.timer = None;
        let unsent = io.unsent(key);
        self.with_life(io, key, |life, now| life.timed_out(now, unsent));
    }

    /// Handles a reply while more events are at hand: holds it back, or sends it.
    #[inline(never)]
    pub(super) fn answer(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(entry) = self.table.connection(key) else {
            return self.send_datagrams(io, key);
        };
        if !entry.to_write && !entry.life.has_layered_output() {
            return;
        }
        let now = self.records.turn_time();
        let most = self.batching.record_reply(now, || self.reactor.fresh_time());
        if most < 2 {
            return self.send(io, key);
        }
        self.apply_effects(io, key, Effects::OUTPUT);
        if self.table.writes() >= most {
            self.write_all(io);
        }
    }
}

/// Sets an option of a connection's socket.
fn set_option(io: &mut dyn Commands, cell: &ConnectionCell, option: SocketRequest) {
    let connection = cell.id();
    match option {
        SocketRequest::Set(option) => {
            if let Err(error) = io.set_option(cell.key(), option) {
                log_warn!(%connection, ?option, %error, "cannot set an option");
            }
        }
        SocketRequest::Call(call) => {
            contain("with_socket", || match io.with_socket(cell.key(), call.take()) {
                Some(Ok(())) => {}
                Some(Err(error)) => log_warn!(%connection, %error, "cannot set an option"),
                None => {
                    tracing::debug!(%connection, "cannot set an option: the connection has no socket")
                }
            });
        }
    }
}

/// Sends a connection's output. Law 4: the only way out. Inlined where replies are sent, so that
/// the driver's system call is made from the turn.
#[inline(always)]
pub(super) fn transmit<C: Commands + ?Sized>(io: &mut C, key: Key, outbox: &mut Outbox) -> Written {
    let before = outbox.len();
    let outcome = io.write(key, outbox);
    Written { outcome, before, spent: outbox.has_spent() }
}
