//! The events of a [`Recording`] as JSON lines, each in words and in fields.
//!
//! The page's `replay.js` reads recordings by the same rules, and a test compares their results.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{self, Write};

use couplet_core::hooks::inspector::{Kind, Record};
use serde::Serialize;

use crate::contents::escaped;
use crate::recording::{LoopHeader, Mark, Recording};

/// Events that the end of a call may be away from its beginning.
const FAR: usize = 2000;

/// One event, as a line has it.
#[derive(Serialize)]
struct Line<'a> {
    /// Counts the events from 1, as the page does.
    number: usize,
    /// In seconds since 1970.
    time: f64,
    /// In seconds since the first event.
    at: f64,
    r#loop: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    /// The kind in the ring, such as `received`.
    kind: String,
    /// The event in words.
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u32>,
    /// Those bytes that were kept, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<String>,
    /// How many bytes were not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<usize>,
    /// How long the wait, call or callback took, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    took: Option<f64>,
    /// The call or callback that the loop is in after the event.
    #[serde(skip_serializing_if = "String::is_empty")]
    within: String,
    /// The number of the event in which the bytes of a write were recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded_by: Option<usize>,
    /// The call or callback that the loop was in after that event.
    #[serde(skip_serializing_if = "String::is_empty")]
    recorder: String,
    /// The connection after the event, unless that ends it.
    #[serde(flatten)]
    after: Option<After>,
}

/// A mark, as a line has it.
#[derive(Serialize)]
struct MarkLine<'a> {
    time: f64,
    at: f64,
    r#loop: usize,
    kind: &'static str,
    event: &'a str,
    severity: &'a str,
}

/// A connection after an event: the bytes so far are those on the wire.
#[derive(Serialize)]
struct After {
    state: &'static str,
    r#in: u64,
    out: u64,
}

/// An event in the order of all loops.
pub(crate) struct Event {
    time: f64,
    /// The place of the loop in the header.
    pub(crate) number: usize,
    /// The event's place among the records of the loop.
    pub(crate) index: usize,
}

/// A connection from its first event to its last.
#[derive(Default)]
pub(crate) struct Life {
    pub(crate) number: usize,
    pub(crate) slot: u32,
    /// The first event of the connection; `None` if the connection is older than the recording.
    pub(crate) begin: Option<usize>,
    /// The bytes of its events, in and out.
    bytes: [u64; 2],
    /// The bytes before the first event, in and out.
    pub(crate) base: [u64; 2],
    /// The connection's ID, if the header has it.
    pub(crate) id: Option<String>,
    /// The connection's protocol, if the state has it.
    protocol: Option<String>,
}

/// A connection at a moment.
struct Connection {
    life: usize,
    bytes: [u64; 2],
    /// The number of the protocol's name.
    name: Option<u32>,
    is_paused: bool,
    has_ended: bool,
    is_shut: bool,
}

/// A loop at a moment.
#[derive(Default)]
struct Doing {
    /// The open calls: their names and times.
    calls: Vec<(u32, f64)>,
    /// The slot of the connection whose callback is in progress, and its time.
    callback: Option<(u32, f64)>,
}

/// The state of all loops after some events.
struct Lines<'a> {
    recording: &'a Recording,
    events: Vec<Event>,
    lives: Vec<Life>,
    /// The lives that begin with an event.
    births: BTreeMap<usize, usize>,
    loops: Vec<Doing>,
    connections: BTreeMap<(usize, u32), Connection>,
    /// The calls and callbacks that the loops were in after the last events.
    within: VecDeque<String>,
}

