//! # A loop inside another loop
//!
//! A program may already have an event loop: that of a window system, a game, an audio engine or
//! another library. Couplet's [`Loop`](crate::Loop) need not own the thread; the other loop can
//! drive its turns. For tokio, `couplet::embed` does so (feature `tokio`): see [Using tokio
//! libraries](super::beside_tokio).
//!
//! | call | meaning |
//! | --- | --- |
//! | [`begin`](crate::Loop::begin) | starts a run and calls your setup |
//! | [`turn(Some(Duration::ZERO))`](crate::Loop::turn) | does all pending work without waiting; returns false when the run has ended |
//! | [`next_turn`](crate::Loop::next_turn) | when the next turn is due, unless an event comes first |
//! | `descriptor` (Unix) | becomes readable when an event is pending |
//! | [`end`](crate::Loop::end) | ends the run immediately and closes everything that is open |
//!
//! ## A loop with frames
//!
//! A game draws sixty times a second anyway, so it runs one turn per frame:
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
//!     draw(); // takes no time here, so there are many frames
//! }
//! assert!(landed.get());
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## A loop that sleeps
//!
//! An event loop waits for file descriptors, so add the loop's descriptor, and bound the wait with
//! `next_turn`. Query both after each turn. Here `poll(2)` is the other loop, and a call from a
//! thread is the event:
//!
//! ```
//! # #[cfg(unix)]
//! # fn main() -> couplet::Result<()> {
//! use couplet::Loop;
//! use rustix::event::{PollFd, PollFlags, Timespec, poll};
//! use std::time::{Duration, Instant};
//!
//! /// Sleeps as the other loop would, which also has descriptors of its own.
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
//! assert!(turns < 100, "it should sleep in between; {turns} turns");
//! # Ok(())
//! # }
//! # #[cfg(not(unix))] fn main() {}
//! ```
//!
//! ## Common event loops
//!
//! Every event loop can wait for a descriptor and a deadline, or can be woken by a thread that
//! does. After each wake-up, run one turn with a wait of zero, then set the new deadline. If the
//! loop is edge-triggered, run turns until `next_turn` is not in the past.
//!
//! | event loop | the descriptor | the deadline from `next_turn` |
//! | --- | --- | --- |
//! | `poll`, `select`, `epoll` | one more in the set | the timeout |
//! | GLib, GTK | `g_unix_fd_add` with `G_IO_IN` | `g_source_set_ready_time` |
//! | winit | a thread polls it, and wakes the loop through an `EventLoopProxy` | `ControlFlow::WaitUntil` |
//! | Qt | `QSocketNotifier` | a single-shot `QTimer` |
//! | libuv | `uv_poll_start` with `UV_READABLE` | `uv_timer_start` |
//! | tokio | `couplet::embed` handles both | |
//!
//! The example `poll_loop` drives turns from `poll(2)` alongside its own descriptor; `gui_loop`
//! does so from a main loop with events and frames, where a button writes to a connection.
//!
//! A frame must be drawn even if the network is never silent. A turn is bounded: it delivers one
//! read per connection, and work that schedules itself waits for the next turn. So check the clock
//! between two turns, and draw when a frame is due.
//!
//! ## Guarantees
//!
//! - The other loop's callbacks may use handles between two turns: recording a request makes the
//!   descriptor readable. So a button may call `transport.write(…)` directly.
//! - Only a turn calls your protocols. Nothing happens inside `write` or `call_later`.
//! - A turn takes as long as the callbacks it runs. Move work that would delay a frame to [a
//!   thread](super::threads).
//! - Signals stay with the program unless
//!   [`LoopOptions::signals`](crate::LoopOptions::signals) requests them.
//! - You can end a run and begin another on the same loop:
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
