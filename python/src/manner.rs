//! How lines are framed: by attributes of the protocol, which it may change at any time.
//!
//! To look at four attributes costs more than to find a line. So a receiver's class has [`Watched`] in their
//! places, which tell when the instance sets its own value, and what was seen holds for the rest of a
//! chunk. A class may put anything else there, also later: then it is looked at before each line.

use pyo3::exceptions::{PyAttributeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::connection::with_bytes;
use crate::framing::{Framing, Subject, limit};

/// How a protocol takes bytes.
pub(crate) enum Manner {
    Paused,
    Raw,
    Lines { delimiter: Vec<u8>, limit: i64 },
}

/// What is known of a protocol without a look.
#[derive(Default)]
pub(crate) struct Known {
    /// How it takes bytes, until it sets a watched attribute.
    manner: Option<Manner>,
    /// All that the last look went by was watched.
    is_watched: bool,
    /// The last attribute that was looked at by way of [`Watched`].
    seen: Option<Attribute>,
    /// Of which watched attributes the protocol has a value of its own, in its `__dict__`.
    own: [bool; ALL.len()],
}

impl Known {
    pub(crate) fn take(&mut self) -> Option<Manner> {
        self.manner.take()
    }

    /// Keeps what the last look found, if a change would be told.
    pub(crate) fn keep(&mut self, manner: Manner) {
        self.manner = self.is_watched.then_some(manner);
    }

    /// Has the next message looked for: a class may have changed.
    pub(crate) fn forget(&mut self) {
        self.manner = None;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attribute {
    MaxLength,
    Delimiter,
    LineMode,
    Paused,
}

const ALL: [Attribute; 4] =
    [Attribute::MaxLength, Attribute::Delimiter, Attribute::LineMode, Attribute::Paused];

impl Attribute {
    fn name(self, py: Python<'_>) -> &Bound<'_, PyString> {
        match self {
            Attribute::MaxLength => intern!(py, "MAX_LENGTH"),
            Attribute::Delimiter => intern!(py, "delimiter"),
            Attribute::LineMode => intern!(py, "line_mode"),
            Attribute::Paused => intern!(py, "paused"),
        }
    }

    fn of<'py>(self, subject: Subject<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let value = subject.getattr(self.name(subject.py()))?;
        let mut held = subject.get().held();
        held.known.is_watched &= held.known.seen.take() == Some(self);
        Ok(value)
    }
}

/// Looks how a protocol takes bytes.
pub(crate) fn look(subject: Subject<'_, '_>) -> PyResult<Manner> {
    subject.get().held().known.is_watched = true;
    if Attribute::Paused.of(subject)?.is_truthy()? {
        return Ok(Manner::Paused);
    }
    if !Attribute::LineMode.of(subject)?.is_truthy()? {
        return Ok(Manner::Raw);
    }
    let delimiter = with_bytes(&Attribute::Delimiter.of(subject)?, <[u8]>::to_vec)?;
    Ok(Manner::Lines { delimiter, limit: limit(&Attribute::MaxLength.of(subject)?)? })
}

/// An attribute of a class of receivers that tells when an instance sets its own value.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Watched {
    attribute: Attribute,
    default: Py<PyAny>,
}

#[pymethods]
impl Watched {
    #[new]
    fn new(py: Python<'_>, name: &str, default: Py<PyAny>) -> PyResult<Watched> {
        for attribute in ALL {
            if *attribute.name(py) == *name {
                return Ok(Watched { attribute, default });
            }
        }
        Err(PyValueError::new_err("framing does not depend on this attribute"))
    }

    fn __get__<'py>(
        &self,
        py: Python<'py>,
        of: Option<&Bound<'py, Framing>>,
        _class: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(of) = of {
            let mut held = of.get().held();
            held.known.seen = Some(self.attribute);
            let is_own = held.known.own[self.attribute as usize];
            drop(held);
            if is_own {
                return self.dict(of)?.get_item(self.attribute.name(py));
            }
        }
        Ok(self.default.bind(py).clone())
    }

    fn __set__(&self, of: &Bound<'_, Framing>, value: Bound<'_, PyAny>) -> PyResult<()> {
        self.dict(of)?.set_item(self.attribute.name(of.py()), value)?;
        self.note(of, true);
        Ok(())
    }

    fn __delete__(&self, of: &Bound<'_, Framing>) -> PyResult<()> {
        let name = self.attribute.name(of.py());
        let unset = |_| PyAttributeError::new_err(name.clone().unbind());
        self.dict(of)?.del_item(name).map_err(unset)?;
        self.note(of, false);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.default)
    }
}

impl Watched {
    fn dict<'py>(&self, of: &Bound<'py, Framing>) -> PyResult<Bound<'py, PyAny>> {
        of.getattr(intern!(of.py(), "__dict__"))
    }

    fn note(&self, of: &Bound<'_, Framing>, is_own: bool) {
        let mut held = of.get().held();
        held.known.own[self.attribute as usize] = is_own;
        held.known.forget();
    }
}
