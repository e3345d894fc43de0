//! Ports of datagrams over mio. Twisted's `udp.Port` and `unix.DatagramPort`.
//!
//! On Linux they are received and sent in batches, by recvmmsg(2) and sendmmsg(2), and several of one
//! length that go to one place leave as one (`UDP_SEGMENT`): in the queue they lie behind each other.
//! All ports share the places of one batch, so a batch is reported to its end before another port
//! receives. What is left of one whose port pauses is copied.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
#[cfg(unix)]
use std::os::fd::AsRawFd;

use mio::{Interest as Wanted, Token};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockRef, Socket, Type};

use super::Mio;
use super::slots::Kind;
use super::socket::{address, deregister};
#[cfg(target_os = "linux")]
use super::system::no_ipv6;
use super::unix::SocketFile;
use crate::address::{Address, UnixAddress};
use crate::driver::{
    Bound, Datagram, DatagramOption, DatagramOptions, DatagramQueue, DatagramsSent, Event, Group,
    Interface, Key, PeerCredentials,
};

/// Most datagrams of one port in a round, between two waits.
const BATCH: usize = 64;

pub(super) struct DatagramSlot {
    /// Dropped before the socket is closed, which keeps the file's inode from being reused.
    _file: Option<SocketFile>,
    socket: Socket,
    registered: Registered,
    /// The domain is IPv6.
    is_v6: bool,
    /// Longest datagram that is received whole.
    size: usize,
    has_peer: bool,
    pub(super) readable: bool,
    /// The socket had no room.
    pub(super) blocked: bool,
    /// There is room again, which was not reported.
    pub(super) room: bool,
    pub(super) receiving: bool,
    /// The round of the last receive call.
    received_in: u64,
    /// What was received and not reported when the port paused. Law 9: at most one batch.
    held: VecDeque<Held>,
}

/// A datagram that was received, without its bytes.
#[derive(Clone)]
struct Head {
    from: Address,
    to: Option<IpAddr>,
    interface: Option<u32>,
    cut: bool,
    tos: Option<u8>,
    credentials: Option<PeerCredentials>,
}

struct Held {
    head: Head,
    bytes: Vec<u8>,
}
