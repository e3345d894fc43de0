//! The errors of a bus.

use crate::subject::SubjectError;

/// A message was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The subject, or the subject for replies, is invalid.
    #[error("cannot publish a message: {0}")]
    Subject(#[from] SubjectError),
    /// A header has an empty name, or a character that would end its line.
    #[error("cannot publish a message: the header {0:?} is invalid")]
    Header(String),
    /// The message asks for a reply, but has no subject for it.
    #[error("cannot reply: the message asks for no reply")]
    NoReplyWanted,
    /// Headers and payload are larger than the bus or its server allows.
    #[error("cannot publish a message of {size} bytes: at most {most} are allowed")]
    TooLarge {
        /// The bytes of its headers and payload.
        size: usize,
        /// The limit.
        most: usize,
    },
    /// The queue of unsent messages is full. The message is [counted](crate::Counts::lost).
    #[error("cannot publish a message: the queue to the bus is full")]
    Full,
    /// The bus was closed.
    #[error("cannot publish a message: the bus is closed")]
    Closed,
}

/// A request failed. If no reply comes in time, it fails with
/// [`TimedOut`](couplet_core::defer::TimedOut) instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nothing is subscribed to the subject.
    #[error("cannot get a reply: nothing is subscribed to the subject")]
    NoResponders,
    /// The bus was closed.
    #[error("cannot get a reply: the bus was closed")]
    Closed,
}

/// The connection was lost before a flush was confirmed, or the bus was closed: messages may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot confirm the messages: the connection to the bus was lost")]
pub struct NotConfirmed;
