//! Compressed answers: by `tower-http`, and precomputed by gzip, zlib, zstd and Node's brotli.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use couplet::http::HttpExt;
use couplet::http::{Body, BodyError, Client, ClientOptions, Request, Response, header};
use couplet::task::yield_now;
use couplet::testing::every_split;
use couplet::{Reactor, Result, Stream};
use http_body_util::BodyExt;
use tower::{Layer, service_fn};
use tower_http::compression::CompressionLayer;

use crate::client::{read_out, secured_by};
use crate::kit::{AT, any, ended, run, scripted};

const URL: &str = "http://127.0.0.1:8000";

pub(crate) const POEM: &str = "Hope is the thing with feathers\nThat perches in the soul\n";

/// The poem in each coding; deflate with and without zlib's frame.
#[rustfmt::skip]
pub(crate) const POEMS: [(&str, &str); 5] = [
    (
        "gzip",
        "1f8b0800000000000203f3c82f4855c82c5628c94805e2ccbc7485f2cc920c85b4d444a0485131574846628942416a\
         5172466ab142661e585d717e690e1700f638f2ef39000000",
    ),
    ("deflate", "789cf3c82f4855c82c5628c94805e2ccbc7485f2cc920c85b4d444a0485131574846628942416a5172466ab142661e585d717e690e17005270145c"),
    ("deflate", "f3c82f4855c82c5628c94805e2ccbc7485f2cc920c85b4d444a0485131574846628942416a5172466ab142661e585d717e690e1700"),
    ("br", "1b3800e08d94abed688544a59beb96b45ce5ecccf28b33151948a2c8a5df44192b22a8d997b9e2382a17cd39a2514fd014"),
    (
        "zstd",
        "28b52ffd0458c90100486f706520697320746865207468696e6720776974682066656174686572730a546861742070\
         65726368657320696e2074686520736f756c0a23013ed1",
    ),
];

pub(crate) fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// Text that varies, but compresses well.
fn long(lines: usize) -> String {
    (0..lines).map(|n| format!("{n} {POEM}")).collect()
}

/// Runs a program with a server of texts with the requested number of lines, compressed as
/// negotiated. The header `x-asked` repeats the request's `accept-encoding`.
fn compressed(program: impl AsyncFnOnce(Reactor) -> Result<()> + 'static) {
    let answer = service_fn(async |request: Request<Body>| {
        let asked = request.headers().get(header::ACCEPT_ENCODING).cloned();
        let lines = request.uri().path()[1..].parse().expect("a number");
        let mut answer = Response::new(long(lines));
        answer
            .headers_mut()
            .insert("x-asked", asked.unwrap_or(header::HeaderValue::from_static("-")));
        Ok::<_, Infallible>(answer)
    });
    run(async move |reactor| {
        let port = reactor.serve_http(AT, any(CompressionLayer::new().layer(answer)))?;
        ended(port, program(reactor).await?).await
    });
}

/// A scripted answer: a head, and pieces, sent as chunks unless the head has a length.
struct Scripted {
    head: String,
    pieces: Vec<Vec<u8>>,
}

impl Scripted {
    fn new(coding: &str, pieces: &[&[u8]]) -> Scripted {
        let head = format!("200 OK\r\nContent-Encoding: {coding}");
        Scripted { head, pieces: pieces.iter().map(|piece| piece.to_vec()).collect() }
    }
}

/// Runs a program with a server that gives these answers, one to each request.
fn answering(
    answers: Vec<Scripted>,
    program: impl AsyncFnOnce(Reactor, Client) -> Result<()> + 'static,
) {
    let answers = Rc::new(RefCell::new(answers.into_iter()));
    let serve = async move |mut stream: Stream| {
        while let Some(line) = stream.read_line().await? {
            if !line.is_empty() {
                continue;
            }
            let Some(answer) = answers.borrow_mut().next() else { break };
            let head = format!("HTTP/1.1 {}\r\n", answer.head);
            if head.contains("Content-Length") {
                stream.write_all(head + "\r\n").await?;
                stream.write_all(answer.pieces.concat()).await?;
                continue;
            }
            stream.write_all(head + "Transfer-Encoding: chunked\r\n\r\n").await?;
            for piece in answer.pieces {
                stream.write_all(format!("{:x}\r\n", piece.len())).await?;
                stream.write_all([&piece[..], b"\r\n"].concat()).await?;
                stream.flush().await?;
            }
            stream.write_all("0\r\nX-Trailer: last\r\n\r\n").await?;
        }
        Ok(())
    };
    scripted(serve, async |reactor| {
        let client = Client::new(&reactor);
        program(reactor, client).await
    });
}

