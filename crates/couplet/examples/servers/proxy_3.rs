//! Part 19, proxy 3: a client that hangs up before its poem arrives no longer wants it, so the
//! download is cancelled.
//!
//! `cargo run --example servers -- proxy_3 tcp:10001 127.0.0.1:10000`

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{Bytes, Deferred, Protocol, Reactor, Reason, Transport};

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

struct Proxy {
    service: Rc<Service>,
    answer: Option<Deferred<()>>,
}

impl Protocol for Proxy {
    fn connection_made(&mut self, transport: &Transport) {
        let (writes, closes) = (transport.clone(), transport.clone());
        let poem = self.service.poem();
        let answer = poem.map(move |poem| writes.write_bytes(poem));
        let answer = answer.add_errback(|failure| {
            println!("no poem: {failure}");
            Ok(())
        });
        self.answer = Some(answer.map(move |()| closes.lose_connection()));
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        if let Some(answer) = self.answer.take() {
            answer.cancel(); // does nothing if it has fired
        }
    }
}

pub(crate) fn main(endpoint: &str, server: SocketAddr) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let kept = RefCell::default();
        let service = Rc::new(Service { reactor: reactor.clone(), server, kept });
        let factory = move || Proxy { service: service.clone(), answer: None };
        let port = reactor.listen(endpoint, factory)?;
        println!("poems of {} on {}", server, port.host());
        Ok(())
    })
}
