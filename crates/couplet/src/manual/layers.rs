//! # Layers: write your own
//!
//! A [`Layer`](crate::layers::Layer) transforms bytes between the socket and the protocol, in both
//! directions. It does no I/O, has no callbacks and doesn't know the reactor. Layers can be
//! stacked, on ports and connects ([`Layered`](crate::factory::Layered)) and on a live connection
//! ([`start_layer`](crate::Transport::start_layer)). TLS, the PROXY protocol, a throttle and a
//! traffic log [come with Couplet](crate::layers).
//!
//! This layer requires a password before it passes any bytes. Until it [is
//! open](crate::layers::Layer::is_open), the connection has no protocol:
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use couplet::factory::Layered;
//! use couplet::layers::{Layer, Outbox, Up};
//! use couplet::testing::MemoryReactor;
//! use couplet::{Failure, Protocol, Reason, Transport};
//!
//! const PASSWORD: &[u8] = b"sesame";
//!
//! struct Gate {
//!     /// How much of the password has arrived; beyond it, the gate is open.
//!     seen: usize,
//!     open: bool,
//!     ended: bool,
//!     deadline: Option<Instant>,
//! }
//!
//! impl Layer for Gate {
//!     fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
//!         if self.deadline.is_some_and(|deadline| deadline <= now) {
//!             self.deadline = None;
//!             return Up::Failed(Reason::Failed(Failure::msg("nobody said the password")));
//!         }
//!         while !self.open {
//!             let Some((first, rest)) = below.split_first() else { break };
//!             if *first != PASSWORD[self.seen] {
//!                 return Up::Failed(Reason::Failed(Failure::msg("that is not the password")));
//!             }
//!             *below = rest;
//!             self.seen += 1;
//!             if self.seen == PASSWORD.len() {
//!                 self.open = true;
//!                 self.deadline = None;
//!                 return Up::Open(None);
//!             }
//!         }
//!         match std::mem::take(below) {
//!             [] if self.ended => Up::Closed,
//!             [] => Up::Nothing,
//!             bytes => Up::Data(bytes),
//!         }
//!     }
//!
//!     fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
//!         if self.open {
//!             below.append(above);
//!         }
//!     }
//!
//!     fn ended(&mut self) {
//!         self.ended = true;
//!     }
//!
//!     fn is_open(&self) -> bool {
//!         self.open
//!     }
//!
//!     fn deadline(&self) -> Option<Instant> {
//!         self.deadline
//!     }
//! }
//!
//! struct Cave;
//! impl Protocol for Cave {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         transport.write("come in");
//!     }
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! let mut memory = MemoryReactor::new();
//! let gated = Layered::new(|| Cave, |reactor, _| Gate {
//!     seen: 0,
//!     open: false,
//!     ended: false,
//!     deadline: Some(reactor.now() + Duration::from_secs(5)),
//! });
//! memory.reactor().listen("tcp:7777", gated).expect("a free port");
//!
//! let friend = memory.connect(7777);
//! friend.push(b"ses");
//! memory.settle();
//! assert_eq!(friend.take(), b"", "nobody is in the cave yet");
//! friend.push(b"ameecho");
//! memory.settle();
//! assert_eq!(friend.take(), b"come inecho");
//!
//! let stranger = memory.connect(7777);
//! stranger.push(b"open up");
//! memory.settle();
//! assert_eq!(memory.listening()[0].not_opened, 0, "its end is still on the way");
//! memory.advance(Duration::from_secs(2));
//! assert_eq!(memory.listening()[0].not_opened, 1);
//! ```
//!
//! Rules for layers:
//!
//! - **Lend, don't copy.** `up` may return a slice of its input, or of the layer's buffer.
//! - **Leave excess input.** If `up` leaves bytes in `below` and returns
//!   [`Up::Nothing`](crate::layers::Up::Nothing), the layer is full: the connection stops reading
//!   until a later `up` takes them.
//! - **Bound your buffers**, and report them: [`held`](crate::layers::Layer::held) returns the
//!   number of bytes inside the layer that are on their way down. They count as buffered output.
//! - **Time comes from the caller**, so a test or the simulator controls the clock.
//! - A panic in a layer ends its own connection, with [`Reason::Panicked`](crate::Reason::Panicked).
