//! The functions that a program sets on its loop: around waits, on signals, and for each connection.

use std::io;
use std::time::Instant;

use super::shutdown::print_snapshot;
use crate::driver::{Driver, Key, Signal};
use crate::layers::{Layer, Side};
use crate::panics::contain;
use crate::protocol::Protocol;
use crate::reactor::snapshot::Snapshot;
use crate::reactor::tasks::WakeQueue;
use crate::recorder::Reactor;

/// Must call its argument, which waits.
type AroundWait = Box<dyn FnMut(&mut dyn FnMut())>;
type MakeLayers = Box<dyn Fn(Side) -> Vec<Box<dyn Layer>>>;
type Wrap = Box<dyn Fn(Key, Box<dyn Protocol>) -> Box<dyn Protocol>>;
type ShowSnapshot = Box<dyn FnMut(&Snapshot)>;
/// Returns true if it has handled the signal.
type OnSignal = Box<dyn FnMut(&Reactor, Signal) -> bool>;

#[derive(Default)]
pub(super) struct Hooks {
    /// Shows the snapshot that SIGUSR1 requests.
    on_snapshot: Option<ShowSnapshot>,
    /// Gets each signal first.
    on_signal: Option<OnSignal>,
    /// Called around each wait that may block.
    around_wait: Option<AroundWait>,
    /// Wraps the protocol of each new connection.
    wrap: Option<Wrap>,
    /// Builds the lowest layers of each new connection.
    layers: Option<MakeLayers>,
}

impl Hooks {
    pub(super) fn on_snapshot(&mut self, show: impl FnMut(&Snapshot) + 'static) {
        self.on_snapshot = Some(Box::new(show));
    }

    pub(super) fn on_signal(&mut self, take: impl FnMut(&Reactor, Signal) -> bool + 'static) {
        self.on_signal = Some(Box::new(take));
    }

    pub(super) fn around_wait(&mut self, around: impl FnMut(&mut dyn FnMut()) + 'static) {
        self.around_wait = Some(Box::new(around));
    }

    /// Wraps new protocols, outside the wrappers that are already set.
    pub(super) fn wrap_protocols(
        &mut self,
        wrap: impl Fn(Key, Box<dyn Protocol>) -> Box<dyn Protocol> + 'static,
    ) {
        self.wrap = Some(match self.wrap.take() {
            None => Box::new(wrap),
            Some(before) => Box::new(move |key, protocol| wrap(key, before(key, protocol))),
        });
    }

    #[cfg(feature = "testing")]
    pub(super) fn layer_connections(
        &mut self,
        make: impl Fn(Side) -> Vec<Box<dyn Layer>> + 'static,
    ) {
        self.layers = Some(Box::new(make));
    }

    /// Waits for an event, inside the program's function if there is one.
    #[inline(always)]
    pub(super) fn wait<D: Driver>(
        &mut self,
        driver: &mut D,
        until: Option<Instant>,
        queue: &WakeQueue,
    ) -> io::Result<()> {
        match &mut self.around_wait {
            None => driver.wait(until),
            Some(around) => wait_within(around, driver, until, queue),
        }
    }

    /// Passes on a signal; returns true if the program has handled it.
    pub(super) fn signal(&mut self, reactor: &Reactor, signal: Signal) -> bool {
        self.on_signal.as_mut().is_some_and(|take| take(reactor, signal))
    }

    /// Shows a snapshot; by default prints it to stderr.
    pub(super) fn show(&mut self, snapshot: &Snapshot) {
        match &mut self.on_snapshot {
            Some(show) => drop(contain("snapshot", || show(snapshot))),
            None => print_snapshot(snapshot),
        }
    }

    pub(super) fn wrap(&self, key: Key, protocol: Box<dyn Protocol>) -> Box<dyn Protocol> {
        match &self.wrap {
            None => protocol,
            Some(wrap) => wrap(key, protocol),
        }
    }

    pub(super) fn layers(&self, side: Side) -> Vec<Box<dyn Layer>> {
        self.layers.as_ref().map(|make| make(side)).unwrap_or_default()
    }
}

/// Waits inside the program's function, unless the wait cannot block.
#[inline(never)]
fn wait_within<D: Driver>(
    around: &mut AroundWait,
    driver: &mut D,
    until: Option<Instant>,
    queue: &WakeQueue,
) -> io::Result<()> {
    let world = driver.world();
    if until.is_some_and(|until| until <= world.now()) {
        return driver.wait(until);
    }
    let mut waited = None;
    let before = queue.set_may_sleep(true);
    contain("around a wait", || around(&mut || waited = Some(driver.wait(until))));
    queue.set_may_sleep(before);
    waited.unwrap_or(Ok(()))
}
