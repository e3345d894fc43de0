//! UNIX sockets: connecting them, and ports with their socket file and its lock. Twisted's `unix.Port`.
//!
//! A socket file outlives a process that is killed. The lock (flock(2), which ends with the
//! process) reveals that: a socket file is replaced only if a lock file was left next to it, the
//! lock is free, and a connect is refused. A socket that listens without a lock is left alone.
//!
//! Descriptors travel along with the bytes of a stream, in the control messages of recvmsg(2) and
//! sendmsg(2).
//!
//! Contract: 22d, 60a, 161, 162.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::lock::{Lock, Origin, id, remove};
use super::socket::Stream;
use super::system;
use crate::address::UnixAddress;
use crate::driver::{ConnectOptions, DatagramOptions, ListenOptions, Outbox, PeerCredentials};
use crate::outbox::DESCRIPTORS;
use crate::switches::Switch;

/// Converts a name to the system's form.
pub(super) fn sock_addr(name: &UnixAddress) -> io::Result<SockAddr> {
    let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidInput, text);
    match name {
        UnixAddress::Path(path) if path.as_os_str().as_bytes().contains(&0) => {
            Err(invalid("a path must not contain a NUL"))
        }
        UnixAddress::Path(path) => SockAddr::unix(path),
        UnixAddress::Abstract(_) if !cfg!(target_os = "linux") => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract names"))
        }
        UnixAddress::Abstract(name) => {
            let name: Vec<u8> = std::iter::once(0).chain(name.iter().copied()).collect();
            SockAddr::unix(OsStr::from_bytes(&name))
        }
        UnixAddress::Unnamed => Err(invalid("a UNIX socket needs a path or a name")),
    }
}

/// The bytes of a name in the system's form: a path, or a NUL and an abstract name.
#[cfg(target_os = "linux")]
pub(super) fn bytes_of_name(name: &UnixAddress) -> Vec<u8> {
    match name {
        UnixAddress::Path(path) => path.as_os_str().as_bytes().to_vec(),
        UnixAddress::Abstract(name) => std::iter::once(0).chain(name.iter().copied()).collect(),
        UnixAddress::Unnamed => Vec::new(),
    }
}

/// The name with these bytes in the system's form.
#[cfg(target_os = "linux")]
pub(super) fn name_of_bytes(bytes: &[u8]) -> UnixAddress {
    Path::new(OsStr::from_bytes(bytes)).into()
}

/// Binds a datagram port. If it is unnamed, the system assigns an abstract name.
#[cfg(target_os = "linux")]
pub(super) fn bind_datagrams(
    name: &UnixAddress,
    options: &DatagramOptions,
) -> io::Result<(Socket, Option<SocketFile>)> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    options.preparation.prepare(&socket)?;
    match name {
        UnixAddress::Unnamed => socket.bind(&SockAddr::unix("")?)?,
        UnixAddress::Abstract(_) => socket.bind(&sock_addr(name)?)?,
        UnixAddress::Path(path) => {
            let file =
                SocketFile::bind(&socket, &sock_addr(name)?, path, &options.socket_file_options())?;
            return Ok((socket, Some(file)));
        }
    }
    Ok((socket, None))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn bind_datagrams(
    _: &UnixAddress,
    _: &DatagramOptions,
) -> io::Result<(Socket, Option<SocketFile>)> {
    Err(io::ErrorKind::Unsupported.into())
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Binds and listens. Returns the socket file if the name is a path.
pub(in crate::driver) fn bind(
    name: &UnixAddress,
    options: &ListenOptions,
) -> io::Result<(Socket, Option<SocketFile>)> {
    let address = sock_addr(name)?;
    let socket = socket()?;
    options.preparation.prepare(&socket)?;
    let file = match name.path() {
        None => {
            socket.bind(&address)?;
            None
        }
        Some(path) => Some(SocketFile::bind(&socket, &address, path, options)?),
    };
    // No connect succeeds earlier, so mode and owner apply from the first connection on.
    system::listen(&socket, options)?;
    Ok((socket, file))
}

/// Connects. Succeeds or fails immediately: the queue of the other end may be full
/// ([`WouldBlock`](io::ErrorKind::WouldBlock)).
pub(super) fn connect(name: &UnixAddress, options: &ConnectOptions) -> io::Result<Stream> {
    let address = sock_addr(name)?;
    let socket = socket()?;
    options.preparation.prepare(&socket)?;
    socket.connect(&address)?;
    Ok(socket.into())
}

/// The process at the other end (SO_PEERCRED).
#[cfg(target_os = "linux")]
pub(super) fn peer_credentials(stream: &Stream) -> Option<PeerCredentials> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    let pid = peer.pid.as_raw_nonzero().get().cast_unsigned();
    Some(PeerCredentials { pid, uid: peer.uid.as_raw(), gid: peer.gid.as_raw() })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn peer_credentials(_: &Stream) -> Option<PeerCredentials> {
    None
}

pub(super) type Descriptor = OwnedFd;

/// Maximum descriptors received in one message (SCM_MAX_FD on Linux). The kernel closes the rest.
pub(super) const MOST: usize = 253;

/// Whether the peer of a connection may still send, though it has stopped reading.
pub(super) fn may_receive(stream: &Stream) -> bool {
    #[cfg(target_os = "linux")]
    let ended = PollFlags::HUP | PollFlags::RDHUP;
    #[cfg(not(target_os = "linux"))]
    let ended = PollFlags::HUP;
    let mut polled = [PollFd::new(stream, ended)];
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(0) => true,
        Ok(_) | Err(_) => false,
    }
}

