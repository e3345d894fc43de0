//! [`Interval`]: points in time for tasks, as [`LoopingCall`](super::LoopingCall) has them for calls;
//! and [`yield_now`].

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::from_nanos;
use crate::defer::{Deferred, Result};
use crate::reactor::{Reactor, Source, Waiting};

impl Reactor {
    /// Points in time for a task to wait for: now, and at every whole `period` after it.
    ///
    /// Points that were missed, because the loop or the task was busy, are skipped, so the grid never
    /// shifts. With a period of zero there is one in every turn.
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
            start: self.now(),
            period,
            next: 0,
            sleeping: None,
            place: Location::caller(),
        }
    }
}

/// Points in time; see [`Reactor::interval`]. Also a `Stream` of `futures-core`, without an end.
pub struct Interval {
    reactor: Reactor,
    start: Instant,
    period: Duration,
    /// The first point that was not told.
    next: u128,
    sleeping: Option<Deferred<()>>,
    place: Source,
}

impl Interval {
    /// Waits for the next point, and returns how many have passed since the last call, including this
    /// one: 1, or more if some were skipped.
    ///
    /// Cancel-safe: a future that is dropped has taken no point.
    ///
    /// # Errors
    ///
    /// [`Cancelled`](crate::defer::Cancelled) when the loop ends first.
    pub async fn tick(&mut self) -> Result<u64> {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// Begins a new grid: the next point is one period from now.
    pub fn reset(&mut self) {
        self.start = self.reactor.now();
        self.next = 1;
        self.sleeping = None;
    }

    fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64>> {
        loop {
            if let Some(sleeping) = &mut self.sleeping {
                let woke = ready!(Pin::new(sleeping).poll(cx));
                self.sleeping = None;
                woke?;
                if self.period.is_zero() {
                    self.next += 1;
                    return Poll::Ready(Ok(1));
                }
            }
            let passed = self.reactor.now().saturating_duration_since(self.start).as_nanos();
            let point = passed.checked_div(self.period.as_nanos()).unwrap_or(0);
            if point >= self.next {
                // A Duration's nanoseconds fit: there are fewer than 2^94.
                let points = u64::try_from(point + 1 - self.next).unwrap_or(u64::MAX);
                self.next = point + 1;
                return Poll::Ready(Ok(points));
            }
            let due = self.next.saturating_mul(self.period.as_nanos());
            let wait = from_nanos(due.saturating_sub(passed));
            self.sleeping = Some(self.reactor.sleep_for((Waiting::Interval, self.place), wait));
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
        f.debug_struct("Interval").field("period", &self.period).finish_non_exhaustive()
    }
}

/// Lets everything else have its turn: the task goes on in the next turn, after I/O and timed calls.
/// For work that is long and never waits.
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
