//! The state of a program as text: the red flags first, then its loops and the views.

use std::borrow::Cow;
use std::time::Duration;

use couplet::inspect;
use serde_json::Value;

/// Columns of the views, in their order. Others follow as the rows have them, and `why` is last.
const COLUMNS: [(&str, &[&str]); 6] = [
    (
        "connections",
        &["id", "protocol", "peer", "state", "in", "out", "buffered", "received", "made"],
    ),
    ("ports", &["host", "kind", "accepted", "rate"]),
    ("connectors", &["target", "state"]),
    ("services", &["name", "state", "restarts"]),
    ("calls", &["kind", "due", "since", "place"]),
    ("tasks", &["name", "since", "place"]),
];

/// Fields that other columns tell, or that only pages need.
const HIDDEN: [&str; 9] =
    ["id", "loop", "why", "host", "layers", "wire_in", "wire_out", "rate_in", "rate_out"];

/// The whole state, with at most so many rows of each view.
pub(super) fn state(state: &Value, most: usize) -> String {
    let program = &state["program"];
    let now = program["now"].as_f64().unwrap_or_default();
    let up = now - program["started"].as_f64().unwrap_or(now);
    let mut text = format!(
        "{} {}, pid {}, up {}\n",
        word(&program["name"]),
        word(&program["version"]),
        word(&program["pid"]),
        time(up)
    );
    text += &flags(state);
    for row in state["loops"].as_array().into_iter().flatten() {
        text += &one_loop(row);
    }
    for (name, rows) in state["views"].as_object().into_iter().flatten() {
        let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
        if !rows.is_empty() {
            text += &view(name, rows, now, most);
        }
    }
    text
}

/// The red flags, or a line that there are no such flags.
pub(super) fn flags(state: &Value) -> String {
    let flags = state["flags"].as_array().map_or(&[][..], Vec::as_slice);
    if flags.is_empty() {
        return "no red flags\n".to_owned();
    }
    let lines = flags.iter().map(|flag| {
        format!(
            "{} {}: {} ({})\n    {}\n",
            word(&flag["severity"]).to_uppercase(),
            word(&flag["title"]),
            word(&flag["words"]),
            word(&flag["threshold"]),
            word(&flag["remedy"])
        )
    });
    lines.collect()
}

fn one_loop(row: &Value) -> String {
    let busy = row["busy"].as_f64().unwrap_or_default() * 100.0;
    let mut text = format!(
        "{} ({}) {}, {busy:.0} % busy, {} turns/s, {} connections, {} calls, {} tasks, {} jobs\n",
        word(&row["name"]),
        word(&row["thread"]),
        word(&row["state"]),
        word(&row["turns"]),
        word(&row["connections"]),
        word(&row["calls"]),
        word(&row["tasks"]),
        word(&row["jobs"])
    );
    let doing = &row["doing"];
    if !doing.is_null() {
        let held = time(doing["for"].as_f64().unwrap_or_default());
        text += &format!("    {} for {held}\n", word(&doing["what"]));
        for frame in doing["backtrace"].as_array().into_iter().flatten() {
            text += &format!("      {}\n", word(frame).trim());
        }
    }
    text
}

/// A table, in columns as wide as their longest cell.
fn view(name: &str, rows: &[Value], now: f64, most: usize) -> String {
    let columns = columns(name, &rows[0]);
    let heads = columns.iter().map(|column| head(column).to_uppercase());
    let mut lines: Vec<Vec<String>> = vec![heads.chain(["WHY".to_owned()]).collect()];
    for row in rows.iter().take(most) {
        let cells = columns.iter().map(|column| cell(column, &row[*column], now));
        lines.push(cells.chain([word(&row["why"]).into_owned()]).collect());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = format!("\n{name} ({})\n", rows.len());
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        let line = padded.collect::<String>() + &line[columns.len()];
        text += &format!("  {}\n", line.trim_end());
    }
    match rows.len().saturating_sub(most) {
        0 => text,
        more => text + &format!("  … and {more} more\n"),
    }
}

fn columns<'a>(name: &str, row: &'a Value) -> Vec<&'a str> {
    let known = COLUMNS.into_iter().find(|(view, _)| *view == name);
    let known = known.map_or(&[][..], |(_, columns)| columns);
    let others = row.as_object().into_iter().flatten().map(|(key, _)| &**key);
    let others = others.filter(|key| !known.contains(key) && !HIDDEN.contains(key));
    known.iter().copied().chain(others).collect()
}

/// The head of a column: fields that are moments are shown as ages.
fn head(column: &str) -> &str {
    match column {
        "received" => "idle",
        "made" | "since" => "age",
        "buffered" => "unsent",
        other => other,
    }
}

fn cell(column: &str, value: &Value, now: f64) -> String {
    match (column, value.as_f64()) {
        ("received" | "made" | "since", Some(then)) => time(now - then),
        ("due", Some(then)) => time(then - now),
        _ => word(value).into_owned(),
    }
}

/// A time in seconds as sentences have it; 0 ms if it is negative, after a clock was set back.
pub(super) fn time(seconds: f64) -> String {
    inspect::time(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_state_is_a_page_of_text() {
        let row = |id: &str, why: &str| {
            json!({"id": id, "loop": 0, "protocol": "Chat", "peer": "tcp:127.0.0.1:5", "host": "x",
                "layers": [], "state": "open", "why": why, "in": 5, "out": 7, "wire_in": 5,
                "wire_out": 7, "rate_in": 0.0, "rate_out": 0.0, "buffered": 0, "received": 90.0,
                "made": 40.0})
        };
        let shown = json!({
            "program": {"name": "chat", "version": "1.0", "pid": 7, "started": 10.0, "now": 100.0},
            "flags": [{"severity": "red", "title": "The loop is busy", "words": "loop 0 works 95 %",
                "threshold": "more than 80 %", "remedy": "Do less."}],
            "loops": [{"name": "loop 0", "thread": "main", "state": "hung", "busy": 0.95,
                "turns": 1200.0, "connections": 3, "calls": 1, "tasks": 2, "jobs": 0,
                "doing": {"what": "a callback of Chat", "for": 3.2, "backtrace": [" 0: chat::f"]}}],
            "views": {"connections": [row("1.1.1", "waits"), row("1.2.1", "reads\u{1b}[2J"),
                row("1.3.1", "")], "jobs": []}
        });
        let wanted = "\
chat 1.0, pid 7, up 90.0 s
RED The loop is busy: loop 0 works 95 % (more than 80 %)
    Do less.
loop 0 (main) hung, 95 % busy, 1200.0 turns/s, 3 connections, 1 calls, 2 tasks, 0 jobs
    a callback of Chat for 3.2 s
      0: chat::f

connections (3)
  ID     PROTOCOL  PEER             STATE  IN  OUT  UNSENT  IDLE    AGE     WHY
  1.1.1  Chat      tcp:127.0.0.1:5  open   5   7    0       10.0 s  60.0 s  waits
  1.2.1  Chat      tcp:127.0.0.1:5  open   5   7    0       10.0 s  60.0 s  reads\u{fffd}[2J
  … and 1 more
";
        assert_eq!(state(&shown, 2), wanted);
    }

    #[test]
    fn an_unknown_view_has_the_columns_of_its_rows() {
        let rows = [json!({"id": "0.a", "loop": 0, "room": "lounge", "members": 12})];
        assert_eq!(
            view("rooms", &rows, 0.0, 9),
            "\nrooms (1)\n  ROOM    MEMBERS  WHY\n  lounge  12\n"
        );
    }
}
