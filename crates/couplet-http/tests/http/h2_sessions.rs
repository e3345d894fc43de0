//! Concurrent requests of one HTTP/2 connection: panics, windows, 100 (Continue) and tunnels.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Bytes, Reactor};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame as Part;
use hyper::rt::{Read, ReadBuf, Write};

use crate::http2::*;
use crate::kit::{beside, beside_service, heard, opened, twice};

const SECOND: Duration = Duration::from_secs(1);

/// A body that panics when it is polled, or when it is dropped.
struct Panicking {
    polled: bool,
}

impl hyper::body::Body for Panicking {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Part<Bytes>, Infallible>>> {
        assert!(!self.polled, "as it was asked to");
        Poll::Ready(Some(Ok(Part::data(Bytes::from_static(b"part")))))
    }
}

impl Drop for Panicking {
    fn drop(&mut self) {
        assert!(self.polled, "as it was asked to");
    }
}

async fn panics(
    reactor: Reactor,
    request: Request<Body>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    struct DropPanics;
    impl Drop for DropPanics {
        fn drop(&mut self) {
            panic!("as it was asked to");
        }
    }
    Ok(Response::new(match request.uri().path() {
        "/poll" => Panicking { polled: true }.boxed(),
        "/drop" => Panicking { polled: false }.boxed(),
        "/future" => {
            let _panics = DropPanics;
            let _ = reactor.sleep(1000 * SECOND).await;
            Full::default().boxed()
        }
        _ => {
            let _ = reactor.sleep(SECOND).await;
            Full::from("fine").boxed()
        }
    }))
}

#[test]
fn a_panic_resets_only_its_stream() {
    beside_service(HttpOptions::default(), panics, async |reactor| {
        let resets = [3, 5, 7].map(|stream| reset(stream, CANCEL)).concat();
        let asked = [get(1, "/fine"), get(3, "/poll"), get(5, "/drop"), get(7, "/future")].concat();
        let (mut stream, got) = begun(&reactor, [asked, resets].concat()).await?;
        assert_eq!(body(&got, 1), "fine");
        let got = more(&mut stream, &reactor, get(9, "/poll")).await?;
        let codes: Vec<_> = got.iter().filter(|it| it.stream == 9).map(Frame::code).collect();
        assert_eq!(codes, [None, Some(2)], "INTERNAL_ERROR follows the head");
        Ok(())
    });
}

#[test]
fn an_answer_that_panics_fails_the_body_that_another_task_reads() {
    let (failed, noted) = twice(Rc::<RefCell<Option<String>>>::default());
    let service = async move |reactor: Reactor, request: Request<Body>| {
        let noted = noted.clone();
        let reading = async move {
            let error = request.into_body().bytes(1000).await.expect_err("its stream is reset");
            *noted.borrow_mut() = Some(error.to_string());
            Ok(())
        };
        reactor.spawn(reading).detach();
        let _ = reactor.sleep(SECOND).await;
        Ok(Response::new(Panicking { polled: true }))
    };
    beside_service(HttpOptions::default(), service, async move |reactor| {
        let (_stream, got) = begun(&reactor, post(1, "/a", b"")).await?;
        assert_eq!(got.iter().find_map(Frame::code), Some(2), "INTERNAL_ERROR");
        assert_eq!(failed.take().as_deref(), Some("the stream was reset with INTERNAL_ERROR"));
        Ok(())
    });
}

#[test]
fn bodies_that_are_not_read_give_the_connections_window_back() {
    // The answer ends the request, or the client resets the request before it is read.
    for (path, reset) in [("/deaf", false), ("/slow", true)] {
        beside(HttpOptions::default().connection_window(1 << 20), async move |reactor| {
            let mut stream = opened(&reactor, hello()).await?;
            let mut increments = 0;
            // 6 MB, in a window of 1 MiB.
            for n in 0..100 {
                let id = 2 * n + 1;
                let mut sent = post(id, path, b"");
                sent.extend(frame(DATA, 0, id, &[0; 15_000]).repeat(4));
                if reset {
                    sent.extend(crate::http2::reset(id, CANCEL));
                }
                stream.write_all(sent).await?;
                let got = heard(&mut stream, &reactor, SECOND).await?;
                assert!(!got.is_closed, "{path}: after {n} requests");
                let got = frames(&got.bytes);
                assert_eq!(body(&got, id), if reset { "" } else { "not read" });
                let is_told = got.iter().any(|it| it.code() == Some(NO_ERROR));
                assert_eq!(is_told, !reset, "the rest is not needed");
                let updates = got.iter().filter(|it| it.kind == WINDOW_UPDATE && it.stream == 0);
                increments += updates.count();
            }
            assert!(increments >= 10, "{path}: {increments}");
            Ok(())
        });
    }
}

