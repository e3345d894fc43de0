//! [`Connection`]: the transport that a Twisted protocol writes to.

use std::cell::OnceCell;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use couplet::layers::tls::Tls;
use couplet::transport::Pipe;
use couplet::{Address, Bytes, Producer, ProducerKind, Transport, hooks};
use couplet_os::tethered::Tethered;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::bridge::{Bridge, address};
use crate::descriptor::Descriptor;
use crate::locked;
use crate::looping::{LoopShared, system_error};
use crate::seat::Seat;
use crate::tls::{self, Negotiated};

/// Default of `bufferSize`: unsent bytes above which a streaming producer is paused.
const BUFFER: usize = 64 * 1024;

/// Most descriptors queued before the loop has the socket.
const EARLY_DESCRIPTORS: usize = 64;

/// An accepted transport that has no Python object yet.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Accepted {
    pub(crate) transport: Tethered<Transport>,
    pub(crate) shared: Tethered<Rc<LoopShared>>,
    /// Gets the object, which receives events even while its protocol's `connectionMade` turns the loop.
    pub(crate) connection: Tethered<Rc<OnceCell<Py<Connection>>>>,
}

/// The connection's objects in the loop's thread.
struct Home {
    transport: Transport,
    shared: Rc<LoopShared>,
}

/// Our address and the peer's, readable from every thread.
#[derive(Default)]
enum Addresses {
    /// The loop does not have the socket yet.
    #[default]
    Unknown,
    /// The common case, stored without an allocation.
    V4([SocketAddrV4; 2]),
    Other(Box<[Address; 2]>),
}

impl Addresses {
    fn from_transport(transport: &Transport) -> Addresses {
        let (host, peer) = (transport.host(), transport.peer());
        match (host.socket_addr(), peer.socket_addr()) {
            (Some(SocketAddr::V4(host)), Some(SocketAddr::V4(peer))) => Addresses::V4([host, peer]),
            _ => Addresses::Other(Box::new([host.clone(), peer.clone()])),
        }
    }

    fn get<'py>(&self, py: Python<'py>, number: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self {
            Addresses::Unknown => Ok(None),
            Addresses::V4(both) => address(py, &SocketAddr::V4(both[number]).into()).map(Some),
            Addresses::Other(both) => address(py, &both[number]).map(Some),
        }
    }
}

/// Output held until the loop has the socket, until the end of a call that starts TLS, and while a loss is reported.
#[derive(Default)]
struct EarlyOutput {
    /// Law 9: bounded by the bytes that the protocol writes in the turn of the adoption or of the loss, or in the
    /// call that starts TLS.
    bytes: Vec<u8>,
    /// In order, each with its offset in `bytes`. Law 9: one layer, and at most as many descriptors
    /// as an outbox takes.
    marks: Vec<(usize, Mark)>,
}

/// A change between two bytes of the output.
enum Mark {
    Descriptor(OwnedFd),
    Tls(Box<Tethered<Tls>>),
}

impl EarlyOutput {
    fn mark(&mut self, mark: Mark) {
        self.marks.push((self.bytes.len(), mark));
    }

    /// The number of descriptors.
    fn descriptors(&self) -> usize {
        self.marks.iter().filter(|(_, mark)| matches!(mark, Mark::Descriptor(_))).count()
    }

    fn send(self, transport: &Transport) {
        let mut written = 0;
        for (at, mark) in self.marks {
            transport.write(&self.bytes[written..at]);
            written = at;
            match mark {
                // If it can't be passed, it is closed.
                Mark::Descriptor(descriptor) => drop(transport.send_descriptor(descriptor)),
                Mark::Tls(layer) => start_tls(transport, *layer),
            }
        }
        transport.write(&self.bytes[written..]);
    }
}

fn start_tls(transport: &Transport, layer: Tethered<Tls>) {
    // The peer reads everything, and its close_notify or FIN ends the connection, as in Twisted.
    transport.set_close_at_once(false);
    // A connection that is closing needs no layer.
    let started = layer.into_inner().ok().map(|layer| transport.start_layer(layer));
    if let Some(Err(_)) = started {
        transport.abort_connection();
    }
}

/// How far the connection has come: Twisted's `connected` and `disconnected`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum ConnectionStage {
    #[default]
    Connecting,
    Connected,
    /// The end was reported.
    Disconnected,
}

/// The end requested by the program.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Closing {
    #[default]
    Open,
    /// Twisted's `disconnecting`.
    Disconnecting,
    /// Disconnecting too, with a reset.
    Aborted {
        /// Bytes that were unsent then, or written since.
        dropped: usize,
    },
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    Active,
    /// Now, or as soon as the loop has the socket.
    Paused,
    /// An error ended the connection while it neither read nor wrote. The next read or write
    /// reports the loss.
    LossHeld,
}

/// The producer's kind: Twisted's `streamingProducer` and `producerPaused`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Producing {
    #[default]
    Pull,
    Push,
    PushPaused,
}

/// How the output is encrypted, with Twisted's protocol of TLS.
#[derive(Default)]
enum Encryption {
    #[default]
    None,
    /// By rustls.
    Layer(Py<PyAny>),
    /// By the protocol, which the program asked for pyOpenSSL's object in time.
    Protocol(Py<PyAny>),
}

impl Encryption {
    /// The protocol, if rustls encrypts.
    fn layer(&self) -> Option<&Py<PyAny>> {
        match self {
            Encryption::Layer(tls) => Some(tls),
            Encryption::None | Encryption::Protocol(_) => None,
        }
    }

    fn protocol(&self) -> Option<&Py<PyAny>> {
        match self {
            Encryption::Protocol(tls) => Some(tls),
            Encryption::None | Encryption::Layer(_) => None,
        }
    }
}

