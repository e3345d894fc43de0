//! Rows 17 to 20: `abort_connection`, and unrequested ends that become resets.

use super::closing::{closed_by_another_gets_nothing, returns_first_in_every_place};
use super::kit::Kit;
use super::plays::play;

pub(crate) fn c17_abort_connection_returns_before_connection_lost(kit: Kit) {
    returns_first_in_every_place(kit, "abort");
}

pub(crate) fn c20_a_connection_aborted_by_another_in_the_same_turn_gets_nothing(kit: Kit) {
    closed_by_another_gets_nothing(kit, "abort");
    play(
        kit,
        &["next; on data: a abort; a open; b2 send x; a2 until data; a gone; a lost Aborted"],
    );
}

scripted! {
    $ aborting:

    fn c17_abort_connection_drops_unsent_bytes_and_resets() needs resets
        "{1:plain|plain|plain|plain|plain|aware}; {server|client}
        {1:plain|a bytes BIG|a bytes BIG, lose; tick|a lose; b sees Fin|a half; b sees Fin; a until write_closed|b fins}
        a abort; turn; a gone; a lost Aborted; a closes Reset; a shuts {1:0|0|0|1|1|0}
        {1:b sees Reset|b sees Reset|b sees Reset|b sees Fin; b broken|b sees Fin; b broken|b sees Reset}; b got-part",
        "aware; on {made|read_closed}: abort; b fin; a lost Aborted; a closes Reset; b sees Reset";

    fn c18_a_second_abort_or_a_close_after_it_is_harmless()
        "a tells abort, {1:abort|lose|half|write late|pause, resume}; turn
        a {1:abort|lose|half|write late|pause, resume}; a lost Aborted; a log made, lost(Aborted); a closes Reset",
        "a tells abort; turn; a {abort|lose|half|write late|pause, resume}
        a lost Aborted; a log made, lost(Aborted); a closes Reset";

    fn c19_a_panic_or_fail_after_abort_is_the_reason() needs resets
        "errors {1:1|0}; {2:on data: |source resume = |plain; a tells }abort, {1:panic p|fail e}
        {2:b send x|a pull|plain}; a lost {1:Panicked(p)|Failed(e)}; b sees Reset";

    fn c20_nothing_is_delivered_after_abort_connection()
        "read 4096; on data: write {BIG|}, abort; arriving; b send #64K; b fin
        a lost Aborted; a entries 3; a count 1 data",
        // From outside, while paused and with unread input.
        "{1:a pause; turn|plain}; b send 0123456789; {1:tick|plain}; a abort, resume
        a lost Aborted; a log made, lost(Aborted)";

    // After a half-close the unsent rest is dropped, so a FIN would end an incomplete stream; the last
    // close waits for a producer that never finishes.
    fn c17a_an_unrequested_end_is_a_reset() needs resets
        "once made: resetting, write a part; {server|client}; b gets a part
        {1:a tells panic p|a tells write the rest, half, panic p|stop 0|a pause; turn; stop 0|a push, lose; turns 2; stop 100ms}
        a lost {1:Panicked(p)|Panicked(p)|Shutdown|Shutdown|Shutdown}; a shuts 0; a closes Reset; b sees Reset";

    // The last one closes in `read_closed`, with no FIN before the close.
    fn c17a_a_requested_end_is_not_a_reset() needs half_close
        "once made: resetting, write a part; {server|client}; b gets a part; a bytes BIG
        {1:a lose|a half|a fail broken|b fin}; b sees Fin; b got a part+BIG; {1:b fin|b fin|b fin|plain}
        a lost {1:Done(Us)|Done(Peer)|Failed(broken)|Done(Peer)}; tick; b sound";

    fn c17a_a_fin_cancels_the_reset_and_it_can_be_switched_off() needs half_close
        // A shutdown after the FIN is a plain close, even if the reset is requested after it.
        "once made: resetting, write a part; b gets a part; a half; b sees Fin; a resetting; turns 2; stop 0
        a closes Normal; b sound",
        // Switched off again, it ends like any connection.
        "once made: resetting, write a part; b gets a part; a resetting off; turn; stop 0
        a count 1 lost(Shutdown); b sees Fin";
}
