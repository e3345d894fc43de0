//! [`ReconnectingClientFactory`]: wraps any factory and reconnects when an attempt fails or a
//! connection is lost. Twisted's class of the same name.
//!
//! Contract: 135, 136.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use crate::Address;
use crate::ConnectError;
use crate::Connector;
use crate::Factory;
use crate::IntoFactory;
use crate::Newcomer;
use crate::Reactor;
use crate::Reason;
use crate::Seat;
use crate::hooks;
use crate::layers::Layer;

/// Reconnects with exponential backoff until it is stopped.
///
/// Works with every endpoint; the Deferred of [`Reactor::connect`] fires with
/// the first connection that is established, or fails when this factory gives up. Every call is
/// forwarded to the inner factory, which is not stopped between attempts.
///
/// By default the first delay is 1 s, and each is e times the previous one, with a normally
/// distributed jitter of 12 % and a maximum of an hour. Retries are unlimited by default. Only
/// [`reset_delay`](Reconnection::reset_delay) resets the delay: a server that accepts and then
/// hangs up should not be retried faster.
///
/// An attempt that was stopped on purpose ([`stop_connecting`](Connector::stop_connecting), or a
/// cancel of the Deferred) is not repeated, and no attempt begins once the reactor stops. Use one
/// factory per target: its delay and retry count are shared by all its connectors.
///
/// ```
/// use couplet::protocols::{ReconnectingClientFactory, Reconnection};
/// use couplet::{Loop, Protocol, Transport};
/// use std::time::Duration;
///
/// struct Client(Reconnection);
/// impl Protocol for Client {
///     fn data_received(&mut self, _: &Transport, _: &[u8]) {
///         self.0.reset_delay(); // the server answers, so start over after the next failure
///     }
/// }
///
/// # fn main() -> couplet::Result<()> {
/// # let mut l = Loop::new()?;
/// # let reactor = l.reactor();
/// let factory = ReconnectingClientFactory::with(|reconnection| {
///     move || Client(reconnection.clone())
/// })
/// .max_delay(Duration::from_secs(60));
/// let reconnection = factory.reconnection();
/// let first = reactor.connect("tcp:127.0.0.1:1", factory);
/// reconnection.stop_trying();
/// assert!(l.run_until(first).is_err());
/// # Ok(())
/// # }
/// ```
pub struct ReconnectingClientFactory<F> {
    factory: F,
    reconnection: Reconnection,
}

/// Controls a [`ReconnectingClientFactory`] that is in use. Cheap to clone.
#[derive(Clone)]
pub struct Reconnection {
    state: Rc<ReconnectState>,
}

struct ReconnectState {
    settings: Cell<Settings>,
    /// The mean of the next wait in seconds, before the cap; `None` for the initial delay.
    mean: Cell<Option<f64>>,
    retries: Cell<u32>,
    attempts: RefCell<Attempts>,
}

/// Whether further attempts are made.
enum Attempts {
    /// With the connector of the latest attempt, until it ends for good.
    Continuing(Option<Connector>),
    Stopped,
}

#[derive(Clone, Copy)]
struct Settings {
    initial_delay: Duration,
    max_delay: Duration,
    factor: f64,
    jitter: f64,
    max_retries: Option<u32>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(3600),
            factor: std::f64::consts::E,
            // Twisted's value: the molar Planck constant times the speed of light, in J·m/mol.
            jitter: 0.119_626_565_582,
            max_retries: None,
        }
    }
}

impl<F: Factory> ReconnectingClientFactory<F> {
    /// Wraps a factory.
    pub fn new<K>(factory: impl IntoFactory<K, Factory = F>) -> Self {
        Self::with(|_| factory)
    }

    /// Wraps the factory that `make` builds from the [`Reconnection`], for protocols that call
    /// `reset_delay` themselves.
    pub fn with<K, M: IntoFactory<K, Factory = F>>(make: impl FnOnce(Reconnection) -> M) -> Self {
        let state = ReconnectState {
            settings: Cell::default(),
            mean: Cell::new(None),
            retries: Cell::new(0),
            attempts: RefCell::new(Attempts::Continuing(None)),
        };
        let reconnection = Reconnection { state: Rc::new(state) };
        Self { factory: make(reconnection.clone()).into_factory(), reconnection }
    }

    /// Sets the first delay; the default is 1 s. With zero, attempts follow each other immediately.
    #[must_use]
    pub fn initial_delay(self, delay: Duration) -> Self {
        self.set(|settings| settings.initial_delay = delay)
    }

    /// Sets the maximum delay, including jitter; the default is an hour.
    #[must_use]
    pub fn max_delay(self, delay: Duration) -> Self {
        self.set(|settings| settings.max_delay = delay)
    }

    /// Sets the factor by which the delay grows; the default is e. Values below 1 and NaN count as
    /// 1, so delays never shrink.
    #[must_use]
    pub fn factor(self, factor: f64) -> Self {
        self.set(|settings| settings.factor = factor.max(1.0))
    }

    /// Sets the standard deviation of a delay, as a fraction of the delay; the default is about
    /// 0.12. Values are clamped to the range from 0 (no jitter) to 1, and NaN counts as 0. Jitter
    /// spreads out clients that lost their server at the same moment, and never shortens a delay to
    /// less than a tenth of itself, nor to less than a tenth of the initial delay.
    #[must_use]
    pub fn jitter(self, jitter: f64) -> Self {
        self.set(|settings| {
            settings.jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) }
        })
    }

    /// Gives up after this many retries without a [`reset_delay`](Reconnection::reset_delay);
    /// unlimited by default. With 0, only the first attempt is made.
    #[must_use]
    pub fn max_retries(self, retries: u32) -> Self {
        self.set(|settings| settings.max_retries = Some(retries))
    }

    fn set(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.reconnection.state.settings.get();
        change(&mut settings);
        self.reconnection.state.settings.set(settings);
        self
    }
}

