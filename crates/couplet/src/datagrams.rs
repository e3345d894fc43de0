//! Datagrams: [`DatagramProtocol`], which you implement; [`DatagramTransport`], the handle that it
//! sends by; [`DatagramPort`], the way back to its `&mut self`.
//!
//! Twisted's `DatagramProtocol` and `IUDPTransport`.

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
use crate::defer::{Deferred, Resolver, Result};
use crate::driver::{
    Bound, Datagram, DatagramOption, DatagramOptions, DatagramQueue, Group, Interface, Key,
};
use crate::panics::{Contained, contain};
use crate::reactor::{DelayedCall, Reactor};

/// What to do with the datagrams of a port.
///
/// One object serves a port and never sees a socket. Every method but
/// [`datagram_received`](Self::datagram_received) has a default. A panic in one is logged, and the port
/// stays open: a datagram belongs to nobody who could be disconnected.
///
/// A closure that takes a transport and a datagram is one too.
///
/// ```
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
/// let port = reactor.listen_udp("127.0.0.1:0".parse()?, Echo)?;
/// println!("listening on {}", port.host());
/// # reactor.stop();
/// # Ok(()) })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub trait DatagramProtocol: Any {
    /// The port is bound and served; the first call. Twisted's `startProtocol`.
    fn start_protocol(&mut self, _transport: &DatagramTransport) {}

    /// A datagram arrived: whole, unless it is [cut](Datagram::cut). It is borrowed for the call only.
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>);

    /// Nobody listens at the [peer](DatagramOptions::peer) of the port: an earlier datagram was refused.
    /// The port stays open.
    fn connection_refused(&mut self, _transport: &DatagramTransport) {}

    /// The port is closed; the last call. Twisted's `stopProtocol`.
    fn stop_protocol(&mut self, _transport: &DatagramTransport) {}
}

impl<F: FnMut(&DatagramTransport, &Datagram<'_>) + 'static> DatagramProtocol for F {
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self(transport, datagram);
    }
}

/// A handle to a port of datagrams; cheap to clone. Dropping it changes nothing.
///
/// It records, and the loop's turn acts. What is sent in a callback leaves when that has returned, what
/// is sent elsewhere at the end of the turn. Datagrams for which the system has no room wait, up to
/// [`DatagramOptions::queue`]; further ones are dropped, and [counted](Self::dropped).
#[derive(Clone)]
pub struct DatagramTransport {
    pub(crate) cell: Rc<DatagramCell>,
}

/// A port of datagrams together with its protocol's type; cheap to clone, and a [`DatagramTransport`]
/// by dereferencing. Dropping it changes nothing.
///
/// Made by [`Reactor::listen_udp`] and its like, and by [`DatagramTransport::port`]. Closures passed to
/// it are recorded, and run in the turn with the protocol's `&mut self`:
///
/// ```
/// use std::time::Duration;
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
/// # reactor.listen_udp("127.0.0.1:0".parse()?, Reporter { to, sequence: 0 })?;
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
    /// No datagram of this port can be that long. Twisted's `MessageLengthError`.
    #[error("a datagram of {length} bytes is too long: at most {most} fit")]
    TooLong {
        /// Its length, in bytes.
        length: usize,
        /// The length of the longest one.
        most: usize,
    },
    /// The port can't send there: an address of another family, or without a port number, or another
    /// one than the peer's. Twisted's `InvalidAddressError`.
    #[error("{host} can't send to {to}")]
    WrongAddress {
        /// The address of the port.
        host: Address,
        /// The requested address.
        to: Address,
    },
    /// It was sent to nobody, and the port has no [peer](DatagramOptions::peer).
    #[error("the port has no peer to send to")]
    NoPeer,
    /// More wait to be sent than [`DatagramOptions::queue`] allows. It was dropped, and counted.
    #[error("dropped: {queued} bytes wait to be sent already")]
    Full {
        /// The bytes that wait.
        queued: usize,
    },
    /// The port is closed.
    #[error("the port is closed")]
    Stopped,
}

/// The port of a [`DatagramPort::ask`] is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the port of datagrams is closed")]
pub struct PortStopped;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortState {
    /// Bound; not yet served by the turn.
    Starting,
    Listening,
    /// To be closed by the turn.
    Stopping,
    Stopped,
}

/// Datagrams of a port, since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
    pub(crate) queued: u64,
}

/// An option to set.
pub(crate) struct Asked {
    pub(crate) option: DatagramOption,
    pub(crate) resolver: Resolver<()>,
    /// Datagrams that were queued before, since the port was opened: they leave without it.
    pub(crate) behind: u64,
}

