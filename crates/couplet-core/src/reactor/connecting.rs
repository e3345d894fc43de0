//! [`Connector`]: outgoing connections. The driver looks names up, and addresses are tried as in
//! RFC 8305 ("happy eyeballs"): families interleaved, the next attempt after 250 ms or when one
//! fails, and the first success wins.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::delayed::after;
use super::opening::Opening;
use super::table::{Origin, Resource};
use super::timers::TimerKey;
use super::turn::Core;
use super::{LoopRequest, Reactor, Source, Start, TimerAction, loop_ended};
use crate::address::{Address, UnixAddress, scoped_ip};
use crate::defer::{Cancelled, Deferred, Failure};
use crate::driver::{CloseMode, Commands, ConnectOptions, Key, LocalEnd, Ticket};
use crate::error::{By, ConnectError, Reason};
use crate::factory::{AnyFactory, ErasedFactory, FactorySlot};
use crate::panics::discard;
use crate::protocol::Protocol;
use crate::transport::cell::ConnectionCell;
use crate::transport::{Connection, Transport};

/// The Connection Attempt Delay of RFC 8305, section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A handle to a connect attempt and to the resulting connection. Cheap to clone; dropping it
/// changes nothing. Twisted's `IConnector`.
#[derive(Clone)]
pub struct Connector {
    cell: Rc<ConnectorCell>,
}

/// The state of a [`Connector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectorState {
    /// An attempt is in progress, or about to start.
    Connecting,
    /// The connection is made and not yet lost.
    Connected,
    /// Neither connecting nor connected.
    Disconnected,
}

/// [`Connector::connect`] was called while connecting or connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connector is not disconnected")]
pub struct NotDisconnected;

type Done = Box<dyn FnOnce(Result<Transport, Failure>)>;

pub(super) struct ConnectorCell {
    reactor: Reactor,
    serial: Cell<u64>,
    pub(super) target: Target,
    options: ConnectOptions,
    /// The source location of the request.
    pub(super) place: Source,
    pub(super) factory: FactorySlot,
    pub(super) state: Cell<ConnectorState>,
    /// `do_start` was called, but not yet `do_stop`.
    started: Cell<bool>,
    stop_requested: Cell<bool>,
    connection: RefCell<Option<Rc<ConnectionCell>>>,
    /// The connection, while its layers are opening.
    pub(super) opening: Cell<Option<Key>>,
    attempts: RefCell<Option<Attempts>>,
    timer: Cell<Option<TimerKey>>,
    /// When the next attempt begins, if not immediately.
    begin_at: Cell<Option<Instant>>,
    /// The timer is for `begin_at`.
    delayed: Cell<bool>,
    done: RefCell<Option<Done>>,
}

/// The requested target of a connector.
pub(super) enum Target {
    Tcp {
        /// A name or an IP address.
        host: String,
        port: u16,
        /// The address, if the target was given as one.
        address: Option<SocketAddr>,
    },
    Unix(UnixAddress),
}

/// One attempt at a target: the state of each address.
struct Attempts {
    ticket: Option<Ticket>,
    // Bound: the addresses of one name, from the resolver.
    waiting: VecDeque<Address>,
    // Bound: one for each address of the name.
    running: Vec<(Key, Address)>,
    // Bound: one for each address of the name.
    errors: Vec<(Address, ConnectError)>,
    next_at: Option<Instant>,
    until: Instant,
}

impl Connector {
    pub(super) fn new(
        reactor: &Reactor,
        target: Target,
        options: ConnectOptions,
        factory: ErasedFactory,
        done: Option<Done>,
    ) -> Connector {
        let cell = Rc::new(ConnectorCell {
            reactor: reactor.clone(),
            serial: Cell::new(0),
            target,
            options,
            place: factory.place,
            factory: FactorySlot::new(factory.factory.take()),
            state: Cell::new(ConnectorState::Connecting),
            started: Cell::new(false),
            stop_requested: Cell::new(false),
            connection: RefCell::new(None),
            opening: Cell::new(None),
            attempts: RefCell::new(None),
            timer: Cell::new(None),
            begin_at: Cell::new(None),
            delayed: Cell::new(false),
            done: RefCell::new(done),
        });
        reactor.start(Start::Connector(cell.clone()));
        Connector { cell }
    }

