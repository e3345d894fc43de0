//! Each flag, planted in a loop on virtual time; and a healthy loop, which has none.

use std::cell::Cell;
use std::rc::Rc;

use couplet_core::defer::{Deferred, DeferredLock};
use couplet_core::hooks;
use couplet_core::hooks::NoteRow;
use couplet_core::hooks::inspector::{Kind, Observing, Record, UserCall};
use couplet_core::testing::{MemoryReactor, success_of};
use couplet_core::transport::Timeout;
use couplet_core::{ProducerKind, Protocol, Reactor, Transport};

use super::*;

#[cfg(unix)]
mod diagnosis;

/// A loop in memory, as an inspector measures it.
struct Measured {
    memory: MemoryReactor,
    activity: Activity,
    history: History,
    clock: Clock,
    begun: Instant,
    logs: Vec<BacklogState>,
}

/// Calls this when bytes arrive.
struct Planted(fn(&Transport));

impl Protocol for Planted {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        (self.0)(transport);
    }

    fn read_closed(&mut self, _: &Transport) {}
}

impl Measured {
    fn new() -> Measured {
        let memory = MemoryReactor::new();
        let reactor = memory.reactor();
        let (clock, begun) = (Clock::new(&reactor), reactor.now());
        let (activity, history, logs) = (Activity::new(), History::default(), Vec::new());
        Measured { memory, activity, history, clock, begun, logs }
    }

    fn reactor(&self) -> Reactor {
        self.memory.reactor()
    }

    /// A loop with a connection whose peer has sent a byte.
    fn connected(planted: fn(&Transport)) -> (Measured, couplet_core::testing::Wire) {
        Measured::connected_with(usize::MAX, planted)
    }

    /// The same, with a capacity for unread bytes.
    fn connected_with(
        capacity: usize,
        planted: fn(&Transport),
    ) -> (Measured, couplet_core::testing::Wire) {
        let mut measured = Measured::new();
        measured.memory.network().set_capacity(capacity);
        let listening = measured.reactor().listen("tcp:10000", move || Planted(planted));
        listening.expect("a free port");
        let wire = measured.memory.connect(10000);
        wire.push(b"x");
        measured.memory.settle();
        (measured, wire)
    }

    fn pass(&mut self, time: Duration) -> &mut Measured {
        self.memory.advance(time);
        self
    }

    /// The flags after a measurement.
    fn flags(&mut self) -> Vec<Flag> {
        self.flags_with(|_| ())
    }

    fn flags_with(&mut self, change: impl FnOnce(&mut Snapshot)) -> Vec<Flag> {
        let waiting = self.reactor().snapshot();
        self.memory.settle();
        let mut snapshot = success_of(waiting);
        change(&mut snapshot);
        self.flags_held(&snapshot, None)
    }

    fn flags_held(&mut self, snapshot: &Snapshot, held: Option<(&str, Duration)>) -> Vec<Flag> {
        let now = self.reactor().now();
        let second = now.saturating_duration_since(self.begun).as_secs_f64();
        let (activity, logs) = (&self.activity, &self.logs[..]);
        let facts = Facts { number: 0, snapshot, activity, held, now, second, logs };
        flags(&facts, &mut self.history, self.clock)
    }

    /// The words of the only flag, which is this one.
    #[track_caller]
    fn only(flags: &[Flag], id: &str) -> String {
        let ids: Vec<_> = flags.iter().map(|flag| &*flag.id).collect();
        assert_eq!(ids, [format!("0.{id}")]);
        flags[0].words.clone()
    }
}

#[test]
fn c185_a_healthy_loop_has_none() {
    struct Echo;
    impl Protocol for Echo {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            transport.write(data);
        }
    }
    let mut measured = Measured::new();
    let listening = measured.reactor().listen("tcp:10000", || Echo);
    listening.expect("a free port");
    for round in 0..100 {
        let wire = measured.memory.connect(10000);
        for _ in 0..10 {
            wire.push(b"x");
            measured.memory.settle();
            wire.take();
        }
        assert!(measured.pass(Duration::from_secs(1)).flags().is_empty(), "round {round}");
        if round % 2 == 0 {
            wire.close();
        }
        measured.memory.settle();
    }
}

