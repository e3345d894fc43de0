//! The cost of a request on a warm connection: received, decoded, answered with five fields and 13
//! bytes, and encoded.
//!
//! `cargo bench -p couplet-http2` prints the best time of several rounds.
#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use std::hint::black_box;
use std::time::Instant;

use couplet_http2::{Connection, Copied, Event, Options};

/// Requests in one receive, as they arrive in one read.
const BATCH: u32 = 10;
const BATCHES: u32 = 2_000;
const ROUNDS: u32 = 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    [&[0x40][..], &text(name), &text(value)].concat()
}

/// The block of the first request, whose fields are kept, and of all later ones. As h2load: a
/// method, a scheme, a path, an authority, and a user agent.
fn blocks() -> (Vec<u8>, Vec<u8>) {
    let first = [
        &[0x82, 0x86][..],
        &literal(":path", "/hello"),
        &literal(":authority", "127.0.0.1:8080"),
        &literal("user-agent", "h2load nghttp2/1.52.0"),
    ];
    (first.concat(), vec![0x82, 0x86, 0xc0, 0xbf, 0xbe])
}

/// The block of a browser: literals in Huffman codes only for the path, nine fields kept.
fn browser() -> (Vec<u8>, Vec<u8>) {
    let kept = [
        (":authority", "www.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "session=3f9d0b8e1c7a4e52a6d1; theme=dark"),
        ("referer", "https://www.example.com/"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-mode", "navigate"),
    ];
    let first: Vec<u8> = kept.iter().flat_map(|(name, value)| literal(name, value)).collect();
    // /www.example.com, in Huffman codes: from RFC 7541, C.6.1.
    let path = [0x04, 0x8c, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3];
    let begin = [&[0x82, 0x87][..], &path].concat();
    let later: Vec<u8> = (0xbe..0xbe + 9).rev().collect();
    ([&begin[..], &first].concat(), [&begin[..], &later].concat())
}

fn answer(connection: &mut Connection) {
    while let Some(event) = connection.next_event() {
        let Event::Request { stream, head, .. } = black_box(event) else { continue };
        for field in head.fields() {
            black_box(field);
        }
        let fields = [
            ("server", "couplet"),
            ("date", "Thu, 26 Nov 2026 18:00:00 GMT"),
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", "13"),
            ("cache-control", "no-store"),
        ];
        connection.respond(stream, 200, fields, false).expect("it is open");
        connection.send(stream, Copied(b"Hello, world!"), true).expect("it is open");
    }
    black_box(connection.take_output());
}

fn measure(name: &str, (first, later): (Vec<u8>, Vec<u8>)) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let mut connection = Connection::server(Options::default());
        connection.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("a preface");
        let begin = [frame(4, 0, 0, &[]), frame(4, 1, 0, &[]), frame(8, 0, 0, &[0x7f, 0, 0, 0])];
        connection.receive(&begin.concat()).expect("settings");
        connection.receive(&frame(1, 5, 1, &first)).expect("a request");
        answer(&mut connection);
        let batch = |n: u32| -> Vec<u8> {
            (0..BATCH).flat_map(|k| frame(1, 5, 2 * (n * BATCH + k) + 3, &later)).collect()
        };
        let batches: Vec<_> = (0..BATCHES).map(batch).collect();
        let began = Instant::now();
        for batch in &batches {
            connection.receive(batch).expect("requests");
            answer(&mut connection);
        }
        let time = began.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH * BATCHES);
        best = best.min(time);
    }
    println!("{name}: {best:.0} ns a request");
}

fn main() {
    measure("h2load's GET", blocks());
    measure("a browser's GET", browser());
}
