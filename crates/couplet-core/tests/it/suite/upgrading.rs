//! Row 50a: upgrades, which replace the protocol of a connection.

use couplet::protocols::{LimitConnections, LineProtocol, LineReceiver, LineTransport, Policy};
use couplet::testing::failure_of;
use couplet::transport::{Upgrade, WrongProtocol};
use couplet::{Address, Protocol, Transport};

use crate::logged::logged;

use super::dropping::explosive;
use super::kit::Kit;
use super::recorder::{Log, On, Recorder, Script};

scripted! {
    $ upgrading:

    // The next protocol is not made inside of the callback.
    fn c50a_an_upgrade_takes_effect_after_the_callback_and_before_more_bytes() needs slices
        "protocol; connection; {server|client}; once data: upgrade 1, unmade, note returned; b send old; p until made
        a log made, data(3), returned; a received old; b send new; p gets new; a received old; p same
        b fin; p lost; p log made, data(3), read_closed, lost(Done(Peer)); a log made, data(3), returned";

    fn c50a_an_upgrade_from_outside_comes_before_more_bytes()
        "protocol; connection; b send new; a upgrade 1; p gets new; a log made; p log made, data(3)";

    fn c50a_unread_bytes_come_first() needs slices
        "protocol; connection; once data: upgrade 1 unread; b send x; p gets unread; b send -new; p gets unread-new
        a received x; p log made, data(6), ..";

    fn c50a_a_pause_holds_the_unread_bytes() needs slices
        "protocol; on made: pause; connection; once data: upgrade 1 unread; b send x; p until made; b send -new; tick
        p log made; p resume; p gets unread-new; p log made, resumed, data(6), ..";

    fn c50a_upgrades_in_a_row_lose_no_bytes()
        "protocol; once made: upgrade 2 more-; protocol; connection; once data: upgrade 1 unread; b send x
        p2 gets more-unread; b send -new; p2 gets more-unread-new; p log made";

    fn c50a_of_two_upgrades_the_last_counts()
        "protocol; protocol; connection; once data: upgrade 1 un, upgrade 2 read; b send x; p2 gets unread; p entries 0";

    fn c50a_the_next_protocol_gets_read_closed_for_an_end_already_reported() needs half_close
        "protocol; once data: write answer; connection; aware; once read_closed: upgrade 1 unread; b fin; b sees
        p lost Done(Peer); b got answer; p log made, data(6), read_closed, lost(Done(Peer)); a log made, read_closed";

    fn c50a_the_next_protocol_gets_write_closed_for_an_end_already_sent() needs half_close
        "protocol; connection; aware; a half; b sees Fin; a until write_closed; a upgrade 1; p until write_closed; turns 3
        b send x; p gets x; b fin; p lost Done(Peer); p log made, write_closed, data(1), read_closed, lost(Done(Peer))
        a log made, write_closed";

    fn c50a_a_close_comes_before_an_upgrade()
        "protocol; connection; once data: {1:lose, upgrade 1|upgrade 1, lose|upgrade 1, abort|upgrade 1, panic by wish}
        b sends x; b fin; a lost {1:Done|Done|Aborted|Panicked(by wish)}; p unkept; p entries 0";
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

pub(crate) fn c50a_requests_to_the_old_protocol_are_dropped(kit: Kit) {
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

pub(crate) fn c50a_the_bytes_that_a_framer_holds_are_unread(kit: Kit) {
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
    let script =
        Script::new().once(On::Data, |t| t.upgrade(Upgrade::with_unread(plays, b"unread")));
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
