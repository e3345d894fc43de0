//! Rows 5, 6 and 11 to 14: a close waits for the flush and for a registered producer.

use super::kit::Kit;
use super::plays::play;

fn late_writes_are_dropped(kit: Kit, close: &str) {
    let scripts = [
        "a tells write a, CLOSE, write b, bytes c; b sees Fin; b got a; a dropped 2",
        // With nothing buffered: a layer may still have to say goodbye.
        "a tells CLOSE, write b; b sees Fin; b got ; a dropped 1; in !sealed: a writes 0",
        // While it flushes.
        "a bytes BIG, CLOSE; <3:turn; a write b;> b sees Fin; b got BIG",
    ];
    play(kit, &scripts.map(|script| script.replace("CLOSE", close)));
}

pub(crate) fn c06_c07_writes_after_lose_connection_are_dropped(kit: Kit) {
    late_writes_are_dropped(kit, "lose");
}

pub(crate) fn c06_c07_writes_after_lose_write_connection_are_dropped(kit: Kit) {
    late_writes_are_dropped(kit, "half");
    // Input is still delivered, and a write after write_closed is dropped too.
    let late =
        "a half; a until write_closed; a write late; b sends x; b sees Fin; b got ; a dropped 4
        b fin; a lost";
    play(kit, &[late]);
}

scripted! {
    $ flushing:

    fn c05_bytes_written_before_lose_connection_arrive()
        "once data: {1:pieces|write #1|write }, lose; b send x; b sips 64K Fin; b got {1:BIG|#1|}
        b close; a lost Done(Us)",
        // While an earlier write is partly sent.
        "a bytes BIG; turns 3; a written-some; a buffers-some; a lose; b ends Done(Us); b got BIG";

    fn c06a_writes_until_the_end_are_sent() needs half_close
        // In the callback of the close, after some output and without. Then our end is sent.
        "a until-end; a tells write {1:a|}, {lose|half}, write b, bytes c, until-end off
        b sees Fin; b got {1:a|}bc; a write late; a dropped 4; a until-end; a write late; a dropped 8",
        // While it flushes, also by a producer that registers then.
        "source resume = write c, unregister, write d; a until-end, bytes BIG, {lose|half}; <3:turn; a write b;>
        a {1:push|pull}; {1:a tells unregister|plain}; b sees Fin; b got BIG+bbb{1:|cd}; a dropped 0; a count 0 stop";

    fn c06_a_registered_producer_writes_on_until_it_unregisters() needs half_close
        "a tells {push|pull}, write a, {lose|half}; a in 1 write b; turn; pass 1; turns 2
        a tells write c, unregister, write d; b sees Fin; b got abc; a lacks stop";

    fn c06_a_producer_that_registers_while_closing_is_stopped() needs half_close
        "a bytes BIG, {lose|half}; turn; a note before, push, note after; turns 3
        a log made, before, after, stop; b sees Fin; a count 1 stop; a count 0 resume";

    fn c11_lose_connection_waits_for_a_pull_producer()
        "source resume 1 = write 1; source resume 2 = write 2; source resume 3 = write 3
        source resume 4 = write 4; source resume 5 = write 5, unregister
        a tells pull, lose; b gets 12345; a count 5 resume; b ends Done(Us); a count 5 resume; a count 0 stop";

    fn c12_c13_lose_connection_waits_for_a_push_producer()
        "{server|client}; a tells push, lose
        a in 1 write #1000; a in 2 write #1000; a in 3 write #1000, unregister
        <3:tick; b takes; b saw Open; pass 1;> b ends Done(Us); b got #1000+#1000+#1000
        a log made, lost(Done(Us))";

    // Though B has read nothing.
    fn c12_lose_connection_resumes_a_paused_producer() needs half_close
        "source resume = write end, unregister; a push, bytes BIG; a until pause; a {lose|half}; turn
        a log made, pause, resume; b sees Fin; b got BIG+end; b fin; a lost";

    fn c12_lose_write_connection_waits_for_a_producer() needs half_close
        "a tells push, half; tick; b takes; b saw Open; a lacks write_closed; a write last, unregister
        b sees Fin; b got last; a until write_closed; b sends x; a log made, write_closed, data(1)";

    fn c12_the_close_deadline_bounds_a_silent_producer() needs resets
        "a tells {push|pull}, {lose|half}; tick; pass 29; turn; a open; pass 1; turn; a gone
        a lost CloseTimedOut; a log .., stop, lost(CloseTimedOut); a closes Reset; b sees Reset",
        // A producer that writes occasionally keeps the connection alive.
        "a tells push, {lose|half}; <30:a tells write x; b more x; pass 20; turn; a open;>";

    fn c14_unregistering_while_closing_lets_the_close_proceed()
        "source resume 1 = write x; source resume 2 = unregister; a tells {1:push|push|pull}, lose
        {1:tick; b takes; b saw Open; a unregister|tick; b takes; b saw Open; a in 0 unregister|plain}
        b sees Fin; b fin; a lost Done(Us); time 0";

    fn c14_unregistering_after_a_reset_does_nothing() needs resets counted_calls
        "source stop = {unregister|}; a tells push, lose; turn; b reset; a lost Lost; a unregister; turns 5
        a log made, stop, lost(Lost); a writes 0; a shuts 0; a closes-once";
}