/// Kept small: each idle connection has one.
#[derive(Default)]
struct ConnectionState {
    /// Set from the moment the loop has the socket until the end is reported.
    home: Option<Tethered<Home>>,
    /// The descriptor that the loop is about to adopt.
    adopted: Option<RawFd>,
    early: Option<Box<EarlyOutput>>,
    names: Addresses,
    protocol: Option<Py<PyAny>>,
    producer: Option<Py<PyAny>>,
    encryption: Encryption,
    producing: Producing,
    stage: ConnectionStage,
    closing: Closing,
    is_write_lost: bool,
    reading: Reading,
    /// Bytes written while reading was paused are still unsent.
    is_flushing: bool,
    /// Unsent bytes above which a streaming producer is paused.
    buffer_size: usize,
    /// Serial number among its port's connections.
    sessionno: u64,
}

impl ConnectionState {
    fn shared(&self) -> Option<Rc<LoopShared>> {
        Some(self.home.as_ref()?.get()?.shared.clone())
    }

    /// The transport, while the loop has the socket.
    ///
    /// # Errors
    ///
    /// The caller is not in the loop's thread.
    fn transport(&self) -> Result<Option<&Transport>, WrongThread> {
        let Some(home) = &self.home else { return Ok(None) };
        let home = home.get().ok_or(WrongThread)?;
        Ok((self.reading != Reading::LossHeld).then_some(&home.transport))
    }

    /// Whether a requested close does not wait for the producer: true for a streaming producer that is not
    /// paused, as in Twisted, because a forwarder never unregisters its source. `stopProducing` reports the
    /// end to the producer.
    fn closes_without_producer(&self) -> bool {
        self.ends_output() && self.producing == Producing::Push
    }

    /// Whether our direction is to be closed once everything written is sent.
    fn ends_output(&self) -> bool {
        self.is_write_lost || self.is_disconnecting()
    }

    fn is_connected(&self) -> bool {
        self.stage == ConnectionStage::Connected
    }

    fn is_disconnecting(&self) -> bool {
        self.closing != Closing::Open
    }

    fn is_aborted(&self) -> bool {
        matches!(self.closing, Closing::Aborted { .. })
    }

    /// Bytes written that the system has not accepted yet.
    fn unsent(&self) -> usize {
        let early = self.early.as_ref().map_or(0, |early| early.bytes.len());
        early + self.transport().ok().flatten().map_or(0, Transport::buffered)
    }

    /// Whether a streaming producer is to be paused. Until it is resumed, it is with each write: Twisted sends the
    /// output that paused it after the next timed calls.
    fn is_full(&self) -> bool {
        self.producing == Producing::PushPaused || self.unsent() > self.buffer_size
    }

    /// Enters or leaves a stage, as when Python sets its attribute.
    fn set_stage(&mut self, stage: ConnectionStage, on: bool) {
        if on {
            self.stage = stage;
        } else if self.stage == stage {
            self.stage = ConnectionStage::Connecting;
        }
    }

    /// Keeps a held loss.
    fn pause_reading(&mut self) {
        if self.reading == Reading::Active {
            self.reading = Reading::Paused;
        }
    }
}

impl Producing {
    fn new(is_streaming: bool) -> Producing {
        if is_streaming { Producing::Push } else { Producing::Pull }
    }

    fn kind(self) -> ProducerKind {
        match self {
            Producing::Pull => ProducerKind::Pull,
            Producing::Push | Producing::PushPaused => ProducerKind::Push,
        }
    }

    fn is_streaming(self) -> bool {
        self != Producing::Pull
    }
}

/// A connection: the base class of a reactor's transports.
#[pyclass(frozen, subclass, module = "couplet_twisted._couplet")]
pub(crate) struct Connection(Mutex<ConnectionState>);

/// Calls `f` with the bytes of an object.
pub(crate) fn with_bytes<T>(data: &Bound<'_, PyAny>, f: impl FnOnce(&[u8]) -> T) -> PyResult<T> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(f(bytes.as_bytes()));
    }
    let buffer =
        PyBuffer::<u8>::get(data).map_err(|_| PyTypeError::new_err("Data must be bytes"))?;
    Ok(f(&buffer.to_vec(data.py())?))
}

/// Bytes of a program up to this size are copied, and not kept until they are sent.
const COPIED: usize = 16 * 1024;

/// A piece of output. A program can't change `bytes`; anything else was copied.
pub(crate) enum Piece<'py> {
    Bytes(Bound<'py, PyBytes>),
    Copied(Vec<u8>),
}

impl<'py> Piece<'py> {
    fn of(data: &Bound<'py, PyAny>) -> PyResult<Piece<'py>> {
        match data.cast_exact::<PyBytes>() {
            Ok(bytes) => Ok(Piece::Bytes(bytes.clone())),
            Err(_) => with_bytes(data, |data| Piece::Copied(data.to_vec())),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Piece::Bytes(bytes) => bytes.as_bytes(),
            Piece::Copied(bytes) => bytes,
        }
    }

    fn write(&self, transport: &Transport) {
        match self {
            Piece::Bytes(bytes) if bytes.as_bytes().len() > COPIED => {
                let kept = PyBackedBytes::from(bytes.clone());
                transport.write_bytes(Bytes::from_owner(kept));
            }
            _ => transport.write(self.as_slice()),
        }
    }
}

/// The caller is not in the loop's thread: its call is posted to the loop.
struct WrongThread;

impl Connection {
    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        locked(&self.0)
    }

