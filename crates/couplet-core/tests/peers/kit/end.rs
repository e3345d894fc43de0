//! Our ends of connections: their behaviour, and a record of their events.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use couplet::layers::tls::TlsInfo;
use couplet::{ConnectError, Failure, Protocol, ProtocolExtension, Reason, Transport};

/// A callback.
pub(crate) enum Event<'e> {
    Made,
    Data(&'e [u8]),
    Secure,
    ReadClosed,
    WriteClosed,
}

type Act = dyn Fn(&Transport, Event<'_>);

/// Sends everything back.
pub(crate) fn echo(transport: &Transport, event: Event<'_>) {
    match event {
        Event::Data(data) => transport.write(data),
        Event::ReadClosed => transport.lose_connection(),
        _ => {}
    }
}

/// Sends nothing.
pub(crate) fn quiet(transport: &Transport, event: Event<'_>) {
    if matches!(event, Event::ReadClosed) {
        transport.lose_connection();
    }
}

/// One of our connections.
#[derive(Clone)]
pub(crate) struct End(Rc<Seen>);

struct Seen {
    act: Rc<Act>,
    received: RefCell<Vec<u8>>,
    transport: RefCell<Option<Transport>>,
    tls: RefCell<Option<Rc<TlsInfo>>>,
    reason: RefCell<Option<Reason>>,
    read_closed: Cell<bool>,
}

impl End {
    pub(crate) fn is_made(&self) -> bool {
        self.0.transport.borrow().is_some()
    }

    pub(crate) fn transport(&self) -> Transport {
        self.0.transport.borrow().clone().expect("the connection was made")
    }

    /// The result of the handshake.
    pub(crate) fn tls(&self) -> Rc<TlsInfo> {
        self.0.tls.borrow().clone().expect("the connection is secure")
    }

    pub(crate) fn received(&self) -> Vec<u8> {
        self.0.received.borrow().clone()
    }

    pub(crate) fn has_received(&self, bytes: &[u8]) -> bool {
        *self.0.received.borrow() == bytes
    }

    pub(crate) fn is_read_closed(&self) -> bool {
        self.0.read_closed.get()
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.0.reason.borrow().is_some()
    }

    /// Why the connection ended or was not established.
    pub(crate) fn reason(&self) -> Reason {
        self.0.reason.borrow().clone().expect("the connection was lost")
    }

    pub(crate) fn not_connected(&self, failure: &Failure) {
        let Some(ConnectError::NotOpened(reason)) = failure.downcast_ref() else {
            panic!("not connected: {failure}");
        };
        *self.0.reason.borrow_mut() = Some(reason.clone());
    }

    fn note(&self, transport: &Transport, event: Event<'_>) {
        if let Some(tls) = transport.info::<TlsInfo>() {
            *self.0.tls.borrow_mut() = Some(tls);
        }
        (self.0.act)(transport, event);
    }
}

impl Protocol for End {
    fn connection_made(&mut self, transport: &Transport) {
        *self.0.transport.borrow_mut() = Some(transport.clone());
        self.note(transport, Event::Made);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.received.borrow_mut().extend_from_slice(data);
        self.note(transport, Event::Data(data));
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.0.read_closed.set(true);
        self.note(transport, Event::ReadClosed);
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.note(transport, Event::WriteClosed);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        *self.0.reason.borrow_mut() = Some(reason.clone());
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for End {
    fn handshake_completed(&mut self, transport: &Transport) {
        self.note(transport, Event::Secure);
    }
}

/// The connections of a port, in order. All behave alike.
#[derive(Clone)]
pub(crate) struct Ends {
    act: Rc<Act>,
    all: Rc<RefCell<Vec<End>>>,
}

impl Ends {
    pub(crate) fn new(act: impl Fn(&Transport, Event<'_>) + 'static) -> Ends {
        Ends { act: Rc::new(act), all: Rc::default() }
    }

    /// Creates an end for the next connection.
    pub(crate) fn next(&self) -> End {
        let end = End(Rc::new(Seen {
            act: self.act.clone(),
            received: RefCell::default(),
            transport: RefCell::default(),
            tls: RefCell::default(),
            reason: RefCell::default(),
            read_closed: Cell::new(false),
        }));
        self.all.borrow_mut().push(end.clone());
        end
    }

    pub(crate) fn factory(&self) -> impl Fn() -> End + 'static {
        let ends = self.clone();
        move || ends.next()
    }

    pub(crate) fn count(&self) -> usize {
        self.all.borrow().len()
    }

    /// The latest end.
    pub(crate) fn last(&self) -> End {
        self.all.borrow().last().cloned().expect("there was a connection")
    }

    /// True if `count` connections were established, and all of them have ended.
    pub(crate) fn have_ended(&self, count: usize) -> bool {
        self.count() == count && self.all.borrow().iter().all(End::is_lost)
    }
}
