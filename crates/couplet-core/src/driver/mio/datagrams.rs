//! Datagram ports over mio. Twisted's `udp.Port` and `unix.DatagramPort`.
//!
//! All ports receive into the same batch, so a batch is reported completely before another port
//! receives; if its port pauses, the remaining datagrams are copied. The system calls are in
//! `linux.rs`, in batches, and in `portable.rs`, one by one.
//!
//! Contract: 156, 157a, 159, 160a, 160g.

#[cfg_attr(target_os = "linux", path = "datagrams/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "datagrams/portable.rs")]
mod calls;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::Token;
use socket2::{SockAddr, SockRef, Socket, Type};

use super::options;
use super::slots::Kind;
use super::system::bind_ip;
use super::unix::SocketFile;
use super::{Mio, socket, unix};
use crate::address::Address;
use crate::bounded::{AtMost, Bounded};
use crate::driver::datagrams::{Datagram, DatagramQueue, DatagramsSent};
use crate::driver::readiness::Readiness;
use crate::driver::{self, Bound, DatagramOptions, Event, Group, Key, Membership, World};
use crate::switches::Switch;

use calls::{PortSocket, ReceiveBuffers};

/// Maximum datagrams of one port in a round, between two waits.
const BATCH: usize = 64;
/// Maximum datagrams that GRO joins to one message: `UDP_MAX_SEGMENTS`.
const SEGMENTS: usize = 128;
/// Minimum datagrams that a receive call asks for.
const FEW: usize = 8;

/// Retry interval of a full socket that gets no event when it is writable.
const FULL: Duration = Duration::from_millis(1);

/// A bound port: the [`Bound::socket`] of this world.
pub(super) struct Datagrams {
    /// The file of a UNIX socket, removed with the port. INVARIANT: removed before the socket is
    /// closed, which keeps the file's inode number, by which we recognize the file, from being
    /// reused.
    _file: Option<SocketFile>,
    socket: PortSocket,
    /// Longest datagram that is received whole.
    size: usize,
    writable_signal: WritableSignal,
    /// The socket was opened elsewhere.
    is_adopted: bool,
}

pub(super) struct DatagramSlot {
    port: Datagrams,
    /// After an announced error, a batch that is not full does not use up the edge.
    readiness: Readiness,
    /// The number of messages that the next receive call asks for, estimated from the last one.
    requested: usize,
    /// The round of the last receive call, and the number of datagrams reported in that round.
    received_in: u64,
    taken: usize,
    /// The round in which a writable socket was last reported.
    tried_in: u64,
    /// When a port without an event is tried again, while it is blocked.
    retry_at: Option<Instant>,
    /// Datagrams received but not reported when the port paused, or beyond its share of a round.
    held: Bounded<VecDeque<(Datagram<'static>, Vec<u8>)>, AtMost<{ BATCH * SEGMENTS }>>,
    /// Otherwise another process reads from the socket.
    reads: bool,
}

/// How a port learns that a full socket is writable again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WritableSignal {
    /// Not yet registered: the system would report an event whenever a datagram is sent.
    Nothing,
    Event,
    /// By retrying after a delay. A UNIX socket without a peer is full when its receiver is, which
    /// no event reports.
    Time,
}

/// The messages of the last receive call, each a single datagram or several that the kernel has
/// coalesced, and the position of the last reported datagram.
#[derive(Default)]
pub(super) struct ReceivedBatch {
    buffers: Option<ReceiveBuffers>,
    count: usize,
    /// The next datagram to report: its message and its offset in the message.
    next: (usize, usize),
    /// The last reported datagram: its message and its range in the message.
    last: (usize, Range<usize>),
    /// The port, until all datagrams are reported.
    owner: Option<Key>,
    /// The last reported datagram, if it had been held during a pause.
    held: Option<(Datagram<'static>, Vec<u8>)>,
}

impl ReceivedBatch {
    /// The last reported datagram.
    pub(super) fn last(&self) -> Datagram<'_> {
        let (head, data) = match &self.held {
            Some((head, bytes)) => (head.clone(), &bytes[..]),
            None => self.current_datagram(),
        };
        Datagram { data, ..head }
    }

    /// The datagram at the current position, without its bytes, and these.
    fn current_datagram(&self) -> (Datagram<'static>, &[u8]) {
        let (n, range) = self.last.clone();
        let (head, data) = self.buffers.as_ref().expect("a datagram was received").get(n);
        (head, &data[range])
    }

    /// Advances to the next datagram; false if it is the last.
    fn advance(&mut self) -> bool {
        let (n, start) = self.next;
        let (length, segment) = self.buffers.as_ref().map_or((0, 0), |buffers| buffers.lengths(n));
        let end = length.min(start + segment);
        self.last = (n, start..end);
        self.next = if end < length { (n, end) } else { (n + 1, 0) };
        self.next.0 < self.count
    }

