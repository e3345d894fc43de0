//! Couplet as a server: the library's public API alone, as a user would write it. Everything of this
//! benchmark that names the library is in this file; but the echo that is measured is the program's
//! own, `couplet echo`, wherever it does what is asked.

use std::fmt::Display;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::{Factory, IntoFactory, ProducerKind, Protocol, Transport};

/// Closes each connection once its first message is echoed, which `couplet echo` does not.
struct EchoOne;

impl Protocol for EchoOne {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
        transport.lose_connection();
    }
}

/// Echoes lines, with what a server on the open net has.
struct EchoLines;

impl LineProtocol for EchoLines {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_write_cap(Some(1024 * 1024));
        transport.set_idle_timeout(Some(Duration::from_secs(180)));
        let producer = Transport::clone(transport);
        let registered = transport.register_producer(producer, ProducerKind::Push);
        assert!(registered.is_ok(), "a new connection has no producer");
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        transport.send_line(line);
    }
}

/// Echoes one message a connection until the process ends; `ready` gets the address.
pub(crate) fn serve_one(ready: impl FnOnce(&dyn Display)) -> couplet::Result<()> {
    serve(|| EchoOne, ready)
}

/// Echoes lines until the process ends; `ready` gets the address.
pub(crate) fn serve_lines(ready: impl FnOnce(&dyn Display)) -> couplet::Result<()> {
    serve(|| LineReceiver::new(EchoLines), ready)
}

fn serve<K, F: IntoFactory<K>>(factory: F, ready: impl FnOnce(&dyn Display)) -> couplet::Result<()>
where
    <F::Factory as Factory>::Protocol: Protocol,
{
    couplet::run(|reactor| {
        let any = "127.0.0.1:0".parse().expect("a literal address");
        let port = reactor.listen_tcp(any, factory)?;
        ready(&port.host());
        Ok(())
    })
}
