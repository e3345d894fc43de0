//! Policies, as wrappers of any factory: how many connections at once ([`LimitConnections`],
//! [`LimitConnectionsByPeer`]), how many new ones in a time ([`LimitRate`]), how long one may live
//! ([`LimitLifetime`]). Twisted's `policies`.
//!
//! Whoever is turned away is closed at once and without a protocol, and the inner factory never
//! hears of it, as with a `build_protocol` that says `None` (Twisted's policies do the same).

use std::any::Any;
use std::any::TypeId;
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::rate::Bucket;
use crate::Address;
use crate::Connector;
use crate::DelayedCall;
use crate::Factory;
use crate::IntoFactory;
use crate::Protocol;
use crate::Reactor;
use crate::Reason;
use crate::Transport;

/// Says which connections a factory gets. Clones share what they count, so one policy can stand
/// before several ports.
///
/// ```
/// use couplet::protocols::{LimitConnections, LimitConnectionsByPeer, LimitRate, Policy};
/// use couplet::{Loop, Protocol, Transport};
/// use std::time::Duration;
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// # fn main() -> couplet::Result<()> {
/// # let mut l = Loop::new()?;
/// # let reactor = l.reactor();
/// let in_all = LimitConnections::new(1000);
/// let factory = in_all.clone().wrap(
///     LimitConnectionsByPeer::default()
///         .on_turned_away(|peer| println!("{peer} has too many"))
///         .wrap(LimitRate::new(50, Duration::from_secs(1)).wrap(|| Echo)),
/// );
/// let port = reactor.listen("tcp:0:interface=127.0.0.1", factory)?;
/// let other = reactor.listen("tcp:0:interface=127.0.0.1", in_all.clone().wrap(|| Echo))?;
/// assert_eq!(in_all.connections(), 0);
/// # Ok(())
/// # }
/// ```
pub trait Policy: Sized {
    /// What an admitted connection holds until it is lost.
    type Ticket: Ticket;

    /// Whether a connection with `peer` is let in. Called before `build_protocol`.
    fn admit(&self, peer: &Address) -> Option<Self::Ticket>;

    /// The reactor that is going to use it.
    fn attach(&self, _reactor: &Reactor) {}

    /// The factory with this policy before it.
    fn wrap<K, F: IntoFactory<K>>(self, factory: F) -> Policed<F::Factory, Self> {
        Policed { factory: factory.into_factory(), policy: self }
    }
}

/// What a [`Policy`] gives to a connection that it lets in. It is dropped when the connection is
/// lost, before the protocol hears of that, and also if no protocol was built after all.
pub trait Ticket: Any {
    /// The connection was made; called before the protocol's `connection_made`.
    fn connection_made(&mut self, _transport: &Transport) {}
}

/// A factory behind a policy. Made by [`Policy::wrap`].
///
/// It passes everything on; what it builds is an [`Admitted`].
pub struct Policed<F, R> {
    factory: F,
    policy: R,
}

/// A protocol that holds its ticket. [`Transport::connection`] finds the inner one through it.
pub struct Admitted<P, T> {
    protocol: P,
    ticket: Option<T>,
}

impl<F: Factory, R: Policy> Factory for Policed<F, R> {
    type Protocol = Admitted<F::Protocol, R::Ticket>;

