//! A driver for tests, with an in-memory network and virtual time.
//!
//! Two manners exist, and code that runs on both runs on any driver. *Readiness* behaves like
//! epoll: it reports readable streams, and sends bytes that fit immediately. *Completion* behaves
//! like io_uring: it takes the outbox and sends the taken bytes in random (seeded) portions over
//! several turns; received bytes (or the end of the stream) may be in flight when reading is
//! paused, and are then held; a closed slot is not reused until its operations have completed.
//!
//! Both panic, and so fail the test, when a key is used after its close. Lent bytes are overwritten
//! when the loan ends.
//!
//! The network closes as Linux does: closing with unread input resets the connection, and a reset
//! destroys part of the bytes in flight.

mod datagrams;
mod network;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::{
    Bound, CloseMode, Commands, ConnectOptions, Datagram, DatagramQueue, DatagramsSent, Driver,
    Event, Group, Job, Key, LocalEnd, Membership, Outbox, Signal, SocketKind, SocketOption, Ticket,
    World, WriteOutcome,
};
use crate::address::Address;
use crate::driver::readiness::Readiness;
use crate::slots::Slots;
use datagrams::Packet;
pub(crate) use network::Standstill;
use network::{BoundListener, EndId};
pub use network::{Cut, Network, Wire};
use stream::Stream;

/// The kind of system interface that a [`Memory`] driver imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Manner {
    /// Like epoll: reports readiness; reads and writes happen on demand.
    Readiness,
    /// Like io_uring: operations are in flight and complete later.
    Completion,
}

/// Maximum bytes in one `Received`.
const READ_BUFFER: usize = 256 * 1024;
/// Maximum bytes that the completion manner takes from an outbox in one call.
const TAKE: usize = 256 * 1024;

/// The driver. See the [module](self).
pub struct Memory {
    network: Network,
    manner: Manner,
    slots: Slots<Kind>,
    /// Closed slots, each with the number of turns until its operations complete.
    retired: Vec<(u32, u32)>,
    /// Notices to report in this turn.
    events: VecDeque<Notice>,
    lent: Vec<u8>,
    /// The lent datagram.
    datagram: Option<Packet>,
    woken: Arc<Flag>,
    lookups: Vec<(Duration, Ticket, Result<Vec<IpAddr>, io::ErrorKind>)>,
}

/// A possible event. Checked again when delivered, because a close or a pause may come first.
enum Notice {
    Accept(Key),
    Connect(Key),
    Read(Key),
    Sent(Key, usize),
    Room(Key),
    /// Datagrams of a port, at most this many.
    Datagram(Key, usize),
    DatagramError(Key),
    Resolved(Ticket, Result<Vec<IpAddr>, io::ErrorKind>),
    JobDone(Ticket),
    Signal(Signal),
}

