//! The system's clock, randomness and sockets: the [`World`] of the mio driver.
//!
//! Contract: 32a, 49, 51a, 64, 64a, 64c, 106a.

#[cfg(unix)]
use std::any::Any;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

#[cfg(unix)]
use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(unix)]
use std::path::Path;

#[cfg(unix)]
use mio::{event::Source, unix::SourceFd};
#[cfg(unix)]
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::datagrams;
#[cfg(unix)]
use super::lock::Lock;
#[cfg(unix)]
use super::pipe;
use super::probes::{self, PortProbes};
use super::socket::{self, Listener, Stream};
#[cfg(unix)]
use super::token_of;
use super::unix::{self, SocketFile};
use crate::address::Address;
use crate::driver::{
    Adopted, Bound, ConnectOptions, ConnectedSocket, DatagramOptions, DatagramSocket,
    ListenOptions, ListeningSocket, World,
};
#[cfg(unix)]
use crate::driver::{Command, Interest, Pipe, Spawned, WatchId};
use crate::error::ConnectError;
use crate::switches::{Switch, Switches};

/// Maximum lateness of a wait for a deadline more than a second away.
const NEAR: Duration = Duration::from_millis(5);

/// A cached timeout, and the time until which it is close enough.
#[derive(Clone, Copy, Debug)]
struct CachedTimeout {
    until: Instant,
    timeout: Duration,
    good_until: Instant,
}

/// Forks of the process since the driver was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forks {
    None,
    /// Another process may hold our sockets, so closing them does not end their registrations.
    Forked,
    /// This is the child, whose registry has a new epoll that the poll does not share yet.
    #[cfg(target_os = "linux")]
    Renewed,
}

/// The system's clock, randomness and sockets.
#[derive(Debug)]
pub(super) struct System {
    /// INVARIANT: each change of a registration uses this registry: between a fork and the next
    /// wait, the driver's poll may also be another process's.
    pub(super) registry: mio::Registry,
    pub(super) forks: std::cell::Cell<Forks>,
    /// A ring belongs to one process.
    pub(super) has_ring: std::cell::Cell<bool>,
    hasher: std::hash::RandomState,
    count: std::cell::Cell<u64>,
    /// The last reading of the clock: the time of the turn.
    last: std::cell::Cell<Instant>,
    /// The last far timeout. A busy loop needs it in each turn, and recomputing it takes a tenth of
    /// a message's time.
    far: std::cell::Cell<CachedTimeout>,
}

impl System {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub(super) fn new(registry: mio::Registry) -> System {
        let now = Instant::now();
        System {
            registry,
            forks: std::cell::Cell::new(Forks::None),
            has_ring: std::cell::Cell::new(false),
            hasher: std::hash::RandomState::new(),
            count: std::cell::Cell::new(0),
            last: std::cell::Cell::new(now),
            far: std::cell::Cell::new(CachedTimeout {
                until: now,
                timeout: Duration::ZERO,
                good_until: now,
            }),
        }
    }

    /// The time left until `until`. For a deadline more than a second away, the time of the turn is
    /// close enough, and for [`NEAR`] so is the cached timeout.
    #[inline(always)]
    pub(super) fn time_until(&self, until: Instant) -> Duration {
        let far = self.far.get();
        if far.until == until && self.last.get() < far.good_until {
            return far.timeout;
        }
        self.time_until_now(until)
    }

    #[inline(never)]
    fn time_until_now(&self, until: Instant) -> Duration {
        let last = self.last.get();
        let timeout = until.saturating_duration_since(last);
        if timeout.as_secs() == 0 {
            return until.saturating_duration_since(self.now());
        }
        self.far.set(CachedTimeout { until, timeout, good_until: last + NEAR });
        timeout
    }
}

impl World for System {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Instant {
        let now = Instant::now();
        self.last.set(now);
        now
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn is_real_time(&self) -> bool {
        true
    }

    fn random(&self) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(self.count.replace(self.count.get().wrapping_add(1)));
        hasher.finish()
    }

