//! NATS: a client of its line protocol.
//!
//! [`Parser`] is the protocol without I/O. The client keeps one connection: it tries the servers of a
//! cluster in turn, also those that a server [names](Info::connect_urls), and restores its
//! subscriptions on each new connection. Messages that are published without a connection are
//! queued within a [bound](Options::queue), and sent before later ones. A server in its
//! [lame duck mode](Info::lame_duck) is left for another one.
//!
//! Delivery is at most once: when a connection is lost, messages on their way may be lost with it,
//! and [`Event::Disconnected`](crate::Event::Disconnected) says how many were not confirmed.
//! [`Bus::flush`](crate::Bus::flush) confirms them. A [`Log`](crate::Log) keeps messages in a stream of
//! the server's JetStream: each is stored once, and readers continue after a position.

mod dialect;
mod info;
mod jetstream;
#[cfg(any(feature = "tls", feature = "ring"))]
mod nkey;
mod options;
mod parser;
mod servers;
mod session;

pub(crate) use dialect::{Nats, NatsClient};
pub use info::Info;
#[cfg(any(feature = "tls", feature = "ring"))]
pub use nkey::{Nkey, NkeyError};
pub use options::{Auth, Options};
pub use parser::{Op, ParseError, Parser};
pub use servers::ServerError;
