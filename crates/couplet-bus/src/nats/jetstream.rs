//! JetStream: streams that keep messages, by its JSON requests.
//! Source: <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use couplet_core::{Deferred, Resolver};
use serde::{Deserialize, Serialize};

use crate::bus::{Bus, Subscription};
use crate::error::PublishError;
use crate::message::Message;

/// The header by which a stream recognizes a message that it has.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Time for the last messages of a fetch to arrive, after the server's limit.
const GRACE: Duration = Duration::from_secs(1);

/// A request to JetStream failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JetStreamError {
    /// The server refused it.
    #[error("cannot use JetStream: {description} (error {code})")]
    Refused {
        /// The number of the error.
        code: u32,
        /// The server's words.
        description: String,
    },
    /// The reply is not one of JetStream.
    #[error("cannot use JetStream: the server's reply is malformed: {0}")]
    BadReply(String),
}

/// The settings of a stream, which keeps the messages of its subjects. Unlimited and on disk unless
/// they say otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct StreamOptions {
    name: String,
    // Bound: the subjects that the program names.
    subjects: Vec<String>,
    max_msgs: i64,
    max_bytes: i64,
    /// In nanoseconds.
    max_age: u64,
    storage: &'static str,
    num_replicas: u32,
}

impl StreamOptions {
    /// A stream of the messages whose subjects match one of these patterns.
    pub fn new<S: Into<String>>(
        name: impl Into<String>,
        subjects: impl IntoIterator<Item = S>,
    ) -> StreamOptions {
        StreamOptions {
            name: name.into(),
            subjects: subjects.into_iter().map(Into::into).collect(),
            max_msgs: -1,
            max_bytes: -1,
            max_age: 0,
            storage: "file",
            num_replicas: 1,
        }
    }

    /// Sets the maximum number of messages; beyond it the oldest are removed.
    #[must_use]
    pub fn max_messages(mut self, most: u32) -> Self {
        self.max_msgs = most.into();
        self
    }

    /// Sets the maximum number of bytes; beyond it the oldest messages are removed.
    #[must_use]
    pub fn max_bytes(mut self, most: u32) -> Self {
        self.max_bytes = most.into();
        self
    }

    /// Sets the time after which messages are removed.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = nanoseconds(age);
        self
    }

    /// Keeps the messages in the server's memory.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.storage = "memory";
        self
    }

    /// Sets the number of servers that keep the messages; 1 by default.
    #[must_use]
    pub fn replicas(mut self, count: u32) -> Self {
        self.num_replicas = count;
        self
    }
}

/// The first message of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The oldest one in the stream.
    Oldest,
    /// The next one.
    Now,
    /// The one after this position.
    After(u64),
}

/// A stored message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// Its position in the stream, which begins with 1.
    pub position: u64,
    /// Whether the stream had a message with its id.
    pub is_duplicate: bool,
}

/// A message of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// The message. Its subject for replies takes the acknowledgement.
    pub message: Message,
    /// Its position in the stream.
    pub position: u64,
}

/// JetStream over a bus.
///
/// ```no_run
/// use couplet::bus::Message;
/// use couplet::bus::nats::{JetStream, Start, StreamOptions};
/// use std::time::Duration;
///
/// # async fn example(bus: couplet::bus::Bus) -> couplet::Result<()> {
/// let jetstream = JetStream::new(&bus, Duration::from_secs(5));
/// jetstream.create_stream(&StreamOptions::new("ROOMS", ["rooms.>"])).await?;
/// let stored = jetstream.publish(Message::new("rooms.lobby", "hello"), Some("message-1")).await?;
/// let consumer = jetstream.consumer("ROOMS", Start::After(stored.position - 1)).await?;
/// for delivered in consumer.fetch(100, Duration::from_secs(1)).await? {
///     println!("{}: {:?}", delivered.position, delivered.message.payload());
///     consumer.acknowledge(&delivered)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct JetStream {
    bus: Bus,
    timeout: Duration,
}

