//! Part 5, client 2.0: the reactor waits, a factory builds a protocol for each connection, and each
//! protocol receives the pieces of its poem concurrently with the others.
//!
//! `cargo run --example clients -- v2_0 127.0.0.1:10000 127.0.0.1:10001`

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{Address, Connector, Factory, Protocol, Reason, Shared, Transport};

struct PoetryProtocol {
    task: usize,
    poem: Vec<u8>,
    poems: Poems,
}

impl Protocol for PoetryProtocol {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
        println!("task {}: a piece of {} from {}", self.task, data.len(), transport.peer());
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.poems.borrow_mut().push((self.task, self.poem.len()));
    }
}

/// The finished tasks and the lengths of their poems in bytes.
type Poems = Rc<RefCell<Vec<(usize, usize)>>>;

struct PoetryFactory {
    tasks: usize,
    /// The number of servers that have not finished.
    waiting: usize,
    poems: Poems,
}

impl Factory for PoetryFactory {
    type Protocol = PoetryProtocol;

    fn build_protocol(&mut self, _: &Address) -> Option<PoetryProtocol> {
        self.tasks += 1;
        Some(PoetryProtocol { task: self.tasks, poem: Vec::new(), poems: self.poems.clone() })
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        println!("no connection with {connector}: {reason}");
        self.client_connection_lost(connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, _: &Reason) {
        self.waiting -= 1;
        if self.waiting == 0 {
            connector.reactor().stop();
        }
    }
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    let poems = Poems::default();
    let factory = PoetryFactory { tasks: 0, waiting: servers.len(), poems: poems.clone() };
    couplet::run(|reactor| {
        let factory = Shared::new(factory); // one for all connections
        for server in &servers {
            reactor.connect(*server, factory.clone()).detach();
        }
        Ok(())
    })?;
    for (task, length) in poems.borrow().iter() {
        println!("task {task}: a poem of {length}");
    }
    println!("poems: {} of {}", poems.borrow().len(), servers.len());
    Ok(())
}
