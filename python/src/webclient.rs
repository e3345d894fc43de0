//! HTTP/1.1 for the clients of `twisted.web`: parses response heads, and writes request heads. Only plain
//! heads and addresses are treated here; Twisted's own code handles all others, such as a head with a
//! malformed line.

use std::str::FromStr;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyTuple};

use crate::web::{self, Field, Fields, find, header, line};

/// Headers of the connection, as in Twisted's `HTTPParser.CONNECTION_CONTROL_HEADERS`.
pub(crate) const CONTROL: [&[u8]; 8] = [
    b"content-length",
    b"connection",
    b"keep-alive",
    b"te",
    b"trailers",
    b"transfer-encoding",
    b"upgrade",
    b"proxy-connection",
];

/// Parses the head of a response, at the beginning of the data.
///
/// Returns a tuple: the length of the head, whether it is of HTTP/1.1 and not 1.0, the status code, the phrase, the
/// length of the body, the headers of the connection as a dict, and the other headers. The length of the body is 0 if
/// it is empty, or Twisted's parser is to find it. `None` if the head is not whole, or Twisted's parser is to decide.
#[pyfunction]
pub(crate) fn parse_response<'py>(
    py: Python<'py>,
    data: &[u8],
    is_of_head: bool,
    longest_line: usize,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(head) = Head::parse(data, is_of_head, longest_line) else { return Ok(None) };
    // Copied, so that headers do not keep a body.
    let text = PyBytes::new(py, &data[..head.length]);
    let parsed = (
        head.length,
        head.is_1_1,
        head.code,
        PyBytes::new(py, head.phrase),
        head.framing.length(head.code),
        Fields::new(text.clone(), head.control).raw(py)?,
        Fields::new(text, head.fields),
    );
    parsed.into_pyobject(py).map(Some)
}

struct Head<'a> {
    is_1_1: bool,
    code: u16,
    phrase: &'a [u8],
    length: usize,
    framing: Framing,
    // Law 9: both have at most one field for three bytes of the data.
    control: Vec<Field>,
    fields: Vec<Field>,
}

/// The headers of the connection that matter to Twisted.
#[derive(Default)]
struct Framing {
    /// The only `Content-Length`, if no other header frames the body.
    length: Option<u64>,
    is_odd: bool,
}

impl Framing {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = digits(value);
                self.is_odd |= length.is_none() || self.length.is_some();
                self.length = length;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.is_odd = true,
            _ => {}
        }
    }

    /// The length of the body of a response with this code; 0 if it is empty, or Twisted's parser is to find it.
    fn length(&self, code: u16) -> u64 {
        let is_plain = !self.is_odd && !matches!(code, 204 | 304);
        self.length.filter(|_| is_plain).unwrap_or(0)
    }
}

impl Head<'_> {
    fn parse(data: &[u8], is_of_head: bool, longest_line: usize) -> Option<Head<'_>> {
        let (first, mut at) = line(data, 0)?;
        let (is_1_1, code, phrase) = status(first)?;
        if first.len() >= longest_line {
            return None;
        }
        let (mut control, mut fields) = (Vec::with_capacity(4), Vec::with_capacity(16));
        let mut framing = Framing::default();
        loop {
            let (line, next) = line(data, at)?;
            at = next;
            if line.len() >= longest_line {
                return None;
            }
            if line.is_empty() {
                return Some(Head { is_1_1, code, phrase, length: at, framing, control, fields });
            }
            let (name, value) = header(line)?;
            // Twisted's parser strips more than spaces and tabs.
            if value.iter().any(|byte| matches!(byte, 0x0b | 0x0c)) {
                return None;
            }
            let is_of = |control: &&[u8]| control.eq_ignore_ascii_case(name);
            let is_control = match CONTROL.iter().position(is_of) {
                Some(0) => !is_of_head,
                found => found.is_some(),
            };
            let field = Field::new(data, name, value)?;
            if is_control {
                framing.note(name, value);
                control.push(field);
            } else {
                fields.push(field);
            }
        }
    }
}

/// The version, the code and the phrase of a status line. `None` if Twisted's parser is to decide.
fn status(line: &[u8]) -> Option<(bool, u16, &[u8])> {
    let (version, rest) = line.split_at_checked(8)?;
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return None,
    };
    let rest = rest.strip_prefix(b" ")?;
    let (code, phrase) = parted(rest, b' ');
    let is_sound = code.len() == 3 && !phrase.contains(&b'\n');
    let code = digits::<u16>(code).filter(|_| is_sound)?;
    // Interim responses are Twisted's.
    (code >= 200).then_some((is_1_1, code, phrase))
}

fn digits<N: FromStr>(text: &[u8]) -> Option<N> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

