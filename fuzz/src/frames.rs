//! `couplet-http2`: for any frames of a client, the events, the answers and the error are the same
//! however the bytes are cut, output is whole frames, and limits hold.
//!
//! An input is a byte that chooses the cut, then the frames behind the preface.

use couplet_http2::{Connection, Copied, Event, Options};

use crate::streams::for_each_split;

pub(crate) use crate::http2::WORDS;

/// The preface, and empty settings: RFC 9113, 3.4.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const MAX_STREAMS: u32 = 4;
const WINDOW: usize = 65_535;

/// Tries one input.
///
/// # Panics
///
/// If the cut changes the result, a frame is incomplete, or a limit is exceeded.
pub fn frames(data: &[u8]) {
    let Some(([choice], frames)) = data.split_first_chunk() else { return };
    let mut whole = None;
    for_each_split(frames, *choice, |pieces| {
        let seen = served(pieces);
        match &whole {
            None => whole = Some(seen),
            Some(whole) => assert_eq!(*whole, seen),
        }
    });
}

/// The events, and the output behind them.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    events: Vec<String>,
    /// Bytes of the bodies, by stream.
    bodies: Vec<(u32, Vec<u8>)>,
    error: Option<String>,
    output: Vec<u8>,
}

/// Answers only once all bytes have arrived, so that the cut has no effect on the order of output.
fn served(pieces: &[&[u8]]) -> Seen {
    let options = Options::default().max_streams(MAX_STREAMS).connection_window(WINDOW as u32);
    let mut connection = Connection::server(options);
    let mut seen = Seen::default();
    let mut held = 0;
    let mut asked = Vec::new();
    connection.receive(HELLO).expect("it is valid");
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
                    asked.push(stream);
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
    for stream in asked {
        // An error means that the stream was reset, or that the connection failed.
        if connection.respond(stream, 200, [("a", "b")], false).is_ok() {
            let _ = connection.send(stream, Copied(&[b'x'; 50_000]), true);
        }
    }
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
    check_frames(&seen.output);
    seen
}

fn check_frames(mut output: &[u8]) {
    while let Some(([a, b, c, ..], rest)) = output.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        assert!(length <= 16_384, "a frame of {length} bytes");
        output = rest.get(length..).expect("a whole frame");
    }
    assert!(output.is_empty(), "half a frame");
}
