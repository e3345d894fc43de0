//! Scheduled work: [`LoopingCall`], [`Cooperator`], [`FilesystemLock`], and the methods
//! `timeout` of the [`Reactor`]; for `async` tasks [`Interval`], [`Scope`],
//! [`TaskLocal`] and [`Cancelling`]. Twisted's `task`.
//!
//! All time comes from the reactor, so a test can advance an hour in one step.
//!
//! Contract: 130, 131, 132.

mod cancelling;
mod cooperator;
mod filesystem_lock;
mod grid;
mod interval;
mod local;
mod scope;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::panic::Location;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::defer::{Canceller, Deferred, Resolver, Result, TimedOut};
use crate::panics::Contained;
use crate::recorder::{Reactor, Source, TimerPurpose};

pub use crate::reactor::LoopResult;
pub use cancelling::Cancelling;
pub use cooperator::{CooperativeTask, Cooperator, SchedulerStopped, TaskStopped};
pub use filesystem_lock::{FilesystemGuard, FilesystemLock};
use grid::Grid;
pub use interval::{Interval, yield_now};
pub use local::{Scoped, TaskLocal};
pub use scope::Scope;

impl Reactor {
    /// Waits for `future` for at most `after`, then drops it and fails with [`TimedOut`]. The
    /// timeout starts with the first poll; a future that is ready at the deadline has not timed
    /// out.
    ///
    /// For a Deferred with callbacks, use [`Deferred::add_timeout`].
    ///
    /// ```
    /// use couplet::Deferred;
    /// use couplet::defer::TimedOut;
    /// use std::time::Duration;
    ///
    /// couplet::run_until(|reactor| {
    ///     let inner = reactor.clone();
    ///     reactor.spawn(async move {
    ///         let (never, _resolver) = Deferred::<()>::new();
    ///         let failure = inner.timeout(Duration::from_millis(1), never).await.unwrap_err();
    ///         assert!(failure.is::<TimedOut>());
    ///         Ok(())
    ///     })
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The failure of `future`; [`TimedOut`]; [`Cancelled`](crate::defer::Cancelled) if the loop
    /// ends first.
    #[track_caller]
    pub fn timeout<T>(
        &self,
        after: Duration,
        future: impl Future<Output = Result<T>>,
    ) -> impl Future<Output = Result<T>> {
        let waiter = (TimerPurpose::Timeout, Location::caller());
        async move {
            // The timer starts only if the future is pending, so a ready future leaves no timer
            // behind.
            let alarm = async { self.sleep_for(waiter, after).await };
            let rang = match race_against(future, alarm).await {
                Ok(result) => return result,
                Err(rang) => rang,
            };
            Err(rang.map_or_else(|ended| ended, |()| TimedOut { after }.into()))
        }
    }
}

/// Races two futures: returns the output of `future`, or the output of `end` as an error. Both are
/// polled, in this order, until one is ready.
async fn race_against<A, B>(
    future: impl Future<Output = A>,
    end: impl Future<Output = B>,
) -> std::result::Result<A, B> {
    let (mut future, mut end) = (pin!(future), pin!(end));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(given) => Poll::Ready(Ok(given)),
        Poll::Pending => end.as_mut().poll(cx).map(Err),
    })
    .await
}

/// Calls a function repeatedly on a fixed time grid: at the start, and at every whole interval
/// after it.
///
/// Points missed because the loop was busy or the previous call took long are skipped; the next
/// call is made at the next point, so the grid never shifts. If the function returns a Deferred,
/// the next point is chosen once it has fired. A failure or a panic stops the looping call.
///
/// Cheap to clone; dropping it doesn't stop it.
///
/// ```
/// use couplet::LoopingCall;
/// use std::time::Duration;
///
/// couplet::run_until(|reactor| {
///     let ticks = LoopingCall::new(reactor, || println!("tick"));
///     let stopped = ticks.start(Duration::from_millis(1));
///     reactor.call_later(Duration::from_millis(5), move || {
///         ticks.stop();
///     });
///     stopped
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone)]
pub struct LoopingCall {
    looping: Rc<LoopingState>,
}

