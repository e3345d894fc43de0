//! Answers that the client does not read: each connection and each server holds a bounded share of
//! them, and one stream does not starve another.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use couplet::http::{Allowance, Body, HttpOptions, Request, Response};
use couplet::{Bytes, Reactor, Result, Stream};
use futures_util::{Stream as Pieces, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame as Part;

use crate::counting::{live, peak, reset_peak};
use crate::http2::*;
use crate::kit::{self, TO, beside_service, heard, opened, waiting};

const SECOND: Duration = Duration::from_secs(1);
const PIECE: usize = 64 * 1024;
const PIECES: usize = 800;

/// Further memory that a server, its client and the network use for a connection, in bytes.
const BESIDE: isize = 1_000_000;

/// `/file` streams 50 MB, and allocates each piece on demand; `/whole` has 20 MB in one piece;
/// `/small` answers with a word.
async fn files(
    _: Reactor,
    request: Request<Body>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    Ok(Response::new(match request.uri().path() {
        "/file" => {
            let piece = |_| Ok(Part::data(Bytes::from(vec![b'x'; PIECE])));
            StreamBody::new(stream::iter((0..PIECES).map(piece))).boxed()
        }
        "/whole" => Full::from(vec![b'x'; 20_000_000]).boxed(),
        _ => Full::from("small").boxed(),
    }))
}

/// Opens the windows of each stream and of the connection to the maximum.
fn open_wide() -> Vec<u8> {
    let most = i32::MAX.cast_unsigned();
    [hello(), window(most), update(0, most - 65_535)].concat()
}

fn gets(streams: impl IntoIterator<Item = u32>, path: &str) -> Vec<u8> {
    streams.into_iter().flat_map(|stream| get(stream, path)).collect()
}

/// Stream numbers of a client.
fn odd(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

#[test]
fn c175a_a_client_that_reads_nothing_holds_a_share() {
    beside_service(HttpOptions::default(), files, async |reactor| {
        // The first connection leaves buffers for the next ones.
        let mut left = None;
        for _ in 0..3 {
            let before = live();
            reset_peak();
            let stream = opened(&reactor, [open_wide(), gets(odd(128), "/file")].concat()).await?;
            reactor.sleep(20 * SECOND).await?;
            let most = peak() - before;
            assert!(most < (1 << 20), "{most} bytes are held");
            let buffered = waiting(&reactor, &stream).await?;
            assert!((PIECE..(1 << 20) + 4 * PIECE).contains(&buffered), "{buffered} are shown");
            stream.abort();
            reactor.sleep(SECOND).await?;
            let more = live() - *left.get_or_insert(live());
            assert!(more < 10_000, "{more} bytes more than after the first one");
        }
        Ok(())
    });
}

type Fetched = StreamBody<Pin<Box<dyn Pieces<Item = Result<Part<Bytes>, Infallible>>>>>;

/// Answers with 50 MB in pieces that arrive slowly, each as long as its allowance.
async fn fetching(
    reactor: Reactor,
    request: Request<Body>,
) -> Result<Response<Fetched>, Infallible> {
    let allowance = request.extensions().get::<Allowance>().expect("the option is set").clone();
    let pieces = stream::unfold(PIECES * PIECE, move |left| {
        let (allowance, reactor) = (allowance.clone(), reactor.clone());
        async move {
            let length = allowance.reserve(PIECE.min(left));
            let fetched = vec![b'x'; length];
            reactor.sleep(SECOND / 100).await.ok()?;
            (left > 0).then(|| (Ok(Part::data(fetched.into())), left - length))
        }
    });
    Ok(Response::new(StreamBody::new(Box::pin(pieces))))
}

#[test]
fn c175a_pieces_that_are_fetched_count_before_they_come() {
    for window in [i32::MAX.cast_unsigned(), 1] {
        let options = HttpOptions::default().allowance(true);
        beside_service(options, fetching, async move |reactor| {
            let before = live();
            reset_peak();
            let open = if window == 1 { [hello(), self::window(1)].concat() } else { open_wide() };
            let mut stream = opened(&reactor, [open, gets(odd(128), "/")].concat()).await?;
            reactor.sleep(20 * SECOND).await?;
            // The share, and a small piece for each stream.
            let most = peak() - before;
            assert!(most < (1 << 20) + 128 * 2048 + BESIDE, "{most} bytes, in windows of {window}");
            if window > 1 {
                stream.abort();
                return reactor.sleep(SECOND).await;
            }
            let open = [update(255, 60_000), update(0, 60_000)].concat();
            let got = more(&mut stream, &reactor, open).await?;
            assert!(body(&got, 255).len() >= 60_000, "{}", body(&got, 255).len());
            stream.abort();
            reactor.sleep(SECOND).await
        });
    }
}

#[test]
fn c175a_a_client_that_reads_again_gets_all() {
    beside_service(HttpOptions::default(), files, async |reactor| {
        let mut stream = opened(&reactor, [open_wide(), gets(odd(8), "/file")].concat()).await?;
        reactor.sleep(20 * SECOND).await?;
        let mut got = [0; 17];
        let (mut head, mut buffer) = (Vec::new(), vec![0; PIECE]);
        let mut left = 0_usize;
        // Only counted: the answers are 420 MB.
        while got.iter().sum::<usize>() < 8 * PIECES * PIECE {
            let n = stream.read(&mut buffer).await?;
            assert_ne!(n, 0);
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                let payload = left.min(rest.len());
                left -= payload;
                rest = &rest[payload..];
                let more = (9 - head.len()).min(rest.len());
                head.extend(&rest[..more]);
                rest = &rest[more..];
                if let [a, b, c, kind, _, _, _, _, stream] = head[..] {
                    left = u32::from_be_bytes([0, a, b, c]) as usize;
                    got[usize::from(stream)] += if kind == DATA { left } else { 0 };
                    head.clear();
                }
            }
        }
        assert!(odd(8).all(|stream| got[stream as usize] == PIECES * PIECE), "{got:?}");
        Ok(())
    });
}

#[test]
fn c175a_streams_without_a_window_do_not_starve_another() {
    beside_service(HttpOptions::default(), files, async |reactor| {
        let before = live();
        reset_peak();
        let mut stream = reactor.connect_stream(TO).await?;
        let windowless = [hello(), window(0), gets(odd(100), "/file")].concat();
        more(&mut stream, &reactor, windowless).await?;
        // A share, and a piece for each stream.
        let most = peak() - before;
        assert!(most < 100 * PIECE as isize + BESIDE, "{most} bytes are held");
        let open = update(301, 1_000_000);
        let open_all = update(0, 1_000_000);
        let got = more(&mut stream, &reactor, [get(301, "/file"), open, open_all].concat()).await?;
        assert_eq!(body(&got, 301).len(), 1_000_000);
        // So does a stream that had waited.
        let got = more(&mut stream, &reactor, update(199, 60_000)).await?;
        assert_eq!(body(&got, 199).len(), 60_000);
        Ok(())
    });
}

#[test]
fn c175a_a_whole_body_holds_no_more_of_the_share_than_its_turn() {
    beside_service(HttpOptions::default(), files, async |reactor| {
        let mut stream = opened(&reactor, [open_wide(), gets([1, 3], "/whole")].concat()).await?;
        reactor.sleep(SECOND).await?;
        let buffered = waiting(&reactor, &stream).await?;
        assert!(buffered < (1 << 20) + 4 * PIECE, "{buffered} bytes");
        stream.write_all(get(5, "/small")).await?;
        let mut got = Vec::new();
        while body(&frames_of(&got), 5).is_empty() {
            let mut buffer = vec![0; PIECE];
            let n = stream.read(&mut buffer).await?;
            got.extend(&buffer[..n]);
            assert!(n > 0 && got.len() < 2_000_000, "the small one waits for the large ones");
        }
        Ok(())
    });
}

/// The complete frames.
fn frames_of(bytes: &[u8]) -> Vec<Frame> {
    let mut end = 0;
    while let Some([a, b, c, ..]) = bytes.get(end..end + 9) {
        let next = end + 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    frames(&bytes[..end])
}

#[test]
fn c175a_streams_that_are_reset_give_their_share_back() {
    beside_service(HttpOptions::default(), files, async |reactor| {
        let mut stream = opened(&reactor, [hello(), window(0)].concat()).await?;
        let before = live();
        for round in 0..10 {
            let streams: Vec<u32> = odd(100).map(|n| 200 * round + n).collect();
            more(&mut stream, &reactor, gets(streams.iter().copied(), "/file")).await?;
            let resets = streams.iter().flat_map(|n| reset(*n, CANCEL));
            more(&mut stream, &reactor, resets.collect::<Vec<u8>>()).await?;
            assert_eq!(waiting(&reactor, &stream).await?, 0);
        }
        let left = live() - before;
        assert!(left < 200_000, "{left} bytes are left");
        Ok(())
    });
}

#[test]
fn c175a_a_client_of_http1_that_reads_nothing_is_shown() {
    beside_service(HttpOptions::default(), files, async |reactor| {
        let before = live();
        reset_peak();
        let stream = opened(&reactor, kit::get("/file")).await?;
        reactor.sleep(20 * SECOND).await?;
        let most = peak() - before;
        assert!(most < BESIDE, "{most} bytes are held");
        let buffered = waiting(&reactor, &stream).await?;
        assert!(buffered as isize > most / 3, "{buffered} of {most} bytes are shown");
        Ok(())
    });
}

/// Reads at least `count` bytes.
async fn heard_of(stream: &mut Stream, count: usize) -> Result<()> {
    let (mut buffer, mut got) = (vec![0; PIECE], 0);
    while got < count {
        let n = stream.read(&mut buffer).await?;
        assert_ne!(n, 0);
        got += n;
    }
    Ok(())
}

/// Twenty clients that write these bytes, and the bytes that wait for each in the end.
async fn twenty(reactor: &Reactor, asked: &[u8]) -> Result<(Vec<Stream>, Vec<usize>)> {
    let (mut streams, mut shown) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        streams.push(opened(reactor, asked).await?);
        reactor.sleep(SECOND).await?;
    }
    for stream in &streams {
        shown.push(waiting(reactor, stream).await?);
    }
    Ok((streams, shown))
}

#[test]
fn c175a_the_connections_of_a_server_share_its_limit() {
    let options = HttpOptions::default().max_unsent(4 * PIECE).max_unsent_of_all(16 * PIECE);
    beside_service(options.allowance(true), fetching, async |reactor| {
        let asked = [open_wide(), gets(odd(50), "/file")].concat();
        let (mut streams, shown) = twenty(&reactor, &asked).await?;
        let (first, rest) = (&shown[..4], &shown[12..]);
        assert!(first.iter().all(|n| (2 * PIECE..8 * PIECE).contains(n)), "{shown:?}");
        assert!(rest.iter().all(|n| (PIECE..2 * PIECE).contains(n)), "{shown:?}");
        // The last client still gets its answers.
        let mut last = streams.pop().expect("there are twenty");
        heard_of(&mut last, 10_000_000).await?;
        // Once the others are closed, it has a share again.
        streams.into_iter().for_each(Stream::abort);
        reactor.sleep(20 * SECOND).await?;
        heard_of(&mut last, 10_000_000).await?;
        reactor.sleep(20 * SECOND).await?;
        let shown = waiting(&reactor, &last).await?;
        assert!((2 * PIECE..8 * PIECE).contains(&shown), "{shown} bytes");
        last.abort();
        reactor.sleep(SECOND).await?;
        Ok(())
    });
}

/// Like [`fetching`], but reserves its first piece before the head, as if it read the piece ahead.
async fn fetching_ahead(
    reactor: Reactor,
    request: Request<Body>,
) -> Result<Response<Fetched>, Infallible> {
    let allowance = request.extensions().get::<Allowance>().expect("the option is set");
    allowance.reserve(PIECE);
    fetching(reactor, request).await
}

#[test]
fn c175a_reservations_before_the_head_stay_within_the_shares() {
    let options = HttpOptions::default().max_unsent(4 * PIECE).max_unsent_of_all(16 * PIECE);
    beside_service(options.allowance(true), fetching_ahead, async |reactor| {
        let closed = [hello(), window(0), gets(odd(100), "/")].concat();
        let (streams, shown) = twenty(&reactor, &closed).await?;
        let (of_all, of_each) = (16 * PIECE, PIECE + PIECE / 8);
        assert!(shown.iter().all(|n| *n <= 4 * PIECE + PIECE / 8), "{shown:?}");
        assert!(shown.iter().sum::<usize>() <= of_all + 20 * of_each, "{shown:?}");
        streams.into_iter().for_each(Stream::abort);
        reactor.sleep(SECOND).await
    });
}

#[test]
fn c175a_a_reservation_replaces_the_one_before() {
    /// Reserves twice for each piece, and uses the second reservation.
    async fn reserving_twice(
        _: Reactor,
        request: Request<Body>,
    ) -> Result<Response<Fetched>, Infallible> {
        let allowance = request.extensions().get::<Allowance>().expect("the option is set").clone();
        let pieces = stream::unfold(10 * PIECE, move |left| {
            let (_, length) = (allowance.reserve(PIECE), allowance.reserve(PIECE.min(left)));
            let piece = Part::data(Bytes::from(vec![b'x'; length]));
            std::future::ready((left > 0).then(|| (Ok(piece), left - length)))
        });
        Ok(Response::new(StreamBody::new(Box::pin(pieces))))
    }
    beside_service(HttpOptions::default().allowance(true), reserving_twice, async |reactor| {
        let mut stream = opened(&reactor, kit::get("/")).await?;
        heard_of(&mut stream, 10 * PIECE).await?;
        heard(&mut stream, &reactor, SECOND).await?;
        assert_eq!(waiting(&reactor, &stream).await?, 0, "bytes are held for a whole answer");
        Ok(())
    });
}

/// Memory that the network and the client keep for the longest transfer, in bytes.
const BUFFERS: isize = 700_000;

#[test]
fn c175b_a_connection_keeps_nothing_of_the_answers_that_were_taken() {
    let service = async |_: Reactor, request: Request<Body>| {
        let count = if request.uri().path() == "/small" { 1 } else { 40 };
        let piece = |_| Ok::<_, Infallible>(Part::data(Bytes::from(vec![b'x'; PIECE])));
        Ok(Response::new(StreamBody::new(stream::iter((0..count).map(piece)))))
    };
    for is_http2 in [false, true] {
        beside_service(HttpOptions::default(), service, async move |reactor| {
            let begun = if is_http2 { open_wide() } else { Vec::new() };
            let mut stream = opened(&reactor, begun).await?;
            let mut before = None;
            for (n, path) in ["/small", "/large", "/large"].into_iter().enumerate() {
                let id = 2 * n as u32 + 1;
                let asked = if is_http2 { get(id, path) } else { kit::get(path).into_bytes() };
                stream.write_all(asked).await?;
                heard_of(&mut stream, if n == 0 { PIECE } else { 40 * PIECE }).await?;
                heard(&mut stream, &reactor, SECOND).await?;
                reactor.sleep(20 * SECOND).await?;
                let more = live() - *before.get_or_insert(live());
                assert!(more < BUFFERS, "HTTP/2: {is_http2}: {more} bytes after {n}");
                assert_eq!(waiting(&reactor, &stream).await?, 0);
            }
            Ok(())
        });
    }
}
