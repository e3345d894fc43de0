//! [`Promise`]: the Deferred of a future that runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::locked;
use crate::mailbox::{Function, Mailbox, Once, PyContext, caught, within};

type Local = Pin<Box<dyn Future<Output = PyResult<PyResult<Py<PyAny>>>>>>;

thread_local! {
    /// The promise of the future that this thread polls.
    static CURRENT: RefCell<Option<Arc<Promise>>> = const { RefCell::new(None) };

    /// The futures that this thread polls, by number.
    ///
    /// Law 9: one for each pending Deferred.
    static LOCALS: RefCell<BTreeMap<u64, Local>> = const { RefCell::new(BTreeMap::new()) };
}

/// The promise whose future is being polled.
pub(crate) fn current() -> Option<Arc<Promise>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Leaks the futures of this thread: their destructors may need the interpreter, which exits.
pub(crate) fn leak() {
    std::mem::forget(LOCALS.take());
}

/// The output of `future`, which is polled as the promise's future.
///
/// # Errors
///
/// A panic.
pub(crate) async fn polled<F: Future>(
    promise: Arc<Promise>,
    mut future: Pin<Box<F>>,
) -> PyResult<F::Output> {
    poll_fn(move |waker| {
        let outer = CURRENT.replace(Some(promise.clone()));
        let polled = caught(|| future.as_mut().poll(waker));
        CURRENT.set(outer);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

/// A Deferred to fire. Cancelling it ends its future.
pub(crate) struct Promise {
    mailbox: Arc<Mailbox>,
    context: PyContext,
    /// `None` once it has fired or was cancelled.
    deferred: Mutex<Option<Py<PyAny>>>,
    end: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Promise {
    /// A Deferred, and the promise to fire it.
    ///
    /// # Errors
    ///
    /// The process was forked since its mailbox was made.
    pub(crate) fn make<'py>(
        py: Python<'py>,
        mailbox: &Arc<Mailbox>,
    ) -> PyResult<(Arc<Promise>, Bound<'py, PyAny>)> {
        static DEFERRED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static COPY_CONTEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if !mailbox.is_of_this_process() {
            let text = "cannot run a Rust future: its reactor was made before a fork";
            return Err(PyRuntimeError::new_err(text));
        }
        let kind = DEFERRED.import(py, "twisted.internet.defer", "Deferred")?;
        let context = COPY_CONTEXT.import(py, "contextvars", "copy_context")?.call0()?;
        let promise = Arc::new(Promise {
            mailbox: mailbox.clone(),
            context: Arc::new(context.unbind()),
            deferred: Mutex::default(),
            end: OnceLock::new(),
        });
        let cancelled = promise.clone();
        let canceller = Once::make(
            py,
            Box::new(move |py, _| {
                cancelled.cancel();
                Ok(py.None())
            }),
        )?;
        let deferred = kind.call1((canceller,))?;
        *locked(&promise.deferred) = Some(deferred.clone().unbind());
        Ok((promise, deferred))
    }

    /// Sets the function that ends the future.
    pub(crate) fn end_by(&self, end: impl Fn() + Send + Sync + 'static) {
        let _ = self.end.set(Box::new(end));
    }

    /// The context in which the Deferred was made.
    pub(crate) fn context(&self) -> PyContext {
        self.context.clone()
    }

    /// Whether the Deferred has neither fired nor been cancelled.
    pub(crate) fn is_pending(&self) -> bool {
        locked(&self.deferred).is_some()
    }

    fn cancel(&self) {
        let cancelled = locked(&self.deferred).take();
        if let (Some(_), Some(end)) = (cancelled, self.end.get()) {
            end();
        }
    }

    /// Fires the Deferred unless it was cancelled. For the reactor's thread.
    ///
    /// # Errors
    ///
    /// The program has fired the Deferred.
    fn settle(&self, py: Python<'_>, outcome: PyResult<Py<PyAny>>) -> PyResult<()> {
        let Some(deferred) = locked(&self.deferred).take() else { return Ok(()) };
        let fired =
            outcome.and_then(|value| deferred.call_method1(py, "callback", (value,)).map(drop));
        // Older releases of Twisted refuse a Deferred as a value.
        fired.or_else(|error| {
            deferred.call_method1(py, "errback", (error.into_value(py),)).map(drop)
        })
    }

    /// Polls `future` in this thread until it ends or the Deferred is cancelled.
    pub(crate) fn poll_here(
        self: Arc<Self>,
        py: Python<'_>,
        future: impl Future<Output = PyResult<Py<PyAny>>> + 'static,
    ) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let context = self.context.clone();
        let future = polled(self.clone(), Box::pin(future));
        LOCALS.with_borrow_mut(|all| all.insert(number, Box::pin(future)));
        self.end_by(move || {
            let ended = LOCALS.with_borrow_mut(|all| all.remove(&number));
            let _ = caught(|| drop(ended));
        });
        let waker = Arc::new(Polled {
            promise: self,
            number,
            home: thread::current().id(),
            wakes: AtomicUsize::new(1),
        });
        let poll = Once::make(py, Box::new(move |py, _| waker.poll(py)));
        let _ = poll.and_then(|poll| within(py, Some(&context), &poll));
    }
}

/// The waker of a future that the reactor's thread polls.
struct Polled {
    promise: Arc<Promise>,
    number: u64,
    home: ThreadId,
    /// Wakes since the last poll began; the first one posts a poll.
    wakes: AtomicUsize,
}

impl Polled {
    /// # Errors
    ///
    /// The program has fired the Deferred.
    fn poll(self: Arc<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if thread::current().id() != self.home {
            let text =
                "cannot poll a Rust future: it was made in another thread than the reactor's";
            self.promise.settle(py, Err(PyRuntimeError::new_err(text)))?;
            return Ok(py.None());
        }
        let Some(mut future) = LOCALS.with_borrow_mut(|all| all.remove(&self.number)) else {
            return Ok(py.None());
        };
        let wakes = self.wakes.load(Ordering::Acquire);
        let waker = Waker::from(self.clone());
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => self.promise.settle(py, outcome.flatten())?,
            // The poll has cancelled its own Deferred.
            Poll::Pending if !self.promise.is_pending() => {
                let _ = caught(|| drop(future));
            }
            Poll::Pending => {
                LOCALS.with_borrow_mut(|all| all.insert(self.number, future));
                let slept =
                    self.wakes.compare_exchange(wakes, 0, Ordering::AcqRel, Ordering::Acquire);
                if slept.is_err() {
                    self.post();
                }
            }
        }
        Ok(py.None())
    }

    fn post(self: Arc<Self>) {
        let promise = self.promise.clone();
        let context = Some(promise.context.clone());
        promise.mailbox.post(context, Box::new(move |py, _| self.poll(py)));
    }
}

impl Wake for Polled {
    fn wake(self: Arc<Self>) {
        if self.wakes.fetch_add(1, Ordering::AcqRel) == 0 {
            self.post();
        }
    }
}

/// Fires a Deferred from another thread. If it is dropped instead, the Deferred fails.
pub(crate) struct Settler(Option<Arc<Promise>>);

impl Settler {
    pub(crate) fn new(promise: &Arc<Promise>) -> Settler {
        Settler(Some(promise.clone()))
    }

    /// Has the reactor's thread make the outcome and fire the Deferred with it.
    pub(crate) fn settle(mut self, make: impl FnOnce() -> PyResult<Py<PyAny>> + Send + 'static) {
        self.post(make);
    }

    fn post(&mut self, make: impl FnOnce() -> PyResult<Py<PyAny>> + Send + 'static) {
        let Some(promise) = self.0.take() else { return };
        let (mailbox, context) = (promise.mailbox.clone(), promise.context.clone());
        let settle: Function = Box::new(move |py, _| {
            promise.settle(py, caught(make).flatten())?;
            Ok(py.None())
        });
        mailbox.post(Some(context), settle);
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.post(|| Err(PyRuntimeError::new_err("a Rust future was dropped before it ended")));
    }
}
