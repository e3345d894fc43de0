//! Streams for endpoints: connecting and serving.
//!
//! Contract: 44.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::Location;
use std::rc::Rc;

use super::Stream;
use super::shared::StreamProtocol;
use crate::defer::Panicked;
use crate::endpoints::{ClientEndpoint, IntoEndpoint, ServerEndpoint};
use crate::panics::Contained;
use crate::{
    Address, Deferred, Factory, Failure, IntoFactory, Port, Protocol, Reactor, Result, Transport,
};

impl Reactor {
    /// Connects to an endpoint; the Deferred fires with the stream, and fails like
    /// [`connect`](Reactor::connect). Cancelling it stops the attempt.
    #[track_caller]
    pub fn connect_stream(
        &self,
        endpoint: impl IntoEndpoint<dyn ClientEndpoint>,
    ) -> Deferred<Stream> {
        let made: Rc<Cell<Option<Stream>>> = Rc::default();
        let slot = made.clone();
        let protocol = StreamProtocol::new(move |stream| slot.set(Some(stream)));
        self.connect_protocol(endpoint, protocol)
            .map(move |_| made.take().expect("the connection was made"))
    }

    /// Listens on an endpoint, and runs `handle` as a task for each connection, with its stream.
    ///
    /// A handler that returns an error, or panics, ends its own connection with that error or panic
    /// as the reason. After an error the output is sent first; after a panic the connection is
    /// reset. Both are logged at level error, except the errors of reading and writing
    /// ([`io::Error`](std::io::Error)), which are the peer's and logged at level debug.
    ///
    /// # Errors
    ///
    /// Like [`listen`](Reactor::listen).
    #[track_caller]
    pub fn serve(
        &self,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        handle: impl AsyncFn(Stream) -> Result<()> + 'static,
    ) -> Result<Port> {
        self.listen(endpoint, stream_factory(handle, Location::caller(), log_failure))
    }

    /// Like [`serve`](Self::serve), with application protocols for TLS to offer unless its endpoint
    /// names others, and a name under which it continues connections of another process.
    #[track_caller]
    pub(crate) fn serve_offering(
        &self,
        protocols: &'static [&'static str],
        name: Option<&str>,
        endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
        handle: impl AsyncFn(Stream) -> Result<()> + 'static,
    ) -> Result<Port> {
        // HTTP, which logs the failures of services.
        let factory = Rc::new(stream_factory(handle, Location::caller(), debug_failure));
        let build = factory.clone();
        // The name lasts as long as the port.
        let named = name.map(|name| self.name_factory(name, move || Box::new(build())));
        self.listen_offering(protocols, endpoint, move || {
            let _ = &named;
            factory()
        })
    }
}

/// Marks `async |stream: Stream| -> Result<()>`.
#[derive(Debug)]
pub struct IsHandler;

/// An async closure that serves streams, as a factory: see [`Reactor::serve`].
pub struct FromHandler {
    build: Box<dyn Fn() -> StreamProtocol>,
}

impl fmt::Debug for FromHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromHandler").finish_non_exhaustive()
    }
}

impl Factory for FromHandler {
    type Protocol = Box<dyn Protocol>;

    fn build_protocol(&mut self, _: &Address) -> Option<Box<dyn Protocol>> {
        Some(Box::new((self.build)()))
    }
}

/// A handler of streams, wherever a factory is expected: in [`Reactor::listen`], and behind policies.
///
/// ```
/// use couplet::protocols::{LimitConnections, Policy};
/// use couplet::stream::Stream;
///
/// # fn main() -> couplet::Result<()> {
/// # let l = couplet::Loop::new()?;
/// # let reactor = l.reactor();
/// let handler = async |mut stream: Stream| {
///     stream.write_all(b"hello").await?;
///     Ok(())
/// };
/// reactor.listen("localhost:0", LimitConnections::new(100).wrap(handler))?;
/// # Ok(())
/// # }
/// ```
impl<H: AsyncFn(Stream) -> Result<()> + 'static> IntoFactory<IsHandler> for H {
    type Factory = FromHandler;

    #[track_caller]
    fn into_factory(self) -> FromHandler {
        FromHandler { build: Box::new(stream_factory(self, Location::caller(), log_failure)) }
    }
}

/// Builds the protocol of each stream, with its handler, whose task is shown with this place.
fn stream_factory(
    handle: impl AsyncFn(Stream) -> Result<()> + 'static,
    place: &'static Location<'static>,
    log: LogFailure,
) -> impl Fn() -> StreamProtocol + 'static {
    let handle = Rc::new(Contained::new(handle));
    move || {
        let handle = handle.clone();
        StreamProtocol::new(move |stream| run_handler(stream, handle, place, log))
    }
}

/// Runs the handler as a task. A panic from dropping `handle`, perhaps with its last task, is
/// contained.
fn run_handler(
    stream: Stream,
    handle: Rc<Contained<impl AsyncFn(Stream) -> Result<()> + 'static>>,
    place: &'static Location<'static>,
    log: LogFailure,
) {
    let transport = stream.transport().clone();
    let reactor = transport.reactor().clone();
    let task = reactor.spawn_at(place, async move { (**handle)(stream).await });
    task.add_errback(move |failure| {
        end_connection(&transport, failure, log);
        Ok(())
    })
    .detach();
}

fn end_connection(transport: &Transport, failure: Failure, log: LogFailure) {
    if failure.downcast_ref::<Panicked>().is_some() {
        let connection = transport.id();
        log_error!(%connection, peer = %transport.peer(), %failure, "a handler panicked");
        transport.abort_connection();
    } else {
        log(transport, &failure);
        transport.fail(failure);
    }
}

/// Logs the error of a handler.
type LogFailure = fn(&Transport, &Failure);

/// An error of a stream is the peer's doing; any other has no reader but the log.
fn log_failure(transport: &Transport, failure: &Failure) {
    if failure.downcast_ref::<io::Error>().is_some() {
        return debug_failure(transport, failure);
    }
    let connection = transport.id();
    log_error!(%connection, peer = %transport.peer(), %failure, "a handler failed");
}

fn debug_failure(transport: &Transport, failure: &Failure) {
    let connection = transport.id();
    tracing::debug!(%connection, peer = %transport.peer(), %failure, "a handler failed");
}
