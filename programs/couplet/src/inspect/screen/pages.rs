//! Pages of lines: the flags and loops, the details of a row, the times, and the help.

use std::collections::BTreeMap;

use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use serde_json::Value;

use super::chain;
use super::draw::Palette;
use super::model::Opened;
use super::store::{Mark, Store};
use crate::inspect::fields::{Kind, column, format, seconds, word};

/// Frames of a backtrace that are shown above the rows.
const FRAMES: usize = 4;

/// Breaks lines between words; the rest of a line is indented as its beginning.
pub(super) fn wrapped(lines: Vec<Line<'static>>, width: usize) -> Vec<Line<'static>> {
    let mut all = Vec::new();
    for line in lines {
        let text = line.to_string();
        if line.width() <= width {
            all.push(line);
            continue;
        }
        let indent = text.len() - text.trim_start().len();
        let (mut column, mut spans) = (0, Vec::new());
        for span in line.spans {
            let style = line.style.patch(span.style);
            for word in span.content.split_inclusive(' ') {
                let length = Span::raw(word.trim_end()).width();
                if column > indent && column + length > width {
                    let next = vec![Span::raw(" ".repeat(indent))];
                    all.push(Line::from(std::mem::replace(&mut spans, next)));
                    column = indent;
                }
                column += Span::raw(word).width();
                spans.push(Span::styled(word.to_owned(), style));
            }
        }
        all.push(Line::from(spans));
    }
    all
}

/// The flags and the loops, cut to the limit of lines, if any.
pub(super) fn alerts(
    store: &Store,
    palette: Palette,
    width: usize,
    most: Option<usize>,
) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if store.flags.is_empty() {
        lines.push(Line::styled("no red flags", palette.colour(Color::Green)));
    }
    for flag in &store.flags {
        let style = palette.mark(Mark::of(flag));
        let title =
            format!("{} {}: ", word(&flag["severity"]).to_uppercase(), word(&flag["title"]));
        let words = format!("{} ({})", word(&flag["words"]), word(&flag["threshold"]));
        lines.push(Line::from(vec![Span::styled(title, style), Span::raw(words)]));
        lines.push(Line::styled(format!("    {}", word(&flag["remedy"])), Palette::dim()));
    }
    let mut lines = wrapped(lines, width);
    let Some(most) = most else {
        lines.push(Line::default());
        lines.extend(store.loops.iter().flat_map(|row| one_loop(row, palette, usize::MAX)));
        return lines;
    };
    // The loops that hang come first.
    let (hung, others): (Vec<_>, Vec<_>) =
        store.loops.iter().partition(|row| !row["doing"].is_null());
    let loops: Vec<_> = hung.into_iter().chain(others).collect();
    let loops = loops.iter().flat_map(|row| one_loop(row, palette, FRAMES)).collect();
    let loops = wrapped(loops, width);
    let for_flags = most.saturating_sub(loops.len()).max(most / 2).max(1);
    let for_loops = most.saturating_sub(lines.len().min(for_flags)).max(1);
    let hidden = lines.len().saturating_sub(for_flags) + loops.len().saturating_sub(for_loops);
    lines.truncate(for_flags);
    lines.extend(loops.into_iter().take(for_loops));
    if hidden > 0 {
        lines.push(Line::styled(format!("… {hidden} more: f"), Palette::dim()));
    }
    lines
}

/// A loop as a line, and the call that holds it with its backtrace.
fn one_loop(row: &Value, palette: Palette, frames: usize) -> Vec<Line<'static>> {
    let busy = row["busy"].as_f64().unwrap_or_default() * 100.0;
    let doing = &row["doing"];
    let style = if doing.is_null() { Style::new() } else { palette.mark(Mark::Red) };
    let text = format!(
        "{} ({}) {}, {busy:.0} % busy, {:.0} turns/s, {} connections, {} calls, {} tasks, {} jobs",
        word(&row["name"]),
        word(&row["thread"]),
        word(&row["state"]),
        row["turns"].as_f64().unwrap_or_default(),
        word(&row["connections"]),
        word(&row["calls"]),
        word(&row["tasks"]),
        word(&row["jobs"])
    );
    let mut lines = vec![Line::styled(text, style)];
    if !doing.is_null() {
        let held = seconds(doing["for"].as_f64().unwrap_or_default());
        lines.push(Line::styled(format!("    {} for {held}", word(&doing["what"])), style));
        let backtrace = doing["backtrace"].as_array().into_iter().flatten();
        lines.extend(
            backtrace
                .take(frames)
                .map(|frame| Line::styled(format!("      {}", word(frame).trim()), Palette::dim())),
        );
    }
    lines
}