/// Announced windows: the setting of a stream's first, and the first update of the connection's.
#[test]
fn c175c_windows_are_announced_as_they_are_set() {
    let largest = i32::MAX as u32;
    for (stream_window, connection_window, announced) in [
        (256 * 1024, 4 * 1024 * 1024, (16 * 1024, Some(4 * 1024 * 1024 - 65_535))),
        (0, 0, (0, None)),
        (1000, 65_535, (1000, None)),
        (2000, 65_535, (1024, None)),
        (u32::MAX, u32::MAX, (largest / 2 / 128, Some(largest - 65_535))),
    ] {
        let options = HttpOptions::default();
        let options = options.stream_window(stream_window).connection_window(connection_window);
        beside(options, async move |reactor| {
            let mut stream = opened(&reactor, hello()).await?;
            let got = frames(&heard(&mut stream, &reactor, SECOND).await?.bytes);
            let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
            let settings = got.iter().find(|it| it.kind == SETTINGS).expect("settings");
            let window = settings.payload.chunks(6).find(|entry| entry[..2] == [0, 4]);
            let update = got.iter().find(|it| it.kind == WINDOW_UPDATE);
            let seen = (
                window.map(|entry| number(&entry[2..])).expect("a window"),
                update.map(|it| number(&it.payload)),
            );
            assert_eq!(seen, announced);
            Ok(())
        });
    }
}

#[test]
fn c174e_a_status_below_200_is_answered_with_500() {
    let service = async |_: Reactor, request: Request<Body>| {
        let mut answer = Response::new(Full::<Bytes>::from("a body"));
        let status = request.uri().path().trim_start_matches('/').parse();
        *answer.status_mut() = status.unwrap_or(hyper::StatusCode::PROCESSING);
        Ok(answer)
    };
    beside_service(HttpOptions::default(), service, async |reactor| {
        let paths = ["/100", "/101", "/102", "/103", "/199"];
        let asked = paths.iter().zip(0..).map(|(path, n)| get(2 * n + 1, path));
        let asked = [asked.collect::<Vec<_>>().concat(), connect(11, "a:1")].concat();
        let (_stream, got) = begun(&reactor, [asked, get(13, "/200")].concat()).await?;
        for id in [1, 3, 5, 7, 9, 11] {
            let answer: Vec<&Frame> = got.iter().filter(|it| it.stream == id).collect();
            // 500, from HPACK's static table; in the first block behind a change of the table.
            assert!(answer[0].payload[..2].contains(&0x8e), "{id}: {answer:?}");
            assert_eq!(
                (answer[0].kind, answer[0].flags & END_STREAM),
                (HEADERS, END_STREAM),
                "{id}"
            );
        }
        assert_eq!(body(&got, 13), "a body");
        Ok(())
    });
}

/// `expect: 100-continue`, as a literal by its index in the static table.
fn expects_100() -> Vec<u8> {
    [&[0x0f, 35 - 15, 12], &b"100-continue"[..]].concat()
}

