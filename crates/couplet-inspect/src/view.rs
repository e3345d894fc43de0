//! Views: the rows of one kind, each with the time of its last change.
//!
//! Contract: 183.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use couplet_core::ConnectionId;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::rows::{Object, Shown};

/// How many removed rows a view remembers. A reader that missed more begins afresh.
const GONE: usize = 20_000;

/// The shortest time for which a rate is measured.
const MEASURED: Duration = Duration::from_millis(200);

/// The rows of one kind. Their JSON is made when a reader gets them.
#[derive(Default)]
pub(crate) struct View {
    rows: BTreeMap<RowId, Row>,
    /// The ids of removed rows, with the version of their removal.
    gone: VecDeque<(RowId, u64)>,
    /// Readers that have seen less begin afresh.
    complete_since: u64,
}

/// Distinguishes a row from the others of its view: the number of its loop, and its object. Readers
/// get it as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId(pub(crate) usize, pub(crate) ObjectId);

/// Distinguishes an object from the others of its kind and loop.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ObjectId {
    Connection(ConnectionId),
    /// Some numbers are a generation and a slot.
    Number(u64),
    Datagrams(usize),
    Name(String),
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RowId(number, object) = self;
        match object {
            ObjectId::Connection(id) => write!(f, "{id}"),
            ObjectId::Number(of) => f.write_str(&row_id(number, *of)),
            ObjectId::Datagrams(of) => write!(f, "{number}.d{of}"),
            ObjectId::Name(name) => write!(f, "{number}.{name}"),
        }
    }
}

/// The id of the row of a numbered object.
pub(crate) fn row_id(number: impl fmt::Display, of: u64) -> String {
    match (of >> 32, of as u32) {
        (0, of) => format!("{number}.{of}"),
        (generation, slot) => format!("{number}.{slot}.{generation}"),
    }
}

struct Row {
    /// The object when it last changed.
    object: Object<'static>,
    growth: [Growth; 2],
    /// The version in which it was new, or more than its [state](Object::is_only_another_state) changed.
    made: u64,
    /// The version in which it changed last.
    changed: u64,
    /// The last version that had it.
    seen: u64,
}

/// A number that grows, and its rate.
#[derive(Clone, Copy, Debug)]
struct Growth {
    count: u64,
    at: Instant,
    /// Per second.
    rate: f64,
}

impl Growth {
    /// Measures the rate since the last measurement; those that follow quickly keep it.
    fn measure(&mut self, count: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        if passed >= MEASURED {
            let rate = count.saturating_sub(self.count) as f64 / passed.as_secs_f64();
            *self = Growth { count, at: now, rate: (rate * 10.0).round() / 10.0 };
        }
    }
}

/// A version of the views, and its time.
#[derive(Clone, Copy)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) now: Instant,
}

/// The changes of a view since a version.
pub(crate) struct Changes<'a> {
    view: &'a View,
    after: u64,
}

impl Row {
    fn rates(&self) -> [f64; 2] {
        self.growth.map(|growth| growth.rate)
    }

    fn shown<'a>(&'a self, id: &'a RowId, is_whole: bool) -> Shown<'a> {
        Shown { id, object: &self.object, rates: self.rates(), is_whole }
    }
}

impl View {
    /// Adds an object in a version, with counts whose rates are measured.
    pub(crate) fn put(
        &mut self,
        version: Version,
        id: RowId,
        object: Object<'_>,
        counts: [u64; 2],
    ) {
        let Version { number, now } = version;
        let Some(row) = self.rows.get_mut(&id) else {
            let growth = counts.map(|count| Growth { count, at: now, rate: 0.0 });
            let object = object.into_owned();
            self.rows
                .insert(id, Row { object, growth, made: number, changed: number, seen: number });
            return;
        };
        row.seen = number;
        let before = row.rates();
        for (growth, count) in row.growth.iter_mut().zip(counts) {
            growth.measure(count, now);
        }
        if row.rates() != before {
            row.changed = number;
        }
        if row.object != object {
            row.changed = number;
            if !row.object.is_only_another_state(&object) {
                row.made = number;
            }
            row.object = object.into_owned();
        }
    }

