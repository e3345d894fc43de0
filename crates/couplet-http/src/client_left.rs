//! [`ClientLeft`]: notifies a handler when its client leaves. Twisted's `Request.notifyFinish`.
//!
//! Contract: 58b, 175.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::monitor::Monitor;
use couplet_core::defer::DeferredEvent;
use couplet_core::hooks::LoopOwned;
use couplet_core::{Deferred, Reactor};

/// Notifies a handler that its client has ended its side of the connection, or that the connection
/// is lost. A request carries it as an extension if
/// [`HttpOptions::client_left`](super::HttpOptions::client_left) is set.
///
/// A client of HTTP/1.1 that has ended its side may still wait for its response, for
/// [`half_close_timeout`](super::HttpOptions::half_close_timeout). A service that would work for a
/// long time stops earlier:
///
/// ```
/// use couplet::http::{Body, ClientLeft, Request, Response};
/// use couplet::{Deferred, Result};
/// use futures_util::future::{Either, select};
///
/// async fn next_news() -> String {
///     std::future::pending().await
/// }
///
/// async fn poll(request: Request<Body>) -> Result<Response<String>> {
///     let left = request.extensions().get::<ClientLeft>().expect("the option is set");
///     match select(Box::pin(next_news()), left.wait()).await {
///         Either::Left((news, _)) => Ok(Response::new(news)),
///         Either::Right(_) => Ok(Response::new("nobody waits for it".to_owned())),
///     }
/// }
/// ```
#[derive(Clone)]
pub struct ClientLeft(Arc<LoopOwned<(Reactor, DeferredEvent)>>);

impl ClientLeft {
    pub(super) fn new(monitor: &Rc<Monitor>) -> ClientLeft {
        let (reactor, event) = (monitor.transport().reactor(), monitor.client_left().clone());
        ClientLeft(Arc::new(LoopOwned::new(reactor, (reactor.clone(), event))))
    }

    /// Whether the client has left. On any thread but the loop's, it is false.
    pub fn has_left(&self) -> bool {
        self.0.get().is_some_and(|(_, event)| event.is_set())
    }

    /// Resolves when the client has left.
    ///
    /// # Panics
    ///
    /// If it is called, or its future is polled, outside the loop's thread.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + Unpin + use<> {
        let (reactor, event) = self.0.get().expect(WRONG_THREAD);
        // An event without a connection is over, too.
        let waiting: Deferred<()> = event.wait().recover(|_| Deferred::succeed(()));
        Waiting(LoopOwned::new(reactor, waiting))
    }
}

const WRONG_THREAD: &str = "a client must be awaited on its loop's thread";

struct Waiting(LoopOwned<Deferred<()>>);

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(self.0.get_mut().expect(WRONG_THREAD)).poll(cx).map(drop)
    }
}

impl fmt::Debug for ClientLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLeft").finish_non_exhaustive()
    }
}
