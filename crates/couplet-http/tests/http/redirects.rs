//! Redirections, and the headers and bodies that they keep: RFC 9110, 15.4.

use std::convert::Infallible;

use couplet::Result;
use couplet::http::HttpExt;
use couplet::http::{Body, Client, Request, Response, StatusCode, header};
use tower::service_fn;

use crate::client::{secured_by, text};
use crate::kit::{any, ended};

/// Redirects to the URL after `?`; otherwise answers with the method, the body and each secret, or
/// with the Host header for `/host`.
async fn answer(request: Request<Body>) -> Result<Response<String>, Infallible> {
    let mut answer = Response::new(String::new());
    let (head, body) = request.into_parts();
    if let Some((status, to)) = head.uri.query().and_then(|query| query.split_once(',')) {
        *answer.status_mut() = status.parse().expect("a status");
        answer.headers_mut().insert(header::LOCATION, to.parse().expect("a location"));
        return Ok(answer);
    }
    if head.uri.path() == "/host" {
        let host = head.headers.get("host").expect("the client sends one");
        *answer.body_mut() = host.to_str().expect("text").to_owned();
        return Ok(answer);
    }
    let body = body.bytes(100).await.expect("a short body");
    let mut said = format!("{} {}", head.method, String::from_utf8_lossy(&body));
    for name in ["authorization", "cookie", "proxy-authorization", "x-mine", "content-type"] {
        for value in head.headers.get_all(name) {
            said += &format!(" {name}={}", value.to_str().expect("text"));
        }
    }
    *answer.body_mut() = said;
    Ok(answer)
}

/// Runs a program with the service on several origins.
fn abroad(program: impl AsyncFnOnce(Client) -> Result<()> + 'static) {
    secured_by(service_fn(answer), async move |reactor, options| {
        let ports =
            ["tcp:8000", "tcp:8001"].map(|at| reactor.serve_http(at, any(service_fn(answer))));
        program(Client::with_options(&reactor, options)).await?;
        for port in ports {
            ended(port?, ()).await?;
        }
        Ok(())
    });
}

const SECRETS: &str = " authorization=a cookie=b proxy-authorization=d";

#[test]
fn c177_secrets_stay_with_their_origin() {
    abroad(async |client| {
        let (plain, other) = ("http://localhost:8000/", "http://localhost:8001/");
        let (secure, ip) = ("https://localhost:8443/", "http://127.0.0.1:8000/");
        for (from, to, keeps) in [
            (plain, "/other?x".to_owned(), true),
            (plain, format!("{plain}other"), true),
            (plain, "http://LOCALHOST:8000/".to_owned(), true),
            (secure, format!("{secure}other"), true),
            // Another port, another scheme, another name of the same host.
            (plain, other.to_owned(), false),
            (plain, secure.to_owned(), false),
            (secure, plain.to_owned(), false),
            (secure, other.to_owned(), false),
            (plain, ip.to_owned(), false),
            (plain, "//localhost:8001/".to_owned(), false),
            // To another origin and back.
            (plain, format!("{other}?302,{plain}"), false),
        ] {
            for status in [301, 302, 303, 307, 308] {
                let request = Request::get(format!("{from}?{status},{to}"))
                    .header("authorization", "a")
                    .header("cookie", "b")
                    .header("proxy-authorization", "d")
                    .header("x-mine", "e")
                    .body("")?;
                let said = text(client.send(request).await?.into_body()).await?;
                let expected = format!("GET {} x-mine=e", if keeps { SECRETS } else { "" });
                assert_eq!(said, expected, "{from} {status} {to}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_host_header_stays_with_its_origin() {
    abroad(async |client| {
        let other = "http://localhost:8001";
        for (to, expected) in [
            ("/host".to_owned(), "mine"),
            (format!("{other}/host"), "localhost:8001"),
            // To another origin and back.
            (format!("{other}/?307,http://localhost:8000/host"), "localhost:8000"),
        ] {
            let request = Request::get(format!("http://localhost:8000/?307,{to}"));
            let request = request.header("host", "mine").body("")?;
            assert_eq!(text(client.send(request).await?.into_body()).await?, expected, "{to}");
        }
        Ok(())
    });
}

#[test]
fn c177_a_redirection_keeps_the_method_and_the_body_or_neither() {
    abroad(async |client| {
        for (status, method, expected) in [
            (301, "POST", "GET "),
            (302, "POST", "GET "),
            (303, "POST", "GET "),
            (307, "POST", "POST poem content-type=text"),
            (308, "POST", "POST poem content-type=text"),
            (301, "PUT", "PUT poem content-type=text"),
            (302, "DELETE", "DELETE poem content-type=text"),
            (303, "PUT", "GET "),
            (308, "PATCH", "PATCH poem content-type=text"),
        ] {
            let url = format!("http://localhost:8000/?{status},/there");
            let request = Request::builder().method(method).uri(url);
            let request = request.header("content-type", "text").body("poem")?;
            let said = text(client.send(request).await?.into_body()).await?;
            assert_eq!(said, expected, "{status} {method}");
        }
        // HEAD stays HEAD, even after 303. With any other status, a location is not followed.
        for (status, expected) in [(303, 200), (302, 200), (300, 300), (304, 304), (201, 201)] {
            let url = format!("http://localhost:8000/?{status},/there");
            let answer = client.send(Request::head(&url).body("")?).await?;
            assert_eq!(answer.status().as_u16(), expected);
            assert_eq!(text(answer.into_body()).await?, "");
        }
        Ok(())
    });
}

#[test]
fn c177_no_more_redirections_are_followed_than_the_limit() {
    secured_by(service_fn(answer), async move |reactor, options| {
        let port = reactor.serve_http("tcp:8000", any(service_fn(answer)))?;
        for limit in [0, 1, 2] {
            let client = Client::with_options(&reactor, options.clone().max_redirects(limit));
            let mut url = "http://localhost:8000/".to_owned();
            for hops in 0..4 {
                let answer = client.get(&url).await;
                assert_eq!(answer.is_ok(), hops <= limit, "{hops} of {limit}: {answer:?}");
                assert!(answer.map_or(true, |answer| answer.status() == StatusCode::OK));
                url = format!("http://localhost:8000/?307,{url}");
            }
        }
        ended(port, ()).await
    });
}
