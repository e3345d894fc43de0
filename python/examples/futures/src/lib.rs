//! Functions that return Deferreds: their futures run on a tokio runtime, or in the reactor's thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use couplet_twisted_deferred::Reactor;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

type Deferred<'py> = PyResult<Bound<'py, PyAny>>;

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// The runtime, which the first call starts.
fn runtime() -> PyResult<Handle> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let made = match runtime.take() {
        Some(made) => made,
        None => Builder::new_multi_thread().worker_threads(2).enable_time().build()?,
    };
    Ok(runtime.insert(made).handle().clone())
}

/// Ends the runtime; the next call starts another one. Pending Deferreds fail.
#[pyfunction]
fn end_runtime(py: Python<'_>) {
    let runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner).take();
    py.detach(|| drop(runtime));
}

/// A Deferred that fires with the value after some seconds, on the installed reactor or another.
#[pyfunction]
#[pyo3(signature = (seconds, value, reactor=None))]
fn sleep<'py>(
    py: Python<'py>,
    seconds: f64,
    value: Py<PyAny>,
    reactor: Option<Bound<'py, PyAny>>,
) -> Deferred<'py> {
    let reactor = reactor.map_or_else(|| Reactor::installed(py), |other| Reactor::new(&other))?;
    reactor.deferred_on(py, &runtime()?, async move {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        PyResult::Ok(value)
    })
}

/// A Deferred with the mean of the numbers in a text. The future panics if the text is empty.
#[pyfunction]
fn mean(py: Python<'_>, text: String) -> Deferred<'_> {
    Reactor::installed(py)?.deferred_on(py, &runtime()?, async move {
        let numbers: Result<Vec<i64>, _> = text.split_whitespace().map(str::parse).collect();
        numbers.map(|numbers| numbers.iter().sum::<i64>() / numbers.len() as i64)
    })
}

/// A Deferred with the results of `function` for each value, one after another. The function may
/// return Deferreds. The future runs on tokio (`beside`), or the reactor polls it.
#[pyfunction]
fn each(py: Python<'_>, function: Py<PyAny>, values: Vec<Py<PyAny>>, beside: bool) -> Deferred<'_> {
    let reactor = Reactor::installed(py)?;
    let (calls, function) = (reactor.clone(), Arc::new(function));
    let results = async move {
        let mut results = Vec::new();
        for value in values {
            let function = function.clone();
            results.push(calls.call(move |py| function.call1(py, (value,))).await?);
        }
        PyResult::Ok(results)
    };
    if beside {
        return reactor.deferred_on(py, &runtime()?, results);
    }
    reactor.deferred(py, results)
}

#[pymodule]
mod rust_futures {
    #[pymodule_export]
    use super::{each, end_runtime, mean, sleep};
}
