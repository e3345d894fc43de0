//! Row 50a: upgrades, which replace the protocol of a connection.

use std::rc::Rc;

use couplet::protocols::{LimitConnections, LineProtocol, LineReceiver, LineTransport, Policy};
use couplet::testing::failure_of;
use couplet::transport::WrongProtocol;
use couplet::{Address, Protocol, Transport};

use crate::logged::logged;

use super::dropping::explosive;
use super::kit::{BOTH_ROLES, Kit, Rig};
use super::peer::B;
use super::recorder::{A, Log, On, Recorder, Script};

/// A connection whose protocol upgrades at its first bytes and leaves all but the first of them
/// unread for the next protocol, which plays `next`.
fn upgraded(kit: Kit, next: Script) -> (Rig, A, A, B) {
    let mut rig = kit.rig();
    let end = rig.end();
    let plays = end.plays(next);
    let (a, b) = rig.accept(Script::new().once(On::Data, |t| t.upgrade_with(plays, b"unread")));
    (rig, a, end, b)
}

pub(crate) fn c50a_an_upgrade_takes_effect_after_the_callback_and_before_more_bytes(kit: Kit) {
    for role in BOTH_ROLES {
        let mut rig = kit.rig();
        let (next, log) = (rig.end(), rig.end().log);
        let (plays, notes, made) = (next.plays(Script::new()), log.clone(), next.clone());
        let script = Script::new().once(On::Data, move |transport| {
            transport.upgrade(plays);
            assert!(!made.is_made() && !transport.wants_data(), "not inside of the callback");
            notes.note("returned");
        });
        let (a, b) = rig.pair(role, script);
        b.send(b"old");
        rig.until("the next connection_made", || next.is_made());
        assert_eq!((log.len(), a.received()), (1, b"old".to_vec()));
        b.send(b"new");
        rig.until("its bytes", || next.received_len() == 3);
        assert_eq!((next.received(), a.received_len()), (b"new".to_vec(), 3));
        assert_eq!(a.transport(), next.transport());
        b.fin();
        rig.lost(&next);
        assert_eq!(next.log.entries(), ["made", "data(3)", "read_closed", "lost(Done(Peer))"]);
        assert_eq!(a.log.entries(), ["made", "data(3)"]);
    }
}

pub(crate) fn c50a_an_upgrade_from_outside_comes_before_more_bytes(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    let next = rig.end();
    b.send(b"new");
    a.transport().upgrade(next.plays(Script::new()));
    rig.until("its bytes", || next.received_len() == 3);
    assert_eq!(a.log.entries(), ["made"]);
    assert_eq!(next.log.entries(), ["made", "data(3)"]);
}

pub(crate) fn c50a_unread_bytes_come_first(kit: Kit) {
    let (mut rig, a, next, b) = upgraded(kit, Script::new());
    b.send(b"x");
    rig.until("unread bytes", || next.received_len() == 6);
    b.send(b" and new");
    rig.until("new bytes", || next.received_len() == 14);
    assert_eq!((next.received(), a.received_len()), (b"unread and new".to_vec(), 1));
    assert_eq!(next.log.entries()[..2], ["made", "data(6)"]);
}

pub(crate) fn c50a_a_pause_holds_the_unread_bytes(kit: Kit) {
    let (mut rig, _a, next, b) =
        upgraded(kit, Script::new().on(On::Made, Transport::pause_producing));
    b.send(b"x");
    rig.until("the next connection_made", || next.is_made());
    b.send(b" and new");
    rig.tick();
    assert_eq!(next.log.entries(), ["made"]);
    next.transport().resume_producing();
    rig.until("all bytes", || next.received_len() == 14);
    assert_eq!(next.received(), b"unread and new");
    assert_eq!(next.log.entries()[..3], ["made", "resumed", "data(6)"]);
}

