//! Rows 52 to 64: pausing, the order of input and its end, half-closes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::{SocketOption, Transport, hooks};

use super::kit::{BOTH_ROLES, Kit, Rig, s, tcp_options};
use super::peer::{B, Saw};
use super::recorder::{A, On, Script};

const CHUNK: usize = 4096;

/// B sends all of `data` as A reads it, then a FIN if `fin`.
fn send_all(rig: &mut Rig, a: &A, b: &B, data: &[u8], fin: bool) {
    let mut sent = 0;
    rig.until("all is sent", || {
        sent += b.try_send(&data[sent..data.len().min(sent + 256 * 1024)]);
        sent == data.len()
    });
    if fin {
        b.fin();
    }
    let received = a.clone();
    rig.until("all is received", move || received.received_len() == data.len());
    assert!(a.received() == data);
}

scripted! {
    $ reading:

    fn c52_a_pause_inside_data_received_holds_at_once() needs room
        // Pausing is a switch, not a count; the rest arrives without B sending more.
        "read 4096; once data: pause; b send #48K; a until data; tick; tick; a count 1 data
        a pause, pause, resume; a gets #48K; a count 1 resumed",
        // A pause and a resume in one callback change nothing: no pause took effect.
        "read 4096; on data: pause, resume; b send #48K; a gets #48K; a lacks resumed",
        // Paused by another connection in the turn in which its own bytes arrive.
        "once data: a2 pause; next; once data: a pause; b send 0123456789; b2 send 0123456789; any data; tick
        sum 1 data; a resume; a2 resume; a gets 0123456789; a2 gets 0123456789";

    fn c52_c72_a_pause_from_outside_holds_before_the_next_turn_delivers()
        "b send 0123456789; a pause; tick; a log made; a resume; a gets 0123456789";

    // The flush continues, and so does the drain.
    fn c52_pause_and_resume_are_harmless_while_closing_and_after()
        "on lost: resume, pause; {a pause; turn|plain}; a write BIG, lose; turns 2; b send 0123456789
        <3:a pause; turn; a resume; turn;> a pause; b sees Fin; b got BIG; b close; a lost Done(Us)
        a resume, pause; turns 3; a log made, lost(Done(Us))";

    // The bytes arrive before the server's connection is accepted.
    fn c53_a_pause_in_connection_made_holds()
        "once made: pause; {arriving|client}; b send 0123456789; a until made; tick; a log made
        a resume; a gets 0123456789; a log made, resumed, data(10)";

    fn c54_a_fin_is_noticed_on_resume() needs late_reads
        "a pause; turn; b send {1:abc|}; b fin; tick; pass 3600; tick; a log made; a resume; a lost Done(Peer)
        a log made, resumed, {1:data(3), |}read_closed, lost(Done(Peer)); a received {1:abc|}";

    fn c55_a_reset_is_noticed_while_paused() needs resets
        "a pause; b send 0123456789; tick; b reset; a lost Lost; a log made, lost(Lost)",
        // With bytes that the driver already held when the pause came.
        "read 4096; on data: pause; b send #12K; a until data; tick; b reset; a lost Lost; a count 1 data";

    fn c55_bytes_before_a_reset_are_delivered() needs resets streamed
        "read 4096; b send #{1:2|32K}; b reset; a lost Lost; a survives {1:2|32K}; a lacks read_closed";

    fn c55_a_fin_during_a_pause_comes_after_its_bytes() needs late_reads
        "read 4096; {1:once data: pause|plain}; a pause; turn; b send #48K; b fin; tick; a log made; a resume
        {1:a until data; tick; a count 1 data; a lacks read_closed; a resume|plain}
        a lost Done(Peer); a received #48K; a log .., read_closed, lost(Done(Peer))";

    // Nothing is delivered until the resume.
    fn c55a_the_peers_end_is_reported_during_a_pause() needs late_reads
        "read 4096; a pause; turn; {1:a watch ended end; tick; a lacks end|plain}; b send {2:#0|#12K}; b fin
        {1:plain|tick; a watch ended end}; a until end; tick; a log made, end: ok
        a watch ended end; turns 2; a log made, end: ok, end: ok
        a resume; a lost Done(Peer); a received {2:#0|#12K}; a log .., read_closed, lost(Done(Peer))";

    fn c55a_the_peers_end_behind_held_bytes_is_reported_during_a_pause() needs late_reads
        "read 4096; once data: pause; a watch ended end; b send #12K; b fin; a until data; a until end: ok; tick
        a count 1 data; a lacks read_closed";

    fn c55a_peer_ended_also_fires_while_reading_and_fails_on_a_loss()
        "aware; a watch ended end; b send x; b fin; a until end: ok; a until read_closed
        a watch ended again; a until again: ok; next; a2 watch ended end; a2 abort; a2 until end: failed
        a2 log made, lost(Aborted), end: failed; a2 watch ended late; a2 has late: failed";

    // Not Done, though the next read looks like a FIN.
    fn c56_a_failed_write_does_not_hide_received_bytes() needs breaking streamed
        "read 4096; once data: write x; b send #16K; b reset; a lost Lost; a survives 16K; a lacks read_closed
        a error ConnectionReset BrokenPipe";

    fn c56_an_error_after_the_fin_is_lost_not_done() needs resets
        "aware; b fins; b reset; {a writes-on|plain}; a lost Lost";

    // Without anything more from B.
    fn c58_after_read_closed_writing_continues() needs half_close
        "aware; b send ask; b fins; a in 3600 write BIG; tick; pass 3600; b gets BIG; b saw Open
        a log made, data(3), read_closed; a lose; a lost Done(Peer); b sees Fin";

    fn c58_without_read_closed_the_connection_closes_and_flushes() needs half_close
        "once data: write BIG; b send ask; b fin; b sips 64K Fin; b got BIG; a lost Done(Peer)
        a log made, data(3), read_closed, lost(Done(Peer))";

    fn c59_an_answer_after_the_fin_needs_read_closed()
        "{1:plain|plain|aware}; once data: {1:write answer|after 1 write answer & lose|after 1 write answer & lose}
        arriving; b send ask; b fins; tick; pass 1; b sees Fin; b got {1:answer||answer}; a lost Done(Peer)";

    fn c60_c63_lose_write_connection_flushes_then_calls_write_closed() needs half_close
        "a write BIG, half; tick; a log made; b sees Fin; b got BIG; a until write_closed
        b send 0123456789; a gets 0123456789; a half; tick; a log made, write_closed, data(10); a shuts 1",
        // The turn makes the call, even if nothing was written.
        "on data: half, note returned; b send x; a until write_closed
        a log made, data(1), returned, write_closed; a abort; a lost";

    // Bytes the driver has already taken are still sent; the stuck ones are dropped.
    fn c61_a_panic_in_read_closed_or_write_closed_loses_the_connection() needs half_close
        "errors 1; on read_closed: panic no poem; a pieces, half; tick; b fin; a until read_closed
        b sees Fin; a lost Panicked(no poem); a log made, read_closed, lost(Panicked(no poem)); b got-part",
        "errors 1; on write_closed: panic no poem; a half; b sees Fin; a until write_closed; b send unheard; b fin
        a lost Panicked(no poem); a log made, write_closed, lost(Panicked(no poem))";

    fn c62_when_both_halves_are_closed_the_connection_ends() needs awaited_end
        // Ours first.
        "aware; on write_closed: {1:|lose}; a half; b sees Fin; a until write_closed; tick; a open; b fin; a lost Done
        a log made, write_closed, {1:read_closed, |}..; a entries {1:4|3}; a closes Normal",
        // The peer's first.
        "aware; on write_closed: {|lose}; b fins; tick; a open; a half; a lost Done
        a log made, read_closed, write_closed, ..; a entries 4; a closes Normal; b sees Fin",
        // Both before the same turn, in either order.
        "aware; b fin; a half; a lost Done(Peer); a has read_closed; a has write_closed; a entries 4; a closes Normal";
}

pub(crate) fn c52_pauses_and_resumes_lose_no_bytes(kit: Kit) {
    let resumes: [fn(&A); 2] = [
        |a| assert!(a.tell(Transport::resume_producing)),
        |a| drop(a.call_later(Duration::ZERO, Transport::resume_producing)),
    ];
    for resume in resumes {
        let (mut rig, a, b) = kit.arriving(Script::new().on_a(On::Data, move |a, transport| {
            transport.pause_producing();
            resume(a);
        }));
        send_all(&mut rig, &a, &b, kit.big(), true);
        b.close();
        assert_eq!(rig.lost(&a), "Done(Peer)");
        let entries = a.log.entries();
        let (last, middle) = entries[1..].split_at(entries.len() - 3);
        for pair in last.chunks(2) {
            assert!(pair[0].starts_with("data") && pair[1] == "resumed", "{pair:?}");
        }
        assert_eq!(middle, ["read_closed", "lost(Done(Peer))"]);
    }
}

pub(crate) fn c55b_the_loss_is_reported_with_its_reason_after_the_protocol(kit: Kit) {
    let mut rig = kit.rig();
    for role in BOTH_ROLES {
        let (a, _b) = rig.pair(role, Script::new());
        let watch = |name: &'static str| {
            let log = a.log.clone();
            let lost = a.transport().lost();
            lost.map(move |reason| log.note(format!("{name}: {reason:?}"))).detach();
        };
        watch("first");
        watch("second");
        rig.turns(2);
        assert_eq!(a.log.entries(), ["made"]);
        a.transport().abort_connection();
        rig.until("the loss", || a.log.has("second"));
        assert_eq!(a.log.entries(), ["made", "lost(Aborted)", "first: Aborted", "second: Aborted"]);
        watch("late");
        assert_eq!(a.log.last_but(0), "late: Aborted");
    }
}

