//! [`Bridge`]: Couplet's protocol for a connection. It forwards each event to Python.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use couplet::{Address, Protocol, Reason, Transport, UnixAddress};
use couplet_os::tethered::Tethered;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::connection::{Accepted, Connection, report_protocol_error};
use crate::looping::LoopShared;

/// Deadline for closing a connection whose factory raised.
const CLOSE: Duration = Duration::from_secs(5);

pub(crate) struct Bridge {
    shared: Weak<LoopShared>,
    /// Makes the Python object of an accepted connection; called once.
    accepted: Option<Rc<Py<PyAny>>>,
    connection: Option<Py<Connection>>,
}

/// An address in the format of Python's sockets.
pub(crate) fn address<'py>(py: Python<'py>, address: &Address) -> PyResult<Bound<'py, PyAny>> {
    match address.unix() {
        None => {}
        Some(UnixAddress::Path(path)) => {
            return Ok(path.as_os_str().into_pyobject(py)?.into_any());
        }
        Some(UnixAddress::Abstract(name)) => {
            let name = [b"\0", &name[..]].concat();
            return Ok(PyBytes::new(py, &name).into_any());
        }
        Some(_) => {}
    }
    Ok(match address.socket_addr() {
        Some(std::net::SocketAddr::V4(v4)) => {
            (v4.ip().to_string(), v4.port()).into_pyobject(py)?.into_any()
        }
        Some(std::net::SocketAddr::V6(v6)) => {
            let parts = (v6.ip().to_string(), v6.port(), v6.flowinfo(), v6.scope_id());
            parts.into_pyobject(py)?.into_any()
        }
        None => "".into_pyobject(py)?.into_any(),
    })
}

impl Bridge {
    /// The bridge of a socket that Python connected.
    pub(crate) fn adopted(shared: &Rc<LoopShared>, connection: &Bound<'_, Connection>) -> Bridge {
        let connection = Some(connection.clone().unbind());
        Bridge { shared: Rc::downgrade(shared), accepted: None, connection }
    }

    /// The bridge of a connection that the loop accepts.
    pub(crate) fn accepted(shared: &Weak<LoopShared>, accepted: &Rc<Py<PyAny>>) -> Bridge {
        Bridge { shared: shared.clone(), accepted: Some(accepted.clone()), connection: None }
    }

    /// Calls Python to make the connection's object.
    fn make(
        &mut self,
        py: Python<'_>,
        transport: &Transport,
        shared: &Rc<LoopShared>,
    ) -> PyResult<()> {
        let Some(accepted) = self.accepted.take() else { return Ok(()) };
        let handle = Accepted {
            transport: Tethered::new(transport.clone()),
            shared: Tethered::new(shared.clone()),
        };
        let peer = address(py, transport.peer())?;
        let made = accepted.call1(py, (handle, peer))?;
        self.connection = made.extract(py)?;
        Ok(())
    }
}

impl Protocol for Bridge {
    fn connection_made(&mut self, transport: &Transport) {
        let Some(shared) = self.shared.upgrade() else { return };
        transport.set_close_at_once(true);
        transport.set_close_deadline(None);
        Python::attach(|py| {
            if let Some(connection) = &self.connection {
                let connection = connection.bind(py);
                return Connection::attach(connection, transport, &shared);
            }
            let made = self.make(py, transport, &shared);
            if made.is_err() {
                // The peer sees a clean end, even if unread input is pending.
                transport.set_close_at_once(false);
                transport.set_close_deadline(Some(CLOSE));
            }
            shared.report_error(py, made);
            if self.connection.is_none() {
                transport.lose_connection();
            }
        });
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let (Some(connection), Some(shared)) = (&self.connection, self.shared.upgrade()) else {
            return;
        };
        Python::attach(|py| {
            let Some(protocol) = connection.get().reader(py) else { return };
            let data = PyBytes::new(py, data);
            shared.call_for(connection, py, || {
                let received = protocol.call_method1(py, intern!(py, "dataReceived"), (data,));
                if let Err(error) = received {
                    report_protocol_error(connection.bind(py), &shared, error);
                }
            });
        });
    }

    fn descriptor_received(&mut self, _: &Transport, descriptor: OwnedFd) {
        let (Some(connection), Some(shared)) = (&self.connection, self.shared.upgrade()) else {
            return;
        };
        Python::attach(|py| {
            shared.call_for(connection, py, || {
                let number = descriptor.into_raw_fd();
                let name = intern!(py, "_descriptorReceived");
                if let Err(error) = connection.call_method1(py, name, (number,)) {
                    report_protocol_error(connection.bind(py), &shared, error);
                }
            });
        });
    }

    fn read_closed(&mut self, transport: &Transport) {
        if let Some(connection) = &self.connection {
            connection.get().read_ended();
        }
        self.tell(transport, "_readClosed");
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.tell(transport, "_closeWriteConnection");
    }

    /// Queues the call of Python's `_lost`, which is made after the turn.
    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(connection) = self.connection.take() else { return };
        let Some(shared) = self.shared.upgrade() else { return };
        let is_lost = connection.get().is_lost();
        if is_lost || (matches!(reason, Reason::Lost(_)) && connection.get().holds_loss()) {
            return;
        }
        let why = match reason {
            _ if connection.get().is_aborted() => "aborted",
            Reason::Done(_) => "done",
            Reason::Aborted => "aborted",
            _ => "lost",
        };
        shared.ends.push(move |py, shared| {
            shared.call_for(&connection, py, || {
                shared.report_error(py, connection.call_method1(py, intern!(py, "_lost"), (why,)));
            });
        });
    }
}

impl Bridge {
    fn tell(&self, transport: &Transport, what: &'static str) {
        let (Some(connection), Some(shared)) = (&self.connection, self.shared.upgrade()) else {
            return transport.lose_connection();
        };
        if connection.get().is_aborted() {
            return;
        }
        Python::attach(|py| {
            shared.call_for(connection, py, || {
                shared.report_error(py, connection.call_method0(py, what));
            });
        });
    }
}
