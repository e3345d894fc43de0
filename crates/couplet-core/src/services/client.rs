//! [`ClientService`]: keeps a connection to an endpoint. Twisted's class of the same name.
//!
//! Contract: 129b, 137–138, 139k.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::Address;
use crate::ConnectError;
use crate::Connection;
use crate::ConnectionLost;
use crate::Connector;
use crate::DelayedCall;
use crate::Factory;
use crate::IntoFactory;
use crate::Newcomer;
use crate::Reactor;
use crate::Reason;
use crate::Seat;
use crate::Shared;
#[cfg(doc)]
use crate::Transport;
use crate::defer::{Cancelled, Canceller, Deferred, Failure, Resolver};
use crate::endpoints::{ClientEndpoint, EndpointError, IntoEndpoint};
use crate::hooks;
use crate::layers::Layer;

use super::service::{Health, Service};

/// Keeps a connection to an endpoint: connects, and reconnects after a failure or a loss, until it
/// is stopped. Clones share the service; dropping them does not stop it.
///
/// After n consecutive failures it waits for 1.5ⁿ seconds, at most a minute, plus a random delay of
/// up to a second, so that clients that lost their server at the same time do not reconnect at the
/// same time. A connection that becomes ready resets the count; its later loss counts as one
/// failure.
///
/// A connection is ready when its [preparation](Self::prepare), such as a login, has succeeded. A
/// failed preparation aborts the connection and counts as a failure.
///
/// ```
/// use couplet::services::ClientService;
/// use couplet::{Deferred, Protocol, Shutdown, Transport};
///
/// struct Client;
/// impl Client {
///     fn log_in(&mut self, transport: &Transport) {
///         transport.write("I am a client\r\n");
///     }
/// }
/// impl Protocol for Client {
///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
/// }
///
/// # struct Server;
/// # impl Protocol for Server { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
/// couplet::run_until(|reactor| {
/// #   let port = reactor.listen("tcp:0:interface=127.0.0.1", || Server).expect("a free port");
/// #   let server = port.host().to_string();
///     let service = ClientService::new(reactor, &server, || Client).expect("a good endpoint");
///     let service = service.prepare(|client| client.ask(Client::log_in));
///     service.start();
///     let stopping = service.clone();
///     reactor.on(Shutdown::Before, move || stopping.stop());
///     service.when_connected(Some(3)).map(|client| {
///         client.tell(|_, transport| transport.write("hello\r\n"));
///     })
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct ClientService<P: 'static> {
    inner: Rc<Inner<P>>,
}

type Connect<P> = Box<dyn Fn(&ClientService<P>) -> Deferred<Connection<P>>>;
type Prepare<P> = Rc<dyn Fn(&Connection<P>) -> Deferred<()>>;
type Policy = Rc<dyn Fn(u32, &Reactor) -> Duration>;

struct Inner<P: 'static> {
    /// The endpoint, as the name of the service.
    name: String,
    reactor: Reactor,
    connect: Connect<P>,
    prepare: RefCell<Option<Prepare<P>>>,
    policy: RefCell<Policy>,
    max_age: Cell<Option<Duration>>,
    /// The call that replaces the connection when it is too old.
    aging: RefCell<Option<DelayedCall>>,
    state: RefCell<ServiceState<P>>,
    /// Identifies the current attempt and its connection; reports of earlier attempts are ignored.
    number: Cell<u64>,
    /// The last attempt with a protocol; its end is reported as a lost connection.
    built: Cell<Option<u64>>,
    /// The number of consecutive failures.
    failures: Cell<u32>,
    waiting: RefCell<BTreeMap<u64, Waiter<P>>>,
    next_waiting: Cell<u64>,
    stopping: RefCell<Vec<Resolver<()>>>,
}

struct Waiter<P> {
    /// The number of further failures after which the wait fails.
    left: Option<u32>,
    connected: Resolver<Connection<P>>,
}

enum ServiceState<P: 'static> {
    New,
    Connecting(Canceller),
    /// Connected; the preparation is running.
    Preparing(Connection<P>, Canceller),
    Connected(Connection<P>),
    /// The connection was too old and is being closed; the next attempt follows.
    Retiring,
    /// The preparation failed with this failure, and the connection is being aborted.
    Aborting(Failure),
    /// Waiting for the next attempt.
    Resting(DelayedCall),
    /// The attempt or the connection is ending.
    Stopping,
    /// The attempt or the connection is ending; the service then starts again.
    Restarting,
    Stopped,
}

