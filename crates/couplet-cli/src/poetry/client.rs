//! The client of one poem: a Deferred that gives the poem when it is whole.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use couplet::defer::Canceller;
use couplet::endpoints::ClientEndpoint;
use couplet::{ConnectionLost, Deferred, Protocol, Reactor, Reason, Resolver, Transport};

use crate::progress::Bar;

/// Collects one poem, and gives it out when it is whole.
struct PoetryClient {
    poem: Vec<u8>,
    max_bytes: u64,
    bar: Bar,
    order: Rc<Order>,
}

/// The poem is longer than we want it.
#[derive(Debug)]
struct TooLong(u64);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is longer than {} bytes (--max-bytes sets the limit)", self.0)
    }
}

impl std::error::Error for TooLong {}

/// The connection ended before the poem did.
#[derive(Debug)]
struct CutShort {
    bytes: usize,
    lost: ConnectionLost,
}

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it was cut after {} bytes: {}", self.bytes, self.lost)
    }
}

impl std::error::Error for CutShort {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.lost)
    }
}

impl Protocol for PoetryClient {
    fn connection_made(&mut self, transport: &Transport) {
        self.order.transport.replace(Some(transport.clone()));
        self.bar.connected();
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if (self.poem.len() + data.len()) as u64 > self.max_bytes {
            self.order.arrived(Err(TooLong(self.max_bytes).into()));
            return transport.abort_connection();
        }
        self.poem.extend_from_slice(data);
        self.bar.add(data.len(), transport.reactor().now());
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if reason.is_clean() {
            self.order.arrived(Ok(std::mem::take(&mut self.poem)));
        } else {
            let lost = ConnectionLost(reason.clone());
            self.order.arrived(Err(CutShort { bytes: self.poem.len(), lost }.into()));
        }
    }
}

/// Gets one poem. Cancelling it ends the attempt to connect, or the connection.
pub(crate) fn get_poem(
    reactor: &Reactor,
    from: ClientEndpoint,
    max_bytes: u64,
    bar: Bar,
) -> Deferred<Vec<u8>> {
    let order = Rc::new(Order::default());
    let cancelled = order.clone();
    let (poem, whole) = Deferred::with_canceller(move |_resolver| cancelled.cancel());
    order.whole.replace(Some(whole));
    let mut client = Some(PoetryClient { poem: Vec::new(), max_bytes, bar, order: order.clone() });
    let connecting = reactor.connect(from, move |_: &couplet::Address| client.take());
    order.connecting.replace(Some(connecting.canceller()));
    let connected = connecting.add_both(move |connection| {
        if let Err(failure) = connection {
            order.arrived(Err(failure));
        }
        Ok(())
    });
    connected.detach();
    poem
}

/// A poem that was asked for: who waits for it, and what brings it.
#[derive(Default)]
struct Order {
    whole: RefCell<Option<Resolver<Vec<u8>>>>,
    connecting: RefCell<Option<Canceller>>,
    transport: RefCell<Option<Transport>>,
}

impl Order {
    /// The poem, or why there is none; what comes first counts.
    fn arrived(&self, poem: couplet::Result<Vec<u8>>) {
        let whole = self.whole.borrow_mut().take();
        if let Some(whole) = whole {
            whole.resolve(poem);
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
