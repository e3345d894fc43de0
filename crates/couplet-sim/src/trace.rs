//! The trace of a world: its events, in order. Every record is folded into a hash; the most recent
//! are kept for failure reports, and all of them on request.

use std::collections::VecDeque;
use std::fmt;

use couplet_core::Address;

use super::random::{fold, fold_bytes};

/// Number of records always kept.
const RECENT: usize = 200;

/// Names a connection in a trace: its client's host and that host's connect counter. Unlike keys
/// and ids, it is the same in every run of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    pub(super) client: u32,
    pub(super) ordinal: u32,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TraceEvent {
    Starts,
    Ends(String),
    Crashes,
    Killed,
    FaultBegins(u32),
    FaultEnds(u32),
    Listens(Address),
    Tries(Label, Address),
    Accepts(Label),
    TurnsAway(Label),
    Made(Label),
    /// Bytes handed to the driver.
    Sent(Label, usize),
    /// Bytes delivered to a protocol, and their hash.
    Data(Label, usize, u64),
    ReadClosed(Label),
    WriteClosed(Label),
    Draining(Label),
    Resumed(Label),
    Secure(Label),
    /// The program has left the connection to its successor.
    HandsOver(Label),
    Lost(Label, String),
    /// A datagram, named by its sender's host and that host's datagram counter.
    Datagram(Label, DatagramFate),
    Name(String),
    Job,
    Note(String),
    Broken(String),
}

/// A step in the life of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DatagramFate {
    /// A program sends it: its destination, its length and its hash.
    Sent(Address, usize, u64),
    /// No host has its destination's address.
    NoHost,
    /// The network loses it on the way to this host.
    Lost(u32),
    /// The network delivers it to this host twice.
    Duplicated(u32),
    /// Later datagrams may overtake it on the way to this host.
    Reordered(u32),
    /// Only this many of its bytes reach this host.
    Truncated(u32, usize),
    /// A fault or a power failure separates the hosts when it arrives.
    CutOff,
    /// No socket of this host receives it.
    NoReceiver,
    /// The queue of its receiver is full.
    QueueFull,
    /// The receiver closes before the program takes it.
    Unread,
    /// A program receives it: its length and its hash.
    Received(usize, u64),
    /// The sender gets an error because no socket receives it.
    Refused,
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Nanoseconds since the start.
    pub(super) at: u64,
    /// `None` for the world itself.
    pub(super) host: Option<u32>,
    pub(super) event: TraceEvent,
}

pub(super) struct Trace {
    hash: u64,
    count: u64,
    records: VecDeque<Record>,
    /// The number of records kept.
    most: usize,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace { hash: 0, count: 0, records: VecDeque::new(), most: RECENT }
    }

    /// Keeps all records from now on.
    pub(super) fn keep_all(&mut self) {
        self.most = usize::MAX;
    }

    pub(super) fn add(&mut self, record: Record) {
        self.hash = record.fold_into(self.hash);
        self.count += 1;
        if self.records.len() == self.most {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    /// Folds an event into the hash, whether or not it also gets a record.
    pub(super) fn step(&mut self, at: u64, kind: u64) {
        self.hash = fold(fold(self.hash, at), kind);
    }

    pub(super) fn hash(&self) -> u64 {
        fold(self.hash, self.count)
    }

    /// The number of dropped records, and the kept ones.
    pub(super) fn records(&self) -> (u64, &VecDeque<Record>) {
        (self.count - self.records.len() as u64, &self.records)
    }
}

/// Omits the kind of a TCP address: most addresses are TCP.
fn short(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        other => other.to_string(),
    }
}