    pub(super) fn start_deferred<P: Protocol>(
        reactor: &Reactor,
        target: Target,
        options: ConnectOptions,
        factory: ErasedFactory,
    ) -> Deferred<Connection<P>> {
        let slot: Rc<RefCell<Option<Connector>>> = Rc::default();
        let connecting = slot.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |resolver| {
            if let Some(connector) = connecting.take() {
                let target = connector.to_string();
                connector.disconnect();
                resolver.errback(Cancelled::of(target));
            }
        });
        let done: Done = Box::new(move |outcome| {
            resolver.resolve(outcome.map(|transport| transport.connection()));
        });
        let connector = Connector::new(reactor, target, options, factory, Some(done));
        *slot.borrow_mut() = Some(connector);
        deferred
    }

    /// The current state.
    pub fn state(&self) -> ConnectorState {
        self.cell.state.get()
    }

    /// Stops the attempt: the turn calls the factory's `client_connection_failed` with
    /// [`ConnectError::Stopped`]. Without an attempt, does nothing and returns false.
    pub fn stop_connecting(&self) -> bool {
        if self.state() != ConnectorState::Connecting || self.cell.stop_requested.replace(true) {
            return false;
        }
        self.cell.reactor.record_request(LoopRequest::Connector(self.cell.clone()));
        true
    }

    /// [`stop_connecting`](Self::stop_connecting) while connecting, `lose_connection` while
    /// connected.
    pub fn disconnect(&self) {
        match self.state() {
            ConnectorState::Connecting => {
                self.stop_connecting();
            }
            ConnectorState::Connected => {
                if let Some(transport) = self.transport() {
                    transport.lose_connection();
                }
            }
            ConnectorState::Disconnected => {}
        }
    }

    /// Connects again, in the turn. When called in `client_connection_failed` or
    /// `client_connection_lost`, the factory is not stopped in between.
    ///
    /// # Errors
    ///
    /// [`NotDisconnected`] while connecting or connected.
    pub fn connect(&self) -> Result<(), NotDisconnected> {
        if self.state() != ConnectorState::Disconnected {
            return Err(NotDisconnected);
        }
        self.cell.state.set(ConnectorState::Connecting);
        self.cell.stop_requested.set(false);
        self.cell.reactor.start(Start::Connector(self.cell.clone()));
        Ok(())
    }

    /// Connects again after `delay`. Until then the state is `Connecting`, so
    /// [`stop_connecting`](Self::stop_connecting) ends the wait. As with
    /// [`connect`](Self::connect), a call in `client_connection_failed` or `client_connection_lost`
    /// does not stop the factory in between, and the Deferred of the connect stays pending.
    ///
    /// # Errors
    ///
    /// [`NotDisconnected`] while connecting or connected.
    pub fn connect_after(&self, delay: Duration) -> Result<(), NotDisconnected> {
        self.connect()?;
        self.cell.begin_at.set(Some(after(self.cell.reactor.now(), delay)));
        Ok(())
    }

    /// The connection, until it is lost.
    pub fn transport(&self) -> Option<Transport> {
        self.cell.connection.borrow().clone().map(|connection| Transport { cell: connection })
    }

    /// The connector's reactor.
    pub fn reactor(&self) -> &Reactor {
        &self.cell.reactor
    }

    /// The target host, as requested: a name or an IP address. Empty for a UNIX socket.
    pub fn remote_host(&self) -> &str {
        self.cell.target.host()
    }

    /// The target port; 0 for a UNIX socket.
    pub fn remote_port(&self) -> u16 {
        self.cell.target.port()
    }

    /// The target UNIX socket, if the target is one.
    pub fn remote_unix(&self) -> Option<&UnixAddress> {
        match &self.cell.target {
            Target::Tcp { .. } => None,
            Target::Unix(name) => Some(name),
        }
    }

    /// The requested options.
    pub fn options(&self) -> &ConnectOptions {
        &self.cell.options
    }
}