pub(crate) struct DatagramCell {
    pub(crate) reactor: Reactor,
    pub(crate) host: Address,
    pub(crate) options: DatagramOptions,
    pub(crate) place: &'static Location<'static>,
    #[cfg(unix)]
    descriptor: Option<std::os::fd::RawFd>,
    pub(crate) state: Cell<PortState>,
    pub(crate) paused: Cell<bool>,
    /// What the driver knows of pauses.
    pub(crate) receiving: Cell<bool>,
    pub(crate) bound: RefCell<Option<Bound>>,
    pub(crate) key: Cell<Option<Key>>,
    /// Taken out while a callback runs, and for good when the port is closed.
    protocol: RefCell<Option<Contained<Box<dyn DatagramProtocol>>>>,
    pub(crate) queue: RefCell<DatagramQueue>,
    pub(crate) counts: Cell<Counts>,
    /// The turn knows that there is something to do.
    noted: Cell<bool>,
    /// Other datagrams that arrived with the last one follow: answers wait for them.
    pub(crate) holds: Cell<bool>,
    /// It is on the list of what is written at the end of the turn.
    pub(crate) to_write: Cell<bool>,
    /// Options to set. Law 9: no bound, one for each unfired Deferred.
    pub(crate) asked: RefCell<VecDeque<Asked>>,
    pub(crate) stopped: RefCell<Vec<Resolver<()>>>,
    timers: RefCell<Vec<DelayedCall>>,
}

/// Longest payloads: the length field of UDP has 16 bits, that of IPv4 too, with both headers.
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
            #[cfg(unix)]
            descriptor: bound.descriptor,
            state: Cell::new(PortState::Starting),
            paused: Cell::new(false),
            receiving: Cell::new(true),
            bound: RefCell::new(Some(bound)),
            key: Cell::new(None),
            protocol: RefCell::new(Some(protocol)),
            queue: RefCell::default(),
            counts: Cell::default(),
            noted: Cell::new(false),
            holds: Cell::new(false),
            to_write: Cell::new(false),
            asked: RefCell::default(),
            stopped: RefCell::default(),
            timers: RefCell::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state.get(), PortState::Starting | PortState::Listening)
    }

    /// Has the turn look at it.
    fn note(self: &Rc<Self>) {
        if !self.noted.replace(true) {
            self.reactor.ask_datagrams(self);
        }
    }

    /// The turn looks at it now.
    pub(crate) fn noticed(&self) {
        self.noted.set(false);
    }

    pub(crate) fn count(&self, f: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        f(&mut counts);
        self.counts.set(counts);
    }

    /// Counts a datagram that is not sent. Logged at the 1st, 2nd, 4th, 8th, …
    pub(crate) fn drop_one(&self, why: &dyn fmt::Display) {
        self.count(|counts| counts.dropped += 1);
        let dropped = self.counts.get().dropped;
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

    /// Delivers a datagram. What is sent meanwhile leaves right after, and needs no note.
    pub(crate) fn deliver(self: &Rc<Self>, datagram: &Datagram<'_>) {
        self.count(|counts| counts.received += 1);
        let noted = self.noted.replace(true);
        self.call("datagram_received", |protocol, transport| {
            protocol.datagram_received(transport, datagram);
        });
        self.noted.set(noted);
        if !noted && self.has_requests() {
            self.note();
        }
    }

    /// Whether there is more to do than to send.
    fn has_requests(&self) -> bool {
        !self.is_open()
            || self.paused.get() == self.receiving.get()
            || !self.asked.borrow().is_empty()
    }

    /// The last call of the protocol, which is dropped; then whoever waits for the end is told.
    pub(crate) fn finish(self: &Rc<Self>, started: bool) {
        self.state.set(PortState::Stopped);
        if started {
            self.call("stop_protocol", |protocol, transport| protocol.stop_protocol(transport));
        }
        for resolver in self.release() {
            resolver.callback(());
        }
    }

    /// Drops what it holds, without a call of the protocol. Returns the resolvers of `stop_listening`.
    pub(crate) fn release(&self) -> Vec<Resolver<()>> {
        self.state.set(PortState::Stopped);
        for call in self.timers.take() {
            call.cancel();
        }
        let protocol = self.protocol.take();
        drop(protocol);
        let unsent = self.queue.take();
        self.count(|counts| counts.dropped += unsent.len() as u64);
        for asked in self.asked.take() {
            asked.resolver.errback(PortStopped);
        }
        self.stopped.take()
    }
}

