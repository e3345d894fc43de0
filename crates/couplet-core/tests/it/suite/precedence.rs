//! Row 20b: which reason a connection reports when several apply.

use std::time::Duration;

use couplet::Transport;

use super::endings::write_big;
use super::kit::{Kit, Rig, s};
use super::peer::{B, Saw};
use super::recorder::{A, Broken, Script};

/// A name, the expected reason, the end that the peer sees, and the acts of one callback.
type Told = (&'static str, &'static str, Saw, &'static [fn(&Transport)]);

const LOSE: fn(&Transport) = Transport::lose_connection;
const ABORT: fn(&Transport) = Transport::abort_connection;
const FAIL: fn(&Transport) = |transport| transport.fail(Broken("e"));
const PANIC: fn(&Transport) = |_| panic!("p");
const OVERFLOW: fn(&Transport) = |transport| {
    transport.set_write_cap(Some(1000));
    transport.write([0; 1001]);
};

const TOLD: &[Told] = &[
    ("fail, fail", "Failed(e)", Saw::Fin, &[FAIL, |transport| transport.fail(Broken("e2"))]),
    ("fail, panic", "Failed(e)", Saw::Fin, &[FAIL, PANIC]),
    ("panic after lose", "Panicked(p)", Saw::Fin, &[LOSE, PANIC]),
    ("abort, fail", "Failed(e)", Saw::Reset, &[ABORT, FAIL]),
    ("fail, abort", "Failed(e)", Saw::Reset, &[FAIL, ABORT]),
    ("over the cap, then abort", "Aborted", Saw::Reset, &[OVERFLOW, ABORT]),
    ("over the cap, then fail", "Failed(e)", Saw::Reset, &[OVERFLOW, FAIL]),
    ("over the cap, then lose", "Overflow", Saw::Reset, &[OVERFLOW, LOSE]),
];

/// A name, the expected reason, the end that the peer sees, and the events.
type Case = (&'static str, &'static str, Saw, fn(&mut Rig, &A, &B));

const CASES: &[Case] = &[
    ("fail, no progress", "Failed(e)", Saw::Reset, |rig, a, _| {
        stuck(rig, a, FAIL);
        rig.pass(s(30));
    }),
    ("the close deadline before the end of the grace", "Shutdown", Saw::Reset, |rig, a, _| {
        a.transport().set_close_deadline(Some(Duration::from_millis(200)));
        write_big(rig, a);
        rig.tick();
        rig.stop(Duration::from_millis(50));
    }),
    ("stopped while it flushes", "Shutdown", Saw::Reset, |rig, a, _| {
        stuck(rig, a, LOSE);
        rig.stop(Duration::from_millis(50));
    }),
];

/// A name, the expected reason, and the events.
type Plain = (&'static str, &'static str, fn(&mut Rig, &A, &B));

/// Cases where the peer resets, and so sees nothing.
const RESETS: &[Plain] = &[
    ("fail, reset while it flushes", "Failed(e)", |rig, a, b| {
        stuck(rig, a, FAIL);
        b.reset();
    }),
    ("reset, then abort before the turn", "Aborted", |_, a, b| {
        b.reset();
        ABORT(&a.transport());
    }),
];

fn stuck(rig: &mut Rig, a: &A, close: fn(&Transport)) {
    write_big(rig, a);
    close(&a.transport());
    rig.tick();
}

pub(crate) fn c20b_the_first_reason_in_the_list_wins(kit: Kit) {
    for (name, reason, sees, acts) in TOLD {
        let (mut rig, a, b) = kit.accept(Script::new());
        a.tell(|transport| acts.iter().for_each(|act| act(transport)));
        ended(&mut rig, &a, &b, (name, reason, *sees));
    }
    for (name, reason, sees, act) in CASES {
        let (mut rig, a, b) = kit.accept(Script::new());
        act(&mut rig, &a, &b);
        ended(&mut rig, &a, &b, (name, reason, *sees));
    }
    for (name, reason, act) in RESETS {
        let (mut rig, a, b) = kit.accept(Script::new());
        act(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), *reason, "{name}");
    }
}

fn ended(rig: &mut Rig, a: &A, b: &B, (name, reason, sees): (&str, &str, Saw)) {
    rig.turns(3);
    b.fin();
    assert_eq!(rig.lost(a), reason, "{name}");
    assert_eq!(rig.take_to_the_end(b), sees, "{name}");
}

pub(crate) fn c20b_c24_done_says_who_closed_first(kit: Kit) {
    let cases: &[Plain] = &[
        ("we, then the peer", "Done(Us)", |rig, a, b| {
            LOSE(&a.transport());
            rig.take_to_the_end(b);
            b.fin();
        }),
        ("the peer, then we a turn later", "Done(Peer)", |rig, a, b| {
            rig.fin(a, b);
            LOSE(&a.transport());
        }),
        ("we half-close, then the peer", "Done(Us)", |rig, a, b| {
            a.transport().lose_write_connection();
            rig.take_to_the_end(b);
            LOSE(&a.transport());
            rig.turn();
            b.fin();
        }),
        ("the peer, while we flush", "Done(Us)", |rig, a, b| {
            stuck(rig, a, LOSE);
            b.fin();
            rig.take_to_the_end(b);
        }),
    ];
    for (name, reason, act) in cases {
        let (mut rig, a, b) = kit.accept(Script::new().aware());
        act(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), *reason, "{name}");
    }
}

pub(crate) fn c20b_a_fin_held_back_by_a_pause_counts(kit: Kit) {
    for (fin_first, reason) in [(true, "Done(Peer)"), (false, "Done(Us)")] {
        let (mut rig, a, b) = kit.accept(Script::new());
        a.transport().pause_producing();
        rig.turn();
        b.send(b"abc");
        if fin_first {
            b.fin();
        }
        rig.tick();
        a.transport().lose_connection();
        rig.turn();
        b.fin();
        assert_eq!(rig.lost(&a), reason);
        assert_eq!(a.log.len(), 2, "{:?}", a.log.entries());
    }
}
