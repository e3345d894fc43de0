//! Listening on addresses and on inherited sockets, and [`Port`]: a listening socket and its factory.
//!
//! Contract: 21–22b, 34, 48a, 51a, 71c.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::rc::Rc;

use super::options::high;
use super::records::{LoopRequest, Start};
use super::sharing::{Departure, Share};
use crate::address::Address;
use crate::counters::PortCounters;
use crate::defer::{Deferred, Failure, Resolver};
use crate::driver::{
    Bound, Key, ListenOptions, ListeningSocket, LocalSocket, SocketOption, SocketOptionKind,
};
use crate::error::ListenError;
use crate::factory::{ErasedFactory, Factory, FactorySlot, IntoFactory};
use crate::recorder::{Reactor, Source, loop_ended};

/// A handle to a listening port; cheap to clone. Dropping it changes nothing.
///
/// Twisted's `IListeningPort`.
#[derive(Clone)]
pub struct Port {
    pub(super) cell: Rc<PortCell>,
}

pub(super) struct PortCell {
    pub(super) reactor: Reactor,
    /// The requested address; with port 0, the next start may get another number.
    address: Address,
    options: ListenOptions,
    /// The wrapping endpoints, as in an endpoint string.
    prefix: String,
    /// The port's part in a socket that other loops listen on too.
    pub(super) share: Option<Share>,
    /// The source location of the request to listen.
    pub(super) place: Cell<Source>,
    host: RefCell<Address>,
    /// The socket, if the driver has sockets; for queries until it is closed.
    socket: RefCell<Option<LocalSocket>>,
    pub(super) state: Cell<PortState>,
    pub(super) paused: Cell<bool>,
    accepts_under_load: Cell<bool>,
    /// The descriptors that each connection uses.
    descriptors: Cell<u32>,
    pub(super) accepts_while_draining: Cell<bool>,
    pub(super) bound: RefCell<Option<Bound>>,
    pub(super) key: Cell<Option<Key>>,
    pub(super) factory: FactorySlot,
    pub(super) counters: Cell<PortCounters>,
    /// Connections that count for the port's limit, if it has one.
    open: Cell<u32>,
    /// The unsent output of its connections in bytes, if it is limited.
    output: Cell<usize>,
    pub(super) stopped: RefCell<Vec<Resolver<()>>>,
    /// Requests for the turn.
    pub(super) requests: RefCell<Vec<PortRequest>>,
}

/// A request of a port about its socket.
pub(super) enum PortRequest {
    Set(SocketOption),
    Duplicate(Resolver<ListeningSocket>),
    /// Whether the file of the port's UNIX socket stays when the port is closed.
    KeepFile(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    /// Bound, but not yet served by the turn.
    Starting,
    Listening,
    /// The turn will close it.
    Stopping,
    Stopped,
}

impl Reactor {
    /// Listens on a TCP address or a UNIX socket.
    ///
    /// # Errors
    ///
    /// [`ListenError`] with the address and the system's error.
    #[track_caller]
    pub(crate) fn listen_at<K>(
        &self,
        address: impl Into<Address>,
        options: ListenOptions,
        factory: impl IntoFactory<K>,
    ) -> Result<Port, ListenError> {
        let address = address.into();
        let mut factory = ErasedFactory::new(factory);
        let bound = match factory.choose_socket(Some(&address)) {
            Some(socket) => {
                socket.listening(&options).and_then(|socket| self.world().adopt_port(socket))
            }
            None => self.world().bind(&address, &options),
        };
        let bound = bound.map_err(|error| ListenError::new(address.clone(), error))?;
        Ok(Port::new(self, address, options, bound, self.attach_factory(factory)))
    }

    /// Takes over a listening socket, for example one that an init system or a privileged parent
    /// opened. The result is a [`Port`] like any other; stopped and started again, it binds its
    /// address anew. Twisted's `adoptStreamPort`.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets.
    ///
    /// ```
    /// # struct Echo;
    /// # impl couplet::Protocol for Echo {
    /// #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
    /// # }
    /// # couplet::run(|reactor| {
    /// let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let port = reactor.adopt_port(socket, || Echo)?;
    /// println!("listening on {}", port.host());
    /// # reactor.stop();
    /// # Ok(()) })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn adopt_port<K>(
        &self,
        socket: impl Into<ListeningSocket>,
        factory: impl IntoFactory<K>,
    ) -> io::Result<Port> {
        let bound = self.world().adopt_port(socket.into())?;
        let (address, options) = (bound.host.clone(), ListenOptions::default());
        Ok(Port::new(self, address, options, bound, self.attach_factory(factory.into_factory())))
    }

