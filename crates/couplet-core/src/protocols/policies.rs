//! Connection policies that wrap any factory: limits on simultaneous connections
//! ([`LimitConnections`], [`LimitConnectionsByPeer`]), the rate of new connections
//! ([`LimitConnectionRate`]), and the lifetime of a connection ([`LimitLifetime`]). Twisted's
//! `policies`.
//!
//! A rejected connection is closed immediately, without a protocol, and the inner factory is not
//! called, as if `build_protocol` had returned `None` (as in Twisted's policies).
//!
//! Contract: 50a, 81a.

use std::any::Any;
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::rate::Bucket;
use crate::Connector;
use crate::DelayedCall;
use crate::Factory;
use crate::IntoFactory;
use crate::Newcomer;
use crate::Protocol;
use crate::Reactor;
use crate::Reason;
use crate::Seat;
use crate::Transport;
use crate::layers::Layer;
use crate::{Address, ProtocolExtension};

/// Decides which connections a factory gets. Clones share their counts, so one policy can guard
/// several ports.
///
/// ```
/// use couplet::protocols::{LimitConnections, LimitConnectionsByPeer, LimitConnectionRate, Policy};
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
/// let total = LimitConnections::new(1000);
/// let factory = total.clone().wrap(
///     LimitConnectionsByPeer::default()
///         .on_turned_away(|peer| println!("{peer} has too many"))
///         .wrap(LimitConnectionRate::new(50, Duration::from_secs(1)).wrap(|| Echo)),
/// );
/// let port = reactor.listen("tcp:0:interface=127.0.0.1", factory)?;
/// let other = reactor.listen("tcp:0:interface=127.0.0.1", total.clone().wrap(|| Echo))?;
/// assert_eq!(total.connections(), 0);
/// # Ok(())
/// # }
/// ```
pub trait Policy: Sized {
    /// Held by an admitted connection until it is lost.
    type Admission: Admission;

    /// Admits a connection from `peer`, or rejects it with `None`. Called before `build_protocol`.
    fn admit(&self, peer: &Address) -> Option<Self::Admission>;

    /// Admits a connection whose layers have to open first, or rejects it with `None`. The
    /// connection holds the [`Seat`] while the layers open, and releases it right before
    /// [`admit`](Self::admit). The default admits every connection.
    fn admit_opening(&self, _newcomer: &Newcomer<'_>) -> Option<Seat> {
        Some(Seat::default())
    }

    /// Called with the reactor that will use this policy.
    fn attach(&self, _reactor: &Reactor) {}

    /// Puts this policy in front of `factory`, which may be an async closure that takes a
    /// [`Stream`](crate::stream::Stream).
    #[track_caller]
    fn wrap<K, F: IntoFactory<K>>(self, factory: F) -> Policed<F::Factory, Self> {
        Policed { factory: factory.into_factory(), policy: self }
    }
}

/// Granted by a [`Policy`] to each connection that it admits. Dropped when the connection is lost,
/// before the protocol's `connection_lost`, and also if no protocol is built.
pub trait Admission: Any {
    /// The connection was made. Called before the protocol's `connection_made`.
    fn connection_made(&mut self, _transport: &Transport) {}
}

/// A factory behind a policy, created by [`Policy::wrap`].
///
/// Forwards every call, and wraps the built protocols in [`Admitted`].
pub struct Policed<F, R> {
    factory: F,
    policy: R,
}

/// A protocol that holds its [`Admission`]. [`Transport::connection`] finds the inner protocol.
pub struct Admitted<P, A> {
    protocol: P,
    admission: AdmissionState<A>,
}

enum AdmissionState<A> {
    /// The protocol's `connection_made` was not called yet.
    Granted(A),
    Made(A),
    /// The connection was lost, or another protocol holds the admission.
    Released,
}

impl<A> AdmissionState<A> {
    /// Takes the admission, whose `connection_made` is not called again.
    fn take_made(&mut self) -> AdmissionState<A> {
        match std::mem::replace(self, AdmissionState::Released) {
            AdmissionState::Granted(admission) => AdmissionState::Made(admission),
            other => other,
        }
    }
}

impl<F: Factory, R: Policy> Factory for Policed<F, R> {
    type Protocol = Admitted<F::Protocol, R::Admission>;

    fn do_start(&mut self) {
        self.factory.do_start();
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.factory.started_connecting(connector);
    }

