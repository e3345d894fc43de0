//! [`Recorded`]: a driver that writes what passes through the seam into a [`Ring`]. A loop without a
//! ring has the driver itself, and pays nothing.

use std::sync::Arc;
use std::time::Instant;

use couplet_os::ticks::ticks;

use super::ring::{Kind, Ring, SLEEP_UNIT};
use super::{Around, CloseMode, Driver, Event, Key, Outbox, UserCall, WriteOutcome};

/// Writes the events of a loop into its ring. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RingWriter {
    ring: Arc<Ring>,
}

impl RingWriter {
    pub(crate) fn new(bytes: usize, now: Instant) -> RingWriter {
        RingWriter { ring: Arc::new(Ring::new(bytes, (ticks(), now))) }
    }

    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    #[inline(always)]
    fn put(&self, kind: Kind, key: u32, value: u32) {
        self.ring.put(ticks(), kind, key, value);
    }

    /// The protocol of a connection was built.
    pub(crate) fn built(&self, key: Key, of: &'static str) {
        let name = self.ring.name(&UserCall::by("protocol", of));
        self.put(Kind::Built, key.slot, name);
    }

    /// A call into user code begins; returns the number of its name.
    pub(crate) fn call(&self, doing: &UserCall, depth: u32) -> u32 {
        let name = self.ring.name(doing);
        self.put(Kind::Call, name, depth);
        name
    }

    pub(crate) fn returned(&self, name: u32, depth: u32) {
        self.put(Kind::Returned, name, depth);
    }

    /// A write begins; returns its time and the bytes to write.
    #[inline(always)]
    pub(super) fn begin_write(&self, out: &Outbox) -> (u64, usize) {
        (ticks(), out.len())
    }

    /// A write has ended, which [began](Self::begin_write) then.
    #[inline(always)]
    pub(super) fn written(
        &self,
        (begun, before): (u64, usize),
        key: Key,
        out: &Outbox,
        outcome: WriteOutcome,
    ) {
        let kind = if outcome == WriteOutcome::Blocked { Kind::Blocked } else { Kind::Wrote };
        self.ring.put(begun, kind, key.slot, before.wrapping_sub(out.len()) as u32);
    }

    /// Bytes arrived, which are delivered next.
    #[inline(always)]
    pub(super) fn bytes(&self, key: Key, bytes: &[u8]) {
        self.put(Kind::Received, key.slot, bytes.len() as u32);
    }

    /// A wait has returned, which began at this tick.
    #[inline(always)]
    pub(super) fn waited(&self, begun: u64) {
        let now = ticks();
        let slept = now.wrapping_sub(begun) / SLEEP_UNIT;
        self.ring.put(now, Kind::Waited, (slept >> 32) as u32, slept as u32);
    }

    pub(super) fn reading(&self, key: Key, on: bool) {
        self.put(Kind::Reading, key.slot, on.into());
    }

    pub(super) fn shut(&self, key: Key) {
        self.put(Kind::Shut, key.slot, 0);
    }

    pub(super) fn closed(&self, key: Key, mode: CloseMode) {
        self.put(Kind::Closed, key.slot, (mode == CloseMode::Reset).into());
    }

    /// Events other than bytes.
    #[inline(never)]
    pub(super) fn event(&self, event: &Event) {
        let (kind, key, value) = match event {
            Event::Accepted { port, key, .. } => (Kind::Accepted, key.slot, port.slot),
            Event::Connected { key, .. } => (Kind::Connected, key.slot, 0),
            Event::Ended(key) | Event::PeerEnded(key) => (Kind::Ended, key.slot, 0),
            Event::Failed(key, _) => (Kind::Failed, key.slot, 0),
            Event::Room(key) => (Kind::Room, key.slot, 0),
            Event::Received(key)
            | Event::Sent(key, _)
            | Event::Datagram { key, .. }
            | Event::DatagramError(key, _) => (Kind::Other, key.slot, 0),
            #[cfg(unix)]
            Event::Descriptor(key, _) => (Kind::Other, key.slot, 0),
            Event::Resolved(..) | Event::Ready(..) | Event::JobDone(_) | Event::Signal(_) => {
                (Kind::Other, 0, 0)
            }
        };
        self.put(kind, key, value);
    }
}

/// A driver with a ring.
pub(crate) struct Recorded<D> {
    driver: D,
    ring: RingWriter,
}

impl<D> Recorded<D> {
    pub(crate) fn new(driver: D, ring: RingWriter) -> Recorded<D> {
        Recorded { driver, ring }
    }
}

impl<D: Driver> Around for Recorded<D> {
    type Inner = D;

    #[inline(always)]
    fn inner(&self) -> &D {
        &self.driver
    }

    #[inline(always)]
    fn inner_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    #[inline(always)]
    fn ring(&self) -> Option<&RingWriter> {
        Some(&self.ring)
    }
}
