//! Pins threads to processors on Linux; does nothing elsewhere.
//!
//! Contract: 103i.

#[cfg(target_os = "linux")]
use std::sync::OnceLock;

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process could use before any thread was pinned.
#[cfg(target_os = "linux")]
static ALL: OnceLock<CpuSet> = OnceLock::new();

/// Keeps the thread pinned; dropping it unpins the thread.
#[derive(Debug)]
pub(crate) struct Pinned;

/// Pins this thread to one of the usable processors: the one at index `number`, modulo their count.
/// An error is logged.
#[cfg(target_os = "linux")]
pub(crate) fn pin(number: usize) -> Pinned {
    let pinned = sched_getaffinity(None).and_then(|now| {
        let all = ALL.get_or_init(|| now);
        let usable = (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor));
        let mut one = CpuSet::new();
        let number = number % (all.count() as usize).max(1);
        usable.skip(number).take(1).for_each(|processor| one.set(processor));
        sched_setaffinity(None, &one)
    });
    if let Err(error) = pinned {
        log_warn!(%error, "cannot pin a loop to a processor");
    }
    Pinned
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: usize) -> Pinned {
    Pinned
}

/// Lets this thread use all processors again. Threads inherit the affinity of the thread that
/// starts them, which may be pinned.
pub(crate) fn unpin() {
    #[cfg(target_os = "linux")]
    if let Some(Err(error)) = ALL.get().map(|all| sched_setaffinity(None, all)) {
        log_warn!(%error, "cannot let a thread use all processors");
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        unpin();
    }
}
