//! [`Opening`]: how a service opens its port, for connections or for datagrams.

use crate::defer::Deferred;
use crate::{DatagramTransport, Port, Reactor, Result};

/// Opens the port of a service each time it starts.
pub(super) struct Opening<P> {
    open: Box<Open<P>>,
    on_listening: Option<Box<OnListening<P>>>,
}

type Open<P> = dyn Fn(&Reactor) -> Result<P>;
type OnListening<P> = dyn FnMut(&P);

impl<P: Closes> Opening<P> {
    pub(super) fn new(open: impl Fn(&Reactor) -> Result<P> + 'static) -> Self {
        Opening { open: Box::new(open), on_listening: None }
    }

    /// Sets a closure that is called with the port each time it has been opened.
    pub(super) fn on_listening(&mut self, f: impl FnMut(&P) + 'static) {
        self.on_listening = Some(Box::new(f));
    }

    pub(super) fn open(&mut self, reactor: &Reactor) -> Result<P> {
        let mut opened = Opened(Some((self.open)(reactor)?));
        if let (Some(port), Some(on_listening)) = (&opened.0, &mut self.on_listening) {
            on_listening(port);
        }
        Ok(opened.0.take().expect("nothing has taken it"))
    }
}

/// A port that closes if the start panics.
struct Opened<P: Closes>(Option<P>);

impl<P: Closes> Drop for Opened<P> {
    fn drop(&mut self) {
        if let Some(port) = self.0.take() {
            port.close().detach();
        }
    }
}

/// A port of a service.
pub(super) trait Closes {
    /// The Deferred fires when the port is closed.
    fn close(&self) -> Deferred<()>;
}

impl Closes for Port {
    fn close(&self) -> Deferred<()> {
        self.stop_listening().unwrap_or_else(|| Deferred::succeed(()))
    }
}

impl Closes for DatagramTransport {
    fn close(&self) -> Deferred<()> {
        self.stop_listening().unwrap_or_else(|| Deferred::succeed(()))
    }
}
