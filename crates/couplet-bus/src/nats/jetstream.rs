//! JetStream: a log as a stream of the messages to one subject, by JSON requests.
//! Source: <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.
//!
//! Reads use consumers that the server keeps in memory and that acknowledge nothing: the place of a
//! reader is its own, and a server that restarts can't forget it.
//!
//! Contract: 212.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet_core::defer::first_of;
use couplet_core::{Deferred, Result};
use couplet_defer::bounded::{AtMost, Bounded};
use serde::{Deserialize, Serialize};

use crate::bus::Bus;
use crate::error::{NotConfirmed, RequestError};
use crate::log::{AppendId, Batch, Engine, LogLimits, LogState, Position, Stored};
use crate::message::Message;
use crate::messages::Limit;

/// The header by which a stream recognizes a message that it has.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Time after which the server removes a consumer that reads nothing: longer than any wait of a
/// read.
const INACTIVE: Duration = Duration::from_secs(120);
/// Shortest time for which a stream recognizes a repeated message, however impatient the log.
const RECOGNIZED: Duration = Duration::from_secs(120);
/// Most consumers that are kept for the next read at their place.
const CURSORS: usize = 64;
/// Most bytes of a read, in messages of the maximum payload.
const LARGEST: usize = 4;
/// The number of the error that there is no such stream.
const NOT_FOUND: u32 = 10_059;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum JetStreamError {
    #[error("JetStream refuses: {description} (error {code})")]
    Refused { code: u32, description: String },
    #[error("the reply of JetStream is malformed: {0}")]
    BadReply(String),
    #[error("the stream {stream} of JetStream has other subjects than {subject}")]
    OtherSubjects { stream: String, subject: String },
    #[error("JetStream has no such consumer any more")]
    NoConsumer,
    #[error("JetStream is not enabled: not on the server, or not for this account")]
    NotEnabled,
}

#[derive(Clone)]
pub(super) struct JetStream(Rc<Stream>);

struct Stream {
    bus: Bus,
    subject: String,
    /// The stream's name: the subject with `_` for dots, which no name may have.
    name: String,
    limits: LogLimits,
    max_payload: usize,
    /// The epoch, unless an operation has failed since it was read.
    epoch: Cell<Option<u32>>,
    cursors: RefCell<Bounded<VecDeque<Cursor>, AtMost<CURSORS>>>,
}

/// A consumer of the stream.
struct Cursor {
    /// The consumer's name.
    consumer: String,
    /// The epoch of its stream.
    epoch: u32,
    /// The connection that made it, counted. A server that has restarted does not know it, and
    /// gives no answer.
    connection: u64,
    /// The number of the next message.
    next: u64,
    /// The messages that it can read without waiting.
    pending: u64,
}

impl JetStream {
    pub(super) fn new(bus: &Bus, subject: &str, limits: &LogLimits, most: usize) -> JetStream {
        JetStream(Rc::new(Stream {
            bus: bus.clone(),
            subject: subject.to_owned(),
            name: subject.replace('.', "_"),
            limits: *limits,
            max_payload: most,
            epoch: Cell::new(None),
            cursors: RefCell::default(),
        }))
    }

    fn run<T: 'static>(&self, operation: impl Future<Output = Result<T>> + 'static) -> Deferred<T> {
        let stream = self.0.clone();
        self.0.bus.reactor().spawn(operation).add_errback(move |failure| {
            stream.epoch.set(None);
            Err(failure)
        })
    }
}

impl Engine for JetStream {
    fn state(&self) -> Deferred<LogState> {
        let stream = self.0.clone();
        self.run(async move { stream.state().await })
    }

    fn append(&self, id: &AppendId, payload: &Bytes) -> Deferred<Position> {
        let stream = self.0.clone();
        let id = format!("{}-{}", id.writer, id.number);
        let message = Message::new(&self.0.subject, payload.clone()).header(MESSAGE_ID, id);
        self.run(async move {
            let epoch = stream.epoch().await?;
            let number = stream.ask(message).await?.seq;
            Ok(Position { epoch, number })
        })
    }

    fn read(&self, from: u64, most: usize, wait: Duration) -> Deferred<Batch> {
        let stream = self.0.clone();
        self.run(async move { stream.read(from, most, wait).await })
    }
}

impl Stream {
    /// Sends a request, once there is a connection, and fails with it.
    async fn ask(&self, message: Message) -> Result<Reply> {
        self.bus.connected().await?;
        let reply = self.bus.request_message(message, ANSWER);
        Ok(Reply::parse(&self.or_lost(reply).await?)?)
    }

