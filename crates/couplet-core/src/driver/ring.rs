//! [`Ring`]: the last events of a loop, written only by the loop and read by any thread.
//!
//! An event is four words: the time and the kind in two, and two numbers whose meaning depends on the kind.
//! Writing one is four stores and an index; there is no lock and no allocation. A reader discards the
//! events that may have been overwritten while it read.
//!
//! Contract: 184.

use std::fmt;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use couplet_os::ring::{Slots, Words};
use couplet_os::ticks::ticks;

use super::UserCall;
use super::connection_log::{ConnectionLog, LoggedConnection};
use super::contents::Contents;
use crate::bounded::{AtMost, Bounded};
use crate::sorted::SortedMap;

/// The bits of the time in its two words; the kind is above them. At 4 GHz they last two years.
const TIME_BITS: u32 = 58;

/// The most ticks by which an event may seem older than its ring: the counters of two processors differ.
const SKEW: u64 = 1 << 20;

/// Events just before the present end that the loop may be overwriting while they are read.
const MARGIN: u64 = 16;

/// The most names of calls. Further ones are called `other`.
const NAMES: usize = 10_000;

/// The kind of an event. The comment gives the meaning of its two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A wait returned: how long it took, as two halves: see [`Record::slept`].
    Waited = 1,
    /// Bytes arrived and are delivered: the connection, and their count.
    Received = 2,
    /// Bytes were written: the connection, and their count. Stamped at the beginning of the write.
    Wrote = 3,
    /// The system took only a part of the bytes: the connection, and their count.
    Blocked = 4,
    /// A connection was accepted: the connection, and the port.
    Accepted = 5,
    /// A connect succeeded: the connection.
    Connected = 6,
    /// The protocol of a connection was built: the connection, and the number of its name.
    Built = 7,
    /// The peer closed its side: the connection.
    Ended = 8,
    /// An error ended a connection or an attempt: its number.
    Failed = 9,
    /// The system accepts bytes again: the connection.
    Room = 10,
    /// We closed our side: the connection.
    Shut = 11,
    /// The connection, attempt or port was closed: its number, and 1 for a reset.
    Closed = 12,
    /// Reading was paused or resumed: the connection or port, and 1 if it was resumed.
    Reading = 13,
    /// Another event of the driver: its number, if it has one.
    Other = 14,
    /// A call into user code began: the number of its name, and how many calls it is nested in.
    Call = 15,
    /// A call into user code ended: the number of its name, and how many calls it was nested in.
    Returned = 16,
    /// The call that just ran, or that runs, has output for a connection other than its own: the
    /// connection, and its unsent bytes.
    Recorded = 17,
    /// Another thread has woken the loop: 0, and the number of its calls; none if it woke tasks.
    Woken = 18,
    /// Timed calls are made after their time: 0, and by how many microseconds the first one is late.
    Late = 19,
}

impl Kind {
    const ALL: [Kind; 19] = [
        Kind::Waited,
        Kind::Received,
        Kind::Wrote,
        Kind::Blocked,
        Kind::Accepted,
        Kind::Connected,
        Kind::Built,
        Kind::Ended,
        Kind::Failed,
        Kind::Room,
        Kind::Shut,
        Kind::Closed,
        Kind::Reading,
        Kind::Other,
        Kind::Call,
        Kind::Returned,
        Kind::Recorded,
        Kind::Woken,
        Kind::Late,
    ];

    /// The kind with this number.
    pub fn of(number: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(number.checked_sub(1)?)).copied()
    }

    /// Whether a callback of a connection begins: the event is delivered next.
    pub fn begins_callback(self) -> bool {
        matches!(self, Kind::Received | Kind::Built | Kind::Ended | Kind::Room)
    }
}

/// An event of a [`Ring`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// In ticks since the ring was made.
    pub time: u64,
    /// The kind.
    pub kind: Kind,
    /// The first number.
    pub key: u32,
    /// The second number.
    pub value: u32,
}

impl Record {
    /// The record in these [words] of a ring made at this tick; `None` if its kind is unknown.
    fn of([lower, upper, key, value]: Words, begun: u64) -> Option<Record> {
        let word = u64::from(upper) << u32::BITS | u64::from(lower);
        let since = word.wrapping_sub(begun.wrapping_sub(SKEW));
        let kind = Kind::of((since >> TIME_BITS) as u8)?;
        let time = (since & ((1 << TIME_BITS) - 1)).saturating_sub(SKEW);
        Some(Record { time, kind, key, value })
    }

