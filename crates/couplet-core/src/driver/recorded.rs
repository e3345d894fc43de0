//! [`Recorded`]: a driver that writes the events and commands of another one into a [`Ring`]. A loop
//! without a ring has the inner driver itself, and pays nothing.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet_os::ticks::ticks;

use super::contents::Contents;
use super::ring::{Kind, Ring, SLEEP_UNIT};
use super::{Around, CloseMode, Driver, Event, Key, Outbox, UserCall, World, WriteOutcome};
use crate::address::Address;

/// Timed calls that are late by less are not recorded.
const LATE: Duration = Duration::from_millis(1);

/// Writes the events of a loop into its ring. Cheap to clone.
#[derive(Clone)]
pub struct RingWriter {
    ring: Arc<Ring>,
    /// The nanoseconds since the ring was made, in a world without real time.
    clock: Option<Rc<dyn Fn() -> u64>>,
    /// When the loop returned to its program, which counts as waiting; `None` while it turns.
    left: Rc<Cell<Option<u64>>>,
    /// Called when it is due after a wait.
    watch: Rc<OnceCell<Watch>>,
    /// When the watch is due, in ticks. Used only in the driver's writer.
    due: Cell<u64>,
}

/// Gets the ticks, and returns those at which it is due again.
type Watch = Box<dyn Fn(u64) -> u64>;

impl RingWriter {
    /// A ring of at most `bytes` bytes, and the addresses of at most `connections` connections.
    pub(crate) fn new(
        (bytes, connections): (usize, usize),
        contents: Option<Contents>,
        now: Instant,
    ) -> RingWriter {
        let ring = Ring::new(bytes, connections, (ticks(), now));
        RingWriter::over(ring.with_contents(contents), None)
    }

    /// The same with a clock that gives the nanoseconds of a simulated world.
    #[cfg(feature = "testing")]
    pub(crate) fn with_clock(
        (bytes, connections): (usize, usize),
        contents: Option<Contents>,
        clock: impl Fn() -> u64 + 'static,
    ) -> RingWriter {
        let ring = Ring::in_nanoseconds(bytes, connections, None);
        RingWriter::over(ring.with_contents(contents), Some(Rc::new(clock)))
    }

    /// The same with the clock of a driver's world.
    pub(crate) fn of_world(
        (bytes, connections): (usize, usize),
        contents: Option<Contents>,
        world: Rc<dyn World>,
    ) -> RingWriter {
        let made = world.now();
        let ring = Ring::in_nanoseconds(bytes, connections, Some(made));
        let clock = move || {
            let passed = world.now().saturating_duration_since(made).as_nanos();
            u64::try_from(passed).unwrap_or(u64::MAX)
        };
        RingWriter::over(ring.with_contents(contents), Some(Rc::new(clock)))
    }

    fn over(ring: Ring, clock: Option<Rc<dyn Fn() -> u64>>) -> RingWriter {
        let (left, watch, due) = (Rc::default(), Rc::default(), Cell::new(0));
        RingWriter { ring: Arc::new(ring), clock, left, watch, due }
    }

    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    fn ticks(&self) -> u64 {
        self.clock.as_ref().map_or_else(ticks, |clock| clock())
    }