impl JetStream {
    /// JetStream over this bus. Requests fail after `timeout`, and with
    /// [`NoResponders`](crate::RequestError::NoResponders) if the server has no JetStream.
    pub fn new(bus: &Bus, timeout: Duration) -> JetStream {
        JetStream { bus: bus.clone(), timeout }
    }

    /// Creates a stream. If there is one with the same options, nothing changes; with others the
    /// server refuses.
    #[track_caller]
    pub fn create_stream(&self, options: &StreamOptions) -> Deferred<()> {
        self.ask(&format!("STREAM.CREATE.{}", options.name), options).map(drop)
    }

    /// Publishes a message to a stream, and fires once the stream has it. A stream ignores another
    /// message with the same id, by default for two minutes; so a message whose confirmation did not
    /// arrive can be published again.
    #[track_caller]
    pub fn publish(&self, message: Message, id: Option<&str>) -> Deferred<Stored> {
        let message = match id {
            Some(id) => message.header(MESSAGE_ID, id),
            None => message,
        };
        self.bus.request_message(message, self.timeout).add_callback(|reply| {
            let Reply { seq, duplicate, .. } = Reply::parse(&reply)?;
            Ok(Stored { position: seq, is_duplicate: duplicate })
        })
    }

    /// Creates a consumer, which the server removes if it fetches nothing for five minutes. Messages
    /// that are not [acknowledged](Consumer::acknowledge) within 30 s are delivered again.
    #[track_caller]
    pub fn consumer(&self, stream: &str, from: Start) -> Deferred<Consumer> {
        let config = ConsumerConfig::new(from, None);
        self.create_consumer(&format!("CONSUMER.CREATE.{stream}"), stream, config)
    }

    /// Creates a durable consumer, or finds the one with this name: it continues after its last
    /// acknowledged message, and `from` counts only for a new one.
    #[track_caller]
    pub fn durable_consumer(&self, stream: &str, name: &str, from: Start) -> Deferred<Consumer> {
        let config = ConsumerConfig::new(from, Some(name));
        let operation = format!("CONSUMER.DURABLE.CREATE.{stream}.{name}");
        self.create_consumer(&operation, stream, config)
    }

    fn create_consumer(
        &self,
        operation: &str,
        stream: &str,
        config: ConsumerConfig<'_>,
    ) -> Deferred<Consumer> {
        let (bus, stream_name) = (self.bus.clone(), stream.to_owned());
        self.ask(operation, &CreateConsumer { stream_name: stream, config }).map(move |reply| {
            Consumer {
                bus,
                next: format!("$JS.API.CONSUMER.MSG.NEXT.{stream_name}.{}", reply.name),
            }
        })
    }

    /// Sends a request with JSON.
    fn ask(&self, operation: &str, body: &impl Serialize) -> Deferred<Reply> {
        let body = serde_json::to_vec(body).expect("texts and numbers are JSON");
        let reply = self.bus.request(format!("$JS.API.{operation}"), body, self.timeout);
        reply.add_callback(|reply| Ok(Reply::parse(&reply)?))
    }
}

/// A reply, reduced to the fields that are used here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Reply {
    error: Option<ApiError>,
    name: String,
    seq: u64,
    duplicate: bool,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl Reply {
    fn parse(reply: &Message) -> Result<Reply, JetStreamError> {
        let bad = |error: serde_json::Error| JetStreamError::BadReply(error.to_string());
        let reply: Reply = serde_json::from_slice(reply.payload()).map_err(bad)?;
        match reply.error {
            Some(ApiError { err_code, description }) => {
                Err(JetStreamError::Refused { code: err_code, description })
            }
            None => Ok(reply),
        }
    }
}

#[derive(Serialize)]
struct CreateConsumer<'a> {
    stream_name: &'a str,
    config: ConsumerConfig<'a>,
}

#[derive(Serialize)]
struct ConsumerConfig<'a> {
    ack_policy: &'static str,
    deliver_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    opt_start_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable_name: Option<&'a str>,
    /// In nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    inactive_threshold: Option<u64>,
}

