//! [`Following`]: reads a log continuously. [`Reader`] turns its messages into entries.
//!
//! Contract: 224–226, 230.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet_core::defer::AbortOnDrop;
use couplet_core::{Deferred, Result};

use super::{Batch, LogState, PAUSE, Position, SharedLog, Stored};
use crate::core::Item;

/// Most messages of a read.
const BATCH: usize = 100;
/// Longest wait for a message before the log is read again.
const WAIT: Duration = Duration::from_secs(30);

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the oldest message.
    Oldest,
    /// With the next message.
    Next,
    /// With the first message after this position.
    After(Position),
}

/// An entry of a log, as its readers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// A message.
    Message {
        /// The position of the message.
        position: Position,
        /// When it was stored, as the time since 1970.
        time: Duration,
        /// The message.
        payload: Bytes,
    },
    /// Messages were removed before this reader got them.
    Gap {
        /// The first of them.
        from: Position,
        /// The last one.
        to: Position,
    },
    /// The log has begun anew: it was removed, or its server has lost the newest messages.
    /// Positions before this entry mean nothing any more.
    Reset {
        /// The first message that follows.
        next: Position,
    },
}

/// Reads a log until it is dropped; see [`Log::follow`](crate::Log::follow).
#[must_use = "dropping it ends the reading"]
pub struct Following {
    _reading: AbortOnDrop<()>,
    follower: Rc<Follower>,
}

struct Follower {
    shared: Rc<SharedLog>,
    receive: RefCell<Box<dyn FnMut(Entry)>>,
    /// Whether the [`Following`] was dropped, perhaps in a call of `receive`.
    is_over: Cell<bool>,
}

impl Following {
    pub(super) fn new(
        shared: &Rc<SharedLog>,
        start: Start,
        receive: impl FnMut(Entry) + 'static,
    ) -> Following {
        let receive: RefCell<Box<dyn FnMut(Entry)>> = RefCell::new(Box::new(receive));
        let follower =
            Rc::new(Follower { shared: shared.clone(), receive, is_over: Cell::new(false) });
        let reading = follow(follower.clone(), Reader::new(start));
        let reading = shared.bus.reactor().spawn(reading).abort_on_drop();
        Following { _reading: reading, follower }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.follower.is_over.set(true);
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").field("log", &self.follower.shared.name).finish_non_exhaustive()
    }
}

/// Reads until the bus is closed.
async fn follow(follower: Rc<Follower>, mut reader: Reader) -> Result<()> {
    let shared = follower.shared.clone();
    while let Ok(state) = shared.persist(None, || shared.engine.state()).await {
        let begun = reader.place(&state);
        follower.pass_on(begun.into_iter().collect()).await?;
        loop {
            match shared.engine.read(reader.from(), BATCH, WAIT).abort_on_drop().await {
                Ok(Batch { epoch, messages }) if epoch == state.epoch => {
                    let entries = messages.into_iter().flat_map(|message| reader.take(message));
                    follower.pass_on(entries.collect()).await?;
                }
                // The log has begun anew, with other positions.
                Ok(_) => break,
                Err(failure) => {
                    if shared.note(failure).is_err() {
                        return Ok(());
                    }
                    shared.bus.reactor().sleep(PAUSE.0).await?;
                    break;
                }
            }
        }
    }
    Ok(())
}

impl Follower {
    /// Calls the program with the entries, through the inbox of the bus: after a panic in a call
    /// the next one follows.
    fn pass_on(self: &Rc<Self>, entries: Vec<Entry>) -> Deferred<()> {
        if entries.is_empty() {
            return Deferred::succeed(());
        }
        let core = &self.shared.bus.core;
        for entry in entries {
            let follower = self.clone();
            core.push(Item::Call(Box::new(move || {
                if !follower.is_over.get() {
                    (follower.receive.borrow_mut())(entry);
                }
            })));
        }
        let (delivered, resolver) = Deferred::new();
        core.push_flushed(resolver);
        delivered
    }
}

/// The place of a reader in its log: turns states and messages into entries.
pub(super) struct Reader {
    start: Start,
    place: Option<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    /// The next position.
    next: Position,
    /// The time of the message before, if this reader got it.
    before: Option<Duration>,
    /// Whether that message is to be read again, to see that it is the same.
    is_unsure: bool,
}

impl Reader {
    pub(super) fn new(start: Start) -> Reader {
        Reader { start, place: None }
    }

    /// Begins to read a log in this state, or continues.
    pub(super) fn place(&mut self, state: &LogState) -> Option<Entry> {
        let at = |number| Position { epoch: state.epoch, number };
        let before = self.place.and_then(|place| place.before);
        let next = match (self.place, self.start) {
            (Some(place), _) => place.next,
            (None, Start::Oldest) => at(state.first),
            (None, Start::Next) => at(state.next()),
            (None, Start::After(position)) => position.next(),
        };
        let is_anew = next.epoch != state.epoch;
        if is_anew || next.number > state.next() {
            let next = if is_anew { at(state.first) } else { at(state.next()) };
            self.place = Some(Place { next, before: None, is_unsure: false });
            return Some(Entry::Reset { next });
        }
        self.place = Some(Place { next, before, is_unsure: before.is_some() });
        self.skip_to(state.first)
    }

    /// The number of the first message to read.
    pub(super) fn from(&self) -> u64 {
        self.place.map_or(0, |place| place.next.number - u64::from(place.is_unsure))
    }

    /// The entries of a message that was read.
    pub(super) fn take(&mut self, message: Stored) -> Vec<Entry> {
        let Some(place) = &mut self.place else { return Vec::new() };
        let is_unsure = std::mem::replace(&mut place.is_unsure, false);
        let mut entries = Vec::new();
        if message.number < place.next.number {
            if !is_unsure || place.before == Some(message.time) {
                return entries;
            }
            // A server has lost its newest messages, and given their positions to others.
            place.next = place.next.with_number(message.number);
            entries.push(Entry::Reset { next: place.next });
        }
        entries.extend(self.skip_to(message.number));
        let Some(place) = &mut self.place else { return entries };
        let position = place.next;
        place.next = position.next();
        place.before = Some(message.time);
        entries.push(Entry::Message { position, time: message.time, payload: message.payload });
        entries
    }

    /// Skips removed messages.
    fn skip_to(&mut self, number: u64) -> Option<Entry> {
        let place = self.place.as_mut().filter(|place| place.next.number < number)?;
        let from = place.next;
        *place = Place { next: from.with_number(number), before: None, is_unsure: false };
        Some(Entry::Gap { from, to: from.with_number(number - 1) })
    }
}
