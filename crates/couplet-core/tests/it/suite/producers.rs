//! Rows 65 to 71: producers and the other forms of backpressure.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::{Bytes, ProducerKind, Protocol, Reason, Transport};

use super::endings::Ending;
use super::kit::{Kit, Rig};
use super::peer::{B, Saw};
use super::recorder::{A, Call, Log, On, Script};

const HIGH: usize = 64 * 1024;
const LOW: usize = 16 * 1024;

/// Registers a producer that only logs its calls.
fn register(a: &A, kind: ProducerKind) {
    a.produces(kind, |_, _| {});
}

/// The calls of the producer, in order.
fn calls(a: &A) -> Vec<String> {
    let entries = a.log.entries();
    entries.into_iter().filter(|e| ["resume", "pause", "stop"].contains(&e.as_str())).collect()
}

/// Fills the in-memory network up to B, so that further writes stay in A's buffer.
fn fill(rig: &mut Rig, a: &A) {
    assert!(!rig.kit.has_a_system(), "only the in-memory network has a known capacity");
    a.transport().write([0; 64 * 1024]);
    rig.until("the network is full", || a.transport().buffered() == 0);
}

/// B reads `n` bytes, and A's buffer shrinks by as many.
fn drain(rig: &mut Rig, a: &A, b: &B, n: usize) {
    let left = a.transport().buffered() - n;
    assert_eq!(b.take(n), n);
    rig.until("as many bytes are sent", || a.transport().buffered() == left);
    rig.turns(3);
}

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
    for (at, call) in calls(&a).iter().enumerate() {
        assert_eq!(call, ["pause", "resume"][at % 2], "pause and resume alternate");
    }
    a
}

pub(crate) fn c65_a_push_producer_is_paused_above_64_kib_and_resumed_at_16_kib(kit: Kit) {
    let a = flow(kit, None, 100_000, 64 * 1024);
    assert!(a.log.count("pause") >= 2 && a.log.count("resume") >= 2);
    if kit.has_a_system() {
        return;
    }
    // The exact edges.
    let (mut rig, a, b) = kit.accept(Script::new());
    fill(&mut rig, &a);
    register(&a, ProducerKind::Push);
    a.transport().write(vec![1; HIGH]);
    rig.turns(5);
    assert!(calls(&a).is_empty());
    a.transport().write([1]);
    rig.turns(5);
    assert_eq!(calls(&a), ["pause"]);
    drain(&mut rig, &a, &b, HIGH + 1 - (LOW + 1));
    assert_eq!(calls(&a), ["pause"]);
    drain(&mut rig, &a, &b, 1);
    assert_eq!(calls(&a), ["pause", "resume"]);
}

pub(crate) fn c65_the_marks_can_be_set(kit: Kit) {
    let a = flow(kit, Some((5, 10)), 100_000, 64 * 1024);
    assert!(a.log.count("pause") >= 2);
    flow(kit, Some((0, 0)), 100_000, 64 * 1024);
    if kit.has_a_system() {
        return;
    }
    let (mut rig, a, b) = kit.accept(Script::new());
    let (other, _b) = rig.accept(Script::new());
    fill(&mut rig, &a);
    fill(&mut rig, &other);
    let transport = a.transport();
    transport.set_write_marks(5, 10);
    register(&a, ProducerKind::Push);
    register(&other, ProducerKind::Push);
    transport.write([1; 10]);
    other.transport().write([1; 1000]);
    rig.turns(5);
    assert!(calls(&a).is_empty());
    transport.write([1]);
    rig.turns(5);
    assert_eq!(calls(&a), ["pause"]);
    // Raising the high mark does not resume the producer; raising the low mark does.
    transport.set_write_marks(5, 1000);
    rig.turns(5);
    drain(&mut rig, &a, &b, 5);
    assert_eq!(calls(&a), ["pause"]);
    transport.set_write_marks(6, 1000);
    rig.turns(5);
    assert_eq!(calls(&a), ["pause", "resume"]);
    assert!(calls(&other).is_empty(), "marks are per connection");
    // A high mark lowered below the buffered bytes pauses the producer.
    transport.set_write_marks(2, 4);
    rig.turns(5);
    assert_eq!(calls(&a), ["pause", "resume", "pause"]);
    // A low mark above the high one doesn't make it flap.
    transport.set_write_marks(50, 3);
    rig.turns(20);
    assert_eq!(calls(&a), ["pause", "resume", "pause"]);
    drain(&mut rig, &a, &b, 6);
    assert_eq!(calls(&a)[3..], ["resume"]);
}

