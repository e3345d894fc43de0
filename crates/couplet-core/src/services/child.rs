//! [`Child`]: a service, the supervisor's instructions for it, and its state.
//!
//! Contract: 139a, 139b, 139i, 139m.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::service::{Health, Service};
use super::supervisor::Supervisor;
use crate::defer::{Deferred, Failure};
use crate::hooks::{self, Note, NoteRow};
use crate::{DelayedCall, Reactor, Result};

/// When a [`Supervisor`] restarts a child that ends without having been stopped. Erlang's restart
/// types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// If it failed. A supervisor that [gave up](super::ServiceError::GaveUp) counts as one that
    /// has done its work, as in Erlang.
    Transient,
    /// Never, not even with the other children; once it has ended, the supervisor forgets it.
    Temporary,
}

/// A service under a [`Supervisor`], and its instructions: when to restart it, and how long it may
/// take to start and to stop.
pub struct Child {
    service: Box<dyn Service>,
    restart: Restart,
    start_within: Option<Duration>,
    stop_within: Option<Duration>,
    /// The loop in which it was started as a service.
    reactor: Option<Reactor>,
}

impl Child {
    /// A permanent child that may take 30 s to start and 10 s to stop.
    pub fn new(service: impl Service + 'static) -> Self {
        Child {
            service: Box::new(service),
            restart: Restart::default(),
            start_within: Some(Duration::from_secs(30)),
            stop_within: Some(Duration::from_secs(10)),
            reactor: None,
        }
    }

    /// A permanent child without deadlines: its own children have theirs.
    pub fn supervisor(supervisor: &Supervisor) -> Self {
        Child { start_within: None, stop_within: None, ..Child::new(supervisor.clone()) }
    }

    /// A child that replaces this one, with the same restart policy: its service has this one as a part,
    /// or several like it. Without deadlines, since the parts have theirs.
    #[must_use]
    pub fn replaced_by(&self, service: impl Service + 'static) -> Self {
        Child {
            restart: self.restart,
            start_within: None,
            stop_within: None,
            ..Child::new(service)
        }
    }

    /// The name of its service.
    pub fn name(&self) -> &str {
        self.service.name()
    }

    /// Sets when it is restarted.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Sets how long it may take to start: 30 s by default. Then its start is cancelled and has
    /// failed.
    #[must_use]
    pub fn start_within(mut self, time: Duration) -> Self {
        self.start_within = Some(time);
        self
    }

    /// Sets how long it may take to stop: 10 s by default. Then its stop is cancelled, and the
    /// supervisor continues without it.
    #[must_use]
    pub fn stop_within(mut self, time: Duration) -> Self {
        self.stop_within = Some(time);
        self
    }
}

/// For services that are made of others: starts and stops the child's service within the child's times.
/// How the child is restarted is up to the outer service.
impl Service for Child {
    fn name(&self) -> &str {
        self.service.name()
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        self.reactor = Some(reactor.clone());
        within(self.service.start(reactor), self.start_within, reactor)
    }

    fn stop(&mut self) -> Deferred<()> {
        let stopped = self.service.stop();
        match &self.reactor {
            Some(reactor) => within(stopped, self.stop_within, reactor),
            None => stopped,
        }
    }

    fn health(&self) -> Health {
        self.service.health()
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.service.take_end()
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.service.name())
            .field("restart", &self.restart)
            .field("start_within", &self.start_within)
            .field("stop_within", &self.stop_within)
            .finish_non_exhaustive()
    }
}

/// A child of a [`Supervisor`] at one moment. Prints as a line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildStatus {
    /// The service's name.
    pub name: String,
    /// The present state.
    pub state: ChildState,
    /// How often it was restarted because it, or with it another child, had failed.
    pub restarts: u64,
    /// The service's health, [`Starting`](Health::Starting) unless it runs.
    pub health: Health,
}

impl ChildStatus {
    /// The row in snapshots, under the names of the supervisors and the child.
    fn row(&self, path: &str) -> NoteRow {
        let fields = [
            ("name", path.to_owned()),
            ("state", self.state.to_string()),
            ("health", self.health.to_string()),
            ("restarts", self.restarts.to_string()),
        ];
        NoteRow::new("services", fields)
    }
}

