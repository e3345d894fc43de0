//! [`Bus`], the handle, and [`Subscription`].
//!
//! Contract: 201, 203, 206.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet_core::services::{Health, Service};
use couplet_core::{Deferred, Reactor, Result};

use crate::core::Core;
use crate::error::PublishError;
use crate::event::{Counts, Event};
use crate::memory::{Memory, MemoryBackend};
use crate::message::Message;
use crate::messages::{Limit, Messages};
use crate::nats::{self, Nats, NatsClient};
use crate::redis::{self, PubSub, RedisClient};
use crate::subject::{Pattern, SubjectError};

/// A connection to a message bus, in one loop; cheap to clone. The bus closes when the last handle
/// is dropped: a `Bus`, a [`Subscription`], [`Messages`] or a [`Presence`](crate::Presence).
///
/// Messages of one bus to one subject arrive in the order of publishing, at most once each. A
/// subscription misses those that are published while its bus has no connection. The gap ends with
/// [`Connected`](Event::Connected), and may begin some time before
/// [`Disconnected`](Event::Disconnected) reports it; its size is known only of
/// [numbered](Message::numbered) messages. A [`Log`](crate::Log) has no such gaps.
///
/// Functions of the program are called by the loop, never from inside a call that it made.
#[derive(Clone)]
pub struct Bus {
    pub(crate) core: Rc<Core>,
}

impl Bus {
    /// A bus in the memory of this process. All buses of a `Memory` get each other's messages, also
    /// those in other loops and threads.
    pub fn memory(reactor: &Reactor, memory: &Memory) -> Bus {
        let memory = memory.clone();
        Bus::of(Core::new(reactor, |core| Rc::new(MemoryBackend::new(core, reactor, memory))))
    }