    /// A request to JetStream's interface.
    async fn call(&self, operation: &str, body: &impl Serialize) -> Result<Reply> {
        let body = serde_json::to_vec(body).expect("texts and numbers are JSON");
        let reply = self.ask(Message::new(format!("$JS.API.{operation}"), body)).await;
        reply.map_err(|failure| match failure.downcast_ref() {
            Some(RequestError::NoResponders) => JetStreamError::NotEnabled.into(),
            _ => failure,
        })
    }

    /// The number of the connection.
    fn connection(&self) -> u64 {
        self.bus.counts().connects
    }

    /// Fails if the connection is lost first: the answer would not come.
    async fn or_lost(&self, answer: Deferred<Message>) -> Result<Message> {
        let lost = self.bus.core.lost().add_callback(|()| Err(NotConfirmed.into()));
        first_of([answer, lost]).abort_on_drop().await?.1
    }

    async fn epoch(&self) -> Result<u32> {
        match self.epoch.get() {
            Some(epoch) => Ok(epoch),
            None => Ok(self.state().await?.epoch),
        }
    }

    async fn state(&self) -> Result<LogState> {
        let found = self.call(&format!("STREAM.INFO.{}", self.name), &()).await;
        let is_missing = |failure: &couplet_core::Failure| {
            let refused = failure.downcast_ref();
            matches!(refused, Some(JetStreamError::Refused { code: NOT_FOUND, .. }))
        };
        let reply = match found {
            Err(failure) if is_missing(&failure) => self.create().await?,
            found => found?,
        };
        if reply.config.subjects != [&*self.subject] {
            let (stream, subject) = (self.name.clone(), self.subject.clone());
            return Err(JetStreamError::OtherSubjects { stream, subject }.into());
        }
        let (epoch, StreamState { messages, first_seq, last_seq }) =
            (hash(&reply.created), reply.state);
        self.epoch.set(Some(epoch));
        let first = if messages == 0 { last_seq.saturating_add(1) } else { first_seq };
        Ok(LogState { epoch, first, last: last_seq })
    }

    async fn create(&self) -> Result<Reply> {
        let LogLimits { messages, bytes, age, patience, .. } = self.limits;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let known = patience.saturating_mul(2).max(RECOGNIZED).min(age);
        let config = StreamConfig {
            name: &self.name,
            subjects: [&self.subject],
            max_msgs: signed(messages),
            max_bytes: signed(bytes),
            max_age: signed(nanoseconds(age)),
            // A larger message of another publisher would stop the readers.
            max_msg_size: i32::try_from(self.max_payload).unwrap_or(i32::MAX),
            duplicate_window: signed(nanoseconds(known)),
            storage: "file",
            num_replicas: 1,
        };
        self.call(&format!("STREAM.CREATE.{}", self.name), &config).await
    }

    async fn read(&self, from: u64, most: usize, wait: Duration) -> Result<Batch> {
        let mut cursor = match self.take_cursor(from) {
            Some(cursor) => cursor,
            None => self.new_cursor(from).await?,
        };
        let (most, wait) = match cursor.pending {
            // Messages may have been stored since the server counted them.
            0 if wait.is_zero() => (most, wait),
            0 => (1, wait),
            pending => {
                (usize::try_from(pending).map_or(most, |pending| pending.min(most)), Duration::ZERO)
            }
        };
        let (epoch, mut messages) = (cursor.epoch, Vec::new());
        if most == 0 || self.pull(&mut cursor, most, wait, &mut messages).await? {
            let mut cursors = self.cursors.borrow_mut();
            if cursors.is_full() {
                cursors.edit().pop_front();
            }
            cursors.edit().push_back(cursor);
        }
        Ok(Batch { epoch, messages })
    }

    fn take_cursor(&self, from: u64) -> Option<Cursor> {
        let place = (self.epoch.get()?, self.connection());
        let mut cursors = self.cursors.borrow_mut();
        cursors.edit().retain(|cursor| (cursor.epoch, cursor.connection) == place);
        let found = cursors.iter().position(|cursor| cursor.next == from)?;
        cursors.edit().remove(found)
    }