    /// Listens on a socket already bound to `at` with `options`.
    pub(crate) fn listen_on(
        &self,
        at: SocketAddr,
        options: ListenOptions,
        socket: ListeningSocket,
        factory: ErasedFactory,
    ) -> io::Result<Port> {
        let bound = self.world().adopt_port(socket)?;
        Ok(Port::new(self, at.into(), options, bound, self.attach_factory(factory)))
    }

    /// Prepares a factory for use: `attach` is the first call that it gets.
    #[track_caller]
    pub(super) fn attach_factory(&self, factory: impl Factory + 'static) -> ErasedFactory {
        let mut erased = ErasedFactory::new(factory);
        erased.factory.attach(self);
        self.monitor_factory(erased)
    }
}

impl Port {
    pub(super) fn new(
        reactor: &Reactor,
        address: Address,
        options: ListenOptions,
        bound: Bound,
        factory: ErasedFactory,
    ) -> Port {
        let cell = PortCell::new(reactor, (address, options), None, factory);
        cell.begin(bound);
        Port { cell }
    }

    /// Opens a port on a socket that other loops listen on too.
    pub(super) fn sharing(
        reactor: &Reactor,
        at: (Address, ListenOptions),
        share: Share,
        factory: ErasedFactory,
    ) -> io::Result<Port> {
        let cell = PortCell::new(reactor, at, Some(share), factory);
        cell.begin(cell.bind()?);
        Ok(Port { cell })
    }

    /// The address that the port listens on, with the actual port number.
    pub fn host(&self) -> Address {
        self.cell.host.borrow().clone()
    }

    /// The socket's descriptor number, for system queries by number; `None` on drivers without
    /// sockets, and after a request to stop listening. The loop accepts from the descriptor and
    /// closes it.
    #[cfg(unix)]
    pub fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        self.cell.open_socket()?.number()
    }

    /// Sets a socket option, in the turn. Connections that are accepted later inherit it. An error is
    /// logged. A port that [starts again](Self::start_listening) has the options of its
    /// [`ListenOptions`] only. Ignored once the port is asked to stop.
    pub fn set_option(&self, option: SocketOption) {
        if self.is_listening() {
            self.cell.request_of_socket(PortRequest::Set(option));
        }
    }

    /// A socket option: the value set last, otherwise the system's. `None` on drivers without
    /// sockets, after a request to stop listening, and for an option that the socket does not have.
    pub fn option(&self, kind: SocketOptionKind) -> Option<SocketOption> {
        let socket = self.cell.open_socket()?;
        let requests = self.cell.requests.borrow();
        socket.option(
            kind,
            requests.iter().filter_map(|request| match request {
                PortRequest::Set(option) => Some(*option),
                PortRequest::Duplicate(_) | PortRequest::KeepFile(_) => None,
            }),
        )
    }

    /// Stops listening. Accepted connections stay open. The Deferred fires in a later turn; `None`
    /// if the port is already stopped or stopping.
    pub fn stop_listening(&self) -> Option<Deferred<()>> {
        match self.cell.state.get() {
            PortState::Starting | PortState::Listening => {
                self.cell.state.set(PortState::Stopping);
                self.cell.leave_shared_socket(Departure::Stopped);
                let (deferred, resolver) = Deferred::new();
                self.cell.stopped.borrow_mut().push(resolver);
                self.cell.reactor.records().request(LoopRequest::Port(self.cell.clone()));
                Some(deferred)
            }
            PortState::Stopping | PortState::Stopped => None,
        }
    }

    /// Listens again after the port was stopped; with port 0 it may get another number. Does
    /// nothing while the port listens.
    ///
    /// # Errors
    ///
    /// See [`Reactor::listen`].
    #[track_caller]
    pub fn start_listening(&self) -> Result<(), ListenError> {
        if self.is_listening() {
            return Ok(());
        }
        let bound = self.cell.bind();
        let bound = bound.map_err(|error| ListenError::new(self.cell.address.clone(), error))?;
        self.cell.place.set(Location::caller());
        self.cell.begin(bound);
        Ok(())
    }

    /// Stops accepting connections until [`resume_producing`](Self::resume_producing); the system
    /// queues them, up to the backlog.
    pub fn pause_producing(&self) {
        self.set_paused(true);
    }

    /// Accepts connections again.
    pub fn resume_producing(&self) {
        self.set_paused(false);
    }

    /// Duplicates the socket, so that another process can listen on it: see
    /// [`ListeningSocket::into_descriptors`], and [`ErasedFactory::on_socket`] for its endpoint. The
    /// Deferred fires once the port listens, and fails if the port stops first, or with
    /// [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets.
    ///
    /// While a duplicate is open, the system queues connections even if this port is closed.
    ///
    /// ```
    /// # struct Echo;
    /// # impl couplet::Protocol for Echo {
    /// #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
    /// # }
    /// use couplet::ListeningSocket;
    ///
    /// # couplet::run(|reactor| {
    /// let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo)?;
    /// let host = port.host();
    /// let other = reactor.clone();
    /// let moved = port.duplicate().add_callback(move |socket| {
    ///     // In another process, the descriptors arrive in the same order.
    ///     let socket = ListeningSocket::from_descriptors(socket.into_descriptors()?)?;
    ///     assert_eq!(other.adopt_port(socket, || Echo)?.host(), host);
    ///     other.stop();
    ///     Ok(())
    /// });
    /// moved.detach();
    /// # Ok(()) })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn duplicate(&self) -> Deferred<ListeningSocket> {
        if !self.is_listening() {
            return Deferred::fail(Failure::msg("the port does not listen"));
        }
        let (deferred, resolver) = Deferred::new();
        self.cell.request_of_socket(PortRequest::Duplicate(resolver));
        deferred
    }

    /// Sets whether the socket file of a UNIX socket stays when this port is closed: the file, and its
    /// lock, belong to another process that listens on a [duplicate](Self::duplicate). No by default,
    /// yes for a port that listens on the socket of another process.
    pub fn keep_socket_file(&self, is_kept: bool) {
        if self.is_listening() {
            self.cell.request_of_socket(PortRequest::KeepFile(is_kept));
        }
    }

    /// Sets whether the port accepts connections in spite of the [limits](crate::LoadLimits) of its
    /// loop, and also when the process has no descriptors left: the loop holds 16 back for such ports.
    /// For ports that answer questions about the program. No by default.
    pub fn accept_under_load(&self, on: bool) {
        if self.cell.accepts_under_load.replace(on) != on {
            self.cell.request_held();
        }
    }

    /// Sets how many descriptors each connection of the port uses, its socket included: 2 if it is joined
    /// to another connection. Only [`PortSnapshot::max_descriptors`](super::PortSnapshot) uses the number.
    /// 1 by default.
    pub fn count_descriptors(&self, each: u32) {
        self.cell.descriptors.set(each);
    }

    /// Sets whether the port stays open when its loop [drains all ports](Reactor::drain): for ports
    /// that answer questions about the program. Connections that it has accepted before are asked to
    /// finish. No by default.
    pub fn accept_while_draining(&self, on: bool) {
        self.cell.accepts_while_draining.set(on);
    }

    fn set_paused(&self, paused: bool) {
        if self.cell.paused.replace(paused) != paused {
            self.cell.request_held();
        }
    }

    /// True while the port listens, or is about to.
    pub fn is_listening(&self) -> bool {
        self.cell.is_listening()
    }
}