impl<P: 'static> ClientService<P> {
    /// A service that connects to `endpoint` once [started](Self::start). The factory builds a
    /// protocol for each connection; it must not reconnect itself.
    ///
    /// # Errors
    ///
    /// If a string is not a valid endpoint.
    pub fn new<K, F>(
        reactor: &Reactor,
        endpoint: impl IntoEndpoint<dyn ClientEndpoint>,
        factory: F,
    ) -> Result<Self, EndpointError>
    where
        F: IntoFactory<K>,
        F::Factory: Factory<Protocol = P>,
    {
        let endpoint = endpoint.into_endpoint()?;
        let name = endpoint.to_string();
        let factory = Shared::new(factory.into_factory());
        let connect = move |service: &Self| {
            let (number, service) = (service.inner.number.get(), service.clone());
            let reactor = service.inner.reactor.clone();
            let attempt = Attempt { factory: factory.clone(), service, number };
            reactor.connect(&endpoint, attempt)
        };
        let inner = Inner {
            name,
            reactor: reactor.clone(),
            connect: Box::new(connect),
            prepare: RefCell::new(None),
            policy: RefCell::new(Rc::new(back_off)),
            max_age: Cell::new(None),
            aging: RefCell::default(),
            state: RefCell::new(ServiceState::New),
            number: Cell::new(0),
            built: Cell::new(None),
            failures: Cell::new(0),
            waiting: RefCell::default(),
            next_waiting: Cell::new(0),
            stopping: RefCell::default(),
        };
        Ok(ClientService { inner: Rc::new(inner) })
    }

    /// Prepares each new connection: the connection is ready, and the failure count reset, once the
    /// Deferred of `prepare` has succeeded. If the Deferred fails, or `prepare` panics, the
    /// connection is aborted and the attempt counts as failed. The Deferred is cancelled when the
    /// connection is lost or the service stops first. Twisted's `prepareConnection`.
    ///
    /// An `async` preparation is
    /// `move |connection| reactor.spawn(log_in(connection.clone()))`.
    #[must_use]
    pub fn prepare(self, prepare: impl Fn(&Connection<P>) -> Deferred<()> + 'static) -> Self {
        drop(self.inner.prepare.replace(Some(Rc::new(prepare))));
        self
    }

    /// Sets the delay after a number of consecutive failures, 1 or more. Take randomness from
    /// [`hooks::random`](crate::hooks::random), so that a simulation can be repeated. Twisted's
    /// `retryPolicy`.
    ///
    /// ```
    /// # use couplet::services::ClientService;
    /// # use couplet::{Protocol, Reactor, Transport};
    /// # use std::time::Duration;
    /// # struct Client;
    /// # impl Protocol for Client { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
    /// # fn example(reactor: &Reactor) -> couplet::Result<()> {
    /// let service = ClientService::new(reactor, "localhost:8000", || Client)?
    ///     .retry_policy(|failures, _| Duration::from_secs(failures.min(10).into()));
    /// # drop(service);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn retry_policy(self, policy: impl Fn(u32, &Reactor) -> Duration + 'static) -> Self {
        drop(self.inner.policy.replace(Rc::new(policy)));
        self
    }

    /// Sets the age at which a ready connection is closed, as
    /// [`lose_connection`](Transport::lose_connection) does, and replaced: none by default. The next
    /// attempt looks the name up again, so the service follows a name that has moved to another
    /// server while the old one still answers. The new attempt begins when the old connection has ended,
    /// without a delay, and no failure is counted.
    ///
    /// By default a connection may have any age: the service cannot know whether an answer is on its
    /// way, which a close would lose.
    ///
    /// ```
    /// # use couplet::services::ClientService;
    /// # use couplet::{Protocol, Reactor, Transport};
    /// # use std::time::Duration;
    /// # struct Client;
    /// # impl Protocol for Client { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
    /// # fn example(reactor: &Reactor) -> couplet::Result<()> {
    /// let service = ClientService::new(reactor, "tcp:logs.example:514", || Client)?
    ///     .max_age(Duration::from_secs(600));
    /// # drop(service);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn max_age(self, age: impl Into<Option<Duration>>) -> Self {
        self.inner.max_age.set(age.into());
        self
    }

    /// Starts connecting. While the service stops, it is started again afterwards; while it runs,
    /// this does nothing.
    pub fn start(&self) {
        if let state @ ServiceState::Stopping = &mut *self.inner.state.borrow_mut() {
            *state = ServiceState::Restarting;
            return;
        }
        if !self.is_running() {
            self.inner.failures.set(0);
            self.connect();
        }
    }

    /// Cancels the attempt in progress, or closes the connection as
    /// [`lose_connection`](Transport::lose_connection) does, and makes no further attempts. Once
    /// the connection is lost, pending waits fail with [`Cancelled`], unless the service was
    /// started again in the meantime; then the Deferred fires.
    pub fn stop(&self) -> Deferred<()> {
        let (done, stopped) = Deferred::new();
        self.inner.stopping.borrow_mut().push(stopped);
        match self.inner.state.replace(ServiceState::Stopping) {
            ServiceState::Connecting(attempt) => attempt.cancel(),
            ServiceState::Preparing(connection, preparation) => {
                connection.transport().lose_connection();
                preparation.cancel();
            }
            ServiceState::Connected(connection) => connection.transport().lose_connection(),
            ServiceState::Retiring
            | ServiceState::Aborting(_)
            | ServiceState::Stopping
            | ServiceState::Restarting => {}
            ServiceState::Resting(next) => {
                next.cancel();
                self.finish_stop();
            }
            ServiceState::New | ServiceState::Stopped => self.finish_stop(),
        }
        done
    }

    /// Fires with the connection when it is ready: immediately if it already is, otherwise with the
    /// next one. With `fail_after_failures`, it fails with the last failure after that many,
    /// counted from this call; without, it keeps waiting. If the service stops or has stopped, the
    /// failure is [`Cancelled`]. Cancelling the Deferred ends only this wait. Twisted's `whenConnected`.
    pub fn when_connected(&self, fail_after_failures: Option<u32>) -> Deferred<Connection<P>> {
        match &*self.inner.state.borrow() {
            ServiceState::Connected(connection) => return Deferred::succeed(connection.clone()),
            ServiceState::Stopped => return Deferred::fail(self.cancelled()),
            _ => {}
        }
        let id = self.inner.next_waiting.get();
        self.inner.next_waiting.set(id + 1);
        let waiting = Rc::downgrade(&self.inner);
        let (deferred, connected) = Deferred::with_canceller(move |_| {
            drop(waiting.upgrade().and_then(|it| it.waiting.borrow_mut().remove(&id)));
        });
        let left = fail_after_failures.map(|failures| failures.max(1));
        self.inner.waiting.borrow_mut().insert(id, Waiter { left, connected });
        deferred
    }

    /// True from [`start`](Self::start) to [`stop`](Self::stop).
    pub fn is_running(&self) -> bool {
        !matches!(
            *self.inner.state.borrow(),
            ServiceState::New | ServiceState::Stopping | ServiceState::Stopped
        )
    }

    fn connect(&self) {
        let number = self.inner.number.get();
        let connecting = (self.inner.connect)(self);
        self.set_state(ServiceState::Connecting(connecting.canceller()));
        let service = self.clone();
        let outcome = connecting.add_both(move |outcome| {
            match outcome {
                Ok(connection) => service.prepare_connection(number, connection),
                // The factory reports the end of a connection when it is lost.
                Err(_) if service.inner.built.get() == Some(number) => {}
                Err(failure) => service.handle_end(number, failure),
            }
            Ok(())
        });
        outcome.detach();
    }

    /// The attempt succeeded: prepares the connection.
    fn prepare_connection(&self, number: u64, connection: Connection<P>) {
        let is_awaited = matches!(*self.inner.state.borrow(), ServiceState::Connecting(_));
        if number != self.inner.number.get() || !is_awaited {
            return;
        }
        let Some(prepare) = self.inner.prepare.borrow().clone() else {
            return self.set_ready(connection);
        };
        let prepared = connection.clone();
        // The preparation may fail immediately, so the state is set before it begins.
        let (begin, begun) = Deferred::new();
        let preparing = begin.then(move |()| prepare(&prepared));
        self.set_state(ServiceState::Preparing(connection, preparing.canceller()));
        let service = self.clone();
        let outcome = preparing.add_both(move |outcome| {
            service.finish_preparation(number, outcome);
            Ok(())
        });
        outcome.detach();
        begun.callback(());
    }

    fn finish_preparation(&self, number: u64, outcome: crate::Result<()>) {
        if number != self.inner.number.get() {
            return;
        }
        let connection = match &*self.inner.state.borrow() {
            ServiceState::Preparing(connection, _) => connection.clone(),
            _ => return,
        };
        match outcome {
            Ok(()) => self.set_ready(connection),
            Err(failure) => {
                log_warn!(peer = %connection.transport().peer(), "cannot prepare the connection: {failure}");
                self.set_state(ServiceState::Aborting(failure));
                connection.transport().abort_connection();
            }
        }
    }

    fn set_ready(&self, connection: Connection<P>) {
        self.inner.failures.set(0);
        self.set_state(ServiceState::Connected(connection.clone()));
        if let Some(age) = self.inner.max_age.get() {
            let service = self.clone();
            let aging = self.inner.reactor.call_later(age, move || service.retire());
            *self.inner.aging.borrow_mut() = Some(aging);
        }
        for waiting in self.inner.waiting.take().into_values() {
            waiting.connected.callback(connection.clone());
        }
    }

    /// The connection is too old.
    fn retire(&self) {
        let connection = match &*self.inner.state.borrow() {
            ServiceState::Connected(connection) => connection.clone(),
            _ => return,
        };
        self.set_state(ServiceState::Retiring);
        connection.transport().lose_connection();
    }

    /// The attempt failed, or its connection was lost.
    fn handle_end(&self, number: u64, failure: Failure) {
        if number != self.inner.number.get() {
            return;
        }
        self.inner.number.set(number + 1);
        if let Some(aging) = self.inner.aging.take() {
            aging.cancel();
        }
        let state = self.inner.state.replace(ServiceState::Stopped);
        match state {
            ServiceState::Stopping | ServiceState::Restarting => {
                self.set_state(state);
                self.finish_stop();
            }
            _ if self.inner.reactor.is_stopping() || is_end_of_loop(&failure) => self.finish_stop(),
            ServiceState::Retiring => self.connect(),
            ServiceState::Aborting(failure) => self.schedule_retry(failure),
            ServiceState::Preparing(_, preparation) => {
                self.schedule_retry(failure);
                preparation.cancel();
            }
            _ => self.schedule_retry(failure),
        }
    }

    /// The service has stopped: starts it again if requested, otherwise fails the pending waits;
    /// then fires the Deferreds of `stop`.
    fn finish_stop(&self) {
        let stopped = self.inner.stopping.take();
        let state = self.inner.state.replace(ServiceState::Stopped);
        if matches!(state, ServiceState::Restarting) {
            self.inner.failures.set(0);
            self.connect();
        } else {
            for waiting in self.inner.waiting.take().into_values() {
                waiting.connected.errback(self.cancelled());
            }
        }
        for stopped in stopped {
            stopped.callback(());
        }
    }

    /// Schedules the next attempt, and fails the waits that allow no further failure.
    fn schedule_retry(&self, failure: Failure) {
        let failures = self.inner.failures.get().saturating_add(1);
        self.inner.failures.set(failures);
        let (policy, reactor) = (self.inner.policy.borrow().clone(), self.inner.reactor.clone());
        // Called in a callback, so that a panic is contained.
        let delay = Deferred::succeed(()).add_callback(move |()| Ok(policy(failures, &reactor)));
        let (service, said) = (self.clone(), failure.clone());
        let resting = delay.add_both(move |delay| {
            let delay = delay.unwrap_or_else(|panic| {
                log_error!("the retry policy: {panic}");
                back_off(failures, &service.inner.reactor)
            });
            tracing::info!(failures, ?delay, "not connected: {said}");
            let next = service.clone();
            let next = service.inner.reactor.call_later(delay, move || next.connect());
            service.set_state(ServiceState::Resting(next));
            Ok(())
        });
        resting.detach();
        for waiting in self.take_exhausted_waiters() {
            waiting.connected.errback(failure.clone());
        }
    }

    /// Removes and returns the waits that allow no further failure.
    fn take_exhausted_waiters(&self) -> Vec<Waiter<P>> {
        let mut waiting = self.inner.waiting.borrow_mut();
        for one in waiting.values_mut() {
            one.left = one.left.map(|left| left - 1);
        }
        let over = waiting.iter().filter(|(_, one)| one.left == Some(0)).map(|(id, _)| *id);
        let over: Vec<u64> = over.collect();
        over.iter().filter_map(|id| waiting.remove(id)).collect()
    }

    /// Sets the state. The old state is dropped while nothing is borrowed.
    fn set_state(&self, state: ServiceState<P>) {
        drop(self.inner.state.replace(state));
    }

    fn cancelled(&self) -> Cancelled {
        Cancelled::of("the wait for a connection")
    }
}

