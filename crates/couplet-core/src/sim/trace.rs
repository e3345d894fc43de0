//! The trace of a world: its events, in order. Every record is folded into a hash; the most recent
//! are kept for failure reports, and all of them on request.

use std::collections::VecDeque;
use std::fmt;

use super::random::{fold, fold_bytes};
use crate::address::Address;

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
pub(super) enum What {
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
    Lost(Label, String),
    /// A datagram, named by its sender's host and that host's datagram counter.
    Datagram(Label, Fate),
    Name(String),
    Job,
    Note(String),
    Broken(String),
}

/// A step in the life of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
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
    /// Its receiver closes before the program takes it.
    Unread,
    /// A program receives it: its length and its hash.
    Received(usize, u64),
    /// Its sender gets an error because no socket receives it.
    Refused,
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Nanoseconds since the start.
    pub(super) at: u64,
    /// `None` for the world itself.
    pub(super) host: Option<u32>,
    pub(super) what: What,
}

pub(super) struct Trace {
    hash: u64,
    count: u64,
    kept: VecDeque<Record>,
    whole: bool,
}

impl Trace {
    pub(super) fn new() -> Trace {
        Trace { hash: 0, count: 0, kept: VecDeque::new(), whole: false }
    }

    /// Keeps all records from now on.
    pub(super) fn keep_all(&mut self) {
        self.whole = true;
    }