pub(crate) fn c64b_options_are_read_back_where_there_is_a_socket(kit: Kit) {
    let mut rig = kit.rig();
    let (on, off) = match kit.has_sockets() && !kit.is_unix() {
        true => (Some(true), Some(false)),
        false => (None, None),
    };
    for role in BOTH_ROLES {
        let (a, _b) = rig.pair(role, Script::new());
        let transport = a.transport();
        let options = || tcp_options(&transport);
        assert_eq!(options(), (on, on));
        transport.set_option(SocketOption::NoDelay(false));
        transport.set_option(SocketOption::KeepAlive(None));
        assert_eq!(options(), (off, off), "as asked for");
        rig.turn();
        assert_eq!(options(), (off, off), "as the system has it");
        transport.set_option(SocketOption::KeepAlive(Some(s(60))));
        transport.with_socket(|socket| socket.set_tcp_nodelay(true));
        rig.turn();
        assert_eq!(options(), (on, on), "as the system has it");
        transport.set_option(SocketOption::NoDelay(true));
        transport.set_option(SocketOption::NoDelay(false));
        assert_eq!(tcp_options(&transport).0, off, "the latest counts");
        transport.abort_connection();
        rig.lost(&a);
        assert_eq!(options(), (None, None));
    }
}

pub(crate) fn c64b_a_connection_was_made_at_the_time_of_that_turn(kit: Kit) {
    let mut rig = kit.rig();
    for role in BOTH_ROLES {
        let made = Rc::<Cell<_>>::default();
        let noted = made.clone();
        let script = Script::new().on(On::Made, move |t| noted.set(Some(t.reactor().now())));
        let (a, _b) = rig.pair(role, script);
        let transport = a.transport();
        assert_eq!(Some(hooks::made_at(&transport)), made.get());
        rig.pass(s(1));
        rig.turn();
        assert_eq!(Some(hooks::made_at(&transport)), made.get(), "later");
        transport.abort_connection();
        rig.lost(&a);
        assert_eq!(Some(hooks::made_at(&transport)), made.get(), "after the end");
    }
}

