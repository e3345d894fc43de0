//! A driver whose network lies in memory and whose time is virtual: for tests.
//!
//! It has two manners, so that what runs on it runs on any driver. *Readiness* behaves as epoll:
//! it tells what can be read, and sends what fits at once. *Completion* behaves as io_uring: it
//! takes the outbox and gives taken bytes back in seeded portions over several turns, it has
//! received bytes (and the end of the stream) in flight when reading is paused and holds them, and
//! a slot rests after its close until its operations have come home.
//!
//! Both fail the test, by a panic in the driver, when a key is used after its close; lent bytes
//! are overwritten when their time is over.
//!
//! The network closes as Linux does: closing with unread input resets the connection, and a reset
//! destroys part of what was on its way.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant, SystemTime};

use super::{
    Bound, ConnectOptions, Driver, Event, How, Key, ListenOptions, Outbox, Piece, Sent, Signal,
    SocketOption, Ticket, World,
};
use crate::address::Address;

/// How a [`Memory`] driver does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As epoll: tells what is ready, and does it on demand.
    Readiness,
    /// As io_uring: operations are in flight and come home later.
    Completion,
}

/// How the network cuts a stream into the pieces that are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As much as there is, up to the read buffer.
    Whole,
    /// Pieces of at most this many bytes.
    Most(usize),
    /// Pieces of random length, at most this many bytes.
    Random(usize),
}

/// Bytes that fit on the way in one direction, unless set.
const CAPACITY: usize = 64 * 1024;
/// The most that one `Received` carries.
const READ_BUFFER: usize = 256 * 1024;
/// The most that the completion manner takes of an outbox at once.
const TAKE: usize = 256 * 1024;

type EndId = (usize, usize);

/// A stream of bytes in one direction.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    fin: bool,
}

/// One end of a connection in memory.
#[derive(Default)]
struct End {
    incoming: Pipe,
    error: Option<io::ErrorKind>,
    closed: bool,
    /// Whether its holder takes bytes; a test looks at it from the other end.
    receiving: bool,
    options: Vec<SocketOption>,
}

struct Link {
    ends: [End; 2],
    capacity: usize,
    addresses: [SocketAddr; 2],
}

struct Listener {
    queue: VecDeque<EndId>,
    backlog: usize,
    options: ListenOptions,
}

/// The network, the names and the clock.
struct Net {
    started: Instant,
    elapsed: Duration,
    random: u64,
    links: Vec<Link>,
    listeners: BTreeMap<SocketAddr, Listener>,
    next_port: u16,
    capacity: usize,
    cut: Cut,
    names: BTreeMap<String, (Duration, Result<Vec<IpAddr>, io::ErrorKind>)>,
    silent: BTreeSet<SocketAddr>,
    unreachable: BTreeSet<IpAddr>,
    signals: VecDeque<Signal>,
    /// Turns in which there was something to do.
    activity: u64,
}

