//! # Your own framing
//!
//! TCP delivers a stream: one `write` of the peer may arrive in three pieces, and three in one. A
//! *framer* finds the messages in it. Lines, netstrings and strings with a length are ready made in
//! [`protocols`](crate::protocols); for any other grammar implement
//! [`Framer`](crate::protocols::Framer).
//!
//! You write one function, `step`: given some bytes, handle the first message in them and return its
//! length, or `None` if it is not complete. Everything else is done for you. A message that arrived
//! whole is lent to you without a copy; one that was cut is kept until the rest arrives; a pause or a
//! close stops the delivery between two messages; and a message longer than `limit` fails the
//! connection before more of it is kept.
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
//! // The result must not depend on where the stream is cut: try every place.
//! every_split(b"+\x02\x28\x02?\x00+\x01\x01?\x00", |pieces| {
//!     let mut held = hold(Sensor::default());
//!     for piece in pieces {
//!         held.push(piece);
//!     }
//!     assert_eq!(held.wire.take(), b"42\n43\n");
//! });
//!
//! // An offence ends this connection, and its reason says why.
//! let mut held = hold(Sensor::default());
//! held.push(b"+\x01\x07!\x00?\x00");
//! assert_eq!(held.wire.take(), b"", "nothing behind an offence is handled");
//! assert!(held.wire.saw_fin());
//! ```
//!
//! ## What to keep in mind
//!
//! - **Check a length before you use it.** `get(..length)` above can't panic, and nothing is allocated
//!   for what a peer merely announces.
//! - **Fail on an offence**, with an error that names the rule, and return `None`. Guessing where the
//!   next message begins is how request smuggling works.
//! - **Tell `needs`** when you know how long the message is going to be: otherwise `step` is called
//!   again for each piece of a long one.
//! - A peer that announces much and sends little holds its memory: set an idle timeout
//!   ([`set_idle_timeout`](crate::Transport::set_idle_timeout)).
//!
//! The example `resp` speaks a part of Redis's protocol this way, in some forty lines of grammar.
