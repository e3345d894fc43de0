//! Rows 65 to 71: producers and the other forms of backpressure.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet::{ProducerKind, Protocol, Transport};

use super::kit::{Kit, Rig};
use super::peer::B;
use super::plays::play;
use super::recorder::{A, Call, Log, On, Script};

const HIGH: usize = 64 * 1024;
const LOW: usize = 16 * 1024;

/// Turns until B has taken all of `n` bytes, and a few times more.
fn takes(rig: &mut Rig, b: &B, n: usize) {
    rig.until("all of it", || {
        b.take_all();
        b.got_len() == n
    });
    rig.tick();
}

/// A push producer writes BIG, `step` bytes a turn, while B reads `takes` bytes a turn. Returns A.
fn flow(kit: Kit, marks: Option<(usize, usize)>, step: usize, takes: usize) -> A {
    let (low, high) = marks.unwrap_or((LOW, HIGH));
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new());
    let transport = a.transport();
    if let Some((low, high)) = marks {
        transport.set_write_marks(low, high);
    }
    let paused = Rc::new(Cell::new(false));
    let wrong: Rc<RefCell<Vec<String>>> = Rc::default();
    let (switch, noted) = (paused.clone(), wrong.clone());
    a.produces(ProducerKind::Push, move |call, transport| {
        let buffered = transport.buffered();
        let fits = match call {
            Call::Pause => !switch.get() && buffered > high,
            Call::Resume => switch.get() && buffered <= low,
            Call::Stop => false,
        };
        if !fits {
            noted.borrow_mut().push(format!("{call:?} with {buffered}"));
        }
        switch.set(call == Call::Pause);
    });
    let (mut written, mut late) = (0, (false, false));
    for _ in 0..100_000 {
        if !paused.get() && written < big.len() {
            let piece = &big[written..big.len().min(written + step)];
            transport.write(piece);
            written += piece.len();
        }
        rig.turn();
        // Bytes that a turn sends at its very end are reported in the next.
        let buffered = transport.buffered();
        let now = (!paused.get() && buffered > high, paused.get() && buffered <= low);
        assert!(!(late.0 && now.0), "{buffered} buffered, and not paused");
        assert!(!(late.1 && now.1), "{buffered} buffered, and paused");
        late = now;
        if a.log.has("pause") || written == big.len() {
            b.take(takes);
        }
        if b.got_len() == big.len() {
            break;
        }
    }
    assert!(b.got() == big, "{} bytes", b.got_len());
    assert!(wrong.borrow().is_empty(), "{:?}", wrong.borrow());
    let entries = a.log.entries();
    let calls =
        entries.iter().filter(|entry| ["resume", "pause", "stop"].contains(&entry.as_str()));
    for (at, call) in calls.enumerate() {
        assert_eq!(call, ["pause", "resume"][at % 2], "pause and resume alternate");
    }
    a
}

pub(crate) fn c65_a_push_producer_is_paused_above_64_kib_and_resumed_at_16_kib(kit: Kit) {
    let a = flow(kit, None, 100_000, 64 * 1024);
    assert!(a.log.count("pause") >= 2 && a.log.count("resume") >= 2);
    // The exact edges.
    let edges = "in-memory; a fill; a push; a write #64K; turns 5; a log made; a write x; turns 5; a log made, pause
        b drain 48K; a log made, pause; b drain 1; a log made, pause, resume";
    play(kit, &[edges]);
}

pub(crate) fn c65_the_marks_can_be_set(kit: Kit) {
    let a = flow(kit, Some((5, 10)), 100_000, 64 * 1024);
    assert!(a.log.count("pause") >= 2);
    flow(kit, Some((0, 0)), 100_000, 64 * 1024);
    // Raising the high mark does not resume the producer, raising the low mark does; marks are per
    // connection; a high mark lowered below the buffered bytes pauses the producer; a low mark above the
    // high one doesn't make it flap.
    let edges = "in-memory; a fill; next; a2 fill; a marks 5 10, push; a2 push; a write #10; a2 write #1000; turns 5
        a log made; a write x; turns 5; a log made, pause; a marks 5 1000; turns 5; b drain 5; a log made, pause
        a marks 6 1000; turns 5; a log made, pause, resume; a2 log made
        a marks 2 4; turns 5; a log made, pause, resume, pause; a marks 50 3; turns 20; a log made, pause, resume, pause
        b drain 6; a log made, pause, resume, pause, resume; a2 log made";
    play(kit, &[edges]);
}

