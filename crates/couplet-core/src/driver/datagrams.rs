//! Datagrams at the seam: received and outgoing datagrams, and the options of a datagram port.
//!
//! Contract: 157a.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::PeerCredentials;
use crate::address::Address;
use crate::bounded::{AtMost, Bounded};

/// A received datagram, borrowed for the call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// The payload, which may be empty.
    pub data: &'a [u8],
    /// The sender, with the scope of an IPv6 address. [Unnamed](crate::UnixAddress::Unnamed) on a
    /// UNIX socket whose peer has no name; such a datagram can't be answered.
    pub from: Address,
    /// The destination address, which differs from the port's on a wildcard port and for multicasts.
    /// `None` if the system does not report it.
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

#[cfg(feature = "testing")]
impl Group {
    /// Joins or leaves the group with a socket of these groups, on a network without interfaces.
    pub(crate) fn set_in_memory(
        self,
        change: Membership,
        groups: &mut Vec<Group>,
    ) -> io::Result<()> {
        let joined = groups.iter().position(|group| *group == self);
        match (change, joined) {
            (Membership::Join, _) if !self.address.is_multicast() => {
                Err(io::ErrorKind::InvalidInput.into())
            }
            (Membership::Join, None) => {
                groups.push(self);
                Ok(())
            }
            (Membership::Join, Some(_)) => Err(io::ErrorKind::AddrInUse.into()),
            (Membership::Leave, Some(index)) => {
                groups.swap_remove(index);
                Ok(())
            }
            (Membership::Leave, None) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }
}

impl<A: Into<IpAddr>> From<A> for Group {
    fn from(address: A) -> Group {
        Group::new(address)
    }
}

/// A change of the members of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Twisted's `joinGroup`.
    Join,
    /// Twisted's `leaveGroup`.
    Leave,
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

/// Time after which a receiver that was full is tried again, doubled each time up to the second. No
/// event reports that the queue of a UNIX socket has room.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// Maximum datagrams in a queue, regardless of their length.
pub(crate) const MOST_QUEUED: usize = 16 * 1024;

/// Queued datagrams, in order: their bytes in one buffer, and a list of lengths and destinations.
///
/// Datagrams for a receiver that takes none for now are held apart, so that they delay only those
/// behind them for the same receiver.
#[derive(Default)]
pub struct DatagramQueue {
    bytes: Vec<u8>,
    /// Bytes at the front of the buffer that are already sent.
    sent: usize,
    list: Bounded<VecDeque<QueuedDatagram>, AtMost<MOST_QUEUED>>,
    /// INVARIANT: each has datagrams, held or in the list.
    full: Bounded<BTreeMap<Address, FullReceiver>, AtMost<MOST_QUEUED>>,
    /// The number and the bytes of the held datagrams.
    held: (usize, usize),
}

type HeldDatagrams = Bounded<VecDeque<(Vec<u8>, Option<IpAddr>)>, AtMost<MOST_QUEUED>>;

/// A receiver whose queue was full.
struct FullReceiver {
    /// The datagrams for this receiver, in order. INVARIANT: none of them is in the list.
    held: HeldDatagrams,
    bytes: usize,
    retry: Retry,
    /// The last delay.
    delay: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    At(Instant),
    /// The receiver's datagrams are in the list again.
    Now,
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
    /// The payload.
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
        if let Some(full) = self.waiting_receiver(to.as_ref()) {
            full.add(data, from);
            self.held = (self.held.0 + 1, self.held.1 + data.len());
            return;
        }
        self.bytes.extend_from_slice(data);
        self.list.edit().push_back(QueuedDatagram { length: data.len(), to, from });
    }

