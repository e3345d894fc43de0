//! [`Port`]: accepts connections for a Twisted port or an asyncio server.

use std::rc::{Rc, Weak};
use std::sync::Arc;

use couplet::Protocol;
use pyo3::prelude::*;

use crate::descriptor::Descriptor;
use crate::looping::{LoopShared, system_error};
use crate::seat::{Seat, Seated};

/// A listening socket that the loop accepts from.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Port(Seated<couplet::Port>);

impl Port {
    /// Accepts connections with a duplicate of the socket. `protocol` makes the protocol of each one,
    /// which passes it to `accepted`.
    pub(crate) fn listen<P: Protocol>(
        py: Python<'_>,
        seat: &Arc<Seat>,
        descriptor: Descriptor,
        accepted: Py<PyAny>,
        protocol: fn(&Weak<LoopShared>, &Rc<Py<PyAny>>) -> P,
    ) -> PyResult<Port> {
        let socket = descriptor.duplicate().map_err(system_error)?;
        let port = Seated::make(py, seat, move |shared| {
            let (weak, accepted) = (Rc::downgrade(shared), Rc::new(accepted));
            let owner = Rc::downgrade(&accepted);
            let build = move || protocol(&weak, &accepted);
            let port = shared.reactor.adopt_port(socket, build).map_err(system_error)?;
            if let Some(inspected) = &shared.inspected {
                inspected.add_port(&port, owner);
            }
            Ok(Some(port))
        })?;
        Ok(Port(port))
    }
}

#[pymethods]
impl Port {
    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port, _| {
            port.pause_producing();
            Ok(())
        })
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port, _| {
            port.resume_producing();
            Ok(())
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port, _| {
            if let Some(stopped) = port.stop_listening() {
                stopped.detach();
            }
            Ok(())
        })
    }
}