pub(crate) fn c65_the_pause_comes_from_the_turn(kit: Kit) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new().on_a(On::Data, move |a, transport| {
        a.log.note("begin");
        big.chunks(10_000).for_each(|piece| transport.write(piece));
        a.log.note("end");
    }));
    register(&a, ProducerKind::Push);
    b.send(b"x");
    rig.until("pause", || a.log.has("pause"));
    rig.tick();
    assert_eq!(a.log.entries(), ["made", "data(1)", "begin", "end", "pause"]);
    if kit.in_flight() {
        return; // bytes taken by an operation count as buffered until they are sent
    }
    // Bytes sent immediately cause no pause.
    let mut rig = kit.rig();
    if let Some(network) = &rig.network {
        network.set_capacity(1024 * 1024);
    }
    let (a, _b) = rig.accept(Script::new());
    register(&a, ProducerKind::Push);
    a.tell(|transport| transport.write(vec![1; 100 * 1024]));
    rig.tick();
    assert_eq!(a.transport().buffered(), 0);
    assert!(calls(&a).is_empty());
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

pub(crate) fn c65_is_full_is_immediate(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    let log = a.log.clone();
    a.tell(move |transport| {
        transport.write(vec![1; HIGH]);
        log.note(format!("{}", transport.is_full()));
        transport.write([1]);
        log.note(format!("{}", transport.is_full()));
    });
    rig.turns(2);
    assert_eq!(a.log.entries()[1..], ["false", "true"]);
    rig.until("all of it", || {
        b.take_all();
        b.got_len() == HIGH + 1 && a.transport().buffered() == 0
    });
    assert!(!a.transport().is_full());
    let log = a.log.clone();
    a.tell(move |transport| {
        let mut writes = 0;
        while !transport.is_full() {
            transport.write([1; 1000]);
            writes += 1;
        }
        log.note(format!("{writes} writes"));
    });
    rig.turns(2);
    assert!(a.log.has("66 writes"), "{:?}", a.log.entries());
    // After a close writes no longer fill the buffer, so `wants_data` must end such a loop.
    let (mut rig, a, _b) = kit.accept(Script::new());
    a.tell(|transport| {
        transport.lose_connection();
        while transport.wants_data() && !transport.is_full() {
            transport.write([1; 1000]);
        }
    });
    rig.turns(2);
}

pub(crate) fn c66_a_pull_producer_is_asked_each_time_the_buffer_is_empty(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    let wrong = Rc::new(Cell::new(0));
    let (full, mut left) = (wrong.clone(), 5);
    a.produces(ProducerKind::Pull, move |call, transport| {
        full.set(full.get() + transport.buffered() + usize::from(call != Call::Resume));
        transport.write(vec![1; 100_000]);
        left -= 1;
        if left == 0 {
            transport.unregister_producer();
        }
    });
    rig.until("all of it", || {
        b.take(10_000);
        b.got_len() == 500_000
    });
    assert_eq!((calls(&a), wrong.get()), (vec!["resume".to_owned(); 5], 0));
    // A producer that writes nothing isn't asked again until other bytes have been sent.
    let (mut rig, a, b) = kit.accept(Script::new());
    register(&a, ProducerKind::Pull);
    rig.turns(5);
    for _ in 0..5 {
        a.transport().set_write_marks(LOW, HIGH);
        a.transport().write("");
        rig.tick();
    }
    assert_eq!(calls(&a), ["resume"]);
    a.transport().write("x");
    rig.until("a second request", || calls(&a).len() == 2);
    rig.tick();
    assert_eq!(calls(&a), ["resume"; 2]);
    b.take_all();
    // It is never paused, even after a large write.
    let (mut rig, a, _b) = kit.accept(Script::new());
    let big = Bytes::from_static(kit.big());
    a.produces(ProducerKind::Pull, move |_, transport| transport.write_bytes(big.clone()));
    rig.tick();
    assert_eq!(calls(&a), ["resume"]);
    assert!(a.transport().is_full());
}

