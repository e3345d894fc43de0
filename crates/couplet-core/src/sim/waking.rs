//! Wakers of the hosts' loops. A waker may be called from any thread, so it only records its host;
//! the world collects the recorded hosts after each event.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The hosts woken and not yet collected.
#[derive(Default)]
pub(super) struct Bells {
    any: AtomicBool,
    rung: Mutex<Vec<u32>>,
}

struct Bell {
    bells: Arc<Bells>,
    host: u32,
}

impl Bells {
    pub(super) fn waker(self: &Arc<Bells>, host: u32) -> Waker {
        Waker::from(Arc::new(Bell { bells: self.clone(), host }))
    }

    /// Takes the hosts woken since the last call.
    pub(super) fn take(&self) -> Vec<u32> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bells.rung.lock().unwrap_or_else(PoisonError::into_inner).push(self.host);
        self.bells.any.store(true, Ordering::Release);
    }
}
