//! WebSockets over HTTP/2, RFC 8441: each is one stream of a connection.

use std::future::poll_fn;
use std::pin::Pin;

use couplet::http::websocket::{WebSocket, WebSocketOptions};
use couplet::{Deferred, Reactor, Result};
use futures_util::future::{Either, select};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::rt::{Executor, Read, ReadBuf, Write};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};

use super::kit::*;
use crate::counting::live;
use crate::http2::{DATA, END_HEADERS, END_STREAM, Frame, HEADERS, begun, frame, more};
use crate::kit::{counter, waiting};

#[derive(Clone)]
pub(super) struct Tasks(pub(super) Reactor);

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let task = async move {
            future.await;
            Ok(())
        };
        self.0.spawn(task).detach();
    }
}

/// An HTTP/2 client, and the end of its connection.
async fn client(reactor: &Reactor) -> Result<(SendRequest<Empty<Bytes>>, Deferred<()>)> {
    let stream = reactor.connect_stream(TO).await?;
    let (client, connection) = http2::handshake(Tasks(reactor.clone()), stream).await?;
    let ended = reactor.spawn(async move { Ok(connection.await?) });
    // Waits for the server's settings.
    reactor.sleep(std::time::Duration::from_millis(1)).await?;
    Ok((client, ended))
}

/// Requests a WebSocket.
pub(super) async fn ask(
    client: &mut SendRequest<Empty<Bytes>>,
    change: impl FnOnce(&mut Request<Empty<Bytes>>),
) -> Result<hyper::Response<hyper::body::Incoming>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://127.0.0.1:8000/chat".parse()?;
    request.headers_mut().insert("sec-websocket-version", "13".parse()?);
    request.headers_mut().insert("sec-websocket-protocol", "v1, v2".parse()?);
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    change(&mut request);
    Ok(client.send_request(request).await?)
}

async fn open(client: &mut SendRequest<Empty<Bytes>>) -> Result<Upgraded> {
    let answer = ask(client, |_| {}).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "v2");
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    Ok(hyper::upgrade::on(answer).await?)
}

pub(super) async fn write(io: &mut Upgraded, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, bytes)).await?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Reads all bytes up to the end.
pub(super) async fn rest(io: &mut Upgraded, got: &mut Vec<u8>) -> Result<()> {
    loop {
        let mut room = [0; 4096];
        let mut buffer = ReadBuf::new(&mut room);
        poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, buffer.unfilled())).await?;
        if buffer.filled().is_empty() {
            return Ok(());
        }
        got.extend(buffer.filled());
    }
}

fn options() -> WebSocketOptions {
    WebSocketOptions::default().protocols(["v2", "v1"])
}

#[test]
fn websockets_share_a_connection() {
    beside(options(), echo, async |reactor| {
        let (mut client, ended) = client(&reactor).await?;
        let mut first = open(&mut client).await?;
        let mut second = open(&mut client).await?;
        let long = vec![b'x'; 200_000];
        for io in [&mut first, &mut second] {
            write(io, &masked(FIN | BINARY, &long)).await?;
            write(io, &masked(FIN | TEXT, "short")).await?;
        }
        // Longer than a connection may be idle.
        reactor.sleep(secs(20)).await?;
        for mut io in [first, second] {
            write(&mut io, &masked(FIN | CLOSE, close(4000, "bye"))).await?;
            let mut got = Vec::new();
            rest(&mut io, &mut got).await?;
            let expected = [
                plain(FIN | BINARY, &long),
                plain(FIN | TEXT, "short"),
                plain(FIN | CLOSE, close(4000, "bye")),
            ];
            assert!(got == expected.concat(), "{} bytes", got.len());
        }
        drop(client);
        ended.await
    });
}

