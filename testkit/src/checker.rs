//! [`Checker`]: reads both directions of a connection, and panics for a frame that RFC 9113 does not
//! permit its sender. The parser shares no code with the engines.
//!
//! Checks of the side under test: lengths and streams of frames, their order (HEADERS, DATA,
//! END_STREAM, RST_STREAM, CONTINUATION), the peer's windows, and that WINDOW_UPDATEs return no more
//! than was received.

use std::collections::{BTreeMap, VecDeque};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The initial window, and the longest frame without a setting.
const INITIAL: i64 = 65_535;
const LONGEST: usize = 16_384;

const KINDS: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

/// The side under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// How far one side's message on a stream has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Message {
    /// Without a head.
    #[default]
    Awaited,
    Head,
    Body,
    Ended,
    Reset,
}

#[derive(Debug, Default)]
struct Stream {
    ours: Message,
    theirs: Message,
    /// Our credit, beyond the peer's initial window.
    send: i64,
    /// The credit of the peer, beyond our initial window.
    receive: i64,
    body: Vec<u8>,
    /// We sent END_STREAM, perhaps before a reset.
    is_whole: bool,
}

impl Stream {
    /// Records a frame of the peer, which may come too late.
    fn advance(&mut self, theirs: Message) {
        if !matches!(self.theirs, Message::Ended | Message::Reset) {
            self.theirs = theirs;
        }
    }

    fn is_closed(&self) -> bool {
        (self.ours, self.theirs) == (Message::Ended, Message::Ended)
            || self.theirs == Message::Reset
    }
}

#[derive(Debug)]
struct RawFrame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl RawFrame {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn number(&self) -> u32 {
        number(&self.payload)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The bytes of one direction.
#[derive(Debug, Default)]
struct Pipe {
    rest: Vec<u8>,
    awaits_preface: bool,
    /// The stream of a field block without END_HEADERS, and whether it ends the stream.
    block: Option<(u32, bool)>,
}

impl Pipe {
    fn add(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        if self.awaits_preface && self.rest.len() >= PREFACE.len() {
            assert!(self.rest.starts_with(PREFACE), "no preface");
            self.rest.drain(..PREFACE.len());
            self.awaits_preface = false;
        }
    }

    fn next(&mut self) -> Option<RawFrame> {
        if self.awaits_preface || self.rest.len() < 9 {
            return None;
        }
        let length = number(&[&[0], &self.rest[..3]].concat()) as usize;
        if self.rest.len() < 9 + length {
            return None;
        }
        let (kind, flags) = (self.rest[3], self.rest[4]);
        let stream = number(&self.rest[5..9]);
        let payload = self.rest.drain(..9 + length).skip(9).collect();
        Some(RawFrame { kind, flags, stream, payload })
    }
}

#[derive(Debug)]
pub struct Checker {
    side: Side,
    ours: Pipe,
    theirs: Pipe,
    streams: BTreeMap<u32, Stream>,
    /// The windows of the connection, and the largest size of the second.
    send: i64,
    receive: i64,
    max_receive: i64,
    /// The largest window of a stream, unless its initial one is larger.
    max_stream: i64,
    /// The initial windows of streams, by the settings that their receivers acknowledged.
    their_initial: i64,
    our_initial: i64,
    /// Windows in SETTINGS that were not acknowledged.
    their_settings: VecDeque<Option<i64>>,
    our_settings: VecDeque<Option<i64>>,
    their_pings: VecDeque<Vec<u8>>,
    /// The last stream of our GOAWAY.
    last: u32,
    frames: usize,
}

impl Checker {
    /// `max_receive` and `max_stream` are the windows that the side under test intends for the
    /// connection and for a stream; 0 for the initial window.
    pub fn new(side: Side, max_receive: i64, max_stream: i64) -> Checker {
        let ours = Pipe { awaits_preface: side == Side::Client, ..Pipe::default() };
        let theirs = Pipe { awaits_preface: side == Side::Server, ..Pipe::default() };
        Checker {
            side,
            ours,
            theirs,
            streams: BTreeMap::new(),
            send: INITIAL,
            receive: INITIAL,
            max_receive,
            max_stream,
            their_initial: INITIAL,
            our_initial: INITIAL,
            their_settings: VecDeque::new(),
            our_settings: VecDeque::new(),
            their_pings: VecDeque::new(),
            last: u32::MAX,
            frames: 0,
        }
    }

