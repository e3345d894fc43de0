//! The options of sockets: of connections, of ports and of datagram ports.
//!
//! Contract: 64, 64b, 64d.

use std::io;
use std::time::Duration;

use socket2::Type;

use super::{Interface, SockRef};

/// An option of an open socket, set by [`Transport::set_option`](crate::Transport::set_option),
/// [`Port::set_option`](crate::Port::set_option) and
/// [`DatagramTransport::set_option`](crate::DatagramTransport::set_option). Connections inherit
/// the options of their port. An option that does not apply to the kind of socket is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketOption {
    /// `TCP_NODELAY`.
    NoDelay(bool),
    /// `TCP_QUICKACK`, once: acknowledges the received bytes immediately, rather than with the next
    /// output or after a delay. A peer with Nagle's algorithm sends its next small segment then.
    /// TCP connections, on Linux only.
    Acknowledge,
    /// `SO_KEEPALIVE`, with the silence after which the system probes, and probes again at a quarter of
    /// that time; `None` turns it off. TCP. On a port it is for the connections that it accepts: other
    /// systems than Linux would close a listening socket that has it, so there it is set on each
    /// connection, and the port's own value reads as `None`.
    KeepAlive(Option<Duration>),
    /// `SO_RCVBUF`, bytes.
    ReceiveBuffer(usize),
    /// `SO_SNDBUF`, bytes.
    SendBuffer(usize),
    /// The hop limit of TCP and of unicast datagrams, usually 64.
    Ttl(u8),
    /// The TOS byte (IPv4) or traffic class (IPv6) of sent packets: DSCP, and for datagrams the two
    /// bits of ECN.
    Tos(u8),
    /// When on, the connection ends with a reset rather than a FIN unless the protocol requested
    /// the end: when the process dies, even by SIGKILL, when the loop is dropped, when a callback
    /// panics, when the reactor stops. Off by default.
    ///
    /// For protocols in which the end of the stream ends a message, as in HTTP/1.0: the system
    /// sends a FIN when it closes the sockets of a killed process, so a truncated message would
    /// look complete. Set it in [`connection_made`](crate::Protocol::connection_made).
    /// [`lose_connection`](crate::Transport::lose_connection),
    /// [`lose_write_connection`](crate::Transport::lose_write_connection) and
    /// [`fail`](crate::Transport::fail) flush and send a FIN as usual; after one of them this has
    /// no effect.
    ///
    /// ```
    /// use couplet::{Protocol, SocketOption, Transport};
    /// use std::time::Duration;
    ///
    /// struct Poet;
    /// impl Protocol for Poet {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.set_option(SocketOption::ResetUnlessClosed(true));
    ///         transport.write("Shall I compare thee");
    ///         transport.connection::<Poet>().call_later(Duration::from_secs(1), |_, transport| {
    ///             transport.write(" to a summer's day?");
    ///             transport.lose_connection(); // only now does the stream end
    ///         });
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    /// ```
    ///
    /// Sets `SO_LINGER` with a timeout of 0, and clears it before the FIN. Does nothing on a UNIX
    /// socket.
    ResetUnlessClosed(bool),
    /// The stream ends once the bytes that have already arrived are read, even if other processes
    /// keep the writing end open: for the output of a program that has exited. Pipes only.
    EndsWhenRead,
    /// `SO_BROADCAST`: broadcasts may be sent. Datagram ports. Twisted's `setBroadcastAllowed`.
    Broadcast(bool),
    /// The hop limit of multicasts: 1, the local network, unless set. Datagram ports. Twisted's
    /// `setTTL`.
    MulticastTtl(u8),
    /// Whether multicasts are delivered to this host too. On unless set. Datagram ports. Twisted's
    /// `setLoopbackMode`.
    MulticastLoop(bool),
    /// The interface that sends multicasts. Datagram ports. Twisted's `setOutgoingInterface`.
    MulticastInterface(Interface),
}

/// A socket option that can be read, as by [`Transport::option`](crate::Transport::option).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketOptionKind {
    /// [`SocketOption::NoDelay`].
    NoDelay,
    /// [`SocketOption::KeepAlive`].
    KeepAlive,
    /// [`SocketOption::ReceiveBuffer`]; Linux reports twice the number that was set.
    ReceiveBuffer,
    /// [`SocketOption::SendBuffer`]; Linux reports twice the number that was set.
    SendBuffer,
    /// [`SocketOption::Ttl`].
    Ttl,
    /// [`SocketOption::Tos`].
    Tos,
    /// [`SocketOption::Broadcast`].
    Broadcast,
    /// [`SocketOption::MulticastTtl`].
    MulticastTtl,
    /// [`SocketOption::MulticastLoop`].
    MulticastLoop,
}

