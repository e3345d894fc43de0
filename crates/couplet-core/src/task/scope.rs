//! [`Scope`]: tasks that do not outlive the scope that spawned them.
//!
//! Contract: 125c.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::race_against;
use crate::defer::{Cancelled, Canceller, Deferred, Failure, Resolver, Result};
use crate::recorder::Reactor;
use crate::sorted::SortedMap;

impl Reactor {
    /// Runs `body` and the tasks that it spawns in its [`Scope`]. Every task ends before the scope
    /// does:
    ///
    /// - the scope completes with the result of `body` when `body` and all tasks have finished;
    /// - when a task or `body` fails or panics, the others are cancelled; the first failure is the
    ///   result, once their futures were dropped;
    /// - dropping the scope's future, for example because its task was cancelled, cancels them all.
    ///
    /// Trio's nurseries, in Rust.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let sum = couplet::run_until(|reactor| {
    ///     let reactor = reactor.clone();
    ///     reactor.clone().spawn(async move {
    ///         reactor
    ///             .scope(async |scope| {
    ///                 let parts = [1, 2, 3].map(|n| {
    ///                     let sleep = reactor.sleep(Duration::from_millis(n));
    ///                     scope.spawn(async move {
    ///                         sleep.await?;
    ///                         Ok(n)
    ///                     })
    ///                 });
    ///                 let mut sum = 0;
    ///                 for part in parts {
    ///                     sum += part.await?;
    ///                 }
    ///                 Ok(sum)
    ///             })
    ///             .await
    ///     })
    /// })?;
    /// assert_eq!(sum, 6);
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first failure; [`Cancelled`] after [`Scope::cancel`].
    pub async fn scope<T>(&self, body: impl AsyncFnOnce(&Scope) -> Result<T>) -> Result<T> {
        let scope = Scope { inner: Rc::new(ScopeState::new(self)) };
        let ending = EndGuard(scope.inner.clone());
        let failed = poll_fn(|cx| scope.inner.poll_failed(cx));
        // `None` if a task failed first.
        let result = race_against(failed, body(&scope)).await.err();
        if !matches!(result, Some(Ok(_))) {
            // Tasks spawned after this are cancelled too.
            if let Some(Err(failure)) = &result {
                let _ = scope.inner.failure.set(failure.clone());
            }
            scope.inner.cancel_children();
        }
        poll_fn(|cx| scope.inner.poll_over(cx)).await;
        drop(ending);
        let failure = scope.inner.failure.get().cloned();
        match result {
            Some(Err(failure)) => Err(failure),
            Some(Ok(value)) => failure.map_or(Ok(value), Err),
            None => Err(failure.unwrap_or_else(|| Cancelled::of("a scope").into())),
        }
    }
}

/// Spawns the tasks of a [`Reactor::scope`]. Cheap to clone, for tasks that spawn others.
#[derive(Clone)]
pub struct Scope {
    inner: Rc<ScopeState>,
}

struct ScopeState {
    reactor: Reactor,
    children: RefCell<SortedMap<u64, Option<Canceller>>>,
    spawned: Cell<u64>,
    /// The first failure of a task.
    failure: OnceCell<Failure>,
    stage: RefCell<ScopeStage>,
}

enum ScopeStage {
    /// The scope's future waits with this waker.
    Running(Option<Waker>),
    Over,
}

/// A running task of a scope: dropped with its future, even if its Deferred was cancelled earlier.
struct ScopeTask {
    scope: Rc<ScopeState>,
    key: u64,
}

impl Drop for ScopeTask {
    fn drop(&mut self) {
        let canceller = self.scope.children.borrow_mut().remove(&self.key);
        drop(canceller);
        self.scope.wake();
    }
}

/// Drops the future before the child, even if it was never polled.
async fn run<T>(future: impl Future<Output = Result<T>>, _child: ScopeTask) -> Result<T> {
    future.await
}

/// Ends the scope on drop: later tasks are rejected, and running ones are cancelled.
struct EndGuard(Rc<ScopeState>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let before = self.0.stage.replace(ScopeStage::Over);
        drop(before);
        self.0.cancel_children();
    }
}