#[test]
fn a_websocket_keeps_its_connection_open() {
    let options = options().ping_interval(Some(secs(50)));
    beside(options, echo, async |reactor| {
        let (mut client, ended) = client(&reactor).await?;
        let mut io = open(&mut client).await?;
        for _ in 0..10 {
            reactor.sleep(secs(60)).await?;
            write(&mut io, &masked(FIN | PONG, "")).await?;
        }
        // The connection accepts more WebSockets.
        drop(open(&mut client).await?);
        write(&mut io, &masked(FIN | CLOSE, "")).await?;
        let mut got = Vec::new();
        rest(&mut io, &mut got).await?;
        let expected = [plain(FIN | PING, "").repeat(10), plain(FIN | CLOSE, "")].concat();
        assert_eq!(got, expected);
        drop((client, io));
        ended.await
    });
}

#[test]
fn a_client_that_takes_nothing_stops_send() {
    let (sent, count) = counter();
    let handle = async move |mut socket: WebSocket| {
        while socket.send(vec![b'x'; 10_000]).await.is_ok() {
            count.set(count.get() + 1);
        }
        Ok(())
    };
    beside(options().write_timeout(secs(40)), handle, async move |reactor| {
        let (mut client, ended) = client(&reactor).await?;
        let mut io = open(&mut client).await?;
        reactor.sleep(secs(30)).await?;
        let before = sent.get();
        // The limit covers hyper's windows and ours.
        assert!(before < 1000, "{before}");
        reactor.sleep(secs(20)).await?;
        assert_eq!(sent.get(), before);
        // The stream was reset.
        let _ = rest(&mut io, &mut Vec::new()).await;
        drop((client, io));
        ended.await
    });
}

/// A request for a WebSocket, as frames.
pub(crate) fn asked(stream: u32) -> Vec<u8> {
    // Literals by their names in HPACK's static table, or by new names: RFC 7541, 6.2.2.
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let named = |index: u8, value| [vec![index], text(value)].concat();
    let new = |name, value| [vec![0], text(name), text(value)].concat();
    let fields = [
        named(2, "CONNECT"),
        new(":protocol", "websocket"),
        vec![0x86, 0x84],
        named(1, "a"),
        new("sec-websocket-version", "13"),
    ];
    frame(HEADERS, END_HEADERS, stream, &fields.concat())
}

/// The bytes that a WebSocket got.
fn sent_on(stream: u32, got: &[Frame]) -> Vec<u8> {
    let data = got.iter().filter(|it| (it.kind, it.stream) == (DATA, stream));
    data.flat_map(|it| it.payload.clone()).collect()
}

#[test]
fn a_websocket_ends_with_the_end_of_its_stream() {
    beside(options(), echo, async |reactor| {
        let close = frame(DATA, 0, 1, &masked(FIN | CLOSE, ""));
        let (_, got) = begun(&reactor, [asked(1), close].concat()).await?;
        assert_eq!(sent_on(1, &got), plain(FIN | CLOSE, ""));
        // A reset instead would be the loss of a connection.
        let is_end = |it: &Frame| (it.kind, it.flags, it.stream) == (DATA, END_STREAM, 1);
        assert!(got.iter().any(is_end), "{got:?}");
        Ok(())
    });
}

#[test]
fn a_websocket_that_is_reset_gives_its_share_back() {
    let flood = async |mut socket: WebSocket| {
        loop {
            socket.send(vec![b'x'; 16 * 1024]).await?;
        }
    };
    beside(options(), flood, async |reactor| {
        let (mut client, ended) = client(&reactor).await?;
        for _ in 0..3 {
            let io = open(&mut client).await?;
            reactor.sleep(secs(1)).await?;
            drop(io);
            reactor.sleep(secs(20)).await?;
            let connections = reactor.snapshot().await?.connections;
            let server = connections.iter().find(|one| one.host.port() == Some(8000));
            assert_eq!(server.map(|one| one.buffered), Some(0));
        }
        drop(client);
        ended.await
    });
}