#[test]
fn bodies_of_requests_with_too_large_a_head_give_the_connections_window_back() {
    beside(HttpOptions::default().max_head(1000).connection_window(1 << 20), async |reactor| {
        // A field of 2000 bytes: RFC 7541, 6.2.2.
        let long = [&[0, 1, b'x', 0x7f, 0xd1, 0x0e], &[b'y'; 2000][..]].concat();
        let mut stream = opened(&reactor, hello()).await?;
        let mut increments = 0;
        // 3 MB, in a window of 1 MiB.
        for n in 0..50 {
            let data = frame(DATA, 0, 2 * n + 1, &[0; 15_000]).repeat(4);
            stream.write_all([post(2 * n + 1, "/a", &long), data].concat()).await?;
            let got = heard(&mut stream, &reactor, SECOND).await?;
            assert!(!got.is_closed, "after {n} requests");
            let got = frames(&got.bytes);
            assert!(got.iter().any(|it| it.kind == HEADERS && it.stream == 2 * n + 1));
            let updates = got.iter().filter(|it| it.kind == WINDOW_UPDATE && it.stream == 0);
            increments += updates.count();
        }
        assert!(increments >= 5, "{increments}");
        Ok(())
    });
}

#[test]
fn a_body_that_is_awaited_is_asked_for_by_100() {
    beside(HttpOptions::default(), async |reactor| {
        for (path, is_asked) in [("/a", true), ("/deaf", false)] {
            let (mut stream, got) = begun(&reactor, post(1, path, &expects_100())).await?;
            let head = got.iter().find(|it| it.kind == HEADERS).expect("an answer");
            let is_100 = head.payload.ends_with(b"100");
            assert_eq!((is_100, head.flags & END_STREAM), (is_asked, 0), "{path}");
            if is_asked {
                let got = more(&mut stream, &reactor, frame(DATA, END_STREAM, 1, b"hello")).await?;
                assert_eq!(body(&got, 1), "POST /a hello");
            }
        }
        Ok(())
    });
}

/// Between the rounds, the connection frees its memory.
#[test]
fn an_idle_connection_serves_as_many_requests_again() {
    beside(HttpOptions::default(), async |reactor| {
        let mut stream = opened(&reactor, hello()).await?;
        let mut next = 1;
        for count in [3, 10, 3, 10, 10] {
            let ids: Vec<u32> = (0..count).map(|n| next + 2 * n).collect();
            next += 2 * count;
            let asked: Vec<u8> = ids.iter().flat_map(|id| get(*id, "/slow")).collect();
            let got = more(&mut stream, &reactor, asked).await?;
            assert!(ids.iter().all(|id| body(&got, *id) == "GET /slow "), "{count}: {got:?}");
        }
        Ok(())
    });
}

#[test]
fn each_body_that_is_awaited_is_asked_for_once() {
    beside(HttpOptions::default(), async |reactor| {
        let asked = [1, 3].map(|id| post(id, "/a", &expects_100())).concat();
        let (mut stream, got) = begun(&reactor, asked).await?;
        let heads = |got: &[Frame]| {
            let heads = got.iter().filter(|it| it.kind == HEADERS);
            heads.map(|it| it.stream).collect::<Vec<_>>()
        };
        assert_eq!(heads(&got), [1, 3]);
        for part in [&b"one "[..], b"two "] {
            let parts = [1, 3].map(|id| frame(DATA, 0, id, part)).concat();
            assert_eq!(heads(&more(&mut stream, &reactor, parts).await?), [0; 0]);
        }
        let ends = [1, 3].map(|id| frame(DATA, END_STREAM, id, b"end")).concat();
        let got = more(&mut stream, &reactor, ends).await?;
        assert_eq!([1, 3].map(|id| body(&got, id)), ["POST /a one two end"; 2]);
        Ok(())
    });
}

#[test]
fn a_setting_of_the_windows_holds_for_each_response() {
    let service = async |_: Reactor, _: Request<Body>| {
        Ok(Response::new(Full::<Bytes>::from(vec![b'x'; 100_000])))
    };
    beside_service(HttpOptions::default(), service, async |reactor| {
        const STREAMS: [u32; 3] = [1, 3, 5];
        let asked = [window(30), STREAMS.map(|id| get(id, "/")).concat()].concat();
        let (mut stream, got) = begun(&reactor, asked).await?;
        assert_eq!(STREAMS.map(|id| body(&got, id).len()), [30; 3]);
        for (size, count) in [(10, 0), (40, 10), (60, 20)] {
            let got = more(&mut stream, &reactor, window(size)).await?;
            assert_eq!(STREAMS.map(|id| body(&got, id).len()), [count; 3], "{size}");
        }
        Ok(())
    });
}

