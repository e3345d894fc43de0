//! # WebSockets
//!
//! A WebSocket carries messages both ways over a connection that begins as a request of HTTP. With the
//! feature `websocket`, [`http::websocket`](crate::http::websocket) has both ends of RFC 6455.
//!
//! A handler is a function of the socket, and runs as a task. This one echoes, and the client is in the
//! same loop; nothing here opens a socket of the system's, because [`testing::run`](crate::testing::run)
//! runs it in memory:
//!
//! ```
//! use couplet::http::websocket::{self, Message, WebSocket, WebSocketOptions, code};
//! use couplet::http::{Body, Request, Response};
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
//! The service decides by the request, its path, its cookies or its `origin`, whether there is a
//! WebSocket at all: pages of any site may ask for one, and browsers send the user's cookies along.
//! `wss:` is a `tls:` endpoint under the server, and a URL for the client; subprotocols, headers and
//! another endpoint are on a [`WebSocketRequest`](crate::http::websocket::WebSocketRequest).
//!
//! ## Waiting for two things
//!
//! Pings are answered and drains are heard while the program waits in
//! [`recv`](crate::http::websocket::WebSocket::recv), so a handler that sends of its own accord waits for
//! both. A `recv` that is dropped has lost nothing:
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
//! A program that does not receive stops its peer, by TCP. A `send` is done when the message is in the
//! buffer of the connection, and waits first while that is above its high mark (64 KiB unless
//! [set](crate::Transport::set_write_marks)). So the memory of a WebSocket is bounded by the marks, one
//! message of yours and [`max_message`](crate::http::websocket::WebSocketOptions::max_message) of the
//! peer's, whatever the peer does.
//!
//! ## Ends
//!
//! | what happens | the program gets | the peer gets |
//! | --- | --- | --- |
//! | the peer closes | `None`, and its code from `peer_close` | the same code |
//! | `close` | `Ok` once the peer has answered | the code |
//! | the handler returns; fails or panics | | 1000; 1011 |
//! | the WebSocket is dropped elsewhere | | 1001 |
//! | the loop drains | what still comes, then `None` | 1001 |
//! | the peer breaks the protocol; sends a text that is not UTF-8; too long a message | an error | 1002; 1007; 1009 |
//! | the peer is silent, or takes nothing | an error | a reset |
//! | the connection is cut | an error | |
//!
//! Each wait has a limit in [`WebSocketOptions`](crate::http::websocket::WebSocketOptions): a peer is
//! pinged after 30 s of silence and given up 30 s later, a `send` waits for at most 60 s, a close for 10 s.
//!
//! ## axum
//!
//! axum's own `WebSocketUpgrade` works over [`serve_http`](crate::Reactor::serve_http) too, on a loop
//! inside tokio; the example `axum` has one. Its limits and times are its own, and it hears of no drain.
//! Inside a router, a handler of this module goes into [`http::local`](crate::http::local).
//!
//! ## What there is not
//!
//! No extension is negotiated, so messages are not compressed.
