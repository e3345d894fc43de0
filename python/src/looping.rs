//! [`Loop`]: Couplet's loop, turned by Python.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use couplet::{LoopOptions, Reactor, Remote};
use couplet_os::tethered::Tethered;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::connection::Connection;
use crate::descriptor::Descriptor;
use crate::port::Port;
use crate::seat::Seat;
use crate::timers::{Clock, DelayedCall, Timers};
use crate::watch::Watch;

/// Most bytes of one `dataReceived`, as in Twisted: larger objects cost Python fresh memory each.
const CHUNK: usize = 64 * 1024;

/// What the parts of a loop share, in its thread.
pub(crate) struct Shared {
    pub(crate) reactor: Reactor,
    pub(crate) timers: Arc<Timers>,
    /// Called with what user code raised: it logs that.
    log: Py<PyAny>,
    /// What is to leave the loop: an interrupt of the keyboard.
    raised: RefCell<Option<PyErr>>,
    /// The loop is to return to Python.
    is_interrupted: Arc<AtomicBool>,
    /// Whose protocol is called.
    current: RefCell<Option<Py<Connection>>>,
    /// Law 9: at most one for each timed call that a turn found due.
    pub(crate) due: Queue,
    /// Law 9: at most one for each connection that a turn lost.
    pub(crate) ends: Queue,
}

