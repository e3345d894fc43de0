//! The client against HTTP/2 servers that write frames by hand: truncated bodies, refused requests,
//! and connections that send GOAWAY.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::http::{BodyError, Client, ClientOptions, HttpError, Method, Request};
use couplet::{Reactor, Result, Stream};
use futures_util::future::{FutureExt, join_all};

use crate::client::{cancelled_after, connections, secs, text, to_the_end, trusted};
use crate::http2::{
    CANCEL, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NO_ERROR, REFUSED_STREAM, SETTINGS,
    frame, reset,
};
use crate::kit::{counter, ended, run};

const URL: &str = "https://localhost:8443/";
const INTERNAL_ERROR: u32 = 2;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A client's connection, frame by frame.
pub(crate) struct Wire {
    stream: Stream,
}

impl Wire {
    async fn new(mut stream: Stream) -> Result<Wire> {
        // The preface: RFC 9113, 3.4.
        stream.read_exact(&mut [0; 24]).await?;
        stream.write_all(frame(SETTINGS, 0, 0, b"")).await?;
        Ok(Wire { stream })
    }

    /// The next frame; settings are acknowledged. `None` if the client has closed.
    async fn frame(&mut self) -> Result<Option<(u8, u8, u32, Vec<u8>)>> {
        let mut head = [0; 9];
        if self.stream.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await?;
        if kind == SETTINGS && flags == 0 {
            self.send(&[frame(SETTINGS, 1, 0, b"")]).await?;
        }
        Ok(Some((kind, flags, u32::from_be_bytes(stream), payload)))
    }

    /// The stream of the next request, whose body may follow; `None` if the client has closed.
    async fn request(&mut self) -> Result<Option<u32>> {
        while let Some((kind, _, stream, _)) = self.frame().await? {
            if kind == HEADERS {
                return Ok(Some(stream));
            }
        }
        Ok(None)
    }

    /// The rest of the current request's body.
    async fn upload(&mut self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some((kind, flags, _, payload)) = self.frame().await? {
            if kind == DATA {
                whole.extend(payload);
                if flags & END_STREAM != 0 {
                    break;
                }
            }
        }
        Ok(whole)
    }

    async fn send(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        Ok(self.stream.write_all(frames.concat()).await?)
    }
}

/// The head of a 200 answer with this Content-Length, in HPACK (RFC 7541, 6).
fn head(stream: u32, length: Option<&str>) -> Vec<u8> {
    let length = length.map(|text| [&[0x0f, 0x0d, text.len() as u8], text.as_bytes()].concat());
    frame(HEADERS, END_HEADERS, stream, &[vec![0x88], length.unwrap_or_default()].concat())
}

fn data(stream: u32, text: &str) -> Vec<u8> {
    frame(DATA, 0, stream, text.as_bytes())
}

fn last(stream: u32, text: &str) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, text.as_bytes())
}

/// A GOAWAY whose last processed stream is `last`.
fn goodbye(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat())
}

/// Runs a client against a server that runs `server` on each connection.
fn framed(
    server: impl AsyncFn(Wire) -> Result<()> + 'static,
    program: impl AsyncFnOnce(Reactor, Client) -> Result<()> + 'static,
) {
    framed_with(|options| options, server, program);
}

/// Like [`framed`], with other options of the client.
fn framed_with(
    change: impl FnOnce(ClientOptions) -> ClientOptions + 'static,
    server: impl AsyncFn(Wire) -> Result<()> + 'static,
    program: impl AsyncFnOnce(Reactor, Client) -> Result<()> + 'static,
) {
    run(async move |reactor| {
        let (_folder, at, options) = trusted("h2");
        let server = Rc::new(server);
        let port = reactor
            .serve(&*at, async move |stream: Stream| server(Wire::new(stream).await?).await)?;
        let client = Client::with_options(&reactor, change(options));
        ended(port, program(reactor, client).await?).await
    });
}

async fn asked(client: &Client) -> Result<String> {
    text(client.get(URL).await?.into_body()).await
}

async fn sent(client: &Client, method: &Method) -> Result<String> {
    let request = Request::builder().method(method).uri(URL).body("a body")?;
    text(client.send(request).await?.into_body()).await
}

