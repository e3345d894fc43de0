//! Requests of `twisted.web`: receives the requests of sites whose classes have all of Twisted's steps,
//! and sends the answers of all sites. Unusual cases are left to Twisted's code before anything has changed.

use std::sync::Mutex;

use pyo3::exceptions::PyOSError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyList, PyString};

use crate::channel::{Channel, Learned, attribute, is_set, own_of};
use crate::connection::{Connection, Piece};
use crate::locked;
use crate::raw_headers::{KeptHeaders, RawHeaders};
use crate::timers::time_of_day;
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
        connections: "_connections",
        date_of: "_dateOf",
        encodes: "_encodes",
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
        receive_other: "_receiveOther",
        render_other: "_renderOther",
        request_done: "requestDone",
        resource_render: "resourceRender",
        server: "version",
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

    /// The current time, as in a `Date` header.
    fn now<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let second = time_of_day().as_secs();
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
        channel: Bound<'py, PyAny>,
        data: Bound<'py, PyBytes>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.receive_on(&Channel::of(channel)?, data)
    }

    /// Whether a channel is at the beginning of a request, if its class reads as Twisted's.
    #[staticmethod]
    fn is_ready(channel: Bound<'_, PyAny>) -> PyResult<bool> {
        Channel::of(channel)?.is_ready()
    }

    /// Finds the resource for a request.
    fn resource<'py>(&self, request: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let site = request.getattr(intern!(request.py(), "site"))?;
        self.resource_of(&site, request)
    }

    /// Processes a request that was begun here.
    fn serve(&self, channel: Bound<'_, PyAny>, request: &Bound<'_, PyAny>) -> PyResult<()> {
        self.serve_own(&Channel::of(channel)?, request, own_of(request)?)
    }

    /// Answers a request by a resource.
    fn render(&self, request: &Bound<'_, PyAny>, resource: &Bound<'_, PyAny>) -> PyResult<()> {
        self.render_own(request, own_of(request)?, resource)
    }

    /// Begins a request of a class on a stream of HTTP/2. `None` if its path is unusual.
    fn begin_on<'py>(
        &self,
        stream: Bound<'py, PyAny>,
        class: &Bound<'py, PyAny>,
        method: Bound<'py, PyBytes>,
        target: &[u8],
        fields: Bound<'py, PyAny>,
        is_empty: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let version = once!(stream.py(), b"HTTP/2").clone();
        let line = Line { method, target, version, is_empty, closes: false };
        let made = self.make(&Channel::of(stream)?, class, line, fields)?;
        Ok(made.map(|(request, _)| request))
    }

    /// Sends the headers of an answer and the beginning of its body. Returns false, and has changed nothing, if
    /// Twisted's code is to do so.
    fn write(&self, request: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(answer) = Answer::of(self, request, own_of(request)?)? else { return Ok(false) };
        let Ok(data) = data.cast_exact::<PyBytes>() else { return Ok(false) };
        answer.write(data, Part::First)
    }

    /// [`write`](Self::write) for a site's request.
    fn write_of_site(&self, request: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(answer) = Answer::of(self, request, own_of(request)?)? else { return Ok(false) };
        let Ok(data) = data.cast_exact::<PyBytes>() else { return Ok(false) };
        let is_plain =
            !answer.is_encoded()? && !is_set(&answer.own, intern!(request.py(), "_inFakeHead"))?;
        Ok(is_plain && answer.write(data, Part::OfSite)?)
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
        raw.set(canonical.cast()?, value)?;
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
        let Some(answer) = Answer::at(self, request, own_of(request)?)? else { return Ok(false) };
        answer.finish()
    }

    /// Ends a request that a channel handled: the channel receives the next one. Returns false, and has changed
    /// nothing, if Twisted's code is to do so.
    fn done(&self, channel: Bound<'_, PyAny>, request: &Bound<'_, PyAny>) -> PyResult<bool> {
        Channel::of(channel)?.done(self, request)
    }
}

