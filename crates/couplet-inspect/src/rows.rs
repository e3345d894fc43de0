//! Rows of the views, made from the snapshot of a loop.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use couplet_core::hooks::inspector::short_type;
use couplet_core::reactor::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, DeferredSnapshot, LockSnapshot,
    NoteRow, PendingSnapshot, PortSnapshot, Snapshot, WaitRef,
};
use serde::Serialize;
use serde_json::value::to_raw_value;

use crate::clock::Clock;
use crate::view::View;

/// The views, in the order in which they are shown.
pub(crate) const VIEWS: [&str; 10] = [
    "connections",
    "ports",
    "connectors",
    "services",
    "calls",
    "tasks",
    "deferreds",
    "locks",
    "jobs",
    "children",
];

/// The most views that a program may add by its own rows.
const OWN_VIEWS: usize = 20;

/// A number that grows, and its rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    count: u64,
    at: Instant,
    /// Per second.
    rate: f64,
}

impl Growth {
    /// The growth since an earlier measurement.
    fn since(before: Option<&Growth>, count: u64, at: Instant) -> Growth {
        let Some(before) = before else { return Growth { count, at, rate: 0.0 } };
        let passed = at.saturating_duration_since(before.at);
        // Measurements that follow one another quickly keep the rate.
        if passed < Duration::from_millis(200) {
            return *before;
        }
        let rate = count.saturating_sub(before.count) as f64 / passed.as_secs_f64();
        Growth { count, at, rate: (rate * 10.0).round() / 10.0 }
    }
}

/// The rates of a loop's connections and ports, by the id and the field of their rows.
// Bound: three for each connection, one for each port.
pub(crate) type Rates = BTreeMap<(String, &'static str), Growth>;

/// Makes the rows of a loop.
pub(crate) struct Rows<'a> {
    /// The number of the loop.
    pub(crate) number: usize,
    /// The number with which the ids of its connections begin.
    pub(crate) serial: u32,
    pub(crate) clock: Clock,
    pub(crate) now: Instant,
    pub(crate) version: u64,
    // Bound: one for each view.
    pub(crate) views: &'a mut BTreeMap<&'static str, View>,
    /// The rates so far; afterwards, those of the objects that still exist.
    // Bound: three for each connection, one for each port.
    pub(crate) rates: &'a mut Rates,
}

#[derive(Serialize)]
struct Connection<'a> {
    id: &'a str,
    r#loop: usize,
    protocol: String,
    peer: String,
    host: String,
    layers: &'a [&'static str],
    state: &'a str,
    why: String,
    r#in: u64,
    out: u64,
    wire_in: u64,
    wire_out: u64,
    rate_in: f64,
    rate_out: f64,
    buffered: usize,
    received: f64,
    made: f64,
}

#[derive(Serialize)]
struct Port<'a> {
    id: &'a str,
    r#loop: usize,
    host: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    factory: Option<&'static str>,
    accepted: u64,
    rate: f64,
    not_opened: u64,
    rejected: u64,
    turned_away: u64,
    paused: bool,
    // Bound: one sentence.
    why: String,
}

#[derive(Serialize)]
struct Datagrams<'a> {
    id: &'a str,
    r#loop: usize,
    host: String,
    kind: &'static str,
    peer: Option<String>,
    received: u64,
    sent: u64,
    dropped: u64,
    buffered: usize,
    paused: bool,
    why: &'static str,
}

#[derive(Serialize)]
struct Connector<'a> {
    id: &'a str,
    r#loop: usize,
    target: &'a str,
    state: &'static str,
    place: String,
    why: String,
}

#[derive(Serialize)]
struct Pending<'a> {
    id: &'a str,
    r#loop: usize,
    kind: &'static str,
    name: Option<&'a str>,
    place: String,
    since: f64,
    due: Option<f64>,
    why: String,
    /// The rows of the objects that it waits for: `tasks/0.1.1`.
    // Bound: one for each Deferred that a task has polled.
    waits_for: Vec<String>,
    cyclic: bool,
}

