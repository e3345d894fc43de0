//! Outgoing connections in progress. The driver looks names up, and addresses are tried as in RFC
//! 8305 ("happy eyeballs"): families interleaved, the next attempt after 250 ms or when one fails,
//! and the first success wins.
//!
//! [`Connecting`] owns the connectors, their lookups and their attempts, but knows neither the turn
//! nor the connections: the turn passes events in, and takes an established connection out.
//!
//! Contract: 32, 35–40, 140, 141, 144a.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::address::ascii_host;
use crate::connector::{Attempts, Connector, ConnectorCell, ConnectorState, Step, Timeout};
use crate::driver::{CloseMode, Commands, Key, Ticket};
use crate::error::{ConnectError, Reason};
use crate::factory::AnyFactory;
use crate::internals::{failure_at, mark_handled};
use crate::reactor::names::named;
use crate::reactor::records::TimerAction;
use crate::sorted::SortedMap;
use crate::timers::{TimerKey, after};

/// The Connection Attempt Delay of RFC 8305, section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(super) struct Connecting {
    /// The connectors that are connecting or connected, in the order in which they began.
    connectors: SortedMap<u64, Rc<ConnectorCell>>,
    /// The number of the latest connector.
    last: u64,
    lookups: SortedMap<Ticket, Rc<ConnectorCell>>,
    /// The sockets that connect.
    attempts: BTreeMap<Key, Rc<ConnectorCell>>,
}

impl Connecting {
    /// The connectors that are connecting or connected, in the order in which they began.
    pub(super) fn connectors(&self) -> impl Iterator<Item = &Rc<ConnectorCell>> {
        self.connectors.values()
    }

    /// Begins an attempt, or the delay before it.
    pub(super) fn start(&mut self, io: &mut dyn Commands, cell: Rc<ConnectorCell>) {
        let Some(Step::Requested(begin_at)) = cell.set_step(Step::Calling) else {
            debug_assert!(false, "a connector starts once for each request");
            return;
        };
        if cell.reactor.is_stopping() {
            return self.refuse(io, &cell);
        }
        self.last += 1;
        cell.serial.set(self.last);
        self.connectors.insert(self.last, cell.clone());
        match begin_at {
            Some(at) if at > cell.reactor.now() => self.delay(io, &cell, at),
            _ => self.begin(io, &cell),
        }
    }

    fn delay(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>, until: Instant) {
        if cell.stop_requested() {
            return self.fail(io, cell, ConnectError::Stopped);
        }
        cell.set_step(Step::Waiting(arm(cell, until)));
    }

    fn begin(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>) {
        cell.factory.start();
        let connector = cell.handle();
        cell.factory.call("started_connecting", |factory| factory.started_connecting(&connector));
        if cell.stop_requested() {
            return self.fail(io, cell, ConnectError::Stopped);
        }
        let until = after(cell.reactor.now(), cell.options.timeout);
        match cell.target.address() {
            Ok(address) => {
                self.attempt(io, cell, [address].into(), Timeout { until, timer: None });
            }
            Err(name) => {
                let ticket = cell.reactor.records().names.borrow_mut().ticket();
                self.lookups.insert(ticket, cell.clone());
                // The system refuses a name that can't be converted.
                io.resolve(ticket, &ascii_host(name).unwrap_or(name.into()));
                let timeout = Timeout { until, timer: Some(arm(cell, until)) };
                cell.set_step(Step::LookingUp(ticket, timeout));
            }
        }
    }

    /// The reactor is stopping: refuses a new attempt. Each factory gets this failure only once,
    /// because one that always retries would never end.
    fn refuse(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>) {
        if cell.factory.start() {
            return self.fail(io, cell, ConnectError::Shutdown);
        }
        cell.set_disconnected();
        cell.factory.stop();
        if let Some(done) = cell.take_done() {
            done(Err(ConnectError::Shutdown.into()));
        }
    }