async fn got(client: &Client) -> Result<Vec<u8>> {
    Ok(client.get(URL).await?.into_body().bytes(1_000_000).await?.to_vec())
}

#[test]
fn answers_are_decoded_from_each_coding() {
    compressed(async |reactor| {
        let client = Client::new(&reactor);
        let answer = client.get(format!("{URL}/10000")).await?;
        assert_eq!(answer.headers()["x-asked"], "zstd, br, gzip, deflate");
        for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
            assert!(!answer.headers().contains_key(&name), "{name}");
        }
        assert!(answer.into_body().bytes(1_000_000).await? == long(10_000));
        let raw = Client::with_options(&reactor, ClientOptions::default().decompress(false));
        for coding in ["gzip", "deflate", "br", "zstd"] {
            let ask = async |client: &Client| {
                let request = Request::get(format!("{URL}/10000"));
                let request = request.header("accept-encoding", coding).body("")?;
                client.send(request).await.map_err(couplet::Failure::from)
            };
            let answer = ask(&client).await?;
            assert_eq!(answer.headers()["x-asked"], coding, "as the caller says");
            assert!(!answer.headers().contains_key("content-encoding"), "{coding}");
            assert!(answer.into_body().bytes(1_000_000).await? == long(10_000), "{coding}");
            let answer = ask(&raw).await?;
            assert_eq!(answer.headers()["content-encoding"], coding);
            let bytes = answer.into_body().bytes(200_000).await?;
            assert!(bytes.len() > 1000 && bytes != long(10_000), "{coding}: {}", bytes.len());
        }
        let answer = raw.get(format!("{URL}/100")).await?;
        assert_eq!(answer.headers()["x-asked"], "-");
        assert!(answer.into_body().bytes(1_000_000).await? == long(100));
        let part = Request::get(format!("{URL}/100")).header("range", "bytes=0-9").body("")?;
        assert_eq!(client.send(part).await?.headers()["x-asked"], "-");
        Ok(())
    });
}

#[test]
fn answers_over_http2_are_decoded() {
    let answer = service_fn(async |request: Request<Body>| {
        let asked = request.headers()[header::ACCEPT_ENCODING].to_str().expect("a text");
        let text = format!("{:?} {asked} {}", request.version(), long(10_000));
        Ok::<_, Infallible>(Response::new(text))
    });
    secured_by(CompressionLayer::new().layer(answer), async |reactor, options| {
        let client = Client::with_options(&reactor, options);
        let answer = client.get("https://localhost:8443/").await?;
        assert!(!answer.headers().contains_key("content-encoding"));
        let body = answer.into_body().bytes(1_000_000).await?;
        assert!(body == format!("HTTP/2.0 zstd, br, gzip, deflate {}", long(10_000)));
        Ok(())
    });
}

#[test]
fn a_body_is_decoded_at_every_split_and_its_connection_is_reused() {
    for (coding, hex) in POEMS {
        let mut answers = Vec::new();
        every_split(&bytes_of(hex), |pieces| answers.push(Scripted::new(coding, pieces)));
        let number = answers.len();
        assert!(number > 40);
        answering(answers, async move |reactor, client| {
            for n in 0..number {
                let body = client.get(URL).await?.into_body();
                let collected = body.collect().await?;
                let trailer = collected.trailers().map(|trailers| trailers["x-trailer"].clone());
                assert_eq!(trailer.expect("trailers"), "last", "{coding} {n}");
                assert_eq!(collected.to_bytes(), POEM, "{coding} {n}");
            }
            let snapshot = reactor.snapshot().await?;
            assert_eq!(snapshot.connections.len(), 2, "both ends of one");
            Ok(())
        });
    }
}

