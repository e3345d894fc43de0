//! [`Snapshot`]: the open, active and pending objects of a loop; for people and for tests.
//!
//! Contract: 160e.

use std::fmt;
use std::panic::Location;
use std::time::Instant;

use super::call_times::CallTimes;
use super::notes::NoteRow;
use crate::address::Address;
use crate::counters::{DatagramCounters, LoopCounters, PortCounters};
use crate::defer::History;
use crate::error::Reason;
use crate::transport::ConnectionId;
use crate::why::{Why, short_type};

/// The contents of a loop at one moment. Prints as a table. Text and fields are for people and
/// for tests, and may change in any release.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The time of the snapshot, on the loop's clock. `None` for an empty one, of no loop.
    pub at: Option<Instant>,
    /// Ports that listen, or are about to.
    pub ports: Vec<PortSnapshot>,
    /// Datagram ports, served or about to be.
    pub datagrams: Vec<DatagramSnapshot>,
    /// Connectors that are connecting or connected.
    pub connectors: Vec<ConnectorSnapshot>,
    /// Live connections.
    pub connections: Vec<ConnectionSnapshot>,
    /// Pending timed calls, including the loop's own timers.
    pub pending_calls: usize,
    /// Unfinished tasks.
    pub tasks: usize,
    /// Jobs in threads whose Deferred is pending.
    pub jobs: usize,
    /// Watched foreign descriptors.
    pub watches: usize,
    /// Connections that have ended since the loop was created.
    pub ended: Totals,
    /// The times of the calls into user code, if
    /// [`Tuning::time_calls`](super::Tuning::time_calls) is on.
    pub calls: CallTimes,
    /// Counters since the loop was created.
    pub counters: LoopCounters,
    /// Pending timed calls, tasks and jobs, each with its origin; only of a loop with an inspector or
    /// under test. [`pending_calls`](Self::pending_calls) counts all calls, including the loop's own.
    pub pending: Vec<PendingSnapshot>,
    /// Deferreds that wait, or whose results have not been taken: the oldest 1000; then the last that
    /// have ended. Only of a loop with an inspector.
    pub deferreds: Vec<DeferredSnapshot>,
    /// Locks and semaphores that are held; only of a loop with an inspector.
    pub locks: Vec<LockSnapshot>,
    /// The program's own lines: see [`hooks::note`](crate::hooks::note).
    pub notes: Vec<String>,
    /// The program's own rows: see [`hooks::note_rows`](crate::hooks::note_rows).
    pub rows: Vec<NoteRow>,
}

/// The sums of the connections of a loop that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    reasons: [u64; Reason::WORDS.len()],
    /// Bytes that their protocols received.
    pub bytes_in: u64,
    /// Bytes sent; with layers, bytes that the layers accepted.
    pub bytes_out: u64,
}

impl Totals {
    /// How many ended for each [`Reason`], by the name of its variant in lower case: `done`, `lost`,
    /// `close timed out`…
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::WORDS.into_iter().zip(self.reasons)
    }

    /// Adds a connection that has ended with a reason of this [variant](Reason::variant).
    pub(super) fn add(&mut self, reason: usize, bytes_in: u64, bytes_out: u64) {
        self.reasons[reason] += 1;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }

    /// Adds the totals of another loop.
    fn extend(&mut self, other: Totals) {
        for (ours, theirs) in self.reasons.iter_mut().zip(other.reasons) {
            *ours += theirs;
        }
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// A port in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortSnapshot {
    /// The address that the port listens on.
    pub host: Address,
    /// The name of the factory's type, if the program is written in another language.
    pub factory: Option<&'static str>,
    /// Counters since the port was opened.
    pub counters: PortCounters,
    /// Whether accepting is paused, or waits at the most connections of the port.
    pub paused: bool,
    /// The most descriptors that the port's connections use at a time, in this loop; `None` without
    /// [`ListenOptions::max_connections`](crate::ListenOptions::max_connections).
    pub max_descriptors: Option<u64>,
}

/// A datagram port in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramSnapshot {
    /// The port's address.
    pub host: Address,
    /// The only peer, if the port is limited to one.
    pub peer: Option<Address>,
    /// Counters since the port was opened.
    pub counters: DatagramCounters,
    /// Bytes queued to be sent.
    pub buffered: usize,
    /// Whether receiving is paused.
    pub paused: bool,
}

/// A connector in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectorSnapshot {
    /// The target, as an endpoint string.
    pub target: String,
    /// `waiting`, `looking up`, `connecting` or `connected`.
    pub state: &'static str,
    /// The source location of the request.
    pub place: &'static Location<'static>,
    /// The event that it waits for, in words.
    pub why: Why,
}

