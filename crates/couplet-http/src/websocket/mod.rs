//! WebSockets, RFC 6455, for clients and request handlers. Feature `websocket`.
//!
//! [tungstenite](https://docs.rs/tungstenite) implements the protocol's state machine; the loop
//! owns the connection, its back-pressure, its limits, its timeouts and its shutdown.
//!
//! ```
//! use couplet::http::websocket::{self, Message, WebSocket, WebSocketOptions};
//! use couplet::http::{Body, HttpExt, Request, Response};
//! use std::convert::Infallible;
//! use tower::service_fn;
//!
//! async fn shout(mut socket: WebSocket) -> couplet::Result<()> {
//!     while let Some(message) = socket.recv().await {
//!         if let Some(text) = message?.as_text() {
//!             socket.send(text.to_uppercase()).await?;
//!         }
//!     }
//!     Ok(())
//! }
//!
//! couplet::run_until(|reactor| {
//!     let service = service_fn(async |mut request: Request<Body>| {
//!         let options = WebSocketOptions::default();
//!         Ok::<Response<String>, Infallible>(websocket::upgrade(&mut request, options, shout))
//!     });
//!     let port = reactor.serve_http("tcp:0:interface=127.0.0.1", service);
//!     let inner = reactor.clone();
//!     reactor.spawn(async move {
//!         let server = port?.host().socket_addr().expect("a TCP port");
//!         let mut socket = inner.connect_websocket(format!("ws://{server}/")).await?;
//!         socket.send("hello").await?;
//!         let answer = socket.recv().await.transpose()?;
//!         assert_eq!(answer.as_ref().and_then(Message::as_text), Some("HELLO"));
//!         socket.close(websocket::code::NORMAL, "").await?;
//!         inner.stop();
//!         Ok(())
//!     })
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! # WebSocket behaviour
//!
//! - While a program waits in [`recv`](WebSocket::recv), pings are answered, a silent peer is
//!   pinged, and one that stays silent is disconnected. A program that only sends must receive as
//!   well: wait for both, for example in a `select`. Dropping a `recv` future loses no message.
//! - Back-pressure works in both directions: a program that does not receive stops the peer, and
//!   `send` waits for a slow peer.
//! - A violation by the peer is answered with its close code (1002, 1007, 1009) and returned by
//!   `recv` as an error, after the messages that arrived before it.
//! - A [drain](Reactor::drain) sends code 1001 while the program waits in `recv`, which then
//!   returns the messages that the peer sent before its answer, and ends.
//!   A stop of the loop sends 1001 as well, and does not wait for the answer.
//! - Dropping a WebSocket sends code 1001, or 1011 during a panic, and closes the connection in the
//!   order of [`lose_connection`](Transport::lose_connection).
//! - Every wait for the peer has a limit: [`WebSocketOptions`].
//!
//! # Limitations
//!
//! There are no extensions, and therefore no compression (`permessage-deflate`): an offer of one is
//! ignored, as RFC 6455 permits. [`upgrade`] also accepts WebSockets over HTTP/2 (RFC 8441); the
//! client does not open them.

mod alarm;
mod client;
mod error;
mod h2_stream;
mod key;
mod message;
mod options;
mod server;
mod socket;
mod utf8_checker;
mod wire;

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

pub use client::WebSocketRequest;
pub(crate) use client::connect;
pub use error::{HandshakeError, WebSocketError};
pub use message::{Close, Message, Text, code};
pub use options::WebSocketOptions;
pub(super) use server::UpgradeContext;
pub use server::upgrade;
use socket::Socket;

#[cfg(doc)]
use couplet_core::Reactor;
use couplet_core::{Address, Transport};

/// A WebSocket, which is also a `Stream` of messages, as defined by `futures-core`; see the
/// [module](self).
pub struct WebSocket {
    /// `None` while it is being dropped.
    socket: Option<Box<Socket>>,
    /// Receives the socket of a dropped WebSocket, if the handler's task still exists.
    slot: Weak<ReturnSlot>,
}

/// Holds the socket that a handler dropped.
#[derive(Default)]
struct ReturnSlot(Cell<Option<Box<Socket>>>);

impl ReturnSlot {
    fn take(&self) -> Option<WebSocket> {
        let socket = self.0.take()?;
        Some(WebSocket { socket: Some(socket), slot: Weak::new() })
    }
}

impl WebSocket {
    fn new(socket: Socket) -> WebSocket {
        WebSocket { socket: Some(Box::new(socket)), slot: Weak::new() }
    }

