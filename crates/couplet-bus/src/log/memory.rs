//! The log in the memory of a process.
//!
//! Contract: 221, 222, 225, 227.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use couplet_core::defer::TimedOut;
use couplet_core::{Deferred, Failure, Result, hooks};

use super::{AppendId, Batch, Engine, LogError, LogLimits, LogState, Position, Stored};
use crate::bus::{Bus, Subscription};
use crate::error::PublishError;
use crate::memory::Memory;
use crate::message::Message;

/// Most writers that are remembered in addition to two for each message.
const WRITERS: usize = 64;

/// The messages of one log.
pub(crate) struct MemoryLog {
    epoch: u32,
    limits: LogLimits,
    messages: VecDeque<Stored>,
    bytes: u64,
    /// The number of the newest message.
    last: u64,
    /// The newest append of each writer: its number, and the message's.
    writers: BTreeMap<String, (u64, u64)>,
}

impl MemoryLog {
    pub(crate) fn new(epoch: u32, limits: LogLimits) -> MemoryLog {
        let (messages, writers) = (VecDeque::new(), BTreeMap::new());
        MemoryLog { epoch, limits, messages, bytes: 0, last: 0, writers }
    }

    pub(super) fn state(&self) -> LogState {
        let first = self.messages.front().map_or(self.last + 1, |message| message.number);
        LogState { epoch: self.epoch, first, last: self.last }
    }

    pub(super) fn append(&mut self, id: &AppendId, payload: &Bytes, time: Duration) -> Position {
        self.forget_writers();
        let writer = self.writers.entry(id.writer.to_string()).or_default();
        if writer.0 < id.number {
            self.last += 1;
            *writer = (id.number, self.last);
            self.bytes += payload.len() as u64;
            let message = Stored { number: self.last, time, payload: payload.clone() };
            self.messages.push_back(message);
        }
        Position { epoch: self.epoch, number: writer.1 }
    }

    /// Forgets the writers whose newest message was removed, if they are many: each `Log` is one.
    fn forget_writers(&mut self) {
        if self.writers.len() >= 2 * self.messages.len() + WRITERS {
            let first = self.state().first;
            self.writers.retain(|_, (_, message)| *message >= first);
        }
    }

    fn read(&self, from: u64, most: usize) -> Batch {
        let begin = self.messages.partition_point(|message| message.number < from);
        let messages = self.messages.iter().skip(begin).take(most).cloned().collect();
        Batch { epoch: self.epoch, messages }
    }

    /// Removes the messages beyond the limits.
    pub(super) fn trim(&mut self, now: Duration) {
        let LogLimits { messages, bytes, age, .. } = self.limits;
        while let Some(oldest) = self.messages.front()
            && (self.messages.len() as u64 > messages
                || self.bytes > bytes
                || oldest.time.saturating_add(age) <= now)
        {
            self.bytes -= oldest.payload.len() as u64;
            self.messages.pop_front();
        }
    }
}

/// A log as one bus uses it.
#[derive(Clone)]
pub(crate) struct MemoryEngine {
    bus: Bus,
    memory: Memory,
    name: String,
    limits: LogLimits,
}

impl MemoryEngine {
    pub(crate) fn new(bus: &Bus, memory: &Memory, name: &str, limits: &LogLimits) -> MemoryEngine {
        MemoryEngine {
            bus: bus.clone(),
            memory: memory.clone(),
            name: name.to_owned(),
            limits: *limits,
        }
    }

    /// Where appends are announced.
    fn bell(&self) -> String {
        format!("_LOG.{}", self.name)
    }

    /// Looks at the log, or changes it.
    fn with<R>(&self, f: impl FnOnce(&mut MemoryLog) -> R) -> Result<R> {
        if self.bus.core.is_closed() {
            return Err(LogError::Closed.into());
        }
        let (now, epoch) =
            (hooks::unix_time(self.bus.reactor()), hooks::random(self.bus.reactor()) as u32);
        Ok(self.memory.with_log(
            &self.name,
            || MemoryLog::new(epoch, self.limits),
            |log| {
                log.trim(now);
                let result = f(log);
                log.trim(now);
                result
            },
        ))
    }

    /// Fires with the next announcement of an append.
    fn rung(&self) -> Result<(Subscription, Deferred<()>)> {
        let (rung, ring) = Deferred::new();
        let mut ring = Some(ring);
        let subscription = self.bus.subscribe(self.bell(), move |_| {
            ring.take().into_iter().for_each(|ring| ring.callback(()));
        })?;
        Ok((subscription, rung))
    }
}

impl Engine for MemoryEngine {
    fn state(&self) -> Deferred<LogState> {
        Deferred::from_result(self.with(|log| log.state()))
    }

    fn append(&self, id: &AppendId, payload: &Bytes) -> Deferred<Position> {
        let (size, most) = (payload.len(), self.memory.most_payload());
        if size > most {
            return Deferred::fail(PublishError::TooLarge { size, most });
        }
        let time = hooks::unix_time(self.bus.reactor());
        let appended = self.with(|log| log.append(id, payload, time));
        if appended.is_ok() {
            self.memory.send(
                &Message::new(self.bell(), ""),
                None,
                hooks::random(self.bus.reactor()),
            );
        }
        Deferred::from_result(appended)
    }

    fn read(&self, from: u64, most: usize, wait: Duration) -> Deferred<Batch> {
        if wait.is_zero() {
            return Deferred::from_result(self.with(|log| log.read(from, most)));
        }
        // Subscribed before it looks: another thread may append meanwhile.
        let rung = match self.rung() {
            Ok(rung) => rung,
            Err(failure) => return Deferred::fail(failure),
        };
        let read = self.with(|log| log.read(from, most));
        if read.as_ref().map_or(true, |batch| !batch.messages.is_empty()) {
            return Deferred::from_result(read);
        }
        let (subscription, rung) = rung;
        let again = self.clone();
        let waited = |failure: Failure| match failure.is::<TimedOut>() {
            true => Ok(()),
            false => Err(failure),
        };
        rung.add_timeout(self.bus.reactor(), wait).add_errback(waited).add_both(move |result| {
            drop(subscription);
            result?;
            again.with(|log| log.read(from, most))
        })
    }
}

#[cfg(test)]
impl MemoryLog {
    pub(crate) fn writers(&self) -> usize {
        self.writers.len()
    }

    /// Forgets the newest message, as a server does that ends before it has written it.
    pub(crate) fn lose_newest(&mut self) {
        let lost = self.messages.pop_back().expect("there is one");
        self.bytes -= lost.payload.len() as u64;
        self.last -= 1;
    }
}
