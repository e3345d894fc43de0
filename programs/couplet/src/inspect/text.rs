//! The state of a program as text: the red flags first, then its loops and the views.

use serde_json::Value;

use super::fields::{Column, columns, format, seconds, word};

/// The whole state, with at most `most` rows of each view.
pub(super) fn state(state: &Value, most: usize) -> String {
    let program = &state["program"];
    let now = program["now"].as_f64().unwrap_or_default();
    let up = now - program["started"].as_f64().unwrap_or(now);
    let name = [&program["name"], &program["version"]].map(word);
    let name = name.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(" ");
    let pid = labelled("pid ", &program["pid"], "");
    let mut text = format!("{name}{pid}, up {}\n", seconds(up));
    text += &flags(state);
    text += &marks(&state["marks"], now, most);
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

/// The red flags, or the line `no red flags`.
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

/// The last `most` marks of a recording, newest first.
fn marks(marks: &Value, now: f64, most: usize) -> String {
    let all = marks.as_array().map_or(&[][..], Vec::as_slice);
    let lines = all.iter().rev().take(most).map(|mark| {
        let before = seconds(now - mark["time"].as_f64().unwrap_or(now));
        let severity = word(&mark["severity"]).to_uppercase();
        format!("{severity} {before} before the end: {}\n", word(&mark["text"]))
    });
    let text: String = lines.collect();
    match all.len() {
        0 => text,
        count => format!("marks ({count})\n") + &text + &more(count, most),
    }
}

/// `, ` and a value between two words; empty without a value.
fn labelled(before: &str, value: &Value, after: &str) -> String {
    match value {
        Value::Null => String::new(),
        value => format!(", {before}{}{after}", word(value)),
    }
}

fn one_loop(row: &Value) -> String {
    let mut text =
        format!("{} ({}) {}", word(&row["name"]), word(&row["thread"]), word(&row["state"]));
    if let Some(busy) = row["busy"].as_f64() {
        text += &format!(", {:.0} % busy", busy * 100.0);
    }
    text += &labelled("", &row["turns"], " turns/s");
    for counted in ["connections", "calls", "tasks", "jobs"] {
        text += &labelled("", &row[counted], &format!(" {counted}"));
    }
    text.push('\n');
    let doing = &row["doing"];
    if !doing.is_null() {
        let held = seconds(doing["for"].as_f64().unwrap_or_default());
        text += &format!("    {} for {held}\n", word(&doing["what"]));
        for frame in doing["backtrace"].as_array().into_iter().flatten() {
            text += &format!("      {}\n", word(frame).trim());
        }
    }
    text
}

/// A table, in columns as wide as their longest cell.
fn view(name: &str, rows: &[Value], now: f64, most: usize) -> String {
    let columns = columns_of(name, rows);
    let heads = columns.iter().map(|column| column.label.to_uppercase());
    let mut lines: Vec<Vec<String>> = vec![heads.collect()];
    for row in rows.iter().take(most) {
        let cells = columns.iter().map(|column| format(column.kind, &row[&*column.key], now));
        lines.push(cells.collect());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let mut widths: Vec<_> = (0..columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    // Nothing follows the reason.
    widths.pop();
    let mut text = format!("\n{name} ({})\n", rows.len());
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        let line = padded.collect::<String>() + &line[widths.len()];
        text += &format!("  {}\n", line.trim_end());
    }
    text + &more(rows.len(), most)
}

/// A line with the number of hidden rows, if `count` is above `most`.
fn more(count: usize, most: usize) -> String {
    match count.saturating_sub(most) {
        0 => String::new(),
        more => format!("  … and {more} more\n"),
    }
}

/// The columns for the fields that any of the rows has, in their order.
fn columns_of(name: &str, rows: &[Value]) -> Vec<Column> {
    let mut fields: Vec<&str> = Vec::new();
    for (key, _) in rows.iter().filter_map(Value::as_object).flatten() {
        if !fields.contains(&&**key) {
            fields.push(key);
        }
    }
    columns(name, fields.iter().copied())
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
  ID     PROTOCOL  PEER             STATE  IDLE    UNSENT  AGE     IN/S   OUT/S  IN   OUT  LAYERS  WHY
  1.1.1  Chat      tcp:127.0.0.1:5  open   10.0 s  0 B     60.0 s  0 B/s  0 B/s  5 B  7 B          waits
  1.2.1  Chat      tcp:127.0.0.1:5  open   10.0 s  0 B     60.0 s  0 B/s  0 B/s  5 B  7 B          reads\u{fffd}[2J
  … and 1 more
";
        assert_eq!(state(&shown, 2), wanted);
    }

    #[test]
    fn a_recording_of_a_world_shows_its_faults_and_omits_missing_parts() {
        let mark = |time: f64, text: &str| json!({"time": time, "loop": 0, "text": text, "severity": "fault"});
        let shown = json!({
            "program": {"name": "naive", "version": "", "started": 1000.0, "now": 1009.5},
            "flags": [], "time": [], "views": {},
            "loops": [{"id": 0, "name": "loop 0", "serial": 1, "thread": "server", "state": "ended"}],
            "marks": [mark(1002.0, "a cut"), mark(1009.25, "server is killed")]
        });
        let wanted = "\
naive, up 9.5 s
no red flags
marks (2)
FAULT 250 ms before the end: server is killed
  … and 1 more
loop 0 (server) ended
";
        assert_eq!(state(&shown, 1), wanted);
    }

    #[test]
    fn a_row_is_one_line_for_any_fields() {
        let history = json!({"place": "a.rs:1:1", "state": "pending", "steps": []});
        let rows = [
            json!({"id": "0.1", "place": "a.rs:1:1", "callbacks": 0, "history": history}),
            json!({"id": "0.2", "place": "b.rs:2:2", "colour": "red\nblue"}),
        ];
        assert_eq!(
            view("deferreds", &rows, 0.0, 9),
            "\ndeferreds (2)\n  ID   PLACE     CALLBACKS  COLOUR    WHY\n  0.1  a.rs:1:1  0\n  \
             0.2  b.rs:2:2             red\u{fffd}blue\n"
        );
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
