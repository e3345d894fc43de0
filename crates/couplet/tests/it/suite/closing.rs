//! Rows 1 to 10 and 16: how a connection is closed, and what is flushed, drained and dropped.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::How;
use couplet::{Bytes, ProducerKind, Transport};

use super::endings::{ENDINGS, call_everything, write_big};
use super::far::{B, Saw};
use super::kit::{BOTH_ROLES, Kit, Rig};
use super::recorder::{A, Broken, Call, On, Script};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What closes the connection, in the end.
const CLOSES: [fn(&Transport); 2] = [Transport::lose_connection, Transport::abort_connection];
/// What closes our half.
const HALVES: [fn(&Transport); 2] = [Transport::lose_connection, Transport::lose_write_connection];

pub(crate) fn c01_connection_lost_comes_exactly_once(kit: Kit) {
    for ending in ENDINGS {
        for role in BOTH_ROLES {
            let mut rig = kit.rig();
            let (a, b) = rig.pair(role, ending.script(Script::new()));
            ending.bring(&mut rig, &a, &b);
            let what = format!("{} as {role:?}", ending.name);
            assert_eq!(rig.lost(&a), ending.reason, "{what}");
            b.try_send(b"late");
            call_everything(&a.transport());
            rig.pass(s(3600));
            rig.turns(2);
            assert_eq!(rig.lost(&a), ending.reason, "{what}");
            let counts = rig.counts(&a);
            assert_eq!((counts.closes.len(), counts.late), (1, 0), "{what}");
            rig.still_echoes();
        }
    }
}

pub(crate) fn c02_lose_connection_returns_before_connection_lost(kit: Kit) {
    returns_first_in_every_place(kit, Transport::lose_connection);
}

/// Has A call `close` in each callback and from outside: nothing comes inside the call.
pub(super) fn returns_first_in_every_place(kit: Kit, close: fn(&Transport)) {
    let around = |a: &A| {
        let log = a.log.clone();
        move |transport: &Transport| {
            log.note("before");
            close(transport);
            log.note("after");
        }
    };
    let neighbours = |rig: &mut Rig, a: &A, b: &B| {
        rig.until("after", || a.log.has("after"));
        b.fin();
        rig.lost(a);
        let (before, after) = (a.log.place("before"), a.log.place("after"));
        assert_eq!(before + 1, after, "{:?}", a.log.entries());
    };
    for on in [On::Made, On::Data, On::ReadClosed] {
        let mut rig = kit.rig();
        let a = rig.end();
        let port = rig.listen(&a, Script::new().aware().once(on, around(&a)));
        let b = rig.far(&port);
        if on != On::Made {
            b.send(b"x");
            b.fin();
        }
        neighbours(&mut rig, &a, &b);
    }
    for fin_first in [false, true] {
        for place in ["a tell", "a timed call", "outside"] {
            let mut rig = kit.rig();
            let (a, b) = rig.accept(Script::new().aware());
            if fin_first {
                b.fin();
                rig.until("read_closed", || a.log.has("read_closed"));
            }
            let act = around(&a);
            match place {
                "a tell" => assert!(a.tell(act)),
                "a timed call" => {
                    a.call_later(s(1), act);
                    rig.pass(s(1));
                }
                _ => act(&a.transport()),
            }
            assert!(!a.is_lost(), "nothing comes before the turn");
            neighbours(&mut rig, &a, &b);
        }
    }
}