pub(crate) fn c66_the_first_request_comes_from_the_turn(kit: Kit) {
    let registers = |a: &A| {
        a.log.note("begin");
        register(a, ProducerKind::Pull);
        a.log.note("end");
    };
    for place in ["connection_made", "a queued call", "outside"] {
        let (mut rig, a, _b) = kit.accept(match place {
            "connection_made" => Script::new().on_a(On::Made, move |a, _| registers(a)),
            _ => Script::new(),
        });
        let end = a.clone();
        match place {
            "a queued call" => assert!(a.tell(move |_| registers(&end))),
            "outside" => registers(&a),
            _ => {}
        }
        rig.tick();
        assert_eq!(a.log.entries(), ["made", "begin", "end", "resume"], "{place}");
    }
    // With a stuck buffer it is still asked once, and again when the buffer has emptied.
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().write(kit.big());
    rig.turns(3);
    register(&a, ProducerKind::Pull);
    rig.tick();
    assert!(a.transport().buffered() > 0);
    assert_eq!(calls(&a), ["resume"]);
    takes(&mut rig, &b, kit.big().len());
    assert_eq!(calls(&a), ["resume"; 2]);
}

pub(crate) fn c67_a_second_producer_is_refused_and_the_first_stays(kit: Kit) {
    let (push, pull) = (ProducerKind::Push, ProducerKind::Pull);
    let cases: [(_, _, &[&str]); 2] =
        [(push, pull, &["pause", "resume"]), (pull, push, &["resume"])];
    for (first, second, expected) in cases {
        let (mut rig, a, b) = kit.accept(Script::new());
        let big = Bytes::from_static(kit.big());
        let writes = big.clone();
        a.produces(first, move |call, transport| {
            if call == Call::Resume && first == ProducerKind::Pull {
                transport.write_bytes(writes.clone());
                transport.unregister_producer();
            }
        });
        let refused = rig.end();
        let held = Rc::new(());
        let inside = held.clone();
        let transport = a.transport();
        let source = refused.source(&transport, move |_, _| drop(inside.clone()));
        assert!(transport.register_producer(source, second).is_err());
        assert_eq!(Rc::strong_count(&held), 1, "the refused producer is dropped");
        if first == ProducerKind::Push {
            transport.write_bytes(big.clone());
        }
        takes(&mut rig, &b, big.len());
        assert_eq!(calls(&a), expected);
        assert_eq!(refused.log.len(), 0, "without any call");
        transport.unregister_producer();
        register(&a, second);
    }
}

/// Logs its drop.
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

/// Ways to end a connection at once, with or without a producer.
const AT_ONCE: [&str; 5] =
    ["abort", "panic", "the peer's reset", "the idle timeout", "the hard cap"];

type Act = fn(&Transport);

/// Closes that wait for a producer, and their reasons when it writes nothing.
const WAITING: [(&str, Act); 2] = [
    ("CloseTimedOut", Transport::lose_connection),
    ("Failed(no prose)", |transport| transport.fail(couplet::Failure::msg("no prose"))),
];

pub(crate) fn c69_stop_producing_comes_before_connection_lost(kit: Kit) {
    for state in ["flowing", "paused", "pull", "unregistered"] {
        for ending in AT_ONCE.map(Ending::named) {
            let (mut rig, a, b) = with_producer(kit, state);
            ending.bring(&mut rig, &a, &b);
            assert_stopped(&mut rig, &a, state, ending.reason);
        }
        let (mut rig, a, _b) = with_producer(kit, state);
        rig.stop(Duration::from_millis(100));
        assert_stopped(&mut rig, &a, state, "Shutdown");
        for (reason, close) in WAITING {
            let (mut rig, a, b) = with_producer(kit, state);
            close(&a.transport());
            rig.tick();
            for _ in 0..3 {
                rig.pass(Duration::from_secs(30));
                rig.tick();
            }
            if state == "unregistered" {
                // Without a producer these proceed to the drain and complete it.
                b.close();
                rig.lost(&a);
                assert!(!a.log.has("stop"), "{reason}");
            } else {
                assert_stopped(&mut rig, &a, state, reason);
            }
        }
    }
}

