//! Part 14, proxy 1: gets the poem from another server when it is first asked for, and keeps it.
//! So the answer is there at once, or comes later, and whoever asks has to tell the two apart: the
//! types say so. Twisted's `maybeDeferred` is the `match`.
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
            println!("the poem is here");
            return Poem::Now(poem.clone());
        }
        println!("the poem is fetched");
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
