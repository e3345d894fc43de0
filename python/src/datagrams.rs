//! [`Datagrams`]: receives for a Twisted UDP port. Python sends.

use std::rc::Rc;
use std::sync::Arc;

use couplet::{Datagram, DatagramOptions, DatagramSocket, DatagramTransport};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::bridge::address;
use crate::descriptor::Descriptor;
use crate::looping::system_error;
use crate::seat::{Seat, Seated};

/// A UDP socket that the loop receives from.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Datagrams(Seated<DatagramTransport>);

impl Datagrams {
    pub(crate) fn receive(
        py: Python<'_>,
        seat: &Arc<Seat>,
        descriptor: &Descriptor,
        size: usize,
        received: Py<PyAny>,
    ) -> PyResult<Datagrams> {
        let socket = descriptor.duplicate().map_err(system_error)?;
        let socket = DatagramSocket::try_from(socket).map_err(system_error)?;
        let port = Seated::make(py, seat, move |shared| {
            let (weak, received) = (Rc::downgrade(shared), Rc::new(received));
            let call = move |_: &DatagramTransport, datagram: &Datagram<'_>| {
                let Some(shared) = weak.upgrade() else { return };
                let (received, from) = (received.clone(), datagram.from.clone());
                let data = Python::attach(|py| PyBytes::new(py, datagram.data).unbind());
                shared.queue(move |py, shared| {
                    let called = address(py, &from).and_then(|from| received.call1(py, (data, from)));
                    shared.report_error(py, called);
                });
            };
            let options = DatagramOptions::default().size(size);
            let port = shared.reactor.adopt_datagrams(socket, options, call);
            port.map(|port| Some(port.transport().clone())).map_err(system_error)
        })?;
        Ok(Datagrams(port))
    }
}

#[pymethods]
impl Datagrams {
    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port| {
            port.set_reading(false);
            Ok(())
        })
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |port| {
            port.set_reading(true);
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
