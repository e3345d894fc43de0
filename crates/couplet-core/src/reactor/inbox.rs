//! The queue from other threads into a loop: woken tasks and calls.
//!
//! The queue does not depend on the loop, so `tests/inbox.rs` can run it through every interleaving.
//!
//! Contract: 96.

use std::collections::VecDeque;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// Two queues, filled from any thread and emptied by one.
#[derive(Debug)]
pub(super) struct Inbox<T, C> {
    queues: Mutex<Queues<T, C>>,
    /// Whether the queues hold anything. Read without the lock, because every turn reads it.
    /// INVARIANT: written only with the lock held, so a thread that adds the first item knows that
    /// it must wake the loop, and one that adds another knows that the loop will wake.
    has_items: AtomicBool,
}

#[derive(Debug)]
struct Queues<T, C> {
    // Each task once: `TaskWaker::queued`.
    woken: Vec<T>,
    /// `None` once the loop was dropped.
    calls: Option<VecDeque<C>>,
}

impl<T, C> Inbox<T, C> {
    pub(super) fn new() -> Inbox<T, C> {
        let queues = Queues { woken: Vec::new(), calls: Some(VecDeque::new()) };
        Inbox { queues: Mutex::new(queues), has_items: AtomicBool::new(false) }
    }

    /// True when a woken task or a call is queued.
    #[inline]
    pub(super) fn has_items(&self) -> bool {
        self.has_items.load(Ordering::Acquire)
    }

    /// Queues a woken task. Returns true when the caller must wake the loop.
    #[must_use]
    pub(super) fn wake(&self, task: T) -> bool {
        let mut queues = self.lock_queues();
        queues.woken.push(task);
        !self.has_items.swap(true, Ordering::AcqRel)
    }

    /// Queues a call, or returns it if the loop was dropped. `Ok(true)` means that the caller must
    /// wake the loop.
    pub(super) fn call(&self, call: C) -> Result<bool, C> {
        let mut queues = self.lock_queues();
        let Some(calls) = &mut queues.calls else { return Err(call) };
        calls.push_back(call);
        Ok(!self.has_items.swap(true, Ordering::AcqRel))
    }

    /// Takes all queued calls.
    pub(super) fn take_calls(&self) -> VecDeque<C> {
        let mut queues = self.lock_queues();
        self.has_items.store(!queues.woken.is_empty(), Ordering::Release);
        queues.calls.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Appends all woken tasks to `woken`.
    pub(super) fn take_woken(&self, woken: &mut Vec<T>) {
        let mut queues = self.lock_queues();
        let has_calls = queues.calls.as_ref().is_some_and(|calls| !calls.is_empty());
        self.has_items.store(has_calls, Ordering::Release);
        woken.append(&mut queues.woken);
    }

    /// Called when the loop is dropped: refuses further calls, and returns the queued ones.
    pub(super) fn close(&self) -> VecDeque<C> {
        self.lock_queues().calls.take().unwrap_or_default()
    }

    /// True once the loop was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.lock_queues().calls.is_none()
    }

    fn lock_queues(&self) -> MutexGuard<'_, Queues<T, C>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
