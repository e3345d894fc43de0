//! Timed calls: [`Reactor::call_later`], and [`DelayedCall`], which cancels or moves one.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::leaks::{Source, TimerPurpose};
use super::timers::{TimerKey, after};
use super::{Reactor, Records, TimerAction, loop_ended};
use crate::defer::{Alarm, Deferred, Resolver};
use crate::driver::UserCall;

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

    /// [`call_later`](Self::call_later), attributed to the request at `place`.
    pub(crate) fn call_for(
        &self,
        (purpose, place): (TimerPurpose, Source),
        delay: Duration,
        f: impl FnOnce() + 'static,
    ) -> DelayedCall {
        let f = self.records.monitor_call(|| UserCall::at(purpose.kind(), place), f);
        let call = DelayedCall::new(self, delay, TimerAction::Call(f));
        if let Some(timer) = call.timer() {
            self.records.note_timer(timer, purpose, place);
        }
        call
    }

    /// Fires after `delay`; cancelling it cancels the timer. Fails with
    /// [`Cancelled`](crate::defer::Cancelled) if the run ends first.
    #[track_caller]
    pub fn sleep(&self, delay: Duration) -> Deferred<()> {
        self.sleep_for((TimerPurpose::Sleep, Location::caller()), delay)
    }

    /// [`sleep`](Self::sleep), attributed to another caller.
    #[track_caller]
    pub(crate) fn sleep_for(&self, whom: (TimerPurpose, Source), delay: Duration) -> Deferred<()> {
        let timer: Rc<Cell<Option<DelayedCall>>> = Rc::default();
        let sleeping = timer.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
            if let Some(call) = sleeping.take() {
                call.cancel();
            }
        });
        let sleeper = Sleeper(Some(resolver));
        timer.set(Some(self.call_for(whom, delay, move || sleeper.wake())));
        deferred
    }
}

impl Records {
    pub(super) fn note_timer(&self, timer: TimerKey, purpose: TimerPurpose, place: Source) {
        if let Some(places) = &mut *self.places.borrow_mut() {
            let timers = self.timers.borrow();
            places.add_timer(timer, purpose, place, |timer| timers.contains(timer));
        }
    }
}

/// A call requested with `call_later`. Dropping it changes nothing.
///
/// The methods that change the call return false if it is no longer pending. Inside its own
/// callback a call already counts as called. Twisted's `IDelayedCall`.
#[derive(Clone)]
pub struct DelayedCall {
    place: Option<(Weak<Records>, TimerKey)>,
}

impl DelayedCall {
    pub(super) fn new(reactor: &Reactor, delay: Duration, timed: TimerAction) -> DelayedCall {
        if reactor.is_dropped() {
            return DelayedCall::never();
        }
        let deadline = after(reactor.now(), delay);
        let key = reactor.records.with_timers(|timers| timers.insert(deadline, timed));
        DelayedCall { place: Some((Rc::downgrade(&reactor.records), key)) }
    }

    /// A call that is never made.
    pub(crate) fn never() -> DelayedCall {
        DelayedCall { place: None }
    }

    pub(super) fn timer(&self) -> Option<TimerKey> {
        self.place.as_ref().map(|(_, key)| *key)
    }

    fn records(&self) -> Option<(Rc<Records>, TimerKey)> {
        let (records, key) = self.place.as_ref()?;
        Some((records.upgrade()?, *key))
    }

    /// Cancels the call and drops its closure.
    pub fn cancel(&self) -> bool {
        let Some((records, key)) = self.records() else {
            return false;
        };
        let removed = records.timers.borrow_mut().remove(key);
        removed.is_some()
    }

    /// Moves the call to `delay` from now.
    pub fn reset(&self, delay: Duration) -> bool {
        let Some((records, key)) = self.records() else {
            return false;
        };
        let deadline = after(records.now(), delay);
        records.with_timers(|timers| timers.reset(key, deadline))
    }

    /// Postpones the call by `delay`.
    pub fn delay_by(&self, delay: Duration) -> bool {
        let Some((records, key)) = self.records() else {
            return false;
        };
        let mut timers = records.timers.borrow_mut();
        match timers.deadline(key) {
            Some(deadline) => timers.reset(key, after(deadline, delay)),
            None => false,
        }
    }

    /// True until the call is made or cancelled.
    pub fn active(&self) -> bool {
        self.deadline().is_some()
    }

    /// When the call will be made, while it is pending. Twisted's `getTime`.
    pub fn deadline(&self) -> Option<Instant> {
        let (records, key) = self.records()?;
        let timers = records.timers.borrow();
        timers.deadline(key)
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
