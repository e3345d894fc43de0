//! Rows 1 to 4, 8, 10 and 16: `lose_connection` and `connection_lost`.

use std::cell::Cell;
use std::rc::Rc;

use couplet::driver::CloseMode;
use couplet::{Bytes, ProducerKind, Transport};

use super::draining::draining;
use super::endings::{ENDINGS, call_everything, write_big};
use super::kit::{BOTH_ROLES, Kit, Rig, s};
use super::peer::B;
use super::reading::the_first_acts_on_the_other;
use super::recorder::{A, Call, On, Script};

/// Both ways to close.
const CLOSES: [fn(&Transport); 2] = [Transport::lose_connection, Transport::abort_connection];

pub(crate) fn c01_connection_lost_comes_exactly_once(kit: Kit) {
    for ending in ENDINGS {
        for role in BOTH_ROLES {
            let (mut rig, a, b) = kit.pair(role, ending.script(Script::new()));
            ending.bring(&mut rig, &a, &b);
            let what = format!("{} as {role:?}", ending.name);
            assert_eq!(rig.lost(&a), ending.reason, "{what}");
            b.try_send(b"late");
            assert!(!call_everything(&a.transport()));
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

/// Has A call `close` in each callback and from outside: no callback runs inside the call.
pub(super) fn returns_first_in_every_place(kit: Kit, close: fn(&Transport)) {
    let around = |a: &A| {
        let log = a.log.clone();
        move |transport: &Transport| {
            log.note("before");
            close(transport);
            log.note("after");
        }
    };
    let assert_adjacent = |rig: &mut Rig, a: &A, b: &B| {
        rig.until("after", || a.log.has("after"));
        b.fin();
        rig.lost(a);
        let (before, after) = (a.log.position("before"), a.log.position("after"));
        assert_eq!(before + 1, after, "{:?}", a.log.entries());
    };
    for on in [On::Made, On::Data, On::ReadClosed] {
        let mut rig = kit.rig();
        let a = rig.end();
        let b = rig.peer_of(&a, Script::new().aware().once(on, around(&a)));
        if on != On::Made {
            b.send(b"x");
            b.fin();
        }
        assert_adjacent(&mut rig, &a, &b);
    }
    for fin_first in [false, true] {
        for place in ["a tell", "a timed call", "outside"] {
            let (mut rig, a, b) = kit.accept(Script::new().aware());
            if fin_first {
                rig.fin(&a, &b);
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
            assert!(!a.is_lost(), "not before the turn");
            assert_adjacent(&mut rig, &a, &b);
        }
    }
}

// Each callback tracks its nesting depth, and the rig fails the test if two were nested.
pub(crate) fn c03_connection_lost_never_comes_inside_another_callback(kit: Kit) {
    let half_closed = || Script::new().aware().once(On::Made, Transport::lose_write_connection);
    for close in CLOSES {
        let scripts = [
            half_closed().on(On::Data, close),
            half_closed().on(On::WriteClosed, close),
            half_closed().on(On::ReadClosed, close),
            Script::new().aware().on(On::ReadClosed, close),
        ];
        for script in scripts {
            let (mut rig, a, b) = kit.accept(script);
            rig.tick();
            b.try_send(b"x");
            rig.tick();
            b.fin();
            rig.lost(&a);
        }
        let (mut rig, a, b) = kit.accept(Script::new());
        a.produces(ProducerKind::Pull, move |call, transport| {
            if call == Call::Resume {
                close(transport);
                transport.unregister_producer();
            }
        });
        rig.until("resume", || a.log.has("resume"));
        b.fin();
        rig.lost(&a);
        close_from_another(kit, close);
    }
    // With the write side shut and a call from outside, where a synchronous end is most tempting.
    let (mut rig, a, b) = kit.accept(half_closed());
    b.fin();
    a.transport().lose_connection();
    assert!(!a.is_lost());
    rig.lost(&a);
}

/// A1's callback closes A2: no callback of A2 runs inside it.
fn close_from_another(kit: Kit, close: fn(&Transport)) {
    let (mut rig, a2, b2) = kit.accept(Script::new());
    let other = a2.clone();
    let (a1, b1) = rig.accept(Script::new().once(On::Data, move |_| {
        other.log.note("before");
        close(&other.transport());
        other.log.note("after");
    }));
    rig.sends(&a1, &b1, b"x");
    b2.fin();
    rig.lost(&a2);
    assert_eq!(a2.log.entries()[..3], ["made", "before", "after"]);
}

pub(crate) fn c04_nothing_is_delivered_after_lose_connection(kit: Kit) {
    // From inside the first of many pieces.
    let script = Script::new().on(On::Data, Transport::lose_connection);
    let (mut rig, a, b) = kit.read_buffer(4096).arriving(script);
    b.send(&[7; 64 * 1024]);
    b.fin();
    rig.lost(&a);
    assert_eq!(a.log.count("data"), 1);
    assert!(!a.log.has("read_closed"));
    // While paused.
    let (mut rig, a, b) = kit.accept(Script::new().once(On::Made, Transport::pause_producing));
    b.send(b"0123456789");
    rig.tick();
    a.transport().lose_connection();
    a.transport().resume_producing();
    b.fin();
    rig.lost(&a);
    assert_eq!(a.log.len(), 2, "{:?}", a.log.entries());
    // Bytes that arrive before the call but are not read yet, and bytes that arrive after it.
    for sent_before in [true, false] {
        for outside in [true, false] {
            let (mut rig, a, b) = kit.accept(Script::new());
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

/// Two connections have pending bytes; the one called first closes the other.
pub(super) fn closed_by_another_gets_nothing(kit: Kit, close: fn(&Transport)) {
    let (mut rig, ends, b) = the_first_acts_on_the_other(kit, close);
    rig.tick();
    assert_eq!(ends[0].log.count("data") + ends[1].log.count("data"), 1);
    b.iter().for_each(B::fin);
    ends.iter().for_each(|a| drop(rig.lost(a)));
}

pub(crate) fn c08_calls_inside_and_after_connection_lost_do_nothing(kit: Kit) {
    for ending in ENDINGS {
        let wants_data = Rc::new(Cell::new(None));
        let inside = wants_data.clone();
        let all = move |transport: &Transport| inside.set(Some(call_everything(transport)));
        let (mut rig, a, b) = kit.accept(ending.script(Script::new()).once(On::Lost, all));
        ending.bring(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), ending.reason, "{}", ending.name);
        let entries = a.log.entries();
        assert_eq!(wants_data.get(), Some(false), "{}", ending.name);
        assert!(!call_everything(&a.transport()), "{}", ending.name);
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
    let ends_30_s_after_the_first = |rig: &mut Rig, a: &A, reason: &str| {
        rig.pass(s(20));
        a.transport().lose_connection();
        rig.turn();
        rig.pass(s(10));
        rig.turn();
        assert!(a.is_lost(), "30 s after the first close or our FIN: {reason}");
        assert_eq!(rig.lost(a), reason);
    };
    // While it flushes, immediately and later.
    let (mut rig, a, _b) = kit.accept(Script::new().once(On::Lost, Transport::lose_connection));
    write_big(&rig, &a);
    a.tell(|transport| {
        transport.lose_connection();
        transport.lose_connection();
    });
    rig.tick();
    ends_30_s_after_the_first(&mut rig, &a, "CloseTimedOut");
    assert_eq!(rig.counts(&a).closes, [CloseMode::Reset]);
    // While it drains.
    let (mut rig, a, _b) = draining(kit, Transport::lose_connection);
    ends_30_s_after_the_first(&mut rig, &a, "Done(Us)");
    let counts = rig.counts(&a);
    assert_eq!((counts.shut_writes, counts.closes.len()), (1, 1));
}