#[test]
fn a_body_that_ends_too_early_is_an_error_and_an_empty_one_is_empty() {
    for (coding, hex) in POEMS {
        let whole = bytes_of(hex);
        let cut = (1..whole.len()).map(|n| Scripted::new(coding, &[&whole[..n]]));
        let answers = [Scripted::new(coding, &[])].into_iter().chain(cut).collect();
        answering(answers, async move |_, client| {
            assert_eq!(got(&client).await?, b"");
            for n in 1..whole.len() {
                let cut = got(&client).await.expect_err("it is cut");
                let said =
                    format!("cannot decode the body as {coding}: the compressed data is truncated");
                assert_eq!(cut.to_string(), said, "{n} bytes of it");
            }
            Ok(())
        });
    }
}

#[test]
fn broken_connections_and_corrupt_bodies_are_different_errors() {
    let begins = async |mut stream: Stream| {
        let line = stream.read_line().await?.unwrap_or_default();
        while !stream.read_line().await?.unwrap_or_default().is_empty() {}
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 71\r\nContent-Encoding: gzip\r\n\r\n";
        let half = &bytes_of(POEMS[0].1)[..40];
        stream.write_all([head.as_bytes(), half].concat()).await?;
        if line.starts_with(b"GET /stop") {
            // Waits until the client has given up.
            let _ = stream.read_to_end(&mut Vec::new(), 100).await;
        }
        Ok(())
    };
    scripted(begins, async |reactor| {
        let options = ClientOptions::default().body_timeout(std::time::Duration::from_secs(5));
        let client = Client::with_options(&reactor, options);
        let late = client.get(format!("{URL}/stop")).await?.into_body().bytes(1000).await;
        assert!(matches!(late, Err(BodyError::TimedOut)), "{late:?}");
        let cut = client.get(format!("{URL}/break")).await?.into_body().bytes(1000).await;
        assert!(matches!(cut, Err(BodyError::Broken(_))), "{cut:?}");
        Ok(())
    });
}

#[test]
fn corrupt_bodies_are_errors_and_several_members_are_one_text() {
    for (coding, hex) in POEMS {
        let whole = bytes_of(hex);
        let answers = vec![
            Scripted::new(coding, &[b"This is a text, whatever is said of it.\n"]),
            Scripted::new(coding, &[&whole, b"more"]),
            Scripted::new(coding, &[&whole, &whole]),
        ];
        answering(answers, async move |_, client| {
            for what in ["a text", "followed by more"] {
                let failure = got(&client).await.expect_err(what);
                let error = failure.downcast_ref::<BodyError>().expect("one of the body");
                let BodyError::Compressed { coding: told, .. } = error else { panic!("{error:?}") };
                assert_eq!(*told, coding, "{what}");
                let is_cut = error.to_string().contains("data is truncated");
                assert!(!is_cut || what == "a text", "{coding}, {what}: {error}");
            }
            let twice = got(&client).await;
            match coding {
                "gzip" | "zstd" => assert_eq!(twice?, [POEM, POEM].concat().as_bytes()),
                _ => {
                    let said = twice.expect_err("one is all").to_string();
                    let end = ": bytes follow the end of the compressed data";
                    assert!(said.ends_with(end), "{coding}: {said}");
                }
            }
            Ok(())
        });
    }
}