/// Forwards received bytes, and is the producer of the target connection.
struct Relay {
    to: Transport,
    most: Rc<Cell<usize>>,
}

impl Protocol for Relay {
    fn connection_made(&mut self, transport: &Transport) {
        let from = transport.clone();
        self.to.register_producer(from, ProducerKind::Push).expect("the first producer");
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.to.write(data);
        self.most.set(self.most.get().max(self.to.buffered()));
    }
}

pub(crate) fn c65_a_relay_holds_no_more_than_one_read_past_the_mark(kit: Kit) {
    const CHUNK: usize = 4096;
    let big = kit.big();
    let (mut rig, a, b) = kit.read_buffer(CHUNK).accept(Script::new());
    let (to, most) = (a.transport(), Rc::new(Cell::new(0)));
    let seen = most.clone();
    let port = rig.listen_with(move || Relay { to: to.clone(), most: seen.clone() });
    let source = rig.peer(&port);
    let mut sent = 0;
    rig.until("all of it", || {
        sent += source.try_send(&big[sent..big.len().min(sent + 64 * 1024)]);
        if a.transport().is_full() || sent == big.len() {
            b.take(128 * 1024);
        }
        b.got_len() == big.len()
    });
    assert!(b.got() == big);
    assert!((HIGH..=HIGH + CHUNK).contains(&most.get()), "{} bytes were held", most.get());
}

scripted! {
    $ producers:

    fn c65_the_pause_comes_from_the_turn() needs capacity
        "on data: note begin, pieces, note end; a push; b send x; a until pause; tick
        a log made, data(1), begin, end, pause",
        // Bytes sent immediately cause no pause; bytes taken by an operation count until they are sent.
        "capacity 1024K; at-hand; a push; a tells write #100K; tick; a buffers 0; a log made";

    // And so is its successor.
    fn c65_a_producer_that_registers_above_the_mark_is_paused() needs capacity
        "a write BIG; turns 3; a push; a until pause; a unregister, push; a until-count 2 pause; turns 3
        a log made, pause, pause; b gets BIG; a until resume; turns 3; a log made, pause, pause, resume";

    fn c65_is_full_is_immediate()
        "a tells write #64K, note-full, write x, note-full; turns 2; a log made, full: false, full: true
        b gets #64K+x; a empties; a roomy
        a tells <65:write #1000, >note-full, write #1000, note-full; turns 2; a log .., full: false, full: true",
        // After a close writes no longer fill the buffer, so `wants_data` must end such a loop.
        "a tells lose, writes-while-wanted; turns 2; a has made";

    fn c66_a_pull_producer_is_asked_each_time_the_buffer_is_empty()
        "source resume = note-buffered, write #100000; source resume 5 = unregister; a pull; b sips-to 10000 500000
        a log made<5:, resume, buffered: 0>",
        // A producer that writes nothing isn't asked again until other bytes have been sent.
        "a pull; turns 5; <5:a marks 16K 64K, write ; tick;> a log made, resume; a write x; a until-count 2 resume; tick
        a log made, resume, resume; b takes",
        // A pull producer is never paused, even after a large write.
        "source resume = bytes BIG; a pull; tick; a log made, resume; a full";

    fn c66_the_first_request_comes_from_the_turn() needs counted_calls
        "{once made: |plain; a tells |plain; a }note begin, pull, note end; tick; a log made, begin, end, resume",
        // With a stuck buffer it is still asked once, and again when the buffer has emptied.
        "a write BIG; turns 3; a pull; tick; a buffers-some; a log made, resume; b gets BIG; tick
        a log made, resume, resume";

    fn c67_a_second_producer_is_refused_and_the_first_stays()
        "source resume = {1:|bytes BIG, unregister}; a {1:push, refused pull|pull, refused push}; {1:a bytes BIG|plain}
        b gets BIG; tick; a log made, {1:pause, resume|resume}; a unregister, {1:pull|push}";

    fn c69_stop_producing_comes_before_connection_lost() needs resets
        "source stop = unregister; {1:a push|a push, bytes BIG; a until pause|a pull|a push, unregister}; turns 3
        ends {2:abort|panic|the peer's reset|the idle timeout|the hard cap}
        a lost {2:Aborted|Panicked(ending)|Lost|Timeout|Overflow}; a count {1:1|1|1|0} stop
        {1:a adjacent stop lost|a adjacent stop lost|a adjacent stop lost|plain}",
        "source stop = unregister; {1:a push|a push, bytes BIG; a until pause|a pull|a push, unregister}; turns 3
        stop 100ms; a lost Shutdown; a count {1:1|1|1|0} stop
        {1:a adjacent stop lost|a adjacent stop lost|a adjacent stop lost|plain}",
        // Closes that wait for the producer, which writes nothing.
        "source stop = unregister; {a push|a push, bytes BIG; a until pause|a pull}; turns 3; a {1:lose|fail no prose}; tick
        <3:pass 30; tick;> a lost {1:CloseTimedOut|Failed(no prose)}; a count 1 stop; a adjacent stop lost",
        // Without a producer these proceed to the drain and complete it.
        "a push, unregister; turns 3; a {lose|fail no prose}; tick; <3:pass 30; tick;> b close; a lost; a lacks stop";

    fn c71_writable_fails_with_the_connection() needs breaking
        // A panic discards the bytes too.
        "a pieces; turns 3; a loss writable writable; ends {1:abort|panic|the peer's reset}
        a until writable; a log made, lost({1:Aborted|Panicked(ending)|Lost}), writable: {1:Aborted|Panicked(ending)|Lost}
        a loss writable late; a log .., late: {1:Aborted|Panicked(ending)|Lost}; a entries 4",
        // A close sends the bytes.
        "a bytes BIG; turns 3; a loss writable writable; a lose; b sees Fin; a has writable: ok; b close; a lost";

    fn c71_without_a_cap_write_takes_everything()
        "a tells <3:write BIG, >write BIG; turn; a open; a dropped 0; b gets BIG+BIG+BIG+BIG; tick; a buffers 0";
}

struct Dropped(A);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.log.note("dropped");
    }
}

