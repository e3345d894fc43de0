//! Time limits, and the state of idle connections.

use std::convert::Infallible;
use std::time::Duration;

use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Reactor, hooks};
use http_body_util::Full;

use crate::http2::{DATA, END_STREAM, body, frame, frames, hello, post};
use crate::kit::{TO, beside, beside_service, get, heard, opened};

const HEAD: &str = "GET /a HTTP/1.1\r\nHost: a\r\n";

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn c172_a_slow_head_is_answered_with_408() {
    beside(HttpOptions::default().head_timeout(secs(20)), async |reactor| {
        // An occasional byte does not extend the limit. Half a preface of HTTP/2 is a head too.
        for (head, more) in [(HEAD, 9), ("PRI * HTTP/2.0\r\n", 0)] {
            let begun = reactor.now();
            let mut stream = opened(&reactor, head).await?;
            for _ in 0..more {
                reactor.sleep(secs(2)).await?;
                stream.write_all("x").await?;
            }
            let got = heard(&mut stream, &reactor, secs(60)).await?;
            assert!(got.is_closed && (head != HEAD || got.status() == Some(408)), "{head}");
            assert_eq!(reactor.now() - begun, secs(20), "{head}");
        }
        Ok(())
    });
}

#[test]
fn c172_each_head_of_a_connection_has_its_own_time() {
    beside(HttpOptions::default().head_timeout(secs(20)), async |reactor| {
        let mut stream = reactor.connect_stream(TO).await?;
        for _ in 0..3 {
            reactor.sleep(secs(15)).await?;
            stream.write_all(HEAD).await?;
            reactor.sleep(secs(15)).await?;
            stream.write_all("\r\n").await?;
            let got = heard(&mut stream, &reactor, secs(15)).await?;
            assert_eq!((got.status(), got.is_closed), (Some(200), false));
        }
        let begun = reactor.now();
        stream.write_all(HEAD).await?;
        let got = heard(&mut stream, &reactor, secs(60)).await?;
        assert_eq!((got.status(), got.is_closed), (Some(408), true));
        assert_eq!(reactor.now() - begun, secs(20));
        Ok(())
    });
}

#[test]
fn c172_a_connection_without_a_request_is_closed_in_silence() {
    beside(HttpOptions::default().keep_alive(secs(40)), async |reactor| {
        for first in [String::new(), get("/a"), get("/slow")] {
            let begun = reactor.now();
            let mut stream = opened(&reactor, &first).await?;
            let got = heard(&mut stream, &reactor, secs(60)).await?;
            assert_eq!(got.status().is_some(), !first.is_empty());
            assert!(got.is_closed && got.text().matches("HTTP/").count() < 2, "{}", got.text());
            let slow = if first.contains("slow") { secs(1) } else { secs(0) };
            assert_eq!(reactor.now() - begun, secs(40) + slow);
        }
        Ok(())
    });
}