    /// Whether datagrams of this port are unreported, so that no other port may receive.
    pub(super) fn belongs_to(&self, port: Key) -> bool {
        self.owner == Some(port)
    }

    /// Discards the unreported datagrams of a port.
    pub(super) fn forget(&mut self, port: Key) {
        if self.belongs_to(port) {
            self.owner = None;
        }
    }
}

impl DatagramSlot {
    pub(super) fn record_readiness(&mut self, event: Readiness) {
        self.readiness.add(event, Readiness::READABLE | Readiness::ERROR);
        if self.readiness.has(Readiness::BLOCKED) {
            self.readiness.add(event, Readiness::ROOM);
        }
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.port.socket)
    }

    pub(super) fn deregister(&mut self, registry: &mio::Registry) {
        self.port.socket.deregister(registry);
    }

    /// The socket is full. Requests an event when it is writable; false if no event will come.
    fn block(&mut self, registry: &mio::Registry, slot: u32) -> bool {
        self.readiness.set(Readiness::BLOCKED, true);
        if self.port.writable_signal == WritableSignal::Nothing {
            let token = Token(slot as usize);
            let requested = self.port.socket.reregister(registry, token, socket::BOTH);
            self.port.writable_signal =
                if requested.is_ok() { WritableSignal::Event } else { WritableSignal::Time };
        }
        self.port.writable_signal == WritableSignal::Event
    }

    /// Receives into `buffers`, within the share of this round; returns the number of messages.
    fn receive(&mut self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        let requested = self.requested.min(BATCH - self.taken);
        loop {
            match buffers.receive(&self.port.socket, requested, self.port.size) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.readiness.set(Readiness::READABLE | Readiness::ERROR, false);
                    }
                    return Err(error);
                }
                Ok(n) => {
                    // Only a call that asked for more than was available uses up the edge.
                    let more = n == requested || !cfg!(target_os = "linux");
                    let more = more || self.readiness.has(Readiness::ERROR);
                    self.readiness.set(Readiness::READABLE, more);
                    // GRO delivers batches, so fewer messages suffice.
                    let (length, segment) = buffers.lengths(n - 1);
                    let joined = length.div_ceil(segment.max(1)).max(1);
                    let ask = (n + 1).next_power_of_two().clamp(FEW, BATCH);
                    self.requested = (ask / joined).max(1);
                    return Ok(n);
                }
            }
        }
    }
}

impl Mio {
    pub(super) fn serve_datagrams(&mut self, mut port: Datagrams) -> io::Result<Key> {
        let token = Token(self.slots.next_key().slot as usize);
        port.socket.register(&self.world.registry, token)?;
        let size = port.size;
        if self.arrived.buffers.as_ref().is_none_or(|buffers| buffers.size() < size) {
            // INVARIANT: no datagram in the old buffers is lost: their port keeps the unreported
            // ones.
            if let Some(owner) = self.arrived.owner {
                self.copy_unreported(owner);
            }
            self.arrived.buffers = Some(ReceiveBuffers::new(BATCH, size));
        }
        Ok(self.insert(Kind::Datagrams(Box::new(DatagramSlot {
            port,
            readiness: Readiness::NONE,
            requested: FEW,
            received_in: u64::MAX,
            taken: 0,
            tried_in: u64::MAX,
            retry_at: None,
            held: Bounded::default(),
            reads: true,
        }))))
    }

    fn datagram_slot(&mut self, key: Key) -> Option<&mut DatagramSlot> {
        match self.kind(key)? {
            Kind::Datagrams(port) => Some(port),
            _ => None,
        }
    }