    /// Makes room for a datagram of this length within these limits of bytes and datagrams: full
    /// receivers give way to others, those with the most bytes first. Returns how many datagrams
    /// were dropped.
    pub(crate) fn make_room(
        &mut self,
        to: Option<&Address>,
        length: usize,
        limits: (usize, usize),
    ) -> usize {
        let own = self.waiting_receiver(to).map_or(0, |full| full.bytes) + length;
        let mut dropped = 0;
        while self.bytes() + length > limits.0 || self.len() >= limits.1 {
            let mut receivers = self.full.edit();
            let waiting = receivers.iter_mut().filter(|(receiver, _)| Some(*receiver) != to);
            let Some((receiver, most)) =
                waiting.max_by_key(|(_, full)| (full.bytes, full.held.len()))
            else {
                break;
            };
            if most.bytes < own || most.held.is_empty() {
                break;
            }
            let newest = most.held.edit().pop_back().map_or(0, |(data, _)| data.len());
            most.bytes -= newest;
            self.held = (self.held.0 - 1, self.held.1 - newest);
            if most.held.is_empty() {
                let receiver = receiver.clone();
                receivers.remove(&receiver);
            }
            dropped += 1;
        }
        dropped
    }

    /// The receiver, if its datagrams are held.
    fn waiting_receiver(&mut self, to: Option<&Address>) -> Option<&mut FullReceiver> {
        if self.full.is_empty() {
            return None;
        }
        self.full.get_mut(to?).filter(|full| full.retry != Retry::Now)
    }

    fn is_waiting(&self, to: Option<&Address>) -> bool {
        let full = to.and_then(|to| self.full.get(to));
        full.is_some_and(|full| full.retry != Retry::Now)
    }

    /// Whether the list has a datagram to send, at its front. Datagrams for full receivers are
    /// held.
    pub(super) fn has_ready(&mut self) -> bool {
        while !self.full.is_empty()
            && self.list.front().is_some_and(|first| self.is_waiting(first.to.as_ref()))
        {
            self.hold_one();
        }
        !self.list.is_empty()
    }

    /// The receiver of the first datagram takes none for now.
    pub(super) fn hold_first(&mut self, now: Instant) {
        let Some(to) = self.list.front().and_then(|first| first.to.clone()) else { return };
        let mut receivers = self.full.edit();
        let full = receivers.entry(to).or_insert_with(FullReceiver::new);
        full.delay = (full.delay * 2).clamp(RETRY.0, RETRY.1);
        full.retry = Retry::At(now + full.delay);
        drop(receivers);
        self.hold_one();
    }

    /// Moves the first datagram to its receiver's held ones: the receiver is full.
    fn hold_one(&mut self) {
        let Some(first) = self.list.edit().pop_front() else { return };
        let data = self.bytes[self.sent..self.sent + first.length].to_vec();
        self.forget_bytes(first.length);
        self.held = (self.held.0 + 1, self.held.1 + data.len());
        if let Some(full) = first.to.and_then(|to| self.full.get_mut(&to)) {
            full.add(&data, first.from);
        }
    }

    /// Moves the datagrams of full receivers whose time has come to the list, to be tried.
    pub(super) fn release(&mut self, now: Instant) {
        let mut receivers = self.full.edit();
        for (to, full) in receivers.iter_mut().filter(|(_, full)| full.is_due(now)) {
            full.retry = Retry::Now;
            self.held = (self.held.0 - full.held.len(), self.held.1 - full.bytes);
            full.bytes = 0;
            for (data, from) in full.held.take() {
                self.bytes.extend_from_slice(&data);
                let to = Some(to.clone());
                self.list.edit().push_back(QueuedDatagram { length: data.len(), to, from });
            }
        }
    }

