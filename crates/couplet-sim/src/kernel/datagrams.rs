//! Datagrams: how the network loses, duplicates, reorders and truncates them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use couplet_core::driver::{DatagramOptions, Group, Membership};
use couplet_core::hooks::simulator;
use couplet_core::{Address, UnixAddress};

use super::hosts::{HostNotice, no_descriptors};
use super::{Intake, Kernel, SimEvent};
use crate::faults::{Fault, Link};
use crate::random::{Purpose, RandomStream, fold_bytes};
use crate::trace::{DatagramFate, Label, TraceEvent};

/// Capacity of a socket's receive queue, in datagrams. Further ones are dropped, as on a real
/// system.
const HELD: usize = 256;
/// The IPv4 and UDP headers, which count towards the MTU.
const HEADERS: usize = 28;

const LOOPBACK: Link = Link::constant(Duration::ZERO);

/// A datagram in flight or queued at a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) label: Label,
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) bytes: Vec<u8>,
    /// Truncated by the network, or to the receiver's size limit.
    pub(crate) cut: bool,
}

pub(crate) struct Socket {
    options: DatagramOptions,
    // At most HELD; further datagrams are lost, as in a real system.
    queue: VecDeque<Datagram>,
    /// For each destination host, the number of datagrams sent and the arrival time of the last:
    /// datagrams arrive in order unless the link reorders them.
    sent_to: BTreeMap<u32, (u64, u64)>,
    groups: Vec<Group>,
    /// Paused until a driver serves it.
    intake: Intake,
    /// Error for the next read: the peer's system refused a datagram.
    error: Option<io::ErrorKind>,
}

/// The result of reading a socket.
pub(crate) enum Taken {
    /// A datagram, and the number of those still queued.
    Datagram(Datagram, usize),
    Error(io::ErrorKind),
    Nothing,
}