// Each callback counts how deep it is, and the rig fails the test when two were nested.
pub(crate) fn c03_connection_lost_never_comes_inside_another_callback(kit: Kit) {
    for close in CLOSES {
        let half_closed = || Script::new().aware().once(On::Made, Transport::lose_write_connection);
        let scripts = [
            half_closed().on(On::Data, close),
            half_closed().on(On::WriteClosed, close),
            half_closed().on(On::ReadClosed, close),
            Script::new().aware().on(On::ReadClosed, close),
        ];
        for script in scripts {
            let mut rig = kit.rig();
            let (a, b) = rig.accept(script);
            rig.tick();
            b.try_send(b"x");
            rig.tick();
            b.fin();
            rig.lost(&a);
        }
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        let source = a.source(&a.transport(), move |call, transport| {
            if call == Call::Resume {
                close(transport);
                transport.unregister_producer();
            }
        });
        let registered = a.transport().register_producer(source, ProducerKind::Pull);
        registered.expect("it is the first");
        rig.until("resume", || a.log.has("resume"));
        b.fin();
        rig.lost(&a);
        close_from_another(kit, close);
    }
    // With the write side shut, from outside, where a synchronous end would be easiest.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new().aware().once(On::Made, Transport::lose_write_connection));
    b.fin();
    a.transport().lose_connection();
    assert!(!a.is_lost());
    rig.lost(&a);
}

/// A1's callback closes A2: no callback of A2 comes inside.
fn close_from_another(kit: Kit, close: fn(&Transport)) {
    let mut rig = kit.rig();
    let (a2, b2) = rig.accept(Script::new());
    let other = a2.clone();
    let (a1, b1) = rig.accept(Script::new().once(On::Data, move |_| {
        other.log.note("before");
        close(&other.transport());
        other.log.note("after");
    }));
    b1.send(b"x");
    rig.until("data", || a1.log.has("data"));
    b2.fin();
    rig.lost(&a2);
    assert_eq!(a2.log.entries()[..3], ["made", "before", "after"]);
}

pub(crate) fn c04_nothing_is_delivered_after_lose_connection(kit: Kit) {
    // From inside the first of many pieces.
    let mut rig = kit.read_buffer(4096).rig();
    let a = rig.end();
    let port = rig.listen(&a, Script::new().on(On::Data, Transport::lose_connection));
    let b = rig.far(&port);
    b.send(&[7; 64 * 1024]);
    b.fin();
    rig.lost(&a);
    assert_eq!(a.log.count("data"), 1);
    assert!(!a.log.has("read_closed"));
    // While paused.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new().once(On::Made, Transport::pause_producing));
    b.send(b"0123456789");
    rig.tick();
    a.transport().lose_connection();
    a.transport().resume_producing();
    b.fin();
    rig.lost(&a);
    assert_eq!(a.log.len(), 2, "{:?}", a.log.entries());
    // What arrives before the call but is not read yet, and what arrives after it.
    for sent_before in [true, false] {
        for outside in [true, false] {
            let mut rig = kit.rig();
            let (a, b) = rig.accept(Script::new());
            if sent_before && outside {
                b.send(b"0123456789");
            }
            if outside {
                a.transport().lose_connection();
            } else {
                a.tell(Transport::lose_connection);
                rig.turn();
            }
            b.try_send(b"late");
            rig.tick();
            assert_eq!(a.log.entries(), ["made"]);
            b.fin();
            rig.lost(&a);
            assert_eq!(a.log.len(), 2);
        }
    }
}

pub(crate) fn c04_a_connection_closed_by_another_in_the_same_turn_gets_nothing(kit: Kit) {
    closed_by_another_gets_nothing(kit, Transport::lose_connection);
}

/// Of two connections that have bytes, the one that is called first closes the other.
pub(super) fn closed_by_another_gets_nothing(kit: Kit, close: fn(&Transport)) {
    let mut rig = kit.rig();
    let ends = [rig.end(), rig.end()];
    let b: Vec<B> = (0..2)
        .map(|n| {
            let other = ends[1 - n].clone();
            let script = Script::new().on(On::Data, move |_| close(&other.transport()));
            let port = rig.listen(&ends[n], script);
            rig.far(&port)
        })
        .collect();
    rig.until("both", || ends.iter().all(A::is_made));
    b.iter().for_each(|b| b.send(b"0123456789"));
    rig.until("data", || ends.iter().any(|a| a.log.has("data")));
    rig.tick();
    assert_eq!(ends[0].log.count("data") + ends[1].log.count("data"), 1);
    b.iter().for_each(B::fin);
    ends.iter().for_each(|a| drop(rig.lost(a)));
}