impl Recording {
    /// Writes its events as JSON lines, the earliest first: each an object with its `time` in seconds
    /// since 1970, its `loop` and `kind`, the `event` in words, and, as far as they apply, the
    /// `connection`, its `state` and its bytes `in` and `out` so far, the `bytes` of the event, the
    /// seconds that a call or wait `took`, and the callback that it happened `within`. A write names
    /// its `recorder`, the call or callback that had the bytes, and the `number` of that event as
    /// `recorded_by`.
    ///
    /// [Kept](Self::has_contents) bytes are the text `contents`, as [`escape_ascii`](slice::escape_ascii)
    /// writes them, and `cut` counts the bytes after them.
    ///
    /// A flag that was raised, or a fault of a simulated world, is a line of the kind `mark` with a
    /// `severity`.
    ///
    /// # Errors
    ///
    /// The writer's error.
    pub fn write_lines(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = Lines::new(self);
        let first = lines.events.first().map_or(0.0, |event| event.time);
        let mut marks: Vec<_> = self.header.marks.iter().collect();
        marks.sort_by(|one, other| one.time.total_cmp(&other.time));
        let mut marks = marks.into_iter().peekable();
        for at in 0..lines.events.len() {
            let time = lines.events[at].time;
            while let Some(mark) = marks.next_if(|mark| mark.time < time) {
                write_line(out, &MarkLine::new(mark, first))?;
            }
            let line = lines.next(at, first);
            write_line(out, &line)?;
        }
        marks.try_for_each(|mark| write_line(out, &MarkLine::new(mark, first)))
    }
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

impl<'a> MarkLine<'a> {
    /// The line of a mark; `first` is the time of the first event.
    fn new(mark: &'a Mark, first: f64) -> MarkLine<'a> {
        let Mark { time, r#loop, text, severity } = mark;
        MarkLine {
            time: *time,
            at: time - first,
            r#loop: *r#loop,
            kind: "mark",
            event: text,
            severity,
        }
    }
}

impl<'a> Lines<'a> {
    fn new(recording: &'a Recording) -> Lines<'a> {
        let events = merged(recording);
        let loops = recording.header.loops.iter().map(|_| Doing::default()).collect();
        let (lives, births) = Lives::find(recording, &events);
        let mut lines = Lines {
            recording,
            events,
            lives,
            births,
            loops,
            connections: BTreeMap::new(),
            within: VecDeque::new(),
        };
        for life in 0..lines.lives.len() {
            if lines.lives[life].begin.is_none() {
                lines.begin(life);
            }
        }
        lines
    }

    fn begin(&mut self, life: usize) {
        let Life { number, slot, base, .. } = self.lives[life];
        let connection = Connection {
            life,
            bytes: base,
            name: None,
            is_paused: false,
            has_ended: false,
            is_shut: false,
        };
        self.connections.insert((number, slot), connection);
    }

    fn header(&self, number: usize) -> &'a LoopHeader {
        &self.recording.header.loops[number]
    }

    fn record(&self, at: usize) -> (usize, Record) {
        let Event { number, index, .. } = self.events[at];
        (number, self.recording.records[number][index])
    }

    /// Applies an event; returns its line.
    fn next(&mut self, at: usize, first: f64) -> Line<'a> {
        let (number, record) = self.record(at);
        let (key, time) = ((number, record.key), self.events[at].time);
        let id_before = self.connections.get(&key).map(|it| self.id(it));
        if let Some(life) = self.births.get(&at) {
            self.begin(*life);
        }
        self.loops[number].apply(record, time);
        self.apply_to_connection(key, record);
        let connection = self.connections.get(&key);
        let is_of_one = is_of_connection(record.kind) || record.kind == Kind::Reading;
        let has_bytes =
            matches!(record.kind, Kind::Received | Kind::Wrote | Kind::Blocked | Kind::Recorded);
        let after = connection.filter(|_| is_of_one).map(|it| After {
            state: self.state(it),
            r#in: it.bytes[0],
            out: it.bytes[1],
        });
        let header = self.header(number);
        let kept = self.recording.contents[number].of(self.events[at].index);
        let cut = kept.map(|kept| (record.value as usize).saturating_sub(kept.len()));
        let within = self.doing(number);
        let recorder = self.recorder(at);
        let by = recorder.and_then(|by| self.within.get(self.within.len().checked_sub(at - by)?));
        let by = by.cloned().unwrap_or_default();
        let line = Line {
            number: at + 1,
            time,
            at: time - first,
            r#loop: header.id,
            host: header.host.as_deref(),
            kind: format!("{:?}", record.kind).to_lowercase(),
            event: header.words(record),
            connection: connection.map(|it| self.id(it)).or(id_before).filter(|_| is_of_one),
            bytes: has_bytes.then_some(record.value),
            contents: kept.map(escaped),
            cut: cut.filter(|cut| *cut > 0),
            took: self.took(at),
            within,
            recorded_by: recorder.map(|by| by + 1),
            recorder: by,
            after,
        };
        self.keep(&line.within);
        line
    }

    /// Keeps the call or callback after an event.
    fn keep(&mut self, within: &str) {
        if self.within.len() == FAR {
            self.within.pop_front();
        }
        self.within.push_back(within.to_owned());
    }

    /// The event that recorded the bytes of a write: of `Recorded`, of the connection's callback before
    /// it, or else of the turn's last call before it, such as a task or a timed call.
    fn recorder(&self, at: usize) -> Option<usize> {
        let is_write = |kind: Kind| matches!(kind, Kind::Wrote | Kind::Blocked);
        let (number, Record { kind, key, .. }) = self.record(at);
        if !is_write(kind) {
            return None;
        }
        let (mut is_same_turn, mut call) = (true, None);
        for before in (at.saturating_sub(FAR)..at).rev() {
            let (of, other) = self.record(before);
            if of != number {
                continue;
            }
            is_same_turn &= other.kind != Kind::Waited;
            if is_same_turn && other.kind == Kind::Call {
                call = call.or(Some(before));
            }
            // The slot of a connection, as the key of these kinds.
            if other.key != key {
                continue;
            }
            if is_write(other.kind) || other.kind == Kind::Accepted {
                break;
            }
            if other.kind == Kind::Recorded || is_same_turn && other.kind.begins_callback() {
                return Some(before);
            }
        }
        call
    }

    fn apply_to_connection(&mut self, key: (usize, u32), record: Record) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let bytes = u64::from(record.value);
        match record.kind {
            Kind::Built => connection.name = Some(record.value),
            Kind::Received => connection.bytes[0] += bytes,
            Kind::Wrote | Kind::Blocked => connection.bytes[1] += bytes,
            Kind::Ended => connection.has_ended = true,
            Kind::Shut => connection.is_shut = true,
            Kind::Reading => connection.is_paused = record.value == 0,
            Kind::Closed | Kind::Failed => {
                self.connections.remove(&key);
            }
            _ => {}
        }
    }

