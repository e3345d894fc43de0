//! [`Bridge`]: Couplet's protocol for a connection, which queues a call into Python for each event.

use std::cell::OnceCell;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use couplet::transport::Timeout;
use couplet::{Address, Protocol, ProtocolExtension, Reason, Transport, UnixAddress, hooks};
use couplet_os::tethered::Tethered;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::connection::{Accepted, Connection, report_protocol_error};
use crate::inspecting::protocol_name;
use crate::looping::LoopShared;
use crate::tls;

/// Deadline for closing a connection whose factory raised.
const CLOSE: Duration = Duration::from_secs(5);

pub(crate) struct Bridge {
    shared: Weak<LoopShared>,
    /// Makes the Python object of an accepted connection; taken for its one call.
    accepted: Option<Rc<Py<PyAny>>>,
    /// Empty until Python has made the object; for ever if the factory refuses the connection.
    connection: Rc<OnceCell<Py<Connection>>>,
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
        let connection = Rc::new(OnceCell::from(connection.clone().unbind()));
        Bridge { shared: Rc::downgrade(shared), accepted: None, connection }
    }

    /// The bridge of a connection that the loop accepts.
    pub(crate) fn accepted(shared: &Weak<LoopShared>, accepted: &Rc<Py<PyAny>>) -> Bridge {
        Bridge {
            shared: shared.clone(),
            accepted: Some(accepted.clone()),
            connection: Rc::default(),
        }
    }

    /// Queues a call on behalf of the connection. A refused one makes none.
    fn queue(&self, call: impl FnOnce(&Bound<'_, Connection>, &LoopShared) + 'static) {
        let Some(shared) = self.shared.upgrade() else { return };
        let connection = self.connection.clone();
        shared.queue(move |py, shared| {
            if let Some(connection) = connection.get() {
                shared.call_for(connection, py, || call(connection.bind(py), shared));
            }
        });
    }
}

/// Calls Python to make the object of an accepted connection.
fn make(
    py: Python<'_>,
    transport: &Transport,
    accepted: &Py<PyAny>,
    shared: &Rc<LoopShared>,
    connection: &Rc<OnceCell<Py<Connection>>>,
) -> PyResult<Option<Py<Connection>>> {
    let handle = Accepted {
        transport: Tethered::new(transport.clone()),
        shared: Tethered::new(shared.clone()),
        connection: Tethered::new(connection.clone()),
    };
    let peer = address(py, transport.peer())?;
    Ok(accepted.call1(py, (handle, peer))?.extract(py)?)
}

impl Protocol for Bridge {
    fn connection_made(&mut self, transport: &Transport) {
        let Some(shared) = self.shared.upgrade() else { return };
        transport.set_close_at_once(true);
        hooks::set_write_until_end(transport, true);
        transport.set_timeout(Timeout::Close, None);
        transport.set_timeout(Timeout::HalfClose, None);
        transport.set_timeout(Timeout::Write, None);
        if let Some(connection) = self.connection.get() {
            return Python::attach(|py| {
                Connection::attach(connection.bind(py), transport, &shared);
                if let Some(inspected) = &shared.inspected {
                    inspected.name_protocol(py, transport, connection);
                }
            });
        }
        let Some(accepted) = self.accepted.take() else { return };
        let (transport, connection) = (transport.clone(), self.connection.clone());
        shared.queue(move |py, shared| {
            match make(py, &transport, &accepted, shared, &connection) {
                Ok(Some(made)) => {
                    if let Some(inspected) = &shared.inspected {
                        inspected.name_protocol(py, &transport, &made);
                    }
                }
                Ok(None) => transport.lose_connection(),
                Err(error) => {
                    // The peer sees a clean end, even if unread input is pending.
                    transport.set_close_at_once(false);
                    transport.set_timeout(Timeout::Close, Some(CLOSE));
                    transport.set_timeout(Timeout::Fin, Some(CLOSE));
                    shared.report(py, error);
                    transport.lose_connection();
                }
            }
        });
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let data = Python::attach(|py| PyBytes::new(py, data).unbind());
        self.queue(move |connection, shared| {
            let py = connection.py();
            let Some(protocol) = connection.get().reader(py) else { return };
            let received = protocol.call_method1(py, intern!(py, "dataReceived"), (data,));
            if let Err(error) = received {
                report_protocol_error(connection, shared, error);
            }
        });
    }

