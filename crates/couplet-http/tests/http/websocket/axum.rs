//! axum's own WebSockets over our servers, on a loop inside tokio.

use std::net::SocketAddr;

use axum::Router;
use couplet::embed::Embedded;
use couplet::http::HttpExt;
use couplet::http::websocket::{Message, code};
use couplet::{Loop, Reactor, Result};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::http2::{Tasks, ask, rest, write};
use super::kit::{CLOSE, FIN, TEXT, close, masked, plain};
use crate::curl::example;

/// Runs a program with a router, on a loop inside tokio.
fn beside(router: Router, program: impl AsyncFnOnce(Reactor, SocketAddr) -> Result<()>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ended = LocalSet::new().block_on(&runtime, async {
        let mut bound = None;
        let run = Embedded::begin(Loop::new()?, |reactor| {
            bound = reactor.serve_http("tcp:0:interface=127.0.0.1", router)?.host().socket_addr();
            Ok(())
        })?;
        let reactor = run.reactor();
        let running = tokio::task::spawn_local(run);
        program(reactor.clone(), bound.expect("a TCP port")).await?;
        reactor.stop();
        running.await?
    });
    ended.expect("it ends");
}

#[test]
fn axums_extractor_is_upgraded_and_echoes() {
    beside(example::router(), async |reactor, to| {
        let url = format!("ws://{to}/echo");
        let mut sockets = Vec::new();
        for _ in 0..3 {
            sockets.push(reactor.connect_websocket(url.as_str()).await?);
        }
        for length in [0, 1, 126, 70_000, 1_000_000] {
            for socket in &mut sockets {
                for message in [Message::from(vec![b'x'; length]), "ö".repeat(length / 2).into()] {
                    socket.send(message.clone()).await?;
                    assert_eq!(socket.recv().await.transpose()?, Some(message));
                }
            }
        }
        for mut socket in sockets {
            socket.close(code::NORMAL, "").await?;
            assert_eq!(socket.peer_close().map(|close| close.code), Some(1000));
        }
        // Without the WebSocket headers, axum answers with an HTTP error.
        let refused = reactor.connect_websocket(url.replace("/echo", "/visits")).await;
        let said = refused.expect_err("it is no WebSocket").to_string();
        assert_eq!(said, "the server answered 200 OK instead of 101");
        Ok(())
    });
}

/// Echoes one message.
async fn echo_one(upgrade: axum::extract::ws::WebSocketUpgrade) -> axum::response::Response {
    upgrade.on_upgrade(async |mut socket| {
        if let Some(Ok(message)) = socket.recv().await {
            let _ = socket.send(message).await;
        }
        while socket.recv().await.is_some() {}
    })
}

#[test]
fn axums_extractor_is_upgraded_over_http2() {
    // A WebSocket of HTTP/2 is requested by CONNECT.
    let router = Router::new().route("/chat", axum::routing::any(echo_one));
    beside(router, async |reactor, to| {
        let stream = reactor.connect_stream(format!("tcp:{to}")).await?;
        let tasks = Tasks(reactor.clone());
        let (mut client, connection) = hyper::client::conn::http2::handshake(tasks, stream).await?;
        let connected = reactor.spawn(async move { Ok(connection.await?) });
        // Waits for the server's settings.
        reactor.sleep(std::time::Duration::from_millis(50)).await?;
        let answer = ask(&mut client, |_| {}).await?;
        assert_eq!(answer.status(), 200);
        let mut io = hyper::upgrade::on(answer).await?;
        let sent = [masked(FIN | TEXT, "hello"), masked(FIN | CLOSE, close(1000, ""))].concat();
        write(&mut io, &sent).await?;
        let mut got = Vec::new();
        rest(&mut io, &mut got).await?;
        assert_eq!(got, [plain(FIN | TEXT, "hello"), plain(FIN | CLOSE, close(1000, ""))].concat());
        drop((io, client));
        connected.await
    });
}
