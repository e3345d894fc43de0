//! Answers in HTTP/1.1: their framing, and whether the connection stays open after them.

use std::convert::Infallible;
use std::time::Duration;

use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Bytes, Result};
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;

use crate::cases::bytes_of;
use crate::kit::{Got, TO, beside_service, heard, said};

/// Whether the connection stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Open,
    Closed,
}
use Then::{Closed, Open};

/// A section of RFC 9112 (or of RFC 9110 if so marked), a name, a request, its answer without its
/// date, and the state of the connection. `|` is CRLF.
type Row = (&'static str, &'static str, &'static str, &'static str, Then);

#[rustfmt::skip]
const ANSWERS: &[Row] = &[
    ("6.2", "a body has a length", "GET /a HTTP/1.1|Host: a||", "HTTP/1.1 200 OK|content-length: 5||hello", Open),
    ("6.2", "a length that the service gave", "GET /length HTTP/1.1|Host: a||", "HTTP/1.1 200 OK|content-length: 5||hello", Open),
    ("9110 9.3.2", "HEAD has the length of GET, and no body", "HEAD /a HTTP/1.1|Host: a||", "HTTP/1.1 200 OK|content-length: 5||", Open),
    ("9110 9.3.2", "HEAD of a stream has no body", "HEAD /stream HTTP/1.1|Host: a||", "HTTP/1.1 200 OK||", Open),
    ("7.1", "a stream comes in chunks",
        "GET /stream HTTP/1.1|Host: a||", "HTTP/1.1 200 OK|transfer-encoding: chunked||2|he|3|llo|0||", Open),
    ("6.1", "HTTP/1.0 gets no chunks", "GET /stream HTTP/1.0||", "HTTP/1.0 200 OK|connection: close||hello", Closed),
    ("6.1", "HTTP/1.0 gets no chunks, even kept alive",
        "GET /stream HTTP/1.0|Connection: keep-alive||", "HTTP/1.0 200 OK|connection: close||hello", Closed),
    ("6.2", "a service that frames twice", "GET /twice HTTP/1.1|Host: a||", "HTTP/1.1 500 Internal Server Error|content-length: 0||", Open),
    ("9110 8.6", "a service whose length is wrong",
        "GET /wrong HTTP/1.1|Host: a||", "HTTP/1.1 500 Internal Server Error|content-length: 0||", Open),
    ("9110 8.6", "a service whose length is no number",
        "GET /plus HTTP/1.1|Host: a||", "HTTP/1.1 500 Internal Server Error|content-length: 0||", Open),
    ("9110 8.6", "HEAD may have a length and no body", "HEAD /no-body HTTP/1.1|Host: a||", "HTTP/1.1 200 OK|content-length: 5||", Open),
    ("9110 15.3.5", "204 has no body", "GET /204 HTTP/1.1|Host: a||", "HTTP/1.1 204 No Content||", Open),
    ("9110 15.4.5", "304 has no body", "GET /304 HTTP/1.1|Host: a||", "HTTP/1.1 304 Not Modified||", Open),
    ("9110 8.6", "204 has no length", "GET /204-length HTTP/1.1|Host: a||", "HTTP/1.1 204 No Content||", Open),
    ("9110 8.6", "304 has no length", "GET /304-length HTTP/1.1|Host: a||", "HTTP/1.1 304 Not Modified||", Open),
    ("9110 9.3.6", "CONNECT has no body once it succeeds", "CONNECT a:443 HTTP/1.1|Host: a||", "HTTP/1.1 200 OK||", Closed),
    ("8", "a stream that is shorter than its length", "GET /short HTTP/1.1|Host: a||", "", Closed),
    ("6.2", "a stream that is longer than its length", "GET /long HTTP/1.1|Host: a||", "", Closed),
    ("9.6", "close is said when it is asked for",
        "GET /a HTTP/1.1|Host: a|Connection: close||", "HTTP/1.1 200 OK|connection: close|content-length: 5||hello", Closed),
    ("9.6", "close is done when the service says it",
        "GET /close HTTP/1.1|Host: a||", "HTTP/1.1 200 OK|connection: close|content-length: 5||hello", Closed),
    ("9.6", "close is said when a body is not read",
        "POST /a HTTP/1.1|Host: a|Transfer-Encoding: chunked||5|hello|0||",
        "HTTP/1.1 200 OK|connection: close|content-length: 5||hello", Closed),
    ("9.3", "HTTP/1.0 is kept alive",
        "GET /a HTTP/1.0|Connection: keep-alive||", "HTTP/1.0 200 OK|connection: keep-alive|content-length: 5||hello", Open),
    ("9110 7.8", "an unknown upgrade is ignored",
        "GET /a HTTP/1.1|Host: a|Connection: upgrade|Upgrade: x||", "HTTP/1.1 200 OK|content-length: 5||hello", Open),
    ("9110 10.1.1", "an expectation is met once the body is read",
        "POST /read HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 5||",
        "HTTP/1.1 100 Continue||", Open),
    ("9110 10.1.1", "an expectation is not met by a service that does not read",
        "POST /a HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 5||",
        "HTTP/1.1 200 OK|content-length: 5||hello", Closed),
    ("9110 10.1.1", "HTTP/1.0 expects nothing", "POST /read HTTP/1.0|Expect: 100-continue|Content-Length: 5||", "", Open),
    ("9110 10.1.1", "an expectation without a body is met",
        "POST /read HTTP/1.1|Host: a|Expect: 100-continue||", "HTTP/1.1 200 OK|content-length: 0||", Open),
    ("7.1.2", "trailers are sent to those who take them",
        "GET /trailers HTTP/1.1|Host: a|TE: trailers||",
        "HTTP/1.1 200 OK|trailer: x|transfer-encoding: chunked||5|hello|0|x: y||", Open),
    ("7.1.2", "trailers are not sent to others",
        "GET /trailers HTTP/1.1|Host: a||",
        "HTTP/1.1 200 OK|trailer: x|transfer-encoding: chunked||5|hello|0||", Open),
    ("9.6", "a refusal of hyper's", "GET /a HTTP/1.1|Host : a||", "HTTP/1.1 400 Bad Request|connection: close|content-length: 0||", Closed),
    ("9.6", "a refusal of ours", "GET /a HTTP/1.1||", "HTTP/1.1 400 Bad Request|connection: close|content-length: 0||", Closed),
    ("9.3", "answers follow one another",
        "HEAD /stream HTTP/1.1|Host: a||GET /204 HTTP/1.1|Host: a||GET /a HTTP/1.1|Host: a||",
        "HTTP/1.1 200 OK||HTTP/1.1 204 No Content||HTTP/1.1 200 OK|content-length: 5||hello", Open),
];