    /// The body that the side under test has sent on a stream.
    pub fn body(&self, stream: u32) -> &[u8] {
        self.streams.get(&stream).map_or(&[], |stream| &stream.body)
    }

    /// Whether our message on a stream is complete.
    pub fn has_ended(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.is_whole)
    }

    /// Whether the last frame is whole.
    pub fn is_between_frames(&self) -> bool {
        self.ours.rest.is_empty() && self.ours.block.is_none()
    }

    /// Reads bytes of the peer, which need not be valid. Call it after [`sent`](Self::sent) for all
    /// frames from before.
    pub fn heard(&mut self, bytes: &[u8]) {
        self.theirs.add(bytes);
        while let Some(frame) = self.theirs.next() {
            self.hear(&frame);
        }
    }

    fn hear(&mut self, frame: &RawFrame) {
        let opens = match self.side {
            Side::Server => frame.stream % 2 == 1,
            Side::Client => false,
        };
        match frame.kind {
            0 => {
                let length = frame.payload.len() as i64;
                self.receive -= length;
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.receive -= length;
                    stream.advance(if frame.has(1) { Message::Ended } else { Message::Body });
                }
            }
            1 | 9 => {
                let ends = match self.theirs.block.take() {
                    Some((_, ends)) => ends,
                    None => frame.has(1),
                };
                if !frame.has(4) {
                    self.theirs.block = Some((frame.stream, ends));
                } else if opens || self.streams.contains_key(&frame.stream) {
                    let stream = self.streams.entry(frame.stream).or_default();
                    stream.advance(if ends { Message::Ended } else { Message::Head });
                }
            }
            3 => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.theirs = Message::Reset;
                }
            }
            4 if frame.has(1) => {
                if let Some(Some(window)) = self.our_settings.pop_front() {
                    self.our_initial = window;
                }
            }
            4 => self.their_settings.push_back(window_of(frame)),
            6 if !frame.has(1) => self.their_pings.push_back(frame.payload.clone()),
            8 if frame.stream == 0 => self.send += i64::from(frame.number()),
            8 => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.send += i64::from(frame.number());
                }
            }
            _ => {}
        }
    }

    /// Checks bytes that the side under test sent.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.ours.add(bytes);
        while let Some(frame) = self.ours.next() {
            self.check(&frame);
            self.frames += 1;
        }
    }

    fn check(&mut self, frame: &RawFrame) {
        let RawFrame { kind, flags, stream: id, payload } = frame;
        let (id, length) = (*id, payload.len());
        let name = KINDS.get(usize::from(*kind));
        let name = name.unwrap_or_else(|| panic!("frame {}: kind {kind}", self.frames));
        let at = format!("frame {}, {name} on {id} ({flags:#x}, {length} bytes)", self.frames);
        assert!(length <= LONGEST && id < 1 << 31, "{at}");
        if let Some((block, _)) = self.ours.block {
            assert!(*kind == 9 && id == block, "{at}: within the block of {block}");
        }
        let is_length_right = match kind {
            3 | 8 => length == 4,
            4 if frame.has(1) => length == 0,
            4 => length % 6 == 0,
            6 => length == 8,
            7 => length >= 8,
            2 => length == 5,
            _ => true,
        };
        assert!(is_length_right, "{at}: a wrong length");
        match kind {
            0 | 1 | 2 | 3 | 9 => assert_ne!(id, 0, "{at}"),
            4 | 6 | 7 => assert_eq!(id, 0, "{at}"),
            _ => {}
        }
        match kind {
            0 => self.check_data(frame, &at),
            1 => {
                assert!(flags & !0x25 == 0, "{at}: flags");
                match frame.has(4) {
                    true => self.check_head(id, frame.has(1), &at),
                    false => self.ours.block = Some((id, frame.has(1))),
                }
            }
            3 => self.check_reset(id, &at),
            4 if frame.has(1) => {
                let settings = self.their_settings.pop_front();
                let settings = settings.unwrap_or_else(|| panic!("{at}: of no settings"));
                self.their_initial = settings.unwrap_or(self.their_initial);
            }
            4 => self.our_settings.push_back(window_of(frame)),
            6 if frame.has(1) => {
                assert_eq!(self.their_pings.pop_front().as_ref(), Some(payload), "{at}")
            }
            7 => {
                let last = frame.number();
                assert!(last <= self.last, "{at}: {last} after {}", self.last);
                self.last = last;
            }
            8 => self.check_window(id, i64::from(frame.number()), &at),
            9 => {
                let Some((_, ends)) = self.ours.block else { panic!("{at}: of no block") };
                if frame.has(4) {
                    self.ours.block = None;
                    self.check_head(id, ends, &at);
                }
            }
            5 => panic!("{at}: a push"),
            _ => {}
        }
    }

    fn check_data(&mut self, frame: &RawFrame, at: &str) {
        assert!(frame.flags & !1 == 0, "{at}: flags");
        let (length, initial) = (frame.payload.len() as i64, self.their_initial);
        let stream = self.streams.get_mut(&frame.stream);
        let stream = stream.unwrap_or_else(|| panic!("{at}: an idle stream"));
        assert!(matches!(stream.ours, Message::Head | Message::Body), "{at}: {stream:?}");
        assert_ne!(stream.theirs, Message::Reset, "{at}: the peer reset it");
        self.send -= length;
        stream.send -= length;
        if length > 0 {
            assert!(self.send >= 0, "{at}: the connection's window is {}", self.send);
            assert!(stream.send + initial >= 0, "{at}: its window is {}", stream.send + initial);
        }
        stream.ours = if frame.has(1) { Message::Ended } else { Message::Body };
        stream.is_whole = frame.has(1);
        stream.body.extend_from_slice(&frame.payload);
    }

    /// Checks a complete field block.
    fn check_head(&mut self, id: u32, ends: bool, at: &str) {
        if self.side == Side::Client && !self.streams.contains_key(&id) {
            let highest = self.streams.last_key_value().map_or(0, |(id, _)| *id);
            assert!(id % 2 == 1 && id > highest, "{at}: after {highest}");
            self.streams.insert(id, Stream::default());
        }
        let last = self.last;
        let stream = self.streams.get_mut(&id).unwrap_or_else(|| panic!("{at}: an idle stream"));
        assert!(self.side == Side::Client || id <= last, "{at}: after GOAWAY with {last}");
        assert_ne!(stream.theirs, Message::Reset, "{at}: the peer reset it");
        stream.ours = match (stream.ours, ends) {
            (Message::Awaited | Message::Head | Message::Body, true) => Message::Ended,
            // After an informational head.
            (Message::Awaited | Message::Head, false) => Message::Head,
            (before, _) => panic!("{at}: {before:?}"),
        };
        stream.is_whole = ends;
    }

    fn check_reset(&mut self, id: u32, at: &str) {
        let Some(stream) = self.streams.get_mut(&id) else {
            // A number that the client left out is closed.
            let highest = self.streams.last_key_value().map_or(0, |(id, _)| *id);
            assert!(id % 2 == 1 && id < highest, "{at}: an idle stream");
            return;
        };
        // The peer may send more on a closed stream, again and again.
        if !stream.is_closed() {
            assert_ne!(stream.ours, Message::Reset, "{at}: twice");
            stream.ours = Message::Reset;
        }
    }

    fn check_window(&mut self, id: u32, increment: i64, at: &str) {
        assert!((1..1 << 31).contains(&increment), "{at}: by {increment}");
        if id == 0 {
            self.receive += increment;
            let (receive, max) = (self.receive, self.max_receive);
            assert!(receive <= max, "{at}: {receive} of {max} bytes");
            return;
        }
        let initial = self.our_initial;
        // The peer subtracts as much once it knows our settings.
        let next = self.our_settings.iter().copied().flatten().last().unwrap_or(initial);
        let max = (self.max_stream + initial - next).max(initial);
        let stream = self.streams.get_mut(&id).unwrap_or_else(|| panic!("{at}: an idle stream"));
        assert!(!matches!(stream.ours, Message::Reset), "{at}: after the reset");
        stream.receive += increment;
        let window = stream.receive + initial;
        assert!(window <= max, "{at}: {window} of {max} bytes");
    }
}

/// SETTINGS_INITIAL_WINDOW_SIZE.
fn window_of(frame: &RawFrame) -> Option<i64> {
    let mut entries = frame.payload.chunks_exact(6).rev();
    entries.find(|entry| entry[..2] == [0, 4]).map(|entry| number(&entry[2..]).into())
}
