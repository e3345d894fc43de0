//! Rust futures as Twisted's Deferreds, and Deferreds as Rust futures, for extension modules.
//!
//! ```text
//! #[pyfunction]
//! fn sleep<'py>(py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
//!     Reactor::installed(py)?.deferred_on(py, runtime().handle(), async move {
//!         tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
//!         PyResult::Ok("slept")
//!     })
//! }
//! ```
//!
//! `python/examples/futures` is a whole extension.
//!
//! - [`Reactor::deferred_on`] runs a future on a tokio runtime; [`Reactor::deferred`] polls one in
//!   the reactor's thread. Both return a Deferred.
//! - [`Reactor::call`] is the other direction: a future calls a function in the reactor's thread,
//!   and gets its result, or the result of its Deferred.
//! - `Deferred.cancel()` drops the future, and the Deferred fails with `CancelledError`
//!   immediately. A future that drops a [`Call`] cancels its Deferred.
//! - The error of a future becomes the exception of its Deferred's `Failure`. A panic becomes a
//!   `RuntimeError`, and so does the end of a runtime that drops the future. Panics must unwind:
//!   `panic = "abort"` in a profile of the extension ends the process.
//! - A Deferred captures the context (`contextvars`) in which it is made, as one of
//!   `inlineCallbacks` does. [`Reactor::deferred`] polls in a copy of that context,
//!   [`Reactor::call`] calls in it, and the callbacks that the Deferred has when it fires run in it.
//! - Prefer [`Reactor::call`] to [`Python::attach`] in threads of tokio, where Python code has an
//!   empty context, waits for the interpreter's lock, and must not run while the interpreter exits.
//! - After a fork, Deferreds of the parent never fire in the child, which makes new ones. When the
//!   interpreter exits, pending futures of the reactor's thread are leaked.
//! - No thread of a runtime waits for the interpreter's lock: results go through a queue, which
//!   another thread announces to the reactor, once for all that have gathered.
//!
//! The library runs on every reactor of Twisted, because it needs only `callFromThread`.

mod call;
mod mailbox;
mod promise;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use tokio::runtime::Handle;

pub use call::Call;
use mailbox::Mailbox;
use promise::{Promise, Settler, polled};

/// A reactor of Twisted.
#[derive(Clone)]
pub struct Reactor(Arc<Mailbox>);

impl Reactor {
    /// The installed reactor, `twisted.internet.reactor`: Twisted's default one, unless the program
    /// has installed another.
    ///
    /// # Errors
    ///
    /// Twisted cannot be imported, or the system refuses a thread.
    pub fn installed(py: Python<'_>) -> PyResult<Reactor> {
        static INSTALLED: Mutex<Option<Reactor>> = Mutex::new(None);
        // The lock is not held while Python runs, which might switch to a thread that waits for it.
        if let Some(reactor) = locked(&INSTALLED).as_ref()
            && reactor.0.is_of_this_process()
        {
            return Ok(reactor.clone());
        }
        let import = py.import("importlib")?.getattr("import_module")?;
        let reactor = Reactor::new(&import.call1(("twisted.internet.reactor",))?)?;
        let replaced = locked(&INSTALLED).replace(reactor.clone());
        drop(replaced);
        Ok(reactor)
    }

    /// A reactor by its object: for programs that pass one, such as tests with a fake clock. Only
    /// its method `callFromThread` is used.
    ///
    /// A process made by `fork` needs its own value.
    ///
    /// # Errors
    ///
    /// Twisted cannot be imported, or the system refuses a thread.
    pub fn new(reactor: &Bound<'_, PyAny>) -> PyResult<Reactor> {
        Mailbox::open(reactor).map(Reactor)
    }

    /// A Deferred that fires with the output of `future`, which the reactor's thread polls: now,
    /// and after each wake. Only for that thread, or for a program that has not started it yet.
    ///
    /// # Errors
    ///
    /// The reactor was made before a fork. The Deferred has any other error.
    pub fn deferred<'py, T, E>(
        &self,
        py: Python<'py>,
        future: impl Future<Output = Result<T, E>> + 'static,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: for<'a> IntoPyObject<'a> + 'static,
        E: Into<PyErr> + 'static,
    {
        let (promise, deferred) = Promise::make(py, &self.0)?;
        promise.poll_here(py, async move { object(future.await) });
        Ok(deferred)
    }

    /// A Deferred that fires with the output of `future`, which runs on a tokio runtime. Only for
    /// the reactor's thread.
    ///
    /// Drop a runtime outside Python's lock (`py.detach(|| drop(runtime))`) if its futures use
    /// [`Python::attach`].
    ///
    /// # Errors
    ///
    /// The reactor was made before a fork. The Deferred has any other error.
    pub fn deferred_on<'py, T, E>(
        &self,
        py: Python<'py>,
        runtime: &Handle,
        future: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: for<'a> IntoPyObject<'a> + Send + 'static,
        E: Into<PyErr> + Send + 'static,
    {
        let (promise, deferred) = Promise::make(py, &self.0)?;
        let (own, settler) = (promise.clone(), Settler::new(&promise));
        let task = runtime.spawn(async move {
            let outcome = polled(own, Box::pin(future)).await;
            settler.settle(move || outcome.and_then(object));
        });
        promise.end_by(move || task.abort());
        Ok(deferred)
    }

    /// Calls `f` in the reactor's thread, like `maybeDeferred`: the future ends with the result of
    /// `f`, or of the Deferred or coroutine that `f` returns. If the future is dropped earlier, `f`
    /// is not called, or the Deferred is cancelled.
    ///
    /// Nothing happens before the first poll. In the reactor's thread `f` is called then, without a
    /// wait for the next turn.
    pub fn call<T>(&self, f: impl FnOnce(Python<'_>) -> PyResult<T> + Send + 'static) -> Call
    where
        T: for<'a> IntoPyObject<'a>,
    {
        Call::new(&self.0, Box::new(move |py, _| f(py)?.into_py_any(py)))
    }
}

/// An output as Python's.
fn object<T, E>(output: Result<T, E>) -> PyResult<Py<PyAny>>
where
    T: for<'a> IntoPyObject<'a>,
    E: Into<PyErr>,
{
    let value = output.map_err(Into::into)?;
    Python::attach(|py| value.into_py_any(py))
}

/// Locks, also after a panic: every change is complete.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
