//! Rows of the views, made from the snapshot of a loop.
//!
//! Contract: 180, 180a.

use std::borrow::Cow;
use std::collections::BTreeMap;

use couplet_core::hooks::inspector::{DeferredSnapshot, LockSnapshot, PendingSnapshot, WaitRef};
use couplet_core::hooks::inspector::{chain, short_type};
use couplet_core::hooks::{NoteRow, SortedMap};
use couplet_core::reactor::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, PortSnapshot, Snapshot,
};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::chain::ChainRow;
use crate::clock::{Clock, Sentence};
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
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct LoopName {
    pub(crate) number: usize,
    /// The number with which the ids of its connections begin.
    pub(crate) serial: u32,
    pub(crate) clock: Clock,
}

/// Puts the objects of a loop into the views.
pub(crate) struct Rows<'a> {
    pub(crate) of: LoopName,
    pub(crate) version: Version,
    pub(crate) views: &'a mut SortedMap<&'static str, View>,
}

/// An object of a loop.
#[derive(Clone, PartialEq)]
pub(crate) struct Object<'a> {
    pub(crate) of: LoopName,
    pub(crate) kind: Kind<'a>,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Kind<'a> {
    Connection(Cow<'a, ConnectionSnapshot>),
    Port(Cow<'a, PortSnapshot>),
    Datagrams(Cow<'a, DatagramSnapshot>),
    Connector(Cow<'a, ConnectorSnapshot>),
    Pending(Cow<'a, PendingSnapshot>),
    /// A history can't be compared, so its row is.
    Deferred(Json),
    Lock(Cow<'a, LockSnapshot>),
    /// A row of the program's own.
    Own(Cow<'a, NoteRow>),
}

/// A row as JSON.
#[derive(Clone)]
pub(crate) struct Json(Box<RawValue>);

impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        self.0.get() == other.0.get()
    }
}

/// A row, as readers get it.
pub(crate) struct Shown<'a> {
    pub(crate) id: &'a RowId,
    pub(crate) object: &'a Object<'static>,
    /// The rates of its counts.
    pub(crate) rates: [f64; 2],
    /// False: without the fields that [another state](Object::is_only_another_state) has in common.
    pub(crate) is_whole: bool,
}

#[derive(Serialize)]
struct Connection<'a> {
    id: &'a RowId,
    #[serde(flatten)]
    lasting: Option<Lasting<'a>>,
    state: &'a str,
    why: Sentence<'a>,
    r#in: u64,
    out: u64,
    wire_in: u64,
    wire_out: u64,
    rate_in: f64,
    rate_out: f64,
    buffered: usize,
    received: f64,
}

/// The fields of a connection that stay the same for most of its life.
#[derive(Serialize)]
struct Lasting<'a> {
    r#loop: usize,
    protocol: String,
    peer: String,
    host: String,
    layers: &'a [&'static str],
    made: f64,
}

#[derive(Serialize)]
struct Port<'a> {
    id: &'a RowId,
    r#loop: usize,
    host: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    factory: Option<&'static str>,
    #[serde(flatten)]
    counters: BTreeMap<&'static str, u64>,
    rate: f64,
    paused: bool,
    why: String,
}

#[derive(Serialize)]
struct Datagrams<'a> {
    id: &'a RowId,
    r#loop: usize,
    host: String,
    kind: &'static str,
    peer: Option<String>,
    #[serde(flatten)]
    counters: BTreeMap<&'static str, u64>,
    buffered: usize,
    paused: bool,
    why: &'static str,
}

#[derive(Serialize)]
struct Connector<'a> {
    id: &'a RowId,
    r#loop: usize,
    target: &'a str,
    state: &'static str,
    place: String,
    why: Sentence<'a>,
}

#[derive(Serialize)]
struct Pending<'a> {
    id: &'a RowId,
    r#loop: usize,
    kind: &'static str,
    name: Option<&'a str>,
    place: String,
    since: f64,
    due: Option<f64>,
    why: Sentence<'a>,
    /// The rows of the objects that it waits for: `tasks/0.1.1`.
    waits_for: Vec<String>,
    cyclic: bool,
}

#[derive(Serialize)]
struct DeferredRow<'a> {
    id: &'a RowId,
    r#loop: usize,
    place: String,
    state: &'static str,
    consumer: &'a str,
    callbacks: usize,
    /// Whether the program has its resolver, and not the library.
    program: bool,
    since: Option<f64>,
    why: String,
    waits_for: Vec<String>,
    history: ChainRow,
}

#[derive(Serialize)]
struct Lock<'a> {
    id: &'a RowId,
    r#loop: usize,
    kind: &'static str,
    place: String,
    held: usize,
    of: usize,
    waiting: usize,
    since: Option<f64>,
    why: Sentence<'a>,
    waits_for: Vec<String>,
}