    fn id(&self, connection: &Connection) -> String {
        let life = &self.lives[connection.life];
        life.id.clone().unwrap_or_else(|| self.made_up_id(life))
    }

    /// The ID of a connection that the header does not know: its slot, and its first event.
    fn made_up_id(&self, life: &Life) -> String {
        let serial = self.header(life.number).serial;
        match life.begin {
            Some(begin) => format!("{serial}.{}.e{begin}", life.slot),
            None => format!("{serial}.{}", life.slot),
        }
    }

    fn state(&self, connection: &Connection) -> &'static str {
        let Connection { life, name, is_paused, has_ended, is_shut, .. } = connection;
        match (has_ended, is_shut) {
            (true, true) => "closing",
            _ if *is_paused => "paused",
            (true, false) | (false, true) => "half-closed",
            (false, false) if name.is_none() && self.protocol_of(*life).is_none() => "opening",
            (false, false) => "open",
        }
    }

    fn protocol_of(&self, life: usize) -> Option<&str> {
        self.lives[life].protocol.as_deref()
    }

    /// The call or callback that a loop is in; empty if it is in none.
    fn doing(&self, number: usize) -> String {
        let Doing { calls, callback } = &self.loops[number];
        let header = self.header(number);
        match (calls.last(), callback) {
            (Some((name, begun)), callback) if callback.is_none_or(|(_, at)| at <= *begun) => {
                let (kind, name) = header.call(*name);
                if name == kind { kind.to_owned() } else { format!("{kind} {name}") }
            }
            (_, Some((slot, _))) => match self.connections.get(&(number, *slot)) {
                Some(connection) => {
                    let built = connection.name.map(|name| header.call(name).1);
                    let protocol = built.or_else(|| self.protocol_of(connection.life));
                    let protocol = protocol.unwrap_or("a connection");
                    format!("a callback of {protocol} (connection {})", self.id(connection))
                }
                None => "a callback".to_owned(),
            },
            _ => String::new(),
        }
    }