#[test]
fn a_log_that_loses_lines_each_time() {
    /// Fails each write.
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = couplet_core::backlog::Backlog::new("stderr", Closed);
    let mut measured = Measured::new();
    for (lost, words) in [(1, "1 line"), (3, "3 lines"), (1, "1 line")] {
        (0..lost).for_each(|_| log.push("a line"));
        assert!(log.settle(Duration::from_secs(300)));
        measured.logs = vec![log.state()];
        let found = Measured::only(&measured.flags(), "log");
        assert_eq!(found, format!("stderr (0 bytes queued): {words} lost in the last minute"));
        assert!(measured.pass(RECENT).flags().is_empty(), "it is over");
    }
    // Only logs that have lost lines are named, and their lines are added.
    let other = couplet_core::backlog::Backlog::new("file", Closed);
    for (lost, words) in [
        (0, "stderr (0 bytes queued): 1 line"),
        (2, "stderr (0 bytes queued), file (0 bytes queued): 4 lines"),
    ] {
        log.push("a line");
        (0..lost).for_each(|_| other.push("a line"));
        assert!(log.settle(Duration::from_secs(300)) && other.settle(Duration::from_secs(300)));
        measured.logs = vec![log.state(), other.state()];
        let found = Measured::only(&measured.flags(), "log");
        assert_eq!(found, format!("{words} lost in the last minute"));
    }
}

#[test]
fn a_call_that_holds_the_loop() {
    let mut measured = Measured::new();
    let held = |measured: &mut Measured, millis| {
        let held = Some(("task talk", Duration::from_millis(millis)));
        measured.flags_held(&Snapshot::default(), held)
    };
    assert!(held(&mut measured, 1000).is_empty());
    let words = Measured::only(&held(&mut measured, 1001), "held");
    assert_eq!(words, "task talk has held loop 0 for 1.0 s");
}

#[test]
fn a_busy_loop_names_its_busiest_call() {
    let mut measured = Measured::new();
    let call = UserCall { kind: "task", name: Some("dig".into()), of: None, place: None };
    measured.activity = Activity::with_names(vec![call]);
    // 950 ms of each second, in short calls.
    for millis in 0..10_000_u64 {
        let time = millis * 1_000_000;
        // Waits are counted in units of 64 ticks.
        let slept = 50_000 / 64;
        measured.activity.record(Record { time, kind: Kind::Waited, key: 0, value: slept });
        measured.activity.record(Record { time: time + 1, kind: Kind::Call, key: 0, value: 0 });
        let time = time + 950_000;
        measured.activity.record(Record { time, kind: Kind::Returned, key: 0, value: 0 });
    }
    measured.pass(Duration::from_secs(9));
    let words = Measured::only(&measured.flags(), "busy");
    assert_eq!(words, "loop 0 works 95 % of the time, most of it in task dig");
}

#[test]
fn slow_calls_and_late_timed_calls() {
    let mut measured = Measured::new();
    let call = UserCall { kind: "task", name: Some("dig".into()), of: None, place: None };
    measured.activity = Activity::with_names(vec![call]);
    let mut record = |millis: u64, kind, value| {
        measured.activity.record(Record { time: millis * 1_000_000, kind, key: 0, value });
    };
    record(0, Kind::Waited, 0);
    record(1, Kind::Call, 0);
    record(401, Kind::Returned, 0);
    record(401, Kind::Late, 350_000);
    record(410, Kind::Waited, 0);
    let flags = measured.flags();
    let words: Vec<_> = flags.iter().map(|flag| &*flag.words).collect();
    assert_eq!(words[0], "task dig held loop 0 for 400 ms");
    assert_eq!(words[1], "a timed call of loop 0 was late by 350 ms");
    assert_eq!(words.len(), 2);
}

#[test]
fn something_that_spins() {
    let mut measured = Measured::new();
    let call = UserCall { kind: "task", name: Some("spin".into()), of: None, place: None };
    measured.activity = Activity::with_names(vec![call]);
    for micros in (0..3_000_000_u64).step_by(25) {
        let mut record = |nanos, kind| {
            let time = micros * 1000 + nanos;
            measured.activity.record(Record { time, kind, key: 0, value: 0 });
        };
        record(0, Kind::Waited);
        record(1, Kind::Call);
        record(1000, Kind::Returned);
    }
    let words = Measured::only(&measured.pass(Duration::from_secs(2)).flags(), "spinning");
    assert_eq!(words, "task spin runs 40000 times a second");
}

