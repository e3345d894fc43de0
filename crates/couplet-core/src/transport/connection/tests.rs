//! Drives a [`Life`] by hand: no loop, no clock, and a driver that does nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Effects, Life, Written};
use crate::driver::{CloseMode, Key, WriteOutcome};
use crate::error::Reason;
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use crate::transport::cell::ConnectionCell;
use crate::transport::{Producer, ProducerKind, Timeout, Transport, TransportSettings};

/// Echoes, closes on `bye`, and records its calls.
#[derive(Clone, Default)]
struct Echo(Rc<RefCell<Vec<String>>>);

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.borrow_mut().push(format!("data {}", data.len()));
        transport.write(data);
        if data == b"bye" {
            transport.lose_connection();
        }
    }

    fn write_closed(&mut self, _: &Transport) {
        self.0.borrow_mut().push("write_closed".to_owned());
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.0.borrow_mut().push(format!("lost: {reason:?}"));
    }
}

/// Keeps the connection after the peer's end.
struct Aware(Echo);
impl Protocol for Aware {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.data_received(transport, data);
    }
    fn read_closed(&mut self, _: &Transport) {
        self.0.0.borrow_mut().push("read_closed".to_owned());
    }
    fn write_closed(&mut self, transport: &Transport) {
        self.0.write_closed(transport);
    }
    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.0.connection_lost(transport, reason);
    }
}

/// A producer that writes nothing, and records its end.
struct Stopped(Rc<RefCell<Vec<String>>>);
impl Producer for Stopped {
    fn resume_producing(&mut self) {}
    fn stop_producing(&mut self) {
        self.0.borrow_mut().push("stopped".to_owned());
    }
}

fn written(outcome: WriteOutcome, before: usize) -> Written {
    Written { outcome, before, spent: false }
}

struct Held {
    life: Life,
    calls: Echo,
    start: Instant,
}

impl Held {
    fn new() -> Held {
        let reactor = Reactor::without_a_loop();
        let start = reactor.now();
        let key = Key { slot: 0, generation: std::num::NonZeroU32::MIN };
        let place = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let cell = Rc::new(ConnectionCell::new(key, reactor, place.into(), place.into()));
        let calls = Echo::default();
        let mut life = Life::new(cell);
        life.begin(Box::new(calls.clone()));
        Held { life, calls, start }
    }

    fn after(&self, time: Duration) -> Instant {
        self.start + time
    }

    fn at(&self) -> Instant {
        self.after(Duration::ZERO)
    }

    fn feed(&mut self, data: &[u8]) -> Effects {
        let at = self.at();
        self.life.feed(data, at)
    }

    /// Simulates a driver that sends all output.
    fn flush(&mut self) -> Effects {
        let mut out = self.life.cell().outbox();
        let before = out.len();
        out.clear();
        drop(out);
        let at = self.at();
        self.life.wrote(written(WriteOutcome::All, before), at)
    }

    fn calls(&self) -> Vec<String> {
        self.calls.0.borrow().clone()
    }
}

/// Each wait compares the system's count with the one before, for a close and for a half-close.
#[test]
fn bytes_that_leave_the_system_postpone_the_close_deadline_each_time_and_only_then() {
    for (counts, halves) in [&[100][..], &[100, 60], &[100, 60, 10], &[100, 99, 98, 97]]
        .into_iter()
        .flat_map(|counts| [(counts, false), (counts, true)])
    {
        let mut held = Held::new();
        let at = held.at();
        let _ = held.feed(if halves { b"one" } else { b"bye" });
        if halves {
            held.transport().lose_write_connection();
        }
        let _ = held.life.apply(at);
        held.life.set_unsent(counts.first().copied());
        let deadline = |held: &Held| held.life.deadline().expect("it closes");
        assert_eq!(deadline(&held), held.after(Duration::from_secs(30)));
        for count in &counts[1..] {
            let due = deadline(&held);
            assert!(!held.life.timed_out(due, Some(*count)).has(Effects::CALLS), "{counts:?}");
            assert_eq!(deadline(&held), due + Duration::from_secs(30), "{counts:?}");
        }
        let due = deadline(&held);
        assert!(held.life.timed_out(due, counts.last().copied()).has(Effects::CALLS), "{counts:?}");
        assert_eq!(held.life.closed(), Some(CloseMode::Reset));
        held.life.lost(due);
        assert_eq!(held.calls(), ["data 3", "lost: CloseTimedOut"]);
    }
}