    fn put(&self, kind: Kind, key: u32, value: u32) {
        self.ring.put(self.ticks(), kind, key, value);
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

    /// A callback has output for another connection.
    pub(crate) fn recorded(&self, key: Key, unsent: usize) {
        self.put(Kind::Recorded, key.slot, unsent as u32);
    }

    /// Calls came from other threads.
    pub(crate) fn woken(&self, calls: usize) {
        self.put(Kind::Woken, 0, calls as u32);
    }

    /// Timed calls are made after their time.
    pub(crate) fn late(&self, by: Duration) {
        if by >= LATE {
            self.put(Kind::Late, 0, u32::try_from(by.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// A write begins; it is recorded when its outcome is known.
    #[inline(always)]
    pub(super) fn writing(&self, now: u64, key: Key, out: &Outbox) {
        self.ring.prepare(now, Kind::Wrote, key.slot, out.len() as u32);
    }

    /// The system took everything.
    #[inline(always)]
    pub(super) fn written(&self) {
        self.ring.publish();
    }

    /// The system left the rest.
    #[cold]
    pub(super) fn written_partly(&self, rest: &Outbox, outcome: WriteOutcome) {
        let kind = if outcome == WriteOutcome::Blocked { Kind::Blocked } else { Kind::Wrote };
        self.ring.amend(kind, |begun| begun.wrapping_sub(rest.len() as u32));
        self.ring.publish();
    }

    /// Bytes arrived, which are delivered next.
    #[inline(always)]
    pub(super) fn bytes(&self, now: u64, key: Key, bytes: &[u8]) {
        self.ring.put(now, Kind::Received, key.slot, bytes.len() as u32);
    }

    /// The loop returns to its program.
    pub(crate) fn leave(&self) {
        self.left.set(Some(self.ticks()));
    }

    /// A wait begins now, or began when the loop returned to its program.
    #[inline(always)]
    pub(super) fn begin_wait(&self, now: u64) -> u64 {
        self.left.take().unwrap_or(now)
    }

    /// A wait that began at this tick has returned.
    #[inline(always)]
    pub(super) fn waited(&self, begun: u64, now: u64) {
        let slept = now.wrapping_sub(begun) / SLEEP_UNIT;
        self.ring.put(now, Kind::Waited, (slept >> 32) as u32, slept as u32);
        if now >= self.due.get() {
            self.watch(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn watch(&self, now: u64) {
        self.due.set(self.watch.get().map_or(u64::MAX, |watch| watch(now)));
    }

    /// Calls a function after the first wait, and then after the first wait at or after the ticks that
    /// it returned last. Set before the first wait.
    pub(crate) fn set_watch(&self, watch: impl Fn(u64) -> u64 + 'static) {
        let is_first = self.watch.set(Box::new(watch)).is_ok();
        debug_assert!(is_first, "a loop has one watch");
    }

    /// The ticks since the ring was made.
    pub(crate) fn ticks_since_begin(&self) -> u64 {
        self.ring.ticks_since_begin(self.ticks())
    }

    pub(super) fn reading(&self, key: Key, on: bool) {
        self.put(Kind::Reading, key.slot, on.into());
    }

    pub(super) fn shut(&self, key: Key) {
        self.put(Kind::Shut, key.slot, 0);
    }

    /// A connection, an attempt or a port is closed.
    pub(super) fn closed(&self, key: Key, mode: CloseMode) {
        let now = self.ticks();
        self.ring.put(now, Kind::Closed, key.slot, (mode == CloseMode::Reset).into());
        self.ring.log(now, |log, now| log.closed(key.slot, now));
    }

    /// An attempt to connect begins.
    pub(super) fn connecting(&self, key: Key, target: &Address) {
        self.ring.log(self.ticks(), |log, _| log.connecting(key, target));
    }

    /// A connection came from another loop or process.
    pub(super) fn adopted(&self, key: Key, peer: Address, host: Address) {
        self.ring.log(self.ticks(), |log, now| log.made(key, peer, Some(host), now));
    }

    /// An event other than bytes.
    #[inline(never)]
    pub(super) fn event(&self, event: &Event) {
        let now = self.ticks();
        match event {
            Event::Accepted { key, peer, host, .. } => self.ring.log(now, |log, now| {
                log.made(*key, peer.clone(), host.address(), now);
            }),
            Event::Connected { key, host } => {
                self.ring.log(now, |log, now| log.connected(*key, host, now));
            }
            _ => {}
        }
        let (kind, key, value) = match event {
            Event::Accepted { port, key, .. } => (Kind::Accepted, key.slot, port.slot),
            Event::Connected { key, .. } => (Kind::Connected, key.slot, 0),
            Event::Ended(key) | Event::PeerEnded(key) => (Kind::Ended, key.slot, 0),
            Event::Failed(key, _) | Event::WriteFailed(key, _) => (Kind::Failed, key.slot, 0),
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
        self.ring.put(now, kind, key, value);
    }
}

impl fmt::Debug for RingWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RingWriter").field(&self.ring).finish()
    }
}

/// A driver with a ring: the system's, or in a `WORLD` whose clock is virtual; and, with `CONTENTS`, one
/// that keeps the first bytes of each chunk.
// The ring comes first, at the address of the whole, which saves an instruction at each use.
#[repr(C)]
pub(crate) struct Recorded<D, const WORLD: bool, const CONTENTS: bool> {
    ring: RingWriter,
    driver: D,
}

impl<D, const WORLD: bool, const CONTENTS: bool> Recorded<D, WORLD, CONTENTS> {
    pub(crate) fn new(driver: D, ring: RingWriter) -> Self {
        Recorded { driver, ring }
    }
}

impl<D: Driver, const WORLD: bool, const CONTENTS: bool> Around for Recorded<D, WORLD, CONTENTS> {
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

    #[inline(always)]
    fn contents(&self) -> Option<&Contents> {
        if CONTENTS { self.ring.ring().contents() } else { None }
    }

    #[inline(always)]
    fn ticks(&self) -> u64 {
        if WORLD { self.ring.ticks() } else { ticks() }
    }
}
