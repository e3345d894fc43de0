//! The end of the interpreter while another thread runs a loop, such as a daemon thread.
//!
//! Before Python 3.14, the interpreter ends other threads by `pthread_exit` as soon as they want its
//! lock. That unwinds their stacks, which must have no frames of Rust between frames of Python. So
//! the interpreter first waits until these threads are parked for good, without the lock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::thread::{self, ThreadId};

use pyo3::prelude::*;

use crate::locked;
use crate::looping::seconds;
use crate::seat::Seat;

/// The loops of the process.
static LOOPS: Mutex<Vec<Weak<Seat>>> = Mutex::new(Vec::new());

/// The thread that ends the interpreter.
static ENDING: OnceLock<ThreadId> = OnceLock::new();

/// Notified when a thread leaves its loop, or is parked; the mutex guards nothing.
static LEFT: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// Whether a thread is inside a loop.
#[derive(Default)]
pub(crate) struct Place {
    /// The calls of the loop on the thread's stack.
    depth: AtomicU32,
    is_parked: AtomicBool,
}

/// A call of a loop.
pub(crate) struct Inside<'a>(&'a Place);

impl Place {
    /// Enters a loop, in its thread.
    pub(crate) fn enter(&self, py: Python<'_>) -> Inside<'_> {
        self.depth.fetch_add(1, Ordering::SeqCst);
        self.check(py);
        Inside(self)
    }

    /// Parks this thread if another one ends the interpreter. Called between callbacks.
    pub(crate) fn check(&self, py: Python<'_>) {
        if must_park() {
            py.detach(|| self.park());
        }
    }

    /// Parks this thread, which has not got the interpreter's lock, if another one ends the
    /// interpreter.
    pub(crate) fn check_detached(&self) {
        if must_park() {
            self.park();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the thread never continues")]
    fn park(&self) {
        self.is_parked.store(true, Ordering::SeqCst);
        notify();
        loop {
            thread::park();
        }
    }

    /// Whether the end of its thread would unwind frames of Rust.
    fn is_in_danger(&self) -> bool {
        self.depth.load(Ordering::SeqCst) > 0 && !self.is_parked.load(Ordering::SeqCst)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.depth.fetch_sub(1, Ordering::SeqCst);
        if must_park() {
            notify();
        }
    }
}

fn must_park() -> bool {
    ENDING.get().is_some_and(|ending| *ending != thread::current().id())
}

fn notify() {
    drop(locked(&LEFT.0));
    LEFT.1.notify_all();
}

/// Notes a new loop.
pub(crate) fn note(seat: &Arc<Seat>) {
    let mut loops = locked(&LOOPS);
    loops.retain(|seat| seat.strong_count() > 0);
    loops.push(Arc::downgrade(seat));
}

/// The loops that other threads are in.
fn in_danger() -> Vec<Arc<Seat>> {
    let loops = locked(&LOOPS);
    let others = loops.iter().filter_map(Weak::upgrade).filter(|seat| seat.inner().is_none());
    others.filter(|seat| seat.place.is_in_danger()).collect()
}

/// Parks the threads that run loops, except this one, when the interpreter ends. Returns whether all
/// of them left their callbacks within some seconds.
#[pyfunction]
pub(crate) fn park_threads(py: Python<'_>, at_most: f64) -> bool {
    let _ = ENDING.set(thread::current().id());
    py.detach(|| {
        in_danger().iter().for_each(|seat| seat.interrupt());
        let (left, at_most) = (locked(&LEFT.0), seconds(at_most));
        #[expect(clippy::disallowed_methods, reason = "this thread runs no loop any more")]
        let waited = LEFT.1.wait_timeout_while(left, at_most, |()| !in_danger().is_empty());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    })
}

/// Called in a forked child, which has no other threads.
#[pyfunction]
pub(crate) fn forget_threads() {
    for seat in in_danger() {
        seat.place.depth.store(0, Ordering::SeqCst);
    }
}
