//! # Stopping well
//!
//! [`Reactor::stop`](crate::Reactor::stop), Ctrl-C and SIGTERM end a run in the same order. `stop` only
//! records the request; the shutdown begins at the end of the turn:
//!
//! | | step | waits for at most |
//! | --- | --- | --- |
//! | 1 | [`Shutdown::Before`](crate::Shutdown::Before) triggers are called; the program still runs normally | the time that their Deferreds take |
//! | 2 | ports close, attempts to connect fail, connections flush and are lost with [`Reason::Shutdown`](crate::Reason::Shutdown) | [`shutdown_grace`](crate::LoopOptions::shutdown_grace), 500 ms |
//! | 3 | jobs of [`defer_to_thread`](crate::Reactor::defer_to_thread) finish | [`job_grace`](crate::LoopOptions::job_grace), 5 s |
//! | 4 | tasks woken by the loss of a connection are polled once more; [`During`](crate::Shutdown::During), then [`After`](crate::Shutdown::After) triggers are called | |
//! | 5 | the remaining tasks, timers and calls are dropped; their Deferreds fail with [`Cancelled`](crate::defer::Cancelled) | |
//!
//! [`is_stopping`](crate::Reactor::is_stopping) is true from step 2 on. A trigger that panics or
//! fails is logged, and the others are still called. The loop can run again afterwards (rows 99 to
//! 104 of the contract).
//!
//! Work that takes time belongs in `Before`, with its own time limit:
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
//!         Deferred::succeed(()) // not awaited
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
//! assert_eq!(*log.borrow(), ["saved", "lost: connection closed by the reactor", "after"]);
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Signals
//!
//! [`run`](crate::run), [`run_until`](crate::run_until) and [`react`](crate::react) handle signals;
//! your own [`Loop`](crate::Loop) does so only with
//! [`LoopOptions::signals`](crate::LoopOptions::signals).
//!
//! | signal | effect |
//! | --- | --- |
//! | SIGINT (Ctrl-C) | stops |
//! | SIGTERM | drains first, if [`LoopOptions::drain`](crate::LoopOptions::drain) is set, then stops |
//! | a second signal during a drain | ends the drain and all of step 1; step 2 follows |
//! | a second signal without a drain, a third with one | ends the run immediately |
//! | SIGUSR1 | prints a [`Snapshot`](crate::reactor::Snapshot) of open and pending objects |
//!
//! A callback that doesn't return blocks the loop, which then can't handle signals either. If a
//! signal has waited for a second, the next one kills the process.
//!
//! ## Draining
//!
//! A stop gives connections half a second to flush their written bytes. It doesn't wait for answers
//! that aren't written yet. A server that should finish the requests in progress drains first:
//!
//! 1. The ports close, so new clients go elsewhere.
//! 2. [`Protocol::draining`](crate::Protocol::draining) is called on each connection that a port accepted.
//!    An idle protocol closes; a busy one closes when it is done.
//! 3. After [`Drain::finish`](crate::reactor::Drain::finish) the remaining connections are closed, as by a
//!    stop, and after another [`Drain::close`](crate::reactor::Drain::close), 500 ms unless set, aborted.
//!
//! The default of `draining` does nothing, so a drain of protocols that don't implement it takes the whole
//! of `finish`. A protocol that knows whether it is busy needs a few lines:
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
//! | to drain | use |
//! | --- | --- |
//! | one port, for example to reconfigure it | [`Port::drain`](crate::Port::drain) |
//! | all ports, but not outgoing connections | [`Reactor::drain`](crate::Reactor::drain) |
//! | before every stop | the same, in a `Before` trigger |
//! | before a stop by SIGTERM | [`LoopOptions::drain`](crate::LoopOptions::drain) |
//!
//! `LoopOptions::drain` is the usual choice: a supervisor sends SIGTERM and waits, while a person
//! who presses Ctrl-C doesn't want to wait. A server's `main` is then:
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
//!     let options = LoopOptions::default().drain(Duration::from_secs(20));
//!     Loop::with_options(options)?.run(|reactor| {
//!         reactor.listen("localhost:0", || Jobs)?;
//! #       reactor.stop();
//!         Ok(())
//!     })
//! }
//! ```
//!
//! In `async` style, a handler waits for the next line and for [`draining`](crate::Stream::draining) at the
//! same time; dropping `read_line` loses no bytes ([`cancellation`](super::cancellation#streams)):
//!
//! ```
//! use std::pin::pin;
//! use std::time::Duration;
//!
//! use couplet::{Reactor, Shutdown, Stream};
//! use futures_util::future::{Either, select};
//!
//! async fn serve(mut stream: Stream) -> couplet::Result<()> {
//!     let mut draining = pin!(stream.draining());
//!     loop {
//!         let line = match select(pin!(stream.read_line()), draining.as_mut()).await {
//!             Either::Left((line, _)) => line?,
//!             Either::Right(_) => break,
//!         };
//!         let Some(line) = line else { break };
//!         stream.write_all(line).await?; // always finished
//!     }
//!     Ok(stream.close().await?)
//! }
//!
//! fn listen(reactor: &Reactor, endpoint: &str) -> couplet::Result<couplet::Port> {
//!     let draining = reactor.clone();
//!     reactor.on(Shutdown::Before, move || draining.drain(Duration::from_secs(20)).map(drop));
//!     reactor.serve(endpoint, serve)
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
//! In some protocols the end of the stream ends the message, as in HTTP/1.0. If such a server stops
//! in the middle, the peer gets half a message and a FIN, and takes it for the whole. Call
//! [`set_reset_unless_closed`](crate::Transport::set_reset_unless_closed) in `connection_made`:
//! then every end that the protocol didn't request is a reset. This covers a stop, a drain whose
//! time is up, a panic, and a killed process, as the example in [`simulator`](super::simulator)
//! shows. Protocols whose messages have a length or a terminator don't need it.
//!
//! ## Exit codes
//!
//! A server that stops on request has succeeded: [`run`](crate::run) returns `Ok` after a signal too. A
//! script that was interrupted has not, and its caller should notice. [`react`](crate::react) is
//! `run_until` for such programs, and returns the exit code:
//!
//! | the run ends because | exit code |
//! | --- | --- |
//! | the Deferred fires, or `stop` is called | 0 |
//! | the Deferred fails | 1; the failure is logged, or printed to stderr |
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
//! With your own loop, [`Loop::stopped_by`](crate::Loop::stopped_by) returns the signal.
//!
//! ## Under a supervisor
//!
//! systemd and Kubernetes send SIGTERM, wait, then kill. The wait must be longer than the whole
//! shutdown may take: `finish` and `close` of the drain, your `Before` triggers, `shutdown_grace`
//! and `job_grace`.
//!
//! | supervisor | waits | setting |
//! | --- | --- | --- |
//! | systemd | 90 s | `TimeoutStopSec=` |
//! | Kubernetes | 30 s, a `preStop` hook included | `terminationGracePeriodSeconds` |
//! | `docker stop` | 10 s | `-t` |
//!
//! - systemd treats exit code 143 as a failure. Exit with 0, as programs of `run` do, or set
//!   `SuccessExitStatus=143`.
//! - Kubernetes removes a pod from its Service at the same time as it sends SIGTERM, so for a
//!   moment new connections still go to the closed port. A `preStop` hook that sleeps for a few
//!   seconds avoids that.
//! - A socket that systemd holds (`systemd:NAME`, see [`endpoints`](super::endpoints)) queues connections
//!   while the service restarts, so none is refused.
//! - The first process of a container must be the program itself, or one that forwards signals. A shell
//!   doesn't; start the program with `exec`.
//!
//! ## In tests
//!
//! [`testing::run`](crate::testing::run) calls the `Before` triggers of a finished program, and
//! fails the test if it leaks ports, connections, timers or tasks. The
//! [simulator](super::simulator) sends signals to programs, and kills them.
