//! The in-memory network: streams, listeners, names and the clock; and [`Wire`], a far end held by
//! a test.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::datagrams::Sockets;
use crate::address::ascii_host;
use crate::address::{Address, UnixAddress};
use crate::driver::file_locks::FileLocks;
use crate::driver::{
    Bound, CloseMode, DatagramOptions, Key, ListenOptions, Signal, SocketOption, World,
};
use crate::sorted::SortedMap;

/// Maximum bytes in flight in one direction, unless set.
const CAPACITY: usize = 64 * 1024;
const FIRST_FOR_TESTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// How the network cuts a stream into the pieces that are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// Everything that has arrived, up to the read buffer.
    Whole,
    /// Pieces of at most this many bytes.
    Most(usize),
    /// Pieces of random length, at most this many bytes.
    Random(usize),
}

pub(super) type EndId = (usize, usize);

/// A stream of bytes in one direction.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) bytes: VecDeque<u8>,
    pub(super) fin: bool,
}

/// One end of a connection in memory.
#[derive(Default)]
pub(super) struct End {
    pub(super) incoming: Pipe,
    pub(super) error: Option<io::ErrorKind>,
    holder: Holder,
    pub(super) options: Vec<SocketOption>,
}

/// The state of an end's holder; tests check it from the other end.
#[derive(Default, PartialEq, Eq)]
enum Holder {
    #[default]
    Reading,
    Paused,
    Closed,
}

impl End {
    pub(super) fn is_closed(&self) -> bool {
        self.holder == Holder::Closed
    }

    /// The holder of this end pauses or resumes reading.
    pub(super) fn receive(&mut self, on: bool) {
        self.holder = if on { Holder::Reading } else { Holder::Paused };
    }
}

pub(super) struct Link {
    pub(super) ends: [End; 2],
    pub(super) capacity: usize,
    pub(super) addresses: [Address; 2],
    /// The number of [`Wire`]s, which may be inspected after both ends are closed.
    wires: usize,
}

pub(super) struct Listener {
    // At most the backlog of the port and one, as on Linux.
    pub(super) queue: VecDeque<EndId>,
    pub(super) options: ListenOptions,
}

/// Why a wait failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standstill {
    /// No event can ever occur.
    Stalled,
    /// The next event is beyond the clock's limit.
    TooLong,
    /// Every turn has work, and the clock never advances.
    BusyLoop,
}

/// A connect that the test completes or fails.
pub(super) struct HeldConnect {
    to: Address,
    from: Option<SocketAddr>,
    answer: Option<io::Result<EndId>>,
}

/// The network, the names and the clock.
pub(super) struct Net {
    pub(super) started: Instant,
    pub(super) elapsed: Duration,
    pub(super) random: u64,
    pub(super) links: SortedMap<usize, Link>,
    next_link: usize,
    pub(super) listeners: SortedMap<Address, Listener>,
    pub(super) next_port: u16,
    pub(super) datagrams: Sockets,
    pub(super) capacity: usize,
    pub(super) cut: Cut,
    pub(super) names: SortedMap<String, (Duration, Result<Vec<IpAddr>, io::ErrorKind>)>,
    pub(super) silent: Vec<Address>,
    pub(super) unreachable: Vec<IpAddr>,
    pub(super) signals: VecDeque<Signal>,
    files: FileLocks,
    /// Connects that the test completes or fails; `None` if the network answers automatically.
    pub(super) held: Option<SortedMap<Key, HeldConnect>>,
    /// The longest time that the clock may run.
    pub(super) longest: Duration,
    /// The maximum number of waits without the clock advancing, and the current count.
    most_waits: usize,
    waits: usize,
    /// The reason for the failure of the last wait, if it failed.
    pub(super) standstill: Option<Standstill>,
    /// The number of turns with work.
    pub(super) activity: u64,
    /// Slots in use in the driver.
    pub(super) slots_in_use: usize,
}

