//! Rows 15 to 15e: the close deadline, the idle timeout and the FIN timeout, timers that are late, and
//! the limits of connections on which nothing moves.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{Transport, hooks};
use couplet_core::driver::CloseMode;

use super::endings::write_big;
use super::kit::{BOTH_ROLES, Kit, Rig, s};
use super::peer::{B, Saw};
use super::plays::play;
use super::recorder::{A, On, Script};

const YEAR: Duration = s(365 * 24 * 3600);

/// Advances the clock to `at` since the start, and turns once.
fn go_to(rig: &mut Rig, at: Duration) {
    rig.pass(at - rig.passed());
    rig.turn();
}

/// A has written BIG and closes; the buffers are full, and B has read nothing.
fn stuck(kit: Kit, script: Script) -> (Rig, A, B) {
    let (mut rig, a, b) = kit.accept(script);
    write_big(&rig, &a);
    a.transport().lose_connection();
    (0..3).for_each(|_| rig.tick());
    (rig, a, b)
}

/// Turns until these closing connections are lost, each exactly its deadline after its last progress.
/// A late acknowledgement is progress: the system's own buffer shrinks, and may accept another piece.
/// The test learns of it only when the connection survives its deadline.
#[track_caller]
fn times_out(rig: &mut Rig, closing: &[(&A, Duration)]) {
    let unsent = |a: &A| a.transport().buffered();
    let (start, has_a_system) = (rig.passed(), rig.kit.has_a_system());
    let progress = closing.iter().map(|(a, _)| (rig.passed(), unsent(a), false));
    let mut progress = progress.collect::<Vec<_>>();
    let mut turn = |rig: &mut Rig, at: Duration| {
        go_to(rig, at);
        let mut next = None;
        for ((a, deadline), (since, left, is_late)) in closing.iter().zip(&mut progress) {
            let may_progress = has_a_system && at < start + 4 * *deadline;
            let is_due = *since + *deadline <= at;
            if !a.is_lost() && (unsent(a) != *left || is_due && may_progress) {
                (*since, *left, *is_late) = (at, unsent(a), is_due);
            }
            let is_due = *since + *deadline <= at;
            let is_right = a.is_lost() == is_due || *is_late && a.is_lost();
            assert!(is_right, "{deadline:?} after {since:?}: {is_due}");
            if !a.is_lost() {
                next = [next, Some(*since + *deadline)].into_iter().flatten().min();
            }
        }
        next
    };
    let mut next = turn(rig, rig.passed());
    while let Some(deadline) = next {
        next = turn(rig, deadline - Duration::from_nanos(1));
        if next == Some(deadline) {
            next = turn(rig, deadline);
        }
    }
    for (a, _) in closing {
        assert_eq!(rig.lost(a), "CloseTimedOut");
    }
}

pub(crate) fn c15_a_close_without_progress_ends_after_30_s(kit: Kit) {
    let (mut rig, a, b) = stuck(kit, Script::new());
    times_out(&mut rig, &[(&a, s(30))]);
    assert_eq!(rig.counts(&a).closes, [CloseMode::Reset]);
    assert_eq!(rig.take_to_the_end(&b), Saw::Reset);
    assert!(kit.big().starts_with(&b.got()) && b.got_len() < kit.big().len());
}

