//! The wait of Linux: epoll asked without the detour through the C library, whose return would lie
//! over the system call (see [`Driver::serve`](crate::driver::Driver::serve)).

use std::io;
use std::time::Duration;

use mio::Token;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};

pub(super) type Event = epoll::Event;

/// What an event says, in the words of [`mio::event::Event`].
pub(super) trait Says {
    fn says(&self, flags: EventFlags) -> bool;
    fn token(&self) -> Token;

    #[inline(always)]
    fn is_readable(&self) -> bool {
        self.says(EventFlags::IN)
    }

    #[inline(always)]
    fn is_writable(&self) -> bool {
        self.says(EventFlags::OUT)
    }

    #[inline(always)]
    fn is_error(&self) -> bool {
        self.says(EventFlags::ERR)
    }

    #[inline(always)]
    fn is_read_closed(&self) -> bool {
        self.says(EventFlags::HUP) || (self.is_readable() && self.says(EventFlags::RDHUP))
    }
}

impl Says for Event {
    #[inline(always)]
    fn says(&self, flags: EventFlags) -> bool {
        // The event is packed: a copy, no reference.
        let said = self.flags;
        said.intersects(flags)
    }

    #[inline(always)]
    fn token(&self) -> Token {
        let data = self.data;
        Token(data.u64() as usize)
    }
}

/// A longer wait ends early, and the loop waits again: in milliseconds it does not fit the call. In
/// seconds: 23 days.
const LONGEST: u64 = 2_000_000;

/// Waits, and puts what happened behind `events`, as much as there is room for.
#[inline(always)]
pub(super) fn wait(
    poll: &mio::Poll,
    events: &mut Vec<Event>,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let timeout = timeout.map(|it| Timespec {
        tv_sec: it.as_secs().min(LONGEST) as i64,
        tv_nsec: it.subsec_nanos().into(),
    });
    epoll::wait(poll.registry(), spare_capacity(events), timeout.as_ref())?;
    Ok(())
}
