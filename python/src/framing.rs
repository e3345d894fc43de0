//! [`Framing`], the native half of the receivers in `couplet_twisted.basic`, finds messages by the
//! grammars of [`couplet::protocols`]. [`Messages`] yields them to Python one by one.
//!
//! Names are Twisted's. Modes, limits, delimiters and pauses are Python attributes: a protocol may
//! change them at any time, and they are read before each message. Limits and their errors follow
//! `twisted.protocols.basic`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use couplet::protocols::{FramingError, decode_int, decode_line, decode_netstring};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::connection::{Connection, with_bytes};
use crate::locked;

/// Received bytes that are not delivered yet.
///
/// Law 9: bounded by the protocol's `MAX_LENGTH` and a chunk, unless the protocol is paused or
/// accepts longer messages.
#[derive(Default)]
struct FramingBuffer {
    bytes: Vec<u8>,
    /// Length of the delivered prefix.
    start: usize,
    delivery: Delivery,
    /// The limit under which the first netstring's length was accepted.
    accepted: Option<i64>,
}

#[derive(Default)]
enum Delivery {
    #[default]
    Idle,
    /// Lines are being delivered; bytes received meanwhile wait.
    Lines,
    /// Like `Lines`, but all bytes are undelivered, and also in this Python object: raw bytes are
    /// not copied.
    Whole(Py<PyBytes>),
}

impl FramingBuffer {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The Python object is no longer all of the undelivered bytes.
    fn release_object(&mut self) -> Option<Py<PyBytes>> {
        match std::mem::replace(&mut self.delivery, Delivery::Lines) {
            Delivery::Whole(object) => Some(object),
            other => {
                self.delivery = other;
                None
            }
        }
    }

    fn push(&mut self, more: &[u8]) {
        self.release_object();
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(more);
    }

    fn set(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
        self.start = 0;
        self.release_object();
        self.accepted = None;
    }

    fn take<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let object = self.release_object().map(|object| object.into_bound(py));
        let bytes = object.unwrap_or_else(|| PyBytes::new(py, self.unread()));
        self.set(Vec::new());
        bytes
    }

    /// Marks all but the last `rest` bytes as delivered. A fully delivered buffer is freed.
    fn leave(&mut self, rest: usize) {
        self.start = self.bytes.len() - rest;
        self.release_object();
        self.accepted = None;
        if rest == 0 {
            self.set(Vec::new());
        }
    }
}

/// The next step of a delivery.
enum Found<'py> {
    Message(Bound<'py, PyBytes>),
    /// No message for now. `dataReceived` returns the value.
    End(Option<Bound<'py, PyAny>>),
    /// The limit was exceeded: calls this method with the value, and ends the delivery.
    Exceeded(&'static str, Bound<'py, PyAny>),
}

/// Base class of the receivers: frames messages for a Python protocol on any transport.
#[pyclass(frozen, subclass, module = "couplet_twisted._couplet")]
pub(crate) struct Framing(Mutex<FramingBuffer>);

/// Finds the next message. The flag is true if the same call of `dataReceived` has delivered one.
type Step = for<'py> fn(Subject<'_, 'py>, bool) -> PyResult<Found<'py>>;

impl Framing {
    fn buffer(&self) -> MutexGuard<'_, FramingBuffer> {
        locked(&self.0)
    }

    fn push(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        with_bytes(data, |data| self.buffer().push(data))
    }

    fn messages<'py>(slf: &Bound<'py, Self>, step: Step) -> PyResult<Bound<'py, Messages>> {
        let (of, has_begun, returned) = (slf.clone().unbind(), false.into(), Mutex::default());
        Bound::new(slf.py(), Messages { of, step, has_begun, returned })
    }
}

#[pymethods]
impl Framing {
    #[new]
    #[pyo3(signature = (*_args, **_kw))]
    fn new(_args: Bound<'_, PyTuple>, _kw: Option<Bound<'_, PyDict>>) -> Framing {
        Framing(Mutex::default())
    }

    /// Buffers bytes and returns the completed lines; `None` during such a delivery.
    fn _framing_lines<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Messages>>> {
        let is_all = slf.get().buffer().unread().is_empty();
        slf.get().push(data)?;
        let mut buffer = slf.get().buffer();
        if !matches!(buffer.delivery, Delivery::Idle) {
            return Ok(None);
        }
        buffer.delivery = match data.cast_exact::<PyBytes>() {
            Ok(object) if is_all => Delivery::Whole(object.clone().unbind()),
            _ => Delivery::Lines,
        };
        drop(buffer);
        Framing::messages(slf, lines).map(Some)
    }

