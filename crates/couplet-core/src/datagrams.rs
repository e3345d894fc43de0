//! Datagrams: implement [`DatagramProtocol`], send through its handle [`DatagramTransport`], and
//! get back to `&mut self` through [`DatagramPort`].
//!
//! Twisted's `DatagramProtocol` and `IUDPTransport`.
//!
//! Contract: 129b, 155, 157, 158, 160a, 160b, 160d–160g.

use std::any::{Any, type_name};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use crate::address::{Address, UnixAddress};
use crate::counters::{DatagramCounters, tally};
use crate::defer::{Deferred, Resolver, Result};
use crate::driver::{
    Bound, Datagram, DatagramOptions, DatagramQueue, DatagramSocket, Group, Key, LocalSocket,
    MOST_QUEUED, Membership, SocketOption, SocketOptionKind,
};
use crate::panics::{Contained, contain};
use crate::recorder::{DelayedCall, Reactor};

/// Handles the datagrams of a port.
///
/// One object serves a port and never sees a socket. Every method except
/// [`datagram_received`](Self::datagram_received) has a default. A panic in a method is logged, and
/// the port stays open: a datagram belongs to no connection that could be dropped.
///
/// A closure that takes a transport and a datagram is a protocol too.
///
/// ```
/// use std::net::SocketAddr;
/// use couplet::{Datagram, DatagramProtocol, DatagramTransport};
///
/// /// Sends each datagram back.
/// struct Echo;
/// impl DatagramProtocol for Echo {
///     fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
///         transport.answer(datagram, datagram.data).ok();
///     }
/// }
/// # couplet::run(|reactor| {
/// let port = reactor.listen_datagrams(SocketAddr::from(([127, 0, 0, 1], 0)), Echo)?;
/// println!("listening on {}", port.host());
/// # reactor.stop();
/// # Ok(()) })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub trait DatagramProtocol: Any {
    /// The port is bound and served; the first call. Twisted's `startProtocol`.
    fn start_protocol(&mut self, _transport: &DatagramTransport) {}

    /// A datagram arrived: whole, unless it is [cut](Datagram::cut), and borrowed for the call only.
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>);

    /// The [peer](DatagramOptions::peer) of the port has no listener: an earlier datagram was
    /// refused. The port stays open.
    fn connection_refused(&mut self, _transport: &DatagramTransport) {}

    /// The port is closed; the last call. Twisted's `stopProtocol`.
    fn stop_protocol(&mut self, _transport: &DatagramTransport) {}
}

impl<F: FnMut(&DatagramTransport, &Datagram<'_>) + 'static> DatagramProtocol for F {
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self(transport, datagram);
    }
}

/// A handle to a datagram port; cheap to clone. Dropping it changes nothing.
///
/// Calls record requests for the loop's turn. Datagrams queued in a callback are sent when the
/// callback returns; others are sent at the end of the turn. When the socket is full, datagrams are
/// queued, up to [`DatagramOptions::queue`]; further ones are dropped and [counted](Self::dropped).
/// On a UNIX socket, a receiver that reads slowly delays only its own datagrams, and gives way to
/// others when the queue is full.
#[derive(Clone)]
pub struct DatagramTransport {
    pub(crate) cell: Rc<DatagramCell>,
}

/// A datagram port together with its protocol's type; cheap to clone, and a [`DatagramTransport`]
/// by dereferencing. Dropping it changes nothing.
///
/// Made by [`Reactor::listen_datagrams`] and by [`DatagramTransport::port`].
/// Closures passed to it are recorded, and run in the turn with the protocol's `&mut self`:
///
/// ```
/// use std::time::Duration;
/// use std::net::SocketAddr;
/// use couplet::{Address, Datagram, DatagramProtocol, DatagramTransport};
///
/// /// Sends a report each second.
/// struct Reporter { to: Address, sequence: u32 }
///
/// impl Reporter {
///     fn report(&mut self, transport: &DatagramTransport) {
///         self.sequence += 1;
///         transport.send_to(self.sequence.to_be_bytes(), &self.to).ok();
///         transport.port::<Self>().call_later(Duration::from_secs(1), Self::report);
///     }
/// }
///
/// impl DatagramProtocol for Reporter {
///     fn start_protocol(&mut self, transport: &DatagramTransport) {
///         self.report(transport);
///     }
///     fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}
/// }
/// # couplet::run(|reactor| {
/// # let to = Address::udp(([127, 0, 0, 1], 9));
/// # reactor.listen_datagrams(SocketAddr::from(([127, 0, 0, 1], 0)), Reporter { to, sequence: 0 })?;
/// # reactor.stop();
/// # Ok(()) })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct DatagramPort<P> {
    transport: DatagramTransport,
    protocol: PhantomData<fn(&mut P)>,
}

