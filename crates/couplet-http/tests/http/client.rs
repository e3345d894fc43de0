//! The client: its connections, redirections, limits and errors.

use std::convert::Infallible;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::{
    Body, BodyError, Client, ClientOptions, HttpError, HttpOptions, Request, Response,
};
use couplet::layers::tls::{ClientTlsOptions, Roots};
use couplet::stream::copy_bidirectional;
use couplet::{Bytes, Reactor, Stream};
use tower::{Service, service_fn};

use crate::kit::{any, beside, counter, ended, run, scripted};
use crate::needed::{Folder, SelfSigned};

const URL: &str = "http://127.0.0.1:8000";

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) async fn text(body: Body) -> couplet::Result<String> {
    Ok(String::from_utf8(body.bytes(1_000_000).await?.to_vec())?)
}

/// Reads a body to its end or its error; also returns the bytes before that.
pub(crate) async fn to_the_end(mut body: Body) -> (Vec<u8>, Result<Option<Bytes>, BodyError>) {
    read_out(&mut body).await
}

/// Like [`to_the_end`], for a body that is kept.
pub(crate) async fn read_out(body: &mut Body) -> (Vec<u8>, Result<Option<Bytes>, BodyError>) {
    let mut got = Vec::new();
    loop {
        match body.next().await {
            Ok(Some(piece)) => got.extend_from_slice(&piece),
            end => return (got, end),
        }
    }
}

/// The number of the server's connections.
pub(crate) async fn connections(reactor: &Reactor) -> couplet::Result<usize> {
    // Lets closed connections disappear from the snapshot.
    reactor.sleep(Duration::from_millis(1)).await?;
    let snapshot = reactor.snapshot().await?;
    Ok(snapshot.connections.len() / 2)
}

/// Cancels a request after this many turns; returns whether it had been answered.
pub(crate) async fn cancelled_after(
    reactor: &Reactor,
    client: &Client,
    url: &'static str,
    turns: usize,
) -> couplet::Result<bool> {
    let asking = client.clone();
    let task = reactor.spawn(async move { text(asking.get(url).await?.into_body()).await });
    for _ in 0..turns {
        reactor.sleep(Duration::ZERO).await?;
    }
    task.canceller().cancel();
    Ok(task.await.is_ok())
}

#[test]
fn connections_are_kept_for_the_next_request_and_closed_in_the_end() {
    beside(HttpOptions::default(), async |reactor| {
        let options = ClientOptions::default().keep_alive(secs(20)).max_idle(2);
        let client = Client::with_options(&reactor, options);
        for n in 0..5 {
            let request = Request::post(format!("{URL}/{n}?q=1")).body(format!("body {n}"))?;
            let answer = client.send(request).await?;
            assert_eq!(text(answer.into_body()).await?, format!("POST /{n} body {n}"));
        }
        assert_eq!(connections(&reactor).await?, 1);
        let mut asked = Vec::new();
        for _ in 0..5 {
            let client = client.clone();
            asked.push(reactor.spawn(async move {
                text(client.get(format!("{URL}/slow")).await?.into_body()).await
            }));
        }
        for answer in couplet::defer::gather(asked).await? {
            assert_eq!(answer, "GET /slow ");
        }
        assert_eq!(connections(&reactor).await?, 2, "the others were too many");
        reactor.sleep(secs(21)).await?;
        assert_eq!(connections(&reactor).await?, 0);
        // An unread body ends its connection, and so does the drop of a client.
        drop(client.get(format!("{URL}/a")).await?);
        drop(client);
        reactor.sleep(secs(100)).await?;
        assert_eq!(connections(&reactor).await?, 0);
        Ok(())
    });
}