/// A pending timed call, task or job in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingSnapshot {
    /// `task`, `job`, or the kind of timed call: `timed call`, `sleep`, `timeout`, `looping call`,
    /// `cooperator`, `interval`.
    pub kind: &'static str,
    /// Distinguishes it from the others of its kind, as long as its loop lives.
    pub id: u64,
    /// The name of a task, if it has one.
    pub name: Option<String>,
    /// The source location of the request.
    pub place: &'static Location<'static>,
    /// When it was requested.
    pub since: Instant,
    /// When a timed call is due.
    pub due: Option<Instant>,
    /// The event that it waits for, in words.
    pub why: Why,
    /// The objects that a task waits for.
    pub waits_for: Vec<WaitRef>,
    /// Whether a task waits for itself, by way of the others in a cycle.
    pub is_cyclic: bool,
}

/// An object for which another one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct WaitRef {
    /// `task`, `deferred`, `lock`, `connection`, or the kind of a [`PendingSnapshot`].
    pub kind: &'static str,
    /// The number of the object within its kind.
    pub id: u64,
}

/// A Deferred in a [`Snapshot`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeferredSnapshot {
    /// Distinguishes it from the others, as long as its loop lives.
    pub id: u64,
    /// Where it was created.
    pub place: &'static Location<'static>,
    /// When it was created.
    pub since: Option<Instant>,
    /// `pending`, `chained` (it waits for another Deferred), `fired` (its result has not been
    /// taken), or `ended` (nothing of it is left but its history).
    pub state: &'static str,
    /// The consumer of its result, in words.
    pub consumer: String,
    /// How many callbacks have been added to it.
    pub callbacks: usize,
    /// Whether the program has its resolver, and not the library.
    pub is_program: bool,
    /// Whether a task or another Deferred waits for it.
    pub is_awaited: bool,
    /// The callbacks, and their results.
    pub history: History,
    /// The event that it waits for, in words.
    pub why: Why,
    /// The objects that it waits for.
    pub waits_for: Vec<WaitRef>,
}

/// A lock or semaphore in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockSnapshot {
    /// Distinguishes it from the others, as long as its loop lives.
    pub id: u64,
    /// `lock` or `semaphore`.
    pub kind: &'static str,
    /// Where it was created.
    pub place: &'static Location<'static>,
    /// How many may hold it.
    pub tokens: usize,
    /// How many hold it.
    pub held: usize,
    /// How many wait for it.
    pub waiting: usize,
    /// Since when its first holder has it.
    pub since: Option<Instant>,
    /// Since when it has been granted to a future that nothing polls: a futurelock.
    pub untaken: Option<Instant>,
    /// The holder, in words.
    pub why: Why,
    /// The tasks and Deferreds that hold it.
    pub waits_for: Vec<WaitRef>,
}

/// A connection in a [`Snapshot`]. Equal to a later one while nothing but time has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionSnapshot {
    /// The connection's id.
    pub id: ConnectionId,
    /// The name of the protocol's type; empty while the layers are opening.
    pub protocol: &'static str,
    /// The names of the layers, from the socket up.
    pub layers: Vec<&'static str>,
    /// The address of the other end.
    pub peer: Address,
    /// The address of our end.
    pub host: Address,
    /// `opening` (its layers are not open yet), `open`, `paused`, `half-closed`, `flushing`, `lingering` or `closed`.
    pub state: &'static str,
    /// Bytes received by the protocol.
    pub bytes_in: u64,
    /// Bytes sent; with layers, bytes that the layers accepted.
    pub bytes_out: u64,
    /// Bytes that the socket received and sent. With layers these differ from the protocol's.
    pub wire: [u64; 2],
    /// Bytes written but not yet sent; for an HTTP server, including bytes held for its client in
    /// front of the transport.
    pub buffered: usize,
    /// When bytes were last received, or else when the connection was made.
    pub received_at: Instant,
    /// When the connection was made.
    pub made_at: Instant,
    /// The reason why the connection waits, in words.
    pub why: Why,
}

impl Snapshot {
    /// Adds the snapshot of another loop of the same program.
    pub fn extend(&mut self, other: Snapshot) {
        let Snapshot { ports, datagrams, connectors, connections, pending, .. } = other;
        let Snapshot { deferreds, locks, notes, rows, ended, .. } = other;
        self.at = self.at.max(other.at);
        self.deferreds.extend(deferreds);
        self.locks.extend(locks);
        self.rows.extend(rows);
        self.pending.extend(pending);
        self.ended.extend(ended);
        self.ports.extend(ports);
        self.datagrams.extend(datagrams);
        self.connectors.extend(connectors);
        self.connections.extend(connections);
        self.notes.extend(notes);
        self.pending_calls += other.pending_calls;
        self.tasks += other.tasks;
        self.jobs += other.jobs;
        self.watches += other.watches;
        self.counters += other.counters;
        self.calls.extend(other.calls);
    }

    /// True when nothing is open, in progress or pending.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
            && self.datagrams.is_empty()
            && self.connectors.is_empty()
            && self.connections.is_empty()
            && self.pending_calls + self.tasks + self.jobs + self.watches == 0
    }
}