/// A datagram was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The datagram exceeds the longest that this port can send. Twisted's `MessageLengthError`.
    #[error("cannot send a datagram of {length} bytes: at most {most} fit")]
    TooLong {
        /// The datagram's length, in bytes.
        length: usize,
        /// The limit, in bytes.
        most: usize,
    },
    /// The port can't send to this address: it is of another family, has no port number, or is not
    /// the port's peer. Twisted's `InvalidAddressError`.
    #[error("cannot send from {host} to {to}")]
    WrongAddress {
        /// The address of the port.
        host: Address,
        /// The requested address.
        to: Address,
    },
    /// No destination was given, and the port has no [peer](DatagramOptions::peer).
    #[error("cannot send without an address: the port has no peer")]
    NoPeer,
    /// The queue is full: of bytes, which [`DatagramOptions::queue`] limits, or of 16 384 datagrams.
    /// The datagram was dropped and counted.
    #[error("cannot queue a datagram: the queue is full, with {queued} bytes")]
    Full {
        /// The number of queued bytes.
        queued: usize,
    },
    /// The port is closed.
    #[error("cannot send: the port is closed")]
    Stopped,
}

/// The port is closed: the error of [`DatagramPort::ask`] and [`DatagramTransport::join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datagram port is closed")]
pub struct PortStopped;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortState {
    /// Bound, but not yet served by the turn.
    Starting,
    Listening,
    /// The turn is about to close it.
    Stopping,
    Stopped,
}

/// Whether a port receives: the user's last request, and whether the driver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    On,
    /// The turn will tell the driver to pause.
    Pausing,
    Paused,
    /// The turn will tell the driver to resume.
    Resuming,
}

impl Receiving {
    pub(crate) fn is_paused(self) -> bool {
        matches!(self, Receiving::Pausing | Receiving::Paused)
    }

    /// The state after a request to pause or to resume.
    fn requested(self, paused: bool) -> Receiving {
        match (self, paused) {
            (Receiving::On | Receiving::Pausing, true) => Receiving::Pausing,
            (Receiving::Paused | Receiving::Resuming, true) => Receiving::Paused,
            (Receiving::On | Receiving::Pausing, false) => Receiving::On,
            (Receiving::Paused | Receiving::Resuming, false) => Receiving::Resuming,
        }
    }

    /// The state once the driver knows the request.
    pub(crate) fn applied(self) -> Receiving {
        if self.is_paused() { Receiving::Paused } else { Receiving::On }
    }
}

/// Whether the turn will visit a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    None,
    /// A datagram is being delivered: requests are checked after the callback.
    Delivering,
    Requested,
}

/// A recorded request that applies to the datagrams after it.
pub(crate) struct OptionRequest {
    pub(crate) change: OptionChange,
    /// The number of datagrams ever queued before the request: they are sent without the option.
    pub(crate) queued_before: u64,
}

pub(crate) enum OptionChange {
    Set(SocketOption),
    Member(Group, Membership, Resolver<()>),
}

/// A recorded request of a port whose socket another process has too.
pub(crate) enum SocketRequest {
    Duplicate(Resolver<DatagramSocket>),
    /// Whether this port reads from the system.
    Read(bool),
}

