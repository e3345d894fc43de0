//! [`Channel`]: the channels of `twisted.web`, Twisted's `HTTPChannel`, as the steps of requests use them. Their
//! attributes are read where they usually are, in the object's dict.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::connection::Connection;
use crate::request::Steps;
use crate::timers::DelayedCall;

/// A channel.
pub(crate) struct Channel<'py> {
    pub(crate) object: Bound<'py, PyAny>,
    /// The `__dict__` of the object.
    pub(crate) own: Bound<'py, PyDict>,
}

impl<'py> Channel<'py> {
    pub(crate) fn of(object: Bound<'py, PyAny>) -> PyResult<Channel<'py>> {
        let own = own_of(&object)?;
        Ok(Channel { object, own })
    }

    pub(crate) fn attribute(&self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        attribute(&self.object, &self.own, name)
    }

    pub(crate) fn is_set(&self, name: &Bound<'py, PyString>) -> PyResult<bool> {
        is_set(&self.own, name)
    }

    /// Whether it is at the beginning of a request, if its class reads as Twisted's.
    pub(crate) fn is_ready(&self) -> PyResult<bool> {
        let py = self.object.py();
        let first_line = self.own.get_item(intern!(py, "_HTTPChannel__first_line"))?;
        Ok(first_line.map_or(Ok(true), |first_line| first_line.eq(1))?
            && !self.is_set(intern!(py, "_busyReceiving"))?
            && !self.is_set(intern!(py, "_buffer"))?
            && !self.is_set(intern!(py, "paused"))?
            && self.attribute(intern!(py, "line_mode"))?.is_truthy()?
            && self.attribute(intern!(py, "persistent"))?.is_truthy()?)
    }

    /// [`Steps::done`].
    pub(crate) fn done(&self, steps: &Steps, request: &Bound<'py, PyAny>) -> PyResult<bool> {
        let (py, own) = (request.py(), &self.own);
        let requests = self.attribute(intern!(py, "requests"))?.cast_into_exact::<PyList>()?;
        let is_first = requests.get_item(0).is_ok_and(|first| first.is(request));
        if !is_first || !self.attribute(intern!(py, "persistent"))?.is_truthy()? {
            return Ok(false);
        }
        requests.del_item(0)?;
        if !self.attribute(intern!(py, "_waitingForTransport"))?.is_truthy()? {
            let producer = self.attribute(intern!(py, "_networkProducer"))?;
            match steps.connection(&producer)? {
                Some(connection) => Connection::resume_producing(connection)?,
                None => drop(producer.call_method0(intern!(py, "resumeProducing"))?),
            }
        }
        own.set_item(intern!(py, "_handlingRequest"), false)?;
        let is_starting = self.resume_timeout()?;
        let pieces = self.attribute(intern!(py, "_dataBuffer"))?;
        if !is_starting || pieces.is_truthy()? {
            let data = PyBytes::new(py, b"").call_method1(intern!(py, "join"), (pieces,))?;
            own.set_item(intern!(py, "_dataBuffer"), PyList::empty(py))?;
            self.object.call_method1(intern!(py, "setLineMode"), (data,))?;
        } else {
            own.set_item(intern!(py, "line_mode"), 1)?;
        }
        Ok(true)
    }

    /// Restarts the idle timeout. Returns true if the timeout was not stopped, because its request is
    /// finished at once.
    fn resume_timeout(&self) -> PyResult<bool> {
        let py = self.object.py();
        let is_starting = intern!(py, "_couplet_isStarting");
        if !self.is_set(is_starting)? {
            let saved = self.attribute(intern!(py, "_savedTimeOut"))?;
            if saved.is_truthy()? {
                self.object.call_method1(intern!(py, "setTimeout"), (saved,))?;
            }
            return Ok(false);
        }
        self.own.set_item(is_starting, false)?;
        let call = self.attribute(intern!(py, "_TimeoutMixin__timeoutCall"))?;
        let time = self.attribute(intern!(py, "timeOut"))?;
        if call.is_none() || time.is_none() {
            return Ok(true);
        }
        match call.cast_exact::<DelayedCall>() {
            Ok(call) => DelayedCall::reset(call, time.extract()?)?,
            Err(_) => drop(call.call_method1(intern!(py, "reset"), (time,))?),
        }
        Ok(true)
    }
}

/// How a channel makes requests: found at its first request, and when its factory is replaced.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Learned {
    pub(crate) factory: Py<PyAny>,
    /// The class of the requests, if it and the channel have all of Twisted's steps.
    pub(crate) class: Option<Py<PyAny>>,
    pub(crate) makes_files: bool,
    pub(crate) most_headers: usize,
    pub(crate) most_bytes: usize,
}

#[pymethods]
impl Learned {
    #[new]
    fn new(
        factory: Py<PyAny>,
        class: Option<Py<PyAny>>,
        makes_files: bool,
        most_headers: usize,
        most_bytes: usize,
    ) -> Learned {
        Learned { factory, class, makes_files, most_headers, most_bytes }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.factory)?;
        self.class.as_ref().map_or(Ok(()), |class| visit.call(class))
    }
}

/// An attribute of an object, perhaps from `own`, its `__dict__`.
pub(crate) fn attribute<'py>(
    object: &Bound<'py, PyAny>,
    own: &Bound<'py, PyDict>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    own.get_item(name)?.map_or_else(|| object.getattr(name), Ok)
}

/// Whether an attribute is true in the `__dict__` of an object; a missing one is false.
pub(crate) fn is_set(own: &Bound<'_, PyDict>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    own.get_item(name)?.map_or(Ok(false), |value| value.is_truthy())
}

/// The `__dict__` of an object.
pub(crate) fn own_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    Ok(object.getattr(intern!(object.py(), "__dict__"))?.cast_into()?)
}