impl Net {
    pub(super) fn random(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Counts a wait. Fails after too many waits without the clock advancing.
    pub(super) fn count_wait(&mut self) -> io::Result<()> {
        self.waits += 1;
        if self.waits > self.most_waits {
            return Err(self.fail_wait(Standstill::BusyLoop));
        }
        Ok(())
    }

    /// Records why a wait fails, and returns the error.
    pub(super) fn fail_wait(&mut self, why: Standstill) -> io::Error {
        self.standstill = Some(why);
        match why {
            Standstill::Stalled => io::Error::new(
                io::ErrorKind::WouldBlock,
                "nothing can ever happen: no bytes, no timers and no tasks are pending",
            ),
            Standstill::TooLong => io::Error::new(
                io::ErrorKind::TimedOut,
                "the next event lies beyond the time limit of this run",
            ),
            Standstill::BusyLoop => io::Error::new(
                io::ErrorKind::TimedOut,
                "every turn has work, and the clock never advances",
            ),
        }
    }

    pub(super) fn random_below(&mut self, n: usize) -> usize {
        (self.random() % n.max(1) as u64) as usize
    }

    fn link(&mut self, link: usize) -> &mut Link {
        self.links.get_mut(&link).expect("an end is open, or has a wire")
    }

    pub(super) fn end(&mut self, (link, side): EndId) -> &mut End {
        &mut self.link(link).ends[side]
    }

    pub(super) fn peer(&mut self, (link, side): EndId) -> &mut End {
        &mut self.link(link).ends[1 - side]
    }

    pub(super) fn room(&mut self, end: EndId) -> usize {
        let capacity = self.links[&end.0].capacity;
        capacity.saturating_sub(self.peer(end).incoming.bytes.len())
    }

    /// Sends as many bytes as fit, and returns their number.
    pub(super) fn send(&mut self, end: EndId, data: &[u8]) -> io::Result<usize> {
        if let Some(kind) = self.end(end).error {
            return Err(kind.into());
        }
        if self.peer(end).is_closed() {
            // The peer's system answers with a reset, but this write still succeeds.
            self.end(end).error = Some(io::ErrorKind::ConnectionReset);
            return Ok(data.len());
        }
        let n = data.len().min(self.room(end));
        self.peer(end).incoming.bytes.extend(&data[..n]);
        Ok(n)
    }

    pub(super) fn shut(&mut self, end: EndId) {
        self.peer(end).incoming.fin = true;
    }

    pub(super) fn close(&mut self, end: EndId, mode: CloseMode) {
        let this = self.end(end);
        if this.is_closed() {
            return;
        }
        this.holder = Holder::Closed;
        let unread = !this.incoming.bytes.is_empty();
        // UNIX sockets have no other reset.
        if unread || (mode == CloseMode::Reset && !self.is_unix(end)) {
            self.reset(end);
        } else if self.end(end).error.is_none() {
            self.shut(end);
        }
        self.drop_unobserved(end.0);
    }

    /// Drops a link that can no longer be observed.
    fn drop_unobserved(&mut self, link: usize) {
        let this = self.link(link);
        if this.wires == 0 && this.ends.iter().all(End::is_closed) {
            self.links.remove(&link);
        }
    }

    pub(super) fn is_unix(&self, (link, _): EndId) -> bool {
        self.links[&link].addresses[1].unix().is_some()
    }

    /// Resets the peer. Half of its unread bytes count as arrived and stay readable; the half in
    /// flight is destroyed. Between UNIX sockets no bytes are in flight.
    pub(super) fn reset(&mut self, end: EndId) {
        let is_unix = self.is_unix(end);
        let peer = self.peer(end);
        if peer.is_closed() {
            return;
        }
        if !is_unix {
            let arrived = peer.incoming.bytes.len() / 2;
            peer.incoming.bytes.truncate(arrived);
        }
        peer.error = Some(io::ErrorKind::ConnectionReset);
    }

    pub(super) fn new_link(&mut self, addresses: [Address; 2]) -> usize {
        let capacity = self.capacity;
        let link = Link { ends: Default::default(), capacity, addresses, wires: 0 };
        self.next_link += 1;
        self.links.insert(self.next_link, link);
        self.next_link
    }

    fn link_to(&mut self, to: Address, from: Option<SocketAddr>) -> usize {
        let local: IpAddr = match to.ip() {
            None => return self.new_link([UnixAddress::Unnamed.into(), to]),
            Some(IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            Some(IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
        };
        let from = match from {
            Some(from) if from.port() != 0 => from,
            other => SocketAddr::new(other.map_or(local, |a| a.ip()), self.free_port()),
        };
        self.new_link([from.into(), to])
    }

    /// Begins a connect. While connects are held, it waits for the test.
    pub(super) fn begin_connect(&mut self, key: Key, to: Address, from: Option<SocketAddr>) {
        if let Some(held) = &mut self.held {
            held.insert(key, HeldConnect { to, from, answer: None });
        }
    }

    /// The outcome of a connect, once known.
    pub(super) fn take_outcome(
        &mut self,
        key: Key,
        to: &Address,
        from: Option<SocketAddr>,
    ) -> Option<io::Result<EndId>> {
        let Some(held) = &mut self.held else { return self.dial(to, from).transpose() };
        held.get(&key)?.answer.as_ref()?;
        held.remove(&key)?.answer
    }

    /// Abandons a connect.
    pub(super) fn end_connect(&mut self, key: Key) {
        let connect = self.held.as_mut().and_then(|held| held.remove(&key));
        if let Some(Ok(end)) = connect.and_then(|connect| connect.answer) {
            self.close(end, CloseMode::Reset);
        }
    }

    /// The addresses of a name, and the duration of the lookup. While connects are held, every name
    /// resolves, each to its own address in the range that RFC 2544 reserves for tests.
    pub(super) fn look_up(&mut self, name: &str) -> (Duration, Result<Vec<IpAddr>, io::ErrorKind>) {
        if self.held.is_some() && !self.names.contains_key(name) {
            let address = Ipv4Addr::from_bits(FIRST_FOR_TESTS.to_bits() + self.names.len() as u32);
            self.names.insert(name.to_owned(), (Duration::ZERO, Ok(vec![address.into()])));
        }
        let unknown = (Duration::ZERO, Err(io::ErrorKind::NotFound));
        self.names.get(name).cloned().unwrap_or(unknown)
    }

    pub(super) fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(10_000);
            let is_taken = self.listeners.keys().any(|address| address.port() == Some(port));
            if !is_taken && !self.datagrams.has_port(port) {
                return port;
            }
        }
    }

    /// The listener that a connect to `to` reaches.
    pub(super) fn listener_for(&self, to: &Address) -> Option<Address> {
        let serves = |address: &Address| match (address.socket_addr(), to.socket_addr()) {
            _ if address == to => true,
            (Some(at), Some(to)) if at.ip().is_unspecified() && at.port() == to.port() => {
                at.is_ipv4() == to.is_ipv4()
                    || (at.is_ipv6() && self.listeners[address].options.is_dual_stack())
            }
            _ => false,
        };
        self.listeners.keys().find(|address| serves(address)).cloned()
    }

    /// Connects to `to`, and returns the client's end if the listener's queue has space. `None` if
    /// the answer must wait.
    pub(super) fn dial(
        &mut self,
        to: &Address,
        from: Option<SocketAddr>,
    ) -> io::Result<Option<EndId>> {
        if self.silent.contains(to) {
            return Ok(None);
        }
        let Some(listener) = self.listener_for(to) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let queue = &self.listeners[&listener];
        if queue.queue.len() > queue.options.backlog as usize {
            return Ok(None);
        }
        let link = self.link_to(to.clone(), from);
        let queue = self.listeners.get_mut(&listener).map(|listener| &mut listener.queue);
        if let Some(queue) = queue {
            queue.push_back((link, 1));
        }
        Ok(Some((link, 0)))
    }
}

/// The test's handle to the network: its far ends, names and clock. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    pub(super) net: Rc<RefCell<Net>>,
}

