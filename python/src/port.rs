//! [`Port`]: accepts connections for a Twisted port.

use std::rc::Rc;

use couplet_os::tethered::Tethered;
use pyo3::prelude::*;

use crate::bridge::Bridge;
use crate::looping::{Shared, system_error};

/// A listening socket that the loop accepts from.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Port(Tethered<couplet::Port>);

impl Port {
    pub(crate) fn listen(
        shared: &Rc<Shared>,
        descriptor: i32,
        accepted: Py<PyAny>,
    ) -> PyResult<Port> {
        let socket = couplet_os::descriptor::duplicate(descriptor).map_err(system_error)?;
        let (weak, accepted) = (Rc::downgrade(shared), Rc::new(accepted));
        let build = move || Bridge::accepted(&weak, &accepted);
        let port = shared.reactor.adopt_port(socket, build).map_err(system_error)?;
        Ok(Port(Tethered::new(port)))
    }
}

#[pymethods]
impl Port {
    fn pause(&self) {
        if let Some(port) = self.0.get() {
            port.pause_producing();
        }
    }

    fn resume(&self) {
        if let Some(port) = self.0.get() {
            port.resume_producing();
        }
    }

    fn close(&self) {
        if let Some(stopped) = self.0.get().and_then(couplet::Port::stop_listening) {
            stopped.detach();
        }
    }
}
