//! [`Datagrams`]: the socket of a port for datagrams, over UDP or a UNIX socket. Twisted's code makes
//! and binds it; here datagrams are received, a batch for each wake-up, and sent. Over UDP the answers
//! to a batch leave together.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use couplet::Interest;
#[cfg(target_os = "linux")]
use couplet_os::datagrams::{Batch, Name};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::answers::{Answer, Answers};
#[cfg(not(target_os = "linux"))]
use crate::batch::{Batch, Name};
use crate::descriptor::Descriptor;
use crate::locked;
use crate::looping::{LoopShared, system_error};
use crate::peers::{Peers, Socket, Target, address};
use crate::seat::{Seat, Seated};

/// Most datagrams of one system call.
const PLACES: usize = 32;

/// Longest datagram that is received whole. UDP datagrams are never longer, and UNIX datagrams only if
/// the system's limits were raised.
const LONGEST: usize = 1 << 20;

/// How long the answers to a batch may wait for the next ones.
const HELD: Duration = Duration::from_micros(500);

/// The base class of a reactor's ports for datagrams. Empty until the port is bound, and after its end.
#[pyclass(frozen, subclass, module = "couplet_twisted._couplet")]
pub(crate) struct Datagrams(Mutex<Option<Open>>);

struct Open {
    seat: Arc<Seat>,
    /// A duplicate of Python's.
    socket: Arc<Socket>,
    is_connected: bool,
    stage: DatagramsStage,
    peers: Peers,
    answers: Answers,
}

enum DatagramsStage {
    Paused,
    Reading(Seated<couplet::Watch<Arc<Socket>>>),
    /// The program has stopped the port, which receives nothing more.
    Stopping,
}

/// A datagram, and the address of its sender, for Python and for the system.
type Received = (Py<PyBytes>, Py<PyAny>, Name);

/// The buffers with which the ports of a loop receive. Law 9: [`PLACES`] datagrams.
#[derive(Default)]
pub(crate) struct Buffers(Option<Batch>);

impl Buffers {
    /// Buffers for datagrams of `size` bytes.
    fn of(&mut self, size: usize) -> &mut Batch {
        if self.0.as_ref().is_some_and(|batch| batch.size() < size) {
            self.0 = None;
        }
        self.0.get_or_insert_with(|| Batch::new(PLACES, size.max(1)))
    }
}

impl Open {
    /// Sends a datagram to an address of the socket's family, or to the peer of a connected socket.
    /// `None` for any other, which needs Twisted's checks.
    fn send(&self, data: &[u8], to: Option<&Target>) -> Option<io::Result<usize>> {
        match to {
            None if self.is_connected => Some(self.socket.send(data)),
            Some(to) if !self.is_connected => self.socket.send_to(data, to),
            _ => None,
        }
    }

    /// The connected peer over a UNIX socket does not come with its datagrams.
    fn is_unix_peer(&self) -> bool {
        self.is_connected && matches!(*self.socket, Socket::Unix(_))
    }
}

