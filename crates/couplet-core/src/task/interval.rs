//! [`Interval`]: a time grid for tasks, as [`LoopingCall`](super::LoopingCall) is for calls; and
//! [`yield_now`].
//!
//! Contract: 129b, 130a.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::grid::Grid;
use crate::defer::{Deferred, Failure, Result};
use crate::recorder::{Reactor, Source, TimerPurpose, loop_ended};

impl Reactor {
    /// Points in time for a task to wait for: now, and every whole `period` after it.
    ///
    /// Points missed because the loop or the task was busy are skipped, so the grid never shifts.
    /// With a period of zero there is a point in every turn.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// couplet::run_until(|reactor| {
    ///     let mut ticks = reactor.interval(Duration::from_millis(1));
    ///     reactor.spawn(async move {
    ///         for _ in 0..3 {
    ///             let points = ticks.tick().await?;
    ///             println!("tick, {} skipped", points - 1);
    ///         }
    ///         Ok(())
    ///     })
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn interval(&self, period: Duration) -> Interval {
        Interval {
            reactor: self.clone(),
            grid: Grid::with_start(self.now(), period),
            // The first point needs no wait, even if the period is zero.
            sleeping: Some(Deferred::succeed(())),
            ended: None,
            place: Location::caller(),
        }
    }
}

/// Points in time; see [`Reactor::interval`]. Also a `Stream` of `futures-core`, without an end.
pub struct Interval {
    reactor: Reactor,
    grid: Grid,
    sleeping: Option<Deferred<()>>,
    /// The failure of a tick that the end of the loop cut off.
    ended: Option<Failure>,
    place: Source,
}

impl Interval {
    /// Waits for the next point. Returns the number of points since the last call, including this
    /// one: 1, or more if some were skipped.
    ///
    /// Cancel-safe: dropping the future loses no point.
    ///
    /// # Errors
    ///
    /// [`Cancelled`](crate::defer::Cancelled) if the loop ends first. Every further tick fails too,
    /// even if points have passed, until a [`reset`](Self::reset) for another run.
    pub async fn tick(&mut self) -> Result<u64> {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Starts a new grid: the next point is one period from now.
    pub fn reset(&mut self) {
        self.grid = Grid::after_start(self.reactor.now(), self.grid.interval());
        self.sleeping = None;
        self.ended = None;
    }

    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64>> {
        if self.reactor.is_dropped() {
            return Poll::Ready(Err(loop_ended()));
        }
        if let Some(ended) = &self.ended {
            return Poll::Ready(Err(ended.clone()));
        }
        loop {
            let mut has_slept = false;
            if let Some(sleeping) = &mut self.sleeping {
                let woke = ready!(Pin::new(sleeping).poll(cx));
                self.sleeping = None;
                self.ended = woke.as_ref().err().cloned();
                woke?;
                has_slept = true;
            }
            let now = self.reactor.now();
            // With a period of zero, each finished sleep is a point.
            if has_slept || !self.grid.interval().is_zero() {
                let points = self.grid.count(now);
                if points > 0 {
                    return Poll::Ready(Ok(points));
                }
            }
            let waiter = (TimerPurpose::Interval, self.place);
            self.sleeping = Some(self.reactor.sleep_for(waiter, self.grid.until_next(now)));
        }
    }
}

impl futures_core::Stream for Interval {
    type Item = Result<u64>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<u64>>> {
        self.poll_tick(cx).map(Some)
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interval").field("period", &self.grid.interval()).finish_non_exhaustive()
    }
}

/// Yields to all other work: the task continues in the next turn, after I/O and timed calls. For
/// long computations that never wait.
///
/// ```
/// use couplet::task::yield_now;
///
/// async fn sum(numbers: Vec<u64>) -> u64 {
///     let mut sum = 0;
///     for some in numbers.chunks(10_000) {
///         sum += some.iter().sum::<u64>();
///         yield_now().await;
///     }
///     sum
/// }
/// ```
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