/// A server that answers each request with the frames that `answer` returns for its number, from 1,
/// and its stream; without any it closes. Also returns the count of requests.
fn answering(
    answer: impl Fn(usize, u32) -> Vec<Vec<u8>> + 'static,
) -> (Rc<Cell<usize>>, impl AsyncFn(Wire) -> Result<()> + 'static) {
    let (requests, count) = counter();
    let server = async move |mut wire: Wire| {
        while let Some(stream) = wire.request().await? {
            count.set(count.get() + 1);
            let frames = answer(count.get(), stream);
            if frames.is_empty() {
                break;
            }
            wire.send(&frames).await?;
        }
        Ok(())
    };
    (requests, server)
}

/// A server that resets each request with this code, and the count of requests.
fn resetting(code: u32) -> (Rc<Cell<usize>>, impl AsyncFn(Wire) -> Result<()> + 'static) {
    answering(move |_, stream| vec![reset(stream, code)])
}

#[test]
fn c176b_every_body_without_end_stream_is_cut_off() {
    // Each kind of end, with and without Content-Length, before the first byte of the body and
    // within it. Without a code: by a GOAWAY that leaves the stream out.
    for (length, sent, code) in [
        (None, "", Some(NO_ERROR)),
        (None, "half", Some(NO_ERROR)),
        (Some("8"), "half", Some(NO_ERROR)),
        (Some("4"), "half", Some(NO_ERROR)),
        (None, "half", Some(INTERNAL_ERROR)),
        (Some("8"), "half", Some(INTERNAL_ERROR)),
        (None, "half", None),
    ] {
        let (_, server) = answering(move |_, stream| {
            let end = code.map_or_else(|| goodbye(stream - 1), |code| reset(stream, code));
            vec![head(stream, length), data(stream, sent), end]
        });
        framed(server, async move |_, client| {
            let (got, end) = to_the_end(client.get(URL).await?.into_body()).await;
            assert_eq!(got, sent.as_bytes());
            let is_cut = match &end {
                Err(BodyError::Cut) => code != Some(INTERNAL_ERROR),
                Err(BodyError::Broken(_)) => code == Some(INTERNAL_ERROR),
                _ => false,
            };
            assert!(is_cut, "{length:?} {sent:?} {code:?}: {end:?}");
            Ok(())
        });
    }
}

#[test]
fn c176b_bytes_that_do_not_match_content_length_are_an_error() {
    for (length, sent) in [("3", "half"), ("5", "half"), ("0", "half"), ("1", "")] {
        let (_, server) =
            answering(move |_, stream| vec![head(stream, Some(length)), last(stream, sent)]);
        framed(server, async move |_, client| {
            let got = asked(&client).await;
            assert!(got.is_err(), "{length} for {sent:?}: {got:?}");
            Ok(())
        });
    }
}

#[cfg(feature = "decompression")]
#[test]
fn c176b_a_compressed_body_without_end_stream_is_cut() {
    use crate::decompression::{POEM, POEMS, bytes_of};
    for is_whole in [true, false] {
        let (_, server) = answering(move |_, stream| {
            let fields = [&[0x88, 0x0f, 0x0b, 4], &b"gzip"[..]].concat();
            let flags = if is_whole { END_STREAM } else { 0 };
            vec![
                frame(HEADERS, END_HEADERS, stream, &fields),
                frame(DATA, flags, stream, &bytes_of(POEMS[0].1)),
                reset(stream, NO_ERROR),
            ]
        });
        framed(server, async move |_, client| {
            let got = client.get(URL).await?.into_body().bytes(1000).await;
            match got {
                Ok(whole) => assert!(is_whole && whole == POEM, "{whole:?}"),
                Err(BodyError::Cut) => assert!(!is_whole),
                Err(error) => panic!("{error}"),
            }
            Ok(())
        });
    }
}

#[test]
fn c176b_a_whole_answer_may_stop_the_upload() {
    // RFC 9113, 8.1: the server does not want the rest of the request.
    let (_, server) = answering(|_, stream| {
        vec![head(stream, Some("5")), last(stream, "early"), reset(stream, NO_ERROR)]
    });
    framed(server, async |_, client| {
        for _ in 0..3 {
            // More than any window.
            let answer = client.send(Request::post(URL).body(vec![b'x'; 1 << 20])?).await?;
            assert_eq!(answer.into_body().bytes(100).await?, "early");
        }
        Ok(())
    });
}