impl Target {
    pub(super) fn tcp(host: &str, port: u16) -> Target {
        Target::Tcp { host: host.to_owned(), port, address: None }
    }

    pub(super) fn at(address: Address) -> Target {
        match address {
            // A UDP address is used as a TCP address.
            Address::Tcp(address) | Address::Udp(address) => {
                let host = match address {
                    SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                        format!("{}%{}", v6.ip(), v6.scope_id())
                    }
                    _ => address.ip().to_string(),
                };
                Target::Tcp { host, port: address.port(), address: Some(address) }
            }
            Address::Unix(name) => Target::Unix(name),
            // Fails like a UNIX socket without a name.
            Address::Pipe(_) => Target::Unix(UnixAddress::Unnamed),
        }
    }

    pub(super) fn host(&self) -> &str {
        match self {
            Target::Tcp { host, .. } => host,
            Target::Unix(_) => "",
        }
    }

    fn port(&self) -> u16 {
        match self {
            Target::Tcp { port, .. } => *port,
            Target::Unix(_) => 0,
        }
    }

    /// The address, or the name that must be looked up first.
    fn address(&self) -> Result<Address, &str> {
        match self {
            Target::Tcp { address: Some(address), .. } => Ok(Address::Tcp(*address)),
            Target::Tcp { host, port, .. } => {
                scoped_ip(host, *port).map(Address::from).map_err(|_| &**host)
            }
            Target::Unix(name) => Ok(name.clone().into()),
        }
    }
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cell.fmt(f)
    }
}