impl Net {
    fn random(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.random() % n.max(1) as u64) as usize
    }

    fn end(&mut self, (link, side): EndId) -> &mut End {
        &mut self.links[link].ends[side]
    }

    fn peer(&mut self, (link, side): EndId) -> &mut End {
        &mut self.links[link].ends[1 - side]
    }

    fn room(&mut self, end: EndId) -> usize {
        let capacity = self.links[end.0].capacity;
        capacity.saturating_sub(self.peer(end).incoming.bytes.len())
    }

    /// Sends what fits; the number of bytes sent.
    fn send(&mut self, end: EndId, data: &[u8]) -> io::Result<usize> {
        if let Some(kind) = self.end(end).error {
            return Err(kind.into());
        }
        if self.peer(end).closed {
            // The peer's system answers with a reset; this write has gone out all the same.
            self.end(end).error = Some(io::ErrorKind::ConnectionReset);
            return Ok(data.len());
        }
        let n = data.len().min(self.room(end));
        self.peer(end).incoming.bytes.extend(&data[..n]);
        Ok(n)
    }

    fn shut(&mut self, end: EndId) {
        self.peer(end).incoming.fin = true;
    }

    fn close(&mut self, end: EndId, how: How) {
        let this = self.end(end);
        if this.closed {
            return;
        }
        this.closed = true;
        let unread = !this.incoming.bytes.is_empty();
        if how == How::Reset || unread {
            self.reset(end);
        } else if self.end(end).error.is_none() {
            self.shut(end);
        }
    }

    /// What the peer had received stays readable; the half still on its way is destroyed.
    fn reset(&mut self, end: EndId) {
        let peer = self.peer(end);
        if peer.closed {
            return;
        }
        let arrived = peer.incoming.bytes.len() / 2;
        peer.incoming.bytes.truncate(arrived);
        peer.error = Some(io::ErrorKind::ConnectionReset);
    }

    fn new_link(&mut self, addresses: [SocketAddr; 2]) -> usize {
        let capacity = self.capacity;
        let end = || End { receiving: true, ..End::default() };
        self.links.push(Link { ends: [end(), end()], capacity, addresses });
        self.links.len() - 1
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(10_000);
            if !self.listeners.keys().any(|address| address.port() == port) {
                return port;
            }
        }
    }

    /// The listener that a connect to `to` meets.
    fn listener_for(&self, to: SocketAddr) -> Option<SocketAddr> {
        let port = to.port();
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let serves = |address: &SocketAddr| {
            *address == to
                || (*address == v4 && to.is_ipv4())
                || (*address == v6 && (to.is_ipv6() || self.listeners[address].options.dual_stack))
        };
        self.listeners.keys().find(|address| serves(address)).copied()
    }

    /// A connection to `to`: its client's end, if there is room in a queue; `None` where the
    /// answer has to wait.
    fn dial(&mut self, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<Option<EndId>> {
        if self.silent.contains(&to) {
            return Ok(None);
        }
        let Some(listener) = self.listener_for(to) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let queue = &self.listeners[&listener];
        if queue.queue.len() > queue.backlog {
            return Ok(None);
        }
        let local: IpAddr =
            if to.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let from = match from {
            Some(from) if from.port() != 0 => from,
            other => SocketAddr::new(other.map_or(local, |a| a.ip()), self.free_port()),
        };
        let link = self.new_link([from, to]);
        let queue = self.listeners.get_mut(&listener).map(|listener| &mut listener.queue);
        if let Some(queue) = queue {
            queue.push_back((link, 1));
        }
        Ok(Some((link, 0)))
    }
}

/// The test's hand on the network: its far ends, its names, its clock. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    net: Rc<RefCell<Net>>,
}

impl Network {
    fn new(seed: u64) -> Network {
        #[expect(clippy::disallowed_methods, reason = "virtual time needs a place to start from")]
        let started = Instant::now();
        let localhost = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        Network {
            net: Rc::new(RefCell::new(Net {
                started,
                elapsed: Duration::ZERO,
                random: seed,
                links: Vec::new(),
                listeners: BTreeMap::new(),
                next_port: 10_000,
                capacity: CAPACITY,
                cut: Cut::Whole,
                names: BTreeMap::from([("localhost".into(), (Duration::ZERO, Ok(localhost)))]),
                silent: BTreeSet::new(),
                unreachable: BTreeSet::new(),
                signals: VecDeque::new(),
                activity: 0,
            })),
        }
    }

    /// How streams are cut from now on.
    pub fn set_cut(&self, cut: Cut) {
        self.net.borrow_mut().cut = cut;
    }

    /// Bytes that fit on the way in one direction of connections made from now on.
    pub fn set_capacity(&self, bytes: usize) {
        self.net.borrow_mut().capacity = bytes.max(1);
    }

    /// What a name has for addresses, and how long the lookup takes.
    pub fn set_name(
        &self,
        name: &str,
        takes: Duration,
        addresses: Result<Vec<IpAddr>, io::ErrorKind>,
    ) {
        self.net.borrow_mut().names.insert(name.to_owned(), (takes, addresses));
    }

    /// Connects to this address are never answered.
    pub fn set_silent(&self, address: SocketAddr) {
        self.net.borrow_mut().silent.insert(address);
    }

    /// Connects to this host fail at once: there is no route.
    pub fn set_unreachable(&self, host: IpAddr) {
        self.net.borrow_mut().unreachable.insert(host);
    }

    /// The driver tells of this signal in its next turn.
    pub fn signal(&self, signal: Signal) {
        self.net.borrow_mut().signals.push_back(signal);
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.net.borrow().elapsed
    }

    /// Counts the turns in which the driver had something to do.
    pub(crate) fn activity(&self) -> u64 {
        self.net.borrow().activity
    }