/// The `dataReceived` of a channel's wrapper, which has chosen HTTP/1.1.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Receiver {
    steps: Py<Steps>,
    channel: Py<PyAny>,
}

#[pymethods]
impl Receiver {
    #[new]
    fn new(steps: Py<Steps>, channel: Py<PyAny>) -> Receiver {
        Receiver { steps, channel }
    }

    fn __call__(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let channel = Channel::of(self.channel.bind(py).clone())?;
        let name = intern!(py, "dataReceived");
        let bytes = data.cast_exact::<PyBytes>();
        match bytes.ok().filter(|_| !channel.own.contains(name).unwrap_or(true)) {
            None => channel.object.call_method1(name, (data,)).map(drop),
            Some(data) => match self.steps.get().receive_on(&channel, data.clone())? {
                None => Ok(()),
                Some(rest) => {
                    let receive = self.steps.get().web.receive_other.bind(py);
                    receive.call1((&channel.object, rest)).map(drop)
                }
            },
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.channel)
    }
}

/// A request that was begun.
struct Begun<'py> {
    request: Bound<'py, PyAny>,
    /// The `__dict__` of the request.
    own: Bound<'py, PyDict>,
    /// The place of the data after the request, once all of it is there.
    end: Option<usize>,
}

impl Steps {
    /// [`receive`](Self::receive).
    fn receive_on<'py>(
        &self,
        channel: &Channel<'py>,
        mut data: Bound<'py, PyBytes>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let py = data.py();
        let busy = intern!(py, "_busyReceiving");
        while channel.is_ready()? {
            let learned = self.learned(channel)?;
            let Some(Begun { request, own, end }) = self.begin(channel, learned.get(), &data)?
            else {
                break;
            };
            let Some(end) = end else { return Ok(None) };
            channel.own.set_item(busy, true)?;
            let served = self.serve_own(channel, &request, own);
            channel.own.set_item(busy, false)?;
            served?;
            // Data that arrived while the request was served.
            let buffer = intern!(py, "_buffer");
            data = PyBytes::new(py, &data.as_bytes()[end..]);
            if let Some(later) = channel.own.get_item(buffer)?
                && later.is_truthy()?
            {
                channel.own.set_item(buffer, once!(py, b""))?;
                let later = later.cast::<PyBytes>()?;
                data = PyBytes::new(py, &[data.as_bytes(), later.as_bytes()].concat());
            }
            if data.as_bytes().is_empty() {
                return Ok(None);
            }
            let transport = channel.attribute(intern!(py, "transport"))?;
            if !transport.is_none()
                && transport.getattr(intern!(py, "disconnecting"))?.is_truthy()?
            {
                return Ok(None);
            }
        }
        Ok(Some(data))
    }

    /// How a channel makes requests.
    fn learned<'py>(&self, channel: &Channel<'py>) -> PyResult<Bound<'py, Learned>> {
        let py = channel.object.py();
        let factory = channel.attribute(intern!(py, "requestFactory"))?;
        let known = channel.own.get_item(intern!(py, "_couplet_learned"))?;
        match known.map(Bound::cast_into_exact::<Learned>) {
            Some(Ok(learned)) if learned.get().factory.is(&factory) => Ok(learned),
            _ => Ok(self.web.learn.bind(py).call1((&channel.object,))?.cast_into()?),
        }
    }

    /// Begins a request at the beginning of the data, and hands it to its channel. `None` if its head is not whole, or
    /// not plain, or another request is not finished.
    fn begin<'py>(
        &self,
        channel: &Channel<'py>,
        learned: &Learned,
        data: &Bound<'py, PyBytes>,
    ) -> PyResult<Option<Begun<'py>>> {
        let py = data.py();
        let Some(class) = &learned.class else { return Ok(None) };
        let requests = channel.attribute(intern!(py, "requests"))?;
        let Ok(requests) = requests.cast_into_exact::<PyList>() else { return Ok(None) };
        if !requests.is_empty() {
            return Ok(None);
        }
        let head = Head::parse(data.as_bytes(), learned.most_headers, learned.most_bytes);
        let Some(head) = head.filter(Head::is_plain) else { return Ok(None) };
        let length = head.body();
        if length >= LARGE_BODY
            || channel.own.contains(intern!(py, "checkPersistence"))?
            || length > 0 && learned.makes_files
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
        let made = self.make(channel, class.bind(py), line, fields.into_any())?;
        let Some((request, own)) = made else { return Ok(None) };
        let body = data.as_bytes().get(start..end);
        if let Some(body) = body.filter(|body| !body.is_empty()) {
            let content = self.web.file.bind(py).call1((PyBytes::new(py, body),))?;
            own.set_item(intern!(py, "content"), content)?;
        }
        if !stays {
            channel.object.setattr(intern!(py, "persistent"), false)?;
        }
        requests.append(&request)?;
        channel.own.set_item(intern!(py, "line_mode"), 0)?;
        if body.is_none() {
            let given = (&channel.object, &request, length, data, start);
            self.web.wait.bind(py).call1(given)?;
            return Ok(Some(Begun { request, own, end: None }));
        }
        channel.own.set_item(intern!(py, "_handlingRequest"), true)?;
        let is_timed = channel.attribute(intern!(py, "timeOut"))?.is_truthy()?;
        channel.own.set_item(intern!(py, "_couplet_isStarting"), is_timed)?;
        Ok(Some(Begun { request, own, end: Some(end) }))
    }

    /// Finds the resource of a site for a request.
    fn resource_of<'py>(
        &self,
        site: &Bound<'py, PyAny>,
        request: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = request.py();
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
        if self.encodes(&found)? {
            let encoder = found.call_method1(intern!(py, "getEncoder"), (request,))?;
            if !encoder.is_none() {
                request.setattr(intern!(py, "_encoder"), encoder)?;
            }
        }
        Ok(found)
    }

    /// The connection of a transport whose methods are Couplet's, so that they need no call of Python's.
    pub(crate) fn connection<'a, 'py>(
        &self,
        transport: &'a Bound<'py, PyAny>,
    ) -> PyResult<Option<&'a Bound<'py, Connection>>> {
        let py = transport.py();
        let Ok(connection) = transport.cast::<Connection>() else { return Ok(None) };
        if !self.web.connections.bind(py).get_item(transport.get_type())?.is_truthy()? {
            return Ok(None);
        }
        let own = own_of(transport)?;
        for name in
            [intern!(py, "write"), intern!(py, "writeSequence"), intern!(py, "resumeProducing")]
        {
            if own.contains(name)? {
                return Ok(None);
            }
        }
        Ok(Some(connection))
    }

    /// Whether a resource is one that encodes.
    fn encodes(&self, resource: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = resource.py();
        if !self.web.encodes.bind(py).get_item(resource.get_type())?.is_truthy()?
            && let Some(own) = resource.getattr_opt(intern!(py, "__dict__"))?
            && !own.contains(intern!(py, "__provides__"))?
        {
            return Ok(false);
        }
        let encoding = self.web.encoding.bind(py);
        encoding.call_method1(intern!(py, "providedBy"), (resource,))?.is_truthy()
    }

    /// [`serve`](Self::serve) for a request with this `__dict__`.
    fn serve_own<'py>(
        &self,
        channel: &Channel<'py>,
        request: &Bound<'py, PyAny>,
        own: Bound<'py, PyDict>,
    ) -> PyResult<()> {
        let py = request.py();
        let site = attribute(request, &own, intern!(py, "site"))?;
        let found = self.resource_of(&site, request);
        let served = match found.and_then(|found| self.render_own(request, own, &found)) {
            Ok(()) => Ok(()),
            Err(error) => self.web.failed.bind(py).call1((request, error.value(py))).map(drop),
        };
        // The idle timeout is stopped only for a request that is not finished at once.
        let is_starting = intern!(py, "_couplet_isStarting");
        if channel.is_set(is_starting)? {
            channel.own.set_item(is_starting, false)?;
            let saved = channel.object.call_method1(intern!(py, "setTimeout"), (py.None(),))?;
            channel.object.setattr(intern!(py, "_savedTimeOut"), saved)?;
        }
        served
    }

    /// [`render`](Self::render) for a request with this `__dict__`.
    fn render_own<'py>(
        &self,
        request: &Bound<'py, PyAny>,
        own: Bound<'py, PyDict>,
        resource: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let (py, web) = (request.py(), &self.web);
        match self.body(request, resource) {
            Ok(body) if body.is(&web.not_done) || self.answer(request, own, &body)? => Ok(()),
            Ok(body) => web.render_other.bind(py).call1((request, resource, body)).map(drop),
            Err(error) if error.is_instance(py, web.unsupported.bind(py)) => {
                let given = (request, resource, py.None(), error.value(py));
                web.render_other.bind(py).call1(given).map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// Answers a request with a body, and finishes it. Returns false, and has changed nothing, if Twisted's code is to
    /// do so.
    fn answer<'py>(
        &self,
        request: &Bound<'py, PyAny>,
        own: Bound<'py, PyDict>,
        body: &Bound<'py, PyAny>,
    ) -> PyResult<bool> {
        let Some(answer) = Answer::of(self, request, own)? else { return Ok(false) };
        let Ok(body) = body.cast_exact::<PyBytes>() else { return Ok(false) };
        if answer.is_encoded()? || !answer.write(body, Part::Whole)? {
            return Ok(false);
        }
        if !answer.finish()? {
            request.call_method0(intern!(request.py(), "finish"))?;
        }
        Ok(true)
    }

    /// The headers of an answer, unless they are of another class.
    fn headers<'py>(
        &self,
        request: &Bound<'py, PyAny>,
        own: &Bound<'py, PyDict>,
    ) -> PyResult<Option<RawHeaders<'py>>> {
        let py = request.py();
        let name = intern!(py, "responseHeaders");
        let headers = match own.get_item(name)? {
            Some(headers) => headers,
            None => {
                let kept = own.get_item(intern!(py, "_couplet_raw"))?;
                match kept.map(Bound::cast_into_exact::<KeptHeaders>) {
                    Some(Ok(kept)) => return Ok(Some(RawHeaders::Kept(kept))),
                    _ => request.getattr(name)?,
                }
            }
        };
        if !headers.get_type().is(&self.web.headers) {
            return Ok(None);
        }
        let raw = headers.getattr(intern!(py, "_rawHeaders"))?;
        Ok(raw.cast_into_exact().ok().map(RawHeaders::Dict))
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

    /// Makes a request of a class, and returns it with its attributes. `None` if its path is unusual.
    fn make<'py>(
        &self,
        channel: &Channel<'py>,
        class: &Bound<'py, PyAny>,
        line: Line<'_, 'py>,
        fields: Bound<'py, PyAny>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyDict>)>> {
        let py = class.py();
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
        own.set_item(intern!(py, "channel"), &channel.object)?;
        own.set_item(intern!(py, "_couplet_channel"), &channel.object)?;
        let queued = channel.attribute(intern!(py, "_couplet_queued"))?;
        own.set_item(intern!(py, "queued"), queued)?;
        let transport = intern!(py, "transport");
        own.set_item(transport, channel.attribute(transport)?)?;
        let site = channel.attribute(intern!(py, "site"))?;
        let parses = intern!(py, "_parsePOSTFormSubmission");
        own.set_item(parses, site.getattr(parses)?)?;
        own.set_item(intern!(py, "site"), site)?;
        let names = path.get(1..).unwrap_or_default().split(|byte| *byte == b'/');
        let names = PyList::new(py, names.map(|name| PyBytes::new(py, name)).collect::<Vec<_>>())?;
        own.set_item(intern!(py, "postpath"), names)?;
        own.set_item(intern!(py, "prepath"), PyList::empty(py))?;
        own.set_item(intern!(py, "sitepath"), PyList::empty(py))?;
        let closes = line.closes.then(|| (once!(py, b"Connection"), once!(py, b"close")));
        let server = (once!(py, b"Server"), self.web.server.bind(py).cast()?);
        let now = self.now(py)?;
        let date = (once!(py, b"Date"), &now);
        let kept = KeptHeaders::new(closes.into_iter().chain([server, date]));
        own.set_item(intern!(py, "_couplet_raw"), Bound::new(py, kept)?)?;
        let request = self.web.new.bind(py).call1((class,))?;
        request.setattr(intern!(py, "__dict__"), &own)?;
        Ok(Some((request, own)))
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
    channel: Channel<'py>,
}