impl Kernel {
    pub(crate) fn open_socket(
        &mut self,
        host: u32,
        address: Address,
        options: &DatagramOptions,
    ) -> io::Result<Address> {
        if !self.has_descriptors(host) {
            return Err(no_descriptors());
        }
        let address = match address {
            Address::Unix(UnixAddress::Unnamed) => {
                let number = self.free_port(host);
                UnixAddress::from(format!("\0{number:05x}")).into()
            }
            Address::Unix(name) => Address::Unix(name),
            Address::Tcp(mut address) | Address::Udp(mut address) => {
                if !self.hosts[host as usize].has_address(address.ip()) {
                    return Err(io::ErrorKind::AddrNotAvailable.into());
                }
                if address.port() == 0 {
                    address.set_port(self.free_port(host));
                }
                Address::Udp(address)
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let state = self.host(host);
        if state.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = Socket {
            options: options.clone(),
            queue: VecDeque::new(),
            sent_to: BTreeMap::new(),
            groups: Vec::new(),
            intake: Intake::Paused,
            error: None,
        };
        state.sockets.insert(address.clone(), socket);
        self.note(host, TraceEvent::Listens(address.clone()));
        Ok(address)
    }

    /// Closes a socket opened in this boot of the host; does nothing after a restart.
    pub(crate) fn close_socket(&mut self, host: u32, boot: u32, address: &Address) {
        if self.host(host).boot != boot {
            return;
        }
        let socket = self.host(host).sockets.remove(address);
        for datagram in socket.into_iter().flat_map(|socket| socket.queue) {
            self.note(host, TraceEvent::Datagram(datagram.label, DatagramFate::Unread));
        }
    }

    /// Starts or stops reporting arrivals to the host's driver.
    pub(crate) fn serve_socket(&mut self, host: u32, address: &Address, intake: Intake) {
        let Some(socket) = self.host(host).sockets.get_mut(address) else { return };
        socket.intake = intake;
        if intake == Intake::Open && (socket.error.is_some() || !socket.queue.is_empty()) {
            self.queue_notice(host, HostNotice::Datagrams(address.clone()));
        }
    }

    /// Whether a driver serves the socket and is not paused.
    pub(crate) fn is_served(&mut self, host: u32, address: &Address) -> bool {
        self.host(host).sockets.get(address).is_some_and(|socket| socket.intake == Intake::Open)
    }

    pub(crate) fn take_datagram(&mut self, host: u32, address: &Address) -> Taken {
        let Some(socket) = self.host(host).sockets.get_mut(address) else {
            return Taken::Nothing;
        };
        if let Some(error) = socket.error.take() {
            return Taken::Error(error);
        }
        let Some(first) = socket.queue.pop_front() else { return Taken::Nothing };
        let left = socket.queue.len();
        let fate = DatagramFate::Received(first.bytes.len(), fold_bytes(0, &first.bytes));
        self.note(host, TraceEvent::Datagram(first.label, fate));
        Taken::Datagram(first, left)
    }

    pub(crate) fn set_membership(
        &mut self,
        host: u32,
        address: &Address,
        group: &Group,
        change: Membership,
    ) -> io::Result<()> {
        let Some(socket) = self.host(host).sockets.get_mut(address) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        simulator::set_membership(group, change, &mut socket.groups)
    }

    /// Sends a datagram, which may arrive once, twice, truncated, late or not at all. If `to` is
    /// `None`, it goes to the socket's peer. A multicast reaches the members on every host.
    ///
    /// # Errors
    ///
    /// `NotConnected` if the socket is closed or its host is down, or if neither `to` nor the
    /// socket names a destination.
    pub(crate) fn send_datagram(
        &mut self,
        host: u32,
        socket: &Address,
        (to, from): (Option<&Address>, Option<IpAddr>),
        bytes: &[u8],
    ) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let options = &self.host(host).sockets.get(socket).ok_or_else(gone)?.options;
        let to = to.or(options.peer.as_ref()).cloned().ok_or_else(gone)?;
        let from = self.source(host, socket, &to, from);
        self.host(host).datagrams += 1;
        let label = Label { client: host, ordinal: self.host(host).datagrams };
        let fate = DatagramFate::Sent(to.clone(), bytes.len(), fold_bytes(0, bytes));
        self.note(host, TraceEvent::Datagram(label, fate));
        let destination = to.socket_addr();
        let datagram = Datagram { label, from, to, bytes: bytes.to_vec(), cut: false };
        match destination {
            None => self.deliver_datagram(host, host, datagram),
            Some(ip) if ip.ip().is_multicast() => {
                for target in 0..self.hosts.len() as u32 {
                    self.transmit_datagram(host, socket, target, &datagram);
                }
            }
            Some(address) => match self.host_of(host, address) {
                Some(target) => self.transmit_datagram(host, socket, target, &datagram),
                None => self.note(host, TraceEvent::Datagram(label, DatagramFate::NoHost)),
            },
        }
        Ok(())
    }

    /// The source address of a datagram.
    fn source(&self, host: u32, socket: &Address, to: &Address, from: Option<IpAddr>) -> Address {
        let (Some(bound), Some(to)) = (socket.socket_addr(), to.socket_addr()) else {
            return socket.clone();
        };
        let state = &self.hosts[host as usize];
        let own = match (to.ip().is_loopback(), to.is_ipv6()) {
            (true, _) => to.ip(),
            (false, true) => state.v6.into(),
            (false, false) => state.v4.into(),
        };
        let bound_to = Some(bound.ip()).filter(|ip| !ip.is_unspecified() && !to.ip().is_loopback());
        Address::udp(SocketAddr::new(from.or(bound_to).unwrap_or(own), bound.port()))
    }

    fn transmit_datagram(&mut self, host: u32, socket: &Address, target: u32, datagram: &Datagram) {
        let Some(state) = self.host(host).sockets.get_mut(socket) else { return };
        let sent = state.sent_to.entry(target).or_default();
        sent.0 += 1;
        let (ordinal, last) = *sent;
        let port = socket.port().unwrap_or(0);
        let key = [u64::from(host), u64::from(port), u64::from(target), ordinal];
        let mut random = RandomStream::new(self.seed, Purpose::Datagrams, &key);
        // Loopback is reliable.
        let link = if host == target { LOOPBACK } else { self.link(host, target) };
        // Draw every choice, used or not, so that none depends on another.
        let loss = link.loss.saturating_add(self.extra_loss(host, target));
        let mut lost = random.per_mille(loss);
        let twice = random.per_mille(link.duplicates);
        let late = random.per_mille(link.reordered);
        let short = random.per_mille(link.truncated);
        let length = datagram.bytes.len();
        let keep = random.below(length as u64) as usize;
        let route = self.route(host, target);
        let (takes, detour) = (route.draw_delay(&mut random), route.draw_delay(&mut random));
        // A datagram longer than the MTU is fragmented, and lost if any fragment is.
        for _ in 1..(length + HEADERS).div_ceil(link.mtu.max(1)) {
            lost |= random.per_mille(loss);
        }
        let label = datagram.label;
        if lost {
            return self.note(host, TraceEvent::Datagram(label, DatagramFate::Lost(target)));
        }
        let departs = if host == target { self.now } else { self.departure(host, length) };
        let arrives = departs.saturating_add(takes).max(last);
        if !late && let Some(socket) = self.host(host).sockets.get_mut(socket) {
            socket.sent_to.insert(target, (ordinal, arrives));
        }
        let mut datagram = Box::new(datagram.clone());
        if short {
            self.note(host, TraceEvent::Datagram(label, DatagramFate::Truncated(target, keep)));
            datagram.bytes.truncate(keep);
            datagram.cut = true;
        }
        if late {
            self.note(host, TraceEvent::Datagram(label, DatagramFate::Reordered(target)));
        }
        if twice {
            self.note(host, TraceEvent::Datagram(label, DatagramFate::Duplicated(target)));
            self.at(arrives + detour, SimEvent::Datagram(host, target, datagram.clone()));
        }
        let arrives = if late { arrives + detour } else { arrives };
        self.at(arrives, SimEvent::Datagram(host, target, datagram));
    }

    fn extra_loss(&self, from: u32, to: u32) -> u16 {
        let lossy = self.active_faults().filter_map(|fault| match fault {
            Fault::Loss(host, n) if from != to && [from, to].contains(&host.0) => Some(*n),
            _ => None,
        });
        lossy.fold(0, u16::saturating_add)
    }

    pub(super) fn deliver_datagram(&mut self, sender: u32, host: u32, datagram: Datagram) {
        let receivers = self.receivers(host, &datagram);
        let is_group = datagram.to.ip().is_some_and(|ip| ip.is_multicast());
        if receivers.is_empty() && is_group {
            return;
        }
        let label = datagram.label;
        if !self.can_reach(sender, host) {
            return self.note(host, TraceEvent::Datagram(label, DatagramFate::CutOff));
        }
        if receivers.is_empty() {
            self.note(host, TraceEvent::Datagram(label, DatagramFate::NoReceiver));
            if self.can_reach(host, sender) {
                self.refuse(sender, &datagram);
            }
        }
        for address in receivers {
            let Some(socket) = self.host(host).sockets.get_mut(&address) else { continue };
            if socket.queue.len() == HELD {
                self.note(host, TraceEvent::Datagram(label, DatagramFate::QueueFull));
                continue;
            }
            let mut datagram = datagram.clone();
            let size = socket.options.size;
            datagram.cut |= datagram.bytes.len() > size;
            datagram.bytes.truncate(size);
            socket.queue.push_back(datagram);
            if socket.intake == Intake::Open && socket.queue.len() == 1 {
                self.queue_notice(host, HostNotice::Datagrams(address));
            }
        }
    }

    /// The sockets of a host that receive this datagram.
    fn receivers(&mut self, host: u32, datagram: &Datagram) -> Vec<Address> {
        let state = self.host(host);
        let (v4, v6) = (IpAddr::from(state.v4), IpAddr::from(state.v6));
        let (from, to) = (&datagram.from, &datagram.to);
        let reached = |(at, socket): &(&Address, &Socket)| {
            let takes = socket.options.peer.as_ref().is_none_or(|peer| is_same(peer, from));
            let (Some(at), Some(to)) = (at.socket_addr(), to.socket_addr()) else {
                return takes && *at == to;
            };
            let is_member = |group: &Group| {
                group.address == to.ip() && group.source.is_none_or(|it| Some(it) == from.ip())
            };
            let is_own = at.ip() == to.ip() || to.ip().is_loopback() && [v4, v6].contains(&at.ip());
            let is_any = at.ip().is_unspecified()
                && (at.is_ipv4() == to.is_ipv4() || at.is_ipv6() && socket.options.is_dual_stack());
            let is_there = match to.ip().is_multicast() {
                true => socket.groups.iter().any(is_member),
                false => is_own || is_any,
            };
            takes && at.port() == to.port() && is_there
        };
        let all = state.sockets.iter().filter(reached).map(|(address, _)| address.clone());
        if to.ip().is_some_and(|ip| ip.is_multicast()) {
            all.collect()
        } else {
            all.take(1).collect()
        }
    }

    /// Reports to the sender that the destination has no socket. Only a socket connected to this
    /// peer gets the error.
    fn refuse(&mut self, sender: u32, datagram: &Datagram) {
        let Datagram { label, from, to, .. } = datagram;
        let state = self.host(sender);
        let connected = state.sockets.iter_mut().find(|(at, socket)| {
            at.port() == from.port()
                && socket.options.peer.as_ref().is_some_and(|it| is_same(it, to))
        });
        let Some((address, socket)) = connected else { return };
        socket.error = Some(io::ErrorKind::ConnectionRefused);
        let (address, intake) = (address.clone(), socket.intake);
        self.note(sender, TraceEvent::Datagram(*label, DatagramFate::Refused));
        if intake == Intake::Open {
            self.queue_notice(sender, HostNotice::Datagrams(address));
        }
    }
}

fn is_same(one: &Address, other: &Address) -> bool {
    one.socket_addr() == other.socket_addr() && one.unix() == other.unix()
}
