//! # Backpressure
//!
//! [`write`](crate::Transport::write) never blocks: it buffers the bytes that the peer has not
//! taken yet. If a program keeps writing to a slow peer, the buffer grows without bound. There are
//! three solutions, for three kinds of writer.
//!
//! | a writer that | uses |
//! | --- | --- |
//! | echoes or relays its input | a producer, which pauses reading while the output buffer is full |
//! | has a lot to send, in a loop | `drained().await` |
//! | cannot wait, because it serves others too | a cap, which cuts off slow readers |
//!
//! A buffer is full above the high watermark, and drained at or below the low one. The defaults are
//! 64 KiB and 16 KiB; [`set_write_marks`](crate::Transport::set_write_marks) changes them.
//!
//! ## A producer
//!
//! A transport is a [`Producer`](crate::Producer): pausing it pauses reading. So an echo server
//! registers its transport with itself, and a relay registers each transport with the other.
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{ProducerKind, Protocol, Transport};
//!
//! struct Echo;
//! impl Protocol for Echo {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         let registered = transport.register_producer(transport.clone(), ProducerKind::Push);
//!         registered.expect("no other producer is registered");
//!     }
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//!     fn read_closed(&mut self, transport: &Transport) {
//!         transport.unregister_producer(); // it has no more to write; the close would wait for it
//!         transport.lose_connection();
//!     }
//! }
//!
//! let mut held = hold(Echo);
//! let mut pushed = 0;
//! loop {
//!     // The peer sends and reads nothing.
//!     let n = held.wire.push(&[b'x'; 4096]);
//!     held.settle();
//!     pushed += n;
//!     if n == 0 { break }
//! }
//! assert!(!held.wire.is_receiving(), "Echo has paused");
//! assert!(held.connection.transport().buffered() < 512 * 1024);
//! // Now it reads, and everything arrives.
//! let mut taken = 0;
//! while taken < pushed {
//!     let bytes = held.wire.take();
//!     assert!(!bytes.is_empty(), "{taken} of {pushed}");
//!     taken += bytes.len();
//!     held.settle();
//! }
//! assert!(held.wire.is_receiving());
//! ```
//!
//! ## Waiting for the buffer to drain
//!
//! [`drained`](crate::Transport::drained) returns a Deferred that fires once the buffer has
//! drained. It fails when the connection is lost, which ends the `for` loop here.
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{ConnectionLost, Protocol, Transport};
//!
//! struct Download;
//! impl Protocol for Download {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         let to = transport.clone();
//!         let sending = transport.reactor().spawn(async move {
//!             for _ in 0..1000 {
//!                 to.write([b'x'; 16 * 1024]);
//!                 if to.is_full() {
//!                     to.drained().await?;
//!                 }
//!             }
//!             to.lose_connection();
//!             Ok(())
//!         });
//!         // A peer that leaves early is not an error.
//!         let handled = sending.add_errback(|failure| {
//!             if failure.is::<ConnectionLost>() { Ok(()) } else { Err(failure) }
//!         });
//!         handled.detach();
//!     }
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//!
//! let mut held = hold(Download);
//! let (mut taken, mut most) = (0, 0);
//! while !held.wire.saw_fin() {
//!     most = most.max(held.connection.transport().buffered());
//!     taken += held.wire.take().len();
//!     held.settle();
//! }
//! taken += held.wire.take().len();
//! assert_eq!(taken, 1000 * 16 * 1024);
//! assert!(most <= 80 * 1024, "the high watermark plus the write that exceeded it; not {most}");
//! ```
//!
//! ## A cap
//!
//! A chat that waited for its slowest guest would wait forever. With
//! [`set_write_cap`](crate::Transport::set_write_cap) that guest loses its connection instead, with
//! [`Reason::Overflow`](crate::Reason::Overflow). A cap is also the last line of defence for the
//! other two solutions.
//!
//! ```
//! # use couplet::testing::hold;
//! # use couplet::{Protocol, Transport};
//! # struct Silent;
//! # impl Protocol for Silent { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
//! let mut held = hold(Silent);
//! held.with(|_, transport| {
//!     transport.set_write_cap(Some(1 << 20));
//!     transport.write(vec![0; (1 << 20) + 1]);
//! });
//! assert!(held.connection.is_lost());
//! ```