/// Reads bytes, and the descriptors sent with them.
pub(super) fn receive(
    stream: &Stream,
    buffer: &mut [u8],
    descriptors: &mut Vec<Descriptor>,
) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::empty();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    #[cfg(not(target_os = "linux"))]
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(received.bytes)
}

/// Writes as many of the first bytes as may be sent in one message, with the descriptors attached
/// to the first of them. Returns the number of bytes in the message, and the result.
pub(super) fn send(
    stream: &Stream,
    out: &Outbox,
    slices: &[IoSlice<'_>],
) -> (usize, io::Result<usize>) {
    let (descriptors, mut room) = out.attached();
    let mut message = Vec::new();
    for slice in slices {
        let slice = &slice[..slice.len().min(room)];
        room -= slice.len();
        if !slice.is_empty() {
            message.push(IoSlice::new(slice));
        }
    }
    #[cfg(target_os = "linux")]
    let flags = SendFlags::NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    let flags = SendFlags::empty();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "an outbox holds no more");
    }
    let length = message.iter().map(|slice| slice.len()).sum();
    (length, sendmsg(stream, &message, &mut control, flags).map_err(io::Error::from))
}

/// The file of a listening socket, and its lock. Dropping it removes both, unless another socket
/// has taken the path, or another process listens on the socket.
#[derive(Debug)]
pub(in crate::driver) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file.
    id: (u64, u64),
    lock: Option<Lock>,
    /// Whether the files stay: they belong to another process.
    is_kept: bool,
}

impl SocketFile {
    pub(super) fn bind(
        socket: &Socket,
        address: &SockAddr,
        path: &Path,
        options: &ListenOptions,
    ) -> io::Result<SocketFile> {
        // The process may change its directory before it removes the file.
        let path = std::path::absolute(path)?;
        let lock =
            if options.switches.has(Switch::LockFile) { Some(lock_beside(&path)?) } else { None };
        match socket.bind(address) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && lock.as_ref().is_some_and(|lock| lock.origin == Origin::LeftBehind)
                    && is_stale(&path, address) =>
            {
                tracing::info!(path = %path.display(), "replacing the socket of a dead process");
                std::fs::remove_file(&path)?;
                socket.bind(address)?;
            }
            bound => bound?,
        }
        let id = id(&std::fs::symlink_metadata(&path)?);
        let file = SocketFile { path, id, lock, is_kept: false };
        if options.owner.is_some() || options.group.is_some() {
            std::os::unix::fs::lchown(&file.path, options.owner, options.group)?;
        }
        std::fs::set_permissions(&file.path, PermissionsExt::from_mode(options.mode))?;
        Ok(file)
    }

    /// The file of a socket that another process has bound, and its lock; `None` if it was removed. The
    /// drop removes neither.
    pub(in crate::driver) fn shared(
        path: &Path,
        lock: Option<File>,
    ) -> io::Result<Option<SocketFile>> {
        let place = std::path::absolute(path)?;
        let Ok(file) = std::fs::symlink_metadata(&place) else { return Ok(None) };
        let lock = lock.map(|file| Lock::shared(&lock_path(&place), file));
        Ok(Some(SocketFile { path: place, id: id(&file), lock, is_kept: true }))
    }

    /// A duplicate, whose files stay.
    pub(in crate::driver) fn try_clone(&self) -> io::Result<SocketFile> {
        let lock = self.lock_file()?.map(|file| Lock::shared(&lock_path(&self.path), file));
        Ok(SocketFile { path: self.path.clone(), id: self.id, lock, is_kept: true })
    }

    /// A duplicate of the lock's file, which holds the lock too.
    pub(in crate::driver) fn lock_file(&self) -> io::Result<Option<File>> {
        self.lock.as_ref().map(Lock::file).transpose()
    }

    /// Sets whether the files stay when this is dropped.
    pub(in crate::driver) fn keep(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
        if let Some(lock) = &mut self.lock {
            lock.keep(is_kept);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.path, self.id);
        }
    }
}

/// Locks `path.lock`. [`AddrInUse`](io::ErrorKind::AddrInUse) if the lock is held.
fn lock_beside(path: &Path) -> io::Result<Lock> {
    Lock::acquire(&lock_path(path))?.ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Whether the path is a socket file without a listener.
fn is_stale(path: &Path, address: &SockAddr) -> bool {
    let is_socket = |file: std::fs::Metadata| file.file_type().is_socket();
    let refuses = || {
        let error = socket().and_then(|socket| socket.connect(address)).err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    std::fs::symlink_metadata(path).is_ok_and(is_socket) && refuses()
}
