//! The requests of `twisted.web`: receives those of sites whose classes have all of Twisted's steps, and sends the
//! answers of all. Anything unusual is left to Twisted's code, before anything has changed.

use std::sync::Mutex;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyList, PyString};

use crate::locked;
use crate::timers::DelayedCall;
use crate::web::{Fields, Head, is_token, plain, push_number};

/// Bytes that exist once.
macro_rules! once {
    ($py:expr, $text:expr) => {{
        static BYTES: PyOnceLock<Py<PyBytes>> = PyOnceLock::new();
        BYTES.get_or_init($py, || PyBytes::new($py, $text).unbind()).bind($py)
    }};
}

/// Answers up to this size leave with their headers as one string.
const TOGETHER: usize = 16384;

/// Bodies of requests from this size on are written to a file, as by Twisted.
const LARGE_BODY: usize = 100_000;

/// Objects of Python, by their names in a module.
macro_rules! objects {
    ($(#[$doc:meta])* $class:ident { $($field:ident: $name:literal,)* }) => {
        $(#[$doc])*
        struct $class {
            $($field: Py<PyAny>,)*
        }

        impl $class {
            fn of(module: &Bound<'_, PyAny>) -> PyResult<$class> {
                Ok($class { $($field: module.getattr($name)?.unbind(),)* })
            }
        }
    };
}

objects! {
    /// The objects of `couplet_twisted._web` that the steps use.
    Web {
        child_for: "getChildForRequest",
        date_of: "_dateOf",
        encoding: "_IEncodingResource",
        failed: "_failed",
        file: "BytesIO",
        find_resource: "getResourceFor",
        headers: "Headers",
        learn: "_learn",
        names: "canonicalNames",
        new: "_new",
        not_done: "NOT_DONE_YET",
        readers: "readers",
        render_other: "_renderOther",
        request_done: "requestDone",
        resource_render: "resourceRender",
        server: "version",
        time: "_time",
        unsupported: "UnsupportedMethod",
        wait: "_wait",
    }
}

/// Attributes that a request begins with.
const ATTRIBUTES: [&str; 17] = [
    "channel",
    "_couplet_channel",
    "transport",
    "queued",
    "_couplet_isEmpty",
    "_couplet_fields",
    "_couplet_query",
    "_couplet_raw",
    "method",
    "uri",
    "path",
    "clientproto",
    "_parsePOSTFormSubmission",
    "site",
    "prepath",
    "postpath",
    "sitepath",
];

/// Attributes of its answer.
const LATER: [&str; 3] = ["startedWriting", "sentLength", "finished"];

/// The steps of requests.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Steps {
    web: Web,
    /// The attributes that a request begins with, with room for the later ones: to be copied.
    attributes: Py<PyDict>,
    /// Replaces `Request.write` where an answer has no body.
    ignore: Py<PyAny>,
    /// The last second, and its text.
    now: Mutex<(u64, Py<PyBytes>)>,
}

#[pymethods]
impl Steps {
    /// Takes the module `couplet_twisted._web`.
    #[new]
    fn new(module: &Bound<'_, PyAny>) -> PyResult<Steps> {
        let py = module.py();
        let attributes = PyDict::new(py);
        for name in ATTRIBUTES.into_iter().chain(LATER) {
            attributes.set_item(PyString::intern(py, name), py.None())?;
        }
        for name in LATER {
            attributes.del_item(name)?;
        }
        let ignore = PyCFunction::new_closure(py, None, None, |_, _| ())?.into_any().unbind();
        let now = Mutex::new((0, PyBytes::new(py, b"").unbind()));
        Ok(Steps { web: Web::of(module)?, attributes: attributes.unbind(), ignore, now })
    }

    /// The present, as in a `Date` header.
    fn now<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let second = self.web.time.bind(py).call0()?.extract::<f64>()? as u64;
        let known = {
            let now = locked(&self.now);
            (now.0 == second).then(|| now.1.clone_ref(py))
        };
        if let Some(text) = known {
            return Ok(text.into_bound(py));
        }
        let text = self.web.date_of.bind(py).call1((second,))?.cast_into::<PyBytes>()?;
        *locked(&self.now) = (second, text.clone().unbind());
        Ok(text)
    }

    /// Receives data of a channel: begins and serves its requests. Returns the data that Twisted's code is to receive;
    /// `None` if all of it was received.
    fn receive<'py>(
        &self,
        channel: &Bound<'py, PyAny>,
        mut data: Bound<'py, PyBytes>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = channel.py();
        let busy = intern!(py, "_busyReceiving");
        while Steps::is_ready(channel)? {
            let factory = channel.getattr(intern!(py, "requestFactory"))?;
            if !channel.getattr(intern!(py, "_couplet_factory"))?.is(&factory) {
                self.web.learn.bind(py).call1((channel,))?;
            }
            let Some((request, rest)) = self.begin(channel, &data)? else { break };
            let Some(rest) = rest else { return Ok(None) };
            channel.setattr(busy, true)?;
            let served = self.serve(channel, &request);
            channel.setattr(busy, false)?;
            served?;
            // Data that arrived meanwhile.
            let buffer = intern!(py, "_buffer");
            let later = channel.getattr(buffer)?.cast_into::<PyBytes>()?;
            data = PyBytes::new(py, &data.as_bytes()[rest..]);
            if !later.as_bytes().is_empty() {
                channel.setattr(buffer, PyBytes::new(py, b""))?;
                data = PyBytes::new(py, &[data.as_bytes(), later.as_bytes()].concat());
            }
            let transport = channel.getattr(intern!(py, "transport"))?;
            let is_over = || transport.getattr(intern!(py, "disconnecting"))?.is_truthy();
            if data.as_bytes().is_empty() || !transport.is_none() && is_over()? {
                return Ok(None);
            }
        }
        Ok(Some(data))
    }

    /// Whether a channel is at the beginning of a request.
    #[staticmethod]
    fn is_ready(channel: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = channel.py();
        let is = |name| channel.getattr(name)?.is_truthy();
        Ok(channel.getattr(intern!(py, "_HTTPChannel__first_line"))?.eq(1)?
            && is(intern!(py, "line_mode"))?
            && is(intern!(py, "persistent"))?
            && !is(intern!(py, "_busyReceiving"))?
            && !is(intern!(py, "_buffer"))?
            && !is(intern!(py, "paused"))?)
    }

    /// Finds the resource for a request.
    fn resource<'py>(&self, request: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = request.py();
        let site = request.getattr(intern!(py, "site"))?;
        let find = site.getattr(intern!(py, "getResourceFor"))?;
        let found = if is_method(&find, &self.web.find_resource)? {
            let root = site.getattr(intern!(py, "resource"))?;
            match root.getattr(intern!(py, "isLeaf"))?.is_truthy()? {
                true => root,
                false => self.web.child_for.bind(py).call1((root, request))?,
            }
        } else {
            find.call1((request,))?
        };
        let encoding = self.web.encoding.bind(py);
        if encoding.call_method1(intern!(py, "providedBy"), (&found,))?.is_truthy()? {
            let encoder = found.call_method1(intern!(py, "getEncoder"), (request,))?;
            if !encoder.is_none() {
                request.setattr(intern!(py, "_encoder"), encoder)?;
            }
        }
        Ok(found)
    }

    /// Processes a request that was begun here.
    fn serve(&self, channel: &Bound<'_, PyAny>, request: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = channel.py();
        let found = self.resource(request).and_then(|found| self.render(request, &found));
        let served = match found {
            Ok(()) => Ok(()),
            Err(error) => self.web.failed.bind(py).call1((request, error.value(py))).map(drop),
        };
        // The idle timeout is stopped only for a request that is not finished at once.
        let is_starting = intern!(py, "_couplet_isStarting");
        if channel.getattr(is_starting)?.is_truthy()? {
            channel.setattr(is_starting, false)?;
            let saved = channel.call_method1(intern!(py, "setTimeout"), (py.None(),))?;
            channel.setattr(intern!(py, "_savedTimeOut"), saved)?;
        }
        served
    }

    /// Answers a request by a resource.
    fn render(&self, request: &Bound<'_, PyAny>, resource: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, web) = (request.py(), &self.web);
        match self.body(request, resource) {
            Ok(body) if body.is(&web.not_done) || self.answer(request, &body)? => Ok(()),
            Ok(body) => web.render_other.bind(py).call1((request, resource, body)).map(drop),
            Err(error) if error.is_instance(py, web.unsupported.bind(py)) => {
                let given = (request, resource, py.None(), error.value(py));
                web.render_other.bind(py).call1(given).map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins a request of a class on a stream of HTTP/2. `None` if its path is unusual.
    fn begin_on<'py>(
        &self,
        stream: &Bound<'py, PyAny>,
        class: &Bound<'py, PyAny>,
        method: Bound<'py, PyBytes>,
        target: &[u8],
        fields: Bound<'py, PyAny>,
        is_empty: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let version = once!(stream.py(), b"HTTP/2").clone();
        self.make(stream, class, Line { method, target, version, is_empty, closes: false }, fields)
    }

    /// Sends the headers of an answer and the beginning of its body. Returns false, and has changed nothing, if
    /// Twisted's code is to do so.
    fn write(&self, request: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(answer) = Answer::of(self, request)? else { return Ok(false) };
        let Ok(data) = data.cast_exact::<PyBytes>() else { return Ok(false) };
        answer.write(data, Part::First)
    }

    /// [`write`](Self::write) for a site's request.
    fn write_of_site(&self, request: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = request.py();
        let Some(answer) = Answer::of(self, request)? else { return Ok(false) };
        let Ok(data) = data.cast_exact::<PyBytes>() else { return Ok(false) };
        let is_plain = request.getattr(intern!(py, "_encoder"))?.is_none()
            && !request.getattr(intern!(py, "_inFakeHead"))?.is_truthy()?;
        Ok(is_plain && answer.write(data, Part::OfSite)?)
    }

    /// Answers a request with a body, and finishes it. Returns false, and has changed nothing, if Twisted's code is to
    /// do so.
    fn answer(&self, request: &Bound<'_, PyAny>, body: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(answer) = Answer::of(self, request)? else { return Ok(false) };
        let Ok(body) = body.cast_exact::<PyBytes>() else { return Ok(false) };
        let encoder = request.getattr(intern!(request.py(), "_encoder"))?;
        let is_ours = encoder.is_none() && !answer.is_bodyless()?;
        if !(is_ours && answer.write(body, Part::Whole)?) {
            return Ok(false);
        }
        if !answer.finish()? {
            request.call_method0(intern!(request.py(), "finish"))?;
        }
        Ok(true)
    }

    /// Sets a header of an answer. Returns false, and has changed nothing, if Twisted's code is to do so.
    fn set_header(
        &self,
        request: &Bound<'_, PyAny>,
        name: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let own = own_of(request)?;
        let (Some(raw), Some(value)) = (self.headers(request, &own)?, plain(value)) else {
            return Ok(false);
        };
        let Some(canonical) = self.web.names.bind(request.py()).cast::<PyDict>()?.get_item(name)?
        else {
            return Ok(false);
        };
        raw.set_item(canonical, PyList::new(request.py(), [value])?)?;
        Ok(true)
    }

    /// The last value of a header of a request, or `None`; `NotImplemented` if Twisted's code is to find it.
    #[staticmethod]
    fn header<'py>(
        request: &Bound<'py, PyAny>,
        name: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (request.py(), own_of(request)?);
        let fields = match own.get_item(intern!(py, "requestHeaders"))? {
            Some(headers) => headers.getattr_opt(intern!(py, "_fields"))?,
            None => own.get_item(intern!(py, "_couplet_fields"))?,
        };
        let fields = fields.filter(|fields| !fields.is_none());
        let name = name.cast_exact::<PyBytes>().ok().filter(|name| is_token(name.as_bytes()));
        match (fields, name) {
            (Some(fields), Some(name)) => fields.call_method1(intern!(py, "last"), (name,)),
            _ => Ok(py.NotImplemented().into_bound(py)),
        }
    }

    /// Finishes a request whose answer was sent. Returns false, and has changed nothing, if Twisted's code is to do so.
    fn finish(&self, request: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(answer) = Answer::at(self, request)? else { return Ok(false) };
        answer.finish()
    }

    /// Ends a request that a channel handled: the channel receives the next one.
    #[staticmethod]
    fn done(channel: &Bound<'_, PyAny>, request: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = channel.py();
        let requests = channel.getattr(intern!(py, "requests"))?.cast_into_exact::<PyList>()?;
        let is_first = requests.get_item(0).is_ok_and(|first| first.is(request));
        if !is_first || !channel.getattr(intern!(py, "persistent"))?.is_truthy()? {
            return Ok(false);
        }
        requests.del_item(0)?;
        if !channel.getattr(intern!(py, "_waitingForTransport"))?.is_truthy()? {
            let producer = channel.getattr(intern!(py, "_networkProducer"))?;
            producer.call_method0(intern!(py, "resumeProducing"))?;
        }
        channel.setattr(intern!(py, "_handlingRequest"), false)?;
        let is_starting = resume_timeout(channel)?;
        let pieces = channel.getattr(intern!(py, "_dataBuffer"))?;
        if !is_starting || pieces.is_truthy()? {
            let data = PyBytes::new(py, b"").call_method1(intern!(py, "join"), (pieces,))?;
            channel.setattr(intern!(py, "_dataBuffer"), PyList::empty(py))?;
            channel.call_method1(intern!(py, "setLineMode"), (data,))?;
        } else {
            channel.setattr(intern!(py, "line_mode"), 1)?;
        }
        Ok(true)
    }
}

