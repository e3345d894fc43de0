//! [`DatagramService`]: receives datagrams on a port. Twisted's `internet.UDPServer`.
//!
//! Contract: 139k.

use std::fmt;

use super::opening::{Closes, Opening};
use super::service::Service;
use crate::defer::Deferred;
use crate::{DatagramPort, DatagramProtocol, DatagramTransport, Reactor, Result};

/// Receives datagrams on a port while it is started. A stop ends the reading, lets the protocol
/// [finish](Self::finish), and closes the port; cancelled, it closes the port immediately.
///
/// ```
/// use couplet::services::DatagramService;
/// use couplet::{Datagram, DatagramTransport};
///
/// fn echo(transport: &DatagramTransport, datagram: &Datagram<'_>) {
///     transport.answer(datagram, datagram.data).ok();
/// }
///
/// let address = "127.0.0.1:0".parse::<std::net::SocketAddr>()?;
/// let echo = DatagramService::opening("echo", move |reactor| Ok(reactor.listen_datagrams(address, echo)?))
///     .on_listening(|port| println!("listening on {}", port.host()));
/// # drop(echo);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub struct DatagramService {
    name: String,
    opening: Opening<DatagramTransport>,
    finish: Option<Finish>,
    port: Option<DatagramTransport>,
}

type Finish = Box<dyn FnMut(&DatagramTransport) -> Deferred<()>>;

impl DatagramService {
    /// A service that opens its port by this function, each time it starts.
    pub fn opening<P: DatagramProtocol>(
        name: impl Into<String>,
        open: impl Fn(&Reactor) -> Result<DatagramPort<P>> + 'static,
    ) -> Self {
        DatagramService {
            name: name.into(),
            opening: Opening::new(move |reactor| Ok(open(reactor)?.transport().clone())),
            finish: None,
            port: None,
        }
    }

    /// Sets a closure that is called with the port each time it has been opened.
    #[must_use]
    pub fn on_listening(mut self, f: impl FnMut(&DatagramTransport) + 'static) -> Self {
        self.opening.on_listening(f);
        self
    }

    /// Sets a closure that is called when the service stops. The port has stopped reading but can
    /// still send; it is closed when the closure's Deferred fires.
    #[must_use]
    pub fn finish(mut self, f: impl FnMut(&DatagramTransport) -> Deferred<()> + 'static) -> Self {
        self.finish = Some(Box::new(f));
        self
    }
}

impl Service for DatagramService {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        let opened = self.opening.open(reactor);
        Deferred::from_result(opened.map(|port| self.port = Some(port)))
    }

    fn stop(&mut self) -> Deferred<()> {
        let Some(port) = self.port.take() else { return Deferred::succeed(()) };
        port.set_reading(false);
        match &mut self.finish {
            // A failure or a cancellation ends the wait.
            Some(finish) => {
                finish(&port).recover(|_| Deferred::succeed(())).then(move |()| port.close())
            }
            None => port.close(),
        }
    }
}

impl fmt::Debug for DatagramService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramService")
            .field("name", &self.name)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