pub(crate) fn c50a_upgrades_in_a_row_lose_no_bytes(kit: Kit) {
    let last = A::default();
    let plays = last.plays(Script::new());
    let again = Script::new().once(On::Made, |t| t.upgrade_with(plays, b"more "));
    let (mut rig, _a, between, b) = upgraded(kit, again);
    b.send(b"x");
    rig.until("unread bytes", || last.received_len() == 11);
    b.send(b" and new");
    rig.until("new bytes", || last.received_len() == 19);
    assert_eq!(last.received(), b"more unread and new");
    assert_eq!(between.log.entries(), ["made"]);
}

pub(crate) fn c50a_of_two_upgrades_the_last_counts(kit: Kit) {
    let mut rig = kit.rig();
    let (one, two) = (rig.end(), rig.end());
    let (first, second) = (one.plays(Script::new()), two.plays(Script::new()));
    let (_a, b) = rig.accept(Script::new().once(On::Data, move |transport| {
        transport.upgrade_with(first, b"un");
        transport.upgrade_with(second, b"read");
    }));
    b.send(b"x");
    rig.until("unread bytes", || two.received_len() == 6);
    assert_eq!((two.received(), one.log.len()), (b"unread".to_vec(), 0));
}

pub(crate) fn c50a_the_next_protocol_is_told_of_an_end_that_was_told_before(kit: Kit) {
    let mut rig = kit.rig();
    let next = rig.end();
    let plays = next.plays(Script::new().once(On::Data, |t| t.write(b"answer")));
    let upgrade = |transport: &Transport| transport.upgrade_with(plays, b"unread");
    let (a, b) = rig.accept(Script::new().aware().once(On::ReadClosed, upgrade));
    b.fin();
    rig.take_to_the_end(&b);
    assert_eq!(rig.lost(&next), "Done(Peer)");
    assert_eq!(b.got(), b"answer");
    assert_eq!(next.log.entries(), ["made", "data(6)", "read_closed", "lost(Done(Peer))"]);
    assert_eq!(a.log.entries(), ["made", "read_closed"]);
}

pub(crate) fn c50a_a_close_comes_before_an_upgrade(kit: Kit) {
    type Close = fn(&Transport);
    let ends: [(Close, Close, &str); 4] = [
        (Transport::lose_connection, |_| (), "Done(Peer)"),
        (|_| (), Transport::lose_connection, "Done(Peer)"),
        (|_| (), Transport::abort_connection, "Aborted"),
        (|_| (), |_| panic!("by wish"), "Panicked(by wish)"),
    ];
    for (before, behind, reason) in ends {
        let mut rig = kit.rig();
        let next = rig.end();
        let held = Rc::new(());
        let dropped = Rc::downgrade(&held);
        let plays = next.plays(Script::new().once(On::Made, move |_| drop(held)));
        let (a, b) = rig.accept(Script::new().once(On::Data, move |transport| {
            before(transport);
            transport.upgrade(plays);
            behind(transport);
        }));
        rig.sends(&a, &b, b"x");
        b.fin();
        let (lost, _) = logged(|| rig.lost(&a));
        assert!(lost == reason || (lost == "Done(Us)" && reason == "Done(Peer)"), "{lost}");
        assert!(dropped.upgrade().is_none(), "the unused protocol is kept");
        assert_eq!(next.log.len(), 0, "{reason}");
    }
}

pub(crate) fn c50a_the_old_protocol_is_dropped_and_may_panic_in_that(kit: Kit) {
    let mut rig = kit.rig();
    let next = rig.end();
    let plays = next.plays(Script::new());
    let (a, b) = rig.accept(explosive().once(On::Data, |transport| transport.upgrade(plays)));
    let ((), lines) = logged(|| {
        b.send(b"x");
        rig.until("the next connection_made", || next.is_made());
    });
    assert_eq!(lines.iter().filter(|line| line.contains("a drop that panics")).count(), 1);
    b.send(b"y");
    rig.until("its bytes", || next.received_len() == 1);
    b.fin();
    rig.lost(&next);
    assert_eq!(a.log.entries(), ["made", "data(1)"]);
    rig.still_echoes();
}

