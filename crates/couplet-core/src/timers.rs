//! The timer store: which values come due when, and in which order.
//!
//! Time is passed in; nothing here reads a clock or depends on the loop. Equal deadlines come
//! due in the order of the requests, a request after a [`Seq`] waits for a later one, and moving a
//! deadline later costs next to nothing. Unlike in Twisted's `_pendingTimedCalls`, a cancelled call
//! leaves the store immediately.
//!
//! A deadline is first sorted coarsely into a wheel: eight levels of 64 slots, where a slot of the
//! lowest level is a tick (about a millisecond) and a slot of any other is as wide as the level
//! below it. When the time of a slot comes, its entries move to finer slots or, once their tick has
//! come, into a small heap, the only place that keeps their exact order. So an insert or a cancel costs
//! a few link updates, however many timers there are, and only nearly due timers are ever compared.
//!
//! Contract: 87, 88, 91, 94.

use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use crate::slots::{Key, Slots};

const TICK_BITS: u32 = 20;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough for every tick that a [`Due`] can have.
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(SLOT_BITS) as usize;
/// One more slot, outside the wheel: due entries that wait for a later seq.
const PARKED: usize = LEVELS * SLOTS;
/// Children per node of the heap: their keys fit in two cache lines.
const ARITY: usize = 4;
/// In place of an entry's index: ends every list.
const NONE: u32 = u32::MAX;

/// `at + delay`, or, on overflow, a time further away than any wait.
pub(crate) fn after(at: Instant, delay: Duration) -> Instant {
    const CENTURIES: Duration = Duration::from_secs(500 * 365 * 24 * 3600);
    at.checked_add(delay).or_else(|| at.checked_add(CENTURIES)).unwrap_or(at)
}

/// Values that come due, each at its deadline.
///
/// Takes 32 bytes plus the size of a `T` for each outstanding value, 24 more while the value is
/// nearly due, and 12 KiB for itself. Memory is kept for reuse.
pub(crate) struct Timers<T> {
    origin: Instant,
    entries: Slots<Entry<T>>,
    /// The number of inserts and resets so far.
    sequence: u64,
    /// The current tick. INVARIANT: entries due in this tick or before are in the heap (or parked);
    /// later ones are in the wheel, or in the heap under an earlier deadline that they once had.
    current: u64,
    heap: Vec<Node>,
    slots: Vec<List>,
    /// A bit for each slot that is not empty, a word for each level and one for [`PARKED`].
    occupied: [u64; LEVELS + 1],
    /// INVARIANT: parked entries were requested after this seq.
    parked_after: Seq,
    /// The cached result of [`next_deadline`](Timers::next_deadline), which a busy loop calls in
    /// every turn. INVARIANT: it is not after the first deadline, and `at` is `Some` exactly when
    /// values are outstanding.
    next: Option<Next>,
}

/// When to check for due values again.
#[derive(Clone, Copy)]
struct Next {
    due: Option<Due>,
    at: Option<Instant>,
}

/// Identifies a value in a [`Timers`]. Never reused once the value is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimerKey(Key);

impl TimerKey {
    pub(crate) fn number(self) -> u64 {
        self.0.number()
    }
}

/// A point in the sequence of requests: every insert and reset comes before it or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seq(u64);

impl<T> Timers<T> {
    /// An empty store. Deadlines are kept as offsets from `origin`, usually the time of the start.
    pub(crate) fn new(origin: Instant) -> Self {
        Self {
            origin,
            entries: Slots::new(),
            sequence: 0,
            current: 0,
            heap: Vec::new(),
            slots: vec![List::EMPTY; PARKED + 1],
            occupied: [0; LEVELS + 1],
            parked_after: Seq(0),
            next: None,
        }
    }

    /// Keeps `value` until `deadline`, which may lie in the past.
    ///
    /// # Panics
    ///
    /// With more than four billion values outstanding.
    pub(crate) fn insert(&mut self, deadline: Instant, value: T) -> TimerKey {
        let due = self.take_next_due(deadline);
        let position = Position::Heap { index: NONE };
        let key = self.entries.insert(Entry { due, position, value });
        self.place(key.slot, due);
        self.update_next(due, deadline);
        TimerKey(key)
    }

