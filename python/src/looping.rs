//! [`Loop`]: Couplet's loop, turned by Python.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use couplet::{LoopOptions, Reactor, Remote, hooks};
use couplet_os::tethered::Tethered;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::bridge::Bridge;
use crate::connection::Connection;
use crate::datagrams::{Buffers, Datagrams};
use crate::descriptor::Descriptor;
use crate::ending::{self, Place};
use crate::inspecting::{Inspected, Inspection};
use crate::port::Port;
use crate::ready::{Ready, ends_loop};
use crate::seat::Seat;
use crate::stream::{Stream, Wire};
use crate::timers::{Clock, DelayedCall, Timers};
use crate::watch::Watch;

/// State shared by the parts of a loop, in its thread.
pub(crate) struct LoopShared {
    pub(crate) reactor: Reactor,
    pub(crate) timers: Arc<Timers>,
    place: Arc<Place>,
    /// Called with each exception of user code, to log it.
    log: Py<PyAny>,
    /// An exception to raise from the loop, such as a keyboard interrupt.
    raised: RefCell<Option<PyErr>>,
    /// The loop is to return to Python.
    is_interrupted: Arc<AtomicBool>,
    /// The connection or port whose protocol is being called.
    current: RefCell<Option<Py<PyAny>>>,
    /// The callbacks of the asyncio event loop that runs in this loop.
    asyncio: RefCell<Option<Py<Ready>>>,
    /// Law 9: at most one for each call that a turn makes after its events, such as timed calls;
    /// the calls of an event suspend the turn until they are made.
    calls: Queue,
    /// Law 9: at most one for each connection that a turn lost.
    pub(crate) ends: Queue,
    /// Closes, and resumes of producers whose output was sent. Twisted handles both after the timed calls,
    /// when it sends the output.
    ///
    /// Law 9: at most two of each kind for each connection.
    after_timed: Queue,
    /// Those that timed calls requested: they precede the next timed calls.
    ///
    /// Law 9: as `after_timed`.
    after_present: Queue,
    /// Whether a timed call is being made.
    pub(crate) is_timed: Cell<bool>,
    pub(crate) buffers: RefCell<Buffers>,
    /// For the inspector, if the loop has one.
    pub(crate) inspected: Option<Box<Inspected>>,
}

