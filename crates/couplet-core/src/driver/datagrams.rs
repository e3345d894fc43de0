//! Datagrams at the seam: received and outgoing datagrams, and the options of a datagram port.

#[cfg(feature = "testing")]
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::PeerCredentials;
use crate::address::Address;

/// A received datagram, borrowed for the call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// Its bytes. A datagram may be empty.
    pub data: &'a [u8],
    /// The sender, with the scope of an IPv6 address. [Unnamed](crate::UnixAddress::Unnamed) on a
    /// UNIX socket whose peer has no name; such a datagram can't be answered.
    pub from: Address,
    /// The destination address. It differs from the port's address on a wildcard port and for
    /// multicasts. `None` if the system does not report it.
    pub to: Option<IpAddr>,
    /// The number of the receiving interface, if the system reports it.
    pub interface: Option<u32>,
    /// The datagram was longer than the port's [size](super::DatagramOptions::size); the excess was
    /// discarded.
    pub cut: bool,
    /// The TOS byte (IPv4) or traffic class (IPv6), if the system reports it.
    pub tos: Option<u8>,
    /// The sending process, on a UNIX socket, if the system reports it (Linux).
    pub credentials: Option<PeerCredentials>,
}

impl<'a> Datagram<'a> {
    /// A datagram with only its bytes and its sender known.
    pub fn new(data: &'a [u8], from: impl Into<Address>) -> Datagram<'a> {
        Datagram {
            data,
            from: from.into(),
            to: None,
            interface: None,
            cut: false,
            tos: None,
            credentials: None,
        }
    }

    /// The two bits of explicit congestion notification (RFC 3168): 0 not capable, 1 and 2 capable,
    /// 3 congestion was experienced.
    pub fn ecn(&self) -> Option<u8> {
        self.tos.map(|tos| tos & 3)
    }
}

/// An option of an open datagram port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatagramOption {
    /// `SO_BROADCAST`: broadcasts may be sent. Twisted's `setBroadcastAllowed`.
    Broadcast(bool),
    /// The hop limit of unicasts, usually 64.
    Ttl(u8),
    /// The TOS byte (IPv4) or traffic class (IPv6) of sent datagrams: DSCP, and the two bits of
    /// ECN.
    Tos(u8),
    /// The hop limit of multicasts: 1, the local network, unless set. Twisted's `setTTL`.
    MulticastTtl(u8),
    /// Whether multicasts are delivered to this host too. On unless set. Twisted's `setLoopbackMode`.
    MulticastLoop(bool),
    /// The interface that sends multicasts. Twisted's `setOutgoingInterface`.
    MulticastInterface(Interface),
    /// Receives datagrams sent to this group from now on. Twisted's `joinGroup`.
    Join(Group),
    /// Stops receiving datagrams sent to this group. Twisted's `leaveGroup`.
    Leave(Group),
}

#[cfg(feature = "testing")]
impl DatagramOption {
    /// Applies the option to a socket with these groups, on a network without hops, interfaces or
    /// priorities.
    pub(crate) fn set_in_memory(&self, groups: &mut BTreeSet<Group>) -> io::Result<()> {
        match self {
            DatagramOption::Join(group) if !group.address.is_multicast() => {
                Err(io::ErrorKind::InvalidInput.into())
            }
            DatagramOption::Join(group) => {
                let is_new = groups.insert(*group);
                is_new.then_some(()).ok_or_else(|| io::ErrorKind::AddrInUse.into())
            }
            DatagramOption::Leave(group) => {
                let was_member = groups.remove(group);
                was_member.then_some(()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
            }
            _ => Ok(()),
        }
    }
}

/// A multicast group, as one interface of this host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Group {
    /// The group's address: 224.0.0.0/4 or ff00::/8.
    pub address: IpAddr,
    /// Receive only datagrams of this source (RFC 4607), in 232.0.0.0/8 and ff3x::/32.
    pub source: Option<IpAddr>,
    /// The interface.
    pub interface: Interface,
}

