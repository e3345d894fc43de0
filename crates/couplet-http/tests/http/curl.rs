//! curl, over sockets, as a client of axum's router on a loop inside tokio.

use std::convert::Infallible;
use std::process::Stdio;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use couplet::embed::Embedded;
use couplet::http::HttpExt;
use couplet::{Failure, Loop};
use couplet_testkit::PATIENCE;
use futures_util::{StreamExt, stream};
use tokio::process::Command;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::kit::any;
use crate::needed::{Folder, SelfSigned};

#[path = "../../../../examples/src/bin/axum.rs"]
#[allow(dead_code, reason = "its main starts a server of its own")]
pub(crate) mod example;

const HERE: &str = "tcp:0:interface=127.0.0.1";

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Serves a router while the client runs, and waits for both to end.
fn served<T>(endpoint: &str, router: Router, client: impl AsyncFnOnce(u16) -> T) -> T {
    let local = LocalSet::new();
    local
        .block_on(&runtime(), async {
            let mut bound = None;
            let run = Embedded::begin(Loop::new()?, |reactor| {
                bound = reactor.serve_http(endpoint, any(router))?.host().socket_addr();
                Ok(())
            })?;
            let reactor = run.reactor();
            let running = tokio::task::spawn_local(run);
            let port = bound.expect("a TCP port").port();
            let answer = tokio::time::timeout(PATIENCE, client(port)).await?;
            reactor.stop();
            running.await??;
            Ok::<_, Failure>(answer)
        })
        .expect("the client is done in time")
}

async fn curl(words: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]).args(words);
    let out = command.stderr(Stdio::piped()).output().await.expect("curl runs");
    [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

#[test]
fn both_versions_are_spoken_in_the_clear() {
    needs!("curl");
    served(HERE, example::router(), async |port| {
        let to = format!("http://127.0.0.1:{port}/hello/ada");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let said = curl(&[version, "--include", &to]).await;
            assert!(said.contains("200") && said.ends_with("hello, ada\n"), "{version}: {said}");
        }
        let visits = format!("http://127.0.0.1:{port}/visits");
        assert_eq!(curl(&[&visits, &visits]).await, "2\n2\n");
    });
}

#[test]
fn answers_are_compressed_for_a_client_that_asks_for_it() {
    needs!("curl");
    let text: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
    let page = text.clone();
    let router = Router::new().route("/", get(async move || page));
    let router = router.layer(tower_http::compression::CompressionLayer::new());
    served(HERE, router, async |port| {
        let to = format!("http://127.0.0.1:{port}/");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            assert!(curl(&[version, "--compressed", &to]).await == text, "{version}");
            let asked = ["--header", "accept-encoding: gzip", "--output", "/dev/null"];
            let told = [version, "--write-out", "%{size_download}", &to];
            let size: usize = curl(&[asked, told].concat()).await.parse().expect("a number");
            assert!(size > 1000 && size < text.len() / 2, "{version}: {size}");
        }
    });
}

#[test]
fn alpn_chooses_the_version() {
    needs!("curl");
    let folder = Folder::new();
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    let endpoint = format!("tls:0:interface=127.0.0.1:cert={file}:alpn=h2,http/1.1");
    let router = Router::new().route("/", get(async || "secret\n"));
    served(&endpoint, router, async |port| {
        let to = format!("https://127.0.0.1:{port}/");
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2"), ("--no-alpn", "1.1")] {
            let what = ["--insecure", option, "--write-out", "%{http_version}", &to];
            assert_eq!(curl(&what).await, format!("secret\n{version}"), "{option}");
        }
    });
}

#[test]
fn bodies_come_and_go_whole() {
    needs!("curl");
    const MUCH: usize = 3_000_000;
    let body: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();
    let folder = Folder::new();
    let (data, back) = (format!("@{}", folder.write("body", &body)), folder.path("back"));
    let echo = post(async |body: axum::body::Bytes| body);
    let limit = axum::extract::DefaultBodyLimit::disable();
    let router = Router::new().route("/", echo.layer(limit));
    served(HERE, router, async |port| {
        let to = format!("http://127.0.0.1:{port}/");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            for way in ["Expect: 100-continue", "Transfer-Encoding: chunked", "X-Other: 1"] {
                // Only HTTP/1.1 has this header.
                if way.starts_with("Transfer") && version != "--http1.1" {
                    continue;
                }
                let words = [version, "-H", way, "--data-binary", &data, "-o", &back, &to];
                assert_eq!(curl(&words).await, "");
                assert!(std::fs::read(&back).ok().as_ref() == Some(&body), "{version} {way}");
            }
        }
    });
}

#[test]
fn events_without_an_end_end_with_the_drain() {
    needs!("curl");
    let begun = Arc::new(Notify::new());
    let telling = begun.clone();
    let events = async move || {
        let first = stream::once(async { Ok::<_, Infallible>(Event::default().data("tick")) });
        // hyper polls for the next event once it has the first.
        let next = stream::poll_fn(move |_| {
            telling.notify_one();
            Poll::Pending
        });
        Sse::new(first.chain(next))
    };
    let router = Router::new().route("/events", get(events));
    let local = LocalSet::new();
    let drained = local.block_on(&runtime(), async {
        let mut port = None;
        let run = Embedded::begin(Loop::new()?, |reactor| {
            port = Some(reactor.serve_http(HERE, any(router))?);
            Ok(())
        })?;
        let reactor = run.reactor();
        let running = tokio::task::spawn_local(run);
        let port = port.expect("it listens");
        let number = port.host().socket_addr().expect("a TCP port").port();
        let to = format!("http://127.0.0.1:{number}/events");
        let asking = tokio::task::spawn_local(async move { curl(&["--no-buffer", &to]).await });
        begun.notified().await;
        let drained = port.drain(Duration::from_millis(200)).await?;
        let said = tokio::time::timeout(PATIENCE, asking).await??;
        assert!(said.starts_with("data: tick\n"), "{said}");
        reactor.stop();
        running.await??;
        Ok::<_, Failure>(drained)
    });
    let drained = drained.expect("it ends in time");
    assert_eq!((drained.finished, drained.closed + drained.aborted), (0, 1));
}