impl Network {
    pub(super) fn new(seed: u64) -> Network {
        #[expect(clippy::disallowed_methods, reason = "virtual time needs a starting point")]
        let started = Instant::now();
        let localhost = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        Network {
            net: Rc::new(RefCell::new(Net {
                started,
                elapsed: Duration::ZERO,
                random: seed,
                links: SortedMap::new(),
                next_link: 0,
                listeners: SortedMap::new(),
                next_port: 10_000,
                datagrams: Sockets::default(),
                capacity: CAPACITY,
                cut: Cut::Whole,
                names: SortedMap::from_iter([(
                    "localhost".into(),
                    (Duration::ZERO, Ok(localhost)),
                )]),
                silent: Vec::new(),
                unreachable: Vec::new(),
                signals: VecDeque::new(),
                files: FileLocks::default(),
                held: None,
                longest: Duration::MAX,
                most_waits: usize::MAX,
                waits: 0,
                standstill: None,
                activity: 0,
                slots_in_use: 0,
            })),
        }
    }

    /// Sets how streams are cut from now on.
    pub fn set_cut(&self, cut: Cut) {
        self.net.borrow_mut().cut = cut;
    }

    /// Sets the maximum bytes in flight in one direction, for connections made from now on.
    pub fn set_capacity(&self, bytes: usize) {
        self.net.borrow_mut().capacity = bytes.max(1);
    }

