//! [`Supervisor`]: the handle, its settings and its requests. The task that carries them out is in
//! `supervising.rs`.
//!
//! Contract: 139, 139b, 139e–139j, 139n.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::child::{Child, ChildCell, ChildStatus, drop_in_callback};
use super::restarts::{BackOff, Intensity};
use super::service::{Health, Service};
use super::supervising::{Order, Supervising};
use crate::defer::{Canceller, Deferred, DeferredQueue, Failure, Resolver};
use crate::reactor::Drain;
use crate::{Reactor, Shutdown};

/// Starts services in order, restarts those that end, and stops them in reverse order: Twisted's
/// `MultiService`, with the strategies and the semantics of Erlang's `supervisor`. Clones share the
/// supervisor.
///
/// A restart has to help: with more than one in 5 seconds, unless
/// [`intensity`](Self::intensity) says otherwise, the supervisor stops its children and ends with
/// [`ServiceError::GaveUp`]. A supervisor above it then decides; at the top the
/// [run](Self::run) fails, and with it the process.
///
/// ```
/// use std::time::Duration;
///
/// use couplet::services::{Child, FunctionService, Restart, Supervisor, TimerService};
/// use couplet::{Deferred, react};
///
/// # #[expect(clippy::needless_doctest_main)]
/// fn main() {
///     react(|reactor| {
///         let supervisor = Supervisor::new("program").intensity(5, Duration::from_secs(60));
///         let tick = TimerService::new("tick", Duration::from_secs(1), || println!("tick"));
///         supervisor.add(Child::new(tick)).detach();
///         let cache = FunctionService::new("cache", |_reactor| Deferred::succeed(()));
///         supervisor.add(Child::new(cache).restart(Restart::Transient)).detach();
/// #       let reactor_ = reactor.clone();
/// #       reactor.call_soon(move || reactor_.stop());
///         supervisor.run(reactor)
///     });
/// }
/// ```
#[derive(Clone)]
pub struct Supervisor {
    inner: Rc<Inner>,
}

/// Which children a [`Supervisor`] restarts when one has to be restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// That child. Erlang's `one_for_one`.
    #[default]
    OneForOne,
    /// All children: the others are stopped, in reverse order, and all are started again, in order.
    /// Erlang's `one_for_all`.
    OneForAll,
    /// The child and those after it. Erlang's `rest_for_one`.
    RestForOne,
}

/// Errors of a [`Supervisor`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A child could not be started.
    #[error("cannot start service {name}: {failure}")]
    Start {
        /// The child.
        name: String,
        /// The failure of the start.
        failure: Failure,
    },
    /// Children were restarted too often.
    #[error(
        "supervisor {supervisor} gave up: more than {most} restarts within {} s, the last of {name}: {failure}",
        period.as_secs_f64()
    )]
    GaveUp {
        /// The supervisor.
        supervisor: String,
        /// The child that ended last.
        name: String,
        /// The words of its end.
        failure: String,
        /// The restarts that are allowed…
        most: u32,
        /// …within this period.
        period: Duration,
    },
    /// Children failed to stop, or not in time, and are regarded as stopped.
    #[error("cannot stop service {name}: {failure}")]
    Stop {
        /// The first of them.
        name: String,
        /// The failure of its stop.
        failure: Failure,
    },
    /// A child of this name exists.
    #[error("cannot add service {0}: there is one of that name")]
    Exists(String),
    /// No child has this name.
    #[error("there is no service {0}")]
    Unknown(String),
    /// The child runs, so it can't be started.
    #[error("cannot start service {0}: it runs")]
    Runs(String),
    /// The supervisor doesn't run.
    #[error("supervisor {0} does not run")]
    NotRunning(String),
}

pub(super) struct Inner {
    pub(super) name: String,
    pub(super) strategy: Cell<Strategy>,
    pub(super) intensity: RefCell<Intensity>,
    pub(super) back_off: Cell<BackOff>,
    /// In the order in which they start.
    pub(super) children: RefCell<Vec<Rc<ChildCell>>>,
    pub(super) stage: RefCell<SupervisorStage>,
    pub(super) orders: DeferredQueue<Order>,
    /// The start of a child that the task waits for; a stop cancels it.
    pub(super) starting: RefCell<Option<Canceller>>,
    /// The stop of a child that the task waits for.
    pub(super) stopping: RefCell<Option<Canceller>>,
    /// How long the end of a run waits before it stops anything.
    notice: Cell<Duration>,
    /// The drain of all ports at the end of a run.
    drain: RefCell<Option<Rc<DrainPorts>>>,
    /// The stage of that end, before the children stop.
    leaving: RefCell<Option<Canceller>>,
    /// Whether the children's stops are to be cancelled.
    pub(super) is_hastened: Cell<bool>,
    pub(super) stopped: RefCell<Vec<Resolver<()>>>,
    /// The Deferred of `take_end`.
    pub(super) end: RefCell<Option<Deferred<()>>>,
}