impl SocketOptionKind {
    /// The value that the system has.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) if the socket has no such option.
    pub(crate) fn read(self, socket: &SockRef<'_>) -> io::Result<SocketOption> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        // Every value fits: the system has set it from a byte.
        let byte = |value: u32| u8::try_from(value).map_err(io::Error::other);
        let option = match self {
            SocketOptionKind::NoDelay => SocketOption::NoDelay(socket.tcp_nodelay()?),
            SocketOptionKind::KeepAlive if socket.keepalive()? => {
                #[cfg(unix)]
                let idle = socket.tcp_keepalive_time()?;
                // Windows does not tell the time.
                #[cfg(not(unix))]
                let idle = Err::<Duration, _>(io::Error::from(io::ErrorKind::Unsupported))?;
                SocketOption::KeepAlive(Some(idle))
            }
            SocketOptionKind::KeepAlive => SocketOption::KeepAlive(None),
            SocketOptionKind::ReceiveBuffer => {
                SocketOption::ReceiveBuffer(socket.recv_buffer_size()?)
            }
            SocketOptionKind::SendBuffer => SocketOption::SendBuffer(socket.send_buffer_size()?),
            SocketOptionKind::Ttl if is_v6 => SocketOption::Ttl(byte(socket.unicast_hops_v6()?)?),
            SocketOptionKind::Ttl => SocketOption::Ttl(byte(socket.ttl_v4()?)?),
            #[cfg(unix)]
            SocketOptionKind::Tos if is_v6 => SocketOption::Tos(byte(socket.tclass_v6()?)?),
            SocketOptionKind::Tos => SocketOption::Tos(byte(socket.tos_v4()?)?),
            SocketOptionKind::Broadcast => SocketOption::Broadcast(socket.broadcast()?),
            SocketOptionKind::MulticastTtl if is_v6 => {
                SocketOption::MulticastTtl(byte(socket.multicast_hops_v6()?)?)
            }
            SocketOptionKind::MulticastTtl => {
                SocketOption::MulticastTtl(byte(socket.multicast_ttl_v4()?)?)
            }
            SocketOptionKind::MulticastLoop if is_v6 => {
                SocketOption::MulticastLoop(socket.multicast_loop_v6()?)
            }
            SocketOptionKind::MulticastLoop => {
                SocketOption::MulticastLoop(socket.multicast_loop_v4()?)
            }
        };
        match option.applies_to(SocketKind::of(socket)?) {
            true => Ok(option),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl SocketOption {
    /// The kind by which the option is read, if it can be.
    pub(crate) fn kind(self) -> Option<SocketOptionKind> {
        match self {
            SocketOption::NoDelay(_) => Some(SocketOptionKind::NoDelay),
            SocketOption::KeepAlive(_) => Some(SocketOptionKind::KeepAlive),
            SocketOption::ReceiveBuffer(_) => Some(SocketOptionKind::ReceiveBuffer),
            SocketOption::SendBuffer(_) => Some(SocketOptionKind::SendBuffer),
            SocketOption::Ttl(_) => Some(SocketOptionKind::Ttl),
            SocketOption::Tos(_) => Some(SocketOptionKind::Tos),
            SocketOption::Broadcast(_) => Some(SocketOptionKind::Broadcast),
            SocketOption::MulticastTtl(_) => Some(SocketOptionKind::MulticastTtl),
            SocketOption::MulticastLoop(_) => Some(SocketOptionKind::MulticastLoop),
            SocketOption::Acknowledge
            | SocketOption::ResetUnlessClosed(_)
            | SocketOption::EndsWhenRead
            | SocketOption::MulticastInterface(_) => None,
        }
    }

    /// Whether sockets of this kind have the option.
    pub fn applies_to(self, kind: SocketKind) -> bool {
        match self {
            SocketOption::NoDelay(_)
            | SocketOption::Acknowledge
            | SocketOption::KeepAlive(_)
            | SocketOption::ResetUnlessClosed(_) => kind == SocketKind::Tcp,
            SocketOption::ReceiveBuffer(_) | SocketOption::SendBuffer(_) => {
                kind != SocketKind::Pipe
            }
            SocketOption::Ttl(_) | SocketOption::Tos(_) => {
                matches!(kind, SocketKind::Tcp | SocketKind::Udp)
            }
            SocketOption::EndsWhenRead => kind == SocketKind::Pipe,
            SocketOption::Broadcast(_)
            | SocketOption::MulticastTtl(_)
            | SocketOption::MulticastLoop(_)
            | SocketOption::MulticastInterface(_) => kind == SocketKind::Udp,
        }
    }
}

/// The kind of a socket, which decides the options that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketKind {
    /// A connection or a port of TCP.
    Tcp,
    /// A port of UDP.
    Udp,
    /// A UNIX socket, for connections or datagrams.
    Unix,
    /// A pipe, a terminal or another descriptor that is no socket.
    Pipe,
}

impl SocketKind {
    /// The kind of a socket of the system.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn of(socket: &SockRef<'_>) -> io::Result<SocketKind> {
        if socket.local_addr()?.as_socket().is_none() {
            return Ok(SocketKind::Unix);
        }
        let is_stream = socket.r#type()? == Type::STREAM;
        Ok(if is_stream { SocketKind::Tcp } else { SocketKind::Udp })
    }
}