#[test]
fn c185_an_outbox_that_only_grows() {
    let (mut measured, wire) =
        Measured::connected_with(1000, |transport| transport.write(vec![7; 30_000]));
    for measurement in 0..6 {
        wire.push(b"x");
        let flags = measured.pass(Duration::from_secs(1)).flags();
        assert_eq!(flags.is_empty(), measurement < 5, "{measurement}: {flags:?}");
        if measurement == 5 {
            let words = Measured::only(&flags, "growing");
            assert!(words.starts_with("1 connection holds more and more: "), "{words}");
            assert!(flags[0].row.is_some());
        }
        wire.take_most(500);
    }
    // It shrinks once, and begins to grow again.
    wire.take();
    assert!(measured.pass(Duration::from_secs(1)).flags().is_empty());
    for measurement in 1..=5 {
        wire.push(b"x");
        let flags = measured.pass(Duration::from_secs(1)).flags();
        assert_eq!(flags.is_empty(), measurement < 5, "{measurement}: {flags:?}");
        wire.take_most(500);
    }
}

#[test]
fn c185_of_several_outboxes_that_grow_the_largest_is_shown() {
    let (mut measured, first) =
        Measured::connected_with(1000, |transport| transport.write(vec![7; 30_000]));
    let second = measured.memory.connect(10000);
    second.push(b"x");
    measured.memory.settle();
    for measurement in 0..6 {
        for wire in [&first, &second, &second] {
            wire.push(b"x");
            measured.memory.settle();
        }
        let flags = measured.pass(Duration::from_secs(1)).flags();
        assert_eq!(flags.is_empty(), measurement < 5, "{measurement}: {flags:?}");
        if measurement == 5 {
            let words = Measured::only(&flags, "growing");
            assert!(words.starts_with("2 connections hold more and more, one of them "), "{words}");
            let snapshot = measured.reactor().snapshot();
            measured.memory.settle();
            let connections = success_of(snapshot).connections;
            let largest = connections.iter().max_by_key(|it| it.buffered).expect("two");
            assert_eq!(flags[0].row, Some(largest.id.to_string()));
        }
        [&first, &second].iter().for_each(|wire| drop(wire.take_most(500)));
    }
}

/// "1 connection is", "2 connections are".
#[test]
fn a_flag_counts_its_connections() {
    let (mut measured, _wire) = Measured::connected(Transport::pause_producing);
    let other = measured.memory.connect(10000);
    other.push(b"x");
    measured.memory.settle();
    let words = Measured::only(&measured.pass(Duration::from_secs(31)).flags(), "paused");
    assert_eq!(words, "2 connections are not read, one for 31.0 s");
    // One that has been paused for less does not count.
    let third = measured.memory.connect(10000);
    third.push(b"x");
    measured.memory.settle();
    let words = Measured::only(&measured.pass(Duration::from_secs(1)).flags(), "paused");
    assert_eq!(words, "2 connections are not read, one for 32.0 s");
}

#[test]
fn c185_connections_that_stay_in_a_state_for_long() {
    type Case = (usize, fn(&Transport), u64, u64, &'static str, &'static str);
    let cases: [Case; 4] = [
        (
            1000,
            |it| it.write(vec![7; 30_000]),
            9,
            2,
            "stuck",
            "has output that its peer does not take",
        ),
        (usize::MAX, Transport::pause_producing, 30, 1, "paused", "is not read"),
        (usize::MAX, Transport::lose_connection, 10, 1, "closing", "is closing"),
        (
            usize::MAX,
            |it| it.set_timeout(Timeout::HalfClose, None),
            60,
            1,
            "half-closed",
            "is half closed",
        ),
    ];
    for (capacity, planted, quiet, more, id, words) in cases {
        let (mut measured, wire) = Measured::connected_with(capacity, planted);
        if id == "half-closed" {
            wire.fin();
        }
        assert!(measured.pass(Duration::from_secs(quiet)).flags().is_empty(), "{id}");
        let seen = Measured::only(&measured.pass(Duration::from_secs(more)).flags(), id);
        assert_eq!(seen, format!("1 connection {words}, for {}.0 s", quiet + more));
    }
}