    /// Duration in seconds of the wait, call or callback that this event starts.
    fn took(&self, at: usize) -> Option<f64> {
        let (number, record) = self.record(at);
        let Event { index, time, .. } = self.events[at];
        let (records, header) = (&self.recording.records[number], self.header(number));
        if record.kind == Kind::Waited {
            return Some(header.seconds(record.slept()));
        }
        if record.kind != Kind::Call && !record.kind.begins_callback() {
            return None;
        }
        let rest = records[index + 1..].iter().take(FAR - 1);
        let end = rest.copied().find(|next| match record.kind {
            Kind::Call => {
                let returned = Record { kind: Kind::Returned, time: next.time, ..record };
                *next == returned
            }
            _ => !is_inside(next.kind),
        })?;
        let slept = if end.kind == Kind::Waited { header.seconds(end.slept()) } else { 0.0 };
        Some((header.at(end.time) - slept - time).max(0.0))
    }
}

impl Doing {
    fn apply(&mut self, record: Record, time: f64) {
        if !is_inside(record.kind) {
            self.callback = None;
        }
        match record.kind {
            Kind::Waited => self.calls.clear(),
            Kind::Call => self.calls.push((record.key, time)),
            Kind::Returned => {
                self.calls.pop();
            }
            kind if kind.begins_callback() => self.callback = Some((record.key, time)),
            _ => {}
        }
    }
}

/// Finds the connections of a recording.
pub(crate) struct Lives<'a> {
    recording: &'a Recording,
    all: Vec<Life>,
    births: BTreeMap<usize, usize>,
    /// Those that have not ended.
    present: BTreeMap<(usize, u32), usize>,
    by_slot: BTreeMap<(usize, u32), Vec<usize>>,
}

impl Lives<'_> {
    /// The connections, and the numbers of those that begin with an event.
    pub(crate) fn find(
        recording: &Recording,
        events: &[Event],
    ) -> (Vec<Life>, BTreeMap<usize, usize>) {
        let (present, by_slot) = (BTreeMap::new(), BTreeMap::new());
        let mut lives =
            Lives { recording, all: Vec::new(), births: BTreeMap::new(), present, by_slot };
        for (at, event) in events.iter().enumerate() {
            lives.event(at, event.number, recording.records[event.number][event.index]);
        }
        lives.join_rows();
        lives.join_names();
        (lives.all, lives.births)
    }

    fn event(&mut self, at: usize, number: usize, record: Record) {
        let key = (number, record.key);
        let mut life = self.present.get(&key).copied();
        let begins = matches!(record.kind, Kind::Accepted | Kind::Connected)
            || record.kind == Kind::Built && life.is_none();
        if begins {
            life = Some(self.bear(key, Some(at)));
        } else if life.is_none() && uses_connection(record.kind) {
            let begin = self.by_slot.contains_key(&key).then_some(at);
            life = Some(self.bear(key, begin));
        }
        let is_end = matches!(record.kind, Kind::Closed | Kind::Failed);
        let Some(life) = life else {
            if is_end {
                // A later connection of this slot is new.
                self.by_slot.entry(key).or_default();
            }
            return;
        };
        let bytes = u64::from(record.value);
        match record.kind {
            Kind::Received => self.all[life].bytes[0] += bytes,
            Kind::Wrote | Kind::Blocked => self.all[life].bytes[1] += bytes,
            _ if is_end => {
                self.present.remove(&key);
            }
            _ => {}
        }
    }

    fn bear(&mut self, (number, slot): (usize, u32), begin: Option<usize>) -> usize {
        let life = self.all.len();
        self.all.push(Life { number, slot, begin, ..Life::default() });
        self.present.insert((number, slot), life);
        self.by_slot.entry((number, slot)).or_default().push(life);
        if let Some(begin) = begin {
            self.births.insert(begin, life);
        }
        life
    }

    /// Connections that exist at the end have rows, whose counts lead back to the beginning.
    fn join_rows(&mut self) {
        let header = &self.recording.header;
        let rows = header.state["views"]["connections"].as_array();
        for row in rows.into_iter().flatten() {
            let id = row["loop"].as_u64();
            let number = header.loops.iter().position(|it| Some(it.id as u64) == id);
            let slot = row["id"].as_str().and_then(|id| id.split('.').nth(1)?.parse().ok());
            let (Some(number), Some(slot)) = (number, slot) else { continue };
            let known = self.present.get(&(number, slot)).copied();
            let life = match known {
                Some(life) => life,
                None if self.by_slot.contains_key(&(number, slot)) => continue,
                None => self.bear((number, slot), None),
            };
            let text = |field: &str| row[field].as_str().map(str::to_owned);
            let life = &mut self.all[life];
            (life.id, life.protocol) = (text("id"), text("protocol"));
            if life.begin.is_none() {
                let before = |field: &str, way: usize| {
                    row[field].as_u64().unwrap_or_default().saturating_sub(life.bytes[way])
                };
                life.base = [before("wire_in", 0), before("wire_out", 1)];
            }
        }
    }

    /// The header may have the addresses of ended connections too, in the order of their beginnings.
    fn join_names(&mut self) {
        for (number, header) in self.recording.header.loops.iter().enumerate() {
            let mut known: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
            for entry in &header.connections {
                known.entry(entry.slot).or_default().push(&entry.id);
            }
            for (slot, ids) in known {
                let lives = self.by_slot.get(&(number, slot)).map_or(&[][..], Vec::as_slice);
                for (life, id) in lives.iter().rev().zip(ids.into_iter().rev()) {
                    self.all[*life].id.get_or_insert_with(|| id.to_owned());
                }
            }
        }
    }
}

