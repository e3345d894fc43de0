//! `couplet echo` over UDP: each datagram goes back to its sender.

use std::net::SocketAddr;

use couplet::{Datagram, DatagramTransport, LoopOptions};

use super::listening;
use crate::cli::Threads;
use crate::exit::Exit;
use crate::{output, signalled_loop};

pub(crate) fn run(addresses: &[SocketAddr], threads: Threads) -> Result<(), Exit> {
    threads.refuse_for_datagrams()?;
    let l = signalled_loop(LoopOptions::default(), output::tell)?;
    let mut told = Ok(());
    l.run(|reactor| {
        let echo = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
            // What there is no room for is counted as dropped.
            transport.answer(datagram, datagram.data).ok();
        };
        let ports: Result<Vec<_>, _> =
            addresses.iter().map(|address| reactor.listen_udp(*address, echo)).collect();
        told = ports?.iter().try_for_each(|port| listening(port));
        if told.is_err() {
            reactor.stop();
        }
        Ok(())
    })?;
    told
}
