//! Part 5, client 2.1: as simple as a client with a protocol and a factory gets. Collects the
//! poems and prints them when the last server has finished.
//!
//! `cargo run --example clients -- v2_1 127.0.0.1:10000 127.0.0.1:10001`

use std::cell::RefCell;
use std::mem::take;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{Address, Connector, Factory, Protocol, Reason, Shared, Transport};

type Poems = Rc<RefCell<Vec<Vec<u8>>>>;

struct PoetryProtocol {
    poem: Vec<u8>,
    poems: Poems,
}

impl Protocol for PoetryProtocol {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.poems.borrow_mut().push(take(&mut self.poem));
    }
}

struct PoetryFactory {
    waiting: usize,
    poems: Poems,
}

impl Factory for PoetryFactory {
    type Protocol = PoetryProtocol;

    fn build_protocol(&mut self, _: &Address) -> Option<PoetryProtocol> {
        Some(PoetryProtocol { poem: Vec::new(), poems: self.poems.clone() })
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
    let factory = PoetryFactory { waiting: servers.len(), poems: poems.clone() };
    couplet::run(|reactor| {
        let factory = Shared::new(factory);
        for server in servers {
            reactor.connect(server, factory.clone()).detach();
        }
        Ok(())
    })?;
    for poem in poems.borrow().iter() {
        print!("{}", String::from_utf8_lossy(poem));
    }
    Ok(())
}
