//! [`Framing`]: what the receivers of `couplet_twisted.basic` do below Python. It finds messages by the
//! grammars of [`couplet::protocols`], and [`Messages`] gives them to Python one by one.
//!
//! Twisted's names. What a protocol may change at any time (modes, limits, delimiters, a pause) are
//! attributes of Python's, and looked at before each message. When a message is too long, and what
//! happens then, is decided as in `twisted.protocols.basic`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use couplet::protocols::{FramingError, decode_int, decode_line, decode_netstring};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::connection::{Connection, with_bytes};
use crate::locked;

/// Bytes that were received and are not delivered.
///
/// Law 9: bounded by the protocol's `MAX_LENGTH` and a chunk, while it neither is paused nor lets
/// messages exceed that.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// Bytes at the front that were delivered.
    start: usize,
    /// The same bytes as Python's object, while none of them is delivered: raw bytes are not copied.
    lent: Option<Py<PyBytes>>,
    /// Lines are being delivered: what comes now waits for that.
    is_busy: bool,
    /// The limit that the length of the first netstring was held against.
    accepted: Option<i64>,
}

impl Held {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn push(&mut self, more: &[u8]) {
        self.lent = None;
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(more);
    }

    fn set(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
        self.start = 0;
        self.lent = None;
        self.accepted = None;
    }

    fn take<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let lent = self.lent.take().map(|lent| lent.into_bound(py));
        let bytes = lent.unwrap_or_else(|| PyBytes::new(py, self.unread()));
        self.set(Vec::new());
        bytes
    }

    /// All but the last so many bytes were delivered. A fully delivered buffer is freed.
    fn leave(&mut self, rest: usize) {
        self.start = self.bytes.len() - rest;
        self.lent = None;
        self.accepted = None;
        if rest == 0 {
            self.set(Vec::new());
        }
    }
}

/// What comes next for a protocol.
enum Found<'py> {
    Message(Bound<'py, PyBytes>),
    /// Nothing, for now; `dataReceived` returns this.
    End(Option<Bound<'py, PyAny>>),
    /// More than the limit: a method to call with this, and then nothing.
    Exceeded(&'static str, Bound<'py, PyAny>),
}

/// The base of the receivers: framing for a protocol of Python's, on any transport.
#[pyclass(frozen, subclass, module = "couplet_twisted._couplet")]
pub(crate) struct Framing(Mutex<Held>);

/// Finds what is next. True: a message was delivered before, in the same call of `dataReceived`.
type Step = for<'py> fn(Subject<'_, 'py>, bool) -> PyResult<Found<'py>>;

impl Framing {
    fn held(&self) -> MutexGuard<'_, Held> {
        locked(&self.0)
    }

    fn push(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        with_bytes(data, |data| self.held().push(data))
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

    /// Takes bytes, and gives the lines that they complete; `None` inside such a delivery.
    fn _framing_lines<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Messages>>> {
        let is_all = slf.get().held().unread().is_empty();
        slf.get().push(data)?;
        let mut held = slf.get().held();
        if std::mem::replace(&mut held.is_busy, true) {
            return Ok(None);
        }
        held.lent = data.cast_exact().ok().filter(|_| is_all).map(|data| data.clone().unbind());
        drop(held);
        Framing::messages(slf, lines).map(Some)
    }

    /// Takes bytes, and gives the netstrings that they complete.
    fn _framing_netstrings<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Messages>> {
        slf.get().push(data)?;
        Framing::messages(slf, netstrings)
    }

    /// Takes bytes, and gives the strings with a prefix that they complete.
    fn _framing_strings<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Messages>> {
        slf.get().push(data)?;
        Framing::messages(slf, strings)
    }

    #[getter]
    fn _framing_unread<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.held().unread())
    }

    /// Replaces the bytes; by anything empty, too.
    #[setter(_framing_unread)]
    fn set_unread(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = match data.is_truthy()? {
            true => with_bytes(data, <[u8]>::to_vec)?,
            false => Vec::new(),
        };
        self.held().set(bytes);
        Ok(())
    }
}

/// The messages that a call of `dataReceived` delivers: an iterator.
///
/// Python calls the protocol: a call from Rust, through the stable interface, costs more.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Messages {
    of: Py<Framing>,
    step: Step,
    /// A message was delivered. Read and written under the interpreter's lock.
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

    /// The protocol takes no more of these; returns what `dataReceived` does.
    fn end(&self) -> Option<Py<PyAny>> {
        let mut held = self.of.get().held();
        held.is_busy = false;
        held.lent = None;
        drop(held);
        locked(&self.returned).take()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.of)
    }
}

/// A protocol that is framed for.
type Subject<'a, 'py> = &'a Bound<'py, Framing>;

fn is(subject: Subject<'_, '_>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    subject.getattr(name)?.is_truthy()
}

/// The protocol's `MAX_LENGTH`: a number of any kind and size.
fn limit(subject: Subject<'_, '_>) -> PyResult<i64> {
    let limit = subject.getattr(intern!(subject.py(), "MAX_LENGTH"))?;
    match limit.extract() {
        Ok(limit) => Ok(limit),
        Err(_) => Ok(limit.extract::<f64>()? as i64),
    }
}