/// Writes BIG in 1000 pieces of both kinds.
pub(super) fn write_in_pieces(transport: &Transport, big: &'static [u8]) {
    for (n, piece) in big.chunks(big.len() / 1000).enumerate() {
        match n % 2 {
            0 => transport.write(piece),
            _ => transport.write_bytes(Bytes::from_static(piece)),
        }
    }
}

pub(crate) fn c05_what_was_written_before_lose_connection_arrives(kit: Kit) {
    let big = kit.big();
    for (what, len) in [("all", big.len()), ("one byte", 1), ("nothing", 0)] {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new().once(On::Data, move |transport| {
            match len {
                0 | 1 => transport.write(&big[..len]),
                _ => write_in_pieces(transport, big),
            }
            transport.lose_connection();
        }));
        b.send(b"x");
        rig.until(what, || {
            b.take(64 * 1024);
            b.saw() != Saw::Open
        });
        assert_eq!(b.saw(), Saw::Fin, "{what}");
        assert!(b.got() == big[..len], "{what}: {} bytes", b.got_len());
        b.close();
        assert_eq!(rig.lost(&a), "Done(Us)", "{what}");
    }
    // While an earlier write is half out.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    write_big(&rig, &a);
    rig.turns(3);
    assert!(rig.counts(&a).written > 0 && a.transport().buffered() > 0);
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == big);
    b.close();
    assert_eq!(rig.lost(&a), "Done(Us)");
}

/// A writes "bye" and closes; B has taken it, with our FIN, and keeps its side open.
fn draining(kit: Kit, close: fn(&Transport)) -> (Rig, A, B) {
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.transport().write("bye");
    close(&a.transport());
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(b.got(), b"bye");
    (rig, a, b)
}

pub(crate) fn c05_connection_lost_comes_at_the_peers_fin(kit: Kit) {
    let (mut rig, a, b) = draining(kit, Transport::lose_connection);
    b.send(b"0123456789");
    rig.tick();
    assert_eq!(a.log.entries(), ["made"]);
    b.fin();
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(a.log.entries(), ["made", "lost(Done(Us))"]);
    assert_eq!(rig.counts(&a).closes, [How::Normal]);
}

pub(crate) fn c05_an_error_ends_the_drain_and_leaves_the_reason(kit: Kit) {
    type Close = (fn(&Transport), &'static str);
    let closes: [Close; 2] = [
        (Transport::lose_connection, "Done(Us)"),
        (|transport| transport.fail(Broken("e")), "Failed(e)"),
    ];
    for (close, reason) in closes {
        let (mut rig, a, b) = draining(kit, close);
        b.reset();
        assert_eq!(rig.lost(&a), reason);
    }
}

pub(crate) fn c05_the_drain_ends_at_one_mebibyte(kit: Kit) {
    const MEBIBYTE: usize = 1024 * 1024;
    let (mut rig, a, b) = draining(kit, Transport::lose_connection);
    let mut left = MEBIBYTE - 1;
    while left > 0 {
        left -= b.try_send(&vec![0; left.min(16 * 1024)]);
        rig.turn();
    }
    while rig.counts(&a).received < MEBIBYTE - 1 {
        rig.turn();
    }
    rig.tick();
    assert!(!a.is_lost());
    b.send(b"x");
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.passed(), Duration::ZERO);
}

pub(crate) fn c05_the_drain_ends_at_the_close_deadline_counted_from_our_fin(kit: Kit) {
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    write_big(&rig, &a);
    a.transport().lose_connection();
    rig.tick();
    rig.pass(s(20));
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    for at in [10, 20, 29] {
        rig.pass(s(20 + at) - rig.passed());
        if at < 29 {
            b.send(b"x"); // what comes is not progress
        }
        rig.tick();
        assert!(!a.is_lost(), "at {at} s");
    }
    rig.pass(s(1));
    rig.turn();
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.counts(&a).closes, [How::Normal]);
}

