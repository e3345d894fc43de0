//! Stores uploads, part by part, and reads nothing while it stores. The fault: reading is resumed
//! by a callback, which a failure skips.

use std::net::SocketAddr;
use std::time::Duration;

use couplet::{Deferred, Failure, Protocol, Reactor, Result, Transport};

use super::Version;

struct Upload(Version);

impl Protocol for Upload {
    fn data_received(&mut self, transport: &Transport, part: &[u8]) {
        transport.pause_producing();
        let reading = transport.clone();
        let stored = store(transport.reactor(), part);
        let resumed = match self.0 {
            Version::Faulty => stored.map(move |()| reading.resume_producing()),
            Version::Mended => stored.add_both(move |result| {
                reading.resume_producing();
                result
            }),
        };
        // The part is lost; the client sends it again.
        resumed.add_errback(|_| Ok(())).detach();
    }
}

/// Stores a part. The disk is full for those that begin with `!`.
fn store(reactor: &Reactor, part: &[u8]) -> Deferred<()> {
    let result = match part {
        [b'!', ..] => Err(Failure::msg("cannot write the part: the disk is full")),
        _ => Ok(()),
    };
    reactor.sleep(Duration::from_millis(1)).add_callback(|()| result)
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    Ok(super::address(&reactor.listen(super::FREE, move || Upload(version))?))
}
