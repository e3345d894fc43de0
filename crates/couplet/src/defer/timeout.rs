//! `add_timeout`: a Deferred that is cancelled when its time is over.

use std::cell::Cell;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::cancel::cancel;
use super::error::TimedOut;
use super::node::Outcome;
use super::{Deferred, Failure};

/// Who can call back later. A reactor is one.
pub trait Alarm {
    /// Calls `ring` when `after` has gone by, unless what is given back is called before that.
    /// Whichever comes second is to do nothing; `ring` may also be dropped without a call.
    #[track_caller]
    fn set(&self, after: Duration, ring: Box<dyn FnOnce()>) -> Box<dyn FnOnce()>;
}

impl<T: 'static> Deferred<T> {
    /// Cancels it when `after` has gone by and it hasn't fired, and then fails with [`TimedOut`].
    ///
    /// This covers the callbacks that were added before. If a canceller answers with a result or
    /// another failure, that is what comes. A cancel by somebody else stays a cancel.
    #[track_caller]
    pub fn add_timeout(self, alarm: &impl Alarm, after: Duration) -> Self {
        if self.has_fired() {
            return self;
        }
        let place = Location::caller();
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
        self.link(place, move |result| {
            stop();
            Outcome::Now(match result {
                Err(failure) if rang.get() && failure.is_cancelled() => {
                    Err(Failure::at(TimedOut { after }, place))
                }
                result => result,
            })
        })
    }
}
