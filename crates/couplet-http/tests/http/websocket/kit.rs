//! A WebSocket server in memory, clients that write raw bytes, and frames.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use couplet::http::HttpExt;
use couplet::http::websocket::{self, WebSocket, WebSocketOptions};
use couplet::http::{Body, Request, Response};
use couplet::{Port, Reactor, Result, Stream};
use tower::service_fn;

use crate::kit::any;
use crate::kit::ended;
pub(crate) use crate::kit::{AT, TO, run, scripted, twice};
pub(crate) const URL: &str = "ws://127.0.0.1:8000/chat?room=1";

/// The handshake of RFC 6455, 1.3.
pub(crate) const HELLO: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Set in the last frame of a message.
pub(crate) const FIN: u8 = 0x80;

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Serves WebSockets with one handler.
pub(crate) fn serve(
    reactor: &Reactor,
    endpoint: &str,
    options: WebSocketOptions,
    handle: impl AsyncFn(WebSocket) -> Result<()> + 'static,
) -> Result<Port> {
    let handle = Rc::new(handle);
    reactor.serve_http(
        endpoint,
        any(service_fn(move |mut request: Request<Body>| {
            let handle = handle.clone();
            let handle = async move |socket: WebSocket| handle(socket).await;
            let answer = websocket::upgrade(&mut request, options.clone(), handle);
            std::future::ready(Ok::<Response<String>, Infallible>(answer))
        })),
    )
}

/// Runs a program with a server.
pub(crate) fn beside<T: 'static>(
    options: WebSocketOptions,
    handle: impl AsyncFn(WebSocket) -> Result<()> + 'static,
    program: impl AsyncFnOnce(Reactor) -> Result<T> + 'static,
) -> T {
    run(async move |reactor| {
        let port = serve(&reactor, AT, options, handle)?;
        ended(port, program(reactor).await?).await
    })
}

pub(crate) async fn echo(mut socket: WebSocket) -> Result<()> {
    while let Some(message) = socket.recv().await {
        socket.send(message?).await?;
    }
    Ok(())
}

/// A frame: its first byte, its payload, and a mask if a client sends it.
pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>, mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let is_masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        n @ 0..=125 => frame.push(is_masked | n as u8),
        n @ 126..=0xffff => {
            frame.push(is_masked | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(is_masked | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A client's frame.
pub(crate) fn masked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload, Some([0x37, 0xfa, 0x21, 0x3d]))
}

/// A server's frame.
pub(crate) fn plain(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(first, payload, None)
}

/// The payload of a close.
pub(crate) fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// A received frame: its first byte, its payload, and whether it was masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) is_masked: bool,
}

impl Frame {
    pub(crate) fn of(first: u8, payload: impl AsRef<[u8]>) -> Frame {
        Frame { first, payload: payload.as_ref().to_vec(), is_masked: false }
    }

    /// The code of a close.
    pub(crate) fn code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        code.filter(|_| self.first == FIN | CLOSE)
    }
}

/// A raw peer.
pub(crate) struct Raw {
    pub(crate) stream: Stream,
    got: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(stream: Stream) -> Raw {
        Raw { stream, got: Vec::new() }
    }

    /// A client after its handshake.
    pub(crate) async fn connect(reactor: &Reactor) -> Result<Raw> {
        let mut raw = Raw::new(reactor.connect_stream(TO).await?);
        raw.write(HELLO).await?;
        let head = raw.head().await?;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
        Ok(raw)
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    async fn more(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let n = self.stream.read(&mut buffer).await?;
        self.got.extend(&buffer[..n]);
        Ok(n > 0)
    }

    /// The head of a request or an answer.
    pub(crate) async fn head(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.got.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = self.got.split_off(at + 4);
                let head = std::mem::replace(&mut self.got, rest);
                return Ok(String::from_utf8(head)?);
            }
            if !self.more().await? {
                return Ok(String::from_utf8(std::mem::take(&mut self.got))?);
            }
        }
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn frame(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some((frame, length)) = parsed(&self.got) {
                self.got.drain(..length);
                return Ok(Some(frame));
            }
            if !self.more().await? {
                assert!(self.got.is_empty(), "a cut frame: {:?}", self.got);
                return Ok(None);
            }
        }
    }

    /// All frames up to the end.
    pub(crate) async fn frames(&mut self) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame().await? {
            frames.push(frame);
        }
        Ok(frames)
    }
}

/// The first frame of these bytes, and its length.
fn parsed(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize, 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize, 10),
        n => (n as usize, 2),
    };
    let is_masked = second & 0x80 != 0;
    let mut mask = [0; 4];
    if is_masked {
        mask = *bytes.get(at..)?.first_chunk()?;
        at += 4;
    }
    let payload = bytes.get(at..at + length)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Some((Frame { first, payload, is_masked }, at + length))
}

/// A server that answers the handshake correctly, and leaves the rest to the test.
pub(crate) async fn raw_server(stream: Stream) -> Result<Raw> {
    let mut raw = Raw::new(stream);
    let head = raw.head().await?;
    raw.write(accepting(&head, "")).await?;
    Ok(raw)
}

/// The answer to a handshake, with more headers.
pub(crate) fn accepting(head: &str, more: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(
        key.unwrap_or_default().as_bytes(),
    );
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
         Connection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}
