//! [`Watch`]: a Python descriptor, watched for the readers and writers of its reactor.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use couplet::Interest;
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

fn interest(readable: bool, writable: bool) -> Interest {
    match (readable, writable) {
        (true, true) => Interest::Both,
        (false, true) => Interest::Writable,
        _ => Interest::Readable,
    }
}

impl Watch {
    pub(crate) fn start(
        py: Python<'_>,
        seat: &Arc<Seat>,
        descriptor: &Descriptor,
        (readable, writable): (bool, bool),
        ready: Py<PyAny>,
    ) -> PyResult<Watch> {
        let source = descriptor.watched().map_err(system_error)?;
        let is_stopped = Arc::<AtomicBool>::default();
        let stopped = is_stopped.clone();
        let watch = Seated::make(py, seat, move |shared| {
            if stopped.load(Ordering::Acquire) {
                return Ok(None);
            }
            let weak = Rc::downgrade(shared);
            let interest = interest(readable, writable);
            let watch = shared.reactor.watch(source, interest, move |_, is| {
                let Some(shared) = weak.upgrade() else { return };
                Python::attach(|py| {
                    shared.report_error(py, ready.call1(py, (is.readable, is.writable)));
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
    fn set(&self, py: Python<'_>, readable: bool, writable: bool) -> PyResult<()> {
        let stopped = self.is_stopped.clone();
        self.watch.with(py, move |watch| {
            if stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            watch.set_interest(interest(readable, writable)).map_err(system_error)
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
