//! [`Recording`]: the last events of all loops, with their names and the rows of that moment, in a
//! file.
//!
//! ```text
//! couplet recording 1\n
//! 8 bytes      the length of the header, little-endian
//! header       JSON: the time, the program, the loops with their clocks, names, connections and earlier
//!              tables, marks, and the state
//! records      16 bytes each, little-endian, loop after loop: the time in ticks and the kind in the
//!              lowest byte; the value, and the key in its upper half
//! contents     loop after loop, as long as its header says, if it kept any: for each chunk the number of
//!              its record (4 bytes, little-endian), the count of its bytes (4 bytes), and the bytes
//! ```
//!
//! Contract: 184a, 184b, 184d.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet_core::hooks::inspector::{
    Frame, Frames, Kind, LoggedConnection, Record, Ring, UserCall,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::activity::kind_and_name;
use crate::clock::Clock;
use crate::contents::{ContentsHeader, KeptContents, ReadContents};
use crate::frames::{self, FrameHeader};
use crate::rows::LoopName;

const MAGIC: &[u8] = b"couplet recording 1\n";
pub(crate) const RECORD: usize = 16;

/// The most marks.
const MARKS: usize = 1000;

/// The last events of a program's loops, as the inspector's `/recording` sends them.
pub struct Recording {
    pub(crate) header: Header<Value>,
    pub(crate) records: Vec<Vec<Record>>,
    pub(crate) contents: Vec<KeptContents>,
}

/// The text before the records.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header<S> {
    /// Seconds since 1970.
    pub(crate) made: f64,
    pub(crate) loops: Vec<LoopHeader>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) marks: Vec<Mark>,
    /// The state as `/state.json` has it.
    pub(crate) state: S,
}

/// The clock and the names of a loop, without which its records can't be read.
#[derive(Serialize, Deserialize)]
pub(crate) struct LoopHeader {
    pub(crate) id: usize,
    pub(crate) serial: u32,
    pub(crate) thread: String,
    /// The name of a simulated host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// The ticks of a second.
    pub(crate) ticks: f64,
    /// The time of tick 0, in seconds since 1970.
    pub(crate) origin: f64,
    /// The number of records.
    pub(crate) count: usize,
    /// The names of calls, by their numbers: the kind and the name.
    pub(crate) names: Vec<(String, String)>,
    /// The known connections that were open at some time since the first record.
    #[serde(default)]
    pub(crate) connections: Vec<ConnectionHeader>,
    /// The loop's tables as of earlier times, oldest first; older ones are farther apart.
    #[serde(default)]
    pub(crate) frames: Vec<FrameHeader>,
    /// The contents of its chunks, if it kept any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) contents: Option<ContentsHeader>,
}

/// The reason why bytes are no recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The first bytes are not a recording's.
    #[error("this is no recording of couplet: it does not begin with \"couplet recording 1\"")]
    Unknown,
    /// The bytes end too early, or continue after the last record.
    #[error("the recording is damaged: it has {found} bytes of records instead of {expected}")]
    Length {
        /// The bytes of records that the header announces.
        expected: usize,
        /// The bytes of records in the file.
        found: usize,
    },
    /// The contents of its chunks do not fit its events.
    #[error("the contents of the recording are damaged: {0}")]
    Contents(String),
    /// The header can't be read.
    #[error("the header of the recording is damaged: {0}")]
    Header(String),
}

/// A connection in the header.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectionHeader {
    /// As the records have it.
    pub(crate) slot: u32,
    pub(crate) id: String,
    pub(crate) peer: String,
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// Seconds since 1970.
    made: f64,
    /// Seconds since 1970, if it has ended.
    #[serde(default)]
    ended: Option<f64>,
}

#[cfg(test)]
impl ConnectionHeader {
    pub(crate) fn of_test(slot: u32, id: String, peer: &str, host: &str) -> ConnectionHeader {
        let (peer, host) = (peer.to_owned(), Some(host.to_owned()));
        ConnectionHeader { slot, id, peer, host, made: 1000.0, ended: None }
    }
}

/// A moment with words: a flag that was raised, or a fault of a simulation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Seconds since 1970.
    pub(crate) time: f64,
    /// The number of the loop.
    pub(crate) r#loop: usize,
    pub(crate) text: String,
    /// `red` or `yellow` for flags, or `fault`.
    pub(crate) severity: String,
}

/// The last marks.
#[derive(Default)]
pub(crate) struct Marks {
    marks: VecDeque<Mark>,
}

impl Marks {
    pub(crate) fn add(&mut self, mark: Mark) {
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(mark);
    }

    pub(crate) fn list(&self) -> Vec<Mark> {
        self.marks.iter().cloned().collect()
    }
}

/// The records of a loop, with their header except for its times.
pub(crate) struct LoopRecords<'a> {
    ring: &'a Ring,
    header: LoopHeader,
    records: Vec<Record>,
    frames: Vec<Arc<Frame>>,
    /// Nothing if the loop keeps no contents.
    contents: Option<ReadContents>,
}

/// A loop of a recording: its header, its records, and the section with its contents.
pub(crate) type LoopPart = (LoopHeader, Vec<Record>, Vec<u8>);