impl fmt::Display for DatagramSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DatagramSnapshot { host, buffered, counters, .. } = self;
        let DatagramCounters { received, sent, dropped, .. } = counters;
        let peer = self.peer.as_ref().map_or_else(String::new, |peer| format!(" with {peer}"));
        let paused = if self.paused { ", paused" } else { "" };
        write!(
            f,
            "datagrams   {host}{peer} in {received} out {sent} dropped {dropped} buffered {buffered}{paused}"
        )
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ports, {} connectors, {} connections, {} pending calls, {} tasks, {} jobs, {} watches",
            self.ports.len() + self.datagrams.len(),
            self.connectors.len(),
            self.connections.len(),
            self.pending_calls,
            self.tasks,
            self.jobs,
            self.watches
        )?;
        for port in &self.ports {
            let paused = if port.paused { ", paused" } else { "" };
            write!(f, "port        {} accepted {}", port.host, port.counters.accepted)?;
            for (name, _, count) in port.counters.iter().skip(1).filter(|(.., count)| *count > 0) {
                write!(f, ", {count} {}", name.replace('_', " "))?;
            }
            writeln!(f, "{paused}")?;
        }
        for port in &self.datagrams {
            writeln!(f, "{port}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        for connector in &self.connectors {
            writeln!(f, "connector   {} {}", connector.target, connector.state)?;
        }
        for c in &self.connections {
            let now = self.at.unwrap_or(c.received_at);
            writeln!(
                f,
                "connection  {} {} {} {} in {} out {}{} buffered {} idle {:.1} s age {:.1} s: {}",
                c.id,
                c.peer,
                short_type(c.protocol),
                c.state,
                c.bytes_in,
                c.bytes_out,
                match c.wire {
                    [i, o] if [i, o] == [c.bytes_in, c.bytes_out] => String::new(),
                    [i, o] => format!(" (on the wire {i}, {o})"),
                },
                c.buffered,
                now.saturating_duration_since(c.received_at).as_secs_f64(),
                now.saturating_duration_since(c.made_at).as_secs_f64(),
                c.why.at(now)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;
    use std::time::Duration;

    use super::*;

    /// A snapshot whose numbers are multiples of this one.
    fn loop_number(number: u64, begin: Instant) -> Snapshot {
        let at = begin + Duration::from_secs(10 - number);
        let count = number as usize;
        let (mut ended, mut calls) = (Totals::default(), CallTimes::default());
        (0..number).for_each(|_| ended.add(count, 10, 100));
        calls.add(Duration::from_micros(number));
        let (text, place, why) = (number.to_string(), Location::caller(), Why::default());
        let connector = ConnectorSnapshot {
            target: text.clone(),
            state: "connecting",
            place,
            why: why.clone(),
        };
        let pending = PendingSnapshot {
            kind: "task",
            id: number,
            name: None,
            place,
            since: at,
            due: None,
            why: why.clone(),
            waits_for: Vec::new(),
            is_cyclic: false,
        };
        let lock = LockSnapshot {
            id: number,
            kind: "lock",
            place,
            tokens: 1,
            held: 1,
            waiting: 0,
            since: None,
            untaken: None,
            why,
            waits_for: Vec::new(),
        };
        Snapshot {
            at: Some(at),
            connectors: vec![connector],
            pending: vec![pending],
            locks: vec![lock],
            notes: vec![text.clone()],
            rows: vec![NoteRow::new("numbers", [("number", text)])],
            pending_calls: count,
            tasks: 10 * count,
            jobs: 100 * count,
            watches: 1000 * count,
            ended,
            calls,
            counters: LoopCounters { shed: number, unhandled_failures: 10 * number },
            ..Snapshot::default()
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn c103f_the_snapshots_of_several_loops_are_added() {
        let (mut all, begin) = (Snapshot::default(), Instant::now());
        (1..=3).for_each(|number| all.extend(loop_number(number, begin)));
        assert_eq!(all.at, Some(begin + Duration::from_secs(9)), "the latest");
        let counts = [all.pending_calls, all.tasks, all.jobs, all.watches];
        assert_eq!(counts, [6, 60, 600, 6000]);
        let LoopCounters { shed, unhandled_failures } = all.counters;
        assert_eq!((shed, unhandled_failures), (6, 60));
        let reasons: Vec<u64> = all.ended.reasons().map(|(_, count)| count).collect();
        assert_eq!(reasons[..4], [0, 1, 2, 3]);
        assert_eq!((all.ended.bytes_in, all.ended.bytes_out), (60, 600));
        assert_eq!((all.calls.count(), all.calls.total()), (3, Duration::from_micros(6)));
        assert_eq!(all.notes, ["1", "2", "3"]);
        let lengths = [all.connectors.len(), all.pending.len(), all.locks.len(), all.rows.len()];
        assert_eq!(lengths, [3; 4]);
    }
}