enum Kind {
    Port { opened: BoundListener, accepting: bool },
    Connecting { to: Address, from: Option<SocketAddr>, outcome: Option<io::Result<EndId>> },
    Stream(Stream),
    Datagrams(datagrams::ServedPort),
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Memory {
    /// Returns a driver and the handle to its network. Equal seeds make equal choices.
    pub fn new(manner: Manner, seed: u64) -> (Memory, Network) {
        let network = Network::new(seed);
        let driver = Memory {
            network: network.clone(),
            manner,
            slots: Slots::new(),
            retired: Vec::new(),
            events: VecDeque::new(),
            lent: Vec::new(),
            datagram: None,
            woken: Arc::new(Flag(AtomicBool::new(false))),
            lookups: Vec::new(),
        };
        (driver, network)
    }

    fn insert(&mut self, kind: Kind) -> Key {
        self.network.net.borrow_mut().slots_in_use += 1;
        self.slots.insert(kind)
    }

    /// The value of a key in a command. Panics on a closed key, which fails the test.
    fn expect_open(&mut self, key: Key) -> &mut Kind {
        let kind = self.slots.get_mut(key);
        kind.unwrap_or_else(|| panic!("a key was used after its close: {key:?}"))
    }

    fn stream(&mut self, key: Key) -> &mut Stream {
        match self.expect_open(key) {
            Kind::Stream(stream) => stream,
            _ => panic!("{key:?} is not a connection"),
        }
    }

    /// Counts down the closed slots, and frees those whose operations have completed.
    fn free_retired_slots(&mut self) {
        let slots = &mut self.slots;
        let mut net = self.network.net.borrow_mut();
        self.retired.retain_mut(|(slot, turns)| {
            *turns = turns.saturating_sub(1);
            if *turns == 0 {
                slots.reuse(*slot);
                net.slots_in_use -= 1;
            }
            *turns > 0
        });
    }

    /// Queues a notice for every slot with something to report.
    fn poll(&mut self) {
        self.free_retired_slots();
        for key in self.slots.keys() {
            let network = self.network.clone();
            let mut net = network.net.borrow_mut();
            let Some(kind) = self.slots.get_mut(key) else { continue };
            match kind {
                Kind::Port { opened, accepting } => {
                    let listener = net.listeners.get(&opened.address);
                    let waiting = listener.is_some_and(|listener| !listener.queue.is_empty());
                    if *accepting && waiting {
                        self.events.push_back(Notice::Accept(key));
                    }
                }
                Kind::Connecting { to, from, outcome } => {
                    if outcome.is_none() {
                        *outcome = net.take_outcome(key, to, *from);
                    }
                    if outcome.is_some() {
                        self.events.push_back(Notice::Connect(key));
                    }
                }
                Kind::Datagrams(port) => {
                    Memory::poll_datagrams(&mut net, key, port, &mut self.events);
                }
                Kind::Stream(stream) => {
                    self.events.extend(stream.send_some(&mut net, key, self.manner));
                    if stream.is_readable(&mut net, self.manner) {
                        self.events.push_back(Notice::Read(key));
                    }
                }
            }
        }
        let mut net = self.network.net.borrow_mut();
        self.events.extend(net.signals.drain(..).map(Notice::Signal));
        let now = net.elapsed;
        for (_, ticket, answer) in self.lookups.extract_if(.., |(at, _, _)| *at <= now) {
            self.events.push_back(Notice::Resolved(ticket, answer));
        }
    }

    /// Whether an operation is in flight that will complete after some turns without outside help.
    fn has_in_flight(&self) -> bool {
        let receiving =
            |stream: &Stream| !stream.readiness.has(Readiness::PAUSED) && stream.received.is_some();
        let in_flight = |kind: &Kind| match kind {
            Kind::Stream(stream) => receiving(stream),
            Kind::Datagrams(port) => self.has_datagrams_in_flight(port),
            Kind::Port { .. } | Kind::Connecting { .. } => false,
        };
        !self.retired.is_empty() || self.slots.iter().any(|(_, kind)| in_flight(kind))
    }

    fn accept(&mut self, port: Key) -> Option<Event> {
        let Some(Kind::Port { opened, accepting: true }) = self.slots.get_mut(port) else {
            return None;
        };
        let address = opened.address.clone();
        let network = self.network.clone();
        let mut net = network.net.borrow_mut();
        let listener = net.listeners.get_mut(&address)?;
        let end = listener.queue.pop_front()?;
        if !listener.queue.is_empty() {
            self.events.push_front(Notice::Accept(port));
        }
        let [peer, host] = net.links[&end.0].addresses.clone();
        drop(net);
        let key = self.insert(Kind::Stream(Stream::new(end)));
        Some(Event::Accepted { port, key, peer, host: LocalEnd::Known(host.into()) })
    }

    fn connected(&mut self, key: Key) -> Option<Event> {
        let network = self.network.clone();
        let Some(Kind::Connecting { outcome, .. }) = self.slots.get_mut(key) else {
            return None;
        };
        match outcome.take()? {
            Ok(end) => {
                let host = network.net.borrow().links[&end.0].addresses[0].clone();
                *self.expect_open(key) = Kind::Stream(Stream::new(end));
                Some(Event::Connected { key, host })
            }
            Err(error) => Some(Event::Failed(key, error)),
        }
    }

    /// Reads from a connection: puts bytes into `lent`, or reports its end.
    fn read(&mut self, key: Key) -> Option<Event> {
        let network = self.network.clone();
        let manner = self.manner;
        let Some(Kind::Stream(stream)) = self.slots.get_mut(key) else {
            return None;
        };
        let mut net = network.net.borrow_mut();
        if let Some((bytes, 0)) = stream.received.take_if(|(_, turns)| *turns == 0) {
            let empty = bytes.is_empty();
            if stream.readiness.has(Readiness::PAUSED) {
                // The operation completed during a pause: its bytes are held and delivered first on
                // resume.
                stream.received = Some((bytes, 0));
            } else if empty {
                return stream.end_of_stream(&mut net, key);
            } else {
                self.lent = bytes;
                return Some(Event::Received(key));
            }
        }
        if stream.readiness.has(Readiness::ENDED | Readiness::PAUSED) {
            let Some(error) = stream.write_error.take().or(net.end(stream.end).error) else {
                let has_arrived = net.end(stream.end).incoming.fin;
                let is_news = stream.readiness.take_unreported_end(has_arrived);
                return is_news.then_some(Event::PeerEnded(key));
            };
            stream.readiness.set(Readiness::ENDED, true);
            net.end(stream.end).error = None;
            return Some(Event::Failed(key, error.into()));
        }
        if manner == Manner::Completion {
            // The operation completes in `is_readable`, and has not completed yet.
            return None;
        }
        let bytes = stream.receive(&mut net);
        if bytes.is_empty() {
            return stream.end_of_stream(&mut net, key);
        }
        let end = net.end(stream.end);
        if end.incoming.bytes.is_empty() && (end.incoming.fin || end.error.is_some()) {
            self.events.push_front(Notice::Read(key));
        }
        self.lent = bytes;
        Some(Event::Received(key))
    }
}

impl Driver for Memory {
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.network.net.borrow_mut().count_wait()?;
        self.poll();
        let now = self.network.now();
        let woken = self.woken.0.swap(false, Ordering::AcqRel);
        if !self.events.is_empty() || woken || self.has_in_flight() {
            self.network.net.borrow_mut().activity += 1;
            return Ok(());
        }
        let lookup = self.lookups.iter().map(|(at, ..)| *at).min();
        // A lookup that never completes sets no deadline.
        let started = self.network.net.borrow().started;
        let lookup = lookup.and_then(|at| started.checked_add(at));
        let next = match (until, lookup) {
            (Some(a), Some(b)) => a.min(b),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => {
                return Err(self.network.net.borrow_mut().fail_wait(Standstill::Stalled));
            }
        };
        let longest = self.network.net.borrow().longest;
        if next.saturating_duration_since(started) > longest {
            return Err(self.network.net.borrow_mut().fail_wait(Standstill::TooLong));
        }
        self.network.advance(next.saturating_duration_since(now));
        self.poll();
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        self.lent.fill(0xdd);
        if let Some(mut packet) = self.datagram.take() {
            packet.bytes.fill(0xdd);
        }
        loop {
            match self.events.pop_front()? {
                Notice::Accept(port) => {
                    if let Some(event) = self.accept(port) {
                        return Some(event);
                    }
                }
                Notice::Connect(key) => {
                    if let Some(event) = self.connected(key) {
                        return Some(event);
                    }
                }
                Notice::Sent(key, n) => {
                    if self.slots.get_mut(key).is_some() {
                        return Some(Event::Sent(key, n));
                    }
                }
                Notice::Room(key) => {
                    if self.slots.get_mut(key).is_some() {
                        return Some(Event::Room(key));
                    }
                }
                Notice::Read(key) => {
                    if let Some(event) = self.read(key) {
                        return Some(event);
                    }
                }
                Notice::Datagram(key, left) => {
                    if let Some(event) = self.take_datagram(key, left) {
                        return Some(event);
                    }
                }
                Notice::DatagramError(key) => {
                    if let Some(event) = self.take_datagram_error(key) {
                        return Some(event);
                    }
                }
                Notice::Resolved(ticket, answer) => {
                    return Some(Event::Resolved(ticket, answer.map_err(io::Error::from)));
                }
                Notice::JobDone(ticket) => return Some(Event::JobDone(ticket)),
                Notice::Signal(signal) => return Some(Event::Signal(signal)),
            }
        }
    }

