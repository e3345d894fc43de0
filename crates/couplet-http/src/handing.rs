//! [`Continued`]: connections of HTTP/1.1 that move to another process.
//!
//! Contract: 51d.

use couplet_core::hooks::named_protocol;
use couplet_core::{Protocol, Result, Transport};

/// Continues a connection that a server of another process, such as the one before a restart, has
/// [handed over](couplet_core::Reactor::hand_over). The server of this loop with the same
/// [name](super::HttpOptions::hand_over_as) serves the next requests, as if it had accepted the
/// connection. Without such a server the connection is closed.
///
/// A connection of HTTP/1.1 moves while it waits for a request; a part of the request's head moves
/// with it. The times for [keep-alive](super::HttpOptions::keep_alive) and for a head start again. A
/// connection with a request in progress stays, and the next response head that it sends says
/// `connection: close`. Connections of HTTP/2, over TLS, or with an upgraded protocol stay.
///
/// ```
/// use couplet::http::{Body, Continued, HttpExt, HttpOptions, Request, Response};
/// use couplet::reactor::HandedOver;
/// use couplet::{Port, Reactor, Result};
/// use std::convert::Infallible;
/// use tower::service_fn;
///
/// async fn hello(_: Request<Body>) -> Result<Response<String>, Infallible> {
///     Ok(Response::new("hello, world\n".into()))
/// }
///
/// /// In both processes.
/// fn serve(reactor: &Reactor) -> Result<Port> {
///     let options = HttpOptions::default().hand_over_as("hello");
///     reactor.serve_http_with("tcp:8000", service_fn(hello), options)
/// }
///
/// /// In the new process, after `serve`. A program of `couplet-runner` writes, instead of this function,
/// /// `.takes_over(Continued::KIND, |state, _| Continued::new(state))`.
/// fn continue_connection(reactor: &Reactor, handed: HandedOver) -> Result<()> {
///     let protocol = Continued::new(handed.state())?;
///     reactor.take_over(handed, protocol)?.detach();
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Continued(String);

impl Continued {
    /// The [kind](couplet_core::reactor::HandedOver::kind) of such a connection.
    pub const KIND: &str = "couplet.http";

    /// For a connection with this [state](couplet_core::reactor::HandedOver::state).
    ///
    /// # Errors
    ///
    /// If the state does not belong to such a connection.
    pub fn new(state: &[u8]) -> Result<Continued> {
        Ok(Continued(std::str::from_utf8(state)?.to_owned()))
    }
}

impl Protocol for Continued {
    fn connection_made(&mut self, transport: &Transport) {
        if let Some(protocol) = named_protocol(transport.reactor(), &self.0) {
            transport.upgrade(protocol);
        } else {
            tracing::debug!(server = self.0, "a connection that has moved has no server");
            transport.lose_connection();
        }
    }

    /// Not called before the upgrade.
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}