/// A connection with a producer in this state.
fn with_producer(kit: Kit, state: &str) -> (Rig, A, B) {
    let (mut rig, a, b) = kit.accept(Script::new());
    let kind = if state == "pull" { ProducerKind::Pull } else { ProducerKind::Push };
    a.produces(kind, |call, transport| {
        if call == Call::Stop {
            transport.unregister_producer(); // harmless there
        }
    });
    if state == "paused" {
        a.transport().write_bytes(Bytes::from_static(kit.big()));
        rig.until("pause", || a.log.has("pause"));
    }
    if state == "unregistered" {
        a.transport().unregister_producer();
    }
    rig.turns(3);
    (rig, a, b)
}

/// A is lost for this reason; a producer that was registered was stopped once, and last.
fn assert_stopped(rig: &mut Rig, a: &A, state: &str, reason: &str) {
    assert_eq!(rig.lost(a), reason, "{state}");
    let calls = calls(a);
    let stops = calls.iter().filter(|call| *call == "stop").count();
    assert_eq!(stops, usize::from(state != "unregistered"), "{state}, {reason}: {calls:?}");
    assert!(stops == 0 || calls.last().is_some_and(|call| call == "stop"), "{calls:?}");
}

pub(crate) fn c70_a_producer_may_write_and_unregister_while_it_is_resumed(kit: Kit) {
    // It writes, unregisters, and registers another in its place.
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
    // A producer that fills the buffer when resumed is paused after it returns.
    let big = Bytes::from_static(kit.big());
    let (mut rig, a, b) = kit.accept(Script::new());
    let (own, more) = (a.clone(), big.clone());
    a.produces(ProducerKind::Push, move |call, transport| {
        if call == Call::Resume {
            transport.write_bytes(more.clone());
            own.log.note("returned");
        }
    });
    a.transport().write_bytes(big);
    rig.until("pause", || a.log.has("pause"));
    rig.until("a second pause", || {
        b.take(256 * 1024);
        a.log.count("pause") == 2
    });
    assert_eq!(a.log.entries()[1..], ["pause", "resume", "returned", "pause"]);
    // A close or an abort from `resume_producing` works like any other.
    let closes: [(Act, &str); 2] =
        [(Transport::lose_connection, "Done(Us)"), (Transport::abort_connection, "Aborted")];
    for (close, reason) in closes {
        let (mut rig, a, b) = kit.accept(Script::new());
        a.produces(ProducerKind::Pull, move |call, transport| {
            if call == Call::Resume {
                transport.write("bye");
                close(transport);
                transport.unregister_producer();
            }
        });
        rig.take_to_the_end(&b);
        if reason == "Done(Us)" {
            assert_eq!((b.got(), b.saw()), (b"bye".to_vec(), Saw::Fin));
        }
        b.close();
        assert_eq!(rig.lost(&a), reason);
    }
}

pub(crate) fn c71_drained_fires_at_the_low_mark(kit: Kit) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new());
    let (transport, log) = (a.transport(), Log::default());
    log.watch_loss("nothing is buffered", transport.drained());
    assert_eq!(log.take(), ["nothing is buffered: ok"]);
    transport.write(big);
    rig.turns(3);
    log.watch_loss("one", transport.drained());
    log.watch_loss("two", transport.drained());
    let cancelled = transport.drained();
    cancelled.cancel();
    drop(cancelled.add_errback(|_| Ok(())));
    drop(transport.drained());
    rig.tick();
    assert_eq!(log.len(), 0);
    // Bytes written after the call count too.
    transport.write("and more");
    let buffered = Rc::new(Cell::new(0));
    let (asked, at_the_time) = (transport.clone(), buffered.clone());
    transport.drained().map(move |()| at_the_time.set(asked.buffered() + 1)).detach();
    rig.until("drained", || {
        b.take(64 * 1024);
        log.len() == 2
    });
    assert_eq!(log.take(), ["one: ok", "two: ok"]);
    assert!((1..=LOW + 1).contains(&buffered.get()), "{}", buffered.get());
    takes(&mut rig, &b, big.len() + 8);
    if kit.has_a_system() {
        return;
    }
    // The exact edge.
    let (mut rig, a, b) = kit.accept(Script::new());
    fill(&mut rig, &a);
    a.transport().write(vec![1; LOW + 10]);
    log.watch_loss("at the edge", a.transport().drained());
    drain(&mut rig, &a, &b, 9);
    assert_eq!(log.len(), 0);
    drain(&mut rig, &a, &b, 1);
    log.watch_loss("below it", a.transport().drained());
    assert_eq!(log.take(), ["at the edge: ok", "below it: ok"]);
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