    /// Moves the clock on, without a turn.
    pub fn advance(&self, by: Duration) {
        self.net.borrow_mut().elapsed += by;
    }

    /// Connects to a port of the loop; the test holds the far end.
    ///
    /// # Errors
    ///
    /// Refused where nothing listens, `WouldBlock` where the queue is full.
    pub fn connect(&self, to: SocketAddr) -> io::Result<Wire> {
        match self.net.borrow_mut().dial(to, None)? {
            Some(end) => Ok(Wire { network: self.clone(), end }),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Listens for the test; [`accept`](Self::accept) gives the far ends.
    ///
    /// # Errors
    ///
    /// `AddrInUse` where something listens.
    pub fn listen(&self, address: SocketAddr, backlog: u32) -> io::Result<SocketAddr> {
        self.open(address, &ListenOptions::default().backlog(backlog))
    }

    /// The next connection to a port of the test.
    pub fn accept(&self, port: SocketAddr) -> Option<Wire> {
        let end = self.net.borrow_mut().listeners.get_mut(&port)?.queue.pop_front()?;
        Some(Wire { network: self.clone(), end })
    }

    fn open(&self, address: SocketAddr, options: &ListenOptions) -> io::Result<SocketAddr> {
        let mut net = self.net.borrow_mut();
        let mut address = address;
        if address.port() == 0 {
            address.set_port(net.free_port());
        }
        if net.listeners.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let backlog = options.backlog as usize;
        let listener = Listener { queue: VecDeque::new(), backlog, options: options.clone() };
        net.listeners.insert(address, listener);
        Ok(address)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}

impl World for Network {
    fn now(&self) -> Instant {
        let net = self.net.borrow();
        net.started + net.elapsed
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000) + self.elapsed()
    }

    fn random(&self) -> u64 {
        self.net.borrow_mut().random()
    }

    fn bind(&self, address: SocketAddr, options: &ListenOptions) -> io::Result<Bound> {
        let address = self.open(address, options)?;
        Ok(Bound { host: address.into(), socket: Box::new(address) })
    }
}

/// The far end of a connection, held by a test: push bytes in, take bytes out, see what was asked.
///
/// Dropping it closes nothing.
pub struct Wire {
    network: Network,
    end: EndId,
}

impl Wire {
    fn net(&self) -> std::cell::RefMut<'_, Net> {
        self.network.net.borrow_mut()
    }

    /// Sends bytes; the number of those that fit on the way.
    ///
    /// # Panics
    ///
    /// When the connection is broken.
    pub fn push(&self, data: &[u8]) -> usize {
        self.try_push(data).expect("the connection is whole")
    }

    /// Sends bytes; the number of those that fit on the way.
    ///
    /// # Errors
    ///
    /// `ConnectionReset` when the connection is broken.
    pub fn try_push(&self, data: &[u8]) -> io::Result<usize> {
        self.net().send(self.end, data)
    }

    /// Takes all bytes that have come.
    pub fn take(&self) -> Vec<u8> {
        self.take_most(usize::MAX)
    }

    /// Takes at most `n` of the bytes that have come.
    pub fn take_most(&self, n: usize) -> Vec<u8> {
        let mut net = self.net();
        let bytes = &mut net.end(self.end).incoming.bytes;
        let n = n.min(bytes.len());
        bytes.drain(..n).collect()
    }

    /// Bytes that have come and were not taken.
    pub fn waiting(&self) -> usize {
        self.net().end(self.end).incoming.bytes.len()
    }

    /// Bytes that were pushed and that the connection has not received.
    pub fn unreceived(&self) -> usize {
        self.net().peer(self.end).incoming.bytes.len()
    }

    /// Sends the end of the stream; bytes can still be taken.
    pub fn fin(&self) {
        self.net().shut(self.end);
    }

    /// Closes as `close(2)` does: a reset where something was not taken.
    pub fn close(&self) {
        self.net().close(self.end, How::Normal);
    }

    /// Closes with a reset.
    pub fn reset(&self) {
        self.net().close(self.end, How::Reset);
    }

    /// The other end's FIN has come, and everything before it was taken.
    pub fn saw_fin(&self) -> bool {
        let mut net = self.net();
        let end = net.end(self.end);
        end.incoming.fin && end.incoming.bytes.is_empty() && end.error.is_none()
    }

    /// The connection was reset by the other end.
    pub fn saw_reset(&self) -> bool {
        self.net().end(self.end).error.is_some()
    }

    /// The other end takes bytes: its reading is not paused.
    pub fn is_receiving(&self) -> bool {
        self.net().peer(self.end).receiving
    }

    /// The other end has closed its socket.
    pub fn is_closed(&self) -> bool {
        self.net().peer(self.end).closed
    }

    /// Options that were set on the other end.
    pub fn options(&self) -> Vec<SocketOption> {
        self.net().peer(self.end).options.clone()
    }

    /// The address of this end.
    pub fn address(&self) -> SocketAddr {
        self.net().links[self.end.0].addresses[self.end.1]
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// The driver. See the [module](self).
pub struct Memory {
    network: Network,
    manner: Manner,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// What is to be told in this turn.
    events: VecDeque<Told>,
    lent: Vec<u8>,
    woken: Arc<Flag>,
    lookups: Vec<(Duration, Ticket, Result<Vec<IpAddr>, io::ErrorKind>)>,
}

/// An event that is found when its turn comes, since a close or a pause may come before.
enum Told {
    Accept(Key),
    Connect(Key),
    Read(Key),
    Sent(Key, usize),
    Resolved(Ticket, Result<Vec<IpAddr>, io::ErrorKind>),
    Signal(Signal),
}

struct Slot {
    generation: u32,
    kind: Kind,
}

enum Kind {
    Free,
    /// Closed; its operations come home after so many turns.
    Resting(u32),
    Port {
        address: SocketAddr,
        accepting: bool,
    },
    Connecting {
        to: SocketAddr,
        from: Option<SocketAddr>,
        outcome: Option<io::Result<EndId>>,
    },
    Stream(Stream),
}

struct Stream {
    end: EndId,
    receiving: bool,
    ended: bool,
    blocked: bool,
    /// Completion: received bytes that are in flight, and the turns until they are home.
    received: Option<(Vec<u8>, u32)>,
    /// Completion: what was taken of the outbox.
    taken: VecDeque<u8>,
    write_error: Option<io::ErrorKind>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Memory {
    /// A driver and the hand on its network. The same seed makes the same choices.
    pub fn new(manner: Manner, seed: u64) -> (Memory, Network) {
        let network = Network::new(seed);
        let driver = Memory {
            network: network.clone(),
            manner,
            slots: Vec::new(),
            free: Vec::new(),
            events: VecDeque::new(),
            lent: Vec::new(),
            woken: Arc::new(Flag(AtomicBool::new(false))),
            lookups: Vec::new(),
        };
        (driver, network)
    }

    fn insert(&mut self, kind: Kind) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, kind: Kind::Free });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.kind = kind;
        Key { slot, generation: entry.generation }
    }

    /// What a key names, for a command: a key that was closed fails the test.
    fn commanded(&mut self, key: Key) -> &mut Kind {
        let slot = &mut self.slots[key.slot as usize];
        assert!(
            slot.generation == key.generation,
            "a key was used after its close: {key:?}, the slot is at {}",
            slot.generation
        );
        &mut slot.kind
    }

    fn stream(&mut self, key: Key) -> &mut Stream {
        match self.commanded(key) {
            Kind::Stream(stream) => stream,
            _ => panic!("{key:?} is not a connection"),
        }
    }

    /// What a key names, for an event: one that was closed has no more.
    fn live(&mut self, key: Key) -> Option<&mut Kind> {
        let slot = &mut self.slots[key.slot as usize];
        (slot.generation == key.generation).then_some(&mut slot.kind)
    }

    /// Looks at every slot and notes what there is to tell.
    fn look(&mut self) {
        for index in 0..self.slots.len() {
            let key = Key { slot: index as u32, generation: self.slots[index].generation };
            let network = self.network.clone();
            let mut net = network.net.borrow_mut();
            match &mut self.slots[index].kind {
                Kind::Free => {}
                Kind::Resting(turns) => {
                    *turns = turns.saturating_sub(1);
                    if *turns == 0 {
                        self.slots[index].kind = Kind::Free;
                        self.free.push(index as u32);
                    }
                }
                Kind::Port { address, accepting } => {
                    let waiting = net.listeners.get(address).is_some_and(|l| !l.queue.is_empty());
                    if *accepting && waiting {
                        self.events.push_back(Told::Accept(key));
                    }
                }
                Kind::Connecting { to, from, outcome } => {
                    if outcome.is_none() {
                        *outcome = net.dial(*to, *from).transpose();
                    }
                    if outcome.is_some() {
                        self.events.push_back(Told::Connect(key));
                    }
                }
                Kind::Stream(stream) => {
                    if let Some(n) = stream.send_some(&mut net, self.manner) {
                        self.events.push_back(Told::Sent(key, n));
                    }
                    if stream.is_readable(&mut net, self.manner) {
                        self.events.push_back(Told::Read(key));
                    }
                }
            }
        }
        let mut net = self.network.net.borrow_mut();
        self.events.extend(net.signals.drain(..).map(Told::Signal));
        let now = net.elapsed;
        for (_, ticket, answer) in self.lookups.extract_if(.., |(at, _, _)| *at <= now) {
            self.events.push_back(Told::Resolved(ticket, answer));
        }
    }

    /// Operations that need no help from outside to come home.
    fn is_at_work(&self) -> bool {
        self.slots.iter().any(|slot| match &slot.kind {
            Kind::Resting(_) => true,
            Kind::Stream(stream) => stream.receiving && stream.received.is_some(),
            _ => false,
        })
    }

    fn accept(&mut self, port: Key) -> Option<Event<'static>> {
        let Some(Kind::Port { address, accepting: true }) = self.live(port) else {
            return None;
        };
        let address = *address;
        let network = self.network.clone();
        let mut net = network.net.borrow_mut();
        let listener = net.listeners.get_mut(&address)?;
        let end = listener.queue.pop_front()?;
        if !listener.queue.is_empty() {
            self.events.push_front(Told::Accept(port));
        }
        let [peer, host] = net.links[end.0].addresses;
        let key = self.insert(Kind::Stream(Stream::new(end)));
        Some(Event::Accepted { port, key, peer: peer.into(), host: host.into() })
    }