impl<'a, 'py> Answer<'a, 'py> {
    fn at(
        steps: &'a Steps,
        request: &'a Bound<'py, PyAny>,
        own: Bound<'py, PyDict>,
    ) -> PyResult<Option<Self>> {
        let py = request.py();
        if is_set(&own, intern!(py, "finished"))? || is_set(&own, intern!(py, "_disconnected"))? {
            return Ok(None);
        }
        let channel = own.get_item(intern!(py, "channel"))?;
        // A channel without a dict is not Twisted's.
        let channel = channel.and_then(|channel| Channel::of(channel).ok());
        Ok(channel.map(|channel| Answer { steps, request, own, channel }))
    }

    /// An answer that has not begun.
    fn of(
        steps: &'a Steps,
        request: &'a Bound<'py, PyAny>,
        own: Bound<'py, PyDict>,
    ) -> PyResult<Option<Self>> {
        match is_set(&own, intern!(request.py(), "startedWriting"))? {
            true => Ok(None),
            false => Answer::at(steps, request, own),
        }
    }

    /// Whether an encoder is to get the body.
    fn is_encoded(&self) -> PyResult<bool> {
        let encoder = self.own.get_item(intern!(self.py(), "_encoder"))?;
        Ok(encoder.is_some_and(|encoder| !encoder.is_none()))
    }