impl Record {
    fn fold_into(&self, hash: u64) -> u64 {
        let hash = fold(fold(hash, self.at), self.host.map_or(u64::MAX, u64::from));
        let label = |hash, kind, label: &Label| {
            fold(fold(fold(hash, kind), u64::from(label.client)), u64::from(label.ordinal))
        };
        match &self.event {
            TraceEvent::Starts => fold(hash, 1),
            TraceEvent::Ends(how) => fold_bytes(fold(hash, 2), how.as_bytes()),
            TraceEvent::Crashes => fold(hash, 3),
            TraceEvent::Killed => fold(hash, 4),
            TraceEvent::FaultBegins(n) => fold(fold(hash, 5), u64::from(*n)),
            TraceEvent::FaultEnds(n) => fold(fold(hash, 6), u64::from(*n)),
            TraceEvent::Listens(at) => fold_bytes(fold(hash, 7), short(at).as_bytes()),
            TraceEvent::Tries(l, to) => fold_bytes(label(hash, 8, l), short(to).as_bytes()),
            TraceEvent::Accepts(l) => label(hash, 9, l),
            TraceEvent::TurnsAway(l) => label(hash, 10, l),
            TraceEvent::Made(l) => label(hash, 11, l),
            TraceEvent::Sent(l, n) => fold(label(hash, 12, l), *n as u64),
            TraceEvent::Data(l, n, bytes) => fold(fold(label(hash, 13, l), *n as u64), *bytes),
            TraceEvent::ReadClosed(l) => label(hash, 14, l),
            TraceEvent::WriteClosed(l) => label(hash, 15, l),
            TraceEvent::Draining(l) => label(hash, 23, l),
            TraceEvent::Resumed(l) => label(hash, 16, l),
            TraceEvent::Secure(l) => label(hash, 22, l),
            TraceEvent::HandsOver(l) => label(hash, 25, l),
            TraceEvent::Lost(l, why) => fold_bytes(label(hash, 17, l), why.as_bytes()),
            TraceEvent::Datagram(l, fate) => fate.fold_into(label(hash, 24, l)),
            TraceEvent::Name(name) => fold_bytes(fold(hash, 18), name.as_bytes()),
            TraceEvent::Job => fold(hash, 19),
            TraceEvent::Note(text) => fold_bytes(fold(hash, 20), text.as_bytes()),
            TraceEvent::Broken(text) => fold_bytes(fold(hash, 21), text.as_bytes()),
        }
    }
}

impl DatagramFate {
    fn fold_into(&self, hash: u64) -> u64 {
        let host = |kind, host: &u32| fold(fold(hash, kind), u64::from(*host));
        match self {
            DatagramFate::Sent(to, n, bytes) => {
                let hash = fold_bytes(fold(hash, 1), to.to_string().as_bytes());
                fold(fold(hash, *n as u64), *bytes)
            }
            DatagramFate::NoHost => fold(hash, 2),
            DatagramFate::Lost(to) => host(3, to),
            DatagramFate::Duplicated(to) => host(4, to),
            DatagramFate::Reordered(to) => host(5, to),
            DatagramFate::Truncated(to, n) => fold(host(6, to), *n as u64),
            DatagramFate::CutOff => fold(hash, 7),
            DatagramFate::NoReceiver => fold(hash, 8),
            DatagramFate::QueueFull => fold(hash, 9),
            DatagramFate::Unread => fold(hash, 10),
            DatagramFate::Received(n, bytes) => fold(fold(fold(hash, 11), *n as u64), *bytes),
            DatagramFate::Refused => fold(hash, 12),
        }
    }
}

/// Host and fault names for printing a trace.
pub(super) struct Legend<'a> {
    pub(super) hosts: &'a [String],
    pub(super) faults: &'a [String],
}

impl Legend<'_> {
    fn host(&self, index: u32) -> &str {
        self.hosts.get(index as usize).map_or("?", |name| name)
    }

    fn write_fate(&self, fate: &DatagramFate, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match fate {
            DatagramFate::Sent(to, n, hash) => {
                write!(f, "sends {n} bytes {:08x} to {to}", hash >> 32)
            }
            DatagramFate::NoHost => f.write_str("dropped: no host has this address"),
            DatagramFate::Lost(to) => write!(f, "dropped: lost on the way to {}", self.host(*to)),
            DatagramFate::Duplicated(to) => {
                write!(f, "duplicated on the way to {}", self.host(*to))
            }
            DatagramFate::Reordered(to) => write!(f, "reordered on the way to {}", self.host(*to)),
            DatagramFate::Truncated(to, n) => {
                write!(f, "truncated to {n} bytes on the way to {}", self.host(*to))
            }
            DatagramFate::CutOff => f.write_str("dropped: the hosts are separated, or one is down"),
            DatagramFate::NoReceiver => f.write_str("dropped: no socket receives it"),
            DatagramFate::QueueFull => f.write_str("dropped: the queue of its receiver is full"),
            DatagramFate::Unread => f.write_str("dropped: its receiver closed before reading it"),
            DatagramFate::Received(n, hash) => {
                write!(f, "datagram_received {n} bytes {:08x}", hash >> 32)
            }
            DatagramFate::Refused => f.write_str("refused: no socket receives it"),
        }
    }

    /// One line, without the newline.
    pub(super) fn line<'a>(&'a self, record: &'a Record) -> Line<'a> {
        Line { legend: self, record }
    }
}