/// Drains the ports at the end of a run.
type DrainPorts = dyn Fn(&Reactor) -> Deferred<()>;

/// The stage of a supervisor.
pub(super) enum SupervisorStage {
    Stopped,
    Starting,
    Running,
    /// Running, and about to stop.
    Leaving,
    Stopping,
    /// The supervisor gave up, for this reason.
    GaveUp(String),
}

impl Supervisor {
    /// A supervisor without children, which restarts only the child that ended.
    pub fn new(name: impl Into<String>) -> Self {
        let inner = Inner {
            name: name.into(),
            strategy: Cell::default(),
            intensity: RefCell::new(Intensity::new(1, Duration::from_secs(5))),
            back_off: Cell::new(BackOff {
                first: Duration::from_millis(100),
                most: Duration::from_secs(30),
            }),
            children: RefCell::default(),
            stage: RefCell::new(SupervisorStage::Stopped),
            orders: DeferredQueue::new(),
            starting: RefCell::default(),
            stopping: RefCell::default(),
            notice: Cell::default(),
            drain: RefCell::default(),
            leaving: RefCell::default(),
            is_hastened: Cell::new(false),
            stopped: RefCell::default(),
            end: RefCell::default(),
        };
        Supervisor { inner: Rc::new(inner) }
    }

    /// Sets which children are restarted together.
    #[must_use]
    pub fn strategy(self, strategy: Strategy) -> Self {
        self.inner.strategy.set(strategy);
        self
    }

    /// Sets how many restarts are allowed within a period: one in 5 s by default. A start that
    /// fails during a restart counts as another one.
    #[must_use]
    pub fn intensity(self, most: u32, period: Duration) -> Self {
        *self.inner.intensity.borrow_mut() = Intensity::new(most, period);
        self
    }

    /// Sets the delay before a restart: `first` doubled with each further restart of the same child,
    /// at most `most`, less a random part of up to half. 100 ms and 30 s by default. A child that
    /// ran for the period of the [intensity](Self::intensity) begins at `first` again. With zero
    /// for both, children are restarted immediately, as in Erlang.
    #[must_use]
    pub fn back_off(self, first: Duration, most: Duration) -> Self {
        self.inner.back_off.set(BackOff { first, most });
        self
    }

    /// Adds a child after the others. While the supervisor runs, the child is started, and the
    /// Deferred fires once it has started; if that fails, the child is not added. Erlang's
    /// `start_child`.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Exists`] and [`ServiceError::Start`].
    pub fn add(&self, child: Child) -> Deferred<()> {
        let child = ChildCell::new(child);
        if self.find(&child.name).is_some() {
            return Deferred::fail(ServiceError::Exists(child.name.clone()));
        }
        self.inner.children.borrow_mut().push(child.clone());
        match self.inner.is_active() {
            true => self.order(|resolver| Order::Add(child, resolver)),
            false => Deferred::succeed(()),
        }
    }

    /// Stops a child, unless it is stopped, and forgets it. Erlang's `terminate_child` and
    /// `delete_child`.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Unknown`] and [`ServiceError::Stop`]; in the latter case it is forgotten too.
    pub fn remove(&self, name: &str) -> Deferred<()> {
        let Some(child) = self.find(name) else { return Deferred::fail(unknown(name)) };
        if self.inner.is_active() {
            return self.order(|resolver| Order::Remove(child, resolver));
        }
        self.inner.forget(&child);
        Deferred::succeed(())
    }

    /// Stops a child and keeps it, until [`start_child`](Self::start_child) or a restart of all
    /// children starts it. A temporary child is forgotten. Erlang's `terminate_child`.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Unknown`], [`ServiceError::NotRunning`] and [`ServiceError::Stop`].
    pub fn stop_child(&self, name: &str) -> Deferred<()> {
        self.order_of(name, Order::StopChild)
    }

    /// Starts a child that was stopped or has ended. Erlang's `restart_child`.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Unknown`], [`ServiceError::NotRunning`], [`ServiceError::Runs`] and
    /// [`ServiceError::Start`].
    pub fn start_child(&self, name: &str) -> Deferred<()> {
        self.order_of(name, Order::StartChild)
    }

