//! Counts the bytes of all clients' lines, under a lock. The fault: the lock is acquired before the
//! line is read, so a client that sends nothing stops all others.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet::defer::DeferredLock;
use couplet::{Reactor, Result, Stream};

use super::Version;

#[derive(Clone)]
struct Ledger {
    lock: DeferredLock,
    sum: Rc<Cell<usize>>,
}

impl Ledger {
    async fn add(&self, mut client: Stream, version: Version) -> Result<()> {
        let mut permit = None;
        if version == Version::Faulty {
            permit = Some(self.lock.acquire().await?);
        }
        let Some(line) = client.read_line().await? else { return Ok(()) };
        if version == Version::Mended {
            permit = Some(self.lock.acquire().await?);
        }
        let sum = self.sum.get() + line.len();
        self.sum.set(sum);
        drop(permit);
        Ok(client.write_all(format!("{sum}\n")).await?)
    }
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let ledger = Ledger { lock: DeferredLock::new(), sum: Rc::default() };
    let serve = async move |client| ledger.add(client, version).await;
    Ok(super::address(&reactor.serve(super::FREE, serve)?))
}