    /// The next event of a datagram port.
    #[inline(never)]
    pub(super) fn next_from_datagrams(&mut self, slot: u32) -> Option<Event> {
        let key = self.slots.key_at(slot);
        if self.arrived.owner.is_some_and(|owner| owner != key) {
            // The buffers are in use by a port that is ahead of this one in the list.
            self.again.push_back(slot);
            return None;
        }
        let round = self.round;
        let Some(Kind::Datagrams(port)) = self.slots.get_mut(key).map(|slot| &mut slot.kind) else {
            return None;
        };
        let retries = port.port.writable_signal == WritableSignal::Time
            && port.readiness.has(Readiness::BLOCKED)
            && port.tried_in != round;
        let left = port.retry_at.filter(|_| retries).map(|at| {
            let now = self.world.now();
            at.saturating_duration_since(now)
        });
        let asks = left == Some(Duration::ZERO);
        if let Some(left) = left.filter(|_| !asks) {
            self.try_again(slot, left);
        }
        let Some(Kind::Datagrams(port)) = self.slots.get_mut(key).map(|slot| &mut slot.kind) else {
            return None;
        };
        if port.readiness.has(Readiness::ROOM) || asks {
            port.readiness.set(Readiness::ROOM | Readiness::BLOCKED, false);
            port.tried_in = round;
            self.again.push_front(slot);
            return Some(Event::Room(key));
        }
        if port.readiness.has(Readiness::PAUSED) {
            return None;
        }
        if port.received_in != round {
            (port.received_in, port.taken) = (round, 0);
        }
        if self.arrived.owner == Some(key) {
            if port.taken < BATCH {
                return Some(self.report(key));
            }
            // GRO delivered more datagrams than this round may report.
            self.copy_unreported(key);
            self.queue(slot);
            return None;
        }
        if port.taken == BATCH && (port.readiness.has(Readiness::READABLE) || !port.held.is_empty())
        {
            self.queue(slot);
            return None;
        }
        self.arrived.held = port.held.edit().pop_front();
        if self.arrived.held.is_some() {
            port.taken += 1;
            let more = !port.held.is_empty() && port.taken < BATCH;
            self.again.push_front(slot);
            return Some(Event::Datagram { key, more });
        }
        if !port.reads || !port.readiness.has(Readiness::READABLE) {
            return None;
        }
        match port.receive(self.arrived.buffers.as_mut()?) {
            Ok(count) => {
                (self.arrived.count, self.arrived.next) = (count, (0, 0));
                self.arrived.owner = Some(key);
                Some(self.report(key))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                self.queue(slot);
                Some(Event::DatagramError(key, error))
            }
        }
    }

    /// Reports the next datagram of the batch.
    fn report(&mut self, key: Key) -> Event {
        let more = self.arrived.advance();
        if !more {
            self.arrived.owner = None;
        }
        let Some(port) = self.datagram_slot(key) else { return Event::Datagram { key, more } };
        port.taken += 1;
        let last = port.taken == BATCH;
        if more || port.readiness.has(Readiness::READABLE) {
            self.again.push_front(key.slot);
        }
        Event::Datagram { key, more: more && !last }
    }

    pub(super) fn receive_datagrams(&mut self, key: Key, on: bool) {
        if !on && self.arrived.owner == Some(key) {
            self.copy_unreported(key);
        }
        if let Some(port) = self.datagram_slot(key) {
            port.readiness.set(Readiness::PAUSED, !on);
            if on {
                self.queue(key.slot);
            }
        }
    }

    pub(super) fn set_reading(&mut self, key: Key, on: bool) {
        if let Some(port) = self.datagram_slot(key) {
            port.reads = on;
            self.queue(key.slot);
        }
    }