impl fmt::Display for ChildStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChildStatus { name, state, restarts, health } = self;
        write!(f, "{name} {state}")?;
        if *state == ChildState::Running && *health != Health::Ready {
            write!(f, " {health}")?;
        }
        write!(f, " restarts {restarts}")
    }
}

/// The state of a child of a [`Supervisor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildState {
    /// Not started yet, or stopped.
    Stopped,
    /// Starting.
    Starting,
    /// Running.
    Running,
    /// Failed, and waiting to be restarted.
    Restarting,
    /// Ended, and not to be restarted.
    Ended,
    /// Stopping.
    Stopping,
}

impl fmt::Display for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChildState::Stopped => "stopped",
            ChildState::Starting => "starting",
            ChildState::Running => "running",
            ChildState::Restarting => "restarting",
            ChildState::Ended => "ended",
            ChildState::Stopping => "stopping",
        })
    }
}

/// A child of a supervisor.
pub(super) struct ChildCell {
    pub(super) name: String,
    pub(super) restart: Restart,
    start_within: Option<Duration>,
    stop_within: Option<Duration>,
    /// `None` while one of its methods runs.
    service: RefCell<Option<Box<dyn Service>>>,
    life: RefCell<Life>,
    /// The child's row in snapshots, while the supervisor runs.
    row: RefCell<Option<Note>>,
    /// The number of starts. Identifies a run: the ends of earlier ones are ignored.
    run: Cell<u64>,
    restarts: Cell<u64>,
    /// Restarts in succession, which the back-off grows with.
    pub(super) streak: Cell<u32>,
}

/// The [`ChildState`] of a child, with its details.
pub(super) enum Life {
    Stopped,
    Starting,
    Running { since: Instant },
    Restarting { failure: String, next: Option<DelayedCall> },
    Ended,
    Stopping,
}

impl Life {
    fn state(&self) -> ChildState {
        match self {
            Life::Stopped => ChildState::Stopped,
            Life::Starting => ChildState::Starting,
            Life::Running { .. } => ChildState::Running,
            Life::Restarting { .. } => ChildState::Restarting,
            Life::Ended => ChildState::Ended,
            Life::Stopping => ChildState::Stopping,
        }
    }
}

impl ChildCell {
    pub(super) fn new(child: Child) -> Rc<Self> {
        Rc::new(ChildCell {
            name: child.service.name().to_owned(),
            restart: child.restart,
            start_within: child.start_within,
            stop_within: child.stop_within,
            service: RefCell::new(Some(child.service)),
            life: RefCell::new(Life::Stopped),
            row: RefCell::default(),
            run: Cell::new(0),
            restarts: Cell::new(0),
            streak: Cell::new(0),
        })
    }

    pub(super) fn state(&self) -> ChildState {
        self.life.borrow().state()
    }

    /// Adds its state to the snapshots of a loop.
    pub(super) fn show(self: &Rc<Self>, supervisor: &str, reactor: &Reactor) {
        if self.row.borrow().is_some() {
            return;
        }
        let path = format!("{supervisor}/{}", self.name);
        let cell = Rc::downgrade(self);
        let row = hooks::note_rows(reactor, move || {
            cell.upgrade().map(|cell| cell.status().row(&path)).into_iter().collect()
        });
        *self.row.borrow_mut() = Some(row);
    }

    /// Removes it from the snapshots.
    pub(super) fn hide(&self) {
        drop(self.row.take());
    }

    /// Counts a restart.
    pub(super) fn count_restart(&self) {
        self.restarts.set(self.restarts.get() + 1);
    }

    /// Sets the state, and cancels a restart that was due.
    pub(super) fn set(&self, life: Life) {
        let before = self.life.replace(life);
        if let Life::Restarting { next: Some(next), .. } = before {
            next.cancel();
        }
    }

    /// Notes the call that will restart it.
    pub(super) fn set_restart(&self, call: DelayedCall) {
        match &mut *self.life.borrow_mut() {
            Life::Restarting { next, .. } => *next = Some(call),
            _ => debug_assert!(false, "it does not wait to be restarted"),
        }
    }

    /// The time for which it has run.
    pub(super) fn uptime(&self, now: Instant) -> Duration {
        match &*self.life.borrow() {
            Life::Running { since } => now.saturating_duration_since(*since),
            _ => Duration::ZERO,
        }
    }