impl Group {
    /// A group with any source, on the interface that the system chooses.
    pub fn new(address: impl Into<IpAddr>) -> Group {
        Group { address: address.into(), source: None, interface: Interface::Any }
    }

    /// Receives only from this source.
    #[must_use]
    pub fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Joins on this interface.
    #[must_use]
    pub fn interface(mut self, interface: impl Into<Interface>) -> Self {
        self.interface = interface.into();
        self
    }
}

impl<A: Into<IpAddr>> From<A> for Group {
    fn from(address: A) -> Group {
        Group::new(address)
    }
}

/// A network interface of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Interface {
    /// The interface that the system chooses by its routes.
    Any,
    /// The interface with this address.
    Address(Ipv4Addr),
    /// The interface with this number, as in the scope of an IPv6 address.
    Number(u32),
}

impl From<Ipv4Addr> for Interface {
    fn from(address: Ipv4Addr) -> Interface {
        Interface::Address(address)
    }
}

impl From<u32> for Interface {
    fn from(number: u32) -> Interface {
        Interface::Number(number)
    }
}

/// Queued datagrams, in order: their bytes in one buffer, and a list of lengths and destinations.
#[derive(Default)]
pub struct DatagramQueue {
    // Bound: twice `DatagramOptions::queue`, 256 KiB unless set, or twice one datagram.
    bytes: Vec<u8>,
    /// Bytes at the front of the buffer that are already sent.
    sent: usize,
    // Bound: at most MOST_QUEUED (16384) datagrams.
    list: VecDeque<QueuedDatagram>,
}

struct QueuedDatagram {
    length: usize,
    to: Option<Address>,
    from: Option<IpAddr>,
}

/// A queued datagram.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outgoing<'a> {
    /// Its bytes.
    pub data: &'a [u8],
    /// The destination; `None` on a port with a peer.
    pub to: Option<&'a Address>,
    /// The local address to send from, if it matters.
    pub from: Option<IpAddr>,
}

/// Datagrams of equal length for one destination, joined.
#[cfg(target_os = "linux")]
pub(super) struct Run<'a> {
    pub(super) data: &'a [u8],
    pub(super) to: Option<&'a Address>,
    pub(super) from: Option<IpAddr>,
    /// The length of each datagram; the last may be shorter.
    pub(super) segment: usize,
    pub(super) count: usize,
}

/// Maximum datagrams in a run: `UDP_MAX_SEGMENTS`.
#[cfg(target_os = "linux")]
const MOST_JOINED: usize = 64;
/// Maximum bytes in a run, which passes through the kernel as one datagram.
#[cfg(target_os = "linux")]
const LONGEST_RUN: usize = 65_000;

impl DatagramQueue {
    /// Appends a datagram.
    pub fn push(&mut self, data: &[u8], to: Option<Address>, from: Option<IpAddr>) {
        self.bytes.extend_from_slice(data);
        self.list.push_back(QueuedDatagram { length: data.len(), to, from });
    }

