//! A bus in the memory of a process: one table of subscriptions, and a queue to each bus.
//!
//! INVARIANT: a message is queued for all its subscriptions under one lock, so all buses see the
//! messages in one order.
//!
//! Contract: 201–205.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use couplet_core::services::Health;
use couplet_core::{Reactor, Remote, Resolver, hooks};

use crate::bus::Bus;
use crate::core::{Backend, Core};
use crate::error::PublishError;
use crate::log::{Engine, LogLimits, MemoryEngine, MemoryLog};
use crate::message::Message;
use crate::requests::NO_RESPONDERS;
use crate::subject::{Pattern, SubjectError};
use crate::wake;

/// A message bus in the memory of this process, for the loops of one program, and for tests. Clones
/// share the messages; settings apply to the buses made from the clone that they were set on.
///
/// A publish looks at each subscription.
///
/// ```
/// use couplet::bus::{Bus, Memory};
///
/// # let mut memory = couplet::testing::MemoryReactor::new();
/// # let reactor = memory.reactor();
/// let memory_bus = Memory::new();
/// let (ada, bob) = (Bus::memory(&reactor, &memory_bus), Bus::memory(&reactor, &memory_bus));
/// let hears = bob.subscribe("rooms.>", |message| println!("{}", message.subject()))?;
/// ada.publish("rooms.lobby", "hello")?;
/// # memory.advance(std::time::Duration::ZERO);
/// # assert_eq!(bob.counts().delivered, 1);
/// # drop(hears);
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone)]
pub struct Memory {
    hub: Arc<Mutex<Hub>>,
    echo: bool,
    queue: usize,
    max_payload: usize,
}

#[derive(Default)]
struct Hub {
    members: BTreeMap<u64, MemberQueue>,
    /// The newest number of a bus, or unique name.
    last: u64,
    logs: BTreeMap<String, MemoryLog>,
}

/// The messages on their way to one bus.
struct MemberQueue {
    remote: Remote,
    /// The bus's number in its thread.
    slot: u64,
    most: usize,
    subscriptions: BTreeMap<u64, Pattern>,
    batch: Batch,
    bytes: usize,
    /// Whether a call that takes the messages is on its way.
    is_called: bool,
}

/// Messages for a bus, and the number of those that came after them while there was no room.
#[derive(Default)]
struct Batch {
    messages: VecDeque<(u64, Message)>,
    lost: u64,
}

impl Memory {
    /// A message bus without subscriptions.
    pub fn new() -> Memory {
        Memory { hub: Arc::default(), echo: true, queue: 8 << 20, max_payload: 1 << 20 }
    }

    /// Sets whether a bus gets the messages that it publishes itself; it does by default.
    #[must_use]
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
        self
    }

    /// Sets the maximum size of the messages on their way to a bus, in bytes; 8 MiB by default.
    /// Further ones are [lost](crate::Event::Lost).
    #[must_use]
    pub fn queue(mut self, bytes: usize) -> Self {
        self.queue = bytes;
        self
    }

    /// Sets the maximum size of headers and payload, in bytes; 1 MiB by default.
    #[must_use]
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sends a message to all subscriptions that match; returns their number.
    pub(crate) fn send(&self, message: &Message, except: Option<u64>, random: u64) -> usize {
        let mut hub = self.lock();
        let recipients = hub.recipients(message, except, random);
        let calls = hub.send(message, &recipients);
        drop(hub);
        for (number, remote, slot) in calls {
            if remote.call(move |_| wake::wake(slot)).is_err() {
                // The loop has ended without closing its bus.
                drop(self.lock().members.remove(&number));
            }
        }
        recipients.len()
    }

    /// Looks at a log, or changes it.
    pub(crate) fn with_log<R>(
        &self,
        name: &str,
        make: impl FnOnce() -> MemoryLog,
        f: impl FnOnce(&mut MemoryLog) -> R,
    ) -> R {
        f(self.lock().logs.entry(name.to_owned()).or_insert_with(make))
    }

    /// The maximum size of headers and payload.
    pub(crate) fn most_payload(&self) -> usize {
        self.max_payload
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        // No code of the user runs under it.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("buses", &self.lock().members.len()).finish_non_exhaustive()
    }
}

impl Hub {
    /// The members and subscriptions that get a message; one of each group.
    fn recipients(&self, message: &Message, except: Option<u64>, random: u64) -> Vec<(u64, u64)> {
        let mut recipients = Vec::new();
        let mut groups: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for (member, queue) in self.members.iter().filter(|(number, _)| Some(**number) != except) {
            for (id, pattern) in &queue.subscriptions {
                if !pattern.matches(message.subject()) {
                    continue;
                }
                match pattern.group_name() {
                    None => recipients.push((*member, *id)),
                    Some(group) => groups.entry(group).or_default().push((*member, *id)),
                }
            }
        }
        let choose = |group: Vec<(u64, u64)>| group[(random % group.len() as u64) as usize];
        recipients.extend(groups.into_values().map(choose));
        recipients
    }

