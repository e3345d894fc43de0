//! Clients wait for events by their names, which other clients announce. The fault: names are stored
//! as written, and looked up in lower case, so the resolver of `Door` stays in the map.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{Deferred, Reactor, Resolver, Result};

use super::Version;

type Waiting = Rc<RefCell<BTreeMap<String, Resolver<()>>>>;

struct Events {
    waiting: Waiting,
    version: Version,
}

impl LineProtocol for Events {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        match String::from_utf8_lossy(line).split_once(' ') {
            Some(("wait", name)) => self.wait(transport.clone(), name),
            Some(("announce", name)) => self.announce(name),
            _ => transport.send_line("usage: wait NAME, announce NAME"),
        }
    }
}

impl Events {
    fn wait(&self, client: LineTransport, name: &str) {
        let (announced, resolver) = Deferred::new();
        let key = match self.version {
            Version::Faulty => name.to_owned(),
            Version::Mended => name.to_lowercase(),
        };
        self.waiting.borrow_mut().insert(key, resolver);
        announced.map(move |()| client.send_line("it has happened")).detach();
    }

    fn announce(&self, name: &str) {
        let resolver = self.waiting.borrow_mut().remove(&name.to_lowercase());
        if let Some(resolver) = resolver {
            resolver.callback(());
        }
    }
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let waiting = Waiting::default();
    let events = move || LineReceiver::new(Events { waiting: waiting.clone(), version });
    Ok(super::address(&reactor.listen(super::FREE, events)?))
}