/// Whether the transport was asked to close.
fn is_closing(subject: Subject<'_, '_>) -> PyResult<bool> {
    let transport = subject.getattr(intern!(subject.py(), "transport"))?;
    if let Ok(connection) = transport.cast::<Connection>() {
        return Ok(connection.get().is_disconnecting());
    }
    let is_closing = intern!(subject.py(), "disconnecting");
    Ok(transport.is_truthy()? && transport.getattr(is_closing)?.is_truthy()?)
}

/// Whether so many bytes are more than the limit.
fn exceeds(length: usize, limit: i64) -> bool {
    i64::try_from(length).is_ok_and(|length| length > limit)
}

/// The next line. Raw bytes are delivered on the way.
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
        let raw = subject.get().held().take(py);
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

/// The first line; all bytes, if it is too long.
fn line<'py>(subject: Subject<'_, 'py>, delimiter: &[u8], limit: i64) -> Found<'py> {
    let (py, mut held) = (subject.py(), subject.get().held());
    if held.unread().is_empty() {
        return Found::End(None);
    }
    let is_too_long = match decode_line(held.unread(), delimiter) {
        Some((line, rest)) if !exceeds(line.len(), limit) => {
            let (line, rest) = (PyBytes::new(py, line), rest.len());
            held.leave(rest);
            return Found::Message(line);
        }
        Some(_) => true,
        // What can no longer become a line within the limit.
        None => {
            exceeds(held.unread().len() + 1, limit.saturating_add_unsigned(delimiter.len() as u64))
        }
    };
    if is_too_long {
        Found::Exceeded("lineLengthExceeded", held.take(py).into_any())
    } else {
        Found::End(None)
    }
}

/// The next netstring.
fn netstrings<'py>(subject: Subject<'_, 'py>, _: bool) -> PyResult<Found<'py>> {
    let (py, now) = (subject.py(), limit(subject)?);
    let mut held = subject.get().held();
    let limit = held.accepted.unwrap_or(now);
    match decode_netstring(held.unread(), usize::try_from(limit).unwrap_or_default()) {
        Ok(Some((string, rest))) => {
            let (string, rest) = (PyBytes::new(py, string), rest.len());
            held.leave(rest);
            Ok(Found::Message(string))
        }
        Ok(None) => {
            // The limit counts when the length is complete.
            held.accepted = held.unread().contains(&b':').then_some(limit);
            Ok(Found::End(None))
        }
        Err(error) => {
            let is_waiting = is_newline_behind_digits(&error, held.unread());
            drop(held);
            if !is_waiting {
                subject.call_method0(intern!(py, "_handleParseError"))?;
            }
            Ok(Found::End(None))
        }
    }
}

/// Twisted's pattern for the beginning of a length takes a newline for its end.
fn is_newline_behind_digits(error: &FramingError, unread: &[u8]) -> bool {
    let newline = unread.iter().position(|byte| *byte == b'\n');
    *error == FramingError::NoDigit(b'\n') && unread.len() > 1 && newline == Some(unread.len() - 1)
}

/// The next string with a prefix of its length.
fn strings<'py>(subject: Subject<'_, 'py>, _: bool) -> PyResult<Found<'py>> {
    let py = subject.py();
    let size: usize = subject.getattr(intern!(py, "prefixLength"))?.extract()?;
    if subject.get().held().unread().len() < size || is(subject, intern!(py, "paused"))? {
        return Ok(Found::End(None));
    }
    let format = subject.getattr(intern!(py, "structFormat"))?;
    let limit = limit(subject)?;
    let mut held = subject.get().held();
    let most = usize::try_from(limit).unwrap_or_default();
    let decoded = match (format.extract::<&str>().ok(), size) {
        _ if limit < 0 => None,
        (Some("!B" | ">B" | "B"), 1) => Some(decode_int::<u8>(held.unread(), most)),
        (Some("!H" | ">H"), 2) => Some(decode_int::<u16>(held.unread(), most)),
        (Some("!I" | ">I" | "!L" | ">L"), 4) => Some(decode_int::<u32>(held.unread(), most)),
        _ => None,
    };
    match decoded {
        Some(Ok(None)) => return Ok(Found::End(None)),
        Some(Ok(Some((string, rest)))) => {
            let (string, rest) = (PyBytes::new(py, string), rest.len());
            held.leave(rest);
            return Ok(Found::Message(string));
        }
        // By Python: another format; or a length to tell.
        None | Some(Err(_)) => {}
    }
    let prefix = PyBytes::new(py, &held.unread()[..size]);
    drop(held);
    let unpack = py.import(intern!(py, "struct"))?.getattr(intern!(py, "unpack"))?;
    let (length,): (Bound<'py, PyAny>,) = unpack.call1((format, prefix))?.extract()?;
    if length.gt(subject.getattr(intern!(py, "MAX_LENGTH"))?)? {
        return Ok(Found::Exceeded("lengthLimitExceeded", length));
    }
    let length: usize = length.extract()?;
    let mut held = subject.get().held();
    let Some((string, rest)) = held.unread()[size..].split_at_checked(length) else {
        return Ok(Found::End(None));
    };
    let (string, rest) = (PyBytes::new(py, string), rest.len());
    held.leave(rest);
    Ok(Found::Message(string))
}
