//! The driver's sockets: streams and listeners of every family. A stream is a descriptor, read and
//! written alike in every family; a listener accepts by the calls of its family.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
#[cfg(unix)]
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{SockAddr, SockRef};

use crate::address::{Address, UnixAddress};
use crate::driver::LocalSocket;

#[cfg(unix)]
use couplet_os::owned::Owner as OwnedSocket;
/// On Windows mio keeps state along with the socket.
#[cfg(not(unix))]
type OwnedSocket = std::rc::Rc<mio::net::TcpStream>;

/// Refers to a stream until the driver closes it.
#[cfg(unix)]
pub(in crate::driver) use couplet_os::owned::Handle;
#[cfg(not(unix))]
pub(in crate::driver) type Handle = std::rc::Weak<mio::net::TcpStream>;

/// A stream socket.
pub(super) struct Stream(OwnedSocket);

impl Stream {
    /// A handle for querying addresses and options, which does not keep the socket open.
    pub(super) fn query_handle(&self) -> LocalSocket {
        #[cfg(unix)]
        return LocalSocket(self.0.handle());
        #[cfg(not(unix))]
        return LocalSocket(std::rc::Rc::downgrade(&self.0));
    }

    /// Names the socket to a ring.
    #[cfg(all(target_os = "linux", feature = "uring"))]
    pub(super) fn handle(&self) -> Handle {
        self.0.handle()
    }

    /// The addresses of the peer and of this end.
    pub(super) fn addresses(&self) -> io::Result<(Address, Address)> {
        let socket = SockRef::from(self);
        Ok((address(&socket.peer_addr()?), address(&socket.local_addr()?)))
    }

    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        SockRef::from(self).take_error()
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        SockRef::from(self).shutdown(how)
    }

    /// Requests writable events too. On Windows they are requested from the start.
    pub(super) fn request_writable_events(
        &self,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        #[cfg(unix)]
        return SourceFd(&raw_fd(self)).reregister(registry, token, BOTH);
        #[cfg(not(unix))]
        {
            let _ = (registry, token);
            Ok(())
        }
    }

    /// As [`deregister`]. On Windows dropping the socket deregisters it.
    pub(super) fn leave(&self, registry: &Registry) {
        #[cfg(unix)]
        deregister(&mut SourceFd(&raw_fd(self)), registry);
        #[cfg(not(unix))]
        let _ = registry;
    }
}

impl From<socket2::Socket> for Stream {
    fn from(socket: socket2::Socket) -> Stream {
        #[cfg(unix)]
        return Stream(std::os::fd::OwnedFd::from(socket).into());
        #[cfg(not(unix))]
        return Stream(mio::net::TcpStream::from_std(socket.into()).into());
    }
}

impl From<mio::net::TcpStream> for Stream {
    fn from(stream: mio::net::TcpStream) -> Stream {
        #[cfg(unix)]
        return Stream(std::os::fd::OwnedFd::from(stream).into());
        #[cfg(not(unix))]
        return Stream(stream.into());
    }
}

impl TryFrom<Stream> for socket2::Socket {
    type Error = io::Error;

    /// Fails while the socket is being queried.
    fn try_from(stream: Stream) -> io::Result<socket2::Socket> {
        let in_use = |_| io::Error::from(io::ErrorKind::ResourceBusy);
        #[cfg(unix)]
        return Ok(std::os::fd::OwnedFd::try_from(stream.0).map_err(in_use)?.into());
        #[cfg(not(unix))]
        return Ok(
            std::net::TcpStream::from(std::rc::Rc::try_unwrap(stream.0).map_err(in_use)?).into()
        );
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Stream {
    #[inline(always)]
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Stream {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.0.as_socket()
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        return Ok(rustix::io::read(&self.0, buffer)?);
        #[cfg(not(unix))]
        return (&*self.0).read(buffer);
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(unix)]
        return SockRef::from(*self).send(bytes);
        #[cfg(not(unix))]
        return (&*self.0).write(bytes);
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        #[cfg(unix)]
        return SockRef::from(*self).send_vectored(slices);
        #[cfg(not(unix))]
        return (&*self.0).write_vectored(slices);
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Interest of a socket that must report writability.
pub(super) const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Initial interest of a connection. A UNIX socket reports writability whenever its peer has read,
/// even if it was never full, so writable events are requested only once it is full.
pub(super) fn interest(is_local: bool) -> Interest {
    if is_local { Interest::READABLE } else { BOTH }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, what: Interest) -> io::Result<()> {
        #[cfg(unix)]
        return SourceFd(&raw_fd(self)).register(registry, token, what);
        #[cfg(not(unix))]
        return exclusive_socket(&mut self.0)?.register(registry, token, what);
    }

    fn reregister(&mut self, registry: &Registry, token: Token, what: Interest) -> io::Result<()> {
        #[cfg(unix)]
        return SourceFd(&raw_fd(self)).reregister(registry, token, what);
        #[cfg(not(unix))]
        return exclusive_socket(&mut self.0)?.reregister(registry, token, what);
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        #[cfg(unix)]
        return SourceFd(&raw_fd(self)).deregister(registry);
        #[cfg(not(unix))]
        return exclusive_socket(&mut self.0)?.deregister(registry);
    }
}

/// The socket, before any handle to it exists.
#[cfg(not(unix))]
fn exclusive_socket(socket: &mut OwnedSocket) -> io::Result<&mut mio::net::TcpStream> {
    std::rc::Rc::get_mut(socket).ok_or(io::ErrorKind::ResourceBusy.into())
}

#[cfg(unix)]
fn raw_fd(stream: &Stream) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&stream.0))
}

