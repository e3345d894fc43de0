//! Connections that the user made by other means, and passes to the loop. Twisted's
//! `adoptStreamConnection`.
//!
//! Contract: 51a.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::dependents::DependentGuard;
#[cfg(unix)]
use super::dependents::{Dependent, DependentId};
use super::records::Start;
use crate::defer::{Cancelled, Deferred, Failure};
use crate::driver::Adopted;
use crate::driver::ConnectedSocket;
#[cfg(unix)]
use crate::driver::Pipe;
use crate::factory::{ErasedFactory, Factory, FactorySlot, IntoFactory};
use crate::layers::Opened;
use crate::protocol::Protocol;
use crate::recorder::{Reactor, Source, loop_ended};
use crate::transport::{Connection, Transport};

pub(super) type Done = Box<dyn FnOnce(Result<Transport, Failure>)>;

/// A socket for the turn to serve.
pub(super) struct AdoptionCell {
    /// `Some` until the turn takes it or the Deferred is cancelled.
    pub(super) pending: RefCell<Option<PendingAdoption>>,
    pub(super) place: Source,
}

/// An adopted socket or pipe, and the program at its other end if the two end together.
pub(super) struct AdoptionSource {
    pub(super) adopted: Adopted,
    pub(super) attached: Option<DependentGuard>,
    /// Whether it belongs to the port that listens on its address.
    pub(super) joins_port: bool,
    /// The information that layers added in another process.
    pub(super) opened: Option<Opened>,
}

impl From<Adopted> for AdoptionSource {
    fn from(adopted: Adopted) -> AdoptionSource {
        AdoptionSource { adopted, attached: None, joins_port: false, opened: None }
    }
}

pub(super) struct PendingAdoption {
    pub(super) source: AdoptionSource,
    pub(super) factory: FactorySlot,
    pub(super) done: Done,
}

impl Reactor {
    /// Takes over a connected socket and builds a protocol for it, in the turn. The Deferred fires
    /// with the connection after `connection_made`; cancelling it earlier closes the socket.
    ///
    /// The factory's `do_start`, `build_protocol` and `do_stop` are called. The socket becomes
    /// non-blocking; its other options do not change. Twisted's `adoptStreamConnection`.
    ///
    /// # Errors
    ///
    /// The system's error, for example if the socket is not connected;
    /// [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets.
    ///
    /// ```no_run
    /// use couplet::{Protocol, Transport};
    ///
    /// # struct Echo;
    /// # impl Protocol for Echo {
    /// #     fn data_received(&mut self, transport: &Transport, data: &[u8]) { transport.write(data); }
    /// # }
    /// couplet::run(|reactor| {
    ///     // By whatever means: through a proxy, or given by the parent process.
    ///     let socket = std::net::TcpStream::connect("127.0.0.1:8000")?;
    ///     reactor.adopt(socket, || Echo)?.detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn adopt<K, F: IntoFactory<K>>(
        &self,
        socket: impl Into<ConnectedSocket>,
        factory: F,
    ) -> io::Result<Deferred<Connection<<F::Factory as Factory>::Protocol>>> {
        Ok(self.adopt_prepared(self.world().adopt(socket.into())?, factory.into_factory()))
    }

    /// Takes over non-socket descriptors as one connection: pipes, FIFOs, terminals, files.
    /// Protocol, flow control and close work as on any connection, except that a close does not
    /// wait for the peer: a pipe keeps the bytes written to it.
    ///
    /// The descriptors become non-blocking for every process that shares them, until the connection
    /// is closed. A file is always ready, and each read or write of it waits for its disk. The loop
    /// does not handle SIGPIPE, which Rust's runtime ignores. Only on Unix. Twisted's `StandardIO`.
    ///
    /// ```
    /// use std::io::Write;
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Print;
    /// impl Protocol for Print {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         assert_eq!(data, b"Rose is a rose");
    /// #       transport.reactor().stop();
    ///     }
    /// }
    ///
    /// couplet::run(|reactor| {
    ///     let (reader, mut writer) = std::io::pipe()?;
    ///     writer.write_all(b"Rose is a rose")?;
    ///     reactor.adopt_pipe(reader, || Print)?.detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without
    /// descriptors.
    #[cfg(unix)]
    #[track_caller]
    pub fn adopt_pipe<K, F: IntoFactory<K>>(
        &self,
        pipe: impl Into<Pipe>,
        factory: F,
    ) -> io::Result<Deferred<Connection<<F::Factory as Factory>::Protocol>>> {
        Ok(self.adopt_prepared(self.world().adopt_pipe(pipe.into())?, factory.into_factory()))
    }

    /// Serves a connection that the world has already adopted.
    #[track_caller]
    pub(crate) fn adopt_prepared<F: Factory + 'static>(
        &self,
        adopted: Adopted,
        factory: F,
    ) -> Deferred<Connection<F::Protocol>> {
        AdoptionCell::start(self, AdoptionSource::from(adopted), self.attach_factory(factory))
    }

    /// [`adopt_prepared`](Self::adopt_prepared) for a connection to this program.
    #[cfg(unix)]
    #[track_caller]
    pub(crate) fn adopt_dependent<F: Factory + 'static>(
        &self,
        adopted: Adopted,
        dependent: Rc<dyn Dependent>,
        factory: F,
    ) -> Deferred<Connection<F::Protocol>> {
        let attached = Some(DependentGuard(dependent));
        let source = AdoptionSource { attached, ..AdoptionSource::from(adopted) };
        AdoptionCell::start(self, source, self.attach_factory(factory))
    }

    /// Makes the end of a run wait for this program.
    #[cfg(unix)]
    pub(crate) fn add_dependent(&self, dependent: Rc<dyn Dependent>) -> DependentId {
        self.records().dependents.borrow_mut().add(dependent)
    }

    /// Removes a program that has exited, or that cannot be waited for.
    #[cfg(unix)]
    pub(crate) fn remove_dependent(&self, id: DependentId) {
        let removed = self.records().dependents.borrow_mut().remove(id);
        drop(removed);
    }
}

impl AdoptionCell {
    pub(super) fn start<P: Protocol>(
        reactor: &Reactor,
        source: AdoptionSource,
        factory: ErasedFactory,
    ) -> Deferred<Connection<P>> {
        let cell = Rc::new(AdoptionCell { pending: RefCell::new(None), place: factory.place });
        let cancelled = cell.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |resolver| {
            if let Some(pending) = cancelled.pending.take() {
                resolver
                    .errback(Cancelled::of(format!("adopting {}", pending.source.adopted.peer)));
            }
        });
        let done: Done = Box::new(move |outcome| {
            resolver.resolve(outcome.map(|transport| transport.connection()));
        });
        let factory = FactorySlot::new(factory.factory.take());
        *cell.pending.borrow_mut() = Some(PendingAdoption { source, factory, done });
        reactor.records().start(Start::Adoption(cell));
        deferred
    }

    /// The loop is dropped, or its run is over.
    pub(super) fn abandon(&self) {
        if let Some(PendingAdoption { done, .. }) = self.pending.take() {
            done(Err(loop_ended()));
        }
    }
}

/// An adoption whose socket is served, and whose protocol is not built yet.
pub(super) struct OpeningAdoption {
    pub(super) factory: FactorySlot,
    pub(super) done: Done,
    /// `Some` until the connection has it.
    pub(super) attached: Option<DependentGuard>,
    pub(super) opened: Option<Opened>,
}
