//! The source of time and entropy for a simulating thread. With the feature `trap`, calls that
//! `couplet_os::trap` intercepts are answered by the simulation, all others by the system.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::kernel::Kernel;
use super::random::{Purpose, RandomStream};

/// The source of the answers.
#[cfg_attr(not(feature = "trap"), allow(dead_code, reason = "read only with the feature"))]
pub(super) enum Source {
    /// The system, temporarily.
    System,
    /// A world that is being created: its clock stands at the start.
    Before(RefCell<RandomStream>),
    /// A world, and the host that is running, if any.
    World(Rc<RefCell<Kernel>>, Option<u32>),
}

impl Source {
    pub(super) fn before(seed: u64) -> Source {
        Source::Before(RefCell::new(RandomStream::new(seed, Purpose::Entropy, &[])))
    }
}

/// The instant from which the clocks of every world count.
pub(super) fn epoch() -> Instant {
    let _here = enter(Source::before(0));
    #[expect(clippy::disallowed_methods, reason = "virtual time needs a starting point")]
    Instant::now()
}

#[cfg(not(feature = "trap"))]
pub(super) fn enter(_: Source) -> impl Sized {}

#[cfg(feature = "trap")]
pub(super) use here::enter;

#[cfg(feature = "trap")]
mod here {
    use std::cell::RefCell;
    use std::time::{Duration, UNIX_EPOCH};

    use couplet_os::trap::{self, Answers, Clock};

    use super::Source;
    use crate::FIRST_DAY;

    thread_local! {
        static SOURCE: RefCell<Source> = const { RefCell::new(Source::System) };
    }

    /// Sets the thread's source until the result is dropped.
    pub(crate) fn enter(source: Source) -> impl Sized {
        struct Leave(Source);
        impl Drop for Leave {
            fn drop(&mut self) {
                let before = std::mem::replace(&mut self.0, Source::System);
                let _ = SOURCE.try_with(|source| source.replace(before));
            }
        }
        trap::set(Answers { random, clock });
        Leave(SOURCE.with(|current| current.replace(source)))
    }

    /// The source's answer. `None` means the system's: for `Source::System`, while the thread ends,
    /// and while the simulated kernel is borrowed.
    fn answer<T>(ask: impl FnOnce(&Source) -> Option<T>) -> Option<T> {
        SOURCE.try_with(|source| ask(&*source.try_borrow().ok()?)).ok()?
    }

    fn random() -> Option<u64> {
        answer(|source| match source {
            Source::System => None,
            Source::Before(entropy) => Some(entropy.try_borrow_mut().ok()?.next()),
            Source::World(kernel, host) => {
                let kernel = &mut *kernel.try_borrow_mut().ok()?;
                let entropy = match host {
                    Some(host) => &mut kernel.hosts[*host as usize].entropy,
                    None => &mut kernel.entropy,
                };
                Some(entropy.next())
            }
        })
    }

    fn clock(clock: Clock) -> Option<Duration> {
        answer(|source| {
            let elapsed = match source {
                Source::System => return None,
                Source::Before(_) => Duration::ZERO,
                Source::World(kernel, None) => Duration::from_nanos(kernel.try_borrow().ok()?.now),
                Source::World(kernel, Some(host)) => {
                    let kernel = kernel.try_borrow().ok()?;
                    let host = &kernel.hosts[*host as usize];
                    if clock == Clock::Realtime {
                        return host.wall_clock(kernel.now).duration_since(UNIX_EPOCH).ok();
                    }
                    host.clock(kernel.now)
                }
            };
            Some(if clock == Clock::Realtime { FIRST_DAY + elapsed } else { elapsed })
        })
    }
}