    /// The ticks for which a [wait](Kind::Waited) took.
    pub fn slept(self) -> u64 {
        let units = u64::from(self.key) << 32 | u64::from(self.value);
        units.saturating_mul(SLEEP_UNIT)
    }
}

/// The words of an event: the two halves of its time, the upper one with the kind, and two numbers. The
/// kind is added, so that the time needs no mask: a reader subtracts the tick at which the ring was made.
#[inline(always)]
fn words(ticks: u64, kind: Kind, key: u32, value: u32) -> Words {
    let kind = (kind as u32) << (TIME_BITS - u32::BITS);
    [ticks as u32, ((ticks >> u32::BITS) as u32).wrapping_add(kind), key, value]
}

/// The ticks of a unit in which waits are counted.
pub(super) const SLEEP_UNIT: u64 = 64;

/// The last events of a loop.
pub struct Ring {
    slots: Slots,
    clock: Clock,
    names: Mutex<Names>,
    connections: Mutex<ConnectionLog>,
    contents: Option<Contents>,
}

/// The clock of a ring's ticks.
enum Clock {
    /// The processor's, with the ticks and the time at which the ring was made.
    Processor(u64, Instant),
    /// Nanoseconds since the ring was made at this time; `None`: in a simulated world.
    Nanoseconds(Option<Instant>),
}

/// The names of calls, and their numbers.
#[derive(Default)]
struct Names {
    list: Bounded<Vec<UserCall>, AtMost<NAMES>>,
    numbers: Bounded<SortedMap<UserCall, u32>, AtMost<NAMES>>,
}

impl Ring {
    /// A ring of at most `bytes` bytes, made at this tick and time, and the addresses of at most
    /// `connections` connections.
    pub fn new(bytes: usize, connections: usize, origin: (u64, Instant)) -> Ring {
        Ring::with(bytes, connections, Clock::Processor(origin.0, origin.1))
    }

    /// The same for ticks that are nanoseconds since the ring was made at this time; `None`: in a
    /// simulated world.
    pub fn in_nanoseconds(bytes: usize, connections: usize, made: Option<Instant>) -> Ring {
        Ring::with(bytes, connections, Clock::Nanoseconds(made))
    }

    fn with(bytes: usize, connections: usize, clock: Clock) -> Ring {
        let slots = Slots::new((bytes / size_of::<Words>()).max(2 * MARGIN as usize));
        let connections = Mutex::new(ConnectionLog::new(connections));
        Ring { slots, clock, names: Mutex::default(), connections, contents: None }
    }

    /// Sets where the first bytes of each chunk are kept.
    #[must_use]
    pub fn with_contents(self, contents: Option<Contents>) -> Ring {
        Ring { contents, ..self }
    }

    /// The first bytes of the last chunks, if they are kept.
    pub fn contents(&self) -> Option<&Contents> {
        self.contents.as_ref()
    }

    /// Writes an event. Only the loop's thread calls this.
    #[inline(always)]
    pub fn put(&self, ticks: u64, kind: Kind, key: u32, value: u32) {
        self.prepare(ticks, kind, key, value);
        self.publish();
    }

    /// Writes the next event, which counts after the next [`publish`](Self::publish).
    #[inline(always)]
    pub(super) fn prepare(&self, ticks: u64, kind: Kind, key: u32, value: u32) {
        self.slots.fill(words(ticks, kind, key, value));
    }

    /// Changes the kind and the second number of the prepared event.
    pub(super) fn amend(&self, kind: Kind, value: impl FnOnce(u32) -> u32) {
        if let Some(Record { time, key, value: begun, .. }) = self.copy(self.count()) {
            self.prepare(time.wrapping_add(self.begun()), kind, key, value(begun));
        }
    }

    /// Counts the event that was prepared last.
    #[inline(always)]
    pub(super) fn publish(&self) {
        self.slots.publish();
    }

    /// The number of a name; the same for equal names.
    pub(crate) fn name(&self, call: &UserCall) -> u32 {
        let names = &mut *self.names();
        if let Some(number) = names.numbers.get(call) {
            return *number;
        }
        let number = names.list.len() as u32;
        if !names.list.is_full() {
            names.list.edit().push(call.clone());
            names.numbers.edit().insert(call.clone(), number);
        }
        number
    }

