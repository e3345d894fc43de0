//! Rows 52 to 64: pausing, the order of input and its end, half-closes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::CloseMode;
use couplet::{Bytes, Reason, Transport};

use super::kit::{BOTH_ROLES, Kit, Rig, Role, s};
use super::peer::{B, Saw};
use super::recorder::{A, On, Script};
use crate::logged::logged;

const HOUR: Duration = s(3600);
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

/// A has paused.
fn paused(kit: Kit) -> (Rig, A, B) {
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().pause_producing();
    rig.turn();
    (rig, a, b)
}

/// Two connections of one loop; the first to get data applies `act` to the other.
pub(super) fn the_first_acts_on_the_other(kit: Kit, act: fn(&Transport)) -> (Rig, [A; 2], [B; 2]) {
    let mut rig = kit.rig();
    let ends = [rig.end(), rig.end()];
    let b = [0, 1].map(|n| {
        let other = ends[1 - n].clone();
        let script = Script::new().once(On::Data, move |_| act(&other.transport()));
        rig.pair_as(&ends[n], Role::Server, script)
    });
    b.iter().for_each(|b| b.send(b"0123456789"));
    rig.until("data", || ends.iter().any(|a| a.log.has("data")));
    (rig, ends, b)
}

pub(crate) fn c52_a_pause_inside_data_received_holds_at_once(kit: Kit) {
    let (mut rig, a, b) =
        kit.read_buffer(CHUNK).accept(Script::new().once(On::Data, |t| t.pause_producing()));
    let data = &kit.big()[..48 * 1024];
    b.send(data);
    rig.until("data", || a.log.has("data"));
    rig.tick();
    rig.tick();
    assert_eq!(a.log.count("data"), 1);
    // Pausing is a switch, not a count; the rest arrives without B sending more.
    let transport = a.transport();
    transport.pause_producing();
    transport.pause_producing();
    transport.resume_producing();
    rig.until("the rest", || a.received_len() == data.len());
    assert!(a.received() == data);
    assert_eq!(a.log.count("resumed"), 1);
    // A pause and a resume in one callback change nothing.
    let (mut rig, a, b) = kit.read_buffer(CHUNK).accept(Script::new().on(On::Data, |t| {
        t.pause_producing();
        t.resume_producing();
    }));
    b.send(data);
    rig.until("all of it", || a.received_len() == data.len());
    assert!(!a.log.has("resumed"), "no pause took effect");
    // Paused by another connection in the turn in which its own bytes arrive.
    let (mut rig, [a1, a2], _b) = the_first_acts_on_the_other(kit, Transport::pause_producing);
    rig.tick();
    assert_eq!(a1.log.count("data") + a2.log.count("data"), 1);
    a1.transport().resume_producing();
    a2.transport().resume_producing();
    rig.until("both", || a1.received_len() + a2.received_len() == 20);
}

pub(crate) fn c52_a_pause_from_outside_holds_before_the_next_turn_delivers(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    b.send(b"0123456789");
    a.transport().pause_producing();
    rig.tick();
    assert_eq!(a.log.entries(), ["made"]);
    a.transport().resume_producing();
    rig.until("data", || a.received_len() == 10);
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

pub(crate) fn c52_pause_and_resume_are_harmless_while_closing_and_after(kit: Kit) {
    let big = kit.big();
    for paused_before in [false, true] {
        let (mut rig, a, b) = kit.accept(Script::new().on(On::Lost, |t| {
            t.resume_producing();
            t.pause_producing();
        }));
        let transport = a.transport();
        if paused_before {
            transport.pause_producing();
            rig.turn();
        }
        transport.write(big);
        transport.lose_connection();
        rig.turns(2);
        b.send(b"0123456789");
        for _ in 0..3 {
            transport.pause_producing();
            rig.turn();
            transport.resume_producing();
            rig.turn();
        }
        transport.pause_producing();
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin, "the flush goes on");
        assert!(b.got() == big);
        b.close();
        assert_eq!(rig.lost(&a), "Done(Us)", "and so does the drain");
        transport.resume_producing();
        transport.pause_producing();
        rig.turns(3);
        assert_eq!(a.log.entries(), ["made", "lost(Done(Us))"]);
    }
}

