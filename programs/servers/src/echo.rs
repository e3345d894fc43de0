//! An echo: sends back the bytes that it receives, no faster than the client reads.
//!
//! Contract: 71, 105f.

use std::sync::Arc;
use std::time::Duration;

use couplet::endpoints::ServerEndpoint;
use couplet::transport::Timeout;
use couplet::{
    HandOver, Port, ProducerKind, Protocol, ProtocolExtension, Reactor, Transport, hooks,
};
use couplet_command::marks::{self, MARKS};

/// Law 9: the most bytes buffered for a client that does not read. Reading pauses long before; the
/// cap leaves room for one more read.
const WRITE_CAP: usize = 1024 * 1024;

enum EchoServer {
    New {
        idle_timeout: Option<Duration>,
    },
    /// Another process has made the connection, and its settings.
    Moved,
}

impl Protocol for EchoServer {
    fn connection_made(&mut self, transport: &Transport) {
        if let EchoServer::New { idle_timeout } = *self {
            transport.set_write_cap(Some(WRITE_CAP));
            transport.set_write_marks(MARKS.0, MARKS.1);
            transport.set_timeout(Timeout::Idle, idle_timeout);
            marks::be_patient(transport);
        }
        hooks::keep(transport, self.hand_over());
        // Backpressure: a full write side pauses reading.
        let registered = transport.register_producer(transport.clone(), ProducerKind::Push);
        debug_assert!(registered.is_ok(), "a new connection has no producer");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if transport.is_draining() {
            return self.last_received(transport, data);
        }
        transport.write(data);
    }

    /// Echoes the bytes received so far, then closes. The first bytes of a new client are awaited.
    fn draining(&mut self, transport: &Transport) {
        if transport.has_received() {
            self.read_closed(transport);
        }
    }

    fn read_closed(&mut self, transport: &Transport) {
        transport.unregister_producer();
        transport.lose_connection();
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for EchoServer {
    fn hand_over(&mut self) -> Option<HandOver> {
        HandOver::new(MOVES_AS, [])
    }
}

impl EchoServer {
    #[cold]
    fn last_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
        self.read_closed(transport);
    }
}

/// The kind of a connection that moves to another process, without state.
pub const MOVES_AS: &str = "couplet.echo";

/// Opens a port that echoes. With an idle timeout, a connection that sends nothing for so long is
/// closed.
///
/// # Errors
///
/// As of [`Reactor::listen`].
pub fn listen(
    reactor: &Reactor,
    endpoint: Arc<dyn ServerEndpoint>,
    idle_timeout: Option<Duration>,
) -> couplet::Result<Port> {
    reactor.listen(endpoint, move || EchoServer::New { idle_timeout })
}

/// Continues a connection from another process.
pub fn continued() -> impl Protocol {
    EchoServer::Moved
}

#[cfg(test)]
mod tests {
    use couplet::testing::hold;
    use couplet_command::held::read_late;
    use couplet_command::marks::SLOW_READER;

    use super::*;

    #[test]
    fn a_client_that_has_finished_and_reads_late_is_not_cut() {
        let timeouts = [None, Some(Duration::from_secs(1))];
        let lengths = [10_000, 80_000, 130_000, 500_000];
        for (idle_timeout, length) in timeouts.into_iter().flat_map(|t| lengths.map(|n| (t, n))) {
            let mut held = hold(EchoServer::New { idle_timeout });
            let mut sent = 0;
            // Pushes until reading is paused.
            while sent < length {
                match held.wire.push(&b"x".repeat(length - sent)) {
                    0 => break,
                    n => sent += n,
                }
                held.settle();
            }
            held.wire.fin();
            assert_eq!(read_late(&mut held), sent);
        }
    }

    #[test]
    fn a_client_that_has_finished_and_never_reads_is_cut_in_the_end() {
        let mut held = hold(EchoServer::New { idle_timeout: None });
        // The rest that waits is too short to pause reading.
        while held.connection.transport().buffered() == 0 {
            held.push(&[7; 1000]);
        }
        held.wire.fin();
        held.advance(SLOW_READER - Duration::from_secs(1));
        assert!(!held.wire.saw_reset());
        held.advance(Duration::from_secs(1));
        assert!(held.wire.saw_reset());
    }
}