/// The count for that comparison is asked for after each progress of our buffer.
#[test]
fn the_systems_count_is_measured_whenever_a_close_or_a_half_close_has_sent_bytes() {
    type Close = fn(&Transport);
    let cases: [(Close, bool); 3] = [
        (Transport::lose_connection, true),
        (Transport::lose_write_connection, true),
        (|_| (), false),
    ];
    for (closes, measures) in cases {
        let mut held = Held::new();
        held.transport().write([7; 100]);
        closes(&held.transport());
        let _ = held.life.apply(held.at());
        for _ in 0..2 {
            let mut out = held.life.cell().outbox();
            let before = out.len();
            out.advance(10);
            drop(out);
            let at = held.at();
            let effects = held.life.wrote(written(WriteOutcome::Blocked, before), at);
            assert_eq!(effects.has(Effects::MEASURE), measures);
        }
    }
}

#[test]
fn bytes_that_a_closing_connection_discards_are_counted() {
    let mut held = Held::new();
    let _ = held.feed(b"bye");
    let _ = held.life.apply(held.at());
    let bytes_in = |held: &Held| held.life.cell().bytes_in.get();
    for total in [13, 23] {
        let _ = held.feed(&[7; 10]);
        assert_eq!(bytes_in(&held), total, "while it flushes");
    }
    let _ = held.flush();
    assert_eq!(held.life.state_name(), "lingering");
    for total in [33, 43] {
        let _ = held.feed(&[7; 10]);
        assert_eq!(bytes_in(&held), total, "while it waits for the peer");
    }
    assert_eq!(held.calls(), ["data 3"]);
}

/// A time limit that is set again: the last setting counts, also where it is the default.
#[test]
fn of_several_settings_of_a_time_limit_the_last_one_counts() {
    type Begin = fn(&mut Held);
    let closes: Begin = |held| {
        held.transport().write("rest");
        held.transport().lose_connection();
    };
    let lingers: Begin = |held| {
        held.transport().lose_connection();
        let _ = held.life.apply(held.at());
    };
    let limits: [(Timeout, Begin); 3] =
        [(Timeout::Idle, |_| ()), (Timeout::Close, closes), (Timeout::Fin, lingers)];
    for (which, begin) in limits {
        let mut held = Held::new();
        begin(&mut held);
        let second = Duration::from_secs(1);
        for limit in [second, 30 * second, second, 30 * second, 2 * second] {
            held.transport().set_timeout(which, Some(limit));
            let _ = held.life.apply(held.at());
            assert_eq!(held.life.deadline(), Some(held.after(limit)), "{which:?}");
        }
        held.transport().set_timeout(which, None);
        let _ = held.life.apply(held.at());
        assert_eq!(held.life.deadline(), None, "{which:?}");
        // Never earlier than asked for.
        let odd = Duration::from_micros(1500);
        held.transport().set_timeout(which, Some(odd));
        let _ = held.life.apply(held.at());
        assert!(held.life.deadline() >= Some(held.after(odd)), "{which:?}");
    }
}