impl<'a> ConsumerConfig<'a> {
    fn new(from: Start, durable_name: Option<&'a str>) -> ConsumerConfig<'a> {
        let (deliver_policy, opt_start_seq) = match from {
            Start::Oldest => ("all", None),
            Start::Now => ("new", None),
            Start::After(position) => ("by_start_sequence", Some(position.saturating_add(1))),
        };
        let inactive = nanoseconds(Duration::from_secs(300));
        ConsumerConfig {
            ack_policy: "explicit",
            deliver_policy,
            opt_start_seq,
            durable_name,
            inactive_threshold: durable_name.is_none().then_some(inactive),
        }
    }
}

/// Takes the messages of a stream in order.
#[derive(Clone)]
pub struct Consumer {
    bus: Bus,
    /// Where it asks for messages.
    next: String,
}

#[derive(Serialize)]
struct Pull {
    batch: usize,
    /// In nanoseconds.
    expires: u64,
}

/// A fetch on its way.
struct Fetch {
    most: usize,
    // Bound: `most` messages of the maximum payload.
    delivered: RefCell<Vec<Delivered>>,
    // Bound: one Deferred, which gets the messages.
    fetched: Cell<Option<Resolver<Vec<Delivered>>>>,
    subscription: RefCell<Option<Subscription>>,
}

impl Consumer {
    /// Fires with the next messages: at most `most`, and after at most `wait` with those that have
    /// arrived.
    #[track_caller]
    pub fn fetch(&self, most: usize, wait: Duration) -> Deferred<Vec<Delivered>> {
        let fetch = Rc::new(Fetch {
            most,
            delivered: RefCell::default(),
            fetched: Cell::new(None),
            subscription: RefCell::default(),
        });
        let inbox = format!("_INBOX.{}", self.bus.core.unique());
        let receiving = fetch.clone();
        let subscription =
            self.bus.subscribe(inbox.as_str(), move |message| receiving.receive(message));
        match subscription {
            Ok(subscription) => *fetch.subscription.borrow_mut() = Some(subscription),
            Err(error) => return Deferred::fail(PublishError::from(error)),
        }
        let pull = Pull { batch: most, expires: nanoseconds(wait) };
        let pull = serde_json::to_vec(&pull).expect("numbers are JSON");
        let request = Message::new(self.next.as_str(), pull).reply_to(inbox);
        if let Err(error) = self.bus.publish_message(&request) {
            fetch.subscription.take();
            return Deferred::fail(error);
        }
        let ending = fetch.clone();
        // If the server does not answer, the fetch ends with the messages that have arrived.
        let (messages, fetched) = Deferred::with_canceller(move |_| ending.finish());
        fetch.fetched.set(Some(fetched));
        messages.add_timeout(self.bus.reactor(), wait.saturating_add(GRACE))
    }

    /// Acknowledges a message, which is then not delivered again.
    ///
    /// # Errors
    ///
    /// See [`Bus::publish_message`].
    pub fn acknowledge(&self, delivered: &Delivered) -> Result<(), PublishError> {
        self.bus.reply(&delivered.message, "+ACK")
    }
}

impl Fetch {
    fn receive(&self, message: Message) {
        // A status without a position: no more messages in time.
        let Some(position) = message.reply().and_then(position) else { return self.finish() };
        let mut delivered = self.delivered.borrow_mut();
        delivered.push(Delivered { message, position });
        let is_complete = delivered.len() >= self.most;
        drop(delivered);
        if is_complete {
            self.finish();
        }
    }

    fn finish(&self) {
        drop(self.subscription.take());
        if let Some(fetched) = self.fetched.take() {
            fetched.callback(self.delivered.take());
        }
    }
}

/// The position that a subject for acknowledgements names:
/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<position>…`, or with a domain and an account before.
fn position(subject: &str) -> Option<u64> {
    let tokens: Vec<&str> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
    let place = if tokens.len() > 7 { 5 } else { 3 };
    tokens.get(place)?.parse().ok()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("next", &self.next).finish_non_exhaustive()
    }
}
