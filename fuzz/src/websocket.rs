//! WebSockets: for any bytes from their peer, handshakes included, a server and a client deliver
//! the same messages however the bytes are cut.
//!
//! An input is three bytes that choose the role, the cut and the limits, then the peer's bytes: of
//! a client after its handshake, of a server after its own, or of a server from the beginning,
//! where `$` stands for the key's accept value.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::websocket::{self, Message, WebSocket, WebSocketOptions, WebSocketRequest};
use couplet::http::{Body, Request, Response};
use couplet::{Reactor, Result, Stream};
use tower::service_fn;

use crate::streams::same_for_each_split;

pub(crate) const WORDS: &[&str] = &[
    "\u{1}\u{5}hello",
    "\u{0}\u{0}",
    "\u{1}\u{7e}\u{0}\u{7e}",
    "\u{2}\u{7f}\u{0}\u{0}\u{0}\u{0}\u{0}\u{1}\u{0}\u{0}",
    "\u{8}\u{2}\u{3}\u{e8}",
    "\u{9}\u{0}",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 404 Not Found\r\n",
    "Upgrade: websocket\r\n",
    "Connection: Upgrade\r\n",
    "Sec-WebSocket-Accept: $\r\n",
    "Sec-WebSocket-Protocol: v1\r\n",
    "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    "\r\n\r\n",
    "\r\n",
];

const AT: &str = "tcp:8000:interface=127.0.0.1";
const TO: &str = "tcp:127.0.0.1:8000";
const HELLO: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: $\r\n\r\n";

/// The messages received, and the end.
type Seen = Rc<RefCell<Vec<String>>>;

/// Tries one input.
///
/// # Panics
///
/// If the cut changes the result, or a WebSocket never ends.
pub fn websocket(data: &[u8]) {
    let Some(([role, choice, limit], bytes)) = data.split_first_chunk() else { return };
    let limit = 16 << (limit % 8);
    let options = WebSocketOptions::default().max_message(limit).max_frame(limit / 2);
    same_for_each_split(bytes, *choice, |pieces| {
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        match role % 3 {
            0 => to_a_server(pieces, options.clone()),
            1 => to_a_client([vec![ANSWER.into()], pieces].concat(), options.clone()),
            _ => to_a_client(pieces, options.clone()),
        }
    });
}

async fn receive(mut socket: WebSocket, seen: &Seen) {
    while let Some(message) = socket.recv().await {
        let (text, is_fine) = match &message {
            Ok(Message::Text(text)) => (text.to_string(), socket.send("thanks").await.is_ok()),
            Ok(Message::Binary(bytes)) => (format!("{bytes:?}"), true),
            Err(error) => (error.to_string(), true),
        };
        seen.borrow_mut().push(text);
        if !is_fine {
            break;
        }
    }
    let close = socket.peer_close().map(ToString::to_string);
    seen.borrow_mut().push(format!("{close:?}"));
}

/// Writes the pieces and the end, and reads the output.
async fn pour(reactor: &Reactor, mut stream: Stream, pieces: &[Vec<u8>]) -> Result<()> {
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        reactor.sleep(Duration::from_micros(1)).await?;
    }
    // The peer may have closed.
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new(), 1 << 20).await;
    Ok(())
}

fn to_a_server(pieces: Vec<Vec<u8>>, options: WebSocketOptions) -> Vec<String> {
    let seen = Seen::default();
    let kept = seen.clone();
    let ran = couplet::testing::run(|reactor| {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            let service = service_fn(move |mut request: Request<Body>| {
                let seen = kept.clone();
                let handle = async move |socket| {
                    receive(socket, &seen).await;
                    Ok(())
                };
                let answer = websocket::upgrade(&mut request, options.clone(), handle);
                std::future::ready(Ok::<Response<String>, Infallible>(answer))
            });
            let port = reactor.serve_http(AT, service)?;
            let stream = reactor.connect_stream(TO).await?;
            let pieces = [vec![HELLO.into()], pieces].concat();
            pour(&reactor, stream, &pieces).await?;
            port.stop_listening().expect("it listens").await?;
            reactor.sleep(Duration::from_secs(1)).await
        })
    });
    ran.expect("the program succeeds");
    seen.take()
}

/// Replaces each `$` by the accept value for the key of the request.
fn with_accept(pieces: &[Vec<u8>], head: &[u8]) -> Vec<Vec<u8>> {
    let head = String::from_utf8_lossy(head);
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accept = tungstenite::handshake::derive_accept_key(key.unwrap_or_default().as_bytes());
    let put = |byte: &u8| match byte {
        b'$' => accept.as_bytes().to_vec(),
        byte => vec![*byte],
    };
    pieces.iter().map(|piece| piece.iter().flat_map(put).collect()).collect()
}

fn to_a_client(pieces: Vec<Vec<u8>>, options: WebSocketOptions) -> Vec<String> {
    let seen = Seen::default();
    let kept = seen.clone();
    let ran = couplet::testing::run(|reactor| {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            let pouring = reactor.clone();
            let port = reactor.serve(AT, move |mut stream: Stream| {
                let (reactor, pieces) = (pouring.clone(), pieces.clone());
                async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head = [head, stream.read_until(b'\n', 1000).await?].concat();
                    }
                    pour(&reactor, stream, &with_accept(&pieces, &head)).await
                }
            })?;
            let options = options.protocols(["v1", "v2"]);
            let request = WebSocketRequest::new("ws://127.0.0.1:8000/").options(options);
            match reactor.connect_websocket(request).await {
                Ok(socket) => receive(socket, &kept).await,
                Err(error) => kept.borrow_mut().push(error.to_string()),
            }
            reactor.sleep(Duration::from_secs(1)).await?;
            port.stop_listening().expect("it listens").await
        })
    });
    ran.expect("the program succeeds");
    seen.take()
}
