//! [`Connector`], the handle to an outgoing connection, and its state, which the turn advances.
//!
//! Contract: 37, 39, 51, 136, 145a, 180.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use crate::address::{Address, UnixAddress, host_of, scoped_ip};
use crate::defer::Failure;
use crate::driver::{ConnectOptions, Key, Ticket};
use crate::error::ConnectError;
use crate::factory::{ErasedFactory, FactorySlot};
use crate::recorder::{Reactor, Source, loop_ended};
use crate::timers::TimerKey;
use crate::transport::Transport;
use crate::transport::cell::ConnectionCell;
use crate::why::Why;

/// A handle to a connect attempt and to the resulting connection. Cheap to clone; dropping it
/// changes nothing. Twisted's `IConnector`.
#[derive(Clone)]
pub struct Connector {
    pub(crate) cell: Rc<ConnectorCell>,
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

pub(crate) type Done = Box<dyn FnOnce(Result<Transport, Failure>)>;

pub(crate) struct ConnectorCell {
    pub(crate) reactor: Reactor,
    pub(crate) target: Target,
    pub(crate) options: ConnectOptions,
    /// The source location of the request.
    pub(crate) place: Source,
    pub(crate) factory: FactorySlot,
    /// The connector's number in the loop, once it has started.
    pub(crate) serial: Cell<u64>,
    state: RefCell<ConnectorStage>,
    done: RefCell<Option<Done>>,
    /// Whether the factory has ignored the failure of the attempt.
    ignored: Cell<bool>,
}

enum ConnectorStage {
    Connecting(Step),
    /// Connecting, but a stop was requested.
    Stopping(Step),
    Connected(Rc<ConnectionCell>),
    Disconnected,
}

/// The step that a connector has reached while it is connecting.
pub(crate) enum Step {
    /// Recorded; the turn will start it, at this time if one is set.
    Requested(Option<Instant>),
    /// Begins when the timer fires.
    Waiting(TimerKey),
    /// The factory or the driver is being called.
    Calling,
    /// The driver looks the name up.
    LookingUp(Ticket, Timeout),
    Trying(Attempts),
    /// Connected; the layers of the connection are opening.
    Opening(Key),
}

/// The end of an attempt as a whole, and the timer of its next step.
pub(crate) struct Timeout {
    pub(crate) until: Instant,
    pub(crate) timer: Option<TimerKey>,
}

/// One attempt at a target: the state of each address.
pub(crate) struct Attempts {
    pub(crate) waiting: VecDeque<Address>,
    pub(crate) running: Vec<(Key, Address)>,
    pub(crate) errors: Vec<(Address, ConnectError)>,
    /// When the next address is tried although others are in progress.
    pub(crate) next_at: Option<Instant>,
    pub(crate) timeout: Timeout,
}

/// The requested target of a connector.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp {
        /// A name or an IP address.
        host: String,
        port: u16,
        /// The address, if the target was given as one.
        address: Option<SocketAddr>,
    },
    Unix(UnixAddress),
}

/// The target of a [`connector`](crate::hooks::connector): a host and a port, or an address, such as a
/// [`Port::host`](crate::Port::host), without a lookup.
#[derive(Clone, Debug)]
pub struct ConnectTarget(pub(crate) Target);

impl From<(&str, u16)> for ConnectTarget {
    fn from((host, port): (&str, u16)) -> ConnectTarget {
        ConnectTarget::from((host.to_owned(), port))
    }
}

impl From<(&String, u16)> for ConnectTarget {
    fn from((host, port): (&String, u16)) -> ConnectTarget {
        ConnectTarget::from((host.clone(), port))
    }
}

impl From<(String, u16)> for ConnectTarget {
    fn from((host, port): (String, u16)) -> ConnectTarget {
        ConnectTarget(Target::Tcp { host, port, address: None })
    }
}

impl<A: Into<Address>> From<A> for ConnectTarget {
    fn from(address: A) -> ConnectTarget {
        ConnectTarget(Target::at(address.into()))
    }
}

impl fmt::Display for ConnectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Connector {
    /// The current state.
    pub fn state(&self) -> ConnectorState {
        self.cell.state()
    }