    /// A bus over NATS, which connects immediately and reconnects whenever the connection is lost,
    /// until it is closed. Without a connection, messages are [queued](nats::Options::queue).
    ///
    /// ```no_run
    /// use couplet::bus::{Bus, nats};
    ///
    /// # fn example(reactor: &couplet::Reactor) -> couplet::Result<()> {
    /// let bus = Bus::nats(reactor, nats::Options::new(["nats://localhost:4222"])?);
    /// bus.publish("rooms.lobby", "hello")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn nats(reactor: &Reactor, options: nats::Options) -> Bus {
        let dialect = Nats::default();
        Bus::of(Core::new(reactor, |core| NatsClient::new(core, reactor, options, dialect)))
    }

    /// A bus over the pub/sub of a [Redis](redis) server, version 6 or later. The bus connects like
    /// [`Bus::nats`], and has no groups. [`Redis`](redis::Redis) runs commands over the same
    /// connection.
    ///
    /// ```no_run
    /// use couplet::bus::{Bus, redis};
    ///
    /// # fn example(reactor: &couplet::Reactor) -> couplet::Result<()> {
    /// let bus = Bus::redis(reactor, redis::Options::new("redis://localhost")?);
    /// bus.publish("rooms.lobby", "hello")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn redis(reactor: &Reactor, options: redis::Options) -> Bus {
        let dialect = PubSub::new(reactor, &options);
        Bus::of(Core::new(reactor, |core| RedisClient::new(core, reactor, options, dialect)))
    }

    fn of(core: Rc<Core>) -> Bus {
        Bus { core }
    }

    /// Publishes a message without headers: see [`publish_message`](Self::publish_message).
    ///
    /// # Errors
    ///
    /// See [`publish_message`](Self::publish_message).
    pub fn publish(
        &self,
        subject: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Result<(), PublishError> {
        self.publish_message(&Message::new(subject, payload))
    }

    /// Publishes a message to all subscriptions whose pattern matches, including this bus's own
    /// unless it has no echo. Without a connection, the message is queued.
    ///
    /// # Errors
    ///
    /// If a subject or a header is invalid, the message is too large, the queue is full, or the bus
    /// is closed.
    pub fn publish_message(&self, message: &Message) -> Result<(), PublishError> {
        self.core.publish(message)
    }

    /// Replies to a message that asks for it.
    ///
    /// # Errors
    ///
    /// [`NoReplyWanted`](PublishError::NoReplyWanted); otherwise as
    /// [`publish_message`](Self::publish_message).
    pub fn reply(&self, to: &Message, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        self.publish(to.reply().ok_or(PublishError::NoReplyWanted)?, payload)
    }

    /// Calls `receive` with each message that the pattern matches, until the [`Subscription`] is
    /// dropped or the bus is closed. Messages that are published while the bus has no connection
    /// are missed.
    ///
    /// ```
    /// use couplet::bus::{Bus, Memory, Pattern};
    ///
    /// # let mut memory = couplet::testing::MemoryReactor::new();
    /// # let reactor = memory.reactor();
    /// let bus = Bus::memory(&reactor, &Memory::new());
    /// let workers = Pattern::new("jobs.*").group("workers");
    /// let replying = bus.clone();
    /// let subscription = bus.subscribe(workers, move |job| {
    ///     if let Err(error) = replying.reply(&job, "done") {
    ///         eprintln!("{error}");
    ///     }
    /// })?;
    /// # let done = bus.request("jobs.mail", "", std::time::Duration::from_secs(1));
    /// # memory.advance(std::time::Duration::ZERO);
    /// # assert_eq!(couplet::testing::success_of(done).payload(), "done");
    /// # drop(subscription);
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the pattern or its group is invalid.
    pub fn subscribe(
        &self,
        pattern: impl Into<Pattern>,
        receive: impl FnMut(Message) + 'static,
    ) -> Result<Subscription, SubjectError> {
        let id = self.core.subscribe(pattern.into(), receive)?;
        Ok(Subscription { bus: self.clone(), id })
    }

    /// Subscribes with a queue, for a subscriber that takes one message after another.
    ///
    /// # Errors
    ///
    /// If the pattern or its group is invalid.
    pub fn messages(
        &self,
        pattern: impl Into<Pattern>,
        limit: Limit,
    ) -> Result<Messages, SubjectError> {
        Messages::new(self, pattern.into(), limit)
    }

    /// Sends a request, and fires with the first reply. All requests share one subscription.
    ///
    /// Fails with [`TimedOut`](couplet_core::defer::TimedOut) after `timeout`, with
    /// [`RequestError`](crate::RequestError) if nothing is subscribed to the subject or the bus is
    /// closed, and with [`PublishError`]. Without a connection the request is queued as any
    /// message.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use couplet::bus::{Bus, Memory};
    /// # let mut memory = couplet::testing::MemoryReactor::new();
    /// # let bus = Bus::memory(&memory.reactor(), &Memory::new());
    /// # let clock = bus.clone();
    /// # let _clock = bus.subscribe("time", move |asked| clock.reply(&asked, "noon").unwrap())?;
    /// let time = bus.request("time", "", Duration::from_secs(2));
    /// # memory.advance(Duration::ZERO);
    /// # assert_eq!(couplet::testing::success_of(time).payload(), "noon");
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn request(
        &self,
        subject: impl Into<String>,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Deferred<Message> {
        self.request_message(Message::new(subject, payload), timeout)
    }

    /// [`request`](Self::request) with headers. The subject for replies is replaced.
    #[track_caller]
    pub fn request_message(&self, message: Message, timeout: Duration) -> Deferred<Message> {
        match self.core.requests() {
            Ok(requests) => {
                requests.send(&self.core, message).add_timeout(self.core.reactor(), timeout)
            }
            Err(error) => Deferred::fail(error),
        }
    }

    /// Fires when everything published and subscribed before was processed: by the server, or in
    /// memory. Fails with [`NotConfirmed`](crate::NotConfirmed) if the connection is lost first.
    /// Without a connection it waits for one.
    #[track_caller]
    pub fn flush(&self) -> Deferred<()> {
        self.core.flush()
    }

    /// Waits for a connection.
    pub(crate) async fn connected(&self) -> Result<()> {
        while self.health() != Health::Ready {
            // The flush waits for a connection, which may be lost again by now.
            self.flush().await?;
        }
        Ok(())
    }

    /// Ends all subscriptions, delivers the messages that were sent to them before, waits until the
    /// appends of its [logs](crate::Log) are stored or have failed, sends everything that is
    /// queued, and closes. Without a connection it waits for one, and if a server refuses an
    /// append, as long as the [patience](crate::LogLimits::patience) of its log;
    /// [`close`](Self::close) ends it.
    pub fn drain(&self) -> Deferred<()> {
        self.core.drain()
    }

    /// Closes the bus: queued messages are [lost](crate::Counts::lost), which is logged, and pending
    /// requests fail.
    pub fn close(&self) {
        self.core.close();
    }

    /// Calls `observer` with the next [events](Event); replaces an earlier observer.
    pub fn on_event(&self, observer: impl Fn(&Event) + 'static) {
        self.core.observe(observer);
    }

    /// The counters.
    pub fn counts(&self) -> Counts {
        self.core.counts()
    }

    /// `Ready` with a connection. Without one `Degraded`, with the reason: the program still works
    /// for its own clients.
    pub fn health(&self) -> Health {
        self.core.health()
    }

    /// The loop of the bus.
    pub fn reactor(&self) -> &Reactor {
        self.core.reactor()
    }
}

/// For a [`Supervisor`](couplet_core::services::Supervisor). The start does not wait for a
/// connection; the stop [drains](Bus::drain) the bus, and closes it if cancelled.
impl Service for Bus {
    fn name(&self) -> &str {
        "bus"
    }

    fn start(&mut self, _: &Reactor) -> Deferred<()> {
        self.core.open();
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        let closing = self.clone();
        self.drain().add_both(move |_unconfirmed| {
            closing.close();
            Ok(())
        })
    }

    fn health(&self) -> Health {
        Bus::health(self)
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (health, counts) = (self.health(), self.counts());
        f.debug_struct("Bus").field("health", &health).field("counts", &counts).finish()
    }
}

/// A subscription, which keeps the bus open and ends when it is dropped.
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    bus: Bus,
    id: u64,
}

impl Subscription {
    /// The bus.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Whether the bus was not closed since.
    pub(crate) fn is_live(&self) -> bool {
        self.bus.core.pattern(self.id).is_some()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.core.unsubscribe(self.id);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("pattern", &self.bus.core.pattern(self.id))
            .finish_non_exhaustive()
    }
}