    /// Buffers bytes and returns the completed netstrings.
    fn _framing_netstrings<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Messages>> {
        slf.get().push(data)?;
        Framing::messages(slf, netstrings)
    }

    /// Buffers bytes and returns the completed length-prefixed strings.
    fn _framing_strings<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Messages>> {
        slf.get().push(data)?;
        Framing::messages(slf, strings)
    }

    #[getter]
    fn _framing_unread<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.buffer().unread())
    }

    /// Replaces the unread bytes. Any falsy object clears them.
    #[setter(_framing_unread)]
    fn set_unread(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = match data.is_truthy()? {
            true => with_bytes(data, <[u8]>::to_vec)?,
            false => Vec::new(),
        };
        self.buffer().set(bytes);
        Ok(())
    }
}

/// The messages that a call of `dataReceived` delivers: an iterator.
///
/// Python calls the protocol, because a call from Rust through the stable interface costs more.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Messages {
    of: Py<Framing>,
    step: Step,
    /// A message was delivered. Accessed only under the interpreter's lock.
    has_begun: AtomicBool,
    returned: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl Messages {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (py, this) = (slf.py(), slf.get());
        let of = this.of.bind(py);
        let returned = match (this.step)(of, this.has_begun.load(Ordering::Relaxed))? {
            Found::Message(message) => {
                this.has_begun.store(true, Ordering::Relaxed);
                return Ok(Some(message));
            }
            Found::End(None) => return Ok(None),
            Found::End(Some(returned)) => returned,
            Found::Exceeded(method, with) => of.call_method1(method, (with,))?,
        };
        *locked(&this.returned) = Some(returned.unbind());
        Ok(None)
    }

    /// Ends the delivery, and returns the result of `dataReceived`.
    fn end(&self) -> Option<Py<PyAny>> {
        let mut buffer = self.of.get().buffer();
        buffer.delivery = Delivery::Idle;
        drop(buffer);
        locked(&self.returned).take()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.of)
    }
}

/// The protocol whose bytes are framed.
type Subject<'a, 'py> = &'a Bound<'py, Framing>;

fn is(subject: Subject<'_, '_>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    subject.getattr(name)?.is_truthy()
}

/// The protocol's `MAX_LENGTH`, which may be a number of any type and size.
fn limit(subject: Subject<'_, '_>) -> PyResult<i64> {
    let limit = subject.getattr(intern!(subject.py(), "MAX_LENGTH"))?;
    match limit.extract() {
        Ok(limit) => Ok(limit),
        Err(_) => Ok(limit.extract::<f64>()? as i64),
    }
}

/// Whether a close of the transport was requested.
fn is_closing(subject: Subject<'_, '_>) -> PyResult<bool> {
    let transport = subject.getattr(intern!(subject.py(), "transport"))?;
    if let Ok(connection) = transport.cast::<Connection>() {
        return Ok(connection.get().is_disconnecting());
    }
    let is_closing = intern!(subject.py(), "disconnecting");
    Ok(transport.is_truthy()? && transport.getattr(is_closing)?.is_truthy()?)
}

/// Whether a length exceeds the limit.
fn exceeds(length: usize, limit: i64) -> bool {
    i64::try_from(length).is_ok_and(|length| length > limit)
}

/// The next line. Raw bytes before it are delivered here.
fn lines<'py>(subject: Subject<'_, 'py>, has_begun: bool) -> PyResult<Found<'py>> {
    let py = subject.py();
    if has_begun && is_closing(subject)? {
        return Ok(Found::End(None));
    }
    while !is(subject, intern!(py, "paused"))? {
        if is(subject, intern!(py, "line_mode"))? {
            let delimiter = subject.getattr(intern!(py, "delimiter"))?;
            let limit = limit(subject)?;
            return with_bytes(&delimiter, |delimiter| line(subject, delimiter, limit));
        }
        let raw = subject.get().buffer().take(py);
        if raw.as_bytes().is_empty() {
            break;
        }
        let why = subject.call_method1(intern!(py, "rawDataReceived"), (raw,))?;
        if why.is_truthy()? {
            return Ok(Found::End(Some(why)));
        }
    }
    Ok(Found::End(None))
}

