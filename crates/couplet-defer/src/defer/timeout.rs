//! `add_timeout`: cancels a Deferred after a delay.
//!
//! Contract: 120.

use std::cell::Cell;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::arrived::Arrived;
use super::cancel::cancel;
use super::error::TimedOut;
use super::history::{Method, Named};
use super::node::Outcome;
use super::{Deferred, Failure};

/// A source of delayed calls, such as a reactor.
pub trait Alarm {
    /// Calls `ring` after `after`, unless the returned closure is called first. If both are called,
    /// the second call must do nothing; `ring` may also be dropped without being called.
    #[track_caller]
    fn set(&self, after: Duration, ring: Box<dyn FnOnce()>) -> Box<dyn FnOnce()>;
}

impl<T: 'static> Deferred<T> {
    /// Cancels it if it hasn't fired after `after`; it then fails with [`TimedOut`].
    ///
    /// The timeout covers the callbacks added so far. If a canceller supplies a value or another
    /// failure, that is the result. A cancel from elsewhere still fails with `Cancelled`.
    #[track_caller]
    pub fn add_timeout(self, alarm: &impl Alarm, after: Duration) -> Self {
        if self.has_fired() {
            return self;
        }
        let created_at = Location::caller();
        let rang = Rc::new(Cell::new(false));
        let stop = alarm.set(after, {
            let (end, rang) = (self.end(), rang.clone());
            Box::new(move || {
                if let Some(end) = end.as_ref().and_then(Weak::upgrade) {
                    rang.set(true);
                    cancel(end);
                }
            })
        });
        self.link(created_at, Named::none(Method::AddTimeout), move |result| {
            stop();
            Outcome::Now(match result {
                Arrived::Here(Err(failure)) if rang.get() && failure.is_cancelled() => {
                    Arrived::Here(Err(Failure::at(TimedOut { after }, created_at)))
                }
                result => result,
            })
        })
    }
}
