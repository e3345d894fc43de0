//! [`Bell`]: wakes a connection's task for its streams, from any thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use super::streams::Key;

/// Why a connection was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ring {
    /// The future of this stream was woken.
    Work(Key),
    /// The reader of this stream's body has something to report.
    Report(Key),
}

#[derive(Default)]
pub(super) struct Bell(Mutex<BellState>);

#[derive(Default)]
struct BellState {
    // At most two for each stream, as each waker and each report ring once until they are taken; a
    // report may ring again after its stream is closed.
    rings: Vec<Ring>,
    /// Bytes of bodies that were read or dropped, also of streams that are closed.
    consumed: usize,
    /// The connection's task, unless it is being polled.
    task: Option<Waker>,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, BellState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, ring: Ring, consumed: usize) {
        let mut state = self.state();
        state.consumed += consumed;
        if state.rings.last() == Some(&ring) {
            return;
        }
        state.rings.push(ring);
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    pub(super) fn report(&self, key: Key, consumed: usize) {
        self.ring(Ring::Report(key), consumed);
    }

    pub(super) fn work(&self, key: Key) {
        self.ring(Ring::Work(key), 0);
    }

    /// Takes the rings since the last call, in exchange for an empty vector, and returns the bytes
    /// consumed since then. The task is awake.
    pub(super) fn take_rings(&self, rings: &mut Vec<Ring>) -> usize {
        rings.clear();
        let mut state = self.state();
        std::mem::swap(&mut state.rings, rings);
        let task = state.task.take();
        let consumed = std::mem::take(&mut state.consumed);
        drop(state);
        drop(task);
        consumed
    }

    /// Lets the task sleep, unless there are rings. Returns whether it may.
    pub(super) fn sleep(&self, task: &Waker) -> bool {
        let mut state = self.state();
        if !state.rings.is_empty() {
            return false;
        }
        state.task = Some(task.clone());
        true
    }

    /// Frees the memory of rings that were taken.
    pub(super) fn free_memory(&self) {
        self.state().rings.shrink_to_fit();
    }
}

/// The waker of a stream's future.
pub(super) struct StreamWaker {
    bell: Arc<Bell>,
    key: Key,
    has_rung: AtomicBool,
}

impl StreamWaker {
    pub(super) fn new(bell: &Arc<Bell>, key: Key) -> Arc<StreamWaker> {
        Arc::new(StreamWaker { bell: bell.clone(), key, has_rung: AtomicBool::new(false) })
    }

    /// Lets it ring again.
    pub(super) fn rearm(&self) {
        self.has_rung.store(false, Ordering::Release);
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            self.bell.work(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumed_bytes_are_the_sum_of_the_reports() {
        let (bell, mut rings) = (Bell::default(), Vec::new());
        bell.work(1);
        bell.report(2, 10);
        bell.report(2, 5);
        assert_eq!(bell.take_rings(&mut rings), 15);
        assert_eq!(rings, [Ring::Work(1), Ring::Report(2)]);
        bell.work(1);
        assert_eq!((bell.take_rings(&mut rings), rings.len()), (0, 1));
    }
}
