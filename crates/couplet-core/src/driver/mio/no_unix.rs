//! Stands in for `unix.rs` on systems without UNIX sockets.

use std::io;

use socket2::{SockAddr, Socket};

use super::socket::Stream;
use crate::address::UnixAddress;
use crate::driver::{ConnectOptions, DatagramOptions, ListenOptions, PeerCredentials};

#[derive(Debug)]
pub(in crate::driver) enum SocketFile {}

pub(in crate::driver) fn bind(
    _: &UnixAddress,
    _: &ListenOptions,
) -> io::Result<(Socket, Option<SocketFile>)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn bind_datagrams(
    _: &UnixAddress,
    _: &DatagramOptions,
) -> io::Result<(Socket, Option<SocketFile>)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn sock_addr(_: &UnixAddress) -> io::Result<SockAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn connect(_: &UnixAddress, _: &ConnectOptions) -> io::Result<Stream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Maximum descriptors received in one message.
pub(super) const MOST: usize = 0;

pub(super) fn peer_credentials(_: &Stream) -> Option<PeerCredentials> {
    None
}

pub(super) fn may_receive(_: &Stream) -> bool {
    false
}

pub(super) enum Descriptor {}

pub(super) fn receive(_: &Stream, _: &mut [u8], _: &mut Vec<Descriptor>) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}