pub(crate) fn c05_a_close_after_the_peers_fin_has_no_drain(kit: Kit) {
    for aware in [true, false] {
        let mut rig = kit.rig();
        let script = Script::new().once(On::ReadClosed, |transport| transport.write("reply"));
        let (a, b) = rig.accept(if aware { script.aware() } else { script });
        b.send(b"x");
        b.fin();
        rig.until("read_closed", || a.log.has("read_closed"));
        a.transport().lose_connection();
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
        assert_eq!(b.got(), b"reply");
        assert_eq!(rig.lost(&a), "Done(Peer)", "and B has done nothing more");
    }
    // The FIN comes while we flush.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    write_big(&rig, &a);
    a.transport().lose_connection();
    rig.turns(3);
    b.fin();
    rig.tick();
    assert!(!a.is_lost());
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == kit.big());
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.passed(), Duration::ZERO);
}

pub(crate) fn c05_the_drain_is_left_out_while_the_reactor_stops(kit: Kit) {
    let (mut rig, a, _b) = draining(kit, Transport::lose_connection);
    let (a2, _b2) = rig.accept(Script::new());
    let run = rig.l.run(|reactor| {
        reactor.stop();
        a2.transport().lose_connection();
        Ok(())
    });
    run.expect("a run that is stopped ends well");
    assert_eq!(rig.passed(), Duration::ZERO);
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.lost(&a2), "Done(Us)");
    assert_eq!(rig.counts(&a2).closes, [How::Normal]);
}

pub(crate) fn c06_writes_after_lose_connection_are_dropped(kit: Kit) {
    late_writes_are_dropped(kit, Transport::lose_connection);
}

pub(crate) fn c06_writes_after_lose_write_connection_are_dropped(kit: Kit) {
    late_writes_are_dropped(kit, Transport::lose_write_connection);
    // What comes is still delivered, and after write_closed a write is dropped too.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.transport().lose_write_connection();
    rig.until("write_closed", || a.log.has("write_closed"));
    a.transport().write("late");
    b.send(b"x");
    rig.until("data", || a.log.has("data"));
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!((b.got(), a.transport().dropped()), (vec![], 4));
    b.fin();
    rig.lost(&a);
}

fn late_writes_are_dropped(kit: Kit, close: fn(&Transport)) {
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.tell(move |transport| {
        transport.write("a");
        close(transport);
        transport.write("b");
        transport.write_bytes("c");
    });
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!((b.got(), a.transport().dropped()), (b"a".to_vec(), 2));
    // With nothing buffered.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.tell(move |transport| {
        close(transport);
        transport.write("b");
    });
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!((b.got_len(), rig.counts(&a).writes), (0, 0));
    // While it flushes.
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    write_big(&rig, &a);
    close(&a.transport());
    for _ in 0..3 {
        rig.turn();
        a.transport().write("b");
    }
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == kit.big());
}

pub(crate) fn c06_a_registered_producer_writes_on_until_it_unregisters(kit: Kit) {
    for close in HALVES {
        for kind in [ProducerKind::Push, ProducerKind::Pull] {
            let mut rig = kit.rig();
            let (a, b) = rig.accept(Script::new());
            let source = a.source(&a.transport(), |_, _| {});
            a.tell(move |transport| {
                transport.register_producer(source, kind).expect("it is the first");
                transport.write("a");
                close(transport);
            });
            a.call_later(s(1), |transport| transport.write("b"));
            rig.turn();
            rig.pass(s(1));
            rig.turns(2);
            a.tell(|transport| {
                transport.write("c");
                transport.unregister_producer();
                transport.write("d");
            });
            assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
            assert_eq!(b.got(), b"abc", "{kind:?}");
            assert!(!a.log.has("stop"), "{:?}", a.log.entries());
        }
    }
}

