//! Tests contract 86 to 95 as far as they concern a timer store, and compares the store with a
//! model after any sequence of operations.

#![expect(clippy::disallowed_methods, reason = "virtual time needs a starting point")]

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(31_557_600);

/// Pops everything due at `now` that was requested so far.
fn pop_all<T>(timers: &mut Timers<T>, now: Instant) -> Vec<T> {
    let seq = timers.seq();
    std::iter::from_fn(|| timers.pop_due(now, seq)).collect()
}

/// The last time that the platform can represent.
fn end_of_time(start: Instant) -> Instant {
    (0..64).rev().fold(start, |at, bit| at.checked_add(Duration::from_secs(1 << bit)).unwrap_or(at))
}

fn store<T>() -> (Timers<T>, Instant) {
    let start = Instant::now();
    (Timers::new(start), start)
}

// 86, 87

#[test]
fn a_new_call_in_the_past_does_not_hold_up_older_due_ones() {
    let (mut timers, start) = store();
    let now = start + SECOND;
    timers.insert(start + MS * 20, 'b');
    timers.insert(start + MS * 10, 'a');
    timers.insert(start + MS * 30, 'c');
    let seq = timers.seq();
    assert_eq!(timers.pop_due(now, seq), Some('a'));
    timers.insert(start, 'x');
    let cancelled = timers.insert(start, 'y');
    timers.insert(start + MS * 25, 'z');
    assert_eq!(timers.pop_due(now, seq), Some('b'));
    assert_eq!(
        timers.parked_after, seq,
        "they are parked until the next turn, not checked at every call"
    );
    assert_eq!(timers.remove(cancelled), Some('y'));
    assert_eq!(timers.pop_due(now, seq), Some('c'));
    assert_eq!(timers.pop_due(now, seq), None);
    assert_eq!(timers.len(), 2);
    assert_eq!(timers.next_deadline(), Some(start));
    assert_eq!(pop_all(&mut timers, now), ['x', 'z']);
}

// 88

#[test]
fn a_call_never_comes_a_nanosecond_early() {
    let nanosecond = Duration::from_nanos(1);
    for delay in [nanosecond, MS, SECOND * 60 + nanosecond, YEAR * 500 + nanosecond] {
        let (mut timers, start) = store();
        timers.insert(start + delay, ());
        assert_eq!(timers.next_deadline(), Some(start + delay));
        assert_eq!(pop_all(&mut timers, start + delay - nanosecond), []);
        assert_eq!(timers.next_deadline(), Some(start + delay));
        assert_eq!(pop_all(&mut timers, start + delay), [()]);
    }
}

// 90, 93

#[test]
fn a_key_takes_eight_bytes_and_an_entry_forty_eight() {
    assert_eq!(size_of::<Option<TimerKey>>(), 8);
    assert_eq!(size_of::<Entry<Box<dyn FnOnce()>>>(), 48);
    assert_eq!(size_of::<Node>(), 24);
    assert!(size_of::<List>() * (PARKED + 1) < 14 * 1024);
}

// 91, 92

#[test]
fn moving_later_leaves_the_entry_where_it_is() {
    for delay in [Duration::ZERO, SECOND] {
        let (mut timers, start) = store();
        let key = timers.insert(start + delay, 'a');
        let place = format!("{:?}", timers.entries.at(0).map(|entry| entry.position));
        for n in 1..1_000 {
            assert!(timers.reset(key, start + delay + SECOND * n));
        }
        assert_eq!(format!("{:?}", timers.entries.at(0).map(|entry| entry.position)), place);
        assert_eq!(timers.deadline(key), Some(start + delay + SECOND * 999));
        assert_eq!(pop_all(&mut timers, start + SECOND * 999 + delay - MS), [] as [char; 0]);
        assert_eq!(pop_all(&mut timers, start + SECOND * 999 + delay), ['a']);
    }
}

// 94

