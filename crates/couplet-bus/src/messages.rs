//! [`Messages`]: a subscription with a queue.
//!
//! Contract: 129b, 205.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use couplet_core::Deferred;
use couplet_core::defer::DeferredQueue;

use crate::bus::{Bus, Subscription};
use crate::event::Event;
use crate::message::Message;
use crate::subject::{Pattern, SubjectError};

/// The limit of a queue. The default is 1024 messages and 8 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The maximum number of messages.
    pub messages: usize,
    /// The maximum number of bytes of headers and payloads.
    pub bytes: usize,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { messages: 1024, bytes: 8 * 1024 * 1024 }
    }
}

/// A subscription that queues its messages until they are taken. While the queue is full, new
/// messages are dropped and [counted](crate::Counts::dropped); the first one is an
/// [event](Event::Slow), and so is the first one after the queue was half empty.
///
/// ```
/// use couplet::bus::{Bus, Limit, Memory};
///
/// async fn work(bus: Bus) -> couplet::Result<()> {
///     let jobs = bus.messages("jobs.*", Limit::default())?;
///     loop {
///         let job = jobs.next().await?;
///         println!("{}: {:?}", job.subject(), job.payload());
/// #       return Ok(());
///     }
/// }
/// # let mut memory = couplet::testing::MemoryReactor::new();
/// # let reactor = memory.reactor();
/// # let bus = Bus::memory(&reactor, &Memory::new());
/// # let work = reactor.spawn(work(bus.clone()));
/// # memory.settle();
/// # bus.publish("jobs.1", "mail")?;
/// # memory.advance(std::time::Duration::ZERO);
/// # couplet::testing::success_of(work);
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct Messages {
    queue: Rc<Queue>,
    _subscription: Subscription,
}

struct Queue {
    /// The length at which a slow subscriber has caught up.
    half: usize,
    messages: DeferredQueue<Message>,
    dropped: Cell<u64>,
    /// Whether a message was dropped since the queue was last half empty.
    is_slow: Cell<bool>,
}

impl Messages {
    pub(crate) fn new(bus: &Bus, pattern: Pattern, limit: Limit) -> Result<Messages, SubjectError> {
        let messages = DeferredQueue::new().size(limit.messages);
        let queue = Rc::new(Queue {
            half: limit.messages / 2,
            messages: messages.weight(limit.bytes, Message::size),
            dropped: Cell::new(0),
            is_slow: Cell::new(false),
        });
        let (adding, core, name) = (queue.clone(), Rc::downgrade(&bus.core), pattern.to_string());
        let subscription = bus.subscribe(pattern, move |message| {
            if adding.add(message) {
                return;
            }
            let Some(core) = core.upgrade() else { return };
            core.count(|counts| counts.dropped += 1);
            if !adding.is_slow.replace(true) {
                core.report(Event::Slow { pattern: name.clone() });
            }
        })?;
        Ok(Messages { queue, _subscription: subscription })
    }

    /// Fires with the next message. Calls fire in their order. As from a
    /// [`DeferredQueue`](couplet_core::defer::DeferredQueue::get), a message stays in the queue
    /// until it is taken: a task that is cancelled while it waits loses none.
    #[track_caller]
    pub fn next(&self) -> Deferred<Message> {
        self.queue.messages.get()
    }

    /// The number of queued messages.
    pub fn len(&self) -> usize {
        self.queue.messages.len()
    }

    /// Whether no message is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of messages that this queue has dropped.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped.get()
    }
}

impl Queue {
    /// Returns false if the message was dropped.
    fn add(&self, message: Message) -> bool {
        if self.messages.len() <= self.half {
            self.is_slow.set(false);
        }
        let is_added = self.messages.put(message).is_ok();
        if !is_added {
            self.dropped.set(self.dropped.get() + 1);
        }
        is_added
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("len", &self.len())
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}
