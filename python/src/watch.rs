//! [`Watch`]: a Python descriptor, watched for the readers and writers of its reactor.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use couplet::{Interest, Ready};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::descriptor::Descriptor;
use crate::looping::system_error;
use crate::seat::{Seat, Seated};

/// A Python descriptor that the loop watches.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Watch {
    watch: Seated<couplet::Watch<BorrowedFd<'static>>>,
    /// Set immediately, in any thread: from then on the number may name another descriptor.
    is_stopped: Arc<AtomicBool>,
}

/// The interest that Python names `r`, `w` or `rw`.
fn interest(name: &str) -> PyResult<Interest> {
    match name {
        "r" => Ok(Interest::Readable),
        "w" => Ok(Interest::Writable),
        "rw" => Ok(Interest::Both),
        _ => Err(PyValueError::new_err("the interest is r, w or rw")),
    }
}

/// Python's name for a readiness.
fn name(ready: Ready) -> &'static str {
    match ready {
        Ready::Readable => "r",
        Ready::Writable => "w",
        Ready::Both => "rw",
    }
}

impl Watch {
    pub(crate) fn start(
        py: Python<'_>,
        seat: &Arc<Seat>,
        descriptor: &Descriptor,
        wanted: &str,
        ready: Py<PyAny>,
    ) -> PyResult<Watch> {
        let interest = interest(wanted)?;
        let source = descriptor.watched().map_err(system_error)?;
        let is_stopped = Arc::<AtomicBool>::default();
        let stopped = is_stopped.clone();
        let watch = Seated::make(py, seat, move |shared| {
            if stopped.load(Ordering::Acquire) {
                return Ok(None);
            }
            let (weak, ready) = (Rc::downgrade(shared), Rc::new(ready));
            let watch = shared.reactor.watch(source, interest, move |_, is| {
                let Some(shared) = weak.upgrade() else { return };
                let ready = ready.clone();
                shared.queue(move |py, shared| {
                    shared.report_error(py, ready.call1(py, (name(is),)));
                });
            });
            watch.map(Some).map_err(system_error)
        })?;
        Ok(Watch { watch, is_stopped })
    }
}

#[pymethods]
impl Watch {
    /// Changes the interest.
    fn set(&self, py: Python<'_>, wanted: &str) -> PyResult<()> {
        let interest = interest(wanted)?;
        let stopped = self.is_stopped.clone();
        self.watch.with(py, move |watch| {
            if stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            watch.set_interest(interest).map_err(system_error)
        })
    }

    /// Stops watching.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_stopped.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.watch.with(py, |watch| {
            watch.stop().detach();
            Ok(())
        })
    }
}
