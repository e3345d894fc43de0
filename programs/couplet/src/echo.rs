//! `couplet echo`: sends back the bytes that it receives, no faster than the client reads.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use couplet::{Answers, Reactor};
use couplet_servers::echo;

use crate::datagrams::{self, ListenUdp, Local};
use crate::exit::Exit;
use crate::server::{Drain, DriverOption, Listen, Server, Threads, answers, listening};
use crate::values::seconds;

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
    let open = move |reactor: &Reactor, endpoint| echo::listen(reactor, endpoint, idle_timeout);
    Server::new(listen, options.threads, move |_| open).with_datagrams(datagrams)
}

impl Echo {
    /// Removes the addresses for datagrams.
    fn take_udp(&mut self) -> Vec<ListenUdp> {
        let is_udp = |local: &mut Local| matches!(local, Local::Udp(_));
        self.endpoints.extract_if(.., is_udp).filter_map(Local::into_udp).collect()
    }
}
