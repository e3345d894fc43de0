//! Datagrams on Linux, in batches: recvmmsg(2) and sendmmsg(2). Consecutive datagrams of equal
//! length and destination are sent as one (`UDP_SEGMENT`), and may be received as one (`UDP_GRO`).
//!
//! Contract: 160, 160c, 160d, 160g.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use couplet_os::datagrams::{self, Batch, Flag, Name, Outgoing, SENT_AT_ONCE, Target};
use couplet_os::owned::Owner;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket};

use super::super::socket::deregister;
use super::super::unix;
use crate::address::Address;
use crate::driver::datagrams::{Datagram, DatagramQueue, Run};
use crate::driver::{LocalSocket, PeerCredentials};

/// Maximum bytes of one datagram, and of several that the kernel has coalesced.
const LONGEST: usize = 65_535;

/// The buffers for received datagrams.
pub(super) struct ReceiveBuffers(Batch);

impl ReceiveBuffers {
    pub(super) fn new(count: usize, size: usize) -> ReceiveBuffers {
        ReceiveBuffers(Batch::new(count, size))
    }

    pub(super) fn size(&self) -> usize {
        self.0.size()
    }

    pub(super) fn receive(
        &mut self,
        socket: &PortSocket,
        count: usize,
        size: usize,
    ) -> io::Result<usize> {
        self.0.receive(socket.as_fd(), count, size)
    }

    /// The length of a message, and of each datagram in it; the last datagram may be shorter.
    pub(super) fn lengths(&self, n: usize) -> (usize, usize) {
        self.0.lengths(n)
    }

    pub(super) fn get(&self, n: usize) -> (Datagram<'static>, &[u8]) {
        let got = self.0.get(n);
        let from = match got.from {
            Name::Inet(from) => Address::udp(from),
            Name::Unix(name) => unix::name_of_bytes(&name).into(),
        };
        let credentials = got.credentials.map(|(pid, uid, gid)| PeerCredentials { pid, uid, gid });
        let head = Datagram {
            to: got.to,
            interface: got.interface,
            cut: got.cut,
            tos: got.tos,
            credentials,
            ..Datagram::new(&[], from)
        };
        (head, got.data)
    }
}

/// The socket of a port.
pub(super) struct PortSocket {
    socket: Owner,
    domain: Domain,
    /// The kernel segments joined datagrams.
    joins: Cell<bool>,
}

impl AsFd for PortSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl PortSocket {
    pub(super) fn from_socket(socket: Socket) -> io::Result<PortSocket> {
        let domain = socket.domain()?;
        let flags: &[Flag] = match domain {
            Domain::IPV4 => &[Flag::PacketInfoV4, Flag::TosV4],
            Domain::IPV6 => &[Flag::PacketInfoV6, Flag::TosV6, Flag::TosV4],
            _ => &[Flag::Credentials],
        };
        for flag in flags {
            if let Err(error) = datagrams::turn_on(socket.as_fd(), *flag) {
                tracing::debug!(?flag, %error, "cannot enable an option of a datagram port");
            }
        }
        // Otherwise a wildcard port receives multicasts of groups that any socket of this host has
        // joined.
        let only_ours = match domain {
            Domain::IPV4 => socket.set_multicast_all_v4(false),
            Domain::IPV6 => {
                socket.set_multicast_all_v6(false).and(socket.set_multicast_all_v4(false))
            }
            _ => Ok(()),
        };
        if let Err(error) = only_ours {
            tracing::debug!(%error, "cannot exclude multicasts of groups that other sockets have joined");
        }
        let joins = Cell::new(domain != Domain::UNIX);
        Ok(PortSocket { socket: OwnedFd::from(socket).into(), domain, joins })
    }

    /// A handle for querying options, which does not keep the socket open.
    pub(super) fn query_handle(&self) -> Option<LocalSocket> {
        Some(LocalSocket(self.socket.handle()))
    }

    /// Lets the kernel coalesce datagrams if they fit; returns the length for which to make room. An
    /// adopted socket is not changed: its queue may hold coalesced datagrams, and another process that
    /// reads from it may have no room for them.
    pub(super) fn coalesce(&self, size: usize, is_adopted: bool) -> usize {
        match is_adopted {
            true if datagrams::coalesces(self.as_fd()) => return LONGEST,
            true => {}
            // Other systems and older kernels don't coalesce.
            false if self.domain != Domain::UNIX && size >= LONGEST => {
                let _ = datagrams::turn_on(self.as_fd(), Flag::Gro);
            }
            false => {}
        }
        size
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, Interest::READABLE)
    }

    pub(super) fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, interest)
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        deregister(&mut SourceFd(&self.as_fd().as_raw_fd()), registry);
    }

    /// Sends the first datagrams; returns how many the system has accepted.
    pub(super) fn send(&self, out: &DatagramQueue) -> io::Result<usize> {
        let runs: Vec<_> = out.runs(self.joins.get()).take(SENT_AT_ONCE).collect();
        let names: Vec<_> = runs.iter().map(|run| name_of(run.to)).collect();
        let batch: Vec<_> =
            runs.iter().zip(&names).map(|(run, name)| self.outgoing(run, name)).collect();
        match datagrams::send(self.as_fd(), &batch) {
            Ok(n) => Ok(runs[..n].iter().map(|run| run.count).sum()),
            Err(error) if runs[0].count > 1 && !is_unrelated_to_joining(&error) => {
                // The datagrams exceed the link's MTU, or the link can't segment them: send one by one.
                tracing::debug!(%error, "datagrams are sent one by one");
                self.joins.set(false);
                self.send(out)
            }
            Err(error) => Err(error),
        }
    }

    fn outgoing<'a>(&self, run: &Run<'a>, name: &'a [u8]) -> Outgoing<'a> {
        let to = match run.to {
            None | Some(Address::Pipe(_)) => None,
            Some(Address::Unix(_)) => Some(Target::Unix(name)),
            Some(Address::Tcp(to) | Address::Udp(to)) => Some(Target::Inet(match to {
                SocketAddr::V4(to) if self.domain == Domain::IPV6 => {
                    (to.ip().to_ipv6_mapped(), to.port()).into()
                }
                to => *to,
            })),
        };
        Outgoing {
            data: run.data,
            to,
            from: run.from.map(|ip| (ip, 0)),
            tos: None,
            segment: (run.count > 1).then_some(run.segment as u16),
        }
    }
}

/// The bytes of a UNIX socket's name; empty for any other address.
fn name_of(to: Option<&Address>) -> Vec<u8> {
    to.and_then(Address::unix).map(unix::bytes_of_name).unwrap_or_default()
}

/// Whether the error is unrelated to joined datagrams.
fn is_unrelated_to_joining(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionRefused)
}