pub(crate) fn c53_a_pause_in_connection_made_holds(kit: Kit) {
    for role in BOTH_ROLES {
        let script = Script::new().once(On::Made, |t| t.pause_producing());
        let (mut rig, a, b) = match role {
            // The bytes arrive before the connection is accepted.
            Role::Server => kit.arriving(script),
            Role::Client => kit.pair(role, script),
        };
        b.send(b"0123456789");
        rig.until("connection_made", || a.is_made());
        rig.tick();
        assert_eq!(a.log.entries(), ["made"]);
        a.transport().resume_producing();
        rig.until("data", || a.received_len() == 10);
        assert_eq!(a.log.entries(), ["made", "resumed", "data(10)"]);
    }
}

pub(crate) fn c54_a_fin_is_noticed_on_resume(kit: Kit) {
    for sent in [0, 3] {
        let (mut rig, a, b) = paused(kit);
        b.send(&b"abc"[..sent]);
        b.fin();
        rig.tick();
        rig.pass(HOUR);
        rig.tick();
        assert_eq!(a.log.entries(), ["made"]);
        a.transport().resume_producing();
        assert_eq!(rig.lost(&a), "Done(Peer)");
        let entries = a.log.entries();
        let data = entries.iter().filter(|e| !e.starts_with("data")).collect::<Vec<_>>();
        assert_eq!(data, ["made", "resumed", "read_closed", "lost(Done(Peer))"]);
        assert_eq!(a.received(), b"abc"[..sent]);
    }
}

pub(crate) fn c55_a_reset_is_noticed_while_paused(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().pause_producing();
    b.send(b"0123456789");
    rig.tick();
    b.reset();
    assert_eq!(rig.lost(&a), "Lost");
    assert_eq!(a.log.entries(), ["made", "lost(Lost)"]);
    // With bytes that the driver already held when the pause came.
    let (mut rig, a, b) =
        kit.read_buffer(CHUNK).accept(Script::new().on(On::Data, |t| t.pause_producing()));
    b.send(&[7; 3 * CHUNK]);
    rig.until("data", || a.log.has("data"));
    rig.tick();
    b.reset();
    assert_eq!(rig.lost(&a), "Lost");
    assert_eq!(a.log.count("data"), 1);
}

/// How many of the bytes B sent survive its reset. The memory driver loses half.
fn survives(kit: Kit, sent: usize) -> usize {
    if kit.is_unix() {
        return sent;
    }
    if kit.has_a_system() { sent } else { sent / 2 }
}

pub(crate) fn c55_bytes_before_a_reset_are_delivered(kit: Kit) {
    for sent in [2, 8 * CHUNK] {
        let (mut rig, a, b) = kit.read_buffer(CHUNK).accept(Script::new());
        let data = &kit.big()[..sent];
        b.send(data);
        b.reset();
        assert_eq!(rig.lost(&a), "Lost");
        assert!(a.received() == data[..survives(kit, sent)], "{} bytes", a.received_len());
        assert!(!a.log.has("read_closed"));
    }
}

pub(crate) fn c55_a_fin_during_a_pause_comes_after_its_bytes(kit: Kit) {
    let data = &kit.big()[..12 * CHUNK];
    for again in [false, true] {
        let (mut rig, a, b) =
            kit.read_buffer(CHUNK).accept(Script::new().once(On::Data, move |transport| {
                if again {
                    transport.pause_producing();
                }
            }));
        a.transport().pause_producing();
        rig.turn();
        b.send(data);
        b.fin();
        rig.tick();
        assert_eq!(a.log.entries(), ["made"]);
        a.transport().resume_producing();
        if again {
            rig.until("data", || a.log.has("data"));
            rig.tick();
            assert_eq!(a.log.count("data"), 1);
            assert!(!a.log.has("read_closed"));
            a.transport().resume_producing();
        }
        assert_eq!(rig.lost(&a), "Done(Peer)");
        assert!(a.received() == data);
        assert_eq!(a.log.last_but(1), "read_closed");
    }
}