    /// Changes the log of connections; `change` gets the ticks since the ring was made.
    pub(super) fn log(&self, ticks: u64, change: impl FnOnce(&mut ConnectionLog, u64)) {
        change(&mut self.connections(), ticks.wrapping_sub(self.begun()));
    }

    /// The logged connections that were open at this time or later, in the order of their making.
    pub fn connections_since(&self, time: u64) -> Vec<LoggedConnection> {
        self.connections().since(time)
    }

    fn connections(&self) -> MutexGuard<'_, ConnectionLog> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of calls from a number on. Numbers without a name are other calls.
    pub fn names_from(&self, number: usize) -> Vec<UserCall> {
        self.names().list.get(number..).unwrap_or_default().to_vec()
    }

    /// The number of events so far.
    pub fn count(&self) -> u64 {
        self.slots.count()
    }

    /// The number of the first event that is kept for certain.
    pub fn first(&self) -> u64 {
        self.first_kept(self.count())
    }

    /// The most events that it keeps.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Passes the events that are still kept, beginning with number `from`, to `each`, and returns the
    /// number of the next event. Events that are overwritten during the call are left out.
    pub fn read(&self, from: u64, mut each: impl FnMut(Record)) -> u64 {
        self.read_numbered(from, |_, record| each(record))
    }

    /// The same with the number of each event.
    pub fn read_numbered(&self, from: u64, mut each: impl FnMut(u64, Record)) -> u64 {
        /// Events that are copied at once.
        const BATCH: u64 = 1024;
        let end = self.count();
        let mut batch = Vec::with_capacity(BATCH as usize);
        let mut next = from.max(self.first_kept(end));
        while next < end {
            let until = end.min(next + BATCH);
            batch.extend((next..until).filter_map(|number| Some((number, self.copy(number)?))));
            // The copies are complete before the count is read again.
            fence(Ordering::Acquire);
            let first = self.first_kept(self.count());
            for (number, record) in batch.drain(..) {
                if number >= first {
                    each(number, record);
                }
            }
            next = until;
        }
        end
    }

    /// The number of the first event that is certainly kept.
    fn first_kept(&self, count: u64) -> u64 {
        (count + MARGIN).saturating_sub(self.slots.capacity() as u64)
    }

    fn copy(&self, number: u64) -> Option<Record> {
        Record::of(self.slots.copy(number), self.begun())
    }

    /// The ticks at which the ring was made.
    fn begun(&self) -> u64 {
        match self.clock {
            Clock::Processor(ticks, _) => ticks,
            Clock::Nanoseconds(_) => 0,
        }
    }

    /// The ticks since the ring was made.
    pub(crate) fn ticks_since_begin(&self, ticks: u64) -> u64 {
        ticks.wrapping_sub(self.begun())
    }

    /// The ticks after a time, or earlier while the ring is too young to measure its clock.
    pub(crate) fn ticks_after(&self, ticks: u64, now: Instant, wait: Duration) -> u64 {
        const SOON: u64 = 1_000_000;
        let (rate, made) = self.scale(now);
        let is_measured = match self.clock {
            Clock::Processor(..) => {
                now.saturating_duration_since(made) >= Duration::from_millis(10)
            }
            Clock::Nanoseconds(_) => true,
        };
        let wait = (rate * wait.as_secs_f64()) as u64;
        ticks.saturating_add(if is_measured { wait } else { SOON })
    }

