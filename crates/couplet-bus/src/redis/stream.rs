//! A log as a stream of Redis. Each operation is a script, which the server runs without interruption.
//!
//! The id of an entry is `<epoch>-<number>`. An entry has the time of its append in microseconds,
//! and the payload. A hash holds the limits of the stream, and a key for each writer its newest
//! append. Appends are announced on a channel: a command that blocks would delay the bus.
//!
//! Contract: 218, 219.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet_core::defer::{DeferredEvent, TimedOut, first_of};
use couplet_core::{Deferred, Failure, Result, hooks};

use bytes::Bytes;

use super::commands::{CommandError, Redis};
use super::parser::Reply;
use crate::bus::{Bus, Subscription};
use crate::error::{NotConfirmed, PublishError};
use crate::log::{AppendId, Batch, Engine, LogLimits, LogState, Position, Stored};
use crate::subject::SubjectError;

/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Shortest time for which a stream recognizes a repeated message, however impatient the log.
const RECOGNIZED: Duration = Duration::from_secs(120);
/// Longest one.
const RECOGNIZED_MOST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most bytes of a read, in messages of the maximum payload; the parser accepts four.
const LARGEST: usize = 2;
/// Most messages of a read: each takes three of the values that the parser accepts in a reply.
const MOST: usize = 10_000;

/// Opens the stream, which is created if it does not exist, and removes at most 100 old messages.
/// Arguments: the epoch of a new stream, the maximum number of messages and their age in
/// microseconds.
const OPEN: &str = "
local stream, limits = KEYS[1], KEYS[2]
if redis.call('EXISTS', stream) == 0 then
  redis.call('XADD', stream, ARGV[1] .. '-0', 'new', '')
  redis.call('XDEL', stream, ARGV[1] .. '-0')
  redis.call('HSET', limits, 'messages', ARGV[2], 'age', ARGV[3])
end
local kept = redis.call('HMGET', limits, 'messages', 'age')
local most, age = kept[1] or ARGV[2], tonumber(kept[2] or ARGV[3])
local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])
local first
for count = 0, 100 do
  first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local stored = first and tonumber(first[2][2])
  if count == 100 or not stored or stored > now - age then break end
  redis.call('XDEL', stream, first[1])
end
local info, last = redis.call('XINFO', 'STREAM', stream)
for place = 1, #info, 2 do
  if info[place] == 'last-generated-id' then last = info[place + 1] end
end
local epoch, number = string.match(last, '(%d+)-(%d+)')
";

/// Returns the ids of the first entry, or nothing, and of the last.
const STATE: &str = "return {first and first[1] or '', last}";

/// Appends a message, unless the writer has appended this number. Arguments: the number, the
/// payload, the time in milliseconds to recognize it, and the channel to announce it.
const APPEND: &str = "
local known = redis.call('GET', KEYS[3])
if known then
  local n, id = string.match(known, '(%d+) (.*)')
  local same = string.match(id, '%d+') == epoch
  if same and tonumber(n) >= tonumber(ARGV[4]) then return id end
end
local id = epoch .. '-' .. string.format('%.0f', number + 1)
redis.call('XADD', stream, id, 'time', now, 'payload', ARGV[5])
redis.call('XTRIM', stream, 'MAXLEN', most)
redis.call('SET', KEYS[3], ARGV[4] .. ' ' .. id, 'PX', ARGV[6])
redis.call('PUBLISH', ARGV[7], '')
return id
";