pub(crate) fn c56_pending_input_is_delivered_before_the_end(kit: Kit) {
    let (mut rig, a, b) =
        kit.read_buffer(CHUNK).accept(Script::new().on(On::Data, |t| t.write("answer")));
    let data = &kit.big()[..20_000];
    b.send(data);
    b.fin();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(rig.lost(&a), "Done(Peer)");
    assert!(a.received() == data);
    let answers = a.log.count("data");
    assert!(answers >= 20_000 / CHUNK);
    assert_eq!(b.got(), "answer".repeat(answers).as_bytes());
    assert_eq!(a.log.last_but(1), "read_closed");
}

pub(crate) fn c57_one_read_is_at_most_the_loops_buffer(kit: Kit) {
    let (mut rig, a, b) = kit.read_buffer(CHUNK).accept(Script::new());
    let data = &kit.big()[..10_000];
    b.send(data);
    rig.until("all of it", || a.received_len() == data.len());
    assert!(largest(&a) <= CHUNK);
    // The default.
    let mut rig = kit.rig();
    if let Some(network) = &rig.network {
        network.set_capacity(1024 * 1024);
    }
    let (a, b) = rig.accept(Script::new());
    send_all(&mut rig, &a, &b, &kit.big()[..1024 * 1024], false);
    assert!(largest(&a) <= 256 * 1024);
    if !kit.has_a_system() {
        assert_eq!(largest(&a), 256 * 1024);
    }
}

fn largest(a: &A) -> usize {
    let entries = a.log.entries();
    let sizes = entries.iter().filter_map(|e| e.strip_prefix("data(")?.strip_suffix(')'));
    sizes.map(|n| n.parse().expect("a number")).max().expect("at least one")
}

pub(crate) fn c57_a_busy_connection_gets_one_read_a_turn(kit: Kit) {
    let (mut rig, a1, b1) = kit.read_buffer(CHUNK).accept(Script::new());
    let (a2, b2) = rig.accept(Script::new());
    let chunks = 12;
    b1.send(&vec![1; chunks * CHUNK]);
    b2.send(b"0123456789");
    let mut turns = 0;
    while a1.log.count("data") < chunks {
        let before = a1.log.count("data");
        rig.turn();
        turns += 1;
        let more = a1.log.count("data") - before;
        assert!(more <= 1, "one read a turn");
        // Pending input arrives every turn though B1 sends nothing new; an operation in flight may
        // take several turns.
        assert!(more == 1 || kit.in_flight(), "a turn must not wait for another edge");
        assert!(turns < 100);
        if before == 0 && more == 1 && !kit.in_flight() {
            assert_eq!(a2.received_len(), 10, "the other connection was served in the same turn");
        }
    }
    assert_eq!(a2.received_len(), 10);
}