/// A gzip member without contents: a head, an empty block and a checksum.
const EMPTY_MEMBER: [u8; 20] = [31, 139, 8, 0, 0, 0, 0, 0, 0, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A decoder that builds its tables for each member, or for each block, takes minutes for these.
#[test]
fn members_and_blocks_without_contents_cost_little() {
    let members = EMPTY_MEMBER.repeat(1_000_000);
    // Empty blocks of 10 bits: not the last, of the fixed codes, the end. Then a last one.
    let (blocks, mut bits) = (8_000_000, Vec::new());
    bits.resize(blocks * 10 / 8, 0_u8);
    for block in 0..blocks {
        bits[(block * 10 + 1) / 8] |= 1 << ((block * 10 + 1) % 8);
    }
    bits.extend([3, 0]);
    let head = &EMPTY_MEMBER[..10];
    let blocks = [head, &bits, &EMPTY_MEMBER[12..]].concat();
    for (name, body) in [("members", members), ("blocks", blocks)] {
        let whole = [&body[..], &bytes_of(POEMS[0].1)].concat();
        answering(vec![Scripted::new("gzip", &[&whole])], async move |_, client| {
            assert_eq!(got(&client).await?, POEM.as_bytes(), "{name}");
            Ok(())
        });
    }
}

#[test]
fn a_flipped_bit_never_passes_for_another_text_where_there_is_a_checksum() {
    for (n, (coding, hex)) in POEMS.into_iter().enumerate() {
        let whole = bytes_of(hex);
        let number = whole.len() * 8;
        let flipped = (0..number).map(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            Scripted::new(coding, &[&bytes])
        });
        let answers = flipped.collect();
        let has_checksum = [0, 1, 4].contains(&n);
        answering(answers, async move |_, client| {
            let mut errors = 0;
            for bit in 0..number {
                match got(&client).await {
                    Ok(text) if has_checksum => assert_eq!(text, POEM.as_bytes(), "bit {bit}"),
                    Ok(_) => {}
                    Err(failure) => errors += usize::from(failure.is::<BodyError>()),
                }
            }
            // Some bits don't matter, such as the date in gzip's header.
            let least = if has_checksum { number / 2 } else { 10 };
            assert!(errors > least, "{coding}: {errors} of {number}");
            Ok(())
        });
    }
}

#[test]
fn zstd_may_use_a_window_of_eight_mebibytes_and_no_more() {
    // A frame with this window, and one uncompressed block of four bytes.
    let frame = |window| bytes_of(&format!("28b52ffd00{window}210000706f656d"));
    let answers = ["68", "70"].map(|window| Scripted::new("zstd", &[&frame(window)]));
    answering(answers.into(), async |_, client| {
        assert_eq!(got(&client).await?, b"poem");
        let said = got(&client).await.expect_err("16 MiB").to_string();
        assert!(said.contains("as zstd: ") && said.contains("memory"), "{said}");
        Ok(())
    });
}

#[test]
fn answers_without_a_body_or_a_known_coding_stay_unchanged() {
    let gzip = bytes_of(POEMS[0].1);
    let same = [
        "200 OK\r\nContent-Encoding: identity",
        "200 OK\r\nContent-Encoding: compress",
        "200 OK\r\nContent-Encoding: br, gzip",
        "200 OK\r\nContent-Encoding: br\r\nContent-Encoding: gzip",
        "206 Partial Content\r\nContent-Range: bytes 0-70/71\r\nContent-Encoding: gzip",
    ];
    let decoded = [
        "200 OK\r\nContent-Encoding: GZip",
        "200 OK\r\nContent-Encoding: x-gzip",
        "200 OK\r\nContent-Encoding: identity, , gzip",
        "404 Not Found\r\nContent-Encoding: gzip",
        "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 71",
    ];
    let scripted = |head: &&str| Scripted { head: head.to_string(), pieces: vec![gzip.clone()] };
    let answers = same.iter().chain(&decoded).map(scripted).collect();
    answering(answers, async move |_, client| {
        for head in same {
            let answer = client.get(URL).await?;
            assert!(answer.headers().contains_key("content-encoding"), "{head}");
            assert_eq!(answer.into_body().bytes(1000).await?, gzip, "{head}");
        }
        for head in decoded {
            let answer = client.get(URL).await?;
            assert!(!answer.headers().contains_key("content-encoding"), "{head}");
            assert!(!answer.headers().contains_key("content-length"), "{head}");
            assert_eq!(answer.into_body().bytes(1000).await?, POEM, "{head}");
        }
        Ok(())
    });
}