impl Datagrams {
    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        locked(&self.0)
    }

    /// Takes a duplicate of the port's socket.
    pub(crate) fn adopt(
        &self,
        seat: &Arc<Seat>,
        descriptor: Descriptor,
        is_unix: bool,
    ) -> PyResult<()> {
        let socket = descriptor.duplicate().and_then(|socket| Socket::new(socket, is_unix));
        *self.state() = Some(Open {
            seat: seat.clone(),
            socket: Arc::new(socket.map_err(system_error)?),
            is_connected: false,
            stage: DatagramsStage::Paused,
            peers: Peers::default(),
            answers: Answers::default(),
        });
        Ok(())
    }

    fn is_reading(&self) -> bool {
        self.state().as_ref().is_some_and(|open| matches!(open.stage, DatagramsStage::Reading(_)))
    }

    /// Begins to deliver a datagram of this sender, unless the program has stopped the port.
    fn begin(&self, py: Python<'_>, from: &Py<PyAny>, name: &Name) -> bool {
        let mut state = self.state();
        let Some(open) =
            state.as_mut().filter(|open| !matches!(open.stage, DatagramsStage::Stopping))
        else {
            return false;
        };
        let sender = if open.is_connected { None } else { open.socket.held_for(name) };
        let before = open.answers.set_sender(sender.map(|to| (from.clone_ref(py), to)));
        drop(state);
        drop(before);
        true
    }

    /// Holds a datagram back, to be sent with the other answers of the batch. False if it is not an
    /// answer to the sender of the datagram that is being delivered, or too long.
    fn hold(&self, data: &Bound<'_, PyBytes>, to: &Bound<'_, PyAny>) -> bool {
        let mut state = self.state();
        let Some(open) = state.as_mut() else { return false };
        if !open.answers.accepts(data.as_bytes(), to) {
            return false;
        }
        let full = open.answers.push(data);
        drop(state);
        if full {
            self.send_answers(data.py());
        }
        true
    }

    /// Sends the answers that were held back. The log gets an error of the system, as it gets one
    /// that a callback raises.
    fn send_answers(&self, py: Python<'_>) {
        let (seat, socket, answers) = match self.state().as_mut() {
            Some(open) if !open.answers.is_empty() => {
                (open.seat.clone(), open.socket.clone(), open.answers.take())
            }
            _ => return,
        };
        let mut rest = &answers[..];
        while let Some((first, others)) = rest.split_first() {
            match Answer::send(py, socket.as_fd(), rest) {
                Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or_default(),
                _ => {
                    seat.report_error(py, first.send_alone(py, &socket));
                    rest = others;
                }
            }
        }
    }

    /// The port whose protocol called, if any, sends the answers that were held back: the protocol
    /// may wait for their effect.
    pub(crate) fn turning(py: Python<'_>, shared: &LoopShared) {
        let port = shared.current(py);
        if let Some(port) = port.as_ref().and_then(|port| port.bind(py).cast::<Datagrams>().ok()) {
            port.get().send_answers(py);
        }
    }

    /// Enters a stage, and ends the watch of the one before.
    fn enter(&self, py: Python<'_>, stage: DatagramsStage) -> PyResult<()> {
        let Some(before) =
            self.state().as_mut().map(|open| std::mem::replace(&mut open.stage, stage))
        else {
            return Ok(());
        };
        stop(py, before)
    }

    /// The address of a peer.
    fn peer(&self, py: Python<'_>, name: &Name) -> PyResult<Py<PyAny>> {
        if let Some(peer) = self.state().as_ref().and_then(|open| open.peers.get(py, name)) {
            return Ok(peer);
        }
        let peer = address(py, name)?;
        if let Some(open) = self.state().as_mut() {
            open.peers.insert(name.clone(), peer.clone_ref(py));
        }
        Ok(peer)
    }

    /// Receives the datagrams that have arrived, at most `count`, and at most `size` bytes of each.
    /// `None` if an earlier datagram was refused.
    fn take(
        &self,
        py: Python<'_>,
        batch: &mut Batch,
        (count, size): (usize, usize),
    ) -> PyResult<Option<Vec<Received>>> {
        let Some(socket) = self.state().as_ref().map(|open| open.socket.clone()) else {
            return Ok(Some(Vec::new()));
        };
        let count = match batch.receive(socket.as_fd(), count, size) {
            Ok(count) => count,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => 0,
                ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(system_error(error)),
            },
        };
        let mut received = Vec::with_capacity(count);
        for n in 0..count {
            let datagram = batch.get(n);
            let data = PyBytes::new(py, datagram.data).unbind();
            received.push((data, self.peer(py, &datagram.from)?, datagram.from));
        }
        Ok(Some(received))
    }

    /// Receives a batch, and passes it to the protocol. Twisted's `doRead`.
    ///
    /// # Errors
    ///
    /// The system's error, or an exception of `connectionRefused`.
    fn receive(slf: &Bound<'_, Self>, shared: &LoopShared) -> PyResult<()> {
        let py = slf.py();
        let size = slf.getattr(intern!(py, "maxPacketSize"))?.extract::<usize>()?.min(LONGEST);
        let throughput = slf.getattr(intern!(py, "maxThroughput"))?.extract::<isize>()?;
        let count = throughput.max(0).unsigned_abs().div_ceil(size.max(1)).clamp(1, PLACES);
        // Taken, because a finalizer that runs during the call may turn the loop.
        let mut buffers = shared.buffers.take();
        let received = slf.get().take(py, buffers.of(size), (count, size));
        shared.buffers.replace(buffers);
        let Some(received) = received? else { return Datagrams::refused(slf) };
        let delivered = Datagrams::deliver(slf, shared, received);
        let sender = slf.get().state().as_mut().and_then(|open| open.answers.set_sender(None));
        drop(sender);
        slf.get().send_answers(py);
        delivered
    }

    /// Passes a batch to the protocol.
    fn deliver(slf: &Bound<'_, Self>, shared: &LoopShared, batch: Vec<Received>) -> PyResult<()> {
        let py = slf.py();
        let mut since = now();
        let is_alone = slf.get().state().as_ref().is_some_and(Open::is_unix_peer);
        for (data, from, name) in batch {
            if !slf.get().begin(py, &from, &name) {
                break;
            }
            let protocol = slf.getattr(intern!(py, "protocol"))?;
            let received = intern!(py, "datagramReceived");
            let result = if is_alone {
                protocol.call_method1(received, (data,))
            } else {
                protocol.call_method1(received, (data, from))
            };
            shared.report_error(py, result);
            if now().saturating_duration_since(since) > HELD {
                slf.get().send_answers(py);
                since = now();
            }
        }
        Ok(())
    }

    /// The peer of a connected port refused a datagram.
    fn refused(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if slf.get().state().as_ref().is_some_and(|open| open.is_connected) {
            let protocol = slf.getattr(intern!(py, "protocol"))?;
            protocol.call_method0(intern!(py, "connectionRefused"))?;
        }
        Ok(())
    }

    /// Whether Twisted's code takes a refusal for an event rather than an error.
    fn reports_refusals(&self) -> bool {
        let takes = |open: &Open| open.is_connected || matches!(*open.socket, Socket::Udp { .. });
        self.state().as_ref().is_some_and(takes)
    }

    /// Receives after a wake-up.
    fn ready(slf: &Bound<'_, Self>, shared: &LoopShared) {
        let py = slf.py();
        // An earlier call of this wake-up may have paused the port.
        if slf.get().is_reading()
            && let Err(error) = Datagrams::receive(slf, shared)
        {
            shared.report_error(py, slf.call_method1(intern!(py, "_failed"), (error,)));
        }
    }
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a callback of a batch may have taken long")]
    Instant::now()
}