/// Both limits on stalls apply to output that waits after the peer's end.
#[test]
fn of_the_two_limits_on_a_stall_the_shorter_one_counts() {
    for (half_close, write) in [(1, 60), (60, 1)] {
        let mut held = Held::new();
        held.life.begin(Box::new(Aware(held.calls.clone())));
        let transport = held.transport();
        transport.set_timeout(Timeout::HalfClose, Some(Duration::from_secs(half_close)));
        transport.set_timeout(Timeout::Write, Some(Duration::from_secs(write)));
        transport.write("rest");
        let _ = held.life.apply(held.at());
        held.block(0);
        let _ = held.life.ended(held.at());
        // The first of four checks.
        assert_eq!(held.life.deadline(), Some(held.after(Duration::from_millis(250))));
    }
}

#[test]
fn timed_calls_that_are_over_leave_nothing_at_their_connection_and_the_others_stay() {
    let held = Held::new();
    let connection = held.transport().connection::<Echo>();
    let hour = Duration::from_secs(3600);
    for round in 0..2 {
        let pending: Vec<_> = (0..50).map(|_| connection.call_later(hour, |_, _| {})).collect();
        for _ in 0..1000 {
            assert!(connection.call_later(hour, |_, _| {}).cancel());
        }
        let kept = held.life.cell().take_timers().len();
        assert!((50..200).contains(&kept), "round {round}: {kept}");
        assert!(pending.iter().all(|call| call.active()));
    }
}

#[test]
fn c51d_each_setting_and_count_moves_with_a_connection() {
    let old = Held::new();
    let transport = old.transport();
    let limits = [Timeout::Idle, Timeout::Close, Timeout::Fin, Timeout::HalfClose, Timeout::Write];
    for (seconds, which) in (1..).zip(limits) {
        transport.set_timeout(which, Some(Duration::from_secs(seconds)));
    }
    transport.set_write_marks(10, 20);
    transport.set_write_cap(Some(1000));
    transport.set_close_at_once(true);
    transport.cell.bytes_in.set(7);
    transport.write([0; 30]);
    transport.pause_producing();
    let later = old.after(Duration::from_secs(9));
    let moved = TransportSettings::of(&transport.cell, later);
    assert_eq!(moved.0[..8], [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 10, 20, 1000]);
    assert_eq!(moved.0[9..], [1, 0, 7, 30, 9_000_000, 9_000_000]);
    let (new, unsent) = (Held::new(), 12);
    moved.restore(&new.transport(), unsent);
    let cell = new.life.cell();
    let mut again = TransportSettings::of(cell, new.at());
    assert_eq!(again.0[12], 18, "the rest is written again");
    again.0[12] = 30;
    assert_eq!(again, moved);
}

/// Each waiter of a connection whose loop is dropped has its answer.
#[test]
fn the_waiters_of_an_abandoned_connection_get_shutdown() {
    let mut held = Held::new();
    let transport = held.transport();
    transport.write(vec![7; 100_000]);
    held.block(0);
    let calls = held.calls.0.clone();
    let note = |name: &'static str| {
        let calls = calls.clone();
        move |text: String| calls.borrow_mut().push(format!("{name}: {text}"))
    };
    for (name, waiting) in [
        ("writable", transport.writable()),
        ("flushed", transport.flushed()),
        ("peer_ended", transport.peer_ended()),
        ("flushed again", transport.flushed()),
    ] {
        let note = note(name);
        let failed = waiting.add_both(move |result: crate::defer::Result<()>| {
            note(result.expect_err("nothing was sent").to_string());
            Ok(())
        });
        failed.detach();
    }
    for name in ["lost", "lost again"] {
        let note = note(name);
        transport.lost().map(move |reason| note(format!("{reason:?}"))).detach();
    }
    held.life.abandon();
    let reason = Reason::Shutdown.to_string();
    let failed = ["writable", "flushed", "peer_ended"].map(|name| format!("{name}: {reason}"));
    let calls = calls.borrow();
    let said: Vec<&str> = calls.iter().map(String::as_str).collect();
    for failed in &failed {
        assert!(said.contains(&failed.as_str()), "{said:?}");
    }
    assert!(said.contains(&&*format!("flushed again: {reason}")), "{said:?}");
    assert_eq!(said[4..], ["lost: Shutdown", "lost again: Shutdown"]);
}

