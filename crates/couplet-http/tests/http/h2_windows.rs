//! The windows of HTTP/2: WINDOW_UPDATE behind Nagle's algorithm, and uploads that are not read.

use std::convert::Infallible;
use std::future;

use couplet::Bytes;
use couplet::SocketOption;
use couplet::http::{Body, HttpExt, Request, Response};
use couplet::testing::{MemoryReactor, Wire};
use http_body_util::Full;
use tower::service_fn;

use crate::http2::*;
use crate::kit::AT;

/// A server of 100 000 bytes, and for `/never` of nothing; and a client.
fn large() -> (MemoryReactor, Wire) {
    let mut memory = MemoryReactor::new();
    let service = service_fn(async |request: Request<Body>| {
        if request.uri().path() == "/never" {
            future::pending::<()>().await;
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(vec![b'x'; 100_000])))
    });
    memory.reactor().serve_http(AT, service).expect("a free port");
    let client = memory.connect(8000);
    (memory, client)
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// Nagle's algorithm holds a client's second WINDOW_UPDATE until the first is acknowledged.
#[test]
fn c175d_updates_are_acknowledged_while_a_response_waits_for_a_window() {
    let (mut memory, client) = large();
    let (mut acknowledged, mut sent) = (0, 0);
    // What the client sends; how many bytes of bodies it gets, and acknowledgements.
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
