//! [`Seat`]: the thread of a loop. The first thread that runs the loop takes the seat and makes the
//! loop. Requests made earlier are recorded; other threads post theirs to the loop.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use couplet::Remote;
use couplet_os::tethered::Tethered;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::ending::Place;
use crate::inspecting::Inspection;
use crate::locked;
use crate::looping::{Inner, LoopShared};
use crate::timers::{DelayedCall, Timers};

/// Work for the loop's thread.
type Request = Box<dyn FnOnce(Python<'_>, &Rc<LoopShared>) -> PyResult<()> + Send>;

/// The place of a loop, and the state that all threads share with it.
pub(crate) struct Seat {
    taken: OnceLock<(Tethered<Inner>, Remote)>,
    /// Law 9: one for each request that the program makes before it runs its reactor.
    recorded: Mutex<Vec<Request>>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) place: Arc<Place>,
    /// The loop is to return to Python.
    pub(crate) is_interrupted: Arc<AtomicBool>,
    /// Called with each exception of user code, to log it.
    log: Py<PyAny>,
    /// A weak method of the reactor, which has the loop call a function.
    post: Py<PyAny>,
    /// The most bytes of one read.
    chunk: usize,
    /// Set before a thread takes the seat, if the loop is to be inspected.
    pub(crate) inspection: OnceLock<Py<Inspection>>,
}

impl Seat {
    pub(crate) fn new(log: Py<PyAny>, post: Py<PyAny>, chunk: usize) -> Seat {
        Seat {
            taken: OnceLock::new(),
            recorded: Mutex::default(),
            timers: Arc::default(),
            place: Arc::default(),
            is_interrupted: Arc::default(),
            log,
            post,
            chunk,
            inspection: OnceLock::new(),
        }
    }

    /// Whether a thread has taken the seat.
    pub(crate) fn taken(&self) -> bool {
        self.taken.get().is_some()
    }

    /// The loop, in its own thread.
    pub(crate) fn inner(&self) -> Option<&Inner> {
        self.taken.get()?.0.get()
    }

    /// The loop's state, in its own thread.
    pub(crate) fn shared(&self) -> Option<&Rc<LoopShared>> {
        Some(&self.inner()?.shared)
    }

    /// Logs the exception if user code raised one. For any thread.
    pub(crate) fn report_error<T>(&self, py: Python<'_>, result: PyResult<T>) {
        match (self.shared(), result) {
            (_, Ok(_)) => {}
            (Some(shared), Err(error)) => shared.report(py, error),
            (None, Err(error)) => {
                // Exceptions of log observers are dropped outside the loop's thread.
                let _ = self.log.call1(py, (error,));
            }
        }
    }

    /// The loop. This thread takes it if no other thread has run it.
    ///
    /// # Errors
    ///
    /// Another thread owns the loop, or the system refuses to create one.
    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<&Inner> {
        if self.taken.get().is_none() {
            let log = self.log.clone_ref(py);
            let (inner, remote) = Inner::new(self, log, self.chunk, py)?;
            let mut recorded = locked(&self.recorded);
            // Another thread may have taken the seat by now.
            let is_ours = self.taken.set((Tethered::new(inner), remote)).is_ok();
            let requests = if is_ours { std::mem::take(&mut *recorded) } else { Vec::new() };
            drop(recorded);
            if let Some(shared) = self.shared().filter(|_| is_ours) {
                DelayedCall::begin_all(py, shared);
            }
            for request in requests {
                if let Some(shared) = self.shared() {
                    shared.report_error(py, request(py, shared));
                }
            }
        }
        self.inner().ok_or_else(|| {
            PyRuntimeError::new_err("cannot run the reactor: it belongs to another thread")
        })
    }

    /// Has the loop's thread call `f`: now, if this is that thread; by a posted request, if it is
    /// another one. Until a thread takes the loop, requests are recorded.
    ///
    /// # Errors
    ///
    /// The error of `f`, if it is called now. Later errors are logged.
    pub(crate) fn ask(
        self: &Arc<Self>,
        py: Python<'_>,
        f: impl FnOnce(Python<'_>, &Rc<LoopShared>) -> PyResult<()> + Send + 'static,
    ) -> PyResult<()> {
        if let Some(shared) = self.shared() {
            return f(py, shared);
        }
        let mut recorded = locked(&self.recorded);
        if self.taken.get().is_none() {
            recorded.push(Box::new(f));
            return Ok(());
        }
        drop(recorded);
        let posted = Posted { seat: self.clone(), request: Mutex::new(Some(Box::new(f))) };
        let post = self.post.call0(py)?;
        // A dropped reactor ignores requests.
        if !post.is_none(py) {
            post.call1(py, (posted,))?;
        }
        Ok(())
    }

    /// Ends the loop's wait and makes it return to Python. For any thread.
    pub(crate) fn interrupt(&self) {
        let was_interrupted = self.is_interrupted.swap(true, Ordering::AcqRel);
        if let Some((inner, remote)) = self.taken.get()
            && !was_interrupted
            && !inner.is_home()
        {
            // A call ends the wait, and fails only for a dropped loop, which runs no turn.
            let _ = remote.call(|_| ());
        }
    }
}

/// A request on its way from another thread.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
struct Posted {
    seat: Arc<Seat>,
    request: Mutex<Option<Request>>,
}

#[pymethods]
impl Posted {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let request = locked(&self.request).take();
        match (request, self.seat.shared()) {
            (Some(request), Some(shared)) => request(py, shared),
            _ => Ok(()),
        }
    }
}

/// An object of the loop's thread that any thread may use: each use is a request.
pub(crate) struct Seated<T> {
    seat: Arc<Seat>,
    thing: Arc<OnceLock<Tethered<T>>>,
}

impl<T: 'static> Seated<T> {
    /// Has the loop's thread make the object.
    ///
    /// # Errors
    ///
    /// The error of `make`, if this is the loop's thread.
    pub(crate) fn make(
        py: Python<'_>,
        seat: &Arc<Seat>,
        make: impl FnOnce(&Rc<LoopShared>) -> PyResult<Option<T>> + Send + 'static,
    ) -> PyResult<Seated<T>> {
        let made = Seated { seat: seat.clone(), thing: Arc::default() };
        let thing = made.thing.clone();
        seat.ask(py, move |_, shared| {
            if let Some(made) = make(shared)? {
                let _ = thing.set(Tethered::new(made));
            }
            Ok(())
        })?;
        Ok(made)
    }

    /// Has the loop's thread use the object.
    ///
    /// # Errors
    ///
    /// The error of `f`, if this is the loop's thread.
    pub(crate) fn with(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&T, &Rc<LoopShared>) -> PyResult<()> + Send + 'static,
    ) -> PyResult<()> {
        let thing = self.thing.clone();
        self.seat.ask(py, move |_, shared| {
            thing.get().and_then(Tethered::get).map_or(Ok(()), |thing| f(thing, shared))
        })
    }
}
