//! Wakers of the hosts' loops. A waker may be called from any thread, so it only records its host;
//! the world collects the recorded hosts after each event.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The hosts woken and not yet collected.
#[derive(Default)]
pub(super) struct WokenHosts {
    // The world drains them after each event.
    woken: Mutex<Vec<u32>>,
}

struct HostWaker {
    woken_hosts: Arc<WokenHosts>,
    host: u32,
}

impl WokenHosts {
    pub(super) fn waker(self: &Arc<WokenHosts>, host: u32) -> Waker {
        Waker::from(Arc::new(HostWaker { woken_hosts: self.clone(), host }))
    }

    /// Takes the hosts woken since the last call.
    pub(super) fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wake for HostWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken_hosts.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.host);
    }
}
