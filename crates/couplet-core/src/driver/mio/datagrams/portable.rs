//! Datagrams one by one, for systems without batches, or whose calls for them are not implemented.
//!
//! Contract: 156.

use std::io;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::Socket;

use super::super::socket::deregister;
use crate::address::Address;
use crate::driver::LocalSocket;
use crate::driver::datagrams::{Datagram, DatagramQueue};

/// The buffer for a received datagram.
pub(super) struct ReceiveBuffers {
    bytes: Box<[u8]>,
    size: usize,
    got: Option<(Datagram<'static>, usize)>,
}

impl ReceiveBuffers {
    pub(super) fn new(_count: usize, size: usize) -> ReceiveBuffers {
        // One byte more, to detect longer datagrams.
        ReceiveBuffers { bytes: vec![0; size + 1].into_boxed_slice(), size, got: None }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn receive(
        &mut self,
        socket: &PortSocket,
        _count: usize,
        size: usize,
    ) -> io::Result<usize> {
        let (n, from) = socket.0.recv_from(&mut self.bytes[..size + 1])?;
        let head = Datagram { cut: n > size, ..Datagram::new(&[], Address::udp(from)) };
        self.got = Some((head, n.min(size)));
        Ok(1)
    }

    /// The length of the datagram, twice: datagrams are never coalesced here.
    pub(super) fn lengths(&self, _: usize) -> (usize, usize) {
        let length = self.got.as_ref().map_or(0, |(_, length)| *length);
        (length, length)
    }

    pub(super) fn get(&self, _: usize) -> (Datagram<'static>, &[u8]) {
        let (head, n) = self.got.as_ref().expect("one was received");
        (head.clone(), &self.bytes[..*n])
    }
}

/// The socket of a port.
pub(super) struct PortSocket(UdpSocket);

#[cfg(unix)]
impl std::os::fd::AsFd for PortSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for PortSocket {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.0.as_socket()
    }
}

impl PortSocket {
    pub(super) fn from_socket(socket: Socket) -> io::Result<PortSocket> {
        Ok(PortSocket(UdpSocket::from_std(socket.into())))
    }

    /// Always `None`: mio owns the socket.
    pub(super) fn query_handle(&self) -> Option<LocalSocket> {
        None
    }

    /// The length for which to make room: datagrams are never coalesced here.
    pub(super) fn coalesce(&self, size: usize, _is_adopted: bool) -> usize {
        size
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.0, token, Interest::READABLE)
    }

    pub(super) fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        registry.reregister(&mut self.0, token, interest)
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        deregister(&mut self.0, registry);
    }

    /// Sends the first datagram.
    pub(super) fn send(&self, out: &DatagramQueue) -> io::Result<usize> {
        let Some(first) = out.first() else { return Ok(0) };
        match first.to.and_then(Address::socket_addr) {
            Some(to) => self.0.send_to(first.data, to)?,
            None => self.0.send(first.data)?,
        };
        Ok(1)
    }
}
