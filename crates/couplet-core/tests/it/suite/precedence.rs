//! Row 20b: which reason a connection reports when several apply.

scripted! {
    $ precedence:

    fn c20b_the_first_reason_in_the_list_wins() needs resets
        "a tells fail e, fail e2; turns 3; b fin; a lost Failed(e); b sees Fin",
        "a fail e; turn; a fail e2; turns 3; b fin; a lost Failed(e); b sees Fin",
        "a fail e; turn; a tells panic p; turns 3; b fin; a lost Failed(e); b sees Fin",
        "a tells panic p; turn; a fail e; turns 3; b fin; a lost Panicked(p); b sees Fin",
        "a tells fail e, panic p; turns 3; b fin; a lost Failed(e); b sees Fin",
        "a tells lose, panic p; turns 3; b fin; a lost Panicked(p); b sees Fin",
        "a tells abort, fail e; turns 3; b fin; a lost Failed(e); b sees Reset",
        "a tells fail e, abort; turns 3; b fin; a lost Failed(e); b sees Reset",
        "a tells cap 1000, write #1001, abort; turns 3; b fin; a lost Aborted; b sees Reset",
        "a tells cap 1000, write #1001, fail e; turns 3; b fin; a lost Failed(e); b sees Reset",
        "a tells cap 1000, write #1001, lose; turns 3; b fin; a lost Overflow; b sees Reset",
        // Without progress once the buffers of the system are full.
        "a bytes BIG, fail e; tick; <3:pass 30; tick;> b fin; a lost Failed(e); b sees Reset",
        // The close deadline comes before the end of the grace.
        "a close-deadline 200ms, bytes BIG; tick; stop 50ms; turns 3; b fin; a lost Shutdown; b sees Reset",
        "a bytes BIG, lose; tick; stop 50ms; turns 3; b fin; a lost Shutdown; b sees Reset",
        "a bytes BIG, fail e; tick; b reset; a lost Failed(e)",
        "b reset; a abort; a lost Aborted";

    fn c20b_c24_done_says_who_closed_first() needs half_close
        "aware; a lose; b sees Fin; b fin; a lost Done(Us)",
        "aware; b fins; a lose; a lost Done(Peer)",
        "aware; a half; b sees Fin; a lose; turn; b fin; a lost Done(Us)",
        "aware; a bytes BIG, lose; tick; b fin; b sees Fin; a lost Done(Us)";

    fn c20b_a_fin_held_back_by_a_pause_counts() needs awaited_end
        "a pause; turn; b send abc; {1:b fin|plain}; tick; a lose; turn; b fin
        a lost {1:Done(Peer)|Done(Us)}; a entries 2";
}
