//! [`Port`]: accepts connections for a Twisted port.

use std::rc::Rc;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::bridge::Bridge;
use crate::descriptor::Descriptor;
use crate::looping::system_error;
use crate::seat::{Seat, Seated};

/// A listening socket that the loop accepts from.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Port(Seated<couplet::Port>);

impl Port {
    pub(crate) fn listen(
        py: Python<'_>,
        seat: &Arc<Seat>,
        descriptor: Descriptor,
        accepted: Py<PyAny>,
    ) -> PyResult<Port> {
        let socket = descriptor.duplicate().map_err(system_error)?;
        let port = Seated::make(py, seat, move |shared| {
            let (weak, accepted) = (Rc::downgrade(shared), Rc::new(accepted));
            let build = move || Bridge::accepted(&weak, &accepted);
            shared.reactor.adopt_port(socket, build).map(Some).map_err(system_error)
        })?;
        Ok(Port(port))
    }
}

#[pymethods]
impl Port {
    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port| {
            port.pause_producing();
            Ok(())
        })
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port| {
            port.resume_producing();
            Ok(())
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port| {
            if let Some(stopped) = port.stop_listening() {
                stopped.detach();
            }
            Ok(())
        })
    }
}
