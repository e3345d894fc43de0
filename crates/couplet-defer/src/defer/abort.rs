//! [`AbortOnDrop`]: cancels work when the consumer of its result is dropped.
//!
//! Contract: 125d.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Deferred, Result};

impl<T: 'static> Deferred<T> {
    /// Ties the work to this future: dropping it cancels the Deferred, even if it was never polled.
    ///
    /// ```
    /// # use couplet_defer as couplet;
    /// use couplet::Deferred;
    ///
    /// let (work, resolver) = Deferred::<()>::new();
    /// let guard = work.abort_on_drop();
    /// drop(guard);
    /// assert!(resolver.is_cancelled());
    /// ```
    pub fn abort_on_drop(self) -> AbortOnDrop<T> {
        AbortOnDrop(Some(self))
    }
}

/// A Deferred that is cancelled when this is dropped; see [`Deferred::abort_on_drop`].
#[must_use = "dropping it cancels the Deferred"]
pub struct AbortOnDrop<T: 'static>(Option<Deferred<T>>);

impl<T: 'static> AbortOnDrop<T> {
    /// The Deferred; dropping it no longer cancels the work.
    pub fn into_inner(mut self) -> Deferred<T> {
        self.0.take().unwrap_or_else(|| Deferred::fail(super::Cancelled::new()))
    }
}

impl<T: 'static> Future for AbortOnDrop<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        match &mut self.0 {
            Some(deferred) => Pin::new(deferred).poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<T: 'static> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        if let Some(deferred) = self.0.take() {
            deferred.cancel();
        }
    }
}

impl<T: 'static> fmt::Debug for AbortOnDrop<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AbortOnDrop").field(&self.0).finish()
    }
}
