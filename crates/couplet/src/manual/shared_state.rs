//! # State shared between connections
//!
//! A protocol keeps the state of its connection in its fields, and callbacks have `&mut self`.
//! State shared by several connections goes into an `Rc`, which the factory clones into each
//! protocol. A loop is single-threaded, so no `Mutex` is needed.
//!
//! ```
//! use std::{cell::RefCell, rc::Rc};
//! use couplet::testing::MemoryReactor;
//! use couplet::{Protocol, Reason, Transport};
//!
//! /// The transports of everyone in the room.
//! type Room = Rc<RefCell<Vec<Transport>>>;
//!
//! struct Guest(Room);
//!
//! impl Protocol for Guest {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         transport.set_write_cap(Some(1 << 20)); // a guest that never reads is cut off
//!         self.0.borrow_mut().push(transport.clone());
//!     }
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         for guest in self.0.borrow().iter().filter(|guest| guest.id() != transport.id()) {
//!             guest.write(data);
//!         }
//!     }
//!     fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
//!         self.0.borrow_mut().retain(|guest| guest.id() != transport.id());
//!     }
//! }
//!
//! let room = Room::default();
//! let mut memory = MemoryReactor::new();
//! let for_guests = room.clone();
//! memory.reactor().listen("tcp:8000", move || Guest(for_guests.clone()))?;
//!
//! let (ada, ben) = (memory.connect(8000), memory.connect(8000));
//! ada.push(b"good evening");
//! memory.settle();
//! assert_eq!(ben.take(), b"good evening");
//! assert_eq!(ada.take(), b"");
//! ben.close();
//! memory.settle();
//! assert_eq!(room.borrow().len(), 1);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Why borrows never conflict
//!
//! The loop calls your code from one place, and never from inside a call that you made: `write`,
//! `lose_connection` and other methods only record requests. So you may write to every guest while
//! the room is borrowed, even if a write ends a connection: its `connection_lost` is called later.
//!
//! Two kinds of code do run immediately, so end the borrow first: callbacks of a
//! [`Deferred`](crate::Deferred), which run inside the call that fires it, and the `Drop` of your
//! own values.
//!
//! ## Reaching the protocol, not just its transport
//!
//! A [`Connection<P>`](crate::Connection) gives access to the protocol object itself. Its method
//! `tell` records a closure that runs with the protocol's `&mut self`; `ask` also returns the
//! closure's result as a Deferred.
//!
//! ```
//! use couplet::testing::{hold, success_of};
//! use couplet::{Protocol, Transport};
//!
//! #[derive(Default)]
//! struct Meter { bytes: usize }
//! impl Protocol for Meter {
//!     fn data_received(&mut self, _: &Transport, data: &[u8]) { self.bytes += data.len(); }
//! }
//!
//! let mut held = hold(Meter::default());
//! held.push(b"hello");
//! let meter = held.connection.clone(); // in a protocol: `transport.connection::<Meter>()`
//! let bytes = meter.ask(|meter, _| meter.bytes);
//! assert!(meter.tell(|meter, _| meter.bytes = 0));
//! held.settle();
//! assert_eq!(success_of(bytes), 5);
//! assert_eq!(held.with(|meter, _| meter.bytes), Some(0));
//! ```
//!
//! ## Factory state
//!
//! State needed only to build protocols, such as a counter or a limit, lives in the factory: a
//! `move` closure, or a type that implements [`Factory`](crate::Factory) if it must also handle
//! failed connects. [`Shared`](crate::Shared) lets several ports use one factory. Connection limits
//! are ready-made: see [`protocols`](crate::protocols).
//!
//! Other threads don't share this state; they [call in](super::threads).
