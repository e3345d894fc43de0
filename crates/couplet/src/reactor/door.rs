//! Where other threads leave things for a loop: tasks that they woke, and calls.
//!
//! It knows no loop, so that `tests/door.rs` can run it through every interleaving.

use std::collections::VecDeque;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// Things of two kinds, put in from any thread and taken out by one.
#[derive(Debug)]
pub(super) struct Door<T, C> {
    inside: Mutex<Inside<T, C>>,
    /// Whether anything is inside. Each turn looks at it, so without the lock. INVARIANT: written
    /// with the lock held, so whoever puts in the first thing knows that the loop must be woken, and
    /// whoever puts in another knows that it will be.
    any: AtomicBool,
}

#[derive(Debug)]
struct Inside<T, C> {
    /// Law 9: each task stands here once.
    woken: Vec<T>,
    /// Law 9: not bounded; the callers in other threads know how much.
    calls: VecDeque<C>,
    closed: bool,
}

impl<T, C> Door<T, C> {
    pub(super) fn new() -> Door<T, C> {
        let inside = Inside { woken: Vec::new(), calls: VecDeque::new(), closed: false };
        Door { inside: Mutex::new(inside), any: AtomicBool::new(false) }
    }

    /// True when a task was woken or a call came.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// A task was woken. True when the loop must be woken for it.
    #[must_use]
    pub(super) fn wake(&self, task: T) -> bool {
        let mut inside = self.inside();
        inside.woken.push(task);
        !self.any.swap(true, Ordering::AcqRel)
    }

    /// A call came; it comes back when the loop was dropped. True when the loop must be woken for it.
    pub(super) fn call(&self, call: C) -> Result<bool, C> {
        let mut inside = self.inside();
        if inside.closed {
            return Err(call);
        }
        inside.calls.push_back(call);
        Ok(!self.any.swap(true, Ordering::AcqRel))
    }

    /// The calls that have come by now.
    pub(super) fn take_calls(&self) -> VecDeque<C> {
        let mut inside = self.inside();
        self.any.store(!inside.woken.is_empty(), Ordering::Release);
        std::mem::take(&mut inside.calls)
    }

    /// Moves the tasks that were woken by now behind those in `woken`.
    pub(super) fn take_woken(&self, woken: &mut Vec<T>) {
        let mut inside = self.inside();
        self.any.store(!inside.calls.is_empty(), Ordering::Release);
        woken.append(&mut inside.woken);
    }

    /// The loop is dropped, and takes no more calls. Gives those that waited.
    pub(super) fn close(&self) -> VecDeque<C> {
        let mut inside = self.inside();
        inside.closed = true;
        std::mem::take(&mut inside.calls)
    }

    /// True once the loop was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.inside().closed
    }

    fn inside(&self) -> MutexGuard<'_, Inside<T, C>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