impl LoopRecords<'_> {
    /// Reads the records of a loop.
    pub(crate) fn read<'a>(
        id: usize,
        serial: u32,
        thread: &str,
        (ring, frames): (&'a Ring, &Frames),
    ) -> LoopRecords<'a> {
        let (mut records, mut numbers) = (Vec::new(), Vec::new());
        ring.read_numbered(0, |number, record| {
            numbers.push(number);
            records.push(record);
        });
        let contents = ring.contents().map(|contents| ReadContents::read(contents, &numbers));
        let named = |call: UserCall| {
            let (kind, name) = kind_and_name(&call);
            (kind.to_owned(), name)
        };
        let header = LoopHeader {
            id,
            serial,
            thread: thread.to_owned(),
            host: None,
            ticks: 0.0,
            origin: 0.0,
            count: 0,
            names: ring.names_from(0).into_iter().map(named).collect(),
            connections: Vec::new(),
            frames: Vec::new(),
            contents: None,
        };
        LoopRecords { ring, header, records, frames: frames.list(), contents }
    }

    /// Sets the times, as of now. `last`: drops the records before this time until now.
    pub(crate) fn until(mut self, now: Instant, last: Option<Duration>, clock: Clock) -> LoopPart {
        let (ticks, origin) = self.ring.scale(now);
        if let Some(last) = last {
            let passed = now.saturating_duration_since(origin).saturating_sub(last);
            let begin = (passed.as_secs_f64() * ticks) as u64;
            let dropped = self.records.partition_point(|record| record.time < begin);
            self.records.drain(..dropped);
            if let Some(contents) = &mut self.contents {
                contents.drop_first(dropped);
            }
        }
        self.with_clock(ticks, clock.unix(origin), Some(clock))
    }

    /// Sets the clock of the header and all times that depend on it. `clock` is for the tables; without
    /// one, they use the clock of the ticks.
    fn with_clock(self, ticks: f64, origin: f64, clock: Option<Clock>) -> LoopPart {
        let LoopRecords { ring, mut header, records, mut frames, contents } = self;
        (header.ticks, header.origin, header.count) = (ticks, origin, records.len());
        let begin = records.first().map_or(u64::MAX, |record| record.time);
        let connections = ring.connections_since(begin).into_iter();
        header.connections = connections.map(|it| header.connection(&it)).collect();
        // The last frame before the first record shows the beginning.
        let older = frames.partition_point(|frame| frame.ticks < begin);
        frames.drain(..older.saturating_sub(1));
        if let Some(clock) = clock.or_else(|| header.clock_of(&frames)) {
            let of = LoopName { number: header.id, serial: header.serial, clock };
            header.frames = frames::headers(&frames, of, |ticks| header.at(ticks));
        }
        let section = contents.as_ref().map(ReadContents::section);
        let each = contents.map_or(0, |contents| contents.each);
        header.contents = section.as_ref().map(|it| ContentsHeader { each, length: it.len() });
        (header, records, section.unwrap_or_default())
    }
}

/// A loop of a simulated world, for [`Recording::of_world`].
#[derive(Clone, Debug)]
pub struct WorldLoop {
    /// The name of its host.
    pub host: String,
    /// The number of the loop in this process.
    pub serial: u32,
    /// The loop's events, whose ticks are nanoseconds since the world began.
    pub ring: Arc<Ring>,
    /// The loop's tables as of earlier times.
    pub frames: Arc<Frames>,
}

/// A recording as bytes.
pub(crate) fn bytes(
    header: &Header<Box<RawValue>>,
    records: &[Vec<Record>],
    contents: &[Vec<u8>],
) -> Vec<u8> {
    // Serialization fails only for maps with other keys than texts; a header has none.
    let text = serde_json::to_vec(header).unwrap_or_default();
    let count: usize = records.iter().map(Vec::len).sum();
    let kept: usize = contents.iter().map(Vec::len).sum();
    let mut file = Vec::with_capacity(MAGIC.len() + 8 + text.len() + count * RECORD + kept);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&(text.len() as u64).to_le_bytes());
    file.extend_from_slice(&text);
    for record in records.iter().flatten() {
        let (time, kind) = (record.time << u8::BITS, record.kind as u64);
        file.extend_from_slice(&(time | kind).to_le_bytes());
        file.extend_from_slice(&record.value.to_le_bytes());
        file.extend_from_slice(&record.key.to_le_bytes());
    }
    contents.iter().for_each(|section| file.extend_from_slice(section));
    file
}

