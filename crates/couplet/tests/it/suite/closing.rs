//! Rows 1 to 22: how a connection is closed, aborted, timed out, and how a port stops.

use std::time::Duration;

use couplet::Bytes;
use couplet::driver::How;

use super::far::{B, Saw};
use super::kit::{BOTH_ROLES, Kit, Rig};
use super::recorder::{A, On, Script};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Writes BIG in 1000 pieces of both kinds.
fn write_in_pieces(transport: &couplet::Transport, big: &'static [u8]) {
    for (n, piece) in big.chunks(big.len() / 1000).enumerate() {
        match n % 2 {
            0 => transport.write(piece),
            _ => transport.write_bytes(Bytes::from_static(piece)),
        }
    }
}

pub(crate) fn c02_lose_connection_returns_before_connection_lost(kit: Kit) {
    in_every_place(kit, |transport| transport.lose_connection());
}

/// Has A call `close` in each callback and from outside: nothing comes inside the call.
fn in_every_place(kit: Kit, close: fn(&couplet::Transport)) {
    let around = |a: &A| {
        let log = a.log.clone();
        move |transport: &couplet::Transport| {
            log.note("before");
            close(transport);
            log.note("after");
        }
    };
    let neighbours = |rig: &mut Rig, a: &A, b: &B| {
        rig.until("after", || a.log.has("after"));
        b.fin();
        rig.lost(a);
        let entries = a.log.entries();
        let at = entries.iter().position(|e| e == "before").expect("it was played");
        assert_eq!(entries[at + 1], "after", "{entries:?}");
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
        for delay in [None, Some(Duration::ZERO), Some(s(1))] {
            let mut rig = kit.rig();
            let (a, b) = rig.accept(Script::new().aware());
            if fin_first {
                b.fin();
                rig.until("read_closed", || a.log.has("read_closed"));
            }
            let act = around(&a);
            match delay {
                None => assert!(a.tell(act)),
                Some(delay) => {
                    a.call_later(delay, act);
                    rig.pass(delay);
                }
            }
            neighbours(&mut rig, &a, &b);
        }
        let mut rig = kit.rig();
        let (a, b) = rig.accept(Script::new().aware());
        if fin_first {
            b.fin();
            rig.until("read_closed", || a.log.has("read_closed"));
        }
        around(&a)(&a.transport());
        assert!(!a.is_lost(), "outside, nothing comes before the turn");
        neighbours(&mut rig, &a, &b);
    }
}

pub(crate) fn c05_what_was_written_before_lose_connection_arrives(kit: Kit) {
    let big = kit.big();
    let cases: [(&str, usize); 3] = [("all", big.len()), ("one byte", 1), ("nothing", 0)];
    for (what, len) in cases {
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
    a.transport().write(big);
    rig.turns(3);
    assert!(rig.counts(&a).written > 0 && a.transport().buffered() > 0);
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == big);
    b.close();
    assert_eq!(rig.lost(&a), "Done(Us)");
}

pub(crate) fn c05_connection_lost_comes_at_the_peers_fin(kit: Kit) {
    for role in BOTH_ROLES {
        let mut rig = kit.rig();
        let (a, b) = rig.pair(role, Script::new());
        a.transport().write("bye");
        a.transport().lose_connection();
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
        assert_eq!(b.got(), b"bye");
        b.send(b"0123456789");
        rig.tick();
        assert_eq!(a.log.entries(), ["made"], "it drains until the peer's FIN");
        b.fin();
        assert_eq!(rig.lost(&a), "Done(Us)");
        assert_eq!(a.log.entries(), ["made", "lost(Done(Us))"]);
        assert_eq!(rig.counts(&a).closes, [How::Normal]);
    }
}

pub(crate) fn c15_a_close_without_progress_ends_after_30_s(kit: Kit) {
    let big = kit.big();
    let mut rig = kit.rig();
    let (a, b) = rig.accept(Script::new());
    a.transport().write(big);
    a.transport().lose_connection();
    (0..3).for_each(|_| rig.tick());
    rig.pass(s(30) - Duration::from_nanos(1));
    rig.turn();
    assert!(!a.is_lost());
    rig.pass(Duration::from_nanos(1));
    rig.turn();
    assert!(a.is_lost(), "at 30 s, and not a check later");
    assert_eq!(rig.lost(&a), "CloseTimedOut");
    assert_eq!(rig.counts(&a).closes, [How::Reset]);
    assert_eq!(rig.take_to_the_end(&b), Saw::Reset);
    assert!(big.starts_with(&b.got()) && b.got_len() < big.len());
}