    /// Sets the addresses of a name, and the duration of its lookup.
    pub fn set_name(
        &self,
        name: &str,
        takes: Duration,
        addresses: Result<Vec<IpAddr>, io::ErrorKind>,
    ) {
        let name = ascii_host(name).unwrap_or(name.into()).into_owned();
        self.net.borrow_mut().names.insert(name, (takes, addresses));
    }

    /// Makes connects to this address hang: they are never answered.
    pub fn set_silent(&self, address: impl Into<Address>) {
        self.net.borrow_mut().silent.push(address.into());
    }

    /// Makes connects to this host fail immediately, as without a route.
    pub fn set_unreachable(&self, host: IpAddr) {
        self.net.borrow_mut().unreachable.push(host);
    }

    /// Makes the driver report this signal in its next turn.
    pub fn signal(&self, signal: Signal) {
        self.net.borrow_mut().signals.push_back(signal);
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.net.borrow().elapsed
    }

    /// The number of ports, connections and connect attempts that the driver holds, including
    /// closed ones whose operations have not completed. 0 once everything has ended.
    pub fn slots_in_use(&self) -> usize {
        self.net.borrow().slots_in_use
    }

    /// The number of turns in which the driver had work.
    pub(crate) fn activity(&self) -> u64 {
        self.net.borrow().activity
    }

    /// Advances the clock, without a turn.
    pub fn advance(&self, by: Duration) {
        let mut net = self.net.borrow_mut();
        net.elapsed += by;
        if !by.is_zero() {
            net.waits = 0;
        }
    }