/// True if the attempt failed because the loop ended or is ending.
fn is_end_of_loop(failure: &Failure) -> bool {
    let lost = failure.downcast_ref::<ConnectionLost>();
    let failed = failure.downcast_ref::<ConnectError>();
    failure.is_cancelled()
        || matches!(lost, Some(ConnectionLost(Reason::Shutdown)))
        || matches!(failed, Some(ConnectError::Shutdown))
}

/// Row 137: min(1.5ⁿ, 60) s, plus up to 1 s at random. Multiplied step by step, so that a seed
/// gives the same delays on every machine.
fn back_off(failures: u32, reactor: &Reactor) -> Duration {
    const MOST: f64 = 60.0;
    let mut seconds = 1.0;
    for _ in 0..failures.min(16) {
        seconds = f64::min(seconds * 1.5, MOST);
    }
    let jitter = (hooks::random(reactor) >> 32) as f64 / 4_294_967_296.0;
    Duration::from_secs_f64(seconds + jitter)
}

/// The factory of one attempt. Forwards to the user's factory, whose panics [`Shared`] contains,
/// and reports the end of the attempt to the service.
struct Attempt<F: Factory + 'static> {
    factory: Shared<F>,
    service: ClientService<F::Protocol>,
    number: u64,
}

impl<F: Factory + 'static> Factory for Attempt<F> {
    type Protocol = F::Protocol;

    fn do_start(&mut self) {
        self.factory.do_start();
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.factory.started_connecting(connector);
    }

    fn layers(&mut self, peer: &Address) -> Vec<Box<dyn Layer>> {
        self.factory.layers(peer)
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.factory.opening(newcomer)
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<F::Protocol> {
        let protocol = self.factory.build_protocol(peer);
        if protocol.is_some() && self.number == self.service.inner.number.get() {
            self.service.inner.built.set(Some(self.number));
        }
        protocol
    }

    /// The connect's Deferred reports the failure to the service.
    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.factory.client_connection_failed(connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.factory.client_connection_lost(connector, reason);
        // Without a protocol the connect has failed, and its Deferred reports the error.
        if self.service.inner.built.get() == Some(self.number) {
            self.service.handle_end(self.number, Failure::from(ConnectionLost(reason.clone())));
        }
    }

    fn do_stop(&mut self) {
        self.factory.do_stop();
    }

    fn attach(&mut self, reactor: &Reactor) {
        self.factory.attach(reactor);
    }
}

