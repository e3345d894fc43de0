//! Rows 65 to 71: producers and the other forms of backpressure.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::{Bytes, ConnectionLost, Deferred, ProducerKind, Protocol, Reason, Transport};

use super::kit::{Kit, Rig};
use super::peer::{B, Saw};
use super::recorder::{A, Call, On, Script};

const HIGH: usize = 64 * 1024;
const LOW: usize = 16 * 1024;

/// Registers a producer that only logs its calls.
fn register(a: &A, kind: ProducerKind) {
    register_with(a, kind, |_, _| {});
}

fn register_with(a: &A, kind: ProducerKind, act: impl FnMut(Call, &Transport) + 'static) {
    let transport = a.transport();
    transport.register_producer(a.source(&transport, act), kind).expect("the first producer");
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

/// A push producer writes BIG, `step` bytes a turn, while B reads `takes` bytes a turn. Returns A.
fn flow(kit: Kit, marks: Option<(usize, usize)>, step: usize, takes: usize) -> A {
    let (low, high) = marks.unwrap_or((LOW, HIGH));
    let big = kit.big();
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    let transport = a.transport();
    if let Some((low, high)) = marks {
        transport.set_write_marks(low, high);
    }
    let paused = Rc::new(Cell::new(false));
    let wrong: Rc<RefCell<Vec<String>>> = Rc::default();
    let (switch, noted) = (paused.clone(), wrong.clone());
    register_with(&a, ProducerKind::Push, move |call, transport| {
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
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
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
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
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
    let mut rig = kit.rig();
    let a = rig.end();
    let log = a.log.clone();
    let script = Script::new().once(On::Data, move |transport| {
        log.note("begin");
        for piece in big.chunks(10_000) {
            transport.write(piece);
        }
        log.note("end");
    });
    let port = rig.listen(&a, script);
    let b = rig.peer(&port);
    rig.until("connection_made", || a.is_made());
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
    let mut rig = kit.read_buffer(CHUNK).rig();
    let (a, b) = rig.accept(Script::new());
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
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
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
    let mut rig = kit.rig();
    let (a, _b) = rig.accept(Script::new());
    a.tell(|transport| {
        transport.lose_connection();
        while transport.wants_data() && !transport.is_full() {
            transport.write([1; 1000]);
        }
    });
    rig.turns(2);
}

pub(crate) fn c66_a_pull_producer_is_asked_each_time_the_buffer_is_empty(kit: Kit) {
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    let (left, wrong) = (Rc::new(Cell::new(5)), Rc::new(Cell::new(0)));
    let (countdown, full) = (left.clone(), wrong.clone());
    register_with(&a, ProducerKind::Pull, move |call, transport| {
        full.set(full.get() + transport.buffered() + usize::from(call != Call::Resume));
        transport.write(vec![1; 100_000]);
        countdown.set(countdown.get() - 1);
        if countdown.get() == 0 {
            transport.unregister_producer();
        }
    });
    for _ in 0..10_000 {
        b.take(10_000);
        rig.turn();
        if b.got_len() == 500_000 {
            break;
        }
    }
    assert_eq!((b.got_len(), left.get(), wrong.get()), (500_000, 0, 0));
    assert_eq!(calls(&a), ["resume"; 5]);
    // A producer that writes nothing isn't asked again until other bytes have been sent.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
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
    let mut rig = kit.rig();
    let (a, _b) = rig.accept(Script::new());
    let big = Bytes::from_static(kit.big());
    register_with(&a, ProducerKind::Pull, move |_, transport| transport.write_bytes(big.clone()));
    rig.tick();
    assert_eq!(calls(&a), ["resume"]);
    assert!(a.transport().is_full());
}

pub(crate) fn c66_the_first_request_comes_from_the_turn(kit: Kit) {
    let registers = |a: &A| {
        let a = a.clone();
        move |transport: &Transport| {
            a.log.note("begin");
            let source = a.source(transport, |_, _| {});
            transport.register_producer(source, ProducerKind::Pull).expect("the first producer");
            a.log.note("end");
        }
    };
    // In connection_made, in a queued call, outside.
    for place in 0..3 {
        let mut rig = kit.rig();
        let a = rig.end();
        let script =
            if place == 0 { Script::new().once(On::Made, registers(&a)) } else { Script::new() };
        let port = rig.listen(&a, script);
        let _b = rig.peer(&port);
        rig.until("connection_made", || a.is_made());
        match place {
            1 => assert!(a.tell(registers(&a))),
            2 => registers(&a)(&a.transport()),
            _ => {}
        }
        rig.tick();
        assert_eq!(a.log.entries(), ["made", "begin", "end", "resume"]);
    }
    // With a stuck buffer it is still asked once, and again when the buffer has emptied.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    let big = kit.big();
    a.transport().write(big);
    rig.turns(3);
    register(&a, ProducerKind::Pull);
    rig.tick();
    assert!(a.transport().buffered() > 0);
    assert_eq!(calls(&a), ["resume"]);
    rig.until("BIG", || {
        b.take_all();
        b.got_len() == big.len()
    });
    rig.tick();
    assert_eq!(calls(&a), ["resume"; 2]);
}

pub(crate) fn c67_a_second_producer_is_refused_and_the_first_stays(kit: Kit) {
    for (first, second) in
        [(ProducerKind::Push, ProducerKind::Pull), (ProducerKind::Pull, ProducerKind::Push)]
    {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        let big = Bytes::from_static(kit.big());
        let writes = big.clone();
        register_with(&a, first, move |call, transport| {
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
        rig.until("BIG", || {
            b.take_all();
            b.got_len() == big.len()
        });
        rig.tick();
        let expected: &[&str] =
            if first == ProducerKind::Push { &["pause", "resume"] } else { &["resume"] };
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
    for inside in [true, false] {
        let mut rig = kit.rig();
        let a = rig.end();
        let own = a.clone();
        let late = move |transport: &Transport| {
            own.log.note("begin");
            let dropped = Dropped(own.clone());
            let source = own.source(transport, move |_, _| {
                let _held = &dropped;
            });
            transport.register_producer(source, ProducerKind::Push).expect("no other producer");
            own.log.note("end");
        };
        let script =
            if inside { Script::new().once(On::Lost, late.clone()) } else { Script::new() };
        let port = rig.listen(&a, script);
        let b = rig.peer(&port);
        rig.until("connection_made", || a.is_made());
        b.reset();
        rig.until("connection_lost", || a.is_lost());
        if !inside {
            late(&a.transport());
            assert!(!a.log.has("stop"), "not inside the call");
        }
        rig.turns(3);
        assert_eq!(a.log.entries(), ["made", "lost(Lost)", "begin", "end", "stop", "dropped"]);
    }
}

/// A reason, and a way to end a connection with a producer for that reason.
type End = (&'static str, fn(&mut Rig, &A, &B));

const ENDS: [End; 8] = [
    ("Aborted", |_, a, _| a.transport().abort_connection()),
    ("Panicked(no poem)", |rig, a, b| {
        a.tell(|_| panic!("no poem"));
        rig.take_to_the_end(b);
        b.fin();
    }),
    ("Lost", |_, _, b| b.reset()),
    ("Timeout", |rig, a, _| {
        a.transport().set_idle_timeout(Some(Duration::from_secs(5)));
        rig.turn();
        rig.pass(Duration::from_secs(5));
    }),
    ("Overflow", |_, a, _| {
        a.transport().set_write_cap(Some(1));
        a.transport().write("xx");
    }),
    ("CloseTimedOut", |rig, a, _| {
        a.transport().lose_connection();
        rig.tick();
        for _ in 0..3 {
            rig.pass(Duration::from_secs(30));
            rig.tick();
        }
    }),
    ("Failed(no prose)", |rig, a, _| {
        a.transport().fail(couplet::Failure::msg("no prose"));
        rig.tick();
        for _ in 0..3 {
            rig.pass(Duration::from_secs(30));
            rig.tick();
        }
    }),
    ("Shutdown", |rig, _, _| rig.stop(Duration::from_millis(100))),
];

pub(crate) fn c69_stop_producing_comes_before_connection_lost(kit: Kit) {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Flowing,
        Paused,
        Pull,
        Gone,
    }
    for (reason, end) in ENDS {
        for state in [State::Flowing, State::Paused, State::Pull, State::Gone] {
            let mut rig = kit.rig();
            let (a, b) = rig.accept(Script::new());
            let kind = if state == State::Pull { ProducerKind::Pull } else { ProducerKind::Push };
            register_with(&a, kind, |call, transport| {
                if call == Call::Stop {
                    transport.unregister_producer(); // harmless there
                }
            });
            if state == State::Paused {
                a.transport().write_bytes(Bytes::from_static(rig.kit.big()));
                rig.until("pause", || a.log.has("pause"));
            }
            if state == State::Gone {
                a.transport().unregister_producer();
            }
            rig.turns(3);
            end(&mut rig, &a, &b);
            if state == State::Gone && ["CloseTimedOut", "Failed(no prose)"].contains(&reason) {
                // Without a producer these proceed to the drain and complete it.
                b.close();
                rig.lost(&a);
            } else {
                assert_eq!(rig.lost(&a), reason);
            }
            let calls = calls(&a);
            if state == State::Gone {
                assert!(!calls.contains(&"stop".to_owned()), "{reason}: {calls:?}");
            } else {
                let stops = calls.iter().filter(|call| *call == "stop").count();
                assert_eq!(stops, 1, "{reason}: {calls:?}");
                assert_eq!(calls.last().map(String::as_str), Some("stop"));
            }
        }
    }
}

pub(crate) fn c70_a_producer_may_write_and_unregister_while_it_is_resumed(kit: Kit) {
    // It writes, unregisters, and registers another in its place.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    let own = a.clone();
    register_with(&a, ProducerKind::Pull, move |_, transport| {
        transport.write("first");
        assert!(!transport.is_full());
        transport.unregister_producer();
        let log = own.log.clone();
        let next = own.source(transport, move |_, transport| {
            log.note("the other");
            transport.write("second");
            transport.unregister_producer();
        });
        transport.register_producer(next, ProducerKind::Pull).expect("the first has unregistered");
        own.log.note("returned");
    });
    rig.until("both", || {
        b.take_all();
        b.got() == b"firstsecond"
    });
    assert_eq!(a.log.entries()[1..], ["resume", "returned", "resume", "the other"]);
    // A producer that fills the buffer when resumed is paused after it returns.
    let big = Bytes::from_static(kit.big());
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    let (own, more) = (a.clone(), big.clone());
    register_with(&a, ProducerKind::Push, move |call, transport| {
        if call == Call::Resume {
            transport.write_bytes(more.clone());
            own.log.note("returned");
        }
    });
    a.transport().write_bytes(big.clone());
    rig.until("pause", || a.log.has("pause"));
    rig.until("a second pause", || {
        b.take(256 * 1024);
        a.log.count("pause") == 2
    });
    assert_eq!(a.log.entries()[1..], ["pause", "resume", "returned", "pause"]);
    // A close or an abort from `resume_producing` works like any other.
    for reason in ["Done(Us)", "Aborted"] {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        register_with(&a, ProducerKind::Pull, move |call, transport| {
            if call == Call::Resume {
                transport.write("bye");
                match reason {
                    "Aborted" => transport.abort_connection(),
                    _ => transport.lose_connection(),
                }
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

/// The outcome of a `drained()` or `flushed()` of A.
#[derive(Clone, Default)]
struct Drained(Rc<RefCell<Option<Result<(), String>>>>);

impl Drained {
    fn of(transport: &Transport) -> Drained {
        Drained::by(transport.drained())
    }

    fn by(awaited: Deferred<()>) -> Drained {
        let slot = Drained::default();
        let seen = slot.clone();
        awaited
            .add_both(move |result| {
                *seen.0.borrow_mut() = Some(result.map_err(|failure| {
                    let lost = failure.downcast_ref::<ConnectionLost>();
                    super::recorder::text(&lost.expect("a ConnectionLost").0)
                }));
                Ok(())
            })
            .detach();
        slot
    }

    fn outcome(&self) -> Option<Result<(), String>> {
        self.0.borrow().clone()
    }
}

pub(crate) fn c71_drained_fires_at_the_low_mark(kit: Kit) {
    let big = kit.big();
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    let transport = a.transport();
    assert_eq!(Drained::of(&transport).outcome(), Some(Ok(())), "nothing is buffered");
    transport.write(big);
    rig.turns(3);
    let both = [Drained::of(&transport), Drained::of(&transport)];
    let cancelled = transport.drained();
    cancelled.cancel();
    drop(cancelled.add_errback(|_| Ok(())));
    drop(transport.drained());
    rig.tick();
    assert_eq!(both[0].outcome(), None);
    // Bytes written after the call count too.
    transport.write("and more");
    let buffered = Rc::new(Cell::new(0));
    let (asked, at_the_time) = (transport.clone(), buffered.clone());
    transport.drained().map(move |()| at_the_time.set(asked.buffered() + 1)).detach();
    rig.until("drained", || {
        b.take(64 * 1024);
        both.iter().all(|drained| drained.outcome() == Some(Ok(())))
    });
    assert!((1..=LOW + 1).contains(&buffered.get()), "{}", buffered.get());
    rig.until("all of it", || {
        b.take_all();
        b.got_len() == big.len() + 8
    });
    if kit.has_a_system() {
        return;
    }
    // The exact edge.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    fill(&mut rig, &a);
    a.transport().write(vec![1; LOW + 10]);
    let drained = Drained::of(&a.transport());
    drain(&mut rig, &a, &b, 9);
    assert_eq!(drained.outcome(), None);
    drain(&mut rig, &a, &b, 1);
    assert_eq!(drained.outcome(), Some(Ok(())));
    assert_eq!(Drained::of(&a.transport()).outcome(), Some(Ok(())));
}

pub(crate) fn c71_flushed_fires_when_everything_is_sent(kit: Kit) {
    let big = kit.big();
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    let transport = a.transport();
    assert_eq!(Drained::by(transport.flushed()).outcome(), Some(Ok(())), "nothing is buffered");
    transport.write(big);
    rig.turns(3);
    let flushed = Drained::by(transport.flushed());
    // Bytes written after the call must be sent too.
    transport.write("and more");
    let left = Rc::new(Cell::new(usize::MAX));
    let (asked, at_the_time) = (transport.clone(), left.clone());
    transport.flushed().map(move |()| at_the_time.set(asked.buffered())).detach();
    rig.until("the low mark", || {
        b.take(if kit.has_a_system() { 64 * 1024 } else { 1000 });
        transport.buffered() <= LOW
    });
    assert!(transport.buffered() == 0 || flushed.outcome().is_none(), "not at the low mark");
    rig.until("all of it", || {
        b.take_all();
        flushed.outcome().is_some()
    });
    assert_eq!((flushed.outcome(), left.get()), (Some(Ok(())), 0));
    // Discarded bytes were not flushed.
    transport.write(big);
    rig.turns(3);
    let cut = Drained::by(transport.flushed());
    transport.abort_connection();
    assert_eq!(rig.lost(&a), "Aborted");
    assert_eq!(cut.outcome(), Some(Err("Aborted".to_owned())));
    assert_eq!(Drained::by(transport.flushed()).outcome(), Some(Err("Aborted".to_owned())));
}

pub(crate) fn c71_drained_fails_with_the_connection(kit: Kit) {
    let big = Bytes::from_static(kit.big());
    for (reason, end) in [ENDS[0], ENDS[2]] {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        a.transport().write_bytes(big.clone());
        rig.turns(3);
        let drained = Drained::of(&a.transport());
        end(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), reason);
        assert_eq!(drained.outcome(), Some(Err(reason.to_owned())));
        let late = Drained::of(&a.transport());
        assert_eq!(late.outcome(), Some(Err(reason.to_owned())));
    }
    // A panic discards the bytes too.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    for piece in big.chunks(64 * 1024) {
        a.transport().write(piece);
    }
    rig.turns(3);
    let drained = Drained::of(&a.transport());
    a.tell(|_| panic!("no poem"));
    rig.take_to_the_end(&b);
    b.fin();
    assert_eq!(rig.lost(&a), "Panicked(no poem)");
    assert_eq!(drained.outcome(), Some(Err("Panicked(no poem)".to_owned())));
    // A close sends the bytes.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.transport().write_bytes(big);
    rig.turns(3);
    let drained = Drained::of(&a.transport());
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(drained.outcome(), Some(Ok(())));
    b.close();
    rig.lost(&a);
}

pub(crate) fn c71_past_the_hard_cap_the_connection_overflows(kit: Kit) {
    const CAP: usize = 100_000;
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.transport().set_write_cap(Some(CAP));
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
    let mut rig = kit.rig();
    let (a, _b) = rig.accept(Script::new());
    let transport = a.transport();
    transport.set_write_cap(Some(CAP));
    while !a.is_lost() {
        let passes = transport.buffered() + 1000 > CAP;
        transport.write([1; 1000]);
        rig.turn();
        assert_eq!(a.is_lost(), passes);
    }
    // An empty write never exceeds the cap, even a cap lowered below the buffered bytes.
    let mut rig = kit.rig();
    let (a, _b) = rig.accept(Script::new());
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
    let mut rig = kit.rig();
    let (a, _b) = rig.accept(Script::new());
    a.transport().set_write_cap(Some(CAP));
    let most = Rc::new(Cell::new(0));
    let seen = most.clone();
    a.tell(move |transport| {
        let piece = [1; 1024];
        for _ in 0..100_000 {
            transport.write(piece);
            seen.set(seen.get().max(transport.buffered()));
        }
    });
    assert_eq!(rig.lost(&a), "Overflow");
    assert!(most.get() <= CAP, "{}", most.get());
}

pub(crate) fn c71_without_a_cap_write_takes_everything(kit: Kit) {
    let (big, times) = (kit.big(), 4);
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.tell(move |transport| {
        for _ in 0..times {
            transport.write(big);
        }
    });
    rig.turn();
    assert!(!a.is_lost() && a.transport().dropped() == 0);
    rig.until("all of it", || {
        b.take_all();
        b.got_len() == times * big.len()
    });
    assert!(b.got().chunks(big.len()).all(|part| part == big));
    assert_eq!(a.transport().buffered(), 0);
}
