//! Counts the bytes that a client sends, and answers when it has sent them all. The fault: it does not
//! close the connection after the answer.

use std::net::SocketAddr;

use couplet::{Protocol, Reactor, Result, Transport};

use super::Version;

struct Count {
    version: Version,
    bytes: usize,
}

impl Protocol for Count {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.bytes += data.len();
    }

    fn read_closed(&mut self, transport: &Transport) {
        transport.write(format!("{} bytes\n", self.bytes));
        if self.version == Version::Mended {
            transport.lose_connection();
        }
    }
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let count = move || Count { version, bytes: 0 };
    Ok(super::address(&reactor.listen(super::FREE, count)?))
}
