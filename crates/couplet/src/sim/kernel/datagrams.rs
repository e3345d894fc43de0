//! Datagrams, and how the network loses, duplicates, reorders and truncates them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::hosts::NO_DESCRIPTORS;
use super::{Happening, Kernel};
use crate::sim::faults::{Fault, Link};
use crate::sim::random::{Purpose, Stream};

/// Datagrams that a socket queues; further ones are dropped, as a real system does.
const HELD: usize = 256;

const LOOPBACK: Link = Link::constant(Duration::ZERO);

/// A datagram in flight or queued at a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Datagram {
    pub(in crate::sim) from: SocketAddr,
    pub(in crate::sim) to: SocketAddr,
    pub(in crate::sim) bytes: Vec<u8>,
}

#[derive(Default)]
pub(in crate::sim) struct Socket {
    held: VecDeque<Datagram>,
    /// For each host, how many it has sent there and when the last one arrives: they arrive in
    /// order unless the link reorders them.
    sent_to: BTreeMap<u32, (u64, u64)>,
}

impl Kernel {
    pub(in crate::sim) fn open_socket(&mut self, host: u32, port: u16) -> io::Result<SocketAddr> {
        if !self.has_descriptors(host) {
            return Err(io::Error::from_raw_os_error(NO_DESCRIPTORS));
        }
        let port = if port == 0 { self.free_port(host) } else { port };
        let state = self.host(host);
        let address = SocketAddr::new(state.v4.into(), port);
        if state.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.sockets.insert(address, Socket::default());
        Ok(address)
    }

    /// Closes a socket opened in this boot of the host; does nothing after a restart.
    pub(in crate::sim) fn close_socket(&mut self, host: u32, boot: u32, address: SocketAddr) {
        if self.host(host).boot == boot {
            self.host(host).sockets.remove(&address);
        }
    }

    pub(in crate::sim) fn take_datagram(
        &mut self,
        host: u32,
        address: SocketAddr,
    ) -> Option<Datagram> {
        self.host(host).sockets.get_mut(&address)?.held.pop_front()
    }

    /// Sends a datagram, which may arrive once, twice, truncated, late or not at all.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the socket is closed, or gone with its host.
    pub(in crate::sim) fn send_datagram(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let host = *self.by_address.get(&from.ip()).ok_or_else(gone)?;
        let target = self.host_of(host, to);
        let socket = self.host(host).sockets.get_mut(&from).ok_or_else(gone)?;
        let Some(target) = target else {
            return Ok(());
        };
        let sent = socket.sent_to.entry(target).or_default();
        sent.0 += 1;
        let (ordinal, last) = *sent;
        let key = [u64::from(host), u64::from(from.port()), u64::from(target), ordinal];
        let mut random = Stream::new(self.seed, Purpose::Datagrams, &key);
        // Loopback is reliable.
        let link = if host == target { LOOPBACK } else { self.link(host, target) };
        // Draws every choice, used or not, so that none depends on another.
        let lost = random.per_mille(link.loss.saturating_add(self.extra_loss(host, target)));
        let twice = random.per_mille(link.duplicates);
        let late = random.per_mille(link.reordered);
        let short = random.per_mille(link.truncated);
        let keep = random.below(bytes.len() as u64) as usize;
        let route = self.route(host, target);
        let (takes, detour) = (route.takes(&mut random), route.takes(&mut random));
        if lost {
            return Ok(());
        }
        let departs = if host == target { self.now } else { self.departure(host, bytes.len()) };
        let arrives = departs.saturating_add(takes).max(last);
        if !late && let Some(socket) = self.host(host).sockets.get_mut(&from) {
            socket.sent_to.insert(target, (ordinal, arrives));
        }
        let bytes = if short { &bytes[..keep] } else { bytes };
        let from = if to.ip().is_loopback() { SocketAddr::new(to.ip(), from.port()) } else { from };
        let datagram = Box::new(Datagram { from, to, bytes: bytes.to_vec() });
        if twice {
            self.at(arrives + detour, Happening::Datagram(target, datagram.clone()));
        }
        let arrives = if late { arrives + detour } else { arrives };
        self.at(arrives, Happening::Datagram(target, datagram));
        Ok(())
    }

    fn extra_loss(&self, from: u32, to: u32) -> u16 {
        let lossy = self.lasting().filter_map(|fault| match fault {
            Fault::Loss(host, n) if from != to && [from, to].contains(&host.0) => Some(*n),
            _ => None,
        });
        lossy.fold(0, u16::saturating_add)
    }

    pub(super) fn datagram_comes(&mut self, host: u32, datagram: Datagram) {
        let Datagram { from, mut to, .. } = datagram;
        let comes = self.host_of(host, from).is_some_and(|from| self.passes(from, host));
        let state = self.host(host);
        if to.ip() == Ipv4Addr::LOCALHOST {
            to.set_ip(state.v4.into());
        }
        if comes
            && let Some(socket) = state.sockets.get_mut(&to)
            && socket.held.len() < HELD
        {
            socket.held.push_back(datagram);
        }
    }
}
