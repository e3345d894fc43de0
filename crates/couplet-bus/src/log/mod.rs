//! [`Log`]: messages that are stored, and read from a position.
//!
//! An [`Engine`] stores and reads once; retries, the order of appends, and gaps are handled here,
//! for all engines.
//!
//! Contract: 221–223, 225, 227, 230.

mod engine;
mod follow;
mod memory;
mod position;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use couplet_core::services::Health;
use couplet_core::{Deferred, Failure, Resolver, Result};
use couplet_defer::bounded::Bounded;

use crate::bus::Bus;
use crate::error::PublishError;
use crate::messages::Limit;
use crate::subject::{SubjectError, check_subject};

pub(crate) use engine::{AppendId, Batch, Engine, LogState, Stored};
pub use follow::{Entry, Following, Start};
pub(crate) use memory::{MemoryEngine, MemoryLog};
pub use position::{ParsePositionError, Position};

/// First and longest pause before an operation is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The limits of a [`Log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// The maximum number of messages, 100 000 by default; beyond it the oldest are removed.
    pub messages: u64,
    /// The maximum number of their bytes, 64 MiB by default, where the engine counts them.
    pub bytes: u64,
    /// The time after which a message is removed; a week by default.
    pub age: Duration,
    /// The time in which an append or a read is tried again until it succeeds; 30 s by default.
    pub patience: Duration,
    /// The maximum queue of appends; a full one refuses the next.
    pub queue: Limit,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits {
            messages: 100_000,
            bytes: 64 << 20,
            age: Duration::from_secs(7 * 24 * 3600),
            patience: Duration::from_secs(30),
            queue: Limit::default(),
        }
    }
}

/// An operation of a log failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The queue of appends is full.
    #[error("cannot append to the log: its queue is full")]
    Full,
    /// All retries failed until the log's patience ended. An append may be stored nevertheless.
    #[error("cannot use the log for {patience:?}: {why}")]
    Unavailable {
        /// The time in which it was tried.
        patience: Duration,
        /// The last reason.
        why: String,
    },
    /// The bus was closed. An append may be stored nevertheless.
    #[error("cannot use the log: the bus is closed")]
    Closed,
}

/// Messages of a log, and the part of it that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The messages: [`Entry::Message`] each, with a gap where some were removed.
    pub entries: Vec<Entry>,
    /// The oldest message that is kept; in an empty log, the position of the next one.
    pub first: Position,
    /// The newest message.
    pub last: Position,
}

/// A stored stream of messages with [positions](Position), in one order for all its readers; cheap
/// to clone.
///
/// In memory it lasts as long as its [`Memory`](crate::Memory); over NATS, JetStream keeps it as a
/// stream of the messages to one subject, on disk; over Redis it is a stream under the key
/// `couplet:log:{name}`, braces included, which lasts as the server's other data does.
///
/// ```
/// use couplet::bus::{Bus, Entry, LogLimits, Memory, Start};
///
/// # let mut memory = couplet::testing::MemoryReactor::new();
/// # let reactor = memory.reactor();
/// let bus = Bus::memory(&reactor, &Memory::new());
/// let log = bus.log("rooms.lobby", LogLimits::default())?;
/// let following = log.follow(Start::Oldest, |entry| match entry {
///     Entry::Message { position, payload, .. } => println!("{position}: {payload:?}"),
///     Entry::Gap { from, to } => println!("{from} to {to} were removed"),
///     other => println!("{other:?}"),
/// });
/// let stored = log.append("hello");
/// # memory.advance(std::time::Duration::ZERO);
/// assert_eq!(couplet::testing::success_of(stored).number(), 1);
/// # drop(following);
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone)]
pub struct Log {
    shared: Rc<SharedLog>,
}

struct SharedLog {
    bus: Bus,
    engine: Rc<dyn Engine>,
    name: String,
    limits: LogLimits,
    writer: Rc<str>,
    /// The number of the newest append.
    last: Cell<u64>,
    /// The appends that are not confirmed, in the order of the calls.
    queue: RefCell<Bounded<VecDeque<Append>>>,
    /// The bytes in the queue.
    bytes: Cell<usize>,
    is_appending: Cell<bool>,
    /// Why the last operation failed, unless one has succeeded since.
    why: RefCell<Option<String>>,
}

