//! [`DelayedCall`]: cancels or moves a pending timed call.

use std::fmt;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::timers::{TimerKey, after};
use super::{Reactor, Records, TimerAction};

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