/// The first line; all unread bytes if it is too long.
fn line<'py>(subject: Subject<'_, 'py>, delimiter: &[u8], limit: i64) -> Found<'py> {
    let (py, mut buffer) = (subject.py(), subject.get().buffer());
    if buffer.unread().is_empty() {
        return Found::End(None);
    }
    let is_too_long = match decode_line(buffer.unread(), delimiter) {
        Some((line, rest)) if !exceeds(line.len(), limit) => {
            let (line, rest) = (PyBytes::new(py, line), rest.len());
            buffer.leave(rest);
            return Found::Message(line);
        }
        Some(_) => true,
        // Too many bytes for any line within the limit.
        None => exceeds(
            buffer.unread().len() + 1,
            limit.saturating_add_unsigned(delimiter.len() as u64),
        ),
    };
    if is_too_long {
        Found::Exceeded("lineLengthExceeded", buffer.take(py).into_any())
    } else {
        Found::End(None)
    }
}

/// The next netstring.
fn netstrings<'py>(subject: Subject<'_, 'py>, _: bool) -> PyResult<Found<'py>> {
    let (py, now) = (subject.py(), limit(subject)?);
    let mut buffer = subject.get().buffer();
    let limit = buffer.accepted.unwrap_or(now);
    match decode_netstring(buffer.unread(), usize::try_from(limit).unwrap_or_default()) {
        Ok(Some((string, rest))) => {
            let (string, rest) = (PyBytes::new(py, string), rest.len());
            buffer.leave(rest);
            Ok(Found::Message(string))
        }
        Ok(None) => {
            // The limit that applies is the one in force when the length was complete.
            buffer.accepted = buffer.unread().contains(&b':').then_some(limit);
            Ok(Found::End(None))
        }
        Err(error) => {
            let is_waiting = is_newline_behind_digits(&error, buffer.unread());
            drop(buffer);
            if !is_waiting {
                subject.call_method0(intern!(py, "_handleParseError"))?;
            }
            Ok(Found::End(None))
        }
    }
}

/// Twisted's pattern for a partial length accepts a newline after the digits.
fn is_newline_behind_digits(error: &FramingError, unread: &[u8]) -> bool {
    let newline = unread.iter().position(|byte| *byte == b'\n');
    *error == FramingError::NoDigit(b'\n') && unread.len() > 1 && newline == Some(unread.len() - 1)
}

/// The next length-prefixed string.
fn strings<'py>(subject: Subject<'_, 'py>, _: bool) -> PyResult<Found<'py>> {
    let py = subject.py();
    let size: usize = subject.getattr(intern!(py, "prefixLength"))?.extract()?;
    if subject.get().buffer().unread().len() < size || is(subject, intern!(py, "paused"))? {
        return Ok(Found::End(None));
    }
    let format = subject.getattr(intern!(py, "structFormat"))?;
    let limit = limit(subject)?;
    let mut buffer = subject.get().buffer();
    let most = usize::try_from(limit).unwrap_or_default();
    let decoded = match (format.extract::<&str>().ok(), size) {
        _ if limit < 0 => None,
        (Some("!B" | ">B" | "B"), 1) => Some(decode_int::<u8>(buffer.unread(), most)),
        (Some("!H" | ">H"), 2) => Some(decode_int::<u16>(buffer.unread(), most)),
        (Some("!I" | ">I" | "!L" | ">L"), 4) => Some(decode_int::<u32>(buffer.unread(), most)),
        _ => None,
    };
    match decoded {
        Some(Ok(None)) => return Ok(Found::End(None)),
        Some(Ok(Some((string, rest)))) => {
            let (string, rest) = (PyBytes::new(py, string), rest.len());
            buffer.leave(rest);
            return Ok(Found::Message(string));
        }
        // Python decodes the rest: other formats, and lengths for an error.
        None | Some(Err(_)) => {}
    }
    let prefix = PyBytes::new(py, &buffer.unread()[..size]);
    drop(buffer);
    let unpack = py.import(intern!(py, "struct"))?.getattr(intern!(py, "unpack"))?;
    let (length,): (Bound<'py, PyAny>,) = unpack.call1((format, prefix))?.extract()?;
    if length.gt(subject.getattr(intern!(py, "MAX_LENGTH"))?)? {
        return Ok(Found::Exceeded("lengthLimitExceeded", length));
    }
    let length: usize = length.extract()?;
    let mut buffer = subject.get().buffer();
    let Some((string, rest)) = buffer.unread()[size..].split_at_checked(length) else {
        return Ok(Found::End(None));
    };
    let (string, rest) = (PyBytes::new(py, string), rest.len());
    buffer.leave(rest);
    Ok(Found::Message(string))
}
