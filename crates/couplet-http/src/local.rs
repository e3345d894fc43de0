//! [`local`]: adapts services that are not `Send` to routers that require `Send`.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use couplet_core::Reactor;
use couplet_core::hooks::LoopOwned;

/// A service that is `Send` but runs on the thread of its loop; created by [`local`].
pub struct LocalService<F: 'static> {
    inner: Arc<LoopOwned<(Reactor, F)>>,
}

/// The response future of a [`LocalService`].
pub struct LocalAnswer<T: 'static>(LoopOwned<Pin<Box<dyn Future<Output = T>>>>);

/// Makes a service from a function that is not `Send`, or whose futures are not: it may hold an
/// `Rc`, a [`Stream`](couplet_core::Stream) or a [`Reactor`].
///
/// The service is `Clone + Send + Sync` and its futures are `Send`, as routers require.
///
/// # Panics
///
/// If it is called, or its future is polled, outside the loop's thread. No server of this crate
/// does that.
pub fn local<F, Q, R>(reactor: &Reactor, handle: F) -> LocalService<F>
where
    F: AsyncFn(Q) -> R + 'static,
{
    LocalService { inner: Arc::new(LoopOwned::new(reactor, (reactor.clone(), handle))) }
}

impl<F: 'static> Clone for LocalService<F> {
    fn clone(&self) -> Self {
        LocalService { inner: self.inner.clone() }
    }
}

impl<F, Q, R> Service<Q> for LocalService<F>
where
    F: AsyncFn(Q) -> R + 'static,
    Q: 'static,
    R: 'static,
{
    type Response = R;
    type Error = Infallible;
    type Future = LocalAnswer<Result<R, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let (reactor, _) = self.inner.get().expect(WRONG_THREAD);
        let inner = self.inner.clone();
        let answering = async move { Ok((inner.get().expect(WRONG_THREAD).1)(request).await) };
        LocalAnswer(LoopOwned::new(reactor, Box::pin(answering)))
    }
}

const WRONG_THREAD: &str = "a local service must be used on its loop's thread";

impl<T: 'static> Future for LocalAnswer<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.get_mut().expect(WRONG_THREAD).as_mut().poll(cx)
    }
}

impl<F: 'static> fmt::Debug for LocalService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalService").finish_non_exhaustive()
    }
}

impl<T: 'static> fmt::Debug for LocalAnswer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalAnswer").finish_non_exhaustive()
    }
}