#[test]
fn handshakes_that_do_not_finish() {
    let mut measured = Measured::new();
    let endpoint = "haproxy:10000:header-timeout=60";
    measured.reactor().listen(endpoint, || Planted(|_| ())).expect("a free port");
    let _wire = measured.memory.connect(10000);
    assert!(measured.pass(Duration::from_secs(5)).flags().is_empty());
    let words = Measured::only(&measured.pass(Duration::from_secs(1)).flags(), "opening");
    assert_eq!(words, "1 connection is opening, for 6.0 s");
}

#[test]
fn c185_counters_that_grow_are_flags_for_a_minute() {
    let plant = |id: &str, words: &str, change: fn(&mut Snapshot)| {
        let mut measured = Measured::new();
        let listening = measured.reactor().listen("tcp:10000", || Planted(|_| ()));
        listening.expect("a free port");
        assert!(measured.flags().is_empty());
        assert_eq!(Measured::only(&measured.flags_with(change), id), words);
        assert_eq!(Measured::only(&measured.pass(RECENT / 2).flags_with(change), id), words);
        assert!(measured.pass(RECENT / 2).flags_with(change).is_empty(), "{id}");
        // The counter falls with the end of its object, and grows again.
        assert!(measured.flags().is_empty(), "{id}");
        assert_eq!(Measured::only(&measured.flags_with(change), id), words);
    };
    let words = "1 connection turned away in the last minute";
    plant("descriptors", words, |snapshot| snapshot.ports[0].counters.turned_away = 1);
    let words = "2 failures not handled in the last minute";
    plant("unhandled", words, |snapshot| snapshot.counters.unhandled_failures = 2);
}

#[test]
fn slow_readers_that_are_cut() {
    let (mut measured, _wire) = Measured::connected(|transport| {
        transport.set_write_cap(Some(1000));
        transport.write(vec![7; 2000]);
    });
    let words = Measured::only(&measured.flags(), "overflow");
    assert_eq!(words, "1 connection reset because of unsent output in the last minute");
}

#[test]
fn services_that_are_restarted() {
    let mut measured = Measured::new();
    let restarts = Rc::new(Cell::new([0_u32; 2]));
    let shown = restarts.clone();
    let _note = hooks::note_rows(&measured.reactor(), move || {
        let row = |(name, restarts): (&str, u32)| {
            let fields = [("name", name.to_owned()), ("restarts", restarts.to_string())];
            NoteRow::new("services", fields)
        };
        ["a", "b"].into_iter().zip(shown.get()).map(row).collect()
    });
    assert!(measured.flags().is_empty());
    for (counts, words) in [
        ([3, 0], "3 restarts needed"),
        ([3, 1], "1 restart needed"),
        ([3, 3], "2 restarts needed"),
        ([4, 4], "2 restarts needed"),
    ] {
        restarts.set(counts);
        let found = Measured::only(&measured.flags(), "restarts");
        assert_eq!(found, format!("{words} in the last minute"), "{counts:?}");
        assert!(measured.pass(RECENT).flags().is_empty(), "{counts:?}");
    }
    // Those within a minute are added.
    for (counts, words) in [([5, 4], "1 restart"), ([5, 6], "3 restarts"), ([5, 6], "3 restarts")] {
        restarts.set(counts);
        let found = Measured::only(&measured.flags(), "restarts");
        assert_eq!(found, format!("{words} needed in the last minute"), "{counts:?}");
        measured.pass(RECENT / 2);
    }
    assert!(measured.flags().is_empty());
}

#[test]
fn c185_a_child_whose_pipes_stay_open() {
    let mut measured = Measured::new();
    let exited = Rc::new(Cell::new(false));
    let shown = exited.clone();
    let _note = hooks::note_rows(&measured.reactor(), move || {
        let row = |pid: u32| {
            let state = if shown.get() { "exited" } else { "running" };
            NoteRow::new("children", [("pid", pid.to_string()), ("state", state.to_owned())])
        };
        vec![row(7), row(8)]
    });
    assert!(measured.flags().is_empty());
    assert!(measured.pass(2 * PIPES).flags().is_empty(), "they run");
    // The second time, other children have their ids.
    for _ in 0..2 {
        exited.set(true);
        assert!(measured.flags().is_empty());
        assert!(measured.pass(PIPES).flags().is_empty());
        let flags = measured.pass(Duration::from_secs(1)).flags();
        let words = Measured::only(&flags, "pipes");
        assert_eq!(words, "2 children have open pipes, one for 11.0 s");
        assert_eq!(flags[0].row.as_deref(), Some("0.7"));
        exited.set(false);
        assert!(measured.flags().is_empty());
    }
}