impl Rows<'_> {
    pub(crate) fn add(&mut self, snapshot: &Snapshot) {
        for it in &snapshot.connections {
            let counts = [it.bytes_in, it.bytes_out];
            let id = ObjectId::Connection(it.id);
            self.put("connections", id, Kind::Connection(Cow::Borrowed(it)), counts);
        }
        for (number, it) in (0..).zip(&snapshot.ports) {
            let counts = [it.counters.accepted, 0];
            self.put("ports", ObjectId::Number(number), Kind::Port(Cow::Borrowed(it)), counts);
        }
        for (number, it) in snapshot.datagrams.iter().enumerate() {
            let kind = Kind::Datagrams(Cow::Borrowed(it));
            self.put("ports", ObjectId::Datagrams(number), kind, [0; 2]);
        }
        for (number, it) in (0..).zip(&snapshot.connectors) {
            let kind = Kind::Connector(Cow::Borrowed(it));
            self.put("connectors", ObjectId::Number(number), kind, [0; 2]);
        }
        for it in &snapshot.pending {
            let kind = Kind::Pending(Cow::Borrowed(it));
            self.put(view_of(it.kind), ObjectId::Number(it.id), kind, [0; 2]);
        }
        for deferred in &snapshot.deferreds {
            self.deferred(deferred);
        }
        for it in &snapshot.locks {
            let kind = Kind::Lock(Cow::Borrowed(it));
            self.put("locks", ObjectId::Number(it.id), kind, [0; 2]);
        }
        for row in &snapshot.rows {
            self.own(row);
        }
    }

    /// Adds an object to a view.
    fn put(&mut self, view: &'static str, id: ObjectId, kind: Kind<'_>, counts: [u64; 2]) {
        let (of, id) = (self.of, RowId(self.of.number, id));
        self.views.get_or_insert_with(view, Default::default).put(
            self.version,
            id,
            Object { of, kind },
            counts,
        );
    }

    fn own(&mut self, row: &NoteRow) {
        if !self.views.contains_key(row.view) && self.views.len() >= VIEWS.len() + OWN_VIEWS {
            return;
        }
        let name = row.fields.first().map_or("", |(_, value)| value);
        let id = ObjectId::Name(name.to_owned());
        self.put(row.view, id, Kind::Own(Cow::Borrowed(row)), [0; 2]);
    }

    fn deferred(&mut self, deferred: &DeferredSnapshot) {
        let of = self.of;
        let id = RowId(of.number, ObjectId::Number(deferred.id));
        let chain = chain(&deferred.history);
        let mut why = of.clock.sentence(&deferred.why).to_string();
        if deferred.state == "ended"
            && let Some(failure) = chain.outcome().and_then(|outcome| outcome.failure)
        {
            why = format!("{why}: {failure:#}");
        }
        let row = DeferredRow {
            id: &id,
            r#loop: of.number,
            place: deferred.place.to_string(),
            state: deferred.state,
            consumer: &deferred.consumer,
            callbacks: deferred.callbacks,
            program: deferred.is_program,
            since: deferred.since.map(|since| of.clock.unix(since)),
            why,
            waits_for: of.others(&deferred.waits_for),
            history: ChainRow::of(&chain, of.clock),
        };
        // Serialization fails only for maps with other keys than texts; the rows have none.
        let json = Json(to_raw_value(&row).unwrap_or_default());
        self.put("deferreds", id.1, Kind::Deferred(json), [0; 2]);
    }
}

impl Object<'_> {
    pub(crate) fn into_owned(self) -> Object<'static> {
        fn owned<T: Clone>(it: Cow<'_, T>) -> Cow<'static, T> {
            Cow::Owned(it.into_owned())
        }
        let kind = match self.kind {
            Kind::Connection(it) => Kind::Connection(owned(it)),
            Kind::Port(it) => Kind::Port(owned(it)),
            Kind::Datagrams(it) => Kind::Datagrams(owned(it)),
            Kind::Connector(it) => Kind::Connector(owned(it)),
            Kind::Pending(it) => Kind::Pending(owned(it)),
            Kind::Deferred(json) => Kind::Deferred(json),
            Kind::Lock(it) => Kind::Lock(owned(it)),
            Kind::Own(it) => Kind::Own(owned(it)),
        };
        Object { of: self.of, kind }
    }

    /// Whether another object differs only in the fields that a connection changes often.
    pub(crate) fn is_only_another_state(&self, other: &Object<'_>) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Connection(a), Kind::Connection(b)) => {
                (a.protocol, &a.layers, &a.peer, &a.host, a.made_at)
                    == (b.protocol, &b.layers, &b.peer, &b.host, b.made_at)
            }
            _ => false,
        }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.object.kind {
            Kind::Connection(it) => self.connection(it).serialize(serializer),
            Kind::Port(it) => self.port(it).serialize(serializer),
            Kind::Datagrams(it) => self.datagrams(it).serialize(serializer),
            Kind::Connector(it) => self.connector(it).serialize(serializer),
            Kind::Pending(it) => self.pending(it).serialize(serializer),
            Kind::Deferred(Json(json)) => json.serialize(serializer),
            Kind::Lock(it) => self.lock(it).serialize(serializer),
            Kind::Own(it) => self.own(it, serializer),
        }
    }
}

