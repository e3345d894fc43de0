//! HTTP/2 by hand-made frames (RFC 9113): streams, the drain, limits, and floods. `h2_frames` tests
//! the rules for a client's frames.

use std::convert::Infallible;
use std::iter;
use std::time::Duration;

use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Bytes, Reactor, Result, Stream};
use futures_util::stream;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame as Part;

use crate::counting::{live, peak, reset_peak};
use crate::kit::{TO, beside, beside_service, heard, opened};

const SECOND: Duration = Duration::from_secs(1);

// Types of frames: RFC 9113, 6.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

// Error codes: RFC 9113, 7.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or RST_STREAM.
    pub(crate) fn code(&self) -> Option<u32> {
        let at = match self.kind {
            GOAWAY => 4,
            RST_STREAM => 0,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes")))
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The beginning of a connection: the preface, and empty settings.
pub(crate) fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, b"")].concat()
}

/// The fields of a GET: HPACK's static table, with path and authority as literals (RFC 7541, 6).
pub(crate) fn fields(path: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| [&[index, text.len() as u8], text.as_bytes()].concat();
    [vec![0x82, 0x86], literal(0x04, path), literal(0x01, "couplet.test")].concat()
}

pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(path))
}

/// The head of a POST, with more fields.
pub(crate) fn post(stream: u32, path: &str, more: &[u8]) -> Vec<u8> {
    // POST, from HPACK's static table.
    let fields = [&[0x83], &fields(path)[1..], more].concat();
    frame(HEADERS, END_HEADERS, stream, &fields)
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// Writes these bytes, and returns the frames up to three quiet seconds.
pub(crate) async fn more(
    stream: &mut Stream,
    reactor: &Reactor,
    bytes: impl AsRef<[u8]>,
) -> Result<Vec<Frame>> {
    stream.write_all(bytes).await?;
    Ok(frames(&heard(stream, reactor, 3 * SECOND).await?.bytes))
}

/// A connection that begins with these bytes after the preface, and its first frames.
pub(crate) async fn begun(
    reactor: &Reactor,
    bytes: impl AsRef<[u8]>,
) -> Result<(Stream, Vec<Frame>)> {
    let mut stream = reactor.connect_stream(TO).await?;
    let got = more(&mut stream, reactor, [&hello(), bytes.as_ref()].concat()).await?;
    Ok((stream, got))
}

pub(crate) fn frames(bytes: &[u8]) -> Vec<Frame> {
    each_frame(bytes).collect()
}

fn each_frame(mut bytes: &[u8]) -> impl Iterator<Item = Frame> {
    iter::from_fn(move || {
        let [a, b, c, kind, flags, rest @ ..] = bytes else { return None };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (stream, rest) = rest.split_at(4);
        let (payload, rest) = rest.split_at(length);
        let stream = u32::from_be_bytes(stream.try_into().expect("four bytes"));
        bytes = rest;
        Some(Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() })
    })
}

/// Sends these bytes after the preface, and returns the server's frames and whether it has closed.
async fn said(reactor: &Reactor, bytes: &[u8]) -> Result<(Vec<Frame>, bool)> {
    listened(&mut opened(reactor, hello()).await?, reactor, bytes).await
}

async fn listened(
    stream: &mut Stream,
    reactor: &Reactor,
    bytes: &[u8],
) -> Result<(Vec<Frame>, bool)> {
    // The server may have closed already.
    let _ = stream.write_all(bytes).await;
    let mut got = heard(stream, reactor, 5 * SECOND).await?;
    let is_ping = |frame: &Frame| frame.kind == PING && frame.flags == 0;
    if let Some(ping) = frames(&got.bytes).into_iter().find(is_ping) {
        // A server that sent its first GOAWAY asks for a confirmation.
        let _ = stream.write_all(frame(PING, 1, 0, &ping.payload)).await;
        let more = heard(stream, reactor, 5 * SECOND).await?;
        got.bytes.extend(more.bytes);
        got.is_closed |= more.is_closed;
    }
    Ok((frames(&got.bytes), got.is_closed))
}

