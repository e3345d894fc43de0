//! Requests and their answers.

use std::convert::Infallible;
use std::time::Duration;

use couplet::http::{Body, HttpOptions, Peer, Request, Response};
use couplet::{Bytes, Reactor};
use http_body_util::Full;

use crate::kit::{TO, beside, beside_service, get, heard, said};

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
            let mut stream = reactor.connect_stream(TO).await?;
            stream.write_all(get("/")).await?;
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