pub(crate) fn c55a_the_peers_end_is_heard_during_a_pause(kit: Kit) {
    for (unread, is_asked_before) in [(0, true), (0, false), (3 * CHUNK, true), (3 * CHUNK, false)]
    {
        let (mut rig, a, b) = paused(kit.read_buffer(CHUNK));
        let asks = || a.log.watch("end", a.transport().peer_ended());
        if is_asked_before {
            asks();
            rig.tick();
            assert!(!a.log.has("end"));
        }
        let data = &kit.big()[..unread];
        b.send(data);
        b.fin();
        if !is_asked_before {
            rig.tick();
            asks();
        }
        rig.until("the end", || a.log.has("end"));
        rig.tick();
        assert_eq!(a.log.entries(), ["made", "end: ok"], "nothing is delivered");
        asks();
        rig.turns(2);
        assert_eq!(a.log.entries(), ["made", "end: ok", "end: ok"], "it stays so");
        a.transport().resume_producing();
        assert_eq!(rig.lost(&a), "Done(Peer)");
        assert!(a.received() == data);
        assert_eq!(a.log.last_but(1), "read_closed");
    }
}

pub(crate) fn c55a_a_pause_before_the_last_bytes_hears_of_the_end_behind_them(kit: Kit) {
    let (mut rig, a, b) =
        kit.read_buffer(CHUNK).accept(Script::new().once(On::Data, Transport::pause_producing));
    a.log.watch("end", a.transport().peer_ended());
    b.send(&kit.big()[..3 * CHUNK]);
    b.fin();
    rig.until("data", || a.log.has("data"));
    rig.until("the end", || a.log.has("end: ok"));
    rig.tick();
    assert_eq!(a.log.count("data"), 1);
    assert!(!a.log.has("read_closed"));
}

pub(crate) fn c55a_whoever_reads_hears_of_the_end_too_and_one_that_is_lost_fails(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new().aware());
    a.log.watch("end", a.transport().peer_ended());
    b.send(b"x");
    b.fin();
    rig.until("the end", || a.log.has("end: ok"));
    rig.until("read_closed", || a.log.has("read_closed"));
    a.log.watch("again", a.transport().peer_ended());
    rig.until("the end", || a.log.has("again: ok"));
    let (a, _b) = rig.accept(Script::new());
    a.log.watch("end", a.transport().peer_ended());
    a.transport().abort_connection();
    rig.until("the failure", || a.log.has("end: failed"));
    assert_eq!(a.log.entries(), ["made", "lost(Aborted)", "end: failed"]);
    a.log.watch("late", a.transport().peer_ended());
    assert!(a.log.has("late: failed"));
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
        let options = || (transport.tcp_no_delay(), transport.tcp_keep_alive());
        assert_eq!(options(), (on, on));
        transport.set_tcp_no_delay(false);
        transport.set_tcp_keep_alive(None);
        assert_eq!(options(), (off, off), "as asked for");
        rig.turn();
        assert_eq!(options(), (off, off), "as the system has it");
        transport.set_tcp_keep_alive(Some(s(60)));
        transport.with_socket(|socket| socket.set_tcp_nodelay(true));
        rig.turn();
        assert_eq!(options(), (on, on), "as the system has it");
        transport.set_tcp_no_delay(true);
        transport.set_tcp_no_delay(false);
        assert_eq!(transport.tcp_no_delay(), off, "the latest counts");
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
        assert_eq!(Some(transport.made_at()), made.get());
        rig.pass(s(1));
        rig.turn();
        assert_eq!(Some(transport.made_at()), made.get(), "later");
        transport.abort_connection();
        rig.lost(&a);
        assert_eq!(Some(transport.made_at()), made.get(), "after the end");
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

