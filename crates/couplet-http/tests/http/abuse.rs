//! Clients that never stop sending, never read, or send nonsense: each is bounded, answered and
//! logged.

use std::time::Duration;

use couplet::http::HttpOptions;
use couplet::{Reactor, Result};
use tracing::Level;

use crate::cases::bytes_of;
use crate::counting::{live, peak, reset_peak};
use crate::http2;
use crate::kit::{Got, TO, beside, get, heard, opened, said};
use crate::logged::logged_at;

const SECOND: Duration = Duration::from_secs(1);

/// Runs a program with a server, and returns the log lines about connections, except their begin
/// and end.
fn told(program: impl AsyncFnOnce(Reactor) -> Result<()> + 'static) -> Vec<String> {
    let ((), lines) = logged_at(Level::DEBUG, || beside(HttpOptions::default(), program));
    let names_it = |line: &String| line.contains("connection=") && line.contains("peer=tcp:127.");
    let is_told = |line: &String| names_it(line) && !line.starts_with("message=connection ");
    lines.into_iter().filter(is_told).collect()
}

/// Writes a beginning, then one piece repeatedly until the server closes. Also returns the number
/// of bytes sent.
async fn endless(reactor: &Reactor, beginning: &str, piece: &str) -> Result<(Got, usize)> {
    let mut stream = reactor.connect_stream(TO).await?;
    let (mut next, piece) = (bytes_of(beginning), bytes_of(piece));
    let (mut got, mut sent) = (Got { bytes: Vec::new(), is_closed: false }, 0);
    while !got.is_closed {
        assert!(sent < 10_000_000, "there is a limit");
        sent += next.len();
        got.is_closed = stream.write_all(&next).await.is_err();
        let more = heard(&mut stream, reactor, SECOND / 10).await?;
        got.bytes.extend(more.bytes);
        got.is_closed |= more.is_closed;
        next.clone_from(&piece);
    }
    Ok((got, sent))
}

const CHUNKED: &str = "POST /a HTTP/1.1|Host: a|Transfer-Encoding: chunked||";

/// Endless input: its name, its beginning, the repeated piece, the status of the answer, and the
/// logged reason.
#[rustfmt::skip]
const ENDLESS: &[(&str, &str, &str, u16, &str)] = &[
    ("a value", "GET /a HTTP/1.1|Host: a|X: ", "«y*1000»", 431, "too large"),
    ("fields", "GET /a HTTP/1.1|Host: a|", "«X: y|*150»", 431, "too large"),
    ("a name", "GET /a HTTP/1.1|Host: a|", "«X*1000»", 431, "too large"),
    ("a method", "", "«M*1000»", 431, "too large"),
    ("a target", "GET /", "«a*1000»", 431, "too large"),
    ("empty lines", "", "«|*500»", 400, "invalid HTTP method"),
    ("empty lines of LF", "", "«\n*1000»", 400, "invalid HTTP method"),
    ("empty lines after a request", "GET /a HTTP/1.1|Host: a||", "«|*500»", 200, "invalid HTTP method"),
    ("an extension", "CHUNKED||5;", "«a*1000»", 400, "extensions over limit"),
    ("small extensions", "CHUNKED||", "«1;aaaaaaaaaa|h|*100»", 400, "extensions over limit"),
    ("zeros of a size", "CHUNKED||", "«0*1000»", 408, "its body timed out"),
    ("whitespace after a size", "CHUNKED||5", "« *1000»", 408, "its body timed out"),
    ("a trailer", "CHUNKED||0|X: ", "«y*1000»", 400, "trailers bytes over limit"),
    ("a trailer's name", "CHUNKED||0|", "«X*1000»", 400, "trailers bytes over limit"),
    ("trailers", "CHUNKED||0|", "«X: y|*100»", 400, "trailers count overflow"),
];

#[test]
fn c172_endless_input_is_cut_off_answered_and_logged() {
    for (name, beginning, piece, status, why) in ENDLESS {
        let beginning = beginning.replace("CHUNKED||", CHUNKED);
        let lines = told(async move |reactor| {
            said(&reactor, get("/a")).await?;
            let before = live();
            reset_peak();
            let (got, sent) = endless(&reactor, &beginning, piece).await?;
            assert_eq!(got.status(), Some(*status), "{name}: {}", got.text());
            let most = if why.contains("HTTP method") { 5000 } else { 700_000 };
            assert!(sent < most, "{name}: {sent} bytes were taken");
            let most = peak() - before;
            assert!(most < 400_000, "{name}: {most} bytes of memory");
            Ok(())
        });
        assert!(lines.len() == 1 && lines[0].contains(why), "{name}: {lines:?}");
    }
}

#[test]
fn empty_lines_before_each_request_of_a_connection_are_ignored() {
    beside(HttpOptions::default(), async |reactor| {
        let mut stream = reactor.connect_stream(TO).await?;
        for _ in 0..5 {
            stream.write_all(bytes_of("«|*500»")).await?;
            reactor.sleep(SECOND / 100).await?;
            stream.write_all(get("/a")).await?;
            let got = heard(&mut stream, &reactor, SECOND / 10).await?;
            assert_eq!((got.status(), got.is_closed), (Some(200), false), "{}", got.text());
        }
        Ok(())
    });
}

