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

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::super::memory::{Manner, Memory, Network};
    use super::super::{Commands, ConnectOptions, ListenOptions};
    use super::*;

    fn loopback(port: u16) -> Address {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// A driver whose events are recorded at the times of a clock that the test sets.
    struct Rig {
        driver: Recorded<Memory, true, false>,
        network: Network,
        writer: RingWriter,
        clock: Rc<Cell<u64>>,
        read: u64,
    }

    impl Rig {
        fn new(manner: Manner) -> Rig {
            let (driver, network) = Memory::new(manner, 1);
            let clock = Rc::new(Cell::new(0));
            let time = clock.clone();
            let writer = RingWriter::with_clock((16 * 1024, 10), None, move || time.get());
            let driver = Recorded::new(driver, writer.clone());
            Rig { driver, network, writer, clock, read: 0 }
        }

        fn wait(&mut self) {
            self.driver.wait(Some(self.network.now())).expect("memory does not fail");
        }

        /// The next event, however many turns it takes.
        fn event(&mut self) -> Event {
            loop {
                if let Some(event) = self.driver.next() {
                    return event;
                }
                self.wait();
            }
        }

        /// The records since the last call, except waits: kind and numbers.
        fn records(&mut self) -> Vec<(Kind, u32, u32)> {
            let mut records = Vec::new();
            self.read = self.writer.ring().read(self.read, |record| {
                if record.kind != Kind::Waited {
                    records.push((record.kind, record.key, record.value));
                }
            });
            records
        }

        fn listen(&mut self) -> (Key, Address) {
            let world = self.driver.world();
            let bound = world.bind(&loopback(0), &ListenOptions::default()).expect("a free port");
            let host = bound.host.clone();
            (self.driver.listen(bound).expect("a port"), host)
        }
    }

    fn outbox(bytes: usize) -> Outbox {
        let mut out = Outbox::new(Rc::default());
        out.extend(&vec![b'x'; bytes]);
        out
    }

    #[test]
    fn c184_each_write_is_recorded_with_the_bytes_that_the_system_took() {
        let mut rig = Rig::new(Manner::Readiness);
        rig.network.set_capacity(10);
        let (port, host) = rig.listen();
        let wires = [(); 2].map(|()| rig.network.connect(host.clone()).expect("room"));
        let keys = [(); 2].map(|()| match rig.event() {
            Event::Accepted { key, .. } => key,
            other => panic!("{other:?}"),
        });
        let [first, second] = keys.map(|key| key.slot);
        let accepted = keys.map(|key| (Kind::Accepted, key.slot, port.slot));
        assert_eq!(rig.records(), accepted);
        for _ in 0..2 {
            let mut out = outbox(25);
            for taken in [10, 10, 5] {
                let outcome = rig.driver.write(keys[0], &mut out);
                let kind = if taken == 5 { Kind::Wrote } else { Kind::Blocked };
                assert_eq!(outcome == WriteOutcome::All, taken == 5);
                // Another connection writes in between.
                assert_eq!(rig.driver.write(keys[1], &mut outbox(3)), WriteOutcome::All);
                let expected = [(kind, first, taken), (Kind::Wrote, second, 3)];
                assert_eq!(rig.records(), expected);
                wires.iter().for_each(|wire| drop(wire.take()));
                if taken != 5 {
                    assert!(matches!(rig.event(), Event::Room(key) if key == keys[0]));
                    assert_eq!(rig.records(), [(Kind::Room, first, 0)]);
                    assert!(rig.driver.next().is_none());
                }
            }
        }
        // A connection that takes nothing.
        let mut out = outbox(11);
        for taken in [10, 0] {
            assert_eq!(rig.driver.write(keys[1], &mut out), WriteOutcome::Blocked);
            assert_eq!(rig.records(), [(Kind::Blocked, second, taken)]);
        }
        rig.driver.receive(keys[0], false);
        rig.driver.receive(keys[0], true);
        rig.driver.shut_write(keys[0]);
        rig.driver.close(keys[0], CloseMode::Normal);
        rig.driver.close(keys[1], CloseMode::Reset);
        rig.driver.close(port, CloseMode::Normal);
        let expected = [
            (Kind::Reading, first, 0),
            (Kind::Reading, first, 1),
            (Kind::Shut, first, 0),
            (Kind::Closed, first, 0),
            (Kind::Closed, second, 1),
            (Kind::Closed, port.slot, 0),
        ];
        assert_eq!(rig.records(), expected);
        let mut rig = Rig::new(Manner::Completion);
        let (_port, host) = rig.listen();
        let _wire = rig.network.connect(host).expect("room");
        let Event::Accepted { key, .. } = rig.event() else { panic!("not accepted") };
        rig.records();
        assert_eq!(rig.driver.write(key, &mut outbox(7)), WriteOutcome::Taken(7));
        assert_eq!(rig.records(), [(Kind::Wrote, key.slot, 7)]);
    }

    #[test]
    fn c184_the_time_away_from_the_loop_counts_as_one_wait() {
        let mut rig = Rig::new(Manner::Readiness);
        let slept = |rig: &mut Rig, at: u64| {
            rig.clock.set(at * SLEEP_UNIT);
            rig.wait();
            let mut waits = Vec::new();
            rig.read = rig.writer.ring().read(rig.read, |it| waits.push((it.time, it.slept())));
            assert_eq!(waits.len(), 1);
            assert_eq!(waits[0].0, at * SLEEP_UNIT);
            waits[0].1 / SLEEP_UNIT
        };
        assert_eq!(slept(&mut rig, 10), 0);
        for begin in [20, 120, 1 << 40] {
            rig.clock.set(begin * SLEEP_UNIT);
            rig.writer.leave();
            assert_eq!(slept(&mut rig, begin + 30), 30);
            assert_eq!(slept(&mut rig, begin + 50), 0, "it was not left again");
        }
    }

    #[test]
    fn a_watch_is_called_after_the_first_wait_at_or_after_each_of_its_times() {
        let mut rig = Rig::new(Manner::Readiness);
        let calls: Rc<std::cell::RefCell<Vec<u64>>> = Rc::default();
        let called = calls.clone();
        rig.writer.set_watch(move |now| {
            called.borrow_mut().push(now);
            now + 100
        });
        for now in [5, 50, 104, 105, 106, 204, 400, 401, 500, 501] {
            rig.clock.set(now);
            rig.wait();
        }
        assert_eq!(*calls.borrow(), [5, 105, 400, 500]);
    }

    #[test]
    fn only_timed_calls_that_are_late_by_a_millisecond_are_recorded() {
        let mut rig = Rig::new(Manner::Readiness);
        let millis = Duration::from_millis(1);
        for by in [millis - Duration::from_nanos(1), millis, 7 * millis, Duration::MAX] {
            rig.writer.late(by);
        }
        let late = [1000, 7000, u32::MAX].map(|by| (Kind::Late, 0, by));
        assert_eq!(rig.records(), late);
    }

    #[test]
    fn c184b_each_connection_is_logged_with_its_ends_and_its_times() {
        let mut rig = Rig::new(Manner::Readiness);
        let far = rig.network.listen(loopback(0), 9).expect("a free port");
        let (_port, near) = rig.listen();
        let mut expected = Vec::new();
        for round in 1..=3 {
            rig.clock.set(100 * round);
            // A failed attempt makes no connection.
            let options = ConnectOptions::default();
            let failed = rig.driver.connect(&loopback(1), &options).expect("a route");
            let key = rig.driver.connect(&far, &options).expect("a route");
            let wire = rig.network.connect(near.clone()).expect("room");
            rig.clock.set(100 * round + 10);
            let (mut made, mut ends) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                match rig.event() {
                    Event::Accepted { key, peer, host, .. } => {
                        made.push(key);
                        ends.push((peer, host.address()));
                    }
                    Event::Connected { key: connected, host } => {
                        assert_eq!(connected, key);
                        made.push(key);
                        ends.push((far.clone(), Some(host)));
                    }
                    Event::Failed(of, _) => assert_eq!(of, failed),
                    other => panic!("{other:?}"),
                }
            }
            for key in [failed].iter().chain(&made) {
                rig.clock.set(rig.clock.get() + 10);
                rig.driver.close(*key, CloseMode::Normal);
            }
            let times = (100 * round + 10, [100 * round + 30, 100 * round + 40]);
            for ((key, (peer, host)), ended) in made.iter().zip(ends).zip(times.1) {
                let generation = key.generation.get();
                expected.push((key.slot, generation, peer, host, times.0, Some(ended)));
            }
            drop(wire);
            rig.wait();
        }
        let logged = rig.writer.ring().connections_since(0).into_iter();
        let logged: Vec<_> = logged
            .map(|it| (it.slot, it.generation, it.peer, it.host, it.made, it.ended))
            .collect();
        assert_eq!(logged, expected);
    }
}