    /// Removes a value before its deadline, along with everything that refers to it.
    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.remove(key.0)?;
        self.next = None;
        self.displace(entry.position);
        Some(entry.value)
    }

    /// Moves the deadline; returns false if the value is no longer there.
    ///
    /// Counts as a new request: among equal deadlines the value now comes last. Moving later only
    /// stores the new time: the entry is sorted again when its old time comes.
    pub(crate) fn reset(&mut self, key: TimerKey, deadline: Instant) -> bool {
        let due = self.next_due(deadline);
        let Some(entry) = self.entries.get_mut(key.0) else {
            return false;
        };
        self.sequence += 1;
        let old = mem::replace(&mut entry.due, due);
        let position = entry.position;
        self.next = None;
        if due < old {
            self.displace(position);
            self.place(key.0.slot, due);
        }
        true
    }

    /// The deadline, as last set.
    pub(crate) fn deadline(&self, key: TimerKey) -> Option<Instant> {
        Some(self.entries.get(key.0)?.due.deadline(self.origin))
    }

    /// Whether the value is still there.
    pub(crate) fn contains(&self, key: TimerKey) -> bool {
        self.entries.get(key.0).is_some()
    }

    /// When to check for due values again; `None` when nothing is outstanding.
    ///
    /// Never later than the earliest deadline, and usually exactly that. If the earliest entry of a
    /// slot was removed or moved later, it may be that entry's former time. Waking up for it and
    /// calling [`pop_due`](Self::pop_due) sorts that slot, so it is not returned again.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        match self.next {
            Some(next) => next.at,
            None => self.find_next(),
        }
    }

    /// [`next_deadline`](Self::next_deadline) without the cache.
    #[cold]
    fn find_next(&mut self) -> Option<Instant> {
        self.empty(PARKED);
        let due = match self.nearest() {
            Some(node) => Some(node.due),
            None => self.first_slot().map(|(slot, _)| self.slots[slot].least),
        };
        let at = due.map(|due| due.deadline(self.origin));
        self.next = Some(Next { due, at });
        at
    }

    /// Updates the cached next deadline for a new one.
    #[inline]
    fn update_next(&mut self, due: Due, at: Instant) {
        if let Some(next) = &mut self.next
            && next.due.is_none_or(|first| due < first)
        {
            *next = Next { due: Some(due), at: Some(at) };
        }
    }

    /// Takes out the first value, in the order of (deadline, request), whose deadline is not after
    /// `now` and whose request precedes the seq.
    pub(crate) fn pop_due(&mut self, now: Instant, before: Seq) -> Option<T> {
        let first = self.first_due(now, before)?;
        self.remove_node(0);
        self.take(first)
    }

    /// [`pop_due`](Self::pop_due), but takes any of the values with the first deadline: `pick` gets
    /// their number and returns an index.
    pub(crate) fn pop_any_due(
        &mut self,
        now: Instant,
        before: Seq,
        pick: impl FnOnce(usize) -> usize,
    ) -> Option<T> {
        let first = self.first_due(now, before)?;
        let is_due = |node: &Node| {
            let is_current = self.entries.at(node.entry).is_some_and(|entry| entry.due == node.due);
            node.due.nanos == first.due.nanos && node.due.sequence < before.0 && is_current
        };
        let due: Vec<_> = (0..self.heap.len()).filter(|at| is_due(&self.heap[*at])).collect();
        let index = due[pick(due.len())];
        let node = self.heap[index];
        self.remove_node(index);
        self.take(node)
    }

    fn take(&mut self, Node { entry, .. }: Node) -> Option<T> {
        self.entries.remove(self.entries.key_at(entry)).map(|entry| entry.value)
    }

    /// Whether [`pop_due`](Self::pop_due) would take out a value.
    pub(crate) fn has_due(&mut self, now: Instant, before: Seq) -> bool {
        self.first_due(now, before).is_some()
    }

    /// The node that [`pop_due`](Self::pop_due) takes, which is the first of the heap.
    fn first_due(&mut self, now: Instant, before: Seq) -> Option<Node> {
        self.next = None;
        let last = Due::last_at(self.origin, now);
        self.advance(last.tick());
        if before > self.parked_after {
            self.empty(PARKED);
        }
        while let Some(node @ Node { due, entry }) = self.nearest()
            && due <= last
        {
            if due.sequence < before.0 {
                return Some(node);
            }
            if due.nanos == last.nanos {
                // All other due entries have the same deadline, and later requests.
                return None;
            }
            self.remove_node(0);
            self.link(PARKED, entry, due);
            self.parked_after = before;
        }
        None
    }

    /// The current point in the sequence of requests.
    pub(crate) fn seq(&self) -> Seq {
        Seq(self.sequence)
    }

    /// The number of outstanding values.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is outstanding.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// Takes out all values, in no particular order.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.entries.keys().into_iter().filter_map(|key| self.remove(TimerKey(key))).collect()
    }

    /// All values with their deadlines, in no particular order, but deterministic.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Instant, &T)> {
        self.entries.iter().map(|(_, entry)| (entry.due.deadline(self.origin), &entry.value))
    }

    fn take_next_due(&mut self, deadline: Instant) -> Due {
        let due = self.next_due(deadline);
        self.sequence += 1;
        due
    }

    fn next_due(&self, deadline: Instant) -> Due {
        Due::new(self.origin, deadline, self.sequence)
    }
}

