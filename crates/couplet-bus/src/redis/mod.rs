//! Redis: a client of its pub/sub and its commands, over one connection with RESP3.
//!
//! Messages are published to the channel with the name of their subject, which other programs may
//! use as well: their messages are plain payloads, and so are ours without headers and without a
//! subject for replies. Messages with headers, requests, and all messages of a bus without
//! [echo](Options::echo) have an envelope, a few lines of text before the payload:
//!
//! ```text
//! COUPLET/1 <sender or -> <subject for replies or ->
//! <name>: <value>            for each header; the lines end with CR LF
//!                            an empty line, then the payload
//! ```
//!
//! Delivery is at most once, as with [NATS](crate::nats). Redis has no groups: a
//! [pattern with one](crate::Pattern::group) is an [error](crate::SubjectError::NoGroups).
//! A request fails with [`NoResponders`](crate::RequestError::NoResponders) if its server knows of
//! no subscription to it; in a Redis Cluster another server may.
//!
//! The client keeps to the master: a replica is a failed attempt, and a server that is demoted is left
//! for the next attempt, which looks the name up again.
//!
//! [`Redis`] runs commands over the connection of a bus. [`Parser`] is the protocol without I/O.

mod commands;
mod envelope;
mod options;
mod parser;
mod pubsub;
mod session;
mod stream;

pub use commands::{CommandError, Redis};
pub use options::{AddressError, Options};
pub use parser::{ParseError, Parser, Reply};
pub(crate) use pubsub::{PubSub, RedisClient};