#[test]
fn the_rest_of_a_large_write_waits_in_a_buffer_of_its_size() {
    let mut held = Held::new();
    let _ = held.feed(&[7; 100_000]);
    let mut out = held.life.cell().outbox();
    let (before, spares) = (out.len(), out.spares().clone());
    out.advance(before - 10);
    drop(out);
    let at = held.at();
    let _ = held.life.wrote(written(WriteOutcome::Blocked, before), at);
    assert!(spares.take().capacity() >= 100_000, "the large one is free again");
    let same = held.life.cell().outbox().first().as_ptr();
    let _ = held.life.wrote(written(WriteOutcome::Blocked, 10), at);
    assert_eq!(held.life.cell().outbox().first().as_ptr(), same, "nothing left: nothing to copy");
    assert_eq!(held.life.cell().outbox().first(), [7; 10]);
}

#[test]
fn a_write_of_which_nothing_left_is_not_copied() {
    let mut held = Held::new();
    held.life.cell().outbox().spares().give(Vec::with_capacity(100_000));
    let at = held.at();
    let _ = held.feed(b"hello");
    let place = held.life.cell().outbox().first().as_ptr();
    let _ = held.life.wrote(written(WriteOutcome::Blocked, 5), at);
    assert_eq!(held.life.cell().outbox().first().as_ptr(), place);
}

#[test]
fn write_closed_does_not_come_after_a_reset() {
    for resets in [false, true] {
        let mut held = Held::new();
        let at = held.at();
        let transport = Transport { cell: held.life.cell().clone() };
        transport.lose_write_connection();
        assert!(held.life.apply(at).has(Effects::SHUT_WRITE.and(Effects::CALLS)));
        // Before the due call.
        if resets {
            transport.abort_connection();
            let _ = held.life.apply(at);
            held.life.lost(at);
            assert_eq!(held.calls(), ["lost: Aborted"]);
        } else {
            let _ = held.life.failed(std::io::ErrorKind::BrokenPipe.into());
            held.life.lost(at);
            assert_eq!(held.calls()[0], "write_closed", "it was flushed");
        }
    }
}

#[test]
fn bytes_that_left_before_an_abort_count_as_sent() {
    for sends in [false, true] {
        let mut held = Held::new();
        let at = held.at();
        let transport = Transport { cell: held.life.cell().clone() };
        let _ = held.feed(b"hello");
        for waiting in [transport.writable(), transport.flushed()] {
            let calls = held.calls.0.clone();
            let note = move |outcome: crate::defer::Result<()>| {
                calls.borrow_mut().push(format!("sent: {}", outcome.is_ok()));
                Ok(())
            };
            waiting.add_both(note).detach();
        }
        if sends {
            assert!(held.flush().has(Effects::CALLS));
        }
        // Before the due call.
        transport.abort_connection();
        let _ = held.life.apply(at);
        held.life.lost(at);
        // Little enough was buffered for `writable` from the beginning.
        let calls = held.calls();
        match sends {
            true => assert_eq!(calls[1..], ["sent: true", "sent: true", "lost: Aborted"]),
            false => assert_eq!(calls[1..], ["sent: true", "lost: Aborted", "sent: false"]),
        }
    }
}

#[test]
fn of_the_idle_and_the_close_deadline_the_earlier_one_counts() {
    for (idle, first) in [(10, 10), (30, 30), (60, 30)] {
        let mut held = Held::new();
        let at = held.at();
        let transport = Transport { cell: held.life.cell().clone() };
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(idle)));
        let _ = held.feed(b"hello");
        transport.lose_write_connection();
        let _ = held.life.apply(at);
        assert_eq!(held.life.deadline(), Some(held.start + Duration::from_secs(first)));
    }
}

