//! [`DelayedCall`]: timed calls. Twisted's `IDelayedCall`.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use couplet_os::tethered::Tethered;
use pyo3::exceptions::{PyAssertionError, PyAttributeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::locked;
use crate::looping::{LoopShared, seconds};
use crate::seat::Seat;

/// Source file that the loop reports as the place of the timers of [`DelayedCall`]s.
pub(crate) const FILE: &str = file!();

/// The pending calls, by number.
#[derive(Default)]
pub(crate) struct Timers {
    numbered: Mutex<Numbered>,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Numbered {
    calls: Vec<Option<Py<DelayedCall>>>,
    /// Law 9: unused numbers, at most one for each entry of `calls`.
    free: Vec<usize>,
}

impl Timers {
    fn put(&self, call: Py<DelayedCall>) -> usize {
        let mut numbered = locked(&self.numbered);
        if let Some(number) = numbered.free.pop() {
            numbered.calls[number] = Some(call);
            return number;
        }
        numbered.calls.push(Some(call));
        numbered.calls.len() - 1
    }

    fn take(&self, number: usize) -> Option<Py<DelayedCall>> {
        let mut numbered = locked(&self.numbered);
        let call = numbered.calls.get_mut(number)?.take()?;
        numbered.free.push(number);
        Some(call)
    }

    pub(crate) fn all(&self, py: Python<'_>) -> Vec<Py<DelayedCall>> {
        let numbered = locked(&self.numbered);
        let calls = numbered.calls.iter().flatten();
        // Another thread may have cancelled a call whose timer is not cancelled yet.
        calls.filter(|call| call.get().active()).map(|call| call.clone_ref(py)).collect()
    }

    pub(crate) fn set_clock(&self, clock: Clock) {
        let before = std::mem::replace(&mut *locked(&self.clock), clock);
        drop(before);
    }

    fn clock(&self, py: Python<'_>) -> Clock {
        clone(&locked(&self.clock), py)
    }
}

struct PythonCall {
    clock: Clock,
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kw: Option<Py<PyDict>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum DelayedCallStage {
    #[default]
    Waiting,
    /// A turn found the call due and queued it.
    Due,
    Called,
    Cancelled,
}

#[derive(Default)]
struct CallState {
    seat: Weak<Seat>,
    number: usize,
    /// `None` until the loop's thread has started it.
    timer: Option<Tethered<couplet::DelayedCall>>,
    /// `None` once the call was made or cancelled.
    what: Option<PythonCall>,
    /// When the call is due, by its own clock.
    time: f64,
    stage: DelayedCallStage,
    /// Whether a cancelled call keeps its description; `None` follows Twisted's class.
    debug: Option<bool>,
    /// In debug mode, the stack of its creation, as lines.
    creator: Option<Py<PyAny>>,
    /// In debug mode, its description when it was cancelled.
    repr: Option<Py<PyAny>>,
    /// In an inspected loop, the place that made it.
    place: Option<Py<PyAny>>,
}

/// A call that is made at its time, unless it is cancelled. Python's garbage collector need not
/// traverse it: the loop holds it while it is pending, and afterwards it refers to nothing.
#[pyclass(frozen, weakref, module = "couplet_twisted._couplet")]
pub(crate) struct DelayedCall(Mutex<CallState>);

/// The function that replaced `reactor.seconds` when the call was made; `None` for `time.time`.
/// Calls report their times by it, but Couplet's clock decides when they run.
pub(crate) type Clock = Option<Py<PyAny>>;

fn now(py: Python<'_>, clock: &Clock) -> PyResult<f64> {
    match clock {
        Some(clock) => clock.call0(py)?.extract(py),
        None => Ok(time_of_day().as_secs_f64()),
    }
}

/// The time since 1970.
pub(crate) fn time_of_day() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "what Twisted's reactors count from")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Twisted's class of delayed calls.
fn twisted(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "twisted.internet.base", "DelayedCall")
}

/// Whether calls are in debug mode by default.
fn is_debugged(py: Python<'_>) -> PyResult<bool> {
    twisted(py)?.getattr(intern!(py, "debug"))?.is_truthy()
}

/// Converts a delay from now to one from the start of the turn, which is the loop's time.
fn from_now(shared: &LoopShared, delay: f64) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "the callback that asks may have taken long")]
    let now = Instant::now();
    now.saturating_duration_since(shared.reactor.now()) + seconds(delay)
}