    fn layers(&mut self, peer: &Address) -> Vec<Box<dyn Layer>> {
        self.factory.layers(peer)
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        let seat = self.policy.admit_opening(newcomer)?;
        Some(seat.and(self.factory.opening(newcomer)?))
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<Self::Protocol> {
        // A panic in the inner factory drops the admission, so the counts stay correct.
        let admission = self.policy.admit(peer)?;
        let protocol = self.factory.build_protocol(peer)?;
        Some(Admitted { protocol, admission: AdmissionState::Granted(admission) })
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

impl<P: Protocol, A: Admission> Protocol for Admitted<P, A> {
    fn connection_made(&mut self, transport: &Transport) {
        if matches!(self.admission, AdmissionState::Granted(_)) {
            self.admission = self.admission.take_made();
            if let AdmissionState::Made(admission) = &mut self.admission {
                admission.connection_made(transport);
            }
        }
        self.protocol.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.protocol.data_received(transport, data);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.admission = AdmissionState::Released;
        self.protocol.connection_lost(transport, reason);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.protocol.read_closed(transport);
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.protocol.write_closed(transport);
    }

    fn draining(&mut self, transport: &Transport) {
        self.protocol.draining(transport);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.protocol.reading_resumed(transport);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl<P: Protocol, A: Admission> ProtocolExtension for Admitted<P, A> {
    fn inner(&mut self) -> Option<&mut dyn Protocol> {
        Some(&mut self.protocol)
    }

    /// The connection keeps its admission.
    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        let inner: &mut dyn Protocol = &mut self.protocol;
        let protocol = inner.upgraded(next, unread);
        Box::new(Admitted { protocol, admission: self.admission.take_made() })
    }
}

/// Limits the total number of open connections. Twisted's `LimitTotalConnectionsFactory`.
///
/// A connection counts until its `connection_lost`, and also while its layers open, such as during
/// a TLS handshake. See [`Policy`] for an example.
#[derive(Clone)]
pub struct LimitConnections {
    limit: Rc<Cell<usize>>,
    open: Rc<Cell<usize>>,
    turned_away: Rejections,
}

/// Limits the number of open connections per peer. A peer is an IP address; its port does not
/// matter. Twisted's `LimitConnectionsByPeer`.
///
/// A connection also counts while its layers open, unless a layer may report another peer. Peers
/// without an IP address are always admitted. See [`Policy`] for an example.
#[derive(Clone)]
pub struct LimitConnectionsByPeer {
    limit: Rc<Cell<usize>>,
    open: Peers,
    turned_away: Rejections,
}

/// The number of open connections per peer. Law 9: one entry for each peer with an open connection.
type Peers = Rc<RefCell<BTreeMap<IpAddr, usize>>>;

/// Limits the rate of new connections: a token bucket, initially full, that refills evenly.
///
/// Admits a burst of `most` connections, then one per `per / most`, counted in whole
/// nanoseconds of the reactor's time. See [`Policy`] for an example.
#[derive(Clone)]
pub struct LimitConnectionRate {
    bucket: Rc<RefCell<Bucket>>,
    reactor: Rc<RefCell<Option<Reactor>>>,
    turned_away: Rejections,
}

/// Limits the lifetime of a connection, idle or busy.
///
/// At the limit, the connection is closed as by `lose_connection`, which flushes its output. If it
/// is still open after a grace period (30 s by default), because the peer reads too slowly, it is
/// aborted. For silent peers, use [`Timeout::Idle`](crate::transport::Timeout::Idle).
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

/// Counts the rejected connections, and calls a hook for each.
#[derive(Clone, Default)]
struct Rejections {
    count: Rc<Cell<u64>>,
    hook: Rc<RefCell<Option<Hook>>>,
}

type Hook = Box<dyn FnMut(&Address)>;

impl Rejections {
    fn set(&self, hook: impl FnMut(&Address) + 'static) {
        let old = self.hook.replace(Some(Box::new(hook)));
        drop(old);
    }

    fn record(&self, peer: &Address) {
        self.count.set(self.count.get().saturating_add(1));
        tracing::debug!(%peer, "rejected by a policy");
        // Taken out of its cell while it runs; a hook that panics is not put back.
        let hook = self.hook.take();
        if let Some(mut hook) = hook {
            hook(peer);
            self.hook.borrow_mut().get_or_insert(hook);
        }
    }
}

impl LimitConnections {
    /// Admits at most `limit` connections at a time. With 0, all are rejected.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: Rc::new(Cell::new(limit)),
            open: Rc::default(),
            turned_away: Rejections::default(),
        }
    }

    /// Sets the limit. Open connections stay, even if they exceed it.
    pub fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Calls `f` for each rejected connection.
    #[must_use]
    pub fn on_turned_away(self, f: impl FnMut(&Address) + 'static) -> Self {
        self.turned_away.set(f);
        self
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.open.get()
    }

    /// The number of connections rejected so far.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.count.get()
    }
}

impl Default for LimitConnections {
    /// No limit, as in Twisted.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Policy for LimitConnections {
    type Admission = CountedAdmission;

    fn admit(&self, peer: &Address) -> Option<CountedAdmission> {
        if self.open.get() >= self.limit.get() {
            self.turned_away.record(peer);
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(CountedAdmission { open: self.open.clone() })
    }

    fn admit_opening(&self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.admit(newcomer.peer).map(Seat::new)
    }
}

/// The admission of [`LimitConnections`]: counts as an open connection until it is dropped.
#[derive(Debug)]
pub struct CountedAdmission {
    open: Rc<Cell<usize>>,
}

impl Admission for CountedAdmission {}

impl Drop for CountedAdmission {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

impl LimitConnectionsByPeer {
    /// Admits at most `limit` connections per peer at a time. With 0, all are rejected.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: Rc::new(Cell::new(limit)),
            open: Rc::default(),
            turned_away: Rejections::default(),
        }
    }