#[test]
fn c175a_websockets_that_send_in_the_same_turn_give_their_share_back() {
    beside(options(), echo, async |reactor| {
        let (mut stream, _) = begun(&reactor, [asked(1), asked(3)].concat()).await?;
        let message = vec![b'x'; 1000];
        for _ in 0..10 {
            let together = [1, 3].map(|id| frame(DATA, 0, id, &masked(FIN | BINARY, &message)));
            let got = more(&mut stream, &reactor, together.concat()).await?;
            for id in [1, 3] {
                assert!(sent_on(id, &got) == plain(FIN | BINARY, &message), "{id}: {got:?}");
            }
        }
        // Both WebSockets are open and idle.
        reactor.sleep(secs(10)).await?;
        assert_eq!(waiting(&reactor, &stream).await?, 0);
        Ok(())
    });
}

#[test]
fn a_drain_sends_1001_over_http2() {
    run(async move |reactor| {
        let port = serve(&reactor, AT, options(), echo)?;
        let (mut client, ended) = client(&reactor).await?;
        let mut sockets = Vec::new();
        for _ in 0..3 {
            sockets.push(open(&mut client).await?);
        }
        let drained = port.drain(secs(60));
        for io in &mut sockets {
            let mut got = Vec::new();
            let quiet = reactor.sleep(secs(1) / 5);
            match select(std::pin::pin!(rest(io, &mut got)), quiet).await {
                Either::Left(_) => panic!("the server waits for an answer"),
                Either::Right(_) => {}
            }
            assert_eq!(got, plain(FIN | CLOSE, close(1001, "going away")));
        }
        for io in &mut sockets {
            write(io, &masked(FIN | CLOSE, close(1001, ""))).await?;
            rest(io, &mut Vec::new()).await?;
        }
        drop((sockets, client));
        ended.await?;
        let drained = drained.await?;
        assert_eq!((drained.finished, drained.closed + drained.aborted), (1, 0));
        Ok(())
    });
}

#[test]
fn a_connect_that_is_no_handshake_is_refused() {
    beside(options(), echo, async |reactor| {
        let (mut client, ended) = client(&reactor).await?;
        let other = Protocol::from_static("other");
        let answer = ask(&mut client, |request| drop(request.extensions_mut().insert(other)));
        assert_eq!(answer.await?.status(), StatusCode::UPGRADE_REQUIRED);
        let version = "sec-websocket-version";
        let answer = ask(&mut client, |request| drop(request.headers_mut().remove(version)));
        assert_eq!(answer.await?.status(), StatusCode::BAD_REQUEST);
        drop(client);
        ended.await
    });
}

#[test]
fn c175a_websockets_whose_client_reads_nothing_share_the_limit_of_their_connection() {
    let flood = async |mut socket: WebSocket| {
        loop {
            socket.send(vec![b'x'; 16 * 1024]).await?;
        }
    };
    beside(options(), flood, async |reactor| {
        let stream = reactor.connect_stream(TO).await?;
        let (here, transport) = (stream.host().to_string(), stream.transport().clone());
        let mut builder = http2::Builder::new(Tasks(reactor.clone()));
        let most = (1 << 31) - 1;
        builder.initial_stream_window_size(most).initial_connection_window_size(most);
        let (mut client, connection) = builder.handshake(stream).await?;
        let ended = reactor.spawn(async move { Ok(connection.await?) });
        reactor.sleep(std::time::Duration::from_millis(1)).await?;
        // The client's end stores received bytes, so it reads nothing once all WebSockets are open.
        let (mut sockets, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            asked.push(ask(&mut client, |_| {}).await?);
        }
        transport.pause_producing();
        for answer in asked {
            sockets.push(hyper::upgrade::on(answer).await?);
        }
        let begun = live();
        reactor.sleep(secs(20)).await?;
        let connections = reactor.snapshot().await?.connections;
        let server = connections.iter().find(|one| one.peer.to_string() == here);
        let shown = server.map_or(0, |one| one.buffered);
        assert!((384 << 10..(384 << 10) + 300_000).contains(&shown), "{shown} bytes are shown");
        let held = live() - begun;
        assert!(held < 2_500_000, "{held} bytes are held");
        transport.abort_connection();
        drop((sockets, client));
        let _ = ended.await;
        reactor.sleep(secs(1)).await?;
        let left = live() - begun;
        assert!(left < 100_000, "{left} bytes are left");
        Ok(())
    });
}