pub(crate) struct DatagramCell {
    pub(crate) reactor: Reactor,
    pub(crate) host: Address,
    pub(crate) options: DatagramOptions,
    pub(crate) place: &'static Location<'static>,
    /// The socket, if the driver has sockets; for queries until it is closed.
    socket: Option<LocalSocket>,
    pub(crate) state: Cell<PortState>,
    pub(crate) receiving: Cell<Receiving>,
    pub(crate) bound: RefCell<Option<Bound>>,
    pub(crate) key: Cell<Option<Key>>,
    /// Taken out during a callback, and dropped when the port is closed.
    protocol: RefCell<Option<Contained<Box<dyn DatagramProtocol>>>>,
    pub(crate) queue: RefCell<DatagramQueue>,
    pub(crate) counters: Cell<DatagramCounters>,
    /// The number of datagrams ever queued.
    pub(crate) queued: Cell<u64>,
    visit: Cell<Visit>,
    /// More datagrams of the same batch follow, so answers are held back.
    pub(crate) holds: Cell<bool>,
    /// Listed for writing at the end of the turn.
    pub(crate) to_write: Cell<bool>,
    /// Options to set.
    pub(crate) option_requests: RefCell<VecDeque<OptionRequest>>,
    pub(crate) socket_requests: RefCell<Vec<SocketRequest>>,
    pub(crate) stopped: RefCell<Vec<Resolver<()>>>,
    timers: RefCell<Vec<DelayedCall>>,
}

/// Longest payloads: UDP has a 16-bit length field, and so has IPv4, which counts both headers.
const LONGEST_V4: usize = 65_507;
const LONGEST_V6: usize = 65_527;

impl DatagramCell {
    pub(crate) fn new(
        reactor: &Reactor,
        bound: Bound,
        options: DatagramOptions,
        place: &'static Location<'static>,
        protocol: Contained<Box<dyn DatagramProtocol>>,
    ) -> DatagramCell {
        DatagramCell {
            reactor: reactor.clone(),
            host: bound.host.clone(),
            options,
            place,
            socket: bound.query.clone(),
            state: Cell::new(PortState::Starting),
            receiving: Cell::new(Receiving::On),
            bound: RefCell::new(Some(bound)),
            key: Cell::new(None),
            protocol: RefCell::new(Some(protocol)),
            queue: RefCell::default(),
            counters: Cell::default(),
            queued: Cell::new(0),
            visit: Cell::new(Visit::None),
            holds: Cell::new(false),
            to_write: Cell::new(false),
            option_requests: RefCell::default(),
            socket_requests: RefCell::default(),
            stopped: RefCell::default(),
            timers: RefCell::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state.get(), PortState::Starting | PortState::Listening)
    }

    /// The socket, until the port is asked to stop.
    fn open_socket(&self) -> Option<LocalSocket> {
        self.socket.clone().filter(|_| self.is_open())
    }

    /// Asks the turn to visit the port.
    fn request_turn(self: &Rc<Self>) {
        if self.visit.get() == Visit::None {
            self.visit.set(Visit::Requested);
            self.reactor.visit_datagrams(self.clone());
        }
    }

    /// Called when the turn visits the port.
    pub(crate) fn clear_turn_request(&self) {
        self.visit.set(Visit::None);
    }

    /// Counts a dropped datagram. Logs the 1st, 2nd, 4th, 8th, …
    pub(crate) fn count_drop(&self, why: &dyn fmt::Display) {
        tally(&self.counters, |counters| counters.dropped += 1);
        let dropped = self.counters.get().dropped;
        if dropped.is_power_of_two() {
            log_warn!(host = %self.host, dropped, %why, "datagrams are dropped");
        }
    }

    /// Calls the protocol, unless the port is closed. A panic is logged.
    pub(crate) fn call(
        self: &Rc<Self>,
        what: &'static str,
        f: impl FnOnce(&mut dyn DatagramProtocol, &DatagramTransport),
    ) {
        let taken = self.protocol.borrow_mut().take();
        let Some(mut protocol) = taken else { return };
        let transport = DatagramTransport { cell: self.clone() };
        contain(what, || f(&mut **protocol, &transport));
        let old = self.protocol.replace(Some(protocol));
        debug_assert!(old.is_none(), "a protocol was called inside a call of it");
    }

    /// Delivers a datagram. Datagrams sent by the callback leave right after it, without a request.
    pub(crate) fn deliver(self: &Rc<Self>, datagram: &Datagram<'_>) {
        tally(&self.counters, |counters| counters.received += 1);
        let visit = self.visit.replace(Visit::Delivering);
        self.call("datagram_received", |protocol, transport| {
            protocol.datagram_received(transport, datagram);
        });
        self.visit.set(visit);
        if visit == Visit::None && self.has_requests() {
            self.request_turn();
        }
    }

