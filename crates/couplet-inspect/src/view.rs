//! Views: the rows of one kind, each with the time of its last change.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use couplet_core::ConnectionId;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// How many rows that are gone a view remembers. A reader that missed more begins afresh.
const GONE: usize = 20_000;

/// The shortest time for which a rate is measured.
const MEASURED: Duration = Duration::from_millis(200);

/// The rows of one kind, as JSON.
#[derive(Default)]
pub(crate) struct View {
    // Bound: one for each object of the program's loops.
    rows: BTreeMap<RowId, Row>,
    /// The ids of rows that are gone, with the version in which they went.
    // Bound: the last rows that went (GONE: 20 000).
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
    // Bound: a value of a row of the program.
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
    /// The object when the row was made.
    object: Box<dyn Any>,
    growth: [Growth; 2],
    // Bound: the text of one row.
    json: Box<RawValue>,
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
#[derive(Serialize)]
pub(crate) struct Changes<'a> {
    /// The rows that changed.
    // Bound: the rows of the view.
    rows: Vec<&'a RawValue>,
    #[serde(flatten)]
    rest: Rest,
}

/// The rows that are not among the changes.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Rest {
    /// Too much has changed meanwhile, and the changes are all rows.
    All(bool),
    /// The ids of those that are gone; the others stay.
    // Bound: GONE (20 000).
    Gone(Vec<String>),
}

impl Row {
    fn rates(&self) -> [f64; 2] {
        self.growth.map(|growth| growth.rate)
    }
}

impl View {
    /// Adds an object in a version. Its row is made if the object is new or has changed, or the rate
    /// of one of its counts.
    pub(crate) fn put<O: PartialEq + Clone + 'static>(
        &mut self,
        version: Version,
        id: RowId,
        object: &O,
        counts: [u64; 2],
        make: impl FnOnce(&str, [f64; 2]) -> Box<RawValue>,
    ) {
        let Version { number, now } = version;
        let Some(row) = self.rows.get_mut(&id) else {
            let growth = counts.map(|count| Growth { count, at: now, rate: 0.0 });
            let json = make(&id.to_string(), [0.0; 2]);
            let object = Box::new(object.clone());
            self.rows.insert(id, Row { object, growth, json, changed: number, seen: number });
            return;
        };
        row.seen = number;
        let before = row.rates();
        for (growth, count) in row.growth.iter_mut().zip(counts) {
            growth.measure(count, now);
        }
        if row.object.downcast_ref() == Some(object) && row.rates() == before {
            return;
        }
        (row.object, row.changed) = (Box::new(object.clone()), number);
        row.json = make(&id.to_string(), row.rates());
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

    /// The rows that changed after a version, and those that are gone since; or all rows, if too much
    /// has changed meanwhile.
    pub(crate) fn changes(&self, after: u64) -> Changes<'_> {
        let is_all = after == 0 || after < self.complete_since;
        let after = if is_all { 0 } else { after };
        let changed = self.rows.values().filter(|row| row.changed > after);
        let gone = self.gone.iter().filter(|(_, version)| *version > after);
        let rest = match is_all {
            true => Rest::All(true),
            false => Rest::Gone(gone.map(|(id, _)| id.to_string()).collect()),
        };
        Changes { rows: changed.map(|row| &*row.json).collect(), rest }
    }
}

/// A view is the list of its rows.
impl Serialize for View {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.values().map(|row| &row.json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(view: &View, after: u64) -> String {
        serde_json::to_string(&view.changes(after)).expect("JSON")
    }

    /// Versions of one view, a second apart, of objects that are numbers.
    struct Versions {
        view: View,
        version: Version,
        made: usize,
    }

    impl Versions {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        fn new() -> Versions {
            let version = Version { number: 0, now: Instant::now() };
            Versions { view: View::default(), version, made: 0 }
        }

        /// Adds a version of these names, numbers and counts.
        fn add<'a>(&mut self, objects: impl IntoIterator<Item = (&'a str, u8, u64)>) -> &View {
            self.version.number += 1;
            self.version.now += Duration::from_secs(1);
            for (name, object, count) in objects {
                let id = RowId(0, ObjectId::Name(name.to_owned()));
                self.view.put(self.version, id, &object, [count, 0], |_, [rate, _]| {
                    self.made += 1;
                    let json =
                        if rate > 0.0 { format!("[{object},{rate}]") } else { object.to_string() };
                    RawValue::from_string(json).expect("JSON")
                });
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
        assert_eq!(changes(view, 1), r#"{"rows":[],"gone":[]}"#);
        let view = versions.add([("a", 1, 0), ("c", 3, 0)]);
        assert_eq!(changes(view, 1), r#"{"rows":[3],"gone":["0.b"]}"#);
        assert_eq!(changes(view, 2), r#"{"rows":[],"gone":[]}"#);
        assert_eq!(view.len(), 2);
    }

    #[test]
    fn a_row_is_made_when_its_object_or_a_rate_changes() {
        let mut versions = Versions::new();
        versions.add([("a", 1, 0)]);
        versions.add([("a", 1, 0)]);
        assert_eq!(versions.made, 1, "nothing has changed");
        assert_eq!(changes(versions.add([("a", 2, 0)]), 2), r#"{"rows":[2],"gone":[]}"#);
        assert_eq!(changes(versions.add([("a", 2, 7)]), 3), r#"{"rows":[[2,7]],"gone":[]}"#);
        assert_eq!(changes(versions.add([("a", 2, 7)]), 4), r#"{"rows":[2],"gone":[]}"#);
        assert_eq!(changes(versions.add([("a", 2, 7)]), 5), r#"{"rows":[],"gone":[]}"#);
        assert_eq!(versions.made, 4);
    }

    #[test]
    fn measurements_that_follow_quickly_keep_the_rate() {
        let mut versions = Versions::new();
        versions.add([("a", 1, 0)]);
        versions.add([("a", 1, 10)]);
        versions.version.now -= Duration::from_millis(900);
        assert_eq!(changes(versions.add([("a", 1, 15)]), 2), r#"{"rows":[],"gone":[]}"#);
        versions.version.now -= Duration::from_millis(100);
        assert_eq!(changes(versions.add([("a", 1, 20)]), 3), r#"{"rows":[],"gone":[]}"#);
    }

    #[test]
    fn a_reader_that_missed_too_much_begins_afresh() {
        let mut versions = Versions::new();
        let names: Vec<_> = (0..=GONE).map(|number| number.to_string()).collect();
        let all = names.iter().map(|name| (&**name, 0, 0));
        versions.add(all.chain([("stays", 7, 0)]));
        let view = versions.add([("stays", 7, 0)]);
        assert_eq!(view.gone.len(), GONE);
        assert_eq!(changes(view, 1), r#"{"rows":[7],"all":true}"#);
        assert_eq!(changes(view, 2), r#"{"rows":[],"gone":[]}"#);
    }
}