#[test]
fn no_100_follows_the_head_of_the_answer() {
    let echo = async |_: Reactor, request: Request<Body>| Ok(Response::new(request.into_body()));
    beside_service(HttpOptions::default(), echo, async |reactor| {
        let (mut stream, got) = begun(&reactor, post(1, "/a", &expects_100())).await?;
        assert_eq!(got.iter().filter(|it| it.kind == HEADERS).count(), 1, "{got:?}");
        // The head is a sign that the body is welcome.
        let got = more(&mut stream, &reactor, frame(DATA, END_STREAM, 1, b"hello")).await?;
        assert_eq!(body(&got, 1), "hello");
        Ok(())
    });
}

/// Copies a tunnel's bytes back, and notes its end.
async fn tunnels(
    reactor: Reactor,
    mut request: Request<Body>,
    ends: Rc<RefCell<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut answer = Response::new(Full::default());
    if request.uri().host() == Some("refused") {
        *answer.status_mut() = hyper::StatusCode::FORBIDDEN;
    }
    let upgrading = hyper::upgrade::on(&mut request);
    let echoing = async move {
        let mut io = match upgrading.await {
            Ok(io) => io,
            Err(error) => {
                ends.borrow_mut().push(error.to_string());
                return Ok(());
            }
        };
        loop {
            let mut room = [0; 1000];
            let mut buffer = ReadBuf::new(&mut room);
            let read =
                std::future::poll_fn(|cx| Pin::new(&mut io).poll_read(cx, buffer.unfilled())).await;
            let mut rest = buffer.filled();
            if rest.is_empty() {
                ends.borrow_mut().push(format!("{:?}", read.map_err(|error| error.to_string())));
                std::future::poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await?;
                return Ok(());
            }
            while !rest.is_empty() {
                let n = std::future::poll_fn(|cx| Pin::new(&mut io).poll_write(cx, rest)).await?;
                rest = &rest[n..];
            }
        }
    };
    reactor.spawn(echoing).detach();
    Ok(answer)
}

fn connect(stream: u32, host: &str) -> Vec<u8> {
    let method = [&[0x02, 7], &b"CONNECT"[..]].concat();
    let fields = [&method[..], &[0x01, host.len() as u8], host.as_bytes()].concat();
    frame(HEADERS, END_HEADERS, stream, &fields)
}

#[test]
fn the_writer_of_a_tunnel_fails_when_its_connection_is_lost() {
    let (has_failed, failing) = twice(Rc::<Cell<bool>>::default());
    let service = async move |reactor: Reactor, mut request: Request<Body>| {
        let (upgrading, failed) = (hyper::upgrade::on(&mut request), failing.clone());
        let writing = async move {
            let mut io = upgrading.await?;
            let piece = [0; 1000];
            while let Ok(n) =
                std::future::poll_fn(|cx| Pin::new(&mut io).poll_write(cx, &piece)).await
            {
                assert_ne!(n, 0);
            }
            failed.set(true);
            Ok(())
        };
        reactor.spawn(writing).detach();
        Ok(Response::new(Full::<Bytes>::default()))
    };
    beside_service(HttpOptions::default(), service, async move |reactor| {
        let (stream, got) = begun(&reactor, connect(1, "a:1")).await?;
        assert_eq!(body(&got, 1).len(), 65_535, "it waits for the client's window");
        assert!(!has_failed.get());
        stream.abort();
        reactor.sleep(SECOND).await?;
        assert!(has_failed.get(), "it waits for ever");
        Ok(())
    });
}