pub(super) struct Line<'a> {
    legend: &'a Legend<'a>,
    record: &'a Record,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { legend, record: Record { at, host, event } } = self;
        let host = host.map_or("", |host| legend.host(host));
        write!(f, "{:>6}.{:09} {host:<10} ", at / 1_000_000_000, at % 1_000_000_000)?;
        let of = |f: &mut fmt::Formatter<'_>, l: &Label| {
            write!(f, "{}#{} ", legend.host(l.client), l.ordinal)
        };
        let fault = |n: &u32| legend.faults.get(*n as usize).map_or("a fault", |text| text);
        match event {
            TraceEvent::Starts => f.write_str("starts"),
            TraceEvent::Ends(how) => write!(f, "ends: {how}"),
            TraceEvent::Crashes => f.write_str("crashes: it loses power"),
            TraceEvent::Killed => f.write_str("is killed"),
            TraceEvent::FaultBegins(n) => write!(f, "fault {n} begins: {}", fault(n)),
            TraceEvent::FaultEnds(n) => write!(f, "fault {n} ends: {}", fault(n)),
            TraceEvent::Listens(at) => write!(f, "listens on {}", short(at)),
            TraceEvent::Tries(l, to) => {
                of(f, l)?;
                write!(f, "tries {}", short(to))
            }
            TraceEvent::Accepts(l) => {
                of(f, l)?;
                f.write_str("accepted")
            }
            TraceEvent::TurnsAway(l) => {
                of(f, l)?;
                f.write_str("turned away: no descriptors")
            }
            TraceEvent::Made(l) => {
                of(f, l)?;
                f.write_str("connection_made")
            }
            TraceEvent::HandsOver(l) => {
                of(f, l)?;
                f.write_str("handed over")
            }
            TraceEvent::Sent(l, n) => {
                of(f, l)?;
                write!(f, "sends {n} bytes")
            }
            TraceEvent::Data(l, n, hash) => {
                of(f, l)?;
                write!(f, "data_received {n} bytes {:08x}", hash >> 32)
            }
            TraceEvent::ReadClosed(l) => {
                of(f, l)?;
                f.write_str("read_closed")
            }
            TraceEvent::WriteClosed(l) => {
                of(f, l)?;
                f.write_str("write_closed")
            }
            TraceEvent::Draining(l) => {
                of(f, l)?;
                f.write_str("draining")
            }
            TraceEvent::Resumed(l) => {
                of(f, l)?;
                f.write_str("reading_resumed")
            }
            TraceEvent::Secure(l) => {
                of(f, l)?;
                f.write_str("handshake_completed")
            }
            TraceEvent::Lost(l, why) => {
                of(f, l)?;
                write!(f, "connection_lost: {why}")
            }
            TraceEvent::Datagram(l, fate) => {
                write!(f, "{}~{} ", legend.host(l.client), l.ordinal)?;
                legend.write_fate(fate, f)
            }
            TraceEvent::Name(text) => write!(f, "looks up {text}"),
            TraceEvent::Job => f.write_str("a job has run"),
            TraceEvent::Note(text) => write!(f, "note: {text}"),
            TraceEvent::Broken(text) => write!(f, "BROKEN: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_200_records_are_kept_and_all_from_then_on_if_asked_for() {
        let mut trace = Trace::new();
        let add = |trace: &mut Trace, to: u64| {
            for at in trace.count..to {
                trace.add(Record { at, host: None, event: TraceEvent::Job });
            }
            let (before, kept) = trace.records();
            (before, kept.len(), kept.front().map(|record| record.at))
        };
        assert_eq!(add(&mut trace, 200), (0, 200, Some(0)));
        assert_eq!(add(&mut trace, 201), (1, 200, Some(1)));
        assert_eq!(add(&mut trace, 450), (250, 200, Some(250)));
        trace.keep_all();
        assert_eq!(add(&mut trace, 1000), (250, 750, Some(250)));
    }
}
