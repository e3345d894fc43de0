//! The [`Loop`], which owns the driver and the connections, and runs. [`run`] is for programs,
//! [`run_until`] for scripts.
//!
//! Contract: 103, 105, 106b, 134.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::io;
#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::process::ExitCode;
use std::rc::Rc;
#[cfg(feature = "testing")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::runtime::Runtime;
use super::steps::{Engine, Turns};
use super::table::Resource;
use crate::backlog::{self, Backlog};
use crate::defer::{Deferred, Failure, Result, set_reporter};
use crate::driver::contents::Contents;
use crate::driver::recorded::{Recorded, RingWriter};
use crate::driver::{Commands, Driver, Mio, Signal};
use crate::internals::is_chosen;
use crate::panics::{Contained, contain};
#[cfg(feature = "testing")]
use crate::reactor::frames::{Frames, TableLimits};
use crate::reactor::inspect::{ByInspector, Inspector};
use crate::reactor::keeping::Keeper;
use crate::reactor::options::{DriverChoice, LoopOptions};
use crate::reactor::records::{Records, Start};
use crate::reactor::snapshot::Snapshot;
use crate::reactor::stage::RunStage;
use crate::reactor::tasks::Tasks;
use crate::recorder::Reactor;
use crate::switches::Switch;

/// The run was stopped before the awaited result arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", match .signal {
    Some(Signal::Interrupt) => "interrupted",
    Some(_) => "terminated",
    None => "the reactor was stopped before the result arrived",
})]
#[non_exhaustive]
pub struct Stopped {
    /// The signal that stopped the run, if one did.
    pub signal: Option<Signal>,
}

/// Runs a program: calls `setup` with a reactor, then turns until [`Reactor::stop`], SIGINT or
/// SIGTERM. A second signal during the shutdown ends the run immediately. The previous signal
/// handlers are restored afterwards.
///
/// See [`Reactor`] for an example.
///
/// # Errors
///
/// The error of `setup`, or the system's error if it refuses a poll descriptor.
pub fn run(setup: impl FnOnce(&Reactor) -> Result<()>) -> Result<()> {
    Loop::with_options(LoopOptions::default().signals(true))?.run(setup)
}

/// Runs a script: turns until the Deferred that `script` returns fires, then stops the reactor and
/// returns the result. For a whole program, see [`react`].
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
/// The Deferred's failure; [`Stopped`] if the run was stopped first.
pub fn run_until<T: 'static>(script: impl FnOnce(&Reactor) -> Deferred<T>) -> Result<T> {
    let mut l = Loop::with_options(LoopOptions::default().signals(true))?;
    let outcome: Rc<RefCell<Option<Result<T>>>> = Rc::default();
    let slot = outcome.clone();
    l.run(|reactor| {
        let stopping = reactor.clone();
        script(reactor)
            .add_both(move |result| {
                keep_result(&slot, result, &stopping);
                stopping.stop();
                Ok(())
            })
            .detach();
        Ok(())
    })?;
    let result = outcome.borrow_mut().take();
    result.unwrap_or_else(|| Err(Stopped { signal: l.stopped_by() }.into()))
}

