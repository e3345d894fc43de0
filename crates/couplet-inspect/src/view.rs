//! Views: the rows of one kind, each with the time of its last change.

use std::collections::{BTreeMap, VecDeque};

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
    json: String,
    /// The version in which it changed last.
    changed: u64,
    /// The last version that had it.
    seen: u64,
}

impl View {
    /// Adds or replaces a row in a version.
    pub(crate) fn put(&mut self, version: u64, id: &str, json: String) {
        match self.rows.get_mut(id) {
            Some(row) => {
                row.seen = version;
                if row.json != json {
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

    /// Writes an array of all rows.
    pub(crate) fn write_all(&self, json: &mut String) {
        write_list(json, self.rows.values().map(|row| &*row.json));
    }

    /// Writes the rows that changed after a version, and those that are gone since:
    /// `"rows":[…],"gone":[…]`. If too much has changed meanwhile, writes all rows, and `"all":true`.
    pub(crate) fn write_changes(&self, json: &mut String, after: u64) {
        let is_all = after == 0 || after < self.complete_since;
        let after = if is_all { 0 } else { after };
        json.push_str("\"rows\":");
        let changed = self.rows.values().filter(|row| row.changed > after);
        write_list(json, changed.map(|row| &*row.json));
        if is_all {
            json.push_str(",\"all\":true");
        } else {
            let gone = self.gone.iter().filter(|(_, version)| *version > after);
            json.push_str(",\"gone\":");
            let ids: Vec<String> = gone.map(|(id, _)| json_text(id)).collect();
            write_list(json, ids.iter().map(|id| &**id));
        }
    }
}

/// A text as a string of JSON.
pub(crate) fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn write_list<'a>(json: &mut String, items: impl Iterator<Item = &'a str>) {
    json.push('[');
    for (number, item) in items.enumerate() {
        if number > 0 {
            json.push(',');
        }
        json.push_str(item);
    }
    json.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(view: &View, after: u64) -> String {
        let mut json = String::new();
        view.write_changes(&mut json, after);
        json
    }

    #[test]
    fn a_reader_gets_the_changes_since_its_last_version() {
        let mut view = View::default();
        view.put(1, "a", "1".to_owned());
        view.put(1, "b", "2".to_owned());
        view.end_version(1);
        assert_eq!(changes(&view, 0), r#""rows":[1,2],"all":true"#);
        assert_eq!(changes(&view, 1), r#""rows":[],"gone":[]"#);
        view.put(2, "a", "1".to_owned());
        view.put(2, "c", "3".to_owned());
        view.end_version(2);
        assert_eq!(changes(&view, 1), r#""rows":[3],"gone":["b"]"#);
        assert_eq!(changes(&view, 2), r#""rows":[],"gone":[]"#);
        assert_eq!(view.len(), 2);
    }

    #[test]
    fn a_reader_that_missed_too_much_begins_afresh() {
        let mut view = View::default();
        for number in 0..=GONE {
            view.put(1, &format!("{number}"), "0".to_owned());
        }
        view.put(1, "stays", "7".to_owned());
        view.end_version(1);
        view.put(2, "stays", "7".to_owned());
        view.end_version(2);
        assert_eq!(view.gone.len(), GONE);
        assert_eq!(changes(&view, 1), r#""rows":[7],"all":true"#);
        assert_eq!(changes(&view, 2), r#""rows":[],"gone":[]"#);
    }
}
