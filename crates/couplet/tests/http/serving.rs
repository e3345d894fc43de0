//! Requests and their answers.

use couplet::http::HttpOptions;

use crate::kit::{beside, get, said};

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