/// The next event of a loop: its time, and the place of the loop.
#[derive(Clone, Copy)]
struct Head(f64, usize);

impl Ord for Head {
    fn cmp(&self, other: &Head) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// The events of all loops in the order of their times, and of each loop in their given order.
pub(crate) fn merged(recording: &Recording) -> Vec<Event> {
    let Recording { header, records, .. } = recording;
    let head = |number: usize, index: usize| {
        let record = records[number].get(index)?;
        Some(Reverse(Head(header.loops[number].at(record.time), number)))
    };
    let mut next = vec![0; records.len()];
    let mut heads: BinaryHeap<_> = (0..records.len()).filter_map(|it| head(it, 0)).collect();
    let mut events = Vec::with_capacity(recording.events());
    while let Some(Reverse(Head(time, number))) = heads.pop() {
        let index = next[number];
        events.push(Event { time, number, index });
        next[number] += 1;
        heads.extend(head(number, index + 1));
    }
    events
}

/// Whether the first number of an event is a connection that exists.
fn uses_connection(kind: Kind) -> bool {
    use Kind::{Blocked, Ended, Received, Recorded, Room, Shut, Wrote};
    matches!(kind, Received | Wrote | Blocked | Ended | Room | Shut | Recorded)
}

/// Whether the first number of an event is a connection.
fn is_of_connection(kind: Kind) -> bool {
    let is_edge = matches!(kind, Kind::Accepted | Kind::Connected | Kind::Built | Kind::Closed);
    is_edge || uses_connection(kind)
}

/// Whether a callback of a connection continues after an event.
fn is_inside(kind: Kind) -> bool {
    use Kind::{Call, Late, Reading, Recorded, Returned, Woken};
    matches!(kind, Call | Returned | Recorded | Reading | Woken | Late)
}

impl LoopHeader {
    /// The kind and the name of a call.
    fn call(&self, number: u32) -> (&str, &str) {
        let named = self.names.get(number as usize);
        let (kind, name) = named.map_or(("a callback", ""), |(kind, name)| (kind, name));
        (kind, if name.is_empty() { kind } else { name })
    }

