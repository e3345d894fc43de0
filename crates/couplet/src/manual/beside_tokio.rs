//! # Using tokio libraries
//!
//! Many libraries need tokio: an HTTP client, a database driver. Their timers and sockets work only in
//! the context of a runtime. The feature `tokio` has two ways to give them one:
//!
//! | | the loop inside tokio, `couplet::embed` | tokio around the loop, `LoopOptions::tokio` |
//! | --- | --- | --- |
//! | tokio's sockets and timers wait | in the same thread | in a thread of their own |
//! | a round trip between a socket of tokio and one of the loop | 5.0 µs | 6.7 µs if both threads share a processor, 130 µs if not |
//! | connections of Couplet | pay for tokio's wait in addition to their own | cost what they cost without tokio |
//! | systems | Unix | all |
//! | the program is | a future of tokio | a task of the loop |
//!
//! A runtime around the loop leaves everything else as it is: take it where a task sometimes asks such
//! a library for something. Embed the loop where many messages pass between both, or where the
//! program is one of tokio's anyway.
//!
//! The figures are of 64 bytes there and back on loopback, both ends included, in a virtual machine;
//! with Couplet at both ends and no tokio it takes 3.9 µs, with tokio alone 4.4
//! (`cargo bench -p couplet --features tokio --bench embed`). Waking a thread on a processor that
//! sleeps is what takes long, and the system may put the two threads there.
//!
//! ## The loop inside tokio
//!
//! `couplet::embed::run` turns a loop while a program runs. The program is a future of
//! tokio: it uses handles of Couplet, awaits Deferreds, and awaits whatever tokio offers. The
//! callbacks of protocols run in tokio's context too, so they may spawn tasks.
//!
//! ```
//! # #[cfg(all(unix, feature = "tokio"))]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> couplet::Result<()> {
//! use couplet::{Loop, Protocol, Transport, embed};
//! use std::time::Duration;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::TcpStream;
//!
//! struct Late;
//! impl Protocol for Late {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         let (transport, answer) = (transport.clone(), data.to_ascii_uppercase());
//!         tokio::task::spawn_local(async move {
//!             tokio::time::sleep(Duration::from_millis(1)).await; // or a query, or a request
//!             transport.write(answer); // wakes the loop
//!         });
//!     }
//! }
//!
//! // spawn_local needs a LocalSet; tokio::spawn would not take a transport to another thread.
//! let local = tokio::task::LocalSet::new();
//! let answer = local.run_until(embed::run(Loop::new()?, async |reactor| {
//!     let port = reactor.listen("localhost:0", || Late)?;
//!     let address = port.host().socket_addr().expect("a TCP port");
//!     let mut stream = TcpStream::connect(address).await?;
//!     stream.write_all(b"hello").await?;
//!     let mut answer = [0; 5];
//!     stream.read_exact(&mut answer).await?;
//!     Ok(answer)
//! }));
//! assert_eq!(&answer.await?, b"HELLO");
//! # Ok(())
//! # }
//! # #[cfg(not(all(unix, feature = "tokio")))] fn main() {}
//! ```
//!
//! The run ends when the program returns, or by `reactor.stop()`, or by a signal if
//! [`LoopOptions::signals`](crate::LoopOptions::signals) asks for them; then `embed::run` fails with
//! [`Stopped`](crate::reactor::Stopped), as [`run_until`](crate::run_until) does. Dropping the future
//! ends the run immediately. A program that only wants the loop to live beside it spawns an
//! `couplet::embed::Embedded` with `spawn_local`.
//!
//! Costs: tokio waits for the loop's descriptor, then the loop asks what has happened, so an event
//! costs one more system call; a handle that is used outside of a turn writes to an `eventfd`; a timed
//! call may be up to 1 ms late, as tokio's timers are.
//!
//! ## A runtime around the loop
//!
//! `LoopOptions::tokio` starts a runtime with the loop and enters it
//! around everything that the loop calls. Nothing else changes: the task is Couplet's and runs on the
//! loop's thread. tokio's thread watches its sockets and timers, and wakes the task through its waker,
//! which wakes the loop.
//!
//! ```
//! # #[cfg(feature = "tokio")]
//! # fn main() -> couplet::Result<()> {
//! use couplet::{Loop, LoopOptions};
//! use std::time::Duration;
//!
//! let mut l = Loop::with_options(LoopOptions::default().tokio())?;
//! let task = l.reactor().spawn(async {
//!     tokio::time::sleep(Duration::from_millis(1)).await; // a timer of tokio
//!     Ok(tokio::spawn(async { 20 + 22 }).await?) // a task on its thread
//! });
//! assert_eq!(l.run_until(task)?, 42);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tokio"))] fn main() {}
//! ```
//!
//! An HTTP client is used in the same way: `reqwest::get(url).await?` in a task. So is a database: tasks
//! share a pool of `sqlx`, and the transaction of one that is cancelled is rolled back. Couplet's tests do
//! both, with SQLite and with a PostgreSQL server. (Clients that take any stream need no runtime: the
//! chapter `databases` has those of PostgreSQL and Redis.) Drop what was taken from such a pool in a task or a
//! callback: outside of them there is no runtime, and a connection needs one to return to its pool.
//!
//! Each time that a socket of tokio becomes ready, its thread wakes up and wakes the loop's: that is
//! what a trip costs.
//!
//! When the loop is dropped, the runtime is shut down in the background: its tasks are dropped, and
//! nothing waits for its threads.
//!
//! ### A runtime of your own
//!
//! Without the feature, or to choose the number of threads, enter a runtime before the loop runs, and
//! keep the guard. The runtime must have threads: a `current_thread` runtime drives nothing unless a
//! thread of yours is inside its `block_on`. Declare it before the loop, so that it is dropped after
//! it.
//!
//! ```
//! # fn main() -> couplet::Result<()> {
//! let runtime =
//!     tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
//! let _guard = runtime.enter();
//! let sum = couplet::run_until(|reactor| {
//!     reactor.spawn(async { Ok(tokio::spawn(async { 20 + 22 }).await?) })
//! })?;
//! assert_eq!(sum, 42);
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
//! - A panic in a task of tokio is tokio's to report, in its `JoinHandle`; in a callback or a task of the
//!   loop it is contained, in either arrangement.