pub(crate) fn c15_progress_postpones_the_close_deadline(kit: Kit) {
    const LITTLE: usize = 128 * 1024;
    let step = |rig: &mut Rig, a: &A, b: &B| {
        rig.pass(s(20));
        rig.turn();
        // A busy system delivers the next bytes, and their acknowledgement, a little later.
        let has_sockets = rig.kit.has_sockets();
        let left = || if has_sockets { hooks::unacknowledged(&a.transport()) } else { 0 };
        let before = (b.got_len(), left());
        rig.until("some bytes", || {
            b.take(LITTLE);
            let has_moved = b.got_len() > before.0 && (left() < before.1 || left() == 0);
            has_moved || b.saw() != Saw::Open
        });
        rig.tick();
    };
    for goes_on in [true, false] {
        let (mut rig, a, b) = stuck(kit, Script::new());
        for _ in 0..5 {
            step(&mut rig, &a, &b);
            assert!(!a.is_lost(), "at {:?}", rig.passed());
        }
        if goes_on {
            // Bounded: a stalled stream would fill the memory.
            for _ in 0..4 * kit.big().len() / LITTLE {
                if b.saw() == Saw::Open {
                    step(&mut rig, &a, &b);
                }
            }
            assert_eq!(b.saw(), Saw::Fin);
            assert!(b.got() == kit.big());
            b.fin();
            assert_eq!(rig.lost(&a), "Done(Us)");
        } else {
            go_to(&mut rig, s(100 + 29));
            assert!(!a.is_lost());
            // Bytes that a busy system still moves postpone the deadline once more.
            let latest = if rig.kit.has_a_system() { 1000 } else { 60 };
            for after in (30..=latest).take_while(|_| !a.is_lost()) {
                go_to(&mut rig, s(100 + after));
            }
            assert!(a.is_lost());
            assert_eq!(rig.lost(&a), "CloseTimedOut");
        }
    }
}

pub(crate) fn c15_the_close_deadline_can_be_set_and_switched_off(kit: Kit) {
    let five = |transport: &Transport| transport.set_timeout(Timeout::Close, Some(s(5)));
    let (mut rig, a, _b) = stuck(kit, Script::new().once(On::Made, five));
    let (other, _b2) = rig.accept(Script::new());
    write_big(&rig, &other);
    other.transport().lose_connection();
    rig.tick();
    times_out(&mut rig, &[(&a, s(5)), (&other, s(30))]);
    // Set after the close.
    let (mut rig, a, _b) = stuck(kit, Script::new());
    go_to(&mut rig, s(3));
    five(&a.transport());
    rig.turn();
    assert!(!a.is_lost());
    times_out(&mut rig, &[(&a, s(2))]);
    // Off.
    let off = |transport: &Transport| transport.set_timeout(Timeout::Close, None);
    let (mut rig, a, b) = stuck(kit, Script::new().once(On::Made, off));
    go_to(&mut rig, YEAR);
    assert!(!a.is_lost());
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == kit.big());
}

fn idle(timeout: Duration) -> impl Fn(&Transport) {
    move |transport| transport.set_timeout(Timeout::Idle, Some(timeout))
}

fn idle_10_s() -> Script {
    Script::new().once(On::Made, idle(s(10)))
}

pub(crate) fn c15a_after_lose_connection_only_the_close_deadline_counts(kit: Kit) {
    let (mut rig, a, _b) = kit.accept(idle_10_s());
    write_big(&rig, &a);
    rig.tick();
    go_to(&mut rig, s(5));
    a.transport().lose_connection();
    times_out(&mut rig, &[(&a, s(30))]);
    // Set after the close, it neither fires nor affects the close deadline.
    let (mut rig, a, _b) = stuck(kit, Script::new());
    idle(s(10))(&a.transport());
    times_out(&mut rig, &[(&a, s(30))]);
}

pub(crate) fn c15a_messages_do_not_move_the_timer(kit: Kit) {
    let (mut rig, a, b) = kit.accept(idle_10_s());
    rig.tapped.waits.borrow_mut().clear();
    for n in 1..=100 {
        rig.pass(Duration::from_millis(90));
        rig.sends(&a, &b, b"x");
        assert_eq!(a.received().len(), n);
    }
    let now = rig.passed();
    let ahead = |until: &Option<Duration>| until.is_some_and(|until| until > now);
    let waits: Vec<_> = rig.tapped.waits.take().into_iter().filter(ahead).collect();
    assert!(!waits.is_empty());
    assert!(waits.iter().all(|until| *until == Some(s(10))), "{waits:?}");
    go_to(&mut rig, s(10));
    assert!(!a.is_lost());
    rig.turn();
    let next = rig.tapped.waits.borrow().last().copied();
    assert_eq!(next, Some(Some(now + s(10))), "ten seconds after the last byte");
}

