//! Events of a bus, and its counters.

use std::time::Duration;

/// A change that an observer learns of: see [`Bus::on_event`](crate::Bus::on_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Connected; the subscriptions are restored, and the queued messages are being sent. The
    /// subscriptions have missed the messages since [`Disconnected`](Self::Disconnected).
    Connected {
        /// The server's address.
        server: String,
    },
    /// The connection was lost: now, or, if the link failed in silence, up to three
    /// [intervals of PINGs](crate::nats::Options::ping_interval) ago.
    Disconnected {
        /// The server's address.
        server: String,
        /// The reason.
        why: String,
        /// The messages that the server has not confirmed. Some of them may be lost.
        unconfirmed: u64,
    },
    /// An attempt to connect failed.
    AttemptFailed {
        /// The server's address.
        server: String,
        /// The reason.
        why: String,
        /// The time until the next attempt.
        next: Duration,
    },
    /// Messages were lost because a queue was full: of this bus to its server, or, in memory, to
    /// this loop.
    Lost {
        /// Their number since the last such event.
        messages: u64,
    },
    /// A subscription has missed [numbered](crate::Message::numbered) messages, while the connection
    /// was lost or for another reason: the message that follows has a later number.
    Missed {
        /// Their subject.
        subject: String,
        /// Their number.
        messages: u64,
    },
    /// A subscriber is too slow: its [queue](crate::Messages) is full, and drops messages until it
    /// has room again.
    Slow {
        /// The pattern of the subscription.
        pattern: String,
    },
    /// The server reported an error that does not end the connection, such as a missing permission.
    /// At most ten in ten seconds are reported; all are [counted](Counts::errors).
    ServerError {
        /// The server's words.
        text: String,
    },
    /// A message arrived that is larger than the limit, and was dropped.
    Oversized {
        /// The pattern of the subscription.
        pattern: String,
        /// The bytes of its headers and payload.
        size: u64,
    },
}

/// The counters of a bus since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages that were accepted by `publish`.
    pub published: u64,
    /// Messages that were delivered to subscriptions.
    pub delivered: u64,
    /// Messages that were lost because a queue was full, or the bus was closed with them queued.
    pub lost: u64,
    /// [Numbered](crate::Message::numbered) messages that subscriptions have missed.
    pub missed: u64,
    /// Messages that were dropped by the queues of slow subscribers.
    pub dropped: u64,
    /// Messages that were dropped because they were larger than the limit.
    pub oversized: u64,
    /// Connections that were made.
    pub connects: u64,
    /// Messages that were not confirmed when a connection was lost.
    pub unconfirmed: u64,
    /// Errors that the server reported.
    pub errors: u64,
}
