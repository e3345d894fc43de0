//! Requests and their answers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use axum::Router;
use couplet::http::HttpExt;
use couplet::http::{Body, HttpOptions, Peer, Request, Response};
use couplet::{Bytes, Failure, Loop, Reactor, Remote, Result};
use http_body_util::Full;

use crate::http2;
use crate::kit::{AT, any, beside, beside_service, ended, get, heard, opened, run, said};
use crate::logged::logged;

#[test]
fn requests_of_a_connection_are_answered_in_turn() {
    beside(HttpOptions::default(), async |reactor| {
        let got = said(&reactor, [get("/slow"), get("/b"), get("/c")].concat()).await?;
        let text = got.text();
        let bodies: Vec<&str> = ["GET /slow ", "GET /b ", "GET /c "].to_vec();
        let places: Vec<_> = bodies.iter().map(|body| text.find(body)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
        assert!(text.contains("date: ") && !got.is_closed, "{text}");
        Ok(())
    });
}

#[test]
fn a_panic_is_answered_and_costs_nothing_else() {
    beside(HttpOptions::default(), async |reactor| {
        let got = said(&reactor, [get("/panic"), get("/after")].concat()).await?;
        assert_eq!(got.status(), Some(500));
        assert!(got.text().ends_with("GET /after "), "{}", got.text());
        Ok(())
    });
}

#[test]
fn a_service_can_know_its_client() {
    let told = async |_: Reactor, request: Request<Body>| {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_string());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(peer.unwrap_or_default())))
    };
    for knows in [true, false] {
        beside_service(HttpOptions::default().peer(knows), told, async move |reactor| {
            let mut stream = opened(&reactor, get("/")).await?;
            let got = heard(&mut stream, &reactor, Duration::from_secs(1)).await?;
            let host = stream.host().to_string();
            assert_eq!(got.text().ends_with(&format!("\r\n\r\n{host}")), knows, "{}", got.text());
            Ok(())
        });
    }
}

#[test]
fn a_body_that_the_service_does_not_read_is_no_request() {
    beside(HttpOptions::default(), async |reactor| {
        let body = get("/smuggled").repeat(3000);
        let head = "POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: ";
        let got = said(&reactor, format!("{head}{}\r\n\r\n{body}", body.len())).await?;
        assert_eq!(got.text().matches("HTTP/1.1 ").count(), 1, "{}", got.text());
        assert!(got.is_closed);
        Ok(())
    });
}

/// Runs a loop that serves a router until it is stopped. Sends the port and the loop's handle.
fn core(router: Router, endpoint: String, bound: mpsc::Sender<(u16, Remote)>) -> Result<()> {
    Loop::new()?.run(|reactor| {
        let port = reactor.serve_http(&*endpoint, any(router))?;
        let number = port.host().port().expect("a TCP port");
        bound.send((number, reactor.remote())).map_err(|_| Failure::msg("nobody waits"))
    })
}

#[test]
fn one_router_is_served_on_one_port_by_the_loops_of_several_threads() {
    let served = Arc::<Mutex<Vec<ThreadId>>>::default();
    let note = served.clone();
    let router = Router::new().route(
        "/",
        axum::routing::get(async move || {
            note.lock().expect("no panic").push(thread::current().id());
            "hello"
        }),
    );
    let (send, bound) = mpsc::channel();
    let mut number = 0;
    let mut cores = Vec::new();
    for _ in 0..2 {
        let (router, send) = (router.clone(), send.clone());
        let endpoint = format!("tcp:{number}:interface=127.0.0.1:reuse_port=yes");
        let thread = thread::spawn(move || core(router, endpoint, send));
        let (port, remote) = bound.recv().expect("it listens");
        number = port;
        cores.push((thread, remote));
    }
    let mut l = Loop::new().expect("a loop");
    let inner = l.reactor();
    let asked = l.reactor().spawn(async move {
        for _ in 0..64 {
            let mut stream = inner.connect_stream(&*format!("tcp:127.0.0.1:{number}")).await?;
            stream.write_all("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await?;
            let got = heard(&mut stream, &inner, Duration::from_secs(20)).await?;
            assert!(got.text().ends_with("hello"), "{}", got.text());
        }
        Ok(())
    });
    l.run_until(asked).expect("each is answered");
    for (thread, remote) in cores {
        remote.call(Reactor::stop).expect("it runs");
        thread.join().expect("no panic").expect("it ends");
    }
    let served = served.lock().expect("no panic");
    let by_first = served.iter().filter(|thread| **thread == served[0]).count();
    assert!(served.len() == 64 && by_first < 64, "{served:?}");
}

#[test]
fn each_fault_of_a_service_is_logged_once_with_its_cause() {
    let service = tower::service_fn(async |request: Request<Body>| match request.uri().path() {
        "/panic" => panic!("as it was asked to"),
        "/failure" => Err(Failure::msg("no database")),
        _ => {
            let mut answer = Response::new(Full::<Bytes>::from("hello"));
            answer.headers_mut().insert("content-length", 9.into());
            Ok(answer)
        }
    });
    for (path, message, cause) in [
        ("/panic", "an HTTP service panicked", "panic=as it was asked to"),
        ("/failure", "an HTTP service failed", "error=no database"),
        ("/length", "an HTTP service set a wrong Content-Length", "length=\"9\""),
    ] {
        for asked in [get(path).into_bytes(), [http2::hello(), http2::get(1, path)].concat()] {
            let service = any(service);
            let ((), lines) = logged(|| {
                run(async move |reactor| {
                    let port = reactor.serve_http(AT, service)?;
                    let got = said(&reactor, asked).await?;
                    assert!(!got.text().contains("hello"), "{}", got.text());
                    ended(port, ()).await
                });
            });
            let [line] = &lines[..] else { panic!("{path}: {lines:?}") };
            assert!(line.contains(&format!("message={message}")) && line.contains(cause), "{line}");
        }
    }
}

/// A service may read a part of a body, and then the rest.
#[test]
fn the_size_of_a_body_counts_its_unread_bytes() {
    let reads = async |_: Reactor, request: Request<Body>| {
        let mut body = request.into_body();
        let first = body.next().await.expect("it is whole").expect("a piece");
        let left = hyper::body::Body::size_hint(&body).exact();
        let rest = body.bytes(6).await.expect("it is not longer");
        let said = format!("{first:?}, then {left:?}: {rest:?}");
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said)))
    };
    let length = [&[0x0f, 28 - 15, 2], &b"10"[..]].concat();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfour".to_vec();
    let data = |flags, bytes: &[u8]| http2::frame(http2::DATA, flags, 1, bytes);
    let begun = [http2::hello(), http2::post(1, "/", &length), data(0, b"four")].concat();
    for (first, rest) in [(head, b"others".to_vec()), (begun, data(http2::END_STREAM, b"others"))] {
        beside_service(HttpOptions::default(), reads, async move |reactor| {
            let mut stream = opened(&reactor, first).await?;
            reactor.sleep(Duration::from_secs(1)).await?;
            stream.write_all(rest).await?;
            let got = heard(&mut stream, &reactor, Duration::from_secs(1)).await?;
            let wanted = "b\"four\", then Some(6): b\"others\"";
            assert!(got.text().contains(wanted), "{}", got.text());
            Ok(())
        });
    }
}