impl Recording {
    /// The recording of a simulated world as bytes: its name, the time since 1970 when it began, the
    /// time that has passed in it, its loops, and its faults with the times since it began.
    pub fn of_world(
        name: &str,
        (began, passed): (Duration, Duration),
        loops: &[WorldLoop],
        faults: impl IntoIterator<Item = (Duration, String)>,
    ) -> Vec<u8> {
        let (origin, now) = (began.as_secs_f64(), (began + passed).as_secs_f64());
        let (mut headers, mut rows) = (Vec::new(), Vec::new());
        let (mut records, mut contents) = (Vec::new(), Vec::new());
        for (id, WorldLoop { host, serial, ring, frames }) in loops.iter().enumerate() {
            let read = LoopRecords::read(id, *serial, host, (ring, frames));
            let (mut header, own, kept) = read.with_clock(1e9, origin, None);
            header.host = Some(host.clone());
            headers.push(header);
            records.push(own);
            contents.push(kept);
            rows.push(json!({
                "id": id, "name": format!("loop {id}"), "serial": serial, "thread": host, "host": host,
                "state": "ended",
            }));
        }
        // A fault may be planned for a time that the world does not reach.
        let faults = faults.into_iter().filter(|(at, _)| *at <= passed);
        let mut marks: Vec<Mark> = faults
            .map(|(at, text)| {
                let (time, severity) = ((began + at).as_secs_f64(), "fault".to_owned());
                Mark { time, r#loop: 0, text, severity }
            })
            .collect();
        marks.sort_by(|one, other| one.time.total_cmp(&other.time));
        marks.truncate(MARKS);
        let state = json!({
            "program": {"name": name, "version": "", "started": origin, "now": now},
            "flags": [], "loops": rows, "time": [], "views": {},
        });
        // Our own state is JSON.
        let state = RawValue::from_string(state.to_string()).unwrap_or_default();
        bytes(&Header { made: now, loops: headers, marks, state }, &records, &contents)
    }

    /// Reads a recording. Records of unknown kinds are left out.
    ///
    /// # Errors
    ///
    /// [`RecordingError`].
    pub fn parse(file: &[u8]) -> Result<Recording, RecordingError> {
        let rest = file.strip_prefix(MAGIC).ok_or(RecordingError::Unknown)?;
        let damaged = |text: &str| RecordingError::Header(text.to_owned());
        let (length, rest) = rest.split_first_chunk().ok_or_else(|| damaged("it is cut off"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let text = rest.get(..length).ok_or_else(|| damaged("it is cut off"))?;
        let header: Header<Value> = serde_json::from_slice(text)
            .map_err(|error| RecordingError::Header(error.to_string()))?;
        let mut rest = &rest[length..];
        let sizes = |it: &LoopHeader| [it.count.saturating_mul(RECORD), it.contents_length()];
        let counts = header.loops.iter().flat_map(sizes);
        let expected = counts.fold(0, usize::saturating_add);
        if expected != rest.len() {
            return Err(RecordingError::Length { expected, found: rest.len() });
        }
        let (mut records, mut numbers) = (Vec::new(), Vec::new());
        for each in &header.loops {
            let (own, others) = rest.split_at(each.count * RECORD);
            let all = own.as_chunks::<RECORD>().0.iter().enumerate();
            let known = all.filter_map(|(number, bytes)| Some((number, record(bytes)?)));
            let (own_numbers, own): (Vec<_>, Vec<_>) = known.unzip();
            numbers.push(own_numbers);
            records.push(own);
            rest = others;
        }
        let mut contents = Vec::new();
        for (each, (numbers, records)) in header.loops.iter().zip(numbers.iter().zip(&records)) {
            let (section, others) = rest.split_at(each.contents_length());
            contents.push(KeptContents::parse(section, each.count, numbers, records)?);
            rest = others;
        }
        Ok(Recording { header, records, contents })
    }

    /// The state of the program when the recording was made, as `/state.json` has it, with the `marks`
    /// of the recording if it has any: the red and yellow flags that were raised, and the faults of a
    /// simulated world, each with its `time` in seconds since 1970, its `loop`, `text` and `severity`.
    pub fn state(&self) -> String {
        let Header { state, marks, .. } = &self.header;
        match state {
            Value::Object(state) if !marks.is_empty() => {
                let mut state = state.clone();
                state.insert("marks".to_owned(), json!(marks));
                Value::from(state).to_string()
            }
            _ => state.to_string(),
        }
    }

    /// The rows of a view, or another part of the state, as JSON.
    pub(crate) fn view(&self, name: &str) -> Option<String> {
        let state = &self.header.state;
        let rows = state["views"].get(name).or_else(|| state.get(name))?;
        Some(rows.to_string())
    }

    /// Whether its loops kept the [contents](crate::Inspector::contents) of their chunks.
    pub fn has_contents(&self) -> bool {
        self.header.loops.iter().any(|it| it.contents.is_some())
    }

    /// How many events it has.
    pub fn events(&self) -> usize {
        self.records.iter().map(Vec::len).sum()
    }

    /// The time from the first event to the last, in seconds.
    pub fn seconds(&self) -> f64 {
        let times = self.header.loops.iter().zip(&self.records).filter_map(|(each, records)| {
            let (first, last) = (records.first()?, records.last()?);
            Some((each.at(first.time), each.at(last.time)))
        });
        let (first, last) = times.fold((f64::MAX, f64::MIN), |(first, last), (from, to)| {
            (first.min(from), last.max(to))
        });
        (last - first).max(0.0)
    }

    /// Writes the events in Chrome's trace format, which <https://ui.perfetto.dev> opens: a thread for
    /// each loop, with its waits, its calls and the callbacks of its connections, and an instant for
    /// each mark.
    ///
    /// # Errors
    ///
    /// The writer's error.
    pub fn write_trace(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
        let program = self.header.state["program"]["name"].as_str().unwrap_or("couplet");
        let name = Value::from(program).to_string();
        let process = "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\"";
        write!(out, "{process},\"args\":{{\"name\":{name}}}}}")?;
        for (each, records) in self.header.loops.iter().zip(&self.records) {
            let id = each.id;
            let name = Value::from(format!("loop {id} ({})", each.thread)).to_string();
            write!(out, ",\n{{\"ph\":\"M\",\"pid\":1,\"tid\":{id},\"name\":\"thread_name\"")?;
            write!(out, ",\"args\":{{\"name\":{name}}}}}")?;
            let mut trace = Trace { each, out: &mut *out, protocols: Vec::new(), open: Vec::new() };
            for record in records {
                trace.record(record)?;
            }
        }
        for Mark { time, r#loop, text, severity } in &self.header.marks {
            let (time, name) = (micros(*time), Value::from(&**text));
            let kind = Value::from(&**severity);
            write!(
                out,
                ",\n{{\"ph\":\"i\",\"s\":\"p\",\"pid\":1,\"tid\":{loop},\"ts\":{time},\"name\":{name},\"cat\":{kind}}}"
            )?;
        }
        out.write_all(b"\n]}\n")
    }
}

impl LoopHeader {
    /// A time in seconds since 1970.
    pub(crate) fn at(&self, ticks: u64) -> f64 {
        self.origin + self.seconds(ticks)
    }

    /// The length of the section with its contents.
    fn contents_length(&self) -> usize {
        self.contents.as_ref().map_or(0, |contents| contents.length)
    }

    pub(crate) fn seconds(&self, ticks: u64) -> f64 {
        ticks as f64 / self.ticks.max(1.0)
    }

    /// A clock of the frames' instants that agrees with their ticks.
    fn clock_of(&self, frames: &[Arc<Frame>]) -> Option<Clock> {
        let known = |frame: &Arc<Frame>| Some((frame.snapshot.at?, frame.ticks));
        let (at, ticks) = frames.iter().find_map(known)?;
        let unix = Duration::try_from_secs_f64(self.at(ticks)).ok()?;
        Some(Clock::at(at, unix))
    }

    fn connection(&self, it: &LoggedConnection) -> ConnectionHeader {
        ConnectionHeader {
            slot: it.slot,
            id: format!("{}.{}.{}", self.serial, it.slot, it.generation),
            peer: it.peer.to_string(),
            host: it.host.as_ref().map(ToString::to_string),
            made: self.at(it.made),
            ended: it.ended.map(|ended| self.at(ended)),
        }
    }

    fn name(&self, number: u32) -> (&str, &str) {
        let name = self.names.get(number as usize);
        name.map_or(("other", ""), |(kind, name)| (kind, name))
    }
}

/// The record in 16 bytes, if its kind is known.
fn record(bytes: &[u8; RECORD]) -> Option<Record> {
    let (time, rest) = bytes.split_first_chunk()?;
    let (value, key) = rest.split_first_chunk()?;
    let time = u64::from_le_bytes(*time);
    Some(Record {
        time: time >> u8::BITS,
        kind: Kind::of(time as u8)?,
        key: u32::from_le_bytes(*key.first_chunk()?),
        value: u32::from_le_bytes(*value),
    })
}

/// Writes the events of one loop.
struct Trace<'a> {
    each: &'a LoopHeader,
    out: &'a mut dyn Write,
    /// The connections and the numbers of their protocols' names, the last one last.
    protocols: Vec<(u32, u32)>,
    /// The open calls: true for the callback of a connection.
    open: Vec<bool>,
}

impl Trace<'_> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        let Record { time, kind, key, value } = *record;
        match kind {
            Kind::Waited => {
                let slept = record.slept().min(time);
                self.close_all(time - slept)?;
                self.begin(time - slept, "wait", "", "")?;
                self.end(time)
            }
            Kind::Call => {
                let (kind, name) = self.each.name(key);
                let title = if name.is_empty() { kind } else { name };
                self.open.push(false);
                self.begin(time, title, kind, "")
            }
            Kind::Returned => {
                self.close_callback(time)?;
                match self.open.pop() {
                    Some(_) => self.end(time),
                    // The call began before the first record.
                    None => Ok(()),
                }
            }
            _ if kind.begins_callback() => {
                self.close_callback(time)?;
                if kind == Kind::Built {
                    self.protocols.push((key, value));
                }
                self.callback(record)
            }
            Kind::Recorded | Kind::Woken | Kind::Late => Ok(()),
            _ => self.close_callback(time),
        }
    }