scripted! {
    $ deadlines:

    fn c15a_a_silent_peer_times_out() needs resets
        "{server|client}; once made: idle 10; at 10-1ms; a open; at 10; a gone
        a lost Timeout; a closes Reset; b sees Reset";

    fn c15a_received_bytes_postpone_the_idle_timeout()
        "once made: idle 10; at 6; b sends x; at 12; b sends x; at 22-1ms; a open; at 22; a gone; a lost Timeout";

    fn c15a_sending_does_not_postpone_the_idle_timeout()
        "once made: idle 10; <9:pass 1; turn; a write x; b more x;> a open; at 10; a gone; a lost Timeout";

    fn c15a_paused_time_is_not_idle_time()
        "once made: idle 10; at 4; a pause; turn; at 100; a resume; turn; at 106-1ms; a open; at 106; a gone; a lost Timeout",
        // For a year. The pause takes effect before the clock advances, as in a loop that it wakes; bytes
        // that B sent in the meantime count from the resume.
        "once made: idle 10; a pause; turn; at 31536000; a open; b send x; tick; at 31536100; a resume; a until data
        at 31536110-1ms; a open; at 31536110; a gone; a lost Timeout";

    fn c15a_the_idle_timeout_drops_unsent_bytes() needs resets
        "once made: idle 10; a push, bytes BIG; tick; at 10; a lost Timeout
        a log made, pause, stop, lost(Timeout); b sees Reset; b got-part",
        // While our end waits to be sent, the earlier of the two deadlines counts.
        "once made: idle 10; a bytes BIG, half; tick; at 10-1ms; a open; at 10; a gone; a lost Timeout";

    fn c15a_the_idle_timeout_stays_in_force_after_the_peers_fin() needs half_close
        "{server|client}; aware; once made: idle 10; at 6; b fins; a write x; b gets x
        at 10-1ms; a open; at 10; a gone; a lost Timeout; a closes Reset";

    fn c15a_a_shorter_idle_timeout_takes_effect_at_once()
        "once made: idle 60; at 1; a idle 5; turn; at 5-1ms; a open; at 5; at 6; a gone",
        // A longer one takes effect too.
        "once made: idle 5; at 1; a idle 60; at 5; a open; at 6; a open; at 59; a open";

    fn c15b_the_fin_timeout_and_the_close_deadline_are_independent() needs awaited_end
        "a write bye, lose; b sees Fin; b got bye; a close-deadline {1:off|1}, fin-timeout {1:5|20}; turn
        at {1:5|20}-1ms; a open; at {1:5|20}; a gone; a lost Done(Us)",
        "a write bye, lose; b sees Fin; b got bye; a close-deadline {5|off}, fin-timeout off; turn
        at 31536000; a open; b fin; a lost Done(Us)";

    fn c15d_an_end_behind_unread_bytes_begins_the_time() needs late_reads
        "read 64; aware; once data: pause; a half-close-timeout 8; {a pause; turn|plain}; b send #1000; b fin; <5:tick;>
        <3:pass 2; turns 2; a open;> <2:pass 2; turns 2;> a gone; a lost Timeout";

    // Only the peer of the first has ended. Both partners share, and the last partner counts.
    fn c15d_a_partner_shares_its_progress() needs half_close
        "aware; next; next; {a shares-progress 2|a2 shares-progress 1|a shares-progress 3, shares-progress 2}
        a half-close-timeout 8; b fins; <20:b2 send x; turns 2; pass 2; turns 2; a open;>
        tick; <3:pass 2; turns 2; a open;> <2:pass 2; turns 2;> a gone; a2 open";
}