#[test]
fn effects_are_at_most_a_set_that_contains_them() {
    let both = Effects::OUTPUT.and(Effects::RECEIVE);
    for (effects, most, is) in [
        (Effects::NOTHING, Effects::NOTHING, true),
        (Effects::NOTHING, Effects::OUTPUT, true),
        (Effects::OUTPUT, Effects::OUTPUT, true),
        (Effects::RECEIVE, Effects::OUTPUT, false),
        (both, Effects::OUTPUT, false),
        (Effects::OUTPUT, both, true),
    ] {
        assert_eq!(effects.is_at_most(most), is, "{effects:?} of {most:?}");
    }
}

// The reasons.

impl Held {
    fn transport(&self) -> Transport {
        Transport { cell: self.life.cell().clone() }
    }

    /// The reason as of 3.2 s after the start, once recorded requests are applied.
    fn why(&mut self) -> String {
        let _ = self.life.apply(self.start);
        self.life.why("Echo").at(self.after(Duration::from_millis(3200))).to_string()
    }

    /// Simulates a driver that has sent `sent` bytes, and takes no others.
    fn block(&mut self, sent: usize) {
        let mut out = self.life.cell().outbox();
        let before = out.len();
        out.advance(sent);
        drop(out);
        let _ = self.life.wrote(written(WriteOutcome::Blocked, before), self.start);
    }
}

#[test]
fn c180_paused_reading_names_its_originator() {
    let mut held = Held::new();
    let transport = held.transport();
    transport.pause_producing();
    assert_eq!(held.why(), "reading paused by Echo for 3.2 s");
    let _ = held.life.peer_ended(held.start);
    transport.resume_producing();
    transport.pause_for(Duration::from_secs(10));
    assert_eq!(held.why(), "reading paused by a timer for 3.2 s, resumed in 6.8 s");
    transport.pause_producing();
    assert_eq!(held.why(), "reading paused by Echo for 3.2 s");
    // Of several, a person at the inspector is named first, and ends only their own pause.
    for by_timer in [false, true] {
        transport.pause_for_inspector(true);
        if by_timer {
            transport.resume_producing();
        }
        assert_eq!(held.why(), "reading paused by the inspector for 3.2 s");
        transport.pause_for_inspector(false);
        let rest = match by_timer {
            false => "reading paused by Echo for 3.2 s",
            true => "reading paused by a timer for 3.2 s, resumed in 6.8 s",
        };
        assert_eq!(held.why(), rest);
        assert!(!transport.wants_data());
    }
}

#[test]
fn c180_unsent_bytes_name_the_time_since_the_peer_took_any() {
    let mut held = Held::new();
    let transport = held.transport();
    transport.set_write_cap(Some(1024 * 1024));
    transport.write(vec![7; 128 * 1024]);
    held.block(64 * 1024);
    let unsent = "64 KiB unsent, the peer has taken nothing for 3.2 s, reset above 1 MiB";
    assert_eq!(held.why(), format!("{unsent}; waits for the peer's first byte for 3.2 s"));
    // Bytes were sent since.
    held.life.cell().outbox().advance(1024);
    assert!(held.why().starts_with("63 KiB unsent, reset above 1 MiB; "), "{}", held.why());
    held.life.cell().outbox().clear();
    assert_eq!(held.why(), "waits for the peer's first byte for 3.2 s");
    // And again.
    transport.write(vec![7; 128 * 1024]);
    held.block(64 * 1024);
    assert!(held.why().starts_with(unsent), "{}", held.why());
}

#[test]
fn c180_half_closed_connections_name_the_closed_side() {
    let mut held = Held::new();
    let transport = held.transport();
    transport.write("rest");
    transport.lose_write_connection();
    let why = "4 bytes unsent; our side closes when everything is sent, reset in 26.8 s; \
               waits for the peer's first byte for 3.2 s";
    assert_eq!(held.why(), why);
    let _ = held.flush();
    assert_eq!(held.why(), "our side is closed; waits for the peer's first byte for 3.2 s");
}