/// The body of a stream's answer.
pub(crate) fn body(frames: &[Frame], stream: u32) -> String {
    let of = frames.iter().filter(|frame| frame.kind == DATA && frame.stream == stream);
    String::from_utf8(of.flat_map(|frame| frame.payload.clone()).collect()).expect("text")
}

#[test]
fn streams_are_answered_as_they_are_ready() {
    beside(HttpOptions::default(), async |reactor| {
        let asked = [get(1, "/slow"), get(3, "/b"), get(5, "/c")].concat();
        let (frames, is_closed) = said(&reactor, &asked).await?;
        let ended: Vec<u32> = frames
            .iter()
            .filter(|frame| frame.kind == DATA && frame.flags & END_STREAM != 0)
            .map(|frame| frame.stream)
            .collect();
        assert_eq!(ended, [3, 5, 1]);
        assert_eq!(body(&frames, 1), "GET /slow ");
        assert!(!is_closed);
        Ok(())
    });
}

#[test]
fn an_answer_without_content_has_no_body() {
    async fn bodies(_: Reactor, request: Request<Body>) -> Result<Response<String>, Infallible> {
        let mut answer = Response::new("a body".to_owned());
        let status = request.uri().path().trim_start_matches('/').parse();
        *answer.status_mut() = status.expect("a status");
        Ok(answer)
    }
    let head = |stream, path| {
        let fields = [&[0x02, 4], &b"HEAD"[..], &fields(path)[1..]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)
    };
    beside_service(HttpOptions::default(), bodies, async move |reactor| {
        let asked = [get(1, "/200"), head(3, "/200"), get(5, "/204"), get(7, "/304")].concat();
        let (frames, _) = said(&reactor, &asked).await?;
        let of = |kind| frames.iter().filter(move |frame| frame.kind == kind && frame.stream > 0);
        let ends = of(HEADERS).map(|frame| (frame.stream, frame.flags & END_STREAM));
        assert_eq!(ends.collect::<Vec<_>>(), [(1, 0), (3, 1), (5, 1), (7, 1)]);
        assert_eq!(of(DATA).map(|frame| frame.stream).collect::<Vec<_>>(), [1]);
        Ok(())
    });
}

/// Settings with one entry: the window of each stream.
pub(crate) fn window(size: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, 4], &size.to_be_bytes()[..]].concat())
}

async fn large(_: Reactor, _: Request<Body>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(vec![b'x'; 100_000].into()))
}

#[test]
fn a_client_that_opens_no_window_is_given_up() {
    for size in [0, 1] {
        let options = HttpOptions::default().write_timeout(20 * SECOND);
        beside_service(options, large, async move |reactor| {
            let begun = reactor.now();
            let mut stream =
                opened(&reactor, [hello(), window(size), get(1, "/a")].concat()).await?;
            let got = heard(&mut stream, &reactor, 1000 * SECOND).await?;
            assert!(got.is_closed);
            let waited = reactor.now() - begun;
            assert!((20 * SECOND..30 * SECOND).contains(&waited), "{size}: {waited:?}");
            Ok(())
        });
    }
}

#[test]
fn a_client_that_opens_its_window_slowly_gets_all() {
    let options = HttpOptions::default().write_timeout(20 * SECOND).keep_alive(30 * SECOND);
    beside_service(options, large, async |reactor| {
        let mut stream = opened(&reactor, [hello(), window(1000), get(1, "/a")].concat()).await?;
        stream.write_all(update(0, 100_000)).await?;
        let mut got = heard(&mut stream, &reactor, SECOND).await?;
        for _ in 0..99 {
            stream.write_all(update(1, 1000)).await?;
            got.bytes.extend(heard(&mut stream, &reactor, 5 * SECOND).await?.bytes);
        }
        assert_eq!(body(&frames(&got.bytes), 1).len(), 100_000);
        Ok(())
    });
}