pub(crate) fn c06_a_producer_that_registers_while_closing_is_stopped(kit: Kit) {
    for close in HALVES {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        write_big(&rig, &a);
        close(&a.transport());
        rig.turn();
        a.log.note("before");
        let source = a.source(&a.transport(), |_, _| {});
        let registered = a.transport().register_producer(source, ProducerKind::Push);
        registered.expect("there is no other");
        a.log.note("after");
        rig.turns(3);
        assert_eq!(a.log.entries(), ["made", "before", "after", "stop"]);
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin, "without an unregister");
        assert_eq!((a.log.count("stop"), a.log.count("resume")), (1, 0));
    }
}

pub(crate) fn c08_calls_inside_and_after_connection_lost_do_nothing(kit: Kit) {
    for ending in ENDINGS {
        let mut rig = kit.rig();
        let script = ending.script(Script::new()).once(On::Lost, call_everything);
        let (a, b) = rig.accept(script);
        ending.bring(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), ending.reason, "{}", ending.name);
        let entries = a.log.entries();
        call_everything(&a.transport());
        rig.turns(5);
        rig.pass(s(3600));
        rig.turns(2);
        assert_eq!(a.log.entries(), entries, "{}", ending.name);
        let counts = rig.counts(&a);
        assert_eq!((counts.closes.len(), counts.late), (1, 0), "{}", ending.name);
    }
}

pub(crate) fn c10_an_empty_write_does_nothing(kit: Kit) {
    let mut rig = kit.rig();
    let (a, b) = rig.couple(Script::new(), Script::new());
    a.transport().write("");
    a.transport().write_bytes(Bytes::new());
    a.log.watch("drained", a.transport().drained());
    rig.turns(3);
    assert_eq!(rig.counts(&a).writes, 0);
    assert_eq!(a.log.entries(), ["made", "drained: ok"]);
    a.tell(|transport| transport.write_sequence(["", "a", ""]));
    rig.until("data", || b.log.has("data"));
    rig.tick();
    assert_eq!(b.log.entries(), ["made", "data(1)"]);
    assert_eq!(rig.counts(&a).writes, 1);
    a.tell(|transport| {
        transport.write("");
        transport.lose_connection();
    });
    assert_eq!(rig.lost(&b), "Done(Peer)");
    assert_eq!(rig.lost(&a), "Done(Us)");
}

pub(crate) fn c16_a_second_lose_connection_does_nothing(kit: Kit) {
    // While it flushes, at once and later.
    let mut rig = kit.rig();
    let (a, _b) = rig.accept(Script::new().once(On::Lost, Transport::lose_connection));
    write_big(&rig, &a);
    a.tell(|transport| {
        transport.lose_connection();
        transport.lose_connection();
    });
    rig.tick();
    rig.pass(s(20));
    a.transport().lose_connection();
    rig.turn();
    rig.pass(s(10));
    rig.turn();
    assert!(a.is_lost(), "30 s after the first");
    assert_eq!(rig.lost(&a), "CloseTimedOut");
    assert_eq!(rig.counts(&a).closes, [How::Reset]);
    // While it drains.
    let (mut rig, a, _b) = draining(kit, Transport::lose_connection);
    rig.pass(s(20));
    a.transport().lose_connection();
    rig.turn();
    rig.pass(s(10));
    rig.turn();
    assert!(a.is_lost(), "30 s after our FIN");
    assert_eq!(rig.lost(&a), "Done(Us)");
    let counts = rig.counts(&a);
    assert_eq!((counts.shut_writes, counts.closes.len()), (1, 1));
    // And a lose that comes first, seen by a callback that counts.
    let calls: Rc<Cell<u32>> = Rc::default();
    let count = calls.clone();
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new().on(On::Lost, move |transport| {
        count.set(count.get() + 1);
        transport.lose_connection();
    }));
    b.fin();
    rig.lost(&a);
    assert_eq!(calls.get(), 1);
}
