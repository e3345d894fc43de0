//! # Using tokio alongside Couplet
//!
//! Some libraries need tokio: their timers and sockets require its runtime. Couplet does not
//! contain one, but can run alongside one. Enter the runtime before the loop runs, and keep the
//! guard:
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
//!         tokio::time::sleep(Duration::from_millis(1)).await; // a tokio timer
//!         Ok(tokio::spawn(async { 20 + 22 }).await?) // a task on its threads
//!     })
//! })?;
//! assert_eq!(sum, 42);
//! # Ok(())
//! # }
//! ```
//!
//! The task is Couplet's and runs on the loop's thread. tokio's threads watch its sockets and
//! timers and wake the task through its waker, which wakes the loop. So the runtime must have
//! threads: a multi-threaded one does, but a `current_thread` runtime drives nothing unless a
//! thread of yours is inside its `block_on`.
//!
//! ## tokio sockets, Couplet protocols
//!
//! Here a tokio client talks to a Couplet server, in one task of the loop:
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
//! ## From tokio tasks into the loop
//!
//! `tokio::spawn` moves a task to another thread, so the only Couplet type it can take along is a
//! [`Remote`](crate::Remote); the compiler enforces that. To await an answer from the loop in such
//! a task, send it through a channel; [`block_on_reactor`](crate::Remote::block_on_reactor) would
//! block one of tokio's threads.
//!
//! ```
//! # fn main() -> couplet::Result<()> {
//! # let runtime =
//! #     tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
//! # let _guard = runtime.enter();
//! let stopping = couplet::run_until(|reactor| {
//!     let remote = reactor.remote();
//!     reactor.spawn(async move {
//!         let task = tokio::spawn(async move {
//!             let (answer, answered) = tokio::sync::oneshot::channel();
//!             let asked = remote.call(move |reactor| {
//!                 let _ = answer.send(reactor.is_stopping()); // on the loop's thread
//!             });
//!             asked.expect("the loop exists");
//!             answered.await
//!         });
//!         Ok(task.await??)
//!     })
//! })?;
//! assert!(!stopping);
//! # Ok(())
//! # }
//! ```
//!
//! ## Limits
//!
//! - tokio's time is real time. A test with virtual time, or a simulated world, does not advance
//!   it, and a seed does not replay what tokio does there. Put such work behind a trait or a
//!   closure that tests can replace.
//! - `Runtime::block_on` and other blocking calls stall the loop when made from a callback.
//! - Declare the runtime before the loop, so that it is dropped after it.
