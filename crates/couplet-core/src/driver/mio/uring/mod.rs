//! The driver over io_uring: one system call submits a turn's output and waits for the next input.
//!
//! The mio driver does everything except the input and the small output of some TCP connections. The
//! ring watches its epoll, so that one call waits for both; while the ring has no connection, the mio
//! driver waits. A connection's bytes are at one [place](flows::Place) at a time. A new connection is in
//! epoll, where the mio driver serves it, and enters the ring after some small messages. There a multishot
//! operation receives, as long as messages are smaller than a buffer of the ring. The connection
//! returns to epoll when a buffer was filled, when bytes arrive during a pause, when its output is
//! stuck, and when its stream ends. So a connection that has readiness to remember is always mio's,
//! and it can't take the ring's buffers from the others.
//!
//! The kernel stops an operation only some time after its cancellation. The bytes that it receives
//! until then are held, and reported before the socket is read.
//!
//! Contract: 56, 57.

mod commands;
mod flows;

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet_os::uring::{Completion, Ring, Size, check};

use super::Mio;
use super::slots::HeldMessage;
use super::socket::BOTH;
use super::stream::StreamSlot;
use crate::driver::readiness::Readiness;
use crate::driver::{Commands, Datagram, Driver, Event, Key, Spares};
use flows::{Flow, Flows, Place, Then};

/// The receive buffers of a loop, and the bytes of each: 256 KiB in all, so that no
/// connection holds more.
const BUFFERS: u16 = 64;
const BUFFER: usize = 4096;

/// Small reads in a row after which a connection enters the ring.
const CALM: u8 = 4;