    /// An event in words.
    fn words(&self, record: Record) -> String {
        let Record { kind, key, value, .. } = record;
        let words = match kind {
            Kind::Waited => "a turn begins, after a wait",
            Kind::Received => "bytes arrive, and are delivered",
            Kind::Wrote => "bytes are written",
            Kind::Blocked => "bytes are written, and the system takes only a part",
            Kind::Accepted => "a connection is accepted",
            Kind::Connected => "a connect succeeds",
            Kind::Built => return format!("the protocol {} is built", self.call(value).1),
            Kind::Ended => "the peer closes its side",
            Kind::Failed => "an error ends the connection or attempt",
            Kind::Room => "the system accepts bytes again",
            Kind::Shut => "our side is closed",
            Kind::Closed if value != 0 => "the connection is reset",
            Kind::Closed => "the connection is closed",
            Kind::Reading if value != 0 => "reading is resumed",
            Kind::Reading => "reading is paused",
            Kind::Call => return self.call_words(key, "begins"),
            Kind::Returned => return self.call_words(key, "ends"),
            Kind::Recorded => "a write is recorded",
            Kind::Woken => "another thread wakes the loop",
            Kind::Late => {
                return format!("timed calls are late by {} ms", f64::from(value) / 1000.0);
            }
            _ => "another event of the driver",
        };
        words.to_owned()
    }