/// The head of a request. `None` if Twisted's code is to write it or to refuse it.
///
/// `framing` is the header line that frames the body, if there is one.
#[pyfunction]
#[pyo3(signature = (method, uri, closes, framing, raw))]
pub(crate) fn request_head<'py>(
    py: Python<'py>,
    method: &[u8],
    uri: &[u8],
    closes: bool,
    framing: Option<&[u8]>,
    raw: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let Ok(raw) = raw.cast_exact::<PyDict>() else { return Ok(None) };
    if !is_sound(method, uri) {
        return Ok(None);
    }
    let mut text = Vec::with_capacity(256 + uri.len());
    for part in [method, b" ", uri, b" HTTP/1.1\r\n"] {
        text.extend_from_slice(part);
    }
    if closes {
        text.extend_from_slice(b"Connection: close\r\n");
    }
    text.extend_from_slice(framing.unwrap_or_default());
    let mut hosts = 0;
    for (name, values) in raw.iter() {
        let Ok(name) = name.cast_exact::<PyBytes>() else { return Ok(None) };
        let Ok(values) = values.cast_exact::<PyList>() else { return Ok(None) };
        if name.as_bytes() == b"Host" {
            hosts = values.len();
        }
        for value in values.iter() {
            let Ok(value) = value.cast_exact::<PyBytes>() else { return Ok(None) };
            for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                text.extend_from_slice(part);
            }
        }
    }
    text.extend_from_slice(b"\r\n");
    Ok((hosts == 1).then(|| PyBytes::new(py, &text)))
}

fn is_visible(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_graphic)
}

/// The parts of a plain URI: scheme, authority, host, port, path, parameters, query and fragment. `None` if Twisted's
/// code is to split it.
#[pyfunction]
#[pyo3(signature = (uri, default_port))]
pub(crate) fn split_uri<'py>(
    py: Python<'py>,
    uri: &[u8],
    default_port: Option<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(parts) = Uri::split(uri) else { return Ok(None) };
    let own_port = if parts.scheme == b"https" { 443 } else { 80 };
    let port = match (parts.port, default_port) {
        (None, Some(port)) => port,
        (port, _) => PyInt::new(py, port.unwrap_or(own_port)).into_any(),
    };
    let bytes = |part| PyBytes::new(py, part);
    let split = (
        bytes(parts.scheme),
        bytes(parts.authority),
        bytes(parts.host),
        port,
        bytes(parts.path),
        bytes(b""),
        bytes(parts.query),
        bytes(parts.fragment),
    );
    split.into_pyobject(py).map(Some)
}

struct Uri<'a> {
    scheme: &'a [u8],
    authority: &'a [u8],
    host: &'a [u8],
    port: Option<u32>,
    path: &'a [u8],
    query: &'a [u8],
    fragment: &'a [u8],
}

impl Uri<'_> {
    fn split(uri: &[u8]) -> Option<Uri<'_>> {
        let (scheme, rest) = match uri {
            [b'h', b't', b't', b'p', b':', b'/', b'/', rest @ ..] => (&uri[..4], rest),
            [b'h', b't', b't', b'p', b's', b':', b'/', b'/', rest @ ..] => (&uri[..5], rest),
            _ => return None,
        };
        let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (host, port) = match find(authority, b':') {
            Some(colon) => (&authority[..colon], Some(digits(&authority[colon + 1..])?)),
            None => (authority, None),
        };
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
        if host.is_empty() || !host.iter().all(is_plain) {
            return None;
        }
        // A semicolon begins parameters.
        if !rest.iter().all(|byte| byte.is_ascii_graphic() && *byte != b';') {
            return None;
        }
        let (rest, fragment) = parted(rest, b'#');
        let (path, query) = parted(rest, b'?');
        Some(Uri { scheme, authority, host, port, path, query, fragment })
    }
}

/// The text before and after the first separator.
fn parted(text: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match find(text, separator) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &text[text.len()..]),
    }
}

/// Sets the values of a header of a dict of headers. Returns false if Twisted's code is to do so, because a value is
/// not plain, or the canonical form of the name is not known yet.
#[pyfunction]
pub(crate) fn set_headers(
    raw: &Bound<'_, PyAny>,
    names: &Bound<'_, PyDict>,
    name: &Bound<'_, PyAny>,
    values: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let Ok(raw) = raw.cast_exact::<PyDict>() else { return Ok(false) };
    let Ok(values) = values.cast_exact::<PyList>() else { return Ok(false) };
    if !values.iter().all(|value| web::plain(&value).is_some()) {
        return Ok(false);
    }
    let Some(canonical) = names.get_item(name)? else { return Ok(false) };
    raw.set_item(canonical, values.get_slice(0, values.len()))?;
    Ok(true)
}

/// Adds a value to a header of a dict of headers. Returns false if Twisted's code is to do so, as for [`set_headers`].
#[pyfunction]
pub(crate) fn add_header(
    raw: &Bound<'_, PyAny>,
    names: &Bound<'_, PyDict>,
    name: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<bool> {
    let Ok(raw) = raw.cast_exact::<PyDict>() else { return Ok(false) };
    if web::plain(value).is_none() {
        return Ok(false);
    }
    let Some(canonical) = names.get_item(name)? else { return Ok(false) };
    match raw.get_item(&canonical)? {
        None => raw.set_item(canonical, PyList::new(raw.py(), [value])?)?,
        Some(values) => match values.cast_exact::<PyList>() {
            Ok(values) => values.append(value)?,
            Err(_) => return Ok(false),
        },
    }
    Ok(true)
}

/// Whether a method is a token of RFC 9110, section 5.6.2, and a target consists of visible characters.
#[pyfunction]
pub(crate) fn is_sound(method: &[u8], target: &[u8]) -> bool {
    web::is_token(method) && is_visible(target)
}