#[test]
fn no_deadline_is_too_far() {
    let (mut timers, start) = store();
    let end = end_of_time(start);
    let key = timers.insert(end, 'z');
    timers.insert(start + SECOND, 'a');
    assert!(timers.deadline(key).unwrap() <= end);
    assert!(timers.deadline(key).unwrap() >= end.min(start + YEAR * 500));
    assert_eq!(pop_all(&mut timers, start + YEAR * 10), ['a']);
    assert!(timers.next_deadline().unwrap() <= end);
    assert!(timers.reset(key, start + YEAR * 11));
    assert!(timers.reset(key, end));
    assert_eq!(pop_all(&mut timers, start + YEAR * 12), [] as [char; 0]);
    assert_eq!(pop_all(&mut timers, end), ['z']);
}

// 95

#[test]
fn a_jump_of_ten_years_brings_all_in_order() {
    let (mut timers, start) = store();
    let mut expected: Vec<_> = (0..10_000_u64)
        .map(|n| Duration::from_nanos(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (1 << 58)))
        .collect();
    for &delay in &expected {
        timers.insert(start + delay, delay);
    }
    timers.insert(start + YEAR * 11, YEAR * 11);
    expected.sort();
    assert_eq!(pop_all(&mut timers, start + YEAR * 10), expected);
    assert_eq!(timers.next_deadline(), Some(start + YEAR * 11));
}

// The order of calls in a world that explores it

#[test]
fn any_of_the_calls_with_the_first_deadline_may_come_and_no_other() {
    let (mut timers, start) = store();
    let (due, nanosecond) = (start + MS * 10, Duration::from_nanos(1));
    let keys = ['a', 'b', 'c', 'd'].map(|name| timers.insert(due, name));
    timers.insert(due + nanosecond, 'z');
    // All are in the heap now, and one of them moves later there.
    assert!(!timers.has_due(due - nanosecond, timers.seq()));
    assert!(timers.reset(keys[1], due + SECOND));
    let seq = timers.seq();
    timers.insert(due, 'x');
    let mut take_all = |now, seq| {
        let (mut taken, mut counts) = (Vec::new(), Vec::new());
        while let Some(name) = timers.pop_any_due(now, seq, |count| {
            counts.push(count);
            count - 1
        }) {
            taken.push(name);
        }
        taken.sort_unstable();
        (taken, counts)
    };
    assert_eq!(take_all(due, seq), (vec!['a', 'c', 'd'], vec![3, 2, 1]));
    let later = Seq(seq.0 + 1);
    assert_eq!(take_all(due + nanosecond, later), (vec!['x', 'z'], vec![1, 1]));
    assert_eq!(take_all(due + SECOND, later), (vec!['b'], vec![1]));
    assert_bare(&timers);
}

// Leaks and costs

/// Asserts that nothing refers to an entry.
fn assert_bare<T>(timers: &Timers<T>) {
    assert_sound(timers);
    assert!(timers.is_empty() && timers.heap.is_empty());
    assert_eq!(timers.occupied, [0; LEVELS + 1]);
}

#[test]
fn a_million_cancelled_calls_leave_nothing_behind() {
    let (mut timers, start) = store();
    let stays = timers.insert(start + SECOND * 30, 0);
    let mut keys = std::collections::VecDeque::new();
    for n in 0..1_000_000_u32 {
        // Alternately in the heap, in the past, and in each of several levels.
        let delay = [Duration::ZERO, MS * 2, SECOND, SECOND * 90, YEAR][n as usize % 5];
        keys.push_back(timers.insert(start + delay, n));
        if n % 3 == 0 {
            timers.reset(keys[keys.len() / 2], start + SECOND * 60);
        }
        if keys.len() > 100 {
            let key = if n % 2 == 0 { keys.pop_front() } else { keys.pop_back() };
            assert!(timers.remove(key.unwrap()).is_some());
        }
    }
    assert!(timers.entries.keys().iter().all(|key| key.slot < 128));
    assert!(timers.heap.capacity() <= 128);
    for key in keys {
        assert!(timers.remove(key).is_some());
    }
    assert_eq!(timers.next_deadline(), Some(start + SECOND * 30));
    assert_eq!(timers.remove(stays), Some(0));
    assert_bare(&timers);
}