/// Runs a program that is one Deferred, and returns the exit code for `main`: 0 if the Deferred
/// fires or the reactor is stopped first; 1 if it fails, with the failure logged (or printed to
/// stderr without a log); 130 or 143 after SIGINT or SIGTERM. Twisted's `react`.
///
/// ```
/// use std::process::ExitCode;
/// use std::time::Duration;
///
/// fn main() -> ExitCode {
///     couplet::react(|reactor| {
///         let reactor = reactor.clone();
///         reactor.clone().spawn(async move {
///             reactor.sleep(Duration::from_millis(1)).await?;
///             println!("done");
///             Ok(())
///         })
///     })
/// }
/// ```
pub fn react<T: 'static>(script: impl FnOnce(&Reactor) -> Deferred<T>) -> ExitCode {
    let Err(failure) = run_until(script) else { return ExitCode::SUCCESS };
    match failure.downcast_ref::<Stopped>() {
        Some(Stopped { signal: Some(signal) }) => ExitCode::from(128 + signal.number() as u8),
        Some(Stopped { signal: None }) => ExitCode::SUCCESS,
        None => {
            report_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

/// The memory for the ring of an inspected loop: the bytes of its events, the connections whose
/// addresses it keeps, and the contents.
fn memory_for(inspector: &dyn Inspector) -> ((usize, usize), Option<Contents>) {
    let (each, total) = inspector.contents();
    let sizes = (inspector.ring_size(), inspector.logged_connections());
    (sizes, Contents::new(each, total))
}

/// Keeps the result of a script. Failures caused by the shutdown are dropped: they take many forms,
/// all less informative than [`Stopped`].
fn keep_result<T>(slot: &RefCell<Option<Result<T>>>, result: Result<T>, reactor: &Reactor) {
    if result.is_ok() || !reactor.is_stopping() {
        *slot.borrow_mut() = Some(result);
    }
}

/// The loop: a driver, the connections, and the turn.
///
/// Programs call [`run`](crate::run). Create a `Loop` to own it, to have several, to embed it in
/// another loop, or to run it on another driver.
///
/// ```
/// use std::time::Duration;
///
/// let mut l = couplet::Loop::new()?;
/// let reactor = l.reactor();
/// let waking = reactor.sleep(Duration::from_millis(1));
/// l.run_until(waking)?;
/// # Ok::<(), couplet::Failure>(())
/// ```
///
/// # Inside another loop
///
/// [`begin`](Self::begin) a run, and [`turn`](Self::turn) it with a wait of zero whenever
/// [`descriptor`](Self::descriptor) is readable or the time of [`next_turn`](Self::next_turn) has
/// come; query that after each turn. Once the descriptor was queried, a handle that records outside
/// a turn makes it readable. When a turn returns false the run has ended; [`end`](Self::end) ends
/// it early.
///
/// ```
/// # use std::time::Duration;
/// # fn wait_in_the_other_loop(_: Option<std::time::Instant>) {}
/// let mut l = couplet::Loop::new()?;
/// l.begin(|reactor| {
///     let stopping = reactor.clone();
///     reactor.call_later(Duration::from_millis(1), move || stopping.stop());
///     Ok(())
/// })?;
/// while l.turn(Some(Duration::ZERO))? {
///     wait_in_the_other_loop(l.next_turn()); // for this time, or l.descriptor()
/// }
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct Loop {
    driver: Box<dyn Engine>,
    pub(super) core: Core,
    /// Whether a run handles signals.
    signals: bool,
    runtime: Runtime,
    /// Notifies the inspector when the loop is dropped. The error of an inspector that could not
    /// open, until the first run.
    inspected: io::Result<Option<Box<dyn Any>>>,
}

impl Loop {
    /// Creates a loop over the default driver.
    ///
    /// # Errors
    ///
    /// When the system refuses a poll descriptor.
    pub fn new() -> io::Result<Loop> {
        Loop::with_options(LoopOptions::default())
    }

    /// Creates a loop over the [chosen](LoopOptions::driver) driver, with options.
    ///
    /// # Errors
    ///
    /// When the system refuses a poll descriptor, or the tokio runtime that the options request.
    pub fn with_options(options: LoopOptions) -> io::Result<Loop> {
        if options.driver == DriverChoice::Uring {
            match Loop::over_uring(&options) {
                Ok(made) => return Ok(made),
                Err(error) => log_warn!(%error, "io_uring is not available; epoll serves the loop"),
            }
        }
        Loop::of_system(Mio::new(options.tuning.read_buffer)?.spin(options.tuning.spin), &options)
    }

    #[cfg(all(target_os = "linux", feature = "uring"))]
    fn over_uring(options: &LoopOptions) -> io::Result<Loop> {
        Loop::of_system(crate::driver::Uring::new(options.tuning.read_buffer)?, options)
    }

    #[cfg(not(all(target_os = "linux", feature = "uring")))]
    fn over_uring(_: &LoopOptions) -> io::Result<Loop> {
        let why = "this program was built without it (feature `uring`, on Linux)";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    fn of_system<D: Driver + 'static>(driver: D, options: &LoopOptions) -> io::Result<Loop> {
        let runtime = Runtime::start(options)?;
        let Some(ByInspector(inspector)) = &options.inspector else {
            return Ok(Loop::assemble(driver, options, runtime, None));
        };
        let (sizes, contents) = memory_for(&**inspector);
        let ring = RingWriter::new(sizes, contents, Commands::world(&driver).now());
        let mut made = Loop::record::<_, false>(driver, options, runtime, ring.clone());
        made.inspected = Ok(Some(made.core.show_to(inspector, &ring)?));
        Ok(made)
    }

    /// Creates a loop over any driver. The turn is compiled for the driver's type; a loop with an
    /// inspector has its driver in a box. If the inspector can't open, the first [`run`](Self::run),
    /// [`begin`](Self::begin) or [`run_until`](Self::run_until) fails with its error.
    ///
    /// # Panics
    ///
    /// If the options request a tokio runtime and the system refuses it.
    pub fn with_driver(driver: impl Driver + 'static, options: LoopOptions) -> Loop {
        let Some(ByInspector(inspector)) = &options.inspector else {
            return Loop::over(&options, |runtime| Loop::assemble(driver, &options, runtime, None));
        };
        let driver: Box<dyn Driver> = Box::new(driver);
        let (sizes, contents) = memory_for(&**inspector);
        let ring = RingWriter::of_world(sizes, contents, Commands::world(&driver));
        let made = |runtime| Loop::record::<_, true>(driver, &options, runtime, ring.clone());
        let mut made = Loop::over(&options, made);
        made.inspected = made.core.show_to(inspector, &ring).map(Some);
        made
    }

    /// Creates a loop over any driver that writes its events into this ring, and its frames.
    #[cfg(feature = "testing")]
    pub(crate) fn recorded(
        driver: impl Driver + 'static,
        options: &LoopOptions,
        ring: RingWriter,
        frames: TableLimits,
    ) -> (Loop, Arc<Frames>) {
        let made = |runtime| Loop::record::<_, true>(driver, options, runtime, ring.clone());
        let made = Loop::over(options, made);
        let frames = made.core.keep_frames(&ring, frames);
        (made, frames)
    }

    fn over(options: &LoopOptions, assemble: impl FnOnce(Runtime) -> Loop) -> Loop {
        let runtime = Runtime::start(options).expect("the system can start a tokio runtime");
        let made = assemble(runtime);
        // Such as a simulated host: its world turns it only when its driver is woken.
        made.core.records.queue.set_may_sleep(true);
        made
    }

    /// Creates a loop that writes its events into this ring. The driver is compiled with contents and
    /// without, so that they cost nothing unless they are kept.
    fn record<D: Driver + 'static, const WORLD: bool>(
        driver: D,
        options: &LoopOptions,
        runtime: Runtime,
        ring: RingWriter,
    ) -> Loop {
        let kept = Some(ring.clone());
        if ring.ring().contents().is_some() {
            let driver = Recorded::<_, WORLD, true>::new(driver, ring);
            Loop::assemble(driver, options, runtime, kept)
        } else {
            let driver = Recorded::<_, WORLD, false>::new(driver, ring);
            Loop::assemble(driver, options, runtime, kept)
        }
    }

    fn assemble(
        driver: impl Driver + 'static,
        options: &LoopOptions,
        runtime: Runtime,
        ring: Option<RingWriter>,
    ) -> Loop {
        install_log_reporter();
        let records = Records::new(driver.world(), Tasks::new(driver.waker()), options);
        records.monitor_calls(options, ring);
        let core = Core::new(records, options);
        Loop {
            driver: Box::new(driver),
            core,
            signals: options.switches.has(Switch::Signals),
            runtime,
            inspected: Ok(None),
        }
    }

    /// A handle to this loop.
    pub fn reactor(&self) -> Reactor {
        self.core.reactor.clone()
    }

    /// Sets the function that shows a snapshot on SIGUSR1; by default it is printed to stderr.
    /// Called by the turn, in runs that handle signals.
    pub fn on_snapshot(&mut self, show: impl FnMut(&Snapshot) + 'static) {
        let mut show = Contained::new(show);
        self.core.hooks.on_snapshot(move |snapshot| show(snapshot));
    }

    /// Sets the keeper of connections whose protocols call
    /// [`hooks::keep`](crate::hooks::keep), in place of an earlier keeper, for later calls.
    pub fn keep_connections(&mut self, keeper: impl Keeper + 'static) {
        self.core.set_keeper(keeper);
    }

    /// Takes a snapshot of the loop.
    pub fn snapshot(&mut self) -> Snapshot {
        self.core.snapshot(&*self.driver)
    }

    /// The signal that ended the last run, if any.
    pub fn stopped_by(&self) -> Option<Signal> {
        self.core.records.run.stopped_by()
    }

    /// Runs one turn, which waits at most `at_most` for events (`None`: no limit), or continues a
    /// [suspended](Self::is_suspended) turn. Returns true while the run continues, and always
    /// outside a run.
    ///
    /// # Errors
    ///
    /// When the driver's wait fails.
    pub fn turn(&mut self, at_most: Option<Duration>) -> io::Result<bool> {
        let _entered = self.runtime.enter();
        self.driver.turn(&mut self.core, Turns::One(at_most))
    }

    /// Whether a turn is in progress that [`hooks::suspend_turn`](crate::hooks::suspend_turn)
    /// suspended: the next call of [`turn`](Self::turn) continues it.
    pub fn is_suspended(&self) -> bool {
        self.core.suspended.is_some()
    }

    /// Makes the timed calls that are due by now, those requested in the last turn included, and sends
    /// their output, but takes no events. Returns true while the run continues, and always outside a
    /// run. A suspended turn stays suspended.
    ///
    /// For a loop that is turned by another: called before each [`turn`](Self::turn), it makes a timed call
    /// that came due during a callback before the next events, as in Twisted. A turn reads the clock
    /// before its events, and makes such a call after the next ones.
    ///
    /// A timed call that is more than 10 ms late may be a timeout that waiting input would have
    /// postponed. If it was requested before the last turn, this makes no calls: the next turn, which
    /// then does not wait, reads the input first.
    pub fn make_timed_calls(&mut self) -> bool {
        let _entered = self.runtime.enter();
        self.core.make_timed_calls(&mut *self.driver)
    }

    /// Whether [`make_timed_calls`](Self::make_timed_calls) would leave late calls to the next turn.
    pub fn leaves_timed_calls(&self) -> bool {
        self.core.may_overtake_input(self.core.records.fresh_time())
    }

    /// Applies the requests that handles have recorded, and sends their output, but takes no events
    /// and makes no timed calls. Returns true while the run continues, and always outside a run. A
    /// suspended turn stays suspended, and the reply to its event is sent.
    ///
    /// For a loop that is turned by another: the next [`turn`](Self::turn) does this first, but does
    /// not wait for events then.
    pub fn flush(&mut self) -> bool {
        let _entered = self.runtime.enter();
        self.core.flush(&mut *self.driver)
    }

    /// Turns until `at` (`None`: no limit), or until [`hooks::interrupt`](crate::hooks::interrupt)
    /// is called. Returns true while the run continues, and always outside a run.
    ///
    /// For a loop inside a program that has occasional other work and can interrupt the loop for
    /// it: many turns then need only one call.
    ///
    /// # Errors
    ///
    /// When the driver's wait fails.
    pub fn turn_until(&mut self, at: Option<Instant>) -> io::Result<bool> {
        let _entered = self.runtime.enter();
        let reactor = self.core.reactor.clone();
        if reactor.records().take_interrupt() {
            return self.driver.turn(&mut self.core, Turns::One(Some(Duration::ZERO)));
        }
        let ends = at.map(|at| {
            let interrupting = reactor.clone();
            let delay = at.saturating_duration_since(reactor.fresh_time());
            reactor.call_later(delay, move || interrupting.interrupt())
        });
        let turned = self.driver.turn(&mut self.core, Turns::Many);
        if let Some(ends) = ends {
            ends.cancel();
        }
        turned
    }

    /// Calls `around` with each wait that may block; `around` must call the wait. Use it to release
    /// a lock that other threads need during the wait, and to take it again. A panic in `around` is
    /// logged.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// let mut l = couplet::Loop::new()?;
    /// let waits = Rc::new(Cell::new(0));
    /// let counted = waits.clone();
    /// l.around_wait(move |wait| {
    ///     // Let go of the lock here,
    ///     wait();
    ///     // and take it again.
    ///     counted.set(counted.get() + 1);
    /// });
    /// l.turn(Some(std::time::Duration::from_millis(1)))?;
    /// l.turn(Some(std::time::Duration::ZERO))?; // does not block
    /// assert_eq!(waits.get(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn around_wait(&mut self, around: impl FnMut(&mut dyn FnMut()) + 'static) {
        let mut around = Contained::new(around);
        self.core.hooks.around_wait(move |wait| around(wait));
    }

    /// When the next turn is due if no event occurs first; a time in the past if work is pending in
    /// the loop or its driver. `None` when only an event can bring work.
    pub fn next_turn(&self) -> Option<Instant> {
        if self.is_suspended() {
            return Some(self.core.now());
        }
        let ours = self.core.next_wait(Turns::One(None));
        ours.into_iter().chain(self.driver.due()).min()
    }

    /// The descriptor that becomes readable on an event, for another loop to wait on:
    /// level-triggered, or edge-triggered if [`next_turn`](Self::next_turn) is checked after each
    /// turn. `None` if the driver has no descriptor.
    #[cfg(unix)]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let queue = &self.core.records.queue;
        if !queue.set_may_sleep(true) {
            // Requests may be recorded already.
            queue.wake_driver();
        }
        self.driver.descriptor()
    }

    /// Calls `setup`, then turns until the reactor is stopped. The loop can run again afterwards.
    ///
    /// A run that handles signals restores the previous handlers at its end. If a signal ended the
    /// run, the drop of the loop or its next run restores them instead; until then further signals
    /// are ignored, so that an impatient second Ctrl-C does not kill a program that is ending.
    ///
    /// # Errors
    ///
    /// The error of `setup`, or the driver's error when its wait fails.
    pub fn run(&mut self, setup: impl FnOnce(&Reactor) -> Result<()>) -> Result<()> {
        let outcome = self.begin(setup).and_then(|()| {
            let turned = self.turn_to_end();
            if turned.is_err() {
                self.finish_run();
            }
            Ok(turned?)
        });
        self.restore_signals()?;
        outcome
    }

    /// Turns until the run ends.
    fn turn_to_end(&mut self) -> io::Result<()> {
        let _entered = self.runtime.enter();
        while self.driver.turn(&mut self.core, Turns::Many)? {}
        Ok(())
    }

    /// Begins a [`run`](Self::run) whose turns the caller makes: takes over the signals, if the
    /// options say so, and calls `setup`.
    ///
    /// # Errors
    ///
    /// The error of `setup`, which ends the run; before `setup`, the error of an inspector that could
    /// not [open](Self::with_driver).
    pub fn begin(&mut self, setup: impl FnOnce(&Reactor) -> Result<()>) -> Result<()> {
        self.begin_run()?;
        let reactor = self.reactor();
        let outcome = {
            let _entered = self.runtime.enter();
            let _held = reactor.records().hold("setup");
            setup(&reactor)
        };
        if outcome.is_err() {
            self.finish_run();
        }
        outcome
    }

    /// Ends a run immediately: closes all remaining connections and ports, and restores the signal
    /// handlers as [`run`](Self::run) does. Does nothing outside a run.
    ///
    /// # Errors
    ///
    /// When the system refuses to restore the signal handlers.
    pub fn end(&mut self) -> Result<()> {
        if self.is_in_run() {
            self.finish_run();
        }
        self.restore_signals()
    }

    /// True from [`begin`](Self::begin) to the end of the run.
    pub(crate) fn is_in_run(&self) -> bool {
        self.core.records.run.stage() != RunStage::Idle
    }

    /// Begins a run, unless the inspector could not open: its error is returned once.
    fn begin_run(&mut self) -> io::Result<()> {
        if self.inspected.is_err() {
            std::mem::replace(&mut self.inspected, Ok(None))?;
        }
        // If the last run kept the handlers, restore them first.
        if self.signals
            && let Err(error) =
                self.driver.watch_signals(false).and_then(|()| self.driver.watch_signals(true))
        {
            let what = match error.kind() {
                io::ErrorKind::AlreadyExists => "another loop handles the signals",
                _ => "cannot handle signals: they will kill the program",
            };
            log_warn!(%error, "{what}");
        }
        self.core.records.run.begin();
        Ok(())
    }

    /// Keeps the handlers if a signal ended the run: most programs end then, and a second signal
    /// should not kill them first. The drop of the driver restores the handlers.
    fn restore_signals(&mut self) -> Result<()> {
        if self.signals && self.stopped_by().is_none() {
            self.driver.watch_signals(false)?;
        }
        Ok(())
    }

    /// Turns until `deferred` fires. Nothing is stopped: connections and ports stay open for the
    /// next call. A stop of the reactor ends this run like any other; the result is returned if it
    /// arrived first.
    ///
    /// # Errors
    ///
    /// The Deferred's failure; [`Stopped`] if the reactor was stopped first; the driver's error
    /// when its wait fails.
    pub fn run_until<T: 'static>(&mut self, deferred: Deferred<T>) -> Result<T> {
        self.run_script(|_| deferred)
    }

    /// [`run_until`](Self::run_until) for a Deferred created inside the run.
    pub(crate) fn run_script<T: 'static>(
        &mut self,
        script: impl FnOnce(&Reactor) -> Deferred<T>,
    ) -> Result<T> {
        let outcome: Rc<RefCell<Option<Result<T>>>> = Rc::default();
        let slot = outcome.clone();
        let reactor = self.reactor();
        self.begin_run()?;
        {
            let _entered = self.runtime.enter();
            let hold = reactor.records().hold("setup");
            let deferred = script(&reactor);
            drop(hold);
            let waiting = deferred.add_both(move |result| {
                keep_result(&slot, result, &reactor);
                reactor.interrupt();
                Ok(())
            });
            waiting.detach();
        }
        let result = self.turn_until_result(&outcome);
        self.core.records.take_interrupt();
        self.restore_signals()?;
        result
    }

    fn turn_until_result<T>(&mut self, outcome: &RefCell<Option<Result<T>>>) -> Result<T> {
        loop {
            let run = &self.core.records.run;
            let done = outcome.borrow_mut().take_if(|_| run.is_settled());
            if let Some(result) = done {
                run.suspend();
                return result;
            }
            let turned = {
                let _entered = self.runtime.enter();
                self.driver.turn(&mut self.core, Turns::Many)
            };
            match turned {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if self.core.records.run.is_settled() {
                        self.core.records.run.suspend();
                    } else {
                        self.finish_run();
                    }
                    return Err(Failure::from(error));
                }
            }
        }
        let result = outcome.borrow_mut().take();
        result.unwrap_or_else(|| Err(Stopped { signal: self.stopped_by() }.into()))
    }

    /// Ends the run immediately.
    pub(crate) fn finish_run(&mut self) {
        let _entered = self.runtime.enter();
        self.core.finish_run(&mut *self.driver);
    }
}

