//! Where other threads leave things for a loop: tasks that they woke, and calls.
//!
//! It knows no loop, so that `tests/door.rs` can run it through every interleaving.

use std::collections::VecDeque;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// Things of two kinds, put in from any thread and taken out by one.
#[derive(Debug)]
pub(super) struct Door<T, C> {
    /// Law 9: each task stands here once.
    woken: Mutex<Vec<T>>,
    calls: Mutex<Calls<C>>,
    /// There is something in `woken` or `calls`; looked at in each turn, so without the locks.
    /// INVARIANT: who puts something in sets it afterwards; who takes all out clears it before.
    any: AtomicBool,
}

/// Law 9: not bounded; who calls from other threads knows how much.
#[derive(Debug)]
struct Calls<C> {
    waiting: VecDeque<C>,
    closed: bool,
}

impl<T, C> Door<T, C> {
    pub(super) fn new() -> Door<T, C> {
        Door {
            woken: Mutex::new(Vec::new()),
            calls: Mutex::new(Calls { waiting: VecDeque::new(), closed: false }),
            any: AtomicBool::new(false),
        }
    }

    /// True when a task was woken or a call came.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// A task was woken. The loop is to be woken after it.
    pub(super) fn wake(&self, task: T) {
        self.woken().push(task);
        self.any.store(true, Ordering::Release);
    }

    /// Tasks that run in this turn without a wake-up.
    pub(super) fn add(&self, tasks: impl Iterator<Item = T>) {
        self.woken().extend(tasks);
    }

    /// A call came; it comes back when the loop has gone. The loop is to be woken after it.
    pub(super) fn call(&self, call: C) -> Result<(), C> {
        {
            let mut calls = self.calls();
            if calls.closed {
                return Err(call);
            }
            calls.waiting.push_back(call);
        }
        self.any.store(true, Ordering::Release);
        Ok(())
    }

    /// Calls that wait.
    pub(super) fn calls_waiting(&self) -> usize {
        self.calls().waiting.len()
    }

    pub(super) fn next_call(&self) -> Option<C> {
        self.calls().waiting.pop_front()
    }

    /// The tasks that were woken by now. Comes after the calls of a turn.
    pub(super) fn take_woken(&self) -> Vec<T> {
        self.any.store(false, Ordering::Release);
        let woken = std::mem::take(&mut *self.woken());
        // Calls that came since this turn's were run. One that comes later says so itself.
        if !self.calls().waiting.is_empty() {
            self.any.store(true, Ordering::Release);
        }
        woken
    }

    /// No task is woken any more that was woken by now.
    pub(super) fn forget_woken(&self) {
        self.woken().clear();
    }

    /// The loop goes: no call comes in any more. The calls that waited.
    pub(super) fn close(&self) -> VecDeque<C> {
        let mut calls = self.calls();
        calls.closed = true;
        std::mem::take(&mut calls.waiting)
    }

    fn woken(&self) -> MutexGuard<'_, Vec<T>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, Calls<C>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
