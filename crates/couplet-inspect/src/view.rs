//! Views: the rows of one kind, each with the time of its last change.

use std::collections::{BTreeMap, VecDeque};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// How many rows that are gone a view remembers. A reader that missed more begins afresh.
const GONE: usize = 20_000;

/// The rows of one kind, as JSON.
#[derive(Default)]
pub(crate) struct View {
    // Bound: one for each object of the program's loops.
    rows: BTreeMap<String, Row>,
    /// The ids of rows that are gone, with the version in which they went.
    // Bound: the last rows that went (GONE: 20 000).
    gone: VecDeque<(String, u64)>,
    /// Readers that have seen less begin afresh.
    complete_since: u64,
}

struct Row {
    // Bound: the text of one row.
    json: Box<RawValue>,
    /// The version in which it changed last.
    changed: u64,
    /// The last version that had it.
    seen: u64,
}

/// The changes of a view since a version.
#[derive(Serialize)]
pub(crate) struct Changes<'a> {
    /// The rows that changed.
    // Bound: the rows of the view.
    rows: Vec<&'a RawValue>,
    #[serde(flatten)]
    rest: Rest<'a>,
}

/// The rows that are not among the changes.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Rest<'a> {
    /// Too much has changed meanwhile, and the changes are all rows.
    All(bool),
    /// The ids of those that are gone; the others stay.
    // Bound: GONE (20 000).
    Gone(Vec<&'a str>),
}

impl View {
    /// Adds or replaces a row in a version.
    pub(crate) fn put(&mut self, version: u64, id: &str, json: Box<RawValue>) {
        match self.rows.get_mut(id) {
            Some(row) => {
                row.seen = version;
                if row.json.get() != json.get() {
                    (row.json, row.changed) = (json, version);
                }
            }
            None => {
                let row = Row { json, changed: version, seen: version };
                self.rows.insert(id.to_owned(), row);
            }
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

    /// The rows that changed after a version, and those that are gone since; or all rows, if too much
    /// has changed meanwhile.
    pub(crate) fn changes(&self, after: u64) -> Changes<'_> {
        let is_all = after == 0 || after < self.complete_since;
        let after = if is_all { 0 } else { after };
        let changed = self.rows.values().filter(|row| row.changed > after);
        let gone = self.gone.iter().filter(|(_, version)| *version > after);
        let rest = match is_all {
            true => Rest::All(true),
            false => Rest::Gone(gone.map(|(id, _)| &**id).collect()),
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

    fn json(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    fn changes(view: &View, after: u64) -> String {
        serde_json::to_string(&view.changes(after)).expect("JSON")
    }

    #[test]
    fn a_reader_gets_the_changes_since_its_last_version() {
        let mut view = View::default();
        view.put(1, "a", json("1"));
        view.put(1, "b", json("2"));
        view.end_version(1);
        assert_eq!(changes(&view, 0), r#"{"rows":[1,2],"all":true}"#);
        assert_eq!(changes(&view, 1), r#"{"rows":[],"gone":[]}"#);
        view.put(2, "a", json("1"));
        view.put(2, "c", json("3"));
        view.end_version(2);
        assert_eq!(changes(&view, 1), r#"{"rows":[3],"gone":["b"]}"#);
        assert_eq!(changes(&view, 2), r#"{"rows":[],"gone":[]}"#);
        assert_eq!(view.len(), 2);
    }

    #[test]
    fn a_reader_that_missed_too_much_begins_afresh() {
        let mut view = View::default();
        for number in 0..=GONE {
            view.put(1, &format!("{number}"), json("0"));
        }
        view.put(1, "stays", json("7"));
        view.end_version(1);
        view.put(2, "stays", json("7"));
        view.end_version(2);
        assert_eq!(view.gone.len(), GONE);
        assert_eq!(changes(&view, 1), r#"{"rows":[7],"all":true}"#);
        assert_eq!(changes(&view, 2), r#"{"rows":[],"gone":[]}"#);
    }
}
