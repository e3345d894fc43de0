//! [`DelayedCall`]: calls at a time. Twisted's `IDelayedCall`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use couplet_os::tethered::Tethered;
use pyo3::exceptions::{PyAssertionError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::locked;
use crate::looping::{Shared, seconds};

/// The calls that are neither made nor cancelled, by number.
#[derive(Default)]
pub(crate) struct Timers {
    calls: RefCell<Vec<Option<Py<DelayedCall>>>>,
    /// Law 9: numbers of calls that are not there.
    free: RefCell<Vec<usize>>,
}

impl Timers {
    fn put(&self, call: Py<DelayedCall>) -> usize {
        let mut calls = self.calls.borrow_mut();
        if let Some(number) = self.free.borrow_mut().pop() {
            calls[number] = Some(call);
            return number;
        }
        calls.push(Some(call));
        calls.len() - 1
    }

    fn take(&self, number: usize) -> Option<Py<DelayedCall>> {
        let call = self.calls.borrow_mut().get_mut(number)?.take()?;
        self.free.borrow_mut().push(number);
        Some(call)
    }

    pub(crate) fn all(&self, py: Python<'_>) -> Vec<Py<DelayedCall>> {
        let calls = self.calls.borrow();
        calls.iter().flatten().map(|call| call.clone_ref(py)).collect()
    }
}

struct Timer {
    call: couplet::DelayedCall,
    number: usize,
    shared: Rc<Shared>,
}

struct What {
    clock: Clock,
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kw: Option<Py<PyDict>>,
}

#[derive(Default)]
struct State {
    timer: Option<Tethered<Timer>>,
    /// `None` once it was made or cancelled.
    what: Option<What>,
    /// When it is due, by its clock.
    time: f64,
    called: bool,
    cancelled: bool,
}

/// A call that is made at its time, unless it is cancelled. Python's collector need not know it: until then
/// the loop holds it, and then it holds nothing.
#[pyclass(frozen, weakref, module = "couplet_twisted._couplet")]
pub(crate) struct DelayedCall(Mutex<State>);

/// A function that was in the place of `reactor.seconds` when the call was made; `None`: `time.time`. Calls
/// tell their times by it; when they are made is Couplet's.
pub(crate) type Clock = Option<Py<PyAny>>;

fn now(py: Python<'_>, clock: &Clock) -> PyResult<f64> {
    if let Some(clock) = clock {
        return clock.call0(py)?.extract(py);
    }
    #[expect(clippy::disallowed_methods, reason = "what Twisted's reactors count from")]
    let now = SystemTime::now();
    Ok(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

impl DelayedCall {
    pub(crate) fn start(
        py: Python<'_>,
        shared: &Rc<Shared>,
        delay: f64,
        function: Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        kw: Option<Bound<'_, PyDict>>,
    ) -> PyResult<Py<DelayedCall>> {
        if !function.is_callable() {
            return Err(PyAssertionError::new_err(format!("{function} is not callable")));
        }
        if delay.is_nan() || delay < 0.0 {
            let text = format!("{delay} is not greater than or equal to 0 seconds");
            return Err(PyAssertionError::new_err(text));
        }
        let clock = shared.clock(py);
        let time = now(py, &clock)? + delay;
        let (function, args, kw) = (function.unbind(), args.unbind(), kw.map(Bound::unbind));
        let what = Some(What { clock, function, args, kw });
        let state = State { what, time, ..State::default() };
        let made = Py::new(py, DelayedCall(Mutex::new(state)))?;
        let number = shared.timers.put(made.clone_ref(py));
        let weak = Rc::downgrade(shared);
        // What takes less time than the turn takes to come to its timed calls is due by then, as in
        // Twisted: its Cooperator asks for 10 ns.
        let delay = if delay < 1e-6 { 0.0 } else { delay };
        let call = shared.reactor.call_later(seconds(delay), move || {
            let Some(shared) = weak.upgrade() else { return };
            Python::attach(|py| {
                if let Some(call) = shared.timers.take(number) {
                    call.get().make(py, &shared);
                }
            });
        });
        let timer = Timer { call, number, shared: shared.clone() };
        made.get().state().timer = Some(Tethered::new(timer));
        Ok(made)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }

    fn make(&self, py: Python<'_>, shared: &Shared) {
        let mut state = self.state();
        state.called = true;
        let (what, timer) = (state.what.take(), state.timer.take());
        drop(state);
        drop(timer);
        let Some(What { function, args, kw, .. }) = what else { return };
        let kw = kw.as_ref().map(|kw| kw.bind(py));
        if let Err(error) = function.bind(py).call(args.bind(py), kw) {
            shared.report_of(py, error, true);
        }
    }

    /// Runs this on a call that is still to be made.
    fn pending<T>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> T) -> PyResult<T> {
        let mut state = self.state();
        let name = match (state.cancelled, state.called) {
            (true, _) => "AlreadyCancelled",
            (_, true) => "AlreadyCalled",
            _ => return Ok(f(&mut state)),
        };
        drop(state);
        static CANCELLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static CALLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let cell = if name == "AlreadyCalled" { &CALLED } else { &CANCELLED };
        let class = cell.import(py, "twisted.internet.error", name)?;
        Err(PyErr::from_value(class.call0()?))
    }

    /// Now, by its clock.
    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        let clock = self.state().what.as_ref().and_then(|what| clone(&what.clock, py));
        now(py, &clock)
    }

    /// Moves a call that is still to be made to the time that `when` makes of its own and of the present.
    fn move_to(&self, py: Python<'_>, when: impl FnOnce(f64, f64) -> f64) -> PyResult<()> {
        let now = self.now(py)?;
        let is_moved = self.pending(py, |state| {
            state.time = when(state.time, now);
            let timer = state.timer.as_ref().and_then(Tethered::get);
            timer.is_some_and(|timer| timer.call.reset(seconds(state.time - now)))
        })?;
        if is_moved { Ok(()) } else { Err(elsewhere()) }
    }
}

pub(crate) fn clone(clock: &Clock, py: Python<'_>) -> Clock {
    clock.as_ref().map(|clock| clock.clone_ref(py))
}

fn elsewhere() -> PyErr {
    PyRuntimeError::new_err("a delayed call is used in another thread than its reactor's")
}

#[pymethods]
impl DelayedCall {
    /// When it is due, by its clock: in seconds since 1970.
    #[pyo3(name = "getTime")]
    fn get_time(&self) -> f64 {
        self.state().time
    }

    /// Cancels it.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        let (timer, what) = self.pending(py, |state| {
            state.cancelled = true;
            (state.timer.take(), state.what.take())
        })?;
        let timer = timer.map(Tethered::into_inner).transpose().map_err(|_| elsewhere())?;
        if let Some(timer) = timer {
            timer.call.cancel();
            drop(timer.shared.timers.take(timer.number));
        }
        drop(what);
        Ok(())
    }

    /// Has it made in so many seconds from now.
    #[pyo3(name = "reset", signature = (secondsFromNow))]
    #[expect(non_snake_case, reason = "Twisted's name")]
    fn reset(&self, py: Python<'_>, secondsFromNow: f64) -> PyResult<()> {
        self.move_to(py, |_, now| now + secondsFromNow)
    }

    /// Has it made so many seconds later.
    #[pyo3(signature = (secondsLater))]
    #[expect(non_snake_case, reason = "Twisted's name")]
    fn delay(&self, py: Python<'_>, secondsLater: f64) -> PyResult<()> {
        self.move_to(py, |time, _| time + secondsLater)
    }

    /// Whether it is still to be made.
    fn active(&self) -> bool {
        let state = self.state();
        !(state.cancelled || state.called)
    }

    /// Now, by the clock of [`get_time`](DelayedCall::get_time).
    fn seconds(&self, py: Python<'_>) -> PyResult<f64> {
        self.now(py)
    }

    #[getter]
    fn time(&self) -> f64 {
        self.state().time
    }

    #[getter]
    fn called(&self) -> bool {
        self.state().called
    }

    #[getter]
    fn cancelled(&self) -> bool {
        self.state().cancelled
    }

    #[getter]
    fn func(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().what.as_ref().map(|what| what.function.clone_ref(py))
    }

    #[getter]
    fn args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        self.state().what.as_ref().map(|what| what.args.clone_ref(py))
    }

    #[getter]
    fn kw(&self, py: Python<'_>) -> Option<Py<PyDict>> {
        self.state().what.as_ref()?.kw.as_ref().map(|kw| kw.clone_ref(py))
    }

    fn __lt__(&self, other: &DelayedCall) -> bool {
        self.get_time() < other.get_time()
    }

    fn __le__(&self, other: &DelayedCall) -> bool {
        self.get_time() <= other.get_time()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let call = slf.get();
        let now = call.now(slf.py())?;
        let (function, time, called, cancelled) = {
            let state = call.state();
            let what = state.what.as_ref();
            let function = what.map(|what| what.function.clone_ref(slf.py()));
            (function, state.time, state.called, state.cancelled)
        };
        let name = function.and_then(|function| {
            let function = function.bind(slf.py());
            let name = function.getattr("__qualname__").map_err(|_| ());
            name.or_else(|()| function.repr().map(Bound::into_any).map_err(|_| ())).ok()
        });
        let name = name.map(|name| format!(" {name}()")).unwrap_or_default();
        Ok(format!(
            "<DelayedCall {:#x} [{}s] called={} cancelled={}{name}>",
            slf.as_ptr() as usize,
            time - now,
            u8::from(called),
            u8::from(cancelled),
        ))
    }
}