/// The details of a row: its reason, its flags, the rows that it waits for, and its fields.
pub(super) fn details(
    store: &Store,
    opened: &Opened,
    unix: f64,
    palette: Palette,
) -> Vec<Line<'static>> {
    let Opened { view, row, is_gone, .. } = opened;
    let mut lines = vec![Line::styled(format!("{view} {}", row.id), Palette::bold())];
    if *is_gone {
        let text = "ended; its last state:";
        lines.push(Line::styled(text, palette.mark(Mark::Yellow)));
    }
    let mark = store.marks(view).get(row.id.as_str()).copied().unwrap_or_default();
    let why = format(column(view, "why").kind, row.value("why"), unix);
    lines.push(Line::styled(why, palette.mark(mark).patch(Palette::bold())));
    for flag in store.flags_of(view, &row.id) {
        let text = format!(
            "{}: {}. {}",
            word(&flag["title"]),
            word(&flag["words"]),
            word(&flag["remedy"])
        );
        lines.push(Line::styled(text, palette.mark(Mark::of(flag))));
    }
    let waits_for = row.waits_for().map(str::to_owned).collect();
    for (title, links) in [("waits for (w)", waits_for), ("waiters", store.waiters(view, &row.id))]
    {
        if !links.is_empty() {
            lines.extend([Line::default(), Line::styled(title, Palette::dim())]);
            lines.extend(links.iter().map(|link| linked(store, link, unix)));
        }
    }
    lines.push(Line::default());
    for (key, value) in row.values.iter().filter(|(key, _)| *key != "why" && *key != "waits_for") {
        let column = column(view, key);
        let label = format!("{:14} ", column.label);
        if column.kind == Kind::Chain {
            lines.push(Line::styled(label, Palette::dim()));
            lines.extend(chain::lines(value, unix).into_iter().map(Line::raw));
            continue;
        }
        let text = match format(column.kind, value, unix) {
            text if text.is_empty() => "-".to_owned(),
            text => text,
        };
        let exact = match column.kind {
            Kind::Bytes if value.as_f64() >= Some(1024.0) => format!(" ({value} B)"),
            _ => String::new(),
        };
        lines.push(Line::from(vec![Span::styled(label, Palette::dim()), Span::raw(text + &exact)]));
    }
    lines
}

/// Another row as a line: its name, its place and its reason.
fn linked(store: &Store, link: &str, unix: f64) -> Line<'static> {
    let Some((view, row)) = store.linked(link) else { return Line::raw(format!("  {link}")) };
    let why = format(column(&view.name, "why").kind, row.value("why"), unix);
    let words = [word(row.value("place")).into_owned(), why];
    let words = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
    Line::from(vec![Span::raw(format!("  {link}  ")), Span::styled(words, Palette::dim())])
}

