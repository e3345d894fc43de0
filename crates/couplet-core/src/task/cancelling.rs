//! Tasks that handle their cancellation.
//!
//! Contract: 125.

use std::fmt;
use std::panic::Location;

use super::race_against;
use crate::defer::{Cancelled, Deferred, DeferredEvent, Resolver, Result};
use crate::recorder::Reactor;

impl Reactor {
    /// Like [`spawn`](Self::spawn), for a task that handles its cancellation. Cancelling the
    /// Deferred does not drop the task: the future that the task awaits through [`Cancelling::or`]
    /// fails with [`Cancelled`]. The task may pass the failure on, send a farewell first, or return
    /// a value; its result is the result of the Deferred. A second cancel drops the task, and so
    /// does the end of the loop. Twisted's `inlineCallbacks` under a cancel.
    ///
    /// ```
    /// use couplet::Stream;
    ///
    /// # fn example(reactor: &couplet::Reactor, mut stream: Stream) {
    /// let talking = reactor.spawn_cancellable(async move |cancelling| {
    ///     let line = cancelling.or(async { Ok(stream.read_line().await?) }).await;
    ///     if line.as_ref().is_err_and(|failure| failure.is_cancelled()) {
    ///         stream.write_all("421 closing\r\n").await?;
    ///     }
    ///     stream.close().await?;
    ///     line
    /// });
    /// # talking.detach();
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_cancellable<T: 'static>(
        &self,
        work: impl AsyncFnOnce(Cancelling) -> Result<T> + 'static,
    ) -> Deferred<T> {
        let cancelling =
            Cancelling { cancel_event: DeferredEvent::new(), place: Location::caller() };
        let asking = cancelling.clone();
        // Fires when the task is cancelled or has ended; the chain then waits for the task's own
        // Deferred.
        let (gate, opened) = Deferred::with_canceller(move |resolver: Resolver<()>| {
            asking.cancel_event.set();
            resolver.callback(());
        });
        let over = GateGuard(Some(opened));
        let task = self.spawn(async move {
            let _over = over;
            work(cancelling).await
        });
        gate.then(move |()| task)
    }
}

/// Opens the gate when the task's future ends or is dropped.
struct GateGuard(Option<Resolver<()>>);

impl Drop for GateGuard {
    fn drop(&mut self) {
        if let Some(resolver) = self.0.take() {
            resolver.callback(());
        }
    }
}

/// Notifies a task of [`Reactor::spawn_cancellable`] that it was cancelled. Cheap to clone.
#[derive(Clone)]
pub struct Cancelling {
    cancel_event: DeferredEvent,
    place: &'static Location<'static>,
}

impl Cancelling {
    /// Waits for `future`; if the task is cancelled first, drops `future` and fails with
    /// [`Cancelled`]. A cancel interrupts only one future; later ones run to completion.
    ///
    /// # Errors
    ///
    /// The failure of `future`; [`Cancelled`].
    pub async fn or<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        // The wait is created inside the future: dropped without being polled, it would stay in the
        // event's queue.
        match race_against(future, async { self.cancel_event.wait().await }).await {
            Ok(result) => result,
            Err(_) => {
                self.cancel_event.clear();
                Err(Cancelled::of(format!("the task of {}", self.place)).into())
            }
        }
    }

    /// Completes when the task is cancelled. Like [`or`](Self::or), it reports the cancel only
    /// once: later calls of either wait for another.
    pub async fn asked(&self) {
        let _ = self.cancel_event.wait().await;
        self.cancel_event.clear();
    }

    /// Whether the task was cancelled and neither [`or`](Self::or) nor [`asked`](Self::asked) has
    /// reported it.
    pub fn is_asked(&self) -> bool {
        self.cancel_event.is_set()
    }
}

impl fmt::Debug for Cancelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancelling").field("asked", &self.is_asked()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_finished_future_leaves_no_wait() {
        let cancelling =
            Cancelling { cancel_event: DeferredEvent::new(), place: Location::caller() };
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(pin!(cancelling.or(async { Ok(()) })).poll(&mut cx).is_ready());
            assert!(
                pin!(cancelling.or(std::future::pending::<Result<()>>()))
                    .poll(&mut cx)
                    .is_pending()
            );
        }
        assert_eq!(cancelling.cancel_event.waiting(), 0);
    }
}
