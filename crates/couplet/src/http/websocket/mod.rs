//! WebSockets, RFC 6455: for clients, and for handlers of requests. Feature `websocket`.
//!
//! [tungstenite](https://docs.rs/tungstenite) has the state machine of the protocol; the connection, its
//! back-pressure, its limits, its times and its end are the loop's.
//!
//! ```
//! use couplet::http::websocket::{self, Message, WebSocket, WebSocketOptions};
//! use couplet::http::{Body, Request, Response};
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
//! # What a WebSocket does
//!
//! - While a program waits in [`recv`](WebSocket::recv), pings are answered, a silent peer is pinged, and
//!   one that stays silent is given up. A program that only sends must receive as well: wait for both,
//!   by a `select`, say; a `recv` that is dropped has lost nothing.
//! - Who does not receive stops the peer, and who sends more than the peer takes waits.
//! - What the peer does wrong is answered with the code for it (1002, 1007, 1009) and is an error here.
//!   Messages that came before are received first.
//! - A [drain](Reactor::drain) sends code 1001 where the program waits in `recv`, which then gives what
//!   the peer has sent before its answer, and ends.
//! - A WebSocket that is dropped says code 1001, or 1011 in a panic, and closes the connection in the
//!   order of [`lose_connection`](Transport::lose_connection).
//! - Every wait for the peer has a limit: [`WebSocketOptions`].
//!
//! # What is missing
//!
//! There are no extensions, so no compression (`permessage-deflate`): an offer of one is passed over, as
//! RFC 6455 permits. [`upgrade`] takes WebSockets over HTTP/2 (RFC 8441) too; a client opens none.

mod alarm;
mod client;
mod error;
mod guest;
mod message;
mod options;
mod server;
mod socket;
mod texts;
mod wire;

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

pub use client::WebSocketRequest;
pub use error::{HandshakeError, WebSocketError};
pub use message::{Close, Message, Text, code};
pub use options::WebSocketOptions;
pub(super) use server::Origin;
pub use server::upgrade;
use socket::Socket;

#[cfg(doc)]
use crate::Reactor;
use crate::{Address, Transport};

/// A WebSocket. The [module](self) explains it. Also a `Stream` of `futures-core`, of its messages.
pub struct WebSocket {
    /// `None` while it is dropped.
    socket: Option<Box<Socket>>,
    /// Where it goes when it is dropped, if that is still there.
    home: Weak<Home>,
}

/// Where a handler's WebSocket is left.
#[derive(Default)]
struct Home(Cell<Option<Box<Socket>>>);

impl Home {
    fn take(&self) -> Option<WebSocket> {
        let socket = self.0.take()?;
        Some(WebSocket { socket: Some(socket), home: Weak::new() })
    }
}

impl WebSocket {
    fn new(socket: Socket) -> WebSocket {
        WebSocket { socket: Some(Box::new(socket)), home: Weak::new() }
    }

    /// A WebSocket that is given back when it is dropped.
    fn of_handler(socket: Socket) -> (WebSocket, Rc<Home>) {
        let home = Rc::<Home>::default();
        let socket = Some(Box::new(socket));
        (WebSocket { socket, home: Rc::downgrade(&home) }, home)
    }

    fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("it is there until it is dropped")
    }

    fn shared(&self) -> &Socket {
        self.socket.as_ref().expect("it is there until it is dropped")
    }

    /// The next message; `None` once the WebSocket was closed, by whom [`peer_close`](Self::peer_close)
    /// tells.
    ///
    /// Cancel-safe: a future that is dropped has taken no message.
    ///
    /// # Errors
    ///
    /// When the peer breaks the protocol or a limit, is silent for too long, or is gone without a close.
    /// There is one error at most; then there is `None`.
    pub fn recv(&mut self) -> impl Future<Output = Option<Result<Message, WebSocketError>>> {
        let socket = self.socket();
        poll_fn(move |cx| socket.poll_recv(cx))
    }

    /// Sends a message, once less is buffered than the transport's high mark; it leaves by the end of
    /// the turn.
    ///
    /// Cancel-safe: a future that is dropped has sent nothing.
    ///
    /// # Errors
    ///
    /// When the WebSocket is closed or lost, or the peer takes nothing for too long.
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

    /// Sends a ping of at most 125 bytes. The connection pings a silent peer without being asked.
    ///
    /// Cancel-safe: a future that is dropped has sent nothing.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), and when the payload is longer.
    pub async fn ping(&mut self, payload: impl Into<Bytes>) -> Result<(), WebSocketError> {
        let (socket, payload) = (self.socket(), payload.into());
        poll_fn(|cx| {
            ready!(socket.poll_ready(cx))?;
            Poll::Ready(socket.ping(cx, payload.clone()))
        })
        .await
    }

    /// Closes the WebSocket, and waits for its end. Messages that still come are dropped.
    ///
    /// Cancel-safe: the peer is told nevertheless.
    ///
    /// # Errors
    ///
    /// When no peer gets this code (such as [`NO_STATUS`](code::NO_STATUS)), or the reason has more than
    /// 123 bytes: then nothing happens. When the peer does not answer in time, or does something else
    /// wrong.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<(), WebSocketError> {
        self.begin_close(code, reason)?;
        while let Some(message) = self.recv().await {
            message?;
        }
        Ok(())
    }

    /// Tells the peer that nothing more will be sent, unless it was told, or has said so itself. What it
    /// has sent before it answers can still be received.
    ///
    /// # Errors
    ///
    /// When no peer gets this code, or the reason is too long, as for [`close`](Self::close).
    pub fn begin_close(&mut self, code: u16, reason: &str) -> Result<(), WebSocketError> {
        socket::check_close(code, reason)?;
        self.socket().begin_close(code, reason);
        Ok(())
    }

    /// Why the peer closed the WebSocket, or how it answered our close; `None` until it has.
    pub fn peer_close(&self) -> Option<&Close> {
        self.shared().close.as_ref()
    }

    /// The subprotocol that both ends agreed on.
    pub fn protocol(&self) -> Option<&str> {
        self.shared().protocol.as_deref()
    }

    /// The transport underneath, for its settings: marks, options of the socket. Over HTTP/2 others use
    /// it, too.
    pub fn transport(&self) -> &Transport {
        self.shared().wire().transport()
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
        match self.home.upgrade() {
            _ if std::thread::panicking() => socket.hang_up(code::INTERNAL_ERROR),
            Some(home) => home.0.set(Some(socket)),
            None => socket.hang_up(code::GOING_AWAY),
        }
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("peer", self.peer()).finish_non_exhaustive()
    }
}