    fn connected(&mut self, key: Key) -> Option<Event<'static>> {
        let network = self.network.clone();
        let Some(Kind::Connecting { outcome, .. }) = self.live(key) else {
            return None;
        };
        match outcome.take()? {
            Ok(end) => {
                let host = network.net.borrow().links[end.0].addresses[0];
                self.slots[key.slot as usize].kind = Kind::Stream(Stream::new(end));
                Some(Event::Connected { key, host: host.into() })
            }
            Err(error) => Some(Event::Ended(key, Some(error))),
        }
    }

    /// What is to be read of a connection: bytes into `lent`, or an end.
    fn read(&mut self, key: Key) -> Option<Result<(), Option<io::Error>>> {
        let network = self.network.clone();
        let manner = self.manner;
        let Some(Kind::Stream(stream)) = self.live(key) else {
            return None;
        };
        let mut net = network.net.borrow_mut();
        if let Some((bytes, 0)) = stream.received.take_if(|(_, turns)| *turns == 0) {
            let empty = bytes.is_empty();
            if !stream.receiving {
                // The operation came home over a pause: held, and first on resume.
                stream.received = Some((bytes, 0));
            } else if empty {
                return stream.end_of_stream(&mut net).map(Err);
            } else {
                self.lent = bytes;
                return Some(Ok(()));
            }
        }
        if !stream.receiving || stream.ended {
            let error = stream.write_error.take().or(net.end(stream.end).error)?;
            stream.ended = true;
            net.end(stream.end).error = None;
            return Some(Err(Some(error.into())));
        }
        if manner == Manner::Completion {
            // It came home in `is_readable`, or has not yet.
            return None;
        }
        let bytes = stream.receive(&mut net);
        if bytes.is_empty() {
            return stream.end_of_stream(&mut net).map(Err);
        }
        let end = net.end(stream.end);
        if end.incoming.bytes.is_empty() && (end.incoming.fin || end.error.is_some()) {
            self.events.push_front(Told::Read(key));
        }
        self.lent = bytes;
        Some(Ok(()))
    }
}