/// Where the time of the last minute went: by protocol type and callback, by place, and the driver.
pub(super) fn times(store: &Store) -> Vec<Line<'static>> {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let sum = |key: &str| store.time.iter().map(|time| number(&time[key])).sum::<f64>();
    let (busy, idle) = (sum("busy"), sum("idle"));
    let share = |part: f64, of: f64| if of > 0.0 { part / of * 100.0 } else { 0.0 };
    let text = format!("busy {busy:.3} s, {:.1} % of the last minute", share(busy, busy + idle));
    let mut lines = vec![Line::styled(text, Palette::bold())];
    let mut parts: Vec<_> = store
        .time
        .iter()
        .flat_map(|time| {
            let kinds = time["kinds"].as_array().into_iter().flatten();
            kinds.map(|part| (number(&part["seconds"]), &time["loop"], part))
        })
        .collect();
    parts.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    let width = parts.iter().map(|(.., part)| word(&part["kind"]).chars().count()).max();
    let width = width.unwrap_or(0).max("KIND".len());
    let head = "SHARE                   SECONDS       CALLS         EACH  LOOP";
    lines.push(Line::styled(format!("{head}  {:width$}  NAME", "KIND"), Palette::bold()));
    let all: f64 = parts.iter().map(|(seconds, ..)| seconds).sum();
    for (took, number_of_loop, part) in parts {
        let of_loop = word(number_of_loop);
        let mut line = |of: &Value, took: f64, kind: &str, name: &str| {
            let (part_of_all, calls) = (share(took, all), number(&of["calls"]));
            let bar = "#".repeat((part_of_all / 10.0).round() as usize);
            let each =
                if calls > 0.0 { format!("{:.3} ms", took / calls * 1e3) } else { String::new() };
            lines.push(Line::raw(format!(
                "{part_of_all:5.1} % {bar:10} {took:12.6} {calls:11.0} {each:>12}  {of_loop:>4}  {kind:width$}  {name}",
            )));
        };
        line(part, took, &word(&part["kind"]), &word(&part["name"]));
        // The callbacks of a protocol, by their causes.
        for cause in part["parts"].as_array().into_iter().flatten() {
            line(cause, number(&cause["seconds"]), "", &format!("  {}", word(&cause["name"])));
        }
    }
    let mut buckets = BTreeMap::new();
    for bucket in store.time.iter().flat_map(|time| time["histogram"].as_array()).flatten() {
        let limit = bucket["limit"].as_f64();
        // Microseconds, as a key.
        let key = limit.map_or(u64::MAX, |limit| (limit * 1e6) as u64);
        *buckets.entry(key).or_insert(0.0) += number(&bucket["count"]);
    }
    lines.extend([Line::default(), Line::styled("calls by duration", Palette::bold())]);
    for (limit, count) in buckets.into_iter().filter(|(_, count)| *count > 0.0) {
        let limit = match limit {
            u64::MAX => "longer".to_owned(),
            limit => format!("up to {} ms", limit as f64 / 1e3),
        };
        lines.push(Line::raw(format!("{limit:>16} {count:9.0}")));
    }
    lines
}

/// The keys and the filter language.
pub(super) fn help() -> Vec<Line<'static>> {
    const HELP: [(&str, &str); 20] = [
        ("1 … 9, 0 or t", "the views in the order of their tabs; time"),
        ("Tab, ← →", "next and previous tab"),
        ("↑ ↓, j k", "next and previous row; PgUp, PgDn, Home, End, g, G too"),
        ("Enter", "details of the selected row; Esc returns"),
        ("w", "in the details: the row that this one waits for"),
        ("s, S", "sort by the next or previous column; at first, flagged rows come first"),
        ("r", "reverse the order"),
        ("/", "filter; Enter keeps it, Esc clears it"),
        ("Esc", "clears the filter, then the selection"),
        ("f", "all flags with their remedies, and all loops with backtraces"),
        ("p, Space", "pause, and resume"),
        (
            "c, x",
            "close, or reset, the selected connection after a question, if the program allows it",
        ),
        ("z", "pause reading from the selected connection, and resume"),
        ("l", "set the events that the program logs"),
        ("q, Ctrl-C", "quit"),
        ("", ""),
        ("word", "rows with this text in any field"),
        ("column:word", "rows with this text in the column"),
        ("column>number", "also < >= <= =, with units: B KiB MiB ms s m h"),
        ("-…", "rows that do not match"),
    ];
    let line = |(keys, words): (&'static str, &'static str)| {
        Line::from(vec![Span::styled(format!("{keys:16}"), Palette::bold()), Span::raw(words)])
    };
    HELP.into_iter().map(line).collect()
}