    fn do_start(&mut self) {
        self.factory.do_start();
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.factory.started_connecting(connector);
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<Self::Protocol> {
        // A panic of the inner factory drops the ticket, so what is counted stays right.
        let ticket = self.policy.admit(peer)?;
        let protocol = self.factory.build_protocol(peer)?;
        Some(Admitted { protocol, ticket: Some(ticket) })
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.factory.client_connection_failed(connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.factory.client_connection_lost(connector, reason);
    }

    fn do_stop(&mut self) {
        self.factory.do_stop();
    }

    fn attach(&mut self, reactor: &Reactor) {
        self.policy.attach(reactor);
        self.factory.attach(reactor);
    }
}

impl<P: Protocol, T: Ticket> Protocol for Admitted<P, T> {
    fn connection_made(&mut self, transport: &Transport) {
        if let Some(ticket) = &mut self.ticket {
            ticket.connection_made(transport);
        }
        self.protocol.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.protocol.data_received(transport, data);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.ticket = None;
        self.protocol.connection_lost(transport, reason);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.protocol.read_closed(transport);
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.protocol.write_closed(transport);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.protocol.reading_resumed(transport);
    }

    fn handshake_completed(&mut self, transport: &Transport) {
        self.protocol.handshake_completed(transport);
    }

    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        if wanted == TypeId::of::<P>() {
            return Some(&mut self.protocol);
        }
        self.protocol.find(wanted)
    }
}

/// At most so many connections at once, in all. Twisted's `LimitTotalConnectionsFactory`.
///
/// A connection counts until its `connection_lost`. See [`Policy`] for an example.
#[derive(Clone)]
pub struct LimitConnections {
    limit: Rc<Cell<usize>>,
    open: Rc<Cell<usize>>,
    away: Away,
}

/// At most so many connections at once with each peer: each IP address, whatever the port.
/// Twisted's `LimitConnectionsByPeer`.
///
/// A peer without an IP address is let in. See [`Policy`] for an example.
#[derive(Clone)]
pub struct LimitConnectionsByPeer {
    limit: Rc<Cell<usize>>,
    open: Peers,
    away: Away,
}

/// How many connections each peer has open. Law 9: a peer without any has no entry. Looked up only,
/// never walked.
type Peers = Rc<RefCell<HashMap<IpAddr, usize>>>;

/// At most so many new connections in a time: a token bucket, full at first, that fills evenly.
///
/// So a burst of as many is let in, and from then on one each time that a token's time has passed.
/// It counts in whole nanoseconds of the reactor's time. See [`Policy`] for an example.
#[derive(Clone)]
pub struct LimitRate {
    bucket: Rc<RefCell<Bucket>>,
    reactor: Rc<RefCell<Option<Reactor>>>,
    away: Away,
}

/// A connection lives at most so long, however busy it is.
///
/// Then it is closed as by `lose_connection`: what was written is still flushed. If it isn't gone
/// when the grace (30 s unless set) is over, because the peer reads too slowly, it is aborted. For
/// silent peers there is [`Transport::set_idle_timeout`].
///
/// ```
/// use couplet::protocols::{LimitLifetime, Policy};
/// use std::time::Duration;
/// # struct Echo;
/// # impl couplet::Protocol for Echo {
/// #     fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {}
/// # }
///
/// let hour = Duration::from_secs(3600);
/// let factory = LimitLifetime::new(hour).grace(Duration::from_secs(5)).wrap(|| Echo);
/// ```
#[derive(Clone, Debug)]
pub struct LimitLifetime {
    life: Duration,
    grace: Duration,
}

/// Who was turned away: a count and a hook.
#[derive(Clone, Default)]
struct Away {
    count: Rc<Cell<u64>>,
    hook: Rc<RefCell<Option<Hook>>>,
}

type Hook = Box<dyn FnMut(&Address)>;

impl Away {
    fn set(&self, hook: impl FnMut(&Address) + 'static) {
        let old = self.hook.replace(Some(Box::new(hook)));
        drop(old);
    }

    fn tell(&self, peer: &Address) {
        self.count.set(self.count.get().saturating_add(1));
        tracing::debug!(%peer, "turned away by a policy");
        // Out of its cell while it runs; one that panics is not put back.
        let hook = self.hook.take();
        if let Some(mut hook) = hook {
            hook(peer);
            self.hook.borrow_mut().get_or_insert(hook);
        }
    }
}

impl LimitConnections {
    /// At most `limit` at once. With 0 everybody is turned away.
    pub fn new(limit: usize) -> Self {
        Self { limit: Rc::new(Cell::new(limit)), open: Rc::default(), away: Away::default() }
    }

    /// Sets the limit. Connections that are open stay, even if they are more.
    pub fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Calls `f` for each who is turned away.
    #[must_use]
    pub fn on_turned_away(self, f: impl FnMut(&Address) + 'static) -> Self {
        self.away.set(f);
        self
    }

    /// The connections that are open.
    pub fn connections(&self) -> usize {
        self.open.get()
    }

    /// How many were turned away so far.
    pub fn turned_away(&self) -> u64 {
        self.away.count.get()
    }
}

impl Default for LimitConnections {
    /// No limit until one is set, as in Twisted.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Policy for LimitConnections {
    type Ticket = CountedTicket;

    fn admit(&self, peer: &Address) -> Option<CountedTicket> {
        if self.open.get() >= self.limit.get() {
            self.away.tell(peer);
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(CountedTicket { open: self.open.clone() })
    }
}

/// Counts in [`LimitConnections`] until it is dropped.
#[derive(Debug)]
pub struct CountedTicket {
    open: Rc<Cell<usize>>,
}

impl Ticket for CountedTicket {}

impl Drop for CountedTicket {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

impl LimitConnectionsByPeer {
    /// At most `limit` at once with each peer. With 0 everybody is turned away.
    pub fn new(limit: usize) -> Self {
        Self { limit: Rc::new(Cell::new(limit)), open: Rc::default(), away: Away::default() }
    }

    /// Sets the limit. Connections that are open stay, even if they are more.
    pub fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Calls `f` for each who is turned away.
    #[must_use]
    pub fn on_turned_away(self, f: impl FnMut(&Address) + 'static) -> Self {
        self.away.set(f);
        self
    }

    /// The connections that are open with this peer.
    pub fn connections(&self, peer: IpAddr) -> usize {
        self.open.borrow().get(&peer).copied().unwrap_or(0)
    }

    /// The peers that have connections open.
    pub fn peers(&self) -> usize {
        self.open.borrow().len()
    }