    /// When the next full receiver is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let at = |full: &FullReceiver| match full.retry {
            Retry::At(at) => Some(at),
            Retry::Now => None,
        };
        self.full.values().filter_map(at).min()
    }

    /// Iterates over the datagrams that are not held, in the order of sending.
    pub fn iter(&self) -> impl Iterator<Item = Outgoing<'_>> {
        let mut rest = &self.bytes[self.sent..];
        self.list.iter().map(move |waiting| {
            let (data, behind) = rest.split_at(waiting.length);
            rest = behind;
            Outgoing { data, to: waiting.to.as_ref(), from: waiting.from }
        })
    }

    /// The first datagram that is not held.
    pub fn first(&self) -> Option<Outgoing<'_>> {
        self.iter().next()
    }

    /// Iterates over the datagrams in the order of sending, joining consecutive ones of equal
    /// length (the last may be shorter) and equal destination into runs. With `join` false, each
    /// run is a single datagram. Ends before a datagram for a full receiver.
    #[cfg(target_os = "linux")]
    pub(super) fn runs(&self, join: bool) -> impl Iterator<Item = Run<'_>> {
        let mut rest = &self.bytes[self.sent..];
        let mut list = self.list.iter().peekable();
        std::iter::from_fn(move || {
            let first = list.next().filter(|first| !self.is_waiting(first.to.as_ref()))?;
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
        let (mut length, n) = (0, n.min(self.list.len()));
        for sent in self.list.edit().drain(..n) {
            length += sent.length;
            if !self.full.is_empty()
                && let Some(to) = &sent.to
            {
                // The receiver takes datagrams again.
                self.full.edit().remove(to);
            }
        }
        self.forget_bytes(length);
    }

    /// Removes bytes at the front, after their datagrams were removed from the list.
    fn forget_bytes(&mut self, length: usize) {
        self.sent += length;
        if self.list.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 {
            // Compacting only past half of the buffer moves at most one byte per byte sent.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Removes and returns all but the first `n` datagrams. Those that are held stay, and count as
    /// the first.
    pub(crate) fn split_off(&mut self, n: usize) -> DatagramQueue {
        let n = n.saturating_sub(self.held.0).min(self.list.len());
        let list: Bounded<_, _> = self.list.edit().split_off(n).into();
        let kept: usize = self.list.iter().map(|waiting| waiting.length).sum();
        let bytes = self.bytes.split_off(self.sent + kept);
        DatagramQueue { bytes, list, ..DatagramQueue::default() }
    }

    /// Appends all datagrams of another queue, which holds none.
    pub(crate) fn append(&mut self, mut other: DatagramQueue) {
        self.bytes.extend_from_slice(&other.bytes[other.sent..]);
        self.list.edit().append(&mut other.list.edit());
    }

    /// The number of queued datagrams.
    pub fn len(&self) -> usize {
        self.list.len() + self.held.0
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of queued bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len() - self.sent + self.held.1
    }
}

impl FullReceiver {
    fn new() -> FullReceiver {
        let retry = Retry::Now;
        FullReceiver { held: Bounded::default(), bytes: 0, retry, delay: Duration::ZERO }
    }

    fn add(&mut self, data: &[u8], from: Option<IpAddr>) {
        self.bytes += data.len();
        self.held.edit().push_back((data.to_vec(), from));
    }

    fn is_due(&self, now: Instant) -> bool {
        matches!(self.retry, Retry::At(at) if at <= now)
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
    /// The system refused the first datagram, which stays in the queue and may be sent again: a
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

    #[expect(clippy::disallowed_methods, reason = "the base of the times that the tests pass in")]
    fn start() -> Instant {
        Instant::now()
    }

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

    fn place(n: u8) -> Address {
        Address::Unix(format!("\0{n}").into())
    }

    /// Sends the queue as a driver does, to receivers, some of them full. Returns the datagrams that were sent.
    fn send(
        queue: &mut DatagramQueue,
        now: Instant,
        is_full: impl Fn(&Address) -> bool,
    ) -> Vec<(Address, Vec<u8>)> {
        let mut sent = Vec::new();
        queue.release(now);
        while queue.has_ready() {
            let first = queue.first().expect("it is ready");
            let to = first.to.expect("a receiver").clone();
            if is_full(&to) {
                queue.hold_first(now);
                continue;
            }
            sent.push((to, first.data.to_vec()));
            queue.pop(1);
        }
        sent
    }

    #[test]
    fn c157a_full_receivers_delay_no_others_and_keep_their_order() {
        let mut now = start();
        let mut queue = DatagramQueue::default();
        let mut random = 1_u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 24
        };
        let (mut pushed, mut sent): (BTreeMap<Address, Vec<Vec<u8>>>, BTreeMap<_, Vec<_>>) =
            Default::default();
        for round in 0..2000_u32 {
            for _ in 0..next() % 8 {
                let (to, data) = (place((next() % 5) as u8), round.to_be_bytes().to_vec());
                let data = data[..(next() % 5) as usize].to_vec();
                queue.push(&data, Some(to.clone()), None);
                pushed.entry(to).or_default().push(data);
            }
            let full = next() as u8;
            let is_full = |to: &Address| (0..5).any(|n| *to == place(n) && full & (1 << n) != 0);
            for (to, data) in send(&mut queue, now, is_full) {
                assert!(!is_full(&to));
                sent.entry(to).or_default().push(data);
            }
            assert!(queue.first().is_none(), "only full receivers have datagrams left");
            let left: usize = pushed.values().map(Vec::len).sum::<usize>()
                - sent.values().map(Vec::len).sum::<usize>();
            assert_eq!((queue.len(), queue.is_empty()), (left, left == 0));
            for (to, sent) in &sent {
                assert_eq!(pushed[to][..sent.len()], sent[..]);
            }
            now += Duration::from_millis(u64::from(next() % 20));
        }
        now += RETRY.1;
        for (to, data) in send(&mut queue, now, |_| false) {
            sent.entry(to).or_default().push(data);
        }
        assert_eq!((pushed, queue.bytes(), queue.next_retry()), (sent, 0, None));
    }

    #[test]
    fn c157a_each_full_receiver_is_tried_at_its_own_doubled_delays() {
        let mut now = start();
        let mut queue = DatagramQueue::default();
        queue.push(b"x", Some(place(1)), None);
        // Twice: a receiver that took datagrams begins anew.
        for _ in 0..2 {
            for expected in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
                assert!(send(&mut queue, now, |_| true).is_empty());
                let at = queue.next_retry().expect("it is full");
                assert_eq!((at - now).as_millis(), expected);
                assert!(send(&mut queue, at - Duration::from_nanos(1), |_| false).is_empty());
                now = at;
            }
            // The delays of another receiver stay short.
            queue.push(b"y", Some(place(2)), None);
            assert!(send(&mut queue, now, |_| true).is_empty());
            let at = queue.next_retry().expect("it is full");
            assert_eq!((at - now).as_millis(), 1);
            now = at;
            assert_eq!(send(&mut queue, now, |_| false), [(place(2), b"y".to_vec())]);
            now += RETRY.1;
            assert_eq!(send(&mut queue, now, |_| false), [(place(1), b"x".to_vec())]);
            queue.push(b"x", Some(place(1)), None);
        }
    }

    /// One call of the system sends several.
    #[test]
    fn c157a_each_receiver_that_takes_datagrams_in_one_call_begins_anew() {
        let mut now = start();
        let mut queue = DatagramQueue::default();
        for to in [1, 2, 3] {
            queue.push(b"x", Some(place(to)), None);
        }
        for _ in 0..4 {
            assert!(send(&mut queue, now, |_| true).is_empty());
            now += RETRY.1;
        }
        queue.release(now);
        assert!(queue.has_ready());
        queue.pop(3);
        assert_eq!((queue.len(), queue.full.len()), (0, 0), "nothing is known of them");
        for to in [1, 2, 3] {
            queue.push(b"y", Some(place(to)), None);
            assert!(send(&mut queue, now, |_| true).is_empty());
            let at = queue.next_retry().expect("it is full");
            assert_eq!(at - now, RETRY.0, "{to}");
            now = at;
            assert_eq!(send(&mut queue, now, |_| false).len(), 1);
        }
    }

    #[test]
    fn held_datagrams_stay_and_count_as_the_first_when_the_others_are_split_off() {
        for n in 0..=6 {
            let mut queue = DatagramQueue::default();
            for (to, data) in [(1, "a"), (1, "bb"), (2, "ccc"), (3, "dddd"), (2, "eeeee")] {
                queue.push(data.as_bytes(), Some(place(to)), None);
            }
            let now = start();
            queue.hold_first(now);
            assert!(queue.has_ready(), "the other receivers take theirs");
            let mut rest = queue.split_off(n);
            let others = [&b"ccc"[..], b"dddd", b"eeeee"];
            let kept = n.saturating_sub(2).min(3);
            assert_eq!((data_of(&queue), data_of(&rest)), {
                let (kept, split) = others.split_at(kept);
                let owned = |data: &[&[u8]]| data.iter().map(|data| data.to_vec()).collect();
                (owned(kept), owned(split))
            });
            assert_eq!((queue.len(), rest.len()), (2 + kept, 3 - kept));
            assert_eq!(queue.bytes() + rest.bytes(), 15);
            rest.push(b"f", Some(place(1)), None);
            queue.append(rest);
            // A datagram for a full receiver waits behind its others.
            let sent = send(&mut queue, now, |_| false);
            assert_eq!(sent.len(), 3);
            let late = send(&mut queue, now + RETRY.1, |_| false);
            let late: Vec<_> = late.into_iter().map(|(_, data)| data).collect();
            assert_eq!(late, [&b"a"[..], b"bb", b"f"]);
            assert_eq!((queue.len(), queue.bytes()), (0, 0));
        }
    }

    #[test]
    fn c157a_the_fullest_receiver_gives_way_first_and_only_to_those_with_less() {
        let now = start();
        let mut queue = DatagramQueue::default();
        for (to, count) in [(1, 5), (2, 3)] {
            (0..count).for_each(|n| queue.push(&[n; 10], Some(place(to)), None));
        }
        assert!(send(&mut queue, now, |_| true).is_empty());
        let limits = (80, 100);
        assert_eq!(queue.make_room(Some(&place(3)), 10, limits), 1);
        queue.push(&[0; 10], Some(place(3)), None);
        // Both have 30 bytes or more, the others no room for 30.
        assert_eq!(queue.make_room(Some(&place(3)), 20, limits), 2);
        assert_eq!(queue.make_room(Some(&place(1)), 10, (60, 100)), 0, "it has more itself");
        // By their number, also of empty ones.
        assert_eq!(queue.make_room(Some(&place(4)), 0, (80, 4)), 3);
        let sent = send(&mut queue, now + RETRY.1, |_| false);
        let left: Vec<_> = sent.iter().map(|(to, data)| (to.clone(), data[0])).collect();
        assert_eq!(left.iter().filter(|(to, _)| *to == place(3)).count(), 1);
        for receiver in [place(1), place(2)] {
            let numbers: Vec<u8> =
                left.iter().filter(|(to, _)| *to == receiver).map(|(_, n)| *n).collect();
            let first: Vec<u8> = (0..numbers.len() as u8).collect();
            assert_eq!(numbers, first, "the newest are dropped");
        }
        assert_eq!(queue.make_room(Some(&place(3)), 1000, limits), 0, "nothing is held");
    }

    #[test]
    fn c157a_a_receiver_whose_datagrams_were_all_dropped_is_forgotten() {
        let now = start();
        let mut queue = DatagramQueue::default();
        for n in 0..100 {
            queue.make_room(Some(&place(n)), 1, (1, 100));
            queue.push(b"x", Some(place(n)), None);
            assert!(send(&mut queue, now, |_| true).is_empty());
            assert_eq!((queue.len(), queue.full.len()), (1, 1));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn runs_end_before_a_datagram_for_a_full_receiver() {
        let now = start();
        let mut queue = DatagramQueue::default();
        let order = [1, 2, 2, 1, 3, 1, 4];
        for to in order {
            queue.push(&[to], Some(place(to)), None);
        }
        queue.hold_first(now);
        for expected in [&[2, 2][..], &[3], &[4]] {
            assert!(queue.has_ready());
            let mut seen = Vec::new();
            for run in queue.runs(false) {
                seen.extend_from_slice(run.data);
            }
            assert_eq!(seen, expected);
            queue.pop(seen.len());
        }
        assert!(!queue.has_ready());
        queue.release(now + RETRY.1);
        let all: Vec<u8> = queue.runs(true).flat_map(|run| run.data.to_vec()).collect();
        assert_eq!(all, [1, 1, 1]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn runs_join_datagrams_of_equal_length_for_one_destination() {
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
