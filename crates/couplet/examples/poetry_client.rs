//! A poetry client with callback and errback: a protocol collects the poem, a factory handles
//! failures, and each calls one function. (Part 6 of the tutorial, client 3.1.)
//!
//! `cargo run --example poetry_client -- 127.0.0.1:10000 127.0.0.1:10001`

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{Address, Connector, Factory, Failure, Protocol, Reason, Transport};

fn got_poem(poem: &[u8]) {
    print!("{}", String::from_utf8_lossy(poem));
}

fn poem_failed(from: &Connector, reason: &Reason) {
    eprintln!("no poem from {from}: {reason}");
}

struct PoetryProtocol {
    poem: Vec<u8>,
}

impl Protocol for PoetryProtocol {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if reason.is_clean() {
            got_poem(&self.poem);
        }
    }
}

#[derive(Clone)]
struct PoetryFactory {
    /// The number of poems that have neither arrived nor failed.
    waiting: Rc<Cell<usize>>,
}

impl Factory for PoetryFactory {
    type Protocol = PoetryProtocol;

    fn build_protocol(&mut self, _: &Address) -> Option<PoetryProtocol> {
        Some(PoetryProtocol { poem: Vec::new() })
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        if !reason.is_clean() {
            poem_failed(connector, reason);
        }
        self.waiting.update(|waiting| waiting - 1);
        if self.waiting.get() == 0 {
            connector.reactor().stop();
        }
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.client_connection_failed(connector, reason);
    }
}

fn main() -> couplet::Result<()> {
    let servers: Vec<SocketAddr> =
        std::env::args().skip(1).map(|address| address.parse()).collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err(Failure::msg("which servers? give their addresses, such as 127.0.0.1:10000"));
    }
    couplet::run(|reactor| {
        let factory = PoetryFactory { waiting: Rc::new(Cell::new(servers.len())) };
        for server in &servers {
            reactor.connect(*server, factory.clone()).detach();
        }
        Ok(())
    })
}
