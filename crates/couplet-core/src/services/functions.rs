//! [`FunctionService`]: a service from closures.

use std::fmt;

use super::service::{Health, Service};
use crate::Reactor;
use crate::defer::Deferred;

type Start = Box<dyn FnMut(&Reactor) -> Deferred<()>>;
type Stop = Box<dyn FnMut() -> Deferred<()>>;

/// A service from closures: one that starts it, and, if there is something to stop, one that stops
/// it.
///
/// ```
/// use couplet::services::{FunctionService, Health};
/// # use couplet::Deferred;
///
/// # fn open_database() -> Deferred<()> { Deferred::succeed(()) }
/// # fn close_database() -> Deferred<()> { Deferred::succeed(()) }
/// let database = FunctionService::new("database", |_reactor| open_database())
///     .on_stop(close_database)
///     .on_health(|| Health::Ready);
/// # drop(database);
/// ```
pub struct FunctionService {
    name: String,
    start: Start,
    stop: Option<Stop>,
    health: Option<Box<dyn Fn() -> Health>>,
}

impl FunctionService {
    /// A service that `start` starts; it may be called again after a stop.
    pub fn new(
        name: impl Into<String>,
        start: impl FnMut(&Reactor) -> Deferred<()> + 'static,
    ) -> Self {
        FunctionService { name: name.into(), start: Box::new(start), stop: None, health: None }
    }

    /// Sets the closure that stops it.
    #[must_use]
    pub fn on_stop(mut self, stop: impl FnMut() -> Deferred<()> + 'static) -> Self {
        self.stop = Some(Box::new(stop));
        self
    }

    /// Sets the closure that returns its [health](Service::health).
    #[must_use]
    pub fn on_health(mut self, health: impl Fn() -> Health + 'static) -> Self {
        self.health = Some(Box::new(health));
        self
    }
}

impl Service for FunctionService {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        (self.start)(reactor)
    }

    fn stop(&mut self) -> Deferred<()> {
        self.stop.as_mut().map_or_else(|| Deferred::succeed(()), |stop| stop())
    }

    fn health(&self) -> Health {
        self.health.as_ref().map_or(Health::Ready, |health| health())
    }
}

impl fmt::Debug for FunctionService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionService").field("name", &self.name).finish_non_exhaustive()
    }
}