    fn read_closed(&mut self, _: &Transport) {
        if let Some(connection) = self.connection.get() {
            Python::attach(|py| Connection::read_ended(connection.bind(py)));
        }
        self.queue(|connection, shared| {
            let py = connection.py();
            match connection.get().tls(py) {
                Some(tls) => shared.report_error(py, tls.call_method0(py, "_peerClosed")),
                None => tell(connection, shared, "_readClosed"),
            }
        });
    }

    fn write_closed(&mut self, _: &Transport) {
        self.queue(|connection, shared| {
            // As in Twisted, a close requested since takes its place.
            if !connection.get().is_disconnecting() {
                tell(connection, shared, "_closeWriteConnection");
            }
        });
    }

    /// Queues the call of Python's `_lost`, which is made after the turn.
    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some(this) = self.connection.get().map(Py::get) else { return };
        if this.is_lost() || (matches!(reason, Reason::Lost(_)) && this.holds_loss()) {
            return;
        }
        let why = match reason {
            _ if this.is_aborted() => "aborted",
            Reason::Done(_) => "done",
            Reason::Aborted => "aborted",
            _ => "lost",
        };
        let connection = self.connection.clone();
        let failure = tls::failure(reason);
        shared.ends.push(move |py, shared| {
            let Some(connection) = connection.get() else { return };
            shared.call_for(connection, py, || {
                if let Some((failure, tls)) = failure.zip(connection.get().tls(py)) {
                    shared.report_error(py, tls.call_method1(py, "_failed", failure));
                }
                shared.report_error(py, connection.call_method1(py, intern!(py, "_lost"), (why,)));
            });
        });
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Bridge {
    fn handshake_completed(&mut self, transport: &Transport) {
        // Without sessions, a server sends no tickets that would acknowledge the client's last message. A client
        // that holds a small segment back until then would wait for a delayed acknowledgement.
        #[cfg(target_os = "linux")]
        transport.with_socket(|socket| socket.set_tcp_quickack(true).or(Ok(())));
        #[cfg(not(target_os = "linux"))]
        let _ = transport;
        self.queue(|connection, shared| {
            let py = connection.py();
            let Some(tls) = connection.get().tls(py) else { return };
            if let Err(error) = tls.call_method0(py, intern!(py, "_opened")) {
                report_protocol_error(connection, shared, error);
            }
        });
    }

    fn descriptor_received(&mut self, _: &Transport, descriptor: OwnedFd) {
        self.queue(move |connection, shared| {
            let number = descriptor.into_raw_fd();
            let name = intern!(connection.py(), "_descriptorReceived");
            if let Err(error) = connection.call_method1(name, (number,)) {
                report_protocol_error(connection, shared, error);
            }
        });
    }

    fn type_name(&mut self) -> &'static str {
        let shared = self.shared.upgrade();
        let inspected = shared.as_ref().and_then(|shared| shared.inspected.as_ref());
        let named = inspected
            .and(self.connection.get())
            .and_then(|connection| Python::attach(|py| protocol_name(py, connection)));
        named.unwrap_or_else(std::any::type_name::<Bridge>)
    }
}

/// Calls a method of the connection, unless it is aborted.
fn tell(connection: &Bound<'_, Connection>, shared: &LoopShared, what: &'static str) {
    if !connection.get().is_aborted() {
        shared.report_error(connection.py(), connection.call_method0(what));
    }
}
