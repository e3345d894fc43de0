//! [`Ready`]: the callbacks that an asyncio event loop is to call, now or at a time.
//!
//! asyncio's `BaseEventLoop` keeps them in a deque and in a heap. Here they are native, and so are
//! the handles, because a program that uses streams or tasks makes several for each message.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::tuple::BoundTupleIterator;
use pyo3::types::{PyDict, PyTuple};

use crate::locked;
use crate::looping::seconds;

/// Number of scheduled calls from which cancelled ones are removed early, as in asyncio.
const MANY: usize = 100;

/// Callbacks of an event loop. Any thread may add some.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Ready {
    /// Law 9: one for each call that the program has requested.
    queue: Mutex<VecDeque<Py<PyAny>>>,
    timers: Mutex<Timers>,
    /// Called with an exception of a callback, its handle, and a tuple of the callback and its
    /// arguments.
    failed: Py<PyAny>,
    /// Called with true before asyncio's callbacks and with false after them. Without it, the event
    /// loop counts as running all the time.
    around: Option<Py<PyAny>>,
    /// The number of [`enter`](Ready::enter) calls in progress.
    depth: AtomicUsize,
    /// The run ends after this iteration.
    is_ending: AtomicBool,
    /// An exception that ends the run.
    raised: Mutex<Option<PyErr>>,
    debug: Mutex<Option<Debug>>,
    /// The class of the loop's futures, and the arguments of its constructor.
    futures: Mutex<Option<(Py<PyAny>, Py<PyDict>)>>,
}

/// Functions for debug mode.
struct Debug {
    /// Calls a handle.
    run: Py<PyAny>,
    /// Gets an object, and the seconds that it took to handle its event.
    took: Py<PyAny>,
}

#[derive(Default)]
struct Timers {
    /// Law 9: one for each timed call that the program has requested, and as many cancelled ones.
    heap: BinaryHeap<Timer>,
    cancelled: usize,
    number: u64,
}

/// A handle and its time, in seconds of the monotonic clock. The earliest is the greatest.
struct Timer {
    when: f64,
    /// Counts the timers: of two with the same time, the first one is called first.
    number: u64,
    handle: Py<PyAny>,
}

impl Ord for Timer {
    fn cmp(&self, other: &Timer) -> Ordering {
        other.when.total_cmp(&self.when).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Timer) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Timer) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}

#[derive(Default)]
enum HandleStage {
    /// The context in which to call the callback, the callback, and its arguments.
    Pending(Py<PyTuple>),
    #[default]
    Called,
    Cancelled,
}

/// A requested call. `asyncio.Handle`.
#[pyclass(frozen, subclass, weakref, module = "couplet_twisted._couplet")]
pub(crate) struct Handle {
    stage: Mutex<HandleStage>,
    ready: Py<Ready>,
}

/// A requested timed call. `asyncio.TimerHandle`.
#[pyclass(frozen, extends = Handle, module = "couplet_twisted._couplet")]
struct TimerHandle {
    when: f64,
}

/// Whether asyncio lets an exception end the loop.
pub(crate) fn ends_loop(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

/// Calls a function of a Python module without arguments.
fn call0<'py>(
    py: Python<'py>,
    cell: &PyOnceLock<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    cell.import(py, module, name)?.call0()
}

/// Seconds of the monotonic clock: `loop.time()`.
fn now(py: Python<'_>) -> PyResult<f64> {
    static CLOCK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    call0(py, &CLOCK, "time", "monotonic")?.extract()
}