impl Scope {
    /// Spawns a task that ends before the scope does. The Deferred fires with its value. If the
    /// task fails, the scope fails with that failure, and the Deferred with [`Cancelled`]. The
    /// Deferred also fails with [`Cancelled`] if the scope has already ended. Cancelling a task
    /// does not fail the scope.
    #[track_caller]
    pub fn spawn<T: 'static>(
        &self,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Deferred<T> {
        if matches!(*self.inner.stage.borrow(), ScopeStage::Over) {
            return Deferred::fail(Cancelled::of("a task of a scope that has ended"));
        }
        let key = self.inner.spawned.replace(self.inner.spawned.get() + 1);
        self.inner.children.borrow_mut().insert(key, None);
        let child = ScopeTask { scope: self.inner.clone(), key };
        self.inner.register_task(key, self.inner.reactor.spawn(run(future, child)))
    }

    /// Cancels the body and all tasks; the scope fails with [`Cancelled`].
    pub fn cancel(&self) {
        self.inner.fail(Cancelled::of("a scope").into());
    }

    /// The number of tasks that have not ended.
    pub fn running(&self) -> usize {
        self.inner.children.borrow().len()
    }
}

impl ScopeState {
    fn new(reactor: &Reactor) -> ScopeState {
        ScopeState {
            reactor: reactor.clone(),
            children: RefCell::default(),
            spawned: Cell::new(0),
            failure: OnceCell::new(),
            stage: RefCell::new(ScopeStage::Running(None)),
        }
    }

    /// Registers a task; returns the Deferred for its user.
    #[track_caller]
    fn register_task<T: 'static>(self: &Rc<Self>, key: u64, task: Deferred<T>) -> Deferred<T> {
        let canceller = task.canceller();
        if let Some(child) = self.children.borrow_mut().get_mut(&key) {
            *child = Some(canceller.clone());
        }
        let (deferred, resolver) = Deferred::with_canceller(move |_| canceller.cancel());
        let scope = self.clone();
        task.add_both(move |result| {
            scope.resolve_task(result, resolver);
            Ok(())
        })
        .detach();
        deferred
    }

    fn resolve_task<T>(&self, result: Result<T>, resolver: Resolver<T>) {
        match result {
            Err(failure) if !failure.is_cancelled() => {
                self.fail(failure);
                resolver.errback(Cancelled::of("a task of a scope"));
            }
            result => resolver.resolve(result),
        }
    }

    fn fail(&self, failure: Failure) {
        // The first failure counts.
        let _ = self.failure.set(failure);
        self.wake();
    }

    fn cancel_children(&self) {
        let keys: Vec<u64> = self.children.borrow().keys().copied().collect();
        for key in keys {
            // One at a time, because cancelling a task may end or spawn others.
            let child = self.children.borrow().get(&key).cloned().flatten();
            if let Some(child) = child {
                child.cancel();
            }
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.replace_waker(None) {
            waker.wake();
        }
    }

    fn wait(&self, cx: &Context<'_>) -> Poll<()> {
        drop(self.replace_waker(Some(cx.waker().clone())));
        Poll::Pending
    }

    fn replace_waker(&self, waker: Option<Waker>) -> Option<Waker> {
        match &mut *self.stage.borrow_mut() {
            ScopeStage::Running(waiting) => mem::replace(waiting, waker),
            ScopeStage::Over => None,
        }
    }

    /// Ready when a task has failed.
    fn poll_failed(&self, cx: &Context<'_>) -> Poll<()> {
        if self.failure.get().is_some() { Poll::Ready(()) } else { self.wait(cx) }
    }

    /// Ready when all tasks have ended. After a failure, tasks spawned in the meantime are
    /// cancelled too.
    fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        let _ = self.wait(cx);
        if self.failure.get().is_some() {
            self.cancel_children();
        }
        if self.children.borrow().is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("running", &self.running()).finish_non_exhaustive()
    }
}