/// Counters as fields of a row.
pub(crate) fn named(
    counters: impl Iterator<Item = (&'static str, &'static str, u64)>,
) -> BTreeMap<&'static str, u64> {
    counters.map(|(name, _, value)| (name, value)).collect()
}

impl Shown<'_> {
    fn connection<'a>(&'a self, connection: &'a ConnectionSnapshot) -> Connection<'a> {
        let LoopName { number, clock, .. } = self.object.of;
        let lasting = self.is_whole.then(|| Lasting {
            r#loop: number,
            protocol: short_type(connection.protocol).to_string(),
            peer: connection.peer.to_string(),
            host: connection.host.to_string(),
            layers: &connection.layers,
            made: clock.unix(connection.made_at),
        });
        Connection {
            id: self.id,
            lasting,
            state: connection.state,
            why: clock.sentence(&connection.why),
            r#in: connection.bytes_in,
            out: connection.bytes_out,
            wire_in: connection.wire[0],
            wire_out: connection.wire[1],
            rate_in: self.rates[0],
            rate_out: self.rates[1],
            buffered: connection.buffered,
            received: clock.unix(connection.received_at),
        }
    }

    fn port<'a>(&'a self, port: &PortSnapshot) -> Port<'a> {
        Port {
            id: self.id,
            r#loop: self.object.of.number,
            host: port.host.to_string(),
            kind: "connections",
            factory: port.factory,
            counters: named(port.counters.iter()),
            rate: self.rates[0],
            paused: port.paused,
            why: match (port.paused, port.counters.turned_away) {
                (true, _) => "accepts nothing: paused, or at a limit of connections".to_owned(),
                (false, 0) => "waits for clients".to_owned(),
                (false, n) => {
                    format!("waits for clients; turned {n} away, which found no free descriptor")
                }
            },
        }
    }

    fn datagrams<'a>(&'a self, port: &DatagramSnapshot) -> Datagrams<'a> {
        Datagrams {
            id: self.id,
            r#loop: self.object.of.number,
            host: port.host.to_string(),
            kind: "datagrams",
            peer: port.peer.as_ref().map(ToString::to_string),
            counters: named(port.counters.iter()),
            buffered: port.buffered,
            paused: port.paused,
            why: match port.paused {
                true => "receiving is paused",
                false => "waits for datagrams",
            },
        }
    }

    fn connector<'a>(&'a self, connector: &'a ConnectorSnapshot) -> Connector<'a> {
        let LoopName { number, clock, .. } = self.object.of;
        Connector {
            id: self.id,
            r#loop: number,
            target: &connector.target,
            state: connector.state,
            place: connector.place.to_string(),
            why: clock.sentence(&connector.why),
        }
    }

    fn pending<'a>(&'a self, pending: &'a PendingSnapshot) -> Pending<'a> {
        let of = self.object.of;
        Pending {
            id: self.id,
            r#loop: of.number,
            kind: pending.kind,
            name: pending.name.as_deref(),
            place: pending.place.to_string(),
            since: of.clock.unix(pending.since),
            due: pending.due.map(|due| of.clock.unix(due)),
            why: of.clock.sentence(&pending.why),
            waits_for: of.others(&pending.waits_for),
            cyclic: pending.is_cyclic,
        }
    }

    fn lock<'a>(&'a self, lock: &'a LockSnapshot) -> Lock<'a> {
        let of = self.object.of;
        Lock {
            id: self.id,
            r#loop: of.number,
            kind: lock.kind,
            place: lock.place.to_string(),
            held: lock.held,
            of: lock.tokens,
            waiting: lock.waiting,
            since: lock.since.map(|since| of.clock.unix(since)),
            why: of.clock.sentence(&lock.why),
            waits_for: of.others(&lock.waits_for),
        }
    }

    /// Whole numbers are shown as such, and times, which have fractions of a second.
    fn own<S: Serializer>(&self, row: &NoteRow, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("id", self.id)?;
        object.serialize_entry("loop", &self.object.of.number)?;
        for (field, value) in &row.fields {
            let time = value.parse::<f64>().ok().filter(|time| time.is_finite());
            match (value.parse::<u64>(), time) {
                (Ok(number), _) => object.serialize_entry(field, &number)?,
                (_, Some(time)) if TIMES.contains(field) => object.serialize_entry(field, &time)?,
                _ => object.serialize_entry(field, value)?,
            }
        }
        object.end()
    }
}

/// The fields of a program's rows that are times, in seconds since 1970.
const TIMES: [&str; 2] = ["since", "due"];

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
