//! # Using tokio libraries
//!
//! Many libraries need tokio: HTTP clients, database drivers. Their timers and sockets work only in
//! the context of a runtime. The feature `tokio` provides one in two ways:
//!
//! | | loop inside tokio, `couplet::embed` | runtime around the loop, `LoopOptions::tokio` |
//! | --- | --- | --- |
//! | tokio's sockets and timers wait | on the loop's thread | on a separate thread |
//! | round trip between a tokio socket and a loop socket | 5.0 µs | 6.7 µs if both threads share a processor, 130 µs if not |
//! | Couplet's connections | pay for tokio's wait in addition to their own | cost no more than without tokio |
//! | systems | Unix | all |
//! | the program is | a tokio future | a task of the loop |
//!
//! A runtime around the loop changes nothing else: use it if tasks call such a library
//! occasionally. Embed the loop if many messages pass between the two, or in a program that already
//! runs on tokio.
//!
//! The round trips carry 64 bytes over loopback in a virtual machine, both ends included. With
//! Couplet at both ends and no tokio a round trip takes 3.9 µs, with tokio alone 4.4 µs (`cargo
//! bench -p couplet-core --features tokio --bench embed`). The 130 µs come from waking a thread on an
//! idle processor, and the system may place the two threads on different processors.
//!
//! ## The loop inside tokio
//!
//! `couplet::embed::run` runs a loop's turns while a program runs. The program is a tokio future:
//! it uses Couplet's handles, and awaits Deferreds as well as tokio's futures. Protocol callbacks
//! run in tokio's context too, so they may spawn tasks.
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
//! [`LoopOptions::signals`](crate::LoopOptions::signals) is set; after a stop or a signal
//! `embed::run` fails with [`Stopped`](crate::reactor::Stopped), as [`run_until`](crate::run_until)
//! does. Dropping the future ends the run immediately. To run a loop in the background, spawn a
//! `couplet::embed::Embedded` with `spawn_local`.
//!
//! Costs: tokio waits for the loop's descriptor, then the loop polls for events, so each wake-up
//! costs an additional system call. Using a handle outside of a turn writes to an `eventfd`. A
//! timed call may be up to 1 ms late, like tokio's timers.
//!
//! ## A runtime around the loop
//!
//! `LoopOptions::tokio` starts a runtime with the loop and enters it around everything that the
//! loop calls. Tasks remain Couplet's and run on the loop's thread. tokio's thread watches its
//! sockets and timers, and wakes a task through its waker, which wakes the loop.
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
//! Use an HTTP client in the same way: `reqwest::get(url).await?` in a task. Databases work too:
//! tasks share an `sqlx` pool, and the transaction of a cancelled task is rolled back. Couplet's
//! tests do both, with SQLite and with a PostgreSQL server. (Clients that accept any stream need no
//! runtime: see PostgreSQL and Redis in the chapter `databases`.) Drop a pooled connection in a
//! task or a callback: it needs the runtime to return to its pool, and there is no runtime outside
//! of them.
//!
//! The cost of a round trip is in the wake-ups: each time a tokio socket becomes ready, tokio's
//! thread wakes up and wakes the loop's thread.
//!
//! When the loop is dropped, the runtime shuts down in the background: its tasks are dropped, and
//! the drop doesn't wait for its threads.
//!
//! ### Your own runtime
//!
//! Without the feature, or to choose the number of threads, enter a runtime before the loop runs,
//! and keep the guard. The runtime must have threads: a `current_thread` runtime makes no progress
//! unless one of your threads is inside its `block_on`. Declare the runtime before the loop, so
//! that it is dropped after it.
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
//! `tokio::spawn` moves a task to another thread, so the only handle that it can take along is a
//! [`Remote`](crate::Remote); the compiler enforces this. To await an answer from the loop in such
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
//!   it, and a seed does not replay tokio's actions. Put such work behind a trait or a closure that
//!   tests can replace.
//! - `Runtime::block_on` and other blocking calls stall the loop when made from a callback.
//! - tokio reports a panic in a tokio task, in its `JoinHandle`. The loop contains a panic in a
//!   callback or in one of its tasks, in both arrangements.
