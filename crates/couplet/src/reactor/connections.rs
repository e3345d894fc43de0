//! What the loop does for one connection: makes it, visits it, does what follows from that, sends
//! what it wrote, and sees it off.

use std::rc::Rc;

use super::connecting::ConnectorCell;
use super::table::{ConnectionEntry, Resource};
use super::turn::{Core, transmit};
use super::{Call, Timed};
use crate::address::Address;
use crate::driver::{Commands, Key};
use crate::panics::discard;
use crate::protocol::Protocol;
use crate::transport::ConnectionId;
use crate::transport::cell::ConnectionCell;
use crate::transport::connection::{Follows, Life, Moment};

impl Core {
    #[cold]
    pub(super) fn new_connection(
        &mut self,
        key: Key,
        protocol: Box<dyn Protocol>,
        peer: Address,
        host: Address,
        connector: Option<Rc<ConnectorCell>>,
    ) -> Rc<ConnectionCell> {
        let id = ConnectionId { reactor: self.reactor.serial(), key };
        tracing::debug!(connection = %id, %peer, %host, "connection made");
        let protocol = match &self.wrap {
            None => protocol,
            Some(wrap) => wrap(key, protocol),
        };
        let cell = Rc::new(ConnectionCell::new(id, self.reactor.clone(), peer, host));
        let life = Life::new(cell.clone(), protocol);
        let entry =
            ConnectionEntry { life, connector, timer: None, to_write: false, queued: false };
        self.table.put(key, Resource::Connection(Box::new(entry)));
        cell
    }

    /// Calls into one connection, and does what follows from that. What it wrote waits to be sent.
    pub(super) fn visit(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        f: impl FnOnce(&mut Life, Moment) -> Follows,
    ) {
        let at = self.moment();
        let Some(entry) = self.table.connection(key) else { return };
        // What it asks of itself meanwhile is seen below, and needs no entry in the list of dirty
        // connections.
        let was_dirty = entry.life.cell().set_dirty(true);
        let follows = f(&mut entry.life, at);
        entry.life.cell().set_dirty(was_dirty);
        if follows != Follows::NOTHING {
            self.visited(io, key, follows);
        }
    }

    /// What follows from a call into a connection, and from what was recorded in it.
    pub(super) fn visited(&mut self, io: &mut dyn Commands, key: Key, mut follows: Follows) {
        let at = self.moment();
        let Some(entry) = self.table.connection(key) else { return };
        if follows.has(Follows::RECORDED) {
            follows = follows.and(entry.life.take_over(at));
        }
        self.follow(io, key, follows);
    }

    /// Lines up the calls of a connection, gives the driver its orders, and notes its output.
    #[inline(never)]
    pub(super) fn follow(&mut self, io: &mut dyn Commands, key: Key, follows: Follows) {
        if follows.has_orders() {
            self.carry_out(io, key, follows);
        }
        let Some(entry) = self.table.connection(key) else { return };
        if follows.has(Follows::CALLS) && !std::mem::replace(&mut entry.queued, true) {
            self.reactor.enqueue(Call::Due(key));
        }
        if follows.has(Follows::OUTPUT) {
            if entry.life.is_full() {
                // A producer is paused for what does not leave, not for what nobody tried to send.
                self.send(io, key);
            } else if !std::mem::replace(&mut entry.to_write, true) {
                self.to_write.push(key);
            }
        }
    }

    /// Sends what a connection wrote, and does what follows from that.
    pub(super) fn send(&mut self, io: &mut dyn Commands, key: Key) {
        let at = self.moment();
        let Some(entry) = self.table.connection(key) else { return };
        if entry.life.cell().has_output() {
            let follows = transmit(io, key, &mut entry.life, at);
            if follows != Follows::NOTHING {
                self.follow(io, key, follows);
            }
        }
    }

    /// `connection_lost` was called: nothing of the connection stays.
    pub(super) fn connection_gone(&mut self, key: Key) {
        let Some(Resource::Connection(entry)) = self.table.take(key) else {
            return;
        };
        let timers = entry.life.cell().take_timers();
        let deadline = entry.timer.map(|(timer, _)| timer);
        for timer in timers.into_iter().chain(deadline) {
            let timed = self.reactor.records.timers.borrow_mut().remove(timer);
            drop(timed);
        }
        let ConnectionEntry { life, connector, .. } = *entry;
        let reason = life.reason();
        discard("drop of a protocol", life);
        if let Some(connector) = connector {
            self.connector_lost(&connector, &reason);
        }
        if self.table.connections() == 0 {
            self.table.shrink();
        }
    }

    /// Carries out what a connection wants of the driver.
    #[cold]
    fn carry_out(&mut self, io: &mut dyn Commands, key: Key, follows: Follows) {
        let Some(entry) = self.table.connection(key) else { return };
        if follows.has(Follows::RECEIVE) {
            io.receive(key, true);
        }
        if follows.has(Follows::RECEIVE_NO_MORE) {
            io.receive(key, false);
        }
        if follows.has(Follows::SHUT_WRITE) {
            io.shut_write(key);
        }
        if follows.has(Follows::LOOK_FOR_FIN) && io.peer_has_ended(key) {
            entry.life.peer_was_first();
        }
        if follows.has(Follows::MEASURE) {
            entry.life.measured(io.unsent(key));
        }
        if follows.has(Follows::OPTIONS) {
            for option in entry.life.cell().take_options() {
                if let Err(error) = io.set_option(key, option) {
                    tracing::warn!(connection = %entry.life.cell().id(), ?option, %error, "cannot set an option");
                }
            }
        }
        if follows.has(Follows::DEADLINE) {
            self.arm(key);
        }
    }

    /// Sees that a timer comes no later than the connection's deadline. One that comes too early
    /// is moved when it fires.
    fn arm(&mut self, key: Key) {
        let Some(entry) = self.table.connection(key) else { return };
        let mut timers = self.reactor.records.timers.borrow_mut();
        match (entry.life.deadline(), entry.timer) {
            (Some(deadline), None) => {
                entry.timer = Some((timers.insert(deadline, Timed::Deadline(key)), deadline));
            }
            (Some(deadline), Some((timer, armed))) if deadline < armed => {
                timers.reset(timer, deadline);
                entry.timer = Some((timer, deadline));
            }
            (Some(_), Some(_)) => {}
            (None, Some((timer, _))) => {
                timers.remove(timer);
                entry.timer = None;
            }
            (None, None) => {}
        }
    }

    pub(super) fn deadline_came(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(entry) = self.table.connection(key) else { return };
        entry.timer = None;
        let unsent = io.unsent(key);
        self.visit(io, key, |life, at| life.timed_out(at, unsent));
    }
}
