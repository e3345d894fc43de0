//! Part 14, proxy 1: gets the poem from another server on the first request, and caches it. So the
//! answer is available now or later, and the caller must distinguish the two, as the type makes
//! explicit. The `match` replaces Twisted's `maybeDeferred`.
//!
//! `cargo run --example servers -- proxy_1 tcp:10001 127.0.0.1:10000`

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

enum Poem {
    Now(Bytes),
    Later(Deferred<Bytes>),
}

impl Service {
    fn poem(self: &Rc<Self>) -> Poem {
        if let Some(poem) = &*self.kept.borrow() {
            println!("the poem is cached");
            return Poem::Now(poem.clone());
        }
        println!("fetching the poem");
        let service = self.clone();
        Poem::Later(download::get_poem(&self.reactor, self.server).map(move |poem| {
            *service.kept.borrow_mut() = Some(poem.clone());
            poem
        }))
    }
}

struct Proxy(Rc<Service>);

impl Protocol for Proxy {
    fn connection_made(&mut self, transport: &Transport) {
        let poem = match self.0.poem() {
            Poem::Now(poem) => Deferred::succeed(poem),
            Poem::Later(poem) => poem,
        };
        let (writes, closes) = (transport.clone(), transport.clone());
        poem.map(move |poem| writes.write_bytes(poem))
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
