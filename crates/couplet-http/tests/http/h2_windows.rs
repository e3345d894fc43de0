//! The windows of HTTP/2: WINDOW_UPDATE behind Nagle's algorithm, and uploads that are not read.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future;

use couplet::Bytes;
use couplet::SocketOption;
use couplet::http::{Body, HttpExt, HttpOptions, Request, Response};
use couplet::testing::{MemoryReactor, Wire};
use http_body_util::{BodyExt, Full};
use tower::service_fn;

use crate::http2::*;
use crate::kit::{AT, any};

/// A server of 100 000 bytes, and for `/never` of nothing; and a client.
fn large() -> (MemoryReactor, Wire) {
    let mut memory = MemoryReactor::new();
    let service = service_fn(async |request: Request<Body>| {
        if request.uri().path() == "/never" {
            future::pending::<()>().await;
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(vec![b'x'; 100_000])))
    });
    memory.reactor().serve_http(AT, any(service)).expect("a free port");
    let client = memory.connect(8000);
    (memory, client)
}

/// Nagle's algorithm holds a client's second WINDOW_UPDATE until the first is acknowledged.
#[test]
fn c175d_updates_are_acknowledged_while_a_response_waits_for_a_window() {
    let (mut memory, client) = large();
    let (mut acknowledged, mut sent) = (0, 0);
    // The input, and the body bytes and acknowledgements that follow it.
    for (input, bytes, count) in [
        ([hello(), window(10), get(1, "/never"), frame(SETTINGS, 1, 0, b"")].concat(), 0, 0),
        (get(3, "/large"), 10, 0),
        (update(0, 1), 0, 1),
        (update(0, 1), 0, 1),
        (update(3, 5), 5, 0),
        // The answer acknowledges it.
        ([update(0, 1), frame(PING, 0, 0, &[0; 8])].concat(), 0, 0),
        (update(1, 1), 0, 1),
        ([update(0, 1), update(1, 1)].concat(), 0, 1),
        // The connection's window ends before the stream's.
        (update(3, 200_000), 65_535 + 4 - 15, 0),
        (update(3, 1), 0, 1),
        (update(0, 100_000), 100_000 - 65_535 - 4, 0),
        // A response that waits for its service.
        (update(0, 1), 0, 0),
        (get(5, "/never"), 0, 0),
    ] {
        client.push(&input);
        let mut got = Vec::new();
        while !{
            memory.settle();
            client.waiting() == 0
        } {
            got.extend(client.take());
        }
        let got = frames(&got);
        let data = got.iter().filter(|it| it.kind == DATA).map(|it| it.payload.len());
        sent += bytes;
        acknowledged += count;
        let options = client.options();
        let hints = options.iter().filter(|it| **it == SocketOption::Acknowledge).count();
        assert_eq!((data.sum::<usize>(), hints), (bytes, acknowledged), "after {sent} bytes");
    }
}

/// A client that sends as much of its uploads as its windows allow, in the order of the streams.
struct Uploader {
    memory: MemoryReactor,
    wire: Wire,
    /// Received bytes up to a whole frame.
    input: Vec<u8>,
    /// Windows of the connection, as 0, and of the streams.
    windows: BTreeMap<u32, i64>,
    first_window: i64,
    /// The bytes to send on each stream.
    uploads: BTreeMap<u32, usize>,
    answers: BTreeMap<u32, String>,
}

