//! [`Stream`]: a connection of an asyncio event loop. `SocketTransport` of the Python half owns it,
//! and gets its events.

use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard};

use couplet::transport::Timeout;
use couplet::{Address, Protocol, Reason, Transport, hooks};
use couplet_os::tethered::Tethered;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::bridge::address;
use crate::connection::with_bytes;
use crate::descriptor::Descriptor;
use crate::locked;
use crate::looping::{LoopShared, system_error};
use crate::ready::ends_loop;
use crate::seat::Seat;

/// Default numbers of unsent bytes below and above which the owner is notified, as in asyncio.
const LIMITS: (usize, usize) = (16 * 1024, 64 * 1024);

/// The stream's objects in the loop's thread.
struct Home {
    transport: Transport,
    shared: Rc<LoopShared>,
}

#[derive(Default)]
struct StreamState {
    /// Set once the loop has the socket.
    home: Option<Tethered<Home>>,
    /// The Python transport. `None` before it is made and after its end.
    owner: Option<Py<PyAny>>,
    /// The method `run` of a context, and the function for it to call with the data.
    receiver: Option<(Py<PyAny>, Py<PyAny>)>,
    /// Unsent bytes above which the owner is notified, and below which it is notified again.
    high: usize,
    low: usize,
    /// The owner waits for a drain.
    awaits_drain: bool,
    /// A close was requested.
    is_closing: bool,
}

/// A connection: data, flow control and the end.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Stream(Mutex<StreamState>);

impl Stream {
    fn state(&self) -> MutexGuard<'_, StreamState> {
        locked(&self.0)
    }

    /// Calls `f` with the transport; returns `None` before the loop has the socket.
    ///
    /// # Errors
    ///
    /// The caller is not in the loop's thread.
    fn on_transport<T>(&self, f: impl FnOnce(&Transport) -> T) -> PyResult<Option<T>> {
        let state = self.state();
        let Some(home) = &state.home else { return Ok(None) };
        let Some(Home { transport, .. }) = home.get() else { return Err(elsewhere()) };
        let transport = transport.clone();
        drop(state);
        Ok(Some(f(&transport)))
    }

    /// Writes, and returns the consequence for the owner.
    fn put(&self, data: &[u8]) -> PyResult<Written> {
        let state = self.state();
        let Some(home) = &state.home else { return Ok(Written::Accepted) };
        let Some(Home { transport, .. }) = home.get() else { return Err(elsewhere()) };
        if transport.is_closing() {
            return Ok(Written::Refused);
        }
        transport.write(data);
        let is_full = transport.buffered() > state.high;
        Ok(if is_full { Written::Full } else { Written::Accepted })
    }

    fn owner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().owner.as_ref().map(|owner| owner.clone_ref(py))
    }

    fn shared(&self) -> Option<Rc<LoopShared>> {
        Some(self.state().home.as_ref()?.get()?.shared.clone())
    }

    /// Calls a method of the owner.
    fn tell<'py, A>(&self, py: Python<'py>, name: &str, args: A) -> PyResult<()>
    where
        A: pyo3::call::PyCallArgs<'py>,
    {
        self.owner(py).map_or(Ok(()), |owner| owner.call_method1(py, name, args).map(drop))
    }

    /// Calls `f`, which handles an event of the stream.
    fn handle(&self, py: Python<'_>, shared: &LoopShared, f: impl FnOnce(&Stream) -> PyResult<()>) {
        if let Some(owner) = self.owner(py) {
            shared.call_asyncio(py, &owner, || f(self));
        }
    }

    /// Notifies an owner that waits for a drain, if little output is unsent.
    fn check_drain(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.state();
        let home = state.home.as_ref().and_then(Tethered::get);
        let is_drained = home.is_some_and(|home| home.transport.buffered() <= state.low);
        if state.awaits_drain && is_drained {
            state.awaits_drain = false;
            drop(state);
            return self.tell(py, "_drained", ());
        }
        Ok(())
    }

    /// Notifies an owner that waits for a drain, even if it has written more since.
    fn end_drain(&self, py: Python<'_>) -> PyResult<()> {
        let awaits_drain = std::mem::take(&mut self.state().awaits_drain);
        if awaits_drain { self.tell(py, "_drained", ()) } else { Ok(()) }
    }

    pub(crate) fn adopt(
        slf: &Bound<'_, Self>,
        seat: &Arc<Seat>,
        descriptor: Descriptor,
    ) -> PyResult<()> {
        let socket = descriptor.duplicate().map_err(system_error)?;
        let stream = slf.clone().unbind();
        seat.ask(slf.py(), move |_, shared| {
            let mut wire =
                Some(Wire { shared: Rc::downgrade(shared), accepted: None, stream: Some(stream) });
            let build = move |_: &Address| wire.take();
            shared.reactor.adopt(socket, build).map_err(system_error)?.detach();
            Ok(())
        })
    }
}