#[test]
fn c176_a_refused_request_is_sent_again_once_after_a_pause() {
    for (pause, method) in [(None, Method::GET), (None, Method::POST), (Some(3), Method::POST)] {
        let (requests, server) = resetting(REFUSED_STREAM);
        let change = move |options: ClientOptions| match pause {
            Some(pause) => options.repeat_pause(secs(pause)),
            None => options,
        };
        framed_with(change, server, async move |reactor, client| {
            for n in 1..4 {
                let begun = reactor.now();
                let refused = sent(&client, &method).await.expect_err("each is refused");
                assert!(refused.to_string().contains("refused stream"), "{refused}");
                assert_eq!(requests.get(), 2 * n);
                let paused = pause.map_or(Duration::from_millis(100), secs);
                let took = reactor.now() - begun;
                assert!(took >= paused && took < paused + secs(1), "{took:?}");
            }
            Ok(())
        });
    }
}

#[test]
fn c176_a_repeated_request_has_its_whole_body() {
    let refuses_once = async |mut wire: Wire| {
        while let Some(first) = wire.request().await? {
            let body = wire.upload().await?;
            wire.send(&[reset(first, REFUSED_STREAM)]).await?;
            let Some(second) = wire.request().await? else { break };
            assert_eq!((&wire.upload().await?, &*body), (&body, &b"a body"[..]));
            wire.send(&[head(second, None), last(second, "done")]).await?;
        }
        Ok(())
    };
    framed(refuses_once, async |reactor, client| {
        for _ in 0..3 {
            assert_eq!(sent(&client, &Method::POST).await?, "done");
        }
        assert_eq!(connections(&reactor).await?, 1);
        Ok(())
    });
}

#[test]
fn c176_a_request_that_is_dropped_in_the_pause_is_not_sent_again() {
    let (requests, server) = resetting(REFUSED_STREAM);
    let change = |options: ClientOptions| options.timeout(Some(secs(5))).repeat_pause(secs(9));
    framed_with(change, server, async move |reactor, client| {
        let late = client.get(URL).await;
        assert!(matches!(late, Err(HttpError::TimedOut)), "{late:?}");
        reactor.sleep(secs(20)).await?;
        assert_eq!(requests.get(), 1);
        Ok(())
    });
}

#[test]
fn c176_a_request_that_was_reset_is_not_sent_again() {
    for code in [INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM, NO_ERROR] {
        let (requests, server) = resetting(code);
        framed(server, async move |reactor, client| {
            // The first request opens a connection, and the others reuse it.
            for n in 1..4 {
                let method = if n == 2 { Method::POST } else { Method::GET };
                sent(&client, &method).await.expect_err("it is reset");
                assert_eq!(requests.get(), n, "{code}");
            }
            assert_eq!(connections(&reactor).await?, 1, "the connection stays");
            Ok(())
        });
    }
}

#[test]
fn c176_a_request_above_goaway_is_sent_again_over_another_connection() {
    let (accepted, count) = counter();
    let goes_once = async move |mut wire: Wire| {
        count.set(count.get() + 1);
        let is_first = count.get() == 1;
        while let Some(stream) = wire.request().await? {
            let answer = vec![head(stream, None), last(stream, "done")];
            wire.send(&if is_first { vec![goodbye(0)] } else { answer }).await?;
        }
        Ok(())
    };
    framed(goes_once, async move |reactor, client| {
        assert_eq!(sent(&client, &Method::POST).await?, "done");
        assert_eq!(accepted.get(), 2);
        assert_eq!(connections(&reactor).await?, 1, "the first one is closed");
        Ok(())
    });
}

#[test]
fn the_end_of_an_old_connection_leaves_the_new_one_shared() {
    let (accepted, count) = counter();
    let leaves_once = async move |mut wire: Wire| {
        count.set(count.get() + 1);
        let is_first = count.get() == 1;
        while let Some(stream) = wire.request().await? {
            if is_first {
                wire.send(&[goodbye(stream)]).await?;
                wire.stream.transport().reactor().sleep(secs(5)).await?;
                break;
            }
            wire.send(&[head(stream, None), last(stream, "done")]).await?;
        }
        Ok(())
    };
    framed(leaves_once, async move |reactor, client| {
        let late = client.clone();
        let cut = reactor.spawn(async move { Ok(late.get(URL).await.is_err()) });
        reactor.sleep(secs(1)).await?;
        assert_eq!(asked(&client).await?, "done");
        assert!(cut.await?, "its connection has ended");
        assert_eq!(asked(&client).await?, "done");
        assert_eq!(accepted.get(), 2);
        Ok(())
    });
}

