//! Test probes: a Deferred's result, unhandled failures, a log, a clock with alarms.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use couplet_defer::Result;
use couplet_defer::defer::{Alarm, Deferred, set_reporter};

/// The unhandled failures of `run`, in order.
pub fn unhandled_in(run: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let before = set_reporter({
        let log = log.clone();
        move |unhandled| log.say(format!("{:#}", unhandled.failure()))
    });
    let ended = catch_unwind(AssertUnwindSafe(run));
    before.set();
    ended.unwrap_or_else(|panic| resume_unwind(panic));
    log.lines()
}

/// A Deferred's result, once it has fired.
pub struct Given<T>(Rc<RefCell<Option<Result<T>>>>);

pub fn given<T: 'static>(deferred: Deferred<T>) -> Given<T> {
    let place = Rc::new(RefCell::new(None));
    let given = Given(place.clone());
    deferred
        .add_both(move |result| {
            *place.borrow_mut() = Some(result);
            Ok(())
        })
        .detach();
    given
}

impl<T> Given<T> {
    pub fn is_none(&self) -> bool {
        self.0.borrow().is_none()
    }

    #[track_caller]
    pub fn take(&self) -> Result<T> {
        self.0.borrow_mut().take().expect("the Deferred has fired")
    }

    #[track_caller]
    pub fn text(&self) -> String {
        match self.take() {
            Ok(_) => "a value".to_owned(),
            Err(failure) => format!("{failure:#}"),
        }
    }
}

#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn say(&self, line: impl Into<String>) {
        self.0.borrow_mut().push(line.into());
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Returns the lines and clears the log.
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A waker that counts its wake-ups.
#[derive(Default)]
pub struct Bell(AtomicUsize);

impl Bell {
    pub fn rung(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Alarms that ring when the test advances the clock.
#[derive(Default)]
pub struct Clock(Rc<RefCell<Vec<SetAlarm>>>);

struct SetAlarm {
    after: Duration,
    ring: Option<Box<dyn FnOnce()>>,
    stopped: Rc<Cell<bool>>,
}

impl Clock {
    /// Advances to `now`; due alarms ring in the order they were set.
    pub fn advance_to(&self, now: Duration) {
        let mut index = 0;
        loop {
            let ring = match self.0.borrow_mut().get_mut(index) {
                None => return,
                Some(alarm) if alarm.after <= now && !alarm.stopped.get() => alarm.ring.take(),
                Some(_) => None,
            };
            index += 1;
            if let Some(ring) = ring {
                ring();
            }
        }
    }

    pub fn running(&self) -> usize {
        let alarms = self.0.borrow();
        alarms.iter().filter(|alarm| alarm.ring.is_some() && !alarm.stopped.get()).count()
    }
}

impl Alarm for Clock {
    fn set(&self, after: Duration, ring: Box<dyn FnOnce()>) -> Box<dyn FnOnce()> {
        let stopped = Rc::new(Cell::new(false));
        let alarm = SetAlarm { after, ring: Some(ring), stopped: stopped.clone() };
        self.0.borrow_mut().push(alarm);
        Box::new(move || stopped.set(true))
    }
}
