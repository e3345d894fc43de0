//! # A loop inside another loop
//!
//! A program may have a loop already: of a window system, a game, an audio engine, another library.
//! Couplet's [`Loop`](crate::Loop) need not own the thread; the other loop can turn it.
//!
//! | call | meaning |
//! | --- | --- |
//! | [`begin`](crate::Loop::begin) | starts a run and calls your setup |
//! | [`turn(Some(Duration::ZERO))`](crate::Loop::turn) | does what there is to do, and does not wait; false when the run has ended |
//! | [`next_turn`](crate::Loop::next_turn) | when the next turn is due, if nothing happens before |
//! | `descriptor` (Unix) | becomes readable when something has happened |
//! | [`end`](crate::Loop::end) | ends the run immediately: closes what is open |
//!
//! ## A loop with frames
//!
//! A game draws sixty times a second anyway, so it turns the loop once a frame:
//!
//! ```
//! use couplet::Loop;
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! # fn draw() {}
//! let mut l = Loop::new()?;
//! let landed = Rc::new(Cell::new(false));
//! let lands = landed.clone();
//! l.begin(|reactor| {
//!     let stopping = reactor.clone();
//!     reactor.call_later(Duration::from_millis(20), move || {
//!         lands.set(true);
//!         stopping.stop();
//!     });
//!     Ok(())
//! })?;
//! while l.turn(Some(Duration::ZERO))? {
//!     draw(); // which here takes no time, so there are many frames
//! }
//! assert!(landed.get());
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## A loop that sleeps
//!
//! An event loop waits for descriptors, so it takes one more, and `next_turn` bounds its sleep. Ask for
//! both after each turn. Here `poll(2)` is the other loop, and a thread is what happens:
//!
//! ```
//! # #[cfg(unix)]
//! # fn main() -> couplet::Result<()> {
//! use couplet::Loop;
//! use rustix::event::{PollFd, PollFlags, Timespec, poll};
//! use std::time::{Duration, Instant};
//!
//! /// Sleeps as the other loop does, among descriptors of its own.
//! fn sleep(l: &Loop) -> couplet::Result<()> {
//!     let due = l.next_turn().map(|at| at.saturating_duration_since(Instant::now()));
//!     let timeout = due.map(Timespec::try_from).transpose()?;
//!     let descriptor = l.descriptor().expect("the default driver has one");
//!     poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref())?;
//!     Ok(())
//! }
//!
//! let mut l = Loop::new()?;
//! let remote = l.reactor().remote();
//! l.begin(|_| Ok(()))?;
//! let other = std::thread::spawn(move || remote.call(|reactor| reactor.stop()));
//! let mut turns = 0;
//! while l.turn(Some(Duration::ZERO))? {
//!     sleep(&l)?;
//!     turns += 1;
//! }
//! other.join().expect("no panic")?;
//! assert!(turns < 100, "it sleeps in between; {turns} turns");
//! # Ok(())
//! # }
//! # #[cfg(not(unix))] fn main() {}
//! ```
//!
//! ## What holds
//!
//! - Handles may be used from the other loop's callbacks, between two turns: what they record makes
//!   the descriptor readable. So a button may call `transport.write(…)` directly.
//! - Only a turn calls your protocols. Nothing happens inside `write` or `call_later`.
//! - A turn takes as long as the callbacks that it makes. One that must not delay a frame does its
//!   work [in a thread](super::threads).
//! - Signals stay with the program unless
//!   [`LoopOptions::signals`](crate::LoopOptions::signals) asks for them.
//! - A run can be ended, and another one begun, on the same loop:
//!
//! ```
//! # use couplet::{Loop, Protocol, Transport};
//! # struct Echo;
//! # impl Protocol for Echo { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
//! let mut l = Loop::new()?;
//! let mut port = None;
//! l.begin(|reactor| {
//!     port = Some(reactor.listen("localhost:0", || Echo)?);
//!     Ok(())
//! })?;
//! let port = port.expect("begin calls its closure");
//! assert!(port.is_listening());
//! l.end()?;
//! assert!(!port.is_listening());
//! l.begin(|_| Ok(()))?;
//! assert!(l.turn(Some(std::time::Duration::ZERO))?);
//! # Ok::<(), couplet::Failure>(())
//! ```
