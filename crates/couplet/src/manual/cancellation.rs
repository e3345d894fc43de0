//! # Cancellation
//!
//! To cancel is to say that nobody wants the result any more. It goes to whatever is being waited for
//! at the moment, stops that, and comes back as the failure [`Cancelled`](crate::defer::Cancelled). What
//! has fired, or has ended, is not changed by it. A `Cancelled` that nobody handles is not reported,
//! because somebody asked for it.
//!
//! | a cancel of | does |
//! | --- | --- |
//! | a plain [`Deferred`](crate::Deferred) | fails it; a result that comes later is dropped |
//! | one [with a canceller](crate::Deferred::with_canceller) | calls that first, which stops the work and may supply another result |
//! | a chain | reaches the origin, or the inner Deferred that `then` waits for |
//! | [`list`](crate::defer::list), [`gather`](crate::defer::gather), [`race`](crate::defer::race), [`first_of`](crate::defer::first_of) | reaches each member |
//! | [`connect`](crate::Reactor::connect) | stops the attempt, or the reconnecting |
//! | [`sleep`](crate::Reactor::sleep), [`defer_later`](crate::Reactor::defer_later) | removes the timer |
//! | [`defer_to_thread`](crate::Reactor::defer_to_thread) | drops a job that hasn't started; one that has runs to its end, and its result is dropped |
//! | [`acquire`](crate::defer::DeferredLock::acquire), [`get`](crate::defer::DeferredQueue::get), [`wait`](crate::defer::DeferredEvent::wait) | leaves the line; no permit or item is lost |
//! | [`LoopingCall::start`](crate::LoopingCall::start), [`coiterate`](crate::task::Cooperator::coiterate) | stops the calls, and cancels what the last one waits for |
//! | a [drain](crate::Reactor::drain) | goes on to its next stage: closes what hasn't finished |
//! | a task of [`spawn`](crate::Reactor::spawn) | drops its future, in the turn |
//! | a task of [`spawn_cancellable`](crate::Reactor::spawn_cancellable) | fails what it waits for, once; a second cancel drops its future |
//!
//! ## Who cancels
//!
//! - [`cancel`](crate::Deferred::cancel), if you hold the Deferred, and
//!   [`canceller`](crate::Deferred::canceller), if somebody else does, such as a task that awaits it.
//! - A time limit: [`add_timeout`](crate::Deferred::add_timeout) cancels,
//!   [`timeout`](crate::Reactor::timeout) drops the future.
//! - A drop: a Deferred that was polled and hasn't fired is cancelled when it is dropped, since the task
//!   that awaited it is gone. So cancelling a task cancels what it awaits, and so on down to the timer
//!   or the connect.
//! - [`abort_on_drop`](crate::Deferred::abort_on_drop), a [`scope`](crate::Reactor::scope), the losers
//!   of a `race`, and the end of the loop.
//!
//! ## A Deferred that can be cancelled
//!
//! The producer knows how to stop its work, so it passes a canceller. This client numbers its requests,
//! and tells the server when an answer isn't needed:
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
//! The canceller gets to the protocol by `tell`, like every callback, so it can't find it borrowed.
//! It doesn't fire the resolver that it is given, so the result is `Cancelled`.
//!
//! ## A task
//!
//! Cancelling the Deferred of [`spawn`](crate::Reactor::spawn) raises nothing in the task: its future is
//! dropped at the `await` where it is, in the turn and never inside of `cancel`. What must happen in any
//! case goes into a `Drop`:
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
//! A `Drop` can't await. A task that has something to finish is spawned by
//! [`spawn_cancellable`](crate::Reactor::spawn_cancellable) and waits by
//! [`Cancelling::or`](crate::task::Cancelling::or). A cancel fails that wait with `Cancelled`, once;
//! everything else that the task awaits goes on to its end. Its result is what it makes of that. A task
//! that takes too long over it is dropped by a second cancel:
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
//! | [`add_timeout`](crate::Deferred::add_timeout) | a Deferred, with the callbacks added before it, from the call on | cancels it; a canceller may still supply a result |
//! | [`timeout`](crate::Reactor::timeout) | any future, from its first poll on | drops it |
//!
//! Both fail with [`TimedOut`](crate::defer::TimedOut), and only if theirs is the time that was up: a
//! cancel from elsewhere stays a cancel. The Deferred of a task has the first too, so a limit can be put
//! on a task from outside; `spawn_cancellable` is told in that way that its time is up.
//!
//! ## Tasks that belong together
//!
//! A task doesn't end with the task that spawned it. Two things tie it:
//! [`abort_on_drop`](crate::Deferred::abort_on_drop) ties one to a variable, and a
//! [`scope`](crate::Reactor::scope) ties any number to a block. The block ends when all of them have; a
//! failure of one cancels the others, and so does dropping the block:
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
//!         let failure = scoped.await.unwrap_err(); // and the heart is still
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
//! Dropping a [`Stream`](crate::Stream) closes its connection, after what was written. Dropping the
//! future of one of its methods stops the wait, and what that means for bytes is this:
//!
//! | method | a future that is dropped |
//! | --- | --- |
//! | `read`, `read_buf` | has read nothing |
//! | `read_line`, `read_until`, `Lines::next` | has read nothing: the beginning of a line stays in the stream |
//! | `Framed::next` | has taken no message; the beginning of one stays with the framer |
//! | `read_to_end` | what it has read is in the vector |
//! | **`read_exact`** | what it has read is in the buffer, and **how much is unknown** |
//! | `write_bytes` | has written nothing |
//! | **`write_all`** | has written a part, and **how much is unknown** |
//! | `flush`, `draining` | has changed nothing |
//! | `shutdown`, `close`, `start_tls` | was begun, and goes on |
//! | **`copy_bidirectional`** | **closes both connections** |
//!
//! So a loop that waits for a line or for something else, whichever is first, loses nothing. After an
//! interrupted `read_exact` or `write_all` the two sides no longer agree where a message begins: close
//! the connection, or read by [`framed`](crate::Stream::framed) instead.
//!
//! ## The end of the loop
//!
//! When a run ends, connections are closed first, and whatever waits for one of them fails with the
//! reason of its loss. A task that this wakes runs once more. Then what is left is dropped: tasks,
//! timers, calls, jobs that haven't begun. Their Deferreds fail with `Cancelled`, "the loop has ended",
//! which the last callbacks may see. Nothing waits for a task: work that must be finished first belongs
//! into a [`Shutdown::Before`](crate::Shutdown::Before) trigger; see [`stopping`](super::stopping).
//!
//! ## Pitfalls
//!
//! **Polled or not.** A Deferred that was never polled is only detached when it is dropped: its work
//! goes on. Once polled, by an `await` or a `select!`, dropping it cancels. `detach()` cancels in neither
//! case, `abort_on_drop()` in both:
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
//! So a task that spawns another and drops the Deferred leaves it running, and one that awaits it for a
//! while takes it along.
//!
//! **An errback that handles everything handles a cancel too.** After
//! `add_errback(|_| Ok(default))` or `unwrap_or_default()` the work goes on as if there were a result. In
//! a retry loop that is a task that can't be stopped. Ask [`is_cancelled`](crate::Failure::is_cancelled)
//! first, and pass it on.
//!
//! **A canceller may say no.** If it supplies a value, that is the result, and a timeout is none.
//!
//! **A cancel is not a rollback.** What has been written is on its way, and what a thread does goes on.
//! State that must change as a whole changes between two `await`s, where a task is never dropped.
//! Permits of locks are released by their drop.
//!
//! **A chain without a canceller fails at once, and its work goes on.** The poems of
//! [`callbacks_to_async`](super::callbacks_to_async) up to step 6 are read to their end after a cancel.
//! A stream closes its connection; a protocol does so by a canceller that calls
//! [`abort_connection`](crate::Transport::abort_connection).
