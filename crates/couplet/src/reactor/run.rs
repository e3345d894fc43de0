//! Running a loop: [`run`] for programs, [`run_until`] for scripts, and both on a [`Loop`].

use std::cell::RefCell;
use std::rc::Rc;

use super::{Loop, LoopOptions, Reactor, RunState};
use crate::defer::{Deferred, Failure, Result};
use crate::driver::Signal;

/// The run was stopped before the awaited result was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", match .signal {
    Some(Signal::Interrupt) => "interrupted",
    Some(_) => "terminated",
    None => "the reactor was stopped before the result was there",
})]
pub struct Stopped {
    /// The signal that stopped it, if one did.
    pub signal: Option<Signal>,
}

/// Runs a program: calls `setup` with a reactor, then turns until [`Reactor::stop`], SIGINT or
/// SIGTERM. A second signal while the run is ending ends it at once. The previous signal handlers
/// are back afterwards.
///
/// See [`Reactor`] for an example.
///
/// # Errors
///
/// What `setup` returns, or what the system says when it gives no poll descriptor.
pub fn run(setup: impl FnOnce(&Reactor) -> Result<()>) -> Result<()> {
    Loop::with_options(LoopOptions::default().signals(true))?.run(setup)
}

/// Runs a script: turns until the Deferred that `script` gives has fired, then stops the reactor
/// and gives the result. Twisted's `react`.
///
/// ```
/// use std::time::Duration;
///
/// let word = couplet::run_until(|reactor| {
///     reactor.sleep(Duration::from_millis(1)).map(|()| "done")
/// })?;
/// assert_eq!(word, "done");
/// # Ok::<(), couplet::Failure>(())
/// ```
///
/// # Errors
///
/// The Deferred's failure; [`Stopped`] when the run was stopped before.
pub fn run_until<T: 'static>(script: impl FnOnce(&Reactor) -> Deferred<T>) -> Result<T> {
    let mut l = Loop::with_options(LoopOptions::default().signals(true))?;
    let outcome: Rc<RefCell<Option<Result<T>>>> = Rc::default();
    let slot = outcome.clone();
    l.run(|reactor| {
        let stopping = reactor.clone();
        script(reactor)
            .add_both(move |result| {
                keep(&slot, result, &stopping);
                stopping.stop();
                Ok(())
            })
            .detach();
        Ok(())
    })?;
    let result = outcome.borrow_mut().take();
    result.unwrap_or_else(|| Err(Stopped { signal: l.stopped_by() }.into()))
}

/// Keeps the result of a script. What the end of the run cut off fails in many ways, and each
/// says less than [`Stopped`].
fn keep<T>(slot: &RefCell<Option<Result<T>>>, result: Result<T>, reactor: &Reactor) {
    if result.is_ok() || !reactor.is_stopping() {
        *slot.borrow_mut() = Some(result);
    }
}

impl Loop {
    /// Calls `setup`, then turns until the reactor is stopped. It can be run again.
    ///
    /// # Errors
    ///
    /// What `setup` returns, or what the driver says when its wait fails.
    pub fn run(&mut self, setup: impl FnOnce(&Reactor) -> Result<()>) -> Result<()> {
        let outcome = self.start(setup).and_then(|()| {
            self.runs_on = true;
            loop {
                match self.turn(None) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    Err(error) => {
                        self.finish_run();
                        return Err(error.into());
                    }
                }
            }
        });
        self.runs_on = false;
        self.give_signals_back()?;
        outcome
    }

    /// The beginning of a [`run`](Self::run) whose turns somebody else makes.
    pub(crate) fn start(&mut self, setup: impl FnOnce(&Reactor) -> Result<()>) -> Result<()> {
        self.begin_run();
        let outcome = setup(&self.reactor.clone());
        if outcome.is_err() {
            self.finish_run();
        }
        outcome
    }

    fn begin_run(&mut self) {
        self.stopped_by = None;
        if self.signals
            && let Err(error) = self.driver.watch_signals(true)
        {
            let what = match error.kind() {
                std::io::ErrorKind::AlreadyExists => "signals are left to others",
                _ => "signals cannot be taken: they end the program at once",
            };
            tracing::warn!(%error, "{what}");
        }
        self.reactor.records.run_state.set(RunState::Running);
    }

    fn give_signals_back(&mut self) -> Result<()> {
        if self.signals {
            self.driver.watch_signals(false)?;
        }
        Ok(())
    }

    /// Turns until `deferred` has fired. Nothing is stopped: what is open stays open for the next
    /// call. When the reactor is stopped meanwhile, the run ends as any other does, and gives the
    /// result if it came before that.
    ///
    /// # Errors
    ///
    /// The Deferred's failure; [`Stopped`] when the reactor was stopped before; what the driver
    /// says when its wait fails.
    pub fn run_until<T: 'static>(&mut self, deferred: Deferred<T>) -> Result<T> {
        self.run_script(|_| deferred)
    }

    /// [`run_until`](Self::run_until) for what is begun inside the run.
    pub(crate) fn run_script<T: 'static>(
        &mut self,
        script: impl FnOnce(&Reactor) -> Deferred<T>,
    ) -> Result<T> {
        let outcome: Rc<RefCell<Option<Result<T>>>> = Rc::default();
        let slot = outcome.clone();
        let reactor = self.reactor();
        self.begin_run();
        let waiting = script(&reactor).add_both(move |result| {
            keep(&slot, result, &reactor);
            Ok(())
        });
        waiting.detach();
        let result = self.turn_until(&outcome);
        self.give_signals_back()?;
        result
    }

    fn turn_until<T>(&mut self, outcome: &RefCell<Option<Result<T>>>) -> Result<T> {
        loop {
            let done = outcome.borrow_mut().take_if(|_| !self.is_ending());
            if let Some(result) = done {
                self.reactor.records.run_state.set(RunState::Idle);
                return result;
            }
            match self.turn(None) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if self.is_ending() {
                        self.finish_run();
                    }
                    self.reactor.records.run_state.set(RunState::Idle);
                    return Err(Failure::from(error));
                }
            }
        }
        let result = outcome.borrow_mut().take();
        result.unwrap_or_else(|| Err(Stopped { signal: self.stopped_by }.into()))
    }
}