    /// Queues a message. Returns the calls to make after the lock.
    fn send(&mut self, message: &Message, to: &[(u64, u64)]) -> Vec<(u64, Remote, u64)> {
        let mut calls = Vec::new();
        for (member, id) in to {
            let Some(queue) = self.members.get_mut(member) else { continue };
            let bytes = queue.bytes + message.size() + message.subject().len();
            match bytes > queue.most {
                true => queue.batch.lost += 1,
                false => {
                    queue.bytes = bytes;
                    queue.batch.messages.push_back((*id, message.clone()));
                }
            }
            if !std::mem::replace(&mut queue.is_called, true) {
                calls.push((*member, queue.remote.clone(), queue.slot));
            }
        }
        calls
    }
}

/// One bus of a [`Memory`].
pub(crate) struct MemoryBackend {
    core: Weak<Core>,
    reactor: Reactor,
    memory: Memory,
    /// The bus's number in the memory while it is open, and in its thread.
    place: Cell<Option<(u64, u64)>>,
}

impl MemoryBackend {
    pub(crate) fn new(core: &Weak<Core>, reactor: &Reactor, memory: Memory) -> MemoryBackend {
        let (core, reactor) = (core.clone(), reactor.clone());
        MemoryBackend { core, reactor, memory, place: Cell::new(None) }
    }

    fn send(&self, message: &Message, except: Option<u64>) -> usize {
        self.memory.send(message, except, hooks::random(&self.reactor))
    }

    fn with_queue<R>(&self, f: impl FnOnce(&mut MemberQueue) -> R) -> Option<R> {
        let (number, _) = self.place.get()?;
        self.memory.lock().members.get_mut(&number).map(f)
    }
}

impl Backend for MemoryBackend {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn open(&self) {
        let slot = wake::register(self.core.clone());
        let mut hub = self.memory.lock();
        hub.last += 1;
        let queue = MemberQueue {
            remote: self.reactor.remote(),
            slot,
            most: self.memory.queue,
            subscriptions: BTreeMap::new(),
            batch: Batch::default(),
            bytes: 0,
            is_called: false,
        };
        let number = hub.last;
        hub.members.insert(number, queue);
        self.place.set(Some((number, slot)));
    }

    fn unique(&self) -> String {
        let mut hub = self.memory.lock();
        hub.last += 1;
        hub.last.to_string()
    }

    fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let (size, most) = (message.size(), self.memory.max_payload);
        if size > most {
            return Err(PublishError::TooLarge { size, most });
        }
        let own = self.place.get().map(|(number, _)| number);
        let except = own.filter(|_| !self.memory.echo);
        if self.send(message, except) == 0
            && let Some(reply) = message.reply()
        {
            self.send(&Message::new(reply, "").with_status(NO_RESPONDERS), None);
        }
        Ok(())
    }

    fn subscribe(&self, id: u64, pattern: &Pattern) -> Result<(), SubjectError> {
        self.with_queue(|queue| queue.subscriptions.insert(id, pattern.clone()));
        Ok(())
    }

    fn log_engine(&self, bus: &Bus, name: &str, limits: &LogLimits) -> Rc<dyn Engine> {
        Rc::new(MemoryEngine::new(bus, &self.memory, name, limits))
    }

    fn unsubscribe(&self, id: u64) {
        self.with_queue(|queue| queue.subscriptions.remove(&id));
    }

    fn end_subscriptions(&self, except: Option<u64>) {
        self.with_queue(|queue| queue.subscriptions.retain(|id, _| Some(*id) == except));
    }

    fn collect(&self) {
        let batch = self.with_queue(|queue| {
            (queue.is_called, queue.bytes) = (false, 0);
            std::mem::take(&mut queue.batch)
        });
        let (Some(batch), Some(core)) = (batch, self.core.upgrade()) else { return };
        for (id, message) in batch.messages {
            core.push_message(id, message);
        }
        if batch.lost > 0 {
            core.report_lost(batch.lost);
        }
    }

    fn flush(&self, confirmed: Resolver<()>) {
        self.collect();
        if let Some(core) = self.core.upgrade() {
            core.push_flushed(confirmed);
        }
    }

    fn close(&self) {
        if let Some((number, slot)) = self.place.take() {
            wake::unregister(slot);
            let _queue = self.memory.lock().members.remove(&number);
        }
    }

    fn health(&self) -> Health {
        Health::Ready
    }
}
