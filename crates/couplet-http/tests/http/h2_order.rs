//! Responses that end before, during and after the body of their request. A checker reads all frames
//! of both sides, so that none separates the head of another one from its payload.

use std::convert::Infallible;
use std::fs::File;

use couplet::http::{Body, FileBody, HttpOptions, Request, Response};
use couplet::transport::SharedFile;
use couplet::{Bytes, Reactor, Result};
use futures_util::stream;
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::Frame as Part;
use std::time::Duration;

use crate::http2::*;
use crate::kit::{beside_files, beside_service, heard, opened};
use crate::needed::Folder;
use couplet_testkit::checker::{Checker, Side};

const SECOND: Duration = Duration::from_secs(1);

/// The window of the connection.
const WINDOW: i64 = 4 * 1024 * 1024;

/// The largest window of a stream.
const STREAM_WINDOW: i64 = 256 * 1024;

/// The lengths of the responses.
const LENGTHS: [usize; 7] = [0, 13, 4095, 4096, 16_384, 16_397, 70_000];

/// When the service drops the body of its request.
const MOMENTS: [&str; 5] = ["long-before", "before", "during", "after", "later"];

/// The client's frames behind its request: before the response, and behind it.
type Sent = (&'static str, fn() -> Vec<u8>, fn() -> Vec<u8>);

const SENT: [Sent; 8] = [
    ("nothing", Vec::new, Vec::new),
    ("a piece", || frame(DATA, 0, 1, b"piece"), Vec::new),
    ("all", || frame(DATA, END_STREAM, 1, b"piece"), Vec::new),
    ("two pieces", || frame(DATA, 0, 1, &[0; 9000]), || frame(DATA, END_STREAM, 1, b"end")),
    ("a reset", || frame(DATA, 0, 1, b"piece"), || reset(1, CANCEL)),
    ("a ping", || [frame(PING, 0, 0, b"12345678"), frame(DATA, 0, 1, b"a")].concat(), Vec::new),
    ("settings", || window(30_000), || window(100_000)),
    ("a farewell", || frame(GOAWAY, 0, 0, &[0; 8]), || frame(DATA, END_STREAM, 1, b"end")),
];

/// A response's body, whose last bytes are the frames of another response.
fn content(length: usize) -> Vec<u8> {
    let forged = frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0x88]);
    let begin = length.saturating_sub(forged.len());
    [vec![b'x'; begin], forged[forged.len() - (length - begin)..].to_vec()].concat()
}

/// Reads as much of the body as its path says; returns the length of the response.
async fn read(reactor: Reactor, request: Request<Body>) -> usize {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let (moment, length) = (parts.next(), parts.next());
    let mut body = request.into_body();
    match moment {
        Some("long-before") => {
            drop(body);
            let _ = reactor.sleep(SECOND / 100).await;
        }
        Some("during") => drop(body.next().await),
        Some("after") => while let Ok(Some(_)) = body.next().await {},
        Some("later") => {
            let sleeping = reactor.sleep(SECOND / 2);
            let dropping = async move {
                let _ = sleeping.await;
                drop(body);
                Ok(())
            };
            reactor.spawn(dropping).detach();
        }
        _ => {}
    }
    length.and_then(|length| length.parse().ok()).expect("a length")
}

/// Each case, with a service.
async fn check(reactor: Reactor) -> Result<()> {
    for (length, moment) in LENGTHS.into_iter().flat_map(|it| MOMENTS.map(|moment| (it, moment))) {
        for (name, first, second) in SENT {
            let at = format!("{moment}, {length} bytes, {name}");
            let mut checker = Checker::new(Side::Server, WINDOW, STREAM_WINDOW);
            let request = post(1, &format!("/{moment}/{length}"), b"");
            let begun = [hello(), update(0, 1_000_000), request, first()].concat();
            checker.heard(&begun);
            let mut stream = opened(&reactor, begun).await?;
            checker.sent(&heard(&mut stream, &reactor, SECOND).await?.bytes);
            // Room for the rest, on a stream that may be closed.
            for next in [update(1, 100_000), second()] {
                checker.heard(&next);
                let _ = stream.write_all(&next).await;
                checker.sent(&heard(&mut stream, &reactor, SECOND).await?.bytes);
            }
            assert!(checker.is_between_frames(), "{at}: half a frame");
            let waits = matches!(
                (moment, name),
                ("during", "nothing" | "settings")
                    | ("after", "nothing" | "a piece" | "a ping" | "settings")
            );
            let is_reset_early = (moment, name) == ("after", "a reset");
            let is_whole = !waits && !is_reset_early;
            assert_eq!(checker.has_ended(1), is_whole, "{at}: {checker:?}");
            let wanted = if is_whole { content(length) } else { Vec::new() };
            assert!(checker.body(1) == wanted, "{at}: {} bytes", checker.body(1).len());
        }
    }
    Ok(())
}

#[test]
fn c174d_a_response_from_memory_is_whole_before_during_and_after_its_request() {
    let answer = async |reactor: Reactor, request: Request<Body>| {
        let length = read(reactor, request).await;
        let mut body = FileBody::default();
        body.push_bytes(content(length));
        Ok(Response::new(body))
    };
    beside_files(HttpOptions::default(), answer, check);
}

#[test]
fn c174d_a_response_in_pieces_is_whole_before_during_and_after_its_request() {
    let answer = async |reactor: Reactor, request: Request<Body>| {
        let length = read(reactor, request).await;
        let pieces: Vec<Bytes> = content(length).chunks(5000).map(Bytes::copy_from_slice).collect();
        let parts = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Part::data(piece)));
        Ok(Response::new(BoxBody::new(StreamBody::new(stream::iter(parts)))))
    };
    beside_service(HttpOptions::default(), answer, check);
}

#[test]
fn c174d_a_response_from_a_file_is_whole_before_during_and_after_its_request() {
    let folder = Folder::new();
    let files = LENGTHS.map(|length| {
        let path = folder.write(&length.to_string(), content(length));
        (length, SharedFile::new(File::open(path).expect("it exists")).expect("it is a file"))
    });
    let answer = async move |reactor: Reactor, request: Request<Body>| {
        let length = read(reactor, request).await;
        let (_, file) = files.iter().find(|(it, _)| *it == length).expect("a file");
        let mut body = FileBody::default();
        body.push_file(file, 0..length as u64);
        Ok(Response::new(body))
    };
    beside_files(HttpOptions::default(), answer, check);
}
