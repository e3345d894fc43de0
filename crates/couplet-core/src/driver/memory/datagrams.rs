//! Datagrams in memory. The network loses none, unless a queue is full. In the completion manner
//! they arrive some turns later, and one call sends a few.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::network::{Net, Network};
use super::{Manner, Memory, Notice};
use crate::address::{Address, UnixAddress};
use crate::driver::datagrams::{DatagramQueue, DatagramsSent, Group};
use crate::driver::{Bound, Datagram, DatagramOptions, Event, Key, Membership};
use crate::sorted::SortedMap;
use crate::switches::Switch;

/// Datagrams that a socket queues; further ones are lost, as in real systems.
const HELD: usize = 256;
/// Maximum datagrams of one port between two waits.
const BATCH: usize = 64;

/// The sockets of a network.
#[derive(Default)]
pub(super) struct Sockets {
    next: u32,
    open: SortedMap<u32, Socket>,
}

struct Socket {
    address: Address,
    options: DatagramOptions,
    received: VecDeque<Packet>,
    groups: Vec<Group>,
    /// Error to be reported: the peer refused a datagram.
    error: Option<io::ErrorKind>,
}

/// A datagram that has arrived or is in flight.
pub(super) struct Packet {
    from: Address,
    to: Option<IpAddr>,
    pub(super) bytes: Vec<u8>,
    /// The length as sent; a longer datagram than the port's limit is cut.
    sent: usize,
    /// Turns until it arrives.
    turns: u32,
}

/// A port of the loop, served or not. Dropping it closes the port.
pub(super) struct BoundDatagrams {
    network: Network,
    id: u32,
}

impl Drop for BoundDatagrams {
    fn drop(&mut self) {
        // Borrowed only while the driver unwinds from a failed assertion.
        let Ok(mut net) = self.network.net.try_borrow_mut() else { return };
        net.datagrams.open.remove(&self.id);
    }
}

/// A port of the loop, as the driver serves it.
pub(super) struct ServedPort {
    opened: BoundDatagrams,
    pub(super) receiving: bool,
    /// Turns until the socket accepts datagrams again.
    blocked: Option<u32>,
}

impl Packet {
    pub(super) fn as_datagram(&self) -> Datagram<'_> {
        let from = self.from.clone();
        let cut = self.bytes.len() < self.sent;
        Datagram { to: self.to, cut, ..Datagram::new(&self.bytes, from) }
    }
}

impl Network {
    pub(super) fn open_datagrams(
        &self,
        address: &Address,
        options: &DatagramOptions,
    ) -> io::Result<Bound> {
        let mut net = self.net.borrow_mut();
        let address = match address {
            Address::Tcp(address) | Address::Udp(address) if address.port() == 0 => {
                Address::udp((address.ip(), net.free_port()))
            }
            Address::Unix(UnixAddress::Unnamed) => {
                let name = format!("\0{:05}", net.datagrams.next);
                UnixAddress::from(name).into()
            }
            address => address.clone(),
        };
        let taken = net.datagrams.open.values().any(|other| {
            let shared = |options: &DatagramOptions| {
                options.switches.has(Switch::ReuseAddr) || options.switches.has(Switch::ReusePort)
            };
            other.address == address && !(shared(&other.options) && shared(options))
        });
        if taken {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = Socket {
            address: address.clone(),
            options: options.clone(),
            received: VecDeque::new(),
            groups: Vec::new(),
            error: None,
        };
        let id = net.datagrams.next;
        net.datagrams.next += 1;
        net.datagrams.open.insert(id, socket);
        Ok(Bound::new(address, BoundDatagrams { network: self.clone(), id }))
    }
}

impl Sockets {
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.open.values().any(|socket| socket.address.port() == Some(port))
    }

    /// The sockets that a datagram to `to` reaches.
    fn receivers(&self, to: &Address, from: &Address) -> Vec<u32> {
        let is_group = to.ip().is_some_and(|ip| ip.is_multicast());
        let reached = |socket: &Socket| {
            let takes = socket.options.peer.as_ref().is_none_or(|peer| is_same(peer, from));
            takes && if is_group { socket.is_member(to, from) } else { socket.is_at(to) }
        };
        let all = self.open.iter().filter(|(_, socket)| reached(socket)).map(|(id, _)| *id);
        if is_group { all.collect() } else { all.take(1).collect() }
    }
}

fn is_same(one: &Address, other: &Address) -> bool {
    one.socket_addr() == other.socket_addr() && one.unix() == other.unix()
}

impl Socket {
    fn is_at(&self, to: &Address) -> bool {
        match (self.address.socket_addr(), to.socket_addr()) {
            (Some(at), Some(to)) if at.port() == to.port() => {
                at.ip() == to.ip()
                    || at.ip().is_unspecified()
                        && (at.is_ipv4() == to.is_ipv4()
                            || at.is_ipv6() && self.options.is_dual_stack())
            }
            (None, None) => self.address == *to,
            _ => false,
        }
    }

    fn is_member(&self, to: &Address, from: &Address) -> bool {
        self.address.port() == to.port()
            && self.groups.iter().any(|group| {
                Some(group.address) == to.ip()
                    && group.source.is_none_or(|source| Some(source) == from.ip())
            })
    }

