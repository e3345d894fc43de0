//! # tokio beside Couplet
//!
//! Some libraries need tokio: their timers and sockets look for its runtime. Couplet does not contain
//! one, but it can stand beside one. Enter the runtime before the loop runs, and keep the guard:
//!
//! ```
//! use std::time::Duration;
//! # fn main() -> couplet::Result<()> {
//! let runtime =
//!     tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
//! let _guard = runtime.enter();
//!
//! let sum = couplet::run_until(|reactor| {
//!     reactor.spawn(async {
//!         tokio::time::sleep(Duration::from_millis(1)).await; // a timer of tokio's
//!         Ok(tokio::spawn(async { 20 + 22 }).await?) // a task in its threads
//!     })
//! })?;
//! assert_eq!(sum, 42);
//! # Ok(())
//! # }
//! ```
//!
//! The task is Couplet's and runs in the loop's thread. tokio's threads watch its sockets and timers and
//! wake the task through its waker, which wakes the loop. So the runtime must have threads: the
//! multi-threaded one has, a `current_thread` runtime drives nothing unless a thread of yours is inside
//! of its `block_on`.
//!
//! ## Sockets of one, protocols of the other
//!
//! Here a client made with tokio talks to a server made with Couplet, in one task of the loop:
//!
//! ```
//! use couplet::{Protocol, Transport};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::TcpStream;
//!
//! struct Shout;
//! impl Protocol for Shout {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data.to_ascii_uppercase());
//!     }
//! }
//!
//! # fn main() -> couplet::Result<()> {
//! let runtime =
//!     tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
//! let _guard = runtime.enter();
//!
//! let answer = couplet::run_until(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         let port = reactor.listen("localhost:0", || Shout)?;
//!         let address = port.host().socket_addr().expect("a TCP port");
//!         let mut stream = TcpStream::connect(address).await?;
//!         stream.write_all(b"hello").await?;
//!         let mut answer = [0; 5];
//!         stream.read_exact(&mut answer).await?;
//!         Ok(answer)
//!     })
//! })?;
//! assert_eq!(&answer, b"HELLO");
//! # Ok(())
//! # }
//! ```
//!
//! ## From tokio's tasks into the loop
//!
//! `tokio::spawn` moves a task to another thread, so it takes nothing of Couplet's along but a
//! [`Remote`](crate::Remote); the compiler sees to that. To wait in such a task for an answer of the loop,
//! send it through a channel; [`block_on_reactor`](crate::Remote::block_on_reactor) would block one of
//! tokio's threads.
//!
//! ```
//! # fn main() -> couplet::Result<()> {
//! # let runtime =
//! #     tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
//! # let _guard = runtime.enter();
//! let found = couplet::run_until(|reactor| {
//!     let remote = reactor.remote();
//!     reactor.spawn(async move {
//!         let task = tokio::spawn(async move {
//!             let (answer, answered) = tokio::sync::oneshot::channel();
//!             let asked = remote.call(move |reactor| {
//!                 let _ = answer.send(reactor.is_stopping()); // in the loop's thread
//!             });
//!             asked.expect("the loop is there");
//!             answered.await
//!         });
//!         Ok(task.await??)
//!     })
//! })?;
//! assert!(!found);
//! # Ok(())
//! # }
//! ```
//!
//! ## Limits
//!
//! - tokio's time is real time. A test with virtual time, or a simulated world, does not pass it, and
//!   what tokio does there is not repeated by a seed. Put such work behind a trait or a closure that
//!   tests replace.
//! - `Runtime::block_on` and other calls that block stop the loop when a callback makes them.
//! - Declare the runtime before the loop, so that it is dropped after it.