    /// True while the child runs, and this is the number of its run.
    pub(super) fn is_in_run(&self, run: u64) -> bool {
        self.run.get() == run && self.state() == ChildState::Running
    }

    /// Starts the service, within its time. Returns the number of the run.
    pub(super) fn start(self: &Rc<Self>, reactor: &Reactor) -> (u64, Deferred<()>) {
        self.set(Life::Starting);
        let run = self.run.get() + 1;
        self.run.set(run);
        let (cell, with) = (self.clone(), reactor.clone());
        // Called in a callback, so that a panic is contained.
        let begun = Deferred::succeed(()).then(move |()| cell.call(|service| service.start(&with)));
        (run, within(begun, self.start_within, reactor))
    }

    /// Stops the service, within its time.
    pub(super) fn stop(self: &Rc<Self>, reactor: &Reactor) -> Deferred<()> {
        self.set(Life::Stopping);
        let cell = self.clone();
        let begun = Deferred::succeed(()).then(move |()| cell.call(|service| service.stop()));
        within(begun, self.stop_within, reactor)
    }

    /// The end of the run that has begun.
    pub(super) fn take_end(self: &Rc<Self>) -> Deferred<Option<Deferred<()>>> {
        let cell = self.clone();
        Deferred::succeed(()).add_callback(move |()| Ok(cell.call(|service| service.take_end())))
    }

    pub(super) fn status(self: &Rc<Self>) -> ChildStatus {
        ChildStatus {
            name: self.name.clone(),
            state: self.state(),
            restarts: self.restarts.get(),
            health: self.health(),
        }
    }

    /// The child's part in the supervisor's health, with its name.
    pub(super) fn health(self: &Rc<Self>) -> Health {
        let health = match &*self.life.borrow() {
            Life::Starting | Life::Stopping => Some(Health::Starting),
            Life::Restarting { failure, .. } => Some(Health::Failed(failure.clone())),
            Life::Stopped if self.restart == Restart::Permanent => {
                Some(Health::Failed("stopped".to_owned()))
            }
            Life::Stopped | Life::Ended => Some(Health::Ready),
            Life::Running { .. } => None,
        };
        health.unwrap_or_else(|| self.service_health()).of(&self.name)
    }

    fn service_health(self: &Rc<Self>) -> Health {
        let (cell, said) = (self.clone(), Rc::new(RefCell::new(None)));
        // Called in a callback, so that a panic is contained.
        let asked = Deferred::succeed(()).map(move |()| {
            // While one of its methods runs, that one decides.
            let is_free = cell.service.borrow().is_some();
            if is_free { cell.call(|it| it.health()) } else { Health::Ready }
        });
        let answer = said.clone();
        asked
            .add_errback(|panic| Ok(Health::Failed(panic.to_string())))
            .map(move |health| *answer.borrow_mut() = Some(health))
            .detach();
        said.take().expect("each step has fired")
    }

    /// Calls a method of the service, while nothing is borrowed.
    fn call<R>(&self, method: impl FnOnce(&mut dyn Service) -> R) -> R {
        struct Lent<'a>(&'a ChildCell, Option<Box<dyn Service>>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                *self.0.service.borrow_mut() = self.1.take();
            }
        }
        let service = self.service.borrow_mut().take();
        let mut lent = Lent(self, service);
        method(lent.1.as_deref_mut().expect("a service is called by one method at a time"))
    }
}

impl Drop for ChildCell {
    fn drop(&mut self) {
        drop_in_callback(std::mem::take(&mut self.name), self.service.take());
    }
}

/// Drops a value of the user in a callback, so that a panic of its drop is contained.
pub(super) fn drop_in_callback<T: 'static>(service: String, value: T) {
    let dropped = Deferred::succeed(()).map(move |()| drop(value));
    let dropped = dropped.add_errback(move |panic| {
        log_error!(service = %service, "the drop of a service: {panic}");
        Ok(())
    });
    dropped.detach();
}

fn within(deferred: Deferred<()>, time: Option<Duration>, reactor: &Reactor) -> Deferred<()> {
    match time {
        Some(time) => deferred.add_timeout(reactor, time),
        None => deferred,
    }
}

/// The words of a failure.
pub(super) fn words(outcome: &Result<()>) -> String {
    outcome.as_ref().map_or_else(Failure::to_string, |()| "it ended".to_owned())
}