    /// Posts the call to the loop and returns true, unless this is the loop's thread.
    fn post_if_elsewhere<'py>(
        slf: &Bound<'py, Self>,
        name: &str,
        args: impl FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>>,
    ) -> PyResult<bool> {
        if slf.get().state().home.as_ref().is_none_or(Tethered::is_home) {
            return Ok(false);
        }
        Connection::post(slf, name, args(slf.py())?)?;
        Ok(true)
    }

    /// Has the loop's thread call the method.
    fn post(slf: &Bound<'_, Self>, name: &str, args: Bound<'_, PyTuple>) -> PyResult<()> {
        let name = PyString::new(slf.py(), name).into_any();
        let args: Vec<_> = std::iter::once(name).chain(args.iter()).collect();
        slf.call_method1("_post", PyTuple::new(slf.py(), args)?)?;
        Ok(())
    }

    /// Calls `f` with the transport, while the loop has it.
    fn on_transport<T>(&self, f: impl FnOnce(&Transport) -> T) -> Option<T> {
        let transport = self.transport()?;
        Some(f(&transport))
    }

    fn transport(&self) -> Option<Transport> {
        self.state().transport().ok()?.cloned()
    }

    pub(crate) fn protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().protocol.as_ref().map(|protocol| protocol.clone_ref(py))
    }

    /// Whether an abort was requested. No further event is reported then.
    pub(crate) fn is_aborted(&self) -> bool {
        self.state().is_aborted()
    }

    /// Whether a close was requested.
    pub(crate) fn is_disconnecting(&self) -> bool {
        self.state().is_disconnecting()
    }

    /// The protocol, unless the connection is aborted.
    pub(crate) fn reader(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.state();
        let protocol = state.protocol.as_ref().filter(|_| !state.is_aborted())?;
        Some(protocol.clone_ref(py))
    }

    /// Decides how to report a loss by error: true defers it, because the connection neither reads
    /// nor writes.
    pub(crate) fn holds_loss(&self) -> bool {
        let mut state = self.state();
        if state.reading == Reading::Active {
            return false;
        }
        let is_pulling = state.producer.is_some() && state.producing == Producing::Pull;
        let holds = !(state.is_flushing || is_pulling || state.is_disconnecting());
        state.reading = if holds { Reading::LossHeld } else { Reading::Paused };
        holds
    }

    /// Reports a deferred loss in the next turn.
    fn deliver_held_loss(slf: &Bound<'_, Self>) {
        let mut state = slf.get().state();
        if state.reading != Reading::LossHeld {
            return;
        }
        state.reading = Reading::Paused;
        let Some(shared) = state.shared() else { return };
        drop(state);
        let this = slf.clone().unbind();
        let kept = shared.clone();
        shared.reactor.call_soon(move || {
            kept.queue(move |py, shared| {
                let why = if this.get().is_aborted() { "aborted" } else { "lost" };
                shared.report_error(py, this.call_method1(py, intern!(py, "_lost"), (why,)));
            });
        });
    }

    /// Called when the protocol wrote, or stopped reading, while reading is paused. Reports a
    /// deferred loss, or else tracks whether output is unsent: until it is sent, an error is
    /// reported immediately.
    fn track_flush(slf: &Bound<'_, Self>) {
        Connection::deliver_held_loss(slf);
        let Some(transport) = slf.get().transport() else { return };
        if transport.buffered() == 0 || std::mem::replace(&mut slf.get().state().is_flushing, true)
        {
            return;
        }
        let of = slf.clone().unbind();
        let flushed = transport.flushed().add_both(move |_| {
            of.get().state().is_flushing = false;
            Ok(())
        });
        flushed.detach();
    }

    /// The peer has closed its sending side. As in Twisted, the connection stops reading.
    pub(crate) fn read_ended(slf: &Bound<'_, Self>) {
        slf.get().state().pause_reading();
        Connection::track_flush(slf);
    }

    /// Twisted's protocol of TLS, if rustls encrypts.
    pub(crate) fn tls(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().encryption.layer().map(|tls| tls.clone_ref(py))
    }

    /// Passes on the output held during the call that started TLS.
    fn send_early(slf: &Bound<'_, Self>) {
        let mut state = slf.get().state();
        let Ok(Some(transport)) = state.transport() else { return };
        let (transport, is_reading) = (transport.clone(), state.reading == Reading::Active);
        let Some(early) = state.early.take() else { return };
        drop(state);
        early.send(&transport);
        if !is_reading {
            Connection::track_flush(slf);
        }
    }

    /// Whether the end was reported to the protocol.
    pub(crate) fn is_lost(&self) -> bool {
        self.state().stage == ConnectionStage::Disconnected
    }

    pub(crate) fn adopt(
        slf: &Bound<'_, Self>,
        seat: &Arc<Seat>,
        descriptor: Descriptor,
    ) -> PyResult<()> {
        let socket = descriptor.detached().map_err(system_error)?;
        slf.get().state().adopted = Some(socket.as_raw_fd());
        let this = slf.clone().unbind();
        seat.ask(slf.py(), move |py, shared| {
            let mut bridge = Some(Bridge::adopted(shared, this.bind(py)));
            let build = move |_: &Address| bridge.take();
            shared.reactor.adopt(socket, build).map_err(system_error)?.detach();
            Ok(())
        })
    }

    /// Adopts a pipe or another descriptor, for a `direction` of `r`, `w` or `rw`. If it is shared,
    /// Python keeps it, and the connection gets a duplicate.
    pub(crate) fn adopt_pipe(
        slf: &Bound<'_, Self>,
        seat: &Arc<Seat>,
        descriptor: Descriptor,
        (direction, is_shared, name): (&str, bool, String),
    ) -> PyResult<()> {
        let end = match is_shared {
            true => descriptor.duplicate(),
            false => descriptor.detached(),
        };
        let end = end.map_err(system_error)?;
        let pipe = match direction {
            "r" => Pipe::reader(end),
            "w" => Pipe::writer(end),
            _ => Pipe::duplex(end).map_err(system_error)?,
        };
        let (pipe, this) = (pipe.named(name), slf.clone().unbind());
        seat.ask(slf.py(), move |py, shared| {
            let mut bridge = Some(Bridge::adopted(shared, this.bind(py)));
            let build = move |_: &Address| bridge.take();
            shared.reactor.adopt_pipe(pipe, build).map_err(system_error)?.detach();
            Ok(())
        })
    }

    /// Called when the loop has the socket: applies the requests recorded so far.
    pub(crate) fn attach(slf: &Bound<'_, Self>, transport: &Transport, shared: &Rc<LoopShared>) {
        let this = slf.get();
        let mut state = this.state();
        if state.stage == ConnectionStage::Disconnected {
            return match state.is_aborted() {
                true => transport.abort_connection(),
                false => transport.lose_connection(),
            };
        }
        let early = state.early.take().unwrap_or_default();
        let home = Home { transport: transport.clone(), shared: shared.clone() };
        state.home = Some(Tethered::new(home));
        state.adopted = None;
        state.names = Addresses::from_transport(transport);
        let ConnectionState { reading, closing, is_write_lost, producing, buffer_size, .. } =
            *state;
        let is_awaited = state.producer.is_some() && !state.closes_without_producer();
        drop(state);
        early.send(transport);
        if reading != Reading::Active || closing != Closing::Open {
            transport.pause_producing();
            Connection::track_flush(slf);
        }
        if is_awaited {
            Connection::produce(slf, transport, (producing.kind(), buffer_size), shared);
            if producing == Producing::PushPaused {
                Connection::resume_later(slf, transport, shared);
            }
        }
        if is_write_lost {
            Connection::close_later(slf, Transport::lose_write_connection);
        }
        match closing {
            Closing::Open => {}
            Closing::Disconnecting => Connection::close_later(slf, Transport::lose_connection),
            Closing::Aborted { .. } => transport.abort_connection(),
        }
    }

    fn produce(
        slf: &Bound<'_, Self>,
        transport: &Transport,
        (kind, buffer_size): (ProducerKind, usize),
        shared: &Rc<LoopShared>,
    ) {
        transport.set_write_marks(0, buffer_size);
        let shared = shared.clone();
        let producing = PythonProducer { of: slf.clone().unbind(), is_first: true, shared };
        // This fails only if the connection's producer is registered already.
        let _ = transport.register_producer(producing, kind);
    }

    fn producer(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state().producer.as_ref().map(|producer| producer.clone_ref(py))
    }

    /// Marks the producer as resumed and returns it, if it is to be resumed.
    fn producer_to_resume(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let mut state = self.state();
        match state.producing {
            Producing::Pull => {}
            Producing::Push => return None,
            Producing::PushPaused => state.producing = Producing::Push,
        }
        state.producer.as_ref().map(|producer| producer.clone_ref(py))
    }

    /// Marks a streaming producer as paused, and returns it. True if it was paused already: Twisted pauses
    /// it with each write while much output is unsent.
    fn producer_to_pause(&self, py: Python<'_>) -> Option<(Py<PyAny>, bool)> {
        let mut state = self.state();
        let was_paused = match state.producing {
            Producing::Pull => return None,
            Producing::Push => false,
            Producing::PushPaused => true,
        };
        let producer = state.producer.as_ref().map(|producer| producer.clone_ref(py))?;
        state.producing = Producing::PushPaused;
        Some((producer, was_paused))
    }

    /// Resumes a producer that was paused here once all output is sent. The loop's own pause covers
    /// only bytes that the system refused.
    fn resume_later(slf: &Bound<'_, Self>, transport: &Transport, shared: &Rc<LoopShared>) {
        let (of, shared) = (slf.clone().unbind(), shared.clone());
        let resumed = transport.writable().map(move |()| {
            PythonProducer { of, is_first: false, shared }.resume();
        });
        // The loss of the connection stops the producer.
        resumed.add_errback(|_| Ok(())).detach();
    }

    /// Closes after the next timed calls, once everything written is sent: as in Twisted, which then sends the
    /// output, these calls may still write.
    fn close_later(slf: &Bound<'_, Self>, close: fn(&Transport)) {
        let state = slf.get().state();
        let (Some(transport), Some(shared)) = (state.transport().ok().flatten(), state.shared())
        else {
            return;
        };
        let (transport, this) = (transport.clone(), slf.clone().unbind());
        drop(state);
        shared.after_timed(move |_, _| {
            this.get().unregister_if_streaming();
            close(&transport);
        });
    }

    /// Unregisters a producer that a close need not wait for.
    fn unregister_if_streaming(&self) {
        if self.state().closes_without_producer() {
            self.on_transport(Transport::unregister_producer);
        }
    }

    fn wrote(slf: &Bound<'_, Self>, written: Written) -> PyResult<()> {
        let Written { is_full, is_paused, is_last } = written;
        let (py, this) = (slf.py(), slf.get());
        if is_paused {
            Connection::track_flush(slf);
        }
        if is_last {
            // The close need not wait for the producer any more.
            Connection::close_later(slf, |_| {});
        }
        let Some((producer, was_paused)) = is_full.then(|| this.producer_to_pause(py)).flatten()
        else {
            return Ok(());
        };
        if was_paused {
            return producer.call_method0(py, intern!(py, "pauseProducing")).map(drop);
        }
        let state = this.state();
        let (shared, ends_output) = (state.shared(), state.ends_output());
        let how = (state.producing.kind(), state.buffer_size);
        drop(state);
        if let (Some(transport), Some(shared)) = (this.transport(), shared) {
            if ends_output {
                // A close waits for a paused producer.
                Connection::produce(slf, &transport, how, &shared);
            }
            Connection::resume_later(slf, &transport, &shared);
        }
        producer.call_method0(py, intern!(py, "pauseProducing"))?;
        Ok(())
    }

    /// Writes the pieces, or has the loop's thread do so.
    pub(crate) fn write_all(slf: &Bound<'_, Self>, pieces: &[Piece<'_>]) -> PyResult<()> {
        match slf.get().write_or_queue(pieces) {
            Ok(written) => Connection::wrote(slf, written),
            Err(WrongThread) => {
                let data = pieces.iter().map(Piece::as_slice).collect::<Vec<_>>().concat();
                let data = PyBytes::new(slf.py(), &data);
                Connection::post(slf, "write", PyTuple::new(slf.py(), [data])?)
            }
        }
    }

    /// Writes, or queues the bytes until the loop has the socket.
    fn write_or_queue(&self, pieces: &[Piece<'_>]) -> Result<Written, WrongThread> {
        let mut state = self.state();
        let size: usize = pieces.iter().map(|piece| piece.as_slice().len()).sum();
        if !state.is_connected() || size == 0 {
            return Ok(Written::default());
        }
        if let Closing::Aborted { dropped } = state.closing {
            // Twisted drops the output later.
            let dropped = dropped + size;
            state.closing = Closing::Aborted { dropped };
            let is_full = state.is_full() || dropped > state.buffer_size;
            return Ok(Written { is_full, ..Written::default() });
        }
        let is_held = state.early.is_some();
        match state.transport()? {
            Some(transport) if !is_held => pieces.iter().for_each(|piece| piece.write(transport)),
            // While a loss is held too: Twisted drops the output later.
            _ => {
                let early = &mut state.early.get_or_insert_default().bytes;
                pieces.iter().for_each(|piece| early.extend_from_slice(piece.as_slice()));
            }
        }
        let is_paused = state.reading != Reading::Active;
        let is_last = state.producer.is_some() && state.closes_without_producer();
        Ok(Written { is_full: state.is_full(), is_paused, is_last })
    }
}

