//! Part 14, proxy 2: the poem is always a Deferred. If it is cached, the Deferred has already
//! fired, and the caller need not know.
//!
//! `cargo run --example servers -- proxy_2 tcp:10001 127.0.0.1:10000`

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{Bytes, Deferred, Protocol, Reactor, Transport};

use crate::download;

struct Service {
    reactor: Reactor,
    server: SocketAddr,
    kept: RefCell<Option<Bytes>>,
}

impl Service {
    fn poem(self: &Rc<Self>) -> Deferred<Bytes> {
        if let Some(poem) = &*self.kept.borrow() {
            println!("the poem is cached");
            return Deferred::succeed(poem.clone());
        }
        println!("fetching the poem");
        let service = self.clone();
        download::get_poem(&self.reactor, self.server).map(move |poem| {
            *service.kept.borrow_mut() = Some(poem.clone());
            poem
        })
    }
}

struct Proxy(Rc<Service>);

impl Protocol for Proxy {
    fn connection_made(&mut self, transport: &Transport) {
        let (writes, closes) = (transport.clone(), transport.clone());
        self.0
            .poem()
            .map(move |poem| writes.write_bytes(poem))
            .add_errback(|failure| {
                println!("no poem: {failure}");
                Ok(())
            })
            .map(move |()| closes.lose_connection())
            .detach();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

pub(crate) fn main(endpoint: &str, server: SocketAddr) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let kept = RefCell::default();
        let service = Rc::new(Service { reactor: reactor.clone(), server, kept });
        let port = reactor.listen(endpoint, move || Proxy(service.clone()))?;
        println!("poems of {} on {}", server, port.host());
        Ok(())
    })
}