/// The driver over io_uring. One per loop; dropping it closes everything that it opened.
pub struct Uring {
    ring: Ring,
    mio: Mio,
    flows: Flows,
    /// Small reads in a row after which a connection enters the ring.
    calm: u8,
    /// Another loop polls the ring's descriptor.
    is_embedded: Cell<bool>,
    /// The spare buffers of the loop, once it has written.
    spares: Option<Rc<Spares>>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl Uring {
    /// A driver with a shared read buffer of `read_buffer` bytes, as [`Mio::new`], and a ring, for the
    /// calling thread only.
    ///
    /// # Errors
    ///
    /// If the system has no io_uring, forbids it, or fails the self-test; and the errors of
    /// [`Mio::new`].
    pub fn new(read_buffer: usize) -> io::Result<Uring> {
        check()?;
        let mio = Mio::new(read_buffer)?;
        mio.world.has_ring.set(true);
        let epoll = mio.poll.registry().as_fd().try_clone_to_owned()?;
        let size = Size { buffers: BUFFERS, buffer: BUFFER.min(read_buffer.max(1)) };
        let ring = Ring::new(size, epoll)?;
        Ok(Uring {
            ring,
            mio,
            flows: Flows::default(),
            calm: CALM,
            is_embedded: Cell::new(false),
            spares: None,
        })
    }

    /// Sets after how many small reads in a row a connection enters the ring: 4 by default. With 0, it
    /// enters before the first one.
    #[must_use]
    pub fn calm(mut self, reads: u8) -> Uring {
        self.calm = reads;
        self
    }

    /// Turns a completion into an event, if it is one.
    #[inline(always)]
    fn complete(&mut self, completion: Completion) -> Option<Event> {
        match completion {
            Completion::Received { tag, is_last } => self.arrived(key_of(tag), is_last),
            Completion::Sent { tag, result, buffer } => self.sent(key_of(tag), result, buffer),
            Completion::Ended { tag, result } => self.ended(key_of(tag), result),
            Completion::Stopped { tag } => {
                self.stopped(key_of(tag));
                None
            }
            Completion::Watched => {
                // The mio driver reports them after the completions. If the call is interrupted, the
                // ring reports them again.
                let _ = self.mio.poll(Some(Duration::ZERO));
                None
            }
        }
    }

    /// Bytes arrived in the ring, and are lent from there unless the loop has paused the
    /// connection, or it has had its share of the round.
    #[inline(always)]
    fn arrived(&mut self, key: Key, is_last: bool) -> Option<Event> {
        let round = self.mio.round;
        let stream = self.mio.stream(key)?;
        let n = self.ring.lent().len();
        let flow = self.flows.at(key)?;
        let is_full = n == self.ring.buffer_size();
        flow.begin_round(round);
        flow.share += n;
        let is_lent = !stream.readiness.has(Readiness::PAUSED)
            && flow.share <= self.mio.buffer.len()
            && (self.mio.held.is_empty() || !self.mio.held.contains_key(&key.slot));
        if is_last {
            self.flows.receive_ended(key);
        }
        if is_full || !is_lent {
            self.leave(key);
        }
        if !is_lent {
            self.hold(key);
            return None;
        }
        Some(Event::Received(key))
    }

    /// Keeps the lent bytes until the connection may report them.
    #[cold]
    fn hold(&mut self, key: Key) {
        let empty = || HeldMessage { descriptors: Default::default(), bytes: Vec::new() };
        let held = self.mio.held.get_or_insert_with(key.slot, empty);
        held.bytes.extend_from_slice(self.ring.lent());
        self.mio.queue(key.slot);
    }

    /// The stream of bytes has ended.
    #[cold]
    fn ended(&mut self, key: Key, result: io::Result<()>) -> Option<Event> {
        self.flows.receive_ended(key);
        self.leave(key);
        let is_held = self.mio.held.contains_key(&key.slot);
        let stream = self.mio.stream(key)?;
        if let Err(error) = result {
            fail(stream, error);
        }
        if !is_held && !stream.readiness.has(Readiness::PAUSED | Readiness::BLOCKED) {
            stream.readiness.set(Readiness::ENDED | Readiness::CLOSING, true);
            return Some(Event::end_of(key, None));
        }
        // Held bytes come first; then the socket reports the end again.
        stream.readiness.set(Readiness::READABLE | Readiness::CLOSING, true);
        self.mio.again.push_back(key.slot);
        None
    }

    /// A receive operation was cancelled, or found no buffer.
    #[cold]
    fn stopped(&mut self, key: Key) {
        self.flows.receive_ended(key);
    }

    /// A send operation has ended.
    #[inline(always)]
    fn sent(&mut self, key: Key, result: io::Result<()>, buffer: Vec<u8>) -> Option<Event> {
        if let Some(spares) = &self.spares {
            spares.give(buffer);
        }
        let sending = self.flows.at(key)?.sending.take()?;
        if let Err(error) = result {
            // Received bytes can still be read; then the stream ends with this error.
            fail(self.mio.stream(key)?, error);
            self.leave(key);
            return None;
        }
        match sending.then {
            Then::Nothing => None,
            Then::Room => Some(Event::Room(key)),
            Then::Fin => {
                self.mio.shut_write(key);
                None
            }
        }
    }

    /// Moves a connection from the ring to epoll, as soon as its receive operation has ended.
    #[cold]
    fn leave(&mut self, key: Key) {
        if let Some(flow) = self.flows.at(key)
            && flow.place == Place::Ring
        {
            flow.place = Place::Leaving;
            if flow.receiving.is_some_and(|operation| !self.ring.cancel(operation)) {
                self.flows.receive_ended(key);
            }
        }
    }

    /// Before a wait, begins to receive from those connections that do not, each at its place.
    #[inline(always)]
    fn place_flows(&mut self) {
        while let Some(key) = self.flows.next_unplaced() {
            self.place(key);
        }
    }

    fn place(&mut self, key: Key) {
        let world = self.mio.world.clone();
        let Some(stream) = self.mio.stream(key) else { return };
        let Some(flow) = self.flows.at(key) else { return };
        match flow.place {
            Place::Ring => {
                flow.receiving = Some(self.ring.receive(key.number(), stream.stream.handle()));
            }
            Place::Entering if stream.is_idle() => {
                stream.leave(&world.registry);
                stream.readiness = Readiness(Readiness::IN_RING);
                flow.place = Place::Ring;
                flow.receiving = Some(self.ring.receive(key.number(), stream.stream.handle()));
            }
            Place::Entering => flow.place = Place::Epoll { calm: 0 },
            Place::Leaving => {
                flow.place = Place::Epoll { calm: 0 };
                stream.readiness.set(Readiness::IN_RING, false);
                // Held bytes come first: an idle stream would be read at once.
                stream.readiness.set(Readiness::READABLE, true);
                let token = mio::Token(key.slot as usize);
                let registered = world.registry.register(&mut stream.stream, token, BOTH);
                if let Err(error) = registered {
                    fail(stream, error);
                }
                if stream.error.is_some() {
                    self.mio.queue(key.slot);
                }
            }
            Place::Epoll { .. } => {}
        }
    }

    /// An event of mio's: a new connection, or one that may enter the ring.
    #[inline]
    fn note(&mut self, event: &Event) {
        match event {
            Event::Accepted { key, .. } | Event::Connected { key, .. } => self.begin(*key),
            Event::Received(key) => {
                let is_small = self.mio.lent < self.ring.buffer_size();
                let is_idle = self.mio.stream(*key).is_some_and(|stream| stream.is_idle());
                self.flows.note_read(*key, is_small && is_idle, self.calm);
            }
            _ => {}
        }
    }

    /// A TCP connection begins in epoll.
    fn begin(&mut self, key: Key) {
        if self.mio.stream(key).is_some_and(|stream| !stream.is_local()) {
            self.flows.insert(key, Flow::new(Place::Epoll { calm: 0 }));
            if self.calm == 0 {
                self.flows.enter(key);
            }
        }
    }
}

/// Ends a stream with an error, once its bytes are read.
fn fail(stream: &mut StreamSlot, error: io::Error) {
    stream.error.get_or_insert(error);
    stream.readiness.set(Readiness::BLOCKED, true);
}

/// The key with this [number](Key::number).
fn key_of(number: u64) -> Key {
    let generation = std::num::NonZeroU32::new((number >> 32) as u32);
    Key { slot: number as u32, generation: generation.unwrap_or(std::num::NonZeroU32::MIN) }
}

impl Drop for Uring {
    /// Submits output that the loop believes sent.
    fn drop(&mut self) {
        if let Err(error) = self.ring.enter(Some(Duration::ZERO)) {
            tracing::debug!(%error, "the last output is not sent");
        }
    }
}

impl Driver for Uring {
    #[inline(always)]
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.place_flows();
        if self.ring.is_idle() && !self.is_embedded.get() {
            return self.mio.wait(until);
        }
        let timeout = self.mio.begin_wait(until)?;
        self.ring.enter(timeout)?;
        self.mio.begin_round();
        Ok(())
    }

    #[inline(always)]
    fn next(&mut self) -> Option<Event> {
        while let Some(completion) = self.ring.next_completion() {
            let event = self.complete(completion);
            if event.is_some() {
                return event;
            }
        }
        let event = self.mio.next()?;
        self.note(&event);
        Some(event)
    }

    #[inline(always)]
    fn has_more(&self) -> bool {
        self.ring.has_more() || self.mio.has_more()
    }

    fn full_batch(&self) -> Option<NonZeroUsize> {
        self.mio.full_batch()
    }

    #[inline(always)]
    fn lent(&self, key: Key) -> &[u8] {
        // After an event of mio's the ring lends nothing.
        match self.ring.lent() {
            [] => self.mio.lent(key),
            bytes => bytes,
        }
    }

    fn datagram(&self) -> Datagram<'_> {
        self.mio.datagram()
    }

    fn due(&self) -> Option<Instant> {
        if self.ring.has_more() || self.ring.has_recorded() || self.flows.has_unplaced() {
            return Some(self.mio.world().now());
        }
        self.mio.due()
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.is_embedded.set(true);
        Some(self.ring.as_fd())
    }
}
