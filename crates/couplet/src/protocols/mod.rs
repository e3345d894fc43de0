//! Protocols that are ready to use, written against the public API only (law 8).
//!
//! # Framing
//!
//! A stream has no messages: bytes arrive cut anywhere. A framer is a [`Protocol`] that finds the
//! messages again and hands them, whole, to the protocol that it wraps:
//!
//! | framer | a message is | wraps a |
//! | --- | --- | --- |
//! | [`LineReceiver`] | what stands before a delimiter; raw bytes by turns | [`LineProtocol`] |
//! | [`LineOnlyReceiver`] | what stands before a delimiter | [`LineProtocol`] |
//! | [`NetstringReceiver`] | `5:hello,` | [`StringProtocol`] |
//! | [`IntReceiver<u8 / u16 / u32, _>`](IntReceiver) | a length in network order, then so many bytes | [`StringProtocol`] |
//!
//! All keep these promises:
//!
//! - However the stream is cut, the messages are the same.
//! - A message that lies whole in what was received is lent as a slice of it: no copy. Of what is
//!   cut a copy is kept until the rest comes.
//! - A message has a limit, and a peer that exceeds it costs no more memory than the limit: a
//!   length is held against it before anything is kept. An offence ends the connection with a
//!   [`FramingError`], after the messages before it were handed on.
//! - [`pause_producing`](Transport::pause_producing) stops at once, in the middle of what was
//!   received. After [`resume_producing`](Transport::resume_producing) the rest comes, from the
//!   turn and before any new byte.
//! - After [`lose_connection`](Transport::lose_connection), [`fail`](Transport::fail) or
//!   [`abort_connection`](Transport::abort_connection) no message comes.
//!
//! [`Transport::connection`] finds the protocol inside its framer. [`encode_line`],
//! [`encode_netstring`] and [`encode_int`] frame without a transport.
//!
//! For a framing of your own there is [`Framer`], on which all of these are written.
//!
//! # Relays
//!
//! [`Relay::pair`] joins two connections: a proxy in four lines.
//!
//! # Factories
//!
//! - [`ReconnectingClientFactory`] connects again, with growing waits.
//! - A [`Policy`] limits connections: [`LimitConnections`], [`LimitConnectionsByPeer`],
//!   [`LimitRate`], [`LimitLifetime`]. [`LimitMessages`] limits what comes over one of them.

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
mod string;

pub use error::{FramingError, StringTooLong};
pub use framing::{FrameBuffer, Framer};
pub use int::{IntReceiver, Prefix, encode_int};
pub use line::{LineProtocol, LineTransport, encode_line};
pub use line_only::LineOnlyReceiver;
pub use line_receiver::LineReceiver;
pub use netstring::{NetstringReceiver, encode_netstring};
pub use policies::{
    Admitted, CountedTicket, LifetimeTicket, LimitConnections, LimitConnectionsByPeer,
    LimitLifetime, LimitRate, PeerTicket, Policed, Policy, RateTicket, Ticket,
};
pub use rate::{LimitMessages, MessageRate};
pub use reconnecting::{ReconnectingClientFactory, Reconnection};
pub use relay::Relay;
pub use string::{StringProtocol, StringTransport};

#[cfg(doc)]
use crate::{Protocol, Transport};

/// Bytes that a message may have unless set. Twisted's `MAX_LENGTH` of strings.
const STRING_LIMIT: usize = 99_999;
/// Bytes that a line may have unless set, its delimiter not counted. Twisted's `MAX_LENGTH` of
/// lines.
const LINE_LIMIT: usize = 16_384;