#[test]
fn an_idle_timeout_that_is_moved_a_million_times_stays_one_entry() {
    let (mut timers, start) = store();
    let key = timers.insert(start, ());
    for n in 0..1_000_000 {
        let now = start + MS * n;
        assert!(timers.reset(key, now + SECOND));
        if n % 100 == 0 {
            assert_eq!(timers.pop_due(now, timers.seq()), None);
        }
    }
    assert_eq!((timers.entries.len(), timers.heap.capacity() <= 4), (1, true));
    assert_eq!(timers.remove(key), Some(()));
    assert_bare(&timers);
}

#[test]
fn a_million_outstanding_calls_come_in_order() {
    let (mut timers, start) = store();
    for n in 0..1_000_000_u64 {
        let delay = Duration::from_micros(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60_000_000);
        timers.insert(start + delay, (delay, n));
    }
    let mut last = (Duration::ZERO, 0);
    for second in 1..=60 {
        for next in pop_all(&mut timers, start + SECOND * second) {
            assert!(last <= next && next.0 <= SECOND * second);
            last = next;
        }
    }
    assert_bare(&timers);
}

// next_deadline

#[test]
fn the_next_deadline_is_exact_while_nothing_is_cancelled() {
    let (mut timers, start) = store();
    let mut delays: Vec<_> = (0..500_u64).map(|n| MS * (n as u32 * 7_919 % 100_003)).collect();
    for &delay in &delays {
        timers.insert(start + delay, delay);
    }
    delays.sort();
    for delay in delays {
        assert_eq!(timers.next_deadline(), Some(start + delay));
        assert_eq!(pop_all(&mut timers, start + delay), [delay]);
    }
}

#[test]
fn a_cancelled_call_wakes_at_most_once_and_only_for_one_that_shares_its_slot() {
    let (mut timers, start) = store();
    let cancelled = timers.insert(start + SECOND * 3600, 'x');
    let real = start + SECOND * 3601;
    timers.insert(real, 'a');
    timers.remove(cancelled);
    let early = timers.next_deadline().unwrap();
    assert!(early <= real);
    assert_eq!(pop_all(&mut timers, early), [] as [char; 0]);
    assert_eq!(timers.next_deadline(), Some(real));
}

// The model

#[derive(Clone, Debug)]
enum Step {
    Insert(Shift),
    Remove(usize),
    Reset(usize, Shift),
    /// Moves relative to the present deadline, independently of the clock.
    Delay(usize, Shift),
    Advance(Duration),
    Seq,
    /// Pops with one of the seqs taken so far, at a time that may be before the clock's.
    Pop(usize, Duration),
    PopAll,
    TakeAll,
    NextDeadline,
}

/// A deadline relative to the model's clock.
#[derive(Clone, Copy, Debug)]
enum Shift {
    Ahead(Duration),
    Back(Duration),
}

impl Shift {
    fn from(self, now: Instant) -> Instant {
        match self {
            Self::Ahead(by) => now.checked_add(by).unwrap_or(now),
            Self::Back(by) => now.checked_sub(by).unwrap_or(now),
        }
    }
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        3 => (0..3_u64).prop_map(Duration::from_nanos),
        2 => (0..5_u64).prop_map(|n| MS * n as u32),
        3 => (0..100_000_000_u64).prop_map(Duration::from_nanos),
        3 => (0..70_000_000_000_u64).prop_map(Duration::from_nanos),
        2 => (0..100_000_u64).prop_map(Duration::from_secs),
        1 => (0..500_u32).prop_map(|n| YEAR * n),
        // Near the limits of a `Due`, and beyond them.
        1 => (30..700_u32).prop_map(|n| YEAR * n),
        1 => any::<u64>().prop_map(Duration::from_nanos),
    ]
}