/// For a [`Supervisor`](super::Supervisor). Starting does not wait for a connection, so that a
/// program starts while its servers are away; the health says whether the client is connected.
impl<P: 'static> Service for ClientService<P> {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn start(&mut self, _: &Reactor) -> Deferred<()> {
        ClientService::start(self);
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        ClientService::stop(self)
    }

    fn health(&self) -> Health {
        match (&*self.inner.state.borrow(), self.inner.failures.get()) {
            (ServiceState::Connected(_), _) => Health::Ready,
            (ServiceState::New | ServiceState::Stopped, _) => Health::Failed("stopped".to_owned()),
            (ServiceState::Stopping | ServiceState::Restarting, _) => Health::Stopping,
            (_, 0) => Health::Starting,
            (_, failures) => Health::Failed(format!("not connected after {failures} failures")),
        }
    }
}

impl<P: 'static> Clone for ClientService<P> {
    fn clone(&self) -> Self {
        ClientService { inner: self.inner.clone() }
    }
}

impl<P: 'static> fmt::Debug for ClientService<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.inner.state.borrow() {
            ServiceState::New => "new",
            ServiceState::Connecting(_) => "connecting",
            ServiceState::Preparing(..) => "preparing",
            ServiceState::Connected(_) => "connected",
            ServiceState::Retiring => "retiring",
            ServiceState::Aborting(_) => "aborting",
            ServiceState::Resting(_) => "resting",
            ServiceState::Stopping | ServiceState::Restarting => "stopping",
            ServiceState::Stopped => "stopped",
        };
        f.debug_struct("ClientService")
            .field("state", &state)
            .field("failures", &self.inner.failures.get())
            .field("waiting", &self.inner.waiting.borrow().len())
            .finish_non_exhaustive()
    }
}
