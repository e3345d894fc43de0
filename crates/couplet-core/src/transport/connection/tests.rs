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
use crate::transport::{Producer, ProducerKind, Timeout, Transport};

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

/// Each wait compares the system's count with the one before.
#[test]
fn bytes_that_leave_the_system_postpone_the_close_deadline_each_time_and_only_then() {
    for counts in [&[100][..], &[100, 60], &[100, 60, 10], &[100, 99, 98, 97]] {
        let mut held = Held::new();
        let at = held.at();
        let _ = held.feed(b"bye");
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
    struct Stopped(Rc<RefCell<Vec<String>>>);
    impl Producer for Stopped {
        fn resume_producing(&mut self) {}
        fn stop_producing(&mut self) {
            self.0.borrow_mut().push("stopped".to_owned());
        }
    }
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
