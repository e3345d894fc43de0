//! Threads on processors of their own: on Linux; elsewhere nothing.

#[cfg(target_os = "linux")]
use std::sync::OnceLock;

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process might use before a thread was pinned.
#[cfg(target_os = "linux")]
static ALL: OnceLock<CpuSet> = OnceLock::new();

/// A pinned thread; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Pinned;

/// Binds this thread to one of the processors that it may use: the `number`th, counted around. An error
/// is logged.
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
        log_warn!(%error, "cannot bind a loop to a processor");
    }
    Pinned
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: usize) -> Pinned {
    Pinned
}

/// Lets this thread, which a pinned one may have started, use all processors again.
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