impl Handle {
    fn stage(&self) -> MutexGuard<'_, HandleStage> {
        locked(&self.stage)
    }

    fn is_cancelled(&self) -> bool {
        matches!(*self.stage(), HandleStage::Cancelled)
    }

    /// Makes the call, unless it was made or cancelled.
    ///
    /// # Errors
    ///
    /// An exception that ends the loop.
    fn run(slf: &Bound<'_, Handle>) -> PyResult<()> {
        let (py, mut stage) = (slf.py(), slf.get().stage());
        if !matches!(*stage, HandleStage::Pending(..)) {
            return Ok(());
        }
        let HandleStage::Pending(call) = std::mem::take(&mut *stage) else { return Ok(()) };
        drop(stage);
        // Without a method object of the context.
        static RUN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let run = RUN.get_or_try_init(py, || {
            py.import("contextvars")?.getattr("Context")?.getattr("run").map(Bound::unbind)
        })?;
        let call = call.bind(py);
        match run.bind(py).call1(call) {
            Ok(_) => Ok(()),
            Err(error) if ends_loop(py, &error) => Err(error),
            Err(error) => {
                let call = call.get_slice(1, call.len());
                slf.get().ready.get().failed.call1(py, (error.into_value(py), slf, call)).map(drop)
            }
        }
    }
}

#[pymethods]
impl Handle {
    /// Cancels the call, if it was not made yet.
    fn cancel(slf: &Bound<'_, Self>) {
        let before = std::mem::replace(&mut *slf.get().stage(), HandleStage::Cancelled);
        if matches!(before, HandleStage::Pending(..)) && slf.is_instance_of::<TimerHandle>() {
            slf.get().ready.get().timer_cancelled();
        }
        drop(before);
    }

    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }

    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        Handle::run(slf)
    }

    #[getter]
    fn _cancelled(&self) -> bool {
        self.is_cancelled()
    }

    /// `None` once the call was made or cancelled.
    #[getter]
    fn _callback<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &*self.stage() {
            HandleStage::Pending(call) => call.bind(py).get_item(1).map(Some),
            _ => Ok(None),
        }
    }

    /// The context of the call; `None` once it was made or cancelled.
    fn get_context<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &*self.stage() {
            HandleStage::Pending(call) => call.bind(py).get_item(0).map(Some),
            _ => Ok(None),
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        static FORMAT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let (py, mut text) = (slf.py(), format!("<{}", slf.get_type().name()?));
        let call = match &*slf.get().stage() {
            HandleStage::Pending(call) => Some(call.clone_ref(py)),
            HandleStage::Cancelled => {
                text += " cancelled";
                None
            }
            HandleStage::Called => None,
        };
        if let Ok(timer) = slf.cast::<TimerHandle>() {
            text += &format!(" when={}", timer.get().when);
        }
        if let Some(call) = call {
            let format = FORMAT.import(py, "asyncio.format_helpers", "_format_callback_source")?;
            let (callback, args) = (call.bind(py).get_item(1)?, call.bind(py).get_slice(2, 99));
            text += &format!(" {}", format.call1((callback, args))?);
        }
        Ok(text + ">")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.ready)?;
        if let Ok(stage) = self.stage.try_lock()
            && let HandleStage::Pending(call) = &*stage
        {
            visit.call(call)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let before = std::mem::take(&mut *self.stage());
        drop(before);
    }
}

#[pymethods]
impl TimerHandle {
    /// When the call is due, in seconds of the loop's clock.
    fn when(&self) -> f64 {
        self.when
    }
}

/// The items of a [`HandleStage::Pending`].
struct Call<'py> {
    context: Option<Bound<'py, PyAny>>,
    args: BoundTupleIterator<'py>,
}

impl<'py> Iterator for Call<'py> {
    type Item = Bound<'py, PyAny>;

    fn next(&mut self) -> Option<Bound<'py, PyAny>> {
        self.context.take().or_else(|| self.args.next())
    }
}

impl ExactSizeIterator for Call<'_> {
    fn len(&self) -> usize {
        usize::from(self.context.is_some()) + self.args.len()
    }
}

