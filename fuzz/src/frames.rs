//! `couplet-http2`: for any frames of a client, or of a server, the events, the output and the error
//! are the same however the bytes are cut, output is whole frames, and limits hold.
//!
//! An input is a byte that chooses the cut, then the frames behind the peer's preface.

use couplet_http2::{Connection, Copied, Event, Options, RequestLine};

use crate::streams::same_for_each_split;

pub(crate) use crate::http2::WORDS;

/// A client's preface, and empty settings: RFC 9113, 3.4. A server's preface is only the settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const MAX_STREAMS: u32 = 4;
const WINDOW: usize = 65_535;

const SETTINGS: usize = 9;

/// Tries one input for a server.
///
/// # Panics
///
/// If the cut changes the result, a frame is incomplete, or a limit is exceeded.
pub fn frames(data: &[u8]) {
    check(data, served);
}

/// Tries one input for a client.
///
/// # Panics
///
/// As [`frames`].
pub fn responses(data: &[u8]) {
    check(data, answered);
}

fn check(data: &[u8], run: fn(&[&[u8]]) -> Seen) {
    let Some(([choice], frames)) = data.split_first_chunk() else { return };
    same_for_each_split(frames, *choice, run);
}

/// The events, and the output behind them.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    events: Vec<String>,
    /// Bytes of the bodies, by stream.
    bodies: Vec<(u32, Vec<u8>)>,
    requests: Vec<u32>,
    error: Option<String>,
    output: Vec<u8>,
}

fn options() -> Options {
    Options::default().max_streams(MAX_STREAMS).connection_window(WINDOW as u32)
}

/// Answers only once all bytes have arrived, so that the cut has no effect on the order of output.
fn served(pieces: &[&[u8]]) -> Seen {
    let mut connection = Connection::server(options());
    connection.receive(HELLO).expect("it is valid");
    let mut seen = receive(&mut connection, pieces);
    for stream in &seen.requests {
        // An error means that the stream was reset, or that the connection failed.
        if connection.respond(*stream, 200, [("a", "b")], false).is_ok() {
            let _ = connection.send(*stream, Copied(&[b'x'; 50_000]), true);
        }
    }
    finish(&mut connection, &mut seen);
    check_frames(&seen.output);
    seen
}

/// The streams 1 and 3 are a GET and a HEAD, 5 and 7 uploads, whose second half is sent after the answers.
fn answered(pieces: &[&[u8]]) -> Seen {
    let mut connection = Connection::client(options());
    let settings = HELLO.get(HELLO.len() - SETTINGS..).unwrap_or_default();
    connection.receive(settings).expect("it is valid");
    for method in ["GET", "HEAD", "POST", "PUT"] {
        let line = RequestLine { method: method.as_bytes(), ..RequestLine::get("a", "/") };
        let ends = matches!(method, "GET" | "HEAD");
        let stream = connection.request(&line, [("a", "b")], ends).expect("it is open");
        if !ends {
            connection.send(stream, Copied(&[b'x'; 25_000]), false).expect("it is open");
        }
    }
    let mut seen = receive(&mut connection, pieces);
    for stream in [5, 7] {
        // An error means that the stream was reset, or that the connection failed.
        let _ = connection.send(stream, Copied(&[b'y'; 25_000]), true);
    }
    finish(&mut connection, &mut seen);
    let output = seen.output.get(HELLO.len() - SETTINGS..).expect("a preface");
    check_frames(output);
    seen
}

fn receive(connection: &mut Connection, pieces: &[&[u8]]) -> Seen {
    let mut seen = Seen::default();
    let mut held = 0;
    for piece in pieces {
        let result = connection.receive(piece);
        while let Some(event) = connection.next_event() {
            match event {
                Event::Data { stream, bytes } => {
                    held += bytes.len();
                    match seen.bodies.iter_mut().find(|(known, _)| *known == stream) {
                        Some((_, body)) => body.extend_from_slice(&bytes),
                        None => seen.bodies.push((stream, bytes.to_vec())),
                    }
                }
                Event::Request { stream, ref head, .. } => {
                    assert!(!head.method().is_empty());
                    seen.requests.push(stream);
                    seen.events.push(format!("{event:?}"));
                }
                event => seen.events.push(format!("{event:?}")),
            }
        }
        assert!(connection.open_streams() <= MAX_STREAMS as usize);
        assert!(held <= WINDOW, "{held} bytes are held");
        if let Err(error) = result {
            seen.error = Some(error.to_string());
            break;
        }
    }
    seen
}

/// Releases the bodies, and takes all output.
fn finish(connection: &mut Connection, seen: &mut Seen) {
    for (stream, body) in &seen.bodies {
        connection.release(*stream, body.len());
    }
    loop {
        let output = connection.take_output();
        if output.is_empty() {
            break;
        }
        seen.output.extend_from_slice(&output);
    }
}

fn check_frames(mut output: &[u8]) {
    while let Some(([a, b, c, ..], rest)) = output.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        assert!(length <= 16_384, "a frame of {length} bytes");
        output = rest.get(length..).expect("a whole frame");
    }
    assert!(output.is_empty(), "half a frame");
}