pub(crate) fn c68_a_producer_registered_after_the_end_is_stopped_by_the_turn(kit: Kit) {
    let late = |a: &A| {
        a.log.note("begin");
        let dropped = Dropped(a.clone());
        a.produces(ProducerKind::Push, move |_, _| {
            let _held = &dropped;
        });
        a.log.note("end");
    };
    for inside in [true, false] {
        let script = Script::new();
        let (mut rig, a, b) = kit.accept(match inside {
            true => script.on_a(On::Lost, move |a, _| late(a)),
            false => script,
        });
        b.reset();
        rig.until("connection_lost", || a.is_lost());
        if !inside {
            late(&a);
            assert!(!a.log.has("stop"), "not inside the call");
        }
        rig.turns(3);
        assert_eq!(a.log.entries(), ["made", "lost(Lost)", "begin", "end", "stop", "dropped"]);
    }
}

pub(crate) fn c70_a_producer_may_write_and_unregister_while_it_is_resumed(kit: Kit) {
    // The producer writes, unregisters, and registers another in its place.
    let (mut rig, a, b) = kit.accept(Script::new());
    let own = a.clone();
    a.produces(ProducerKind::Pull, move |_, transport| {
        transport.write("first");
        assert!(!transport.is_full());
        transport.unregister_producer();
        let log = own.log.clone();
        own.produces(ProducerKind::Pull, move |_, transport| {
            log.note("the other");
            transport.write("second");
            transport.unregister_producer();
        });
        own.log.note("returned");
    });
    rig.gets(&b, b"firstsecond");
    assert_eq!(a.log.entries()[1..], ["resume", "returned", "resume", "the other"]);
    let scripts = [
        // A producer that fills the buffer when resumed is paused after it returns.
        "source resume = bytes BIG, note returned; a push, bytes BIG; a until pause; b reads-until 2 pause
        a log made, pause, resume, returned, pause",
        // A close or an abort from `resume_producing` works like any other.
        "source resume = write bye, {1:lose|abort}, unregister; a pull; b sees; {1:b saw Fin; b got bye|plain}
        b close; a lost {1:Done(Us)|Aborted}",
    ];
    play(kit, &scripts);
}

