//! [`Engine`]: a stream of messages in memory or on servers, as a [`Log`](super::Log) uses it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet_core::Deferred;

use super::Position;

/// One stream, without retries: an operation waits for a connection, and fails when the
/// connection is lost or the answer takes too long. The log tries again, and checks the
/// [state](Self::state) before it reads again.
pub(crate) trait Engine {
    /// The state of the stream, which is created unless it exists.
    fn state(&self) -> Deferred<LogState>;

    /// Stores a message, unless the stream has one with this id; fires with its position.
    fn append(&self, id: &AppendId, payload: &Bytes) -> Deferred<Position>;

    /// The next messages with this number or a higher one, in order, at most `most`. Without any,
    /// waits for one as long as `wait`, and fires without messages then.
    fn read(&self, from: u64, most: usize, wait: Duration) -> Deferred<Batch>;
}

/// The id of an append, for an engine to recognize it if it comes again. A writer sends its appends
/// one after another: the number of a new one is higher than all before.
#[derive(Clone, Debug)]
pub(crate) struct AppendId {
    /// A name that no other writer has.
    pub(crate) writer: Rc<str>,
    pub(crate) number: u64,
}

/// The messages that a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    /// Another number for each stream that was ever created under the name.
    pub(crate) epoch: u32,
    /// The oldest message; without messages, the number of the next one.
    pub(crate) first: u64,
    /// The newest message, or the last one that was removed.
    pub(crate) last: u64,
}

impl LogState {
    /// The number of the next message. The last one may be the highest of all, if a server says so.
    pub(crate) fn next(&self) -> u64 {
        self.last.saturating_add(1)
    }
}

/// A part of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// The epoch of the stream that was read.
    pub(crate) epoch: u32,
    pub(crate) messages: Vec<Stored>,
}

/// A message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) number: u64,
    /// When it was stored, since 1970.
    pub(crate) time: Duration,
    pub(crate) payload: Bytes,
}