#[test]
fn a_response_that_has_ended_waits_for_no_client() {
    let options = HttpOptions::default().write_timeout(20 * SECOND).keep_alive(100 * SECOND);
    beside_service(options, large, async |reactor| {
        let begun = [hello(), window(10), update(0, 1_000_000)].concat();
        let mut stream = opened(&reactor, begun).await?;
        for n in 0..3 {
            // One is cut by its client, the other is whole.
            let (cut, whole) = (4 * n + 1, 4 * n + 3);
            let asked = [get(cut, "/a"), get(whole, "/a"), update(whole, 100_000)].concat();
            let got = more(&mut stream, &reactor, asked).await?;
            assert_eq!([cut, whole].map(|id| body(&got, id).len()), [10, 100_000], "{n}");
            stream.write_all(reset(cut, CANCEL)).await?;
            // Longer than a client may take no bytes, shorter than a connection may be idle.
            reactor.sleep(60 * SECOND).await?;
        }
        Ok(())
    });
}

#[test]
fn a_service_that_pauses_is_not_taken_for_a_client_that_does() {
    let options = HttpOptions::default().write_timeout(20 * SECOND).keep_alive(30 * SECOND);
    let ticking = async |reactor: Reactor, _: Request<Body>| {
        let ticks = stream::unfold(0, move |count| {
            let reactor = reactor.clone();
            async move {
                let _ = reactor.sleep(count * 50 * SECOND).await;
                let tick = Ok::<_, Infallible>(Part::data(Bytes::from_static(b"tick ")));
                (count < 3).then_some((tick, count + 1))
            }
        });
        Ok(Response::new(StreamBody::new(Box::pin(ticks))))
    };
    beside_service(options, ticking, async |reactor| {
        let mut stream = opened(&reactor, [hello(), get(1, "/a")].concat()).await?;
        let got = heard(&mut stream, &reactor, 160 * SECOND).await?;
        assert_eq!(body(&frames(&got.bytes), 1), "tick tick tick ");
        Ok(())
    });
}

#[test]
fn c172_more_headers_than_the_limit_are_answered_with_431() {
    beside(HttpOptions::default(), async |reactor| {
        let asked = |stream, count| {
            let more = b"\x00\x01a\x01b".repeat(count);
            let fields = [fields("/a"), more].concat();
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)
        };
        let (frames, _) = said(&reactor, &[asked(1, 100), asked(3, 101)].concat()).await?;
        assert_eq!(body(&frames, 1), "GET /a ");
        // The status, which the static table lacks.
        let refused = frames.iter().find(|frame| frame.kind == HEADERS && frame.stream == 3);
        let fields = refused.expect("an answer").payload.clone();
        assert_eq!(fields[..5], *b"\x08\x03431", "{fields:x?}");
        Ok(())
    });
}

#[test]
fn no_more_streams_than_the_limit_are_open() {
    beside(HttpOptions::default().max_streams(10), async |reactor| {
        let asked: Vec<u8> = (0..15).flat_map(|n| get(2 * n + 1, "/slow")).collect();
        let (frames, is_closed) = said(&reactor, &asked).await?;
        let refused = frames.iter().filter(|frame| frame.code() == Some(REFUSED_STREAM)).count();
        let answered = (0..15).filter(|n| body(&frames, 2 * n + 1) == "GET /slow ").count();
        assert_eq!((refused, answered, is_closed), (5, 10, false));
        Ok(())
    });
}

#[test]
fn a_drain_lets_open_streams_finish_and_takes_no_more() {
    beside(HttpOptions::default(), async |reactor| {
        let mut stream = opened(&reactor, [hello(), get(1, "/slow")].concat()).await?;
        reactor.sleep(SECOND / 2).await?;
        let draining = reactor.drain(10 * SECOND);
        let (frames, is_closed) = listened(&mut stream, &reactor, b"").await?;
        assert_eq!(body(&frames, 1), "GET /slow ");
        assert!(is_closed && frames.iter().any(|frame| frame.code() == Some(NO_ERROR)));
        drop(stream);
        assert_eq!(draining.await?.finished, 1);
        Ok(())
    });
}

