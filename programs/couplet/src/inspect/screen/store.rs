//! The state of the program as the terminal knows it, updated by the messages of `/live`.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::inspect::fields;

/// The state of a program: all that its inspector has sent.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) program: Value,
    pub(super) loops: Vec<Value>,
    pub(super) flags: Vec<Value>,
    pub(super) time: Vec<Value>,
    /// In the order of the inspector.
    views: Vec<View>,
    /// The number of messages so far.
    pub(super) version: u64,
}

/// The rows of one kind.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) rows: BTreeMap<String, Rc<Row>>,
    /// The fields that its rows have had, in their order.
    pub(super) fields: Vec<String>,
}

/// An object of the program, replaced by a new row when it changes.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) values: Map<String, Value>,
    searchable: OnceCell<String>,
}

impl Row {
    /// A row of a message; `None` if it has no `id`.
    pub(super) fn new(value: Value) -> Option<Row> {
        let Value::Object(values) = value else { return None };
        let id = values.get("id")?.as_str()?.to_owned();
        Some(Row { id, values, searchable: OnceCell::new() })
    }

    pub(super) fn value(&self, key: &str) -> &Value {
        self.values.get(key).unwrap_or(&Value::Null)
    }

    /// All values in lower case.
    pub(super) fn searchable(&self) -> &str {
        let all = || self.values.values().map(fields::plain).collect::<Vec<_>>();
        self.searchable.get_or_init(|| all().join("\n").to_lowercase())
    }

    /// The rows that it waits for, as `view/id`.
    pub(super) fn waits_for(&self) -> impl Iterator<Item = &str> {
        self.value("waits_for").as_array().into_iter().flatten().filter_map(Value::as_str)
    }
}

/// How much a row needs attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    #[default]
    Calm,
    Yellow,
    Red,
}

impl Mark {
    /// The severity of a flag.
    pub(super) fn of(flag: &Value) -> Mark {
        match flag["severity"] == "red" {
            true => Mark::Red,
            false => Mark::Yellow,
        }
    }
}

impl Store {
    /// Applies a message. The first one of a connection has all rows, and replaces the state.
    pub(super) fn apply(&mut self, mut message: Value, is_first: bool) {
        self.version += 1;
        if is_first {
            self.views.clear();
        }
        self.program = take(&mut message, "program");
        self.flags = list(take(&mut message, "flags"));
        self.loops = list(take(&mut message, "loops"));
        self.time = list(take(&mut message, "time"));
        let Value::Object(views) = take(&mut message, "views") else { return };
        for (name, changes) in views {
            let position = self.views.iter().position(|view| view.name == name);
            let position = position.unwrap_or_else(|| {
                let view = View { name, rows: BTreeMap::new(), fields: Vec::new() };
                self.views.push(view);
                self.views.len() - 1
            });
            self.views[position].change(changes);
        }
    }

    pub(super) fn views(&self) -> &[View] {
        &self.views
    }

    pub(super) fn view(&self, name: &str) -> Option<&View> {
        self.views.iter().find(|view| view.name == name)
    }

    /// The row that a link such as `tasks/0.1.1` names.
    pub(super) fn linked(&self, link: &str) -> Option<(&View, &Rc<Row>)> {
        let (view, id) = link.split_once('/')?;
        let view = self.view(view)?;
        view.rows.get(id).map(|row| (view, row))
    }

    /// The rows that wait for another, as `view/id`.
    pub(super) fn waiters(&self, view: &str, id: &str) -> Vec<String> {
        let link = format!("{view}/{id}");
        let rows =
            self.views.iter().flat_map(|view| view.rows.values().map(move |row| (view, row)));
        let waiters = rows.filter(|(_, row)| row.waits_for().any(|other| other == link));
        waiters.map(|(view, row)| format!("{}/{}", view.name, row.id)).collect()
    }

    /// The flags that name a row.
    pub(super) fn flags_of(&self, view: &str, id: &str) -> impl Iterator<Item = &Value> {
        self.flags.iter().filter(move |flag| flag["view"] == view && flag["row"] == id)
    }

    /// The marks of the rows of a view that flags name.
    pub(super) fn marks(&self, view: &str) -> BTreeMap<&str, Mark> {
        let mut marks = BTreeMap::new();
        for flag in self.flags.iter().filter(|flag| flag["view"] == view) {
            if let Some(id) = flag["row"].as_str() {
                let mark: &mut Mark = marks.entry(id).or_default();
                *mark = Mark::of(flag).max(*mark);
            }
        }
        marks
    }

