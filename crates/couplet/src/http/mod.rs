//! HTTP/1.1 and HTTP/2 by [hyper](https://hyper.rs), for any service of tower: axum's `Router` among
//! them. Feature `http`.
//!
//! hyper parses and frames; the connections, their time limits, their end and their memory are the
//! loop's. A server is one call, [`Reactor::serve_http`], on any endpoint: `tls:`, which offers both versions
//! by ALPN, UNIX sockets, behind a proxy.
//!
//! ```
//! use couplet::http::{Body, Request, Response};
//! use std::convert::Infallible;
//! use tower::service_fn;
//!
//! async fn hello(_: Request<Body>) -> Result<Response<String>, Infallible> {
//!     Ok(Response::new("hello, world\n".into()))
//! }
//!
//! couplet::run(|reactor| {
//!     let port = reactor.serve_http("tcp:0:interface=127.0.0.1", service_fn(hello))?;
//!     println!("http://{}", port.host());
//! #   reactor.stop();
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! # What a server does
//!
//! - It speaks HTTP/2 where ALPN chose it, and to clients that begin with its preface; else HTTP/1.1.
//! - Requests of a connection run in the thread of the loop. A service that is not `Send` serves as it
//!   is; inside a router that asks for more, wrap it in [`local`].
//! - It refuses requests that RFC 9112 and RFC 9113 forbid a server to process, and logs why at debug level.
//! - Every wait for the client has a limit, and so has what waits for it: [`HttpOptions`].
//! - A client that closes its sending side after whole requests gets its answers.
//! - A service's error or panic is answered with 500, and logged.
//! - A [drain](Reactor::drain) lets requests finish: HTTP/1.1 says `connection: close`, HTTP/2 sends
//!   GOAWAY, connections without a request close at once. Answers without an end, such as events, and
//!   connections that were upgraded are closed when the drain's time is over.
//! - An idle connection of HTTP/1.1 gives its buffers back after five seconds.
//! - The `date` comes from the loop's world: in the simulator it is virtual.
//! - hyper's upgrades work: what they give stays in the loop's thread.
//!
//! # Services that need tokio
//!
//! A loop alone is enough for hyper, tower and axum's routers. A service that calls `tokio::spawn`, as
//! axum's WebSockets do, or `tokio::time`, needs a runtime in the same thread: `serve` runs a loop inside
//! that of the caller (features `http` and `tokio`), and the module `embed` does so for any program.

mod allowance;
mod body;
mod client;
mod connection;
mod handler;
mod io;
mod local;
mod options;
mod refusal;
#[cfg(all(unix, feature = "tokio"))]
mod serve;
mod share;
mod warm;
mod watch;
#[cfg(feature = "websocket")]
pub mod websocket;

use std::error::Error;
use std::rc::Rc;

use bytes::Bytes;
use tower_service::Service;

pub use allowance::Allowance;
pub use body::{Body, BodyError};
pub use client::{Client, ClientOptions, HttpError};
pub use handler::Peer;
pub use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
pub use local::{LocalAnswer, LocalService, local};
pub use options::HttpOptions;
#[cfg(all(unix, feature = "tokio"))]
pub use serve::serve;

use crate::endpoints::{IntoEndpoint, ServerEndpoint};
use crate::{Port, Reactor, Result};

impl Reactor {
    /// Serves HTTP on an endpoint by a service, which is cloned for each request.
    ///
    /// # Errors
    ///
    /// As for [`listen`](Reactor::listen).
    #[track_caller]
    pub fn serve_http<S, B>(
        &self,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        service: S,
    ) -> Result<Port>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.serve_http_with(endpoint, service, HttpOptions::default())
    }

    /// [`serve_http`](Self::serve_http) with other limits.
    ///
    /// # Errors
    ///
    /// As there.
    #[track_caller]
    pub fn serve_http_with<S, B>(
        &self,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        service: S,
        options: HttpOptions,
    ) -> Result<Port>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: http_body::Body<Data = Bytes> + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let protocols: &[&str] = match (options.http1, options.http2) {
            (true, true) => &["h2", "http/1.1"],
            (false, true) => &["h2"],
            (true, false) => &["http/1.1"],
            (false, false) => &[],
        };
        let server = Rc::new(connection::Server::new(self, service, options));
        self.serve_offering(protocols, endpoint, move |stream| {
            connection::run(stream, server.clone())
        })
    }
}

/// The port of a URL, or the usual one; `None` if it is no number from 1 to 65535. The crate `http` takes
/// such a URL for one without a port.
fn port_of(uri: &Uri, usual: u16) -> Option<u16> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let rest = host_and_port.rsplit_once(']').map_or(host_and_port, |(_, rest)| rest);
    match rest.split_once(':') {
        None | Some((_, "")) => Some(usual),
        Some((_, port)) if port.starts_with('+') => None,
        Some((_, port)) => port.parse().ok().filter(|&port| port > 0),
    }
}