/// Consequences of a write.
#[derive(Default)]
struct Written {
    /// The producer is to be paused.
    is_full: bool,
    /// Reading is paused.
    is_paused: bool,
    /// A requested close waited for the producer, which was resumed and wrote.
    is_last: bool,
}

fn no_args(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    Ok(PyTuple::empty(py))
}

/// The loop's side of a producer.
struct PythonProducer {
    of: Py<Connection>,
    /// Until the loop's first request, which Twisted would not make while output is buffered.
    is_first: bool,
    shared: Rc<LoopShared>,
}

impl PythonProducer {
    /// Resumes the producer after the next timed calls, unless another one is registered by then.
    fn resume(&self) {
        let (connection, registered) =
            Python::attach(|py| (self.of.clone_ref(py), self.of.get().producer(py)));
        self.shared.after_timed(move |py, shared| {
            let (this, connection) = (connection.get(), connection.bind(py));
            if registered.as_ref().map(Py::as_ptr) != this.producer(py).as_ref().map(Py::as_ptr) {
                return;
            }
            let state = this.state();
            let is_unsent = state.producing == Producing::PushPaused && state.unsent() > 0;
            let transport = state.transport().ok().flatten().filter(|_| is_unsent).cloned();
            if state.is_aborted() {
                return;
            }
            drop(state);
            if let Some(transport) = transport {
                return Connection::resume_later(connection, &transport, shared);
            }
            let Some(producer) = this.producer_to_resume(py) else { return };
            if let Err(error) = producer.call_method0(py, intern!(py, "resumeProducing")) {
                report_protocol_error(connection, shared, error);
            }
        });
    }
}

