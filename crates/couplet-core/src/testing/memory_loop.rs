//! A loop over the in-memory network, which turns until idle and advances time: the base of all test
//! doubles in this module.
//!
//! Contract: 95.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::{Manner, Memory, Network};
use crate::address::Address;
use crate::factory::Factory;
use crate::panics::capture_panics;
use crate::protocol::Protocol;
use crate::protocols::{Admission, Policy};
use crate::reactor::{Loop, LoopOptions};
use crate::transport::{Connection, Transport};

/// This many turns without progress in time or on the network count as a livelock.
const LIVELOCK_TURNS: usize = 100_000;

pub(super) struct MemoryLoop {
    pub(super) l: Loop,
    pub(super) network: Network,
    /// Declared after the loop, so that it is dropped later and also records panics from dropping
    /// the loop.
    panics: ContainedPanics,
}

/// The result of a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnOutcome {
    /// The network made progress.
    Moved,
    /// Only the loop itself had work.
    Worked,
    /// The loop had no work, and will have none until time passes.
    Quiet,
}

impl MemoryLoop {
    pub(super) fn new(manner: Manner, seed: u64) -> MemoryLoop {
        let (driver, network) = Memory::new(manner, seed);
        let l = Loop::with_driver(driver, LoopOptions::default());
        MemoryLoop { l, network, panics: ContainedPanics::default() }
    }

    pub(super) fn turn(&mut self) {
        self.turn_at_most(Duration::ZERO);
    }

    fn turn_at_most(&mut self, time: Duration) {
        self.panics.begin_capture();
        let turned = self.l.turn(Some(time));
        self.panics.end_capture();
        turned.expect("the memory driver does not fail");
    }

    /// Turns the loop until it is idle, without advancing the clock. A panic that the loop
    /// contained then fails the test.
    #[track_caller]
    pub(super) fn settle(&mut self) {
        self.turn_until_idle();
        self.panics.fail();
    }

    /// Advances the clock, stopping at each deadline on the way. A panic that the loop contained
    /// then fails the test; it stops neither the clock nor other callbacks.
    #[track_caller]
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.network.elapsed().saturating_add(by);
        self.turn_until_idle();
        while self.network.elapsed() < until {
            let left = until - self.network.elapsed();
            self.turn_at_most(left);
            self.turn_until_idle();
        }
        self.panics.fail();
    }

    /// Runs `f` on a protocol and settles.
    #[track_caller]
    pub(super) fn with<P: Protocol, R: 'static>(
        &mut self,
        connection: &Connection<P>,
        f: impl FnOnce(&mut P, &Transport) -> R + 'static,
    ) -> Option<R> {
        let answer = Rc::new(RefCell::new(None));
        let slot = answer.clone();
        connection
            .tell(move |protocol, transport| *slot.borrow_mut() = Some(f(protocol, transport)));
        self.settle();
        answer.take()
    }

    /// Turns until the connection of a [`capture`]d protocol is made.
    pub(super) fn turn_until_made<P: Protocol>(&mut self, made: &MadeTransport) -> Connection<P> {
        loop {
            if let Some(transport) = made.borrow_mut().take() {
                return transport.connection();
            }
            self.turn();
        }
    }

    #[track_caller]
    fn turn_until_idle(&mut self) {
        let mut idle = 0;
        while idle < LIVELOCK_TURNS {
            match self.step() {
                TurnOutcome::Quiet => return,
                TurnOutcome::Moved => idle = 0,
                TurnOutcome::Worked => idle += 1,
            }
        }
        panic!("the loop never becomes idle: every turn creates more work while time stands still");
    }

    /// Turns once, and reports the kind of work that was done.
    pub(super) fn step(&mut self) -> TurnOutcome {
        let before = self.network.activity();
        let had_work = self.l.has_work();
        self.turn();
        match self.network.activity() == before {
            false => TurnOutcome::Moved,
            true if had_work || self.l.has_work() => TurnOutcome::Worked,
            true => TurnOutcome::Quiet,
        }
    }

    /// Takes the panics since the last call. After this call, panics do not fail the test.
    pub(super) fn take_panics(&mut self) -> Vec<String> {
        self.panics.expected = true;
        std::mem::take(&mut self.panics.captured)
    }
}

impl Drop for MemoryLoop {
    fn drop(&mut self) {
        self.panics.begin_capture();
    }
}

/// The panics that the loop has contained. Any of them fails the test, so that callbacks may contain
/// assertions.
#[derive(Default)]
struct ContainedPanics {
    captured: Vec<String>,
    /// The test takes the panics itself, and they do not fail it.
    expected: bool,
    /// The list of this thread's outer capture.
    outer: Option<Vec<String>>,
}

impl ContainedPanics {
    fn begin_capture(&mut self) {
        self.outer = capture_panics(Some(Vec::new()));
    }

    /// Collects the panics since `begin_capture`, and adds them to the outer capture too.
    fn end_capture(&mut self) {
        let captured = capture_panics(None).unwrap_or_default();
        let mut outer = self.outer.take();
        if let Some(outer) = &mut outer {
            outer.extend_from_slice(&captured);
        }
        capture_panics(outer);
        self.captured.extend(captured);
    }

    #[track_caller]
    fn fail(&mut self) {
        if !self.expected && !self.captured.is_empty() {
            panic!("a panic in {}", std::mem::take(&mut self.captured).join("\na panic in "));
        }
    }
}

impl Drop for ContainedPanics {
    fn drop(&mut self) {
        self.end_capture();
        if !std::thread::panicking() {
            self.fail();
        }
    }
}

pub(super) type MadeTransport = Rc<RefCell<Option<Transport>>>;

/// Keeps a protocol's transport when the connection is made, even if it is lost right after.
#[derive(Clone)]
struct TransportCapture(MadeTransport);

impl Policy for TransportCapture {
    type Admission = TransportCapture;

    fn admit(&self, _: &Address) -> Option<TransportCapture> {
        Some(self.clone())
    }
}

impl Admission for TransportCapture {
    fn connection_made(&mut self, transport: &Transport) {
        *self.0.borrow_mut() = Some(transport.clone());
    }
}

/// A factory for one protocol, and the cell that receives its transport.
pub(super) fn capture<P: Protocol>(protocol: P) -> (impl Factory, MadeTransport) {
    let made = MadeTransport::default();
    let mut protocol = Some(protocol);
    (TransportCapture(made.clone()).wrap(move |_: &Address| protocol.take()), made)
}