#[test]
fn a_body_of_empty_lines_is_a_body() {
    beside(HttpOptions::default(), async |reactor| {
        let mut stream =
            opened(&reactor, bytes_of("POST /a HTTP/1.1|Host: a|Content-Length: 5000||")).await?;
        for _ in 0..10 {
            stream.write_all("\n".repeat(500)).await?;
            reactor.sleep(SECOND).await?;
        }
        let got = heard(&mut stream, &reactor, SECOND).await?;
        assert_eq!(got.status(), Some(200));
        assert!(got.text().ends_with(&format!("POST /a {}", "\n".repeat(5000))));
        Ok(())
    });
}

#[test]
fn a_client_that_never_reads_is_aborted() {
    let ((), lines) = logged_at(Level::DEBUG, || {
        beside(HttpOptions::default(), async |reactor| {
            let mut stream = reactor.connect_stream(TO).await?;
            let (requests, before) = (get("/a").repeat(100), live());
            reset_peak();
            let mut sent = 0;
            while let Ok(Ok(())) =
                reactor.timeout(SECOND * 50, async { Ok(stream.write_all(&requests).await) }).await
            {
                sent += requests.len();
                assert!(sent < 10_000_000, "there is a limit");
            }
            assert!(peak() - before < 1_000_000, "{} bytes of memory", peak() - before);
            reactor.sleep(SECOND * 30).await?;
            let left = reactor.snapshot().await?.connections.len();
            assert!(left <= 1, "only the client's end is left");
            assert!(heard(&mut stream, &reactor, SECOND).await?.is_closed);
            Ok(())
        })
    });
    let is_told = lines.iter().any(|line| line.contains("took no output"));
    assert!(is_told, "{lines:?}");
}

#[test]
fn c171_ten_thousand_pipelined_requests_are_answered_in_order() {
    beside(HttpOptions::default(), async |reactor| {
        let requests: String = (0..10_000).map(|n| get(&format!("/{n}"))).collect();
        let before = live();
        reset_peak();
        let mut stream = reactor.connect_stream(TO).await?;
        stream.transport().write(requests);
        let got = heard(&mut stream, &reactor, SECOND).await?;
        let text = got.text();
        let bodies = text.split("\r\n\r\n").filter_map(|part| part.strip_prefix("GET /"));
        let numbers = bodies.map(|body| body.split(' ').next().and_then(|n| n.parse().ok()));
        assert!(numbers.eq((0..10_000).map(Some)) && !got.is_closed);
        // The peak includes the requests and the answers.
        let most = peak() - before - isize::try_from(2 * text.len()).expect("it is short");
        assert!(most < 2_000_000, "{most} bytes of memory");
        Ok(())
    });
}

const BROKEN: &[&str] = &[
    "GET /a|",
    "GET /a HTTP/1.1||",
    "G T /a HTTP/1.1|Host: a||",
    "GET /a HTTP/1.1|Host: a|Content-Length: -1||",
    "GET /a HTTP/1.1|Host : a||",
    "GET a:80 HTTP/1.1|Host: a||",
    "POST /a HTTP/1.1|Host: a|Transfer-Encoding: gzip||",
    "POST /a HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked||0||",
    "POST /a HTTP/1.1|Host: a|Transfer-Encoding: chunked||x|",
    "GET /a HTTP/1.1|Host: a|«X: y|*150»|",
];

#[test]
fn ten_thousand_broken_requests_leave_nothing() {
    beside(HttpOptions::default(), async |reactor| {
        let mut before = 0;
        for round in 0..1000 {
            for broken in BROKEN {
                let got = said(&reactor, bytes_of(broken)).await?;
                assert!(got.is_closed && got.status() >= Some(400), "{broken}: {}", got.text());
            }
            if round == 10 {
                before = live();
            }
        }
        let left = live() - before;
        assert!(left < 100_000, "{left} bytes are left");
        reactor.sleep(SECOND * 100).await?;
        assert!(reactor.snapshot().await?.connections.is_empty());
        Ok(())
    });
}

#[test]
fn each_broken_request_is_logged_once() {
    for broken in BROKEN {
        let lines = told(async move |reactor| said(&reactor, bytes_of(broken)).await.map(drop));
        assert_eq!(lines.len(), 1, "{broken}: {lines:?}");
    }
}

#[test]
fn each_fault_of_a_client_of_http2_is_logged_once_with_its_cause() {
    let slow = [1, 3].map(|id| http2::get(id, "/slow")).concat();
    for (sent, ends, why) in [
        (http2::frame(http2::PING, 0, 1, &[0; 8]), false, "a ping on a stream"),
        ([http2::window(0), http2::get(1, "/a")].concat(), false, "took no response bytes in time"),
        (slow, true, "its client has left"),
    ] {
        let lines = told(async move |reactor| {
            let mut stream = opened(&reactor, [http2::hello(), sent].concat()).await?;
            if ends {
                stream.shutdown().await?;
            }
            heard(&mut stream, &reactor, SECOND * 100).await.map(drop)
        });
        let count = lines.iter().filter(|line| line.contains(why)).count();
        assert_eq!(count, 1, "{why}: {lines:?}");
    }
}
