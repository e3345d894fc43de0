//! Sends prices, 100 times a second. The fault: it does not notice that a client reads none.

use std::net::SocketAddr;
use std::time::Duration;

use couplet::{LoopingCall, Protocol, Reactor, Reason, Result, Transport};

use super::Version;

const PERIOD: Duration = Duration::from_millis(10);

struct Prices {
    version: Version,
    sending: Option<LoopingCall>,
}

impl Protocol for Prices {
    fn connection_made(&mut self, transport: &Transport) {
        let (client, version) = (transport.clone(), self.version);
        let sending = LoopingCall::new(transport.reactor(), move || {
            // Later prices replace those that a slow client has missed.
            if version == Version::Faulty || !client.is_full() {
                client.write(prices());
            }
        });
        sending.start(PERIOD).detach();
        self.sending = Some(sending);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        if let Some(sending) = self.sending.take() {
            sending.stop();
        }
    }
}

fn prices() -> Vec<u8> {
    "ACME 12.34\n".repeat(30_000).into_bytes()
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let prices = move || Prices { version, sending: None };
    Ok(super::address(&reactor.listen(super::FREE, prices)?))
}