/// Returns the epoch, and the ids, times and payloads of the next messages. Arguments: the first
/// number, the maximum numbers of messages and of their bytes.
const READ: &str = "
local found, from, left, bytes = {epoch}, ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
while left > 0 do
  local count = math.min(left, 16)
  local entries = redis.call('XRANGE', stream, epoch .. '-' .. from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    bytes = bytes - #entry[2][4]
    if bytes < 0 and #found > 1 then return found end
    found[#found + 1], found[#found + 2], found[#found + 3] = entry[1], entry[2][2], entry[2][4]
    from = string.format('%.0f', string.match(entry[1], '-(%d+)') + 1)
  end
  left = left - #entries
  if #entries < count then break end
end
return found
";

#[derive(Clone)]
pub(super) struct StreamEngine(Rc<Stream>);

struct Stream {
    bus: Bus,
    /// The key of the stream, which is the beginning of the others.
    key: String,
    /// The channel of the announcements.
    bell: String,
    limits: LogLimits,
    max_payload: usize,
    /// The subscription to the announcements, made by the first wait, and again after the bus was
    /// closed and restarted.
    ringing: RefCell<Option<Subscription>>,
    rung: Rc<DeferredEvent>,
}

impl StreamEngine {
    pub(super) fn new(bus: &Bus, name: &str, limits: &LogLimits, most: usize) -> StreamEngine {
        StreamEngine(Rc::new(Stream {
            bus: bus.clone(),
            // The braces keep the keys on one server of a cluster.
            key: format!("couplet:log:{{{name}}}"),
            bell: format!("_LOG.{name}"),
            limits: *limits,
            max_payload: most,
            ringing: RefCell::new(None),
            rung: Rc::default(),
        }))
    }

    fn run<T: 'static>(&self, operation: impl Future<Output = Result<T>> + 'static) -> Deferred<T> {
        self.0.bus.reactor().spawn(operation)
    }
}

impl Engine for StreamEngine {
    fn state(&self) -> Deferred<LogState> {
        let stream = self.0.clone();
        self.run(async move { stream.state().await })
    }

    fn append(&self, id: &AppendId, payload: &Bytes) -> Deferred<Position> {
        let (size, most) = (payload.len(), self.0.max_payload);
        if size > most {
            return Deferred::fail(PublishError::TooLarge { size, most });
        }
        let (stream, id, payload) = (self.0.clone(), id.clone(), payload.clone());
        self.run(async move { stream.store(&id, &payload).await })
    }

    fn read(&self, from: u64, most: usize, wait: Duration) -> Deferred<Batch> {
        let stream = self.0.clone();
        self.run(async move { stream.read(from, most, wait).await })
    }
}

impl Stream {
    /// Runs a script on the opened stream, once there is a connection.
    async fn script(&self, script: &str, more_keys: &[&str], more: &[&[u8]]) -> Result<Reply> {
        self.bus.connected().await?;
        let (script, limits) = ([OPEN, script].concat(), format!("{}:limits", self.key));
        let count = (more_keys.len() + 2).to_string();
        // 0 is no epoch.
        let epoch = ((hooks::random(self.bus.reactor()) >> 32) as u32).max(1).to_string();
        let LogLimits { messages, age, .. } = self.limits;
        let messages = messages.min(i64::MAX.unsigned_abs()).to_string();
        let age = age.as_micros().to_string();
        let mut parts = vec![&b"EVAL"[..], script.as_bytes(), count.as_bytes()];
        parts.extend([self.key.as_bytes(), limits.as_bytes()]);
        parts.extend(more_keys.iter().map(|key| key.as_bytes()));
        parts.extend([&epoch, &messages, &age].map(|text| text.as_bytes()));
        parts.extend(more);
        let answer = Redis::new(&self.bus).command(&parts);
        answer.add_timeout(self.bus.reactor(), ANSWER).abort_on_drop().await
    }

    async fn state(&self) -> Result<LogState> {
        let reply = self.script(STATE, &[], &[]).await?;
        let Some([first, last]) = reply.as_list() else { return Err(bad().into()) };
        let last = position(last)?;
        let first = match first.as_bytes() {
            Some(none) if none.is_empty() => last.number.saturating_add(1),
            _ => position(first)?.number,
        };
        Ok(LogState { epoch: last.epoch, first, last: last.number })
    }

    async fn store(&self, id: &AppendId, payload: &Bytes) -> Result<Position> {
        let writer = format!("{}:{}", self.key, id.writer);
        let number = id.number.to_string();
        let known = self.limits.patience.saturating_mul(2).clamp(RECOGNIZED, RECOGNIZED_MOST);
        let known = known.as_millis().to_string();
        let arguments = [number.as_bytes(), payload, known.as_bytes(), self.bell.as_bytes()];
        position(&self.script(APPEND, &[&writer], &arguments).await?)
    }

    async fn read(&self, from: u64, most: usize, wait: Duration) -> Result<Batch> {
        if wait.is_zero() {
            return self.read_now(from, most).await;
        }
        self.listen()?;
        // The wait begins before the read, whose answer may be older than an announcement.
        let lost = self.bus.core.lost().add_callback(|()| Err(NotConfirmed.into()));
        let changed = first_of([self.rung.wait(), lost]);
        let changed = changed.add_timeout(self.bus.reactor(), wait).abort_on_drop();
        let batch = self.read_now(from, most).await?;
        if !batch.messages.is_empty() {
            return Ok(batch);
        }
        match changed.await {
            // The server may have lost messages: the log looks at its state.
            Ok((_, Err(failure))) => Err(failure),
            Err(failure) if !failure.is::<TimedOut>() => Err(failure),
            _ => self.read_now(from, most).await,
        }
    }

    /// Subscribes to the announcements.
    fn listen(&self) -> Result<(), SubjectError> {
        let mut ringing = self.ringing.borrow_mut();
        if !ringing.as_ref().is_some_and(Subscription::is_live) {
            let rung = self.rung.clone();
            let listening = self.bus.subscribe(&*self.bell, move |_| {
                rung.set();
                rung.clear();
            })?;
            *ringing = Some(listening);
        }
        Ok(())
    }

    async fn read_now(&self, from: u64, most: usize) -> Result<Batch> {
        let bytes = self.max_payload.saturating_mul(LARGEST);
        let arguments = [from.to_string(), most.min(MOST).to_string(), bytes.to_string()];
        let arguments = arguments.each_ref().map(|text| text.as_bytes());
        let reply = self.script(READ, &[], &arguments).await?;
        let (epoch, entries) = reply.as_list().and_then(<[Reply]>::split_first).ok_or(bad())?;
        let epoch = text(epoch)?.parse().map_err(|_| bad())?;
        let message = |entry: &[Reply]| {
            let [id, time, payload] = entry else { return Err(Failure::from(bad())) };
            let Position { number, .. } = position(id)?;
            let time = text(time)?.parse().map(Duration::from_micros).map_err(|_| bad())?;
            match payload {
                Reply::Bytes(payload) => Ok(Stored { number, time, payload: payload.clone() }),
                _ => Err(CommandError::Server(format!("message {number} is too large")).into()),
            }
        };
        let messages = entries.chunks(3).map(message).collect::<Result<Vec<_>>>()?;
        Ok(Batch { epoch, messages })
    }
}

/// The reply is not one of the scripts: another program uses the key.
fn bad() -> CommandError {
    CommandError::BadReply
}

fn text(reply: &Reply) -> Result<&str, CommandError> {
    reply.as_bytes().and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or(bad())
}

/// The position that is the id of an entry.
fn position(id: &Reply) -> Result<Position> {
    let (epoch, number) = text(id)?.split_once('-').ok_or(bad())?;
    let (epoch, number) = (epoch.parse().map_err(|_| bad())?, number.parse().map_err(|_| bad())?);
    Ok(Position { epoch, number })
}