#[test]
fn the_head_of_an_answer_without_a_body_stays_unchanged() {
    let heads = [
        ("HEAD", "200 OK\r\nContent-Length: 71"),
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified\r\nContent-Length: 71"),
        ("GET", "200 OK\r\nContent-Length: 0"),
    ];
    let next = Cell::new(0);
    let serve = async move |mut stream: Stream| {
        while let Some(line) = stream.read_line().await? {
            if line.is_empty() {
                let (_, head) = heads[next.replace(next.get() + 1)];
                let head = format!("HTTP/1.1 {head}\r\nContent-Encoding: gzip\r\n\r\n");
                stream.write_all(head).await?;
            }
        }
        Ok(())
    };
    scripted(serve, async move |reactor| {
        let client = Client::new(&reactor);
        for (method, head) in heads {
            let request = Request::builder().method(method).uri(URL).body("")?;
            let answer = client.send(request).await?;
            assert_eq!(answer.headers()["content-encoding"], "gzip", "{head}");
            let length = answer.headers().get("content-length").map(|length| length.as_bytes());
            let expected = head.split_once("Content-Length: ").map(|(_, length)| length.as_bytes());
            assert_eq!(length, expected, "{head}");
            assert_eq!(answer.into_body().bytes(0).await?, "", "{head}");
        }
        Ok(())
    });
}

#[test]
fn a_bomb_fails_at_the_limit_and_holds_nothing_up() {
    const LINES: usize = 40_000;
    compressed(async |reactor| {
        let size = long(LINES).len() as u64;
        let url = format!("{URL}/{LINES}");
        for coding in ["gzip", "deflate", "br", "zstd"] {
            for limit in [size, size - 1, 100_000] {
                let options = ClientOptions::default().max_decoded(limit);
                let client = Client::with_options(&reactor, options);
                let request = Request::get(&url).header("accept-encoding", coding).body("")?;
                let mut body = client.send(request).await?.into_body();
                let (read, end) = read_out(&mut body).await;
                let read = read.len() as u64;
                assert!(read <= limit, "{coding}: {read} of at most {limit}");
                let Err(error) = end else {
                    assert_eq!(read, size, "{coding}");
                    continue;
                };
                assert!(limit < size && matches!(error, BodyError::Bomb(n) if n == limit));
                let said = format!("it exceeds {limit} bytes when decompressed");
                assert_eq!(error.to_string(), format!("cannot decode the body: {said}"));
                assert!(body.next().await?.is_none(), "nothing comes after an error");
            }
        }
        Ok(())
    });
}

#[test]
fn other_tasks_have_their_turn_while_much_is_decoded() {
    compressed(async |reactor| {
        let url = format!("{URL}/100000");
        let body = Client::new(&reactor).get(&url).await?.into_body();
        // The whole answer arrives before the body is read.
        reactor.sleep(std::time::Duration::from_secs(1)).await?;
        let turns = Rc::new(Cell::new(0));
        let counted = turns.clone();
        let counting = reactor.spawn(async move {
            loop {
                yield_now().await;
                counted.set(counted.get() + 1);
            }
            #[expect(unreachable_code, reason = "the type of a task")]
            Ok(())
        });
        let counting = counting.abort_on_drop();
        let read = body.bytes(usize::MAX).await?.len();
        drop(counting);
        assert!(turns.get() >= read / (256 * 1024), "{} turns for {read} bytes", turns.get());
        Ok(())
    });
}

#[test]
fn c176b_a_compressed_body_is_as_long_as_its_length_says() {
    // The length counts the compressed bytes, which are complete here.
    let gzip = bytes_of(POEMS[0].1);
    for (length, is_whole) in [(71, true), (70, false), (72, false), (10, false), (1000, false)] {
        let gzip = gzip.clone();
        let server = async move |mut stream: Stream| {
            while !stream.read_line().await?.unwrap_or_default().is_empty() {}
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n"
            );
            Ok(stream.write_all([head.as_bytes(), &gzip].concat()).await?)
        };
        scripted(server, async move |reactor| {
            let got = got(&Client::new(&reactor)).await;
            assert_eq!(got.is_ok(), is_whole, "{length}: {got:?}");
            Ok(())
        });
    }
}
