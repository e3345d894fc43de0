//! [`Loop`]: Couplet's loop, turned by Python.

use std::cell::RefCell;
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
use crate::port::Port;
use crate::timers::{self, Clock, DelayedCall, Timers};
use crate::watch::Watch;

/// Most bytes of one `dataReceived`, as in Twisted: larger objects cost Python fresh memory each.
const CHUNK: usize = 64 * 1024;

/// What the parts of a loop share, in its thread.
pub(crate) struct Shared {
    pub(crate) reactor: Reactor,
    pub(crate) timers: Timers,
    clock: RefCell<Clock>,
    /// Called with what user code raised: it logs that.
    log: Py<PyAny>,
    /// What is to leave the loop: an interrupt of the keyboard.
    raised: RefCell<Option<PyErr>>,
    /// The loop is to return to Python.
    is_interrupted: Arc<AtomicBool>,
    /// Whose protocol is called.
    current: RefCell<Option<Py<Connection>>>,
}

impl Shared {
    /// What stands in the place of `reactor.seconds`.
    pub(crate) fn clock(&self, py: Python<'_>) -> Clock {
        timers::clone(&self.clock.borrow(), py)
    }

    /// Reports what user code raised, if it did.
    pub(crate) fn heed<T>(&self, py: Python<'_>, result: PyResult<T>) {
        if let Err(error) = result {
            self.report(py, error);
        }
    }

    /// Reports what user code raised.
    pub(crate) fn report(&self, py: Python<'_>, error: PyErr) {
        self.report_of(py, error, false);
    }

    /// Reports what user code raised, in a timed call or elsewhere.
    pub(crate) fn report_of(&self, py: Python<'_>, error: PyErr, is_timed: bool) {
        if error.is_instance_of::<PyKeyboardInterrupt>(py) {
            self.raise(error);
        } else if let Err(error) = self.log.call1(py, (error, is_timed)) {
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

struct Inner {
    couplet: RefCell<couplet::Loop>,
    shared: Rc<Shared>,
}

/// A loop, which Python turns.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Loop {
    inner: Tethered<Inner>,
    remote: Remote,
    is_interrupted: Arc<AtomicBool>,
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

impl Loop {
    fn inner(&self) -> PyResult<&Inner> {
        self.inner
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("a reactor is used in another thread"))
    }

    pub(crate) fn shared(&self) -> PyResult<&Rc<Shared>> {
        Ok(&self.inner()?.shared)
    }

    /// Turns the loop, and raises what is to leave it.
    fn turned(&self, f: impl FnOnce(&mut couplet::Loop) -> std::io::Result<bool>) -> PyResult<()> {
        let inner = self.inner()?;
        let mut couplet = inner
            .couplet
            .try_borrow_mut()
            .map_err(|_| PyRuntimeError::new_err("the reactor is turned inside of its own turn"))?;
        f(&mut couplet).map_err(system_error)?;
        drop(couplet);
        inner.shared.raised.take().map_or(Ok(()), Err)
    }
}

#[pymethods]
impl Loop {
    /// A loop, which gives `log` what user code raises.
    #[new]
    fn new(log: Py<PyAny>) -> PyResult<Loop> {
        let options = LoopOptions::default().timers_in_turn(true).read_buffer(CHUNK);
        let mut couplet = couplet::Loop::with_options(options)?;
        let reactor = couplet.reactor();
        let remote = reactor.remote();
        let is_interrupted = Arc::<AtomicBool>::default();
        let shared = Rc::new(Shared {
            timers: Timers::default(),
            clock: RefCell::default(),
            log,
            raised: RefCell::default(),
            is_interrupted: is_interrupted.clone(),
            current: RefCell::default(),
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
        let inner = Tethered::new(Inner { couplet: RefCell::new(couplet), shared });
        Ok(Loop { inner, remote, is_interrupted })
    }

    /// Makes one turn, which waits at most so many seconds; `None`: no limit.
    fn turn(&self, at_most: Option<f64>) -> PyResult<()> {
        self.turned(|couplet| couplet.turn(at_most.map(seconds)))
    }

    /// Turns until it is interrupted or `queue` has something, for at most so many seconds (`None`: no
    /// limit). Whether the time was not over before. At least one turn: whoever interrupts each call from
    /// another thread starves neither connections nor timers.
    fn run(&self, at_most: Option<f64>, queue: &Bound<'_, PyAny>) -> PyResult<bool> {
        let shared = self.shared()?.clone();
        let until = at_most.map(|at_most| shared.reactor.now() + seconds(at_most));
        let is_asked_now = || {
            shared.is_interrupted.swap(false, Ordering::AcqRel) || !queue.is_empty().unwrap_or(true)
        };
        let mut left = at_most.map(seconds);
        let mut is_asked = is_asked_now();
        self.turned(|couplet| {
            loop {
                couplet.turn(if is_asked { Some(Duration::ZERO) } else { left })?;
                is_asked |= is_asked_now();
                left = until.map(|until| until.saturating_duration_since(shared.reactor.now()));
                if is_asked || left == Some(Duration::ZERO) {
                    return Ok(true);
                }
            }
        })?;
        Ok(is_asked)
    }

    /// The connection whose protocol is called; `None` where that is something else.
    #[getter]
    fn current(&self, py: Python<'_>) -> PyResult<Option<Py<Connection>>> {
        let current = self.shared()?.current.borrow();
        Ok(current.as_ref().map(|current| current.clone_ref(py)))
    }

    /// Has `run` return soon. For any thread.
    fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::Release);
        if self.inner.get().is_none() {
            // A call ends the wait. A loop that is gone has nothing to return from.
            let _ = self.remote.call(|_| ());
        }
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
        DelayedCall::start(slf.py(), slf.get().shared()?, delay, function, args, kw)
    }

    /// Calls `function` with the argument in the next turn.
    fn call_soon(&self, function: Py<PyAny>, argument: Py<PyAny>) -> PyResult<()> {
        let shared = self.shared()?.clone();
        self.shared()?.reactor.call_soon(move || {
            Python::attach(|py| {
                shared.heed(py, function.call1(py, (argument,)));
            });
        });
        Ok(())
    }

    /// Has calls that are made from now on tell their times by this; `None`: by `time.time`.
    fn set_clock(&self, clock: Clock) -> PyResult<()> {
        let before = self.shared()?.clock.replace(clock);
        drop(before);
        Ok(())
    }

    /// The calls that are neither made nor cancelled.
    fn delayed_calls(&self, py: Python<'_>) -> PyResult<Vec<Py<DelayedCall>>> {
        Ok(self.shared()?.timers.all(py))
    }

    /// Calls `ready` in each turn in which this descriptor is ready for what it is watched for.
    fn watch(
        &self,
        descriptor: i32,
        readable: bool,
        writable: bool,
        ready: Py<PyAny>,
    ) -> PyResult<Watch> {
        Watch::start(self.shared()?, descriptor, (readable, writable), ready)
    }

    /// Goes on with a connected socket, which Python has let go of.
    fn adopt(&self, connection: Bound<'_, Connection>, descriptor: i32) -> PyResult<()> {
        Connection::adopt(&connection, self.shared()?, descriptor)
    }

    /// Accepts connections from a listening socket, of which it takes a duplicate.
    fn listen(&self, descriptor: i32, accepted: Py<PyAny>) -> PyResult<Port> {
        Port::listen(self.shared()?, descriptor, accepted)
    }
}
