//! [`DatagramService`]: receives datagrams on a port. Twisted's `internet.UDPServer`.

use std::fmt;

use super::service::Service;
use crate::defer::Deferred;
use crate::{DatagramPort, DatagramProtocol, DatagramTransport, Reactor, Result};

/// Receives datagrams on a port while it is started. To stop, it reads no more, lets the protocol
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
/// let address = "127.0.0.1:0".parse()?;
/// let echo = DatagramService::opening("echo", move |reactor| Ok(reactor.listen_udp(address, echo)?))
///     .on_listening(|port| println!("listening on {}", port.host()));
/// # drop(echo);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub struct DatagramService {
    name: String,
    open: Open,
    on_listening: Option<OnListening>,
    finish: Option<Finish>,
    port: Option<DatagramTransport>,
}

type Open = Box<dyn Fn(&Reactor) -> Result<DatagramTransport>>;
type OnListening = Box<dyn FnMut(&DatagramTransport)>;
type Finish = Box<dyn FnMut(&DatagramTransport) -> Deferred<()>>;

impl DatagramService {
    /// A service that opens its port by this function, each time it starts.
    pub fn opening<P: DatagramProtocol>(
        name: impl Into<String>,
        open: impl Fn(&Reactor) -> Result<DatagramPort<P>> + 'static,
    ) -> Self {
        DatagramService {
            name: name.into(),
            open: Box::new(move |reactor| Ok(open(reactor)?.transport().clone())),
            on_listening: None,
            finish: None,
            port: None,
        }
    }

    /// Sets a closure that is called with the port each time it has been opened.
    #[must_use]
    pub fn on_listening(mut self, f: impl FnMut(&DatagramTransport) + 'static) -> Self {
        self.on_listening = Some(Box::new(f));
        self
    }

    /// Sets a closure that is called when the service stops. The port, which reads no more but can
    /// send, is closed when its Deferred fires.
    #[must_use]
    pub fn finish(mut self, f: impl FnMut(&DatagramTransport) -> Deferred<()> + 'static) -> Self {
        self.finish = Some(Box::new(f));
        self
    }
}

/// A port that closes if the start panics.
struct Opened(Option<DatagramTransport>);

impl Opened {
    fn keep(mut self) -> Option<DatagramTransport> {
        self.0.take()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(port) = self.0.take() {
            close(&port).detach();
        }
    }
}

fn close(port: &DatagramTransport) -> Deferred<()> {
    port.stop_listening().unwrap_or_else(|| Deferred::succeed(()))
}

impl Service for DatagramService {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        let port = match (self.open)(reactor) {
            Ok(port) => Opened(Some(port)),
            Err(failure) => return Deferred::fail(failure),
        };
        if let (Some(port), Some(on_listening)) = (&port.0, &mut self.on_listening) {
            on_listening(port);
        }
        self.port = port.keep();
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        let Some(port) = self.port.take() else { return Deferred::succeed(()) };
        port.set_reading(false);
        match &mut self.finish {
            // A failure or a cancellation ends the wait.
            Some(finish) => {
                finish(&port).recover(|_| Deferred::succeed(())).then(move |()| close(&port))
            }
            None => close(&port),
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