    /// Sets the limit. Open connections stay, even if they exceed it.
    pub fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Calls `f` for each rejected connection.
    #[must_use]
    pub fn on_turned_away(self, f: impl FnMut(&Address) + 'static) -> Self {
        self.turned_away.set(f);
        self
    }

    /// The number of open connections with this peer.
    pub fn connections(&self, peer: IpAddr) -> usize {
        self.open.borrow().get(&peer).copied().unwrap_or(0)
    }

    /// The number of peers with open connections.
    pub fn peers(&self) -> usize {
        self.open.borrow().len()
    }

    /// The number of connections rejected so far.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.count.get()
    }
}

impl Default for LimitConnectionsByPeer {
    /// 5 per peer, as in Twisted.
    fn default() -> Self {
        Self::new(5)
    }
}

impl Policy for LimitConnectionsByPeer {
    type Admission = PeerAdmission;

    fn admit(&self, peer: &Address) -> Option<PeerAdmission> {
        let Some(ip) = peer.ip() else { return Some(PeerAdmission { counted: None }) };
        if self.connections(ip) >= self.limit.get() {
            self.turned_away.record(peer);
            return None;
        }
        *self.open.borrow_mut().entry(ip).or_insert(0) += 1;
        Some(PeerAdmission { counted: Some((self.open.clone(), ip)) })
    }

    /// The peer of a relayed connection is not known yet.
    fn admit_opening(&self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        if newcomer.is_relayed {
            return Some(Seat::default());
        }
        self.admit(newcomer.peer).map(Seat::new)
    }
}

/// The admission of [`LimitConnectionsByPeer`]: counts as an open connection with its peer until it
/// is dropped.
#[derive(Debug)]
pub struct PeerAdmission {
    counted: Option<(Peers, IpAddr)>,
}

impl Admission for PeerAdmission {}

impl Drop for PeerAdmission {
    fn drop(&mut self) {
        let Some((open, ip)) = &self.counted else { return };
        let mut open = open.borrow_mut();
        match open.get_mut(ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(ip)),
        }
    }
}

impl LimitConnectionRate {
    /// Admits at most `most` new connections per `per`. If `most` is 0, all are rejected;
    /// otherwise, if `per` is zero, all are admitted.
    pub fn new(most: u32, per: Duration) -> Self {
        let bucket = Rc::new(RefCell::new(Bucket::new(most, per)));
        Self { bucket, reactor: Rc::default(), turned_away: Rejections::default() }
    }

    /// Calls `f` for each rejected connection.
    #[must_use]
    pub fn on_turned_away(self, f: impl FnMut(&Address) + 'static) -> Self {
        self.turned_away.set(f);
        self
    }

    /// The number of connections rejected so far.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.count.get()
    }
}

impl Policy for LimitConnectionRate {
    type Admission = RateAdmission;

    fn admit(&self, peer: &Address) -> Option<RateAdmission> {
        let now = self.reactor.borrow().as_ref().map(Reactor::now);
        let fits = self.bucket.borrow_mut().take(now);
        if !fits {
            self.turned_away.record(peer);
        }
        fits.then_some(RateAdmission)
    }

    fn attach(&self, reactor: &Reactor) {
        let old = self.reactor.replace(Some(reactor.clone()));
        drop(old);
    }
}

/// The admission of [`LimitConnectionRate`], which doesn't track the connections it has admitted.
#[derive(Debug)]
pub struct RateAdmission;

impl Admission for RateAdmission {}

impl LimitLifetime {
    /// Closes each connection `life` after it was made. With zero, it is closed in the turn after
    /// it is made.
    pub fn new(life: Duration) -> Self {
        Self { life, grace: Duration::from_secs(30) }
    }

    /// Sets the time that the close may take before the connection is aborted; the default is 30 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}

impl Policy for LimitLifetime {
    type Admission = LifetimeAdmission;

    fn admit(&self, _: &Address) -> Option<LifetimeAdmission> {
        Some(LifetimeAdmission { limit: self.clone(), calls: Vec::new() })
    }
}

/// The admission of [`LimitLifetime`]: its timers, which are cancelled with the connection.
#[derive(Debug)]
pub struct LifetimeAdmission {
    limit: LimitLifetime,
    calls: Vec<DelayedCall>,
}

impl Admission for LifetimeAdmission {
    fn connection_made(&mut self, transport: &Transport) {
        let LimitLifetime { life, grace } = self.limit;
        let (closing, aborting) = (transport.clone(), transport.clone());
        let reactor = transport.reactor();
        self.calls.push(reactor.call_later(life, move || closing.lose_connection()));
        let end = life.saturating_add(grace);
        self.calls.push(reactor.call_later(end, move || aborting.abort_connection()));
    }
}

impl Drop for LifetimeAdmission {
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

impl<P, A> fmt::Debug for Admitted<P, A> {
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

impl fmt::Debug for LimitConnectionRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket.borrow();
        f.debug_struct("LimitConnectionRate")
            .field("most", &bucket.most())
            .field("per", &bucket.per())
            .field("turned_away", &self.turned_away())
            .finish_non_exhaustive()
    }
}