    fn call_words(&self, number: u32, verb: &str) -> String {
        let (kind, name) = self.call(number);
        format!("{kind} {verb}: {name}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::recording::ConnectionHeader;
    use crate::recording::tests::{file, record};

    fn lines(records: &[Record]) -> Vec<Value> {
        lines_of(&Recording::parse(&file(records)).expect("our own"))
    }

    fn lines_of(recording: &Recording) -> Vec<Value> {
        let mut text = Vec::new();
        recording.write_lines(&mut text).expect("a vector");
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
    }

    #[test]
    fn each_event_is_a_line_in_words_and_fields() {
        let all = lines(&[
            record(0, Kind::Accepted, 7, 3),
            record(5, Kind::Built, 7, 0),
            record(100, Kind::Received, 7, 100),
            record(135, Kind::Wrote, 7, 40),
            record(140, Kind::Closed, 7, 1),
        ]);
        let within = "a callback of Chat (connection 1.7.e0)";
        assert_eq!(all[2]["at"].as_f64().map(|at| (at * 1e6).round()), Some(100.0));
        assert_eq!(all[2]["took"].as_f64().map(|took| (took * 1e6).round()), Some(35.0));
        assert_eq!(all[1]["event"], "the protocol Chat is built");
        let fields = |line: &Value| {
            let names = ["kind", "connection", "bytes", "state", "in", "out", "within"];
            names.map(|name| line[name].clone())
        };
        let received = ["received", "1.7.e0"].map(|it| json!(it));
        assert_eq!(fields(&all[2])[..2], received);
        assert_eq!(
            fields(&all[2])[2..],
            [json!(100), json!("open"), json!(100), json!(0), json!(within)]
        );
        assert_eq!(fields(&all[3])[2..6], [json!(40), json!("open"), json!(100), json!(40)]);
        assert_eq!(all[4]["event"], "the connection is reset");
        assert_eq!(fields(&all[4])[3..], [const { Value::Null }; 4], "it is closed");
        assert_eq!(fields(&all[4])[1], "1.7.e0");
    }

    #[test]
    fn each_connection_of_a_slot_has_its_own_states_and_bytes() {
        let life = |at: u64| {
            [
                record(at, Kind::Accepted, 7, 3),
                record(at + 1, Kind::Built, 7, 0),
                record(at + 2, Kind::Received, 7, 5),
                record(at + 3, Kind::Reading, 7, 0),
                record(at + 4, Kind::Reading, 7, 1),
                record(at + 5, Kind::Blocked, 7, 3),
                record(at + 6, Kind::Ended, 7, 0),
                record(at + 7, Kind::Shut, 7, 0),
                record(at + 8, Kind::Closed, 7, 0),
            ]
        };
        let all = lines(&[life(0), life(20)].concat());
        let states = [
            ("opening", 0, 0),
            ("open", 0, 0),
            ("open", 5, 0),
            ("paused", 5, 0),
            ("open", 5, 0),
            ("open", 5, 3),
            ("half-closed", 5, 3),
            ("closing", 5, 3),
        ];
        for lines in all.chunks(9) {
            for (line, (state, bytes_in, out)) in lines.iter().zip(states) {
                let wanted = [json!(state), json!(bytes_in), json!(out)];
                assert_eq!(["state", "in", "out"].map(|name| line[name].clone()), wanted, "{line}");
            }
            assert!(lines[8]["state"].is_null(), "it has ended");
        }
        assert_ne!(all[0]["connection"], all[9]["connection"]);
    }

    #[test]
    fn a_write_names_its_recorder() {
        let all = lines(&[
            record(0, Kind::Accepted, 7, 3),
            record(5, Kind::Built, 7, 0),
            record(10, Kind::Received, 7, 100),
            record(15, Kind::Wrote, 7, 40),
            record(100, Kind::Waited, 0, 1),
            record(110, Kind::Call, 1, 0),
            record(115, Kind::Recorded, 7, 9),
            record(120, Kind::Returned, 1, 0),
            record(130, Kind::Wrote, 7, 9),
            record(200, Kind::Waited, 0, 1),
            record(210, Kind::Wrote, 7, 9),
        ]);
        let recorded =
            |at: usize| ["number", "recorded_by", "recorder"].map(|name| all[at][name].clone());
        let callback = "a callback of Chat (connection 1.7.e0)";
        assert_eq!(recorded(3), [json!(4), json!(3), json!(callback)]);
        assert_eq!(recorded(8), [json!(9), json!(7), json!("task talk")]);
        assert_eq!(recorded(10), [json!(11), Value::Null, Value::Null]);
    }

    #[test]
    fn a_connection_from_before_the_first_event_has_its_slot_as_its_id() {
        let all = lines(&[
            record(0, Kind::Wrote, 7, 1),
            record(1, Kind::Closed, 7, 0),
            record(2, Kind::Received, 7, 1),
        ]);
        let ids: Vec<_> = all.iter().map(|line| line["connection"].clone()).collect();
        assert_eq!(ids, ["1.7", "1.7", "1.7.e2"]);
    }
    /// A recording that is shorter than the log of connections, or longer.
    #[test]
    fn the_newest_connections_of_a_slot_have_the_known_ids() {
        let life = |at| [record(at, Kind::Accepted, 7, 3), record(at + 1, Kind::Closed, 7, 0)];
        let records = [life(0), life(10), life(20)].concat();
        let cases: [(&[&str], [&str; 3]); 5] = [
            (&[], ["1.7.e0", "1.7.e2", "1.7.e4"]),
            (&["1.7.9"], ["1.7.e0", "1.7.e2", "1.7.9"]),
            (&["1.7.8", "1.7.9"], ["1.7.e0", "1.7.8", "1.7.9"]),
            (&["1.7.7", "1.7.8", "1.7.9"], ["1.7.7", "1.7.8", "1.7.9"]),
            (&["1.7.6", "1.7.7", "1.7.8", "1.7.9"], ["1.7.7", "1.7.8", "1.7.9"]),
        ];
        for (known, ids) in cases {
            let mut recording = Recording::parse(&file(&records)).expect("our own");
            let header = |id: &&str| ConnectionHeader::of_test(7, (*id).to_owned(), "", "");
            // Others of the loop take none of the IDs.
            let other = ConnectionHeader::of_test(8, "1.8.1".to_owned(), "", "");
            let known = known.iter().map(header).chain([other]);
            recording.header.loops[0].connections = known.collect();
            let lines = lines_of(&recording);
            let found: Vec<_> = lines.iter().map(|line| line["connection"].clone()).collect();
            let expected: Vec<_> = ids.iter().flat_map(|id| [*id, *id]).collect();
            assert_eq!(found, expected);
        }
    }
}