impl CallState {
    fn mark_due(&mut self) {
        if self.stage == DelayedCallStage::Waiting {
            self.stage = DelayedCallStage::Due;
        }
    }
}

impl DelayedCall {
    pub(crate) fn start(
        py: Python<'_>,
        seat: &Arc<Seat>,
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
        let clock = seat.timers.clock(py);
        let time = now(py, &clock)? + delay;
        let creator = match is_debugged(py)? {
            true => Some(py.import("traceback")?.call_method0("format_stack")?.unbind()),
            false => None,
        };
        let place = seat.inspection.get().map(|by| by.get().place(py)).transpose()?;
        let (function, args, kw) = (function.unbind(), args.unbind(), kw.map(Bound::unbind));
        let what = Some(PythonCall { clock, function, args, kw });
        let state = CallState {
            seat: Arc::downgrade(seat),
            what,
            time,
            creator,
            place,
            ..CallState::default()
        };
        let made = Py::new(py, DelayedCall(Mutex::new(state)))?;
        made.get().state().number = seat.timers.put(made.clone_ref(py));
        let call = made.clone_ref(py);
        let is_here = seat.shared().is_some();
        seat.ask(py, move |py, shared| {
            let left = if is_here { delay } else { call.get().left(py)? };
            DelayedCall::begin(&call, py, shared, left);
            Ok(())
        })?;
        Ok(made)
    }

    /// Seconds until the call is due.
    fn left(&self, py: Python<'_>) -> PyResult<f64> {
        let now = self.now(py)?;
        Ok(self.state().time - now)
    }

    /// Starts the calls that were requested before the loop was made, the earliest first: several may be due.
    pub(crate) fn begin_all(py: Python<'_>, shared: &Rc<LoopShared>) {
        let mut calls = shared.timers.all(py);
        calls.sort_by(|one, other| one.get().get_time().total_cmp(&other.get().get_time()));
        for call in calls {
            match call.get().left(py) {
                Ok(left) => DelayedCall::begin(&call, py, shared, left),
                Err(error) => shared.report(py, error),
            }
        }
    }

    /// Starts the loop's timer for the call, unless it has one.
    fn begin(call: &Py<DelayedCall>, py: Python<'_>, shared: &Rc<LoopShared>, delay: f64) {
        let mut state = call.get().state();
        if state.what.is_none() || state.timer.is_some() {
            return;
        }
        let (weak, due) = (Rc::downgrade(shared), call.clone_ref(py));
        let timer = shared.reactor.call_later(from_now(shared, delay), move || {
            let Some(shared) = weak.upgrade() else { return };
            due.get().state().mark_due();
            shared.queue(move |py, shared| DelayedCall::make(&due, py, shared));
        });
        state.stage = DelayedCallStage::Waiting;
        state.timer = Some(Tethered::new(timer));
    }

