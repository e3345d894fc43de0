//! Tasks that handle their cancellation.

use std::fmt;
use std::panic::Location;

use super::unless;
use crate::defer::{Cancelled, Deferred, DeferredEvent, Resolver, Result};
use crate::reactor::Reactor;

impl Reactor {
    /// [`spawn`](Self::spawn) for a task that handles its cancellation. A cancel of the Deferred drops
    /// nothing; it fails what the task awaits by [`Cancelling::or`] with
    /// [`Cancelled`]. What the task makes of that, be it the failure passed on, a
    /// good-bye sent first, or a result, is the result of the Deferred. A second cancel drops the
    /// task, and so does the end of the loop. Twisted's `inlineCallbacks` under a cancel.
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
        let cancelling = Cancelling { asked: DeferredEvent::new(), place: Location::caller() };
        let asking = cancelling.clone();
        // Fires when the task is cancelled or over: from then on its own Deferred is waited for.
        let (gate, opened) = Deferred::with_canceller(move |resolver: Resolver<()>| {
            asking.asked.set();
            resolver.callback(());
        });
        let over = Opens(Some(opened));
        let task = self.spawn(async move {
            let _over = over;
            work(cancelling).await
        });
        gate.then(move |()| task)
    }
}

/// Opens the gate when the task ends, however it ends.
struct Opens(Option<Resolver<()>>);

impl Drop for Opens {
    fn drop(&mut self) {
        if let Some(resolver) = self.0.take() {
            resolver.callback(());
        }
    }
}

/// What a task of [`Reactor::spawn_cancellable`] hears of its cancellation by. Cheap to clone.
#[derive(Clone)]
pub struct Cancelling {
    asked: DeferredEvent,
    place: &'static Location<'static>,
}

impl Cancelling {
    /// Waits for `future`, or until the task is cancelled: then drops it and fails with [`Cancelled`].
    /// That happens once; what is awaited afterwards is awaited to its end.
    ///
    /// # Errors
    ///
    /// The failure of `future`; [`Cancelled`].
    pub async fn or<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        // Asked within, because a wait that is never polled stays in the event's line.
        match unless(future, async { self.asked.wait().await }).await {
            Ok(result) => result,
            Err(_) => {
                self.asked.clear();
                Err(Cancelled::of(format!("the task of {}", self.place)).into())
            }
        }
    }

    /// Ready when the task is cancelled. Told by this too, [`or`](Self::or) need not tell it again.
    pub async fn asked(&self) {
        let _ = self.asked.wait().await;
        self.asked.clear();
    }

    /// Whether the task was cancelled, and nothing of it was told of that.
    pub fn is_asked(&self) -> bool {
        self.asked.is_set()
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
    fn what_is_over_leaves_no_wait() {
        let cancelling = Cancelling { asked: DeferredEvent::new(), place: Location::caller() };
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(pin!(cancelling.or(async { Ok(()) })).poll(&mut cx).is_ready());
            assert!(
                pin!(cancelling.or(std::future::pending::<Result<()>>()))
                    .poll(&mut cx)
                    .is_pending()
            );
        }
        assert_eq!(cancelling.asked.waiting(), 0);
    }
}