struct Entry<T> {
    due: Due,
    position: Position,
    value: T,
}

/// The position of an entry, which allows its removal without a search.
#[derive(Clone, Copy, Debug)]
enum Position {
    Heap { index: u32 },
    List { slot: u16, previous: u32, next: u32 },
}

/// Entries and their positions.
impl<T> Timers<T> {
    fn entry(&mut self, entry: u32) -> &mut Entry<T> {
        self.entries.at_mut(entry).expect("a listed entry is occupied")
    }

    fn place(&mut self, entry: u32, due: Due) {
        if due.tick() <= self.current {
            self.insert_node(Node { due, entry });
        } else {
            self.link(self.slot_of(due), entry, due);
        }
    }

    fn displace(&mut self, position: Position) {
        match position {
            Position::Heap { index } => self.remove_node(index as usize),
            Position::List { slot, previous, next } => self.unlink(slot as usize, previous, next),
        }
    }
}

/// An unordered list of entries.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    /// If the list is not empty, none of its entries is due before this.
    least: Due,
}

impl List {
    const EMPTY: Self = Self { first: NONE, least: Due { nanos: 0, sequence: 0 } };
}

/// The wheel.
///
/// INVARIANT: an entry's level is the level of the highest digit (of [`SLOT_BITS`]) in which its
/// tick, when it was linked, differed from `current`, and its slot is that digit. `current` never
/// passes the start of a slot without emptying it; so this stays true, and the first slot of the
/// lowest level in use is the earliest.
impl<T> Timers<T> {
    fn slot_of(&self, due: Due) -> usize {
        let tick = due.tick();
        let level = (tick ^ self.current).ilog2() / SLOT_BITS;
        let digit = tick >> (level * SLOT_BITS) & (SLOTS as u64 - 1);
        level as usize * SLOTS + digit as usize
    }

    /// The earliest non-empty slot, and the tick at which it starts.
    fn first_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied[..LEVELS].iter().position(|&slots| slots != 0)?;
        let digit = self.occupied[level].trailing_zeros();
        let low = level as u32 * SLOT_BITS;
        let high = low + SLOT_BITS;
        let start = self.current >> high << high | u64::from(digit) << low;
        Some((level * SLOTS + digit as usize, start))
    }

    /// Moves entries due by the end of `tick` into the heap.
    fn advance(&mut self, tick: u64) {
        if tick <= self.current {
            return;
        }
        while let Some((slot, start)) = self.first_slot()
            && start <= tick
        {
            self.current = start;
            self.empty(slot);
        }
        self.current = tick;
    }

    /// Empties a slot, and sorts its entries again.
    fn empty(&mut self, slot: usize) {
        self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        let mut next = mem::replace(&mut self.slots[slot].first, NONE);
        while let Some(entry) = self.entries.at(next)
            && let Position::List { next: after, .. } = entry.position
        {
            let due = entry.due;
            self.place(mem::replace(&mut next, after), due);
        }
    }

    fn link(&mut self, slot: usize, entry: u32, due: Due) {
        self.occupied[slot / SLOTS] |= 1 << (slot % SLOTS);
        let List { first, least } = &mut self.slots[slot];
        let next = mem::replace(first, entry);
        if next == NONE || due < *least {
            *least = due;
        }
        self.set_previous(next, entry);
        let slot = slot as u16;
        self.entry(entry).position = Position::List { slot, previous: NONE, next };
    }

    fn unlink(&mut self, slot: usize, previous: u32, next: u32) {
        self.set_previous(next, previous);
        if let Some(entry) = self.entries.at_mut(previous) {
            if let Position::List { next: after, .. } = &mut entry.position {
                *after = next;
            }
            return;
        }
        self.slots[slot].first = next;
        if next == NONE {
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        }
    }

    fn set_previous(&mut self, entry: u32, to: u32) {
        if let Some(entry) = self.entries.at_mut(entry)
            && let Position::List { previous, .. } = &mut entry.position
        {
            *previous = to;
        }
    }
}

