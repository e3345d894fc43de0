//! The task of a supervisor, which carries out one order after the other, as the process of Erlang's
//! `supervisor` handles its messages, so that restarts, additions and stops never overlap.
//!
//! Contract: 139–139h, 139l, 139n.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::child::{ChildCell, ChildState, Life, Restart, words};
use super::supervisor::{Inner, ServiceError, Strategy, SupervisorStage};
use crate::defer::{Cancelled, Canceller, Deferred, Resolver};
use crate::{Reactor, Result};

/// A request or an event that the task handles.
pub(super) enum Order {
    /// The run of a child with this number ended.
    Ended(Rc<ChildCell>, u64, Result<()>),
    /// The delay before the restart of a child is over.
    Restart(Rc<ChildCell>),
    Add(Rc<ChildCell>, Resolver<()>),
    Remove(Rc<ChildCell>, Resolver<()>),
    StopChild(Rc<ChildCell>, Resolver<()>),
    StartChild(Rc<ChildCell>, Resolver<()>),
    /// Only wakes the task, which asks for the stage before it takes an order.
    Stop,
}

pub(super) struct Supervising {
    inner: Rc<Inner>,
    reactor: Reactor,
}

impl Supervising {
    pub(super) fn new(inner: Rc<Inner>, reactor: Reactor) -> Self {
        Supervising { inner, reactor }
    }

    /// Starts the children, carries out orders until the supervisor stops or gives up, and stops
    /// the children.
    pub(super) async fn run(self, started: Resolver<()>, ended: Resolver<()>) -> Result<()> {
        for child in self.children() {
            if let Err(failure) = self.start_or_fail(&child).await {
                let stopping = self.inner.is_stopping();
                let outcome = self.stop_all().await;
                self.finish(SupervisorStage::Stopped, outcome);
                started.errback(match stopping {
                    true => Cancelled::of("the start of a supervisor").into(),
                    false => failure,
                });
                ended.callback(());
                return Ok(());
            }
        }
        if let stage @ SupervisorStage::Starting = &mut *self.inner.stage.borrow_mut() {
            *stage = SupervisorStage::Running;
        }
        started.callback(());
        let end = self.obey().await;
        let outcome = self.stop_all().await;
        match end {
            Ok(()) => {
                self.finish(SupervisorStage::Stopped, outcome);
                ended.callback(());
            }
            Err(gave_up) => {
                self.finish(SupervisorStage::GaveUp(gave_up.to_string()), outcome);
                ended.errback(gave_up);
            }
        }
        Ok(())
    }

    /// Carries out orders until the supervisor is to stop, or gives up.
    async fn obey(&self) -> Result<(), ServiceError> {
        while !self.inner.is_stopping() {
            let Ok(order) = self.inner.orders.get().await else { break };
            match order {
                Order::Ended(child, run, outcome) if child.is_in_run(run) => {
                    self.handle_end(child, outcome).await?;
                }
                Order::Restart(child) if child.state() == ChildState::Restarting => {
                    self.restart(child).await?;
                }
                Order::Ended(..) | Order::Restart(_) | Order::Stop => {}
                // Removed by an earlier order.
                Order::Add(child, done)
                | Order::Remove(child, done)
                | Order::StopChild(child, done)
                | Order::StartChild(child, done)
                    if !self.is_child(&child) =>
                {
                    done.errback(ServiceError::Unknown(child.name.clone()));
                }
                // Started together with others.
                Order::Add(child, done) if child.state() != ChildState::Stopped => {
                    done.callback(());
                }
                Order::Add(child, done) => {
                    let outcome = self.start_or_fail(&child).await;
                    if outcome.is_err() && !self.inner.is_stopping() {
                        self.inner.forget(&child);
                    }
                    done.resolve(outcome);
                }
                Order::Remove(child, done) => {
                    let outcome = self.stop_child(&child).await;
                    self.inner.forget(&child);
                    done.resolve(outcome);
                }
                Order::StopChild(child, done) => {
                    let outcome = self.stop_child(&child).await;
                    self.forget_temporary(&child);
                    done.resolve(outcome);
                }
                Order::StartChild(child, done) => done.resolve(match child.state() {
                    ChildState::Stopped | ChildState::Ended => self.start_or_fail(&child).await,
                    _ => Err(ServiceError::Runs(child.name.clone()).into()),
                }),
            }
        }
        Ok(())
    }