/// A call into Python.
type Call = Box<dyn FnOnce(Python<'_>, &Rc<LoopShared>)>;

/// Calls that a turn queues, to run outside the turn: they may turn the loop themselves.
#[derive(Default)]
pub(crate) struct Queue(RefCell<VecDeque<Call>>);

impl Queue {
    pub(crate) fn push(&self, call: impl FnOnce(Python<'_>, &Rc<LoopShared>) + 'static) {
        self.0.borrow_mut().push_back(Box::new(call));
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Makes the calls that are queued at present.
    fn make_present(&self, py: Python<'_>, shared: &Rc<LoopShared>) {
        for call in self.0.take() {
            shared.place.check(py);
            call(py, shared);
        }
    }

    /// Makes the calls, including those queued meanwhile.
    fn make(&self, py: Python<'_>, shared: &Rc<LoopShared>) {
        loop {
            let call = self.0.borrow_mut().pop_front();
            let Some(call) = call else { return };
            shared.place.check(py);
            call(py, shared);
        }
    }
}

impl LoopShared {
    /// Whether calls are queued, so that a turn must not wait.
    fn has_calls(&self) -> bool {
        let queues = [&self.calls, &self.ends, &self.after_timed, &self.after_present];
        !queues.into_iter().all(Queue::is_empty)
    }

    /// Queues a call into Python, and suspends the turn for it.
    pub(crate) fn queue(&self, call: impl FnOnce(Python<'_>, &Rc<LoopShared>) + 'static) {
        self.calls.push(call);
        hooks::suspend_turn(&self.reactor);
    }

    /// Queues a call that follows the present timed calls, if one of them is being made, or else the next
    /// ones.
    pub(crate) fn after_timed(&self, call: impl FnOnce(Python<'_>, &Rc<LoopShared>) + 'static) {
        let queue = if self.is_timed.get() { &self.after_present } else { &self.after_timed };
        queue.push(call);
    }

    /// Reports the exception if user code raised one.
    pub(crate) fn report_error<T>(&self, py: Python<'_>, result: PyResult<T>) {
        if let Err(error) = result {
            self.report(py, error);
        }
    }

    /// Reports an exception of user code.
    pub(crate) fn report(&self, py: Python<'_>, error: PyErr) {
        self.report_of(py, error, None);
    }

    /// Reports an exception of user code, with the timed call that raised it, if any.
    pub(crate) fn report_of(&self, py: Python<'_>, error: PyErr, call: Option<&Py<DelayedCall>>) {
        self.place.check(py);
        if error.is_instance_of::<PyKeyboardInterrupt>(py) {
            self.raise(error);
        } else if let Err(error) = self.log.call1(py, (error, call)) {
            self.raise(error);
        }
    }

    /// Calls into Python on behalf of a connection or a port, which the log then names.
    pub(crate) fn call_for<T, C>(
        &self,
        connection: &Py<C>,
        py: Python<'_>,
        f: impl FnOnce() -> T,
    ) -> T {
        let before = self.current.replace(Some(connection.clone_ref(py).into_any()));
        let result = f();
        let this = self.current.replace(before);
        drop(this);
        result
    }

    /// The connection or port whose protocol is being called, if any.
    pub(crate) fn current(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.current.borrow().as_ref().map(|current| current.clone_ref(py))
    }

    /// Calls `f`, which handles an event of an asyncio `object`, and reports its error.
    pub(crate) fn call_asyncio(
        &self,
        py: Python<'_>,
        object: &Py<PyAny>,
        f: impl FnOnce() -> PyResult<()>,
    ) {
        let ready = self.asyncio.borrow().as_ref().map(|ready| ready.clone_ref(py));
        let result = match &ready {
            Some(ready) => ready.get().event(py, object, f),
            None => f(),
        };
        match (result, ready) {
            (Err(error), Some(ready)) if ends_loop(py, &error) => ready.get().raise(error),
            (result, _) => self.report_error(py, result),
        }
    }

    /// Has the loop raise an exception.
    pub(crate) fn raise(&self, error: PyErr) {
        self.raised.borrow_mut().get_or_insert(error);
        self.is_interrupted.store(true, Ordering::Release);
    }
}

/// A loop, in its thread.
pub(crate) struct Inner {
    couplet: RefCell<couplet::Loop>,
    pub(crate) shared: Rc<LoopShared>,
    /// A turn consumed an interrupt that [`Loop::run`] has not seen.
    was_interrupted: Cell<bool>,
}

/// A loop, which Python turns.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Loop(Arc<Seat>);

/// Seconds as a duration, capped at about a century.
pub(crate) fn seconds(delay: f64) -> Duration {
    // More than a century is as good as forever.
    Duration::try_from_secs_f64(delay.clamp(0.0, 4e9)).unwrap_or_default()
}

/// A system error as a Python exception.
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
    /// A loop for this thread. `log` gets the exceptions of user code.
    pub(crate) fn new(
        seat: &Seat,
        log: Py<PyAny>,
        chunk: usize,
        py: Python<'_>,
    ) -> PyResult<(Inner, Remote)> {
        let options = LoopOptions::default().tune(|it| it.read_buffer(chunk));
        let inspection = seat.inspection.get().map(Py::get);
        let mut couplet = match inspection {
            Some(inspection) => inspection.make(options)?,
            None => couplet::Loop::with_options(options)?,
        };
        let reactor = couplet.reactor();
        let remote = reactor.remote();
        let shared = Rc::new(LoopShared {
            timers: seat.timers.clone(),
            place: seat.place.clone(),
            log,
            raised: RefCell::default(),
            is_interrupted: seat.is_interrupted.clone(),
            current: RefCell::default(),
            asyncio: RefCell::default(),
            calls: Queue::default(),
            ends: Queue::default(),
            after_timed: Queue::default(),
            after_present: Queue::default(),
            is_timed: Cell::default(),
            buffers: RefCell::default(),
            inspected: inspection.and_then(|by| Inspected::new(py, by)),
            reactor,
        });
        Inspected::show(&shared);
        let place = seat.place.clone();
        couplet.around_wait(move |wait| {
            Python::attach(|py| {
                let (mut wait, place) = (Tethered::new(wait), &place);
                py.detach(|| {
                    if let Some(wait) = wait.get_mut() {
                        wait();
                    }
                    place.check_detached();
                });
            });
        });
        let was_interrupted = Cell::new(false);
        Ok((Inner { couplet: RefCell::new(couplet), shared, was_interrupted }, remote))
    }

    /// Makes the due timed calls, as Twisted's reactors do before each wait, reports the ends of
    /// connections, sends the output, resumes producers, and closes. Returns true if a call then
    /// interrupted the loop, such as a stop. Raises a pending exception, such as a keyboard interrupt.
    fn make_due(&self, py: Python<'_>) -> PyResult<bool> {
        let mut follows = self.make_following(py, &[&self.shared.after_present])?;
        self.couplet()?.make_timed_calls();
        self.shared.calls.make(py, &self.shared);
        self.shared.ends.make(py, &self.shared);
        let queues = [&self.shared.after_present, &self.shared.after_timed];
        // The second queue waits for late calls that are left to the next turn.
        let waits = !queues[1].is_empty() && self.couplet()?.leaves_timed_calls();
        follows |= self.make_following(py, if waits { &queues[..1] } else { &queues })?;
        self.couplet()?.flush();
        let is_interrupted = follows && self.shared.is_interrupted.load(Ordering::Acquire);
        self.shared.raised.take().map_or(Ok(is_interrupted), Err)
    }

    /// Makes the calls that follow timed calls, and, as in Twisted before the next events, carries out their
    /// requests. Returns true if there were any.
    fn make_following(&self, py: Python<'_>, queues: &[&Queue]) -> PyResult<bool> {
        if queues.iter().all(|queue| queue.is_empty()) {
            return Ok(false);
        }
        queues.iter().for_each(|queue| queue.make_present(py, &self.shared));
        // The first sends the output and closes, the second reports the end.
        for _ in 0..2 {
            self.couplet()?.flush();
            self.shared.calls.make(py, &self.shared);
            self.shared.ends.make(py, &self.shared);
        }
        Ok(true)
    }

    /// The loop itself. An error inside a turn, where no callback runs, but perhaps a finalizer.
    fn couplet(&self) -> PyResult<RefMut<'_, couplet::Loop>> {
        let error = |_| PyRuntimeError::new_err("cannot turn the reactor inside a turn");
        self.couplet.try_borrow_mut().map_err(error)
    }

    /// Makes one turn, with its calls, and reports the ends of connections that it lost. Inside a
    /// callback, completes the turn of that callback first. Raises a pending exception. An
    /// interrupted turn does not wait.
    fn turn(&self, py: Python<'_>, at_most: Option<Duration>) -> PyResult<()> {
        let is_interrupted = self.shared.is_interrupted.swap(false, Ordering::AcqRel);
        if is_interrupted {
            // This turn may run inside `run`, which must still see the interrupt.
            self.was_interrupted.set(true);
        }
        let is_busy = is_interrupted || self.shared.has_calls();
        let at_most = if is_busy { Some(Duration::ZERO) } else { at_most };
        Datagrams::turning(py, &self.shared);
        self.shared.calls.make(py, &self.shared);
        if self.couplet()?.is_suspended() {
            self.complete_turn(py, None)?;
        }
        self.complete_turn(py, at_most)?;
        // A signal handler may raise.
        if let Err(error) = py.check_signals() {
            self.shared.raise(error);
        }
        if !self.shared.ends.is_empty() {
            // Calls that the last callbacks of these connections requested come first, as if one
            // turn had delivered the bytes and the next one the end.
            return self.make_due(py).map(drop);
        }
        self.shared.raised.take().map_or(Ok(()), Err)
    }

    /// Makes one iteration of an asyncio event loop, and a turn in it: waits at most `at_most` if
    /// nothing is ready, then calls the handles that were ready, the events, and the due handles.
    fn iterate(&self, py: Python<'_>, ready: &Ready, at_most: Option<Duration>) -> PyResult<()> {
        let is_busy = ready.is_busy()
            || self.shared.is_interrupted.load(Ordering::Acquire)
            || self.shared.has_calls();
        let at_most = match is_busy {
            true => Some(Duration::ZERO),
            false => at_most.into_iter().chain(ready.wait(py)?).min(),
        };
        let since = ready.timed();
        self.couplet()?.turn(at_most).map_err(system_error)?;
        // A signal handler may raise.
        if let Err(error) = py.check_signals() {
            self.shared.raise(error);
        }
        let due = ready.take_due(py, 0)?;
        ready.run(py, ready.len());
        self.shared.calls.make(py, &self.shared);
        // A call that turned the loop has completed this turn.
        while self.couplet()?.is_suspended() {
            self.make_requested(py, ready, since)?;
            self.couplet()?.turn(None).map_err(system_error)?;
            self.shared.calls.make(py, &self.shared);
        }
        ready.run_first(py, due);
        if !self.shared.ends.is_empty() {
            return self.make_due(py).map(drop);
        }
        self.shared.raised.take().map_or(Ok(()), Err)
    }

    /// Makes the calls that an event requested of asyncio, while the turn is suspended: their output
    /// is sent with the reply to the event, and without another wait.
    fn make_requested(&self, py: Python<'_>, ready: &Ready, since: u64) -> PyResult<()> {
        if ready.is_ending() {
            return Ok(());
        }
        let due = ready.take_due(py, since)?;
        ready.run(py, ready.len());
        ready.run_first(py, due);
        Ok(())
    }

    /// Has `f` run the loop for an asyncio event loop, whose callbacks are in `ready`.
    fn run_for<T>(&self, ready: &Bound<'_, Ready>, f: impl FnOnce() -> T) -> T {
        let before = self.shared.asyncio.replace(Some(ready.clone().unbind()));
        let result = f();
        let this = self.shared.asyncio.replace(before);
        drop(this);
        result
    }

    /// Makes a turn, or the rest of a suspended one, and the calls that it queues.
    fn complete_turn(&self, py: Python<'_>, at_most: Option<Duration>) -> PyResult<()> {
        loop {
            self.couplet()?.turn(at_most).map_err(system_error)?;
            self.shared.calls.make(py, &self.shared);
            // A call that turned the loop has completed this turn.
            if !self.couplet()?.is_suspended() {
                return Ok(());
            }
        }
    }
}

#[pymethods]
impl Loop {
    /// A loop for the first thread that turns it. `log` gets the exceptions of user code. `post` is
    /// a weak method with which other threads have the loop call a function. Protocols get at most
    /// `chunk` bytes at a time.
    #[new]
    fn new(log: Py<PyAny>, post: Py<PyAny>, chunk: usize) -> Loop {
        let seat = Arc::new(Seat::new(log, post, chunk));
        ending::note(&seat);
        Loop(seat)
    }

    /// Makes this thread the loop's.
    fn take(&self, py: Python<'_>) -> PyResult<()> {
        self.0.take(py).map(drop)
    }

    /// Makes the due timed calls.
    fn make_due_calls(&self, py: Python<'_>) -> PyResult<()> {
        let Some(inner) = self.0.inner() else { return Ok(()) };
        let _inside = self.0.place.enter(py);
        inner.make_due(py).map(drop)
    }

    /// Whether a thread has taken the loop.
    #[getter]
    fn is_taken(&self) -> bool {
        self.0.taken()
    }

    /// Whether this is the loop's thread.
    #[getter]
    fn is_here(&self) -> bool {
        self.0.inner().is_some()
    }

    /// Makes one turn, which waits at most `at_most` seconds; `None` sets no limit. A pending
    /// interrupt prevents the wait.
    fn turn(&self, py: Python<'_>, at_most: Option<f64>) -> PyResult<()> {
        let inner = self.0.take(py)?;
        let _inside = self.0.place.enter(py);
        let was_timed = inner.shared.is_timed.replace(false);
        let turned = inner.turn(py, at_most.map(seconds));
        inner.shared.is_timed.set(was_timed);
        turned
    }

    /// Makes iterations of an asyncio event loop, whose callbacks are in `ready`, until an interrupt
    /// or an exception that ends its run. Makes at least one, or closes: a thread that interrupts each call
    /// starves neither connections nor timers.
    fn run(&self, py: Python<'_>, ready: &Bound<'_, Ready>) -> PyResult<()> {
        let inner = self.0.take(py)?;
        let _inside = self.0.place.enter(py);
        inner.run_for(ready, || {
            loop {
                self.0.place.check(py);
                if inner.make_due(py)? {
                    inner.shared.is_interrupted.store(false, Ordering::Release);
                    return Ok(());
                }
                inner.iterate(py, ready.get(), None)?;
                if inner.was_interrupted.take()
                    || inner.shared.is_interrupted.swap(false, Ordering::AcqRel)
                    || ready.get().is_ending()
                {
                    return Ok(());
                }
            }
        })
    }

    /// Makes one such iteration, which waits at most `at_most` seconds; `None` sets no limit. The due
    /// timed calls were made before.
    fn iterate(
        &self,
        py: Python<'_>,
        ready: &Bound<'_, Ready>,
        at_most: Option<f64>,
    ) -> PyResult<()> {
        let inner = self.0.take(py)?;
        let _inside = self.0.place.enter(py);
        inner.run_for(ready, || inner.iterate(py, ready.get(), at_most.map(seconds)))?;
        inner.shared.is_interrupted.store(false, Ordering::Release);
        Ok(())
    }

    /// Carries out the requests recorded so far, such as output, without taking events or calling
    /// Python.
    fn flush(&self) {
        let Some(inner) = self.0.inner() else { return };
        // Inside a turn, where only finalizers run, the turn will do it.
        if let Ok(mut couplet) = inner.couplet.try_borrow_mut() {
            couplet.flush();
        }
    }

    /// Called after a fork: the loop continues in parent and child, if this is its thread.
    fn forked(&self, is_child: bool) -> PyResult<()> {
        let Some(shared) = self.0.shared() else { return Ok(()) };
        hooks::forked(&shared.reactor, is_child).map_err(system_error)
    }

    /// A descriptor that is readable while a turn has work.
    fn fileno(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        let couplet = self.0.take(py)?.couplet()?;
        Ok(couplet.descriptor().map(|descriptor| descriptor.as_raw_fd()))
    }

    /// Seconds until the next turn is due without an event; `None` if none is scheduled.
    fn next_turn(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        let inner = self.0.take(py)?;
        if self.0.is_interrupted.load(Ordering::Acquire) || inner.shared.has_calls() {
            return Ok(Some(0.0));
        }
        let next = inner.couplet()?.next_turn();
        let now = inner.shared.reactor.now();
        Ok(next.map(|next| next.saturating_duration_since(now).as_secs_f64()))
    }

    /// The connection or port whose protocol is being called, if any.
    #[getter]
    fn current(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.shared()?.current(py)
    }

    /// Calls a function on behalf of an object, which the log then names.
    #[pyo3(signature = (object, function, *args))]
    fn call_for<'py>(
        &self,
        object: Bound<'py, PyAny>,
        function: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.0.shared() {
            Some(shared) => {
                shared.call_for(object.as_unbound(), object.py(), || function.call1(args))
            }
            None => function.call1(args),
        }
    }

    /// Makes `run` return soon. For any thread.
    fn interrupt(&self) {
        self.0.interrupt();
    }

    /// Calls `function` with the arguments after `delay` seconds.
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
            let queueing = shared.clone();
            shared.reactor.call_soon(move || {
                queueing.queue(move |py, shared| {
                    shared.report_error(py, function.call1(py, (argument,)));
                });
            });
            Ok(())
        })
    }

    /// Sets the clock by which later calls report their times; `None` selects `time.time`.
    fn set_clock(&self, clock: Clock) {
        self.0.timers.set_clock(clock);
    }

    /// The pending calls.
    fn delayed_calls(&self, py: Python<'_>) -> Vec<Py<DelayedCall>> {
        self.0.timers.all(py)
    }

    /// Calls `ready` in each turn in which the descriptor is ready for the interest, `r`, `w` or
    /// `rw`, with the readiness in the same form.
    fn watch(
        &self,
        py: Python<'_>,
        descriptor: Descriptor,
        interest: &str,
        ready: Py<PyAny>,
    ) -> PyResult<Watch> {
        Watch::start(py, &self.0, &descriptor, interest, ready)
    }

    /// Adopts a connected socket that Python has detached.
    fn adopt(&self, connection: Bound<'_, Connection>, descriptor: Descriptor) -> PyResult<()> {
        Connection::adopt(&connection, &self.0, descriptor)
    }

    /// Adopts a non-blocking pipe or another descriptor: to read (`r`), to write (`w`) or for both
    /// (`rw`). Python has given it up, unless it is shared: the loop then uses a duplicate.
    fn adopt_pipe(
        &self,
        connection: Bound<'_, Connection>,
        descriptor: Descriptor,
        direction: &str,
        is_shared: bool,
        name: String,
    ) -> PyResult<()> {
        Connection::adopt_pipe(&connection, &self.0, descriptor, (direction, is_shared, name))
    }

    /// Has a port use a duplicate of its bound socket, over UDP or a UNIX socket.
    fn adopt_datagrams(
        &self,
        port: &Bound<'_, Datagrams>,
        descriptor: Descriptor,
        is_unix: bool,
    ) -> PyResult<()> {
        port.get().adopt(&self.0, descriptor, is_unix)
    }

    /// Accepts connections from a duplicate of this listening socket.
    fn listen(
        &self,
        py: Python<'_>,
        descriptor: Descriptor,
        accepted: Py<PyAny>,
    ) -> PyResult<Port> {
        Port::listen(py, &self.0, descriptor, accepted, Bridge::accepted)
    }

    /// Has the loop inspected once a thread takes it.
    ///
    /// # Errors
    ///
    /// A thread has taken the loop, or it is to be inspected already.
    fn inspect(&self, inspection: Py<Inspection>) -> PyResult<()> {
        if self.0.taken() {
            return Err(PyRuntimeError::new_err(
                "cannot inspect the reactor: it has begun to run; call inspect() before",
            ));
        }
        let error =
            |_| PyRuntimeError::new_err("cannot inspect the reactor: it is inspected already");
        self.0.inspection.set(inspection).map_err(error)
    }

    /// Has the stream of an asyncio transport take over a duplicate of a connected socket.
    fn adopt_stream(&self, stream: Bound<'_, Stream>, descriptor: Descriptor) -> PyResult<()> {
        Stream::adopt(&stream, &self.0, descriptor)
    }

    /// Accepts streams from a duplicate of this listening socket: `accepted` gets each of them.
    fn listen_streams(
        &self,
        py: Python<'_>,
        descriptor: Descriptor,
        accepted: Py<PyAny>,
    ) -> PyResult<Port> {
        Port::listen(py, &self.0, descriptor, accepted, Wire::accepted)
    }
}