pub(crate) fn c50a_what_was_asked_of_the_old_protocol_is_dropped(kit: Kit) {
    /// A type other than the recorder.
    struct Other;
    impl Protocol for Other {
        fn data_received(&mut self, transport: &Transport, _: &[u8]) {
            transport.write("other");
        }
    }
    let upgrade = |transport: &Transport| transport.upgrade(Other);
    let (mut rig, a, b) = kit.accept(Script::new().once(On::Data, upgrade));
    let connection = a.connection();
    rig.sends(&a, &b, b"x");
    let (told, called) = (a.log.clone(), a.log.clone());
    connection.tell(move |_, _| told.note("told"));
    connection.call_later(std::time::Duration::ZERO, move |_, _| called.note("called"));
    let asked = connection.ask(|_, _| ());
    rig.turns(5);
    let failure = failure_of(asked);
    assert!(failure.is::<WrongProtocol>(), "{failure}");
    assert_eq!(a.log.entries(), ["made", "data(1)"]);
    // A handle to the next protocol works.
    let other = a.transport().connection::<Other>();
    other.tell(|_, transport| transport.write("told"));
    rig.gets(&b, b"told");
    b.send(b"x");
    rig.gets(&b, b"toldother");
}

pub(crate) fn c50a_what_a_framer_holds_is_unread(kit: Kit) {
    /// Upgrades at the line that requests it.
    struct Asks {
        next: Option<Recorder>,
        lines: Log,
    }
    impl LineProtocol for Asks {
        fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
            self.lines.note(String::from_utf8_lossy(line));
            if line == b"upgrade" {
                transport.send_line("OK");
                transport.upgrade(self.next.take().expect("one upgrade"));
            }
        }
    }
    for raw in [&b""[..], b"raw ", b"no line\r\nany more\r\n"] {
        for cut in [0, 4, 8, 9] {
            let mut rig = kit.rig();
            let (next, lines) = (rig.end(), Log::default());
            let plays = next.plays(Script::new());
            let asks = Asks { next: Some(plays), lines: lines.clone() };
            let mut asks = Some(LineReceiver::new(asks));
            let port = rig.listen_with(move |_: &Address| asks.take());
            let b = rig.peer(&port);
            let (stream, start) = ([b"upgrade\r\n", raw].concat(), lines.clone());
            b.send(b"one\r\n");
            rig.until("a line", || start.len() == 1);
            b.send(&stream[..cut]);
            rig.tick();
            b.send(&stream[cut..]);
            b.send(b"new");
            b.fin();
            rig.take_to_the_end(&b);
            rig.lost(&next);
            assert_eq!(next.received(), [raw, b"new"].concat(), "cut at {cut}");
            assert_eq!(
                (lines.entries(), b.got()),
                (vec!["one".into(), "upgrade".into()], b"OK\r\n".to_vec())
            );
        }
    }
}

pub(crate) fn c50a_a_policy_outlasts_an_upgrade(kit: Kit) {
    let mut rig = kit.rig();
    let limit = LimitConnections::new(1);
    let (a, next) = (rig.end(), rig.end());
    let plays = next.plays(Script::new());
    let script = Script::new().once(On::Data, |t| t.upgrade_with(plays, b"unread"));
    let port = rig.listen_with(limit.clone().wrap(a.once(script)));
    let b = rig.peer(&port);
    b.send(b"x");
    rig.until("unread bytes", || next.received_len() == 6);
    assert_eq!(limit.connections(), 1);
    let away = rig.peer(&port);
    rig.take_to_the_end(&away);
    assert_eq!(limit.turned_away(), 1);
    // A handle finds the inner protocol.
    next.connection().tell(|_, transport| transport.lose_connection());
    b.fin();
    rig.lost(&next);
    assert_eq!(limit.connections(), 0);
}