impl Stream {
    fn new(end: EndId) -> Stream {
        Stream {
            end,
            receiving: true,
            ended: false,
            blocked: false,
            received: None,
            taken: VecDeque::new(),
            write_error: None,
        }
    }

    /// Something for `Memory::read` to tell. In the completion manner this starts the operation
    /// that receives, and lets time pass for it.
    fn is_readable(&mut self, net: &mut Net, manner: Manner) -> bool {
        let end = net.end(self.end);
        let broken = end.error.is_some() || self.write_error.is_some();
        if self.ended || !self.receiving {
            if let Some((_, turns)) = &mut self.received {
                *turns = turns.saturating_sub(1);
            }
            return broken;
        }
        let something = broken || !end.incoming.bytes.is_empty() || end.incoming.fin;
        if manner == Manner::Readiness {
            return something;
        }
        match &mut self.received {
            Some((_, turns)) => {
                *turns = turns.saturating_sub(1);
                *turns == 0
            }
            None if something => {
                let bytes = self.receive(net);
                let turns = net.below(3) as u32;
                self.received = Some((bytes, turns));
                turns == 0
            }
            None => false,
        }
    }

    fn receive(&mut self, net: &mut Net) -> Vec<u8> {
        let most = match net.cut {
            Cut::Whole => READ_BUFFER,
            Cut::Most(n) => n.max(1),
            Cut::Random(n) => 1 + net.below(n),
        };
        let bytes = &mut net.end(self.end).incoming.bytes;
        let n = most.min(bytes.len()).min(READ_BUFFER);
        bytes.drain(..n).collect()
    }