impl DatagramTransport {
    /// Sends a datagram to `to`: an address of the port's family, or of IPv4 on a dual-stack port.
    /// A [`SocketAddr`] will do.
    ///
    /// # Errors
    ///
    /// [`SendError`]. What the system finds out later, such as that there is no route, is logged and
    /// counted as [dropped](Self::dropped). Nobody tells whether a datagram arrives.
    pub fn send_to(&self, data: impl AsRef<[u8]>, to: impl Into<Address>) -> Result<(), SendError> {
        self.queue(data.as_ref(), Some(to.into()), None)
    }

    /// Sends a datagram to the [peer](DatagramOptions::peer).
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to); [`SendError::NoPeer`] if there is none.
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result<(), SendError> {
        self.queue(data.as_ref(), None, None)
    }

    /// Sends a datagram to the sender of `datagram`, from the address that it was sent to: on a port of
    /// all interfaces the system might choose another one, which the sender would not know.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn answer(&self, datagram: &Datagram<'_>, data: impl AsRef<[u8]>) -> Result<(), SendError> {
        // To a multicast or broadcast the answer comes from whichever address fits.
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
        let to = self.checked(to)?;
        let most = self.longest(to.as_ref());
        if data.len() > most {
            return Err(SendError::TooLong { length: data.len(), most });
        }
        let mut queue = cell.queue.borrow_mut();
        let queued = queue.bytes();
        // An empty queue takes any datagram. Empty ones take room in the list.
        let is_full = queued + data.len() > cell.options.queue || queue.len() >= MOST_QUEUED;
        if is_full && !queue.is_empty() {
            drop(queue);
            let error = SendError::Full { queued };
            cell.drop_one(&error);
            return Err(error);
        }
        queue.push(data, to, from);
        drop(queue);
        cell.count(|counts| counts.queued += 1);
        cell.note();
        Ok(())
    }

    /// Where a datagram goes: `None` is the port's peer.
    fn checked(&self, to: Option<Address>) -> Result<Option<Address>, SendError> {
        let cell = &self.cell;
        match (to, &cell.options.peer) {
            (None, None) => Err(SendError::NoPeer),
            (None, Some(_)) => Ok(None),
            (Some(to), peer) => {
                let fits = match (&to, &cell.host) {
                    (Address::Unix(to), Address::Unix(_)) => *to != UnixAddress::Unnamed,
                    (Address::Unix(_), _) | (_, Address::Unix(_)) => false,
                    (to, host) => match (to.socket_addr(), host.socket_addr()) {
                        (Some(to), Some(host)) => to.port() != 0 && self.reaches(host, to),
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

    /// Whether an Internet socket can send there.
    fn reaches(&self, host: SocketAddr, to: SocketAddr) -> bool {
        host.is_ipv4() == to.is_ipv4()
            || host.is_ipv6() && host.ip().is_unspecified() && self.cell.options.dual_stack
    }

    /// The length of the longest datagram.
    fn longest(&self, to: Option<&Address>) -> usize {
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

    /// The number of the socket's descriptor, for what asks the system about it by number; `None` on
    /// drivers without sockets, and once the port is asked to stop. The loop reads, writes and closes it.
    #[cfg(unix)]
    pub fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        self.cell.descriptor.filter(|_| self.is_listening())
    }

    /// Datagrams that were dropped, because too many waited or because the system refused them. What the
    /// network loses is not known.
    pub fn dropped(&self) -> u64 {
        self.cell.counts.get().dropped
    }

    /// Bytes that wait to be sent.
    pub fn buffered(&self) -> usize {
        self.cell.queue.borrow().bytes()
    }

    /// Closes the port, after an attempt to send what waits. The Deferred fires in a later turn, after
    /// [`stop_protocol`](DatagramProtocol::stop_protocol); `None` if the port is closed, or being closed,
    /// already. Nothing is received from now on. The end of a run closes the port too; a
    /// [drain](Reactor::drain) leaves it open.
    pub fn stop_listening(&self) -> Option<Deferred<()>> {
        if !self.cell.is_open() {
            return None;
        }
        self.cell.state.set(PortState::Stopping);
        let (deferred, resolver) = Deferred::new();
        self.cell.stopped.borrow_mut().push(resolver);
        self.cell.note();
        Some(deferred)
    }

    /// True while the port is open, or about to be.
    pub fn is_listening(&self) -> bool {
        self.cell.is_open()
    }

    /// Delivers nothing from now on, until [`resume_producing`](Self::resume_producing). The system
    /// queues what arrives, and drops what does not fit.
    pub fn pause_producing(&self) {
        self.set_paused(true);
    }

    /// Delivers datagrams again.
    pub fn resume_producing(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        if self.cell.paused.replace(paused) != paused {
            self.cell.note();
        }
    }

    /// Sets an option, in the turn. The Deferred fires when it is set, or fails with the system's error.
    pub fn set_option(&self, option: DatagramOption) -> Deferred<()> {
        if !self.cell.is_open() {
            return Deferred::fail(PortStopped);
        }
        let (deferred, resolver) = Deferred::new();
        let behind = self.cell.counts.get().queued;
        self.cell.asked.borrow_mut().push_back(Asked { option, resolver, behind });
        self.cell.note();
        deferred
    }

    /// Receives what is sent to a multicast group, an IP address or a [`Group`], from now on. Twisted's
    /// `joinGroup`.
    pub fn join_group(&self, group: impl Into<Group>) -> Deferred<()> {
        self.set_option(DatagramOption::Join(group.into()))
    }

    /// Ends a [`join_group`](Self::join_group). Twisted's `leaveGroup`.
    pub fn leave_group(&self, group: impl Into<Group>) -> Deferred<()> {
        self.set_option(DatagramOption::Leave(group.into()))
    }

    /// Sets the interface that multicasts leave by. Twisted's `setOutgoingInterface`.
    pub fn set_outgoing_interface(&self, interface: impl Into<Interface>) -> Deferred<()> {
        self.set_option(DatagramOption::MulticastInterface(interface.into()))
    }

    /// The port, for calls into its protocol.
    pub fn port<P: DatagramProtocol>(&self) -> DatagramPort<P> {
        DatagramPort { transport: self.clone(), protocol: PhantomData }
    }
}

/// Most datagrams that wait to be sent, however short.
const MOST_QUEUED: usize = 16 * 1024;

fn is_group(ip: IpAddr) -> bool {
    ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

/// The same place, whatever kind of address names it.
fn is_same(one: &Address, other: &Address) -> bool {
    one.socket_addr() == other.socket_addr() && one.unix() == other.unix()
}

impl<P: DatagramProtocol> DatagramPort<P> {
    /// Runs `f` on the protocol in the turn. If the port is closed, drops `f` and returns false; `f` is
    /// also dropped if the port is closed before it runs.
    ///
    /// # Panics
    ///
    /// In the turn and in debug builds, when the protocol is not a `P`. In release builds this is logged.
    pub fn tell(&self, f: impl FnOnce(&mut P, &DatagramTransport) + 'static) -> bool {
        let f = Contained::new(f);
        let is_open = self.is_listening();
        if is_open {
            let cell = self.transport.cell.clone();
            self.reactor().line_up("tell", type_name::<P>(), move || run(&cell, f.take()));
        }
        is_open
    }

    /// Runs `f` on the protocol in the turn; the Deferred fires with its result, and fails with
    /// [`PortStopped`] if the port is closed first.
    pub fn ask<R: 'static>(
        &self,
        f: impl FnOnce(&mut P, &DatagramTransport) -> R + 'static,
    ) -> Deferred<R> {
        let (deferred, resolver) = Deferred::new();
        let mut answer = Answer(Some(resolver));
        self.tell(move |protocol, transport| {
            // Taken first: after a panic it is dropped, and not said to be for want of a port.
            let resolver = answer.0.take();
            let value = f(protocol, transport);
            if let Some(resolver) = resolver {
                resolver.callback(value);
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
        let call = self.reactor().call_later(delay, move || run(&cell, f.take()));
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

/// The resolver of an [`ask`](DatagramPort::ask), which fails when that is dropped before it runs.
struct Answer<R>(Option<Resolver<R>>);

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        if let Some(resolver) = self.0.take() {
            resolver.errback(PortStopped);
        }
    }
}

/// Runs a call into the protocol of a port.
fn run<P: DatagramProtocol>(cell: &Rc<DatagramCell>, f: impl FnOnce(&mut P, &DatagramTransport)) {
    cell.call("call into a protocol", |protocol, transport| {
        let found: &mut dyn Any = protocol;
        match found.downcast_mut() {
            Some(protocol) => f(protocol, transport),
            None => {
                let wanted = type_name::<P>();
                log_error!(host = %cell.host, wanted, "the protocol is of another type");
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
