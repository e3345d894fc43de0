//! Ready-made protocols, written against the public API only (law 8).
//!
//! # Framing
//!
//! A stream has no message boundaries: bytes arrive split at arbitrary points. A framer is a
//! [`Protocol`] that reassembles the messages and delivers them to the protocol it wraps:
//!
//! | framer | a message is | wraps a |
//! | --- | --- | --- |
//! | [`LineReceiver`] | the bytes before a delimiter; raw bytes in raw mode | [`LineProtocol`] |
//! | [`LineOnlyReceiver`] | the bytes before a delimiter | [`LineProtocol`] |
//! | [`NetstringReceiver`] | `5:hello,` | [`StringProtocol`] |
//! | [`IntReceiver<u8 / u16 / u32, _>`](IntReceiver) | a length in network byte order, then that many bytes | [`StringProtocol`] |
//!
//! All of them guarantee:
//!
//! - The messages are the same however the stream is split.
//! - A message that arrives in one piece is passed as a slice of the received bytes, without a
//!   copy. A partial message is copied and held until the rest arrives.
//! - Messages have a length limit, and a peer that exceeds it costs at most that much memory:
//!   an announced length is checked before anything is buffered. A violation ends the connection
//!   with a [`FramingError`], after the messages before it have been delivered.
//! - [`pause_producing`](Transport::pause_producing) takes effect immediately, even in the middle
//!   of a received chunk. After [`resume_producing`](Transport::resume_producing) the turn delivers
//!   the rest before any new bytes.
//! - After [`lose_connection`](Transport::lose_connection), [`fail`](Transport::fail) or
//!   [`abort_connection`](Transport::abort_connection) no more messages are delivered.
//!
//! [`Transport::connection`] finds the protocol inside its framer. [`encode_line`],
//! [`encode_netstring`] and [`encode_int`] frame without a transport; [`decode_line`],
//! [`decode_netstring`] and [`decode_int`] find one message in bytes.
//!
//! To write your own framing, implement [`Framer`]; all of these are built on it.
//!
//! # Relays
//!
//! [`Relay::pair`] joins two connections: a proxy in four lines.
//!
//! # Files
//!
//! [`send_file`] sends a file as fast as its receiver accepts it.
//!
//! # Factories
//!
//! - [`ReconnectingClientFactory`] reconnects with exponential backoff.
//! - A [`Policy`] limits connections: [`LimitConnections`], [`LimitConnectionsByPeer`],
//!   [`LimitConnectionRate`], [`LimitLifetime`]. [`LimitMessages`] limits the messages of one
//!   connection.
//!
//! Contract: 163, 167, 168.

mod delimiter;
mod error;
#[macro_use]
mod framing;
mod int;
mod line;
mod line_only;
mod line_receiver;
mod netstring;
mod policies;
mod rate;
mod reconnecting;
mod relay;
mod send_file;
mod string;

pub use error::{FramingError, StringTooLong};
pub use framing::{FrameBuffer, Framer};
pub use int::{IntReceiver, Prefix, decode_int, encode_int};
pub use line::{LineProtocol, LineTransport, decode_line, encode_line};
pub use line_only::LineOnlyReceiver;
pub use line_receiver::LineReceiver;
pub use netstring::{NetstringReceiver, decode_netstring, encode_netstring};
pub use policies::{
    Admission, Admitted, CountedAdmission, LifetimeAdmission, LimitConnectionRate,
    LimitConnections, LimitConnectionsByPeer, LimitLifetime, PeerAdmission, Policed, Policy,
    RateAdmission,
};
pub use rate::{LimitMessages, MessageRate};
pub use reconnecting::{ReconnectingClientFactory, Reconnection};
pub use relay::Relay;
pub use send_file::{FileCut, FileSent, send_file};
pub use string::{StringProtocol, StringTransport};

#[cfg(doc)]
use crate::{Protocol, Transport};

/// A message without its framing, and the bytes after it.
pub type Decoded<'a> = (&'a [u8], &'a [u8]);

/// The default maximum string length in bytes. Twisted's `MAX_LENGTH` of strings.
const STRING_LIMIT: usize = 99_999;
/// The default maximum line length in bytes, without the delimiter. Twisted's `MAX_LENGTH` of
/// lines.
const LINE_LIMIT: usize = 16_384;
