//! HTTP/1.1 for `twisted.web`: parses request heads, and writes answer heads. Only plain heads are parsed
//! here; Twisted's own parser handles all others, such as one with a malformed line.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

/// The place of a header in the data: of its name and of its value.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

impl Field {
    /// The place of a name and of a value, both parts of the data.
    pub(crate) fn new(data: &[u8], name: &[u8], value: &[u8]) -> Option<Field> {
        let place = |part: &[u8]| {
            let from = part.as_ptr() as usize - data.as_ptr() as usize;
            Some((u32::try_from(from).ok()?, u32::try_from(from + part.len()).ok()?))
        };
        Some(Field { name: place(name)?, value: place(value)? })
    }
}

/// The headers of a message, as received.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Fields {
    data: Py<PyBytes>,
    // Law 9: as many as a channel allows, or as a client received at once.
    fields: Box<[Field]>,
}

impl Fields {
    pub(crate) fn new(data: Bound<'_, PyBytes>, fields: Vec<Field>) -> Fields {
        Fields { data: data.unbind(), fields: fields.into() }
    }

    fn bytes<'a>(&self, data: &'a [u8], (start, end): (u32, u32)) -> &'a [u8] {
        &data[start as usize..end as usize]
    }

    fn named<'a>(
        &'a self,
        data: &'a [u8],
        name: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let is_it = move |field: &&Field| self.bytes(data, field.name).eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_it).map(move |field| self.bytes(data, field.value))
    }
}

#[pymethods]
impl Fields {
    /// The last value of a header, or `None`.
    pub(crate) fn last<'py>(&self, py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyBytes>> {
        let data = self.data.as_bytes(py);
        self.named(data, name).next_back().map(|value| PyBytes::new(py, value))
    }

    /// A dict of the values of each header, by its canonical name.
    pub(crate) fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let data = self.data.as_bytes(py);
        let bytes = |place| self.bytes(data, place);
        raw(py, self.fields.iter().map(|field| (bytes(field.name), bytes(field.value))))
    }
}

/// A dict of the values of each header, by its canonical name.
pub(crate) fn raw<'a, 'py>(
    py: Python<'py>,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> PyResult<Bound<'py, PyDict>> {
    let (raw, mut canonical) = (PyDict::new(py), Vec::new());
    for (name, value) in fields {
        canonicalize(name, &mut canonical);
        let name = PyBytes::new(py, &canonical);
        let value = PyBytes::new(py, value);
        match raw.get_item(&name)? {
            Some(values) => values.cast::<PyList>()?.append(value)?,
            None => raw.set_item(name, PyList::new(py, [value])?)?,
        }
    }
    Ok(raw)
}

/// Names that Twisted does not write as words with capitals.
const UNUSUAL: [&[u8]; 7] =
    [b"Content-MD5", b"DNT", b"ETag", b"P3P", b"TE", b"WWW-Authenticate", b"X-XSS-Protection"];

/// The canonical name of a header, as Twisted's `_nameEncoder` makes it.
fn canonicalize(name: &[u8], canonical: &mut Vec<u8>) {
    canonical.clear();
    if let Some(unusual) = UNUSUAL.iter().find(|unusual| unusual.eq_ignore_ascii_case(name)) {
        return canonical.extend_from_slice(unusual);
    }
    let mut is_first = true;
    for byte in name {
        canonical.push(if is_first {
            byte.to_ascii_uppercase()
        } else {
            byte.to_ascii_lowercase()
        });
        is_first = *byte == b'-';
    }
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_part)
}

/// The headers of a request that concern the connection.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    /// Whether the first `Connection` header closes the connection.
    closes: Option<bool>,
    has_cookies: bool,
    /// Whether the body may be a form.
    has_form: bool,
    /// Whether the first `Expect` header waits for `100 Continue`.
    continues: Option<bool>,
}