    /// Handles the result of a name lookup, if a connector waits for it.
    pub(super) fn name_resolved(
        &mut self,
        io: &mut dyn Commands,
        ticket: Ticket,
        answer: io::Result<Vec<IpAddr>>,
    ) {
        let Some(cell) = self.lookups.remove(&ticket) else { return };
        let Some(Step::LookingUp(_, timeout)) = cell.set_step(Step::Calling) else {
            debug_assert!(false, "a lookup belongs to a connector that waits for it");
            return;
        };
        match named(cell.target.host(), answer) {
            Ok(found) => {
                let waiting = interleave(found, cell.target.port());
                self.attempt(io, &cell, waiting, timeout);
            }
            Err(error) => {
                disarm(&cell, timeout.timer);
                self.fail(io, &cell, error);
            }
        }
    }

    fn attempt(
        &mut self,
        io: &mut dyn Commands,
        cell: &Rc<ConnectorCell>,
        waiting: VecDeque<Address>,
        timeout: Timeout,
    ) {
        let (running, errors) = (Vec::new(), Vec::new());
        let attempts = Attempts { waiting, running, errors, next_at: None, timeout };
        cell.set_step(Step::Trying(attempts));
        self.try_next_address(io, cell);
    }

    /// Tries the next address that the driver does not refuse immediately. If no address remains or
    /// is in progress, the attempt has failed.
    fn try_next_address(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>) {
        while let Some(address) = cell.with_attempts(|a| a.waiting.pop_front()).flatten() {
            match io.connect(&address, &cell.options) {
                Ok(key) => {
                    self.attempts.insert(key, cell.clone());
                    let next_at = after(cell.reactor.now(), ATTEMPT_DELAY);
                    cell.with_attempts(|attempts| {
                        attempts.running.push((key, address));
                        attempts.next_at = Some(next_at);
                    });
                    return rearm(cell);
                }
                Err(error) => {
                    let error = ConnectError::from(error);
                    cell.with_attempts(|a| a.errors.push((address, error)));
                }
            }
        }
        let errors = cell
            .with_attempts(|a| a.running.is_empty().then(|| std::mem::take(&mut a.errors)))
            .flatten();
        match errors {
            None => rearm(cell),
            Some(mut errors) => {
                let error = match (errors.pop(), errors.is_empty()) {
                    (Some((_, only)), true) => only,
                    (Some(last), false) => {
                        errors.push(last);
                        ConnectError::AllFailed(errors)
                    }
                    (None, _) => ConnectError::Stopped,
                };
                self.fail(io, cell, error);
            }
        }
    }

    /// The timer of a connector fired: its delay is over, its time is, or the next address is due.
    pub(super) fn timer_fired(
        &mut self,
        io: &mut dyn Commands,
        cell: &Rc<ConnectorCell>,
        now: Instant,
    ) {
        enum Due {
            Begin,
            TimedOut,
            NextAddress,
        }
        let due = cell.with_step(|step| match step {
            Step::Waiting(_) => {
                *step = Step::Calling;
                Some(Due::Begin)
            }
            Step::LookingUp(_, timeout) | Step::Trying(Attempts { timeout, .. }) => {
                timeout.timer = None;
                Some(if timeout.until <= now { Due::TimedOut } else { Due::NextAddress })
            }
            Step::Requested(_) | Step::Calling | Step::Opening(_) => None,
        });
        match due.flatten() {
            Some(Due::Begin) => self.begin(io, cell),
            Some(Due::TimedOut) => {
                self.fail(io, cell, ConnectError::TimedOut(cell.options.timeout));
            }
            Some(Due::NextAddress) => self.try_next_address(io, cell),
            None => debug_assert!(false, "a timer belongs to a step that waits"),
        }
    }

