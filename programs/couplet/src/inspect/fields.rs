//! Columns of the views and the units of their values, as on the inspector's page, for the text and for
//! the view on a terminal. A view or a field that is not in the table is shown without a unit.

use std::borrow::Cow;
use std::time::Duration;

use couplet::inspect::{spell_out, time};
use serde_json::Value;

/// The kind of a field, which has a unit and an alignment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Text,
    /// A sentence with times that pass.
    Why,
    Bytes,
    /// Bytes per second.
    Speed,
    /// A moment, shown as the time since then.
    Since,
    /// A moment, shown as the time until then.
    Until,
    Count,
    /// Per second.
    Rate,
    /// The callbacks of a Deferred.
    Chain,
}

use Kind::{Bytes, Chain, Count, Rate, Since, Speed, Text, Until};

impl Kind {
    /// Whether values are aligned to the right, and sorted with the largest first.
    #[cfg(feature = "screen")]
    pub(super) fn is_number(self) -> bool {
        !matches!(self, Text | Kind::Why | Chain)
    }
}

/// A field of a known view: its key, its kind and its label.
type Field = (&'static str, Kind, &'static str);

/// The columns of known views, the most important first: a narrow terminal drops the last ones.
const KNOWN: [(&str, &[Field]); 10] = [
    (
        "connections",
        &[
            ("id", Text, "id"),
            ("protocol", Text, "protocol"),
            ("peer", Text, "peer"),
            ("state", Text, "state"),
            ("received", Since, "idle"),
            ("buffered", Bytes, "unsent"),
            ("made", Since, "age"),
            ("rate_in", Speed, "in/s"),
            ("rate_out", Speed, "out/s"),
            ("in", Bytes, "in"),
            ("out", Bytes, "out"),
            ("layers", Text, "layers"),
        ],
    ),
    (
        "ports",
        &[
            ("host", Text, "host"),
            ("kind", Text, "kind"),
            ("accepted", Count, "accepted"),
            ("rate", Rate, "rate"),
            ("turned_away", Count, "turned away"),
            ("rejected", Count, "rejected"),
        ],
    ),
    (
        "connectors",
        &[("target", Text, "target"), ("state", Text, "state"), ("place", Text, "place")],
    ),
    (
        "services",
        &[
            ("name", Text, "name"),
            ("state", Text, "state"),
            ("health", Text, "health"),
            ("restarts", Count, "restarts"),
        ],
    ),
    (
        "calls",
        &[
            ("kind", Text, "kind"),
            ("due", Until, "due"),
            ("since", Since, "age"),
            ("place", Text, "place"),
            ("name", Text, "name"),
        ],
    ),
    (
        "tasks",
        &[
            ("id", Text, "id"),
            ("name", Text, "name"),
            ("since", Since, "age"),
            ("place", Text, "place"),
        ],
    ),
    (
        "deferreds",
        &[
            ("id", Text, "id"),
            ("place", Text, "place"),
            ("since", Since, "age"),
            ("consumer", Text, "consumer"),
            ("callbacks", Count, "callbacks"),
        ],
    ),
    (
        "locks",
        &[
            ("id", Text, "id"),
            ("kind", Text, "kind"),
            ("place", Text, "place"),
            ("held", Count, "held"),
            ("of", Count, "of"),
            ("waiting", Count, "waiting"),
            ("since", Since, "for"),
        ],
    ),
    (
        "jobs",
        &[
            ("id", Text, "id"),
            ("name", Text, "name"),
            ("since", Since, "age"),
            ("place", Text, "place"),
        ],
    ),
    (
        "children",
        &[
            ("pid", Text, "pid"),
            ("command", Text, "command"),
            ("state", Text, "state"),
            ("since", Since, "age"),
        ],
    ),
];

/// Fields without a column unless a view names them: the details have them.
const HIDDEN: [&str; 10] = [
    "id",
    "loop",
    "why",
    "host",
    "wire_in",
    "wire_out",
    "waits_for",
    "cyclic",
    "program",
    "history",
];

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) key: String,
    pub(super) label: String,
    pub(super) kind: Kind,
}

/// The columns of a view, whose rows have these fields; `why` is the last one. Fields of
/// unknown views follow in the order of the rows.
pub(super) fn columns<'a>(
    view: &str,
    fields: impl Iterator<Item = &'a str> + Clone,
) -> Vec<Column> {
    let known = known(view);
    let is_known = |key: &str| known.iter().any(|(other, ..)| *other == key);
    let has = |key: &str| fields.clone().any(|other| other == key);
    let first = known.iter().map(|(key, ..)| *key).filter(|key| has(key));
    let others = fields.clone().filter(|key| !is_known(key) && !HIDDEN.contains(key));
    first.chain(others).chain(["why"]).map(|key| column(view, key)).collect()
}

