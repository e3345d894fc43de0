//! # Coming from tokio
//!
//! Couplet has tasks, timers, streams and locks as tokio does, on one thread per loop, and underneath them
//! protocols: objects that the loop calls. A server in `async` style looks familiar. In tokio:
//!
//! ```no_run
//! use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
//! use tokio::net::TcpListener;
//!
//! async fn serve(listener: TcpListener) -> std::io::Result<()> {
//!     loop {
//!         let (socket, _) = listener.accept().await?;
//!         tokio::spawn(async move {
//!             let (reader, mut writer) = socket.into_split();
//!             let mut names = BufReader::new(reader).lines();
//!             while let Some(name) = names.next_line().await? {
//!                 writer.write_all(format!("hello, {name}\n").as_bytes()).await?;
//!             }
//!             Ok::<(), std::io::Error>(())
//!         });
//!     }
//! }
//! ```
//!
//! In Couplet `serve` accepts connections, lines have a length limit, an error becomes the reason
//! for the loss of its connection, and the endpoint may also be `tls:…` or `unix:…`:
//!
//! ```
//! use couplet::{Port, Reactor, Stream};
//!
//! fn serve(reactor: &Reactor, endpoint: &str) -> couplet::Result<Port> {
//!     reactor.serve(endpoint, async |mut stream: Stream| {
//!         while let Some(name) = stream.read_line().await? {
//!             stream.write_all([b"hello, ", &name[..], b"\n"].concat()).await?;
//!         }
//!         Ok(())
//!     })
//! }
//! # couplet::run_until(|reactor| {
//! #     let reactor = reactor.clone();
//! #     reactor.clone().spawn(async move {
//! #         let server = serve(&reactor, "localhost:0")?.host().to_string();
//! #         let mut stream = reactor.connect_stream(&server).await?;
//! #         stream.write_all("Ada\n").await?;
//! #         assert_eq!(stream.read_line().await?.unwrap(), b"hello, Ada");
//! #         Ok(())
//! #     })
//! # })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! Or as a protocol, which needs no task, and is tested by pushing bytes into it:
//!
//! ```
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::testing::hold;
//!
//! struct Greeter;
//!
//! impl LineProtocol for Greeter {
//!     fn line_received(&mut self, transport: &LineTransport, name: &[u8]) {
//!         transport.send_line([b"hello, ", name].concat());
//!     }
//! }
//!
//! let mut held = hold(LineReceiver::new(Greeter)); // or: reactor.listen(endpoint, || …)
//! held.push(b"Ada\r\n");
//! assert_eq!(held.wire.take(), b"hello, Ada\r\n");
//! ```
//!
//! ## Runtime and tasks
//!
//! | tokio | Couplet |
//! | --- | --- |
//! | `#[tokio::main]`, `Runtime::block_on` | [`run_until`](crate::run_until), [`react`](crate::react) with an exit code, [`run`](crate::run) for servers; [`Loop`](crate::Loop) to own it |
//! | a tokio program that embeds Couplet | `embed::run`, with the feature `tokio`; [`beside_tokio`](super::beside_tokio) |
//! | libraries that need a runtime | `LoopOptions::tokio`, likewise |
//! | `Handle::current()` | none: pass a [`&Reactor`](crate::Reactor) |
//! | `spawn_local`; `spawn` | [`spawn`](crate::Reactor::spawn): on the loop's thread, without `Send`; its output is a `Result` |
//! | `Handle::spawn` from another thread | [`Remote::call`](crate::Remote::call)`(\|reactor\| …)` |
//! | `Handle::block_on` in another thread | [`Remote::block_on_reactor`](crate::Remote::block_on_reactor) |
//! | `JoinHandle` | a [`Deferred`](crate::Deferred); a panic of the task is the failure [`Panicked`](crate::defer::Panicked) |
//! | `JoinHandle::abort`, `AbortHandle` | [`cancel`](crate::Deferred::cancel), [`canceller`](crate::Deferred::canceller) |
//! | `AbortOnDropHandle` | [`abort_on_drop`](crate::Deferred::abort_on_drop) |
//! | `JoinSet`, `TaskTracker` | [`scope`](crate::Reactor::scope); [`list`](crate::defer::list), [`gather`](crate::defer::gather) |
//! | `join!`, `try_join!` | `list`, `gather`; `futures::join!` for futures of different types |
//! | `select!` | [`first_of`](crate::defer::first_of), [`race`](crate::defer::race); `futures::select!`, or tokio's own, for futures of different types |
//! | `CancellationToken` | [`spawn_cancellable`](crate::Reactor::spawn_cancellable); [`DeferredEvent`](crate::defer::DeferredEvent) for many listeners, a `scope` for child tokens |
//! | `task_local!` | [`task_local!`](crate::task_local), whose value isn't inherited by spawned tasks either |
//! | `yield_now`, the coop budget | [`yield_now`](crate::task::yield_now); there is no budget: a task that never waits holds up the loop |
//! | `spawn_blocking` | [`defer_to_thread`](crate::Reactor::defer_to_thread), at most ten threads |
//! | `block_in_place` | none |
//! | tokio-console | [`snapshot`](crate::Reactor::snapshot), SIGUSR1, [`spawn_named`](crate::Reactor::spawn_named), [`keep_histories`](crate::defer::keep_histories) |
//!
//! ## Time
//!
//! | tokio | Couplet |
//! | --- | --- |
//! | `sleep`, `sleep_until` | [`sleep`](crate::Reactor::sleep), which fails if the loop ends; [`call_later`](crate::Reactor::call_later) |
//! | `timeout` | [`timeout`](crate::Reactor::timeout); [`add_timeout`](crate::Deferred::add_timeout) on a Deferred |
//! | `interval`, first tick immediately | [`interval`](crate::Reactor::interval), likewise; [`LoopingCall`](crate::LoopingCall) for callbacks |
//! | `MissedTickBehavior::Burst`, the default | none |
//! | `MissedTickBehavior::Skip` | the only one; `tick` returns how many points have passed |
//! | `Instant::now()` | [`now`](crate::Reactor::now): the time of the turn, virtual in tests |
//! | `pause`, `advance`, `start_paused` | [`testing::run`](crate::testing::run), [`Clock`](crate::testing::Clock) |
//!
//! ## Synchronization
//!
//! On one thread, state that isn't held across an `await` needs no lock: use `Rc<RefCell<T>>`.
//!
//! | tokio | Couplet |
//! | --- | --- |
//! | `oneshot` | [`Deferred::new`](crate::Deferred::new) |
//! | `mpsc::unbounded_channel` | [`DeferredQueue`](crate::defer::DeferredQueue) |
//! | `mpsc::channel(n)` | `DeferredQueue::new().size(n)`; a full queue refuses the item, and `put` doesn't wait |
//! | `Notify`, `notify_waiters` | [`DeferredEvent`](crate::defer::DeferredEvent), which stays set until it is cleared |
//! | `Mutex`, across an `await` | [`DeferredLock`](crate::defer::DeferredLock) |
//! | `Semaphore` | [`DeferredSemaphore`](crate::defer::DeferredSemaphore) |
//! | `watch`, `broadcast`, `RwLock`, `Barrier` | none |
//!
//! `tokio::sync` needs no runtime, so all of it works in the tasks of a loop, also between a loop and
//! other threads:
//!
//! ```
//! use tokio::sync::mpsc;
//!
//! let sum = couplet::run_until(|reactor| {
//!     let (numbers, mut received) = mpsc::channel(1);
//!     std::thread::spawn(move || (1..=10).try_for_each(|n| numbers.blocking_send(n)));
//!     reactor.spawn(async move {
//!         let mut sum = 0;
//!         while let Some(n) = received.recv().await {
//!             sum += n;
//!         }
//!         Ok(sum)
//!     })
//! })?;
//! assert_eq!(sum, 55);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Streams
//!
//! | tokio | Couplet |
//! | --- | --- |
//! | `TcpListener`, `accept`, `spawn` | [`serve`](crate::Reactor::serve), or [`listen`](crate::Reactor::listen) with a protocol |
//! | `TcpStream::connect` | [`connect_stream`](crate::Reactor::connect_stream), with happy eyeballs and a time limit of 30 s |
//! | `UnixListener`, `UnixStream`; tokio-rustls | `unix:` and `tls:` endpoints; [`endpoints`](super::endpoints) |
//! | `AsyncReadExt`, `AsyncBufReadExt`, `AsyncWriteExt` | methods of [`Stream`](crate::Stream), with limits where a peer decides the length |
//! | `BufReader`, `BufWriter` | not needed: everything written in a turn is sent in one system call |
//! | `into_split` | [`split`](crate::Stream::split) |
//! | `copy_bidirectional` | [`copy_bidirectional`](crate::stream::copy_bidirectional), or a [`Relay`](crate::protocols::Relay) |
//! | `Framed`, `LinesCodec`, `LengthDelimitedCodec` | [`framed`](crate::Stream::framed) with [`LineReceiver`](crate::protocols::LineReceiver), [`IntReceiver<u32, _>`](crate::protocols::IntReceiver) |
//! | `Decoder`, `Encoder` | [`Framer`](crate::protocols::Framer); see [`framing`](super::framing) |
//! | `set_nodelay`, `TcpSocket` | on unless set; [`ConnectOptions`](crate::ConnectOptions), [`ListenOptions`](crate::ListenOptions), [`with_socket`](crate::Transport::with_socket) |
//! | `AsyncFd` | `Reactor::watch`, on Unix |
//! | `AsyncRead`, `AsyncWrite` for libraries | the traits of `futures-io`; tokio's with the feature `tokio-io`, hyper's with `hyper` |
//! | `process`, `net::unix::pipe`, `io::stdin` | `process_output`, `spawn_process`, `connect_process`, `adopt_pipe`, on Unix |
//! | `UdpSocket`, `UnixDatagram` | [`listen_udp`](crate::Reactor::listen_udp), [`listen_unix_datagrams`](crate::Reactor::listen_unix_datagrams); [`datagrams`](super::datagrams) |
//! | `fs` | none; [`defer_to_thread`](crate::Reactor::defer_to_thread) with `std::fs` |
//! | `signal::ctrl_c`, graceful shutdown | [`run`](crate::run) handles signals; [draining](super::stopping#draining) |
//!
//! ## Tests
//!
//! | tokio | Couplet |
//! | --- | --- |
//! | `#[tokio::test]` | `#[test]` with [`testing::run`](crate::testing::run), which also reports leaks |
//! | `tokio_test::io::Builder` | [`hold`](crate::testing::hold) and its [`Wire`](crate::testing::Wire) |
//! | `tokio::io::duplex` | [`pair`](crate::testing::pair); ports and connects of [`testing::run`](crate::testing::run) are in memory |
//! | turmoil, madsim | [`sim`](crate::sim), with the same program; see [`simulator`](super::simulator) |
//!
//! Virtual time needs no special runtime and no feature:
//!
//! ```
//! use couplet::defer::TimedOut;
//! use std::{future::pending, time::Duration};
//!
//! let failure = couplet::testing::run(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         reactor.timeout(Duration::from_secs(3600), pending::<couplet::Result<()>>()).await
//!     })
//! });
//! assert!(failure.unwrap_err().is::<TimedOut>());
//! ```
//!
//! ## Differences, and their reasons
//!
//! **One thread per loop, and no `Send`.** A task and its state stay on their thread, so `Rc`, `Cell` and
//! `&mut self` are enough, and no other task runs between two `await`s. The price is that a loop uses one
//! core. To use more, run [a loop per core](super::many_cores) on the same port; there is no work stealing, so
//! a connection stays on the loop that accepted it.
//!
//! **Callbacks are the foundation.** A protocol needs no task, and an idle connection holds no buffer; bytes
//! are lent to `data_received` from the driver's buffer, without a copy. Streams are built on protocols, so
//! a program may use both, and switch on a live connection.
//!
//! **A write never blocks.** [`Transport::write`](crate::Transport::write) buffers and returns, and the
//! loop sends the bytes in the same turn, in one system call. Watermarks provide back-pressure: a
//! [`Stream`](crate::Stream) waits in `write_all` while more than 64 KiB are unsent, a protocol registers a
//! producer or awaits `drained()`; see [`back_pressure`](super::back_pressure). So `write_all`
//! usually returns before the bytes are sent; `flush` waits until they are.
//!
//! **Turns.** The loop reads the clock once, delivers events (and polls a task that waits for bytes
//! of a stream as they arrive), makes the timed calls that are due, then polls the other woken
//! tasks, each once. A task that wakes itself runs in the next turn, after I/O, so nothing starves;
//! effects come in the order of the requests. This makes runs reproducible: the simulator replays a
//! world from its seed.
//!
//! **Deferreds are eager.** A function that returns a Deferred starts its work when it is called; an
//! `async fn` starts when it is polled.
//!
//! **Dropping a handle.** Dropping a `JoinHandle` detaches its task. So does dropping a Deferred that was
//! never polled; dropping a polled one cancels. `detach()` and `abort_on_drop()` make it explicit. See
//! [`cancellation`](super::cancellation), which also has the table of cancel-safe methods.
//!
//! **A cancel may be an error.** As in tokio, cancelling a task drops its future. A task of
//! `spawn_cancellable` gets the error `Cancelled` at an `await` instead, and can clean up asynchronously.
//!
//! **No ambient runtime.** No function looks up a runtime in a thread-local, and none panics for
//! lack of one: functions that need a reactor take it as an argument.
//!
//! **Limits are on by default.** Lines and messages have a maximum length, connects and closes a deadline,
//! and `read_to_end` takes a limit.
//!
//! ## When tokio is the better choice
//!
//! - The libraries that you need are written for it: tonic, reqwest, sqlx and many more. They can
//!   run [beside a loop](super::beside_tokio), and axum runs on one (feature `http`), but a program
//!   that consists of such libraries is better off in tokio.
//! - The work is CPU-bound, or so uneven that connections should move between cores.
//! - You need QUIC, Windows named pipes, or asynchronous file I/O.
//! - You need years of production use; this is version 0.1.
//!
//! Couplet is for implementing protocols: servers, proxies and clients with state shared between
//! connections, where the order of events matters and the behaviour on a bad network needs tests.