struct Append {
    id: AppendId,
    payload: Bytes,
    until: Option<Instant>,
    stored: Resolver<Position>,
}

impl Bus {
    /// The log of this name, a [subject](crate::Pattern) without wildcards. The first use creates
    /// the log with these limits; an existing log keeps its own. Handles of a log keep the bus open.
    ///
    /// # Errors
    ///
    /// If the name is no subject.
    pub fn log(&self, name: &str, limits: LogLimits) -> Result<Log, SubjectError> {
        check_subject(name)?;
        let engine = self.core.log_engine(self, name, &limits);
        Ok(Log::of(self, engine, name, limits))
    }
}

impl Log {
    fn of(bus: &Bus, engine: Rc<dyn Engine>, name: &str, limits: LogLimits) -> Log {
        let shared = SharedLog {
            bus: bus.clone(),
            engine,
            name: name.to_owned(),
            limits,
            writer: bus.core.unique().into(),
            last: Cell::new(0),
            queue: RefCell::new(Bounded::new(limits.queue.messages)),
            bytes: Cell::new(0),
            is_appending: Cell::new(false),
            why: RefCell::new(None),
        };
        Log { shared: Rc::new(shared) }
    }

    /// Stores a message, and fires with its position once the log has it.
    ///
    /// The message is sent again when a connection is lost or an answer takes too long; the same id
    /// ensures that it is stored once. Appends through all clones of a log are stored in the order
    /// of the calls: each is sent after the previous one is confirmed, because a server may refuse
    /// one and accept the next.
    ///
    /// Fails with [`LogError`], or with [`PublishError`] if the message is too large.
    #[track_caller]
    pub fn append(&self, payload: impl Into<Bytes>) -> Deferred<Position> {
        let (shared, payload) = (&self.shared, payload.into());
        let (limit, bytes) = (shared.limits.queue, shared.bytes.get() + payload.len());
        if shared.queue.borrow().is_full() || bytes > limit.bytes {
            return Deferred::fail(LogError::Full);
        }
        shared.bytes.set(bytes);
        shared.last.set(shared.last.get() + 1);
        let id = AppendId { writer: shared.writer.clone(), number: shared.last.get() };
        let (appended, stored) = Deferred::new();
        let append = Append { id, payload, until: shared.until(), stored };
        shared.queue.borrow_mut().edit().push_back(append);
        shared.bus.core.append_begun();
        if !shared.is_appending.replace(true) {
            shared.bus.reactor().spawn(send_appends(shared.clone())).detach();
        }
        appended
    }

    /// Fires with messages from this position on, at most `most`; fewer if the log has fewer, they
    /// are large, or, over Redis, they are more than 10 000. Positions that were removed are
    /// skipped, after an [`Entry::Gap`]. If the position is of another epoch, the page begins with
    /// an [`Entry::Reset`] and the oldest message.
    ///
    /// Fails with [`LogError`].
    pub fn read(&self, from: Position, most: usize) -> Deferred<Page> {
        let start = Start::After(from.with_number(from.number.saturating_sub(1)));
        self.page(most, move |_| start)
    }

    /// Fires with the last messages, at most `most`. If they are large or many, the page has the
    /// first of them, like a page of [`read`](Self::read).
    ///
    /// Fails with [`LogError`].
    pub fn last(&self, most: usize) -> Deferred<Page> {
        self.page(most, move |state| {
            let number = state.last.saturating_sub(most as u64).max(state.first - 1);
            Start::After(Position { epoch: state.epoch, number })
        })
    }

    fn page(&self, most: usize, start: impl Fn(&LogState) -> Start + 'static) -> Deferred<Page> {
        let shared = self.shared.clone();
        self.shared.bus.reactor().spawn(async move { shared.read_page(most, start).await })
    }

    /// Calls `receive` with the messages from `start` on, now and later, until the [`Following`] is
    /// dropped: each exactly once and in order, also across lost connections. Messages that were
    /// removed before they were read are an [`Entry::Gap`]; a log that has begun anew is an
    /// [`Entry::Reset`].
    ///
    /// Following ends with the bus. A busy loop reads later, and holds at most one batch.
    pub fn follow(&self, start: Start, receive: impl FnMut(Entry) + 'static) -> Following {
        Following::new(&self.shared, start, receive)
    }