#[test]
fn an_idle_connection_gets_a_goaway() {
    beside(HttpOptions::default().keep_alive(20 * SECOND), async |reactor| {
        let begun = reactor.now();
        // This client reads, but answers no ping.
        let mut stream = opened(&reactor, [hello(), get(1, "/a")].concat()).await?;
        let got = heard(&mut stream, &reactor, 60 * SECOND).await?;
        assert!(frames(&got.bytes).iter().any(|frame| frame.code() == Some(NO_ERROR)));
        assert!(got.is_closed && reactor.now() - begun == 40 * SECOND);
        // This one answers no ping either, though it sends one.
        let mut stream = opened(&reactor, [hello(), get(1, "/a")].concat()).await?;
        let mut got = heard(&mut stream, &reactor, SECOND).await?;
        stream.write_all(frame(PING, 0, 0, b"12345678")).await?;
        got.bytes.extend(heard(&mut stream, &reactor, 60 * SECOND).await?.bytes);
        let said: Vec<u8> = frames(&got.bytes).iter().map(|frame| frame.kind).collect();
        assert_eq!(said, [SETTINGS, WINDOW_UPDATE, SETTINGS, HEADERS, DATA, PING, GOAWAY, PING]);
        // This client answers.
        let begun = reactor.now();
        let mut stream = opened(&reactor, [hello(), get(1, "/a")].concat()).await?;
        reactor.sleep(18 * SECOND).await?;
        let (_, is_closed) = listened(&mut stream, &reactor, b"").await?;
        assert!(is_closed && reactor.now() - begun < 30 * SECOND);
        Ok(())
    });
}

/// A flood: its name, the bytes of each round, and the error code that ends the connection, unless
/// the flood is harmless.
type Flood = (&'static str, fn(u32) -> Vec<u8>, Option<u32>);

#[rustfmt::skip]
const FLOODS: &[Flood] = &[
    // CVE-2023-44487
    ("streams that are reset at once", |n| [get(2 * n + 1, "/slow"), reset(2 * n + 1, CANCEL)].concat(), Some(ENHANCE_YOUR_CALM)),
    ("streams that are reset among others that are answered", |n| [get(4 * n + 1, "/slow"), reset(4 * n + 1, CANCEL), get(4 * n + 3, "/a")].concat(), None),
    // CVE-2024-27316
    ("continuations without an end", |n| if n == 0 { frame(HEADERS, END_STREAM, 1, &fields("/a")) } else { frame(CONTINUATION, 0, 1, &b"\x00\x01a\x40bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb".repeat(50)) }, Some(ENHANCE_YOUR_CALM)),
    ("pings", |_| frame(PING, 0, 0, &[1; 8]).repeat(100), None),
    ("settings", |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(100), None),
    ("empty data", |n| if n == 0 { frame(HEADERS, END_HEADERS, 1, &fields("/a")) } else { frame(DATA, 0, 1, b"").repeat(100) }, Some(ENHANCE_YOUR_CALM)),
    ("broken requests", |n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &[0x86, 0x84]), Some(ENHANCE_YOUR_CALM)),
];

#[test]
fn a_flood_is_bounded() {
    const ROUNDS: u32 = 3_000;
    for (name, next, code) in FLOODS {
        beside(HttpOptions::default(), async move |reactor| {
            let mut stream = opened(&reactor, hello()).await?;
            let before = live();
            reset_peak();
            let (mut told, mut is_closed) = (Vec::new(), false);
            for n in 0..ROUNDS {
                is_closed = stream.write_all(next(n)).await.is_err();
                if is_closed || n % 100 == 99 {
                    let more = heard(&mut stream, &reactor, SECOND / 100).await?;
                    is_closed |= more.is_closed;
                    let farewells = each_frame(&more.bytes).filter(|frame| frame.kind == GOAWAY);
                    told.extend(farewells.filter_map(|frame| frame.code()));
                }
                if is_closed {
                    break;
                }
            }
            let most = peak() - before;
            // The peak does not grow with the number of rounds.
            assert!(most < 6_000_000, "{name}: {most} bytes");
            // Bytes that the server left unread may reset the connection, and destroy its last
            // frames.
            assert_eq!(is_closed, code.is_some(), "{name}");
            assert!(told.iter().all(|told| Some(*told) == *code), "{name}: {told:?}");
            // Other clients are unaffected.
            let (frames, _) = said(&reactor, &get(1, "/a")).await?;
            assert_eq!(body(&frames, 1), "GET /a ");
            Ok(())
        });
    }
}
