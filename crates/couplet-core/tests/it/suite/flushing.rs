//! Rows 5, 6 and 11 to 14: a close waits for the flush and for a registered producer.

use std::time::Duration;

use couplet::driver::CloseMode;
use couplet::{Bytes, ProducerKind, Transport};

use super::endings::write_big;
use super::kit::{BOTH_ROLES, Kit, Rig, s};
use super::peer::{B, Saw};
use super::recorder::{A, Call, On, Script};

const HALVES: [fn(&Transport); 2] = [Transport::lose_connection, Transport::lose_write_connection];
const KINDS: [ProducerKind; 2] = [ProducerKind::Push, ProducerKind::Pull];

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
        let (mut rig, a, b) = kit.accept(Script::new().once(On::Data, move |transport| {
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
    // While an earlier write is partly sent.
    let (mut rig, a, b) = kit.accept(Script::new());
    write_big(&rig, &a);
    rig.turns(3);
    assert!(rig.counts(&a).written > 0 && a.transport().buffered() > 0);
    a.transport().lose_connection();
    rig.ends(&a, &b, "Done(Us)");
    assert!(b.got() == big);
}

pub(crate) fn c06_writes_after_lose_connection_are_dropped(kit: Kit) {
    late_writes_are_dropped(kit, Transport::lose_connection);
}

pub(crate) fn c06_writes_after_lose_write_connection_are_dropped(kit: Kit) {
    late_writes_are_dropped(kit, Transport::lose_write_connection);
    // Input is still delivered, and a write after write_closed is dropped too.
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().lose_write_connection();
    rig.until("write_closed", || a.log.has("write_closed"));
    a.transport().write("late");
    rig.sends(&a, &b, b"x");
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!((b.got(), a.transport().dropped()), (vec![], 4));
    b.fin();
    rig.lost(&a);
}

fn late_writes_are_dropped(kit: Kit, close: fn(&Transport)) {
    let (mut rig, a, b) = kit.accept(Script::new());
    a.tell(move |transport| {
        transport.write("a");
        close(transport);
        transport.write("b");
        transport.write_bytes("c");
    });
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!((b.got(), a.transport().dropped()), (b"a".to_vec(), 2));
    // With nothing buffered.
    let (mut rig, a, b) = kit.accept(Script::new());
    a.tell(move |transport| {
        close(transport);
        transport.write("b");
    });
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!((b.got_len(), rig.counts(&a).writes), (0, 0));
    // While it flushes.
    let (mut rig, a, b) = kit.accept(Script::new());
    write_big(&rig, &a);
    close(&a.transport());
    for _ in 0..3 {
        rig.turn();
        a.transport().write("b");
    }
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == kit.big());
}

pub(crate) fn c06a_writes_until_the_end_are_sent(kit: Kit) {
    for close in HALVES {
        let until_end = |a: &A| a.transport().set_write_until_end(true);
        // In the callback of the close, after some output and without.
        for before in ["a", ""] {
            let (mut rig, a, b) = kit.accept(Script::new());
            until_end(&a);
            a.tell(move |transport| {
                transport.write(before);
                close(transport);
                transport.write("b");
                transport.write_bytes("c");
                // Too late to change it.
                transport.set_write_until_end(false);
            });
            assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
            assert_eq!(b.got(), format!("{before}bc").into_bytes());
            // Our end was sent.
            a.transport().write("late");
            assert_eq!(a.transport().dropped(), 4);
            a.transport().set_write_until_end(true);
            a.transport().write("late");
            assert_eq!(a.transport().dropped(), 8);
        }
        // While it flushes, also by a producer that registers then.
        for kind in KINDS {
            let (mut rig, a, b) = kit.accept(Script::new());
            until_end(&a);
            write_big(&rig, &a);
            close(&a.transport());
            for _ in 0..3 {
                rig.turn();
                a.transport().write("b");
            }
            a.produces(kind, |call, transport| {
                if call == Call::Resume {
                    transport.write("c");
                    transport.unregister_producer();
                    transport.write("d");
                }
            });
            if kind == ProducerKind::Push {
                a.tell(Transport::unregister_producer);
            }
            assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
            let late: &[u8] = if kind == ProducerKind::Pull { b"bbbcd" } else { b"bbb" };
            assert!(b.got() == [kit.big(), late].concat(), "{kind:?}");
            assert_eq!((a.transport().dropped(), a.log.count("stop")), (0, 0));
        }
    }
}

/// A connection with a producer, which A registers and closes with in one callback.
fn with_producer(
    kit: Kit,
    kind: ProducerKind,
    close: fn(&Transport),
    act: impl FnMut(Call, &Transport) + 'static,
) -> (Rig, A, B) {
    let (rig, a, b) = kit.accept(Script::new());
    let register = a.producer(kind, act);
    a.tell(move |transport| {
        register(transport);
        close(transport);
    });
    (rig, a, b)
}

pub(crate) fn c06_a_registered_producer_writes_on_until_it_unregisters(kit: Kit) {
    for close in HALVES {
        for kind in KINDS {
            let (mut rig, a, b) = kit.accept(Script::new());
            let register = a.producer(kind, |_, _| {});
            a.tell(move |transport| {
                register(transport);
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
        let (mut rig, a, b) = kit.accept(Script::new());
        write_big(&rig, &a);
        close(&a.transport());
        rig.turn();
        a.log.note("before");
        a.produces(ProducerKind::Push, |_, _| {});
        a.log.note("after");
        rig.turns(3);
        assert_eq!(a.log.entries(), ["made", "before", "after", "stop"]);
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin, "without an unregister");
        assert_eq!((a.log.count("stop"), a.log.count("resume")), (1, 0));
    }
}

pub(crate) fn c11_lose_connection_waits_for_a_pull_producer(kit: Kit) {
    let mut asked = 0;
    let act = move |call, transport: &Transport| {
        asked += usize::from(call == Call::Resume);
        transport.write([asked as u8; 1000]);
        if asked == 5 {
            transport.unregister_producer();
        }
    };
    let (mut rig, a, b) = with_producer(kit, ProducerKind::Pull, Transport::lose_connection, act);
    rig.until("the fifth request", || {
        b.take_all();
        let fifth = a.log.count("resume") == 5;
        assert!(fifth || b.saw() == Saw::Open);
        fifth
    });
    rig.ends(&a, &b, "Done(Us)");
    let all: Vec<u8> = (1..=5).flat_map(|n| [n; 1000]).collect();
    assert!(b.got() == all);
    assert_eq!((a.log.count("resume"), a.log.count("stop")), (5, 0));
}

pub(crate) fn c12_lose_connection_waits_for_a_push_producer(kit: Kit) {
    for role in BOTH_ROLES {
        let (mut rig, a, b) = kit.pair(role, Script::new());
        let register = a.producer(ProducerKind::Push, |_, _| {});
        a.tell(|transport| {
            register(transport);
            transport.lose_connection();
        });
        for second in 1..=3 {
            a.call_later(s(second), move |transport| {
                transport.write([0; 1000]);
                if second == 3 {
                    transport.unregister_producer();
                }
            });
        }
        for _ in 0..3 {
            rig.tick();
            b.take_all();
            assert_eq!(b.saw(), Saw::Open);
            rig.pass(s(1));
        }
        rig.ends(&a, &b, "Done(Us)");
        assert_eq!(b.got_len(), 3000);
        assert_eq!(a.log.entries(), ["made", "lost(Done(Us))"], "no stop, no pause");
    }
}

pub(crate) fn c12_lose_connection_resumes_a_paused_producer(kit: Kit) {
    for close in HALVES {
        let (mut rig, a, b) = kit.accept(Script::new());
        a.produces(ProducerKind::Push, |call, transport| {
            if call == Call::Resume {
                transport.write("end");
                transport.unregister_producer();
            }
        });
        write_big(&rig, &a);
        rig.until("pause", || a.log.has("pause"));
        close(&a.transport());
        rig.turn();
        assert_eq!(a.log.entries(), ["made", "pause", "resume"], "though B has read nothing");
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
        assert!(b.got() == [kit.big(), b"end"].concat());
        b.fin();
        rig.lost(&a);
    }
}

pub(crate) fn c12_lose_write_connection_waits_for_a_producer(kit: Kit) {
    let close = Transport::lose_write_connection;
    let (mut rig, a, b) = with_producer(kit, ProducerKind::Push, close, |_, _| {});
    rig.tick();
    b.take_all();
    assert_eq!((b.saw(), a.log.has("write_closed")), (Saw::Open, false));
    a.transport().write("last");
    a.transport().unregister_producer();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(b.got(), b"last");
    rig.until("write_closed", || a.log.has("write_closed"));
    rig.sends(&a, &b, b"x");
    assert_eq!(a.log.entries(), ["made", "write_closed", "data(1)"]);
}

pub(crate) fn c12_the_close_deadline_bounds_a_silent_producer(kit: Kit) {
    for close in HALVES {
        for kind in KINDS {
            let (mut rig, a, b) = with_producer(kit, kind, close, |_, _| {});
            rig.tick();
            rig.pass(s(29));
            rig.turn();
            assert!(!a.is_lost(), "{kind:?}");
            rig.pass(s(1));
            rig.turn();
            assert!(a.is_lost(), "{kind:?}");
            assert_eq!(rig.lost(&a), "CloseTimedOut");
            assert_eq!(a.log.last_but(1), "stop");
            assert_eq!(rig.counts(&a).closes, [CloseMode::Reset]);
            assert_eq!(rig.take_to_the_end(&b), Saw::Reset);
        }
        // A producer that writes occasionally keeps the connection alive.
        let (mut rig, a, b) = with_producer(kit, ProducerKind::Push, close, |_, _| {});
        for n in 1..=30 {
            a.tell(|transport| transport.write("x"));
            rig.gets(&b, &[b'x'; 30][..n]);
            rig.pass(s(20));
            rig.turn();
            assert!(!a.is_lost(), "after {n} bytes");
        }
    }
}

pub(crate) fn c14_unregistering_while_closing_lets_the_close_go_on(kit: Kit) {
    for (place, kind) in [
        ("outside", ProducerKind::Push),
        ("a timed call", ProducerKind::Push),
        ("resume_producing", ProducerKind::Pull),
    ] {
        let mut asked = 0;
        let act = move |_, transport: &Transport| {
            asked += 1;
            match asked {
                1 => transport.write("x"),
                _ => transport.unregister_producer(),
            }
        };
        let (mut rig, a, b) = with_producer(kit, kind, Transport::lose_connection, act);
        if place != "resume_producing" {
            rig.tick();
            b.take_all();
            assert_eq!(b.saw(), Saw::Open);
        }
        match place {
            "outside" => a.transport().unregister_producer(),
            "a timed call" => drop(a.call_later(Duration::ZERO, Transport::unregister_producer)),
            _ => {}
        }
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin, "{place}");
        b.fin();
        assert_eq!(rig.lost(&a), "Done(Us)", "{place}");
        assert_eq!(rig.passed(), Duration::ZERO, "{place}");
    }
}

pub(crate) fn c14_unregistering_after_the_peer_has_gone_does_nothing(kit: Kit) {
    for inside_stop in [true, false] {
        let act = move |_, transport: &Transport| {
            if inside_stop {
                transport.unregister_producer();
            }
        };
        let (push, close) = (ProducerKind::Push, Transport::lose_connection as fn(&_));
        let (mut rig, a, b) = with_producer(kit, push, close, act);
        rig.turn();
        b.reset();
        assert_eq!(rig.lost(&a), "Lost");
        a.transport().unregister_producer();
        rig.turns(5);
        assert_eq!(a.log.entries(), ["made", "stop", "lost(Lost)"]);
        let counts = rig.counts(&a);
        assert_eq!((counts.writes, counts.shut_writes, counts.closes.len()), (0, 0, 1));
    }
}
