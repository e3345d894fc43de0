//! `couplet echo` over UDP: each datagram goes back to its sender.

use std::net::SocketAddr;

use couplet::{Datagram, DatagramTransport};

use crate::cli::Threads;
use crate::exit::Exit;

pub(crate) fn run(addresses: &[SocketAddr], threads: Threads) -> Result<(), Exit> {
    super::run(addresses, threads, || {
        |transport: &DatagramTransport, datagram: &Datagram<'_>| {
            // What there is no room for is counted as dropped.
            transport.answer(datagram, datagram.data).ok();
        }
    })
}
