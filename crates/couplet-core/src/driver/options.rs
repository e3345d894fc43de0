//! Options of ports and connections. Programs set them; drivers read them.
//!
//! Contract: 22c, 49, 64, 64c, 103g, 145, 157.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::SockRef;
use super::socket::Preparation;
use crate::address::Address;
use crate::switches::{Switch, Switches};

/// The silence after which the system probes the peer of a TCP connection.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// The permissions of a UNIX socket's file.
const FILE_MODE: u32 = 0o666;

/// How a port is opened. Options that do not apply to the kind of socket are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// The number of connections that the system queues.
    pub backlog: u32,
    /// The most connections of the port at a time; `None` for no limit.
    pub(crate) connections: Option<NonZeroU32>,
    /// The most unsent output of all its connections, in bytes.
    pub(crate) buffered: Option<usize>,
    /// The same, for the connections of each peer.
    pub(crate) buffered_by_peer: Option<usize>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) switches: Switches,
    pub(super) preparation: Preparation,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        let mut switches = Switches::on(&[Switch::DualStack, Switch::LockFile, Switch::NoDelay]);
        // On Windows, `SO_REUSEADDR` lets a second program take the port.
        switches.set(Switch::ReuseAddr, cfg!(unix));
        ListenOptions {
            backlog: 50,
            connections: None,
            buffered: None,
            buffered_by_peer: None,
            mode: FILE_MODE,
            owner: None,
            group: None,
            keep_alive: Some(KEEP_ALIVE),
            switches,
            preparation: Preparation::default(),
        }
    }
}

impl ListenOptions {
    /// Sets the number of connections that the system queues until they are accepted: 50 by default.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Sets how many connections the port has at a time: any number by default, and for 0. With as many
    /// it accepts nothing, and clients wait in the [queue](Self::backlog) of the system, until one
    /// has ended. A connection counts from the moment it is accepted, also during a handshake. Each
    /// loop of a [cluster](crate::Cluster) has a share of the number.
    #[must_use]
    pub fn max_connections(mut self, most: u32) -> Self {
        self.connections = NonZeroU32::new(most);
        self
    }

