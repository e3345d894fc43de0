//! Batches of datagrams where recvmmsg(2) is missing: a system call for each datagram.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

/// A socket's name, as `couplet_os::datagrams::Name`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Inet(SocketAddr),
    Unix(Vec<u8>),
}

/// Sends datagrams from a socket that does not block, until the system refuses one. Returns their
/// number.
///
/// # Errors
///
/// The system's error for the first datagram.
pub(crate) fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a [u8], SocketAddr)>,
) -> io::Result<usize> {
    let socket = UdpSocket::from(socket.try_clone_to_owned()?);
    let mut sent = 0;
    for (data, to) in datagrams {
        match socket.send_to(data, to) {
            Ok(_) => sent += 1,
            Err(error) if sent == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(sent)
}

/// A datagram of the last [`Batch::receive`].
pub(crate) struct Received<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) from: Name,
}

/// Buffers for the datagrams of one turn, as `couplet_os::datagrams::Batch`.
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    size: usize,
    filled: Vec<(usize, Name)>,
}

impl Batch {
    /// A batch for at most `count` datagrams of at most `size` bytes each.
    pub(crate) fn new(count: usize, size: usize) -> Batch {
        let bytes = vec![0; count * size].into_boxed_slice();
        Batch { bytes, size, filled: Vec::with_capacity(count) }
    }

    /// Maximum bytes of one datagram.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Receives arrived datagrams from a socket that does not block, at most `count` and at most
    /// `size` bytes of each. Returns their number.
    ///
    /// # Errors
    ///
    /// The system's error on the first; [`WouldBlock`](io::ErrorKind::WouldBlock) if no datagram has arrived.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        count: usize,
        size: usize,
    ) -> io::Result<usize> {
        let socket = socket.try_clone_to_owned()?;
        let is_unix = UnixDatagram::from(socket.try_clone()?).local_addr().is_ok();
        let (udp, unix) = (UdpSocket::from(socket.try_clone()?), UnixDatagram::from(socket));
        let size = size.min(self.size);
        self.filled.clear();
        for place in self.bytes.chunks_mut(self.size).take(count) {
            let datagram = if is_unix {
                unix.recv_from(&mut place[..size]).map(|(length, from)| (length, unix_name(&from)))
            } else {
                udp.recv_from(&mut place[..size]).map(|(length, from)| (length, Name::Inet(from)))
            };
            match datagram {
                Ok(datagram) => self.filled.push(datagram),
                Err(error) if self.filled.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(self.filled.len())
    }

    /// The `n`th datagram of the last [`receive`](Self::receive).
    pub(crate) fn get(&self, n: usize) -> Received<'_> {
        let (length, from) = &self.filled[n];
        let start = n * self.size;
        Received { data: &self.bytes[start..start + length], from: from.clone() }
    }
}

fn unix_name(address: &std::os::unix::net::SocketAddr) -> Name {
    let path = address.as_pathname().map(|path| path.as_os_str().as_bytes().to_vec());
    Name::Unix(path.unwrap_or_default())
}