    fn has_more(&self) -> bool {
        !self.events.is_empty()
    }

    fn lent(&self, _: Key) -> &[u8] {
        &self.lent
    }

    fn datagram(&self) -> Datagram<'_> {
        self.datagram.as_ref().expect("a datagram was reported").as_datagram()
    }
}

impl Commands for Memory {
    fn world(&self) -> Rc<dyn World> {
        Rc::new(self.network.clone())
    }

    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let network = self.network.clone();
        let manner = self.manner;
        let stream = self.stream(key);
        if stream.write_error.is_some() {
            return WriteOutcome::Blocked;
        }
        match manner {
            Manner::Readiness => stream.write_ready(&mut network.net.borrow_mut(), out),
            Manner::Completion => stream.take(out),
        }
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        let port = match bound.socket.downcast::<BoundListener>() {
            Ok(opened) => Kind::Port { opened: *opened, accepting: true },
            Err(other) => {
                let opened = other.downcast::<datagrams::BoundDatagrams>().map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "cannot serve a port of another driver's world",
                    )
                })?;
                Kind::Datagrams(Memory::serve_datagrams(*opened))
            }
        };
        Ok(self.insert(port))
    }

    fn send_datagrams(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        self.send_queued(key, out)
    }

    fn set_membership(&mut self, key: Key, group: &Group, change: Membership) -> io::Result<()> {
        self.set_port_membership(key, group, change)
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        if to.ip().is_some_and(|ip| self.network.net.borrow().unreachable.contains(&ip)) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let (to, from) = (to.clone(), options.bind);
        self.network.net.borrow_mut().begin_connect(self.slots.next_key(), to.clone(), from);
        let key = self.insert(Kind::Connecting { to, from, outcome: None });
        Ok(key)
    }

    fn receive(&mut self, key: Key, on: bool) {
        let network = self.network.clone();
        match self.expect_open(key) {
            Kind::Port { accepting, .. } => *accepting = on,
            Kind::Datagrams(port) => port.receiving = on,
            Kind::Stream(stream) => {
                stream.readiness.set(Readiness::PAUSED, !on);
                network.net.borrow_mut().end(stream.end).receive(on);
            }
            _ => panic!("{key:?} can't receive"),
        }
    }

    fn shut_write(&mut self, key: Key) {
        let network = self.network.clone();
        let stream = self.stream(key);
        assert!(stream.taken.is_empty(), "write side shut down while taken bytes are in flight");
        network.net.borrow_mut().shut(stream.end);
    }

    fn close(&mut self, key: Key, mode: CloseMode) {
        let network = self.network.clone();
        let completion = self.manner == Manner::Completion;
        self.expect_open(key);
        let Some(kind) = self.slots.retire(key) else { return };
        // One more than `free_retired_slots` counts, so that no slot is reused in the turn of its
        // close.
        let turns =
            1 + if completion { network.net.borrow_mut().random_below(3) as u32 } else { 0 };
        self.retired.push((key.slot, turns));
        match kind {
            Kind::Port { opened, .. } => drop(opened),
            Kind::Datagrams(port) => drop(port),
            Kind::Stream(Stream { end, .. }) | Kind::Connecting { outcome: Some(Ok(end)), .. } => {
                network.net.borrow_mut().close(end, mode);
            }
            Kind::Connecting { .. } => {}
        }
        network.net.borrow_mut().end_connect(key);
    }

    fn peer_has_ended(&self, key: Key) -> bool {
        match self.slots.get(key).expect("a key was used after its close") {
            Kind::Stream(stream) => self.network.net.borrow_mut().end(stream.end).incoming.fin,
            _ => false,
        }
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        match self.slots.get(key).expect("a key was used after its close") {
            Kind::Stream(stream) => {
                Some(self.network.net.borrow_mut().peer(stream.end).incoming.bytes.len())
            }
            _ => None,
        }
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        let network = self.network.clone();
        let Kind::Stream(stream) = self.expect_open(key) else { return Ok(()) };
        let end = stream.end;
        let mut net = network.net.borrow_mut();
        let kind = if net.is_unix(end) { SocketKind::Unix } else { SocketKind::Tcp };
        if option.applies_to(kind) {
            net.end(end).options.push(option);
        }
        Ok(())
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        let mut net = self.network.net.borrow_mut();
        let (takes, answer) = net.look_up(name);
        self.lookups.push((net.elapsed.saturating_add(takes), ticket, answer));
    }

    fn forget(&mut self, ticket: Ticket) {
        self.lookups.retain(|(_, waiting, _)| *waiting != ticket);
        self.events.retain(|notice| !matches!(notice, Notice::Resolved(t, _) if *t == ticket));
    }

    /// Runs the job immediately: with virtual time there are no threads.
    fn run_blocking(&mut self, ticket: Ticket, job: Job) {
        job();
        self.events.push_back(Notice::JobDone(ticket));
    }

    fn forget_job(&mut self, ticket: Ticket) {
        self.events.retain(|notice| !matches!(notice, Notice::JobDone(t) if *t == ticket));
    }

    fn waker(&self) -> Waker {
        self.woken.clone().into()
    }

    fn watch_signals(&mut self, _on: bool) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("manner", &self.manner)
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}
