//! [`Http2`]: HTTP/2 for `twisted.web`'s servers and clients, over [`couplet_http2`]. Twisted's `H2Connection` uses it
//! in place of `h2.connection.H2Connection`, so that its methods have the names of that class.

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use couplet_http2::{
    Code, Connection, Copied, Event, Fields, Head, Options, RequestLine, SendError,
};
use pyo3::exceptions::{PyBrokenPipeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::connection::with_bytes;
use crate::locked;
use crate::web::{KNOWN_METHODS, METHODS, common, raw};
use crate::webclient::CONTROL;

/// Unsent bytes of a stream at which its producer pauses.
const MAX_UNSENT: usize = 64 * 1024;

/// Bodies up to this size are copied; longer ones are kept as Python's object until they are sent.
const SHORT: usize = 4096;

/// The headers of a request, in the order in which Twisted adds them.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Headers(Head);

impl Headers {
    /// The fields that are passed on unchanged.
    fn plain(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let host = self.0.authority().map(|authority| (&b"host"[..], authority));
        let rest = self.0.fields().filter(|(name, _)| !matches!(*name, b"host" | b"cookie"));
        host.into_iter().chain(rest)
    }

    /// The cookies as one value: RFC 9113, 8.2.3.
    fn cookies(&self) -> Option<Vec<u8>> {
        let mut cookies = self.0.fields().filter(|(name, _)| *name == b"cookie");
        let mut joined = cookies.next()?.1.to_vec();
        for (_, cookie) in cookies {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(cookie);
        }
        Some(joined)
    }

    fn first(&self, wanted: &[u8]) -> Option<&[u8]> {
        self.0.fields().find_map(|(name, value)| (name == wanted).then_some(value))
    }
}

#[pymethods]
impl Headers {
    /// The last value of a header, or `None`.
    fn last<'py>(&self, py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyBytes>> {
        if name.eq_ignore_ascii_case(b"cookie") {
            return self.cookies().map(|cookies| PyBytes::new(py, &cookies));
        }
        let found = self.plain().filter(|(each, _)| each.eq_ignore_ascii_case(name)).last();
        found.map(|(_, value)| PyBytes::new(py, value))
    }

    /// A dict of the values of each header, by its canonical name.
    fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let cookies = self.cookies();
        let cookies = cookies.iter().map(|cookies| (&b"cookie"[..], &cookies[..]));
        raw(py, self.plain().chain(cookies))
    }
}

/// The headers of a response, as `twisted.web`'s client shows them: without headers of the connection, and
/// without the length unless the request was a HEAD.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct ResponseHeaders {
    fields: Fields,
    has_length: bool,
}

#[pymethods]
impl ResponseHeaders {
    /// The headers of a response to HEAD.
    fn of_head(&self) -> ResponseHeaders {
        ResponseHeaders { fields: self.fields.clone(), has_length: true }
    }

    /// A dict of the values of each header, by its canonical name.
    fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let is_shown = |(name, _): &(&[u8], &[u8])| match *name {
            b"content-length" => self.has_length,
            name => !CONTROL.contains(&name),
        };
        raw(py, self.fields.iter().filter(is_shown))
    }
}

/// A body of Python's.
struct Body<'a, 'py>(&'a Bound<'py, PyBytes>);

impl AsRef<[u8]> for Body<'_, '_> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<Body<'_, '_>> for Bytes {
    fn from(Body(bytes): Body<'_, '_>) -> Bytes {
        // A subclass may run Python code when it is dropped.
        if bytes.as_bytes().len() <= SHORT || !bytes.is_exact_instance_of::<PyBytes>() {
            return Bytes::copy_from_slice(bytes.as_bytes());
        }
        Bytes::from_owner(PyBackedBytes::from(bytes.clone()))
    }
}

/// An HTTP/2 connection of a server or a client, without its transport.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Http2(Mutex<Connection>);

impl Http2 {
    // INVARIANT: no Python object is made or dropped while it is locked, because that may run Python code, which may
    // use the connection.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        locked(&self.0)
    }

    /// Ignores output to a closed stream, as a lost connection does. Any other mistake of the program resets the stream,
    /// so that the client does not wait for it.
    fn sent<T>(&self, stream: u32, result: Result<T, SendError>) -> PyResult<()> {
        match result {
            Ok(_) | Err(SendError::Closed) => Ok(()),
            Err(error) => {
                self.connection().reset(stream, Code::INTERNAL_ERROR);
                Err(PyValueError::new_err(error.to_string()))
            }
        }
    }

    fn respond(
        &self,
        stream: u32,
        status: u16,
        fields: Vec<(Bound<'_, PyBytes>, Bound<'_, PyBytes>)>,
        ends: bool,
    ) -> PyResult<()> {
        let pairs = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let result = self.connection().respond(stream, status, pairs, ends);
        self.sent(stream, result)
    }
}