    /// Limits the unsent output of the port's connections together, in bytes, as
    /// [`LoadLimits::buffered`](crate::LoadLimits::buffered) does for all connections of a loop: above three
    /// quarters of the limit this port stops accepting, and the producers of the largest buffers are paused;
    /// above it, the connections with the largest buffers are ended. Each loop of a
    /// [cluster](crate::Cluster) has a share of the number.
    #[must_use]
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.buffered = Some(bytes.max(1));
        self
    }

    /// Like [`max_buffered`](Self::max_buffered), for the port's connections of each IP address. The port
    /// still accepts.
    #[must_use]
    pub fn max_buffered_by_peer(mut self, bytes: usize) -> Self {
        self.buffered_by_peer = Some(bytes.max(1));
        self
    }

    /// The options for one of several loops.
    pub(crate) fn divided(&self, loops: usize) -> ListenOptions {
        let loops = u32::try_from(loops).unwrap_or(u32::MAX).max(1);
        let share = |most: NonZeroU32| NonZeroU32::new(most.get().div_ceil(loops));
        let share_bytes = |most: usize| most.div_ceil(loops as usize);
        ListenOptions {
            connections: self.connections.and_then(share),
            buffered: self.buffered.map(share_bytes),
            buffered_by_peer: self.buffered_by_peer.map(share_bytes),
            ..self.clone()
        }
    }

    /// Sets `SO_REUSEADDR`: a port in TIME_WAIT can be bound again. On by default (off on Windows,
    /// where it means something else).
    #[must_use]
    pub fn reuse_addr(mut self, on: bool) -> Self {
        self.switches.set(Switch::ReuseAddr, on);
        self
    }

    /// Sets `SO_REUSEPORT`: several loops share one port, and the system distributes the
    /// connections. Off by default.
    #[must_use]
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.switches.set(Switch::ReusePort, on);
        self
    }

    /// Sets whether an IPv6 wildcard accepts IPv4 connections too: true by default.
    #[must_use]
    pub fn dual_stack(mut self, on: bool) -> Self {
        self.switches.set(Switch::DualStack, on);
        self
    }

    /// Sets `TCP_NODELAY` for accepted connections. On by default.
    #[must_use]
    pub fn no_delay(mut self, on: bool) -> Self {
        self.switches.set(Switch::NoDelay, on);
        self
    }

    /// Sets the permissions of a UNIX socket's file: 0o666 by default. Connecting needs write
    /// permission.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the owner of a UNIX socket's file, by number. Only root may change the owner.
    #[must_use]
    pub fn owner(mut self, user: u32) -> Self {
        self.owner = Some(user);
        self
    }

    /// Sets the group of a UNIX socket's file, by number: one of the process's groups, unless it is
    /// root.
    #[must_use]
    pub fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// Sets whether a UNIX socket has a lock file, `PATH.lock`, which shows whether the owner of the
    /// socket file is alive; a socket file whose owner has died is replaced. True by default.
    #[must_use]
    pub fn lock_file(mut self, on: bool) -> Self {
        self.switches.set(Switch::LockFile, on);
        self
    }

    /// Sets the silence after which the system probes whether the peer's host is still there
    /// (`SO_KEEPALIVE`): 60 s by default, in whole seconds. Further probes follow at a quarter of that
    /// time; if nine have no answer, the connection is lost with [`Reason::Lost`](crate::Reason::Lost).
    /// Without them a connection to a host that has vanished, and from which nothing is expected, stays
    /// for ever. `None` leaves the probes off.
    ///
    /// For TCP, on drivers with sockets. Accepted connections inherit it from the port. [`Transport::set_option`](crate::Transport::set_option)
    /// changes it on a live connection.
    #[must_use]
    pub fn keep_alive(mut self, silence: Option<Duration>) -> Self {
        self.keep_alive = silence;
        self
    }

    /// Calls `f` with the new socket before it is bound, to set any option that
    /// [`socket2`](SockRef) supports; an error fails the listen. Accepted connections inherit most
    /// options. Not called by drivers without sockets.
    ///
    /// ```
    /// use couplet::ListenOptions;
    ///
    /// let options = ListenOptions::default()
    ///     .prepare(|socket| socket.set_recv_buffer_size(1024 * 1024));
    /// ```
    #[must_use]
    pub fn prepare(
        mut self,
        f: impl Fn(SockRef<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.preparation = Preparation::new(f);
        self
    }
}

/// For drivers. **Unstable**, like this module.
impl ListenOptions {
    /// Whether an IPv6 wildcard accepts IPv4 connections too.
    pub fn is_dual_stack(&self) -> bool {
        self.switches.has(Switch::DualStack)
    }
}

/// How a connection is made. Options that do not apply to the kind of socket are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    pub(crate) timeout: Duration,
    /// The local address that a TCP connection binds to.
    pub bind: Option<SocketAddr>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) switches: Switches,
    pub(super) preparation: Preparation,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            timeout: Duration::from_secs(30),
            bind: None,
            keep_alive: Some(KEEP_ALIVE),
            switches: Switches::on(&[Switch::NoDelay]),
            preparation: Preparation::default(),
        }
    }
}

