//! Truncated requests, and clients that close their sending side: a part never passes for a whole,
//! and a whole request is answered.

use std::convert::Infallible;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Bytes, Deferred, Reactor, Result};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame as Part;

use crate::http2::*;
use crate::kit::{self, Got, any, beside, beside_service, heard, opened, run};
use crate::needed::{Folder, SelfSigned};

const SECOND: Duration = Duration::from_secs(1);

/// An HTTP/2 POST with this Content-Length, as a literal without indexing (RFC 7541, 6.2.2).
fn post(stream: u32, length: Option<&str>) -> Vec<u8> {
    let mut block = fields("/a");
    // In the static table, 3 is POST and 28 is content-length.
    block[0] = 0x83;
    if let Some(length) = length {
        block.extend([0x0f, 28 - 15, length.len() as u8]);
        block.extend(length.as_bytes());
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// The service's result for each request: the length of the body, or the error that ended it.
fn read_by_the_service(sent: Vec<u8>, ends: bool) -> Vec<Result<usize, String>> {
    let (tell, told) = std::sync::mpsc::channel();
    let service = async move |_: Reactor, request: Request<Body>| {
        let read = request.into_body().collect().await;
        let read = read.map(|whole| whole.to_bytes().len()).map_err(|error| error.to_string());
        let _ = tell.clone().send(read);
        Ok(Response::new(Full::<Bytes>::from("read")))
    };
    beside_service(HttpOptions::default(), service, async move |reactor| {
        let mut stream = opened(&reactor, sent).await?;
        if ends {
            stream.shutdown().await?;
        }
        heard(&mut stream, &reactor, SECOND).await?;
        Ok(())
    });
    told.try_iter().collect()
}

#[test]
fn c174a_an_upload_that_is_cut_is_an_error_of_http2() {
    const CANCEL: u32 = 8;
    let data = |flags| frame(DATA, flags, 1, b"12345");
    let begun = |length| [hello(), post(1, length), data(0)].concat();
    for (name, rest, length) in [
        ("reset without an error", reset(1, 0), None),
        ("reset without an error, short of its length", reset(1, 0), Some("10")),
        ("reset without an error after its length", reset(1, 0), Some("5")),
        ("reset", reset(1, CANCEL), None),
        ("ended short of its length", data(END_STREAM), Some("11")),
        ("ended beyond its length", data(END_STREAM), Some("9")),
    ] {
        let read = read_by_the_service([begun(length), rest].concat(), false);
        assert!(matches!(&read[..], [Err(_)]), "{name}: {read:?}");
    }
    for length in [None, Some("10")] {
        let read = read_by_the_service([begun(length), data(END_STREAM)].concat(), false);
        assert_eq!(read, [Ok(10)], "{length:?}");
    }
}

#[test]
fn c174a_an_upload_that_is_cut_is_an_error_of_http1() {
    let head = "POST /a HTTP/1.1\r\nHost: a\r\n";
    for (sent, whole) in [
        ("Content-Length: 5\r\n\r\n12345", Ok(5)),
        ("Content-Length: 5\r\n\r\n1234", Err(())),
        ("Content-Length: 5\r\n\r\n", Err(())),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n", Ok(5)),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n", Err(())),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", Err(())),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n123", Err(())),
    ] {
        let read = read_by_the_service(format!("{head}{sent}").into_bytes(), true);
        let [read] = &read[..] else { panic!("{sent:?}: {read:?}") };
        assert_eq!(read.clone().map_err(drop), whole, "{sent:?}");
    }
}

#[test]
fn c174a_a_half_closed_upload_of_http2_is_an_error_unless_it_is_whole() {
    let begun = [hello(), post(1, None), frame(DATA, 0, 1, b"12345")].concat();
    let read = read_by_the_service(begun.clone(), true);
    assert!(matches!(&read[..], [Err(_)]), "{read:?}");
    let whole = [begun, frame(DATA, END_STREAM, 1, b"12345")].concat();
    assert_eq!(read_by_the_service(whole, true), [Ok(10)]);
}

/// `/N` declares 10 bytes and yields N, five at a time; `/old/N` declares no length, and fails
/// after N bytes.
async fn declared(
    _: Reactor,
    request: Request<Body>,
) -> Result<Response<BoxBody<Bytes, String>>, Infallible> {
    let path = request.uri().path();
    let (count, fails) = match path.strip_prefix("/old/") {
        Some(count) => (count, true),
        None => (&path[1..], false),
    };
    let count: usize = count.parse().expect("a number");
    let pieces = (0..count / 5).map(|_| Ok(Part::data(Bytes::from_static(b"12345"))));
    let failure = fails.then(|| Err("as it was asked to".to_owned()));
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(
        pieces.collect::<Vec<_>>().into_iter().chain(failure),
    ))));
    if !fails {
        answer.headers_mut().insert("content-length", 10.into());
    }
    Ok(answer)
}

#[test]
fn c174b_an_answer_that_does_not_fill_its_length_is_reset() {
    beside_service(HttpOptions::default(), declared, async |reactor| {
        for (path, is_whole) in [("/0", false), ("/5", false), ("/10", true), ("/15", false)] {
            let mut stream = opened(&reactor, [hello(), get(1, path)].concat()).await?;
            let got = frames(&heard(&mut stream, &reactor, SECOND).await?.bytes);
            let of =
                |flag| got.iter().any(|f| f.kind == DATA && f.stream == 1 && f.flags & flag != 0);
            let was_reset = got.iter().any(|f| f.kind == RST_STREAM && f.code() != Some(0));
            assert_eq!((of(END_STREAM), was_reset), (is_whole, !is_whole), "{path}: {got:?}");
        }
        Ok(())
    });
}