    fn state(&self) -> MutexGuard<'_, CallState> {
        locked(&self.0)
    }

    /// Makes a due call, unless it was moved, made or cancelled meanwhile.
    fn make(call: &Py<DelayedCall>, py: Python<'_>, shared: &LoopShared) {
        let mut state = call.get().state();
        if state.stage != DelayedCallStage::Due {
            return;
        }
        let Some(PythonCall { function, args, kw, .. }) = state.what.take() else { return };
        state.stage = DelayedCallStage::Called;
        let (timer, number) = (state.timer.take(), state.number);
        drop(state);
        drop((timer, shared.timers.take(number)));
        let kw = kw.as_ref().map(|kw| kw.bind(py));
        let _entered =
            shared.inspected.as_ref().and_then(|by| by.enter(py, &shared.reactor, &function));
        let was_timed = shared.is_timed.replace(true);
        if let Err(error) = function.bind(py).call(args.bind(py), kw) {
            shared.report_of(py, error, Some(call));
        }
        shared.is_timed.set(was_timed);
    }

    /// Applies `f` to a pending call; an error if it was made or cancelled.
    fn pending<T>(&self, py: Python<'_>, f: impl FnOnce(&mut CallState) -> T) -> PyResult<T> {
        let mut state = self.state();
        static CANCELLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static CALLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let (name, cell) = match state.stage {
            DelayedCallStage::Cancelled => ("AlreadyCancelled", &CANCELLED),
            DelayedCallStage::Called => ("AlreadyCalled", &CALLED),
            DelayedCallStage::Waiting | DelayedCallStage::Due => return Ok(f(&mut state)),
        };
        drop(state);
        let class = cell.import(py, "twisted.internet.error", name)?;
        Err(PyErr::from_value(class.call0()?))
    }

    fn is_debugged(&self, py: Python<'_>) -> PyResult<bool> {
        let own = self.state().debug;
        own.map_or_else(|| is_debugged(py), Ok)
    }

    /// The current time, by the call's clock.
    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        let clock = self.state().what.as_ref().and_then(|what| clone(&what.clock, py));
        now(py, &clock)
    }

    /// Moves a pending call to the time that `when` computes from its time and the current time.
    fn move_to(slf: &Bound<'_, Self>, when: impl FnOnce(f64, f64) -> f64) -> PyResult<()> {
        let (py, call) = (slf.py(), slf.get());
        let now = call.now(py)?;
        let (left, seat) = call.pending(py, |state| {
            state.time = when(state.time, now);
            (state.time - now, state.seat.upgrade())
        })?;
        let Some(seat) = seat else { return Ok(()) };
        let moved = slf.clone().unbind();
        // Before the loop is made, no call has started.
        let is_recorded = !seat.taken();
        seat.ask(py, move |py, shared| {
            if is_recorded {
                return Ok(());
            }
            // A call that has not started yet starts with its new time.
            let timer = moved.get().state().timer.take();
            let Some(timer) = timer else { return Ok(()) };
            if timer.get().is_some_and(|timer| timer.reset(from_now(shared, left))) {
                moved.get().state().timer = Some(timer);
            } else {
                // The call is queued as due.
                DelayedCall::begin(&moved, py, shared, left);
            }
            Ok(())
        })
    }
}

pub(crate) fn clone(clock: &Clock, py: Python<'_>) -> Clock {
    clock.as_ref().map(|clock| clock.clone_ref(py))
}

/// The error for an attribute that the call no longer has.
fn missing_attribute(name: &str) -> PyErr {
    PyAttributeError::new_err(format!("the call was made or cancelled, and has no {name}"))
}

