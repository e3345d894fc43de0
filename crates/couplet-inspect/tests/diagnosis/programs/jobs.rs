//! Answers each client from a database whose client is a program that blocks. The fault: each
//! question takes one of the ten threads of the pool, and other jobs wait for a thread.

use std::net::SocketAddr;
use std::process::Command;

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

/// A query that takes two seconds: waits for another program, in place of a real client.
fn ask() -> Result<()> {
    let ended = Command::new("sleep").arg("2").status()?;
    assert!(ended.success(), "cannot ask the database: {ended}");
    Ok(())
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let connections = DeferredSemaphore::new(8);
    let question = move || Question { version, connections: connections.clone() };
    Ok(super::address(&reactor.listen(super::FREE, question)?))
}