type Pieces = BoxBody<Bytes, Infallible>;

fn streamed(frames: Vec<Frame<Bytes>>) -> Pieces {
    StreamBody::new(stream::iter(frames.into_iter().map(Ok))).boxed()
}

/// A service with one path for each kind of answer.
async fn greet(request: Request<Body>) -> Result<Response<Pieces>, Infallible> {
    let whole = || Full::from("hello").boxed();
    let piece = || Frame::data(Bytes::from("hello"));
    let answer = Response::builder();
    let answer = match request.uri().path() {
        "/length" => answer.header("content-length", "5").body(whole()),
        "/wrong" => answer.header("content-length", "9").body(whole()),
        "/plus" => answer.header("content-length", "+5").body(whole()),
        "/no-body" => answer.header("content-length", "5").body(Full::default().boxed()),
        "/short" => answer.header("content-length", "9").body(streamed(vec![piece()])),
        "/long" => answer.header("content-length", "2").body(streamed(vec![piece()])),
        "/stream" => {
            answer.body(streamed(vec![Frame::data("he".into()), Frame::data("llo".into())]))
        }
        "/twice" => {
            let answer =
                answer.header("content-length", "9").header("transfer-encoding", "chunked");
            answer.body(streamed(vec![piece()]))
        }
        "/trailers" => {
            let fields = [("x", "y")].map(|(name, value)| {
                (name.parse().expect("a name"), value.parse().expect("a value"))
            });
            let trailers = Frame::trailers(fields.into_iter().collect());
            answer.header("trailer", "x").body(streamed(vec![piece(), trailers]))
        }
        "/204-length" => {
            answer.status(204).header("content-length", "5").body(Full::default().boxed())
        }
        "/304-length" => {
            answer.status(304).header("content-length", "5").body(Full::default().boxed())
        }
        "/204" => answer.status(204).body(whole()),
        "/304" => answer.status(304).body(whole()),
        "/close" => answer.header("connection", "close").body(whole()),
        "/read" => {
            let read = request.into_body().collect().await.map(|body| body.to_bytes());
            answer.body(Full::from(read.unwrap_or_default()).boxed())
        }
        _ => answer.body(whole()),
    };
    Ok(answer.expect("a valid answer"))
}

/// The text of answers without their dates. A service's answer must have one.
fn undated(got: &Got) -> String {
    let text = got.text();
    let (dates, rest): (Vec<_>, Vec<_>) =
        text.split_inclusive("\r\n").partition(|line| line.starts_with("date: "));
    let of_services = text.matches(" 200 OK").count() + text.matches(" 204 ").count();
    assert!(dates.len() >= of_services, "RFC 9110, 6.6.1: {text}");
    rest.concat()
}

#[test]
fn every_answer_is_framed_as_the_rfc_wants() {
    let answer = |_, request| greet(request);
    let wrong = beside_service(HttpOptions::default(), answer, async move |reactor| {
        let mut wrong = String::new();
        for (section, name, request, answer, then) in ANSWERS {
            let got = said(&reactor, bytes_of(request)).await?;
            let (text, expected) = (undated(&got), bytes_of(answer));
            if text.as_bytes() != expected || got.is_closed != (*then == Closed) {
                wrong += &format!("{section} {name}: {text:?}, closed: {}\n", got.is_closed);
            }
        }
        Ok(wrong)
    });
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_client_that_waits_for_100_gets_it_and_then_the_answer() {
    beside_service(
        HttpOptions::default(),
        |_, request| greet(request),
        async |reactor| {
            let mut stream = reactor.connect_stream(TO).await?;
            let second = Duration::from_secs(1);
            let head = "POST /read HTTP/1.1|Host: a|Expect: 100-continue|Content-Length: 5||";
            for _ in 0..3 {
                stream.write_all(bytes_of(head)).await?;
                let got = heard(&mut stream, &reactor, second).await?;
                assert_eq!(got.text(), "HTTP/1.1 100 Continue\r\n\r\n");
                stream.write_all("hello").await?;
                let got = heard(&mut stream, &reactor, second).await?;
                assert!(got.status() == Some(200) && got.text().ends_with("\r\n\r\nhello"));
                assert!(!got.is_closed);
            }
            Ok(())
        },
    );
}