    /// A child has ended without having been stopped.
    async fn handle_end(
        &self,
        child: Rc<ChildCell>,
        outcome: Result<()>,
    ) -> Result<(), ServiceError> {
        let failed = outcome.as_ref().is_err_and(|failure| {
            !matches!(failure.downcast_ref(), Some(ServiceError::GaveUp { .. }))
        });
        let again = match child.restart {
            Restart::Permanent => true,
            Restart::Transient => failed,
            Restart::Temporary => false,
        };
        if again {
            return self.begin_restart(child, words(&outcome)).await;
        }
        match &outcome {
            Ok(()) => tracing::info!(service = %child.name, "service ended"),
            Err(failure) => log_warn!(service = %child.name, "service ended: {failure}"),
        }
        child.set(Life::Ended);
        self.forget_temporary(&child);
        Ok(())
    }

    /// Stops the children that are to be restarted with this one, and restarts them, now or after a
    /// delay. If a child fails to start, this begins again with that one.
    async fn begin_restart(
        &self,
        child: Rc<ChildCell>,
        failure: String,
    ) -> Result<(), ServiceError> {
        let mut next = Some((child, failure));
        while let Some((child, failure)) = next.take() {
            let delay = self.prepare_restart(&child, failure).await?;
            if delay > Duration::ZERO {
                self.restart_later(&child, delay);
            } else {
                next = self.start_group(&child).await;
            }
        }
        Ok(())
    }

    /// Starts the children that wait for the end of a delay.
    async fn restart(&self, child: Rc<ChildCell>) -> Result<(), ServiceError> {
        match self.start_group(&child).await {
            Some((child, failure)) => self.begin_restart(child, failure).await,
            None => Ok(()),
        }
    }

    /// Counts the restart, and stops those that are to be restarted with the child. Returns the
    /// delay.
    async fn prepare_restart(
        &self,
        child: &Rc<ChildCell>,
        failure: String,
    ) -> Result<Duration, ServiceError> {
        let inner = &self.inner;
        let now = self.reactor.now();
        let (most, period) = inner.intensity.borrow().limit();
        if child.uptime(now) >= period {
            child.streak.set(0);
        }
        child.set(Life::Restarting { failure: failure.clone(), next: None });
        if !inner.intensity.borrow_mut().allows_another(now) {
            let (supervisor, name) = (inner.name.clone(), child.name.clone());
            let gave_up = ServiceError::GaveUp { supervisor, name, failure, most, period };
            log_error!(service = %child.name, supervisor = %inner.name, "{gave_up}");
            return Err(gave_up);
        }
        let delay = inner.back_off.get().delay(child.streak.get(), &self.reactor);
        child.streak.set(child.streak.get().saturating_add(1));
        log_warn!(
            service = %child.name, supervisor = %inner.name, ?delay,
            "restarting a service: {failure}"
        );
        let mut others = self.group(child);
        others.retain(|other| !Rc::ptr_eq(other, child));
        for other in others.iter().rev() {
            // The failure has been logged.
            let _ = self.stop_child(other).await;
            self.forget_temporary(other);
        }
        Ok(delay)
    }

    fn restart_later(&self, child: &Rc<ChildCell>, delay: Duration) {
        if let ChildState::Restarting = child.state() {
            let (inner, due) = (self.inner.clone(), child.clone());
            let next = self.reactor.call_later(delay, move || inner.put(Order::Restart(due)));
            child.set_restart(next);
        }
    }

    /// The children that are restarted together with this one, in the order in which they start.
    fn group(&self, child: &Rc<ChildCell>) -> Vec<Rc<ChildCell>> {
        let mut children = self.children();
        let place = children.iter().position(|one| Rc::ptr_eq(one, child));
        match (self.inner.strategy.get(), place) {
            (Strategy::OneForAll, Some(_)) => children,
            (Strategy::RestForOne, Some(place)) => children.split_off(place),
            _ => vec![child.clone()],
        }
    }

    /// Starts a child and the members of its group that don't run. Returns a child that fails to start.
    async fn start_group(&self, child: &Rc<ChildCell>) -> Option<(Rc<ChildCell>, String)> {
        let mut group = self.group(child);
        group.retain(|one| one.state() != ChildState::Running);
        for one in &group {
            one.count_restart();
            if let Err(failure) = self.start(one).await {
                let again = !self.inner.is_stopping();
                return again.then(|| (one.clone(), failure.to_string()));
            }
        }
        None
    }

