//! Connects to addresses and hosts, and the requests of a [`Connector`].
//!
//! Contract: 35, 36, 51.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::records::{LoopRequest, Start};
use crate::connector::{
    ConnectTarget, Connector, ConnectorCell, ConnectorState, Done, NotDisconnected, Target,
};
use crate::defer::{Cancelled, Deferred};
use crate::driver::ConnectOptions;
use crate::factory::{ErasedFactory, Factory, IntoFactory};
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use crate::timers::after;
use crate::transport::Connection;

impl Reactor {
    /// See [`hooks::connector`](crate::hooks::connector).
    #[track_caller]
    pub(crate) fn connect_to<K>(
        &self,
        target: impl Into<ConnectTarget>,
        options: ConnectOptions,
        factory: impl IntoFactory<K>,
    ) -> Connector {
        let ConnectTarget(target) = target.into();
        Connector::new(self, target, options, self.attach_factory(factory.into_factory()), None)
    }

    /// Connects like [`connect_to`](Self::connect_to). The Deferred fires with the connection once
    /// `connection_made` was called, or fails with [`ConnectError`](crate::ConnectError). Cancelling
    /// it stops the attempt.
    #[track_caller]
    pub(crate) fn connect_to_deferred<K, F: IntoFactory<K>>(
        &self,
        target: impl Into<ConnectTarget>,
        options: ConnectOptions,
        factory: F,
    ) -> Deferred<Connection<<F::Factory as Factory>::Protocol>> {
        let ConnectTarget(target) = target.into();
        Connector::start_deferred(
            self,
            target,
            options,
            self.attach_factory(factory.into_factory()),
        )
    }
}

impl Connector {
    pub(super) fn new(
        reactor: &Reactor,
        target: Target,
        options: ConnectOptions,
        factory: ErasedFactory,
        done: Option<Done>,
    ) -> Connector {
        let cell = ConnectorCell::new(reactor, target, options, factory, done);
        reactor.records().start(Start::Connector(cell.clone()));
        Connector { cell }
    }

    pub(super) fn start_deferred<P: Protocol>(
        reactor: &Reactor,
        target: Target,
        options: ConnectOptions,
        factory: ErasedFactory,
    ) -> Deferred<Connection<P>> {
        let slot: Rc<RefCell<Option<Connector>>> = Rc::default();
        let connecting = slot.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |resolver| {
            if let Some(connector) = connecting.take() {
                let target = connector.to_string();
                connector.disconnect();
                resolver.errback(Cancelled::of(target));
            }
        });
        let done: Done = Box::new(move |outcome| {
            resolver.resolve(outcome.map(|transport| transport.connection()));
        });
        let connector = Connector::new(reactor, target, options, factory, Some(done));
        *slot.borrow_mut() = Some(connector);
        deferred
    }

    /// Stops the attempt: the turn calls the factory's `client_connection_failed` with
    /// [`ConnectError::Stopped`](crate::ConnectError::Stopped). Without an attempt, does nothing and
    /// returns false.
    pub fn stop_connecting(&self) -> bool {
        if !self.cell.request_stop() {
            return false;
        }
        self.cell.reactor.records().request(LoopRequest::Connector(self.cell.clone()));
        true
    }

    /// [`stop_connecting`](Self::stop_connecting) while connecting, `lose_connection` while
    /// connected.
    pub fn disconnect(&self) {
        match self.state() {
            ConnectorState::Connecting => {
                self.stop_connecting();
            }
            ConnectorState::Connected => {
                if let Some(transport) = self.transport() {
                    transport.lose_connection();
                }
            }
            ConnectorState::Disconnected => {}
        }
    }

    /// Connects again, in the turn. When called in `client_connection_failed` or
    /// `client_connection_lost`, the factory is not stopped in between.
    ///
    /// # Errors
    ///
    /// [`NotDisconnected`] while connecting or connected.
    pub fn connect(&self) -> Result<(), NotDisconnected> {
        self.connect_at(None)
    }

    /// Connects again after `delay`. Until then the state is `Connecting`, so
    /// [`stop_connecting`](Self::stop_connecting) ends the wait. As with
    /// [`connect`](Self::connect), a call in `client_connection_failed` or `client_connection_lost`
    /// does not stop the factory in between, and the Deferred of the connect stays pending.
    ///
    /// # Errors
    ///
    /// [`NotDisconnected`] while connecting or connected.
    pub fn connect_after(&self, delay: Duration) -> Result<(), NotDisconnected> {
        self.connect_at(Some(after(self.cell.reactor.now(), delay)))
    }

    fn connect_at(&self, begin_at: Option<Instant>) -> Result<(), NotDisconnected> {
        if !self.cell.request_again(begin_at) {
            return Err(NotDisconnected);
        }
        self.cell.reactor.records().start(Start::Connector(self.cell.clone()));
        Ok(())
    }
}