    /// The children, in the order in which they start. Erlang's `which_children`.
    pub fn children(&self) -> Vec<ChildStatus> {
        let children = self.inner.children.borrow().clone();
        children.iter().map(ChildCell::status).collect()
    }

    /// Sets how long a [run](Self::run) that ends still serves as before while its health says
    /// [`Stopping`](Health::Stopping), so that load balancers notice and send clients elsewhere:
    /// not at all by default.
    #[must_use]
    pub fn not_ready_for(self, time: Duration) -> Self {
        self.inner.notice.set(time);
        self
    }

    /// Has a [run](Self::run) that ends [drain](Reactor::drain) all ports of the loop together,
    /// before the children are stopped one after the other.
    #[must_use]
    pub fn drain(self, times: impl Into<Drain>) -> Self {
        let times = times.into();
        self.drain_by(move |reactor| reactor.drain(times).map(drop))
    }

    /// Sets a closure that drains the ports in place of [`drain`](Self::drain), for a program with
    /// ports in several loops. The closure's Deferred fires when they have drained; cancelled, it
    /// ends the drain's first stage.
    #[must_use]
    pub fn drain_by(self, drain: impl Fn(&Reactor) -> Deferred<()> + 'static) -> Self {
        let before = self.inner.drain.replace(Some(Rc::new(drain)));
        drop_in_callback(self.inner.name.clone(), before);
        self
    }

    /// Starts the children, and [winds down](Self::wind_down) before the loop stops
    /// ([`Shutdown::Before`]). The Deferred fires when the children have stopped, and fails if one of
    /// them can't be started, or if the supervisor gives up; with [`react`](crate::react) the process
    /// then ends with code 1, so that systemd (`Restart=on-failure`) starts it again.
    pub fn run(&self, reactor: &Reactor) -> Deferred<()> {
        let (mut starting, stopping) = (self.clone(), self.clone());
        let (mut ending, stops) = (self.clone(), reactor.clone());
        reactor.on(Shutdown::Before, move || stopping.wind_down(&stops));
        let started = starting.start(reactor);
        started.then(move |()| ending.take_end().unwrap_or_else(|| Deferred::succeed(())))
    }

    /// Ends the supervisor in stages: its health says [`Stopping`](Health::Stopping) for
    /// [a time](Self::not_ready_for); all ports of the loop close and [drain](Self::drain); the
    /// children stop in reverse order, each within its time. Cancelled, it shortens the present
    /// stage and those to come. (A second signal ends the run without them.)
    pub fn wind_down(&self, reactor: &Reactor) -> Deferred<()> {
        let inner = &self.inner;
        if !inner.is_active() {
            return Deferred::succeed(());
        }
        if !inner.is_stopping() {
            *inner.stage.borrow_mut() = SupervisorStage::Leaving;
        }
        let (deferred, done) = inner.cancelled_by(Inner::hasten);
        let (draining, mut stopping, drains) = (self.clone(), self.clone(), reactor.clone());
        let stages = inner
            .stage_of_leaving(reactor.sleep(inner.notice.get()))
            .then(move |()| {
                let drain = draining.inner.drain.borrow().clone();
                let drained = drain.map(|drain| drain(&drains));
                drained.map_or(Deferred::succeed(()), |it| draining.inner.stage_of_leaving(it))
            })
            .then(move |()| stopping.stop())
            .add_both(move |outcome| {
                done.resolve(outcome);
                Ok(())
            });
        stages.detach();
        deferred
    }

    fn find(&self, name: &str) -> Option<Rc<ChildCell>> {
        self.inner.children.borrow().iter().find(|child| child.name == name).cloned()
    }

    fn order_of(
        &self,
        name: &str,
        order: impl FnOnce(Rc<ChildCell>, Resolver<()>) -> Order,
    ) -> Deferred<()> {
        match self.find(name) {
            None => Deferred::fail(unknown(name)),
            Some(_) if !self.inner.is_active() => Deferred::fail(self.inner.not_running()),
            Some(child) => self.order(|resolver| order(child, resolver)),
        }
    }

    fn order(&self, order: impl FnOnce(Resolver<()>) -> Order) -> Deferred<()> {
        let (deferred, resolver) = Deferred::new();
        self.inner.put(order(resolver));
        deferred
    }
}

impl Service for Supervisor {
    fn name(&self) -> &str {
        &self.inner.name
    }