/// An event for Python: its kind, the number of its stream, and more.
fn event_for<'py>(py: Python<'py>, event: Event) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let (kind, stream, more) = match event {
        Event::Request { stream, head, ends } => {
            (intern!(py, "request"), stream, request_for(py, head, ends)?.into_any())
        }
        Event::Response { stream, status, fields, length, ends } => {
            let headers = ResponseHeaders { fields, has_length: false };
            let head = (status, headers, length, ends).into_pyobject(py)?;
            (intern!(py, "response"), stream, head.into_any())
        }
        Event::Data { stream, bytes } => {
            (intern!(py, "data"), stream, PyBytes::new(py, &bytes).into_any())
        }
        Event::End { stream } => (intern!(py, "end"), stream, py.None().into_bound(py)),
        Event::Reset { stream, code } => {
            (intern!(py, "reset"), stream, code.0.into_pyobject(py)?.into_any())
        }
        Event::Writable { stream } => (intern!(py, "writable"), stream, py.None().into_bound(py)),
        // Twisted ignores trailers and informational heads. After a GOAWAY, `takes_requests` is false, and the
        // connection is drained once no stream is open.
        _ => return Ok(None),
    };
    (kind, stream, more).into_pyobject(py).map(Some)
}

/// The method, the target, the headers, the length of the body, whether the request is complete, whether there are
/// cookies, and whether the client waits for `100 Continue`.
fn request_for(py: Python<'_>, head: Head, ends: bool) -> PyResult<Bound<'_, PyTuple>> {
    let method = common(py, &KNOWN_METHODS, METHODS, head.method());
    // As in HTTP/1.1, CONNECT names an authority.
    let target = head.path().or_else(|| head.authority()).unwrap_or_default();
    let target = PyBytes::new(py, target);
    let length = head.content_length();
    let headers = Headers(head);
    let has_cookies = headers.first(b"cookie").is_some();
    let waits =
        headers.first(b"expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    (method, target, headers, length, ends, has_cookies, waits).into_pyobject(py)
}

/// The status of an answer, as a number or as text. Zero, which can't be sent, if it is neither.
fn status_of(code: &Bound<'_, PyAny>) -> u16 {
    let status = match code.cast::<PyBytes>() {
        Ok(text) => std::str::from_utf8(text.as_bytes()).ok().and_then(|text| text.parse().ok()),
        Err(_) => code.extract().ok(),
    };
    status.unwrap_or(0)
}

#[pymethods]
impl Http2 {
    #[new]
    fn new() -> Http2 {
        Http2(Mutex::new(Connection::server(Options::default().max_unsent(MAX_UNSENT))))
    }

    /// A client's connection, with at most `streams` open streams, and `window` unread bytes in each.
    #[staticmethod]
    fn client(streams: u32, window: u32) -> Http2 {
        // Unread responses never keep others from arriving.
        let whole = streams.saturating_mul(window);
        let options = Options::default().max_streams(streams).stream_window(window);
        Http2(Mutex::new(Connection::client(
            options.connection_window(whole).max_unsent(MAX_UNSENT),
        )))
    }

    /// Sends the head of a request, and returns the number of its stream; `None` while too many streams are open. The
    /// headers are pairs of names and lists of values; a length replaces theirs.
    ///
    /// # Errors
    ///
    /// `BrokenPipeError` if the connection takes no more requests; `ValueError` for a malformed request.
    fn request(
        &self,
        method: &[u8],
        authority: &[u8],
        path: &[u8],
        headers: Vec<(Bound<'_, PyBytes>, Vec<Bound<'_, PyBytes>>)>,
        length: Option<u64>,
        ends: bool,
    ) -> PyResult<Option<u32>> {
        let line = RequestLine {
            method,
            scheme: Some(b"https"),
            authority: Some(authority),
            path: Some(path),
        };
        let length = length.map(|length| length.to_string());
        let own = length.iter().map(|length| (&b"content-length"[..], length.as_bytes()));
        let given = headers.iter().flat_map(|(name, values)| {
            values.iter().map(|value| (name.as_bytes(), value.as_bytes()))
        });
        let given = given.filter(|(name, _)| !name.eq_ignore_ascii_case(b"content-length"));
        let result = self.connection().request(&line, own.chain(given), ends);
        match result {
            Ok(stream) => Ok(Some(stream)),
            Err(SendError::Busy) => Ok(None),
            Err(error @ SendError::Closed) => Err(PyBrokenPipeError::new_err(error.to_string())),
            Err(error) => Err(PyValueError::new_err(error.to_string())),
        }
    }

    /// Sends a PING; its answer is no event.
    fn ping(&self, payload: [u8; 8]) {
        self.connection().ping(payload);
    }

    /// Whether a client may send requests, now or later.
    fn takes_requests(&self) -> bool {
        self.connection().takes_requests()
    }

    /// Does nothing: the output begins with the settings.
    fn initiate_connection(&self) {}

    /// Receives bytes of the peer, in any pieces. Returns the list of the events; an error comes last.
    fn receive_data<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyList>> {
        // Law 9: at most an event for each frame of the data.
        let mut events = Vec::new();
        let mut connection = self.connection();
        let received = connection.receive(data);
        events.extend(std::iter::from_fn(|| connection.next_event()));
        drop(connection);
        let list = PyList::empty(py);
        for event in events {
            if let Some(event) = event_for(py, event)? {
                list.append(event)?;
            }
        }
        if let Err(error) = received {
            let text = PyString::new(py, &error.to_string());
            list.append((intern!(py, "error"), 0, text))?;
        }
        Ok(list)
    }

    /// Returns bytes for the peer. More may be left: call it until it returns nothing.
    fn data_to_send<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let output = self.connection().take_output();
        PyBytes::new(py, &output)
    }

    /// Returns the streams whose producers may continue since the last call of `data_to_send`.
    fn writable(&self) -> Vec<u32> {
        let mut connection = self.connection();
        let next = std::iter::from_fn(|| connection.next_event());
        // No other events occur while output is taken.
        next.filter_map(|event| match event {
            Event::Writable { stream } => Some(stream),
            _ => None,
        })
        .collect()
    }

    /// Whether to receive nothing until output was taken.
    fn is_full(&self) -> bool {
        self.connection().is_full()
    }

    /// Whether the connection can be closed.
    fn is_drained(&self) -> bool {
        self.connection().is_drained()
    }

    /// Asks the client for no more requests; those that it has sent are answered.
    fn drain(&self) {
        self.connection().drain();
    }

    /// Sends the last GOAWAY, with an error code: there are no more requests.
    #[pyo3(signature = (error_code = 0))]
    fn close_connection(&self, error_code: u32) {
        self.connection().go_away(Code(error_code), "");
    }

    /// Sends the head of an answer: pairs of names and values, the status first.
    ///
    /// # Errors
    ///
    /// `ValueError` for a malformed head; the stream is reset.
    #[pyo3(signature = (stream_id, headers, end_stream = false))]
    fn send_headers(
        &self,
        stream_id: u32,
        headers: Vec<(Bound<'_, PyBytes>, Bound<'_, PyBytes>)>,
        end_stream: bool,
    ) -> PyResult<()> {
        let mut fields = headers.into_iter();
        let status = fields.next().map_or(0, |(_, status)| status_of(&status));
        self.respond(stream_id, status, fields.collect(), end_stream)
    }

    /// Sends the head of an answer, with the headers of the dict `raw`, and the beginning of its body.
    ///
    /// # Errors
    ///
    /// `ValueError` for a malformed head; the stream is reset.
    fn answer(
        &self,
        stream_id: u32,
        code: &Bound<'_, PyAny>,
        raw: &Bound<'_, PyDict>,
        body: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let mut fields = Vec::with_capacity(raw.len() + 2);
        for (name, values) in raw.iter() {
            for value in values.try_iter()? {
                let name = name.cast::<PyBytes>()?.clone();
                fields.push((name, value?.cast_into::<PyBytes>()?));
            }
        }
        self.respond(stream_id, status_of(code), fields, false)?;
        if body.as_bytes().is_empty() {
            return Ok(());
        }
        let result = self.connection().send(stream_id, Body(body), false);
        self.sent(stream_id, result)
    }

    /// Sends bytes of a body.
    fn send_data(&self, stream_id: u32, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let result = match data.cast::<PyBytes>() {
            Ok(bytes) => self.connection().send(stream_id, Body(bytes), false),
            Err(_) => {
                with_bytes(data, |bytes| self.connection().send(stream_id, Copied(bytes), false))?
            }
        };
        self.sent(stream_id, result)
    }

    /// Ends an answer or a request. A stream whose answer has no head is reset.
    fn end_stream(&self, stream_id: u32) {
        let mut connection = self.connection();
        if connection.send(stream_id, Copied(b""), true) == Err(SendError::Order) {
            connection.reset(stream_id, Code::INTERNAL_ERROR);
        }
    }

    /// Resets a stream, and drops its unsent bytes.
    #[pyo3(signature = (stream_id, error_code = 0))]
    fn reset_stream(&self, stream_id: u32, error_code: u32) {
        self.connection().reset(stream_id, Code(error_code));
    }

    /// Returns used bytes of a body to the peer's windows.
    fn acknowledge_received_data(&self, acknowledged_size: usize, stream_id: u32) {
        self.connection().release(stream_id, acknowledged_size);
    }

    /// How many more bytes of a body to take from a producer before it pauses.
    fn local_flow_control_window(&self, stream_id: u32) -> usize {
        MAX_UNSENT.saturating_sub(self.connection().unsent(stream_id))
    }

    #[getter]
    fn open_inbound_streams(&self) -> usize {
        self.connection().open_streams()
    }

    #[getter]
    fn open_outbound_streams(&self) -> usize {
        0
    }
}
