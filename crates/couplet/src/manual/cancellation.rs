//! # Cancellation
//!
//! A cancel says that the result is no longer wanted. It stops the operation that is in progress at
//! that moment, and comes back as the failure [`Cancelled`](crate::defer::Cancelled). It has no
//! effect on a Deferred that has fired or a task that has ended. An unhandled `Cancelled` is never
//! reported, because it was requested.
//!
//! | a cancel of | does |
//! | --- | --- |
//! | a plain [`Deferred`](crate::Deferred) | fails it, and drops a later result |
//! | a Deferred [with a canceller](crate::Deferred::with_canceller) | calls the canceller first, which stops the work and may supply another result |
//! | a chain | reaches the origin, or the inner Deferred that `then` waits for |
//! | [`list`](crate::defer::list), [`gather`](crate::defer::gather), [`race`](crate::defer::race), [`first_of`](crate::defer::first_of) | reaches each member |
//! | [`connect`](crate::Reactor::connect) | stops the attempt, and ends reconnecting |
//! | [`sleep`](crate::Reactor::sleep), [`defer_later`](crate::Reactor::defer_later) | removes the timer |
//! | [`defer_to_thread`](crate::Reactor::defer_to_thread) | drops a job that hasn't started; a running one finishes, and its result is dropped |
//! | [`acquire`](crate::defer::DeferredLock::acquire), [`get`](crate::defer::DeferredQueue::get), [`wait`](crate::defer::DeferredEvent::wait) | leaves the queue; no permit or item is lost |
//! | [`LoopingCall::start`](crate::LoopingCall::start), [`coiterate`](crate::task::Cooperator::coiterate) | stops the calls, and cancels the Deferred that the last one returned |
//! | a [drain](crate::Reactor::drain) | moves on to its next stage: closes the connections that haven't finished |
//! | a task of [`spawn`](crate::Reactor::spawn) | drops its future, in the turn |
//! | a task of [`spawn_cancellable`](crate::Reactor::spawn_cancellable) | fails its wait in `Cancelling::or`, once; a second cancel drops its future |
//!
//! ## Sources of a cancel
//!
//! - [`cancel`](crate::Deferred::cancel), on a Deferred that you hold;
//!   [`canceller`](crate::Deferred::canceller) makes a handle for one that a task awaits.
//! - A time limit: [`add_timeout`](crate::Deferred::add_timeout) cancels,
//!   [`timeout`](crate::Reactor::timeout) drops the future.
//! - A drop: a Deferred that was polled and hasn't fired is cancelled when it is dropped, since the
//!   task that awaited it was dropped too. So cancelling a task also cancels the Deferred that it
//!   awaits, and so on down to the timer or the connect.
//! - [`abort_on_drop`](crate::Deferred::abort_on_drop), a [`scope`](crate::Reactor::scope), the losers
//!   of a `race`, and the end of the loop.
//!
//! ## A Deferred that can be cancelled
//!
//! Only the producer knows how to stop its work, so it supplies a canceller. This client numbers
//! its requests, and notifies the server when it no longer needs an answer:
//!
//! ```
//! use std::collections::HashMap;
//!
//! use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
//! use couplet::testing::{failure_of, hold};
//! use couplet::{Deferred, Resolver, Transport};
//!
//! #[derive(Default)]
//! struct Client {
//!     last: u32,
//!     pending: HashMap<u32, Resolver<String>>,
//! }
//!
//! impl Client {
//!     fn ask(&mut self, transport: &Transport, question: &str) -> Deferred<String> {
//!         self.last += 1;
//!         let number = self.last;
//!         transport.write(format!("{number} {question}\r\n"));
//!         let client = transport.connection::<Client>();
//!         let (answer, resolver) = Deferred::with_canceller(move |_| {
//!             client.tell(move |client, transport| {
//!                 client.pending.remove(&number);
//!                 transport.write(format!("{number} never mind\r\n"));
//!             });
//!         });
//!         self.pending.insert(number, resolver);
//!         answer
//!     }
//! }
//!
//! impl LineProtocol for Client {
//!     fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
//!         let line = String::from_utf8_lossy(line);
//!         let Some((number, answer)) = line.split_once(' ') else { return };
//!         let resolver = number.parse().ok().and_then(|number: u32| self.pending.remove(&number));
//!         if let Some(resolver) = resolver {
//!             resolver.callback(answer.to_owned());
//!         }
//!     }
//! }
//!
//! let mut held = hold(LineReceiver::new(Client::default()));
//! let answer = held.with(|receiver, transport| receiver.protocol().ask(transport, "6 times 9?"));
//! let answer = answer.expect("it is connected");
//! assert_eq!(held.wire.take(), b"1 6 times 9?\r\n");
//! answer.cancel();
//! held.settle();
//! assert_eq!(held.wire.take(), b"1 never mind\r\n");
//! assert!(failure_of(answer).is_cancelled());
//! ```
//!
//! The canceller reaches the protocol by `tell`, as any callback does, so it never finds the
//! protocol borrowed. It doesn't fire the resolver that it receives, so the result is `Cancelled`.
//!
//! ## A task
//!
//! Cancelling the Deferred of [`spawn`](crate::Reactor::spawn) raises no error in the task: the
//! turn, never `cancel` itself, drops the future at the `await` that it has reached. Cleanup that
//! must always happen belongs in a `Drop`:
//!
//! ```
//! use couplet::testing::{Clock, failure_of};
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! struct Lamp(Rc<Cell<bool>>);
//! impl Drop for Lamp {
//!     fn drop(&mut self) {
//!         self.0.set(false);
//!     }
//! }
//!
//! let mut clock = Clock::new();
//! let (reactor, is_on) = (clock.reactor(), Rc::new(Cell::new(true)));
//! let lamp = Lamp(is_on.clone());
//! let task = clock.reactor().spawn(async move {
//!     let _lamp = lamp;
//!     reactor.sleep(Duration::from_secs(3600)).await
//! });
//! clock.settle();
//! task.cancel();
//! assert!(is_on.get(), "not yet: the turn drops it");
//! clock.settle();
//! assert!(!is_on.get());
//! assert!(failure_of(task).is_cancelled());
//! ```
//!
//! ## A task that says good-bye
//!
//! A `Drop` can't await. A task that needs to finish something first is spawned with
//! [`spawn_cancellable`](crate::Reactor::spawn_cancellable), and waits with
//! [`Cancelling::or`](crate::task::Cancelling::or). A cancel fails that wait with `Cancelled`,
//! once; no other await is interrupted. The value that the task then returns is the result. A
//! second cancel drops a task that takes too long:
//!
//! ```
//! use couplet::testing::{hold, success_of};
//! use couplet::{Protocol, Stream, Transport};
//!
//! # struct Idle;
//! # impl Protocol for Idle { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
//! let mut held = hold(Idle);
//! let mut stream = Stream::new(&held.connection.transport());
//! let session = held.reactor().spawn_cancellable(async move |cancelling| {
//!     let mut lines = 0;
//!     loop {
//!         match cancelling.or(async { Ok(stream.read_line().await?) }).await {
//!             Ok(Some(_)) => lines += 1,
//!             Ok(None) => break,
//!             Err(failure) if failure.is_cancelled() => {
//!                 stream.write_all("421 closing\r\n").await?; // not interrupted
//!                 break;
//!             }
//!             Err(failure) => return Err(failure),
//!         }
//!     }
//!     Ok(lines)
//! });
//! held.push(b"one\r\ntwo\r\n");
//! session.cancel();
//! held.settle();
//! assert_eq!(held.wire.take(), b"421 closing\r\n");
//! assert!(held.wire.saw_fin(), "the stream was dropped");
//! assert_eq!(success_of(session), 2);
//! ```
//!
//! ## Time limits
//!
//! | | limits | when the time is up |
//! | --- | --- | --- |
//! | [`add_timeout`](crate::Deferred::add_timeout) | a Deferred and the callbacks added before the call; starts with the call | cancels it; a canceller may still supply a result |
//! | [`timeout`](crate::Reactor::timeout) | any future; starts with its first poll | drops it |
//!
//! Both fail with [`TimedOut`](crate::defer::TimedOut), but only if it was their own time limit: a cancel
//! from elsewhere remains a cancel. `add_timeout` also limits a task from outside, through its Deferred; a
//! task of `spawn_cancellable` then gets `Cancelled` and may still say good-bye.
//!
//! ## Tasks that belong together
//!
//! By default a task outlives the task that spawned it.
//! [`abort_on_drop`](crate::Deferred::abort_on_drop) ties a task to a variable, and a
//! [`scope`](crate::Reactor::scope) ties any number of tasks to a block. The block is ready when
//! all of them have ended; the failure of one cancels the others, and so does dropping the block:
//!
//! ```
//! use couplet::Failure;
//! use std::{cell::Cell, rc::Rc, time::Duration};
//!
//! let beats = Rc::new(Cell::new(0));
//! let counted = beats.clone();
//! let result = couplet::testing::run(|reactor| {
//!     let reactor = reactor.clone();
//!     reactor.clone().spawn(async move {
//!         let scoped = reactor.scope(async |scope| {
//!             let mut heart = reactor.interval(Duration::from_secs(10));
//!             let beating = scope.spawn(async move {
//!                 loop {
//!                     heart.tick().await?;
//!                     counted.set(counted.get() + 1);
//!                 }
//! #               #[allow(unreachable_code)]
//! #               Ok(())
//!             });
//!             beating.detach(); // the scope waits for it nevertheless
//!             reactor.sleep(Duration::from_secs(25)).await?;
//!             Err::<(), _>(Failure::msg("the session is over"))
//!         });
//!         let failure = scoped.await.unwrap_err(); // the heart has stopped
//!         reactor.sleep(Duration::from_secs(60)).await?;
//!         Ok(failure.to_string())
//!     })
//! })?;
//! assert_eq!(result, "the session is over");
//! assert_eq!(beats.get(), 3, "at 0, 10 and 20");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Streams
//!
//! Dropping a [`Stream`](crate::Stream) closes its connection once everything written is sent.
//! Dropping the future of one of its methods ends only that wait; the effect on bytes depends on
//! the method:
//!
//! | method | when its future is dropped |
//! | --- | --- |
//! | `read`, `read_buf` | nothing was read |
//! | `read_line`, `read_until`, `Lines::next` | nothing was read: a partial line stays in the stream |
//! | `Framed::next` | no message was taken: a partial one stays in the framer |
//! | `read_to_end` | the bytes read so far are in the vector |
//! | **`read_exact`** | the bytes read so far are in the buffer, and **how many is unknown** |
//! | `write_bytes` | nothing was written |
//! | **`write_all`** | a part was written, and **how much is unknown** |
//! | `flush`, `draining`, `Interval::tick` | nothing has changed |
//! | `shutdown`, `close`, `start_tls` | it was started, and continues |
//! | **`copy_bidirectional`** | **both connections are closed** |
//!
//! So a loop that waits for either a line or something else loses nothing. After an interrupted
//! `read_exact` or `write_all` the stream is at an unknown position in a message:
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::testing::{hold, success_of};
//! use couplet::{Protocol, Stream, Transport};
//!
//! # struct Idle;
//! # impl Protocol for Idle { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
//! let mut held = hold(Idle);
//! let reactor = held.reactor();
//! let mut stream = Stream::new(&held.connection.transport());
//! let task = held.reactor().spawn(async move {
//!     let mut length = [0; 4];
//!     let second = Duration::from_secs(1);
//!     let wait = reactor.timeout(second, async { Ok(stream.read_exact(&mut length).await?) });
//!     wait.await.unwrap_err(); // half of the length had arrived
//!     stream.read_exact(&mut length).await?;
//!     Ok(length)
//! });
//! held.push(b"\0\0");
//! held.advance(Duration::from_secs(1));
//! held.push(b"\0\x05hello");
//! assert_eq!(success_of(task), *b"\0\x05he", "neither a length nor a message");
//! ```
//!
//! Close the connection after such a timeout, or read with [`framed`](crate::Stream::framed), which keeps
//! partial messages.
//!
//! ## The end of the loop
//!
//! When a run ends, connections are closed first, and operations that wait for one fail with the reason of
//! its loss. A task woken by that is polled once more. Then the remaining tasks, timers, calls and jobs are
//! dropped, and their Deferreds fail with `Cancelled`; their callbacks still run. The loop doesn't wait for
//! tasks: work that must be finished first belongs in a
//! [`Shutdown::Before`](crate::Shutdown::Before) trigger; see [`stopping`](super::stopping).
//!
//! ## Pitfalls
//!
//! **Polled or not.** Dropping a Deferred that was never polled only detaches it: its work continues. Once
//! it was polled, by an `await` or a `select!`, dropping it cancels. `detach()` never cancels, and
//! `abort_on_drop()` always does:
//!
//! ```
//! use couplet::Deferred;
//! use std::{future::Future, pin::pin, task::{Context, Waker}};
//!
//! let (fresh, resolver) = Deferred::<()>::new();
//! drop(fresh);
//! assert!(!resolver.is_cancelled());
//!
//! let (mut polled, resolver) = Deferred::<()>::new();
//! assert!(pin!(&mut polled).poll(&mut Context::from_waker(Waker::noop())).is_pending());
//! drop(polled);
//! assert!(resolver.is_cancelled());
//!
//! let (fresh, resolver) = Deferred::<()>::new();
//! drop(fresh.abort_on_drop());
//! assert!(resolver.is_cancelled());
//! ```
//!
//! So a task that spawns another and drops the Deferred leaves it running, while a task that is
//! dropped during `.await` cancels the task that it awaits.
//!
//! **An errback that handles everything handles a cancel too.** `add_errback(|_| Ok(default))` and
//! `unwrap_or_default()` turn it into a result, and a retry loop around them can't be stopped. Check
//! [`is_cancelled`](crate::Failure::is_cancelled) first, and pass such a failure on.
//!
//! **A canceller may supply a result.** The Deferred then has that result instead of `Cancelled`,
//! even if a timeout caused the cancel.
//!
//! **A cancel is not a rollback.** Written bytes are on their way, and a running thread finishes.
//! If state must stay consistent, change it between two `await`s, where a task is never dropped.
//! Permits of locks and semaphores are released when they are dropped.
//!
//! **Without a canceller, only the Deferred is cancelled.** In steps 3 to 6 of
//! [`callbacks_to_async`](super::callbacks_to_async) a cancelled poem is still read to its end, because
//! nothing closes the connection. A stream does so when it is dropped; a protocol needs a canceller that
//! calls [`abort_connection`](crate::Transport::abort_connection).