/// A request, and the place of the data after it, once all of it is there.
type Begun<'py> = (Bound<'py, PyAny>, Option<usize>);

impl Steps {
    /// Begins a request at the beginning of the data, and hands it to its channel. `None` if its head is not whole, or
    /// not plain, or another request is not finished.
    fn begin<'py>(
        &self,
        channel: &Bound<'py, PyAny>,
        data: &Bound<'py, PyBytes>,
    ) -> PyResult<Option<Begun<'py>>> {
        let py = channel.py();
        let class = channel.getattr(intern!(py, "_couplet_class"))?;
        let requests = channel.getattr(intern!(py, "requests"))?;
        let Ok(requests) = requests.cast_into_exact::<PyList>() else { return Ok(None) };
        if class.is_none() || !requests.is_empty() {
            return Ok(None);
        }
        let number = |name| channel.getattr(name)?.extract::<usize>();
        let most_bytes =
            number(intern!(py, "totalHeadersSize"))?.min(number(intern!(py, "MAX_LENGTH"))?);
        let head = Head::parse(data.as_bytes(), number(intern!(py, "maxHeaders"))?, most_bytes);
        let Some(head) = head.filter(Head::is_plain) else { return Ok(None) };
        let channels = channel.getattr(intern!(py, "__dict__"))?;
        let makes_files = intern!(py, "_couplet_makesFiles");
        let length = head.body();
        if length >= LARGE_BODY
            || channels.contains(intern!(py, "checkPersistence"))?
            || length > 0 && channel.getattr(makes_files)?.is_truthy()?
        {
            return Ok(None);
        }
        let line = Line {
            method: head.method(py),
            target: head.target,
            version: head.version(py),
            is_empty: length == 0,
            closes: head.closes(),
        };
        let (start, end, stays) = (head.length, head.length + length, head.stays());
        let fields = Bound::new(py, Fields::new(data.clone(), head.fields))?;
        let request = self.make(channel, &class, line, fields.into_any())?;
        let Some(request) = request else { return Ok(None) };
        let body = data.as_bytes().get(start..end);
        if let Some(body) = body.filter(|body| !body.is_empty()) {
            let content = self.web.file.bind(py).call1((PyBytes::new(py, body),))?;
            request.setattr(intern!(py, "content"), content)?;
        }
        if !stays {
            channel.setattr(intern!(py, "persistent"), false)?;
        }
        requests.append(&request)?;
        channel.setattr(intern!(py, "line_mode"), 0)?;
        if body.is_none() {
            self.web.wait.bind(py).call1((channel, &request, length, data, start))?;
            return Ok(Some((request, None)));
        }
        channel.setattr(intern!(py, "_handlingRequest"), true)?;
        let is_timed = channel.getattr(intern!(py, "timeOut"))?.is_truthy()?;
        channel.setattr(intern!(py, "_couplet_isStarting"), is_timed)?;
        Ok(Some((request, Some(end))))
    }

    /// The dict of the headers of an answer, unless they are of another class.
    fn headers<'py>(
        &self,
        request: &Bound<'py, PyAny>,
        own: &Bound<'py, PyDict>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let py = request.py();
        let raw = match own.get_item(intern!(py, "responseHeaders"))? {
            Some(headers) if headers.get_type().is(&self.web.headers) => {
                headers.getattr(intern!(py, "_rawHeaders"))?
            }
            Some(_) => return Ok(None),
            None => request.getattr(intern!(py, "_couplet_raw"))?,
        };
        Ok(raw.cast_into_exact().ok())
    }

    /// Asks a resource for the body of an answer.
    fn body<'py>(
        &self,
        request: &Bound<'py, PyAny>,
        resource: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = request.py();
        let read = self.web.readers.bind(py).get_item(resource.get_type())?;
        if !read.is_none() {
            let body = read.call1((resource, request))?;
            if !body.is_none() {
                return Ok(body);
            }
        }
        let render = resource.getattr(intern!(py, "render"))?;
        if is_method(&render, &self.web.resource_render)? {
            let method = request.getattr(intern!(py, "method"))?;
            let name = match method.cast::<PyBytes>().map(|method| method.as_bytes()) {
                Ok(b"GET") => Some(intern!(py, "render_GET")),
                Ok(b"POST") => Some(intern!(py, "render_POST")),
                Ok(b"HEAD") => Some(intern!(py, "render_HEAD")),
                _ => None,
            };
            let found = name.map(|name| resource.getattr_opt(name)).transpose()?.flatten();
            if let Some(render) = found.filter(|render| render.is_truthy().unwrap_or(true)) {
                return render.call1((request,));
            }
        }
        render.call1((request,))
    }

    /// Makes a request of a class. `None` if its path is unusual.
    fn make<'py>(
        &self,
        channel: &Bound<'py, PyAny>,
        class: &Bound<'py, PyAny>,
        line: Line<'_, 'py>,
        fields: Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = channel.py();
        let mut parts = line.target.splitn(2, |byte| *byte == b'?');
        let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if path == b"*" || path.contains(&b'%') {
            return Ok(None);
        }
        let own = self.attributes.bind(py).copy()?;
        let uri = PyBytes::new(py, line.target);
        let is_path = path.len() == line.target.len();
        let path_object = if is_path { uri.clone() } else { PyBytes::new(py, path) };
        own.set_item(intern!(py, "path"), path_object)?;
        own.set_item(intern!(py, "uri"), uri)?;
        own.set_item(intern!(py, "method"), line.method)?;
        own.set_item(intern!(py, "clientproto"), line.version)?;
        own.set_item(intern!(py, "_couplet_query"), PyBytes::new(py, query))?;
        own.set_item(intern!(py, "_couplet_isEmpty"), line.is_empty)?;
        own.set_item(intern!(py, "_couplet_fields"), fields)?;
        own.set_item(intern!(py, "channel"), channel)?;
        own.set_item(intern!(py, "_couplet_channel"), channel)?;
        own.set_item(intern!(py, "queued"), channel.getattr(intern!(py, "_couplet_queued"))?)?;
        own.set_item(intern!(py, "transport"), channel.getattr(intern!(py, "transport"))?)?;
        let site = channel.getattr(intern!(py, "site"))?;
        let parses = intern!(py, "_parsePOSTFormSubmission");
        own.set_item(parses, site.getattr(parses)?)?;
        own.set_item(intern!(py, "site"), site)?;
        let names = path.get(1..).unwrap_or_default().split(|byte| *byte == b'/');
        let names = PyList::new(py, names.map(|name| PyBytes::new(py, name)).collect::<Vec<_>>())?;
        own.set_item(intern!(py, "postpath"), names)?;
        own.set_item(intern!(py, "prepath"), PyList::empty(py))?;
        own.set_item(intern!(py, "sitepath"), PyList::empty(py))?;
        let raw = PyDict::new(py);
        if line.closes {
            set(&raw, once!(py, b"Connection"), once!(py, b"close"))?;
        }
        set(&raw, once!(py, b"Server"), self.web.server.bind(py).cast()?)?;
        set(&raw, once!(py, b"Date"), &self.now(py)?)?;
        own.set_item(intern!(py, "_couplet_raw"), raw)?;
        let request = self.web.new.bind(py).call1((class,))?;
        request.setattr(intern!(py, "__dict__"), own)?;
        Ok(Some(request))
    }
}

