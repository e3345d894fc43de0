//! A loop inside tokio: a future that turns the loop when tokio wakes it. Unix, feature `tokio`.
//!
//! One thread serves both: tokio waits for its own sockets and for the loop's descriptor, and the
//! loop's callbacks run in tokio's context, so they can spawn tokio tasks and use its libraries. A
//! [`Loop`] stays in its thread, so the future needs an executor for futures that are not `Send`: a
//! current-thread runtime, a `LocalSet`, or `block_on`.
//!
//! ```
//! use couplet::{Loop, Protocol, Transport, embed};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::TcpStream;
//!
//! struct Echo;
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> couplet::Result<()> {
//!     let answer = embed::run(Loop::new()?, async |reactor| {
//!         let port = reactor.listen("localhost:0", || Echo)?;
//!         let address = port.host().socket_addr().expect("a TCP port");
//!         let mut stream = TcpStream::connect(address).await?; // tokio's
//!         stream.write_all(b"hello").await?;
//!         let mut answer = [0; 5];
//!         stream.read_exact(&mut answer).await?;
//!         Ok(answer)
//!     });
//!     assert_eq!(&answer.await?, b"hello");
//!     Ok(())
//! }
//! ```
//!
//! [`Embedded`] is a bare run without a program: a future to spawn.
//!
//! # Wake-ups
//!
//! - An event: the loop's descriptor becomes readable. A handle that records outside of a turn, in
//!   a tokio task, has the same effect.
//! - The time of [`Loop::next_turn`]. tokio's timers have millisecond resolution, so a timed call
//!   may be up to 1 ms late. The loop runs on real time even if a test pauses tokio's clock.
//!
//! The loop is then turned until it is idle, because tokio is edge-triggered. After 16 turns in a
//! row it yields to tokio's other tasks and events, so that neither side starves the other.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

use crate::reactor::Stopped;
use crate::{Loop, Reactor, Result, Signal};

/// Maximum turns in a row before tokio's other tasks and events run.
const TURNS: u32 = 16;

/// Runs a program: turns the loop while `program` runs, then stops the reactor and returns the
/// result once the run has ended. The program is a tokio future, not a task of the loop: it is
/// polled between turns.
///
/// Dropping the future ends the run, as it does with [`Embedded`].
///
/// # Errors
///
/// The program's failure; [`Stopped`] if the reactor was stopped first and the program did not
/// succeed before the end of the run; the system's error if it refuses to watch the loop.
///
/// # Panics
///
/// Outside of a tokio runtime, or if the runtime has no timers or no I/O (`enable_all`).
pub async fn run<T>(l: Loop, program: impl AsyncFnOnce(Reactor) -> Result<T>) -> Result<T> {
    let mut run = Embedded::begin(l, |_| Ok(()))?;
    let reactor = run.reactor();
    let mut program = pin!(program(reactor.clone()));
    let (mut is_done, mut result) = (false, None);
    let ended = std::future::poll_fn(|cx| {
        if !is_done && let Poll::Ready(done) = program.as_mut().poll(cx) {
            is_done = true;
            // A failure during the shutdown is less informative than [`Stopped`].
            result = Some(done).filter(|done| done.is_ok() || !reactor.is_stopping());
            reactor.stop();
        }
        Pin::new(&mut run).poll(cx)
    });
    ended.await?;
    result.unwrap_or_else(|| Err(Stopped { signal: run.stopped_by() }.into()))
}

/// A run of a loop, as a future that turns the loop, and completes when the run ends, by
/// [`Reactor::stop`] or, with [`LoopOptions::signals`](crate::LoopOptions::signals), by a signal.
///
/// The output is an error if the driver's wait fails, or if tokio shuts down. Dropping the future ends
/// the run immediately, as [`Loop::end`] does: connections get `connection_lost`, and nothing is
/// flushed. Neither way waits for threads: a job that is still running finishes in the background.
///
/// ```
/// use couplet::{Loop, embed::Embedded};
/// use std::time::Duration;
/// use tokio::task::LocalSet;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> couplet::Result<()> {
/// let run = Embedded::begin(Loop::new()?, |_reactor| Ok(()))?;
/// let reactor = run.reactor();
/// let local = LocalSet::new();
/// let running = local.spawn_local(run);
/// local.run_until(async {
///     reactor.sleep(Duration::from_millis(1)).await?; // a Deferred, in a task of tokio
///     reactor.stop();
///     running.await?
/// }).await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the loop is turned only while this is awaited"]
pub struct Embedded {
    l: Loop,
    /// A duplicate of the loop's descriptor, which stays open and valid even if the driver replaces
    /// its own.
    watched: AsyncFd<OwnedFd>,
    reactor: Reactor,
    sleep: Pin<Box<Sleep>>,
    /// The deadline of `sleep`, possibly before the next turn is due, but never after.
    sleeps_until: Option<Instant>,
}

impl Embedded {
    /// Begins a run of the loop, and calls `setup`.
    ///
    /// # Errors
    ///
    /// The error of `setup`; `Unsupported` if the loop's driver has no descriptor; the system's
    /// error if it refuses to watch the descriptor.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if the runtime has no timers or no I/O (`enable_all`).
    pub fn begin(l: Loop, setup: impl FnOnce(&Reactor) -> Result<()>) -> Result<Embedded> {
        let Some(descriptor) = l.descriptor() else {
            let why = "cannot embed the loop: its driver has no descriptor";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why).into());
        };
        let watched = watch(descriptor.try_clone_to_owned()?)?;
        let reactor = l.reactor();
        let sleep = Box::pin(sleep(Duration::ZERO));
        let mut run = Embedded { l, watched, reactor, sleep, sleeps_until: None };
        run.l.begin(setup)?;
        Ok(run)
    }

    /// A handle to the loop.
    pub fn reactor(&self) -> Reactor {
        self.reactor.clone()
    }

    /// The signal that ended the run, if one did.
    pub fn stopped_by(&self) -> Option<Signal> {
        self.l.stopped_by()
    }

    /// Whether the descriptor or the clock requires a turn. If neither does, registers the task to
    /// be woken when one does.
    fn wants_turn(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if let Poll::Ready(ready) = self.watched.poll_read_ready(cx) {
            // Cleared before the turn: an event during the turn is a new edge.
            ready?.clear_ready();
            return Ok(true);
        }
        let Some(due) = self.l.next_turn() else { return Ok(false) };
        if due <= self.reactor.now() {
            return Ok(true);
        }
        if self.sleeps_until.is_none_or(|until| due < until) {
            self.set_sleep(due);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.sleeps_until == Some(due) {
                return Ok(true);
            }
            self.set_sleep(due);
        }
        Ok(false)
    }

    fn set_sleep(&mut self, until: Instant) {
        self.sleep.as_mut().reset(until.into());
        self.sleeps_until = Some(until);
    }

    /// Turns the loop while it has work, up to [`TURNS`] times.
    fn turn(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        for _ in 0..TURNS {
            if !self.wants_turn(cx)? {
                return Ok(Poll::Pending);
            }
            if !self.l.turn(Some(Duration::ZERO))? {
                return Ok(Poll::Ready(()));
            }
        }
        // Wakes the task only after tokio has polled for events.
        let _ = pin!(yield_now()).poll(cx);
        Ok(Poll::Pending)
    }
}

#[allow(deprecated, reason = "its successor is unsafe; an OwnedFd meets the requirement")]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.l.end() {
            log_warn!(%error, "cannot restore the signal handlers");
        }
    }
}

impl Future for Embedded {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.l.is_in_run() {
            return Poll::Ready(Ok(()));
        }
        let turned = match self.turn(cx) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => Ok(()),
            Err(error) => Err(error.into()),
        };
        Poll::Ready(turned.and(self.l.end()))
    }
}
