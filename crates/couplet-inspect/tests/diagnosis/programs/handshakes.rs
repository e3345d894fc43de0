//! Sends each line back. The fault: its endpoint expects a load balancer that announces its clients,
//! and there the clients connect directly.

use std::net::SocketAddr;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{Reactor, Result};

use super::Version;

struct Echo;

impl LineProtocol for Echo {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        transport.send_line(line);
    }
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let endpoint = match version {
        Version::Faulty => "haproxy:tcp:0:interface=127.0.0.1",
        Version::Mended => "tcp:0:interface=127.0.0.1",
    };
    Ok(super::address(&reactor.listen(endpoint, || LineReceiver::new(Echo))?))
}
