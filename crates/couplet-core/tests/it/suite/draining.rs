//! Row 5: after our FIN, input is read and discarded up to the peer's FIN.

use std::time::Duration;

use couplet::Transport;
use couplet::driver::CloseMode;

use super::endings::write_big;
use super::kit::{Kit, Rig, s};
use super::peer::{B, Saw};
use super::recorder::{A, Broken, On, Script};

/// A writes "bye" and closes; B has read it and our FIN, and keeps its own side open.
pub(super) fn draining(kit: Kit, close: fn(&Transport)) -> (Rig, A, B) {
    let (mut rig, a, b) = kit.accept(Script::new());
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
    assert_eq!(rig.counts(&a).closes, [CloseMode::Normal]);
}

pub(crate) fn c05b_a_close_at_once_sends_everything_and_waits_for_no_fin(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().set_close_at_once(true);
    a.transport().write("the rest");
    a.transport().lose_connection();
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.counts(&a).closes, [CloseMode::Normal]);
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(b.got(), b"the rest");
}

pub(crate) fn c05_an_error_ends_the_drain_and_keeps_the_reason(kit: Kit) {
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

pub(crate) fn c05_the_drain_reads_however_much_the_peer_still_sends(kit: Kit) {
    const MUCH: usize = 5 * 1024 * 1024;
    let (mut rig, a, b) = draining(kit, Transport::lose_connection);
    let mut left = MUCH;
    while left > 0 {
        left -= b.try_send(&vec![0; left.min(16 * 1024)]);
        rig.turn();
    }
    while rig.counts(&a).received < MUCH {
        rig.turn();
    }
    assert!(!a.is_lost());
    b.fin();
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.passed(), Duration::ZERO);
}

pub(crate) fn c05_the_drain_ends_at_the_fin_timeout_counted_from_our_fin(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    write_big(&rig, &a);
    a.transport().lose_connection();
    rig.tick();
    rig.pass(s(20));
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    for at in [10, 20, 29] {
        rig.pass(s(20 + at) - rig.passed());
        if at < 29 {
            b.send(b"x"); // input is not progress
        }
        rig.tick();
        assert!(!a.is_lost(), "at {at} s");
    }
    rig.pass(s(1));
    rig.turn();
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.counts(&a).closes, [CloseMode::Normal]);
    rig.tick();
    assert!(!b.is_broken(), "a reset would leave an error on the socket");
}

pub(crate) fn c05_a_close_after_the_peers_fin_has_no_drain(kit: Kit) {
    for aware in [true, false] {
        let mut rig = kit.rig();
        let script = Script::new().once(On::ReadClosed, |transport| transport.write("reply"));
        let (a, b) = rig.accept(if aware { script.aware() } else { script });
        b.send(b"x");
        rig.fin(&a, &b);
        a.transport().lose_connection();
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
        assert_eq!(b.got(), b"reply");
        assert_eq!(rig.lost(&a), "Done(Peer)", "though B did nothing more");
    }
    // The FIN arrives while we flush.
    let (mut rig, a, b) = kit.accept(Script::new());
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

pub(crate) fn c05_the_drain_is_skipped_while_the_reactor_stops(kit: Kit) {
    let (mut rig, a, _b) = draining(kit, Transport::lose_connection);
    let (a2, _b2) = rig.accept(Script::new());
    rig.run(|reactor| {
        reactor.stop();
        a2.transport().lose_connection();
        Ok(())
    });
    assert_eq!(rig.passed(), Duration::ZERO);
    assert_eq!(rig.lost(&a), "Done(Us)");
    assert_eq!(rig.lost(&a2), "Done(Us)");
    assert_eq!(rig.counts(&a2).closes, [CloseMode::Normal]);
}
