//! The processors of server and load.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use: the first for the servers, the second, if it exists,
/// for the load.
pub fn processors() -> io::Result<(Option<usize>, Option<usize>)> {
    let set = sched_getaffinity(None)?;
    let mut processors = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
    Ok((processors.next(), processors.next()))
}

/// Pins the calling thread, and the processes that it starts, to one processor.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