#[test]
fn c174b_an_answer_of_http1_that_does_not_fill_its_length_ends_its_connection() {
    beside_service(HttpOptions::default(), declared, async |reactor| {
        // hyper stops polling once the length is reached.
        for (path, is_whole) in [("/0", false), ("/5", false), ("/10", true), ("/15", true)] {
            let mut stream = opened(&reactor, kit::get(path)).await?;
            let got = heard(&mut stream, &reactor, SECOND).await?;
            let body = got.text().split("\r\n\r\n").nth(1).map_or(0, str::len);
            assert_eq!((body == 10, got.is_closed), (is_whole, !is_whole), "{path}: {got:?}");
        }
        Ok(())
    });
}

#[test]
fn c174b_a_broken_answer_whose_end_is_its_only_mark_is_reset() {
    beside_service(HttpOptions::default(), declared, async |reactor| {
        let mut stream = opened(&reactor, "GET /old/5 HTTP/1.0\r\n\r\n").await?;
        let mut buffer = [0; 1000];
        let ended = loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        assert!(ended.is_err(), "a part passes for a whole");
        Ok(())
    });
}

async fn half_closed(reactor: &Reactor, bytes: impl AsRef<[u8]>) -> Result<Got> {
    let mut stream = opened(reactor, bytes).await?;
    stream.shutdown().await?;
    heard(&mut stream, reactor, 10 * SECOND).await
}

#[test]
fn c58a_a_client_that_closes_its_sending_side_is_answered() {
    beside(HttpOptions::default(), async |reactor| {
        for path in ["/a", "/slow"] {
            let got = half_closed(&reactor, kit::get(path)).await?;
            assert_eq!((got.status(), got.is_closed), (Some(200), true), "{}", got.text());
            assert!(got.text().ends_with(&format!("GET {path} ")), "{}", got.text());
        }
        let post = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let many = [kit::get("/slow"), post.to_owned(), kit::get("/b")].concat();
        let text = half_closed(&reactor, many).await?.text();
        assert!(text.contains("POST /a abc") && text.ends_with("GET /b "), "{text}");
        Ok(())
    });
}

#[test]
fn c58a_a_half_closed_connection_of_http2_gets_the_answers_that_are_there() {
    // By default its other requests are cancelled.
    for (time, slow) in [(None, ""), (Some(10 * SECOND), "GET /slow ")] {
        let options = HttpOptions::default();
        let options = match time {
            Some(time) => options.http2_half_close_timeout(time),
            None => options,
        };
        beside(options, async move |reactor| {
            let asked = [hello(), get(1, "/slow"), get(3, "/b"), get(5, "/deaf")].concat();
            let got = half_closed(&reactor, asked).await?;
            let frames = frames(&got.bytes);
            let bodies = [1, 3, 5].map(|stream| body(&frames, stream));
            assert_eq!(bodies, [slow, "GET /b ", "not read"]);
            let is_reset = frames.iter().any(|frame| frame.kind == RST_STREAM && frame.stream == 1);
            assert_eq!(is_reset, slow.is_empty());
            assert!(got.is_closed);
            // Without a request, the server has no reason to wait.
            assert!(half_closed(&reactor, hello()).await?.is_closed);
            Ok(())
        });
    }
}

#[test]
fn c58a_half_a_head_is_not_answered_with_success() {
    beside(HttpOptions::default(), async |reactor| {
        for part in ["GET /a HT", "GET /a HTTP/1.1\r\nHost: a\r\n"] {
            let got = half_closed(&reactor, part).await?;
            assert!(got.is_closed && got.status() != Some(200), "{}", got.text());
        }
        Ok(())
    });
}

/// Whether the service was dropped before it answered, when the client leaves after a second.
fn is_cancelled(asked: Vec<u8>, leaves: fn(couplet::Stream)) -> bool {
    struct Dropped(std::rc::Rc<std::cell::Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let dropped = std::rc::Rc::<std::cell::Cell<bool>>::default();
    let noted = dropped.clone();
    let service = async move |reactor: Reactor, _: Request<Body>| {
        let _noted = Dropped(noted.clone());
        let _ = reactor.sleep(1000 * SECOND).await;
        Ok(Response::new(Full::<Bytes>::default()))
    };
    beside_service(HttpOptions::default(), service, async move |reactor| {
        let stream = opened(&reactor, asked).await?;
        reactor.sleep(SECOND).await?;
        leaves(stream);
        reactor.sleep(SECOND).await?;
        Ok(dropped.get())
    })
}

#[test]
fn c58a_a_reset_cancels_the_service() {
    for asked in [kit::get("/a").into_bytes(), [hello(), get(1, "/a")].concat()] {
        assert!(is_cancelled(asked, couplet::Stream::abort));
    }
}

#[test]
fn c58a_a_half_closed_connection_over_tls_is_answered() {
    let folder = Folder::new();
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    run(async move |reactor| {
        let hello = async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello over TLS")))
        };
        let endpoint = format!("tls:8000:interface=127.0.0.1:cert={file}");
        let port = reactor.serve_http(endpoint, any(tower::service_fn(hello)))?;
        for (alpn, asked) in [
            ("http/1.1", kit::get("/a").into_bytes()),
            ("h2", [crate::http2::hello(), get(1, "/a")].concat()),
        ] {
            let to = format!("tls:127.0.0.1:8000:ca={file}:servername=localhost:alpn={alpn}");
            let mut stream = reactor.connect_stream(to).await?;
            stream.write_all(asked).await?;
            stream.shutdown().await?;
            let got = heard(&mut stream, &reactor, SECOND).await?;
            assert!(got.text().contains("hello over TLS") && got.is_closed, "{}", got.text());
        }
        port.stop_listening().unwrap_or_else(|| Deferred::succeed(())).await
    });
}