/// An entry in the heap.
///
/// INVARIANT: `due` is not after the entry's own, which may have moved later since.
#[derive(Clone, Copy)]
struct Node {
    due: Due,
    entry: u32,
}

/// The heap. Entries know their index in it.
impl<T> Timers<T> {
    /// The first entry in the heap; entries that have moved later are put where they belong first.
    fn nearest(&mut self) -> Option<Node> {
        loop {
            let node = *self.heap.first()?;
            let due = self.entry(node.entry).due;
            if due == node.due {
                return Some(node);
            }
            self.remove_node(0);
            self.place(node.entry, due);
        }
    }

    fn insert_node(&mut self, node: Node) {
        self.heap.push(node);
        self.raise(self.heap.len() - 1, node);
    }

    fn remove_node(&mut self, index: usize) {
        let Some(last) = self.heap.pop() else { return };
        if index < self.heap.len() {
            // The last node belongs near the bottom, so sinking the gap is cheaper than sinking it.
            let gap = self.sink_gap(index);
            self.raise(gap, last);
        }
    }

    /// Moves the gap down, filling it with its least child each time; returns its final index.
    fn sink_gap(&mut self, mut gap: usize) -> usize {
        loop {
            let first = gap * ARITY + 1;
            let children = first..self.heap.len().min(first + ARITY);
            let least = |a: usize, b: usize| {
                if self.heap[b].due < self.heap[a].due { b } else { a }
            };
            let Some(child) = children.reduce(least) else {
                return gap;
            };
            self.put(gap, self.heap[child]);
            gap = child;
        }
    }

    /// Puts the node into the gap, or above it where it belongs.
    fn raise(&mut self, mut gap: usize, node: Node) {
        while gap > 0 {
            let parent = (gap - 1) / ARITY;
            if self.heap[parent].due <= node.due {
                break;
            }
            self.put(gap, self.heap[parent]);
            gap = parent;
        }
        self.put(gap, node);
    }

    fn put(&mut self, index: usize, node: Node) {
        self.heap[index] = node;
        self.entry(node.entry).position = Position::Heap { index: index as u32 };
    }
}

/// An [`Instant`] in eight bytes: nanoseconds since [`ORIGIN`](Self::ORIGIN), which means an
/// instant that the holder knows.
///
/// Times more than 36 years before that instant or 548 after it are clamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Moment {
    /// The origin, chosen so that earlier times can be represented.
    const ORIGIN: u64 = 1 << 60;

    #[inline]
    pub(crate) fn new(origin: Instant, at: Instant) -> Moment {
        let nanos = |distance: Duration| u64::try_from(distance.as_nanos()).unwrap_or(u64::MAX);
        Moment(match at.checked_duration_since(origin) {
            Some(after) => Self::ORIGIN.saturating_add(nanos(after)),
            None => Self::ORIGIN.saturating_sub(nanos(origin.duration_since(at))),
        })
    }

    pub(crate) fn instant(self, origin: Instant) -> Instant {
        let distance = Duration::from_nanos(self.0.abs_diff(Self::ORIGIN));
        // In range: between the origin and a given `Instant`.
        if self.0 < Self::ORIGIN { origin - distance } else { origin + distance }
    }
}

/// A deadline and the rank among equal ones, as one number of 128 bits, compared without a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    /// A [`Moment`].
    nanos: u64,
    /// The number of the request.
    sequence: u64,
}

impl Due {
    #[inline]
    fn new(origin: Instant, at: Instant, sequence: u64) -> Self {
        Self { nanos: Moment::new(origin, at).0, sequence }
    }

    /// The greatest value that is due at `now`.
    fn last_at(origin: Instant, now: Instant) -> Self {
        Self::new(origin, now, u64::MAX)
    }

    fn whole(self) -> u128 {
        u128::from(self.nanos) << 64 | u128::from(self.sequence)
    }

    /// Ticks since the origin; earlier times count as its first tick.
    fn tick(self) -> u64 {
        self.nanos.saturating_sub(Moment::ORIGIN) >> TICK_BITS
    }

    fn deadline(self, origin: Instant) -> Instant {
        Moment(self.nanos).instant(origin)
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.whole().cmp(&other.whole())
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> fmt::Debug for Timers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
