//! Rows of the views, made from the snapshot of a loop.

use std::collections::BTreeMap;

use couplet_core::hooks::inspector::{chain, short_type};
use couplet_core::reactor::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, DeferredSnapshot, LockSnapshot,
    NoteRow, PendingSnapshot, PortSnapshot, Snapshot, WaitRef,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::chain::ChainRow;
use crate::clock::Clock;
use crate::view::{ObjectId, RowId, Version, View, row_id};

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

/// A loop, as its rows name it.
#[derive(Clone, Copy)]
pub(crate) struct LoopName {
    pub(crate) number: usize,
    /// The number with which the ids of its connections begin.
    pub(crate) serial: u32,
    pub(crate) clock: Clock,
}

/// Makes the rows of a loop.
pub(crate) struct Rows<'a> {
    pub(crate) of: LoopName,
    pub(crate) version: Version,
    // Bound: one for each view.
    pub(crate) views: &'a mut BTreeMap<&'static str, View>,
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
    history: ChainRow,
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
        for connection in &snapshot.connections {
            self.connection(connection);
        }
        for (number, port) in snapshot.ports.iter().enumerate() {
            self.port(number, port);
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
        let of = self.of;
        let name = row.fields.first().map_or("", |(_, value)| value);
        self.put(row.view, ObjectId::Name(name.to_owned()), row, [0; 2], |id, _| {
            let mut json = serde_json::Map::new();
            json.insert("id".to_owned(), id.into());
            json.insert("loop".to_owned(), of.number.into());
            for (field, value) in &row.fields {
                let value = value.parse::<u64>().map_or_else(|_| value.clone().into(), Into::into);
                json.insert((*field).to_owned(), value);
            }
            to_json(&json)
        });
    }

    /// Adds an object to a view; `make` makes its row, from the id and the rates of the counts.
    fn put<O: PartialEq + Clone + 'static>(
        &mut self,
        view: &'static str,
        id: ObjectId,
        object: &O,
        counts: [u64; 2],
        make: impl FnOnce(&str, [f64; 2]) -> Box<RawValue>,
    ) {
        let id = RowId(self.of.number, id);
        self.views.entry(view).or_default().put(self.version, id, object, counts, make);
    }

    fn connection(&mut self, connection: &ConnectionSnapshot) {
        let of = self.of;
        self.put(
            "connections",
            ObjectId::Connection(connection.id),
            connection,
            [connection.bytes_in, connection.bytes_out],
            |id, rates| {
                to_json(&Connection {
                    id,
                    r#loop: of.number,
                    protocol: short_type(connection.protocol).to_string(),
                    peer: connection.peer.to_string(),
                    host: connection.host.to_string(),
                    layers: &connection.layers,
                    state: connection.state,
                    why: of.clock.sentence(&connection.why),
                    r#in: connection.bytes_in,
                    out: connection.bytes_out,
                    wire_in: connection.wire[0],
                    wire_out: connection.wire[1],
                    rate_in: rates[0],
                    rate_out: rates[1],
                    buffered: connection.buffered,
                    received: of.clock.unix(connection.received_at),
                    made: of.clock.unix(connection.made_at),
                })
            },
        );
    }

    fn port(&mut self, number: usize, port: &PortSnapshot) {
        let of = self.of;
        self.put(
            "ports",
            ObjectId::Number(number as u64),
            port,
            [port.accepted, 0],
            |id, rates| {
                to_json(&Port {
                    id,
                    r#loop: of.number,
                    host: port.host.to_string(),
                    kind: "connections",
                    factory: port.factory,
                    accepted: port.accepted,
                    rate: rates[0],
                    not_opened: port.not_opened,
                    rejected: port.rejected,
                    turned_away: port.turned_away,
                    paused: port.paused,
                    why: match (port.paused, port.turned_away) {
                        (true, _) => {
                            "accepts nothing: paused, or at a limit of connections".to_owned()
                        }
                        (false, 0) => "waits for clients".to_owned(),
                        (false, n) => {
                            format!(
                                "waits for clients; turned {n} away, which found no free descriptor"
                            )
                        }
                    },
                })
            },
        );
    }

    fn datagrams(&mut self, number: usize, port: &DatagramSnapshot) {
        let of = self.of;
        self.put("ports", ObjectId::Datagrams(number), port, [0; 2], |id, _| {
            to_json(&Datagrams {
                id,
                r#loop: of.number,
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
            })
        });
    }

    fn connector(&mut self, number: usize, connector: &ConnectorSnapshot) {
        let of = self.of;
        self.put("connectors", ObjectId::Number(number as u64), connector, [0; 2], |id, _| {
            to_json(&Connector {
                id,
                r#loop: of.number,
                target: &connector.target,
                state: connector.state,
                place: connector.place.to_string(),
                why: of.clock.sentence(&connector.why),
            })
        });
    }

    fn pending(&mut self, pending: &PendingSnapshot) {
        let of = self.of;
        self.put(view_of(pending.kind), ObjectId::Number(pending.id), pending, [0; 2], |id, _| {
            to_json(&Pending {
                id,
                r#loop: of.number,
                kind: pending.kind,
                name: pending.name.as_deref(),
                place: pending.place.to_string(),
                since: of.clock.unix(pending.since),
                due: pending.due.map(|due| of.clock.unix(due)),
                why: of.clock.sentence(&pending.why),
                waits_for: of.others(&pending.waits_for),
                cyclic: pending.is_cyclic,
            })
        });
    }

    fn deferred(&mut self, deferred: &DeferredSnapshot) {
        let of = self.of;
        let id = ObjectId::Number(deferred.id);
        let text = RowId(of.number, id.clone()).to_string();
        let row = DeferredRow {
            id: &text,
            r#loop: of.number,
            place: deferred.place.to_string(),
            state: deferred.state,
            consumer: &deferred.consumer,
            callbacks: deferred.callbacks,
            program: deferred.is_program,
            since: deferred.since.map(|since| of.clock.unix(since)),
            why: of.clock.sentence(&deferred.why),
            waits_for: of.others(&deferred.waits_for),
            history: ChainRow::of(&chain(&deferred.history), of.clock),
        };
        // A history can't be compared, so its row is.
        let json = to_json(&row);
        let same = json.get().to_owned();
        self.put("deferreds", id, &same, [0; 2], |_, _| json);
    }

    fn lock(&mut self, lock: &LockSnapshot) {
        let of = self.of;
        self.put("locks", ObjectId::Number(lock.id), lock, [0; 2], |id, _| {
            to_json(&Lock {
                id,
                r#loop: of.number,
                kind: lock.kind,
                place: lock.place.to_string(),
                held: lock.held,
                of: lock.tokens,
                waiting: lock.waiting,
                since: lock.since.map(|since| of.clock.unix(since)),
                why: of.clock.sentence(&lock.why),
                waits_for: of.others(&lock.waits_for),
            })
        });
    }
}

impl LoopName {
    /// The rows of other objects of the loop, with their views.
    fn others(&self, others: &[WaitRef]) -> Vec<String> {
        let id = |it: &WaitRef| match it.kind {
            "connection" => row_id(self.serial, it.id),
            _ => row_id(self.number, it.id),
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

/// The rows have no map with other keys than texts, which alone could fail.
fn to_json(row: &impl Serialize) -> Box<RawValue> {
    to_raw_value(row).unwrap_or_default()
}