impl Framing {
    /// Notes a header. `None` if Twisted's parser is to decide.
    fn note(&mut self, name: &[u8], value: &[u8], is_1_1: bool) -> Option<()> {
        match name.len() {
            6 if name.eq_ignore_ascii_case(b"cookie") => self.has_cookies = true,
            6 if name.eq_ignore_ascii_case(b"expect") => {
                let continues = is_1_1 && value.eq_ignore_ascii_case(b"100-continue");
                self.continues.get_or_insert(continues);
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let mut tokens = value.split(|byte| *byte == b' ');
                self.closes.get_or_insert(tokens.any(|token| token.eq_ignore_ascii_case(b"close")));
            }
            12 if name.eq_ignore_ascii_case(b"content-type") => {
                self.has_form |= value.windows(4).any(|part| part.eq_ignore_ascii_case(b"form"));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let length = std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()?;
                if self.length.replace(length).is_some() {
                    return None;
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return None,
            _ => {}
        }
        Some(())
    }
}

/// Methods whose bytes exist once.
pub(crate) const METHODS: [&[u8]; 6] = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"];
const VERSIONS: [&[u8]; 2] = [b"HTTP/1.1", b"HTTP/1.0"];

/// Bytes that exist once, or new ones.
pub(crate) fn common<'py, const N: usize>(
    py: Python<'py>,
    all: &PyOnceLock<Vec<Py<PyBytes>>>,
    texts: [&[u8]; N],
    text: &[u8],
) -> Bound<'py, PyBytes> {
    let all = all.get_or_init(py, || texts.map(|text| PyBytes::new(py, text).unbind()).into());
    match texts.iter().position(|known| *known == text) {
        Some(at) => all[at].bind(py).clone(),
        None => PyBytes::new(py, text),
    }
}

pub(crate) static KNOWN_METHODS: PyOnceLock<Vec<Py<PyBytes>>> = PyOnceLock::new();
static KNOWN_VERSIONS: PyOnceLock<Vec<Py<PyBytes>>> = PyOnceLock::new();

/// The line that begins at `at`, and the place after its end. `None` if it is not whole, or has other control
/// characters that end a line or a string.
pub(crate) fn line(data: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = &data[at..];
    let end = find(rest, b'\r')?;
    (rest.get(end + 1) == Some(&b'\n')).then(|| (&rest[..end], at + end + 2))
}

/// The name and the value of a line. `None` if Twisted's parser is to decide.
pub(crate) fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = find(line, b':')?;
    let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
    (is_token(name) && !value.contains(&b'\n')).then_some((name, value))
}

pub(crate) fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|byte| *byte == wanted)
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Parses the head of a request, at the beginning of the data.
///
/// Returns a tuple: the length of the head, the method, the target, the version, the length of the body, whether the
/// connection stays open, whether there are cookies, whether the client waits for `100 Continue`, and the
/// headers. `None` if the head is not whole, or Twisted's parser is to decide.
#[pyfunction]
#[pyo3(signature = (data, most_headers, most_bytes))]
pub(crate) fn parse_head<'py>(
    py: Python<'py>,
    data: Bound<'py, PyBytes>,
    most_headers: usize,
    most_bytes: usize,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let Some(head) = Head::parse(data.as_bytes(), most_headers, most_bytes) else {
        return Ok(None);
    };
    let (method, version, stays) = (head.method(py), head.version(py), head.stays());
    let Head { target, length, framing, fields, .. } = head;
    let parsed = (
        length,
        method,
        PyBytes::new(py, target),
        version,
        framing.length.unwrap_or(0),
        stays,
        framing.has_cookies,
        framing.continues == Some(true),
        Fields::new(data.clone(), fields),
    );
    parsed.into_pyobject(py).map(Some)
}

pub(crate) struct Head<'a> {
    method: &'a [u8],
    pub(crate) target: &'a [u8],
    version: &'a [u8],
    /// Of the head itself.
    pub(crate) length: usize,
    framing: Framing,
    pub(crate) fields: Vec<Field>,
}

