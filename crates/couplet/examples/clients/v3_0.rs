//! Part 6, client 3.0: `get_poem` takes a callback, and is independent of the program's use of the
//! poem. A poem that never arrives goes unreported: then this client waits forever, until Ctrl-C.
//! (Client 3.1, with an errback, is `cargo run --example poetry_client`.)
//!
//! `cargo run --example clients -- v3_0 127.0.0.1:10000 127.0.0.1:10001`

use std::cell::RefCell;
use std::mem::take;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::{Address, Protocol, Reactor, Reason, Transport};

struct PoetryProtocol<F> {
    poem: Vec<u8>,
    callback: Option<F>,
}

impl<F: FnOnce(Vec<u8>) + 'static> Protocol for PoetryProtocol<F> {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        if let Some(callback) = self.callback.take() {
            callback(take(&mut self.poem));
        }
    }
}

/// Calls `callback` with the poem of `server` once it is complete.
fn get_poem(reactor: &Reactor, server: SocketAddr, callback: impl FnOnce(Vec<u8>) + 'static) {
    let mut callback = Some(callback);
    let factory =
        move |_: &Address| Some(PoetryProtocol { poem: Vec::new(), callback: callback.take() });
    reactor.connect(server, factory).detach();
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    let poems: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    couplet::run(|reactor| {
        let count = servers.len();
        for server in servers {
            let (poems, stopping) = (poems.clone(), reactor.clone());
            get_poem(reactor, server, move |poem| {
                poems.borrow_mut().push(poem);
                if poems.borrow().len() == count {
                    stopping.stop();
                }
            });
        }
        Ok(())
    })?;
    for poem in poems.borrow().iter() {
        print!("{}", String::from_utf8_lossy(poem));
    }
    Ok(())
}