    /// After the last byte: the error or the FIN, whichever stands there.
    fn end_of_stream(&mut self, net: &mut Net) -> Option<Option<io::Error>> {
        let end = net.end(self.end);
        let error = self.write_error.take().or(end.error.take());
        if error.is_none() && !end.incoming.fin {
            return None;
        }
        self.ended = true;
        Some(error.map(io::Error::from))
    }

    /// Lets bytes leave; how many did, or 0 when there is room again.
    fn send_some(&mut self, net: &mut Net, manner: Manner) -> Option<usize> {
        if manner == Manner::Readiness {
            let ready = self.blocked && (net.room(self.end) > 0 || net.peer(self.end).closed);
            return ready.then(|| {
                self.blocked = false;
                0
            });
        }
        if self.taken.is_empty() || self.write_error.is_some() {
            return None;
        }
        let portion = 1 + net.below(self.taken.len());
        let bytes: Vec<u8> = self.taken.iter().take(portion).copied().collect();
        match net.send(self.end, &bytes) {
            Ok(0) => None,
            Ok(n) => {
                self.taken.drain(..n);
                Some(n)
            }
            Err(error) => {
                self.write_error = Some(error.kind());
                None
            }
        }
    }

    /// Sends at once what fits of the outbox.
    fn write_ready(&mut self, net: &mut Net, out: &mut Outbox) -> Sent {
        while !out.is_empty() && !self.blocked {
            match net.send(self.end, out.first()) {
                Ok(n) => {
                    self.blocked = n < out.first().len();
                    out.advance(n);
                }
                Err(error) => {
                    self.write_error = Some(error.kind());
                    return Sent::Blocked;
                }
            }
        }
        if out.is_empty() { Sent::All } else { Sent::Blocked }
    }

    /// Takes the outbox into the driver's keeping, one operation at a time.
    fn take(&mut self, out: &mut Outbox) -> Sent {
        if !self.taken.is_empty() {
            return Sent::Blocked;
        }
        while self.taken.len() < TAKE {
            let Some((piece, gone)) = out.take_piece() else {
                break;
            };
            self.taken.extend(&piece.as_slice()[gone..]);
            if let Piece::Copied(buffer) = piece {
                out.spares().give(buffer);
            }
        }
        Sent::Taken(self.taken.len())
    }
}