/// A pending call, in the context of the caller unless there is another.
fn stage(
    py: Python<'_>,
    args: Bound<'_, PyTuple>,
    callback: Option<Bound<'_, PyAny>>,
    context: Option<Bound<'_, PyAny>>,
) -> PyResult<Mutex<HandleStage>> {
    static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if callback.is_none() && args.is_empty() {
        return Err(PyTypeError::new_err("a callback is missing"));
    }
    let context = match context {
        Some(context) => context,
        None => call0(py, &COPY, "contextvars", "copy_context")?,
    };
    let args = match callback {
        Some(callback) => PyTuple::new(py, [callback])?,
        None => args,
    };
    let call = PyTuple::new(py, Call { context: Some(context), args: args.iter() })?;
    Ok(Mutex::new(HandleStage::Pending(call.unbind())))
}

impl Ready {
    fn timers(&self) -> MutexGuard<'_, Timers> {
        locked(&self.timers)
    }

    pub(crate) fn len(&self) -> usize {
        locked(&self.queue).len()
    }

    fn push(&self, handle: Py<PyAny>) {
        locked(&self.queue).push_back(handle);
    }

    fn pop(&self) -> Option<Py<PyAny>> {
        locked(&self.queue).pop_front()
    }

    /// Calls a handle: one of ours, or one of asyncio's. In debug mode, `run` calls it.
    fn call(py: Python<'_>, handle: Py<PyAny>, run: Option<&Py<PyAny>>) -> PyResult<()> {
        let handle = handle.bind(py);
        if let Some(run) = run {
            return run.call1(py, (handle,)).map(drop);
        }
        if let Ok(handle) = handle.cast::<Handle>() {
            return Handle::run(handle);
        }
        if handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
            return Ok(());
        }
        handle.call_method0(intern!(py, "_run")).map(drop)
    }

    /// Calls the first `count` handles. After an exception that ends the run, they wait for the next
    /// one.
    pub(crate) fn run(&self, py: Python<'_>, count: usize) {
        if count == 0 || locked(&self.raised).is_some() {
            return;
        }
        let run = locked(&self.debug).as_ref().map(|debug| debug.run.clone_ref(py));
        self.enter(py, || {
            for _ in 0..count {
                let Some(handle) = self.pop() else { break };
                if let Err(error) = Ready::call(py, handle, run.as_ref()) {
                    return self.raise(error);
                }
            }
        });
    }

    /// Calls the handles before those that are ready.
    pub(crate) fn run_first(&self, py: Python<'_>, handles: VecDeque<Py<PyAny>>) {
        let count = handles.len();
        if count > 0 {
            let mut queue = locked(&self.queue);
            handles.into_iter().rev().for_each(|handle| queue.push_front(handle));
            drop(queue);
            self.run(py, count);
        }
    }

    /// Calls `f` while the event loop counts as running.
    fn enter<T>(&self, py: Python<'_>, f: impl FnOnce() -> T) -> T {
        let Some(around) = &self.around else { return f() };
        let is_outermost = self.depth.fetch_add(1, Relaxed) == 0;
        let set = |is_running: bool| {
            if is_outermost && let Err(error) = around.call1(py, (is_running,)) {
                self.raise(error);
            }
        };
        set(true);
        let result = f();
        self.depth.fetch_sub(1, Relaxed);
        set(false);
        result
    }

    /// Calls `f`, which handles an event of `object`.
    pub(crate) fn event(
        &self,
        py: Python<'_>,
        object: &Py<PyAny>,
        f: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<()> {
        let took = locked(&self.debug).as_ref().map(|debug| debug.took.clone_ref(py));
        self.enter(py, || {
            let Some(took) = took else { return f() };
            let started = now(py)?;
            let result = f();
            result.and(took.call1(py, (object, now(py)? - started)).map(drop))
        })
    }

    /// Has the run end with an exception.
    pub(crate) fn raise(&self, error: PyErr) {
        locked(&self.raised).get_or_insert(error);
        self.stop();
    }

    /// Whether the next iteration does not wait.
    pub(crate) fn is_busy(&self) -> bool {
        self.len() > 0 || self.is_ending()
    }

    /// Whether the run ends after this iteration.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }

    /// The number of timed calls so far.
    pub(crate) fn timed(&self) -> u64 {
        self.timers().number
    }

    /// Removes the timed calls that are due by now, except the first `since` ones.
    pub(crate) fn take_due(&self, py: Python<'_>, since: u64) -> PyResult<VecDeque<Py<PyAny>>> {
        let mut due = VecDeque::new();
        let is_next =
            |timers: &Timers| timers.heap.peek().is_some_and(|timer| timer.number >= since);
        if is_next(&self.timers()) {
            let now = now(py)?;
            let mut timers = self.timers();
            while is_next(&timers) && timers.heap.peek().is_some_and(|timer| timer.when <= now) {
                due.extend(timers.heap.pop().map(|timer| timer.handle));
            }
        }
        Ok(due)
    }

    /// Time until the first timed call is due, if any.
    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<Option<Duration>> {
        self.prune(py);
        let first = self.timers().heap.peek().map(|timer| timer.when);
        match first {
            Some(when) => Ok(Some(seconds(when - now(py)?))),
            None => Ok(None),
        }
    }

    /// Removes cancelled calls: those at the head, or all of them if they are many.
    fn prune(&self, py: Python<'_>) {
        let is_cancelled = |timer: &Timer| {
            let handle = timer.handle.bind(py);
            match handle.cast::<Handle>() {
                Ok(handle) => handle.get().is_cancelled(),
                Err(_) => handle
                    .getattr(intern!(py, "_cancelled"))
                    .is_ok_and(|is| is.is_truthy().unwrap_or(false)),
            }
        };
        let mut timers = self.timers();
        if timers.cancelled == 0 {
            return;
        }
        let mut removed: Vec<Timer> = Vec::new();
        if timers.heap.len() > MANY && timers.cancelled > timers.heap.len() / 2 {
            timers.cancelled = 0;
            let kept: Vec<_>;
            (removed, kept) = timers.heap.drain().partition(is_cancelled);
            timers.heap = kept.into();
        }
        while timers.heap.peek().is_some_and(is_cancelled) {
            timers.cancelled = timers.cancelled.saturating_sub(1);
            removed.extend(timers.heap.pop());
        }
        drop(timers);
        drop(removed);
    }

    fn add_timer(&self, when: f64, handle: Py<PyAny>) {
        let mut timers = self.timers();
        let number = timers.number;
        timers.number += 1;
        timers.heap.push(Timer { when, number, handle });
    }

    fn add(
        slf: &Bound<'_, Self>,
        when: f64,
        stage: Mutex<HandleStage>,
    ) -> PyResult<Py<TimerHandle>> {
        let py = slf.py();
        let handle = Handle { stage, ready: slf.clone().unbind() };
        let made = Py::new(py, (TimerHandle { when }, handle))?;
        slf.get().add_timer(when, made.clone_ref(py).into_any());
        Ok(made)
    }
}