impl<F> ReconnectingClientFactory<F> {
    /// The factory's [`Reconnection`], to keep when the factory is moved into a connect.
    pub fn reconnection(&self) -> Reconnection {
        self.reconnection.clone()
    }
}

impl Reconnection {
    /// Resets the delay to the initial one and the retry count to 0. Call it once a connection has
    /// proved good, such as after a login. Twisted's `resetDelay`.
    pub fn reset_delay(&self) {
        self.state.mean.set(None);
        self.state.retries.set(0);
    }

    /// Makes no further attempts. The turn ends a pending delay or attempt with
    /// [`ConnectError::Stopped`]; an established connection stays open. Twisted's `stopTrying`.
    pub fn stop_trying(&self) {
        let before = self.state.attempts.replace(Attempts::Stopped);
        if let Attempts::Continuing(Some(connector)) = before {
            connector.stop_connecting();
        }
    }

    /// False after [`stop_trying`](Self::stop_trying).
    pub fn is_trying(&self) -> bool {
        matches!(*self.state.attempts.borrow(), Attempts::Continuing(_))
    }

    /// The number of retries since the start, or since the last [`reset_delay`](Self::reset_delay).
    pub fn retries(&self) -> u32 {
        self.state.retries.get()
    }
}

impl ReconnectState {
    fn connect_again(&self, connector: &Connector) {
        if matches!(*self.attempts.borrow(), Attempts::Stopped) {
            return;
        }
        let retries = self.retries.get();
        let most = self.settings.get().max_retries;
        if most.is_some_and(|most| retries >= most) {
            tracing::info!(target = %connector, retries, "giving up connecting");
            return self.drop_connector();
        }
        let delay = self.next_delay(connector.reactor());
        // The inner factory may have called `connect` itself.
        if connector.connect_after(delay).is_ok() {
            self.retries.set(retries.saturating_add(1));
            tracing::info!(target = %connector, ?delay, "reconnecting after a delay");
        }
    }

    fn next_delay(&self, reactor: &Reactor) -> Duration {
        let settings = self.settings.get();
        let most = settings.max_delay.as_secs_f64();
        // Without this lower bound, jitter could shrink the delays towards zero over time.
        let least = settings.initial_delay.as_secs_f64();
        let mean = self.mean.get().unwrap_or(least).max(least).min(most);
        let spread = if settings.jitter > 0.0 { settings.jitter * normal(reactor) } else { 0.0 };
        let delay = mean * (1.0 + spread).max(0.1);
        // As in Twisted, the factor applies to the actual delay, not to the mean.
        self.mean.set(Some(delay * settings.factor));
        Duration::try_from_secs_f64(delay).map_or(settings.max_delay, |d| d.min(settings.max_delay))
    }

    /// Drops the connector once it is no longer needed, because it owns this factory.
    fn drop_connector(&self) {
        let connector = match &mut *self.attempts.borrow_mut() {
            Attempts::Continuing(connector) => connector.take(),
            Attempts::Stopped => None,
        };
        drop(connector);
    }
}

/// An approximate standard normal deviate: the sum of twelve uniform ones. With only additions,
/// a seed gives the same result on every machine.
fn normal(reactor: &Reactor) -> f64 {
    let mut sum = 0.0;
    for _ in 0..3 {
        let bits = hooks::random(reactor);
        for lane in 0..4 {
            let uniform = (bits >> (16 * lane)) as u16;
            sum += (f64::from(uniform) + 0.5) / 65_536.0;
        }
    }
    sum - 6.0
}

/// Reconnects after the inner factory has been called, even if it panics.
struct ReconnectOnDrop<'a>(&'a ReconnectState, &'a Connector);

impl Drop for ReconnectOnDrop<'_> {
    fn drop(&mut self) {
        self.0.connect_again(self.1);
    }
}

impl<F: Factory> Factory for ReconnectingClientFactory<F> {
    type Protocol = F::Protocol;

    fn do_start(&mut self) {
        self.factory.do_start();
    }

    fn started_connecting(&mut self, connector: &Connector) {
        if let Attempts::Continuing(latest) = &mut *self.reconnection.state.attempts.borrow_mut() {
            *latest = Some(connector.clone());
        }
        if !self.reconnection.is_trying() {
            connector.stop_connecting();
        }
        self.factory.started_connecting(connector);
    }

    fn layers(&mut self, peer: &Address) -> Vec<Box<dyn Layer>> {
        self.factory.layers(peer)
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.factory.opening(newcomer)
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<F::Protocol> {
        self.factory.build_protocol(peer)
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        let on_purpose = matches!(
            reason.downcast_ref::<ConnectError>(),
            Some(ConnectError::Stopped | ConnectError::Shutdown)
        );
        let _again = (!on_purpose).then(|| ReconnectOnDrop(&self.reconnection.state, connector));
        self.factory.client_connection_failed(connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        let on_purpose = matches!(reason, Reason::Shutdown);
        let _again = (!on_purpose).then(|| ReconnectOnDrop(&self.reconnection.state, connector));
        self.factory.client_connection_lost(connector, reason);
    }

    fn do_stop(&mut self) {
        self.reconnection.state.drop_connector();
        self.factory.do_stop();
    }

    fn attach(&mut self, reactor: &Reactor) {
        self.factory.attach(reactor);
    }
}

impl<F> fmt::Debug for ReconnectingClientFactory<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconnectingClientFactory")
            .field("reconnection", &self.reconnection)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Reconnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnection")
            .field("retries", &self.retries())
            .field("is_trying", &self.is_trying())
            .finish_non_exhaustive()
    }
}
