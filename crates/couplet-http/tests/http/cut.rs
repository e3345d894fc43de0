//! Truncated requests, and clients that close their sending side: a part never passes for a whole,
//! and a whole request is answered.

use std::convert::Infallible;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Bytes, Reactor, Result};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame as Part;

use crate::http2::*;
use crate::kit::{self, Got, any, beside, beside_service, ended, heard, opened, run};
use crate::needed::{Folder, SelfSigned};

const SECOND: Duration = Duration::from_secs(1);

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
fn c174a_c176b_an_upload_that_is_cut_is_an_error_of_http2() {
    let data = |flags| frame(DATA, flags, 1, b"12345");
    // In the static table, 28 is content-length: RFC 7541, 6.2.2.
    let length = |text: &str| [&[0x0f, 28 - 15, text.len() as u8], text.as_bytes()].concat();
    let cut = "the body was cut off: its stream ended without END_STREAM";
    for (name, fields, rest, ends, wanted) in [
        ("reset without an error", vec![], reset(1, NO_ERROR), false, Err(cut)),
        ("and short of its length", length("10"), reset(1, NO_ERROR), false, Err("")),
        ("and after its length", length("5"), reset(1, NO_ERROR), false, Err("")),
        ("reset", vec![], reset(1, CANCEL), false, Err("")),
        ("ended short of its length", length("11"), data(END_STREAM), false, Err("")),
        ("ended beyond its length", length("9"), data(END_STREAM), false, Err("")),
        ("whole", vec![], data(END_STREAM), false, Ok(10)),
        ("as long as its length", length("10"), data(END_STREAM), false, Ok(10)),
        ("half-closed", vec![], vec![], true, Err("")),
        ("half-closed and whole", vec![], data(END_STREAM), true, Ok(10)),
    ] {
        let sent = [hello(), post(1, "/a", &fields), data(0), rest].concat();
        let read = read_by_the_service(sent, ends);
        let is_right = match (&read[..], wanted) {
            ([Ok(length)], Ok(wanted)) => *length == wanted,
            ([Err(said)], Err(wanted)) => said.contains(wanted),
            _ => false,
        };
        assert!(is_right, "{name}: {read:?}");
    }
}

#[test]
fn c174a_each_upload_of_a_connection_that_ends_is_cut() {
    let mut sent = hello();
    // Of four uploads, one is whole.
    for (stream, flags) in [(1, 0), (3, 0), (5, END_STREAM), (7, 0)] {
        sent.extend(post(stream, "/a", b""));
        sent.extend(frame(DATA, flags, stream, b"12345"));
    }
    let read = read_by_the_service(sent, true);
    let cut = read.iter().filter(|read| read.is_err()).count();
    assert_eq!((read.len(), cut), (4, 3), "{read:?}");
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
            let (_, got) = begun(&reactor, get(1, path)).await?;
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
        let ended = stream.read_to_end(&mut Vec::new(), 1000).await;
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

#[test]
fn c58a_a_half_closed_connection_over_tls_is_answered() {
    let folder = Folder::new();
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    run(async move |reactor| {
        let answer = async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello over TLS")))
        };
        let endpoint = format!("tls:8000:interface=127.0.0.1:cert={file}");
        let port = reactor.serve_http(endpoint, any(tower::service_fn(answer)))?;
        for (alpn, asked) in
            [("http/1.1", kit::get("/a").into_bytes()), ("h2", [hello(), get(1, "/a")].concat())]
        {
            let to = format!("tls:127.0.0.1:8000:ca={file}:servername=localhost:alpn={alpn}");
            let mut stream = reactor.connect_stream(to).await?;
            stream.write_all(asked).await?;
            stream.shutdown().await?;
            let got = heard(&mut stream, &reactor, SECOND).await?;
            assert!(got.text().contains("hello over TLS") && got.is_closed, "{}", got.text());
        }
        ended(port, ()).await
    });
}