    /// The connection, until it is lost.
    pub fn transport(&self) -> Option<Transport> {
        match &*self.cell.state.borrow() {
            ConnectorStage::Connected(connection) => Some(Transport { cell: connection.clone() }),
            ConnectorStage::Connecting(_)
            | ConnectorStage::Stopping(_)
            | ConnectorStage::Disconnected => None,
        }
    }

    /// The factory has not looked at the failure of the attempt.
    pub(crate) fn ignore_failure(&self) {
        self.cell.ignored.set(true);
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
    pub(crate) fn at(address: Address) -> Target {
        match address.into_socket() {
            Ok(address) => {
                let (host, port) = (host_of(&address), address.port());
                Target::Tcp { host, port, address: Some(address) }
            }
            Err(name) => Target::Unix(name),
        }
    }

    pub(crate) fn host(&self) -> &str {
        match self {
            Target::Tcp { host, .. } => host,
            Target::Unix(_) => "",
        }
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Target::Tcp { port, .. } => *port,
            Target::Unix(_) => 0,
        }
    }

    /// The address, or the name that must be looked up first.
    pub(crate) fn address(&self) -> Result<Address, &str> {
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
        self.target.fmt(f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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

impl ConnectorStage {
    fn requested(begin_at: Option<Instant>) -> ConnectorStage {
        ConnectorStage::Connecting(Step::Requested(begin_at))
    }
}

impl Step {
    /// Whether the step holds a timer, a lookup or sockets.
    fn has_attempt(&self) -> bool {
        match self {
            Step::Requested(_) | Step::Calling => false,
            Step::Waiting(_) | Step::LookingUp(..) | Step::Trying(_) | Step::Opening(_) => true,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Step::Waiting(_) => "waiting",
            Step::LookingUp(..) => "looking up",
            Step::Requested(_) | Step::Calling | Step::Trying(_) | Step::Opening(_) => "connecting",
        }
    }
}

impl ConnectorCell {
    /// A connector that the turn will start.
    pub(crate) fn new(
        reactor: &Reactor,
        target: Target,
        options: ConnectOptions,
        factory: ErasedFactory,
        done: Option<Done>,
    ) -> Rc<ConnectorCell> {
        Rc::new(ConnectorCell {
            reactor: reactor.clone(),
            target,
            options,
            place: factory.place,
            factory: FactorySlot::new(factory.factory.take()),
            serial: Cell::new(0),
            state: RefCell::new(ConnectorStage::requested(None)),
            done: RefCell::new(done),
            ignored: Cell::new(false),
        })
    }

    /// Requests another attempt, at this time if one is given; returns false if the connector is
    /// connecting or connected.
    pub(crate) fn request_again(&self, begin_at: Option<Instant>) -> bool {
        let is_free = self.state() == ConnectorState::Disconnected;
        if is_free {
            *self.state.borrow_mut() = ConnectorStage::requested(begin_at);
        }
        is_free
    }

    pub(crate) fn handle(self: &Rc<Self>) -> Connector {
        Connector { cell: self.clone() }
    }

    pub(crate) fn state(&self) -> ConnectorState {
        match &*self.state.borrow() {
            ConnectorStage::Connecting(_) | ConnectorStage::Stopping(_) => {
                ConnectorState::Connecting
            }
            ConnectorStage::Connected(_) => ConnectorState::Connected,
            ConnectorStage::Disconnected => ConnectorState::Disconnected,
        }
    }

    /// Looks at the step while connecting.
    pub(crate) fn with_step<R>(&self, f: impl FnOnce(&mut Step) -> R) -> Option<R> {
        match &mut *self.state.borrow_mut() {
            ConnectorStage::Connecting(step) | ConnectorStage::Stopping(step) => Some(f(step)),
            ConnectorStage::Connected(_) | ConnectorStage::Disconnected => None,
        }
    }

    pub(crate) fn with_attempts<R>(&self, f: impl FnOnce(&mut Attempts) -> R) -> Option<R> {
        self.with_step(|step| match step {
            Step::Trying(attempts) => Some(f(attempts)),
            _ => None,
        })?
    }

    /// Enters a step; returns the one before, unless the connector is not connecting.
    pub(crate) fn set_step(&self, next: Step) -> Option<Step> {
        self.with_step(|step| std::mem::replace(step, next))
    }

    /// The connection whose layers are opening. The caller drops it or gives it its protocol.
    pub(crate) fn take_opening(&self) -> Option<Key> {
        self.with_step(|step| match *step {
            Step::Opening(key) => {
                *step = Step::Calling;
                Some(key)
            }
            _ => None,
        })?
    }

    /// Requests a stop; returns false if the connector is not connecting, or one is requested.
    pub(crate) fn request_stop(&self) -> bool {
        let mut state = self.state.borrow_mut();
        match std::mem::replace(&mut *state, ConnectorStage::Disconnected) {
            ConnectorStage::Connecting(step) => {
                *state = ConnectorStage::Stopping(step);
                true
            }
            other => {
                *state = other;
                false
            }
        }
    }

    pub(crate) fn stop_requested(&self) -> bool {
        matches!(&*self.state.borrow(), ConnectorStage::Stopping(_))
    }

    /// Whether a stop takes effect now, rather than when the connector starts or the factory's call
    /// returns.
    pub(crate) fn can_be_stopped(&self) -> bool {
        matches!(&*self.state.borrow(), ConnectorStage::Stopping(step) if step.has_attempt())
    }

    pub(crate) fn set_connected(&self, connection: Rc<ConnectionCell>) {
        self.set_state(ConnectorStage::Connected(connection));
    }

    pub(crate) fn set_disconnected(&self) {
        self.set_state(ConnectorStage::Disconnected);
    }

    fn set_state(&self, state: ConnectorStage) {
        let before = self.state.replace(state);
        debug_assert!(
            !matches!(
                &before,
                ConnectorStage::Connecting(step) | ConnectorStage::Stopping(step)
                    if step.has_attempt()
            ),
            "an attempt is dropped before its connector leaves it"
        );
        drop(before);
    }

    pub(crate) fn take_done(&self) -> Option<Done> {
        self.done.borrow_mut().take()
    }

    /// Takes whether the factory has ignored the failure.
    pub(crate) fn take_ignored(&self) -> bool {
        self.ignored.replace(false)
    }

    /// Fails the Deferred of the connect, unless the factory connects again.
    pub(crate) fn fail_connect(&self, failure: Failure) {
        if self.state() == ConnectorState::Disconnected
            && let Some(done) = self.take_done()
        {
            done(Err(failure));
        }
    }

    /// The loop is dropped: the Deferred of the connect fails.
    pub(crate) fn abandon(&self) {
        drop(self.set_step(Step::Calling));
        if let Some(done) = self.take_done() {
            done(Err(loop_ended()));
        }
        self.factory.clear();
    }

    /// The event that it waits for, in words.
    pub(crate) fn why(&self) -> Why {
        let mut why = Why::default();
        match &*self.state.borrow() {
            ConnectorStage::Connecting(step) | ConnectorStage::Stopping(step) => {
                self.why_connecting(step, &mut why)
            }
            ConnectorStage::Connected(connection) => {
                why.text(format!("has connection {}", connection.id()));
            }
            ConnectorStage::Disconnected => {
                why.text("disconnected");
            }
        }
        why
    }

    fn why_connecting(&self, step: &Step, why: &mut Why) {
        match step {
            Step::Requested(None) | Step::Calling => why.text("begins in this turn"),
            Step::Requested(Some(at)) => why.text("begins in ").until(*at),
            Step::Waiting(timer) => {
                let at = self.reactor.deadline(*timer);
                why.text("waits for its next attempt").deadline(", which begins in ", at)
            }
            Step::LookingUp(_, timeout) => {
                why.text(format!("looks up {}", self.target.host()));
                why.deadline(", fails in ", Some(timeout.until))
            }
            Step::Trying(attempts) => {
                let tried: Vec<String> =
                    attempts.running.iter().map(|(_, address)| address.to_string()).collect();
                why.text(format!("waits for an answer of {}", tried.join(" and ")));
                if let Some((address, error)) = attempts.errors.last() {
                    why.text(format!(", after {address}: {error}"));
                }
                why.deadline(", fails in ", Some(attempts.timeout.until))
            }
            Step::Opening(_) => why.text("connected; the layers of the connection are opening"),
        };
    }

    pub(crate) fn state_name(&self) -> &'static str {
        match &*self.state.borrow() {
            ConnectorStage::Connecting(step) | ConnectorStage::Stopping(step) => step.name(),
            ConnectorStage::Connected(_) => "connected",
            ConnectorStage::Disconnected => "disconnected",
        }
    }
}
