//! # Callbacks, Deferreds and async
//!
//! A program that never blocks gets its results later. There are three ways to handle them, and
//! they mix freely. [`callbacks_to_async`](super::callbacks_to_async) takes one client through all
//! of them, step by step; this chapter is a reference.
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
//! A failure skips callbacks until an errback handles it; a value skips errbacks. For a step whose
//! result is another Deferred, use [`then`](crate::Deferred::then).
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
//! result. It reaches its own `&mut self` through its [`Connection`](crate::Connection), which
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
//! ## The first of several
//!
//! [`race`](crate::defer::race) waits for the first success, [`first_of`](crate::defer::first_of)
//! for the first result; both cancel the rest. A [`DeferredEvent`](crate::defer::DeferredEvent)
//! has any number of waiters:
//!
//! ```
//! use couplet::defer::{DeferredEvent, first_of};
//! use couplet::{Deferred, Failure};
//! use couplet::testing::success_of;
//!
//! let stopped = DeferredEvent::new();
//! let (line, _resolver) = Deferred::<&str>::new();
//! let stop = stopped.wait().add_callback(|()| Err(Failure::msg("stopped")));
//! let first = first_of([line, stop]);
//! stopped.set();
//! let (index, result) = success_of(first);
//! assert_eq!((index, result.unwrap_err().to_string()), (1, "stopped".to_owned()));
//! ```
//!
//! ## Long work
//!
//! A callback that computes for a second holds up every connection for a second. Move such work to
//! [a thread](crate::Reactor::defer_to_thread), or write it as an iterator of small steps, which a
//! [`Cooperator`](crate::task::Cooperator) runs between the loop's other work. A step may return a
//! Deferred; the next step then waits for it:
//!
//! ```
//! use couplet::task::Cooperator;
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! let sent = Rc::new(Cell::new(0));
//! let count = sent.clone();
//! couplet::testing::run(|reactor| {
//!     let pausing = reactor.clone();
//!     let letters = (0..100).map(move |_| {
//!         count.set(count.get() + 1);
//!         pausing.sleep(Duration::from_secs(1)) // one a second
//!     });
//!     Cooperator::new(reactor).coiterate(letters)
//! })?;
//! assert_eq!(sent.get(), 100);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! A [`FilesystemLock`](crate::task::FilesystemLock) keeps several processes from doing the same
//! work at the same time.
//!
//! ## Debugging a chain
//!
//! The report of an unhandled failure has two source locations: the origin of the failure, and the
//! chain that lacks an errback. If that isn't enough, call
//! [`keep_histories`](crate::defer::keep_histories) at the start of the program or the test. From
//! then on each report shows the whole chain, and [`history`](crate::Deferred::history) shows why a
//! chain hangs:
//!
//! ```
//! use couplet::Deferred;
//! use couplet::defer::keep_histories;
//!
//! # fn answer() -> Deferred<String> { let (d, r) = Deferred::new(); std::mem::forget(r); d }
//! fn parse(text: String) -> couplet::Result<u16> {
//!     Ok(text.trim().parse()?)
//! }
//!
//! keep_histories(64);
//! let port = Deferred::succeed(()).then(|()| answer()).add_callback(parse);
//! println!("{}", port.history().expect("histories are kept"));
//! // a Deferred created at src/main.rs:9:12: got a value
//! // 1. then(main::{{closure}}) at src/main.rs:9:34: waits for a Deferred created at src/names.rs:2:33: has not fired
//! // 2. add_callback(main::parse) at src/main.rs:9:56: is next
//! # let text = port.history().unwrap().to_string();
//! # assert!(text.contains("waits for a Deferred created at"), "{text}");
//! # assert!(text.contains("::parse) at ") && text.ends_with(": is next"), "{text}");
//! # keep_histories(0);
//! ```
//!
//! ## Points to remember
//!
//! - `detach()` declares that no code waits for the result. A failure that reaches the end of a
//!   detached chain is reported with its origin; handle it, or let it be reported.
//! - A cancel reaches through a chain to the work itself, and so does dropping a future that awaits
//!   a Deferred; see [`cancellation`](super::cancellation).
//! - Callbacks run inside the call that fires the Deferred. Hold no `RefCell` borrow while you fire
//!   one.
//! - [`defer`](crate::defer) has `list`, `race`, locks, semaphores, events and queues, and a table for
//!   Twisted users.