/// A server that answers the first request of each connection and closes at the second one, after a
/// GOAWAY that includes both if `goodbye_before`.
fn closes_at_the_second(
    goodbye_before: bool,
) -> (Rc<Cell<usize>>, impl AsyncFn(Wire) -> Result<()> + 'static) {
    let (requests, count) = counter();
    let server = async move |mut wire: Wire| {
        let Some(first) = wire.request().await? else { return Ok(()) };
        count.set(count.get() + 1);
        wire.send(&[head(first, None), last(first, "done")]).await?;
        let Some(second) = wire.request().await? else { return Ok(()) };
        count.set(count.get() + 1);
        if goodbye_before {
            wire.send(&[goodbye(second)]).await?;
        }
        Ok(())
    };
    (requests, server)
}

#[test]
fn c176_an_idempotent_request_survives_a_connection_that_was_just_closed() {
    for goodbye_before in [false, true] {
        let (requests, server) = closes_at_the_second(goodbye_before);
        framed(server, async move |_, client| {
            let mut expected = 0;
            for method in [Method::GET, Method::PUT, Method::DELETE] {
                assert_eq!(asked(&client).await?, "done");
                assert_eq!(sent(&client, &method).await?, "done");
                expected += 3;
                assert_eq!(requests.get(), expected);
                // The repeat's connection ends with its next request.
                sent(&client, &Method::POST).await.expect_err("it may have been processed");
                expected += 1;
                assert_eq!(requests.get(), expected, "{method} {goodbye_before}");
            }
            Ok(())
        });
    }
}

#[test]
fn c176_a_repeat_is_not_repeated() {
    // Answers only the first request, and closes at every later one.
    let (requests, server) = answering(|number, stream| match number {
        1 => vec![head(stream, None), last(stream, "done")],
        _ => vec![],
    });
    framed(server, async move |_, client| {
        assert_eq!(asked(&client).await?, "done");
        asked(&client).await.expect_err("two connections broke");
        assert_eq!(requests.get(), 3);
        asked(&client).await.expect_err("a new connection broke");
        assert_eq!(requests.get(), 4);
        Ok(())
    });
}

#[test]
fn c176_each_redirection_may_be_repeated_once() {
    let (requests, server) = answering(|number, stream| match number % 3 {
        1 => {
            // 302, and a location.
            let fields = [&[0x08, 3], &b"302"[..], &[0x0f, 0x1f, 1], b"/"].concat();
            vec![frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields)]
        }
        _ => vec![reset(stream, REFUSED_STREAM)],
    });
    framed(server, async move |_, client| {
        asked(&client).await.expect_err("it is refused");
        assert_eq!(requests.get(), 3);
        Ok(())
    });
}

/// A server that counts its connections, and ends every odd answer after the next one is complete.
fn lagging() -> (Rc<Cell<usize>>, impl AsyncFn(Wire) -> Result<()> + 'static) {
    let (accepted, count) = counter();
    let server = async move |mut wire: Wire| {
        count.set(count.get() + 1);
        while let Some(slow) = wire.request().await? {
            wire.send(&[head(slow, None), data(slow, "slow")]).await?;
            let Some(fast) = wire.request().await? else { break };
            wire.send(&[head(fast, None), last(fast, "fast"), last(slow, "")]).await?;
        }
        Ok(())
    };
    (accepted, server)
}

#[test]
fn c176a_an_idle_connection_of_http2_is_closed_after_its_keep_alive() {
    let (accepted, server) = lagging();
    framed_with(
        |options| options.keep_alive(secs(10)),
        server,
        async move |reactor, client| {
            let slow = client.get(URL).await?.into_body();
            // A connection is in use until its answers are complete.
            reactor.sleep(secs(50)).await?;
            assert_eq!(connections(&reactor).await?, 1);
            assert_eq!(asked(&client).await?, "fast");
            assert_eq!(text(slow).await?, "slow");
            reactor.sleep(secs(9)).await?;
            assert_eq!(connections(&reactor).await?, 1);
            // Another request restarts the time, at the end of its answer or at its drop.
            let slow = client.get(URL).await?.into_body();
            reactor.sleep(secs(9)).await?;
            drop(slow);
            reactor.sleep(secs(9)).await?;
            assert_eq!((connections(&reactor).await?, accepted.get()), (1, 1));
            reactor.sleep(secs(2)).await?;
            assert_eq!(connections(&reactor).await?, 0);
            // The next request opens a new connection.
            drop(client.get(URL).await?);
            assert_eq!(accepted.get(), 2);
            drop(client);
            assert_eq!(connections(&reactor).await?, 0, "the client is gone");
            Ok(())
        },
    );
}