pub(crate) fn c71_drained_fails_with_the_connection(kit: Kit) {
    let log = Log::default();
    // A panic discards the bytes too.
    for ending in ["abort", "panic", "the peer's reset"].map(Ending::named) {
        let (mut rig, a, b) = kit.accept(Script::new());
        kit.big().chunks(64 * 1024).for_each(|piece| a.transport().write(piece));
        rig.turns(3);
        log.watch_loss("drained", a.transport().drained());
        ending.bring(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), ending.reason);
        log.watch_loss("late", a.transport().drained());
        let failed = ["drained", "late"].map(|name| format!("{name}: {}", ending.reason));
        assert_eq!(log.take(), failed);
    }
    // A close sends the bytes.
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().write_bytes(Bytes::from_static(kit.big()));
    rig.turns(3);
    log.watch_loss("drained", a.transport().drained());
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(log.take(), ["drained: ok"]);
    b.close();
    rig.lost(&a);
}

pub(crate) fn c71_past_the_hard_cap_the_connection_overflows(kit: Kit) {
    const CAP: usize = 100_000;
    let capped = || {
        let (rig, a, b) = kit.accept(Script::new());
        a.transport().set_write_cap(Some(CAP));
        (rig, a, b)
    };
    let (mut rig, a, b) = capped();
    a.tell(|transport| transport.write(vec![1; CAP]));
    rig.until("the cap itself", || {
        b.take_all();
        b.got_len() == CAP && a.transport().buffered() == 0
    });
    register(&a, ProducerKind::Push);
    let log = a.log.clone();
    a.tell(move |transport| {
        transport.write(vec![1; CAP]);
        transport.write([1]);
        log.note("returned");
    });
    assert_eq!(rig.lost(&a), "Overflow");
    assert_eq!(a.log.entries()[1..], ["returned", "stop", "lost(Overflow)"]);
    assert_eq!(rig.take_to_the_end(&b), Saw::Reset);
    assert!(matches!(a.reason(), Reason::Overflow));
    // Not before the write that would exceed it.
    let (mut rig, a, _b) = capped();
    while !a.is_lost() {
        let passes = a.transport().buffered() + 1000 > CAP;
        a.transport().write([1; 1000]);
        rig.turn();
        assert_eq!(a.is_lost(), passes);
    }
    // An empty write never exceeds the cap, even a cap lowered below the buffered bytes.
    let (mut rig, a, _b) = kit.accept(Script::new());
    a.transport().write(kit.big());
    rig.turns(3);
    a.transport().set_write_cap(Some(1));
    assert!(a.transport().buffered() > 1);
    a.transport().write("");
    a.transport().write_bytes(Bytes::new());
    rig.tick();
    assert!(!a.is_lost());
    a.transport().write("x");
    assert_eq!(rig.lost(&a), "Overflow");
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

pub(crate) fn c71_without_a_cap_write_takes_everything(kit: Kit) {
    let (big, times) = (kit.big(), 4);
    let (mut rig, a, b) = kit.accept(Script::new());
    a.tell(move |transport| (0..times).for_each(|_| transport.write(big)));
    rig.turn();
    assert!(!a.is_lost() && a.transport().dropped() == 0);
    takes(&mut rig, &b, times * big.len());
    assert!(b.got().chunks(big.len()).all(|part| part == big));
    assert_eq!(a.transport().buffered(), 0);
}
