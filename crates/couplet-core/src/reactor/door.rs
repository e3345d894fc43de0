//! The queue from other threads into a loop: woken tasks and calls.
//!
//! It does not depend on the loop, so `tests/door.rs` can run it through every interleaving.

use std::collections::VecDeque;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// Two queues, filled from any thread and emptied by one.
#[derive(Debug)]
pub(super) struct Door<T, C> {
    inside: Mutex<Inside<T, C>>,
    /// Whether the queues hold anything. Read without the lock, because every turn reads it.
    /// INVARIANT: written only with the lock held, so a thread that adds the first item knows that
    /// it must wake the loop, and one that adds another knows that the loop will wake.
    any: AtomicBool,
}

#[derive(Debug)]
struct Inside<T, C> {
    /// Law 9: each task at most once.
    woken: Vec<T>,
    /// Law 9: unbounded; the callers in other threads choose how many.
    calls: VecDeque<C>,
    closed: bool,
}

impl<T, C> Door<T, C> {
    pub(super) fn new() -> Door<T, C> {
        let inside = Inside { woken: Vec::new(), calls: VecDeque::new(), closed: false };
        Door { inside: Mutex::new(inside), any: AtomicBool::new(false) }
    }

    /// True when a woken task or a call is queued.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Queues a woken task. Returns true when the caller must wake the loop.
    #[must_use]
    pub(super) fn wake(&self, task: T) -> bool {
        let mut inside = self.inside();
        inside.woken.push(task);
        !self.any.swap(true, Ordering::AcqRel)
    }

    /// Queues a call, or returns it if the loop was dropped. `Ok(true)` means that the caller must
    /// wake the loop.
    pub(super) fn call(&self, call: C) -> Result<bool, C> {
        let mut inside = self.inside();
        if inside.closed {
            return Err(call);
        }
        inside.calls.push_back(call);
        Ok(!self.any.swap(true, Ordering::AcqRel))
    }

    /// Takes all queued calls.
    pub(super) fn take_calls(&self) -> VecDeque<C> {
        let mut inside = self.inside();
        self.any.store(!inside.woken.is_empty(), Ordering::Release);
        std::mem::take(&mut inside.calls)
    }

    /// Appends all woken tasks to `woken`.
    pub(super) fn take_woken(&self, woken: &mut Vec<T>) {
        let mut inside = self.inside();
        self.any.store(!inside.calls.is_empty(), Ordering::Release);
        woken.append(&mut inside.woken);
    }

    /// Called when the loop is dropped: refuses further calls, and returns the queued ones.
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