#[test]
fn c174_a_body_that_stops_fails_where_it_is_read() {
    beside(HttpOptions::default().body_timeout(secs(20)), async |reactor| {
        let begun = reactor.now();
        let mut stream =
            opened(&reactor, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await?;
        // A slow body is fine as long as bytes arrive.
        for _ in 0..5 {
            reactor.sleep(secs(15)).await?;
            stream.write_all("x").await?;
        }
        let got = heard(&mut stream, &reactor, secs(60)).await?;
        assert!(got.text().contains("reading the body timed out"), "{}", got.text());
        let took = reactor.now() - begun;
        assert!(took >= secs(95) && took <= secs(115) && got.is_closed, "{took:?}");
        Ok(())
    });
}

#[test]
fn an_idle_connection_serves_later_requests() {
    beside(HttpOptions::default(), async |reactor| {
        let mut stream = reactor.connect_stream(TO).await?;
        for (pause, cut) in [(1, 0), (6, 0), (20, 5), (60, 30), (5, 1)] {
            let request = get("/a");
            stream.write_all(&request[..cut]).await?;
            reactor.sleep(secs(1)).await?;
            stream.write_all(&request[cut..]).await?;
            let got = heard(&mut stream, &reactor, secs(pause)).await?;
            assert!(got.text().ends_with("GET /a ") && !got.is_closed, "{pause}: {}", got.text());
        }
        Ok(())
    });
}

#[test]
fn half_a_head_that_waits_is_not_lost() {
    beside(HttpOptions::default(), async |reactor| {
        let mut stream = reactor.connect_stream(TO).await?;
        let second = get("/b");
        // The first half of the second request comes with the first one.
        stream.write_all(format!("{}{}", get("/a"), &second[..20])).await?;
        assert!(heard(&mut stream, &reactor, secs(10)).await?.text().ends_with("GET /a "));
        stream.write_all(&second[20..]).await?;
        assert!(heard(&mut stream, &reactor, secs(10)).await?.text().ends_with("GET /b "));
        Ok(())
    });
}

#[test]
fn the_date_of_an_answer_is_the_current_second() {
    beside(HttpOptions::default(), async |reactor| {
        let mut stream = reactor.connect_stream(TO).await?;
        for millis in [700, 400, 900, 100, 500, 800] {
            reactor.sleep(Duration::from_millis(millis)).await?;
            let now = httpdate::fmt_http_date(std::time::UNIX_EPOCH + hooks::unix_time(&reactor));
            stream.write_all(get("/a")).await?;
            let got = heard(&mut stream, &reactor, Duration::from_millis(10)).await?.text();
            assert!(got.contains(&format!("date: {now}\r\n")), "{now}: {got}");
        }
        Ok(())
    });
}

#[test]
fn a_drain_closes_idle_connections_at_once_and_waits_a_second_for_silent_ones() {
    // After 10 s the buffers of a request are free. Neither client answers the end of its stream.
    for (idle, most) in [(secs(10), secs(1)), (secs(1), secs(11) / 10)] {
        beside(HttpOptions::default(), async move |reactor| {
            let served = opened(&reactor, get("/a")).await?;
            reactor.sleep(idle).await?;
            let begun = reactor.now();
            let drained = reactor.drain(secs(100)).await?;
            assert_eq!((drained.finished, drained.closed + drained.aborted), (1, 0));
            assert!(reactor.now() - begun < most, "after {idle:?}");
            drop(served);
            Ok(())
        });
    }
}

#[test]
fn bodies_of_one_connection_that_stop_together_all_fail() {
    beside(HttpOptions::default().body_timeout(secs(20)), async |reactor| {
        let mut stream = opened(&reactor, hello()).await?;
        // Twice, beside an upload that continues.
        for first in [1, 9] {
            let uploads = [0, 2, 4, 6].map(|n| post(first + n, "/a", b"")).concat();
            stream.write_all(uploads).await?;
            let mut got = Vec::new();
            for _ in 0..30 {
                stream.write_all(frame(DATA, 0, first, b"x")).await?;
                got.extend(heard(&mut stream, &reactor, secs(2)).await?.bytes);
            }
            let got = frames(&got);
            for stopped in [2, 4, 6].map(|n| first + n) {
                assert_eq!(body(&got, stopped), "reading the body timed out", "{stopped}");
            }
            stream.write_all(frame(DATA, END_STREAM, first, b".")).await?;
            let got = frames(&heard(&mut stream, &reactor, secs(2)).await?.bytes);
            assert_eq!(body(&got, first), format!("POST /a {}.", "x".repeat(30)));
        }
        Ok(())
    });
}

/// Refuses each request, and reads no body.
async fn refuses(
    _: Reactor,
    _: Request<Body>,
) -> Result<Response<Full<couplet::Bytes>>, Infallible> {
    let mut response = Response::new(Full::from("no uploads here"));
    *response.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
    Ok(response)
}

const MUCH: usize = 20_000_000;
const PIECES: usize = 200;

fn upload() -> String {
    format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n")
}

/// RFC 9112, 9.6: the server keeps reading for a time, since a close with unread input would be a
/// reset, which destroys the answer.
#[test]
fn c15b_a_refusal_reaches_a_client_that_reads_after_its_upload() {
    for pause in [0, 100] {
        beside_service(HttpOptions::default(), refuses, async move |reactor| {
            let pause = Duration::from_millis(pause);
            let mut stream = opened(&reactor, upload()).await?;
            for _ in 0..PIECES {
                stream.write_all(vec![b'x'; MUCH / PIECES]).await?;
                reactor.sleep(pause).await?;
            }
            let got = heard(&mut stream, &reactor, secs(60)).await?;
            assert_eq!((got.status(), got.is_closed), (Some(405), true), "{pause:?}");
            assert!(got.text().ends_with("no uploads here"), "{}", got.text());
            Ok(())
        });
    }
}

#[test]
fn c15b_a_client_that_uploads_for_ever_is_cut_30_s_after_the_refusal() {
    beside_service(HttpOptions::default(), refuses, async |reactor| {
        let begun = reactor.now();
        let mut stream = opened(&reactor, upload()).await?;
        let mut sent = secs(0);
        while stream.write_all([b'x'; 1000]).await.is_ok() {
            reactor.sleep(secs(1)).await?;
            sent = reactor.now() - begun;
            assert!(sent < secs(60));
        }
        assert!((secs(30)..=secs(32)).contains(&sent), "{sent:?}");
        Ok(())
    });
}