pub(crate) fn c71_writable_fires_at_the_low_mark(kit: Kit) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new());
    let (transport, log) = (a.transport(), Log::default());
    log.watch_loss("nothing is buffered", transport.writable());
    assert_eq!(log.take(), ["nothing is buffered: ok"]);
    transport.write(big);
    rig.turns(3);
    log.watch_loss("one", transport.writable());
    drop(transport.writable());
    rig.tick();
    assert_eq!(log.len(), 0);
    // Bytes written after the call count too.
    transport.write("and more");
    let buffered = Rc::new(Cell::new(0));
    let (asked, at_the_time) = (transport.clone(), buffered.clone());
    transport.writable().map(move |()| at_the_time.set(asked.buffered() + 1)).detach();
    rig.until("writable", || {
        b.take(64 * 1024);
        log.len() == 1
    });
    assert_eq!(log.take(), ["one: ok"]);
    assert!((1..=LOW + 1).contains(&buffered.get()), "{}", buffered.get());
    takes(&mut rig, &b, big.len() + 8);
    let edge = "in-memory; a fill; a write #16394; a loss writable at; b drain 9; a log made; b drain 1; a loss writable below
        a log made, at: ok, below: ok";
    // One send passes both levels, each time.
    let both = "in-memory; a fill; a write #20000; a loss flushed all; a loss writable low; b drain 20000
        a log made, low: ok, all: ok; a write #20000; a loss flushed all; a loss writable low; b drain 20000
        a log made, low: ok, all: ok, low: ok, all: ok";
    play(kit, &[edge, both]);
}

pub(crate) fn c71_flushed_fires_when_everything_is_sent(kit: Kit) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new());
    let (transport, log) = (a.transport(), Log::default());
    log.watch_loss("nothing is buffered", transport.flushed());
    assert_eq!(log.take(), ["nothing is buffered: ok"]);
    transport.write(big);
    rig.turns(3);
    log.watch_loss("all", transport.flushed());
    // Bytes written after the call must be sent too.
    transport.write("and more");
    let left = Rc::new(Cell::new(usize::MAX));
    let (asked, at_the_time) = (transport.clone(), left.clone());
    transport.flushed().map(move |()| at_the_time.set(asked.buffered())).detach();
    rig.until("the low mark", || {
        b.take(if kit.has_a_system() { 64 * 1024 } else { 1000 });
        transport.buffered() <= LOW
    });
    assert!(transport.buffered() == 0 || log.len() == 0, "not at the low mark");
    rig.until("all of it", || {
        b.take_all();
        log.len() == 1
    });
    assert_eq!((log.take(), left.get()), (vec!["all: ok".to_owned()], 0));
    // Discarded bytes were not flushed.
    transport.write(big);
    rig.turns(3);
    log.watch_loss("cut", transport.flushed());
    transport.abort_connection();
    assert_eq!(rig.lost(&a), "Aborted");
    log.watch_loss("late", transport.flushed());
    assert_eq!(log.take(), ["cut: Aborted", "late: Aborted"]);
}

pub(crate) fn c71_past_the_hard_cap_the_connection_overflows(kit: Kit) {
    const CAP: usize = 100_000;
    let capped = || {
        let (rig, a, b) = kit.accept(Script::new());
        a.transport().set_write_cap(Some(CAP));
        (rig, a, b)
    };
    let scripts = [
        // The cap itself, and a byte more.
        "a cap 100000; a tells write #100000; b gets #100000; a empties; a push
        a tells write #100000, write x, note returned; a lost Overflow; a log made, returned, stop, lost(Overflow)
        b sees Reset",
        // An empty write never exceeds the cap, even a cap lowered below the buffered bytes.
        "a write BIG; turns 3; a cap 1; a write , bytes ; tick; a open; a write x; a lost Overflow",
    ];
    play(kit, &scripts);
    // Not before the write that would exceed it.
    let (mut rig, a, _b) = capped();
    while !a.is_lost() {
        let passes = a.transport().buffered() + 1000 > CAP;
        a.transport().write([1; 1000]);
        rig.turn();
        assert_eq!(a.is_lost(), passes);
    }
    // A callback that never stops writing buffers no more than the cap.
    let (mut rig, a, _b) = capped();
    let most = Rc::new(Cell::new(0));
    let seen = most.clone();
    a.tell(move |transport| {
        for _ in 0..100_000 {
            transport.write([1; 1024]);
            seen.set(seen.get().max(transport.buffered()));
        }
    });
    assert_eq!(rig.lost(&a), "Overflow");
    assert!(most.get() <= CAP, "{}", most.get());
}
