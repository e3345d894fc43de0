//! Passes each question of a client to a backend, over a new connection. The fault: that connection
//! is not closed after the answer.

use std::net::SocketAddr;

use couplet::{Protocol, Reactor, Result, Transport};

use super::Version;

struct Front {
    backend: SocketAddr,
    version: Version,
}

impl Protocol for Front {
    fn data_received(&mut self, transport: &Transport, question: &[u8]) {
        let client = transport.clone();
        let question =
            Question { text: question.to_vec(), client: client.clone(), version: self.version };
        let backend = format!("tcp:{}", self.backend);
        let asked = transport.reactor().connect_protocol(backend, question).map(|_| ());
        asked
            .add_errback(move |_| {
                client.write("-");
                Ok(())
            })
            .detach();
    }
}

struct Question {
    text: Vec<u8>,
    client: Transport,
    version: Version,
}

impl Protocol for Question {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(&self.text);
    }

    fn data_received(&mut self, transport: &Transport, answer: &[u8]) {
        self.client.write(answer);
        if self.version == Version::Mended {
            transport.lose_connection();
        }
    }
}

pub(crate) fn start(
    reactor: &Reactor,
    backend: SocketAddr,
    version: Version,
) -> Result<SocketAddr> {
    let port = reactor.listen(super::FREE, move || Front { backend, version })?;
    Ok(super::address(&port))
}
