//! [`Call`]: a call in the reactor's thread as a future.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::locked;
use crate::mailbox::{Function, Mailbox, Once};
use crate::promise::current;

/// A call of [`Reactor::call`](crate::Reactor::call). Dropping it cancels its Deferred.
#[must_use = "nothing is called before the first poll"]
pub struct Call {
    mailbox: Arc<Mailbox>,
    /// `None` after the first poll.
    function: Option<Function>,
    state: Arc<Mutex<CallProgress>>,
}

enum CallProgress {
    Waiting { waker: Option<Waker>, deferred: Option<Py<PyAny>> },
    Ready(PyResult<Py<PyAny>>),
    Over,
}

impl Call {
    pub(crate) fn new(mailbox: &Arc<Mailbox>, function: Function) -> Call {
        let state = CallProgress::Waiting { waker: None, deferred: None };
        Call {
            mailbox: mailbox.clone(),
            function: Some(function),
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn begin(&self, function: Function) {
        let (state, promise) = (self.state.clone(), current());
        let context = promise.as_ref().map(|promise| promise.context());
        let begin: Function = Box::new(move |py, _| {
            // A cancelled future is dropped a little later, in another thread.
            if promise.is_none_or(|promise| promise.is_pending())
                && matches!(*locked(&state), CallProgress::Waiting { .. })
                && let Err(error) = ask(py, function, &state)
            {
                answer(&state, Err(error));
            }
            Ok(py.None())
        });
        self.mailbox.call(context, begin);
    }
}

impl Future for Call {
    type Output = PyResult<Py<PyAny>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(function) = self.function.take() {
            self.begin(function);
        }
        let mut state = locked(&self.state);
        match mem::replace(&mut *state, CallProgress::Over) {
            CallProgress::Waiting { deferred, .. } => {
                *state = CallProgress::Waiting { waker: Some(context.waker().clone()), deferred };
                Poll::Pending
            }
            CallProgress::Ready(result) => Poll::Ready(result),
            CallProgress::Over => {
                Poll::Ready(Err(PyRuntimeError::new_err("the call has already ended")))
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let state = mem::replace(&mut *locked(&self.state), CallProgress::Over);
        if let CallProgress::Waiting { deferred: Some(deferred), .. } = state {
            let cancel: Function = Box::new(move |py, _| deferred.call_method0(py, "cancel"));
            self.mailbox.call(None, cancel);
        }
    }
}

/// Calls the function and awaits its result.
fn ask(py: Python<'_>, function: Function, state: &Arc<Mutex<CallProgress>>) -> PyResult<()> {
    static MAYBE_DEFERRED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let maybe_deferred = MAYBE_DEFERRED.import(py, "twisted.internet.defer", "maybeDeferred")?;
    let asked = maybe_deferred.call1((Once::make(py, function)?,))?;
    let is_dropped = match &mut *locked(state) {
        CallProgress::Waiting { deferred, .. } => {
            *deferred = Some(asked.clone().unbind());
            false
        }
        _ => true,
    };
    let (fired, failed) = (state.clone(), state.clone());
    let value = move |py: Python<'_>, value: Option<Bound<'_, PyAny>>| {
        answer(&fired, Ok(value.map_or_else(|| py.None(), Bound::unbind)));
        Ok(py.None())
    };
    let failure = move |py: Python<'_>, failure: Option<Bound<'_, PyAny>>| {
        let value = failure.map(|failure| failure.getattr("value")).transpose()?;
        answer(&failed, Err(PyErr::from_value(value.unwrap_or_else(|| py.None().into_bound(py)))));
        Ok(py.None())
    };
    let both = (Once::make(py, Box::new(value))?, Once::make(py, Box::new(failure))?);
    asked.call_method1("addCallbacks", both)?;
    if is_dropped {
        // The function, or another thread, has dropped the call by now.
        asked.call_method0("cancel")?;
    }
    Ok(())
}

/// Ends a call, if it was not dropped.
fn answer(state: &Mutex<CallProgress>, result: PyResult<Py<PyAny>>) {
    let mut state = locked(state);
    let CallProgress::Waiting { waker, deferred } = &mut *state else { return };
    let (waker, deferred) = (waker.take(), deferred.take());
    *state = CallProgress::Ready(result);
    drop(state);
    drop(deferred);
    if let Some(waker) = waker {
        waker.wake();
    }
}