fn shift() -> impl Strategy<Value = Shift> {
    prop_oneof![6 => duration().prop_map(Shift::Ahead), 1 => duration().prop_map(Shift::Back)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => shift().prop_map(Step::Insert),
        3 => any::<usize>().prop_map(Step::Remove),
        5 => (any::<usize>(), shift()).prop_map(|(which, to)| Step::Reset(which, to)),
        2 => (any::<usize>(), shift()).prop_map(|(which, by)| Step::Delay(which, by)),
        4 => duration().prop_map(Step::Advance),
        2 => Just(Step::Seq),
        6 => (any::<usize>(), prop_oneof![3 => Just(Duration::ZERO), 1 => duration()])
            .prop_map(|(seq, back)| Step::Pop(seq, back)),
        1 => Just(Step::PopAll),
        1 => Just(Step::TakeAll),
        2 => Just(Step::NextDeadline),
    ]
}

/// The store next to its model, a list that is searched linearly.
struct Model {
    timers: Timers<usize>,
    now: Instant,
    /// The first and the last deadline that the store distinguishes from others.
    told_apart: (Instant, Instant),
    sequence: u64,
    /// The outstanding values: (deadline, sequence, value). A value is an index into `keys`.
    list: Vec<(Instant, u64, usize)>,
    /// Every key ever created.
    keys: Vec<TimerKey>,
    seqs: Vec<(Seq, u64)>,
}

impl Model {
    fn new() -> Self {
        let (timers, now) = store();
        let seqs = vec![(timers.seq(), 0)];
        let before = Duration::from_nanos(Moment::ORIGIN);
        let after = Duration::from_nanos(u64::MAX - Moment::ORIGIN);
        let told_apart = (now - before, now + after);
        Self { timers, now, told_apart, sequence: 0, list: Vec::new(), keys: Vec::new(), seqs }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Insert(to) => {
                let deadline = self.deadline(to, self.now);
                let value = self.keys.len();
                self.keys.push(self.timers.insert(deadline, value));
                self.list.push((deadline, self.sequence, value));
                self.sequence += 1;
            }
            Step::Remove(which) => self.remove(which),
            Step::Reset(which, to) => self.reset(which, self.deadline(to, self.now)),
            Step::Delay(which, by) => self.delay(which, by),
            Step::Advance(by) => self.now = self.now.checked_add(by).unwrap_or(self.now),
            Step::Seq => self.seqs.push((self.timers.seq(), self.sequence)),
            Step::Pop(seq, back) => {
                let seq = self.seqs[seq % self.seqs.len()];
                self.pop(self.deadline(Shift::Back(back), self.now), seq);
            }
            Step::PopAll => self.pop_all(),
            Step::TakeAll => self.take_all(),
            Step::NextDeadline => {
                let next = self.timers.next_deadline();
                assert_eq!(next.is_none(), self.list.is_empty());
                assert!(next <= self.list.iter().min().map(|first| first.0));
            }
        }
    }

    /// A time that the store distinguishes from others.
    fn deadline(&self, shift: Shift, from: Instant) -> Instant {
        shift.from(from).clamp(self.told_apart.0, self.told_apart.1)
    }

    fn remove(&mut self, which: usize) {
        let Some(value) = which.checked_rem(self.keys.len()) else {
            return;
        };
        let at = self.list.iter().position(|entry| entry.2 == value);
        let expected = at.map(|at| self.list.remove(at).2);
        assert_eq!(self.timers.remove(self.keys[value]), expected);
    }

    fn reset(&mut self, which: usize, deadline: Instant) {
        let Some(value) = which.checked_rem(self.keys.len()) else {
            return;
        };
        let entry = self.list.iter_mut().find(|entry| entry.2 == value);
        assert_eq!(self.timers.reset(self.keys[value], deadline), entry.is_some());
        if let Some(entry) = entry {
            *entry = (deadline, self.sequence, value);
            self.sequence += 1;
        }
    }

    /// Does the same as `DelayedCall::delay_by`.
    fn delay(&mut self, which: usize, by: Shift) {
        let key = which.checked_rem(self.keys.len()).map(|value| self.keys[value]);
        if let Some(deadline) = key.and_then(|key| self.timers.deadline(key)) {
            self.reset(which, self.deadline(by, deadline));
        }
    }

    fn take_all(&mut self) {
        let mut taken = self.timers.take_all();
        taken.sort_unstable();
        let mut expected: Vec<_> = self.list.drain(..).map(|entry| entry.2).collect();
        expected.sort_unstable();
        assert_eq!(taken, expected);
    }

    fn pop(&mut self, now: Instant, (seq, sequence): (Seq, u64)) -> bool {
        let due = self.list.iter().filter(|entry| entry.0 <= now && entry.1 < sequence);
        let expected = due.min().copied();
        self.list.retain(|&entry| Some(entry) != expected);
        assert_eq!(self.timers.pop_due(now, seq), expected.map(|entry| entry.2));
        expected.is_some()
    }

    fn pop_all(&mut self) {
        let seq = (self.timers.seq(), self.sequence);
        while self.pop(self.now, seq) {}
    }

    fn assert_agrees(&self) {
        assert_sound(&self.timers);
        assert_eq!(self.timers.len(), self.list.len());
        assert_eq!(self.timers.is_empty(), self.list.is_empty());
        for (value, &key) in self.keys.iter().enumerate() {
            let entry = self.list.iter().find(|entry| entry.2 == value);
            assert_eq!(self.timers.deadline(key), entry.map(|entry| entry.0));
            assert_eq!(self.timers.contains(key), entry.is_some());
        }
        let mut shown: Vec<_> = self.timers.iter().map(|(at, &value)| (at, value)).collect();
        let mut expected: Vec<_> = self.list.iter().map(|entry| (entry.0, entry.2)).collect();
        shown.sort();
        expected.sort();
        assert_eq!(shown, expected);
    }

    /// Sleeps from deadline to deadline, as a loop does, until no value is left.
    fn run_out(&mut self) {
        let mut idle_turns = 0;
        let entries = self.list.len();
        while let Some(next) = self.timers.next_deadline() {
            assert!(next <= self.list.iter().min().unwrap().0);
            self.now = self.now.max(next);
            let before = self.list.len();
            self.pop_all();
            if self.list.len() == before {
                idle_turns += 1;
                assert!(self.timers.next_deadline().is_none_or(|later| later > self.now));
            }
        }
        assert!(self.list.is_empty());
        assert!(idle_turns <= entries * (LEVELS + 1), "{idle_turns} idle turns");
    }
}

