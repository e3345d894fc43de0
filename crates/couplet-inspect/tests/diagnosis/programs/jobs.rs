//! Answers each client from a database whose library blocks. The fault: each question takes one of
//! the ten threads of the pool, and other jobs wait for a thread.

use std::net::SocketAddr;
use std::time::Duration;

use couplet::defer::DeferredSemaphore;
use couplet::{Deferred, Protocol, Reactor, Result, Transport};

use super::Version;

struct Question {
    version: Version,
    connections: DeferredSemaphore,
}

impl Protocol for Question {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        let (client, reactor) = (transport.clone(), transport.reactor().clone());
        let answer: Deferred<()> = match self.version {
            Version::Faulty => reactor.defer_to_thread(ask),
            Version::Mended => self.connections.run(move || reactor.defer_to_thread(ask)),
        };
        answer.map(move |()| client.write("42\n")).detach();
    }
}

/// A query that takes two seconds.
#[expect(clippy::disallowed_methods, reason = "the library of the database blocks")]
fn ask() -> Result<()> {
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let connections = DeferredSemaphore::new(8);
    let question = move || Question { version, connections: connections.clone() };
    Ok(super::address(&reactor.listen(super::FREE, question)?))
}