    /// Connects to a port of the loop, and returns the far end.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` without a listener, `WouldBlock` if the listener's queue is full.
    pub fn connect(&self, to: impl Into<Address>) -> io::Result<Wire> {
        let end = self.net.borrow_mut().dial(&to.into(), None)?;
        match end {
            Some(end) => Ok(self.wire(end)),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Listens on behalf of the test; [`accept`](Self::accept) returns the far ends.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if the address already has a listener.
    pub fn listen(&self, address: impl Into<Address>, backlog: u32) -> io::Result<Address> {
        self.open(address.into(), &ListenOptions::default().backlog(backlog))
    }

    /// Accepts the next connection on a port of the test.
    pub fn accept(&self, port: impl Into<Address>) -> Option<Wire> {
        let end = self.net.borrow_mut().listeners.get_mut(&port.into())?.queue.pop_front()?;
        Some(self.wire(end))
    }

    fn wire(&self, end: EndId) -> Wire {
        self.net.borrow_mut().link(end.0).wires += 1;
        Wire { network: self.clone(), end }
    }

    /// Makes a wait fail when the clock would run past `longest`, or after more than `most_waits`
    /// waits without the clock advancing.
    pub(crate) fn set_limits(&self, longest: Duration, most_waits: usize) {
        let mut net = self.net.borrow_mut();
        (net.longest, net.most_waits, net.waits) = (longest, most_waits, 0);
    }

    /// The reason for the failure of the last wait, if it failed.
    pub(crate) fn take_standstill(&self) -> Option<Standstill> {
        self.net.borrow_mut().standstill.take()
    }

    /// From now on, connects of the loop wait for the test, and every name resolves.
    pub(crate) fn hold_connects(&self) {
        self.net.borrow_mut().held.get_or_insert_default();
    }

    /// Whether a connect waits for [`complete`](Self::complete) or [`fail`](Self::fail).
    pub(crate) fn is_held(&self, key: Key) -> bool {
        let net = self.net.borrow();
        let connect = net.held.as_ref().and_then(|held| held.get(&key));
        connect.is_some_and(|connect| connect.answer.is_none())
    }

    /// Completes a held connect, and returns the far end.
    pub(crate) fn complete(&self, key: Key) -> Option<Wire> {
        if !self.is_held(key) {
            return None;
        }
        let mut net = self.net.borrow_mut();
        let connect = net.held.as_ref()?.get(&key)?;
        let (to, from) = (connect.to.clone(), connect.from);
        let link = net.link_to(to, from);
        net.held.as_mut()?.get_mut(&key)?.answer = Some(Ok((link, 0)));
        drop(net);
        Some(self.wire((link, 1)))
    }

    /// Fails a held connect. False if it is no longer held.
    pub(crate) fn fail(&self, key: Key, error: io::Error) -> bool {
        if !self.is_held(key) {
            return false;
        }
        let mut net = self.net.borrow_mut();
        let connect = net.held.as_mut().and_then(|held| held.get_mut(&key));
        connect.is_some_and(|connect| {
            connect.answer = Some(Err(error));
            true
        })
    }

    fn open(&self, address: Address, options: &ListenOptions) -> io::Result<Address> {
        let mut net = self.net.borrow_mut();
        let address = match address {
            Address::Tcp(mut address) | Address::Udp(mut address) if address.port() == 0 => {
                address.set_port(net.free_port());
                Address::Tcp(address)
            }
            Address::Unix(UnixAddress::Unnamed) | Address::Pipe(_) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            address => address,
        };
        if net.listeners.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = Listener { queue: VecDeque::new(), options: options.clone() };
        net.listeners.insert(address.clone(), listener);
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

    fn bind(&self, address: &Address, options: &ListenOptions) -> io::Result<Bound> {
        let address = self.open(address.clone(), options)?;
        let opened = BoundListener { network: self.clone(), address: address.clone() };
        Ok(Bound::new(address, opened))
    }

    fn bind_datagrams(&self, address: &Address, options: &DatagramOptions) -> io::Result<Bound> {
        self.open_datagrams(address, options)
    }

    fn lock_file(&self, path: &Path) -> io::Result<Option<Box<dyn Any>>> {
        Ok(self.net.borrow().files.lock(path))
    }
}

/// A port of the loop, served or not. Dropping it closes the port, and resets the connections in
/// its queue.
pub(super) struct BoundListener {
    network: Network,
    pub(super) address: Address,
}

impl Drop for BoundListener {
    fn drop(&mut self) {
        // Borrowed only while the driver unwinds from a failed assertion.
        let Ok(mut net) = self.network.net.try_borrow_mut() else { return };
        let listener = net.listeners.remove(&self.address);
        for end in listener.into_iter().flat_map(|listener| listener.queue) {
            net.close(end, CloseMode::Reset);
        }
    }
}

/// The far end of a connection, held by a test: push bytes in, take bytes out, and check the state
/// of the loop's end.
///
/// Dropping it closes nothing.
pub struct Wire {
    network: Network,
    end: EndId,
}

/// Takes the first `most` bytes. A buffer that has become empty is freed.
pub(super) fn split(bytes: &mut VecDeque<u8>, most: usize) -> Vec<u8> {
    if most < bytes.len() { bytes.drain(..most).collect() } else { mem::take(bytes).into() }
}

impl Wire {
    fn net(&self) -> std::cell::RefMut<'_, Net> {
        self.network.net.borrow_mut()
    }

    /// Sends as many bytes as fit, and returns their number.
    ///
    /// # Panics
    ///
    /// If the connection was reset.
    pub fn push(&self, data: &[u8]) -> usize {
        self.try_push(data).expect("the connection was reset")
    }

    /// Sends as many bytes as fit, and returns their number.
    ///
    /// # Errors
    ///
    /// `ConnectionReset` if the connection was reset.
    pub fn try_push(&self, data: &[u8]) -> io::Result<usize> {
        self.net().send(self.end, data)
    }

    /// Takes all bytes that have arrived.
    pub fn take(&self) -> Vec<u8> {
        self.take_most(usize::MAX)
    }

    /// Takes at most `n` of the bytes that have arrived.
    pub fn take_most(&self, n: usize) -> Vec<u8> {
        let mut net = self.net();
        let bytes = &mut net.end(self.end).incoming.bytes;
        split(bytes, n)
    }

    /// The number of bytes that have arrived and are not taken.
    pub fn waiting(&self) -> usize {
        self.net().end(self.end).incoming.bytes.len()
    }

    /// The number of bytes that were pushed and are not received.
    pub fn unreceived(&self) -> usize {
        self.net().peer(self.end).incoming.bytes.len()
    }

    /// Sends a FIN; bytes can still be taken.
    pub fn fin(&self) {
        self.net().shut(self.end);
    }

    /// Closes as `close(2)` does: with a reset if bytes were not taken.
    pub fn close(&self) {
        self.net().close(self.end, CloseMode::Normal);
    }

    /// Closes with a reset.
    pub fn reset(&self) {
        self.net().close(self.end, CloseMode::Reset);
    }

    /// Whether the other end's FIN has arrived, and everything before it was taken.
    pub fn saw_fin(&self) -> bool {
        let mut net = self.net();
        let end = net.end(self.end);
        end.incoming.fin && end.incoming.bytes.is_empty() && end.error.is_none()
    }

    /// Whether the other end reset the connection.
    pub fn saw_reset(&self) -> bool {
        self.net().end(self.end).error.is_some()
    }

    /// Whether the other end is reading, i.e. not paused.
    pub fn is_receiving(&self) -> bool {
        self.net().peer(self.end).holder == Holder::Reading
    }

    /// Whether the other end has closed its socket.
    pub fn is_closed(&self) -> bool {
        self.net().peer(self.end).is_closed()
    }

    /// The options set on the other end.
    pub fn options(&self) -> Vec<SocketOption> {
        self.net().peer(self.end).options.clone()
    }

    /// The address of this end.
    pub fn address(&self) -> Address {
        self.net().links[&self.end.0].addresses[self.end.1].clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Borrowed only while the driver unwinds from a failed assertion.
        let Ok(mut net) = self.network.net.try_borrow_mut() else { return };
        net.link(self.end.0).wires -= 1;
        net.drop_unobserved(self.end.0);
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("address", &self.address()).finish_non_exhaustive()
    }
}