#[test]
fn c180_a_close_reports_its_progress() {
    let mut held = Held::new();
    let _ = held.feed(b"bye");
    let _ = held.life.apply(held.start);
    held.block(0);
    let why = "closing (connection closed by us): 3 bytes unsent, no progress for 3.2 s, \
               reset in 26.8 s";
    assert_eq!(held.why(), why);
    let _ = held.flush();
    let why = "lingering (connection closed by us): our FIN went 3.2 s ago, waits for the peer's, \
               closed in 26.8 s";
    assert_eq!(held.why(), why);
    let _ = held.life.ended(held.start);
    assert_eq!(held.why(), "closed: connection closed by us");
}

#[test]
fn c180_a_close_that_waits_for_a_producer_says_so() {
    let mut held = Held::new();
    let (transport, calls) = (held.transport(), held.calls.0.clone());
    transport.register_producer(Stopped(calls), ProducerKind::Push).expect("the first");
    transport.write("rest");
    transport.lose_connection();
    let limit = "no progress for 3.2 s, reset in 26.8 s";
    assert_eq!(held.why(), format!("closing (connection closed by us): 4 bytes unsent, {limit}"));
    let _ = held.flush();
    let waits =
        format!("closing (connection closed by us): the producer has not finished, {limit}");
    assert_eq!(held.why(), waits);
}

#[test]
fn c180_a_drain_is_named() {
    let mut held = Held::new();
    let _ = held.life.drain(Duration::from_secs(1));
    assert_eq!(held.why(), "asked to finish by a drain; waits for the peer's first byte for 3.2 s");
}

// A write error that ends only our direction.

/// A step of a connection's life. Requests are applied, and due calls made, after each.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write,
    LoseWrite,
    Lose,
    Abort,
    Pause,
    Resume,
    Stop,
    Bytes,
    WriteFails,
    Fails,
    PeerEnds,
}

impl Held {
    fn step(&mut self, step: Step) {
        let (at, transport) = (self.at(), self.transport());
        match step {
            Step::Write => transport.write("rest"),
            Step::LoseWrite => transport.lose_write_connection(),
            Step::Lose => transport.lose_connection(),
            Step::Abort => transport.abort_connection(),
            Step::Pause => transport.pause_producing(),
            Step::Resume => transport.resume_producing(),
            Step::Stop => _ = self.life.stop(at),
            Step::Bytes => _ = self.feed(b"hello"),
            Step::WriteFails => {
                _ = self.life.write_failed(std::io::ErrorKind::BrokenPipe.into(), at);
            }
            Step::Fails => _ = self.life.failed(std::io::ErrorKind::ConnectionReset.into()),
            Step::PeerEnds => _ = self.life.ended(at),
        }
        let _ = self.life.apply(at);
        if self.life.closed().is_none() {
            let _ = self.life.run_due(at);
        }
        if self.life.closed().is_some() && self.life.cell().reason().is_none() {
            self.life.lost(at);
        }
    }
}