/// Consequence of a write.
enum Written {
    Accepted,
    /// More is unsent than the limit.
    Full,
    /// The connection is lost, and the owner was not notified yet.
    Refused,
}

fn elsewhere() -> PyErr {
    let text = "a transport of asyncio was used outside the thread of its event loop";
    PyRuntimeError::new_err(text)
}

#[pymethods]
impl Stream {
    #[new]
    fn new() -> Stream {
        let (low, high) = LIMITS;
        Stream(Mutex::new(StreamState { low, high, ..StreamState::default() }))
    }

    /// Sets the transport that gets the events.
    fn own(&self, owner: Py<PyAny>) {
        self.state().owner = Some(owner);
    }

    /// Sets the function that gets the data, and the method `run` of its context.
    fn set_receiver(&self, run: Py<PyAny>, receiver: Py<PyAny>) {
        let before = self.state().receiver.replace((run, receiver));
        drop(before);
    }

    /// Sends bytes after everything written before.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let (name, args) = match with_bytes(data, |data| slf.get().put(data)) {
            Ok(written) => match written? {
                Written::Accepted => return Ok(()),
                Written::Full => ("_full", PyTuple::empty(py)),
                Written::Refused => ("_refused", PyTuple::empty(py)),
            },
            Err(_) => ("_write_other", PyTuple::new(py, [data])?),
        };
        match slf.get().owner(py) {
            Some(owner) => owner.call_method1(py, name, args).map(drop),
            None => Ok(()),
        }
    }

    /// Sets the numbers of unsent bytes below and above which the owner is notified.
    fn set_limits(&self, low: usize, high: usize) -> PyResult<()> {
        let mut state = self.state();
        (state.low, state.high) = (low, high);
        drop(state);
        self.on_transport(|transport| transport.set_write_marks(low, high))?;
        Ok(())
    }

    /// The number of unsent bytes.
    fn buffered(&self) -> PyResult<usize> {
        Ok(self.on_transport(Transport::buffered)?.unwrap_or_default())
    }

    /// Calls `_drained` of the owner once little output is unsent.
    fn await_drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state().awaits_drain = true;
        let (shared, this) = (slf.get().shared(), slf.clone().unbind());
        slf.get().on_transport(|transport| {
            let drained = transport.writable().map(move |()| {
                if let Some(shared) = shared {
                    shared.queue(move |py, shared| {
                        this.get().handle(py, shared, |stream| stream.end_drain(py));
                    });
                }
            });
            drained.add_errback(|_| Ok(())).detach();
        })?;
        Ok(())
    }

    /// Calls `_flushed` of the owner once everything written is sent.
    fn await_flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (shared, this) = (slf.get().shared(), slf.clone().unbind());
        slf.get().on_transport(|transport| {
            let flushed = transport.flushed().map(move |()| {
                if let Some(shared) = shared {
                    shared.queue(move |py, shared| {
                        this.get().handle(py, shared, |stream| stream.tell(py, "_flushed", ()));
                    });
                }
            });
            flushed.add_errback(|_| Ok(())).detach();
        })?;
        Ok(())
    }

    fn pause(&self) -> PyResult<()> {
        self.on_transport(Transport::pause_producing).map(drop)
    }

    fn resume(&self) -> PyResult<()> {
        self.on_transport(Transport::resume_producing).map(drop)
    }

    /// Closes our direction once everything written is sent.
    fn lose_write(&self) -> PyResult<()> {
        self.on_transport(Transport::lose_write_connection).map(drop)
    }

    /// Receives no more data.
    fn stop_receiving(&self) -> PyResult<()> {
        let receiver = self.state().receiver.take();
        drop(receiver);
        self.pause()
    }

    /// Closes now. Unsent output is dropped, and then the peer gets a reset.
    fn close(&self) -> PyResult<()> {
        self.state().is_closing = true;
        let close = |transport: &Transport| match transport.buffered() {
            0 => transport.lose_connection(),
            _ => transport.abort_connection(),
        };
        self.on_transport(close).map(drop)
    }

    /// Releases the Python objects. The addresses stay.
    fn forget(&self) {
        let mut state = self.state();
        let held = (state.owner.take(), state.receiver.take());
        drop(state);
        drop(held);
    }

    /// The number of the descriptor, or -1.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.on_transport(hooks::descriptor)?.flatten().unwrap_or(-1))
    }

    /// Our address in the format of Python's sockets.
    fn sockname<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let host = self.on_transport(|transport| transport.host().clone())?;
        host.map(|host| address(py, &host)).transpose()
    }

    /// The peer's address in the format of Python's sockets.
    fn peername<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let peer = self.on_transport(|transport| transport.peer().clone())?;
        peer.map(|peer| address(py, &peer)).transpose()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(state) = self.0.try_lock() else { return Ok(()) };
        if let Some(owner) = &state.owner {
            visit.call(owner)?;
        }
        if let Some((run, receiver)) = &state.receiver {
            visit.call(run)?;
            visit.call(receiver)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.forget();
    }
}