    /// Creates a WebSocket that moves its socket to the returned `ReturnSlot` when it is dropped.
    fn for_handler(socket: Socket) -> (WebSocket, Rc<ReturnSlot>) {
        let slot = Rc::<ReturnSlot>::default();
        let socket = Some(Box::new(socket));
        (WebSocket { socket, slot: Rc::downgrade(&slot) }, slot)
    }

    fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("the socket is present until the drop")
    }

    fn socket_ref(&self) -> &Socket {
        self.socket.as_ref().expect("the socket is present until the drop")
    }

    /// Receives the next message; `None` once the WebSocket is closed.
    /// [`peer_close`](Self::peer_close) returns the peer's close.
    ///
    /// Cancel-safe: dropping the future loses no message.
    ///
    /// # Errors
    ///
    /// If the peer breaks the protocol or a limit, is silent for too long, or disconnects without a
    /// close. There is at most one error, followed by `None`.
    pub fn recv(&mut self) -> impl Future<Output = Option<Result<Message, WebSocketError>>> {
        let socket = self.socket();
        poll_fn(move |cx| socket.poll_recv(cx))
    }

    /// Sends a message, once less than the transport's high mark is buffered; it leaves by the end
    /// of the turn.
    ///
    /// Cancel-safe: a dropped future has sent nothing.
    ///
    /// # Errors
    ///
    /// If the WebSocket is closed or lost, or the peer takes nothing for too long.
    pub fn send(
        &mut self,
        message: impl Into<Message>,
    ) -> impl Future<Output = Result<(), WebSocketError>> {
        let socket = self.socket();
        let mut message = Some(message.into());
        poll_fn(move |cx| {
            ready!(socket.poll_ready(cx))?;
            if let Some(message) = message.take() {
                socket.send(cx, message);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Sends a ping of at most 125 bytes. A silent peer is also pinged automatically.
    ///
    /// Cancel-safe: a dropped future has sent nothing.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), or if the payload is too long.
    pub async fn ping(&mut self, payload: impl Into<Bytes>) -> Result<(), WebSocketError> {
        let (socket, payload) = (self.socket(), payload.into());
        poll_fn(|cx| {
            ready!(socket.poll_ready(cx))?;
            Poll::Ready(socket.ping(cx, payload.clone()))
        })
        .await
    }

    /// Closes the WebSocket and waits for the peer's close. Drops messages that still arrive.
    ///
    /// Cancel-safe: the close is sent even if the future is dropped.
    ///
    /// # Errors
    ///
    /// If the code must not be sent (such as [`NO_STATUS`](code::NO_STATUS)), or the reason exceeds
    /// 123 bytes: then nothing is sent. Also if the peer does not answer in time or breaks the
    /// protocol.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<(), WebSocketError> {
        self.begin_close(code, reason)?;
        while let Some(message) = self.recv().await {
            message?;
        }
        Ok(())
    }

    /// Sends a close, unless either end has already sent one. Messages that the peer sent before
    /// its answer can still be received.
    ///
    /// # Errors
    ///
    /// If the code must not be sent, or the reason is too long, as for [`close`](Self::close).
    pub fn begin_close(&mut self, code: u16, reason: &str) -> Result<(), WebSocketError> {
        socket::check_close(code, reason)?;
        self.socket().begin_close(code, reason);
        Ok(())
    }

    /// Returns the peer's close, or its answer to ours; `None` before it arrives.
    pub fn peer_close(&self) -> Option<&Close> {
        self.socket_ref().close.as_ref()
    }

    /// The negotiated subprotocol.
    pub fn protocol(&self) -> Option<&str> {
        self.socket_ref().protocol.as_deref()
    }

    /// The underlying transport, for its settings: marks and socket options. Over HTTP/2 it is
    /// shared with other streams.
    pub fn transport(&self) -> &Transport {
        self.socket_ref().wire().transport()
    }

    /// The address of the peer.
    pub fn peer(&self) -> &Address {
        self.transport().peer()
    }
}

impl futures_core::Stream for WebSocket {
    type Item = Result<Message, WebSocketError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.socket().poll_recv(cx)
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let Some(mut socket) = self.socket.take() else { return };
        match self.slot.upgrade() {
            _ if std::thread::panicking() => socket.hang_up(code::INTERNAL_ERROR),
            Some(slot) => slot.0.set(Some(socket)),
            None => socket.hang_up(code::GOING_AWAY),
        }
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("peer", self.peer()).finish_non_exhaustive()
    }
}