    /// Drops the rows that this version doesn't have.
    pub(crate) fn end_version(&mut self, version: u64) {
        let gone = self.rows.extract_if(.., |_, row| row.seen != version);
        self.gone.extend(gone.map(|(id, _)| (id, version)));
        while self.gone.len() > GONE {
            if let Some((_, lost)) = self.gone.pop_front() {
                self.complete_since = lost;
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The changes after a version; all rows, if too much has changed since.
    pub(crate) fn changes(&self, after: u64) -> Changes<'_> {
        let is_known = after >= self.complete_since;
        Changes { view: self, after: if is_known { after } else { 0 } }
    }
}

impl Changes<'_> {
    /// Whether nothing has changed.
    pub(crate) fn is_empty(&self) -> bool {
        let is_new = |version: u64| version > self.after;
        !self.view.rows.values().any(|row| is_new(row.changed))
            && !self.view.gone.iter().any(|(_, version)| is_new(*version))
    }
}

/// `rows` are whole; `changed` ones have only the fields that change often, and the reader has the
/// others; `gone` are the ids of rows that it drops. With `all` it drops those that are not in `rows`.
impl Serialize for Changes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Changes { view, after } = *self;
        let list = |is_whole: bool| {
            let is_sent = move |row: &Row| row.changed > after && (row.made > after) == is_whole;
            let rows = move || view.rows.iter().filter(move |(_, row)| is_sent(row));
            List(move || rows().map(move |(id, row)| row.shown(id, is_whole)))
        };
        let is_all = after == 0;
        let mut object = serializer.serialize_struct("Changes", if is_all { 2 } else { 3 })?;
        object.serialize_field("rows", &list(true))?;
        if is_all {
            object.serialize_field("all", &true)?;
        } else {
            let gone = view.gone.iter().filter(|(_, version)| *version > after);
            object.serialize_field("changed", &list(false))?;
            object.serialize_field("gone", &List(|| gone.clone().map(|(id, _)| id)))?;
        }
        object.end()
    }
}