    fn bind(&self, address: &Address, options: &ListenOptions) -> io::Result<Bound> {
        match address {
            Address::Tcp(address) | Address::Udp(address) => {
                let socket = ListeningSocket::bound(*address, options)?;
                Listening::bound(socket.listening(options)?)
            }
            Address::Unix(name) => Listening::bound(ListeningSocket::unix(name, options)?),
            Address::Pipe(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn bind_datagrams(&self, address: &Address, options: &DatagramOptions) -> io::Result<Bound> {
        datagrams::bind(address, options)
    }

    fn adopt_datagrams(
        &self,
        socket: DatagramSocket,
        options: &DatagramOptions,
    ) -> io::Result<Bound> {
        datagrams::adopt(socket, options)
    }

    fn adopt(&self, socket: ConnectedSocket) -> io::Result<Adopted> {
        let ConnectedSocket(socket) = socket;
        socket.set_nonblocking(true)?;
        let (peer, host) = (socket.peer_addr()?, socket.local_addr()?);
        Ok(Adopted::new(socket::address(&peer), socket::address(&host), socket))
    }

    #[cfg(unix)]
    fn adopt_pipe(&self, pipe: Pipe) -> io::Result<Adopted> {
        pipe::adopted(pipe)
    }

    #[cfg(unix)]
    fn spawn(&self, command: &Command) -> io::Result<Spawned> {
        crate::driver::process::spawn(command, pipe::adopted)
    }

    fn adopt_port(&self, socket: ListeningSocket) -> io::Result<Bound> {
        socket.socket.set_nonblocking(true)?;
        Listening::bound(socket)
    }

    fn fed_port(&self, host: &Address) -> io::Result<Bound> {
        let probes = PortProbes::default();
        Ok(Bound::new(host.clone(), Listening { listener: Listener::FED, file: None, probes }))
    }

    #[cfg(unix)]
    fn lock_file(&self, path: &Path) -> io::Result<Option<Box<dyn Any>>> {
        let path = std::path::absolute(path)?;
        Ok(Lock::acquire(&path)?.map(|lock| Box::new(lock) as Box<dyn Any>))
    }

    #[cfg(target_os = "linux")]
    fn watch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        super::epoll::watch(&self.registry, source, token_of(id), interest)
    }

    #[cfg(target_os = "linux")]
    fn rewatch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        super::epoll::rewatch(&self.registry, source, token_of(id), interest)
    }

    /// On Linux watches are level-triggered: remaining readiness is reported without a system call.
    #[cfg(target_os = "linux")]
    fn rearm(&self, _: WatchId, _: BorrowedFd<'_>, _: Interest) -> io::Result<()> {
        Ok(())
    }

    #[cfg(all(unix, not(target_os = "linux")))]
    fn watch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        SourceFd(&source.as_raw_fd()).register(&self.registry, token_of(id), events(interest))
    }

    /// mio is edge-triggered: registering again raises a new edge for remaining readiness.
    #[cfg(all(unix, not(target_os = "linux")))]
    fn rewatch(&self, id: WatchId, source: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        SourceFd(&source.as_raw_fd()).reregister(&self.registry, token_of(id), events(interest))
    }