impl Producer for PythonProducer {
    fn resume_producing(&mut self) {
        if self.of.get().state().producing.is_streaming() {
            // `resume_later` resumes the producer once the output that paused it is sent.
            return;
        }
        let is_first = std::mem::take(&mut self.is_first);
        let has_bytes = || self.of.get().on_transport(|transport| transport.buffered() > 0);
        if is_first && has_bytes() == Some(true) {
            return;
        }
        self.resume();
    }

    /// As in Twisted, only a write pauses the producer.
    fn pause_producing(&mut self) {}
}

/// Reports an exception that user code raised in a transport's call, and loses the connection.
pub(crate) fn report_protocol_error(of: &Bound<'_, Connection>, shared: &LoopShared, error: PyErr) {
    let py = of.py();
    let value = error.value(py).clone();
    shared.report(py, error);
    shared.report_error(py, of.call_method1(intern!(py, "_raised"), (value,)));
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (*_args, **_kw))]
    fn new(_args: Bound<'_, PyTuple>, _kw: Option<Bound<'_, pyo3::types::PyDict>>) -> Connection {
        Connection(Mutex::new(ConnectionState {
            buffer_size: BUFFER,
            ..ConnectionState::default()
        }))
    }

    /// Attaches the transport of an accepted connection.
    fn _take(slf: &Bound<'_, Self>, accepted: &Accepted) -> PyResult<()> {
        let (Some(transport), Some(shared), Some(connection)) =
            (accepted.transport.get(), accepted.shared.get(), accepted.connection.get())
        else {
            return Err(PyRuntimeError::new_err(
                "cannot attach a connection outside its loop's thread",
            ));
        };
        drop(connection.set(slf.clone().unbind()));
        Connection::attach(slf, transport, shared);
        Ok(())
    }

    /// Sends bytes after everything written before.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Connection::write_all(slf, &[Piece::of(data)?])
    }

    /// Sends several pieces in order.
    #[pyo3(name = "writeSequence")]
    fn write_sequence(slf: &Bound<'_, Self>, iovec: &Bound<'_, PyAny>) -> PyResult<()> {
        let pieces = iovec.try_iter()?.map(|piece| Piece::of(&piece?));
        Connection::write_all(slf, &pieces.collect::<PyResult<Vec<_>>>()?)
    }

    /// Closes once everything written is sent.
    #[pyo3(name = "loseConnection", signature = (_connDone=None))]
    #[expect(non_snake_case, reason = "Twisted's name")]
    fn lose_connection(slf: &Bound<'_, Self>, _connDone: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        if Connection::post_if_elsewhere(slf, "loseConnection", no_args)? {
            return Ok(());
        }
        Connection::deliver_held_loss(slf);
        let mut state = slf.get().state();
        if !state.is_connected() || state.is_disconnecting() {
            return Ok(());
        }
        state.closing = Closing::Disconnecting;
        drop(state);
        slf.get().on_transport(Transport::pause_producing);
        Connection::close_later(slf, Transport::lose_connection);
        Ok(())
    }

    /// Closes our direction once everything written is sent.
    #[pyo3(name = "loseWriteConnection")]
    fn lose_write_connection(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Connection::post_if_elsewhere(slf, "loseWriteConnection", no_args)? {
            return Ok(());
        }
        if slf.get().is_lost() {
            // As in Twisted, whose reactor would watch the closed descriptor.
            let text = "file descriptor cannot be a negative integer (-1)";
            return Err(PyValueError::new_err(text));
        }
        Connection::deliver_held_loss(slf);
        slf.get().state().is_write_lost = true;
        Connection::close_later(slf, Transport::lose_write_connection);
        Ok(())
    }

    /// Closes immediately, with a reset.
    #[pyo3(name = "abortConnection")]
    fn abort_connection(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Connection::post_if_elsewhere(slf, "abortConnection", no_args)? {
            return Ok(());
        }
        Connection::deliver_held_loss(slf);
        let mut state = slf.get().state();
        if state.stage == ConnectionStage::Disconnected || state.is_aborted() {
            return Ok(());
        }
        state.closing = Closing::Aborted { dropped: state.unsent() };
        let transport = state.transport().ok().flatten().cloned();
        drop(state);
        match transport {
            // The peer may be in this process, and gets `connectionMade` first.
            Some(transport) if hooks::made_at(&transport) == transport.reactor().now() => {
                transport.pause_producing();
                let aborting = transport.clone();
                transport.reactor().call_soon(move || aborting.abort_connection());
            }
            Some(transport) => transport.abort_connection(),
            None => {}
        }
        // As in Twisted, a timed call reports the loss.
        let py = slf.py();
        let lost = slf.getattr(intern!(py, "_lost"))?;
        let reactor = slf.getattr(intern!(py, "reactor"))?;
        reactor.call_method1(intern!(py, "callLater"), (0, lost, "aborted")).map(drop)
    }

    /// Reports a loss that was held back. Output is sent automatically.
    #[pyo3(name = "startWriting")]
    fn start_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !Connection::post_if_elsewhere(slf, "startWriting", no_args)? {
            Connection::deliver_held_loss(slf);
        }
        Ok(())
    }

    /// Does nothing: output is sent automatically.
    #[pyo3(name = "stopWriting")]
    fn stop_writing(&self) {}

    /// Resumes reading.
    #[pyo3(name = "startReading")]
    fn start_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Connection::post_if_elsewhere(slf, "startReading", no_args)? {
            return Ok(());
        }
        Connection::deliver_held_loss(slf);
        slf.get().state().reading = Reading::Active;
        slf.get().on_transport(Transport::resume_producing);
        Ok(())
    }

    /// Stops reading.
    #[pyo3(name = "stopReading")]
    fn stop_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Connection::post_if_elsewhere(slf, "stopReading", no_args)? {
            return Ok(());
        }
        slf.get().state().pause_reading();
        if let Some(transport) = slf.get().transport() {
            transport.pause_producing();
            Connection::track_flush(slf);
        }
        Ok(())
    }

    #[pyo3(name = "pauseProducing")]
    fn pause_producing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Connection::stop_reading(slf)
    }

    #[pyo3(name = "resumeProducing")]
    pub(crate) fn resume_producing(slf: &Bound<'_, Self>) -> PyResult<()> {
        // Posted under this name: a close may be requested before the loop runs the call.
        if Connection::post_if_elsewhere(slf, "resumeProducing", no_args)? {
            return Ok(());
        }
        let state = slf.get().state();
        if state.is_connected() && !state.is_disconnecting() {
            drop(state);
            return Connection::start_reading(slf);
        }
        Ok(())
    }

    #[pyo3(name = "stopProducing")]
    fn stop_producing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Connection::lose_connection(slf, None)
    }

    /// Registers a producer. A streaming producer is paused while much output is buffered; a pull
    /// producer is asked for each piece.
    #[pyo3(name = "registerProducer")]
    fn register_producer(
        slf: &Bound<'_, Self>,
        producer: Bound<'_, PyAny>,
        streaming: bool,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let args = |py| (&producer, streaming).into_pyobject(py);
        if Connection::post_if_elsewhere(slf, "registerProducer", args)? {
            return Ok(());
        }
        if let Some(before) = this.producer(py) {
            let text = format!(
                "Cannot register producer {} on {}, because producer {} was never unregistered.",
                producer.repr()?,
                slf.repr()?,
                before.bind(py).repr()?,
            );
            return Err(PyRuntimeError::new_err(text));
        }
        if this.is_lost() {
            producer.call_method0(intern!(py, "stopProducing"))?;
            return Ok(());
        }
        let mut state = this.state();
        state.producer = Some(producer.clone().unbind());
        state.producing = Producing::new(streaming);
        let shared = state.shared();
        let how = (state.producing.kind(), state.buffer_size);
        let is_awaited = !state.closes_without_producer();
        drop(state);
        if is_awaited && let (Some(transport), Some(shared)) = (this.transport(), shared) {
            Connection::produce(slf, &transport, how, &shared);
        }
        if !streaming {
            producer.call_method0(intern!(py, "resumeProducing"))?;
        }
        Ok(())
    }

    #[pyo3(name = "unregisterProducer")]
    fn unregister_producer(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Connection::post_if_elsewhere(slf, "unregisterProducer", no_args)? {
            return Ok(());
        }
        let producer = slf.get().state().producer.take();
        drop(producer);
        slf.get().on_transport(Transport::unregister_producer);
        Ok(())
    }

    /// Reports the loss of the connection to its producer and its protocol, once.
    #[pyo3(name = "connectionLost")]
    fn connection_lost(slf: &Bound<'_, Self>, reason: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let args = |py| (&reason,).into_pyobject(py);
        if slf.get().is_lost() || Connection::post_if_elsewhere(slf, "connectionLost", args)? {
            return Ok(());
        }
        slf.call_method0(intern!(py, "_keepNames"))?;
        let mut state = slf.get().state();
        state.stage = ConnectionStage::Disconnected;
        let is_aborted = state.is_aborted();
        let home = state.home.take();
        let (producer, protocol) = (state.producer.take(), state.protocol.take());
        let encryption = std::mem::take(&mut state.encryption);
        let early = state.early.take();
        state.adopted = None;
        drop(state);
        drop(early);
        if let Some(Home { transport, .. }) = home.as_ref().and_then(Tethered::get) {
            transport.unregister_producer();
            match encryption.layer() {
                None if !is_aborted => transport.lose_connection(),
                // Without a close_notify: the peer must not take this for the end of the data.
                _ => transport.abort_connection(),
            }
        }
        drop(encryption);
        drop(home);
        slf.call_method0(intern!(py, "_forgetSocket"))?;
        if let Some(producer) = producer {
            producer.call_method0(py, intern!(py, "stopProducing"))?;
        }
        if let Some(protocol) = protocol {
            protocol.call_method1(py, intern!(py, "connectionLost"), (reason,))?;
        }
        Ok(())
    }

    /// The number of the descriptor; -1 once it is closed.
    fn fileno(&self) -> i32 {
        let adopted = self.state().adopted;
        let open = || self.on_transport(hooks::descriptor).flatten();
        adopted.or_else(open).unwrap_or(-1)
    }

    /// Whether the connection reads.
    #[getter(_isReading)]
    fn is_reading(&self) -> bool {
        let state = self.state();
        state.is_connected() && !state.is_disconnecting() && state.reading == Reading::Active
    }

    #[getter(bufferSize)]
    fn get_buffer_size(&self) -> usize {
        self.state().buffer_size
    }

    #[setter(bufferSize)]
    fn set_buffer_size(slf: &Bound<'_, Self>, bytes: usize) -> PyResult<()> {
        slf.get().state().buffer_size = bytes;
        let args = |py| ("bufferSize", bytes).into_pyobject(py);
        if !Connection::post_if_elsewhere(slf, "__setattr__", args)? {
            slf.get().on_transport(|transport| transport.set_write_marks(0, bytes));
        }
        Ok(())
    }

    /// Whether the caller is outside the loop's thread.
    #[getter(_isElsewhere)]
    fn is_elsewhere(&self) -> bool {
        self.state().home.as_ref().is_some_and(|home| !home.is_home())
    }

    /// Encrypts by rustls from here on, for Twisted's protocol `tls`, which gets `_opened` when the
    /// handshake is complete, `_peerClosed`, and `_failed`. False if TLS was started before. The
    /// handshake begins at the end of the current call: until then
    /// [`_cancelTLS`](Self::cancel_tls) ends it.
    ///
    /// Raises `ValueError` if `host` is not the name of a host.
    #[pyo3(name = "_startTLS")]
    fn start_tls(
        slf: &Bound<'_, Self>,
        configuration: &tls::Tls,
        host: &str,
        tls: Py<PyAny>,
    ) -> PyResult<bool> {
        let layer = Tethered::new(configuration.layer(host)?);
        let mut state = slf.get().state();
        let Ok(transport) = state.transport() else { return Ok(false) };
        if !matches!(state.encryption, Encryption::None) {
            return Ok(false);
        }
        // Without a transport, the loop is about to adopt the socket.
        let shared = transport.is_some().then(|| state.shared()).flatten();
        state.encryption = Encryption::Layer(tls);
        state.early.get_or_insert_default().mark(Mark::Tls(Box::new(layer)));
        drop(state);
        if let Some(shared) = shared {
            let this = slf.clone().unbind();
            shared.queue(move |py, _| Connection::send_early(this.bind(py)));
        }
        Ok(true)
    }

    /// Has Twisted's protocol of TLS encrypt, instead of rustls. Returns the plaintext written since
    /// TLS was started; `None` if the handshake has begun.
    #[pyo3(name = "_cancelTLS")]
    fn cancel_tls<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let mut state = self.state();
        let early = state.early.as_mut()?;
        let is_tls = |(_, mark): &(usize, Mark)| matches!(mark, Mark::Tls(_));
        let number = early.marks.iter().position(is_tls)?;
        let (at, layer) = early.marks.swap_remove(number);
        let plain = early.bytes.split_off(at);
        if let Encryption::Layer(tls) = std::mem::take(&mut state.encryption) {
            state.encryption = Encryption::Protocol(tls);
        }
        drop(state);
        drop(layer);
        Some(PyBytes::new(py, &plain))
    }

    /// Writes plaintext of a connection that started TLS by rustls, even if
    /// [`_cancelTLS`](Self::cancel_tls) was called since.
    #[pyo3(name = "_writePlain")]
    fn write_plain(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let tls = slf.get().state().encryption.protocol().map(|tls| tls.clone_ref(py));
        match tls {
            Some(tls) => tls.call_method1(py, intern!(py, "write"), (data,)).map(drop),
            None => Connection::write(slf, data),
        }
    }

    /// The negotiated parameters; `None` before the handshake is complete.
    fn _negotiated(&self, py: Python<'_>) -> Option<Negotiated> {
        Negotiated::of(py, &self.transport()?)
    }

    /// Sends a duplicate of the descriptor with the next byte; false if that is impossible.
    #[pyo3(name = "_sendDescriptor")]
    fn send_descriptor(&self, descriptor: Descriptor) -> PyResult<bool> {
        let descriptor = descriptor.duplicate().map_err(system_error)?;
        let mut state = self.state();
        if state.is_aborted() {
            return Ok(true);
        }
        let is_held = matches!(state.transport(), Ok(None)) || state.early.is_some();
        if state.is_connected() && is_held {
            let early = state.early.get_or_insert_default();
            if early.descriptors() < EARLY_DESCRIPTORS {
                early.mark(Mark::Descriptor(descriptor));
                return Ok(true);
            }
        }
        drop(state);
        let sent = self.on_transport(|transport| transport.send_descriptor(descriptor).is_ok());
        Ok(sent.unwrap_or(false))
    }

    /// Whether a streaming producer is to be paused.
    #[getter]
    #[pyo3(name = "_isFull")]
    fn is_full(&self) -> bool {
        self.state().is_full()
    }

    /// Pauses the producer until all output is sent.
    #[pyo3(name = "_pauseProducer")]
    fn pause_producer(slf: &Bound<'_, Self>) -> PyResult<()> {
        Connection::wrote(slf, Written { is_full: true, ..Written::default() })
    }

    /// Our address in the format of Python's sockets; `None` before the loop has the socket. For
    /// any thread.
    fn _sockname<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.state().names.get(py, 0)
    }

    /// The peer's address, like [`_sockname`](Self::_sockname).
    fn _peername<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.state().names.get(py, 1)
    }

    /// Bytes written that the system has not accepted yet.
    #[getter]
    fn _buffered(&self) -> usize {
        self.state().unsent()
    }

    #[getter(protocol)]
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py)
    }

    #[setter(protocol)]
    fn set_protocol(slf: &Bound<'_, Self>, protocol: Option<Py<PyAny>>) -> PyResult<()> {
        if slf.get().state().protocol.is_some() {
            slf.call_method0(intern!(slf.py(), "_keepNames"))?;
        }
        let before = std::mem::replace(&mut slf.get().state().protocol, protocol);
        drop(before);
        Ok(())
    }

    #[getter(sessionno)]
    fn get_sessionno(&self) -> u64 {
        self.state().sessionno
    }

    #[setter(sessionno)]
    fn set_sessionno(&self, number: u64) {
        self.state().sessionno = number;
    }

    #[getter(producer)]
    fn get_producer(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.producer(py)
    }

    #[setter(producer)]
    fn set_producer(&self, producer: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut self.state().producer, producer);
        drop(before);
    }

    #[getter(streamingProducer)]
    fn get_streaming_producer(&self) -> bool {
        self.state().producing.is_streaming()
    }

    #[setter(streamingProducer)]
    fn set_streaming_producer(&self, on: bool) {
        let mut state = self.state();
        if on != state.producing.is_streaming() {
            state.producing = Producing::new(on);
        }
    }

    #[getter(producerPaused)]
    fn get_producer_paused(&self) -> bool {
        self.state().producing == Producing::PushPaused
    }

    #[setter(producerPaused)]
    fn set_producer_paused(&self, on: bool) {
        let mut state = self.state();
        if state.producing.is_streaming() {
            state.producing = if on { Producing::PushPaused } else { Producing::Push };
        }
    }

    #[getter(connected)]
    fn get_connected(&self) -> u8 {
        self.state().is_connected().into()
    }

    #[setter(connected)]
    fn set_connected(&self, on: i64) {
        self.state().set_stage(ConnectionStage::Connected, on != 0);
    }

    #[getter(disconnected)]
    fn get_disconnected(&self) -> u8 {
        self.is_lost().into()
    }

    #[setter(disconnected)]
    fn set_disconnected(&self, on: i64) {
        self.state().set_stage(ConnectionStage::Disconnected, on != 0);
    }

    #[getter(disconnecting)]
    fn get_disconnecting(&self) -> u8 {
        self.state().is_disconnecting().into()
    }

    #[setter(disconnecting)]
    fn set_disconnecting(&self, on: i64) {
        let mut state = self.state();
        if (on != 0) != state.is_disconnecting() {
            state.closing = if on != 0 { Closing::Disconnecting } else { Closing::Open };
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(state) = self.0.try_lock() else { return Ok(()) };
        for held in [&state.protocol, &state.producer].into_iter().flatten() {
            visit.call(held)?;
        }
        if let Encryption::Layer(tls) | Encryption::Protocol(tls) = &state.encryption {
            visit.call(tls)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let mut state = self.state();
        let encryption = std::mem::take(&mut state.encryption);
        let held = (state.protocol.take(), state.producer.take(), encryption);
        drop(state);
        drop(held);
    }
}
