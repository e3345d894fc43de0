//! Endpoints beyond TCP and UNIX: wrappers, inherited sockets, kinds that a program registers, and
//! the strings of Twisted. Contract row 145.

#[cfg(unix)]
mod inherited;
mod logs;
mod registered;
#[cfg(any(feature = "tls", feature = "ring"))]
mod secure;
mod strings;
mod udp;
mod wrappers;

use std::cell::RefCell;
use std::rc::Rc;

use couplet::endpoints::{ClientEndpoint, IntoEndpoint, ServerEndpoint};
use couplet::testing::MemoryReactor;
use couplet::{Protocol, Reason, Transport};

#[derive(Clone, Default)]
struct Echo(Rc<RefCell<Vec<Transport>>>);

impl Echo {
    fn transport(&self) -> Transport {
        self.0.borrow().last().cloned().expect("a connection was made")
    }

    fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

impl Protocol for Echo {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.borrow_mut().push(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Sends a greeting; the answer, or the reason for the loss, fires a Deferred.
struct Asking(Option<couplet::Resolver<Vec<u8>>>);

impl Protocol for Asking {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write("hello");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if let Some(answer) = self.0.take() {
            answer.callback(data.to_vec());
            transport.lose_connection();
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if let Some(answer) = self.0.take() {
            answer.errback(couplet::Failure::msg(reason.to_string()));
        }
    }
}

fn ask(
    l: &mut couplet::Loop,
    endpoint: impl IntoEndpoint<dyn ClientEndpoint>,
) -> couplet::Result<Vec<u8>> {
    let (answer, resolver) = couplet::Deferred::new();
    let connecting = l.reactor().connect_protocol(endpoint, Asking(Some(resolver)));
    l.run_until(connecting)?;
    l.run_until(answer)
}

/// A network with an echo on this endpoint.
fn echoing(endpoint: impl IntoEndpoint<dyn ServerEndpoint>) -> MemoryReactor {
    let memory = MemoryReactor::new();
    memory.reactor().listen(endpoint, Echo::default).unwrap();
    memory
}

/// One conversation through a port of this endpoint.
fn conversation(endpoint: impl IntoEndpoint<dyn ServerEndpoint>) {
    let mut memory = echoing(endpoint);
    let wire = memory.connect(7777);
    wire.push(b"hello\r\n");
    memory.settle();
    wire.fin();
    memory.settle();
    assert_eq!(wire.take(), b"hello\r\n");
}