impl Uploader {
    /// Connects to a server that reads all of a body, one piece of it for `/once`, and nothing for
    /// `/never`.
    fn new(options: HttpOptions) -> Uploader {
        let mut memory = MemoryReactor::new();
        let service = service_fn(async |mut request: Request<Body>| {
            if request.uri().path() == "/once" {
                request.body_mut().frame().await;
            }
            if request.uri().path() != "/all" {
                future::pending::<()>().await;
            }
            let body = request.into_body().bytes(usize::MAX).await.expect("it is whole");
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(body.len().to_string())))
        });
        memory.reactor().serve_http_with(AT, any(service), options).expect("a free port");
        let wire = memory.connect(8000);
        let mut uploader = Uploader {
            memory,
            wire,
            input: Vec::new(),
            windows: BTreeMap::from([(0, 65_535)]),
            first_window: 65_535,
            uploads: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        uploader.push(&hello());
        uploader
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.wire.push(bytes)..];
            self.memory.settle();
        }
    }

    fn begin(&mut self, stream: u32, path: &str, length: usize) {
        self.windows.insert(stream, self.first_window);
        self.uploads.insert(stream, length);
        self.push(&post(stream, path, b""));
    }

    /// Processes the server's frames, and returns whether there were any.
    fn receive(&mut self) -> bool {
        self.memory.settle();
        self.input.extend(self.wire.take());
        assert!(!self.wire.is_closed());
        let mut has_received = false;
        while let Some(head) = self.input.first_chunk::<9>() {
            let end = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if self.input.len() < end {
                break;
            }
            has_received = true;
            let bytes: Vec<u8> = self.input.drain(..end).collect();
            let got = frames(&bytes).remove(0);
            let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
            match got.kind {
                SETTINGS if got.flags == 0 => {
                    let first = got.payload.chunks(6).find(|entry| entry[..2] == [0, 4]);
                    let first = i64::from(number(&first.expect("a window")[2..]));
                    let by = first - std::mem::replace(&mut self.first_window, first);
                    self.windows.range_mut(1..).for_each(|(_, window)| *window += by);
                    self.push(&frame(SETTINGS, 1, 0, b""));
                }
                WINDOW_UPDATE => {
                    let window = self.windows.get_mut(&got.stream).expect("it was opened");
                    *window += i64::from(number(&got.payload));
                }
                DATA => {
                    let text = String::from_utf8_lossy(&got.payload);
                    self.answers.entry(got.stream).or_default().push_str(&text);
                }
                SETTINGS | HEADERS => {}
                _ => panic!("{got:?}"),
            }
        }
        has_received
    }

    /// Sends as much as the windows allow, and returns the number of bytes.
    fn send(&mut self) -> usize {
        let mut sent = 0;
        for stream in self.uploads.keys().copied().collect::<Vec<_>>() {
            loop {
                let left = self.uploads[&stream];
                let window = self.windows[&stream].min(self.windows[&0]);
                let count = left.min(usize::try_from(window).unwrap_or(0)).min(16_384);
                if count == 0 {
                    break;
                }
                for window in [0, stream] {
                    *self.windows.get_mut(&window).expect("a window") -= count as i64;
                }
                self.uploads.insert(stream, left - count);
                sent += count;
                let flags = if count == left { END_STREAM } else { 0 };
                self.push(&frame(DATA, flags, stream, &vec![0; count]));
            }
        }
        sent
    }

    /// Sends and receives until neither continues.
    fn settle(&mut self) {
        while self.receive() | (self.send() > 0) {}
    }
}

/// Uploads that are not read, or not read on, on all streams but one, which is read.
#[test]
fn c175c_uploads_that_are_not_read_do_not_stop_another() {
    const LONG: usize = 2_000_000;
    let options = HttpOptions::default;
    let rows = [
        ("the default", options(), 127),
        ("few streams", options().max_streams(5), 4),
        ("small windows", options().connection_window(0).max_streams(10), 9),
        ("a wide stream", options().stream_window(u32::MAX).max_streams(20), 19),
        ("many streams", options().max_streams(u32::MAX), 1000),
    ];
    for (what, options, others) in rows {
        for path in ["/never", "/once"] {
            for knows_settings in [true, false] {
                let mut client = Uploader::new(options.clone());
                if knows_settings {
                    client.receive();
                }
                let last = 2 * others + 1;
                // The last one begins with the others, or once they have taken all that they can.
                (0..others).for_each(|n| client.begin(2 * n + 1, path, LONG));
                if knows_settings {
                    client.settle();
                }
                client.begin(last, "/all", LONG);
                client.settle();
                let answer = client.answers.remove(&last);
                assert_eq!(answer, Some(LONG.to_string()), "{what}, {path}, {knows_settings}");
                assert!(client.uploads.range(..last).all(|(_, left)| *left > 0), "{what}");
            }
        }
    }
}

/// How much the client may send: before the service reads, and then.
#[test]
fn c175c_the_window_of_a_stream_grows_once_it_is_read() {
    const K: i64 = 1024;
    let options = HttpOptions::default;
    for (options, first, then) in [
        (options(), 16 * K, 256 * K),
        (options().max_streams(256), 8 * K, 256 * K),
        (options().stream_window(1000), 1000, 1000),
        (options().stream_window(u32::MAX), 16 * K, 16 * K + 1024 * K),
        (options().connection_window(65_535).max_streams(1000), K, K + 16_383),
    ] {
        let mut client = Uploader::new(options);
        client.receive();
        client.begin(1, "/all", usize::MAX);
        assert_eq!(client.windows[&1], first);
        client.send();
        client.receive();
        assert_eq!(client.windows[&1], then);
    }
}

/// Streams that are read get the same window in the end, and those that are not read keep theirs.
#[test]
fn c175c_streams_that_are_read_share_the_window_of_their_connection() {
    let mut client = Uploader::new(HttpOptions::default().stream_window(u32::MAX));
    client.receive();
    client.begin(1, "/once", usize::MAX);
    (1..4).for_each(|n| client.begin(2 * n + 1, "/all", usize::MAX));
    for _ in 0..100 {
        client.send();
        client.receive();
    }
    let windows = [3, 5, 7].map(|stream| client.windows[&stream]);
    // The first stream took half of 2 MiB; the others share the rest, with a share left free. Up to
    // half of a window is consumed and not returned.
    let share = 16 * 1024 + 1024 * 1024 / 4;
    let is_fair = |window: &i64| (share / 2..=share).contains(window);
    assert!(windows.iter().all(is_fair), "{windows:?} of {share}");
}