/// How a request begins.
struct Line<'a, 'py> {
    method: Bound<'py, PyBytes>,
    target: &'a [u8],
    version: Bound<'py, PyBytes>,
    /// Whether it has no body.
    is_empty: bool,
    /// Whether its answer announces the end of the connection.
    closes: bool,
}

/// The idle timeout of a channel begins again. Returns whether it was not stopped, since its request is finished at
/// once.
fn resume_timeout(channel: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = channel.py();
    let is_starting = intern!(py, "_couplet_isStarting");
    if !channel.getattr(is_starting)?.is_truthy()? {
        let saved = channel.getattr(intern!(py, "_savedTimeOut"))?;
        if saved.is_truthy()? {
            channel.call_method1(intern!(py, "setTimeout"), (saved,))?;
        }
        return Ok(false);
    }
    channel.setattr(is_starting, false)?;
    let call = channel.getattr(intern!(py, "_TimeoutMixin__timeoutCall"))?;
    let time = channel.getattr(intern!(py, "timeOut"))?;
    if call.is_none() || time.is_none() {
        return Ok(true);
    }
    match call.cast_exact::<DelayedCall>() {
        Ok(call) => DelayedCall::reset(call, time.extract()?)?,
        Err(_) => drop(call.call_method1(intern!(py, "reset"), (time,))?),
    }
    Ok(true)
}