#[pymethods]
impl Ready {
    #[new]
    fn new(failed: Py<PyAny>, around: Option<Py<PyAny>>) -> Ready {
        Ready {
            queue: Mutex::default(),
            timers: Mutex::default(),
            failed,
            around,
            depth: AtomicUsize::new(0),
            is_ending: AtomicBool::new(false),
            raised: Mutex::default(),
            debug: Mutex::default(),
            futures: Mutex::default(),
        }
    }

    /// Sets the functions for debug mode: `run` calls a handle; `took` gets an object, and the
    /// seconds that it took to handle its event.
    #[pyo3(signature = (run=None, took=None))]
    fn set_debug(&self, run: Option<Py<PyAny>>, took: Option<Py<PyAny>>) {
        let debug = run.zip(took).map(|(run, took)| Debug { run, took });
        let before = std::mem::replace(&mut *locked(&self.debug), debug);
        drop(before);
    }

    /// Sets the class of the loop's futures, and the arguments of its constructor.
    fn set_futures(&self, class: Py<PyAny>, arguments: Py<PyDict>) {
        let before = locked(&self.futures).replace((class, arguments));
        drop(before);
    }

    /// A new future. `loop.create_future()`.
    fn create_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (class, arguments) = match &*locked(&self.futures) {
            Some((class, arguments)) => (class.clone_ref(py), arguments.clone_ref(py)),
            None => return Err(PyRuntimeError::new_err("Event loop is closed")),
        };
        class.bind(py).call((), Some(arguments.bind(py)))
    }

    /// Has the run end after this iteration.
    fn stop(&self) {
        self.is_ending.store(true, Relaxed);
    }

    /// Called at the end of a run. Raises the exception that ended it, if one did.
    fn end(&self) -> PyResult<()> {
        self.is_ending.store(false, Relaxed);
        locked(&self.raised).take().map_or(Ok(()), Err)
    }

    /// Has the next iteration call the callback. Use only in the loop's thread.
    #[pyo3(signature = (*args, callback=None, context=None))]
    fn call_soon(
        slf: &Bound<'_, Self>,
        args: Bound<'_, PyTuple>,
        callback: Option<Bound<'_, PyAny>>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<Handle>> {
        let py = slf.py();
        let stage = stage(py, args, callback, context)?;
        let made = Py::new(py, Handle { stage, ready: slf.clone().unbind() })?;
        slf.get().push(made.clone_ref(py).into_any());
        Ok(made)
    }

    /// Has the callback called after `delay` seconds.
    #[pyo3(signature = (delay, *args, callback=None, context=None))]
    fn call_later(
        slf: &Bound<'_, Self>,
        delay: f64,
        args: Bound<'_, PyTuple>,
        callback: Option<Bound<'_, PyAny>>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<TimerHandle>> {
        let stage = stage(slf.py(), args, callback, context)?;
        Ready::add(slf, now(slf.py())? + delay, stage)
    }

    /// Has the callback called at a time of the loop's clock.
    #[pyo3(signature = (when, *args, callback=None, context=None))]
    fn call_at(
        slf: &Bound<'_, Self>,
        when: f64,
        args: Bound<'_, PyTuple>,
        callback: Option<Bound<'_, PyAny>>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<TimerHandle>> {
        Ready::add(slf, when, stage(slf.py(), args, callback, context)?)
    }

    /// Adds a handle of asyncio's.
    fn append(&self, handle: Py<PyAny>) {
        self.push(handle);
    }

    /// Adds a timed handle of asyncio's.
    fn schedule(&self, when: f64, handle: Py<PyAny>) {
        self.add_timer(when, handle);
    }

    /// Called when a scheduled handle is cancelled.
    fn timer_cancelled(&self) {
        self.timers().cancelled += 1;
    }

    /// Calls the last `count` handles.
    fn run_last(&self, py: Python<'_>, count: usize) {
        let mut queue = locked(&self.queue);
        let at = queue.len().saturating_sub(count);
        let last = queue.split_off(at);
        drop(queue);
        self.run_first(py, last);
    }

    /// Seconds until the next iteration is due: 0 if a call is ready; `None` without calls.
    fn next_call(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        match self.is_busy() {
            true => Ok(Some(0.0)),
            false => Ok(self.wait(py)?.map(|left| left.as_secs_f64())),
        }
    }

    fn clear(&self) {
        let queue = std::mem::take(&mut *locked(&self.queue));
        let timers = std::mem::take(&mut self.timers().heap);
        let futures = locked(&self.futures).take();
        drop((queue, timers, futures));
    }

    fn __len__(&self) -> usize {
        self.len()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.failed)?;
        if let Some(around) = &self.around {
            visit.call(around)?;
        }
        if let Ok(futures) = self.futures.try_lock()
            && let Some((class, arguments)) = &*futures
        {
            visit.call(class)?;
            visit.call(arguments)?;
        }
        if let Ok(queue) = self.queue.try_lock() {
            queue.iter().try_for_each(|handle| visit.call(handle))?;
        }
        if let Ok(timers) = self.timers.try_lock() {
            timers.heap.iter().try_for_each(|timer| visit.call(&timer.handle))?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.clear();
    }
}