impl fmt::Display for ConnectorCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tcp { host, port, .. } if host.contains(':') => {
                write!(f, "tcp:[{host}]:{port}")
            }
            Target::Tcp { host, port, .. } => write!(f, "tcp:{host}:{port}"),
            Target::Unix(name) => write!(f, "unix:{name}"),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.to_string())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl ConnectorCell {
    fn handle(self: &Rc<Self>) -> Connector {
        Connector { cell: self.clone() }
    }

    fn disarm(&self) {
        if let Some(timer) = self.timer.take() {
            self.reactor.records.timers.borrow_mut().remove(timer);
        }
    }

    fn with_attempts<R>(&self, f: impl FnOnce(&mut Attempts) -> R) -> Option<R> {
        self.attempts.borrow_mut().as_mut().map(f)
    }

    fn take_done(&self) -> Option<Done> {
        self.done.borrow_mut().take()
    }

    /// Fails the Deferred of the connect, unless the factory connects again.
    fn fail_connect(&self, failure: Failure) {
        if self.state.get() == ConnectorState::Disconnected
            && let Some(done) = self.take_done()
        {
            done(Err(failure));
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self.state.get() {
            ConnectorState::Connecting if self.delayed.get() => "waiting",
            ConnectorState::Connecting => match &*self.attempts.borrow() {
                Some(attempts) if attempts.ticket.is_some() => "looking up",
                _ => "connecting",
            },
            ConnectorState::Connected => "connected",
            ConnectorState::Disconnected => "disconnected",
        }
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

impl Core {
    /// Step 6: begins an attempt, or the delay before it.
    pub(super) fn start_connector(&mut self, io: &mut dyn Commands, cell: Rc<ConnectorCell>) {
        let begin_at = cell.begin_at.take();
        if self.reactor.is_stopping() {
            return self.refuse_connector(io, &cell);
        }
        self.next_connector += 1;
        cell.serial.set(self.next_connector);
        self.connectors.insert(self.next_connector, cell.clone());
        match begin_at {
            Some(at) if at > self.reactor.now() => self.delay_connector(io, &cell, at),
            _ => self.begin_attempt(io, cell),
        }
    }

    fn delay_connector(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>, until: Instant) {
        if cell.stop_requested.get() {
            return self.connect_failed(io, cell, ConnectError::Stopped);
        }
        let timed = TimerAction::Connector(cell.clone());
        cell.timer.set(Some(self.reactor.records.timers.borrow_mut().insert(until, timed)));
        cell.delayed.set(true);
    }

    fn begin_attempt(&mut self, io: &mut dyn Commands, cell: Rc<ConnectorCell>) {
        if !cell.started.replace(true) {
            cell.factory.call("do_start", |factory| factory.do_start());
        }
        let connector = cell.handle();
        cell.factory.call("started_connecting", |factory| factory.started_connecting(&connector));
        if cell.stop_requested.get() {
            return self.connect_failed(io, &cell, ConnectError::Stopped);
        }
        let now = self.reactor.now();
        let mut attempts = Attempts {
            ticket: None,
            waiting: VecDeque::new(),
            running: Vec::new(),
            errors: Vec::new(),
            next_at: None,
            until: after(now, cell.options.timeout),
        };
        match cell.target.address() {
            Ok(address) => attempts.waiting.push_back(address),
            Err(name) => {
                let ticket = self.reactor.records.names.borrow_mut().ticket();
                attempts.ticket = Some(ticket);
                self.lookups.for_connectors.insert(ticket, cell.clone());
                io.resolve(ticket, name);
            }
        }
        let looking_up = attempts.ticket.is_some();
        *cell.attempts.borrow_mut() = Some(attempts);
        if looking_up { self.arm_connector(&cell) } else { self.try_next_address(io, &cell) }
    }

    /// The reactor is stopping: refuses a new attempt. Each factory gets this failure only once,
    /// because one that always retries would never end.
    fn refuse_connector(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>) {
        if !cell.started.replace(true) {
            cell.factory.call("do_start", |factory| factory.do_start());
            return self.connect_failed(io, cell, ConnectError::Shutdown);
        }
        cell.state.set(ConnectorState::Disconnected);
        if cell.started.replace(false) {
            cell.factory.call("do_stop", |factory| factory.do_stop());
        }
        if let Some(done) = cell.take_done() {
            done(Err(ConnectError::Shutdown.into()));
        }
    }

    /// Handles the result of the name lookup.
    pub(super) fn addresses_found(
        &mut self,
        io: &mut dyn Commands,
        cell: &Rc<ConnectorCell>,
        found: Result<Vec<IpAddr>, ConnectError>,
    ) {
        match found {
            Ok(found) => {
                cell.with_attempts(|attempts| {
                    attempts.ticket = None;
                    attempts.waiting = interleave(found, cell.target.port());
                });
                self.try_next_address(io, cell);
            }
            Err(error) => self.connect_failed(io, cell, error),
        }
    }

    /// Tries the next address that the driver does not refuse immediately. If no address remains or
    /// is in progress, the attempt has failed.
    fn try_next_address(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>) {
        while let Some(address) = cell.with_attempts(|a| a.waiting.pop_front()).flatten() {
            match io.connect(&address, &cell.options) {
                Ok(key) => {
                    self.table.put(key, Resource::Connecting(cell.clone()));
                    let next_at = after(self.reactor.now(), ATTEMPT_DELAY);
                    cell.with_attempts(|attempts| {
                        attempts.running.push((key, address));
                        attempts.next_at = Some(next_at);
                    });
                    return self.arm_connector(cell);
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
            None => self.arm_connector(cell),
            Some(mut errors) => {
                let error = match (errors.pop(), errors.is_empty()) {
                    (Some((_, only)), true) => only,
                    (Some(last), false) => {
                        errors.push(last);
                        ConnectError::AllFailed(errors)
                    }
                    (None, _) => ConnectError::Stopped,
                };
                self.connect_failed(io, cell, error);
            }
        }
    }

    /// Arms one timer for both the next address and the connect timeout.
    fn arm_connector(&mut self, cell: &Rc<ConnectorCell>) {
        cell.disarm();
        let at = cell.with_attempts(|a| match a.next_at.filter(|_| !a.waiting.is_empty()) {
            Some(next_at) => next_at.min(a.until),
            None => a.until,
        });
        if let Some(at) = at {
            let timed = TimerAction::Connector(cell.clone());
            cell.timer.set(Some(self.reactor.records.timers.borrow_mut().insert(at, timed)));
        }
    }

    #[inline(never)]
    pub(super) fn connector_timer_fired(
        &mut self,
        io: &mut dyn Commands,
        cell: &Rc<ConnectorCell>,
        now: Instant,
    ) {
        let _hold = self.reactor.records.hold("connector timer");
        cell.timer.set(None);
        if cell.delayed.replace(false) {
            return self.begin_attempt(io, cell.clone());
        }
        match cell.with_attempts(|a| a.until <= now) {
            Some(true) => {
                self.connect_failed(io, cell, ConnectError::TimedOut(cell.options.timeout))
            }
            Some(false) => self.try_next_address(io, cell),
            None => {}
        }
    }

    /// The attempt at one address failed.
    #[inline(never)]
    pub(super) fn attempt_ended(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        cell: &Rc<ConnectorCell>,
        error: std::io::Error,
    ) {
        let _hold = self.reactor.records.hold("connect");
        self.table.take(key);
        io.close(key, CloseMode::Normal);
        cell.with_attempts(|attempts| {
            if let Some(at) = attempts.running.iter().position(|(k, _)| *k == key) {
                let (_, address) = attempts.running.remove(at);
                attempts.errors.push((address, ConnectError::from(error)));
            }
        });
        self.try_next_address(io, cell);
    }

    /// The attempt at one address succeeded: it becomes the connection, and the other attempts are
    /// dropped.
    #[inline(never)]
    pub(super) fn attempt_connected(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        cell: &Rc<ConnectorCell>,
        host: Address,
    ) {
        let _hold = self.reactor.records.hold("connect");
        self.table.take(key);
        let peer = cell.with_attempts(|attempts| {
            let at = attempts.running.iter().position(|(k, _)| *k == key)?;
            Some(attempts.running.remove(at).1)
        });
        self.drop_attempts(io, cell);
        let Some(peer) = peer.flatten() else {
            return io.close(key, CloseMode::Normal);
        };
        let ends = (peer, LocalEnd::for_connection(host, io, key));
        self.establish(io, key, ends, Opening::Connector(cell.clone()));
    }

    /// Handles the protocol that the factory built for the connection, or its refusal.
    pub(super) fn connector_built(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        cell: &Rc<ConnectorCell>,
        built: Option<Box<dyn Protocol>>,
    ) {
        if cell.stop_requested.get() {
            self.drop_connection(io, key);
            discard("drop of a protocol", built);
            return self.connect_failed(io, cell, ConnectError::Stopped);
        }
        cell.state.set(ConnectorState::Connected);
        let Some(protocol) = built else {
            self.drop_connection(io, key);
            self.connector_lost(cell, &Reason::Done(By::Us));
            return cell.fail_connect(ConnectError::NoProtocol.into());
        };
        let Some(entry) = self.table.connection(key) else { return };
        entry.origin = Origin::Connector(cell.clone());
        let connection = entry.life.cell().clone();
        *cell.connection.borrow_mut() = Some(connection.clone());
        self.begin_protocol(io, key, protocol);
        if let Some(done) = cell.take_done() {
            done(self.connect_outcome(connection));
        }
    }

    /// The connects in progress, in the order in which their connectors began: the driver's key,
    /// the address, and the connector.
    #[cfg(feature = "testing")]
    pub(super) fn connects_in_progress(&self) -> Vec<(Key, Address, Connector)> {
        let mut found = Vec::new();
        for cell in self.connectors.values() {
            for (key, address) in cell.attempts.borrow().iter().flat_map(|a| &a.running) {
                found.push((*key, address.clone(), cell.handle()));
            }
        }
        found
    }

    fn drop_attempts(&mut self, io: &mut dyn Commands, cell: &Rc<ConnectorCell>) {
        cell.disarm();
        cell.delayed.set(false);
        if let Some(key) = cell.opening.take() {
            self.drop_connection(io, key);
        }
        let Some(attempts) = cell.attempts.borrow_mut().take() else {
            return;
        };
        if let Some(ticket) = attempts.ticket {
            self.lookups.for_connectors.remove(&ticket);
            io.forget(ticket);
        }
        for (key, _) in attempts.running {
            self.table.take(key);
            io.close(key, CloseMode::Normal);
        }
    }

    /// The attempt as a whole failed.
    pub(super) fn connect_failed(
        &mut self,
        io: &mut dyn Commands,
        cell: &Rc<ConnectorCell>,
        error: ConnectError,
    ) {
        if cell.state.get() != ConnectorState::Connecting {
            return;
        }
        tracing::debug!(target = %cell, %error, "cannot connect");
        self.drop_attempts(io, cell);
        let failure = Failure::at(error, cell.place);
        self.end_connector(cell, |factory, connector| {
            factory.client_connection_failed(connector, &Reason::Failed(failure.clone()));
        });
        cell.fail_connect(failure);
    }

    /// The connector's connection was lost; its `connection_lost` was called.
    pub(super) fn connector_lost(&mut self, cell: &Rc<ConnectorCell>, reason: &Reason) {
        self.end_connector(cell, |factory, connector| {
            factory.client_connection_lost(connector, reason);
        });
    }

    /// Reports an end to the factory, and stops the factory unless it connects again.
    fn end_connector(
        &mut self,
        cell: &Rc<ConnectorCell>,
        report: impl FnOnce(&mut dyn AnyFactory, &Connector),
    ) {
        self.connectors.remove(&cell.serial.get());
        cell.state.set(ConnectorState::Disconnected);
        cell.stop_requested.set(false);
        cell.connection.take();
        let connector = cell.handle();
        cell.factory.call("client_connection_…", |factory| report(factory, &connector));
        if cell.state.get() == ConnectorState::Disconnected && cell.started.replace(false) {
            cell.factory.call("do_stop", |factory| factory.do_stop());
        }
    }

    /// Applies a stop request. A connector that has not started yet is stopped when it does.
    pub(super) fn apply_connector_requests(
        &mut self,
        io: &mut dyn Commands,
        cell: &Rc<ConnectorCell>,
    ) {
        let in_progress = cell.attempts.borrow().is_some() || cell.opening.get().is_some();
        if cell.stop_requested.get() && (in_progress || cell.delayed.get()) {
            self.connect_failed(io, cell, ConnectError::Stopped);
        }
    }

    /// The loop is dropped: the Deferred of the connect fails.
    pub(super) fn abandon_connector(cell: &Rc<ConnectorCell>) {
        cell.attempts.take();
        if let Some(done) = cell.take_done() {
            done(Err(loop_ended()));
        }
        cell.factory.clear();
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
        let order = interleave(ips(&["2001::1", "2001::2", "2001::3", "10.0.0.1"]), 7);
        let order: Vec<String> = order.iter().map(|a| a.ip().expect("TCP").to_string()).collect();
        assert_eq!(order, ["2001::1", "10.0.0.1", "2001::2", "2001::3"]);
        let order = interleave(ips(&["10.0.0.1", "10.0.0.2", "2001::1"]), 7);
        let order: Vec<String> = order.iter().map(|a| a.ip().expect("TCP").to_string()).collect();
        assert_eq!(order, ["10.0.0.1", "2001::1", "10.0.0.2"]);
        assert!(interleave(Vec::new(), 7).is_empty());
    }
}