/// A listening socket; `None` if another loop accepts for this one.
pub(super) struct Listener(Option<ListenerSocket>);

#[cfg(unix)]
type ListenerSocket = Stream;
#[cfg(not(unix))]
type ListenerSocket = mio::net::TcpListener;

impl Listener {
    /// Another loop accepts for this one.
    pub(super) const FED: Listener = Listener(None);

    /// Serves a socket that listens.
    pub(super) fn from_socket(socket: socket2::Socket) -> Listener {
        #[cfg(unix)]
        return Listener(Some(socket.into()));
        #[cfg(not(unix))]
        return Listener(Some(mio::net::TcpListener::from_std(socket.into())));
    }

    /// The socket, for options.
    pub(super) fn socket(&self) -> Option<SockRef<'_>> {
        self.0.as_ref().map(SockRef::from)
    }

    /// A handle for querying options, which does not keep the socket open; on Unix.
    pub(super) fn query_handle(&self) -> Option<LocalSocket> {
        #[cfg(unix)]
        return self.0.as_ref().map(Stream::query_handle);
        #[cfg(not(unix))]
        return None;
    }

    #[cfg(unix)]
    pub(super) fn duplicate(&self) -> io::Result<socket2::Socket> {
        self.socket().ok_or(io::ErrorKind::Unsupported)?.try_clone()
    }

    /// The next connection, and the address of its peer.
    pub(super) fn accept(&self) -> io::Result<(Stream, Address)> {
        let listener = self.0.as_ref().ok_or(io::ErrorKind::WouldBlock)?;
        #[cfg(not(unix))]
        return listener.accept().map(|(stream, peer)| (stream.into(), peer.into()));
        #[cfg(unix)]
        {
            let (stream, peer) = accept(&SockRef::from(listener))?;
            Ok((stream.into(), address(&peer)))
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.0 {
            Some(listener) => registry.register(listener, token, Interest::READABLE),
            None => Ok(()),
        }
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        if let Some(listener) = &mut self.0 {
            deregister(listener, registry);
        }
    }
}

/// Accepts a connection that does not block.
#[cfg(target_os = "linux")]
fn accept(listener: &socket2::Socket) -> io::Result<(socket2::Socket, SockAddr)> {
    let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
    listener.accept4(flags.bits() as i32)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn accept(listener: &socket2::Socket) -> io::Result<(socket2::Socket, SockAddr)> {
    let (socket, peer) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket, peer))
}

/// Deregisters a socket. Needed before closing it if another descriptor may keep the socket open:
/// epoll would keep the registration, and refuse to register the socket again under the same
/// number.
pub(super) fn deregister(socket: &mut impl Source, registry: &Registry) {
    if let Err(error) = registry.deregister(socket) {
        tracing::debug!(%error, "a socket was closed elsewhere");
    }
}

/// The address of a socket of any stream family.
pub(in crate::driver) fn address(address: &SockAddr) -> Address {
    if let Some(address) = address.as_socket() {
        return address.into();
    }
    #[cfg(unix)]
    if let Some(path) = address.as_pathname() {
        return UnixAddress::from(path).into();
    } else if let Some(name) = address.as_abstract_namespace() {
        return UnixAddress::Abstract(name.into()).into();
    }
    UnixAddress::Unnamed.into()
}