    /// Starts a child. The failure names it.
    async fn start_or_fail(&self, child: &Rc<ChildCell>) -> Result<()> {
        let name = || child.name.clone();
        let started = self.start(child).await;
        started.map_err(|failure| ServiceError::Start { name: name(), failure }.into())
    }

    async fn start(&self, child: &Rc<ChildCell>) -> Result<()> {
        let started = self.try_start(child).await;
        if started.is_err() {
            child.set(Life::Stopped);
        }
        started
    }

    async fn try_start(&self, child: &Rc<ChildCell>) -> Result<()> {
        if self.inner.is_stopping() {
            return Err(self.inner.not_running().into());
        }
        child.show(&self.inner.name, &self.reactor);
        let (run, starting) = child.start(&self.reactor);
        wait(&self.inner.starting, starting).await?;
        let end = match child.take_end().await {
            Ok(end) => end,
            Err(panic) => {
                // A failure of the stop would hide the panic.
                let _ = child.stop(&self.reactor).await;
                return Err(panic);
            }
        };
        child.set(Life::Running { since: self.reactor.now() });
        tracing::debug!(service = %child.name, "service started");
        if let Some(end) = end {
            let (inner, child) = (self.inner.clone(), child.clone());
            let report = end.add_both(move |outcome| {
                inner.put(Order::Ended(child, run, outcome));
                Ok(())
            });
            report.detach();
        }
        Ok(())
    }

    /// Stops all children that run, in reverse order. Returns the first failure.
    async fn stop_all(&self) -> Result<()> {
        let mut outcome = Ok(());
        for child in self.children().iter().rev() {
            let stopped = self.stop_child(child).await;
            self.forget_temporary(child);
            outcome = outcome.and(stopped);
        }
        outcome
    }

    async fn stop_child(&self, child: &Rc<ChildCell>) -> Result<()> {
        match child.state() {
            ChildState::Running => {}
            ChildState::Restarting => {
                child.set(Life::Stopped);
                return Ok(());
            }
            _ => return Ok(()),
        }
        let stopping = child.stop(&self.reactor);
        if self.inner.is_hastened.get() {
            stopping.cancel();
        }
        let outcome = wait(&self.inner.stopping, stopping).await;
        child.set(Life::Stopped);
        outcome.map_err(|failure| {
            let is_ordered = self.inner.is_hastened.get() && failure.is_cancelled();
            let error = ServiceError::Stop { name: child.name.clone(), failure };
            if !is_ordered {
                log_warn!(service = %child.name, supervisor = %self.inner.name, "{error}");
            }
            error.into()
        })
    }

    fn is_child(&self, child: &Rc<ChildCell>) -> bool {
        self.inner.children.borrow().iter().any(|one| Rc::ptr_eq(one, child))
    }

    fn forget_temporary(&self, child: &Rc<ChildCell>) {
        if child.restart == Restart::Temporary {
            self.inner.forget(child);
        }
    }

    fn children(&self) -> Vec<Rc<ChildCell>> {
        self.inner.children.borrow().clone()
    }

    /// The children have stopped: fails the orders that are left, and fires the Deferreds of
    /// `stop`.
    fn finish(&self, stage: SupervisorStage, outcome: Result<()>) {
        *self.inner.stage.borrow_mut() = stage;
        for child in self.children() {
            child.hide();
            child.set(Life::Stopped);
        }
        while let Some(order) = self.inner.orders.try_get() {
            match order {
                Order::Remove(child, done) => {
                    self.inner.forget(&child);
                    done.callback(());
                }
                Order::Add(_, done) => done.callback(()),
                Order::StopChild(_, done) => done.callback(()),
                Order::StartChild(_, done) => done.errback(self.inner.not_running()),
                Order::Ended(..) | Order::Restart(_) | Order::Stop => {}
            }
        }
        for stopped in self.inner.stopped.take() {
            stopped.resolve(outcome.clone());
        }
    }
}

/// Waits for a child; the canceller in `place` ends the wait.
async fn wait(place: &RefCell<Option<Canceller>>, deferred: Deferred<()>) -> Result<()> {
    drop(place.replace(Some(deferred.canceller())));
    let outcome = deferred.await;
    drop(place.take());
    outcome
}

impl Drop for Supervising {
    fn drop(&mut self) {
        // The loop has ended, and with it everything that the children had in it.
        if self.inner.is_active() {
            self.finish(SupervisorStage::Stopped, Err(Cancelled::of("a supervisor").into()));
        }
    }
}