    /// Whether the port has requests besides datagrams to send.
    fn has_requests(&self) -> bool {
        !self.is_open()
            || self.receiving.get() != self.receiving.get().applied()
            || !self.option_requests.borrow().is_empty()
            || !self.socket_requests.borrow().is_empty()
    }

    /// Calls `stop_protocol` if the port was served, drops the protocol, and fires the Deferreds of
    /// `stop_listening`.
    pub(crate) fn finish(self: &Rc<Self>) {
        self.state.set(PortState::Stopped);
        if self.key.take().is_some() {
            self.call("stop_protocol", |protocol, transport| protocol.stop_protocol(transport));
        }
        for resolver in self.release() {
            resolver.callback(());
        }
    }

    /// Drops the protocol without calling it, and all requests and datagrams. Returns the resolvers
    /// of `stop_listening`.
    pub(crate) fn release(&self) -> Vec<Resolver<()>> {
        self.state.set(PortState::Stopped);
        for call in self.timers.take() {
            call.cancel();
        }
        let protocol = self.protocol.take();
        drop(protocol);
        let unsent = self.queue.take();
        tally(&self.counters, |counters| counters.dropped += unsent.len() as u64);
        for request in self.option_requests.take() {
            if let OptionChange::Member(_, _, resolver) = request.change {
                resolver.errback(PortStopped);
            }
        }
        for request in self.socket_requests.take() {
            if let SocketRequest::Duplicate(resolver) = request {
                resolver.errback(PortStopped);
            }
        }
        self.stopped.take()
    }
}

impl DatagramTransport {
    /// Sends a datagram to `to`: an address of the port's family, or of IPv4 on a dual-stack port.
    /// Accepts a [`SocketAddr`] too.
    ///
    /// # Errors
    ///
    /// [`SendError`]. Errors that the system reports later, such as a missing route, are logged and
    /// counted as [dropped](Self::dropped). Delivery is not acknowledged.
    pub fn send_to(&self, data: impl AsRef<[u8]>, to: impl Into<Address>) -> Result<(), SendError> {
        self.queue(data.as_ref(), Some(to.into()), None)
    }

