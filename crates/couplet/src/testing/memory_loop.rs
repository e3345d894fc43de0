//! A loop over the network in memory: what all the test doubles of this room are made of. It turns
//! until it is quiet, and it passes time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::{Manner, Memory, Network};
use crate::address::Address;
use crate::panics::keep_panics;
use crate::protocol::Protocol;
use crate::reactor::{Loop, LoopOptions};
use crate::transport::{Connection, Transport};

/// So many turns in which neither time nor the network moves are no work but a circle.
const A_CIRCLE: usize = 100_000;

pub(super) struct MemoryLoop {
    pub(super) l: Loop,
    pub(super) network: Network,
    /// Below the loop, so that it is dropped after it and hears of that as well.
    panics: Panics,
}

/// What a turn was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The network had something for the loop.
    Moved,
    /// The loop had something to do by itself.
    Worked,
    /// There was nothing to do, and there will be nothing until time passes.
    Quiet,
}

impl MemoryLoop {
    pub(super) fn new(manner: Manner, seed: u64) -> MemoryLoop {
        let (driver, network) = Memory::new(manner, seed);
        let l = Loop::with_driver(driver, LoopOptions::default());
        MemoryLoop { l, network, panics: Panics::default() }
    }

    pub(super) fn turn(&mut self) {
        self.turn_at_most(Duration::ZERO);
    }

    fn turn_at_most(&mut self, time: Duration) {
        self.panics.listen();
        let turned = self.l.turn(Some(time));
        self.panics.hear();
        turned.expect("memory does not fail");
    }

    /// Turns until nothing more happens by itself; time stands still. A panic that the loop has
    /// contained then fails the test.
    #[track_caller]
    pub(super) fn settle(&mut self) {
        self.turn_to_quiet();
        self.panics.fail();
    }

    /// Lets time pass; the clock stops at each deadline on the way. A panic that the loop has
    /// contained then fails the test: it stopped neither the clock nor anybody else.
    #[track_caller]
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.network.elapsed().saturating_add(by);
        self.turn_to_quiet();
        while self.network.elapsed() < until {
            let left = until - self.network.elapsed();
            self.turn_at_most(left);
            self.turn_to_quiet();
        }
        self.panics.fail();
    }

    /// Runs `f` on a protocol, and settles.
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

    /// Turns until the connection of a [`capture`] is made.
    pub(super) fn until_made<P: Protocol>(&mut self, made: &Made) -> Connection<P> {
        loop {
            if let Some(transport) = made.borrow_mut().take() {
                return transport.connection();
            }
            self.turn();
        }
    }

    #[track_caller]
    fn turn_to_quiet(&mut self) {
        let mut idle = 0;
        while idle < A_CIRCLE {
            match self.step() {
                Step::Quiet => return,
                Step::Moved => idle = 0,
                Step::Worked => idle += 1,
            }
        }
        panic!(
            "it comes to no rest: something asks for more in each turn, while time stands still"
        );
    }

    /// A turn, and what there was to do.
    pub(super) fn step(&mut self) -> Step {
        let before = self.network.activity();
        let had_work = self.l.has_work();
        self.turn();
        match self.network.activity() == before {
            false => Step::Moved,
            true if had_work || self.l.has_work() => Step::Worked,
            true => Step::Quiet,
        }
    }

    /// What has panicked since this was asked last. From now on panics do not fail the test.
    pub(super) fn take_panics(&mut self) -> Vec<String> {
        self.panics.asked = true;
        std::mem::take(&mut self.panics.heard)
    }
}

impl Drop for MemoryLoop {
    fn drop(&mut self) {
        self.panics.listen();
    }
}

/// The panics that the loop has contained. They fail the test: an assertion in a callback has to.
#[derive(Default)]
struct Panics {
    heard: Vec<String>,
    /// The test looks at them by itself, and they do not fail it.
    asked: bool,
    /// Those of who listened in this thread before.
    before: Option<Vec<String>>,
}

impl Panics {
    fn listen(&mut self) {
        self.before = keep_panics(Some(Vec::new()));
    }

    /// Takes what there was to hear. Who listened before hears it too.
    fn hear(&mut self) {
        let heard = keep_panics(None).unwrap_or_default();
        let mut before = self.before.take();
        if let Some(before) = &mut before {
            before.extend_from_slice(&heard);
        }
        keep_panics(before);
        self.heard.extend(heard);
    }

    #[track_caller]
    fn fail(&mut self) {
        if !self.asked && !self.heard.is_empty() {
            panic!("a panic in {}", std::mem::take(&mut self.heard).join("\na panic in "));
        }
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        self.hear();
        if !std::thread::panicking() {
            self.fail();
        }
    }
}

/// Keeps the transport of a protocol when its connection is made, whatever becomes of it then.
pub(super) struct Capture<B> {
    protocol: B,
    made: Made,
}

pub(super) type Made = Rc<RefCell<Option<Transport>>>;

/// A factory of this one protocol, and where its transport is going to be.
pub(super) fn capture<P: Protocol>(
    protocol: P,
) -> (impl FnMut(&Address) -> Option<Capture<P>>, Made) {
    let made = Made::default();
    let mut protocol = Some(Capture { protocol, made: made.clone() });
    (move |_: &Address| protocol.take(), made)
}

impl<B: Protocol> Protocol for Capture<B> {
    fn connection_made(&mut self, transport: &Transport) {
        *self.made.borrow_mut() = Some(transport.clone());
        self.protocol.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.protocol.data_received(transport, data);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &crate::Reason) {
        self.protocol.connection_lost(transport, reason);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.protocol.read_closed(transport);
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.protocol.write_closed(transport);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.protocol.reading_resumed(transport);
    }

    fn handshake_completed(&mut self, transport: &Transport) {
        self.protocol.handshake_completed(transport);
    }

    fn find(&mut self, wanted: std::any::TypeId) -> Option<&mut dyn std::any::Any> {
        if wanted == std::any::TypeId::of::<B>() {
            return Some(&mut self.protocol);
        }
        self.protocol.find(wanted)
    }
}