impl ConnectOptions {
    /// Sets the time after which a connect gives up: 30 s by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the local address that a TCP connection binds to. If it is unavailable, the connect
    /// fails with [`ConnectError::LocalBind`](crate::ConnectError::LocalBind).
    #[must_use]
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = Some(address);
        self
    }

    /// Sets `TCP_NODELAY`. On by default.
    #[must_use]
    pub fn no_delay(mut self, on: bool) -> Self {
        self.switches.set(Switch::NoDelay, on);
        self
    }

    /// Sets the silence after which the system probes whether the peer's host is still there
    /// (`SO_KEEPALIVE`): 60 s by default, in whole seconds. Further probes follow at a quarter of that
    /// time; if nine have no answer, the connection is lost with [`Reason::Lost`](crate::Reason::Lost).
    /// Without them a connection to a host that has vanished, and from which nothing is expected, stays
    /// for ever. `None` leaves the probes off.
    ///
    /// For TCP, on drivers with sockets. [`Transport::set_option`](crate::Transport::set_option)
    /// changes it on a live connection.
    #[must_use]
    pub fn keep_alive(mut self, silence: Option<Duration>) -> Self {
        self.keep_alive = silence;
        self
    }

    /// Calls `f` with each new socket before it is bound and connects, to set any option that
    /// [`socket2`](SockRef) supports; an error fails the attempt. Not called by drivers without
    /// sockets.
    #[must_use]
    pub fn prepare(
        mut self,
        f: impl Fn(SockRef<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.preparation = Preparation::new(f);
        self
    }
}

/// How a datagram port is opened. Options that do not apply to the kind of socket are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatagramOptions {
    /// The longest datagram that is received whole, in bytes.
    pub size: usize,
    pub(crate) queue: usize,
    /// The only peer.
    pub peer: Option<Address>,
    mode: u32,
    pub(super) switches: Switches,
    pub(super) preparation: Preparation,
}

impl Default for DatagramOptions {
    fn default() -> DatagramOptions {
        DatagramOptions {
            size: 65_535,
            queue: 256 * 1024,
            peer: None,
            mode: FILE_MODE,
            switches: Switches::on(&[Switch::DualStack, Switch::LockFile]),
            preparation: Preparation::default(),
        }
    }
}

impl DatagramOptions {
    /// Sets the longest datagram that is received whole, in bytes: 65535 by default, which fits every
    /// datagram. Longer ones are [cut](super::Datagram::cut). Only a port that fits every datagram
    /// lets Linux deliver several coalesced, which costs less (`UDP_GRO`); they are still reported
    /// one by one. Twisted's `maxPacketSize`.
    #[must_use]
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes.max(1);
        self
    }

    /// Sets the maximum bytes queued for sending: 256 KiB by default, in at most 16 384 datagrams.
    /// Datagrams beyond it are dropped and counted.
    #[must_use]
    pub fn queue(mut self, bytes: usize) -> Self {
        self.queue = bytes;
        self
    }

    /// Sets the only peer: the system drops datagrams of other senders, and reports refusals
    /// ([`connection_refused`](crate::DatagramProtocol::connection_refused)).
    #[must_use]
    pub fn peer(mut self, peer: impl Into<Address>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// Sets `SO_REUSEADDR`. On Linux, several sockets can then share a multicast port, and each
    /// receives every datagram. Off by default.
    #[must_use]
    pub fn reuse_addr(mut self, on: bool) -> Self {
        self.switches.set(Switch::ReuseAddr, on);
        self
    }

    /// Sets `SO_REUSEPORT`: several sockets share a port, and the system distributes the datagrams.
    /// Off by default.
    #[must_use]
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.switches.set(Switch::ReusePort, on);
        self
    }

    /// Sets whether an IPv6 wildcard receives IPv4 too: true by default.
    #[must_use]
    pub fn dual_stack(mut self, on: bool) -> Self {
        self.switches.set(Switch::DualStack, on);
        self
    }

    /// Sets `SO_BROADCAST`: broadcasts may be sent. Off by default.
    #[must_use]
    pub fn broadcast(mut self, on: bool) -> Self {
        self.switches.set(Switch::Broadcast, on);
        self
    }

    /// Sets the permissions of a UNIX socket's file: 0o666 by default. Sending needs write permission.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets whether a UNIX socket has a lock file: see [`ListenOptions::lock_file`]. True by default.
    #[must_use]
    pub fn lock_file(mut self, on: bool) -> Self {
        self.switches.set(Switch::LockFile, on);
        self
    }

    /// Calls `f` with the new socket before it is bound, to set any option that
    /// [`socket2`](SockRef) supports; an error fails the listen. Not called by drivers without
    /// sockets.
    #[must_use]
    pub fn prepare(
        mut self,
        f: impl Fn(SockRef<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.preparation = Preparation::new(f);
        self
    }

    /// The options for a UNIX socket's file.
    #[cfg(target_os = "linux")]
    pub(super) fn socket_file_options(&self) -> ListenOptions {
        ListenOptions::default().mode(self.mode).lock_file(self.switches.has(Switch::LockFile))
    }
}