impl Driver for Memory {
    fn world(&self) -> Rc<dyn World> {
        Rc::new(self.network.clone())
    }

    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.look();
        let now = self.network.now();
        let woken = self.woken.0.swap(false, Ordering::AcqRel);
        if !self.events.is_empty() || woken || self.is_at_work() {
            self.network.net.borrow_mut().activity += 1;
            return Ok(());
        }
        let lookup = self.lookups.iter().map(|(at, ..)| *at).min();
        // A lookup that never ends is nothing to wait for.
        let started = self.network.net.borrow().started;
        let lookup = lookup.and_then(|at| started.checked_add(at));
        let next = match (until, lookup) {
            (Some(a), Some(b)) => a.min(b),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "nothing can ever happen: no bytes, no timers and no tasks are on their way",
                ));
            }
        };
        self.network.advance(next.saturating_duration_since(now));
        self.look();
        Ok(())
    }

    fn next(&mut self) -> Option<Event<'_>> {
        self.lent.fill(0xdd);
        loop {
            match self.events.pop_front()? {
                Told::Accept(port) => {
                    if let Some(event) = self.accept(port) {
                        return Some(event);
                    }
                }
                Told::Connect(key) => {
                    if let Some(event) = self.connected(key) {
                        return Some(event);
                    }
                }
                Told::Sent(key, n) => {
                    if self.live(key).is_some() {
                        return Some(Event::Sent(key, n));
                    }
                }
                Told::Read(key) => match self.read(key) {
                    None => {}
                    Some(Ok(())) => return Some(Event::Received(key, &self.lent)),
                    Some(Err(error)) => return Some(Event::Ended(key, error)),
                },
                Told::Resolved(ticket, answer) => {
                    return Some(Event::Resolved(ticket, answer.map_err(io::Error::from)));
                }
                Told::Signal(signal) => return Some(Event::Signal(signal)),
            }
        }
    }

    fn write(&mut self, key: Key, out: &mut Outbox) -> Sent {
        let network = self.network.clone();
        let manner = self.manner;
        let stream = self.stream(key);
        if stream.write_error.is_some() {
            return Sent::Blocked;
        }
        match manner {
            Manner::Readiness => stream.write_ready(&mut network.net.borrow_mut(), out),
            Manner::Completion => stream.take(out),
        }
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        let address = bound.socket.downcast::<SocketAddr>().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "a port of another driver's world")
        })?;
        Ok(self.insert(Kind::Port { address: *address, accepting: true }))
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        let Address::Tcp(to) = to;
        if self.network.net.borrow().unreachable.contains(&to.ip()) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        Ok(self.insert(Kind::Connecting { to: *to, from: options.bind, outcome: None }))
    }

    fn receive(&mut self, key: Key, on: bool) {
        let network = self.network.clone();
        match self.commanded(key) {
            Kind::Port { accepting, .. } => *accepting = on,
            Kind::Stream(stream) => {
                stream.receiving = on;
                network.net.borrow_mut().end(stream.end).receiving = on;
            }
            _ => panic!("{key:?} can't receive"),
        }
    }

    fn shut_write(&mut self, key: Key) {
        let network = self.network.clone();
        let stream = self.stream(key);
        assert!(stream.taken.is_empty(), "shut while taken bytes have not left");
        network.net.borrow_mut().shut(stream.end);
    }

    fn close(&mut self, key: Key, how: How) {
        let network = self.network.clone();
        let completion = self.manner == Manner::Completion;
        self.commanded(key);
        let slot = &mut self.slots[key.slot as usize];
        slot.generation += 1;
        let kind = std::mem::replace(&mut slot.kind, Kind::Free);
        let mut net = network.net.borrow_mut();
        // One more than the turns that `look` counts, so that a slot is never used in its turn.
        let turns = 1 + if completion { net.below(3) as u32 } else { 0 };
        slot.kind = Kind::Resting(turns);
        match kind {
            Kind::Port { address, .. } => {
                let waiting = net.listeners.remove(&address).map(|listener| listener.queue);
                for end in waiting.into_iter().flatten() {
                    net.close(end, How::Reset);
                }
            }
            Kind::Stream(stream) => net.close(stream.end, how),
            Kind::Connecting { outcome: Some(Ok(end)), .. } => net.close(end, how),
            Kind::Connecting { .. } | Kind::Free | Kind::Resting(_) => {}
        }
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        let slot = &self.slots[key.slot as usize];
        assert!(slot.generation == key.generation, "a key was used after its close: {key:?}");
        match &slot.kind {
            Kind::Stream(stream) => {
                Some(self.network.net.borrow_mut().peer(stream.end).incoming.bytes.len())
            }
            _ => None,
        }
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        let network = self.network.clone();
        let stream = self.stream(key);
        network.net.borrow_mut().end(stream.end).options.push(option);
        Ok(())
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        let net = self.network.net.borrow();
        let (takes, answer) =
            net.names.get(name).cloned().unwrap_or((Duration::ZERO, Err(io::ErrorKind::NotFound)));
        self.lookups.push((net.elapsed.saturating_add(takes), ticket, answer));
    }

    fn forget(&mut self, ticket: Ticket) {
        self.lookups.retain(|(_, waiting, _)| *waiting != ticket);
        self.events.retain(|told| !matches!(told, Told::Resolved(t, _) if *t == ticket));
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