    /// Sends a datagram to the [peer](DatagramOptions::peer).
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to); [`SendError::NoPeer`] if the port has no peer.
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result<(), SendError> {
        self.queue(data.as_ref(), None, None)
    }

    /// Sends a datagram to the sender of `datagram`, from the address that `datagram` was sent to.
    /// On a wildcard port the system might choose another source address, which the sender would
    /// not recognize.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn answer(&self, datagram: &Datagram<'_>, data: impl AsRef<[u8]>) -> Result<(), SendError> {
        // A multicast or broadcast address can't be the source; the system chooses one.
        let from = datagram.to.filter(|to| self.cell.host.is_wildcard() && !is_group(*to));
        let to = self.cell.options.peer.is_none().then(|| datagram.from.clone());
        self.queue(data.as_ref(), to, from)
    }

    fn queue(
        &self,
        data: &[u8],
        to: Option<Address>,
        from: Option<IpAddr>,
    ) -> Result<(), SendError> {
        let cell = &self.cell;
        if !cell.is_open() {
            return Err(SendError::Stopped);
        }
        let to = self.check_address(to)?;
        let most = self.max_length(to.as_ref());
        if data.len() > most {
            return Err(SendError::TooLong { length: data.len(), most });
        }
        let mut queue = cell.queue.borrow_mut();
        let (limits, queued) = ((cell.options.queue, MOST_QUEUED), queue.bytes());
        let dropped = queue.make_room(to.as_ref(), data.len(), limits);
        // An empty queue takes any datagram. Empty datagrams still count against the list.
        let is_full = queue.bytes() + data.len() > limits.0 || queue.len() >= limits.1;
        let is_refused = is_full && !queue.is_empty();
        if !is_refused {
            queue.push(data, to, from);
        }
        drop(queue);
        let error = SendError::Full { queued };
        for _ in 0..dropped + usize::from(is_refused) {
            cell.count_drop(&error);
        }
        if is_refused {
            return Err(error);
        }
        cell.queued.set(cell.queued.get() + 1);
        cell.request_turn();
        Ok(())
    }

    /// Checks a destination. `None` is the port's peer.
    fn check_address(&self, to: Option<Address>) -> Result<Option<Address>, SendError> {
        let cell = &self.cell;
        match (to, &cell.options.peer) {
            (None, None) => Err(SendError::NoPeer),
            (None, Some(_)) => Ok(None),
            (Some(to), peer) => {
                let fits = match (&to, &cell.host) {
                    (Address::Unix(to), Address::Unix(_)) => *to != UnixAddress::Unnamed,
                    (Address::Unix(_), _) | (_, Address::Unix(_)) => false,
                    (to, host) => match (to.socket_addr(), host.socket_addr()) {
                        (Some(to), Some(host)) => to.port() != 0 && self.can_reach(host, to),
                        _ => false,
                    },
                };
                match peer {
                    Some(peer) if fits && is_same(peer, &to) => Ok(None),
                    None if fits => Ok(Some(to)),
                    _ => Err(SendError::WrongAddress { host: cell.host.clone(), to }),
                }
            }
        }
    }

    /// Whether an Internet socket can send to this address.
    fn can_reach(&self, host: SocketAddr, to: SocketAddr) -> bool {
        host.is_ipv4() == to.is_ipv4()
            || host.is_ipv6() && host.ip().is_unspecified() && self.cell.options.is_dual_stack()
    }

    /// The longest datagram that can be sent to this destination.
    fn max_length(&self, to: Option<&Address>) -> usize {
        match to.or(self.cell.options.peer.as_ref()).and_then(Address::socket_addr) {
            Some(SocketAddr::V4(_)) => LONGEST_V4,
            Some(SocketAddr::V6(_)) => LONGEST_V6,
            None => self.cell.options.queue,
        }
    }

    /// The address of the port, with the real port number.
    pub fn host(&self) -> Address {
        self.cell.host.clone()
    }

    /// The only peer, if the port has one.
    pub fn peer(&self) -> Option<Address> {
        self.cell.options.peer.clone()
    }

    /// The reactor.
    pub fn reactor(&self) -> &Reactor {
        &self.cell.reactor
    }

    /// The number of the socket's descriptor, for querying the system; `None` on drivers without
    /// sockets, and once the port is asked to stop. Only the loop may read, write or close it.
    #[cfg(unix)]
    pub fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        self.cell.open_socket()?.number()
    }

    /// The number of datagrams dropped because the queue was full or the system refused them.
    /// Losses in the network are not known.
    pub fn dropped(&self) -> u64 {
        self.cell.counters.get().dropped
    }

    /// The number of bytes queued for sending.
    pub fn buffered(&self) -> usize {
        self.cell.queue.borrow().bytes()
    }

    /// Closes the port, after one attempt to send its queue. The Deferred fires in a later turn,
    /// after [`stop_protocol`](DatagramProtocol::stop_protocol); `None` if the port is already
    /// closed or closing. Nothing is received from now on. The end of a run closes the port too; a
    /// [drain](Reactor::drain) leaves it open.
    pub fn stop_listening(&self) -> Option<Deferred<()>> {
        if !self.cell.is_open() {
            return None;
        }
        self.cell.state.set(PortState::Stopping);
        let (deferred, resolver) = Deferred::new();
        self.cell.stopped.borrow_mut().push(resolver);
        self.cell.request_turn();
        Some(deferred)
    }

    /// True while the port is open or opening.
    pub fn is_listening(&self) -> bool {
        self.cell.is_open()
    }

    /// Stops delivering datagrams until [`resume_producing`](Self::resume_producing). The system
    /// queues arriving datagrams, and drops those that do not fit.
    pub fn pause_producing(&self) {
        self.set_paused(true);
    }

    /// Delivers datagrams again.
    pub fn resume_producing(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        let before = self.cell.receiving.get();
        let after = before.requested(paused);
        if after != before {
            self.cell.receiving.set(after);
            self.cell.request_turn();
        }
    }

    /// Duplicates the socket of a UDP port, so that another process can
    /// [adopt](Reactor::listen_datagrams) it. The Deferred fires once the port is served, and fails
    /// if the port stops first, or with [`Unsupported`](std::io::ErrorKind::Unsupported) for a UNIX
    /// socket and on a driver without sockets.
    ///
    /// Each datagram goes to one of the ports: whichever reads first, unless the others do not
    /// [read](Self::set_reading). All of them can send.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use couplet::{Datagram, DatagramOptions, DatagramTransport};
    ///
    /// fn echo(transport: &DatagramTransport, datagram: &Datagram<'_>) {
    ///     transport.answer(datagram, datagram.data).ok();
    /// }
    ///
    /// couplet::run(|reactor| {
    ///     let port = reactor.listen_datagrams(SocketAddr::from(([127, 0, 0, 1], 0)), echo)?;
    ///     let (host, other) = (port.host(), reactor.clone());
    ///     let moved = port.duplicate().add_callback(move |socket| {
    ///         // Usually in another process.
    ///         let second = other.listen_datagrams((socket, DatagramOptions::default()), echo)?;
    ///         assert_eq!(second.host(), host);
    ///         port.set_reading(false);
    /// #       other.stop();
    ///         Ok(())
    ///     });
    ///     moved.detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn duplicate(&self) -> Deferred<DatagramSocket> {
        if !self.cell.is_open() {
            return Deferred::fail(PortStopped);
        }
        let (deferred, resolver) = Deferred::new();
        self.request_of_socket(SocketRequest::Duplicate(resolver));
        deferred
    }

    /// Sets whether the port reads datagrams from the system: off while another process with a
    /// [duplicate](Self::duplicate) of the socket reads them. The port still delivers the datagrams
    /// that it has read, and sends. On by default, independently of
    /// [`pause_producing`](Self::pause_producing).
    pub fn set_reading(&self, on: bool) {
        if self.cell.is_open() {
            self.request_of_socket(SocketRequest::Read(on));
        }
    }

    fn request_of_socket(&self, request: SocketRequest) {
        self.cell.socket_requests.borrow_mut().push(request);
        self.cell.request_turn();
    }

    /// Sets a socket option, in the turn: for the datagrams that are sent later. An error is logged.
    /// Ignored once the port is asked to stop.
    pub fn set_option(&self, option: SocketOption) {
        if self.cell.is_open() {
            self.request_change(OptionChange::Set(option));
        }
    }

    /// A socket option: the value set last, otherwise the system's. `None` on drivers without
    /// sockets and on systems other than Linux, once the port is asked to stop, and for an option
    /// that the socket does not have.
    pub fn option(&self, kind: SocketOptionKind) -> Option<SocketOption> {
        let socket = self.cell.open_socket()?;
        let requests = self.cell.option_requests.borrow();
        socket.option(
            kind,
            requests.iter().filter_map(|request| match request.change {
                OptionChange::Set(option) => Some(option),
                OptionChange::Member(..) => None,
            }),
        )
    }

    /// Receives datagrams sent to this group from now on. The Deferred fires once the port is a
    /// member, or fails with the system's error. Twisted's `joinGroup`.
    pub fn join(&self, group: impl Into<Group>) -> Deferred<()> {
        self.change_member(group.into(), Membership::Join)
    }

    /// Stops receiving datagrams sent to this group. The Deferred fires once the port is no member,
    /// or fails with the system's error. Twisted's `leaveGroup`.
    pub fn leave(&self, group: impl Into<Group>) -> Deferred<()> {
        self.change_member(group.into(), Membership::Leave)
    }

    fn change_member(&self, group: Group, change: Membership) -> Deferred<()> {
        if !self.cell.is_open() {
            return Deferred::fail(PortStopped);
        }
        let (deferred, resolver) = Deferred::new();
        self.request_change(OptionChange::Member(group, change, resolver));
        deferred
    }

    fn request_change(&self, change: OptionChange) {
        let queued_before = self.cell.queued.get();
        let request = OptionRequest { change, queued_before };
        self.cell.option_requests.borrow_mut().push_back(request);
        self.cell.request_turn();
    }

    /// A typed handle to the port, for calls into its protocol.
    pub fn port<P: DatagramProtocol>(&self) -> DatagramPort<P> {
        DatagramPort { transport: self.clone(), protocol: PhantomData }
    }
}

fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

/// Whether both name the same socket, even in different kinds of address.
fn is_same(one: &Address, other: &Address) -> bool {
    one.socket_addr() == other.socket_addr() && one.unix() == other.unix()
}

impl<P: DatagramProtocol> DatagramPort<P> {
    /// Runs `f` on the protocol in the turn. If the port is closed, drops `f` and returns false;
    /// `f` is also dropped if the port closes before it runs.
    ///
    /// # Panics
    ///
    /// In the turn, in debug builds, if the protocol is not a `P`. Release builds log an error
    /// instead.
    pub fn tell(&self, f: impl FnOnce(&mut P, &DatagramTransport) + 'static) -> bool {
        let f = Contained::new(f);
        let is_open = self.is_listening();
        if is_open {
            let cell = self.transport.cell.clone();
            self.reactor()
                .queue_call("tell", type_name::<P>(), move || call_protocol(&cell, f.take()));
        }
        is_open
    }

    /// Runs `f` on the protocol in the turn. The Deferred fires with its result, or fails with
    /// [`PortStopped`] if the port closes first. Cancelling it before the call runs drops `f`.
    pub fn ask<R: 'static>(
        &self,
        f: impl FnOnce(&mut P, &DatagramTransport) -> R + 'static,
    ) -> Deferred<R> {
        let (deferred, resolver) = Deferred::new();
        let mut answer = AskResolver(Some(resolver));
        self.tell(move |protocol, transport| {
            // Taken first, so that a panic drops the resolver without reporting a stopped port.
            let Some(resolver) = answer.0.take() else { return };
            if !resolver.is_cancelled() {
                resolver.callback(f(protocol, transport));
            }
        });
        deferred
    }

    /// Runs `f` on the protocol after `delay`; dropped with the port.
    #[track_caller]
    pub fn call_later(
        &self,
        delay: Duration,
        f: impl FnOnce(&mut P, &DatagramTransport) + 'static,
    ) -> DelayedCall {
        let f = Contained::new(f);
        if !self.is_listening() {
            return DelayedCall::never();
        }
        let cell = self.transport.cell.clone();
        let call = self.reactor().call_later(delay, move || call_protocol(&cell, f.take()));
        let mut timers = self.transport.cell.timers.borrow_mut();
        if timers.len() == timers.capacity() {
            timers.retain(DelayedCall::active);
        }
        timers.push(call.clone());
        call
    }

    /// The transport.
    pub fn transport(&self) -> &DatagramTransport {
        &self.transport
    }
}

