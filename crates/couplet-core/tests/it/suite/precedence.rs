//! Row 20b: which reason a connection reports when several apply.

use std::time::Duration;

use couplet::Transport;

use super::endings::write_big;
use super::kit::{Kit, Rig};
use super::peer::{B, Saw};
use super::recorder::{A, Broken, Script};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A name, the events, the expected reason, and the end that the peer sees.
type Case = (&'static str, fn(&mut Rig, &A, &B), &'static str, Saw);

const CASES: &[Case] = &[
    (
        "fail, fail",
        |_, a, _| {
            a.tell(|transport| {
                transport.fail(Broken("e1"));
                transport.fail(Broken("e2"));
            });
        },
        "Failed(e1)",
        Saw::Fin,
    ),
    (
        "fail, panic",
        |_, a, _| {
            a.tell(|transport| {
                transport.fail(Broken("e"));
                panic!("p");
            });
        },
        "Failed(e)",
        Saw::Fin,
    ),
    (
        "panic after lose",
        |_, a, _| {
            a.tell(|transport| {
                transport.lose_connection();
                panic!("p");
            });
        },
        "Panicked(p)",
        Saw::Fin,
    ),
    (
        "abort, fail",
        |_, a, _| {
            a.tell(|transport| {
                transport.abort_connection();
                transport.fail(Broken("e"));
            });
        },
        "Failed(e)",
        Saw::Reset,
    ),
    (
        "fail, abort",
        |_, a, _| {
            a.tell(|transport| {
                transport.fail(Broken("e"));
                transport.abort_connection();
            });
        },
        "Failed(e)",
        Saw::Reset,
    ),
    (
        "over the cap, then abort",
        |_, a, _| {
            a.tell(|transport| {
                overflow(transport);
                transport.abort_connection();
            });
        },
        "Aborted",
        Saw::Reset,
    ),
    (
        "over the cap, then fail",
        |_, a, _| {
            a.tell(|transport| {
                overflow(transport);
                transport.fail(Broken("e"));
            });
        },
        "Failed(e)",
        Saw::Reset,
    ),
    (
        "over the cap, then lose",
        |_, a, _| {
            a.tell(|transport| {
                overflow(transport);
                transport.lose_connection();
            });
        },
        "Overflow",
        Saw::Reset,
    ),
    (
        "lose, no progress",
        |rig, a, _| {
            stuck(rig, a, Transport::lose_connection);
            rig.pass(s(30));
        },
        "CloseTimedOut",
        Saw::Reset,
    ),
    (
        "fail, no progress",
        |rig, a, _| {
            stuck(rig, a, |transport| transport.fail(Broken("e")));
            rig.pass(s(30));
        },
        "Failed(e)",
        Saw::Reset,
    ),
    (
        "stopped, and the close deadline comes before the end of the grace",
        |rig, a, _| {
            a.transport().set_close_deadline(Some(Duration::from_millis(200)));
            write_big(rig, a);
            rig.tick();
            rig.stop(Duration::from_millis(50));
        },
        "Shutdown",
        Saw::Reset,
    ),
    (
        "stopped while it flushes",
        |rig, a, _| {
            stuck(rig, a, Transport::lose_connection);
            rig.stop(Duration::from_millis(50));
        },
        "Shutdown",
        Saw::Reset,
    ),
    ("lose", |_, a, _| a.transport().lose_connection(), "Done(Us)", Saw::Fin),
];

/// A name, the events, and the expected reason.
type Plain = (&'static str, fn(&mut Rig, &A, &B), &'static str);

/// Cases where the peer resets, and so sees nothing.
const RESETS: &[Plain] = &[
    (
        "lose, reset while it flushes",
        |rig, a, b| {
            stuck(rig, a, Transport::lose_connection);
            b.reset();
        },
        "Lost",
    ),
    (
        "fail, reset while it flushes",
        |rig, a, b| {
            stuck(rig, a, |transport| transport.fail(Broken("e")));
            b.reset();
        },
        "Failed(e)",
    ),
    (
        "reset, then abort before the turn",
        |_, a, b| {
            b.reset();
            a.transport().abort_connection();
        },
        "Aborted",
    ),
];

fn overflow(transport: &Transport) {
    transport.set_write_cap(Some(1000));
    transport.write([0; 1001]);
}

fn stuck(rig: &mut Rig, a: &A, close: fn(&Transport)) {
    write_big(rig, a);
    close(&a.transport());
    rig.tick();
}

pub(crate) fn c20b_the_first_reason_in_the_list_wins(kit: Kit) {
    for (name, act, reason, sees) in CASES {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        act(&mut rig, &a, &b);
        rig.turns(3);
        b.fin();
        assert_eq!(rig.lost(&a), *reason, "{name}");
        assert_eq!(rig.take_to_the_end(&b), *sees, "{name}");
    }
    for (name, act, reason) in RESETS {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
        act(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), *reason, "{name}");
    }
}

pub(crate) fn c20b_done_says_who_closed_first(kit: Kit) {
    let cases: &[Plain] = &[
        (
            "we, then the peer",
            |rig, a, b| {
                a.transport().lose_connection();
                rig.take_to_the_end(b);
                b.fin();
            },
            "Done(Us)",
        ),
        (
            "the peer, then we a turn later",
            |rig, a, b| {
                b.fin();
                rig.until("read_closed", || a.log.has("read_closed"));
                a.transport().lose_connection();
            },
            "Done(Peer)",
        ),
        (
            "we half-close, then the peer",
            |rig, a, b| {
                a.transport().lose_write_connection();
                rig.take_to_the_end(b);
                a.transport().lose_connection();
                rig.turn();
                b.fin();
            },
            "Done(Us)",
        ),
        (
            "the peer, while we flush",
            |rig, a, b| {
                stuck(rig, a, Transport::lose_connection);
                b.fin();
                rig.take_to_the_end(b);
            },
            "Done(Us)",
        ),
    ];
    for (name, act, reason) in cases {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new().aware());
        act(&mut rig, &a, &b);
        assert_eq!(rig.lost(&a), *reason, "{name}");
    }
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    b.fin();
    assert_eq!(rig.lost(&a), "Done(Peer)");
}

pub(crate) fn c20b_a_fin_held_back_by_a_pause_counts(kit: Kit) {
    for (fin_first, reason) in [(true, "Done(Peer)"), (false, "Done(Us)")] {
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new());
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
