//! A peer by hand: frames as bytes, without the code under test.

use couplet_http2::{Error, Event, Options, RequestLine};

pub(crate) use crate::windows::Connection;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;
/// END_HEADERS and END_STREAM.
pub(crate) const WHOLE: u8 = 5;

pub(crate) const NO_FIELDS: [(&str, &str); 0] = [];

/// Formats a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Formats fields as literals that no table keeps.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect()
}

/// Formats a literal field: RFC 7541, 6.2.2.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    match text.len() {
        length @ ..127 => coded.push(length as u8),
        length => {
            coded.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                coded.push(rest as u8 | 128);
                rest >>= 7;
            }
            coded.push(rest as u8);
        }
    }
    coded.extend_from_slice(text);
    coded
}

/// The pseudo-headers of a request.
pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];

pub(crate) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":authority", "a.example"), (":path", "/up")];

pub(crate) fn with(fields: &[(&'static str, &'static str)]) -> Vec<u8> {
    block(&[&GET[..], fields].concat())
}

/// A complete request.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, block(&GET))
}

/// A request whose body follows.
pub(crate) fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block(&POST))
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, payload)
}

pub(crate) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

/// The beginning of a connection: the preface, empty settings, and our acknowledgement.
pub(crate) fn hello() -> Vec<u8> {
    [PREFACE, &settings(&[]), &frame(SETTINGS, ACK, 0, [])].concat()
}

/// A connection whose beginning is over, and was read.
pub(crate) fn server(options: Options) -> Connection {
    let mut connection = Connection::server(options);
    connection.receive(&hello()).expect("it is valid");
    connection.take_output();
    assert_eq!(connection.next_event(), None);
    connection
}

/// A frame that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of RST_STREAM, or of GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        number(&self.payload[at..at + 4])
    }
}

pub(crate) fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

/// Splits output into frames.
pub(crate) fn frames(mut output: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(([a, b, c, kind, flags, stream @ ..], rest)) = output.split_first_chunk::<9>() {
        let (payload, rest) = rest.split_at(number(&[0, *a, *b, *c]) as usize);
        frames.push(Frame {
            kind: *kind,
            flags: *flags,
            stream: number(stream),
            payload: payload.into(),
        });
        output = rest;
    }
    assert!(output.is_empty(), "half a frame: {output:?}");
    frames
}

/// Takes the output as frames.
pub(crate) fn sent(connection: &mut Connection) -> Vec<Frame> {
    frames(&connection.take_output())
}

/// The kinds and streams of frames.
pub(crate) fn kinds(frames: &[Frame]) -> Vec<(u8, u32)> {
    frames.iter().map(|frame| (frame.kind, frame.stream)).collect()
}

/// The payloads of the DATA of a stream.
pub(crate) fn body(frames: &[Frame], stream: u32) -> Vec<u8> {
    let data = frames.iter().filter(|frame| (frame.kind, frame.stream) == (DATA, stream));
    data.map(|frame| &frame.payload[..]).collect::<Vec<_>>().concat()
}

pub(crate) fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.next_event()).collect()
}

/// Receives bytes that end the connection, and returns the error.
pub(crate) fn broken(connection: &mut Connection, bytes: &[u8]) -> Error {
    let error = connection.receive(bytes).expect_err("the connection fails");
    assert_eq!(connection.receive(b""), Err(error), "the error is repeated");
    let output = sent(connection);
    let last = output.last().expect("a GOAWAY");
    assert_eq!((last.kind, last.code()), (GOAWAY, error.code.0));
    assert_eq!(&last.payload[8..], error.why.as_bytes());
    assert!(connection.is_drained());
    error
}

/// Receives bytes that the connection survives, and returns the events.
pub(crate) fn fine(connection: &mut Connection, bytes: &[u8]) -> Vec<Event> {
    assert_eq!(connection.receive(bytes), Ok(()));
    events(connection)
}

/// A client whose beginning is over, and was read.
pub(crate) fn client(options: Options) -> Connection {
    let mut connection = Connection::client(options);
    let hello = [settings(&[]), frame(SETTINGS, ACK, 0, [])].concat();
    connection.receive(&hello).expect("it is valid");
    connection.take_output();
    assert_eq!(connection.next_event(), None);
    connection
}

/// Asks for a page, and returns the number of the stream.
pub(crate) fn ask(connection: &mut Connection) -> u32 {
    let line = RequestLine::get("a.example", "/");
    connection.request(&line, NO_FIELDS, true).expect("it is open")
}

/// Begins an upload, and returns the number of the stream.
pub(crate) fn upload(connection: &mut Connection) -> u32 {
    let line = RequestLine { method: b"POST", ..RequestLine::get("a.example", "/up") };
    connection.request(&line, NO_FIELDS, false).expect("it is open")
}

/// The head of a response.
pub(crate) fn response(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block(fields))
}

pub(crate) const OK: [(&str, &str); 1] = [(":status", "200")];