    pub(super) fn duplicate_datagram_socket(
        &mut self,
        key: Key,
    ) -> io::Result<driver::DatagramSocket> {
        let port = self.datagram_slot(key).ok_or(io::ErrorKind::InvalidInput)?;
        let socket = port.socket();
        if host(&socket)?.unix().is_some() {
            let text = "a UNIX datagram socket can't be passed to another process";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        socket.try_clone().map(driver::DatagramSocket)
    }

    /// Copies the unreported datagrams of a port.
    fn copy_unreported(&mut self, key: Key) {
        let Some(Kind::Datagrams(port)) = self.slots.get_mut(key).map(|slot| &mut slot.kind) else {
            return;
        };
        let mut more = self.arrived.next.0 < self.arrived.count;
        while more {
            more = self.arrived.advance();
            let (head, data) = self.arrived.current_datagram();
            port.held.edit().push_back((head, data.to_vec()));
        }
        self.arrived.owner = None;
    }

    pub(super) fn send_queued(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        let Some(Kind::Datagrams(port)) = self.slots.get_mut(key).map(|slot| &mut slot.kind) else {
            return DatagramsSent::Blocked;
        };
        let retries = port.port.writable_signal == WritableSignal::Time;
        if port.readiness.has(Readiness::BLOCKED) && !retries {
            return DatagramsSent::Blocked;
        }
        if out.next_retry().is_some() {
            out.release(self.world.now());
        }
        while out.has_ready() {
            match port.port.socket.send(out) {
                Ok(n) => out.pop(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let has_receiver = out.first().is_some_and(|first| first.to.is_some());
                    if retries && has_receiver {
                        // Only this receiver may be full.
                        out.hold_first(self.world.now());
                        continue;
                    }
                    if !port.block(&self.world.registry, key.slot) {
                        port.retry_at = Some(self.world.now() + FULL);
                        self.try_again(key.slot, FULL);
                    }
                    return DatagramsSent::Blocked;
                }
                Err(error) => return DatagramsSent::Failed(error),
            }
        }
        let Some(retry_at) = out.next_retry() else {
            port.readiness.set(Readiness::BLOCKED, false);
            return DatagramsSent::All;
        };
        port.readiness.set(Readiness::BLOCKED, true);
        port.retry_at = Some(retry_at);
        self.try_again(key.slot, retry_at.saturating_duration_since(self.world.now()));
        DatagramsSent::Blocked
    }

    pub(super) fn set_port_membership(
        &mut self,
        key: Key,
        group: &Group,
        change: Membership,
    ) -> io::Result<()> {
        let port = self.datagram_slot(key).ok_or(io::ErrorKind::NotConnected)?;
        match options::set_membership(&port.socket(), group, change) {
            // An adopted socket may be a member already.
            Err(error)
                if change == Membership::Join
                    && port.port.is_adopted
                    && error.kind() == io::ErrorKind::AddrInUse =>
            {
                Ok(())
            }
            set => set,
        }
    }
}

/// Opens and binds a socket, and connects it to its peer.
pub(super) fn bind(address: &Address, options: &DatagramOptions) -> io::Result<Bound> {
    let (socket, file) = match address {
        Address::Tcp(address) | Address::Udp(address) => (bind_udp(*address, options)?, None),
        Address::Unix(name) => unix::bind_datagrams(name, options)?,
        Address::Pipe(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    bound(socket, file, options, false)
}

/// Serves a socket that another port has opened, perhaps in another process.
pub(super) fn adopt(
    socket: driver::DatagramSocket,
    options: &DatagramOptions,
) -> io::Result<Bound> {
    let driver::DatagramSocket(socket) = socket;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(options.switches.has(Switch::Broadcast))?;
    bound(socket, None, options, true)
}

/// A port on a bound socket, which is connected to its peer.
fn bound(
    socket: Socket,
    file: Option<SocketFile>,
    options: &DatagramOptions,
    is_adopted: bool,
) -> io::Result<Bound> {
    if let Some(peer) = &options.peer {
        socket.connect(&name_for(&socket, peer)?)?;
    }
    let host = host(&socket)?;
    let socket = PortSocket::from_socket(socket)?;
    let size = socket.coalesce(options.size, is_adopted);
    let needs_retry = host.unix().is_some() && options.peer.is_none();
    let writable_signal = if needs_retry { WritableSignal::Time } else { WritableSignal::Nothing };
    let query = socket.query_handle();
    let port = Datagrams { _file: file, socket, size, writable_signal, is_adopted };
    Ok(Bound { query, ..Bound::new(host, port) })
}

pub(in crate::driver) fn bind_udp(
    address: SocketAddr,
    options: &DatagramOptions,
) -> io::Result<Socket> {
    bind_ip(address, Type::DGRAM, options.switches, |socket| {
        socket.set_broadcast(options.switches.has(Switch::Broadcast))?;
        options.preparation.prepare(socket)
    })
}

fn host(socket: &Socket) -> io::Result<Address> {
    Ok(match socket::address(&socket.local_addr()?) {
        Address::Tcp(address) => Address::Udp(address),
        address => address,
    })
}

/// The address of a peer, in the form that this socket's family needs.
fn name_for(socket: &Socket, peer: &Address) -> io::Result<SockAddr> {
    match (peer, socket.local_addr()?.is_ipv6()) {
        (Address::Unix(name), _) => unix::sock_addr(name),
        (Address::Tcp(SocketAddr::V4(to)) | Address::Udp(SocketAddr::V4(to)), true) => {
            Ok(SocketAddr::from((to.ip().to_ipv6_mapped(), to.port())).into())
        }
        (Address::Tcp(to) | Address::Udp(to), _) => Ok((*to).into()),
        (Address::Pipe(_), _) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::address::UnixAddress;

    #[test]
    fn an_error_of_prepare_fails_the_bind_of_either_kind_of_port() {
        let udp = Address::udp(([127, 0, 0, 1], 0));
        for address in [udp, UnixAddress::Unnamed.into()] {
            let options = DatagramOptions::default().prepare(|_| Err(io::Error::other("rose")));
            assert_eq!(bind(&address, &options).expect_err("an error").to_string(), "rose");
            // A panic is an error too, each time.
            let options = DatagramOptions::default().prepare(|_| panic!("by wish"));
            for _ in 0..2 {
                let error = bind(&address, &options).expect_err("it is not prepared");
                assert_eq!(error.to_string(), "the preparation of a socket panicked");
            }
        }
    }

    #[test]
    fn broadcasts_are_allowed_only_on_request() {
        for on in [false, true] {
            let options = DatagramOptions::default().broadcast(on);
            let socket = bind_udp(([127, 0, 0, 1], 0).into(), &options).expect("a free port");
            assert_eq!(socket.broadcast().expect("an option"), on);
        }
    }
}
