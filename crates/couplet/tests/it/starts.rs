//! Listens and connects are begun by the turn, whoever asks for them and when.

use std::net::SocketAddr;

use couplet::testing::{Manner, Memory};
use couplet::{Address, Factory, Loop, LoopOptions, Protocol, Reactor, Transport};

struct Silent;

impl Protocol for Silent {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// Connects to somewhere else as soon as its port is served.
struct ConnectsAtStart {
    reactor: Reactor,
    to: u16,
}

impl Factory for ConnectsAtStart {
    type Protocol = Silent;

    fn do_start(&mut self) {
        let stopping = self.reactor.clone();
        self.reactor.connect_tcp("127.0.0.1", self.to, move || {
            stopping.stop();
            Silent
        });
    }

    fn build_protocol(&mut self, _: &Address) -> Option<Silent> {
        None
    }
}

/// The wait of the memory driver fails where nothing can ever happen: a loop that slept over the
/// connect would end with that error.
#[test]
fn a_connect_asked_for_while_a_port_is_started_is_begun() {
    let (driver, _network) = Memory::new(Manner::Readiness, 1);
    let mut l = Loop::with_driver(Box::new(driver), LoopOptions::default());
    let outcome = l.run(|reactor| {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let server = reactor.listen_tcp(any, || Silent)?;
        let to = server.host().port().expect("a TCP port has a number");
        reactor.listen_tcp(any, ConnectsAtStart { reactor: reactor.clone(), to })?;
        Ok(())
    });
    outcome.expect("the connect was begun and ended the run");
}
