//! [`RawHeaders`]: the headers of an answer of `twisted.web`. Most programs never look at them: until one does, they
//! are kept without the dict and the lists of Twisted's `Headers`.

use std::sync::{Mutex, MutexGuard};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::locked;

/// The headers of an answer until a program looks at them: in order, each with its canonical name and one value.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct KeptHeaders(Mutex<Vec<(Py<PyBytes>, Py<PyBytes>)>>);

impl KeptHeaders {
    /// Headers with different names.
    pub(crate) fn new<'a, 'py: 'a>(
        headers: impl Iterator<Item = (&'a Bound<'py, PyBytes>, &'a Bound<'py, PyBytes>)>,
    ) -> KeptHeaders {
        let mut kept = Vec::with_capacity(6);
        kept.extend(headers.map(|(name, value)| (name.clone().unbind(), value.clone().unbind())));
        KeptHeaders(Mutex::new(kept))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Py<PyBytes>, Py<PyBytes>)>> {
        locked(&self.0)
    }
}

#[pymethods]
impl KeptHeaders {
    /// A dict of the values of each header, by its canonical name.
    fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let raw = PyDict::new(py);
        // The lock is released before objects are made, which may call any finalizer.
        let copy =
            |(name, value): &(Py<PyBytes>, Py<PyBytes>)| (name.clone_ref(py), value.clone_ref(py));
        let kept: Vec<_> = self.kept().iter().map(copy).collect();
        for (name, value) in kept {
            raw.set_item(name, PyList::new(py, [value])?)?;
        }
        Ok(raw)
    }
}

/// The headers of an answer.
pub(crate) enum RawHeaders<'py> {
    Kept(Bound<'py, KeptHeaders>),
    /// The dict of Twisted's `Headers`.
    Dict(Bound<'py, PyDict>),
}

impl<'py> RawHeaders<'py> {
    /// Whether a header is set. Names are canonical, here and below.
    pub(crate) fn contains(&self, name: &Bound<'py, PyBytes>) -> PyResult<bool> {
        match self {
            RawHeaders::Kept(headers) => {
                let (py, name) = (name.py(), name.as_bytes());
                Ok(headers.get().kept().iter().any(|(each, _)| each.as_bytes(py) == name))
            }
            RawHeaders::Dict(raw) => raw.contains(name),
        }
    }

    /// The first value of a header.
    pub(crate) fn first(&self, name: &Bound<'py, PyBytes>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self {
            RawHeaders::Kept(headers) => {
                let (py, name) = (name.py(), name.as_bytes());
                let kept = headers.get().kept();
                let found = kept.iter().find(|(each, _)| each.as_bytes(py) == name);
                Ok(found.map(|(_, value)| value.bind(py).clone().into_any()))
            }
            RawHeaders::Dict(raw) => match raw.get_item(name)? {
                Some(values) if values.is_truthy()? => values.get_item(0).map(Some),
                _ => Ok(None),
            },
        }
    }

    /// Sets a header, in place of its values so far.
    pub(crate) fn set(
        &self,
        name: &Bound<'py, PyBytes>,
        value: &Bound<'py, PyBytes>,
    ) -> PyResult<()> {
        let py = name.py();
        let headers = match self {
            RawHeaders::Kept(headers) => headers.get(),
            RawHeaders::Dict(raw) => return raw.set_item(name, PyList::new(py, [value])?),
        };
        let mut kept = headers.kept();
        let name_bytes = name.as_bytes();
        match kept.iter_mut().find(|(each, _)| each.as_bytes(py) == name_bytes) {
            Some((_, before)) => *before = value.clone().unbind(),
            None => kept.push((name.clone().unbind(), value.clone().unbind())),
        }
        Ok(())
    }

    /// The headers as a dict of the values of each.
    pub(crate) fn dict(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match self {
            RawHeaders::Kept(headers) => headers.get().raw(py),
            RawHeaders::Dict(raw) => Ok(raw.clone()),
        }
    }

    /// Appends the lines of the headers.
    pub(crate) fn push_to(&self, py: Python<'py>, text: &mut Vec<u8>) -> PyResult<()> {
        let mut push = |name: &[u8], value: &[u8]| {
            for part in [name, b": ", value, b"\r\n"] {
                text.extend_from_slice(part);
            }
        };
        match self {
            RawHeaders::Kept(headers) => {
                for (name, value) in headers.get().kept().iter() {
                    push(name.as_bytes(py), value.as_bytes(py));
                }
            }
            RawHeaders::Dict(raw) => {
                for (name, values) in raw.iter() {
                    let name = name.cast::<PyBytes>()?;
                    for value in values.try_iter()? {
                        push(name.as_bytes(), value?.cast::<PyBytes>()?.as_bytes());
                    }
                }
            }
        }
        Ok(())
    }
}