impl PortCell {
    fn new(
        reactor: &Reactor,
        (address, options): (Address, ListenOptions),
        share: Option<Share>,
        factory: ErasedFactory,
    ) -> Rc<PortCell> {
        Rc::new(PortCell {
            reactor: reactor.clone(),
            host: RefCell::new(address.clone()),
            address,
            options,
            place: Cell::new(factory.place),
            prefix: factory.prefix,
            share,
            socket: RefCell::default(),
            state: Cell::new(PortState::Starting),
            paused: Cell::new(false),
            accepts_under_load: Cell::new(false),
            descriptors: Cell::new(1),
            accepts_while_draining: Cell::new(false),
            bound: RefCell::new(None),
            key: Cell::new(None),
            factory: FactorySlot::new(factory.factory.take()),
            counters: Cell::default(),
            open: Cell::new(0),
            output: Cell::new(0),
            stopped: RefCell::default(),
            requests: RefCell::default(),
        })
    }

    fn request_of_socket(self: &Rc<Self>, request: PortRequest) {
        self.requests.borrow_mut().push(request);
        self.reactor.records().request(LoopRequest::Port(self.clone()));
    }

    fn is_listening(&self) -> bool {
        matches!(self.state.get(), PortState::Starting | PortState::Listening)
    }

    /// The socket, while the port listens or is about to.
    fn open_socket(&self) -> Option<LocalSocket> {
        self.socket.borrow().clone().filter(|_| self.is_listening())
    }

    fn bind(self: &Rc<Self>) -> io::Result<Bound> {
        match &self.share {
            Some(share) => share.join(self),
            None => self.reactor.world().bind(&self.address, &self.options),
        }
    }

    /// Stores the binding, for the turn to serve.
    fn begin(self: &Rc<Self>, bound: Bound) {
        *self.host.borrow_mut() = bound.host.clone();
        self.socket.replace(bound.query.clone());
        if self.limits_output() {
            self.reactor.records().counts_output.set(true);
        }
        let old = self.bound.replace(Some(bound));
        drop(old);
        self.state.set(PortState::Starting);
        self.reactor.records().start(Start::Port(self.clone()));
    }