pub(crate) fn c56_a_failed_write_does_not_hide_received_bytes(kit: Kit) {
    let (mut rig, a, b) =
        kit.read_buffer(CHUNK).accept(Script::new().once(On::Data, |t| t.write("x")));
    let data = &kit.big()[..4 * CHUNK];
    b.send(data);
    b.reset();
    assert_eq!(rig.lost(&a), "Lost", "not Done, though the next read looks like a FIN");
    assert!(a.received() == data[..survives(kit, data.len())], "{} bytes", a.received_len());
    assert!(!a.log.has("read_closed"));
    let reason = a.reason();
    let error = reason.downcast_ref::<std::io::Error>().expect("the io::Error is kept");
    let kinds = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error:?}");
}

pub(crate) fn c56_an_error_after_the_fin_is_lost_not_done(kit: Kit) {
    for writes in [true, false] {
        let (mut rig, a, b) = kit.accept(Script::new().aware());
        rig.fin(&a, &b);
        b.reset();
        rig.until("connection_lost", || {
            if writes {
                a.transport().write("x");
            }
            a.is_lost()
        });
        assert_eq!(rig.lost(&a), "Lost");
    }
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

/// The size of the largest `data_received`.
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

pub(crate) fn c58_after_read_closed_writing_goes_on(kit: Kit) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new().aware());
    b.send(b"ask");
    rig.fin(&a, &b);
    a.call_later(HOUR, move |transport| transport.write(big));
    rig.tick();
    rig.pass(HOUR);
    rig.gets(&b, big);
    assert_eq!(b.saw(), Saw::Open);
    assert_eq!(a.log.entries(), ["made", "data(3)", "read_closed"]);
    a.transport().lose_connection();
    assert_eq!(rig.lost(&a), "Done(Peer)", "without anything more from B");
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
}

pub(crate) fn c58_without_read_closed_the_connection_closes_and_flushes(kit: Kit) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new().once(On::Data, move |t| t.write(big)));
    b.send(b"ask");
    b.fin();
    rig.until("an end", || {
        b.take(64 * 1024);
        b.saw() != Saw::Open
    });
    assert_eq!(b.saw(), Saw::Fin);
    assert!(b.got() == big);
    assert_eq!(rig.lost(&a), "Done(Peer)");
    assert_eq!(a.log.entries(), ["made", "data(3)", "read_closed", "lost(Done(Peer))"]);
}

pub(crate) fn c59_an_answer_after_the_fin_needs_read_closed(kit: Kit) {
    let cases: [(_, _, &[u8]); 3] =
        [(false, None, b"answer"), (false, Some(s(1)), b""), (true, Some(s(1)), b"answer")];
    for (aware, delay, answer) in cases {
        let script = Script::new().once_a(On::Data, move |a, transport| match delay {
            None => transport.write("answer"),
            Some(delay) => drop(a.call_later(delay, |transport| {
                transport.write("answer");
                transport.lose_connection();
            })),
        });
        let (mut rig, a, b) = kit.arriving(if aware { script.aware() } else { script });
        b.send(b"ask");
        rig.fin(&a, &b);
        rig.tick();
        rig.pass(s(1));
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
        assert_eq!(b.got(), answer, "aware: {aware}, after {delay:?}");
        assert_eq!(rig.lost(&a), "Done(Peer)");
    }
}