/// The part of an answer that is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The beginning of the body.
    First,
    /// The same, of a site's request: its type has a default.
    OfSite,
    /// All of the body, of a site's request.
    Whole,
}

/// An answer whose request is connected and not finished.
struct Answer<'a, 'py> {
    steps: &'a Steps,
    request: &'a Bound<'py, PyAny>,
    own: Bound<'py, PyDict>,
    channel: Bound<'py, PyAny>,
}

impl<'a, 'py> Answer<'a, 'py> {
    fn at(steps: &'a Steps, request: &'a Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        let py = request.py();
        let own = own_of(request)?;
        for name in [intern!(py, "finished"), intern!(py, "_disconnected")] {
            if request.getattr(name)?.is_truthy()? {
                return Ok(None);
            }
        }
        let channel = own.get_item(intern!(py, "channel"))?;
        Ok(channel.map(|channel| Answer { steps, request, own, channel }))
    }

    /// An answer that has not begun.
    fn of(steps: &'a Steps, request: &'a Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        let has_begun = request.getattr(intern!(request.py(), "startedWriting"))?.is_truthy()?;
        if has_begun { Ok(None) } else { Answer::at(steps, request) }
    }

    fn py(&self) -> Python<'py> {
        self.request.py()
    }

    fn code(&self) -> PyResult<Bound<'py, PyAny>> {
        self.request.getattr(intern!(self.py(), "code"))
    }

    /// Whether it has no body, whatever is written.
    fn is_bodyless(&self) -> PyResult<bool> {
        let code = self.code()?;
        let method = self.request.getattr(intern!(self.py(), "method"))?;
        Ok(code.eq(304)? || code.eq(204)? || method.eq(PyBytes::new(self.py(), b"HEAD"))?)
    }

    /// Sends the headers and `data`.
    fn write(&self, data: &Bound<'py, PyBytes>, part: Part) -> PyResult<bool> {
        let py = self.py();
        let Some(raw) = self.steps.headers(self.request, &self.own)? else { return Ok(false) };
        let Some(late) = self.late_headers(&raw)? else { return Ok(false) };
        let kind = match part {
            Part::First => None,
            Part::OfSite | Part::Whole => {
                let kind = self.request.getattr(intern!(py, "defaultContentType"))?;
                Some(kind).filter(|kind| !kind.is_none())
            }
        };
        if kind.as_ref().is_some_and(|kind| plain(kind).is_none()) {
            return Ok(false);
        }
        let (is_bodyless, length) = (self.is_bodyless()?, data.as_bytes().len());
        if part == Part::Whole {
            let mut digits = Vec::with_capacity(8);
            push_number(&mut digits, length, 10);
            set(&raw, once!(py, b"Content-Length"), &PyBytes::new(py, &digits))?;
        }
        if let Some(kind) = kind {
            self.set_type(&raw, &kind)?;
        }
        let is_chunked = !is_bodyless && self.is_chunked(&raw)?;
        if is_chunked {
            set(&raw, once!(py, b"Transfer-Encoding"), once!(py, b"chunked"))?;
            self.own.set_item(intern!(py, "chunked"), 1)?;
        }
        for (name, values) in late {
            raw.set_item(name, values)?;
        }
        self.own.set_item(intern!(py, "startedWriting"), 1)?;
        if is_bodyless {
            self.own.set_item(intern!(py, "write"), &self.steps.ignore)?;
            self.send(&raw, once!(py, b""), false)?;
        } else {
            self.own.set_item(intern!(py, "sentLength"), length)?;
            self.send(&raw, data, is_chunked)?;
        }
        Ok(true)
    }

    /// Sets the default type of a body, if there may be one.
    fn set_type(&self, raw: &Bound<'py, PyDict>, kind: &Bound<'py, PyAny>) -> PyResult<()> {
        let (py, code) = (self.py(), self.code()?);
        let name = once!(py, b"Content-Type");
        if raw.contains(name)? || code.eq(304)? || code.eq(204)? {
            return Ok(());
        }
        let lengths = raw.get_item(once!(py, b"Content-Length"))?;
        let is_empty = match lengths.filter(|lengths| lengths.is_truthy().unwrap_or(false)) {
            Some(lengths) => lengths.get_item(0)?.eq(once!(py, b"0"))?,
            None => false,
        };
        if is_empty { Ok(()) } else { raw.set_item(name, PyList::new(py, [kind])?) }
    }

    /// Whether the body is sent in chunks, since its length is unknown.
    fn is_chunked(&self, raw: &Bound<'py, PyDict>) -> PyResult<bool> {
        let version = self.request.getattr(intern!(self.py(), "clientproto"))?;
        let is_1_1 =
            version.cast::<PyBytes>().is_ok_and(|version| version.as_bytes() == b"HTTP/1.1");
        Ok(is_1_1 && !raw.contains(once!(self.py(), b"Content-Length"))?)
    }

    /// The headers that attributes of the request add. `None` if Twisted's code is to do so.
    fn late_headers(&self, raw: &Bound<'py, PyDict>) -> PyResult<Option<Late<'py>>> {
        let py = self.py();
        let mut late = Vec::new();
        let when = self.request.getattr(intern!(py, "lastModified"))?;
        if !when.is_none() {
            let name = once!(py, b"Last-Modified");
            if raw.contains(name)? {
                return Ok(None);
            }
            late.push((name, PyList::new(py, [self.steps.web.date_of.bind(py).call1((when,))?])?));
        }
        let tag = self.request.getattr(intern!(py, "etag"))?;
        if !tag.is_none() {
            late.push((once!(py, b"ETag"), PyList::new(py, [tag])?));
        }
        if let Some(cookies) = self.own.get_item(intern!(py, "cookies"))?
            && cookies.is_truthy()?
        {
            let cookies = cookies.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            late.push((once!(py, b"Set-Cookie"), PyList::new(py, cookies)?));
        }
        for (_, values) in &late {
            if values.iter().any(|value| plain(&value).is_none()) {
                return Ok(None);
            }
        }
        Ok(Some(late))
    }

    /// Sends the head and the beginning of the body.
    fn send(
        &self,
        raw: &Bound<'py, PyDict>,
        data: &Bound<'py, PyBytes>,
        is_chunked: bool,
    ) -> PyResult<()> {
        let py = self.py();
        let transport = self.channel.getattr(intern!(py, "transport"))?;
        if transport.is_none() {
            // A stream of HTTP/2.
            let answer = (self.code()?, raw, data);
            return self.channel.call_method1(intern!(py, "_couplet_answer"), answer).map(drop);
        }
        let mut text = Vec::with_capacity(512 + data.as_bytes().len().min(TOGETHER));
        self.push_head(&mut text, raw)?;
        let body = data.as_bytes();
        let is_chunked = is_chunked && !body.is_empty();
        if is_chunked {
            push_number(&mut text, body.len(), 16);
            text.extend_from_slice(b"\r\n");
        }
        let end: &[u8] = if is_chunked { b"\r\n" } else { b"" };
        if body.len() <= TOGETHER {
            text.extend_from_slice(body);
            text.extend_from_slice(end);
            transport.call_method1(intern!(py, "write"), (PyBytes::new(py, &text),))?;
        } else {
            let pieces = (PyBytes::new(py, &text), data, PyBytes::new(py, end));
            transport.call_method1(intern!(py, "writeSequence"), (pieces,))?;
        }
        Ok(())
    }

    /// Appends the status line and the headers.
    fn push_head(&self, text: &mut Vec<u8>, raw: &Bound<'py, PyDict>) -> PyResult<()> {
        let py = self.py();
        let version = self.request.getattr(intern!(py, "clientproto"))?;
        text.extend_from_slice(version.cast::<PyBytes>()?.as_bytes());
        text.push(b' ');
        let code = self.code()?;
        match code.extract::<u32>() {
            Ok(code) => push_number(text, code as usize, 10),
            Err(_) => {
                let code = PyBytes::new(py, b"%d").call_method1(intern!(py, "__mod__"), (code,))?;
                text.extend_from_slice(code.cast::<PyBytes>()?.as_bytes());
            }
        }
        text.push(b' ');
        let reason = self.request.getattr(intern!(py, "code_message"))?;
        text.extend_from_slice(reason.cast::<PyBytes>()?.as_bytes());
        text.extend_from_slice(b"\r\n");
        for (name, values) in raw.iter() {
            let name = name.cast::<PyBytes>()?;
            for value in values.try_iter()? {
                text.extend_from_slice(name.as_bytes());
                text.extend_from_slice(b": ");
                text.extend_from_slice(value?.cast::<PyBytes>()?.as_bytes());
                text.extend_from_slice(b"\r\n");
            }
        }
        text.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Ends the answer and its request.
    fn finish(&self) -> PyResult<bool> {
        let (py, request, own) = (self.py(), self.request, &self.own);
        for name in [intern!(py, "queued"), intern!(py, "producer")] {
            if request.getattr(name)?.is_truthy()? {
                return Ok(false);
            }
        }
        if !request.getattr(intern!(py, "startedWriting"))?.is_truthy()? {
            request.call_method1(intern!(py, "write"), (once!(py, b""),))?;
        }
        if request.getattr(intern!(py, "chunked"))?.is_truthy()? {
            self.channel.call_method1(intern!(py, "write"), (once!(py, b"0\r\n\r\n"),))?;
        }
        if let Some(factory) =
            self.channel.getattr_opt(intern!(py, "factory"))?.filter(|factory| !factory.is_none())
        {
            factory.call_method1(intern!(py, "log"), (request,))?;
        }
        own.set_item(intern!(py, "finished"), 1)?;
        let done = self.channel.getattr(intern!(py, "requestDone"))?;
        let is_ours = is_method(&done, &self.steps.web.request_done)?;
        if !(is_ours && Steps::done(&self.channel, request)?) {
            done.call1((request,))?;
        }
        request.delattr(intern!(py, "channel"))?;
        own.set_item(intern!(py, "_couplet_isEmpty"), false)?;
        if let Some(content) = take(own, intern!(py, "content"))?
            && let Err(error) = content.call_method0(intern!(py, "close"))
            && !error.is_instance_of::<PyOSError>(py)
        {
            return Err(error);
        }
        if let Some(waiting) = take(own, intern!(py, "notifications"))? {
            for finished in waiting.try_iter()? {
                finished?.call_method1(intern!(py, "callback"), (py.None(),))?;
            }
        }
        Ok(true)
    }
}

/// Names and values of headers.
type Late<'py> = Vec<(&'py Bound<'py, PyBytes>, Bound<'py, PyList>)>;

/// Whether an attribute of an object is a method of its class, made from a function.
fn is_method(attribute: &Bound<'_, PyAny>, function: &Py<PyAny>) -> PyResult<bool> {
    let made = attribute.getattr_opt(intern!(attribute.py(), "__func__"))?;
    Ok(made.is_some_and(|made| made.is(function)))
}

/// The attributes that a request has of its own.
fn own_of<'py>(request: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    Ok(request.getattr(intern!(request.py(), "__dict__"))?.cast_into()?)
}

/// Takes an attribute that an object has of its own.
fn take<'py>(
    own: &Bound<'py, PyDict>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let value = own.get_item(name)?;
    if value.is_some() {
        own.del_item(name)?;
    }
    Ok(value.filter(|value| !value.is_none()))
}

fn set<'py>(
    raw: &Bound<'py, PyDict>,
    name: &Bound<'py, PyBytes>,
    value: &Bound<'py, PyBytes>,
) -> PyResult<()> {
    raw.set_item(name, PyList::new(raw.py(), [value])?)
}