    /// Starts the children, each when the one before it has started. If one fails, those before it
    /// are stopped, in reverse order, and the start fails with [`ServiceError::Start`]. While the
    /// supervisor runs, this does nothing.
    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        if self.inner.is_active() {
            return Deferred::succeed(());
        }
        self.inner.is_hastened.set(false);
        self.inner.intensity.borrow_mut().forget();
        *self.inner.stage.borrow_mut() = SupervisorStage::Starting;
        let (deferred, started) = self.inner.cancelled_by(Inner::begin_stop);
        let (end, ended) = Deferred::new();
        *self.inner.end.borrow_mut() = Some(end);
        let task = Supervising::new(self.inner.clone(), reactor.clone());
        let name = format!("supervisor {}", self.inner.name);
        reactor.spawn_named(name, task.run(started, ended)).detach();
        deferred
    }

    /// Stops the children in reverse order, each within its time. Fails with
    /// [`ServiceError::Stop`] if a child failed to stop. Cancelled, it cancels the stops of the
    /// children.
    fn stop(&mut self) -> Deferred<()> {
        if !self.inner.is_active() {
            return Deferred::succeed(());
        }
        let (deferred, stopped) = self.inner.cancelled_by(Inner::hasten);
        self.inner.stopped.borrow_mut().push(stopped);
        self.inner.begin_stop();
        deferred
    }

    /// The health of its worst child. Permanent children that don't run are failures; transient and
    /// temporary ones that have ended are not.
    fn health(&self) -> Health {
        match &*self.inner.stage.borrow() {
            SupervisorStage::Running => {}
            SupervisorStage::Stopped | SupervisorStage::Starting => return Health::Starting,
            SupervisorStage::Leaving | SupervisorStage::Stopping => return Health::Stopping,
            SupervisorStage::GaveUp(words) => return Health::Failed(words.clone()),
        }
        let children = self.inner.children.borrow().clone();
        Health::worst(children.iter().map(ChildCell::health))
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.inner.end.borrow_mut().take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop_in_callback(std::mem::take(&mut self.name), self.drain.take());
    }
}

impl Inner {
    pub(super) fn put(&self, order: Order) {
        // The queue has no bound.
        let _ = self.orders.put(order);
    }

    /// Whether the task runs.
    pub(super) fn is_active(&self) -> bool {
        !matches!(*self.stage.borrow(), SupervisorStage::Stopped | SupervisorStage::GaveUp(_))
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(*self.stage.borrow(), SupervisorStage::Stopping)
    }

    /// Has the task stop: it cancels its wait for a start, or takes an order.
    fn begin_stop(&self) {
        let before = self.stage.replace(SupervisorStage::Stopping);
        if matches!(before, SupervisorStage::Stopping) {
            return;
        }
        self.put(Order::Stop);
        cancel_wait(&self.starting);
    }

    /// A Deferred whose cancel makes this call.
    fn cancelled_by(self: &Rc<Self>, call: fn(&Inner)) -> (Deferred<()>, Resolver<()>) {
        let inner = Rc::downgrade(self);
        Deferred::with_canceller(move |_| {
            if let Some(inner) = inner.upgrade() {
                call(&inner);
            }
        })
    }

    /// A stage of [`wind_down`](Supervisor::wind_down), which a cancel cuts short.
    fn stage_of_leaving(&self, stage: Deferred<()>) -> Deferred<()> {
        if self.is_hastened.get() {
            stage.cancel();
        }
        drop(self.leaving.replace(Some(stage.canceller())));
        stage.add_errback(|_| Ok(()))
    }

    /// Cancels the stages of an end, and the stops of the children, those to come too.
    fn hasten(&self) {
        self.is_hastened.set(true);
        cancel_wait(&self.leaving);
        cancel_wait(&self.stopping);
    }

    pub(super) fn forget(&self, child: &Rc<ChildCell>) {
        child.hide();
        let mut children = self.children.borrow_mut();
        let place = children.iter().position(|one| Rc::ptr_eq(one, child));
        let forgotten = place.map(|place| children.remove(place));
        // The service of the child is dropped while nothing is borrowed.
        drop(children);
        drop(forgotten);
    }

    pub(super) fn not_running(&self) -> ServiceError {
        ServiceError::NotRunning(self.name.clone())
    }
}

/// Cancels a wait, while nothing is borrowed.
fn cancel_wait(wait: &RefCell<Option<Canceller>>) {
    let wait = wait.take();
    if let Some(wait) = wait {
        wait.cancel();
    }
}

fn unknown(name: &str) -> ServiceError {
    ServiceError::Unknown(name.to_owned())
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("name", &self.inner.name)
            .field("strategy", &self.inner.strategy.get())
            .field("intensity", &self.inner.intensity.borrow())
            .field("back_off", &self.inner.back_off.get())
            .finish_non_exhaustive()
    }
}
