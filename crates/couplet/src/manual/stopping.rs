//! # Stopping well
//!
//! [`Reactor::stop`](crate::Reactor::stop), Ctrl-C and SIGTERM end a run in the same order. Nothing is cut
//! off in the middle of a callback: `stop` only records the request, and the turn goes on to its end.
//!
//! | | what happens | waits |
//! | --- | --- | --- |
//! | 1 | [`Shutdown::Before`](crate::Shutdown::Before) triggers are called; everything still runs | for their Deferreds, without a limit |
//! | 2 | ports close, attempts to connect fail, connections flush and are lost with [`Reason::Shutdown`](crate::Reason::Shutdown) | [`shutdown_grace`](crate::LoopOptions::shutdown_grace), 500 ms |
//! | 3 | jobs of [`defer_to_thread`](crate::Reactor::defer_to_thread) finish | [`job_grace`](crate::LoopOptions::job_grace), 5 s |
//! | 4 | tasks that a loss has woken run once more; [`During`](crate::Shutdown::During), then [`After`](crate::Shutdown::After) triggers are called | not |
//! | 5 | tasks, timers and calls that are left are dropped; their Deferreds fail with [`Cancelled`](crate::defer::Cancelled) | not |
//!
//! [`is_stopping`](crate::Reactor::is_stopping) is true from step 2 on. A panic or a failure of a trigger
//! is logged, and stops no other. The loop can run again afterwards (contract 99 to 104).
//!
//! What takes time belongs into `Before`, with a time limit of its own:
//!
//! ```
//! use std::{cell::RefCell, rc::Rc, time::Duration};
//!
//! use couplet::{Deferred, Protocol, Reactor, Reason, Shutdown, Transport};
//!
//! type Log = Rc<RefCell<Vec<String>>>;
//!
//! struct Client(Log);
//! impl Protocol for Client {
//!     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
//!     fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
//!         self.0.borrow_mut().push(format!("lost: {reason}"));
//!     }
//! }
//!
//! /// Stands in for a write to a database.
//! fn save(reactor: &Reactor) -> Deferred<()> {
//!     reactor.sleep(Duration::from_millis(1))
//! }
//!
//! let log = Log::default();
//! couplet::run(|reactor| {
//!     let (saving, saved) = (reactor.clone(), log.clone());
//!     reactor.on(Shutdown::Before, move || {
//!         save(&saving)
//!             .add_timeout(&saving, Duration::from_secs(5))
//!             .map(move |()| saved.borrow_mut().push("saved".to_owned()))
//!     });
//!     let after = log.clone();
//!     reactor.on(Shutdown::After, move || {
//!         after.borrow_mut().push("after".to_owned());
//!         Deferred::succeed(()) // not waited for
//!     });
//! #   struct Server;
//! #   impl Protocol for Server { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
//! #   let server = reactor.listen("localhost:0", || Server)?.host().to_string();
//!     let (client, stopping) = (log.clone(), reactor.clone());
//!     reactor
//!         .connect(&server, move || Client(client.clone()))
//!         .map(move |_| stopping.stop())
//!         .detach();
//!     Ok(())
//! })?;
//! assert_eq!(*log.borrow(), ["saved", "lost: the reactor stopped", "after"]);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Signals
//!
//! [`run`](crate::run), [`run_until`](crate::run_until) and [`react`](crate::react) handle signals; a
//! [`Loop`](crate::Loop) of your own does with [`LoopOptions::signals`](crate::LoopOptions::signals), and
//! not otherwise.
//!
//! | signal | |
//! | --- | --- |
//! | SIGINT (Ctrl-C) | stops |
//! | SIGTERM | drains first, if [`LoopOptions::drain`](crate::LoopOptions::drain) says so, then stops |
//! | a second one during a drain | ends the drain and whatever step 1 waits for; the flush of step 2 follows |
//! | a second one otherwise, a third after a drain | ends the run immediately |
//! | SIGUSR1 | shows a [`Snapshot`](crate::reactor::Snapshot): what is open, and what is waited for |
//!
//! When a callback doesn't return, nobody reads signals: one that hasn't been read for a second lets the
//! next one kill the process.
//!
//! ## Draining
//!
//! Stopping gives a connection half a second to flush what was written. It doesn't wait for an answer that
//! isn't written yet. A server that should finish what it has begun drains first:
//!
//! 1. Its ports close, so clients go elsewhere.
//! 2. [`Protocol::draining`](crate::Protocol::draining) is called on each connection of a port. One that is
//!    idle closes; one that is busy closes when it is done.
//! 3. After [`Drain::finish`](crate::reactor::Drain::finish) those that are left are closed like by a stop,
//!    and after [`Drain::close`](crate::reactor::Drain::close), 500 ms unless set, aborted.
//!
//! The default of `draining` does nothing, so without it every drain takes the whole time. It is a few
//! lines where a protocol knows whether it is busy:
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::testing::{MemoryReactor, success_of};
//!
//! #[derive(Default)]
//! struct Jobs {
//!     running: usize,
//! }
//!
//! impl Jobs {
//!     fn close_when_done(&self, transport: &LineTransport) {
//!         if transport.is_draining() && self.running == 0 {
//!             transport.lose_connection();
//!         }
//!     }
//! }
//!
//! impl LineProtocol for Jobs {
//!     fn line_received(&mut self, transport: &LineTransport, _job: &[u8]) {
//!         self.running += 1;
//!         let jobs = transport.connection::<Jobs>();
//!         jobs.call_later(Duration::from_secs(3), |jobs, transport| {
//!             transport.send_line("done");
//!             jobs.running -= 1;
//!             jobs.close_when_done(transport);
//!         });
//!     }
//!     fn draining(&mut self, transport: &LineTransport) {
//!         self.close_when_done(transport);
//!     }
//! }
//!
//! let mut memory = MemoryReactor::new();
//! let port = memory.reactor().listen("tcp:8000", || LineReceiver::new(Jobs::default()))?;
//! let (busy, idle) = (memory.connect(8000), memory.connect(8000));
//! busy.push(b"a job\r\n");
//! memory.settle();
//!
//! let drained = port.drain(Duration::from_secs(20));
//! memory.settle();
//! assert!(idle.saw_fin() && !busy.saw_fin());
//! memory.advance(Duration::from_secs(3));
//! assert_eq!(busy.take(), b"done\r\n");
//! assert!(busy.saw_fin());
//! # idle.close();
//! # busy.close();
//! # memory.settle();
//! assert_eq!(success_of(drained).finished, 2);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! | to drain | |
//! | --- | --- |
//! | one port, for a change of its configuration | [`Port::drain`](crate::Port::drain) |
//! | all ports; connections that we made stay | [`Reactor::drain`](crate::Reactor::drain) |
//! | before every stop | the same, in a `Before` trigger |
//! | before a stop by SIGTERM | [`LoopOptions::drain`](crate::LoopOptions::drain) |
//!
//! The last one is the usual choice: a supervisor sends SIGTERM and waits, a person at a terminal presses
//! Ctrl-C and doesn't. A server's `main` is then:
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::{Loop, LoopOptions};
//! # use couplet::{Protocol, Transport};
//! # struct Jobs;
//! # impl Protocol for Jobs { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
//!
//! fn main() -> couplet::Result<()> {
//!     let options = LoopOptions::default().signals(true).drain(Duration::from_secs(20));
//!     Loop::with_options(options)?.run(|reactor| {
//!         reactor.listen("localhost:0", || Jobs)?;
//! #       reactor.stop();
//!         Ok(())
//!     })
//! }
//! ```
//!
//! In `async` style a handler looks at [`is_draining`](crate::Transport::is_draining) between two requests.
//! One that is idle waits for a line, so let it wait for an event too; `read_line` may be dropped without
//! losing a byte ([`cancellation`](super::cancellation#streams)):
//!
//! ```
//! use std::pin::pin;
//! use std::time::Duration;
//!
//! use couplet::defer::DeferredEvent;
//! use couplet::{Reactor, Shutdown, Stream};
//! use futures_util::future::{Either, select};
//!
//! async fn serve(mut stream: Stream, ends: &DeferredEvent) -> couplet::Result<()> {
//!     loop {
//!         let line = match select(pin!(stream.read_line()), ends.wait()).await {
//!             Either::Left((line, _)) => line?,
//!             Either::Right(_) => break,
//!         };
//!         let Some(line) = line else { break };
//!         stream.write_all(line).await?; // is finished, whatever happens
//!     }
//!     Ok(stream.close().await?)
//! }
//!
//! fn listen(reactor: &Reactor, endpoint: &str) -> couplet::Result<couplet::Port> {
//!     let ends = DeferredEvent::new();
//!     let (ending, draining) = (ends.clone(), reactor.clone());
//!     reactor.on(Shutdown::Before, move || {
//!         ending.set();
//!         draining.drain(Duration::from_secs(20)).map(drop)
//!     });
//!     reactor.serve(endpoint, async move |stream| serve(stream, &ends).await)
//! }
//! #
//! # let began = std::time::Instant::now();
//! # couplet::run_until(|reactor| {
//! #     let reactor = reactor.clone();
//! #     reactor.clone().spawn(async move {
//! #         let server = listen(&reactor, "localhost:0")?.host().to_string();
//! #         let mut stream = reactor.connect_stream(&server).await?;
//! #         stream.write_all("hello\n").await?;
//! #         let mut answer = [0; 5];
//! #         stream.read_exact(&mut answer).await?;
//! #         assert_eq!(&answer, b"hello");
//! #         reactor.stop();
//! #         assert_eq!(stream.read_line().await?, None, "the idle handler has closed");
//! #         Ok(())
//! #     })
//! # })?;
//! # assert!(began.elapsed() < Duration::from_secs(10));
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## A part must not pass for a whole
//!
//! Where the end of the stream ends a message, as in HTTP/1.0 or a poem, a server that ends sends half of
//! it and a FIN, and the peer takes the half for the whole. Call
//! [`set_reset_unless_closed`](crate::Transport::set_reset_unless_closed) in `connection_made`: from then
//! on every end that the protocol hasn't asked for is a reset. That covers the stop of the reactor, a drain
//! whose time is up, a panic, and a process that is killed; [`simulator`](super::simulator) shows the
//! last. Protocols whose messages have a length or an end mark don't need it.
//!
//! ## Exit codes
//!
//! A server that was told to end and did so has succeeded, so `main` returns what `run` does: `Ok`. A
//! script that was interrupted hasn't, and a shell must be able to tell. [`react`](crate::react) is
//! `run_until` for programs, and returns the exit code:
//!
//! | the program | exit code |
//! | --- | --- |
//! | its Deferred fires, or it calls `stop` | 0 |
//! | its Deferred fails | 1, and the failure is logged, or printed to stderr |
//! | SIGINT | 130 |
//! | SIGTERM | 143 |
//!
//! ```
//! use std::process::ExitCode;
//!
//! use couplet::{Failure, react};
//!
//! fn main() {
//!     assert_eq!(react(|reactor| reactor.sleep(std::time::Duration::ZERO)), ExitCode::SUCCESS);
//!     let failing = react(|reactor| reactor.spawn(async { Err::<(), _>(Failure::msg("no poem")) }));
//!     assert_eq!(failing, ExitCode::FAILURE);
//! }
//! ```
//!
//! A loop of your own knows the signal: [`Loop::stopped_by`](crate::Loop::stopped_by).
//!
//! ## Under a supervisor
//!
//! systemd and Kubernetes send SIGTERM, wait, and kill. They must wait for longer than all steps together
//! may take: `finish` and `close` of the drain, your `Before` triggers, `shutdown_grace` and `job_grace`.
//!
//! | | waits | set |
//! | --- | --- | --- |
//! | systemd | 90 s | `TimeoutStopSec=` |
//! | Kubernetes | 30 s, a `preStop` hook included | `terminationGracePeriodSeconds` |
//! | `docker stop` | 10 s | `-t` |
//!
//! - For systemd an exit code of 143 is a failure. Return 0 from a service, as `run` does, or set
//!   `SuccessExitStatus=143`.
//! - Kubernetes takes a pod out of its service while it sends SIGTERM, not before, so for a moment new
//!   connections still come to a port that a drain has closed. A `preStop` hook that sleeps for a few
//!   seconds is the remedy.
//! - A socket that systemd holds (`systemd:NAME`, see [`endpoints`](super::endpoints)) queues connections
//!   while a service restarts: nobody is refused.
//! - A container's first process must be the program itself, or something that passes signals on. A shell
//!   doesn't: `exec` it.
//!
//! ## In tests
//!
//! [`testing::run`](crate::testing::run) ends a program in the same order, and fails if it leaves ports,
//! connections, timers or tasks behind. The [simulator](super::simulator) sends signals to hosts and kills
//! them.