#[pymethods]
impl DelayedCall {
    /// Twisted's class, so that `isinstance` accepts the call as one of it.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyType>> {
        twisted(py)
    }

    /// When the call is due, by its clock: in seconds since 1970.
    #[pyo3(name = "getTime")]
    fn get_time(&self) -> f64 {
        self.state().time
    }

    /// Cancels the call.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, call) = (slf.py(), slf.get());
        call.pending(py, |state| state.stage = DelayedCallStage::Cancelled)?;
        if call.is_debugged(py)? {
            let repr = slf.repr()?.into_any().unbind();
            call.state().repr = Some(repr);
        }
        let mut state = call.state();
        let (timer, what) = (state.timer.take(), state.what.take());
        let (number, seat) = (state.number, state.seat.upgrade());
        drop(state);
        drop(what);
        let Some(seat) = seat else { return Ok(()) };
        drop(seat.timers.take(number));
        let Some(timer) = timer else { return Ok(()) };
        seat.ask(py, move |_, _| {
            timer.get().map(couplet::DelayedCall::cancel);
            Ok(())
        })
    }

    /// Moves the call to `secondsFromNow` seconds from now.
    #[pyo3(name = "reset", signature = (secondsFromNow))]
    #[expect(non_snake_case, reason = "Twisted's name")]
    pub(crate) fn reset(slf: &Bound<'_, Self>, secondsFromNow: f64) -> PyResult<()> {
        DelayedCall::move_to(slf, |_, now| now + secondsFromNow)
    }

    /// Postpones the call by `secondsLater` seconds.
    #[pyo3(signature = (secondsLater))]
    #[expect(non_snake_case, reason = "Twisted's name")]
    fn delay(slf: &Bound<'_, Self>, secondsLater: f64) -> PyResult<()> {
        DelayedCall::move_to(slf, |time, _| time + secondsLater)
    }

    /// Whether the call is pending.
    fn active(&self) -> bool {
        matches!(self.state().stage, DelayedCallStage::Waiting | DelayedCallStage::Due)
    }

    /// The current time, by the clock of [`get_time`](DelayedCall::get_time).
    fn seconds(&self, py: Python<'_>) -> PyResult<f64> {
        self.now(py)
    }

    #[getter]
    fn time(&self) -> f64 {
        self.state().time
    }

    #[getter]
    fn called(&self) -> u8 {
        (self.state().stage == DelayedCallStage::Called).into()
    }

    #[getter]
    fn cancelled(&self) -> u8 {
        (self.state().stage == DelayedCallStage::Cancelled).into()
    }

    #[getter]
    fn func(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let state = self.state();
        Ok(state.what.as_ref().ok_or_else(|| missing_attribute("func"))?.function.clone_ref(py))
    }

    #[getter]
    fn args(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        let state = self.state();
        Ok(state.what.as_ref().ok_or_else(|| missing_attribute("args"))?.args.clone_ref(py))
    }

    #[getter]
    fn kw(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        let state = self.state();
        let what = state.what.as_ref().ok_or_else(|| missing_attribute("kw"))?;
        Ok(what.kw.as_ref().map_or_else(|| PyDict::new(py).unbind(), |kw| kw.clone_ref(py)))
    }

    /// Whether the call is in debug mode: as set here, else as in Twisted's class.
    #[getter(debug)]
    fn get_debug(&self, py: Python<'_>) -> PyResult<bool> {
        self.is_debugged(py)
    }

    #[setter(debug)]
    fn set_debug(&self, on: bool) {
        self.state().debug = Some(on);
    }

    /// In debug mode, the stack of the call's creation, as lines.
    #[getter]
    fn creator(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().creator.as_ref().map(|creator| creator.clone_ref(py))
    }

    /// In an inspected loop, the place that made the call, and its time.
    #[getter]
    fn _place(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().place.as_ref().map(|place| place.clone_ref(py))
    }

    /// The number of the call among those pending.
    #[getter]
    fn _number(&self) -> usize {
        self.state().number
    }

    #[getter]
    fn _repr(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().repr.as_ref().map(|repr| repr.clone_ref(py))
    }

    /// Without it, a class with comparisons has no hash.
    fn __hash__(slf: &Bound<'_, Self>) -> isize {
        (slf.as_ptr() as isize) >> 4
    }

    fn __lt__(&self, other: &DelayedCall) -> bool {
        self.get_time() < other.get_time()
    }

    fn __le__(&self, other: &DelayedCall) -> bool {
        self.get_time() <= other.get_time()
    }

    /// The description by Twisted's class.
    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        twisted(slf.py())?.getattr("__repr__")?.call1((slf,))
    }
}