    /// The attempt at one address failed. Does nothing if the socket is no attempt.
    pub(super) fn attempt_ended(&mut self, io: &mut dyn Commands, key: Key, error: io::Error) {
        let Some(cell) = self.attempts.remove(&key) else { return };
        io.close(key, CloseMode::Normal);
        cell.with_attempts(|attempts| {
            if let Some(at) = attempts.running.iter().position(|(k, _)| *k == key) {
                let (_, address) = attempts.running.remove(at);
                attempts.errors.push((address, ConnectError::from(error)));
            }
        });
        self.try_next_address(io, &cell);
    }

    /// The attempt at one address succeeded: drops the others, and returns the connector and the
    /// address of the new connection. `None` if the socket is no attempt.
    pub(super) fn attempt_connected(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
    ) -> Option<(Rc<ConnectorCell>, Address)> {
        let cell = self.attempts.remove(&key)?;
        let peer = cell.with_attempts(|attempts| {
            let at = attempts.running.iter().position(|(k, _)| *k == key)?;
            Some(attempts.running.remove(at).1)
        });
        self.drop_attempt(io, &cell);
        Some((cell, peer.flatten().expect("the socket is one of its connector's attempts")))
    }

    /// Cancels everything that the connector waits for.
    fn drop_attempt(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>) {
        match cell.set_step(Step::Calling) {
            Some(Step::Waiting(timer)) => disarm(cell, Some(timer)),
            Some(Step::LookingUp(ticket, timeout)) => {
                disarm(cell, timeout.timer);
                self.lookups.remove(&ticket);
                io.forget(ticket);
            }
            Some(Step::Trying(attempts)) => {
                disarm(cell, attempts.timeout.timer);
                for (key, _) in attempts.running {
                    self.attempts.remove(&key);
                    // A server that has accepted it must not take it for an empty stream.
                    io.close(key, CloseMode::Reset);
                }
            }
            step => debug_assert!(!matches!(step, Some(Step::Opening(_))), "the turn drops it"),
        }
    }

    /// The attempt as a whole failed.
    pub(super) fn fail(
        &mut self,
        io: &mut dyn Commands,
        cell: &Rc<ConnectorCell>,
        error: ConnectError,
    ) {
        if cell.state() != ConnectorState::Connecting {
            return;
        }
        tracing::debug!(target = %cell, %error, "cannot connect");
        self.drop_attempt(io, cell);
        let failure = failure_at(error.clone(), cell.place);
        // The factory gets another failure: it may pass that on, unhandled.
        let reason = Reason::Failed(failure_at(error, cell.place));
        self.end(cell, |factory, connector| {
            factory.client_connection_failed(connector, &reason);
        });
        if !cell.take_ignored() {
            mark_handled(&failure);
        }
        cell.fail_connect(failure);
    }

    /// The connector's connection was lost; its `connection_lost` was called.
    pub(super) fn lost(&mut self, cell: &Rc<ConnectorCell>, reason: &Reason) {
        self.end(cell, |factory, connector| {
            factory.client_connection_lost(connector, reason);
        });
    }

    /// Reports an end to the factory, and stops the factory unless it connects again.
    fn end(
        &mut self,
        cell: &Rc<ConnectorCell>,
        report: impl FnOnce(&mut dyn AnyFactory, &Connector),
    ) {
        self.connectors.remove(&cell.serial.get());
        cell.set_disconnected();
        let connector = cell.handle();
        cell.factory.call("client_connection_…", |factory| report(factory, &connector));
        if cell.state() == ConnectorState::Disconnected {
            cell.factory.stop();
        }
    }

    /// The loop is dropped: the Deferreds of the connects fail.
    pub(super) fn abandon(&mut self) {
        for connector in std::mem::take(self).connectors.into_values() {
            connector.abandon();
        }
    }

    /// The connects in progress, in the order in which their connectors began: the driver's key,
    /// the address, and the connector.
    #[cfg(feature = "testing")]
    pub(super) fn in_progress(&self) -> Vec<(Key, Address, Connector)> {
        let mut found = Vec::new();
        for cell in self.connectors.values() {
            cell.with_attempts(|attempts| {
                for (key, address) in &attempts.running {
                    found.push((*key, address.clone(), cell.handle()));
                }
            });
        }
        found
    }

