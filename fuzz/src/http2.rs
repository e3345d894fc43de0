//! HTTP/2: for any bytes of a client after its preface, the service sees the same requests, bodies
//! and errors however the bytes are cut.
//!
//! An input is a byte that chooses the cut, then the frames.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use couplet::http::{Body, Request, Response};
use couplet::http::{HttpExt, HttpOptions};
use couplet::{Reactor, Result};
use tower::service_fn;

use crate::streams::same_for_each_split;

pub(crate) const WORDS: &[&str] = &[
    "\u{0}\u{0}\u{3}\u{1}\u{5}\u{0}\u{0}\u{0}\u{1}",
    "\u{0}\u{0}\u{3}\u{1}\u{4}\u{0}\u{0}\u{0}\u{3}",
    "\u{0}\u{0}\u{5}\u{0}\u{1}\u{0}\u{0}\u{0}\u{3}",
    "\u{0}\u{0}\u{4}\u{3}\u{0}\u{0}\u{0}\u{0}\u{1}",
    "\u{0}\u{0}\u{6}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}",
    "\u{0}\u{0}\u{8}\u{6}\u{0}\u{0}\u{0}\u{0}\u{0}",
    "\u{0}\u{0}\u{4}\u{8}\u{0}\u{0}\u{0}\u{0}\u{0}",
    "\u{0}\u{0}\u{1}\u{9}\u{4}\u{0}\u{0}\u{0}\u{1}",
    "\u{0}\u{1}a\u{1}b",
    "@\u{1}a\u{1}b",
    "\u{f}\u{d}\u{1}5",
    "hello",
];

const AT: &str = "tcp:8000:interface=127.0.0.1";
const TO: &str = "tcp:127.0.0.1:8000";

/// The preface, and empty settings: RFC 9113, 3.4.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The bytes of a request for `/last`.
const LAST: &[u8] = b"\0\0\x0c\x01\x05\0\0\0\x01\x82\x86\x04\x05/last\x01\x01a";

/// The requests, and the results of their bodies.
type Seen = Rc<RefCell<Vec<String>>>;

/// Tries one input.
///
/// # Panics
///
/// If the cut changes the service's requests, bodies or errors, or another client is not served
/// afterwards.
pub fn http2(data: &[u8]) {
    let Some(([choice], frames)) = data.split_first_chunk() else { return };
    same_for_each_split(frames, *choice, |pieces| {
        served(pieces.iter().map(|piece| piece.to_vec()).collect())
    });
}

/// Answers after a second, so that no stream ends before all bytes have arrived.
async fn answer(reactor: Reactor, seen: Seen, request: Request<Body>) -> Response<String> {
    let at = seen.borrow().len();
    seen.borrow_mut().push(format!("{} {} ", request.method(), request.uri()));
    let read = match request.into_body().bytes(1 << 20).await {
        Ok(bytes) => format!("{bytes:?}"),
        Err(error) => error.to_string(),
    };
    seen.borrow_mut()[at].push_str(&read);
    let _ = reactor.sleep(Duration::from_secs(1)).await;
    Response::new(read)
}

fn served(pieces: Vec<Vec<u8>>) -> Vec<String> {
    let seen = Seen::default();
    let kept = seen.clone();
    let ran = couplet::testing::run(|reactor| {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            let serving = reactor.clone();
            let service = service_fn(move |request| {
                let answer = answer(serving.clone(), kept.clone(), request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            // A client that ends its side waits for its answer here, which comes a second later.
            let options = HttpOptions::default().http2_half_close_timeout(None);
            let port = reactor.serve_http_with(AT, service, options)?;
            poured(&reactor, &pieces).await?;
            let answered = poured(&reactor, &[LAST.to_vec()]).await?;
            assert!(answered.windows(2).any(|text| text == b"b\""), "another client is served");
            port.stop_listening().expect("it listens").await?;
            reactor.sleep(Duration::from_secs(1)).await
        })
    });
    ran.expect("the program succeeds");
    seen.take()
}

/// Writes the pieces and the end, and returns the output.
async fn poured(reactor: &Reactor, pieces: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut stream = reactor.connect_stream(TO).await?;
    stream.write_all(HELLO).await?;
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        reactor.sleep(Duration::from_micros(1)).await?;
    }
    let _ = stream.shutdown().await;
    let mut output = Vec::new();
    let _ = stream.read_to_end(&mut output, 1 << 20).await;
    Ok(output)
}
