//! A request to a server, as a Deferred that the connection's protocol fires.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use couplet::defer::Canceller;
use couplet::endpoints::ClientEndpoint;
use couplet::{ConnectionLost, Deferred, Protocol, Reactor, Resolver, Transport};

/// The pending Deferred, and the connection that will fire it.
pub(crate) struct Order<T> {
    waiting: RefCell<Option<Resolver<T>>>,
    connecting: RefCell<Option<Canceller>>,
    transport: RefCell<Option<Transport>>,
}

/// Connects; the Deferred resolves to the value that the protocol built by `client` delivers.
/// Cancelling it ends the connect or the connection.
pub(crate) fn order<T: 'static, P: Protocol>(
    reactor: &Reactor,
    from: Arc<dyn ClientEndpoint>,
    client: impl FnOnce(Rc<Order<T>>) -> P,
) -> Deferred<T> {
    let order = Rc::new(Order {
        waiting: RefCell::default(),
        connecting: RefCell::default(),
        transport: RefCell::default(),
    });
    let cancelled = order.clone();
    let (ordered, resolver) = Deferred::with_canceller(move |_resolver| cancelled.cancel());
    order.waiting.replace(Some(resolver));
    let mut client = Some(client(order.clone()));
    let connecting = reactor.connect(from, move |_: &couplet::Address| client.take());
    order.connecting.replace(Some(connecting.canceller()));
    let connected = connecting.add_both(move |connection| {
        if let Err(failure) = connection {
            order.resolve(Err(failure));
        }
        Ok(())
    });
    connected.detach();
    ordered
}

impl<T: 'static> Order<T> {
    /// Records the connection, so that a cancel can close it.
    pub(crate) fn set_transport(&self, transport: &Transport) {
        self.transport.replace(Some(transport.clone()));
    }

    /// Fires the Deferred with a result or a failure; later calls do nothing.
    pub(crate) fn resolve(&self, what: couplet::Result<T>) {
        let waiting = self.waiting.borrow_mut().take();
        if let Some(waiting) = waiting {
            waiting.resolve(what);
        }
    }

    /// Takes the client's result so far, `None` while it is incomplete. A complete result, or a
    /// failure, fires the Deferred and ends the connection.
    pub(crate) fn settle(&self, transport: &Transport, what: couplet::Result<Option<T>>) {
        match what {
            Ok(None) => {}
            Ok(Some(whole)) => {
                self.resolve(Ok(whole));
                transport.lose_connection();
            }
            Err(failure) => {
                self.resolve(Err(failure));
                transport.abort_connection();
            }
        }
    }

    fn cancel(&self) {
        if let Some(connecting) = self.connecting.take() {
            connecting.cancel();
        }
        if let Some(transport) = self.transport.take() {
            transport.abort_connection();
        }
    }
}

/// The poem is longer than the limit.
#[derive(Debug)]
pub(crate) struct TooLong(pub(crate) u64);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is longer than {} bytes (--max-bytes sets the limit)", self.0)
    }
}

impl std::error::Error for TooLong {}

/// The connection ended before the poem did.
#[derive(Debug)]
pub(crate) struct CutShort {
    pub(crate) bytes: u64,
    /// The poem's length, if the server announced it.
    pub(crate) of: Option<u64>,
    pub(crate) lost: ConnectionLost,
}

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, lost) = (self.bytes, &self.lost);
        match self.of {
            Some(of) => write!(f, "it was cut short after {bytes} of {of} bytes: {lost}"),
            None => write!(f, "it was cut short after {bytes} bytes: {lost}"),
        }
    }
}

impl std::error::Error for CutShort {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.lost)
    }
}