#[test]
fn c60a_a_write_error_of_our_direction_ends_it_and_the_peers_end_ends_the_connection() {
    use Step::*;
    let lost = "lost: Lost(Kind(BrokenPipe))";
    let cases: [(&[Step], &[&str]); 17] = [
        (&[WriteFails], &["write_closed"]),
        (&[Write, WriteFails, PeerEnds], &["write_closed", lost]),
        (&[Write, WriteFails, Bytes, PeerEnds], &["write_closed", "data 5", lost]),
        (&[Write, LoseWrite, WriteFails, Bytes, PeerEnds], &["write_closed", "data 5", lost]),
        (&[WriteFails, LoseWrite, PeerEnds], &["write_closed", lost]),
        (&[Write, Pause, WriteFails], &["write_closed"]),
        (&[Write, Pause, WriteFails, Resume, Bytes, PeerEnds], &["write_closed", "data 5", lost]),
        (&[Write, WriteFails, Pause, Resume, PeerEnds], &["write_closed", lost]),
        // The peer's end came first, and the protocol closed.
        (&[Write, PeerEnds, WriteFails], &[lost]),
        (&[Write, WriteFails, Lose], &["write_closed", lost]),
        (&[Write, Lose, WriteFails], &[lost]),
        (&[WriteFails, Pause, Lose], &["write_closed", lost]),
        (&[WriteFails, Stop], &["write_closed", lost]),
        (&[WriteFails, Fails], &["write_closed", lost]),
        (&[WriteFails, Abort], &["write_closed", "lost: Aborted"]),
        (&[Pause, WriteFails, Abort], &["write_closed", "lost: Aborted"]),
        (&[Write, Abort, WriteFails], &["lost: Aborted"]),
    ];
    for (steps, expected) in cases {
        let mut held = Held::new();
        steps.iter().for_each(|step| held.step(*step));
        assert_eq!(held.calls(), expected, "{steps:?}");
        assert!(!held.life.cell().has_output(), "{steps:?}");
    }
}

#[test]
fn c60a_a_protocol_that_stays_after_the_peers_end_is_lost_with_the_write_error() {
    use Step::*;
    let lost = "lost: Lost(Kind(BrokenPipe))";
    let cases: [(&[Step], &[&str]); 4] = [
        (&[Write, PeerEnds], &["read_closed"]),
        (&[Write, PeerEnds, WriteFails], &["read_closed", "write_closed", lost]),
        (&[Write, WriteFails, PeerEnds], &["write_closed", "read_closed", lost]),
        (&[Write, LoseWrite, WriteFails, PeerEnds], &["write_closed", "read_closed", lost]),
    ];
    for (steps, expected) in cases {
        let mut held = Held::new();
        held.life.begin(Box::new(Aware(held.calls.clone())));
        steps.iter().for_each(|step| held.step(*step));
        assert_eq!(held.calls(), expected, "{steps:?}");
    }
}

#[test]
fn c60a_a_write_error_drops_and_counts_the_output_and_stops_its_producer() {
    let mut held = Held::new();
    let transport = held.transport();
    let producer = Stopped(held.calls.0.clone());
    transport.register_producer(producer, ProducerKind::Push).expect("the first");
    transport.write(vec![7; 100_000]);
    for waiting in [transport.writable(), transport.flushed()] {
        let calls = held.calls.0.clone();
        let note = move |outcome: crate::defer::Result<()>| {
            calls.borrow_mut().push(outcome.expect_err("nothing is sent").to_string());
            Ok(())
        };
        waiting.add_both(note).detach();
    }
    held.block(50);
    held.step(Step::WriteFails);
    transport.write([7; 10]);
    assert_eq!((transport.buffered(), transport.cell.dropped()), (0, 99_960));
    assert_eq!(
        transport.write_error().map(|error| error.kind()),
        Some(std::io::ErrorKind::BrokenPipe)
    );
    let failed = "connection lost: broken pipe";
    assert_eq!(held.calls(), [failed, failed, "stopped", "write_closed"]);
    assert!(held.why().starts_with("our side has failed (connection lost: broken pipe); "));
}

/// Bytes that the driver took and has not sent are lost with the others.
#[test]
fn c60a_a_write_error_counts_the_bytes_that_were_in_flight() {
    let mut held = Held::new();
    let transport = held.transport();
    transport.write([7; 100]);
    let mut out = held.life.cell().outbox();
    out.advance(40);
    drop(out);
    let _ = held.life.wrote(written(WriteOutcome::Taken(40), 100), held.start);
    assert_eq!(transport.buffered(), 100);
    held.step(Step::WriteFails);
    transport.write([7; 10]);
    assert_eq!(transport.cell.dropped(), 110);
}