    fn py(&self) -> Python<'py> {
        self.request.py()
    }

    /// An attribute of the request.
    fn attribute(&self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        attribute(self.request, &self.own, name)
    }

    /// The status, if it is a plain number.
    fn code(&self) -> PyResult<Option<u32>> {
        Ok(self.attribute(intern!(self.py(), "code"))?.extract().ok())
    }

    /// Whether the answer has no body, even if the program writes one.
    fn is_bodyless(&self, code: u32) -> PyResult<bool> {
        let method = self.attribute(intern!(self.py(), "method"))?;
        Ok(matches!(code, 204 | 304) || method.eq(once!(self.py(), b"HEAD"))?)
    }

    /// Sends the headers and `data`. Returns false, and has changed nothing, if Twisted's code is to do so.
    fn write(&self, data: &Bound<'py, PyBytes>, part: Part) -> PyResult<bool> {
        let py = self.py();
        let Some(code) = self.code()? else { return Ok(false) };
        let is_bodyless = self.is_bodyless(code)?;
        let cookies = self.cookies()?;
        if is_bodyless && part == Part::Whole {
            return Ok(false);
        }
        if let Some(cookies) = &cookies {
            if cookies.iter().any(|cookie| plain(&cookie).is_none()) {
                return Ok(false);
            }
            // A header with many values is in the dict.
            self.request.getattr(intern!(py, "responseHeaders"))?;
        }
        let Some(raw) = self.steps.headers(self.request, &self.own)? else { return Ok(false) };
        let Some(late) = self.late_headers(&raw)? else { return Ok(false) };
        let kind = match part {
            Part::First => None,
            Part::OfSite | Part::Whole => {
                let kind = self.attribute(intern!(py, "defaultContentType"))?;
                Some(kind).filter(|kind| !kind.is_none())
            }
        };
        let kind = match &kind {
            None => None,
            Some(kind) => match plain(kind) {
                None => return Ok(false),
                kind => kind,
            },
        };
        let length = data.as_bytes().len();
        if part == Part::Whole {
            let mut digits = Vec::with_capacity(8);
            push_number(&mut digits, length, 10);
            raw.set(once!(py, b"Content-Length"), &PyBytes::new(py, &digits))?;
        }
        if let Some(kind) = kind
            && !matches!(code, 204 | 304)
        {
            set_type(&raw, kind)?;
        }
        let is_chunked = !is_bodyless && self.is_chunked(&raw)?;
        if is_chunked {
            raw.set(once!(py, b"Transfer-Encoding"), once!(py, b"chunked"))?;
            self.own.set_item(intern!(py, "chunked"), 1)?;
        }
        for (name, value) in &late {
            raw.set(name, value)?;
        }
        if let (Some(cookies), RawHeaders::Dict(raw)) = (cookies, &raw) {
            raw.set_item(once!(py, b"Set-Cookie"), cookies)?;
        }
        self.own.set_item(intern!(py, "startedWriting"), 1)?;
        if is_bodyless {
            self.own.set_item(intern!(py, "write"), &self.steps.ignore)?;
            self.send(code, &raw, once!(py, b""), false)?;
        } else {
            self.own.set_item(intern!(py, "sentLength"), length)?;
            self.send(code, &raw, data, is_chunked)?;
        }
        Ok(true)
    }

    /// Whether the body is sent in chunks, since its length is unknown.
    fn is_chunked(&self, raw: &RawHeaders<'py>) -> PyResult<bool> {
        if raw.contains(once!(self.py(), b"Content-Length"))? {
            return Ok(false);
        }
        let version = self.attribute(intern!(self.py(), "clientproto"))?;
        Ok(version.cast::<PyBytes>().is_ok_and(|version| version.as_bytes() == b"HTTP/1.1"))
    }

    /// The cookies of the answer, if there are any.
    fn cookies(&self) -> PyResult<Option<Bound<'py, PyList>>> {
        match self.own.get_item(intern!(self.py(), "cookies"))? {
            Some(cookies) if cookies.is_truthy()? => {
                let cookies = cookies.try_iter()?.collect::<PyResult<Vec<_>>>()?;
                PyList::new(self.py(), cookies).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The headers that attributes of the request add. `None` if Twisted's code is to do so.
    fn late_headers(&self, raw: &RawHeaders<'py>) -> PyResult<Option<Late<'py>>> {
        let py = self.py();
        let mut late = Vec::new();
        let given = |name: &Bound<'py, PyString>| {
            PyResult::Ok(self.own.get_item(name)?.filter(|value| !value.is_none()))
        };
        if let Some(when) = given(intern!(py, "lastModified"))? {
            let name = once!(py, b"Last-Modified");
            if raw.contains(name)? {
                return Ok(None);
            }
            late.push((name, self.steps.web.date_of.bind(py).call1((when,))?));
        }
        if let Some(tag) = given(intern!(py, "etag"))? {
            late.push((once!(py, b"ETag"), tag));
        }
        let late = late.into_iter();
        Ok(late.map(|(name, value)| Some((name, plain(&value)?.clone()))).collect())
    }

    /// Sends the head and the beginning of the body.
    fn send(
        &self,
        code: u32,
        raw: &RawHeaders<'py>,
        data: &Bound<'py, PyBytes>,
        is_chunked: bool,
    ) -> PyResult<()> {
        let py = self.py();
        let transport = self.channel.attribute(intern!(py, "transport"))?;
        if transport.is_none() {
            // A stream of HTTP/2.
            let answer = (code, raw.dict(py)?, data);
            let name = intern!(py, "_couplet_answer");
            return self.channel.object.call_method1(name, answer).map(drop);
        }
        let mut text = Vec::with_capacity(512 + data.as_bytes().len().min(TOGETHER));
        self.push_head(&mut text, code, raw)?;
        let body = data.as_bytes();
        let is_chunked = is_chunked && !body.is_empty();
        if is_chunked {
            push_number(&mut text, body.len(), 16);
            text.extend_from_slice(b"\r\n");
        }
        let end: &[u8] = if is_chunked { b"\r\n" } else { b"" };
        let is_together = body.len() <= TOGETHER;
        if is_together {
            text.extend_from_slice(body);
            text.extend_from_slice(end);
        }
        match (self.steps.connection(&transport)?, is_together) {
            (Some(connection), true) => Connection::write_all(connection, &[Piece::Copied(text)]),
            (Some(connection), false) => {
                let data = Piece::Bytes(data.clone());
                let pieces = [Piece::Copied(text), data, Piece::Copied(end.to_vec())];
                Connection::write_all(connection, &pieces)
            }
            (None, true) => {
                let text = PyBytes::new(py, &text);
                transport.call_method1(intern!(py, "write"), (text,)).map(drop)
            }
            (None, false) => {
                let pieces = (PyBytes::new(py, &text), data, PyBytes::new(py, end));
                transport.call_method1(intern!(py, "writeSequence"), (pieces,)).map(drop)
            }
        }
    }

    /// Appends the status line and the headers.
    fn push_head(&self, text: &mut Vec<u8>, code: u32, raw: &RawHeaders<'py>) -> PyResult<()> {
        let py = self.py();
        let version = self.attribute(intern!(py, "clientproto"))?;
        text.extend_from_slice(version.cast::<PyBytes>()?.as_bytes());
        text.push(b' ');
        push_number(text, code as usize, 10);
        text.push(b' ');
        let reason = self.attribute(intern!(py, "code_message"))?;
        text.extend_from_slice(reason.cast::<PyBytes>()?.as_bytes());
        text.extend_from_slice(b"\r\n");
        raw.push_to(py, text)?;
        text.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Ends the answer and its request.
    fn finish(&self) -> PyResult<bool> {
        let (py, request, own) = (self.py(), self.request, &self.own);
        if self.attribute(intern!(py, "queued"))?.is_truthy()?
            || is_set(own, intern!(py, "producer"))?
        {
            return Ok(false);
        }
        if !is_set(own, intern!(py, "startedWriting"))? {
            request.call_method1(intern!(py, "write"), (once!(py, b""),))?;
        }
        if is_set(own, intern!(py, "chunked"))? {
            let end = (once!(py, b"0\r\n\r\n"),);
            self.channel.object.call_method1(intern!(py, "write"), end)?;
        }
        let name = intern!(py, "factory");
        let factory = match self.channel.own.get_item(name)? {
            None => self.channel.object.getattr_opt(name)?,
            factory => factory,
        };
        if let Some(factory) = factory.filter(|factory| !factory.is_none()) {
            factory.call_method1(intern!(py, "log"), (request,))?;
        }
        own.set_item(intern!(py, "finished"), 1)?;
        let done = self.channel.attribute(intern!(py, "requestDone"))?;
        let is_ours = is_method(&done, &self.steps.web.request_done)?;
        if !(is_ours && self.channel.done(self.steps, request)?) {
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
type Late<'py> = Vec<(&'py Bound<'py, PyBytes>, Bound<'py, PyBytes>)>;

/// Sets the default type of a body, if there may be one.
fn set_type<'py>(raw: &RawHeaders<'py>, kind: &Bound<'py, PyBytes>) -> PyResult<()> {
    let (py, name) = (kind.py(), once!(kind.py(), b"Content-Type"));
    let is_empty = match raw.first(once!(py, b"Content-Length"))? {
        Some(length) => length.eq(once!(py, b"0"))?,
        None => false,
    };
    if is_empty || raw.contains(name)? { Ok(()) } else { raw.set(name, kind) }
}

/// Whether an attribute of an object is a method of its class, made from a function.
fn is_method(attribute: &Bound<'_, PyAny>, function: &Py<PyAny>) -> PyResult<bool> {
    let made = attribute.getattr_opt(intern!(attribute.py(), "__func__"))?;
    Ok(made.is_some_and(|made| made.is(function)))
}

/// Takes an attribute out of an object's `__dict__`.
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