/// For drivers. **Unstable**, like this module.
impl DatagramOptions {
    /// Whether an IPv6 wildcard receives IPv4 too.
    pub fn is_dual_stack(&self) -> bool {
        self.switches.has(Switch::DualStack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_equal_if_all_of_them_are_and_their_preparation_is_a_clone() {
        type Set<O> = fn(O) -> O;
        fn check<O: Clone + Default + PartialEq + std::fmt::Debug>(sets: &[Set<O>]) {
            for set in sets {
                let one = set(O::default());
                assert_ne!(one, O::default());
                assert_eq!(one, one.clone());
            }
        }
        check::<ListenOptions>(&[
            |options| options.backlog(7),
            |options| options.dual_stack(false),
            |options| options.mode(0o600),
            |options| options.owner(7),
            |options| options.prepare(|_| Ok(())),
        ]);
        check::<ConnectOptions>(&[
            |options| options.timeout(Duration::ZERO),
            |options| options.no_delay(false),
            |options| options.prepare(|_| Ok(())),
        ]);
        check::<DatagramOptions>(&[
            |options| options.size(7),
            |options| options.queue(7),
            |options| options.broadcast(true),
            |options| options.prepare(|_| Ok(())),
        ]);
        let prepared = || ListenOptions::default().prepare(|_| Ok(()));
        assert_ne!(prepared(), prepared(), "two closures may differ");
    }

    #[test]
    fn the_loops_of_a_cluster_have_room_for_all_connections_together() {
        for (most, loops, share) in [(5, 2, 3), (6, 2, 3), (1, 8, 1), (5, 1, 5), (7, 0, 7)] {
            let options = ListenOptions::default().max_connections(most);
            let wanted = ListenOptions::default().max_connections(share);
            assert_eq!(options.divided(loops), wanted, "{most} in {loops}");
            // The two limits of the output are divided alike, each by itself.
            let (most, share) = (most as usize, share as usize);
            let options = ListenOptions::default().max_buffered(most);
            let wanted = ListenOptions::default().max_buffered(share);
            assert_eq!(options.divided(loops), wanted, "{most} in {loops}");
            let options = ListenOptions::default().max_buffered_by_peer(most);
            let wanted = ListenOptions::default().max_buffered_by_peer(share);
            assert_eq!(options.divided(loops), wanted, "{most} in {loops}");
        }
        assert_eq!(
            ListenOptions::default().max_connections(7).max_connections(0).connections,
            None
        );
        for options in
            [ListenOptions::default().max_buffered(0), ListenOptions::default().max_buffered(1)]
        {
            assert_eq!(options.divided(9), options, "a limit stays one");
        }
        let unlimited = ListenOptions::default();
        assert_eq!(unlimited.divided(3), unlimited);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_file_of_datagrams_has_the_mode_and_the_lock_of_its_port() {
        for (mode, has_lock) in [(0o600, false), (0o660, true), (0o666, false)] {
            let options = DatagramOptions::default().mode(mode).lock_file(has_lock);
            let file = options.socket_file_options();
            assert_eq!((file.mode, file.switches.has(Switch::LockFile)), (mode, has_lock));
        }
    }
}