#[test]
fn c176a_each_request_renews_the_keep_alive_of_a_shared_connection() {
    let (accepted, server) = prompt();
    let short = |options: ClientOptions| options.keep_alive(secs(10));
    framed_with(short, server, async move |reactor, client| {
        for _ in 0..4 {
            assert_eq!(asked(&client).await?, "done");
            reactor.sleep(secs(9)).await?;
            assert_eq!((connections(&reactor).await?, accepted.get()), (1, 1));
        }
        reactor.sleep(secs(2)).await?;
        assert_eq!(connections(&reactor).await?, 0);
        Ok(())
    });
}

#[test]
fn c176d_a_busy_connection_of_http2_gets_no_more_requests_at_its_age() {
    let (accepted, server) = lagging();
    let aging = |options: ClientOptions| options.max_age(Some(secs(30)));
    framed_with(aging, server, async move |reactor, client| {
        // Twice: the next connection has an age too.
        for round in 1..=2 {
            let slow = client.get(URL).await?.into_body();
            reactor.sleep(secs(29)).await?;
            assert_eq!(accepted.get(), round);
            reactor.sleep(secs(2)).await?;
            let next = client.get(URL).await?.into_body();
            assert_eq!((connections(&reactor).await?, accepted.get()), (2, round + 1));
            drop((slow, next));
            reactor.sleep(secs(100)).await?;
            assert_eq!(connections(&reactor).await?, 0, "its streams have ended");
            accepted.set(round);
        }
        Ok(())
    });
}

/// A server that answers immediately, and counts its connections.
fn prompt() -> (Rc<Cell<usize>>, impl AsyncFn(Wire) -> Result<()> + 'static) {
    let (accepted, count) = counter();
    let server = async move |mut wire: Wire| {
        count.set(count.get() + 1);
        while let Some(stream) = wire.request().await? {
            wire.send(&[head(stream, None), last(stream, "done")]).await?;
        }
        Ok(())
    };
    (accepted, server)
}

#[test]
fn c129b_a_request_that_is_cancelled_in_any_turn_leaves_the_shared_connection() {
    const TURNS: usize = 16;
    let (accepted, server) = prompt();
    framed_with(
        |options| options.keep_alive(secs(10)),
        server,
        async move |reactor, client| {
            assert_eq!(asked(&client).await?, "done");
            let mut answered = 0;
            for turns in 0..TURNS {
                answered += usize::from(cancelled_after(&reactor, &client, URL, turns).await?);
                assert_eq!(asked(&client).await?, "done");
            }
            assert!((1..TURNS).contains(&answered), "{answered}: in each part of a request");
            assert_eq!((connections(&reactor).await?, accepted.get()), (1, 1));
            reactor.sleep(secs(10)).await?;
            assert_eq!(connections(&reactor).await?, 0, "no request counts as in progress");
            Ok(())
        },
    );
}

#[test]
fn c176a_first_requests_that_come_together_share_a_connection() {
    let (accepted, server) = prompt();
    framed(server, async move |_, client| {
        let together = join_all((0..20).map(|_| asked(&client))).await;
        assert!(together.into_iter().all(|answer| answer.is_ok_and(|text| text == "done")));
        assert_eq!(accepted.get(), 1);
        Ok(())
    });
}

#[test]
fn c176a_the_next_request_connects_when_the_first_is_dropped() {
    let (accepted, server) = prompt();
    framed(server, async move |reactor, client| {
        let mut first = Box::pin(asked(&client));
        let mut others = join_all((0..5).map(|_| asked(&client)));
        assert!((&mut first).now_or_never().is_none() && (&mut others).now_or_never().is_none());
        drop(first);
        assert!(others.await.into_iter().all(|answer| answer.is_ok_and(|text| text == "done")));
        assert!((1..=2).contains(&accepted.get()), "{}", accepted.get());
        assert_eq!(connections(&reactor).await?, 1);
        Ok(())
    });
}
