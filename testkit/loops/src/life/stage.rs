//! The world of a life: the loop, the network, the peer and the clock.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::layers::Side;
use couplet::reactor::{Drain, Drained};
use couplet::testing::{Cut, Manner, Memory, Network};
use couplet::transport::Timeout;
use couplet::{Address, Loop, LoopOptions, Reason, Transport};

use super::near::NearEnd;
use super::peer::Peer;
use super::under::Under;
use super::{LOW_MARK, Life, PANIC, bytes_at};

/// One life and its world.
pub(super) struct LifeStage {
    life: Rc<Life>,
    l: Loop,
    network: Network,
    peer: Peer,
    under: Under,
    is_accepted: bool,
}

impl LifeStage {
    pub(super) fn new(life: &Rc<Life>, manner: Manner) -> LifeStage {
        let (driver, network) = Memory::new(manner, life.roll(usize::MAX) as u64);
        network.set_cut([Cut::Whole, Cut::Most(1000), Cut::Random(5000)][life.roll(3)]);
        network.set_capacity([64 * 1024, 5000, 500][life.roll(3)]);
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let (under, tapped, reactor) = (Under::roll(life), life.clone(), l.reactor());
        life.line(&format!("over {under:?}"));
        l.layer_connections(move |side| under.make(&tapped, side, reactor.now()));
        let (reactor, loopback) = (l.reactor(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let lives = life.clone();
        let factory = move |_: &Address| Some(NearEnd(lives.clone()));
        let mut turn = || {
            l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        };
        let mut port = None;
        let (wire, side) = if life.roll(2) == 0 {
            let listening = reactor.listen(loopback, factory).expect("a free port");
            let to = listening.host().socket_addr().expect("a TCP port");
            turn();
            port = Some(listening);
            (network.connect(to).expect("the port listens"), Side::Accepted)
        } else {
            let port = network.listen(loopback, 1).expect("a free port");
            reactor.connect(("127.0.0.1", port.port().expect("TCP")), factory).detach();
            loop {
                turn();
                if let Some(wire) = network.accept(port.clone()) {
                    break (wire, Side::Connected);
                }
            }
        };
        let is_accepted = port.is_some();
        let peer = under.open(life, wire, side, reactor.now(), turn);
        if let Some(port) = port {
            port.stop_listening().expect("the port listens").detach();
        }
        LifeStage { life: life.clone(), l, network, peer, under, is_accepted }
    }

    fn transport(&self) -> Transport {
        self.life.know(|story| story.transport.clone()).expect("the connection was made")
    }

    /// Turns one by one or inside a run, which must make no difference.
    fn turn(&mut self, most: usize) {
        for _ in 0..most {
            if self.life.roll(3) == 0 {
                let soon = self.l.reactor().sleep(Duration::from_micros(1));
                self.l.run_until(soon).expect("the memory driver does not fail");
            } else {
                self.l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
            }
            self.peer.pump();
            self.check();
        }
    }

    /// Turns until the loop is idle, and checks that nothing was forgotten.
    fn rest(&mut self) {
        self.turn(8);
        let transport = self.transport();
        let now = self.l.reactor().now();
        if self.l.next_turn().is_some_and(|at| at <= now) {
            return; // still busy
        }
        let (late, undrained, low) = self.life.know(|story| {
            let is_late = |timer: &super::Timer| timer.pending && timer.due <= now;
            let calls = story.lost.is_none() && !story.panicked;
            let late = calls && story.timers.iter().any(is_late);
            let undrained = story.is_undisturbed() && story.undrained > 0;
            (late, undrained, story.low_mark.unwrap_or(LOW_MARK))
        });
        self.life.check(!late, "a timed call runs when it is due");
        let (sent_all, reads_on) = (transport.buffered() == 0, self.under.is_throttled());
        let over = self.life.know(|story| story.panicked && story.fin && story.lost.is_none());
        self.life.check(
            !over || !sent_all || reads_on,
            "a connection ends when it has panicked and the peer has ended its stream",
        );
        let drained = transport.buffered() <= low;
        self.life.check(!(undrained && drained), "drained fires at the low mark");
        self.check();
    }

    /// Fails the test if a check has failed.
    fn check(&self) {
        let wrong = self.life.know(|story| !story.wrong.is_empty());
        if wrong {
            let story = self.life.story.borrow();
            panic!("{:?} in this life:\n{}", story.wrong, story.lines);
        }
    }

    /// One random event from outside.
    pub(super) fn step(&mut self) {
        let life = self.life.clone();
        match life.roll(12) {
            0..=2 => self.push(),
            3..=5 => self.take(life.length()),
            6 => life.act(&self.transport()),
            7 if life.roll(4) == 0 => self.fin(),
            8 if life.roll(12) == 0 => self.break_off(),
            9 => {
                let by = Duration::from_millis([1, 700, 6000, 31_000][life.roll(4)]);
                life.line(&format!("time passes: {by:?}"));
                self.network.advance(by);
            }
            10 | 11 => self.rest(),
            _ => {}
        }
        self.turn(life.roll(4));
    }

    fn push(&mut self) {
        let (open, offset) = self.life.know(|s| (!s.broken && !s.fin, s.pushed));
        if !open {
            return;
        }
        let data = bytes_at(offset, self.life.length());
        if let Some(n) = self.peer.send(data) {
            self.life.line(&format!("peer sends {n}"));
            self.life.know(|story| story.pushed += n);
        }
    }

    fn take(&mut self, most: usize) {
        let data = self.peer.take(most);
        let offset = self.life.know(|story| {
            story.received += data.len();
            story.received - data.len()
        });
        self.life.line(&format!("peer takes {}", data.len()));
        self.life.check(data == bytes_at(offset, data.len()), "bytes out are in order");
        let (received, taken) = self.life.know(|story| (story.received, story.taken));
        self.life.check(received <= taken, "only accepted bytes are sent");
        let cut = self.life.know(|story| story.panicked || story.broken);
        if self.peer.saw_the_end() && !cut {
            self.life.check(received == taken, "the end of the stream comes after the flush");
        }
        // A stop truncates the stream at the end of its grace, which only TLS distinguishes from a
        // proper end.
        if self.peer.saw_fin() && !cut && !self.life.know(|story| story.stopped) {
            self.life.check(self.peer.saw_the_end(), "a close_notify comes before the FIN");
        }
        if let Some(reason) = self.peer.failure() {
            self.life.wrong(format!("what the peer takes is not TLS: {reason}"));
        }
    }

    fn fin(&mut self) {
        if self.peer.is_sealed() && self.life.roll(4) == 0 {
            return self.cut();
        }
        if !self.life.know(|story| story.broken || std::mem::replace(&mut story.fin, true)) {
            self.life.line("peer's FIN");
            self.peer.fin();
        }
    }

    /// The peer ends its stream only below TLS, and keeps reading.
    fn cut(&mut self) {
        if !self.life.know(|story| story.fin || std::mem::replace(&mut story.broken, true)) {
            self.life.line("peer cuts its stream");
            self.peer.cut();
        }
    }

    fn break_off(&mut self) {
        let (reset, sealed) = (self.life.roll(2) == 0, self.peer.is_sealed());
        self.life.line(if reset { "peer resets" } else { "peer closes" });
        self.life.know(|story| {
            story.fin |= !reset && !story.broken && !sealed;
            story.broken = true;
        });
        if reset { self.peer.reset() } else { self.peer.close() }
    }

    /// Brings the life to its end, in one of several ways.
    pub(super) fn end(&mut self) {
        match self.life.roll(4) {
            0 => self.end_in_peace(),
            1 => self.end_by_the_clock(),
            2 => self.end_with_the_run(),
            3 if self.life.roll(2) == 0 => self.end_with_a_drain(),
            _ => {}
        }
        if self.life.know(|story| story.lost.is_none()) {
            self.life.line("at last: abort");
            self.transport().abort_connection();
            self.life.know(|story| (story.aborted, story.closing) = (true, true));
            self.turn(2);
        }
    }

    /// The near end closes; the peer reads everything and closes too.
    fn end_in_peace(&mut self) {
        self.life.line("in peace");
        let transport = self.transport();
        transport.lose_connection();
        self.life.know(|story| story.closing = true);
        self.life.unregister(&transport);
        self.turn(1);
        // Unread input arrives in pieces and is discarded in pieces.
        for _ in 0..5000 {
            if self.life.know(|story| story.lost.is_some()) {
                return;
            }
            if self.peer.has_waiting() {
                self.take(usize::MAX);
            }
            if self.peer.saw_fin() {
                self.fin();
            }
            if self.under.is_throttled() {
                self.network.advance(Duration::from_millis(100));
            }
            self.turn(1);
        }
        self.life.wrong("a close that nothing delays completes");
        self.check();
    }

    /// The near end closes and the peer does nothing; a producer may still be registered.
    fn end_by_the_clock(&mut self) {
        self.life.line("by the clock");
        let transport = self.transport();
        self.life.know(|story| story.by_the_clock = true);
        transport.set_timeout(Timeout::Close, Some(Duration::from_secs(30)));
        transport.set_timeout(Timeout::Fin, Some(Duration::from_secs(30)));
        transport.lose_connection();
        self.life.know(|story| story.closing = true);
        for _ in 0..400 {
            if self.life.know(|story| story.lost.is_some()) {
                return;
            }
            // Late progress postpones the deadline, but not forever.
            self.network.advance(Duration::from_secs(31));
            self.turn(3);
        }
        let shut = self.life.know(|story| story.producer.is_none());
        self.life.check(!shut, "the close deadline ends a close without progress");
        self.check();
    }

    fn end_with_the_run(&mut self) {
        self.life.line("with the run");
        self.life.know(|story| story.stopped = true);
        let run = self.l.run(|reactor| {
            reactor.stop();
            Ok(())
        });
        run.expect("the memory driver does not fail");
        let lost = self.life.know(|story| story.lost.is_some());
        self.life.check(lost, "no connection outlives the run");
        self.check();
    }

    /// The loop drains, and the peer does nothing.
    fn end_with_a_drain(&mut self) {
        self.life.line("with a drain");
        self.life.know(|story| story.stopped = true);
        let concerned = self.is_accepted && self.life.know(|story| story.lost.is_none());
        let drain = Drain::within(Duration::from_secs(10)).close(Duration::from_secs(5));
        let (counted, result) = (Rc::new(Cell::new(None)), self.l.reactor().drain(drain));
        let counts = counted.clone();
        let drained = move |Drained { finished, closed, aborted, .. }| {
            counts.set(Some(finished + closed + aborted));
        };
        result.map(drained).detach();
        for seconds in [0, 10, 5] {
            self.network.advance(Duration::from_secs(seconds));
            self.turn(5);
        }
        self.life.check(counted.get() == Some(concerned.into()), "a drain counts each connection");
        let lost = self.life.know(|story| story.lost.is_some());
        self.life.check(lost || !concerned, "no connection outlives a drain");
        self.check();
    }

    /// Checks the invariants of a lost connection, after a few more random calls.
    pub(super) fn after_the_end(&mut self) {
        let transport = self.transport();
        for _ in 0..4 {
            self.life.act(&transport);
        }
        self.network.advance(Duration::from_secs(100));
        self.turn(4);
        self.take(usize::MAX);
        let life = &self.life;
        life.check(self.peer.is_closed(), "the driver's slot is closed");
        life.check(!transport.wants_data(), "a lost connection wants no data");
        let unstopped = life.know(|story| story.producers.contains(&false));
        life.check(!unstopped, "every producer was stopped or unregistered");
        let (asked, answered) = life.know(|story| (story.asked, story.answered));
        life.check(asked == answered, "every question has one answer");
        self.check_reason();
        self.check_the_flush();
        self.check_the_tap();
        self.check_that_nothing_is_left();
        self.check();
    }

    /// A close that was not cut short has sent everything.
    fn check_the_flush(&self) {
        let cut = self.peer.saw_reset() || self.life.know(|s| s.broken || s.panicked || s.stopped);
        let (flushes, all) = self.life.know(|story| {
            let flushes = matches!(story.lost, Some(Reason::Done(_) | Reason::Failed(_)));
            (flushes, story.received == story.taken)
        });
        self.life.check(!flushes || cut || all, "a close flushes what was written before it");
    }

    /// In each direction the tap has seen all delivered bytes, but never more than were sent.
    fn check_the_tap(&self) {
        if self.under.is_tapped() {
            let (up, down) = self.life.know(|story| {
                let up = [story.delivered, story.tapped_in, story.pushed];
                (up, [story.received, story.tapped_out, story.taken])
            });
            self.life.check(up.is_sorted() && down.is_sorted(), "the log has what passed");
        }
    }

    fn check_that_nothing_is_left(&mut self) {
        let snapshot = self.l.snapshot();
        let life = &self.life;
        life.check(snapshot.connections.is_empty(), "the loop keeps no connection");
        life.check(snapshot.pending_calls == 0, "the loop keeps no timer of a connection");
        let more = snapshot.ports.len() + snapshot.connectors.len() + snapshot.tasks;
        life.check(more == 0, "the loop keeps no port, no connector and no task");
        life.check(self.network.slots_in_use() == 0, "the driver keeps no slot");
    }

    /// The reported reason has a cause in the story.
    fn check_reason(&self) {
        let story = self.life.story.borrow();
        let happened = match story.lost.as_ref() {
            None => false,
            Some(Reason::Done(_)) => story.closing || story.fin,
            Some(Reason::Lost(_)) => story.broken,
            Some(Reason::Aborted) => story.aborted,
            Some(Reason::Timeout) => story.timeouts,
            Some(Reason::CloseTimedOut) => story.closing || story.finishing || story.stopped,
            Some(Reason::Overflow) => story.closing,
            Some(Reason::Failed(_)) => story.failed,
            Some(Reason::Panicked(text)) => story.panicked && &**text == PANIC,
            Some(Reason::Shutdown) => story.stopped,
            Some(_) => false,
        };
        assert!(happened, "{:?} without a cause:\n{}", story.lost, story.lines);
    }
}
