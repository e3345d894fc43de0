//! `couplet echo`: sends back the bytes that it receives, no faster than the client reads.
//!
//! Contract: 71, 105f.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use couplet::transport::Timeout;
use couplet::{Answers, HandOver, ProducerKind, Protocol, ProtocolExtension, Transport, hooks};

use crate::datagrams::{self, ListenUdp, Local};
use crate::exit::Exit;
use crate::marks::{self, MARKS};
use crate::server::{Drain, DriverOption, Listen, Server, Threads, answers, listening};
use crate::values::seconds;

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
pub(crate) const MOVES_AS: &str = "couplet.echo";

/// Continues a connection from another process.
pub(crate) fn continued() -> impl Protocol {
    EchoServer::Moved
}

const EXAMPLE: &str = listening!(
    "  couplet echo --listen 7000
  couplet connect 7000
  couplet echo --listen 7000 --listen udp:7000   connections and datagrams

A client that reads slowly is read from slowly. Over UDP, with --listen udp:7000 or
udp:7000:interface=127.0.0.1, each datagram goes back to its sender: not to a port below 1024, which
belongs to a service, and to each peer --udp-rate times a second, so that two servers never answer
each other without end."
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Echo {
    /// Endpoint to listen on, udp:PORT for datagrams; may be repeated [default: a free port on
    /// 127.0.0.1]
    #[arg(
        short = 'l',
        long = "listen",
        value_name = "ENDPOINT",
        value_parser = datagrams::local,
        allow_negative_numbers = true
    )]
    endpoints: Vec<Local>,
    #[command(flatten)]
    drain: Drain,
    #[command(flatten)]
    threads: Threads,
    /// When to send the answers of one turn: each immediately, all together, or as the loop's
    /// measurements suggest
    #[arg(long, value_name = "WHEN", default_value = "measured", value_parser = answers())]
    answers: Answers,
    #[command(flatten)]
    driver: DriverOption,
    /// Close a connection that sends nothing for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    idle_timeout: Option<Duration>,
    /// Send each peer at most this many answers per second; 0 for no limit
    #[arg(long, value_name = "N", default_value = "1000", allow_negative_numbers = true)]
    udp_rate: u32,
}

pub(crate) fn run(options: Echo) -> Result<(), Exit> {
    let udp = options.endpoints.iter().filter_map(|local| match local {
        Local::Streams(_) => None,
        Local::Udp(listen) => Some(listen.address()),
    });
    let addresses: Vec<SocketAddr> = udp.collect();
    let udp = match addresses.is_empty() {
        true => None,
        false => Some(datagrams::echo_ports(addresses, options.threads, options.udp_rate)?),
    };
    server(options).with_udp(udp).run()
}

/// The server for connections and, in a configuration, for datagrams.
pub(crate) fn server(mut options: Echo) -> Server {
    let (idle_timeout, rate) = (options.idle_timeout, options.udp_rate);
    let udp = options.take_udp().into_iter();
    let datagrams = udp.map(|listen| datagrams::echo_part(listen, rate)).collect();
    let streams = options.endpoints.into_iter().filter_map(Local::into_streams);
    let listen = Listen {
        endpoints: streams.collect(),
        drain: options.drain,
        answers: options.answers,
        driver: options.driver,
    };
    let factory = move || move || EchoServer::New { idle_timeout };
    Server::of_factory(listen, options.threads, factory).with_datagrams(datagrams)
}

impl Echo {
    /// Removes the addresses for datagrams.
    fn take_udp(&mut self) -> Vec<ListenUdp> {
        let is_udp = |local: &mut Local| matches!(local, Local::Udp(_));
        self.endpoints.extract_if(.., is_udp).filter_map(Local::into_udp).collect()
    }
}

#[cfg(test)]
mod tests {
    use couplet::testing::hold;

    use super::*;
    use crate::held::read_late;
    use crate::marks::SLOW_READER;

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
