//! Rows 1 to 4, 8, 10 and 16: `lose_connection` and `connection_lost`.

use std::cell::Cell;
use std::rc::Rc;

use couplet::Transport;

use super::endings::{ENDINGS, call_everything};
use super::kit::{BOTH_ROLES, Kit, s};
use super::plays::play;
use super::recorder::{On, Script};

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

pub(crate) fn c02_lose_connection_returns_before_connection_lost(kit: Kit) {
    returns_first_in_every_place(kit, "lose");
}

/// Has A call `close` in each callback and from outside: no callback runs inside the call.
pub(super) fn returns_first_in_every_place(kit: Kit, close: &str) {
    let scripts = [
        "aware; once {1:made|data|read_closed}: note before, CLOSE, note after; arriving
        {1:plain|b send x; b fin|b send x; b fin}; a until after; b fin; a lost; a adjacent before after",
        "aware; {plain|b fins}; {1:a tells|a in 1|a} note before, CLOSE, note after; {1:plain|pass 1|plain}
        a open; a until after; b fin; a lost; a adjacent before after",
    ];
    play(kit, &scripts.map(|script| script.replace("CLOSE", close)));
}

/// Two connections have pending bytes; the one called first closes the other.
pub(super) fn closed_by_another_gets_nothing(kit: Kit, close: &str) {
    let script =
        "once data: a2 CLOSE; next; once data: a CLOSE; b send 0123456789; b2 send 0123456789
        any data; tick; sum 1 data; b fin; b2 fin; a lost; a2 lost";
    play(kit, &[script.replace("CLOSE", close)]);
}

pub(crate) fn c04_a_connection_closed_by_another_in_the_same_turn_gets_nothing(kit: Kit) {
    closed_by_another_gets_nothing(kit, "lose");
}

scripted! {
    $ closing:

    // Each callback tracks its nesting depth, and the rig fails the test if two were nested.
    fn c03_connection_lost_never_comes_inside_another_callback()
        "aware; {once made: half; on data|once made: half; on write_closed|once made: half; on read_closed|on read_closed}: {lose|abort}
        tick; b try x; tick; b fin; a lost",
        "source resume = {lose|abort}, unregister; a pull; a until resume; b fin; a lost",
        // By another connection.
        "next; once data: a note before, a {lose|abort}, a note after; b2 sends x; b fin; a lost
        a log made, before, after, ..",
        // With the write side shut and a call from outside, where a synchronous end is most tempting.
        "aware; once made: half; b fin; a lose; a open; a lost";

    fn c04_nothing_is_delivered_after_lose_connection() needs awaited_end
        // From inside the first of many pieces.
        "read 4096; on data: lose; arriving; b send #64K; b fin; a lost; a count 1 data; a lacks read_closed",
        "once made: pause; b send 0123456789; tick; a lose, resume; b fin; a lost; a entries 2",
        // Bytes that arrive before the call but are not read yet, and bytes that arrive after it.
        "{b send 0123456789; a lose|a lose|a tells lose; turn}; b try late; tick; a log made
        b fin; a lost; a entries 2";

    fn c10_an_empty_write_does_nothing() needs counted_calls
        "a write , bytes , watch writable writable; turns 3; a writes 0; a log made, writable: ok
        a tells sequence |a|; b gets a; tick; a writes 1; a tells write , lose; b ends Done(Us); a writes 1";

    fn c16_a_second_lose_connection_does_nothing() needs full_at_once
        // While it flushes, immediately and later: 30 s after the first close. On sockets, bytes that a
        // busy system moves after the tick are progress.
        "once lost: lose; a bytes BIG; a tells lose, lose; tick; pass 20; a lose; turn; pass 10; turn
        <2:in sockets: pass 30; turn;> a gone; a lost CloseTimedOut; a closes Reset",
        // While it drains: 30 s after our FIN.
        "a write bye, lose; b sees Fin; b got bye; pass 20; a lose; turn; pass 10; turn
        a gone; a lost Done(Us); a shuts 1; a closes-once";
}