    /// How many were turned away so far.
    pub fn turned_away(&self) -> u64 {
        self.away.count.get()
    }
}

impl Default for LimitConnectionsByPeer {
    /// 5 for each, as in Twisted.
    fn default() -> Self {
        Self::new(5)
    }
}

impl Policy for LimitConnectionsByPeer {
    type Ticket = PeerTicket;

    fn admit(&self, peer: &Address) -> Option<PeerTicket> {
        let Some(ip) = peer.ip() else { return Some(PeerTicket { of: None }) };
        if self.connections(ip) >= self.limit.get() {
            self.away.tell(peer);
            return None;
        }
        *self.open.borrow_mut().entry(ip).or_insert(0) += 1;
        Some(PeerTicket { of: Some((self.open.clone(), ip)) })
    }
}

/// Counts in [`LimitConnectionsByPeer`] until it is dropped.
#[derive(Debug)]
pub struct PeerTicket {
    of: Option<(Peers, IpAddr)>,
}

impl Ticket for PeerTicket {}

impl Drop for PeerTicket {
    fn drop(&mut self) {
        let Some((open, ip)) = &self.of else { return };
        let mut open = open.borrow_mut();
        match open.get_mut(ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(ip)),
        }
    }
}

impl LimitRate {
    /// At most `most` new connections in `per`. With 0 everybody is turned away; else, with a
    /// `per` of zero, nobody is.
    pub fn new(most: u32, per: Duration) -> Self {
        let bucket = Rc::new(RefCell::new(Bucket::new(most, per)));
        Self { bucket, reactor: Rc::default(), away: Away::default() }
    }

    /// Calls `f` for each who is turned away.
    #[must_use]
    pub fn on_turned_away(self, f: impl FnMut(&Address) + 'static) -> Self {
        self.away.set(f);
        self
    }

    /// How many were turned away so far.
    pub fn turned_away(&self) -> u64 {
        self.away.count.get()
    }
}

impl Policy for LimitRate {
    type Ticket = RateTicket;

    fn admit(&self, peer: &Address) -> Option<RateTicket> {
        let now = self.reactor.borrow().as_ref().map(Reactor::now);
        let fits = self.bucket.borrow_mut().take(now);
        if !fits {
            self.away.tell(peer);
        }
        fits.then_some(RateTicket)
    }

    fn attach(&self, reactor: &Reactor) {
        let old = self.reactor.replace(Some(reactor.clone()));
        drop(old);
    }
}

/// Of [`LimitRate`], which asks nothing of a connection that it has let in.
#[derive(Debug)]
pub struct RateTicket;

impl Ticket for RateTicket {}

impl LimitLifetime {
    /// Closes each connection when it is `life` old. With zero that is in the turn after it was
    /// made.
    pub fn new(life: Duration) -> Self {
        Self { life, grace: Duration::from_secs(30) }
    }

    /// How long the close may take before the connection is aborted: 30 s unless set.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}

impl Policy for LimitLifetime {
    type Ticket = LifetimeTicket;

    fn admit(&self, _: &Address) -> Option<LifetimeTicket> {
        Some(LifetimeTicket { limit: self.clone(), calls: Vec::new() })
    }
}

/// The timers of [`LimitLifetime`], which end with the connection.
#[derive(Debug)]
pub struct LifetimeTicket {
    limit: LimitLifetime,
    calls: Vec<DelayedCall>,
}

impl Ticket for LifetimeTicket {
    fn connection_made(&mut self, transport: &Transport) {
        let LimitLifetime { life, grace } = self.limit;
        let (closing, aborting) = (transport.clone(), transport.clone());
        let reactor = transport.reactor();
        self.calls.push(reactor.call_later(life, move || closing.lose_connection()));
        let end = life.saturating_add(grace);
        self.calls.push(reactor.call_later(end, move || aborting.abort_connection()));
    }
}

impl Drop for LifetimeTicket {
    fn drop(&mut self) {
        for call in self.calls.drain(..) {
            call.cancel();
        }
    }
}

impl<F, R> fmt::Debug for Policed<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policed").finish_non_exhaustive()
    }
}

impl<P, T> fmt::Debug for Admitted<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").finish_non_exhaustive()
    }
}

impl fmt::Debug for LimitConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitConnections")
            .field("limit", &self.limit.get())
            .field("connections", &self.connections())
            .field("turned_away", &self.turned_away())
            .finish()
    }
}

impl fmt::Debug for LimitConnectionsByPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitConnectionsByPeer")
            .field("limit", &self.limit.get())
            .field("peers", &self.peers())
            .field("turned_away", &self.turned_away())
            .finish()
    }
}

impl fmt::Debug for LimitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket.borrow();
        f.debug_struct("LimitRate")
            .field("most", &bucket.most())
            .field("per", &bucket.per())
            .field("turned_away", &self.turned_away())
            .finish_non_exhaustive()
    }
}
