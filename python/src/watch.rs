//! [`Watch`]: a descriptor of Python's, watched for its reactor's readers and writers.

use std::cell::Cell;
use std::rc::Rc;

use couplet::Interest;
use couplet_os::descriptor::Foreign;
use couplet_os::tethered::Tethered;
use pyo3::prelude::*;

use crate::looping::{Shared, system_error};

/// A descriptor of Python's that the loop watches.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Watch(Tethered<Inner>);

struct Inner {
    watch: couplet::Watch<Foreign>,
    is_stopped: Cell<bool>,
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
        shared: &Rc<Shared>,
        descriptor: i32,
        (readable, writable): (bool, bool),
        ready: Py<PyAny>,
    ) -> PyResult<Watch> {
        let source = Foreign::new(descriptor).map_err(system_error)?;
        let weak = Rc::downgrade(shared);
        let interest = interest(readable, writable);
        let watch = shared.reactor.watch(source, interest, move |_, is| {
            let Some(shared) = weak.upgrade() else { return };
            Python::attach(|py| {
                shared.heed(py, ready.call1(py, (is.readable, is.writable)));
            });
        });
        let watch = watch.map_err(system_error)?;
        Ok(Watch(Tethered::new(Inner { watch, is_stopped: Cell::new(false) })))
    }
}

#[pymethods]
impl Watch {
    /// Watches for something else from now on.
    fn set(&self, readable: bool, writable: bool) -> PyResult<()> {
        if let Some(inner) = self.0.get()
            && !inner.is_stopped.get()
        {
            inner.watch.set_interest(interest(readable, writable)).map_err(system_error)?;
        }
        Ok(())
    }

    /// Watches no more.
    fn stop(&self) {
        if let Some(inner) = self.0.get()
            && !inner.is_stopped.replace(true)
        {
            inner.watch.stop().detach();
        }
    }
}
