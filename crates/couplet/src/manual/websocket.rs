//! # WebSockets
//!
//! A WebSocket carries messages in both directions over a connection that begins as an HTTP
//! request. With the feature `websocket`, [`http::websocket`](crate::http::websocket) implements
//! both ends of RFC 6455.
//!
//! A handler is an async function that takes the socket, and runs as a task. This one echoes, with
//! the client in the same loop; [`testing::run`](crate::testing::run) runs both in memory, without
//! system sockets:
//!
//! ```
//! use couplet::http::websocket::{self, Message, WebSocket, WebSocketOptions, code};
//! use couplet::http::{Body, HttpExt, Request, Response};
//! use std::convert::Infallible;
//! use tower::service_fn;
//!
//! async fn echo(mut socket: WebSocket) -> couplet::Result<()> {
//!     while let Some(message) = socket.recv().await {
//!         socket.send(message?).await?;
//!     }
//!     Ok(())
//! }
//!
//! couplet::testing::run(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         let service = service_fn(async |mut request: Request<Body>| {
//!             let options = WebSocketOptions::default().protocols(["echo"]);
//!             let answer: Response<String> = websocket::upgrade(&mut request, options, echo);
//!             Ok::<_, Infallible>(answer)
//!         });
//!         let port = reactor.serve_http("tcp:8000", service)?;
//!
//!         let mut socket = reactor.connect_websocket("ws://localhost:8000/").await?;
//!         socket.send("hello").await?;
//!         assert_eq!(socket.recv().await.transpose()?, Some(Message::from("hello")));
//!         socket.close(code::NORMAL, "").await?;
//!
//!         port.stop_listening().expect("it listens").await
//!     })
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! The service decides from the request (its path, its cookies, its `origin`) whether to accept a
//! WebSocket: pages of any site may request one, and browsers send the user's cookies along. For
//! `wss:`, a server listens on a `tls:` endpoint and a client uses such a URL. A client sets
//! subprotocols, headers or another endpoint on a
//! [`WebSocketRequest`](crate::http::websocket::WebSocketRequest).
//!
//! ## Sending unprompted
//!
//! The socket answers pings and notices drains while the program waits in
//! [`recv`](crate::http::websocket::WebSocket::recv). So a handler that sends unprompted waits for
//! `recv` and its own event at the same time. Dropping a `recv` loses no message:
//!
//! ```
//! use couplet::http::websocket::WebSocket;
//! use futures_util::future::{Either, select};
//! use std::pin::pin;
//! use std::time::Duration;
//!
//! async fn tick(mut socket: WebSocket) -> couplet::Result<()> {
//!     let reactor = socket.transport().reactor().clone();
//!     let mut pause = reactor.sleep(Duration::from_secs(1));
//!     loop {
//!         let received = match select(pin!(socket.recv()), &mut pause).await {
//!             Either::Left((received, _)) => Some(received),
//!             Either::Right(_) => None,
//!         };
//!         match received {
//!             None => {
//!                 socket.send("tick").await?;
//!                 pause = reactor.sleep(Duration::from_secs(1));
//!             }
//!             // What the client says is ignored.
//!             Some(Some(Ok(_))) => {}
//!             Some(Some(Err(_)) | None) => break,
//!         }
//!     }
//!     pause.cancel();
//!     Ok(())
//! }
//! ```
//!
//! ## Back-pressure
//!
//! A program that does not receive stops its peer, by TCP flow control. A `send` completes when the
//! message is in the connection's buffer, and waits first while the buffer is above the high
//! watermark (64 KiB unless [set](crate::Transport::set_write_marks)). So the memory of a WebSocket
//! is bounded by the watermark, one outgoing message, and one incoming message of up to
//! [`max_message`](crate::http::websocket::WebSocketOptions::max_message) bytes.
//!
//! ## Closing
//!
//! | event | the program gets | the peer gets |
//! | --- | --- | --- |
//! | the peer closes | `None`, and its code from `peer_close` | the same code |
//! | `close` | `Ok` once the peer has answered | the code |
//! | the handler returns; fails or panics | | 1000; 1011 |
//! | the WebSocket is dropped elsewhere | | 1001 |
//! | the loop drains | the remaining messages, then `None` | 1001 |
//! | the peer violates the protocol; sends text that is not UTF-8; sends too long a message | an error | 1002; 1007; 1009 |
//! | the peer is silent, or reads nothing | an error | a reset |
//! | the connection is cut | an error | |
//!
//! Each wait has a limit in [`WebSocketOptions`](crate::http::websocket::WebSocketOptions): a peer
//! is pinged after 30 s of silence and dropped 30 s later, a `send` waits for at most 60 s, a close
//! for 10 s.
//!
//! ## axum
//!
//! axum's own `WebSocketUpgrade` also works over [`serve_http`](crate::http::HttpExt::serve_http), on a
//! loop inside tokio, as in the example `axum`. It has its own limits and timeouts, and doesn't
//! notice drains. To use a handler of this module in a router, wrap it in
//! [`http::local`](crate::http::local).
//!
//! ## Not included
//!
//! No extensions are negotiated, so messages are not compressed.