    /// The source address of its datagrams to `to`.
    fn source(&self, to: &Address, from: Option<IpAddr>) -> Address {
        match (&self.address, to.ip()) {
            (Address::Unix(name), _) => name.clone().into(),
            (address, to) => {
                let own = match to {
                    Some(IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
                    _ => Ipv4Addr::LOCALHOST.into(),
                };
                let bound = address.ip().filter(|ip| !ip.is_unspecified());
                let ip = from.or(bound).unwrap_or(own);
                Address::udp(SocketAddr::new(ip, address.port().unwrap_or(0)))
            }
        }
    }
}

impl Net {
    /// Sends a datagram from this socket.
    fn send_datagram(
        &mut self,
        id: u32,
        bytes: &[u8],
        to: Option<&Address>,
        from: Option<IpAddr>,
        manner: Manner,
    ) {
        let Some(sender) = self.datagrams.open.get(&id) else { return };
        let Some(to) = to.or(sender.options.peer.as_ref()).cloned() else { return };
        let has_peer = sender.options.peer.is_some();
        let from = sender.source(&to, from);
        let receivers = self.datagrams.receivers(&to, &from);
        if receivers.is_empty()
            && has_peer
            && let Some(sender) = self.datagrams.open.get_mut(&id)
        {
            sender.error = Some(io::ErrorKind::ConnectionRefused);
        }
        for receiver in receivers {
            let turns = if manner == Manner::Completion { self.random_below(3) as u32 } else { 0 };
            let Some(socket) = self.datagrams.open.get_mut(&receiver) else { continue };
            if socket.received.len() < HELD {
                let size = socket.options.size.min(bytes.len());
                socket.received.push_back(Packet {
                    from: from.clone(),
                    to: to.ip(),
                    bytes: bytes[..size].to_vec(),
                    sent: bytes.len(),
                    turns,
                });
            }
        }
    }
}

impl Memory {
    pub(super) fn serve_datagrams(opened: BoundDatagrams) -> ServedPort {
        ServedPort { opened, receiving: true, blocked: None }
    }

    /// Queues the notices of a port.
    pub(super) fn poll_datagrams(
        net: &mut Net,
        key: Key,
        port: &mut ServedPort,
        events: &mut VecDeque<Notice>,
    ) {
        if let Some(turns) = &mut port.blocked {
            *turns = turns.saturating_sub(1);
            if *turns == 0 {
                port.blocked = None;
                events.push_back(Notice::Room(key));
            }
        }
        let Some(socket) = net.datagrams.open.get_mut(&port.opened.id) else { return };
        if socket.error.is_some() {
            events.push_back(Notice::DatagramError(key));
        }
        if let Some(first) = socket.received.front_mut() {
            first.turns = first.turns.saturating_sub(1);
            if port.receiving && first.turns == 0 {
                events.push_back(Notice::Datagram(key, BATCH));
            }
        }
    }

    pub(super) fn has_datagrams_in_flight(&self, port: &ServedPort) -> bool {
        let net = self.network.net.borrow();
        let arrives = |socket: &Socket| port.receiving && !socket.received.is_empty();
        port.blocked.is_some() || net.datagrams.open.get(&port.opened.id).is_some_and(arrives)
    }

    /// Takes the next datagram of a port, which may deliver `left` more in this turn.
    pub(super) fn take_datagram(&mut self, key: Key, left: usize) -> Option<Event> {
        let Some(super::Kind::Datagrams(port)) = self.slots.get_mut(key) else { return None };
        let mut net = self.network.net.borrow_mut();
        let socket = net.datagrams.open.get_mut(&port.opened.id).filter(|_| port.receiving)?;
        let packet = socket.received.pop_front()?;
        let more = left > 1 && socket.received.front().is_some_and(|next| next.turns == 0);
        drop(net);
        if more {
            self.events.push_front(Notice::Datagram(key, left - 1));
        }
        self.datagram = Some(packet);
        Some(Event::Datagram { key, more })
    }

    pub(super) fn take_datagram_error(&mut self, key: Key) -> Option<Event> {
        let Some(super::Kind::Datagrams(port)) = self.slots.get_mut(key) else { return None };
        let mut net = self.network.net.borrow_mut();
        let socket = net.datagrams.open.get_mut(&port.opened.id)?;
        socket.error.take().map(|error| Event::DatagramError(key, error.into()))
    }

    pub(super) fn send_queued(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        let (network, manner) = (self.network.clone(), self.manner);
        let port = self.datagram_port(key);
        if port.blocked.is_some() {
            return DatagramsSent::Blocked;
        }
        let mut net = network.net.borrow_mut();
        let most = match manner {
            Manner::Readiness => usize::MAX,
            Manner::Completion => 1 + net.random_below(4),
        };
        let mut sent = 0;
        for waiting in out.iter().take(most) {
            net.send_datagram(port.opened.id, waiting.data, waiting.to, waiting.from, manner);
            sent += 1;
        }
        out.pop(sent);
        if out.is_empty() {
            return DatagramsSent::All;
        }
        port.blocked = Some(1 + net.random_below(2) as u32);
        DatagramsSent::Blocked
    }

    pub(super) fn set_port_membership(
        &mut self,
        key: Key,
        group: &Group,
        change: Membership,
    ) -> io::Result<()> {
        let network = self.network.clone();
        let id = self.datagram_port(key).opened.id;
        let mut net = network.net.borrow_mut();
        let Some(socket) = net.datagrams.open.get_mut(&id) else { return Ok(()) };
        group.set_in_memory(change, &mut socket.groups)
    }

    fn datagram_port(&mut self, key: Key) -> &mut ServedPort {
        match self.expect_open(key) {
            super::Kind::Datagrams(port) => port,
            _ => panic!("{key:?} is not a port of datagrams"),
        }
    }
}