    /// Iterates over the datagrams in the order of sending.
    pub fn iter(&self) -> impl Iterator<Item = Outgoing<'_>> {
        let mut rest = &self.bytes[self.sent..];
        self.list.iter().map(move |waiting| {
            let (data, behind) = rest.split_at(waiting.length);
            rest = behind;
            Outgoing { data, to: waiting.to.as_ref(), from: waiting.from }
        })
    }

    /// The first datagram.
    pub fn first(&self) -> Option<Outgoing<'_>> {
        self.iter().next()
    }

    /// Iterates over the datagrams in the order of sending, joining consecutive ones of equal
    /// length (the last may be shorter) and equal destination into runs. With `join` false, each
    /// run is a single datagram.
    #[cfg(target_os = "linux")]
    pub(super) fn runs(&self, join: bool) -> impl Iterator<Item = Run<'_>> {
        let mut rest = &self.bytes[self.sent..];
        let mut list = self.list.iter().peekable();
        std::iter::from_fn(move || {
            let first = list.next()?;
            let segment = first.length;
            let (mut length, mut count, mut ended) = (segment, 1, !join || segment == 0);
            while !ended
                && let Some(next) = list.next_if(|next| {
                    (1..=segment).contains(&next.length)
                        && count < MOST_JOINED
                        && length + next.length <= LONGEST_RUN
                        && next.to == first.to
                        && next.from == first.from
                })
            {
                (length, count) = (length + next.length, count + 1);
                ended = next.length < segment;
            }
            let (data, behind) = rest.split_at(length);
            rest = behind;
            Some(Run { data, to: first.to.as_ref(), from: first.from, segment, count })
        })
    }

    /// Removes the first `n` datagrams.
    pub fn pop(&mut self, n: usize) {
        let lengths = self.list.drain(..n.min(self.list.len())).map(|waiting| waiting.length);
        self.sent += lengths.sum::<usize>();
        if self.list.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 {
            // Compacting only past half of the buffer moves at most one byte per byte sent.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Removes and returns all but the first `n` datagrams.
    pub(crate) fn split_off(&mut self, n: usize) -> DatagramQueue {
        let list = self.list.split_off(n.min(self.list.len()));
        let kept: usize = self.list.iter().map(|waiting| waiting.length).sum();
        DatagramQueue { bytes: self.bytes.split_off(self.sent + kept), sent: 0, list }
    }

    /// Appends all datagrams of another queue.
    pub(crate) fn append(&mut self, mut other: DatagramQueue) {
        self.bytes.extend_from_slice(&other.bytes[other.sent..]);
        self.list.append(&mut other.list);
    }

    /// The number of queued datagrams.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of queued bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

impl fmt::Debug for DatagramQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramQueue")
            .field("len", &self.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// The outcome of a [`Commands::send_datagrams`](super::Commands::send_datagrams).
#[must_use]
#[derive(Debug)]
#[non_exhaustive]
pub enum DatagramsSent {
    /// The system has accepted all datagrams; the queue is empty.
    All,
    /// The system accepts nothing further for now; an [`Event::Room`](super::Event::Room) follows.
    /// The accepted datagrams are no longer in the queue.
    Blocked,
    /// The system refused the first datagram, which stays in the queue. It may be sent again: a
    /// refusal on a connected socket concerns an earlier datagram.
    Failed(io::Error),
}

/// The error of a driver or world without datagrams.
pub(super) fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this driver has no datagrams")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    fn data_of(queue: &DatagramQueue) -> Vec<Vec<u8>> {
        queue.iter().map(|waiting| waiting.data.to_vec()).collect()
    }

    #[test]
    fn a_queue_keeps_boundaries_and_order_while_its_front_is_sent() {
        let mut queue = DatagramQueue::default();
        let mut next = 0..;
        let mut expected = VecDeque::new();
        for round in 0..200usize {
            for n in next.by_ref().take(round % 7) {
                let data = vec![n as u8; n % 5];
                queue.push(&data, None, None);
                expected.push_back(data);
            }
            queue.pop(round % 6);
            expected.drain(..(round % 6).min(expected.len()));
            assert_eq!(expected, data_of(&queue));
            assert_eq!((queue.len(), queue.is_empty()), (expected.len(), expected.is_empty()));
            let rest = queue.split_off(round % 5);
            assert_eq!((queue.len(), rest.len()), {
                let first = expected.len().min(round % 5);
                (first, expected.len() - first)
            });
            assert_eq!(expected, [data_of(&queue), data_of(&rest)].concat());
            queue.append(rest);
            assert_eq!(queue.bytes(), expected.iter().map(Vec::len).sum::<usize>());
            assert!(queue.sent <= queue.bytes.len() / 2, "sent bytes are dropped");
        }
    }

    #[test]
    fn a_queue_is_appended_without_what_either_has_sent() {
        let to = |n: u8| Address::udp(([127, 0, 0, 1], n.into()));
        let queue = |numbers: Range<u8>, sent: usize| {
            let mut queue = DatagramQueue::default();
            for n in numbers {
                queue.push(&[n; 3], Some(to(n)), Some(IpAddr::from([127, 0, 0, n])));
            }
            queue.pop(sent);
            queue
        };
        for (first, second) in (0..=4).flat_map(|first| (0..=4).map(move |second| (first, second)))
        {
            let mut joined = queue(0..4, first);
            joined.append(queue(4..8, second));
            let left: Vec<u8> = (first as u8..4).chain(4 + second as u8..8).collect();
            let expected: Vec<_> = left.iter().map(|n| vec![*n; 3]).collect();
            assert_eq!(data_of(&joined), expected, "{first} and {second} were sent");
            assert_eq!((joined.len(), joined.bytes()), (left.len(), left.len() * 3));
            for (outgoing, n) in joined.iter().zip(left) {
                assert_eq!(outgoing.to, Some(&to(n)));
                assert_eq!(outgoing.from, Some(IpAddr::from([127, 0, 0, n])));
            }
        }
    }

    #[test]
    fn a_queue_that_is_split_off_keeps_its_destinations() {
        let ends = |queue: &DatagramQueue| -> Vec<(Option<Address>, Option<IpAddr>)> {
            queue.iter().map(|waiting| (waiting.to.cloned(), waiting.from)).collect()
        };
        let mut queue = DatagramQueue::default();
        for n in 1..=4u8 {
            let to = Address::udp(([127, 0, 0, n], n.into()));
            queue.push(b"x", Some(to), (n % 2 == 0).then(|| [127, 0, 0, n].into()));
        }
        let all = ends(&queue);
        for n in 0..=5 {
            let rest = queue.split_off(n);
            let (front, back) = all.split_at(n.min(4));
            assert_eq!((ends(&queue), ends(&rest)), (front.to_vec(), back.to_vec()));
            queue.append(rest);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn runs_join_what_has_one_length_and_goes_to_one_place() {
        let mut queue = DatagramQueue::default();
        let [a, b] = [1, 2].map(|port| Address::udp(([127, 0, 0, 1], port)));
        let from = Some(IpAddr::from([127, 0, 0, 1]));
        let push = |queue: &mut DatagramQueue, length: usize, to: &Address, from| {
            queue.push(&vec![0; length], Some(to.clone()), from);
        };
        // To `a`: two, and a shorter one; a longer one; two empty ones. Then to `b`, and from
        // another address.
        for length in [3, 3, 2, 3, 4, 0, 0, 1] {
            push(&mut queue, length, &a, None);
        }
        push(&mut queue, 1, &b, None);
        push(&mut queue, 1, &b, from);
        let seen = |queue: &DatagramQueue, join| -> Vec<(usize, usize, usize)> {
            queue.runs(join).map(|run| (run.data.len(), run.segment, run.count)).collect()
        };
        let joined = [(8, 3, 3), (3, 3, 1), (4, 4, 1), (0, 0, 1), (0, 0, 1), (1, 1, 1), (1, 1, 1)];
        assert_eq!(seen(&queue, true), [&joined[..], &[(1, 1, 1)]].concat());
        assert_eq!(seen(&queue, false).len(), queue.len());
        queue.pop(usize::MAX);
        for _ in 0..100 {
            push(&mut queue, 1000, &a, None);
        }
        assert_eq!(seen(&queue, true), [(64_000, 1000, 64), (36_000, 1000, 36)]);
        queue.pop(usize::MAX);
        for _ in 0..3 {
            push(&mut queue, 30_000, &a, None);
        }
        assert_eq!(seen(&queue, true), [(60_000, 30_000, 2), (30_000, 30_000, 1)]);
    }
}