/// [`LoopingCall::start`] was called while it was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the looping call is already running")]
pub struct AlreadyRunning;

type Repeated = Contained<Box<dyn FnMut(u64) -> Deferred<()>>>;

struct LoopingState {
    reactor: Reactor,
    /// `None` during a call.
    f: RefCell<Option<Repeated>>,
    phase: Cell<LoopingPhase>,
    grid: Cell<Grid>,
    /// The location of the call of `start`.
    place: Cell<Source>,
    ended: RefCell<Option<Resolver<LoopingCall>>>,
    /// Cancels the wait for the next point, or the call in progress.
    round: RefCell<Option<Canceller>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoopingPhase {
    Idle,
    /// Waiting for the next point.
    Waiting,
    /// A call is in progress.
    Calling,
    /// The last call is in progress.
    Stopping,
}

impl LoopingCall {
    /// A looping call of `f`, which does not run until [`start`](Self::start).
    #[track_caller]
    pub fn new<R: LoopResult>(reactor: &Reactor, mut f: impl FnMut() -> R + 'static) -> Self {
        Self::with_count(reactor, move |_| f())
    }

    /// Like [`new`](Self::new), but passes `f` the number of grid points since the last call,
    /// including the current one: 1, or more if some were skipped; always 1 with an interval of
    /// zero. Twisted's `withCount`.
    #[track_caller]
    pub fn with_count<R: LoopResult>(
        reactor: &Reactor,
        mut f: impl FnMut(u64) -> R + 'static,
    ) -> Self {
        let looping = LoopingState {
            reactor: reactor.clone(),
            f: RefCell::new(Some(Contained::new(Box::new(move |count| f(count).into_deferred())))),
            phase: Cell::new(LoopingPhase::Idle),
            grid: Cell::new(Grid::after_start(reactor.now(), Duration::ZERO)),
            place: Cell::new(Location::caller()),
            ended: RefCell::new(None),
            round: RefCell::new(None),
        };
        Self { looping: Rc::new(looping) }
    }

    /// Starts: the first call is made in the next turn, then one every `interval` from now. With an
    /// interval of zero there is a call in every turn.
    ///
    /// The Deferred fires with the looping call when it is stopped, and fails with the function's
    /// failure; immediately with [`AlreadyRunning`] if it is running; with
    /// [`Cancelled`](crate::defer::Cancelled) when the loop ends. Cancelling it stops the calls
    /// and cancels the one in progress. A stopped looping call can be started again.
    #[track_caller]
    pub fn start(&self, interval: Duration) -> Deferred<LoopingCall> {
        let now = self.looping.reactor.now();
        self.begin(Grid::with_start(now, interval), Duration::ZERO)
    }

    /// Like [`start`](Self::start), but with the first call one interval from now. Twisted's
    /// `start(interval, now=False)`.
    #[track_caller]
    pub fn start_later(&self, interval: Duration) -> Deferred<LoopingCall> {
        let now = self.looping.reactor.now();
        self.begin(Grid::after_start(now, interval), interval)
    }

    #[track_caller]
    fn begin(&self, grid: Grid, first: Duration) -> Deferred<LoopingCall> {
        let looping = &self.looping;
        if looping.phase.get() != LoopingPhase::Idle {
            return Deferred::fail(AlreadyRunning);
        }
        let running = Rc::downgrade(looping);
        let (deferred, resolver) = Deferred::with_canceller(move |_| {
            if let Some(looping) = running.upgrade() {
                looping.cancel();
            }
        });
        *looping.ended.borrow_mut() = Some(resolver);
        looping.grid.set(grid);
        looping.place.set(Location::caller());
        looping.wait(first);
        deferred
    }

    /// Stops the looping call: after the call in progress, or immediately if no call is in
    /// progress. Returns false if the looping call isn't running.
    pub fn stop(&self) -> bool {
        match self.looping.phase.get() {
            LoopingPhase::Idle | LoopingPhase::Stopping => return false,
            LoopingPhase::Calling => self.looping.phase.set(LoopingPhase::Stopping),
            LoopingPhase::Waiting => {
                // No longer `Waiting`, so the cancelled wait doesn't finish it a second time.
                self.looping.phase.set(LoopingPhase::Idle);
                self.looping.cancel_round();
                self.looping.finish(Ok(()));
            }
        }
        true
    }