/// For the testing kit and the simulator.
#[cfg(feature = "testing")]
impl Loop {
    /// Calls the triggers; returns the number of triggers whose Deferred has not fired.
    pub(crate) fn fire(&mut self, when: crate::reactor::Shutdown) -> Rc<std::cell::Cell<usize>> {
        let _entered = self.runtime.enter();
        let unfired = Rc::default();
        self.core.fire(when, &unfired);
        unfired
    }

    /// Puts layers under each connection made from now on, below the factory's own layers. A test
    /// that passes without layers should pass with layers that change nothing.
    pub fn layer_connections(
        &mut self,
        make: impl Fn(crate::layers::Side) -> Vec<Box<dyn crate::layers::Layer>> + 'static,
    ) {
        self.core.hooks.layer_connections(make);
    }

    /// Wraps the protocol of each connection made from now on.
    pub(crate) fn wrap_protocols(
        &mut self,
        wrap: impl Fn(crate::driver::Key, Box<dyn crate::Protocol>) -> Box<dyn crate::Protocol>
        + 'static,
    ) {
        self.core.hooks.wrap_protocols(wrap);
    }

    /// Describes a queue of the loop that exceeds its bound, if any.
    pub(crate) fn exceeded_bound(&self) -> Option<String> {
        self.core.exceeded_bound()
    }