    /// The ticks of a second, measured until now, and the time at which the ring was made: now, in a
    /// simulated world.
    pub fn scale(&self, now: Instant) -> (f64, Instant) {
        match self.clock {
            Clock::Processor(before, made) => {
                let passed = now.saturating_duration_since(made).max(Duration::from_nanos(1));
                (ticks().wrapping_sub(before) as f64 / passed.as_secs_f64(), made)
            }
            Clock::Nanoseconds(made) => (1e9, made.unwrap_or(now)),
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    fn ring(events: usize) -> Ring {
        Ring::new(16 * events, 10, (1000, Instant::now()))
    }

    fn all(ring: &Ring, from: u64) -> (Vec<u32>, u64) {
        let mut keys = Vec::new();
        let next = ring.read(from, |record| keys.push(record.key));
        (keys, next)
    }

    #[test]
    fn events_are_read_in_the_order_of_their_writing() {
        let ring = ring(64);
        assert_eq!(all(&ring, 0), (vec![], 0));
        ring.put(1005, Kind::Received, 7, 100);
        ring.put(1009, Kind::Wrote, 8, 200);
        let mut records = Vec::new();
        assert_eq!(ring.read(0, |record| records.push(record)), 2);
        let [first, second] = records[..] else { panic!("{records:?}") };
        assert_eq!(first, Record { time: 5, kind: Kind::Received, key: 7, value: 100 });
        assert_eq!(second, Record { time: 9, kind: Kind::Wrote, key: 8, value: 200 });
        assert_eq!(all(&ring, 2), (vec![], 2));
    }

    #[test]
    fn the_time_of_an_event_does_not_reach_its_kind() {
        for (begun, passed) in
            [(1000, 0), (u64::MAX, 5), (7 << TIME_BITS, (1 << TIME_BITS) - 2 * SKEW)]
        {
            let ring = Ring::new(0, 10, (begun, Instant::now()));
            ring.put(begun.wrapping_add(passed), Kind::Woken, 1, 2);
            ring.put(begun.wrapping_sub(100), Kind::Waited, 1, 2);
            let mut read = Vec::new();
            ring.read(0, |record| read.push((record.time, record.kind)));
            assert_eq!(read, [(passed, Kind::Woken), (0, Kind::Waited)], "made at {begun}");
        }
    }

    #[test]
    fn c184_memory_is_fixed_and_the_last_events_are_kept() {
        for bytes in [0, 1000, 16 * 1024, 20 * 1024] {
            let ring = Ring::new(bytes, 10, (0, Instant::now()));
            let most = ring.capacity();
            assert!(most.is_power_of_two() && most * 16 <= bytes.max(512), "{bytes}");
            for n in 0..10 * most as u32 {
                ring.put(0, Kind::Other, n, 0);
            }
            let (kept, next) = all(&ring, 0);
            assert_eq!(next, 10 * most as u64);
            let first = 9 * most as u32 + MARGIN as u32;
            assert_eq!(kept, (first..10 * most as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ten_million_events_need_no_more_memory() {
        let ring = ring(1024);
        for n in 0..10_000_000_u32 {
            ring.put(u64::from(n), Kind::Other, n, 0);
        }
        assert_eq!(ring.capacity(), 1024);
        assert_eq!(all(&ring, 0).0.last(), Some(&9_999_999));
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        for kind in Kind::ALL {
            let ring = ring(64);
            ring.put(1000, kind, u32::MAX, u32::MAX);
            ring.read(0, |record| assert_eq!((record.kind, record.value), (kind, u32::MAX)));
        }
    }

    #[test]
    fn c184_a_reader_in_another_thread_gets_no_mixed_event() {
        let ring = std::sync::Arc::new(ring(64));
        let written = ring.clone();
        let writer = std::thread::spawn(move || {
            for n in 0..200_000_u32 {
                written.put(1000 + u64::from(n), Kind::Other, n, !n);
            }
        });
        let mut from = 0;
        while !writer.is_finished() {
            let mut last = None;
            from = ring.read(from, |record| {
                assert_eq!(record.value, !record.key);
                assert_eq!(record.time, u64::from(record.key));
                assert!(last < Some(record.key), "in order");
                last = Some(record.key);
            });
        }
        writer.join().expect("no panic");
    }

    #[test]
    fn equal_names_have_one_number() {
        let ring = ring(64);
        let (a, b) = (UserCall::kind("a"), UserCall::by("a", "B"));
        assert_eq!((ring.name(&a), ring.name(&b)), (0, 1));
        assert_eq!((ring.name(&a), ring.name(&b)), (0, 1));
        assert_eq!(ring.names_from(0).len(), 2);
    }

    #[test]
    fn names_are_bounded() {
        let ring = ring(64);
        let name =
            |n: usize| UserCall { name: Some(n.to_string().into()), ..UserCall::kind("task") };
        for n in 0..NAMES {
            assert_eq!(ring.name(&name(n)), n as u32);
        }
        assert_eq!(ring.name(&name(NAMES)), NAMES as u32);
        assert_eq!(ring.name(&name(0)), 0);
        assert_eq!(ring.names_from(0).len(), NAMES);
        assert_eq!(ring.names_from(NAMES + 1).len(), 0);
    }
}