#[test]
fn a_flag_keeps_the_time_at_which_it_was_raised_each_time() {
    let (mut measured, mut wire) = Measured::connected(Transport::pause_producing);
    let since = |flags: &[Flag]| flags[0].since;
    for round in 0..3 {
        let raised = since(&measured.pass(Duration::from_secs(31)).flags());
        assert_eq!(raised, measured.clock.unix(measured.reactor().now()), "{round}");
        assert_eq!(since(&measured.pass(Duration::from_secs(31)).flags()), raised, "{round}");
        wire.reset();
        assert!(measured.pass(Duration::from_secs(1)).flags().is_empty(), "{round}");
        wire = measured.memory.connect(10000);
        wire.push(b"x");
        measured.memory.settle();
    }
}

/// Producers and tasks that are at work are no flags.
#[test]
fn a_slow_download_is_healthy() {
    struct Poem(Transport, Rc<Cell<bool>>);
    impl couplet_core::Producer for Poem {
        fn resume_producing(&mut self) {
            self.1.set(true);
            self.0.write(vec![7; 20_000]);
        }
        fn pause_producing(&mut self) {}
        fn stop_producing(&mut self) {}
    }
    let (mut measured, wire) = Measured::connected_with(1000, |transport| {
        let poem = Poem(transport.clone(), Rc::default());
        transport.register_producer(poem, ProducerKind::Pull).expect("the first");
    });
    for second in 0..120 {
        wire.take_most(700);
        let flags = measured.pass(Duration::from_secs(1)).flags();
        assert!(flags.is_empty(), "{second}: {flags:?}");
    }
}

#[test]
fn a_lock_that_is_held_for_long() {
    let mut measured = Measured::new();
    let _observing = Observing::begin(&measured.reactor(), 4);
    let lock = DeferredLock::new();
    let held = lock.try_acquire().expect("it is free");
    assert_eq!(measured.pass(2 * LOCKED).flags().len(), 0, "nothing waits for it");
    let waiter = lock.acquire();
    let words = Measured::only(&measured.flags(), "lock");
    assert!(words.starts_with("1 lock held, for 60.0 s: the one made at "), "{words}");
    // The next holder does not take it.
    let third = lock.acquire();
    drop(held);
    assert_eq!(measured.flags().len(), 0);
    let words = Measured::only(&measured.pass(2 * UNTAKEN).flags(), "futurelock");
    assert!(words.starts_with("1 lock not taken, for 2.0 s: the one made at "), "{words}");
    drop((waiter, third));
}

#[test]
fn a_deferred_that_nothing_awaits() {
    let mut measured = Measured::new();
    let _observing = Observing::begin(&measured.reactor(), 4);
    let (deferred, resolver) = Deferred::<()>::new();
    deferred.map(|()| ()).detach();
    measured.reactor().sleep(10 * FORGOTTEN).detach();
    assert_eq!(measured.pass(FORGOTTEN).flags().len(), 0);
    // This test is in one of the library's crates, so its Deferreds count as the library's.
    let as_program = |snapshot: &mut Snapshot| {
        snapshot.deferreds.iter_mut().for_each(|it| it.is_program |= it.callbacks == 1);
    };
    let flags = measured.pass(FORGOTTEN).flags_with(as_program);
    let words = Measured::only(&flags, "forgotten");
    assert!(words.starts_with("1 Deferred pending, for 2"), "{words}");
    resolver.callback(());
    assert_eq!(measured.flags().len(), 0);
}

#[test]
fn tasks_that_wait_for_one_another() {
    let mut measured = Measured::new();
    let _observing = Observing::begin(&measured.reactor(), 4);
    let reactor = measured.reactor();
    let (first, begin) = Deferred::<Deferred<()>>::new();
    let one = reactor.spawn(async move { first.await?.await });
    let other = reactor.spawn(one);
    begin.callback(other);
    measured.memory.settle();
    let words = Measured::only(&measured.flags(), "cycle");
    assert!(words.starts_with("2 tasks in a cycle: one spawned at "), "{words}");
}
