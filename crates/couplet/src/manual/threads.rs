//! # Threads
//!
//! A loop is single-threaded, and its handles (`Reactor`, `Transport`, `Deferred`) stay on its
//! thread: they are not `Send`, so the compiler keeps them there. One way leads out, and one leads
//! in.
//!
//! ## Out: blocking work
//!
//! [`defer_to_thread`](crate::Reactor::defer_to_thread) runs a closure in the loop's thread pool
//! and returns the result as a Deferred. Use it for files, databases with a blocking client, and
//! long computations.
//!
//! ```
//! use std::thread;
//!
//! let (here, there) = couplet::run_until(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         let there = reactor.defer_to_thread(|| {
//!             let _ = std::fs::read_dir("/")?; // blocks this thread, but no connection
//!             Ok(thread::current().id())
//!         });
//!         Ok((thread::current().id(), there.await?))
//!     })
//! })?;
//! assert_eq!(here, thread::current().id());
//! assert_ne!(here, there);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! The pool has at most ten threads. A cancel drops a job that has not started; a running job
//! completes, since a thread cannot be stopped.
//!
//! ## In: calls from other threads
//!
//! A [`Remote`](crate::Remote) is `Send` and cheap to clone. `call` runs a closure on the loop's
//! thread, and `block_on_reactor` also waits for its result. Both work before the loop runs, and
//! return [`LoopGone`](crate::reactor::LoopGone) once the loop has been dropped.
//!
//! ```
//! use std::time::Duration;
//! use std::thread;
//!
//! let mut l = couplet::Loop::new()?;
//! let remote = l.reactor().remote();
//! let worker = thread::spawn(move || {
//!     let answer = remote.block_on_reactor(|reactor| {
//!         reactor.defer_later(Duration::from_millis(1), || Ok(42))
//!     });
//!     remote.call(|reactor| reactor.stop()).expect("the loop exists");
//!     (answer, remote)
//! });
//! l.run(|_| Ok(()))?;
//! let (answer, remote) = worker.join().expect("no panic");
//! assert_eq!(answer?, 42);
//! drop(l);
//! assert_eq!(remote.call(|_| ()), Err(couplet::reactor::LoopGone));
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## In: to one connection
//!
//! A [`ConnectionId`](crate::ConnectionId) is `Copy` and `Send`, so another thread can refer to a
//! connection that it cannot access. [`Remote::tell`](crate::Remote::tell) runs a closure on its
//! protocol; if the connection has been lost, the closure is dropped.
//!
//! ```
//! use couplet::testing::hold;
//! use couplet::{Protocol, Transport};
//!
//! struct Device;
//! impl Protocol for Device {
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//! }
//!
//! let mut held = hold(Device);
//! let (remote, id) = (held.reactor().remote(), held.connection.id());
//! let other = std::thread::spawn(move || {
//!     remote.tell(id, |_: &mut Device, transport| transport.write("measure now"))
//! });
//! other.join().expect("no panic")?;
//! held.settle();
//! assert_eq!(held.wire.take(), b"measure now");
//! # Ok::<(), couplet::reactor::LoopGone>(())
//! ```
//!
//! ## Finding stalls
//!
//! A callback that blocks or computes for long holds up every connection of its loop.
//! [`LoopOptions::stall_after`](crate::LoopOptions::stall_after) sets the longest time that a
//! callback may take. A longer one is logged at level `warn` while it runs, with its kind, the type
//! of its protocol or factory or the source location that requested it, and on Linux with glibc a
//! backtrace of the loop's thread. When the callback returns, its total time is logged. The cure is
//! usually [`defer_to_thread`](crate::Reactor::defer_to_thread), or for long computations a
//! [`Cooperator`](crate::task::Cooperator).
//!
//! ```no_run
//! use std::time::Duration;
//!
//! let options = couplet::LoopOptions::default().stall_after(Duration::from_millis(200));
//! couplet::Loop::with_options(options)?.run(|reactor| {
//!     reactor.call_soon(|| {
//!         // a call blocks its loop: timed call (src/main.rs:4:13)
//!         std::thread::sleep(Duration::from_secs(1));
//!     });
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! One loop uses one core; [`many_cores`](super::many_cores) explains how to use several.