#[derive(Serialize)]
struct DeferredRow<'a> {
    id: &'a str,
    r#loop: usize,
    place: String,
    state: &'static str,
    consumer: &'a str,
    callbacks: usize,
    /// Whether the program has its resolver, and not the library.
    program: bool,
    since: Option<f64>,
    why: String,
    // Bound: one for each member of a group of Deferreds.
    waits_for: Vec<String>,
    // Bound: one for each callback that is kept.
    history: String,
}

#[derive(Serialize)]
struct Lock<'a> {
    id: &'a str,
    r#loop: usize,
    kind: &'static str,
    place: String,
    held: usize,
    of: usize,
    waiting: usize,
    since: Option<f64>,
    why: String,
    // Bound: the tokens of the lock.
    waits_for: Vec<String>,
}

impl Rows<'_> {
    pub(crate) fn add(&mut self, snapshot: &Snapshot) {
        let before = std::mem::take(self.rates);
        for connection in &snapshot.connections {
            self.connection(connection, &before);
        }
        for (number, port) in snapshot.ports.iter().enumerate() {
            self.port(number, port, &before);
        }
        for (number, port) in snapshot.datagrams.iter().enumerate() {
            self.datagrams(number, port);
        }
        for (number, connector) in snapshot.connectors.iter().enumerate() {
            self.connector(number, connector);
        }
        for pending in &snapshot.pending {
            self.pending(pending);
        }
        for deferred in &snapshot.deferreds {
            self.deferred(deferred);
        }
        for lock in &snapshot.locks {
            self.lock(lock);
        }
        for row in &snapshot.rows {
            self.own(row);
        }
    }

    /// A row of the program's own; numbers are shown as such.
    fn own(&mut self, row: &NoteRow) {
        if !self.views.contains_key(row.view) && self.views.len() >= VIEWS.len() + OWN_VIEWS {
            return;
        }
        let name = row.fields.first().map_or("", |(_, value)| value);
        let id = format!("{}.{name}", self.number);
        let mut json = serde_json::Map::new();
        json.insert("id".to_owned(), id.clone().into());
        json.insert("loop".to_owned(), self.number.into());
        for (field, value) in &row.fields {
            let value = value.parse::<u64>().map_or_else(|_| value.clone().into(), Into::into);
            json.insert((*field).to_owned(), value);
        }
        self.put(row.view, &id, &json);
    }

    fn put(&mut self, view: &'static str, id: &str, row: &impl Serialize) {
        // The rows have no map with other keys than texts, which alone could fail.
        let json = to_raw_value(row).unwrap_or_default();
        self.views.entry(view).or_default().put(self.version, id, json);
    }

    /// The rate of a count per second.
    fn rate(&mut self, id: &str, field: &'static str, count: u64, before: &Rates) -> f64 {
        let key = (id.to_owned(), field);
        let growth = Growth::since(before.get(&key), count, self.now);
        self.rates.insert(key, growth);
        growth.rate
    }

    fn connection(&mut self, connection: &ConnectionSnapshot, before: &Rates) {
        let id = connection.id.to_string();
        let moment = |ago: Duration| connection.at.checked_sub(ago).unwrap_or(connection.at);
        let row = Connection {
            id: &id,
            r#loop: self.number,
            protocol: short_type(connection.protocol).to_string(),
            peer: connection.peer.to_string(),
            host: connection.host.to_string(),
            layers: &connection.layers,
            state: connection.state,
            why: self.clock.sentence(&connection.why),
            r#in: connection.bytes_in,
            out: connection.bytes_out,
            wire_in: connection.wire[0],
            wire_out: connection.wire[1],
            rate_in: self.rate(&id, "in", connection.bytes_in, before),
            rate_out: self.rate(&id, "out", connection.bytes_out, before),
            buffered: connection.buffered,
            received: self.clock.unix(moment(connection.idle)),
            made: self.clock.unix(moment(connection.age)),
        };
        self.put("connections", &id, &row);
    }

    fn port(&mut self, number: usize, port: &PortSnapshot, before: &Rates) {
        let id = format!("{}.{number}", self.number);
        let row = Port {
            id: &id,
            r#loop: self.number,
            host: port.host.to_string(),
            kind: "connections",
            factory: port.factory,
            accepted: port.accepted,
            rate: self.rate(&id, "accepted", port.accepted, before),
            not_opened: port.not_opened,
            rejected: port.rejected,
            turned_away: port.turned_away,
            paused: port.paused,
            why: match (port.paused, port.turned_away) {
                (true, _) => "accepts nothing: paused, or at a limit of connections".to_owned(),
                (false, 0) => "waits for clients".to_owned(),
                (false, n) => {
                    format!("waits for clients; turned {n} away, which found no free descriptor")
                }
            },
        };
        self.put("ports", &id, &row);
    }

    fn datagrams(&mut self, number: usize, port: &DatagramSnapshot) {
        let id = format!("{}.d{number}", self.number);
        let row = Datagrams {
            id: &id,
            r#loop: self.number,
            host: port.host.to_string(),
            kind: "datagrams",
            peer: port.peer.as_ref().map(ToString::to_string),
            received: port.received,
            sent: port.sent,
            dropped: port.dropped,
            buffered: port.buffered,
            paused: port.paused,
            why: match port.paused {
                true => "receiving is paused",
                false => "waits for datagrams",
            },
        };
        self.put("ports", &id, &row);
    }

    fn connector(&mut self, number: usize, connector: &ConnectorSnapshot) {
        let id = format!("{}.{number}", self.number);
        let row = Connector {
            id: &id,
            r#loop: self.number,
            target: &connector.target,
            state: connector.state,
            place: connector.place.to_string(),
            why: self.clock.sentence(&connector.why),
        };
        self.put("connectors", &id, &row);
    }

    fn pending(&mut self, pending: &PendingSnapshot) {
        let id = self.id(pending.id);
        let row = Pending {
            id: &id,
            r#loop: self.number,
            kind: pending.kind,
            name: pending.name.as_deref(),
            place: pending.place.to_string(),
            since: self.clock.unix(pending.since),
            due: pending.due.map(|due| self.clock.unix(due)),
            why: self.clock.sentence(&pending.why),
            waits_for: self.others(&pending.waits_for),
            cyclic: pending.is_cyclic,
        };
        self.put(view_of(pending.kind), &id, &row);
    }

    fn deferred(&mut self, deferred: &DeferredSnapshot) {
        let id = self.id(deferred.id);
        let row = DeferredRow {
            id: &id,
            r#loop: self.number,
            place: deferred.place.to_string(),
            state: deferred.state,
            consumer: &deferred.consumer,
            callbacks: deferred.callbacks,
            program: deferred.is_program,
            since: deferred.since.map(|since| self.clock.unix(since)),
            why: self.clock.sentence(&deferred.why),
            waits_for: self.others(&deferred.waits_for),
            history: deferred.history.to_string(),
        };
        self.put("deferreds", &id, &row);
    }

    fn lock(&mut self, lock: &LockSnapshot) {
        let id = self.id(lock.id);
        let row = Lock {
            id: &id,
            r#loop: self.number,
            kind: lock.kind,
            place: lock.place.to_string(),
            held: lock.held,
            of: lock.tokens,
            waiting: lock.waiting,
            since: lock.since.map(|since| self.clock.unix(since)),
            why: self.clock.sentence(&lock.why),
            waits_for: self.others(&lock.waits_for),
        };
        self.put("locks", &id, &row);
    }

    /// The id of a row: some numbers are a generation and a slot.
    fn id(&self, number: u64) -> String {
        row_id(self.number, number)
    }

    /// The rows of other objects of the loop, with their views.
    fn others(&self, others: &[WaitRef]) -> Vec<String> {
        let id = |it: &WaitRef| match it.kind {
            "connection" => row_id(self.serial, it.id),
            _ => self.id(it.id),
        };
        others.iter().map(|it| format!("{}/{}", view_of(it.kind), id(it))).collect()
    }
}

/// The view of an object that a task waits for.
fn view_of(kind: &str) -> &'static str {
    match kind {
        "task" => "tasks",
        "job" => "jobs",
        "deferred" => "deferreds",
        "lock" => "locks",
        "connection" => "connections",
        _ => "calls",
    }
}

/// The id of the row of a numbered object.
pub(crate) fn row_id(number: impl fmt::Display, of: u64) -> String {
    match (of >> 32, of as u32) {
        (0, of) => format!("{number}.{of}"),
        (generation, slot) => format!("{number}.{slot}.{generation}"),
    }
}