    /// Asserts that each lookup and each socket belongs to a connector that waits for it.
    #[cfg(debug_assertions)]
    pub(super) fn check(&self) {
        let (mut lookups, mut attempts) = (0, 0);
        for cell in self.connectors.values() {
            assert!(cell.state() != ConnectorState::Disconnected, "{cell} has ended");
            cell.with_step(|step| match step {
                Step::LookingUp(ticket, timeout) => {
                    lookups += 1;
                    assert!(self.lookups.contains_key(ticket), "{cell} has no lookup");
                    assert!(timeout.timer.is_some(), "{cell} waits without a limit");
                }
                Step::Trying(Attempts { running, timeout, .. }) => {
                    attempts += running.len();
                    assert!(!running.is_empty(), "{cell} waits for nothing");
                    assert!(running.iter().all(|(key, _)| self.attempts.contains_key(key)));
                    assert!(timeout.timer.is_some(), "{cell} waits without a limit");
                }
                Step::Requested(_) | Step::Calling => panic!("{cell} has not begun"),
                Step::Waiting(_) | Step::Opening(_) => {}
            });
        }
        assert_eq!((lookups, attempts), (self.lookups.len(), self.attempts.len()));
    }
}

/// Arms one timer for both the next address and the connect timeout.
fn rearm(cell: &Rc<ConnectorCell>) {
    let before = cell.with_attempts(|a| {
        let next_at = a.next_at.filter(|_| !a.waiting.is_empty());
        let at = next_at.map_or(a.timeout.until, |next_at| next_at.min(a.timeout.until));
        let before = a.timeout.timer.take();
        (before, at)
    });
    let Some((before, at)) = before else { return };
    disarm(cell, before);
    let timer = arm(cell, at);
    cell.with_attempts(|a| a.timeout.timer = Some(timer));
}

fn arm(cell: &Rc<ConnectorCell>, at: Instant) -> TimerKey {
    let timed = TimerAction::Connector(cell.clone());
    cell.reactor.records().timers.borrow_mut().insert(at, timed)
}

fn disarm(cell: &ConnectorCell, timer: Option<TimerKey>) {
    if let Some(timer) = timer {
        let timed = cell.reactor.records().timers.borrow_mut().remove(timer);
        drop(timed);
    }
}

/// Applies the order of RFC 8305, section 4: families alternate, starting with the resolver's
/// first.
fn interleave(found: Vec<IpAddr>, port: u16) -> VecDeque<Address> {
    let first_is_v6 = found.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|ip| ip.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = VecDeque::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten().map(|ip| SocketAddr::new(ip, port).into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_starting_with_the_resolvers_first() {
        let (a, b, c) = (["2001::1", "2001::2", "2001::3"], ["10.0.0.1", "10.0.0.2"], "10.0.0.3");
        let cases: [(&[&str], &[&str]); 6] = [
            (&[a[0], a[1], a[2], b[0]], &[a[0], b[0], a[1], a[2]]),
            (&[b[0], a[0], a[1], a[2]], &[b[0], a[0], a[1], a[2]]),
            (&[a[0], b[0], b[1], c], &[a[0], b[0], b[1], c]),
            (&[b[0], b[1], a[0]], &[b[0], a[0], b[1]]),
            (&[a[0], a[1], b[0], b[1]], &[a[0], b[0], a[1], b[1]]),
            (&[b[0], b[1]], &[b[0], b[1]]),
        ];
        for (found, expected) in cases {
            let order = interleave(ips(found), 7);
            let order: Vec<String> =
                order.iter().map(|a| a.ip().expect("TCP").to_string()).collect();
            assert_eq!(order, expected);
        }
        assert!(interleave(Vec::new(), 7).is_empty());
    }
}