    fn forked(&self, is_child: bool) -> io::Result<()> {
        if self.forks.get() == Forks::None {
            self.forks.set(Forks::Forked);
        }
        if is_child && self.has_ring.get() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        #[cfg(target_os = "linux")]
        if is_child {
            let mio::Token(waker) = super::WAKER;
            let epoll = std::os::fd::AsFd::as_fd(&self.registry);
            couplet_os::epoll::renew(epoll, waker as u64)?;
            self.forks.set(Forks::Renewed);
        }
        #[cfg(not(target_os = "linux"))]
        if is_child {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    }

    #[cfg(unix)]
    fn unwatch(&self, source: BorrowedFd<'_>) {
        if let Err(error) = SourceFd(&source.as_raw_fd()).deregister(&self.registry) {
            tracing::debug!(%error, "a watched descriptor was closed elsewhere");
        }
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn events(interest: Interest) -> mio::Interest {
    match interest {
        Interest::Readable => mio::Interest::READABLE,
        Interest::Writable => mio::Interest::WRITABLE,
        Interest::Both => mio::Interest::READABLE | mio::Interest::WRITABLE,
    }
}

/// A bound port: the [`Bound::socket`] of this world.
pub(super) struct Listening {
    /// The file of a UNIX socket, dropped first.
    pub(super) file: Option<SocketFile>,
    pub(super) listener: Listener,
    pub(super) probes: PortProbes,
}

impl Listening {
    fn bound(socket: ListeningSocket) -> io::Result<Bound> {
        let ListeningSocket { file, socket, probes } = socket;
        let host = socket::address(&socket.local_addr()?);
        let listener = Listener::from_socket(socket);
        let query = listener.query_handle();
        Ok(Bound { query, ..Bound::new(host, Listening { listener, file, probes }) })
    }
}

/// A bound socket that does not listen yet.
pub(in crate::driver) fn bind(
    address: SocketAddr,
    options: &ListenOptions,
) -> io::Result<ListeningSocket> {
    let mut probes = PortProbes::default();
    let socket = bind_ip(address, Type::STREAM, options.switches, |socket| {
        // Accepted connections inherit the options, which saves system calls.
        socket.set_tcp_nodelay(options.switches.has(Switch::NoDelay))?;
        if options.keep_alive.is_some() {
            probes.set(&SockRef::from(socket), options.keep_alive)?;
        }
        options.preparation.prepare(socket)
    })?;
    Ok(ListeningSocket { probes, ..ListeningSocket::from(socket) })
}

/// Opens a TCP or UDP socket, lets `set_up` set further options, and binds it.
pub(super) fn bind_ip(
    address: SocketAddr,
    kind: Type,
    switches: Switches,
    mut set_up: impl FnMut(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let mut bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        if address.is_ipv6() {
            let is_dual = switches.has(Switch::DualStack) && address.ip().is_unspecified();
            socket.set_only_v6(!is_dual)?;
        }
        socket.set_reuse_address(switches.has(Switch::ReuseAddr))?;
        #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
        socket.set_reuse_port(switches.has(Switch::ReusePort))?;
        socket.set_nonblocking(true)?;
        set_up(&socket)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    match bind(address) {
        // A kernel without IPv6: a dual-stack wildcard falls back to IPv4.
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            bind(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        bound => bound,
    }
}

pub(in crate::driver) fn listen(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.listen(options.backlog.min(i32::MAX as u32) as i32)
}

/// Begins to connect.
pub(super) fn connect(to: &Address, options: &ConnectOptions) -> io::Result<Stream> {
    let stream = match to {
        Address::Tcp(to) | Address::Udp(to)
            if options.bind.is_none() && options.preparation.is_none() =>
        {
            let stream = mio::net::TcpStream::connect(*to)?.into();
            if options.keep_alive.is_some() {
                probes::set(&SockRef::from(&stream), options.keep_alive)?;
            }
            stream
        }
        Address::Tcp(to) | Address::Udp(to) => connect_from(*to, options)?,
        Address::Unix(name) => return unix::connect(name, options),
        Address::Pipe(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    if options.switches.has(Switch::NoDelay) {
        SockRef::from(&stream).set_tcp_nodelay(true)?;
    }
    Ok(stream)
}

/// Whether the queue of a UNIX port is full: unlike a TCP connect, this one is not in progress.
pub(super) fn is_queue_full(to: &Address, error: &io::Error) -> bool {
    to.unix().is_some() && error.kind() == io::ErrorKind::WouldBlock
}

/// Connects with a socket that is bound or prepared first.
fn connect_from(to: SocketAddr, options: &ConnectOptions) -> io::Result<Stream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if options.keep_alive.is_some() {
        probes::set(&SockRef::from(&socket), options.keep_alive)?;
    }
    options.preparation.prepare(&socket)?;
    if let Some(from) = options.bind {
        let bound = socket.bind(&from.into());
        bound.map_err(|error| ConnectError::local_bind(from.into(), error))?;
    }
    match (socket.connect(&to.into()), options.bind) {
        (Ok(()), _) => {}
        (Err(error), _) if in_progress(&error) => {}
        // A connection between the same two addresses exists.
        (Err(error), Some(from)) if is_taken(&error) => {
            return Err(ConnectError::local_bind(from.into(), error));
        }
        (Err(error), _) => return Err(error),
    }
    Ok(socket.into())
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    if Errno::from_io_error(error) == Some(Errno::INPROGRESS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || has_no_family(error)
}

/// `EAFNOSUPPORT` has no `ErrorKind`.
fn has_no_family(error: &io::Error) -> bool {
    #[cfg(unix)]
    return Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT);
    #[cfg(not(unix))]
    return error.raw_os_error() == Some(10047); // WSAEAFNOSUPPORT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_timeout_is_remembered_for_a_moment_and_no_longer() {
        let poll = mio::Poll::new().expect("a poll descriptor");
        let system = System::new(poll.registry().try_clone().expect("another one"));
        let start = system.now();
        let at = |time: Duration| {
            system.last.set(start + time);
            system.time_until(start + Duration::from_secs(10))
        };
        let ten = Duration::from_secs(10);
        assert_eq!(at(Duration::ZERO), ten);
        assert_eq!(at(NEAR - Duration::from_nanos(1)), ten, "near enough");
        assert_eq!(at(NEAR), ten - NEAR);
        assert_eq!(system.time_until(start + 2 * ten), 2 * ten - NEAR, "it is another one");
    }
}
