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
use couplet::testing::{MemoryReactor, Wire};
use couplet::{Protocol, Transport};

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

/// Connects, sends a greeting, and returns the answer.
fn ask(
    l: &mut couplet::Loop,
    endpoint: impl IntoEndpoint<dyn ClientEndpoint>,
) -> couplet::Result<Vec<u8>> {
    let connecting = l.reactor().connect_stream(endpoint);
    let mut stream = l.run_until(connecting)?;
    let asked = l.reactor().spawn(async move {
        let mut answer = vec![0; 5];
        stream.write_all("hello").await?;
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    });
    l.run_until(asked)
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
    converse(&mut memory, &wire);
    assert_eq!(wire.take(), b"hello\r\n");
}

/// The peer sends a line, and ends its stream.
fn converse(memory: &mut MemoryReactor, wire: &Wire) {
    wire.push(b"hello\r\n");
    memory.settle();
    wire.fin();
    memory.settle();
}