    /// Whether the loop has unfinished tasks.
    pub(crate) fn has_tasks(&self) -> bool {
        self.core.records.tasks.borrow().len() > 0
    }

    /// Whether the next turn has work without waiting and without the driver.
    pub(crate) fn has_work(&self) -> bool {
        self.core.next_wait(Turns::One(None)).is_some_and(|at| at <= self.core.reactor.now())
    }

    /// Records source locations of requests from now on.
    pub(crate) fn record_places(&mut self) {
        self.core.records.record_places();
    }

    /// Everything open, active or pending, except for the loop's own timers.
    pub(crate) fn leaks(&self) -> Vec<crate::reactor::Leak> {
        self.core.leaks()
    }

    /// Everything that the last shutdown cut off, unless a signal caused it; see
    /// [`record_places`](Self::record_places).
    pub(crate) fn take_cut_off(&self) -> Vec<crate::reactor::Leak> {
        self.core.take_cut_off()
    }

    /// The connects in progress, in the order in which their connectors began: the driver's key,
    /// the address, and the connector.
    pub(crate) fn connects_in_progress(
        &self,
    ) -> Vec<(crate::driver::Key, crate::address::Address, crate::reactor::Connector)> {
        self.core.connecting.in_progress()
    }
}

/// Logs the unhandled failures of this thread, unless the program has set its own reporter.
fn install_log_reporter() {
    let before = set_reporter(|unhandled| log_error!("{unhandled}"));
    if is_chosen(&before) {
        before.set();
    }
}