    /// Opens the callback of a connection.
    fn callback(&mut self, record: &Record) -> io::Result<()> {
        let known = self.protocols.iter().rev().find(|(slot, _)| *slot == record.key);
        let (_, protocol) = known.map_or(("", "a connection"), |(_, name)| self.each.name(*name));
        let bytes = match record.kind {
            Kind::Received => format!(",\"bytes\":{}", record.value),
            _ => String::new(),
        };
        let connection = format!("\"connection\":\"{}.{}\"{bytes}", self.each.serial, record.key);
        self.open.push(true);
        self.begin(record.time, protocol, "protocol", &connection)
    }

    /// Closes the callback of a connection, if that is open: the loop does something else.
    fn close_callback(&mut self, time: u64) -> io::Result<()> {
        match self.open.pop_if(|is_callback| *is_callback) {
            Some(_) => self.end(time),
            None => Ok(()),
        }
    }

    fn close_all(&mut self, time: u64) -> io::Result<()> {
        std::mem::take(&mut self.open).into_iter().try_for_each(|_| self.end(time))
    }

    fn begin(&mut self, time: u64, name: &str, kind: &str, fields: &str) -> io::Result<()> {
        let (name, kind) = (Value::from(name), Value::from(kind));
        let (id, time) = (self.each.id, self.micros(time));
        write!(
            self.out,
            ",\n{{\"ph\":\"B\",\"pid\":1,\"tid\":{id},\"ts\":{time},\"name\":{name},\"cat\":{kind},\"args\":{{{fields}}}}}"
        )
    }