    pub(super) fn options(&self) -> &ListenOptions {
        &self.options
    }

    pub(super) fn accepts_under_load(&self) -> bool {
        self.accepts_under_load.get()
    }

    /// The most descriptors that the port's connections use at a time.
    pub(super) fn max_descriptors(&self) -> Option<u64> {
        let most = self.options.connections?.get();
        Some(u64::from(most) * u64::from(self.descriptors.get()))
    }

    /// Whether the output of the port's connections is limited.
    pub(super) fn limits_output(&self) -> bool {
        self.options.buffered.is_some() || self.options.buffered_by_peer.is_some()
    }

    /// Whether the port has as many connections as it may, or nearly as much output.
    fn is_full(&self) -> bool {
        self.options.connections.is_some_and(|most| self.open.get() >= most.get())
            || self.options.buffered.is_some_and(|most| self.output.get() > high(most))
    }

    /// The output of its connections has been measured. Returns whether there is some.
    pub(super) fn set_output(self: &Rc<Self>, bytes: usize) -> bool {
        let was_full = self.is_full();
        self.output.set(bytes);
        if self.is_full() != was_full {
            self.request_held();
        }
        bytes > 0
    }

    /// Whether the port accepts nothing: it is paused or full, or its loop is.
    pub(super) fn is_held(&self) -> bool {
        let is_loop_full =
            !self.accepts_under_load.get() && self.reactor.records().holds_ports.get();
        self.paused.get() || self.is_full() || is_loop_full
    }

    /// Counts a connection if the port has a limit, and stops accepting at the limit; the turn
    /// applies that before it accepts again. Returns true if this one reached it.
    pub(super) fn count(self: &Rc<Self>) -> bool {
        if self.options.connections.is_none() {
            return false;
        }
        self.open.set(self.open.get() + 1);
        let is_full = self.is_full();
        if is_full {
            self.request_held();
        }
        is_full
    }

    /// A connection has ended; below the limit the port accepts again.
    pub(super) fn uncount(self: &Rc<Self>) {
        if self.options.connections.is_some() {
            let was_full = self.is_full();
            self.open.set(self.open.get().saturating_sub(1));
            if was_full && !self.is_full() {
                self.request_held();
            }
        }
    }

    /// Has the turn apply [`is_held`](Self::is_held).
    pub(super) fn request_held(self: &Rc<Self>) {
        if let Some(share) = &self.share {
            share.pause(self.is_held());
        }
        self.reactor.records().request(LoopRequest::Port(self.clone()));
    }

    /// Gives up the port's part in a socket shared with other loops.
    fn leave_shared_socket(&self, why: Departure) {
        if let Some(share) = &self.share {
            share.leave(&self.reactor, why);
        }
    }

    pub(super) fn host(&self) -> Address {
        self.host.borrow().clone()
    }

    /// Whether a connection at this address of ours is one of the port's.
    pub(super) fn serves(&self, host: &Address) -> bool {
        let own = self.host.borrow();
        let is_wildcard = own.ip().is_some_and(|ip| ip.is_unspecified());
        *own == *host || is_wildcard && own.port() == host.port()
    }

    /// The loop is dropped: the factory is not called again.
    pub(super) fn abandon(&self) {
        self.state.set(PortState::Stopped);
        self.leave_shared_socket(Departure::LoopDropped);
        self.factory.clear();
        self.fail_duplicates();
        for resolver in self.stopped.take() {
            resolver.errback(loop_ended());
        }
    }

    /// Fails the duplicates that the port can't make any more.
    fn fail_duplicates(&self) {
        for request in self.requests.take() {
            if let PortRequest::Duplicate(resolver) = request {
                resolver.errback(Failure::msg("the port has stopped"));
            }
        }
    }

    /// The port is closed: stops the factory, and fires the Deferreds of `stop_listening`.
    pub(super) fn finish_stop(&self) {
        if self.state.get() == PortState::Stopped {
            self.leave_shared_socket(Departure::Stopped);
            self.fail_duplicates();
        }
        self.factory.stop();
        for resolver in self.stopped.take() {
            resolver.callback(());
        }
    }
}

/// Formats the port as an endpoint string without options: the wrapping endpoints and the actual
/// address, as in `tls:127.0.0.1:443`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cell.fmt(f)
    }
}

impl fmt::Display for PortCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host().to_string();
        match host.strip_prefix("tcp:") {
            Some(short) if !self.prefix.is_empty() => write!(f, "{}{short}", self.prefix),
            _ => write!(f, "{}{host}", self.prefix),
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("host", &self.host())
            .field("state", &self.cell.state.get())
            .finish_non_exhaustive()
    }
}
