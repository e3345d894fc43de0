//! # Your own framing
//!
//! TCP delivers a stream: one `write` by the peer may arrive in three pieces, and three in one. A
//! *framer* finds the messages in it. [`protocols`](crate::protocols) has framers for lines,
//! netstrings and length-prefixed strings; for any other grammar, implement
//! [`Framer`](crate::protocols::Framer).
//!
//! You write one function, `step`: given some bytes, handle the first message in them and return
//! its length, or `None` if it is not complete. The `Framer` does the rest. It lends a message that
//! arrives in one piece without a copy, and buffers a partial one until it is complete. A pause or
//! a close stops delivery between two messages, and a message longer than `limit` fails the
//! connection before any more of it is buffered.
//!
//! Here a message is a type byte, a length byte, and that many bytes:
//!
//! ```
//! use couplet::protocols::{FrameBuffer, Framer};
//! use couplet::testing::{every_split, hold};
//! use couplet::{Failure, Protocol, Transport};
//!
//! #[derive(Default)]
//! struct Sensor {
//!     buffer: FrameBuffer,
//!     sum: u32,
//! }
//!
//! impl Sensor {
//!     fn message(&mut self, transport: &Transport, kind: u8, body: &[u8]) {
//!         match kind {
//!             b'+' => self.sum += body.iter().map(|byte| u32::from(*byte)).sum::<u32>(),
//!             b'?' => transport.write(format!("{}\n", self.sum)),
//!             other => transport.fail(Failure::msg(format!("no message of type {other}"))),
//!         }
//!     }
//! }
//!
//! impl Framer for Sensor {
//!     type Transport = Transport;
//!
//!     fn step(&mut self, transport: &Transport, bytes: &[u8]) -> Option<usize> {
//!         let [kind, length, rest @ ..] = bytes else { return None };
//!         let body = rest.get(..usize::from(*length))?;
//!         self.message(transport, *kind, body);
//!         Some(2 + body.len())
//!     }
//!     fn buffer(&mut self) -> &mut FrameBuffer {
//!         &mut self.buffer
//!     }
//!     fn limit(&self) -> usize {
//!         2 + 255
//!     }
//! }
//!
//! impl Protocol for Sensor {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         self.frame(transport, data);
//!     }
//!     fn reading_resumed(&mut self, transport: &Transport) {
//!         self.frame_held(transport);
//!     }
//! }
//!
//! // The result must not depend on where the stream is split: try every position.
//! every_split(b"+\x02\x28\x02?\x00+\x01\x01?\x00", |pieces| {
//!     let mut held = hold(Sensor::default());
//!     for piece in pieces {
//!         held.push(piece);
//!     }
//!     assert_eq!(held.wire.take(), b"42\n43\n");
//! });
//!
//! // A violation ends this connection, and its reason says why.
//! let mut held = hold(Sensor::default());
//! held.push(b"+\x01\x07!\x00?\x00");
//! assert_eq!(held.wire.take(), b"", "nothing after a violation is handled");
//! assert!(held.wire.saw_fin());
//! ```
//!
//! ## Switching to another protocol
//!
//! A line-based dialogue may end in a switch: STARTTLS, an HTTP `Upgrade`, a CONNECT.
//! [`upgrade`](crate::Transport::upgrade) replaces the protocol of a connection. The old protocol
//! gets no further message, and the new one gets the bytes that the framer had buffered, however
//! the stream was split:
//!
//! ```
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::testing::{every_split, hold};
//! use couplet::{Protocol, Transport};
//!
//! struct Commands;
//! impl LineProtocol for Commands {
//!     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
//!         match line {
//!             b"SHOUT" => transport.upgrade(Shout),
//!             _ => transport.send_line("what?"),
//!         }
//!     }
//! }
//!
//! struct Shout;
//! impl Protocol for Shout {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data.to_ascii_uppercase());
//!     }
//! }
//!
//! every_split(b"hello\r\nSHOUT\r\nhello\r\n", |pieces| {
//!     let mut held = hold(LineReceiver::new(Commands));
//!     for piece in pieces {
//!         held.push(piece);
//!     }
//!     assert_eq!(held.wire.take(), b"what?\r\nHELLO\r\n");
//! });
//! ```
//!
//! Your own [`Framer`](crate::protocols::Framer) passes on its buffered bytes in
//! [`upgraded`](crate::Protocol::upgraded), by
//! [`give_back`](crate::protocols::FrameBuffer::give_back).
//!
//! ## Points to remember
//!
//! - **Check a length before you use it.** `get(..length)` above can't panic, and nothing is
//!   allocated for data that a peer has only announced.
//! - **Fail on a violation**, with an error that names the rule, and return `None`. Guessing where
//!   the next message begins is how request smuggling works.
//! - **Implement `needs`** if you know how long the message will be: otherwise `step` is called
//!   again for each piece of a long message.
//! - **Set an idle timeout** ([`set_idle_timeout`](crate::Transport::set_idle_timeout)): a peer
//!   that announces much and sends little ties up memory.
//!
//! The example `resp` implements part of Redis's protocol this way, in some forty lines of grammar.