/// A list that is made when it is written.
struct List<F>(F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for List<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// Text, as readers get it.
impl Serialize for RowId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A view is the list of its rows.
impl Serialize for View {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().map(|(id, row)| row.shown(id, true)))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use couplet_core::hooks::NoteRow;
    use couplet_core::reactor::ConnectionSnapshot;
    use couplet_core::testing::{MemoryReactor, success_of};
    use couplet_core::{Protocol, Transport};
    use serde_json::Value;

    use super::*;
    use crate::clock::Clock;
    use crate::rows::{Kind, LoopName};

    /// No changes.
    const NOTHING: &str = r#"{"rows":[],"changed":[],"gone":[]}"#;

    /// The changes, with each row as its number.
    fn changes(view: &View, after: u64) -> String {
        let mut changes = serde_json::to_value(view.changes(after)).expect("JSON");
        for list in ["rows", "changed"] {
            let rows = changes.get_mut(list).and_then(Value::as_array_mut);
            rows.into_iter().flatten().for_each(|row| *row = row["number"].take());
        }
        changes.to_string()
    }

    /// Versions of one view, a second apart, of objects that are numbers.
    struct Versions {
        view: View,
        version: Version,
        of: LoopName,
    }

    impl Versions {
        fn new() -> Versions {
            let memory = MemoryReactor::new();
            let (clock, now) = (Clock::new(&memory.reactor()), memory.reactor().now());
            let of = LoopName { number: 0, serial: 1, clock };
            Versions { view: View::default(), version: Version { number: 0, now }, of }
        }

        /// Adds a version of these names, numbers and counts.
        fn add<'a>(&mut self, objects: impl IntoIterator<Item = (&'a str, u8, u64)>) -> &View {
            self.version.number += 1;
            self.version.now += Duration::from_secs(1);
            for (name, number, count) in objects {
                let id = RowId(0, ObjectId::Name(name.to_owned()));
                let row = NoteRow::new("numbers", [("number", number.to_string())]);
                let object = Object { of: self.of, kind: Kind::Own(Cow::Borrowed(&row)) };
                self.view.put(self.version, id, object, [count, 0]);
            }
            self.view.end_version(self.version.number);
            &self.view
        }
    }

    #[test]
    fn a_reader_gets_the_changes_since_its_last_version() {
        let mut versions = Versions::new();
        let view = versions.add([("a", 1, 0), ("b", 2, 0)]);
        assert_eq!(changes(view, 0), r#"{"rows":[1,2],"all":true}"#);
        assert_eq!(changes(view, 1), NOTHING);
        let view = versions.add([("a", 1, 0), ("c", 3, 0)]);
        assert_eq!(changes(view, 1), r#"{"rows":[3],"changed":[],"gone":["0.b"]}"#);
        assert_eq!(changes(view, 2), NOTHING);
        assert_eq!(view.len(), 2);
    }

    #[test]
    fn a_row_that_goes_and_comes_again_is_whole_for_each_reader() {
        let mut versions = Versions::new();
        for _ in 0..3 {
            versions.add([("a", 1, 0), ("b", 2, 0)]);
            versions.add([("b", 2, 0)]);
        }
        // Readers drop the removed rows before they take the others.
        let view = versions.add([("a", 1, 0), ("b", 2, 0)]);
        for (after, expected) in [
            (3, r#"{"rows":[1],"changed":[],"gone":["0.a","0.a"]}"#),
            (4, r#"{"rows":[1],"changed":[],"gone":["0.a"]}"#),
            (5, r#"{"rows":[1],"changed":[],"gone":["0.a"]}"#),
            (6, r#"{"rows":[1],"changed":[],"gone":[]}"#),
            (7, NOTHING),
        ] {
            assert_eq!(changes(view, after), expected, "{after}");
        }
    }

    #[test]
    fn a_row_changes_with_its_object_and_with_its_rates() {
        let mut versions = Versions::new();
        versions.add([("a", 1, 0)]);
        for (number, count, expected) in [
            (1, 0, NOTHING),
            (2, 0, r#"{"rows":[2],"changed":[],"gone":[]}"#),
            (2, 7, r#"{"rows":[],"changed":[2],"gone":[]}"#),
            (2, 7, r#"{"rows":[],"changed":[2],"gone":[]}"#),
            (2, 7, NOTHING),
        ] {
            let seen = versions.version.number;
            assert_eq!(changes(versions.add([("a", number, count)]), seen), expected);
        }
        let all = changes(&versions.view, 2);
        assert_eq!(all, r#"{"rows":[2],"changed":[],"gone":[]}"#, "whole for earlier readers");
    }

    /// A connection of a loop in memory.
    fn connection() -> ConnectionSnapshot {
        struct Quiet;
        impl Protocol for Quiet {
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        let mut memory = MemoryReactor::new();
        memory.reactor().listen("tcp:1", || Quiet).expect("a port in memory is free");
        let _wire = memory.connect(1);
        let snapshot = memory.reactor().snapshot();
        memory.settle();
        success_of(snapshot).connections.remove(0)
    }

    #[test]
    fn c183_each_direction_has_the_rate_of_its_last_second() {
        let (it, mut view) = (connection(), View::default());
        let Versions { of, version: Version { now, .. }, .. } = Versions::new();
        let rates = (1..).zip([[0, 0], [100, 30], [300, 30], [300, 90]]).map(|(number, counts)| {
            let object = Object { of, kind: Kind::Connection(Cow::Borrowed(&it)) };
            let id = RowId(of.number, ObjectId::Connection(it.id));
            let version = Version { number, now: now + Duration::from_secs(number) };
            view.put(version, id, object, counts);
            let rows = serde_json::to_value(&view).expect("JSON");
            ["rate_in", "rate_out"].map(|field| rows[0][field].as_f64().expect("a number"))
        });
        let rates: Vec<_> = rates.collect();
        assert_eq!(rates, [[0.0, 0.0], [100.0, 30.0], [200.0, 0.0], [0.0, 60.0]]);
    }

    #[test]
    fn c183_a_connection_is_whole_again_when_a_field_changes_that_its_reader_keeps() {
        let first = connection();
        let Versions { of, version: Version { now, .. }, .. } = Versions::new();
        let cases: [(_, _, fn(&mut ConnectionSnapshot)); 7] = [
            ("changed", "state", |it| it.state = "paused"),
            ("changed", "in", |it| it.bytes_in += 1),
            ("rows", "protocol", |it| it.protocol = "Other"),
            ("rows", "layers", |it| it.layers.push("tls")),
            ("rows", "peer", |it| it.peer = it.host.clone()),
            ("rows", "host", |it| it.host = it.peer.clone()),
            ("rows", "made", |it| it.made_at += Duration::from_secs(1)),
        ];
        for (list, field, change) in cases {
            let mut second = first.clone();
            change(&mut second);
            let mut view = View::default();
            for (number, it) in (1..).zip([&first, &second]) {
                let object = Object { of, kind: Kind::Connection(Cow::Borrowed(it)) };
                let id = RowId(of.number, ObjectId::Connection(it.id));
                view.put(Version { number, now }, id, object, [0; 2]);
            }
            let changes = serde_json::to_value(view.changes(1)).expect("JSON");
            assert!(!changes[list][0][field].is_null(), "{field}: {changes}");
        }
    }

    #[test]
    fn measurements_that_follow_quickly_keep_the_rate() {
        let mut versions = Versions::new();
        versions.add([("a", 1, 0)]);
        versions.add([("a", 1, 10)]);
        versions.version.now -= Duration::from_millis(900);
        assert_eq!(changes(versions.add([("a", 1, 15)]), 2), NOTHING);
        versions.version.now -= Duration::from_millis(100);
        assert_eq!(changes(versions.add([("a", 1, 20)]), 3), NOTHING);
    }

    #[test]
    fn c183_a_reader_that_missed_too_much_begins_afresh() {
        let mut versions = Versions::new();
        let names: Vec<_> = (0..=GONE).map(|number| number.to_string()).collect();
        let all = names.iter().map(|name| (&**name, 0, 0));
        versions.add(all.chain([("stays", 7, 0)]));
        let view = versions.add([("stays", 7, 0)]);
        assert_eq!(view.gone.len(), GONE);
        assert_eq!(changes(view, 1), r#"{"rows":[7],"all":true}"#);
        assert_eq!(changes(view, 2), NOTHING);
    }
}