    fn end(&mut self, time: u64) -> io::Result<()> {
        let (id, time) = (self.each.id, self.micros(time));
        write!(self.out, ",\n{{\"ph\":\"E\",\"pid\":1,\"tid\":{id},\"ts\":{time}}}")
    }

    fn micros(&self, ticks: u64) -> String {
        micros(self.each.at(ticks))
    }
}

/// A time in seconds as microseconds.
fn micros(time: f64) -> String {
    let micros = time * 1e6;
    // The header of a damaged recording may have any numbers.
    format!("{:.3}", if micros.is_finite() { micros } else { 0.0 })
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("events", &self.events()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use couplet_core::hooks::inspector::TableLimits;
    use couplet_core::reactor::Snapshot;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn file(records: &[Record]) -> Vec<u8> {
        whole_file(records, None, Vec::new())
    }

    /// A file with the first bytes of some records' chunks, and with the ends of connection 7.
    pub(crate) fn file_with_contents(
        records: &[Record],
        chunks: &[(usize, Vec<u8>)],
        [peer, host]: [&str; 2],
    ) -> Vec<u8> {
        let connection = ConnectionHeader::of_test(7, "1.7.3".to_owned(), peer, host);
        let mut section = Vec::new();
        for (record, bytes) in chunks {
            section.extend((*record as u32).to_le_bytes());
            section.extend((bytes.len() as u32).to_le_bytes());
            section.extend_from_slice(bytes);
        }
        whole_file(records, Some(section), vec![connection])
    }

    fn whole_file(
        records: &[Record],
        section: Option<Vec<u8>>,
        connections: Vec<ConnectionHeader>,
    ) -> Vec<u8> {
        let length = section.as_ref().map(Vec::len);
        let each = LoopHeader { connections, ..loop_header(0, records.len(), length) };
        let state = RawValue::from_string("{\"program\":{\"name\":\"poems\"}}".to_owned());
        let header = Header {
            made: 1000.0,
            loops: vec![each],
            marks: Vec::new(),
            state: state.expect("JSON"),
        };
        bytes(&header, &[records.to_vec()], &[section.unwrap_or_default()])
    }

    /// The header of a loop with this number of records, and the length of its contents.
    fn loop_header(id: usize, count: usize, contents: Option<usize>) -> LoopHeader {
        let names = [("protocol", "Chat"), ("task", "talk")];
        let names = names.map(|(kind, name)| (kind.to_owned(), name.to_owned()));
        LoopHeader {
            id,
            serial: 1 + id as u32,
            thread: "main".to_owned(),
            host: None,
            ticks: 1e6,
            origin: 1000.0,
            count,
            names: names.to_vec(),
            connections: Vec::new(),
            frames: Vec::new(),
            contents: contents.map(|length| ContentsHeader { each: 100, length }),
        }
    }

    fn trace(records: &[Record]) -> Value {
        let mut text = Vec::new();
        let recording = Recording::parse(&file(records)).expect("our own");
        recording.write_trace(&mut text).expect("a vector");
        serde_json::from_slice(&text).expect("JSON")
    }

    pub(crate) fn record(time: u64, kind: Kind, key: u32, value: u32) -> Record {
        Record { time, kind, key, value }
    }

    #[test]
    fn c184a_a_recording_is_read_as_it_was_written() {
        let records = [record(5, Kind::Built, 7, 0), record(1 << 55, Kind::Wrote, u32::MAX, 9)];
        let recording = Recording::parse(&file(&records)).expect("our own");
        assert_eq!(recording.records, [records.to_vec()]);
        assert_eq!(recording.state(), "{\"program\":{\"name\":\"poems\"}}");
        assert_eq!(recording.events(), 2);
        assert!(recording.seconds() > 3.6e10);
    }

    #[test]
    fn a_trace_has_calls_callbacks_and_waits() {
        let all = trace(&[
            record(0, Kind::Built, 7, 0),
            record(10, Kind::Received, 7, 100),
            record(20, Kind::Call, 1, 0),
            record(30, Kind::Returned, 1, 0),
            record(40, Kind::Wrote, 7, 100),
            record(1000, Kind::Waited, 0, 10),
            record(1001, Kind::Returned, 1, 0),
        ]);
        let events = all["traceEvents"].as_array().expect("events");
        let begun = events.iter().filter(|event| event["ph"] == "B");
        let names: Vec<_> = begun.clone().map(|event| event["name"].clone()).collect();
        assert_eq!(names, ["Chat", "Chat", "talk", "wait"]);
        let ended = events.iter().filter(|event| event["ph"] == "E").count();
        assert_eq!(ended, 4, "{all:#}");
        let args: Vec<_> = begun.map(|event| event["args"].clone()).collect();
        assert_eq!(args[1], serde_json::json!({"connection": "1.7", "bytes": 100}));
    }

    #[test]
    fn a_trace_names_a_callback_by_the_protocol_of_the_connection_that_has_the_slot_then() {
        let all = trace(&[
            record(0, Kind::Built, 7, 0),
            record(10, Kind::Received, 7, 1),
            record(20, Kind::Built, 8, 1),
            record(30, Kind::Received, 7, 2),
            record(40, Kind::Closed, 7, 0),
            record(50, Kind::Built, 7, 1),
            record(60, Kind::Received, 7, 3),
            record(70, Kind::Received, 8, 4),
            record(80, Kind::Closed, 7, 0),
            record(90, Kind::Built, 7, 0),
            record(100, Kind::Received, 7, 5),
        ]);
        let events = all["traceEvents"].as_array().expect("events").iter();
        let received = events.filter(|event| event["args"]["bytes"].is_number());
        let names: Vec<_> = received.map(|event| event["name"].clone()).collect();
        assert_eq!(names, ["Chat", "Chat", "talk", "talk", "Chat"]);
    }

    #[test]
    fn c184a_each_damage_of_a_recording_has_its_error() {
        let whole = file(&[record(5, Kind::Built, 7, 0)]);
        let error = |file: &[u8]| Recording::parse(file).expect_err("it is damaged");
        assert_eq!(error(b""), RecordingError::Unknown);
        assert_eq!(error(b"couplet recording 2\n"), RecordingError::Unknown);
        let cut = RecordingError::Length { expected: 16, found: 15 };
        assert_eq!(error(&whole[..whole.len() - 1]), cut);
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(error(&longer), RecordingError::Length { expected: 16, found: 17 });
        for end in MAGIC.len()..whole.len() - RECORD {
            assert!(matches!(error(&whole[..end]), RecordingError::Header(_)), "{end}");
        }
    }

    #[test]
    fn c184d_contents_are_read_as_they_were_written() {
        let records = [record(5, Kind::Received, 7, 5), record(6, Kind::Wrote, 7, 900)];
        let chunks = [(0, b"hello".to_vec()), (1, b"\"\\\n\xff".to_vec())];
        let file = file_with_contents(&records, &chunks, ["tcp:192.0.2.1:9", "unix:/a"]);
        let recording = Recording::parse(&file).expect("our own");
        assert!(recording.has_contents());
        assert_eq!(recording.contents[0].of(0), Some(&b"hello"[..]));
        assert_eq!(recording.contents[0].of(2), None);
        let mut lines = Vec::new();
        recording.write_lines(&mut lines).expect("a vector");
        let lines = String::from_utf8(lines).expect("JSON");
        let lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((&lines[0]["contents"], &lines[0]["cut"]), (&json!("hello"), &Value::Null));
        assert_eq!(lines[1]["contents"], r#"\"\\\n\xff"#);
        assert_eq!(lines[1]["cut"], 896);
        let without = whole_file(&records, None, Vec::new());
        assert!(!Recording::parse(&without).expect("our own").has_contents());
    }

    #[test]
    fn c184d_each_loop_has_its_own_records_and_contents() {
        let records: Vec<Vec<Record>> = [1, 0, 3, 2]
            .map(|count| (0..count).map(|at| record(at, Kind::Received, 7, 9)).collect())
            .into();
        let section = |chunks: &[(u32, &str)]| {
            let mut section = Vec::new();
            for (record, text) in chunks {
                section.extend(record.to_le_bytes());
                section.extend((text.len() as u32).to_le_bytes());
                section.extend(text.as_bytes());
            }
            section
        };
        // The last loop keeps none.
        let sections = [section(&[(0, "a")]), Vec::new(), section(&[(0, "bb"), (2, "ccc")])];
        let mut loops: Vec<_> = sections
            .iter()
            .zip(&records)
            .enumerate()
            .map(|(id, (section, records))| loop_header(id, records.len(), Some(section.len())))
            .collect();
        loops.push(loop_header(3, 2, None));
        let state = RawValue::from_string("{}".to_owned()).expect("JSON");
        let header = Header { made: 1000.0, loops, marks: Vec::new(), state };
        let recording = Recording::parse(&bytes(&header, &records, &sections)).expect("our own");
        assert_eq!(recording.records, records);
        let found = recording.contents.iter().map(|kept| [0, 1, 2].map(|record| kept.of(record)));
        let wanted =
            [[Some("a"), None, None], [None; 3], [Some("bb"), None, Some("ccc")], [None; 3]];
        let wanted = wanted.map(|texts| texts.map(|text| text.map(str::as_bytes)));
        assert_eq!(found.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_recording_lasts_from_the_first_event_of_any_loop_to_the_last() {
        type Case = (&'static [u64], &'static [u64], f64);
        let cases: [Case; 6] = [
            (&[2, 5], &[1, 3], 4.0),
            (&[1, 3], &[2, 5], 4.0),
            (&[1, 5], &[2, 3], 4.0),
            (&[2, 3], &[1, 5], 4.0),
            (&[], &[1, 3], 2.0),
            (&[], &[], 0.0),
        ];
        for (one, other, wanted) in cases {
            let loops = [one, other].map(|seconds| {
                let ring = Ring::in_nanoseconds(1024, 10, None);
                seconds.iter().for_each(|at| ring.put(at * 1_000_000_000, Kind::Received, 7, 1));
                let frames = Arc::new(Frames::new(TableLimits::default()));
                WorldLoop { host: "north".to_owned(), serial: 3, ring: Arc::new(ring), frames }
            });
            let file = Recording::of_world("poetry", (Duration::ZERO, Duration::ZERO), &loops, []);
            let seconds = Recording::parse(&file).expect("our own").seconds();
            assert!((seconds - wanted).abs() < 1e-6, "{one:?} {other:?}: {seconds}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn c184c_c184d_a_recording_of_a_time_begins_with_the_first_event_in_it() {
        let begun = Instant::now();
        let ring = Ring::in_nanoseconds(1 << 16, 10, Some(begun));
        for second in [1, 39, 40, 41, 99] {
            ring.put(u64::from(second) * 1_000_000_000, Kind::Received, 7, second);
        }
        let frame = |second: u64| {
            let mut snapshot = Snapshot::default();
            snapshot.at = Some(begun + Duration::from_secs(second));
            Arc::new(Frame { ticks: second * 1_000_000_000, snapshot, left_out: 0 })
        };
        let text_of = |second: u32| second.to_string().into_bytes();
        let frames = Frames::new(TableLimits::default());
        let clock = Clock::at(begun, Duration::from_secs(1000));
        let of_last = |last: Option<u64>| {
            let mut read = LoopRecords::read(0, 1, "main", (&ring, &frames));
            read.frames = [10, 30, 39, 45, 90].map(frame).to_vec();
            // No contents of the third event were kept.
            let kept = [(0, 1), (1, 39), (3, 41), (4, 99)];
            let kept = kept.map(|(place, second): (usize, u32)| (place, text_of(second)));
            read.contents = Some(ReadContents::of_test(kept.to_vec()));
            let now = begun + Duration::from_secs(100);
            let (header, records, section) = read.until(now, last.map(Duration::from_secs), clock);
            assert_eq!((header.count, header.origin), (records.len(), 1000.0));
            let events = records.iter().map(|record| record.value).collect::<Vec<_>>();
            let places: Vec<_> = (0..records.len()).collect();
            let kept = KeptContents::parse(&section, records.len(), &places, &records);
            let kept = kept.expect("each chunk belongs to an event");
            for (place, second) in places.iter().zip(&events) {
                let wanted = (*second != 40).then(|| text_of(*second));
                assert_eq!(kept.of(*place).map(<[u8]>::to_vec), wanted, "{last:?}: {second}");
            }
            let frames = header.frames.iter().map(|frame| json!(frame)["time"].clone());
            (events, frames.collect::<Vec<_>>())
        };
        // The last tables before the first event show the beginning.
        type Case = (Option<u64>, &'static [u32], &'static [f64]);
        const ALL: &[f64] = &[1010.0, 1030.0, 1039.0, 1045.0, 1090.0];
        let cases: [Case; 5] = [
            (None, &[1, 39, 40, 41, 99], ALL),
            (Some(60), &[40, 41, 99], &ALL[2..]),
            (Some(1), &[99], &ALL[4..]),
            (Some(0), &[], &ALL[4..]),
            (Some(1000), &[1, 39, 40, 41, 99], ALL),
        ];
        for (last, events, frames) in cases {
            let frames = frames.iter().map(|time| json!(time)).collect();
            assert_eq!(of_last(last), (events.to_vec(), frames), "{last:?}");
        }
    }

    #[test]
    fn c184d_contents_that_do_not_fit_their_events_are_refused() {
        let records = [record(5, Kind::Received, 7, 3), record(6, Kind::Built, 7, 9)];
        let error = |chunks: &[(usize, Vec<u8>)]| {
            let file = file_with_contents(&records, chunks, ["tcp:192.0.2.1:9", "unix:/a"]);
            Recording::parse(&file).expect_err("it is damaged").to_string()
        };
        let text = |length: usize| vec![b'x'; length];
        for chunks in [
            &[(0, text(4))][..],
            &[(0, text(0))],
            &[(1, text(1))],
            &[(2, text(1))],
            &[(0, text(1)), (0, text(1))],
        ] {
            let error = error(chunks);
            assert!(error.starts_with("the contents of the recording are damaged: "), "{error}");
        }
    }

    #[test]
    fn c184d_every_cut_of_a_recording_with_contents_is_refused() {
        let records = [record(5, Kind::Received, 7, 5)];
        let chunks = [(0, b"hello".to_vec())];
        let file = file_with_contents(&records, &chunks, ["tcp:192.0.2.1:9", "unix:/a"]);
        for end in 0..file.len() {
            Recording::parse(&file[..end]).expect_err("it is cut off");
        }
    }

    #[test]
    fn c184b_marks_are_bounded_and_the_newest_are_kept() {
        let mut marks = Marks::default();
        for time in 0..3 * MARKS {
            let (text, severity) = (String::new(), "red".to_owned());
            marks.add(Mark { time: time as f64, r#loop: 0, text, severity });
        }
        let list = marks.list();
        assert_eq!((list.len(), list[0].time), (MARKS, 2.0 * MARKS as f64));
    }

    #[test]
    fn c184b_a_header_without_the_later_fields_is_read() {
        let header = r#"{"made":1.5,"loops":[{"id":0,"serial":1,"thread":"main","ticks":1e9,
            "origin":1.0,"count":0,"names":[]}],"state":{}}"#;
        let length = (header.len() as u64).to_le_bytes();
        let recording = Recording::parse(&[MAGIC, &length, header.as_bytes()].concat());
        let recording = recording.expect("the first version");
        assert_eq!(recording.header.loops[0].connections, []);
        assert_eq!(recording.header.marks, []);
    }

    #[test]
    fn a_world_has_its_hosts_and_faults() {
        let ring = Arc::new(Ring::in_nanoseconds(1024, 10, None));
        ring.put(2_500_000_000, Kind::Received, 7, 100);
        ring.put(3_140_000_000, Kind::Waited, 0, 10_000_000);
        let loops = ["north", "south"].map(|host| WorldLoop {
            host: host.to_owned(),
            serial: 3,
            ring: ring.clone(),
            frames: Arc::new(Frames::new(TableLimits::default())),
        });
        let times = (Duration::from_secs(1000), Duration::from_secs(60));
        let faults = [(61, "another"), (7, "a loss"), (5, "a cut")];
        let faults = faults.map(|(at, text)| (Duration::from_secs(at), text.to_owned()));
        let file = Recording::of_world("poetry", times, &loops, faults);
        let recording = Recording::parse(&file).expect("our own");
        assert_eq!(recording.events(), 4);
        assert_eq!(recording.records[1][1].slept(), 640_000_000, "time passes only in waits");
        let [_, south] = &recording.header.loops[..] else { panic!("two loops") };
        assert_eq!((south.id, south.host.as_deref()), (1, Some("south")));
        assert!((south.at(2_500_000_000) - 1002.5).abs() < 1e-6);
        let [mark, _] = &recording.header.marks[..] else { panic!("one mark is too late") };
        assert_eq!((mark.time, &*mark.text, &*mark.severity), (1005.0, "a cut", "fault"));
        let state: Value = serde_json::from_str(&recording.state()).expect("JSON");
        assert_eq!(state["marks"][1]["text"], "a loss");
        let mut trace = Vec::new();
        recording.write_trace(&mut trace).expect("a vector");
        let trace: Value = serde_json::from_slice(&trace).expect("JSON");
        let events = trace["traceEvents"].as_array().into_iter().flatten();
        let instants: Vec<_> = events.filter(|event| event["ph"] == "i").collect();
        let [cut, _] = instants[..] else { panic!("two marks: {instants:?}") };
        assert_eq!((&cut["name"], &cut["cat"]), (&json!("a cut"), &json!("fault")));
        assert_eq!(cut["ts"], json!(1_005_000_000.0));
        let mut lines = Vec::new();
        recording.write_lines(&mut lines).expect("a vector");
        let lines = String::from_utf8(lines).expect("JSON");
        let lines = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        let lines: Vec<Value> = lines.collect();
        let kinds: Vec<_> = lines.iter().map(|line| &line["kind"]).collect();
        assert_eq!(kinds, ["received", "received", "waited", "waited", "mark", "mark"]);
        assert_eq!(lines[4]["event"], "a cut");
        assert_eq!(lines[4]["severity"], "fault");
        assert!((lines[4]["at"].as_f64().expect("a number") - 2.5).abs() < 1e-6);
    }

    #[test]
    fn a_mark_stands_among_the_lines_at_its_time() {
        let mut recording =
            Recording::parse(&file(&[record(5, Kind::Built, 7, 0), record(9, Kind::Wrote, 7, 1)]))
                .expect("our own");
        recording.header.marks = [1_000.000_007, 999.0]
            .map(|time| Mark {
                time,
                r#loop: 0,
                text: "late".to_owned(),
                severity: "red".to_owned(),
            })
            .to_vec();
        let mut lines = Vec::new();
        recording.write_lines(&mut lines).expect("a vector");
        let lines = String::from_utf8(lines).expect("JSON");
        let kinds = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["kind"].as_str().expect("a word").to_owned()
        });
        assert_eq!(kinds.collect::<Vec<_>>(), ["mark", "built", "mark", "wrote"]);
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        (1..=19_u8).prop_map(|number| Kind::of(number).expect("a kind"))
    }

    proptest! {
        /// A trace of any events is JSON, and nothing ends that has not begun.
        #[test]
        fn c184a_every_trace_is_well_formed(
            events in prop::collection::vec((0..10_000_u64, kinds(), 0..4_u32, 0..4_u32), 0..60)
        ) {
            let records: Vec<Record> = events
                .into_iter()
                .scan(0, |now, (passed, kind, key, value)| {
                    *now += passed;
                    Some(record(*now, kind, key, value))
                })
                .collect();
            let all = trace(&records);
            let mut open = 0_i32;
            for event in all["traceEvents"].as_array().expect("events") {
                match event["ph"].as_str() {
                    Some("B") => open += 1,
                    Some("E") => open -= 1,
                    _ => {}
                }
                prop_assert!(open >= 0);
            }
        }

        #[test]
        fn c184a_no_bytes_are_too_strange(
            position in 0..700_usize, byte: u8, end in 0..900_usize
        ) {
            let records = [record(5, Kind::Built, 7, 0), record(9, Kind::Received, 7, 30)];
            let ends = ["tcp:192.0.2.1:9", "unix:/a"];
            let mut file = file_with_contents(&records, &[(1, b"hello".to_vec())], ends);
            if let Some(place) = file.get_mut(position) {
                *place = byte;
            }
            file.truncate(end);
            if let Ok(recording) = Recording::parse(&file) {
                prop_assert!(recording.write_trace(&mut Vec::new()).is_ok());
                prop_assert!(recording.write_lines(&mut Vec::new()).is_ok());
                prop_assert!(recording.write_pcap(&mut Vec::new()).is_ok());
            }
        }
    }
}