fn stop(py: Python<'_>, stage: DatagramsStage) -> PyResult<()> {
    let DatagramsStage::Reading(watch) = stage else { return Ok(()) };
    watch.with(py, |watch, _| {
        watch.stop().detach();
        Ok(())
    })
}

#[pymethods]
impl Datagrams {
    #[new]
    #[pyo3(signature = (*_args, **_kw))]
    fn new(_args: Bound<'_, PyTuple>, _kw: Option<Bound<'_, PyDict>>) -> Datagrams {
        Datagrams(Mutex::default())
    }

    /// Sends a datagram, or holds it back until the batch has been delivered. Twisted's code sends
    /// those that need its checks, and handles errors.
    #[pyo3(signature = (datagram, addr=None))]
    fn write<'py>(
        slf: &Bound<'py, Self>,
        datagram: Bound<'py, PyAny>,
        addr: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        if let (Ok(data), Some(addr)) = (datagram.cast_exact::<PyBytes>(), &addr)
            && slf.get().hold(data, addr)
        {
            return Ok(Some(data.as_bytes().len().into_pyobject(py)?.into_any()));
        }
        slf.get().send_answers(py);
        // Read before the lock is taken: a number may be an object with a method.
        let to = addr.as_ref().map(Target::new);
        let sent = match (datagram.cast_exact::<PyBytes>(), &to) {
            (Ok(data), None | Some(Some(_))) => {
                let to = to.as_ref().and_then(Option::as_ref);
                let send = |open: &Open| open.send(data.as_bytes(), to);
                slf.get().state().as_ref().and_then(send)
            }
            _ => None,
        };
        match sent {
            Some(Ok(count)) => Ok(Some(count.into_pyobject(py)?.into_any())),
            Some(Err(error))
                if error.kind() == ErrorKind::ConnectionRefused && slf.get().reports_refusals() =>
            {
                Datagrams::refused(slf).map(|()| None)
            }
            _ => {
                let arguments = match addr {
                    Some(addr) => (datagram, addr).into_pyobject(py)?,
                    None => (datagram,).into_pyobject(py)?,
                };
                slf.call_method1(intern!(py, "_write"), arguments).map(Some)
            }
        }
    }

    #[pyo3(name = "doRead")]
    fn do_read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let seat = slf.get().state().as_ref().map(|open| open.seat.clone());
        match seat.as_ref().and_then(|seat| seat.shared()) {
            Some(shared) => Datagrams::receive(slf, shared),
            None => Ok(()),
        }
    }

    #[pyo3(name = "startReading")]
    fn start_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (seat, socket) = match &*slf.get().state() {
            Some(Open { stage: DatagramsStage::Paused, seat, socket, .. }) => {
                (seat.clone(), socket.clone())
            }
            _ => return Ok(()),
        };
        let this = slf.clone().unbind();
        let watch = Seated::make(py, &seat, move |shared| {
            let weak = Rc::downgrade(shared);
            let this = Rc::new(this);
            let watch = shared.reactor.watch(socket, Interest::Readable, move |_, _| {
                let Some(shared) = weak.upgrade() else { return };
                let this = this.clone();
                shared.queue(move |py, shared| {
                    shared.call_for(&*this, py, || Datagrams::ready(this.bind(py), shared));
                });
            });
            watch.map(Some).map_err(system_error)
        })?;
        slf.get().enter(py, DatagramsStage::Reading(watch))
    }

    #[pyo3(name = "stopReading")]
    fn stop_reading(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_reading() { self.enter(py, DatagramsStage::Paused) } else { Ok(()) }
    }

    #[getter(_isReading)]
    fn get_is_reading(&self) -> bool {
        self.is_reading()
    }

    /// Called when the socket is connected.
    fn _connected(&self) {
        if let Some(open) = self.state().as_mut() {
            open.is_connected = true;
        }
    }

    /// Called before the program uses the socket: sends the answers that were held back.
    fn _flush(&self, py: Python<'_>) {
        self.send_answers(py);
    }

    /// Called in a forked child: the parent sends the answers.
    fn _forget(&self) {
        let answers = self.state().as_mut().map(|open| open.answers.take());
        drop(answers);
    }

    /// Called when the program stops the port.
    fn _stop(&self, py: Python<'_>) -> PyResult<()> {
        self.send_answers(py);
        self.enter(py, DatagramsStage::Stopping)
    }

    /// Closes the duplicate of the socket.
    fn _close(&self, py: Python<'_>) -> PyResult<()> {
        self.send_answers(py);
        let open = self.state().take();
        open.map_or(Ok(()), |open| stop(py, open.stage))
    }
}