/// Logs the failure that ends a program, or prints it if nothing logs errors, so that the user sees
/// it.
fn report_failure(failure: &Failure) {
    if tracing::enabled!(tracing::Level::ERROR) {
        log_error!("{failure}");
    } else {
        Backlog::stderr().push(format!("{failure}\n"));
    }
    backlog::settle_all();
}

impl Drop for Loop {
    /// Drops everything in the loop: connections close without a call into their protocols, and
    /// pending Deferreds fail.
    fn drop(&mut self) {
        let Loop { driver, core, runtime, .. } = self;
        let _entered = runtime.enter();
        for call in core.records.queue.inbox.close() {
            drop(call);
        }
        core.records.notes.end();
        core.kill_dependents();
        core.drop_pending(&mut **driver);
        #[cfg(unix)]
        core.end_watches();
        core.connecting.abandon();
        let starts = core.records.take_starts();
        for start in starts {
            match start {
                Start::Connector(connector) => connector.abandon(),
                Start::Adoption(adoption) => adoption.abandon(),
                Start::HandedConnection(handed) => drop(handed),
                Start::Port(port) => port.abandon(),
                Start::Datagrams(port) => Core::abandon_datagrams(&port),
            }
        }
        for key in core.table.keys(|_| true) {
            match core.table.take(key) {
                Some(Resource::Port(port)) => port.abandon(),
                Some(Resource::Datagrams(port)) => Core::abandon_datagrams(&port),
                Some(Resource::Connection(mut entry)) => {
                    entry.log_end(core.reactor.now());
                    if entry.life.end_keeping() {
                        core.keeping.forget(entry.life.cell().id());
                    }
                    contain("drop of a protocol", move || entry.life.abandon());
                }
                None => {}
            }
        }
        core.records.release_blocked();
        drop(core.records.take_snapshot_requests());
        core.drop_pending(&mut **driver);
        // Not earlier: callers that repeat a request as soon as it fails would do so forever.
        core.records.run.drop_loop();
        core.drains.clear();
        core.records.drop_requests();
        core.end_frames();
        if let Some(monitor) = core.records.monitor.get() {
            monitor.end();
        }
        // The program may end next, and with it the threads that write.
        backlog::settle_all();
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop")
            .field("connections", &self.core.table.connections())
            .field("running", &(self.core.records.run.stage() != RunStage::Idle))
            .finish_non_exhaustive()
    }
}
