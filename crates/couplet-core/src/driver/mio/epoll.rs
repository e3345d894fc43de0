//! The wait on Linux: epoll without the C library, whose wrapper would add another return across
//! the system call (see `docs/decisions/turn.md`). And level-triggered registrations, which mio
//! lacks: a watched descriptor then needs no `epoll_ctl` after each event.
//!
//! Contract: 94, 106.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use mio::Token;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::driver::Interest;

pub(super) type Event = epoll::Event;

/// The interface of [`mio::event::Event`].
pub(super) trait EventExt {
    fn has(&self, flags: EventFlags) -> bool;
    fn token(&self) -> Token;

    #[inline(always)]
    fn is_readable(&self) -> bool {
        self.has(EventFlags::IN)
    }

    #[inline(always)]
    fn is_writable(&self) -> bool {
        self.has(EventFlags::OUT)
    }

    #[inline(always)]
    fn is_error(&self) -> bool {
        self.has(EventFlags::ERR)
    }

    #[inline(always)]
    fn is_read_closed(&self) -> bool {
        self.has(EventFlags::HUP) || (self.is_readable() && self.has(EventFlags::RDHUP))
    }
}

impl EventExt for Event {
    #[inline(always)]
    fn has(&self, flags: EventFlags) -> bool {
        // The event is packed: its fields can be copied, but not borrowed.
        let own = self.flags;
        own.intersects(flags)
    }

    #[inline(always)]
    fn token(&self) -> Token {
        let data = self.data;
        Token(data.u64() as usize)
    }
}

/// Longest wait in seconds: 23 days. A longer one would overflow the call's milliseconds; the wait
/// ends early, and the loop waits again.
const LONGEST: u64 = 2_000_000;

/// Waits, and appends to `events` as many events as its spare capacity holds.
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

/// Registers a foreign descriptor, level-triggered.
pub(super) fn watch(
    registry: &mio::Registry,
    source: BorrowedFd<'_>,
    token: Token,
    interest: Interest,
) -> io::Result<()> {
    Ok(epoll::add(registry, source, data(token), flags(interest))?)
}

/// Changes the interest in a registered descriptor.
pub(super) fn rewatch(
    registry: &mio::Registry,
    source: BorrowedFd<'_>,
    token: Token,
    interest: Interest,
) -> io::Result<()> {
    Ok(epoll::modify(registry, source, data(token), flags(interest))?)
}

fn data(Token(token): Token) -> EventData {
    EventData::new_u64(token as u64)
}

fn flags(interest: Interest) -> EventFlags {
    match interest {
        Interest::Readable => EventFlags::IN | EventFlags::RDHUP,
        Interest::Writable => EventFlags::OUT,
        Interest::Both => EventFlags::IN | EventFlags::RDHUP | EventFlags::OUT,
    }
}
