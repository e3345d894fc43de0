//! # Time
//!
//! All time comes from the reactor, so an hour passes instantly in a test. Use
//! [`reactor.now()`](crate::Reactor::now), not `Instant::now()`, and never `thread::sleep`: it
//! would stall every connection of the loop.
//!
//! | to | use |
//! | --- | --- |
//! | call a function after a delay | [`Reactor::call_later`](crate::Reactor::call_later) |
//! | the same on a protocol, until its connection is lost | [`Connection::call_later`](crate::Connection::call_later) |
//! | wait in a task | [`Reactor::sleep`](crate::Reactor::sleep) |
//! | limit the time of anything awaited | [`Reactor::timeout`](crate::Reactor::timeout), [`Deferred::add_timeout`](crate::Deferred::add_timeout) |
//! | drop silent peers | [`Transport::set_idle_timeout`](crate::Transport::set_idle_timeout) |
//! | repeat something | [`LoopingCall`](crate::LoopingCall) |
//!
//! ## Timed calls
//!
//! A [`DelayedCall`](crate::DelayedCall) can be rescheduled and cancelled. Dropping it doesn't
//! cancel the call.
//!
//! ```
//! use couplet::testing::Clock;
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! let mut clock = Clock::new();
//! let rang = Rc::new(Cell::new(false));
//! let ring = rang.clone();
//! let alarm = clock.reactor().call_later(Duration::from_secs(60), move || ring.set(true));
//!
//! clock.advance(Duration::from_secs(59));
//! assert!(alarm.reset(Duration::from_secs(60))); // from now
//! clock.advance(Duration::from_secs(59));
//! assert!(!rang.get());
//! clock.advance(Duration::from_secs(1));
//! assert!(rang.get());
//! assert!(!alarm.cancel(), "too late");
//! ```
//!
//! ## A protocol with a deadline
//!
//! This protocol requires a login within ten seconds, and then some data every minute. Both timers
//! end with the connection, so `connection_lost` has nothing to clean up.
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{DelayedCall, Failure, Protocol, Transport};
//! use std::time::Duration;
//!
//! #[derive(Default)]
//! struct Session { deadline: Option<DelayedCall> }
//! impl Protocol for Session {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         let session = transport.connection::<Session>();
//!         self.deadline = Some(session.call_later(Duration::from_secs(10), |_, transport| {
//!             transport.fail(Failure::msg("no login within ten seconds"));
//!         }));
//!     }
//!     fn data_received(&mut self, transport: &Transport, _: &[u8]) {
//!         if let Some(deadline) = self.deadline.take() {
//!             deadline.cancel();
//!             transport.set_idle_timeout(Some(Duration::from_secs(60)));
//!         }
//!     }
//! }
//!
//! let mut silent = hold(Session::default());
//! silent.advance(Duration::from_secs(10));
//! assert!(silent.wire.saw_fin());
//!
//! let mut held = hold(Session::default());
//! held.push(b"ada");
//! held.advance(Duration::from_secs(59));
//! assert!(!held.connection.is_lost());
//! held.advance(Duration::from_secs(1));
//! assert!(held.connection.is_lost());
//! ```
//!
//! ## Limiting a wait
//!
//! ```
//! use couplet::defer::TimedOut;
//! use couplet::Deferred;
//! use std::time::Duration;
//!
//! couplet::testing::run(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         let (answer, resolver) = Deferred::<u32>::new(); // never fires
//!         let failure = reactor.timeout(Duration::from_secs(5), answer).await.unwrap_err();
//!         assert!(failure.is::<TimedOut>());
//!         assert!(resolver.is_cancelled(), "the producer can see it");
//!         Ok(())
//!     })
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Repeated calls
//!
//! A [`LoopingCall`](crate::LoopingCall) keeps to a fixed grid: calls missed while the loop was
//! busy are skipped, and the grid does not shift. If the function returns a Deferred, the next call
//! waits for it, so calls never overlap.
//!
//! ```
//! use couplet::{LoopingCall, testing::Clock};
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! let mut clock = Clock::new();
//! let beats = Rc::new(Cell::new(0));
//! let (reactor, counted) = (clock.reactor(), beats.clone());
//! let heart = LoopingCall::new(&clock.reactor(), move || {
//!     counted.set(counted.get() + 1);
//!     reactor.sleep(Duration::from_secs(3)) // each beat takes three seconds
//! });
//! heart.start(Duration::from_secs(2)).detach();
//! clock.advance(Duration::from_secs(9));
//! assert_eq!(beats.get(), 3, "at 0, 4 and 8");
//! heart.stop();
//! clock.advance(Duration::from_secs(60));
//! assert_eq!(beats.get(), 3);
//! ```