pub(crate) fn c60_lose_write_connection_flushes_then_calls_write_closed(kit: Kit) {
    let (mut rig, a, b) = kit.accept(Script::new());
    a.transport().write(kit.big());
    a.transport().lose_write_connection();
    rig.tick();
    assert_eq!(a.log.entries(), ["made"]);
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert!(b.got() == kit.big());
    rig.until("write_closed", || a.log.has("write_closed"));
    b.send(b"0123456789");
    rig.until("data", || a.received_len() == 10);
    a.transport().lose_write_connection();
    rig.tick();
    assert_eq!(a.log.entries(), ["made", "write_closed", "data(10)"]);
    assert_eq!(rig.counts(&a).shut_writes, 1);
    // The turn makes the call, even if nothing was written.
    let (mut rig, a, b) = kit.accept(Script::new().on_a(On::Data, |a, transport| {
        transport.lose_write_connection();
        a.log.note("returned");
    }));
    b.send(b"x");
    rig.until("write_closed", || a.log.has("write_closed"));
    assert_eq!(a.log.entries(), ["made", "data(1)", "returned", "write_closed"]);
    a.transport().abort_connection();
    rig.lost(&a);
}

pub(crate) fn c61_a_panic_in_read_closed_or_write_closed_loses_the_connection(kit: Kit) {
    let big = kit.big();
    let (mut rig, a, b) = kit.accept(Script::new().on(On::ReadClosed, |_| panic!("no poem")));
    for piece in big.chunks(64 * 1024) {
        a.transport().write_bytes(Bytes::from_static(piece));
    }
    a.transport().lose_write_connection();
    rig.tick();
    b.fin();
    let ((), lines) = logged(|| rig.until("read_closed", || a.log.has("read_closed")));
    assert_eq!(lines.len(), 1, "{lines:?}");
    // Bytes the driver has already taken are still sent.
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    assert_eq!(rig.lost(&a), "Panicked(no poem)");
    assert_eq!(a.log.entries(), ["made", "read_closed", "lost(Panicked(no poem))"]);
    assert!(big.starts_with(&b.got()) && b.got_len() < big.len(), "the stuck bytes are dropped");

    let (mut rig, a, b) = kit.accept(Script::new().on(On::WriteClosed, |_| panic!("no poem")));
    a.transport().lose_write_connection();
    let (why, lines) = logged(|| {
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
        rig.until("write_closed", || a.log.has("write_closed"));
        b.send(b"unheard");
        b.fin();
        rig.lost(&a)
    });
    assert_eq!(why, "Panicked(no poem)");
    assert_eq!(a.log.entries(), ["made", "write_closed", "lost(Panicked(no poem))"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
}

pub(crate) fn c62_when_both_halves_are_closed_the_connection_ends(kit: Kit) {
    let ended = |rig: &mut Rig, a: &A, order: &[&str]| {
        rig.lost(a);
        assert!(matches!(a.reason(), Reason::Done(_)), "{:?}", a.reason());
        let entries = a.log.entries();
        assert_eq!(entries[1..entries.len() - 1], *order);
        assert_eq!(rig.counts(a).closes, [CloseMode::Normal]);
    };
    let keeps: fn(&Transport) = |_| {};
    let orders: [(_, &[&str]); 2] = [
        (keeps, &["write_closed", "read_closed"]),
        (Transport::lose_connection, &["write_closed"]),
    ];
    for (close, order) in orders {
        let script = || Script::new().aware().on(On::WriteClosed, close);
        // Ours first.
        let (mut rig, a, b) = kit.accept(script());
        a.transport().lose_write_connection();
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
        rig.until("write_closed", || a.log.has("write_closed"));
        rig.tick();
        assert!(!a.is_lost());
        b.fin();
        ended(&mut rig, &a, order);
        // The peer's first.
        let (mut rig, a, b) = kit.accept(script());
        rig.fin(&a, &b);
        rig.tick();
        assert!(!a.is_lost());
        a.transport().lose_write_connection();
        ended(&mut rig, &a, &["read_closed", "write_closed"]);
        assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    }
    // Both before the same turn.
    let (mut rig, a, b) = kit.accept(Script::new().aware());
    b.fin();
    a.transport().lose_write_connection();
    rig.lost(&a);
    let mut entries = a.log.entries();
    entries[1..3].sort();
    assert_eq!(entries, ["made", "read_closed", "write_closed", "lost(Done(Peer))"]);
    assert_eq!(rig.counts(&a).closes, [CloseMode::Normal]);
}