    /// Restarts the grid now: the next call is made one interval from now. Returns false and does
    /// nothing unless the looping call is waiting for its next point.
    pub fn reset(&self) -> bool {
        let looping = &self.looping;
        if looping.phase.get() != LoopingPhase::Waiting {
            return false;
        }
        looping.phase.set(LoopingPhase::Idle);
        looping.cancel_round();
        looping.grid.set(Grid::after_start(looping.reactor.now(), self.interval()));
        looping.wait(self.interval());
        true
    }

    /// Whether it is running: true from `start` until `stop` or a failure.
    pub fn is_running(&self) -> bool {
        matches!(self.looping.phase.get(), LoopingPhase::Waiting | LoopingPhase::Calling)
    }

    /// The interval passed to `start`.
    pub fn interval(&self) -> Duration {
        self.looping.grid.get().interval()
    }
}

impl LoopingState {
    /// Waits, calls and continues, as one chain, so that one cancel reaches either the wait or the
    /// call.
    fn wait(self: &Rc<Self>, delay: Duration) {
        self.phase.set(LoopingPhase::Waiting);
        let (calling, continuing) = (self.clone(), self.clone());
        let waiter = (TimerPurpose::LoopingCall, self.place.get());
        let round = self.reactor.sleep_for(waiter, delay).then(move |()| calling.call()).add_both(
            move |ended| {
                continuing.handle_round_end(ended);
                Ok(())
            },
        );
        *self.round.borrow_mut() = Some(round.canceller());
        round.detach();
    }

    fn call(self: Rc<Self>) -> Deferred<()> {
        self.phase.set(LoopingPhase::Calling);
        let count = self.count();
        let f = self.f.borrow_mut().take();
        let mut out = CallGuard { f, looping: self };
        match &mut out.f {
            Some(f) if count > 0 => f(count),
            _ => Deferred::succeed(()),
        }
    }

    fn handle_round_end(self: &Rc<Self>, ended: Result<()>) {
        match (self.phase.get(), ended) {
            (LoopingPhase::Idle, _) => {}
            (LoopingPhase::Calling, Ok(())) => {
                self.wait(self.grid.get().until_next(self.reactor.now()))
            }
            (_, ended) => self.finish(ended),
        }
    }

    fn finish(self: &Rc<Self>, ended: Result<()>) {
        self.phase.set(LoopingPhase::Idle);
        let resolver = self.ended.borrow_mut().take();
        let looping = self.clone();
        if let Some(resolver) = resolver {
            resolver.resolve(ended.map(|()| LoopingCall { looping }));
        }
    }

    /// Handles a cancel of its Deferred.
    fn cancel(&self) {
        match self.phase.get() {
            LoopingPhase::Idle => return,
            LoopingPhase::Waiting => self.phase.set(LoopingPhase::Idle),
            LoopingPhase::Calling | LoopingPhase::Stopping => {
                self.phase.set(LoopingPhase::Stopping)
            }
        }
        self.cancel_round();
    }

    fn cancel_round(&self) {
        let round = self.round.borrow_mut().take();
        if let Some(round) = round {
            round.cancel();
        }
    }

    /// The number of grid points since the last count.
    fn count(&self) -> u64 {
        let mut grid = self.grid.get();
        let points = grid.count(self.reactor.now());
        self.grid.set(grid);
        points
    }
}

/// Holds the function during a call and puts it back for the next call, even after a panic.
struct CallGuard {
    f: Option<Repeated>,
    looping: Rc<LoopingState>,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        *self.looping.f.borrow_mut() = self.f.take();
    }
}

impl fmt::Debug for LoopingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopingCall")
            .field("interval", &self.interval())
            .field("phase", &self.looping.phase.get())
            .finish_non_exhaustive()
    }
}