/// Couplet's protocol for a stream, which queues a call into Python for each event.
pub(crate) struct Wire {
    shared: Weak<LoopShared>,
    /// Gets an accepted stream; taken for its one call.
    accepted: Option<Rc<Py<PyAny>>>,
    /// `None` until the connection is accepted.
    stream: Option<Py<Stream>>,
}

impl Wire {
    /// The wire of a connection that the loop accepts.
    pub(crate) fn accepted(shared: &Weak<LoopShared>, accepted: &Rc<Py<PyAny>>) -> Wire {
        Wire { shared: shared.clone(), accepted: Some(accepted.clone()), stream: None }
    }

    /// Queues a call on behalf of the stream.
    fn queue(&self, call: impl FnOnce(Python<'_>, &Stream) -> PyResult<()> + 'static) {
        let (Some(shared), Some(stream)) = (self.shared.upgrade(), &self.stream) else { return };
        let stream = Python::attach(|py| stream.clone_ref(py));
        shared.queue(move |py, shared| {
            stream.get().handle(py, shared, |stream| call(py, stream));
        });
    }

    /// Attaches the stream, which is made for an accepted connection.
    fn attach(&mut self, transport: &Transport, shared: &Rc<LoopShared>) -> PyResult<()> {
        Python::attach(|py| {
            let made = match &self.stream {
                Some(stream) => stream.clone_ref(py),
                None => Py::new(py, Stream::new())?,
            };
            if self.accepted.is_none() {
                // Until `connection_made` was called, in an iteration to come.
                transport.pause_producing();
            }
            let home = Home { transport: transport.clone(), shared: shared.clone() };
            let mut state = made.get().state();
            state.home = Some(Tethered::new(home));
            let is_closing = state.is_closing;
            transport.set_write_marks(state.low, state.high);
            drop(state);
            if is_closing {
                transport.lose_connection();
            }
            self.stream = Some(made);
            Ok(())
        })
    }
}

impl Protocol for Wire {
    fn connection_made(&mut self, transport: &Transport) {
        let Some(shared) = self.shared.upgrade() else { return };
        transport.set_close_at_once(true);
        transport.set_timeout(Timeout::Close, None);
        transport.set_timeout(Timeout::HalfClose, None);
        transport.set_timeout(Timeout::Write, None);
        if let Err(error) = self.attach(transport, &shared) {
            transport.lose_connection();
            return Python::attach(|py| shared.report(py, error));
        }
        let Some(accepted) = self.accepted.take() else {
            return self.queue(|py, stream| stream.tell(py, "_connected", ()));
        };
        let Some(stream) = &self.stream else { return };
        let stream = Python::attach(|py| stream.clone_ref(py));
        shared.queue(move |py, shared| {
            shared.call_asyncio(py, &accepted, || accepted.call1(py, (stream,)).map(drop));
        });
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let data = Python::attach(|py| PyBytes::new(py, data).unbind());
        self.queue(move |py, stream| {
            // An answer to the last bytes written may come before the drain is noticed.
            stream.check_drain(py)?;
            let state = stream.state();
            let Some((run, receiver)) = &state.receiver else { return Ok(()) };
            let (run, receiver) = (run.clone_ref(py), receiver.clone_ref(py));
            drop(state);
            match run.call1(py, (receiver, data)) {
                Ok(_) => Ok(()),
                Err(error) if ends_loop(py, &error) => Err(error),
                Err(error) => stream.tell(py, "_failed", (error,)),
            }
        });
    }

    fn read_closed(&mut self, _: &Transport) {
        self.queue(|py, stream| stream.tell(py, "_eof_received", ()));
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let (Some(shared), Some(stream)) = (self.shared.upgrade(), self.stream.take()) else {
            return;
        };
        let error = match reason {
            Reason::Lost(error) => Some(match error.raw_os_error() {
                Some(number) => system_error(std::io::Error::from_raw_os_error(number)),
                None => PyOSError::new_err(error.to_string()),
            }),
            _ => None,
        };
        shared.ends.push(move |py, shared| {
            stream.get().handle(py, shared, |stream| stream.tell(py, "_lost", (error,)));
        });
    }
}
