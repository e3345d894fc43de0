//! HTTP/1.1 by [hyper](https://hyper.rs) and HTTP/2, for any tower service, such as axum's `Router`.
//! Feature `http`.
//!
//! hyper parses and frames HTTP/1.1, and both versions for the client; servers have their own
//! HTTP/2. The loop owns the connections, their timeouts, their memory and their shutdown.
//! [`serve_http`](HttpExt::serve_http) starts a server on any endpoint: TCP, UNIX sockets, `haproxy:`
//! behind a proxy, or `tls:`, which offers both versions by ALPN.
//!
//! ```
//! use couplet::http::{Body, HttpExt, Request, Response};
//! use std::convert::Infallible;
//! use tower::service_fn;
//!
//! async fn hello(_: Request<Body>) -> Result<Response<String>, Infallible> {
//!     Ok(Response::new("hello, world\n".into()))
//! }
//!
//! couplet::run(|reactor| {
//!     let port = reactor.serve_http("tcp:0:interface=127.0.0.1", service_fn(hello))?;
//!     println!("{}", port.host().url("http").expect("a TCP port"));
//! #   reactor.stop();
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! # Server behaviour
//!
//! - Speaks HTTP/2 if ALPN selects it or the client opens with its connection preface; otherwise
//!   HTTP/1.1.
//! - Runs the requests of a connection on the loop's thread. The service need not be `Send`; for a
//!   router that requires `Send`, wrap it in [`local`].
//! - Refuses requests that RFC 9112 and RFC 9113 forbid a server to process, and logs the reason at
//!   debug level.
//! - Limits every wait for the client, and the memory held during it: [`HttpOptions`].
//! - Answers complete requests from a client that has closed its sending side.
//! - Answers 500 if the service fails or panics, and logs the error.
//! - Lets requests finish during a [drain](Reactor::drain): HTTP/1.1 sends `connection: close`,
//!   HTTP/2 sends GOAWAY, and connections without a request close immediately. Endless responses,
//!   such as event streams, and upgraded connections are closed when the drain's time limit
//!   expires.
//! - Hands idle connections of HTTP/1.1 to a restarted program: [`Continued`].
//! - Frees the buffers of a connection after 50 to 100 ms without a request.
//! - Takes the `date` header from the loop's world: in the simulator it is virtual time.
//! - Runs all requests of an HTTP/2 connection in its task, and writes the responses of a turn
//!   together.
//! - Supports hyper's upgrades, also of an HTTP/2 CONNECT; the upgraded connection stays on the loop's thread.
//!
//! # Services that need tokio
//!
//! hyper, tower and axum's routers need only a loop. A service that calls `tokio::spawn`, as axum's
//! WebSockets do, or `tokio::time` needs a runtime on the same thread: `serve` runs a loop inside
//! the caller's runtime (features `http` and `tokio`), and the module `embed` does so for any
//! program.

#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

macro_rules! log_error {
    ($($event:tt)*) => { ::couplet_core::hooks::emit(|| ::tracing::error!($($event)*)) };
}

mod access;
mod allowance;
mod body;
mod client;
mod client_left;
mod connection;
mod file_body;
mod handing;
mod handler;
mod http2;
mod io;
mod local;
mod monitor;
mod options;
mod refusal;
#[cfg(all(unix, feature = "tokio"))]
mod serve;
mod share;
mod url;
mod warm;
#[cfg(feature = "websocket")]
pub mod websocket;

use std::rc::Rc;

use bytes::Bytes;
use tower_service::Service;

pub use allowance::Allowance;
pub use body::{Body, BodyError};
pub use client::{Client, ClientOptions, HttpError};
pub use client_left::ClientLeft;
pub use file_body::FileBody;
pub use handing::Continued;
pub use handler::Peer;
pub use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
pub use local::{LocalAnswer, LocalService, local};
pub use options::HttpOptions;
#[cfg(all(unix, feature = "tokio"))]
pub use serve::serve;
pub use url::parse_url;

use couplet_core::endpoints::{IntoEndpoint, ServerEndpoint};
use couplet_core::{Failure, Port, Reactor, Result};

/// Serves and connects, as methods of [`Reactor`].
pub trait HttpExt {
    /// Serves HTTP on `endpoint` with `service`, which is cloned for each request.
    ///
    /// # Errors
    ///
    /// As for [`listen`](Reactor::listen).
    #[track_caller]
    fn serve_http<S, B>(
        &self,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        service: S,
    ) -> Result<Port>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + 'static,
        S::Error: Into<Failure>,
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<Failure>,
    {
        self.serve_http_with(endpoint, service, HttpOptions::default())
    }

    /// [`serve_http`](Self::serve_http) with options.
    ///
    /// # Errors
    ///
    /// As for [`serve_http`](Self::serve_http).
    #[track_caller]
    fn serve_http_with<S, B>(
        &self,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        service: S,
        options: HttpOptions,
    ) -> Result<Port>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + 'static,
        S::Error: Into<Failure>,
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<Failure>;

    /// Connects to a WebSocket, given as a `ws:` or `wss:` URL or a
    /// [`WebSocketRequest`](websocket::WebSocketRequest). Cancelling the Deferred stops the
    /// attempt.
    ///
    /// Fails like [`connect`](Reactor::connect), or with a
    /// [`HandshakeError`](websocket::HandshakeError) that contains the server's response. Redirects
    /// are not followed.
    #[cfg(feature = "websocket")]
    #[track_caller]
    fn connect_websocket(
        &self,
        request: impl Into<websocket::WebSocketRequest>,
    ) -> couplet_core::Deferred<websocket::WebSocket>;
}

impl HttpExt for Reactor {
    #[track_caller]
    fn serve_http_with<S, B>(
        &self,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        service: S,
        options: HttpOptions,
    ) -> Result<Port>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + 'static,
        S::Error: Into<Failure>,
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<Failure>,
    {
        let (protocols, name) = (options.versions.alpn(), options.name.clone());
        let server = Rc::new(connection::Server::new(self, service, options));
        couplet_core::hooks::serve_offering(
            self,
            protocols,
            name.as_deref(),
            endpoint,
            move |stream| connection::run(stream, server.clone()),
        )
    }

    #[cfg(feature = "websocket")]
    #[track_caller]
    fn connect_websocket(
        &self,
        request: impl Into<websocket::WebSocketRequest>,
    ) -> couplet_core::Deferred<websocket::WebSocket> {
        websocket::connect(self, request.into())
    }
}