/// A quarter of a limit passes, and A is open.
const QUARTER: &str = "pass QUARTER; turns 2; a open;";

/// Plays a script with each limit: its setting and its quarter in seconds. The script may end where A
/// is lost; without a limit, A stays open instead.
fn with_limits(kit: Kit, limits: [(&str, &str); 2], never: &str, script: &str, lost: &str) {
    let with = |setting: &str, quarter: &str, end: &str| {
        let script = format!("{script} {end}").replace("OPEN", QUARTER);
        script.replace("QUARTER", quarter).replace("SETTING", setting)
    };
    let limited = limits.map(|(setting, quarter)| with(setting, quarter, lost));
    play(kit, &limited);
    play(kit, &[with(never, limits[0].1, "<40:OPEN>")]);
}

/// Each byte that the peer reads is progress.
pub(crate) fn c15d_a_connection_whose_peer_has_ended_is_reset_when_nothing_moves(kit: Kit) {
    for when in [
        "SETTING; pass 31536000; turns 2; a open; b fins",
        "pass 31536000; turns 2; a open; b fins; SETTING",
    ] {
        let script = format!("aware; {when}; turn; <20:a write x; turns 2; b take 1; OPEN> tick;");
        let lost = "<3:OPEN> pass QUARTER; turns 2; a gone; a lost Timeout; a closes Reset";
        let limits = [("turns 0", "15"), ("a half-close-timeout 8", "2")];
        with_limits(kit, limits, "a half-close-timeout off", &script, lost);
    }
}

/// The system may shift the reset by a quarter of the limit.
pub(crate) fn c15e_an_open_connection_whose_peer_takes_nothing_is_reset(kit: Kit) {
    // Twice, since the first wait ends, and then nothing waits.
    let script = "SETTING; a write BIG; <5:tick;> a buffers-some; <10:b take 128K; tick; OPEN> b empties; <3:tick;>
        <10:OPEN> a write BIG; <5:tick;> a buffers-some; <10:b take 128K; tick; OPEN> a write BIG; tick;";
    // Bytes that a busy system moves after the ticks postpone it.
    let lost = "<2:OPEN> <4:pass QUARTER; turns 2;> <8:in sockets: pass QUARTER; turns 2;> a gone; a lost Timeout";
    let limits = [("turns 0", "1800"), ("a write-timeout 8", "2")];
    with_limits(kit, limits, "a write-timeout off", script, lost);
}

/// The loop's wait ends late and misses bytes that have already arrived, as in a process that was
/// stopped while they arrived.
pub(crate) fn c15c_input_that_has_arrived_precedes_late_timers(kit: Kit) {
    if kit.in_flight() {
        // Input is available when its operation completes, some turns later.
        return;
    }
    for role in BOTH_ROLES {
        println!("{role:?}");
        let (mut rig, a, b) = kit.pair(role, idle_10_s());
        rig.tick();
        // Twice, in one loop.
        for round in 1..=2 {
            // The answer acknowledges what B has sent, so that its system holds nothing back.
            a.transport().write("y");
            rig.gets(&b, &b"yy"[..round]);
            let (seen, before) = (Rc::new(Cell::new(None)), a.received_len());
            let (note, counted) = (seen.clone(), a.clone());
            rig.reactor.call_later(s(10), move || note.set(Some(counted.received_len())));
            rig.turn();
            b.send(b"x");
            rig.pass(s(11));
            rig.tapped.is_blind.set(true);
            rig.turn();
            rig.until("data", || a.received_len() > before);
            rig.until("the timer", || seen.get().is_some());
            assert!(!a.is_lost(), "round {round}: {:?}", a.log.entries());
            assert_eq!(seen.get(), Some(before + 1), "the timer overtook the data");
        }
        // Silence is still noticed.
        rig.pass(s(11));
        rig.tapped.is_blind.set(true);
        rig.turn();
        assert_eq!(rig.lost(&a), "Timeout");
    }
}