#[test]
fn all_tasks_of_a_connection_see_its_loss() {
    let (seen, noting) = twice(Rc::<Cell<[usize; 2]>>::default());
    let service = async move |reactor: Reactor, mut request: Request<Body>| {
        let (noting, is_tunnel) = (noting.clone(), request.method() == hyper::Method::CONNECT);
        let upgrading = hyper::upgrade::on(&mut request);
        let task = async move {
            if is_tunnel {
                let mut io = upgrading.await?;
                let mut write = async || {
                    std::future::poll_fn(|cx| Pin::new(&mut io).poll_write(cx, &[0; 1000])).await
                };
                while write().await.is_ok() {}
            } else {
                assert!(request.into_body().bytes(1000).await.is_err(), "it is cut");
            }
            let [bodies, tunnels] = noting.get();
            let [more_bodies, more_tunnels] = if is_tunnel { [0, 1] } else { [1, 0] };
            noting.set([bodies + more_bodies, tunnels + more_tunnels]);
            Ok(())
        };
        reactor.spawn(task).detach();
        if !is_tunnel {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Full::<Bytes>::default()))
    };
    beside_service(HttpOptions::default(), service, async move |reactor| {
        let tunnels = [1, 3, 5].map(|id| connect(id, "a:1")).concat();
        let bodies = [7, 9, 11].map(|id| [post(id, "/", b""), frame(DATA, 0, id, b"a")].concat());
        let (stream, _) = begun(&reactor, [tunnels, bodies.concat()].concat()).await?;
        assert_eq!(seen.get(), [0, 0]);
        stream.abort();
        reactor.sleep(SECOND).await?;
        assert_eq!(seen.get(), [3, 3]);
        Ok(())
    });
}

#[test]
fn a_connect_is_a_tunnel_of_hypers() {
    let (ends, noted) = twice(Rc::<RefCell<Vec<String>>>::default());
    let service = async move |reactor, request| tunnels(reactor, request, noted.clone()).await;
    beside_service(HttpOptions::default(), service, async move |reactor| {
        let mut stream = opened(&reactor, [hello(), connect(1, "a:1")].concat()).await?;
        let mut sent = String::new();
        for n in 0..1000 {
            let part = format!("{n} ").repeat(8);
            stream.write_all(frame(DATA, 0, 1, part.as_bytes())).await?;
            sent.push_str(&part);
        }
        let got = more(&mut stream, &reactor, frame(DATA, END_STREAM, 1, b"end")).await?;
        assert_eq!(body(&got, 1), sent + "end");
        assert!(got.iter().any(|it| it.kind == DATA && it.flags & END_STREAM != 0));
        // A reset, and a refusal.
        let asked = [connect(3, "a:1"), reset(3, CANCEL), connect(5, "refused:1")].concat();
        let got = more(&mut stream, &reactor, asked).await?;
        let refused = got.iter().find(|it| it.kind == HEADERS && it.stream == 5);
        assert_eq!(refused.map(|it| it.flags & END_STREAM), Some(END_STREAM));
        Ok(())
    });
    let ends = ends.take();
    assert_eq!(ends[0], "Ok(())");
    assert!(ends.len() == 3 && ends[1..].iter().all(|end| !end.starts_with("Ok")), "{ends:?}");
}

#[test]
fn a_tunnel_that_is_shut_down_sends_all_as_the_window_of_its_connection_opens() {
    const WINDOW: usize = 65_535;
    // Bytes of the window that another response leaves.
    for left in [0, 10] {
        let service = async move |reactor, request: Request<Body>| {
            if request.method() == hyper::Method::CONNECT {
                return tunnels(reactor, request, Rc::default()).await;
            }
            Ok(Response::new(Full::from(vec![b'x'; WINDOW - left])))
        };
        beside_service(HttpOptions::default(), service, async move |reactor| {
            let asked = [hello(), connect(1, "a:1"), get(3, "/")].concat();
            let mut stream = opened(&reactor, asked).await?;
            let got = frames(&heard(&mut stream, &reactor, SECOND).await?.bytes);
            assert_eq!(body(&got, 3).len(), WINDOW - left);
            let sent = "0123456789".repeat(10);
            let mut input = frame(DATA, END_STREAM, 1, sent.as_bytes());
            let mut echoed = String::new();
            for room in [10 - left as u32, 10, 79, 1] {
                if room > 0 {
                    input.extend(update(0, room));
                }
                let got = more(&mut stream, &reactor, std::mem::take(&mut input)).await?;
                echoed += &body(&got, 1);
                let is_end =
                    |it: &Frame| (it.kind, it.stream) == (DATA, 1) && it.flags & END_STREAM != 0;
                let has_ended = got.iter().any(is_end);
                assert!(!has_ended || echoed.len() == 100, "{left}: ends after {}", echoed.len());
            }
            assert_eq!(echoed, sent, "{left}");
            Ok(())
        });
    }
}