    /// The log's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// `Ready` if the bus is and the last operation succeeded; otherwise `Degraded` with the
    /// reason.
    pub fn health(&self) -> Health {
        match (self.shared.bus.health(), &*self.shared.why.borrow()) {
            (Health::Ready, Some(why)) => Health::Degraded(format!("the log: {why}")),
            (health, _) => health,
        }
    }

    /// The number of appends that are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.shared.queue.borrow().len()
    }
}

/// Sends the queued appends, one after another.
async fn send_appends(shared: Rc<SharedLog>) -> Result<()> {
    loop {
        let front = shared
            .queue
            .borrow()
            .front()
            .map(|append| (append.id.clone(), append.payload.clone(), append.until));
        let Some((id, payload, until)) = front else { break };
        let attempt = || shared.engine.append(&id, &payload);
        let result = shared.persist(until, attempt).await;
        shared.bytes.set(shared.bytes.get() - payload.len());
        let done = shared.queue.borrow_mut().edit().pop_front();
        done.into_iter().for_each(|append| append.stored.resolve(result.clone()));
        shared.bus.core.append_ended();
    }
    shared.is_appending.set(false);
    Ok(())
}

impl SharedLog {
    fn now(&self) -> Instant {
        self.bus.reactor().now()
    }

    /// When the patience of an operation that begins now ends, if it does.
    fn until(&self) -> Option<Instant> {
        self.now().checked_add(self.limits.patience)
    }

    /// Tries an operation until it succeeds; after `until`, or if it can't succeed, fails.
    async fn persist<T: 'static>(
        &self,
        until: Option<Instant>,
        attempt: impl Fn() -> Deferred<T>,
    ) -> Result<T> {
        let mut pause = PAUSE.0;
        loop {
            let mut trying = attempt();
            if let Some(until) = until {
                let left = until.saturating_duration_since(self.now());
                trying = trying.add_timeout(self.bus.reactor(), left);
            }
            match trying.abort_on_drop().await {
                Ok(value) => {
                    self.why.take();
                    return Ok(value);
                }
                Err(failure) => self.note(failure)?,
            }
            if until.is_some_and(|until| self.now() + pause >= until) {
                let (patience, why) = (self.limits.patience, self.reason());
                return Err(LogError::Unavailable { patience, why }.into());
            }
            self.bus.reactor().sleep(pause).await?;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Keeps the reason of a failure. Returns it if another attempt would fail too.
    fn note(&self, failure: Failure) -> Result<()> {
        if let Health::Failed(_) = self.bus.health() {
            return Err(LogError::Closed.into());
        }
        match failure.downcast_ref() {
            None | Some(PublishError::Full) => {}
            Some(_) => return Err(failure),
        }
        *self.why.borrow_mut() = Some(failure.to_string());
        Ok(())
    }

    /// Why operations fail.
    fn reason(&self) -> String {
        match self.bus.health() {
            Health::Degraded(why) => why,
            _ => self.why.borrow().clone().unwrap_or_else(|| "it gives no answer".to_owned()),
        }
    }

    async fn read_page(&self, most: usize, start: impl Fn(&LogState) -> Start) -> Result<Page> {
        let until = self.until();
        loop {
            let state = self.persist(until, || self.engine.state()).await?;
            let mut reader = follow::Reader::new(start(&state));
            let mut entries: Vec<Entry> = reader.place(&state).into_iter().collect();
            let read = || self.engine.read(reader.from(), most, Duration::ZERO);
            let batch = self.persist(until, read).await?;
            if batch.epoch != state.epoch {
                continue;
            }
            entries.extend(batch.messages.into_iter().flat_map(|message| reader.take(message)));
            let [first, last] =
                [state.first, state.last].map(|number| Position { epoch: state.epoch, number });
            return Ok(Page { entries, first, last });
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("name", &self.shared.name)
            .field("unconfirmed", &self.unconfirmed())
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}
