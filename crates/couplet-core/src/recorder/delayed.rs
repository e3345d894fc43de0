//! Timed calls: [`Reactor::call_later`], and [`DelayedCall`], which cancels or moves one.
//!
//! Contract: 86, 90–93, 104.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Reactor, Recorder, TimerOwner, TimerPurpose, WeakReactor, loop_ended};
use crate::defer::{Alarm, Deferred, Resolver};
use crate::internals::{FiredBy, fired_by};
use crate::panics::contain_closure;
use crate::timers::{TimerKey, after};

impl Reactor {
    /// Calls `f` in the first turn after `delay` has passed; with a delay of zero, in the next
    /// turn. Due calls run in the order of their deadlines, and equal ones in the order of the
    /// requests.
    ///
    /// The delay counts from the time of the turn. Twisted's `callLater`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # couplet::run(|reactor| {
    /// let stopping = reactor.clone();
    /// let call = reactor.call_later(Duration::from_millis(5), move || stopping.stop());
    /// assert!(call.active());
    /// # Ok(()) })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn call_later(&self, delay: Duration, f: impl FnOnce() + 'static) -> DelayedCall {
        self.call_for((TimerPurpose::Call, Location::caller()), delay, f)
    }

    /// Calls `f` in the next turn, first in, first out. Twisted's `callWhenRunning`.
    #[track_caller]
    pub fn call_soon(&self, f: impl FnOnce() + 'static) -> DelayedCall {
        self.call_later(Duration::ZERO, f)
    }

    /// [`call_later`](Self::call_later), attributed to its owner.
    pub(crate) fn call_for(
        &self,
        by: TimerOwner,
        delay: Duration,
        f: impl FnOnce() + 'static,
    ) -> DelayedCall {
        let timer = self.recorder.time_call(by, delay, contain_closure(f));
        DelayedCall::of(self, timer)
    }

    /// Fires after `delay`; cancelling it cancels the timer. Fails with
    /// [`Cancelled`](crate::defer::Cancelled) if the run ends first.
    #[track_caller]
    pub fn sleep(&self, delay: Duration) -> Deferred<()> {
        self.sleep_for((TimerPurpose::Sleep, Location::caller()), delay)
    }

    /// [`sleep`](Self::sleep), attributed to another caller.
    #[track_caller]
    pub(crate) fn sleep_for(&self, by: TimerOwner, delay: Duration) -> Deferred<()> {
        let timer: Rc<Cell<Option<DelayedCall>>> = Rc::default();
        let sleeping = timer.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
            if let Some(call) = sleeping.take() {
                call.cancel();
            }
        });
        let sleeper = Sleeper(Some(resolver));
        let call = self.call_for(by, delay, move || sleeper.wake());
        let id = call.timer.as_ref().map(|(_, timer)| timer.number());
        fired_by(&deferred, FiredBy { kind: "sleep", id });
        timer.set(Some(call));
        deferred
    }
}

/// A call requested with `call_later`. Dropping it changes nothing.
///
/// The methods that change the call return false if it is no longer pending. Inside its own
/// callback a call already counts as called. Twisted's `IDelayedCall`.
#[derive(Clone)]
pub struct DelayedCall {
    timer: Option<(WeakReactor, TimerKey)>,
}

impl DelayedCall {
    pub(super) fn of(reactor: &Reactor, timer: Option<TimerKey>) -> DelayedCall {
        DelayedCall { timer: timer.map(|timer| (reactor.downgrade(), timer)) }
    }

    /// A call that is never made.
    pub(crate) fn never() -> DelayedCall {
        DelayedCall { timer: None }
    }

    fn recorder(&self) -> Option<(Rc<dyn Recorder>, TimerKey)> {
        let (reactor, timer) = self.timer.as_ref()?;
        Some((reactor.upgrade()?.recorder, *timer))
    }

    /// Cancels the call and drops its closure.
    pub fn cancel(&self) -> bool {
        self.recorder().is_some_and(|(recorder, timer)| recorder.cancel_call(timer))
    }

    /// Moves the call to `delay` from now.
    pub fn reset(&self, delay: Duration) -> bool {
        let moved = |(recorder, timer): (Rc<dyn Recorder>, _)| {
            recorder.move_call(timer, after(recorder.now(), delay))
        };
        self.recorder().is_some_and(moved)
    }

    /// Postpones the call by `delay`.
    pub fn delay_by(&self, delay: Duration) -> bool {
        let moved = |(recorder, timer): (Rc<dyn Recorder>, _)| {
            let deadline = recorder.deadline(timer);
            deadline.is_some_and(|deadline| recorder.move_call(timer, after(deadline, delay)))
        };
        self.recorder().is_some_and(moved)
    }

    /// True until the call is made or cancelled.
    pub fn active(&self) -> bool {
        self.deadline().is_some()
    }

    /// When the call will be made, while it is pending. Twisted's `getTime`.
    pub fn deadline(&self) -> Option<Instant> {
        let (recorder, timer) = self.recorder()?;
        recorder.deadline(timer)
    }
}

impl fmt::Debug for DelayedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayedCall").field("deadline", &self.deadline()).finish()
    }
}

/// The resolver of a [`Reactor::sleep`]. Fails the Deferred if the timer is dropped.
struct Sleeper(Option<Resolver<()>>);

impl Sleeper {
    fn wake(mut self) {
        if let Some(resolver) = self.0.take() {
            resolver.callback(());
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(resolver) = self.0.take() {
            resolver.errback(loop_ended());
        }
    }
}

impl Alarm for Reactor {
    fn set(&self, after: Duration, ring: Box<dyn FnOnce()>) -> Box<dyn FnOnce()> {
        let call = self.call_for((TimerPurpose::Timeout, Location::caller()), after, ring);
        Box::new(move || {
            call.cancel();
        })
    }
}