/// Asserts every invariant of the store.
fn assert_sound<T>(timers: &Timers<T>) {
    let mut found = std::collections::BTreeMap::<u32, usize>::new();
    for (index, node) in timers.heap.iter().enumerate() {
        let entry = timers.entries.at(node.entry).expect("a linked entry is occupied");
        *found.entry(node.entry).or_default() += 1;
        assert!(node.due <= entry.due);
        assert!(index == 0 || timers.heap[(index - 1) / ARITY].due <= node.due);
        assert!(matches!(entry.position, Position::Heap { index: at } if at as usize == index));
    }
    for (slot, &List { first, least }) in timers.slots.iter().enumerate() {
        let occupied = timers.occupied[slot / SLOTS] >> (slot % SLOTS) & 1 == 1;
        assert_eq!(occupied, first != NONE);
        let (mut before, mut this) = (NONE, first);
        while this != NONE {
            let entry = timers.entries.at(this).expect("a linked entry is occupied");
            *found.entry(this).or_default() += 1;
            assert!(least <= entry.due);
            assert!(slot == PARKED || entry.due.tick() > timers.current);
            let Position::List { slot: at, previous, next } = entry.position else {
                panic!("a list leads to {:?}", entry.position)
            };
            assert_eq!((at as usize, previous), (slot, before));
            (before, this) = (this, next);
        }
    }
    let each_once = timers.entries.keys().into_iter().map(|key| (key.slot, 1));
    assert!(found.into_iter().eq(each_once));
    assert_eq!(timers.iter().count(), timers.len());
    if let Some(next) = timers.next {
        let first = timers.entries.iter().map(|(_, entry)| entry.due).min();
        assert_eq!(next.due.is_some(), first.is_some());
        assert!(next.due <= first);
        assert_eq!(next.at, next.due.map(|due| due.deadline(timers.origin)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn the_store_agrees_with_a_sorted_list(steps in prop::collection::vec(step(), 0..120)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
            model.assert_agrees();
        }
        model.run_out();
        assert_bare(&model.timers);
    }
}