    pub(super) fn add(&mut self, record: Record) {
        self.hash = record.fold_into(self.hash);
        self.count += 1;
        if !self.whole && self.kept.len() == RECENT {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
    }

    /// Folds an event into the hash, whether or not it also gets a record.
    pub(super) fn step(&mut self, at: u64, kind: u64) {
        self.hash = fold(fold(self.hash, at), kind);
    }

    pub(super) fn hash(&self) -> u64 {
        fold(self.hash, self.count)
    }

    /// The number of dropped records, and the kept ones.
    pub(super) fn kept(&self) -> (u64, &VecDeque<Record>) {
        (self.count - self.kept.len() as u64, &self.kept)
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
        match &self.what {
            What::Starts => fold(hash, 1),
            What::Ends(how) => fold_bytes(fold(hash, 2), how.as_bytes()),
            What::Crashes => fold(hash, 3),
            What::Killed => fold(hash, 4),
            What::FaultBegins(n) => fold(fold(hash, 5), u64::from(*n)),
            What::FaultEnds(n) => fold(fold(hash, 6), u64::from(*n)),
            What::Listens(at) => fold_bytes(fold(hash, 7), short(at).as_bytes()),
            What::Tries(l, to) => fold_bytes(label(hash, 8, l), short(to).as_bytes()),
            What::Accepts(l) => label(hash, 9, l),
            What::TurnsAway(l) => label(hash, 10, l),
            What::Made(l) => label(hash, 11, l),
            What::Sent(l, n) => fold(label(hash, 12, l), *n as u64),
            What::Data(l, n, bytes) => fold(fold(label(hash, 13, l), *n as u64), *bytes),
            What::ReadClosed(l) => label(hash, 14, l),
            What::WriteClosed(l) => label(hash, 15, l),
            What::Draining(l) => label(hash, 23, l),
            What::Resumed(l) => label(hash, 16, l),
            What::Secure(l) => label(hash, 22, l),
            What::Lost(l, why) => fold_bytes(label(hash, 17, l), why.as_bytes()),
            What::Datagram(l, fate) => fate.fold_into(label(hash, 24, l)),
            What::Name(name) => fold_bytes(fold(hash, 18), name.as_bytes()),
            What::Job => fold(hash, 19),
            What::Note(text) => fold_bytes(fold(hash, 20), text.as_bytes()),
            What::Broken(text) => fold_bytes(fold(hash, 21), text.as_bytes()),
        }
    }
}

impl Fate {
    fn fold_into(&self, hash: u64) -> u64 {
        let host = |kind, host: &u32| fold(fold(hash, kind), u64::from(*host));
        match self {
            Fate::Sent(to, n, bytes) => {
                let hash = fold_bytes(fold(hash, 1), to.to_string().as_bytes());
                fold(fold(hash, *n as u64), *bytes)
            }
            Fate::NoHost => fold(hash, 2),
            Fate::Lost(to) => host(3, to),
            Fate::Duplicated(to) => host(4, to),
            Fate::Reordered(to) => host(5, to),
            Fate::Truncated(to, n) => fold(host(6, to), *n as u64),
            Fate::CutOff => fold(hash, 7),
            Fate::NoReceiver => fold(hash, 8),
            Fate::QueueFull => fold(hash, 9),
            Fate::Unread => fold(hash, 10),
            Fate::Received(n, bytes) => fold(fold(fold(hash, 11), *n as u64), *bytes),
            Fate::Refused => fold(hash, 12),
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

    fn fate(&self, fate: &Fate, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match fate {
            Fate::Sent(to, n, hash) => write!(f, "sends {n} bytes {:08x} to {to}", hash >> 32),
            Fate::NoHost => f.write_str("dropped: no host has this address"),
            Fate::Lost(to) => write!(f, "dropped: lost on the way to {}", self.host(*to)),
            Fate::Duplicated(to) => write!(f, "duplicated on the way to {}", self.host(*to)),
            Fate::Reordered(to) => write!(f, "reordered on the way to {}", self.host(*to)),
            Fate::Truncated(to, n) => {
                write!(f, "truncated to {n} bytes on the way to {}", self.host(*to))
            }
            Fate::CutOff => f.write_str("dropped: the hosts are separated, or one is down"),
            Fate::NoReceiver => f.write_str("dropped: no socket receives it"),
            Fate::QueueFull => f.write_str("dropped: the queue of its receiver is full"),
            Fate::Unread => f.write_str("dropped: its receiver closed before reading it"),
            Fate::Received(n, hash) => write!(f, "datagram_received {n} bytes {:08x}", hash >> 32),
            Fate::Refused => f.write_str("refused: no socket receives it"),
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
        let Line { legend, record: Record { at, host, what } } = self;
        let host = host.map_or("", |host| legend.host(host));
        write!(f, "{:>6}.{:09} {host:<10} ", at / 1_000_000_000, at % 1_000_000_000)?;
        let of = |f: &mut fmt::Formatter<'_>, l: &Label| {
            write!(f, "{}#{} ", legend.host(l.client), l.ordinal)
        };
        let fault = |n: &u32| legend.faults.get(*n as usize).map_or("a fault", |text| text);
        match what {
            What::Starts => f.write_str("starts"),
            What::Ends(how) => write!(f, "ends: {how}"),
            What::Crashes => f.write_str("crashes: its power is gone"),
            What::Killed => f.write_str("is killed"),
            What::FaultBegins(n) => write!(f, "fault {n} begins: {}", fault(n)),
            What::FaultEnds(n) => write!(f, "fault {n} ends: {}", fault(n)),
            What::Listens(at) => write!(f, "listens on {}", short(at)),
            What::Tries(l, to) => {
                of(f, l)?;
                write!(f, "tries {}", short(to))
            }
            What::Accepts(l) => {
                of(f, l)?;
                f.write_str("accepted")
            }
            What::TurnsAway(l) => {
                of(f, l)?;
                f.write_str("turned away: no descriptors")
            }
            What::Made(l) => {
                of(f, l)?;
                f.write_str("connection_made")
            }
            What::Sent(l, n) => {
                of(f, l)?;
                write!(f, "sends {n} bytes")
            }
            What::Data(l, n, hash) => {
                of(f, l)?;
                write!(f, "data_received {n} bytes {:08x}", hash >> 32)
            }
            What::ReadClosed(l) => {
                of(f, l)?;
                f.write_str("read_closed")
            }
            What::WriteClosed(l) => {
                of(f, l)?;
                f.write_str("write_closed")
            }
            What::Draining(l) => {
                of(f, l)?;
                f.write_str("draining")
            }
            What::Resumed(l) => {
                of(f, l)?;
                f.write_str("reading_resumed")
            }
            What::Secure(l) => {
                of(f, l)?;
                f.write_str("handshake_completed")
            }
            What::Lost(l, why) => {
                of(f, l)?;
                write!(f, "connection_lost: {why}")
            }
            What::Datagram(l, fate) => {
                write!(f, "{}~{} ", legend.host(l.client), l.ordinal)?;
                legend.fate(fate, f)
            }
            What::Name(text) => write!(f, "looks up {text}"),
            What::Job => f.write_str("a job has run"),
            What::Note(text) => write!(f, "note: {text}"),
            What::Broken(text) => write!(f, "BROKEN: {text}"),
        }
    }
}