    /// The Unix time of the last message, in seconds.
    pub(super) fn now(&self) -> f64 {
        self.program["now"].as_f64().unwrap_or_default()
    }
}

impl View {
    fn change(&mut self, mut changes: Value) {
        if changes["all"] == true {
            self.rows.clear();
        }
        for id in changes["gone"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.rows.remove(id);
        }
        for row in list(take(&mut changes, "rows")).into_iter().filter_map(Row::new) {
            for (key, value) in &row.values {
                if !value.is_null() && !self.fields.contains(key) {
                    self.fields.push(key.clone());
                }
            }
            self.rows.insert(row.id.clone(), Rc::new(row));
        }
        for change in list(take(&mut changes, "changed")).into_iter().filter_map(Row::new) {
            if let Some(row) = self.rows.get_mut(&change.id) {
                let mut values = row.values.clone();
                values.extend(change.values);
                *row = Rc::new(Row { values, ..change });
            }
        }
    }
}

/// Takes a field out of an object. A message may be something else.
fn take(object: &mut Value, key: &str) -> Value {
    object.get_mut(key).map(Value::take).unwrap_or_default()
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ids(store: &Store) -> Vec<&str> {
        store
            .view("tasks")
            .map_or(Vec::new(), |view| view.rows.keys().map(String::as_str).collect())
    }

    #[test]
    fn messages_add_replace_and_remove_rows() {
        let mut store = Store::default();
        let row = |id: &str, state: &str| json!({"id": id, "state": state});
        let message = |changes| json!({"program": {"now": 5.0}, "views": {"tasks": changes}});
        store
            .apply(message(json!({"rows": [row("0.1", "a"), row("0.2", "a")], "all": true})), true);
        assert_eq!(ids(&store), ["0.1", "0.2"]);
        store.apply(
            message(json!({"rows": [row("0.2", "b"), row("0.3", "b")], "gone": ["0.1"]})),
            false,
        );
        assert_eq!(ids(&store), ["0.2", "0.3"]);
        let (_, changed) = store.linked("tasks/0.2").expect("it is there");
        assert_eq!(changed.value("state"), "b");
        let part = json!([{"id": "0.2", "why": "c"}, {"id": "0.7", "why": "c"}]);
        store.apply(message(json!({"rows": [], "changed": part, "gone": []})), false);
        assert_eq!(ids(&store), ["0.2", "0.3"], "a part of a row adds none");
        let (_, changed) = store.linked("tasks/0.2").expect("it is there");
        assert_eq!((changed.value("state"), changed.value("why")), (&json!("b"), &json!("c")));
        store.apply(message(json!({"rows": [row("0.9", "c")], "all": true})), false);
        assert_eq!(ids(&store), ["0.9"], "too much had changed");
        store.apply(json!({"program": {"now": 7.0}, "views": {}}), true);
        assert_eq!((ids(&store).len(), store.now()), (0, 7.0), "another program");
        store.apply(json!(["nonsense", {"views": 3}]), false);
        assert_eq!(store.version, 6);
    }

    #[test]
    fn rows_are_marked_by_the_worst_flag_and_linked_to_their_waiters() {
        let mut store = Store::default();
        let flag = |severity, row| json!({"severity": severity, "view": "tasks", "row": row});
        store.apply(
            json!({
                "flags": [flag("yellow", "0.1"), flag("red", "0.1"), flag("yellow", "0.2")],
                "views": {
                    "tasks": {"all": true, "rows": [{"id": "0.1", "waits_for": ["jobs/0.7"]}]},
                    "jobs": {"all": true, "rows": [{"id": "0.7"}, {"no": "id"}]}
                }
            }),
            true,
        );
        let marks = store.marks("tasks");
        assert_eq!((marks["0.1"], marks["0.2"]), (Mark::Red, Mark::Yellow));
        assert_eq!(store.flags_of("tasks", "0.1").count(), 2);
        assert_eq!(store.waiters("jobs", "0.7"), ["tasks/0.1"]);
        assert!(store.linked("jobs/0.8").is_none() && store.linked("jobs").is_none());
    }
}