impl Head<'_> {
    pub(crate) fn method<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        common(py, &KNOWN_METHODS, METHODS, self.method)
    }

    pub(crate) fn version<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        common(py, &KNOWN_VERSIONS, VERSIONS, self.version)
    }

    /// Whether the connection stays open.
    pub(crate) fn stays(&self) -> bool {
        self.version == VERSIONS[0] && self.framing.closes != Some(true)
    }

    /// Whether the connection ends since the client asked for it.
    pub(crate) fn closes(&self) -> bool {
        self.version == VERSIONS[0] && self.framing.closes == Some(true)
    }

    /// The length of the body.
    pub(crate) fn body(&self) -> usize {
        self.framing.length.map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Whether the request has no form, and the client does not wait for `100 Continue`.
    pub(crate) fn is_plain(&self) -> bool {
        !(self.framing.has_form && self.body() > 0) && self.framing.continues != Some(true)
    }

    pub(crate) fn parse(data: &[u8], most_headers: usize, most_bytes: usize) -> Option<Head<'_>> {
        let (first, mut at) = line(data, 0)?;
        let mut words = first.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let is_sound = words.next().is_none()
            && is_token(method)
            && !target.is_empty()
            && target.iter().all(|byte| (33..=176).contains(byte))
            && VERSIONS.contains(&version);
        if !is_sound {
            return None;
        }
        let (mut framing, mut fields) = (Framing::default(), Vec::with_capacity(16));
        let mut bytes = first.len();
        loop {
            let start = at;
            let (line, next) = line(data, start)?;
            at = next;
            bytes += line.len();
            if bytes > most_bytes || fields.len() > most_headers {
                return None;
            }
            if line.is_empty() {
                return Some(Head { method, target, version, length: at, framing, fields });
            }
            let (name, value) = header(line)?;
            if value.contains(&0) {
                return None;
            }
            framing.note(name, value, version == VERSIONS[0])?;
            fields.push(Field::new(data, name, value)?);
        }
    }
}

/// A value that needs no change to be a header's.
pub(crate) fn plain<'a, 'py>(value: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyBytes>> {
    let is_plain = |text: &&Bound<'_, PyBytes>| {
        !text.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n'))
    };
    value.cast_exact::<PyBytes>().ok().filter(is_plain)
}

/// Appends a number in a base up to 16.
pub(crate) fn push_number(text: &mut Vec<u8>, number: usize, base: usize) {
    let at = text.len();
    let mut rest = number;
    loop {
        text.push(b"0123456789abcdef"[rest % base]);
        rest /= base;
        if rest == 0 {
            break;
        }
    }
    text[at..].reverse();
}

/// A line of the combined log format, as Twisted's `combinedLogFormatter` makes it; `None` as a text is `-`.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the fields of the format")]
pub(crate) fn combined_line(
    ip: &str,
    timestamp: &str,
    method: &[u8],
    uri: &[u8],
    protocol: &[u8],
    code: u32,
    length: usize,
    referrer: Option<&[u8]>,
    agent: Option<&[u8]>,
) -> String {
    let mut line = String::with_capacity(160 + uri.len());
    line.push('"');
    escape(ip.as_bytes(), &mut line);
    line.push_str("\" - - ");
    line.push_str(timestamp);
    line.push_str(" \"");
    for (part, end) in [(method, " "), (uri, " "), (protocol, "\" ")] {
        escape(part, &mut line);
        line.push_str(end);
    }
    let mut numbers = Vec::with_capacity(24);
    push_number(&mut numbers, code as usize, 10);
    numbers.push(b' ');
    match length {
        0 => numbers.push(b'-'),
        length => push_number(&mut numbers, length, 10),
    }
    line.extend(numbers.into_iter().map(char::from));
    for part in [referrer, agent] {
        line.push_str(" \"");
        escape(part.filter(|part| !part.is_empty()).unwrap_or(b"-"), &mut line);
        line.push('"');
    }
    line.push('\n');
    line
}

/// Appends bytes as Python would write them between double quotes.
fn escape(bytes: &[u8], line: &mut String) {
    for &byte in bytes {
        match byte {
            b'\\' => line.push_str("\\\\"),
            b'"' => line.push_str("\\\""),
            b'\t' => line.push_str("\\t"),
            b'\n' => line.push_str("\\n"),
            b'\r' => line.push_str("\\r"),
            b' '..=b'~' => line.push(char::from(byte)),
            _ => {
                line.push_str("\\x");
                for digit in [byte >> 4, byte & 15] {
                    line.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
                }
            }
        }
    }
}
