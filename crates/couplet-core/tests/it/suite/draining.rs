//! Row 5: after our FIN, input is read and discarded up to the peer's FIN.

scripted! {
    $ draining:

    fn c05_connection_lost_comes_at_the_peers_fin() needs awaited_end
        "a write bye, lose; b sees Fin; b got bye; b send 0123456789; tick; a log made
        b fin; a lost Done(Us); a log made, lost(Done(Us)); a closes Normal";

    fn c05b_a_close_at_once_sends_everything_and_waits_for_no_fin()
        "a at-once, write the rest, lose; a lost Done(Us); a closes Normal; b sees Fin; b got the rest";

    fn c05b_a_close_at_once_behind_our_end_waits_for_no_fin() needs half_close
        "a at-once, write the rest, half; b sees Fin; b got the rest; a until write_closed; tick; a open
        a lose; a lost Done(Us); a closes Normal; time 0";

    fn c05_an_error_ends_the_drain_and_keeps_the_reason() needs awaited_end
        "a write bye, {1:lose|fail e}; b sees Fin; b got bye; b reset; a lost {1:Done(Us)|Failed(e)}";

    fn c05_the_drain_reads_however_much_the_peer_still_sends() needs awaited_end exact_wire
        "a write bye, lose; b sees Fin; b pours #5120K; a hears 5120K; a open
        b fin; a lost Done(Us); time 0";

    // Input is no progress, and a reset would leave an error on the socket.
    fn c05_the_drain_ends_at_the_fin_timeout_counted_from_our_fin() needs awaited_end
        "a bytes BIG, lose; tick; pass 20; b sees Fin; <2:pass 10; b send x; tick; a open;>
        pass 9; tick; a open; pass 1; turn; a lost Done(Us); a closes Normal; tick; b sound";

    fn c05_a_close_after_the_peers_fin_has_no_drain() needs half_close
        "{aware|plain}; once read_closed: write reply; b send x; b fins; a lose
        b sees Fin; b got reply; a lost Done(Peer)",
        // The FIN arrives while we flush.
        "a bytes BIG, lose; turns 3; b fin; tick; a open; b sees Fin; b got BIG; a lost Done(Us); time 0";

    fn c05_the_drain_is_skipped_while_the_reactor_stops()
        "a write bye, lose; b sees Fin; b got bye; next; run a2 lose; time 0
        a lost Done(Us); a2 lost Done(Us); a2 closes Normal";
}
