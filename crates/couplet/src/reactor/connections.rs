//! What the loop does for one connection: makes it, takes over what was asked of it, writes what it
//! wrote, carries out what it wants of the driver, and sees it off.

use std::rc::Rc;

use super::connecting::ConnectorCell;
use super::table::{Entry, Place};
use super::{Call, Loop, Reactor, Timed};
use crate::address::Address;
use crate::driver::Key;
use crate::protocol::Protocol;
use crate::transport::ConnectionId;
use crate::transport::connection::Life;
use crate::transport::panics::contain;
use crate::transport::wire::Wire;

impl Loop {
    #[cold]
    pub(super) fn new_connection(
        &mut self,
        key: Key,
        protocol: Box<dyn Protocol>,
        peer: Address,
        host: Address,
        connector: Option<Rc<ConnectorCell>>,
    ) -> Rc<Wire> {
        let id = ConnectionId { reactor: self.reactor.serial(), key };
        tracing::debug!(connection = %id, %peer, %host, "connection made");
        let protocol = match &self.wrap {
            None => protocol,
            Some(wrap) => wrap(key, protocol),
        };
        let wire = Rc::new(Wire::new(id, self.reactor.clone(), peer, host));
        let life = Life::new(wire.clone(), protocol);
        let entry = Entry { life, connector, timer: None, to_write: false, in_line: false };
        self.table.put(key, Place::Connection(Box::new(entry)));
        wire
    }

    #[cold]
    pub(super) fn made(&mut self, key: Key) {
        if let Some(entry) = self.table.connection(key) {
            entry.life.wire().set_marked(true);
            entry.life.made();
        }
        self.settle_one(key);
    }

    /// Takes over what was asked of a connection that the loop marked by itself.
    #[inline(never)]
    pub(super) fn settle_one(&mut self, key: Key) {
        if let Some(entry) = self.table.connection(key) {
            entry.life.wire().set_marked(false);
            if entry.life.wire().has_asked() {
                entry.life.take_over(self.now);
            }
            if entry.life.has_due() {
                Self::line_up_due(&self.reactor, key, entry);
            }
        }
    }

    #[cold]
    pub(super) fn line_up_due(reactor: &Reactor, key: Key, entry: &mut Entry) {
        if !std::mem::replace(&mut entry.in_line, true) {
            reactor.enqueue(Call::Due(key));
        }
    }

    /// A producer is paused for what does not leave, not for what nobody tried to send.
    #[cold]
    pub(super) fn write_before_a_pause(&mut self, key: Key) {
        self.flush(key);
        if let Some(entry) = self.table.connection(key) {
            entry.life.check_full();
        }
    }

    pub(super) fn run_due(&mut self, key: Key) {
        let Some(entry) = self.table.connection(key) else { return };
        entry.life.run_due(self.now);
        if entry.life.has_due() {
            Self::line_up_due(&self.reactor, key, entry);
        }
        if entry.life.has_orders() {
            self.carry_out(key);
        }
    }

    /// `connection_lost` was called: nothing of the connection stays.
    pub(super) fn connection_gone(&mut self, key: Key) {
        let Place::Connection(entry) = self.table.take(key) else {
            return;
        };
        let timers = entry.life.wire().take_timers();
        let deadline = entry.timer.map(|(timer, _)| timer);
        for timer in timers.into_iter().chain(deadline) {
            let timed = self.reactor.records.timers.borrow_mut().remove(timer);
            contain("drop of a timed call", move || drop(timed));
        }
        let Entry { life, connector, .. } = *entry;
        let reason = life.reason();
        contain("drop of a protocol", move || drop(life));
        if let Some(connector) = connector {
            self.connector_lost(&connector, &reason);
        }
        if self.table.connections() == 0 {
            self.table.shrink();
        }
    }

    /// Writes what a connection wrote, and carries out what follows from it.
    #[inline(never)]
    pub(super) fn flush(&mut self, key: Key) {
        let Some(entry) = self.table.connection(key) else {
            return;
        };
        let written = entry.life.wire().to_send().map(|mut outbox| {
            let before = outbox.len();
            let sent = self.driver.write(key, &mut outbox);
            (sent, before - outbox.len())
        });
        if let Some((sent, n)) = written {
            entry.life.wrote(sent, n, self.now);
        }
        if entry.life.has_due() {
            Self::line_up_due(&self.reactor, key, entry);
        }
        if entry.life.has_orders() {
            self.carry_out(key);
        }
    }

    /// Carries out what a connection wants of the driver.
    #[cold]
    pub(super) fn carry_out(&mut self, key: Key) {
        let Some(entry) = self.table.connection(key) else {
            return;
        };
        let orders = entry.life.take_orders();
        if let Some(on) = orders.receive {
            self.driver.receive(key, on);
        }
        if orders.shut_write {
            self.driver.shut_write(key);
        }
        if orders.look_for_fin && self.driver.peer_has_ended(key) {
            entry.life.peer_was_first();
        }
        if orders.measure {
            entry.life.measured(self.driver.unsent(key));
        }
        if orders.options {
            for option in entry.life.wire().take_options() {
                if let Err(error) = self.driver.set_option(key, option) {
                    tracing::warn!(connection = %entry.life.wire().id(), ?option, %error, "cannot set an option");
                }
            }
        }
        if orders.deadline {
            self.arm(key);
        }
    }

    /// Sees that a timer comes no later than the connection's deadline. One that comes too early
    /// is moved when it fires.
    pub(super) fn arm(&mut self, key: Key) {
        let Some(entry) = self.table.connection(key) else {
            return;
        };
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

    pub(super) fn deadline_came(&mut self, key: Key) {
        let Some(entry) = self.table.connection(key) else {
            return;
        };
        entry.timer = None;
        entry.life.timed_out(self.now, self.driver.unsent(key));
        self.arm(key);
        self.flush(key);
    }
}