/// The column of a field.
pub(super) fn column(view: &str, key: &str) -> Column {
    let found = known(view).iter().find(|(other, ..)| *other == key);
    let (kind, label) = match (found, key) {
        (Some((_, kind, label)), _) => (*kind, (*label).to_owned()),
        (None, "why") => (Kind::Why, key.to_owned()),
        (None, "history") => (Chain, key.to_owned()),
        (None, "wire_in" | "wire_out") => (Bytes, key.replace('_', " ")),
        _ => (Text, key.replace('_', " ")),
    };
    Column { key: key.to_owned(), label, kind }
}

fn known(view: &str) -> &'static [Field] {
    KNOWN.into_iter().find(|(name, _)| *name == view).map_or(&[], |(_, fields)| fields)
}

/// A value as text, at a Unix time. An absent value is empty.
pub(super) fn format(kind: Kind, value: &Value, unix: f64) -> String {
    #[cfg(test)]
    FORMATTED.set(FORMATTED.get() + 1);
    match (kind, value.as_f64()) {
        (Bytes, Some(number)) => bytes(number),
        (Speed, Some(number)) => format!("{}/s", bytes(number)),
        (Since, Some(then)) => seconds(unix - then),
        (Until, Some(then)) => seconds(then - unix),
        (Rate, Some(number)) => format!("{number:.1}/s"),
        (Kind::Why, None) => spell_out(&word(value), unix),
        _ => plain(value),
    }
}

// The number of formatted values, for the test that counts them.
#[cfg(test)]
thread_local! {
    pub(super) static FORMATTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A time in seconds as sentences have it; 0 ms if it is negative, after a clock was set back.
pub(super) fn seconds(seconds: f64) -> String {
    time(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

/// A value without quotes. Control characters, which a peer may have chosen, are replaced.
pub(super) fn word(value: &Value) -> Cow<'_, str> {
    let text = match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => Cow::Borrowed(&**text),
        other => Cow::Owned(other.to_string()),
    };
    match text.contains(char::is_control) {
        true => Cow::Owned(text.replace(char::is_control, "\u{fffd}")),
        false => text,
    }
}

/// A value without a unit.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => word(other).into_owned(),
    }
}

/// A number of bytes: `812 B`, `64.0 KiB`.
fn bytes(count: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024.0 {
        return format!("{count:.0} B");
    }
    let (mut size, mut units) = (count / 1024.0, UNITS.into_iter());
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if size < 1023.95 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    format!("{size:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_their_units() {
        for (kind, value, wanted) in [
            (Bytes, json!(0), "0 B"),
            (Bytes, json!(1023), "1023 B"),
            (Bytes, json!(65536), "64.0 KiB"),
            (Bytes, json!(1_048_575), "1.0 MiB"),
            (Bytes, json!(3_u64 << 50), "3072.0 TiB"),
            (Speed, json!(2048.0), "2.0 KiB/s"),
            (Since, json!(90.0), "10.0 s"),
            (Since, json!(110.0), "0 ms"),
            (Until, json!(400.0), "5 min"),
            (Rate, json!(0.5), "0.5/s"),
            (Count, json!(7), "7"),
            (Text, json!(["tls", "log"]), "tls, log"),
            (Text, json!(true), "yes"),
            (Text, Value::Null, ""),
            (Text, json!("a\u{1b}[2J"), "a\u{fffd}[2J"),
            (Kind::Why, json!("silent for {since:97}"), "silent for 3.0 s"),
            (Since, Value::Null, ""),
        ] {
            assert_eq!(format(kind, &value, 100.0), wanted, "{kind:?} {value}");
        }
    }

    #[test]
    fn a_view_has_its_known_columns_then_others_and_the_reason_last() {
        let keys = |view, fields: &[&'static str]| {
            let columns = columns(view, fields.iter().copied());
            columns.into_iter().map(|column| column.key).collect::<Vec<_>>()
        };
        let fields = ["loop", "peer", "id", "why", "host", "colour"];
        assert_eq!(keys("connections", &fields), ["id", "peer", "colour", "why"]);
        assert_eq!(keys("rooms", &["id", "loop", "room", "members"]), ["room", "members", "why"]);
    }
}
