//! The driver's table of open sockets. A closed slot is not reused until the events of the last
//! wait are used up, so that none of them can reach the slot's next occupant.
//!
//! Contract: 106a.

use std::collections::VecDeque;
use std::io;

use super::Mio;
use super::accepting::PortSlot;
use super::datagrams::DatagramSlot;
#[cfg(unix)]
use super::pipe::PipeSlot;
use super::socket::Stream;
use super::stream::StreamSlot;
use super::system::Forks;
use super::unix::{Descriptor, MOST};
use crate::address::Address;
use crate::bounded::{AtMost, Bounded};
use crate::driver::readiness::Readiness;
use crate::driver::{ConnectOptions, Key};

/// Tables with fewer slots are not worth shrinking.
const SHRINK: usize = 256;
/// If at least this many connections were open, the heap is worth trimming too: a connection takes
/// about a kilobyte, which the allocator would otherwise keep forever.
const TRIM: usize = 1024;

pub(super) struct Registered {
    /// In the list of slots to serve in the next turn.
    pub(super) queued: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Port(Box<PortSlot>),
    Connecting(ConnectingSlot),
    /// Starts a connect when a back-off ends.
    Dialling(Box<Dial>),
    Stream(StreamSlot),
    Datagrams(Box<DatagramSlot>),
    /// Non-socket descriptors.
    #[cfg(unix)]
    Pipe(Box<PipeSlot>),
}

/// A connect to a UNIX socket whose queue was full. The system neither queues the connect nor
/// reports when the queue has space.
pub(super) struct Dial {
    pub(super) to: Address,
    pub(super) options: ConnectOptions,
}

pub(super) struct ConnectingSlot {
    pub(super) stream: Stream,
    /// `CLOSING` if the end of the stream, or an error, was announced together with the connection.
    pub(super) readiness: Readiness,
}

/// Descriptors, and the bytes received with them.
pub(super) struct HeldMessage {
    #[cfg_attr(not(unix), expect(dead_code, reason = "none is passed"))]
    pub(super) descriptors: Bounded<VecDeque<Descriptor>, AtMost<MOST>>,
    // One read of a UNIX socket; of a ring, the buffers filled before it was cancelled.
    pub(super) bytes: Vec<u8>,
}

impl Kind {
    /// Turns a finished connect into a connection.
    pub(super) fn connected(self) -> Kind {
        let Kind::Connecting(connecting) = self else { return self };
        let mut stream = StreamSlot::new(connecting.stream, connecting.readiness);
        // The connect's edge may also have announced bytes and the end of the stream.
        stream.readiness.set(Readiness::READABLE, true);
        Kind::Stream(stream)
    }
}

impl Mio {
    pub(super) fn insert(&mut self, kind: Kind) -> Key {
        let key = self.slots.insert(Registered { queued: false, kind });
        self.high_water = self.high_water.max(self.slots.len());
        key
    }

    /// Frees closed slots. Called once the events of the last wait are used up, so none refers to
    /// them.
    #[inline(never)]
    pub(super) fn reuse_retired_slots(&mut self) {
        for slot in self.retired.drain(..) {
            self.slots.reuse(slot);
        }
        let used = self.slots.len();
        if self.high_water >= SHRINK && used <= self.high_water / 2 {
            self.slots.shrink();
            self.retired.shrink_to(SHRINK);
            if self.high_water >= TRIM {
                couplet_os::heap::trim();
            }
            self.high_water = used;
        }
    }

    #[inline]
    pub(super) fn kind(&mut self, key: Key) -> Option<&mut Kind> {
        self.slots.get_mut(key).map(|slot| &mut slot.kind)
    }

    #[inline]
    pub(super) fn stream(&mut self, key: Key) -> Option<&mut StreamSlot> {
        match self.kind(key)? {
            Kind::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// Closes a port, a connect attempt or a stream.
    pub(super) fn retire(&mut self, key: Key) {
        if let Some(mut retired) = self.slots.retire(key) {
            let registry = &self.world.registry;
            match &mut retired.kind {
                Kind::Port(port) => port.listener.deregister(registry),
                Kind::Stream(slot) if slot.is_adopted || self.world.forks.get() != Forks::None => {
                    slot.leave(registry);
                }
                Kind::Datagrams(port) => {
                    port.deregister(registry);
                    self.arrived.forget(key);
                }
                #[cfg(unix)]
                Kind::Pipe(pipe) => pipe.deregister(registry),
                Kind::Stream(_) | Kind::Connecting(_) | Kind::Dialling(_) => {}
            }
            self.finish_retire(key);
        }
    }

    /// Removes a stream on which nothing was read or written, and returns its socket.
    #[cold]
    #[inline(never)]
    pub(super) fn release_stream(&mut self, key: Key) -> io::Result<Stream> {
        let is_stream = matches!(self.kind(key), Some(Kind::Stream(_)));
        let taken = is_stream.then(|| self.slots.retire(key)).flatten();
        let Some(Registered { kind: Kind::Stream(slot), .. }) = taken else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        slot.leave(&self.world.registry);
        self.finish_retire(key);
        Ok(slot.stream)
    }

    fn finish_retire(&mut self, key: Key) {
        debug_assert!(!self.arrived.belongs_to(key), "a closed port keeps the buffers");
        if !self.held.is_empty() {
            self.held.remove(&key.slot);
        }
        self.retired.push(key.slot);
    }

    /// Serves the slot again in the next turn.
    pub(super) fn queue(&mut self, slot: u32) {
        if let Some(entry) = self.slots.at_mut(slot)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.later.push_back(slot);
        }
    }

    /// At the start of a turn, moves the slots queued for it to `again`.
    #[cold]
    pub(super) fn take_queued_slots(&mut self) {
        for slot in self.later.drain(..) {
            if let Some(entry) = self.slots.at_mut(slot) {
                entry.queued = false;
                self.again.push_back(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_asked_to_shrink_each_time_that_half_of_its_slots_are_free() {
        let mut driver = Mio::new(1).expect("a driver");
        let to = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        // Slots without descriptors: the process may be limited to fewer than these.
        let dial = || Dial { to: to.clone(), options: ConnectOptions::default() };
        let keys: Vec<Key> =
            (0..SHRINK).map(|_| driver.insert(Kind::Dialling(Box::new(dial())))).collect();
        let mut high_water_without = |range: std::ops::Range<usize>| {
            keys[range].iter().for_each(|key| driver.retire(*key));
            driver.reuse_retired_slots();
            driver.high_water
        };
        assert_eq!(high_water_without(0..SHRINK / 2 - 1), SHRINK);
        assert_eq!(high_water_without(SHRINK / 2 - 1..SHRINK / 2), SHRINK / 2);
        assert_eq!(high_water_without(SHRINK / 2..SHRINK), SHRINK / 2, "a small table may stay");
    }
}
