//! # Callbacks, Deferreds and async
//!
//! A program that never blocks gets its results later. There are three ways to handle them, and
//! they mix freely.
//!
//! | style | when |
//! | --- | --- |
//! | a protocol callback | the answer is the next message, and the protocol knows what to do |
//! | a [`Deferred`](crate::Deferred) with callbacks | one result, for the caller |
//! | `async` | several sequential steps, loops, early returns |
//!
//! ## One result
//!
//! The producer keeps the [`Resolver`](crate::Resolver), the consumer gets the Deferred. Firing
//! consumes the resolver, so a second result does not compile.
//!
//! ```
//! use couplet::Deferred;
//! use couplet::testing::success_of;
//!
//! let (answer, resolver) = Deferred::<String>::new();
//! let number = answer
//!     .add_callback(|text| Ok(text.trim().parse::<i32>()?)) // may fail
//!     .map(|n| n * 2)                                       // cannot
//!     .add_errback(|failure| {
//!         assert!(failure.is::<std::num::ParseIntError>());
//!         Ok(-1)
//!     });
//! resolver.callback("twenty-one".into());
//! assert_eq!(success_of(number), -1);
//! ```
//!
//! A failure skips callbacks until an errback handles it; a value skips errbacks. A step that must
//! wait itself returns a Deferred: use [`then`](crate::Deferred::then).
//!
//! ## The same with `async`
//!
//! A Deferred is a future, and [`spawn`](crate::Reactor::spawn) turns a future into a Deferred. `?`
//! propagates failures. Tasks run on the loop's thread, so they may hold an `Rc`.
//!
//! ```
//! use couplet::{Deferred, Reactor, defer};
//! use std::time::Duration;
//!
//! /// Stands in for a network request.
//! fn price(reactor: &Reactor, item: u64) -> Deferred<u64> {
//!     reactor.defer_later(Duration::from_secs(item), move || Ok(item * 100))
//! }
//!
//! let total = couplet::testing::run(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         let began = reactor.now();
//!         let first = price(&reactor, 1).await?;
//!         // The others concurrently: three seconds, not five.
//!         let both = defer::gather([price(&reactor, 2), price(&reactor, 3)]).await?;
//!         assert_eq!(reactor.now() - began, Duration::from_secs(1 + 3));
//!         Ok(first + both.iter().sum::<u64>())
//!     })
//! })?;
//! assert_eq!(total, 600);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## From a protocol
//!
//! A callback returns nothing, so a protocol starts the operation and attaches a callback for the
//! result. It gets back to its own `&mut self` through its [`Connection`](crate::Connection), which
//! drops the call if the connection has been lost in the meantime:
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{Deferred, Protocol, Transport};
//! use std::time::Duration;
//!
//! struct Shop { sold: u32 }
//! impl Protocol for Shop {
//!     fn data_received(&mut self, transport: &Transport, _order: &[u8]) {
//!         let shop = transport.connection::<Shop>();
//!         let price: Deferred<u64> =
//!             transport.reactor().defer_later(Duration::from_secs(1), || Ok(100));
//!         price
//!             .map(move |price| {
//!                 shop.tell(move |shop, transport| {
//!                     shop.sold += 1;
//!                     transport.write(format!("{price} for number {}", shop.sold));
//!                 });
//!             })
//!             .detach();
//!     }
//! }
//!
//! let mut held = hold(Shop { sold: 0 });
//! held.push(b"a poem, please");
//! assert_eq!(held.wire.take(), b"");
//! held.advance(Duration::from_secs(1));
//! assert_eq!(held.wire.take(), b"100 for number 1");
//! ```
//!
//! ## What to remember
//!
//! - `detach()` says that nothing waits for the result. A failure left at such an end is reported
//!   with the place where it arose; handle it, or let it be reported.
//! - Cancelling reaches through a chain to the work itself. Dropping a future that awaits a
//!   Deferred cancels it; so does [`timeout`](crate::Reactor::timeout).
//! - Callbacks run where the Deferred is fired. Hold no `RefCell` borrow while you fire one.
//! - [`defer`](crate::defer) has `list`, `race`, locks, semaphores and queues, and a table for
//!   Twisted users.
