//! HTTP/2 for servers: RFC 9113.
//!
//! ```text
//! bytes → Machine → events → Session → Handler → the service
//!           ↑ ↓                 ↑ ↓
//!        HPACK, windows    Inbox: a request's body; ResponseBody: a response's pieces
//! ```
//!
//! The [`machine`] has no I/O, clock or lock. The [`session`] polls the futures of all requests in
//! the connection's task, and writes the frames of a turn together. A piece is taken from a response
//! only while the client's windows are open and the transport has room.

mod bell;
mod frame;
#[cfg(test)]
mod frame_order;
mod head;
mod hpack;
mod inbox;
mod machine;
mod session;
mod streams;
#[cfg(test)]
mod tests;
mod tunnel;

pub(crate) use frame::{PREFACE, Reason};
pub(super) use inbox::Receiver;
pub(super) use session::Session;
#[cfg(feature = "websocket")]
pub(crate) use tunnel::{StreamEnd, TunnelIo};