/// The resolver of an [`ask`](DatagramPort::ask). Fails with [`PortStopped`] if dropped before the
/// call runs.
struct AskResolver<R>(Option<Resolver<R>>);

impl<R> Drop for AskResolver<R> {
    fn drop(&mut self) {
        if let Some(resolver) = self.0.take() {
            resolver.errback(PortStopped);
        }
    }
}

/// Runs a call into the protocol of a port.
fn call_protocol<P: DatagramProtocol>(
    cell: &Rc<DatagramCell>,
    f: impl FnOnce(&mut P, &DatagramTransport),
) {
    cell.call("call into a protocol", |protocol, transport| {
        let found: &mut dyn Any = protocol;
        match found.downcast_mut() {
            Some(protocol) => f(protocol, transport),
            None => {
                let wanted = type_name::<P>();
                log_error!(host = %cell.host, wanted, "cannot call a protocol: it has another type");
                debug_assert!(false, "the protocol is not a {wanted}");
            }
        }
    });
}

impl<P> Deref for DatagramPort<P> {
    type Target = DatagramTransport;

    fn deref(&self) -> &DatagramTransport {
        &self.transport
    }
}

impl<P> Clone for DatagramPort<P> {
    fn clone(&self) -> Self {
        DatagramPort { transport: self.transport.clone(), protocol: PhantomData }
    }
}

impl<P> fmt::Debug for DatagramPort<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transport.fmt(f)
    }
}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramTransport")
            .field("host", &self.cell.host)
            .field("state", &self.cell.state.get())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