/// A call into Python.
type Call = Box<dyn FnOnce(Python<'_>, &Shared)>;

/// Calls that a turn queues for later: outside of the turn, they may turn the loop.
#[derive(Default)]
pub(crate) struct Queue(RefCell<VecDeque<Call>>);

impl Queue {
    pub(crate) fn push(&self, call: impl FnOnce(Python<'_>, &Shared) + 'static) {
        self.0.borrow_mut().push_back(Box::new(call));
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Makes the calls.
    fn make(&self, py: Python<'_>, shared: &Shared) {
        loop {
            let call = self.0.borrow_mut().pop_front();
            let Some(call) = call else { return };
            call(py, shared);
        }
    }
}

impl Shared {
    /// Reports what user code raised, if it did.
    pub(crate) fn heed<T>(&self, py: Python<'_>, result: PyResult<T>) {
        if let Err(error) = result {
            self.report(py, error);
        }
    }

    /// Reports what user code raised.
    pub(crate) fn report(&self, py: Python<'_>, error: PyErr) {
        self.report_of(py, error, None);
    }

    /// Reports what user code raised, in a timed call or elsewhere.
    pub(crate) fn report_of(&self, py: Python<'_>, error: PyErr, call: Option<&Py<DelayedCall>>) {
        if error.is_instance_of::<PyKeyboardInterrupt>(py) {
            self.raise(error);
        } else if let Err(error) = self.log.call1(py, (error, call)) {
            self.raise(error);
        }
    }

    /// Calls into Python for a connection, which the log then names.
    pub(crate) fn call_for<T>(
        &self,
        connection: &Py<Connection>,
        py: Python<'_>,
        f: impl FnOnce() -> T,
    ) -> T {
        let before = self.current.replace(Some(connection.clone_ref(py)));
        let result = f();
        let this = self.current.replace(before);
        drop(this);
        result
    }

    fn raise(&self, error: PyErr) {
        self.raised.borrow_mut().get_or_insert(error);
        self.is_interrupted.store(true, Ordering::Release);
    }
}

/// A loop, in its thread.
pub(crate) struct Inner {
    couplet: RefCell<couplet::Loop>,
    pub(crate) shared: Rc<Shared>,
    /// A turn has seen an interrupt that [`Loop::run`] has not.
    was_interrupted: Cell<bool>,
}

/// A loop, which Python turns.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Loop(Arc<Seat>);

fn within() -> PyErr {
    PyRuntimeError::new_err("the reactor is turned inside a turn")
}

/// A number of seconds as a duration: as long as there are, where they are more.
pub(crate) fn seconds(delay: f64) -> Duration {
    // What is longer than a century never ends.
    Duration::try_from_secs_f64(delay.clamp(0.0, 4e9)).unwrap_or_default()
}

/// An error of the system, as Python has it.
pub(crate) fn system_error(error: std::io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default().to_owned();
            PyOSError::new_err((number, text))
        }
        None => error.into(),
    }
}

impl Inner {
    /// A loop of this thread, which gives `log` the exceptions of the user's code.
    pub(crate) fn new(
        log: Py<PyAny>,
        timers: &Arc<Timers>,
        is_interrupted: &Arc<AtomicBool>,
    ) -> PyResult<(Inner, Remote)> {
        let mut couplet = couplet::Loop::with_options(LoopOptions::default().read_buffer(CHUNK))?;
        let reactor = couplet.reactor();
        let remote = reactor.remote();
        let shared = Rc::new(Shared {
            timers: timers.clone(),
            log,
            raised: RefCell::default(),
            is_interrupted: is_interrupted.clone(),
            current: RefCell::default(),
            due: Queue::default(),
            ends: Queue::default(),
            reactor,
        });
        let weak = Rc::downgrade(&shared);
        couplet.around_wait(move |wait| {
            Python::attach(|py| {
                let mut wait = Tethered::new(wait);
                py.detach(|| wait.get_mut().map(|wait| wait()));
                // A signal's handler may raise.
                if let Err(error) = py.check_signals()
                    && let Some(shared) = weak.upgrade()
                {
                    shared.raise(error);
                }
            });
        });
        let was_interrupted = Cell::new(false);
        Ok((Inner { couplet: RefCell::new(couplet), shared, was_interrupted }, remote))
    }

    /// Makes the timed calls that are due, as Twisted's reactors do before each wait, and tells the ends of connections;
    /// raises what is to leave the loop.
    fn make_due(&self, py: Python<'_>) -> PyResult<()> {
        self.couplet.try_borrow_mut().map_err(|_| within())?.make_timed_calls();
        self.shared.due.make(py, &self.shared);
        self.shared.ends.make(py, &self.shared);
        self.shared.raised.take().map_or(Ok(()), Err)
    }

    /// Makes one turn, and tells the ends of the connections that it lost; raises what is to leave the loop. An
    /// interrupted turn does not wait.
    fn turn(&self, py: Python<'_>, at_most: Option<Duration>) -> PyResult<()> {
        let is_interrupted = self.shared.is_interrupted.swap(false, Ordering::AcqRel);
        if is_interrupted {
            // A call of `run`'s may make this turn.
            self.was_interrupted.set(true);
        }
        let mut couplet = self.couplet.try_borrow_mut().map_err(|_| within())?;
        let at_most = if is_interrupted { Some(Duration::ZERO) } else { at_most };
        couplet.turn(at_most).map_err(system_error)?;
        drop(couplet);
        if !self.shared.ends.is_empty() {
            // The calls that the last callbacks of these connections requested come first, as where a turn
            // brings the bytes, and the next one the end.
            return self.make_due(py);
        }
        self.shared.raised.take().map_or(Ok(()), Err)
    }
}

#[pymethods]
impl Loop {
    /// A loop, of the first thread that turns it. It gives `log` the exceptions of the user's code; `post` is a
    /// weak method that has the loop call a function, asked by another thread.
    #[new]
    fn new(log: Py<PyAny>, post: Py<PyAny>) -> Loop {
        Loop(Arc::new(Seat::new(log, post)))
    }

    /// Makes this thread the loop's.
    fn take(&self, py: Python<'_>) -> PyResult<()> {
        self.0.take(py).map(drop)
    }

    /// Whether this is inside of a turn.
    #[getter]
    fn is_turning(&self) -> bool {
        self.0.inner().is_some_and(|inner| inner.couplet.try_borrow_mut().is_err())
    }

    /// Makes the timed calls that are due, also inside of a turn.
    fn make_due_calls(&self, py: Python<'_>) -> PyResult<()> {
        let Some(inner) = self.0.inner() else { return Ok(()) };
        let shared = &inner.shared;
        if inner.couplet.try_borrow_mut().is_ok() {
            return inner.make_due(py);
        }
        shared.due.make(py, shared);
        shared.timers.make_due(py, shared)?;
        shared.ends.make(py, shared);
        Ok(())
    }

    /// Whether this is the thread of the loop.
    #[getter]
    fn is_here(&self) -> bool {
        self.0.inner().is_some()
    }

    /// Makes one turn, which waits at most so many seconds; `None`: no limit. It waits for nothing if it was
    /// interrupted before.
    fn turn(&self, py: Python<'_>, at_most: Option<f64>) -> PyResult<()> {
        self.0.take(py)?.turn(py, at_most.map(seconds))
    }

    /// Turns until it is interrupted or `queue` has something, for at most so many seconds (`None`: no
    /// limit). Whether the time was not over before. At least one turn: whoever interrupts each call from
    /// another thread starves neither connections nor timers.
    fn run(
        &self,
        py: Python<'_>,
        at_most: Option<f64>,
        queue: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let inner = self.0.take(py)?;
        let shared = &inner.shared;
        let until = at_most.map(|at_most| shared.reactor.now() + seconds(at_most));
        let is_wanted = || {
            let was_interrupted = inner.was_interrupted.take();
            was_interrupted
                || shared.is_interrupted.swap(false, Ordering::AcqRel)
                || !queue.is_empty().unwrap_or(true)
        };
        loop {
            let is_asked = !queue.is_empty().unwrap_or(true);
            let left = until.map(|until| until.saturating_duration_since(shared.reactor.now()));
            inner.turn(py, if is_asked { Some(Duration::ZERO) } else { left })?;
            if is_wanted() || is_asked {
                return Ok(true);
            }
            inner.make_due(py)?;
            if is_wanted() {
                return Ok(true);
            }
            if until.is_some_and(|until| until <= shared.reactor.now()) {
                return Ok(false);
            }
        }
    }

    /// The process has forked: the loop continues in both, if this is its thread.
    fn forked(&self, is_child: bool) -> PyResult<()> {
        let Some(shared) = self.0.shared() else { return Ok(()) };
        shared.reactor.forked(is_child).map_err(system_error)
    }

    /// The descriptor that is readable when there is something for a turn to do.
    fn fileno(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        let couplet = self.0.take(py)?.couplet.try_borrow().map_err(|_| within())?;
        Ok(couplet.descriptor().map(|descriptor| descriptor.as_raw_fd()))
    }

    /// In how many seconds the next turn is due without an event; `None`: there is no such time.
    fn next_turn(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let inner = self.0.take(py)?;
        if self.0.is_interrupted.load(Ordering::Acquire) || !inner.shared.due.is_empty() {
            return Ok(Some(0.0));
        }
        let next = inner.couplet.try_borrow().map_err(|_| within())?.next_turn();
        let now = inner.shared.reactor.now();
        Ok(next.map(|next| next.saturating_duration_since(now).as_secs_f64()))
    }

    /// The connection whose protocol is called; `None` where that is something else.
    #[getter]
    fn current(&self, py: Python<'_>) -> Option<Py<Connection>> {
        let current = self.0.shared()?.current.borrow();
        current.as_ref().map(|current| current.clone_ref(py))
    }

    /// Has `run` return soon. For any thread.
    fn interrupt(&self) {
        self.0.interrupt();
    }

    /// Calls `function` with the arguments, in so many seconds.
    #[pyo3(signature = (delay, function, *args, **kw))]
    fn call_later(
        slf: &Bound<'_, Self>,
        delay: f64,
        function: Bound<'_, PyAny>,
        args: Bound<'_, pyo3::types::PyTuple>,
        kw: Option<Bound<'_, PyDict>>,
    ) -> PyResult<Py<DelayedCall>> {
        DelayedCall::start(slf.py(), &slf.get().0, delay, function, args, kw)
    }

    /// Calls `function` with the argument in the next turn.
    fn call_soon(&self, py: Python<'_>, function: Py<PyAny>, argument: Py<PyAny>) -> PyResult<()> {
        self.0.ask(py, move |_, shared| {
            let heeding = shared.clone();
            shared.reactor.call_soon(move || {
                Python::attach(|py| {
                    heeding.heed(py, function.call1(py, (argument,)));
                });
            });
            Ok(())
        })
    }

    /// Has calls that are made from now on tell their times by this; `None`: by `time.time`.
    fn set_clock(&self, clock: Clock) {
        self.0.timers.set_clock(clock);
    }

    /// The calls that are neither made nor cancelled.
    fn delayed_calls(&self, py: Python<'_>) -> Vec<Py<DelayedCall>> {
        self.0.timers.all(py)
    }

    /// Calls `ready` in each turn in which this descriptor is ready for what it is watched for.
    fn watch(
        &self,
        py: Python<'_>,
        descriptor: Descriptor,
        readable: bool,
        writable: bool,
        ready: Py<PyAny>,
    ) -> PyResult<Watch> {
        Watch::start(py, &self.0, &descriptor, (readable, writable), ready)
    }

    /// Goes on with a connected socket, which Python has let go of.
    fn adopt(&self, connection: Bound<'_, Connection>, descriptor: Descriptor) -> PyResult<()> {
        Connection::adopt(&connection, &self.0, descriptor)
    }

    /// Accepts connections from a listening socket, of which it takes a duplicate.
    fn listen(
        &self,
        py: Python<'_>,
        descriptor: Descriptor,
        accepted: Py<PyAny>,
    ) -> PyResult<Port> {
        Port::listen(py, &self.0, descriptor, accepted)
    }
}
