//! [`StreamServerService`]: listens on an endpoint. Twisted's class of the same name.
//!
//! Contract: 139k.

use std::fmt;
use std::time::Duration;

use super::opening::Opening;
use super::service::Service;
use crate::defer::Deferred;
use crate::endpoints::{EndpointError, IntoEndpoint, ServerEndpoint};
use crate::reactor::Drain;
use crate::{Factory, IntoFactory, Port, Reactor, Result, Shared};

/// Listens on an endpoint while it is started. To stop, it closes the port and
/// [drains](Port::drain) its connections; cancelled, it ends the drain's first stage. Twisted's
/// class of the same name, whose connections stay.
///
/// ```
/// # use couplet::{Protocol, Transport};
/// # struct Echo;
/// # impl Protocol for Echo { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
/// use std::time::Duration;
///
/// use couplet::services::StreamServerService;
///
/// let echo = StreamServerService::new("echo", "localhost:0", || Echo)?
///     .drain(Duration::from_secs(20))
///     .on_listening(|port| println!("listening on {}", port.host()));
/// # drop(echo);
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct StreamServerService {
    name: String,
    opening: Opening<Port>,
    drain: Drain,
    port: Option<Port>,
}

impl StreamServerService {
    /// A service that listens on `endpoint` and builds a protocol for each connection.
    ///
    /// # Errors
    ///
    /// If a string is not a valid endpoint.
    pub fn new<K, F>(
        name: impl Into<String>,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        factory: F,
    ) -> Result<Self, EndpointError>
    where
        F: IntoFactory<K>,
        F::Factory: Factory,
    {
        let (endpoint, factory) = (endpoint.into_endpoint()?, Shared::new(factory.into_factory()));
        Ok(Self::opening(name, move |reactor| reactor.listen(endpoint.clone(), factory.clone())))
    }

    /// A service that opens its port by this function, each time it starts: for
    /// handlers in async style ([`serve`](Reactor::serve)), and for HTTP, as in
    /// `StreamServerService::opening("web", move |reactor| reactor.serve_http(endpoint, app.clone()))`.
    pub fn opening(
        name: impl Into<String>,
        open: impl Fn(&Reactor) -> Result<Port> + 'static,
    ) -> Self {
        StreamServerService {
            name: name.into(),
            opening: Opening::new(open),
            drain: Drain::within(Duration::from_secs(5)),
            port: None,
        }
    }

    /// Sets how long connections may finish when the service stops: 5 s by default. The child's
    /// [`stop_within`](super::Child::stop_within) should be longer.
    #[must_use]
    pub fn drain(mut self, times: impl Into<Drain>) -> Self {
        self.drain = times.into();
        self
    }

    /// Sets a closure that is called with the port each time it has been opened.
    #[must_use]
    pub fn on_listening(mut self, f: impl FnMut(&Port) + 'static) -> Self {
        self.opening.on_listening(f);
        self
    }
}

impl Service for StreamServerService {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        let opened = self.opening.open(reactor);
        Deferred::from_result(opened.map(|port| self.port = Some(port)))
    }

    fn stop(&mut self) -> Deferred<()> {
        match self.port.take() {
            Some(port) => port.drain(self.drain).map(drop),
            None => Deferred::succeed(()),
        }
    }
}

impl fmt::Debug for StreamServerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamServerService")
            .field("name", &self.name)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