#[test]
fn c176d_a_busy_connection_gets_no_more_requests_at_its_age() {
    let (accepted, count) = counter();
    let server = async move |mut stream: Stream| {
        count.set(count.get() + 1);
        while stream.read_line().await?.is_some() {
            while !stream.read_line().await?.unwrap_or_default().is_empty() {}
            stream.write_all("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
        }
        Ok(())
    };
    scripted(server, async move |reactor| {
        for (age, most) in [(Some(secs(30)), 4), (None, 1)] {
            accepted.set(0);
            let options = ClientOptions::default().keep_alive(secs(20)).max_age(age);
            let client = Client::with_options(&reactor, options);
            for _ in 0..10 {
                assert_eq!(text(client.get(URL).await?.into_body()).await?, "ok");
                reactor.sleep(secs(10)).await?;
            }
            assert_eq!(accepted.get(), most, "{age:?}");
        }
        Ok(())
    });
}

#[test]
fn a_request_is_sent_again_when_the_server_had_just_closed() {
    // Answers one request per connection, without announcing the close.
    let (answered, count) = counter();
    let server = async move |mut stream: Stream| {
        while !stream.read_line().await?.unwrap_or_default().is_empty() {}
        count.set(count.get() + 1);
        stream.write_all("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
        Ok(stream.flush().await?)
    };
    scripted(server, async move |reactor| {
        let client = Client::new(&reactor);
        for _ in 0..5 {
            assert_eq!(text(client.get(URL).await?.into_body()).await?, "ok");
        }
        assert_eq!(answered.get(), 5);
        Ok(())
    });
}

#[test]
fn redirections_are_followed_but_not_for_ever() {
    let server = async |mut stream: Stream| {
        while let Some(line) = stream.read_line().await? {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut headers = Vec::new();
            while let Some(header) = stream.read_line().await?.filter(|header| !header.is_empty()) {
                headers.push(String::from_utf8_lossy(&header).to_ascii_lowercase());
            }
            let has = |name: &str| headers.iter().any(|header| header.starts_with(name));
            let (status, location) = match line.split(' ').nth(1).unwrap_or_default() {
                "/round" => ("302 Found", "/round"),
                "/a/from" => ("303 See Other", "../to?x=1"),
                "/keep" => ("307 Temporary Redirect", "/kept"),
                "/abroad" => ("301 Moved Permanently", "http://127.0.0.2:8000/there"),
                _ => ("200 OK", ""),
            };
            let secret = if has("authorization:") { "with" } else { "without" };
            let body = format!("{line} {secret}");
            let answer = format!(
                "HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let length = headers.iter().find_map(|header| header.strip_prefix("content-length: "));
            let mut body = vec![0; length.and_then(|n| n.parse().ok()).unwrap_or_default()];
            stream.read_exact(&mut body).await?;
            stream.write_all(answer).await?;
        }
        Ok(())
    };
    scripted(server, async |reactor| {
        let client = Client::new(&reactor);
        let ask = async |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(format!("{URL}{path}"));
            let request = request.header("authorization", "secret").body("four")?;
            text(client.send(request).await?.into_body()).await
        };
        assert_eq!(ask("POST", "/a/from").await?, "GET /to?x=1 HTTP/1.1 with");
        assert_eq!(ask("POST", "/keep").await?, "POST /kept HTTP/1.1 with");
        assert_eq!(ask("GET", "/abroad").await?, "GET /there HTTP/1.1 without");
        let round = client.get(format!("{URL}/round")).await;
        assert!(matches!(round, Err(HttpError::TooManyRedirects(10))), "{round:?}");
        Ok(())
    });
}

#[test]
fn errors_name_the_url_the_server_or_the_limit() {
    beside(HttpOptions::default(), async |reactor| {
        let client =
            Client::with_options(&reactor, ClientOptions::default().timeout(Some(secs(5))));
        for url in ["", "/a", "ftp://a/", "http://", "http:///a", "http://a b/"] {
            let said = client.get(url).await.expect_err("it is no URL").to_string();
            assert!(said.contains("not a URL with http:"), "{url:?}: {said}");
        }
        let refused = client.get("http://127.0.0.1:1/").await.expect_err("nobody listens");
        let said = refused.to_string();
        assert!(said.starts_with("cannot connect to 127.0.0.1:1: ") && said.len() > 40, "{said}");
        let much = Request::post(URL).body(vec![b'x'; 3_000_000])?;
        let answer = client.send(much).await?;
        let long = answer.into_body().bytes(1_000_000).await;
        assert!(matches!(long, Err(BodyError::TooLong(1_000_000))), "{long:?}");
        Ok(())
    });
}

#[test]
fn a_body_that_stops_fails_where_it_is_read() {
    let stops = async |mut stream: Stream| {
        while !stream.read_line().await?.unwrap_or_default().is_empty() {}
        stream.write_all("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await?;
        for _ in 0..10 {
            stream.transport().reactor().sleep(secs(2)).await?;
            stream.write_all("piece").await?;
        }
        // Waits until the client has given up.
        let _ = stream.read_to_end(&mut Vec::new(), 100).await;
        Ok(())
    };
    scripted(stops, async |reactor| {
        let options = ClientOptions::default().body_timeout(secs(5));
        let client = Client::with_options(&reactor, options);
        let (mut body, mut got) = (client.get(URL).await?.into_body(), Vec::new());
        // At first it comes slowly.
        while got.len() < 54 {
            // A body that is not being read has no deadline.
            if got.len() == 24 {
                reactor.sleep(secs(100)).await?;
            }
            got.extend(body.next().await?.expect("it is not whole"));
        }
        assert_eq!(got, [&b"half"[..], &b"piece".repeat(10)].concat());
        reactor.sleep(secs(100)).await?;
        let begun = reactor.now();
        let late = body.next().await;
        assert!(matches!(late, Err(BodyError::TimedOut)), "{late:?}");
        let took = reactor.now() - begun;
        assert!(took >= secs(5) && took <= secs(10), "{took:?}");
        Ok(())
    });
}

#[test]
fn an_invalid_answer_is_an_error() {
    let nonsense = async |mut stream: Stream| {
        stream.read_line().await?;
        Ok(stream.write_all("SSH-2.0-OpenSSH_9.2\r\n").await?)
    };
    scripted(nonsense, async |reactor| {
        let said = Client::new(&reactor).get(URL).await.expect_err("no HTTP").to_string();
        assert!(said.contains("invalid HTTP version"), "{said}");
        Ok(())
    });
}

/// Runs a program with an HTTPS server on port 8443, and client options that trust it.
fn secured(program: impl AsyncFnOnce(Reactor, ClientOptions) -> couplet::Result<()> + 'static) {
    secured_by(
        service_fn(async |request: Request<Body>| {
            let said = format!("{:?} {}", request.version(), request.uri().path());
            assert_eq!(request.uri().authority().map(|to| to.as_str()), Some("localhost:8443"));
            Ok::<_, Infallible>(Response::new(said))
        }),
        program,
    );
}

/// Like [`secured`], with another service.
pub(crate) fn secured_by<S, B>(
    service: S,
    program: impl AsyncFnOnce(Reactor, ClientOptions) -> couplet::Result<()> + 'static,
) where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + 'static,
    B: hyper::body::Body<Data = Bytes> + 'static,
    B::Error: Into<couplet::Failure>,
{
    run(async move |reactor| {
        let (_folder, at, options) = trusted("h2,http/1.1");
        let port = reactor.serve_http(&*at, any(service))?;
        ended(port, program(reactor, options).await?).await
    });
}

/// An endpoint for a server on port 8443 that offers these protocols, the folder of its
/// certificate, and the options of a client that trusts it.
pub(crate) fn trusted(alpn: &str) -> (Folder, String, ClientOptions) {
    let (folder, pair) = (Folder::new(), SelfSigned::new("localhost"));
    let certificate = folder.write("server.pem", pair.pem());
    let roots = Roots::from_pem(pair.certificate.as_bytes()).expect("a certificate");
    let options = ClientOptions::default().tls(ClientTlsOptions::default().roots(roots));
    (folder, format!("tls::8443:cert={certificate}:alpn={alpn}"), options)
}

#[test]
fn http2_is_spoken_where_alpn_chooses_it_and_shares_its_connection() {
    secured(async |reactor, options| {
        let client = Client::with_options(&reactor, options);
        let ask = async |n: usize| {
            let url = format!("https://user:word@LOCALHOST:8443/{n}");
            text(client.get(url).await?.into_body()).await
        };
        assert_eq!(ask(0).await?, "HTTP/2.0 /0");
        let asked = (1..20).map(&ask);
        for (n, answer) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
            assert_eq!(answer?, format!("HTTP/2.0 /{}", n + 1));
        }
        assert_eq!(connections(&reactor).await?, 1);
        // The system's roots don't include this certificate.
        let strict = Client::new(&reactor).get("https://localhost:8443/").await;
        let said = strict.expect_err("it is not trusted").to_string();
        assert!(said.starts_with("cannot connect to localhost:8443: "), "{said}");
        Ok(())
    });
}

#[test]
fn c176c_a_proxy_passes_connections_on_and_gets_whole_urls() {
    secured(async |reactor, options| {
        let inner = reactor.clone();
        let proxy = reactor.serve("tcp:3128", async move |mut near: Stream| {
            let line = near.read_line().await?.unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            while near.read_line().await?.is_some_and(|line| !line.is_empty()) {}
            if line != "CONNECT localhost:8443 HTTP/1.1" {
                let status = if line.starts_with("CONNECT") { "403 Forbidden" } else { "200 OK" };
                let length = line.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{line}");
                return Ok(near.write_all(answer).await?);
            }
            near.write_all("HTTP/1.1 200 Go\r\n\r\n").await?;
            let far = inner.connect_stream("tcp:127.0.0.1:8443").await?;
            copy_bidirectional(near, far).await?;
            Ok(())
        })?;
        let client =
            Client::with_options(&reactor, options.proxy(Some(("localhost".into(), 3128))));
        let passed = client.get("https://localhost:8443/through").await?;
        assert_eq!(text(passed.into_body()).await?, "HTTP/2.0 /through");
        // The user and the password are not sent.
        let asked = client.get("http://user:word@couplet.test/a?b").await?;
        assert_eq!(text(asked.into_body()).await?, "GET http://couplet.test/a?b HTTP/1.1");
        let refused = client.get("https://elsewhere.test/").await.expect_err("it may not");
        let said = refused.to_string();
        assert_eq!(
            said,
            "cannot connect through the proxy: it answered \"HTTP/1.1 403 Forbidden\""
        );
        drop(client);
        ended(proxy, ()).await
    });
}

#[test]
fn c176a_requests_to_a_server_of_http1_wait_only_for_the_first_attempt() {
    run(async move |reactor| {
        let (_folder, at, options) = trusted("http/1.1");
        let version = async |request: Request<Body>| {
            Ok::<_, Infallible>(Response::new(format!("{:?}", request.version())))
        };
        let server = reactor.serve_http(&*at, any(service_fn(version)))?;
        let inner = reactor.clone();
        // A proxy that takes a second for each connection.
        let proxy = reactor.serve("tcp:3128", async move |mut near: Stream| {
            while near.read_line().await?.is_some_and(|line| !line.is_empty()) {}
            inner.sleep(secs(1)).await?;
            near.write_all("HTTP/1.1 200 Go\r\n\r\n").await?;
            let far = inner.connect_stream("tcp:127.0.0.1:8443").await?;
            copy_bidirectional(near, far).await?;
            Ok(())
        })?;
        let options = options.proxy(Some(("localhost".into(), 3128)));
        let client = Client::with_options(&reactor, options);
        let begun = reactor.now();
        let ask = async |_| text(client.get("https://localhost:8443/").await?.into_body()).await;
        for answer in futures_util::future::join_all((0..5).map(ask)).await {
            assert_eq!(answer?, "HTTP/1.1");
        }
        assert_eq!(reactor.now() - begun, secs(2), "one second for the first, one for the others");
        drop(client);
        ended(server, ()).await?;
        ended(proxy, ()).await
    });
}