    async fn new_cursor(&self, next: u64) -> Result<Cursor> {
        let epoch = self.epoch().await?;
        let config = ConsumerConfig {
            ack_policy: "none",
            deliver_policy: "by_start_sequence",
            opt_start_seq: next.max(1),
            inactive_threshold: nanoseconds(INACTIVE),
            mem_storage: true,
            num_replicas: 1,
        };
        let create = CreateConsumer { stream_name: &self.name, config };
        let reply = self.call(&format!("CONSUMER.CREATE.{}", self.name), &create).await?;
        let (connection, pending) = (self.connection(), reply.num_pending);
        Ok(Cursor { consumer: reply.name, epoch, connection, next, pending })
    }

    /// Reads at most `most` messages; without a `wait`, only stored ones. Returns false if the
    /// consumer can't be used again.
    async fn pull(
        &self,
        cursor: &mut Cursor,
        most: usize,
        wait: Duration,
        messages: &mut Vec<Stored>,
    ) -> Result<bool> {
        self.bus.connected().await?;
        if cursor.connection != self.connection() {
            return Err(JetStreamError::NoConsumer.into());
        }
        let inbox = format!("_INBOX.{}", self.bus.core.unique());
        let limit = Limit { messages: most + 1, bytes: usize::MAX };
        let arriving = self.bus.messages(&*inbox, limit)?;
        let max_bytes = self.max_payload.saturating_mul(LARGEST);
        let (expires, no_wait) = (nanoseconds(wait), wait.is_zero());
        let pull = Pull { batch: most, expires, no_wait, max_bytes };
        let pull = serde_json::to_vec(&pull).expect("numbers are JSON");
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.name, cursor.consumer);
        self.bus.publish_message(&Message::new(next, pull).reply_to(inbox))?;
        while messages.len() < most {
            let next = arriving.next().add_timeout(self.bus.reactor(), wait + ANSWER);
            let message = self.or_lost(next).await?;
            let Some(place) = message.reply().and_then(Place::parse) else {
                return match message.status() {
                    // No more messages, now or within the wait.
                    Some(404 | 408) => {
                        cursor.pending = 0;
                        Ok(true)
                    }
                    Some(503) => Err(RequestError::NoResponders.into()),
                    // The next message has no room, or the consumer was removed.
                    _ if messages.is_empty() => Err(JetStreamError::NoConsumer.into()),
                    _ => Ok(false),
                };
            };
            (cursor.next, cursor.pending) = (place.number.saturating_add(1), place.pending);
            let Place { number, time, .. } = place;
            messages.push(Stored { number, time, payload: message.payload().clone() });
            if place.pending == 0 {
                break;
            }
        }
        Ok(true)
    }
}

/// The place of a message, in its subject for acknowledgements:
/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<number>.<number for the consumer>.<time>.<pending>`,
/// or with a domain and an account before the stream.
struct Place {
    number: u64,
    time: Duration,
    pending: u64,
}

impl Place {
    fn parse(subject: &str) -> Option<Place> {
        let tokens: Vec<&str> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
        let begin = if tokens.len() > 7 { 5 } else { 3 };
        let number = |place: usize| tokens.get(begin + place)?.parse().ok();
        let time = Duration::from_nanos(number(2)?);
        Some(Place { number: number(0)?, time, pending: number(3)? })
    }
}

/// A reply, reduced to the fields that are used here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Reply {
    error: Option<ApiError>,
    /// Of a new consumer.
    name: String,
    num_pending: u64,
    /// Of a stored message.
    seq: u64,
    /// Of a stream.
    created: String,
    config: RepliedConfig,
    state: StreamState,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RepliedConfig {
    subjects: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StreamState {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
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

/// Times are in nanoseconds.
#[derive(Serialize)]
struct StreamConfig<'a> {
    name: &'a str,
    subjects: [&'a str; 1],
    max_msgs: i64,
    max_bytes: i64,
    max_age: i64,
    max_msg_size: i32,
    duplicate_window: i64,
    storage: &'static str,
    num_replicas: u32,
}

#[derive(Serialize)]
struct CreateConsumer<'a> {
    stream_name: &'a str,
    config: ConsumerConfig,
}

#[derive(Serialize)]
struct ConsumerConfig {
    ack_policy: &'static str,
    deliver_policy: &'static str,
    opt_start_seq: u64,
    /// In nanoseconds.
    inactive_threshold: u64,
    mem_storage: bool,
    num_replicas: u32,
}

#[derive(Serialize)]
struct Pull {
    batch: usize,
    /// In nanoseconds; 0 does not end.
    #[serde(skip_serializing_if = "is_zero")]
    expires: u64,
    no_wait: bool,
    max_bytes: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// FNV-1a: a number for the time at which a stream was created.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
