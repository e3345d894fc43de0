//! A poetry client in the style of callback and errback: a protocol collects the poem, a factory
//! hears of what went wrong, and both tell one function each.
//!
//! `cargo run --example poetry_client -- 127.0.0.1:10000 127.0.0.1:10001`

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{Address, Connector, Factory, Failure, Protocol, Reactor, Reason, Transport};

/// What the program does when a poem came, or did not.
struct Reader {
    reactor: Reactor,
    waiting: usize,
}

impl Reader {
    fn got_poem(&mut self, poem: &[u8]) {
        print!("{}", String::from_utf8_lossy(poem));
        self.one_less();
    }

    fn poem_failed(&mut self, from: &Connector, reason: &Reason) {
        eprintln!("no poem from {from}: {reason}");
        self.one_less();
    }

    fn one_less(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.reactor.stop();
        }
    }
}

struct PoetryProtocol {
    poem: Vec<u8>,
    reader: Rc<RefCell<Reader>>,
}

impl Protocol for PoetryProtocol {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if reason.is_clean() {
            self.reader.borrow_mut().got_poem(&self.poem);
        }
    }
}

struct PoetryFactory {
    reader: Rc<RefCell<Reader>>,
}

impl Factory for PoetryFactory {
    type Protocol = PoetryProtocol;

    fn build_protocol(&mut self, _: &Address) -> Option<PoetryProtocol> {
        Some(PoetryProtocol { poem: Vec::new(), reader: self.reader.clone() })
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.reader.borrow_mut().poem_failed(connector, reason);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        if !reason.is_clean() {
            self.reader.borrow_mut().poem_failed(connector, reason);
        }
    }
}

fn main() -> couplet::Result<()> {
    let servers: Vec<SocketAddr> =
        std::env::args().skip(1).map(|address| address.parse()).collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err(Failure::msg("which servers? give their addresses, as 127.0.0.1:10000"));
    }
    couplet::run(|reactor| {
        let waiting = servers.len();
        let reader = Reader { reactor: reactor.clone(), waiting };
        let reader = Rc::new(RefCell::new(reader));
        for server in &servers {
            let factory = PoetryFactory { reader: reader.clone() };
            reactor.connect_tcp(&server.ip().to_string(), server.port(), factory);
        }
        Ok(())
    })
}
